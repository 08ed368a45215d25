//! The outbox: rows of a PostgreSQL table that are not marked as sent go to a topic, each exactly once, and are marked.
//!
//! ```text
//! take:   the owner in the database -> init of the transactional id -> the topic is read from the position on -> found rows are marked
//! batch:  rows -> one Kafka transaction -> their marks and the position behind them, in one transaction of the database
//! ```
//! Whatever fails in a batch is settled by taking the outbox again: a row is in the topic behind the position, or it was never sent. A
//! process that lost the outbox can neither commit in Kafka (its producer is fenced) nor mark (it is no longer the owner).
//!
//! # Layout
//! [`position`] and [`statements`] decide, [`rows`] is the database, [`topic`] is Kafka, [`meter`] the metrics. Knows nothing of pipelines.

mod meter;
mod position;
mod rows;
mod statements;
mod topic;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use firn_catalog::failpoint::{self, Step};
use serde::Serialize;
use tokio::sync::watch;

use crate::config::{Config, OutboxConfig};
use crate::position::TopicPartition;
use crate::source::kafka::{
    self, ClientSettings, LogError, MessageTransactions, SendError, SourceError, TransactionError,
};
pub use meter::Backlog;
use meter::Meter;
pub use position::Lost;
use position::{Settled, Topic, Unsettled, unsettled};
use rows::{Row, Rows, Take};

/// What a reader of the topic may fetch ahead.
const FETCH_AHEAD_BYTES: usize = 8 << 20;
/// How often the position follows the log while there is nothing to send: it must stay inside what retention leaves.
const FOLLOW_EVERY: Duration = Duration::from_secs(60);
/// How long the end waits for the last transaction's marker, which the brokers write after their answer.
const MARKER_WITHIN: Duration = Duration::from_secs(2);
const WAITS: [u64; 6] = [1, 2, 4, 8, 16, 30];

/// Why an outbox can't go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the outbox's url can't be used: {0}")]
    Settings(String),
    #[error("the outbox's database does not answer: {0}")]
    Database(String),
    #[error("the outbox's database refuses: {0}; correct user, password and database in its url")]
    Refused(String),
    #[error("{0}")]
    Table(String),
    #[error(
        "the row {0} was sent and can't be marked: a trigger sets the flag back, or a row security policy hides the row from UPDATE; \
         what was sent is found again once the mark stays"
    )]
    Unmarked(String),
    #[error("the brokers don't show the topic {0}")]
    NoTopic(String),
    #[error("{0}: the log ends in another producer's open transaction; what stands behind it can't be told yet")]
    Hidden(TopicPartition),
    #[error(
        "{at}: the log begins at offset {low}, rows are marked up to offset {next}: whether rows that are not marked were sent in \
         between can't be told; mark those that were, then run once with --skip-lost"
    )]
    LostOffsets { at: TopicPartition, next: i64, low: i64 },
    #[error("another process has taken the outbox {0}: one at a time, the newest wins")]
    Taken(String),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("kafka: {0}")]
    Transaction(#[from] TransactionError),
    #[error("the topic can't be made: {0}")]
    MakeTopic(SendError),
    #[error("a step of the outbox panicked; this is a bug in firn")]
    Panicked,
}

impl Error {
    /// Whether time may mend it.
    pub fn may_pass(&self) -> bool {
        match self {
            Error::Database(_) | Error::NoTopic(_) | Error::Hidden(_) | Error::Log(_) => true,
            Error::Source(e) => matches!(e, SourceError::Unreachable { .. }),
            // Taking it again tells whether another process has it.
            Error::Transaction(e) => !matches!(e, TransactionError::Refused(_)),
            Error::MakeTopic(e) => !matches!(e, SendError::Refused(_)),
            Error::Settings(_)
            | Error::Refused(_)
            | Error::Table(_)
            | Error::Unmarked(_)
            | Error::LostOffsets { .. }
            | Error::Taken(_) => false,
            Error::Panicked => false,
        }
    }
}

