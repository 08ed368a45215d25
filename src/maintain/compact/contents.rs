//! What a snapshot holds: each data file with the deletes that apply to it.

use std::collections::BTreeMap;
use std::sync::Arc;

use firn_catalog::ManifestCache;
use firn_catalog::live::{self, LiveFile};
use iceberg::table::Table;

use crate::sink::lake::LakeError;
use crate::sink::lake::deletes::DeleteFile;
use crate::sink::lake::live::Applying;

/// One live data file.
#[derive(Clone, Debug)]
pub(super) struct OldFile {
    pub(super) entry: Arc<LiveFile>,
    /// Position delete files and deletion vectors.
    pub(super) deletes: Vec<DeleteFile>,
    /// Rows that delete files of its own name.
    pub(super) deleted_rows: u64,
    pub(super) equality: Vec<Arc<LiveFile>>,
}

impl OldFile {
    pub(super) fn path(&self) -> &str {
        self.entry.file.file_path()
    }

    pub(super) fn rows(&self) -> u64 {
        self.entry.file.record_count()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.entry.file.file_size_in_bytes()
    }

    /// What its live rows take, as far as deletes are known without reading them.
    pub(super) fn live_bytes(&self) -> u64 {
        let live = self.rows().saturating_sub(self.deleted_rows);
        (u128::from(self.bytes()) * u128::from(live) / u128::from(self.rows().max(1))) as u64
    }

    /// Share of its rows that are deleted, from 0 to 1.
    pub(super) fn deleted_ratio(&self) -> f64 {
        self.deleted_rows as f64 / self.rows().max(1) as f64
    }
}

/// One snapshot.
#[derive(Clone, Debug, Default)]
pub(super) struct Contents {
    /// By path.
    pub(super) files: BTreeMap<String, OldFile>,
    pub(super) position_deletes: Vec<Arc<LiveFile>>,
    pub(super) equality_deletes: Vec<Arc<LiveFile>>,
}

impl Contents {
    /// The table's current snapshot.
    ///
    /// # Errors
    /// When a manifest can't be read.
    pub(super) async fn of(table: &Table, cache: &ManifestCache) -> Result<Self, LakeError> {
        let listed = live::files(table, table.metadata().current_snapshot_id(), cache).await?;
        let applying = Applying::new(&listed);
        let equality: BTreeMap<&str, Arc<LiveFile>> =
            listed.equality_deletes.iter().map(|e| (e.file.file_path(), Arc::new(e.clone()))).collect();
        let of = |entry: &LiveFile| OldFile {
            deletes: applying.positions(entry),
            deleted_rows: applying.deleted_rows(entry).min(entry.file.record_count()),
            equality: applying.equality(entry).filter_map(|e| equality.get(e.file.file_path()).cloned()).collect(),
            entry: Arc::new(entry.clone()),
        };
        Ok(Self {
            files: listed.data.iter().map(|entry| (entry.file.file_path().to_owned(), of(entry))).collect(),
            position_deletes: listed.position_deletes.iter().cloned().map(Arc::new).collect(),
            equality_deletes: equality.into_values().collect(),
        })
    }
}
