//! Offsets of a group that change by transactions alone, each with messages: both are done or none.
//!
//! Each source partition has a producer of its own, under the transactional id `<group>.<topic>.<partition>`: who begins to use an
//! id fences whoever had it, and what that one had begun is aborted. The group itself is never joined from here, so its members may be
//! anybody: brokers take a transaction's offsets from any producer, and fencing alone decides who may.

mod error;
mod messages;
mod writer;

use std::collections::HashMap;

use rdkafka::Offset;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerGroupMetadata};

use super::{BROKER_ANSWER, ClientSettings, SourceError, list};
use crate::position::TopicPartition;
pub use error::TransactionError;
pub use messages::MessageTransactions;
use writer::{Batches, Writer};

/// What the group has of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Noted {
    /// The next offset to read.
    pub next: i64,
    /// Brokers take 4096 bytes.
    pub note: String,
}

/// A message of a transaction.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    pub topic: &'a str,
    /// By the key, as Kafka's Java clients do, where `None`.
    pub partition: Option<i32>,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub headers: &'a [(String, Vec<u8>)],
}

impl Outgoing<'_> {
    /// At least what it takes in a batch.
    fn bytes(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        self.key.map_or(0, <[u8]>::len) + self.value.map_or(0, <[u8]>::len) + headers
    }
}

/// The transactions of one group. All calls block.
pub struct Transactions {
    settings: ClientSettings,
    group: String,
    /// Reads the group's offsets, and stands for it in transactions. Never joins.
    consumer: BaseConsumer,
    metadata: ConsumerGroupMetadata,
    writers: HashMap<TopicPartition, Writer>,
    batches: Batches,
}

impl std::fmt::Debug for Transactions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transactions").field("group", &self.group).finish_non_exhaustive()
    }
}

impl Transactions {
    /// # Errors
    /// When a property is refused.
    pub fn new(settings: &ClientSettings, group: &str) -> Result<Self, SourceError> {
        let mut client = settings.consumer(group, 0);
        // As a member's name it would be checked against the group's members.
        client.remove("group.instance.id");
        let consumer: BaseConsumer = client.create().map_err(SourceError::Client)?;
        let no_group = || SourceError::Client(rdkafka::error::KafkaError::ClientCreation(format!("no group {group}")));
        let metadata = consumer.group_metadata().ok_or_else(no_group)?;
        let (settings, group) = (settings.clone(), group.to_owned());
        Ok(Self { settings, group, consumer, metadata, writers: HashMap::new(), batches: Batches::default() })
    }

    /// Makes this process the only one that can move the partition's offset; what the group has of it.
    ///
    /// # Errors
    /// When the brokers do not answer or refuse it.
    pub fn take_over(&mut self, at: &TopicPartition) -> Result<Option<Noted>, TransactionError> {
        // Its own connection is given up first: there is one for each id.
        self.writers.remove(at);
        let id = format!("{}.{}.{}", self.group, at.topic, at.partition);
        let writer = Writer::begin(&self.settings, &id, self.batches)?;
        // Nothing is pending any more: the answer is final.
        let noted = self.noted(at)?;
        self.writers.insert(at.clone(), writer);
        Ok(noted)
    }

    fn noted(&self, at: &TopicPartition) -> Result<Option<Noted>, TransactionError> {
        let asked = list(std::iter::once((at, Offset::Invalid)));
        // `isolation.level` of the consumer: an offset of an open transaction is waited for.
        let answer = self.consumer.committed_offsets(asked, BROKER_ANSWER).map_err(|e| TransactionError::of(&e))?;
        let found = answer.find_partition(&at.topic, at.partition);
        let Some(found) = found else {
            return Err(TransactionError::Unavailable(format!("{at}: no answer about the group's offset")));
        };
        found.error().map_err(|e| TransactionError::of(&e))?;
        Ok(match found.offset() {
            Offset::Offset(next) => Some(Noted { next, note: found.metadata().to_owned() }),
            _ => None,
        })
    }

    /// Sets the offset, and writes the messages with it. The partition has to be taken over before.
    ///
    /// # Errors
    /// [`TransactionError::Unavailable`]: not done, or nobody knows yet. Then the next call waits for that first, and is
    /// [`TransactionError::Fenced`] where it was done and was to do something else.
    pub fn commit(
        &mut self,
        at: &TopicPartition,
        noted: &Noted,
        messages: &[Outgoing<'_>],
    ) -> Result<(), TransactionError> {
        let Some(writer) = self.writers.get_mut(at) else {
            return Err(TransactionError::Fenced(format!("{at}: not taken over")));
        };
        let done = writer.commit(at, noted, &self.metadata, messages);
        match done {
            Err(TransactionError::Fenced(_)) => {
                self.writers.remove(at);
                done
            }
            Err(TransactionError::TooLarge(failed)) => Err(self.too_large(at, failed, messages)),
            _ => done,
        }
    }

    /// What to say of messages that the brokers found too large, or in too large a batch.
    fn too_large(&mut self, at: &TopicPartition, failed: Vec<usize>, messages: &[Outgoing<'_>]) -> TransactionError {
        // A message that is larger than a batch may be was refused alone; of others nobody knows which it was.
        let is_alone = |place: &usize| messages.get(*place).is_some_and(|m| m.bytes() > self.batches.0);
        if !failed.iter().all(is_alone)
            && let Some(smaller) = self.batches.smaller()
        {
            self.batches = smaller;
            self.writers.remove(at);
            let bytes = smaller.0;
            return TransactionError::Fenced(format!(
                "{at}: the topic takes no batches of this size; once more with batches of {bytes} bytes"
            ));
        }
        TransactionError::TooLarge(match self.settings.compresses() {
            true => failed,
            false => as_large(failed, messages),
        })
    }
}

/// What a record may take beside what [`Outgoing::bytes`] counts, more or less than another one.
const UNEVEN_BYTES: usize = 16;

/// The messages that failed, and all that are larger than one of them: the first ends the transaction, the others are not tried.
fn as_large(failed: Vec<usize>, messages: &[Outgoing<'_>]) -> Vec<usize> {
    let known: Vec<&Outgoing<'_>> = failed.iter().filter_map(|place| messages.get(*place)).collect();
    let is_larger = |m: &Outgoing<'_>, k: &Outgoing<'_>| {
        m.topic == k.topic && m.headers.len() == k.headers.len() && m.bytes() >= k.bytes() + UNEVEN_BYTES
    };
    let too_large = |(place, m): (usize, &Outgoing<'_>)| {
        (failed.contains(&place) || known.iter().any(|k| is_larger(m, k))).then_some(place)
    };
    messages.iter().enumerate().filter_map(too_large).collect()
}

#[cfg(test)]
mod tests;
