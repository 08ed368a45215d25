//! One value of a datum into one column, as a [`Step`] says; and a record's fields, one after the other.

use std::collections::HashSet;

use super::super::columns::{ColumnBuilder, Values};
use super::super::decimal::{self, Unscaled};
use super::super::fault::{Fallible, bad_value, excerpt, in_column, reason, reject};
use super::super::object::Take;
use super::super::time::{self, End, Finite, Zone};
use super::super::unavailable::{UNAVAILABLE, is_unavailable, is_unavailable_bytes, is_unavailable_json};
use super::super::value::{Notes, bytes};
use super::cursor::{Cursor, items};
use super::plan::{Blob, Decimal, ImagePlan, Place, Read, Step, Text, Variable, VariablePart};
use super::schema::{Kind, Optional, Schema};
use super::text::any_text;

impl ImagePlan {
    /// Reads the record here as the entry `row` of `columns`; columns that it has no field for keep their length.
    ///
    /// # Errors
    /// `not_avro`; what the values say, with the column's name; `duplicate_field` when a column would get two values.
    pub(super) fn read(
        &self,
        schema: &Schema,
        cursor: &mut Cursor<'_>,
        columns: &mut [ColumnBuilder],
        row: usize,
        take: Take,
        notes: &mut Notes,
    ) -> Fallible<()> {
        for place in &self.places {
            match place {
                Place::Nowhere(node) => schema.skip(*node, cursor, 0)?,
                Place::Column { name, column: at, key, node, step } => {
                    let Some(column) = columns.get_mut(*at) else {
                        schema.skip(*node, cursor, 0)?;
                        continue;
                    };
                    if take == Take::MissingKeys && (!key || column.len() > row) {
                        schema.skip(*node, cursor, 0)?;
                        continue;
                    }
                    if column.len() > row {
                        let how = format!("column {name}: stands twice in the record");
                        return Err(reject(reason::DUPLICATE_FIELD, how));
                    }
                    read(schema, cursor, step, column, notes).map_err(|fault| in_column(fault, name))?;
                    if notes.unavailable && self.is_row {
                        notes.lacks(*at, column, row);
                    }
                }
            }
        }
        Ok(())
    }
}

