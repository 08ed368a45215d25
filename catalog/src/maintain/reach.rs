//! Files that only snapshots reached that are gone.
//!
//! By reading, not by what snapshots say they removed: a table may have been rolled back, and have tags and branches. What the manifests of
//! the snapshots that went hold, and no manifest of a kept one holds, is nobody's. Memory grows with the former alone, by 8 bytes a file:
//! files are remembered by a hash, and where two share one, a file is spared.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashSet};
use std::hash::{Hash, Hasher};

use futures::{Stream, StreamExt};
use iceberg::io::FileIO;
use iceberg::spec::{Manifest, ManifestFile, SnapshotRef};
use iceberg::table::Table;
use serde::Serialize;

use super::own_files;
use crate::manifests::{self, ManifestCache, READS_IN_FLIGHT};
use crate::stage::chain;
use crate::{Error, ErrorKind, Result};

/// Deleted at once: what S3 takes in one request.
const DELETED_AT_ONCE: usize = 1000;

/// What was deleted, or would be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Removed {
    pub data_files: u64,
    pub delete_files: u64,
    pub manifests: u64,
    pub manifest_lists: u64,
    /// Statistics, and what else belongs to a snapshot itself.
    pub other_files: u64,
    /// Of data files, delete files and manifests.
    pub bytes: u64,
    /// Files of the snapshots that went which could not be read: what they name is left to the removal of orphans.
    pub unread: Vec<String>,
}

impl Removed {
    pub fn files(&self) -> u64 {
        self.data_files + self.delete_files + self.manifests + self.manifest_lists + self.other_files
    }
}

/// Whether files are deleted or only counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Delete,
    Count,
}

/// What only `gone` reached, `before` the table that had them. `kept` are all snapshots that the table has now, or will have.
///
/// # Errors
/// `Invalid` when a manifest of a kept snapshot can't be read: then no file is deleted, since nobody knows what it holds. The storage's
/// otherwise.
pub(super) async fn remove(
    before: &Table,
    gone: &[SnapshotRef],
    kept: &[SnapshotRef],
    cache: &ManifestCache,
    mode: Mode,
) -> Result<Removed> {
    let mut removal = Removal { io: before.file_io(), mode, paths: Vec::new(), removed: Removed::default() };
    if gone.is_empty() {
        return Ok(removal.removed);
    }
    let mut held: BTreeMap<String, ManifestFile> = BTreeMap::new();
    let mut lists = lists(before, kept);
    while let Some((snapshot, list)) = lists.next().await {
        let list = list.map_err(|e| spared(&e, snapshot.snapshot_id()))?;
        held.extend(list.into_iter().map(|m| (m.manifest_path.clone(), m)));
    }
    drop(lists);
    let mut own: BTreeMap<String, ManifestFile> = BTreeMap::new();
    let mut unread: HashSet<String> = HashSet::new();
    let mut lists = self::lists(before, gone);
    while let Some((snapshot, list)) = lists.next().await {
        match list {
            Ok(list) => {
                let only = list.into_iter().filter(|m| !held.contains_key(&m.manifest_path));
                own.extend(only.map(|m| (m.manifest_path.clone(), m)));
            }
            Err(e) if e.kind() == ErrorKind::Invalid => _ = unread.insert(snapshot.manifest_list().to_owned()),
            Err(e) => return Err(e),
        }
    }
    drop(lists);
    let own: Vec<ManifestFile> = own.into_values().collect();

    let mut candidates: HashSet<u64> = HashSet::new();
    let mut read = read(before.file_io(), cache, &own);
    while let Some((file, manifest)) = read.next().await {
        match manifest {
            Ok(manifest) => candidates.extend(live(&manifest).map(|f| hash(f.file_path()))),
            Err(e) if e.kind() == ErrorKind::Invalid => _ = unread.insert(file.manifest_path.clone()),
            Err(e) => return Err(e),
        }
    }
    drop(read);
    let held: Vec<ManifestFile> = may_hold(before, gone, held.into_values()).collect();
    let mut read = self::read(before.file_io(), cache, &held);
    while !candidates.is_empty() {
        let Some((file, manifest)) = read.next().await else { break };
        let manifest = manifest.map_err(|e| spared(&e, file.added_snapshot_id))?;
        for file in live(&manifest) {
            candidates.remove(&hash(file.file_path()));
        }
    }
    drop(read);

    let readable: Vec<ManifestFile> = own.into_iter().filter(|m| !unread.contains(&m.manifest_path)).collect();
    let mut read = self::read(before.file_io(), cache, &readable);
    while let Some((_, manifest)) = read.next().await {
        let manifest = manifest?;
        for file in live(&manifest) {
            if candidates.remove(&hash(file.file_path())) {
                match file.content_type() {
                    iceberg::spec::DataContentType::Data => removal.removed.data_files += 1,
                    _ => removal.removed.delete_files += 1,
                }
                removal.take(file.file_path().to_owned(), file.file_size_in_bytes()).await?;
            }
        }
    }
    drop(read);
    for manifest in readable {
        removal.removed.manifests += 1;
        removal.take(manifest.manifest_path, u64::try_from(manifest.manifest_length).unwrap_or(0)).await?;
    }
    let spared: HashSet<String> = kept.iter().flat_map(|s| own_files(before.metadata(), s)).collect();
    for snapshot in gone {
        for path in own_files(before.metadata(), snapshot).into_iter().filter(|path| !spared.contains(path)) {
            removal.removed.other_files += 1;
            removal.take(path, 0).await?;
        }
        if !unread.contains(snapshot.manifest_list()) {
            removal.removed.manifest_lists += 1;
            removal.take(snapshot.manifest_list().to_owned(), 0).await?;
        }
    }
    removal.flush().await?;
    removal.removed.unread = unread.into_iter().collect();
    removal.removed.unread.sort();
    Ok(removal.removed)
}

