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

use super::emptied::Emptied;
use super::rows::{Keys, Place, ViewRows};
use crate::batch::ChangeBatch;
use crate::change::{Op, RowSchema, origin};

/// The source position from which a version is true.
pub(super) const SINCE: &str = "_firn_since";
/// The source position from which it is true no more.
pub(super) const UNTIL: &str = "_firn_until";
/// [`SINCE`] of the earliest version, [`UNTIL`] of the current one.
const ALWAYS: (i64, i64) = (i64::MIN, i64::MAX);

/// Makes versions of changes.
pub(super) struct History {
    length_ms: i64,
    /// Of the view's rows.
    keys: Keys,
    lsn: usize,
    ts: usize,
    /// By the row's key.
    rows: HashMap<u128, Versions>,
    /// Versions that are true no more, as they ended.
    ended: VecDeque<Ended>,
    newest_ms: i64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Versions {
    current: Option<Current>,
    /// How many ended ones there are.
    ended: u32,
}

#[derive(Clone, Copy, Debug)]
struct Current {
    version: u128,
    lsn: i64,
    since: i64,
}

#[derive(Debug)]
struct Ended {
    ended_ms: i64,
    key: u128,
    version: u128,
    /// The version that followed at once.
    next: Option<u128>,
}

/// A version to be written.
struct Made {
    from: From,
    since: i64,
    until: i64,
}

/// Where a version's columns stand.
#[derive(Clone, Copy)]
enum From {
    Stored(Place),
    Batch(usize),
}

/// The view's columns with those that say when a version was true, and the columns that tell versions apart.
pub(super) fn versioned(columns: &RowSchema, shown: &Schema) -> (SchemaRef, Vec<usize>) {
    let own = [SINCE, UNTIL].map(|name| Arc::new(Field::new(name, DataType::Int64, true)));
    let fields: Vec<_> = shown.fields().iter().cloned().chain(own).collect();
    let keys = columns.key_indices().into_iter().chain(shown.index_of(origin::SOURCE_LSN).ok()).collect();
    (Arc::new(Schema::new(fields)), keys)
}

impl History {
    /// # Errors
    /// When a key column has a type that can't be compared, or the rows have no origin.
    pub(super) fn new(columns: &RowSchema, shown: &Schema, length_ms: u64) -> Result<Self, ArrowError> {
        Ok(Self {
            length_ms: i64::try_from(length_ms).unwrap_or(i64::MAX),
            keys: Keys::new(shown, columns.key_indices())?,
            lsn: shown.index_of(origin::SOURCE_LSN)?,
            ts: shown.index_of(origin::SOURCE_TS)?,
            rows: HashMap::new(),
            ended: VecDeque::new(),
            newest_ms: i64::MIN,
        })
    }

    /// Bytes of memory, about.
    pub(super) fn bytes(&self) -> usize {
        self.rows.capacity() * (size_of::<(u128, Versions)>() + 1) + self.ended.capacity() * size_of::<Ended>()
    }

