//! Rows of a range from the lake table, into the table's own topic as changes of the op `r`. Needs no connector and no source database.
//!
//! The rows are those of one snapshot of the lake. A row whose key has a newer change in the topic is left out: that change is on its
//! way to all sinks anyway. Rows and how far it is go in one Kafka transaction, under one transactional id for each topic: a process that
//! was killed, or is replaced by another, leaves nothing half done, and nothing comes twice.
//!
//! # Layout
//! - [`find`]: which table, which rows. [`read`]: the rows in the lake. [`samples`]: how the topic's records are written. [`send`]: a
//!   transaction. [`stored`]: how far it is. [`control`]: pause, resume, stop, status.

pub(super) mod control;
mod find;
mod read;
mod samples;
mod send;
mod stored;

use std::collections::BTreeMap;
use std::time::Duration;

use arrow_array::RecordBatch;
use arrow_select::concat::concat_batches;
use tokio::runtime::Handle;

use super::{
    Affected, BackfillError, Begun, Effect, Progress, Range, Seen, State, Wish, client, effects, replace, watch,
};
use crate::config::Config;
use crate::debezium::DecodeOptions;
use crate::letter::{Choice, Status};
use crate::pipeline::letters::DeadLetters;
use crate::pipeline::replay::LogKeys;
use crate::pipeline::source_tables::SourceTables;
use crate::pipeline::told::Told;
use crate::pipeline::wiring::{decode_options, shared};
use crate::pipeline::writer_schemas::WriterSchemas;
use crate::pipeline::{source_tables, writer_schemas};
use crate::position::{TopicPartition, TopicPosition};
use crate::sink::lake::letters::Contents;
use crate::source::kafka::{
    ClientSettings, LogError, MessageTransactions, Tail, TransactionError, partition_count, topic_id, watermarks,
};
use find::Found;
use read::{Piece, Snapshot};
use send::{Changed, Sender, Sent};
use stored::{Place, Store, Stored};

