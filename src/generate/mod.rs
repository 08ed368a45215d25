//! A source database that isn't there: changes as Debezium would send them, from a seed.
//!
//! The same options give the same bytes. The generator keeps its own [`Model`] of the truth (per table: key -> row), so that
//! a lake fed with the records can be compared row by row with what must be in it. It writes Debezium's JSON and must know
//! nothing of how firn reads it: only so is it a witness. Only [`produce`] knows a Kafka client.
//!
//! - [`schema`]: the tables and their columns; [`content`]: what stands in a row
//! - [`plan`]: which change comes next; [`model`]: the truth so far
//! - [`envelope`]: a change as Debezium's JSON; [`partition`]: where Kafka's producer puts it
//! - [`Generator`]: all of it together; [`produce`]: to a real Kafka

pub mod content;
pub mod envelope;
pub mod json;
pub mod model;
pub mod partition;
pub mod plan;
pub mod produce;
pub mod random;
pub mod schema;

mod generator;
#[cfg(test)]
mod tests;

pub use content::Cell;
pub use generator::{GeneratedRecord, Generator, GeneratorOptions, RecordRef};
pub use model::{Model, Row};
pub use plan::{Keys, Mix};
pub use schema::{SchemaName, Table};
