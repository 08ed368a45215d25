//! Types of the table that the captures do not hold, one value each.

use rstest::rstest;

use super::*;
use crate::change::Column;
use ColumnType as T;

/// Decodes one value of a column with this Connect schema; the column's type and the value.
fn decode_one(schema: &str, value: &str) -> Result<(ColumnType, Cell), Reject> {
    let record = format!(
        r#"{{"schema":{{"type":"struct","fields":[{{"type":"struct","fields":[{},"field":"v"}}],"field":"after"}}]}},"payload":{{"after":{{"v":{value}}},"op":"r"}}}}"#,
        &schema[..schema.len() - 1]
    );
    one(Decoder::new(DecodeOptions::default()), &record)
}

/// Decodes one value of a record without schema block into a column of this type.
fn decode_bare(column_type: T, value: &str) -> Result<Cell, Reject> {
    let mut decoder = Decoder::new(DecodeOptions::default());
    decoder.set_schema(&RowSchema { columns: vec![Column::new("v", column_type)] }).unwrap();
    one(decoder, &format!(r#"{{"after":{{"v":{value}}},"op":"r"}}"#)).map(|(_, cell)| cell)
}

fn one(mut decoder: Decoder, value: &str) -> Result<(ColumnType, Cell), Reject> {
    let record = Record {
        topic: "t",
        partition: 0,
        offset: 0,
        timestamp_ms: None,
        key: None,
        value: Some(value.as_bytes()),
        ..Record::default()
    };
    let mut pushed = decoder.push(&record);
    let mut column_type = T::String;
    if let Pushed::NeedsSchema(asked) = &pushed {
        column_type = asked.columns[0].column_type.clone();
        decoder.set_schema(asked).unwrap();
        pushed = decoder.push(&record);
    }
    match pushed {
        Pushed::Row(Op::Read) => {
            let batch = decoder.finish();
            Ok((column_type, rows_of(&batch.rows, &batch.ops)[0].get("v").clone()))
        }
        Pushed::Rejected(reject) => Err(reject),
        other => panic!("{other:?}"),
    }
}

fn named(kind: &str, name: &str) -> String {
    format!(r#"{{"type":"{kind}","name":"{name}"}}"#)
}

#[rstest]
#[case("int8", "", "-128", T::Int, Cell::Int(-128))]
#[case("int32", "io.debezium.time.Year", "2024", T::Int, Cell::Int(2024))]
#[case("int32", "org.apache.kafka.connect.data.Date", "19782", T::Date, Cell::Int(19782))]
#[case("int32", "org.apache.kafka.connect.data.Time", "45296789", T::Time, Cell::Int(45_296_789_000))]
#[case("int64", "io.debezium.time.NanoTime", "45296789123456", T::Time, Cell::Int(45_296_789_123))]
#[case(
    "int64",
    "org.apache.kafka.connect.data.Timestamp",
    "1709210096123",
    T::Timestamp,
    Cell::Int(1_709_210_096_123_000)
)]
#[case("int64", "org.apache.kafka.connect.data.Timestamp", "9223372036825200000", T::Timestamp, Cell::Null)]
#[case("int64", "io.debezium.time.NanoTimestamp", "-1", T::Timestamp, Cell::Int(-1))]
#[case("int64", "io.debezium.time.NanoTimestamp", "9223372036854775807", T::Timestamp, Cell::Null)]
#[case("string", "io.debezium.time.IsoDate", "\"2024-02-29Z\"", T::Date, Cell::Int(19782))]
#[case("string", "io.debezium.time.IsoTime", "\"12:34:56.789Z\"", T::Time, Cell::Int(45_296_789_000))]
#[case(
    "string",
    "io.debezium.time.IsoTimestamp",
    "\"2024-02-29T12:34:56.123456Z\"",
    T::Timestamp,
    Cell::Int(1_709_210_096_123_456)
)]
#[case("string", "io.debezium.time.IsoTimestamp", "\"+292278994-08-16T23:00:00Z\"", T::Timestamp, Cell::Null)]
#[case("string", "io.debezium.time.ZonedTime", "\"04:41:12.131415Z\"", T::String, Cell::Text("04:41:12.131415Z".into()))]
#[case("string", "io.debezium.data.EnumSet", "\"a,b\"", T::String, Cell::Text("a,b".into()))]
#[case("int64", "io.debezium.time.MicroDuration", "37091106789000", T::Long, Cell::Int(37_091_106_789_000))]
#[case("bytes", "", "\"AP8=\"", T::Binary, Cell::Bytes(vec![0, 255]))]
#[case("float", "", "\"-Infinity\"", T::Float, Cell::Float(f64::NEG_INFINITY.to_bits()))]
#[case("surprise", "", "{\"a\":[1, 2]}", T::String, Cell::Text("{\"a\":[1, 2]}".into()))]
fn logical_types_become_their_column(
    #[case] kind: &str,
    #[case] name: &str,
    #[case] value: &str,
    #[case] column_type: T,
    #[case] want: Cell,
) {
    assert_eq!(decode_one(&named(kind, name), value).unwrap(), (column_type, want));
}

