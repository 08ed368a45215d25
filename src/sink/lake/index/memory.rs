//! The index in memory: for small tables, and the model of what the one on disk must do.

use std::collections::BTreeSet;

use super::map::{EntryMap, Numbers};
use super::place::Numbered;
use super::{KeyIndex, Location, Stamp};
use crate::sink::lake::LakeError;

/// At most about 76 bytes a key.
#[derive(Debug, Default)]
pub(crate) struct MemoryIndex {
    entries: EntryMap<Numbered>,
    numbers: Numbers,
    stamp: Option<Stamp>,
}

impl KeyIndex for MemoryIndex {
    fn lookup(&mut self, keys: &[u128]) -> Result<Vec<Option<Location>>, LakeError> {
        Ok(keys.iter().map(|key| self.entries.get(*key)).collect())
    }

    fn apply(&mut self, changes: &[(u128, Option<Location>)]) -> Result<(), LakeError> {
        for (key, change) in changes {
            match change {
                Some(at) => self.entries.put(*key, *at),
                None => self.entries.remove(*key),
            }
        }
        Ok(())
    }

    fn number(&mut self, path: &str) -> Result<u32, LakeError> {
        Ok(self.numbers.number(path)?.0)
    }

    fn files(&self) -> BTreeSet<u32> {
        self.numbers.iter().map(|(_, number)| number).collect()
    }

    fn stamp(&self) -> Option<&Stamp> {
        self.stamp.as_ref()
    }

    fn set_stamp(&mut self, stamp: Stamp, is_live: &dyn Fn(u32) -> bool) -> Result<(), LakeError> {
        self.numbers.retain(is_live);
        self.stamp = Some(stamp);
        Ok(())
    }

    fn clear(&mut self) -> Result<(), LakeError> {
        self.entries = EntryMap::default();
        self.numbers.clear();
        self.stamp = None;
        Ok(())
    }

    fn len(&self) -> usize {
        self.entries.len()
    }
}
