//! Compaction beside a writer that goes on: nothing is lost, nothing comes twice, nobody waits.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Array, Int64Array, RecordBatch};
use async_trait::async_trait;
use firn::change::Mode;
use firn::maintain::compact::{CompactReport, Compaction, GroupState};
use firn::memory::Memory;
use firn::sink::lake::{LakeTable, Shared, TableSpec};
use firn_catalog::memory::MemoryCatalog;
use firn_catalog::storage::fault::{Effect, Fault, Op as Call};
use firn_catalog::{Attempt, Catalog, CommitError, ErrorKind, Patience, Plan, Planner, Result, RowDelta, SpecFile};
use futures::TryStreamExt;
use futures::future::BoxFuture;
use iceberg::arrow::schema_to_arrow_schema;
use iceberg::io::FileIO;
use iceberg::spec::{
    DataContentType, DataFileBuilder, DataFileFormat, FormatVersion, Literal, NestedField, Operation, PrimitiveType,
    Schema, Struct, Transform, Type, UnboundPartitionSpec,
};
use iceberg::table::Table;
use iceberg::{NamespaceIdent, TableCreation, TableIdent, TableRequirement, TableUpdate};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::properties::WriterProperties;
use rstest::rstest;
use tempfile::TempDir;
use tokio::runtime::Handle;

use crate::lake::{columns, files, load, put, spec};
use crate::{foreign, row_ids};

/// A catalog in which something happens right before a swap: the first of them is lost to it.
struct Between {
    inner: MemoryCatalog,
    before_swap: Mutex<Option<BoxFuture<'static, ()>>>,
}

impl Between {
    fn new(inner: &MemoryCatalog, before_swap: BoxFuture<'static, ()>) -> Arc<Self> {
        Arc::new(Self { inner: inner.clone(), before_swap: Mutex::new(Some(before_swap)) })
    }
}

impl fmt::Debug for Between {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Between").finish_non_exhaustive()
    }
}

#[async_trait]
impl Catalog for Between {
    fn describe(&self) -> String {
        self.inner.describe()
    }
    fn file_io(&self) -> &FileIO {
        self.inner.file_io()
    }
    async fn probe(&self) -> Result<()> {
        self.inner.probe().await
    }
    async fn list_namespaces(&self) -> Result<Vec<NamespaceIdent>> {
        self.inner.list_namespaces().await
    }
    async fn ensure_namespace(&self, namespace: &NamespaceIdent, properties: HashMap<String, String>) -> Result<()> {
        self.inner.ensure_namespace(namespace, properties).await
    }
    async fn list_tables(&self, namespace: &NamespaceIdent) -> Result<Vec<TableIdent>> {
        self.inner.list_tables(namespace).await
    }
    async fn load(&self, table: &TableIdent) -> Result<Table> {
        self.inner.load(table).await
    }
    async fn load_unless_at(&self, table: &TableIdent, known: &str) -> Result<Option<Table>> {
        self.inner.load_unless_at(table, known).await
    }
    async fn create(&self, namespace: &NamespaceIdent, creation: TableCreation) -> Result<Table> {
        self.inner.create(namespace, creation).await
    }
    async fn drop(&self, table: &TableIdent) -> Result<()> {
        self.inner.drop(table).await
    }
    async fn swap(&self, base: &Table, requirements: &[TableRequirement], updates: &[TableUpdate]) -> Result<Table> {
        let before = self.before_swap.lock().unwrap().take();
        if let Some(before) = before {
            before.await;
        }
        self.inner.swap(base, requirements, updates).await
    }
}

fn compaction(catalog: Arc<dyn Catalog>) -> Compaction {
    Compaction {
        min_files: Some(2),
        patience: Patience { attempts: 5, first_wait_ms: 0, max_wait_ms: 0 },
        ..Compaction::new(catalog, Handle::current(), Memory::new(64 << 20))
    }
}

async fn compact(catalog: &MemoryCatalog, spec: &TableSpec) -> CompactReport {
    compaction(Arc::new(catalog.clone())).run(&spec.ident().unwrap()).await.unwrap()
}

/// Compacts; `meanwhile` happens between the rewrite and the commit.
async fn compact_beside(catalog: &MemoryCatalog, spec: &TableSpec, meanwhile: BoxFuture<'static, ()>) -> CompactReport {
    compaction(Between::new(catalog, meanwhile)).run(&spec.ident().unwrap()).await.unwrap()
}

async fn open(catalog: &MemoryCatalog, spec: &TableSpec) -> Arc<LakeTable> {
    let table = LakeTable::open(Arc::new(catalog.clone()), spec.clone(), Handle::current()).await.unwrap();
    table.ensure_schema(&columns(&["v"])).await.unwrap();
    Arc::new(table)
}

/// Value of each row by its key; a key twice is an error.
async fn rows(table: &Table) -> BTreeMap<i64, String> {
    if table.metadata().format_version() >= FormatVersion::V3 {
        // Iceberg's scan reads no deletion vectors.
        return row_ids::rows(table).await.into_iter().map(|(key, (_, v))| (key, v)).collect();
    }
    let batches: Vec<RecordBatch> =
        table.scan().build().unwrap().to_arrow().await.unwrap().try_collect().await.unwrap();
    let mut rows = BTreeMap::new();
    for batch in batches {
        let ids = batch.column_by_name("id").unwrap().as_primitive::<Int64Type>();
        let values = batch.column_by_name("v").unwrap().as_string::<i32>();
        for row in 0..batch.num_rows() {
            let value = if values.is_valid(row) { values.value(row) } else { "null" };
            assert_eq!(rows.insert(ids.value(row), value.to_owned()), None, "key {} twice", ids.value(row));
        }
    }
    rows
}

