//! One table as the workers and its committer see it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Instant;

use tokio::sync::Semaphore;
use tokio::sync::mpsc::UnboundedSender;

use super::epoch_ms;
use crate::config::TableConfig;
use crate::debezium::DecodeOptions;
use crate::lineage::TypeChange;
use crate::pipeline::committer::{Ack, Part, positions};
use crate::pipeline::epoch::Epochs;
use crate::pipeline::growth::PartitionCount;
use crate::pipeline::letters::DeadLetters;
use crate::pipeline::lookout::Heard;
use crate::pipeline::meter::{Meter, Rows};
use crate::pipeline::share::Limits;
use crate::pipeline::source_tables::SourceTables;
use crate::pipeline::wiring::decode_options;
use crate::pipeline::writer_schemas::WriterSchemas;
use crate::position::{TopicPartition, TopicPosition};
use crate::serve::{LastCommit, LastError, Status, TableState};
use crate::sink::lake::{CatchUp, Committed, LakeTable};

/// One table as the workers and its committer see it.
#[derive(Debug)]
pub struct TableHandle {
    pub topic: String,
    /// `namespace.table`.
    pub name: String,
    pub lake: LakeTable,
    pub epochs: Epochs,
    pub meter: Meter,
    pub limits: Limits,
    pub heard: Heard,
    pub dead_letters: Arc<DeadLetters>,
    /// Commits of the process that may be under way.
    pub commits: Arc<Semaphore>,
    pub writer_schemas: Arc<WriterSchemas>,
    pub partition_count: PartitionCount,
    pub source_tables: Arc<SourceTables>,
    /// Parts handed over and not settled, and their files' bytes.
    pub(super) in_flight: AtomicUsize,
    pub(super) staged_bytes: AtomicU64,
    pub(super) config: TableConfig,
    pub(super) owned: Mutex<BTreeSet<TopicPartition>>,
    /// What the table's checkpoint said of the topic when it was last read: topic id, partition count.
    pub(super) standing: Mutex<Option<TopicPosition>>,
    pub(super) started: Instant,
    pub(super) incarnations: Vec<AtomicU64>,
    pub(super) acks: Vec<mpsc::Sender<Ack>>,
    pub(super) parts: UnboundedSender<Part>,
    pub(super) status: Arc<Status>,
    /// Set once the table can't go on without a person: every worker lets go of it.
    pub(super) stopped: AtomicBool,
    /// Whether it was said that the source database does not know the table.
    pub(super) told_no_source: AtomicBool,
}

impl TableHandle {
    pub fn decode_options(&self) -> DecodeOptions {
        decode_options(&self.config, self.source_tables.before())
    }

    /// Marks positions of a topic that had no rows up to there, read as it is read now.
    pub fn passed_mark(&self) -> String {
        format!("firn: no rows, format {:?}", self.config.format)
    }

    pub fn type_change(&self) -> TypeChange {
        self.config.on_type_change
    }

    pub fn own(&self, at: &TopicPartition) {
        self.change_owned(|owned| owned.insert(at.clone()));
    }

    pub fn disown(&self, at: &TopicPartition) {
        self.change_owned(|owned| owned.remove(at));
    }

    fn change_owned(&self, change: impl FnOnce(&mut BTreeSet<TopicPartition>) -> bool) {
        let mut owned = self.owned.lock().unwrap_or_else(PoisonError::into_inner);
        if change(&mut owned) {
            self.lake.own(owned.iter().cloned());
            self.meter.assigned(owned.len());
        }
        self.status.update(&self.topic, |t| {
            t.partitions.retain(|p, _| owned.contains(&TopicPartition::new(&self.topic, *p)));
        });
    }

    /// What the table's checkpoint said of the topic when it was last read.
    pub fn standing(&self) -> Option<TopicPosition> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn config(&self) -> &TableConfig {
        &self.config
    }

    pub fn status(&self) -> &Status {
        &self.status
    }

    /// Whether this process is the one of its group that keeps the table fast: whoever has the topic's first partition.
    pub fn keeps(&self) -> bool {
        let first = TopicPartition::new(&self.topic, 0);
        !self.is_stopped() && self.owned.lock().unwrap_or_else(PoisonError::into_inner).contains(&first)
    }

    /// ms since the process began.
    pub fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    pub fn submit(&self, part: Part) {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
        let bytes = part.staged.file_bytes();
        self.meter.staged_bytes(self.staged_bytes.fetch_add(bytes, Ordering::AcqRel) + bytes);
        // The committer ends only after all senders are gone.
        let _ = self.parts.send(part);
    }

    /// That many parts with files of that many bytes are committed, or given up.
    pub fn settled(&self, parts: usize, bytes: u64) {
        self.in_flight.fetch_sub(parts, Ordering::AcqRel);
        self.meter.staged_bytes(self.staged_bytes.fetch_sub(bytes, Ordering::AcqRel).saturating_sub(bytes));
    }

