//! Lands a row delta exactly once, whatever the catalog answers.
//!
//! One batch keeps one snapshot id through all its attempts. On every fresh base, refusals included: look for the own snapshot id
//! first, then let the planner check its position, then apply again. An attempt's files are not deleted while its outcome is open.
//!
//! # How a commit is known again
//! - A plan with files or a summary makes a snapshot: its id among the table's snapshots is the proof. A summary without files makes
//!   an empty snapshot, so that a moved position is guarded by the head of main in every catalog (a REST catalog checks no property).
//! - A plan with updates or properties alone (a schema change) makes no snapshot; [`LAST_COMMIT_ID`], set with every commit, is the
//!   proof, until another commit overwrites it. Then the planner's own check of the base decides, as after any lost race.
//! - A plan with nothing in it is committed as it stands, without a swap.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use iceberg::spec::Operation;
use iceberg::table::Table;
use iceberg::{TableIdent, TableRequirement, TableUpdate};

use crate::cleanup::Cleanup;
use crate::maintain::manifests::ReplacedManifests;
use crate::maintain::orphans::removed_before_ms;
use crate::manifests::ManifestCache;
use crate::stage::{Staged, Staging, first_row_ids};
use crate::{Catalog, Error, ErrorKind, RowDelta, surroundings};

/// Table property: the id of the last commit made here, with or without a snapshot.
pub const LAST_COMMIT_ID: &str = "firn.last-commit-id";
/// Table property that planners set: the last snapshot of theirs. If it is the own id, the commit landed.
pub const LAST_SNAPSHOT_ID: &str = "firn.last-snapshot-id";

/// For a commit whose planner brings no cache: what the attempts of one commit share.
const CACHE_BYTES: u64 = 64 << 20;

/// Loads before a table counts as one that did not move: the first may be as stale as the base was.
const STALE_LOADS: usize = 4;

/// What to commit on one base.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub delta: RowDelta,
    /// What the summary says that was done; told by the delta's files where it is not given.
    pub operation: Option<Operation>,
    /// Added to the snapshot's summary.
    pub summary: HashMap<String, String>,
    /// Set as table properties in the same swap.
    pub properties: HashMap<String, String>,
    /// Applied before the snapshot in the same swap (schema changes ...).
    pub updates: Vec<TableUpdate>,
    pub requirements: Vec<TableRequirement>,
    /// Data files of the delta that were written for this base alone, as its delete files were: should the attempt be lost, they go.
    pub own_files: Vec<String>,
    /// The snapshot that the new one follows, where that is not the current one: the table is rolled back to it, in the same swap.
    /// What came after it stays in the table's snapshots, off main's chain.
    pub onto: Option<i64>,
    /// Manifests of the parent that others stand for.
    pub replaced_manifests: Option<ReplacedManifests>,
    /// No file of the delta is older, if it was made before this plan: a table that has lost unknown files from after this moment refuses it.
    pub files_since_ms: Option<i64>,
    pub retention: Retention,
}

impl Plan {
    /// See the module's documentation.
    pub fn needs_snapshot(&self) -> bool {
        !self.delta.is_empty() || !self.summary.is_empty() || self.onto.is_some() || self.replaced_manifests.is_some()
    }

    fn is_empty(&self) -> bool {
        !self.needs_snapshot() && self.properties.is_empty() && self.updates.is_empty()
    }
}

/// What the writer itself keeps bounded with each commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Snapshots of main kept at most; the oldest beyond are expired in the same swap (never a tagged or branched one). More are kept
    /// where the oldest would be another writer's: up to the planner's own before it.
    pub max_snapshots: usize,
    /// Manifests of one kind above which the small ones are merged (Iceberg's `commit.manifest.min-count-to-merge`).
    pub merge_manifests_above: usize,
    /// Previous metadata files kept.
    pub max_metadata_files: usize,
    /// Snapshots that are younger than the new one by no more than this stay, beyond `max_snapshots`.
    pub horizon_ms: u64,
}

impl Retention {
    /// For commits that are not the table's writer's: they leave its snapshots and manifests as they are.
    pub const NONE: Self = Self {
        max_snapshots: usize::MAX,
        merge_manifests_above: usize::MAX,
        max_metadata_files: DEFAULT_METADATA_FILES,
        horizon_ms: 0,
    };
}

/// Iceberg's own `write.metadata.previous-versions-max`.
const DEFAULT_METADATA_FILES: usize = 100;

