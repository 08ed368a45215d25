//! Letters among the rows of one batch: which of their keys come again behind them.

use arrow_array::RecordBatch;

use crate::record::Origin;
use crate::sink::lake::keys::KeyMap;
use crate::sink::lake::letters::PendingLetter;

/// A letter whose key could be read, on its way between rows.
#[derive(Clone, Debug)]
pub struct MetLetter {
    pub origin: Origin,
    /// How many rows of the next batch come before it.
    pub before_row: usize,
    /// One row that has the key columns.
    pub key: RecordBatch,
}

/// The letters of a batch in the making.
#[derive(Debug, Default)]
pub(crate) struct LetterWatch {
    letters: Vec<PendingLetter>,
    /// Letters that begin to count within the next rows: before which of them, and which letter.
    coming: Vec<(usize, usize)>,
    /// The letters of each key, from where they stand on.
    watched: KeyMap<Vec<usize>>,
}

impl LetterWatch {
    /// A letter behind the first `before_row` of the rows that come next.
    pub(crate) fn met(&mut self, origin: Origin, before_row: usize, key: u128) {
        self.coming.push((before_row, self.letters.len()));
        let noted_from = origin.offset + 1;
        self.letters.push(PendingLetter { origin, key, noted_from, later: false });
    }

    /// The next rows, by their keys.
    pub(crate) fn pass(&mut self, keys: &[u128]) {
        if self.coming.is_empty() && self.watched.is_empty() {
            return;
        }
        let coming = std::mem::take(&mut self.coming);
        let mut coming = coming.into_iter().peekable();
        for (row, key) in keys.iter().enumerate() {
            while let Some((_, letter)) = coming.next_if(|(before_row, _)| *before_row <= row) {
                self.watch(letter);
            }
            for letter in self.watched.get(key).into_iter().flatten() {
                if let Some(letter) = self.letters.get_mut(*letter) {
                    letter.later = true;
                }
            }
        }
        coming.for_each(|(_, letter)| self.watch(letter));
    }

    fn watch(&mut self, letter: usize) {
        if let Some(key) = self.letters.get(letter).map(|l| l.key) {
            self.watched.entry(key).or_default().push(letter);
        }
    }

    pub(crate) fn into_letters(self) -> Vec<PendingLetter> {
        self.letters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(offset: i64) -> Origin {
        format!("t/0@{offset}").parse().unwrap()
    }

    fn later(watch: LetterWatch) -> Vec<bool> {
        watch.into_letters().into_iter().map(|l| l.later).collect()
    }

    #[test]
    fn a_key_comes_later_only_behind_its_letter() {
        let mut watch = LetterWatch::default();
        watch.met(origin(2), 2, 7);
        watch.met(origin(4), 3, 8);
        // Key 7 before its letter, key 8 before and behind its letter.
        watch.pass(&[7, 8, 9, 8]);
        assert_eq!(later(watch), [false, true]);
    }

    #[test]
    fn letters_are_watched_through_all_batches_that_follow() {
        let mut watch = LetterWatch::default();
        watch.met(origin(0), 5, 7);
        watch.pass(&[7]);
        watch.met(origin(3), 0, 7);
        watch.pass(&[1, 2]);
        watch.met(origin(9), 1, 7);
        watch.pass(&[7]);
        assert_eq!(later(watch), [true, true, false], "the last letter stands behind the last change");
    }
}