#[rstest]
#[case("float", "", "1e39")]
#[case("double", "", "1e999")]
#[case("double", "", "\"nan\"")]
#[case("int16", "", "true")]
#[case("bytes", "", "\"not base64\"")]
#[case("string", "io.debezium.data.Uuid", "\"123\"")]
#[case("int64", "io.debezium.time.Timestamp", "9223372036854775806")]
#[case("int32", "io.debezium.time.Date", "5000000000")]
#[case("int64", "io.debezium.time.MicroTime", "86400000000")]
#[case("string", "io.debezium.time.ZonedTimestamp", "\"2024-02-29\"")]
fn values_beyond_their_type_are_rejected(#[case] kind: &str, #[case] name: &str, #[case] value: &str) {
    let reject = decode_one(&named(kind, name), value).unwrap_err();
    assert_eq!(reject.reason, reason::BAD_VALUE);
    assert!(reject.detail.starts_with("column v: "), "{reject}");
}

#[test]
fn maps_with_text_keys_are_maps_and_others_their_json() {
    let map = |keys: &str| {
        format!(r#"{{"type":"map","keys":{{"type":"{keys}"}},"values":{{"type":"string","optional":true}}}}"#)
    };
    let (column_type, got) = decode_one(&map("string"), r#"{"a":"1","b c":null}"#).unwrap();
    assert_eq!(column_type, T::Map(Box::new(T::String)));
    assert_eq!(got, Cell::Map(vec![("a".into(), text("1")), ("b c".into(), Cell::Null)]));
    assert!(decode_one(&map("string"), r#"{"a":"1","a":"2"}"#).is_err());
    assert_eq!(decode_one(&map("int32"), "[[1,\"a\"]]").unwrap(), (T::String, text("[[1,\"a\"]]")));
}

#[test]
fn decimals_of_38_digits_are_decimals_and_larger_ones_text() {
    let decimal = |precision: &str| {
        format!(
            r#"{{"type":"bytes","name":"org.apache.kafka.connect.data.Decimal","parameters":{{"scale":"2","connect.decimal.precision":"{precision}"}}}}"#
        )
    };
    let (column_type, got) = decode_one(&decimal("38"), "\"AQ==\"").unwrap();
    assert_eq!((column_type, got), (T::Decimal { precision: 38, scale: 2 }, Cell::Int(1)));
    assert_eq!(decode_one(&decimal("39"), "\"AQ==\"").unwrap(), (T::String, text("0.01")));
    assert!(decode_one(&decimal("2"), "\"AQA=\"").unwrap_err().detail.contains("2.56 does not fit decimal(2,2)"));
    // As the converter writes them with decimal.format=NUMERIC.
    assert_eq!(decode_one(&decimal("38"), "-12.5").unwrap().1, Cell::Int(-1250));
    assert_eq!(decode_one(&decimal("39"), "12.50").unwrap(), (T::String, text("12.50")));
    assert!(decode_one(&decimal("2"), "2.5").unwrap_err().detail.contains("does not fit decimal(2,2)"));
}

#[test]
fn a_written_decimal_is_refused_where_its_column_would_be_read_as_base64() {
    let decimal = || T::Decimal { precision: 10, scale: 2 };
    for value in ["\"12.50\"", "\"-1250\""] {
        let reject = decode_bare(decimal(), value).unwrap_err();
        assert!(reject.reason == reason::BAD_VALUE && reject.detail.contains("encodings"), "{reject}");
    }
    let declared = vec![Column::new("v", decimal())];
    let wire = vec![("v".to_owned(), Wire::DecimalText)];
    let record = r#"{"after":{"v":"1250"},"op":"r"}"#;
    let got = one(Decoder::new(DecodeOptions { declared, wire, ..DecodeOptions::default() }), record);
    assert_eq!(got.unwrap().1, Cell::Int(125_000));
}

#[rstest]
#[case(T::Boolean, "1", Cell::Boolean(true))]
#[case(T::Date, "19782", Cell::Int(19782))]
#[case(T::Date, "\"2024-02-29\"", Cell::Int(19782))]
#[case(T::Time, "1", Cell::Int(1))]
#[case(T::Time, "\"00:00:01\"", Cell::Int(1_000_000))]
#[case(T::Timestamp, "1709210096123456", Cell::Int(1_709_210_096_123_456))]
#[case(T::Timestamp, "\"2024-02-29T12:34:56.123456\"", Cell::Int(1_709_210_096_123_456))]
#[case(T::TimestampTz, "\"2024-02-29T12:34:56+00:00\"", Cell::Int(1_709_210_096_000_000))]
#[case(T::Decimal { precision: 10, scale: 2 }, "\"AJY=\"", Cell::Int(150))]
#[case(T::Decimal { precision: 10, scale: 2 }, "1.5", Cell::Int(150))]
#[case(T::Decimal { precision: 10, scale: 2 }, "{\"scale\":1,\"value\":\"Dw==\"}", Cell::Int(150))]
#[case(T::Decimal { precision: 10, scale: 2 }, "\"NAN\"", Cell::Null)]
#[case(T::String, "{\"scale\":1,\"value\":\"Dw==\"}", Cell::Text("1.5".into()))]
#[case(T::String, "{\"scale\":1}", Cell::Text("{\"scale\":1}".into()))]
#[case(T::String, "12", Cell::Text("12".into()))]
#[case(T::Binary, "\"AP8=\"", Cell::Bytes(vec![0, 255]))]
#[case(T::Double, "1", Cell::Float(1f64.to_bits()))]
fn without_schema_block_the_columns_type_says_how_to_read(
    #[case] column_type: T,
    #[case] value: &str,
    #[case] want: Cell,
) {
    assert_eq!(decode_bare(column_type, value).unwrap(), want);
}

#[test]
fn bytes_are_read_as_their_mode_writes_them() {
    let driven = |wire: Option<Wire>, value: &str| {
        let declared = vec![Column::new("v", T::Binary)];
        let wire: Vec<_> = wire.map(|wire| ("v".to_owned(), wire)).into_iter().collect();
        let decoder = || {
            Decoder::new(DecodeOptions { declared: declared.clone(), wire: wire.clone(), ..DecodeOptions::default() })
        };
        let after = format!(r#"{{"after":{{"v":"{value}"}},"op":"r"}}"#);
        let block = r#"{"type":"struct","fields":[{"type":"struct","fields":[{"type":"string","field":"v"}],"field":"after"}]}"#;
        let bare = one(decoder(), &after).map(|(_, cell)| cell).map_err(|r| r.reason);
        let with = one(decoder(), &format!(r#"{{"schema":{block},"payload":{after}}}"#))
            .map(|(_, cell)| cell)
            .map_err(|r| r.reason);
        assert_eq!(bare, with, "{value}");
        bare
    };
    assert_eq!(driven(None, "+/8="), Ok(Cell::Bytes(vec![0xfb, 0xff])));
    assert_eq!(driven(None, "-_8="), Ok(Cell::Bytes(vec![0xfb, 0xff])));
    assert_eq!(driven(Some(Wire::Hex), "c0FFee"), Ok(Cell::Bytes(vec![0xc0, 0xff, 0xee])));
    assert_eq!(driven(Some(Wire::Hex), ""), Ok(Cell::Bytes(vec![])));
    assert_eq!(driven(Some(Wire::Hex), "c0f"), Err(reason::BAD_VALUE));
    assert_eq!(driven(Some(Wire::Hex), "xx"), Err(reason::BAD_VALUE));
    // Also valid base64, and read as that: only the configuration can tell.
    assert_eq!(driven(None, "c0ffee00"), Ok(Cell::Bytes(vec![0x73, 0x47, 0xdf, 0x79, 0xed, 0x34])));
}

#[rstest]
#[case("12.5", Ok(12.5))]
#[case("NAN", Ok(f64::NAN))]
#[case("POSITIVE_INFINITY", Ok(f64::INFINITY))]
#[case("NEGATIVE_INFINITY", Ok(f64::NEG_INFINITY))]
#[case("1e999", Err(reason::BAD_VALUE))]
#[case("x", Err(reason::BAD_VALUE))]
fn a_decimal_written_as_text_may_be_declared_double(#[case] value: &str, #[case] want: Result<f64, &str>) {
    let declared = vec![Column::new("v", T::Double)];
    let schema = r#"{"type":"string"}"#;
    let record = format!(
        r#"{{"schema":{{"type":"struct","fields":[{{"type":"struct","fields":[{},"field":"v"}}],"field":"after"}}]}},"payload":{{"after":{{"v":"{value}"}},"op":"r"}}}}"#,
        &schema[..schema.len() - 1]
    );
    let got = one(Decoder::new(DecodeOptions { declared, ..DecodeOptions::default() }), &record);
    assert_eq!(got.map(|(_, cell)| cell).map_err(|r| r.reason), want.map(|v| Cell::Float(v.to_bits())));
}
