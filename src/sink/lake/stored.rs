//! Reads chosen rows and columns of data files, whoever wrote them and under whichever of the table's schemas.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{
    Array, ArrayRef, BooleanArray, Decimal128Array, FixedSizeBinaryArray, Float32Array, Float64Array, Int32Array,
    Int64Array, LargeBinaryArray, ListArray, MapArray, RecordBatch, RecordBatchOptions, StringArray, StructArray,
    UInt32Array, new_null_array,
};
use arrow_cast::{CastOptions, cast_with_options};
use arrow_schema::{ArrowError, DataType, Field, Fields, SchemaRef};
use futures::TryStreamExt;
use iceberg::arrow::ArrowFileReader;
use iceberg::io::FileIO;
use iceberg::spec::{Literal, NestedFieldRef, PrimitiveLiteral};
use parquet::arrow::arrow_reader::{ArrowReaderBuilder, RowSelection};
use parquet::arrow::{PARQUET_FIELD_ID_META_KEY, ParquetRecordBatchStreamBuilder, ProjectionMask};
use roaring::RoaringBitmap;

use crate::sink::lake::LakeError;

/// Bytes decoded at once; TOAST values are large, so rows are counted by what they take.
const READ_BYTES: u64 = 16 << 20;
/// Rows decoded at once.
const READ_ROWS: u64 = 8 << 10;

/// Reads `fields` (of the table, with `types` of the same order) of the rows at `positions`, ascending, in bounded pieces.
///
/// A column is found by its field id, by its name in files without ids. One that the file lacks reads as the column's initial
/// default, else as null.
///
/// # Errors
/// When the file can't be read, or a value doesn't fit the table's type.
pub(crate) async fn read_rows(
    file_io: &FileIO,
    path: &str,
    positions: &RoaringBitmap,
    fields: &[NestedFieldRef],
    types: &SchemaRef,
) -> Result<Vec<RecordBatch>, LakeError> {
    let mut all = vec![];
    let mut rows = open(file_io, path, Chosen::At(positions), fields, types).await?;
    while let Some(batch) = rows.next().await? {
        all.push(batch);
    }
    Ok(all)
}

/// Which rows of a file are read.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Chosen<'a> {
    All,
    /// By position, ascending.
    At(&'a RoaringBitmap),
}

/// Columns of a table as they are today, found in files of whatever time.
#[derive(Clone, Debug)]
pub(crate) struct Columns {
    fields: Vec<NestedFieldRef>,
    types: SchemaRef,
}

impl Columns {
    /// `types` are those of the fields, in the same order.
    pub(crate) fn new(fields: &[NestedFieldRef], types: &SchemaRef) -> Self {
        Self { fields: fields.to_vec(), types: Arc::clone(types) }
    }

    /// Which columns of a file these are.
    pub(crate) fn mask<T>(&self, reader: &ArrowReaderBuilder<T>) -> ProjectionMask {
        let file = reader.schema().fields();
        let roots: Vec<usize> = self.fields.iter().filter_map(|f| at(file, f.id, &f.name)).collect();
        ProjectionMask::roots(reader.parquet_schema(), roots)
    }

    /// A reader of a file's own columns of these, some rows at a time: as many as take so many bytes.
    pub(crate) fn chosen<T>(&self, reader: ArrowReaderBuilder<T>, batch_bytes: u64) -> ArrowReaderBuilder<T> {
        let mask = self.mask(&reader);
        let groups = || reader.metadata().row_groups().iter();
        let total: u64 = groups().map(|g| g.num_rows().max(0) as u64).sum();
        let bytes: u64 = groups()
            .flat_map(|g| g.columns().iter().enumerate())
            .filter(|(leaf, _)| mask.leaf_included(*leaf))
            .map(|(_, chunk)| chunk.uncompressed_size().max(0) as u64)
            .sum();
        let rows = batch_bytes.checked_div(bytes / total.max(1)).unwrap_or(READ_ROWS).clamp(1, READ_ROWS);
        reader.with_projection(mask).with_batch_size(rows as usize)
    }

    /// A file's rows in these columns; `path` is told in errors.
    ///
    /// # Errors
    /// When a value doesn't fit the table's type.
    pub(crate) fn of_today(&self, batch: &RecordBatch, path: &str) -> Result<RecordBatch, LakeError> {
        let rows = batch.num_rows();
        let refuse = |name: &str, e: ArrowError| ArrowError::CastError(format!("{path}: column {name}: {e}"));
        let mut columns = Vec::with_capacity(self.fields.len());
        for (field, to) in self.fields.iter().zip(self.types.fields()) {
            let column = match at(batch.schema_ref().fields(), field.id, &field.name) {
                Some(i) => by_id(batch.column(i), to.data_type()).map_err(|e| refuse(&field.name, e))?,
                None => absent(field, to.data_type(), rows)?,
            };
            columns.push(column);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.types), columns, &options)?)
    }
}

/// Rows of a file on their way.
pub(crate) struct StoredRows {
    path: String,
    batches: parquet::arrow::async_reader::ParquetRecordBatchStream<ArrowFileReader>,
    columns: Columns,
}