/// The kept manifests that can hold a file of a snapshot that went. Where all that went were ancestors of main's head, none that was made of
/// later files can: a file is added once to a chain.
fn may_hold(
    before: &Table,
    gone: &[SnapshotRef],
    held: impl Iterator<Item = ManifestFile>,
) -> impl Iterator<Item = ManifestFile> {
    let metadata = before.metadata();
    let ancestors: HashSet<i64> =
        chain(metadata, metadata.current_snapshot()).iter().map(|s| s.snapshot_id()).collect();
    let linear = gone.iter().all(|s| ancestors.contains(&s.snapshot_id()));
    let newest = gone.iter().map(|s| s.sequence_number()).max().unwrap_or(i64::MAX);
    held.filter(move |m| !linear || m.min_sequence_number <= newest)
}

fn spared(e: &Error, snapshot_id: i64) -> Error {
    let text =
        format!("no file was deleted, since what snapshot {snapshot_id} holds, which is kept, can't be read: {e}");
    Error::new(e.kind(), text)
}

/// A manifest list's or manifest's own reading may fail while the others' go on.
fn lists<'a>(
    table: &'a Table,
    snapshots: &'a [SnapshotRef],
) -> impl Stream<Item = (&'a SnapshotRef, Result<Vec<ManifestFile>>)> + Unpin + Send + 'a {
    let reads = snapshots.iter().map(move |s| async move { (s, manifests::list(table, s).await) });
    Box::pin(futures::stream::iter(reads).buffered(READS_IN_FLIGHT))
}

fn read<'a>(
    io: &'a FileIO,
    cache: &'a ManifestCache,
    files: &'a [ManifestFile],
) -> impl Stream<Item = (&'a ManifestFile, Result<std::sync::Arc<Manifest>>)> + Unpin + Send + 'a {
    let reads = files.iter().map(move |file| async move { (file, cache.load(io, file).await) });
    Box::pin(futures::stream::iter(reads).buffered(READS_IN_FLIGHT))
}

fn live(manifest: &Manifest) -> impl Iterator<Item = &iceberg::spec::DataFile> {
    manifest.entries().iter().filter(|e| e.is_alive()).map(|e| e.data_file())
}

/// The same for the same path in every run.
pub(super) fn hash(path: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    path.hash(&mut hasher);
    hasher.finish()
}

struct Removal<'a> {
    io: &'a FileIO,
    mode: Mode,
    paths: Vec<String>,
    removed: Removed,
}

impl Removal<'_> {
    async fn take(&mut self, path: String, bytes: u64) -> Result<()> {
        self.removed.bytes += bytes;
        if self.mode == Mode::Delete {
            self.paths.push(path);
            if self.paths.len() >= DELETED_AT_ONCE {
                self.flush().await?;
            }
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<()> {
        let paths = std::mem::take(&mut self.paths);
        if !paths.is_empty() {
            self.io.delete_stream(futures::stream::iter(paths)).await?;
        }
        Ok(())
    }
}
