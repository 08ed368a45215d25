//! One sink of one pipeline: a thread that reads, transforms and delivers, at its own pace.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::watch;

use super::intake::{Intake, Taken};
use super::meter::Meter;
use super::mount::Mount;
use super::plan::Plan;
use super::slot::Slot;
use super::view::Tellers;
use crate::memory::Counted;
use crate::pipeline::letters::DeadLetters;
use crate::pipeline::tables::epoch_ms;
use crate::position::TopicPartition;
use crate::record::{Record, Rejected};
use crate::serve::Status;
use crate::serve::status::{LastError, PartitionStatus, TableState};
use crate::source::kafka::{Assigned, ClientSettings, Event, KafkaSource, Misplaced, SourceError, has_record};

/// How long a poll waits while nothing is open.
const IDLE_POLL: Duration = Duration::from_millis(100);
/// How often the sink's clock ticks, and lag and partitions that are held are looked at.
const TICK: Duration = Duration::from_secs(1);
/// How long a partition may go on without a row before its position is stored nevertheless.
pub(super) const EMPTY_MS: u64 = 5_000;
/// How long the rest of a range that was begun once may take to come before the log is asked whether there is any.
const RANGE_MS: u64 = 1_000;

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
    /// By topic.
    pub inputs: BTreeMap<String, Input>,
    pub tellers: Tellers,
    pub dead_letters: Arc<DeadLetters>,
    pub status: Arc<Status>,
    pub skipped: Option<Arc<AtomicU64>>,
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
    /// Assigned, and not to be read yet.
    held: BTreeSet<TopicPartition>,
    /// Rejected records of the open batch.
    pub(super) letters: Vec<Rejected>,
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
        Self {
            parts,
            source,
            meter,
            slots: BTreeMap::new(),
            held: BTreeSet::new(),
            letters: Vec::new(),
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
                Kept::Assigned(assigned) => {
                    // Records of them may have come meanwhile.
                    let at: Vec<_> = assigned.iter().filter_map(|a| Some((a.at.clone(), a.position?))).collect();
                    self.assigned(assigned);
                    self.seek(&at);
                }
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
                if beyond || !take(&mut self.parts, &mut self.letters, &self.meter, &record) {
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

    fn assigned(&mut self, assigned: Vec<Assigned>) {
        if let Some(e) = self.parts.mount.take_trouble() {
            self.meter.failed(&e);
            tracing::warn!(sink = self.parts.id, "the sink does not say where it stands, trying again: {e}");
            self.trouble(e.to_string());
        }
        for a in assigned {
            let standing = self.parts.mount.standing(&a.at);
            let known = standing.as_ref().and_then(|s| s.topic_id.as_ref());
            let anew = known.zip(a.topic_id.as_ref()).is_some_and(|(had, has)| had != has);
            match (&a.misplaced, a.position) {
                _ if anew => {
                    self.stop(&format!(
                        "topic {} was made anew: the sink's offsets belong to another topic id; `firn rewind --sink {} --to beginning` \
                         delivers the new one from its beginning",
                        a.at.topic, self.parts.id
                    ));
                    self.held.insert(a.at);
                }
                (Some(m), _) => {
                    let why = misplaced(&self.parts.id, &a.at, m);
                    match m {
                        Misplaced::Unknown { .. } => tracing::warn!(sink = self.parts.id, "held: {why}"),
                        _ => self.stop(&why),
                    }
                    self.held.insert(a.at);
                }
                (None, None) => {
                    self.held.insert(a.at);
                }
                (None, Some(position)) => {
                    self.held.remove(&a.at);
                    tracing::info!(sink = self.parts.id, partition = %a.at, position, high = a.high, "reading");
                    let now = self.now();
                    self.slots.insert(a.at.clone(), Slot::new(&a, position, standing.as_ref(), now));
                }
            }
        }
        self.show_partitions();
    }

    /// What was read of them is given up: the new owner reads it again. So is what was read of the others, since rows are mixed.
    fn revoked(&mut self, revoked: &[TopicPartition]) {
        self.start_over();
        for at in revoked {
            tracing::info!(sink = self.parts.id, partition = %at, "given up");
            self.held.remove(at);
            self.slots.remove(at);
        }
        self.show_partitions();
    }

    /// Gives up the open batch, and reads it again.
    fn start_over(&mut self) {
        if self.opened.take().is_none() {
            return;
        }
        self.letters.clear();
        for input in self.parts.inputs.values_mut() {
            drop(input.intake.finish());
        }
        self.slots.values_mut().for_each(Slot::start_over);
        let back: Vec<_> = self.slots.iter().map(|(at, slot)| (at.clone(), slot.from)).collect();
        self.seek(&back);
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
        self.retry_held();
        let now = self.now();
        if self.slots.values().any(|slot| slot.has_moved() && slot.delivered_at + EMPTY_MS <= now) {
            self.opened.get_or_insert_with(Instant::now);
        }
        self.finish_ranges()
    }

    /// A range that was begun once may end with offsets that hold no record any more: nothing would come that shows it.
    fn finish_ranges(&mut self) -> Result<(), SourceError> {
        let now = self.now();
        let waiting = |s: &Slot| s.until.filter(|until| *until > s.next && s.delivered_at + RANGE_MS < now);
        let open: Vec<_> = self.slots.iter().filter_map(|(at, s)| Some((at.clone(), s.next, waiting(s)?))).collect();
        for (at, next, until) in open {
            if matches!(has_record(&self.parts.kafka, &at, Some(next), until), Ok(false))
                && let Some(slot) = self.slots.get_mut(&at)
            {
                slot.next = until;
                self.opened.get_or_insert_with(Instant::now);
            }
        }
        Ok(())
    }

    fn retry_held(&mut self) {
        let held: Vec<TopicPartition> = self.held.iter().filter(|at| !self.is_given_up(at)).cloned().collect();
        if held.is_empty() {
            return;
        }
        let placed = self.source.place(&held);
        let go: Vec<_> = placed.iter().filter_map(|a| Some((a.at.clone(), a.position?))).collect();
        if !go.is_empty() {
            self.seek(&go);
            self.goes_on();
        }
        self.assigned(placed);
    }

    /// Whether it was taken away, and that was not looked at yet.
    fn is_given_up(&self, at: &TopicPartition) -> bool {
        self.kept.iter().any(|kept| matches!(kept, Kept::Revoked(revoked) if revoked.contains(at)))
    }

    /// Asks the sink anew where it stands in a partition, and reads on from there.
    pub(super) fn place_anew(&mut self, at: &TopicPartition) {
        self.slots.remove(at);
        // To ask is to take over: not from its new owner.
        if !self.is_given_up(at) {
            self.held.insert(at.clone());
            self.source.pause(std::slice::from_ref(at));
            self.retry_held();
        }
    }

    pub(super) fn seek(&self, positions: &[(TopicPartition, i64)]) {
        if let Err(e) = self.source.seek(positions) {
            tracing::warn!(sink = self.parts.id, "seek: {e}");
        }
    }

    /// The client has given up a partition, and does not say which.
    fn verify_positions(&mut self) {
        let positions: Vec<_> = self.slots.iter().map(|(at, slot)| (at.clone(), slot.next)).collect();
        for (at, _, m) in self.source.check_positions(&positions) {
            if let Some(m) = m.filter(|m| !matches!(m, Misplaced::Unknown { .. })) {
                self.stop(&misplaced(&self.parts.id, &at, &m));
            }
        }
        if self.stopped.is_none() {
            self.seek(&positions);
        }
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
        if self.stopped.take().is_some() {
            tracing::info!(sink = self.parts.id, "goes on");
            self.meter.stopped(false);
        }
        self.parts.status.update_sink(&self.parts.id, |s| s.state = TableState::Running);
    }

    fn show_partitions(&self) {
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
fn take(parts: &mut Parts, letters: &mut Vec<Rejected>, meter: &Meter, record: &Record<'_>) -> bool {
    let Some(input) = parts.inputs.get_mut(record.topic) else { return true };
    loop {
        match input.intake.push(record, parts.tellers.told()) {
            Ok(Taken::Row | Taken::Skipped(_)) => return true,
            Ok(Taken::Full) => return false,
            Ok(Taken::Rejected { reason, detail }) => {
                tracing::warn!(sink = parts.id, record = %record.origin(), reason, "rejected: {detail}");
                meter.rejected(reason);
                parts.status.update_sink(&parts.id, |s| s.rejected += 1);
                letters.push(Rejected::new(record, reason, detail, epoch_ms()));
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

fn misplaced(sink: &str, at: &TopicPartition, misplaced: &Misplaced) -> String {
    match misplaced {
        Misplaced::BehindLog { position, low } => format!(
            "{at}: offsets gone: the sink stands at offset {position}, but Kafka's log begins only at {low}. Restore them, or accept \
             the loss: `firn rewind --sink {sink} --to beginning` goes on at {low}"
        ),
        Misplaced::AheadOfLog { position, high } => format!(
            "{at}: the sink's offset {position} is ahead of Kafka's log, which ends at {high}; the topic was made anew, or this is \
             another cluster. `firn rewind --sink {sink} --to beginning` delivers it from its beginning"
        ),
        Misplaced::Unknown { detail } => {
            format!("{at}: the broker does not say where the log begins and ends: {detail}")
        }
    }
}
