//! Records captured through a registry, compared cell by cell with the JSON capture of the same statements.

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::*;
use crate::change::{Column, origin_columns};

/// A message in the wire format, and the registry that it was written with.
#[derive(Clone, Debug)]
pub(super) struct Encoded {
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub registry: Arc<HashMap<i32, Registered>>,
}

impl Encoded {
    pub(super) fn registered(&self, id: i32) -> Registered {
        let unknown = || Registered::Unknown("Schema not found".to_owned());
        self.registry.get(&id).cloned().unwrap_or_else(unknown)
    }
}

#[derive(serde::Deserialize)]
struct Schemas {
    ids: HashMap<i32, Schema>,
}

#[derive(serde::Deserialize)]
struct Schema {
    schema: String,
}

pub(super) fn captured(name: &str) -> Vec<Captured> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(format!("avro_{name}.schemas.json"));
    let schemas: Schemas = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let registered = |s: Schema| Registered::Avro { schema: s.schema, references: Vec::new() };
    let registry = Arc::new(schemas.ids.into_iter().map(|(id, schema)| (id, registered(schema))).collect());
    let decoded = |text: &Option<String>| text.as_ref().map(|text| STANDARD.decode(text).unwrap());
    let mut records = fixture(&format!("avro_{name}"));
    for record in &mut records {
        let (key, value) = (decoded(&record.key), decoded(&record.value));
        record.avro = Some(Encoded { key, value, registry: Arc::clone(&registry) });
    }
    records
}

/// Where two captures of the same statements may differ: clocks and places in the source's log, and the topic's prefix.
fn differs(column: &str) -> bool {
    column.starts_with("_firn_source") || matches!(column, "_firn_topic" | "created_at" | "updated_at")
}

/// What Avro's names are in JSON.
fn adjusted(column: &str) -> &str {
    match column {
        "Some Col" => "Some_Col",
        "naïve-π" => "na_ve__",
        other => other,
    }
}

/// A map has no order.
fn sorted(cell: &Cell) -> Cell {
    match cell {
        Cell::Map(entries) => {
            let mut entries = entries.clone();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Cell::Map(entries)
        }
        Cell::Struct(fields) => Cell::Struct(fields.iter().map(|(name, cell)| (name.clone(), sorted(cell))).collect()),
        other => other.clone(),
    }
}

fn assert_same(topic: &str, mode: Mode, avro: &[Captured], json: &[Captured]) -> usize {
    assert_eq!(avro.len(), json.len(), "{topic}");
    let (avro, json) = (decode(mode, avro), decode(mode, json));
    let reasons = |out: &Outcome| out.rejected.iter().map(|(at, r)| (*at, r.reason)).collect::<Vec<_>>();
    assert_eq!(reasons(&avro), reasons(&json), "{topic} {:?}", avro.rejected);
    assert_eq!(avro.skipped, json.skipped, "{topic}");
    assert_eq!(avro.from, json.from, "{topic}");
    let fences = |out: &Outcome| -> Vec<(usize, bool)> {
        let whole = |fence: &Option<Fence>| fence.is_some_and(|f| f.last_commit.is_some_and(|end| end <= f.lsn));
        out.truncates.iter().map(|(at, fence)| (*at, whole(fence))).collect()
    };
    assert_eq!(fences(&avro), fences(&json), "{topic}");
    assert!(fences(&avro).iter().all(|(_, whole)| *whole), "{topic} {:?}", avro.truncates);
    let columns = |out: &Outcome| {
        let name = |c: &Column| (adjusted(&c.name).to_owned(), c.column_type.clone(), c.key);
        out.table.columns.iter().map(name).collect::<Vec<_>>()
    };
    assert_eq!(columns(&avro), columns(&json), "{topic}");
    for (a, j) in avro.rows.iter().zip(&json.rows) {
        assert_eq!(a.op, j.op, "{topic}");
        for (column, cell) in j.cells.iter().filter(|(column, _)| !differs(column)) {
            assert_eq!(sorted(a.get(adjusted(column))), sorted(cell), "{topic} {column}");
        }
        for column in ["_firn_source_ts", "_firn_source_lsn"] {
            assert_eq!(a.get(column) == &Cell::Null, j.get(column) == &Cell::Null, "{topic} {column}");
        }
        assert_eq!(a.cells.len(), j.cells.len());
    }
    avro.rows.len()
}

#[test]
fn every_type_is_in_avro_what_it_is_in_json() {
    let (avro, json) = (captured("types"), fixture("types_default_schemas_true"));
    let mut rows = 0;
    for topic in [
        "all_types",
        "specials",
        "toast_default",
        "toast_full",
        "pk_composite",
        "ri_full",
        "ri_index",
        "no_pk",
        "no_pk_full",
        "evolving",
        "truncated",
        "truncated2",
        "snap_source",
        "snap_kafka",
        "Mixed_Case-Tbl",
        "parted_eu",
        "parted_us",
    ] {
        let topic = format!(".public.{topic}");
        for mode in [Mode::Append, Mode::Upsert] {
            rows += assert_same(&topic, mode, &of_topic(avro.clone(), &topic), &of_topic(json.clone(), &topic));
        }
    }
    assert!(rows > 300, "{rows}");
}

