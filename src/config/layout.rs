//! How a table's files are divided and ordered: `day(created_at)`, `bucket(16, id)`, `created_at desc nulls last`.

use std::fmt;
use std::str::FromStr;

use iceberg::spec::{NullOrder, SortDirection, Transform};
use serde::{Deserialize, Serialize};

use super::error::nearest;

/// One partition field: a column behind one of Iceberg's transforms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PartitionBy {
    pub column: String,
    pub transform: Transform,
}

/// One sort field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SortBy {
    pub column: String,
    pub transform: Transform,
    pub direction: SortDirection,
    pub nulls: NullOrder,
}

const TRANSFORMS: [&str; 8] = ["identity", "year", "month", "day", "hour", "bucket", "truncate", "void"];

impl FromStr for PartitionBy {
    type Err = String;

    /// `column`, `transform(column)` or, for bucket and truncate, `transform(n, column)` and Trino's `transform(column, n)`.
    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let Some((name, rest)) = text.split_once('(') else {
            return Ok(Self { column: column(text)?, transform: Transform::Identity });
        };
        let inside = rest.strip_suffix(')').ok_or_else(|| format!("`{text}` lacks its closing `)`"))?;
        let arguments: Vec<&str> = inside.split(',').map(str::trim).collect();
        // `days(x)` is Spark's spelling.
        let lower = name.trim().to_ascii_lowercase();
        let name =
            lower.strip_suffix('s').filter(|n| matches!(*n, "year" | "month" | "day" | "hour")).unwrap_or(&lower);
        let plain = match name {
            "identity" => Some(Transform::Identity),
            "year" => Some(Transform::Year),
            "month" => Some(Transform::Month),
            "day" => Some(Transform::Day),
            "hour" => Some(Transform::Hour),
            "void" => Some(Transform::Void),
            _ => None,
        };
        if let Some(transform) = plain {
            return match arguments.as_slice() {
                [one] => Ok(Self { column: column(one)?, transform }),
                _ => Err(format!("{name} takes one column, as in `{name}(created_at)`")),
            };
        }
        let with_width = |width: u32| match name {
            "bucket" => Some(Transform::Bucket(width)),
            "truncate" => Some(Transform::Truncate(width)),
            _ => None,
        };
        if with_width(1).is_none() {
            let hint = nearest(name, TRANSFORMS).map_or_else(
                || format!("there are: {}", TRANSFORMS.join(", ")),
                |right| format!("did you mean `{right}`?"),
            );
            return Err(format!("unknown transform `{name}`, {hint}"));
        }
        let (width, of) = match arguments.as_slice() {
            [a, b] => match (a.parse::<u32>(), b.parse::<u32>()) {
                (Ok(width), Err(_)) => (width, *b),
                (Err(_), Ok(width)) => (width, *a),
                _ => (0, ""),
            },
            _ => (0, ""),
        };
        match with_width(width) {
            Some(transform) if width > 0 => Ok(Self { column: column(of)?, transform }),
            _ => Err(format!("{name} takes a positive number and a column, as in `{name}(16, id)`")),
        }
    }
}

impl FromStr for SortBy {
    type Err = String;

    /// A partition field's text, then optionally `asc` or `desc`, then optionally `nulls first` or `nulls last`. As in
    /// Iceberg, nulls stand first when ascending, last when descending.
    fn from_str(text: &str) -> Result<Self, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let lower: Vec<String> = words.iter().map(|w| w.to_ascii_lowercase()).collect();
        let lower: Vec<&str> = lower.iter().map(String::as_str).collect();
        let (nulls, end) = match lower.as_slice() {
            [.., "nulls", "first"] => (Some(NullOrder::First), lower.len() - 2),
            [.., "nulls", "last"] => (Some(NullOrder::Last), lower.len() - 2),
            _ => (None, lower.len()),
        };
        let (direction, end) = match end.checked_sub(1).and_then(|i| lower.get(i)) {
            Some(&"asc") => (SortDirection::Ascending, end - 1),
            Some(&"desc") => (SortDirection::Descending, end - 1),
            _ => (SortDirection::Ascending, end),
        };
        let field = words.get(..end).unwrap_or_default().join(" ");
        let PartitionBy { column, transform } = field.parse().map_err(|e: String| {
            format!("{e}; a sort field reads `created_at`, `created_at desc` or `id asc nulls last`")
        })?;
        let nulls = nulls.unwrap_or(match direction {
            SortDirection::Ascending => NullOrder::First,
            SortDirection::Descending => NullOrder::Last,
        });
        Ok(Self { column, transform, direction, nulls })
    }
}

fn column(text: &str) -> Result<String, String> {
    let ok = !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || matches!(c, '(' | ')' | ','));
    if ok { Ok(text.to_owned()) } else { Err(format!("`{text}` is not a column name")) }
}

fn field_text(f: &mut fmt::Formatter<'_>, column: &str, transform: Transform) -> fmt::Result {
    match transform {
        Transform::Identity => f.write_str(column),
        Transform::Bucket(n) => write!(f, "bucket({n}, {column})"),
        Transform::Truncate(n) => write!(f, "truncate({n}, {column})"),
        other => write!(f, "{other}({column})"),
    }
}

impl fmt::Display for PartitionBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        field_text(f, &self.column, self.transform)
    }
}

impl fmt::Display for SortBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        field_text(f, &self.column, self.transform)?;
        let direction = match self.direction {
            SortDirection::Ascending => "asc",
            SortDirection::Descending => "desc",
        };
        write!(f, " {direction} nulls {}", self.nulls)
    }
}

impl TryFrom<String> for PartitionBy {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<PartitionBy> for String {
    fn from(field: PartitionBy) -> Self {
        field.to_string()
    }
}

impl TryFrom<String> for SortBy {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<SortBy> for String {
    fn from(field: SortBy) -> Self {
        field.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("id", "id")]
    #[case("identity(id)", "id")]
    #[case("day(created_at)", "day(created_at)")]
    #[case("days( created_at )", "day(created_at)")]
    #[case("bucket(16, id)", "bucket(16, id)")]
    #[case("bucket(id, 16)", "bucket(16, id)")]
    #[case("truncate(4,name)", "truncate(4, name)")]
    #[case("bukcet(16, id)", "!did you mean `bucket`?")]
    #[case("bucket(id)", "!takes a positive number")]
    #[case("bucket(0, id)", "!takes a positive number")]
    #[case("day(a, b)", "!takes one column")]
    #[case("day(a", "!closing")]
    #[case("", "!not a column name")]
    fn partition_fields(#[case] text: &str, #[case] want: &str) {
        check(text.parse::<PartitionBy>(), want);
    }

    #[rstest]
    #[case("id", "id asc nulls first")]
    #[case("created_at DESC", "created_at desc nulls last")]
    #[case("id asc nulls last", "id asc nulls last")]
    #[case("bucket(16, id) desc", "bucket(16, id) desc nulls last")]
    #[case("id descending", "!a sort field reads")]
    #[case("desc", "!a sort field reads")]
    fn sort_fields(#[case] text: &str, #[case] want: &str) {
        check(text.parse::<SortBy>(), want);
    }

    fn check<T: fmt::Display>(got: Result<T, String>, want: &str) {
        match (got, want.strip_prefix('!')) {
            (Ok(got), None) => assert_eq!(got.to_string(), want),
            (Err(got), Some(want)) => assert!(got.contains(want), "{got}"),
            (got, _) => panic!("{:?} instead of {want}", got.map(|g| g.to_string())),
        }
    }
}
