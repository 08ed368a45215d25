//! `[[pipelines.clickhouse]]`

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::config::error::Problem;
use crate::config::secret::{Address, Properties};
pub use crate::sink::clickhouse::SnapshotRows;

/// One table in ClickHouse.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ClickHouseConfig {
    /// The sink's name within its pipeline, in positions, metrics and commands.
    #[serde(default = "default_name")]
    pub name: String,
    /// `http://user:password@host:8123`; several nodes with commas between.
    pub url: Address,
    #[serde(default = "default_database")]
    pub database: String,
    pub table: String,
    #[serde(default)]
    pub engine: ClickHouseEngine,
    /// Expressions of the sorting key.
    #[serde(default)]
    pub order_by: Vec<String>,
    /// The partition expression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition_by: Option<String>,
    /// The version column of a replacing table, where the SELECT gives one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// ClickHouse types of columns, in place of what the SELECT's types give.
    #[serde(default)]
    pub columns: BTreeMap<String, String>,
    /// Which rows of snapshots (`op = 'r'`) are inserted.
    #[serde(default)]
    pub snapshot_rows: SnapshotRows,
    /// The columns that tell a row of a snapshot from others, for `snapshot_rows = "missing"`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub snapshot_key: Vec<String>,
    /// Whether a table that firn makes has a row's topic, partition and offset.
    #[serde(default = "default_origin_columns")]
    pub origin_columns: bool,
    /// Longest wait for one answer.
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u64,
    /// ClickHouse's own settings, sent with every statement.
    #[serde(default, skip_serializing_if = "Properties::is_empty")]
    pub properties: Properties,
}

/// What a table is to readers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ClickHouseEngine {
    /// Every row once.
    #[default]
    MergeTree,
    /// Of each sorting key the newest row.
    Replacing,
}

fn default_name() -> String {
    "clickhouse".to_owned()
}

fn default_database() -> String {
    "default".to_owned()
}

fn default_origin_columns() -> bool {
    true
}

fn default_timeout_ms() -> u64 {
    30_000
}

impl ClickHouseConfig {
    /// The addresses of the nodes. Those after the first have its scheme, user and password.
    pub fn nodes(&self) -> Vec<Address> {
        let mut nodes = self.url.as_str().split(',').map(str::trim).filter(|node| !node.is_empty());
        let Some(first) = nodes.next() else { return Vec::new() };
        let (scheme, rest) = first.split_once("://").unwrap_or(("http", first));
        let before_host = rest.rsplit_once('@').map_or(String::new(), |(user, _)| format!("{user}@"));
        let others = nodes.map(|node| Address::new(format!("{scheme}://{before_host}{node}")));
        std::iter::once(Address::new(first)).chain(others).collect()
    }

    pub(in crate::config) fn validate(&self) -> Result<(), Problem> {
        let nodes = self.nodes();
        if self.url.as_str().split(',').skip(1).any(|node| node.contains("://") || node.contains('@')) {
            return Err(Problem::new(
                "url",
                "nodes after the first are written as host:port: all have its user and password",
            ));
        }
        if nodes.is_empty() {
            return Err(Problem::new("url", "names no node: write http://user:password@host:8123"));
        }
        for node in nodes {
            let host = node.as_str().split_once("://").filter(|(scheme, _)| matches!(*scheme, "http" | "https"));
            let host = host.map(|(_, rest)| rest.rsplit_once('@').map_or(rest, |(_, host)| host));
            if host.is_none_or(|host| host.is_empty() || host.starts_with([':', '/'])) {
                return Err(Problem::new("url", format!("`{node}` is not http://host:port or https://host:port")));
            }
        }
        for (field, name) in [("database", &self.database), ("table", &self.table)] {
            if name.is_empty() {
                return Err(Problem::new(field, "must not be empty"));
            }
        }
        if self.table.starts_with("_firn_") {
            return Err(Problem::new("table", "names that begin with `_firn_` are firn's own"));
        }
        if self.engine == ClickHouseEngine::Replacing && self.order_by.is_empty() {
            return Err(Problem::new("order_by", "a replacing table needs the columns that tell its rows apart"));
        }
        if self.engine == ClickHouseEngine::MergeTree && self.version.is_some() {
            return Err(Problem::new("version", "only a table of engine = \"replacing\" has versions"));
        }
        if self.partition_by.as_deref().is_some_and(|expression| expression.trim().is_empty()) {
            return Err(Problem::new("partition_by", "must not be empty: leave it out"));
        }
        self.validate_snapshot_rows()?;
        match (100..=600_000).contains(&self.timeout_ms) {
            true => Ok(()),
            false => Err(Problem::new("timeout_ms", format!("{} is not between 100 and 600000", self.timeout_ms))),
        }
    }

