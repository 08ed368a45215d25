//! A writer that is not firn: it appends, deletes, compacts, expires and rolls back through Iceberg's own writers, and reads through
//! Iceberg's own scan.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type};
use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch, StringArray, new_null_array};
use async_trait::async_trait;
use firn::position::Checkpoint;
use firn::sink::lake::CHECKPOINT;
use firn_catalog::memory::MemoryCatalog;
use firn_catalog::{
    Attempt, Catalog, CommitError, ErrorKind, FileKey, ManifestCache, Patience, Plan, Planner, RowDelta, SpecFile,
    commit, live, surroundings,
};
use futures::{StreamExt, TryStreamExt};
use iceberg::arrow::{RecordBatchPartitionSplitter, schema_to_arrow_schema};
use iceberg::spec::{
    DataContentType, DataFile, DataFileBuilder, DataFileFormat, NestedField, PrimitiveType, Schema, SchemaRef,
    SnapshotReference, SnapshotRetention, Struct, Type,
};
use iceberg::table::Table;
use iceberg::writer::base_writer::data_file_writer::DataFileWriterBuilder;
use iceberg::writer::file_writer::ParquetWriterBuilder;
use iceberg::writer::file_writer::location_generator::{DefaultFileNameGenerator, DefaultLocationGenerator};
use iceberg::writer::file_writer::rolling_writer::RollingFileWriterBuilder;
use iceberg::writer::{IcebergWriter, IcebergWriterBuilder};
use iceberg::{TableIdent, TableUpdate};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

/// One row as the tests look at it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    pub id: i64,
    pub v: Option<i64>,
    /// `None` in a table without that column too.
    pub body: Option<i64>,
    /// -1 where the row does not say where it came from: another writer's.
    pub partition: i32,
    pub offset: i64,
}

/// All live rows, as Iceberg's own reader sees them.
pub async fn rows(table: &Table) -> Vec<Row> {
    let mut rows: Vec<Row> = batches(table).await.iter().flat_map(rows_in).collect();
    rows.sort();
    rows
}

fn rows_in(batch: &RecordBatch) -> Vec<Row> {
    let long = |name: &str| batch.column_by_name(name).unwrap().as_primitive::<Int64Type>().clone();
    let partition = batch.column_by_name("_firn_partition").unwrap().as_primitive::<Int32Type>();
    let (id, v, offset) = (long("id"), long("v"), long("_firn_offset"));
    let body = batch.column_by_name("body").map(|column| column.as_primitive::<Int64Type>().clone());
    let row = |i| Row {
        id: id.value(i),
        v: v.is_valid(i).then(|| v.value(i)),
        body: body.as_ref().filter(|body| body.is_valid(i)).map(|body| body.value(i)),
        partition: if partition.is_valid(i) { partition.value(i) } else { -1 },
        offset: if offset.is_valid(i) { offset.value(i) } else { -1 },
    };
    (0..batch.num_rows()).map(row).collect()
}

/// The keys of all live rows.
pub async fn ids(table: &Table) -> Vec<i64> {
    let mut ids = vec![];
    for batch in batches(table).await {
        ids.extend(batch.column_by_name("id").unwrap().as_primitive::<Int64Type>().values());
    }
    ids.sort_unstable();
    ids
}

async fn batches(table: &Table) -> Vec<RecordBatch> {
    try_batches(table).await.unwrap()
}

async fn try_batches(table: &Table) -> iceberg::Result<Vec<RecordBatch>> {
    if table.metadata().current_snapshot().is_none() {
        return Ok(vec![]);
    }
    // One file after the other: in the same order each time.
    let scan = table.scan().with_concurrency_limit(1).build()?;
    scan.to_arrow().await?.try_collect().await
}

pub fn checkpoint(table: &Table) -> Checkpoint {
    let json = table.metadata().properties().get(CHECKPOINT);
    json.map(|json| Checkpoint::from_json(json).unwrap()).unwrap_or_default()
}

async fn live_files(table: &Table) -> live::LiveFiles {
    files_of(table, table.metadata().current_snapshot_id()).await.unwrap()
}

