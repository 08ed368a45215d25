//! One topic on one worker: its partitions' positions, the decoder, the open part, and whether it is being read.

mod assignment;
mod decode;
mod source_table;
mod table_event;
mod telling;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::committer::Part;
use super::declared;
use super::meter::{self, Rows};
use super::places::Places;
use super::rejects::Rejects;
use super::share::Share;
use super::tables::{TableHandle, epoch_ms};
use crate::debezium::{DecodeOptions, Decoder, Pushed, schema_id};
use crate::memory::{Counted, Kind};
use crate::position::{Span, TopicPartition};
use crate::record::{Record, Rejected};
use crate::sink::lake::{Stager, TableColumns};
use crate::source::kafka::KafkaSource;
use crate::table_event::Truncate;
use source_table::SourceTable;

/// Rows that a decoder collects before they go to the stager: large enough to make vectors worth it, small enough that a
/// thousand idle topics hold little.
const FLUSH_ROWS: usize = 8_192;
/// The same in bytes, for wide rows.
const FLUSH_BYTES: usize = 8 << 20;
/// Parts of one table that a worker may have handed over and not seen committed; beyond it stops reading the topic. One is being
/// committed while the next is collected; more would only pile up memory in front of a slow catalog.
const MAX_IN_FLIGHT: usize = 2;
/// How often a rejected record is there while its letter is written: as it came, as text, as Arrow, encoded.
const LETTER_COPIES: usize = 4;
/// Wait before a table that was given up is read again.
const SUSPENSION: Duration = Duration::from_secs(1);

/// What the worker is to do with the topic's partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    Hold,
    Resume,
    /// Read the table's checkpoint and seek there.
    Restart,
}

pub struct Feed {
    handle: Arc<TableHandle>,
    runtime: Handle,
    worker: usize,
    decoder: Decoder,
    goes_by_record_key: bool,
    /// [`FLUSH_ROWS`], or fewer where a commit takes fewer.
    flush_rows: usize,
    stager: Option<Stager>,
    /// Truncates of the source table that the stager was not told yet.
    truncates: Vec<Truncate>,
    /// What rows are made for; none until the table exists, so that a position can be committed.
    columns: Option<TableColumns>,
    /// The epoch of the open part.
    epoch: Option<u64>,
    places: Places,
    topic_id: Option<String>,
    partition_count: Option<i32>,
    incarnation: u64,
    in_flight: usize,
    paused: bool,
    suspended_until: Option<Instant>,
    /// Why the next record can't be decoded yet. Suspended for it once all that stands before is committed.
    waiting: Option<String>,
    source: SourceTable,
    /// The table was stopped and this worker has let go of it.
    let_go: bool,
    rejects: Rejects,
    share: Share,
    /// What decoder and rejects hold; the stager counts for itself.
    counted: Counted,
    /// See [`Feed::take_passed`].
    passed: Vec<(TopicPartition, i64)>,
    /// Rows of the open part by op.
    rows: Rows,
    /// Since the feed began.
    taken: u64,
    refused: u64,
    skipped: u64,
    /// What of `taken`, `refused` and `skipped` was told already.
    told: (u64, u64, u64),
}

impl Feed {
    pub fn new(handle: Arc<TableHandle>, runtime: Handle, worker: usize) -> Self {
        let options = handle.decode_options();
        let columns = runtime.block_on(declared::agree(&handle.lake, &options.declared));
        let goes_by_record_key = options.goes_by_record_key();
        let mut decoder = Decoder::new(options);
        if let Some(columns) = &columns
            && let Err(e) = decoder.set_table(columns.rows(), columns.lineage())
        {
            tracing::warn!(table = %handle.name, "{e}");
        }
        let counted = handle.lake.memory().count(Kind::Open);
        Self {
            places: Places::new(&handle.topic),
            flush_rows: FLUSH_ROWS.min(handle.epochs.commit_rows() as usize).max(1),
            handle,
            runtime,
            worker,
            decoder,
            goes_by_record_key,
            stager: None,
            truncates: Vec::new(),
            columns,
            epoch: None,
            topic_id: None,
            partition_count: None,
            incarnation: 0,
            in_flight: 0,
            paused: false,
            suspended_until: None,
            waiting: None,
            source: SourceTable::default(),
            let_go: false,
            rejects: Rejects::default(),
            share: Share::default(),
            counted,
            passed: Vec::new(),
            rows: Rows::default(),
            taken: 0,
            refused: 0,
            skipped: 0,
            told: (0, 0, 0),
        }
    }

