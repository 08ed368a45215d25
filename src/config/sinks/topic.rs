//! `[[pipelines.topic]]`

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::config::error::Problem;
use crate::sink::topic::{Deletes, KeyFormat, OnNullKey, TopicSettings, ValueFormat};

/// One topic in the Kafka that the pipeline reads from.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TopicConfig {
    /// The sink's name within its pipeline, in positions, metrics and commands.
    #[serde(default = "default_name")]
    pub name: String,
    pub topic: String,
    /// Columns of the messages' key; none: messages without one.
    #[serde(default)]
    pub key: Vec<String>,
    #[serde(default)]
    pub key_format: KeyFormat,
    /// What becomes of a row whose key has a NULL in it: `reject` or `send`.
    #[serde(default)]
    pub on_null_key: OnNullKey,
    #[serde(default)]
    pub format: ValueFormat,
    /// What becomes of rows that come from a delete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletes: Option<Deletes>,
    /// Whether a message has its change's topic, partition and offset as headers.
    #[serde(default)]
    pub origin_headers: bool,
    /// Of a topic that firn makes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitions: Option<i32>,
    /// Of a topic that firn makes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication: Option<i32>,
}

fn default_name() -> String {
    "topic".to_owned()
}

impl TopicConfig {
    /// `sources`: the topics that the pipeline reads.
    pub(in crate::config) fn validate<'a>(&self, mut sources: impl Iterator<Item = &'a str>) -> Result<(), Problem> {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if self.topic.is_empty() || self.topic.len() > 249 || !self.topic.chars().all(fits) {
            let problem = format!("`{}` is not made of up to 249 letters, digits, `.`, `_` and `-`", self.topic);
            return Err(Problem::new("topic", problem));
        }
        if sources.any(|source| source == self.topic) {
            return Err(Problem::new("topic", "the pipeline reads this topic: it would read what it writes, for ever"));
        }
        let mut names = BTreeSet::new();
        if let Some(twice) = self.key.iter().find(|name| !names.insert(*name)) {
            return Err(Problem::new("key", format!("`{twice}` stands there twice")));
        }
        if self.key_format == KeyFormat::Text && self.key.len() != 1 {
            return Err(Problem::new("key_format", "a key as text has one column"));
        }
        if self.deletes == Some(Deletes::Tombstone) && self.key.is_empty() {
            return Err(Problem::new("deletes", "a tombstone deletes a key: name its columns in `key`"));
        }
        for (field, count) in [("partitions", self.partitions), ("replication", self.replication)] {
            if count.is_some_and(|count| count < 1) {
                return Err(Problem::new(field, "is at least 1; leave it out for the brokers' default"));
            }
        }
        Ok(())
    }

    /// What the sink is told.
    pub fn settings(&self) -> TopicSettings {
        let deletes = if self.key.is_empty() { Deletes::Row } else { Deletes::Tombstone };
        TopicSettings {
            topic: self.topic.clone(),
            key: self.key.clone(),
            key_format: self.key_format,
            on_null_key: self.on_null_key,
            format: self.format,
            deletes: self.deletes.unwrap_or(deletes),
            origin_headers: self.origin_headers,
            partitions: self.partitions,
            replication: self.replication,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn config(text: &str) -> TopicConfig {
        toml::from_str(text).unwrap()
    }

    #[rstest]
    #[case("topic = ''", "topic")]
    #[case("topic = 'a topic'", "topic")]
    #[case::it_would_read_what_it_writes("topic = 'in'", "topic")]
    #[case("topic = 't'\nkey = ['a', 'b', 'a']", "key")]
    #[case("topic = 't'\nkey = ['a', 'b']\nkey_format = 'text'", "key_format")]
    #[case("topic = 't'\nkey_format = 'text'", "key_format")]
    #[case("topic = 't'\ndeletes = 'tombstone'", "deletes")]
    #[case("topic = 't'\npartitions = 0", "partitions")]
    #[case("topic = 't'\nreplication = 0", "replication")]
    fn what_can_not_be_is_refused(#[case] text: &str, #[case] field: &str) {
        assert_eq!(config(text).validate(["in"].into_iter()).unwrap_err().field, field);
    }

    #[rstest]
    #[case("topic = 't'", Deletes::Row)]
    #[case("topic = 't'\nkey = ['id']", Deletes::Tombstone)]
    #[case("topic = 't'\nkey = ['id']\ndeletes = 'row'", Deletes::Row)]
    fn deletes_are_tombstones_where_there_is_a_key(#[case] text: &str, #[case] want: Deletes) {
        let config = config(text);
        assert_eq!(config.validate(["in"].into_iter()), Ok(()));
        let settings = config.settings();
        assert_eq!(
            (settings.deletes, settings.format, settings.key_format),
            (want, ValueFormat::Json, KeyFormat::Json)
        );
    }
}
