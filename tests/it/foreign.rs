//! A writer that is not firn: it compacts, deletes and rolls back through Iceberg's own writers, and reads through Iceberg's own scan.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type};
use arrow_array::{Array, Int64Array, RecordBatch, StringArray};
use async_trait::async_trait;
use firn::position::Checkpoint;
use firn::sink::lake::CHECKPOINT;
use firn_catalog::memory::MemoryCatalog;
use firn_catalog::{
    Attempt, Catalog, CommitError, FileKey, ManifestCache, Patience, Plan, Planner, RowDelta, SpecFile, commit, live,
};
use futures::TryStreamExt;
use iceberg::arrow::{RecordBatchPartitionSplitter, schema_to_arrow_schema};
use iceberg::spec::{
    DataContentType, DataFileBuilder, DataFileFormat, NestedField, PrimitiveType, Schema, SnapshotReference,
    SnapshotRetention, Struct, Type,
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
use uuid::Uuid;

/// One row as the tests look at it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    pub id: i64,
    pub v: Option<i64>,
    /// `None` in a table without that column too.
    pub body: Option<i64>,
    pub partition: i32,
    pub offset: i64,
}

/// All live rows, as Iceberg's own reader sees them.
pub async fn rows(table: &Table) -> Vec<Row> {
    let mut rows = vec![];
    for batch in batches(table).await {
        let long = |name: &str| batch.column_by_name(name).unwrap().as_primitive::<Int64Type>().clone();
        let partition = batch.column_by_name("_firn_partition").unwrap().as_primitive::<Int32Type>();
        let (id, v, offset) = (long("id"), long("v"), long("_firn_offset"));
        let body = batch.column_by_name("body").map(|column| column.as_primitive::<Int64Type>().clone());
        rows.extend((0..batch.num_rows()).map(|i| Row {
            id: id.value(i),
            v: v.is_valid(i).then(|| v.value(i)),
            body: body.as_ref().filter(|body| body.is_valid(i)).map(|body| body.value(i)),
            partition: partition.value(i),
            offset: offset.value(i),
        }));
    }
    rows.sort();
    rows
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
    if table.metadata().current_snapshot().is_none() {
        return vec![];
    }
    table.scan().build().unwrap().to_arrow().await.unwrap().try_collect().await.unwrap()
}

pub fn checkpoint(table: &Table) -> Checkpoint {
    let json = table.metadata().properties().get(CHECKPOINT);
    json.map(|json| Checkpoint::from_json(json).unwrap()).unwrap_or_default()
}

async fn live_files(table: &Table) -> live::LiveFiles {
    live::files(table, table.metadata().current_snapshot_id(), &ManifestCache::new(1 << 20)).await.unwrap()
}

/// No equality delete, and for each data file at most one delete file that is for it alone.
pub async fn check_delete_files(table: &Table) {
    let files = live_files(table).await;
    assert!(files.equality_deletes.is_empty(), "an equality delete");
    for (data_file, deletes) in files.deletes_by_file().of_file {
        assert!(deletes.len() <= 1, "{} delete files for {data_file}", deletes.len());
    }
}

/// What another writer does in one commit.
enum Job {
    /// All live rows into new files.
    Compact,
    /// All rows of a key, by one position delete file for several data files.
    Delete(i64),
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
        };
        Ok(Plan { delta, ..Plan::default() })
    }
}

/// Rewrites all live rows.
pub async fn compact(catalog: &MemoryCatalog, table: &TableIdent) {
    run(catalog, table, Job::Compact).await;
}

/// Deletes a key; answers the snapshot that did and the checkpoint where it stood, `None` if the key was nowhere.
pub async fn delete(catalog: &MemoryCatalog, table: &TableIdent, id: i64) -> Option<(i64, Checkpoint)> {
    let (snapshot_id, base) = run(catalog, table, Job::Delete(id)).await?;
    Some((snapshot_id, covered(&base)))
}

/// What the rows of the current snapshot cover. The properties tell more after a rollback: they still name what was set aside.
fn covered(table: &Table) -> Checkpoint {
    let metadata = table.metadata();
    let mut at = metadata.current_snapshot();
    while let Some(snapshot) = at {
        if let Some(json) = snapshot.summary().additional_properties.get(CHECKPOINT) {
            return Checkpoint::from_json(json).unwrap();
        }
        at = snapshot.parent_snapshot_id().and_then(|id| metadata.snapshot_by_id(id));
    }
    Checkpoint::default()
}

