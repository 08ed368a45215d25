//! Records without schema block, for tables that the source database describes.

use rstest::rstest;

use super::*;
use crate::change::Column;
use crate::debezium::postgres;
use crate::debezium::{SourceColumn, SourceTypes, Unit, Wire};
use ColumnType as T;

fn options(mode: Mode) -> DecodeOptions {
    DecodeOptions { mode, infer_types: true, origin_columns: true, source: SourceTypes::Unasked, ..Default::default() }
}

/// `name type, ...` as in a CREATE TABLE, the way `pg_catalog` has it.
fn described(definitions: &str) -> Vec<SourceColumn> {
    let (mut depth, mut parts) = (0, vec![String::new()]);
    for c in definitions.chars() {
        depth += i32::from(c == '(') - i32::from(c == ')');
        match c {
            ',' if depth == 0 => parts.push(String::new()),
            c => parts.last_mut().unwrap().push(c),
        }
    }
    parts.iter().map(|part| part.trim()).filter(|part| !part.starts_with("PRIMARY KEY")).map(column).collect()
}

fn column(definition: &str) -> SourceColumn {
    let (name, sql) = match definition.strip_prefix('"') {
        Some(quoted) => quoted.split_once("\" ").unwrap(),
        None => definition.split_once(' ').unwrap(),
    };
    let end = [" PRIMARY KEY", " NOT NULL", " GENERATED"].iter().filter_map(|word| sql.find(word)).min();
    let sql = &sql[..end.unwrap_or(sql.len())];
    let sql = match sql {
        "posint" => "integer",
        "price" => "numeric(12,4)",
        other => other,
    };
    let (base, is_array) = (sql.trim_end_matches("[]"), sql.ends_with("[]"));
    let (word, arguments) = base.split_once('(').unwrap_or((base, ""));
    let numbers: Vec<i32> = arguments.trim_end_matches(')').split(',').filter_map(|n| n.parse().ok()).collect();
    let (type_name, modifier) = match (word, &numbers[..]) {
        ("numeric", []) => ("numeric", -1),
        ("numeric", [precision]) => ("numeric", (precision << 16) + 4),
        ("numeric", [precision, scale]) => ("numeric", ((precision << 16) | scale) + 4),
        ("bit", [length]) => ("bit", *length),
        ("bit varying", [length]) => ("varbit", *length),
        ("time" | "timestamp" | "timestamptz", [digits]) => (word, *digits),
        ("smallint", _) => ("int2", -1),
        ("integer" | "int", _) => ("int4", -1),
        ("bigint" | "bigserial", _) => ("int8", -1),
        ("real", _) => ("float4", -1),
        ("double precision", _) => ("float8", -1),
        ("boolean", _) => ("bool", -1),
        ("mood" | "addr_t", _) => ("", -1),
        (word, _) => (word, -1),
    };
    let (column_type, wire) = postgres::column_type(type_name, modifier, is_array);
    SourceColumn { name: name.to_owned(), column_type, wire }
}

/// From the capture's own statements.
fn of_capture(table: &str) -> Vec<SourceColumn> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/types_schema.sql");
    let sql = std::fs::read_to_string(path).unwrap();
    let begin = format!("CREATE TABLE {table} (");
    let from = sql.split_once(&begin).unwrap().1;
    let end = [");\n", ") PARTITION"].iter().filter_map(|end| from.find(end)).min();
    described(&from[..end.unwrap()])
}

