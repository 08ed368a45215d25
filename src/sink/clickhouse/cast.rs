//! The values of a column, as its ClickHouse type takes them. A value that does not fit is named by its row.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Float64Type, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType,
};
use arrow_array::{
    Array, ArrayRef, BooleanArray, FixedSizeBinaryArray, Scalar, StringArray, StructArray, UInt32Array,
    builder::FixedSizeBinaryBuilder, new_empty_array, new_null_array,
};
use arrow_cast::{
    CastOptions, can_cast_types, cast_with_options,
    display::{ArrayFormatter, FormatOptions},
};
use arrow_schema::{DataType, TimeUnit};

use super::types::{bare, parts, takes_null, wire};
use crate::sink::RefusedRow;

const STRICT: CastOptions<'static> = CastOptions { safe: false, format_options: FormatOptions::new() };
const LENIENT: CastOptions<'static> = CastOptions { safe: true, format_options: FormatOptions::new() };

/// Whether values of one type can be sent to a column of the other at all. What only ClickHouse converts is tried.
pub(super) fn can_send(from: &DataType, to: &str) -> bool {
    let Some(wire) = wire(to) else { return true };
    match (from, &wire) {
        (DataType::Null, _) => true,
        (DataType::FixedSizeBinary(16), DataType::Utf8) => true,
        (from, DataType::FixedSizeBinary(16)) => *from == wire || is_text(from),
        (from, DataType::Utf8) => is_bytes(from) || !from.is_nested() && can_cast_types(from, &wire),
        // Numbers are no moments: in which unit would they count?
        (from, DataType::Timestamp(_, _) | DataType::Date32) => {
            is_text(from) || from.is_temporal() && can_cast_types(from, &wire)
        }
        (from, to) => !(from.is_temporal() && to.is_numeric()) && can_cast_types(from, to),
    }
}

