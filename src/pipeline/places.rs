//! Where one worker reads the partitions of one topic. Pure bookkeeping.

use std::collections::BTreeMap;

use crate::position::{Checkpoint, Span, TopicPartition};

#[derive(Clone, Debug)]
struct Place {
    /// Where reading began, if the table had no position then: it stands in until the table has one.
    begun: Option<i64>,
    /// Where the open part begins.
    from: i64,
    next: i64,
    /// As the last commit left it.
    committed: i64,
    timestamp_ms: Option<i64>,
}

#[derive(Clone, Debug)]
pub struct Places {
    topic: String,
    of: BTreeMap<i32, Place>,
}

impl Places {
    pub fn new(topic: &str) -> Self {
        Self { topic: topic.to_owned(), of: BTreeMap::new() }
    }

    fn at(&self, partition: i32) -> TopicPartition {
        TopicPartition::new(&self.topic, partition)
    }

    pub fn contains(&self, partition: i32) -> bool {
        self.of.contains_key(&partition)
    }

    pub fn partitions(&self) -> Vec<TopicPartition> {
        self.of.keys().map(|p| self.at(*p)).collect()
    }

    /// The next offsets to read.
    pub fn positions(&self) -> Vec<(TopicPartition, i64)> {
        self.of.iter().map(|(p, place)| (self.at(*p), place.next)).collect()
    }

    /// As the last commits left them.
    pub fn committed(&self) -> impl Iterator<Item = (TopicPartition, i64)> + '_ {
        self.of.iter().map(|(p, place)| (self.at(*p), place.committed))
    }

    /// `begun` is the position again, where it is not the table's own.
    pub fn begin(&mut self, partition: i32, position: i64, begun: Option<i64>) {
        let place = Place { begun, from: position, next: position, committed: position, timestamp_ms: None };
        self.of.insert(partition, place);
    }

    pub fn end(&mut self, partition: i32) {
        self.of.remove(&partition);
    }

    /// `false` for a record of a partition that was just revoked, and for one fetched before a seek.
    pub fn wants(&self, partition: i32, offset: i64) -> bool {
        self.of.get(&partition).is_some_and(|place| offset >= place.next)
    }

    pub fn took(&mut self, partition: i32, offset: i64, timestamp_ms: Option<i64>) {
        if let Some(place) = self.of.get_mut(&partition) {
            place.next = offset + 1;
            place.timestamp_ms = timestamp_ms;
        }
    }

    /// The offsets of the open part, where there are any.
    pub fn spans(&self) -> Vec<Span> {
        let read = self.of.iter().filter(|(_, place)| place.next > place.from);
        read.map(|(partition, place)| Span {
            timestamp_ms: place.timestamp_ms,
            ..Span::new(self.at(*partition), place.from, place.next)
        })
        .collect()
    }

    /// The open part was handed over: the next one begins here.
    pub fn handed_over(&mut self) {
        for place in self.of.values_mut() {
            place.from = place.next;
        }
    }

    pub fn note_committed(&mut self, next: &[(TopicPartition, i64)]) {
        for (at, next) in next {
            if let Some(place) = self.of.get_mut(&at.partition) {
                place.committed = *next;
            }
        }
    }

    /// Goes on where the table stands. Gives up the partitions that it had a position of and has none any more, for it was set back
    /// behind it: where they begin has to be found out anew.
    pub fn restart(&mut self, checkpoint: &Checkpoint) -> Vec<TopicPartition> {
        let mut given_up = vec![];
        let topic = &self.topic;
        self.of.retain(|partition, place| {
            let at = TopicPartition::new(topic, *partition);
            let Some(next) = checkpoint.next(&at).or(place.begun) else {
                given_up.push(at);
                return false;
            };
            *place = Place { from: next, next, committed: next, ..place.clone() };
            true
        });
        given_up
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_to(next: i64) -> Places {
        let mut places = Places::new("t");
        places.begin(0, 5, None);
        places.begin(1, 0, Some(0));
        for offset in 5..next {
            assert!(places.wants(0, offset));
            places.took(0, offset, Some(offset * 10));
        }
        places
    }

    #[test]
    fn a_part_accounts_for_what_was_read_since_the_last_one() {
        let mut places = read_to(9);
        let want = Span { timestamp_ms: Some(80), ..Span::new(TopicPartition::new("t", 0), 5, 9) };
        assert_eq!(places.spans(), [want], "nothing was read of the other partition");
        places.handed_over();
        assert_eq!(places.spans(), []);
        places.took(0, 11, None);
        assert_eq!((places.spans()[0].from, places.spans()[0].next), (9, 12), "a gap in the log is inside the span");
    }

    #[test]
    fn records_from_before_a_seek_and_of_partitions_given_up_are_not_wanted() {
        let mut places = read_to(9);
        assert!(!places.wants(0, 8) && places.wants(0, 9));
        places.end(0);
        assert!(!places.wants(0, 9));
    }

    #[test]
    fn a_restart_goes_to_the_tables_position_or_to_where_reading_began() {
        let mut places = read_to(9);
        let mut checkpoint = Checkpoint::default();
        checkpoint.advance(&Span::new(TopicPartition::new("t", 0), 5, 7)).unwrap();
        assert_eq!(places.restart(&checkpoint), []);
        assert_eq!(places.positions(), [(TopicPartition::new("t", 0), 7), (TopicPartition::new("t", 1), 0)]);
        assert_eq!(places.spans(), []);
    }

    #[test]
    fn a_partition_that_the_table_had_and_has_no_more_is_not_read_on_from_where_it_was() {
        let mut places = read_to(9);
        assert_eq!(places.restart(&Checkpoint::default()), [TopicPartition::new("t", 0)]);
        assert_eq!(places.positions(), [(TopicPartition::new("t", 1), 0)]);
    }
}
