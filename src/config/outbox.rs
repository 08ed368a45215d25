//! `[[outbox]]`: a table of PostgreSQL whose rows go to a topic, each once.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::error::Problem;
use super::pipelines::check_name;
use super::secret::Address;
use super::source::{self, SourceConfig};

/// One outbox.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct OutboxConfig {
    /// In the transactional id, the table of positions and commands.
    pub name: String,
    /// `postgres://user:password@host:port/database`; `source.url`, if none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<Address>,
    /// `schema.table`, or a table of the schema `public`.
    pub table: String,
    /// The column that tells the rows apart.
    #[serde(default = "default_key")]
    pub key: String,
    /// The boolean column that says whether a row was sent.
    pub flag: String,
    pub topic: String,
    /// The columns that are sent; all but the flag, if none are named.
    #[serde(default)]
    pub columns: Vec<String>,
    /// The column that becomes the record's key; that of the rows, if none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_key: Option<String>,
    /// Rows of one transaction.
    #[serde(default = "default_batch_rows")]
    pub batch_rows: usize,
    /// How long it waits before it looks for new rows.
    #[serde(default = "default_poll_ms")]
    pub poll_ms: u64,
}

fn default_key() -> String {
    "id".to_owned()
}

fn default_batch_rows() -> usize {
    1_000
}

fn default_poll_ms() -> u64 {
    500
}

impl OutboxConfig {
    /// Schema and table.
    pub fn table_parts(&self) -> (&str, &str) {
        self.table.split_once('.').unwrap_or(("public", &self.table))
    }

    /// Where its table is.
    pub fn address<'a>(&'a self, source: &'a SourceConfig) -> Option<&'a Address> {
        self.url.as_ref().or(source.url.as_ref())
    }

    fn validate(&self, source: &SourceConfig) -> Result<(), Problem> {
        check_name(&self.name)?;
        if let Some(url) = &self.url {
            source::check_url(url)?;
        }
        if self.address(source).is_none() {
            return Err(Problem::new("url", "is missing: say where the table is, here or as source.url"));
        }
        let (schema, table) = self.table_parts();
        if schema.is_empty() || table.is_empty() || table.contains('.') {
            return Err(Problem::new("table", format!("`{}` is not schema.table", self.table)));
        }
        if self.topic.is_empty() {
            return Err(Problem::new("topic", "must not be empty"));
        }
        if self.key == self.flag {
            return Err(Problem::new("flag", format!("`{}` is the key", self.flag)));
        }
        let mut names = BTreeSet::new();
        if let Some(twice) = self.columns.iter().find(|name| !names.insert(*name)) {
            return Err(Problem::new("columns", format!("`{twice}` is there twice")));
        }
        for (field, value, low, high) in
            [("batch_rows", self.batch_rows as u64, 1, 100_000), ("poll_ms", self.poll_ms, 10, 3_600_000)]
        {
            if !(low..=high).contains(&value) {
                return Err(Problem::new(field, format!("{value} is not between {low} and {high}")));
            }
        }
        Ok(())
    }
}

/// All of them, each with its place in the file.
pub(super) fn validate(outboxes: &[OutboxConfig], source: &SourceConfig) -> Result<(), Problem> {
    let (mut names, mut flags) = (BTreeSet::new(), BTreeSet::new());
    for (i, outbox) in outboxes.iter().enumerate() {
        let under = |p: Problem| p.under(&format!("outbox[{i}]"));
        outbox.validate(source).map_err(under)?;
        if !names.insert(&outbox.name) {
            return Err(under(Problem::new("name", format!("two outboxes are called `{}`", outbox.name))));
        }
        let address = outbox.address(source).map(Address::as_str);
        if !flags.insert((address, outbox.table_parts(), &outbox.flag)) {
            let (table, flag) = (&outbox.table, &outbox.flag);
            return Err(under(Problem::new(
                "flag",
                format!(
                    "`{flag}` of {table} is another outbox's too: each needs a flag of its own, or takes the other's rows"
                ),
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outboxes_of_one_table_have_names_and_flags_of_their_own() {
        let source = SourceConfig::default();
        let outbox = |name: &str, table: &str, flag: &str| -> OutboxConfig {
            let text =
                format!("name = '{name}'\nurl = 'postgres://a@b/c'\ntable = '{table}'\nflag = '{flag}'\ntopic = 't'");
            toml::from_str(&text).unwrap()
        };
        let of =
            |second: OutboxConfig| validate(&[outbox("a", "t", "sent"), second], &source).map_err(|p| format!("{p:?}"));
        assert_eq!(of(outbox("b", "t", "sent_too")), Ok(()));
        assert_eq!(of(outbox("b", "other.t", "sent")), Ok(()));
        assert!(of(outbox("a", "u", "sent")).unwrap_err().contains("two outboxes"));
        assert!(of(outbox("b", "public.t", "sent")).unwrap_err().contains("each needs a flag of its own"));
    }
}
