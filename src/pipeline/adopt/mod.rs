//! Goes on with a table that another writer filled: looks whether firn can, and gives it the position that the writer had.

mod decide;
mod spark;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use firn_catalog::Catalog;
use iceberg::TableIdent;
use tokio::runtime::Handle;

use super::sidecar::last_columns;
use super::wiring::{shared, table_spec};
use crate::change::{Mode, RowSchema};
use crate::config::{Config, TableConfig};
use crate::position::{Checkpoint, TopicPartition};
use crate::sink::lake::{AdoptError as LakeAdoptError, LakeError, LakeTable, LookedAt};
use crate::source::kafka::{self, SourceError};
use decide::{Log, Unnamed, position};

/// Wait between tries at a commit of unknown outcome, and how many there are.
const UNDECIDED_WAIT: Duration = Duration::from_secs(2);
const UNDECIDED_TRIES: usize = 20;
/// Records of each partition whose columns are compared with the table's.
const RECORDS_LOOKED_AT: i64 = 20;
const FETCH_AHEAD_BYTES: usize = 16 << 20;

#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// Not with this table, or not now; says what to do.
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Lake(#[from] LakeError),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(
        "whether it was committed is not known yet ({0}): `firn table show` tells the position; run it again if there is none"
    )]
    Undecided(firn_catalog::Error),
}

/// What tells up to where the table holds its topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum From {
    /// Of each partition the next offset.
    Offsets(BTreeMap<i32, i64>),
    /// The first record that is not older, ms since the epoch.
    Timestamp(i64),
    /// The checkpoint folder of a Spark Structured Streaming query.
    Spark(PathBuf),
}

/// An adoption as it was worked out: to be looked at, then done.
#[derive(Debug)]
pub struct PreparedAdoption {
    lake: LakeTable,
    looked_at: LookedAt,
    /// As the topic's last records have them.
    records: Option<RowSchema>,
    pub table: String,
    pub topic: String,
    pub mode: Mode,
    pub position: Checkpoint,
    /// Rows that live in the table.
    pub rows: u64,
    /// What the records, and firn's own columns, change in the table's.
    pub columns: Vec<String>,
    /// What a person should know before.
    pub warnings: Vec<String>,
}

/// Looks whether firn can go on with the table, and from where. Changes nothing.
///
/// # Errors
/// See [`AdoptError`].
pub async fn prepare(
    config: &Config,
    catalog: Arc<dyn Catalog>,
    table: &TableIdent,
    topic: Option<&str>,
    from: &From,
) -> Result<PreparedAdoption, AdoptError> {
    let refused = |why: String| AdoptError::Refused(format!("{table}: {why}"));
    let settings = kafka::settings(&config.kafka.bootstrap_servers, config.kafka.properties.iter(), FETCH_AHEAD_BYTES);
    let listed = {
        let settings = settings.clone();
        blocking(move || Ok(kafka::list_topics(&settings)?)).await?
    };
    let feeds = |name: &str| config.table_for(name).filter(|c| c.ident() == *table);
    let fed: Vec<TableConfig> = listed.iter().filter_map(|t| feeds(&t.name)).collect();
    let of_topic = choose(fed, topic).map_err(refused)?;
    let topic = of_topic.topic.clone();

    let mut warnings = Vec::new();
    let (offsets, unnamed) = match from {
        From::Offsets(offsets) => (Some(offsets.clone()), Unnamed::Refused),
        From::Timestamp(_) => (None, Unnamed::Refused),
        From::Spark(folder) => {
            let read = spark::read(folder).map_err(AdoptError::Refused)?;
            if let Some(begun) = read.begun {
                let told =
                    format!("Spark began batch {begun} after batch {}, and its rows may be in the table", read.batch);
                if of_topic.mode == Mode::Append {
                    return Err(refused(format!("{told}, twice then: let the query finish it, or say the --offsets")));
                }
                warnings.push(format!("{told}: they are read again, and replaced"));
            }
            let of_topic = read.offsets.get(&topic).cloned();
            let topics = || read.offsets.keys().cloned().collect::<Vec<_>>().join(", ");
            let offsets =
                of_topic.ok_or_else(|| refused(format!("{} is of {}, not of {topic}", folder.display(), topics())))?;
            (Some(offsets), Unnamed::Beginning)
        }
    };
    let log = {
        let (settings, topic, from) = (settings.clone(), topic.clone(), from.clone());
        blocking(move || {
            let reach = kafka::reach(&settings, &topic)?;
            let partitions: Vec<TopicPartition> = reach.keys().map(|p| TopicPartition::new(&topic, *p)).collect();
            let since = match from {
                From::Timestamp(ms) => kafka::offsets_since(&settings, &partitions, ms)?,
                _ => Vec::new(),
            };
            let since: BTreeMap<i32, i64> = since.into_iter().map(|(at, offset)| (at.partition, offset)).collect();
            Ok((Log { topic_id: kafka::topic_id(&settings, &topic)?, reach, topic }, since))
        })
        .await?
    };
    let (log, since) = log;
    let position = position(&offsets.unwrap_or(since), unnamed, &log).map_err(refused)?;
    if matches!(from, From::Timestamp(_)) {
        warnings.push(match of_topic.mode {
            Mode::Upsert => {
                "a time before the writer's last change is safe: what is read again replaces the same rows".to_owned()
            }
            Mode::Append => "what the table has from that time on is there twice then".to_owned(),
        });
    }

    let records = last_columns(config, &of_topic, RECORDS_LOOKED_AT).await.map_err(refused)?;
    let lake = LakeTable::open(catalog, table_spec(&of_topic), Handle::current()).await?.sharing(shared(config));
    let looked_at = lake.look_at_adoption(records.as_ref()).await.map_err(|e| of_lake(table, e))?;
    if records.is_none() {
        warnings.push(format!("the ends of {topic} hold no row: its columns were not compared with the table's"));
    }
    if let Some(told) = &looked_at.other_key {
        warnings.push(told.clone());
    }
    Ok(PreparedAdoption {
        table: table.to_string(),
        topic,
        mode: of_topic.mode,
        position,
        rows: looked_at.rows,
        columns: looked_at.changes.clone(),
        warnings,
        looked_at,
        records,
        lake,
    })
}

