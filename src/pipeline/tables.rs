//! The tables of this process: opened when a topic is first assigned, shared by the workers.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use futures::StreamExt;
use tokio::runtime::Handle;
use tokio::sync::{OnceCell, Semaphore};

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
use crate::memory::Memory;
use crate::position::{Checkpoint, TopicPartition};
use crate::serve::{ConsumerState, Status, TableState};
use crate::sink::lake::{LakeTable, Shared};
use crate::source::kafka::{ClientSettings, Positions, Start, has_record, watermarks};

mod handle;

pub use handle::TableHandle;

/// How long an assignment waits for commits that this process still has under way for the same table: reading the position
/// before them would only make work that is then refused.
const OWN_COMMITS: Duration = Duration::from_secs(10);

/// Tables that are opened at one time: more would be another thousand calls at a catalog that a thousand tables are in.
const TABLES_AT_ONCE: usize = 16;

/// Commits of all tables under way at one time; the others wait for their turn. A metastore answers some dozen clients well, and a
/// thousand with dropped connections; where a commit takes half a second these are 64 a second.
const COMMITS_AT_ONCE: usize = 32;

/// A table, once it was opened; `None` where the topic feeds none.
type Slot = Arc<OnceCell<Option<Arc<TableHandle>>>>;

pub(super) fn epoch_ms() -> i64 {
    chrono::Utc::now().timestamp_millis()
}

/// What the tables reach outside of the process.
pub struct Servers {
    pub shared: Shared,
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
    /// By topic.
    slots: Mutex<HashMap<String, Slot>>,
    /// The topic of each table.
    owners: Mutex<HashMap<String, String>>,
    /// Tables opened so far.
    number: AtomicU32,
    commits: Arc<Semaphore>,
    growth: Mutex<Growth>,
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
            config,
            servers,
            runtime,
            started: Instant::now(),
            acks,
            status,
            slots: Mutex::default(),
            owners: Mutex::default(),
            number: AtomicU32::new(0),
            commits: Arc::new(Semaphore::new(COMMITS_AT_ONCE)),
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

    /// What the process holds of its budget.
    pub fn memory(&self) -> &Memory {
        &self.servers.shared.memory
    }

    /// What the open parts of one worker may hold.
    pub fn worker_bytes(&self) -> usize {
        self.memory().open_bytes() / self.acks.len().max(1)
    }

    /// Tells what is held now.
    pub fn tell_memory(&self) {
        meter::memory(self.memory(), self.servers.shared.manifests.bytes());
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
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let open = slots.values().filter_map(|slot| slot.get()?.as_ref());
        open.max_by_key(|handle| handle.heard.quiet_ms(self.now_ms())).map(Arc::clone)
    }

    /// All that are open.
    pub fn open_tables(&self) -> Vec<Arc<TableHandle>> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.values().filter_map(|slot| slot.get()?.as_ref()).map(Arc::clone).collect()
    }

    /// The table that a topic feeds; `None` where the configuration names none. Opened on first use.
    ///
    /// # Errors
    /// When the table can't be opened now; to be asked again.
    pub fn handle(&self, topic: &str) -> Result<Option<Arc<TableHandle>>, String> {
        self.runtime.block_on(self.opened(topic))
    }

    async fn opened(&self, topic: &str) -> Result<Option<Arc<TableHandle>>, String> {
        let slot = {
            let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(slots.entry(topic.to_owned()).or_default())
        };
        slot.get_or_try_init(|| self.open(topic)).await.cloned()
    }

    /// The topic that has the table, which is the first that asks.
    fn owner(&self, table: &str, topic: &str) -> String {
        let mut owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        owners.entry(table.to_owned()).or_insert_with(|| topic.to_owned()).clone()
    }

    async fn open(&self, topic: &str) -> Result<Option<Arc<TableHandle>>, String> {
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
        let owner = self.owner(&name, topic);
        if owner != topic {
            stopped(format!(
                "topics {owner} and {topic} both map to table {name}: give one of them its own name in [[lake.tables]]"
            ));
            return Ok(None);
        }
        // A topic that a pattern found: the configuration could not tell.
        if let Err(e) = self.config.check_collisions([topic]) {
            stopped(e.to_string());
            return Ok(None);
        }
        let opened = LakeTable::open(Arc::clone(&self.servers.catalog), table_spec(&config), self.runtime.clone());
        let lake = match opened.await {
            Ok(lake) => lake.sharing(self.servers.shared.clone()),
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
            epochs: Epochs::new(
                Triggers {
                    interval_ms: config.commit_interval_ms,
                    rows: config.commit_rows,
                    bytes: config.commit_bytes,
                },
                self.number.fetch_add(1, Ordering::Relaxed),
            ),
            meter: Meter::new(&name, topic),
            limits: Limits {
                max_share: self.config.dead_letters.max_share,
                min_rows: self.config.dead_letters.min_rows,
            },
            dead_letters: Arc::clone(&self.servers.dead_letters),
            commits: Arc::clone(&self.commits),
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
    async fn checkpoint(&self, handle: &TableHandle) -> Result<Option<Checkpoint>, String> {
        let deadline = Instant::now() + OWN_COMMITS;
        while handle.in_flight.load(Ordering::Acquire) > 0 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let checkpoint = handle.lake.checkpoint().await.map_err(|e| {
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
            let kafka = &self.servers.kafka;
            let ends = |partitions: &[TopicPartition]| {
                let logs = watermarks(kafka, partitions).map_err(|e| e.to_string())?;
                Ok(logs.into_iter().map(|(at, _, high)| (at, high)).collect())
            };
            let has_record = |at: &TopicPartition, from, to| has_record(kafka, at, from, to).map_err(|e| e.to_string());
            let mut growth = self.growth.lock().unwrap_or_else(PoisonError::into_inner);
            return match growth.may_read(at, known, checkpoint, ends, has_record) {
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

    /// The topic's table and its checkpoint; `None` where they can't be had now.
    async fn standing(&self, topic: &str) -> Option<(Arc<TableHandle>, Option<Checkpoint>)> {
        let handle = self.opened(topic).await.unwrap_or_else(|e| {
            tracing::warn!(topic, "its table can't be opened, waiting: {e}");
            None
        })?;
        match self.checkpoint(&handle).await {
            Ok(checkpoint) => Some((handle, checkpoint)),
            Err(e) => {
                tracing::warn!(table = %handle.name, "its position can't be read, waiting: {e}");
                handle.trouble(e);
                None
            }
        }
    }
}

impl Positions for Tables {
    fn starts(&self, assigned: &[TopicPartition]) -> Vec<Start> {
        let topics: BTreeSet<&str> = assigned.iter().map(|at| at.topic.as_str()).collect();
        let standing = futures::stream::iter(topics)
            .map(|topic| async move { (topic, self.standing(topic).await) })
            .buffered(TABLES_AT_ONCE);
        let standing: HashMap<_, _> = self.runtime.block_on(standing.collect());
        let start = |at: &TopicPartition| match standing.get(at.topic.as_str()) {
            Some(Some((handle, checkpoint))) => {
                handle.lake.reads_from([at.clone()], checkpoint.as_ref());
                self.start(handle, checkpoint.as_ref(), at)
            }
            Some(None) | None => Start::Hold,
        };
        assigned.iter().map(start).collect()
    }
}
