//! Keeps tables fast: what a streaming writer leaves behind is put in order.
//!
//! Knows Iceberg and how the lake reads and writes files; knows nothing of Kafka or of other sinks. Whatever it does to a table is a commit
//! that takes place beside the writer's.
//!
//! # Layout
//! - [`budget`]: what it may take of the machine.
//! - [`compact`]: small files into large ones, deletes applied.
//! - [`expire`]: snapshots go.
//! - [`health`]: what readers of a table pay, and what to do.
//! - [`policy`]: when which table is due. Pure.
//! - [`orphans`]: files that the table doesn't know go.
//! - [`trino`]: Trino does the work.

pub mod budget;
pub mod compact;
pub mod expire;
pub mod health;
pub mod orphans;
pub mod policy;
pub mod trino;

use iceberg::table::Table;

use crate::config::Config;
use crate::pipeline::configured;

/// Snapshots that are younger are never let go.
pub fn horizon_ms(config: &Config, table: &Table) -> u64 {
    configured(config, table).map_or(config.lake.rewind_horizon_ms, |c| c.rewind_horizon_ms)
}
