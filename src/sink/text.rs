//! A column's value as text, and as JSON.
//!
//! | value | text |
//! |---|---|
//! | integers, decimals | their digits |
//! | floats | the shortest that reads back as the same: `12.5`, `12`, `1e300`; `NaN`, `Infinity`, `-Infinity` |
//! | booleans | `true`, `false` |
//! | dates, times | `2024-01-31`, `12:34:56`, `12:34:56.789` |
//! | timestamps | `2024-01-31T12:34:56.789Z`: as many digits as needed (none, 3, 6 or 9); without `Z` where the column has no zone |
//! | 16 bytes | a uuid |
//! | other bytes | base64 |
//! | lists, structs, maps | JSON |

use std::io::Write as _;

use arrow_array::cast::AsArray;
use arrow_array::types::*;
use arrow_array::{Array, ArrayRef, ArrowPrimitiveType};
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_schema::{ArrowError, DataType, TimeUnit};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, NaiveDate, NaiveTime, SecondsFormat, TimeDelta, Utc};

/// The column with its values as they are: a dictionary is spelled out.
pub(super) fn plain(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    match array.data_type() {
        DataType::Dictionary(_, value) => arrow_cast::cast(array, value),
        _ => Ok(array.clone()),
    }
}

/// Whether there is no value.
pub(super) fn is_null(array: &dyn Array, row: usize) -> bool {
    array.is_null(row) || array.data_type() == &DataType::Null
}

fn value<T: ArrowPrimitiveType>(array: &dyn Array, row: usize) -> T::Native {
    array.as_primitive::<T>().value(row)
}

/// Appends the text of a value that is not null. Writing to a `Vec` can't fail.
pub(super) fn write(array: &dyn Array, row: usize, out: &mut Vec<u8>) {
    match array.data_type() {
        DataType::Utf8 => out.extend_from_slice(array.as_string::<i32>().value(row).as_bytes()),
        DataType::LargeUtf8 => out.extend_from_slice(array.as_string::<i64>().value(row).as_bytes()),
        DataType::Utf8View => out.extend_from_slice(array.as_string_view().value(row).as_bytes()),
        DataType::Boolean => out.extend_from_slice(if array.as_boolean().value(row) { b"true" } else { b"false" }),
        DataType::Float32 => {
            let v = value::<Float32Type>(array, row);
            float(f64::from(v), v.abs() >= 1e21 || (v != 0.0 && v.abs() < 1e-7), &v, out);
        }
        DataType::Float64 => {
            let v = value::<Float64Type>(array, row);
            float(v, v.abs() >= 1e21 || (v != 0.0 && v.abs() < 1e-7), &v, out);
        }
        DataType::Binary => encode(array.as_binary::<i32>().value(row), out),
        DataType::LargeBinary => encode(array.as_binary::<i64>().value(row), out),
        DataType::BinaryView => encode(array.as_binary_view().value(row), out),
        DataType::FixedSizeBinary(_) => fixed(array.as_fixed_size_binary().value(row), out),
        DataType::Date32 => date(i64::from(value::<Date32Type>(array, row)), out),
        DataType::Date64 => date(value::<Date64Type>(array, row).div_euclid(86_400_000), out),
        DataType::Time32(TimeUnit::Second) => {
            time(i64::from(value::<Time32SecondType>(array, row)) * 1_000_000_000, out)
        }
        DataType::Time32(_) => time(i64::from(value::<Time32MillisecondType>(array, row)) * 1_000_000, out),
        DataType::Time64(TimeUnit::Microsecond) => {
            time(value::<Time64MicrosecondType>(array, row).saturating_mul(1_000), out);
        }
        DataType::Time64(_) => time(value::<Time64NanosecondType>(array, row), out),
        DataType::Timestamp(_, zone) => timestamp(array, row, zone.is_some(), out),
        DataType::List(_)
        | DataType::LargeList(_)
        | DataType::FixedSizeList(_, _)
        | DataType::Struct(_)
        | DataType::Map(_, _) => write_json(array, row, out),
        _ => other(array, row, out),
    }
}

/// Appends the value as JSON: numbers and booleans bare, null, everything else quoted.
pub(super) fn write_json(array: &dyn Array, row: usize, out: &mut Vec<u8>) {
    if is_null(array, row) {
        return out.extend_from_slice(b"null");
    }
    match array.data_type() {
        DataType::Boolean => write(array, row, out),
        DataType::Float32 if value::<Float32Type>(array, row).is_finite() => write(array, row, out),
        DataType::Float64 if value::<Float64Type>(array, row).is_finite() => write(array, row, out),
        kind if kind.is_integer() || kind.is_decimal() => write(array, row, out),
        DataType::List(_) => elements(&array.as_list::<i32>().value(row), out),
        DataType::LargeList(_) => elements(&array.as_list::<i64>().value(row), out),
        DataType::FixedSizeList(_, _) => elements(&array.as_fixed_size_list().value(row), out),
        DataType::Struct(fields) => {
            let columns = array.as_struct().columns();
            object(fields.iter().map(|f| f.name().as_str()).zip(columns), row, out);
        }
        DataType::Map(_, _) => {
            let entries = array.as_map().value(row);
            out.push(b'{');
            for entry in 0..entries.len() {
                if entry > 0 {
                    out.push(b',');
                }
                let mut key = Vec::new();
                write(entries.column(0), entry, &mut key);
                quote(&key, out);
                out.push(b':');
                write_json(entries.column(1), entry, out);
            }
            out.push(b'}');
        }
        DataType::Dictionary(_, _) => match plain(&array.slice(row, 1)) {
            Ok(one) => write_json(&one, 0, out),
            Err(_) => out.extend_from_slice(b"null"),
        },
        _ => {
            let mut text = Vec::new();
            write(array, row, &mut text);
            quote(&text, out);
        }
    }
}