/// Of the same capture with schemas everything is told by the records.
#[rstest]
#[case("all_types", "all_types")]
#[case("specials", "specials")]
#[case("toast_default", "toast_default")]
#[case("pk_composite", "pk_composite")]
#[case("ri_full", "ri_full")]
#[case("no_pk", "no_pk")]
#[case("snap_source", "snap_source")]
#[case("\"Mixed Case-Tbl\"", "Mixed_Case-Tbl")]
#[case("parted", "parted_eu")]
fn a_described_table_is_what_schemas_make_of_it(#[case] table: &str, #[case] topic: &str) {
    let topic = format!(".public.{topic}");
    let with = of_topic(fixture("types_default_schemas_true"), &topic);
    let without = of_topic(fixture("types_default_schemas_false"), &topic);
    for mode in [Mode::Append, Mode::Upsert] {
        if mode == Mode::Upsert && table == "no_pk" {
            continue;
        }
        let want = decode(mode, &with);
        let mut decoder = Decoder::new(options(mode));
        decoder.describe(of_capture(table)).unwrap();
        let seen = drive(&mut decoder, None, &without);
        assert_eq!(seen.table, want.table, "{topic}");
        assert_eq!(decoder.take_inferred(), [""; 0]);
        let reasons = |out: &Outcome| out.rejected.iter().map(|(at, r)| (*at, r.reason)).collect::<Vec<_>>();
        assert_eq!(reasons(&seen), reasons(&want), "{topic} {:?}", seen.rejected);
        assert_eq!((&seen.from, &seen.skipped), (&want.from, &want.skipped), "{topic}");
        assert!(!want.rows.is_empty());
        for (seen, want) in seen.rows.iter().zip(&want.rows) {
            for (column, cell) in want.cells.iter().filter(|(column, _)| !column.starts_with("_firn")) {
                // Two clocks: the snapshots of the two captures.
                if column != "updated" {
                    assert_eq!(seen.get(column), cell, "{topic} {column}");
                }
            }
        }
    }
}