/// Rows of one transaction. More: sinks wait longer for its end. Fewer: more transactions.
const ROWS_AT_ONCE: usize = 1_000;
/// The same in bytes, about.
const BYTES_AT_ONCE: usize = 8 << 20;
/// How often a backfill that is paused is looked at.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Seconds before what brokers did not do is tried again.
const WAITS: [u64; 6] = [1, 2, 4, 8, 15, 30];

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
    let range = find::choose(found.columns.rows(), &wish, &found.config.ident().to_string())?;
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
        let same = before.clone().filter(|s| !self.wish.anew && s.is_open() && s.is_of(&self.range, self.wish.replace));
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
        // Read before anything is deleted: it tells what can't be read.
        self.encoder()?;
        let mut deleted = Vec::new();
        let stored = match same {
            Some(stored) => stored,
            None => {
                let fresh = self.fresh().await?;
                if self.wish.replace {
                    deleted = replace::delete(&self.config, &self.affected, &self.range).await?;
                }
                fresh
            }
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
        let begun = Begun { id: stored.id.clone(), already, deleted };
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
        let offsets = tokio::task::block_in_place(|| self.offsets(&position))?;
        let Some(snapshot) = self.snapshot(None).await? else {
            return Err(BackfillError::Refused(format!("the lake table {} has no rows yet", self.table())));
        };
        let (now, at) = (chrono::Utc::now(), Place::default());
        Ok(Stored {
            id: self.range.new_id(&format!("lake/{}", self.topic()), self.wish.replace, now),
            topic: self.topic().to_owned(),
            table: self.table(),
            range: self.range.clone(),
            replace: self.wish.replace,
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

    /// Where the lake stands in each partition; where it has nothing, the log's beginning. Blocks.
    fn offsets(&self, position: &TopicPosition) -> Result<BTreeMap<i32, i64>, BackfillError> {
        let now = topic_id(&self.kafka, self.topic())?;
        if position.topic_id.as_ref().zip(now.as_ref()).is_some_and(|(had, has)| had != has) {
            return Err(BackfillError::Refused(format!(
                "{} was made anew since the lake table was written: what is newer can't be told",
                self.topic()
            )));
        }
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
        Snapshot::find(base, &self.found.columns, id, &self.range, &firn_catalog::ManifestCache::default()).await
    }

    fn encoder(&self) -> Result<crate::debezium::Encoder, BackfillError> {
        let make = || samples::encoder(&self.kafka, self.topic(), &self.found.columns, &self.options, self.told());
        tokio::task::block_in_place(make)
    }

    /// Reads what is left of the range, through pauses and brokers that are away.
    ///
    /// # Errors
    /// What can't go on. What time mends, the same command goes on with.
    pub async fn run(
        &self,
        mut session: Session,
        mut tell: impl FnMut(Seen) + Send + 'static,
    ) -> Result<Progress, BackfillError> {
        let (mut failures, mut most) = (0, ROWS_AT_ONCE);
        loop {
            let before = session.stored.at.clone();
            let failed = match session.stored.state {
                State::Running if session.stored.is_read => return Ok(session.stored.progress()),
                State::Running => match self.go(&mut session, most, &mut tell).await {
                    Ok(()) => continue,
                    Err(e) => e,
                },
                State::Paused => {
                    tell(Seen::Reading(session.stored.progress()));
                    self.wait_until_resumed().await?;
                    session = self.again().await?;
                    continue;
                }
                _ => return Ok(session.stored.progress()),
            };
            if !may_pass(&failed) {
                if let BackfillError::Refused(why) = &failed {
                    let stored =
                        Stored { state: State::Failed { why: why.clone() }, told_ms: now_ms(), ..session.stored };
                    // As good as it goes: the error itself is told in any case.
                    if let Ok(mut taken) = self.take().await {
                        let _ = tokio::task::block_in_place(|| write(&mut taken.transactions, &self.store, &stored));
                    }
                }
                return Err(failed);
            }
            if session.stored.at != before {
                failures = 0;
            }
            if is_too_large(&failed) {
                most = (most / 2).max(1);
                session = self.again().await?;
                continue;
            }
            let fenced = matches!(failed, BackfillError::Transaction(TransactionError::Fenced(_)));
            let Some(wait) = WAITS.get(failures) else { return Err(failed) };
            failures += 1;
            if !fenced {
                tracing::warn!("trying again in {wait} s: {failed}");
                tokio::time::sleep(Duration::from_secs(*wait)).await;
            }
            session = self.again().await?;
        }
    }

    async fn wait_until_resumed(&self) -> Result<(), BackfillError> {
        while self.stored().await?.is_some_and(|s| s.state == State::Paused && s.owner == self.owner) {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    /// Takes it once more, unless another process has.
    async fn again(&self) -> Result<Session, BackfillError> {
        let is_ours = |stored: &Stored| stored.owner == self.owner;
        let taken_by_another =
            || BackfillError::Refused(format!("another process goes on with the backfill of {}", self.topic()));
        // Looked at first: taking it would stop the other.
        if !self.stored().await?.is_some_and(|s| is_ours(&s)) {
            return Err(taken_by_another());
        }
        let Taken { transactions, stored } = self.take().await?;
        let stored = stored.filter(is_ours).ok_or_else(taken_by_another)?;
        Ok(Session { transactions, stored })
    }

    /// Reads on until all is read.
    async fn go(
        &self,
        session: &mut Session,
        most: usize,
        tell: &mut (impl FnMut(Seen) + Send),
    ) -> Result<(), BackfillError> {
        let Session { transactions, stored } = session;
        let snapshot = match self.snapshot(Some(stored.snapshot_id)).await? {
            Some(snapshot) => snapshot,
            None => {
                *stored = self.from_the_start(stored).await?;
                tokio::task::block_in_place(|| write(transactions, &self.store, stored))?;
                return Ok(());
            }
        };
        tell(Seen::Reading(stored.progress()));
        let mut sender = self.sender(stored, &snapshot).await?;
        let mut rows = snapshot.read(&stored.at);
        let mut pending = Pending::default();
        loop {
            let piece = rows.next().await?;
            let is_end = piece.is_none();
            pending.pieces.extend(piece);
            while let Some((batch, at)) = pending.take(most, is_end)? {
                let done = |sent: Sent| Stored {
                    at: at.clone(),
                    rows_read: snapshot.rows_before(&at),
                    rows_sent: stored.rows_sent + sent.rows,
                    rows_left_out: stored.rows_left_out + sent.left_out,
                    told_ms: now_ms(),
                    ..stored.clone()
                };
                let next = tokio::task::block_in_place(|| sender.send(transactions, &batch, &stored.id, done))?;
                *stored = next;
                tell(Seen::Reading(stored.progress()));
            }
            if is_end {
                break;
            }
        }
        let end = Stored { is_read: true, rows_read: stored.rows, told_ms: now_ms(), ..stored.clone() };
        tokio::task::block_in_place(|| write(transactions, &self.store, &end))?;
        *stored = end;
        tell(Seen::Reading(stored.progress()));
        Ok(())
    }

    /// Of a backfill whose snapshot was expired.
    async fn from_the_start(&self, stored: &Stored) -> Result<Stored, BackfillError> {
        if stored.rows_sent > 0 && self.affected.iter().any(|a| a.effect == Effect::Doubles) {
            return Err(BackfillError::Refused(format!(
                "the lake's snapshot {} that is read was expired, and what is left can't be told from what was sent; sinks that double \
                 rows would have them twice: --anew begins the range anew",
                stored.snapshot_id
            )));
        }
        tracing::warn!(
            "the lake's snapshot {} was expired: the range is read anew from the current one",
            stored.snapshot_id
        );
        let fresh = self.fresh().await?;
        Ok(Stored { id: stored.id.clone(), began_ms: stored.began_ms, ..fresh })
    }

    async fn sender(&self, stored: &Stored, snapshot: &Snapshot) -> Result<Sender<'_>, BackfillError> {
        let refused = BackfillError::Refused;
        let position = self.found.position().await?;
        let (lake, columns) = (&self.found.lake, &self.found.columns);
        let mut keys = LogKeys::new(lake, columns, &self.options, self.told()).map_err(refused)?;
        let partitions = i32::try_from(stored.offsets.len()).unwrap_or(i32::MAX);
        let changed = self.letters(&mut keys).await?;
        Ok(Sender {
            topic: self.topic().to_owned(),
            encoder: self.encoder()?,
            keys,
            stager: lake.stager()?,
            changed,
            tail: Tail::new(&self.kafka, self.topic(), stored.offsets.clone())?,
            partitions,
            stays: position.grew_from.is_none() && position.partition_count == partitions,
            snapshot_ms: snapshot.timestamp_ms,
            store: self.store.clone(),
        })
    }

    /// The keys of dead letters: the lake has not the newest of them.
    async fn letters(&self, keys: &mut LogKeys<'_>) -> Result<Changed, BackfillError> {
        let refused = |e: &dyn std::fmt::Display| BackfillError::Refused(e.to_string());
        let letters = DeadLetters::open(
            &self.config,
            self.found.catalog.clone(),
            &self.kafka,
            Handle::current(),
            shared(&self.config),
        );
        let choice = Choice { target: Some(self.table()), status: Some(Status::Pending), ..Choice::default() };
        let letters =
            letters.map_err(|e| refused(&e))?.read(&choice, Contents::Whole).await.map_err(|e| refused(&e))?;
        let mut changed = Changed::default();
        tokio::task::block_in_place(|| {
            for letter in letters.iter().filter(|letter| letter.origin.at.topic == self.topic()) {
                changed.note(keys, &letter.record());
            }
        });
        Ok(changed)
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

/// Rows that wait until there are enough of them.
#[derive(Default)]
struct Pending {
    pieces: Vec<Piece>,
}

impl Pending {
    /// The rows of a transaction, at `most` so many, and the place behind them; `None` where there are too few yet.
    fn take(&mut self, most: usize, is_end: bool) -> Result<Option<(RecordBatch, Place)>, BackfillError> {
        let rows: usize = self.pieces.iter().map(|piece| piece.rows.num_rows()).sum();
        let bytes: usize = self.pieces.iter().map(|piece| piece.rows.get_array_memory_size()).sum();
        let most = (BYTES_AT_ONCE / (bytes / rows.max(1)).max(1)).clamp(1, most);
        if rows == 0 || rows < most && !is_end {
            return Ok(None);
        }
        let (mut taken, mut at, mut left) = (Vec::new(), Place::default(), most);
        while let Some(piece) = self.pieces.first_mut().filter(|_| left > 0) {
            let count = piece.rows.num_rows().min(left);
            left -= count;
            taken.push(piece.rows.slice(0, count));
            at = piece.next.get(count.saturating_sub(1)).cloned().unwrap_or(at);
            match count == piece.rows.num_rows() {
                true => _ = self.pieces.remove(0),
                false => {
                    piece.rows = piece.rows.slice(count, piece.rows.num_rows() - count);
                    piece.next.drain(..count);
                }
            }
        }
        let Some(first) = taken.first() else { return Ok(None) };
        let rows = concat_batches(&first.schema(), &taken).map_err(|e| BackfillError::Lake(e.into()))?;
        Ok(Some((rows, at)))
    }
}

fn now_ms() -> i64 {
    chrono::Utc::now().timestamp_millis()
}

/// Whether fewer rows may go: which of them is too large the brokers did not tell.
fn is_too_large(e: &BackfillError) -> bool {
    matches!(e, BackfillError::Transaction(TransactionError::TooLarge(_)))
}

/// Whether the same may go later, by itself.
fn may_pass(e: &BackfillError) -> bool {
    match e {
        BackfillError::Transaction(e) => !matches!(e, TransactionError::Refused(_)),
        BackfillError::Log(e) => !matches!(e, LogError::Gone { .. }),
        BackfillError::Unreachable(_) => true,
        BackfillError::Lake(e) => e.is_transient(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::Int32Array;
    use arrow_schema::{DataType, Field, Schema};
    use std::sync::Arc;

    fn piece(file: &str, from: u32, rows: u32) -> Piece {
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int32, false)]));
        let values: Int32Array = (from..from + rows).map(|n| n as i32).collect();
        let next = (from..from + rows).map(|row| Place { file: file.to_owned(), row: row + 1 }).collect();
        Piece { rows: RecordBatch::try_new(schema, vec![Arc::new(values)]).unwrap(), next }
    }

    #[test]
    fn few_rows_wait_for_more_and_each_batch_knows_where_it_ends() {
        let mut pending = Pending { pieces: vec![piece("a", 0, 600)] };
        assert!(pending.take(1_000, false).unwrap().is_none());
        pending.pieces.push(piece("b", 5, 1_500));
        let mut taken = Vec::new();
        while let Some((rows, at)) = pending.take(1_000, false).unwrap() {
            taken.push((rows.num_rows(), at.file, at.row));
        }
        assert_eq!(taken, [(1_000, "b".to_owned(), 405), (1_000, "b".to_owned(), 1_405)]);
        let (rows, at) = pending.take(1_000, true).unwrap().unwrap();
        assert_eq!((rows.num_rows(), at.row), (100, 1_505));
        assert!(pending.take(1_000, true).unwrap().is_none());
    }
}
