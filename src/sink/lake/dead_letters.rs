//! Records that could not become rows, in a table of their own.
//!
//! They can't share a swap with the table that they were meant for. So they are keyed by that table and their place in Kafka, and
//! committed before its rows: a replay writes the same keys again and changes nothing.

use std::sync::Arc;

use arrow_array::{
    ArrayRef, Int32Array, Int64Array, LargeBinaryArray, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use firn_catalog::Catalog;
use tokio::runtime::Handle;
use tokio::sync::OnceCell;

use crate::batch::ChangeBatch;
use crate::change::Mode;
use crate::change::{Column, ColumnType, Op, RowSchema};
use crate::record::Rejected;
use crate::sink::lake::{CommitFailure, LakeError, LakeTable, Staged, TableSpec};

/// Calls of `commit` before a write is given back as failed; each of them tries for a while itself.
const ROUNDS: usize = 3;

/// The table of rejected records of all tables of this process.
#[derive(Debug)]
pub struct DeadLetterTable {
    catalog: Arc<dyn Catalog>,
    spec: TableSpec,
    io: Handle,
    /// Opened with the first letter: most processes never write one.
    table: OnceCell<LakeTable>,
}

impl DeadLetterTable {
    /// # Errors
    /// When the settings are wrong, or not of an upsert table.
    pub fn new(catalog: Arc<dyn Catalog>, spec: TableSpec, io: Handle) -> Result<Self, LakeError> {
        spec.ident()?;
        spec.format()?;
        if spec.mode != Mode::Upsert {
            return Err(spec.settings("dead letters are upserted, so that a replay doesn't double them"));
        }
        Ok(Self { catalog, spec, io, table: OnceCell::new() })
    }

    /// Returns once the letters of `target` (a table's name) are in the table. Writing one again overwrites it.
    ///
    /// # Errors
    /// When they are not in the table for sure: the same letters are to be written again before anything that follows them is
    /// committed.
    pub async fn write(&self, target: &str, rejected: &[Rejected]) -> Result<(), LakeError> {
        if rejected.is_empty() {
            return Ok(());
        }
        let table = self
            .table
            .get_or_try_init(|| LakeTable::open(Arc::clone(&self.catalog), self.spec.clone(), self.io.clone()))
            .await?;
        let batch = letters(target, rejected)?;
        let mut last = None;
        for _ in 0..ROUNDS {
            table.ensure_schema(&columns()).await?;
            match self.write_once(table, batch.clone()).await {
                Ok(()) => return Ok(()),
                Err(e) if e.is_transient() => last = Some(e),
                Err(e) => return Err(e),
            }
        }
        Err(last.unwrap_or_else(|| self.spec.settings("the columns of the dead letters keep changing: try again")))
    }

    async fn write_once(&self, table: &LakeTable, batch: RecordBatch) -> Result<(), LakeError> {
        let mut stager = table.stager()?;
        let staged: Staged = tokio::task::spawn_blocking(move || {
            let ops = vec![Op::Create; batch.num_rows()];
            stager.write(ChangeBatch::new(batch, ops))?;
            stager.close(vec![])
        })
        .await
        .map_err(|e| LakeError::Storage(format!("staging dead letters: {e}")))??;
        let mut parts = vec![staged];
        for _ in 0..ROUNDS {
            match table.commit(parts).await {
                Ok(_) => return Ok(()),
                Err(CommitFailure::Undecided(same, _)) => parts = same,
                Err(CommitFailure::SchemaMoved(parts)) => {
                    table.discard(parts).await;
                    return Err(LakeError::Storage("the columns of the dead letters changed".to_owned()));
                }
                Err(CommitFailure::Stale(reason)) => return Err(LakeError::Storage(reason)),
                Err(CommitFailure::Failed(e)) => return Err(e),
            }
        }
        Err(LakeError::Storage("the dead letters are not committed yet".to_owned()))
    }
}

/// The letters' columns; the first five are the key. A topic id that nobody told is empty.
fn columns() -> RowSchema {
    RowSchema {
        columns: vec![
            Column::key("target", ColumnType::String),
            Column::key("topic", ColumnType::String),
            Column::key("topic_id", ColumnType::String),
            Column::key("partition", ColumnType::Int),
            Column::key("offset", ColumnType::Long),
            Column::new("record_ts", ColumnType::TimestampTz),
            Column::new("reason", ColumnType::String),
            Column::new("detail", ColumnType::String),
            Column::new("key", ColumnType::Binary),
            Column::new("value", ColumnType::Binary),
        ],
    }
}

fn letters(target: &str, rejected: &[Rejected]) -> Result<RecordBatch, LakeError> {
    fn text<'a>(values: impl Iterator<Item = &'a str>) -> ArrayRef {
        Arc::new(StringArray::from_iter_values(values))
    }
    let timestamps = rejected.iter().map(|r| r.timestamp_ms.map(|ms| ms.saturating_mul(1000)));
    let arrays: Vec<ArrayRef> = vec![
        text(rejected.iter().map(|_| target)),
        text(rejected.iter().map(|r| r.origin.at.topic.as_str())),
        text(rejected.iter().map(|r| r.topic_id.as_deref().unwrap_or_default())),
        Arc::new(Int32Array::from_iter_values(rejected.iter().map(|r| r.origin.at.partition))),
        Arc::new(Int64Array::from_iter_values(rejected.iter().map(|r| r.origin.offset))),
        Arc::new(TimestampMicrosecondArray::from_iter(timestamps).with_timezone("+00:00")),
        text(rejected.iter().map(|r| r.reason)),
        text(rejected.iter().map(|r| r.detail.as_str())),
        Arc::new(rejected.iter().map(|r| r.key.as_deref()).collect::<LargeBinaryArray>()),
        Arc::new(rejected.iter().map(|r| r.value.as_deref()).collect::<LargeBinaryArray>()),
    ];
    Ok(RecordBatch::try_new(Arc::new(columns().arrow()), arrays)?)
}