#[test]
fn inventory_is_in_avro_what_it_is_in_json() {
    let (avro, json) = (captured("inventory"), fixture("inventory_schemas_true"));
    for topic in [".customers", ".addresses", ".products", ".orders", ".order_items"] {
        assert!(assert_same(topic, Mode::Upsert, &of_topic(avro.clone(), topic), &of_topic(json.clone(), topic)) >= 6);
    }
}

#[test]
fn a_snapshot_of_the_whole_table_says_so_and_an_incremental_one_does_not() {
    let records = of_topic(captured("types"), ".public.snap_source");
    let mut decoder = Decoder::new(DecodeOptions { mode: Mode::Upsert, origin_columns: true, ..Default::default() });
    let out = drive(&mut decoder, None, &records[..12]);
    let seen = decoder.take_snapshot().unwrap();
    assert!(seen.ended && out.rows.iter().all(|r| r.get("_firn_source_lsn") == &Cell::Int(seen.lsn.into())));
    assert_eq!(Some(seen.since_ms), records[0].timestamp);
    drive(&mut decoder, Some(out.table), &records[12..]);
    assert_eq!(decoder.take_snapshot(), None);
}

#[test]
fn nothing_of_the_captures_is_unexplained() {
    let mut skipped = BTreeMap::new();
    let mut total = (0, 0, 0);
    for name in ["types", "inventory", "engagement"] {
        let records = captured(name);
        let topics: std::collections::BTreeSet<String> = records.iter().map(|r| r.topic.clone()).collect();
        for topic in topics {
            let of_topic: Vec<Captured> = records.iter().filter(|r| r.topic == topic).cloned().collect();
            let out = decode(Mode::Append, &of_topic);
            for (_, skip) in &out.skipped {
                *skipped.entry(skip.as_str()).or_insert(0) += 1;
            }
            // 24:00 has no place in time, PostgreSQL's last instant none in µs since 1970.
            assert!(out.rejected.iter().all(|(_, r)| r.reason == reason::BAD_VALUE), "{topic} {:?}", out.rejected);
            total = (total.0 + out.rows.len(), total.1 + out.rejected.len(), total.2 + of_topic.len());
        }
    }
    let kinds: Vec<(&str, i32)> = skipped.into_iter().collect();
    assert_eq!(
        kinds,
        [("heartbeat", 3), ("message", 2), ("notification", 6), ("tombstone", 32), ("transaction", 6), ("truncate", 3)]
    );
    assert_eq!(total, (458, 4, 514));
}

#[test]
fn values_that_were_not_sent_are_told_alike() {
    for topic in [".public.toast_default", ".public.toast_full"] {
        let batch = |records: &[Captured], table: &RowSchema| {
            let options = DecodeOptions { mode: Mode::Upsert, origin_columns: true, ..DecodeOptions::default() };
            let mut decoder = Decoder::new(options);
            decoder.set_schema(table).unwrap();
            records.iter().for_each(|record| assert!(!matches!(push(&mut decoder, record), Pushed::Rejected(_))));
            decoder.finish()
        };
        let json = of_topic(fixture("types_default_schemas_true"), topic);
        let table = decode(Mode::Upsert, &json).table;
        let (json, avro) = (batch(&json, &table), batch(&of_topic(captured("types"), topic), &table));
        assert_eq!(avro.unavailable, json.unavailable, "{topic}");
        assert_eq!(avro.former_keys, json.former_keys, "{topic}");
        assert_eq!(avro.rekeyed, json.rekeyed, "{topic}");
        assert_eq!(avro.unavailable.is_empty(), topic.ends_with("full"), "{topic}");
    }
}

#[test]
fn interleaved_writers_fill_one_batch() {
    let records = of_topic(captured("types"), ".evolving");
    let table = decode(Mode::Append, &records).table;
    let ids: std::collections::BTreeSet<&[u8]> =
        records.iter().filter_map(|r| r.avro.as_ref()?.value.as_ref()?.get(1..5)).collect();
    assert!(ids.len() >= 5, "the table was changed five times");
    let shuffled: Vec<Captured> = records.iter().chain(records.iter().rev()).cloned().collect();
    let mut decoder = Decoder::new(DecodeOptions { origin_columns: true, ..DecodeOptions::default() });
    let out = drive(&mut decoder, Some(table.clone()), &shuffled);
    assert!(out.asked.is_empty() && out.rejected.is_empty(), "the table has all columns already");
    // Each record alone, with a decoder of its own, gives the same row.
    for (at, row) in out.from.iter().zip(&out.rows) {
        let mut alone = Decoder::new(DecodeOptions { origin_columns: true, ..DecodeOptions::default() });
        let alone = drive(&mut alone, Some(table.clone()), &shuffled[*at..=*at]);
        assert_eq!(&alone.rows[0], row);
    }
}

