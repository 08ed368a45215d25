//! Where the rows of a group went, however they were mixed: in memory as long as that is little, else on disk.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, Write};
use std::sync::Arc;

use roaring::RoaringBitmap;

use crate::sink::lake::LakeError;
use crate::sink::lake::moves::{FileMoves, Piece};

/// Rows that follow each other in an old and in a new file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    old_file: u32,
    piece: Piece,
    rows: u32,
}

/// Of one run on disk: its numbers, four bytes each.
const RUN_BYTES: usize = 20;

impl Run {
    fn to_bytes(self) -> [u8; RUN_BYTES] {
        let Self { old_file, piece: Piece { rank, file, position }, rows } = self;
        let mut bytes = [0; RUN_BYTES];
        for (to, n) in bytes.chunks_exact_mut(4).zip([old_file, rank, file, position, rows]) {
            to.copy_from_slice(&n.to_le_bytes());
        }
        bytes
    }

    fn of_bytes(bytes: [u8; RUN_BYTES]) -> Self {
        let mut numbers = [0; RUN_BYTES / 4];
        for (n, from) in numbers.iter_mut().zip(bytes.chunks_exact(4)) {
            *n = u32::from_le_bytes(from.try_into().unwrap_or_default());
        }
        let [old_file, rank, file, position, rows] = numbers;
        Self { old_file, piece: Piece { rank, file, position }, rows }
    }
}

/// Collects where rows go.
#[derive(Debug)]
pub(super) struct WaysWriter {
    /// As they come.
    runs: Vec<Run>,
    /// By old file, the run that was added last, if its rows may go on.
    last: Vec<Option<usize>>,
    most_runs: usize,
    disk: Option<BufWriter<File>>,
}

impl WaysWriter {
    /// For so many files, with so many bytes of memory.
    pub(super) fn new(old_files: usize, most_bytes: usize) -> Self {
        let most_runs = (most_bytes / size_of::<Run>()).max(1);
        Self { runs: vec![], last: vec![None; old_files], most_runs, disk: None }
    }

    /// So many rows of an old file went there, the first of that rank.
    ///
    /// # Errors
    /// When there is no room in the system's folder for temporary files.
    pub(super) fn add(&mut self, old_file: usize, piece: Piece, rows: u32) -> Result<(), LakeError> {
        let Some(last) = self.last.get_mut(old_file) else { return Ok(()) };
        // Those that follow the last ones of their old file in both files belong to their run.
        if let Some(run) = last.and_then(|at| self.runs.get_mut(at)) {
            let Piece { rank, file, position } = run.piece;
            if piece == (Piece { rank: rank + run.rows, file, position: position + run.rows }) {
                run.rows += rows;
                return Ok(());
            }
        }
        if self.runs.len() >= self.most_runs {
            self.spill()?;
        }
        if let Some(last) = self.last.get_mut(old_file) {
            *last = Some(self.runs.len());
        }
        self.runs.push(Run { old_file: old_file as u32, piece, rows });
        Ok(())
    }

    fn spill(&mut self) -> Result<(), LakeError> {
        let disk = match &mut self.disk {
            Some(disk) => disk,
            None => self.disk.insert(BufWriter::new(tempfile::tempfile().map_err(no_room)?)),
        };
        for run in self.runs.drain(..) {
            disk.write_all(&run.to_bytes()).map_err(no_room)?;
        }
        self.last.fill(None);
        Ok(())
    }

    /// `left_out` has for each old file the rows that were not written.
    ///
    /// # Errors
    /// As [`Self::add`].
    pub(super) fn finish(mut self, left_out: Vec<RoaringBitmap>) -> Result<Ways, LakeError> {
        let no_pieces = |left_out| FileMoves { left_out, pieces: vec![] };
        let mut files: Vec<FileMoves> = left_out.into_iter().map(no_pieces).collect();
        if self.disk.is_some() {
            self.spill()?;
        }
        let on_disk = match self.disk {
            Some(disk) => Some(Arc::new(disk.into_inner().map_err(|e| no_room(e.into_error()))?)),
            None => None,
        };
        for run in self.runs {
            if let Some(file) = files.get_mut(run.old_file as usize) {
                file.pieces.push(run.piece);
            }
        }
        for file in &mut files {
            // Rows that were sorted come in another order.
            file.pieces.sort_unstable_by_key(|piece| piece.rank);
            file.pieces.shrink_to_fit();
        }
        Ok(Ways { files, on_disk })
    }
}

fn no_room(e: std::io::Error) -> LakeError {
    let folder = std::env::temp_dir();
    LakeError::Storage(format!("keeping where rows went in {} (TMPDIR says where): {e}", folder.display()))
}

/// Where each row went.
#[derive(Debug)]
pub(super) struct Ways {
    /// By old file; without pieces where these are on disk.
    files: Vec<FileMoves>,
    on_disk: Option<Arc<File>>,
}

impl Ways {
    /// Rows of the old files that were not written.
    pub(super) fn left_out_rows(&self) -> u64 {
        self.files.iter().map(|file| file.left_out.len()).sum()
    }

