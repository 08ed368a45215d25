//! One JSON value into one column, as a [`Reader`] says.

use std::collections::{BTreeSet, HashSet};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};

use super::columns::{ColumnBuilder, Values};
use super::cursor::Cursor;
use super::decimal::{self, Unscaled};
use super::fault::{Fallible, bad_value, excerpt};
use super::object::Take;
use super::reader::{BytesForm, DecimalForm, DecimalStrings, Reader};
use super::time::{self, End, Finite};
use super::unavailable::{UNAVAILABLE, is_unavailable, is_unavailable_json};
use crate::change::Infinity;

/// Unknown fields are remembered to be named once each; beyond this many a topic is no table's and memory matters more.
const MAX_UNKNOWN_FIELDS: usize = 1000;

/// What was seen while a row was read, beside its values.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// A value in the column being read is unavailable.
    pub unavailable: bool,
    /// Columns of the row that lack their value: it was unavailable, and is null in the row.
    pub lacking: Vec<u32>,
    /// A date or timestamp was infinite, or a decimal no number.
    pub infinite: bool,
    /// What becomes of them.
    pub infinity: Infinity,
    /// A field of the row has a value and no column takes it.
    pub missing: bool,
    /// Fields that no column takes, not yet asked for.
    pub unknown: Vec<String>,
    known_unknown: BTreeSet<String>,
    scratch: Vec<u8>,
}

impl Notes {
    pub(super) fn new(infinity: Infinity) -> Self {
        Self { infinity, ..Self::default() }
    }

    /// A value as it is, or what stands for an infinite one: `None` is a null.
    ///
    /// # Errors
    /// `bad_value` where infinite values are rejected.
    #[inline]
    pub(super) fn finite<T>(&mut self, value: Finite<T>, clamped: impl Fn(End) -> T) -> Fallible<Option<T>> {
        match value {
            Ok(value) => Ok(Some(value)),
            Err(end) => self.not_finite(Some(clamped(end))),
        }
    }

    /// What stands for an infinite value, where `clamped` is the nearest that can be shown.
    #[cold]
    pub(super) fn not_finite<T>(&mut self, clamped: Option<T>) -> Fallible<Option<T>> {
        self.infinite = true;
        match self.infinity {
            Infinity::Null => Ok(None),
            Infinity::Clamp => Ok(clamped),
            Infinity::Reject => Err(bad_value("the value is infinite or no number, and infinity is \"reject\"")),
        }
    }

    /// To be called before each record.
    pub(super) fn begin_row(&mut self) {
        self.infinite = false;
        self.missing = false;
        self.forget_lacking();
    }

    /// The row's image so far is taken back.
    pub(super) fn forget_lacking(&mut self) {
        self.unavailable = false;
        self.lacking.clear();
    }

    /// To be called when a value that was unavailable, or holds one that was, has been read into the row's column `at`.
    #[cold]
    pub(super) fn lacks(&mut self, at: usize, column: &mut ColumnBuilder, row: usize) {
        self.unavailable = false;
        self.lacking.push(at as u32);
        if !column.is_null(row) {
            column.truncate(row);
            column.push_null();
        }
    }

    pub(super) fn unknown_field(&mut self, name: &str) {
        let name = excerpt(name);
        if self.known_unknown.len() < MAX_UNKNOWN_FIELDS && self.known_unknown.insert(name.clone()) {
            self.unknown.push(name);
        }
    }

    /// A table with other columns: unknown fields are news again.
    pub(super) fn forget_unknown(&mut self) {
        self.known_unknown.clear();
    }
}

#[inline]
fn put<T: Default>(values: &mut Vec<T>, nulls: &mut arrow_buffer::NullBufferBuilder, value: Option<T>) {
    nulls.append(value.is_some());
    values.push(value.unwrap_or_default());
}

