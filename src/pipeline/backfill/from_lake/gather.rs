//! Rows until there are enough of them for a transaction. Pure.

use arrow_select::concat::concat_batches;

use super::read::Piece;
use crate::pipeline::backfill::BackfillError;

/// Rows of one transaction. More: sinks wait longer for its end. Fewer: more transactions.
const ROWS_AT_ONCE: usize = 1_000;
/// Transactions that went through after which more rows are tried again.
const CALM: usize = 32;
/// The same in bytes, about.
const BYTES_AT_ONCE: usize = 8 << 20;

/// How many rows a transaction may have.
#[derive(Debug)]
pub(super) struct Size {
    rows: usize,
    most: usize,
    went: usize,
}

impl Size {
    pub(super) fn new() -> Self {
        Self { rows: ROWS_AT_ONCE, most: ROWS_AT_ONCE, went: 0 }
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// So many never get through.
    pub(super) fn is_too_large(&mut self) {
        self.halve();
        self.most = self.rows;
    }

    /// So many did not get through. Answers whether it is fewer now.
    pub(super) fn halve(&mut self) -> bool {
        let had = self.rows;
        (self.rows, self.went) = ((self.rows / 2).max(1), 0);
        self.rows < had
    }

    /// So many got through.
    pub(super) fn note_sent(&mut self) {
        self.went += 1;
        if self.went >= CALM {
            (self.rows, self.went) = ((self.rows * 2).min(self.most), 0);
        }
    }
}

/// Rows that wait until there are enough of them.
#[derive(Default)]
pub(super) struct Pending {
    pub pieces: Vec<Piece>,
}

impl Pending {
    /// The rows of a transaction, at `most` so many; `None` where there are too few yet.
    pub(super) fn take(&mut self, most: usize, is_end: bool) -> Result<Option<Piece>, BackfillError> {
        let rows: usize = self.pieces.iter().map(|piece| piece.rows.num_rows()).sum();
        let bytes: usize = self.pieces.iter().map(|piece| piece.rows.get_array_memory_size()).sum();
        let most = (BYTES_AT_ONCE / (bytes / rows.max(1)).max(1)).clamp(1, most);
        if rows == 0 || rows < most && !is_end {
            return Ok(None);
        }
        let (mut taken, mut next, mut left) = (Vec::new(), Vec::new(), most);
        while let Some(piece) = self.pieces.first_mut().filter(|_| left > 0) {
            let count = piece.rows.num_rows().min(left);
            left -= count;
            taken.push(piece.rows.slice(0, count));
            next.extend(piece.next.drain(..count));
            match count == piece.rows.num_rows() {
                true => _ = self.pieces.remove(0),
                false => piece.rows = piece.rows.slice(count, piece.rows.num_rows() - count),
            }
        }
        let Some(first) = taken.first() else { return Ok(None) };
        let rows = concat_batches(&first.schema(), &taken).map_err(|e| BackfillError::Lake(e.into()))?;
        Ok(Some(Piece { rows, next }))
    }

    /// They did not get through: they come next again.
    pub(super) fn put_back(&mut self, piece: Piece) {
        self.pieces.insert(0, piece);
    }
}

#[cfg(test)]
mod tests {
    use super::super::stored::Place;
    use super::*;
    use arrow_array::{Int32Array, RecordBatch};
    use arrow_schema::{DataType, Field, Schema};
    use std::sync::Arc;

    fn piece(file: &str, from: u32, rows: u32) -> Piece {
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int32, false)]));
        let values: Int32Array = (from..from + rows).map(|n| n as i32).collect();
        let next = (from..from + rows).map(|row| Place { file: file.to_owned(), row: row + 1 }).collect();
        Piece { rows: RecordBatch::try_new(schema, vec![Arc::new(values)]).unwrap(), next }
    }

    #[test]
    fn rows_get_fewer_where_they_do_not_get_through_and_more_again_later() {
        let mut size = Size::new();
        assert!(size.halve() && size.halve());
        let mut sent = |times: usize| {
            (0..times).for_each(|_| size.note_sent());
            size.rows()
        };
        assert_eq!((sent(CALM - 1), sent(1), sent(CALM), sent(CALM)), (250, 500, 1_000, 1_000));
        size.is_too_large();
        (0..CALM).for_each(|_| size.note_sent());
        assert_eq!(size.rows(), 500, "never again");
        assert_eq!((0..20).filter(|_| size.halve()).count(), 8);
        assert_eq!(size.rows(), 1);
    }

    #[test]
    fn few_rows_wait_for_more_and_each_batch_knows_where_it_ends() {
        let mut pending = Pending { pieces: vec![piece("a", 0, 600)] };
        assert!(pending.take(1_000, false).unwrap().is_none());
        pending.pieces.push(piece("b", 5, 1_500));
        let mut taken = Vec::new();
        let ends = |piece: &Piece| (piece.rows.num_rows(), piece.end().file, piece.end().row);
        while let Some(piece) = pending.take(1_000, false).unwrap() {
            taken.push(ends(&piece));
        }
        assert_eq!(taken, [(1_000, "b".to_owned(), 405), (1_000, "b".to_owned(), 1_405)]);
        let last = pending.take(1_000, true).unwrap().unwrap();
        assert_eq!(ends(&last), (100, "b".to_owned(), 1_505));
        assert!(pending.take(1_000, true).unwrap().is_none());
        pending.put_back(last);
        let fewer: Vec<_> = (0..2).map(|_| ends(&pending.take(60, true).unwrap().unwrap())).collect();
        assert_eq!(fewer, [(60, "b".to_owned(), 1_465), (40, "b".to_owned(), 1_505)]);
    }
}
