//! What a batch does to its keys before it is committed: the last change of each key wins.
//!
//! Pure bookkeeping: no Arrow, no files. Nothing here touches the index; that happens when the batch is committed.

use std::collections::BTreeMap;
use std::collections::hash_map::Entry;

use roaring::RoaringBitmap;

use crate::sink::lake::keys::KeyMap;

/// A row of a file that the batch has staged: the file's number within the batch, the row's position in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RowPlace {
    pub(crate) file: u32,
    pub(crate) position: u32,
}

/// Where a key stands after the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyState {
    At(RowPlace),
    Deleted,
    /// In the arriving rows, not written yet: its row there.
    Arriving(u32),
    /// Held back until the commit, since it lacks values: its number there.
    Held(u32),
}

/// Where a row is after the rows of its file moved: `moved` tells per file where each went.
pub(crate) fn moved_to(moved: &BTreeMap<u32, Vec<u32>>, place: RowPlace) -> RowPlace {
    let to = moved.get(&place.file).and_then(|m| m.get(place.position as usize).copied());
    RowPlace { position: to.unwrap_or(place.position), ..place }
}

#[derive(Clone, Copy, Debug)]
struct Standing {
    state: KeyState,
    /// It was deleted in this batch: what came back is another row than the one that the table may have.
    anew: bool,
}

/// The keys of a batch.
#[derive(Debug, Default)]
pub(crate) struct Overlay {
    keys: KeyMap<Standing>,
    /// Rows written by this batch and then superseded by it, per file.
    superseded: BTreeMap<u32, RoaringBitmap>,
}

impl Overlay {
    /// Takes in the keys of arriving rows in their order and says which of the rows are to be written.
    pub(crate) fn arrive(&mut self, keys: &[u128], is_delete: impl Fn(usize) -> bool) -> Vec<bool> {
        let mut keep = vec![true; keys.len()];
        for (row, key) in keys.iter().enumerate() {
            let state = if is_delete(row) {
                keep[row] = false;
                KeyState::Deleted
            } else {
                KeyState::Arriving(row as u32)
            };
            match self.put(*key, state) {
                Some(KeyState::Arriving(earlier)) => {
                    if let Some(keep) = keep.get_mut(earlier as usize) {
                        *keep = false;
                    }
                }
                Some(KeyState::At(place)) => self.supersede(place),
                Some(KeyState::Deleted | KeyState::Held(_)) | None => {}
            }
        }
        keep
    }

    pub(crate) fn state(&self, key: u128) -> Option<KeyState> {
        self.keys.get(&key).map(|standing| standing.state)
    }

    /// The state of a key whose row, if it has one, replaces the one in the table; `None` for one that comes anew.
    pub(crate) fn replacing(&self, key: u128) -> Option<KeyState> {
        self.keys.get(&key).filter(|standing| !standing.anew).map(|standing| standing.state)
    }

    /// Sets the state of a key; answers the one before.
    pub(crate) fn put(&mut self, key: u128, state: KeyState) -> Option<KeyState> {
        self.insert(key, Standing { state, anew: false })
    }

    fn insert(&mut self, key: u128, later: Standing) -> Option<KeyState> {
        match self.keys.entry(key) {
            Entry::Vacant(free) => {
                free.insert(later);
                None
            }
            Entry::Occupied(mut have) => {
                let before = *have.get();
                let anew = before.anew || later.anew || before.state == KeyState::Deleted;
                have.insert(Standing { state: later.state, anew });
                Some(before.state)
            }
        }
    }

    /// The row of `key` that was to be written is now at `place`.
    pub(crate) fn written(&mut self, key: u128, place: RowPlace) {
        self.put(key, KeyState::At(place));
    }

    /// The rows held back are gone.
    pub(crate) fn forget_held(&mut self) {
        let held = self.keys.values_mut().filter(|standing| matches!(standing.state, KeyState::Held(_)));
        held.for_each(|standing| standing.state = KeyState::Deleted);
    }

    /// The row that was written at `place` is not the last word on its key.
    pub(crate) fn supersede(&mut self, place: RowPlace) {
        self.superseded.entry(place.file).or_default().insert(place.position);
    }

    /// The rows of `file` moved: the row at position `p` is now at `moved[p]` (it was sorted).
    pub(crate) fn rows_moved(&mut self, moved: &BTreeMap<u32, Vec<u32>>) {
        if moved.is_empty() {
            return;
        }
        for standing in self.keys.values_mut() {
            if let KeyState::At(place) = &mut standing.state {
                *place = moved_to(moved, *place);
            }
        }
        for (file, rows) in &mut self.superseded {
            *rows = rows.iter().map(|position| moved_to(moved, RowPlace { file: *file, position }).position).collect();
        }
    }

