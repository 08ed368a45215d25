//! Removes the rows of a table that a snapshot of the source did not find again: they were deleted at the source while nobody looked.
//!
//! | a row | goes, because |
//! |---|---|
//! | is older than the snapshot by its LSN | the snapshot would have brought it again |
//! | came before the snapshot's first record, by Kafka's timestamps | a transaction that was under way during the snapshot follows it with an older LSN |
//!
//! Where a partition's log begins after the snapshot did, nobody can tell what came before it: the rows of that partition stay.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use firn_catalog::Catalog;
use iceberg::TableIdent;
use serde::Serialize;
use tokio::runtime::Handle;

use super::wiring::{configured, shared, table_spec};
use crate::change::Mode;
use crate::config::Config;
use crate::position::{Checkpoint, TopicPartition};
use crate::sink::lake::{CommitFailure, LakeError, LakeTable, Sweep};
use crate::source::kafka::{self, ClientSettings, LogError, SourceError};
use crate::table_event::SourceSnapshot;

/// Wait between tries at a commit of unknown outcome.
const UNDECIDED_WAIT: Duration = Duration::from_secs(2);
/// Tries before the outcome is left open: some two minutes with a catalog that is away.
const UNDECIDED_TRIES: usize = 20;
/// Fetched at most by a client that only asks whether a record is there.
const LITTLE_FETCH: usize = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// Not now, or not with this table; says what to do.
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Lake(#[from] LakeError),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("whether the sweep was committed is not known yet ({0}): run it again, it does nothing twice")]
    Undecided(firn_catalog::Error),
}

/// What a sweep found, and did.
#[derive(Clone, Debug, Serialize)]
pub struct Swept {
    pub table: String,
    pub topic: String,
    pub snapshot_lsn: i64,
    /// Rows that the snapshot did not find again.
    pub rows: u64,
    /// Keys of some of them.
    pub keys: Vec<String>,
    /// Partitions whose log begins after the snapshot did: their rows stay, whatever the snapshot found.
    pub unjudged: Vec<i32>,
    /// The commit that removed them; `None` where nothing was removed.
    pub snapshot_id: Option<i64>,
}

/// Finds the rows, shows at most `most_keys` of their keys, and removes them unless it is a `dry_run`.
///
/// # Errors
/// See [`SweepError`].
pub async fn sweep(
    config: &Config,
    catalog: Arc<dyn Catalog>,
    table: &TableIdent,
    dry_run: bool,
    most_keys: usize,
) -> Result<Swept, SweepError> {
    let refused = |why: String| SweepError::Refused(format!("{table}: {why}"));
    let loaded = catalog.load(table).await.map_err(LakeError::from)?;
    let Some(chosen) = configured(config, &loaded) else {
        return Err(refused("no topic of the configuration was ever committed to it".to_owned()));
    };
    if chosen.mode == Mode::Append {
        return Err(refused("an append table keeps every change: there is nothing to sweep".to_owned()));
    }
    let topic = chosen.topic.clone();
    let lake = LakeTable::open(catalog, table_spec(&chosen), Handle::current()).await?.sharing(shared(config));
    let standing = lake.checkpoint().await?.unwrap_or_default();
    let Some(snapshot) = standing.topics.get(&topic).and_then(|t| t.snapshot) else {
        return Err(refused(format!(
            "no snapshot of the source came through {topic}: there is nothing to compare with"
        )));
    };
    let (sweep, unjudged) = limits(config, &topic, &standing, snapshot).await?;
    if sweep.before.is_empty() {
        return Err(refused(format!(
            "the log of {topic} begins after its last snapshot did (retention), so which rows came before that can't be told: have \
             the source read anew, and sweep while the log still has all of that snapshot"
        )));
    }
    if let Some(why) = sweep.refused(&standing) {
        return Err(refused(format!("not yet: {why}; let `firn run` catch up and try again")));
    }
    let ghosts = lake.ghosts(&sweep, most_keys).await?;
    let mut swept = Swept {
        table: table.to_string(),
        topic,
        snapshot_lsn: snapshot.lsn,
        rows: ghosts.rows,
        keys: ghosts.keys,
        unjudged,
        snapshot_id: None,
    };
    if dry_run || ghosts.rows == 0 {
        return Ok(swept);
    }
    let mut outcome = lake.sweep(sweep).await;
    for _ in 0..UNDECIDED_TRIES {
        let Err(CommitFailure::Undecided(parts, e)) = outcome else { break };
        tracing::warn!(%table, "not committed yet, trying again: {e}");
        tokio::time::sleep(UNDECIDED_WAIT).await;
        outcome = lake.commit(parts).await;
    }
    match outcome {
        Ok(done) => {
            swept.rows = done.cut_rows;
            swept.snapshot_id = Some(done.snapshot_id);
            Ok(swept)
        }
        Err(CommitFailure::Undecided(_, e)) => Err(SweepError::Undecided(e)),
        Err(CommitFailure::Failed(e)) => Err(e.into()),
        Err(e) => Err(refused(format!("{e}; try again"))),
    }
}

