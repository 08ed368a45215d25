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
//!   files of the table as last seen), `remap` and `moves` (where a rewrite put rows), `cut` (rows that go by a TRUNCATE or a sweep), `upsert` (all of it together).
//! - `stored`: rows of data files, whoever wrote them and under whichever of the table's schemas.
//! - `held`: rows that lack values the source did not send, held back and made whole at the commit.
//! - `size`: how large a table is, by its metadata.
//! - `sweep`: on demand, takes out what a snapshot of the source did not find again.
//! - `rewind`: sets the table back, or over what Kafka's log has lost, in a snapshot of its own.
//! - `adopt`: gives another writer's table its position.
//! - [`letters`]: records that could not become rows, and their replay.
//! - [`output`]: a table as the sink of a pipeline: gathers what a SELECT made, and commits it by all of the above.

pub mod index;
pub mod letters;
pub mod output;

mod adopt;
mod agree;
pub(crate) mod conform;
mod cut;
pub(crate) mod deletes;
mod error;
mod evolution;
mod held;
pub(crate) mod keys;
pub(crate) mod layout;
pub(crate) mod live;
mod metrics;
pub(crate) mod moves;
mod overlay;
mod ownership;
pub(crate) mod parquet_file;
mod planner;
pub(crate) mod remap;
pub(crate) mod resume;
mod rewind;
pub(crate) mod row_ids;
mod row_key;
pub(crate) mod scan;
mod schema;
mod shared;
mod size;
pub(crate) mod sorted_file;
mod spec;
pub(crate) mod split;
mod staged;
mod stager;
pub(crate) mod stored;
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
pub use size::{Growth, Size};
pub use spec::TableSpec;
pub use staged::Staged;
pub(crate) use staged::StagedFile;
pub use stager::Stager;
pub use sweep::Ghosts;
pub use table::{Committed, IndexState, LakeTable};
pub use upsert::IndexReport;