    /// Which incarnation of a worker's feed is current.
    pub fn incarnation(&self, worker: usize) -> u64 {
        self.incarnations.get(worker).map_or(0, |i| i.load(Ordering::Acquire))
    }

    pub fn set_incarnation(&self, worker: usize, incarnation: u64) {
        if let Some(i) = self.incarnations.get(worker) {
            i.store(incarnation, Ordering::Release);
        }
    }

    pub fn tell(&self, worker: usize, ack: Ack) {
        if let Some(acks) = self.acks.get(worker) {
            // A worker that is gone needs no answer.
            let _ = acks.send(ack);
        }
    }

    pub fn committed(&self, done: &Committed, rows: &Rows) {
        self.meter.committed(done, rows);
        for (topic, partition, next) in positions(&done.checkpoint) {
            self.meter.position(&TopicPartition::new(topic, partition), next);
        }
        tracing::info!(
            table = %self.name,
            snapshot = done.snapshot_id,
            changes = done.rows,
            files = done.data_files,
            bytes = done.file_bytes,
            attempts = done.attempts,
            ms = done.took.as_millis() as u64,
            "committed"
        );
        self.heard.something(self.now_ms());
        if done.catch_up == CatchUp::Reached {
            tracing::info!(table = %self.name, "caught up: the table is where it stood before its rewind");
        }
        for (topic, snapshot) in &done.resnapshots {
            tracing::warn!(
                table = %self.name,
                topic,
                lsn = snapshot.lsn,
                "the source is read anew, over rows that the table has: rows deleted at the source while the connector was away are not \
                 in the snapshot and stay here. Once it is over, `firn table sweep {}` finds and removes them",
                self.name
            );
        }
        self.status.update(&self.topic, |t| {
            t.state = TableState::Running;
            t.rows += done.rows;
            t.last_commit = Some(LastCommit {
                snapshot_id: done.snapshot_id,
                at_ms: epoch_ms(),
                rows: done.rows,
                seconds: done.took.as_secs_f64(),
                attempts: done.attempts,
            });
            for (topic, partition, next) in positions(&done.checkpoint) {
                if topic == self.topic
                    && let Some(p) = t.partitions.get_mut(&partition)
                {
                    p.committed = next;
                }
            }
        });
    }

    /// Where a partition stands against the end of its log; `next` is what this worker saw committed, or where it began.
    pub fn lag(&self, at: &TopicPartition, next: i64, end: i64) {
        self.meter.lag(at, (end - next).max(0));
        self.status.update(&self.topic, |t| {
            let p = t.partitions.entry(at.partition).or_default();
            p.end = end;
            if p.committed == 0 {
                // Nothing committed by this process yet: it began where the table stood.
                p.committed = next;
            }
        });
    }

    /// Counts what was rejected or skipped, for the status page.
    pub fn counted(&self, rejected: u64, skipped: u64) {
        self.status.update(&self.topic, |t| {
            t.rejected += rejected;
            t.skipped += skipped;
        });
    }

    /// Something that firn goes on trying to mend.
    pub fn trouble(&self, reason: String) {
        self.status.update(&self.topic, |t| t.last_error = Some(LastError { at_ms: epoch_ms(), message: reason }));
    }

    /// The source database does not know the table that the topic is named after. Said once.
    pub fn has_no_source(&self, reason: &str) {
        if !self.told_no_source.swap(true, Ordering::AcqRel) {
            tracing::warn!(table = %self.name, topic = %self.topic, "no types from the source database: {reason}");
        }
    }

    /// The batch was dropped because the table stands elsewhere.
    pub fn stale(&self, reason: String) {
        self.meter.stale();
        self.trouble(reason);
    }

    /// A person set the table back: all workers go on from where it stands now, also if it was stopped.
    pub fn go_on(&self, reason: &str) {
        if self.stopped.swap(false, Ordering::AcqRel) {
            self.meter.goes_on();
            self.status.update(&self.topic, |t| t.state = TableState::Starting);
        }
        for worker in 0..self.acks.len() {
            let (topic, incarnation) = (self.topic.clone(), self.incarnation(worker));
            self.tell(worker, Ack::Reset { topic, incarnation, reason: reason.to_owned() });
        }
    }

    /// Stops the table for all workers: its position stays where the last commit put it. The first reason is told.
    pub fn stop(&self, reason: String) {
        if self.stopped.swap(true, Ordering::AcqRel) {
            return;
        }
        tracing::error!(table = %self.name, topic = %self.topic, "stopped: {reason}");
        self.meter.stopped();
        self.status.update(&self.topic, |t| {
            t.last_error = Some(LastError { at_ms: epoch_ms(), message: reason.clone() });
            t.state = TableState::Stopped { reason };
        });
    }
}
