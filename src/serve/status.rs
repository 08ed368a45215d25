//! What the pipeline tells about itself. Written by the pipeline, read by the pages: plain data behind one short lock.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::maintain::policy::Kind;

/// The registry that the pipeline updates and the server shows.
#[derive(Debug, Default)]
pub struct Status(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    consumer: ConsumerState,
    /// What it was before it was lost.
    before_lost: ConsumerState,
    /// By topic.
    tables: BTreeMap<String, TableStatus>,
    /// By `pipeline.sink`.
    sinks: BTreeMap<String, SinkStatus>,
}

/// Where the consumer stands with its group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum ConsumerState {
    #[default]
    Connecting,
    Assigned {
        partitions: usize,
    },
    /// The broker or the group can't be reached now; firn goes on trying.
    Lost {
        error: String,
    },
}

/// One topic's table.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct TableStatus {
    pub topic: String,
    /// `namespace.table`.
    pub table: String,
    /// `append` or `upsert`.
    pub mode: String,
    pub state: TableState,
    /// Rows committed by this process.
    pub rows: u64,
    /// Records sent to the dead letters by this process.
    pub rejected: u64,
    /// Records skipped by a rule by this process.
    pub skipped: u64,
    pub last_commit: Option<LastCommit>,
    /// The last thing that went wrong, also when it was overcome.
    pub last_error: Option<LastError>,
    /// Of the partitions that this process owns.
    pub partitions: BTreeMap<i32, PartitionStatus>,
    /// What this process does to keep the table fast; empty where another one does, or none.
    #[serde(default)]
    pub maintenance: Vec<Upkeep>,
}

/// One thing that is done to a table again and again.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Upkeep {
    pub kind: Kind,
    pub state: UpkeepState,
    /// Since the epoch, as are the others.
    pub due_ms: i64,
    /// The end of the last run.
    pub last_run_ms: Option<i64>,
    /// What the last run that didn't fail came to.
    pub last_result: Option<String>,
    /// The last failure, also when later runs went well.
    pub last_error: Option<LastError>,
    /// In a row.
    pub failures: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum UpkeepState {
    Waiting,
    Running,
    /// It is due, and these are quiet hours.
    Quiet,
}

impl Upkeep {
    pub fn new(kind: Kind) -> Self {
        let state = UpkeepState::Waiting;
        Self { kind, state, due_ms: 0, last_run_ms: None, last_result: None, last_error: None, failures: 0 }
    }

