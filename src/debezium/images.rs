//! From the images of a record to its row, whatever they are written in: key columns, the row of a delete, values that were not sent.

use super::cursor::Cursor;
use super::decoder::Pushed;
use super::fault::Fallible;
use super::key::{KeySide, NEW_KEY};
use super::object::{ObjectReader, Take};
use super::rows::Rows;
use super::source::Position;
use super::value::Notes;
use crate::change::{Mode, Op, unavailable_column};

/// A row's image where it stands in its record.
pub(super) trait Image {
    /// Reads it into the row under construction.
    fn read(&self, rows: &mut Rows, take: Take, notes: &mut Notes) -> Fallible<()>;
}

/// As JSON.
pub(super) struct JsonImage<'p, 'a> {
    pub object: &'p ObjectReader,
    pub cursor: Cursor<'a>,
}

impl Image for JsonImage<'_, '_> {
    fn read(&self, rows: &mut Rows, take: Take, notes: &mut Notes) -> Fallible<()> {
        rows.read(self.object, &mut self.cursor.clone(), take, notes)
    }
}

/// What a record says of its row.
pub(super) struct Images<'i> {
    pub op: Op,
    pub position: Position,
    /// Whether the new image is in the row under construction already.
    pub has_after: bool,
    pub before: Option<&'i dyn Image>,
    /// Reads JSON that is written as the images' fields are.
    pub like: &'i ObjectReader,
}

impl KeySide<'_, '_> {
    /// Ends the row under construction: [`Pushed::Row`], or [`Pushed::NeedsSchema`] with nothing consumed.
    ///
    /// # Errors
    /// What key and images say. The row is still to be taken back then.
    pub(super) fn complete(&mut self, images: &Images<'_>, rows: &mut Rows, notes: &mut Notes) -> Fallible<Pushed> {
        let Images { op, position, has_after, before, like } = *images;
        self.check()?;
        if op == Op::Delete {
            if has_after {
                rows.take_back();
                notes.forget_lacking();
            }
            self.delete(before, like, rows, notes)?;
        }
        self.agrees(like, rows)?;
        if op != Op::Delete && !rows.has_keys() {
            self.read(Some(like), rows, notes)?;
        }
        if !notes.lacking.is_empty() && self.options.mode == Mode::Append {
            if !rows.can_mark() {
                rows.take_back();
                let mut wider = self.table.schema.clone();
                wider.columns.push(unavailable_column());
                return Ok(Pushed::NeedsSchema(wider));
            }
            rows.mark(&notes.lacking)?;
        }
        if let Some(image) = before.filter(|_| rows.keeps_before()) {
            rows.read_before(|rows| image.read(rows, Take::All, &mut Notes::new(self.options.infinity)))?;
        }
        rows.close(op, self.record, position)?;
        if !notes.lacking.is_empty() {
            let former = self.former(like, rows, notes);
            rows.lacks(&notes.lacking, former);
        }
        if op == Op::Delete && self.record.header(NEW_KEY).is_some() {
            rows.rekeyed();
        }
        Ok(Pushed::Row(op))
    }
}
