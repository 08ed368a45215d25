//! One view: a thread that reads its topic whole and keeps the current rows, shared by all sinks of the process.
//!
//! Topics are not ordered against each other. Who joins asks where the view's topic ends, and waits until the view is there.

mod emptied;
mod gaps;
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
use crate::source::kafka::{ClientSettings, Looked, Read, SourceError, TopicReader};
use crate::transform::named::Named;
use emptied::Emptied;
use gaps::Gaps;
use table::ViewTable;

const POLL: Duration = Duration::from_millis(20);
/// How often new partitions are looked for.
const LOOK: Duration = Duration::from_secs(10);
/// Wait before a broker or registry that does not answer is asked again.
const AGAIN: Duration = Duration::from_secs(1);
/// Rows after which they are applied, whether more wait or not.
const APPLIED_ROWS: usize = 20_000;

/// Rows from which on the few that a batch is joined with are looked up: below, all of them are joined in the time that it takes to ask which.
const LARGE_ROWS: usize = 20_000;

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
    /// Columns that the SELECT can read.
    named: Named,
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
    /// Somebody found less in the topic than was read of it.
    is_doubted: bool,
    ended: bool,
    counted: Option<Counted>,
}

/// What a view holds at one moment.
pub(super) struct Shown {
    pub version: u64,
    pub columns: SchemaRef,
    pub rows: Vec<RecordBatch>,
}

/// What a view holds, since a version of its rows.
pub(super) enum Since {
    Same,
    Shown(Shown),
    /// It reads its topic from the beginning: nothing may be joined with what there is of it.
    NotLoaded,
}

