//! The replay of one table's letters.

use std::collections::{BTreeMap, HashMap};

use super::Outcome;
use super::decode::{LogKeys, Reader, Row, Today, rows};
use super::log::{Log, Sought, seek};
use crate::change::Mode;
use crate::debezium::DecodeOptions;
use crate::letter::{Choice, Letter, LetterId, Status};
use crate::pipeline::letters::DeadLetters;
use crate::pipeline::source_tables::SourceTables;
use crate::pipeline::tables::epoch_ms;
use crate::pipeline::told::Told;
use crate::pipeline::writer_schemas::WriterSchemas;
use crate::position::{Checkpoint, TopicPartition};
use crate::record::Origin;
use crate::sink::lake::letters::{Contents, PendingLetter, Replay, Standing};
use crate::sink::lake::{CommitFailure, LakeTable, Staged};

/// Letters settled in one commit. More: a larger property in the table's metadata until the next replay. Fewer: more snapshots.
pub const AT_ONCE: usize = 500;

/// Times that a replay is worked out anew because the table went on meanwhile.
const ROUNDS: usize = 20;

/// Calls of `commit` before a replay of unknown outcome is left to the next one; each of them tries for a while itself.
const UNDECIDED: usize = 5;

/// By so much the clocks of two producers of one topic may differ.
const CLOCKS_DIFFER_MS: i64 = 600_000;

pub struct TableReplay<'a> {
    pub name: &'a str,
    pub lake: &'a LakeTable,
    pub options: DecodeOptions,
    pub letters: &'a DeadLetters,
    pub schemas: &'a WriterSchemas,
    pub sources: &'a SourceTables,
    pub log: &'a dyn Log,
}

/// What is to become of a letter.
#[derive(Clone, Debug)]
enum Verdict {
    /// Its row goes in; in an upsert table as the pending set has it.
    Apply(Option<PendingLetter>),
    /// It is settled without a row.
    Close(Status, String),
    /// It stays pending; with another reason where its record can't be read.
    Stay { detail: String, reason: Option<String> },
}

