//! What one lake table does, seen from outside.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type};
use arrow_array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use firn::batch::ChangeBatch;
use firn::change::Mode;
use firn::change::{Column, ColumnType, Op, RowSchema};
use firn::position::{Checkpoint, Span, TopicPartition};
use firn::sink::lake::{CommitFailure, Committed, LakeError, LakeTable, Staged, TableSpec};
use firn_catalog::memory::MemoryCatalog;
use firn_catalog::storage::fault::{self, Effect, Fault, Op as Call};
use firn_catalog::{Catalog, ErrorKind, ManifestCache, live};
use futures::TryStreamExt;
use iceberg::expr::Reference;
use iceberg::spec::{Datum, FormatVersion, NullOrder, SortDirection, Transform};
use iceberg::table::Table;
use iceberg::{TableRequirement, TableUpdate};
use rstest::rstest;
use tokio::runtime::Handle;

const TOPIC: &str = "t";

pub fn spec(mode: Mode) -> TableSpec {
    TableSpec { mode, ..TableSpec::new("db", "t") }
}

pub fn columns(names: &[&str]) -> RowSchema {
    let mut columns = vec![Column::key("id", ColumnType::Long)];
    columns.extend(names.iter().map(|name| Column::new(*name, ColumnType::String)));
    RowSchema { columns }
}

async fn open(catalog: &MemoryCatalog, spec: TableSpec) -> LakeTable {
    LakeTable::open(Arc::new(catalog.clone()), spec, Handle::current()).await.unwrap()
}

/// `id` and `v`; `None` is a delete.
pub fn changes(rows: &[(i64, Option<&str>)]) -> ChangeBatch {
    let ops = rows.iter().map(|(_, v)| if v.is_some() { Op::Create } else { Op::Delete }).collect();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from(rows.iter().map(|(id, _)| *id).collect::<Vec<_>>()))),
        ("v", Arc::new(StringArray::from(rows.iter().map(|(_, v)| *v).collect::<Vec<_>>()))),
    ];
    ChangeBatch::new(RecordBatch::try_from_iter(columns).unwrap(), ops)
}

pub fn span(partition: i32, from: i64, next: i64) -> Span {
    let at = TopicPartition::new(TOPIC, partition);
    Span::new(at, from, next)
}

pub async fn stage(table: &LakeTable, batches: Vec<ChangeBatch>, spans: Vec<Span>) -> Staged {
    let mut stager = table.stager().unwrap();
    tokio::task::spawn_blocking(move || {
        for batch in batches {
            stager.write(batch).unwrap();
        }
        stager.close(spans).unwrap()
    })
    .await
    .unwrap()
}

pub async fn put(table: &LakeTable, rows: &[(i64, Option<&str>)], from: i64) -> Committed {
    let staged = stage(table, vec![changes(rows)], vec![span(0, from, from + rows.len() as i64)]).await;
    table.commit(vec![staged]).await.unwrap()
}

pub async fn load(catalog: &MemoryCatalog, spec: &TableSpec) -> Table {
    catalog.load(&spec.ident().unwrap()).await.unwrap()
}

async fn count(table: &Table) -> usize {
    let batches: Vec<RecordBatch> =
        table.scan().build().unwrap().to_arrow().await.unwrap().try_collect().await.unwrap();
    batches.iter().map(RecordBatch::num_rows).sum()
}

/// Objects below `location`.
async fn stored(catalog: &MemoryCatalog, location: &str) -> usize {
    let (store, path) = catalog.stores().object_store(location).unwrap();
    store.list(Some(&path)).try_collect::<Vec<_>>().await.unwrap().len()
}

pub async fn files(table: &Table) -> live::LiveFiles {
    live::files(table, table.metadata().current_snapshot_id(), &ManifestCache::new(1 << 20)).await.unwrap()
}

