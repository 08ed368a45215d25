//! Records of `ExtractNewRecordState`: as captured, and one rule at a time.

use rstest::rstest;

use super::*;
use crate::change::{Column, origin};

fn table() -> RowSchema {
    let columns = vec![Column::key("id", ColumnType::Int), Column::new("v", ColumnType::String)];
    RowSchema { columns: columns.into_iter().chain(crate::change::origin_columns()).collect() }
}

fn options(mode: Mode, format: Format) -> DecodeOptions {
    DecodeOptions { mode, format, origin_columns: true, ..DecodeOptions::default() }
}

fn record<'a>(key: Option<&'a str>, value: Option<&'a str>, headers: &'a CapturedHeaders) -> Record<'a> {
    Record {
        topic: "t",
        key: key.map(str::as_bytes),
        value: value.map(str::as_bytes),
        headers: Some(headers),
        ..Record::default()
    }
}

/// Pushes one record into a decoder of the table `id, v`; the row that it became.
fn one(options: DecodeOptions, key: Option<&str>, value: Option<&str>) -> (Pushed, Option<Row>) {
    let mut decoder = Decoder::new(options);
    decoder.set_schema(&table()).unwrap();
    let pushed = decoder.push(&record(key, value, &CapturedHeaders::default()));
    let batch = decoder.finish();
    (pushed, rows_of(&batch.rows, &batch.ops).pop())
}

