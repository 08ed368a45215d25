//! The tables of this process: opened when a topic is first assigned, shared by the workers.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::mpsc::UnboundedSender;

use super::committer::{self, Ack, Part, positions};
use super::epoch::{Epochs, Triggers};
use super::growth::{Growth, PartitionCount};
use super::letters::DeadLetters;
use super::lookout::Heard;
use super::meter::{self, Meter, Rows};
use super::share::Limits;
use super::source_tables::SourceTables;
use super::wiring::{decode_options, table_spec};
use super::writer_schemas::WriterSchemas;
use crate::config::{Config, Start as StartAt, TableConfig};
use crate::debezium::DecodeOptions;
use crate::lineage::TypeChange;
use crate::position::{Checkpoint, TopicPartition, TopicPosition};
use crate::serve::{ConsumerState, LastCommit, LastError, Status, TableState};
use crate::sink::lake::index::IndexHome;
use crate::sink::lake::{CatchUp, Committed, LakeTable};
use crate::source::kafka::{ClientSettings, Positions, Start, watermarks};

/// How long an assignment waits for commits that this process still has under way for the same table: reading the position
/// before them would only make work that is then refused.
const OWN_COMMITS: Duration = Duration::from_secs(10);

/// Share of the memory budget that the workers' open parts may hold; the rest is for what is fetched ahead, uploads and the index.
const OPEN_PARTS_SHARE: usize = 2;

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
    pub writer_schemas: Arc<WriterSchemas>,
    pub partition_count: PartitionCount,
    pub source_tables: Arc<SourceTables>,
    /// Parts handed over and not settled, and their files' bytes.
    in_flight: AtomicUsize,
    staged_bytes: AtomicU64,
    config: TableConfig,
    owned: Mutex<BTreeSet<TopicPartition>>,
    /// What the table's checkpoint said of the topic when it was last read: topic id, partition count.
    standing: Mutex<Option<TopicPosition>>,
    started: Instant,
    incarnations: Vec<AtomicU64>,
    acks: Vec<mpsc::Sender<Ack>>,
    parts: UnboundedSender<Part>,
    status: Arc<Status>,
    /// Set once the table can't go on without a person: every worker lets go of it.
    stopped: AtomicBool,
    /// Whether it was said that the source database does not know the table.
    told_no_source: AtomicBool,
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

pub(super) fn epoch_ms() -> i64 {
    chrono::Utc::now().timestamp_millis()
}

/// What the tables reach outside of the process.
pub struct Servers {
    pub index: IndexHome,
    pub kafka: ClientSettings,
    pub catalog: Arc<dyn firn_catalog::Catalog>,
    pub dead_letters: Arc<DeadLetters>,
    pub writer_schemas: Arc<WriterSchemas>,
    pub partition_count: PartitionCount,
    pub source_tables: Arc<SourceTables>,
}

/// All tables of the process.
pub struct Tables {
    config: Config,
    servers: Servers,
    runtime: Handle,
    started: Instant,
    acks: Vec<mpsc::Sender<Ack>>,
    status: Arc<Status>,
    handles: Mutex<HashMap<String, Option<Arc<TableHandle>>>>,
    growth: Mutex<Growth>,
    /// What the open parts of each worker hold.
    memory_bytes: Vec<AtomicUsize>,
    kafka_lost: AtomicBool,
}

