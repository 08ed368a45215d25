//! An upsert table whose rows stayed while its position went back: what is read again is older than what it has. Once it has come to
//! where it stood, each key's last change is its last one again.

use std::collections::BTreeMap;

use iceberg::spec::TableMetadata;
use serde::{Deserialize, Serialize};

use crate::position::{Checkpoint, TopicPartition};
use crate::sink::lake::LakeError;

/// Table property: [`Replaying`] as JSON, there until the ends are reached.
pub const REPLAYING: &str = "firn.replaying";

/// What a table has to come to again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Replaying {
    /// Since when, ms since the epoch.
    pub since_ms: i64,
    /// By topic and partition: the offset where the table stood.
    pub ends: BTreeMap<String, BTreeMap<i32, i64>>,
}

/// What a commit means for a table that is replaying.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CatchUp {
    /// It is not.
    #[default]
    None,
    Behind,
    /// This commit came to the ends.
    Reached,
}

impl Replaying {
    /// What the table's properties say.
    ///
    /// # Errors
    /// When the property can't be read.
    pub fn of(table: &str, metadata: &TableMetadata) -> Result<Option<Self>, LakeError> {
        let Some(json) = metadata.properties().get(REPLAYING) else { return Ok(None) };
        serde_json::from_str(json).map(Some).map_err(|e| LakeError::Unclear {
            table: table.to_owned(),
            message: format!(
                "the property {REPLAYING} can't be read ({e}): it may be of a newer version; it has {json}"
            ),
        })
    }

    /// Whether a table that stands here is through.
    pub(crate) fn is_over(&self, standing: &Checkpoint) -> bool {
        self.ends.iter().all(|(topic, ends)| {
            let at = |partition: &i32| TopicPartition::new(topic.clone(), *partition);
            ends.iter().all(|(partition, end)| standing.next(&at(partition)).is_some_and(|next| next >= *end))
        })
    }

    /// Of a table that stood at `before` and goes back to `after`; `earlier` is one that is not through yet. `None` where nothing is
    /// read again.
    pub(super) fn between(before: &Checkpoint, after: &Checkpoint, earlier: Option<Self>, now_ms: i64) -> Option<Self> {
        let mut all = earlier.unwrap_or(Self { since_ms: now_ms, ends: BTreeMap::new() });
        for (topic, had) in &before.topics {
            for (partition, had) in &had.partitions {
                let at = TopicPartition::new(topic.clone(), *partition);
                if after.next(&at).is_none_or(|next| next < had.next) {
                    let end = all.ends.entry(topic.clone()).or_default().entry(*partition).or_insert(had.next);
                    *end = (*end).max(had.next);
                }
            }
        }
        (!all.ends.is_empty()).then_some(all)
    }

    pub(super) fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}
