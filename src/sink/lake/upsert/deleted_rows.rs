//! Which rows of live files are deleted, as far as it is known.

use std::collections::BTreeMap;
use std::sync::Arc;

use roaring::RoaringBitmap;

use crate::memory::{Counted, Kind, Memory};

/// Deleted rows of live files; those of all tables keep to their share of the memory. What was dropped is read again when it is needed.
#[derive(Debug)]
pub(super) struct DeletedRows {
    rows: BTreeMap<u32, RoaringBitmap>,
    counted: Counted,
    none: RoaringBitmap,
}

impl DeletedRows {
    pub(super) fn new(memory: &Arc<Memory>) -> Self {
        Self { rows: BTreeMap::new(), counted: memory.count(Kind::Deletes), none: RoaringBitmap::new() }
    }

    pub(super) fn knows(&self, number: u32) -> bool {
        self.rows.contains_key(&number)
    }

    pub(super) fn get(&self, number: u32) -> &RoaringBitmap {
        self.rows.get(&number).unwrap_or(&self.none)
    }

    pub(super) fn put(&mut self, number: u32, rows: RoaringBitmap) {
        self.forget(number);
        self.counted.set(self.counted.bytes() + rows.serialized_size());
        self.rows.insert(number, rows);
    }

    pub(super) fn forget(&mut self, number: u32) {
        if let Some(rows) = self.rows.remove(&number) {
            self.counted.set(self.counted.bytes() - rows.serialized_size());
        }
    }

    pub(super) fn clear(&mut self) {
        self.rows.clear();
        self.counted.set(0);
    }

    /// To be called between commits: within one, all touched files must be known. A table that holds little keeps it.
    pub(super) fn shrink(&mut self) {
        let share = self.counted.memory().delete_bytes();
        while self.counted.memory().used(Kind::Deletes) > share
            && self.counted.bytes() > share / 1024
            && let Some((_, rows)) = self.rows.pop_first()
        {
            self.counted.set(self.counted.bytes() - rows.serialized_size());
        }
    }
}