impl TableReplay<'_> {
    fn told(&self) -> Told<'_> {
        Told { schemas: self.schemas, sources: self.sources }
    }

    /// # Errors
    /// When catalog, storage or letters can't be reached.
    pub async fn run(&self, mut ids: Vec<LetterId>) -> Result<Vec<Outcome>, String> {
        ids.sort();
        let mut outcomes = vec![];
        for ids in ids.chunks(AT_ONCE) {
            outcomes.extend(self.some(ids).await?);
        }
        Ok(outcomes)
    }

    async fn some(&self, ids: &[LetterId]) -> Result<Vec<Outcome>, String> {
        let mut last = String::new();
        for _ in 0..ROUNDS {
            match self.attempt(ids).await? {
                Ok(outcomes) => return Ok(outcomes),
                Err(again) => last = again,
            }
        }
        Err(format!("table {}: the letters could not be replayed while it keeps changing: {last}", self.name))
    }

    /// `Ok(Err)` says why it is to be tried again.
    async fn attempt(&self, ids: &[LetterId]) -> Result<Result<Vec<Outcome>, String>, String> {
        // Also what a stager begins with.
        self.lake.checkpoint().await.map_err(|e| e.to_string())?;
        let before = self.lake.letters().await.map_err(|e| e.to_string())?;
        if let Some(standing) = &before {
            self.finish(standing).await?;
        }
        let letters: Vec<Letter> =
            self.letters.fetch(ids).await?.into_iter().filter(|l| l.status == Status::Pending).collect();
        let verdicts = match &before {
            None => vec![stay("the table does not exist yet, or firn never committed to it"); letters.len()],
            Some(standing) => self.judge(&letters, standing).await?,
        };
        let judged: Vec<(Letter, Verdict)> = letters.into_iter().zip(verdicts).collect();
        if let Some(standing) = before
            && let Err(again) = self.settle(&judged, standing.replays).await?
        {
            return Ok(Err(again));
        }
        self.tell(judged).await.map(Ok)
    }

    /// Writes the status of the letters that the last replay settled, where it died before it could.
    async fn finish(&self, standing: &Standing) -> Result<(), String> {
        if standing.settled.is_empty() {
            return Ok(());
        }
        let settled: HashMap<&Origin, Status> = standing.settled.iter().map(|(o, status)| (o, *status)).collect();
        let choice = Choice {
            target: Some(self.name.to_owned()),
            origins: settled.keys().map(|o| (*o).clone()).collect(),
            status: Some(Status::Pending),
            ..Choice::default()
        };
        let left = self.letters.read(&choice, Contents::Outside).await?;
        let left: Vec<LetterId> = left.iter().filter(|l| belongs(l, standing)).map(Letter::id).collect();
        let now_ms = epoch_ms();
        let turned = self.letters.fetch(&left).await?.into_iter().filter_map(|letter| {
            // Rejected once more since: then it waits again.
            let status = *settled.get(&letter.origin)?;
            standing.pending.find(&letter.origin).is_none().then(|| letter.turned(status, now_ms, ""))
        });
        self.letters.put(&turned.collect::<Vec<_>>()).await.map_err(|e| e.to_string())
    }

    async fn judge(&self, letters: &[Letter], standing: &Standing) -> Result<Vec<Verdict>, String> {
        let mut reader = Reader::new(self.lake, &self.options, self.told()).await?;
        let mut verdicts = Vec::with_capacity(letters.len());
        let mut keys = Vec::with_capacity(letters.len());
        for letter in letters {
            let mut key = None;
            verdicts.push(if !belongs(letter, standing) {
                stay("it is of another topic of this name, which was deleted since")
            } else if letter.value_omitted().is_some() {
                stay("its value was too large for the topic of dead letters and is not kept: write the row by hand, or discard it")
            } else if standing.checkpoint.next(&letter.origin.at).is_none_or(|next| next <= letter.origin.offset) {
                stay("the table has not come to its offset yet: try again once it has")
            } else {
                match reader.look(&letter.record()).await? {
                    Today::Row(row) if self.is_before_truncate(letter, row, standing) => {
                        superseded("the source table was emptied after it")
                    }
                    Today::Row(row) => {
                        key = row.key;
                        Verdict::Apply(None)
                    }
                    Today::Nothing(kind) => Verdict::Close(Status::Discarded, format!("it is no row: {kind}")),
                    Today::Rejected { reason, detail } => Verdict::Stay { detail, reason: Some(reason) },
                }
            });
            keys.push(key);
        }
        match self.options.mode {
            Mode::Append => self.leave_out_present(letters, &mut verdicts).await?,
            Mode::Upsert => self.leave_out_superseded(letters, &keys, &mut verdicts).await?,
        }
        Ok(verdicts)
    }

    /// A TRUNCATE comes through one partition and empties all: the table's fence tells by the source's log.
    fn is_before_truncate(&self, letter: &Letter, row: Row, standing: &Standing) -> bool {
        let fence = standing.checkpoint.topics.get(&letter.origin.at.topic).and_then(|t| t.truncated);
        self.options.mode == Mode::Upsert
            && fence.zip(row.lsn).is_some_and(|(fence, lsn)| fence.is_after(lsn, row.read))
    }

    /// An append table shows by its rows what was replayed already.
    async fn leave_out_present(&self, letters: &[Letter], verdicts: &mut [Verdict]) -> Result<(), String> {
        let origins = letters.iter().zip(verdicts.iter()).filter(|(_, v)| matches!(v, Verdict::Apply(_)));
        let origins: Vec<Origin> = origins.map(|(l, _)| l.origin.clone()).collect();
        let present = self.lake.present(&origins).await.map_err(|e| e.to_string())?;
        for (letter, verdict) in letters.iter().zip(verdicts) {
            if matches!(verdict, Verdict::Apply(_)) && present.contains(&letter.origin) {
                *verdict = Verdict::Close(Status::Replayed, "its row was in the table already".to_owned());
            }
        }
        Ok(())
    }

    async fn leave_out_superseded(
        &self,
        letters: &[Letter],
        keys: &[Option<u128>],
        verdicts: &mut [Verdict],
    ) -> Result<(), String> {
        let standing = || async {
            let standing = self.lake.letters().await.map_err(|e| e.to_string())?;
            standing.ok_or_else(|| format!("table {} is gone", self.name))
        };
        // The columns may have come to fit only now, and with them the set's keys.
        let mut now = standing().await?;
        let rows: Vec<(usize, &Letter, u128)> =
            letters.iter().zip(keys).enumerate().filter_map(|(i, (letter, key))| Some((i, letter, (*key)?))).collect();
        let unknown: Vec<(Origin, u128)> = rows
            .iter()
            .filter(|(_, l, key)| now.pending.find(&l.origin).is_none_or(|p| p.key != *key))
            .map(|(_, l, key)| (l.origin.clone(), *key))
            .collect();
        if !unknown.is_empty() {
            self.lake.enrol(&unknown).await.map_err(|e| e.to_string())?;
            now = standing().await?;
        }
        let mut unsaid = vec![];
        for (i, letter, key) in rows {
            let Some(verdict) = verdicts.get_mut(i) else { continue };
            *verdict = match now.pending.find(&letter.origin).filter(|p| p.key == key) {
                None => stay("another process changed the table's pending letters: try again"),
                Some(pending) if pending.later => superseded("a later change of its key was committed"),
                Some(pending) => {
                    let enrolled = unknown.iter().any(|(origin, _)| *origin == letter.origin);
                    if enrolled || pending.noted_from > letter.origin.offset + 1 {
                        unsaid.push((i, letter, pending.clone()));
                    }
                    Verdict::Apply(Some(pending.clone()))
                }
            };
        }
        self.look_into_log(&unsaid, &now.checkpoint, verdicts).await
    }

    /// For what came before the pending set noted it.
    async fn look_into_log(
        &self,
        unsaid: &[(usize, &Letter, PendingLetter)],
        checkpoint: &Checkpoint,
        verdicts: &mut [Verdict],
    ) -> Result<(), String> {
        let Some(columns) = self.lake.columns().filter(|_| !unsaid.is_empty()) else { return Ok(()) };
        let all = Choice { target: Some(self.name.to_owned()), ..Choice::default() };
        let all = self.letters.read(&all, Contents::Outside).await?;
        let all: HashMap<Origin, Status> = all.into_iter().map(|l| (l.origin, l.status)).collect();
        let mut keys = LogKeys::new(self.lake, &columns, &self.options, self.told())?;
        let open = |why: &str| {
            stay(format!(
                "whether a later change of its key came can't be told: {why}. Discard it, or write the row by hand"
            ))
        };
        let mut partitions = BTreeMap::<TopicPartition, Vec<(usize, Sought)>>::new();
        for (i, letter, pending) in unsaid {
            match tokio::task::block_in_place(|| self.ranges(letter, pending.noted_from, checkpoint)) {
                Ok(ranges) => {
                    for (at, from, to) in ranges {
                        let sought = Sought { key: pending.key, raw_key: letter.key.clone(), from, to, later: None };
                        partitions.entry(at).or_default().push((*i, sought));
                    }
                }
                Err(why) => set(verdicts, *i, open(&why)),
            }
        }
        for (at, sought) in partitions {
            let (places, mut sought): (Vec<usize>, Vec<Sought>) = sought.into_iter().unzip();
            let told = seek(self.log, &at, &mut sought, &all, &mut keys).await;
            for (i, sought) in places.into_iter().zip(sought) {
                match (&told, sought.later) {
                    (_, Some(offset)) => {
                        let later = Origin { at: at.clone(), offset };
                        set(verdicts, i, superseded(format!("a later change of its key came at {later}")));
                    }
                    (Err(why), None) => set(verdicts, i, open(why)),
                    (Ok(()), None) => {}
                }
            }
        }
        Ok(())
    }

    /// Where changes of a letter's key may be that came after it: behind it up to the offset from which on they are noted, and in
    /// partitions that were added since, to which the key may have gone. Which were is not known: all of a higher number are looked
    /// through from the letter's time on.
    fn ranges(
        &self,
        letter: &Letter,
        noted_from: i64,
        checkpoint: &Checkpoint,
    ) -> Result<Vec<(TopicPartition, i64, i64)>, String> {
        let own = &letter.origin.at;
        let mut ranges = vec![];
        if letter.origin.offset + 1 < noted_from {
            ranges.push((own.clone(), letter.origin.offset + 1, noted_from));
        }
        let since_ms = letter.timestamp_ms.map_or(0, |at_ms| at_ms.saturating_sub(CLOCKS_DIFFER_MS).max(0));
        let others = checkpoint.topics.get(&own.topic).into_iter().flat_map(|t| &t.partitions);
        for (partition, position) in others.filter(|(partition, _)| **partition > own.partition) {
            let at = TopicPartition::new(&own.topic, *partition);
            let from = self.log.since(&at, since_ms)?;
            if from < position.next {
                ranges.push((at, from, position.next));
            }
        }
        Ok(ranges)
    }

    /// Commits rows and settled letters to the table.
    async fn settle(&self, judged: &[(Letter, Verdict)], replays: u64) -> Result<Result<(), String>, String> {
        let mut replay = Replay { replays, ..Replay::default() };
        let mut applied = vec![];
        for (letter, verdict) in judged {
            let status = match verdict {
                Verdict::Apply(pending) => {
                    applied.push(letter);
                    replay.applied.extend(pending.clone());
                    Status::Replayed
                }
                Verdict::Close(status, _) => *status,
                Verdict::Stay { .. } => continue,
            };
            replay.settled.push((letter.origin.clone(), status));
        }
        if replay.settled.is_empty() {
            return Ok(Ok(()));
        }
        let Some(batch) = rows(self.lake, &self.options, self.told(), &applied).await? else {
            return Ok(Err("the table's columns changed".to_owned()));
        };
        self.own().await?;
        let mut stager = self.lake.stager().map_err(|e| e.to_string())?;
        let staged = tokio::task::spawn_blocking(move || {
            if batch.num_rows() > 0 {
                stager.write(batch)?;
            }
            stager.close(vec![])
        });
        let staged = staged.await.map_err(|e| format!("staging letters: {e}"))?.map_err(|e| e.to_string())?;
        self.commit(staged.replaying(replay)).await
    }

    /// The replaced rows may have come from any partition of the topic.
    async fn own(&self) -> Result<(), String> {
        let checkpoint = self.lake.checkpoint().await.map_err(|e| e.to_string())?.unwrap_or_default();
        let partitions = checkpoint
            .topics
            .iter()
            .flat_map(|(topic, t)| (0..t.partition_count).map(|p| TopicPartition::new(topic.clone(), p)));
        self.lake.own(partitions);
        Ok(())
    }

    async fn commit(&self, staged: Staged) -> Result<Result<(), String>, String> {
        let mut parts = vec![staged];
        let mut last = String::new();
        for _ in 0..UNDECIDED {
            match self.lake.commit(parts).await {
                Ok(_) => return Ok(Ok(())),
                Err(CommitFailure::Undecided(same, e)) => {
                    last = e.to_string();
                    parts = same;
                }
                Err(CommitFailure::Stale(reason)) => return Ok(Err(reason)),
                Err(CommitFailure::SchemaMoved(parts)) => {
                    self.lake.discard(parts).await;
                    return Ok(Err("the table's columns changed".to_owned()));
                }
                Err(CommitFailure::Failed(e)) if e.is_transient() => return Ok(Err(e.to_string())),
                Err(CommitFailure::Failed(e)) => return Err(e.to_string()),
            }
        }
        Err(format!("table {}: whether the letters' rows were committed is open: replay again: {last}", self.name))
    }

    /// Writes what became of the letters to the letters themselves.
    async fn tell(&self, judged: Vec<(Letter, Verdict)>) -> Result<Vec<Outcome>, String> {
        let now_ms = epoch_ms();
        let mut changed = vec![];
        let mut outcomes = vec![];
        for (letter, verdict) in judged {
            let id = letter.id();
            let (status, detail) = match verdict {
                Verdict::Apply(_) => (Status::Replayed, String::new()),
                Verdict::Close(status, detail) => (status, detail),
                Verdict::Stay { detail, reason } => {
                    if let Some(reason) = reason.filter(|r| *r != letter.reason || detail != letter.detail) {
                        changed.push(Letter { reason, detail: detail.clone(), ..letter });
                    }
                    outcomes.push(Outcome { id, status: Status::Pending, detail });
                    continue;
                }
            };
            changed.push(letter.turned(status, now_ms, detail.clone()));
            outcomes.push(Outcome { id, status, detail });
        }
        self.letters.put(&changed).await.map_err(|e| e.to_string())?;
        Ok(outcomes)
    }
}

/// Whether its offsets are of the topic that the table reads; where one of the ids is not known they are taken for the same.
fn belongs(letter: &Letter, standing: &Standing) -> bool {
    let known = standing.checkpoint.topics.get(&letter.origin.at.topic).and_then(|t| t.topic_id.as_deref());
    letter.topic_id.as_deref().zip(known).is_none_or(|(letter, table)| letter == table)
}

/// A later change that was found stays one, whatever else can't be told.
fn set(verdicts: &mut [Verdict], i: usize, verdict: Verdict) {
    if let Some(have) = verdicts.get_mut(i).filter(|have| !matches!(have, Verdict::Close(..))) {
        *have = verdict;
    }
}

fn stay(detail: impl Into<String>) -> Verdict {
    Verdict::Stay { detail: detail.into(), reason: None }
}

fn superseded(detail: impl Into<String>) -> Verdict {
    Verdict::Close(Status::Superseded, detail.into())
}
