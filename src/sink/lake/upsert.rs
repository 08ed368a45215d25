//! The upsert side of one table: keeps the key index true for the table's snapshot, and finds the rows that a batch replaces.
//!
//! Nothing here changes the index for a batch before that batch is committed; catching up with other writers' snapshots does.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use firn_catalog::failpoint::{self, Step};
use firn_catalog::{FileKey, ManifestCache, RowDelta, SpecFile};
use iceberg::table::Table;
use roaring::RoaringBitmap;
use uuid::Uuid;

pub(super) use self::catch_up::blocking;
use self::deleted_rows::DeletedRows;
pub(crate) use self::found::Found;
use self::remaps::Remaps;
pub use self::verify::IndexReport;
use crate::position::{Span, TopicPartition};
use crate::sink::lake::cut::Cuts;
use crate::sink::lake::deletes::{self, DeleteFile, Deleted};
use crate::sink::lake::held::{Awaiting, CompletedFile, FormerKey, Moved, Site, Unavailable};
use crate::sink::lake::index::{Holds, IndexHome, KeyIndex, Location, MemoryIndex, Stamp};
use crate::sink::lake::live::{self, LiveFile};
use crate::sink::lake::overlay::{KeyState, RowPlace};
use crate::sink::lake::row_ids::RowIds;
use crate::sink::lake::{LakeError, Shared, Staged};

mod catch_up;
mod completion;
mod deleted_rows;
mod found;
mod remaps;
mod verify;

/// The index and the table as last seen.
#[derive(Debug)]
pub(crate) struct Upserts {
    home: IndexHome,
    /// Of this table and kind; an empty one until that is known.
    index: Box<dyn KeyIndex>,
    table: Option<(Uuid, Holds)>,
    /// Files whose keys were in the index when it was opened, until they are listed.
    restored: BTreeSet<u32>,
    /// The snapshot whose new files are being scanned: until that is done the index is ahead of its stamp.
    ahead: Option<Option<i64>>,
    /// By the file's number in the index.
    live: HashMap<u32, LiveFile>,
    /// Whether `live` lists exactly the files of the stamped snapshot.
    listed: bool,
    deleted: DeletedRows,
    remaps: Remaps,
    owned: BTreeSet<TopicPartition>,
    manifests: ManifestCache,
    moved: Moved,
    awaited: Awaiting,
    /// Time spent on scans since it was last asked for.
    scanned: Option<Duration>,
}

/// What the table looks like once a plan is committed.
#[derive(Debug, Default)]
pub(crate) struct Effect {
    /// Data files that get another delete file, with all their deleted rows.
    deleted: Vec<(u32, DeleteFile, RoaringBitmap)>,
    /// Data files taken out.
    removed: Vec<u32>,
    /// Rows of the base that went by a cut.
    pub(crate) cut_rows: u64,
    /// Rows of the batch that did.
    pub(crate) late_rows: u64,
    /// The batch's data files, by their number in the batch.
    added: BTreeMap<u32, (LiveFile, RoaringBitmap)>,
    /// Files of rows that were held back, made whole for this plan alone: their deleted rows, key and position of the others.
    completed: Vec<CompletedRows>,
    /// Where the rows of changed keys stand.
    moved: Vec<(FormerKey, Site)>,
    pub(crate) unavailable: Unavailable,
}

/// A file of completed rows as the table lists it.
#[derive(Debug)]
struct CompletedRows {
    file: LiveFile,
    deleted: RoaringBitmap,
    /// Key and position of the rows that live.
    keys: Vec<(u128, u32)>,
    row_ids: RowIds,
}

impl Effect {
    /// The data files that were written for this plan alone.
    pub(crate) fn own_files(&self) -> Vec<String> {
        self.completed.iter().map(|rows| rows.file.path.clone()).collect()
    }

