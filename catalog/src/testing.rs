//! Tables, files and batches for this crate's tests and for the conformance suite.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)] // nothing here runs outside tests

use std::collections::HashMap;

use async_trait::async_trait;
use futures::TryStreamExt;
use iceberg::spec::{
    DataContentType, DataFile, DataFileBuilder, DataFileFormat, Datum, FormatVersion, NestedField, PrimitiveType,
    Schema, Struct, TableMetadata, TableMetadataBuilder, Type,
};
use iceberg::table::Table;
use iceberg::{NamespaceIdent, TableCreation, TableIdent};

use crate::memory::MemoryCatalog;
use crate::{
    Attempt, Catalog, CommitError, Committed, FileKey, Patience, Plan, Planner, RowDelta, SpecFile, commit,
    new_snapshot_id,
};

/// `id long, v string`, both ids stated.
pub(crate) fn schema() -> Schema {
    Schema::builder()
        .with_identifier_field_ids([1])
        .with_fields([
            NestedField::required(1, "id", Type::Primitive(PrimitiveType::Long)).into(),
            NestedField::optional(2, "v", Type::Primitive(PrimitiveType::String)).into(),
        ])
        .build()
        .unwrap()
}

pub(crate) fn creation(name: &str, version: FormatVersion) -> TableCreation {
    TableCreation::builder().name(name.to_owned()).schema(schema()).format_version(version).build()
}

pub(crate) fn metadata(location: &str) -> TableMetadata {
    let mut creation = creation("t", FormatVersion::V2);
    creation.location = Some(location.to_owned());
    TableMetadataBuilder::from_table_creation(creation).unwrap().build().unwrap().metadata
}

/// Makes namespace `db` and a table in it.
pub(crate) async fn create(catalog: &dyn Catalog, name: &str, version: FormatVersion) -> Table {
    let namespace = NamespaceIdent::new("db".to_owned());
    catalog.ensure_namespace(&namespace, HashMap::new()).await.unwrap();
    catalog.create(&namespace, creation(name, version)).await.unwrap()
}

pub(crate) fn ident(name: &str) -> TableIdent {
    TableIdent::new(NamespaceIdent::new("db".to_owned()), name.to_owned())
}

/// A data file of `rows` rows that needs not be there: nothing in a commit opens it.
pub(crate) fn data_file(path: &str, rows: u64) -> SpecFile {
    SpecFile { spec_id: 0, file: build(path, rows, DataContentType::Data) }
}

/// A position delete file against `data_file`.
pub(crate) fn position_deletes(path: &str, rows: u64, data_file: &str) -> SpecFile {
    let mut file = builder(path, rows, DataContentType::PositionDeletes);
    file.referenced_data_file(Some(data_file.to_owned()));
    SpecFile { spec_id: 0, file: file.build().unwrap() }
}

/// One deletion vector of a Puffin file.
pub(crate) fn deletion_vector(path: &str, offset: i64, data_file: &str) -> SpecFile {
    let mut file = builder(path, 1, DataContentType::PositionDeletes);
    file.file_format(DataFileFormat::Puffin)
        .referenced_data_file(Some(data_file.to_owned()))
        .content_offset(Some(offset))
        .content_size_in_bytes(Some(40));
    SpecFile { spec_id: 0, file: file.build().unwrap() }
}

fn build(path: &str, rows: u64, content: DataContentType) -> DataFile {
    builder(path, rows, content).build().unwrap()
}

fn builder(path: &str, rows: u64, content: DataContentType) -> DataFileBuilder {
    let mut file = DataFileBuilder::default();
    file.content(content)
        .file_path(path.to_owned())
        .file_format(DataFileFormat::Parquet)
        .partition(Struct::empty())
        .partition_spec_id(0)
        .record_count(rows)
        .file_size_in_bytes(1000 + rows)
        .lower_bounds(HashMap::from([(1, Datum::long(0))]))
        .upper_bounds(HashMap::from([(1, Datum::long(rows as i64))]));
    file
}