/// Reads a table again and again: each file once.
#[derive(Debug)]
pub struct Rereader {
    manifests: ManifestCache,
    rows: BTreeMap<String, Vec<Row>>,
    /// Of each delete file the data files and positions that it names.
    deletes: BTreeMap<String, Vec<(String, i64)>>,
}

impl Default for Rereader {
    fn default() -> Self {
        Self { manifests: ManifestCache::new(8 << 20), rows: BTreeMap::new(), deletes: BTreeMap::new() }
    }
}

impl Rereader {
    /// All live rows, and the files that have them and their deletes.
    pub async fn rows(&mut self, table: &Table) -> (Vec<Row>, BTreeSet<String>) {
        let files = live::files(table, table.metadata().current_snapshot_id(), &self.manifests).await.unwrap();
        check_each_has_one(&files);
        let mut deleted = HashSet::new();
        for file in &files.position_deletes {
            let path = file.file.file_path();
            if !self.deletes.contains_key(path) {
                let mut named = vec![];
                for batch in whole(table, path).await {
                    let (paths, positions) =
                        (batch.column(0).as_string::<i32>(), batch.column(1).as_primitive::<Int64Type>());
                    named.extend((0..batch.num_rows()).map(|i| (paths.value(i).to_owned(), positions.value(i))));
                }
                self.deletes.insert(path.to_owned(), named);
            }
            deleted.extend(self.deletes[path].iter().cloned());
        }
        let mut live = vec![];
        for file in &files.data {
            let path = file.file.file_path();
            if !self.rows.contains_key(path) {
                self.rows.insert(path.to_owned(), whole(table, path).await.iter().flat_map(rows_in).collect());
            }
            let rows = (0..).zip(&self.rows[path]);
            live.extend(rows.filter(|(n, _)| !deleted.contains(&(path.to_owned(), *n))).map(|(_, row)| row.clone()));
        }
        live.sort();
        let listed = files.data.iter().chain(&files.position_deletes);
        (live, listed.map(|f| f.file.file_path().to_owned()).collect())
    }
}

async fn whole(table: &Table, path: &str) -> Vec<RecordBatch> {
    let bytes =
        table.file_io().new_input(path).unwrap().read().await.unwrap_or_else(|e| panic!("{path} is missing: {e}"));
    ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().build().unwrap().map(Result::unwrap).collect()
}

async fn files_of(table: &Table, snapshot_id: Option<i64>) -> firn_catalog::Result<live::LiveFiles> {
    live::files(table, snapshot_id, &ManifestCache::new(1 << 20)).await
}

/// No equality delete, and for each data file at most one delete file that is for it alone.
pub async fn check_delete_files(table: &Table) {
    check_each_has_one(&live_files(table).await);
}

fn check_each_has_one(files: &live::LiveFiles) {
    assert!(files.equality_deletes.is_empty(), "an equality delete");
    for (data_file, deletes) in files.deletes_by_file().of_file {
        assert!(deletes.len() <= 1, "{} delete files for {data_file}", deletes.len());
    }
}

/// What another writer does in one commit.
#[derive(Clone, Copy, Debug)]
pub enum Job {
    /// All live rows into new files.
    Compact,
    /// All rows of a key, by one position delete file for several data files.
    Delete(i64),
    /// A row of its own, of this key and body.
    Append(i64, i64),
}

/// Makes the plan and remembers the base of the last one.
struct ForeignWriter {
    job: Job,
    base: Option<Table>,
}

#[async_trait]
impl Planner for ForeignWriter {
    async fn plan(&mut self, base: &Table, _attempt: Attempt) -> Result<Plan, CommitError> {
        self.base = Some(base.clone());
        let delta = match self.job {
            Job::Compact => compacted(base).await,
            Job::Delete(id) => deleted(base, id).await,
            Job::Append(id, body) => appended(base, id, body).await,
        };
        // A file of the base that is gone means that others went on.
        let gone = |e: iceberg::Error| firn_catalog::Error::new(ErrorKind::Conflict, e.to_string());
        Ok(Plan { delta: delta.map_err(gone)?, ..Plan::default() })
    }
}

/// Rewrites all live rows.
pub async fn compact(catalog: &MemoryCatalog, table: &TableIdent) {
    run(catalog, table, Job::Compact).await;
}

