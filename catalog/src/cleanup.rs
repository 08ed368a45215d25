//! Files that a commit made superfluous.
//!
//! Run only when the outcome is known. What is deleted is surely not needed by a live snapshot; what is not surely so is left to
//! orphan removal.
//!
//! The rule for expired snapshots is that of Java's incremental clean-up. Main's chain is linear and its oldest part expired, so a
//! manifest of an expired snapshot that the oldest kept one doesn't list is listed by none, and a file that one of the snapshots up
//! to the oldest kept one removed is in none (a removed file never comes back: paths are unique). Snapshots off the chain from the head
//! down to it (tags, branches, rolled back) are read and what they hold is spared.

use std::collections::{BTreeSet, HashSet};

use iceberg::spec::{DataFileFormat, ManifestFile, ManifestStatus, SnapshotRef};
use iceberg::table::Table;

use crate::Result;
use crate::commit::Tried;
use crate::maintain::own_files;
use crate::manifests::{self, ManifestCache};
use crate::stage::{Expiry, chain};

const DELETE_AFTER_COMMIT: &str = "write.metadata.delete-after-commit.enabled";
/// With more snapshots off main's chain, reading what they hold costs more than the clean-up is worth to a writer.
const MAX_OFF_CHAIN: usize = 16;

/// What is to be deleted after a commit.
#[derive(Clone, Debug, Default)]
#[must_use = "the files stay behind unless it is run"]
pub struct Cleanup(Option<Box<Inner>>);

#[derive(Clone, Debug)]
struct Inner {
    /// As of the commit or later.
    table: Table,
    expiry: Option<Expiry>,
    /// Statistics and the like of expired snapshots, files of attempts that did not land, metadata files that fell off the log.
    paths: Vec<String>,
    manifests: ManifestCache,
}

