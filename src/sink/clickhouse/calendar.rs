//! Partitions that can be told without asking ClickHouse: the usual expressions over days.
//!
//! Rows may be told apart that ClickHouse puts together, never the other way round: then each goes by an insert of its own.

use arrow_array::cast::AsArray;
use arrow_array::types::Date32Type;
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_cast::cast;
use arrow_schema::{DataType, TimeUnit};

use super::sql::split_at_commas;
use super::types::{bare, parts};

/// Functions that give one value for all of a day.
const OF_A_DAY: &[&str] = &["toDate", "toDate32", "toYYYYMMDD", "toStartOfDay", "toStartOfWeek", "toMonday"];
/// And for all of a month.
const OF_A_MONTH: &[&str] = &["toYYYYMM", "toStartOfMonth", "toStartOfQuarter", "toStartOfYear", "toYear"];

/// One part of a partition key: `toDate(event_ts)`, or a column alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum KeyPart {
    Column(String),
    Day(String),
    Month(String),
}

/// The parts of an expression of which each is one of these; `None` where ClickHouse has to be asked. `server_zone` is the zone of columns
/// that have none of their own.
pub(super) fn parse(expression: &str, columns: &[(String, String)], server_zone: &str) -> Option<Vec<KeyPart>> {
    let list = expression.trim();
    let list = list.strip_prefix("tuple").unwrap_or(list).trim();
    let list = match list.strip_prefix('(').and_then(|list| list.strip_suffix(')')) {
        Some(inner) => inner,
        None => expression,
    };
    split_at_commas(list).into_iter().map(|part| parse_part(part, columns, server_zone)).collect()
}

fn parse_part(part: &str, columns: &[(String, String)], server_zone: &str) -> Option<KeyPart> {
    let column = |name: &str| {
        let name = name.trim().trim_matches('`');
        columns.iter().find(|(column, _)| column == name)
    };
    if let Some((name, column_type)) = column(part) {
        // As text, two values that are equal to ClickHouse must not differ; the other way round is fine.
        return matches!(parts(column_type).0, "String" | "LowCardinality" | "UUID" | "Date" | "Date32" | "Bool")
            .then(|| KeyPart::Column(name.clone()))
            .or_else(|| column_type.contains("Int").then(|| KeyPart::Column(name.clone())));
    }
    let (function, argument) = parts(part);
    let (name, column_type) = column(argument)?;
    let (base, inner) = parts(bare(column_type));
    let zone = match base {
        "Date" | "Date32" => "UTC",
        "DateTime" => zone_of(Some(inner), server_zone),
        "DateTime64" => zone_of(split_at_commas(inner).get(1).copied(), server_zone),
        _ => return None,
    };
    match function {
        _ if !matches!(zone, "UTC" | "Etc/UTC") => None,
        f if OF_A_DAY.contains(&f) => Some(KeyPart::Day(name.clone())),
        f if OF_A_MONTH.contains(&f) => Some(KeyPart::Month(name.clone())),
        _ => None,
    }
}

fn zone_of<'a>(named: Option<&'a str>, server_zone: &'a str) -> &'a str {
    match named.map(|zone| zone.trim_matches('\'')) {
        None | Some("") => server_zone,
        Some(zone) => zone,
    }
}

/// The value of each row; `None` where the rows lack a column, or have another type than the table.
pub(super) fn values(parts: &[KeyPart], rows: &RecordBatch) -> Option<Vec<String>> {
    let mut values = vec![String::new(); rows.num_rows()];
    for part in parts {
        let texts = match part {
            KeyPart::Column(name) => {
                cast(rows.column_by_name(name)?, &DataType::Utf8).ok().or_else(|| hex(rows.column_by_name(name)?))?
            }
            KeyPart::Day(name) => cast(&days(rows.column_by_name(name)?)?, &DataType::Utf8).ok()?,
            KeyPart::Month(name) => cast(&days(rows.column_by_name(name)?)?, &DataType::Utf8).ok()?,
        };
        for (row, value) in values.iter_mut().enumerate() {
            let text = texts.as_string_opt::<i32>().filter(|t| t.is_valid(row))?.value(row);
            let text = match part {
                // Without the day.
                KeyPart::Month(_) => text.rsplit_once('-')?.0,
                _ => text,
            };
            if !value.is_empty() {
                value.push(',');
            }
            value.push_str(text);
        }
    }
    Some(values)
}

