//! How far a table's backfill from the lake is: a record of a compacted topic, in the transactions of the rows.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::pipeline::backfill::{BackfillError, Progress, Range, State};
use crate::position::TopicPartition;
use crate::source::kafka::{ClientSettings, Outgoing, Tail, ensure_compacted, list_topics, read_log, watermarks};

/// The segment that is written to is not compacted.
const SEGMENT_BYTES: &str = "33554432";
/// How long others' transactions are waited for that hide what was stored: above the time after which brokers give one up.
const SETTLED_WITHIN: std::time::Duration = std::time::Duration::from_secs(30);

/// The last backfill of one topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stored {
    pub id: String,
    pub topic: String,
    /// Of the topic that the offsets are of, where the brokers tell it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic_id: Option<String>,
    /// In the lake.
    pub table: String,
    pub range: Range,
    /// The process that goes on with it.
    pub owner: String,
    pub state: State,
    /// What is read: rows of the range as of this snapshot of the lake.
    pub snapshot_id: i64,
    /// Where that stands in the topic.
    pub offsets: BTreeMap<i32, i64>,
    /// Everything before it is in the topic.
    pub at: Place,
    /// Whether that is everything.
    pub is_read: bool,
    /// In the files that may have rows of the range.
    pub rows: u64,
    pub rows_read: u64,
    pub rows_sent: u64,
    /// Rows that had changed since, or whose newest change is a dead letter.
    pub rows_left_out: u64,
    pub began_ms: i64,
    pub told_ms: i64,
}

/// A place between two rows. Files go by their names.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Place {
    pub file: String,
    /// The next row of the file.
    pub row: u32,
}

impl Stored {
    pub(super) fn progress(&self) -> Progress {
        let mut progress = Progress::waiting(&self.id, &self.table, self.began_ms);
        progress.state = self.state.clone();
        progress.told_ms = self.told_ms;
        progress.rows = self.is_read.then_some(self.rows_sent);
        progress.left_out = Some(self.rows_left_out);
        progress.share = Some(if self.is_read { (1, 1) } else { (self.rows_read, self.rows.max(1)) });
        progress
    }

    /// Whether a command for this range goes on with it.
    pub(super) fn is_of(&self, range: &Range) -> bool {
        self.range == *range
    }

    /// Whether something is left of it that can be gone on with.
    pub(super) fn is_open(&self) -> bool {
        !matches!(self.state, State::Done | State::Stopped)
    }
}

/// The topic of one group's backfills.
#[derive(Clone, Debug)]
pub(super) struct Store {
    kafka: ClientSettings,
    pub name: String,
}

impl Store {
    pub(super) fn new(config: &Config, kafka: &ClientSettings) -> Self {
        let fits = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
        let group: String = config.kafka.group.chars().map(fits).collect();
        Self { kafka: kafka.clone(), name: format!("_firn_backfill.{group}") }
    }

    /// Makes the topic where there is none.
    pub(super) async fn ensure(&self) -> Result<(), BackfillError> {
        Ok(ensure_compacted(&self.kafka, &self.name, 1, SEGMENT_BYTES).await?)
    }

    /// The last backfill of each topic. What is stored before the call is seen. Blocks.
    pub(super) fn read(&self) -> Result<BTreeMap<String, Stored>, BackfillError> {
        let mut found = BTreeMap::new();
        if !list_topics(&self.kafka)?.iter().any(|topic| topic.name == self.name) {
            return Ok(found);
        }
        let uncommitted = crate::source::kafka::reach(&self.kafka, &self.name)?;
        let high: BTreeMap<i32, i64> = uncommitted.iter().map(|(partition, reach)| (*partition, reach.high)).collect();
        let tail = Tail::new(&self.kafka, &self.name, BTreeMap::new())?;
        if !tail.is_settled(&high, SETTLED_WITHIN)? {
            return Err(BackfillError::Unreachable(format!(
                "topic {}: a transaction stays open there; try again in a minute",
                self.name
            )));
        }
        let place = TopicPartition::new(&self.name, 0);
        for (at, low, high) in watermarks(&self.kafka, std::slice::from_ref(&place))? {
            read_log(&self.kafka, &at, low, high, |record| {
                let Some(topic) = record.key.and_then(|key| std::str::from_utf8(key).ok()) else { return };
                match record.value.map(serde_json::from_slice::<Stored>) {
                    Some(Ok(stored)) => _ = found.insert(topic.to_owned(), stored),
                    Some(Err(e)) => tracing::warn!(topic, "what is stored of its backfill can't be read: {e}"),
                    None => _ = found.remove(topic),
                }
            })?;
        }
        Ok(found)
    }

    /// That of one topic. Blocks.
    pub(super) fn of(&self, topic: &str) -> Result<Option<Stored>, BackfillError> {
        Ok(self.read()?.remove(topic))
    }

    /// As it is sent.
    pub(super) fn message<'a>(&'a self, stored: &'a Stored, value: &'a [u8]) -> Outgoing<'a> {
        let key = Some(stored.topic.as_bytes());
        Outgoing { topic: &self.name, partition: Some(0), key, value: Some(value), headers: &[] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_comes_back() {
        let range =
            Range { column: Some("at".to_owned()), from_ms: Some(1), to_ms: None, condition: "at >= 1".to_owned() };
        let stored = Stored {
            id: "i".to_owned(),
            topic: "p.s.t".to_owned(),
            topic_id: Some("t".to_owned()),
            table: "s.t".to_owned(),
            range: range.clone(),
            owner: "o".to_owned(),
            state: State::Failed { why: "w".to_owned() },
            snapshot_id: 7,
            offsets: [(0, 5), (1, 0)].into(),
            at: Place { file: "f".to_owned(), row: 3 },
            is_read: false,
            rows: 10,
            rows_read: 3,
            rows_sent: 2,
            rows_left_out: 1,
            began_ms: 1,
            told_ms: 2,
        };
        let json = serde_json::to_vec(&stored).unwrap();
        assert_eq!(serde_json::from_slice::<Stored>(&json).unwrap(), stored);
        let other = Range { from_ms: Some(2), ..range.clone() };
        assert!(stored.is_open() && stored.is_of(&range) && !stored.is_of(&other));
        assert_eq!(stored.progress().percent(), Some(30));
        let read = Stored { is_read: true, state: State::Running, ..stored };
        assert_eq!(read.progress().percent(), Some(99), "its end is when all sinks have it");
        assert!(!Stored { state: State::Done, ..read }.is_open());
    }
}
