//! Where a sink stands: [`Span`] and [`Checkpoint`].
//!
//! Pure types, no I/O. A position is always Kafka's own convention: the *next* offset to read. Compaction and transaction
//! markers are gaps inside a span, never between two spans.
//!
//! | checkpoint has | span `[from, next)` | `advance` |
//! |---|---|---|
//! | nothing for the partition | any | accepted: the first span ever |
//! | `next == from` | `from <= next` | accepted |
//! | `next > from` | any | [`PositionError::Overlap`]: the rows are in the table already |
//! | `next < from` | any | [`PositionError::Gap`]: rows between would be lost |
//! | another topic id | any | [`PositionError::TopicRecreated`] |

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::table_event::{Fence, SourceSnapshot};

/// One partition of one topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TopicPartition {
    pub topic: String,
    pub partition: i32,
}

impl TopicPartition {
    pub fn new(topic: impl Into<String>, partition: i32) -> Self {
        Self { topic: topic.into(), partition }
    }
}

impl std::fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

/// Of some partitions the next offset to read.
pub type Positions = BTreeMap<TopicPartition, i64>;

/// The offsets `[from, next)` of one partition that a batch accounts for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    pub at: TopicPartition,
    /// The position that was asked for when the batch began.
    pub from: i64,
    /// The consumer's position after the batch: the next offset to read.
    pub next: i64,
    /// Leader epoch of the last record, where the broker tells it.
    pub leader_epoch: Option<i32>,
    /// Timestamp of the record at `next - 1` in ms, to recognise a topic made anew.
    pub timestamp_ms: Option<i64>,
    /// Kafka's topic id, where the client can tell it.
    pub topic_id: Option<String>,
    /// How many partitions the topic had when reading began, where the broker told it.
    pub partition_count: Option<i32>,
}

impl Span {
    /// The bare offsets.
    pub fn new(at: TopicPartition, from: i64, next: i64) -> Self {
        Self { at, from, next, leader_epoch: None, timestamp_ms: None, topic_id: None, partition_count: None }
    }

    pub fn is_empty(&self) -> bool {
        self.from >= self.next
    }

    /// Joins the span that follows this one.
    ///
    /// # Errors
    /// When `later` does not begin where this span ends.
    pub fn extend(&mut self, later: Span) -> Result<(), PositionError> {
        if later.at != self.at || later.from != self.next {
            return Err(if later.from < self.next {
                PositionError::Overlap { at: later.at, table_next: self.next, from: later.from, next: later.next }
            } else {
                PositionError::Gap { at: later.at, table_next: self.next, from: later.from, next: later.next }
            });
        }
        self.next = later.next;
        self.leader_epoch = later.leader_epoch.or(self.leader_epoch);
        self.timestamp_ms = later.timestamp_ms.or(self.timestamp_ms);
        Ok(())
    }
}

/// A span that does not continue a checkpoint. Names both ends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PositionError {
    #[error(
        "{at}: the table is already at offset {table_next}, the batch holds {from}..{next}: another writer committed it"
    )]
    Overlap { at: TopicPartition, table_next: i64, from: i64, next: i64 },
    #[error(
        "{at}: the table is at offset {table_next}, the batch begins only at {from} (to {next}): rows between are missing"
    )]
    Gap { at: TopicPartition, table_next: i64, from: i64, next: i64 },
    #[error("topic {topic} was made anew: the table's offsets belong to topic id {table_id}, Kafka now has {kafka_id}")]
    TopicRecreated { topic: String, table_id: String, kafka_id: String },
}

/// Where one partition stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionPosition {
    /// The next offset to read: every offset below it is accounted for.
    pub next: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader_epoch: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp_ms: Option<i64>,
}

/// Where one topic stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicPosition {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic_id: Option<String>,
    /// How many partitions the topic had at the first commit, or the highest one read since plus one: partitions beyond it were
    /// added later (a key moves only then).
    pub partition_count: i32,
    pub partitions: BTreeMap<i32, PartitionPosition>,
    /// How many partitions it had at the first commit, where some were added since and read: keys have moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grew_from: Option<i32>,
    /// Where the source table was last emptied: the table has no row from before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncated: Option<Fence>,
    /// The last snapshot of the source table that was read, wholly or in part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SourceSnapshot>,
}

/// The whole position of a sink, as stored with every commit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Counts rewinds: a writer of an older generation is refused.
    pub generation: u64,
    pub topics: BTreeMap<String, TopicPosition>,
}