impl Cleanup {
    /// `lost`: attempts that surely did not and will not land.
    pub(crate) fn after(table: &Table, landed: Option<Tried>, lost: Vec<Tried>, manifests: ManifestCache) -> Self {
        let mut paths: Vec<String> = Vec::new();
        if let Some(landed) = &landed {
            // delete files depend on the base: those of the lost attempts are nobody's
            let ours: HashSet<&str> = landed.plan.delta.delete_files.iter().map(|f| f.file.file_path()).collect();
            paths.extend(lost.iter().flat_map(|t| t.plan.own_files.iter().cloned()));
            let lost_deletes = lost.iter().flat_map(|t| &t.plan.delta.delete_files).map(|f| f.file.file_path());
            paths.extend(lost_deletes.filter(|p| !ours.contains(p)).map(str::to_owned));
            paths.extend(old_metadata(&landed.base, table));
        }
        let still_named = named_metadata(table);
        paths.extend(lost.into_iter().flat_map(|t| t.written).filter(|p| !still_named.contains(p.as_str())));
        let expiry = landed.and_then(|landed| {
            let expiry = landed.staged?.expiry?;
            let before = landed.base.metadata();
            paths.extend(expiry.expired.iter().flat_map(|s| own_files(before, s)));
            Some(expiry)
        });
        paths.sort();
        paths.dedup();
        if paths.is_empty() && expiry.is_none() {
            return Self(None);
        }
        Self(Some(Box::new(Inner { table: table.clone(), expiry, paths, manifests })))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Deletes; answers how many files.
    ///
    /// # Errors
    /// The storage's. What could not be deleted is left to orphan removal.
    pub async fn run(self) -> Result<usize> {
        let Some(inner) = self.0 else { return Ok(0) };
        let mut paths = inner.paths;
        if let Some(expiry) = &inner.expiry {
            paths.extend(expired_files(&inner.table, expiry, &inner.manifests).await?);
        }
        let count = paths.len();
        inner.table.file_io().delete_stream(futures::stream::iter(paths)).await?;
        Ok(count)
    }
}

fn named_metadata(table: &Table) -> BTreeSet<&str> {
    let log = table.metadata().metadata_log().iter().map(|entry| entry.metadata_file.as_str());
    log.chain(table.metadata_location()).collect()
}

/// What the log named before the commit and doesn't any more, if the table's owner wants that deleted.
fn old_metadata(before: &Table, after: &Table) -> Vec<String> {
    if after.metadata().properties().get(DELETE_AFTER_COMMIT).is_none_or(|v| v != "true") {
        return Vec::new();
    }
    let kept = named_metadata(after);
    named_metadata(before).into_iter().filter(|path| !kept.contains(path)).map(str::to_owned).collect()
}

/// What only the expired snapshots reached.
async fn expired_files(table: &Table, expiry: &Expiry, cache: &ManifestCache) -> Result<Vec<String>> {
    let metadata = table.metadata();
    let expired: HashSet<i64> = expiry.expired.iter().map(|s| s.snapshot_id()).collect();
    let oldest_kept = expiry.oldest_kept.snapshot_id();
    // Its parent may have stayed too, for a tag: that is read as those off the chain are.
    let chain = chain(metadata, metadata.current_snapshot());
    let down_to = chain.iter().position(|s| s.snapshot_id() == oldest_kept).map_or(0, |at| at + 1);
    let on_chain: HashSet<i64> = chain.iter().take(down_to).map(|s| s.snapshot_id()).collect();
    let mut off_chain: Vec<&SnapshotRef> =
        metadata.snapshots().filter(|s| !on_chain.contains(&s.snapshot_id())).collect();
    off_chain.sort_by_key(|s| s.sequence_number());
    if metadata.snapshots().any(|s| expired.contains(&s.snapshot_id())) // somebody has them again
        || !on_chain.contains(&oldest_kept) // expired by another writer meanwhile, or rolled back behind it
        || off_chain.len() > MAX_OFF_CHAIN
    {
        return Ok(Vec::new());
    }

    let mut spared_manifests: HashSet<String> = HashSet::new();
    let mut spared_files: HashSet<String> = HashSet::new();
    for snapshot in off_chain {
        let list = manifests::list(table, snapshot).await?;
        spared_files.extend(live_paths(table, cache, &list).await?);
        spared_manifests.extend(list.into_iter().map(|m| m.manifest_path));
    }
    let kept = manifests::list(table, &expiry.oldest_kept).await?;
    spared_manifests.extend(kept.iter().map(|m| m.manifest_path.clone()));

    let mut gone: Vec<String> = Vec::new();
    let mut files = removed_by(table, cache, oldest_kept, &kept).await?;
    for snapshot in &expiry.expired {
        let list = manifests::list(table, snapshot).await?;
        files.extend(removed_by(table, cache, snapshot.snapshot_id(), &list).await?);
        gone.extend(list.into_iter().map(|m| m.manifest_path).filter(|path| !spared_manifests.contains(path)));
        gone.push(snapshot.manifest_list().to_owned());
    }
    if files.iter().any(|(_, format)| *format == DataFileFormat::Puffin) {
        // one Puffin file holds many deletion vectors: it goes with the last of them
        let deletes: Vec<_> =
            kept.into_iter().filter(|m| m.content == iceberg::spec::ManifestContentType::Deletes).collect();
        spared_files.extend(live_paths(table, cache, &deletes).await?);
    }
    gone.extend(files.into_iter().map(|(path, _)| path).filter(|path| !spared_files.contains(path)));
    gone.sort();
    gone.dedup();
    Ok(gone)
}

/// The files that this snapshot removed.
async fn removed_by(
    table: &Table,
    cache: &ManifestCache,
    snapshot_id: i64,
    list: &[ManifestFile],
) -> Result<Vec<(String, DataFileFormat)>> {
    let own = list.iter().filter(|m| m.added_snapshot_id == snapshot_id && m.has_deleted_files());
    let manifests = cache.load_all(table.file_io(), &own.cloned().collect::<Vec<_>>()).await?;
    let entries = manifests.iter().flat_map(|m| m.entries());
    let removed = entries.filter(|e| e.status() == ManifestStatus::Deleted && e.snapshot_id() == Some(snapshot_id));
    Ok(removed.map(|e| (e.file_path().to_owned(), e.file_format())).collect())
}

async fn live_paths(table: &Table, cache: &ManifestCache, list: &[ManifestFile]) -> Result<HashSet<String>> {
    let manifests = cache.load_all(table.file_io(), list).await?;
    let entries = manifests.iter().flat_map(|m| m.entries()).filter(|e| e.is_alive());
    Ok(entries.map(|e| e.file_path().to_owned()).collect())
}
