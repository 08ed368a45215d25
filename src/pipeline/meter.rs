//! The figures of one table. Names and units are declared in `serve::metrics`, how to read them in docs/metrics.md.

use std::time::Duration;

use metrics::{Counter, Gauge, counter, gauge, histogram};

use crate::change::Op;
use crate::memory::{Kind, Memory};
use crate::position::TopicPartition;
use crate::serve::metrics as names;
use crate::sink::lake::{CatchUp, Committed, Growth, Size};

/// Rows by op, in the order of [`OPS`].
pub type Rows = [u64; 4];
const OPS: [Op; 4] = [Op::Create, Op::Update, Op::Delete, Op::Read];

/// Counts one row.
pub fn count(rows: &mut Rows, op: Op) {
    let [create, update, delete, read] = rows;
    *match op {
        Op::Create => create,
        Op::Update => update,
        Op::Delete => delete,
        Op::Read => read,
    } += 1;
}

/// Handles of what moves all the time are looked up once a table.
pub struct Meter {
    table: String,
    topic: String,
    records: Counter,
    infinite_rows: Counter,
    rows: [Counter; 4],
    staged_bytes: Gauge,
}

impl std::fmt::Debug for Meter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Meter").field("table", &self.table).finish_non_exhaustive()
    }
}

impl Meter {
    pub fn new(table: &str, topic: &str) -> Self {
        Self {
            records: counter!(names::RECORDS_TOTAL, "topic" => topic.to_owned()),
            infinite_rows: counter!(names::INFINITE_ROWS_TOTAL, "topic" => topic.to_owned()),
            rows: OPS.map(|op| counter!(names::ROWS_TOTAL, "table" => table.to_owned(), "op" => op.letter())),
            staged_bytes: gauge!(names::STAGED_BYTES, "table" => table.to_owned()),
            table: table.to_owned(),
            topic: topic.to_owned(),
        }
    }

    /// What was read: records, and rows among them with an infinite value.
    pub fn read(&self, records: u64, infinite_rows: u64) {
        self.records.increment(records);
        self.infinite_rows.increment(infinite_rows);
    }

    pub fn skipped(&self, kind: &'static str) {
        self.skipped_many(kind, 1);
    }

    fn skipped_many(&self, kind: &'static str, records: u64) {
        counter!(names::SKIPPED_TOTAL, "topic" => self.topic.clone(), "kind" => kind).increment(records);
    }

    pub fn rejected(&self, reason: &'static str) {
        counter!(names::REJECTED_TOTAL, "topic" => self.topic.clone(), "reason" => reason).increment(1);
    }

    pub fn staged_bytes(&self, bytes: u64) {
        self.staged_bytes.set(bytes as f64);
    }

    pub fn committed(&self, done: &Committed, rows: &Rows) {
        for (counter, n) in self.rows.iter().zip(rows) {
            counter.increment(*n);
        }
        let table = || self.table.clone();
        counter!(names::COMMITS_TOTAL, "table" => table()).increment(1);
        histogram!(names::COMMIT_SECONDS, "table" => table()).record(done.took.as_secs_f64());
        histogram!(names::COMMIT_ATTEMPTS, "table" => table()).record(done.attempts as f64);
        if done.truncates > 0 {
            counter!(names::TRUNCATES_TOTAL, "table" => table()).increment(done.truncates as u64);
            counter!(names::TRUNCATED_ROWS_TOTAL, "table" => table()).increment(done.cut_rows + done.late_rows);
        } else if done.late_rows > 0 {
            self.skipped_many("before_truncate", done.late_rows);
        }
        counter!(names::FOREIGN_SNAPSHOTS_TOTAL, "table" => table()).increment(done.foreign_snapshots as u64);
        self.unavailable("restored", done.unavailable.restored_rows);
        self.unavailable("lost", done.unavailable.lost_rows);
        let behind = done.catch_up == CatchUp::Behind;
        gauge!(names::TABLE_REPLAYING, "table" => table()).set(if behind { 1.0 } else { 0.0 });
        self.sizes(&done.size, &done.growth);
        if let Some(index) = done.index {
            gauge!(names::INDEX_KEYS, "table" => table()).set(index.keys as f64);
            if let Some(took) = index.scan {
                histogram!(names::INDEX_REBUILD_SECONDS, "table" => table()).record(took.as_secs_f64());
            }
        }
    }

