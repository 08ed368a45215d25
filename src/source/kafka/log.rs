//! One partition's log, read from here to there, beside the group and without a trace in it.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};

use super::{BROKER_ANSWER, ClientSettings, PolledRecord};
use crate::position::TopicPartition;
use crate::record::Record;

/// How long the log may bring nothing before reading it is given up.
const SILENCE: Duration = Duration::from_secs(30);
/// The same for who has other things to do.
const SHORT_SILENCE: Duration = Duration::from_secs(3);

#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("{at}: Kafka's log begins only at offset {low}: retention removed what came before")]
    Gone { at: TopicPartition, low: i64 },
    #[error(
        "{at}: Kafka's log ends at offset {end} already, and is read from {next}: the topic was made anew, or lost records"
    )]
    Beyond { at: TopicPartition, next: i64, end: i64 },
    #[error("{at}: {source}")]
    Kafka { at: TopicPartition, source: KafkaError },
    #[error("{at}: the log brought nothing for {} s at offset {next}", silence.as_secs())]
    Silent { at: TopicPartition, next: i64, silence: Duration },
}

/// Gives `take` the records of `[from, to)`. Blocks.
///
/// # Errors
/// `Gone` when the log doesn't reach back to `from`; otherwise when the brokers don't answer.
pub fn read_log(
    settings: &ClientSettings,
    at: &TopicPartition,
    from: i64,
    to: i64,
    mut take: impl FnMut(&Record<'_>),
) -> Result<(), LogError> {
    walk(settings, at, Some(from), to, SILENCE, |record| {
        take(record);
        ControlFlow::Continue(())
    })
}

/// Whether there is a record in `[from, to)`, or before `to` where no beginning is said. Behind the last one there may be offsets that
/// no reader meets: markers of transactions, records that were aborted or compacted. Blocks.
///
/// # Errors
/// As [`read_log`].
pub fn has_record(
    settings: &ClientSettings,
    at: &TopicPartition,
    from: Option<i64>,
    to: i64,
) -> Result<bool, LogError> {
    any(settings, at, from, to, SILENCE)
}

/// As [`has_record`], for who may ask again: a log that says nothing is not waited for long.
///
/// # Errors
/// As [`read_log`].
pub fn has_record_soon(
    settings: &ClientSettings,
    at: &TopicPartition,
    from: Option<i64>,
    to: i64,
) -> Result<bool, LogError> {
    any(settings, at, from, to, SHORT_SILENCE)
}

fn any(
    settings: &ClientSettings,
    at: &TopicPartition,
    from: Option<i64>,
    to: i64,
    silence: Duration,
) -> Result<bool, LogError> {
    let mut found = false;
    walk(settings, at, from, to, silence, |_| {
        found = true;
        ControlFlow::Break(())
    })?;
    Ok(found)
}

fn walk(
    settings: &ClientSettings,
    at: &TopicPartition,
    from: Option<i64>,
    to: i64,
    silence: Duration,
    mut take: impl FnMut(&Record<'_>) -> ControlFlow<()>,
) -> Result<(), LogError> {
    if from.unwrap_or(0) >= to {
        return Ok(());
    }
    let failed = |source| LogError::Kafka { at: at.clone(), source };
    let mut client = settings.consumer("firn.dead-letters", 0);
    client.set("enable.partition.eof", "true");
    client.remove("group.instance.id");
    // The leader is read: a follower may tell an end that is behind.
    client.remove("client.rack");
    let consumer: BaseConsumer = client.create().map_err(failed)?;
    let (low, _) = consumer.fetch_watermarks(&at.topic, at.partition, silence.min(BROKER_ANSWER)).map_err(failed)?;
    let from = from.unwrap_or(low);
    if low > from {
        return Err(LogError::Gone { at: at.clone(), low });
    }
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset(&at.topic, at.partition, Offset::Offset(from)).map_err(failed)?;
    consumer.assign(&assignment).map_err(failed)?;
    let (mut next, mut heard) = (from, Instant::now());
    while next < to {
        match consumer.poll(Duration::from_millis(200)) {
            Some(Ok(message)) => {
                let polled = PolledRecord(message);
                let record = polled.record();
                if record.offset >= to {
                    break;
                }
                next = record.offset + 1;
                if take(&record).is_break() {
                    break;
                }
                heard = Instant::now();
            }
            // What is left up to `to` are markers of transactions.
            Some(Err(KafkaError::PartitionEOF(_))) => break,
            Some(Err(KafkaError::MessageConsumption(
                RDKafkaErrorCode::OffsetOutOfRange | RDKafkaErrorCode::AutoOffsetReset,
            ))) => {
                let (low, _) =
                    consumer.fetch_watermarks(&at.topic, at.partition, silence.min(BROKER_ANSWER)).map_err(failed)?;
                return Err(LogError::Gone { at: at.clone(), low });
            }
            Some(Err(e @ KafkaError::MessageConsumptionFatal(_))) => return Err(failed(e)),
            Some(Err(_)) | None => {}
        }
        if heard.elapsed() > silence {
            return Err(LogError::Silent { at: at.clone(), next, silence });
        }
    }
    Ok(())
}

/// Whether the topic's log loses records but for the last of each key.
///
/// # Errors
/// When the brokers don't say.
pub async fn is_compacted(settings: &ClientSettings, topic: &str) -> Result<bool, KafkaError> {
    let admin: AdminClient<DefaultClientContext> = settings.plain().create()?;
    let options = AdminOptions::new().request_timeout(Some(BROKER_ANSWER));
    let answers = admin.describe_configs([&ResourceSpecifier::Topic(topic)], &options).await?;
    let config = answers.into_iter().next().transpose().map_err(KafkaError::AdminOp)?;
    let policy = config.as_ref().and_then(|c| c.get("cleanup.policy")).and_then(|entry| entry.value.clone());
    match policy {
        Some(policy) => Ok(policy.contains("compact")),
        None => Err(KafkaError::AdminOp(RDKafkaErrorCode::InvalidConfig)),
    }
}
