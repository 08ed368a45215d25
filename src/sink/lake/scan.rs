//! Reads the keys of data files, whoever wrote them.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type};
use arrow_array::{Array, ArrayRef, RecordBatch, new_null_array};
use arrow_cast::cast;
use arrow_schema::DataType;
use futures::TryStreamExt;
use iceberg::arrow::ArrowFileReader;
use iceberg::io::FileIO;
use parquet::arrow::{ParquetRecordBatchStreamBuilder, ProjectionMask};
use roaring::RoaringBitmap;

use crate::sink::lake::LakeError;
use crate::sink::lake::index::Location;
use crate::sink::lake::keys::{KeyHasher, canonical};
use crate::sink::lake::layout::Layout;
use crate::sink::lake::row_ids::{ROW_ID, ROW_ID_FIELD};

/// Rows decoded at once.
const BATCH_ROWS: usize = 32 << 10;

/// A column to read: by its field id; by its name in files that carry no ids.
#[derive(Clone, Debug)]
pub(crate) struct WantedColumn {
    pub(crate) id: i32,
    pub(crate) name: String,
    pub(crate) data_type: DataType,
}

/// Reads chosen columns of all rows of a Parquet file, in order.
///
/// # Errors
/// When the file can't be read. A column that the file lacks reads as null.
pub(crate) async fn read_columns(
    file_io: &FileIO,
    path: &str,
    columns: &[WantedColumn],
    mut take: impl FnMut(&[ArrayRef], usize) -> Result<(), LakeError>,
) -> Result<(), LakeError> {
    let input = file_io.new_input(path)?;
    let failed = |e: iceberg::Error| LakeError::Storage(format!("reading {path}: {e}"));
    let metadata = input.metadata().await.map_err(failed)?;
    let reader = ArrowFileReader::new(metadata, input.reader().await.map_err(failed)?);
    let builder = ParquetRecordBatchStreamBuilder::new(reader).await?;
    let root = builder.parquet_schema().root_schema();
    let has_ids = root.get_fields().iter().any(|f| f.get_basic_info().has_id());
    let found: Vec<Option<usize>> = columns
        .iter()
        .map(|c| {
            root.get_fields().iter().position(|f| match has_ids {
                true => f.get_basic_info().has_id() && f.get_basic_info().id() == c.id,
                false => f.name() == c.name,
            })
        })
        .collect();
    let mut roots: Vec<usize> = found.iter().flatten().copied().collect();
    roots.sort_unstable();
    roots.dedup();
    let mask = ProjectionMask::roots(builder.parquet_schema(), roots.iter().copied());
    let mut batches = builder.with_projection(mask).with_batch_size(BATCH_ROWS).build()?;
    while let Some(batch) = batches.try_next().await? {
        let arrays = columns
            .iter()
            .zip(&found)
            .map(|(c, at)| pick(&batch, &roots, *at, &c.data_type))
            .collect::<Result<Vec<_>, _>>()?;
        take(&arrays, batch.num_rows())?;
    }
    Ok(())
}

fn pick(batch: &RecordBatch, roots: &[usize], at: Option<usize>, t: &DataType) -> Result<ArrayRef, LakeError> {
    match at.and_then(|at| roots.binary_search(&at).ok()) {
        None => Ok(new_null_array(t, batch.num_rows())),
        Some(i) if batch.column(i).data_type() == t => Ok(Arc::clone(batch.column(i))),
        Some(i) => Ok(cast(batch.column(i), t)?),
    }
}

/// Which rows of a file belong into the index, by where they came from.
pub(crate) trait Ownership {
    /// `None` for a row that doesn't say.
    fn owns(&self, origin: Option<(&str, i32)>) -> bool;
}

/// A row of a data file, by its key. As small as it can be: there is one for each row of a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ScannedRow {
    pub(crate) key: u128,
    pub(crate) position: u32,
    /// Negative where the file has none for it.
    row_id: i64,
}

impl ScannedRow {
    /// What the index says of it; the file by its number there.
    pub(crate) fn in_file(self, file: u32) -> Location {
        Location { file, position: self.position, row_id: (self.row_id >= 0).then_some(self.row_id) }
    }
}

/// Reads the keys of a file's live rows that `ownership` takes.
///
/// # Errors
/// When the file can't be read.
pub(crate) async fn scan_keys(
    layout: &Layout,
    file_io: &FileIO,
    path: &str,
    deleted: &RoaringBitmap,
    ownership: &(dyn Ownership + Sync),
) -> Result<Vec<ScannedRow>, LakeError> {
    let fields = layout.schema.as_struct().fields();
    let mut columns: Vec<WantedColumn> = layout
        .key
        .iter()
        .map(|i| WantedColumn {
            id: fields[*i].id,
            name: fields[*i].name.clone(),
            // The widest of its family, since files by others may be newer than this layout.
            data_type: canonical(layout.arrow.field(*i).data_type()),
        })
        .collect();
    let keys = columns.len();
    if layout.keeps_row_ids() {
        columns.push(WantedColumn { id: ROW_ID_FIELD, name: ROW_ID.to_owned(), data_type: DataType::Int64 });
    }
    let others = columns.len();
    if let Some(origin) = layout.origin_ids() {
        let name = |id| layout.schema.name_by_field_id(id).unwrap_or_default().to_owned();
        columns.push(WantedColumn { id: origin.topic, name: name(origin.topic), data_type: DataType::Utf8 });
        columns.push(WantedColumn { id: origin.partition, name: name(origin.partition), data_type: DataType::Int32 });
    }
    let mut hasher = KeyHasher::new(&layout.key_types())?;
    let mut found = vec![];
    let mut hashes = vec![];
    let mut first = 0u32;
    read_columns(file_io, path, &columns, |arrays, rows| {
        hashes.clear();
        hasher.hash(&arrays[..keys], &mut hashes)?;
        let row_ids = arrays[keys..others].first().map(|ids| ids.as_primitive::<Int64Type>());
        let origin = match &arrays[others..] {
            [topic, partition] => Some((topic.as_string::<i32>(), partition.as_primitive::<Int32Type>())),
            _ => None,
        };
        for (row, hash) in hashes.iter().enumerate() {
            let position = first + row as u32;
            let from = origin.and_then(|(topic, partition)| {
                (topic.is_valid(row) && partition.is_valid(row)).then(|| (topic.value(row), partition.value(row)))
            });
            if !deleted.contains(position) && ownership.owns(from) {
                let row_id = row_ids.filter(|ids| ids.is_valid(row)).map_or(-1, |ids| ids.value(row));
                found.push(ScannedRow { key: *hash, position, row_id });
            }
        }
        first += rows as u32;
        Ok(())
    })
    .await?;
    Ok(found)
}
