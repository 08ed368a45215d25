//! `[[pipelines.lake]]`

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::change::Mode;
use crate::config::error::Problem;
use crate::config::lake::{LakeConfig, TableRule};
use crate::config::layout::{PartitionBy, SortBy};
use crate::config::naming::fold;
use crate::config::policy::PolicyRule;
use crate::config::table::TableConfig;

/// One table of the catalog. The keys that `[lake]` has too mean the same.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LakeSinkConfig {
    /// The sink's name within its pipeline, in positions, metrics and commands.
    #[serde(default = "default_name")]
    pub name: String,
    /// `namespace.table`, as Hive and Trino call it.
    pub table: String,
    #[serde(default)]
    pub mode: Mode,
    /// Columns of the SELECT by which an upsert table tells its rows apart.
    #[serde(default)]
    pub key: Vec<String>,
    #[serde(default)]
    pub partition_by: Vec<PartitionBy>,
    #[serde(default)]
    pub sort_by: Vec<SortBy>,
    #[serde(default = "default_format_version")]
    pub format_version: u8,
    /// Longest time from a row's arrival to its commit.
    #[serde(default = "default_commit_interval_ms")]
    pub commit_interval_ms: u64,
    /// Rows after which a commit is made early.
    #[serde(default = "default_commit_rows")]
    pub commit_rows: u64,
    /// Bytes in memory and staged files after which a commit is made early.
    #[serde(default = "default_commit_bytes")]
    pub commit_bytes: u64,
    #[serde(default = "default_target_file_bytes")]
    pub target_file_bytes: u64,
    #[serde(default = "default_max_snapshots")]
    pub max_snapshots: usize,
    /// What `[maintain.policy]` says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintain: Option<PolicyRule>,
    #[serde(default)]
    pub properties: BTreeMap<String, String>,
}

fn default_name() -> String {
    "lake".to_owned()
}

/// Sooner than a table of `[lake]`: who sends a pipeline's rows to a table reads them soon.
fn default_commit_interval_ms() -> u64 {
    10_000
}

fn default_commit_rows() -> u64 {
    LakeConfig::default().commit_rows
}

fn default_commit_bytes() -> u64 {
    LakeConfig::default().commit_bytes
}

fn default_target_file_bytes() -> u64 {
    LakeConfig::default().target_file_bytes
}

fn default_format_version() -> u8 {
    LakeConfig::default().format_version
}

fn default_max_snapshots() -> usize {
    LakeConfig::default().max_snapshots
}

impl LakeSinkConfig {
    /// In the words of a lake table.
    pub fn as_table(&self) -> TableConfig {
        let (namespace, table) = self.table.split_once('.').unwrap_or_default();
        let rule = TableRule {
            namespace: Some(namespace.to_owned()),
            table: Some(table.to_owned()),
            mode: Some(self.mode),
            key: Some(self.key.clone()),
            partition_by: Some(self.partition_by.clone()),
            sort_by: Some(self.sort_by.clone()),
            format_version: Some(self.format_version),
            commit_interval_ms: Some(self.commit_interval_ms),
            commit_rows: Some(self.commit_rows),
            commit_bytes: Some(self.commit_bytes),
            target_file_bytes: Some(self.target_file_bytes),
            max_snapshots: Some(self.max_snapshots),
            maintain: self.maintain.clone(),
            properties: self.properties.clone(),
            ..TableRule::default()
        };
        // It is fed by no topic of the lake.
        LakeConfig { tables: vec![rule], ..LakeConfig::default() }.resolve("")
    }

    pub(in crate::config) fn validate(&self) -> Result<(), Problem> {
        let parts: Vec<&str> = self.table.split('.').collect();
        if parts.len() != 2 || parts.iter().any(|part| part.is_empty() || fold(part) != **part) {
            let problem = format!("`{}` is not namespace.table, in lower-case letters, digits and _", self.table);
            return Err(Problem::new("table", problem));
        }
        match (self.mode, self.key.is_empty()) {
            (Mode::Upsert, true) => {
                return Err(Problem::new("key", "upsert needs one: columns of the SELECT that tell rows apart"));
            }
            (Mode::Append, false) => {
                return Err(Problem::new("key", "is of mode = \"upsert\": every row of an append table stays"));
            }
            _ => {}
        }
        self.as_table().validate(parts[0], parts[1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn config(text: &str) -> LakeSinkConfig {
        toml::from_str(text).unwrap()
    }

    #[rstest]
    #[case("table = 't'", "table")]
    #[case("table = 'a.b.c'", "table")]
    #[case("table = 'a.'", "table")]
    #[case::hive_folds_it("table = 'db.Orders'", "table")]
    #[case("table = 'db.t'\nmode = 'upsert'", "key")]
    #[case("table = 'db.t'\nkey = ['id']", "key")]
    #[case("table = 'db.t'\ncommit_interval_ms = 50", "commit_interval_ms")]
    #[case("table = 'db.t'\nformat_version = 1", "format_version")]
    fn what_can_not_be_is_refused(#[case] text: &str, #[case] field: &str) {
        assert_eq!(config(text).validate().unwrap_err().field, field);
    }

    #[test]
    fn it_is_a_table_in_the_lakes_words() {
        let sink = config(
            "table = 'gold.spend'\nmode = 'upsert'\nkey = ['id']\npartition_by = ['day(at)']\nsort_by = ['id desc']",
        );
        assert_eq!(sink.validate(), Ok(()));
        let table = sink.as_table();
        assert_eq!((table.ident().to_string().as_str(), table.mode), ("gold.spend", Mode::Upsert));
        assert_eq!((table.key, table.commit_interval_ms, table.max_snapshots), (vec!["id".to_owned()], 10_000, 500));
        assert_eq!((table.partition_by.len(), table.sort_by.len(), table.origin_columns), (1, 1, true));
    }
}
