//! `[kafka]` and `[connect]`: where records come from.

use serde::{Deserialize, Serialize};

use super::error::Problem;
use super::secret::{Address, Properties};

/// `[kafka]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaConfig {
    /// `host:port` of one broker or more, with commas between.
    pub bootstrap_servers: String,
    /// The consumer group. Processes of one group share the partitions.
    #[serde(default = "default_group")]
    pub group: String,
    /// Where a partition begins that the table holds no position for.
    #[serde(default)]
    pub start: Start,
    /// Threads that decode and write files.
    #[serde(default = "default_workers")]
    pub workers: usize,
    /// Handed to librdkafka as they are: security.protocol, sasl.*, ssl.* ...
    #[serde(default)]
    pub properties: Properties,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    #[default]
    Earliest,
    Latest,
}

fn default_group() -> String {
    "firn".to_owned()
}

/// One a core, four at most: beyond four the commit, not the decoding, sets the pace of one process.
fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get().min(4))
}

/// librdkafka properties that firn sets itself, and why they can't be chosen.
const OWNED: [(&str, &str); 15] = [
    ("bootstrap.servers", "set kafka.bootstrap_servers"),
    ("metadata.broker.list", "set kafka.bootstrap_servers"),
    ("group.id", "set kafka.group"),
    ("auto.offset.reset", "set kafka.start; a lost position must stop the table, never jump"),
    ("enable.auto.commit", "positions are committed with the rows, in the table"),
    ("auto.commit.interval.ms", "positions are committed with the rows, in the table"),
    ("enable.auto.offset.store", "positions are committed with the rows, in the table"),
    ("isolation.level", "firn reads read_committed: a record of an aborted transaction must not become a row"),
    ("enable.partition.eof", "firn looks at the watermarks to know where a partition ends"),
    (
        "partition.assignment.strategy",
        "firn is cooperative-sticky: a partition that moves costs its new owner a scan of the keys",
    ),
    ("group.protocol", "firn is cooperative-sticky: a partition that moves costs its new owner a scan of the keys"),
    ("queued.max.messages.kbytes", "memory.budget_bytes bounds all queues together"),
    ("queued.min.messages", "memory.budget_bytes bounds all queues together"),
    ("sasl.jaas.config", "that is the Java client's; librdkafka takes sasl.username and sasl.password"),
    ("ssl.truststore.location", "that is the Java client's; librdkafka takes ssl.ca.location (PEM)"),
];

impl KafkaConfig {
    pub(super) fn validate(&self) -> Result<(), Problem> {
        let servers = &self.bootstrap_servers;
        if servers.split(',').any(|s| s.trim().is_empty() || s.trim().contains(char::is_whitespace)) {
            return Err(Problem::new("bootstrap_servers", format!("`{servers}` is not host:port,host:port,...")));
        }
        if self.group.is_empty() {
            return Err(Problem::new("group", "must not be empty"));
        }
        if !(1..=64).contains(&self.workers) {
            return Err(Problem::new("workers", format!("{} is not between 1 and 64", self.workers)));
        }
        for (key, _) in self.properties.iter() {
            if let Some((_, reason)) = OWNED.iter().find(|(owned, _)| *owned == key) {
                return Err(Problem::new(format!("properties.{key}"), format!("firn sets this itself: {reason}")));
            }
        }
        Ok(())
    }
}

/// `[connect]`: Kafka Connect's REST API, which `firn check` asks for the connectors' settings.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ConnectConfig {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<Address>,
}

impl ConnectConfig {
    pub(super) fn validate(&self) -> Result<(), Problem> {
        match &self.url {
            Some(url) if !url.as_str().starts_with("http://") && !url.as_str().starts_with("https://") => {
                Err(Problem::new("url", format!("`{url}` is not an http:// or https:// address")))
            }
            _ => Ok(()),
        }
    }
}
