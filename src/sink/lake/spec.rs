//! What a person chose for a table, and its partition and sort terms read.
//!
//! Knows Iceberg's transforms; knows nothing of files or commits.

use std::collections::HashMap;

use firn_catalog::Retention;
use iceberg::spec::{
    FormatVersion, NullOrder, Schema, SortDirection, SortField, SortOrder, Transform, UnboundPartitionSpec,
};
use iceberg::{NamespaceIdent, TableIdent};

use crate::change::Mode;
use crate::lineage::{DroppedColumn, TypeChange};
use crate::sink::lake::LakeError;

/// The settings of one table. All but the names and the key apply when the table is created; an existing table keeps its own.
#[derive(Clone, Debug)]
pub struct TableSpec {
    /// E.g. `["inventory"]`.
    pub namespace: Vec<String>,
    pub name: String,
    pub mode: Mode,
    /// The columns that are declared to be the key; empty where the records tell it.
    pub key: Vec<String>,
    /// Terms such as `day(created_at)`, `bucket(16, id)`, `truncate(4, name)`, `identity(country)`, or a bare column.
    pub partition_by: Vec<String>,
    /// Terms such as `id`, `created_at desc nulls last`, `bucket(16, id) asc`.
    pub sort_by: Vec<String>,
    /// Iceberg's format version, 2 or 3.
    pub format_version: u8,
    /// Table properties set at creation.
    pub properties: HashMap<String, String>,
    /// Where the files go; the catalog's choice unless given.
    pub location: Option<String>,
    pub retention: Retention,
    /// A file is finished once it is about this large. Larger: fewer files, slower to delete from and to read in parallel.
    pub target_file_bytes: u64,
    /// zstd level of data files. 1 costs least CPU; above 3 little is gained on rows.
    pub zstd_level: i32,
    /// Whether each row says where it came from (the columns of [`origin`](crate::change::origin)).
    pub origin_columns: bool,
    /// For values whose type the column can't be promoted to.
    pub type_change: TypeChange,
    /// For columns that the source has dropped.
    pub dropped_column: DroppedColumn,
    /// Whether an upsert table names the columns whose values neither the source nor the table had
    /// ([`origin::UNAVAILABLE`](crate::change::origin::UNAVAILABLE)). An append table gets that column when a value is missing first.
    pub unavailable_column: bool,
    /// Whether rows of one key come from several Kafka partitions, as where a SELECT chooses the key: the index then has all keys.
    pub keys_roam: bool,
}

