//! Rows of a range, read anew and brought to all sinks on the way of the live changes: at the source, by Debezium's incremental snapshots,
//! or from the lake.
//!
//! Debezium reads the range in chunks while it streams, and puts the rows, as changes of the op `r`, into the table's topic: so order, schema and
//! exactly once are those of every other change. What is asked for, what is under way and how far it is stand with Debezium (its
//! signals, offsets and notifications): a command that was killed finds it there.
//!
//! # Layout
//! - [`place`]: the table's topic, its connector, and where that listens. [`range`]: which rows.
//! - [`effects`]: what the rows do to each sink. [`replace`]: rows deleted first.
//! - [`from_lake`]: the other way: rows of the lake table in place of the source's.
//! - [`notices`], [`progress`]: what the connector says. [`watch`]: until it is done, and all sinks have it. [`control`]: pause, resume, stop, status.

mod control;
mod effects;
pub mod from_lake;
mod notices;
mod place;
mod progress;
mod range;
mod replace;
mod watch;

use std::time::Duration;

use serde::Serialize;

use crate::config::Config;
use crate::connect::ConnectError;
use crate::database::{Database, DatabaseError};
use crate::debezium::signalling::Signal;
use crate::source::kafka::{
    self, ClientSettings, LogError, Producer, SendError, SourceError, TransactionError, partition_count, read_log,
    watermarks,
};
pub use control::{Action, Standing, control, standings};
pub use effects::{Affected, Effect};
use notices::Notices;
pub use place::Channel;
use place::Place;
pub use progress::{Progress, State};
pub use range::Range;
pub use watch::{Behind, Seen};

