//! Which rows of the base a batch replaces, and the ids that its own rows have from them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use iceberg::table::Table;
use roaring::RoaringBitmap;

use super::Upserts;
use crate::sink::lake::cut::Cuts;
use crate::sink::lake::deletes::{self, DeleteFile};
use crate::sink::lake::index::Location;
use crate::sink::lake::layout::Layout;
use crate::sink::lake::overlay::{KeyState, Overlay};
use crate::sink::lake::row_ids::RowIds;
use crate::sink::lake::{LakeError, Staged};

/// What a base has of a batch's keys.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Rows that go, per file, those of the cuts included.
    pub(super) replaced: BTreeMap<u32, RoaringBitmap>,
    /// Rows that go by a cut.
    pub(super) cut: BTreeMap<u32, RoaringBitmap>,
    /// The ids of the batch's rows that replace others, by the number of their file (format v3).
    pub(crate) row_ids: BTreeMap<u32, RowIds>,
    /// Those of held-back rows, by key.
    pub(super) held: HashMap<u128, i64>,
}

/// Keys in order, each with what the index says of it.
struct Entries {
    keys: Vec<u128>,
    at: Vec<Option<Location>>,
}

impl Upserts {
    /// The rows of `base` that hold the batch's keys, or that `cuts` take.
    ///
    /// # Errors
    /// When the base can't be read, or holds what can't be kept right.
    pub(crate) async fn find(&mut self, base: &Table, batch: &Staged, cuts: &Cuts) -> Result<Found, LakeError> {
        let Some(layout) = batch.layouts.first() else { return Ok(Found::default()) };
        let entries = self.entries(base, batch, layout).await?;
        let live = self.live.iter().map(|(number, file)| file.candidate(*number));
        let cut = cuts.of_table(base.file_io(), layout.origin_ids(), live).await?;
        let mut replaced = self.rows(&entries);
        for (number, rows) in &cut {
            *replaced.entry(*number).or_default() |= rows;
        }
        self.load_deleted(base, replaced.keys().copied()).await?;
        let mut found = Found { replaced, cut, ..Found::default() };
        if let Some(overlay) = batch.overlay.as_ref().filter(|_| layout.keeps_row_ids()) {
            self.give_row_ids(&mut found, &entries, overlay);
        }
        Ok(found)
    }

    /// What the index says of the batch's keys. One that can't be read is built anew, once.
    async fn entries(&mut self, base: &Table, batch: &Staged, layout: &Arc<Layout>) -> Result<Entries, LakeError> {
        let found = match self.catch_up(base, layout).await {
            Ok(()) => self.look_up(batch),
            Err(e) => Err(e),
        };
        match found {
            Err(LakeError::Index(e)) => {
                tracing::warn!(table = %layout.table, "key index: {e}: it is built anew");
                self.start_over();
                self.catch_up(base, layout).await?;
                self.look_up(batch)
            }
            found => found,
        }
    }

    fn look_up(&mut self, batch: &Staged) -> Result<Entries, LakeError> {
        let mut keys: Vec<u128> = batch.overlay.iter().flat_map(Overlay::keys).map(|(key, _)| key).collect();
        keys.sort_unstable();
        let at = self.locate(&keys)?;
        Ok(Entries { keys, at })
    }

    /// The rows of live files among them, per file.
    fn rows(&self, entries: &Entries) -> BTreeMap<u32, RoaringBitmap> {
        let hits = entries.at.iter().flatten().filter(|at| self.live.contains_key(&at.file));
        let mut hits: Vec<(u32, u32)> = hits.map(|at| (at.file, at.position)).collect();
        hits.sort_unstable();
        let of_file = |hits: &[(u32, u32)]| {
            let (file, _) = hits.first()?;
            Some((*file, hits.iter().map(|(_, position)| *position).collect()))
        };
        hits.chunk_by(|a, b| a.0 == b.0).filter_map(of_file).collect()
    }

    /// A row has the id of the row that it replaces, as long as that one lives in the base.
    fn give_row_ids(&self, found: &mut Found, entries: &Entries, overlay: &Overlay) {
        let mut of_files = BTreeMap::<u32, Vec<(u32, i64)>>::new();
        for (key, at) in entries.keys.iter().zip(&entries.at) {
            let Some((at, file)) = at.and_then(|at| Some((at, self.live.get(&at.file)?))) else { continue };
            let goes = |rows: Option<&RoaringBitmap>| rows.is_some_and(|rows| rows.contains(at.position));
            if goes(Some(self.deleted.get(at.file))) || goes(found.cut.get(&at.file)) {
                continue;
            }
            // A file from before the table was upgraded has no ids until the next commit.
            let Some(id) = at.row_id.or_else(|| Some(file.first_row_id? + i64::from(at.position))) else { continue };
            match overlay.replacing(*key) {
                Some(KeyState::At(place)) => of_files.entry(place.file).or_default().push((place.position, id)),
                Some(KeyState::Held(_)) => _ = found.held.insert(*key, id),
                Some(KeyState::Deleted | KeyState::Arriving(_)) | None => {}
            }
        }
        found.row_ids = of_files.into_iter().map(|(file, ids)| (file, ids.into_iter().collect())).collect();
    }

    /// Reads the deleted rows of these live files unless they are known.
    pub(super) async fn load_deleted(
        &mut self,
        base: &Table,
        files: impl Iterator<Item = u32>,
    ) -> Result<(), LakeError> {
        let unknown: BTreeSet<u32> = files.filter(|n| !self.deleted.knows(*n)).collect();
        let wanted: Vec<(&str, &[DeleteFile])> =
            unknown.iter().filter_map(|n| self.live.get(n)).map(|f| (f.path.as_str(), f.deletes.as_slice())).collect();
        let mut read = deletes::read(base.file_io(), &wanted).await?;
        for number in unknown {
            if let Some(rows) = self.live.get(&number).and_then(|f| read.remove(&f.path)) {
                self.deleted.put(number, rows);
            }
        }
        Ok(())
    }
}
