//! Former versions of a view's rows, so that an event can be joined with the row as it was when the event was committed.
//!
//! Each version is a row of its own, true from one source position up to another. The earliest one that is known counts for all that
//! came before it, unless it is known that the row was created there.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};
use xxhash_rust::xxh3::xxh3_128;

use super::emptied::Emptied;
use super::rows::{Keys, Place, ViewRows};
use crate::change::{Op, origin};

/// The source position from which a version is true.
pub(super) const SINCE: &str = "_firn_since";
/// The source position from which it is true no more.
pub(super) const UNTIL: &str = "_firn_until";
/// [`SINCE`] of the earliest version, [`UNTIL`] of the current one.
const ALWAYS: (i64, i64) = (i64::MIN, i64::MAX);
/// The position of a row that has none.
const NO_LSN: i64 = i64::MIN;

/// Makes versions of changes.
///
/// Of the current version of a row nothing is kept beside the row itself, which stands under its key. Versions that are true no more stand
/// under their key and position.
pub(super) struct History {
    length_ms: i64,
    /// Of the view's rows.
    keys: Keys,
    lsn: usize,
    ts: usize,
    /// The positions of a key's versions that ended, where some did.
    former: HashMap<u128, Vec<i64>>,
    /// Versions that are true no more, as they ended.
    ended: VecDeque<Ended>,
    newest_ms: i64,
}

#[derive(Clone, Copy, Debug)]
struct Current {
    lsn: i64,
    since: i64,
}

#[derive(Debug)]
struct Ended {
    ended_ms: i64,
    key: u128,
    lsn: i64,
    /// The position of the version that followed at once.
    next: Option<i64>,
}

/// A version to be written.
struct Made {
    /// What it will stand under.
    under: u128,
    from: From,
    lsn: i64,
    since: i64,
    until: i64,
}

/// Where a version's columns stand.
#[derive(Clone, Copy)]
enum From {
    Stored(Place),
    Batch(usize),
}

/// Versions as rows, each with what it stands under.
pub(super) struct Versions {
    pub rows: RecordBatch,
    pub keys: Vec<u128>,
}

/// What a version stands under that is true no more.
fn former(key: u128, lsn: i64) -> u128 {
    let mut bytes = [0; 24];
    let (of_key, of_lsn) = bytes.split_at_mut(16);
    of_key.copy_from_slice(&key.to_le_bytes());
    of_lsn.copy_from_slice(&lsn.to_le_bytes());
    xxh3_128(&bytes)
}

/// The view's columns with those that say when a version was true.
pub(super) fn versioned(shown: &Schema) -> SchemaRef {
    let own = [SINCE, UNTIL].map(|name| Arc::new(Field::new(name, DataType::Int64, true)));
    Arc::new(Schema::new(shown.fields().iter().cloned().chain(own).collect::<Vec<_>>()))
}

impl History {
    /// For rows of the columns of `shown`, told apart by those at `keys`.
    ///
    /// # Errors
    /// When a key column has a type that can't be compared, or the rows have no origin.
    pub(super) fn new(shown: &Schema, keys: Vec<usize>, length_ms: u64) -> Result<Self, ArrowError> {
        Ok(Self {
            length_ms: i64::try_from(length_ms).unwrap_or(i64::MAX),
            keys: Keys::new(shown, keys)?,
            lsn: shown.index_of(origin::SOURCE_LSN)?,
            ts: shown.index_of(origin::SOURCE_TS)?,
            former: HashMap::new(),
            ended: VecDeque::new(),
            newest_ms: i64::MIN,
        })
    }

    /// Bytes of memory, about.
    pub(super) fn bytes(&self) -> usize {
        // A list has room for four at first.
        let former = self.former.capacity() * (size_of::<(u128, Vec<i64>)>() + 1) + self.former.len() * 32;
        former + self.ended.capacity() * size_of::<Ended>()
    }