impl Default for Retention {
    fn default() -> Self {
        Self {
            max_snapshots: 500,
            merge_manifests_above: 100,
            max_metadata_files: DEFAULT_METADATA_FILES,
            horizon_ms: 0,
        }
    }
}

/// Which try this is, for logs and file names; starts at 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt(pub usize);

/// Makes the plan for a base. Called on every fresh base: it must check its position there and may write files (delete files
/// depend on the base).
#[async_trait]
pub trait Planner: Send {
    /// # Errors
    /// [`CommitError::Stale`] when the base shows that this batch must not be committed any more.
    async fn plan(&mut self, base: &Table, attempt: Attempt) -> Result<Plan, CommitError>;

    /// Parsed manifests to share with the commit: they spare it reads when files are removed or manifests merged.
    fn manifests(&self) -> Option<ManifestCache> {
        None
    }
}

/// The batch is in the table: the only thing that may move a position.
#[derive(Clone, Debug)]
pub struct Committed {
    pub snapshot_id: i64,
    /// The table as of the commit, or as first seen after it.
    pub table: Table,
    /// Attempts made; 0 when an earlier call had landed it already.
    pub attempts: usize,
    /// Which attempt it was, if it was one of this call's and that is known.
    pub landed: Option<Attempt>,
    /// Of the first rows of the data files that it added, by path: in format v3, where it is known which attempt it was.
    pub first_row_ids: HashMap<String, i64>,
    /// What nobody needs any more: to be run, best in the background. Dropping it leaves files behind and does no harm.
    pub cleanup: Cleanup,
}

#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The table stands elsewhere: another writer went on, a rewind, a rollback. The batch is to be dropped and the position
    /// read from the table.
    #[error("stale: {reason}")]
    Stale {
        reason: String,
        /// An attempt's answer was lost: its files must stay. Planners say `false`.
        open: bool,
    },
    /// Nothing was decided within the policy's attempts; the batch and its files must be kept and committed again under the same
    /// snapshot id.
    #[error("not committed yet: {0}")]
    Undecided(#[source] Error),
    /// Trying again will not help.
    #[error("{0}")]
    Failed(#[source] Error),
}

/// How long to go on trying.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    pub attempts: usize,
    /// Wait before attempt n: `first_wait_ms * 2^(n-1)` up to `max_wait_ms`, with jitter.
    pub first_wait_ms: u64,
    pub max_wait_ms: u64,
}

impl Default for Patience {
    fn default() -> Self {
        Self { attempts: 20, first_wait_ms: 50, max_wait_ms: 5_000 }
    }
}

/// By kind: worth another attempt, or not.
impl From<Error> for CommitError {
    fn from(e: Error) -> Self {
        if e.is_transient() { Self::Undecided(e) } else { Self::Failed(e) }
    }
}

/// For whoever has nothing to drop or to keep.
impl From<CommitError> for Error {
    fn from(e: CommitError) -> Self {
        match e {
            CommitError::Stale { reason, .. } => Self::new(ErrorKind::Conflict, reason),
            CommitError::Undecided(e) | CommitError::Failed(e) => e,
        }
    }
}

/// A fresh id for a batch: random, positive.
pub fn new_snapshot_id() -> i64 {
    let (high, low) = surroundings::new_id().as_u64_pair();
    // cleared of its sign bit it always fits
    ((high ^ low) & (u64::MAX >> 1)) as i64
}

/// Lands what `planner` plans as one snapshot of `table` with the id `snapshot_id`.
///
/// # Errors
/// See [`CommitError`]. After an attempt whose outcome is open, `Undecided` is answered where `Failed` would have been: the batch's
/// files must be kept.
pub async fn commit(
    catalog: &dyn Catalog,
    table: &TableIdent,
    snapshot_id: i64,
    planner: &mut dyn Planner,
    patience: Patience,
) -> Result<Committed, CommitError> {
    let manifests = planner.manifests().unwrap_or_else(|| ManifestCache::new(CACHE_BYTES));
    let mut run = Run { catalog, table, snapshot_id, manifests, tried: Vec::new() };
    let attempts = patience.attempts.max(1);
    let mut last = Error::new(ErrorKind::Unavailable, "no attempt was made");
    for n in 0..attempts {
        if n > 0 {
            surroundings::sleep(patience.wait_before(n)).await;
        }
        match run.attempt(planner, Attempt(n)).await {
            Ok(committed) => return Ok(committed),
            Err(CommitError::Undecided(e)) if e.is_transient() => {
                tracing::debug!(%table, snapshot_id, attempt = n, error = %e, "commit attempt failed, going on with a fresh base");
                last = e;
            }
            Err(e) => return Err(run.give_up(e).await),
        }
    }
    // the last answer may have been lost: one more look
    match run.look().await {
        Ok((_, Some(committed))) => Ok(committed),
        _ => Err(run.give_up(CommitError::Undecided(last)).await),
    }
}

