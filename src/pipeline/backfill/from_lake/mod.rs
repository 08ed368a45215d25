//! Rows of a range from the lake table, into the table's own topic as changes of the op `r`. Needs no connector and no source database.
//!
//! The rows are those of one snapshot of the lake. A row whose key has a newer change in the topic is left out: that change is on its
//! way to all sinks anyway. Rows and how far it is go in one Kafka transaction, under one transactional id for each topic: a process that
//! was killed, or is replaced by another, leaves nothing half done, and nothing comes twice.
//!
//! # Layout
//! - [`find`]: which table, which rows. [`read`]: the rows in the lake. [`samples`]: how the topic's records are written. [`gather`],
//!   [`send`]: a transaction. [`stored`]: how far it is. [`run`]: all of it, until the end. [`control`]: pause, resume, stop, status.

pub(super) mod control;
mod find;
mod gather;
mod read;
mod run;
mod samples;
mod send;
mod stored;

use std::collections::BTreeMap;

use firn_catalog::ManifestCache;

use super::{Affected, BackfillError, Begun, Progress, Range, Seen, State, Wish, client, effects, watch};
use crate::config::Config;
use crate::debezium::{DecodeOptions, Encoder};
use crate::pipeline::source_tables::SourceTables;
use crate::pipeline::told::Told;
use crate::pipeline::wiring::decode_options;
use crate::pipeline::writer_schemas::WriterSchemas;
use crate::pipeline::{source_tables, writer_schemas};
use crate::position::{TopicPartition, TopicPosition};
use crate::source::kafka::{ClientSettings, MessageTransactions, partition_count, topic_id, watermarks};
use find::Found;
use read::Snapshot;
use stored::{Place, Store, Stored};

/// Of manifests, while their files are listed.
const MANIFEST_BYTES: u64 = 64 << 20;

/// A range of a table that can be read from the lake.
#[derive(Debug)]
pub struct FromLake {
    config: Config,
    kafka: ClientSettings,
    found: Found,
    range: Range,
    pub affected: Vec<Affected>,
    wish: Wish,
    store: Store,
    options: DecodeOptions,
    schemas: WriterSchemas,
    sources: SourceTables,
    /// This process.
    owner: String,
}

/// A backfill that this process has taken.
#[derive(Debug)]
pub struct Session {
    transactions: MessageTransactions,
    stored: Stored,
}

/// One process at a time reads for a topic.
fn transactional_id(group: &str, topic: &str) -> String {
    format!("{group}.backfill.{topic}")
}

/// Stores it alone. Blocks.
fn write(transactions: &mut MessageTransactions, store: &Store, stored: &Stored) -> Result<(), BackfillError> {
    let value = serde_json::to_vec(stored).map_err(|e| BackfillError::Refused(e.to_string()))?;
    transactions.send(&[store.message(stored, &value)])?;
    transactions.commit()?;
    Ok(())
}

/// Finds the table, its rows, and what they will do to each sink. Changes nothing.
///
/// # Errors
/// See [`BackfillError`].
pub async fn prepare(config: &Config, wish: Wish) -> Result<FromLake, BackfillError> {
    let kafka = client(config);
    let found = find::find(config, &kafka, &wish.table).await?;
    found.position().await?;
    let range = find::choose(found.columns.rows(), found.columns.lineage(), &wish, &found.config.ident().to_string())?;
    let sources = source_tables(config)?;
    Ok(FromLake {
        affected: effects::affected(config, &found.topic),
        options: decode_options(&found.config, sources.before()),
        schemas: writer_schemas(config).map_err(|e| BackfillError::Refused(e.to_string()))?,
        store: Store::new(config, &kafka),
        owner: uuid::Uuid::new_v4().to_string(),
        config: config.clone(),
        kafka,
        found,
        range,
        wish,
        sources,
    })
}

impl FromLake {
    pub fn topic(&self) -> &str {
        &self.found.topic
    }

    /// The table in the lake.
    pub fn table(&self) -> String {
        self.found.config.ident().to_string()
    }

    pub fn range(&self) -> &Range {
        &self.range
    }

    /// Why it is not begun without a person's word.
    pub fn objection(&self) -> Option<String> {
        effects::objection(&self.affected, &self.wish, self.topic())
    }

