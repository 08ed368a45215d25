//! Iceberg catalogs that commit a row delta by compare-and-set.
//!
//! Knows Iceberg; knows nothing of Kafka, Debezium or where rows come from.
//!
//! # Layout
//! - [`Catalog`]: the trait; [`hms`], [`sql`], [`rest`], [`memory`] implement it and pass one conformance suite.
//! - [`storage`]: `object_store` behind Iceberg's storage trait: S3, local files, memory; faults wrap it in tests.
//! - [`RowDelta`]: what one commit does to a table; [`commit()`] lands it exactly once.
//! - [`failpoint`]: where a process can be made to fail on command, in debug builds.
//! - [`live`]: which files a snapshot holds.
//! - [`maintain`]: what keeps a table small: snapshots and files that go.

mod catalog;
mod cleanup;
pub mod commit;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod delta;
mod error;
pub mod failpoint;
pub mod hms;
pub mod live;
pub mod maintain;
mod manifests;
pub mod memory;
mod metadata;
pub mod rest;
pub mod sql;
mod stage;
pub mod storage;
pub mod surroundings;
#[cfg(any(test, feature = "conformance"))]
mod testing;

pub use catalog::Catalog;
pub use cleanup::Cleanup;
pub use commit::{Attempt, CommitError, Committed, Patience, Plan, Planner, Retention, commit, new_snapshot_id};
pub use delta::{FileKey, RewrittenFile, RowDelta, SpecFile};
pub use error::{Error, ErrorKind, Result};
pub use manifests::ManifestCache;
