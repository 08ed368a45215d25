//! The rebalance callback: partitions are assigned at the sink's positions.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, Offset, TopicPartitionList};

use super::{
    Assigned, BROKER_ANSWER, ClientSettings, Event, Misplaced, Positions, Start, is_assignment, list, misplaced, topics,
};
use crate::position::TopicPartition;

pub(super) struct Context {
    settings: ClientSettings,
    positions: Arc<dyn Positions>,
    events: Mutex<VecDeque<Event<'static>>>,
}

impl Context {
    pub(super) fn new(settings: ClientSettings, positions: Arc<dyn Positions>) -> Self {
        Self { settings, positions, events: Mutex::default() }
    }

    pub(super) fn take_event(&self) -> Option<Event<'static>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    fn tell(&self, event: Event<'static>) {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push_back(event);
    }

    /// Finds the first offset of each partition and what can't be read.
    pub(super) fn place(&self, consumer: &BaseConsumer<Self>, at: Vec<TopicPartition>) -> Vec<Assigned> {
        let starts = self.positions.starts(&at);
        let passed = passed(consumer, &at, &starts);
        let mut names: Vec<String> = at.iter().map(|p| p.topic.clone()).collect();
        names.sort_unstable();
        names.dedup();
        let ids = topics::describe(consumer.client(), &names, BROKER_ANSWER);
        let counts = topics::partition_counts(consumer.client(), &names, BROKER_ANSWER);
        let there: Vec<&TopicPartition> = at.iter().filter(|at| counts.contains_key(&at.topic)).collect();
        let edges = topics::edges(consumer, &there, BROKER_ANSWER);
        at.into_iter()
            .zip(starts)
            .map(|(at, start)| {
                let topic_id = ids.get(&at.topic).cloned();
                let looked =
                    counts.get(&at.topic).copied().ok_or("the broker does not say how many partitions there are");
                let looked = looked.map_err(str::to_owned).and_then(|count| {
                    let known = edges.get(&at).copied();
                    let reach =
                        known.map_or_else(|| consumer.fetch_watermarks(&at.topic, at.partition, BROKER_ANSWER), Ok);
                    reach.map(|(low, high)| (count, low, high)).map_err(|e| e.to_string())
                });
                let (partition_count, low, high) = match looked {
                    Ok(looked) => looked,
                    Err(detail) => {
                        let misplaced = Some(Misplaced::Unknown { detail });
                        return Assigned { at, position: None, high: -1, topic_id, partition_count: 0, misplaced };
                    }
                };
                let (position, misplaced) = match start {
                    Start::Hold => (None, None),
                    Start::Earliest => (Some(low), None),
                    Start::Latest => (Some(high), None),
                    Start::Passed { otherwise, .. } => {
                        let next = passed.get(&at).copied().filter(|n| misplaced(*n, low, high).is_none());
                        let edge = if *otherwise == Start::Latest { high } else { low };
                        (Some(next.unwrap_or(edge)), None)
                    }
                    Start::At(next) => match misplaced(next, low, high) {
                        None => (Some(next), None),
                        Some(m) => (None, Some(m)),
                    },
                };
                Assigned { at, position, high, topic_id, partition_count, misplaced }
            })
            .collect()
    }
}

/// What the group noted of the partitions that begin behind what was passed.
fn passed(consumer: &BaseConsumer<Context>, at: &[TopicPartition], starts: &[Start]) -> HashMap<TopicPartition, i64> {
    let marks: HashMap<&TopicPartition, &str> = at
        .iter()
        .zip(starts)
        .filter_map(|(at, start)| match start {
            Start::Passed { mark, .. } => Some((at, mark.as_str())),
            _ => None,
        })
        .collect();
    if marks.is_empty() {
        return HashMap::new();
    }
    match consumer.committed_offsets(list(marks.keys().map(|at| (*at, Offset::Invalid))), BROKER_ANSWER) {
        Ok(noted) => noted
            .elements()
            .iter()
            .filter_map(|e| {
                let at = TopicPartition::new(e.topic(), e.partition());
                let marked = marks.get(&at).is_some_and(|mark| *mark == e.metadata());
                match e.offset() {
                    Offset::Offset(next) if marked => Some((at, next)),
                    _ => None,
                }
            })
            .collect(),
        Err(e) => {
            // They are read once more.
            tracing::debug!(target: "kafka", "what the group has passed can't be read: {e}");
            HashMap::new()
        }
    }
}

/// The client's words among firn's.
pub(super) fn log(level: RDKafkaLogLevel, fac: &str, message: &str) {
    use RDKafkaLogLevel as L;
    match level {
        L::Emerg | L::Alert | L::Critical | L::Error => tracing::error!(target: "kafka", fac, "{message}"),
        // The group's offsets are for lag tools only; around a rebalance some are refused, and the next report makes up for it.
        L::Warning if message.contains("Offset commit (manual) failed") => {
            tracing::debug!(target: "kafka", fac, "{message}")
        }
        // [kafka.properties] are for consumers and producers alike.
        L::Warning if message.contains("property and will be ignored by this") => {
            tracing::debug!(target: "kafka", fac, "{message}")
        }
        L::Warning => tracing::warn!(target: "kafka", fac, "{message}"),
        _ => tracing::debug!(target: "kafka", fac, "{message}"),
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        log(level, fac, message);
    }

    fn error(&self, error: rdkafka::error::KafkaError, reason: &str) {
        tracing::warn!(target: "kafka", bootstrap = %self.settings.bootstrap(), "{error}: {reason}");
    }
}

impl ConsumerContext for Context {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, code: RDKafkaRespErr, tpl: &mut TopicPartitionList) {
        let at: Vec<TopicPartition> =
            tpl.elements().iter().map(|e| TopicPartition::new(e.topic(), e.partition())).collect();
        if is_assignment(code) {
            let assigned = self.place(consumer, at);
            let placed = list(assigned.iter().map(|a| (&a.at, a.position.map_or(Offset::End, Offset::Offset))));
            if let Err(e) = consumer.incremental_assign(&placed) {
                tracing::error!(target: "kafka", "assignment refused: {e}");
            }
            // A pause outlives the assignment that it was made in.
            let read = list(assigned.iter().filter(|a| a.position.is_some()).map(|a| (&a.at, Offset::Invalid)));
            if read.count() > 0 {
                let _ = consumer.resume(&read);
            }
            let held = list(assigned.iter().filter(|a| a.position.is_none()).map(|a| (&a.at, Offset::Invalid)));
            if held.count() > 0 {
                let _ = consumer.pause(&held);
            }
            self.tell(Event::Assigned(assigned));
        } else {
            if let Err(e) = consumer.incremental_unassign(tpl) {
                tracing::error!(target: "kafka", "revocation refused: {e}");
            }
            self.tell(Event::Revoked(at));
        }
    }
}