    /// By old file; `None` where they are too many to be told.
    pub(super) fn in_memory(&self) -> Option<&[FileMoves]> {
        self.on_disk.is_none().then_some(self.files.as_slice())
    }

    /// The new files and positions there of rows at these positions of old files, but for those that were not written.
    ///
    /// # Errors
    /// When the disk fails.
    pub(super) async fn places(&self, wanted: Vec<(usize, RoaringBitmap)>) -> Result<Vec<(u32, u32)>, LakeError> {
        let Some(disk) = &self.on_disk else {
            let of = |(old_file, positions): &(usize, RoaringBitmap)| {
                let moves = self.files.get(*old_file)?;
                Some(positions.iter().filter_map(|position| moves.place(position)).collect::<Vec<_>>())
            };
            return Ok(wanted.iter().filter_map(of).flatten().collect());
        };
        if wanted.iter().all(|(_, positions)| positions.is_empty()) {
            return Ok(vec![]);
        }
        let mut ranks: Vec<RoaringBitmap> = vec![RoaringBitmap::new(); self.files.len()];
        for (old_file, positions) in wanted {
            if let (Some(ranks), Some(moves)) = (ranks.get_mut(old_file), self.files.get(old_file)) {
                let written = (&positions - &moves.left_out).into_iter();
                // As many rows before it were written as were not left out.
                ranks.extend(written.map(|position| position - moves.left_out.rank(position) as u32));
            }
        }
        let disk = Arc::clone(disk);
        let search = tokio::task::spawn_blocking(move || on_disk(&disk, &ranks));
        let found = firn_catalog::surroundings::joined(search).await;
        found.map_err(|e| LakeError::Storage(e.to_string()))?.map_err(no_room)
    }
}

/// Goes through all runs: whatever is asked, it costs the same.
fn on_disk(disk: &File, ranks: &[RoaringBitmap]) -> std::io::Result<Vec<(u32, u32)>> {
    let mut file = disk.try_clone()?;
    file.rewind()?;
    let mut left = file.metadata()?.len() / RUN_BYTES as u64;
    let mut file = BufReader::with_capacity(1 << 20, file);
    let mut found = vec![];
    let mut bytes = [0; RUN_BYTES];
    while left > 0 {
        file.read_exact(&mut bytes)?;
        left -= 1;
        let Run { old_file, piece, rows } = Run::of_bytes(bytes);
        let Some(ranks) = ranks.get(old_file as usize) else { continue };
        let first = piece.rank;
        let wanted = ranks.range(first..first.saturating_add(rows));
        found.extend(wanted.map(|rank| (piece.file, piece.position + (rank - first))));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    /// Two old files, of which rows were left out, mixed into two new ones: with all of it in memory, and with next to nothing.
    #[rstest]
    #[case::in_memory(usize::MAX)]
    #[case::on_disk(2 * size_of::<Run>())]
    #[tokio::test]
    async fn every_row_is_found_where_it_went(#[case] most_bytes: usize) {
        let left_out: Vec<RoaringBitmap> = vec![[1, 2].into_iter().collect(), [0].into_iter().collect()];
        let mut ways = WaysWriter::new(2, most_bytes);
        // Old file, position, rank, and where it went.
        let mut expected = vec![];
        let mut position_in_new = [0, 0];
        let mut ranks = [0, 0];
        for position in 0..50u32 {
            for old_file in [1usize, 0] {
                if left_out[old_file].contains(position) {
                    continue;
                }
                let file = (position / 3 + old_file as u32) % 2;
                let to = position_in_new[file as usize];
                position_in_new[file as usize] += 1;
                ways.add(old_file, Piece { rank: ranks[old_file], file, position: to }, 1).unwrap();
                ranks[old_file] += 1;
                expected.push((old_file, position, (file, to)));
            }
        }
        let ways = ways.finish(left_out).unwrap();
        assert_eq!(ways.in_memory().is_some(), most_bytes == usize::MAX);
        assert_eq!(ways.left_out_rows(), 3);
        for (old_file, position, place) in &expected {
            let one = vec![(*old_file, [*position].into_iter().collect())];
            assert_eq!(ways.places(one).await.unwrap(), [*place]);
        }
        let mut all = ways.places(vec![(0, (0..50).collect()), (1, (0..50).collect())]).await.unwrap();
        let mut places: Vec<_> = expected.iter().map(|(_, _, place)| *place).collect();
        all.sort_unstable();
        places.sort_unstable();
        assert_eq!(all, places);
        assert_eq!(ways.places(vec![(0, [1].into_iter().collect())]).await.unwrap(), [], "it was left out");
    }

    #[test]
    fn rows_that_follow_each_other_are_one_run() {
        let mut ways = WaysWriter::new(1, usize::MAX);
        ways.add(0, Piece { rank: 0, file: 0, position: 7 }, 10).unwrap();
        ways.add(0, Piece { rank: 10, file: 0, position: 17 }, 5).unwrap();
        ways.add(0, Piece { rank: 15, file: 1, position: 0 }, 5).unwrap();
        let ways = ways.finish(vec![RoaringBitmap::new()]).unwrap();
        assert_eq!(ways.in_memory().unwrap()[0].pieces.len(), 2);
    }
}
