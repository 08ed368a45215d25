//! A Kafka consumer that starts where the sink stands, not where the group's offsets are. rdkafka stops here.
//!
//! One [`KafkaSource`] belongs to one worker thread. The group protocol only allots partitions; the position of each comes from
//! [`Positions`]. Assignments and revocations surface as [`Event`]s between records, on the worker's own thread.

mod client;
mod context;
mod create;
pub mod inspect;
mod log;
mod producer;
mod reader;
mod tail;
#[cfg(test)]
pub mod testing;
mod topics;
mod transactions;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use firn_catalog::failpoint::{self, Step};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Headers as _;
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset, TopicPartitionList};

pub use client::{ClientSettings, settings};
use context::Context;
pub use create::{ensure_compacted, ensure_topic};
pub use log::{LogError, has_record, has_record_soon, is_compacted, read_log};
pub use producer::{Producer, SendError};
pub use reader::{Looked, Read, TopicReader};
pub use tail::Tail;
pub use topics::{
    Reach, TopicListing, committed, list_topics, offsets_since, partition_count, reach, topic_id, watermarks,
};
pub use transactions::{MessageTransactions, Noted, Outgoing, Span, TransactionError, Transactions};

use crate::position::TopicPartition;
use crate::record::{Headers, Record};

/// How long a question to the broker (watermarks, topic ids) may take.
const BROKER_ANSWER: Duration = Duration::from_secs(10);
/// The same where only the answer itself is of interest: nothing is read meanwhile.
const LOOK: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The client could not be made: a property is wrong.
    #[error("kafka client: {0}; look at [kafka] and [kafka.properties]")]
    Client(#[source] KafkaError),
    /// Nothing can be read any more with this client.
    #[error("kafka: {0}")]
    Fatal(#[source] KafkaError),
    /// The broker did not answer in time; the call may be repeated.
    #[error(
        "kafka at {bootstrap} does not answer: {source}; is it running, and are the listener and [kafka.properties] right?"
    )]
    Unreachable { bootstrap: String, source: KafkaError },
}

/// Where to begin with a partition, as the sink says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// The sink's own position: the next offset to read.
    At(i64),
    /// The sink has no position: the oldest record.
    Earliest,
    /// The sink has no position: only what comes from now on.
    Latest,
    /// The sink has nothing of the topic: behind what [`KafkaSource::report_passed`] noted under this mark, else at the beginning
    /// (`Earliest`) or the end (`Latest`).
    Passed { mark: String, otherwise: Box<Start> },
    /// Not to be read now.
    Hold,
}

/// Asked on the worker's thread when partitions are assigned; may block for some seconds.
pub trait Positions: Send + Sync {
    /// One answer for each of `assigned`, in its order.
    fn starts(&self, assigned: &[TopicPartition]) -> Vec<Start>;
}

/// Why a partition can't be read from the sink's position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Misplaced {
    /// The log begins after the position: retention removed rows that the sink does not have.
    BehindLog { position: i64, low: i64 },
    /// The log ends before the position: the topic was truncated or made anew.
    AheadOfLog { position: i64, high: i64 },
    /// The broker did not say where the log begins and ends, or how many there are.
    Unknown { detail: String },
}

/// One partition as it was assigned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assigned {
    pub at: TopicPartition,
    /// The next offset that will be read; `None` while the partition is held.
    pub position: Option<i64>,
    /// Offset after the last record when it was assigned.
    pub high: i64,
    /// Kafka's topic id, where the broker tells it.
    pub topic_id: Option<String>,
    /// How many partitions the topic has; 0 where the broker does not tell, and the partition is held.
    pub partition_count: i32,
    /// Set where the position is outside the log, or nobody knows whether it is: the partition is held.
    pub misplaced: Option<Misplaced>,
}