impl PreparedAdoption {
    /// Does it; answers the snapshot.
    ///
    /// # Errors
    /// See [`AdoptError`]: `Refused` when somebody changed the table since it was looked at.
    pub async fn commit(&self) -> Result<i64, AdoptError> {
        // Columns first, alone, as ever: rows would be written without firn's own, where the records ask for no others.
        let present = || self.lake.columns().map(|columns| columns.rows().clone());
        if let Some(columns) = self.records.clone().or_else(present) {
            self.lake.ensure_schema(&columns).await?;
        }
        let snapshot_id = firn_catalog::new_snapshot_id();
        let mut outcome = self.lake.adopt(&self.position, &self.looked_at, snapshot_id).await;
        for _ in 0..UNDECIDED_TRIES {
            let Err(LakeAdoptError::Undecided(e)) = &outcome else { break };
            tracing::warn!(table = self.table, "not committed yet, trying again: {e}");
            tokio::time::sleep(UNDECIDED_WAIT).await;
            outcome = self.lake.adopt(&self.position, &self.looked_at, snapshot_id).await;
        }
        outcome.map(|()| snapshot_id).map_err(|e| of_lake(&self.table, e))
    }
}

/// The one topic that the configuration feeds into the table.
fn choose(mut fed: Vec<TableConfig>, wanted: Option<&str>) -> Result<TableConfig, String> {
    let names = fed.iter().map(|c| c.topic.as_str()).collect::<Vec<_>>().join(", ");
    if let Some(wanted) = wanted {
        let found = fed.into_iter().find(|c| c.topic == wanted);
        return found.ok_or_else(|| format!("the configuration feeds no topic {wanted} into it; there are: {names}"));
    }
    match (fed.pop(), fed.is_empty()) {
        (Some(one), true) => Ok(one),
        (None, _) => Err("the configuration feeds no topic of Kafka into it".to_owned()),
        (Some(_), false) => Err(format!("several topics feed it: say which with --topic ({names})")),
    }
}

fn of_lake(table: impl std::fmt::Display, e: LakeAdoptError) -> AdoptError {
    match e {
        LakeAdoptError::Refused(why) => AdoptError::Refused(format!("{table}: {why}")),
        LakeAdoptError::Lake(e) => AdoptError::Lake(e),
        LakeAdoptError::Undecided(e) => AdoptError::Undecided(e),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, AdoptError> + Send + 'static,
) -> Result<T, AdoptError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|e| Err(AdoptError::Refused(format!("asking Kafka broke off: {e}"))))
}
