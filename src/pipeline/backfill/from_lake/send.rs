//! Rows into the topic, a transaction at a time, unless a change of their key came meanwhile. Blocks.
//!
//! ```text
//! what the topic has since the snapshot -> keys that changed -> rows without these are sent, not visible yet
//!   -> what came before them in each partition, and between them: nothing of their keys? -> how far it is -> commit
//!                                               else: given up, and sent again without those
//! ```
//! What comes behind the rows in their partition is newer, and overwrites them everywhere. They reach it in several batches: what comes
//! between these may be of a row that is still to come.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, RecordBatch};
use firn_catalog::failpoint::{self, Step};

use super::stored::{Store, Stored};
use crate::change::origin;
use crate::debezium::{Encoded, Encoder, Stamp};
use crate::pipeline::backfill::BackfillError;
use crate::pipeline::replay::{Changes, LogKeys};
use crate::record::Record;
use crate::sink::lake::Stager;
use crate::source::kafka::{MessageTransactions, Outgoing, Span, Tail, TransactionError};

/// The header of a row from the lake: the backfill's id.
pub(super) const HEADER: &str = "firn.backfill";
/// How long other producers' open transactions are waited for within an own one, which brokers give up after ten seconds.
const SETTLED_WITHIN: Duration = Duration::from_secs(5);
/// The same, outside of any.
const OTHERS_WITHIN: Duration = Duration::from_secs(60);
/// Reading what came since takes less before a transaction is begun, in which the rest is read.
const CAUGHT_UP: Duration = Duration::from_secs(1);
/// Times that rows are sent because some changed while they were sent, before fewer are.
const ROUNDS: usize = 4;
/// Times that others' transactions are waited for.
const WAITS: usize = 20;

/// Keys of which the topic has a newer change than the lake's snapshot.
#[derive(Default)]
pub(super) struct Changed {
    hashes: HashSet<u128>,
    /// Of records that are no rows of the table now: as they stand there.
    raw: HashSet<Vec<u8>>,
    /// The source table was emptied there.
    emptied: Option<String>,
    failed: Option<String>,
}

impl Changed {
    pub(super) fn note(&mut self, keys: &mut LogKeys<'_>, record: &Record<'_>) {
        // Rows from the lake are no changes.
        if record.header(HEADER).is_some() || self.failed.is_some() {
            return;
        }
        match keys.changes(record) {
            Ok(Changes::Key(hash)) => _ = self.hashes.insert(hash),
            Ok(Changes::Everything) => self.emptied = Some(record.origin().to_string()),
            Ok(Changes::Untold) => self.raw.extend(record.key.map(<[u8]>::to_vec)),
            Err(why) => self.failed = Some(why),
        }
    }

    fn has(&self, hash: u128, key: &[u8]) -> bool {
        self.hashes.contains(&hash) || self.raw.contains(key)
    }

    /// Why nothing can go on, if so.
    fn objection(&self) -> Result<(), BackfillError> {
        if let Some(at) = &self.emptied {
            return Err(BackfillError::Refused(format!(
                "the source table was emptied (TRUNCATE) at {at}, after the lake's rows were written: none of them is to come again; once \
                 the lake has emptied its table, too, --anew begins the range anew"
            )));
        }
        self.failed.clone().map_or(Ok(()), |why| Err(BackfillError::Refused(why)))
    }
}

/// Sends the rows of one topic.
pub(super) struct Sender<'a> {
    pub topic: String,
    pub encoder: Encoder,
    pub keys: LogKeys<'a>,
    pub stager: Stager,
    pub changed: Changed,
    pub tail: Tail,
    /// Reads what stands between the rows of a transaction that is open.
    pub between: Tail,
    /// How many partitions the topic had when the reading began.
    pub partitions: i32,
    /// Whether each row is in the partition that its key goes to now.
    pub stays: bool,
    /// For rows that do not tell when they were changed.
    pub snapshot_ms: i64,
    /// From this LSN on nothing is from before the last TRUNCATE, and no row of the lake is.
    pub clear_from: Option<i64>,
    pub store: Store,
}

/// What became of a piece.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sent {
    pub rows: u64,
    pub left_out: u64,
}

/// A row on its way.
struct Row {
    record: Encoded,
    hash: u128,
    partition: Option<i32>,
}

