//! How fast Debezium's JSON and Avro become Arrow columns, beside two usual ways of doing it for JSON.
//!
//! 12 columns, 570 bytes a message without schema block, then with one of about 4.5 kB; a single core, best of five runs. The other
//! two ways are given less to do: `serde_json::Value` reads the same columns but checks no types, arrow-json's tape is handed the
//! `after` that a borrowed envelope has found and decodes it by the column types that it knows (no dates, no decimals).
//!
//! Run with `cargo bench --bench decode`.

#![expect(clippy::expect_used, reason = "a bench that cannot go on may stop")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use arrow_array::builder::{BooleanBuilder, Float64Builder, Int32Builder, Int64Builder, StringBuilder};
use arrow_json::ReaderBuilder;
use arrow_schema::{DataType, Field, Schema};
use firn::debezium::{DecodeOptions, Decoder, Pushed, Registered};
use firn::record::Record;
use serde_json::value::RawValue;

const ROWS: usize = 50_000;
const RUNS: usize = 5;

/// Name, Connect's type, type that arrow-json is given.
const COLUMNS: [(&str, &str, DataType); 12] = [
    ("id", "int64", DataType::Int64),
    ("customer_id", "int32", DataType::Int32),
    ("street", "string", DataType::Utf8),
    ("city", "string", DataType::Utf8),
    ("zip", "string", DataType::Utf8),
    ("quantity", "int32", DataType::Int32),
    ("price", "double", DataType::Float64),
    ("active", "boolean", DataType::Boolean),
    ("note", "string", DataType::Utf8),
    ("rank", "int64", DataType::Int64),
    ("ratio", "double", DataType::Float64),
    ("kind", "string", DataType::Utf8),
];

fn payload(row: usize) -> String {
    let (lsn, ms) = (43_329_968 + row * 56, 1_795_168_249_794 + row);
    format!(
        r#"{{"before":null,"after":{{"id":{row},"customer_id":{},"street":"{} Moore Avenue","city":"Euless","zip":"{:05}","quantity":{},"price":{}.25,"active":{},"note":null,"rank":{},"ratio":0.{:03},"kind":"SHIPPING"}},"source":{{"version":"3.7.0.Final","connector":"postgresql","name":"shop","ts_ms":{ms},"snapshot":"false","db":"shop","sequence":"[\"{lsn}\",\"{lsn}\"]","ts_us":{ms}123,"schema":"inventory","table":"addresses","txId":{},"lsn":{lsn},"xmin":null}},"transaction":null,"op":"c","ts_ms":{ms},"ts_us":{ms}456}}"#,
        row % 977,
        row % 9000,
        row % 100_000,
        row % 17,
        row % 300,
        row.is_multiple_of(2),
        row as i64 * 7919 - 1_000_000,
        row % 1000,
        row / 3,
    )
}

