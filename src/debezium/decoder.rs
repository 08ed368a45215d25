//! The decoder: records in, whole rows out. Puts the parts of this module together.

use super::avro::{Registered, ValuePlans, Writers, is_avro};
use super::blocks::{Blocks, Message};
use super::connect::{Block, SourceField};
use super::cursor::Cursor;
use super::envelope::{Kind, Skip, scan};
use super::fault::{Fallible, Reject, not_json, reason, reject};
use super::images::{Image, Images, JsonImage};
use super::key::{Key, KeySide, Keys, NEW_KEY, names, no_key, open_key};
use super::object::Take;
use super::plan::{Table, check};
use super::reader::Wire;
use super::rows::Rows;
use super::source::{Position, SourceReader};
use super::value::Notes;
use crate::batch::ChangeBatch;
use crate::change::{Column, DeleteImage, Mode, Op, RowSchema};
use crate::record::Record;

/// How the records of one table are decoded.
#[derive(Clone, Debug, Default)]
pub struct DecodeOptions {
    pub mode: Mode,
    /// Whether rows say where they came from ([`crate::change::origin_columns`]).
    pub origin_columns: bool,
    /// Types from the configuration. They take the place of the record's own.
    pub declared: Vec<Column>,
    /// The table's key, where it is not the record key's fields.
    pub key_columns: Option<Vec<String>>,
    pub delete_image: DeleteImage,
    /// Columns of records without schema block whose values are written in another way than Debezium's default.
    pub wire: Vec<(String, Wire)>,
}

/// What became of a record.
#[derive(Clone, Debug, PartialEq)]
pub enum Pushed {
    Row(Op),
    Skipped(Skip),
    Rejected(Reject),
    /// Nothing was consumed: the table must get these columns (a column that it has already and that is wide enough comes with the
    /// table's own type), then [`Decoder::set_schema`], then the same record again. Columns that only the table has are not named.
    NeedsSchema(RowSchema),
    /// Nothing was consumed: the record was written with the schema of this id. [`Decoder::learn`] it from a registry, then the same
    /// record again.
    NeedsWriterSchema(i32),
}

/// Turns the records of one table into rows of that table's columns.
#[derive(Debug)]
pub struct Decoder {
    pub(super) options: DecodeOptions,
    pub(super) table: Option<Table>,
    pub(super) rows: Option<Rows>,
    /// Counts calls of `set_schema`.
    pub(super) tables_set: u64,
    values: Blocks,
    pub(super) avro: ValuePlans,
    pub(super) writers: Writers,
    pub(super) keys: Keys,
    source: SourceReader,
    pub(super) notes: Notes,
    unavailable_rows: u64,
    infinite_rows: u64,
}

impl Decoder {
    pub fn new(options: DecodeOptions) -> Self {
        Self {
            options,
            table: None,
            rows: None,
            tables_set: 0,
            values: Blocks::default(),
            avro: ValuePlans::default(),
            writers: Writers::default(),
            keys: Keys::default(),
            source: SourceReader::default(),
            notes: Notes::default(),
            unavailable_rows: 0,
            infinite_rows: 0,
        }
    }