/// Reads the value here as the next entry of `column`.
///
/// # Errors
/// `bad_value` when the column cannot hold it, `not_json` when it is none. The column may then be in a state that only
/// [`ColumnBuilder::truncate`] mends.
pub(super) fn read(
    cursor: &mut Cursor<'_>,
    reader: &Reader,
    column: &mut ColumnBuilder,
    notes: &mut Notes,
) -> Fallible<()> {
    if cursor.null()? {
        column.push_null();
        return Ok(());
    }
    if matches!(reader, Reader::List(_) | Reader::Struct(_) | Reader::Map(_))
        && cursor.peek() == b'"'
        && is_unavailable(cursor.clone().string()?.raw)
    {
        cursor.skip()?;
        notes.unavailable = true;
        column.push_null();
        return Ok(());
    }
    let ColumnBuilder { nulls, values, .. } = column;
    match (reader, values) {
        (Reader::Int, Values::Int32(v)) => {
            let value = cursor.integer()?;
            let value = i32::try_from(value).map_err(|_| bad_value(format!("{value} does not fit int")))?;
            v.push(value);
            nulls.append_non_null();
        }
        (Reader::Long, Values::Int64(v)) => {
            v.push(cursor.integer()?);
            nulls.append_non_null();
        }
        (Reader::Text, Values::Text(v)) => {
            let text = cursor.string()?;
            if is_unavailable(text.raw) {
                notes.unavailable = true;
                column.push_null();
            } else {
                text.append_to(&mut v.bytes)?;
                v.close()?;
                nulls.append_non_null();
            }
        }
        (Reader::Boolean, Values::Boolean(v)) => {
            v.append(cursor.boolean()?);
            nulls.append_non_null();
        }
        (Reader::AnyBoolean, Values::Boolean(v)) => {
            let value = match cursor.peek() {
                b'0'..=b'9' | b'-' => match cursor.integer()? {
                    0 => false,
                    1 => true,
                    other => return Err(bad_value(format!("{other} is no boolean"))),
                },
                _ => cursor.boolean()?,
            };
            v.append(value);
            nulls.append_non_null();
        }
        (Reader::Float, Values::Float32(v)) => put(v, nulls, float::<f32>(cursor, notes)?),
        (Reader::FloatAsDouble, Values::Float64(v)) => {
            put(v, nulls, float::<f32>(cursor, notes)?.map(f64::from));
        }
        (Reader::Double, Values::Float64(v)) => put(v, nulls, float::<f64>(cursor, notes)?),
        (Reader::Days | Reader::DateText | Reader::AnyDate, Values::Int32(v)) => {
            let value = date(cursor, reader, notes)?;
            put(v, nulls, value);
        }
        (
            Reader::Time(_)
            | Reader::TimeText
            | Reader::AnyTime(_)
            | Reader::Timestamp(_)
            | Reader::TimestampText(_)
            | Reader::AnyTimestamp(..),
            Values::Int64(v),
        ) => {
            let value = time_value(cursor, reader, notes)?;
            put(v, nulls, value);
        }
        (Reader::Decimal { from, precision, scale }, Values::Int128(v)) => {
            let value = decimal_value(cursor, *from, *precision, *scale, notes)?;
            put(v, nulls, value);
        }
        (Reader::AnyDecimalText(_), Values::Text(_)) if cursor.peek() == b'{' => any_text(cursor, column, notes)?,
        (Reader::DecimalText(scale) | Reader::AnyDecimalText(scale), Values::Text(_)) => {
            let text = match cursor.peek() {
                b'-' | b'0'..=b'9' => Some(cursor.number()?.to_owned()),
                _ => text_value(cursor, notes)?.map(|t| decimal::unscaled(t)?.to_text(*scale)).transpose()?,
            };
            push_optional_text(column, text.as_deref())?;
        }
        (Reader::VariableDecimalText, Values::Text(_)) => {
            let text = variable(cursor, notes)?.map(|(scale, value)| value.to_text(scale)).transpose()?;
            push_optional_text(column, text.as_deref())?;
        }
        (Reader::AnyText, Values::Text(_)) => any_text(cursor, column, notes)?,
        (Reader::Binary(form), Values::Binary(v)) => {
            let Some(text) = text_value(cursor, notes)? else {
                column.push_null();
                return Ok(());
            };
            bytes(text, *form, &mut v.bytes)?;
            v.close()?;
            nulls.append_non_null();
        }
        (Reader::Uuid, Values::Bytes16(v)) => {
            let value = match text_value(cursor, notes)? {
                Some(text) => Some(
                    uuid::Uuid::try_parse(text)
                        .map_err(|_| bad_value(format!("{:?} is no uuid", excerpt(text))))?
                        .into_bytes(),
                ),
                None => None,
            };
            put(v, nulls, value);
        }
        (Reader::List(reader), Values::List { ends, element }) => {
            let from = element.len();
            let before = std::mem::take(&mut notes.unavailable);
            if cursor.open_array()? {
                loop {
                    read(cursor, reader, element, notes)?;
                    if !cursor.more(b']')? {
                        break;
                    }
                }
            }
            // An array that is unavailable as a whole is written as an array of the one placeholder, or of its bytes.
            if notes.unavailable && element.len() == from + 1 || element.ends_with_bytes(from, UNAVAILABLE.as_bytes()) {
                notes.unavailable = true;
                element.truncate(from);
                column.push_null();
            } else {
                ends.push(element.len())?;
                nulls.append_non_null();
            }
            notes.unavailable |= before;
        }
        (Reader::Struct(object), Values::Struct(columns)) => {
            let row = nulls.len();
            object.read(cursor, columns, row, Take::All, notes)?;
            columns.iter_mut().filter(|c| c.len() == row).for_each(ColumnBuilder::push_null);
            nulls.append_non_null();
        }
        (Reader::Map(reader), Values::Map { ends, keys, values }) => {
            let from = keys.len();
            let mut seen = HashSet::new();
            let mut unavailable = false;
            if cursor.open_object()? {
                loop {
                    let key = cursor.name()?;
                    let mut scratch = Vec::new();
                    let key = key.decoded(&mut scratch)?;
                    unavailable |= key == UNAVAILABLE;
                    if !seen.insert(key.to_owned()) {
                        return Err(bad_value(format!("the map has the key {:?} twice", excerpt(key))));
                    }
                    keys.push_text(key)?;
                    read(cursor, reader, values, notes)?;
                    if !cursor.more(b'}')? {
                        break;
                    }
                }
            }
            if unavailable {
                notes.unavailable = true;
                keys.truncate(from);
                values.truncate(from);
                column.push_null();
            } else {
                ends.push(keys.len())?;
                nulls.append_non_null();
            }
        }
        // A reader is made for the column's own type, so no other pair meets.
        _ => return Err(bad_value("the column's type changed under its reader")),
    }
    Ok(())
}

