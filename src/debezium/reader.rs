//! How a value gets from its JSON into a column: chosen once for each field of a schema, then used for every row.

use super::connect::Encoding;
use super::object::ObjectReader;
use super::time::{Unit, Zone};
use crate::change::ColumnType;

/// How the values of a column are written, where neither a schema nor their type tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// Integers of a time, timestamp or timestamptz column count in this unit (µs unless declared).
    Counts(Unit),
    /// Strings of a decimal column are written numbers (`decimal.handling.mode=string`), also where base64 could be meant.
    DecimalText,
    /// Strings of a binary column are hexadecimal digits (`binary.handling.mode=hex`), not base64.
    Hex,
    /// Strings of a decimal or text column are base64 of the unscaled value of a decimal with this scale.
    Unscaled(i32),
    /// Nobody says what integers of a time, timestamp or timestamptz column count: they are refused.
    Unsaid,
}

/// One value's way into one column. `Any…` decide by the value itself: records without schema block.
#[derive(Clone, Debug)]
pub(super) enum Reader {
    Boolean,
    /// 0 and 1 too.
    AnyBoolean,
    Int,
    Long,
    Float,
    /// A float, kept with a float's precision as Iceberg's promotion does.
    FloatAsDouble,
    Double,
    Days,
    DateText,
    AnyDate,
    Time(Unit),
    TimeText,
    AnyTime(Unit),
    Timestamp(Unit),
    TimestampText(Zone),
    AnyTimestamp(Unit, Zone),
    Decimal {
        from: DecimalForm,
        precision: u8,
        scale: u8,
    },
    Text,
    /// A `Decimal` of this scale, written out.
    DecimalText(i32),
    /// The same, and numbers as they are.
    AnyDecimalText(i32),
    VariableDecimalText,
    /// Strings as they are, anything else as the text of its JSON.
    AnyText,
    Binary(BytesForm),
    Uuid,
    List(Box<Reader>),
    Struct(ObjectReader),
    Map(Box<Reader>),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum DecimalForm {
    Unscaled(i32),
    Variable,
    Written,
    /// Without schema block.
    Any(DecimalStrings),
}

/// What strings of a decimal column are in a record without schema block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DecimalStrings {
    /// Written numbers for sure.
    Written,
    /// Base64 of the unscaled value at this scale, where they may be.
    Unscaled(i32),
}

/// How a string says bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BytesForm {
    /// With either alphabet.
    Base64,
    Hex,
}

impl BytesForm {
    fn of(wire: Option<Wire>) -> Self {
        if wire == Some(Wire::Hex) { BytesForm::Hex } else { BytesForm::Base64 }
    }
}

/// Whether only what the types themselves promise may be read, or also what the configuration has declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// Iceberg's promotions and what else loses nothing.
    Promotion,
    /// The column's type was declared, and maybe how its values are written: a value that does not fit is rejected by itself.
    Declared(Option<Wire>),
}

