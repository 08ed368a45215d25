//! Offsets that the table never read and never will: Kafka's log lost them, and a person said to go on.

use std::collections::HashMap;

use iceberg::spec::TableMetadata;
use serde::{Deserialize, Serialize};

use super::How;
use crate::position::{Checkpoint, TopicPartition};

/// Table property: the lost ranges as JSON, oldest first.
pub const LOST_RANGES: &str = "firn.lost-ranges";

/// Ranges that are remembered: the property goes into every metadata file.
const MOST: usize = 100;

/// The offsets `[from, to)` of a partition.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct LostRange {
    pub topic: String,
    pub partition: i32,
    pub from: i64,
    pub to: i64,
    /// When they were given up, ms since the epoch.
    pub at_ms: i64,
}

/// What the table says of it; nothing where that can't be read.
pub fn lost_ranges(properties: &HashMap<String, String>) -> Vec<LostRange> {
    properties.get(LOST_RANGES).and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default()
}

/// The ranges that are given up between two positions.
pub(super) fn given_up(how: &How, before: &Checkpoint, at_ms: i64) -> Vec<LostRange> {
    let How::SkipLost { topic, to } = how else { return vec![] };
    let ranges = to.iter().filter_map(|(partition, to)| {
        let from = before.next(&TopicPartition::new(topic.clone(), *partition))?;
        (from < *to).then(|| LostRange { topic: topic.clone(), partition: *partition, from, to: *to, at_ms })
    });
    ranges.collect()
}

/// The property with these ranges added; `None` when it stays.
pub(super) fn with(metadata: &TableMetadata, lost: &[LostRange]) -> Option<String> {
    if lost.is_empty() {
        return None;
    }
    let mut all = lost_ranges(metadata.properties());
    all.extend(lost.iter().cloned());
    all.drain(..all.len().saturating_sub(MOST));
    serde_json::to_string(&all).ok()
}
