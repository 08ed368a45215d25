//! The reading itself, through pauses and brokers that are away.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::runtime::Handle;

use super::gather::{Pending, Size};
use super::read::Snapshot;
use super::send::{Changed, Sender, Sent};
use super::stored::Stored;
use super::{FromLake, Session, Taken, now_ms, write};
use crate::letter::{Choice, Letter, Status};
use crate::pipeline::backfill::{BackfillError, Effect, Progress, Seen, State};
use crate::pipeline::letters::DeadLetters;
use crate::pipeline::replay::LogKeys;
use crate::pipeline::wiring::shared;
use crate::position::TopicPartition;
use crate::sink::lake::letters::Contents;
use crate::source::kafka::{LogError, SourceError, Tail, TransactionError, has_record, is_compacted, watermarks};
use crate::table_event::Fence;

/// How often a backfill that is paused is looked at.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// For so long a compacted log is taken to have every delete that came since the beginning.
const DELETES_KEPT_MS: i64 = 12 * 3_600_000;
/// Seconds before what brokers did not do is tried again.
const WAITS: [u64; 6] = [1, 2, 4, 8, 15, 30];

impl FromLake {
    /// Reads what is left of the range, through pauses and brokers that are away.
    ///
    /// # Errors
    /// What can't go on. What time mends, the same command goes on with.
    pub async fn run(
        &self,
        session: Session,
        mut tell: impl FnMut(Seen) + Send + 'static,
    ) -> Result<Progress, BackfillError> {
        let (mut session, mut failures, mut size) = (Some(session), 0, Size::new());
        loop {
            let place = |session: &Option<Session>| session.as_ref().map(|s| s.stored.at.clone());
            let before = place(&session);
            let failed = match self.turn(&mut session, &mut size, &mut tell).await {
                Ok(Some(ended)) => return Ok(ended),
                Ok(None) => continue,
                Err(e) => lasting(e),
            };
            if place(&session) != before {
                failures = 0;
            }
            session = None;
            // Which of them is too large the brokers did not tell.
            if matches!(failed, BackfillError::Transaction(TransactionError::TooLarge(_))) {
                size.is_too_large();
                continue;
            }
            let wait = WAITS.get(failures).filter(|_| may_pass(&failed));
            let Some(wait) = wait else {
                self.note_refused(&failed).await;
                return Err(failed);
            };
            failures += 1;
            if !matches!(failed, BackfillError::Transaction(TransactionError::Fenced(_))) {
                tracing::warn!("trying again in {wait} s: {failed}");
                tokio::time::sleep(Duration::from_secs(*wait)).await;
            }
        }
    }

    /// Reads on, or waits until it may; takes it once more where that is not taken. Answers how it ended, once it has.
    async fn turn(
        &self,
        session: &mut Option<Session>,
        size: &mut Size,
        tell: &mut (impl FnMut(Seen) + Send),
    ) -> Result<Option<Progress>, BackfillError> {
        let taken = match session {
            Some(taken) => taken,
            None => session.insert(self.again().await?),
        };
        match taken.stored.state {
            State::Running if taken.stored.is_read => return Ok(Some(taken.stored.progress())),
            State::Running => Box::pin(self.go(taken, size, tell)).await?,
            State::Paused => {
                tell(Seen::Reading(taken.stored.progress()));
                self.wait_until_resumed().await?;
                *session = None;
            }
            _ => return Ok(Some(taken.stored.progress())),
        }
        Ok(None)
    }

    /// As good as it goes: the error itself is told in any case. Another's progress, or a stop, stays as it is.
    async fn note_refused(&self, failed: &BackfillError) {
        if let BackfillError::Refused(why) = failed
            && let Ok(Session { mut transactions, stored }) = self.again().await
            && stored.state == State::Running
        {
            let stored = Stored { state: State::Failed { why: why.clone() }, told_ms: now_ms(), ..stored };
            let _ = tokio::task::block_in_place(|| write(&mut transactions, &self.store, &stored));
        }
    }