/// What a poll brings.
#[derive(Debug)]
pub enum Event<'a> {
    Record(PolledRecord<'a>),
    Assigned(Vec<Assigned>),
    Revoked(Vec<TopicPartition>),
    /// A subscribed topic isn't there (yet).
    UnknownTopic(String),
    /// The log no longer holds some position: ask [`KafkaSource::check_positions`].
    OutOfRange,
    /// Something that the client goes on trying to mend by itself.
    Trouble(String),
    Idle,
}

/// A message in the client's buffer.
#[derive(Debug)]
pub struct PolledRecord<'a>(BorrowedMessage<'a>);

impl PolledRecord<'_> {
    pub fn record(&self) -> Record<'_> {
        Record {
            topic: self.0.topic(),
            partition: self.0.partition(),
            offset: self.0.offset(),
            timestamp_ms: self.0.timestamp().to_millis(),
            key: self.0.key(),
            value: self.0.payload(),
            // librdkafka parses them at the first look.
            headers: Some(self),
        }
    }
}

impl Headers for PolledRecord<'_> {
    fn last(&self, name: &str) -> Option<&[u8]> {
        self.0.headers()?.iter().filter(|header| header.key == name).last()?.value
    }

    fn all(&self) -> Vec<(String, Vec<u8>)> {
        let owned = |header: rdkafka::message::Header<'_, &[u8]>| {
            (header.key.to_owned(), header.value.unwrap_or_default().to_vec())
        };
        self.0.headers().map(|headers| headers.iter().map(owned).collect()).unwrap_or_default()
    }
}

/// A consumer of one worker.
pub struct KafkaSource {
    consumer: BaseConsumer<Context>,
    /// For questions: on the consumer's own connections they would wait behind each fetch that waits for records.
    asker: BaseConsumer,
    settings: ClientSettings,
}

