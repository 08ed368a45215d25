//! Records without schema block, for a table whose columns the source database describes.
//!
//! The database is asked by somebody else: the decoder says when it needs to know. What it knows is the types of today, and a record
//! without schema does not say with which it was written; so a table that contradicts them is refused rather than misread.

use std::collections::BTreeSet;

use super::avro::is_avro;
use super::blocks::Message;
use super::connect::{SourceField, document};
use super::cursor::Cursor;
use super::decoder::{DecodeOptions, Decoder, Pushed};
use super::envelope::{Envelope, Kind, scan};
use super::fault::{Fallible, Reject, reason};
use super::infer;
use super::key::Keys;
use super::plan::Table;
use super::reader::Wire;
use crate::change::ColumnType;
use crate::lineage::same_name;
use crate::record::Record;

/// Names that are remembered to have been asked for; a topic with more of them is no table's.
const MAX_SOUGHT: usize = 1000;

/// A column as the source database describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceColumn {
    pub name: String,
    pub column_type: ColumnType,
    /// How its values are written, where the column's type does not tell.
    pub wire: Option<Wire>,
}

/// What the source database says of the columns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SourceTypes {
    /// Nobody can be asked.
    #[default]
    None,
    /// It is to be asked before the first row without schema block.
    Unasked,
    /// None where it has no such table.
    Columns(Vec<SourceColumn>),
}

impl SourceTypes {
    pub(super) fn is_asked(&self) -> bool {
        matches!(self, SourceTypes::Columns(_))
    }

    fn column(&self, name: &str) -> Option<&SourceColumn> {
        let SourceTypes::Columns(columns) = self else { return None };
        columns.iter().find(|c| c.name == name).or_else(|| columns.iter().find(|c| same_name(&c.name, name)))
    }
}

impl DecodeOptions {
    /// A field's type, where the configuration or the source database tells it.
    pub(super) fn told_type(&self, name: &str) -> Option<&ColumnType> {
        let declared = self.declared.iter().find(|c| c.name == name).map(|c| &c.column_type);
        declared.or_else(|| self.source.column(name).map(|c| &c.column_type))
    }

    /// How the values of a column are written, as far as the source database says. Of a column that it does not have (any more), what is
    /// left in the topic could be written in any way.
    pub(super) fn source_wire_of(&self, name: &str) -> Option<Wire> {
        match self.source.column(name) {
            Some(column) => column.wire,
            None => (self.source.is_asked() && !self.is_set(name)).then_some(Wire::Unsaid),
        }
    }

    /// Whether the configuration answers for what a column's values are.
    fn is_set(&self, name: &str) -> bool {
        self.declared.iter().any(|c| c.name == name) || self.wire.iter().any(|(column, _)| column == name)
    }

    /// Whether the table can take the values that the source database's types promise.
    ///
    /// # Errors
    /// The sentence that names the column.
    pub(super) fn check_source(&self, table: &Table) -> Result<(), String> {
        let SourceTypes::Columns(columns) = &self.source else { return Ok(()) };
        for column in columns.iter().filter(|c| !self.is_set(&c.name)) {
            let have = table.column_of(&column.name).and_then(|at| table.schema.columns.get(at));
            if let Some(have) = have
                && is_misread(&have.column_type, &column.column_type, column.wire)
            {
                return Err(format!(
                    "column {}: the table has {}, the source database {}, and a record without schema doesn't say with which of the two \
                     it was written: declare the column's type under `columns` as the records of this topic have it, or let the \
                     connector send schemas",
                    have.name,
                    have.column_type,
                    described(column),
                ));
            }
        }
        Ok(())
    }
}

/// A column's type for a person, with the scale where the type does not say it.
fn described(column: &SourceColumn) -> String {
    match (&column.column_type, column.wire) {
        (ColumnType::String, Some(Wire::Unscaled(scale))) => format!("a numeric of scale {scale}"),
        (column_type, _) => column_type.to_string(),
    }
}

