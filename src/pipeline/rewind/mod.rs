//! Sets a table back in Kafka, or over what Kafka lost, beside running processes: what can be done is asked of table and log, done in
//! one commit, and every writer of before is refused from then on.

mod decide;
mod letters;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use firn_catalog::Catalog;
use iceberg::TableIdent;
use tokio::runtime::Handle;

use decide::{Decision, TableAsIs, TopicLog, decide};
pub use decide::{Target, Wish};

use super::letters::DeadLetters;
use super::wiring::{shared, table_spec};
use crate::change::{Mode, origin};
use crate::config::Config;
use crate::position::{Checkpoint, TopicPartition};
use crate::sink::lake::{
    How, LakeError, LakeTable, Rewind, RewindError as LakeRewindError, Rewound, standing_or_stored,
};
use crate::source::kafka::{self, ClientSettings, SourceError};

/// Wait between tries at a commit of unknown outcome.
const UNDECIDED_WAIT: Duration = Duration::from_secs(2);
/// Tries before the outcome is left open: some two minutes with a catalog that is away.
const UNDECIDED_TRIES: usize = 20;
/// Fetched by this client: nothing.
const NO_FETCH: usize = 1 << 20;
/// Missing files that are named.
const FILES_NAMED: usize = 3;

#[derive(Debug, thiserror::Error)]
pub enum RewindError {
    /// Not with this table, or not now; says what to do.
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Lake(#[from] LakeError),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("dead letters: {0}")]
    Letters(String),
    #[error(
        "whether the rewind was committed is not known yet ({0}): `firn table show` says by its generation; run it again if it is \
         not, it does nothing twice"
    )]
    Undecided(firn_catalog::Error),
}

/// A rewind as it was worked out: to be looked at, then done.
#[derive(Debug)]
pub struct PreparedRewind {
    config: Config,
    catalog: Arc<dyn Catalog>,
    kafka: ClientSettings,
    lake: LakeTable,
    rewind: Rewind,
    pub table: String,
    pub topic: String,
    pub mode: Mode,
    /// What a person should know before.
    pub warnings: Vec<String>,
    /// What it will do.
    pub outlook: Rewound,
}

impl PreparedRewind {
    pub fn how(&self) -> &How {
        &self.rewind.how
    }
}

/// Works out how the table gets to where it is wanted. Changes nothing.
///
/// # Errors
/// See [`RewindError`].
pub async fn prepare(
    config: &Config,
    catalog: Arc<dyn Catalog>,
    table: &TableIdent,
    topic: Option<&str>,
    wish: &Wish,
) -> Result<PreparedRewind, RewindError> {
    let refused = |why: String| RewindError::Refused(format!("{table}: {why}"));
    let loaded = catalog.load(table).await.map_err(LakeError::from)?;
    let metadata = loaded.metadata();
    let name = table.to_string();
    let Some(stored) = standing_or_stored(&name, metadata)? else {
        return Err(refused("firn never committed to it: there is nothing to rewind".to_owned()));
    };
    let chosen = choose_topic(config, table, &stored, topic).map_err(refused)?;
    let Some(of_topic) = config.table_for(&chosen) else {
        return Err(refused(format!("the configuration feeds topic {chosen} into no table")));
    };
    let (mode, has_origins) = (of_topic.mode, metadata.current_schema().field_by_name(origin::OFFSET).is_some());
    let lake = LakeTable::open(Arc::clone(&catalog), table_spec(&of_topic), Handle::current()).await?;
    let lake = lake.sharing(shared(config));
    let unclear = matches!(lake.checkpoint().await, Err(LakeError::Unclear { .. }));
    let ends_of_rows = match wish.target {
        Target::Rows => {
            if !has_origins {
                return Err(refused("its rows don't say where they came from (origin_columns = false)".to_owned()));
            }
            lake.ends_of_rows(&chosen).await?
        }
        _ => BTreeMap::new(),
    };
    let settings = kafka::settings(&config.kafka.bootstrap_servers, config.kafka.properties.iter(), NO_FETCH);
    let log = look_at_log(&settings, &chosen, wish).await?;
    let as_is = TableAsIs { name: &name, mode, has_origins, metadata, standing: &stored, unclear, ends_of_rows };
    let Decision { how, warnings } = decide(wish, &as_is, &log).map_err(refused)?;
    if let How::Restore { snapshot_id } = how {
        let missing = lake.missing_files(snapshot_id, FILES_NAMED).await?;
        if !missing.is_empty() {
            return Err(refused(format!(
                "files of snapshot {snapshot_id} are gone from storage ({}): another writer removed them; choose a later \
                 snapshot",
                missing.join(", ")
            )));
        }
    }
    let rewind = Rewind { how, generation: stored.generation };
    let outlook = lake.look_at_rewind(&rewind).await.map_err(|e| of_lake(table, e))?;
    Ok(PreparedRewind {
        config: config.clone(),
        catalog,
        kafka: settings,
        lake,
        rewind,
        table: name,
        topic: chosen,
        mode,
        warnings,
        outlook,
    })
}

