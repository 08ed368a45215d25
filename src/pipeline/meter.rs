//! The counters of one table. Names and units are described in `serve::metrics`, how to read them in docs/metrics.md.

use metrics::{Counter, counter, gauge, histogram};

use crate::change::Op;
use crate::position::TopicPartition;

/// Handles are looked up once a table, not once a row.
pub struct Meter {
    table: String,
    topic: String,
    rows: [Counter; 4],
}

impl std::fmt::Debug for Meter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Meter").field("table", &self.table).finish_non_exhaustive()
    }
}

impl Meter {
    pub fn new(table: &str, topic: &str) -> Self {
        let rows = [Op::Create, Op::Update, Op::Delete, Op::Read]
            .map(|op| counter!("firn_rows_total", "table" => table.to_owned(), "op" => op.letter()));
        Self { table: table.to_owned(), topic: topic.to_owned(), rows }
    }

    pub fn row(&self, op: Op) {
        let [create, update, delete, read] = &self.rows;
        match op {
            Op::Create => create,
            Op::Update => update,
            Op::Delete => delete,
            Op::Read => read,
        }
        .increment(1);
    }

    pub fn skipped(&self, kind: &'static str) {
        counter!("firn_skipped_total", "topic" => self.topic.clone(), "kind" => kind).increment(1);
    }

    pub fn rejected(&self, reason: &'static str) {
        counter!("firn_rejected_total", "topic" => self.topic.clone(), "reason" => reason).increment(1);
    }

    pub fn committed(&self, seconds: f64, attempts: usize) {
        counter!("firn_commits_total", "table" => self.table.clone()).increment(1);
        histogram!("firn_commit_seconds", "table" => self.table.clone()).record(seconds);
        histogram!("firn_commit_attempts", "table" => self.table.clone()).record(attempts as f64);
    }

    pub fn position(&self, at: &TopicPartition, next: i64) {
        gauge!("firn_committed_offset", "topic" => at.topic.clone(), "partition" => at.partition.to_string())
            .set(next as f64);
    }

    pub fn lag(&self, at: &TopicPartition, records: i64) {
        gauge!("firn_lag_records", "topic" => at.topic.clone(), "partition" => at.partition.to_string())
            .set(records as f64);
    }

    pub fn stale(&self) {
        counter!("firn_stale_total", "table" => self.table.clone()).increment(1);
    }

    pub fn assigned(&self, partitions: usize) {
        gauge!("firn_assigned_partitions", "topic" => self.topic.clone()).set(partitions as f64);
    }

    pub fn stopped(&self) {
        gauge!("firn_table_stopped", "table" => self.table.clone()).set(1.0);
    }
}