fn orders() -> (Vec<Captured>, Vec<Captured>) {
    (of_topic(captured("inventory"), ".orders"), of_topic(fixture("inventory_schemas_false"), ".orders"))
}

#[test]
fn keys_and_values_may_come_in_different_formats() {
    let (avro, json) = orders();
    assert_eq!(avro.len(), json.len());
    let whole = decode(Mode::Upsert, &avro);
    assert!(
        whole.rows.iter().any(|r| r.op == Op::Delete) || avro.iter().any(|r| r.avro.as_ref().unwrap().value.is_none())
    );
    let mixed = |key_from: &[Captured], value_from: &[Captured]| -> Vec<Captured> {
        let bytes = |r: &Captured| (r.record().key.map(<[u8]>::to_vec), r.record().value.map(<[u8]>::to_vec));
        let registry = &avro[0].avro.as_ref().unwrap().registry;
        let both = key_from.iter().zip(value_from).zip(&avro);
        both.map(|((key, value), captured)| Captured {
            avro: Some(Encoded { key: bytes(key).0, value: bytes(value).1, registry: Arc::clone(registry) }),
            ..captured.clone()
        })
        .collect()
    };
    let options = || DecodeOptions {
        mode: Mode::Upsert,
        origin_columns: true,
        wire: vec![("placed_at".to_owned(), Wire::Counts(Unit::Millis))],
        ..DecodeOptions::default()
    };
    for (key_from, value_from) in [(&avro, &json), (&json, &avro)] {
        let records = mixed(key_from, value_from);
        let out = drive(&mut Decoder::new(options()), Some(whole.table.clone()), &records);
        assert!(out.rejected.is_empty(), "{:?}", out.rejected);
        assert_eq!(out.rows.len(), whole.rows.len());
        for (row, want) in out.rows.iter().zip(&whole.rows) {
            assert_eq!(row.op, want.op);
            for (column, cell) in want.cells.iter().filter(|(column, _)| !differs(column)) {
                assert_eq!(row.get(column), cell, "{column}");
            }
        }
    }
    // A plain text beside Avro is no key: an upsert rejects it, an append has no use for it.
    let mut plain = avro.clone();
    for record in &mut plain {
        record.avro.as_mut().unwrap().key = Some(b"order-1".to_vec());
    }
    let upsert = decode(Mode::Upsert, &plain);
    // A tombstone before there is a table is one of a row that was never there.
    assert_eq!((upsert.rows.len(), upsert.rejected.len() + upsert.skipped.len()), (0, plain.len()));
    let append = decode(Mode::Append, &plain);
    assert!(append.rows.len() > 20 && append.table.key_indices().is_empty());
    // Which row a delete takes is in its key alone.
    let deletes = decode(Mode::Append, &avro).rows.iter().filter(|row| row.op == Op::Delete).count();
    assert!(deletes > 0 && append.rejected.len() == deletes, "{:?}", append.rejected);
    assert!(append.rejected.iter().all(|(_, reject)| reject.reason == reason::NO_KEY));
}

#[test]
fn an_unknown_id_costs_its_record_and_is_asked_for_again() {
    let (avro, _) = orders();
    let mut decoder = Decoder::new(DecodeOptions { mode: Mode::Upsert, ..DecodeOptions::default() });
    let out = drive(&mut decoder, None, &avro[..3]);
    assert_eq!(out.rows.len(), 3);
    let mut unknown = avro[3].clone();
    unknown.avro.as_mut().unwrap().value.as_mut().unwrap()[1..5].copy_from_slice(&4711i32.to_be_bytes());
    let out = drive(&mut decoder, None, &[unknown.clone(), avro[4].clone()]);
    assert_eq!((out.rejected[0].1.reason, out.rows.len()), (reason::UNKNOWN_SCHEMA_ID, 1));
    let detail = &out.rejected[0].1.detail;
    assert!(detail.contains("4711") && detail.contains("Schema not found"), "{detail}");
    assert_eq!(decoder.push(&unknown.record()), Pushed::NeedsWriterSchema(4711), "the registry may have it by now");
    let id = i32::from_be_bytes(avro[3].record().value.unwrap()[1..5].try_into().unwrap());
    decoder.learn(4711, &avro[3].avro.as_ref().unwrap().registered(id));
    assert!(matches!(decoder.push(&unknown.record()), Pushed::Row(_)));
    assert_eq!(decoder.finish().num_rows(), 1);
    // The same of a key: where the table goes by another one, it is not missed.
    let of_row = |r: &&Captured| {
        r.avro.as_ref().is_some_and(|e| e.value.is_some())
            && decode(Mode::Append, &[(*r).clone()]).rows[0].op != Op::Delete
    };
    let mut key = avro.iter().skip(5).find(of_row).unwrap().clone();
    key.avro.as_mut().unwrap().key.as_mut().unwrap()[1..5].copy_from_slice(&4712i32.to_be_bytes());
    let out = drive(&mut decoder, None, &[key.clone()]);
    assert_eq!(out.rejected[0].1.reason, reason::UNKNOWN_SCHEMA_ID);
    let options =
        DecodeOptions { mode: Mode::Upsert, key_columns: Some(vec!["id".into()]), ..DecodeOptions::default() };
    assert_eq!(drive(&mut Decoder::new(options), None, &[key]).rows.len(), 1);
}