impl Checkpoint {
    /// The next offset to read, `None` where the partition was never committed.
    pub fn next(&self, at: &TopicPartition) -> Option<i64> {
        Some(self.topics.get(&at.topic)?.partitions.get(&at.partition)?.next)
    }

    /// The next offset of every partition that was ever committed.
    pub fn positions(&self) -> impl Iterator<Item = (TopicPartition, i64)> {
        let of_topic = |(topic, t): (&String, &TopicPosition)| {
            t.partitions.iter().map(|(p, have)| (TopicPartition::new(topic.clone(), *p), have.next)).collect::<Vec<_>>()
        };
        self.topics.iter().flat_map(of_topic)
    }

    /// The partitions of topics that grew: a row whose key is in one of them now may have come from any other.
    pub fn of_grown_topics(&self) -> impl Iterator<Item = TopicPartition> {
        let grown = self.topics.iter().filter(|(_, t)| t.grew_from.is_some());
        grown.flat_map(|(topic, t)| t.partitions.keys().map(move |p| TopicPartition::new(topic, *p)))
    }

    /// Before anything was read, by all that is known now: partitions that were added are still read after the others.
    pub fn from_the_start(&self) -> Checkpoint {
        let grown = self.topics.iter().filter_map(|(topic, t)| {
            Some((topic.clone(), TopicPosition { partition_count: t.grew_from?, ..TopicPosition::default() }))
        });
        Checkpoint { generation: self.generation, topics: grown.collect() }
    }

    /// Moves one partition on. See the table at the top of the module.
    ///
    /// # Errors
    /// When the span overlaps what is committed, leaves a gap, or belongs to another topic of the same name.
    pub fn advance(&mut self, span: &Span) -> Result<(), PositionError> {
        let first = !self.topics.contains_key(&span.at.topic);
        let topic = self.topics.entry(span.at.topic.clone()).or_default();
        if let (Some(have), Some(now)) = (&topic.topic_id, &span.topic_id)
            && have != now
        {
            return Err(PositionError::TopicRecreated {
                topic: span.at.topic.clone(),
                table_id: have.clone(),
                kafka_id: now.clone(),
            });
        }
        if let Some(have) = topic.partitions.get(&span.at.partition) {
            let (at, table_next, from, next) = (span.at.clone(), have.next, span.from, span.next);
            match table_next.cmp(&from) {
                std::cmp::Ordering::Greater => return Err(PositionError::Overlap { at, table_next, from, next }),
                std::cmp::Ordering::Less => return Err(PositionError::Gap { at, table_next, from, next }),
                std::cmp::Ordering::Equal => {}
            }
        }
        let before = topic.partitions.get(&span.at.partition).copied();
        topic.topic_id = span.topic_id.clone().or(topic.topic_id.take());
        let count = span.partition_count.filter(|_| first).unwrap_or_default();
        if !first && span.partition_count.is_some() && span.at.partition >= topic.partition_count {
            topic.grew_from.get_or_insert(topic.partition_count);
        }
        topic.partition_count = topic.partition_count.max(span.at.partition + 1).max(count);
        topic.partitions.insert(
            span.at.partition,
            PartitionPosition {
                next: span.next,
                leader_epoch: span.leader_epoch.or(before.and_then(|b| b.leader_epoch)),
                timestamp_ms: span.timestamp_ms.or(before.and_then(|b| b.timestamp_ms)),
            },
        );
        Ok(())
    }

    /// The source table was emptied. The later fence counts: a message may come again, an older one too.
    pub fn truncate(&mut self, topic: &str, fence: Fence) {
        let truncated = &mut self.topics.entry(topic.to_owned()).or_default().truncated;
        if truncated.is_none_or(|have| have.lsn < fence.lsn) {
            *truncated = Some(fence);
        }
    }

    /// Records of a snapshot of the source table were read.
    pub fn saw_snapshot(&mut self, topic: &str, seen: SourceSnapshot) {
        let snapshot = &mut self.topics.entry(topic.to_owned()).or_default().snapshot;
        *snapshot = Some(snapshot.map_or(seen, |have| have.join(seen)));
    }

