//! One table of one process: its columns, its checkpoint, its commits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use firn_catalog::{Catalog, CommitError, ErrorKind, Patience};
use iceberg::TableIdent;
use iceberg::spec::TableMetadata;
use iceberg::table::Table;
use tokio::runtime::Handle;
use tokio::sync::Mutex;

use crate::change::Mode;
use crate::memory::Memory;
use crate::position::{Checkpoint, Positions, TopicPartition};
use crate::sink::lake::held::Unavailable;
use crate::sink::lake::layout::{Layout, TableColumns};
use crate::sink::lake::planner::{BatchPlanner, Planned, Refusal};
use crate::sink::lake::resume::{CHECKPOINT, MODE, generation, standing};
use crate::sink::lake::staged::StagedFile;
use crate::sink::lake::upsert::Upserts;
use crate::sink::lake::{CatchUp, CommitFailure, Growth, LakeError, Shared, Size, Staged, Stager, TableSpec};
use crate::table_event::SourceSnapshot;

/// One table. Shared by the workers of a process; commits run one after the other.
#[derive(Debug)]
pub struct LakeTable {
    pub(super) catalog: Arc<dyn Catalog>,
    pub(super) spec: TableSpec,
    pub(super) ident: TableIdent,
    io: Handle,
    pub(super) shared: Shared,
    pub(super) patience: Patience,
    view: RwLock<View>,
    /// `None` in append mode.
    upserts: Mutex<Option<Upserts>>,
    /// Held while columns are agreed upon: the workers of a process meet a new table all at once, and one creation is enough.
    pub(super) agreeing: Mutex<()>,
}

/// What stagers begin with.
#[derive(Debug, Default)]
pub(super) struct View {
    pub(super) layout: Option<Arc<Layout>>,
    generation: u64,
    /// Positions that the table is known to have had.
    seen: Arc<Positions>,
    /// As the records declare them; empty until then.
    pub(super) key_columns: Vec<String>,
    owned: BTreeSet<TopicPartition>,
    /// Of which generation the table was when the position was taken that a partition is read from.
    read_in: BTreeMap<TopicPartition, u64>,
    /// The last snapshot made here.
    last_snapshot: Option<i64>,
    last_seen: Option<Seen>,
}

/// The metadata that was last looked at: its file never changes.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) location: String,
    pub(super) generation: u64,
}

/// A batch that is in the table.
#[derive(Clone, Debug)]
pub struct Committed {
    pub snapshot_id: i64,
    /// The table's whole checkpoint after the batch, other processes' partitions included.
    pub checkpoint: Checkpoint,
    /// Changes accounted for, deletes included.
    pub rows: u64,
    pub data_files: usize,
    pub file_bytes: u64,
    pub attempts: usize,
    /// From the last file that was durable to the catalog's answer.
    pub took: Duration,
    /// Snapshots of other writers between this one and the last that this process saw.
    pub foreign_snapshots: usize,
    /// In upsert mode.
    pub index: Option<IndexState>,
    /// Truncates of the source table.
    pub truncates: usize,
    /// Rows that went by a truncate or a sweep.
    pub cut_rows: u64,
    /// Rows of the batch from before a truncate that was committed earlier: they are not in the table.
    pub late_rows: u64,
    /// Snapshots of the source that began over older rows, by topic.
    pub resnapshots: Vec<(String, SourceSnapshot)>,
    pub unavailable: Unavailable,
    /// Whether the table is still behind where it stood before a rewind.
    pub catch_up: CatchUp,
    pub size: Size,
    pub growth: Growth,
}

/// The primary-key index after a commit.
#[derive(Clone, Copy, Debug)]
pub struct IndexState {
    pub keys: usize,
    /// How long the scan took, where data files had to be read for this commit.
    pub scan: Option<Duration>,
}

impl LakeTable {
    /// Opens a table that may not exist yet. `io` is the runtime that uploads run on.
    ///
    /// # Errors
    /// When the settings are wrong, the catalog can't be reached, or the name belongs to something that this writer must not touch.
    pub async fn open(catalog: Arc<dyn Catalog>, spec: TableSpec, io: Handle) -> Result<Self, LakeError> {
        spec.format()?;
        let shared = Shared::default();
        let upserts = match spec.mode {
            Mode::Append => None,
            Mode::Upsert => Some(Upserts::new(&shared)),
        };
        let table = Self {
            ident: spec.ident()?,
            catalog,
            spec,
            io,
            shared,
            patience: Patience::default(),
            view: RwLock::default(),
            upserts: Mutex::new(upserts),
            agreeing: Mutex::default(),
        };
        table.find().await?;
        Ok(table)
    }