/// How to read `encoding` into a column of type `target`; `None` if that column cannot hold such values.
pub(super) fn reader(encoding: &Encoding, target: &ColumnType, fit: Fit) -> Option<Reader> {
    use ColumnType as T;
    use Encoding as E;
    let (declared, wire) = match fit {
        Fit::Declared(wire) => (true, wire),
        Fit::Promotion => (false, None),
    };
    let decimal = |from| match *target {
        T::Decimal { precision, scale } => Some(Reader::Decimal { from, precision, scale }),
        _ => None,
    };
    Some(match (encoding, target) {
        (E::Boolean, T::Boolean) => Reader::Boolean,
        (E::Integer { short: true }, T::Int) => Reader::Int,
        (E::Integer { .. }, T::Long) => Reader::Long,
        (E::Integer { .. }, T::Decimal { .. }) => decimal(DecimalForm::Written)?,
        (E::Integer { .. }, T::Int) if declared => Reader::Int,
        (E::Integer { .. }, T::Double) if declared => Reader::Double,
        (E::Integer { .. }, T::Boolean) if declared => Reader::AnyBoolean,
        (E::Float, T::Float) => Reader::Float,
        (E::Float, T::Double) => Reader::FloatAsDouble,
        (E::Double, T::Double) => Reader::Double,
        (E::Double, T::Decimal { .. }) if declared => decimal(DecimalForm::Written)?,
        (E::Decimal { precision, scale }, T::Decimal { precision: p, scale: s }) => {
            let (have, want) = (*scale, i32::from(*s));
            // Without a precision only the value can tell whether it fits.
            let digits_fit = precision.is_none_or(|have_p| i32::from(*p) - want >= i32::from(have_p) - have);
            if !(declared || want >= have && digits_fit) {
                return None;
            }
            decimal(DecimalForm::Unscaled(have))?
        }
        (E::Decimal { precision: None, scale }, T::String) => Reader::DecimalText(*scale),
        (E::Decimal { scale, .. }, T::String) if declared => Reader::DecimalText(*scale),
        (E::VariableDecimal, T::String) => Reader::VariableDecimalText,
        (E::VariableDecimal, T::Decimal { .. }) => decimal(DecimalForm::Variable)?,
        (E::Text | E::Uuid, T::String) => Reader::Text,
        (E::Text, T::Decimal { .. }) if declared => decimal(DecimalForm::Written)?,
        (E::Text, T::Double) if declared => Reader::Double,
        (E::Text, T::Binary) if declared => Reader::Binary(BytesForm::of(wire)),
        (E::Text, T::Uuid) if declared => Reader::Uuid,
        (E::Text, T::Date) if declared => Reader::DateText,
        (E::Text, T::Time) if declared => Reader::TimeText,
        (E::Text, T::Timestamp) if declared => Reader::TimestampText(Zone::Ignored),
        (E::Text, T::TimestampTz) if declared => Reader::TimestampText(Zone::Applied),
        (E::Uuid, T::Uuid) => Reader::Uuid,
        (E::Bytes, T::Binary) => Reader::Binary(BytesForm::Base64),
        (E::Days, T::Date) => Reader::Days,
        (E::DateText, T::Date) => Reader::DateText,
        (E::TimeOfDay(unit), T::Time) => Reader::Time(*unit),
        (E::TimeText, T::Time) => Reader::TimeText,
        (E::Timestamp(unit), T::Timestamp) => Reader::Timestamp(*unit),
        (E::Timestamp(unit), T::TimestampTz) if declared => Reader::Timestamp(*unit),
        (E::TimestampText, T::Timestamp) => Reader::TimestampText(Zone::Ignored),
        (E::ZonedTimestampText, T::TimestampTz) => Reader::TimestampText(Zone::Applied),
        (E::Days | E::TimeOfDay(_) | E::Timestamp(_), T::Long) if declared => Reader::Long,
        (E::List(element), T::List(into)) => Reader::List(Box::new(reader(element, into, fit)?)),
        (E::Map(value), T::Map(into)) => Reader::Map(Box::new(reader(value, into, fit)?)),
        (E::Struct(fields), T::Struct(columns)) => {
            let members = fields.iter().map(|(name, encoding)| {
                let at = columns.iter().position(|c| c.name == *name)?;
                Some((name.clone(), at, reader(encoding, &columns.get(at)?.column_type, fit)?))
            });
            Reader::Struct(ObjectReader::of_known(members.collect::<Option<Vec<_>>>()?))
        }
        (E::Json, T::String) => Reader::AnyText,
        (_, T::String) if declared => Reader::AnyText,
        _ => return None,
    })
}

/// How to read a value of unknown encoding into a column of type `target`.
pub(super) fn any_reader(target: &ColumnType, wire: Option<Wire>) -> Reader {
    use ColumnType as T;
    let unit = match wire {
        Some(Wire::Counts(unit)) => Some(unit),
        Some(Wire::Unsaid) => None,
        _ => Some(Unit::Micros),
    };
    let timestamp = |zone| match unit {
        Some(unit) => Reader::AnyTimestamp(unit, zone),
        None => Reader::TimestampText(zone),
    };
    match target {
        T::Boolean => Reader::AnyBoolean,
        T::Int => Reader::Int,
        T::Long => Reader::Long,
        T::Float => Reader::Float,
        T::Double => Reader::Double,
        T::Decimal { precision, scale } => {
            let strings = match wire {
                Some(Wire::DecimalText) => DecimalStrings::Written,
                Some(Wire::Unscaled(scale)) => DecimalStrings::Unscaled(scale),
                _ => DecimalStrings::Unscaled(i32::from(*scale)),
            };
            Reader::Decimal { from: DecimalForm::Any(strings), precision: *precision, scale: *scale }
        }
        T::Date => Reader::AnyDate,
        T::Time => unit.map_or(Reader::TimeText, Reader::AnyTime),
        T::Timestamp => timestamp(Zone::Ignored),
        T::TimestampTz => timestamp(Zone::Applied),
        T::String => match wire {
            Some(Wire::Unscaled(scale)) => Reader::AnyDecimalText(scale),
            _ => Reader::AnyText,
        },
        T::Uuid => Reader::Uuid,
        T::Binary => Reader::Binary(BytesForm::of(wire)),
        T::List(element) => Reader::List(Box::new(any_reader(element, wire))),
        T::Map(value) => Reader::Map(Box::new(any_reader(value, wire))),
        T::Struct(columns) => {
            let members = columns.iter().enumerate();
            Reader::Struct(ObjectReader::of_known(
                members.map(|(at, c)| (c.name.clone(), at, any_reader(&c.column_type, wire))).collect(),
            ))
        }
    }
}
