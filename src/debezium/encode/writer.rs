//! One value of a column as the JSON that a [`Reader`] makes it of: its inverse, chosen once for each field.
//!
//! What the reader leaves open (it takes several forms) is done as the topic's own records do it.

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Decimal128Type, Float32Type, Float64Type, Int32Type, Int64Type, Time64MicrosecondType,
    TimestampMicrosecondType,
};
use arrow_array::{Array, ArrayRef};
use arrow_schema::DataType;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde_json::Value;

use super::text;
use crate::debezium::connect::Encoding;
use crate::debezium::decimal::place_point;
use crate::debezium::object::{NOWHERE, ObjectReader};
use crate::debezium::reader::{BytesForm, DecimalForm, DecimalStrings, Reader};
use crate::debezium::time::{self, Unit, Zone};

#[derive(Clone, Debug)]
pub(super) enum Writer {
    Boolean,
    /// 0 or 1.
    Bit,
    Int,
    Long,
    Float,
    /// A float that its column keeps as a double.
    FloatOfDouble,
    Double,
    /// A double as a whole number, or in quotes.
    WholeDouble,
    QuotedDouble,
    Days,
    DateText(Form),
    /// A time of day or timestamp.
    Count(Unit),
    TimeText(Form),
    TimestampText(Form),
    /// Base64 of the unscaled value.
    Unscaled(i32),
    /// `{"scale":2,"value":"base64"}`
    Variable,
    /// Digits.
    Written,
    QuotedDecimal,
    Text,
    /// The text is JSON by itself.
    Raw,
    /// The text is a number, written as base64 of its unscaled value, or with its scale.
    TextUnscaled(i32),
    TextVariable,
    Base64,
    Base64Url,
    Hex,
    Uuid,
    List(Box<Writer>),
    /// Name, place among the struct's columns.
    Struct(Vec<(String, usize, Writer)>),
    Map(Box<Writer>),
}

/// What the texts of a time column have in common.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Form {
    /// Of the fraction of a second there are at least so many.
    digits: usize,
    /// They end with `Z`.
    zulu: bool,
}

impl Form {
    fn of(samples: &[&Value]) -> Self {
        let is_finite = |text: &&str| matches!(time::finite(text, |_| Ok(())), Ok(Ok(())));
        let texts = || samples.iter().filter_map(|s| s.as_str()).filter(is_finite);
        let fraction = |text: &str| {
            let digits = text.split_once('.').map_or("", |(_, fraction)| fraction);
            digits.bytes().take_while(u8::is_ascii_digit).count()
        };
        Self { digits: texts().map(fraction).min().unwrap_or(0).min(6), zulu: texts().any(|text| text.ends_with('Z')) }
    }

    /// The form of texts that say their zone, which is always UTC.
    fn zoned(samples: &[&Value]) -> Self {
        Self { zulu: true, ..Self::of(samples) }
    }

    fn end(self) -> &'static str {
        if self.zulu { "Z" } else { "" }
    }
}

/// What the samples are, where they have values.
fn any(samples: &[&Value], is: fn(&Value) -> bool) -> bool {
    samples.iter().any(|s| is(s))
}

