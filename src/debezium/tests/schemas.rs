//! When a table is asked for, and what a table that was set can hold.

use super::*;
use crate::change::Column;
use ColumnType as T;

/// A record with a schema block of these columns (`name`, Connect schema without the field name) and values.
fn record(columns: &[(&str, &str, &str)]) -> String {
    let field = |(name, schema, _): &(&str, &str, &str)| {
        format!(r#"{},"optional":true,"field":"{name}"}}"#, &schema[..schema.len() - 1])
    };
    let fields: Vec<String> = columns.iter().map(field).collect();
    let values: Vec<String> = columns.iter().map(|(name, _, value)| format!(r#""{name}":{value}"#)).collect();
    format!(
        r#"{{"schema":{{"type":"struct","fields":[{{"type":"struct","fields":[{}],"field":"after"}}]}},"payload":{{"after":{{{}}},"op":"c"}}}}"#,
        fields.join(","),
        values.join(",")
    )
}

fn push(decoder: &mut Decoder, value: &str) -> Pushed {
    decoder.push(&Record {
        topic: "t",
        partition: 0,
        offset: 0,
        timestamp_ms: None,
        key: None,
        value: Some(value.as_bytes()),
        ..Record::default()
    })
}

fn table(columns: &[(&str, ColumnType)]) -> RowSchema {
    RowSchema { columns: columns.iter().map(|(name, t)| Column::new(*name, t.clone())).collect() }
}

const INT: &str = r#"{"type":"int32"}"#;
const LONG: &str = r#"{"type":"int64"}"#;
const TEXT: &str = r#"{"type":"string"}"#;

#[test]
fn a_table_is_asked_for_until_it_is_set_and_nothing_is_consumed() {
    let mut decoder = Decoder::new(DecodeOptions::default());
    let value = record(&[("a", INT, "1")]);
    for _ in 0..3 {
        assert_eq!(push(&mut decoder, &value), Pushed::NeedsSchema(table(&[("a", T::Int)])));
    }
    assert_eq!((decoder.rows(), decoder.finish().num_rows()), (0, 0));
    decoder.set_schema(&table(&[("a", T::Int)])).unwrap();
    assert_eq!(push(&mut decoder, &value), Pushed::Row(Op::Create));
}

#[test]
fn older_records_narrower_types_and_extra_columns_do_not_ask() {
    let mut decoder = Decoder::new(DecodeOptions::default());
    let wide = [("a", T::Long), ("f", T::Double), ("d", T::Decimal { precision: 20, scale: 2 }), ("later", T::String)];
    decoder.set_schema(&table(&wide)).unwrap();
    let decimal = r#"{"type":"bytes","name":"org.apache.kafka.connect.data.Decimal","parameters":{"scale":"2","connect.decimal.precision":"5"}}"#;
    let value = record(&[("a", INT, "7"), ("f", r#"{"type":"float"}"#, "1.5"), ("d", decimal, "\"AQ==\"")]);
    assert_eq!(push(&mut decoder, &value), Pushed::Row(Op::Create));
    let batch = decoder.finish();
    let row = &rows_of(&batch.rows, &batch.ops)[0];
    assert_eq!((row.get("a"), row.get("d"), row.get("later")), (&Cell::Int(7), &Cell::Int(1), &Cell::Null));
    assert_eq!(row.get("f"), &Cell::Float(1.5f64.to_bits()));
}

#[test]
fn a_wider_record_asks_with_the_tables_own_type_where_that_is_wide_enough() {
    let mut decoder = Decoder::new(DecodeOptions::default());
    decoder.set_schema(&table(&[("a", T::Int), ("b", T::Long)])).unwrap();
    let value = record(&[("a", LONG, "5000000000"), ("b", INT, "1"), ("c", TEXT, "\"x\"")]);
    let wanted = table(&[("a", T::Long), ("b", T::Long), ("c", T::String)]);
    assert_eq!(push(&mut decoder, &value), Pushed::NeedsSchema(wanted.clone()));
    decoder.set_schema(&wanted).unwrap();
    assert_eq!(push(&mut decoder, &value), Pushed::Row(Op::Create));
    // The old record is still read with its own schema.
    assert_eq!(push(&mut decoder, &record(&[("a", INT, "1")])), Pushed::Row(Op::Create));
}

#[test]
fn a_type_that_the_table_cannot_take_is_rejected_once_the_table_was_set_again() {
    let mut decoder = Decoder::new(DecodeOptions::default());
    let have = table(&[("a", T::Int)]);
    decoder.set_schema(&have).unwrap();
    let value = record(&[("a", TEXT, "\"x\"")]);
    assert!(matches!(push(&mut decoder, &value), Pushed::NeedsSchema(_)));
    decoder.set_schema(&have).unwrap();
    for _ in 0..2 {
        match push(&mut decoder, &value) {
            Pushed::Rejected(reject) => {
                assert_eq!(reject.reason, reason::INCOMPATIBLE_SCHEMA);
                assert_eq!(reject.detail, "column a: the record has string, the table int");
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(push(&mut decoder, &record(&[("a", INT, "1")])), Pushed::Row(Op::Create));
}

#[test]
fn pending_rows_keep_their_schema() {
    let mut decoder = Decoder::new(DecodeOptions::default());
    decoder.set_schema(&table(&[("a", T::Int)])).unwrap();
    push(&mut decoder, &record(&[("a", INT, "1")]));
    decoder.set_schema(&table(&[("a", T::Int)])).unwrap();
    assert!(decoder.set_schema(&table(&[("a", T::Long)])).unwrap_err().contains("finish"));
    assert_eq!(decoder.finish().num_rows(), 1);
    decoder.set_schema(&table(&[("a", T::Long)])).unwrap();
    assert_eq!(push(&mut decoder, &record(&[("a", INT, "1")])), Pushed::Row(Op::Create));
}

#[test]
fn tables_that_make_no_sense_are_refused() {
    let mut upsert = Decoder::new(DecodeOptions { mode: Mode::Upsert, ..DecodeOptions::default() });
    assert!(upsert.set_schema(&table(&[("a", T::Int)])).unwrap_err().contains("key"));
    let mut append = Decoder::new(DecodeOptions::default());
    assert!(append.set_schema(&table(&[("a", T::Int), ("a", T::Int)])).is_err());
    assert!(append.set_schema(&table(&[("a", T::Decimal { precision: 39, scale: 0 })])).is_err());
    assert!(append.set_schema(&RowSchema::default()).is_err());
}

#[test]
fn without_schema_block_the_declared_columns_make_the_table() {
    let bare = r#"{"after":{"id":1,"at":"2024-01-01T00:00:00Z"},"op":"c"}"#;
    let mut decoder = Decoder::new(DecodeOptions::default());
    assert!(matches!(push(&mut decoder, bare), Pushed::Rejected(r) if r.reason == reason::NO_SCHEMA));
    let declared = vec![Column::new("id", T::Long), Column::new("at", T::TimestampTz)];
    let options = DecodeOptions { mode: Mode::Upsert, declared: declared.clone(), ..DecodeOptions::default() };
    let mut decoder = Decoder::new(options);
    let record = Record {
        topic: "t",
        partition: 0,
        offset: 0,
        timestamp_ms: None,
        key: Some(br#"{"id":1}"#),
        value: Some(bare.as_bytes()),
        ..Record::default()
    };
    let Pushed::NeedsSchema(asked) = decoder.push(&record) else { panic!() };
    assert_eq!(asked.columns, [Column::key("id", T::Long), declared[1].clone()]);
    decoder.set_schema(&asked).unwrap();
    assert_eq!(decoder.push(&record), Pushed::Row(Op::Create));
}

#[test]
fn a_declared_type_takes_the_place_of_the_records_own() {
    let numeric = r#"{"type":"struct","name":"io.debezium.data.VariableScaleDecimal"}"#;
    let time = r#"{"type":"int64","name":"io.debezium.time.MicroTime"}"#;
    let declared = vec![
        Column::new("v", T::Decimal { precision: 20, scale: 4 }),
        Column::new("s", T::Decimal { precision: 10, scale: 2 }),
        Column::new("t", T::Long),
    ];
    let mut decoder = Decoder::new(DecodeOptions { declared: declared.clone(), ..DecodeOptions::default() });
    let value = |v: &str| record(&[("v", numeric, v), ("s", TEXT, "\"-12.5\""), ("t", time, "86400000000")]);
    let fits = value(r#"{"scale":1,"value":"Cw=="}"#);
    assert_eq!(push(&mut decoder, &fits), Pushed::NeedsSchema(RowSchema { columns: declared.clone() }));
    decoder.set_schema(&RowSchema { columns: declared }).unwrap();
    assert_eq!(push(&mut decoder, &fits), Pushed::Row(Op::Create));
    let too_fine = push(&mut decoder, &value(r#"{"scale":5,"value":"Cw=="}"#));
    assert!(matches!(too_fine, Pushed::Rejected(r) if r.detail.starts_with("column v: 0.00011 does not fit")));
    let batch = decoder.finish();
    let row = &rows_of(&batch.rows, &batch.ops)[0];
    assert_eq!((row.get("v"), row.get("s")), (&Cell::Int(11_000), &Cell::Int(-1250)));
    assert_eq!(row.get("t"), &Cell::Int(86_400_000_000));
}

#[test]
fn a_payload_before_its_schema_is_read_all_the_same() {
    let usual = record(&[("a", INT, "1")]);
    let value: serde_json::Value = serde_json::from_str(&usual).unwrap();
    let turned = format!(r#"{{ "payload": {}, "schema": {} }}"#, value["payload"], value["schema"]);
    let mut decoder = Decoder::new(DecodeOptions::default());
    decoder.set_schema(&table(&[("a", T::Int)])).unwrap();
    for value in [&usual, &turned, &usual, &turned] {
        assert_eq!(push(&mut decoder, value), Pushed::Row(Op::Create));
    }
    assert_eq!(decoder.finish().num_rows(), 4);
}

#[test]
fn an_unsigned_bigint_of_mysql_is_a_decimal_of_twenty_digits() {
    let numeric = r#"{"type":"bytes","name":"org.apache.kafka.connect.data.Decimal","parameters":{"scale":"0"}}"#;
    let elsewhere = record(&[("n", numeric, r#""AP//////////""#)]);
    let source = r#""field":"after"},{"type":"struct","fields":[],"name":"io.debezium.connector.mysql.Source","field":"source"}"#;
    let of_mysql = elsewhere.replacen(r#""field":"after"}"#, source, 1);
    for (value, column_type, cell) in [
        (&elsewhere, T::String, Cell::Text("18446744073709551615".into())),
        (&of_mysql, T::Decimal { precision: 20, scale: 0 }, Cell::Int(i128::from(u64::MAX))),
    ] {
        let schema = table(&[("n", column_type)]);
        let mut decoder = Decoder::new(DecodeOptions::default());
        assert_eq!(push(&mut decoder, value), Pushed::NeedsSchema(schema.clone()));
        decoder.set_schema(&schema).unwrap();
        assert_eq!(push(&mut decoder, value), Pushed::Row(Op::Create));
        let batch = decoder.finish();
        assert_eq!(rows_of(&batch.rows, &batch.ops)[0].get("n"), &cell);
    }
}
