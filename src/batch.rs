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
}

impl ChangeBatch {
    pub fn num_rows(&self) -> usize {
        self.ops.len()
    }
}
