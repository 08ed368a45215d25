//! Positions before and after a rewind. Pure.

use std::collections::BTreeMap;

use iceberg::spec::TableMetadata;

use super::How;
use crate::position::{Checkpoint, PartitionPosition};
use crate::sink::lake::LakeError;
use crate::sink::lake::resume::{CHECKPOINT, standing, stored};

/// Where the table stands; where its history does not tell, what its properties hold.
///
/// # Errors
/// When neither can be read.
pub fn standing_or_stored(table: &str, metadata: &TableMetadata) -> Result<Option<Checkpoint>, LakeError> {
    match standing(table, metadata) {
        Err(LakeError::Unclear { .. }) => stored(table, metadata),
        other => other,
    }
}

/// The checkpoint that the rows of a snapshot were committed with: its own, or that of the nearest firn snapshot before it. `None`
/// where there is none, or its history is not whole.
pub fn taken_with(metadata: &TableMetadata, snapshot_id: i64) -> Option<Checkpoint> {
    let mut at = metadata.snapshot_by_id(snapshot_id);
    for _ in 0..=metadata.snapshots().len() {
        let snapshot = at?;
        if let Some(json) = snapshot.summary().additional_properties.get(CHECKPOINT) {
            return Checkpoint::from_json(json).ok();
        }
        at = metadata.snapshot_by_id(snapshot.parent_snapshot_id()?);
    }
    None
}

impl How {
    /// The position of a table that stood at `before`; the sentence says why it can't be. The generation is the caller's to count.
    pub(super) fn position(&self, before: &Checkpoint, metadata: &TableMetadata) -> Result<Checkpoint, String> {
        let mut after = before.clone();
        match self {
            How::TakeOut { topic, to } | How::Replay { topic, to } => {
                for (partition, to) in to {
                    let have = position_of(&mut after, topic, *partition)?;
                    if *to > have.next {
                        return Err(format!(
                            "{topic}/{partition}: the table stands at offset {}, before {to}: rows between would be missing",
                            have.next
                        ));
                    }
                    set(have, *to);
                }
            }
            How::Deliver { topic, to } => {
                let topic = after.topics.entry(topic.clone()).or_default();
                // It may be another topic of the name: the first delivery says which.
                topic.topic_id = None;
                for (partition, to) in to {
                    topic.partition_count = topic.partition_count.max(partition + 1);
                    let fresh = PartitionPosition { next: *to, leader_epoch: None, timestamp_ms: None };
                    set(topic.partitions.entry(*partition).or_insert(fresh), *to);
                }
            }
            How::SkipLost { topic, to } => {
                for (partition, to) in to {
                    let have = position_of(&mut after, topic, *partition)?;
                    if *to < have.next {
                        return Err(format!("{topic}/{partition}: the table stands at offset {} by now", have.next));
                    }
                    set(have, *to);
                }
            }
            How::Restore { snapshot_id } => {
                if metadata.snapshot_by_id(*snapshot_id).is_none() {
                    return Err(format!("there is no snapshot {snapshot_id} any more: it was expired"));
                }
                after = taken_with(metadata, *snapshot_id).ok_or_else(|| {
                    format!("neither snapshot {snapshot_id} nor the ones before it say where the table stood in Kafka")
                })?;
            }
            How::NewTopic { topic, begins } => {
                after.topics.insert(topic.clone(), begins.clone());
            }
        }
        after.generation = before.generation;
        Ok(after)
    }

    /// The offsets by partition that are read again from.
    pub(super) fn read_again(before: &Checkpoint, after: &Checkpoint) -> BTreeMap<String, BTreeMap<i32, i64>> {
        let mut again = BTreeMap::<String, BTreeMap<i32, i64>>::new();
        for (topic, had) in &before.topics {
            let has = after.topics.get(topic);
            for (partition, had) in &had.partitions {
                // A partition without a position is read from its beginning.
                let from = has.and_then(|t| t.partitions.get(partition)).map_or(i64::MIN, |p| p.next);
                if from < had.next {
                    again.entry(topic.clone()).or_default().insert(*partition, from);
                }
            }
        }
        again
    }
}

fn position_of<'a>(
    checkpoint: &'a mut Checkpoint,
    topic: &str,
    partition: i32,
) -> Result<&'a mut PartitionPosition, String> {
    let of_topic = checkpoint.topics.get_mut(topic);
    of_topic
        .and_then(|t| t.partitions.get_mut(&partition))
        .ok_or_else(|| format!("the table has no position in {topic}/{partition}"))
}

/// What was known of the record before the old offset is not known of the one before the new.
fn set(position: &mut PartitionPosition, next: i64) {
    if position.next != next {
        *position = PartitionPosition { next, leader_epoch: None, timestamp_ms: None };
    }
}
