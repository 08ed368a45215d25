//! The primary-key index on disk: what a new process, another writer, damage and a broken scan do to it.

use std::path::Path;
use std::sync::Arc;

use firn::change::Mode;
use firn::memory::Memory;
use firn::sink::lake::Shared;
use firn::sink::lake::index::{Holds, IndexHome};
use firn::sink::lake::{CommitFailure, Committed, LakeTable, TableSpec};
use firn_catalog::memory::MemoryCatalog;
use firn_catalog::storage::fault::{Effect, Fault, Op};
use firn_catalog::{ErrorKind, Patience};
use tempfile::TempDir;
use tokio::runtime::Handle;

use crate::foreign;
use crate::lake::{changes, columns, files, load, put, span, spec, stage};

/// A process with its index in `folder`; of so little memory that everything is in runs.
async fn open(catalog: &MemoryCatalog, spec: &TableSpec, folder: &Path) -> LakeTable {
    let table = LakeTable::open(Arc::new(catalog.clone()), spec.clone(), Handle::current()).await.unwrap();
    let table = table.sharing(Shared::new(Memory::new(8), Some(folder)));
    let table = table.with_patience(Patience { attempts: 2, first_wait_ms: 0, max_wait_ms: 0 });
    table.ensure_schema(&columns(&["v"])).await.unwrap();
    table
}

fn scanned(done: &Committed) -> bool {
    done.index.unwrap().scan.is_some()
}