/// Where the topic ends now, and where the snapshot begins in each partition whose log tells; the others.
async fn limits(
    config: &Config,
    topic: &str,
    standing: &Checkpoint,
    snapshot: SourceSnapshot,
) -> Result<(Sweep, Vec<i32>), SweepError> {
    let settings: ClientSettings =
        kafka::settings(&config.kafka.bootstrap_servers, config.kafka.properties.iter(), LITTLE_FETCH);
    let known = standing.topics.get(topic).map_or(0, |t| t.partition_count);
    let (asked, standing) = (topic.to_owned(), standing.clone());
    let task = tokio::task::spawn_blocking(move || {
        let listed = kafka::list_topics(&settings)?;
        let count = listed.iter().find(|t| t.name == asked).map_or(0, |t| t.partition_count);
        let partitions: Vec<TopicPartition> = (0..count).map(|p| TopicPartition::new(&asked, p)).collect();
        let logs = kafka::watermarks(&settings, &partitions)?;
        let mut ends = BTreeMap::new();
        for (at, _, high) in &logs {
            // No table gets past offsets that hold no record: the markers of transactions that a log may end with.
            let next = standing.next(at);
            let left = kafka::has_record(&settings, at, next, *high)?;
            ends.insert(at.partition, if left { *high } else { next.unwrap_or(0) });
        }
        let since = kafka::offsets_since(&settings, &partitions, snapshot.since_ms)?;
        Ok::<_, SweepError>((count, logs, ends, since))
    });
    let (count, logs, ends, since) =
        task.await.map_err(|e| SweepError::Refused(format!("asking Kafka broke off: {e}")))??;
    if count < known {
        return Err(SweepError::Refused(format!("topic {topic} has {count} partitions, the table knows {known}")));
    }
    let (before, unjudged) = beginnings(&logs, since);
    Ok((Sweep { topic: topic.to_owned(), snapshot, before, ends }, unjudged))
}

/// Where the snapshot begins in each partition that still has the record before it, or never lost one; the others. `since` are the
/// first offsets that are not older than it.
fn beginnings(
    logs: &[(TopicPartition, i64, i64)],
    since: Vec<(TopicPartition, i64)>,
) -> (BTreeMap<i32, i64>, Vec<i32>) {
    let low: BTreeMap<&TopicPartition, i64> = logs.iter().map(|(at, low, _)| (at, *low)).collect();
    let (mut before, mut unjudged) = (BTreeMap::new(), vec![]);
    for (at, offset) in since {
        match low.get(&at) {
            Some(low) if *low == 0 || offset > *low => _ = before.insert(at.partition, offset),
            _ => unjudged.push(at.partition),
        }
    }
    (before, unjudged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_whose_log_begins_after_the_snapshot_is_not_judged() {
        let at = |partition| TopicPartition::new("t", partition);
        // Whole; cut, but the record before the snapshot is there; cut behind it; emptied; never written to.
        let logs = [(at(0), 0, 90), (at(1), 10, 90), (at(2), 50, 90), (at(3), 70, 70), (at(4), 0, 0)];
        let since = vec![(at(0), 0), (at(1), 11), (at(2), 50), (at(3), 70), (at(4), 0)];
        assert_eq!(beginnings(&logs, since), ([(0, 0), (1, 11), (4, 0)].into(), vec![2, 3]));
        // All that it has is older: nothing came since.
        assert_eq!(beginnings(&[(at(0), 10, 90)], vec![(at(0), 90)]), ([(0, 90)].into(), vec![]));
    }
}