/// Paths of the live files of main's head, each as often as it is listed, sorted.
pub(crate) async fn live(table: &Table) -> Vec<String> {
    let mut paths = Vec::new();
    if let Some(snapshot) = table.metadata().current_snapshot() {
        for file in crate::manifests::list(table, snapshot).await.unwrap() {
            let manifest = file.load_manifest(table.file_io()).await.unwrap();
            let live = crate::manifests::standing(&file, &manifest).unwrap();
            paths.extend(live.iter().map(|s| s.entry.data_file().file_path().to_owned()));
        }
    }
    paths.sort();
    paths
}

/// Every file in a memory catalog's store.
pub(crate) async fn stored(catalog: &MemoryCatalog) -> Vec<String> {
    let (store, _) = catalog.stores().object_store("memory://warehouse").unwrap();
    let mut paths: Vec<String> = store.list(None).map_ok(|m| m.location.to_string()).try_collect().await.unwrap();
    paths.sort();
    paths
}

/// Puts a file of this name, so that its deletion can be seen.
pub(crate) async fn touch(catalog: &MemoryCatalog, path: &str) {
    catalog.file_io().new_output(path).unwrap().write("x".into()).await.unwrap();
}

/// No time to lose in tests.
pub(crate) const HASTE: Patience = Patience { attempts: 20, first_wait_ms: 1, max_wait_ms: 4 };

/// A batch of one writer that keeps its position in the property `position.<writer>`.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    pub snapshot_id: i64,
    pub writer: String,
    pub from: u64,
    pub plan: Plan,
    /// How often it was planned.
    pub planned: usize,
}

impl Batch {
    /// Moves `writer` from `from` to `from + 1` with this delta.
    pub fn new(writer: &str, from: u64, delta: RowDelta) -> Self {
        let position = HashMap::from([(format!("position.{writer}"), (from + 1).to_string())]);
        let plan = Plan { delta, summary: position.clone(), properties: position, ..Plan::default() };
        Self { snapshot_id: new_snapshot_id(), writer: writer.to_owned(), from, plan, planned: 0 }
    }

    pub async fn commit(&mut self, catalog: &dyn Catalog, table: &TableIdent) -> Result<Committed, CommitError> {
        self.commit_with(catalog, table, HASTE).await
    }

    pub async fn commit_with(
        &mut self,
        catalog: &dyn Catalog,
        table: &TableIdent,
        patience: Patience,
    ) -> Result<Committed, CommitError> {
        commit(catalog, table, self.snapshot_id, self, patience).await
    }
}

#[async_trait]
impl Planner for Batch {
    async fn plan(&mut self, base: &Table, _: Attempt) -> Result<Plan, CommitError> {
        self.planned += 1;
        let at = position(base, &self.writer);
        if at != self.from {
            let reason = format!("{} is at {at}, the batch starts at {}", self.writer, self.from);
            return Err(CommitError::Stale { reason, open: false });
        }
        Ok(self.plan.clone())
    }
}

pub(crate) fn position(table: &Table, writer: &str) -> u64 {
    table.metadata().properties().get(&format!("position.{writer}")).map_or(0, |p| p.parse().unwrap())
}

/// Adds one data file.
pub(crate) fn append(path: &str) -> RowDelta {
    RowDelta { data_files: vec![data_file(path, 10)], ..RowDelta::default() }
}

pub(crate) fn key(path: &str) -> FileKey {
    FileKey { path: path.to_owned(), content_offset: None }
}

pub(crate) fn delete_with_bounds(path: &str, lower: HashMap<i32, Datum>, upper: HashMap<i32, Datum>) -> DataFile {
    let mut file = builder(path, 1, DataContentType::PositionDeletes);
    file.lower_bounds(lower).upper_bounds(upper);
    file.build().unwrap()
}

/// `file` with the size it has on disk.
pub(crate) fn with_size(file: &DataFile, bytes: u64) -> DataFile {
    let mut sized = builder(file.file_path(), file.record_count(), file.content_type());
    // no bounds: nothing may be pruned by made-up ones
    sized.file_size_in_bytes(bytes).referenced_data_file(file.referenced_data_file());
    sized.lower_bounds(HashMap::new()).upper_bounds(HashMap::new()).build().unwrap()
}
