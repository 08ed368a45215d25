//! `[[pipelines.log]]`

use serde::{Deserialize, Serialize};

/// Rows as lines of firn's log.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LogSinkConfig {
    /// The sink's name within its pipeline, in positions, metrics and commands.
    #[serde(default = "default_name")]
    pub name: String,
    #[serde(default)]
    pub level: LogLevel,
}

/// How loud a line is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    #[default]
    Info,
    Warn,
    Error,
}

fn default_name() -> String {
    "log".to_owned()
}
