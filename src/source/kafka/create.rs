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
    let asked = settings.clone();
    let of = name.to_owned();
    let there = tokio::task::spawn_blocking(move || partition_count(&asked, &of)).await;
    if matches!(there, Ok(Ok(_))) {
        return Ok(());
    }
    let client = |e| SendError::Refused(SourceError::Client(e).to_string());
    let admin: AdminClient<DefaultClientContext> = settings.plain().create().map_err(client)?;
    let options = AdminOptions::new().request_timeout(Some(BROKER_ANSWER)).operation_timeout(Some(BROKER_ANSWER));
    let topic = NewTopic::new(name, partitions.unwrap_or(-1), TopicReplication::Fixed(replication.unwrap_or(-1)));
    let made = admin.create_topics([&topic], &options).await.map_err(|e| SendError::of(name, &e))?;
    match made.into_iter().next() {
        Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) | Some(Ok(_)) => Ok(()),
        Some(Err((_, code))) => Err(SendError::by_code(Some(code), format!("topic {name}: {code}"))),
        None => Err(SendError::Unacknowledged(format!("topic {name}: no answer whether it is made"))),
    }
}