impl TableSpec {
    /// Append, format version 2, unpartitioned, unsorted.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: vec![namespace.into()],
            name: name.into(),
            mode: Mode::Append,
            key: vec![],
            partition_by: vec![],
            sort_by: vec![],
            format_version: 2,
            properties: HashMap::new(),
            location: None,
            retention: Retention::default(),
            target_file_bytes: 256 << 20,
            zstd_level: 1,
            origin_columns: true,
            type_change: TypeChange::default(),
            dropped_column: DroppedColumn::default(),
            unavailable_column: false,
            keys_roam: false,
        }
    }

    /// # Errors
    /// When the namespace is empty.
    pub fn ident(&self) -> Result<TableIdent, LakeError> {
        let namespace = NamespaceIdent::from_vec(self.namespace.clone())
            .map_err(|_| self.settings("the namespace is empty: name at least one level"))?;
        Ok(TableIdent::new(namespace, self.name.clone()))
    }

    /// # Errors
    /// When the version is neither 2 nor 3.
    pub fn format(&self) -> Result<FormatVersion, LakeError> {
        match self.format_version {
            2 => Ok(FormatVersion::V2),
            3 => Ok(FormatVersion::V3),
            other => Err(self.settings(format!("format version {other} is not one of 2, 3"))),
        }
    }

    /// The partition spec over `schema`, `None` when unpartitioned.
    ///
    /// # Errors
    /// When a term can't be read, its column is missing, or its transform doesn't apply to the column's type.
    pub fn partition_spec(&self, schema: &Schema) -> Result<Option<UnboundPartitionSpec>, LakeError> {
        if self.partition_by.is_empty() {
            return Ok(None);
        }
        let mut builder = UnboundPartitionSpec::builder();
        for text in &self.partition_by {
            let term = Term::parse(text).map_err(|m| self.settings(format!("partition_by {text:?}: {m}")))?;
            let source_id = self.source(schema, &term, "partition_by", text)?;
            builder = builder
                .add_partition_field(source_id, term.field_name(), term.transform)
                .map_err(|e| self.settings(format!("partition_by {text:?}: {}", e.message())))?;
        }
        Ok(Some(builder.build()))
    }

    /// The sort order over `schema`, `None` when unsorted.
    ///
    /// # Errors
    /// As [`partition_spec`](Self::partition_spec).
    pub fn sort_order(&self, schema: &Schema) -> Result<Option<SortOrder>, LakeError> {
        if self.sort_by.is_empty() {
            return Ok(None);
        }
        let mut fields = vec![];
        for text in &self.sort_by {
            let (term, direction, null_order) =
                parse_sort(text).map_err(|m| self.settings(format!("sort_by {text:?}: {m}")))?;
            let source_id = self.source(schema, &term, "sort_by", text)?;
            fields.push(SortField { source_id, transform: term.transform, direction, null_order });
        }
        Ok(Some(SortOrder { order_id: 1, fields }))
    }

    fn source(&self, schema: &Schema, term: &Term, key: &str, text: &str) -> Result<i32, LakeError> {
        let field = schema
            .field_by_name(&term.column)
            .or_else(|| schema.field_by_name_case_insensitive(&term.column))
            .ok_or_else(|| self.settings(format!("{key} {text:?}: the table has no column {:?}", term.column)))?;
        term.transform
            .result_type(&field.field_type)
            .map_err(|e| self.settings(format!("{key} {text:?}: {}", e.message())))?;
        Ok(field.id)
    }

    pub(crate) fn settings(&self, message: impl Into<String>) -> LakeError {
        LakeError::Settings { table: self.to_string(), message: message.into() }
    }
}

impl std::fmt::Display for TableSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.namespace.join("."), self.name)
    }
}

/// A transform of a column.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Term {
    transform: Transform,
    column: String,
}

impl Term {
    /// Reads `column`, `transform(column)` or `transform(width, column)` (the two arguments in either order, as Spark and Trino
    /// write them).
    fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let Some((name, rest)) = text.split_once('(') else {
            return match text.split_once(' ') {
                None if !text.is_empty() => Ok(Self { transform: Transform::Identity, column: text.to_owned() }),
                Some(("identity", column)) => {
                    Ok(Self { transform: Transform::Identity, column: column.trim().to_owned() })
                }
                _ => Err("expected a column or transform(column)".to_owned()),
            };
        };
        let arguments = rest.strip_suffix(')').ok_or("the closing parenthesis is missing")?;
        let arguments: Vec<&str> = arguments.split(',').map(str::trim).collect();
        let name = name.trim().to_ascii_lowercase();
        let (width, column) = match arguments.as_slice() {
            [column] if !column.is_empty() => (None, *column),
            [a, b] => match (a.parse::<u32>(), b.parse::<u32>()) {
                (Ok(width), _) => (Some(width), *b),
                (_, Ok(width)) => (Some(width), *a),
                _ => return Err("one of the two arguments must be a whole number".to_owned()),
            },
            _ => return Err("expected transform(column) or transform(width, column)".to_owned()),
        };
        let transform = match (name.trim_end_matches('s'), width) {
            ("identity", None) => Transform::Identity,
            ("year", None) => Transform::Year,
            ("month", None) => Transform::Month,
            ("day", None) => Transform::Day,
            ("hour", None) => Transform::Hour,
            ("bucket", Some(width)) if width > 0 => Transform::Bucket(width),
            ("truncate", Some(width)) if width > 0 => Transform::Truncate(width),
            ("bucket" | "truncate", _) => return Err(format!("{name} needs a width above 0: {name}(16, {column})")),
            _ => {
                return Err(format!(
                    "{name:?} is not one of identity, year, month, day, hour, bucket(n, column), truncate(n, column)"
                ));
            }
        };
        Ok(Self { transform, column: column.to_owned() })
    }

    /// The partition field's name, as Spark and Trino choose it.
    fn field_name(&self) -> String {
        match self.transform {
            Transform::Bucket(_) => format!("{}_bucket", self.column),
            Transform::Truncate(_) => format!("{}_trunc", self.column),
            Transform::Identity => self.column.clone(),
            other => format!("{}_{other}", self.column),
        }
    }
}

