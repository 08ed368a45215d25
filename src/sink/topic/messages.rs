//! A delivery's rows as messages.

use arrow_array::{ArrayRef, RecordBatch};

use super::avro::AvroWriter;
use super::settings::{Deletes, KeyFormat, OnNullKey, TopicSettings};
use crate::sink::ledger::Message;
use crate::sink::text::{is_null, object, plain, write};
use crate::sink::{Delivery, RefusedRow, SinkError};

/// The change that a message comes from.
pub(super) const TOPIC_HEADER: &str = "_firn_topic";
pub(super) const PARTITION_HEADER: &str = "_firn_partition";
pub(super) const OFFSET_HEADER: &str = "_firn_offset";

/// How values are written.
#[derive(Debug)]
pub(super) enum Values {
    Json,
    Avro(AvroWriter),
}

/// One message for each row, in their order.
///
/// # Errors
/// [`SinkError::Refused`] with every row that can't be one.
pub(super) fn messages(
    settings: &TopicSettings,
    values: &Values,
    delivery: &Delivery,
) -> Result<Vec<Message>, SinkError> {
    let rows = &delivery.rows;
    let columns = columns(rows)?;
    let key = key_columns(settings, &columns)?;
    let fitted = match values {
        Values::Json => Vec::new(),
        Values::Avro(writer) => writer.fit(&columns, rows.num_rows()).map_err(SinkError::Stopped)?,
    };
    let mut refused = Vec::new();
    let mut messages = Vec::with_capacity(rows.num_rows());
    for row in 0..rows.num_rows() {
        let gone = settings.deletes == Deletes::Tombstone && delivery.is_deleted(row);
        let null = key.iter().find(|(_, column)| is_null(column, row));
        if let Some((name, _)) = null.filter(|_| gone || settings.on_null_key == OnNullKey::Reject) {
            let detail = format!("column {name} of the key is NULL");
            refused.push(RefusedRow { row, detail });
            continue;
        }
        let value = match values {
            _ if gone => None,
            Values::Json => {
                let mut out = Vec::new();
                object(columns.iter().map(|(name, column)| (name.as_str(), column)), row, &mut out);
                Some(out)
            }
            Values::Avro(writer) => Some(writer.write(&fitted, row)),
        };
        messages.push(Message {
            topic: settings.topic.clone(),
            partition: None,
            key: (!key.is_empty() && null.is_none()).then(|| key_of(settings.key_format, &key, row)),
            value,
            headers: if settings.origin_headers { origin(delivery, row) } else { Vec::new() },
        });
    }
    if refused.is_empty() { Ok(messages) } else { Err(SinkError::Refused(refused)) }
}

type Named = (String, ArrayRef);

fn columns(rows: &RecordBatch) -> Result<Vec<Named>, SinkError> {
    let schema = rows.schema();
    let column = |(field, column): (&std::sync::Arc<arrow_schema::Field>, &ArrayRef)| {
        let spelled = plain(column).map_err(|e| SinkError::Stopped(format!("column {}: {e}", field.name())))?;
        Ok((field.name().clone(), spelled))
    };
    schema.fields().iter().zip(rows.columns()).map(column).collect()
}

fn key_columns(settings: &TopicSettings, columns: &[Named]) -> Result<Vec<Named>, SinkError> {
    let find = |name: &String| columns.iter().find(|(n, _)| n == name).cloned().ok_or_else(|| missing(name));
    settings.key.iter().map(find).collect()
}

pub(super) fn missing(name: &str) -> SinkError {
    SinkError::Stopped(format!("the SELECT has no column {name}, which is in the topic's `key`"))
}

fn key_of(format: KeyFormat, key: &[Named], row: usize) -> Vec<u8> {
    let mut out = Vec::new();
    match (format, key) {
        (KeyFormat::Text, [(_, column)]) => write(column, row, &mut out),
        _ => object(key.iter().map(|(name, column)| (name.as_str(), column)), row, &mut out),
    }
    out
}

fn origin(delivery: &Delivery, row: usize) -> Vec<(String, Vec<u8>)> {
    let at = &delivery.span.at;
    let mut headers = vec![
        (TOPIC_HEADER.to_owned(), at.topic.clone().into_bytes()),
        (PARTITION_HEADER.to_owned(), at.partition.to_string().into_bytes()),
    ];
    if let Some(origin) = delivery.origins.as_ref().and_then(|o| o.get(row)) {
        headers.push((OFFSET_HEADER.to_owned(), origin.offset.to_string().into_bytes()));
    }
    headers
}
