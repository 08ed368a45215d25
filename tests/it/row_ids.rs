//! Row lineage of format v3: a row that replaces another keeps its id, whatever came in between; each id is one row's.
//!
//! The files are read here by the spec's rules alone: a row's id stands in its file, or is counted from the file's first.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use firn::batch::{ChangeBatch, Unavailable};
use firn::change::Mode;
use firn::memory::Memory;
use firn::sink::lake::{CommitFailure, LakeTable, Shared, TableSpec};
use firn_catalog::memory::MemoryCatalog;
use firn_catalog::storage::fault::{Effect, Fault, Op as Call};
use firn_catalog::{Catalog, ErrorKind, Patience, Retention};
use iceberg::TableUpdate;
use iceberg::spec::FormatVersion;
use iceberg::table::Table;
use parquet::arrow::PARQUET_FIELD_ID_META_KEY;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use roaring::RoaringTreemap;
use rstest::rstest;
use tempfile::TempDir;
use tokio::runtime::Handle;

use crate::lake::{changes, columns, files, load, put, span, spec, stage};

const ROW_ID: &str = "2147483540";

/// Id and value of each live row, by its key.
pub type Rows = BTreeMap<i64, (i64, String)>;

pub async fn rows(table: &Table) -> Rows {
    let live = files(table).await;
    let mut rows = Rows::new();
    for file in &live.data {
        let path = file.file.file_path();
        let mut deleted = RoaringTreemap::new();
        for vector in live.position_deletes.iter().filter(|d| d.deletes_from().as_deref() == Some(path)) {
            let bytes = table.file_io().new_input(vector.file.file_path()).unwrap().read().await.unwrap();
            let (from, length) = (vector.file.content_offset().unwrap(), vector.file.content_size_in_bytes().unwrap());
            // Length and magic before the bitmap, a checksum behind.
            let bitmap = &bytes[from as usize + 8..(from + length) as usize - 4];
            deleted |= RoaringTreemap::deserialize_from(bitmap).unwrap();
        }
        let bytes = table.file_io().new_input(path).unwrap().read().await.unwrap();
        assert_eq!(bytes.len() as u64, file.file.file_size_in_bytes(), "{path}");
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap();
        let ids = reader.schema().fields().iter().position(|f| f.metadata()[PARQUET_FIELD_ID_META_KEY] == ROW_ID);
        let mut position = 0;
        for batch in reader.build().unwrap() {
            let batch = batch.unwrap();
            let key = batch.column_by_name("id").unwrap().as_primitive::<Int64Type>();
            let value = batch.column_by_name("v").unwrap().as_string::<i32>();
            let own = ids.map(|at| batch.column(at).as_primitive::<Int64Type>());
            for row in 0..batch.num_rows() {
                let own = own.filter(|own| own.is_valid(row)).map(|own| own.value(row));
                let id = own.unwrap_or(file.first_row_id.unwrap() + position as i64);
                if !deleted.contains(position) {
                    let before = rows.insert(key.value(row), (id, value.value(row).to_owned()));
                    assert_eq!(before, None, "key {} twice", key.value(row));
                }
                position += 1;
            }
        }
        assert_eq!(position, file.file.record_count());
    }
    let ids: BTreeSet<i64> = rows.values().map(|(id, _)| *id).collect();
    assert_eq!(ids.len(), rows.len(), "an id is two rows': {rows:?}");
    assert!(ids.iter().all(|id| (*id as u64) < table.metadata().next_row_id()));
    rows
}

/// The ids alone.
async fn row_ids(catalog: &MemoryCatalog, spec: &TableSpec) -> BTreeMap<i64, i64> {
    rows(&load(catalog, spec).await).await.into_iter().map(|(key, (id, _))| (key, id)).collect()
}

fn v3() -> TableSpec {
    TableSpec { format_version: 3, ..spec(Mode::Upsert) }
}

