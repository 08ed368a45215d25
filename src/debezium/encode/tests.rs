//! Debezium's own records, read and written again.

use super::*;
use crate::change::{Mode, RowSchema};
use crate::debezium::DecodeOptions;
use crate::debezium::tests::{Captured, drive, fixture};
use std::collections::BTreeSet;

fn options() -> DecodeOptions {
    DecodeOptions { mode: Mode::Upsert, infer_types: true, origin_columns: true, ..DecodeOptions::default() }
}

fn payload(bytes: &[u8]) -> Value {
    let mut whole: Value = serde_json::from_slice(bytes).unwrap();
    match whole.get_mut("payload") {
        Some(payload) => payload.take(),
        None => whole,
    }
}

fn sample(captured: &Captured) -> Sample {
    let bytes = |text: &Option<String>| text.clone().unwrap_or_default().into_bytes();
    Sample { key: bytes(&captured.key), value: bytes(&captured.value) }
}

/// All rows of a topic whose records have its newest schema, written again.
fn again(records: &[Captured], table: &RowSchema) -> Result<(Vec<Sample>, Vec<Encoded>), String> {
    let mut decoder = Decoder::new(options());
    decoder.set_schema(table).unwrap();
    let mut samples: Vec<Sample> = Vec::new();
    for captured in records {
        if matches!(decoder.push(&captured.record()), Pushed::Row(Op::Create | Op::Update | Op::Read)) {
            samples.insert(0, sample(captured));
        }
    }
    let _ = decoder.finish();
    let Some(newest) = samples.first().cloned() else { return Err("no rows".to_owned()) };
    let block = |sample: &Sample| apart(&sample.value).unwrap().0.map(str::to_owned);
    let alike: Vec<Sample> = samples.iter().filter(|s| block(s) == block(&newest)).cloned().collect();
    let mut encoder = Encoder::new(decoder, &records[0].topic, &samples)?;
    let mut rows = Decoder::new(options());
    rows.set_schema(table).unwrap();
    for one in &alike {
        let record =
            Record { topic: &records[0].topic, key: Some(&one.key), value: Some(&one.value), ..Record::default() };
        assert!(matches!(rows.push(&record), Pushed::Row(_)));
    }
    let batch = rows.finish();
    // What was not sent the lake would have filled in.
    if !batch.unavailable.is_empty() {
        return Err("values that were not sent".to_owned());
    }
    let stamps: Vec<Stamp> = alike.iter().map(|_| Stamp { source_ms: 5, lsn: Some(7) }).collect();
    Ok((alike, encoder.encode(&batch.rows, &stamps, 9)?))
}

/// Numbers as numbers: 1.0 and 1.00 are one.
fn plain(value: &Value) -> Value {
    match value {
        Value::Number(n) => n.as_i64().map_or_else(|| Value::from(n.as_f64()), Value::from),
        Value::Array(all) => all.iter().map(plain).collect(),
        Value::Object(all) => all.iter().map(|(name, value)| (name.clone(), plain(value))).collect(),
        other => other.clone(),
    }
}

/// The captures of JSON envelopes.
const CAPTURES: [&str; 6] = [
    "engagement_schemas_false",
    "engagement_schemas_true",
    "inventory_schemas_false",
    "inventory_schemas_true",
    "types_default_schemas_true",
    "types_v1_string_interval_base64_unknown",
];

/// Topics whose rows are not written again, and why.
const REFUSED: [(&str, &str); 3] =
    [("", "no rows"), ("toast", "values that were not sent"), ("", "a schema without a row")];

#[test]
fn debeziums_records_come_out_as_they_were() {
    let (mut problems, mut rows) = (Vec::new(), 0);
    for capture in CAPTURES {
        let all = fixture(capture);
        let topics: BTreeSet<String> = all.iter().map(|r| r.topic.clone()).collect();
        for topic in topics {
            let records: Vec<Captured> = all.iter().filter(|r| r.topic == topic && r.key.is_some()).cloned().collect();
            let table = drive(&mut Decoder::new(options()), None, &records).table;
            if table.columns.is_empty() {
                continue;
            }
            match again(&records, &table) {
                Ok((before, after)) => {
                    rows += before.len();
                    for (before, after) in before.iter().zip(&after) {
                        compare(&format!("{capture} {topic}"), before, after, &mut problems);
                    }
                }
                Err(why) => {
                    let is_known = REFUSED.iter().any(|(of, known)| topic.contains(of) && why.contains(known));
                    problems.extend((!is_known).then(|| format!("{capture} {topic}: {why}")));
                }
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert!(rows > 100, "{rows}");
}

fn compare(place: &str, before: &Sample, after: &Encoded, problems: &mut Vec<String>) {
    assert_eq!(before.key, after.key, "{place}");
    let (was, is) = (payload(&before.value), payload(&after.value));
    for (name, value) in was["after"].as_object().unwrap() {
        let again = &is["after"][name];
        // Java writes more digits of the smallest floats than they have.
        let real = |value: &Value| value.as_f64().map(|n| n as f32);
        let is_same = plain(value) == plain(again) || name == "v_real" && real(value) == real(again);
        // What no column holds (infinity, NaN) is null in the table.
        if !is_same && !again.is_null() {
            problems.push(format!("{place} {name}: {value} became {again}"));
        }
    }
    assert_eq!(is["op"], "r");
    let source = &is["source"];
    let said = (&source["snapshot"], &source["lsn"], &source["ts_ms"], &is["ts_ms"]);
    assert_eq!(said, (&"incremental".into(), &7.into(), &5.into(), &9.into()));
    assert_eq!(was["source"]["table"], source["table"]);
}
