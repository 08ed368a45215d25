//! Partitions that were added to a topic. A key's partition changes only then: the new partitions wait until the old ones have
//! passed the end they had when the growth was seen, so that a key's older changes are in the table first.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::tables::TableHandle;
use crate::position::{Checkpoint, TopicPartition};

/// Asks the broker how many partitions a topic has now.
#[derive(Clone)]
pub struct PartitionCount(pub Arc<Count>);

type Count = dyn Fn(&str) -> Result<i32, String> + Send + Sync;

impl std::fmt::Debug for PartitionCount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PartitionCount")
    }
}

/// Before an older log is asked again whether it has more.
const ASKED_AGAIN: Duration = Duration::from_secs(10);

/// A partition from before the growth.
#[derive(Debug)]
struct Older {
    at: TopicPartition,
    /// Of its log when the growth was seen, or an earlier offset between which and that there is no record.
    end: i64,
    asked: Option<Instant>,
}

impl Older {
    /// Whether the table, which stands here, has all its records below the end.
    fn passed<E>(
        &mut self,
        next: Option<i64>,
        has_record: impl Fn(&TopicPartition, Option<i64>, i64) -> Result<bool, E>,
    ) -> Result<bool, E> {
        if next.unwrap_or(0) >= self.end {
            return Ok(true);
        }
        if self.asked.is_some_and(|asked| asked.elapsed() < ASKED_AGAIN) {
            return Ok(false);
        }
        // A log may end with offsets that no record comes from (markers of transactions), and no table gets past those.
        self.asked = Some(Instant::now());
        if has_record(&self.at, next, self.end)? {
            return Ok(false);
        }
        self.end = next.unwrap_or(0);
        Ok(true)
    }
}

/// For each topic that grew: its older partitions when it was seen.
#[derive(Debug, Default)]
pub struct Growth {
    older: HashMap<(String, i32), Vec<Older>>,
}

impl Growth {
    /// Whether partition `at`, beyond the `known` ones, may be read now. `ends` asks the broker where the older logs end, `has_record`
    /// whether one has a record from here (or its beginning) to there.
    ///
    /// # Errors
    /// When one of them fails; to be asked again.
    pub fn may_read<E>(
        &mut self,
        at: &TopicPartition,
        known: i32,
        checkpoint: Option<&Checkpoint>,
        ends: impl FnOnce(&[TopicPartition]) -> Result<Vec<(TopicPartition, i64)>, E>,
        has_record: impl Fn(&TopicPartition, Option<i64>, i64) -> Result<bool, E>,
    ) -> Result<bool, E> {
        let older = match self.older.entry((at.topic.clone(), known)) {
            Entry::Occupied(seen) => seen.into_mut(),
            Entry::Vacant(unseen) => {
                let partitions: Vec<_> = (0..known).map(|p| TopicPartition::new(&at.topic, p)).collect();
                let ends = ends(&partitions)?.into_iter();
                unseen.insert(ends.map(|(at, end)| Older { at, end, asked: None }).collect())
            }
        };
        for older in older {
            let next = checkpoint.and_then(|c| c.next(&older.at));
            if !older.passed(next, &has_record)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// With a multiple of the old count Kafka's partitioner moves keys to new partitions only, and those wait for the old ones.
pub fn warn_of_moving_keys(table: &TableHandle, known: i32, now: i32) {
    if known > 0 && now > known && now % known != 0 {
        tracing::warn!(
            table = %table.name,
            topic = %table.topic,
            "the topic grew from {known} to {now} partitions, not a multiple: keys may also move between old partitions, whose \
             order nobody can tell. Compare the table with its source, and grow topics by multiples"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::Span;

    fn at_offset(next: i64) -> Checkpoint {
        let mut c = Checkpoint::default();
        c.advance(&Span::new(TopicPartition::new("t", 0), 0, next)).unwrap();
        c
    }

    fn ends_at(end: i64) -> impl FnOnce(&[TopicPartition]) -> Result<Vec<(TopicPartition, i64)>, &'static str> {
        move |_| Ok(vec![(TopicPartition::new("t", 0), end)])
    }

    /// A log with records at these offsets.
    fn log(
        records: &[i64],
    ) -> impl Fn(&TopicPartition, Option<i64>, i64) -> Result<bool, &'static str> + Copy + use<'_> {
        |_, from, to| Ok(records.iter().any(|record| (from.unwrap_or(0)..to).contains(record)))
    }

    #[test]
    fn a_new_partition_waits_for_the_end_that_the_old_ones_had_at_the_growth() {
        let mut growth = Growth::default();
        let new = TopicPartition::new("t", 1);
        let records = log(&[8, 9, 11]);
        assert_eq!(growth.may_read(&new, 1, Some(&at_offset(9)), ends_at(10), records), Ok(false));
        let later = |_: &[TopicPartition]| panic!("the fence is kept");
        assert_eq!(growth.may_read(&new, 1, Some(&at_offset(10)), later, records), Ok(true));
        let later = |_: &[TopicPartition]| panic!("the fence is kept");
        assert_eq!(growth.may_read(&new, 1, Some(&at_offset(9)), later, records), Ok(false), "rolled back");
    }

    #[test]
    fn a_new_partition_does_not_wait_for_offsets_that_hold_no_record() {
        let new = TopicPartition::new("t", 1);
        // A transaction's marker is at 10; what comes behind the growth doesn't matter.
        let mut growth = Growth::default();
        assert_eq!(growth.may_read(&new, 1, Some(&at_offset(10)), ends_at(11), log(&[9, 11])), Ok(true));
        let not_again = |_: &TopicPartition, _, _| panic!("asked already");
        assert_eq!(growth.may_read(&new, 1, Some(&at_offset(10)), ends_at(11), not_again), Ok(true));
        // All that the log had is gone, and nobody has read it.
        assert_eq!(Growth::default().may_read(&new, 1, Some(&Checkpoint::default()), ends_at(11), log(&[])), Ok(true));
        assert_eq!(Growth::default().may_read(&new, 1, None, ends_at(11), log(&[3])), Ok(false));
    }

    #[test]
    fn a_log_that_has_more_is_not_asked_all_the_time() {
        let mut growth = Growth::default();
        let new = TopicPartition::new("t", 1);
        assert_eq!(growth.may_read(&new, 1, Some(&at_offset(5)), ends_at(11), log(&[9])), Ok(false));
        let so_soon = |_: &TopicPartition, _, _| panic!("asked a moment ago");
        assert_eq!(growth.may_read(&new, 1, Some(&at_offset(6)), ends_at(11), so_soon), Ok(false));
    }

    #[test]
    fn a_broker_that_does_not_answer_is_asked_again() {
        let mut growth = Growth::default();
        let new = TopicPartition::new("t", 1);
        assert_eq!(growth.may_read(&new, 1, Some(&at_offset(9)), |_| Err("away"), log(&[])), Err("away"));
        assert_eq!(growth.may_read(&new, 1, Some(&at_offset(9)), ends_at(9), log(&[])), Ok(true));
    }
}
