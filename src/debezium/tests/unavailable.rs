//! Values that the source did not send: which columns lack them, and where they stand.

use super::*;
use crate::batch::Unavailable;
use crate::change::{Column, origin, origin_columns, unavailable_column};
use rstest::rstest;

const PLACEHOLDER: &str = "__debezium_unavailable_value";

fn options(mode: Mode) -> DecodeOptions {
    DecodeOptions { mode, origin_columns: true, ..DecodeOptions::default() }
}

fn decoder(mode: Mode, columns: Vec<Column>) -> Decoder {
    let mut decoder = Decoder::new(options(mode));
    let columns = [Column::key("id", ColumnType::Long)].into_iter().chain(columns).chain(origin_columns()).collect();
    decoder.set_schema(&RowSchema { columns }).unwrap();
    decoder
}

fn record<'a>(key: &'a str, value: &'a str, headers: &'a CapturedHeaders) -> Record<'a> {
    Record {
        topic: "s.t",
        key: Some(key.as_bytes()),
        value: (!value.is_empty()).then_some(value.as_bytes()),
        headers: Some(headers),
        ..Record::default()
    }
}

fn headers(name: &str, value: &str) -> CapturedHeaders {
    CapturedHeaders([(name.to_owned(), Some(value.to_owned()))].into())
}

fn list(of: ColumnType) -> ColumnType {
    ColumnType::List(Box::new(of))
}

fn bytes() -> String {
    format!("[{}]", PLACEHOLDER.bytes().map(|b| b.to_string()).collect::<Vec<_>>().join(","))
}

