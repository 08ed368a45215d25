//! Which rows fall into the same partition of the ClickHouse table.
//!
//! An insert into one partition is atomic, an insert into several is not. So each partition's rows go by an insert of their own. Which
//! these are is plain for the usual expressions ([`calendar`]); for any other ClickHouse itself is asked, which has the expression,
//! the types and the time zones.

use std::collections::BTreeMap;
use std::fmt::Write;

use arrow_array::{ArrayRef, RecordBatch, UInt32Array, UInt64Array};
use arrow_schema::{DataType, Field, Schema};
use base64::Engine;
use std::sync::Arc;

use super::calendar;
use super::fault::Fault;
use super::rows::arrow_stream;
use super::server::Server;
use super::sql::{name, text};

/// The partition key of a table.
#[derive(Clone, Debug, Default)]
pub(super) struct PartitionKey {
    /// As ClickHouse shows it; empty where the table has none.
    pub expression: String,
    /// The columns in it with their types.
    pub columns: Vec<(String, String)>,
    /// The server's, for columns that have none of their own.
    pub zone: String,
}

/// Rows of one partition, in their order.
#[derive(Clone, Debug)]
pub(super) struct Part {
    /// The partition's value, in words.
    pub value: String,
    pub rows: RecordBatch,
}

impl PartitionKey {
    /// Splits rows that are ready to be sent.
    pub(super) async fn split(&self, server: &Server, rows: &RecordBatch) -> Result<Vec<Part>, Fault> {
        if self.expression.is_empty() {
            return Ok(vec![Part { value: String::new(), rows: rows.clone() }]);
        }
        let plain = calendar::parse(&self.expression, &self.columns, &self.zone);
        let values = match plain.and_then(|parts| calendar::values(&parts, rows)) {
            Some(values) => values,
            None => self.ask(server, rows).await?,
        };
        let mut parts: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
        for (row, value) in values.iter().enumerate() {
            parts.entry(value).or_default().push(row as u32);
        }
        if let (1, Some((value, _))) = (parts.len(), parts.first_key_value()) {
            return Ok(vec![Part { value: (*value).to_owned(), rows: rows.clone() }]);
        }
        let take = |(value, indices): (&str, Vec<u32>)| {
            let rows = arrow_select::take::take_record_batch(rows, &UInt32Array::from(indices));
            let rows = rows.map_err(|e| Fault::away(&server.node, &format!("rows can't be split: {e}")))?;
            Ok(Part { value: value.to_owned(), rows })
        };
        parts.into_iter().map(take).collect()
    }

    /// The partition's value of each row.
    async fn ask(&self, server: &Server, rows: &RecordBatch) -> Result<Vec<String>, Fault> {
        let broken = |e: String| Fault::away(&server.node, &format!("partitions can't be asked for: {e}"));
        let numbers = UInt64Array::from_iter_values(0..rows.num_rows() as u64);
        let mut fields = vec![Field::new(ROW, DataType::UInt64, false)];
        let mut columns: Vec<ArrayRef> = vec![Arc::new(numbers)];
        let mut structure = format!("{ROW} UInt64");
        for (column, column_type) in &self.columns {
            let (index, field) =
                rows.schema_ref().column_with_name(column).ok_or_else(|| broken(format!("no {column}")))?;
            fields.push(field.clone());
            columns.push(rows.column(index).clone());
            let _ = write!(structure, ", {} {column_type}", name(column));
        }
        let asked = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(|e| broken(e.to_string()))?;
        let stream = arrow_stream(&asked).map_err(|e| broken(e.to_string()))?;
        let sql = format!(
            "SELECT toString(tuple({})), {ROW} FROM (SELECT * FROM format(ArrowStream, {}, base64Decode('{}')))",
            self.expression,
            text(&structure),
            base64::engine::general_purpose::STANDARD.encode(&stream)
        );
        let mut values = vec![String::new(); rows.num_rows()];
        let answer = server.rows::<(String, u64)>(&sql).await?;
        if answer.len() != values.len() {
            return Err(broken(format!("{} answers for {} rows", answer.len(), values.len())));
        }
        for (value, row) in answer {
            if let Some(slot) = values.get_mut(row as usize) {
                *slot = value;
            }
        }
        Ok(values)
    }
}

/// The column by which an answer is told to a row.
const ROW: &str = "_firn_row";
