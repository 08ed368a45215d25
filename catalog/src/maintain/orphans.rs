//! Files under a table's location that the table doesn't know: of writers that were killed, of clean-ups that failed.
//!
//! A file that nobody knows may be one that somebody is about to commit. Only old files count, and a removal first commits up to when it removes
//! ([`REMOVED_BEFORE_MS`]), in a snapshot of its own, for every catalog guards the head of main: a commit whose files may be older is
//! refused on that base ([`Plan::files_since_ms`]), and one that was planned on an earlier base is refused by the catalog. So not even a
//! writer that slept for a week can put a removed file into the table. Other writers know nothing of this: for them the age has to do.

use std::collections::{HashMap, HashSet};

use async_trait::async_trait;
use futures::StreamExt;
use iceberg::TableIdent;
use iceberg::spec::SnapshotRef;
use iceberg::table::Table;
use object_store::path::Path;

use super::reach::hash;
use super::{is_shared, own_files};
use crate::manifests::{self, READS_IN_FLIGHT};
use crate::storage::{Locator, Stores, explain};
use crate::{
    Attempt, Catalog, CommitError, Committed, Error, ErrorKind, Patience, Plan, Planner, Result, Retention, commit,
    new_snapshot_id,
};

/// Table property: files from before this moment that the table did not name were removed.
pub const REMOVED_BEFORE_MS: &str = "firn.orphans-removed-before-ms";

/// Clocks of writers, of the store and of whoever removes may differ by so much.
const CLOCKS_MS: u64 = 3_600_000;
/// Remembered in one run, at some 200 bytes each; the next run finds the rest.
const AT_ONCE: usize = 200_000;

/// A file that the table doesn't know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orphan {
    pub path: String,
    pub bytes: u64,
    pub modified_ms: i64,
}

/// What is under the table's location.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Old enough, by path; no more than one run takes.
    pub orphans: Vec<Orphan>,
    /// Old enough, beyond those.
    pub more: u64,
    /// Unknown too, but so young that somebody may be about to commit them.
    pub young: u64,
    /// All files.
    pub listed: u64,
}

impl Found {
    pub fn bytes(&self) -> u64 {
        self.orphans.iter().map(|o| o.bytes).sum()
    }
}

/// The files under the table's location that are older than `age_ms` and that none of its snapshots, statistics or logged versions names.
///
/// # Errors
/// `Refused` for a table whose files are shared, or where another table lies within its location; `Invalid` where a file of the table's
/// metadata can't be read, since nobody knows what it names; the storage's.
pub async fn find(stores: &Stores, table: &Table, age_ms: u64, now_ms: i64) -> Result<Found> {
    let mut known = Known::new(table)?;
    known.learn(table).await?;
    list(stores, table, &known, now_ms.saturating_sub_unsigned(age_ms)).await
}

/// Removes what [`find`] finds; answers it.
///
/// # Errors
/// As there, and the catalog's. Files that could not be deleted stay orphans.
pub async fn remove(
    catalog: &dyn Catalog,
    stores: &Stores,
    ident: &TableIdent,
    age_ms: u64,
    now_ms: i64,
    patience: Patience,
) -> Result<Found> {
    let table = catalog.load(ident).await?;
    let mut known = Known::new(&table)?;
    known.learn(&table).await?;
    let mut found = list(stores, &table, &known, now_ms.saturating_sub_unsigned(age_ms)).await?;
    if found.orphans.is_empty() {
        return Ok(found);
    }
    let fenced = announce(catalog, ident, age_ms, now_ms, patience).await?;
    // What was committed since the listing.
    known.learn(&fenced.table).await?;
    found.orphans.retain(|orphan| !known.names(&orphan.path));
    let paths: Vec<String> = found.orphans.iter().map(|o| o.path.clone()).collect();
    table.file_io().delete_stream(futures::stream::iter(paths)).await?;
    fenced.cleanup.run().await?;
    Ok(found)
}

/// Tells the table that unknown files of this age go, in a snapshot without rows: whoever removes them, firn's own commits are safe
/// from then on.
///
/// # Errors
/// The catalog's.
pub async fn announce(
    catalog: &dyn Catalog,
    ident: &TableIdent,
    age_ms: u64,
    now_ms: i64,
    patience: Patience,
) -> Result<Committed> {
    let before_ms = now_ms.saturating_sub_unsigned(age_ms.saturating_sub(CLOCKS_MS.min(age_ms / 2)));
    let mut fence = Fence { before_ms };
    Ok(commit(catalog, ident, new_snapshot_id(), &mut fence, patience).await?)
}

/// Files from before this moment can't be committed any more, on this base or a later one.
pub(crate) fn removed_before_ms(table: &Table) -> Option<i64> {
    table.metadata().properties().get(REMOVED_BEFORE_MS)?.parse().ok()
}

struct Fence {
    before_ms: i64,
}

#[async_trait]
impl Planner for Fence {
    async fn plan(&mut self, base: &Table, _: Attempt) -> Result<Plan, CommitError> {
        // Another removal's may be later.
        let before_ms = removed_before_ms(base).unwrap_or(i64::MIN).max(self.before_ms);
        let says = HashMap::from([(REMOVED_BEFORE_MS.to_owned(), before_ms.to_string())]);
        Ok(Plan { summary: says.clone(), properties: says, retention: Retention::NONE, ..Plan::default() })
    }
}

