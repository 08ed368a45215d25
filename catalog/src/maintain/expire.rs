//! Lets snapshots go, then deletes what only they reached.
//!
//! The commit comes first and is one like the writer's: by compare-and-set, on a fresh base each time. Killed after it, the process leaves
//! files that no snapshot names: the removal of orphans takes them.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use async_trait::async_trait;
use iceberg::spec::{SnapshotRef, TableMetadata};
use iceberg::table::Table;
use iceberg::{TableIdent, TableRequirement, TableUpdate};

use super::reach::{self, Mode, Removed};
use super::retention::{Expiring, Rules};
use crate::manifests::ManifestCache;
use crate::stage::references;
use crate::{
    Attempt, Catalog, CommitError, Error, Patience, Plan, Planner, Result, commit, new_snapshot_id, surroundings,
};

/// Parsed manifests kept while files are looked for: those of the snapshots that go are read twice.
const CACHE_BYTES: u64 = 64 << 20;

/// What went, or would go.
#[derive(Clone, Debug, Default)]
pub struct Expired {
    /// Oldest first.
    pub snapshots: Vec<SnapshotRef>,
    pub references: Vec<String>,
    /// Snapshots that are left.
    pub kept: usize,
    pub removed: Removed,
}

#[derive(Debug, thiserror::Error)]
pub enum ExpireError {
    /// No snapshot went.
    #[error(transparent)]
    Catalog(#[from] Error),
    /// They went, but not all of their files.
    #[error("{snapshots} snapshots are expired, but files of theirs were left to the removal of orphans: {cause}")]
    Left { snapshots: usize, cause: Error },
}

/// What [`expire`] would do to the table as it is.
///
/// # Errors
/// As [`Rules::expiring`]; the storage's.
pub async fn preview(table: &Table, rules: &Rules<'_>) -> Result<Expired> {
    let expiring = rules.expiring(table.metadata(), surroundings::now_ms())?;
    let gone: HashSet<i64> = expiring.snapshots.iter().map(|s| s.snapshot_id()).collect();
    let kept: Vec<SnapshotRef> =
        table.metadata().snapshots().filter(|s| !gone.contains(&s.snapshot_id())).cloned().collect();
    let cache = ManifestCache::new(CACHE_BYTES);
    let removed = reach::remove(table, &expiring.snapshots, &kept, &cache, Mode::Count).await?;
    Ok(Expired { snapshots: expiring.snapshots, references: expiring.references, kept: kept.len(), removed })
}

/// Lets go what the rules say, and deletes what only that reached.
///
/// # Errors
/// See [`ExpireError`].
pub async fn expire(
    catalog: &dyn Catalog,
    table: &TableIdent,
    rules: &Rules<'_>,
    patience: Patience,
) -> Result<Expired, ExpireError> {
    let mut expiry = Expiry { rules, planned: BTreeMap::new(), references: BTreeSet::new(), base: None };
    let committed = commit(catalog, table, new_snapshot_id(), &mut expiry, patience).await.map_err(Error::from)?;
    let after = committed.table.metadata();
    let mut snapshots: Vec<SnapshotRef> =
        expiry.planned.into_values().filter(|s| after.snapshot_by_id(s.snapshot_id()).is_none()).collect();
    snapshots.sort_by_key(|s| s.sequence_number());
    let kept: Vec<SnapshotRef> = after.snapshots().cloned().collect();
    let before = expiry.base.unwrap_or_else(|| committed.table.clone());
    let left = |cause: Error| ExpireError::Left { snapshots: snapshots.len(), cause };
    let cache = ManifestCache::new(CACHE_BYTES);
    let removed = reach::remove(&before, &snapshots, &kept, &cache, Mode::Delete).await.map_err(left)?;
    committed.cleanup.run().await.map_err(left)?;
    let references = references(after)?;
    let gone = expiry.references.into_iter().filter(|name| !references.contains_key(name)).collect();
    Ok(Expired { snapshots, references: gone, kept: kept.len(), removed })
}

/// Plans the commit. An attempt whose answer was lost may have landed: all that was ever planned is remembered, and what the table has no
/// more in the end is what went.
struct Expiry<'a> {
    rules: &'a Rules<'a>,
    planned: BTreeMap<i64, SnapshotRef>,
    references: BTreeSet<String>,
    /// The last base.
    base: Option<Table>,
}

#[async_trait]
impl Planner for Expiry<'_> {
    async fn plan(&mut self, base: &Table, _: Attempt) -> Result<Plan, CommitError> {
        let metadata = base.metadata();
        let is_another = |base: &Table| base.metadata().uuid() != metadata.uuid();
        if self.base.as_ref().is_some_and(is_another) {
            // Whose snapshots are planned may live on under another name: their files are its own.
            let reason = "the table was made anew meanwhile".to_owned();
            return Err(CommitError::Stale { reason, open: false });
        }
        let expiring = self.rules.expiring(metadata, surroundings::now_ms())?;
        self.planned.extend(expiring.snapshots.iter().map(|s| (s.snapshot_id(), s.clone())));
        self.references.extend(expiring.references.iter().cloned());
        self.base = Some(base.clone());
        if expiring.is_empty() {
            return Ok(Plan::default());
        }
        let requirements = references(metadata)?.into_iter().map(|(r#ref, reference)| {
            // A branch that moves on meanwhile is judged anew; catalogs that compare the whole metadata need no such word.
            TableRequirement::RefSnapshotIdMatch { r#ref, snapshot_id: Some(reference.snapshot_id) }
        });
        Ok(Plan { updates: updates(metadata, &expiring), requirements: requirements.collect(), ..Plan::default() })
    }
}

fn updates(metadata: &TableMetadata, expiring: &Expiring) -> Vec<TableUpdate> {
    let ids: Vec<i64> = expiring.snapshots.iter().map(|s| s.snapshot_id()).collect();
    let mut updates: Vec<TableUpdate> =
        expiring.references.iter().map(|name| TableUpdate::RemoveSnapshotRef { ref_name: name.clone() }).collect();
    updates.extend(crate::stage::without_snapshots(metadata, ids));
    updates
}

#[cfg(test)]
mod tests;
