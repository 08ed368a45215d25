//! How a writer's records are read into the table that is set; also those from before a column was dropped.
//!
//! A record from before the drop of a column still names it, and is read without it. A record without the column tells of the drop, if
//! it is newer than all that is in the table. Its place in the source's log decides, since partitions are read at different speeds.

use super::connect::SourceField;
use super::fault::{Fallible, reason, reject};
use super::plan::Table;

/// What reads a writer's records into the table that is set, or the sentence that says what does not fit.
#[derive(Debug)]
pub(super) struct Fitted<R> {
    pub reader: Result<R, String>,
    /// The number of the table that the reader was made for.
    built_for: Option<u64>,
    /// The number of the table that was set when a better one was asked for. No more, once the reader fits.
    asked_at: Option<u64>,
    /// None of the fields is that of a column which goes once the source has dropped it.
    lacks_columns: bool,
    /// Fields (by their place) that mean the table's column only from here on in the source's log.
    valid_from: Vec<(usize, i64)>,
    /// The fields that an older record is read without, and how.
    former: Option<(Vec<usize>, Result<R, String>)>,
    /// Whether the record at hand is read by `former`.
    is_former: bool,
}

impl<R> Default for Fitted<R> {
    fn default() -> Self {
        Self {
            reader: Err(String::new()),
            built_for: None,
            asked_at: None,
            lacks_columns: false,
            valid_from: Vec::new(),
            former: None,
            is_former: false,
        }
    }
}

impl<R> Fitted<R> {
    /// Makes the reader for the table that was set as number `tables_set`, if that was not done yet. Answers whether it was now.
    #[inline]
    pub(super) fn fit(&mut self, tables_set: u64, make: impl FnOnce() -> Result<R, String>) -> bool {
        let anew = self.built_for != Some(tables_set);
        if anew {
            self.reader = make();
            self.built_for = Some(tables_set);
            if self.reader.is_ok() {
                self.asked_at = None;
            }
        }
        anew
    }

    /// [`fit`](Self::fit) for rows with these fields.
    #[inline]
    pub(super) fn fit_row(
        &mut self,
        tables_set: u64,
        table: &Table,
        fields: &[SourceField],
        make: impl FnOnce(&[SourceField]) -> Result<R, String>,
    ) {
        if self.fit(tables_set, || make(fields)) {
            self.lacks_columns = table.lacks_columns(fields);
            self.valid_from = table.valid_from(fields);
            (self.former, self.is_former) = (None, false);
        }
    }

    /// Whether [`choose`](Self::choose) must be told where the record at hand stands in the source's log, before it is read.
    pub(super) fn needs_position(&self) -> bool {
        !self.valid_from.is_empty()
    }

    /// Chooses the fields for the record that stands at `lsn`.
    pub(super) fn choose(
        &mut self,
        lsn: Option<i64>,
        fields: &[SourceField],
        make: impl FnOnce(&[SourceField]) -> Result<R, String>,
    ) {
        let is_gone = |from: i64| lsn.is_some_and(|lsn| lsn < from);
        let gone: Vec<usize> = self.valid_from.iter().filter(|(_, from)| is_gone(*from)).map(|(at, _)| *at).collect();
        self.is_former = !gone.is_empty();
        if self.is_former && self.former.as_ref().is_none_or(|(without, _)| *without != gone) {
            let left = fields.iter().enumerate().filter(|(at, _)| !gone.contains(at)).map(|(_, f)| f.clone());
            let reader = make(&left.collect::<Vec<_>>());
            self.former = Some((gone, reader));
        }
        if self.is_former && self.row_reader().is_ok() {
            // What was asked for an older record says nothing of newer ones.
            self.asked_at = None;
        }
    }

    /// How the record at hand is read.
    pub(super) fn row_reader(&self) -> Result<&R, &String> {
        let former = self.former.as_ref().filter(|_| self.is_former).map(|(_, reader)| reader);
        former.unwrap_or(&self.reader).as_ref()
    }

    pub(super) fn lacks_columns(&self) -> bool {
        self.lacks_columns
    }

    /// Notes that a better table is asked for.
    ///
    /// # Errors
    /// `incompatible_schema` when one was asked for before, and the one that came does not fit either.
    pub(super) fn ask(&mut self, tables_set: u64) -> Fallible<()> {
        if self.asked_at.is_some_and(|asked| asked < tables_set)
            && let Err(why) = self.row_reader()
        {
            return Err(reject(reason::INCOMPATIBLE_SCHEMA, why.clone()));
        }
        self.asked_at = Some(tables_set);
        Ok(())
    }
}
