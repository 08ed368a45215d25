//! The lake: changes into Iceberg tables, rows and position in one commit.
//!
//! Knows Iceberg and Parquet; knows nothing of Kafka's client, of Debezium, or of other sinks.
//!
//! # Layout
//! - [`TableSpec`]: what a person chose for a table. [`LakeTable`]: one table of one process: checkpoint, commits; `agree`: its
//!   columns. [`Shared`]: what the tables of a process share.
//! - [`Stager`] turns a worker's changes into [`Staged`] files: `conform` (columns into the table's shape), `split` (partitions),
//!   `sorted_file`, `parquet_file` (encode and upload), `row_ids` (format v3: written last), `metrics` (what a manifest says), `keys` and `overlay` (upsert: the last
//!   change of a key wins).
//! - `schema`: columns to Iceberg and back. `evolution`: what records with other columns ask of the table, and its history.
//! - `planner` works out on each fresh base what a batch does; `resume` reads where a table stands.
//! - Upserts: [`index`] (key to row), `scan` (fills it from files), `deletes` (position deletes and deletion vectors), `live` (the
//!   files of the table as last seen), `cut` (rows that go by a TRUNCATE or a sweep), `upsert` (all of it together).
//! - `held`: rows that lack values the source did not send, held back and made whole at the commit.
//! - `sweep`: on demand, takes out what a snapshot of the source did not find again.
//! - `rewind`: sets the table back, or over what Kafka's log has lost, in a snapshot of its own.
//! - `adopt`: gives another writer's table its position.
//! - [`letters`]: records that could not become rows, and their replay.

pub mod index;
pub mod letters;

mod adopt;
mod agree;
mod conform;
mod cut;
mod deletes;
mod error;
mod evolution;
mod held;
mod keys;
mod layout;
mod live;
mod metrics;
mod overlay;
mod ownership;
mod parquet_file;
mod planner;
mod resume;
mod rewind;
mod row_ids;
mod row_key;
mod scan;
mod schema;
mod shared;
mod sorted_file;
mod spec;
mod split;
mod staged;
mod stager;
mod sweep;
mod table;
mod upsert;

pub use adopt::{AdoptError, LookedAt};
pub use cut::Sweep;
pub use error::{CommitFailure, LakeError};
pub use evolution::{AskingRecord, COLUMNS, ColumnChange, SCHEMA_HISTORY, SchemaChange, schema_history};
pub use held::Unavailable;
pub use layout::TableColumns;
pub use resume::{CHECKPOINT, GENERATION, LAST_SNAPSHOT_ID, MODE};
pub use rewind::{
    CatchUp, How, LOST_RANGES, LostRange, REPLAYING, REWIND, Removal, Replaying, Rewind, RewindError, Rewound,
    lost_ranges, standing_or_stored, taken_with,
};
pub use row_key::{KEY, key_columns};
pub use shared::Shared;
pub use spec::TableSpec;
pub use staged::Staged;
pub(crate) use staged::StagedFile;
pub use stager::Stager;
pub use sweep::Ghosts;
pub use table::{Committed, IndexState, LakeTable};
pub use upsert::IndexReport;