    /// Names the columns of the table that rows are made for. Where the table exists, call it before the first record: until then
    /// a tombstone is taken for one of a row that was never there.
    ///
    /// # Errors
    /// When rows of another schema are still to be taken with [`Decoder::finish`]; when two columns have one name; when a key is
    /// needed and the table has none.
    pub fn set_schema(&mut self, table: &RowSchema) -> Result<(), String> {
        let same = self.table.as_ref().is_some_and(|t| t.schema == *table);
        if !same {
            if self.rows() > 0 {
                return Err(format!("{} rows of the former schema are pending: finish them first", self.rows()));
            }
            let keys = self.key_indices(table)?;
            check(table)?;
            self.rows = Some(Rows::new(table, keys.clone()));
            self.table = Some(Table::new(table.clone(), keys, &self.options));
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
                Pushed::Rejected(*fault)
            }
        };
        if !matches!(pushed, Pushed::NeedsSchema(_)) {
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
            self.fit_block();
        }
        let object = if message.has_block {
            self.values.latest().and_then(|known| known.fitted.reader.as_ref().ok())
        } else {
            self.table.as_ref().map(|t| &t.bare)
        };
        let mut payload = message.payload.clone();
        let (Some(object), Some(table), Some(rows)) = (object, &self.table, &mut self.rows) else {
            let envelope = scan(&mut payload, &mut self.source, Cursor::skip)?;
            message.end(payload)?;
            return match envelope.kind {
                Kind::Skip(skip) => Ok(Pushed::Skipped(skip)),
                Kind::Row(_) => self.ask(record, &message),
            };
        };
        let notes = &mut self.notes;
        let envelope = scan(&mut payload, &mut self.source, |cursor| rows.read(object, cursor, Take::All, notes))?;
        message.end(payload)?;
        let op = match envelope.kind {
            Kind::Row(op) => op,
            Kind::Skip(skip) => {
                rows.take_back();
                return Ok(Pushed::Skipped(skip));
            }
        };
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
            has_after: envelope.has_after,
            before: before.as_ref().map(|image| image as &dyn Image),
            like: object,
        };
        let pushed = key.complete(&images, rows, notes)?;
        self.count_notes();
        Ok(pushed)
    }

    /// Makes the reader of the latest block for the table that is set, if that was not done yet.
    fn fit_block(&mut self) {
        let (Some(known), Some(table)) = (self.values.latest(), &self.table) else { return };
        known.fitted.fit(self.tables_set, || match &known.block {
            Block::Row(fields) => table.row_reader(fields, &self.options),
            Block::Plain(_) => Err("the schema block has neither before nor after".to_owned()),
        });
    }

    /// What to answer to a row that no reader fits.
    #[cold]
    fn ask(&mut self, record: &Record<'_>, message: &Message<'_>) -> Fallible<Pushed> {
        let key = self.key_fields(record)?;
        if !message.has_block {
            if self.options.declared.is_empty() {
                let how = "the record has no schema block and the table does not exist: declare the columns, or set schemas.enable=true";
                return Err(reject(reason::NO_SCHEMA, how));
            }
            let names: Vec<String> = key.into_iter().map(|k| k.name).collect();
            return Ok(Pushed::NeedsSchema(self.options.declared_schema(&names)));
        }
        let Some(known) = self.values.latest() else { return Err(reject(reason::NO_SCHEMA, "no schema block")) };
        let Block::Row(fields) = &known.block else {
            return Err(reject(reason::NOT_DEBEZIUM, "the schema block has neither before nor after"));
        };
        known.fitted.ask(self.tables_set)?;
        Ok(Pushed::NeedsSchema(self.options.row_schema(fields, &key, self.table.as_ref())))
    }

    /// The fields of the record's key; of unknown type where it has no schema block. None where it has no key.
    pub(super) fn key_fields(&mut self, record: &Record<'_>) -> Fallible<Vec<SourceField>> {
        let key = match record.key {
            Some(key) => open_key(&mut self.keys, &self.writers, &self.options, record.topic, key)?,
            None => None,
        };
        let key = match key {
            Some(Key::Json(message)) => message,
            Some(Key::Avro(_)) => return Ok(self.keys.avro.fields().to_vec()),
            None if self.options.mode == Mode::Upsert && self.options.key_columns.is_none() => return Err(no_key()),
            None => return Ok(Vec::new()),
        };
        if key.has_block {
            return Ok(match self.keys.blocks.latest().map(|known| &known.block) {
                Some(Block::Plain(fields) | Block::Row(fields)) => fields.clone(),
                None => Vec::new(),
            });
        }
        let names = names(key.payload)?;
        Ok(names
            .into_iter()
            .map(|name| SourceField {
                name,
                natural: crate::change::ColumnType::String,
                encoding: super::connect::Encoding::Json,
            })
            .collect())
    }

    pub(super) fn tombstone(&mut self, record: &Record<'_>) -> Fallible<Pushed> {
        let skipped = Ok(Pushed::Skipped(Skip::Tombstone));
        let (Mode::Upsert, Some(_), Some(table), Some(rows)) =
            (self.options.mode, record.key, &self.table, &mut self.rows)
        else {
            return skipped;
        };
        let mut key = KeySide {
            options: &self.options,
            table,
            keys: &mut self.keys,
            writers: &self.writers,
            tables_set: self.tables_set,
            record,
        };
        if !key.read(None, rows, &mut self.notes)? {
            return skipped;
        }
        // With declared key columns the record key need not have them; the delete before the tombstone did.
        if self.options.key_columns.is_some() && !rows.has_keys() {
            rows.take_back();
            return skipped;
        }
        key.check()?;
        rows.close(Op::Delete, record, Position::default())?;
        if record.header(NEW_KEY).is_some() {
            rows.rekeyed();
        }
        Ok(Pushed::Row(Op::Delete))
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

    /// Rows since the last call with a null in place of an infinite date, timestamp or decimal.
    pub fn take_infinite(&mut self) -> u64 {
        std::mem::take(&mut self.infinite_rows)
    }
}