/// A schema block as Debezium's: the columns twice, the source's fields.
fn block() -> String {
    let columns: Vec<String> = COLUMNS
        .iter()
        .map(|(name, kind, _)| format!(r#"{{"type":"{kind}","optional":true,"field":"{name}"}}"#))
        .collect();
    let columns = columns.join(",");
    let image = |field: &str| {
        format!(
            r#"{{"type":"struct","fields":[{columns}],"optional":true,"name":"shop.inventory.addresses.Value","field":"{field}"}}"#
        )
    };
    let source: Vec<String> =
        (0..45).map(|i| format!(r#"{{"type":"int64","optional":true,"field":"source_{i}"}}"#)).collect();
    format!(
        r#"{{"type":"struct","fields":[{},{},{{"type":"struct","fields":[{}],"optional":false,"name":"io.debezium.connector.postgresql.Source","field":"source"}},{{"type":"string","optional":false,"field":"op"}}],"optional":false,"name":"shop.inventory.addresses.Envelope","version":2}}"#,
        image("before"),
        image("after"),
        source.join(",")
    )
}

/// The writer's schema that Debezium registers for the same table.
fn writer_schema() -> String {
    let columns: Vec<String> = COLUMNS
        .iter()
        .map(|(name, kind, _)| {
            let kind = kind.replace("int64", "long").replace("int32", "int");
            format!(r#"{{"name":"{name}","type":["null","{kind}"],"default":null}}"#)
        })
        .collect();
    let optional = |name: &str, kind: &str| format!(r#"{{"name":"{name}","type":["null","{kind}"],"default":null}}"#);
    let texts = |names: &[&str]| -> String {
        names.iter().map(|name| format!(r#"{{"name":"{name}","type":"string"}},"#)).collect()
    };
    let source = format!(
        r#"{}{{"name":"ts_ms","type":"long"}},{},{}{},{},{}{},{},{}"#,
        texts(&["version", "connector", "name"]),
        r#"{"name":"snapshot","type":["string","null"]}"#,
        texts(&["db"]),
        optional("sequence", "string"),
        optional("ts_us", "long"),
        texts(&["schema", "table"]),
        optional("txId", "long"),
        optional("lsn", "long"),
        optional("xmin", "long"),
    );
    format!(
        r#"{{"type":"record","name":"Envelope","namespace":"shop.inventory.addresses","fields":[{{"name":"before","type":["null",{{"type":"record","name":"Value","fields":[{}]}}],"default":null}},{{"name":"after","type":["null","Value"],"default":null}},{{"name":"source","type":{{"type":"record","name":"Source","namespace":"io.debezium.connector.postgresql","fields":[{source}]}}}},{},{{"name":"op","type":"string"}},{},{}]}}"#,
        columns.join(","),
        optional("transaction", "string"),
        optional("ts_ms", "long"),
        optional("ts_us", "long"),
    )
}

/// A datum under construction.
struct Datum(Vec<u8>);

impl Datum {
    fn long(&mut self, value: i64) {
        let mut zigzag = ((value << 1) ^ (value >> 63)) as u64;
        while zigzag >= 0x80 {
            self.0.push(zigzag as u8 | 0x80);
            zigzag >>= 7;
        }
        self.0.push(zigzag as u8);
    }

    fn text(&mut self, text: &str) {
        self.long(text.len() as i64);
        self.0.extend_from_slice(text.as_bytes());
    }

    /// What a JSON value is in a union of null and its type.
    fn optional(&mut self, value: &serde_json::Value, kind: &str) {
        if value.is_null() {
            return self.long(0);
        }
        self.long(1);
        match kind {
            "string" => self.text(value.as_str().expect("a string")),
            "boolean" => self.0.push(u8::from(value.as_bool().expect("a boolean"))),
            "double" => self.0.extend_from_slice(&value.as_f64().expect("a number").to_le_bytes()),
            _ => self.long(value.as_i64().expect("an integer")),
        }
    }
}

/// The values of a JSON message in the wire format, written with schema 1.
fn avro(payload: &str) -> Vec<u8> {
    let envelope: serde_json::Value = serde_json::from_str(payload).expect("valid JSON");
    let mut datum = Datum(vec![0, 0, 0, 0, 1]);
    datum.long(0);
    datum.long(1);
    for (name, kind, _) in COLUMNS {
        datum.optional(&envelope["after"][name], kind);
    }
    let source = &envelope["source"];
    let text = |name: &str| source[name].as_str().expect("a string");
    ["version", "connector", "name"].iter().for_each(|name| datum.text(text(name)));
    datum.long(source["ts_ms"].as_i64().expect("an integer"));
    datum.long(0);
    ["snapshot", "db"].iter().for_each(|name| datum.text(text(name)));
    datum.optional(&source["sequence"], "string");
    datum.optional(&source["ts_us"], "long");
    ["schema", "table"].iter().for_each(|name| datum.text(text(name)));
    ["txId", "lsn", "xmin"].iter().for_each(|name| datum.optional(&source[name], "long"));
    datum.long(0);
    datum.text("c");
    ["ts_ms", "ts_us"].iter().for_each(|name| datum.optional(&envelope[name], "long"));
    datum.0
}

fn ours_from_avro(messages: &[Vec<u8>], with_origin: bool, schema: &Registered) -> usize {
    let mut decoder = Decoder::new(DecodeOptions { origin_columns: with_origin, ..DecodeOptions::default() });
    decoder.learn(1, schema);
    for (offset, message) in messages.iter().enumerate() {
        let record = Record {
            topic: "shop.inventory.addresses",
            offset: offset as i64,
            key: Some(br#"{"id":1}"#),
            value: Some(message),
            ..Record::default()
        };
        let mut pushed = decoder.push(&record);
        if let Pushed::NeedsSchema(table) = pushed {
            decoder.set_schema(&table).expect("a table of the record's own columns");
            pushed = decoder.push(&record);
        }
        assert!(matches!(pushed, Pushed::Row(_)));
    }
    decoder.finish().num_rows()
}

fn ours(messages: &[String], with_origin: bool, first: &str) -> usize {
    let mut decoder = Decoder::new(DecodeOptions { origin_columns: with_origin, ..DecodeOptions::default() });
    let record = |offset: usize, value| Record {
        topic: "shop.inventory.addresses",
        partition: 0,
        offset: offset as i64,
        timestamp_ms: None,
        key: Some(br#"{"id":1}"#),
        value: Some(value),
        ..Record::default()
    };
    if let Pushed::NeedsSchema(table) = decoder.push(&record(0, first.as_bytes())) {
        decoder.set_schema(&table).expect("a table of the record's own columns");
    }
    for (offset, message) in messages.iter().enumerate() {
        assert!(matches!(decoder.push(&record(offset, message.as_bytes())), Pushed::Row(_)));
    }
    decoder.finish().num_rows()
}

enum Builder {
    Int32(Int32Builder),
    Int64(Int64Builder),
    Float(Float64Builder),
    Boolean(BooleanBuilder),
    Text(StringBuilder),
}

fn tree(messages: &[String]) -> usize {
    let mut builders: Vec<Builder> = COLUMNS
        .iter()
        .map(|(_, _, data_type)| match data_type {
            DataType::Int32 => Builder::Int32(Int32Builder::new()),
            DataType::Int64 => Builder::Int64(Int64Builder::new()),
            DataType::Float64 => Builder::Float(Float64Builder::new()),
            DataType::Boolean => Builder::Boolean(BooleanBuilder::new()),
            _ => Builder::Text(StringBuilder::new()),
        })
        .collect();
    for message in messages {
        let value: serde_json::Value = serde_json::from_str(message).expect("valid JSON");
        let after = &value.get("payload").unwrap_or(&value)["after"];
        for ((name, _, _), builder) in COLUMNS.iter().zip(&mut builders) {
            let value = &after[*name];
            match builder {
                Builder::Int32(b) => b.append_option(value.as_i64().map(|v| v as i32)),
                Builder::Int64(b) => b.append_option(value.as_i64()),
                Builder::Float(b) => b.append_option(value.as_f64()),
                Builder::Boolean(b) => b.append_option(value.as_bool()),
                Builder::Text(b) => b.append_option(value.as_str()),
            }
        }
    }
    black_box(&builders);
    messages.len()
}

#[derive(serde::Deserialize)]
struct Wrapped<'a> {
    #[serde(borrow)]
    payload: Envelope<'a>,
}

#[derive(serde::Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    after: &'a RawValue,
}

fn tape(messages: &[String], wrapped: bool) -> usize {
    let fields: Vec<Field> =
        COLUMNS.iter().map(|(name, _, data_type)| Field::new(*name, data_type.clone(), true)).collect();
    let mut decoder = ReaderBuilder::new(Arc::new(Schema::new(fields)))
        .with_batch_size(messages.len())
        .build_decoder()
        .expect("a schema that arrow-json knows");
    for message in messages {
        let after = if wrapped {
            serde_json::from_str::<Wrapped<'_>>(message).expect("valid JSON").payload.after
        } else {
            serde_json::from_str::<Envelope<'_>>(message).expect("valid JSON").after
        };
        decoder.decode(after.get().as_bytes()).expect("values of these types");
    }
    decoder.flush().expect("whole rows").map_or(0, |batch| batch.num_rows())
}

fn best(name: &str, bytes: usize, mut run: impl FnMut() -> usize) -> f64 {
    let mut rate = 0f64;
    for _ in 0..RUNS {
        let start = Instant::now();
        let rows = black_box(run());
        assert_eq!(rows, ROWS);
        rate = rate.max(rows as f64 / start.elapsed().as_secs_f64());
    }
    println!("{name:<42} {:>8.0} rows/s {:>7.0} MB/s", rate, rate * bytes as f64 / ROWS as f64 / 1e6);
    rate
}

fn main() {
    let bare: Vec<String> = (0..ROWS).map(payload).collect();
    let block = block();
    let wrapped: Vec<String> =
        bare.iter().map(|payload| format!(r#"{{"schema":{block},"payload":{payload}}}"#)).collect();
    let mut rates = Vec::new();
    for (name, messages, wrapped) in [("without schema block", &bare, false), ("with schema block", &wrapped, true)] {
        let bytes: usize = messages.iter().map(String::len).sum();
        println!("{name}, {} bytes a message", bytes / ROWS);
        // Without a block the table comes from a record that has one.
        let first = format!(r#"{{"schema":{block},"payload":{}}}"#, payload(0));
        let firn = best("  firn", bytes, || ours(messages, false, &first));
        best("  firn with origin columns", bytes, || ours(messages, true, &first));
        rates.push(firn);
        let tree = best("  serde_json::Value", bytes, || tree(messages));
        let tape = best("  borrowed envelope + arrow-json tape", bytes, || tape(messages, wrapped));
        println!("  firn is {:.1} x serde_json::Value, {:.1} x arrow-json tape\n", firn / tree, firn / tape);
    }
    let messages: Vec<Vec<u8>> = bare.iter().map(|payload| avro(payload)).collect();
    let schema = Registered::Avro { schema: writer_schema(), references: Vec::new() };
    let bytes: usize = messages.iter().map(Vec::len).sum();
    println!("Avro, {} bytes a message", bytes / ROWS);
    let firn = best("  firn", bytes, || ours_from_avro(&messages, false, &schema));
    best("  firn with origin columns", bytes, || ours_from_avro(&messages, true, &schema));
    for (rate, name) in rates.iter().zip(["without schema block", "with schema block"]) {
        println!("  Avro is {:.2} x firn's JSON {name}", firn / rate);
    }
}
