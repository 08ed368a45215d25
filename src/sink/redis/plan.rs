//! What some rows do to each key, before it is sent: of the rows that set the same thing the last one counts, sums are added up.

use std::collections::HashMap;
use std::ops::Range;

use arrow_array::cast::AsArray;
use arrow_array::types::*;
use arrow_array::{Array, ArrayRef};
use arrow_schema::{DataType, TimeUnit};

use super::bind::{Bound, BoundIncrement, BoundKind, By};
use super::number::units;
use super::settings::OnNullKey;
use crate::sink::text;
use crate::sink::{Delivery, RefusedRow};

/// What one increment may add, or one script's worth of them: of 18 digits and a value of 18 digits Redis can take the sum.
const MOST_UNITS: i64 = 999_999_999_999_999_999;
/// What one event may add to a top list: Lua counts in doubles, and ten thousand of these are exact.
const MOST_SCORE: i64 = 900_000_000_000;

/// What the rows do, key by key.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) keys: Vec<KeyPlan>,
    pub(super) refused: Vec<RefusedRow>,
    /// Writes left out because of a NULL in the key or member.
    pub(super) skipped: u64,
    numbers: HashMap<Vec<u8>, usize>,
}

/// What is done to one key.
#[derive(Debug)]
pub(super) struct KeyPlan {
    pub(super) key: Vec<u8>,
    /// Which of the writes.
    pub(super) write: usize,
    /// The rows that it comes from.
    pub(super) rows: Vec<u32>,
    pub(super) change: Change,
}

/// How the key changes. Rows by their number.
#[derive(Debug)]
pub(super) enum Change {
    /// Each of the rows is an entry.
    Entries,
    /// The key holds what the last row says.
    Latest {
        /// The key is removed first.
        cleared: bool,
        last: Option<u32>,
        /// One for each increment of the write.
        sums: Vec<i64>,
    },
    /// Each member with the row whose score it has, `None` where it is removed.
    Members(HashMap<Vec<u8>, Option<u32>>),
    Events(Vec<Event>),
}

/// One event of a top list.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) member: Vec<u8>,
    pub(super) time_ms: i64,
    pub(super) score: i64,
}

impl Plan {
    /// What `rows` of the delivery do.
    pub(super) fn of(bound: &Bound, delivery: &Delivery, columns: &[ArrayRef], rows: Range<usize>) -> Self {
        let mut plan = Self::default();
        let mut key = Vec::new();
        for row in rows {
            for number in 0..bound.writes.len() {
                if let Err(detail) = plan.add(bound, number, columns, row, delivery.is_deleted(row), &mut key) {
                    plan.refused.push(RefusedRow { row, detail });
                    break;
                }
            }
        }
        plan
    }

    /// # Errors
    /// Why the row can't be taken.
    fn add(
        &mut self,
        bound: &Bound,
        number: usize,
        columns: &[ArrayRef],
        row: usize,
        deleted: bool,
        key: &mut Vec<u8>,
    ) -> Result<(), String> {
        let Some(write) = bound.writes.get(number) else { return Ok(()) };
        let at = |why: String| format!("{}: {why}", write.label);
        if !write.key.render(columns, row, key) {
            return self.without_key(bound.on_null_key).map_err(at);
        }
        let mut name = Vec::new();
        let piece = match &write.kind {
            // A deleted event was counted when it came.
            BoundKind::Top { .. } if deleted => return Ok(()),
            BoundKind::SortedSet { member, .. } | BoundKind::Top { member, .. }
                if !member.render(columns, row, &mut name) =>
            {
                return self.without_key(bound.on_null_key).map_err(at);
            }
            BoundKind::SortedSet { score, .. } => {
                Piece::Member { name, scored: !deleted && has_score(columns, *score, row).map_err(at)? }
            }
            BoundKind::Top { score, time, list, .. } => {
                match event(columns, *score, list.scale, *time, row).map_err(at)? {
                    Some((time_ms, score)) => Piece::Event(Event { member: name, time_ms, score }),
                    None => return Ok(()),
                }
            }
            _ => Piece::Row { deleted },
        };
        self.key(number, &write.kind, key, row)?.take(piece, &write.kind, columns, row).map_err(at)
    }

    fn without_key(&mut self, on_null_key: OnNullKey) -> Result<(), String> {
        match on_null_key {
            OnNullKey::Skip => {
                self.skipped += 1;
                Ok(())
            }
            OnNullKey::Reject => Err("a column of its key or member is NULL".to_owned()),
        }
    }

    /// The plan of a key, which the row has a part in.
    fn key(&mut self, write: usize, kind: &BoundKind, key: &[u8], row: usize) -> Result<&mut KeyPlan, String> {
        let number = match self.numbers.get(key) {
            Some(number) => *number,
            None => {
                self.numbers.insert(key.to_vec(), self.keys.len());
                self.keys.push(KeyPlan { key: key.to_vec(), write, rows: Vec::new(), change: Change::none(kind) });
                self.keys.len() - 1
            }
        };
        match self.keys.get_mut(number) {
            Some(plan) if plan.write == write => {
                plan.rows.push(row as u32);
                Ok(plan)
            }
            _ => Err(format!("two writes have the same key, `{}`", String::from_utf8_lossy(key))),
        }
    }
}

