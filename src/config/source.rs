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
        self.url.as_ref().map_or(Ok(()), check_url)
    }
}

/// Whether it is PostgreSQL's.
pub(super) fn check_url(url: &Address) -> Result<(), Problem> {
    match url.as_str() {
        text if text.starts_with("postgres://") || text.starts_with("postgresql://") => Ok(()),
        _ => Err(Problem::new("url", format!("`{url}` is not a postgres:// address; firn asks no other database"))),
    }
}