/// Reads the value here as the next entry of `column`.
///
/// # Errors
/// `bad_value` when the column cannot hold it, `not_avro` when it is none. The column may then be in a state that only
/// [`ColumnBuilder::truncate`] mends.
fn read(
    schema: &Schema,
    cursor: &mut Cursor<'_>,
    step: &Step,
    column: &mut ColumnBuilder,
    notes: &mut Notes,
) -> Fallible<()> {
    if let Some(optional) = step.optional
        && !optional.has_value(cursor)?
    {
        column.push_null();
        return Ok(());
    }
    let ColumnBuilder { nulls, values, .. } = column;
    match (&step.read, values) {
        (Read::Text(form), Values::Text(v)) => match available(form.read(cursor)?, notes) {
            Some(text) => {
                v.bytes.extend_from_slice(text.as_bytes());
                v.close()?;
                nulls.append_non_null();
            }
            None => column.push_null(),
        },
        (Read::Integer, Values::Int32(v)) => {
            let value = cursor.long()?;
            v.push(i32::try_from(value).map_err(|_| bad_value(format!("{value} does not fit int")))?);
            nulls.append_non_null();
        }
        (Read::Integer, Values::Int64(v)) => {
            v.push(cursor.long()?);
            nulls.append_non_null();
        }
        (Read::Double, Values::Float64(v)) => {
            v.push(cursor.double()?);
            nulls.append_non_null();
        }
        (Read::Boolean, Values::Boolean(v)) => {
            v.append(cursor.boolean()?);
            nulls.append_non_null();
        }
        (Read::IntegerBoolean, Values::Boolean(v)) => {
            v.append(match cursor.long()? {
                0 => false,
                1 => true,
                other => return Err(bad_value(format!("{other} is no boolean"))),
            });
            nulls.append_non_null();
        }
        (Read::IntegerDouble, Values::Float64(v)) => {
            v.push(cursor.long()? as f64);
            nulls.append_non_null();
        }
        (Read::Float, Values::Float32(v)) => {
            v.push(cursor.float()?);
            nulls.append_non_null();
        }
        (Read::FloatDouble, Values::Float64(v)) => {
            v.push(f64::from(cursor.float()?));
            nulls.append_non_null();
        }
        (Read::Days, Values::Int32(v)) => put_finite(v, nulls, notes, time::date(cursor.long()?)?, End::days)?,
        (Read::Timestamp(unit), Values::Int64(v)) => {
            put_finite(v, nulls, notes, time::timestamp(cursor.long()?, *unit)?, End::micros)?;
        }
        (Read::Time(unit), Values::Int64(v)) => {
            v.push(time::time_of_day(cursor.long()?, *unit)?);
            nulls.append_non_null();
        }
        (Read::DateText(form), Values::Int32(v)) => {
            let value = finite_text(cursor, form, notes, End::days, time::parse_date)?;
            put(v, nulls, value);
        }
        (Read::TimeText(form), Values::Int64(v)) => {
            let value = finite_text(cursor, form, notes, |_| time::DAY_US - 1, time::parse_time)?;
            put(v, nulls, value);
        }
        (Read::TimestampText(form, zone), Values::Int64(v)) => {
            let zone: Zone = *zone;
            let value = finite_text(cursor, form, notes, End::micros, |text| time::parse_timestamp(text, zone))?;
            put(v, nulls, value);
        }
        (Read::Decimal { from, precision, scale }, Values::Int128(v)) => {
            let value = decimal_value(schema, cursor, from, *precision, *scale, notes)?;
            put(v, nulls, value);
        }
        (Read::DecimalText(blob, scale), Values::Text(_)) => match available_bytes(blob.read(cursor)?, notes) {
            Some(bytes) => column.push_text(&Unscaled::of(bytes)?.to_text(*scale)?)?,
            None => column.push_null(),
        },
        (Read::VariableText(parts), Values::Text(_)) => match parts.read(schema, cursor, notes)? {
            Some((scale, value)) => column.push_text(&value.to_text(scale)?)?,
            None => column.push_null(),
        },
        (Read::Binary(blob), Values::Binary(v)) => match available_bytes(blob.read(cursor)?, notes) {
            Some(bytes) => {
                v.bytes.extend_from_slice(bytes);
                v.close()?;
                nulls.append_non_null();
            }
            None => column.push_null(),
        },
        (Read::BinaryText(form, written), Values::Binary(v)) => match available(form.read(cursor)?, notes) {
            Some(text) => {
                bytes(text, *written, &mut v.bytes)?;
                v.close()?;
                nulls.append_non_null();
            }
            None => column.push_null(),
        },
        (Read::Uuid(form), Values::Bytes16(v)) => {
            let value = match available(form.read(cursor)?, notes) {
                Some(text) => Some(
                    uuid::Uuid::try_parse(text)
                        .map_err(|_| bad_value(format!("{:?} is no uuid", excerpt(text))))?
                        .into_bytes(),
                ),
                None => None,
            };
            put(v, nulls, value);
        }
        (Read::List(step), Values::List { ends, element }) => {
            let from = element.len();
            let before = std::mem::take(&mut notes.unavailable);
            items(cursor, |cursor| read(schema, cursor, step, element, notes))?;
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
        (Read::Struct(plan), Values::Struct(columns)) => {
            let row = nulls.len();
            plan.read(schema, cursor, columns, row, Take::All, notes)?;
            columns.iter_mut().filter(|c| c.len() == row).for_each(ColumnBuilder::push_null);
            nulls.append_non_null();
        }
        (Read::Map(step), Values::Map { .. }) => map(schema, cursor, (None, &Text::Written), step, column, notes)?,
        (Read::Pairs { optional, key, value }, Values::Map { .. }) => {
            map(schema, cursor, (*optional, key), value, column, notes)?;
        }
        (Read::Json(node), Values::Text(v)) => {
            let mut text = Vec::new();
            if !any_text(schema, *node, cursor, &mut text)? {
                column.push_null();
                return Ok(());
            }
            let is_json = !matches!(schema.kind(*node), Kind::Text | Kind::Enum(_));
            let written = std::str::from_utf8(&text).unwrap_or_default();
            if is_unavailable(written) || is_json && is_unavailable_json(written) {
                notes.unavailable = true;
                column.push_null();
                return Ok(());
            }
            v.bytes.append(&mut text);
            v.close()?;
            nulls.append_non_null();
        }
        // A step is made for the column's own type, so no other pair meets.
        _ => return Err(bad_value("the column's type changed under its reader")),
    }
    Ok(())
}

fn map(
    schema: &Schema,
    cursor: &mut Cursor<'_>,
    (optional, key): (Option<Optional>, &Text),
    value: &Step,
    column: &mut ColumnBuilder,
    notes: &mut Notes,
) -> Fallible<()> {
    let Values::Map { ends, keys, values } = &mut column.values else {
        return Err(bad_value("the column's type changed under its reader"));
    };
    let from = keys.len();
    let mut seen = HashSet::new();
    let mut unavailable = false;
    items(cursor, |cursor| {
        if let Some(optional) = optional
            && !optional.has_value(cursor)?
        {
            return Err(bad_value("the map has a key that is null"));
        }
        let key = key.read(cursor)?;
        unavailable |= key == UNAVAILABLE;
        if !seen.insert(key.to_owned()) {
            return Err(bad_value(format!("the map has the key {:?} twice", excerpt(key))));
        }
        keys.push_text(key)?;
        read(schema, cursor, value, values, notes)
    })?;
    if unavailable {
        notes.unavailable = true;
        keys.truncate(from);
        values.truncate(from);
        column.push_null();
    } else {
        ends.push(keys.len())?;
        column.nulls.append_non_null();
    }
    Ok(())
}

impl Text {
    #[inline]
    pub(super) fn read<'t, 'a: 't>(&'t self, cursor: &mut Cursor<'a>) -> Fallible<&'t str> {
        match self {
            Text::Written => cursor.text(),
            Text::Symbols(symbols) => {
                let index = cursor.index(symbols.len())?;
                Ok(symbols.get(index).map_or("", String::as_str)) // `index` is one of theirs
            }
        }
    }
}

impl Blob {
    #[inline]
    fn read<'a>(self, cursor: &mut Cursor<'a>) -> Fallible<&'a [u8]> {
        match self {
            Blob::Counted => cursor.bytes(),
            Blob::Fixed(len) => cursor.fixed(len),
        }
    }
}

