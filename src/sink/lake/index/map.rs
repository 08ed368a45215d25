//! Entries in memory, and the numbers of data files.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use hashbrown::HashTable;
use hashbrown::hash_table;

use super::place::{Place, piece};
use super::{Location, broken};
use crate::sink::lake::LakeError;

/// Tables that the keys are spread over: one grows at a time, so growing costs little memory at once.
const SHARDS: usize = 64;
const SHARD_BITS: u32 = SHARDS.trailing_zeros();

/// 24 bytes, 32 with a row id; a `u128` as such would be aligned to 16 and make both 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry<P> {
    key: [u64; 2],
    place: P,
}

impl<P: Place> Entry<P> {
    /// In a file.
    pub(super) const BYTES: usize = 16 + P::BYTES;

    pub(super) fn new(key: u128, at: Location) -> Self {
        Self { key: split(key), place: P::of(at) }
    }

    pub(super) fn at(self) -> Location {
        self.place.location()
    }

    pub(super) fn key(self) -> u128 {
        (u128::from(self.key[0]) << 64) | u128::from(self.key[1])
    }

    /// As it stands in files: in the order of the keys.
    pub(super) fn push_to(self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.key().to_be_bytes());
        self.place.push_to(bytes);
    }

    /// From as many bytes as an entry has.
    pub(super) fn from_bytes(bytes: &[u8]) -> Self {
        let word = |from| u64::from_be_bytes(piece(bytes, from));
        Self { key: [word(0), word(8)], place: P::from_bytes(bytes.get(16..).unwrap_or_default()) }
    }

    /// Those that stand one behind the other.
    pub(super) fn all_from(bytes: &[u8]) -> impl Iterator<Item = Self> + '_ {
        bytes.chunks_exact(Self::BYTES).map(Self::from_bytes)
    }
}

fn split(key: u128) -> [u64; 2] {
    [(key >> 64) as u64, key as u64]
}

/// The high half chooses the shard (in the order of the keys), the low half the slot in it.
fn shard(key: [u64; 2]) -> usize {
    (key[0] >> (u64::BITS - SHARD_BITS)) as usize
}

/// A hash table of entries: at most about 57 bytes a key, 76 with row ids.
#[derive(Debug)]
pub(super) struct EntryMap<P> {
    shards: Vec<HashTable<Entry<P>>>,
}

impl<P> Default for EntryMap<P> {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| HashTable::new()).collect() }
    }
}

impl<P: Place> EntryMap<P> {
    pub(super) fn get(&self, key: u128) -> Option<Location> {
        let key = split(key);
        Some(self.shards.get(shard(key))?.find(key[1], |e| e.key == key)?.at())
    }

    pub(super) fn put(&mut self, key: u128, at: Location) {
        let entry = Entry::new(key, at);
        let Some(table) = self.shards.get_mut(shard(entry.key)) else { return };
        match table.entry(entry.key[1], |e| e.key == entry.key, |e| e.key[1]) {
            hash_table::Entry::Occupied(mut have) => *have.get_mut() = entry,
            hash_table::Entry::Vacant(free) => {
                free.insert(entry);
            }
        }
    }

    pub(super) fn remove(&mut self, key: u128) {
        let key = split(key);
        if let Some(table) = self.shards.get_mut(shard(key))
            && let Ok(have) = table.find_entry(key[1], |e| e.key == key)
        {
            have.remove();
        }
    }

    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(HashTable::len).sum()
    }

    /// Memory held.
    pub(super) fn bytes(&self) -> usize {
        self.shards.iter().map(HashTable::allocation_size).sum()
    }

    /// All entries in the order of their keys; the map is empty then.
    pub(super) fn drain_sorted(&mut self) -> Vec<Entry<P>> {
        let mut all = Vec::with_capacity(self.len());
        for table in &mut self.shards {
            let first = all.len();
            all.extend(std::mem::take(table));
            if let Some(of_shard) = all.get_mut(first..) {
                of_shard.sort_unstable_by_key(|e: &Entry<P>| e.key);
            }
        }
        all
    }
}

