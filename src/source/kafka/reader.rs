//! All partitions of one topic, from their beginning on, beside any group: for what every process needs whole.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};

use super::topics::partition_counts;
use super::{BROKER_ANSWER, ClientSettings, PolledRecord, SourceError};

/// What a poll of a [`TopicReader`] brings.
#[derive(Debug)]
pub enum Read<'a> {
    Record(PolledRecord<'a>),
    Idle,
    Trouble(String),
}

/// Reads a whole topic, and goes on reading it.
pub struct TopicReader {
    consumer: BaseConsumer,
    topic: String,
    next: BTreeMap<i32, i64>,
}

impl std::fmt::Debug for TopicReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TopicReader").field("topic", &self.topic).field("next", &self.next).finish_non_exhaustive()
    }
}

impl TopicReader {
    /// Reads nothing before [`look`](Self::look).
    ///
    /// # Errors
    /// When the client's properties are refused.
    pub fn new(settings: &ClientSettings, topic: &str) -> Result<Self, SourceError> {
        let mut client = settings.consumer("firn.views", 0);
        client.remove("group.instance.id");
        let consumer = client.create().map_err(SourceError::Client)?;
        Ok(Self { consumer, topic: topic.to_owned(), next: BTreeMap::new() })
    }

    /// Looks for partitions that are not read yet, and reads them from their beginning.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub fn look(&mut self) -> Result<(), KafkaError> {
        let counts = partition_counts(self.consumer.client(), std::slice::from_ref(&self.topic), BROKER_ANSWER);
        let count = counts.get(&self.topic).copied().unwrap_or_default();
        let mut new = TopicPartitionList::new();
        for partition in (0..count).filter(|p| !self.next.contains_key(p)) {
            let (low, _) = self.consumer.fetch_watermarks(&self.topic, partition, BROKER_ANSWER)?;
            new.add_partition_offset(&self.topic, partition, Offset::Offset(low))?;
        }
        if new.count() > 0 {
            self.consumer.incremental_assign(&new)?;
            for at in new.elements() {
                if let Offset::Offset(low) = at.offset() {
                    self.next.insert(at.partition(), low);
                }
            }
        }
        Ok(())
    }

    /// Of each partition the next offset: everything below it was read.
    pub fn next(&self) -> &BTreeMap<i32, i64> {
        &self.next
    }

    /// Goes on behind offsets that hold no record.
    pub fn passed(&mut self, partition: i32, next: i64) {
        self.next.entry(partition).and_modify(|have| *have = next.max(*have));
    }

    /// Where the log of each partition ends now, for a reader of what is committed.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub fn ends(&self) -> Result<BTreeMap<i32, i64>, KafkaError> {
        let end = |partition: &i32| {
            let (_, high) = self.consumer.fetch_watermarks(&self.topic, *partition, BROKER_ANSWER)?;
            Ok((*partition, high))
        };
        self.next.keys().map(end).collect()
    }

    /// Waits up to `timeout` for the next record.
    ///
    /// # Errors
    /// Only when the client is of no more use.
    pub fn poll(&mut self, timeout: Duration) -> Result<Read<'_>, SourceError> {
        match self.consumer.poll(timeout) {
            None => Ok(Read::Idle),
            Some(Ok(message)) => {
                let polled = PolledRecord(message);
                let record = polled.record();
                self.next.insert(record.partition, record.offset + 1);
                Ok(Read::Record(polled))
            }
            Some(Err(e @ KafkaError::MessageConsumptionFatal(_))) => Err(SourceError::Fatal(e)),
            Some(Err(e)) => Ok(Read::Trouble(e.to_string())),
        }
    }
}
