//! Topics that firn makes.

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::RDKafkaErrorCode;

use super::{BROKER_ANSWER, ClientSettings, SendError, SourceError, partition_count};

/// Makes a topic where there is none of this name. What is not said is the brokers' default.
///
/// # Errors
/// When the brokers refuse it or do not answer.
pub async fn ensure_topic(
    settings: &ClientSettings,
    name: &str,
    partitions: Option<i32>,
    replication: Option<i32>,
) -> Result<(), SendError> {
    make(
        settings,
        name,
        NewTopic::new(name, partitions.unwrap_or(-1), TopicReplication::Fixed(replication.unwrap_or(-1))),
    )
    .await
}

/// Makes a topic that keeps of each key the last message, where there is none of this name.
///
/// # Errors
/// When the brokers refuse it or do not answer.
pub async fn ensure_compacted(
    settings: &ClientSettings,
    name: &str,
    partitions: i32,
    segment_bytes: &str,
) -> Result<(), SendError> {
    let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(-1));
    let topic = topic.set("cleanup.policy", "compact").set("segment.bytes", segment_bytes);
    make(settings, name, topic).await
}

async fn make(settings: &ClientSettings, name: &str, topic: NewTopic<'_>) -> Result<(), SendError> {
    let asked = settings.clone();
    let of = name.to_owned();
    let there = tokio::task::spawn_blocking(move || partition_count(&asked, &of)).await;
    if matches!(there, Ok(Ok(_))) {
        return Ok(());
    }
    let client = |e| SendError::Refused(SourceError::Client(e).to_string());
    let admin: AdminClient<DefaultClientContext> = settings.plain().create().map_err(client)?;
    let options = AdminOptions::new().request_timeout(Some(BROKER_ANSWER)).operation_timeout(Some(BROKER_ANSWER));
    let made = admin.create_topics([&topic], &options).await.map_err(|e| SendError::of(name, &e))?;
    match made.into_iter().next() {
        Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) | Some(Ok(_)) => Ok(()),
        Some(Err((_, code))) => Err(SendError::by_code(Some(code), format!("topic {name}: {code}"))),
        None => Err(SendError::Unacknowledged(format!("topic {name}: no answer whether it is made"))),
    }
}