fn create(after: &str) -> String {
    format!(r#"{{"before":null,"after":{after},"source":{{"db":"shop","schema":"public"}},"op":"c"}}"#)
}

fn push(decoder: &mut Decoder, key: &str, value: &str) -> Pushed {
    decoder.push(&Record {
        topic: "t",
        key: Some(key.as_bytes()),
        value: Some(value.as_bytes()).filter(|v| !v.is_empty()),
        ..Record::default()
    })
}

fn needs_source(database: &str) -> Pushed {
    Pushed::NeedsSource { database: Some(database.to_owned()) }
}

#[test]
fn the_database_is_asked_before_the_first_row_and_for_fields_that_it_did_not_have() {
    let mut decoder = Decoder::new(options(Mode::Upsert));
    // No rows: nobody is asked.
    assert!(matches!(push(&mut decoder, "{}", r#"{"ts_ms":1}"#), Pushed::Skipped(Skip::Heartbeat)));
    let key = r#"{"id":1}"#;
    let value = create(r#"{"id":1,"day":19782,"at":5,"none":null}"#);
    assert_eq!(push(&mut decoder, key, &value), needs_source("shop"));
    decoder.describe(described("id bigint, day date, at timestamp(3), none numeric(5,2), gone text")).unwrap();
    let Pushed::NeedsSchema(asked) = push(&mut decoder, key, &value) else { panic!() };
    let columns: Vec<String> = asked.columns.iter().map(|c| format!("{} {}", c.name, c.column_type)).collect();
    assert_eq!(columns[..4], ["id long", "day date", "at timestamp", "none decimal(5,2)"], "in the record's order");
    assert!(asked.columns[0].key);
    decoder.set_schema(&asked).unwrap();
    assert_eq!(push(&mut decoder, key, &value), Pushed::Row(Op::Create));
    // A new column: the database may have it by now.
    let newer = create(r#"{"id":1,"day":19782,"at":5,"none":null,"new":1,"odd":true}"#);
    assert_eq!(push(&mut decoder, key, &newer), needs_source("shop"));
    decoder
        .describe(described("id bigint, day date, at timestamp(3), none numeric(5,2), gone text, new date"))
        .unwrap();
    let Pushed::NeedsSchema(wider) = push(&mut decoder, key, &newer) else { panic!() };
    let batch = decoder.finish();
    let rows = rows_of(&batch.rows, &batch.ops);
    assert_eq!((rows[0].get("day"), rows[0].get("at")), (&Cell::Int(19782), &Cell::Int(5_000)));
    let types: Vec<&T> =
        wider.columns.iter().filter(|c| ["new", "odd"].contains(&c.name.as_str())).map(|c| &c.column_type).collect();
    assert_eq!(types, [&T::Date, &T::Boolean], "what the database does not know is inferred");
    assert_eq!(decoder.take_inferred(), ["odd boolean"]);
}

#[test]
fn fields_that_nobody_knows_are_asked_for_once() {
    let mut decoder = Decoder::new(DecodeOptions { infer_types: false, ..options(Mode::Append) });
    let value = create(r#"{"id":1,"odd":1}"#);
    assert_eq!(push(&mut decoder, "null", &value), needs_source("shop"));
    decoder.describe(described("id bigint")).unwrap();
    let Pushed::NeedsSchema(asked) = push(&mut decoder, "null", &value) else { panic!() };
    assert_eq!(asked.columns[0], Column::new("id", T::Long));
    decoder.set_schema(&asked).unwrap();
    assert_eq!(push(&mut decoder, "null", &value), needs_source("shop"));
    decoder.describe(described("id bigint")).unwrap();
    for _ in 0..3 {
        assert_eq!(push(&mut decoder, "null", &value), Pushed::Row(Op::Create));
    }
    assert_eq!(decoder.take_unknown_fields(), ["odd"]);
    decoder.seek_again();
    assert_eq!(push(&mut decoder, "null", &value), needs_source("shop"));
}

#[test]
fn a_table_that_the_database_does_not_have_is_inferred() {
    let mut decoder = Decoder::new(options(Mode::Upsert));
    decoder.describe(Vec::new()).unwrap();
    let Pushed::NeedsSchema(asked) = push(&mut decoder, r#"{"id":1}"#, &create(r#"{"id":1,"v":"a"}"#)) else {
        panic!()
    };
    assert_eq!(asked.columns[..2], [Column::key("id", T::Long), Column::new("v", T::String)]);
    assert_eq!(decoder.take_inferred(), ["id long", "v string"]);
}

#[test]
fn declared_types_and_those_of_the_table_go_before_the_databases() {
    let declared = vec![Column::new("n", T::String)];
    let new = || {
        let mut decoder = Decoder::new(DecodeOptions { declared: declared.clone(), ..options(Mode::Upsert) });
        decoder.describe(described("id integer, n date, d date, l date")).unwrap();
        decoder
    };
    let mut decoder = new();
    let value = create(r#"{"id":1,"n":5,"d":6,"l":7}"#);
    let Pushed::NeedsSchema(asked) = push(&mut decoder, r#"{"id":1}"#, &value) else { panic!() };
    let columns: Vec<String> = asked.columns.iter().map(|c| format!("{} {}", c.name, c.column_type)).collect();
    assert_eq!(columns[..4], ["n string", "id int", "d date", "l date"]);
    // A table that was made from values keeps its types.
    let mut decoder = new();
    let columns = vec![Column::key("id", T::Long), Column::new("n", T::String), Column::new("l", T::Long)];
    decoder.set_schema(&RowSchema { columns }).unwrap();
    let Pushed::NeedsSchema(asked) = push(&mut decoder, r#"{"id":1}"#, &value) else { panic!() };
    let columns: Vec<String> = asked.columns.iter().map(|c| format!("{} {}", c.name, c.column_type)).collect();
    assert_eq!(columns[..4], ["id long", "n string", "d date", "l long"]);
}

#[test]
fn encodings_of_the_configuration_go_before_what_debezium_does_by_default() {
    let wire = vec![("at".to_owned(), Wire::Counts(Unit::Nanos)), ("n".to_owned(), Wire::DecimalText)];
    let mut decoder = Decoder::new(DecodeOptions { wire, ..options(Mode::Append) });
    decoder.describe(described("at timestamp(3), n numeric(5,2), m numeric(50,1)")).unwrap();
    let value = create(r#"{"at":5000,"n":"1234","m":"FQ=="}"#);
    let Pushed::NeedsSchema(asked) = push(&mut decoder, "null", &value) else { panic!() };
    decoder.set_schema(&asked).unwrap();
    let rejected = push(&mut decoder, "null", &value);
    assert!(matches!(rejected, Pushed::Rejected(_) | Pushed::NeedsSource { .. }), "1234 is beyond numeric(5,2)");
    let value = value.replace("1234", "123");
    assert_eq!(push(&mut decoder, "null", &value), Pushed::Row(Op::Create));
    let batch = decoder.finish();
    let rows = rows_of(&batch.rows, &batch.ops);
    assert_eq!(
        (rows[0].get("at"), rows[0].get("n"), rows[0].get("m")),
        (&Cell::Int(5), &Cell::Int(12300), &text("2.1"))
    );
}

#[test]
fn a_value_that_does_not_fit_any_more_has_the_column_looked_up_and_widened() {
    let mut decoder = Decoder::new(options(Mode::Upsert));
    let before = described("id integer, n integer, d numeric(3,1)");
    decoder.describe(before.clone()).unwrap();
    let columns = vec![
        Column::key("id", T::Int),
        Column::new("n", T::Int),
        Column::new("d", T::Decimal { precision: 3, scale: 1 }),
    ];
    decoder.set_schema(&RowSchema { columns }).unwrap();
    let (key, value) = (r#"{"id":1}"#, create(r#"{"id":1,"n":5000000000,"d":"MDk="}"#));
    assert_eq!(push(&mut decoder, key, &value), needs_source("shop"));
    // As it was: the record is a bad one, and so are others without asking again.
    decoder.describe(before).unwrap();
    for _ in 0..2 {
        assert!(matches!(push(&mut decoder, key, &value), Pushed::Rejected(r) if r.reason == reason::BAD_VALUE));
    }
    decoder.seek_again();
    assert_eq!(push(&mut decoder, key, &value), needs_source("shop"));
    decoder.describe(described("id integer, n bigint, d numeric(6,1)")).unwrap();
    let Pushed::NeedsSchema(asked) = push(&mut decoder, key, &value) else { panic!() };
    let wide = [Column::new("n", T::Long), Column::new("d", T::Decimal { precision: 6, scale: 1 })];
    assert_eq!((&asked.columns[0], &asked.columns[1..3]), (&Column::key("id", T::Int), &wide[..]));
    decoder.set_schema(&asked).unwrap();
    assert_eq!(push(&mut decoder, key, &value), Pushed::Row(Op::Create));
}

#[rstest]
#[case::scale("v numeric(10,4)", T::Decimal { precision: 10, scale: 2 }, true)]
#[case::more_digits("v numeric(12,2)", T::Decimal { precision: 10, scale: 2 }, false)]
#[case::each_value_its_own_scale("v numeric", T::Decimal { precision: 10, scale: 2 }, false)]
#[case::money("v money", T::Decimal { precision: 19, scale: 2 }, false)]
#[case::money_of_other_scale("v money", T::Decimal { precision: 19, scale: 4 }, true)]
#[case::days_as_micros("v date", T::Timestamp, true)]
#[case::number_as_days("v bigint", T::Date, true)]
#[case::text_says_itself("v text", T::TimestampTz, false)]
#[case::by_value("v timestamp", T::Long, false)]
#[case::in_a_list("v numeric(10,4)[]", T::List(Box::new(T::Decimal { precision: 10, scale: 2 })), true)]
fn a_table_whose_values_could_be_misread_is_refused(
    #[case] source: &str,
    #[case] table: ColumnType,
    #[case] refused: bool,
) {
    let schema = RowSchema { columns: vec![Column::new("v", table.clone())] };
    for describe_first in [true, false] {
        let mut decoder = Decoder::new(options(Mode::Append));
        let outcome = match describe_first {
            true => decoder.describe(described(source)).and_then(|()| decoder.set_schema(&schema)),
            false => decoder.set_schema(&schema).and_then(|()| decoder.describe(described(source))),
        };
        assert_eq!(outcome.is_err(), refused, "{outcome:?}");
        assert!(outcome.err().is_none_or(|why| why.starts_with("column v: the table has") && why.contains("declare")));
    }
    let declared = schema.columns.clone();
    let mut decoder = Decoder::new(DecodeOptions { declared, ..options(Mode::Append) });
    decoder.set_schema(&schema).unwrap();
    decoder.describe(described(source)).unwrap();
}

#[test]
fn a_column_whose_values_are_written_another_way_from_now_on_is_refused() {
    let mut decoder = Decoder::new(options(Mode::Append));
    decoder.describe(described("a timestamp(3), n numeric(5,2)")).unwrap();
    decoder.describe(described("a timestamp(2), n numeric(7,2), new date")).unwrap();
    let why = decoder.describe(described("a timestamp, n numeric(7,2)")).unwrap_err();
    assert!(why.starts_with("column a was altered") && why.contains("encodings"), "{why}");
    let wire = vec![("a".to_owned(), Wire::Counts(Unit::Millis))];
    let mut decoder = Decoder::new(DecodeOptions { wire, ..options(Mode::Append) });
    decoder.describe(described("a timestamp(3)")).unwrap();
    decoder.describe(described("a timestamp")).unwrap();
}

#[test]
fn a_column_that_the_database_has_no_more_is_read_as_before_or_not_by_number() {
    let schema = RowSchema { columns: vec![Column::new("id", T::Int), Column::new("at", T::Timestamp)] };
    let number = create(r#"{"id":1,"at":5000}"#);
    let text = create(r#"{"id":1,"at":"1970-01-01T00:00:05"}"#);
    let dropped = || described("id integer");
    let mut decoder = Decoder::new(options(Mode::Append));
    decoder.set_schema(&schema).unwrap();
    for columns in [described("id integer, at timestamp(3)"), dropped(), Vec::new()] {
        decoder.describe(columns).unwrap();
        assert_eq!(push(&mut decoder, "null", &number), Pushed::Row(Op::Create));
    }
    let batch = decoder.finish();
    assert!(rows_of(&batch.rows, &batch.ops).iter().all(|row| row.get("at") == &Cell::Int(5_000_000)));
    // A process that begins after the drop can't know the unit.
    for columns in [dropped(), Vec::new()] {
        let mut decoder = Decoder::new(options(Mode::Append));
        decoder.describe(columns.clone()).unwrap();
        decoder.set_schema(&schema).unwrap();
        assert_eq!(push(&mut decoder, "null", &number), needs_source("shop"));
        decoder.describe(columns).unwrap();
        assert!(matches!(push(&mut decoder, "null", &number), Pushed::Rejected(r) if r.reason == reason::BAD_VALUE));
        assert_eq!(push(&mut decoder, "null", &text), Pushed::Row(Op::Create));
        drop(decoder.finish());
    }
    let wire = vec![("at".to_owned(), Wire::Counts(Unit::Millis))];
    let mut decoder = Decoder::new(DecodeOptions { wire, ..options(Mode::Append) });
    decoder.describe(dropped()).unwrap();
    decoder.set_schema(&schema).unwrap();
    assert_eq!(push(&mut decoder, "null", &number), Pushed::Row(Op::Create));
}

/// The key column counts milliseconds: read as microseconds, the tombstone would delete another row.
#[test]
fn a_tombstone_is_read_as_the_columns_are() {
    let table = RowSchema { columns: vec![Column::key("at", T::Timestamp)] };
    let mut decoder = Decoder::new(DecodeOptions { format: Format::Flattened, ..options(Mode::Upsert) });
    decoder.set_schema(&table).unwrap();
    assert_eq!(push(&mut decoder, r#"{"at":5}"#, ""), Pushed::NeedsSource { database: None });
    decoder.describe(described("at timestamp(3)")).unwrap();
    assert_eq!(push(&mut decoder, r#"{"at":5}"#, ""), Pushed::Row(Op::Delete));
    let batch = decoder.finish();
    assert_eq!(rows_of(&batch.rows, &batch.ops)[0].get("at"), &Cell::Int(5_000));
}

#[test]
fn records_with_a_schema_need_no_database() {
    let mut decoder = Decoder::new(options(Mode::Upsert));
    let records = of_topic(fixture("inventory_schemas_true"), ".customers");
    let out = drive(&mut decoder, None, &records);
    assert!(out.rejected.is_empty() && !out.rows.is_empty());
    assert_eq!(*decoder.source_types(), SourceTypes::Unasked);
}
