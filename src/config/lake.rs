//! `[lake]` and `[[lake.tables]]`: which topics become which tables, and how they are written.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::columns::{DeclaredColumns, Encoding};
use super::error::Problem;
use super::layout::{PartitionBy, SortBy};
use super::naming::{Glob, Selection, TopicParts, render, whole};
use super::policy::PolicyRule;
use super::table::{Format, OnTruncate, TableConfig};
use crate::change::{Column, DeleteImage, Infinity, Mode};
use crate::lineage::{DroppedColumn, TypeChange};

/// `[lake]`: the selection of topics, the defaults of every table, and what single tables do differently.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LakeConfig {
    /// Exact names and globs (`*`, `?`).
    pub topics: Vec<String>,
    /// A regular expression for the whole name, beside `topics`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topics_regex: Option<String>,
    pub mode: Mode,
    /// What the topic's messages look like.
    pub format: Format,
    /// Template of the namespace: {topic}, {prefix}, {database}, {schema}, {table}.
    pub namespace: String,
    /// Template of the table's name.
    pub table: String,
    /// Longest time from a row's arrival to its commit.
    pub commit_interval_ms: u64,
    /// Rows after which a commit is made early.
    pub commit_rows: u64,
    /// Bytes in memory and staged files after which a commit is made early.
    pub commit_bytes: u64,
    /// Size at which a data file is closed.
    pub target_file_bytes: u64,
    /// Iceberg's format version: 2, or 3 with deletion vectors.
    pub format_version: u8,
    pub partition_by: Vec<PartitionBy>,
    pub sort_by: Vec<SortBy>,
    /// Key columns where the record's own key is not to be used.
    pub key: Vec<String>,
    /// Declared columns in the table's order, for records without a schema.
    pub columns: DeclaredColumns,
    /// How values are written in records without a schema, where their type does not tell.
    pub encodings: BTreeMap<String, Encoding>,
    /// Whether columns that nothing declares get the types of their values, in records without a schema.
    pub infer_types: bool,
    /// What becomes of infinite dates and timestamps.
    pub infinity: Infinity,
    /// Whether rows carry the topic, partition, offset, op, source time and source LSN.
    pub origin_columns: bool,
    pub unavailable_column: bool,
    /// What an append table keeps of a deleted row.
    pub delete_image: DeleteImage,
    /// For values whose type the column can't be promoted to.
    pub on_type_change: TypeChange,
    /// For columns that the source has dropped.
    pub on_dropped_column: DroppedColumn,
    /// What a TRUNCATE of the source table does to an upsert table.
    pub truncate: OnTruncate,
    /// Snapshots that the writer itself keeps.
    pub max_snapshots: usize,
    /// Neither the writer nor `firn maintain expire` lets a younger snapshot go.
    pub rewind_horizon_ms: u64,
    /// Iceberg table properties set at creation.
    pub properties: BTreeMap<String, String>,
    pub tables: Vec<TableRule>,
}

/// `[[lake.tables]]`: the same keys as `[lake]` for the topics that `topic` matches. Where several match, an exact name goes
/// before globs, then the first counts. `properties` are added to those of `[lake]`, the rest replaces.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TableRule {
    /// Exact name or glob.
    pub topic: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit_interval_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit_rows: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_file_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format_version: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition_by: Option<Vec<PartitionBy>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sort_by: Option<Vec<SortBy>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<DeclaredColumns>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encodings: Option<BTreeMap<String, Encoding>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub infer_types: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub infinity: Option<Infinity>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin_columns: Option<bool>,
    pub unavailable_column: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delete_image: Option<DeleteImage>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_type_change: Option<TypeChange>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_dropped_column: Option<DroppedColumn>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncate: Option<OnTruncate>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_snapshots: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewind_horizon_ms: Option<u64>,
    /// What `[maintain.policy]` says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintain: Option<PolicyRule>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub properties: BTreeMap<String, String>,
}

impl Default for LakeConfig {
    fn default() -> Self {
        Self {
            topics: Vec::new(),
            topics_regex: None,
            mode: Mode::default(),
            format: Format::default(),
            namespace: "{schema}".to_owned(),
            table: "{table}".to_owned(),
            commit_interval_ms: 60_000,
            commit_rows: 1_000_000,
            commit_bytes: 256 << 20,
            target_file_bytes: 512 << 20,
            format_version: 2,
            partition_by: Vec::new(),
            sort_by: Vec::new(),
            key: Vec::new(),
            columns: DeclaredColumns::default(),
            encodings: BTreeMap::new(),
            infer_types: true,
            infinity: Infinity::default(),
            origin_columns: true,
            unavailable_column: false,
            delete_image: DeleteImage::default(),
            on_type_change: TypeChange::default(),
            on_dropped_column: DroppedColumn::default(),
            truncate: OnTruncate::default(),
            max_snapshots: 500,
            rewind_horizon_ms: 0,
            properties: BTreeMap::new(),
            tables: Vec::new(),
        }
    }
}

