//! All of a compaction together: plan, rewrite groups beside each other, commit what is ready.

use std::sync::Arc;
use std::time::Instant;

use firn_catalog::{Catalog, CommitError, Committed, ManifestCache, Patience, new_snapshot_id};
use futures::StreamExt;
use futures::future::OptionFuture;
use futures::stream::FuturesUnordered;
use iceberg::TableIdent;
use iceberg::spec::FormatVersion;
use iceberg::table::Table;
use tokio::runtime::Handle;

use super::commit::{CompactPlanner, Planned};
use super::contents::{Contents, OldFile};
use super::filter::PartitionFilter;
use super::plan::{Choice, Group, Limits, groups, target_of};
use super::report::{CompactReport, GroupReport, GroupState};
use super::rewrite::{Fault, Rewriter, Rewritten, remove};
use super::shape::Shape;
use crate::maintain::budget::Limiter;
use crate::memory::Memory;
use crate::sink::lake::LakeError;

/// A lost race is run again from the table as it is then, at most so often: each time what others rewrote is out of the plan.
const ROUNDS: usize = 3;

/// A busy writer commits every second, and each try takes a part of one: some come through soon.
const PATIENCE: Patience = Patience { attempts: 200, first_wait_ms: 20, max_wait_ms: 2_000 };

/// What is compacted, and how.
#[derive(Clone, Debug)]
pub struct Compaction {
    pub catalog: Arc<dyn Catalog>,
    /// The runtime that uploads run on.
    pub io: Handle,
    pub memory: Arc<Memory>,
    pub manifests: ManifestCache,
    /// Groups rewritten at once.
    pub parallel: usize,
    /// The table's own property unless given.
    pub target_bytes: Option<u64>,
    pub min_files: Option<usize>,
    pub delete_ratio: Option<f64>,
    /// Only these partitions.
    pub partitions: PartitionFilter,
    pub choice: Choice,
    pub dry_run: bool,
    pub patience: Patience,
    /// How fast it may go.
    pub limiter: Arc<Limiter>,
    /// Asked before each group.
    pub leave: Option<Arc<dyn Leave>>,
}

/// Whether a run has to end early: its groups under way are finished, no other is begun.
pub trait Leave: std::fmt::Debug + Send + Sync {
    /// Why, if it has to.
    fn reason(&self) -> Option<String>;
}