impl Sender<'_> {
    /// Sends these rows and stores what `stored` makes of that, in one transaction; `None` where rows kept changing meanwhile.
    ///
    /// # Errors
    /// [`BackfillError::Transaction`] where it is to be begun anew; otherwise what can't go on.
    pub(super) fn send(
        &mut self,
        transactions: &mut MessageTransactions,
        rows: &RecordBatch,
        id: &str,
        stored: impl Fn(Sent) -> Stored,
    ) -> Result<Option<Stored>, BackfillError> {
        let sent = self.try_send(transactions, rows, id, stored);
        if sent.as_ref().is_err_and(|e| !matches!(e, BackfillError::Transaction(_))) {
            // Else who reads what is committed would wait until the brokers give it up. What went wrong is told in any case.
            let _ = transactions.give_up();
        }
        sent
    }

    fn try_send(
        &mut self,
        transactions: &mut MessageTransactions,
        rows: &RecordBatch,
        id: &str,
        stored: impl Fn(Sent) -> Stored,
    ) -> Result<Option<Stored>, BackfillError> {
        self.refuse_unavailable(rows)?;
        let now_ms = chrono::Utc::now().timestamp_millis();
        let records = self.encoder.encode(rows, &stamps(rows, self.snapshot_ms, self.clear_from), now_ms);
        let records = records.map_err(|why| BackfillError::Refused(format!("{}: {why}", self.topic)))?;
        let hashes = self.stager.key_hashes(rows)?;
        let places = self.places(rows);
        let all = records.into_iter().zip(hashes).zip(places);
        let mut rows: Vec<Row> = all.map(|((record, hash), partition)| Row { record, hash, partition }).collect();
        let whole = rows.len();
        self.catch_up()?;
        let headers = [(HEADER.to_owned(), id.as_bytes().to_vec())];
        let (mut overtaken, mut waited) = (0, 0);
        while overtaken < ROUNDS {
            rows.retain(|row| !self.changed.has(row.hash, &row.record.key));
            let sent = Sent { rows: rows.len() as u64, left_out: (whole - rows.len()) as u64 };
            let stored = stored(sent);
            let value = serde_json::to_vec(&stored).map_err(|e| BackfillError::Refused(e.to_string()))?;
            if rows.is_empty() {
                transactions.send(&[self.store.message(&stored, &value)])?;
                transactions.commit()?;
                return Ok(Some(stored));
            }
            let messages: Vec<Outgoing<'_>> = rows.iter().map(|row| self.message(row, &headers)).collect();
            let send = || transactions.send(&messages);
            match failpoint::around(Step::BackfillSend, send, |_| TransactionError::Unavailable("failpoint".to_owned()))
            {
                Err(TransactionError::TooLarge(places)) if !places.is_empty() => {
                    return Err(self.too_large(&rows, &places));
                }
                sent => sent?,
            }
            let spans = transactions.spans()?;
            let begins = places_of(&spans, |span| span.first);
            if !self.tail.is_settled(&begins, SETTLED_WITHIN)? {
                transactions.give_up()?;
                waited += 1;
                self.wait_for_others(&begins, waited)?;
                continue;
            }
            self.note(&begins)?;
            self.refuse_growth()?;
            if rows.iter().any(|row| self.changed.has(row.hash, &row.record.key)) {
                transactions.give_up()?;
                overtaken += 1;
                continue;
            }
            if self.is_overtaken(&rows, &spans)? {
                transactions.give_up()?;
                overtaken += 1;
                let ends = places_of(&spans, |span| span.next);
                self.wait_for_others(&ends, waited)?;
                self.note(&ends)?;
                continue;
            }
            transactions.send_with(&[self.store.message(&stored, &value)])?;
            let commit = || transactions.commit().map(drop);
            failpoint::around(Step::BackfillCommit, commit, |_| TransactionError::Unavailable("failpoint".to_owned()))?;
            return Ok(Some(stored));
        }
        Ok(None)
    }

    /// Whether a change of these rows, or one that may yet be given up, came between them.
    fn is_overtaken(&mut self, rows: &[Row], spans: &BTreeMap<i32, Span>) -> Result<bool, BackfillError> {
        let mixed: BTreeMap<i32, Span> =
            spans.iter().filter(|(_, span)| span.is_mixed()).map(|(partition, span)| (*partition, *span)).collect();
        let (mut changed, keys) = (Changed::default(), &mut self.keys);
        self.between.go_to(places_of(&mixed, |span| span.first));
        self.between.read_to(&places_of(&mixed, |span| span.next), |record| changed.note(keys, record))?;
        Ok(changed.objection().is_err() || rows.iter().any(|row| changed.has(row.hash, &row.record.key)))
    }

    /// Notes the keys of all that came since, and of what came while they were read.
    fn catch_up(&mut self) -> Result<(), BackfillError> {
        loop {
            let ends = self.tail.ends()?;
            let begun = Instant::now();
            self.note(&ends)?;
            if begun.elapsed() < CAUGHT_UP {
                return Ok(());
            }
        }
    }

    fn note(&mut self, to: &BTreeMap<i32, i64>) -> Result<(), BackfillError> {
        let (changed, keys) = (&mut self.changed, &mut self.keys);
        self.tail.read_to(to, |record| changed.note(keys, record))?;
        self.changed.objection()
    }

    /// Of a partition that was added, changes of any key may come, before its rows do from the one where they were.
    fn refuse_growth(&self) -> Result<(), BackfillError> {
        match self.tail.partitions()? {
            now if now == self.partitions => Ok(()),
            now => Err(BackfillError::Refused(format!(
                "{} has {now} partitions, and had {}: once the lake has come to the new ones, --anew begins the range anew",
                self.topic, self.partitions
            ))),
        }
    }

    fn wait_for_others(&self, to: &BTreeMap<i32, i64>, waited: usize) -> Result<(), BackfillError> {
        let ends = self.tail.ends()?;
        let open = to.iter().filter(|(partition, to)| ends.get(partition).is_some_and(|end| end < *to));
        let open: BTreeMap<i32, i64> = open.map(|(partition, to)| (*partition, *to)).collect();
        if waited <= WAITS && self.tail.is_settled(&open, OTHERS_WITHIN)? {
            return Ok(());
        }
        Err(BackfillError::Unreachable(format!("{}: other producers' transactions stay open", self.topic)))
    }

    fn too_large(&self, rows: &[Row], places: &[usize]) -> BackfillError {
        let key = places.first().and_then(|place| rows.get(*place)).map(|row| String::from_utf8_lossy(&row.record.key));
        BackfillError::Refused(format!(
            "{}: the row {} is larger than the topic takes (max.message.bytes)",
            self.topic,
            key.unwrap_or_default()
        ))
    }

    fn message<'m>(&'m self, row: &'m Row, headers: &'m [(String, Vec<u8>)]) -> Outgoing<'m> {
        let (key, value) = (Some(row.record.key.as_slice()), Some(row.record.value.as_slice()));
        Outgoing { topic: &self.topic, partition: row.partition, key, value, headers }
    }

    /// The partition of each row's last change, where that is still its key's.
    fn places(&self, rows: &RecordBatch) -> Vec<Option<i32>> {
        let topics = rows.column_by_name(origin::TOPIC).and_then(|c| c.as_string_opt::<i32>());
        let partitions = rows.column_by_name(origin::PARTITION).and_then(|c| c.as_primitive_opt::<Int32Type>());
        let (Some(topics), Some(partitions), true) = (topics, partitions, self.stays) else {
            return vec![None; rows.num_rows()];
        };
        let is_ours =
            |row: &usize| topics.is_valid(*row) && topics.value(*row) == self.topic && partitions.is_valid(*row);
        let place =
            |row: usize| is_ours(&row).then(|| partitions.value(row)).filter(|p| (0..self.partitions).contains(p));
        (0..rows.num_rows()).map(place).collect()
    }

    fn refuse_unavailable(&self, rows: &RecordBatch) -> Result<(), BackfillError> {
        let Some(lists) = rows.column_by_name(origin::UNAVAILABLE).and_then(|c| c.as_list_opt::<i32>()) else {
            return Ok(());
        };
        let first = lists.iter().flatten().find_map(|names| {
            let names = names.as_string_opt::<i32>()?;
            names.iter().flatten().next().map(str::to_owned)
        });
        match first {
            None => Ok(()),
            Some(column) => Err(BackfillError::Refused(format!(
                "column {column}: the source did not send its value for some row, and the lake does not have it ({}): let Debezium read \
                 these rows anew (without --from-lake)",
                origin::UNAVAILABLE
            ))),
        }
    }
}

