//! Pause, resume, stop; how the backfills from the lake stand.
//!
//! What is to be done is written as what is stored, under the backfill's own transactional id: whoever reads the lake loses the id with
//! it, looks why, and does so. Nobody need be there.

use super::find::is_called;
use super::stored::{Store, Stored};
use super::{transactional_id, write};
use crate::config::Config;
use crate::pipeline::backfill::control::Action;
use crate::pipeline::backfill::{BackfillError, Progress, State};
use crate::source::kafka::{ClientSettings, MessageTransactions};

/// The last backfill from the lake of every topic.
///
/// # Errors
/// When Kafka does not answer.
pub(in crate::pipeline::backfill) async fn standings(
    config: &Config,
    kafka: &ClientSettings,
) -> Result<Vec<Progress>, BackfillError> {
    let store = Store::new(config, kafka);
    let mut all: Vec<Progress> =
        tokio::task::spawn_blocking(move || store.read()).await??.values().map(Stored::progress).collect();
    all.sort_by_key(|progress| progress.began_ms);
    Ok(all)
}

/// What becomes of the backfill of this table that is under way; `None` where none is.
///
/// # Errors
/// When Kafka does not answer.
pub(in crate::pipeline::backfill) async fn control(
    config: &Config,
    kafka: &ClientSettings,
    table: &str,
    action: Action,
) -> Result<Option<Progress>, BackfillError> {
    let store = Store::new(config, kafka);
    let (kafka, group, table) = (kafka.clone(), config.kafka.group.clone(), table.to_owned());
    let task = tokio::task::spawn_blocking(move || {
        let under_way = |s: &Stored| is_called(&s.topic, &s.table, &table) && !s.state.is_over();
        let found: Vec<Stored> = store.read()?.into_values().filter(under_way).collect();
        let [stored] = found.as_slice() else { return Ok(None) };
        let mut transactions = MessageTransactions::begin(&kafka, &transactional_id(&group, &stored.topic))?;
        // Nobody else writes it now.
        let Some(stored) = store.of(&stored.topic)?.filter(|s| !s.state.is_over()) else { return Ok(None) };
        let state = match action {
            Action::Pause if stored.is_read => {
                return Err(BackfillError::Refused(format!(
                    "{}: all rows are read, and on their way to the sinks",
                    stored.id
                )));
            }
            Action::Pause => State::Paused,
            Action::Resume => State::Running,
            Action::Stop => State::Stopped,
        };
        let told_ms = chrono::Utc::now().timestamp_millis();
        let stored = Stored { state, told_ms, ..stored };
        write(&mut transactions, &store, &stored)?;
        Ok(Some(stored.progress()))
    });
    task.await?
}
