//! One view: a thread that reads its topic whole and keeps the current rows, shared by all sinks of the process.
//!
//! Topics are not ordered against each other. Who joins asks where the view's topic ends, and waits until the view is there.

mod history;
mod keep;
mod rows;
mod table;

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::intake::{Intake, Taken, options};
use crate::change::Mode;
use crate::config::PipelineTopic;
use crate::memory::{Counted, Kind, Memory};
use crate::pipeline::source_tables::SourceTables;
use crate::pipeline::told::Told;
use crate::pipeline::writer_schemas::WriterSchemas;
use crate::position::TopicPartition;
use crate::source::kafka::{ClientSettings, Read, SourceError, TopicReader, has_record};
use table::ViewTable;

const POLL: Duration = Duration::from_millis(20);
/// How often new partitions are looked for.
const LOOK: Duration = Duration::from_secs(10);
/// Wait before a broker or registry that does not answer is asked again.
const AGAIN: Duration = Duration::from_secs(1);
/// How long a partition stands still before its log is asked whether there is more.
const STANDS_STILL: Duration = Duration::from_millis(150);
/// Rows after which they are applied, whether more wait or not.
const APPLIED_ROWS: usize = 20_000;

/// Who tells what records do not say, for threads.
#[derive(Clone, Debug)]
pub(super) struct Tellers {
    pub schemas: Arc<WriterSchemas>,
    pub sources: Arc<SourceTables>,
}

impl Tellers {
    pub(super) fn told(&self) -> Told<'_> {
        Told { schemas: &self.schemas, sources: &self.sources }
    }
}

/// The current rows of one topic.
#[derive(Debug)]
pub(super) struct View {
    /// The table's name in the SQL.
    pub name: String,
    topic: String,
    settings: PipelineTopic,
    state: Mutex<State>,
    moved: Condvar,
}

#[derive(Debug, Default)]
struct State {
    rows: Option<ViewTable>,
    /// Counts changes of rows and columns.
    version: u64,
    next: BTreeMap<i32, i64>,
    /// Whether it has been where its topic ended once.
    loaded: bool,
    /// Where the topic was when it was asked for last, by whoever waits, too.
    ends: BTreeMap<i32, i64>,
    ended: bool,
    counted: Option<Counted>,
}

/// What a view holds at one moment.
pub(super) struct Shown {
    pub version: u64,
    pub columns: SchemaRef,
    pub rows: Vec<RecordBatch>,
}