/// Deletes a key; answers the snapshot that did, `None` if the key was nowhere.
pub async fn delete(catalog: &MemoryCatalog, table: &TableIdent, id: i64) -> Option<i64> {
    Some(run(catalog, table, Job::Delete(id)).await?.0)
}

async fn run(catalog: &MemoryCatalog, table: &TableIdent, job: Job) -> Option<(i64, Table)> {
    attempt(catalog, table, job, Patience::default()).await.unwrap()
}

/// One commit; answers its snapshot, if it made one, and the base that it was made on.
pub async fn attempt(
    catalog: &MemoryCatalog,
    table: &TableIdent,
    job: Job,
    patience: Patience,
) -> Result<Option<(i64, Table)>, CommitError> {
    let mut writer = ForeignWriter { job, base: None };
    let id = firn_catalog::new_snapshot_id();
    let done = commit(catalog, table, id, &mut writer, patience).await?;
    let made = done.table.metadata().snapshot_by_id(id).is_some();
    Ok(writer.base.filter(|_| made).map(|base| (id, base)))
}

/// Sets main back to one of its ancestors; answers the ids that are on main from then on.
pub async fn roll_back(catalog: &MemoryCatalog, table: &TableIdent, steps: usize) -> Option<HashSet<i64>> {
    let base = catalog.load(table).await.ok()?;
    let metadata = base.metadata();
    let mut chain = vec![];
    let mut at = metadata.current_snapshot_id();
    while let Some(snapshot) = at.and_then(|id| metadata.snapshot_by_id(id)) {
        chain.push(snapshot.snapshot_id());
        at = snapshot.parent_snapshot_id();
    }
    let to = *chain.get(steps)?;
    let reference = SnapshotReference::new(to, SnapshotRetention::branch(None, None, None));
    let update = TableUpdate::SetSnapshotRef { ref_name: "main".to_owned(), reference };
    catalog.swap(&base, &[], &[update]).await.ok()?;
    Some(chain.split_off(steps).into_iter().collect())
}

/// Expires all but the newest `keep` snapshots of main, and removes the files that only the others needed; `None` if it could not.
pub async fn expire(catalog: &MemoryCatalog, table: &TableIdent, keep: usize) -> Option<()> {
    let base = catalog.load(table).await.ok()?;
    let metadata = base.metadata();
    let mut kept = vec![];
    let mut at = metadata.current_snapshot_id();
    while let Some(snapshot) = at.and_then(|id| metadata.snapshot_by_id(id)).filter(|_| kept.len() < keep) {
        kept.push(snapshot.snapshot_id());
        at = snapshot.parent_snapshot_id();
    }
    let all: BTreeSet<i64> = metadata.snapshots().map(|s| s.snapshot_id()).collect();
    let (kept, gone): (Vec<i64>, Vec<i64>) = all.into_iter().partition(|id| kept.contains(id));
    if gone.is_empty() {
        return None;
    }
    let needed = reachable(&base, &kept).await.ok()?;
    let mut superfluous = reachable(&base, &gone).await.ok()?;
    superfluous.retain(|path| !needed.contains(path));
    let update = TableUpdate::RemoveSnapshots { snapshot_ids: gone };
    catalog.swap(&base, &[], &[update]).await.ok()?;
    for path in superfluous {
        base.file_io().delete(&path).await.ok()?;
    }
    Some(())
}

/// All files below the table's location.
pub async fn stored(catalog: &MemoryCatalog, table: &TableIdent) -> BTreeSet<String> {
    let Ok(table) = catalog.load(table).await else { return BTreeSet::new() };
    listed(catalog, &table).await.0
}

/// What a listing shows, and whether it came to its end.
pub async fn listed(catalog: &MemoryCatalog, table: &Table) -> (BTreeSet<String>, bool) {
    let location = table.metadata().location();
    let (store, directory) = catalog.stores().object_store(location).unwrap();
    let root = location.strip_suffix(directory.as_ref()).unwrap().to_owned();
    let mut listing = store.list(Some(&directory));
    let mut paths = BTreeSet::new();
    while let Some(file) = listing.next().await {
        let Ok(file) = file else { return (paths, false) };
        paths.insert(format!("{root}{}", file.location));
    }
    (paths, true)
}

