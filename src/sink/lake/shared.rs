//! What the tables of a process share: the budget of its memory, and what would cost each of them too much alone.

use std::path::Path;
use std::sync::Arc;

use firn_catalog::ManifestCache;

use crate::memory::Memory;
use crate::sink::lake::index::IndexHome;

/// Clones share the same.
#[derive(Clone, Debug)]
pub struct Shared {
    pub memory: Arc<Memory>,
    /// Where the primary-key indexes are kept.
    pub index: IndexHome,
    pub manifests: ManifestCache,
}

impl Shared {
    /// The indexes in folders of `index_dir`; in memory, whatever they take, where there is none.
    pub fn new(memory: Arc<Memory>, index_dir: Option<&Path>) -> Self {
        let index = match index_dir {
            Some(dir) => IndexHome::on_disk(dir, Arc::clone(&memory)),
            None => IndexHome::in_memory(),
        };
        Self { index, manifests: ManifestCache::new(memory.manifest_bytes() as u64), memory }
    }
}

/// Of a single table.
impl Default for Shared {
    fn default() -> Self {
        Self::new(Memory::unbounded(), None)
    }
}
