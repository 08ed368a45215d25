//! Until the connector has read the range, and all sinks have it.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::notices::Notices;
use super::{Affected, Backfill, BackfillError, Progress, TAKEN_UP_WITHIN};
use crate::config::Config;
use crate::connect::offsets;
use crate::debezium::signalling::is_past;
use crate::position::TopicPartition;
use crate::source::kafka::{ClientSettings, committed, has_record, partition_count, watermarks};

/// How often the sinks are asked for their positions.
const ASK_SINKS: Duration = Duration::from_secs(1);
/// How often Connect is asked for the connector's offsets.
const ASK_CONNECT: Duration = Duration::from_millis(500);
/// Connect stores offsets every minute, if not told otherwise (offset.flush.interval.ms).
const STORED_WITHIN: Duration = Duration::from_secs(120);
/// What rows get for their way to the topic where nobody tells that they are there.
const UNTOLD: Duration = Duration::from_secs(5);
/// So few offsets may all be markers of transactions.
const FEW: i64 = 16;

/// What is seen while a backfill is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// How far the connector is.
    Reading(Progress),
    /// Nothing was heard for so long.
    Silence(Duration),
    /// All is read; its last rows may be on their way to the topic.
    Storing,
    /// How far the sinks are.
    Delivering(Vec<Behind>),
}

/// A sink that does not have all of the range yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Behind {
    pub sink: String,
    /// Records between what it has and where the topic ended when the range was read.
    pub records: i64,
}

impl Backfill {
    /// Whether the connector says what becomes of it.
    pub fn is_told(&self) -> bool {
        self.place.notifications().is_some()
    }

    /// Tells how the connector gets on, until it is over.
    ///
    /// # Errors
    /// When it was not taken up, or Kafka does not answer.
    pub async fn watch(
        &self,
        id: &str,
        mut tell: impl FnMut(Seen) + Send + 'static,
    ) -> Result<Progress, BackfillError> {
        let Some(topic) = self.place.notifications().map(str::to_owned) else {
            return Err(BackfillError::Refused(format!(
                "the connector {} does not say how far it is: set notification.enabled.channels=sink and \
                 notification.sink.topic.name (in JSON), or say --detach",
                self.place.connector
            )));
        };
        let (kafka, place, id) = (self.kafka.clone(), self.place.clone(), id.to_owned());
        let task = tokio::task::spawn_blocking(move || {
            let mut notices = Notices::open(&kafka, &topic, place.prefix())?;
            let began = Instant::now();
            let (mut heard, mut said) = (Instant::now(), None);
            loop {
                let progress = notices.snapshots.get(&id).cloned();
                if progress.is_some() && progress != said {
                    heard = Instant::now();
                    if let Some(progress) = &progress {
                        tell(Seen::Reading(progress.clone()));
                        if progress.state.is_over() {
                            return Ok(progress.clone());
                        }
                    }
                    said = progress;
                }
                if said.is_none() && began.elapsed() > TAKEN_UP_WITHIN {
                    return Err(BackfillError::Refused(format!(
                        "the connector {} did not take the signal {id} up within {} s: its log says why; does it run, is the signal table in its \
                         publication, and is signal.kafka.topic of one partition?",
                        place.connector,
                        TAKEN_UP_WITHIN.as_secs()
                    )));
                }
                if !notices.poll(Duration::from_millis(500))? && heard.elapsed() > Duration::from_secs(10) {
                    tell(Seen::Silence(heard.elapsed()));
                }
            }
        });
        task.await?
    }

    /// Waits until all rows of a range that was read are in the topic.
    async fn wait_for_rows(&self, config: &Config, progress: &Progress) {
        let Some(url) = &config.connect.url else { return };
        let began = Instant::now();
        while began.elapsed() < STORED_WITHIN {
            let stored = offsets(url, &self.place.connector).await;
            let past =
                stored.map(|all| all.iter().map(|offset| is_past(offset, progress.began_ms)).collect::<Vec<_>>());
            match past {
                Ok(past) if past.iter().all(|past| *past == Some(true)) => return,
                Ok(past) if past.contains(&Some(false)) => {}
                Ok(_) => break,
                Err(e) => {
                    tracing::warn!("the offsets that the connector stored are not told: {e}");
                    break;
                }
            }
            tokio::time::sleep(ASK_CONNECT).await;
        }
        tokio::time::sleep(UNTOLD).await;
    }

    /// Waits until every sink has all rows of a range that was read.
    ///
    /// # Errors
    /// When Kafka does not answer.
    pub async fn wait_for_sinks(
        &self,
        config: &Config,
        progress: &Progress,
        mut tell: impl FnMut(Seen) + Send + 'static,
    ) -> Result<(), BackfillError> {
        tell(Seen::Storing);
        self.wait_for_rows(config, progress).await;
        delivered(self.kafka.clone(), self.place.topic.clone(), self.affected.clone(), tell).await
    }
}

/// Waits until every sink has what the topic has now.
///
/// # Errors
/// When Kafka does not answer.
pub(super) async fn delivered(
    kafka: ClientSettings,
    topic: String,
    affected: Vec<Affected>,
    mut tell: impl FnMut(Seen) + Send + 'static,
) -> Result<(), BackfillError> {
    let task = tokio::task::spawn_blocking(move || {
        let partitions: Vec<_> =
            (0..partition_count(&kafka, &topic)?).map(|p| TopicPartition::new(&topic, p)).collect();
        let logs: Vec<_> = watermarks(&kafka, &partitions)?.into_iter().map(|(_, low, high)| (low, high)).collect();
        loop {
            let mut behind = Vec::new();
            for sink in &affected {
                let records = missing(&kafka, &sink.group, &partitions, &logs)?;
                if records > 0 {
                    behind.push(Behind { sink: sink.sink.clone(), records });
                }
            }
            let done = behind.is_empty();
            tell(Seen::Delivering(behind));
            if done {
                return Ok(());
            }
            std::thread::sleep(ASK_SINKS);
        }
    });
    task.await?
}

/// Records that a group has not passed.
fn missing(
    kafka: &ClientSettings,
    group: &str,
    partitions: &[TopicPartition],
    logs: &[(i64, i64)],
) -> Result<i64, BackfillError> {
    let mut missing = 0;
    for ((at, (low, end)), next) in partitions.iter().zip(logs).zip(committed(kafka, group, partitions)?) {
        // What the log has lost nobody waits for.
        let next = next.map(|next| next.max(*low));
        let left = end - next.unwrap_or(*low);
        if left > FEW || left > 0 && has_record(kafka, at, next, *end)? {
            missing += left;
        }
    }
    Ok(missing)
}
