//! What the decoder does with an Avro message: the plans of its writer for the table that is set, the row, the key.

use std::sync::Arc;

use super::super::columns::ColumnBuilder;
use super::super::connect::{Block, SourceField};
use super::super::decoder::{Decoder, Pushed};
use super::super::envelope::Kind;
use super::super::fault::{Fallible, reason, reject};
use super::super::fitted::Fitted;
use super::super::images::{Image, Images};
use super::super::key::KeySide;
use super::super::object::{ObjectReader, Take, Unknown};
use super::super::rows::Rows;
use super::super::value::Notes;
use super::cursor::Cursor;
use super::plan::ImagePlan;
use super::schema::Schema;
use super::writers::{Writer, Writers, split};
use crate::record::Record;

/// Plans kept: one topic needs one, two around a schema change.
const MAX_PLANS: usize = 32;

/// The plans of writers, the latest first.
#[derive(Debug)]
struct Plans<P> {
    known: Vec<Plan<P>>,
}

impl<P> Default for Plans<P> {
    fn default() -> Self {
        Self { known: Vec::new() }
    }
}

/// A writer's schema and how its data are read into the table that is set.
#[derive(Debug)]
struct Plan<P> {
    id: i32,
    writer: Arc<Writer>,
    fitted: Fitted<P>,
}

impl<P> Plans<P> {
    fn latest(&mut self) -> Option<&mut Plan<P>> {
        self.known.first_mut()
    }

    /// Makes this writer's the latest.
    #[inline]
    fn open(&mut self, id: i32, writer: &Arc<Writer>) {
        match self.known.iter().position(|plan| plan.id == id) {
            Some(0) => {}
            Some(at) => self.known[..=at].rotate_right(1), // `at` is the index of an entry
            None => {
                self.known.truncate(MAX_PLANS - 1);
                self.known.insert(0, Plan { id, writer: Arc::clone(writer), fitted: Fitted::default() });
            }
        }
    }
}

/// How the rows of writers are read.
#[derive(Debug, Default)]
pub(in super::super) struct ValuePlans(Plans<ImagePlans>);

/// The two images of an envelope, and how JSON would write the same fields.
#[derive(Debug)]
struct ImagePlans {
    after: ImagePlan,
    before: ImagePlan,
    like: ObjectReader,
}

/// A row's image in a datum.
struct AvroImage<'p, 'a> {
    schema: &'p Schema,
    plan: &'p ImagePlan,
    cursor: Cursor<'a>,
}

impl Image for AvroImage<'_, '_> {
    fn read(&self, rows: &mut Rows, take: Take, notes: &mut Notes) -> Fallible<()> {
        let (columns, row) = rows.under_construction();
        self.plan.read(self.schema, &mut self.cursor.clone(), columns, row, take, notes)
    }
}

impl Decoder {
    /// A message in the wire format, whose writer's schema is known (or known to be missing).
    pub(in super::super) fn push_avro(&mut self, record: &Record<'_>, value: &[u8]) -> Fallible<Pushed> {
        let (id, datum) = split(value)?;
        let writer = self.writers.get(id)?;
        self.avro.0.open(id, writer);
        let mut cursor = Cursor::new(datum);
        if !writer.envelope.open(&mut cursor)? {
            cursor.end()?;
            return self.tombstone(record);
        }
        self.fit_writer(&cursor, record)?;
        let Some(plan) = self.avro.0.known.first() else { return Err(other_format()) };
        let (schema, envelope) = (&plan.writer.schema, &plan.writer.envelope);
        let lacks = plan.fitted.lacks_columns();
        let (Ok(images), Some(table), Some(rows)) = (plan.fitted.row_reader(), &self.table, &mut self.rows) else {
            let image = envelope.after;
            let envelope = envelope.scan(schema, &mut cursor, self.options.format, record, |cursor| match image {
                Some(image) => schema.skip(image, cursor, 0),
                None => Ok(()),
            })?;
            cursor.end()?;
            return match envelope.kind {
                Kind::Skip(skip) => Ok(Pushed::Skipped(skip)),
                Kind::Truncate => Ok(self.options.truncate(&envelope.position)),
                Kind::Row(_) => self.ask_of_writer(record, envelope.flat, envelope.position.lsn),
            };
        };
        let notes = &mut self.notes;
        let envelope = envelope.scan(schema, &mut cursor, self.options.format, record, |cursor| {
            let (columns, row) = rows.under_construction();
            images.after.read(schema, cursor, columns, row, Take::All, notes)
        })?;
        cursor.end()?;
        let op = match envelope.kind {
            Kind::Row(op) => op,
            Kind::Skip(skip) => {
                rows.take_back();
                return Ok(Pushed::Skipped(skip));
            }
            Kind::Truncate => {
                rows.take_back();
                return Ok(self.options.truncate(&envelope.position));
            }
        };
        if envelope.flat != matches!(plan.writer.block, Block::Plain(_)) {
            return Err(other_format());
        }
        if envelope.flat
            && let Some(row) = &envelope.after
        {
            AvroImage { schema, plan: &images.after, cursor: row.clone() }.read(rows, Take::All, notes)?;
        }
        if lacks && envelope.position.lsn > table.lineage.newest {
            rows.take_back();
            return self.ask_of_writer(record, envelope.flat, envelope.position.lsn);
        }
        let before = envelope.before.map(|cursor| AvroImage { schema, plan: &images.before, cursor });
        let mut key = KeySide {
            options: &self.options,
            table,
            keys: &mut self.keys,
            writers: &self.writers,
            tables_set: self.tables_set,
            record,
        };
        let images = Images {
            op,
            position: envelope.position,
            has_after: envelope.after.is_some(),
            before: before.as_ref().map(|image| image as &dyn Image),
            like: &images.like,
        };
        let pushed = key.complete(&images, rows, notes)?;
        self.count_notes();
        self.note_snapshot(op, record, &envelope.position);
        Ok(pushed)
    }

