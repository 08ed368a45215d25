//! Many small manifests become few, whose files are sorted by partition, so that a reader that wants some partitions skips the others.
//!
//! No file and no row changes: entries keep the snapshot that added them, their sequence numbers and their first row ids. What was written stands
//! for a set of old manifests: a writer that adds others meanwhile costs the commit no work.

use std::collections::{BTreeMap, HashSet};

use async_trait::async_trait;
use iceberg::TableIdent;
use iceberg::spec::{ManifestFile, Operation, PartitionSpecRef};
use iceberg::table::Table;

use crate::maintain::orphans::removed_before_ms;
use crate::manifests::{ManifestCache, Standing, list, standing};
use crate::stage::{Fate, KindAndSpec, Staging, Writer, kind_and_spec, length};
use crate::{
    Attempt, Catalog, CommitError, Error, ErrorKind, Patience, Plan, Planner, Result, Retention, commit,
    new_snapshot_id, surroundings,
};

const TARGET: (&str, u64) = ("commit.manifest.target-size-bytes", 8 << 20);
/// Manifests read for one commit: parsed they take several times as much. More make several commits.
const BYTES_AT_ONCE: u64 = 32 << 20;
/// Commits of one run: the rest is left to the next.
const PASSES: usize = 50;
const CACHE_BYTES: u64 = 64 << 20;

/// Old manifests, all in the list of the base, and the one that stands for them.
#[derive(Clone, Debug)]
pub struct ReplacedManifests {
    pub gone: HashSet<String>,
    pub by: Vec<ManifestFile>,
}

/// What was done, or would be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewritten {
    /// Manifests of the table, before and after.
    pub before: usize,
    pub after: usize,
    pub replaced: usize,
    pub created: usize,
    pub snapshots: Vec<i64>,
}

/// What [`rewrite`] would do to the table as it is, in its first commits; how many manifests come out is worked out from their sizes.
///
/// # Errors
/// The storage's.
pub async fn preview(table: &Table) -> Result<Rewritten> {
    let target = target_bytes(table)?;
    let manifests = current(table).await?;
    let mut done = Rewritten { before: manifests.len(), after: manifests.len(), ..Rewritten::default() };
    for set in worth_it(&manifests, target).iter().flat_map(|set| chunks(set, target)) {
        let bytes: u64 = set.iter().map(length).sum();
        done.replaced += set.len();
        done.created += usize::try_from(bytes.div_ceil(target)).unwrap_or(usize::MAX).max(1);
    }
    done.after = done.before - done.replaced + done.created;
    Ok(done)
}

/// Rewrites until there is nothing to gain.
///
/// # Errors
/// The catalog's and the storage's. What was committed before stays.
pub async fn rewrite(catalog: &dyn Catalog, ident: &TableIdent, patience: Patience) -> Result<Rewritten> {
    let mut done = Rewritten::default();
    let cache = ManifestCache::new(CACHE_BYTES);
    for pass in 0..PASSES {
        let snapshot_id = new_snapshot_id();
        let mut swap =
            Swap { snapshot_id, cache: cache.clone(), written: Vec::new(), replaced: None, since_ms: 0, have: 0 };
        let answer = commit(catalog, ident, snapshot_id, &mut swap, patience).await;
        if pass == 0 {
            done.before = swap.have;
        }
        done.after = swap.have;
        // What an open attempt wrote stays: it may be in the table.
        let keep: HashSet<String> = match (&answer, &swap.replaced) {
            (Ok(_), Some(replaced)) => replaced.by.iter().map(|m| m.manifest_path.clone()).collect(),
            (Err(CommitError::Undecided(_) | CommitError::Stale { open: true, .. }), _) => {
                swap.written.iter().cloned().collect()
            }
            _ => HashSet::new(),
        };
        discard(catalog, swap.written.into_iter().filter(|path| !keep.contains(path)).collect()).await;
        let committed = answer?;
        let Some(replaced) = swap.replaced else { break };
        done.after = swap.have - replaced.gone.len() + replaced.by.len();
        done.replaced += replaced.gone.len();
        done.created += replaced.by.len();
        done.snapshots.push(committed.snapshot_id);
        if let Err(e) = committed.cleanup.run().await {
            tracing::debug!(error = %e, "files that nobody needs stay behind");
        }
    }
    Ok(done)
}

async fn current(table: &Table) -> Result<Vec<ManifestFile>> {
    match table.metadata().current_snapshot() {
        Some(snapshot) => list(table, snapshot).await,
        None => Ok(Vec::new()),
    }
}

fn target_bytes(table: &Table) -> Result<u64> {
    let Some(value) = table.metadata().properties().get(TARGET.0) else { return Ok(TARGET.1) };
    value.trim().parse::<u64>().ok().filter(|bytes| *bytes > 0).ok_or_else(|| {
        let text =
            format!("the table property {} is {value:?}, which is no number of bytes: correct or remove it", TARGET.0);
        Error::new(ErrorKind::Refused, text)
    })
}

/// Manifests of one kind and spec that become fewer. One of three quarters of the target is as good as full.
fn worth_it(manifests: &[ManifestFile], target: u64) -> Vec<Vec<ManifestFile>> {
    let mut sets: BTreeMap<KindAndSpec, Vec<ManifestFile>> = BTreeMap::new();
    for manifest in manifests.iter().filter(|m| length(m) < target / 4 * 3) {
        sets.entry(kind_and_spec(manifest)).or_default().push(manifest.clone());
    }
    sets.into_values().filter(|set| set.len() > 1).collect()
}