    /// The versions that these changes begin and end; `stored` has those of before, and loses the ones that are too old.
    ///
    /// # Errors
    /// Never, as long as batches keep to their schema.
    pub(super) fn versions(&mut self, stored: &mut ViewRows, batch: &ChangeBatch) -> Result<ChangeBatch, ArrowError> {
        let earliest = self.expire(stored);
        let mut made = Making { made: Vec::new(), at: HashMap::new(), stored };
        earliest.into_iter().for_each(|(version, earliest)| made.put(version, earliest));
        let keys = self.keys.hashes(&batch.rows)?;
        let versions = made.stored.hashes(&batch.rows)?;
        let lsns = batch.rows.column(self.lsn).as_primitive::<Int64Type>();
        let times = batch.rows.column(self.ts).as_primitive::<TimestampMicrosecondType>();
        for (row, (key, version)) in keys.into_iter().zip(versions).enumerate() {
            let lsn = lsns.is_valid(row).then(|| lsns.value(row));
            if times.is_valid(row) {
                self.newest_ms = self.newest_ms.max(times.value(row) / 1000);
            }
            let op = batch.ops.get(row).copied().unwrap_or(Op::Read);
            let deleted = op == Op::Delete;
            let known = self.rows.entry(key).or_default();
            let since = match (known.current.take(), lsn) {
                (Some(current), Some(lsn)) if lsn > current.lsn => {
                    made.end(current, lsn);
                    known.ended += 1;
                    let next = (!deleted).then_some(version);
                    let ended_ms = self.newest_ms;
                    self.ended.push_back(Ended { ended_ms, key, version: current.version, next });
                    lsn
                }
                // The same once more, or nobody can say which is later: the last one counts.
                (Some(current), _) => {
                    made.forget(current.version);
                    current.since
                }
                (None, Some(lsn)) if known.ended > 0 || op == Op::Create => lsn,
                (None, _) => ALWAYS.0,
            };
            if !deleted {
                known.current = Some(Current { version, lsn: lsn.unwrap_or(i64::MIN), since });
                made.put(version, Made { from: From::Batch(row), since, until: ALWAYS.1 });
            } else if known.ended == 0 {
                self.rows.remove(&key);
            }
        }
        made.finish(&batch.rows)
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
    ) -> Result<ChangeBatch, ArrowError> {
        let mut made = Making { made: Vec::new(), at: HashMap::new(), stored };
        for (key, known) in &mut self.rows {
            let is_taken = |current: &Current| {
                let place = made.stored.find(current.version);
                place.is_some_and(|place| made.stored.row(place).is_some_and(|(rows, row)| emptied.takes(rows, row)))
            };
            let Some(current) = known.current.filter(is_taken) else { continue };
            known.current = None;
            match emptied.fence.map(|fence| fence.lsn).filter(|lsn| current.since < *lsn) {
                Some(lsn) => {
                    made.end(current, lsn);
                    known.ended += 1;
                    let (ended_ms, version) = (self.newest_ms, current.version);
                    self.ended.push_back(Ended { ended_ms, key: *key, version, next: None });
                }
                // Nobody can say up to where it was true.
                None => made.forget(current.version),
            }
        }
        self.rows.retain(|_, known| known.current.is_some() || known.ended > 0);
        made.finish(none)
    }

    /// Drops versions that ended too long ago. What followed them is the earliest, then.
    fn expire(&mut self, stored: &mut ViewRows) -> Vec<(u128, Made)> {
        let mut earliest = HashMap::new();
        let oldest_ms = self.newest_ms.saturating_sub(self.length_ms);
        while self.ended.front().is_some_and(|ended| ended.ended_ms < oldest_ms)
            && let Some(old) = self.ended.pop_front()
        {
            earliest.remove(&old.version);
            stored.remove(old.version);
            if let Some((next, place)) = old.next.and_then(|next| Some((next, stored.find(next)?))) {
                earliest.insert(next, place);
            }
            if let Some(known) = self.rows.get_mut(&old.key) {
                known.ended -= 1;
                match &mut known.current {
                    Some(current) if Some(current.version) == old.next => current.since = ALWAYS.0,
                    None if known.ended == 0 => drop(self.rows.remove(&old.key)),
                    _ => {}
                }
            }
        }
        let until = |place: Place| stored.number(place, UNTIL).unwrap_or(ALWAYS.1);
        let made = |place| Made { from: From::Stored(place), since: ALWAYS.0, until: until(place) };
        earliest.into_iter().map(|(version, place)| (version, made(place))).collect()
    }

