//! What the sink is told about its table.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Which rows of snapshots are inserted into a table of facts, where each row is one more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SnapshotRows {
    #[default]
    All,
    /// Those whose key is not in the table yet.
    Missing,
    None,
}

/// What a table is to readers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// `MergeTree`: every row once.
    MergeTree,
    /// `ReplacingMergeTree`: of each sorting key the row of the highest version.
    Replacing,
}

/// One table and the server that has it.
#[derive(Clone)]
pub struct ClickHouseSettings {
    /// `http://user:password@host:8123`, one for each node.
    pub nodes: Vec<String>,
    pub database: String,
    pub table: String,
    pub engine: Engine,
    /// Expressions of the sorting key.
    pub order_by: Vec<String>,
    /// The partition expression.
    pub partition_by: Option<String>,
    /// The version column of a replacing table, where the SELECT gives one.
    pub version: Option<String>,
    /// ClickHouse types of columns, in place of what their Arrow types give. Of a column that the SELECT does not give: its
    /// type and its `DEFAULT`.
    pub columns: BTreeMap<String, String>,
    pub snapshot_rows: SnapshotRows,
    /// The columns that are looked for where `snapshot_rows` is `Missing`.
    pub snapshot_key: Vec<String>,
    /// Whether a table that firn makes has a row's topic, partition and offset.
    pub origin_columns: bool,
    /// Longest wait for one answer.
    pub timeout: Duration,
    /// ClickHouse's own settings, sent with every statement.
    pub properties: BTreeMap<String, String>,
}

impl fmt::Debug for ClickHouseSettings {
    /// Without the nodes, which may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClickHouseSettings")
            .field("database", &self.database)
            .field("table", &self.table)
            .field("engine", &self.engine)
            .finish_non_exhaustive()
    }
}

impl ClickHouseSettings {
    /// The table as statements name it.
    pub(super) fn table_name(&self) -> String {
        format!("{}.{}", super::sql::name(&self.database), super::sql::name(&self.table))
    }
}
