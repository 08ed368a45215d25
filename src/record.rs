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

    /// All of them in their order; a header without a value has an empty one.
    fn all(&self) -> Vec<(String, Vec<u8>)>;
}

/// Headers that were kept.
impl Headers for Vec<(String, Vec<u8>)> {
    fn last(&self, name: &str) -> Option<&[u8]> {
        self.iter().rev().find(|(n, _)| n == name).map(|(_, value)| value.as_slice())
    }

    fn all(&self) -> Vec<(String, Vec<u8>)> {
        self.clone()
    }
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
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
    /// When it was rejected, ms since the epoch.
    pub rejected_ms: i64,
    /// A stable word for counters and queries, e.g. `not_json`, `bad_value`.
    pub reason: &'static str,
    /// The sentence for a person: what was wrong, where in the record.
    pub detail: String,
    /// The writer's schema in the registry, where the record names one.
    pub schema_id: Option<i32>,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Vec<u8>)>,
}

impl Rejected {
    /// This record; the topic's and the schema's ids are the caller's to say.
    pub fn new(record: &Record<'_>, reason: &'static str, detail: String, rejected_ms: i64) -> Self {
        Self {
            origin: record.origin(),
            topic_id: None,
            timestamp_ms: record.timestamp_ms,
            rejected_ms,
            reason,
            detail,
            schema_id: None,
            key: record.key.map(<[u8]>::to_vec),
            value: record.value.map(<[u8]>::to_vec),
            headers: record.headers.map(Headers::all).unwrap_or_default(),
        }
    }
}

impl std::str::FromStr for Origin {
    type Err = String;

    /// Reads `topic/partition@offset`; a topic has no slash.
    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.rsplit_once('@').and_then(|(at, offset)| {
            let (topic, partition) = at.rsplit_once('/').filter(|(topic, _)| !topic.is_empty())?;
            Some(Origin { at: TopicPartition::new(topic, partition.parse().ok()?), offset: offset.parse().ok()? })
        });
        parts.ok_or_else(|| format!("`{text}` is not topic/partition@offset, e.g. shop.public.orders/0@1234"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_reads_as_it_is_printed() {
        let origin = Origin { at: TopicPartition::new("shop.public.orders", 3), offset: 1234 };
        assert_eq!(origin.to_string().parse::<Origin>(), Ok(origin));
        for wrong in ["t/0", "t@5", "/0@5", "t/x@5", "t/0@"] {
            assert!(wrong.parse::<Origin>().unwrap_err().contains(wrong), "{wrong}");
        }
    }
}
