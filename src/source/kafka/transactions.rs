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
use rdkafka::consumer::{BaseConsumer, Consumer};

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
    /// What it takes in a batch of its own, uncompressed: "Record Batch" in Kafka's documentation of its message format.
    fn bytes(&self) -> usize {
        let bytes =
            |value: Option<&[u8]>| varint_bytes(value.map_or(1, |v| 2 * v.len())) + value.map_or(0, <[u8]>::len);
        let header = |(name, value): &(String, Vec<u8>)| bytes(Some(name.as_bytes())) + bytes(Some(value));
        let headers: usize = self.headers.iter().map(header).sum();
        // Attributes, and the differences of time and offset to the batch's: a byte each.
        let body = 3 + bytes(self.key) + bytes(self.value) + varint_bytes(2 * self.headers.len()) + headers;
        BATCH_BYTES + varint_bytes(2 * body) + body
    }
}

/// Where messages stand in a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// The first of them.
    pub first: i64,
    /// Behind the last.
    pub next: i64,
    messages: i64,
}

impl Span {
    fn add(&mut self, offset: i64) {
        self.first = if self.messages == 0 { offset } else { self.first.min(offset) };
        self.next = self.next.max(offset + 1);
        self.messages += 1;
    }

    /// Whether others' records, or ends of transactions, stand between them: they arrive in several batches.
    pub fn is_mixed(&self) -> bool {
        self.next - self.first > self.messages
    }
}

/// The transactions of one group. All calls block.
pub struct Transactions {
    settings: ClientSettings,
    group: String,
    /// Reads the group's offsets, and stands for it in transactions. Never joins.
    consumer: BaseConsumer,
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
        let (settings, group) = (settings.clone(), group.to_owned());
        Ok(Self { settings, group, consumer, writers: HashMap::new(), batches: Batches::default() })
    }

    /// Tries whether the brokers give this group a transactional id at all. It fences nobody.
    ///
    /// # Errors
    /// Why not.
    pub fn probe(settings: &ClientSettings, group: &str) -> Result<(), TransactionError> {
        Writer::begin(settings, &format!("{group}.check"), Batches::default()).map(|_| ())
    }

    /// Makes this process the only one that can move the partition's offset; what the group has of it.
    ///
    /// # Errors
    /// When the brokers do not answer or refuse it.
    pub fn take_over(&mut self, at: &TopicPartition) -> Result<Option<Noted>, TransactionError> {
        let id = format!("{}.{}.{}", self.group, at.topic, at.partition);
        let mut writer = Writer::begin(&self.settings, &id, self.batches)?;
        // Nothing is pending any more: the answer is final.
        let noted = self.noted(at)?;
        writer.knows(noted.clone());
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
        loop {
            let Some(writer) = self.writers.get_mut(at) else {
                return Err(TransactionError::Fenced(format!("{at}: not taken over")));
            };
            if writer.is_spent() {
                self.renew(at)?;
                continue;
            }
            let Some(group) = self.consumer.group_metadata() else {
                return Err(TransactionError::Unavailable(format!("{at}: the client knows no group")));
            };
            let failed = match writer.commit(at, noted, group, messages) {
                Err(TransactionError::TooLarge(failed)) => failed,
                Err(e) => {
                    if matches!(e, TransactionError::Fenced(_)) {
                        self.writers.remove(at);
                    }
                    return Err(e);
                }
                Ok(()) => return Ok(()),
            };
            // A message that is larger than a batch may be was refused alone; of others nobody knows which it was.
            let is_alone = |place: &usize| messages.get(*place).is_some_and(|m| m.bytes() > self.batches.0);
            match self.batches.smaller().filter(|_| !failed.iter().all(is_alone)) {
                Some(smaller) => self.batches = smaller,
                None if self.settings.compresses() => return Err(TransactionError::TooLarge(failed)),
                None => return Err(TransactionError::TooLarge(as_large(failed, messages))),
            }
            self.renew(at)?;
        }
    }

    /// Goes on with a new producer, where the group's offset is the one that the former left.
    fn renew(&mut self, at: &TopicPartition) -> Result<(), TransactionError> {
        let known = self.writers.get(at).and_then(Writer::noted).cloned();
        if self.take_over(at)? == known {
            return Ok(());
        }
        self.writers.remove(at);
        Err(TransactionError::Fenced(format!("{at}: the group's offset is another one now")))
    }
}

/// What a batch has beside its records.
const BATCH_BYTES: usize = 61;

/// The length of a number of seven bits a byte; lengths are counted in zigzag, doubled.
fn varint_bytes(number: usize) -> usize {
    (usize::BITS - number.leading_zeros()).div_ceil(7).max(1) as usize
}

/// The messages that failed, and all that are as large as one of them: the first ends the transaction, the others are not tried.
fn as_large(failed: Vec<usize>, messages: &[Outgoing<'_>]) -> Vec<usize> {
    let known: Vec<&Outgoing<'_>> = failed.iter().filter_map(|place| messages.get(*place)).collect();
    let is_as_large = |m: &Outgoing<'_>, k: &Outgoing<'_>| m.topic == k.topic && m.bytes() >= k.bytes();
    let too_large = |(place, m): (usize, &Outgoing<'_>)| {
        (failed.contains(&place) || known.iter().any(|k| is_as_large(m, k))).then_some(place)
    };
    messages.iter().enumerate().filter_map(too_large).collect()
}

#[cfg(test)]
mod tests;