impl Patience {
    fn wait_before(&self, attempt: usize) -> Duration {
        let doublings = u32::try_from(attempt.saturating_sub(1)).unwrap_or(u32::MAX).min(30);
        let full = self.first_wait_ms.saturating_mul(1 << doublings).min(self.max_wait_ms);
        // between half and all of it: writers that collided once part
        let jitter = (surroundings::new_id().as_u128() as u64) % (full / 2 + 1);
        Duration::from_millis(full - jitter)
    }
}

/// What is known of an attempt's swap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// Never sent, or refused and not found on a base that came after its own.
    Dead,
    /// Answered with a refusal; no newer base has been seen yet (a metastore can refuse a swap that it has done).
    Refused,
    /// The answer was lost: it may be on its way still.
    Open,
    /// The catalog said that it happened.
    Landed,
}

/// One attempt: what it wrote and what became of it.
#[derive(Debug)]
pub(crate) struct Tried {
    attempt: Attempt,
    outcome: Outcome,
    pub base: Table,
    pub plan: Plan,
    pub staged: Option<Staged>,
    /// Manifests, manifest list, metadata file.
    pub written: Vec<String>,
}

struct Run<'a> {
    catalog: &'a dyn Catalog,
    table: &'a TableIdent,
    snapshot_id: i64,
    manifests: ManifestCache,
    tried: Vec<Tried>,
}