fn hex(values: &ArrayRef) -> Option<ArrayRef> {
    let bytes = values.as_fixed_size_binary_opt()?;
    let text = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    Some(std::sync::Arc::new(arrow_array::StringArray::from_iter(bytes.iter().map(|value| value.map(text)))))
}

fn days(values: &ArrayRef) -> Option<ArrayRef> {
    match values.data_type() {
        DataType::Date32 => Some(values.clone()),
        DataType::Timestamp(
            TimeUnit::Second | TimeUnit::Millisecond | TimeUnit::Microsecond | TimeUnit::Nanosecond,
            _,
        ) => {
            let days = cast(values, &DataType::Date32).ok()?;
            days.as_primitive_opt::<Date32Type>().is_some().then_some(days)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{Int32Array, TimestampMillisecondArray};
    use rstest::rstest;

    use super::*;

    fn columns(of_at: &str) -> Vec<(String, String)> {
        vec![("at".to_owned(), of_at.to_owned()), ("region".to_owned(), "LowCardinality(String)".to_owned())]
    }

    #[rstest]
    #[case("toDate(at)", "DateTime64(3)", Some(vec![KeyPart::Day("at".to_owned())]))]
    #[case("(toYYYYMM(at), region)", "DateTime64(6, 'UTC')", Some(vec![KeyPart::Month("at".to_owned()), KeyPart::Column("region".to_owned())]))]
    #[case("tuple(toDate(at))", "Date", Some(vec![KeyPart::Day("at".to_owned())]))]
    #[case::a_zone_has_other_days("toDate(at)", "DateTime64(3, 'Asia/Tokyo')", None)]
    #[case::so_has_a_function("toDate(at, 'Asia/Tokyo')", "DateTime64(3)", None)]
    #[case::any_other("toDate(at) + 1", "DateTime64(3)", None)]
    #[case::any_other("cityHash64(region) % 8", "DateTime64(3)", None)]
    fn the_usual_expressions_are_known(
        #[case] expression: &str,
        #[case] of_at: &str,
        #[case] want: Option<Vec<KeyPart>>,
    ) {
        assert_eq!(parse(expression, &columns(of_at), "Etc/UTC"), want);
    }

    #[test]
    fn a_server_elsewhere_has_other_days() {
        assert_eq!(parse("toDate(at)", &columns("DateTime64(3)"), "Europe/Berlin"), None);
        assert_eq!(parse("toDate(at)", &columns("DateTime"), "Europe/Berlin"), None);
    }

    #[test]
    fn each_row_has_its_value() {
        let at = TimestampMillisecondArray::from(vec![0, 86_399_999, 86_400_000, -1]).with_timezone("+00:00");
        let rows = RecordBatch::try_from_iter([
            ("at", Arc::new(at) as ArrayRef),
            ("n", Arc::new(Int32Array::from(vec![1, 1, 2, 2])) as ArrayRef),
        ])
        .unwrap();
        let both = [KeyPart::Day("at".to_owned()), KeyPart::Column("n".to_owned())];
        assert_eq!(values(&both, &rows).unwrap(), ["1970-01-01,1", "1970-01-01,1", "1970-01-02,2", "1969-12-31,2"]);
        assert_eq!(values(&[KeyPart::Month("at".to_owned())], &rows).unwrap()[3], "1969-12");
        assert_eq!(values(&[KeyPart::Column("none".to_owned())], &rows), None);
    }
}
