//! Keeps the key index true for the table's snapshot.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use futures::{StreamExt, TryStreamExt, stream};
use iceberg::spec::TableMetadata;
use iceberg::table::Table;
use roaring::RoaringBitmap;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::mpsc;

use super::Upserts;
use crate::position::TopicPartition;
use crate::sink::lake::LakeError;
use crate::sink::lake::deletes::{self, DeleteFile};
use crate::sink::lake::index::{Holds, Location, MemoryIndex, Stamp};
use crate::sink::lake::layout::Layout;
use crate::sink::lake::live::{self, LiveFile};
use crate::sink::lake::ownership::{Owned, may_hold};
use crate::sink::lake::scan::{KeyScan, ScannedRow};

/// Data files scanned at once, each on a thread of the runtime.
const SCANS_AT_ONCE: usize = 4;
/// Pieces of files (some 30,000 keys, a megabyte) that were scanned and are not applied: files may be larger than the memory.
const PIECES_AHEAD: usize = 8;
/// Where so many rows are new to the index and more than half of all, it is filled anew: that is cheaper than to replace most of it.
const MANY_ROWS: u64 = 1 << 20;

impl Upserts {
    /// Makes index and listing true for `base`, from scratch unless `base` descends from the snapshot they were true for (a
    /// rollback brings deleted rows back into files that were seen): files that left are dropped, keys of files not seen before are read (not of
    /// those whose rewrite left word where their rows were before), and so are
    /// the keys of Kafka partitions that joined. One rule for start, take-over, other processes and foreign compactions; per key at
    /// most one row is live, so the order of the files doesn't matter.
    pub(super) async fn catch_up(&mut self, base: &Table, layout: &Arc<Layout>) -> Result<(), LakeError> {
        let metadata = base.metadata();
        if self.table != Some((metadata.uuid(), holds(layout))) {
            self.open(metadata, layout)?;
        }
        let snapshot_id = metadata.current_snapshot_id();
        let wanted = Stamp { snapshot_id, owned: self.owned.clone(), key_ids: layout.key_ids() };
        if self.listed && self.ahead.is_none() && self.index.stamp() == Some(&wanted) {
            return Ok(());
        }
        let listing = live::list(base, &layout.table, layout.origin_ids(), &self.manifests).await?;
        let usable = self.index.stamp().is_some_and(|have| {
            descends(metadata, have.snapshot_id)
                && self.ahead.is_none_or(|ahead| descends(metadata, ahead))
                && have.key_ids == wanted.key_ids
                && (have.owned.is_empty() || !have.owned.is_disjoint(&wanted.owned))
        });
        // What a scan that broke off has read stands under the files' plain numbers: so it goes on.
        if usable && self.ahead.is_none() {
            self.follow_rewrites(base, &listing).await?;
        }
        if !usable || self.is_mostly_new(&listing)? {
            self.start_over();
            if self.table.is_none() {
                self.open(metadata, layout)?;
                // Whatever another process left there: nobody has looked what it is true for.
                self.restored.clear();
                self.index.clear()?;
            }
        }
        let owned_before = self.index.stamp().map(|s| s.owned.clone()).unwrap_or_default();
        let joined: BTreeSet<TopicPartition> = wanted.owned.difference(&owned_before).cloned().collect();

        let mut live = HashMap::new();
        let mut scans = vec![];
        for file in listing {
            let number = self.number(&file.path)?;
            if self.live.get(&number).is_none_or(|k| k.deletes != file.deletes) {
                self.deleted.forget(number);
            }
            let owned = match self.is_known(number) || self.remaps.number(&file.path).is_some() {
                false => Owned::all(&wanted.owned),
                true => Owned::joined(&joined),
            };
            if may_hold(&file, &owned) {
                scans.push((number, owned));
            }
            live.insert(number, file);
        }
        for number in self.live.keys().filter(|number| !live.contains_key(number)) {
            self.deleted.forget(*number);
        }
        if !scans.is_empty() {
            let began = Instant::now();
            self.ahead = Some(snapshot_id);
            scan(base, layout, &live, scans, |file, rows| {
                let puts: Vec<(u128, Option<Location>)> =
                    rows.into_iter().map(|row| (row.key, Some(row.in_file(file)))).collect();
                blocking(|| self.index.apply(&puts))
            })
            .await?;
            self.scanned = Some(self.scanned.unwrap_or_default() + began.elapsed());
        }
        self.remaps.retain(|number| live.contains_key(&number));
        let (index, remaps) = (&mut self.index, &self.remaps);
        blocking(|| index.set_stamp(wanted, &|number| live.contains_key(&number) || remaps.leads_on(number)))?;
        self.ahead = None;
        self.live = live;
        self.listed = true;
        self.restored.clear();
        Ok(())
    }