/// Whether values that the source writes as `source` could become other values in a column of type `table`.
fn is_misread(table: &ColumnType, source: &ColumnType, wire: Option<Wire>) -> bool {
    use ColumnType as T;
    match (table, source) {
        (T::Decimal { scale, .. }, T::Decimal { .. } | T::String) => {
            matches!(wire, Some(Wire::Unscaled(have)) if have != i32::from(*scale))
        }
        (T::Decimal { .. }, T::Date | T::Time | T::Timestamp | T::Binary) => true,
        (T::Date, source) => !matches!(source, T::Date | T::String),
        (T::Time, source) => !matches!(source, T::Time | T::String),
        (T::Timestamp | T::TimestampTz, source) => !matches!(source, T::Timestamp | T::TimestampTz | T::String),
        (T::List(table), T::List(source)) | (T::Map(table), T::Map(source)) => is_misread(table, source, wire),
        _ => false,
    }
}

/// What the source database was asked for already.
#[derive(Debug, Default)]
pub(super) struct Sought {
    fields: BTreeSet<String>,
    /// A value did not fit its column.
    doubted: bool,
}

/// What a row with fields that no column takes needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lack {
    /// The source database is to be asked.
    Source,
    /// The table gets columns.
    Columns,
    /// Nobody knows them.
    Nothing,
}

impl Sought {
    #[cold]
    pub(super) fn look(
        &mut self,
        options: &DecodeOptions,
        table: &Table,
        envelope: &Envelope<Cursor<'_>>,
    ) -> Fallible<Lack> {
        let mut lack = if options.infers() { Lack::Columns } else { Lack::Nothing };
        let Some(row) = envelope.after.as_ref().filter(|_| options.source.is_asked() && !envelope.is_document()) else {
            return Ok(lack);
        };
        let mut is_new = false;
        for field in infer::fields(row)? {
            let is_own = !envelope.flat || table.is_rows_own(&field.name, options);
            if !is_own || table.column_of(&field.name).is_some() {
                continue;
            }
            if options.told_type(&field.name).is_some() {
                lack = Lack::Columns;
            } else {
                is_new |= self.fields.len() < MAX_SOUGHT && self.fields.insert(field.name);
            }
        }
        Ok(if is_new { Lack::Source } else { lack })
    }
}

impl Decoder {
    /// Takes what the source database says of the columns; none where it has no such table.
    ///
    /// # Errors
    /// The sentence for a person, when records could be misread by it: the table has a type that contradicts it, or it said something
    /// else before.
    pub fn describe(&mut self, mut columns: Vec<SourceColumn>) -> Result<(), String> {
        if let SourceTypes::Columns(former) = &self.options.source {
            // Records from before a column was dropped still have it.
            let gone = former.iter().filter(|f| columns.iter().all(|c| c.name != f.name)).cloned();
            let gone: Vec<SourceColumn> = gone.collect();
            columns.extend(gone);
        }
        let former = std::mem::replace(&mut self.options.source, SourceTypes::Columns(columns));
        if let (SourceTypes::Columns(former), SourceTypes::Columns(now)) = (&former, &self.options.source) {
            let differs = |c: &&SourceColumn| {
                let then = former.iter().find(|f| f.name == c.name);
                then.is_some_and(|then| then.wire != c.wire) && !self.options.is_set(&c.name)
            };
            if let Some(column) = now.iter().find(differs) {
                return Err(format!(
                    "column {} was altered in the source database to {}, which changes how its values are written; a record without schema \
                     doesn't say which way that was. Start firn again if none from before the change is left in the topic; else declare \
                     the column with `columns` and `encodings`, or let the connector send schemas",
                    column.name,
                    described(column),
                ));
            }
        }
        let Some(table) = &self.table else { return Ok(()) };
        self.options.check_source(table)?;
        let (schema, lineage, keys) = (table.schema.clone(), table.lineage.clone(), table.keys.clone());
        self.table = Some(Table::new(schema, lineage, keys, &self.options));
        self.tables_set += 1;
        Ok(())
    }

    /// What the source database has said.
    pub fn source_types(&self) -> &SourceTypes {
        &self.options.source
    }

    /// From here on fields and values that nothing was known of may be asked for again.
    pub fn seek_again(&mut self) {
        self.sought = Sought::default();
    }