async fn run(catalog: &MemoryCatalog, table: &TableIdent, job: Job) -> Option<(i64, Table)> {
    let mut writer = ForeignWriter { job, base: None };
    let id = firn_catalog::new_snapshot_id();
    let done = commit(catalog, table, id, &mut writer, Patience::default()).await.unwrap();
    done.table.metadata().snapshot_by_id(id)?;
    Some((id, writer.base?))
}

/// Sets main back to one of its ancestors; answers the ids that are on main from then on.
pub async fn roll_back(catalog: &MemoryCatalog, table: &TableIdent, steps: usize) -> Option<HashSet<i64>> {
    let base = catalog.load(table).await.unwrap();
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
    catalog.swap(&base, &[], &[update]).await.unwrap();
    Some(chain.split_off(steps).into_iter().collect())
}

async fn compacted(base: &Table) -> RowDelta {
    let metadata = base.metadata();
    // A scan answers the snapshot's own columns: after a rollback these are fewer than the table's.
    let schema = match metadata.current_snapshot() {
        Some(snapshot) => snapshot.schema(metadata).unwrap(),
        None => metadata.current_schema().clone(),
    };
    let spec = metadata.default_partition_spec().clone();
    let files = live_files(base).await;
    let mut delta = RowDelta::default();
    for batch in batches(base).await {
        // The scan's schema has no ids in nested metadata order; the writer wants the table's own.
        let arrow = Arc::new(schema_to_arrow_schema(&schema).unwrap());
        let batch = RecordBatch::try_new(arrow, batch.columns().to_vec()).unwrap();
        let parts = if spec.is_unpartitioned() {
            vec![(None, batch)]
        } else {
            let splitter =
                RecordBatchPartitionSplitter::try_new_with_computed_values(schema.clone(), spec.clone()).unwrap();
            splitter.split(&batch).unwrap().into_iter().map(|(key, batch)| (Some(key), batch)).collect()
        };
        for (key, batch) in parts {
            let rolling = RollingFileWriterBuilder::new(
                ParquetWriterBuilder::new(Default::default(), schema.clone()),
                1 << 20,
                base.file_io().clone(),
                DefaultLocationGenerator::new(metadata).unwrap(),
                DefaultFileNameGenerator::new(
                    "foreign".into(),
                    Some(Uuid::new_v4().to_string()),
                    DataFileFormat::Parquet,
                ),
            );
            let mut writer = DataFileWriterBuilder::new(rolling).build(key).await.unwrap();
            writer.write(batch).await.unwrap();
            let written = writer.close().await.unwrap();
            delta.data_files.extend(written.into_iter().map(|file| SpecFile { spec_id: spec.spec_id(), file }));
        }
    }
    let old = files.data.iter().chain(&files.position_deletes);
    delta.removed = old.map(|f| FileKey::of(&f.file)).collect();
    delta
}

/// A partition and the rows to delete in each of its files.
type Deletes = (Struct, BTreeMap<String, Vec<i64>>);

async fn deleted(base: &Table, id: i64) -> RowDelta {
    let files = live_files(base).await;
    // One delete file per partition, since a delete file belongs to one.
    let mut by_partition: HashMap<(i32, String), Deletes> = HashMap::new();
    for file in &files.data {
        let bytes = base.file_io().new_input(file.file.file_path()).unwrap().read().await.unwrap();
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
            .push(SpecFile { spec_id, file: wide_delete_file(base, spec_id, partition, positions).await });
    }
    delta
}

/// As Spark writes it: positions of several data files in one file, which names none of them in the manifest.
async fn wide_delete_file(
    base: &Table,
    spec_id: i32,
    partition: Struct,
    positions: BTreeMap<String, Vec<i64>>,
) -> iceberg::spec::DataFile {
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
    let path = format!("{}/data/foreign-deletes-{}.parquet", base.metadata().location(), Uuid::new_v4());
    let size = bytes.len() as u64;
    base.file_io().new_output(&path).unwrap().write(bytes.into()).await.unwrap();
    DataFileBuilder::default()
        .content(DataContentType::PositionDeletes)
        .file_path(path)
        .file_format(DataFileFormat::Parquet)
        .partition(partition)
        .partition_spec_id(spec_id)
        .record_count(batch.num_rows() as u64)
        .file_size_in_bytes(size)
        .build()
        .unwrap()
}
