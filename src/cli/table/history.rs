//! `firn table history`

use std::collections::HashSet;

use iceberg::spec::TableMetadata;
use iceberg::table::Table;
use serde::Serialize;

use super::super::print::Grid;
use super::super::{Failure, Output};
use super::utc;
use crate::position::Checkpoint;
use crate::sink::lake::{CHECKPOINT, REWIND};

#[derive(Debug, Serialize)]
struct Past {
    snapshot_id: i64,
    parent_id: Option<i64>,
    at_ms: i64,
    operation: String,
    /// The columns that its rows were written under: `firn table show` tells what changed with each.
    schema_id: Option<i32>,
    /// Whether firn made it.
    firn: bool,
    /// What it was, where it is a rewind.
    rewind: Option<serde_json::Value>,
    /// Whether the current table descends from it; not so after a rollback.
    ancestor: bool,
    added_rows: u64,
    added_deletes: u64,
    added_files: u64,
    removed_files: u64,
    /// The checkpoint that came with it.
    checkpoint: Option<Checkpoint>,
}

pub(super) fn run(table: &Table, limit: usize, output: Output) -> Result<(), Failure> {
    let past = past(table.metadata(), limit);
    let mut grid =
        Grid::new(["at", "snapshot", "operation", "by", "schema", "rows", "deletes", "files", "removed", "state"]);
    for s in &past {
        let current = table.metadata().current_snapshot_id() == Some(s.snapshot_id);
        let state = match (current, s.ancestor) {
            (true, _) => "current",
            (false, true) => "",
            (false, false) => "rolled back or on a branch",
        };
        grid.row([
            utc(s.at_ms),
            s.snapshot_id.to_string(),
            s.operation.clone(),
            match (s.firn, &s.rewind) {
                (_, Some(_)) => "firn rewind",
                (true, None) => "firn",
                (false, None) => "other",
            }
            .to_owned(),
            s.schema_id.map_or_else(String::new, |id| id.to_string()),
            s.added_rows.to_string(),
            s.added_deletes.to_string(),
            s.added_files.to_string(),
            s.removed_files.to_string(),
            state.to_owned(),
        ]);
    }
    grid.print(output, &past)
}

fn past(metadata: &TableMetadata, limit: usize) -> Vec<Past> {
    let mut ancestors = HashSet::new();
    let mut at = metadata.current_snapshot_id();
    // Each step takes an id that was not seen before, so the walk ends.
    while let Some(id) = at.filter(|id| ancestors.insert(*id)) {
        at = metadata.snapshot_by_id(id).and_then(|s| s.parent_snapshot_id());
    }
    let mut snapshots: Vec<_> = metadata.snapshots().collect();
    snapshots.sort_by_key(|s| std::cmp::Reverse((s.sequence_number(), s.timestamp_ms())));
    snapshots
        .into_iter()
        .take(limit)
        .map(|s| {
            let summary = &s.summary().additional_properties;
            let number = |name: &str| summary.get(name).and_then(|v| v.parse::<u64>().ok()).unwrap_or(0);
            Past {
                snapshot_id: s.snapshot_id(),
                parent_id: s.parent_snapshot_id(),
                at_ms: s.timestamp_ms(),
                operation: s.summary().operation.as_str().to_owned(),
                schema_id: s.schema_id(),
                firn: summary.contains_key(CHECKPOINT),
                rewind: summary.get(REWIND).and_then(|json| serde_json::from_str(json).ok()),
                ancestor: ancestors.contains(&s.snapshot_id()),
                added_rows: number("added-records"),
                added_deletes: number("added-position-deletes"),
                added_files: number("added-data-files") + number("added-delete-files"),
                removed_files: number("deleted-data-files") + number("removed-delete-files"),
                checkpoint: summary.get(CHECKPOINT).and_then(|json| Checkpoint::from_json(json).ok()),
            }
        })
        .collect()
}