fn expected(rows: &[(i64, &str)]) -> BTreeMap<i64, String> {
    rows.iter().map(|(id, v)| (*id, (*v).to_owned())).collect()
}

fn committed(report: &CompactReport) -> usize {
    report.groups.iter().filter(|g| matches!(g.state, GroupState::Committed { .. })).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn small_files_become_one_and_the_writer_goes_on() {
    let (catalog, spec) = (MemoryCatalog::default(), spec(Mode::Append));
    let table = open(&catalog, &spec).await;
    for n in 0..6 {
        put(&table, &[(n, Some("a")), (n + 100, Some("b"))], n * 2).await;
    }
    let stands = table.checkpoint().await.unwrap();
    let before = rows(&load(&catalog, &spec).await).await;
    let dry = Compaction { dry_run: true, ..compaction(Arc::new(catalog.clone())) };
    let plan = dry.run(&spec.ident().unwrap()).await.unwrap();
    assert_eq!((plan.files_before, plan.files_after, plan.snapshots.len()), (6, 1, 0));

    let report = compact(&catalog, &spec).await;
    assert_eq!((report.files_before, report.files_after, committed(&report)), (6, 1, 1), "{report:?}");
    let loaded = load(&catalog, &spec).await;
    assert_eq!(rows(&loaded).await, before);
    assert_eq!(files(&loaded).await.data.len(), 1);
    let snapshot = loaded.metadata().current_snapshot().unwrap();
    assert_eq!(snapshot.summary().operation, Operation::Replace);
    let total = |name: &str| snapshot.summary().additional_properties[name].parse::<u64>().unwrap();
    assert_eq!((total("total-records"), total("total-data-files")), (12, 1));
    assert_eq!(table.checkpoint().await.unwrap(), stands, "the position stays");
    put(&table, &[(7, Some("c"))], 12).await;
    assert_eq!(rows(&load(&catalog, &spec).await).await.len(), 13);
    assert!(compact(&catalog, &spec).await.groups.len() <= 1, "a compacted table is left alone, but for the new file");
}

#[rstest]
#[case::v2(2, &[], &[])]
#[case::v3(3, &[], &[])]
#[case::partitioned(2, &["bucket(3, id)"], &[])]
#[case::sorted(2, &[], &["v desc", "id desc"])]
#[case::sorted_v3(3, &[], &["truncate(1, v)", "id desc"])]
#[tokio::test(flavor = "multi_thread")]
async fn rows_deleted_and_changed_while_files_are_rewritten_are_so_afterwards(
    #[case] format_version: u8,
    #[case] partition_by: &[&str],
    #[case] sort_by: &[&str],
) {
    let owned = |terms: &[&str]| terms.iter().map(|by| (*by).to_owned()).collect();
    let (partition_by, sort_by) = (owned(partition_by), owned(sort_by));
    let spec = TableSpec { format_version, partition_by, sort_by, ..spec(Mode::Upsert) };
    let catalog = MemoryCatalog::default();
    let table = open(&catalog, &spec).await;
    let mut model = BTreeMap::new();
    for n in 0..8i64 {
        let changes: Vec<(i64, Option<&str>)> = (0..12).map(|i| (n * 6 + i, Some("a"))).collect();
        model.extend(changes.iter().map(|(id, v)| (*id, v.unwrap().to_owned())));
        put(&table, &changes, n * 12).await;
    }
    put(&table, &[(3, None), (17, None)], 96).await;
    model.remove(&3);
    model.remove(&17);
    let before = match format_version {
        3 => row_ids::rows(&load(&catalog, &spec).await).await,
        _ => BTreeMap::new(),
    };

    let writer = Arc::clone(&table);
    let meanwhile = Box::pin(async move {
        // Gone, changed, changed twice, come back, new.
        put(&writer, &[(4, None), (5, Some("b")), (30, Some("b")), (3, Some("c")), (1000, Some("d"))], 98).await;
        put(&writer, &[(30, Some("e")), (41, None)], 103).await;
    });
    let report = compact_beside(&catalog, &spec, meanwhile).await;
    assert!(committed(&report) > 0 && report.moved_deletes == 4, "{report:?}");
    for id in [4, 41] {
        model.remove(&id);
    }
    for (id, v) in [(5, "b"), (30, "e"), (3, "c"), (1000, "d")] {
        model.insert(id, v.to_owned());
    }
    assert_eq!(rows(&load(&catalog, &spec).await).await, model);

    // The writer's index catches up: what it changes next is found in the new files.
    put(&table, &[(8, None), (9, Some("f")), (5, Some("g"))], 105).await;
    model.remove(&8);
    model.extend([(9, "f".to_owned()), (5, "g".to_owned())]);
    let loaded = load(&catalog, &spec).await;
    assert_eq!(rows(&loaded).await, model);
    foreign::check_delete_files(&loaded).await;
    if format_version == 3 {
        let after = row_ids::rows(&loaded).await;
        for (key, (id, _)) in &after {
            let same = before.get(key).map(|(id, _)| id);
            assert!(same == Some(id) || same.is_none(), "key {key} has another id");
        }
    }

    // And all of it once more, with nobody between.
    let report = compact(&catalog, &spec).await;
    assert!(report.groups.iter().all(|g| !g.state.is_bad()), "{report:?}");
    let loaded = load(&catalog, &spec).await;
    assert_eq!(rows(&loaded).await, model);
    let live = files(&loaded).await;
    if spec.partition_by.is_empty() {
        assert_eq!((live.data.len(), live.position_deletes.len()), (1, 0));
    }
    // A writer that starts anew finds its place and its rows.
    let again = open(&catalog, &spec).await;
    assert_eq!(again.checkpoint().await.unwrap(), table.checkpoint().await.unwrap());
    put(&again, &[(9, None)], 108).await;
    model.remove(&9);
    assert_eq!(rows(&load(&catalog, &spec).await).await, model);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_compactions_of_the_same_files_one_wins_and_both_succeed() {
    let (catalog, spec) = (MemoryCatalog::default(), spec(Mode::Append));
    let table = open(&catalog, &spec).await;
    for n in 0..4 {
        put(&table, &[(n, Some("a"))], n).await;
    }
    let (other, spec_of_other) = (catalog.clone(), spec.clone());
    let meanwhile = Box::pin(async move {
        assert_eq!(committed(&compact(&other, &spec_of_other).await), 1);
    });
    let report = compact_beside(&catalog, &spec, meanwhile).await;
    assert!(matches!(report.groups[0].state, GroupState::Lost { .. }), "{report:?}");
    let loaded = load(&catalog, &spec).await;
    assert_eq!(rows(&loaded).await, expected(&[(0, "a"), (1, "a"), (2, "a"), (3, "a")]));
    assert_eq!(files(&loaded).await.data.len(), 1);
    let (stored, _) = foreign::listed(&catalog, &loaded).await;
    let reachable =
        foreign::reachable(&loaded, &loaded.metadata().snapshots().map(|s| s.snapshot_id()).collect::<Vec<_>>()).await;
    let reachable: BTreeSet<String> = reachable.unwrap();
    let orphans: Vec<_> = stored.iter().filter(|p| p.contains("/data/") && !reachable.contains(*p)).collect();
    assert!(orphans.is_empty(), "the loser's files are gone: {orphans:?}");
}

/// A row that changes in every commit is in the newest file alone, which is gone with the next one.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_whose_rows_were_all_replaced_meanwhile_holds_up_nothing() {
    let (catalog, spec) = (MemoryCatalog::default(), spec(Mode::Upsert));
    let table = open(&catalog, &spec).await;
    for id in 0..5 {
        put(&table, &[(id, Some("a"))], id).await;
    }
    let writer = Arc::clone(&table);
    let meanwhile = Box::pin(async move {
        put(&writer, &[(4, Some("b"))], 5).await;
    });
    let report = compact_beside(&catalog, &spec, meanwhile).await;
    assert_eq!(committed(&report), 1, "{report:?}");
    let model = [(0, "a"), (1, "a"), (2, "a"), (3, "a"), (4, "b")];
    assert_eq!(rows(&load(&catalog, &spec).await).await, expected(&model));
    put(&table, &[(4, Some("c")), (0, None)], 6).await;
    let loaded = load(&catalog, &spec).await;
    assert_eq!(rows(&loaded).await, expected(&[(1, "a"), (2, "a"), (3, "a"), (4, "c")]));
    foreign::check_delete_files(&loaded).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_meanwhile_brings_rows_back_and_wins() {
    let (catalog, spec) = (MemoryCatalog::default(), spec(Mode::Upsert));
    let table = open(&catalog, &spec).await;
    put(&table, &[(1, Some("a")), (2, Some("a"))], 0).await;
    put(&table, &[(3, Some("a"))], 2).await;
    put(&table, &[(2, None)], 3).await;
    let (other, ident) = (catalog.clone(), spec.ident().unwrap());
    let meanwhile = Box::pin(async move {
        foreign::roll_back(&other, &ident, 1).await.unwrap();
    });
    let report = compact_beside(&catalog, &spec, meanwhile).await;
    assert!(
        matches!(&report.groups[0].state, GroupState::Lost { reason } if reason.contains("rolled back")),
        "{report:?}"
    );
    let loaded = load(&catalog, &spec).await;
    assert_eq!(rows(&loaded).await, expected(&[(1, "a"), (2, "a"), (3, "a")]));
    // The writer sees the rollback through the compaction that came after it, and reads again from there.
    let stands = open(&catalog, &spec).await.checkpoint().await.unwrap().unwrap();
    assert_eq!((stands.next(&firn::position::TopicPartition::new("t", 0)), stands.generation), (Some(3), 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn equality_deletes_are_applied_and_later_ones_still_apply() {
    let (catalog, spec) = (MemoryCatalog::default(), spec(Mode::Upsert));
    let table = open(&catalog, &spec).await;
    put(&table, &[(1, Some("a")), (2, Some("a"))], 0).await;
    put(&table, &[(3, Some("a")), (4, Some("a"))], 2).await;
    delete_by_equality(&catalog, &spec, &[2, 3]).await;
    // A row of the same key that came later stays. The writer itself refuses such a table, so another one appends it.
    foreign_append(&catalog, &spec, 3).await;
    let (other, spec_of_other) = (catalog.clone(), spec.clone());
    let meanwhile = Box::pin(async move { delete_by_equality(&other, &spec_of_other, &[4]).await });
    let report = compact_beside(&catalog, &spec, meanwhile).await;
    assert!(committed(&report) > 0, "{report:?}");
    let loaded = load(&catalog, &spec).await;
    assert_eq!(rows(&loaded).await.into_keys().collect::<Vec<_>>(), [1, 3]);
    assert_eq!(files(&loaded).await.equality_deletes.len(), 1, "the one that came later is still needed");
    compact(&catalog, &spec).await;
    let loaded = load(&catalog, &spec).await;
    assert_eq!(rows(&loaded).await.into_keys().collect::<Vec<_>>(), [1, 3]);
    assert!(files(&loaded).await.equality_deletes.is_empty());
    put(&table, &[(1, None), (5, Some("b"))], 4).await;
    assert_eq!(rows(&load(&catalog, &spec).await).await.into_keys().collect::<Vec<_>>(), [3, 5]);
}

/// What is made by hand, as another writer's commit.
struct ByHand(RowDelta);

#[async_trait]
impl Planner for ByHand {
    async fn plan(&mut self, _base: &Table, _attempt: Attempt) -> std::result::Result<Plan, CommitError> {
        Ok(Plan { delta: self.0.clone(), ..Plan::default() })
    }
}

async fn by_hand(catalog: &MemoryCatalog, spec: &TableSpec, delta: RowDelta) {
    let id = firn_catalog::new_snapshot_id();
    let ident = spec.ident().unwrap();
    firn_catalog::commit(catalog, &ident, id, &mut ByHand(delta), Patience::default()).await.unwrap();
}

async fn foreign_append(catalog: &MemoryCatalog, spec: &TableSpec, id: i64) {
    let table = load(catalog, spec).await;
    let schema = table.metadata().current_schema().clone();
    let arrow = Arc::new(schema_to_arrow_schema(&schema).unwrap());
    let columns = arrow.fields().iter().map(|field| match field.name().as_str() {
        "id" => Arc::new(Int64Array::from(vec![id])) as _,
        _ => arrow_array::new_null_array(field.data_type(), 1),
    });
    let batch = RecordBatch::try_new(Arc::clone(&arrow), columns.collect()).unwrap();
    let file = write(&table, &batch, "foreign").await.content(DataContentType::Data).build().unwrap();
    by_hand(catalog, spec, RowDelta { data_files: vec![SpecFile { spec_id: 0, file }], ..RowDelta::default() }).await;
}

async fn delete_by_equality(catalog: &MemoryCatalog, spec: &TableSpec, ids: &[i64]) {
    delete_by_equality_in(catalog, spec, ids, Struct::empty()).await;
}

async fn delete_by_equality_in(catalog: &MemoryCatalog, spec: &TableSpec, ids: &[i64], partition: Struct) {
    let table = load(catalog, spec).await;
    let field_id = table.metadata().current_schema().field_by_name("id").unwrap().id;
    let schema = Schema::builder()
        .with_fields([Arc::new(NestedField::required(field_id, "id", Type::Primitive(PrimitiveType::Long)))])
        .build()
        .unwrap();
    let arrow = Arc::new(schema_to_arrow_schema(&schema).unwrap());
    let batch = RecordBatch::try_new(arrow, vec![Arc::new(Int64Array::from(ids.to_vec()))]).unwrap();
    let mut file = write(&table, &batch, "equality").await;
    file.content(DataContentType::EqualityDeletes).equality_ids(Some(vec![field_id])).partition(partition);
    let file = file.build().unwrap();
    by_hand(catalog, spec, RowDelta { delete_files: vec![SpecFile { spec_id: 0, file }], ..RowDelta::default() }).await;
}

async fn write(table: &Table, batch: &RecordBatch, what: &str) -> DataFileBuilder {
    write_with(table, batch, what, None).await
}

async fn write_with(
    table: &Table,
    batch: &RecordBatch,
    what: &str,
    properties: Option<WriterProperties>,
) -> DataFileBuilder {
    let mut bytes = vec![];
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), properties).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
    let id = firn_catalog::surroundings::new_id();
    let path = format!("{}/data/{what}-{id}.parquet", table.metadata().location());
    let size = bytes.len() as u64;
    table.file_io().new_output(&path).unwrap().write(bytes.into()).await.unwrap();
    let mut file = DataFileBuilder::default();
    file.file_path(path)
        .file_format(DataFileFormat::Parquet)
        .partition(Struct::empty())
        .partition_spec_id(0)
        .record_count(batch.num_rows() as u64)
        .file_size_in_bytes(size);
    file
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_storage_lost_is_named_and_the_others_are_rewritten() {
    let spec = TableSpec { partition_by: vec!["id".to_owned()], ..spec(Mode::Append) };
    let catalog = MemoryCatalog::default();
    let table = open(&catalog, &spec).await;
    for n in 0..3 {
        put(&table, &[(1, Some("a")), (2, Some("b"))], n * 2).await;
    }
    let loaded = load(&catalog, &spec).await;
    let of_one = |f: &&firn_catalog::live::LiveFile| format!("{:?}", f.file.partition()).contains("Long(1)");
    let lost = files(&loaded).await.data.iter().find(of_one).unwrap().file.file_path().to_owned();
    loaded.file_io().delete(&lost).await.unwrap();
    let report = compact(&catalog, &spec).await;
    let missing =
        report.groups.iter().filter(|g| matches!(&g.state, GroupState::Missing { path, .. } if *path == lost));
    assert_eq!((missing.count(), committed(&report)), (1, 1), "{report:?}");
}

/// The ids of a file's rows, in its order.
async fn ids_in_order(table: &Table, path: &str) -> Vec<i64> {
    let bytes = table.file_io().new_input(path).unwrap().read().await.unwrap();
    let batches = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().build().unwrap();
    let ids = |batch: RecordBatch| batch.column_by_name("id").unwrap().as_primitive::<Int64Type>().values().to_vec();
    batches.flat_map(|batch| ids(batch.unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sort_order_holds_over_all_rows_of_a_new_file() {
    let spec = TableSpec { sort_by: vec!["v".to_owned(), "id desc".to_owned()], ..spec(Mode::Append) };
    let catalog = MemoryCatalog::default();
    let table = open(&catalog, &spec).await;
    let mut expected: Vec<(String, i64)> = vec![];
    for n in 0..5i64 {
        let names: Vec<(i64, String)> = (0..4).map(|i| (n * 4 + i, format!("{}", (n * 7 + i * 5) % 3))).collect();
        expected.extend(names.iter().map(|(id, v)| (v.clone(), -id)));
        put(&table, &names.iter().map(|(id, v)| (*id, Some(v.as_str()))).collect::<Vec<_>>(), n * 4).await;
    }
    expected.sort();
    compact(&catalog, &spec).await;
    let loaded = load(&catalog, &spec).await;
    let live = files(&loaded).await;
    assert_eq!(live.data.len(), 1);
    assert_eq!(i64::from(live.data[0].file.sort_order_id().unwrap()), loaded.metadata().default_sort_order_id());
    let ids = ids_in_order(&loaded, live.data[0].file.file_path()).await;
    assert_eq!(ids, expected.iter().map(|(_, id)| -id).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_an_older_partitioning_and_of_older_columns_become_those_of_today() {
    let (catalog, spec) = (MemoryCatalog::default(), spec(Mode::Upsert));
    let table = open(&catalog, &spec).await;
    put(&table, &[(1, Some("a")), (2, Some("a")), (3, Some("a"))], 0).await;
    put(&table, &[(4, Some("a")), (5, Some("a"))], 3).await;
    let loaded = load(&catalog, &spec).await;
    let id = loaded.metadata().current_schema().field_by_name("id").unwrap().id;
    let by_id = UnboundPartitionSpec::builder().add_partition_field(id, "id_part", Transform::Identity).unwrap();
    let updates = [TableUpdate::AddSpec { spec: by_id.build() }, TableUpdate::SetDefaultSpec { spec_id: -1 }];
    catalog.swap(&loaded, &[], &updates).await.unwrap();
    let again = open(&catalog, &spec).await;
    again.ensure_schema(&columns(&["v", "w"])).await.unwrap();

    let writer = Arc::clone(&again);
    let meanwhile = Box::pin(async move {
        put(&writer, &[(2, None), (4, Some("b"))], 5).await;
    });
    let report = compact_beside(&catalog, &spec, meanwhile).await;
    assert_eq!((committed(&report), report.moved_deletes), (1, 2), "{report:?}");
    let loaded = load(&catalog, &spec).await;
    assert_eq!(rows(&loaded).await, expected(&[(1, "a"), (3, "a"), (4, "b"), (5, "a")]));
    let live = files(&loaded).await;
    assert!(live.data.iter().all(|f| f.spec_id == loaded.metadata().default_partition_spec_id()));
    put(&again, &[(5, None), (1, Some("c"))], 7).await;
    let loaded = load(&catalog, &spec).await;
    assert_eq!(rows(&loaded).await, expected(&[(1, "c"), (3, "a"), (4, "b")]));
    foreign::check_delete_files(&loaded).await;
}

/// An equality delete takes rows of its own partition, also where the files of several are rewritten into another partitioning.
#[tokio::test(flavor = "multi_thread")]
async fn equality_deletes_of_one_old_partition_spare_the_others() {
    let spec = TableSpec { partition_by: vec!["v".to_owned()], ..spec(Mode::Append) };
    let catalog = MemoryCatalog::default();
    let table = open(&catalog, &spec).await;
    put(&table, &[(1, Some("a")), (3, Some("a")), (1, Some("b")), (2, Some("b"))], 0).await;
    for (id, v) in [(1, "a"), (2, "b")] {
        let partition = Struct::from_iter([Some(Literal::string(v))]);
        delete_by_equality_in(&catalog, &spec, &[id], partition).await;
    }
    let loaded = load(&catalog, &spec).await;
    let id = loaded.metadata().current_schema().field_by_name("id").unwrap().id;
    let by_id = UnboundPartitionSpec::builder().add_partition_field(id, "ids", Transform::Bucket(1)).unwrap();
    let updates = [TableUpdate::AddSpec { spec: by_id.build() }, TableUpdate::SetDefaultSpec { spec_id: -1 }];
    catalog.swap(&loaded, &[], &updates).await.unwrap();
    let report = compact(&catalog, &spec).await;
    assert!(committed(&report) > 0, "{report:?}");
    assert_eq!(rows(&load(&catalog, &spec).await).await, expected(&[(1, "b"), (3, "a")]));
}

/// Rows of all partitions stand in each file; what they become is a file of each, not one of each piece that was read.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_go_into_other_partitions_make_one_file_of_each() {
    const PARTITIONS: i64 = 40;
    let (catalog, spec) = (MemoryCatalog::default(), spec(Mode::Upsert));
    let table = open(&catalog, &spec).await;
    for n in 0..3 {
        let ids: Vec<(i64, Option<&str>)> = (0..PARTITIONS).map(|id| (id + n * PARTITIONS, Some("a"))).collect();
        put(&table, &ids, n * PARTITIONS).await;
    }
    let loaded = load(&catalog, &spec).await;
    let id = loaded.metadata().current_schema().field_by_name("id").unwrap().id;
    let by_id = UnboundPartitionSpec::builder().add_partition_field(id, "ids", Transform::Truncate(3)).unwrap();
    let updates = [TableUpdate::AddSpec { spec: by_id.build() }, TableUpdate::SetDefaultSpec { spec_id: -1 }];
    catalog.swap(&loaded, &[], &updates).await.unwrap();
    let again = open(&catalog, &spec).await;

    let writer = Arc::clone(&again);
    let meanwhile = Box::pin(async move {
        put(&writer, &[(2, None), (77, Some("b"))], 3 * PARTITIONS).await;
    });
    let report = compact_beside(&catalog, &spec, meanwhile).await;
    assert_eq!((committed(&report), report.moved_deletes), (1, 2), "{report:?}");
    let loaded = load(&catalog, &spec).await;
    let current = loaded.metadata().default_partition_spec_id();
    let live = files(&loaded).await;
    assert!(live.data.iter().all(|f| f.spec_id == current));
    let compacted = live.data.iter().filter(|f| f.snapshot_id == report.snapshots[0]).count();
    assert_eq!(compacted as i64, PARTITIONS, "three rows of each partition are in one file");
    let mut expected: BTreeMap<i64, String> = (0..3 * PARTITIONS).map(|id| (id, "a".to_owned())).collect();
    expected.remove(&2);
    expected.insert(77, "b".to_owned());
    assert_eq!(rows(&loaded).await, expected);
    foreign::check_delete_files(&loaded).await;
}

/// Files of older partitions that become one partition: whatever partition they were of, they go together.
#[tokio::test(flavor = "multi_thread")]
async fn files_of_many_older_partitions_become_one_file() {
    let spec = TableSpec { partition_by: vec!["id".to_owned()], ..spec(Mode::Append) };
    let catalog = MemoryCatalog::default();
    let table = open(&catalog, &spec).await;
    put(&table, &(0..10).map(|id| (id, Some("a"))).collect::<Vec<_>>(), 0).await;
    let loaded = load(&catalog, &spec).await;
    assert_eq!(files(&loaded).await.data.len(), 10);
    let none = UnboundPartitionSpec::builder().build();
    let updates = [TableUpdate::AddSpec { spec: none }, TableUpdate::SetDefaultSpec { spec_id: -1 }];
    catalog.swap(&loaded, &[], &updates).await.unwrap();
    let report = compact(&catalog, &spec).await;
    assert_eq!((committed(&report), report.files_before, report.files_after), (1, 10, 1), "{report:?}");
    let loaded = load(&catalog, &spec).await;
    assert_eq!(rows(&loaded).await.len(), 10);
}

/// A commit that does not come through holds up the groups behind it: each that is ready holds memory.
#[tokio::test(flavor = "multi_thread")]
async fn while_a_commit_is_held_up_few_groups_are_begun() {
    const GROUPS: usize = 8;
    let spec = TableSpec { partition_by: vec!["id".to_owned()], ..spec(Mode::Append) };
    let catalog = MemoryCatalog::default();
    let table = open(&catalog, &spec).await;
    for n in 0..2 {
        put(&table, &(0..GROUPS as i64).map(|id| (id, Some("a"))).collect::<Vec<_>>(), n * GROUPS as i64).await;
    }
    let before = data_files(&catalog, &spec).await;
    let (ours, ident) = (catalog.clone(), spec.clone());
    let new_files = Arc::new(Mutex::new(0));
    let seen = Arc::clone(&new_files);
    // Until nothing more comes.
    let held_up = Box::pin(async move {
        let (mut last, mut quiet) = (0, 0);
        while quiet < 20 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            let now = data_files(&ours, &ident).await - before;
            quiet = if now == last { quiet + 1 } else { 0 };
            last = now;
        }
        *seen.lock().unwrap() = last;
    });
    let report = Compaction { parallel: 2, ..compaction(Between::new(&catalog, held_up)) };
    let report = report.run(&spec.ident().unwrap()).await.unwrap();
    let begun = *new_files.lock().unwrap();
    assert!((1..=4).contains(&begun), "{begun} groups were rewritten before the first commit was through");
    assert_eq!(committed(&report), GROUPS, "{report:?}");
    assert_eq!(rows_of_all(&load(&catalog, &spec).await).await, 2 * GROUPS);
}

/// Stored, in a snapshot or not.
async fn data_files(catalog: &MemoryCatalog, spec: &TableSpec) -> usize {
    let stored = foreign::stored(catalog, &spec.ident().unwrap()).await;
    stored.iter().filter(|path| path.contains("/data/")).count()
}

async fn rows_of_all(table: &Table) -> usize {
    files(table).await.data.iter().map(|file| file.file.record_count() as usize).sum()
}

/// Files that are not read in one request but by their row groups: their rows, and what is deleted of them, are those of the whole file.
#[rstest]
#[case::v2(2)]
#[case::v3(3)]
#[tokio::test(flavor = "multi_thread")]
async fn large_files_are_read_by_their_row_groups(#[case] format_version: u8) {
    let spec = TableSpec { format_version, ..spec(Mode::Upsert) };
    let catalog = MemoryCatalog::default();
    let table = open(&catalog, &spec).await;
    put(&table, &[(-1, Some("small"))], 0).await;
    // Larger than what is read at once with little memory.
    let text = |id: i64| format!("{:0300}", (id as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    foreign_file(&catalog, &spec, 0..8_000, text).await;
    foreign_file(&catalog, &spec, 8_000..16_000, text).await;
    let live = files(&load(&catalog, &spec).await).await;
    assert!(live.data.iter().filter(|f| f.file.file_size_in_bytes() > 2 << 20).count() == 2, "they are large");
    let gone = [0, 999, 1_000, 4_321, 7_999, 8_000, 15_999];
    put(&table, &gone.map(|id| (id, None)), 1).await;
    let expected = rows(&load(&catalog, &spec).await).await;
    assert_eq!(expected.len(), 16_001 - gone.len());

    let writer = Arc::clone(&table);
    let meanwhile = Box::pin(async move {
        put(&writer, &[(998, None), (1_001, None), (12_345, None)], 8).await;
    });
    let report = compact_beside(&catalog, &spec, meanwhile).await;
    assert_eq!((committed(&report), report.deleted_rows, report.moved_deletes), (1, 7, 3), "{report:?}");
    let loaded = load(&catalog, &spec).await;
    let now = rows(&loaded).await;
    let missing: Vec<i64> = expected.keys().filter(|id| !now.contains_key(id)).copied().collect();
    assert_eq!(missing, [998, 1_001, 12_345]);
    assert!(now.iter().all(|(id, v)| expected.get(id) == Some(v)));
    foreign::check_delete_files(&loaded).await;
}

/// Another writer's data file, in small row groups, not compressed.
async fn foreign_file(
    catalog: &MemoryCatalog,
    spec: &TableSpec,
    ids: std::ops::Range<i64>,
    text: impl Fn(i64) -> String,
) {
    let table = load(catalog, spec).await;
    let arrow = Arc::new(schema_to_arrow_schema(table.metadata().current_schema()).unwrap());
    let rows = (ids.end - ids.start) as usize;
    let columns = arrow.fields().iter().map(|field| match field.name().as_str() {
        "id" => Arc::new(ids.clone().collect::<Int64Array>()) as _,
        "v" => Arc::new(ids.clone().map(|id| Some(text(id))).collect::<arrow_array::StringArray>()) as _,
        _ => arrow_array::new_null_array(field.data_type(), rows),
    });
    let batch = RecordBatch::try_new(Arc::clone(&arrow), columns.collect()).unwrap();
    let in_groups = WriterProperties::builder().set_max_row_group_row_count(Some(1_000)).build();
    let mut file = write_with(&table, &batch, "foreign", Some(in_groups)).await;
    let file = file.content(DataContentType::Data).build().unwrap();
    by_hand(catalog, spec, RowDelta { data_files: vec![SpecFile { spec_id: 0, file }], ..RowDelta::default() }).await;
}

#[rstest]
#[case::refused(Effect::FailAfter(ErrorKind::Conflict))]
#[case::lost(Effect::LoseAnswer)]
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_is_wrong_or_lost_is_known_again(#[case] effect: Effect) {
    let (catalog, spec) = (MemoryCatalog::default(), spec(Mode::Append));
    let table = open(&catalog, &spec).await;
    for n in 0..3 {
        put(&table, &[(n, Some("a"))], n).await;
    }
    catalog.faults().add(Fault::on([Call::Swap], effect));
    let report = compact(&catalog, &spec).await;
    assert_eq!(committed(&report), 1, "{report:?}");
    let loaded = load(&catalog, &spec).await;
    assert_eq!(rows(&loaded).await.len(), 3);
    assert_eq!(files(&loaded).await.data.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_storage_refuses_leaves_the_table_and_no_file() {
    let (catalog, spec) = (MemoryCatalog::default(), spec(Mode::Append));
    let table = open(&catalog, &spec).await;
    for n in 0..3 {
        put(&table, &[(n, Some("a"))], n).await;
    }
    let before = foreign::stored(&catalog, &spec.ident().unwrap()).await;
    catalog.faults().add(Fault::on([Call::Put], Effect::Fail(ErrorKind::Denied)).path("/data/"));
    let report = compact(&catalog, &spec).await;
    assert!(matches!(report.groups[0].state, GroupState::Failed { .. }), "{report:?}");
    assert_eq!(foreign::stored(&catalog, &spec.ident().unwrap()).await, before);
    assert_eq!(committed(&compact(&catalog, &spec).await), 1, "the next one goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_filter_chooses_and_a_wrong_name_is_told() {
    let spec = TableSpec { partition_by: vec!["id".to_owned()], ..spec(Mode::Append) };
    let catalog = MemoryCatalog::default();
    let table = open(&catalog, &spec).await;
    for n in 0..3 {
        put(&table, &[(1, Some("a")), (2, Some("b")), (3, Some("b"))], n * 3).await;
    }
    let run = async |filter: &str| {
        let partitions = filter.parse().unwrap();
        let compaction = Compaction { partitions, ..compaction(Arc::new(catalog.clone())) };
        compaction.run(&spec.ident().unwrap()).await
    };
    let wrong = run("day = 1").await.unwrap_err().to_string();
    assert!(wrong.contains("no partition field day"), "{wrong}");
    let field = load(&catalog, &spec).await.metadata().default_partition_spec().fields()[0].name.clone();
    let report = run(&format!("{field} > 1 and {field} <= 2")).await.unwrap();
    assert_eq!((report.groups.len(), committed(&report), report.files_before), (1, 1, 3), "{report:?}");
}

/// A process with its index in a folder.
async fn open_at(catalog: &MemoryCatalog, spec: &TableSpec, folder: &Path, memory: &Arc<Memory>) -> LakeTable {
    let table = LakeTable::open(Arc::new(catalog.clone()), spec.clone(), Handle::current()).await.unwrap();
    let table = table.sharing(Shared::new(Arc::clone(memory), Some(folder)));
    table.ensure_schema(&columns(&["v"])).await.unwrap();
    table
}

/// What a compaction leaves word of is not read again: neither by the writer that goes on, nor by the next one, over one rewrite or several.
#[rstest]
#[case::v2(2, &[], 8)]
#[case::v3(3, &[], 64 << 20)]
#[case::sorted(3, &["v desc"], 64 << 20)]
#[tokio::test(flavor = "multi_thread")]
async fn the_index_follows_rows_to_where_a_compaction_put_them(
    #[case] format_version: u8,
    #[case] sort_by: &[&str],
    #[case] budget_bytes: usize,
) {
    let sort_by = sort_by.iter().map(|by| (*by).to_owned()).collect();
    let spec = TableSpec { format_version, sort_by, ..spec(Mode::Upsert) };
    let (catalog, folder) = (MemoryCatalog::default(), TempDir::new().unwrap());
    let memory = Memory::new(budget_bytes);
    let mut table = open_at(&catalog, &spec, folder.path(), &memory).await;
    let mut model: BTreeMap<i64, String> = BTreeMap::new();
    let mut ids: BTreeMap<i64, i64> = BTreeMap::new();
    let mut offset = 0;
    for n in 0..12i64 {
        let changes: Vec<(i64, Option<String>)> =
            (0..9).map(|i| ((n * 5 + i * 3) % 40, (i % 4 != 3).then(|| format!("{n}.{i}")))).collect();
        for (id, v) in &changes {
            match v {
                Some(v) => _ = model.insert(*id, v.clone()),
                None => {
                    ids.remove(id);
                    model.remove(id);
                }
            }
        }
        let rows: Vec<(i64, Option<&str>)> = changes.iter().map(|(id, v)| (*id, v.as_deref())).collect();
        let done = put(&table, &rows, offset).await;
        offset += rows.len() as i64;
        assert_eq!(done.index.unwrap().scan, None, "round {n}: data files were read");
        let loaded = load(&catalog, &spec).await;
        assert_eq!(self::rows(&loaded).await, model, "round {n}");
        foreign::check_delete_files(&loaded).await;
        if format_version == 3 {
            let now = row_ids::rows(&loaded).await;
            for (key, (id, _)) in &now {
                assert_eq!(ids.entry(*key).or_insert(*id), id, "key {key} in round {n}");
            }
        }
        if n % 4 == 2 {
            table = open_at(&catalog, &spec, folder.path(), &memory).await;
        }
        if n % 2 == 1 {
            compact(&catalog, &spec).await;
        }
        if n % 5 == 4 {
            // Two between two commits of the writer.
            put(&table, &[(n, Some("x"))], offset).await;
            offset += 1;
            model.insert(n, "x".to_owned());
            compact(&catalog, &spec).await;
            assert!(committed(&compact(&catalog, &spec).await) <= 1);
        }
    }
    drop(table);
    let table = open_at(&catalog, &spec, folder.path(), &memory).await;
    let reports = table.verify_indexes().await.unwrap();
    assert!(reports.len() == 1 && reports[0].is_right() && reports[0].rows == model.len() as u64, "{reports:?}");
}

#[rstest]
#[case::removed(false)]
#[case::damaged(true)]
#[tokio::test(flavor = "multi_thread")]
async fn without_word_of_a_compaction_its_files_are_read(#[case] damaged: bool) {
    let (catalog, spec, folder) = (MemoryCatalog::default(), spec(Mode::Upsert), TempDir::new().unwrap());
    let memory = Memory::new(64 << 20);
    let table = open_at(&catalog, &spec, folder.path(), &memory).await;
    put(&table, &[(1, Some("a")), (2, Some("a"))], 0).await;
    put(&table, &[(3, Some("a"))], 2).await;
    compact(&catalog, &spec).await;
    let loaded = load(&catalog, &spec).await;
    let path = loaded.metadata().current_snapshot().unwrap().summary().additional_properties["firn.remap"].clone();
    match damaged {
        true => loaded.file_io().new_output(&path).unwrap().write("nonsense".into()).await.unwrap(),
        false => loaded.file_io().delete(&path).await.unwrap(),
    }
    let done = put(&table, &[(1, None), (3, Some("b"))], 3).await;
    assert!(done.index.unwrap().scan.is_some());
    assert_eq!(rows(&load(&catalog, &spec).await).await, expected(&[(2, "a"), (3, "b")]));
}
