//! What keeps a table small once rows are in it: snapshots that are let go, and files that nobody reaches.
//!
//! Knows Iceberg's rules of retention; what a writer needs beyond them it is told.
//!
//! # Layout
//! - [`retention`]: which snapshots and references go. Pure.
//! - [`expire`]: lets them go by a commit, then deletes what only they reached.
//! - [`manifests`]: many small ones become few.
//! - `reach`: what that is.
//! - [`orphans`]: removes files that the table doesn't know.

pub mod expire;
#[cfg(test)]
mod ground;
pub mod manifests;
pub mod orphans;
mod reach;
pub mod retention;

use iceberg::spec::{SnapshotRef, TableMetadata};

pub use reach::Removed;

/// In a snapshot's summary: the file that says where the rows went that its commit rewrote. It goes with the snapshot.
pub const REMAP: &str = "firn.remap";

/// The files that belong to the snapshot itself, beside what its manifests name.
pub(crate) fn own_files(metadata: &TableMetadata, snapshot: &SnapshotRef) -> Vec<String> {
    let id = snapshot.snapshot_id();
    let statistics = metadata.statistics_for_snapshot(id).map(|s| s.statistics_path.clone());
    let of_partitions = metadata.partition_statistics_for_snapshot(id).map(|s| s.statistics_path.clone());
    let remap = snapshot.summary().additional_properties.get(REMAP).cloned();
    statistics.into_iter().chain(of_partitions).chain(remap).collect()
}

/// Whether the files may belong to another table too: then nothing of it is deleted.
pub fn is_shared(metadata: &TableMetadata) -> bool {
    metadata.properties().get("gc.enabled").is_some_and(|enabled| enabled.eq_ignore_ascii_case("false"))
}