/// How long it goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Told to stop.
    Stopped,
    /// Nothing is left to send; what can't be reached ends it too.
    Sent,
    /// Nothing came for so long.
    Idle(Duration),
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Done {
    pub outbox: String,
    /// Rows sent and marked.
    pub sent: u64,
    /// Rows that an earlier process had sent and not marked.
    pub found: u64,
    /// The keys of rows that the topic does not take. They are not marked.
    pub refused: Vec<String>,
}

/// Sends until it is told to stop, or there is no more to do.
///
/// # Errors
/// What time does not mend, or (with [`Until::Sent`]) anything that goes wrong; run again, nothing is lost or sent twice.
pub async fn run(
    config: &Config,
    outbox: &OutboxConfig,
    until: Until,
    lost: Lost,
    backlog: Backlog,
    mut stop: watch::Receiver<bool>,
) -> Result<Done, Error> {
    let mut outbox = Outbox::new(config, outbox, lost, backlog);
    let mut failures = 0;
    loop {
        let before = outbox.done.sent;
        let e = match outbox.go(until, &mut stop).await {
            Ok(()) => return Ok(outbox.done),
            Err(e) => e,
        };
        if matches!(e, Error::Transaction(TransactionError::TooLarge(_))) {
            continue;
        }
        outbox.meter.failed();
        if !e.may_pass() || until == Until::Sent {
            return Err(e);
        }
        if outbox.done.sent > before {
            failures = 0;
        }
        let wait = WAITS.get(failures).or(WAITS.last()).copied().unwrap_or_default();
        failures += 1;
        tracing::warn!(outbox = outbox.wanted.name, "trying again in {wait} s: {e}");
        if stopped_within(&mut stop, Duration::from_secs(wait)).await {
            return Ok(outbox.done);
        }
    }
}

/// Whether an outbox can work: its table, its rights. Writes nothing.
///
/// # Errors
/// What stands in the way.
pub async fn probe(config: &Config, outbox: &OutboxConfig) -> Result<String, Error> {
    let mut rows = Outbox::new(config, outbox, Lost::Refuse, Backlog::Ignored).open().await?;
    let positions = if rows.has_state().await? { "" } else { "; the table of positions will be made" };
    let settings = settings(config);
    let topic = outbox.topic.clone();
    let found = blocking(move || topic::is_there(&settings, &topic)).await?;
    let topic = if found { "" } else { "; there is no such topic yet" };
    let waiting = match rows.unsent(1, &[]).await?.is_empty() {
        true => "no rows wait",
        false => "rows wait",
    };
    Ok(format!("{} to topic {}: {waiting}{positions}{topic}", outbox.table, outbox.topic))
}

fn settings(config: &Config) -> ClientSettings {
    kafka::settings(&config.kafka.bootstrap_servers, config.kafka.properties.iter(), FETCH_AHEAD_BYTES)
}

/// One outbox of this process.
struct Outbox {
    wanted: OutboxConfig,
    url: String,
    kafka: ClientSettings,
    transactional_id: String,
    /// This process, in the table of positions.
    owner: String,
    take: Take,
    lost: Lost,
    /// Rows of one batch: fewer while one is looked for that is too large.
    batch_rows: usize,
    /// Where transactions ended whose markers may not be in the log yet.
    reached: BTreeMap<i32, i64>,
    done: Done,
    meter: Meter,
}

impl Outbox {
    fn new(config: &Config, wanted: &OutboxConfig, lost: Lost, backlog: Backlog) -> Self {
        Self {
            url: wanted.address(&config.source).map(|url| url.as_str().to_owned()).unwrap_or_default(),
            kafka: settings(config),
            transactional_id: format!("{}.outbox.{}", config.kafka.group, wanted.name),
            owner: uuid::Uuid::new_v4().to_string(),
            take: Take::Over,
            lost,
            batch_rows: wanted.batch_rows,
            reached: BTreeMap::new(),
            done: Done { outbox: wanted.name.clone(), ..Done::default() },
            meter: Meter::new(&wanted.name, backlog),
            wanted: wanted.clone(),
        }
    }