    /// Looks whether the table is there, and answers its columns.
    ///
    /// # Errors
    /// When the catalog can't be reached, or the name belongs to something that this writer must not touch.
    pub async fn find(&self) -> Result<Option<TableColumns>, LakeError> {
        if let Some(existing) = self.load().await? {
            self.check_mode(existing.metadata())?;
            let standing = standing(&self.spec.to_string(), existing.metadata());
            let stands = standing.map_or(0, |checkpoint| checkpoint.map_or(0, |c| c.generation));
            let generation = self.saw(&existing).max(stands);
            self.change_view(|view| view.generation = view.generation.max(generation));
            // A table without a key has no layout yet: the records declare the key.
            if let Ok(layout) = Layout::of(&existing, &self.spec, &[]) {
                self.change_view(|view| view.layout = Some(Arc::new(layout)));
            }
        }
        Ok(self.columns())
    }

    /// What it has in common with other tables; unless this is said nothing, and its index is in memory.
    #[must_use]
    pub fn sharing(mut self, shared: Shared) -> Self {
        if let Some(upserts) = self.upserts.get_mut() {
            *upserts = Upserts::new(&shared);
        }
        self.shared = shared;
        self
    }

    /// How long a commit goes on trying before it is `Undecided`.
    #[must_use]
    pub fn with_patience(mut self, patience: Patience) -> Self {
        self.patience = patience;
        self
    }

    /// How long a commit waits for the delete of a former key, which is in another partition, before values that only its row has
    /// are given up.
    pub async fn wait_for_former_keys(&self, wait: Duration) {
        if let Some(upserts) = self.upserts.lock().await.as_mut() {
            upserts.wait_at_most(wait);
        }
    }

    pub(super) fn patience(&self) -> Patience {
        self.patience
    }

    /// What batches and indexes of this process hold.
    pub fn memory(&self) -> &Arc<Memory> {
        &self.shared.memory
    }

    pub fn spec(&self) -> &TableSpec {
        &self.spec
    }

    pub(crate) fn catalog(&self) -> &dyn Catalog {
        self.catalog.as_ref()
    }

    /// The layout last agreed upon.
    pub(crate) fn layout(&self) -> Option<Arc<Layout>> {
        self.read_view(|view| view.layout.clone())
    }

    /// Where the table stands now, loaded anew: the next offsets to read. `None` when the table doesn't exist or was never
    /// written to by firn.
    ///
    /// # Errors
    /// When the catalog can't be reached, or the table's history doesn't tell (it names both choices).
    pub async fn checkpoint(&self) -> Result<Option<Checkpoint>, LakeError> {
        let Some(table) = self.load().await? else { return Ok(None) };
        self.check_mode(table.metadata())?;
        let generation = self.saw(&table);
        self.change_view(|view| view.generation = generation);
        let checkpoint = standing(&self.spec.to_string(), table.metadata())?;
        let key_columns = self.read_view(|view| view.key_columns.clone());
        let layout = Layout::of(&table, &self.spec, &key_columns);
        self.change_view(|view| {
            // Another process may have changed the columns; without a key yet the records declare it.
            if let Ok(layout) = layout {
                view.layout = Some(Arc::new(layout));
            }
            view.generation = view.generation.max(checkpoint.as_ref().map_or(0, |c| c.generation));
            view.seen = Arc::new(checkpoint.iter().flat_map(Checkpoint::positions).collect());
        });
        Ok(checkpoint)
    }

    /// Of which generation the table was when it was last looked at; what is committed next is of it.
    pub fn seen_generation(&self) -> u64 {
        self.read_view(|view| view.generation)
    }

    /// The columns of the existing table as last seen.
    pub fn columns(&self) -> Option<TableColumns> {
        self.read_view(|view| view.layout.clone().map(TableColumns))
    }

    /// The Kafka partitions whose keys this process holds; to be called at every assignment. Keys of new ones are read from the
    /// table at the next commit, those of partitions given away are forgotten.
    pub fn own(&self, partitions: impl IntoIterator<Item = TopicPartition>) {
        self.change_view(|view| view.owned = partitions.into_iter().collect());
    }

    /// Says that these partitions are read from where the table stood at this checkpoint, at every start and restart. Another one that was
    /// asked for since (for a partition that joined) may be of a newer generation: what goes on from before is not of it.
    pub fn reads_from(&self, partitions: impl IntoIterator<Item = TopicPartition>, checkpoint: Option<&Checkpoint>) {
        let generation = checkpoint.map_or(0, |checkpoint| checkpoint.generation);
        self.change_view(|view| view.read_in.extend(partitions.into_iter().map(|at| (at, generation))));
    }

