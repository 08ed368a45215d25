//! Record keys of every kind, and keys that name another row than the value does.

use rstest::rstest;

use super::*;
use crate::change::Column;

fn decoder(column_type: ColumnType, declared: bool) -> Decoder {
    let key_columns = declared.then(|| vec!["id".to_owned()]);
    let mut decoder = Decoder::new(DecodeOptions { mode: Mode::Upsert, key_columns, ..DecodeOptions::default() });
    let columns = vec![Column::key("id", column_type), Column::new("v", ColumnType::String)];
    decoder.set_schema(&RowSchema { columns }).unwrap();
    decoder
}

fn push(decoder: &mut Decoder, key: &[u8], value: &str) -> Pushed {
    decoder.push(&Record { topic: "t", key: Some(key), value: Some(value.as_bytes()), ..Record::default() })
}

fn reason_of(pushed: Pushed) -> &'static str {
    match pushed {
        Pushed::Row(_) => "row",
        Pushed::Skipped(_) | Pushed::Truncate(_) => "skipped",
        Pushed::NeedsSchema(_) | Pushed::NeedsWriterSchema(_) | Pushed::NeedsSource { .. } => "needs a schema",
        Pushed::Rejected(reject) => {
            assert!(reject.reason != reason::KEY_MISMATCH || reject.detail.starts_with("column id: "), "{reject}");
            reject.reason
        }
    }
}

