//! The rows of a delivery as they are sent: cast to the table's types, with firn's own columns behind those of the SELECT.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray, UInt8Array, UInt64Array};
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{ArrowError, Field, Schema};

use super::cast::to_wire;
use super::table::Table;
use crate::sink::intent::Intent;
use crate::sink::{Delivery, RefusedRow, SinkError};

pub(super) const TOPIC: &str = "_firn_topic";
pub(super) const PARTITION: &str = "_firn_partition";
pub(super) const OFFSET: &str = "_firn_offset";
pub(super) const VERSION: &str = "_firn_version";
pub(super) const DELETED: &str = "is_deleted";

/// Rows of one delivery have the versions that follow `begun_ms << 20`.
const VERSION_BITS: u32 = 20;

/// # Errors
/// [`SinkError::Refused`] with every row that has a value which its column can't take.
pub(super) fn encode(delivery: &Delivery, intent: &Intent, table: &Table) -> Result<RecordBatch, SinkError> {
    let columns = &table.columns;
    let (rows, mut fields, mut arrays) = (&delivery.rows, Vec::new(), Vec::<ArrayRef>::new());
    let mut refused: BTreeMap<usize, String> = BTreeMap::new();
    for (field, values) in rows.schema_ref().fields().iter().zip(rows.columns()) {
        let Some(column_type) = columns.get(field.name()) else {
            return Err(SinkError::Stopped(format!("the table has no column `{}`", field.name())));
        };
        let may_be_null = table.defaults.contains(field.name());
        match to_wire(field.name(), values, column_type, may_be_null) {
            Ok(values) => {
                fields.push(Field::new(field.name(), values.data_type().clone(), true));
                arrays.push(values);
            }
            Err(rows) => {
                for row in rows {
                    refused.entry(row.row).or_insert(row.detail);
                }
            }
        }
    }
    if !refused.is_empty() {
        return Err(SinkError::Refused(refused.into_iter().map(|(row, detail)| RefusedRow { row, detail }).collect()));
    }
    for (column, values) in own_columns(delivery, intent)? {
        if columns.contains_key(column) && rows.schema_ref().column_with_name(column).is_none() {
            fields.push(Field::new(column, values.data_type().clone(), false));
            arrays.push(values);
        }
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)
        .map_err(|e| SinkError::Stopped(format!("rows can't be put together: {e}")))
}

/// firn's own columns.
///
/// A row's version follows the time at which its range was begun, and the row's place in it. What is sent again has the version that it
/// had; what was begun later has a higher one: rows that are read anew by a new snapshot, after a rewind, from a topic made anew, or
/// from the partition that a key moved to. Offsets alone would not do for the last three.
fn own_columns(delivery: &Delivery, intent: &Intent) -> Result<Vec<(&'static str, ArrayRef)>, SinkError> {
    let rows = delivery.rows.num_rows();
    if rows >= 1 << VERSION_BITS {
        return Err(SinkError::Stopped(format!(
            "a delivery of {rows} rows is too large: lower batch_rows below {}",
            1 << VERSION_BITS
        )));
    }
    let first = intent.begun_ms << VERSION_BITS;
    let mut columns: Vec<(&'static str, ArrayRef)> = vec![
        (VERSION, Arc::new(UInt64Array::from_iter_values((0..rows as u64).map(|row| first + row)))),
        (DELETED, Arc::new(UInt8Array::from_iter_values((0..rows).map(|row| u8::from(delivery.is_deleted(row)))))),
        (TOPIC, Arc::new(StringArray::from_iter_values(std::iter::repeat_n(&delivery.span.at.topic, rows)))),
        (PARTITION, Arc::new(Int32Array::from_iter_values(std::iter::repeat_n(delivery.span.at.partition, rows)))),
    ];
    if let Some(origins) = &delivery.origins {
        columns.push((OFFSET, Arc::new(Int64Array::from_iter_values(origins.iter().map(|o| o.offset)))));
    }
    Ok(columns)
}

/// One batch as a whole stream.
pub(super) fn arrow_stream(rows: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
    let mut writer = StreamWriter::try_new(Vec::with_capacity(rows.get_array_memory_size() + 4096), rows.schema_ref())?;
    writer.write(rows)?;
    writer.finish()?;
    writer.into_inner()
}