    /// Begins a batch for one worker, under the columns last agreed upon.
    ///
    /// # Errors
    /// When no columns were agreed upon yet.
    pub fn stager(&self) -> Result<Stager, LakeError> {
        let columns = self.columns().ok_or_else(|| {
            self.spec
                .settings("the table does not exist yet and no record has told its columns: agree on the columns first")
        })?;
        self.stager_for(&columns)
    }

    /// Begins a batch of rows that are made for these columns. Should the table have others by now, the commit says so: files keep
    /// to the columns that their rows were made for.
    ///
    /// # Errors
    /// When the columns can't be written.
    pub fn stager_for(&self, columns: &TableColumns) -> Result<Stager, LakeError> {
        let (generation, seen) = self.read_view(|view| (view.generation, Arc::clone(&view.seen)));
        Stager::new(Arc::clone(&columns.0), self.io.clone(), generation, seen, &self.shared.memory)
    }

    /// Puts the parts (of workers that hold different Kafka partitions) into the table: rows and position in one swap.
    ///
    /// # Errors
    /// See [`CommitFailure`].
    pub async fn commit(&self, parts: Vec<Staged>) -> Result<Committed, CommitFailure> {
        let mut batch = match Staged::join(parts) {
            Ok(Some(batch)) => batch,
            Ok(None) => return Err(CommitFailure::Failed(self.spec.settings("a commit of nothing was asked for"))),
            Err(e) => return Err(CommitFailure::Failed(e)),
        };
        if let Err(e) = batch.uploaded().await {
            self.discard(vec![batch]).await;
            return Err(CommitFailure::Failed(e));
        }
        let began = Instant::now();
        let mut upserts = self.upserts.lock().await;
        if let Some(upserts) = upserts.as_mut() {
            // The batch's own partitions are owned whatever was said.
            upserts.own(self.read_view(|view| view.owned.clone()), &batch.spans);
        }
        let snapshot_id = *batch.snapshot_id.get_or_insert_with(firn_catalog::new_snapshot_id);
        batch.seen.push(self.read_view(|view| Arc::clone(&view.seen)));
        let read_in = self.read_view(|view| batch.spans.iter().filter_map(|s| view.read_in.get(&s.at)).min().copied());
        batch.generation = batch.generation.min(read_in.unwrap_or(u64::MAX));
        let mut planner = BatchPlanner {
            spec: &self.spec,
            batch: &mut batch,
            snapshot_id,
            upserts: upserts.as_mut(),
            manifests: &self.shared.manifests,
            planned: None,
            refusal: None,
        };
        let result =
            firn_catalog::commit(self.catalog.as_ref(), &self.ident, snapshot_id, &mut planner, self.patience).await;
        let BatchPlanner { mut planned, refusal, .. } = planner;
        match result {
            Ok(done) => {
                self.saw(&done.table);
                let checkpoint = self.landed(&done.table, snapshot_id, planned.as_ref());
                let unavailable = planned.as_ref().map(|p| p.effect.unavailable).unwrap_or_default();
                self.change_view(|view| Arc::make_mut(&mut view.seen).extend(checkpoint.positions()));
                let took = began.elapsed();
                let foreign_snapshots = self.foreign_snapshots(done.table.metadata(), snapshot_id);
                let committed = Committed {
                    snapshot_id: done.snapshot_id,
                    checkpoint,
                    rows: batch.rows,
                    data_files: batch.files.len(),
                    file_bytes: batch.file_bytes(),
                    attempts: done.attempts,
                    took,
                    foreign_snapshots,
                    index: None,
                    truncates: batch.events.truncates().count(),
                    cut_rows: planned.as_ref().map_or(0, |p| p.effect.cut_rows),
                    late_rows: planned.as_ref().map_or(0, |p| p.effect.late_rows),
                    resnapshots: planned.as_mut().map(|p| std::mem::take(&mut p.resnapshots)).unwrap_or_default(),
                    unavailable,
                    catch_up: planned.as_ref().map(|p| p.catch_up).unwrap_or_default(),
                    size: Size::of(done.table.metadata()),
                    growth: Growth::of(done.table.metadata()),
                };
                // Of several attempts any may be the one that landed.
                let (effect, left_out) = match planned.filter(|p| done.landed == Some(p.attempt)) {
                    Some(planned) => (Some(planned.effect), planned.left_out),
                    None => (None, vec![]),
                };
                if let Some(upserts) = upserts.as_mut()
                    && let Err(e) = upserts.committed(snapshot_id, &batch, effect, &done.first_row_ids)
                {
                    tracing::warn!(table = %self.spec, error = %e, "the key index is built anew");
                }
                let unused: Vec<StagedFile> =
                    batch.files.into_iter().filter(|f| left_out.contains(&f.number)).collect();
                let (cleanup, io) = (done.cleanup, self.catalog.file_io().clone());
                self.io.spawn(async move {
                    for file in unused {
                        file.remove(&io).await;
                    }
                    if let Err(e) = cleanup.run().await {
                        tracing::debug!(error = %e, "files that nobody needs stay behind");
                    }
                });
                let index = upserts.as_mut().map(|u| IndexState { keys: u.keys(), scan: u.scan_took() });
                Ok(Committed { index, ..committed })
            }
            Err(CommitError::Undecided(e)) => {
                batch.sent = true;
                Err(CommitFailure::Undecided(vec![batch], e))
            }
            Err(CommitError::Stale { reason, open }) => {
                batch.sent |= open;
                match refusal {
                    Some(Refusal::SchemaMoved) => Err(CommitFailure::SchemaMoved(vec![batch])),
                    _ => {
                        self.discard(vec![batch]).await;
                        Err(CommitFailure::Stale(reason))
                    }
                }
            }
            Err(CommitError::Failed(e)) => {
                // Refused for good, and nothing newer in the table proves that no try of it landed: its files cost less than its rows.
                batch.sent |= planned.is_some();
                self.discard(vec![batch]).await;
                Err(CommitFailure::Failed(match refusal {
                    Some(Refusal::Failed(e)) => e,
                    _ => LakeError::Catalog(e),
                }))
            }
        }
    }

