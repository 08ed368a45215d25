//! Records without schema block into tables that nothing else knows the types of.

use rstest::rstest;

use super::*;
use crate::change::Column;
use ColumnType as T;

fn options(mode: Mode) -> DecodeOptions {
    DecodeOptions { mode, infer_types: true, ..DecodeOptions::default() }
}

fn columns(schema: &RowSchema) -> Vec<String> {
    schema.columns.iter().map(|c| format!("{}{} {}", if c.key { "*" } else { "" }, c.name, c.column_type)).collect()
}

fn captured(at: i64, key: &str, value: &str) -> Captured {
    let value = Some(value.to_owned()).filter(|v| !v.is_empty());
    let key = serde_json::to_string(key).unwrap();
    let line = format!(
        r#"{{"topic":"t","partition":0,"offset":{at},"timestamp":null,"key":{key},"value":{}}}"#,
        serde_json::to_string(&value).unwrap()
    );
    serde_json::from_str(&line).unwrap()
}

fn envelope(after: &str) -> String {
    format!(r#"{{"before":null,"after":{after},"op":"c"}}"#)
}

#[rstest]
#[case("1", T::Long)]
#[case("-9223372036854775808", T::Long)]
#[case("9223372036854775808", T::String)]
#[case("1.0", T::Double)]
#[case("1e3", T::Double)]
#[case("true", T::Boolean)]
#[case("\"2024-01-01\"", T::String)]
#[case("{\"a\":1}", T::String)]
#[case("[1,2]", T::String)]
fn a_value_tells_its_columns_type(#[case] value: &str, #[case] want: ColumnType) {
    let records = [captured(0, r#"{"id":1}"#, &envelope(&format!(r#"{{"id":1,"v":{value}}}"#)))];
    let mut decoder = Decoder::new(options(Mode::Upsert));
    let out = drive(&mut decoder, None, &records);
    assert_eq!(columns(&out.table), ["*id long".to_owned(), format!("v {want}")]);
    assert_eq!((out.rows.len(), decoder.take_inferred()), (1, vec!["id long".to_owned(), format!("v {want}")]));
    if want == T::String && !value.starts_with('"') {
        assert_eq!(out.rows[0].get("v"), &text(value));
    }
}

#[test]
fn a_column_waits_for_its_first_value() {
    let records = [
        captured(0, r#"{"id":1}"#, &envelope(r#"{"id":1,"late":null}"#)),
        captured(1, r#"{"id":2}"#, &envelope(r#"{"id":2,"late":null}"#)),
        captured(2, r#"{"id":3}"#, &envelope(r#"{"id":3,"late":1.5,"new":"n"}"#)),
        captured(3, r#"{"id":3}"#, r#"{"before":{"id":3,"late":0,"extra":5},"after":null,"op":"d"}"#),
        captured(4, r#"{"id":3}"#, ""),
    ];
    let out = drive(&mut Decoder::new(options(Mode::Upsert)), None, &records);
    assert_eq!(out.asked.len(), 2);
    assert_eq!(columns(&out.table), ["*id long", "late double", "new string"]);
    assert_eq!(out.rows.len(), 5, "{:?}", out.rejected);
    assert_eq!(out.rows[2].get("late"), &Cell::Float(1.5f64.to_bits()));
}

#[test]
fn only_safe_widening_everything_else_is_rejected() {
    let table = |n: T| RowSchema { columns: vec![Column::key("id", T::Int), Column::new("n", n)] };
    let records = [captured(0, r#"{"id":1}"#, &envelope(r#"{"id":1,"n":5000000000}"#))];
    let widened = drive(&mut Decoder::new(options(Mode::Upsert)), Some(table(T::Int)), &records);
    assert_eq!(columns(&widened.table), ["*id int", "n long"]);
    assert_eq!(widened.rows[0].get("n"), &Cell::Int(5_000_000_000));
    for (have, value) in [(T::Long, "1.5"), (T::Boolean, "\"x\""), (T::Int, "\"x\""), (T::Date, "\"x\"")] {
        let records = [captured(0, r#"{"id":1}"#, &envelope(&format!(r#"{{"id":1,"n":{value}}}"#)))];
        let out = drive(&mut Decoder::new(options(Mode::Upsert)), Some(table(have.clone())), &records);
        assert_eq!(out.rejected[0].1.reason, reason::BAD_VALUE, "{have}");
        assert!(out.asked.is_empty());
    }
    // A declared type is the user's word: nothing is widened.
    let declared = DecodeOptions { declared: table(T::Int).columns, ..options(Mode::Upsert) };
    let out = drive(&mut Decoder::new(declared), Some(table(T::Int)), &records);
    assert_eq!(out.rejected[0].1.reason, reason::BAD_VALUE);
}

#[test]
fn a_table_that_does_not_get_its_column_rejects_what_needs_it() {
    let table = RowSchema { columns: vec![Column::key("id", T::Int)] };
    let mut decoder = Decoder::new(options(Mode::Upsert));
    decoder.set_schema(&table).unwrap();
    let record = captured(0, r#"{"id":1}"#, &envelope(r#"{"id":1,"n":5}"#));
    assert!(matches!(decoder.push(&record.record()), Pushed::NeedsSchema(_)));
    decoder.set_schema(&table).unwrap();
    let refused = decoder.push(&record.record());
    assert!(matches!(&refused, Pushed::Rejected(r) if r.reason == reason::INCOMPATIBLE_SCHEMA), "{refused:?}");
    let fits = captured(1, r#"{"id":1}"#, &envelope(r#"{"id":1,"n":null}"#));
    assert_eq!(decoder.push(&fits.record()), Pushed::Row(Op::Create));
}

#[test]
fn where_types_are_not_to_be_inferred_they_are_not() {
    let record = captured(0, r#"{"id":1}"#, &envelope(r#"{"id":1,"n":5}"#));
    let mut decoder = Decoder::new(DecodeOptions { infer_types: false, ..options(Mode::Upsert) });
    assert!(matches!(decoder.push(&record.record()), Pushed::Rejected(r) if r.reason == reason::NO_SCHEMA));
    decoder.set_schema(&RowSchema { columns: vec![Column::key("id", T::Int)] }).unwrap();
    assert_eq!(decoder.push(&record.record()), Pushed::Row(Op::Create));
    assert_eq!(decoder.take_unknown_fields(), ["n"]);
    let nothing = captured(0, "null", &envelope(r#"{"n":null}"#));
    let mut decoder = Decoder::new(options(Mode::Append));
    assert!(matches!(decoder.push(&nothing.record()), Pushed::Rejected(r) if r.reason == reason::NO_SCHEMA));
}

#[test]
fn flattened_rows_are_inferred_without_what_the_transform_added() {
    let records = [
        captured(0, r#"{"id":1}"#, r#"{"id":1,"v":"a","__op":"c","__lsn":5,"__deleted":"false","__own":true}"#),
        captured(1, r#"{"id":1}"#, r#"{"id":1,"v":"filler","__op":"d","__lsn":6,"__deleted":"true","__own":null}"#),
    ];
    let out = drive(&mut Decoder::new(options(Mode::Upsert)), None, &records);
    assert_eq!(columns(&out.table), ["*id long", "v string", "__own boolean"]);
    assert_eq!((out.rows.len(), out.asked.len()), (2, 1));
}

#[test]
fn a_mongodb_document_is_its_text_beside_its_key() {
    let key = r#"{"id":"{\"$oid\":\"65\"}"}"#;
    let document = r#"{"_id": {"$oid": "65"}, "n": {"$numberLong": "5"}}"#;
    let json = serde_json::to_string(document).unwrap();
    let bare = format!(r#"{{"before":null,"after":{json},"updateDescription":null,"source":{{"ts_ms":5}},"op":"c"}}"#);
    let block = r#"{"type":"struct","fields":[{"type":"string","name":"io.debezium.data.Json","field":"after"},{"type":"string","field":"op"}]}"#;
    for value in [bare.clone(), format!(r#"{{"schema":{block},"payload":{bare}}}"#)] {
        let records = [
            captured(0, key, &value),
            captured(1, key, &value.replace(&bare, r#"{"before":null,"after":null,"source":{},"op":"d"}"#)),
        ];
        let out = drive(&mut Decoder::new(options(Mode::Upsert)), None, &records);
        assert_eq!(columns(&out.table), ["*id string", "document string"], "{:?}", out.rejected);
        assert_eq!(out.rows.len(), 2);
        assert_eq!(out.rows[0].get("document"), &text(document));
        assert_eq!((out.rows[1].get("id"), out.rows[1].get("document")), (&text(r#"{"$oid":"65"}"#), &Cell::Null));
    }
}

#[test]
fn a_whole_capture_needs_no_declaration() {
    for topic in ["customers", "addresses", "products", "orders", "order_items"] {
        let records = of_topic(fixture("inventory_schemas_false"), &format!(".{topic}"));
        let out = drive(&mut Decoder::new(options(Mode::Upsert)), None, &records);
        assert!(out.rejected.is_empty() && out.skipped.is_empty(), "{topic} {:?}", out.rejected);
        assert_eq!(out.rows.len(), records.len());
        assert!(out.table.columns.iter().any(|c| c.key));
    }
}

#[rstest]
#[case::other_key(r#"{"x":1}"#, r#"{"id":1,"new":5}"#, None, reason::INCOMPATIBLE_SCHEMA)]
#[case::part_of_it_null(r#"{"id":null}"#, r#"{"id":1,"new":5}"#, None, reason::INCOMPATIBLE_SCHEMA)]
#[case::one_field_more(r#"{"id":1,"x":1}"#, r#"{"id":1,"new":5}"#, None, reason::INCOMPATIBLE_SCHEMA)]
#[case::no_key("null", r#"{"id":1,"new":5}"#, None, reason::NO_KEY)]
#[case::without_the_declared_one(r#"{"x":1}"#, r#"{"v":1,"new":5}"#, Some("id"), reason::INCOMPATIBLE_SCHEMA)]
#[case::a_new_field_twice(r#"{"id":1}"#, r#"{"id":1,"new":5,"new":6}"#, None, reason::DUPLICATE_FIELD)]
#[case::in_another_case(r#"{"id":1}"#, r#"{"id":1,"new":5,"NEW":null}"#, None, reason::DUPLICATE_FIELD)]
#[case::wider_under_another_key(r#"{"x":1}"#, r#"{"id":1,"v":5000000000}"#, None, reason::BAD_VALUE)]
fn no_columns_are_asked_for_a_record_that_none_make_fit(
    #[case] key: &str,
    #[case] after: &str,
    #[case] declared: Option<&str>,
    #[case] want: &str,
) {
    let key_columns = declared.map(|name| vec![name.to_owned()]);
    let bad = captured(0, key, &envelope(after));
    let good = captured(1, r#"{"ID":1}"#, &envelope(r#"{"id":1,"v":5000000000,"new":7}"#));
    for exists in [true, false] {
        let mut decoder = Decoder::new(DecodeOptions { key_columns: key_columns.clone(), ..options(Mode::Upsert) });
        if exists {
            let columns = vec![Column::key("id", T::Long), Column::new("v", T::Int)];
            decoder.set_schema(&RowSchema { columns }).unwrap();
        }
        match decoder.push(&bad.record()) {
            Pushed::Rejected(reject) if exists => assert_eq!(reject.reason, want, "{reject}"),
            Pushed::Rejected(_) => {}
            // A table is made for the first key that comes.
            Pushed::NeedsSchema(asked) => assert!(!exists && asked.columns.iter().any(|c| c.key)),
            pushed => panic!("{pushed:?}"),
        }
        // It has used up no question of those that follow.
        let Pushed::NeedsSchema(asked) = decoder.push(&good.record()) else { panic!() };
        assert_eq!(columns(&asked), ["*id long", "v long", "new long"]);
        decoder.set_schema(&asked).unwrap();
        assert_eq!(decoder.push(&good.record()), Pushed::Row(Op::Create));
    }
}