#[test]
fn schemas_that_are_no_avro_are_named() {
    let (avro, _) = orders();
    let id = i32::from_be_bytes(avro[0].record().value.unwrap()[1..5].try_into().unwrap());
    let mut laughs = r#""int""#.to_owned();
    for n in 0..30 {
        laughs = format!(
            r#"{{"type":"record","name":"r{n}","fields":[{{"name":"a","type":{laughs}}},{{"name":"b","type":{}}}]}}"#,
            if n == 0 { "\"int\"".to_owned() } else { format!("\"r{}\"", n - 1) }
        );
    }
    for (registered, named) in [
        (Registered::Other("PROTOBUF".to_owned()), "PROTOBUF"),
        (Registered::Avro { schema: "{".to_owned(), references: vec![] }, "no Avro schema"),
        (Registered::Avro { schema: r#"{"type":"record","name":"A"}"#.to_owned(), references: vec![] }, "record A"),
        (Registered::Avro { schema: r#""some.Other""#.to_owned(), references: vec![] }, "some.Other"),
        (Registered::Avro { schema: laughs.clone(), references: vec![] }, "more than"),
    ] {
        let mut decoder = Decoder::new(DecodeOptions::default());
        decoder.learn(id, &registered);
        for _ in 0..2 {
            match push(&mut decoder, &avro[0]) {
                Pushed::Rejected(r) => {
                    assert_eq!(r.reason, reason::BAD_SCHEMA, "{r}");
                    assert!(r.detail.contains(named) && r.detail.contains(&format!("schema {id}")), "{r}");
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

/// A writer's datum, written by hand.
#[derive(Default)]
pub(super) struct Datum(pub(super) Vec<u8>);

impl Datum {
    pub(super) fn long(mut self, value: i64) -> Self {
        let mut zigzag = ((value << 1) ^ (value >> 63)) as u64;
        while zigzag >= 0x80 {
            self.0.push(zigzag as u8 | 0x80);
            zigzag >>= 7;
        }
        self.0.push(zigzag as u8);
        self
    }

    pub(super) fn text(self, text: &str) -> Self {
        self.bytes(text.as_bytes())
    }

    pub(super) fn bytes(self, bytes: &[u8]) -> Self {
        self.long(bytes.len() as i64).raw(bytes)
    }

    pub(super) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }
}

/// A create event of one column `v` of this type.
fn create(kind: &str, value: Datum) -> (Registered, Vec<u8>) {
    let schema = format!(
        r#"{{"type":"record","name":"Envelope","namespace":"t","fields":[
            {{"name":"before","type":["null",{{"type":"record","name":"Value","fields":[{{"name":"v","type":{kind}}}]}}],"default":null}},
            {{"name":"after","type":["null","Value"],"default":null}},
            {{"name":"op","type":"string"}}]}}"#
    );
    let datum = Datum::default().raw(&[0, 0, 0, 0, 1]).long(0).long(1).raw(&value.0).text("c");
    (Registered::Avro { schema, references: Vec::new() }, datum.0)
}

fn one(kind: &str, value: Datum, options: DecodeOptions) -> Result<(ColumnType, Cell), Reject> {
    let (registered, value) = create(kind, value);
    let mut decoder = Decoder::new(options);
    let record = Record { topic: "t", value: Some(&value), ..Record::default() };
    let mut table = RowSchema::default();
    loop {
        match decoder.push(&record) {
            Pushed::NeedsWriterSchema(id) => decoder.learn(id, &registered),
            Pushed::NeedsSchema(asked) => {
                decoder.set_schema(&asked).unwrap();
                table = asked;
            }
            Pushed::Row(_) => {
                let batch = decoder.finish();
                return Ok((
                    table.columns[0].column_type.clone(),
                    rows_of(&batch.rows, &batch.ops)[0].get("v").clone(),
                ));
            }
            Pushed::Rejected(reject) => return Err(reject),
            pushed => panic!("{pushed:?}"),
        }
    }
}

fn read(kind: &str, value: Datum) -> (ColumnType, Cell) {
    one(kind, value, DecodeOptions::default()).unwrap()
}

fn declared(kind: &str, value: Datum, column_type: ColumnType) -> Result<Cell, Reject> {
    let declared = vec![Column::new("v", column_type)];
    one(kind, value, DecodeOptions { declared, ..DecodeOptions::default() }).map(|(_, cell)| cell)
}

pub(super) fn datum() -> Datum {
    Datum::default()
}

#[test]
fn avros_own_logical_types_need_no_connect() {
    use ColumnType as T;
    let int = |n| Cell::Int(n);
    let decimal = r#"{"type":"bytes","logicalType":"decimal","precision":10,"scale":2}"#;
    assert_eq!(read(decimal, datum().bytes(&[0xff, 0x6a])), (T::Decimal { precision: 10, scale: 2 }, int(-150)));
    let fixed = r#"{"type":"fixed","name":"d","size":4,"logicalType":"decimal","precision":9,"scale":1}"#;
    assert_eq!(read(fixed, datum().raw(&[0, 0, 1, 0])), (T::Decimal { precision: 9, scale: 1 }, int(256)));
    assert_eq!(read(r#"{"type":"int","logicalType":"date"}"#, datum().long(19_782)), (T::Date, int(19_782)));
    assert_eq!(read(r#"{"type":"int","logicalType":"time-millis"}"#, datum().long(1)), (T::Time, int(1000)));
    assert_eq!(read(r#"{"type":"long","logicalType":"time-micros"}"#, datum().long(1)), (T::Time, int(1)));
    let millis = r#"{"type":"long","logicalType":"timestamp-millis"}"#;
    assert_eq!(read(millis, datum().long(-1)), (T::Timestamp, int(-1000)));
    let micros = r#"["null",{"type":"long","logicalType":"local-timestamp-micros"}]"#;
    assert_eq!(read(micros, datum().long(1).long(7)), (T::Timestamp, int(7)));
    assert_eq!(read(micros, datum().long(0)), (T::Timestamp, Cell::Null));
    let uuid = r#"{"type":"string","logicalType":"uuid"}"#;
    assert_eq!(read(uuid, datum().text("00000000-0000-0000-0000-0000000000ff")).0, T::Uuid);
    let word = r#"{"type":"enum","name":"e","symbols":["a","b"]}"#;
    assert_eq!(read(word, datum().long(1)), (T::String, text("b")));
    assert_eq!(read(r#""float""#, datum().raw(&1.5f32.to_le_bytes())), (T::Float, Cell::Float(1.5f64.to_bits())));
    assert_eq!(read(r#"["int","null"]"#, datum().long(0).long(-3)), (T::Int, int(-3)));
    assert_eq!(
        read(r#"{"type":"fixed","name":"f","size":2}"#, datum().raw(b"ab")),
        (T::Binary, Cell::Bytes(b"ab".to_vec()))
    );
}

#[test]
fn what_has_no_column_type_becomes_the_text_of_its_json() {
    let union = r#"["null","int","string"]"#;
    assert_eq!(read(union, datum().long(1).long(5)), (ColumnType::String, text("5")));
    assert_eq!(read(union, datum().long(2).text("x\"")).1, text("x\""));
    assert_eq!(read(union, datum().long(0)).1, Cell::Null);
    let pairs = r#"{"type":"array","items":{"type":"record","name":"MapEntry","namespace":"io.confluent.connect.avro",
        "fields":[{"name":"key","type":"int"},{"name":"value","type":["null","bytes"]}]}}"#;
    let value = datum().long(2).long(1).long(0).long(2).long(1).bytes(b"hi").long(0);
    assert_eq!(read(pairs, value), (ColumnType::String, text(r#"[[1,null],[2,"aGk="]]"#)));
    // A type that names itself has no end: text from some depth on, and it still is what was written.
    let list =
        r#"{"type":"record","name":"L","fields":[{"name":"n","type":"int"},{"name":"next","type":["null","L"]}]}"#;
    let (kind, _) = read(list, datum().long(7).long(0));
    assert!(matches!(kind, ColumnType::Struct(_)));
    assert_eq!(
        declared(list, datum().long(7).long(1).long(8).long(0), ColumnType::String).unwrap(),
        text(r#"{"n":7,"next":{"n":8,"next":null}}"#)
    );
    let mut deep = datum();
    for _ in 0..1000 {
        deep = deep.long(1).long(1);
    }
    assert_eq!(declared(list, deep, ColumnType::String).unwrap_err().reason, reason::NOT_AVRO);
    let odd = r#"{"type":"record","name":"O","fields":[{"name":"f","type":"float"},{"name":"d","type":"double"},
        {"name":"m","type":{"type":"map","values":"boolean"}},{"name":"a","type":{"type":"array","items":"long"}},
        {"name":"e","type":{"type":"enum","name":"e","symbols":["s"]}}]}"#;
    let value = datum().raw(&0.1f32.to_le_bytes()).raw(&f64::NAN.to_le_bytes()).long(1).text("k").raw(&[1]).long(0);
    let value = value.long(-2).long(2).long(1).long(2).long(0).long(0);
    let want = r#"{"f":0.1,"d":"NaN","m":{"k":true},"a":[1,2],"e":"s"}"#;
    assert_eq!(declared(odd, value, ColumnType::String).unwrap(), text(want));
}

#[test]
fn maps_lists_and_structs_keep_their_shape() {
    let map = r#"{"type":"map","values":["null","string"]}"#;
    let value = datum().long(2).text("a").long(1).text("1").text("b").long(0).long(0);
    let want = Cell::Map(vec![("a".into(), text("1")), ("b".into(), Cell::Null)]);
    assert_eq!(read(map, value), (ColumnType::Map(Box::new(ColumnType::String)), want.clone()));
    let pairs = r#"{"type":"array","items":{"type":"record","name":"Named","connect.internal.type":"MapEntry",
        "fields":[{"name":"key","type":["null","string"]},{"name":"value","type":["null","string"]}]}}"#;
    let value = datum().long(-2).long(10).long(1).text("a").long(1).text("1").long(1).text("b").long(0).long(0);
    assert_eq!(declared(pairs, value, ColumnType::Map(Box::new(ColumnType::String))).unwrap(), want);
    let twice = datum().long(1).text("a").long(0).long(1).text("a").long(0).long(0);
    assert_eq!(one(map, twice, DecodeOptions::default()).unwrap_err().reason, reason::BAD_VALUE);
    // The whole array, the whole map is unavailable.
    let list = r#"{"type":"array","items":["null","string"]}"#;
    let gone = || datum().long(1).long(1).text("__debezium_unavailable_value").long(0);
    assert_eq!(read(list, gone()).1, Cell::Null);
    let value =
        datum().long(1).text("__debezium_unavailable_value").long(1).text("__debezium_unavailable_value").long(0);
    assert_eq!(read(map, value).1, Cell::Null);
    let json = r#"{"__debezium_unavailable_value":"__debezium_unavailable_value"}"#;
    assert_eq!(read(r#""string""#, datum().text(json)).1, Cell::Null);
    assert_eq!(read(r#""bytes""#, datum().bytes(b"__debezium_unavailable_value")).1, Cell::Null);
}

#[test]
fn declared_types_hold_in_avro_as_in_json() {
    use ColumnType as T;
    let decimal = T::Decimal { precision: 10, scale: 2 };
    assert_eq!(declared(r#""double""#, datum().raw(&1.25f64.to_le_bytes()), decimal.clone()).unwrap(), Cell::Int(125));
    assert_eq!(declared(r#""double""#, datum().raw(&f64::NAN.to_le_bytes()), decimal.clone()).unwrap(), Cell::Null);
    assert_eq!(declared(r#""string""#, datum().text("-0.5"), decimal.clone()).unwrap(), Cell::Int(-50));
    assert_eq!(declared(r#""string""#, datum().text("NAN"), decimal.clone()).unwrap(), Cell::Null);
    assert_eq!(declared(r#""long""#, datum().long(7), decimal.clone()).unwrap(), Cell::Int(700));
    assert_eq!(declared(r#""int""#, datum().long(1), T::Boolean).unwrap(), Cell::Boolean(true));
    assert_eq!(declared(r#""int""#, datum().long(2), T::Boolean).unwrap_err().reason, reason::BAD_VALUE);
    assert_eq!(
        declared(r#""long""#, datum().long(1 << 40), T::Int).unwrap_err().detail,
        "column v: 1099511627776 does not fit int"
    );
    assert_eq!(declared(r#""double""#, datum().raw(&2.5f64.to_le_bytes()), T::String).unwrap(), text("2.5"));
    let date = r#"{"type":"int","connect.version":1,"connect.name":"io.debezium.time.Date"}"#;
    assert_eq!(declared(date, datum().long(3), T::String).unwrap(), text("3"));
    assert_eq!(declared(r#""string""#, datum().text("2024-02-29"), T::Date).unwrap(), Cell::Int(19_782));
    let bytes =
        r#"{"type":"bytes","connect.name":"org.apache.kafka.connect.data.Decimal","connect.parameters":{"scale":"2"}}"#;
    assert_eq!(declared(bytes, datum().bytes(&[5]), T::String).unwrap(), text("0.05"));
    assert_eq!(declared(r#""bytes""#, datum().bytes(b"hi"), T::String).unwrap(), text("aGk="));
}

#[test]
fn references_bring_the_names_that_a_schema_uses() {
    let place = r#"{"type":"record","name":"Place","namespace":"geo","fields":[{"name":"x","type":"geo.Number"}]}"#;
    let number = r#"{"type":"fixed","name":"Number","namespace":"geo","size":1}"#;
    let (Registered::Avro { schema, .. }, value) = create(r#""geo.Place""#, datum().raw(b"x")) else { panic!() };
    let mut decoder = Decoder::new(DecodeOptions::default());
    let references = vec![number.to_owned(), place.to_owned()];
    decoder.learn(1, &Registered::Avro { schema, references });
    let record = Record { topic: "t", value: Some(&value), ..Record::default() };
    let Pushed::NeedsSchema(asked) = decoder.push(&record) else { panic!() };
    decoder.set_schema(&asked).unwrap();
    assert!(matches!(decoder.push(&record), Pushed::Row(Op::Create)));
    let batch = decoder.finish();
    let x = Cell::Struct(vec![("x".into(), Cell::Bytes(b"x".to_vec()))]);
    assert_eq!(rows_of(&batch.rows, &batch.ops)[0].get("v"), &x);
}

#[test]
fn ids_that_the_registry_does_not_have_are_asked_for_once_a_record() {
    let record =
        Record { topic: "t", key: Some(&[0, 0, 0, 0, 2, 2]), value: Some(&[0, 0, 0, 0, 1, 2]), ..Record::default() };
    let mut decoder = Decoder::new(DecodeOptions { mode: Mode::Upsert, ..DecodeOptions::default() });
    for _ in 0..2 {
        for id in [1, 2] {
            assert_eq!(decoder.push(&record), Pushed::NeedsWriterSchema(id));
            decoder.learn(id, &Registered::Unknown("none".to_owned()));
        }
        let Pushed::Rejected(reject) = decoder.push(&record) else { panic!() };
        assert_eq!(reject.reason, reason::UNKNOWN_SCHEMA_ID);
        assert!(reject.detail.contains("id 1: none"), "{reject}");
    }
}

#[test]
fn damage_of_each_kind_is_named() {
    let reason_of = |kind: &str, value: Datum| one(kind, value, DecodeOptions::default()).unwrap_err();
    for (kind, value, named) in [
        (r#""string""#, datum().long(i64::MAX), "length"),
        (r#""string""#, datum().long(-1), "length"),
        (r#""string""#, datum().bytes(&[0xff]), "UTF-8"),
        (r#""double""#, datum(), "middle"),
        (r#"["null","int"]"#, datum().long(2), "branch"),
        (r#"{"type":"array","items":"null"}"#, datum().long(i64::MAX), "items"),
        (r#"{"type":"array","items":"int"}"#, datum().long(i64::MIN).long(0), "items"),
        (r#""int""#, datum().long(1).raw(&[2, b'c']).raw(&[0]), "follow"),
    ] {
        let fault = reason_of(kind, value);
        assert_eq!(fault.reason, reason::NOT_AVRO, "{kind}");
        assert!(fault.detail.contains(named), "{fault}");
    }
    let (avro, _) = orders();
    let mut decoder = Decoder::new(DecodeOptions { origin_columns: true, ..DecodeOptions::default() });
    drive(&mut decoder, None, &avro[..1]);
    let whole = avro[1].record();
    let value = whole.value.unwrap();
    for len in 0..value.len() {
        let cut = Record { value: Some(&value[..len]), ..whole };
        assert!(matches!(decoder.push(&cut), Pushed::Rejected(_) | Pushed::NeedsWriterSchema(_)), "{len} bytes");
    }
    assert!(matches!(decoder.push(&whole), Pushed::Row(_)));
    assert_eq!(decoder.finish().num_rows(), 1);
}

#[test]
fn a_document_is_its_text_in_avro_too() {
    let text_of = r#"["null",{"type":"string","connect.name":"io.debezium.data.Json"}]"#;
    let envelope = format!(
        r#"{{"type":"record","name":"Envelope","fields":[{{"name":"before","type":{text_of}}},{{"name":"after","type":{text_of}}},
            {{"name":"op","type":"string"}}]}}"#
    );
    let row =
        r#"{"type":"record","name":"Row","fields":[{"name":"after","type":"string"},{"name":"__op","type":"string"}]}"#;
    let key = r#"{"type":"record","name":"Key","fields":[{"name":"id","type":"string"}]}"#;
    let avro = |schema: &str| Registered::Avro { schema: schema.to_owned(), references: vec![] };
    let registry = Arc::new(HashMap::from([(1, avro(&envelope)), (2, avro(key)), (3, avro(row))]));
    let record = |offset: i64, value: Datum| {
        let key = datum().raw(&[0, 0, 0, 0, 2]).text("7");
        let encoded = Encoded { key: Some(key.0), value: Some(value.0), registry: Arc::clone(&registry) };
        let (topic, headers) = ("t".to_owned(), CapturedHeaders::default());
        Captured { topic, partition: 0, offset, timestamp: None, key: None, value: None, headers, avro: Some(encoded) }
    };
    let envelope = || datum().raw(&[0, 0, 0, 0, 1]).long(0);
    let document = r#"{"_id": "7", "n": 1}"#;
    let records = [
        record(0, envelope().long(1).text(document).text("c")),
        record(1, envelope().long(1).text("{}").text("u")),
        record(2, envelope().long(0).text("d")),
        record(3, envelope().long(0).text("u")),
    ];
    let out =
        drive(&mut Decoder::new(DecodeOptions { mode: Mode::Upsert, ..DecodeOptions::default() }), None, &records);
    let columns: Vec<(&str, bool)> = out.table.columns.iter().map(|c| (c.name.as_str(), c.key)).collect();
    assert_eq!(columns, [("id", true), ("document", false)], "{:?}", out.rejected);
    let documents: Vec<&Cell> = out.rows.iter().map(|r| r.get("document")).collect();
    assert_eq!(documents, [&text(document), &text("{}"), &Cell::Null]);
    assert_eq!(
        (out.rejected[0].0, out.rejected[0].1.reason),
        (3, reason::NOT_DEBEZIUM),
        "an update without the document"
    );
    // A flattened row's column of this name is a column.
    let out = decode(Mode::Append, &[record(0, datum().raw(&[0, 0, 0, 0, 3]).text("x").text("c"))]);
    assert_eq!(out.rows[0].get("after"), &text("x"), "{:?}", out.rejected);
}

#[test]
fn flattened_rows_are_rows_in_avro_too() {
    let schema = r#"{"type":"record","name":"Value","fields":[{"name":"id","type":"int"},{"name":"name","type":["null","string"]},
        {"name":"__op","type":["null","string"]},{"name":"__deleted","type":["null","string"]},
        {"name":"__source_ts_ms","type":["null","long"]},{"name":"__lsn","type":["null","long"]}]}"#;
    let key = r#"{"type":"record","name":"Key","fields":[{"name":"id","type":"int"}]}"#;
    let avro = |schema: &str| Registered::Avro { schema: schema.to_owned(), references: vec![] };
    let registry = Arc::new(HashMap::from([(1, avro(schema)), (2, avro(key))]));
    let record = |offset: i64, id: i64, name: Option<&str>, op: &str| {
        let value = datum().raw(&[0, 0, 0, 0, 1]).long(id);
        let value = match name {
            Some(name) => value.long(1).text(name),
            None => value.long(0),
        };
        let deleted = if op == "d" { "true" } else { "false" };
        let value = value.long(1).text(op).long(1).text(deleted).long(1).long(5).long(1).long(77);
        let key = datum().raw(&[0, 0, 0, 0, 2]).long(id);
        let encoded = Encoded { key: Some(key.0), value: Some(value.0), registry: Arc::clone(&registry) };
        let (topic, headers) = ("t".to_owned(), CapturedHeaders::default());
        Captured { topic, partition: 0, offset, timestamp: None, key: None, value: None, headers, avro: Some(encoded) }
    };
    let records = [record(0, 1, Some("a"), "c"), record(1, 1, Some("b"), "u"), record(2, 1, None, "d")];
    let out = decode(Mode::Upsert, &records);
    assert!(out.rejected.is_empty(), "{:?}", out.rejected);
    let columns: Vec<&str> = out.table.columns.iter().map(|c| c.name.as_str()).take(3).collect();
    assert_eq!(columns, ["id", "name", "_firn_topic"], "what the transform has added is no column");
    assert_eq!(out.rows.iter().map(|r| r.op).collect::<Vec<_>>(), [Op::Create, Op::Update, Op::Delete]);
    assert_eq!((out.rows[1].get("name"), out.rows[2].get("name")), (&text("b"), &Cell::Null));
    assert_eq!((out.rows[0].get("_firn_source_lsn"), out.rows[2].get("id")), (&Cell::Int(77), &Cell::Int(1)));
    let refuse = DecodeOptions { format: Format::Envelope, ..DecodeOptions::default() };
    let out = drive(&mut Decoder::new(refuse), None, &records[..1]);
    assert_eq!(out.rejected[0].1.reason, reason::FLATTENED);
}

#[test]
fn origin_columns_come_from_avro_too() {
    let records = of_topic(captured("inventory"), ".addresses");
    let out = decode(Mode::Upsert, &records);
    let first = &out.rows[0];
    assert_eq!(out.table.columns.len(), 7 + origin_columns().len());
    assert_eq!(first.get("street"), &text("3183 Moore Avenue"));
    assert_eq!(first.get("_firn_op"), &text("r"));
    assert!(matches!(first.get("_firn_source_lsn"), Cell::Int(lsn) if *lsn > 20_000_000), "{first:?}");
    assert!(matches!(first.get("_firn_source_ts"), Cell::Int(us) if *us > 1_795_168_000_000_000), "{first:?}");
}
