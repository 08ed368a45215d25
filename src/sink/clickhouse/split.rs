//! Which rows fall into the same partition of the ClickHouse table.
//!
//! An insert into one partition is atomic, an insert into several is not. So each partition's rows go by an insert of their own. Which
//! these are is plain for the usual expressions ([`calendar`]); for any other ClickHouse itself is asked, which has the expression,
//! the types and the time zones.

use std::collections::{BTreeMap, BTreeSet};

use arrow_array::{RecordBatch, UInt32Array};

use super::calendar;
use super::fault::Fault;
use super::server::Server;
use super::stated::{ROW, stated};

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
    /// Splits rows that are ready to be sent, without those that are `left_out`.
    pub(super) async fn split(
        &self,
        server: &Server,
        rows: &RecordBatch,
        left_out: &BTreeSet<u32>,
    ) -> Result<Vec<Part>, Fault> {
        let values = self.values(server, rows).await?;
        let mut parts: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
        for (row, value) in (0..).zip(&values).filter(|(row, _)| !left_out.contains(row)) {
            parts.entry(value).or_default().push(row);
        }
        if let (1, Some((value, indices))) = (parts.len(), parts.first_key_value())
            && indices.len() == rows.num_rows()
        {
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
    async fn values(&self, server: &Server, rows: &RecordBatch) -> Result<Vec<String>, Fault> {
        if self.expression.is_empty() {
            return Ok(vec![String::new(); rows.num_rows()]);
        }
        let plain = calendar::parse(&self.expression, &self.columns, &self.zone);
        match plain.and_then(|parts| calendar::values(&parts, rows)) {
            Some(values) => Ok(values),
            None => self.ask(server, rows).await,
        }
    }

    async fn ask(&self, server: &Server, rows: &RecordBatch) -> Result<Vec<String>, Fault> {
        let all: Vec<u32> = (0..rows.num_rows() as u32).collect();
        let asked = stated(rows, &self.columns, &all).map_err(|e| Fault::away(&server.node, &e))?;
        let sql = format!("SELECT toString(tuple({})), {ROW} FROM {asked}", self.expression);
        let mut values = vec![String::new(); rows.num_rows()];
        let answer = server.rows::<(String, u32)>(&sql).await?;
        if answer.len() != values.len() {
            let why = format!("{} answers for the partitions of {} rows", answer.len(), values.len());
            return Err(Fault::away(&server.node, &why));
        }
        for (value, row) in answer {
            if let Some(slot) = values.get_mut(row as usize) {
                *slot = value;
            }
        }
        Ok(values)
    }
}