    fn validate_snapshot_rows(&self) -> Result<(), Problem> {
        if self.snapshot_rows == SnapshotRows::All {
            return match self.snapshot_key.is_empty() {
                true => Ok(()),
                false => Err(Problem::new("snapshot_key", "goes with snapshot_rows = \"missing\"")),
            };
        }
        if self.engine == ClickHouseEngine::Replacing {
            return Err(Problem::new("snapshot_rows", "a replacing table keeps one row of each sorting key as it is"));
        }
        match (self.snapshot_rows, self.snapshot_key.is_empty()) {
            (SnapshotRows::Missing, true) => Err(Problem::new(
                "snapshot_key",
                "name the columns that tell rows apart and never change, those of the sorting key first: it is looked for \
                 each row of a snapshot whether the table has it",
            )),
            (SnapshotRows::None, false) => Err(Problem::new("snapshot_key", "goes with snapshot_rows = \"missing\"")),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn config(more: &str) -> ClickHouseConfig {
        toml::from_str(&format!("table = \"t\"\n{more}")).unwrap()
    }

    #[rstest]
    #[case("http://a:8123, b:8123", &["http://a:8123", "http://b:8123"])]
    #[case("https://firn:pw@a:8443,b:8443", &["https://firn:pw@a:8443", "https://firn:pw@b:8443"])]
    fn nodes_are_listed_with_commas(#[case] url: &str, #[case] want: &[&str]) {
        let nodes = config(&format!("url = \"{url}\"")).nodes();
        assert_eq!(nodes.iter().map(Address::as_str).collect::<Vec<_>>(), want);
    }

    #[rstest]
    #[case("url = \"\"", "url")]
    #[case("url = \"tcp://a:9000\"", "url")]
    #[case("url = \"http://:8123\"", "url")]
    #[case::its_password_would_be_shown("url = \"http://a,http://u:pw@b\"", "url")]
    #[case("url = \"http://a\"\nengine = \"replacing\"", "order_by")]
    #[case("url = \"http://a\"\nversion = \"v\"", "version")]
    #[case("url = \"http://a\"\npartition_by = \" \"", "partition_by")]
    #[case("url = \"http://a\"\ntimeout_ms = 1", "timeout_ms")]
    #[case("url = \"http://a\"\nsnapshot_rows = \"missing\"", "snapshot_key")]
    #[case("url = \"http://a\"\nsnapshot_key = [\"id\"]", "snapshot_key")]
    #[case(
        "url = \"http://a\"\nengine = \"replacing\"\norder_by = [\"id\"]\nsnapshot_rows = \"none\"",
        "snapshot_rows"
    )]
    #[case("url = \"http://a\"\ndatabase = \"\"", "database")]
    fn what_can_not_be_is_refused(#[case] more: &str, #[case] field: &str) {
        assert_eq!(config(more).validate().unwrap_err().field, field);
    }

    #[test]
    fn a_table_needs_no_more_than_its_name_and_a_node() {
        let config = config("url = \"http://firn:secret@a:8123\"");
        assert_eq!(config.validate(), Ok(()));
        assert!(!toml::to_string(&config).unwrap().contains("secret"));
        assert_eq!(
            (config.engine, config.origin_columns, config.timeout_ms),
            (ClickHouseEngine::MergeTree, true, 30_000)
        );
    }
}
