//! `[[pipelines.redis]]`

use serde::{Deserialize, Serialize};

use crate::config::error::Problem;
use crate::config::secret::Address;

/// What is written into one Redis.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RedisConfig {
    /// The sink's name within its pipeline, in positions, metrics and commands.
    #[serde(default = "default_name")]
    pub name: String,
    /// `redis://user:password@host:6379/0`
    pub url: Address,
}

fn default_name() -> String {
    "redis".to_owned()
}

impl RedisConfig {
    pub(in crate::config) fn validate(&self) -> Result<(), Problem> {
        Ok(())
    }
}