/// As [`read_rows`], piece by piece.
pub(crate) async fn open(
    file_io: &FileIO,
    path: &str,
    chosen: Chosen<'_>,
    fields: &[NestedFieldRef],
    types: &SchemaRef,
) -> Result<StoredRows, LakeError> {
    let input = file_io.new_input(path)?;
    let failed = |e: iceberg::Error| LakeError::Storage(format!("reading {path}: {e}"));
    let metadata = input.metadata().await.map_err(failed)?;
    let reader = ArrowFileReader::new(metadata, input.reader().await.map_err(failed)?);
    let columns = Columns::new(fields, types);
    let mut builder = columns.chosen(ParquetRecordBatchStreamBuilder::new(reader).await?, READ_BYTES);
    if let Chosen::At(positions) = chosen {
        let total: u64 = builder.metadata().row_groups().iter().map(|g| g.num_rows().max(0) as u64).sum();
        let ranges = positions.iter().map(|p| p as usize..p as usize + 1).filter(|r| r.end as u64 <= total);
        builder = builder.with_row_selection(RowSelection::from_consecutive_ranges(ranges, total as usize));
    }
    Ok(StoredRows { path: path.to_owned(), batches: builder.build()?, columns })
}

impl StoredRows {
    /// The next piece; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<RecordBatch>, LakeError> {
        let Some(batch) = self.batches.try_next().await? else { return Ok(None) };
        Ok(Some(self.columns.of_today(&batch, &self.path)?))
    }
}

/// Whether a file says which column is which. One that was registered as it was found doesn't: its columns go by a mapping, or by
/// its partition.
pub(crate) fn has_field_ids(file: &Fields) -> bool {
    file.iter().any(|f| id_of(f).is_some())
}

fn id_of(field: &Field) -> Option<i32> {
    field.metadata().get(PARQUET_FIELD_ID_META_KEY)?.parse().ok()
}

/// By id, by name where no field has one.
fn at(fields: &Fields, id: i32, name: &str) -> Option<usize> {
    match has_field_ids(fields) {
        true => fields.iter().position(|f| id_of(f) == Some(id)),
        false => fields.iter().position(|f| f.name() == name),
    }
}

/// A stored column in the table's type of today: nested fields by their ids, plain types widened.
fn by_id(array: &ArrayRef, to: &DataType) -> Result<ArrayRef, ArrowError> {
    match (array.data_type(), to) {
        (have, to) if have == to => Ok(Arc::clone(array)),
        (DataType::List(_), DataType::List(element)) => {
            let list = array.as_list::<i32>();
            let values = by_id(list.values(), element.data_type())?;
            let (offsets, nulls) = (list.offsets().clone(), list.nulls().cloned());
            Ok(Arc::new(ListArray::try_new(Arc::clone(element), offsets, values, nulls)?))
        }
        (DataType::Struct(_), DataType::Struct(fields)) => {
            let from = array.as_struct();
            let columns = fields
                .iter()
                .map(|f| match at(from.fields(), id_of(f).unwrap_or(-1), f.name()) {
                    Some(i) => by_id(from.column(i), f.data_type()),
                    None => Ok(new_null_array(f.data_type(), from.len())),
                })
                .collect::<Result<Vec<_>, _>>()?;
            Ok(Arc::new(StructArray::try_new(fields.clone(), columns, from.nulls().cloned())?))
        }
        (DataType::Map(_, _), DataType::Map(entry, ordered)) => {
            let map = array.as_map();
            let DataType::Struct(fields) = entry.data_type() else {
                return Err(ArrowError::SchemaError("a map's entries must be a struct".to_owned()));
            };
            // Key and value go by place: their names differ between writers.
            let columns = map.entries().columns().iter().zip(fields).map(|(c, f)| by_id(c, f.data_type()));
            let entries = StructArray::try_new(
                fields.clone(),
                columns.collect::<Result<Vec<_>, _>>()?,
                map.entries().nulls().cloned(),
            )?;
            let (offsets, nulls) = (map.offsets().clone(), map.nulls().cloned());
            Ok(Arc::new(MapArray::try_new(Arc::clone(entry), offsets, entries, nulls, *ordered)?))
        }
        _ => cast_with_options(array, to, &CastOptions { safe: false, ..Default::default() }),
    }
}

/// A column that came after the file.
fn absent(field: &NestedFieldRef, to: &DataType, rows: usize) -> Result<ArrayRef, LakeError> {
    use PrimitiveLiteral as L;
    let one: ArrayRef = match &field.initial_default {
        None => return Ok(new_null_array(to, rows)),
        Some(Literal::Primitive(L::Boolean(v))) => Arc::new(BooleanArray::from(vec![*v])),
        Some(Literal::Primitive(L::Int(v))) => Arc::new(Int32Array::from(vec![*v])),
        Some(Literal::Primitive(L::Long(v))) => Arc::new(Int64Array::from(vec![*v])),
        Some(Literal::Primitive(L::Float(v))) => Arc::new(Float32Array::from(vec![v.0])),
        Some(Literal::Primitive(L::Double(v))) => Arc::new(Float64Array::from(vec![v.0])),
        Some(Literal::Primitive(L::String(v))) => Arc::new(StringArray::from(vec![v.as_str()])),
        Some(Literal::Primitive(L::Binary(v))) => Arc::new(LargeBinaryArray::from(vec![v.as_slice()])),
        Some(Literal::Primitive(L::Int128(v))) if matches!(to, DataType::Decimal128(..)) => {
            Arc::new(Decimal128Array::from(vec![*v]).with_data_type(to.clone()))
        }
        Some(Literal::Primitive(L::UInt128(v))) => Arc::new(FixedSizeBinaryArray::from(vec![&v.to_be_bytes()])),
        Some(other) => {
            let how = "an initial default of this kind can't be read here";
            return Err(ArrowError::NotYetImplemented(format!("column {}: {how}: {other:?}", field.name)).into());
        }
    };
    let one = cast_with_options(&one, to, &CastOptions { safe: false, ..Default::default() })?;
    Ok(arrow_select::take::take(&one, &UInt32Array::from(vec![0; rows]), None)?)
}
