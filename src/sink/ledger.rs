//! Where sinks that have no store of their own keep their positions: in Kafka, as the offsets of the sink's consumer group, each
//! changed by a transaction that may carry messages too.
//!
//! Knows nothing of Kafka's client: the pipeline hands a [`Ledger`] to the sink.

use async_trait::async_trait;

use super::SinkError;
use crate::position::TopicPartition;

/// What is stored of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The next offset to deliver.
    pub next: i64,
    /// What else the sink wants to know again. Short: brokers take 4096 bytes.
    pub note: String,
}

/// A message that is written in the same transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    pub topic: String,
    /// By the key, as Kafka's Java clients do, where `None`.
    pub partition: Option<i32>,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Vec<u8>)>,
}

/// Positions of one sink.
#[async_trait]
pub trait Ledger: Send {
    /// Takes a partition over: from now on whoever had it can't commit any more. What is stored of it.
    async fn take_over(&mut self, at: &TopicPartition) -> Result<Option<Entry>, SinkError>;

    /// Stores the entry, and the messages with it: both or nothing.
    ///
    /// # Errors
    /// [`SinkError::Unavailable`]: it was not done, or an answer was lost and nobody knows yet. The next call finds out before it does
    /// anything: with the same entry it answers whether that is stored, with another one it answers [`SinkError::Moved`] where the
    /// first is stored.
    /// [`SinkError::Moved`] after a take-over by another, too: take it over again to see what is stored.
    /// [`SinkError::Refused`] with the places of messages that are too large: nothing was done.
    async fn commit(&mut self, at: &TopicPartition, entry: &Entry, messages: &[Message]) -> Result<(), SinkError>;
}