    /// For people.
    pub fn word(&self) -> &'static str {
        match self.state {
            UpkeepState::Running => "running",
            UpkeepState::Quiet => "quiet hours",
            UpkeepState::Waiting if self.failures > 0 => "failing",
            UpkeepState::Waiting => "waiting",
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum TableState {
    #[default]
    Starting,
    Running,
    /// Needs a person; the other tables go on.
    Stopped {
        reason: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
pub struct LastCommit {
    pub snapshot_id: i64,
    /// Since the epoch.
    pub at_ms: i64,
    pub rows: u64,
    /// From the last staged file to the catalog's answer.
    pub seconds: f64,
    pub attempts: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct LastError {
    /// Since the epoch.
    pub at_ms: i64,
    pub message: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct PartitionStatus {
    /// The next offset to read according to the table: everything below is committed.
    pub committed: i64,
    /// The end of the log as last told by the broker.
    pub end: i64,
}

impl PartitionStatus {
    pub fn lag_records(&self) -> i64 {
        (self.end - self.committed).max(0)
    }
}

impl TableStatus {
    pub fn lag_records(&self) -> i64 {
        self.partitions.values().map(PartitionStatus::lag_records).sum()
    }
}

/// One sink of a pipeline.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct SinkStatus {
    /// `pipeline.sink`.
    pub sink: String,
    pub state: TableState,
    /// Rows delivered by this process.
    pub rows: u64,
    /// Records sent to the dead letters by this process.
    pub rejected: u64,
    /// Since the epoch.
    pub last_delivery_ms: Option<i64>,
    /// The last thing that went wrong, also when it was overcome.
    pub last_error: Option<LastError>,
    /// Of the partitions that this process owns, by `topic/partition`.
    pub partitions: BTreeMap<String, PartitionStatus>,
    /// From the record's time in Kafka until it is visible in the sink.
    pub latency: Option<Quantiles>,
    /// From the commit in the source until it is visible in the sink.
    pub source_latency: Option<Quantiles>,
    /// Rows are on their way, or wait for what they are joined with.
    #[serde(default)]
    pub is_busy: bool,
    /// `namespace.table`, where this process keeps the table fast that the sink writes.
    #[serde(default)]
    pub table: Option<String>,
    /// As of a [`TableStatus`].
    #[serde(default)]
    pub maintenance: Vec<Upkeep>,
}

/// Of the rows that were delivered last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Quantiles {
    pub p50_ms: u64,
    pub p99_ms: u64,
}

impl SinkStatus {
    pub fn lag_records(&self) -> i64 {
        self.partitions.values().map(PartitionStatus::lag_records).sum()
    }
}

/// A copy for one answer.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Snapshot {
    pub version: String,
    pub consumer: ConsumerState,
    pub tables: Vec<TableStatus>,
    pub sinks: Vec<SinkStatus>,
}

impl Snapshot {
    /// What is done to tables, with the name of each.
    pub fn upkeep(&self) -> impl Iterator<Item = (&String, &Upkeep)> {
        let of_topics = self.tables.iter().map(|t| (&t.table, &t.maintenance));
        let of_sinks = self.sinks.iter().map(|s| (s.table.as_ref().unwrap_or(&s.sink), &s.maintenance));
        of_topics.chain(of_sinks).flat_map(|(table, all)| all.iter().map(move |upkeep| (table, upkeep)))
    }

    /// Why the process is not ready, one sentence each; empty when it is. A process without partitions is ready: others of
    /// its group have them.
    pub fn not_ready(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        match &self.consumer {
            ConsumerState::Connecting => reasons.push("the consumer has no partitions assigned yet".to_owned()),
            ConsumerState::Lost { error } => reasons.push(format!("the consumer lost its group: {error}")),
            ConsumerState::Assigned { .. } => {}
        }
        let tables = self.tables.iter().map(|t| (&t.table, &t.state));
        for (name, state) in tables.chain(self.sinks.iter().map(|s| (&s.sink, &s.state))) {
            if let TableState::Stopped { reason } = state {
                reasons.push(format!("{name}: {reason}"));
            }
        }
        reasons
    }
}

impl Status {
    pub fn set_consumer(&self, state: ConsumerState) {
        self.inner().consumer = state;
    }

    /// The brokers, or some of them, can't be reached.
    pub fn lost(&self, error: String) {
        let mut inner = self.inner();
        let former = std::mem::replace(&mut inner.consumer, ConsumerState::Lost { error });
        if !matches!(former, ConsumerState::Lost { .. }) {
            inner.before_lost = former;
        }
    }

    /// The brokers answer: the consumer is what it was before it was lost.
    pub fn found(&self) {
        let mut inner = self.inner();
        if matches!(inner.consumer, ConsumerState::Lost { .. }) {
            inner.consumer = inner.before_lost.clone();
        }
    }

    /// Changes what is known of `topic`'s table, which is added when new.
    pub fn update(&self, topic: &str, change: impl FnOnce(&mut TableStatus)) {
        let mut inner = self.inner();
        let new = || TableStatus { topic: topic.to_owned(), ..TableStatus::default() };
        change(inner.tables.entry(topic.to_owned()).or_insert_with(new));
    }

    /// Changes what is known of a sink, which is added when new.
    pub fn update_sink(&self, sink: &str, change: impl FnOnce(&mut SinkStatus)) {
        let mut inner = self.inner();
        let new = || SinkStatus { sink: sink.to_owned(), ..SinkStatus::default() };
        change(inner.sinks.entry(sink.to_owned()).or_insert_with(new));
    }

    /// Whether this process reads a partition, `topic/partition`, for a sink that is not stopped.
    pub fn reads(&self, sink: &str, partition: &str) -> bool {
        let inner = self.inner();
        let found = inner.sinks.get(sink).filter(|s| !matches!(s.state, TableState::Stopped { .. }));
        found.is_some_and(|s| s.partitions.contains_key(partition))
    }

    /// Forgets partitions that this process does not own any more; `owned` says which stay.
    pub fn retain_partitions(&self, owned: impl Fn(&str, i32) -> bool) {
        for (topic, table) in &mut self.inner().tables {
            table.partitions.retain(|partition, _| owned(topic, *partition));
        }
    }

    pub fn not_ready(&self) -> Vec<String> {
        self.snapshot().not_ready()
    }

    pub fn snapshot(&self) -> Snapshot {
        let inner = self.inner();
        Snapshot {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            consumer: inner.consumer.clone(),
            tables: inner.tables.values().cloned().collect(),
            sinks: inner.sinks.values().cloned().collect(),
        }
    }

    /// A panic while holding the lock leaves plain data behind, at worst half an update.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_is_what_the_log_has_beyond_the_table_and_never_negative() {
        let status = Status::default();
        status.update("t", |t| {
            t.partitions.insert(0, PartitionStatus { committed: 5, end: 9 });
            t.partitions.insert(1, PartitionStatus { committed: 5, end: 3 });
        });
        assert_eq!(status.snapshot().tables[0].lag_records(), 4);
        status.retain_partitions(|_, p| p == 1);
        assert_eq!(status.snapshot().tables[0].lag_records(), 0);
    }
}
