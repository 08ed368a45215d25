//! Rows that lack values the source did not send (PostgreSQL's unchanged TOAST), and how they get them.
//!
//! The values stand in the row that the change replaces. A stager can't know that row: it *holds back* the rows that lack values and
//! notes where in the batch an earlier version is ([`HeldBack`]). At the commit, on each fresh base, `resolve` finds the version that
//! has the values (in the batch, in the table, or, where a key was changed, in the row that was deleted under its former key:
//! `history`), `stored` reads it, and `complete` writes the completed rows into data files of that commit.

mod arrive;
mod awaited;
mod complete;
mod history;
mod resolve;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use arrow_array::RecordBatch;

use crate::sink::lake::layout::Layout;
use crate::sink::lake::overlay::{KeyState, Overlay, RowPlace, moved_to};

pub(crate) use arrive::{Arriving, Kept};
pub(crate) use awaited::{Awaited, Awaiting};
pub(crate) use complete::{Completed, CompletedFile, complete};
pub(crate) use history::look_back;
pub(crate) use resolve::{Moved, Site, Stored};

/// What became of the rows that came without all of their values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unavailable {
    /// Rows made whole.
    pub restored_rows: u64,
    /// Rows in which a column stays null: nothing has its value.
    pub lost_rows: u64,
}

/// Where held rows were written, by their numbers.
pub(crate) type HeldPlaces = Vec<(u32, RowPlace)>;

/// A former key, and the source position that its delete shares with the row of the new key, where the rows tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FormerKey {
    pub(crate) key: u128,
    pub(crate) lsn: Option<i64>,
}

/// Where the version before a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Earlier {
    /// The key had no row.
    Nowhere,
    /// In a file of the batch.
    Written(RowPlace),
    /// Among the rows held back.
    Held(u32),
    /// In the table, under this key.
    Stored(u128),
    /// In the table, under a former key that a delete of the batch ended. Where no row has it any more, that delete came again, or is
    /// the tombstone behind one that was committed before: the row is then where those went. `proven`: by its position the delete is
    /// the one.
    Ended { former: FormerKey, proven: bool },
    /// The row that a delete of this former key ended, and no such delete had come.
    Former(FormerKey),
}

/// A row held back.
#[derive(Clone, Debug)]
struct HeldRow {
    key: u128,
    /// Its batch and its row there.
    batch: u32,
    row: u32,
    /// Field ids of the columns that it lacks, ascending. None: it is whole, and kept for a later row.
    lacking: Arc<[i32]>,
    earlier: Earlier,
    lsn: Option<i64>,
}

/// The row that the delete of a changed key ended.
#[derive(Clone, Copy, Debug)]
struct Ended {
    earlier: Earlier,
    /// Where it stands in a file of the batch, deleted: a row that lived within one batch is written all the same, so that whoever
    /// needs its values later finds them.
    place: Option<RowPlace>,
}

#[derive(Clone, Debug)]
struct HeldBatch {
    layout: Arc<Layout>,
    rows: RecordBatch,
}

/// The rows that a batch holds back.
#[derive(Debug, Default)]
pub(crate) struct HeldBack {
    batches: Vec<HeldBatch>,
    rows: Vec<HeldRow>,
    /// The deletes of changed keys. Without a position, the last one of its key.
    ended: HashMap<FormerKey, Ended>,
    /// Held rows that such a delete ended: they are written, deleted.
    buried: BTreeSet<u32>,
    /// Files of the batch with rows that may be looked for although they are deleted.
    needed_files: BTreeSet<u32>,
    bytes: usize,
}

impl HeldBack {
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.ended.is_empty()
    }

    /// Memory held.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.bytes
            + self.rows.capacity() * size_of::<HeldRow>()
            + self.ended.capacity() * size_of::<(FormerKey, Ended)>()
    }

    /// Whether a row that may be looked for stands in this file of the batch, though none in it lives.
    pub(crate) fn needs_file(&self, number: u32) -> bool {
        self.needed_files.contains(&number)
    }

    /// Whether this held row is to be written at the commit: it is the last word on its key, or was ended by a changed key's delete.
    fn to_write(&self, overlay: &Overlay) -> Vec<u32> {
        let last = overlay.keys().filter_map(|(_, state)| match state {
            KeyState::Held(row) => Some(row),
            _ => None,
        });
        let mut rows: Vec<u32> = last.chain(self.buried.iter().copied()).collect();
        rows.sort_unstable();
        rows.dedup();
        rows
    }

    /// See [`Overlay::rows_moved`].
    pub(crate) fn rows_moved(&mut self, moved: &BTreeMap<u32, Vec<u32>>) {
        self.change_places(|place| moved_to(moved, place));
    }

    /// Joins what a later part holds back; its files are numbered from `first_file` on. Its held rows are numbered on from
    /// [`HeldBack::count`] as it was before. What it looked for in the table may be in the parts `before` it, which it did not see.
    pub(crate) fn join(&mut self, mut other: HeldBack, first_file: u32, before: &Overlay) {
        let (first_row, first_batch) = (self.count(), self.batches.len() as u32);
        other.change_places(|place| RowPlace { file: place.file + first_file, ..place });
        let joined = |earlier: Earlier| match earlier {
            Earlier::Held(row) => Earlier::Held(row + first_row),
            Earlier::Stored(key) | Earlier::Ended { former: FormerKey { key, .. }, .. } => match before.state(key) {
                Some(KeyState::At(place)) => Earlier::Written(place),
                Some(KeyState::Held(row)) => Earlier::Held(row),
                Some(KeyState::Deleted) => match earlier {
                    Earlier::Ended { former, .. } => Earlier::Former(former),
                    _ => Earlier::Nowhere,
                },
                Some(KeyState::Arriving(_)) | None => earlier,
            },
            earlier => earlier,
        };
        self.rows.extend(other.rows.into_iter().map(|held| HeldRow {
            batch: held.batch + first_batch,
            earlier: joined(held.earlier),
            ..held
        }));
        for (former, ended) in other.ended {
            let earlier = joined(ended.earlier);
            match (ended.earlier, earlier) {
                (Earlier::Ended { .. }, Earlier::Written(place)) => _ = self.needed_files.insert(place.file),
                (Earlier::Ended { .. }, Earlier::Held(row)) => _ = self.buried.insert(row),
                // The key had no row any more: this delete ended nothing.
                (_, Earlier::Former(_)) => continue,
                _ => {}
            }
            self.ended.insert(former, Ended { earlier, ..ended });
        }
        self.needed_files.extend(other.needed_files.into_iter().map(|file| file + first_file));
        self.buried.extend(other.buried.into_iter().map(|row| row + first_row));
        self.batches.extend(other.batches);
        self.bytes += other.bytes;
    }

    /// Former keys whose rows its rows need.
    pub(crate) fn former_keys(&self) -> impl Iterator<Item = FormerKey> + '_ {
        self.rows.iter().filter_map(|row| match row.earlier {
            Earlier::Former(former) | Earlier::Ended { former, .. } => Some(former),
            _ => None,
        })
    }

    /// Rows held, those included that nobody needs any more.
    pub(crate) fn count(&self) -> u32 {
        self.rows.len() as u32
    }

    fn change_places(&mut self, change: impl Fn(RowPlace) -> RowPlace) {
        let places =
            self.rows.iter_mut().map(|r| &mut r.earlier).chain(self.ended.values_mut().map(|e| &mut e.earlier));
        for earlier in places {
            if let Earlier::Written(place) = earlier {
                *place = change(*place);
            }
        }
        for ended in self.ended.values_mut() {
            ended.place = ended.place.map(&change);
        }
    }
}