#[rstest]
#[case::text(ColumnType::String, format!("\"{PLACEHOLDER}\""))]
#[case::base64(ColumnType::Binary, "\"X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ==\"".to_owned())]
#[case::hex(ColumnType::String, "\"5f5f646562657a69756d5f756e617661696c61626c655f76616c7565\"".to_owned())]
#[case::hex_in_capitals(ColumnType::Binary, "\"5F5F646562657A69756D5F756E617661696C61626C655F76616C7565\"".to_owned())]
#[case::array_of_text(list(ColumnType::String), format!("[\"{PLACEHOLDER}\"]"))]
#[case::array_of_bytes(list(ColumnType::Binary), "[\"X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ==\"]".to_owned())]
#[case::array_of_int(list(ColumnType::Int), bytes())]
#[case::array_of_long(list(ColumnType::Long), bytes())]
#[case::array_of_dates(list(ColumnType::Date), bytes())]
#[case::array_of_uuid(list(ColumnType::Uuid), "[\"b68a35a7-17ad-35b3-af2a-ae46edb4545a\"]".to_owned())]
#[case::array_of_another_type(list(ColumnType::Decimal { precision: 9, scale: 2 }), format!("\"{PLACEHOLDER}\""))]
#[case::array_kept_as_text(ColumnType::String, format!("[\"{PLACEHOLDER}\"]"))]
#[case::numbers_kept_as_text(ColumnType::String, bytes())]
#[case::hstore(ColumnType::Map(Box::new(ColumnType::String)), format!("{{\"{PLACEHOLDER}\":\"{PLACEHOLDER}\"}}"))]
#[case::hstore_kept_as_text(ColumnType::String, format!("{{\"{PLACEHOLDER}\":\"{PLACEHOLDER}\"}}"))]
#[case::struct_with_one_inside(
    ColumnType::Struct(vec![Column::new("wkb", ColumnType::Binary), Column::new("srid", ColumnType::Int)]),
    "{\"wkb\":\"AQEAACDmEAAAAAAA/IPXl8EAAAD8g9eXwQ==\",\"srid\":4326}".to_owned()
)]
fn every_form_of_the_placeholder_is_a_lacking_value(#[case] column_type: ColumnType, #[case] json: String) {
    let mut decoder = decoder(Mode::Upsert, vec![Column::new("a", ColumnType::String), Column::new("v", column_type)]);
    let none = CapturedHeaders::default();
    let value = format!(r#"{{"before":null,"after":{{"id":1,"a":null,"v":{json}}},"source":{{}},"op":"u"}}"#);
    assert_eq!(decoder.push(&record(r#"{"id":1}"#, &value, &none)), Pushed::Row(Op::Update));
    let batch = decoder.finish();
    assert_eq!(batch.unavailable, [Unavailable { row: 0, columns: vec![2], former_key: None }]);
    assert!(batch.rows.column(2).is_null(0) && batch.rows.column(1).is_null(0));
}

#[rstest]
#[case::text(ColumnType::String, "\"__debezium_unavailable_values\"")]
#[case::numbers(list(ColumnType::Int), "[95,95,100]")]
#[case::json(ColumnType::String, "{\"a\":\"__debezium_unavailable_value\"}")]
fn what_only_looks_alike_is_a_value(#[case] column_type: ColumnType, #[case] json: &str) {
    let mut decoder = decoder(Mode::Upsert, vec![Column::new("v", column_type)]);
    let none = CapturedHeaders::default();
    let value = format!(r#"{{"before":null,"after":{{"id":1,"v":{json}}},"source":{{}},"op":"u"}}"#);
    assert_eq!(decoder.push(&record(r#"{"id":1}"#, &value, &none)), Pushed::Row(Op::Update));
    let batch = decoder.finish();
    assert!(batch.unavailable.is_empty() && batch.rows.column(1).is_valid(0));
}

#[test]
fn a_key_can_not_be_unavailable() {
    let mut decoder = Decoder::new(options(Mode::Upsert));
    decoder.set_schema(&RowSchema { columns: vec![Column::key("k", ColumnType::String)] }).unwrap();
    let none = CapturedHeaders::default();
    let value = format!(r#"{{"before":null,"after":{{"k":"{PLACEHOLDER}"}},"source":{{}},"op":"u"}}"#);
    let pushed = decoder.push(&record(r#"{"k":"x"}"#, &value, &none));
    assert!(matches!(&pushed, Pushed::Rejected(r) if r.reason == reason::NULL_KEY), "{pushed:?}");
    // Nothing of it clings to the next row.
    let value = r#"{"before":null,"after":{"k":"x"},"source":{},"op":"u"}"#;
    assert_eq!(decoder.push(&record(r#"{"k":"x"}"#, value, &none)), Pushed::Row(Op::Update));
    assert!(decoder.finish().unavailable.is_empty());
}

#[test]
fn a_row_of_a_changed_key_names_its_former_key_and_the_delete_says_that_it_was_changed() {
    let mut decoder = decoder(Mode::Upsert, vec![Column::new("v", ColumnType::String)]);
    let (new, old) = (headers("__debezium.newkey", r#"{"id":2}"#), headers("__debezium.oldkey", r#"{"id":7}"#));
    let none = CapturedHeaders::default();
    let after = |id: i64, v: &str, op: &str| {
        format!(r#"{{"before":null,"after":{{"id":{id},"v":"{v}"}},"source":{{"lsn":5}},"op":"{op}"}}"#)
    };
    let delete = r#"{"before":{"id":7,"v":null},"after":null,"source":{"lsn":5},"op":"d"}"#;
    let pushes = [
        (r#"{"id":1}"#, after(1, PLACEHOLDER, "u"), &none),
        (r#"{"id":7}"#, delete.to_owned(), &new),
        (r#"{"id":7}"#, String::new(), &new),
        // It lacks nothing: nobody needs its former key.
        (r#"{"id":2}"#, after(2, "x", "c"), &old),
        (r#"{"id":2}"#, after(2, PLACEHOLDER, "c"), &old),
        (r#"{"id":9}"#, delete.replace('7', "9"), &none),
    ];
    for (key, value, headers) in &pushes {
        assert!(matches!(decoder.push(&record(key, value, headers)), Pushed::Row(_)));
    }
    let batch = decoder.finish();
    assert_eq!(batch.rekeyed, [1, 2]);
    let lacking = |row, former_key| Unavailable { row, columns: vec![1], former_key };
    assert_eq!(batch.unavailable, [lacking(0, None), lacking(4, Some(0))]);
    let keys = batch.former_keys.unwrap();
    assert_eq!((keys.num_columns(), keys.num_rows()), (1, 1));
    assert_eq!(keys.schema().field(0).name(), "id");
    assert_eq!(keys.column(0).as_primitive::<Int64Type>().value(0), 7);
    let next = decoder.finish();
    assert!(next.unavailable.is_empty() && next.former_keys.is_none() && next.rekeyed.is_empty());
}

#[test]
fn former_keys_of_all_types_are_read_as_connect_writes_them() {
    let mut decoder = Decoder::new(options(Mode::Upsert));
    let columns = vec![
        Column::key("d", ColumnType::Decimal { precision: 9, scale: 2 }),
        Column::key("t", ColumnType::String),
        Column::new("v", ColumnType::String),
    ];
    decoder.set_schema(&RowSchema { columns }).unwrap();
    let value =
        format!(r#"{{"before":null,"after":{{"d":"Aw==","t":"b","v":"{PLACEHOLDER}"}},"source":{{}},"op":"c"}}"#);
    for (header, known) in [(r#"{"d":12.50,"t":"a"}"#, true), (r#"{"d":12.50}"#, false), ("junk", false)] {
        let headers = headers("__debezium.oldkey", header);
        let pushed = decoder.push(&record(r#"{"d":"Aw==","t":"b"}"#, &value, &headers));
        assert_eq!(pushed, Pushed::Row(Op::Create));
        let batch = decoder.finish();
        assert_eq!(batch.unavailable[0].former_key.is_some(), known, "{header}");
        if let Some(keys) = batch.former_keys {
            assert_eq!(keys.column(0).as_primitive::<Decimal128Type>().value(0), 1250);
            assert_eq!(keys.column(1).as_string::<i32>().value(0), "a");
        }
    }
}

#[test]
fn append_mode_asks_for_a_column_that_names_what_is_lacking() {
    let mut decoder = decoder(Mode::Append, vec![Column::new("v", ColumnType::String)]);
    let none = CapturedHeaders::default();
    let value = |v: &str| format!(r#"{{"before":null,"after":{{"id":1,"v":{v}}},"source":{{}},"op":"u"}}"#);
    let (lacks, null) = (value(&format!("\"{PLACEHOLDER}\"")), value("null"));
    assert_eq!(decoder.push(&record(r#"{"id":1}"#, &null, &none)), Pushed::Row(Op::Update));
    let Pushed::NeedsSchema(wider) = decoder.push(&record(r#"{"id":1}"#, &lacks, &none)) else { panic!() };
    assert_eq!(wider.columns.last(), Some(&unavailable_column()));
    assert_eq!(decoder.finish().ops.len(), 1);
    decoder.set_schema(&wider).unwrap();
    for value in [&lacks, &null] {
        assert_eq!(decoder.push(&record(r#"{"id":1}"#, value, &none)), Pushed::Row(Op::Update));
    }
    let batch = decoder.finish();
    let rows = rows_of(&batch.rows, &batch.ops);
    assert_eq!(rows[0].get("v"), &Cell::Null);
    assert_eq!(rows[0].get(origin::UNAVAILABLE), &Cell::List(vec![text("v")]));
    assert_eq!(rows[1].get(origin::UNAVAILABLE), &Cell::Null);
}

#[rstest]
#[case("types_default_schemas_true")]
#[case("types_default_schemas_false")]
fn captured_rows_lack_what_was_not_sent(#[case] capture: &str) {
    let records = of_topic(fixture(capture), ".toast_default");
    let mut decoder = Decoder::new(options(Mode::Upsert));
    let columns = vec![
        Column::key("id", ColumnType::Int),
        Column::new("small", ColumnType::String),
        Column::new("big", ColumnType::String),
        Column::new("big_json", ColumnType::String),
        Column::new("big_bytes", ColumnType::Binary),
        Column::new("big_arr", list(ColumnType::String)),
    ];
    decoder.set_schema(&RowSchema { columns }).unwrap();
    for record in &records {
        assert!(matches!(decoder.push(&record.record()), Pushed::Row(_)));
    }
    let batch = decoder.finish();
    let lacking = |row, columns: &[u32], former_key| Unavailable { row, columns: columns.to_vec(), former_key };
    assert_eq!(
        batch.unavailable,
        [lacking(2, &[2, 3, 4, 5], None), lacking(3, &[3, 4, 5], None), lacking(6, &[2, 3, 4, 5], Some(0))]
    );
    assert_eq!(batch.rekeyed, [4, 5]);
    assert_eq!(batch.former_keys.unwrap().column(0).as_primitive::<Int32Type>().values(), &[1]);
}
