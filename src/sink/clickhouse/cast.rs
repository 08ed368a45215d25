//! The values of a column, as its ClickHouse type takes them. A value that does not fit is named by its row.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
};
use arrow_array::{
    Array, ArrayRef, FixedSizeBinaryArray, Scalar, StringArray, builder::FixedSizeBinaryBuilder, new_empty_array,
    new_null_array,
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

/// # Errors
/// The rows whose value the column `name` can't take.
pub(super) fn to_wire(name: &str, values: &ArrayRef, to: &str) -> Result<ArrayRef, Vec<RefusedRow>> {
    let values = without_null_lists(values);
    if !takes_null(to) && values.null_count() > 0 && !matches!(values.data_type(), DataType::Struct(_)) {
        let nulls = (0..values.len()).filter(|row| values.is_null(*row));
        let detail = format!("column `{name}`: NULL does not fit {to}");
        return Err(nulls.map(|row| RefusedRow { row, detail: detail.clone() }).collect());
    }
    let Some(wire) = wire(to) else { return Ok(values) };
    let sent = convert(&values, &wire);
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
        _ => match cast_with_options(values, wire, &STRICT) {
            Ok(sent) => sent,
            Err(_) if values.data_type().is_nested() => one_by_one(values, wire),
            Err(_) => cast_with_options(values, wire, &LENIENT).unwrap_or_else(|_| new_null_array(wire, values.len())),
        },
    }
}

/// A lenient cast makes nulls of elements, not of their list.
fn one_by_one(values: &ArrayRef, wire: &DataType) -> ArrayRef {
    let rows: Vec<ArrayRef> = (0..values.len())
        .map(|row| cast_with_options(&values.slice(row, 1), wire, &STRICT).unwrap_or_else(|_| new_null_array(wire, 1)))
        .collect();
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

/// ClickHouse has arrays and maps without NULL: one that is NULL is sent empty.
fn without_null_lists(values: &ArrayRef) -> ArrayRef {
    let of = values.data_type();
    if values.null_count() == 0 || !matches!(of, DataType::List(_) | DataType::LargeList(_) | DataType::Map(_, _)) {
        return values.clone();
    }
    let valid = arrow_array::BooleanArray::from_iter((0..values.len()).map(|row| Some(values.is_valid(row))));
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
