//! `[[pipelines.clickhouse]]`

use serde::{Deserialize, Serialize};

use crate::config::error::Problem;
use crate::config::secret::Address;

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
}

fn default_name() -> String {
    "clickhouse".to_owned()
}

fn default_database() -> String {
    "default".to_owned()
}

impl ClickHouseConfig {
    pub(in crate::config) fn validate(&self) -> Result<(), Problem> {
        Ok(())
    }
}
