//! One bad record among good ones: rejected with its reason, and nothing else changes.

use rstest::rstest;

use super::*;
use crate::change::Column;

const SOURCE: &str = r#""source":{"version":"3","ts_ms":5,"lsn":7}"#;

fn table() -> RowSchema {
    RowSchema {
        columns: vec![
            Column::key("id", ColumnType::Int),
            Column::new("name", ColumnType::String),
            Column::new("n", ColumnType::Long),
            Column::new("tags", ColumnType::List(Box::new(ColumnType::Int))),
        ],
    }
}

fn push(decoder: &mut Decoder, key: &[u8], value: &[u8]) -> Pushed {
    let record = Record {
        topic: "t",
        partition: 0,
        offset: 1,
        timestamp_ms: None,
        key: Some(key),
        value: Some(value),
        ..Record::default()
    };
    decoder.push(&record)
}

fn good(id: i32) -> String {
    format!(r#"{{"before":null,"after":{{"id":{id},"name":"good {id}","n":{id}0,"tags":[{id}]}},{SOURCE},"op":"c"}}"#)
}

#[rstest]
#[case::text_in_int(
    r#"{"after":{"id":"x","name":"b"},"op":"c"}"#,
    "bad_value",
    "column id: expected an integer, found \"x\""
)]
#[case::int_beyond_32_bits(
    r#"{"after":{"id":5000000000},"op":"c"}"#,
    "bad_value",
    "column id: 5000000000 does not fit int"
)]
#[case::int_beyond_64_bits(r#"{"after":{"id":1,"n":99999999999999999999},"op":"c"}"#, "bad_value", "column n")]
#[case::fraction(r#"{"after":{"id":1,"n":1.5},"op":"c"}"#, "bad_value", "column n")]
#[case::inside_a_list(r#"{"after":{"id":1,"tags":[1,2,"x"]},"op":"c"}"#, "bad_value", "column tags")]
#[case::after_other_values(
    r#"{"after":{"id":1,"name":"half","tags":[1,2],"n":true},"op":"c"}"#,
    "bad_value",
    "column n"
)]
#[case::twice(r#"{"after":{"id":1,"id":2},"op":"c"}"#, "duplicate_field", "column id")]
#[case::two_afters(r#"{"after":{"id":1},"after":{"id":1},"op":"c"}"#, "duplicate_field", "after stands twice")]
#[case::null_key(r#"{"after":{"id":null,"name":"b"},"op":"c"}"#, "null_key", "id")]
#[case::cut_off(r#"{"after":{"id":1,"name":"b"#, "not_json", "no end")]
#[case::cut_off_later(r#"{"after":{"id":1,"name":"b"},"op":"c""#, "not_json", "the end")]
#[case::two_objects(r#"{"after":{"id":1},"op":"c"}{"after":{"id":2},"op":"c"}"#, "not_json", "expected the end")]
#[case::garbage_behind(r#"{"after":{"id":1},"op":"c"} x"#, "not_json", "expected the end")]
#[case::empty("", "not_json", "empty")]
#[case::no_json("hello", "not_json", "byte 0")]
#[case::no_object("[1,2]", "not_debezium", "no object")]
#[case::other_object(r#"{"a":1}"#, "not_debezium", "no op")]
#[case::unknown_op(r#"{"after":{"id":1},"op":"x"}"#, "not_debezium", "\"x\"")]
#[case::create_without_after(r#"{"before":{"id":1},"op":"c"}"#, "not_debezium", "after")]
#[case::document_as_text(r#"{"after":"{\"_id\":1}","op":"c"}"#, "incompatible_schema", "no column document")]
#[case::contradiction(r#"{"id":1,"__op":"c","__deleted":"true"}"#, "not_debezium", "__deleted is true")]
#[case::avro_without_an_id("\0\0\0", "not_avro", "no schema id")]
#[case::bad_block(r#"{"schema":{"type":7},"payload":{"after":{"id":1},"op":"c"}}"#, "bad_schema", "Connect")]
fn a_bad_record_is_rejected_alone(#[case] bad: &str, #[case] reason: &str, #[case] detail: &str) {
    let mut decoder = Decoder::new(DecodeOptions::default());
    decoder.set_schema(&table()).unwrap();
    assert_eq!(push(&mut decoder, br#"{"id":1}"#, good(1).as_bytes()), Pushed::Row(Op::Create));
    match push(&mut decoder, br#"{"id":1}"#, bad.as_bytes()) {
        Pushed::Rejected(reject) => {
            assert_eq!(reject.reason, reason, "{reject}");
            assert!(reject.detail.contains(detail), "{reject}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(push(&mut decoder, br#"{"id":2}"#, good(2).as_bytes()), Pushed::Row(Op::Create));
    let batch = decoder.finish();
    let rows = rows_of(&batch.rows, &batch.ops);
    for (row, id) in rows.iter().zip([1, 2]) {
        assert_eq!(row.get("id"), &Cell::Int(id));
        assert_eq!(row.get("name"), &text(&format!("good {id}")));
        assert_eq!(row.get("n"), &Cell::Int(id * 10));
        assert_eq!(row.get("tags"), &Cell::List(vec![Cell::Int(id)]));
    }
    assert_eq!(rows.len(), 2);
}

#[test]
fn bytes_that_are_no_utf8_are_rejected_in_values_and_keys() {
    let options = DecodeOptions { mode: Mode::Upsert, ..DecodeOptions::default() };
    let mut decoder = Decoder::new(options);
    decoder.set_schema(&table()).unwrap();
    let bad = [br#"{"after":{"id":1,"name":""#.as_slice(), &[0xff, 0xfe], br#""},"op":"c"}"#].concat();
    assert!(matches!(push(&mut decoder, br#"{"id":1}"#, &bad), Pushed::Rejected(r) if r.reason == "not_json"));
    let delete = br#"{"before":null,"after":null,"op":"d"}"#;
    assert!(matches!(push(&mut decoder, b"{\"id\":\xff}", delete), Pushed::Rejected(r) if r.reason == "not_json"));
    assert!(matches!(push(&mut decoder, b"{\"id\":1} 2", delete), Pushed::Rejected(r) if r.reason == "not_json"));
    assert_eq!(push(&mut decoder, b"{\"id\":1}", delete), Pushed::Row(Op::Delete));
    assert_eq!(decoder.rows(), 1);
}

#[rstest]
#[case::other_name(br#"{"code":1}"#, "incompatible_schema")]
#[case::one_more(br#"{"id":1,"code":1}"#, "incompatible_schema")]
#[case::no_object(b"17", "no_key")]
#[case::null(b"null", "no_key")]
#[case::text(b"abc", "not_json")]
#[case::avro_without_an_id(&[0, 0, 1], "not_avro")]
fn an_upsert_needs_the_tables_own_key(#[case] key: &[u8], #[case] reason: &str) {
    let mut decoder = Decoder::new(DecodeOptions { mode: Mode::Upsert, ..DecodeOptions::default() });
    decoder.set_schema(&table()).unwrap();
    match push(&mut decoder, key, good(1).as_bytes()) {
        Pushed::Rejected(reject) => assert!([reason, "no_key"].contains(&reject.reason), "{reject}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(decoder.rows(), 0);
}

#[test]
fn white_space_escaped_names_and_any_order_change_nothing() {
    let mut decoder = Decoder::new(DecodeOptions::default());
    decoder.set_schema(&table()).unwrap();
    let value = r#" { "op" : "u" , "\u0061fter" : { "t\u0061gs" : [ 1 , null ] , "n" : -5 , "ID" : 3 , "name" : "a\u00e9\n" , "x" : {"y":[]} } , "source" : { } } "#;
    assert_eq!(push(&mut decoder, b"null", value.as_bytes()), Pushed::Row(Op::Update));
    assert_eq!(decoder.take_unknown_fields(), ["x"]);
    assert_eq!(push(&mut decoder, b"null", value.as_bytes()), Pushed::Row(Op::Update));
    assert_eq!(decoder.take_unknown_fields(), Vec::<String>::new());
    let batch = decoder.finish();
    let row = &rows_of(&batch.rows, &batch.ops)[1];
    assert_eq!((row.get("id"), row.get("n"), row.get("name")), (&Cell::Int(3), &Cell::Int(-5), &text("aé\n")));
    assert_eq!(row.get("tags"), &Cell::List(vec![Cell::Int(1), Cell::Null]));
}

#[test]
fn nesting_without_end_is_refused_not_followed() {
    let mut decoder = Decoder::new(DecodeOptions::default());
    decoder.set_schema(&table()).unwrap();
    for deep in ["[".repeat(100_000), "{\"a\":".repeat(100_000)] {
        for value in [
            deep.clone(),
            format!("{{\"after\":{{\"id\":1,\"x\":{deep}"),
            format!("{{\"after\":{{\"id\":1,\"tags\":{deep}"),
            format!("{{\"source\":{deep}"),
            format!("{{\"schema\":{deep}"),
            format!("{{\"schema\":{{\"items\":{deep}"),
        ] {
            assert!(matches!(push(&mut decoder, b"{}", value.as_bytes()), Pushed::Rejected(_)));
        }
    }
}

#[rstest]
#[case::schema_change(
    r#"{"source":{"ts_ms":1},"databaseName":"shop","ddl":"ALTER TABLE t ADD c int","tableChanges":[]}"#,
    Skip::SchemaChange
)]
#[case::heartbeat(r#"{"ts_ms":1}"#, Skip::Heartbeat)]
#[case::tombstone("null", Skip::Tombstone)]
#[case::tombstone_in_a_wrapper(r#"{"schema":null,"payload":null}"#, Skip::Tombstone)]
#[case::truncate(r#"{"before":null,"after":null,"source":{},"op":"t"}"#, Skip::Truncate)]
fn what_is_no_row_is_skipped_with_and_without_a_table(#[case] value: &str, #[case] kind: Skip) {
    let mut decoder = Decoder::new(DecodeOptions::default());
    assert_eq!(push(&mut decoder, b"{}", value.as_bytes()), Pushed::Skipped(kind));
    decoder.set_schema(&table()).unwrap();
    assert_eq!(push(&mut decoder, b"{}", value.as_bytes()), Pushed::Skipped(kind));
    assert_eq!(decoder.rows(), 0);
}

#[rstest]
#[case::text(b"customer-17")]
#[case::number(b"17")]
#[case::avro_without_an_id(&[0, 0, 1])]
#[case::no_utf8(b"\xff")]
#[case::null(b"null")]
fn an_append_table_does_not_mind_keys_of_another_kind(#[case] key: &[u8]) {
    let block =
        r#"{"type":"struct","fields":[{"type":"struct","fields":[{"type":"int32","field":"id"}],"field":"after"}]}"#;
    let mut decoder = Decoder::new(DecodeOptions::default());
    let create = format!(r#"{{"schema":{block},"payload":{{"after":{{"id":1}},"op":"c"}}}}"#);
    let Pushed::NeedsSchema(asked) = push(&mut decoder, key, create.as_bytes()) else { panic!() };
    assert_eq!(asked.columns, [Column::new("id", ColumnType::Int)]);
    decoder.set_schema(&asked).unwrap();
    assert_eq!(push(&mut decoder, key, create.as_bytes()), Pushed::Row(Op::Create));
}

#[test]
fn deletes_keep_their_key_in_an_append_table_that_names_none() {
    for (name, topic) in
        [("types_default_schemas_true", ".pk_composite"), ("types_default_schemas_false", ".pk_composite")]
    {
        let flagged = decode(Mode::Append, &of_topic(fixture("types_default_schemas_true"), topic)).table;
        let mut table = flagged.clone();
        table.columns.iter_mut().for_each(|c| c.key = false);
        let records = of_topic(fixture(name), topic);
        let drive = |table| {
            let options = DecodeOptions { origin_columns: true, ..DecodeOptions::default() };
            drive(&mut Decoder::new(options), Some(table), &records)
        };
        assert_eq!(drive(table).rows, drive(flagged).rows);
    }
}

#[test]
fn a_column_that_the_table_flags_is_never_null_even_beside_declared_keys() {
    let options = DecodeOptions { mode: Mode::Upsert, key_columns: Some(vec!["n".into()]), ..DecodeOptions::default() };
    let mut decoder = Decoder::new(options);
    decoder.set_schema(&table()).unwrap();
    let pushed = push(&mut decoder, b"{}", br#"{"after":{"n":1},"op":"c"}"#);
    assert!(matches!(pushed, Pushed::Rejected(r) if r.reason == "null_key"));
    assert_eq!(push(&mut decoder, b"x", br#"{"after":{"id":1,"n":1},"op":"c"}"#), Pushed::Row(Op::Create));
    assert_eq!(decoder.finish().num_rows(), 1);
}