impl LakeConfig {
    /// The settings for `topic`, selected or not.
    pub(super) fn resolve(&self, topic: &str) -> TableConfig {
        let matches = |r: &&TableRule| Glob::new(&r.topic).is_ok_and(|g| g.matches(topic));
        let none = TableRule::default();
        let rule =
            self.tables.iter().find(|r| r.topic == topic).or_else(|| self.tables.iter().find(matches)).unwrap_or(&none);
        let parts = TopicParts::of(topic);
        let key = rule.key.clone().unwrap_or_else(|| self.key.clone());
        let DeclaredColumns(declared) = rule.columns.clone().unwrap_or_else(|| self.columns.clone());
        let columns = declared
            .into_iter()
            .map(|(name, column_type)| Column { key: key.contains(&name), name, column_type })
            .collect();
        let mut properties = self.properties.clone();
        properties.extend(rule.properties.clone());
        TableConfig {
            topic: topic.to_owned(),
            namespace: render(rule.namespace.as_ref().unwrap_or(&self.namespace), &parts),
            table: render(rule.table.as_ref().unwrap_or(&self.table), &parts),
            mode: rule.mode.unwrap_or(self.mode),
            format: rule.format.unwrap_or(self.format),
            commit_interval_ms: rule.commit_interval_ms.unwrap_or(self.commit_interval_ms),
            commit_rows: rule.commit_rows.unwrap_or(self.commit_rows),
            commit_bytes: rule.commit_bytes.unwrap_or(self.commit_bytes),
            target_file_bytes: rule.target_file_bytes.unwrap_or(self.target_file_bytes),
            format_version: rule.format_version.unwrap_or(self.format_version),
            partition_by: rule.partition_by.clone().unwrap_or_else(|| self.partition_by.clone()),
            sort_by: rule.sort_by.clone().unwrap_or_else(|| self.sort_by.clone()),
            key,
            columns,
            encodings: rule.encodings.clone().unwrap_or_else(|| self.encodings.clone()),
            infer_types: rule.infer_types.unwrap_or(self.infer_types),
            infinity: rule.infinity.unwrap_or(self.infinity),
            origin_columns: rule.origin_columns.unwrap_or(self.origin_columns),
            unavailable_column: rule.unavailable_column.unwrap_or(self.unavailable_column),
            delete_image: rule.delete_image.unwrap_or(self.delete_image),
            on_type_change: rule.on_type_change.unwrap_or(self.on_type_change),
            on_dropped_column: rule.on_dropped_column.unwrap_or(self.on_dropped_column),
            truncate: rule.truncate.unwrap_or(self.truncate),
            max_snapshots: rule.max_snapshots.unwrap_or(self.max_snapshots),
            rewind_horizon_ms: rule.rewind_horizon_ms.unwrap_or(self.rewind_horizon_ms),
            maintain: rule.maintain.clone().unwrap_or_default(),
            properties,
        }
    }

    /// Whether any topic is meant for a table.
    pub fn is_used(&self) -> bool {
        !self.topics.is_empty() || self.topics_regex.is_some() || !self.tables.is_empty()
    }

    /// The topics named exactly, whether Kafka has them yet or not.
    pub fn exact_topics(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self
            .topics
            .iter()
            .chain(self.tables.iter().map(|r| &r.topic))
            .map(String::as_str)
            .filter(|t| !t.contains(['*', '?']))
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    pub(super) fn selection(&self) -> Result<Selection, Problem> {
        let glob = |field: String, text: &str| Glob::new(text).map_err(|e| Problem::new(field, e));
        let mut globs = Vec::new();
        for (i, text) in self.topics.iter().enumerate() {
            globs.push(glob(format!("topics[{i}]"), text)?);
        }
        for (i, rule) in self.tables.iter().enumerate() {
            globs.push(glob(format!("tables[{i}].topic"), &rule.topic)?);
        }
        let regex = self.topics_regex.as_deref().map(whole).transpose().map_err(|e| Problem::new("topics_regex", e))?;
        if globs.is_empty() && regex.is_none() {
            return Err(Problem::new("topics", "no topics: set topics = [\"server.schema.*\"] or topics_regex"));
        }
        Ok(Selection::new(globs, regex))
    }

    pub(super) fn validate(&self) -> Result<(), Problem> {
        self.selection()?;
        // A name that no rule is written for: the defaults alone.
        self.resolve("").validate(&self.namespace, &self.table)?;
        for (i, rule) in self.tables.iter().enumerate() {
            let namespace = rule.namespace.as_ref().unwrap_or(&self.namespace);
            let table = rule.table.as_ref().unwrap_or(&self.table);
            let alone = LakeConfig { tables: vec![rule.clone()], ..self.clone() };
            alone
                .resolve(&rule.topic.replace(['*', '?'], "x"))
                .validate(namespace, table)
                .map_err(|p| p.under(&format!("tables[{i}]")))?;
        }
        Ok(())
    }
}