#[tokio::test]
async fn rows_and_position_land_in_one_snapshot() {
    let (catalog, spec) = (MemoryCatalog::default(), spec(Mode::Append));
    let table = open(&catalog, spec.clone()).await;
    assert_eq!(table.checkpoint().await.unwrap(), None);
    table.ensure_schema(&columns(&["v"])).await.unwrap();
    let done = put(&table, &[(1, Some("a")), (1, None)], 5).await;

    let loaded = load(&catalog, &spec).await;
    let snapshot = loaded.metadata().current_snapshot().unwrap();
    assert_eq!(snapshot.snapshot_id(), done.snapshot_id);
    let summary = &snapshot.summary().additional_properties["firn.checkpoint"];
    assert_eq!(Checkpoint::from_json(summary).unwrap(), done.checkpoint);
    assert_eq!(done.checkpoint.next(&TopicPartition::new(TOPIC, 0)), Some(7));
    assert_eq!(count(&loaded).await, 2, "in append mode a delete is a row");
    assert_eq!(open(&catalog, spec).await.checkpoint().await.unwrap(), Some(done.checkpoint));
}

/// A write whose answer is lost has happened: what is written in its place must not leave it behind.
#[rstest]
#[case::data_file("-00000.parquet", 0)]
#[case::delete_file("-deletes-", 0)]
#[case::second_delete_file("-deletes-", 1)]
#[case::manifest("-m", 0)]
#[case::manifest_list("snap-", 0)]
#[case::metadata(".metadata.json", 0)]
#[tokio::test]
async fn a_file_whose_answer_was_lost_is_not_left_behind(#[case] path: &str, #[case] skip: usize) {
    let mut objects = vec![];
    for lost in [false, true] {
        let (catalog, spec) = (MemoryCatalog::default(), spec(Mode::Upsert));
        let table = open(&catalog, spec.clone()).await;
        table.ensure_schema(&columns(&["v"])).await.unwrap();
        put(&table, &[(1, Some("a")), (2, Some("b"))], 0).await;
        put(&table, &[(3, Some("c")), (4, Some("d"))], 2).await;
        if lost {
            catalog.faults().add(Fault::on([fault::Op::Put], Effect::LoseAnswer).path(path).skip(skip));
        }
        // Replaces a row of each of two files.
        let rows = [(1, Some("x")), (3, Some("y"))];
        let mut landed = false;
        while !landed {
            let staged = stage(&table, vec![changes(&rows)], vec![span(0, 4, 6)]).await;
            landed = table.commit(vec![staged]).await.is_ok();
        }
        assert_eq!(catalog.faults().pending(), 0, "the fault was met");
        assert_eq!(count(&load(&catalog, &spec).await).await, 4);
        // The clean-up runs behind the commit.
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        objects.push(stored(&catalog, load(&catalog, &spec).await.metadata().location()).await);
    }
    assert_eq!(objects[0], objects[1]);
}

#[tokio::test]
async fn a_staged_part_is_no_file_before_its_commit() {
    let (catalog, spec) = (MemoryCatalog::default(), spec(Mode::Append));
    let table = open(&catalog, spec.clone()).await;
    table.ensure_schema(&columns(&["v"])).await.unwrap();
    let data = format!("{}/data", load(&catalog, &spec).await.metadata().location());
    let staged = stage(&table, vec![changes(&[(1, Some("a"))])], vec![span(0, 0, 1)]).await;
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    assert_eq!(stored(&catalog, &data).await, 0, "a process killed now leaves nothing behind");
    table.commit(vec![staged]).await.unwrap();
    assert_eq!(stored(&catalog, &data).await, 1);
    let given_up = stage(&table, vec![changes(&[(2, Some("b"))])], vec![span(0, 1, 2)]).await;
    table.discard(vec![given_up]).await;
    assert_eq!(stored(&catalog, &data).await, 1);
}

#[tokio::test]
async fn a_batch_that_was_committed_by_another_writer_is_stale() {
    let (catalog, spec) = (MemoryCatalog::default(), spec(Mode::Append));
    let (a, b) = (open(&catalog, spec.clone()).await, open(&catalog, spec.clone()).await);
    for table in [&a, &b] {
        table.ensure_schema(&columns(&["v"])).await.unwrap();
    }
    put(&a, &[(1, Some("a"))], 0).await;
    let again = stage(&b, vec![changes(&[(1, Some("a"))])], vec![span(0, 0, 1)]).await;
    let failure = b.commit(vec![again]).await.unwrap_err();
    assert!(matches!(&failure, CommitFailure::Stale(text) if text.contains("t/0")), "{failure}");
    assert_eq!(count(&load(&catalog, &spec).await).await, 1);
}