    /// Whether the batch's data file of this number goes into the table.
    pub(crate) fn adds(&self, number: u32) -> bool {
        self.added.contains_key(&number)
    }
}

impl Upserts {
    pub(crate) fn new(shared: &Shared) -> Self {
        Self {
            home: shared.index.clone(),
            index: Box::new(MemoryIndex::default()),
            table: None,
            restored: BTreeSet::new(),
            ahead: None,
            live: HashMap::new(),
            listed: false,
            deleted: DeletedRows::new(&shared.memory),
            remaps: Remaps::new(&shared.memory),
            owned: BTreeSet::new(),
            manifests: shared.manifests.clone(),
            moved: Moved::default(),
            awaited: Awaiting::default(),
            scanned: None,
        }
    }

    /// Where the rows of `keys` are, as far as the index knows.
    fn locate(&mut self, keys: &[u128]) -> Result<Vec<Option<Location>>, LakeError> {
        let found = blocking(|| self.index.lookup(keys))?;
        Ok(found.into_iter().map(|at| at.and_then(|at| self.remaps.follow(at))).collect())
    }

    /// Keys in the index.
    pub(crate) fn keys(&self) -> usize {
        self.index.len()
    }

    /// How long data files were scanned for keys since this was last asked.
    pub(crate) fn scan_took(&mut self) -> Option<Duration> {
        self.scanned.take()
    }

    /// How long a commit waits for the delete of a former key.
    pub(crate) fn wait_at_most(&mut self, wait: Duration) {
        self.awaited.at_most = wait;
    }

    /// Says whose keys are needed: `assigned`, and those of the batch. Without an assignment partitions only ever join.
    pub(crate) fn own(&mut self, assigned: BTreeSet<TopicPartition>, batch: &[Span]) {
        if !assigned.is_empty() {
            self.owned = assigned;
        }
        self.owned.extend(batch.iter().map(|s| s.at.clone()));
    }

    /// Says that the keys of these are needed too, until [`own`](Self::own) is told anew.
    pub(crate) fn own_too(&mut self, partitions: impl Iterator<Item = TopicPartition>) {
        self.owned.extend(partitions);
    }