impl Run<'_> {
    async fn attempt(&mut self, planner: &mut dyn Planner, attempt: Attempt) -> Result<Committed, CommitError> {
        let (base, landed) = self.look().await?;
        if let Some(committed) = landed {
            return Ok(committed);
        }
        let plan = match planner.plan(&base, attempt).await {
            Ok(plan) => plan,
            Err(CommitError::Failed(e)) => return Err(self.unless_moved(&base, e).await),
            Err(e) => return Err(e),
        };
        if plan.is_empty() {
            return Ok(self.committed(base, None));
        }
        let removed_before = removed_before_ms(&base);
        if plan.files_since_ms.zip(removed_before).is_some_and(|(since, removed)| since < removed) {
            let reason = "files of it may be gone: orphans from its time were removed".to_owned();
            return Err(CommitError::Stale { reason, open: false });
        }

        let mut written = Vec::new();
        let staging = Staging {
            base: &base,
            plan: &plan,
            snapshot_id: self.snapshot_id,
            attempt_id: surroundings::new_id(),
            manifests: &self.manifests,
        };
        let staged = staging.stage(&mut written).await;
        let mut tried = Tried { attempt, outcome: Outcome::Dead, base, plan, staged: None, written };
        let staged = match staged {
            Ok(staged) => tried.staged.insert(staged),
            Err(e) => {
                let base = tried.base.clone();
                self.tried.push(tried);
                return Err(self.unless_moved(&base, e).await);
            }
        };

        // while it is sent, and if this future is dropped meanwhile, it may happen
        tried.outcome = Outcome::Open;
        let answer = self.catalog.swap(&tried.base, &staged.requirements, &staged.updates).await;
        match answer {
            Ok(table) => {
                tried.outcome = Outcome::Landed;
                self.tried.push(tried);
                Ok(self.committed(table, Some(self.tried.len() - 1)))
            }
            Err(e) => {
                tried.outcome = match e.kind() {
                    ErrorKind::Conflict => Outcome::Refused,
                    ErrorKind::OutcomeUnknown | ErrorKind::Unavailable => Outcome::Open,
                    _ => Outcome::Dead,
                };
                tried.written.extend(e.leftover().map(str::to_owned));
                self.tried.push(tried);
                Err(e.into())
            }
        }
    }

    /// A fresh base, and whether the commit is in it.
    async fn look(&mut self) -> Result<(Table, Option<Committed>), CommitError> {
        let base = self.catalog.load(self.table).await?;
        if !self.is_in(&base) {
            // A table that has not moved since the refusal shows what it was before: a stale answer, or a refusal for nothing.
            let moved = |tried: &Tried| tried.base.metadata_location() != base.metadata_location();
            for tried in self.tried.iter_mut().filter(|t| t.outcome == Outcome::Refused && moved(t)) {
                tried.outcome = Outcome::Dead;
            }
            return Ok((base, None));
        }
        tracing::info!(table = %self.table, snapshot_id = self.snapshot_id, "already in the table: an earlier try had landed");
        let list = base.metadata().snapshot_by_id(self.snapshot_id).map(|s| s.manifest_list().to_owned());
        let landed = self.tried.iter().position(|t| {
            let staged = t.staged.as_ref().and_then(|s| s.manifest_list.as_ref());
            staged.is_some() && staged == list.as_ref()
        });
        if list.is_some() {
            // it is in under another attempt: none of the others can land any more
            for (i, tried) in self.tried.iter_mut().enumerate() {
                tried.outcome = if Some(i) == landed { Outcome::Landed } else { Outcome::Dead };
            }
        }
        let committed = self.committed(base.clone(), landed);
        Ok((base, Some(committed)))
    }

    fn is_in(&self, base: &Table) -> bool {
        let metadata = base.metadata();
        let id = self.snapshot_id.to_string();
        let named = |property: &str| metadata.properties().get(property) == Some(&id);
        metadata.snapshot_by_id(self.snapshot_id).is_some() || named(LAST_COMMIT_ID) || named(LAST_SNAPSHOT_ID)
    }

    fn committed(&mut self, table: Table, landed: Option<usize>) -> Committed {
        let attempts = self.tried.len();
        let mut tried = std::mem::take(&mut self.tried);
        let landed = landed.filter(|i| *i < tried.len()).map(|i| tried.remove(i));
        // with one landed, the others can't: the catalog compares, and the snapshot id is taken
        let lost: Vec<Tried> = tried.into_iter().filter(|t| landed.is_some() || t.outcome == Outcome::Dead).collect();
        let attempt = landed.as_ref().map(|t| t.attempt);
        let first = table.metadata().snapshot_by_id(self.snapshot_id).and_then(|s| s.first_row_id());
        let first_row_ids = landed.as_ref().zip(first).map(|(t, first)| first_row_ids(&t.plan.delta, first));
        let first_row_ids = first_row_ids.unwrap_or_default();
        let cleanup = Cleanup::after(&table, landed, lost, self.manifests.clone());
        Committed { snapshot_id: self.snapshot_id, table, attempts, landed: attempt, first_row_ids, cleanup }
    }

    /// A file of the base may be gone because another writer moved the table on and cleaned up: then a fresh base helps.
    async fn unless_moved(&self, base: &Table, e: Error) -> CommitError {
        if e.is_transient() {
            return e.into();
        }
        for _ in 0..STALE_LOADS {
            let why = match self.catalog.load(self.table).await {
                Ok(fresh) if fresh.metadata_location() == base.metadata_location() => continue,
                Ok(_) => "the table moved while it was read",
                Err(_) => "whether the table moved while it was read can't be told",
            };
            return CommitError::Undecided(Error::new(ErrorKind::Conflict, why).with_source(e));
        }
        e.into()
    }

    /// Nothing landed: what was surely never sent goes; what may have been stays, and makes a failure undecided.
    async fn give_up(self, e: CommitError) -> CommitError {
        let open = self.tried.iter().any(|t| t.outcome != Outcome::Dead);
        let dead: Vec<Tried> = self.tried.into_iter().filter(|t| t.outcome == Outcome::Dead).collect();
        // Delete files depend on the base: those of a dead attempt are nobody's.
        let deletes = dead.iter().flat_map(|t| &t.plan.delta.delete_files).map(|f| f.file.file_path().to_owned());
        let own_files: Vec<String> = dead.iter().flat_map(|t| t.plan.own_files.clone()).collect();
        let deletes: Vec<String> = deletes.collect();
        let written: Vec<String> = dead.into_iter().flat_map(|t| t.written).collect();
        for files in [written, deletes, own_files] {
            if !files.is_empty()
                && let Err(e) = self.catalog.file_io().delete_stream(futures::stream::iter(files)).await
            {
                tracing::debug!(table = %self.table, error = %e, "files of a failed attempt stay behind");
            }
        }
        match e {
            CommitError::Failed(e) if open => CommitError::Undecided(e),
            CommitError::Stale { reason, .. } => CommitError::Stale { reason, open },
            e => e,
        }
    }
}

#[cfg(test)]
mod tests;
