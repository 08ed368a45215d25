//! One sink of one pipeline: a thread that reads, transforms and delivers, at its own pace.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::watch;

use super::intake::{Intake, Taken};
use super::meter::Meter;
use super::mount::Mount;
use super::plan::Plan;
use super::rejects::Rejects;
use super::sinks::GroupOffsets;
use super::slot::Slot;
use super::state::{Rules, StateTopic};
use super::view::Tellers;
use crate::memory::Counted;
use crate::pipeline::letters::DeadLetters;
use crate::pipeline::share::Limits;
use crate::pipeline::tables::epoch_ms;
use crate::position::TopicPartition;
use crate::record::{Record, Rejected};
use crate::serve::Status;
use crate::serve::status::{LastError, PartitionStatus, TableState};
use crate::source::kafka::{Assigned, ClientSettings, Event, KafkaSource, SourceError};

/// How long a poll waits while nothing is open.
const IDLE_POLL: Duration = Duration::from_millis(100);
/// How often the sink's clock ticks, and lag and partitions that are held are looked at.
const TICK: Duration = Duration::from_secs(1);
/// How long a partition may go on without a row before its position is stored nevertheless.
pub(super) const EMPTY_MS: u64 = 5_000;

/// One source topic.
pub(super) struct Input {
    /// The table's name in the SQL.
    pub name: String,
    pub intake: Intake,
}

/// What a runner is made of.
pub(super) struct Parts {
    /// `pipeline.sink`.
    pub id: String,
    pub kafka: ClientSettings,
    pub mount: Arc<Mount>,
    pub plan: Plan,
    pub rules: Arc<Rules>,
    /// Where there are rules that keep something.
    pub state_topic: Option<StateTopic>,
    /// By topic.
    pub inputs: BTreeMap<String, Input>,
    pub tellers: Tellers,
    pub dead_letters: Arc<DeadLetters>,
    pub status: Arc<Status>,
    pub offsets: GroupOffsets,
    pub skipped: Option<Arc<AtomicU64>>,
    pub limits: Limits,
    pub counted: Counted,
    pub batch_rows: usize,
    pub batch_wait: Duration,
    pub view_wait: Duration,
    pub runtime: Handle,
    pub stop: watch::Receiver<bool>,
}

pub(super) struct Runner {
    pub(super) parts: Parts,
    pub(super) source: KafkaSource,
    pub(super) meter: Meter,
    pub(super) slots: BTreeMap<TopicPartition, Slot>,
    /// Assigned, and not to be read yet; with the reason where a person has to mend something.
    pub(super) held: BTreeMap<TopicPartition, Option<String>>,
    /// Rejected records of the open batch.
    pub(super) rejects: Rejects,
    /// When the oldest change of the batch was committed in its source.
    pub(super) source_ms: Option<i64>,
    /// When the open batch began.
    pub(super) opened: Option<Instant>,
    pub(super) started: Instant,
    next_tick: Instant,
    /// What came while nothing was to be read.
    kept: Vec<Kept>,
    pub(super) stopped: Option<String>,
}

enum Kept {
    Assigned(Vec<Assigned>),
    Revoked(Vec<TopicPartition>),
}

/// Whether to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    On,
    Shutdown,
}

impl Runner {
    pub(super) fn new(source: KafkaSource, parts: Parts) -> Self {
        let now = Instant::now();
        let meter = Meter::new(&parts.id);
        meter.stopped(false);
        parts.status.update_sink(&parts.id, |_| {});
        let rejects = Rejects::new(parts.id.clone(), Arc::clone(&parts.status), parts.limits);
        Self {
            parts,
            source,
            meter,
            slots: BTreeMap::new(),
            held: BTreeMap::new(),
            rejects,
            source_ms: None,
            opened: None,
            started: now,
            next_tick: now,
            kept: Vec::new(),
            stopped: None,
        }
    }