/// A signal that nobody answered for so long was not taken up: connectors look for signals every five seconds, if not told otherwise.
const TAKEN_UP_WITHIN: Duration = Duration::from_secs(60);
/// Records at the end of the signal topic that are looked through for a signal of this very range.
const LAST_SIGNALS: i64 = 200;
/// Fetched ahead by a client that reads little.
const LITTLE_FETCH: usize = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum BackfillError {
    /// Not so, or not now; says what to do.
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Unreachable(String),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error("the signal was not sent: {0}")]
    Send(#[from] SendError),
    #[error(transparent)]
    Lake(#[from] crate::sink::lake::LakeError),
    #[error("catalog: {0}")]
    Catalog(#[from] firn_catalog::Error),
    #[error("kafka: {0}")]
    Transaction(#[from] TransactionError),
    #[error("the work broke off: {0}")]
    Broken(#[from] tokio::task::JoinError),
}

/// What a person asks for.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// A topic, `schema.table`, or a lake table's name.
    pub table: String,
    /// Where the range is; found out where the source database is known and has one column of time.
    pub column: Option<String>,
    pub from_ms: Option<i64>,
    pub to_ms: Option<i64>,
    pub channel: Channel,
    /// Rows of the range are deleted first, in the sinks that only fill in what is missing.
    pub replace: bool,
    /// Sinks in which rows may be doubled.
    pub accept_doubles: Vec<String>,
    /// Whatever else is said to be under way.
    pub anew: bool,
}

/// A range that can be read anew.
#[derive(Debug)]
pub struct Backfill {
    place: Place,
    range: Range,
    pub affected: Vec<Affected>,
    wish: Wish,
    kafka: ClientSettings,
}

/// How it is under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Begun {
    pub id: String,
    /// It was before: another command began it.
    pub already: bool,
    /// Rows deleted first, by sink.
    pub deleted: Vec<(String, u64)>,
}

/// Finds the table, its connector, and what the rows will do to each sink. Changes nothing.
///
/// # Errors
/// See [`BackfillError`].
pub async fn prepare(config: &Config, wish: Wish) -> Result<Backfill, BackfillError> {
    let place = Place::find(config, &wish.table).await?;
    let range = range::choose(config, &place, &wish).await?;
    let affected = effects::affected(config, &place.topic);
    Ok(Backfill { place, range, affected, wish, kafka: client(config) })
}

fn client(config: &Config) -> ClientSettings {
    kafka::settings(&config.kafka.bootstrap_servers, config.kafka.properties.iter(), LITTLE_FETCH)
}

impl Backfill {
    pub fn topic(&self) -> &str {
        &self.place.topic
    }

    pub fn connector(&self) -> &str {
        &self.place.connector
    }

    /// The table in its source.
    pub fn table(&self) -> &str {
        &self.place.collection
    }

    pub fn range(&self) -> &Range {
        &self.range
    }

    /// Why it is not begun without a person's word.
    pub fn objection(&self) -> Option<String> {
        effects::objection(&self.affected, &self.wish, &self.place.topic)
    }

    /// Sends the signal, unless this very range is under way.
    ///
    /// # Errors
    /// When there is an [objection](Self::objection), something else is under way, or the signal can't be sent.
    pub async fn begin(&self, config: &Config) -> Result<Begun, BackfillError> {
        if let Some(objection) = self.objection() {
            return Err(BackfillError::Refused(objection));
        }
        if let Some(id) = self.under_way(config).await? {
            if self.wish.replace && !range::is_replaced(&id) {
                return Err(BackfillError::Refused(format!(
                    "this range is being read without --replace already ({id}), which would delete what has come of it: wait until it is done, or \
                     `firn backfill stop`, then run the command again"
                )));
            }
            return Ok(Begun { id, already: true, deleted: Vec::new() });
        }
        let channel = self.place.channel(config, self.wish.channel)?;
        let deleted = match self.wish.replace {
            true => replace::delete(config, &self.affected, &self.range).await?,
            false => Vec::new(),
        };
        let id = self.range.new_id(&self.place.collection, self.wish.replace, chrono::Utc::now());
        let signal = Signal::execute(&id, &self.place.collection, &self.range.condition);
        send(config, &self.kafka, &self.place, channel, &signal).await?;
        Ok(Begun { id, already: false, deleted })
    }

    /// The id of this very range, if it was begun and is not over.
    async fn under_way(&self, config: &Config) -> Result<Option<String>, BackfillError> {
        let (kafka, place, anew) = (self.kafka.clone(), self.place.clone(), self.wish.anew);
        let ids = self.range.ids(&self.place.collection);
        let in_table = match self.place.channel(config, self.wish.channel)? {
            place::Way::Table(table) => recent_row(config, table, &ids).await?,
            place::Way::Topic(_) => None,
        };
        tokio::task::spawn_blocking(move || {
            let snapshots = match place.notifications() {
                Some(topic) => Notices::open(&kafka, topic, place.prefix())?.snapshots,
                None => progress::Snapshots::default(),
            };
            match snapshots.running() {
                _ if anew => {}
                Some(running) if running.id.starts_with(&ids) => return Ok(Some(running.id.clone())),
                Some(other) => {
                    return Err(BackfillError::Refused(format!(
                        "the connector {} is at another snapshot, {} of {}: wait for it, or `firn backfill stop`; if it is long over, say \
                         --anew",
                        place.connector, other.id, other.table
                    )));
                }
                None => {
                    let sent = match (in_table, place.signal_topic()) {
                        (Some(id), _) => Some(id),
                        (None, Some(topic)) => recent_signal(&kafka, topic, &ids)?,
                        (None, None) => None,
                    };
                    return Ok(sent.filter(|id| snapshots.get(id).is_none()));
                }
            }
            Ok(None)
        })
        .await?
    }
}

/// A row of the signal table of the last minute whose id begins so.
async fn recent_row(config: &Config, table: &str, ids: &str) -> Result<Option<String>, BackfillError> {
    let found = source(config)?.signals(table, ids).await?;
    let now = chrono::Utc::now();
    let is_recent = |id: &String| {
        range::begun_at(id, ids).is_some_and(|at| (now - at).num_milliseconds() <= TAKEN_UP_WITHIN.as_millis() as i64)
    };
    Ok(found.into_iter().rfind(is_recent))
}

fn source(config: &Config) -> Result<Database, BackfillError> {
    Ok(Database::new(config.source.url.as_ref().map_or("", |url| url.as_str()))?)
}

/// A signal of the last minute whose id begins so.
fn recent_signal(kafka: &ClientSettings, topic: &str, ids: &str) -> Result<Option<String>, BackfillError> {
    if partition_count(kafka, topic).is_err() {
        return Ok(None);
    }
    let at = crate::position::TopicPartition::new(topic, 0);
    let mut found = None;
    for (at, low, high) in watermarks(kafka, &[at])? {
        let since = chrono::Utc::now().timestamp_millis() - TAKEN_UP_WITHIN.as_millis() as i64;
        read_log(kafka, &at, low.max(high - LAST_SIGNALS), high, |record| {
            let id = record.value.and_then(|value| serde_json::from_slice::<serde_json::Value>(value).ok());
            let id = id.and_then(|signal| signal.get("id")?.as_str().map(str::to_owned));
            if let Some(id) = id.filter(|id| id.starts_with(ids))
                && record.timestamp_ms.is_some_and(|ms| ms >= since)
            {
                found = Some(id);
            }
        })?;
    }
    Ok(found)
}

async fn send(
    config: &Config,
    kafka: &ClientSettings,
    place: &Place,
    channel: place::Way<'_>,
    signal: &Signal,
) -> Result<(), BackfillError> {
    match channel {
        place::Way::Topic(topic) => {
            let key = place.prefix().as_bytes();
            Producer::new(kafka)?.send(topic, Some(key), Some(signal.message().as_bytes()), &[]).await?;
        }
        place::Way::Table(table) => {
            source(config)?.signal(table, &signal.id, signal.kind, &signal.data.to_string()).await?;
        }
    }
    Ok(())
}
