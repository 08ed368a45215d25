//! The tables of this process: opened when a topic is first assigned, shared by the workers.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::committer::{self, Ack};
use super::epoch::{Epochs, Triggers};
use super::growth::{Growth, PartitionCount};
use super::letters::DeadLetters;
use super::lookout::Heard;
use super::meter::{self, Meter};
use super::share::Limits;
use super::source_tables::SourceTables;
use super::wiring::table_spec;
use super::writer_schemas::WriterSchemas;
use crate::config::{Config, Start as StartAt};
use crate::position::{Checkpoint, TopicPartition};
use crate::serve::{ConsumerState, Status, TableState};
use crate::sink::lake::LakeTable;
use crate::sink::lake::index::IndexHome;
use crate::source::kafka::{ClientSettings, Positions, Start, watermarks};

mod handle;

pub use handle::TableHandle;

/// How long an assignment waits for commits that this process still has under way for the same table: reading the position
/// before them would only make work that is then refused.
const OWN_COMMITS: Duration = Duration::from_secs(10);

/// Share of the memory budget that the workers' open parts may hold; the rest is for what is fetched ahead, uploads and the index.
const OPEN_PARTS_SHARE: usize = 2;

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
        // A thread of the runtime must not wait for this lock: who holds it may wait for the runtime, while a table is opened.
        let Ok(handles) = self.handles.try_lock() else { return None };
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