fn parse_sort(text: &str) -> Result<(Term, SortDirection, NullOrder), String> {
    let lower = text.trim().to_ascii_lowercase();
    let mut rest = text.trim();
    let mut null_order = None;
    for (suffix, order) in [(" nulls first", NullOrder::First), (" nulls last", NullOrder::Last)] {
        if lower.ends_with(suffix) {
            rest = rest[..rest.len() - suffix.len()].trim_end();
            null_order = Some(order);
        }
    }
    let lower = rest.to_ascii_lowercase();
    let mut direction = SortDirection::Ascending;
    for (suffix, way) in [(" asc", SortDirection::Ascending), (" desc", SortDirection::Descending)] {
        if lower.ends_with(suffix) {
            rest = rest[..rest.len() - suffix.len()].trim_end();
            direction = way;
        }
    }
    let null_order = null_order.unwrap_or(match direction {
        SortDirection::Ascending => NullOrder::First,
        SortDirection::Descending => NullOrder::Last,
    });
    Ok((Term::parse(rest)?, direction, null_order))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::bare("country", Transform::Identity, "country", "country")]
    #[case::identity("identity country", Transform::Identity, "country", "country")]
    #[case::day("day(created_at)", Transform::Day, "created_at", "created_at_day")]
    #[case::plural("days(created_at)", Transform::Day, "created_at", "created_at_day")]
    #[case::bucket("bucket(16, id)", Transform::Bucket(16), "id", "id_bucket")]
    #[case::trino_order("bucket(id, 16)", Transform::Bucket(16), "id", "id_bucket")]
    #[case::truncate("TRUNCATE( 4,name )", Transform::Truncate(4), "name", "name_trunc")]
    fn a_partition_term_reads(
        #[case] text: &str,
        #[case] transform: Transform,
        #[case] column: &str,
        #[case] field: &str,
    ) {
        let term = Term::parse(text).unwrap();
        assert_eq!((term.transform, term.column.as_str(), term.field_name().as_str()), (transform, column, field));
    }

    #[rstest]
    #[case("", "expected a column")]
    #[case("week(a)", "not one of")]
    #[case("bucket(a)", "needs a width")]
    #[case("bucket(0, a)", "needs a width")]
    #[case("day(a", "parenthesis")]
    #[case("truncate(a, b)", "whole number")]
    fn a_wrong_term_says_what_is_wrong(#[case] text: &str, #[case] part: &str) {
        assert!(Term::parse(text).unwrap_err().contains(part));
    }

    #[rstest]
    #[case("id", "id", SortDirection::Ascending, NullOrder::First)]
    #[case("id ASC nulls last", "id", SortDirection::Ascending, NullOrder::Last)]
    #[case("id desc", "id", SortDirection::Descending, NullOrder::Last)]
    #[case("day(at) desc NULLS FIRST", "at", SortDirection::Descending, NullOrder::First)]
    fn a_sort_term_reads(
        #[case] text: &str,
        #[case] column: &str,
        #[case] direction: SortDirection,
        #[case] nulls: NullOrder,
    ) {
        let (term, d, n) = parse_sort(text).unwrap();
        assert_eq!((term.column.as_str(), d, n), (column, direction, nulls));
    }
}
