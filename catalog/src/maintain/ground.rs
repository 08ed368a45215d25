//! A table with a history whose files are really there, for this module's tests.

use std::time::Duration;

use iceberg::TableUpdate;
use iceberg::spec::{FormatVersion, SnapshotReference, SnapshotRetention};
use iceberg::table::Table;

use crate::memory::MemoryCatalog;
use crate::testing::{self, Batch, ident, key, stored};
use crate::{Catalog, ManifestCache, RowDelta, live};

pub(super) async fn catalog() -> MemoryCatalog {
    let catalog = MemoryCatalog::default();
    testing::create(&catalog, "t", FormatVersion::V2).await;
    catalog
}

pub(super) fn path(name: &str) -> String {
    format!("memory://warehouse/db/t/data/{name}")
}

/// One commit that adds and removes files of these names.
pub(super) async fn change(catalog: &MemoryCatalog, n: u64, add: &[&str], remove: &[&str]) -> Table {
    for name in add {
        testing::touch(catalog, &path(name)).await;
    }
    let delta = RowDelta {
        data_files: add.iter().map(|name| testing::data_file(&path(name), 10)).collect(),
        removed: remove.iter().map(|name| key(&path(name))).collect(),
        ..RowDelta::default()
    };
    let mut batch = Batch::new("w", n, delta);
    batch.plan.retention.merge_manifests_above = 2;
    let table = batch.commit(catalog, &ident("t")).await.unwrap().table;
    // Ages are counted in ms.
    tokio::time::sleep(Duration::from_millis(2)).await;
    table
}

/// Five snapshots: `a`; `a b`; `b`; `b c`; `c`.
pub(super) async fn history(catalog: &MemoryCatalog) -> Vec<i64> {
    let steps: [(&[&str], &[&str]); 5] = [(&["a"], &[]), (&["b"], &[]), (&[], &["a"]), (&["c"], &[]), (&[], &["b"])];
    let mut ids = vec![];
    for (n, (add, remove)) in steps.into_iter().enumerate() {
        ids.push(change(catalog, n as u64, add, remove).await.metadata().current_snapshot_id().unwrap());
    }
    ids
}

pub(super) async fn update(catalog: &MemoryCatalog, update: TableUpdate) {
    let table = catalog.load(&ident("t")).await.unwrap();
    catalog.swap(&table, &[], &[update]).await.unwrap();
}

pub(super) fn reference(name: &str, id: i64, retention: SnapshotRetention) -> TableUpdate {
    TableUpdate::SetSnapshotRef { ref_name: name.to_owned(), reference: SnapshotReference::new(id, retention) }
}

/// Every snapshot that is left has all its files.
pub(super) async fn whole(catalog: &MemoryCatalog) -> Table {
    let table = catalog.load(&ident("t")).await.unwrap();
    for snapshot in table.metadata().snapshots() {
        let files = live::files(&table, Some(snapshot.snapshot_id()), &ManifestCache::new(0)).await.unwrap();
        for file in files.data {
            assert!(table.file_io().exists(file.file.file_path()).await.unwrap(), "{} is gone", file.file.file_path());
        }
    }
    table
}

pub(super) async fn data(catalog: &MemoryCatalog) -> Vec<String> {
    let stored = stored(catalog).await.into_iter();
    stored.filter_map(|p| Some(p.split_once("/data/")?.1.to_owned())).collect()
}
