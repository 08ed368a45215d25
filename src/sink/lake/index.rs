//! The primary-key index: key to the row that holds it.
//!
//! A local, disposable cache of the table, true for the snapshot in its [`Stamp`]. Lost or damaged, it is built anew by a scan.
//! It may hold entries of rows that are gone: an answer counts only if its file is live in the base of the commit.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Debug;
use std::sync::Arc;

use hashbrown::HashTable;

use crate::position::TopicPartition;
use crate::sink::lake::LakeError;

/// Where a row is: the file by its number in the index, the position in the file (counted over all its rows).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location {
    pub file: u32,
    pub position: u32,
}

/// What the index is true for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// `None`: the table had no snapshot.
    pub snapshot_id: Option<i64>,
    /// Kafka partitions whose keys are in it.
    pub owned: BTreeSet<TopicPartition>,
    /// Field ids of the key columns.
    pub key_ids: Vec<i32>,
}

/// Keys are 128-bit hashes. Calls are batched, and come in the order of the keys where an implementation on disk gains from it.
pub trait KeyIndex: Debug + Send {
    /// The place of each of `keys`, in their order.
    ///
    /// # Errors
    /// When the index can't be read: clear it and scan.
    fn lookup(&mut self, keys: &[u128]) -> Result<Vec<Option<Location>>, LakeError>;

    /// Sets or removes places.
    ///
    /// # Errors
    /// When the index can't be written: clear it and scan.
    fn apply(&mut self, changes: &[(u128, Option<Location>)]) -> Result<(), LakeError>;

    /// The number of a data file; given once, never used for another.
    ///
    /// # Errors
    /// When the index can't be written.
    fn number(&mut self, path: &str) -> Result<u32, LakeError>;

    /// The data file is gone for good.
    ///
    /// # Errors
    /// When the index can't be written.
    fn forget(&mut self, path: &str) -> Result<(), LakeError>;

    /// Rows of `file` moved (a compaction that tells): position `p` is now at `moved[p]`, `None` if it is gone. No entry is
    /// rewritten; lookups follow.
    ///
    /// # Errors
    /// When the index can't be written.
    fn remap(&mut self, file: u32, moved: Vec<Option<Location>>) -> Result<(), LakeError>;

    /// `None` when the index is empty or was interrupted: everything must be scanned.
    fn stamp(&self) -> Option<&Stamp>;

    /// Everything applied so far is true for `stamp`.
    ///
    /// # Errors
    /// When the index can't be written.
    fn set_stamp(&mut self, stamp: Stamp) -> Result<(), LakeError>;

    /// Forgets everything.
    ///
    /// # Errors
    /// When the index can't be written.
    fn clear(&mut self) -> Result<(), LakeError>;

    /// Entries, those of dead rows included.
    fn len(&self) -> usize;

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Tables that the keys are spread over: one grows at a time, so growing costs little memory at once.
const SHARDS: usize = 64;

/// In memory: about 40 bytes a key.
#[derive(Debug)]
pub struct MemoryIndex {
    shards: Vec<HashTable<Entry>>,
    numbers: HashMap<Arc<str>, u32>,
    next_number: u32,
    moved: HashMap<u32, Vec<Option<Location>>>,
    stamp: Option<Stamp>,
}

/// 24 bytes; a `u128` as such would be aligned to 16 and make it 32.
#[derive(Clone, Copy, Debug)]
struct Entry {
    key: [u64; 2],
    at: Location,
}

impl Default for MemoryIndex {
    fn default() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| HashTable::new()).collect(),
            numbers: HashMap::new(),
            next_number: 0,
            moved: HashMap::new(),
            stamp: None,
        }
    }
}

fn split(key: u128) -> [u64; 2] {
    [(key >> 64) as u64, key as u64]
}

/// The high half chooses the shard, the low half the slot in it.
fn shard(key: [u64; 2]) -> usize {
    (key[0] % SHARDS as u64) as usize
}

impl KeyIndex for MemoryIndex {
    fn lookup(&mut self, keys: &[u128]) -> Result<Vec<Option<Location>>, LakeError> {
        Ok(keys
            .iter()
            .map(|key| {
                let key = split(*key);
                let mut at = self.shards.get(shard(key))?.find(key[1], |e| e.key == key)?.at;
                // A moved row may have moved again.
                while let Some(moved) = self.moved.get(&at.file) {
                    at = (*moved.get(at.position as usize)?)?;
                }
                Some(at)
            })
            .collect())
    }

