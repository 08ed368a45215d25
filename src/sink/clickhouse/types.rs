//! ClickHouse's types: which one a column of the SELECT gets, and as which Arrow type a value of one is sent.

use arrow_schema::{DataType, Field, TimeUnit};

use super::sql::{name, split_at_commas};

/// The type that a column gets, where nobody declared another.
///
/// A timestamp without a zone is a wall clock: it is shown as such only where the column's zone is UTC too, whatever the server's.
pub(super) fn of_arrow(arrow: &DataType) -> Option<String> {
    let part = |field: &Field| {
        Some(if field.is_nullable() { nullable(&of_arrow(field.data_type())?) } else { of_arrow(field.data_type())? })
    };
    Some(match arrow {
        DataType::Boolean => "Bool".to_owned(),
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => arrow.to_string(),
        DataType::UInt8 | DataType::UInt16 | DataType::UInt32 | DataType::UInt64 => arrow.to_string(),
        DataType::Float16 | DataType::Float32 => "Float32".to_owned(),
        DataType::Float64 => "Float64".to_owned(),
        DataType::Decimal32(p, s)
        | DataType::Decimal64(p, s)
        | DataType::Decimal128(p, s)
        | DataType::Decimal256(p, s) => {
            format!("Decimal({p}, {s})")
        }
        DataType::Date32 | DataType::Date64 => "Date32".to_owned(),
        DataType::Timestamp(unit, _) => format!("DateTime64({}, 'UTC')", digits(*unit)),
        // ClickHouse's own time of day is new, and off by default.
        DataType::Time32(_) | DataType::Time64(_) => "String".to_owned(),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "String".to_owned(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => "String".to_owned(),
        DataType::FixedSizeBinary(16) => "UUID".to_owned(),
        DataType::FixedSizeBinary(length) => format!("FixedString({length})"),
        DataType::Dictionary(_, value) => format!("LowCardinality({})", of_arrow(value)?),
        DataType::List(element) | DataType::LargeList(element) | DataType::FixedSizeList(element, _) => {
            format!("Array({})", part(element)?)
        }
        DataType::Struct(fields) => {
            let fields: Option<Vec<_>> =
                fields.iter().map(|f| Some(format!("{} {}", name(f.name()), part(f)?))).collect();
            format!("Tuple({})", fields?.join(", "))
        }
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(entry) if entry.len() == 2 => {
                format!("Map({}, {})", of_arrow(entry[0].data_type())?, part(&entry[1])?)
            }
            _ => return None,
        },
        // Of an untyped NULL in the SELECT.
        DataType::Null => "String".to_owned(),
        _ => return None,
    })
}

fn digits(unit: TimeUnit) -> u8 {
    match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 3,
        TimeUnit::Microsecond => 6,
        TimeUnit::Nanosecond => 9,
    }
}

/// The same type with room for NULL, where ClickHouse has that: an array, a map or a tuple is empty instead.
pub(super) fn nullable(of: &str) -> String {
    let (base, inner) = parts(of);
    match base {
        "LowCardinality" => format!("LowCardinality({})", nullable(inner)),
        "Nullable"
        | "Array"
        | "Map"
        | "Tuple"
        | "Nested"
        | "Variant"
        | "Dynamic"
        | "JSON"
        | "Object"
        | "AggregateFunction"
        | "SimpleAggregateFunction" => of.to_owned(),
        _ => format!("Nullable({of})"),
    }
}

/// Whether a column of this type takes NULL.
pub(super) fn takes_null(of: &str) -> bool {
    let (base, inner) = parts(of);
    match base {
        "LowCardinality" => takes_null(inner),
        "Nullable" | "Variant" | "Dynamic" => true,
        _ => false,
    }
}

/// Without `Nullable` and `LowCardinality`.
pub(super) fn bare(of: &str) -> &str {
    let (base, inner) = parts(of);
    match base {
        "LowCardinality" | "Nullable" => bare(inner),
        _ => of,
    }
}

/// `Array(String)` is `Array` and `String`.
pub(super) fn parts(of: &str) -> (&str, &str) {
    match of.split_once('(') {
        Some((base, rest)) => (base.trim(), rest.trim_end().strip_suffix(')').unwrap_or(rest)),
        None => (of.trim(), ""),
    }
}

/// A declaration's type, and what follows it (`DEFAULT now()`, `CODEC(...)`).
pub(super) fn declared(declaration: &str) -> (&str, &str) {
    let mut depth = 0_i32;
    let end = declaration.trim().char_indices().find(|(_, c)| {
        depth += i32::from(*c == '(') - i32::from(*c == ')');
        depth == 0 && c.is_whitespace()
    });
    match end {
        Some((end, _)) => (declaration.trim()[..end].trim(), declaration.trim()[end..].trim()),
        None => (declaration.trim(), ""),
    }
}

