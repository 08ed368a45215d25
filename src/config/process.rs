//! `[dead_letters]`, `[index]`, `[memory]`, `[serve]`, `[log]`: how the process behaves.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::Problem;

/// `[dead_letters]`: where records go that could not become rows, and how many of them are too many.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeadLettersConfig {
    pub to: DeadLetterTarget,
    pub namespace: String,
    pub table: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// Share of a table's records (0 to 1) above which the table stops.
    pub max_share: f64,
    /// Records that a table must have seen before the share counts.
    pub min_rows: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DeadLetterTarget {
    #[default]
    Table,
    Topic,
}

impl Default for DeadLettersConfig {
    fn default() -> Self {
        Self {
            to: DeadLetterTarget::Table,
            namespace: "firn".to_owned(),
            table: "firn_dead_letters".to_owned(),
            topic: None,
            max_share: 0.01,
            min_rows: 1000,
        }
    }
}

impl DeadLettersConfig {
    pub(super) fn validate(&self) -> Result<(), Problem> {
        if self.to == DeadLetterTarget::Topic && self.topic.as_ref().is_none_or(String::is_empty) {
            return Err(Problem::new("topic", "is missing: to = \"topic\" needs the topic's name"));
        }
        if !(0.0..=1.0).contains(&self.max_share) {
            return Err(Problem::new("max_share", format!("{} is not between 0 and 1", self.max_share)));
        }
        for (field, name) in [("namespace", &self.namespace), ("table", &self.table)] {
            if name.is_empty() || super::naming::fold(name) != *name {
                return Err(Problem::new(
                    field,
                    format!("`{name}` must be lower-case letters, digits and underscores"),
                ));
            }
        }
        Ok(())
    }
}

/// `[index]`: where the primary-key indexes of upsert tables are kept.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct IndexConfig {
    /// A folder on a local disk, from the configuration file's on; empty = in memory.
    pub dir: PathBuf,
}

impl Default for IndexConfig {
    fn default() -> Self {
        Self { dir: PathBuf::from("firn-index") }
    }
}

impl IndexConfig {
    pub(super) fn resolve_paths(&mut self, from: &Path) {
        if !self.dir.as_os_str().is_empty() {
            self.dir = from.join(&self.dir);
        }
    }
}

/// `[memory]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct MemoryConfig {
    /// What queues, batches, open files and the index may hold together.
    pub budget_bytes: u64,
}

const MIB: u64 = 1 << 20;

impl Default for MemoryConfig {
    fn default() -> Self {
        Self { budget_bytes: 384 * MIB }
    }
}

impl MemoryConfig {
    pub(super) fn validate(&self) -> Result<(), Problem> {
        // Below this a single open Parquet row group and one fetch of the consumer don't fit side by side.
        if self.budget_bytes < 64 * MIB {
            return Err(Problem::new("budget_bytes", format!("{} is below 67108864 (64 MiB)", self.budget_bytes)));
        }
        Ok(())
    }
}

/// `[serve]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServeConfig {
    /// Address of the status page, metrics and health; empty = off.
    pub listen: String,
}

impl Default for ServeConfig {
    fn default() -> Self {
        Self { listen: "127.0.0.1:8088".to_owned() }
    }
}

impl ServeConfig {
    /// `None` = off.
    pub fn address(&self) -> Option<SocketAddr> {
        self.listen.parse().ok()
    }

    pub(super) fn validate(&self) -> Result<(), Problem> {
        if self.listen.is_empty() || self.address().is_some() {
            return Ok(());
        }
        Err(Problem::new(
            "listen",
            format!("`{}` is not an ip:port like \"0.0.0.0:8088\"; \"\" turns it off", self.listen),
        ))
    }
}

/// `[log]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    pub format: LogFormat,
    /// A level (error, warn, info, debug, trace) or directives such as `info,firn::sink=debug`.
    pub filter: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::Text, filter: "info".to_owned() }
    }
}

impl LogConfig {
    pub(super) fn validate(&self) -> Result<(), Problem> {
        tracing_subscriber::EnvFilter::try_new(&self.filter)
            .map(|_| ())
            .map_err(|e| Problem::new("filter", format!("`{}`: {e}", self.filter)))
    }
}