    /// Makes the plan of the latest writer for the table that is set, if that was not done yet, and chooses it for the row here.
    fn fit_writer(&mut self, cursor: &Cursor<'_>, record: &Record<'_>) -> Fallible<()> {
        let (Some(plan), Some(table)) = (self.avro.0.latest(), &self.table) else { return Ok(()) };
        let (writer, options) = (&plan.writer, &self.options);
        let (Block::Row(fields) | Block::Plain(fields)) = &writer.block;
        let is_flat = matches!(writer.block, Block::Plain(_));
        let (schema, envelope) = (&writer.schema, &writer.envelope);
        let root = schema.optional(schema.root).1;
        let make = |fields: &[SourceField]| {
            // What the transform has added to a flattened row is stepped over.
            let own = fields.iter().filter(|f| !is_flat || table.is_rows_own(&f.name, options));
            let members = table.row_members(&own.cloned().collect::<Vec<_>>(), options)?;
            let image = |record: Option<usize>, other: Option<usize>| {
                ImagePlan::of_row(schema, record.or(other).unwrap_or(root), &members)
            };
            Ok(ImagePlans {
                after: image(envelope.after, envelope.before)?,
                before: image(envelope.before, envelope.after)?,
                like: ObjectReader::new(members.clone(), Unknown::Skipped),
            })
        };
        plan.fitted.fit_row(self.tables_set, table, fields, make);
        if plan.fitted.needs_position() {
            let image = envelope.after;
            let scanned = envelope.scan(schema, &mut cursor.clone(), options.format, record, |cursor| match image {
                Some(image) => schema.skip(image, cursor, 0),
                None => Ok(()),
            })?;
            plan.fitted.choose(scanned.position.lsn, fields, make);
        }
        Ok(())
    }

    /// What to answer to a row that no plan fits.
    #[cold]
    fn ask_of_writer(&mut self, record: &Record<'_>, is_flat: bool, lsn: Option<i64>) -> Fallible<Pushed> {
        self.asking_lsn = lsn;
        let key = self.key_fields(record)?;
        let Some(plan) = self.avro.0.latest() else { return Err(other_format()) };
        let fields: Vec<SourceField> = match &plan.writer.block {
            Block::Row(fields) if !is_flat => fields.clone(),
            Block::Plain(fields) if is_flat => {
                fields.iter().filter(|f| self.options.is_rows_own(&f.name)).cloned().collect()
            }
            _ => return Err(other_format()),
        };
        self.check_key(&fields, &key)?;
        if let Some(plan) = self.avro.0.latest() {
            plan.fitted.ask(self.tables_set)?;
        }
        Ok(Pushed::NeedsSchema(self.options.row_schema(&fields, &key, self.table.as_ref())))
    }
}

#[cold]
fn other_format() -> Box<super::super::fault::Reject> {
    reject(reason::NOT_DEBEZIUM, "the writer's schema is of another format than the record")
}

