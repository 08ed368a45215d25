//! The decoder: records in, whole rows out. Puts the parts of this module together.

use super::avro::{Registered, ValuePlans, Writers, is_avro};
use super::blocks::{Blocks, KnownBlock, Message};
use super::connect::{Block, DOCUMENT, SourceField};
use super::cursor::Cursor;
use super::described::{Lack, Sought, SourceTypes, asked_of};
use super::envelope::{Kind, Skip, scan};
use super::fault::{Fallible, Reject, not_json, reason, reject};
use super::flat::Format;
use super::images::{Image, Images, JsonImage};
use super::infer::Inference;
use super::key::{KeySide, Keys, NEW_KEY};
use super::object::{ObjectReader, Take, Unknown};
use super::plan::{Table, check};
use super::reader::Wire;
use super::rows::Rows;
use super::source::{Position, SourceReader};
use super::value::Notes;
use crate::batch::ChangeBatch;
use crate::change::{Column, DeleteImage, Infinity, Mode, Op, RowSchema};
use crate::lineage::Lineage;
use crate::record::Record;
use crate::table_event::{Fence, SourceSnapshot};

/// How the records of one table are decoded.
#[derive(Clone, Debug, Default)]
pub struct DecodeOptions {
    pub mode: Mode,
    pub format: Format,
    /// Whether columns that neither the table nor `declared` knows get the types of their values, in records without schema block.
    pub infer_types: bool,
    pub infinity: Infinity,
    /// Whether rows say where they came from ([`crate::change::origin_columns`]).
    pub origin_columns: bool,
    /// Types from the configuration. They take the place of the record's own.
    pub declared: Vec<Column>,
    /// The table's key, where it is not the record key's fields.
    pub key_columns: Option<Vec<String>>,
    pub delete_image: DeleteImage,
    /// Whether the images of `before` are wanted beside the rows.
    pub before_images: bool,
    /// Whether a TRUNCATE of the source table is only counted; in append mode it always is.
    pub skip_truncates: bool,
    /// Columns whose values are written in another way than Debezium's default, where the record does not say so.
    pub wire: Vec<(String, Wire)>,
    /// What the source database says, for records without schema block.
    pub source: SourceTypes,
}

/// What became of a record.
#[derive(Clone, Debug, PartialEq)]
pub enum Pushed {
    Row(Op),
    Skipped(Skip),
    /// The source table was emptied; where, if the source tells.
    Truncate(Option<Fence>),
    Rejected(Reject),
    /// Nothing was consumed: the table must get these columns (a column that it has already and that is wide enough comes with the
    /// table's own type), then [`Decoder::set_schema`], then the same record again. Columns that only the table has are not named.
    NeedsSchema(RowSchema),
    /// Nothing was consumed: the record was written with the schema of this id. [`Decoder::learn`] it from a registry, then the same
    /// record again.
    NeedsWriterSchema(i32),
    /// Nothing was consumed: [`Decoder::describe`] the columns as the source database does, then the same record again. `database` is
    /// the one that the record is from, if it says so.
    NeedsSource {
        database: Option<String>,
    },
}

/// The readers that a record's row may need: of an envelope's image, of a flattened row.
#[derive(Clone, Copy, Default)]
struct Readers<'d> {
    row: Option<&'d ObjectReader>,
    flat: Option<&'d ObjectReader>,
}

impl KnownBlock {
    fn readers(&mut self) -> Readers<'_> {
        let reader = self.fitted.row_reader().ok();
        match self.block {
            Block::Row(_) => Readers { row: reader, flat: None },
            Block::Plain(_) => Readers { row: None, flat: reader },
        }
    }
}

/// Turns the records of one table into rows of that table's columns.
#[derive(Debug)]
pub struct Decoder {
    pub(super) options: DecodeOptions,
    pub(super) table: Option<Table>,
    pub(super) rows: Option<Rows>,
    /// Counts calls of `set_schema`.
    pub(super) tables_set: u64,
    pub(super) values: Blocks,
    pub(super) avro: ValuePlans,
    pub(super) writers: Writers,
    pub(super) keys: Keys,
    pub(super) source: SourceReader,
    pub(super) notes: Notes,
    pub(super) inference: Inference,
    pub(super) sought: Sought,
    unavailable_rows: u64,
    infinite_rows: u64,
    pub(super) asking_lsn: Option<i64>,
    pub(super) snapshot: Option<SourceSnapshot>,
}

