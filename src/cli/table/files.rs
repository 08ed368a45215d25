//! `firn table files`

use iceberg::spec::{DataContentType, DataFileFormat};
use iceberg::table::Table;
use serde::Serialize;

use super::super::print::Grid;
use super::super::{Failure, Output};

#[derive(Debug, Serialize)]
struct Listed {
    /// `data`, `position deletes`, `deletion vector` or `equality deletes`.
    kind: &'static str,
    partition: String,
    rows: u64,
    bytes: u64,
    path: String,
}

pub(super) async fn run(table: &Table, output: Output) -> Result<(), Failure> {
    let files = files(table).await.map_err(firn_catalog::Error::from)?;
    let mut grid = Grid::new(["kind", "partition", "rows", "bytes", "path"]);
    for f in &files {
        grid.row([f.kind.to_owned(), f.partition.clone(), f.rows.to_string(), f.bytes.to_string(), f.path.clone()]);
    }
    grid.print(output, &files)
}

async fn files(table: &Table) -> iceberg::Result<Vec<Listed>> {
    let metadata = table.metadata();
    let Some(snapshot) = metadata.current_snapshot() else { return Ok(Vec::new()) };
    let manifests = table.manifest_list_reader(snapshot).load().await?;
    let mut files = Vec::new();
    for manifest_file in manifests.entries() {
        let spec = metadata.partition_spec_by_id(manifest_file.partition_spec_id);
        let manifest = manifest_file.load_manifest(table.file_io()).await?;
        for entry in manifest.entries().iter().filter(|e| e.is_alive()) {
            let file = entry.data_file();
            let partition = spec
                .filter(|s| !s.is_unpartitioned())
                .map(|s| s.partition_to_path(file.partition(), metadata.current_schema().clone()))
                .unwrap_or_default();
            files.push(Listed {
                kind: match (file.content_type(), file.file_format()) {
                    (DataContentType::Data, _) => "data",
                    (DataContentType::PositionDeletes, DataFileFormat::Puffin) => "deletion vector",
                    (DataContentType::PositionDeletes, _) => "position deletes",
                    (DataContentType::EqualityDeletes, _) => "equality deletes",
                },
                partition,
                rows: file.record_count(),
                bytes: file.file_size_in_bytes(),
                path: file.file_path().to_owned(),
            });
        }
    }
    files.sort_by(|a, b| (a.kind, &a.partition, &a.path).cmp(&(b.kind, &b.partition, &b.path)));
    Ok(files)
}