async fn open(catalog: &MemoryCatalog, spec: &TableSpec) -> LakeTable {
    let table = LakeTable::open(Arc::new(catalog.clone()), spec.clone(), Handle::current()).await.unwrap();
    let table = table.with_patience(Patience { attempts: 3, first_wait_ms: 0, max_wait_ms: 0 });
    table.ensure_schema(&columns(&["v"])).await.unwrap();
    table
}

/// With its index in `folder`, of so little memory that everything is in runs.
async fn open_at(catalog: &MemoryCatalog, spec: &TableSpec, folder: &Path) -> LakeTable {
    open(catalog, spec).await.sharing(Shared::new(Memory::new(8), Some(folder)))
}

#[rstest]
#[case::as_they_come(v3())]
#[case::partitioned(TableSpec { partition_by: vec!["bucket(3, id)".to_owned()], ..v3() })]
#[case::sorted(TableSpec { sort_by: vec!["v desc".to_owned()], ..v3() })]
#[case::small_files(TableSpec { target_file_bytes: 1, ..v3() })]
#[case::merged_manifests(TableSpec { retention: Retention { merge_manifests_above: 2, ..Retention::default() }, ..v3() })]
#[tokio::test(flavor = "multi_thread")]
async fn an_updated_row_keeps_its_id(#[case] spec: TableSpec) {
    let (catalog, folder) = (MemoryCatalog::default(), TempDir::new().unwrap());
    let mut expected = BTreeMap::<i64, i64>::new();
    let mut values = BTreeMap::<i64, String>::new();
    let mut offset = 0;
    let mut table = open_at(&catalog, &spec, folder.path()).await;
    for round in 0..24i64 {
        let changed: Vec<(i64, Option<String>)> = (0..40)
            .map(|n| ((n * 7 + round * 11) % 60, n + round))
            .map(|(key, luck)| (key, (luck % 9 != 0).then(|| format!("{round} {luck}"))))
            .collect();
        let batch: Vec<(i64, Option<&str>)> = changed.iter().map(|(key, v)| (*key, v.as_deref())).collect();
        match round % 8 {
            // A process that has the index as it was left, and one that has none.
            3 => drop(std::mem::replace(&mut table, open_at(&catalog, &spec, folder.path()).await)),
            5 => {
                drop(table);
                std::fs::remove_dir_all(folder.path()).unwrap();
                table = open_at(&catalog, &spec, folder.path()).await;
            }
            // One in memory.
            7 => table = open(&catalog, &spec).await,
            _ => {}
        }
        put(&table, &batch, offset).await;
        offset += batch.len() as i64;
        for (key, v) in &changed {
            match v {
                Some(v) => _ = values.insert(*key, v.clone()),
                None => _ = (values.remove(key), expected.remove(key)),
            }
        }
        let loaded = load(&catalog, &spec).await;
        let rows = rows(&loaded).await;
        assert_eq!(rows.iter().map(|(k, (_, v))| (*k, v.clone())).collect::<BTreeMap<_, _>>(), values);
        for (key, (id, _)) in rows {
            let before = *expected.entry(key).or_insert(id);
            assert_eq!(id, before, "round {round}, key {key}");
        }
    }
    // What was stored is as the files say.
    drop(table);
    let looker = open_at(&catalog, &spec, folder.path()).await;
    let reports = looker.verify_indexes().await.unwrap();
    assert!(reports.iter().all(|report| report.is_right()) && reports[0].rows > 0, "{reports:?}");
}

#[tokio::test]
async fn a_row_that_was_deleted_and_came_back_is_another() {
    let (catalog, spec) = (MemoryCatalog::default(), v3());
    let table = open(&catalog, &spec).await;
    put(&table, &[(1, Some("a")), (2, Some("a")), (3, Some("a"))], 0).await;
    assert_eq!(row_ids(&catalog, &spec).await, [(1, 0), (2, 1), (3, 2)].into());
    // Within one batch, and over two.
    put(&table, &[(1, None), (2, None), (1, Some("b")), (3, Some("b"))], 3).await;
    let ids = row_ids(&catalog, &spec).await;
    assert!(ids[&1] > 2 && ids[&3] == 2, "{ids:?}");
    put(&table, &[(2, Some("c")), (1, Some("c"))], 7).await;
    let later = row_ids(&catalog, &spec).await;
    assert!(later[&2] > ids[&1] && later[&1] == ids[&1] && later[&3] == 2, "{later:?}");
}