/// Data files by number.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    by_path: HashMap<Arc<str>, u32>,
    next: u32,
}

impl Numbers {
    pub(super) fn restored(by_path: BTreeMap<String, u32>, next: u32) -> Self {
        Self { by_path: by_path.into_iter().map(|(path, number)| (path.into(), number)).collect(), next }
    }

    /// The number of `path`, and whether it is new.
    pub(super) fn number(&mut self, path: &str) -> Result<(u32, bool), LakeError> {
        if let Some(number) = self.by_path.get(path) {
            return Ok((*number, false));
        }
        let number = self.next;
        // The last number means "gone".
        self.next = number
            .checked_add(1)
            .filter(|next| *next < u32::MAX)
            .ok_or_else(|| broken("more than 2^32 data files: delete its folder, it is built anew"))?;
        self.by_path.insert(path.into(), number);
        Ok((number, true))
    }

    /// Forgets all others; answers their paths.
    pub(super) fn retain(&mut self, is_live: &dyn Fn(u32) -> bool) -> Vec<String> {
        self.by_path.extract_if(|_, number| !is_live(*number)).map(|(path, _)| path.to_string()).collect()
    }

    /// Numbers go on where they were: an entry that outlives its file must not meet another one.
    pub(super) fn clear(&mut self) {
        self.by_path.clear();
    }

    pub(super) fn next(&self) -> u32 {
        self.next
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, u32)> {
        self.by_path.iter().map(|(path, number)| (path.as_ref(), *number))
    }
}

#[cfg(test)]
mod tests {
    use super::super::place::{Bare, Numbered};
    use super::*;

    fn costs<P: Place>(at: Location, bytes: usize) {
        let entry = Entry::<P>::new(u128::MAX - 5, at);
        let mut stored = vec![];
        entry.push_to(&mut stored);
        assert_eq!((size_of::<Entry<P>>(), Entry::<P>::BYTES, stored.len()), (bytes, bytes, bytes));
        assert_eq!(Entry::from_bytes(&stored), entry);
        assert_eq!((entry.key(), entry.at()), (u128::MAX - 5, at));
    }

    #[test]
    fn an_entry_costs_24_bytes_and_32_with_a_row_id() {
        let at = Location { file: 3, position: 1 << 30, row_id: None };
        costs::<Bare>(at, 24);
        costs::<Numbered>(at, 32);
        costs::<Numbered>(Location { row_id: Some(i64::MAX), ..at }, 32);
        costs::<Numbered>(Location::GONE, 32);
    }

    #[test]
    fn entries_leave_in_the_order_of_their_keys() {
        let mut map = EntryMap::<Bare>::default();
        let mut keys: Vec<u128> = (0..5_000u64).map(|n| xxhash_rust::xxh3::xxh3_128(&n.to_le_bytes())).collect();
        for (n, key) in (0..).zip(&keys) {
            map.put(*key, Location { file: 0, position: n, row_id: None });
        }
        map.remove(keys.swap_remove(7));
        keys.sort_unstable();
        assert_eq!(map.drain_sorted().iter().map(|e| e.key()).collect::<Vec<_>>(), keys);
        assert_eq!((map.len(), map.bytes()), (0, 0));
    }

    #[test]
    fn a_file_keeps_its_number_and_no_other_gets_it() {
        let mut numbers = Numbers::default();
        let (a, new) = numbers.number("a").unwrap();
        assert!(new);
        assert_eq!(numbers.number("a").unwrap(), (a, false));
        assert_eq!(numbers.retain(&|number| number != a), ["a"]);
        let (b, _) = numbers.number("b").unwrap();
        numbers.clear();
        let (c, _) = numbers.number("c").unwrap();
        assert!(a < b && b < c);
    }
}