    /// The versions that these changes begin and end; `stored` has those of before, and loses the ones that are too old.
    ///
    /// # Errors
    /// Never, as long as batches keep to their schema.
    pub(super) fn versions(
        &mut self,
        stored: &mut ViewRows,
        batch: &RecordBatch,
        ops: &[Op],
    ) -> Result<Versions, ArrowError> {
        let earliest = self.expire(stored);
        let mut made = Making { made: Vec::new(), at: HashMap::new(), stored };
        earliest.into_iter().for_each(|earliest| made.put(earliest));
        let lsns = batch.column(self.lsn).as_primitive::<Int64Type>();
        let times = batch.column(self.ts).as_primitive::<TimestampMicrosecondType>();
        for (row, key) in self.keys.hashes(batch)?.into_iter().enumerate() {
            let lsn = lsns.is_valid(row).then(|| lsns.value(row));
            if times.is_valid(row) {
                self.newest_ms = self.newest_ms.max(times.value(row) / 1000);
            }
            let op = ops.get(row).copied().unwrap_or(Op::Read);
            let deleted = op == Op::Delete;
            let since = match (made.current(key), lsn) {
                (Some(current), Some(lsn)) if lsn > current.lsn => {
                    made.end(key, current, lsn);
                    self.ended(key, current, (!deleted).then_some(lsn));
                    lsn
                }
                // The same once more, or nobody can say which is later: the last one counts.
                (Some(current), _) => {
                    made.forget(key);
                    current.since
                }
                (None, Some(lsn)) if op == Op::Create || self.former.contains_key(&key) => lsn,
                (None, _) => ALWAYS.0,
            };
            if !deleted {
                let lsn = lsn.unwrap_or(NO_LSN);
                made.put(Made { under: key, from: From::Batch(row), lsn, since, until: ALWAYS.1 });
            }
        }
        made.finish(batch)
    }

    /// Notes that the current version of a key is true no more.
    fn ended(&mut self, key: u128, current: Current, next: Option<i64>) {
        self.former.entry(key).or_default().push(current.lsn);
        self.ended.push_back(Ended { ended_ms: self.newest_ms, key, lsn: current.lsn, next });
    }

    /// The source table was emptied: the current versions that it takes end there. `none` has no rows, of the view's columns.
    ///
    /// # Errors
    /// Never, as long as batches keep to their schema.
    pub(super) fn empty(
        &mut self,
        stored: &mut ViewRows,
        emptied: Emptied,
        none: &RecordBatch,
    ) -> Result<Versions, ArrowError> {
        let is_taken = |(key, rows, row): (u128, &RecordBatch, usize)| {
            let is_current = number(rows, UNTIL, row).is_none_or(|until| until == ALWAYS.1);
            (is_current && emptied.takes(rows, row)).then_some(key)
        };
        let taken: Vec<u128> = stored.live().filter_map(is_taken).collect();
        let mut made = Making { made: Vec::new(), at: HashMap::new(), stored };
        for key in taken {
            let Some(current) = made.current(key) else { continue };
            match emptied.fence.map(|fence| fence.lsn).filter(|lsn| current.since < *lsn) {
                Some(lsn) => {
                    made.end(key, current, lsn);
                    self.ended(key, current, None);
                }
                // Nobody can say up to where it was true.
                None => made.forget(key),
            }
        }
        made.finish(none)
    }

    /// Drops versions that ended too long ago. What followed them is the earliest, then.
    fn expire(&mut self, stored: &mut ViewRows) -> Vec<Made> {
        let mut earliest = HashMap::new();
        let oldest_ms = self.newest_ms.saturating_sub(self.length_ms);
        while self.ended.front().is_some_and(|ended| ended.ended_ms < oldest_ms)
            && let Some(old) = self.ended.pop_front()
        {
            let version = former(old.key, old.lsn);
            earliest.remove(&version);
            stored.remove(version);
            if let Some(lsn) = old.next {
                // It has ended too, or is the current one.
                let is_it = |place: &Place| stored.number(*place, origin::SOURCE_LSN).unwrap_or(NO_LSN) == lsn;
                let ended = former(old.key, lsn);
                let found = stored.find(ended).map(|place| (ended, place));
                let found = found.or_else(|| Some((old.key, stored.find(old.key).filter(is_it)?)));
                if let Some((under, place)) = found {
                    let until = stored.number(place, UNTIL).unwrap_or(ALWAYS.1);
                    let made = Made { under, from: From::Stored(place), lsn, since: ALWAYS.0, until };
                    earliest.insert(under, made);
                }
            }
            if let Some(lsns) = self.former.get_mut(&old.key) {
                // They end in their order.
                lsns.drain(..lsns.len().min(1));
                if lsns.is_empty() {
                    self.former.remove(&old.key);
                }
            }
        }
        earliest.into_values().collect()
    }

