//! A partition, as a condition that Trino can prune by. Pure.

use chrono::{DateTime, Days, Months, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta};
use iceberg::spec::{PrimitiveType, TableMetadata, Transform, Type};

/// The condition of a partition of the current spec that paths write as `partition`; `None` where there is none (buckets, truncated values,
/// types whose text differs). Empty for a table without partitions.
pub fn condition(metadata: &TableMetadata, partition: &str) -> Option<String> {
    let spec = metadata.default_partition_spec();
    let terms: Option<Vec<String>> = partition
        .split('/')
        .filter(|part| !part.is_empty())
        .map(|part| {
            let (name, value) = part.split_once('=')?;
            let field = spec.fields().iter().find(|f| f.name == name)?;
            let schema = metadata.current_schema();
            let column = schema.field_by_id(field.source_id)?;
            let Type::Primitive(kind) = column.field_type.as_ref() else { return None };
            let column = super::quoted(schema.name_by_field_id(field.source_id)?);
            term(&column, kind, field.transform, value)
        })
        .collect();
    terms.map(|terms| terms.join(" AND "))
}

fn term(column: &str, kind: &PrimitiveType, transform: Transform, value: &str) -> Option<String> {
    if value == "null" {
        // A text of that name stands there likewise.
        return (*kind != PrimitiveType::String).then(|| format!("{column} IS NULL"));
    }
    // Paths write what is none of these in hexadecimal.
    if value.contains(['%', '\'', '+']) {
        return None;
    }
    if transform == Transform::Identity {
        let sql = match kind {
            PrimitiveType::String => "varchar",
            PrimitiveType::Int => "integer",
            PrimitiveType::Long => "bigint",
            PrimitiveType::Date => "date",
            PrimitiveType::Boolean => "boolean",
            _ => return None,
        };
        return Some(format!("{column} = CAST('{value}' AS {sql})"));
    }
    let (from, to) = range(transform, value)?;
    let literal = |at: NaiveDateTime| match kind {
        PrimitiveType::Date => Some(format!("DATE '{}'", at.date())),
        PrimitiveType::Timestamp => Some(format!("TIMESTAMP '{at}'")),
        PrimitiveType::Timestamptz => Some(format!("TIMESTAMP '{at} UTC'")),
        _ => None,
    };
    Some(format!("{column} >= {} AND {column} < {}", literal(from)?, literal(to)?))
}

/// From the beginning of a year, month, day or hour to its end.
fn range(transform: Transform, value: &str) -> Option<(NaiveDateTime, NaiveDateTime)> {
    let date = |text: String| text.parse::<NaiveDate>().ok().map(|date| date.and_time(NaiveTime::MIN));
    Some(match transform {
        Transform::Year => {
            let from = date(format!("{value}-01-01"))?;
            (from, from.checked_add_months(Months::new(12))?)
        }
        Transform::Month => {
            let from = date(format!("{value}-01"))?;
            (from, from.checked_add_months(Months::new(1))?)
        }
        Transform::Day => {
            let from = date(value.to_owned())?;
            (from, from.checked_add_days(Days::new(1))?)
        }
        Transform::Hour => {
            let (day, hour) = value.rsplit_once('-')?;
            let from = DateTime::parse_from_rfc3339(&format!("{day}T{hour}:00:00Z")).ok()?.naive_utc();
            (from, from.checked_add_signed(TimeDelta::hours(1))?)
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(PrimitiveType::String, Transform::Identity, "eu", Some("c = CAST('eu' AS varchar)"))]
    #[case(PrimitiveType::Long, Transform::Identity, "7", Some("c = CAST('7' AS bigint)"))]
    #[case(PrimitiveType::Long, Transform::Identity, "null", Some("c IS NULL"))]
    #[case(PrimitiveType::String, Transform::Identity, "null", None)]
    #[case(PrimitiveType::String, Transform::Identity, "a%2Fb", None)]
    #[case(PrimitiveType::Date, Transform::Month, "2025-12", Some("c >= DATE '2025-12-01' AND c < DATE '2026-01-01'"))]
    #[case(
        PrimitiveType::Timestamptz,
        Transform::Day,
        "2026-02-28",
        Some("c >= TIMESTAMP '2026-02-28 00:00:00 UTC' AND c < TIMESTAMP '2026-03-01 00:00:00 UTC'")
    )]
    #[case(
        PrimitiveType::Timestamp,
        Transform::Hour,
        "2026-01-01-23",
        Some("c >= TIMESTAMP '2026-01-01 23:00:00' AND c < TIMESTAMP '2026-01-02 00:00:00'")
    )]
    #[case(PrimitiveType::Long, Transform::Bucket(4), "1", None)]
    fn a_partition_is_a_condition_where_one_says_the_same(
        #[case] kind: PrimitiveType,
        #[case] transform: Transform,
        #[case] value: &str,
        #[case] expected: Option<&str>,
    ) {
        assert_eq!(term("c", &kind, transform, value).as_deref(), expected);
    }
}