    /// The index of this table, as it was left.
    fn open(&mut self, metadata: &TableMetadata, layout: &Layout) -> Result<(), LakeError> {
        // The one before lets go of its folder first.
        (self.index, self.table) = (Box::new(MemoryIndex::default()), None);
        self.index = self.home.open(metadata.uuid(), holds(layout))?;
        self.table = Some((metadata.uuid(), holds(layout)));
        self.restored = self.index.files();
        self.forget_files();
        Ok(())
    }

    /// Everything is scanned anew.
    pub(super) fn start_over(&mut self) {
        self.forget_files();
        self.restored.clear();
        self.ahead = None;
        if let Err(e) = self.index.clear() {
            // Its folder was deleted, perhaps: another one is opened.
            tracing::debug!("{e}");
            (self.index, self.table) = (Box::new(MemoryIndex::default()), None);
        }
    }

    fn forget_files(&mut self) {
        self.remaps.clear();
        self.live.clear();
        self.listed = false;
        self.deleted.clear();
    }

    /// Whether the keys of a data file are in the index.
    pub(super) fn is_known(&self, number: u32) -> bool {
        self.live.contains_key(&number) || self.restored.contains(&number)
    }

    fn is_mostly_new(&mut self, listing: &[LiveFile]) -> Result<bool, LakeError> {
        let (mut new, mut all) = (0, 0);
        for file in listing {
            let number = self.number(&file.path)?;
            let known = self.is_known(number) || self.remaps.number(&file.path).is_some();
            all += file.rows;
            new += if known { 0 } else { file.rows };
        }
        Ok(new > MANY_ROWS && new * 2 > all)
    }
}

/// Reads the keys of live rows, piece by piece as they come: `take` gets a file's number, and some of its rows.
pub(super) async fn scan(
    base: &Table,
    layout: &Arc<Layout>,
    live: &HashMap<u32, LiveFile>,
    scans: Vec<(u32, Owned)>,
    mut take: impl FnMut(u32, Vec<ScannedRow>) -> Result<(), LakeError>,
) -> Result<(), LakeError> {
    for some in scans.chunks(SCANS_AT_ONCE * 4) {
        let wanted: Vec<(&str, &[DeleteFile])> = some
            .iter()
            .filter_map(|(number, _)| live.get(number))
            .map(|f| (f.path.as_str(), f.deletes.as_slice()))
            .collect();
        let deleted = deletes::read(base.file_io(), &wanted).await?;
        let mut tasks = vec![];
        for (number, owned) in some {
            if let Some(file) = live.get(number) {
                let rows = deleted.get(&file.path).cloned().unwrap_or_default();
                tasks.push((*number, file.path.clone(), rows, owned.clone()));
            }
        }
        let (sender, mut pieces) = mpsc::channel(PIECES_AHEAD);
        let scans = async move {
            let scan = |(number, path, deleted, owned): (u32, String, RoaringBitmap, Owned)| {
                let (layout, io, sender) = (Arc::clone(layout), base.file_io().clone(), sender.clone());
                let task = tokio::spawn(async move {
                    let mut keys = KeyScan::open(&layout, &io, &path, &deleted, &owned).await?;
                    while let Some(rows) = keys.next().await? {
                        if sender.send((number, rows)).await.is_err() {
                            break; // Nobody wants them any more.
                        }
                    }
                    Ok::<_, LakeError>(())
                });
                async { task.await.map_err(|e| LakeError::Storage(format!("a scan broke off: {e}")))? }
            };
            let mut scans = stream::iter(tasks).map(scan).buffer_unordered(SCANS_AT_ONCE);
            while let Some(()) = scans.try_next().await? {}
            Ok::<_, LakeError>(())
        };
        let takes = async {
            while let Some((file, rows)) = pieces.recv().await {
                take(file, rows)?;
            }
            Ok::<_, LakeError>(())
        };
        futures::try_join!(scans, takes)?;
    }
    Ok(())
}

/// What the index of a table of this layout has beside places.
pub(super) fn holds(layout: &Layout) -> Holds {
    if layout.keeps_row_ids() { Holds::RowIds } else { Holds::Nothing }
}

/// Whether the table's current snapshot is `ancestor` or descends from it, as far as its snapshots tell.
fn descends(metadata: &TableMetadata, ancestor: Option<i64>) -> bool {
    let mut at = metadata.current_snapshot_id();
    for _ in 0..=metadata.snapshots().len() {
        if at == ancestor {
            return true;
        }
        let Some(snapshot) = at.and_then(|id| metadata.snapshot_by_id(id)) else { return false };
        at = snapshot.parent_snapshot_id();
    }
    false
}

/// Does what may read or write files for long; other tasks of the thread go on elsewhere.
pub(in crate::sink::lake) fn blocking<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}
