//! Rows within a statement: ClickHouse is asked for what it alone knows of their values.

use std::fmt::Write;
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, UInt32Array};
use arrow_schema::{DataType, Field, Schema};
use base64::Engine;

use super::rows::arrow_stream;
use super::sql::{name, text};

/// The column by which an answer is told to a row.
pub(super) const ROW: &str = "_firn_row";

/// What a statement selects from: these rows of `rows` with these columns, each under its ClickHouse type, and [`ROW`].
///
/// # Errors
/// A sentence: a column is not among those of the rows, or of no type that can be sent.
pub(super) fn stated(rows: &RecordBatch, columns: &[(String, String)], which: &[u32]) -> Result<String, String> {
    let broken = |e: String| format!("rows can't be put into a statement: {e}");
    let which = UInt32Array::from(which.to_vec());
    let mut fields = vec![Field::new(ROW, DataType::UInt32, false)];
    let mut arrays: Vec<ArrayRef> = vec![Arc::new(which.clone())];
    let mut structure = format!("{ROW} UInt32");
    for (column, column_type) in columns {
        let (index, field) =
            rows.schema_ref().column_with_name(column).ok_or_else(|| broken(format!("there is no `{column}`")))?;
        fields.push(field.clone());
        arrays.push(arrow_select::take::take(rows.column(index), &which, None).map_err(|e| broken(e.to_string()))?);
        let _ = write!(structure, ", {} {column_type}", name(column));
    }
    let stated = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).map_err(|e| broken(e.to_string()))?;
    let stream = arrow_stream(&stated).map_err(|e| broken(e.to_string()))?;
    Ok(format!(
        "(SELECT * FROM format(ArrowStream, {}, base64Decode('{}')))",
        text(&structure),
        base64::engine::general_purpose::STANDARD.encode(&stream)
    ))
}
