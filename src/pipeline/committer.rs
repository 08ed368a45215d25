//! One task a table: takes the workers' parts in order and commits them until the outcome is known.

use std::sync::Weak;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::lookout;
use super::meter::Rows;
use super::tables::TableHandle;
use crate::memory::Counted;
use crate::position::{Checkpoint, Span, TopicPartition};
use crate::record::Rejected;
use crate::sink::lake::{CommitFailure, Staged};

/// Wait between attempts at a commit of unknown outcome; shorter would load a metastore that is coming up.
const UNDECIDED_WAIT: Duration = Duration::from_secs(2);

/// How long a commit waits for the other workers' parts of the same epoch. A worker checks its epochs every 100 ms; waiting
/// longer than a few of those only delays the commit.
const STRAGGLER_WAIT: Duration = Duration::from_millis(500);

/// What one worker collected for one table.
#[derive(Debug)]
pub struct Part {
    pub worker: usize,
    /// Parts of an incarnation that was given up are dropped.
    pub incarnation: u64,
    pub staged: Staged,
    pub spans: Vec<Span>,
    pub rejected: Vec<Rejected>,
    /// What the rejected records hold until they are letters.
    pub letters: Counted,
    /// Rows by op.
    pub rows: Rows,
}

/// What became of a worker's part.
#[derive(Clone, Debug)]
pub enum Ack {
    /// In the table: the worker may let go of it.
    Committed { topic: String, incarnation: u64, next: Vec<(TopicPartition, i64)> },
    /// Not in the table, and never will be in this form: go on from the table's checkpoint.
    Reset { topic: String, incarnation: u64, reason: String },
}

/// Runs until all workers are gone.
pub async fn run(table: Weak<TableHandle>, mut parts: mpsc::UnboundedReceiver<Part>) {
    while let Some(first) = parts.recv().await {
        let Some(table) = table.upgrade() else { return };
        let mut batch = vec![first];
        let patience = Instant::now() + STRAGGLER_WAIT;
        while table.epochs.closing() > 0 && Instant::now() < patience {
            match tokio::time::timeout_at(patience.into(), parts.recv()).await {
                Ok(Some(part)) => batch.push(part),
                Ok(None) | Err(_) => break,
            }
        }
        while let Ok(part) = parts.try_recv() {
            batch.push(part);
        }
        let given_up;
        (batch, given_up) = batch.into_iter().partition(|p| table.incarnation(p.worker) == p.incarnation);
        if !given_up.is_empty() {
            let bytes = given_up.iter().map(|p: &Part| p.staged.file_bytes()).sum();
            table.settled(given_up.len(), bytes);
            table.lake.discard(given_up.into_iter().map(|p| p.staged).collect()).await;
        }
        if !batch.is_empty() {
            settle(&table, batch).await;
        }
    }
}

/// Commits one batch of parts and tells their workers.
async fn settle(table: &TableHandle, parts: Vec<Part>) {
    let acks: Vec<(usize, u64, Vec<Span>)> = parts.iter().map(|p| (p.worker, p.incarnation, p.spans.clone())).collect();
    let rows: Rows = std::array::from_fn(|op| parts.iter().map(|p| p.rows[op]).sum());
    let bytes: u64 = parts.iter().map(|p| p.staged.file_bytes()).sum();
    let (mut staged, mut rejected, mut letters) = (vec![], vec![], vec![]);
    for part in parts {
        staged.push(part.staged);
        rejected.extend(part.rejected);
        letters.push(part.letters);
    }

    // A worker that slept while others went on must not write over letters that are settled by now.
    if !rejected.is_empty()
        && let Ok(Some(standing)) = table.lake.letters().await
    {
        rejected.retain(|r| standing.checkpoint.next(&r.origin.at).is_none_or(|next| next <= r.origin.offset));
    }
    // Before the rows: a commit that lands after a crash here finds the letter already there, under the same key.
    while let Err(e) = table.dead_letters.write(&table.name, &rejected).await {
        if !e.is_transient() {
            table.settled(acks.len(), bytes);
            table.lake.discard(staged).await;
            return table.stop(format!("dead letters: {e}"));
        }
        tracing::warn!(table = %table.name, "dead letters can't be written, waiting: {e}");
        table.trouble(format!("dead letters: {e}"));
        tokio::time::sleep(UNDECIDED_WAIT).await;
    }

    drop((rejected, letters));

    let outcome = loop {
        let attempt = async {
            let _one_of_few = table.commits.acquire().await;
            table.lake.commit(staged).await
        };
        match attempt.await {
            Err(CommitFailure::Undecided(parts, error)) => {
                tracing::warn!(table = %table.name, "not committed yet, trying again: {error}");
                table.trouble(error.to_string());
                staged = parts;
                tokio::time::sleep(UNDECIDED_WAIT).await;
            }
            other => break other,
        }
    };
    table.settled(acks.len(), bytes);
    match outcome {
        Ok(done) => {
            table.committed(&done, &rows);
            for (worker, incarnation, spans) in acks {
                let next = spans.into_iter().map(|s| (s.at, s.next)).collect();
                table.tell(worker, Ack::Committed { topic: table.topic.clone(), incarnation, next });
            }
        }
        Err(CommitFailure::Stale(reason)) => {
            reset(table, acks, reason);
            // A rewind concerns the workers that had nothing in this batch, too.
            lookout::look(table).await;
        }
        Err(CommitFailure::SchemaMoved(parts)) => {
            table.lake.discard(parts).await;
            reset(table, acks, "the table's columns changed while the batch was staged".to_owned());
        }
        Err(CommitFailure::Undecided(_, error)) => reset(table, acks, error.to_string()),
        Err(CommitFailure::Failed(error)) if error.is_transient() => reset(table, acks, error.to_string()),
        Err(CommitFailure::Failed(error)) => table.stop(error.to_string()),
    }
}

fn reset(table: &TableHandle, acks: Vec<(usize, u64, Vec<Span>)>, reason: String) {
    tracing::warn!(table = %table.name, "batch given up, going on from the table: {reason}");
    table.stale(reason.clone());
    for (worker, incarnation, _) in acks {
        let topic = table.topic.clone();
        table.tell(worker, Ack::Reset { topic, incarnation, reason: reason.clone() });
    }
}

/// The partitions of a checkpoint, for metrics.
pub(super) fn positions(checkpoint: &Checkpoint) -> impl Iterator<Item = (&str, i32, i64)> {
    checkpoint
        .topics
        .iter()
        .flat_map(|(topic, t)| t.partitions.iter().map(move |(partition, p)| (topic.as_str(), *partition, p.next)))
}
