//! Which part of the topic may hold rows that are not marked yet. Pure.

use std::collections::BTreeMap;

use crate::source::kafka::Reach;

/// Up to where the topic's rows are marked, as the database keeps it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Settled {
    pub topic: String,
    /// Kafka's topic id, where the brokers tell it.
    pub topic_id: Option<String>,
    /// The transactional id that rows were sent under.
    pub transactional_id: String,
    /// Of each partition: every row below it that this outbox has sent is marked.
    pub next: BTreeMap<i32, i64>,
}

/// The topic as it is now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Topic {
    pub id: Option<String>,
    pub reach: BTreeMap<i32, Reach>,
}

/// What is to be read, of each partition `[from, to)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unsettled {
    /// Since the position.
    Since(BTreeMap<i32, (i64, i64)>),
    /// The topic was made anew, or has lost its end: all of it.
    Anew(BTreeMap<i32, (i64, i64)>),
    /// Retention removed what may have held rows that are not marked.
    Lost { partition: i32, next: i64, low: i64 },
}

/// Whether what was lost is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    Refuse,
    Skip,
}

/// | partition | |
/// |---|---|
/// | position inside the log | from the position on |
/// | not in the position: the topic has grown | from its beginning |
/// | the log begins behind the position | lost, or from its beginning if that is given up |
/// | the log ends before a position, a partition is gone, another topic id | the whole topic |
pub(super) fn unsettled(settled: &Settled, topic: &Topic, lost: Lost) -> Unsettled {
    let all = || topic.reach.iter().map(|(p, r)| (*p, (r.low, r.high))).collect();
    let other_id = settled.topic_id.is_some() && topic.id.is_some() && settled.topic_id != topic.id;
    let ends_before = settled.next.iter().any(|(p, next)| topic.reach.get(p).is_none_or(|r| r.high < *next));
    if other_id || ends_before {
        return Unsettled::Anew(all());
    }
    let mut since = BTreeMap::new();
    for (partition, reach) in &topic.reach {
        let next = settled.next.get(partition).copied().unwrap_or(reach.low);
        if next < reach.low && lost == Lost::Refuse {
            return Unsettled::Lost { partition: *partition, next, low: reach.low };
        }
        since.insert(*partition, (next.max(reach.low), reach.high));
    }
    Unsettled::Since(since)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn settled(id: Option<&str>, next: &[(i32, i64)]) -> Settled {
        Settled { topic_id: id.map(str::to_owned), next: next.iter().copied().collect(), ..Settled::default() }
    }

    fn topic(id: Option<&str>, reach: &[(i64, i64)]) -> Topic {
        let reach = (0..).zip(reach).map(|(p, (low, high))| (p, Reach { low: *low, committed: *high, high: *high }));
        Topic { id: id.map(str::to_owned), reach: reach.collect() }
    }

    fn ranges(of: &[(i64, i64)]) -> BTreeMap<i32, (i64, i64)> {
        (0..).zip(of.iter().copied()).collect()
    }

    #[rstest]
    #[case::inside(&[(0, 5), (1, 2)], &[(0, 9), (2, 2)], Unsettled::Since(ranges(&[(5, 9), (2, 2)])))]
    #[case::grown(&[(0, 5)], &[(0, 9), (0, 3)], Unsettled::Since(ranges(&[(5, 9), (0, 3)])))]
    #[case::lost(&[(0, 5)], &[(7, 9)], Unsettled::Lost { partition: 0, next: 5, low: 7 })]
    #[case::cut_off(&[(0, 5)], &[(0, 4)], Unsettled::Anew(ranges(&[(0, 4)])))]
    #[case::fewer_partitions(&[(0, 0), (1, 0)], &[(0, 4)], Unsettled::Anew(ranges(&[(0, 4)])))]
    fn a_position_against_the_log(
        #[case] next: &[(i32, i64)],
        #[case] log: &[(i64, i64)],
        #[case] want: Unsettled,
        #[values(Some("x"), None)] id: Option<&str>,
    ) {
        assert_eq!(unsettled(&settled(id, next), &topic(id, log), Lost::Refuse), want);
    }

    #[test]
    fn another_topic_is_read_whole_whatever_its_offsets() {
        let now = topic(Some("y"), &[(0, 9)]);
        let position = [(0, 5)];
        assert_eq!(unsettled(&settled(Some("x"), &position), &now, Lost::Refuse), Unsettled::Anew(ranges(&[(0, 9)])));
        // Brokers that tell no id leave it to the offsets.
        assert_eq!(unsettled(&settled(None, &position), &now, Lost::Refuse), Unsettled::Since(ranges(&[(5, 9)])));
    }

    #[test]
    fn what_is_lost_can_be_given_up() {
        let now = topic(Some("x"), &[(7, 9)]);
        let given_up = unsettled(&settled(Some("x"), &[(0, 5)]), &now, Lost::Skip);
        assert_eq!(given_up, Unsettled::Since(ranges(&[(7, 9)])));
    }
}