impl Decoder {
    pub fn new(options: DecodeOptions) -> Self {
        Self {
            notes: Notes::new(options.infinity),
            options,
            table: None,
            rows: None,
            tables_set: 0,
            values: Blocks::default(),
            avro: ValuePlans::default(),
            writers: Writers::default(),
            keys: Keys::default(),
            source: SourceReader::default(),
            inference: Inference::default(),
            sought: Sought::default(),
            unavailable_rows: 0,
            infinite_rows: 0,
            asking_lsn: None,
            snapshot: None,
        }
    }

    /// Names the columns of the table that rows are made for. Where the table exists, call it before the first record: until then
    /// a tombstone is taken for one of a row that was never there.
    ///
    /// # Errors
    /// When rows of another schema are still to be taken with [`Decoder::finish`]; when two columns have one name; when a key is
    /// needed and the table has none.
    pub fn set_schema(&mut self, table: &RowSchema) -> Result<(), String> {
        self.set_table(table, &Lineage::default())
    }

    /// [`set_schema`](Self::set_schema) for a table that remembers how its columns came from the source's.
    ///
    /// # Errors
    /// As there.
    pub fn set_table(&mut self, table: &RowSchema, lineage: &Lineage) -> Result<(), String> {
        let same = self.table.as_ref().is_some_and(|t| t.schema == *table && t.lineage == *lineage);
        if !same {
            if self.rows() > 0 {
                return Err(format!("{} rows of the former schema are pending: finish them first", self.rows()));
            }
            let keys = self.key_indices(table)?;
            check(table)?;
            let new = Table::new(table.clone(), lineage.clone(), keys.clone(), &self.options);
            self.options.check_source(&new)?;
            self.rows = Some(Rows::new(table, keys, self.options.before_images));
            self.table = Some(new);
            self.notes.forget_unknown();
        }
        self.tables_set += 1;
        Ok(())
    }

    fn key_indices(&self, table: &RowSchema) -> Result<Vec<usize>, String> {
        let keys = match &self.options.key_columns {
            Some(names) => names
                .iter()
                .map(|name| table.index_of(name).ok_or_else(|| format!("key column {name} is not in the table")))
                .collect::<Result<Vec<_>, _>>()?,
            None => table.key_indices(),
        };
        if keys.is_empty() && self.options.mode == Mode::Upsert {
            return Err("upsert needs a key: declare the table's key columns, or use append".to_owned());
        }
        Ok(keys)
    }

    /// Takes what a registry says of a writer's schema.
    pub fn learn(&mut self, id: i32, registered: &Registered) {
        self.writers.learn(id, registered);
    }

    /// Decodes one record. A record that is no row leaves the rows before it untouched.
    pub fn push(&mut self, record: &Record<'_>) -> Pushed {
        if let Some(id) = self.writers.lacks(record.value).or_else(|| self.writers.lacks(record.key)) {
            return Pushed::NeedsWriterSchema(id);
        }
        let pushed = match self.try_push(record) {
            Ok(pushed) => pushed,
            Err(fault) => {
                if let Some(rows) = &mut self.rows {
                    rows.take_back();
                }
                self.wider(record, &fault).unwrap_or(Pushed::Rejected(*fault))
            }
        };
        if !matches!(pushed, Pushed::NeedsSchema(_) | Pushed::NeedsSource { .. }) {
            self.writers.forget_missing();
        }
        pushed
    }