fn places_of(spans: &BTreeMap<i32, Span>, place: impl Fn(&Span) -> i64) -> BTreeMap<i32, i64> {
    spans.iter().map(|(partition, span)| (*partition, place(span))).collect()
}

/// When and where each row was changed last. A row that the TRUNCATE's own transaction wrote stands before what a snapshot may have read
/// until then, and would go as a row of one: all are told to be from `clear_from` at least.
fn stamps(rows: &RecordBatch, otherwise_ms: i64, clear_from: Option<i64>) -> Vec<Stamp> {
    let times = rows.column_by_name(origin::SOURCE_TS).and_then(|c| c.as_primitive_opt::<TimestampMicrosecondType>());
    let lsns = rows.column_by_name(origin::SOURCE_LSN).and_then(|c| c.as_primitive_opt::<Int64Type>());
    let stamp = |row: usize| Stamp {
        source_ms: times.filter(|t| t.is_valid(row)).map_or(otherwise_ms, |t| t.value(row).div_euclid(1_000)),
        lsn: lsns.filter(|l| l.is_valid(row)).map(|l| clear_from.map_or(l.value(row), |from| from.max(l.value(row)))),
    };
    (0..rows.num_rows()).map(stamp).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table_event::Fence;
    use arrow_array::{ArrayRef, Int64Array};
    use std::sync::Arc;

    #[test]
    fn a_row_of_the_truncates_own_transaction_is_not_from_before_it() {
        let fence = Fence { lsn: 100, last_commit: Some(120) };
        let column: ArrayRef = Arc::new(Int64Array::from(vec![Some(105), Some(200), None]));
        let rows = RecordBatch::try_from_iter([(origin::SOURCE_LSN, column)]).unwrap();
        let lsns =
            |clear_from: Option<i64>| stamps(&rows, 7, clear_from).iter().map(|stamp| stamp.lsn).collect::<Vec<_>>();
        assert_eq!(lsns(None), [Some(105), Some(200), None]);
        assert!(fence.is_after(105, true), "as it stands it would go");
        let told = lsns(Some(fence.clear_from()));
        assert_eq!(told, [Some(121), Some(200), None]);
        assert!(told.iter().flatten().all(|lsn| !fence.is_after(*lsn, true)));
    }
}
