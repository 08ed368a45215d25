//! Avro in a registry's wire format: byte 0, the writer schema's id, the datum. Straight into the columns that JSON fills.
//!
//! A writer schema is read once: into the shape of its data (`schema`) and into Connect's words (`fields`), which go through the rules
//! that JSON's schema blocks go through. From both comes a plan for the table that is set (`plan`); a record then is one walk over
//! its bytes without a lookup (`envelope`, `value`). What nothing takes is stepped over (`schema`).
//!
//! # Layout
//! - `cursor`: Avro's binary encoding, with a bound on everything.
//! - `schema`, `fields`: writer schemas. `writers`: those that are known, by id.
//! - `plan`, `value`, `text`: from a datum into columns. `envelope`: around a row. `decode`: what the decoder does with it.
//!
//! Must not know: how a registry is asked. The decoder names the id it needs, somebody else answers.

mod cursor;
mod decode;
mod envelope;
mod fields;
mod plan;
mod schema;
mod text;
mod value;
mod writers;

pub(super) use decode::{AvroKey, KeyPlans, ValuePlans};
pub use writers::{Registered, schema_id, value_schema_id};
pub(super) use writers::{Writers, is_avro};
