//! What a topic's log still has of a letter's key.

use std::collections::HashMap;

use async_trait::async_trait;

use super::decode::{Changes, LogKeys};
use crate::letter::Status;
use crate::position::TopicPartition;
use crate::record::{Origin, Record};
use crate::source::kafka::{ClientSettings, is_compacted, offsets_since, read_log, watermarks};

/// Where records are read again.
#[async_trait]
pub trait Log: Sync {
    /// Why the log proves nothing, if so: a compacted one has lost changes without a trace.
    async fn lossy(&self, topic: &str) -> Option<String>;

    /// The first offset whose record is not older; where there is none, the log's end. May block.
    ///
    /// # Errors
    /// When the log begins there, and may have lost some before; when Kafka does not answer.
    fn since(&self, at: &TopicPartition, timestamp_ms: i64) -> Result<i64, String>;

    /// Gives `take` the records of `[from, to)`. May block.
    ///
    /// # Errors
    /// When the log doesn't reach back so far, or can't be read.
    fn read(&self, at: &TopicPartition, from: i64, to: i64, take: &mut dyn FnMut(&Record<'_>)) -> Result<(), String>;
}

/// Kafka itself.
#[derive(Debug)]
pub struct KafkaLog<'a>(&'a ClientSettings);

impl<'a> KafkaLog<'a> {
    pub fn new(settings: &'a ClientSettings) -> Self {
        Self(settings)
    }
}

#[async_trait]
impl Log for KafkaLog<'_> {
    async fn lossy(&self, topic: &str) -> Option<String> {
        match is_compacted(self.0, topic).await {
            Ok(false) => None,
            Ok(true) => Some(format!("topic {topic} is compacted: later changes may be gone from its log")),
            Err(e) => Some(format!("whether topic {topic} is compacted can't be told (DescribeConfigs): {e}")),
        }
    }

    fn since(&self, at: &TopicPartition, timestamp_ms: i64) -> Result<i64, String> {
        let of_one = std::slice::from_ref(at);
        let found = offsets_since(self.0, of_one, timestamp_ms).map_err(|e| e.to_string())?;
        let reach = watermarks(self.0, of_one).map_err(|e| e.to_string())?;
        match (found.first(), reach.first()) {
            (Some((_, from)), Some((_, low, high))) if 0 < *from && from == low && from < high => {
                Err(format!("{at}: Kafka's log begins only at offset {low}"))
            }
            (Some((_, from)), Some(_)) => Ok(*from),
            _ => Err(format!("{at}: no answer")),
        }
    }

    fn read(&self, at: &TopicPartition, from: i64, to: i64, take: &mut dyn FnMut(&Record<'_>)) -> Result<(), String> {
        read_log(self.0, at, from, to, take).map_err(|e| e.to_string())
    }
}

/// A letter whose key is looked for in `[from, to)` of a partition.
#[derive(Debug)]
pub struct Sought {
    /// The hash of its row's key.
    pub key: u128,
    /// The key as it came.
    pub raw_key: Option<Vec<u8>>,
    pub from: i64,
    pub to: i64,
    /// The offset of a later change.
    pub later: Option<i64>,
}

/// Looks for later changes of these letters' keys in one partition. `others` are all letters of the table: a record that became
/// a letter is a change only once that letter is replayed.
///
/// # Errors
/// When the log can't tell.
pub async fn seek(
    log: &dyn Log,
    at: &TopicPartition,
    sought: &mut [Sought],
    others: &HashMap<Origin, Status>,
    keys: &mut LogKeys<'_>,
) -> Result<(), String> {
    let range = sought.iter().map(|s| s.from).min().zip(sought.iter().map(|s| s.to).max());
    let Some((from, to)) = range else { return Ok(()) };
    if let Some(why) = log.lossy(&at.topic).await {
        return Err(why);
    }
    let mut untold = None;
    let mut take = |record: &Record<'_>| {
        // One is enough to leave the rest open, and each would wait for the registry.
        if untold.is_some() || others.get(&record.origin()).is_some_and(|status| *status != Status::Replayed) {
            return;
        }
        let changes = match keys.changes(record) {
            Ok(changes) => changes,
            Err(why) => return untold = Some(why),
        };
        for s in sought.iter_mut().filter(|s| s.later.is_none() && (s.from..s.to).contains(&record.offset)) {
            let same = match changes {
                Changes::Key(key) => key == s.key,
                Changes::Everything => true,
                // It was a row under another configuration, or none: the bytes of the key decide, and where there are none nobody knows.
                Changes::Untold => record.key.is_some() && record.key == s.raw_key.as_deref(),
            };
            if same {
                s.later = Some(record.offset);
            }
        }
    };
    tokio::task::block_in_place(|| log.read(at, from, to, &mut take))?;
    untold.map_or(Ok(()), Err)
}