/// Removes the files among `old` that no snapshot and no version in the log needs, as far as the listing shows them.
pub async fn remove_orphans(catalog: &MemoryCatalog, table: &TableIdent, old: &BTreeSet<String>) -> Option<()> {
    let table = catalog.load(table).await.ok()?;
    let (found, _) = listed(catalog, &table).await;
    let metadata = table.metadata();
    let snapshots: BTreeSet<i64> = metadata.snapshots().map(|s| s.snapshot_id()).collect();
    let mut needed = reachable(&table, &snapshots.into_iter().collect::<Vec<_>>()).await.ok()?;
    needed.extend(metadata.metadata_log().iter().map(|entry| entry.metadata_file.clone()));
    needed.extend(table.metadata_location().map(str::to_owned));
    for path in found.iter().filter(|path| old.contains(*path) && !needed.contains(*path)) {
        table.file_io().delete(path).await.ok()?;
    }
    Some(())
}

/// All files that readers of these snapshots may ask for.
pub async fn reachable(table: &Table, snapshots: &[i64]) -> Result<BTreeSet<String>, String> {
    let mut paths = BTreeSet::new();
    for snapshot in snapshots.iter().filter_map(|id| table.metadata().snapshot_by_id(*id)) {
        let list = table.manifest_list_reader(snapshot).load().await.map_err(|e| e.to_string())?;
        paths.extend(list.entries().iter().map(|manifest| manifest.manifest_path.clone()));
        let files = files_of(table, Some(snapshot.snapshot_id())).await.map_err(|e| e.to_string())?;
        let all = files.data.iter().chain(&files.position_deletes).chain(&files.equality_deletes);
        paths.extend(all.map(|f| f.file.file_path().to_owned()));
        paths.insert(snapshot.manifest_list().to_owned());
    }
    Ok(paths)
}

async fn appended(base: &Table, id: i64, body: i64) -> iceberg::Result<RowDelta> {
    let schema = base.metadata().current_schema();
    let arrow = Arc::new(schema_to_arrow_schema(schema)?);
    let columns = arrow.fields().iter().map(|field| -> ArrayRef {
        match field.name().as_str() {
            "id" => Arc::new(Int64Array::from(vec![id])),
            "v" | "body" => Arc::new(Int64Array::from(vec![body])),
            _ => new_null_array(field.data_type(), 1),
        }
    });
    let row = RecordBatch::try_new(arrow.clone(), columns.collect())?;
    Ok(RowDelta { data_files: written(base, schema, row).await?, ..RowDelta::default() })
}

async fn compacted(base: &Table) -> iceberg::Result<RowDelta> {
    let metadata = base.metadata();
    // A scan answers the snapshot's own columns: after a rollback these are fewer than the table's.
    let schema = match metadata.current_snapshot() {
        Some(snapshot) => snapshot.schema(metadata).unwrap(),
        None => metadata.current_schema().clone(),
    };
    let files = files_of(base, metadata.current_snapshot_id()).await.map_err(unexpected)?;
    let mut delta = RowDelta::default();
    for batch in try_batches(base).await? {
        // The scan's schema has no ids in nested metadata order; the writer wants the table's own.
        let arrow = Arc::new(schema_to_arrow_schema(&schema)?);
        let batch = RecordBatch::try_new(arrow, batch.columns().to_vec())?;
        delta.data_files.extend(written(base, &schema, batch).await?);
    }
    let old = files.data.iter().chain(&files.position_deletes);
    delta.removed = old.map(|f| FileKey::of(&f.file)).collect();
    Ok(delta)
}

