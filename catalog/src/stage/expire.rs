//! Which snapshots the commit lets go. Pure.

use std::collections::{HashMap, HashSet};

use iceberg::TableUpdate;
use iceberg::spec::{MAIN_BRANCH, SnapshotRef, SnapshotReference, TableMetadata};
use serde::Deserialize;

use crate::commit::Plan;
use crate::maintain::is_shared;
use crate::{Error, ErrorKind, Result};

/// The new snapshot and its parent always stay: a reader of the parent must not lose its ground.
const LEAST_KEPT: usize = 2;

/// Snapshots of main that go, newest first, and the one that follows them.
#[derive(Clone, Debug)]
pub(crate) struct Expiry {
    pub expired: Vec<SnapshotRef>,
    /// The oldest of main's chain that stays: the child of the newest that the bound lets go.
    pub oldest_kept: SnapshotRef,
}

impl Expiry {
    /// `metadata` is the table with the new snapshot as main's head. The oldest that stays is one whose summary has what the `plan`'s
    /// says, so that a table rolled back as far as it goes still tells where its planner stood: other writers' snapshots before it may
    /// stay beyond the bound. Never takes what a tag or another branch holds, and nothing at all with `gc.enabled=false` (files may be
    /// shared with another table).
    pub fn of(metadata: &TableMetadata, plan: &Plan) -> Result<Option<Self>> {
        let max_snapshots = plan.retention.max_snapshots.max(LEAST_KEPT);
        if metadata.snapshots().len() <= max_snapshots || is_shared(metadata) {
            return Ok(None);
        }
        let chain = chain(metadata, metadata.current_snapshot());
        let tells = |s: &SnapshotRef| {
            plan.summary.is_empty() || plan.summary.keys().any(|k| s.summary().additional_properties.contains_key(k))
        };
        let horizon =
            chain.first().map_or(i64::MIN, |s| s.timestamp_ms().saturating_sub_unsigned(plan.retention.horizon_ms));
        let young = chain.iter().take_while(|s| s.timestamp_ms() > horizon).count();
        let Some(oldest) = (max_snapshots.max(young) - 1..chain.len()).find(|n| tells(&chain[*n])) else {
            return Ok(None);
        };
        let (kept, beyond) = chain.split_at(oldest + 1);
        let Some(oldest_kept) = kept.last().filter(|_| !beyond.is_empty()) else { return Ok(None) };
        let held = held(metadata)?;
        let expired: Vec<_> = beyond.iter().filter(|s| !held.contains(&s.snapshot_id())).cloned().collect();
        Ok((!expired.is_empty()).then(|| Self { expired, oldest_kept: oldest_kept.clone() }))
    }

    pub fn updates(&self, metadata: &TableMetadata) -> Vec<TableUpdate> {
        without_snapshots(metadata, self.expired.iter().map(|s| s.snapshot_id()).collect())
    }
}

/// What takes these snapshots, and their statistics, out of the table's metadata.
pub(crate) fn without_snapshots(metadata: &TableMetadata, snapshot_ids: Vec<i64>) -> Vec<TableUpdate> {
    let mut updates = Vec::new();
    for &snapshot_id in &snapshot_ids {
        if metadata.statistics_for_snapshot(snapshot_id).is_some() {
            updates.push(TableUpdate::RemoveStatistics { snapshot_id });
        }
        if metadata.partition_statistics_for_snapshot(snapshot_id).is_some() {
            updates.push(TableUpdate::RemovePartitionStatistics { snapshot_id });
        }
    }
    if !snapshot_ids.is_empty() {
        updates.push(TableUpdate::RemoveSnapshots { snapshot_ids });
    }
    updates
}

/// `head` and its ancestors, newest first, as far as they are there.
pub(crate) fn chain(metadata: &TableMetadata, head: Option<&SnapshotRef>) -> Vec<SnapshotRef> {
    let mut chain: Vec<SnapshotRef> = Vec::new();
    let mut next = head;
    while let Some(snapshot) = next.filter(|_| chain.len() <= metadata.snapshots().len()) {
        chain.push(snapshot.clone());
        next = snapshot.parent_snapshot_id().and_then(|id| metadata.snapshot_by_id(id));
    }
    chain
}

/// What tags and branches other than main hold: the tagged snapshots; the branches' heads with all their ancestors.
fn held(metadata: &TableMetadata) -> Result<HashSet<i64>> {
    let mut held = HashSet::new();
    for (name, reference) in references(metadata)? {
        if name == MAIN_BRANCH {
            continue;
        }
        held.insert(reference.snapshot_id);
        if reference.is_branch() {
            let head = metadata.snapshot_by_id(reference.snapshot_id);
            held.extend(chain(metadata, head).iter().map(|s| s.snapshot_id()));
        }
    }
    Ok(held)
}

/// `TableMetadata` doesn't show its references but in its JSON.
pub(crate) fn references(metadata: &TableMetadata) -> Result<HashMap<String, SnapshotReference>> {
    #[derive(Deserialize)]
    struct OnlyReferences {
        #[serde(default)]
        refs: HashMap<String, SnapshotReference>,
    }
    let read = serde_json::to_vec(metadata).and_then(|json| serde_json::from_slice::<OnlyReferences>(&json));
    let read =
        read.map_err(|e| Error::new(ErrorKind::Invalid, "the table's references can't be read").with_source(e))?;
    Ok(read.refs)
}