    /// Reads and delivers until the shutdown signal, then delivers what it has.
    pub(super) fn run(mut self) -> Result<(), SourceError> {
        let runtime = self.parts.runtime.clone();
        // What a record does not say is asked for on the runtime.
        let _runtime = runtime.enter();
        let topics: Vec<String> = self.parts.inputs.keys().cloned().collect();
        self.source.subscribe(&topics)?;
        while !self.is_shutdown() {
            self.step()?;
            if self.is_due() && self.flush()? == Flow::Shutdown {
                break;
            }
            self.tick()?;
        }
        if self.opened.is_some() {
            self.flush()?;
        }
        Ok(())
    }

    pub(super) fn is_shutdown(&self) -> bool {
        *self.parts.stop.borrow()
    }

    pub(super) fn now(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    fn step(&mut self) -> Result<(), SourceError> {
        for kept in std::mem::take(&mut self.kept) {
            match kept {
                // Records of them may have come meanwhile.
                Kept::Assigned(assigned) => self.assigned_again(assigned),
                Kept::Revoked(revoked) => self.revoked(&revoked),
            }
        }
        let timeout = match self.opened {
            Some(opened) => self.parts.batch_wait.saturating_sub(opened.elapsed()),
            None => IDLE_POLL,
        };
        let source = &self.source;
        match source.poll(timeout.max(Duration::from_millis(1)))? {
            Event::Record(polled) => {
                let record = polled.record();
                let at = TopicPartition::new(record.topic, record.partition);
                let wanted = self.slots.get(&at).is_some_and(|slot| record.offset >= slot.next);
                let beyond = self.slots.get(&at).is_some_and(|slot| slot.is_beyond(record.offset));
                if !wanted {
                    return Ok(());
                }
                if beyond || !take(&mut self.parts, &mut self.rejects, &self.meter, &record) {
                    // It comes again: what is open goes first.
                    drop(polled);
                    if let Some(slot) = self.slots.get_mut(&at).filter(|_| beyond) {
                        slot.complete();
                    }
                    self.flush()?;
                    if let Some(next) = self.slots.get(&at).map(|slot| slot.next) {
                        self.seek(&[(at, next)]);
                    }
                    return Ok(());
                }
                if let Some(slot) = self.slots.get_mut(&at) {
                    slot.took(record.offset, record.timestamp_ms);
                }
                self.opened.get_or_insert_with(Instant::now);
            }
            Event::Idle => {}
            Event::Trouble(detail) => {
                tracing::warn!(sink = self.parts.id, "kafka: {detail}");
                self.trouble(detail);
            }
            Event::UnknownTopic(detail) => {
                tracing::warn!(
                    sink = self.parts.id,
                    "a topic of the pipeline is not there yet, waiting for it: {detail}"
                );
            }
            Event::OutOfRange => self.verify_positions(),
            Event::Assigned(assigned) => self.assigned(assigned),
            Event::Revoked(revoked) => self.revoked(&revoked),
        }
        Ok(())
    }

    fn is_due(&self) -> bool {
        let Some(opened) = self.opened else { return false };
        // What is left of it stands in the log, and comes soon.
        if self.slots.values().any(Slot::is_incomplete) {
            return false;
        }
        let rows: usize = self.parts.inputs.values().map(|input| input.intake.rows()).sum();
        rows >= self.parts.batch_rows
            || opened.elapsed() >= self.parts.batch_wait
            || self.slots.values().any(Slot::is_complete)
    }

    fn tick(&mut self) -> Result<(), SourceError> {
        if Instant::now() < self.next_tick {
            return Ok(());
        }
        self.next_tick = Instant::now() + TICK;
        if let Err(e) = self.parts.mount.tick(epoch_ms()) {
            self.meter.failed(&e);
            self.trouble(e.to_string());
        }
        if let Some(skipped) = &self.parts.skipped {
            self.meter.skipped(skipped.load(Ordering::Relaxed));
        }
        self.parts.counted.set(self.parts.inputs.values().map(|input| input.intake.bytes()).sum());
        self.show_partitions();
        let (latency, source_latency) = self.meter.recent();
        self.parts.status.update_sink(&self.parts.id, |s| (s.latency, s.source_latency) = (latency, source_latency));
        self.show_remembered();
        self.retry_held()?;
        let now = self.now();
        if self.slots.values().any(|slot| slot.has_moved() && slot.delivered_at + EMPTY_MS <= now) {
            self.opened.get_or_insert_with(Instant::now);
        }
        self.finish_ranges()
    }

    /// Waits without reading, as a living member of the group.
    pub(super) fn rest(&mut self, wait: Duration) -> Result<Flow, SourceError> {
        let until = Instant::now() + wait;
        let partitions: Vec<TopicPartition> = self.slots.keys().cloned().collect();
        self.source.pause(&partitions);
        let mut back = HashMap::new();
        while Instant::now() < until {
            if self.is_shutdown() {
                return Ok(Flow::Shutdown);
            }
            match self.source.poll(until.saturating_duration_since(Instant::now()).min(IDLE_POLL))? {
                Event::Record(polled) => {
                    let record = polled.record();
                    let at = TopicPartition::new(record.topic, record.partition);
                    let offset = back.entry(at).or_insert(record.offset);
                    *offset = record.offset.min(*offset);
                }
                Event::Assigned(assigned) => self.kept.push(Kept::Assigned(assigned)),
                Event::Revoked(revoked) => self.kept.push(Kept::Revoked(revoked)),
                _ => {}
            }
        }
        self.source.resume(&partitions);
        let back: Vec<_> = back.into_iter().filter(|(at, _)| self.slots.contains_key(at)).collect();
        if !back.is_empty() {
            self.seek(&back);
        }
        Ok(Flow::On)
    }

    pub(super) fn trouble(&self, message: String) {
        let error = LastError { at_ms: epoch_ms(), message };
        self.parts.status.update_sink(&self.parts.id, |s| s.last_error = Some(error));
    }

    /// Something that a person has to mend; the other sinks go on.
    pub(super) fn stop(&mut self, reason: &str) {
        if self.stopped.as_deref() == Some(reason) {
            return;
        }
        tracing::error!(sink = self.parts.id, "stopped: {reason}");
        self.meter.stopped(true);
        self.trouble(reason.to_owned());
        let state = TableState::Stopped { reason: reason.to_owned() };
        self.parts.status.update_sink(&self.parts.id, |s| s.state = state);
        self.stopped = Some(reason.to_owned());
    }

    pub(super) fn goes_on(&mut self) {
        if self.held.values().any(Option::is_some) {
            return;
        }
        if self.stopped.take().is_some() {
            tracing::info!(sink = self.parts.id, "goes on");
            self.meter.stopped(false);
        }
        self.parts.status.update_sink(&self.parts.id, |s| s.state = TableState::Running);
    }

    pub(super) fn show_partitions(&self) {
        let shown = self.slots.iter().map(|(at, slot)| {
            let end = self.source.cached_high(at).unwrap_or(slot.next).max(slot.next);
            let status = PartitionStatus { committed: slot.from, end };
            self.meter.lag(at, status.lag_records());
            (at.to_string(), status)
        });
        let shown: BTreeMap<String, PartitionStatus> = shown.collect();
        self.parts.status.update_sink(&self.parts.id, |s| s.partitions = shown);
    }
}

/// Takes a record into the open batch; false where what is open has to be delivered first.
fn take(parts: &mut Parts, rejects: &mut Rejects, meter: &Meter, record: &Record<'_>) -> bool {
    let Some(input) = parts.inputs.get_mut(record.topic) else { return true };
    loop {
        match input.intake.push(record, parts.tellers.told()) {
            Ok(Taken::Row | Taken::Skipped(_)) => {
                rejects.took();
                return true;
            }
            Ok(Taken::Full) => return false,
            Ok(Taken::Rejected { reason, detail }) => {
                rejects.took();
                rejects.push(Rejected::new(record, reason, detail, epoch_ms()), meter);
                return true;
            }
            Err(why) => {
                tracing::warn!(sink = parts.id, record = %record.origin(), "waiting: {why}");
                std::thread::sleep(TICK);
                if *parts.stop.borrow() {
                    // It is read again at the next start.
                    return false;
                }
            }
        }
    }
}