    /// What its metadata says of the table; what that doesn't say stays as it was.
    fn sizes(&self, size: &Size, growth: &Growth) {
        let figures = [
            (names::TABLE_ROWS, size.rows),
            (names::TABLE_DATA_FILES, size.data_files),
            (names::TABLE_DELETE_FILES, size.delete_files),
            (names::TABLE_BYTES, size.bytes),
            (names::TABLE_DELETED_ROWS, growth.deleted_rows),
            (names::TABLE_MANIFESTS, growth.manifests),
            (names::TABLE_SNAPSHOTS, Some(growth.snapshots)),
            (names::TABLE_METADATA_FILES, Some(growth.metadata_files)),
        ];
        for (name, figure) in figures {
            if let Some(figure) = figure {
                gauge!(name, "table" => self.table.clone()).set(figure as f64);
            }
        }
    }

    /// Rows with values that the source did not send.
    pub fn unavailable(&self, outcome: &'static str, rows: u64) {
        if rows > 0 {
            counter!(names::UNAVAILABLE_ROWS_TOTAL, "table" => self.table.clone(), "outcome" => outcome)
                .increment(rows);
        }
    }

    pub fn position(&self, at: &TopicPartition, next: i64) {
        gauge!(names::COMMITTED_OFFSET, "topic" => at.topic.clone(), "partition" => at.partition.to_string())
            .set(next as f64);
    }

    pub fn lag(&self, at: &TopicPartition, records: i64) {
        gauge!(names::LAG_RECORDS, "topic" => at.topic.clone(), "partition" => at.partition.to_string())
            .set(records as f64);
    }

    pub fn stale(&self) {
        counter!(names::STALE_TOTAL, "table" => self.table.clone()).increment(1);
    }

    pub fn assigned(&self, partitions: usize) {
        gauge!(names::ASSIGNED_PARTITIONS, "topic" => self.topic.clone()).set(partitions as f64);
    }

    pub fn stopped(&self) {
        gauge!(names::TABLE_STOPPED, "table" => self.table.clone()).set(1.0);
    }

    /// After [`Meter::stopped`].
    pub fn goes_on(&self) {
        gauge!(names::TABLE_STOPPED, "table" => self.table.clone()).set(0.0);
    }
}

/// A worker was given partitions.
pub fn rebalanced() {
    counter!(names::REBALANCES_TOTAL).increment(1);
}

/// What the process holds of its budget.
pub fn memory(memory: &Memory, manifest_bytes: u64) {
    let held = Kind::ALL.map(|kind| (kind.as_str(), memory.used(kind) as u64));
    for (kind, bytes) in held.into_iter().chain([("manifests", manifest_bytes)]) {
        gauge!(names::MEMORY_BYTES, "kind" => kind).set(bytes as f64);
    }
}

/// A worker read nothing for so long, since there was no memory for it.
pub fn paused(time: Duration) {
    counter!(names::MEMORY_PAUSED_MS_TOTAL).increment(time.as_millis() as u64);
}

/// A batch was committed early, since there was no memory for more.
pub fn early() {
    counter!(names::EARLY_BATCHES_TOTAL).increment(1);
}

/// The registry was asked for a schema; whether it said anything of it.
pub fn registry_asked(answered: bool) {
    counter!(names::REGISTRY_FETCHES_TOTAL).increment(1);
    if !answered {
        counter!(names::REGISTRY_FAILURES_TOTAL).increment(1);
    }
}

/// The source database was asked for a table; whether it said anything of it.
pub fn source_asked(answered: bool) {
    counter!(names::SOURCE_LOOKUPS_TOTAL).increment(1);
    if !answered {
        counter!(names::SOURCE_FAILURES_TOTAL).increment(1);
    }
}