#[rstest]
#[case::create(r#"{"id":1,"v":"a","__op":"c","__deleted":"false"}"#, Op::Create, "a")]
#[case::snapshot(r#"{"__op":"r","id":1,"v":"a"}"#, Op::Read, "a")]
#[case::only_deleted(r#"{"id":1,"v":"a","__deleted":"false"}"#, Op::Update, "a")]
#[case::deleted_as_boolean(r#"{"id":1,"v":"a","__deleted":false}"#, Op::Update, "a")]
fn the_added_fields_say_what_happened(#[case] value: &str, #[case] op: Op, #[case] v: &str) {
    for mode in [Mode::Append, Mode::Upsert] {
        for format in [Format::Auto, Format::Flattened] {
            let (pushed, row) = one(options(mode, format), Some(r#"{"id":1}"#), Some(value));
            assert_eq!(pushed, Pushed::Row(op));
            let row = row.unwrap();
            assert_eq!(
                (row.get("id"), row.get("v"), row.get(origin::OP)),
                (&Cell::Int(1), &text(v), &text(op.letter()))
            );
        }
    }
}

#[rstest]
#[case(r#"{"id":1,"v":"filler","__deleted":"true"}"#)]
#[case(r#"{"id":1,"v":"filler","__deleted":"true","__op":"d"}"#)]
#[case(r#"{"id":1,"v":"filler","__op":"d"}"#)]
fn a_rewritten_delete_is_its_key_alone(#[case] value: &str) {
    for mode in [Mode::Append, Mode::Upsert] {
        let (pushed, row) = one(options(mode, Format::Auto), Some(r#"{"id":1}"#), Some(value));
        assert_eq!(pushed, Pushed::Row(Op::Delete));
        let row = row.unwrap();
        assert_eq!((row.get("id"), row.get("v")), (&Cell::Int(1), &Cell::Null));
    }
    let before = DecodeOptions { delete_image: DeleteImage::Before, ..options(Mode::Append, Format::Auto) };
    assert_eq!(one(before, Some(r#"{"id":1}"#), Some(value)).1.unwrap().get("v"), &text("filler"));
}

#[test]
fn the_position_is_the_sources() {
    let value = r#"{"id":1,"v":"a","__op":"c","__lsn":27,"__source_ts_ms":5,"__ts_ms":9,"__txId":3,"__table":"t"}"#;
    let (_, row) = one(options(Mode::Upsert, Format::Auto), Some(r#"{"id":1}"#), Some(value));
    let row = row.unwrap();
    assert_eq!((row.get(origin::SOURCE_LSN), row.get(origin::SOURCE_TS)), (&Cell::Int(27), &Cell::Int(5000)));
    let null = r#"{"id":1,"v":"a","__op":"r","__lsn":null,"__ts_ms":9}"#;
    let row = one(options(Mode::Upsert, Format::Auto), Some(r#"{"id":1}"#), Some(null)).1.unwrap();
    assert_eq!((row.get(origin::SOURCE_LSN), row.get(origin::SOURCE_TS)), (&Cell::Null, &Cell::Null));
}

#[rstest]
#[case::a_plain_row(r#"{"id":1,"v":"a"}"#, reason::NOT_DEBEZIUM)]
#[case::a_column_named_op(r#"{"id":1,"op":"c"}"#, reason::NOT_DEBEZIUM)]
#[case::contradiction(r#"{"id":1,"v":"a","__op":"c","__deleted":"true"}"#, reason::NOT_DEBEZIUM)]
#[case::no_op(r#"{"id":1,"v":"a","__op":"z"}"#, reason::NOT_DEBEZIUM)]
fn nothing_is_flattened_by_accident(#[case] value: &str, #[case] why: &str) {
    let (pushed, row) = one(options(Mode::Upsert, Format::Auto), Some(r#"{"id":1}"#), Some(value));
    assert!(matches!(&pushed, Pushed::Rejected(r) if r.reason == why), "{pushed:?}");
    assert!(row.is_none());
}

#[test]
fn an_envelope_stays_one_whatever_its_columns_are_called() {
    let value =
        r#"{"before":null,"after":{"id":1,"v":"a","__op":"d","__deleted":"true"},"source":{},"op":"c","__op":"d"}"#;
    let (pushed, row) = one(options(Mode::Upsert, Format::Auto), Some(r#"{"id":1}"#), Some(value));
    assert_eq!((pushed, row.unwrap().get("v")), (Pushed::Row(Op::Create), &text("a")));
}

#[test]
fn a_flattened_row_may_have_columns_named_like_an_envelopes() {
    let columns = ["op", "after", "before", "source", "v"].map(|name| Column::new(name, ColumnType::String));
    let table = RowSchema { columns: [Column::key("id", ColumnType::Int)].into_iter().chain(columns).collect() };
    let value = r#"{"id":1,"op":"c","after":null,"source":"s","v":"x","__op":"u"}"#;
    for (format, wanted) in [(Format::Flattened, true), (Format::Auto, false)] {
        let mut decoder = Decoder::new(DecodeOptions { format, ..DecodeOptions::default() });
        decoder.set_schema(&table).unwrap();
        let pushed = decoder.push(&record(None, Some(value), &CapturedHeaders::default()));
        // With an op and images it looks like an envelope: only the configuration can tell.
        assert_eq!(pushed == Pushed::Row(Op::Update), wanted, "{pushed:?}");
    }
}

#[test]
fn the_configuration_decides_where_nothing_else_tells() {
    let plain = r#"{"id":1,"v":"a"}"#;
    let key = Some(r#"{"id":1}"#);
    let flattened = options(Mode::Upsert, Format::Flattened);
    let (pushed, row) = one(flattened.clone(), key, Some(plain));
    assert_eq!((pushed, row.unwrap().get("v")), (Pushed::Row(Op::Update), &text("a")));
    assert_eq!(one(flattened.clone(), key, None).0, Pushed::Row(Op::Delete));
    assert_eq!(one(flattened.clone(), None, None).0, Pushed::Skipped(Skip::Tombstone));
    let unreadable = one(DecodeOptions { key_columns: Some(vec!["id".into()]), ..flattened }, Some("x"), None).0;
    assert!(matches!(unreadable, Pushed::Rejected(r) if r.reason == reason::NO_KEY));
    // An append table: a null value is the delete only where that is configured.
    assert_eq!(one(options(Mode::Append, Format::Flattened), key, None).0, Pushed::Row(Op::Delete));
    assert_eq!(one(options(Mode::Append, Format::Auto), key, None).0, Pushed::Skipped(Skip::Tombstone));
    let envelope = one(options(Mode::Upsert, Format::Envelope), key, Some(r#"{"id":1,"__op":"c"}"#)).0;
    assert!(matches!(envelope, Pushed::Rejected(r) if r.reason == reason::FLATTENED));
}

#[test]
fn the_op_may_stand_in_a_header() {
    let headers = CapturedHeaders([("__op".to_owned(), Some("r".to_owned()))].into());
    let mut decoder = Decoder::new(options(Mode::Upsert, Format::Auto));
    decoder.set_schema(&table()).unwrap();
    let pushed = decoder.push(&record(Some(r#"{"id":1}"#), Some(r#"{"id":1,"v":"a"}"#), &headers));
    assert_eq!(pushed, Pushed::Row(Op::Read));
}

#[test]
fn with_a_schema_block_the_added_fields_are_no_columns_unless_declared() {
    let value = r#"{"schema":{"type":"struct","fields":[{"type":"int32","field":"id"},{"type":"string","field":"after"},
        {"type":"string","field":"__op"},{"type":"int64","field":"__lsn"},{"type":"string","field":"__mine"}]},
        "payload":{"id":1,"after":"x","__op":"c","__lsn":7,"__mine":"m"}}"#;
    for (declared, want) in [
        (vec![], vec!["id int", "after string", "__mine string"]),
        (vec![Column::new("__lsn", ColumnType::Long)], vec!["id int", "after string", "__lsn long", "__mine string"]),
    ] {
        let mut decoder = Decoder::new(DecodeOptions { declared, ..DecodeOptions::default() });
        let headers = CapturedHeaders::default();
        let record = record(None, Some(value), &headers);
        let Pushed::NeedsSchema(asked) = decoder.push(&record) else { panic!() };
        let columns: Vec<String> = asked.columns.iter().map(|c| format!("{} {}", c.name, c.column_type)).collect();
        assert_eq!(columns, want);
        decoder.set_schema(&asked).unwrap();
        assert_eq!(decoder.push(&record), Pushed::Row(Op::Create));
        let batch = decoder.finish();
        let row = &rows_of(&batch.rows, &batch.ops)[0];
        assert_eq!((row.get("after"), row.get("__mine")), (&text("x"), &text("m")));
        assert_eq!(row.cells.get("__lsn").is_some_and(|c| *c == Cell::Int(7)), want.len() == 4);
        assert_eq!(decoder.take_unknown_fields(), Vec::<String>::new());
    }
}

#[test]
fn the_capture_gives_the_rows_that_its_envelopes_give() {
    // Written digits keep what the unscaled form loses; NaN and infinities are texts where the column is one.
    let differs = |topic: &str, column: &str| {
        [origin::SOURCE_TS, origin::SOURCE_LSN, origin::OFFSET, origin::TOPIC].contains(&column)
            || topic == "specials" && column == "v_numeric"
            || topic == "all_types" && ["c_numeric", "a_numeric"].contains(&column)
    };
    let mut compared = 0;
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
        "snap_source",
        "parted_eu",
        "parted_us",
        "Mixed_Case-Tbl",
    ] {
        let suffix = format!(".{topic}");
        let envelopes = of_topic(fixture("types_default_schemas_true"), &suffix);
        let flat = of_topic(fixture("types_v4_unwrap_flat"), &suffix);
        let mode = if topic.starts_with("no_pk") { Mode::Append } else { Mode::Upsert };
        let want = decode(mode, &envelopes);
        // What no schema block says: how decimals are written.
        let decimals = want.table.columns.iter().filter(|c| matches!(c.column_type, ColumnType::Decimal { .. }));
        let lists = ["a_numeric_10_2".to_owned()];
        let wire = decimals.map(|c| c.name.clone()).chain(lists).map(|name| (name, Wire::DecimalText)).collect();
        let options = DecodeOptions { wire, ..options(mode, Format::Auto) };
        let mut decoder = Decoder::new(options);
        let got = drive(&mut decoder, Some(want.table.clone()), &flat);
        assert_eq!(decoder.take_unknown_fields(), Vec::<String>::new(), "{topic}");
        assert_eq!(got.rows.len(), want.rows.len(), "{topic} {:?}", got.rejected);
        for (at, (got, want)) in got.rows.iter().zip(&want.rows).enumerate() {
            assert_eq!(got.op, want.op, "{topic} {at}");
            for (column, cell) in &got.cells {
                let want = want.cells.get(column).unwrap_or(&Cell::Null);
                if !differs(topic, column) {
                    assert_eq!(cell, want, "{topic} {at} {column}");
                    compared += 1;
                }
            }
            assert!(matches!(got.get(origin::SOURCE_TS), Cell::Int(_)) || mode == Mode::Upsert && got.op == Op::Delete);
        }
    }
    assert!(compared > 2000, "{compared}");
}
