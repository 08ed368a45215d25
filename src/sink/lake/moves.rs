//! Where the rows of a rewritten file went. Pure.

use roaring::RoaringBitmap;

/// The way of one old file's rows into new files.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct FileMoves {
    /// Rows that were not written.
    pub(crate) left_out: RoaringBitmap,
    /// Where the others stand, in the order of their ranks: rows of one piece follow each other in both files.
    pub(crate) pieces: Vec<Piece>,
}

/// Rows that stand together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Of the first one, among the old file's rows that were written.
    pub(crate) rank: u32,
    /// The new file, by its number in the group.
    pub(crate) file: u32,
    pub(crate) position: u32,
}

impl FileMoves {
    /// The new file and the position there of the row at `position`; `None` where it was not written.
    pub(crate) fn place(&self, position: u32) -> Option<(u32, u32)> {
        if self.left_out.contains(position) {
            return None;
        }
        // Counts the rows up to it, and it is none of them.
        let rank = position.checked_sub(u32::try_from(self.left_out.rank(position)).ok()?)?;
        let at = self.pieces.partition_point(|piece| piece.rank <= rank).checked_sub(1)?;
        let piece = self.pieces.get(at)?;
        Some((piece.file, piece.position.checked_add(rank - piece.rank)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_found_by_its_rank_among_those_that_were_written() {
        // Rows 1 and 2 of six are gone; the others fill the first new file up and begin the second.
        let pieces = vec![Piece { rank: 0, file: 0, position: 7 }, Piece { rank: 2, file: 1, position: 0 }];
        let moves = FileMoves { left_out: [1, 2].into_iter().collect(), pieces };
        let places: Vec<_> = (0..6).map(|position| moves.place(position)).collect();
        assert_eq!(places, [Some((0, 7)), None, None, Some((0, 8)), Some((1, 0)), Some((1, 1))]);
    }
}
