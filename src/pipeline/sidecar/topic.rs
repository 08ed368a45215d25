//! What a topic needs around it: to be made, its schema, a look at whether it can be written to.

use async_trait::async_trait;

use super::ledger::told;
use super::sinks::kafka_of;
use crate::config::Config;
use crate::position::TopicPartition;
use crate::registry::{Registry, RegistryError};
use crate::sink::SinkError;
use crate::sink::topic::{Cluster, TopicSettings, ValueFormat};
use crate::source::kafka::{ClientSettings, SendError, Transactions, ensure_topic, list_topics};

/// Kafka, and the schema registry where there is one.
pub(super) struct Surroundings {
    kafka: ClientSettings,
    registry: Option<Registry>,
}

impl Surroundings {
    /// Asks nothing yet.
    ///
    /// # Errors
    /// When a setting is wrong.
    pub(super) fn of(config: &Config) -> Result<Self, String> {
        let registry = config.registry.settings()?.map(|settings| Registry::new(&settings));
        Ok(Self { kafka: kafka_of(config), registry: registry.transpose().map_err(|e| e.to_string())? })
    }

    fn registry(&self) -> Result<&Registry, SinkError> {
        self.registry.as_ref().ok_or_else(|| SinkError::Stopped("no schema registry: set registry.url".to_owned()))
    }
}

#[async_trait]
impl Cluster for Surroundings {
    async fn make(&self, topic: &str, partitions: Option<i32>, replication: Option<i32>) -> Result<(), SinkError> {
        let made = ensure_topic(&self.kafka, topic, partitions, replication).await;
        made.map_err(|e| match e {
            SendError::Unacknowledged(why) => SinkError::Unavailable(why),
            SendError::TooLarge(why) | SendError::Refused(why) => {
                SinkError::Stopped(format!("the topic is missing and can't be made: {why}"))
            }
        })
    }

    async fn register(&self, subject: &str, schema: &str) -> Result<i32, SinkError> {
        self.registry()?.register(subject, schema).await.map_err(of_registry)
    }
}

fn of_registry(e: RegistryError) -> SinkError {
    match e {
        RegistryError::Unavailable(why) => SinkError::Unavailable(why),
        other => SinkError::Stopped(other.to_string()),
    }
}

/// Whether the topic is there, and transactions can be begun; a line about it for a person. Makes nothing.
///
/// # Errors
/// Why not.
pub(super) async fn probe(config: &Config, sink: &TopicSettings, group: &str) -> Result<String, SinkError> {
    let surroundings = Surroundings::of(config).map_err(SinkError::Stopped)?;
    if sink.format == ValueFormat::Avro {
        surroundings.registry()?.probe().await.map_err(of_registry)?;
    }
    let (kafka, group, name) = (surroundings.kafka, group.to_owned(), sink.topic.clone());
    let looked = tokio::task::spawn_blocking(move || {
        let topics = list_topics(&kafka).map_err(|e| SinkError::Unavailable(e.to_string()))?;
        Transactions::probe(&kafka, &group).map_err(|e| told(&TopicPartition::new(name.as_str(), 0), &[], e))?;
        Ok::<_, SinkError>(topics.into_iter().find(|topic| topic.name == name).map(|topic| topic.partition_count))
    });
    let count = looked.await.map_err(|e| SinkError::Stopped(e.to_string()))??;
    Ok(match count {
        Some(count) => format!("topic {}: {count} partition(s); transactions go through", sink.topic),
        None => format!("topic {}: is made with the first delivery; transactions go through", sink.topic),
    })
}

#[cfg(test)]
mod tests;