impl PreparedRewind {
    /// Does it.
    ///
    /// # Errors
    /// See [`RewindError`]: `Refused` when the table moved on in a way that the rewind does not allow.
    pub async fn commit(&self) -> Result<Rewound, RewindError> {
        // Before the rows, as letters always are: replayed once more they are found to be there already.
        self.reopen_letters().await?;
        let snapshot_id = firn_catalog::new_snapshot_id();
        let mut outcome = self.lake.rewind(&self.rewind, snapshot_id).await;
        for _ in 0..UNDECIDED_TRIES {
            let Err(LakeRewindError::Undecided(e)) = outcome else { break };
            tracing::warn!(table = self.table, "not committed yet, trying again: {e}");
            tokio::time::sleep(UNDECIDED_WAIT).await;
            outcome = self.lake.rewind(&self.rewind, snapshot_id).await;
        }
        let done = outcome.map_err(|e| of_lake(&self.table, e))?;
        // One that landed at a try whose answer was lost says only where the table stands now.
        Ok(match done.before.topics.is_empty() {
            true => Rewound { snapshot_id: done.snapshot_id, ..self.outlook.clone() },
            false => done,
        })
    }

    async fn reopen_letters(&self) -> Result<(), RewindError> {
        let How::Restore { snapshot_id } = self.rewind.how else { return Ok(()) };
        let metadata = self.lake.metadata().await?;
        let Some(taken_ms) = metadata.and_then(|m| m.snapshot_by_id(snapshot_id).map(|s| s.timestamp_ms())) else {
            return Ok(());
        };
        let (catalog, shared) = (Arc::clone(&self.catalog), shared(&self.config));
        let letters = DeadLetters::open(&self.config, catalog, &self.kafka, Handle::current(), shared)
            .map_err(|e| RewindError::Letters(e.to_string()))?;
        letters::reopen(&letters, &self.table, taken_ms, &self.outlook.after).await.map_err(RewindError::Letters)
    }
}

fn of_lake(table: impl std::fmt::Display, e: LakeRewindError) -> RewindError {
    match e {
        LakeRewindError::Refused(why) => RewindError::Refused(format!("{table}: {why}")),
        LakeRewindError::Lake(e) => RewindError::Lake(e),
        LakeRewindError::Undecided(e) => RewindError::Undecided(e),
    }
}

/// The topic that is read again: the one that the configuration feeds into the table.
fn choose_topic(
    config: &Config,
    table: &TableIdent,
    stored: &Checkpoint,
    wanted: Option<&str>,
) -> Result<String, String> {
    let feeds = |topic: &&String| config.table_for(topic).is_some_and(|c| c.ident() == *table);
    let fed: Vec<&String> = stored.topics.keys().filter(feeds).collect();
    let names = || fed.iter().map(|t| t.as_str()).collect::<Vec<_>>().join(", ");
    match (wanted, fed.as_slice()) {
        (Some(wanted), _) => match fed.iter().find(|t| t.as_str() == wanted) {
            Some(topic) => Ok((*topic).clone()),
            None => Err(format!("topic {wanted} does not feed it, or was never read into it; there are: {}", names())),
        },
        (None, [one]) => Ok((*one).clone()),
        (None, []) => Err("no topic of the configuration was ever committed to it".to_owned()),
        (None, _) => Err(format!("several topics feed it: say which with --topic ({})", names())),
    }
}

async fn look_at_log(settings: &ClientSettings, topic: &str, wish: &Wish) -> Result<TopicLog, RewindError> {
    let (asked, name, target) = (settings.clone(), topic.to_owned(), wish.target.clone());
    let task = tokio::task::spawn_blocking(move || {
        let listed = kafka::list_topics(&asked)?;
        let count = listed.iter().find(|t| t.name == name).map_or(0, |t| t.partition_count);
        let partitions: Vec<TopicPartition> = (0..count).map(|p| TopicPartition::new(&name, p)).collect();
        let reaches = kafka::watermarks(&asked, &partitions)?;
        let since = match target {
            Target::Timestamp(ms) => kafka::offsets_since(&asked, &partitions, ms)?,
            _ => vec![],
        };
        Ok::<_, SourceError>(TopicLog {
            topic_id: kafka::topic_id(&asked, &name)?,
            reaches: reaches.into_iter().map(|(at, low, high)| (at.partition, (low, high))).collect(),
            compacted: None,
            since: since.into_iter().map(|(at, offset)| (at.partition, offset)).collect(),
            topic: name,
        })
    });
    let log = task.await.map_err(|e| RewindError::Refused(format!("asking Kafka broke off: {e}")))??;
    if log.reaches.is_empty() {
        return Err(RewindError::Refused(format!("there is no topic {topic}: nothing can be read again")));
    }
    Ok(TopicLog { compacted: kafka::is_compacted(settings, topic).await.ok(), ..log })
}
