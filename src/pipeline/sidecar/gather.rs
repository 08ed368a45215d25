//! What the sink took in and has still to do: committed when it is time, or read again.
//!
//! A sink that does each delivery at once has nothing of the kind.

use std::time::{Duration, Instant};

use super::flush::AGAIN;
use super::runner::{Flow, Runner};
use super::sinks::GroupOffsets;
use super::slot::Slot;
use crate::pipeline::tables::epoch_ms;
use crate::position::TopicPartition;
use crate::sink::{Gathered, SinkError};
use crate::source::kafka::SourceError;

/// Rows that are in the sink's hands, and not visible yet.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Waiting {
    rows: usize,
    /// When the oldest of them came to Kafka, and was committed in its source.
    kafka_ms: Option<i64>,
    source_ms: Option<i64>,
}

impl Runner {
    /// The sink took a delivery in; `kafka_ms` is its oldest record's.
    pub(super) fn took_in(&mut self, rows: usize, kafka_ms: Option<i64>, begun: Instant) {
        let source_ms = self.source_ms;
        let waiting = self.waiting.get_or_insert_default();
        waiting.rows += rows;
        waiting.kafka_ms = waiting.kafka_ms.into_iter().chain(kafka_ms).min();
        waiting.source_ms = waiting.source_ms.into_iter().chain(source_ms).min();
        if self.parts.mount.gathered() == Gathered::Nothing {
            self.done(begun);
        }
    }

    pub(super) fn commit_if_due(&mut self) -> Result<Flow, SourceError> {
        match self.waiting.is_some() && self.parts.mount.gathered() == Gathered::Due {
            true => self.commit(),
            false => Ok(Flow::On),
        }
    }

    /// Rests within a flush: what was gathered before is committed when it is time, whatever the flush waits for.
    pub(super) fn rest_on(&mut self, wait: Duration) -> Result<Flow, SourceError> {
        match self.commit_if_due()? {
            Flow::On => self.rest(wait),
            Flow::Shutdown => Ok(Flow::Shutdown),
        }
    }

    /// Has the sink do what it took in, however long it takes.
    pub(super) fn commit(&mut self) -> Result<Flow, SourceError> {
        let mut wait = AGAIN.0;
        while self.waiting.is_some() {
            let begun = Instant::now();
            match self.parts.mount.commit() {
                Ok(()) => {
                    self.done(begun);
                    self.goes_on();
                }
                Err(SinkError::Moved(why)) => {
                    self.meter.failed(&SinkError::Moved(String::new()));
                    tracing::warn!(sink = self.parts.id, "going on from where the sink stands: {why}");
                    self.trouble(why);
                    self.read_again()?;
                }
                Err(e) => {
                    let flow = self.failed(&e, &mut wait)?;
                    if flow == Flow::Shutdown {
                        return Ok(flow);
                    }
                }
            }
        }
        Ok(Flow::On)
    }

    /// Everything that was taken in is visible now.
    fn done(&mut self, begun: Instant) {
        let Some(waiting) = self.waiting.take() else { return };
        let now_ms = epoch_ms();
        let seconds = begun.elapsed().as_secs_f64();
        self.meter.delivered(waiting.rows, seconds, now_ms, waiting.kafka_ms, waiting.source_ms);
        self.parts.status.update_sink(&self.parts.id, |s| {
            s.rows += waiting.rows as u64;
            s.last_delivery_ms = Some(now_ms);
        });
        let mut moved: Vec<(TopicPartition, i64)> = Vec::new();
        for (at, slot) in self.slots.iter_mut().filter(|(_, slot)| slot.is_gathered()) {
            slot.commit();
            moved.push((at.clone(), slot.done));
        }
        if self.parts.offsets == GroupOffsets::Reported {
            self.source.report(&moved);
        }
    }

    /// One try before partitions go: it spares the new owner reading them again.
    pub(super) fn commit_or_forget(&mut self) {
        let begun = Instant::now();
        match self.parts.mount.commit() {
            Ok(()) => self.done(begun),
            Err(e) => {
                self.meter.failed(&e);
                tracing::warn!(sink = self.parts.id, "what was gathered is read again: {e}");
                self.forget();
            }
        }
    }

    /// Has the sink let go of what it took in, and reads that again, with the open batch.
    pub(super) fn forget(&mut self) {
        if self.waiting.take().is_none() {
            return;
        }
        self.parts.mount.forget();
        self.slots.values_mut().for_each(Slot::forget);
        self.give_up();
        let all: Vec<TopicPartition> = self.slots.keys().cloned().collect();
        self.read_on(&all);
    }

    /// As [`forget`](Self::forget), from where the sink says that it stands: another one may have gone on there.
    pub(super) fn read_again(&mut self) -> Result<(), SourceError> {
        self.forget();
        let all: Vec<TopicPartition> = self.slots.keys().cloned().collect();
        all.into_iter().for_each(|at| self.hold(at, None));
        self.retry_held()
    }
}