    /// What the versions of a key stand under.
    pub(super) fn all_of(&self, key: u128) -> impl Iterator<Item = u128> {
        let ended = self.former.get(&key).map(Vec::as_slice).unwrap_or_default();
        std::iter::once(key).chain(ended.iter().map(move |lsn| former(key, *lsn)))
    }

    /// What each row of a table of versions stands under.
    ///
    /// # Errors
    /// Never, as long as the rows keep to their schema.
    pub(super) fn places(&self, rows: &RecordBatch) -> Result<Vec<u128>, ArrowError> {
        let under = |(row, key): (usize, u128)| match number(rows, UNTIL, row) {
            Some(until) if until != ALWAYS.1 => former(key, number(rows, origin::SOURCE_LSN, row).unwrap_or(NO_LSN)),
            _ => key,
        };
        Ok(self.keys.hashes(rows)?.into_iter().enumerate().map(under).collect())
    }

    /// Knows the versions of a table that these are all rows of, in any number of pieces.
    ///
    /// # Errors
    /// Never, as long as the rows keep to their schema.
    pub(super) fn know(&mut self, pieces: &[RecordBatch]) -> Result<(), ArrowError> {
        let mut ended = Vec::new();
        for rows in pieces {
            for (row, key) in self.keys.hashes(rows)?.into_iter().enumerate() {
                let until = number(rows, UNTIL, row).unwrap_or(ALWAYS.1);
                if until != ALWAYS.1 {
                    let lsn = number(rows, origin::SOURCE_LSN, row).unwrap_or(NO_LSN);
                    ended.push((until, Ended { ended_ms: self.newest_ms, key, lsn, next: None }));
                }
            }
        }
        ended.sort_by_key(|(until, _)| *until);
        for (_, ended) in &ended {
            self.former.entry(ended.key).or_default().push(ended.lsn);
        }
        // What follows a version may stand in another piece.
        let mut begun = HashMap::new();
        for rows in pieces {
            for (row, key) in self.keys.hashes(rows)?.into_iter().enumerate() {
                if self.former.contains_key(&key) {
                    let since = number(rows, SINCE, row).unwrap_or(ALWAYS.0);
                    begun.insert((key, since), number(rows, origin::SOURCE_LSN, row).unwrap_or(NO_LSN));
                }
            }
        }
        for (until, ended) in &mut ended {
            ended.next = begun.get(&(ended.key, *until)).copied();
        }
        self.ended.extend(ended.into_iter().map(|(_, ended)| ended));
        Ok(())
    }

    /// The time of the newest change.
    pub(super) fn newest_ms(&self) -> i64 {
        self.newest_ms
    }

    /// Goes on from the time of another one.
    pub(super) fn since_ms(mut self, newest_ms: i64) -> Self {
        self.newest_ms = newest_ms;
        self
    }
}

fn number(rows: &RecordBatch, column: &str, row: usize) -> Option<i64> {
    let column = rows.column_by_name(column)?.as_primitive_opt::<Int64Type>()?;
    column.is_valid(row).then(|| column.value(row))
}

/// Versions on their way into the table.
struct Making<'a> {
    made: Vec<Made>,
    /// Where in `made` what stands under a key stands.
    at: HashMap<u128, usize>,
    stored: &'a mut ViewRows,
}