/// Why a table was not compacted at all.
#[derive(Debug, thiserror::Error)]
pub enum CompactError {
    #[error(transparent)]
    Catalog(#[from] firn_catalog::Error),
    #[error(transparent)]
    Lake(#[from] LakeError),
    #[error("{0}")]
    Refused(String),
}

impl Compaction {
    pub fn new(catalog: Arc<dyn Catalog>, io: Handle, memory: Arc<Memory>) -> Self {
        Self {
            manifests: ManifestCache::new(memory.manifest_bytes() as u64),
            catalog,
            io,
            memory,
            parallel: 1,
            target_bytes: None,
            min_files: None,
            delete_ratio: None,
            partitions: PartitionFilter::default(),
            choice: Choice::All,
            dry_run: false,
            patience: PATIENCE,
            limiter: Limiter::unbounded(),
            leave: None,
        }
    }

    /// Compacts one table. What became of each group is in the report, also where some failed.
    ///
    /// # Errors
    /// When nothing could be begun: the table can't be read, or is of a kind that can't be rewritten.
    pub async fn run(&self, ident: &TableIdent) -> Result<CompactReport, CompactError> {
        let began = Instant::now();
        let mut report = CompactReport { table: ident.to_string(), dry_run: self.dry_run, ..CompactReport::default() };
        for round in 1..=ROUNDS {
            let first = report.groups.len();
            self.round(ident, &mut report).await?;
            let lost = |g: &GroupReport| matches!(g.state, GroupState::Lost { .. });
            if round == ROUNDS || !report.groups[first..].iter().any(lost) {
                break;
            }
        }
        report.took_ms = began.elapsed().as_millis() as u64;
        Ok(report.summed())
    }

    async fn round(&self, ident: &TableIdent, report: &mut CompactReport) -> Result<(), CompactError> {
        let base = self.catalog.load(ident).await?;
        let metadata = base.metadata();
        if metadata.format_version() < FormatVersion::V2 {
            return Err(CompactError::Refused(format!(
                "table {ident} has format version 1: upgrade it to 2 first (in Trino: ALTER TABLE ... SET PROPERTIES \
                 format_version = 2; in Spark: the table property 'format-version'='2')"
            )));
        }
        let fields = || metadata.partition_specs_iter().flat_map(|spec| spec.fields()).map(|field| field.name.as_str());
        if let Some(unknown) = self.partitions.unknown(&fields().collect::<Vec<_>>()) {
            let fields: std::collections::BTreeSet<&str> = fields().collect();
            let has = match fields.is_empty() {
                true => "it is not partitioned".to_owned(),
                false => format!("it has {}", fields.into_iter().collect::<Vec<_>>().join(", ")),
            };
            return Err(CompactError::Refused(format!("table {ident} has no partition field {unknown}: {has}")));
        }
        let limits = self.limits(metadata.properties());
        report.target_bytes = limits.target_bytes;
        let contents = Contents::of(&base, &self.manifests).await?;
        let spec_id = metadata.default_partition_spec_id();
        let groups = groups(&contents, &limits, spec_id, |file| self.is_wanted(&base, file));
        let first = report.groups.len();
        report.groups.extend(groups.iter().map(|group| planned(&base, group, &limits)));
        if self.dry_run || groups.is_empty() {
            return Ok(());
        }
        let shape = Arc::new(Shape::of(&base)?);
        let rewriter = Rewriter {
            base,
            shape,
            io: self.io.clone(),
            memory: Arc::clone(&self.memory),
            limits,
            sort_bytes: self.share_bytes(),
            // As many groups again are ready or being committed, and hold it.
            ways_bytes: self.share_bytes() / 2,
            limiter: Arc::clone(&self.limiter),
        };
        self.rewrite(ident, &rewriter, groups, first, report).await;
        Ok(())
    }

    fn limits(&self, properties: &std::collections::HashMap<String, String>) -> Limits {
        let mut limits = Limits::for_target(self.target_bytes.unwrap_or_else(|| target_of(properties)).max(1));
        limits.min_files = self.min_files.unwrap_or(limits.min_files).max(1);
        limits.delete_ratio = self.delete_ratio.unwrap_or(limits.delete_ratio);
        limits.choice = self.choice;
        limits
    }

    /// What one of the groups rewritten at once may hold of what is sorted.
    fn share_bytes(&self) -> usize {
        self.memory.open_bytes() / self.parallel.max(1) / 2
    }

    fn is_wanted(&self, base: &Table, file: &OldFile) -> bool {
        self.partitions.is_empty()
            || self.partitions.takes(&partition_path(base, file.entry.spec_id, file.entry.file.partition()))
    }

    /// Rewrites groups beside each other; what is ready while a commit runs goes together into the next. While commits are held up no
    /// more groups are begun than fit the memory: each that is ready knows where its rows went.
    async fn rewrite(
        &self,
        ident: &TableIdent,
        rewriter: &Rewriter,
        groups: Vec<Group>,
        first: usize,
        report: &mut CompactReport,
    ) {
        let parallel = self.parallel.max(1);
        let mut to_begin = groups.into_iter().zip(first..);
        let mut running = FuturesUnordered::new();
        let mut ready: Vec<(usize, Rewritten)> = vec![];
        let mut committing = OptionFuture::from(None);
        // In the commit that runs; none if none does.
        let mut in_commit = 0;
        loop {
            if in_commit == 0 && !ready.is_empty() {
                let groups = std::mem::take(&mut ready);
                in_commit = groups.len();
                committing = OptionFuture::from(Some(Box::pin(self.commit(ident, rewriter, groups))));
            }
            while running.len() < parallel && running.len() + ready.len() + in_commit < 2 * parallel {
                let Some((group, n)) = to_begin.next() else { break };
                running.push(async move {
                    match self.leave.as_ref().and_then(|leave| leave.reason()) {
                        Some(reason) => (n, Err(GroupState::Deferred { reason })),
                        None => (n, rewriter.rewrite(group).await.map_err(GroupState::from)),
                    }
                });
            }
            tokio::select! {
                biased;
                Some(done) = &mut committing, if in_commit > 0 => {
                    in_commit = 0;
                    note(report, done);
                }
                Some((n, rewritten)) = running.next() => match rewritten {
                    Ok(rewritten) => {
                        if let Some(group) = report.groups.get_mut(n) {
                            group.new_files = rewritten.files.len() as u64;
                            group.new_bytes = rewritten.files.iter().map(|f| f.file.file_size_in_bytes()).sum();
                            group.deleted_rows = rewritten.ways.left_out_rows();
                        }
                        ready.push((n, rewritten));
                    }
                    Err(state) => {
                        if let Some(group) = report.groups.get_mut(n) {
                            group.state = state;
                        }
                    }
                },
                else => break,
            }
        }
    }

    async fn commit(&self, ident: &TableIdent, rewriter: &Rewriter, groups: Vec<(usize, Rewritten)>) -> Done {
        let (numbers, groups): (Vec<usize>, Vec<Rewritten>) = groups.into_iter().unzip();
        let _unpaced = self.limiter.unpaced();
        let snapshot_id = new_snapshot_id();
        let mut planner = CompactPlanner {
            shape: &rewriter.shape,
            uuid: rewriter.base.metadata().uuid(),
            snapshot_id,
            groups: &groups,
            manifests: self.manifests.clone(),
            plans: vec![],
        };
        let result = firn_catalog::commit(self.catalog.as_ref(), ident, snapshot_id, &mut planner, self.patience).await;
        let plans = planner.plans;
        let mut done = Done { moved_deletes: 0, removed_deletes: 0, snapshot_id: None, states: vec![] };
        let all = |state: GroupState| numbers.iter().map(|n| (*n, state.clone())).collect::<Vec<_>>();
        let mut unused: Vec<&Rewritten> = vec![];
        match result {
            Ok(committed) => {
                let Committed { landed, cleanup, .. } = committed;
                let plan = plans.iter().find(|plan| Some(plan.attempt) == landed).or(plans.last());
                // Of an attempt that is not known nothing is removed: orphan removal knows better by then.
                let certain = landed.is_some();
                done.snapshot_id = Some(snapshot_id);
                if let Some(plan) = plan {
                    (done.moved_deletes, done.removed_deletes) = (plan.moved_deletes, plan.removed_deletes);
                }
                let lost = |at: usize| plan.and_then(|Planned { lost, .. }| lost.get(at)?.clone());
                for (at, (n, group)) in numbers.iter().zip(&groups).enumerate() {
                    let state = match lost(at) {
                        None => GroupState::Committed { snapshot_id },
                        Some(reason) => {
                            unused.extend(certain.then_some(group));
                            GroupState::Lost { reason }
                        }
                    };
                    done.states.push((*n, state));
                }
                if let Err(e) = cleanup.run().await {
                    tracing::debug!(error = %e, "files that nobody needs stay behind");
                }
            }
            Err(CommitError::Stale { reason, open: false }) => {
                let lost = plans.last().map(|plan| plan.lost.clone()).unwrap_or_default();
                let of = |at: usize| lost.get(at).cloned().flatten().unwrap_or_else(|| reason.clone());
                let states = numbers.iter().enumerate().map(|(at, n)| (*n, GroupState::Lost { reason: of(at) }));
                done.states = states.collect();
                unused = groups.iter().collect();
            }
            Err(CommitError::Stale { reason, open: true }) => done.states = all(GroupState::Open { reason }),
            Err(CommitError::Undecided(e)) => done.states = all(GroupState::Open { reason: e.to_string() }),
            Err(CommitError::Failed(e)) => {
                done.states = all(GroupState::Failed { reason: e.to_string() });
                unused = groups.iter().collect();
            }
        }
        let paths = unused.iter().flat_map(|group| &group.files).map(|f| f.file.file_path().to_owned());
        remove(rewriter.base.file_io(), paths.collect()).await;
        done
    }
}

impl From<Fault> for GroupState {
    fn from(Fault { missing, error }: Fault) -> Self {
        let reason = error.to_string();
        match missing {
            Some(path) => Self::Missing { path, reason },
            None => Self::Failed { reason },
        }
    }
}

/// What became of a commit.
struct Done {
    states: Vec<(usize, GroupState)>,
    snapshot_id: Option<i64>,
    moved_deletes: u64,
    removed_deletes: usize,
}

fn note(report: &mut CompactReport, done: Done) {
    report.snapshots.extend(done.snapshot_id);
    report.moved_deletes += done.moved_deletes;
    report.delete_files_removed += done.removed_deletes;
    for (n, state) in done.states {
        if let Some(group) = report.groups.get_mut(n) {
            group.state = state;
        }
    }
}

fn planned(base: &Table, group: &Group, limits: &Limits) -> GroupReport {
    GroupReport {
        partition: match &group.partition {
            Some(partition) => partition_path(base, group.spec_id, partition),
            None => format!("of spec {}", group.spec_id),
        },
        files: group.files.len(),
        bytes: group.files.iter().map(OldFile::bytes).sum(),
        rows: group.files.iter().map(OldFile::rows).sum(),
        deleted_rows: group.files.iter().map(|f| f.deleted_rows).sum(),
        delete_files: group.files.iter().map(|f| f.deletes.len() + f.equality.len()).sum(),
        new_files: group.new_files(limits),
        new_bytes: group.live_bytes(),
        state: GroupState::Planned,
    }
}

fn partition_path(base: &Table, spec_id: i32, partition: &iceberg::spec::Struct) -> String {
    let metadata = base.metadata();
    let schema = metadata.current_schema();
    match metadata.partition_spec_by_id(spec_id) {
        None => String::new(),
        Some(spec) if spec.is_unpartitioned() => String::new(),
        Some(spec) if spec.partition_type(schema).is_ok() => spec.partition_to_path(partition, schema.clone()),
        // A column that it needs was dropped.
        Some(_) => format!("of spec {spec_id}"),
    }
}
