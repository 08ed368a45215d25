//! From what is said about a table's position to the position, against Kafka's log. Pure.

use std::collections::BTreeMap;

use crate::position::{Checkpoint, PartitionPosition, TopicPosition};
use crate::source::kafka::Reach;

/// The topic as it is now.
#[derive(Clone, Debug, Default)]
pub(super) struct Log {
    pub topic: String,
    pub topic_id: Option<String>,
    pub reach: BTreeMap<i32, Reach>,
}

/// What a partition begins with that nothing is said about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unnamed {
    Refused,
    /// As Spark reads partitions that join.
    Beginning,
}

/// The position, each partition inside the log.
///
/// # Errors
/// The sentence for a person, with the way out.
pub(super) fn position(offsets: &BTreeMap<i32, i64>, unnamed: Unnamed, log: &Log) -> Result<Checkpoint, String> {
    let topic = &log.topic;
    if let Some(partition) = offsets.keys().find(|p| !log.reach.contains_key(p)) {
        return Err(format!("{topic} has no partition {partition}: it has {}", log.reach.len()));
    }
    let mut partitions = BTreeMap::new();
    for (partition, reach) in &log.reach {
        let (low, high) = (reach.low, reach.high);
        let next = match (offsets.get(partition).copied(), unnamed) {
            (Some(next), _) => next,
            (None, Unnamed::Beginning) => low,
            (None, Unnamed::Refused) => {
                return Err(format!("{topic}/{partition}: say its offset too; its log goes from {low} to {high}"));
            }
        };
        if next < low {
            return Err(format!(
                "{topic}/{partition}: the table is at offset {next}, the log begins at {low}: {} offsets are gone. Go on with \
                 --offsets {partition}:{low}, and let Debezium snapshot the table again, incrementally",
                low - next
            ));
        }
        if next > high {
            return Err(format!(
                "{topic}/{partition}: offset {next} is beyond the log's end, {high}: the offsets are of another topic"
            ));
        }
        partitions.insert(*partition, PartitionPosition { next, leader_epoch: None, timestamp_ms: None });
    }
    let position = TopicPosition {
        topic_id: log.topic_id.clone(),
        partition_count: log.reach.len() as i32,
        partitions,
        ..TopicPosition::default()
    };
    // Of a generation after that of whoever began with the table before.
    Ok(Checkpoint { generation: 1, topics: [(topic.clone(), position)].into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn log() -> Log {
        let reach = |low, high| Reach { low, committed: high, high };
        Log { topic: "t".to_owned(), topic_id: None, reach: [(0, reach(0, 9)), (1, reach(5, 8))].into() }
    }

    #[rstest]
    #[case::inside(&[(0, 4), (1, 5)], Unnamed::Refused, Ok(vec![4, 5]))]
    #[case::at_the_end(&[(0, 9), (1, 8)], Unnamed::Refused, Ok(vec![9, 8]))]
    #[case::joined(&[(0, 9)], Unnamed::Beginning, Ok(vec![9, 5]))]
    #[case::not_named(&[(0, 9)], Unnamed::Refused, Err("t/1: say its offset too; its log goes from 5 to 8"))]
    #[case::gone(&[(0, 9), (1, 2)], Unnamed::Refused, Err("3 offsets are gone. Go on with --offsets 1:5"))]
    #[case::beyond(&[(0, 10), (1, 8)], Unnamed::Refused, Err("beyond the log's end, 9"))]
    #[case::unknown(&[(0, 1), (2, 1)], Unnamed::Beginning, Err("no partition 2"))]
    fn offsets_become_a_position_inside_the_log(
        #[case] offsets: &[(i32, i64)],
        #[case] unnamed: Unnamed,
        #[case] want: Result<Vec<i64>, &str>,
    ) {
        match (position(&offsets.iter().copied().collect(), unnamed, &log()), want) {
            (Ok(have), Ok(want)) => {
                let next: Vec<i64> = have.positions().map(|(_, next)| next).collect();
                assert_eq!((next, have.topics["t"].partition_count, have.generation), (want, 2, 1));
            }
            (Err(have), Err(want)) => assert!(have.contains(want), "{have}"),
            (have, want) => panic!("{have:?} in place of {want:?}"),
        }
    }
}
