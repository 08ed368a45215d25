//! One sink of one pipeline: a thread that reads, transforms and delivers, at its own pace.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::watch;

use super::gather::Waiting;
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
use crate::source::kafka::{Assigned, ClientSettings, Event, KafkaSource, SourceError, watermarks};

/// How long a poll waits while nothing is open.
const IDLE_POLL: Duration = Duration::from_millis(100);
/// Before a rest of this length the brokers are asked where logs end.
const LAG_SHOWN: Duration = Duration::from_secs(1);
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
    /// What the sink took in and has not done.
    pub(super) waiting: Option<Waiting>,
    /// When the open batch began.
    pub(super) opened: Option<Instant>,
    /// When the last flush began, as long as records wait since then: they may have come at any time in it.
    pub(super) busy_since: Option<Instant>,
    /// Whether the client had no more records when it was asked last.
    is_drained: bool,
    pub(super) started: Instant,
    next_tick: Instant,
    /// What is not read until a range that was begun once is whole.
    pub(super) held_back: Vec<TopicPartition>,
    /// What came while nothing was to be read.
    kept: Vec<Kept>,
    pub(super) stopped: Option<String>,
}

enum Kept {
    Assigned(Vec<Assigned>),
    Revoked(Vec<TopicPartition>),
    OutOfRange,
}

/// Takes partitions out that were given up after they were assigned: to begin with them would be to set their new owner back.
fn strike(kept: &mut [Kept]) {
    let mut gone = BTreeSet::new();
    for kept in kept.iter_mut().rev() {
        match kept {
            Kept::Assigned(assigned) => assigned.retain(|a| !gone.contains(&a.at)),
            Kept::Revoked(revoked) => gone.extend(revoked.iter().cloned()),
            Kept::OutOfRange => {}
        }
    }
}