impl View {
    /// Begins to read; the columns that `sql` names are kept.
    ///
    /// # Errors
    /// When the topic's settings contradict each other, the client's properties are refused, or the system refuses a thread.
    pub(super) fn start(
        topic: &PipelineTopic,
        sql: &str,
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
            named: Named::of(sql),
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
        let mut has_failed = false;
        let mut gaps = Gaps::new();
        let mut rejected = 0u64;
        // When the oldest record came that the view does not show yet.
        let mut unshown = None;
        while !*stop.borrow() {
            let is_doubted = self.is_doubted();
            if Instant::now() >= next_look || is_doubted && !has_failed {
                let known = self.state().ends.clone();
                let looked = reader.look();
                has_failed = looked.is_err();
                match looked {
                    Ok(looked) => {
                        if looked.is_anew {
                            self.begin_anew(&mut intake);
                            unshown = None;
                        }
                        self.ends_at(&known, &looked);
                        // A topic that is not there yet may come at any moment.
                        next_look = Instant::now() + if reader.next().is_empty() { AGAIN } else { LOOK };
                    }
                    Err(e) => {
                        tracing::warn!(view = self.name, "the topic's partitions can't be told, trying again: {e}");
                        // To ask takes long where a partition has no leader, and the others are to be read.
                        let is_urgent = is_doubted || reader.next().is_empty();
                        next_look = Instant::now() + if is_urgent { AGAIN } else { LOOK };
                    }
                }
            }
            let idle = match reader.poll(POLL)? {
                Read::Record(polled) => {
                    let record = polled.record();
                    unshown.get_or_insert_with(Instant::now);
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
                            Ok(Taken::Emptied(fence)) => {
                                self.apply(&mut intake);
                                self.empty(Emptied { partition: record.partition, fence });
                                break;
                            }
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
                Read::OutOfRange => {
                    next_look = Instant::now();
                    true
                }
                Read::Trouble(detail) => {
                    tracing::warn!(view = self.name, "kafka: {detail}");
                    true
                }
            };
            if idle || intake.rows() >= APPLIED_ROWS || self.is_due(reader.next(), unshown) {
                self.apply(&mut intake);
                unshown = None;
                let ends = self.state().ends.clone();
                gaps.pass(kafka, &self.topic, &mut reader, &ends);
                self.arrived(&reader);
            }
        }
        Ok(())
    }

    /// Whether somebody waits for what was read and is not shown, or it has waited long enough: records may never cease to come.
    fn is_due(&self, read: &BTreeMap<i32, i64>, unshown: Option<Instant>) -> bool {
        let state = self.state();
        state.loaded && unshown.is_some_and(|since| since.elapsed() >= POLL)
            || reaches(read, &state.ends) && !reaches(&state.next, &state.ends)
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
            let mut rows = ViewTable::new(&columns, &self.settings, &self.named).map_err(|e| e.to_string())?;
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

    /// The source table was emptied.
    fn empty(&self, emptied: Emptied) {
        let mut state = self.state();
        let State { rows: Some(rows), version, .. } = &mut *state else { return };
        *version += 1;
        let done = rows.empty(emptied);
        drop(state);
        match done {
            Ok(()) => tracing::info!(view = self.name, "the source table was emptied"),
            Err(e) => tracing::error!(view = self.name, "the view can't be emptied: {e}"),
        }
    }

    /// Has nothing, as before the first record: the topic is another one, or has lost what was to be read next.
    fn begin_anew(&self, intake: &mut Intake) {
        tracing::warn!(
            view = self.name,
            topic = self.topic,
            "the topic was made anew, or has lost what was to be read next: the view begins anew"
        );
        drop(intake.finish());
        let mut state = self.state();
        state.rows = intake.columns().and_then(|columns| ViewTable::new(columns, &self.settings, &self.named).ok());
        state.version += 1;
        state.next.clear();
        state.loaded = false;
    }

    /// Notes where the topic ends. Others may have asked meanwhile: what they heard counts, but not what was `known` before.
    fn ends_at(&self, known: &BTreeMap<i32, i64>, looked: &Looked) {
        let mut state = self.state();
        state.is_doubted = false;
        let State { ends, .. } = &mut *state;
        ends.retain(|partition, _| looked.ends.contains_key(partition));
        for (partition, end) in &looked.ends {
            let have = ends.entry(*partition).or_insert(*end);
            if *have < *end || known.get(partition) == Some(have) {
                *have = *end;
            }
        }
    }

    fn is_doubted(&self) -> bool {
        self.state().is_doubted
    }

    /// Has somebody look whether the topic is still the one that was read: it ends before what was read of it.
    pub(super) fn doubt(&self) {
        let mut state = self.state();
        state.is_doubted = true;
        state.loaded = false;
    }

    /// Notes how far it has read, once the rows are in.
    fn arrived(&self, reader: &TopicReader) {
        let mut state = self.state();
        state.next.clone_from(reader.next());
        if !state.loaded && !state.is_doubted && !state.ends.is_empty() && reaches(&state.next, &state.ends) {
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

    /// Of each partition that is read the next offset.
    pub(super) fn read_to(&self) -> BTreeMap<i32, i64> {
        self.state().next.clone()
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
        self.state().rows.as_ref().map(|rows| Arc::clone(rows.shown()))
    }

    /// Whether a lookup is cheaper than to join all of its rows.
    pub(super) fn is_large(&self) -> bool {
        self.state().rows.as_ref().is_some_and(|rows| rows.len() >= LARGE_ROWS)
    }

    /// The rows now that have these keys, under the version 0; `None` where it reads its topic anew, or these are no keys of its.
    pub(super) fn rows_of(&self, keys: &RecordBatch) -> Option<Shown> {
        let state = self.state();
        let rows = state.rows.as_ref().filter(|_| state.loaded)?;
        let found = rows.rows_of(keys).ok().flatten()?;
        Some(Shown { version: 0, columns: Arc::clone(rows.shown()), rows: vec![found] })
    }

    /// The rows now, unless they are those of `version`, or it reads its topic anew.
    pub(super) fn rows_since(&self, version: u64) -> Since {
        let mut state = self.state();
        if !state.loaded {
            return Since::NotLoaded;
        }
        let now = state.version;
        match state.rows.as_mut() {
            Some(rows) if now != version => {
                let columns = Arc::clone(rows.shown());
                rows.scan().map_or(Since::Same, |rows| Since::Shown(Shown { version: now, columns, rows }))
            }
            _ => Since::Same,
        }
    }
}

fn reaches(next: &BTreeMap<i32, i64>, ends: &BTreeMap<i32, i64>) -> bool {
    ends.iter().all(|(partition, end)| next.get(partition).is_some_and(|next| next >= end))
}

#[cfg(test)]
#[cfg(feature = "demo")]
mod tests;
