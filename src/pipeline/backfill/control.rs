//! Pause, resume, stop; how all snapshots stand.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::notices::Notices;
use super::place::{self, Channel, Place};
use super::{BackfillError, Progress, State, client, from_lake, send};
use crate::config::Config;
use crate::debezium::signalling::Signal;

/// How long the connector's word is waited for: it looks for signals every five seconds, if not told otherwise, and finishes its chunk.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Pause,
    Resume,
    Stop,
}

/// In a connector's place, where rows come from the lake.
const FROM_LAKE: &str = "(lake)";

/// A snapshot and its connector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Standing {
    pub connector: String,
    /// Of the connector and its tasks, by Connect's word.
    pub connector_states: Vec<String>,
    #[serde(flatten)]
    pub progress: Progress,
}

/// What the connectors say of the snapshots of tables that the configuration reads, the newest last; at most `most` of each. Then the
/// last backfills from the lake.
///
/// # Errors
/// See [`BackfillError`].
pub async fn standings(config: &Config, most: usize) -> Result<Vec<Standing>, BackfillError> {
    let kafka = client(config);
    let read = place::topics(config);
    let mut all = Vec::new();
    let known = if config.connect.url.is_some() { place::known(config).await?.0 } else { Default::default() };
    for (connector, (signalling, states)) in known {
        let ours = config.lake.is_used() || read.iter().any(|topic| signalling.collection(topic).is_some());
        let Some(topic) = signalling.notifications.clone().filter(|_| ours && signalling.is_json) else { continue };
        let (kafka, prefix) = (kafka.clone(), signalling.prefix.clone());
        let task = tokio::task::spawn_blocking(move || Notices::open(&kafka, &topic, &prefix).map(|n| n.snapshots));
        let snapshots = task.await??;
        let told = snapshots.in_order();
        for progress in told.iter().skip(told.len().saturating_sub(most)) {
            let (connector, connector_states) = (connector.clone(), states.clone());
            all.push(Standing { connector, connector_states, progress: (*progress).clone() });
        }
    }
    let from_lake = from_lake::control::standings(config, &kafka).await?;
    let standing = |progress| Standing { connector: FROM_LAKE.to_owned(), connector_states: Vec::new(), progress };
    all.extend(from_lake.into_iter().map(standing));
    Ok(all)
}

/// Has the backfill of the table from the lake, if there is one, or the snapshot that its connector is at pause, go on or end, and waits
/// for its word.
///
/// # Errors
/// When none is under way, or the connector does not answer.
pub async fn control(
    config: &Config,
    table: &str,
    action: Action,
    channel: Channel,
) -> Result<Progress, BackfillError> {
    let kafka = client(config);
    if let Some(progress) = from_lake::control::control(config, &kafka, table, action).await? {
        return Ok(progress);
    }
    let place = Place::find(config, table).await?;
    let Some(topic) = place.notifications().map(str::to_owned) else {
        return Err(BackfillError::Refused(format!(
            "the connector {} does not say what it does: set notification.enabled.channels=sink and notification.sink.topic.name",
            place.connector
        )));
    };
    let (settings, prefix) = (kafka.clone(), place.prefix().to_owned());
    let mut notices = tokio::task::spawn_blocking(move || Notices::open(&settings, &topic, &prefix)).await??;
    let Some(running) = notices.snapshots.running().cloned() else {
        return Err(BackfillError::Refused(format!("the connector {} is at no snapshot", place.connector)));
    };
    let id = format!("firn-{}", uuid::Uuid::now_v7().simple());
    let signal = match action {
        Action::Pause => Signal::pause(&id),
        Action::Resume => Signal::resume(&id),
        Action::Stop => Signal::stop(&id, &running.table),
    };
    send(config, &kafka, &place, place.channel(config, channel)?, &signal).await?;
    let task = tokio::task::spawn_blocking(move || {
        let sent = Instant::now();
        loop {
            let now = notices.snapshots.get(&running.id).cloned().unwrap_or_else(|| running.clone());
            if now.state.is_over() || reached(action, &now.state) {
                return Ok(now);
            }
            if sent.elapsed() > ANSWER_WITHIN {
                return Err(BackfillError::Refused(format!(
                    "the connector {} said nothing within {} s: `firn backfill status` shows what it does, its log why",
                    place.connector,
                    ANSWER_WITHIN.as_secs()
                )));
            }
            notices.poll(Duration::from_millis(500))?;
        }
    });
    task.await?
}

fn reached(action: Action, state: &State) -> bool {
    match action {
        Action::Pause => *state == State::Paused,
        Action::Resume => *state == State::Running,
        Action::Stop => false,
    }
}
