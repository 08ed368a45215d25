//! The primary-key index: key to the row that holds it.
//!
//! A local, disposable cache of the table, true for the snapshot in its [`Stamp`]. Lost or damaged, it is built anew by a scan.
//! It may hold entries of rows that are gone: an answer counts only if its file is live in the base of the commit.
//!
//! # Layout
//! - `memory`: all of it in memory. `disk`: a log-structured merge tree in a folder; only fresh entries are in memory.
//! - `map`: entries in memory; `place`: what they hold. `run`: a sorted file of entries. `segment`: a range of keys, as few runs. `bulk`: the
//!   first fill. `log`: what happened since the runs were written. `manifest`: which of these files count. `home`: the folder and its lock.

use std::collections::BTreeSet;
use std::fmt::Debug;

use serde::{Deserialize, Serialize};

use crate::position::TopicPartition;
use crate::sink::lake::LakeError;

mod bulk;
mod disk;
mod home;
mod log;
mod manifest;
mod map;
mod memory;
mod place;
mod run;
mod segment;
#[cfg(test)]
mod tests;

pub(crate) use disk::DiskIndex;
pub use home::{Holds, IndexHome, Stored, bytes_in};
pub(crate) use memory::MemoryIndex;

/// Where a row is: the file by its number in the index, the position in the file (counted over all its rows).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location {
    pub file: u32,
    pub position: u32,
    /// As the file itself says it (format v3): a row that replaced another has the id of that one. Without it the id is counted from
    /// that of the file's first row.
    pub row_id: Option<i64>,
}

impl Location {
    /// The place of a key that was removed: it hides older entries until they are gone.
    const GONE: Location = Location { file: u32::MAX, position: u32::MAX, row_id: None };

    fn kept(self) -> Option<Location> {
        (self != Location::GONE).then_some(self)
    }
}

/// What the index is true for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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

    /// The number of a data file, kept as long as the file lives; never used for another.
    ///
    /// # Errors
    /// When there are no numbers left.
    fn number(&mut self, path: &str) -> Result<u32, LakeError>;

    /// The data files whose keys were in the index when it was last stamped; what a process begins with.
    fn files(&self) -> BTreeSet<u32>;

    /// `None` when the index is empty or was interrupted: everything must be scanned.
    fn stamp(&self) -> Option<&Stamp>;

    /// Everything applied so far is true for `stamp`, whose data files those are that `is_live` says of; the numbers of others are
    /// forgotten.
    ///
    /// # Errors
    /// When the index can't be written.
    fn set_stamp(&mut self, stamp: Stamp, is_live: &dyn Fn(u32) -> bool) -> Result<(), LakeError>;

    /// Forgets everything.
    ///
    /// # Errors
    /// When the index can't be written.
    fn clear(&mut self) -> Result<(), LakeError>;

    /// Entries, those of dead rows included; on disk those that were replaced too, until runs are merged.
    fn len(&self) -> usize;

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What has no answer on disk; everything can be built anew from the table.
fn broken(what: impl std::fmt::Display) -> LakeError {
    LakeError::Index(what.to_string())
}