    async fn wait_until_resumed(&self) -> Result<(), BackfillError> {
        while self.stored().await?.is_some_and(|s| s.state == State::Paused && s.owner == self.owner) {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    /// Takes it once more, unless another process has.
    pub(super) async fn again(&self) -> Result<Session, BackfillError> {
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
        size: &mut Size,
        tell: &mut (impl FnMut(Seen) + Send),
    ) -> Result<(), BackfillError> {
        let Session { transactions, stored } = session;
        let snapshot = match self.snapshot(Some(stored.snapshot_id)).await? {
            Some(snapshot) => snapshot,
            None => {
                *stored = self.begun_again(stored).await?;
                tokio::task::block_in_place(|| write(transactions, &self.store, stored))?;
                return Ok(());
            }
        };
        tell(Seen::Reading(stored.progress()));
        let mut sender = self.sender(stored, &snapshot).await?;
        // By now its own rows are behind the lake's position, too.
        if now_ms() - stored.began_ms > DELETES_KEPT_MS {
            self.refuse_compacted(&stored.offsets).await?;
        }
        let mut rows = snapshot.read(&stored.at);
        let mut pending = Pending::default();
        loop {
            let piece = rows.next().await?;
            let is_end = piece.is_none();
            pending.pieces.extend(piece);
            while let Some(piece) = pending.take(size.rows(), is_end)? {
                let at = piece.end();
                let done = |sent: Sent| Stored {
                    at: at.clone(),
                    rows_read: snapshot.rows_before(&at),
                    rows_sent: stored.rows_sent + sent.rows,
                    rows_left_out: stored.rows_left_out + sent.left_out,
                    told_ms: now_ms(),
                    ..stored.clone()
                };
                let sent = tokio::task::block_in_place(|| sender.send(transactions, &piece.rows, &stored.id, done))?;
                match sent {
                    Some(next) => {
                        *stored = next;
                        size.note_sent();
                        tell(Seen::Reading(stored.progress()));
                    }
                    None if size.halve() => pending.put_back(piece),
                    None => {
                        return Err(BackfillError::Refused(format!(
                            "{}: a row kept changing while it was sent; run the command again",
                            self.topic()
                        )));
                    }
                }
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

    /// A compacted log loses deletes some time after they came (`delete.retention.ms`, a day if not told otherwise): rows that they
    /// concern would be sent. How old one behind these offsets may be is not known.
    pub(super) async fn refuse_compacted(&self, offsets: &BTreeMap<i32, i64>) -> Result<(), BackfillError> {
        if matches!(is_compacted(&self.kafka, self.topic()).await, Ok(false))
            || !tokio::task::block_in_place(|| self.has_more(offsets))?
        {
            return Ok(());
        }
        Err(BackfillError::Refused(format!(
            "{} is compacted (or DescribeConfigs does not tell), and has more than the lake's snapshot: a delete since may be gone from the \
             log. Once the lake has caught up, --anew begins from its newest snapshot",
            self.topic()
        )))
    }

    /// Whether the topic has a record behind these offsets. Blocks.
    fn has_more(&self, offsets: &BTreeMap<i32, i64>) -> Result<bool, BackfillError> {
        let all: Vec<_> = offsets.keys().map(|partition| TopicPartition::new(self.topic(), *partition)).collect();
        for (at, _, end) in watermarks(&self.kafka, &all)? {
            // No table gets past offsets that hold no record: the markers of transactions that a log may end with.
            if has_record(&self.kafka, &at, offsets.get(&at.partition).copied(), end)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Of a backfill whose snapshot was expired.
    async fn begun_again(&self, stored: &Stored) -> Result<Stored, BackfillError> {
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
        // Else its offsets would be of other records.
        tokio::task::block_in_place(|| self.the_same_topic(stored.topic_id.as_deref(), "the backfill began"))?;
        let position = self.found.position().await?;
        let (lake, columns) = (&self.found.lake, &self.found.columns);
        let mut keys = LogKeys::new(lake, columns, &self.options, self.told()).map_err(refused)?;
        let partitions = i32::try_from(stored.offsets.len()).unwrap_or(i32::MAX);
        let changed = self.letters(&mut keys, snapshot.timestamp_ms).await?;
        Ok(Sender {
            topic: self.topic().to_owned(),
            encoder: self.encoder()?,
            keys,
            stager: lake.stager()?,
            changed,
            tail: Tail::new(&self.kafka, self.topic(), stored.offsets.clone())?,
            between: Tail::uncommitted(&self.kafka, self.topic())?,
            partitions,
            stays: position.grew_from.is_none() && position.partition_count == partitions,
            snapshot_ms: snapshot.timestamp_ms,
            clear_from: position.truncated.map(Fence::clear_from),
            store: self.store.clone(),
        })
    }

    /// The keys of dead letters: the lake has not the newest of them, or its snapshot had not.
    async fn letters(&self, keys: &mut LogKeys<'_>, snapshot_ms: i64) -> Result<Changed, BackfillError> {
        let refused = |e: &dyn std::fmt::Display| BackfillError::Refused(e.to_string());
        let letters = DeadLetters::open(
            &self.config,
            self.found.catalog.clone(),
            &self.kafka,
            Handle::current(),
            shared(&self.config),
        );
        let choice = Choice { target: Some(self.table()), ..Choice::default() };
        let letters =
            letters.map_err(|e| refused(&e))?.read(&choice, Contents::Whole).await.map_err(|e| refused(&e))?;
        let was_open = |letter: &&Letter| {
            letter.status == Status::Pending || letter.status_ms.is_some_and(|turned| turned >= snapshot_ms)
        };
        let mut changed = Changed::default();
        tokio::task::block_in_place(|| {
            for letter in letters.iter().filter(was_open).filter(|letter| letter.origin.at.topic == self.topic()) {
                changed.note(keys, &letter.record());
            }
        });
        Ok(changed)
    }
}

/// What the log lacks does not come back.
fn lasting(e: BackfillError) -> BackfillError {
    match matches!(e, BackfillError::Log(LogError::Gone { .. } | LogError::Beyond { .. })) {
        true => BackfillError::Refused(format!(
            "{e}; what changed since the lake's snapshot can't be told: once the lake has caught up, --anew begins from its newest snapshot"
        )),
        false => e,
    }
}

/// Whether the same may go later, by itself.
fn may_pass(e: &BackfillError) -> bool {
    match e {
        BackfillError::Transaction(e) => !matches!(e, TransactionError::Refused(_)),
        BackfillError::Log(_)
        | BackfillError::Unreachable(_)
        | BackfillError::Source(SourceError::Unreachable { .. }) => true,
        BackfillError::Lake(e) => e.is_transient(),
        _ => false,
    }
}
