//! Where a table stands, read from its metadata alone.
//!
//! Properties outlive snapshots of other writers and their expiry; the snapshot ids tell whether the rows that the properties
//! speak of are still in the table.
//!
//! | the last firn snapshot named by the properties | answer |
//! |---|---|
//! | is the current snapshot or one of its ancestors | the properties' checkpoint |
//! | is none of them, and the ancestors are whole | rolled back: the checkpoint of the nearest ancestor that has one |
//! | is none of them, and younger than the oldest ancestor that is left | the same |
//! | can't be found because ancestors were expired, but the snapshot log leads from it to the current one | the properties' |
//! | otherwise | [`LakeError::Unclear`] with both choices |
//!
//! What was rolled back begins a generation of its own, like a rewind: batches begun before it are not let in, whatever they know. One
//! whose commit has been set aside, with its files removed by then, would look like one that never landed.

use iceberg::spec::TableMetadata;

use crate::position::Checkpoint;
use crate::sink::lake::LakeError;

/// Table property and summary key: the whole checkpoint as JSON.
pub const CHECKPOINT: &str = "firn.checkpoint";
/// Table property: the id of the last snapshot that firn made.
pub const LAST_SNAPSHOT_ID: &str = "firn.last-snapshot-id";
/// Table property: counts rewinds, and rollbacks that were gone on from.
pub const GENERATION: &str = "firn.generation";
/// Table property: append or upsert.
pub const MODE: &str = "firn.mode";

/// The table's checkpoint; `None` when firn never committed to it.
///
/// # Errors
/// `Unclear` when the history can't tell; also when the stored checkpoint can't be read.
pub(crate) fn standing(table: &str, metadata: &TableMetadata) -> Result<Option<Checkpoint>, LakeError> {
    let properties = metadata.properties();
    let Some(stored) = stored(table, metadata)? else { return Ok(None) };
    let Some(last) = properties.get(LAST_SNAPSHOT_ID).and_then(|id| id.parse::<i64>().ok()) else {
        // Positions without rows: nothing can have been rolled back.
        return Ok(Some(stored));
    };
    let mut at = metadata.current_snapshot_id();
    let mut nearest = None;
    let mut broken = false;
    let mut oldest = i64::MAX;
    // A chain can't be longer than the snapshots that there are, and one id beyond.
    for _ in 0..=metadata.snapshots().len() {
        let Some(id) = at else { break };
        if id == last {
            return Ok(Some(stored));
        }
        let Some(snapshot) = metadata.snapshot_by_id(id) else {
            broken = true;
            break;
        };
        if nearest.is_none()
            && let Some(json) = snapshot.summary().additional_properties.get(CHECKPOINT)
        {
            nearest = Some(parse(table, json)?);
        }
        oldest = snapshot.sequence_number();
        at = snapshot.parent_snapshot_id();
    }
    // What is younger than an ancestor is not hidden behind it.
    let set_aside = metadata.snapshot_by_id(last).is_some_and(|last| last.sequence_number() > oldest);
    if !broken || (set_aside && nearest.is_some()) {
        // A generation never comes again, also when a rewind was rolled back.
        let generation = stored.generation + 1;
        return Ok(Some(Checkpoint { generation, ..nearest.unwrap_or_else(|| stored.from_the_start()) }));
    }
    if log_leads_on(metadata, last) {
        return Ok(Some(stored));
    }
    Err(LakeError::Unclear {
        table: table.to_owned(),
        message: format!(
            "the last snapshot made here ({last}) is not among the ancestors of the current one ({current}), and older \
             ancestors were expired by another writer, so it can't be told whether the table was rolled back. If it was \
             not, `firn rewind {table} --to stored` goes on at the stored offsets. If it was, or nobody knows, `firn rewind \
             {table} --to rows` goes on where the table's own rows end, which is right in both cases",
            current = metadata.current_snapshot_id().map_or("none".to_owned(), |id| id.to_string()),
        ),
    })
}

/// The checkpoint that the properties hold, whether or not its rows are in the table.
pub(crate) fn stored(table: &str, metadata: &TableMetadata) -> Result<Option<Checkpoint>, LakeError> {
    metadata.properties().get(CHECKPOINT).map(|json| parse(table, json)).transpose()
}

/// How often the table was set back, by its properties.
pub(crate) fn generation(metadata: &TableMetadata) -> u64 {
    metadata.properties().get(GENERATION).and_then(|n| n.parse().ok()).unwrap_or_default()
}

/// Whether each entry of the snapshot log after `last` is a child of the one before, as far as it can be told: a rollback shows as
/// an entry whose parent is another.
fn log_leads_on(metadata: &TableMetadata, last: i64) -> bool {
    let log = metadata.history();
    let Some(from) = log.iter().rposition(|entry| entry.snapshot_id == last) else { return false };
    log[from..].windows(2).all(|pair| match pair {
        [before, after] => metadata
            .snapshot_by_id(after.snapshot_id)
            .is_none_or(|s| s.parent_snapshot_id() == Some(before.snapshot_id)),
        _ => true,
    })
}

