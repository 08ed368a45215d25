//! The rows collected so far: the table's columns, one operation each, whole rows only.

use std::sync::Arc;

use arrow_array::{RecordBatch, RecordBatchOptions};
use arrow_schema::{ArrowError, Schema, SchemaRef};

use super::columns::ColumnBuilder;
use super::cursor::Cursor;
use super::fault::{Fallible, reason, reject};
use super::object::{ObjectReader, Take};
use super::source::Position;
use super::value::Notes;
use crate::batch::{BeforeImages, ChangeBatch, Unavailable};
use crate::change::{Op, RowSchema, origin};
use crate::record::Record;

/// Rows of one table under construction. Between two rows every column has the same length.
#[derive(Debug)]
pub(super) struct Rows {
    schema: SchemaRef,
    columns: Vec<ColumnBuilder>,
    names: Vec<String>,
    /// The columns that tell one row from another.
    keys: Vec<usize>,
    /// Columns in which a row must have a value: these, and others that the table flags (Arrow's schema says so too).
    required: Vec<usize>,
    origin: OriginColumns,
    ops: Vec<Op>,
    unavailable: Vec<Unavailable>,
    former: FormerKeys,
    rekeyed: Vec<u32>,
    /// Where an image is read to be compared with the row's own key; of no length in between.
    probe: Vec<ColumnBuilder>,
    before: Option<Before>,
}

/// The images of `before`: the table's columns, as long as its rows.
#[derive(Debug)]
struct Before {
    columns: Vec<ColumnBuilder>,
    there: Vec<bool>,
}

/// Former keys of rows whose key was changed: the table's columns, of which only the key columns are filled.
#[derive(Debug)]
struct FormerKeys {
    columns: Vec<ColumnBuilder>,
    rows: usize,
}

#[derive(Debug)]
struct OriginColumns {
    topic: Option<usize>,
    partition: Option<usize>,
    offset: Option<usize>,
    op: Option<usize>,
    source_ts: Option<usize>,
    source_lsn: Option<usize>,
    unavailable: Option<usize>,
}