impl std::fmt::Debug for KafkaSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaSource").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl KafkaSource {
    /// A member of the group, number `worker` of this process. Reads nothing before [`subscribe`](Self::subscribe).
    ///
    /// # Errors
    /// When the client's properties are refused.
    pub fn join(
        settings: &ClientSettings,
        group: &str,
        worker: usize,
        positions: Arc<dyn Positions>,
    ) -> Result<Self, SourceError> {
        let context = Context::new(settings.clone(), positions);
        let consumer = settings.consumer(group, worker).create_with_context(context).map_err(SourceError::Client)?;
        let asker = settings.plain().create().map_err(SourceError::Client)?;
        Ok(Self { consumer, asker, settings: settings.clone() })
    }

    /// Sets which topics to read, named exactly. Topics that aren't there yet are read once they are.
    ///
    /// # Errors
    /// When the client refuses a name.
    pub fn subscribe(&self, topics: &[String]) -> Result<(), SourceError> {
        if topics.is_empty() {
            self.consumer.unsubscribe();
            return Ok(());
        }
        let names: Vec<&str> = topics.iter().map(String::as_str).collect();
        self.consumer.subscribe(&names).map_err(SourceError::Client)
    }

    /// Where these partitions would begin now: the sink's positions against the log. For partitions that were held.
    pub fn place(&self, partitions: &[TopicPartition]) -> Vec<Assigned> {
        self.consumer.context().place(&self.consumer, partitions.to_vec())
    }

    /// Waits up to `timeout` for the next event.
    ///
    /// # Errors
    /// Only when the client is of no more use.
    pub fn poll(&self, timeout: Duration) -> Result<Event<'_>, SourceError> {
        if let Some(event) = self.consumer.context().take_event() {
            return Ok(event);
        }
        if let Err(failure) = failpoint::before(Step::Poll) {
            return Self::trouble(injected(failure));
        }
        match self.consumer.poll(timeout) {
            None => Ok(self.consumer.context().take_event().unwrap_or(Event::Idle)),
            Some(Ok(message)) => match failpoint::after(Step::Poll) {
                Ok(()) => Ok(Event::Record(PolledRecord(message))),
                // The client never takes a record back: only its end can.
                Err(_) => Err(SourceError::Fatal(injected(failpoint::Failure::Error))),
            },
            Some(Err(e)) => Self::trouble(e),
        }
    }

    fn trouble(e: KafkaError) -> Result<Event<'static>, SourceError> {
        match e {
            KafkaError::MessageConsumptionFatal(_) => Err(SourceError::Fatal(e)),
            KafkaError::MessageConsumption(code) => Ok(match code {
                RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange => Event::OutOfRange,
                RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownPartition => Event::UnknownTopic(code.to_string()),
                _ => Event::Trouble(code.to_string()),
            }),
            other => Ok(Event::Trouble(other.to_string())),
        }
    }

    /// The partitions that are this member's now, whatever was told of them.
    ///
    /// # Errors
    /// When the client is of no more use.
    pub fn assignment(&self) -> Result<BTreeSet<TopicPartition>, SourceError> {
        let assigned = self.consumer.assignment().map_err(SourceError::Fatal)?;
        Ok(assigned.elements().iter().map(|e| TopicPartition::new(e.topic(), e.partition())).collect())
    }

    /// Stops fetching from these partitions until [`resume`](Self::resume); what was fetched ahead is dropped and fetched again.
    pub fn pause(&self, partitions: &[TopicPartition]) {
        // A partition that was just revoked can't be paused, and needs no pause.
        let _ = self.consumer.pause(&list(partitions.iter().map(|p| (p, Offset::Invalid))));
    }

    pub fn resume(&self, partitions: &[TopicPartition]) {
        let _ = self.consumer.resume(&list(partitions.iter().map(|p| (p, Offset::Invalid))));
    }

    /// Goes on at other positions, dropping what was fetched ahead. Paused partitions are read again.
    ///
    /// # Errors
    /// When the client refuses: a partition is no longer assigned.
    pub fn seek(&self, positions: &[(TopicPartition, i64)]) -> Result<(), SourceError> {
        let tpl = list(positions.iter().map(|(p, next)| (p, Offset::Offset(*next))));
        self.consumer.incremental_unassign(&tpl).map_err(SourceError::Fatal)?;
        self.consumer.incremental_assign(&tpl).map_err(SourceError::Fatal)?;
        // A pause outlives the assignment it was made in.
        self.consumer.resume(&tpl).map_err(SourceError::Fatal)
    }

    /// Notes with the group that no record before these positions is of use to the sink, under a mark by which [`Start::Passed`] knows
    /// it. Only for topics that the sink has nothing of: its own positions are in the table.
    pub fn report_passed(&self, positions: &[(TopicPartition, i64)], mark: &str) {
        let mut tpl = TopicPartitionList::new();
        for (at, next) in positions {
            let mut entry = tpl.add_partition(&at.topic, at.partition);
            entry.set_metadata(mark);
            // Every offset has a raw form.
            let _ = entry.set_offset(Offset::Offset(*next));
        }
        if tpl.count() > 0 {
            let _ = self.consumer.commit(&tpl, CommitMode::Async);
        }
    }

    /// Tells the group how far the sink is, for lag tools only; firn never reads it back.
    pub fn report(&self, positions: &[(TopicPartition, i64)]) {
        if !positions.is_empty() {
            let tpl = list(positions.iter().map(|(p, next)| (p, Offset::Offset(*next))));
            let _ = failpoint::around(Step::OffsetCommit, || self.consumer.commit(&tpl, CommitMode::Async), injected);
        }
    }

    /// Looks whether these positions are inside the log, and says where each log ends.
    pub fn check_positions(
        &self,
        positions: &[(TopicPartition, i64)],
    ) -> Vec<(TopicPartition, i64, Option<Misplaced>)> {
        positions
            .iter()
            .map(|(at, position)| match self.consumer.fetch_watermarks(&at.topic, at.partition, BROKER_ANSWER) {
                Ok((low, high)) => (at.clone(), high, misplaced(*position, low, high)),
                Err(e) => (at.clone(), -1, Some(Misplaced::Unknown { detail: e.to_string() })),
            })
            .collect()
    }

    /// Where the logs of these partitions end now.
    ///
    /// # Errors
    /// When the broker does not answer for one of them.
    pub fn ends(&self, partitions: &[TopicPartition]) -> Result<Vec<i64>, SourceError> {
        let unreachable = |source| SourceError::Unreachable { bootstrap: self.settings.bootstrap().to_owned(), source };
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        // It stands for a time, the latest: one question a broker, where the watermarks are two a partition.
        let asked = list(partitions.iter().map(|at| (at, Offset::End)));
        let found = self.asker.offsets_for_times(asked, BROKER_ANSWER).map_err(unreachable)?;
        let end = |at: &TopicPartition| {
            let answer = found.find_partition(&at.topic, at.partition).map(|p| p.error().map(|()| p.offset()));
            match answer.transpose().map_err(unreachable)? {
                Some(Offset::Offset(end)) => Ok(end),
                _ => Err(unreachable(KafkaError::OffsetFetch(RDKafkaErrorCode::UnknownPartition))),
            }
        };
        partitions.iter().map(end).collect()
    }

    /// Whether a broker answers now.
    pub fn answers(&self) -> bool {
        // Of one topic, wherever it is: the whole list may be long.
        let subscribed = self.consumer.subscription().ok();
        let topic = subscribed.as_ref().and_then(|list| list.elements().first().map(|at| at.topic().to_owned()));
        self.consumer.fetch_metadata(topic.as_deref(), LOOK).is_ok()
    }

    /// The current ids of these topics, where the broker tells them.
    pub fn topic_ids(&self, names: &[String]) -> HashMap<String, String> {
        topics::describe(self.asker.client(), names, BROKER_ANSWER)
    }

    /// The highest offset that was seen without asking the broker anew, for lag figures.
    pub fn cached_high(&self, at: &TopicPartition) -> Option<i64> {
        topics::cached_high(self.consumer.client(), at)
    }
}