    /// Joins the keys of a later part, whose files are numbered from `first_file` and its held rows from `first_held` on. Parts of one
    /// worker come in their order and may have the same keys; other workers hold other Kafka partitions and so other keys.
    pub(crate) fn join(&mut self, other: Overlay, first_file: u32, first_held: u32) {
        let shift = |place: RowPlace| RowPlace { file: place.file + first_file, ..place };
        for (file, rows) in other.superseded {
            *self.superseded.entry(file + first_file).or_default() |= rows;
        }
        self.keys.reserve(other.keys.len());
        for (key, Standing { state, anew }) in other.keys {
            let state = match state {
                KeyState::At(place) => KeyState::At(shift(place)),
                KeyState::Held(row) => KeyState::Held(row + first_held),
                other => other,
            };
            if let Some(KeyState::At(place)) = self.insert(key, Standing { state, anew }) {
                self.supersede(place);
            }
        }
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = (u128, KeyState)> + '_ {
        self.keys.iter().map(|(k, s)| (*k, s.state))
    }

    /// Whether the batch has a change of this key.
    pub(crate) fn contains(&self, key: u128) -> bool {
        self.keys.contains_key(&key)
    }

    /// Superseded rows per file.
    pub(crate) fn superseded(&self) -> &BTreeMap<u32, RoaringBitmap> {
        &self.superseded
    }

    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Memory held, roughly.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.keys.capacity() * (size_of::<(u128, Standing)>() + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(file: u32, position: u32) -> RowPlace {
        RowPlace { file, position }
    }

    /// Writes the kept rows to `file` from `position` on, as a stager does.
    fn write(o: &mut Overlay, keys: &[u128], deletes: &[usize], file: u32, mut position: u32) -> u32 {
        let keep = o.arrive(keys, |i| deletes.contains(&i));
        for (i, key) in keys.iter().enumerate().filter(|(i, _)| keep[*i]) {
            let _ = i;
            o.written(*key, at(file, position));
            position += 1;
        }
        position
    }

    #[test]
    fn the_last_change_of_a_key_wins_and_earlier_ones_are_not_written() {
        let mut o = Overlay::default();
        assert_eq!(o.arrive(&[1, 2, 1, 3, 2], |i| i == 4), [false, false, true, true, false]);
        let deleted: Vec<u128> = o.keys().filter(|(_, s)| *s == KeyState::Deleted).map(|(k, _)| k).collect();
        assert_eq!(deleted, [2]);
    }

    #[test]
    fn a_row_written_before_is_superseded_by_position() {
        let mut o = Overlay::default();
        let next = write(&mut o, &[1, 2, 3], &[], 0, 0);
        write(&mut o, &[2, 3], &[1], 0, next);
        assert_eq!(o.superseded()[&0].iter().collect::<Vec<_>>(), [1, 2]);
        let states: BTreeMap<u128, KeyState> = o.keys().collect();
        assert_eq!(states[&2], KeyState::At(at(0, 3)));
        assert_eq!(states[&3], KeyState::Deleted);
    }

    #[test]
    fn a_key_that_comes_back_after_a_delete_has_one_row() {
        let mut o = Overlay::default();
        write(&mut o, &[1, 1, 1], &[1], 0, 0);
        assert!(o.superseded().is_empty());
        assert_eq!(o.keys().collect::<Vec<_>>(), [(1, KeyState::At(at(0, 0)))]);
    }

    #[test]
    fn a_key_that_was_deleted_and_came_back_replaces_no_row_of_the_table() {
        let mut o = Overlay::default();
        let next = write(&mut o, &[1, 2, 3], &[1], 0, 0);
        let next = write(&mut o, &[2, 3], &[], 0, next);
        write(&mut o, &[2], &[], 0, next);
        assert_eq!((o.replacing(1).is_some(), o.replacing(2), o.replacing(3).is_some()), (true, None, true));
        // Deleted in one part, back in a later one.
        let (mut a, mut b) = (Overlay::default(), Overlay::default());
        write(&mut a, &[7, 8], &[0], 0, 0);
        write(&mut b, &[7, 8], &[], 0, 0);
        a.join(b, 1, 0);
        assert_eq!((a.replacing(7), a.replacing(8)), (None, Some(KeyState::At(at(1, 1)))));
        assert_eq!(size_of::<(u128, Standing)>(), 32, "as much as the state alone");
    }

    #[test]
    fn sorted_files_move_places_and_superseded_rows() {
        let mut o = Overlay::default();
        let next = write(&mut o, &[1, 2, 3], &[], 0, 0);
        write(&mut o, &[1], &[], 0, next);
        o.rows_moved(&[(0, vec![3, 2, 1, 0])].into());
        assert_eq!(o.superseded()[&0].iter().collect::<Vec<_>>(), [3]);
        let states: BTreeMap<u128, KeyState> = o.keys().collect();
        assert_eq!(states[&1], KeyState::At(at(0, 0)));
    }

    #[test]
    fn a_key_of_two_workers_keeps_one_row() {
        let (mut a, mut b) = (Overlay::default(), Overlay::default());
        write(&mut a, &[1, 2], &[], 0, 0);
        write(&mut b, &[2, 4], &[], 0, 0);
        a.join(b, 1, 0);
        assert_eq!(a.superseded()[&0].iter().collect::<Vec<_>>(), [1]);
        assert_eq!(a.keys().find(|(k, _)| *k == 2), Some((2, KeyState::At(at(1, 0)))));
    }
}