impl View {
    /// Begins to read.
    ///
    /// # Errors
    /// When the topic's settings contradict each other, the client's properties are refused, or the system refuses a thread.
    pub(super) fn start(
        topic: &PipelineTopic,
        kafka: &ClientSettings,
        tellers: &Tellers,
        memory: &Arc<Memory>,
        runtime: &Handle,
        stop: watch::Receiver<bool>,
    ) -> Result<Arc<Self>, String> {
        let mut intake = Intake::new(options(topic, Mode::Upsert, tellers.told()))?;
        let reader = TopicReader::new(kafka, &topic.topic).map_err(|e| e.to_string())?;
        let view = Arc::new(Self {
            name: topic.table_name(),
            topic: topic.topic.clone(),
            settings: topic.clone(),
            state: Mutex::new(State { counted: Some(memory.count(Kind::Views)), ..State::default() }),
            moved: Condvar::new(),
        });
        view.show(&mut intake)?;
        let (shared, tellers, runtime, kafka) = (Arc::clone(&view), tellers.clone(), runtime.clone(), kafka.clone());
        let run = move || {
            // What a record does not say is asked for on the runtime.
            let _runtime = runtime.enter();
            if let Err(e) = shared.run(&kafka, reader, intake, &tellers, &stop) {
                tracing::error!(
                    view = shared.name,
                    topic = shared.topic,
                    "the view is not kept up to date any more: {e}"
                );
            }
            shared.state().ended = true;
            shared.moved.notify_all();
        };
        let thread = std::thread::Builder::new().name(format!("firn-view-{}", view.name));
        thread.spawn(run).map_err(|e| format!("a thread can't be started: {e}"))?;
        Ok(view)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(
        &self,
        kafka: &ClientSettings,
        mut reader: TopicReader,
        mut intake: Intake,
        tellers: &Tellers,
        stop: &watch::Receiver<bool>,
    ) -> Result<(), SourceError> {
        let mut next_look = Instant::now();
        let mut gaps = Gaps { next_look, stood: BTreeMap::new() };
        let mut rejected = 0u64;
        while !*stop.borrow() {
            if Instant::now() >= next_look {
                match reader.look() {
                    // A topic that is not there yet may come at any moment.
                    Ok(()) => next_look = Instant::now() + if reader.next().is_empty() { AGAIN } else { LOOK },
                    Err(e) => {
                        tracing::warn!(view = self.name, "the topic's partitions can't be told, trying again: {e}");
                        next_look = Instant::now() + AGAIN;
                    }
                }
                if let Ok(ends) = reader.ends() {
                    self.expect(&ends);
                }
            }
            let idle = match reader.poll(POLL)? {
                Read::Record(polled) => {
                    let record = polled.record();
                    loop {
                        match intake.push(&record, tellers.told()) {
                            Ok(Taken::Full) => self.apply(&mut intake),
                            Ok(Taken::Rejected { reason, detail }) => {
                                rejected += 1;
                                if rejected == 1 {
                                    tracing::warn!(view = self.name, record = %record.origin(), reason, "not in the view: {detail}");
                                }
                                break;
                            }
                            Ok(Taken::Row | Taken::Skipped(_)) => break,
                            Err(why) => {
                                tracing::warn!(view = self.name, record = %record.origin(), "waiting: {why}");
                                std::thread::sleep(AGAIN);
                                if *stop.borrow() {
                                    return Ok(());
                                }
                            }
                        }
                    }
                    false
                }
                Read::Idle => true,
                Read::Trouble(detail) => {
                    tracing::warn!(view = self.name, "kafka: {detail}");
                    true
                }
            };
            if idle || intake.rows() >= APPLIED_ROWS {
                self.apply(&mut intake);
                let ends = self.state().ends.clone();
                gaps.pass(kafka, &self.topic, &mut reader, &ends);
                self.arrived(&reader);
            }
        }
        Ok(())
    }

    /// Puts the rows so far into the view.
    fn apply(&self, intake: &mut Intake) {
        if let Err(e) = self.show(intake) {
            tracing::error!(view = self.name, "rows can't be put into the view: {e}");
        }
    }

    fn show(&self, intake: &mut Intake) -> Result<(), String> {
        let Some(columns) = intake.columns().cloned() else { return Ok(()) };
        let batch = intake.finish();
        let mut state = self.state();
        if state.rows.as_ref().is_none_or(|rows| !rows.is_of(&columns)) {
            let mut rows = ViewTable::new(&columns, &self.settings).map_err(|e| e.to_string())?;
            if let Some(former) = state.rows.take() {
                rows.adopt(former).map_err(|e| e.to_string())?;
            }
            state.rows = Some(rows);
            state.version += 1;
        }
        if batch.num_rows() > 0 {
            let State { rows, version, counted, .. } = &mut *state;
            if let Some(rows) = rows {
                rows.apply(&batch).map_err(|e| e.to_string())?;
                *version += 1;
                if let Some(counted) = counted {
                    counted.set(rows.bytes());
                }
            }
        }
        Ok(())
    }

    /// Notes how far it has read, once the rows are in.
    fn arrived(&self, reader: &TopicReader) {
        let mut state = self.state();
        state.next.clone_from(reader.next());
        if !state.loaded && !state.ends.is_empty() && reaches(&state.next, &state.ends) {
            state.loaded = true;
            let rows = state.rows.as_ref().map_or(0, ViewTable::len);
            tracing::info!(view = self.name, topic = self.topic, rows, "loaded");
        }
        drop(state);
        self.moved.notify_all();
    }

    fn expect(&self, ends: &BTreeMap<i32, i64>) {
        let mut state = self.state();
        for (partition, end) in ends {
            let known = state.ends.entry(*partition).or_insert(*end);
            *known = *end.max(known);
        }
    }

    pub(super) fn topic(&self) -> &str {
        &self.topic
    }

    /// The partitions that are read.
    pub(super) fn partitions(&self) -> Vec<i32> {
        self.state().next.keys().copied().collect()
    }

    /// Whether it was up to date once since the process began.
    pub(super) fn is_loaded(&self) -> bool {
        self.state().loaded
    }

    /// Waits until it has everything below `ends`; whether it has.
    pub(super) fn wait_for(&self, ends: &BTreeMap<i32, i64>, timeout: Duration) -> bool {
        self.expect(ends);
        let state = self.state();
        let behind = |s: &mut State| !s.ended && !reaches(&s.next, ends);
        let (state, _) = self.moved.wait_timeout_while(state, timeout, behind).unwrap_or_else(PoisonError::into_inner);
        reaches(&state.next, ends)
    }

    /// The columns, once they are known.
    pub(super) fn columns(&self) -> Option<SchemaRef> {
        self.state().rows.as_ref().map(|rows| Arc::clone(rows.columns()))
    }

    /// The rows now, unless they are those of `version`.
    pub(super) fn rows_since(&self, version: u64) -> Option<Shown> {
        let mut state = self.state();
        let now = state.version;
        if now == version {
            return None;
        }
        let rows = state.rows.as_mut()?;
        let columns = Arc::clone(rows.columns());
        Some(Shown { version: now, columns, rows: rows.scan().ok()? })
    }
}

/// Offsets at the end of a log that hold no record: markers of transactions, what was aborted or compacted. No reader meets them.
struct Gaps {
    next_look: Instant,
    /// Where each partition stood at the last look.
    stood: BTreeMap<i32, i64>,
}

impl Gaps {
    /// Passes those before `ends` in partitions that stand still.
    fn pass(&mut self, kafka: &ClientSettings, topic: &str, reader: &mut TopicReader, ends: &BTreeMap<i32, i64>) {
        if Instant::now() < self.next_look {
            return;
        }
        let behind = reader.next().iter().filter(|(p, next)| ends.get(p).is_some_and(|end| *next < end));
        let behind: BTreeMap<i32, i64> = behind.map(|(p, next)| (*p, *next)).collect();
        for (partition, next) in behind.iter().filter(|(p, next)| self.stood.get(p) == Some(next)) {
            let at = TopicPartition::new(topic, *partition);
            if let Some(end) = ends.get(partition)
                && matches!(has_record(kafka, &at, Some(*next), *end), Ok(false))
            {
                reader.passed(*partition, *end);
            }
        }
        self.stood = behind;
        self.next_look = Instant::now() + STANDS_STILL;
    }
}

fn reaches(next: &BTreeMap<i32, i64>, ends: &BTreeMap<i32, i64>) -> bool {
    ends.iter().all(|(partition, end)| next.get(partition).is_some_and(|next| next >= end))
}