    fn try_push(&mut self, record: &Record<'_>) -> Fallible<Pushed> {
        self.notes.begin_row();
        let Some(value) = record.value else { return self.tombstone(record) };
        if is_avro(value) {
            return self.push_avro(record, value);
        }
        if value.is_empty() {
            return Err(not_json("the value is empty"));
        }
        let mut message = self.values.open(record.topic, value)?;
        if message.payload.peek() == b'n' {
            message.payload.null()?;
            message.end(message.payload.clone())?;
            return self.tombstone(record);
        }
        if message.has_block {
            self.fit_block(&message, record)?;
        } else if self.options.source == SourceTypes::Unasked
            && let Some(needs) = self.needs_source(&message, record)?
        {
            return Ok(needs);
        }
        let mut lacks = false;
        let readers = match (message.has_block, &self.table) {
            (true, _) => self
                .values
                .latest()
                .map(|known| {
                    lacks = known.fitted.lacks_columns();
                    known.readers()
                })
                .unwrap_or_default(),
            (false, Some(table)) => Readers { row: Some(&table.bare), flat: Some(&table.bare_flat) },
            (false, None) => Readers::default(),
        };
        let mut payload = message.payload.clone();
        let (rows, notes) = (&mut self.rows, &mut self.notes);
        let envelope = scan(&mut payload, &mut self.source, self.options.format, record, |cursor| {
            match (readers.row, rows.as_mut()) {
                (Some(object), Some(rows)) if cursor.peek() == b'{' => rows.read(object, cursor, Take::All, notes),
                // A document of MongoDB: its text is kept.
                (Some(object), Some(rows)) => {
                    notes.missing |= !rows.read_value(object, DOCUMENT, cursor, notes)?;
                    Ok(())
                }
                _ => cursor.skip(),
            }
        })?;
        message.end(payload)?;
        let object = if envelope.flat { readers.flat } else { readers.row };
        let (op, object, table, rows) = match (envelope.kind, object, &self.table, rows) {
            (Kind::Row(op), Some(object), Some(table), Some(rows)) => (op, object, table, rows),
            (Kind::Row(_), ..) => return self.ask(record, &message, &envelope),
            (Kind::Skip(skip), .., rows) => {
                if let Some(rows) = rows {
                    rows.take_back();
                }
                return Ok(Pushed::Skipped(skip));
            }
            (Kind::Truncate, .., rows) => {
                if let Some(rows) = rows {
                    rows.take_back();
                }
                return Ok(self.options.truncate(&envelope.position));
            }
        };
        if envelope.flat
            && let Some(mut row) = envelope.after.clone()
        {
            rows.take_back();
            notes.begin_row();
            rows.read(object, &mut row, Take::All, notes)?;
        }
        if notes.missing && op != Op::Delete {
            if !message.has_block {
                match self.sought.look(&self.options, table, &envelope)? {
                    Lack::Nothing => {}
                    Lack::Columns => {
                        rows.take_back();
                        return self.ask(record, &message, &envelope);
                    }
                    Lack::Source => {
                        rows.take_back();
                        return Ok(asked_of(&message));
                    }
                }
            }
            if envelope.is_document() {
                let how = "after is a document (MongoDB), and the table has no column document for it";
                return Err(reject(reason::INCOMPATIBLE_SCHEMA, how));
            }
        }
        if lacks && envelope.position.lsn > table.lineage.newest {
            rows.take_back();
            return self.ask(record, &message, &envelope);
        }
        let mut key = KeySide {
            options: &self.options,
            table,
            keys: &mut self.keys,
            writers: &self.writers,
            tables_set: self.tables_set,
            record,
        };
        let before = envelope.before.map(|cursor| JsonImage { object, cursor });
        let images = Images {
            op,
            position: envelope.position,
            has_after: envelope.after.is_some(),
            before: before.as_ref().map(|image| image as &dyn Image),
            like: object,
        };
        let pushed = key.complete(&images, rows, notes)?;
        self.count_notes();
        self.note_snapshot(op, record, &envelope.position);
        Ok(pushed)
    }

