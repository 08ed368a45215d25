//! What a source's changes look like as a table: `op`, `after`, `before`, `image`, `source` and the origin columns.
//!
//! | column | |
//! |---|---|
//! | `op` | c, u, d, or r for a row of a snapshot |
//! | `after` | the row after the change; null for a delete |
//! | `before` | the row before it, where the source tells; the key alone by PostgreSQL's default |
//! | `image` | `after`, of a delete `before` |
//! | `source` | `ts_ms` and `lsn` of the commit in the source |
//! | `_firn_...` | where the change stood in Kafka |

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray, StructArray, new_null_array};
use arrow_buffer::NullBuffer;
use arrow_schema::{ArrowError, DataType, Field, Fields, Schema, SchemaRef};
use arrow_select::nullif::nullif;

use crate::batch::ChangeBatch;
use crate::change::{Op, RowSchema, origin};

pub const OP: &str = "op";
const AFTER: &str = "after";
const BEFORE: &str = "before";
const IMAGE: &str = "image";
const SOURCE: &str = "source";
const TS_MS: &str = "ts_ms";

/// The columns of a table of changes whose rows have these columns, origin columns included.
pub fn columns(rows: &RowSchema) -> SchemaRef {
    schema_of(&rows.arrow())
}

fn schema_of(rows: &Schema) -> SchemaRef {
    let (own, origins) = parts(rows);
    let image = DataType::Struct(nullable(own.iter().map(|i| rows.field(*i))));
    let mut fields = vec![
        Field::new(OP, DataType::Utf8, false),
        Field::new(AFTER, image.clone(), true),
        Field::new(BEFORE, image.clone(), true),
        Field::new(IMAGE, image, true),
        Field::new(SOURCE, DataType::Struct(source_fields()), false),
    ];
    fields.extend(origins.iter().map(|i| rows.field(*i).clone().with_nullable(true)));
    Arc::new(Schema::new(fields))
}

/// The source's own columns, and firn's.
fn parts(rows: &Schema) -> (Vec<usize>, Vec<usize>) {
    (0..rows.fields().len()).partition(|i| !origin::is_own(rows.field(*i).name()))
}

fn nullable<'a>(fields: impl Iterator<Item = &'a Field>) -> Fields {
    // Without ids: nothing is looked up by them here.
    fields.map(|f| Field::new(f.name(), f.data_type().clone(), true)).collect()
}

fn source_fields() -> Fields {
    Fields::from(vec![Field::new(TS_MS, DataType::Int64, true), Field::new("lsn", DataType::Int64, true)])
}

/// The kind of each change of such a table, as its letter.
///
/// # Errors
/// When it is none.
pub fn ops(table: &RecordBatch) -> Result<&StringArray, ArrowError> {
    let column = table.column_by_name(OP).and_then(|column| column.as_string_opt::<i32>());
    column.ok_or_else(|| ArrowError::SchemaError(format!("there is no column {OP}")))
}

/// The partition and the offset of each change of such a table.
///
/// # Errors
/// When it is none.
pub fn places(table: &RecordBatch) -> Result<Vec<(i32, i64)>, ArrowError> {
    let absent = |name: &str| ArrowError::SchemaError(format!("there is no column {name}"));
    let partitions = table.column_by_name(origin::PARTITION).and_then(|c| c.as_primitive_opt::<Int32Type>());
    let partitions = partitions.ok_or_else(|| absent(origin::PARTITION))?;
    let offsets = table.column_by_name(origin::OFFSET).and_then(|c| c.as_primitive_opt::<Int64Type>());
    let offsets = offsets.ok_or_else(|| absent(origin::OFFSET))?;
    Ok(partitions.values().iter().copied().zip(offsets.values().iter().copied()).collect())
}

/// The source's time of each change of such a table, in ms.
///
/// # Errors
/// When it is none.
pub fn times(table: &RecordBatch) -> Result<&Int64Array, ArrowError> {
    let column = table.column_by_name(SOURCE).and_then(|column| column.as_struct_opt()?.column_by_name(TS_MS));
    let column = column.and_then(|column| column.as_primitive_opt::<Int64Type>());
    column.ok_or_else(|| ArrowError::SchemaError(format!("there is no column {SOURCE}.{TS_MS}")))
}

/// The changes as a table of [`columns`].
///
/// # Errors
/// Never, as long as the batch keeps to its schema.
pub fn table(batch: &ChangeBatch) -> Result<RecordBatch, ArrowError> {
    let rows = &batch.rows;
    let schema = rows.schema();
    let (own, origins) = parts(&schema);
    let fields = nullable(own.iter().map(|i| schema.field(*i)));
    let arrays: Vec<ArrayRef> = own.iter().map(|i| Arc::clone(rows.column(*i))).collect();
    // A field of no image is null itself: SQL looks at the field alone.
    let image_of = |arrays: &[ArrayRef], absent: &BooleanArray| {
        let valid = Some(NullBuffer::new(!absent.values()));
        match arrays.is_empty() {
            true => Ok(StructArray::new_empty_fields(rows.num_rows(), valid)),
            false => {
                let masked = arrays.iter().map(|array| nullif(array, absent)).collect::<Result<Vec<_>, _>>()?;
                StructArray::try_new(fields.clone(), masked, valid)
            }
        }
    };
    let absent =
        |there: &dyn Fn(usize) -> bool| (0..rows.num_rows()).map(|row| Some(!there(row))).collect::<BooleanArray>();
    let is_delete = |row: usize| batch.ops.get(row) == Some(&Op::Delete);
    let after = image_of(&arrays, &absent(&|row| !is_delete(row)))?;
    let before = match &batch.before {
        Some(before) => {
            let arrays: Vec<ArrayRef> = own.iter().map(|i| Arc::clone(before.rows.column(*i))).collect();
            image_of(&arrays, &absent(&|row| before.there.get(row).copied().unwrap_or_default()))?
        }
        None => image_of(&arrays, &absent(&is_delete))?,
    };
    let of_source = |name: &str, data_type: DataType| {
        let column = rows.column_by_name(name);
        column.map_or_else(|| new_null_array(&data_type, rows.num_rows()), Arc::clone)
    };
    let times = match rows.column_by_name(origin::SOURCE_TS) {
        Some(times) => Int64Array::from_iter(
            times.as_primitive::<TimestampMicrosecondType>().iter().map(|t| t.map(|us| us / 1000)),
        ),
        None => Int64Array::new_null(rows.num_rows()),
    };
    let source = vec![Arc::new(times) as ArrayRef, of_source(origin::SOURCE_LSN, DataType::Int64)];
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(batch.ops.iter().map(|op| op.letter()))),
        Arc::new(after),
        Arc::new(before),
        Arc::new(image_of(&arrays, &absent(&|_| true))?),
        Arc::new(StructArray::try_new(source_fields(), source, None)?),
    ];
    columns.extend(origins.iter().map(|i| Arc::clone(rows.column(*i))));
    RecordBatch::try_new(schema_of(&schema), columns)
}