    async fn open(&self) -> Result<Rows, Error> {
        Rows::open(&self.wanted, &self.url, &self.owner).await
    }

    /// Leaves these rows behind, which are too large; where nobody knows which are, fewer rows will tell.
    fn refuse(&mut self, rows: usize, keys: Vec<String>) {
        if keys.is_empty() {
            self.batch_rows = (rows / 2).max(1);
            return;
        }
        for key in &keys {
            tracing::error!(
                outbox = self.wanted.name,
                key,
                "the row is larger than the topic takes (max.message.bytes): it stays behind"
            );
        }
        self.done.refused.extend(keys);
        self.meter.refused(self.done.refused.len());
    }

    /// Takes the outbox and sends.
    async fn go(&mut self, until: Until, stop: &mut watch::Receiver<bool>) -> Result<(), Error> {
        let mut rows = self.open().await?;
        let (mut transactions, mut settled) = self.take(&mut rows).await?;
        let mut idle = Instant::now();
        let mut followed = Instant::now();
        while !*stop.borrow() {
            if self.meter.counts() {
                match rows.backlog(&self.done.refused).await {
                    Ok(unsent) => self.meter.unsent(unsent),
                    // Nothing depends on it.
                    Err(e) => tracing::warn!(outbox = self.wanted.name, "the rows that wait can't be counted: {e}"),
                }
            }
            let batch = rows.unsent(self.batch_rows, &self.done.refused).await?;
            if !batch.is_empty() {
                transactions = self.batch(&mut rows, transactions, &mut settled, batch).await?;
                idle = Instant::now();
                continue;
            }
            let is_over = match until {
                Until::Stopped => false,
                Until::Sent => true,
                Until::Idle(time) => idle.elapsed() >= time,
            };
            if is_over || stopped_within(stop, Duration::from_millis(self.wanted.poll_ms)).await {
                break;
            }
            if followed.elapsed() >= FOLLOW_EVERY {
                self.follow(&mut rows, &mut settled, Duration::ZERO).await?;
                followed = Instant::now();
            }
        }
        self.follow(&mut rows, &mut settled, MARKER_WITHIN).await
    }

    /// Makes the outbox this process's, in the database and in Kafka, and marks what was sent and not marked.
    async fn take(&mut self, rows: &mut Rows) -> Result<(MessageTransactions, Settled), Error> {
        kafka::ensure_topic(&self.kafka, &self.wanted.topic, None, None).await.map_err(Error::MakeTopic)?;
        let claim = rows.claim(self.take, &self.wanted.topic, &self.transactional_id).await?;
        let before = claim.settled.clone();
        let (kafka, own) = (self.kafka.clone(), self.transactional_id.clone());
        let earlier = before.as_ref().map(|s| s.transactional_id.clone()).filter(|id| *id != own);
        // Within the claim: whoever claims next fences later as well.
        let transactions = blocking(move || {
            earlier.map(|id| MessageTransactions::begin(&kafka, &id)).transpose()?;
            Ok(MessageTransactions::begin(&kafka, &own)?)
        });
        let transactions = transactions.await?;
        claim.commit().await?;
        self.take = Take::Again;
        let (keys, settled) = match before {
            Some(before) => self.find(before).await?,
            None => (Vec::new(), self.position_at(self.look().await?)),
        };
        let found = rows.settle(&keys, &settled).await?;
        self.done.found += found;
        self.meter.found(found);
        tracing::info!(outbox = self.wanted.name, found, "taken");
        Ok((transactions, settled))
    }