/// How a field is written that is read so. `encoding` is what the schema block says of it; `samples` are its values in the topic's
/// records.
///
/// # Errors
/// The sentence that says what can't be told.
pub(super) fn writer(reader: &Reader, encoding: Option<&Encoding>, samples: &[&Value]) -> Result<Writer, String> {
    let number = any(samples, Value::is_number);
    let string = any(samples, Value::is_string);
    let object = any(samples, Value::is_object);
    let decimal = |strings: Writer| match (object, number) {
        (true, _) => Writer::Variable,
        (_, true) => Writer::Written,
        _ => strings,
    };
    Ok(match reader {
        Reader::Boolean => Writer::Boolean,
        Reader::AnyBoolean if number || matches!(encoding, Some(Encoding::Integer { .. })) => Writer::Bit,
        Reader::AnyBoolean => Writer::Boolean,
        Reader::Int => Writer::Int,
        Reader::Long => Writer::Long,
        Reader::Float => Writer::Float,
        Reader::FloatAsDouble => Writer::FloatOfDouble,
        Reader::Double => match encoding {
            Some(Encoding::Integer { .. }) => Writer::WholeDouble,
            Some(Encoding::Text) => Writer::QuotedDouble,
            None if string
                && !number
                && samples.iter().filter_map(|s| s.as_str()).any(|s| s.parse::<f64>().is_ok_and(f64::is_finite)) =>
            {
                Writer::QuotedDouble
            }
            _ => Writer::Double,
        },
        Reader::Days => Writer::Days,
        Reader::AnyDate if !string => Writer::Days,
        Reader::DateText | Reader::AnyDate => Writer::DateText(Form::of(samples)),
        Reader::Time(unit) => Writer::Count(*unit),
        Reader::AnyTime(unit) if !string => Writer::Count(*unit),
        Reader::TimeText | Reader::AnyTime(_) => Writer::TimeText(Form::of(samples)),
        Reader::Timestamp(unit) => Writer::Count(*unit),
        Reader::AnyTimestamp(unit, _) if !string => Writer::Count(*unit),
        Reader::TimestampText(Zone::Applied) | Reader::AnyTimestamp(_, Zone::Applied) => {
            Writer::TimestampText(Form::zoned(samples))
        }
        Reader::TimestampText(Zone::Ignored) | Reader::AnyTimestamp(_, Zone::Ignored) => {
            Writer::TimestampText(Form::of(samples))
        }
        Reader::Decimal { from: DecimalForm::Variable, .. } => Writer::Variable,
        Reader::Decimal { from: DecimalForm::Unscaled(have), .. } => decimal(Writer::Unscaled(*have)),
        Reader::Decimal { from: DecimalForm::Any(DecimalStrings::Unscaled(have)), .. } => {
            decimal(Writer::Unscaled(*have))
        }
        Reader::Decimal { from: DecimalForm::Any(DecimalStrings::Written), .. } => decimal(Writer::QuotedDecimal),
        Reader::Decimal { from: DecimalForm::Written, .. } => match encoding {
            Some(Encoding::Text) => Writer::QuotedDecimal,
            _ => Writer::Written,
        },
        Reader::Text => Writer::Text,
        Reader::DecimalText(_) if number => Writer::Raw,
        Reader::DecimalText(scale) => Writer::TextUnscaled(*scale),
        Reader::VariableDecimalText => Writer::TextVariable,
        Reader::AnyDecimalText(_) if object => Writer::TextVariable,
        Reader::AnyDecimalText(_) if number => Writer::Raw,
        Reader::AnyDecimalText(scale) => Writer::TextUnscaled(*scale),
        Reader::AnyText => any_text(encoding, samples)?,
        Reader::Binary(BytesForm::Hex) => Writer::Hex,
        Reader::Binary(BytesForm::Base64) => {
            match samples.iter().filter_map(|s| s.as_str()).any(|text| text.contains(['-', '_'])) {
                true => Writer::Base64Url,
                false => Writer::Base64,
            }
        }
        Reader::Uuid => Writer::Uuid,
        Reader::List(inner) => {
            let element = match encoding {
                Some(Encoding::List(element)) => Some(element.as_ref()),
                _ => None,
            };
            let samples: Vec<&Value> = samples.iter().filter_map(|s| s.as_array()).flatten().collect();
            Writer::List(Box::new(writer(inner, element, &samples)?))
        }
        Reader::Map(inner) => {
            let value = match encoding {
                Some(Encoding::Map(value)) => Some(value.as_ref()),
                _ => None,
            };
            let samples: Vec<&Value> = samples.iter().filter_map(|s| s.as_object()).flat_map(|o| o.values()).collect();
            Writer::Map(Box::new(writer(inner, value, &samples)?))
        }
        Reader::Struct(object) => Writer::Struct(members(object, encoding, samples)?),
    })
}

fn members(
    object: &ObjectReader,
    encoding: Option<&Encoding>,
    samples: &[&Value],
) -> Result<Vec<(String, usize, Writer)>, String> {
    let fields = match encoding {
        Some(Encoding::Struct(fields)) => fields.as_slice(),
        _ => &[],
    };
    let member = |(name, column, reader): (&str, usize, &Reader)| {
        let encoding = fields.iter().find(|(field, _)| field == name).map(|(_, encoding)| encoding);
        let samples: Vec<&Value> = samples.iter().filter_map(|s| s.get(name)).collect();
        Ok((name.to_owned(), column, writer(reader, encoding, &samples)?))
    };
    object.members().filter(|(_, column, _)| *column != NOWHERE).map(member).collect()
}

/// A text column takes anything: strings as they are, and the JSON of other values.
fn any_text(encoding: Option<&Encoding>, samples: &[&Value]) -> Result<Writer, String> {
    use Encoding as E;
    let is_variable =
        |s: &&Value| s.as_object().is_some_and(|o| o.len() == 2 && o.contains_key("scale") && o.contains_key("value"));
    let values: Vec<&Value> = samples.iter().copied().filter(|s| !s.is_null()).collect();
    Ok(match encoding {
        Some(E::Text | E::Uuid | E::Bytes | E::DateText | E::TimeText | E::TimestampText | E::ZonedTimestampText) => {
            Writer::Text
        }
        Some(E::VariableDecimal) => Writer::TextVariable,
        Some(E::Json) | None if values.is_empty() => Writer::Text,
        Some(E::Json) | None if values.iter().all(|s| s.is_string()) => Writer::Text,
        Some(E::Json) | None if values.iter().all(is_variable) => Writer::TextVariable,
        Some(E::Json) | None if values.iter().any(|s| s.is_string()) => {
            return Err(
                "the topic's records have texts and other values in it, and the lake can't tell which a value was"
                    .to_owned(),
            );
        }
        _ => Writer::Raw,
    })
}