/// How the keys of writers are read.
#[derive(Debug, Default)]
pub(in super::super) struct KeyPlans(Plans<ImagePlan>);

/// A key in the wire format. Its writer is the latest of [`KeyPlans`].
#[derive(Clone, Debug)]
pub(in super::super) struct AvroKey<'k> {
    cursor: Cursor<'k>,
    /// Whether it is one value without a name.
    pub is_value: bool,
}

impl KeyPlans {
    /// `may_be_value`: whether the key may be one plain value.
    ///
    /// # Errors
    /// `unknown_schema_id`, `bad_schema`, `not_avro`, `no_key` where it is neither a record nor such a value.
    pub(in super::super) fn open<'k>(
        &mut self,
        writers: &Writers,
        key: &'k [u8],
        may_be_value: bool,
    ) -> Fallible<Option<AvroKey<'k>>> {
        let (id, datum) = split(key)?;
        let writer = writers.get(id)?;
        let mut cursor = Cursor::new(datum);
        if !writer.envelope.open(&mut cursor)? {
            return Ok(None);
        }
        let schema = &writer.schema;
        let is_value = schema.fields(schema.optional(schema.root).1).is_none();
        if is_value && !(may_be_value && writer.value.is_some()) {
            return Err(reject(reason::NO_KEY, "the record key is no record: declare key columns, or use append"));
        }
        self.0.open(id, writer);
        Ok(Some(AvroKey { cursor, is_value }))
    }

    /// The fields of the latest key.
    pub(in super::super) fn fields(&self) -> &[SourceField] {
        match self.0.known.first().map(|plan| &plan.writer.block) {
            Some(Block::Plain(fields) | Block::Row(fields)) => fields,
            None => &[],
        }
    }

    /// Makes the plan of the latest key for the table that is set, if that was not done yet.
    pub(in super::super) fn fit(
        &mut self,
        tables_set: u64,
        members: impl FnOnce(&[SourceField]) -> Result<Vec<super::super::object::Member>, String>,
    ) -> Result<(), &str> {
        let Some(plan) = self.0.latest() else { return Err("") };
        let writer = &plan.writer;
        plan.fitted.fit(tables_set, || {
            let (Block::Plain(fields) | Block::Row(fields)) = &writer.block;
            let schema = &writer.schema;
            ImagePlan::of_row(schema, schema.optional(schema.root).1, &members(fields)?)
        });
        plan.fitted.reader.as_ref().map(|_| ()).map_err(String::as_str)
    }

    /// Makes the plan of the latest key, which is one value, for the table that is set. False where `member` has no column for it, or one
    /// that can't hold it.
    pub(in super::super) fn fit_value(
        &mut self,
        tables_set: u64,
        member: impl FnOnce(&SourceField) -> Option<super::super::object::Member>,
    ) -> bool {
        let Some(plan) = self.0.latest() else { return false };
        let writer = &plan.writer;
        plan.fitted.fit(tables_set, || {
            let member = writer.value.as_ref().and_then(member).ok_or_else(String::new)?;
            ImagePlan::of_value(&writer.schema, writer.schema.optional(writer.schema.root).1, &member)
        });
        plan.fitted.reader.is_ok()
    }

    /// Reads the key columns that have no value yet, after [`KeyPlans::fit`].
    pub(in super::super) fn read(&self, key: &AvroKey<'_>, rows: &mut Rows, notes: &mut Notes) -> Fallible<()> {
        let Some(Plan { writer, fitted: Fitted { reader: Ok(plan), .. }, .. }) = self.0.known.first() else {
            return Ok(());
        };
        let mut cursor = key.cursor.clone();
        let (columns, row) = rows.under_construction();
        plan.read(&writer.schema, &mut cursor, columns, row, Take::MissingKeys, notes)?;
        cursor.end()
    }

    /// Reads the key column that has no value yet, after [`KeyPlans::fit_value`]. Nothing is left of a value that it can't hold; false then.
    pub(in super::super) fn read_value(&self, key: &AvroKey<'_>, rows: &mut Rows, notes: &mut Notes) -> bool {
        let had: Vec<usize> = rows.under_construction().0.iter().map(ColumnBuilder::len).collect();
        let read = self.read(key, rows, notes);
        if read.is_err() {
            let (columns, _) = rows.under_construction();
            columns.iter_mut().zip(had).for_each(|(column, had)| column.truncate(had));
        }
        read.is_ok()
    }
}