    /// Knows the versions of a table that these are all rows of, in any number of pieces.
    ///
    /// # Errors
    /// Never, as long as the rows keep to their schema.
    pub(super) fn know(&mut self, stored: &ViewRows, pieces: &[RecordBatch]) -> Result<(), ArrowError> {
        let mut begun: HashMap<(u128, i64), u128> = HashMap::new();
        let mut ended = Vec::new();
        for rows in pieces {
            let number = |column: &str, row: usize| {
                let column = rows.column_by_name(column)?.as_primitive_opt::<Int64Type>()?;
                column.is_valid(row).then(|| column.value(row))
            };
            let versions = stored.hashes(rows)?;
            for (row, (key, version)) in self.keys.hashes(rows)?.into_iter().zip(versions).enumerate() {
                let (since, until) = (number(SINCE, row).unwrap_or(ALWAYS.0), number(UNTIL, row).unwrap_or(ALWAYS.1));
                begun.insert((key, since), version);
                let known = self.rows.entry(key).or_default();
                if until == ALWAYS.1 {
                    let lsn = number(origin::SOURCE_LSN, row).unwrap_or(i64::MIN);
                    known.current = Some(Current { version, lsn, since });
                } else {
                    known.ended += 1;
                    ended.push((until, Ended { ended_ms: self.newest_ms, key, version, next: None }));
                }
            }
        }
        // What follows a version may stand in another piece.
        for (until, ended) in &mut ended {
            ended.next = begun.get(&(ended.key, *until)).copied();
        }
        ended.sort_by_key(|(until, _)| *until);
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

/// Versions on their way into the table.
struct Making<'a> {
    made: Vec<Made>,
    /// Where in `made` a version stands.
    at: HashMap<u128, usize>,
    stored: &'a mut ViewRows,
}

impl Making<'_> {
    fn put(&mut self, version: u128, made: Made) {
        self.at.insert(version, self.made.len());
        self.made.push(made);
    }

    fn end(&mut self, current: Current, until: i64) {
        match self.at.get(&current.version).and_then(|at| self.made.get_mut(*at)) {
            Some(made) => made.until = until,
            None => {
                if let Some(place) = self.stored.find(current.version) {
                    let made = Made { from: From::Stored(place), since: current.since, until };
                    self.put(current.version, made);
                }
            }
        }
    }

    fn forget(&mut self, version: u128) {
        // True at no position: it is left out.
        if let Some(made) = self.at.remove(&version).and_then(|at| self.made.get_mut(at)) {
            made.until = made.since;
        }
        // What was made of a stored one would have taken its place.
        self.stored.remove(version);
    }

    /// As rows, to be put into the table.
    fn finish(self, batch: &RecordBatch) -> Result<ChangeBatch, ArrowError> {
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
        Ok(ChangeBatch::new(rows, vec![Op::Read; made.len()]))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use arrow_array::TimestampMicrosecondArray;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;
    use crate::change::{Column, ColumnType};

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
        let (schema, shown) = (schema(), schema().arrow());
        let (all, keys) = versioned(&schema, &shown);
        (ViewRows::new(all, keys).unwrap(), History::new(&schema, &shown, length_ms).unwrap())
    }

    fn take(rows: &mut ViewRows, history: &mut History, changes: &[Happened]) {
        let made = history.versions(rows, &batch(&schema(), changes)).unwrap();
        rows.apply(&made).unwrap();
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
        again.know(&rows, &alone).unwrap();
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
        rows.apply(&ended).unwrap();
        take(&mut rows, &mut history, &[(Op::Create, 1, 11, Some(60))]);
        let found = [7, 49, 50, 60].map(|position| at(&mut rows, position));
        let want = [vec![(1, 10), (3, 30)], vec![(1, 10), (2, 20), (3, 30)], vec![], vec![(1, 11)]];
        assert_eq!(found, want.map(BTreeMap::from_iter));
        let ended = history.empty(&mut rows, Emptied { partition: 0, fence: None }, &none).unwrap();
        rows.apply(&ended).unwrap();
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
        again.know(&rows, &pieces).unwrap();
        take(&mut rows, &mut again, &[(Op::Update, 1, 12, Some(10)), (Op::Delete, 2, 20, Some(11))]);
        let found = [4, 8, 10, 11].map(|position| at(&mut rows, position));
        let want = [vec![(1, 10), (2, 20)], vec![(1, 11), (2, 20)], vec![(1, 12), (2, 20)], vec![(1, 12)]];
        assert_eq!(found, want.map(BTreeMap::from_iter));
    }
}
