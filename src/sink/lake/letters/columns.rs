//! Letters as Arrow columns, and back.

use std::sync::Arc;

use arrow_array::builder::{LargeBinaryBuilder, MapBuilder, MapFieldNames, StringBuilder};
use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{
    Array, ArrayRef, Int32Array, Int64Array, LargeBinaryArray, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow_cast::cast;

use crate::change::{Column, ColumnType, RowSchema};
use crate::letter::{Letter, Status};
use crate::position::TopicPartition;
use crate::record::Origin;
use crate::sink::lake::LakeError;

/// The columns that may be large.
pub(super) const CONTENTS: [&str; 5] = ["key", "value", "headers", "key_text", "value_text"];

/// The letters' columns; the first five are the key. A topic id that nobody told is empty. The texts are there where key and value
/// are UTF-8, for queries.
pub(super) fn schema() -> RowSchema {
    RowSchema {
        columns: vec![
            Column::key("target", ColumnType::String),
            Column::key("topic", ColumnType::String),
            Column::key("topic_id", ColumnType::String),
            Column::key("partition", ColumnType::Int),
            Column::key("offset", ColumnType::Long),
            Column::new("record_ts", ColumnType::TimestampTz),
            Column::new("reason", ColumnType::String),
            Column::new("detail", ColumnType::String),
            Column::new("key", ColumnType::Binary),
            Column::new("value", ColumnType::Binary),
            // From here on added later: letters written before have nulls.
            Column::new("rejected_ts", ColumnType::TimestampTz),
            Column::new("schema_id", ColumnType::Int),
            Column::new("headers", ColumnType::Map(Box::new(ColumnType::Binary))),
            Column::new("key_text", ColumnType::String),
            Column::new("value_text", ColumnType::String),
            Column::new("status", ColumnType::String),
            Column::new("status_ts", ColumnType::TimestampTz),
            Column::new("status_detail", ColumnType::String),
        ],
    }
}

pub(super) fn to_arrow(letters: &[Letter]) -> Result<RecordBatch, LakeError> {
    let text =
        |of: fn(&Letter) -> &str| -> ArrayRef { Arc::new(StringArray::from_iter_values(letters.iter().map(of))) };
    let time = |of: fn(&Letter) -> Option<i64>| -> ArrayRef {
        let us = letters.iter().map(|l| of(l).map(|ms| ms.saturating_mul(1000)));
        Arc::new(TimestampMicrosecondArray::from_iter(us).with_timezone("+00:00"))
    };
    let bytes = |of: fn(&Letter) -> Option<&[u8]>| -> ArrayRef {
        Arc::new(letters.iter().map(of).collect::<LargeBinaryArray>())
    };
    let readable = |of: fn(&Letter) -> Option<&[u8]>| -> ArrayRef {
        let texts = letters.iter().map(|l| of(l).and_then(|bytes| std::str::from_utf8(bytes).ok()));
        Arc::new(texts.collect::<StringArray>())
    };
    let arrays: Vec<ArrayRef> = vec![
        text(|l| &l.target),
        text(|l| &l.origin.at.topic),
        text(|l| l.topic_id.as_deref().unwrap_or_default()),
        Arc::new(Int32Array::from_iter_values(letters.iter().map(|l| l.origin.at.partition))),
        Arc::new(Int64Array::from_iter_values(letters.iter().map(|l| l.origin.offset))),
        time(|l| l.timestamp_ms),
        text(|l| &l.reason),
        text(|l| &l.detail),
        bytes(|l| l.key.as_deref()),
        bytes(|l| l.value.as_deref()),
        time(|l| l.rejected_ms),
        Arc::new(letters.iter().map(|l| l.schema_id).collect::<Int32Array>()),
        headers(letters)?,
        readable(|l| l.key.as_deref()),
        readable(|l| l.value.as_deref()),
        text(|l| l.status.as_str()),
        time(|l| l.status_ms),
        text(|l| &l.status_detail),
    ];
    Ok(RecordBatch::try_new(Arc::new(schema().arrow()), arrays)?)
}

/// Of headers of one name the last counts, as for whoever reads them.
fn headers(letters: &[Letter]) -> Result<ArrayRef, LakeError> {
    let names = MapFieldNames { entry: "key_value".into(), key: "key".into(), value: "value".into() };
    let mut map = MapBuilder::new(Some(names), StringBuilder::new(), LargeBinaryBuilder::new());
    for letter in letters {
        for (i, (name, value)) in letter.headers.iter().enumerate() {
            if letter.headers[i + 1..].iter().all(|(later, _)| later != name) {
                map.keys().append_value(name);
                map.values().append_value(value);
            }
        }
        map.append(true)?;
    }
    Ok(Arc::new(map.finish()))
}

/// Reads what a scan gave. A column that isn't there reads as nulls.
///
/// # Errors
/// When a column is of another type.
pub(super) fn from_arrow(batch: &RecordBatch) -> Result<Vec<Letter>, LakeError> {
    let schema = schema();
    let column = |name: &str| -> Result<Option<ArrayRef>, LakeError> {
        let Some(array) = batch.column_by_name(name) else { return Ok(None) };
        let wanted = schema.columns.iter().find(|c| c.name == name).map(|c| c.column_type.arrow());
        Ok(Some(match wanted {
            Some(wanted) if wanted != *array.data_type() && name != "headers" => cast(array, &wanted)?,
            _ => Arc::clone(array),
        }))
    };
    let text = |array: &Option<ArrayRef>, row: usize| -> Option<String> {
        let array = array.as_ref()?.as_string::<i32>();
        array.is_valid(row).then(|| array.value(row).to_owned())
    };
    let bytes = |array: &Option<ArrayRef>, row: usize| -> Option<Vec<u8>> {
        let array = array.as_ref()?.as_binary::<i64>();
        array.is_valid(row).then(|| array.value(row).to_vec())
    };
    let ms = |array: &Option<ArrayRef>, row: usize| -> Option<i64> {
        let array = array.as_ref()?.as_primitive::<TimestampMicrosecondType>();
        array.is_valid(row).then(|| array.value(row).div_euclid(1000))
    };
    let int = |array: &Option<ArrayRef>, row: usize| -> Option<i32> {
        let array = array.as_ref()?.as_primitive::<Int32Type>();
        array.is_valid(row).then(|| array.value(row))
    };
    let (target, topic, topic_id) = (column("target")?, column("topic")?, column("topic_id")?);
    let (partition, offset) = (column("partition")?, column("offset")?);
    let (record_ts, rejected_ts, status_ts) = (column("record_ts")?, column("rejected_ts")?, column("status_ts")?);
    let (reason, detail, schema_id) = (column("reason")?, column("detail")?, column("schema_id")?);
    let (key, value, headers) = (column("key")?, column("value")?, column("headers")?);
    let (status, status_detail) = (column("status")?, column("status_detail")?);
    let mut letters = Vec::with_capacity(batch.num_rows());
    for row in 0..batch.num_rows() {
        let at = TopicPartition::new(text(&topic, row).unwrap_or_default(), int(&partition, row).unwrap_or_default());
        let offset = offset.as_ref().map(|a| a.as_primitive::<Int64Type>().value(row)).unwrap_or_default();
        letters.push(Letter {
            target: text(&target, row).unwrap_or_default(),
            topic_id: text(&topic_id, row).filter(|id| !id.is_empty()),
            origin: Origin { at, offset },
            timestamp_ms: ms(&record_ts, row),
            rejected_ms: ms(&rejected_ts, row),
            reason: text(&reason, row).unwrap_or_default(),
            detail: text(&detail, row).unwrap_or_default(),
            schema_id: int(&schema_id, row),
            key: bytes(&key, row),
            value: bytes(&value, row),
            headers: headers.as_ref().map(|h| headers_of(h, row)).transpose()?.unwrap_or_default(),
            status: text(&status, row).and_then(|s| Status::of(&s)).unwrap_or_default(),
            status_ms: ms(&status_ts, row),
            status_detail: text(&status_detail, row).unwrap_or_default(),
        });
    }
    Ok(letters)
}

fn headers_of(array: &ArrayRef, row: usize) -> Result<Vec<(String, Vec<u8>)>, LakeError> {
    let map = array.as_map();
    if map.is_null(row) {
        return Ok(vec![]);
    }
    let entries = map.value(row);
    let (names, values) = (entries.column(0), entries.column(1));
    let names = cast(names, &arrow_schema::DataType::Utf8)?;
    let values = cast(values, &arrow_schema::DataType::LargeBinary)?;
    let (names, values) = (names.as_string::<i32>(), values.as_binary::<i64>());
    Ok((0..names.len()).map(|i| (names.value(i).to_owned(), values.value(i).to_vec())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letters() -> Vec<Letter> {
        let first = Letter {
            target: "db.t".to_owned(),
            topic_id: None,
            origin: "t/3@9".parse().unwrap(),
            timestamp_ms: Some(-1),
            rejected_ms: Some(1_700_000_000_123),
            reason: "bad_value".to_owned(),
            detail: "column n".to_owned(),
            schema_id: Some(41),
            key: Some(b"{}".to_vec()),
            value: Some(vec![0, 0xFF]),
            headers: vec![("a".to_owned(), vec![0xFE]), ("b".to_owned(), vec![])],
            status: Status::Superseded,
            status_ms: Some(5),
            status_detail: "later".to_owned(),
        };
        let second = Letter {
            topic_id: Some("id".to_owned()),
            key: None,
            value: None,
            headers: vec![],
            status: Status::Pending,
            status_ms: None,
            schema_id: None,
            ..first.clone()
        };
        vec![first, second]
    }

    #[test]
    fn a_letter_comes_back_as_it_was_written() {
        assert_eq!(from_arrow(&to_arrow(&letters()).unwrap()).unwrap(), letters());
    }

    #[test]
    fn text_columns_hold_what_is_utf8_and_nothing_else() {
        let batch = to_arrow(&letters()).unwrap();
        let text = |name: &str| batch.column_by_name(name).unwrap().as_string::<i32>().clone();
        assert_eq!(text("key_text").value(0), "{}");
        assert!(text("value_text").is_null(0) && text("key_text").is_null(1));
    }

    #[test]
    fn a_letter_of_a_table_from_before_is_pending() {
        let batch = to_arrow(&letters()[..1]).unwrap();
        let old: Vec<usize> = (0..10).collect();
        let [letter] = from_arrow(&batch.project(&old).unwrap()).unwrap().try_into().unwrap();
        assert_eq!((letter.status, letter.rejected_ms, letter.value), (Status::Pending, None, Some(vec![0, 0xFF])));
    }

    #[test]
    fn of_two_headers_of_one_name_the_last_is_kept() {
        let mut letter = letters().remove(0);
        letter.headers = vec![("a".to_owned(), b"1".to_vec()), ("a".to_owned(), b"2".to_vec())];
        let [back] = from_arrow(&to_arrow(&[letter]).unwrap()).unwrap().try_into().unwrap();
        assert_eq!(back.headers, [("a".to_owned(), b"2".to_vec())]);
    }
}
