//! Rows that leave a view by their age, so that its memory is bounded.

use std::collections::VecDeque;

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array, RecordBatch};
use arrow_schema::ArrowError;

use super::rows::ViewRows;
use crate::change::origin;

/// Of one view.
pub(super) struct Keep {
    length_us: i64,
    /// The time of each row's change, and its key, as they came.
    changes: VecDeque<(i64, u128)>,
    newest_us: i64,
}

impl Keep {
    pub(super) fn new(length_ms: u64) -> Self {
        let length_us = i64::try_from(length_ms).unwrap_or(i64::MAX).saturating_mul(1000);
        Self { length_us, changes: VecDeque::new(), newest_us: i64::MIN }
    }

    /// Bytes of memory, about.
    pub(super) fn bytes(&self) -> usize {
        self.changes.capacity() * size_of::<(i64, u128)>()
    }

    /// Notes rows that came into the table, and takes those out whose last change in the source is older than the newest of all by
    /// more than they are kept. A row without such a time stays.
    ///
    /// # Errors
    /// Never, as long as the rows keep to their schema.
    pub(super) fn drop_old(&mut self, stored: &mut ViewRows, rows: &RecordBatch) -> Result<(), ArrowError> {
        let times =
            rows.column_by_name(origin::SOURCE_TS).and_then(|c| c.as_primitive_opt::<TimestampMicrosecondType>());
        let Some(times) = times else { return Ok(()) };
        for (row, key) in stored.hashes(rows)?.into_iter().enumerate().filter(|(row, _)| times.is_valid(*row)) {
            self.newest_us = self.newest_us.max(times.value(row));
            self.changes.push_back((times.value(row), key));
        }
        let oldest = self.newest_us.saturating_sub(self.length_us);
        while self.changes.front().is_some_and(|(at, _)| *at < oldest)
            && let Some((at, key)) = self.changes.pop_front()
        {
            // Unless it has changed since.
            if stored.find(key).and_then(|place| stored.number(place, origin::SOURCE_TS)) == Some(at) {
                stored.remove(key);
            }
        }
        Ok(())
    }
}