impl Variable {
    /// The scale and the unscaled value; `None` where it is unavailable.
    fn read(&self, schema: &Schema, cursor: &mut Cursor<'_>, notes: &mut Notes) -> Fallible<Option<(i32, Unscaled)>> {
        let (mut scale, mut value) = (None, None);
        for part in &self.0 {
            match part {
                VariablePart::Scale => scale = i32::try_from(cursor.long()?).ok(),
                VariablePart::Value(blob) => match available_bytes(blob.read(cursor)?, notes) {
                    Some(bytes) => value = Some(Unscaled::of(bytes)?),
                    None => value = None,
                },
                VariablePart::Nothing(node) => schema.skip(*node, cursor, 0)?,
            }
        }
        match (scale, value) {
            (Some(scale), Some(value)) => Ok(Some((scale, value))),
            _ if notes.unavailable => Ok(None),
            _ => Err(bad_value("a variable decimal needs scale and value")),
        }
    }
}

/// The text, `None` (and noted) where it is Debezium's placeholder.
#[inline]
fn available<'v>(text: &'v str, notes: &mut Notes) -> Option<&'v str> {
    let unavailable = is_unavailable(text);
    notes.unavailable |= unavailable;
    (!unavailable).then_some(text)
}

/// The same of bytes.
#[inline]
fn available_bytes<'v>(bytes: &'v [u8], notes: &mut Notes) -> Option<&'v [u8]> {
    let unavailable = is_unavailable_bytes(bytes);
    notes.unavailable |= unavailable;
    (!unavailable).then_some(bytes)
}

#[inline]
fn put<T: Default>(values: &mut Vec<T>, nulls: &mut arrow_buffer::NullBufferBuilder, value: Option<T>) {
    nulls.append(value.is_some());
    values.push(value.unwrap_or_default());
}

/// Adds a value, or what stands for an infinite one.
#[inline]
fn put_finite<T: Default>(
    values: &mut Vec<T>,
    nulls: &mut arrow_buffer::NullBufferBuilder,
    notes: &mut Notes,
    value: Finite<T>,
    clamped: impl Fn(End) -> T,
) -> Fallible<()> {
    put(values, nulls, notes.finite(value, clamped)?);
    Ok(())
}

fn finite_text<T>(
    cursor: &mut Cursor<'_>,
    form: &Text,
    notes: &mut Notes,
    clamped: impl Fn(End) -> T,
    parse: impl Fn(&str) -> Fallible<T>,
) -> Fallible<Option<T>> {
    let Some(text) = available(form.read(cursor)?, notes) else { return Ok(None) };
    let value = time::finite(text, parse)?;
    notes.finite(value, clamped)
}

fn decimal_value(
    schema: &Schema,
    cursor: &mut Cursor<'_>,
    from: &Decimal,
    precision: u8,
    scale: u8,
    notes: &mut Notes,
) -> Fallible<Option<i128>> {
    match from {
        Decimal::Unscaled(blob, have) => available_bytes(blob.read(cursor)?, notes)
            .map(|bytes| Unscaled::of(bytes)?.fit(*have, precision, scale))
            .transpose(),
        Decimal::Variable(parts) => {
            parts.read(schema, cursor, notes)?.map(|(have, value)| value.fit(have, precision, scale)).transpose()
        }
        Decimal::Integer => decimal::fit_written(&cursor.long()?.to_string(), precision, scale).map(Some),
        Decimal::Double => {
            let value = cursor.double()?;
            if !value.is_finite() {
                return notes.not_finite(None);
            }
            // As its shortest digits, which is what JSON has.
            decimal::fit_written(&format!("{value:e}"), precision, scale).map(Some)
        }
        Decimal::Text(form) => {
            let Some(text) = available(form.read(cursor)?, notes) else { return Ok(None) };
            if decimal::is_infinite(text) {
                return notes.not_finite(None);
            }
            decimal::fit_written(text, precision, scale).map(Some)
        }
    }
}
