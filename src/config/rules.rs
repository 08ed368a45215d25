//! `[pipelines.alert]`, `[[pipelines.running]]`: what a pipeline keeps from change to change.

use serde::{Deserialize, Serialize};

use super::error::Problem;
use super::period::Period;

/// Of rows with the same key only the first goes out within a time.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AlertConfig {
    /// Columns of the SELECT.
    pub key: Vec<String>,
    /// By the source's clock.
    pub cool_down: Period,
    /// Keys that are remembered of each partition of a source.
    #[serde(default = "default_max_keys")]
    pub max_keys: usize,
}

/// Statistics of the changes before each change.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RunningConfig {
    /// The column in the SQL: `name.count`, `name.mean`, `name.stddev`.
    pub name: String,
    /// The source whose changes count, by its name in the SQL; may be left out where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Whose values are told apart: `after.customer_id`.
    pub key: String,
    /// What is counted: `after.amount`.
    pub value: String,
    /// The kinds of changes that count.
    #[serde(default = "default_ops")]
    pub ops: Vec<String>,
    /// Keys that are remembered of each partition of a source.
    #[serde(default = "default_max_keys")]
    pub max_keys: usize,
}

/// About 200 bytes each in memory.
const MOST_KEYS: usize = 10_000_000;
/// Columns of a table of changes.
const TAKEN: [&str; 5] = ["op", "after", "before", "image", "source"];
/// Kinds of changes.
const OPS: [&str; 4] = ["c", "u", "d", "r"];

fn default_max_keys() -> usize {
    100_000
}

fn default_ops() -> Vec<String> {
    vec!["c".to_owned(), "r".to_owned()]
}

fn check_keys(max_keys: usize) -> Result<(), Problem> {
    match (1..=MOST_KEYS).contains(&max_keys) {
        true => Ok(()),
        false => Err(Problem::new("max_keys", format!("{max_keys} is not between 1 and {MOST_KEYS}"))),
    }
}

impl AlertConfig {
    pub(super) fn validate(&self) -> Result<(), Problem> {
        if self.key.is_empty() {
            return Err(Problem::new("key", "names the columns of the SELECT that say what an alert is about"));
        }
        if self.cool_down.ms == 0 {
            return Err(Problem::new("cool_down", "must not be 0: leave [pipelines.alert] out"));
        }
        check_keys(self.max_keys)
    }
}

impl RunningConfig {
    /// `sources`: their names in the SQL.
    pub(super) fn validate(&self, sources: &[String]) -> Result<(), Problem> {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if self.name.is_empty() || !self.name.chars().all(fits) || self.name.starts_with("_firn") {
            return Err(Problem::new("name", format!("`{}` is not made of small letters, digits and _", self.name)));
        }
        if TAKEN.contains(&self.name.as_str()) {
            return Err(Problem::new("name", format!("`{}` is a column of every source", self.name)));
        }
        match &self.source {
            Some(source) if !sources.contains(source) => {
                let problem = format!("`{source}` is no source; there are: {}", sources.join(", "));
                return Err(Problem::new("source", problem));
            }
            None if sources.len() > 1 => {
                return Err(Problem::new("source", format!("is one of {}", sources.join(", "))));
            }
            _ => {}
        }
        for (field, path) in [("key", &self.key), ("value", &self.value)] {
            if !matches!(path.split_once('.'), Some(("after" | "before" | "image", column)) if !column.is_empty()) {
                return Err(Problem::new(
                    field,
                    format!("`{path}` is not after.COLUMN, before.COLUMN or image.COLUMN"),
                ));
            }
        }
        if self.ops.is_empty() || self.ops.iter().any(|op| !OPS.contains(&op.as_str())) {
            return Err(Problem::new("ops", "is a list of \"c\", \"u\", \"d\" and \"r\""));
        }
        check_keys(self.max_keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("key = []\ncool_down = \"10m\"", "key")]
    #[case("key = [\"id\"]\ncool_down = \"0s\"", "cool_down")]
    #[case("key = [\"id\"]\ncool_down = \"1s\"\nmax_keys = 0", "max_keys")]
    fn an_alert_says_what_it_is_about_and_how_long(#[case] text: &str, #[case] field: &str) {
        assert_eq!(toml::from_str::<AlertConfig>(text).unwrap().validate().unwrap_err().field, field);
    }

    #[rstest]
    #[case("name = \"Spend\"", "name")]
    #[case("name = \"after\"", "name")]
    #[case("source = \"elsewhere\"", "source")]
    #[case("key = \"customer_id\"", "key")]
    #[case("value = \"source.ts_ms\"", "value")]
    #[case("ops = [\"insert\"]", "ops")]
    #[case("ops = []", "ops")]
    fn a_statistic_says_of_what(#[case] more: &str, #[case] field: &str) {
        let mut text: toml::Table =
            toml::from_str("name = \"spend\"\nkey = \"after.customer_id\"\nvalue = \"after.amount\"").unwrap();
        let sources = ["orders".to_owned()];
        assert_eq!(text.clone().try_into::<RunningConfig>().unwrap().validate(&sources), Ok(()));
        text.extend(toml::from_str::<toml::Table>(more).unwrap());
        assert_eq!(text.try_into::<RunningConfig>().unwrap().validate(&sources).unwrap_err().field, field);
    }
}
