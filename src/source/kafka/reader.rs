//! All partitions of one topic, from their beginning on, beside any group: for what every process needs whole.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};

use super::{BROKER_ANSWER, ClientSettings, PolledRecord, SourceError, topics};

/// What a poll of a [`TopicReader`] brings.
#[derive(Debug)]
pub enum Read<'a> {
    Record(PolledRecord<'a>),
    Idle,
    /// The log has lost what was to be read next: the next [`look`](TopicReader::look) begins anew.
    OutOfRange,
    Trouble(String),
}

/// What a topic is found to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Looked {
    /// It is another one of the same name, or has lost what was to be read next: it is read from its beginning, and what was read before
    /// counts no more.
    pub is_anew: bool,
    /// Where the log of each partition ends, for a reader of what is committed.
    pub ends: BTreeMap<i32, i64>,
}

/// Reads a whole topic, and goes on reading it.
pub struct TopicReader {
    consumer: BaseConsumer,
    topic: String,
    /// Kafka's id of it, where the brokers tell it.
    id: Option<String>,
    next: BTreeMap<i32, i64>,
    is_out_of_range: bool,
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
        Ok(Self { consumer, topic: topic.to_owned(), id: None, next: BTreeMap::new(), is_out_of_range: false })
    }

    /// Looks for partitions that are not read yet, and reads them from their beginning; all of them where the topic is not what it was.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub fn look(&mut self) -> Result<Looked, KafkaError> {
        let name = std::slice::from_ref(&self.topic);
        let metadata = self.consumer.fetch_metadata(Some(&self.topic), BROKER_ANSWER)?;
        let count = metadata.topics().first().map_or(0, |topic| topic.partitions().len() as i32);
        let edge = |partition| Ok((partition, self.consumer.fetch_watermarks(&self.topic, partition, BROKER_ANSWER)?));
        let edges: BTreeMap<i32, (i64, i64)> = (0..count).map(edge).collect::<Result<_, KafkaError>>()?;
        let id = topics::describe(self.consumer.client(), name, BROKER_ANSWER).remove(&self.topic);
        let other = self.id.as_ref().zip(id.as_ref()).is_some_and(|(had, has)| had != has);
        // While it is deleted there is nothing to begin with.
        let is_anew = count > 0 && (other || self.is_out_of_range || !is_readable(&self.next, &edges));
        if is_anew {
            self.consumer.unassign()?;
            self.next.clear();
            self.is_out_of_range = false;
        }
        self.id = id.or(self.id.take());
        let mut new = TopicPartitionList::new();
        for (partition, (low, _)) in edges.iter().filter(|(partition, _)| !self.next.contains_key(partition)) {
            new.add_partition_offset(&self.topic, *partition, Offset::Offset(*low))?;
        }
        if new.count() > 0 {
            self.consumer.incremental_assign(&new)?;
            for at in new.elements() {
                if let Offset::Offset(low) = at.offset() {
                    self.next.insert(at.partition(), low);
                }
            }
        }
        Ok(Looked { is_anew, ends: edges.into_iter().map(|(partition, (_, high))| (partition, high)).collect() })
    }

    /// Of each partition the next offset: everything below it was read.
    pub fn next(&self) -> &BTreeMap<i32, i64> {
        &self.next
    }

    /// Goes on behind offsets that hold no record.
    pub fn passed(&mut self, partition: i32, next: i64) {
        self.next.entry(partition).and_modify(|have| *have = next.max(*have));
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
            Some(Err(KafkaError::MessageConsumption(
                RDKafkaErrorCode::OffsetOutOfRange | RDKafkaErrorCode::AutoOffsetReset,
            ))) => {
                self.is_out_of_range = true;
                Ok(Read::OutOfRange)
            }
            Some(Err(e)) => Ok(Read::Trouble(e.to_string())),
        }
    }
}

/// Whether each partition can be read on in a log that begins and ends there.
fn is_readable(next: &BTreeMap<i32, i64>, edges: &BTreeMap<i32, (i64, i64)>) -> bool {
    next.iter().all(|(partition, next)| edges.get(partition).is_some_and(|(low, high)| (low..=high).contains(&next)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_begins_later_or_ends_earlier_can_not_be_read_on() {
        let readable = |next: &[(i32, i64)], edges: &[(i32, (i64, i64))]| {
            is_readable(&next.iter().copied().collect(), &edges.iter().copied().collect())
        };
        assert!(readable(&[], &[(0, (3, 9))]));
        assert!(readable(&[(0, 3), (1, 5)], &[(0, (3, 9)), (1, (0, 5)), (2, (0, 1))]));
        assert!(!readable(&[(0, 2)], &[(0, (3, 9))]), "retention took what was next");
        assert!(!readable(&[(0, 10)], &[(0, (3, 9))]), "it was made anew");
        assert!(!readable(&[(0, 0), (1, 0)], &[(0, (0, 9))]), "with fewer partitions");
    }
}
