//! Which rows a TRUNCATE of the source table takes out of a view.
//!
//! It is told to one partition. What that one brought before is gone, what it brings later is not. For the others the source's log tells.

use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type};
use arrow_array::{Array, BooleanArray, RecordBatch};
use arrow_schema::ArrowError;
use arrow_select::filter::filter_record_batch;

use crate::batch::ChangeBatch;
use crate::change::{Op, origin};
use crate::table_event::Fence;

/// A TRUNCATE, and the partition that it was told to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Emptied {
    pub partition: i32,
    /// `None` where the source's messages tell no LSN.
    pub fence: Option<Fence>,
}

impl Emptied {
    /// Whether a row that was there when it came is from before.
    pub(super) fn takes(self, rows: &RecordBatch, row: usize) -> bool {
        self.is_told_to(rows, row) || self.fence.is_none_or(|fence| is_before(fence, rows, row).unwrap_or(true))
    }

    /// Leaves out the rows that come later, from other partitions, and are from before.
    ///
    /// # Errors
    /// Never, as long as the batch keeps to its schema.
    pub(super) fn left(self, batch: &ChangeBatch) -> Result<ChangeBatch, ArrowError> {
        let Some(fence) = self.fence else { return Ok(batch.clone()) };
        let rows = &batch.rows;
        let stays = |row| self.is_told_to(rows, row) || !is_before(fence, rows, row).unwrap_or(false);
        let stays: Vec<bool> = (0..rows.num_rows()).map(stays).collect();
        let ops = batch.ops.iter().zip(&stays).filter(|(_, stays)| **stays).map(|(op, _)| *op).collect();
        Ok(ChangeBatch::new(filter_record_batch(rows, &BooleanArray::from(stays))?, ops))
    }

    fn is_told_to(self, rows: &RecordBatch, row: usize) -> bool {
        let partitions = rows.column_by_name(origin::PARTITION).and_then(|c| c.as_primitive_opt::<Int32Type>());
        partitions.is_some_and(|partitions| partitions.value(row) == self.partition)
    }
}

/// `None` where nobody can say.
fn is_before(fence: Fence, rows: &RecordBatch, row: usize) -> Option<bool> {
    let lsns = rows.column_by_name(origin::SOURCE_LSN)?.as_primitive_opt::<Int64Type>()?;
    let ops = rows.column_by_name(origin::OP).and_then(|c| c.as_string_opt::<i32>());
    let is_read = ops.is_some_and(|ops| ops.is_valid(row) && ops.value(row) == Op::Read.letter());
    lsns.is_valid(row).then(|| fence.is_after(lsns.value(row), is_read))
}
