//! Changes of one table as Arrow columns: what a decoder hands to a sink.

use arrow_array::RecordBatch;

use crate::change::Op;

/// Changes of one table in the order of their offsets, one row each.
///
/// `rows` has the columns of the table's [`RowSchema`](crate::change::RowSchema), origin columns included. A
/// [`Op::Delete`] row carries the key columns (and, where known, the old values); its other columns are null.
#[derive(Clone, Debug)]
pub struct ChangeBatch {
    pub rows: RecordBatch,
    /// One for each row.
    pub ops: Vec<Op>,
    /// The rows that lack values, in their order.
    pub unavailable: Vec<Unavailable>,
    /// Former keys of rows whose key was changed, one row each: the key columns, named and typed as in `rows`.
    pub former_keys: Option<RecordBatch>,
    /// The deletes of a changed key and their tombstones, ascending: the row goes on under its new key, and may lack values there.
    pub rekeyed: Vec<u32>,
    /// The rows as they were before, where that was asked for.
    pub before: Option<BeforeImages>,
}

/// The images that stand in a record's `before`, one row for each of the batch.
#[derive(Clone, Debug)]
pub struct BeforeImages {
    /// The batch's columns, all of them nullable; origin columns are null.
    pub rows: RecordBatch,
    /// Whether the record has such an image.
    pub there: Vec<bool>,
}

/// The change that a row of a result comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowOrigin {
    pub offset: i64,
    pub op: Op,
    /// When the source committed it, in µs.
    pub source_us: Option<i64>,
    pub source_lsn: Option<i64>,
}

impl RowOrigin {
    /// Of a source that tells nothing of itself.
    pub fn new(offset: i64, op: Op) -> Self {
        Self { offset, op, source_us: None, source_lsn: None }
    }
}

/// A row with values that the source did not send because they are unchanged (PostgreSQL's TOAST). They are null in the batch, and
/// stand in the row that this one replaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unavailable {
    pub row: u32,
    /// Indices of the columns.
    pub columns: Vec<u32>,
    /// Where its key was changed: the values stand in the row of this former key (an index into [`ChangeBatch::former_keys`]).
    pub former_key: Option<u32>,
}

impl ChangeBatch {
    /// Rows that lack nothing.
    pub fn new(rows: RecordBatch, ops: Vec<Op>) -> Self {
        Self { rows, ops, unavailable: Vec::new(), former_keys: None, rekeyed: Vec::new(), before: None }
    }

    pub fn num_rows(&self) -> usize {
        self.ops.len()
    }
}
