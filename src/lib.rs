//! firn brings database changes from Kafka into Apache Iceberg, exactly once.
//!
//! # Layout
//! - [`position`], [`record`], [`change`], [`lineage`], [`batch`], [`letter`], [`table_event`], [`memory`]: the words. Pure types, no clients.
//! - [`config`]: what a person sets. [`cli`]: what a person types. [`serve`], [`logging`]: what a running process shows.
//! - [`catalogs`]: from the configuration to a catalog. [`registry`]: schemas by id. [`database`]: columns by the source database.
//!   [`connect`]: Kafka Connect's connectors.
//! - [`outbox`]: from a table to a topic. [`maintain`]: tables that a streaming writer filled are kept fast.
//! - [`heap`], [`open_files`]: what is asked of the system.

pub mod batch;
pub mod change;
pub mod letter;
pub mod lineage;
pub mod memory;
pub mod position;
pub mod record;
pub mod table_event;

pub mod catalogs;
pub mod cli;
pub mod config;
pub mod connect;
pub mod database;
pub mod debezium;
#[cfg(feature = "demo")]
pub mod demo;
pub mod generate;
pub mod heap;
pub mod logging;
pub mod maintain;
pub mod open_files;
pub mod outbox;
pub mod pipeline;
pub mod registry;
pub mod serve;
pub mod sink;
pub mod source;
pub mod transform;