/// The rows in data files, one for each partition.
async fn written(base: &Table, schema: &SchemaRef, batch: RecordBatch) -> iceberg::Result<Vec<SpecFile>> {
    let spec = base.metadata().default_partition_spec().clone();
    let mut parts = if spec.is_unpartitioned() {
        vec![(None, batch)]
    } else {
        let splitter = RecordBatchPartitionSplitter::try_new_with_computed_values(schema.clone(), spec.clone())?;
        splitter.split(&batch)?.into_iter().map(|(key, batch)| (Some(key), batch)).collect()
    };
    parts.sort_by_key(|(key, _)| format!("{key:?}"));
    let mut files = vec![];
    for (key, batch) in parts {
        let rolling = RollingFileWriterBuilder::new(
            ParquetWriterBuilder::new(Default::default(), schema.clone()),
            1 << 20,
            base.file_io().clone(),
            DefaultLocationGenerator::new(base.metadata())?,
            DefaultFileNameGenerator::new(
                "foreign".into(),
                Some(surroundings::new_id().to_string()),
                DataFileFormat::Parquet,
            ),
        );
        let mut writer = DataFileWriterBuilder::new(rolling).build(key).await?;
        writer.write(batch).await?;
        let closed = writer.close().await?;
        files.extend(closed.into_iter().map(|file| SpecFile { spec_id: spec.spec_id(), file }));
    }
    Ok(files)
}

fn unexpected(e: firn_catalog::Error) -> iceberg::Error {
    iceberg::Error::new(iceberg::ErrorKind::Unexpected, e.to_string())
}

/// A partition and the rows to delete in each of its files.
type Deletes = (Struct, BTreeMap<String, Vec<i64>>);

async fn deleted(base: &Table, id: i64) -> iceberg::Result<RowDelta> {
    let files = files_of(base, base.metadata().current_snapshot_id()).await.map_err(unexpected)?;
    // One delete file per partition, since a delete file belongs to one.
    let mut by_partition: BTreeMap<(i32, String), Deletes> = BTreeMap::new();
    for file in &files.data {
        let bytes = base.file_io().new_input(file.file.file_path())?.read().await?;
        let mut position = 0;
        for batch in ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().build().unwrap() {
            let batch = batch.unwrap();
            let ids = batch.column_by_name("id").unwrap().as_primitive::<Int64Type>();
            for have in ids.values() {
                if *have == id {
                    let partition = file.file.partition();
                    by_partition
                        .entry((file.spec_id, format!("{partition:?}")))
                        .or_insert_with(|| (partition.clone(), BTreeMap::new()))
                        .1
                        .entry(file.file.file_path().to_owned())
                        .or_default()
                        .push(position);
                }
                position += 1;
            }
        }
    }
    let mut delta = RowDelta::default();
    for ((spec_id, _), (partition, positions)) in by_partition {
        delta
            .delete_files
            .push(SpecFile { spec_id, file: wide_delete_file(base, spec_id, partition, positions).await? });
    }
    Ok(delta)
}

/// As Spark writes it: positions of several data files in one file, which names none of them in the manifest.
async fn wide_delete_file(
    base: &Table,
    spec_id: i32,
    partition: Struct,
    positions: BTreeMap<String, Vec<i64>>,
) -> iceberg::Result<DataFile> {
    let field = |id, name, t| Arc::new(NestedField::required(id, name, Type::Primitive(t)));
    let schema = Schema::builder()
        .with_fields([
            field(i32::MAX - 101, "file_path", PrimitiveType::String),
            field(i32::MAX - 102, "pos", PrimitiveType::Long),
        ])
        .build()
        .unwrap();
    let paths: Vec<&str> = positions.iter().flat_map(|(path, at)| at.iter().map(|_| path.as_str())).collect();
    let batch = RecordBatch::try_new(
        Arc::new(schema_to_arrow_schema(&schema).unwrap()),
        vec![
            Arc::new(StringArray::from(paths)),
            Arc::new(Int64Array::from(positions.values().flatten().copied().collect::<Vec<i64>>())),
        ],
    )
    .unwrap();
    let mut bytes = vec![];
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let path = format!("{}/data/foreign-deletes-{}.parquet", base.metadata().location(), surroundings::new_id());
    let size = bytes.len() as u64;
    base.file_io().new_output(&path)?.write(bytes.into()).await?;
    let file = DataFileBuilder::default()
        .content(DataContentType::PositionDeletes)
        .file_path(path)
        .file_format(DataFileFormat::Parquet)
        .partition(partition)
        .partition_spec_id(spec_id)
        .record_count(batch.num_rows() as u64)
        .file_size_in_bytes(size)
        .build();
    Ok(file.unwrap())
}