#[tokio::test]
async fn two_processes_that_add_columns_at_once_mix_nothing_up() {
    let (catalog, spec) = (MemoryCatalog::default(), spec(Mode::Append));
    let (a, b) = (open(&catalog, spec.clone()).await, open(&catalog, spec.clone()).await);
    let (x, y) = (columns(&["v", "x"]), columns(&["v", "y"]));
    let (first, second) = tokio::join!(a.ensure_schema(&x), b.ensure_schema(&y));
    first.unwrap();
    second.unwrap();
    let all = a.ensure_schema(&columns(&["v"])).await.unwrap();
    for name in ["v", "x", "y"] {
        assert!(all.index_of(name).is_some(), "{name}");
    }
    let loaded = load(&catalog, &spec).await;
    let ids: std::collections::HashSet<i32> =
        loaded.metadata().current_schema().as_struct().fields().iter().map(|f| f.id).collect();
    assert_eq!(ids.len(), all.columns.len());
}

#[tokio::test]
async fn columns_that_do_not_fit_and_another_mode_are_refused_by_name() {
    let catalog = MemoryCatalog::default();
    let table = open(&catalog, spec(Mode::Append)).await;
    table.ensure_schema(&columns(&["v"])).await.unwrap();
    let other = RowSchema { columns: vec![Column::new("v", ColumnType::Date)] };
    let e = table.ensure_schema(&other).await.unwrap_err();
    assert!(matches!(e, LakeError::Incompatible { .. }));
    assert_eq!(
        e.to_string(),
        "table db.t, column v: the records have date, the table has string, and no promotion leads there: choose on_type_change = \
         \"new_column\" or \"dead_letters\", or write to another table"
    );
    let e = LakeTable::open(Arc::new(catalog.clone()), spec(Mode::Upsert), Handle::current()).await.unwrap_err();
    assert!(e.to_string().contains("mode append"), "{e}");
}

#[tokio::test]
async fn a_batch_staged_under_columns_that_changed_is_given_back() {
    let (catalog, spec) = (MemoryCatalog::default(), spec(Mode::Append));
    let table = open(&catalog, spec.clone()).await;
    table.ensure_schema(&columns(&["v"])).await.unwrap();
    let staged = stage(&table, vec![changes(&[(1, Some("a"))])], vec![span(0, 0, 1)]).await;

    let base = load(&catalog, &spec).await;
    let schema = base.metadata().current_schema();
    let renamed = schema.as_struct().fields().iter().map(|f| {
        let mut field = iceberg::spec::NestedField::clone(f);
        if field.name == "v" {
            field.name = "w".to_owned();
        }
        Arc::new(field)
    });
    let schema = iceberg::spec::Schema::builder().with_fields(renamed).build().unwrap();
    let updates = [TableUpdate::AddSchema { schema }, TableUpdate::SetCurrentSchema { schema_id: -1 }];
    catalog.swap(&base, &[TableRequirement::UuidMatch { uuid: base.metadata().uuid() }], &updates).await.unwrap();

    let Err(CommitFailure::SchemaMoved(parts)) = table.commit(vec![staged]).await else { panic!("it went in") };
    table.discard(parts).await;
    assert_eq!(count(&load(&catalog, &spec).await).await, 0);
}

