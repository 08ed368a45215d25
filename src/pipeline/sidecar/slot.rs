//! Where the reading of one partition stands between two deliveries.

use crate::position::{Span, TopicPartition};
use crate::sink::Standing;
use crate::source::kafka::Assigned;

/// One partition that is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    /// The sink has everything below it.
    pub from: i64,
    /// The next offset to read.
    pub next: i64,
    /// The next delivery must end exactly here.
    pub until: Option<i64>,
    pub topic_id: Option<String>,
    partition_count: i32,
    /// When the record at `next - 1` came to Kafka.
    last_ms: Option<i64>,
    /// When the oldest record since `from` came to Kafka.
    pub oldest_ms: Option<i64>,
    /// When its last delivery was, or its reading began; ms on the runner's clock.
    pub delivered_at: u64,
}

impl Slot {
    pub(super) fn new(assigned: &Assigned, position: i64, standing: Option<&Standing>, now: u64) -> Self {
        Self {
            from: position,
            next: position,
            until: standing.filter(|s| s.next == position).and_then(|s| s.until).filter(|until| *until > position),
            topic_id: assigned.topic_id.clone(),
            partition_count: assigned.partition_count,
            last_ms: None,
            oldest_ms: None,
            delivered_at: now,
        }
    }

    /// Whether a record at this offset comes only after a delivery that must end before it.
    pub(super) fn is_beyond(&self, offset: i64) -> bool {
        self.until.is_some_and(|until| offset >= until)
    }

    pub(super) fn took(&mut self, offset: i64, timestamp_ms: Option<i64>) {
        self.next = offset + 1;
        self.last_ms = timestamp_ms.or(self.last_ms);
        self.oldest_ms = self.oldest_ms.into_iter().chain(timestamp_ms).min();
    }

    /// Whether there is something to deliver.
    pub(super) fn has_moved(&self) -> bool {
        self.next > self.from
    }

    /// Whether a range that was begun once is whole.
    pub(super) fn is_complete(&self) -> bool {
        self.until == Some(self.next)
    }

    pub(super) fn span(&self, at: &TopicPartition) -> Span {
        Span {
            timestamp_ms: self.last_ms,
            topic_id: self.topic_id.clone(),
            partition_count: Some(self.partition_count),
            ..Span::new(at.clone(), self.from, self.next)
        }
    }

    pub(super) fn delivered(&mut self, now: u64) {
        self.from = self.next;
        self.until = None;
        self.oldest_ms = None;
        self.delivered_at = now;
    }
}