    /// What `batch` does to `base`: its files, all durable, and the rows that were `found`; `cuts` go from its own, too.
    ///
    /// # Errors
    /// When the base can't be read, or holds what can't be kept right.
    pub(crate) async fn plan(
        &mut self,
        base: &Table,
        batch: &Staged,
        cuts: &Cuts,
        found: Found,
    ) -> Result<(RowDelta, Effect), LakeError> {
        let Some(layout) = batch.layouts.first() else { return Ok(Default::default()) };
        let Found { replaced, cut, held, .. } = found;
        let mut delta = RowDelta::default();
        let mut effect = Effect::default();
        let mut to_write = vec![];
        let mut written_for = vec![];
        let origin = layout.origin_ids();

        let staged = batch.files.iter().map(|f| LiveFile::of(&f.data_file, f.spec_id, origin).candidate(f.number));
        let late = cuts.of_batch(base.file_io(), origin, staged).await?;
        for (number, rows) in replaced {
            let Some(file) = self.live.get(&number) else { continue };
            let before = self.deleted.get(number);
            let after = before | &rows;
            if after.len() == before.len() {
                continue;
            }
            effect.cut_rows += cut.get(&number).map_or(0, |cut| (cut - before).len());
            let own_deletes = file.deletes.iter().filter(|d| d.one_data_file);
            delta.removed.extend(
                own_deletes
                    .map(|d| FileKey { path: d.path.clone(), content_offset: d.vector.map(|(offset, _)| offset) }),
            );
            if after.len() >= file.rows {
                delta.removed.insert(FileKey { path: file.path.clone(), content_offset: None });
                effect.removed.push(number);
                continue;
            }
            to_write.push(Deleted {
                data_file: file.path.clone(),
                spec_id: file.spec_id,
                partition: file.partition.clone(),
                positions: after.clone(),
            });
            written_for.push((Place::Live(number), after));
        }
        for file in &batch.files {
            let superseded = batch.overlay.as_ref().and_then(|o| o.superseded().get(&file.number));
            let mut gone = superseded.cloned().unwrap_or_default();
            if let Some(late) = late.get(&file.number) {
                effect.late_rows += (late - &gone).len();
                gone |= late;
            }
            if gone.len() >= file.rows && !batch.held.needs_file(file.number) {
                // None of its rows is the last word on its key.
                continue;
            }
            let live = LiveFile::of(&file.data_file, file.spec_id, origin);
            if !gone.is_empty() {
                to_write.push(Deleted {
                    data_file: file.path.clone(),
                    spec_id: file.spec_id,
                    partition: live.partition.clone(),
                    positions: gone.clone(),
                });
                written_for.push((Place::Batch(file.number), gone));
            }
            effect.added.insert(file.number, (live, RoaringBitmap::new()));
            delta.data_files.push(SpecFile { spec_id: file.spec_id, file: file.data_file.clone() });
        }
        let (completed, moved) = self.complete(base, batch, &held).await?;
        effect.moved = moved;
        effect.unavailable = Unavailable { restored_rows: completed.restored, lost_rows: completed.lost };
        let late = completed.late(base.file_io(), origin, cuts).await?;
        for (CompletedFile { file, keys, mut deleted }, late) in completed.files.into_iter().zip(late) {
            effect.late_rows += (&late - &deleted).len();
            deleted |= late;
            let live = LiveFile::of(&file.data_file, file.spec_id, origin);
            if !deleted.is_empty() {
                to_write.push(Deleted {
                    data_file: file.path.clone(),
                    spec_id: file.spec_id,
                    partition: live.partition.clone(),
                    positions: deleted.clone(),
                });
                written_for.push((Place::Completed(effect.completed.len()), deleted));
            }
            let row_ids = file.row_ids;
            effect.completed.push(CompletedRows { file: live, deleted: RoaringBitmap::new(), keys, row_ids });
            delta.data_files.push(SpecFile { spec_id: file.spec_id, file: file.data_file });
        }
        let format = base.metadata().format_version();
        delta.delete_files = match deletes::write(base.file_io(), &layout.data_location, format, to_write).await {
            Ok(files) => files,
            Err(e) => {
                for path in effect.own_files() {
                    let _ = base.file_io().delete(&path).await;
                }
                return Err(e);
            }
        };
        for ((place, rows), written) in written_for.into_iter().zip(&delta.delete_files) {
            let listed = live::delete_file(&written.file);
            match place {
                Place::Live(number) => effect.deleted.push((number, listed, rows)),
                Place::Batch(number) => {
                    if let Some((file, deleted)) = effect.added.get_mut(&number) {
                        file.deletes.push(listed);
                        *deleted = rows;
                    }
                }
                Place::Completed(i) => {
                    if let Some(completed) = effect.completed.get_mut(i) {
                        completed.file.deletes.push(listed);
                        completed.deleted = rows;
                    }
                }
            }
        }
        Ok((delta, effect))
    }

    /// Whether a row of the base last planned for may be older than `lsn`, as far as the files' bounds tell.
    pub(crate) fn may_hold_older(&self, lsn: i64) -> bool {
        self.live.values().any(|file| file.lsn.is_none_or(|(low, _)| low < lsn))
    }

    /// The batch is in the table: its keys go into the index. `effect` is what the plan of the landed attempt did; where that is
    /// not known, the files are listed anew at the next commit. `first_row_ids` are those of the data files that it added.
    ///
    /// # Errors
    /// When the index can't be written; it is empty then and the next commit scans.
    pub(crate) fn committed(
        &mut self,
        snapshot_id: i64,
        batch: &Staged,
        effect: Option<Effect>,
        first_row_ids: &HashMap<String, i64>,
    ) -> Result<(), LakeError> {
        let result = failpoint::around(
            Step::IndexWrite,
            || self.try_committed(snapshot_id, batch, effect, first_row_ids),
            |failure| LakeError::Index(failure.to_string()),
        );
        if result.is_err() {
            self.start_over();
        }
        result
    }