    pub fn handle(&self) -> &TableHandle {
        &self.handle
    }

    pub fn partitions(&self) -> Vec<TopicPartition> {
        self.places.partitions()
    }

    pub fn positions(&self) -> Vec<(TopicPartition, i64)> {
        self.places.positions()
    }

    pub fn reads(&self, at: &TopicPartition) -> bool {
        self.places.contains(at.partition)
    }

    pub fn in_flight(&self) -> usize {
        if self.handle.is_stopped() { 0 } else { self.in_flight }
    }

    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Takes one record into the open part.
    pub fn push(&mut self, record: &Record<'_>) {
        if self.idle() {
            return;
        }
        if !self.places.wants(record.partition, record.offset) {
            return;
        }
        if self.epoch.is_none() {
            self.epoch = Some(self.handle.epochs.join(self.handle.now_ms()));
            self.look_again_at_source();
        }
        let Some(pushed) = self.decode(record) else { return };
        match pushed {
            Pushed::Row(op) => meter::count(&mut self.rows, op),
            Pushed::Skipped(kind) => {
                self.skipped += 1;
                self.handle.meter.skipped(kind.as_str());
            }
            Pushed::Truncate(fence) => self.truncated(record, fence),
            Pushed::Rejected(reject) => self.reject(record, reject.reason, reject.detail),
            Pushed::NeedsSchema(_) | Pushed::NeedsWriterSchema(_) | Pushed::NeedsSource { .. } => self.reject(
                record,
                "incompatible_schema",
                "the record's schema does not fit the table's columns even after the table was brought up to date"
                    .to_owned(),
            ),
        }
        self.taken += 1;
        self.share.took(self.handle.limits);
        self.places.took(record.partition, record.offset, record.timestamp_ms);
        if self.decoder.rows() >= self.flush_rows || self.count() >= FLUSH_BYTES {
            self.flush();
        }
    }

    /// Counts what is held beside the stager; answers what the decoder does.
    fn count(&mut self) -> usize {
        let decoded = self.decoder.bytes();
        self.counted.set(decoded + self.rejects.bytes());
        decoded
    }

    fn reject(&mut self, record: &Record<'_>, reason: &'static str, detail: String) {
        self.handle.meter.rejected(reason);
        self.refused += 1;
        if self.refused == 1 {
            tracing::warn!(table = %self.handle.name, record = %record.origin(), reason, "rejected: {detail}");
        }
        if let Some(too_many) = self.share.refused(self.handle.limits) {
            return self.stop(&format!("{too_many}; the last one, {}: {reason}: {detail}", record.origin()));
        }
        let letter = Rejected {
            topic_id: self.topic_id.clone(),
            schema_id: schema_id(record),
            ..Rejected::new(record, reason, detail, epoch_ms())
        };
        let table = self.columns.as_ref().map(TableColumns::rows);
        let schema = |id| self.runtime.block_on(self.handle.writer_schemas.get(id)).ok();
        let options = || DecodeOptions { source: self.decoder.source_types().clone(), ..self.handle.decode_options() };
        self.rejects.push(letter, self.decoder.rows(), table, options, &schema);
    }

    fn warn_of_unknown(&mut self) {
        let fields = self.decoder.take_unknown_fields();
        if !fields.is_empty() {
            tracing::warn!(table = %self.handle.name, fields = fields.join(", "), "the table has no columns for these fields");
        }
    }

    /// Moves the decoded rows to the stager.
    fn flush(&mut self) {
        self.tell();
        let (Some(epoch), rows) = (self.epoch, self.decoder.rows() as u64) else { return };
        if rows == 0 {
            return;
        }
        let (batch, snapshot) = (self.decoder.finish(), self.decoder.take_snapshot());
        self.count();
        self.warn_of_unknown();
        if let Err(e) = self.ensure_stager() {
            return self.suspend(&e);
        }
        let Some(stager) = self.stager.as_mut() else { return };
        stager.met(self.rejects.take_met());
        let before = stager.file_bytes();
        if let Err(e) = stager.write(batch) {
            return if e.is_transient() { self.suspend(&e.to_string()) } else { self.stop(&e.to_string()) };
        }
        if let Some(seen) = snapshot {
            stager.saw_snapshot(&self.handle.topic, seen);
        }
        let grown = stager.file_bytes().saturating_sub(before);
        if self.handle.epochs.add(epoch, rows, grown, self.handle.now_ms()) {
            self.close_part();
        }
    }