/// Into how many manifests of the target size they go.
fn pieces(set: &[ManifestFile], target: u64) -> usize {
    let bytes: u64 = set.iter().map(length).sum();
    usize::try_from(bytes.div_ceil(target)).unwrap_or(1).max(1)
}

/// Smallest first, each as large as one commit takes. What becomes no fewer is left out.
fn chunks(set: &[ManifestFile], target: u64) -> Vec<Vec<ManifestFile>> {
    let mut set = set.to_vec();
    set.sort_by_key(|m| (length(m), m.sequence_number));
    let mut chunks: Vec<Vec<ManifestFile>> = Vec::new();
    let mut bytes = 0;
    for manifest in set {
        bytes += length(&manifest);
        match chunks.last_mut().filter(|_| bytes <= BYTES_AT_ONCE) {
            Some(chunk) => chunk.push(manifest),
            None => {
                bytes = length(&manifest);
                chunks.push(vec![manifest]);
            }
        }
    }
    chunks.retain(|chunk| pieces(chunk, target) < chunk.len());
    chunks
}

/// The live entries of the set in new manifests of the target size.
async fn write(
    table: &Table,
    snapshot_id: i64,
    set: &[ManifestFile],
    target: u64,
    cache: &ManifestCache,
    written: &mut Vec<String>,
) -> Result<ReplacedManifests> {
    let manifests = cache.load_all(table.file_io(), set).await?;
    let mut entries: Vec<(String, Standing)> = Vec::new();
    for (file, manifest) in set.iter().zip(&manifests) {
        // A column that it needs may have been dropped.
        let has_columns = |spec: &&PartitionSpecRef| spec.partition_type(table.metadata().current_schema()).is_ok();
        let spec = table.metadata().partition_spec_by_id(file.partition_spec_id).filter(has_columns);
        for live in standing(file, manifest)? {
            let schema = table.metadata().current_schema().clone();
            let data_file = live.entry.data_file();
            let partition = spec.map(|s| s.partition_to_path(data_file.partition(), schema)).unwrap_or_default();
            entries.push((partition, live));
        }
    }
    entries.sort_by(|(a, x), (b, y)| a.cmp(b).then_with(|| x.sequence_number.cmp(&y.sequence_number)));
    let each = entries.len().div_ceil(pieces(set, target)).max(1);

    let plan = Plan::default();
    let attempt_id = surroundings::new_id();
    let staging = Staging { base: table, plan: &plan, snapshot_id, attempt_id, manifests: cache };
    let mut writer = Writer::new(&staging, table.metadata(), written);
    let entries: Vec<(Standing, Fate)> = entries.into_iter().map(|(_, live)| (live, Fate::Stays)).collect();
    let mut by = Vec::new();
    if let Some((first, manifest)) = set.first().zip(manifests.first()) {
        for piece in entries.chunks(each) {
            by.push(writer.rewritten(first.content, first.partition_spec_id, manifest, piece).await?);
        }
    }
    Ok(ReplacedManifests { gone: set.iter().map(|m| m.manifest_path.clone()).collect(), by })
}

/// Best effort: what stays is an orphan.
async fn discard(catalog: &dyn Catalog, paths: Vec<String>) {
    if !paths.is_empty()
        && let Err(e) = catalog.file_io().delete_stream(futures::stream::iter(paths)).await
    {
        tracing::debug!(error = %e, "manifests that nobody needs stay behind");
    }
}

/// Plans one commit. What was written for an earlier base is good for this one if that has all it stands for; else it is written anew, of
/// manifests that the cache mostly has.
struct Swap {
    snapshot_id: i64,
    cache: ManifestCache,
    written: Vec<String>,
    replaced: Option<ReplacedManifests>,
    /// When it was begun to be written.
    since_ms: i64,
    /// Manifests of the last base.
    have: usize,
}

#[async_trait]
impl Planner for Swap {
    async fn plan(&mut self, base: &Table, _: Attempt) -> Result<Plan, CommitError> {
        let manifests = current(base).await?;
        self.have = manifests.len();
        let have: HashSet<&String> = manifests.iter().map(|m| &m.manifest_path).collect();
        let may_be_gone = removed_before_ms(base).is_some_and(|before| self.since_ms < before);
        let is_good = |r: &ReplacedManifests| !may_be_gone && r.gone.iter().all(|path| have.contains(path));
        let replaced = match self.replaced.take().filter(is_good) {
            Some(replaced) => replaced,
            None => {
                let target = target_bytes(base)?;
                let set = worth_it(&manifests, target).into_iter().flat_map(|set| chunks(&set, target)).next();
                let Some(set) = set else { return Ok(Plan::default()) };
                self.since_ms = surroundings::now_ms();
                write(base, self.snapshot_id, &set, target, &self.cache, &mut self.written).await?
            }
        };
        let plan = Plan {
            operation: Some(Operation::Replace),
            replaced_manifests: Some(replaced.clone()),
            files_since_ms: Some(self.since_ms),
            retention: Retention::NONE,
            ..Plan::default()
        };
        self.replaced = Some(replaced);
        Ok(plan)
    }

    fn manifests(&self) -> Option<ManifestCache> {
        Some(self.cache.clone())
    }
}

#[cfg(test)]
mod tests;