/// Whether `position` can be read in a log that holds `low..high`.
fn misplaced(position: i64, low: i64, high: i64) -> Option<Misplaced> {
    if position < low {
        Some(Misplaced::BehindLog { position, low })
    } else if position > high {
        Some(Misplaced::AheadOfLog { position, high })
    } else {
        None
    }
}

/// As the client tells it.
fn injected(failure: failpoint::Failure) -> KafkaError {
    match failure {
        failpoint::Failure::Error => KafkaError::MessageConsumptionFatal(RDKafkaErrorCode::Fatal),
        failpoint::Failure::LostAnswer => KafkaError::MessageConsumption(RDKafkaErrorCode::RequestTimedOut),
    }
}

fn list<'a>(partitions: impl Iterator<Item = (&'a TopicPartition, Offset)>) -> TopicPartitionList {
    let mut tpl = TopicPartitionList::new();
    for (at, offset) in partitions {
        // Fails only for offsets that have no raw form; those used here have one.
        let _ = tpl.add_partition_offset(&at.topic, at.partition, offset);
    }
    tpl
}

/// rdkafka hands the callback a raw code; only these two name a rebalance.
fn is_assignment(code: RDKafkaRespErr) -> bool {
    code == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::inside(5, 0, 9, None)]
    #[case::at_the_end(9, 0, 9, None)]
    #[case::at_the_start(3, 3, 9, None)]
    #[case::retention_took_rows(2, 3, 9, Some(Misplaced::BehindLog { position: 2, low: 3 }))]
    #[case::topic_made_anew(10, 0, 9, Some(Misplaced::AheadOfLog { position: 10, high: 9 }))]
    fn a_position_is_readable_only_inside_the_log(
        #[case] position: i64,
        #[case] low: i64,
        #[case] high: i64,
        #[case] want: Option<Misplaced>,
    ) {
        assert_eq!(misplaced(position, low, high), want);
    }
}