    fn ensure_stager(&mut self) -> Result<(), String> {
        if self.stager.is_none() {
            let stager = match &self.columns {
                Some(columns) => self.handle.lake.stager_for(columns),
                None => self.handle.lake.stager(),
            };
            self.stager = Some(stager.map_err(|e| e.to_string())?);
        }
        self.pass_table_events()
    }

    /// What the open part holds in memory.
    pub fn memory_bytes(&self) -> usize {
        self.counted.bytes() + self.stager.as_ref().map_or(0, Stager::bytes)
    }

    pub fn due(&self, now_ms: u64) -> bool {
        self.epoch.is_some_and(|epoch| self.handle.epochs.due(epoch, now_ms))
    }

    /// Hands the open part over, after making sure that the topic is still the same one.
    pub fn close(&mut self, source: &KafkaSource) {
        if self.epoch.is_none() || self.idle() {
            return;
        }
        if self.topic_id.is_some() {
            let ids = source.topic_ids(std::slice::from_ref(&self.handle.topic));
            if let Err(reason) = self.check_topic_id(ids.get(&self.handle.topic).map(String::as_str)) {
                return self.stop(&reason);
            }
        }
        self.close_part();
    }

    pub(super) fn close_part(&mut self) {
        self.flush();
        let Some(epoch) = self.epoch.take() else { return };
        if !self.idle() {
            self.hand_over();
        }
        // Only now: the committer waits for the parts of an ended epoch until their workers have left it.
        self.handle.epochs.leave(epoch);
        if !self.truncates.is_empty() && !self.idle() {
            // There is no table yet that they could be told to: they are looked at again with the next epoch.
            self.epoch = Some(self.handle.epochs.join(self.handle.now_ms()));
        }
    }

    fn hand_over(&mut self) {
        let spans = self.spans();
        if spans.is_empty() && self.stager.is_none() {
            return;
        }
        // Only skipped or rejected records and no table yet: no table can hold the position.
        if self.stager.is_none() && self.columns.is_none() && !self.finds_table() {
            if self.refused == 0 && self.truncates.is_empty() {
                self.passed = self.places.positions();
            }
            return self.write_letters();
        }
        let staged = match self.ensure_stager() {
            Err(e) => Err(e),
            Ok(()) => match self.stager.take() {
                Some(mut stager) => {
                    stager.met(self.rejects.take_met());
                    stager.close(spans.clone()).map_err(|e| e.to_string())
                }
                None => return,
            },
        };
        match staged {
            Err(e) => self.suspend(&e),
            Ok(staged) => {
                self.places.handed_over();
                self.in_flight += 1;
                let mut letters = self.handle.lake.memory().count(Kind::Staged);
                letters.set(self.rejects.bytes() * LETTER_COPIES);
                self.handle.submit(Part {
                    worker: self.worker,
                    incarnation: self.incarnation,
                    staged,
                    spans,
                    rejected: self.rejects.take_letters(),
                    letters,
                    rows: std::mem::take(&mut self.rows),
                });
                self.count();
            }
        }
    }

    /// Letters of a table that isn't there yet; no rows follow them.
    fn write_letters(&mut self) {
        match self.runtime.block_on(self.handle.dead_letters.write(&self.handle.name, self.rejects.letters())) {
            Ok(()) => {
                self.rejects.take_letters();
                self.count();
            }
            Err(e) if !e.is_transient() => self.stop(&format!("dead letters: {e}")),
            Err(e) => self.suspend(&format!("dead letters: {e}")),
        }
    }

    fn spans(&self) -> Vec<Span> {
        let of_topic = |span| Span { topic_id: self.topic_id.clone(), partition_count: self.partition_count, ..span };
        self.places.spans().into_iter().map(of_topic).collect()
    }