/// What a table names, as hashes of paths in its store: where two share one, a file is spared.
struct Known {
    locator: Locator,
    paths: HashSet<u64>,
    /// Manifests and lists that were read, by their locations.
    read: HashSet<u64>,
}

impl Known {
    fn new(table: &Table) -> Result<Self> {
        if is_shared(table.metadata()) {
            let text = "gc.enabled is false: its files may belong to another table too, so none is removed; set it to true if they don't";
            return Err(Error::new(ErrorKind::Refused, text));
        }
        let locator = Locator::of(table.metadata().location())?;
        if locator.is_root() {
            let text =
                format!("its location {} is a whole store, where other things may lie", table.metadata().location());
            return Err(Error::new(ErrorKind::Refused, text));
        }
        Ok(Self { locator, paths: HashSet::new(), read: HashSet::new() })
    }

    fn add(&mut self, location: &str) -> Result<()> {
        self.paths.extend(self.locator.path_of(location)?.map(|path| hash(path.as_ref())));
        Ok(())
    }

    fn names(&self, location: &str) -> bool {
        // What was listed is in the store.
        !matches!(self.locator.path_of(location), Ok(Some(path)) if !self.paths.contains(&hash(path.as_ref())))
    }

    /// Takes in what this version of the table names, as far as it isn't known yet.
    async fn learn(&mut self, table: &Table) -> Result<()> {
        let metadata = table.metadata();
        let logged = metadata.metadata_log().iter().map(|entry| entry.metadata_file.as_str());
        for path in logged.chain(table.metadata_location()) {
            self.add(path)?;
        }
        let statistics = metadata.statistics_iter().map(|s| &s.statistics_path);
        for path in statistics.chain(metadata.partition_statistics_iter().map(|s| &s.statistics_path)) {
            self.add(path)?;
        }
        let unread = |s: &&SnapshotRef| !self.read.contains(&hash(s.manifest_list()));
        let snapshots: Vec<SnapshotRef> = metadata.snapshots().filter(unread).cloned().collect();
        let mut lists = futures::stream::iter(snapshots.into_iter().map(|s| {
            let table = table.clone();
            async move { manifests::list(&table, &s).await.map(|list| (s, list)) }
        }))
        .buffered(READS_IN_FLIGHT);
        // Nothing else is waited for meanwhile: an answer that nobody takes would hold its connection.
        let mut new = Vec::new();
        while let Some((snapshot, list)) = lists.next().await.transpose().map_err(unknown)? {
            self.read.insert(hash(snapshot.manifest_list()));
            self.add(snapshot.manifest_list())?;
            for path in own_files(metadata, &snapshot) {
                self.add(&path)?;
            }
            for manifest in list {
                self.add(&manifest.manifest_path)?;
                if self.read.insert(hash(&manifest.manifest_path)) {
                    new.push(manifest);
                }
            }
        }
        let mut manifests = futures::stream::iter(new.into_iter().map(|manifest| {
            let io = table.file_io().clone();
            async move { manifest.load_manifest(&io).await }
        }))
        .buffered(READS_IN_FLIGHT);
        while let Some(manifest) = manifests.next().await.transpose().map_err(|e| unknown(e.into()))? {
            for entry in manifest.entries().iter().filter(|e| e.is_alive()) {
                self.add(entry.file_path())?;
            }
        }
        Ok(())
    }
}

fn unknown(e: Error) -> Error {
    Error::new(e.kind(), format!("no file was removed, since not all that the table names can be read: {e}"))
}

async fn list(stores: &Stores, table: &Table, known: &Known, before_ms: i64) -> Result<Found> {
    let location = table.metadata().location();
    let (store, prefix) = stores.object_store(location)?;
    let mut found = Found::default();
    let mut files = store.list(Some(&prefix));
    while let Some(file) = files.next().await.transpose().map_err(|e| explain(e, "list", location, None))? {
        found.listed += 1;
        let Some(within) = Within::of(&file.location, &prefix) else { continue };
        if within.is_of_another_table() {
            let text = format!("another table lies within its location: {}; no file was removed", file.location);
            return Err(Error::new(ErrorKind::Refused, text));
        }
        if known.paths.contains(&hash(file.location.as_ref())) || within.is_hidden() {
            continue;
        }
        let modified_ms = file.last_modified.timestamp_millis();
        if modified_ms >= before_ms {
            found.young += 1;
        } else if found.orphans.len() >= AT_ONCE {
            found.more += 1;
        } else {
            let path = known.locator.location_of(&file.location);
            found.orphans.push(Orphan { path, bytes: file.size, modified_ms });
        }
    }
    found.orphans.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// The segments of a path below the table's location.
struct Within(Vec<String>);

impl Within {
    fn of(path: &Path, prefix: &Path) -> Option<Self> {
        Some(Self(path.prefix_match(prefix)?.map(|part| part.as_ref().to_owned()).collect()))
    }

    fn is_of_another_table(&self) -> bool {
        let [.., folder, name] = self.0.as_slice() else { return false };
        self.0.len() > 2 && folder == "metadata" && name.ends_with(".metadata.json")
    }

    /// As Iceberg's own removal has it: what begins with a dot or an underscore and is no partition is another tool's, and a Hadoop table's
    /// hint is its pointer.
    fn is_hidden(&self) -> bool {
        let hidden = |part: &String| part.starts_with(['.', '_']) && !part.contains('=');
        self.0.iter().any(hidden) || self.0.last().is_some_and(|name| name == "version-hint.text")
    }
}

#[cfg(test)]
mod tests;
