//! Record keys that are one plain value in Avro, beside values with and without schema.

use rstest::rstest;

use super::avro::datum;
use super::*;
use crate::change::Column;

fn decoder(column_type: ColumnType, declared: bool, mode: Mode) -> Decoder {
    let key_columns = declared.then(|| vec!["id".to_owned()]);
    let mut decoder = Decoder::new(DecodeOptions { mode, key_columns, ..DecodeOptions::default() });
    let columns = vec![Column::key("id", column_type), Column::new("v", ColumnType::String)];
    decoder.set_schema(&RowSchema { columns }).unwrap();
    decoder
}

/// A key written with this schema.
fn key(value: avro::Datum) -> Vec<u8> {
    datum().raw(&[0, 0, 0, 0, 7]).raw(&value.0).0
}

fn push(decoder: &mut Decoder, schema: &str, key: &[u8], value: Option<&str>) -> Pushed {
    let record = Record { topic: "t", key: Some(key), value: value.map(str::as_bytes), ..Record::default() };
    loop {
        match decoder.push(&record) {
            Pushed::NeedsWriterSchema(id) => {
                decoder.learn(id, &Registered::Avro { schema: schema.to_owned(), references: vec![] });
            }
            pushed => return pushed,
        }
    }
}

const DELETE: &str = r#"{"before":null,"after":null,"op":"d"}"#;

#[rstest]
#[case::long(r#""long""#, ColumnType::Long, datum().long(42), "42")]
#[case::int_into_long(r#""int""#, ColumnType::Long, datum().long(42), "42")]
#[case::long_into_int(r#""long""#, ColumnType::Int, datum().long(42), "42")]
#[case::string(r#""string""#, ColumnType::String, datum().text("abc"), "\"abc\"")]
#[case::number_as_text(r#""long""#, ColumnType::String, datum().long(42), "\"42\"")]
#[case::uuid(
    r#""string""#,
    ColumnType::Uuid,
    datum().text("b3a1c2d4-0000-4000-8000-00000000beef"),
    "\"b3a1c2d4-0000-4000-8000-00000000beef\""
)]
#[case::date(r#"{"type":"int","connect.name":"io.debezium.time.Date"}"#, ColumnType::Date, datum().long(19782), "19782")]
#[case::timestamp(
    r#"{"type":"long","connect.name":"io.debezium.time.Timestamp"}"#,
    ColumnType::Timestamp,
    datum().long(5),
    "5000"
)]
#[case::optional(r#"["null","long"]"#, ColumnType::Long, datum().long(1).long(42), "42")]
#[case::decimal(
    r#"{"type":"bytes","logicalType":"decimal","precision":5,"scale":2}"#,
    ColumnType::Decimal { precision: 5, scale: 2 },
    datum().bytes(&[0x7b]),
    "1.23"
)]
fn one_plain_value_is_the_declared_key_column(
    #[case] schema: &str,
    #[case] column_type: ColumnType,
    #[case] value: avro::Datum,
    #[case] json: &str,
) {
    let mut decoder = decoder(column_type, true, Mode::Upsert);
    let key = key(value);
    let create = format!(r#"{{"after":{{"id":{json},"v":"a"}},"op":"c"}}"#);
    assert_eq!(push(&mut decoder, schema, &key, Some(&create)), Pushed::Row(Op::Create));
    assert_eq!(push(&mut decoder, schema, &key, Some(DELETE)), Pushed::Row(Op::Delete));
    assert_eq!(push(&mut decoder, schema, &key, None), Pushed::Row(Op::Delete));
    assert_eq!(push(&mut decoder, schema, &key, Some(r#"{"after":{"v":"b"},"op":"u"}"#)), Pushed::Row(Op::Update));
    let batch = decoder.finish();
    let rows = rows_of(&batch.rows, &batch.ops);
    assert_eq!(rows.len(), 4);
    assert!(rows.iter().all(|row| row.get("id") == rows[0].get("id") && *row.get("id") != Cell::Null));
}

#[test]
fn a_plain_key_of_another_value_is_a_mismatch_and_of_another_kind_is_no_key() {
    let mut decoder = decoder(ColumnType::Long, true, Mode::Upsert);
    let create = Some(r#"{"after":{"id":42,"v":"a"},"op":"c"}"#);
    let other = push(&mut decoder, r#""long""#, &key(datum().long(41)), create);
    assert!(matches!(&other, Pushed::Rejected(r) if r.reason == reason::KEY_MISMATCH), "{other:?}");
    assert_eq!(decoder.rows(), 0);
    for (schema, value) in [(r#""string""#, datum().text("abc")), (r#""boolean""#, datum().raw(&[1]))] {
        let mut decoder = self::decoder(ColumnType::Long, true, Mode::Upsert);
        let key = key(value);
        assert_eq!(push(&mut decoder, schema, &key, create), Pushed::Row(Op::Create), "{schema}");
        assert_eq!(push(&mut decoder, schema, &key, None), Pushed::Skipped(Skip::Tombstone), "{schema}");
        assert_eq!(decoder.rows(), 1);
    }
}

#[test]
fn without_declared_key_columns_a_plain_value_names_no_column() {
    let create = Some(r#"{"after":{"id":42,"v":"a"},"op":"c"}"#);
    let mut upsert = decoder(ColumnType::Long, false, Mode::Upsert);
    let refused = push(&mut upsert, r#""long""#, &key(datum().long(42)), create);
    assert!(matches!(&refused, Pushed::Rejected(r) if r.reason == reason::NO_KEY), "{refused:?}");
    let mut append = decoder(ColumnType::Long, false, Mode::Append);
    assert_eq!(push(&mut append, r#""long""#, &key(datum().long(42)), create), Pushed::Row(Op::Create));
}

/// What does not fit leaves nothing behind for the next record.
#[test]
fn a_key_beyond_its_column_is_a_key_of_another_kind() {
    let mut decoder = decoder(ColumnType::Int, true, Mode::Upsert);
    let create = Some(r#"{"after":{"id":42,"v":"a"},"op":"c"}"#);
    let wide = key(datum().long(5_000_000_000));
    assert_eq!(push(&mut decoder, r#""long""#, &wide, create), Pushed::Row(Op::Create));
    assert_eq!(push(&mut decoder, r#""long""#, &wide, None), Pushed::Skipped(Skip::Tombstone));
    assert_eq!(push(&mut decoder, r#""long""#, &key(datum().long(42)), None), Pushed::Row(Op::Delete));
    let batch = decoder.finish();
    assert!(rows_of(&batch.rows, &batch.ops).iter().all(|row| row.get("id") == &Cell::Int(42)));
}