impl Tables {
    pub fn new(
        config: Config,
        servers: Servers,
        runtime: Handle,
        acks: Vec<mpsc::Sender<Ack>>,
        status: Arc<Status>,
    ) -> Self {
        Self {
            memory_bytes: acks.iter().map(|_| AtomicUsize::new(0)).collect(),
            config,
            servers,
            runtime,
            started: Instant::now(),
            acks,
            status,
            handles: Mutex::default(),
            growth: Mutex::default(),
            kafka_lost: AtomicBool::new(false),
        }
    }

    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }

    pub fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// Notes what a worker's open parts hold, and answers by how much that is over its share of the budget.
    pub fn over_budget(&self, worker: usize, bytes: usize) -> usize {
        if let Some(held) = self.memory_bytes.get(worker) {
            held.store(bytes, Ordering::Relaxed);
        }
        meter::memory(self.memory_bytes.iter().map(|held| held.load(Ordering::Relaxed) as u64).sum());
        let share = self.config.memory.budget_bytes as usize / OPEN_PARTS_SHARE / self.memory_bytes.len().max(1);
        bytes.saturating_sub(share)
    }

    pub fn kafka_trouble(&self, detail: &str) {
        self.status.lost(detail.to_owned());
        self.kafka_lost.store(true, Ordering::Relaxed);
    }

    /// Whether the last that was heard of Kafka is trouble.
    pub fn is_kafka_lost(&self) -> bool {
        self.kafka_lost.load(Ordering::Relaxed)
    }

    /// A record came, or an answer.
    pub fn kafka_answered(&self) {
        self.kafka_lost.store(false, Ordering::Relaxed);
        self.status.found();
    }

    /// The group answered a worker.
    pub fn assigned(&self, partitions: usize) {
        self.kafka_lost.store(false, Ordering::Relaxed);
        self.status.set_consumer(ConsumerState::Assigned { partitions });
    }

    /// The open table that has been quiet longest.
    pub fn quietest(&self) -> Option<Arc<TableHandle>> {
        let handles = self.handles.lock().unwrap_or_else(PoisonError::into_inner);
        handles.values().flatten().max_by_key(|handle| handle.heard.quiet_ms(self.now_ms())).map(Arc::clone)
    }

    /// The table that a topic feeds; `None` where the configuration names none. Opened on first use.
    ///
    /// # Errors
    /// When the table can't be opened now; to be asked again.
    pub fn handle(&self, topic: &str) -> Result<Option<Arc<TableHandle>>, String> {
        let mut handles = self.handles.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(handle) = handles.get(topic) {
            return Ok(handle.clone());
        }
        let handle = self.open(topic, &handles)?;
        handles.insert(topic.to_owned(), handle.clone());
        Ok(handle)
    }

    fn open(
        &self,
        topic: &str,
        others: &HashMap<String, Option<Arc<TableHandle>>>,
    ) -> Result<Option<Arc<TableHandle>>, String> {
        let Some(config) = self.config.table_for(topic) else { return Ok(None) };
        let name = config.ident().to_string();
        self.status.update(topic, |t| {
            t.table.clone_from(&name);
            t.mode = config.mode.as_str().to_owned();
        });
        let stopped = |reason: String| {
            tracing::error!(table = %name, topic, "stopped: {reason}");
            Meter::new(&name, topic).stopped();
            self.status.update(topic, |t| t.state = TableState::Stopped { reason });
        };
        if let Some(other) = others.values().flatten().find(|h| h.name == name) {
            stopped(format!(
                "topics {} and {topic} both map to table {name}: give one of them its own name in [[lake.tables]]",
                other.topic
            ));
            return Ok(None);
        }
        let opened = LakeTable::open(Arc::clone(&self.servers.catalog), table_spec(&config), self.runtime.clone());
        let lake = match self.runtime.block_on(opened) {
            Ok(lake) => lake.with_index_in(self.servers.index.clone()),
            Err(e) if e.is_transient() => return Err(e.to_string()),
            Err(e) => {
                stopped(e.to_string());
                return Ok(None);
            }
        };
        let (parts, receiver) = tokio::sync::mpsc::unbounded_channel();
        let handle = Arc::new(TableHandle {
            topic: topic.to_owned(),
            name: name.clone(),
            heard: Heard::new(lake.seen_generation(), self.now_ms()),
            lake,
            epochs: Epochs::new(Triggers {
                interval_ms: config.commit_interval_ms,
                rows: config.commit_rows,
                bytes: config.commit_bytes,
            }),
            meter: Meter::new(&name, topic),
            limits: Limits {
                max_share: self.config.dead_letters.max_share,
                min_rows: self.config.dead_letters.min_rows,
            },
            dead_letters: Arc::clone(&self.servers.dead_letters),
            writer_schemas: Arc::clone(&self.servers.writer_schemas),
            partition_count: self.servers.partition_count.clone(),
            source_tables: Arc::clone(&self.servers.source_tables),
            told_no_source: AtomicBool::new(false),
            in_flight: AtomicUsize::new(0),
            staged_bytes: AtomicU64::new(0),
            config,
            owned: Mutex::default(),
            standing: Mutex::default(),
            started: self.started,
            incarnations: self.acks.iter().map(|_| AtomicU64::new(0)).collect(),
            acks: self.acks.clone(),
            parts,
            status: Arc::clone(&self.status),
            stopped: AtomicBool::new(false),
        });
        self.runtime.spawn(committer::run(Arc::downgrade(&handle), receiver));
        Ok(Some(handle))
    }

    /// Where one table stands, once this process's own commits are through.
    fn checkpoint(&self, handle: &TableHandle) -> Result<Option<Checkpoint>, String> {
        let deadline = Instant::now() + OWN_COMMITS;
        while handle.in_flight.load(Ordering::Acquire) > 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        let checkpoint = self.runtime.block_on(handle.lake.checkpoint()).map_err(|e| {
            if !e.is_transient() {
                handle.stop(e.to_string());
            }
            e.to_string()
        })?;
        *handle.standing.lock().unwrap_or_else(PoisonError::into_inner) =
            checkpoint.as_ref().and_then(|c| c.topics.get(&handle.topic)).cloned();
        Ok(checkpoint)
    }

    fn start(&self, handle: &TableHandle, checkpoint: Option<&Checkpoint>, at: &TopicPartition) -> Start {
        if let Some(next) = checkpoint.and_then(|c| c.next(at)) {
            return Start::At(next);
        }
        let known = checkpoint.and_then(|c| c.topics.get(&at.topic)).map_or(0, |t| t.partition_count);
        if known > 0 && at.partition >= known {
            // A key may have moved here from an older partition: its older changes come first.
            let ends = |partitions: &[TopicPartition]| {
                watermarks(&self.servers.kafka, partitions)
                    .map(|w| w.into_iter().map(|(at, _, high)| (at, high)).collect())
            };
            let mut growth = self.growth.lock().unwrap_or_else(PoisonError::into_inner);
            return match growth.may_read(at, known, checkpoint, ends) {
                Ok(true) => Start::Earliest,
                Ok(false) => {
                    tracing::info!(partition = %at, "new partition waits until the older ones have passed their present end");
                    Start::Hold
                }
                Err(e) => {
                    tracing::warn!(partition = %at, table = %handle.name, "held: {e}");
                    Start::Hold
                }
            };
        }
        if known > 0 {
            // The table knew this partition existed, empty or unread, when it first committed: nothing of it may be skipped.
            return Start::Earliest;
        }
        let otherwise = Box::new(match self.config.kafka.start {
            StartAt::Earliest => Start::Earliest,
            StartAt::Latest => Start::Latest,
        });
        Start::Passed { mark: handle.passed_mark(), otherwise }
    }
}

impl Positions for Tables {
    fn starts(&self, assigned: &[TopicPartition]) -> Vec<Start> {
        let mut checkpoints: HashMap<&str, Result<Option<Checkpoint>, String>> = HashMap::new();
        assigned
            .iter()
            .map(|at| {
                let handle = match self.handle(&at.topic) {
                    Ok(Some(handle)) => handle,
                    Ok(None) => return Start::Hold,
                    Err(e) => {
                        tracing::warn!(topic = %at.topic, "its table can't be opened, waiting: {e}");
                        return Start::Hold;
                    }
                };
                let checkpoint = checkpoints.entry(at.topic.as_str()).or_insert_with(|| self.checkpoint(&handle));
                match checkpoint {
                    Ok(checkpoint) => self.start(&handle, checkpoint.as_ref(), at),
                    Err(e) => {
                        tracing::warn!(table = %handle.name, "its position can't be read, waiting: {e}");
                        handle.trouble(e.clone());
                        Start::Hold
                    }
                }
            })
            .collect()
    }
}