/// Adds the bytes that `text` says to `out`.
pub(super) fn bytes(text: &str, form: BytesForm, out: &mut Vec<u8>) -> Fallible<()> {
    let from = out.len();
    match form {
        BytesForm::Base64 => STANDARD
            .decode_vec(text, out)
            .or_else(|e| {
                out.truncate(from);
                URL_SAFE.decode_vec(text, out).map_err(|_| e)
            })
            .map_err(|e| bad_value(format!("{:?} is no base64: {e}", excerpt(text)))),
        BytesForm::Hex => {
            let digit = |b: u8| char::from(b).to_digit(16).map(|d| d as u8); // below 16
            let pairs = text.as_bytes().chunks(2).map(|pair| match pair {
                [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
                _ => None,
            });
            out.reserve(text.len() / 2);
            for byte in pairs {
                out.push(byte.ok_or_else(|| bad_value(format!("{:?} is no hexadecimal text", excerpt(text))))?);
            }
            Ok(())
        }
    }
}

fn push_optional_text(column: &mut ColumnBuilder, text: Option<&str>) -> Fallible<()> {
    match text {
        Some(text) => column.push_text(text),
        None => {
            column.push_null();
            Ok(())
        }
    }
}

/// A string, `None` where it says that the value is unavailable.
#[inline]
fn text_value<'s, 'a: 's>(cursor: &mut Cursor<'a>, notes: &'s mut Notes) -> Fallible<Option<&'s str>> {
    let text = cursor.string()?;
    if is_unavailable(text.raw) {
        notes.unavailable = true;
        return Ok(None);
    }
    text.decoded(&mut notes.scratch).map(Some)
}

fn any_text(cursor: &mut Cursor<'_>, column: &mut ColumnBuilder, notes: &mut Notes) -> Fallible<()> {
    match cursor.peek() {
        b'"' => read(cursor, &Reader::Text, column, notes),
        b'{' => {
            // A numeric without scale looks so with a schema block too; there it becomes its digits.
            let mut ahead = cursor.clone();
            if let Ok(Some((scale, value))) = variable(&mut ahead, notes)
                && let Ok(text) = value.to_text(scale)
            {
                *cursor = ahead;
                column.push_text(&text)
            } else {
                raw_text(cursor, column, notes)
            }
        }
        _ => raw_text(cursor, column, notes),
    }
}

/// The JSON of a value as a text.
fn raw_text(cursor: &mut Cursor<'_>, column: &mut ColumnBuilder, notes: &mut Notes) -> Fallible<()> {
    let raw = cursor.raw()?;
    if !is_unavailable_json(raw) {
        return column.push_text(raw);
    }
    notes.unavailable = true;
    column.push_null();
    Ok(())
}

/// A number of a float column: as a number, or one of the strings for what JSON cannot write. `None` if unavailable.
fn float<T: std::str::FromStr + Into<f64> + Copy>(cursor: &mut Cursor<'_>, notes: &mut Notes) -> Fallible<Option<T>> {
    let text = match cursor.peek() {
        b'"' => text_value(cursor, notes)?,
        _ => Some(cursor.number()?),
    };
    let Some(text) = text else { return Ok(None) };
    // As decimal.handling.mode=string writes them.
    let text = match text {
        "NAN" => "NaN",
        "POSITIVE_INFINITY" => "Infinity",
        "NEGATIVE_INFINITY" => "-Infinity",
        text => text,
    };
    match text.parse::<T>() {
        Ok(value) if value.into().is_finite() || matches!(text, "NaN" | "Infinity" | "-Infinity") => Ok(Some(value)),
        Ok(_) => Err(bad_value(format!("{} is beyond the column's range", excerpt(text)))),
        Err(_) => Err(bad_value(format!("{:?} is no number", excerpt(text)))),
    }
}

fn date(cursor: &mut Cursor<'_>, reader: &Reader, notes: &mut Notes) -> Fallible<Option<i32>> {
    let text = match reader {
        Reader::DateText => true,
        Reader::AnyDate => cursor.peek() == b'"',
        _ => false,
    };
    if text {
        return finite_text(cursor, notes, End::days, time::parse_date);
    }
    notes.finite(time::date(cursor.integer()?)?, End::days)
}

fn time_value(cursor: &mut Cursor<'_>, reader: &Reader, notes: &mut Notes) -> Fallible<Option<i64>> {
    match *reader {
        Reader::Time(unit) => time::time_of_day(cursor.integer()?, unit).map(Some),
        Reader::AnyTime(unit) if cursor.peek() != b'"' => time::time_of_day(cursor.integer()?, unit).map(Some),
        Reader::TimeText | Reader::AnyTime(_) => finite_text(cursor, notes, |_| time::DAY_US - 1, time::parse_time),
        Reader::TimestampText(zone) => {
            finite_text(cursor, notes, End::micros, |text| time::parse_timestamp(text, zone))
        }
        Reader::AnyTimestamp(_, zone) if cursor.peek() == b'"' => {
            finite_text(cursor, notes, End::micros, |text| time::parse_timestamp(text, zone))
        }
        Reader::Timestamp(unit) | Reader::AnyTimestamp(unit, _) => {
            notes.finite(time::timestamp(cursor.integer()?, unit)?, End::micros)
        }
        _ => Err(cursor.mismatch("a time")),
    }
}

fn finite_text<T>(
    cursor: &mut Cursor<'_>,
    notes: &mut Notes,
    clamped: impl Fn(End) -> T,
    parse: impl Fn(&str) -> Fallible<T>,
) -> Fallible<Option<T>> {
    let Some(text) = text_value(cursor, notes)? else { return Ok(None) };
    let value = time::finite(text, parse)?;
    notes.finite(value, clamped)
}

fn decimal_value(
    cursor: &mut Cursor<'_>,
    from: DecimalForm,
    precision: u8,
    scale: u8,
    notes: &mut Notes,
) -> Fallible<Option<i128>> {
    let unscaled = |value: &Unscaled, have: i32| value.fit(have, precision, scale);
    let written = |text: &str| decimal::fit_written(text, precision, scale);
    match (from, cursor.peek()) {
        (DecimalForm::Variable, _) | (DecimalForm::Any(_), b'{') => {
            variable(cursor, notes)?.map(|(have, value)| unscaled(&value, have)).transpose()
        }
        // Connect writes a decimal so with decimal.format=NUMERIC.
        (_, b'-' | b'0'..=b'9') => written(cursor.number()?).map(Some),
        (from, _) => {
            let Some(text) = text_value(cursor, notes)? else { return Ok(None) };
            let infinite = decimal::is_infinite(text);
            match from {
                DecimalForm::Unscaled(have) => unscaled(&decimal::unscaled(text)?, have).map(Some),
                _ if infinite => notes.not_finite(None),
                // Base64 has neither sign nor point. But a column whose numbers are written has some without, which are base64 too.
                DecimalForm::Any(DecimalStrings::Unscaled(_)) if text.contains(['.', '-']) => {
                    let how = "is a written number: declare encodings = { ... = \"text\" } for its column";
                    Err(bad_value(format!("{:?} {how}", excerpt(text))))
                }
                DecimalForm::Any(DecimalStrings::Unscaled(have)) => unscaled(&decimal::unscaled(text)?, have).map(Some),
                _ => written(text).map(Some),
            }
        }
    }
}

/// `{"scale":2,"value":"base64"}`: the scale and the unscaled value.
fn variable(cursor: &mut Cursor<'_>, notes: &mut Notes) -> Fallible<Option<(i32, Unscaled)>> {
    let (mut scale, mut value, mut unavailable) = (None, None, false);
    let mut more = cursor.open_object()?;
    while more {
        match cursor.name()?.raw {
            "scale" => scale = i32::try_from(cursor.integer()?).ok(),
            "value" => match text_value(cursor, notes)? {
                Some(text) => value = Some(decimal::unscaled(text)?),
                None => unavailable = true,
            },
            other => return Err(bad_value(format!("{:?} is no field of a variable decimal", excerpt(other)))),
        }
        more = cursor.more(b'}')?;
    }
    match (scale, value) {
        (Some(scale), Some(value)) => Ok(Some((scale, value))),
        _ if unavailable => Ok(None),
        _ => Err(bad_value("a variable decimal needs scale and value")),
    }
}