#[rstest]
#[case::position_delete_files(2)]
#[case::deletion_vectors(3)]
#[tokio::test]
async fn a_data_file_has_one_delete_file_and_goes_when_nothing_in_it_lives(#[case] version: u8) {
    let catalog = MemoryCatalog::default();
    let spec = TableSpec { format_version: version, ..spec(Mode::Upsert) };
    let table = open(&catalog, spec.clone()).await;
    table.ensure_schema(&columns(&["v"])).await.unwrap();
    put(&table, &[(1, Some("a")), (2, Some("a")), (3, Some("a"))], 0).await;
    put(&table, &[(1, Some("b"))], 3).await;
    // A process that knows nothing must find the rows that live, in both formats.
    let table = open(&catalog, spec.clone()).await;
    table.ensure_schema(&columns(&["v"])).await.unwrap();
    table.checkpoint().await.unwrap();
    put(&table, &[(2, None)], 4).await;

    let loaded = load(&catalog, &spec).await;
    assert_eq!(loaded.metadata().format_version() == FormatVersion::V3, version == 3);
    let live = files(&loaded).await;
    assert!(live.equality_deletes.is_empty());
    assert_eq!((live.data.len(), live.position_deletes.len()), (2, 1));
    assert_eq!(live.position_deletes[0].file.record_count(), 2, "old and new positions in one");
    assert_eq!(live.position_deletes[0].is_deletion_vector(), version == 3);

    put(&table, &[(3, Some("c"))], 5).await;
    let live = files(&load(&catalog, &spec).await).await;
    assert_eq!((live.data.len(), live.position_deletes.len()), (2, 0), "the first file is gone with its deletes");
}

#[tokio::test]
async fn the_last_change_of_a_key_in_a_batch_wins_across_files_and_workers() {
    let catalog = MemoryCatalog::default();
    let spec = TableSpec { target_file_bytes: 1, ..spec(Mode::Upsert) };
    let table = open(&catalog, spec.clone()).await;
    table.ensure_schema(&columns(&["v"])).await.unwrap();
    let batches = vec![
        changes(&[(1, Some("a")), (2, Some("a")), (1, Some("b"))]),
        changes(&[(2, None), (3, Some("a"))]),
        changes(&[(3, Some("b"))]),
    ];
    let a = stage(&table, batches, vec![span(0, 0, 6)]).await;
    let b = stage(&table, vec![changes(&[(4, Some("a"))])], vec![span(1, 0, 1)]).await;
    table.commit(vec![a, b]).await.unwrap();
    let loaded = load(&catalog, &spec).await;
    assert_eq!(count(&loaded).await, 3);
    assert_eq!(files(&loaded).await.data.len(), 3, "the file whose only row was superseded is not added");
}

#[tokio::test]
async fn partitions_and_sort_order_are_the_tables() {
    let catalog = MemoryCatalog::default();
    let spec = TableSpec {
        partition_by: vec!["bucket(4, id)".to_owned()],
        sort_by: vec!["v desc nulls last".to_owned()],
        ..spec(Mode::Append)
    };
    let table = open(&catalog, spec.clone()).await;
    table.ensure_schema(&columns(&["v"])).await.unwrap();
    let rows: Vec<(i64, Option<&str>)> = (0..40).map(|i| (i, [Some("x"), Some("y"), None][i as usize % 3])).collect();
    put(&table, &rows, 0).await;
    let loaded = load(&catalog, &spec).await;
    assert_eq!(loaded.metadata().default_partition_spec().fields()[0].transform, Transform::Bucket(4));
    let sort = &loaded.metadata().default_sort_order().fields[0];
    assert_eq!((sort.direction, sort.null_order), (SortDirection::Descending, NullOrder::Last));
    let live = files(&loaded).await;
    assert_eq!(live.data.len(), 4);
    assert!(live.data.iter().all(|f| f.file.sort_order_id() == Some(1)));
    assert_eq!(count(&loaded).await, 40);
}

#[tokio::test]
async fn long_values_are_found_by_a_filter() {
    let (catalog, spec) = (MemoryCatalog::default(), spec(Mode::Append));
    let table = open(&catalog, spec.clone()).await;
    table.ensure_schema(&columns(&["v"])).await.unwrap();
    let (low, high) = ("a".repeat(200), "\u{10FFFF}".repeat(200));
    put(&table, &[(1, Some(&low)), (2, Some(&high)), (3, Some("m"))], 0).await;
    let loaded = load(&catalog, &spec).await;
    for value in [low.as_str(), high.as_str(), "m"] {
        let scan = loaded.scan().with_filter(Reference::new("v").equal_to(Datum::string(value))).build().unwrap();
        let batches: Vec<RecordBatch> = scan.to_arrow().await.unwrap().try_collect().await.unwrap();
        assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 1);
    }
}