    /// The rows that were sent behind the position, and the position behind them.
    async fn find(&self, before: Settled) -> Result<(Vec<String>, Settled), Error> {
        let kafka = self.kafka.clone();
        let (outbox, wanted, lost) = (self.wanted.name.clone(), self.wanted.topic.clone(), self.lost);
        let (keys, now) = blocking(move || {
            let now = match topic::look(&kafka, &before.topic) {
                // The configuration names another now, and the old one is gone with its rows.
                Err(Error::NoTopic(_)) if before.topic != wanted => {
                    return Ok((Vec::new(), topic::look(&kafka, &wanted)?));
                }
                other => other?,
            };
            let parts = match unsettled(&before, &now, lost) {
                Unsettled::Since(parts) => parts,
                Unsettled::Anew(parts) => {
                    tracing::warn!(
                        outbox,
                        topic = before.topic,
                        "the topic was made anew, or has lost its end: it is read whole"
                    );
                    parts
                }
                Unsettled::Lost { partition, next, low } => {
                    return Err(Error::LostOffsets { at: TopicPartition::new(before.topic, partition), next, low });
                }
            };
            let keys = topic::keys(&kafka, &outbox, &before.topic, &parts)?;
            Ok((keys, if before.topic == wanted { now } else { topic::look(&kafka, &wanted)? }))
        })
        .await?;
        Ok((keys, self.position_at(now)))
    }

    async fn look(&self) -> Result<Topic, Error> {
        let (kafka, topic) = (self.kafka.clone(), self.wanted.topic.clone());
        blocking(move || topic::look(&kafka, &topic)).await
    }

    fn position_at(&self, now: Topic) -> Settled {
        Settled {
            topic: self.wanted.topic.clone(),
            topic_id: now.id,
            transactional_id: self.transactional_id.clone(),
            next: topic::ends(&now.reach),
        }
    }

    /// Sends these rows and marks them.
    async fn batch(
        &mut self,
        rows: &mut Rows,
        mut transactions: MessageTransactions,
        settled: &mut Settled,
        batch: Vec<Row>,
    ) -> Result<MessageTransactions, Error> {
        let keys: Vec<String> = batch.iter().map(|row| row.key.clone()).collect();
        let (outbox, topic) = (self.wanted.name.clone(), self.wanted.topic.clone());
        let sent = blocking(move || {
            topic::send(&mut transactions, &outbox, &topic, &batch)?;
            Ok(transactions)
        });
        let sent = failpoint::around_async(Step::OutboxSend, sent, unanswered).await;
        if let Err(Error::Transaction(TransactionError::TooLarge(places))) = &sent {
            self.refuse(keys.len(), places.iter().filter_map(|place| keys.get(*place).cloned()).collect());
        }
        let mut transactions = sent?;
        let committed = blocking(move || transactions.commit().map(|next| (transactions, next)).map_err(Error::from));
        let (transactions, next) = failpoint::around_async(Step::OutboxCommit, committed, unanswered).await?;
        settled.next.extend(next.clone());
        self.reached.extend(next);
        let marked = rows.settle(&keys, settled);
        failpoint::around_async(Step::OutboxMark, marked, |f| Error::Database(f.to_string())).await?;
        self.done.sent += keys.len() as u64;
        self.meter.sent(keys.len());
        tracing::debug!(outbox = self.wanted.name, rows = keys.len(), "sent and marked");
        // Back to whole batches, step by step.
        self.batch_rows = (self.batch_rows * 2).min(self.wanted.batch_rows);
        Ok(transactions)
    }

    /// Moves the position to the log's end: every row is marked, so nothing of this outbox is behind it.
    async fn follow(&mut self, rows: &mut Rows, settled: &mut Settled, wait: Duration) -> Result<(), Error> {
        let begun = Instant::now();
        let now = loop {
            let now = self.position_at(self.look().await?);
            let passed = self.reached.iter().all(|(p, next)| now.next.get(p).is_none_or(|end| end > next));
            if passed || begun.elapsed() >= wait {
                break now;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        if now != *settled {
            rows.settle(&[], &now).await?;
            *settled = now;
        }
        self.reached.clear();
        Ok(())
    }
}

fn unanswered(failure: failpoint::Failure) -> Error {
    Error::Transaction(TransactionError::Unavailable(failure.to_string()))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(Error::Panicked))
}

/// Waits; answers whether the stop came meanwhile.
async fn stopped_within(stop: &mut watch::Receiver<bool>, wait: Duration) -> bool {
    tokio::time::timeout(wait, stop.wait_for(|stop| *stop)).await.is_ok()
}