/// The Arrow type in which a value for a column of this type is sent: ClickHouse's own conversions of numbers wrap around without
/// a word, and its reading of dates in texts depends on settings, so firn converts. `None` where ClickHouse has to.
pub(super) fn wire(of: &str) -> Option<DataType> {
    let utc = || Some("UTC".into());
    let of = bare(of);
    let (base, inner) = parts(of);
    Some(match base {
        "Bool" => DataType::Boolean,
        "Int8" => DataType::Int8,
        "Int16" => DataType::Int16,
        "Int32" => DataType::Int32,
        "Int64" => DataType::Int64,
        "UInt8" => DataType::UInt8,
        "UInt16" => DataType::UInt16,
        "UInt32" => DataType::UInt32,
        "UInt64" => DataType::UInt64,
        "Float32" => DataType::Float32,
        "Float64" => DataType::Float64,
        "String" => DataType::Utf8,
        "UUID" => DataType::FixedSizeBinary(16),
        "Date" | "Date32" => DataType::Date32,
        "DateTime" => DataType::Timestamp(TimeUnit::Second, utc()),
        "DateTime64" => {
            let unit = match split_at_commas(inner)[0].parse::<u8>().ok()? {
                0 => TimeUnit::Second,
                1..=3 => TimeUnit::Millisecond,
                4..=6 => TimeUnit::Microsecond,
                _ => TimeUnit::Nanosecond,
            };
            DataType::Timestamp(unit, utc())
        }
        "Decimal" => {
            let numbers = split_at_commas(inner);
            let (precision, scale) = (numbers.first()?.parse().ok()?, numbers.get(1)?.parse().ok()?);
            if precision <= 38 {
                DataType::Decimal128(precision, scale)
            } else {
                DataType::Decimal256(precision, scale)
            }
        }
        "Array" => DataType::List(Field::new("item", wire(inner)?, takes_null(inner)).into()),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Column, ColumnType};
    use rstest::rstest;

    #[rstest]
    #[case(ColumnType::Uuid, "UUID")]
    #[case(ColumnType::String, "String")]
    #[case(ColumnType::Binary, "String")]
    #[case(ColumnType::Long, "Int64")]
    #[case(ColumnType::Boolean, "Bool")]
    #[case(ColumnType::Date, "Date32")]
    #[case(ColumnType::Time, "String")]
    #[case(ColumnType::TimestampTz, "DateTime64(6, 'UTC')")]
    #[case(ColumnType::Timestamp, "DateTime64(6, 'UTC')")]
    #[case(ColumnType::Decimal { precision: 10, scale: 2 }, "Decimal(10, 2)")]
    #[case(ColumnType::List(Box::new(ColumnType::Int)), "Array(Nullable(Int32))")]
    #[case(ColumnType::Map(Box::new(ColumnType::Double)), "Map(String, Nullable(Float64))")]
    #[case(ColumnType::Struct(vec![Column { name: "x".to_owned(), column_type: ColumnType::Double, key: false }]), "Tuple(`x` Nullable(Float64))")]
    fn a_column_gets_the_type_of_its_own(#[case] column_type: ColumnType, #[case] want: &str) {
        assert_eq!(of_arrow(&column_type.arrow()).unwrap(), want);
    }

    #[rstest]
    #[case("String", "Nullable(String)")]
    #[case("LowCardinality(String)", "LowCardinality(Nullable(String))")]
    #[case("DateTime64(3, 'UTC')", "Nullable(DateTime64(3, 'UTC'))")]
    #[case("Array(String)", "Array(String)")]
    fn a_type_gets_room_for_null(#[case] of: &str, #[case] want: &str) {
        assert_eq!(nullable(of), want);
        assert_eq!(nullable(want), want);
        assert_eq!(takes_null(want), !want.starts_with("Array"));
        assert_eq!(bare(want), bare(of));
    }

    #[test]
    fn a_declaration_may_have_more_than_a_type() {
        assert_eq!(declared("DateTime DEFAULT now()"), ("DateTime", "DEFAULT now()"));
        assert_eq!(declared(" DateTime64(3, 'UTC') "), ("DateTime64(3, 'UTC')", ""));
    }

    #[rstest]
    #[case("LowCardinality(Nullable(String))", Some(DataType::Utf8))]
    #[case("Nullable(DateTime64(3))", Some(DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()))))]
    #[case("Decimal(10, 2)", Some(DataType::Decimal128(10, 2)))]
    #[case("Decimal(76, 10)", Some(DataType::Decimal256(76, 10)))]
    #[case("Enum8('a' = 1)", None)]
    #[case("Array(Nullable(Int32))", Some(DataType::List(Field::new("item", DataType::Int32, true).into())))]
    fn a_value_is_sent_as_the_columns_own_type(#[case] of: &str, #[case] want: Option<DataType>) {
        assert_eq!(wire(of), want);
    }
}