async fn ids(catalog: &MemoryCatalog, spec: &TableSpec) -> Vec<i64> {
    foreign::ids(&load(catalog, spec).await).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_process_goes_on_with_the_index_as_it_was_left() {
    let (catalog, spec, folder) = (MemoryCatalog::default(), spec(Mode::Upsert), TempDir::new().unwrap());
    let table = open(&catalog, &spec, folder.path()).await;
    put(&table, &[(1, Some("a")), (2, Some("b")), (3, Some("c"))], 0).await;
    put(&table, &[(2, Some("d")), (3, None)], 3).await;
    drop(table);
    let table = open(&catalog, &spec, folder.path()).await;
    let done = put(&table, &[(1, Some("e")), (2, None), (4, Some("f"))], 5).await;
    assert!(!scanned(&done), "no data file is read");
    assert_eq!(ids(&catalog, &spec).await, [1, 4]);
    drop(table);

    // Another writer meanwhile: only its files are read.
    foreign::compact(&catalog, &spec.ident().unwrap()).await;
    let table = open(&catalog, &spec, folder.path()).await;
    let done = put(&table, &[(1, Some("g")), (5, Some("h"))], 8).await;
    assert!(scanned(&done));
    assert_eq!(ids(&catalog, &spec).await, [1, 4, 5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_is_gone_or_damaged_is_built_anew() {
    let (catalog, spec, folder) = (MemoryCatalog::default(), spec(Mode::Upsert), TempDir::new().unwrap());
    let rows: Vec<(i64, Option<&str>)> = (0..1_000).map(|id| (id, Some("v"))).collect();
    let mut from = 0;
    for damage in ["none", "gone", "run", "log", "manifest"] {
        let table = open(&catalog, &spec, folder.path()).await;
        put(&table, &rows, from).await;
        from += 1_000;
        assert_eq!(ids(&catalog, &spec).await.len(), 1_000, "after damage before {damage}");
        drop(table);
        let own = folder.path().join(load(&catalog, &spec).await.metadata().uuid().to_string()).join("0");
        if damage == "gone" {
            std::fs::remove_dir_all(folder.path()).unwrap();
        }
        for file in std::fs::read_dir(own).into_iter().flatten().flatten() {
            if file.file_name().to_string_lossy().contains(damage) {
                std::fs::write(file.path(), vec![7; 5_000]).unwrap();
            }
        }
    }
    let table = open(&catalog, &spec, folder.path()).await;
    put(&table, &rows, from).await;
    assert_eq!(ids(&catalog, &spec).await.len(), 1_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_that_a_running_process_meets_costs_a_scan() {
    let (catalog, spec, folder) = (MemoryCatalog::default(), spec(Mode::Upsert), TempDir::new().unwrap());
    let table = open(&catalog, &spec, folder.path()).await;
    let rows: Vec<(i64, Option<&str>)> = (0..1_000).map(|id| (id, Some("v"))).collect();
    put(&table, &rows, 0).await;
    std::fs::remove_dir_all(folder.path()).unwrap();
    let done = put(&table, &rows, 1_000).await;
    assert!(scanned(&done));
    assert_eq!(ids(&catalog, &spec).await.len(), 1_000);
    // A folder that can't be made: the commit is tried again later.
    std::fs::remove_dir_all(folder.path()).unwrap();
    std::fs::write(folder.path(), "not a folder").unwrap();
    let staged = stage(&table, vec![changes(&rows)], vec![span(0, 2_000, 3_000)]).await;
    let Err(CommitFailure::Undecided(parts, why)) = table.commit(vec![staged]).await else {
        panic!("it is tried again")
    };
    assert!(why.to_string().contains("index.dir"), "{why}");
    std::fs::remove_file(folder.path()).unwrap();
    table.commit(parts).await.unwrap();
    assert_eq!(ids(&catalog, &spec).await.len(), 1_000);
}

/// A scan of new files that breaks off has moved some keys already. If the table then goes back to what it was, they are not where the
/// index has them.
#[tokio::test(flavor = "multi_thread")]
async fn a_scan_that_broke_off_before_a_rollback_doubles_no_row() {
    for skip in 0..24 {
        let folder = TempDir::new().unwrap();
        let (catalog, mut spec) = (MemoryCatalog::default(), spec(Mode::Upsert));
        spec.partition_by = vec!["bucket(3, id)".to_owned()];
        let table = open(&catalog, &spec, folder.path()).await;
        let rows: Vec<(i64, Option<&str>)> = (0..9).map(|id| (id, Some("v"))).collect();
        put(&table, &rows, 0).await;
        let ident = spec.ident().unwrap();
        foreign::compact(&catalog, &ident).await;
        catalog.faults().add(Fault::on([Op::Get], Effect::Fail(ErrorKind::Unavailable)).skip(skip).times(1_000));
        let staged = stage(&table, vec![changes(&rows)], vec![span(0, 9, 18)]).await;
        let broke_off = table.commit(vec![staged]).await;
        catalog.faults().clear();
        if broke_off.is_err() {
            foreign::roll_back(&catalog, &ident, 1).await;
            put(&table, &rows, 9).await;
        }
        assert_eq!(ids(&catalog, &spec).await, (0..9).collect::<Vec<_>>(), "skip {skip}: {broke_off:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stored_index_is_held_against_the_table() {
    let (catalog, spec, folder) = (MemoryCatalog::default(), spec(Mode::Upsert), TempDir::new().unwrap());
    let home = IndexHome::on_disk(folder.path(), Memory::new(8));
    let table = open(&catalog, &spec, folder.path()).await;
    put(&table, &[(1, Some("a")), (2, Some("b")), (3, Some("c"))], 0).await;
    put(&table, &[(2, Some("d")), (3, None)], 3).await;
    let reports = table.verify_indexes().await.unwrap();
    assert!(reports[0].in_use);
    drop(table);

    let looker = LakeTable::open(Arc::new(catalog.clone()), spec.clone(), Handle::current()).await.unwrap();
    let looker = looker.sharing(Shared::new(Memory::new(8), Some(folder.path())));
    let reports = looker.verify_indexes().await.unwrap();
    let report = &reports[0];
    assert_eq!((report.rows, report.missing, report.misplaced, report.partitions), (2, 0, 0, 1), "{report:?}");
    assert!(report.is_right() && report.bytes_on_disk > 0);

    // One that claims to know the files, and has none of their keys.
    let loaded = load(&catalog, &spec).await;
    let mut index = home.open(loaded.metadata().uuid(), Holds::Nothing).unwrap();
    let stamp = index.stamp().cloned().unwrap();
    index.clear().unwrap();
    for file in &files(&loaded).await.data {
        index.number(file.file.file_path()).unwrap();
    }
    index.set_stamp(stamp, &|_| true).unwrap();
    drop(index);
    let reports = looker.verify_indexes().await.unwrap();
    assert_eq!((reports[0].rows, reports[0].missing), (2, 2));
    assert!(!reports[0].is_right());
}
