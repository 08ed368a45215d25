//! What one topic's table is to be, worked out: the defaults of `[lake]`, its rule, its name.

use std::collections::BTreeMap;

use iceberg::{NamespaceIdent, TableIdent};
use serde::{Deserialize, Serialize};

use super::columns::Encoding;
use super::error::Problem;
use super::layout::{PartitionBy, SortBy};
use super::naming::check_template;
use super::policy::PolicyRule;
use crate::change::{Column, DeleteImage, Infinity, Mode, origin, origin_columns};
use crate::lineage::{DroppedColumn, TypeChange};

/// What a topic's messages look like. Whether they are JSON or Avro is seen by their first byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Told by each record: flattened is what has `__op` or `__deleted`, everything else an envelope.
    #[default]
    Auto,
    Envelope,
    /// `ExtractNewRecordState`: the row alone, a null value is a delete.
    Flattened,
}

/// What a TRUNCATE of the source table does to an upsert table. An append table keeps its rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnTruncate {
    /// The rows from before it go.
    #[default]
    Apply,
    /// Nothing: it is counted as skipped.
    Skip,
}

/// One topic's table: the defaults of `[lake]` with its rule applied and its name worked out.
#[derive(Clone, Debug)]
pub struct TableConfig {
    pub topic: String,
    /// Folded, see [`super::naming`].
    pub namespace: String,
    /// Folded, see [`super::naming`].
    pub table: String,
    pub mode: Mode,
    pub format: Format,
    pub commit_interval_ms: u64,
    pub commit_rows: u64,
    pub commit_bytes: u64,
    pub target_file_bytes: u64,
    pub format_version: u8,
    pub partition_by: Vec<PartitionBy>,
    pub sort_by: Vec<SortBy>,
    /// Empty = the record's own key.
    pub key: Vec<String>,
    /// Empty = the record's own schema. Those named in `key` are marked as keys. Without the origin columns.
    pub columns: Vec<Column>,
    pub infer_types: bool,
    pub infinity: Infinity,
    pub origin_columns: bool,
    /// Whether an upsert table names the columns whose values are lost.
    pub unavailable_column: bool,
    pub delete_image: DeleteImage,
    pub on_type_change: TypeChange,
    pub on_dropped_column: DroppedColumn,
    pub truncate: OnTruncate,
    pub encodings: BTreeMap<String, Encoding>,
    pub max_snapshots: usize,
    pub rewind_horizon_ms: u64,
    /// What it does otherwise than `[maintain.policy]`.
    pub maintain: PolicyRule,
    pub properties: BTreeMap<String, String>,
}

impl TableConfig {
    pub fn ident(&self) -> TableIdent {
        TableIdent::new(NamespaceIdent::new(self.namespace.clone()), self.table.clone())
    }
}

impl TableConfig {
    /// `namespace` and `table` are the templates of the names.
    pub(super) fn validate(&self, namespace: &str, table: &str) -> Result<(), Problem> {
        check_template(namespace).map_err(|e| Problem::new("namespace", e))?;
        check_template(table).map_err(|e| Problem::new("table", e))?;
        let bounds = [
            // Below 100 ms commits, not rows, would be what the catalog is busy with.
            ("commit_interval_ms", self.commit_interval_ms, 100, 86_400_000),
            ("commit_rows", self.commit_rows, 1, u64::MAX),
            ("commit_bytes", self.commit_bytes, 1 << 20, u64::MAX),
            ("target_file_bytes", self.target_file_bytes, 1 << 20, u64::MAX),
            ("format_version", u64::from(self.format_version), 2, 3),
            ("max_snapshots", self.max_snapshots as u64, 1, 100_000),
        ];
        for (field, value, low, high) in bounds {
            if value < low {
                return Err(Problem::new(field, format!("{value} is below {low}, the least")));
            }
            if value > high {
                return Err(Problem::new(field, format!("{value} is above {high}, the most")));
            }
        }
        if self.columns.is_empty() {
            return Ok(());
        }
        let known = |name: &str| self.columns.iter().any(|c| c.name == name);
        let origin = |name: &str| self.origin_columns && origin_columns().iter().any(|c| c.name == name);
        if let Some(c) = self.columns.iter().find(|c| origin_columns().iter().any(|o| o.name == c.name)) {
            return Err(Problem::new(
                format!("columns.{}", c.name),
                format!("names that begin with {} are firn's own", origin::PREFIX),
            ));
        }
        if let Some(name) = self.key.iter().find(|k| !known(k)) {
            return Err(Problem::new("key", format!("`{name}` is not among the declared columns")));
        }
        let used = self.partition_by.iter().map(|p| ("partition_by", &p.column));
        for (field, name) in used.chain(self.sort_by.iter().map(|s| ("sort_by", &s.column))) {
            if !known(name) && !origin(name) {
                return Err(Problem::new(field, format!("`{name}` is not among the declared columns")));
            }
        }
        Ok(())
    }
}
