//! Where the reading of one partition stands between two deliveries.

use super::state::State;
use crate::position::{Span, TopicPartition};
use crate::sink::Standing;
use crate::source::kafka::Assigned;

/// One partition that is read.
#[derive(Debug)]
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
    /// What the pipeline keeps of it from change to change.
    pub state: Option<State>,
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
            state: None,
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

    /// Whether a range that was begun once is still to be read to its end.
    pub(super) fn is_incomplete(&self) -> bool {
        self.until.is_some_and(|until| self.next < until)
    }

    /// The range that was begun once has no record any more up to its end.
    pub(super) fn complete(&mut self) {
        self.next = self.until.unwrap_or(self.next);
    }

    /// Nothing was read since the sink was last told.
    pub(super) fn start_over(&mut self) {
        self.next = self.from;
        self.oldest_ms = None;
        self.state.iter_mut().for_each(State::undo);
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
        self.state.iter_mut().for_each(State::settle);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(position: i64, until: Option<i64>) -> Slot {
        let at = TopicPartition::new("t", 0);
        let (topic_id, misplaced) = (None, None);
        let assigned = Assigned { at, position: Some(position), high: 100, topic_id, partition_count: 1, misplaced };
        Slot::new(&assigned, position, Some(&Standing { next: position, until, topic_id: None }), 0)
    }

    #[test]
    fn a_range_that_was_begun_ends_where_it_was_to_end() {
        let mut slot = slot(5, Some(9));
        slot.took(5, Some(70));
        slot.took(7, Some(60));
        assert!(slot.is_incomplete() && !slot.is_complete() && slot.is_beyond(9) && !slot.is_beyond(8));
        // A record behind the end came: 8 holds none.
        slot.complete();
        let span = slot.span(&TopicPartition::new("t", 0));
        assert!(slot.is_complete());
        assert_eq!((span.from, span.next, span.timestamp_ms, slot.oldest_ms), (5, 9, Some(60), Some(60)));
        slot.delivered(3);
        assert!(!slot.has_moved() && !slot.is_beyond(100) && slot.until.is_none());
    }

    #[test]
    fn what_is_given_up_is_read_again() {
        let mut slot = slot(5, None);
        slot.took(6, Some(1));
        slot.start_over();
        assert_eq!((slot.next, slot.oldest_ms, slot.has_moved()), (5, None, false));
        assert_eq!(self::slot(5, Some(5)).until, None, "nothing was begun");
    }
}