    /// The form kept in table properties and snapshot summaries.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// # Errors
    /// When the text is not a checkpoint that this version can read.
    pub fn from_json(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn span(from: i64, next: i64) -> Span {
        Span { leader_epoch: Some(3), timestamp_ms: Some(7), ..Span::new(TopicPartition::new("t", 0), from, next) }
    }

    #[rstest]
    #[case::first_ever(None, 5, 9, Ok(9))]
    #[case::continues(Some(5), 5, 9, Ok(9))]
    #[case::empty(Some(5), 5, 5, Ok(5))]
    #[case::overlap(Some(6), 5, 9, Err("overlap"))]
    #[case::all_there_already(Some(9), 5, 9, Err("overlap"))]
    #[case::gap(Some(4), 5, 9, Err("gap"))]
    fn a_span_must_begin_where_the_checkpoint_stands(
        #[case] have: Option<i64>,
        #[case] from: i64,
        #[case] next: i64,
        #[case] want: Result<i64, &str>,
    ) {
        let mut c = Checkpoint::default();
        if let Some(have) = have {
            c.advance(&span(0, have)).unwrap();
        }
        let got = c.advance(&span(from, next)).map_err(|e| match e {
            PositionError::Overlap { .. } => "overlap",
            PositionError::Gap { .. } => "gap",
            PositionError::TopicRecreated { .. } => "recreated",
        });
        assert_eq!(got.map(|()| c.next(&TopicPartition::new("t", 0)).unwrap()), want);
    }

    #[test]
    fn a_refused_span_changes_nothing() {
        let mut c = Checkpoint::default();
        c.advance(&span(0, 10)).unwrap();
        let before = c.clone();
        c.advance(&span(3, 20)).unwrap_err();
        c.advance(&span(13, 20)).unwrap_err();
        assert_eq!(c, before);
    }

    #[test]
    fn offsets_of_a_topic_made_anew_are_refused() {
        let mut c = Checkpoint::default();
        c.advance(&Span { topic_id: Some("a".into()), ..span(0, 10) }).unwrap();
        let e = c.advance(&Span { topic_id: Some("b".into()), ..span(10, 12) }).unwrap_err();
        assert!(matches!(e, PositionError::TopicRecreated { .. }));
    }

    #[test]
    fn partitions_are_counted_at_the_first_commit_and_grow_only_with_what_was_read() {
        let count = |c: &Checkpoint| c.topics["t"].partition_count;
        let of = |partition, count| Span {
            partition_count: Some(count),
            ..Span::new(TopicPartition::new("t", partition), 0, 1)
        };
        let mut c = Checkpoint::default();
        c.advance(&of(0, 3)).unwrap();
        assert_eq!(count(&c), 3, "partitions without a record yet are not new ones");
        c.advance(&of(1, 5)).unwrap();
        assert_eq!(count(&c), 3, "an older partition's batch does not release the new ones");
        assert_eq!((c.of_grown_topics().count(), c.from_the_start()), (0, Checkpoint::default()));
        c.advance(&of(4, 5)).unwrap();
        assert_eq!(count(&c), 5);
        let partitions: Vec<i32> = c.of_grown_topics().map(|at| at.partition).collect();
        assert_eq!(partitions, [0, 1, 4], "keys have moved");
        let mut again = c.from_the_start();
        assert_eq!((count(&again), again.next(&TopicPartition::new("t", 0))), (3, None), "what was added waits again");
        again.advance(&of(0, 5)).unwrap();
        assert_eq!(count(&again), 3);
    }

    #[test]
    fn an_older_fence_does_not_take_the_place_of_a_later_one() {
        let mut c = Checkpoint::default();
        let fence = |lsn| Fence { lsn, last_commit: Some(lsn - 1) };
        [5, 9, 7].into_iter().for_each(|lsn| c.truncate("t", fence(lsn)));
        assert_eq!(c.topics["t"].truncated, Some(fence(9)));
        assert_eq!(Checkpoint::from_json(&c.to_json()).unwrap(), c);
    }

    #[test]
    fn the_stored_form_reads_back() {
        let mut c = Checkpoint { generation: 2, ..Default::default() };
        c.advance(&Span { topic_id: Some("a".into()), partition_count: Some(4), ..span(0, 10) }).unwrap();
        assert_eq!(Checkpoint::from_json(&c.to_json()).unwrap(), c);
        assert_eq!(
            c.to_json(),
            r#"{"generation":2,"topics":{"t":{"topic_id":"a","partition_count":4,"partitions":{"0":{"next":10,"leader_epoch":3,"timestamp_ms":7}}}}}"#
        );
    }
}
