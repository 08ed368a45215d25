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
use parquet::arrow::ProjectionMask;
use parquet::arrow::async_reader::{ParquetRecordBatchStream, ParquetRecordBatchStreamBuilder};
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

/// Chosen columns of all rows of a Parquet file, in order. A column that the file lacks reads as null.
pub(crate) struct ColumnReader {
    batches: ParquetRecordBatchStream<ArrowFileReader>,
    /// What each wanted column becomes, and where the file has it.
    wanted: Vec<(DataType, Option<usize>)>,
    /// The file's columns that are read.
    roots: Vec<usize>,
}

impl ColumnReader {
    /// # Errors
    /// When the file can't be read.
    pub(crate) async fn open(file_io: &FileIO, path: &str, columns: &[WantedColumn]) -> Result<Self, LakeError> {
        let input = file_io.new_input(path)?;
        let failed = |e: iceberg::Error| LakeError::Storage(format!("reading {path}: {e}"));
        let metadata = input.metadata().await.map_err(failed)?;
        let reader = ArrowFileReader::new(metadata, input.reader().await.map_err(failed)?);
        let builder = ParquetRecordBatchStreamBuilder::new(reader).await?;
        let root = builder.parquet_schema().root_schema();
        let has_ids = root.get_fields().iter().any(|f| f.get_basic_info().has_id());
        let find = |c: &WantedColumn| {
            root.get_fields().iter().position(|f| match has_ids {
                true => f.get_basic_info().has_id() && f.get_basic_info().id() == c.id,
                false => f.name() == c.name,
            })
        };
        let wanted: Vec<_> = columns.iter().map(|c| (c.data_type.clone(), find(c))).collect();
        let mut roots: Vec<usize> = wanted.iter().filter_map(|(_, at)| *at).collect();
        roots.sort_unstable();
        roots.dedup();
        let mask = ProjectionMask::roots(builder.parquet_schema(), roots.iter().copied());
        let batches = builder.with_projection(mask).with_batch_size(BATCH_ROWS).build()?;
        Ok(Self { batches, wanted, roots })
    }

    /// The next rows: the columns as wanted, and how many rows there are.
    ///
    /// # Errors
    /// When the file can't be read.
    pub(crate) async fn next(&mut self) -> Result<Option<(Vec<ArrayRef>, usize)>, LakeError> {
        let Some(batch) = self.batches.try_next().await? else { return Ok(None) };
        let arrays = self.wanted.iter().map(|(t, at)| pick(&batch, &self.roots, *at, t));
        Ok(Some((arrays.collect::<Result<Vec<_>, _>>()?, batch.num_rows())))
    }
}

/// All of a [`ColumnReader`].
///
/// # Errors
/// When the file can't be read.
pub(crate) async fn read_columns(
    file_io: &FileIO,
    path: &str,
    columns: &[WantedColumn],
    mut take: impl FnMut(&[ArrayRef], usize) -> Result<(), LakeError>,
) -> Result<(), LakeError> {
    let mut reader = ColumnReader::open(file_io, path, columns).await?;
    while let Some((arrays, rows)) = reader.next().await? {
        take(&arrays, rows)?;
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

/// The key columns, each the widest of its family, since files by others may be newer than this layout.
pub(crate) fn key_columns(layout: &Layout) -> Vec<WantedColumn> {
    let fields = layout.schema.as_struct().fields();
    let column = |i: &usize| WantedColumn {
        id: fields[*i].id,
        name: fields[*i].name.clone(),
        data_type: canonical(layout.arrow.field(*i).data_type()),
    };
    layout.key.iter().map(column).collect()
}

/// The keys of a file's live rows that `ownership` takes, some at a time.
pub(crate) struct KeyScan<'a> {
    reader: ColumnReader,
    hasher: KeyHasher,
    /// Columns of the key; a row id may follow them, then the origin.
    keys: usize,
    /// Where the origin begins.
    others: usize,
    deleted: &'a RoaringBitmap,
    ownership: &'a (dyn Ownership + Sync),
    /// Rows that were read.
    read: u32,
}

impl<'a> KeyScan<'a> {
    /// # Errors
    /// When the file can't be read.
    pub(crate) async fn open(
        layout: &Layout,
        file_io: &FileIO,
        path: &str,
        deleted: &'a RoaringBitmap,
        ownership: &'a (dyn Ownership + Sync),
    ) -> Result<Self, LakeError> {
        let mut columns = key_columns(layout);
        let keys = columns.len();
        if layout.keeps_row_ids() {
            columns.push(WantedColumn { id: ROW_ID_FIELD, name: ROW_ID.to_owned(), data_type: DataType::Int64 });
        }
        let others = columns.len();
        if let Some(origin) = layout.origin_ids() {
            let name = |id| layout.schema.name_by_field_id(id).unwrap_or_default().to_owned();
            columns.push(WantedColumn { id: origin.topic, name: name(origin.topic), data_type: DataType::Utf8 });
            columns.push(WantedColumn {
                id: origin.partition,
                name: name(origin.partition),
                data_type: DataType::Int32,
            });
        }
        let hasher = KeyHasher::new(&layout.key_types())?;
        let reader = ColumnReader::open(file_io, path, &columns).await?;
        Ok(Self { reader, hasher, keys, others, deleted, ownership, read: 0 })
    }

    /// `None` at the end of the file.
    ///
    /// # Errors
    /// When the file can't be read.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<ScannedRow>>, LakeError> {
        let Some((arrays, rows)) = self.reader.next().await? else { return Ok(None) };
        let mut hashes = Vec::with_capacity(rows);
        self.hasher.hash(&arrays[..self.keys], &mut hashes)?;
        let row_ids = arrays[self.keys..self.others].first().map(|ids| ids.as_primitive::<Int64Type>());
        let origin = match &arrays[self.others..] {
            [topic, partition] => Some((topic.as_string::<i32>(), partition.as_primitive::<Int32Type>())),
            _ => None,
        };
        let mut found = Vec::with_capacity(rows);
        for (row, hash) in hashes.iter().enumerate() {
            let position = self.read + row as u32;
            let from = origin.and_then(|(topic, partition)| {
                (topic.is_valid(row) && partition.is_valid(row)).then(|| (topic.value(row), partition.value(row)))
            });
            if !self.deleted.contains(position) && self.ownership.owns(from) {
                let row_id = row_ids.filter(|ids| ids.is_valid(row)).map_or(-1, |ids| ids.value(row));
                found.push(ScannedRow { key: *hash, position, row_id });
            }
        }
        self.read += rows as u32;
        Ok(Some(found))
    }
}
