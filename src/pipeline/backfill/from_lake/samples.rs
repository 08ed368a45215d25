//! What the topic's records look like. Blocks.

use std::collections::BTreeMap;

use crate::change::Op;
use crate::debezium::{DecodeOptions, Decoder, Encoder, Pushed, Sample};
use crate::pipeline::backfill::BackfillError;
use crate::pipeline::told::{Told, push};
use crate::position::TopicPartition;
use crate::record::Record;
use crate::sink::lake::TableColumns;
use crate::source::kafka::{ClientSettings, reach, read_log};

/// Offsets at the end of the topic that are looked through. The second where the first have no row.
const LAST: [i64; 2] = [400, 100_000];

/// A record of the topic, and when it was written.
struct Seen {
    at_ms: i64,
    partition: i32,
    offset: i64,
    sample: Sample,
}

/// An encoder that writes as the topic's newest records are written.
///
/// # Errors
/// Where the topic has no row, or rows of the table can't be written so.
pub(super) fn encoder(
    kafka: &ClientSettings,
    topic: &str,
    columns: &TableColumns,
    options: &DecodeOptions,
    told: Told<'_>,
) -> Result<Encoder, BackfillError> {
    let refused = |why: String| BackfillError::Refused(format!("{topic}: {why}"));
    for last in LAST {
        let mut decoder = Decoder::new(options.clone());
        decoder.set_table(columns.rows(), columns.lineage()).map_err(refused)?;
        let mut samples = Vec::new();
        for seen in newest(kafka, topic, last)? {
            let record = Record {
                topic,
                partition: seen.partition,
                offset: seen.offset,
                timestamp_ms: Some(seen.at_ms),
                key: Some(&seen.sample.key),
                value: Some(&seen.sample.value),
                headers: None,
            };
            match push(&mut decoder, &record, told).map_err(refused)? {
                Pushed::Row(Op::Create | Op::Update | Op::Read) => samples.push(seen.sample),
                Pushed::NeedsSchema(_) if samples.is_empty() => {
                    return Err(refused(
                        "its newest records have columns that the lake table lacks: wait until the table has caught up"
                            .to_owned(),
                    ));
                }
                _ => {}
            }
        }
        decoder.finish();
        if !samples.is_empty() {
            return Encoder::new(decoder, topic, &samples).map_err(refused);
        }
    }
    Err(refused(
        "it has no row left that would show how its records are written; change a row at the source (an UPDATE that sets a column to \
         itself), then run the command again"
            .to_owned(),
    ))
}

/// The records with key and value at the end of the topic, the newest first.
fn newest(kafka: &ClientSettings, topic: &str, last: i64) -> Result<Vec<Seen>, BackfillError> {
    let reach = reach(kafka, topic)?;
    let each = last / i64::try_from(reach.len().max(1)).unwrap_or(i64::MAX);
    let mut found: BTreeMap<(i64, i32, i64), Seen> = BTreeMap::new();
    for (partition, reach) in reach {
        let at = TopicPartition::new(topic, partition);
        let from = reach.low.max(reach.committed - each.max(1));
        read_log(kafka, &at, from, reach.committed, |record| {
            let (Some(key), Some(value)) = (record.key, record.value) else { return };
            let sample = Sample { key: key.to_vec(), value: value.to_vec() };
            let at_ms = record.timestamp_ms.unwrap_or(0);
            let (partition, offset) = (record.partition, record.offset);
            found.insert((at_ms, partition, offset), Seen { at_ms, partition, offset, sample });
            if found.len() as i64 > 2 * LAST[0] {
                found.pop_first();
            }
        })?;
    }
    Ok(found.into_values().rev().collect())
}