/// Writes the value at `row`.
///
/// # Errors
/// The sentence for a person: a value that can't be written so.
pub(super) fn write(writer: &Writer, array: &ArrayRef, row: usize, out: &mut Vec<u8>) -> Result<(), String> {
    if array.is_null(row) {
        out.extend_from_slice(b"null");
        return Ok(());
    }
    let unfit = || format!("a value of type {} can't be written as {writer:?}", array.data_type());
    match writer {
        Writer::Boolean | Writer::Bit => {
            let value = array.as_boolean_opt().ok_or_else(unfit)?.value(row);
            out.extend_from_slice(match (writer, value) {
                (Writer::Bit, true) => b"1",
                (Writer::Bit, false) => b"0",
                (_, true) => b"true",
                (_, false) => b"false",
            });
        }
        Writer::Int => number(out, array.as_primitive_opt::<Int32Type>().ok_or_else(unfit)?.value(row)),
        Writer::Long => number(out, array.as_primitive_opt::<Int64Type>().ok_or_else(unfit)?.value(row)),
        Writer::Days => number(out, array.as_primitive_opt::<Date32Type>().ok_or_else(unfit)?.value(row)),
        Writer::Float => float(out, array.as_primitive_opt::<Float32Type>().ok_or_else(unfit)?.value(row))?,
        Writer::FloatOfDouble => {
            float(out, array.as_primitive_opt::<Float64Type>().ok_or_else(unfit)?.value(row) as f32)?;
        }
        Writer::Double => float(out, array.as_primitive_opt::<Float64Type>().ok_or_else(unfit)?.value(row))?,
        Writer::WholeDouble => {
            out.extend_from_slice(
                format!("{:.0}", array.as_primitive_opt::<Float64Type>().ok_or_else(unfit)?.value(row)).as_bytes(),
            );
        }
        Writer::QuotedDouble => {
            let value = array.as_primitive_opt::<Float64Type>().ok_or_else(unfit)?.value(row);
            match value.is_finite() {
                true => string(out, &value.to_string())?,
                false => float(out, value)?,
            }
        }
        Writer::Count(unit) => {
            let us = micros(array, row).ok_or_else(unfit)?;
            let count = match unit {
                Unit::Millis => us.div_euclid(1_000),
                Unit::Micros => us,
                Unit::Nanos => us.checked_mul(1_000).ok_or_else(|| format!("{us} µs do not fit ns"))?,
            };
            number(out, count);
        }
        Writer::DateText(form) => {
            let days = array.as_primitive_opt::<Date32Type>().ok_or_else(unfit)?.value(row);
            quoted(out, &[&text::date(days.into()), form.end()]);
        }
        Writer::TimeText(form) => {
            quoted(out, &[&text::time(micros(array, row).ok_or_else(unfit)?, form.digits), form.end()]);
        }
        Writer::TimestampText(form) => {
            quoted(out, &[&text::timestamp(micros(array, row).ok_or_else(unfit)?, form.digits), form.end()]);
        }
        Writer::Unscaled(_) | Writer::Variable | Writer::Written | Writer::QuotedDecimal => {
            let DataType::Decimal128(_, scale) = array.data_type() else { return Err(unfit()) };
            let value = array.as_primitive_opt::<Decimal128Type>().ok_or_else(unfit)?.value(row);
            decimal(writer, value, i32::from(*scale), out)?;
        }
        Writer::Text => string(out, array.as_string_opt::<i32>().ok_or_else(unfit)?.value(row))?,
        Writer::Raw => out.extend_from_slice(array.as_string_opt::<i32>().ok_or_else(unfit)?.value(row).as_bytes()),
        Writer::TextUnscaled(scale) => {
            let value = array.as_string_opt::<i32>().ok_or_else(unfit)?.value(row);
            let base64 = text::unscaled_text(value, *scale);
            quoted(out, &[&base64.ok_or_else(|| format!("{value} is no number of scale {scale}"))?]);
        }
        Writer::TextVariable => {
            let value = array.as_string_opt::<i32>().ok_or_else(unfit)?.value(row);
            let (scale, base64) = text::variable(value).ok_or_else(|| format!("{value} is no number"))?;
            out.extend_from_slice(format!(r#"{{"scale":{scale},"value":"{base64}"}}"#).as_bytes());
        }
        Writer::Base64 => quoted(out, &[&STANDARD.encode(array.as_binary_opt::<i64>().ok_or_else(unfit)?.value(row))]),
        Writer::Base64Url => {
            quoted(out, &[&URL_SAFE.encode(array.as_binary_opt::<i64>().ok_or_else(unfit)?.value(row))]);
        }
        Writer::Hex => {
            let bytes = array.as_binary_opt::<i64>().ok_or_else(unfit)?.value(row);
            quoted(out, &[&bytes.iter().map(|b| format!("{b:02x}")).collect::<String>()]);
        }
        Writer::Uuid => {
            let bytes = array.as_fixed_size_binary_opt().ok_or_else(unfit)?.value(row);
            let uuid = uuid::Uuid::from_slice(bytes).map_err(|e| e.to_string())?;
            quoted(out, &[&uuid.to_string()]);
        }
        Writer::List(element) => {
            let list = array.as_list_opt::<i32>().ok_or_else(unfit)?.value(row);
            between(out, b'[', 0..list.len(), b']', |out, at| write(element, &list, at, out))?;
        }
        Writer::Struct(fields) => {
            let columns = array.as_struct_opt().ok_or_else(unfit)?.columns();
            between(out, b'{', fields, b'}', |out, (name, column, writer)| {
                string(out, name)?;
                out.push(b':');
                write(writer, columns.get(*column).ok_or_else(unfit)?, row, out)
            })?;
        }
        Writer::Map(value) => {
            let entries = array.as_map_opt().ok_or_else(unfit)?.value(row);
            let [keys, values] = entries.columns() else { return Err(unfit()) };
            let names = keys.as_string_opt::<i32>().ok_or_else(unfit)?;
            between(out, b'{', 0..entries.len(), b'}', |out, at| {
                string(out, names.value(at))?;
                out.push(b':');
                write(value, values, at, out)
            })?;
        }
    }
    Ok(())
}

/// Entries with commas between.
pub(super) fn between<T>(
    out: &mut Vec<u8>,
    open: u8,
    entries: impl IntoIterator<Item = T>,
    close: u8,
    mut each: impl FnMut(&mut Vec<u8>, T) -> Result<(), String>,
) -> Result<(), String> {
    out.push(open);
    for (n, entry) in entries.into_iter().enumerate() {
        if n > 0 {
            out.push(b',');
        }
        each(out, entry)?;
    }
    out.push(close);
    Ok(())
}

fn micros(array: &ArrayRef, row: usize) -> Option<i64> {
    let time = array.as_primitive_opt::<Time64MicrosecondType>().map(|a| a.value(row));
    time.or_else(|| array.as_primitive_opt::<TimestampMicrosecondType>().map(|a| a.value(row)))
}

fn decimal(writer: &Writer, value: i128, scale: i32, out: &mut Vec<u8>) -> Result<(), String> {
    let written = || place_point(value < 0, value.unsigned_abs().to_string(), scale);
    match writer {
        Writer::Unscaled(have) => {
            let base64 = match *have == scale {
                true => text::unscaled(value),
                false => text::unscaled_text(&written(), *have)
                    .ok_or_else(|| format!("{} has more than {have} digits after the point", written()))?,
            };
            quoted(out, &[&base64]);
        }
        Writer::Variable => {
            out.extend_from_slice(format!(r#"{{"scale":{scale},"value":"{}"}}"#, text::unscaled(value)).as_bytes());
        }
        Writer::QuotedDecimal => quoted(out, &[&written()]),
        _ => out.extend_from_slice(written().as_bytes()),
    }
    Ok(())
}

fn number(out: &mut Vec<u8>, value: impl Into<i64>) {
    out.extend_from_slice(value.into().to_string().as_bytes());
}

/// What JSON has no numbers for is written as a text, as Connect's converter does.
fn float<T: Into<f64> + serde::Serialize + Copy>(out: &mut Vec<u8>, value: T) -> Result<(), String> {
    let as_double: f64 = value.into();
    match as_double {
        v if v.is_nan() => out.extend_from_slice(br#""NaN""#),
        v if v == f64::INFINITY => out.extend_from_slice(br#""Infinity""#),
        v if v == f64::NEG_INFINITY => out.extend_from_slice(br#""-Infinity""#),
        _ => serde_json::to_writer(out, &value).map_err(|e| e.to_string())?,
    }
    Ok(())
}

pub(super) fn string(out: &mut Vec<u8>, value: &str) -> Result<(), String> {
    serde_json::to_writer(out, value).map_err(|e| e.to_string())
}

/// Of characters that need no escape.
fn quoted(out: &mut Vec<u8>, parts: &[&str]) {
    out.push(b'"');
    parts.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
    out.push(b'"');
}