    fn apply(&mut self, changes: &[(u128, Option<Location>)]) -> Result<(), LakeError> {
        for (key, change) in changes {
            let key = split(*key);
            let Some(table) = self.shards.get_mut(shard(key)) else { continue };
            match change {
                Some(at) => {
                    let entry = Entry { key, at: *at };
                    match table.entry(key[1], |e| e.key == key, |e| e.key[1]) {
                        hashbrown::hash_table::Entry::Occupied(mut have) => *have.get_mut() = entry,
                        hashbrown::hash_table::Entry::Vacant(free) => {
                            free.insert(entry);
                        }
                    }
                }
                None => {
                    if let Ok(have) = table.find_entry(key[1], |e| e.key == key) {
                        have.remove();
                    }
                }
            }
        }
        Ok(())
    }

    fn number(&mut self, path: &str) -> Result<u32, LakeError> {
        if let Some(number) = self.numbers.get(path) {
            return Ok(*number);
        }
        let number = self.next_number;
        self.next_number = number
            .checked_add(1)
            .ok_or_else(|| LakeError::Index("more than 2^32 data files: rebuild it".to_owned()))?;
        self.numbers.insert(path.into(), number);
        Ok(number)
    }

    fn forget(&mut self, path: &str) -> Result<(), LakeError> {
        self.numbers.remove(path);
        Ok(())
    }

    fn remap(&mut self, file: u32, moved: Vec<Option<Location>>) -> Result<(), LakeError> {
        self.moved.insert(file, moved);
        Ok(())
    }

    fn stamp(&self) -> Option<&Stamp> {
        self.stamp.as_ref()
    }

    fn set_stamp(&mut self, stamp: Stamp) -> Result<(), LakeError> {
        self.stamp = Some(stamp);
        Ok(())
    }

    fn clear(&mut self) -> Result<(), LakeError> {
        let next_number = self.next_number;
        *self = Self { next_number, ..Self::default() };
        Ok(())
    }

    fn len(&self) -> usize {
        self.shards.iter().map(HashTable::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(file: u32, position: u32) -> Location {
        Location { file, position }
    }

    /// Spread over the shards as hashes are.
    fn key(n: u64) -> u128 {
        xxhash_rust::xxh3::xxh3_128(&n.to_le_bytes())
    }

    #[test]
    fn what_was_put_last_is_found() {
        let mut index = MemoryIndex::default();
        let puts: Vec<_> = (0..10_000).map(|n| (key(n), Some(at(1, n as u32)))).collect();
        index.apply(&puts).unwrap();
        index.apply(&[(key(7), Some(at(2, 0))), (key(8), None)]).unwrap();
        assert_eq!(
            index.lookup(&[key(7), key(8), key(9), key(10_001)]).unwrap(),
            [Some(at(2, 0)), None, Some(at(1, 9)), None]
        );
        assert_eq!(index.len(), 9_999);
    }

    #[test]
    fn lookups_follow_rows_that_moved_twice() {
        let mut index = MemoryIndex::default();
        index.apply(&[(key(1), Some(at(0, 1))), (key(2), Some(at(0, 0)))]).unwrap();
        index.remap(0, vec![None, Some(at(5, 3))]).unwrap();
        index.remap(5, vec![None, None, None, Some(at(6, 0))]).unwrap();
        assert_eq!(index.lookup(&[key(1), key(2)]).unwrap(), [Some(at(6, 0)), None]);
    }

    #[test]
    fn a_file_keeps_its_number_and_no_other_gets_it() {
        let mut index = MemoryIndex::default();
        let a = index.number("a").unwrap();
        assert_eq!(index.number("a").unwrap(), a);
        index.forget("a").unwrap();
        let b = index.number("b").unwrap();
        index.clear().unwrap();
        let c = index.number("c").unwrap();
        assert!(a < b && b < c);
    }

    #[test]
    fn a_key_costs_at_most_57_bytes_and_24_when_full() {
        assert_eq!(size_of::<Entry>(), 24);
    }
}