fn is_text(of: &DataType) -> bool {
    matches!(of, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

fn is_bytes(of: &DataType) -> bool {
    matches!(of, DataType::Binary | DataType::LargeBinary | DataType::BinaryView)
}

/// `may_be_null` where the column has a default that a NULL stands for.
///
/// # Errors
/// The rows whose value the column `name` can't take.
pub(super) fn to_wire(name: &str, values: &ArrayRef, to: &str, may_be_null: bool) -> Result<ArrayRef, Vec<RefusedRow>> {
    let values = without_null_lists(values);
    if !may_be_null && !takes_null(to) && values.null_count() > 0 && !matches!(values.data_type(), DataType::Struct(_))
    {
        let nulls = (0..values.len()).filter(|row| values.is_null(*row));
        let detail = format!("column `{name}`: NULL does not fit {to}");
        return Err(nulls.map(|row| RefusedRow { row, detail: detail.clone() }).collect());
    }
    let sent = match wire(to) {
        Some(wire) => convert(&values, &wire),
        None => match texts_that_fit(&values, to) {
            Some(texts) => texts,
            None => return Ok(values),
        },
    };
    let out_of_range = |row: usize| sent.is_valid(row) && !in_range(&sent, row, to);
    let refused: Vec<RefusedRow> = (0..values.len())
        .filter(|row| values.is_valid(*row) && sent.is_null(*row) || out_of_range(*row))
        .map(|row| RefusedRow { row, detail: format!("column `{name}`: {} does not fit {to}", shown(&values, row)) })
        .collect();
    if refused.is_empty() { Ok(sent) } else { Err(refused) }
}

/// A value that can't be converted is null.
fn convert(values: &ArrayRef, wire: &DataType) -> ArrayRef {
    if values.data_type() == wire {
        return values.clone();
    }
    match (values.data_type(), wire) {
        (DataType::Null, wire) => new_null_array(wire, values.len()),
        (DataType::FixedSizeBinary(16), DataType::Utf8) => uuid_texts(values.as_fixed_size_binary()),
        (from, DataType::Utf8) if is_bytes(from) => values.clone(),
        (from, DataType::FixedSizeBinary(16)) if is_text(from) => uuids(values),
        (from, wire) if from.is_floating() && wire.is_integer() => whole(values, wire),
        _ => match cast_with_options(values, wire, &STRICT) {
            Ok(sent) => sent,
            Err(_) if values.data_type().is_nested() => one_by_one(values, wire),
            Err(_) => cast_with_options(values, wire, &LENIENT).unwrap_or_else(|_| new_null_array(wire, values.len())),
        },
    }
}

/// A cast would drop what stands behind the point.
fn whole(values: &ArrayRef, wire: &DataType) -> ArrayRef {
    let whole = || {
        let sent = cast_with_options(values, wire, &LENIENT)?;
        let (back, values) = (
            cast_with_options(&sent, &DataType::Float64, &LENIENT)?,
            cast_with_options(values, &DataType::Float64, &LENIENT)?,
        );
        let (back, values) = (back.as_primitive::<Float64Type>(), values.as_primitive::<Float64Type>());
        let changed = BooleanArray::from_iter(back.iter().zip(values).map(|(back, value)| Some(back != value)));
        arrow_select::nullif::nullif(&sent, &changed)
    };
    whole().unwrap_or_else(|_| new_null_array(wire, values.len()))
}

/// Types that Arrow does not have are sent as text, if they are known here. ClickHouse makes NULL of a text that is none of theirs, or any
/// number, without a word.
fn texts_that_fit(values: &ArrayRef, to: &str) -> Option<ArrayRef> {
    let (base, inner) = parts(bare(to));
    let length = inner.parse::<usize>().unwrap_or(0);
    let fits: Box<dyn Fn(&str) -> bool> = match base {
        "Int128" => Box::new(|text| text.parse::<i128>().is_ok()),
        "UInt128" => Box::new(|text| text.parse::<u128>().is_ok()),
        "Int256" => Box::new(|text| digits(text.strip_prefix('-').unwrap_or(text))),
        "UInt256" => Box::new(digits),
        "IPv4" => Box::new(|text| text.parse::<std::net::Ipv4Addr>().is_ok()),
        "IPv6" => Box::new(|text| text.parse::<std::net::IpAddr>().is_ok()),
        "FixedString" => Box::new(move |text| text.len() <= length),
        _ => return None,
    };
    if base == "FixedString" && !is_text(values.data_type()) {
        return None;
    }
    let texts = match cast_with_options(values, &DataType::Utf8, &LENIENT) {
        Ok(texts) => texts,
        Err(_) => new_null_array(&DataType::Utf8, values.len()),
    };
    Some(Arc::new(texts.as_string::<i32>().iter().map(|text| text.filter(|text| fits(text))).collect::<StringArray>()))
}

/// 76 digits are less than 2^255.
fn digits(text: &str) -> bool {
    (1..=76).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit())
}

/// A lenient cast makes nulls of elements, not of their list; a strict one looks at elements beyond a slice too.
fn one_by_one(values: &ArrayRef, wire: &DataType) -> ArrayRef {
    let one = |row: u32| {
        let alone = arrow_select::take::take(values, &UInt32Array::from(vec![row]), None)?;
        cast_with_options(&alone, wire, &STRICT)
    };
    let rows: Vec<ArrayRef> =
        (0..values.len() as u32).map(|row| one(row).unwrap_or_else(|_| new_null_array(wire, 1))).collect();
    let rows: Vec<&dyn Array> = rows.iter().map(AsRef::as_ref).collect();
    arrow_select::concat::concat(&rows).unwrap_or_else(|_| new_null_array(wire, values.len()))
}

fn uuid_texts(values: &FixedSizeBinaryArray) -> ArrayRef {
    let text = |bytes: Option<&[u8]>| uuid::Uuid::from_slice(bytes?).ok().map(|uuid| uuid.to_string());
    Arc::new(values.iter().map(text).collect::<StringArray>())
}

fn uuids(values: &ArrayRef) -> ArrayRef {
    let Ok(texts) = cast_with_options(values, &DataType::Utf8, &LENIENT) else {
        return new_null_array(&DataType::FixedSizeBinary(16), values.len());
    };
    let mut uuids = FixedSizeBinaryBuilder::with_capacity(values.len(), 16);
    for text in texts.as_string::<i32>() {
        match text.and_then(|text| uuid::Uuid::parse_str(text).ok()) {
            // Of 16 bytes, as the builder is.
            Some(uuid) if uuids.append_value(uuid.as_bytes()).is_ok() => {}
            _ => uuids.append_null(),
        }
    }
    Arc::new(uuids.finish())
}

/// ClickHouse has arrays, maps and tuples without NULL: a list that is NULL is sent empty, a struct with NULL in each field.
fn without_null_lists(values: &ArrayRef) -> ArrayRef {
    let of = values.data_type();
    if let Some(values) = values.as_struct_opt().filter(|values| values.null_count() > 0) {
        return Arc::new(without_null(values));
    }
    if values.null_count() == 0 || !matches!(of, DataType::List(_) | DataType::LargeList(_) | DataType::Map(_, _)) {
        return values.clone();
    }
    let valid = BooleanArray::from_iter((0..values.len()).map(|row| Some(values.is_valid(row))));
    let empty = match of {
        DataType::Map(entries, sorted) => {
            let none = new_empty_array(entries.data_type());
            let offsets = arrow_buffer::OffsetBuffer::from_lengths([0]);
            let map = arrow_array::MapArray::try_new(entries.clone(), offsets, none.as_struct().clone(), None, *sorted);
            map.map(|map| Arc::new(map) as ArrayRef)
        }
        DataType::List(element) => {
            let offsets = arrow_buffer::OffsetBuffer::from_lengths([0]);
            let list =
                arrow_array::ListArray::try_new(element.clone(), offsets, new_empty_array(element.data_type()), None);
            list.map(|list| Arc::new(list) as ArrayRef)
        }
        _ => Ok(new_null_array(of, 1)),
    };
    empty
        .and_then(|empty| arrow_select::zip::zip(&valid, values, &Scalar::new(empty)))
        .unwrap_or_else(|_| values.clone())
}

fn without_null(values: &StructArray) -> StructArray {
    let null = BooleanArray::from_iter((0..values.len()).map(|row| Some(values.is_null(row))));
    let fields = values.fields().iter().zip(values.columns());
    let fields = fields.map(|(field, values)| match field.is_nullable() {
        true => arrow_select::nullif::nullif(values, &null).unwrap_or_else(|_| values.clone()),
        false => values.clone(),
    });
    let fields: Vec<ArrayRef> = fields.map(|values| without_null_lists(&values)).collect();
    StructArray::try_new(values.fields().clone(), fields, None).unwrap_or_else(|_| values.clone())
}

/// ClickHouse's types of dates and times hold less than Arrow's, and wrap around.
fn in_range(sent: &ArrayRef, row: usize, to: &str) -> bool {
    const SECONDS_1900: i64 = -2_208_988_800;
    const SECONDS_2300: i64 = 10_413_792_000;
    match parts(bare(to)).0 {
        "Date" => (0..=65_535).contains(&sent.as_primitive::<Date32Type>().value(row)),
        "Date32" => (-25_567..=120_529).contains(&sent.as_primitive::<Date32Type>().value(row)),
        "DateTime" => u32::try_from(sent.as_primitive::<TimestampSecondType>().value(row)).is_ok(),
        "DateTime64" => {
            let DataType::Timestamp(unit, _) = sent.data_type() else { return true };
            let (value, unit) = match unit {
                TimeUnit::Second => (sent.as_primitive::<TimestampSecondType>().value(row), 1),
                TimeUnit::Millisecond => (sent.as_primitive::<TimestampMillisecondType>().value(row), 1_000),
                TimeUnit::Microsecond => (sent.as_primitive::<TimestampMicrosecondType>().value(row), 1_000_000),
                TimeUnit::Nanosecond => (sent.as_primitive::<TimestampNanosecondType>().value(row), 1_000_000_000),
            };
            (SECONDS_1900..SECONDS_2300).contains(&value.div_euclid(unit))
        }
        _ => true,
    }
}

fn shown(values: &ArrayRef, row: usize) -> String {
    const LONGEST: usize = 100;
    let options = FormatOptions::new();
    let text = ArrayFormatter::try_new(values, &options).map(|f| f.value(row).to_string()).unwrap_or_default();
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("`{}...`", &text[..end]),
        None => format!("`{text}`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{
        Date32Array, Decimal128Array, Float64Array, Int32Array, Int64Array, ListArray, TimestampMicrosecondArray,
    };
    use rstest::rstest;

    fn texts(values: &[Option<&str>]) -> ArrayRef {
        Arc::new(StringArray::from(values.to_vec()))
    }

    fn moments(values: &[i64]) -> ArrayRef {
        Arc::new(TimestampMicrosecondArray::from(values.to_vec()).with_timezone("+00:00"))
    }

    const UUID: &str = "61f0c404-5cb3-11e7-907b-a6006ad3dba0";

    #[rstest]
    #[case::narrowed(Arc::new(Int64Array::from(vec![1, 1 << 31, -1])) as ArrayRef, "Int32", &[1])]
    #[case::without_a_sign(Arc::new(Int64Array::from(vec![1, 1 << 31, -1])) as ArrayRef, "UInt64", &[2])]
    #[case::behind_the_point(Arc::new(Float64Array::from(vec![1.0, 1.5, f64::NAN])) as ArrayRef, "Int32", &[1, 2])]
    #[case::too_long(Arc::new(Decimal128Array::from(vec![1, 100_000]).with_precision_and_scale(10, 2).unwrap()) as ArrayRef, "Decimal(4, 2)", &[1])]
    #[case::no_number(texts(&[Some("1"), Some("one"), None]), "Nullable(UInt8)", &[1])]
    #[case::wide(texts(&[Some("170141183460469231731687303715884105728"), Some("-1"), Some("none")]), "Int128", &[0, 2])]
    #[case::wider(texts(&[Some("170141183460469231731687303715884105728"), Some("-1"), Some("none")]), "UInt256", &[1, 2])]
    #[case::longer(texts(&[Some("abcd"), Some("abcde")]), "Nullable(FixedString(4))", &[1])]
    #[case::no_address(texts(&[Some("10.0.0.1"), Some("10.0.0"), Some("::1")]), "Nullable(IPv4)", &[1, 2])]
    #[case::no_address_of_6(texts(&[Some("10.0.0.1"), Some("10.0.0"), Some("::1")]), "IPv6", &[1])]
    #[case::no_uuid(texts(&[Some(UUID), Some("61f0"), None]), "Nullable(UUID)", &[1])]
    #[case::no_moment(texts(&[Some("2024-01-01T00:00:00.5Z"), Some("2024-01-01 00:00:00"), Some("now")]), "DateTime64(3)", &[2])]
    #[case::null(texts(&[Some("a"), None]), "LowCardinality(String)", &[1])]
    #[case::null_is_taken(texts(&[Some("a"), None]), "LowCardinality(Nullable(String))", &[])]
    #[case::before_the_first_second(moments(&[0, -1_000_000, 4_294_967_296_000_000]), "DateTime", &[1, 2])]
    #[case::after_the_last_year(moments(&[0, 253_402_300_799_000_000]), "DateTime64(6, 'UTC')", &[1])]
    #[case::before_the_first_day(Arc::new(Date32Array::from(vec![0, -1, 65_536])) as ArrayRef, "Date", &[1, 2])]
    fn a_value_that_does_not_fit_is_named_by_its_row(
        #[case] values: ArrayRef,
        #[case] to: &str,
        #[case] want: &[usize],
    ) {
        assert!(can_send(values.data_type(), to));
        let refused = to_wire("c", &values, to, false).err().unwrap_or_default();
        assert_eq!(refused.iter().map(|r| r.row).collect::<Vec<_>>(), want);
        assert!(refused.iter().all(|r| r.detail.starts_with("column `c`: ") && r.detail.ends_with(to)), "{refused:?}");
    }

    #[rstest]
    #[case::which_unit(DataType::Int64, "DateTime64(3)")]
    #[case::which_number(DataType::Timestamp(TimeUnit::Microsecond, None), "UInt64")]
    #[case::no_uuid(DataType::Int64, "UUID")]
    #[case::a_list(DataType::List(arrow_schema::Field::new("element", DataType::Int32, true).into()), "String")]
    fn what_can_never_fit_is_known_before(#[case] from: DataType, #[case] to: &str) {
        assert!(!can_send(&from, to));
    }

    #[test]
    fn an_element_refuses_its_row() {
        let lists: ArrayRef = Arc::new(ListArray::from_iter_primitive::<arrow_array::types::Int64Type, _, _>([
            Some(vec![Some(1)]),
            Some(vec![Some(1), Some(1 << 40)]),
            None,
        ]));
        let refused = to_wire("c", &lists, "Array(Int32)", false).unwrap_err();
        assert_eq!(refused.iter().map(|r| r.row).collect::<Vec<_>>(), [1]);
        let sent = to_wire("c", &lists, "Array(Int64)", false).unwrap();
        assert_eq!(
            (sent.null_count(), sent.as_list::<i32>().value_length(2)),
            (0, 0),
            "NULL is sent as an empty array"
        );
    }

    #[test]
    fn a_struct_that_is_null_has_null_in_each_field() {
        let fields = arrow_schema::Fields::from(vec![arrow_schema::Field::new("x", DataType::Int32, true)]);
        let x: ArrayRef = Arc::new(Int32Array::from(vec![1, 2]));
        let values: ArrayRef = Arc::new(StructArray::new(fields, vec![x], Some(vec![true, false].into())));
        let sent = to_wire("c", &values, "Tuple(x Nullable(Int32))", false).unwrap();
        assert_eq!((sent.null_count(), sent.as_struct().column(0).null_count()), (0, 1));
    }

    #[test]
    fn uuids_are_texts_too() {
        let bytes = to_wire("c", &texts(&[Some(UUID)]), "UUID", false).unwrap();
        let text = to_wire("c", &bytes, "String", false).unwrap();
        assert_eq!(text.as_string::<i32>().value(0), UUID);
    }
}