    fn try_committed(
        &mut self,
        snapshot_id: i64,
        batch: &Staged,
        effect: Option<Effect>,
        first_row_ids: &HashMap<String, i64>,
    ) -> Result<(), LakeError> {
        let Some(stamp) = self.index.stamp().cloned() else { return Ok(()) };
        if self.ahead.is_some() {
            // A scan broke off, and then an earlier try turned out to have landed: no stamp tells what the index is true for.
            self.start_over();
            return Ok(());
        }
        let certain = effect.is_some();
        let mut effect = effect.unwrap_or_default();
        let origin = batch.layouts.first().and_then(|l| l.origin_ids());
        let mut numbers = HashMap::new();
        for file in &batch.files {
            let number = self.index.number(&file.path)?;
            numbers.insert(file.number, (number, &file.row_ids));
            match effect.added.remove(&file.number) {
                Some((live, deleted)) => {
                    self.live.insert(number, live.numbered(first_row_ids));
                    self.deleted.put(number, deleted);
                }
                // Listed in a moment; known, so that its keys are not read again.
                None if !certain => {
                    self.live.insert(number, LiveFile::of(&file.data_file, file.spec_id, origin));
                }
                None => {}
            }
        }
        let mut changes: Vec<(u128, Option<Location>)> = batch
            .overlay
            .iter()
            .flat_map(|overlay| overlay.keys())
            .filter_map(|(key, state)| match state {
                KeyState::At(RowPlace { file, position }) => {
                    let (file, row_ids) = *numbers.get(&file)?;
                    Some((key, Some(Location { file, position, row_id: row_ids.get(position) })))
                }
                KeyState::Deleted => Some((key, None)),
                // Every arriving row was written before the batch was closed; held ones are where they were completed.
                KeyState::Arriving(_) | KeyState::Held(_) => None,
            })
            .collect();
        for CompletedRows { file, deleted, keys, row_ids } in effect.completed {
            let number = self.index.number(&file.path)?;
            self.live.insert(number, file.numbered(first_row_ids));
            self.deleted.put(number, deleted);
            changes.extend(keys.into_iter().map(|(key, position)| {
                (key, Some(Location { file: number, position, row_id: row_ids.get(position) }))
            }));
        }
        effect.moved.into_iter().for_each(|(former, site)| self.moved.insert(former, site));
        self.awaited.forget(batch.held.former_keys());
        changes.sort_unstable_by_key(|(key, _)| *key);
        for number in effect.removed {
            self.live.remove(&number);
            self.deleted.forget(number);
        }
        for (number, file, rows) in effect.deleted {
            if let Some(live) = self.live.get_mut(&number) {
                live.deletes.retain(|d| !d.one_data_file);
                live.deletes.push(file);
                self.deleted.put(number, rows);
            }
        }
        // Files from before an upgrade to format v3 get theirs by the commit: the listing says them.
        let numbered = !matches!(self.table, Some((_, Holds::RowIds)))
            || self.live.values().all(|file| file.first_row_id.is_some());
        self.listed = certain && numbered;
        self.deleted.shrink();
        let stamp = Stamp { snapshot_id: Some(snapshot_id), ..stamp };
        let (index, live, remaps) = (&mut self.index, &self.live, &self.remaps);
        blocking(|| {
            index.apply(&changes)?;
            index.set_stamp(stamp, &|number| live.contains_key(&number) || remaps.leads_on(number))
        })
    }
}

/// Whose delete file it is.
enum Place {
    Live(u32),
    Batch(u32),
    Completed(usize),
}
