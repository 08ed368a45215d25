//! Values as text, in every type.

use super::*;
use arrow_array::builder::{ListBuilder, MapBuilder, StringBuilder};
use arrow_array::*;
use arrow_schema::{Field, Fields};
use rstest::rstest;
use std::sync::Arc;

fn text(array: &ArrayRef) -> String {
    let mut out = Vec::new();
    write(&plain(array).unwrap(), 0, &mut out);
    String::from_utf8(out).unwrap()
}

fn json(array: &ArrayRef) -> String {
    let mut out = Vec::new();
    write_json(array, 0, &mut out);
    let text = String::from_utf8(out).unwrap();
    serde_json::from_str::<serde_json::Value>(&text).unwrap();
    text
}

fn micros(v: i64, zone: Option<&str>) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from(vec![v]).with_timezone_opt(zone.map(str::to_owned)))
}

const ID: [u8; 16] = [0x12, 0x3e, 0x45, 0x67, 0xe8, 0x9b, 0x12, 0xd3, 0xa4, 0x56, 0x42, 0x66, 0x14, 0x17, 0x40, 0x00];

#[rstest]
#[case(Arc::new(Int64Array::from(vec![i64::MIN])), "-9223372036854775808", "-9223372036854775808")]
#[case(Arc::new(UInt64Array::from(vec![u64::MAX])), "18446744073709551615", "18446744073709551615")]
#[case(Arc::new(Int8Array::from(vec![-7])), "-7", "-7")]
#[case(Arc::new(BooleanArray::from(vec![true])), "true", "true")]
#[case(Arc::new(Float64Array::from(vec![50.0])), "50", "50")]
#[case(Arc::new(Float64Array::from(vec![0.1 + 0.2])), "0.30000000000000004", "0.30000000000000004")]
#[case(Arc::new(Float64Array::from(vec![1e300])), "1e300", "1e300")]
#[case(Arc::new(Float64Array::from(vec![-2.5e-9])), "-2.5e-9", "-2.5e-9")]
#[case(Arc::new(Float64Array::from(vec![f64::NAN])), "NaN", "\"NaN\"")]
#[case(Arc::new(Float64Array::from(vec![f64::NEG_INFINITY])), "-Infinity", "\"-Infinity\"")]
#[case(Arc::new(Float32Array::from(vec![0.1_f32])), "0.1", "0.1")]
#[case(Arc::new(Decimal128Array::from(vec![-5]).with_precision_and_scale(10, 2).unwrap()), "-0.05", "-0.05")]
#[case(Arc::new(StringArray::from(vec!["a \"b\"\n\u{1F600}"])), "a \"b\"\n\u{1F600}", "\"a \\\"b\\\"\\n\u{1F600}\"")]
#[case(Arc::new(LargeStringArray::from(vec!["x"])), "x", "\"x\"")]
#[case(Arc::new(StringViewArray::from(vec!["view"])), "view", "\"view\"")]
#[case(Arc::new(BinaryArray::from(vec![&[0_u8, 255][..]])), "AP8=", "\"AP8=\"")]
#[case(Arc::new(LargeBinaryArray::from(vec![&b""[..]])), "", "\"\"")]
#[case(Arc::new(FixedSizeBinaryArray::try_from_iter([ID].into_iter()).unwrap()), "123e4567-e89b-12d3-a456-426614174000", "\"123e4567-e89b-12d3-a456-426614174000\"")]
#[case(Arc::new(FixedSizeBinaryArray::try_from_iter([[1_u8, 2]].into_iter()).unwrap()), "AQI=", "\"AQI=\"")]
#[case(Arc::new(Date32Array::from(vec![-1])), "1969-12-31", "\"1969-12-31\"")]
#[case(Arc::new(Date32Array::from(vec![i32::MAX])), "2147483647", "\"2147483647\"")]
#[case(Arc::new(Time64MicrosecondArray::from(vec![45_296_000_000])), "12:34:56", "\"12:34:56\"")]
#[case(Arc::new(Time64MicrosecondArray::from(vec![45_296_000_001])), "12:34:56.000001", "\"12:34:56.000001\"")]
#[case(Arc::new(Time32MillisecondArray::from(vec![500])), "00:00:00.500", "\"00:00:00.500\"")]
#[case(micros(1_706_700_896_000_000, Some("+00:00")), "2024-01-31T11:34:56Z", "\"2024-01-31T11:34:56Z\"")]
#[case(micros(1_706_700_896_789_000, Some("+00:00")), "2024-01-31T11:34:56.789Z", "\"2024-01-31T11:34:56.789Z\"")]
#[case(
    micros(1_706_700_896_789_001, Some("Europe/Berlin")),
    "2024-01-31T11:34:56.789001Z",
    "\"2024-01-31T11:34:56.789001Z\""
)]
#[case(micros(-1, None), "1969-12-31T23:59:59.999999", "\"1969-12-31T23:59:59.999999\"")]
#[case(micros(i64::MAX, None), "9223372036854775807", "\"9223372036854775807\"")]
#[case(Arc::new(TimestampMillisecondArray::from(vec![1])), "1970-01-01T00:00:00.001", "\"1970-01-01T00:00:00.001\"")]
#[case(Arc::new(DictionaryArray::<arrow_array::types::Int32Type>::from_iter(["video"])), "video", "\"video\"")]
fn values_have_one_text(#[case] array: ArrayRef, #[case] want: &str, #[case] want_json: &str) {
    assert_eq!(text(&array), want);
    assert_eq!(json(&array), want_json);
}

#[test]
fn nested_values_are_json() {
    let mut list = ListBuilder::new(StringBuilder::new());
    list.append_value([Some("a"), None]);
    let list: ArrayRef = Arc::new(list.finish());
    assert_eq!((text(&list), json(&list)), ("[\"a\",null]".to_owned(), "[\"a\",null]".to_owned()));

    let ids: ArrayRef = Arc::new(Int64Array::from(vec![7]));
    let fields = Fields::from(vec![
        Field::new("n", ids.data_type().clone(), true),
        Field::new("tags", list.data_type().clone(), true),
    ]);
    let both: ArrayRef = Arc::new(StructArray::new(fields, vec![ids, list], None));
    assert_eq!(text(&both), "{\"n\":7,\"tags\":[\"a\",null]}");

    let mut map = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
    map.keys().append_value("k\"");
    map.values().append_value("v");
    map.append(true).unwrap();
    let map: ArrayRef = Arc::new(map.finish());
    assert_eq!(json(&map), "{\"k\\\"\":\"v\"}");
}

#[test]
fn a_null_is_null_in_json() {
    let array: ArrayRef = Arc::new(Int64Array::from(vec![None]));
    assert_eq!(json(&array), "null");
    let array: ArrayRef = Arc::new(NullArray::new(1));
    assert!(is_null(&array, 0));
    assert_eq!(json(&array), "null");
}