impl Making<'_> {
    fn put(&mut self, made: Made) {
        self.at.insert(made.under, self.made.len());
        self.made.push(made);
    }

    /// The version of a key that is true now.
    fn current(&self, key: u128) -> Option<Current> {
        if let Some(made) = self.at.get(&key).and_then(|at| self.made.get(*at)) {
            return Some(Current { lsn: made.lsn, since: made.since });
        }
        let place = self.stored.find(key)?;
        let lsn = self.stored.number(place, origin::SOURCE_LSN).unwrap_or(NO_LSN);
        Some(Current { lsn, since: self.stored.number(place, SINCE).unwrap_or(ALWAYS.0) })
    }

    fn end(&mut self, key: u128, current: Current, until: i64) {
        let under = former(key, current.lsn);
        let stood = self.stored.find(key);
        self.stored.remove(key);
        match self.at.remove(&key).and_then(|at| Some((at, self.made.get_mut(at)?))) {
            Some((at, made)) => {
                (made.under, made.until) = (under, until);
                self.at.insert(under, at);
            }
            None => {
                if let Some(place) = stood {
                    let from = From::Stored(place);
                    self.put(Made { under, from, lsn: current.lsn, since: current.since, until });
                }
            }
        }
    }

    fn forget(&mut self, key: u128) {
        // True at no position: it is left out.
        if let Some(made) = self.at.remove(&key).and_then(|at| self.made.get_mut(at)) {
            made.until = made.since;
        }
        // What was made of a stored one would have taken its place.
        self.stored.remove(key);
    }

    /// As rows, to be put into the table.
    fn finish(self, batch: &RecordBatch) -> Result<Versions, ArrowError> {
        let made: Vec<Made> = self.made.into_iter().filter(|made| made.since < made.until).collect();
        let chunks = self.stored.chunks();
        let picks: Vec<(usize, usize)> = made
            .iter()
            .map(|made| match made.from {
                From::Stored((chunk, row)) => (chunk as usize, row as usize),
                From::Batch(row) => (chunks.len(), row),
            })
            .collect();
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(batch.num_columns() + 2);
        for (number, own) in batch.columns().iter().enumerate() {
            let sources: Vec<&dyn Array> =
                chunks.iter().map(|c| c.column(number).as_ref()).chain([own.as_ref()]).collect();
            columns.push(arrow_select::interleave::interleave(&sources, &picks)?);
        }
        columns.push(Arc::new(Int64Array::from_iter_values(made.iter().map(|made| made.since))));
        columns.push(Arc::new(Int64Array::from_iter_values(made.iter().map(|made| made.until))));
        let rows = RecordBatch::try_new(Arc::clone(self.stored.columns()), columns)?;
        Ok(Versions { rows, keys: made.iter().map(|made| made.under).collect() })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use arrow_array::TimestampMicrosecondArray;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;
    use crate::batch::ChangeBatch;
    use crate::change::{Column, ColumnType, RowSchema};

    /// What happened to which key, its value then, and the source position.
    type Happened = (Op, i64, i64, Option<i64>);

    /// A second of the source's clock for each ten positions.
    fn batch(schema: &RowSchema, changes: &[Happened]) -> ChangeBatch {
        let at = |c: &Happened| c.3.unwrap_or(0) * 100_000;
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from_iter_values(changes.iter().map(|c| c.1))),
            Arc::new(Int64Array::from_iter_values(changes.iter().map(|c| c.2))),
            Arc::new(TimestampMicrosecondArray::from_iter_values(changes.iter().map(at)).with_timezone("+00:00")),
            Arc::new(changes.iter().map(|c| c.3).collect::<Int64Array>()),
        ];
        let rows = RecordBatch::try_new(Arc::new(schema.arrow()), columns).unwrap();
        ChangeBatch::new(rows, changes.iter().map(|c| c.0).collect())
    }

    fn schema() -> RowSchema {
        let columns = vec![
            Column { key: true, ..Column::new("id", ColumnType::Long) },
            Column::new("v", ColumnType::Long),
            Column::new(origin::SOURCE_TS, ColumnType::TimestampTz),
            Column::new(origin::SOURCE_LSN, ColumnType::Long),
        ];
        RowSchema { columns }
    }

    fn table(length_ms: u64) -> (ViewRows, History) {
        let shown = schema().arrow();
        (ViewRows::new(versioned(&shown), vec![0]).unwrap(), History::new(&shown, vec![0], length_ms).unwrap())
    }

    fn put(rows: &mut ViewRows, made: Versions) {
        rows.put(&made.rows, made.keys, |_| false).unwrap();
    }

    fn take(rows: &mut ViewRows, history: &mut History, changes: &[Happened]) {
        let batch = batch(&schema(), changes);
        let made = history.versions(rows, &batch.rows, &batch.ops).unwrap();
        put(rows, made);
    }

    /// How often a key's versions are found by the key, and are there.
    fn found(rows: &ViewRows, history: &History, id: i64) -> (usize, usize) {
        let key = history.keys.hashes(&batch(&schema(), &[(Op::Read, id, 0, None)]).rows).unwrap()[0];
        let is_of = |(_, rows, row): &(u128, &RecordBatch, usize)| number(rows, "id", *row) == Some(id);
        (rows.rows_of(history.all_of(key)).unwrap().num_rows(), rows.live().filter(is_of).count())
    }

    /// What a join finds of each key at a source position.
    fn at(rows: &mut ViewRows, lsn: i64) -> BTreeMap<i64, i64> {
        let mut found = BTreeMap::new();
        for piece in rows.scan().unwrap() {
            let column = |name| piece.column_by_name(name).unwrap().as_primitive::<Int64Type>().clone();
            let (ids, values, since, until) = (column("id"), column("v"), column(SINCE), column(UNTIL));
            for row in (0..piece.num_rows()).filter(|r| since.value(*r) <= lsn && lsn < until.value(*r)) {
                assert_eq!(
                    found.insert(ids.value(row), values.value(row)),
                    None,
                    "two versions of {} at {lsn}",
                    ids.value(row)
                );
            }
        }
        found
    }

    #[test]
    fn each_position_finds_the_row_as_it_was_there() {
        let mut rng = StdRng::seed_from_u64(3);
        for length_ms in [u64::MAX, 20_000] {
            let (mut rows, mut history) = table(length_ms);
            // By key: what it became at which position.
            let mut model: BTreeMap<i64, Vec<(i64, Option<i64>)>> = BTreeMap::new();
            let (mut lsn, mut read_to) = (0, 0);
            for round in 0..300 {
                let mut changes = Vec::new();
                for _ in 0..rng.random_range(1..30) {
                    lsn += rng.random_range(1..4);
                    let (id, value) = (rng.random_range(0..25), rng.random_range(0..1_000));
                    let known = model.entry(id).or_default();
                    let op = match known.last() {
                        Some((_, Some(_))) if rng.random_bool(0.3) => Op::Delete,
                        Some((_, Some(_))) => Op::Update,
                        _ => Op::Create,
                    };
                    known.push((lsn, (op != Op::Delete).then_some(value)));
                    changes.push((op, id, value, Some(lsn)));
                }
                take(&mut rows, &mut history, &changes);
                // What ended before is forgotten with the next changes; the second before now is safe.
                let from = if length_ms == u64::MAX { 0 } else { (read_to - 150).max(0) };
                for position in (0..5).map(|_| rng.random_range(from..=lsn)) {
                    let was = |known: &[(i64, Option<i64>)]| known.iter().rev().find(|(at, _)| *at <= position)?.1;
                    let want = model.iter().filter_map(|(id, known)| Some((*id, was(known)?))).collect();
                    assert_eq!(at(&mut rows, position), want, "round {round}, position {position}");
                }
                read_to = lsn;
                let (found, there) = found(&rows, &history, rng.random_range(0..25));
                assert_eq!(found, there, "round {round}: every version is found by its key");
            }
            match length_ms {
                u64::MAX => assert!(rows.len() > 2_000, "{}", rows.len()),
                _ => assert!(rows.len() < 400 && history.ended.len() < 400, "{} rows are kept", rows.len()),
            }
        }
    }

    #[test]
    fn the_earliest_version_that_is_left_counts_for_all_before() {
        let (mut rows, mut history) = table(5_000);
        take(&mut rows, &mut history, &[(Op::Read, 1, 10, Some(100)), (Op::Update, 1, 11, Some(110))]);
        assert_eq!((at(&mut rows, 0), at(&mut rows, 105)), (BTreeMap::from([(1, 10)]), BTreeMap::from([(1, 10)])));
        take(&mut rows, &mut history, &[(Op::Update, 2, 20, Some(900))]);
        take(&mut rows, &mut history, &[(Op::Update, 2, 21, Some(901)), (Op::Create, 3, 30, Some(902))]);
        assert_eq!(at(&mut rows, 105), BTreeMap::from([(1, 11), (2, 20)]));
        assert_eq!(at(&mut rows, 902), BTreeMap::from([(1, 11), (2, 21), (3, 30)]));
        assert_eq!(rows.len(), 4);
    }

    #[test]
    fn what_has_no_position_or_comes_again_takes_the_place_of_the_last_version() {
        let (mut rows, mut history) = table(u64::MAX);
        let first = [(Op::Create, 1, 10, None), (Op::Update, 1, 11, None), (Op::Read, 2, 5, Some(7))];
        take(&mut rows, &mut history, &first);
        let again =
            [(Op::Read, 2, 5, Some(7)), (Op::Update, 1, 12, None), (Op::Create, 3, 1, None), (Op::Delete, 3, 1, None)];
        take(&mut rows, &mut history, &again);
        assert_eq!(at(&mut rows, 0), BTreeMap::from([(1, 12), (2, 5)]));
        assert_eq!(rows.len(), 2);
    }

    #[test]
    fn what_takes_the_place_of_the_earliest_version_leaves_one_only() {
        let (mut rows, mut history) = table(5_000);
        take(&mut rows, &mut history, &[(Op::Read, 1, 10, Some(100)), (Op::Update, 1, 11, Some(110))]);
        take(&mut rows, &mut history, &[(Op::Read, 2, 20, Some(900))]);
        // The first version of 1 is too old, the second one the earliest now; and nobody can say when the third one began.
        take(&mut rows, &mut history, &[(Op::Update, 1, 12, None)]);
        let found = [0, 105, 115, 901].map(|position| at(&mut rows, position));
        assert_eq!(found, std::array::from_fn(|_| BTreeMap::from([(1, 12), (2, 20)])));
        assert_eq!(rows.len(), 2);
    }

    #[test]
    fn versions_are_known_again_whatever_pieces_they_stand_in() {
        let (mut rows, mut history) = table(5_000);
        let changes = [(Op::Read, 1, 10, Some(100)), (Op::Update, 1, 11, Some(110)), (Op::Update, 1, 12, Some(120))];
        take(&mut rows, &mut history, &changes);
        let whole = rows.scan().unwrap();
        let alone: Vec<RecordBatch> =
            whole.iter().flat_map(|piece| (0..piece.num_rows()).map(|row| piece.slice(row, 1))).collect();
        let mut again = table(5_000).1.since_ms(history.newest_ms());
        again.know(&alone).unwrap();
        take(&mut rows, &mut again, &[(Op::Read, 2, 20, Some(900))]);
        take(&mut rows, &mut again, &[(Op::Read, 3, 30, Some(901))]);
        assert_eq!(
            at(&mut rows, 105),
            BTreeMap::from([(1, 12), (2, 20), (3, 30)]),
            "what is left counts for all before"
        );
    }

    #[test]
    fn versions_end_where_the_table_was_emptied() {
        let (mut rows, mut history) = table(u64::MAX);
        let first = [(Op::Read, 1, 10, Some(5)), (Op::Create, 2, 20, Some(8)), (Op::Update, 3, 30, None)];
        take(&mut rows, &mut history, &first);
        let none = batch(&schema(), &[]).rows;
        let fence = crate::table_event::Fence { lsn: 50, last_commit: None };
        let ended = history.empty(&mut rows, Emptied { partition: 0, fence: Some(fence) }, &none).unwrap();
        put(&mut rows, ended);
        take(&mut rows, &mut history, &[(Op::Create, 1, 11, Some(60))]);
        let found = [7, 49, 50, 60].map(|position| at(&mut rows, position));
        let want = [vec![(1, 10), (3, 30)], vec![(1, 10), (2, 20), (3, 30)], vec![], vec![(1, 11)]];
        assert_eq!(found, want.map(BTreeMap::from_iter));
        let ended = history.empty(&mut rows, Emptied { partition: 0, fence: None }, &none).unwrap();
        put(&mut rows, ended);
        assert_eq!(at(&mut rows, 60), BTreeMap::new(), "nobody can say up to where it was true");
        assert_eq!(at(&mut rows, 49), BTreeMap::from([(1, 10), (2, 20), (3, 30)]));
    }

    #[test]
    fn a_table_that_is_known_again_goes_on() {
        let (mut rows, mut history) = table(u64::MAX);
        let first = [(Op::Read, 1, 10, Some(5)), (Op::Update, 1, 11, Some(8)), (Op::Read, 2, 20, Some(9))];
        take(&mut rows, &mut history, &first);
        let (_, mut again) = table(u64::MAX);
        let pieces = rows.scan().unwrap();
        again.know(&pieces).unwrap();
        take(&mut rows, &mut again, &[(Op::Update, 1, 12, Some(10)), (Op::Delete, 2, 20, Some(11))]);
        let found = [4, 8, 10, 11].map(|position| at(&mut rows, position));
        let want = [vec![(1, 10), (2, 20)], vec![(1, 11), (2, 20)], vec![(1, 12), (2, 20)], vec![(1, 12)]];
        assert_eq!(found, want.map(BTreeMap::from_iter));
    }
}
