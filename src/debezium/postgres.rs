//! PostgreSQL's types as Debezium sends them by default, for records that carry no schema: the column that each becomes is the one that
//! it becomes from a record with schema.

use super::reader::Wire;
use super::time::Unit;
use crate::change::{Column, ColumnType};

/// Digits of seconds up to which Debezium counts times and timestamps in milliseconds.
const MILLIS_DIGITS: i32 = 3;
/// Digits after the point of an amount of money (`money.fraction.digits`).
const MONEY_SCALE: i32 = 2;

/// The column type for a PostgreSQL type, and how its values are written where the column's type does not tell. `name` and `modifier` are
/// those of `pg_type` and `pg_attribute`: of the base type where it is a domain, of the elements where it is an array. What is unknown
/// here (enums, composites, types of extensions) is text.
pub fn column_type(name: &str, modifier: i32, is_array: bool) -> (ColumnType, Option<Wire>) {
    let (column_type, wire) = scalar(name, modifier);
    // Debezium's schema for an array of bits is that of one value.
    if is_array && name != "bit" {
        return (ColumnType::List(Box::new(column_type)), wire);
    }
    (column_type, wire)
}

fn scalar(name: &str, modifier: i32) -> (ColumnType, Option<Wire>) {
    use ColumnType as T;
    let unit = if (0..=MILLIS_DIGITS).contains(&modifier) { Unit::Millis } else { Unit::Micros };
    let column_type = match name {
        "bool" => T::Boolean,
        "int2" | "int4" => T::Int,
        // By default an interval is its length in microseconds.
        "int8" | "oid" | "interval" => T::Long,
        "float4" => T::Float,
        "float8" => T::Double,
        "numeric" => return numeric(modifier),
        "money" => return (T::String, Some(Wire::Unscaled(MONEY_SCALE))),
        "bit" | "varbit" if modifier == 1 => T::Boolean,
        "bytea" | "bit" | "varbit" => T::Binary,
        "date" => T::Date,
        "time" => return (T::Time, Some(Wire::Counts(unit))),
        "timestamp" => return (T::Timestamp, Some(Wire::Counts(unit))),
        "timestamptz" => T::TimestampTz,
        "uuid" => T::Uuid,
        "point" => point(),
        "line" => structure([("a", T::Double), ("b", T::Double), ("c", T::Double)]),
        "circle" => structure([("center", point()), ("radius", T::Double)]),
        "lseg" | "box" | "path" | "polygon" | "geometry" | "geography" => {
            let extensions = T::Map(Box::new(T::String));
            structure([("wkb", T::Binary), ("srid", T::Int), ("extensions", extensions)])
        }
        "vector" => T::List(Box::new(T::Double)),
        "halfvec" => T::List(Box::new(T::Float)),
        // The map's keys are numbers: it is kept as the text of its JSON.
        "sparsevec" => structure([("dimensions", T::Int), ("vector", T::String)]),
        _ => T::String,
    };
    (column_type, None)
}

/// `numeric(p,s)` in `decimal.handling.mode=precise`. Without modifier each value says its own scale.
fn numeric(modifier: i32) -> (ColumnType, Option<Wire>) {
    const HEADER: i32 = 4;
    if modifier < HEADER {
        return (ColumnType::String, None);
    }
    let precision = ((modifier - HEADER) >> 16) & 0xffff;
    // 11 bits with a sign.
    let scale = (((modifier - HEADER) & 0x7ff) ^ 0x400) - 0x400;
    let column_type = if (1..=38).contains(&precision) && (0..=precision).contains(&scale) {
        ColumnType::Decimal { precision: precision as u8, scale: scale as u8 }
    } else {
        ColumnType::String
    };
    (column_type, Some(Wire::Unscaled(scale)))
}

fn point() -> ColumnType {
    use ColumnType as T;
    structure([("x", T::Double), ("y", T::Double), ("wkb", T::Binary), ("srid", T::Int)])
}

fn structure<const N: usize>(fields: [(&str, ColumnType); N]) -> ColumnType {
    ColumnType::Struct(fields.into_iter().map(|(name, column_type)| Column::new(name, column_type)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    /// As `pg_attribute.atttypmod` has it.
    fn numeric_modifier(precision: i32, scale: i32) -> i32 {
        ((precision << 16) | (scale & 0x7ff)) + 4
    }

    #[rstest]
    #[case("int2", -1, "int", None)]
    #[case("oid", -1, "long", None)]
    #[case("float4", -1, "float", None)]
    #[case("numeric", -1, "string", None)]
    #[case("numeric", numeric_modifier(10, 2), "decimal(10,2)", Some(Wire::Unscaled(2)))]
    #[case("numeric", numeric_modifier(38, 38), "decimal(38,38)", Some(Wire::Unscaled(38)))]
    #[case::too_many_digits("numeric", numeric_modifier(50, 10), "string", Some(Wire::Unscaled(10)))]
    #[case::negative_scale("numeric", numeric_modifier(3, -2), "string", Some(Wire::Unscaled(-2)))]
    #[case::scale_beyond_precision("numeric", numeric_modifier(3, 5), "string", Some(Wire::Unscaled(5)))]
    #[case("money", -1, "string", Some(Wire::Unscaled(2)))]
    #[case("bit", 1, "boolean", None)]
    #[case("bit", 8, "binary", None)]
    #[case("varbit", -1, "binary", None)]
    #[case("time", -1, "time", Some(Wire::Counts(Unit::Micros)))]
    #[case("time", 3, "time", Some(Wire::Counts(Unit::Millis)))]
    #[case("timestamp", 0, "timestamp", Some(Wire::Counts(Unit::Millis)))]
    #[case("timestamp", 4, "timestamp", Some(Wire::Counts(Unit::Micros)))]
    #[case("timestamptz", 3, "timestamptz", None)]
    #[case("timetz", -1, "string", None)]
    #[case("interval", -1, "long", None)]
    #[case("hstore", -1, "string", None)]
    #[case::an_enum("", -1, "string", None)]
    #[case("vector", 3, "list<double>", None)]
    fn a_type_is_what_debezium_makes_of_it(
        #[case] name: &str,
        #[case] modifier: i32,
        #[case] want: &str,
        #[case] wire: Option<Wire>,
    ) {
        let (column_type, how) = column_type(name, modifier, false);
        assert_eq!((column_type.to_string().as_str(), how), (want, wire));
    }

    #[test]
    fn an_array_is_a_list_of_what_its_elements_are() {
        let numbers = column_type("numeric", numeric_modifier(10, 2), true);
        assert_eq!((numbers.0.to_string().as_str(), numbers.1), ("list<decimal(10,2)>", Some(Wire::Unscaled(2))));
        let times = column_type("timestamp", 3, true);
        assert_eq!((times.0.to_string().as_str(), times.1), ("list<timestamp>", Some(Wire::Counts(Unit::Millis))));
        assert_eq!(column_type("", -1, true).0.to_string(), "list<string>");
        assert_eq!(column_type("bit", 8, true).0, ColumnType::Binary);
    }
}
