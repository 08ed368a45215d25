//! What a topic sink is told: plain values.

use serde::{Deserialize, Serialize};

/// One topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSettings {
    pub topic: String,
    /// Columns; none: messages without a key.
    pub key: Vec<String>,
    pub key_format: KeyFormat,
    pub on_null_key: OnNullKey,
    pub format: ValueFormat,
    pub deletes: Deletes,
    /// Whether a message says which change it comes from.
    pub origin_headers: bool,
    /// Of a topic that is made; the brokers' default where `None`.
    pub partitions: Option<i32>,
    pub replication: Option<i32>,
}

/// How a value is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ValueFormat {
    /// An object of the columns.
    #[default]
    Json,
    /// In Confluent's wire format, its schema in the registry under `<topic>-value`.
    Avro,
}

/// How a key is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyFormat {
    /// An object of the key's columns, as Debezium's.
    #[default]
    Json,
    /// The one column's value as text.
    Text,
}

/// What becomes of a row whose key has a NULL in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnNullKey {
    /// It is refused.
    #[default]
    Reject,
    /// Its message has no key. A tombstone without one is refused all the same.
    Send,
}

/// What becomes of rows that come from a delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Deletes {
    /// The key, without a value.
    Tombstone,
    /// A message like any other.
    Row,
}