    /// The source database is to be asked before this record without block.
    #[cold]
    pub(super) fn needs_source(&mut self, message: &Message<'_>, record: &Record<'_>) -> Fallible<Option<Pushed>> {
        let mut payload = message.payload.clone();
        let scanned = scan(&mut payload, &mut self.source, self.options.format, record, Cursor::skip)?;
        let is_row = matches!(scanned.kind, Kind::Row(_)) && !scanned.is_document();
        Ok(is_row.then(|| asked_of(message)))
    }

    /// Whether a record's key has no schema: it is read as the columns are.
    pub(super) fn is_bare(keys: &mut Keys, record: &Record<'_>) -> bool {
        let Some(key) = record.key.filter(|key| !is_avro(key)) else { return false };
        !keys.blocks.open(record.topic, key).is_ok_and(|message| message.has_block)
    }

    /// The columns of a record without schema block: of the types that were told, else by its values.
    pub(super) fn bare_fields(&self, envelope: &Envelope<Cursor<'_>>) -> Fallible<Vec<SourceField>> {
        if envelope.is_document() {
            return Ok(vec![document()]);
        }
        let told = self.options.source.is_asked();
        let row = envelope.after.as_ref().or(envelope.before.as_ref().filter(|_| told));
        let mut fields = match row {
            Some(row) => infer::row_fields(row, &self.options)?,
            None => Vec::new(),
        };
        if envelope.flat {
            let own = |name: &str| match &self.table {
                Some(table) => table.is_rows_own(name, &self.options),
                None => self.options.is_rows_own(name),
            };
            fields.retain(|f| own(&f.name));
        }
        if self.table.is_none() {
            // A new table has its declared columns first.
            let declared = self.options.declared.iter().map(|c| infer::field(&c.name, c.column_type.clone()));
            let further = fields.into_iter().filter(|f| self.options.declared.iter().all(|c| c.name != f.name));
            fields = declared.chain(further).collect();
        }
        Ok(fields)
    }

    /// What a record without schema block needs that was rejected: a wider table, where types may be inferred or were told.
    #[cold]
    pub(super) fn wider(&mut self, record: &Record<'_>, fault: &Reject) -> Option<Pushed> {
        let value = record.value.filter(|value| !is_avro(value))?;
        let asked = self.options.source.is_asked();
        if fault.reason != reason::BAD_VALUE || !(self.options.infers() || asked) {
            return None;
        }
        let message = self.values.open(record.topic, value).ok().filter(|m| !m.has_block)?;
        let mut payload = message.payload.clone();
        let envelope = scan(&mut payload, &mut self.source, self.options.format, record, Cursor::skip).ok()?;
        let fields = infer::row_fields(&envelope.after?, &self.options).ok()?;
        if self.table.as_ref()?.is_too_narrow(&fields, &self.options) {
            let key = self.key_fields(record).ok()?;
            self.check_key(&fields, &key).ok()?;
            let table = self.table.as_ref();
            let schema = self.inference.schema(&self.options, &fields, &key, table, self.tables_set).ok()?;
            return Some(Pushed::NeedsSchema(schema));
        }
        // The source may have altered the column.
        (asked && !std::mem::replace(&mut self.sought.doubted, true)).then(|| asked_of(&message))
    }
}

/// Says that the source database is to be asked, and which database it has to be.
pub(super) fn asked_of(message: &Message<'_>) -> Pushed {
    Pushed::NeedsSource { database: database_of(&message.payload) }
}

/// The database that a record names in its `source`.
fn database_of(payload: &Cursor<'_>) -> Option<String> {
    let source = member(payload, "source")?;
    let mut db = member(&source, "db")?;
    let mut scratch = Vec::new();
    db.string().ok()?.decoded(&mut scratch).ok().map(str::to_owned)
}

fn member<'a>(object: &Cursor<'a>, wanted: &str) -> Option<Cursor<'a>> {
    let mut cursor = object.clone();
    if cursor.peek() != b'{' {
        return None;
    }
    let mut more = cursor.open_object().ok()?;
    while more {
        if cursor.name().ok()?.raw == wanted {
            return Some(cursor);
        }
        cursor.skip().ok()?;
        more = cursor.more(b'}').ok()?;
    }
    None
}
