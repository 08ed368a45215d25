//! A look at a Kafka without joining a group: brokers, topics, how far each partition reaches. For `firn check`.
//!
//! Blocking, as the client is; callers move it to a thread of its own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;

use super::{BROKER_ANSWER, ClientSettings};

/// What a Kafka can't be asked, and why.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    #[error("the client refuses its settings: {0}")]
    Settings(String),
    /// The broker's or the client's own words come with it.
    #[error("no answer from {servers}: {reason}")]
    Unreachable { servers: String, reason: String },
    #[error("{servers} refuses the credentials: {reason}")]
    Denied { servers: String, reason: String },
}

/// What a Kafka has.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    pub brokers: usize,
    /// By name.
    pub topics: BTreeMap<String, TopicInfo>,
}

#[derive(Clone, Debug, Default)]
pub struct TopicInfo {
    /// The partitions' ids, in order.
    pub partitions: Vec<i32>,
    /// Partitions that no broker leads now.
    pub leaderless: Vec<i32>,
    pub error: Option<String>,
}

/// How far a partition's log reaches: `[low, high)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermarks {
    pub low: i64,
    pub high: i64,
}

/// A client that only looks.
pub struct Inspector {
    servers: String,
    consumer: BaseConsumer<Heard>,
    heard: Heard,
}

impl std::fmt::Debug for Inspector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inspector").field("servers", &self.servers).finish_non_exhaustive()
    }
}

/// Keeps what the client says when something goes wrong: its calls answer only "timed out" then.
#[derive(Clone, Debug, Default)]
struct Heard(Arc<Mutex<Vec<String>>>);

impl Heard {
    fn push(&self, text: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(text.to_owned());
    }

    /// The most telling line: one about credentials or TLS before one about a connection.
    fn reason(&self) -> Option<String> {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().rev().find(|l| is_denial(l)).or_else(|| lines.last()).cloned()
    }
}

impl ClientContext for Heard {
    fn log(&self, level: RDKafkaLogLevel, _facility: &str, message: &str) {
        if (level as i32) <= RDKafkaLogLevel::Error as i32 {
            self.push(message);
        }
    }

    fn error(&self, _error: KafkaError, reason: &str) {
        self.push(reason);
    }
}

impl ConsumerContext for Heard {}

fn is_denial(reason: &str) -> bool {
    let reason = reason.to_ascii_lowercase();
    ["authentication", "sasl", "ssl", "certificate", "authorization"].iter().any(|w| reason.contains(w))
}

impl Inspector {
    /// Makes the client; nothing is asked yet.
    ///
    /// # Errors
    /// [`InspectError::Settings`] for a property that librdkafka does not know or take.
    pub fn new(settings: &ClientSettings) -> Result<Self, InspectError> {
        let mut client = settings.plain();
        client.set("allow.auto.create.topics", "false").set_log_level(RDKafkaLogLevel::Error);
        let heard = Heard::default();
        let consumer = client.create_with_context(heard.clone()).map_err(|e| InspectError::Settings(e.to_string()))?;
        Ok(Self { servers: settings.bootstrap().to_owned(), consumer, heard })
    }

    /// # Errors
    /// When no broker answers or the credentials are refused.
    pub fn cluster(&self) -> Result<Cluster, InspectError> {
        let metadata = self.consumer.fetch_metadata(None, BROKER_ANSWER).map_err(|e| self.explain(&e))?;
        let topics = metadata.topics().iter().map(|t| {
            let mut partitions: Vec<i32> = t.partitions().iter().map(|p| p.id()).collect();
            partitions.sort_unstable();
            let info = TopicInfo {
                partitions,
                leaderless: t.partitions().iter().filter(|p| p.leader() < 0).map(|p| p.id()).collect(),
                error: t.error().map(|e| rdkafka::types::RDKafkaErrorCode::from(e).to_string()),
            };
            (t.name().to_owned(), info)
        });
        Ok(Cluster { brokers: metadata.brokers().len(), topics: topics.collect() })
    }

    /// # Errors
    /// When the partition's leader does not answer or the topic may not be read.
    pub fn watermarks(&self, topic: &str, partition: i32) -> Result<Watermarks, InspectError> {
        let (low, high) =
            self.consumer.fetch_watermarks(topic, partition, BROKER_ANSWER).map_err(|e| self.explain(&e))?;
        Ok(Watermarks { low, high })
    }

    fn explain(&self, error: &KafkaError) -> InspectError {
        // Serves the error callback, which says more than the call's own answer.
        let _ = self.consumer.poll(Duration::ZERO);
        let reason = self.heard.reason().unwrap_or_else(|| error.to_string());
        let servers = self.servers.clone();
        if is_denial(&reason) {
            InspectError::Denied { servers, reason }
        } else {
            InspectError::Unreachable { servers, reason }
        }
    }
}
