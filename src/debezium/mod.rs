//! Debezium's messages become rows of a table: JSON or Avro bytes in, Arrow columns out. Debezium's names stop here.
//!
//! Values go from the message's bytes straight into columns of the *table's* types, in one pass and without a tree between. A record
//! that cannot become a row takes back nothing but itself.
//!
//! # Layout
//! - [`decoder`]: the only way in.
//! - `cursor`: JSON. `avro`: Avro. `envelope`, `source`: the envelope around a row. `flat`: rows without one. `blocks`, `connect`: schema blocks. `key`: record keys.
//! - `images`: from images and key to a row. `unavailable`: what stands for values that were not sent.
//! - `table_event`: what concerns a whole table.
//! - `plan`: which field goes where. `fitted`: the plan of a writer's records, older ones too. `described`, `postgres`: types from the
//!   source database. `infer`: types where nothing else tells them. `ask`: what the table lacks. `reader`, `object`, `value`: how it gets
//!   there. `columns`, `rows`: where it ends.
//! - [`encode`]: rows back into records.
//! - [`signalling`]: how a connector is told to read rows anew, and what it says of that.
//! - `time`, `decimal`: conversions. `fault`: why a record was rejected.
//!
//! Must not know: Kafka's client, Iceberg, the configuration file.

mod ask;
mod avro;
mod blocks;
mod columns;
mod connect;
mod cursor;
mod decimal;
pub mod decoder;
mod described;
pub mod encode;
mod envelope;
mod fault;
mod fitted;
mod flat;
mod images;
mod infer;
mod key;
mod object;
mod plan;
pub mod postgres;
mod reader;
mod rows;
pub mod signalling;
mod source;
mod table_event;
mod time;
mod unavailable;
mod value;

pub use avro::{Registered, schema_id, value_schema_id};
pub use decoder::{DecodeOptions, Decoder, Pushed};
pub use described::{SourceColumn, SourceTypes};
pub use encode::{Encoded, Encoder, Sample, Stamp};
pub use envelope::Skip;
pub use fault::{Reject, reason};
pub use flat::Format;
pub use reader::Wire;
pub use time::Unit;

#[cfg(test)]
mod tests;
