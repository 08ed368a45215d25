//! `[source]`: the database that changes come from, asked for the types of columns where nothing else tells them.

use serde::{Deserialize, Serialize};

use super::error::Problem;
use super::secret::Address;

/// `[source]`
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// `postgres://user:password@host:port/database`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<Address>,
}

impl SourceConfig {
    pub(super) fn validate(&self) -> Result<(), Problem> {
        let is_postgres = |url: &str| url.starts_with("postgres://") || url.starts_with("postgresql://");
        match &self.url {
            Some(url) if !is_postgres(url.as_str()) => {
                Err(Problem::new("url", format!("`{url}` is not a postgres:// address; firn asks no other database")))
            }
            _ => Ok(()),
        }
    }
}