impl Change {
    fn none(kind: &BoundKind) -> Self {
        match kind {
            BoundKind::Stream { .. } => Change::Entries,
            BoundKind::SortedSet { .. } => Change::Members(HashMap::new()),
            BoundKind::Top { .. } => Change::Events(Vec::new()),
            BoundKind::Hash { increments, .. } => {
                Change::Latest { cleared: false, last: None, sums: vec![0; increments.len()] }
            }
            BoundKind::Text { .. } | BoundKind::Json { .. } => {
                Change::Latest { cleared: false, last: None, sums: Vec::new() }
            }
        }
    }
}

/// What one row does to one key.
enum Piece {
    Row { deleted: bool },
    Member { name: Vec<u8>, scored: bool },
    Event(Event),
}

impl KeyPlan {
    fn take(&mut self, piece: Piece, kind: &BoundKind, columns: &[ArrayRef], row: usize) -> Result<(), String> {
        match (&mut self.change, piece) {
            (Change::Events(events), Piece::Event(event)) => events.push(event),
            (Change::Members(members), Piece::Member { name, scored }) => {
                members.insert(name, scored.then_some(row as u32));
            }
            (Change::Latest { cleared, last, sums }, Piece::Row { deleted: true }) => {
                (*cleared, *last) = (true, None);
                sums.fill(0);
            }
            (Change::Latest { last, sums, .. }, _) => {
                if let BoundKind::Hash { increments, .. } = kind {
                    for (increment, sum) in increments.iter().zip(sums) {
                        *sum = raise(*sum, increment, columns, row)?;
                    }
                }
                *last = Some(row as u32);
            }
            (Change::Entries, _) => {
                let there = |column: usize| columns.get(column).is_some_and(|a| !text::is_null(a, row));
                if matches!(kind, BoundKind::Stream { fields, .. } if !fields.iter().any(|f| there(f.column))) {
                    return Err("all its fields are NULL, and an entry needs one".to_owned());
                }
            }
            _ => {}
        }
        Ok(())
    }
}

fn raise(sum: i64, increment: &BoundIncrement, columns: &[ArrayRef], row: usize) -> Result<i64, String> {
    let amount = match &increment.by {
        By::Fixed(amount) => *amount,
        By::Column { column, scale } => match columns.get(*column).filter(|a| !text::is_null(a, row)) {
            Some(array) => units(array, row, *scale, MOST_UNITS)
                .map_err(|why| format!("what increments `{}` {why}", increment.field))?,
            None => 0,
        },
    };
    let sum = sum.checked_add(amount).filter(|sum| sum.unsigned_abs() <= MOST_UNITS.unsigned_abs());
    sum.ok_or_else(|| format!("the increments of `{}` together are beyond {MOST_UNITS}", increment.field))
}

/// Whether the row has a score. Redis refuses one that is not a number.
fn has_score(columns: &[ArrayRef], score: usize, row: usize) -> Result<bool, String> {
    let Some(array) = columns.get(score).filter(|a| !text::is_null(a, row)) else { return Ok(false) };
    let nan = match array.data_type() {
        DataType::Float32 => array.as_primitive::<Float32Type>().value(row).is_nan(),
        DataType::Float64 => array.as_primitive::<Float64Type>().value(row).is_nan(),
        _ => false,
    };
    if nan { Err("its score is not a number".to_owned()) } else { Ok(true) }
}

/// Time in ms and score in small units, `None` where either is NULL.
fn event(columns: &[ArrayRef], score: usize, scale: u8, time: usize, row: usize) -> Result<Option<(i64, i64)>, String> {
    let value = |column: usize| columns.get(column).filter(|a| !text::is_null(a, row));
    let (Some(scores), Some(times)) = (value(score), value(time)) else { return Ok(None) };
    let score = units(scores, row, scale, MOST_SCORE).map_err(|why| format!("its score {why}"))?;
    Ok(Some((millis(times, row), score)))
}

fn millis(array: &dyn Array, row: usize) -> i64 {
    match array.data_type() {
        DataType::Timestamp(TimeUnit::Second, _) => {
            array.as_primitive::<TimestampSecondType>().value(row).saturating_mul(1000)
        }
        DataType::Timestamp(TimeUnit::Millisecond, _) => array.as_primitive::<TimestampMillisecondType>().value(row),
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            array.as_primitive::<TimestampMicrosecondType>().value(row).div_euclid(1000)
        }
        _ => array.as_primitive::<TimestampNanosecondType>().value(row).div_euclid(1_000_000),
    }
}