impl Rows {
    pub(super) fn new(table: &RowSchema, keys: Vec<usize>, keeps_before: bool) -> Self {
        let origin = OriginColumns {
            topic: table.index_of(origin::TOPIC),
            partition: table.index_of(origin::PARTITION),
            offset: table.index_of(origin::OFFSET),
            op: table.index_of(origin::OP),
            source_ts: table.index_of(origin::SOURCE_TS),
            source_lsn: table.index_of(origin::SOURCE_LSN),
            unavailable: table.index_of(origin::UNAVAILABLE),
        };
        let flagged = table.key_indices().into_iter().filter(|at| !keys.contains(at));
        let columns = || table.columns.iter().map(|c| ColumnBuilder::new(&c.column_type)).collect();
        let required = keys.iter().copied().chain(flagged).collect();
        Self {
            schema: Arc::new(table.arrow()),
            columns: columns(),
            names: table.columns.iter().map(|c| c.name.clone()).collect(),
            keys,
            required,
            origin,
            ops: Vec::new(),
            unavailable: Vec::new(),
            former: FormerKeys { columns: columns(), rows: 0 },
            rekeyed: Vec::new(),
            probe: columns(),
            before: keeps_before.then(|| Before { columns: columns(), there: Vec::new() }),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.ops.len()
    }

    pub(super) fn allocated_bytes(&self) -> usize {
        let before = self.before.iter().flat_map(|before| &before.columns);
        self.columns.iter().chain(before).map(ColumnBuilder::allocated_bytes).sum::<usize>() + self.ops.capacity()
    }

    /// Reads an image into the row under construction.
    #[inline]
    pub(super) fn read(
        &mut self,
        object: &ObjectReader,
        cursor: &mut Cursor<'_>,
        take: Take,
        notes: &mut Notes,
    ) -> Fallible<()> {
        object.read(cursor, &mut self.columns, self.ops.len(), take, notes)
    }

    /// The columns and the number of the row under construction, for images that are not JSON.
    #[inline]
    pub(super) fn under_construction(&mut self) -> (&mut [ColumnBuilder], usize) {
        (&mut self.columns, self.ops.len())
    }

    /// [`Rows::read`] for one value that stands outside an object, as the field `name`; false if no column takes it.
    pub(super) fn read_value(
        &mut self,
        object: &ObjectReader,
        name: &str,
        cursor: &mut Cursor<'_>,
        notes: &mut Notes,
    ) -> Fallible<bool> {
        object.read_value(name, cursor, &mut self.columns, self.ops.len(), notes)
    }

    /// The key column in which what `read` reads differs from the row under construction, if there is one. Columns that one of the
    /// two lacks are not compared, nor are nulls. `read` must read key columns only.
    ///
    /// # Errors
    /// What `read` says.
    pub(super) fn other_key(&mut self, read: impl FnOnce(&mut Self) -> Fallible<()>) -> Fallible<Option<&str>> {
        // What is read here becomes row 0 of the probe.
        let ops = std::mem::take(&mut self.ops);
        std::mem::swap(&mut self.columns, &mut self.probe);
        let read = read(self);
        std::mem::swap(&mut self.columns, &mut self.probe);
        self.ops = ops;
        let row = self.ops.len();
        let differs = |at: &usize| match (self.columns.get(*at), self.probe.get(*at)) {
            (Some(have), Some(key)) if have.len() > row && key.len() > 0 => {
                !have.is_null(row) && !key.is_null(0) && !have.same(row, key, 0)
            }
            _ => false,
        };
        let other = self.keys.iter().copied().find(differs);
        self.probe.iter_mut().for_each(|c| c.truncate(0));
        read?;
        Ok(other.and_then(|at| self.names.get(at)).map(String::as_str))
    }

    pub(super) fn keeps_before(&self) -> bool {
        self.before.is_some()
    }

    /// Lets `read` read the `before` image of the row under construction.
    ///
    /// # Errors
    /// What `read` says. The row is still to be taken back then.
    pub(super) fn read_before(&mut self, read: impl FnOnce(&mut Self) -> Fallible<()>) -> Fallible<()> {
        let Some(mut before) = self.before.take() else { return Ok(()) };
        std::mem::swap(&mut self.columns, &mut before.columns);
        let outcome = read(self);
        std::mem::swap(&mut self.columns, &mut before.columns);
        before.there.push(true);
        self.before = Some(before);
        outcome
    }

    /// Whether every key column has a value (or a null) for the row under construction.
    pub(super) fn has_keys(&self) -> bool {
        let row = self.ops.len();
        self.keys.iter().all(|at| self.columns.get(*at).is_some_and(|c| c.len() > row))
    }

    /// Ends the row under construction: origin columns get their values, columns without a value a null.
    ///
    /// # Errors
    /// `null_key` when a key column has no value. The row is still to be taken back then.
    pub(super) fn close(&mut self, op: Op, record: &Record<'_>, position: Position) -> Fallible<()> {
        let row = self.ops.len();
        let at = &self.origin;
        for (column, text) in [(at.topic, record.topic), (at.op, op.letter())] {
            if let Some(column) = column.and_then(|c| self.columns.get_mut(c)) {
                column.push_text(text)?;
            }
        }
        let source_us = position.ts_ms.and_then(|ms| ms.checked_mul(1000));
        for (column, value) in [
            (at.partition, Some(i64::from(record.partition))),
            (at.offset, Some(record.offset)),
            (at.source_ts, source_us),
            (at.source_lsn, position.row_lsn()),
        ] {
            if let Some(column) = column.and_then(|c| self.columns.get_mut(c)) {
                column.push_integer(value);
            }
        }
        for column in &mut self.columns {
            if column.len() == row {
                column.push_null();
            }
        }
        for key in &self.required {
            if self.columns.get(*key).is_some_and(|c| c.is_null(row)) {
                let name = self.names.get(*key).map_or("", String::as_str);
                return Err(reject(reason::NULL_KEY, format!("key column {name} has no value")));
            }
        }
        self.ops.push(op);
        if let Some(before) = &mut self.before {
            before.there.resize(row + 1, false);
            before.columns.iter_mut().filter(|column| column.len() == row).for_each(ColumnBuilder::push_null);
        }
        Ok(())
    }

    /// The last row lacks the values of these columns; the row of `former_key` has them, if it is one of a changed key.
    pub(super) fn lacks(&mut self, columns: &[u32], former_key: Option<u32>) {
        let Some(row) = self.ops.len().checked_sub(1) else { return };
        self.unavailable.push(Unavailable { row: row as u32, columns: columns.to_vec(), former_key });
    }

    /// Whether the table has a column for the names of unavailable ones.
    pub(super) fn can_mark(&self) -> bool {
        self.origin.unavailable.is_some()
    }

    /// Names the columns that the row under construction lacks.
    pub(super) fn mark(&mut self, lacking: &[u32]) -> Fallible<()> {
        let names = lacking.iter().filter_map(|at| self.names.get(*at as usize)).map(String::as_str);
        match self.origin.unavailable.and_then(|at| self.columns.get_mut(at)) {
            Some(column) => column.push_texts(names),
            None => Ok(()),
        }
    }

    /// The last row is the delete of a key that was changed.
    pub(super) fn rekeyed(&mut self) {
        self.rekeyed.extend(self.ops.len().checked_sub(1).map(|row| row as u32));
    }

    /// Reads a former key; `None` where it is not the whole key.
    pub(super) fn read_former_key(
        &mut self,
        object: &ObjectReader,
        cursor: &mut Cursor<'_>,
        notes: &mut Notes,
    ) -> Option<u32> {
        let FormerKeys { columns, rows } = &mut self.former;
        let row = *rows;
        let read = object.read(cursor, columns, row, Take::MissingKeys, notes);
        let whole = self.keys.iter().all(|at| columns.get(*at).is_some_and(|c| c.len() > row && !c.is_null(row)));
        if read.is_err() || !whole {
            columns.iter_mut().for_each(|c| c.truncate(row));
            return None;
        }
        *rows += 1;
        Some(row as u32)
    }

    fn finish_former_keys(&mut self) -> Result<Option<RecordBatch>, ArrowError> {
        let FormerKeys { columns, rows } = &mut self.former;
        if std::mem::take(rows) == 0 {
            return Ok(None);
        }
        let schema = self.schema.project(&self.keys)?;
        let keys = self.keys.iter().filter_map(|at| columns.get_mut(*at).map(ColumnBuilder::finish));
        RecordBatch::try_new(Arc::new(schema), keys.collect::<Result<Vec<_>, _>>()?).map(Some)
    }

    /// Takes back the row under construction.
    #[cold]
    pub(super) fn take_back(&mut self) {
        let row = self.ops.len();
        self.columns.iter_mut().for_each(|c| c.truncate(row));
        if let Some(before) = &mut self.before {
            before.columns.iter_mut().for_each(|c| c.truncate(row));
            before.there.truncate(row);
        }
    }

    fn finish_before(&mut self) -> Result<Option<BeforeImages>, ArrowError> {
        let Some(Before { columns, there }) = &mut self.before else { return Ok(None) };
        let nullable = |field: &Arc<arrow_schema::Field>| field.as_ref().clone().with_nullable(true);
        let schema = Arc::new(Schema::new(self.schema.fields().iter().map(nullable).collect::<Vec<_>>()));
        let arrays = columns.iter_mut().map(ColumnBuilder::finish).collect::<Result<Vec<_>, _>>()?;
        let there = std::mem::take(there);
        let options = RecordBatchOptions::new().with_row_count(Some(there.len()));
        Ok(Some(BeforeImages { rows: RecordBatch::try_new_with_options(schema, arrays, &options)?, there }))
    }

    /// All rows so far; none are left.
    ///
    /// # Errors
    /// Never, as long as the columns keep to their layout.
    pub(super) fn finish(&mut self) -> Result<ChangeBatch, ArrowError> {
        let arrays = self.columns.iter_mut().map(ColumnBuilder::finish).collect::<Result<Vec<_>, _>>()?;
        let ops = std::mem::take(&mut self.ops);
        let options = RecordBatchOptions::new().with_row_count(Some(ops.len()));
        let rows = RecordBatch::try_new_with_options(Arc::clone(&self.schema), arrays, &options)?;
        let former_keys = self.finish_former_keys()?;
        let before = self.finish_before()?;
        let (unavailable, rekeyed) = (std::mem::take(&mut self.unavailable), std::mem::take(&mut self.rekeyed));
        Ok(ChangeBatch { rows, ops, unavailable, former_keys, rekeyed, before })
    }
}