    /// Snapshots without a checkpoint between the own one and the last that was seen here.
    fn foreign_snapshots(&self, metadata: &TableMetadata, own: i64) -> usize {
        let seen = self.read_view(|view| view.last_snapshot);
        self.change_view(|view| view.last_snapshot = Some(own));
        let mut at = metadata.snapshot_by_id(own).and_then(|s| s.parent_snapshot_id());
        let mut foreign = 0;
        while let Some(snapshot) =
            at.filter(|id| seen.is_some() && Some(*id) != seen).and_then(|id| metadata.snapshot_by_id(id))
        {
            foreign += usize::from(!snapshot.summary().additional_properties.contains_key(CHECKPOINT));
            at = snapshot.parent_snapshot_id();
        }
        foreign
    }

    /// The checkpoint that the batch left: its own summary's, since the table may have moved on already, or have been rolled back.
    fn landed(&self, table: &Table, snapshot_id: i64, planned: Option<&Planned>) -> Checkpoint {
        let metadata = table.metadata();
        let own = || metadata.snapshot_by_id(snapshot_id)?.summary().additional_properties.get(CHECKPOINT);
        match planned {
            Some(planned) => planned.checkpoint.clone(),
            // It had landed at an earlier call, before anything was planned in this one.
            None => match own().and_then(|json| Checkpoint::from_json(json).ok()) {
                Some(own) => own,
                None => standing(&self.spec.to_string(), metadata).ok().flatten().unwrap_or_default(),
            },
        }
    }

    /// Remembers which metadata was looked at. Answers its generation.
    pub(super) fn saw(&self, table: &Table) -> u64 {
        let generation = generation(table.metadata());
        let seen = table.metadata_location().map(|location| Seen { location: location.to_owned(), generation });
        self.change_view(|view| view.last_seen = seen);
        generation
    }

    pub(super) fn last_seen(&self) -> Option<Seen> {
        self.read_view(|view| view.last_seen.clone())
    }

    /// Removes the files of parts that will never be committed, as far as storage lets it. Files stay where a swap was sent and its
    /// outcome is open. Orphan removal gets the rest.
    pub async fn discard(&self, parts: Vec<Staged>) {
        let io = self.catalog.file_io();
        for file in parts.into_iter().filter(|p| !p.sent).flat_map(|p| p.files) {
            file.remove(io).await;
        }
    }

    pub(crate) async fn load(&self) -> Result<Option<Table>, LakeError> {
        match self.catalog.load(&self.ident).await {
            Ok(table) => Ok(Some(table)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// A table of the other mode must not be written to: rows would be doubled, or changes lost.
    pub(super) fn check_mode(&self, metadata: &TableMetadata) -> Result<(), LakeError> {
        match metadata.properties().get(MODE) {
            Some(have) if have != self.spec.mode.as_str() => Err(self.spec.settings(format!(
                "the table was written in mode {have}, the configuration says {}: use the same mode, or another table",
                self.spec.mode.as_str()
            ))),
            _ => Ok(()),
        }
    }

    fn read_view<T>(&self, read: impl FnOnce(&View) -> T) -> T {
        // A poisoned view is whole: every change below is a plain assignment.
        read(&self.view.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn change_view(&self, change: impl FnOnce(&mut View)) {
        change(&mut self.view.write().unwrap_or_else(PoisonError::into_inner));
    }
}