/// A batch is staged while the one before it is on its way: the ids of its rows are given by that one.
#[tokio::test]
async fn rows_that_were_staged_before_their_ids_were_known_get_them() {
    let (catalog, spec) = (MemoryCatalog::default(), v3());
    let table = open(&catalog, &spec).await;
    let first = stage(&table, vec![changes(&[(1, Some("a")), (2, Some("a"))])], vec![span(0, 0, 2)]).await;
    let second = stage(&table, vec![changes(&[(2, Some("b")), (3, Some("b"))])], vec![span(0, 2, 4)]).await;
    let third = stage(&table, vec![changes(&[(3, Some("c")), (1, Some("c"))])], vec![span(0, 4, 6)]).await;
    table.commit(vec![first]).await.unwrap();
    let ids = row_ids(&catalog, &spec).await;
    table.commit(vec![second, third]).await.unwrap();
    let later = row_ids(&catalog, &spec).await;
    assert_eq!((later[&1], later[&2]), (ids[&1], ids[&2]));
    assert_eq!(later.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_row_groups_keep_their_ids_and_values() {
    let (catalog, spec) = (MemoryCatalog::default(), v3());
    let table = open(&catalog, &spec).await;
    let all: Vec<(i64, Option<&str>)> = (0..300_000).map(|key| (key, Some("a"))).collect();
    put(&table, &all, 0).await;
    let before = row_ids(&catalog, &spec).await;
    // New rows among them, so that some have no id of their own.
    let changed: Vec<(i64, Option<&str>)> = (0..300_000).map(|n| (n * 2, Some("b"))).collect();
    put(&table, &changed, 300_000).await;
    let loaded = load(&catalog, &spec).await;
    let rows = rows(&loaded).await;
    assert_eq!(rows.len(), 450_000);
    for (key, (id, value)) in &rows {
        assert_eq!(value, if key % 2 == 0 { "b" } else { "a" });
        assert!(before.get(key).is_none_or(|before| before == id), "key {key}");
    }
}

/// Two processes with partitions of their own: the one that loses the race plans anew on what the other left.
#[tokio::test]
async fn a_lost_race_and_a_lost_answer_change_no_id() {
    let (catalog, spec) = (MemoryCatalog::default(), v3());
    let (a, b) = (open(&catalog, &spec).await, open(&catalog, &spec).await);
    put(&a, &[(1, Some("a")), (2, Some("a"))], 0).await;
    let of_b = stage(&b, vec![changes(&[(10, Some("a"))])], vec![span(1, 0, 1)]).await;
    b.commit(vec![of_b]).await.unwrap();
    let ids = row_ids(&catalog, &spec).await;
    let effects =
        [Effect::Fail(ErrorKind::Conflict), Effect::LoseAnswer, Effect::FailAfter(ErrorKind::Conflict), Effect::Stale];
    for (n, effect) in (0..).zip(effects) {
        let of_a = stage(&a, vec![changes(&[(1, Some("b"))])], vec![span(0, 2 + n, 3 + n)]).await;
        let of_b = stage(&b, vec![changes(&[(10, Some("b"))])], vec![span(1, 1 + n, 2 + n)]).await;
        catalog
            .faults()
            .add(Fault::on([if matches!(effect, Effect::Stale) { Call::Load } else { Call::Swap }], effect).times(1));
        let mut parts = vec![of_a];
        while let Err(e) = a.commit(std::mem::take(&mut parts)).await {
            let CommitFailure::Undecided(again, _) = e else { panic!("{e}") };
            parts = again;
        }
        b.commit(vec![of_b]).await.unwrap();
        assert_eq!(row_ids(&catalog, &spec).await, ids, "after {n}");
    }
}

/// The values of a row that lacks some come from the row that it replaces; so does its id.
#[tokio::test]
async fn a_row_that_was_made_whole_at_the_commit_keeps_its_id() {
    let (catalog, spec) = (MemoryCatalog::default(), v3());
    let table = open(&catalog, &spec).await;
    put(&table, &[(1, Some("large")), (2, Some("large")), (3, Some("large"))], 0).await;
    let lacking = |ids: &[i64]| {
        let batch = changes(&ids.iter().map(|id| (*id, Some("not sent"))).collect::<Vec<_>>());
        let unavailable = (0..ids.len() as u32).map(|row| Unavailable { row, columns: vec![1], former_key: None });
        ChangeBatch { unavailable: unavailable.collect(), ..batch }
    };
    for from in [3, 5] {
        let staged = stage(&table, vec![lacking(&[3, 1])], vec![span(0, from, from + 2)]).await;
        table.commit(vec![staged]).await.unwrap();
        let rows = rows(&load(&catalog, &spec).await).await;
        let large = |id| (id, "large".to_owned());
        assert_eq!(rows, [(1, large(0)), (2, large(1)), (3, large(2))].into(), "from {from}");
    }
}

/// Between two tries another writer may give a row's id up, or to another row: a file that has it already does not go in.
#[tokio::test]
async fn rows_whose_ids_changed_between_two_tries_are_read_again() {
    let (catalog, spec) = (MemoryCatalog::default(), v3());
    let (a, b) = (open(&catalog, &spec).await, open(&catalog, &spec).await);
    put(&a, &[(1, Some("a")), (2, Some("a"))], 0).await;
    let staged = stage(&a, vec![changes(&[(1, Some("b")), (2, Some("b"))])], vec![span(0, 2, 4)]).await;
    catalog.faults().add(Fault::on([Call::Swap], Effect::Fail(ErrorKind::Conflict)).times(3));
    let Err(CommitFailure::Undecided(parts, _)) = a.commit(vec![staged]).await else { panic!("it went in") };
    let other = stage(&b, vec![changes(&[(1, None)])], vec![span(1, 0, 1)]).await;
    b.commit(vec![other]).await.unwrap();
    let again = a.commit(parts).await;
    let Err(CommitFailure::Stale(why)) = again else { panic!("{again:?}") };
    assert!(why.contains("another writer changed rows"), "{why}");
    put(&a, &[(1, Some("c")), (2, Some("c"))], 2).await;
    let ids = row_ids(&catalog, &spec).await;
    assert!(ids[&1] > 1 && ids[&2] == 1, "{ids:?}");
}

/// Ids of the rows of before are given by the first commit after the upgrade; from then on they stay.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_was_upgraded_goes_on_and_keeps_its_ids_from_then_on() {
    let (catalog, folder) = (MemoryCatalog::default(), TempDir::new().unwrap());
    let spec = TableSpec { format_version: 2, ..v3() };
    let table = open_at(&catalog, &spec, folder.path()).await;
    put(&table, &[(1, Some("a")), (2, Some("a")), (3, Some("a"))], 0).await;
    put(&table, &[(1, Some("b"))], 3).await;
    let staged = stage(&table, vec![changes(&[(2, Some("b"))])], vec![span(0, 4, 5)]).await;
    let base = load(&catalog, &spec).await;
    let upgrade = [TableUpdate::UpgradeFormatVersion { format_version: FormatVersion::V3 }];
    catalog.swap(&base, &[], &upgrade).await.unwrap();
    let Err(CommitFailure::SchemaMoved(parts)) = table.commit(vec![staged]).await else { panic!("it went in") };
    table.discard(parts).await;
    table.checkpoint().await.unwrap();
    put(&table, &[(2, Some("b"))], 4).await;
    let ids = row_ids(&catalog, &spec).await;
    put(&table, &[(1, Some("c")), (2, Some("c")), (3, Some("c"))], 5).await;
    let later = rows(&load(&catalog, &spec).await).await;
    assert_eq!(later, ids.into_iter().map(|(key, id)| (key, (id, "c".to_owned()))).collect());
}
