//! Where the reading of one partition stands between two deliveries.

use std::time::Duration;

use super::state::State;
use crate::position::{Span, TopicPartition};
use crate::sink::Standing;
use crate::source::kafka::Assigned;

/// How long the rest of a range that was begun once may hold the other partitions up: at first, and after it has not come in time.
const PATIENCE_MS: (u64, u64) = (5_000, 60_000);
/// When the log is asked whether there is such a rest: first, and at most so late.
const ASKED_MS: (u64, u64) = (1_000, 60_000);

/// One partition that is read.
#[derive(Debug)]
pub(super) struct Slot {
    /// The sink has everything below it.
    pub done: i64,
    /// The sink has taken in everything below it.
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
    /// How long the open batch may wait for the rest of the range that was begun once.
    patience_ms: u64,
    /// When the log is asked next whether there is any, ms on the runner's clock, and how long after that.
    ask_at: (u64, u64),
    /// What the pipeline keeps of it from change to change.
    pub state: Option<State>,
}

impl Slot {
    pub(super) fn new(assigned: &Assigned, position: i64, standing: Option<&Standing>, now: u64) -> Self {
        Self {
            done: position,
            from: position,
            next: position,
            until: standing.filter(|s| s.next == position).and_then(|s| s.until).filter(|until| *until > position),
            topic_id: assigned.topic_id.clone(),
            partition_count: assigned.partition_count,
            last_ms: None,
            oldest_ms: None,
            delivered_at: now,
            patience_ms: PATIENCE_MS.0,
            ask_at: (now + ASKED_MS.0, ASKED_MS.0),
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

    /// How long the open batch may wait for the rest of a range that it has some of.
    pub(super) fn patience(&self) -> Option<Duration> {
        (self.is_incomplete() && self.has_moved()).then(|| Duration::from_millis(self.patience_ms))
    }

    /// The rest of a range did not come in time: all of it once more, and longer.
    pub(super) fn put_off(&mut self) {
        self.start_over();
        self.patience_ms = (self.patience_ms * 2).min(PATIENCE_MS.1);
    }

    /// The end of a range that was begun once, where it is time to ask the log whether it has the rest of it: ever more seldom.
    pub(super) fn ask(&mut self, now: u64) -> Option<i64> {
        let until = self.until.filter(|until| self.next < *until && self.ask_at.0 <= now)?;
        let again = (self.ask_at.1 * 2).min(ASKED_MS.1);
        self.ask_at = (now + again, again);
        Some(until)
    }

    /// The range that was begun once has no record any more up to its end.
    pub(super) fn complete(&mut self) {
        self.next = self.until.unwrap_or(self.next);
    }

    /// Whether the sink has taken in what it has not done.
    pub(super) fn is_gathered(&self) -> bool {
        self.from > self.done
    }

    /// The sink has done all that it took in.
    pub(super) fn commit(&mut self) {
        self.done = self.from;
    }

    /// The sink let go of what it took in.
    pub(super) fn forget(&mut self) {
        self.from = self.done;
        self.start_over();
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

    /// Whether such a delivery is still what comes next.
    pub(super) fn is_at(&self, span: &Span) -> bool {
        (self.from, self.next) == (span.from, span.next)
    }

    pub(super) fn delivered(&mut self, now: u64) {
        self.from = self.next;
        self.until = None;
        self.patience_ms = PATIENCE_MS.0;
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
    fn what_the_sink_gathered_is_done_or_read_again() {
        let mut slot = slot(5, None);
        for offset in [5, 6] {
            slot.took(offset, None);
            slot.delivered(0);
        }
        slot.commit();
        slot.took(7, None);
        slot.delivered(0);
        slot.took(8, None);
        assert!(slot.is_gathered());
        slot.forget();
        assert_eq!((slot.done, slot.from, slot.next, slot.is_gathered()), (7, 7, 7, false));
    }

    #[test]
    fn the_others_wait_for_the_rest_of_a_range_only_where_the_batch_has_some_of_it() {
        let (mut slot, seconds) = (slot(5, Some(9)), Duration::from_secs);
        assert_eq!(slot.patience(), None, "there is nothing of it to be lost");
        slot.took(5, Some(70));
        assert_eq!(slot.patience(), Some(seconds(5)));
        slot.put_off();
        assert_eq!((slot.next, slot.until, slot.patience()), (5, Some(9), None));
        slot.took(5, Some(70));
        assert_eq!(slot.patience(), Some(seconds(10)), "a large one takes longer");
        (0..9).for_each(|_| slot.put_off());
        slot.took(7, Some(70));
        assert_eq!(slot.patience(), Some(seconds(60)));
        slot.took(8, Some(70));
        assert_eq!(slot.patience(), None, "it is whole");
    }

    #[test]
    fn the_log_is_asked_ever_more_seldom_for_what_does_not_come() {
        let mut slot = slot(5, Some(9));
        let asked: Vec<u64> = (0..200).filter(|second| slot.ask(second * 1_000) == Some(9)).collect();
        assert_eq!(asked, [1, 3, 7, 15, 31, 63, 123, 183]);
        slot.complete();
        assert_eq!(slot.ask(1_000_000), None);
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