/// Whether to go on.
#[must_use]
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
            waiting: None,
            opened: None,
            busy_since: None,
            is_drained: true,
            started: now,
            next_tick: now,
            held_back: Vec::new(),
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
            if self.step()? == Flow::Shutdown
                || self.is_due() && self.flush()? == Flow::Shutdown
                || self.commit_if_due()? == Flow::Shutdown
            {
                break;
            }
            self.tick()?;
        }
        if self.opened.is_some() {
            // The last one, however it ends.
            let (Flow::On | Flow::Shutdown) = self.flush()?;
        }
        let (Flow::On | Flow::Shutdown) = self.commit()?;
        Ok(())
    }

    pub(super) fn is_shutdown(&self) -> bool {
        *self.parts.stop.borrow()
    }

    pub(super) fn now(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    pub(super) fn step(&mut self) -> Result<Flow, SourceError> {
        let mut kept = std::mem::take(&mut self.kept);
        strike(&mut kept);
        for kept in kept {
            match kept {
                // Records of them may have come meanwhile.
                Kept::Assigned(assigned) => self.assigned_again(assigned),
                Kept::Revoked(revoked) => self.revoked(&revoked),
                Kept::OutOfRange => self.verify_positions(),
            }
        }
        let timeout = match self.opened {
            Some(opened) => self.parts.batch_wait.saturating_sub(self.busy_since.unwrap_or(opened).elapsed()),
            // Whether records wait is asked without waiting.
            None if self.busy_since.is_some() => Duration::ZERO,
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
                    return Ok(Flow::On);
                }
                if beyond || !take(&mut self.parts, &mut self.rejects, &self.meter, &record) {
                    // It comes again: what is open goes first.
                    drop(polled);
                    if let Some(slot) = self.slots.get_mut(&at).filter(|_| beyond) {
                        slot.complete();
                    }
                    let flow = self.flush()?;
                    if flow == Flow::On {
                        self.read_on(&[at]);
                    }
                    return Ok(flow);
                }
                if let Some(slot) = self.slots.get_mut(&at) {
                    slot.took(record.offset, record.timestamp_ms);
                }
                self.opened.get_or_insert_with(Instant::now);
                self.is_drained = false;
                self.hold_back();
            }
            Event::Idle => {
                self.is_drained = true;
                self.busy_since = self.busy_since.filter(|_| self.opened.is_some());
            }
            Event::Trouble(detail) => self.kafka_trouble(detail),
            Event::UnknownTopic(detail) => self.unknown_topic(&detail),
            Event::OutOfRange => self.verify_positions(),
            Event::Assigned(assigned) => self.assigned(assigned),
            Event::Revoked(revoked) => self.revoked(&revoked),
        }
        Ok(Flow::On)
    }

    pub(super) fn is_due(&self) -> bool {
        let Some(waited) = self.opened.map(|opened| opened.elapsed()) else { return false };
        let rows: usize = self.parts.inputs.values().map(|input| input.intake.rows()).sum();
        // Rows that came while the last batch was delivered have waited, and wait for no others.
        let has_waited = self.busy_since.is_some_and(|since| since.elapsed() >= self.parts.batch_wait);
        let is_due = rows >= self.parts.batch_rows
            || waited >= self.parts.batch_wait
            || self.is_drained && has_waited
            || self.slots.values().any(Slot::is_complete);
        // What is left of a range stands in the log, and comes soon.
        is_due && self.slots.values().filter_map(Slot::patience).all(|patience| waited >= patience)
    }

    /// Reads no more than a batch of the others while the rest of a range is to come.
    fn hold_back(&mut self) {
        if !self.held_back.is_empty() || self.slots.values().all(|slot| slot.patience().is_none()) {
            return;
        }
        let others = || self.slots.iter().filter(|(_, slot)| slot.patience().is_none());
        if others().map(|(_, slot)| slot.next - slot.from).sum::<i64>() >= self.parts.batch_rows as i64 {
            self.held_back = others().map(|(at, _)| at.clone()).collect();
            self.source.pause(&self.held_back);
        }
    }

    /// Reads on what was held back.
    pub(super) fn let_go(&mut self) {
        let mut back = std::mem::take(&mut self.held_back);
        back.retain(|at| self.slots.contains_key(at));
        if !back.is_empty() {
            self.source.resume(&back);
        }
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
        self.finish_ranges();
        Ok(())
    }

    /// Waits without reading, as a living member of the group.
    pub(super) fn rest(&mut self, wait: Duration) -> Result<Flow, SourceError> {
        let until = Instant::now() + wait;
        let partitions: Vec<TopicPartition> = self.slots.keys().cloned().collect();
        self.source.pause(&partitions);
        if wait >= LAG_SHOWN {
            self.show_lag(&partitions);
        }
        let mut back = BTreeSet::new();
        while Instant::now() < until {
            if self.is_shutdown() {
                return Ok(Flow::Shutdown);
            }
            match self.source.poll(until.saturating_duration_since(Instant::now()).min(IDLE_POLL))? {
                Event::Record(polled) => {
                    let record = polled.record();
                    back.insert(TopicPartition::new(record.topic, record.partition));
                }
                Event::Assigned(assigned) => self.kept.push(Kept::Assigned(assigned)),
                Event::Revoked(revoked) => self.kept.push(Kept::Revoked(revoked)),
                // The client reads such a partition no more until it is placed anew.
                Event::OutOfRange => self.kept.push(Kept::OutOfRange),
                Event::Trouble(detail) => self.kafka_trouble(detail),
                Event::UnknownTopic(detail) => self.unknown_topic(&detail),
                Event::Idle => {}
            }
        }
        self.source.resume(&partitions);
        self.read_on(&back.into_iter().collect::<Vec<_>>());
        Ok(Flow::On)
    }

    fn kafka_trouble(&self, detail: String) {
        tracing::warn!(sink = self.parts.id, "kafka: {detail}");
        self.trouble(detail);
    }

    fn unknown_topic(&self, detail: &str) {
        tracing::warn!(sink = self.parts.id, "a topic of the pipeline is not there yet, waiting for it: {detail}");
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
        if let Some(why) = self.held.values().flatten().next().cloned() {
            self.stop(&why);
            return;
        }
        if self.stopped.take().is_some() {
            tracing::info!(sink = self.parts.id, "goes on");
            self.meter.stopped(false);
        }
        self.parts.status.update_sink(&self.parts.id, |s| s.state = TableState::Running);
    }

    /// What is not read does not tell where its log ends: the brokers are asked.
    fn show_lag(&self, partitions: &[TopicPartition]) {
        match watermarks(&self.parts.kafka, partitions) {
            Ok(ends) => self.show_up_to(&ends.into_iter().map(|(at, _, end)| (at, end)).collect()),
            Err(e) => tracing::debug!(sink = self.parts.id, "how far its topics are is not known: {e}"),
        }
    }

    pub(super) fn show_partitions(&self) {
        self.show_up_to(&BTreeMap::new());
    }

    fn show_up_to(&self, ends: &BTreeMap<TopicPartition, i64>) {
        let shown = self.slots.iter().map(|(at, slot)| {
            let known = ends.get(at).copied().or_else(|| self.source.cached_high(at));
            let end = known.unwrap_or(slot.next).max(slot.next);
            let status = PartitionStatus { committed: slot.done, end };
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
            Ok(Taken::Row | Taken::Skipped(_) | Taken::Emptied(_)) => {
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
                let error = LastError { at_ms: epoch_ms(), message: format!("{}: waiting: {why}", record.origin()) };
                parts.status.update_sink(&parts.id, |s| s.last_error = Some(error));
                std::thread::sleep(TICK);
                if *parts.stop.borrow() {
                    // It is read again at the next start.
                    return false;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_given_up_since_is_not_begun() {
        let at = |p: i32| TopicPartition::new("t", p);
        let assigned = |p: i32| Assigned {
            at: at(p),
            position: Some(1),
            high: 9,
            topic_id: None,
            partition_count: 2,
            misplaced: None,
        };
        let mut kept = [
            Kept::Assigned(vec![assigned(0), assigned(1)]),
            Kept::Revoked(vec![at(0)]),
            Kept::OutOfRange,
            Kept::Assigned(vec![assigned(0)]),
        ];
        strike(&mut kept);
        let left = |kept: &Kept| match kept {
            Kept::Assigned(all) => all.iter().map(|a| a.at.partition).collect(),
            _ => vec![],
        };
        assert_eq!(kept.iter().map(left).collect::<Vec<_>>(), [vec![1], vec![], vec![], vec![0]]);
    }
}