/// Appends a JSON object of one row's columns.
pub(super) fn object<'a>(columns: impl Iterator<Item = (&'a str, &'a ArrayRef)>, row: usize, out: &mut Vec<u8>) {
    out.push(b'{');
    for (i, (name, column)) in columns.enumerate() {
        if i > 0 {
            out.push(b',');
        }
        quote(name.as_bytes(), out);
        out.push(b':');
        write_json(column, row, out);
    }
    out.push(b'}');
}

/// A row's values in these columns, as JSON: the same text for the same values.
pub fn json_values(columns: &[ArrayRef], row: usize) -> String {
    let mut out = vec![b'['];
    for (i, column) in columns.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        write_json(column, row, &mut out);
    }
    out.push(b']');
    String::from_utf8_lossy(&out).into_owned()
}

fn elements(list: &ArrayRef, out: &mut Vec<u8>) {
    out.push(b'[');
    for i in 0..list.len() {
        if i > 0 {
            out.push(b',');
        }
        write_json(list, i, out);
    }
    out.push(b']');
}

fn quote(text: &[u8], out: &mut Vec<u8>) {
    // Serde writes any text, and to a `Vec` always.
    let _ = serde_json::to_writer(out, &String::from_utf8_lossy(text));
}

/// Like JavaScript and PostgreSQL: with an exponent only where the digits would be too many.
fn float<V: std::fmt::Display + std::fmt::LowerExp>(wide: f64, exponent: bool, v: &V, out: &mut Vec<u8>) {
    let _ = match () {
        () if wide.is_nan() => out.write_all(b"NaN"),
        () if wide == f64::INFINITY => out.write_all(b"Infinity"),
        () if wide == f64::NEG_INFINITY => out.write_all(b"-Infinity"),
        () if exponent => write!(out, "{v:e}"),
        () => write!(out, "{v}"),
    };
}

fn encode(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(STANDARD.encode(bytes).as_bytes());
}

fn fixed(bytes: &[u8], out: &mut Vec<u8>) {
    match uuid::Uuid::from_slice(bytes) {
        Ok(id) => out.extend_from_slice(id.hyphenated().encode_lower(&mut uuid::Uuid::encode_buffer()).as_bytes()),
        Err(_) => encode(bytes, out),
    }
}

fn date(days: i64, out: &mut Vec<u8>) {
    let day = TimeDelta::try_days(days).and_then(|d| NaiveDate::default().checked_add_signed(d));
    let _ = match day {
        Some(day) => write!(out, "{day}"),
        None => write!(out, "{days}"),
    };
}

fn time(ns: i64, out: &mut Vec<u8>) {
    let at = u32::try_from(ns.div_euclid(1_000_000_000)).ok();
    let at = at.and_then(|s| NaiveTime::from_num_seconds_from_midnight_opt(s, ns.rem_euclid(1_000_000_000) as u32));
    let _ = match at {
        Some(at) => write!(out, "{at}"),
        None => write!(out, "{ns}"),
    };
}

fn timestamp(array: &dyn Array, row: usize, zoned: bool, out: &mut Vec<u8>) {
    let (at, raw): (Option<DateTime<Utc>>, i64) = match array.data_type() {
        DataType::Timestamp(TimeUnit::Second, _) => {
            let v = value::<TimestampSecondType>(array, row);
            (DateTime::from_timestamp(v, 0), v)
        }
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            let v = value::<TimestampMillisecondType>(array, row);
            (DateTime::from_timestamp_millis(v), v)
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            let v = value::<TimestampMicrosecondType>(array, row);
            (DateTime::from_timestamp_micros(v), v)
        }
        _ => {
            let v = value::<TimestampNanosecondType>(array, row);
            (Some(DateTime::from_timestamp_nanos(v)), v)
        }
    };
    // A moment beyond all calendars stays the number it is.
    let Some(at) = at else {
        let _ = write!(out, "{raw}");
        return;
    };
    let text = at.to_rfc3339_opts(SecondsFormat::AutoSi, true);
    out.extend_from_slice(if zoned { text.as_bytes() } else { text.trim_end_matches('Z').as_bytes() });
}

/// Integers, decimals, and what no source has.
fn other(array: &dyn Array, row: usize, out: &mut Vec<u8>) {
    macro_rules! integers {
        ($($kind:pat => $type:ty),*) => {
            match array.data_type() {
                $($kind => { let _ = write!(out, "{}", value::<$type>(array, row)); })*
                DataType::Decimal128(p, s) => out.extend_from_slice(
                    Decimal128Type::format_decimal(value::<Decimal128Type>(array, row), *p, *s).as_bytes(),
                ),
                _ => {
                    if let Ok(formatter) = ArrayFormatter::try_new(array, &FormatOptions::default()) {
                        let _ = write!(out, "{}", formatter.value(row));
                    }
                }
            }
        };
    }
    integers!(
        DataType::Int64 => Int64Type, DataType::Int32 => Int32Type, DataType::Int16 => Int16Type, DataType::Int8 => Int8Type,
        DataType::UInt64 => UInt64Type, DataType::UInt32 => UInt32Type, DataType::UInt16 => UInt16Type,
        DataType::UInt8 => UInt8Type
    );
}

#[cfg(test)]
mod tests;