    fn told(&self) -> Told<'_> {
        Told { schemas: &self.schemas, sources: &self.sources }
    }

    /// Takes what is under way for this very range, or begins it.
    ///
    /// # Errors
    /// When there is an [objection](Self::objection), or another range is under way.
    pub async fn begin(&self) -> Result<(Begun, Session), BackfillError> {
        if let Some(objection) = self.objection() {
            return Err(BackfillError::Refused(objection));
        }
        self.store.ensure().await?;
        let before = self.stored().await?;
        let same = before.clone().filter(|s| !self.wish.anew && s.is_open() && s.is_of(&self.range));
        if let Some(other) = before.as_ref().filter(|s| same.is_none() && !self.wish.anew && !s.state.is_over()) {
            return Err(BackfillError::Refused(format!(
                "another backfill of {} from the lake is under way, {} ({}): wait for it, or `firn backfill stop`; if it is long over, say \
                 --anew",
                self.topic(),
                other.id,
                if other.range.condition.is_empty() { "all rows" } else { &other.range.condition },
            )));
        }
        let already = same.is_some();
        // It tells what can't be read.
        self.encoder()?;
        let stored = match same {
            Some(stored) => stored,
            None => self.fresh().await?,
        };
        let mut session = self.take().await?;
        if session.stored.as_ref().map(|s| (&s.id, &s.owner)) != before.as_ref().map(|s| (&s.id, &s.owner)) {
            return Err(BackfillError::Refused(format!(
                "another command began a backfill of {} just now",
                self.topic()
            )));
        }
        // By now it may be further than it was.
        let stored = session.stored.take().filter(|_| already).unwrap_or(stored);
        let state = if stored.state == State::Paused { State::Paused } else { State::Running };
        let stored = Stored { owner: self.owner.clone(), state, told_ms: now_ms(), ..stored };
        tokio::task::block_in_place(|| write(&mut session.transactions, &self.store, &stored))?;
        let begun = Begun { id: stored.id.clone(), already, deleted: Vec::new() };
        Ok((begun, Session { transactions: session.transactions, stored }))
    }

    async fn stored(&self) -> Result<Option<Stored>, BackfillError> {
        let (store, topic) = (self.store.clone(), self.topic().to_owned());
        tokio::task::spawn_blocking(move || store.of(&topic)).await?
    }

    /// Makes this process the only one that can go on.
    async fn take(&self) -> Result<Taken, BackfillError> {
        let (store, topic, kafka) = (self.store.clone(), self.topic().to_owned(), self.kafka.clone());
        let id = transactional_id(&self.config.kafka.group, &topic);
        let task = tokio::task::spawn_blocking(move || {
            let transactions = MessageTransactions::begin(&kafka, &id)?;
            Ok(Taken { transactions, stored: store.of(&topic)? })
        });
        task.await?
    }

    /// The range as the lake has it now.
    async fn fresh(&self) -> Result<Stored, BackfillError> {
        // In this order: what comes between is taken for newer than the snapshot.
        let position = self.found.position().await?;
        let (topic_id, offsets) = tokio::task::block_in_place(|| {
            let now = self.the_same_topic(position.topic_id.as_deref(), "the lake table was written")?;
            Ok::<_, BackfillError>((now, self.offsets(&position)?))
        })?;
        self.refuse_compacted(&offsets).await?;
        let Some(snapshot) = self.snapshot(None).await? else {
            return Err(BackfillError::Refused(format!("the lake table {} has no rows yet", self.table())));
        };
        let (now, at) = (chrono::Utc::now(), Place::default());
        Ok(Stored {
            id: self.range.new_id(&format!("lake/{}", self.topic()), false, now),
            topic: self.topic().to_owned(),
            topic_id,
            table: self.table(),
            range: self.range.clone(),
            owner: self.owner.clone(),
            state: State::Running,
            snapshot_id: snapshot.id,
            offsets,
            at,
            is_read: false,
            rows: snapshot.rows(),
            rows_read: 0,
            rows_sent: 0,
            rows_left_out: 0,
            began_ms: now.timestamp_millis(),
            told_ms: now.timestamp_millis(),
        })
    }

    /// The topic's id now, if it is the one that it had. Blocks.
    fn the_same_topic(&self, had: Option<&str>, since: &str) -> Result<Option<String>, BackfillError> {
        let now = topic_id(&self.kafka, self.topic())?;
        match had.zip(now.as_deref()).is_some_and(|(had, has)| had != has) {
            true => Err(BackfillError::Refused(format!(
                "{} was made anew since {since}: what is newer can't be told; once the lake has caught up, --anew begins from its newest \
                 snapshot",
                self.topic()
            ))),
            false => Ok(now),
        }
    }

    /// Where the lake stands in each partition; where it has nothing, the log's beginning. Blocks.
    fn offsets(&self, position: &TopicPosition) -> Result<BTreeMap<i32, i64>, BackfillError> {
        let count = partition_count(&self.kafka, self.topic())?;
        let all: Vec<_> = (0..count).map(|partition| TopicPartition::new(self.topic(), partition)).collect();
        let next = |partition: i32, low: i64| position.partitions.get(&partition).map_or(low, |p| p.next);
        Ok(watermarks(&self.kafka, &all)?
            .into_iter()
            .map(|(at, low, _)| (at.partition, next(at.partition, low)))
            .collect())
    }

    async fn snapshot(&self, id: Option<i64>) -> Result<Option<Snapshot>, BackfillError> {
        let Some(base) = self.found.lake.load().await? else {
            return Err(BackfillError::Refused(format!("the lake table {} is gone", self.table())));
        };
        Snapshot::find(base, &self.found.columns, id, &self.range, &ManifestCache::new(MANIFEST_BYTES)).await
    }

    fn encoder(&self) -> Result<Encoder, BackfillError> {
        let make = || samples::encoder(&self.kafka, self.topic(), &self.found.columns, &self.options, self.told());
        tokio::task::block_in_place(make)
    }

    /// Waits until every sink has all rows of a range that was read.
    ///
    /// # Errors
    /// When Kafka does not answer.
    pub async fn wait_for_sinks(&self, tell: impl FnMut(Seen) + Send + 'static) -> Result<(), BackfillError> {
        watch::delivered(self.kafka.clone(), self.topic().to_owned(), self.affected.clone(), tell).await
    }

    /// Nothing is left to do.
    ///
    /// # Errors
    /// When another process has taken it, or Kafka does not answer.
    pub async fn finish(&self) -> Result<Progress, BackfillError> {
        let Session { mut transactions, stored } = self.again().await?;
        let stored = Stored { state: State::Done, told_ms: now_ms(), ..stored };
        tokio::task::block_in_place(|| write(&mut transactions, &self.store, &stored))?;
        Ok(stored.progress())
    }
}

/// The id, and what is stored.
struct Taken {
    transactions: MessageTransactions,
    stored: Option<Stored>,
}

fn now_ms() -> i64 {
    chrono::Utc::now().timestamp_millis()
}