    /// Positions that no record of use stands before, in a topic that has no table: heartbeats, transactions ... alone. Each is told once.
    pub fn take_passed(&mut self) -> Vec<(TopicPartition, i64)> {
        let passed = std::mem::take(&mut self.passed);
        self.places.note_committed(&passed);
        passed
    }

    pub fn committed(&mut self, incarnation: u64, next: &[(TopicPartition, i64)]) {
        if incarnation == self.incarnation {
            self.in_flight = self.in_flight.saturating_sub(1);
        }
        self.places.note_committed(next);
    }

    /// Whether its partitions are not to be read now.
    pub fn holds(&self) -> bool {
        self.paused || self.handle.is_stopped()
    }

    /// What to do with the partitions, if something changed.
    pub fn take_change(&mut self) -> Option<Reading> {
        if self.handle.is_stopped() {
            if self.let_go {
                return None;
            }
            self.let_go = true;
            self.give_up();
            return Some(Reading::Hold);
        }
        if let Some(reason) = self.waiting.take_if(|_| self.in_flight == 0) {
            self.suspend(&reason);
        }
        if let Some(until) = self.suspended_until {
            return if Instant::now() >= until {
                Some(Reading::Restart)
            } else {
                let first = !self.paused;
                self.paused = true;
                first.then_some(Reading::Hold)
            };
        }
        let full = self.in_flight >= MAX_IN_FLIGHT || self.waiting.is_some();
        if full == self.paused {
            return None;
        }
        self.paused = full;
        Some(if full { Reading::Hold } else { Reading::Resume })
    }

    /// Gives up all that is not committed, and reads again from the table's checkpoint after a while.
    pub fn suspend(&mut self, reason: &str) {
        if self.handle.is_stopped() {
            return;
        }
        tracing::warn!(table = %self.handle.name, "suspended: {reason}");
        self.handle.trouble(reason.to_owned());
        self.let_go = false;
        self.give_up();
        self.suspended_until = Some(Instant::now() + SUSPENSION);
    }

    /// Stops the table for all workers; each lets go of it at its next look.
    pub fn stop(&self, reason: &str) {
        self.handle.stop(reason.to_owned());
    }

    /// Whether records are not taken: the table is stopped, or waits to be read anew.
    fn idle(&self) -> bool {
        self.suspended_until.is_some() || self.waiting.is_some() || self.handle.is_stopped()
    }

    fn give_up(&mut self) {
        self.incarnation += 1;
        self.handle.set_incarnation(self.worker, self.incarnation);
        if let Some(epoch) = self.epoch.take() {
            self.handle.epochs.leave(epoch);
        }
        if let Some(stager) = self.stager.take() {
            stager.abandon();
        }
        if self.decoder.rows() > 0 {
            drop((self.decoder.finish(), self.decoder.take_snapshot()));
        }
        self.truncates.clear();
        self.rejects.take_letters();
        self.count();
        self.waiting = None;
        self.passed.clear();
        self.rows = Rows::default();
        self.in_flight = 0;
    }

    /// Goes on after a suspension, at [`Feed::positions`]. Answers the partitions whose beginning has to be found out anew.
    ///
    /// # Errors
    /// When the table can't be read yet.
    pub fn restart(&mut self) -> Result<Vec<TopicPartition>, String> {
        let checkpoint =
            self.runtime.block_on(self.handle.lake.checkpoint()).map_err(|e| e.to_string())?.unwrap_or_default();
        // A new one, for what the old one asked the table for may never have been answered.
        self.decoder = Decoder::new(self.handle.decode_options());
        if let Some(columns) = self.handle.lake.columns() {
            self.set_columns(columns)?;
        }
        // A rewind may have made another topic of the same name the table's.
        let standing = checkpoint.topics.get(&self.handle.topic);
        self.topic_id = standing.and_then(|t| t.topic_id.clone()).or(self.topic_id.take());
        self.handle.lake.reads_from(self.places.partitions(), Some(&checkpoint));
        let given_up = self.places.restart(&checkpoint);
        self.suspended_until = None;
        self.paused = false;
        Ok(given_up)
    }
}

impl std::fmt::Debug for Feed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Feed").field("table", &self.handle.name).field("places", &self.places).finish_non_exhaustive()
    }
}
