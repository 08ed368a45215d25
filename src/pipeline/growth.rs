//! Partitions that were added to a topic. A key's partition changes only then: the new partitions wait until the old ones have
//! passed the end they had when the growth was seen, so that a key's older changes are in the table first.

use std::collections::HashMap;
use std::sync::Arc;

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

/// For each topic that grew: the ends of its older partitions when it was seen.
#[derive(Debug, Default)]
pub struct Growth {
    ends: HashMap<(String, i32), Vec<(TopicPartition, i64)>>,
}

impl Growth {
    /// Whether partition `at`, beyond the `known` ones, may be read now. `ends` asks the broker where the older logs end.
    ///
    /// # Errors
    /// When `ends` fails; to be asked again.
    pub fn may_read<E>(
        &mut self,
        at: &TopicPartition,
        known: i32,
        checkpoint: Option<&Checkpoint>,
        ends: impl FnOnce(&[TopicPartition]) -> Result<Vec<(TopicPartition, i64)>, E>,
    ) -> Result<bool, E> {
        let key = (at.topic.clone(), known);
        let fence = match self.ends.get(&key) {
            Some(fence) => fence,
            None => {
                let older: Vec<_> = (0..known).map(|p| TopicPartition::new(&at.topic, p)).collect();
                let fence = ends(&older)?;
                self.ends.entry(key).or_insert(fence)
            }
        };
        Ok(fence.iter().all(|(older, end)| *end == 0 || checkpoint.and_then(|c| c.next(older)).unwrap_or(0) >= *end))
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

    #[test]
    fn a_new_partition_waits_for_the_end_that_the_old_ones_had_at_the_growth() {
        let mut growth = Growth::default();
        let new = TopicPartition::new("t", 1);
        let ends = |_: &[TopicPartition]| Ok::<_, ()>(vec![(TopicPartition::new("t", 0), 10)]);
        assert_eq!(growth.may_read(&new, 1, Some(&at_offset(9)), ends), Ok(false));
        let later = |_: &[TopicPartition]| -> Result<_, ()> { panic!("the fence is kept") };
        assert_eq!(growth.may_read(&new, 1, Some(&at_offset(10)), later), Ok(true));
    }

    #[test]
    fn a_broker_that_does_not_answer_is_asked_again() {
        let mut growth = Growth::default();
        let new = TopicPartition::new("t", 1);
        assert_eq!(growth.may_read(&new, 1, Some(&at_offset(9)), |_| Err("away")), Err("away"));
        let ends = |_: &[TopicPartition]| Ok::<_, &str>(vec![(TopicPartition::new("t", 0), 9)]);
        assert_eq!(growth.may_read(&new, 1, Some(&at_offset(9)), ends), Ok(true));
    }
}
