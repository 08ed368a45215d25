//! What is in all partitions of one topic, from here on up to offsets that are said piece by piece. Beside any group.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};

use super::{BROKER_ANSWER, ClientSettings, LogError, PolledRecord, SourceError};
use crate::position::TopicPartition;
use crate::record::Record;

/// How long the log may bring nothing before reading it is given up.
const SILENCE: Duration = Duration::from_secs(30);
/// How soon the log's end is looked at again that is waited for.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
const TURN: Duration = Duration::from_millis(100);

/// Reads a topic as far as it is asked to. All calls block.
pub struct Tail {
    consumer: BaseConsumer,
    topic: String,
    next: BTreeMap<i32, i64>,
}

impl std::fmt::Debug for Tail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tail").field("topic", &self.topic).field("next", &self.next).finish_non_exhaustive()
    }
}

impl Tail {
    /// `from`: the next offset of each partition that is read.
    ///
    /// # Errors
    /// When the client's properties are refused.
    pub fn new(settings: &ClientSettings, topic: &str, from: BTreeMap<i32, i64>) -> Result<Self, SourceError> {
        Self::of(settings, topic, from, true)
    }

    /// One that gives what is not committed as well, or never will be. Before each offset that it is asked for a record has to stand.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn uncommitted(settings: &ClientSettings, topic: &str) -> Result<Self, SourceError> {
        Self::of(settings, topic, BTreeMap::new(), false)
    }

    fn of(
        settings: &ClientSettings,
        topic: &str,
        next: BTreeMap<i32, i64>,
        committed: bool,
    ) -> Result<Self, SourceError> {
        let mut client = settings.consumer("firn.tail", 0);
        client.set("isolation.level", if committed { "read_committed" } else { "read_uncommitted" });
        client.remove("group.instance.id");
        // The leader is read: a follower may tell an end that is behind.
        client.remove("client.rack");
        // Before the end of what is committed markers alone may stand.
        client.set("enable.partition.eof", committed.to_string());
        // That nothing follows is told by an answer without records: it is asked for often.
        client.set("fetch.wait.max.ms", "5");
        let consumer = client.create().map_err(SourceError::Client)?;
        Ok(Self { consumer, topic: topic.to_owned(), next })
    }

    /// Goes on with these offsets.
    pub fn go_to(&mut self, next: BTreeMap<i32, i64>) {
        self.next = next;
    }

    /// Of each partition where a reader of what is committed stops: before the first transaction that is open.
    ///
    /// # Errors
    /// `Beyond` where that is before what is read next; otherwise when the brokers do not answer.
    pub fn ends(&self) -> Result<BTreeMap<i32, i64>, LogError> {
        (0..self.partitions()?).map(|partition| Ok((partition, self.end(partition)?))).collect()
    }

    /// How many partitions the topic has now.
    ///
    /// # Errors
    /// When the brokers do not answer.
    pub fn partitions(&self) -> Result<i32, LogError> {
        let metadata = self.consumer.fetch_metadata(Some(&self.topic), BROKER_ANSWER).map_err(|e| self.failed(0, e))?;
        Ok(metadata.topics().first().map_or(0, |topic| topic.partitions().len() as i32))
    }

    fn end(&self, partition: i32) -> Result<i64, LogError> {
        let edges = self.consumer.fetch_watermarks(&self.topic, partition, BROKER_ANSWER);
        let (_, end) = edges.map_err(|e| self.failed(partition, e))?;
        match self.next.get(&partition) {
            Some(next) if *next > end => Err(LogError::Beyond { at: self.at(partition), next: *next, end }),
            _ => Ok(end),
        }
    }

    /// Whether all before these offsets is committed or aborted within the time.
    ///
    /// # Errors
    /// As [`ends`](Self::ends).
    pub fn is_settled(&self, to: &BTreeMap<i32, i64>, within: Duration) -> Result<bool, LogError> {
        let begun = Instant::now();
        for (partition, to) in to {
            while self.end(*partition)? < *to {
                if begun.elapsed() > within {
                    return Ok(false);
                }
                std::thread::sleep(LOOK_AGAIN);
            }
        }
        Ok(true)
    }

    /// Gives `take` what stands before these offsets and was not given yet. For what is committed they have to be
    /// [settled](Self::is_settled).
    ///
    /// # Errors
    /// `Gone` where the log begins later; otherwise when the brokers do not answer.
    pub fn read_to(&mut self, to: &BTreeMap<i32, i64>, mut take: impl FnMut(&Record<'_>)) -> Result<(), LogError> {
        let mut left = TopicPartitionList::new();
        let mut open = 0;
        for (partition, to) in to {
            let next = *self.next.entry(*partition).or_insert(0);
            if next < *to {
                left.add_partition_offset(&self.topic, *partition, Offset::Offset(next))
                    .map_err(|e| self.failed(*partition, e))?;
                open += 1;
            }
        }
        if open == 0 {
            return Ok(());
        }
        self.consumer.assign(&left).map_err(|e| self.failed(0, e))?;
        let mut heard = Instant::now();
        while open > 0 {
            let (partition, next) = match self.consumer.poll(TURN) {
                Some(Ok(message)) => {
                    let polled = PolledRecord(message);
                    let record = polled.record();
                    take(&record);
                    (record.partition, record.offset + 1)
                }
                // What is left before the end are markers of transactions, and what they aborted.
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    (partition, to.get(&partition).copied().unwrap_or_default())
                }
                Some(Err(KafkaError::MessageConsumption(
                    RDKafkaErrorCode::OffsetOutOfRange | RDKafkaErrorCode::AutoOffsetReset,
                ))) => return Err(self.gone()),
                Some(Err(e @ KafkaError::MessageConsumptionFatal(_))) => return Err(self.failed(0, e)),
                Some(Err(_)) | None if heard.elapsed() > SILENCE => {
                    let (partition, next) = self.next.iter().next().map_or((0, 0), |(p, next)| (*p, *next));
                    return Err(LogError::Silent { at: self.at(partition), next, silence: SILENCE });
                }
                Some(Err(_)) | None => continue,
            };
            heard = Instant::now();
            let (had, end) = (self.next.entry(partition).or_insert(0), to.get(&partition).copied().unwrap_or_default());
            if *had < end && next >= end {
                open -= 1;
            }
            *had = next.max(*had);
        }
        self.consumer.unassign().map_err(|e| self.failed(0, e))
    }

    fn gone(&self) -> LogError {
        let low = |partition| {
            self.consumer.fetch_watermarks(&self.topic, partition, BROKER_ANSWER).map_or(0, |edges| edges.0)
        };
        let lost = self.next.iter().map(|(partition, next)| (*partition, *next, low(*partition)));
        let (partition, low) =
            lost.into_iter().find(|(_, next, low)| next < low).map_or((0, 0), |(p, _, low)| (p, low));
        LogError::Gone { at: self.at(partition), low }
    }

    fn at(&self, partition: i32) -> TopicPartition {
        TopicPartition::new(self.topic.clone(), partition)
    }

    fn failed(&self, partition: i32, source: KafkaError) -> LogError {
        LogError::Kafka { at: self.at(partition), source }
    }
}