    /// Makes the reader of the latest block for the table that is set, if that was not done yet.
    fn fit_block(&mut self, message: &Message<'_>, record: &Record<'_>) -> Fallible<()> {
        let (Some(known), Some(table)) = (self.values.latest(), &self.table) else { return Ok(()) };
        let (Block::Row(fields) | Block::Plain(fields)) = &known.block;
        let is_flat = matches!(known.block, Block::Plain(_));
        let make = |fields: &[SourceField]| match is_flat {
            false => table.row_reader(fields, &self.options),
            true => table.flat_members(fields, &self.options).map(|members| ObjectReader::new(members, Unknown::Noted)),
        };
        known.fitted.fit_row(self.tables_set, table, fields, make);
        if known.fitted.needs_position() {
            let mut payload = message.payload.clone();
            let scanned = scan(&mut payload, &mut self.source, self.options.format, record, Cursor::skip)?;
            known.fitted.choose(scanned.position.lsn, fields, make);
        }
        Ok(())
    }

    /// A null value: the end of a deleted row, or (where that is how the topic tells it) the delete itself.
    pub(super) fn tombstone(&mut self, record: &Record<'_>) -> Fallible<Pushed> {
        let skipped = Ok(Pushed::Skipped(Skip::Tombstone));
        let is_delete = self.options.format == Format::Flattened;
        let (Some(_), Some(table), Some(rows)) = (record.key, &self.table, &mut self.rows) else { return skipped };
        if self.options.mode == Mode::Append && !is_delete {
            return skipped;
        }
        if self.options.source == SourceTypes::Unasked && Self::is_bare(&mut self.keys, record) {
            return Ok(Pushed::NeedsSource { database: None });
        }
        let mut key = KeySide {
            options: &self.options,
            table,
            keys: &mut self.keys,
            writers: &self.writers,
            tables_set: self.tables_set,
            record,
        };
        let has_key = key.read(None, rows, &mut self.notes)?;
        // With declared key columns the record key need not have them; the delete before the tombstone did.
        if !has_key || self.options.key_columns.is_some() && !rows.has_keys() {
            rows.take_back();
            if is_delete {
                let how = "a null value is a delete here, and the record key does not name the row";
                return Err(reject(reason::NO_KEY, how));
            }
            return skipped;
        }
        key.check()?;
        rows.close(Op::Delete, record, Position::default())?;
        if record.header(NEW_KEY).is_some() {
            rows.rekeyed();
        }
        Ok(Pushed::Row(Op::Delete))
    }

    /// Where in the source's log the record stands that was answered with `NeedsSchema` last; none where it did not tell its columns.
    pub fn asking_lsn(&self) -> Option<i64> {
        self.asking_lsn
    }

    pub(super) fn count_notes(&mut self) {
        self.unavailable_rows += u64::from(!self.notes.lacking.is_empty());
        self.infinite_rows += u64::from(self.notes.infinite);
    }

    /// Rows since the last [`Decoder::finish`].
    pub fn rows(&self) -> usize {
        self.rows.as_ref().map_or(0, Rows::len)
    }

    /// Bytes of memory that these rows hold on to. Walks the columns, not the rows.
    pub fn bytes(&self) -> usize {
        self.rows.as_ref().map_or(0, Rows::allocated_bytes)
    }

    /// Takes all rows so far, in the order in which they were pushed.
    pub fn finish(&mut self) -> ChangeBatch {
        let Some(rows) = &mut self.rows else {
            let rows = arrow_array::RecordBatch::new_empty(std::sync::Arc::new(arrow_schema::Schema::empty()));
            return ChangeBatch::new(rows, Vec::new());
        };
        #[expect(
            clippy::expect_used,
            reason = "columns of one length, of the schema's own types, keys never null: Rows keeps it so"
        )]
        rows.finish().expect("whole rows make a batch")
    }

    /// Fields of records without schema block that the table has no column for; each is named once for each table set.
    pub fn take_unknown_fields(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes.unknown)
    }

    /// Rows since the last call that lack a value which Debezium did not send (unchanged TOAST).
    pub fn take_unavailable(&mut self) -> u64 {
        std::mem::take(&mut self.unavailable_rows)
    }

    /// Columns, with the types that were inferred for them, since the last call.
    pub fn take_inferred(&mut self) -> Vec<String> {
        std::mem::take(&mut self.inference.named)
    }

    /// Rows since the last call with a null (or the nearest date) in place of an infinite date, timestamp or decimal.
    pub fn take_infinite(&mut self) -> u64 {
        std::mem::take(&mut self.infinite_rows)
    }
}
