//! Which rows of live files are deleted, as far as it is known.

use std::collections::BTreeMap;

use roaring::RoaringBitmap;

/// Memory for the deleted positions of live files. Beyond it they are read again when they are needed.
const CACHED_DELETES_BYTES: u64 = 32 << 20;

/// Deleted rows of live files, bounded.
#[derive(Debug, Default)]
pub(super) struct DeletedRows {
    rows: BTreeMap<u32, RoaringBitmap>,
    bytes: u64,
    none: RoaringBitmap,
}

impl DeletedRows {
    pub(super) fn knows(&self, number: u32) -> bool {
        self.rows.contains_key(&number)
    }

    pub(super) fn get(&self, number: u32) -> &RoaringBitmap {
        self.rows.get(&number).unwrap_or(&self.none)
    }

    pub(super) fn put(&mut self, number: u32, rows: RoaringBitmap) {
        self.forget(number);
        self.bytes += rows.serialized_size() as u64;
        self.rows.insert(number, rows);
    }

    pub(super) fn forget(&mut self, number: u32) {
        if let Some(rows) = self.rows.remove(&number) {
            self.bytes -= rows.serialized_size() as u64;
        }
    }

    /// To be called between commits: within one, all touched files must be known.
    pub(super) fn shrink(&mut self) {
        while self.bytes > CACHED_DELETES_BYTES
            && let Some((_, rows)) = self.rows.pop_first()
        {
            self.bytes -= rows.serialized_size() as u64;
        }
    }
}