#[rstest]
#[case::same(br#"{"id":1}"#, "row")]
#[case::other(br#"{"id":2}"#, "key_mismatch")]
#[case::block(br#"{"schema":{"type":"struct","fields":[{"type":"int32","field":"id"}]},"payload":{"id":1}}"#, "row")]
#[case::block_other(
    br#"{"schema":{"type":"struct","fields":[{"type":"int32","field":"id"}]},"payload":{"id":3}}"#,
    "key_mismatch"
)]
#[case::other_case(br#"{"ID":1}"#, "row")]
#[case::no_value_of_its_type(br#"{"id":"x"}"#, "bad_value")]
#[case::twice(br#"{"id":1,"id":2}"#, "incompatible_schema")]
fn an_upsert_is_refused_where_its_key_names_another_row(#[case] key: &[u8], #[case] want: &str) {
    let block =
        r#"{"type":"struct","fields":[{"type":"struct","fields":[{"type":"int32","field":"id"}],"field":"after"}]}"#;
    let create = r#"{"before":null,"after":{"id":1},"op":"c"}"#;
    for value in [create.to_owned(), format!(r#"{{"schema":{block},"payload":{create}}}"#)] {
        let mut decoder = decoder(ColumnType::Int, false);
        assert_eq!(reason_of(push(&mut decoder, key, &value)), want);
        assert_eq!(decoder.rows(), usize::from(want == "row"));
        // The next record is not touched by the last one's key.
        assert_eq!(reason_of(push(&mut decoder, br#"{"id":1}"#, &value)), "row");
    }
}

#[rstest]
#[case::json_number(ColumnType::Long, b"42", "42")]
#[case::json_text(ColumnType::String, b"\"abc\"", "\"abc\"")]
#[case::text(ColumnType::String, b"abc", "\"abc\"")]
#[case::text_with_a_quote(ColumnType::String, b"a\"b\\", r#""a\"b\\""#)]
#[case::text_that_looks_like_null(ColumnType::String, b"nancy", "\"nancy\"")]
#[case::number_as_text(ColumnType::String, b"42", "\"42\"")]
#[case::uuid(ColumnType::Uuid, b"b3a1c2d4-0000-4000-8000-00000000beef", "\"b3a1c2d4-0000-4000-8000-00000000beef\"")]
#[case::date(ColumnType::Date, b"2024-02-29", "19782")]
#[case::in_a_block(ColumnType::Long, br#"{"schema":{"type":"int64"},"payload":42}"#, "42")]
fn one_plain_value_is_the_declared_key_column(
    #[case] column_type: ColumnType,
    #[case] key: &[u8],
    #[case] value: &str,
) {
    let mut decoder = decoder(column_type, true);
    let create = |value: &str| format!(r#"{{"after":{{"id":{value},"v":"a"}},"op":"c"}}"#);
    assert_eq!(reason_of(push(&mut decoder, key, &create(value))), "row");
    assert_eq!(reason_of(push(&mut decoder, key, r#"{"before":null,"after":null,"op":"d"}"#)), "row");
    let tombstone = Record { topic: "t", key: Some(key), ..Record::default() };
    assert_eq!(decoder.push(&tombstone), Pushed::Row(Op::Delete));
    // The value alone does not name the row here: the key does.
    assert_eq!(reason_of(push(&mut decoder, key, r#"{"after":{"v":"b"},"op":"u"}"#)), "row");
    let batch = decoder.finish();
    let rows = rows_of(&batch.rows, &batch.ops);
    assert_eq!(rows.len(), 4);
    assert!(rows.iter().all(|row| row.get("id") == rows[0].get("id") && *row.get("id") != Cell::Null));
}

#[test]
fn a_plain_key_of_another_value_is_a_mismatch_and_of_another_kind_is_no_key() {
    let mut decoder = decoder(ColumnType::Long, true);
    let create = r#"{"after":{"id":42,"v":"a"},"op":"c"}"#;
    assert_eq!(reason_of(push(&mut decoder, b"41", create)), "key_mismatch");
    for other in [&b"abc"[..], b"Struct{id=41}", b"", b"null"] {
        assert_eq!(reason_of(push(&mut decoder, other, create)), "row", "{other:?}");
        let tombstone = Record { topic: "t", key: Some(other), ..Record::default() };
        assert_eq!(decoder.push(&tombstone), Pushed::Skipped(Skip::Tombstone), "{other:?}");
    }
    // Fields of other columns are another kind of key too.
    assert_eq!(reason_of(push(&mut decoder, br#"{"tenant":7}"#, create)), "row");
    assert_eq!(reason_of(push(&mut decoder, br#"{"tenant":7,"id":41}"#, create)), "key_mismatch");
}

#[test]
fn a_delete_names_one_row_only() {
    let mut decoder = decoder(ColumnType::Int, false);
    let delete = |id: &str| format!(r#"{{"before":{{"id":{id},"v":"x"}},"after":null,"op":"d"}}"#);
    assert_eq!(reason_of(push(&mut decoder, br#"{"id":1}"#, &delete("1"))), "row");
    assert_eq!(reason_of(push(&mut decoder, br#"{"id":1}"#, &delete("2"))), "key_mismatch");
    assert_eq!(reason_of(push(&mut decoder, br#"{"id":1}"#, &delete("null"))), "row");
    assert_eq!(decoder.finish().num_rows(), 2);
}

#[test]
fn an_append_table_keeps_what_its_records_say() {
    let mut decoder = Decoder::new(DecodeOptions::default());
    decoder.set_schema(&RowSchema { columns: vec![Column::new("id", ColumnType::Int)] }).unwrap();
    assert_eq!(reason_of(push(&mut decoder, br#"{"id":2}"#, r#"{"after":{"id":1},"op":"c"}"#)), "row");
}

#[test]
fn keys_of_every_type_are_compared_by_value() {
    use ColumnType as T;
    let list = T::List(Box::new(T::Int));
    for (column_type, same, other) in [
        (T::Boolean, ("true", "true"), "false"),
        (T::Double, ("1", "1.0"), "1.5"),
        (T::Float, ("1", "1.0"), "1.5"),
        (T::Decimal { precision: 5, scale: 2 }, ("\"AJY=\"", "1.5"), "1.51"),
        (T::TimestampTz, ("\"2024-01-01T00:00:00Z\"", "\"2024-01-01T01:00:00+01:00\""), "\"2024-01-01T00:00:01Z\""),
        (T::Binary, ("\"AP8=\"", "\"AP8=\""), "\"AA==\""),
        (list, ("[1,2]", "[1, 2]"), "[1,2,3]"),
    ] {
        let mut decoder = decoder(column_type.clone(), false);
        let value = format!(r#"{{"after":{{"id":{}}},"op":"c"}}"#, same.0);
        let key = |v: &str| format!(r#"{{"id":{v}}}"#).into_bytes();
        assert_eq!(reason_of(push(&mut decoder, &key(same.1), &value)), "row", "{column_type}");
        assert_eq!(reason_of(push(&mut decoder, &key(other), &value)), "key_mismatch", "{column_type}");
    }
}

/// What an append table keeps of a delete whose `before` has a value for each column, with this record key.
fn appended_delete(options: DecodeOptions, flagged: bool, key: Option<&[u8]>) -> Result<Vec<Cell>, &'static str> {
    let mut decoder = Decoder::new(DecodeOptions { mode: Mode::Append, ..options });
    let id = Column { key: flagged, ..Column::new("id", ColumnType::Int) };
    decoder.set_schema(&RowSchema { columns: vec![id, Column::new("n", ColumnType::Int)] }).unwrap();
    let value = br#"{"before":{"id":7,"n":0},"after":null,"op":"d"}"#.as_slice();
    match decoder.push(&Record { topic: "t", key, value: Some(value), ..Record::default() }) {
        Pushed::Row(Op::Delete) => {}
        pushed => return Err(reason_of(pushed)),
    }
    let batch = decoder.finish();
    let rows = rows_of(&batch.rows, &batch.ops);
    Ok(vec![rows[0].get("id").clone(), rows[0].get("n").clone()])
}

#[rstest]
#[case::of_the_string_converter(b"Struct{id=7}")]
#[case::extracted(b"7")]
#[case::text(b"abc")]
#[case::damaged(br#"{"id":"#)]
#[case::no_utf8(b"\xff")]
#[case::avro_without_an_id(&[0, 0, 1])]
fn fillers_are_no_values_beside_a_key_that_cannot_be_read(#[case] key: &[u8]) {
    let (id, filler) = (Cell::Int(7), Cell::Int(0));
    // It says that it has the column, or is its value.
    let names = key == b"Struct{id=7}";
    let refused = if key == br#"{"id":"# { Err("not_json") } else { Err("no_key") };
    for flagged in [false, true] {
        let options = DecodeOptions::default;
        let want = if names && flagged { Ok(vec![id.clone(), Cell::Null]) } else { refused.clone() };
        assert_eq!(appended_delete(options(), flagged, Some(key)), want);
        // The whole of `before` only where the source sends the whole: without a key, or because the user says so.
        for none in [None, Some(b"null".as_slice())] {
            assert_eq!(appended_delete(options(), flagged, none), Ok(vec![id.clone(), filler.clone()]));
        }
        let whole = DecodeOptions { delete_image: DeleteImage::Before, ..options() };
        assert_eq!(appended_delete(whole, flagged, Some(key)), Ok(vec![id.clone(), filler.clone()]));
    }
    let declared = |name: &str| DecodeOptions { key_columns: Some(vec![name.to_owned()]), ..DecodeOptions::default() };
    let want = if names || key == b"7" { Ok(vec![id, Cell::Null]) } else { refused.clone() };
    assert_eq!(appended_delete(declared("id"), false, Some(key)), want);
    if key != b"7" {
        assert_eq!(appended_delete(declared("n"), false, Some(key)), refused);
    }
}

#[rstest]
#[case::other_column(br#"{"id":7}"#, "no_key")]
#[case::of_the_string_converter(b"Struct{id=7}", "no_key")]
#[case::unreadable(&[0, 0, 1], "no_key")]
#[case::its_own(br#"{"id":7,"email":"a"}"#, "row")]
#[case::named(b"Struct{id=7,email=a}", "row")]
#[case::none(b"null", "row")]
fn a_delete_does_not_go_by_fillers(#[case] key: &[u8], #[case] want: &str) {
    let mut options = DecodeOptions {
        mode: Mode::Upsert,
        key_columns: Some(vec!["email".to_owned(), "id".to_owned()]),
        ..DecodeOptions::default()
    };
    let columns = vec![Column::key("email", ColumnType::String), Column::new("id", ColumnType::Int)];
    let delete = r#"{"before":{"id":7,"email":"a"},"after":null,"op":"d"}"#;
    for image in [DeleteImage::Key, DeleteImage::Before] {
        options.delete_image = image;
        let mut decoder = Decoder::new(options.clone());
        decoder.set_schema(&RowSchema { columns: columns.clone() }).unwrap();
        let vouched = image == DeleteImage::Before;
        assert_eq!(reason_of(push(&mut decoder, key, delete)), if vouched { "row" } else { want });
    }
}
