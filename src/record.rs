//! What Kafka hands over: one message, undecoded.

use crate::position::TopicPartition;

/// One Kafka message, borrowed from the client's buffer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Record<'a> {
    pub topic: &'a str,
    pub partition: i32,
    pub offset: i64,
    /// Kafka's record timestamp, ms since the epoch.
    pub timestamp_ms: Option<i64>,
    pub key: Option<&'a [u8]>,
    /// `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// `None` where it has none.
    pub headers: Option<&'a dyn Headers>,
}

/// A message's headers: looked at by name, and only where a record gives reason to.
pub trait Headers: std::fmt::Debug {
    /// The value of the last header of this name.
    fn last(&self, name: &str) -> Option<&[u8]>;
}

impl<'a> Record<'a> {
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.headers?.last(name)
    }

    pub fn origin(&self) -> Origin {
        Origin { at: TopicPartition::new(self.topic, self.partition), offset: self.offset }
    }
}

/// Where a row came from: enough to find the message again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    pub at: TopicPartition,
    pub offset: i64,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.at, self.offset)
    }
}

/// A record that could not become a row, on its way to the dead letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    pub origin: Origin,
    /// Kafka's topic id, where the broker tells it: offsets of a topic made anew are others.
    pub topic_id: Option<String>,
    pub timestamp_ms: Option<i64>,
    /// A stable word for counters and queries, e.g. `not_json`, `bad_value`.
    pub reason: &'static str,
    /// The sentence for a person: what was wrong, where in the record.
    pub detail: String,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
}