fn parse(table: &str, json: &str) -> Result<Checkpoint, LakeError> {
    Checkpoint::from_json(json).map_err(|e| LakeError::Unclear {
        table: table.to_owned(),
        message: format!(
            "the stored checkpoint can't be read ({e}): it may be of a newer version; the property {CHECKPOINT} has {json}"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::{Span, TopicPartition};
    use iceberg::TableCreation;
    use iceberg::spec::{Operation, Schema, Snapshot, Summary, TableMetadataBuilder};
    use std::collections::HashMap;

    const TIME: i64 = 1_700_000_000_000;

    fn at(next: i64) -> Checkpoint {
        let mut checkpoint = Checkpoint::default();
        let span = Span::new(TopicPartition::new("t", 0), 0, next);
        checkpoint.advance(&span).unwrap();
        checkpoint
    }

    fn set_back(to: Checkpoint) -> Checkpoint {
        Checkpoint { generation: to.generation + 1, ..to }
    }

    /// The n-th snapshot ever; `next` when firn made it.
    fn snapshot(id: i64, parent: Option<i64>, next: Option<i64>) -> Snapshot {
        Snapshot::builder()
            .with_snapshot_id(id)
            .with_parent_snapshot_id(parent)
            .with_sequence_number(id)
            .with_timestamp_ms(TIME + id)
            .with_manifest_list(format!("memory://t/metadata/{id}.avro"))
            .with_schema_id(0)
            .with_summary(Summary {
                operation: Operation::Append,
                additional_properties: next
                    .map(|n| HashMap::from([(CHECKPOINT.to_owned(), at(n).to_json())]))
                    .unwrap_or_default(),
            })
            .build()
    }

    /// A table whose properties say that firn stands at `next` since snapshot `last`.
    fn table(last: Option<i64>, next: i64, main: Vec<Snapshot>) -> TableMetadataBuilder {
        let creation = TableCreation::builder()
            .name("t".to_owned())
            .location("memory://t".to_owned())
            .schema(Schema::builder().build().unwrap())
            .build();
        let mut properties = HashMap::from([(CHECKPOINT.to_owned(), at(next).to_json())]);
        properties.extend(last.map(|id| (LAST_SNAPSHOT_ID.to_owned(), id.to_string())));
        let mut builder =
            TableMetadataBuilder::from_table_creation(creation).unwrap().set_properties(properties).unwrap();
        for snapshot in main {
            builder = builder.set_branch_snapshot(snapshot, "main").unwrap();
        }
        builder
    }

    fn standing_of(builder: TableMetadataBuilder) -> Result<Option<Checkpoint>, LakeError> {
        standing("db.t", &builder.build().unwrap().metadata)
    }

    #[test]
    fn a_table_of_others_has_no_checkpoint() {
        let builder =
            table(None, 0, vec![snapshot(1, None, None)]).remove_properties(&[CHECKPOINT.to_owned()]).unwrap();
        assert_eq!(standing_of(builder).unwrap(), None);
    }

    #[test]
    fn the_properties_hold_while_the_last_snapshot_is_an_ancestor() {
        let own = table(Some(1), 9, vec![snapshot(1, None, Some(9))]);
        assert_eq!(standing_of(own).unwrap(), Some(at(9)));
        let foreign_on_top = table(Some(1), 9, vec![snapshot(1, None, Some(9)), snapshot(2, Some(1), None)]);
        assert_eq!(standing_of(foreign_on_top).unwrap(), Some(at(9)));
    }

    #[test]
    fn a_position_that_never_had_rows_holds() {
        assert_eq!(standing_of(table(None, 4, vec![])).unwrap(), Some(at(4)));
    }

    #[test]
    fn after_a_rollback_the_nearest_ancestor_decides() {
        // Two commits, set back to the first, and a foreign snapshot on it.
        let main = vec![snapshot(1, None, Some(5)), snapshot(2, Some(1), Some(9)), snapshot(3, Some(1), None)];
        assert_eq!(standing_of(table(Some(2), 9, main)).unwrap(), Some(set_back(at(5))));
    }

    #[test]
    fn rolled_back_behind_everything_means_from_the_start() {
        let main = vec![snapshot(1, None, None), snapshot(2, Some(1), Some(9)), snapshot(3, Some(1), None)];
        assert_eq!(standing_of(table(Some(2), 9, main)).unwrap(), Some(set_back(Checkpoint::default())));
    }

    #[test]
    fn an_expired_parent_still_tells_by_its_id() {
        let main = vec![snapshot(1, None, Some(9)), snapshot(2, Some(1), None)];
        let builder = table(Some(1), 9, main).remove_snapshots(&[1]);
        assert_eq!(standing_of(builder).unwrap(), Some(at(9)));
    }

    #[test]
    fn after_a_rollback_an_expired_past_does_not_matter_while_the_last_snapshot_is_there() {
        let main = vec![
            snapshot(1, None, Some(5)),
            snapshot(2, Some(1), Some(7)),
            snapshot(3, Some(2), Some(9)),
            snapshot(4, Some(2), None),
        ];
        let builder = table(Some(3), 9, main).remove_snapshots(&[1]);
        assert_eq!(standing_of(builder).unwrap(), Some(set_back(at(7))));
    }

    #[test]
    fn a_broken_chain_stops_with_both_choices() {
        let main = vec![snapshot(1, None, Some(9)), snapshot(2, Some(1), None), snapshot(3, Some(2), None)];
        let e = standing_of(table(Some(1), 9, main).remove_snapshots(&[1, 2])).unwrap_err();
        let text = e.to_string();
        assert!(text.contains("firn rewind db.t --to stored") && text.contains("firn rewind db.t --to rows"), "{text}");
    }
}