/// A row of a table whose key is `id` and `d`.
fn composite(id: i64, d: f64, v: &str) -> ChangeBatch {
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from(vec![id]))),
        ("d", Arc::new(Float64Array::from(vec![d]))),
        ("v", Arc::new(StringArray::from(vec![v]))),
    ];
    ChangeBatch::new(RecordBatch::try_from_iter(columns).unwrap(), vec![Op::Create])
}

async fn composite_rows(table: &Table) -> Vec<(i64, f64, String)> {
    let batches: Vec<RecordBatch> =
        table.scan().build().unwrap().to_arrow().await.unwrap().try_collect().await.unwrap();
    let mut rows = vec![];
    for batch in batches {
        let column = |name: &str| batch.column_by_name(name).unwrap();
        let (id, d) = (column("id").as_primitive::<Int64Type>(), column("d").as_primitive::<Float64Type>());
        let v = column("v").as_string::<i32>();
        rows.extend((0..batch.num_rows()).map(|i| (id.value(i), d.value(i), v.value(i).to_owned())));
    }
    rows.sort_by(|a, b| a.partial_cmp(b).unwrap());
    rows
}

#[rstest]
#[case::of_the_records(true, &[])]
#[case::declared_later(false, &["id", "d"])]
#[case::of_records_that_came_later(false, &[])]
#[tokio::test]
async fn a_key_with_a_float_is_the_same_after_a_restart(#[case] from_the_start: bool, #[case] declared: &[&str]) {
    let catalog = MemoryCatalog::default();
    let made = spec(Mode::Upsert);
    let columns = |with_float: bool| {
        let d = if with_float { Column::key("d", ColumnType::Double) } else { Column::new("d", ColumnType::Double) };
        RowSchema { columns: vec![Column::key("id", ColumnType::Long), d, Column::new("v", ColumnType::String)] }
    };
    let key = |table: &LakeTable| -> Vec<String> {
        let rows = table.columns().unwrap().rows().clone();
        rows.columns.into_iter().filter(|c| c.key).map(|c| c.name).collect()
    };
    let first = open(&catalog, made.clone()).await;
    first.ensure_schema(&columns(from_the_start)).await.unwrap();
    if !from_the_start && declared.is_empty() {
        first.ensure_schema(&columns(true)).await.unwrap();
    }
    // No record tells these processes their key.
    let spec = TableSpec { key: declared.iter().map(|name| (*name).to_owned()).collect(), ..made };
    for (offset, batch) in
        [composite(1, 2.0, "a"), composite(1, 3.0, "b"), composite(1, 3.0, "c")].into_iter().enumerate()
    {
        let table = open(&catalog, spec.clone()).await;
        assert_eq!(key(&table), ["id", "d"], "found");
        table.checkpoint().await.unwrap();
        assert_eq!(key(&table), ["id", "d"], "read again");
        let staged = stage(&table, vec![batch], vec![span(0, offset as i64, offset as i64 + 1)]).await;
        table.commit(vec![staged]).await.unwrap();
    }
    let rows = composite_rows(&load(&catalog, &spec).await).await;
    assert_eq!(rows, [(1, 2.0, "a".to_owned()), (1, 3.0, "c".to_owned())]);
}

#[tokio::test]
async fn storage_that_goes_away_while_a_file_is_read_does_not_fail_the_batch() {
    let (catalog, spec) = (MemoryCatalog::default(), spec(Mode::Upsert));
    let table = open(&catalog, spec.clone()).await;
    table.ensure_schema(&columns(&["v"])).await.unwrap();
    put(&table, &[(1, Some("a")), (2, Some("a"))], 0).await;
    // It has to read the keys first.
    let other = open(&catalog, spec.clone()).await;
    catalog.faults().add(Fault::on([Call::Get], Effect::Fail(ErrorKind::Unavailable)).path("/data/").times(2));
    put(&other, &[(1, Some("b"))], 2).await;
    assert_eq!(catalog.faults().pending(), 0);
    assert_eq!(count(&load(&catalog, &spec).await).await, 2);
}
