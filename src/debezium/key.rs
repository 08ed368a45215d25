//! A record's key: whether an upsert may go by it, and the row of a delete.

use std::borrow::Cow;

use super::avro::{AvroKey, KeyPlans, Writers, is_avro};
use super::blocks::{Blocks, Message};
use super::connect::{Block, SourceField};
use super::cursor::Cursor;
use super::decoder::DecodeOptions;
use super::fault::{Fallible, Reject, excerpt, reason, reject};
use super::images::Image;
use super::object::{Member, ObjectReader, Take, Unknown};
use super::plan::Table;
use super::rows::Rows;
use super::value::Notes;
use crate::change::{DeleteImage, Mode};
use crate::lineage::same_name;
use crate::record::Record;

/// Header of the delete of a changed key: the row's new key.
pub(super) const NEW_KEY: &str = "__debezium.newkey";
/// Header of the row behind it: the row's former key.
const OLD_KEY: &str = "__debezium.oldkey";

/// How the keys of a table's records were read lately.
#[derive(Debug, Default)]
pub(super) struct Keys {
    pub blocks: Blocks,
    pub avro: KeyPlans,
}

/// A record's key, opened.
#[derive(Debug)]
pub(super) enum Key<'k> {
    Json(Message<'k>),
    Avro(AvroKey<'k>),
    /// One value without a name, as JSON: the declared key column's.
    Value(Cow<'k, str>),
    /// There is one, and it can't be read: of another kind than the table's key, or damaged.
    Foreign(&'k [u8]),
}

#[cold]
pub(super) fn no_key() -> Box<Reject> {
    reject(reason::NO_KEY, "upsert needs a record key and this record has none: declare key columns, or use append")
}

/// The key, `None` where there is none. Where the table does not go by the record key, one that can't be read is [`Key::Foreign`];
/// where it does, that is an error.
pub(super) fn open_key<'k>(
    keys: &mut Keys,
    writers: &Writers,
    options: &DecodeOptions,
    topic: &str,
    key: &'k [u8],
) -> Fallible<Option<Key<'k>>> {
    let has_one_column = options.key_columns.as_ref().is_some_and(|columns| columns.len() == 1);
    let mut open = || {
        if is_avro(key) {
            return Ok(keys.avro.open(writers, key, has_one_column)?.map(Key::Avro));
        }
        let mut message = keys.blocks.open(topic, key)?;
        if message.payload.peek() == b'{' {
            return Ok(Some(Key::Json(message)));
        }
        let mut payload = message.payload.clone();
        let value = payload.raw()?;
        message.end(payload)?;
        match value {
            "null" => Ok(None),
            _ if has_one_column => Ok(Some(Key::Value(Cow::Borrowed(value)))),
            _ => Err(reject(reason::NO_KEY, "the record key is no object: declare key columns, or use append")),
        }
    };
    let opened = open();
    match opened {
        Err(_) if has_one_column && !is_avro(key) => Ok(Some(plain_text(key).unwrap_or(Key::Foreign(key)))),
        Err(_) if !options.goes_by_record_key() => Ok(Some(Key::Foreign(key))),
        opened => opened,
    }
}

/// A key of the string converter that is no JSON by itself.
#[cold]
fn plain_text(key: &[u8]) -> Option<Key<'_>> {
    let text = std::str::from_utf8(key).ok().filter(|text| !text.is_empty())?;
    if text.starts_with(STRUCT) {
        return None;
    }
    serde_json::to_string(text).ok().map(|json| Key::Value(Cow::Owned(json)))
}

/// How the string converter begins a key with named fields: its values are for people, not for reading.
const STRUCT: &str = "Struct{";

/// Whether the string converter's text of a key has a field of this name.
fn struct_names(key: &[u8], column: &str) -> bool {
    let text = std::str::from_utf8(key).ok().and_then(|text| text.strip_prefix(STRUCT));
    let mut fields = text.into_iter().flat_map(|text| text.split(',')).filter_map(|field| field.split_once('='));
    fields.any(|(name, _)| same_name(name, column))
}

const OTHER_FIELDS: &str = "the record key has other fields than the table's key";

/// The record's key columns are not the table's.
#[cold]
pub(super) fn other_key() -> Box<Reject> {
    misfit(OTHER_FIELDS)
}

#[cold]
fn misfit(why: &str) -> Box<Reject> {
    reject(reason::INCOMPATIBLE_SCHEMA, why)
}

/// Whether a delete has a record key.
#[derive(Clone, Copy, PartialEq, Eq)]
enum HasKey {
    No,
    Yes,
    /// One that can't be read, but says that it is of the table's key columns.
    Named,
}

/// What a record's key says, for the table that is set.
pub(super) struct KeySide<'d, 'r> {
    pub options: &'d DecodeOptions,
    pub table: &'d Table,
    pub keys: &'d mut Keys,
    pub writers: &'d Writers,
    /// The number of the table that is set.
    pub tables_set: u64,
    pub record: &'r Record<'r>,
}

impl<'r> KeySide<'_, 'r> {
    /// The key's object, if the record has one.
    fn open(&mut self) -> Fallible<Option<Key<'r>>> {
        match self.record.key {
            Some(key) => open_key(self.keys, self.writers, self.options, self.record.topic, key),
            None => Ok(None),
        }
    }

    /// In upsert mode: the key must be there, and of the table's key columns.
    pub(super) fn check(&mut self) -> Fallible<()> {
        if !self.options.goes_by_record_key() {
            return Ok(());
        }
        let Some(key) = self.open()? else { return Err(no_key()) };
        match key {
            Key::Json(message) if message.has_block => self.fit_block().map(|_| ()),
            Key::Json(message) => {
                let mut object = message.payload;
                let (mut whole, mut known) = (true, 0);
                let mut more = object.open_object()?;
                while more {
                    whole &= self.table.is_key_column(object.name()?.raw);
                    known += 1;
                    object.skip()?;
                    more = object.more(b'}')?;
                }
                if whole && known == self.table.keys.len() { Ok(()) } else { Err(other_key()) }
            }
            Key::Avro(_) => self.fit_writer(),
            // Only where the table does not go by the record key.
            Key::Value(_) | Key::Foreign(_) => Ok(()),
        }
    }

    /// In upsert mode: what the record key says of the key columns must be what the row under construction has there.
    ///
    /// # Errors
    /// `key_mismatch`, or why the key can't be read.
    pub(super) fn agrees(&mut self, like: &ObjectReader, rows: &mut Rows) -> Fallible<()> {
        if self.options.mode != Mode::Upsert {
            return Ok(());
        }
        let mut notes = Notes::default();
        match rows.other_key(|probe| self.read(Some(like), probe, &mut notes).map(|_| ()))? {
            None => Ok(()),
            Some(column) => Err(self.mismatch(column, "the row")),
        }
    }

    #[cold]
    fn mismatch(&self, column: &str, beside: &str) -> Box<Reject> {
        let key = self.record.key.map(String::from_utf8_lossy).unwrap_or_default();
        let detail = format!("column {column}: {beside} has another value than the record key {}", excerpt(&key));
        reject(reason::KEY_MISMATCH, detail)
    }

    /// How keys with these fields are read into the table.
    fn members(table: &Table, options: &DecodeOptions, fields: &[SourceField]) -> Result<Vec<Member>, String> {
        if options.key_columns.is_some()
            || options.mode == Mode::Append
            || table.is_whole_key(fields.iter().map(|f| f.name.as_str()))
        {
            table.key_members(fields, options)
        } else {
            Err(OTHER_FIELDS.to_owned())
        }
    }

    /// The reader of the latest block.
    fn fit_block(&mut self) -> Fallible<&ObjectReader> {
        let Some(known) = self.keys.blocks.latest() else { return Err(misfit("")) };
        let (Block::Plain(fields) | Block::Row(fields)) = &known.block;
        known.fitted.fit(self.tables_set, || {
            Self::members(self.table, self.options, fields).map(|m| ObjectReader::new(m, Unknown::Skipped))
        });
        known.fitted.reader.as_ref().map_err(|why| misfit(why))
    }

    fn fit_writer(&mut self) -> Fallible<()> {
        let members = |fields: &[SourceField]| Self::members(self.table, self.options, fields);
        self.keys.avro.fit(self.tables_set, members).map_err(misfit)
    }

    /// Reads the key columns that have no value yet from the record key; false if there is none that can be read.
    pub(super) fn read(&mut self, like: Option<&ObjectReader>, rows: &mut Rows, notes: &mut Notes) -> Fallible<bool> {
        let message = match self.open()? {
            None | Some(Key::Foreign(_)) => return Ok(false),
            Some(Key::Json(message)) => message,
            Some(Key::Avro(key)) if key.is_value => {
                let member = |value: &SourceField| self.table.only_key_member(value, self.options);
                // As with a value in JSON: one that the column can't hold is a key of another kind.
                return Ok(
                    self.keys.avro.fit_value(self.tables_set, member) && self.keys.avro.read_value(&key, rows, notes)
                );
            }
            Some(Key::Avro(key)) => {
                self.fit_writer()?;
                self.keys.avro.read(&key, rows, notes)?;
                return Ok(true);
            }
            Some(Key::Value(value)) => {
                let Some(name) = self.table.only_key() else { return Ok(false) };
                // A value that the column can't hold is a key of another kind.
                let read = rows.read_value(&self.table.bare_key, name, &mut Cursor::new(&value), notes);
                return Ok(read.unwrap_or(false));
            }
        };
        let mut payload = message.payload.clone();
        if message.has_block {
            rows.read(self.fit_block()?, &mut payload, Take::MissingKeys, notes)?;
        } else {
            // A key without schema block beside a value with one is written as the value's own columns are.
            let keys = &self.table.keys;
            let has_keys = |object: &&ObjectReader| !keys.is_empty() && keys.iter().all(|at| object.takes(*at));
            let object = like.filter(has_keys).unwrap_or(&self.table.bare_key);
            rows.read(object, &mut payload, Take::MissingKeys, notes)?;
        }
        message.end(payload)?;
        Ok(true)
    }

    /// The row's former key, where its key was changed: its place among the former keys. The header is JSON, whatever the record's
    /// own format.
    pub(super) fn former(&mut self, like: &ObjectReader, rows: &mut Rows, notes: &mut Notes) -> Option<u32> {
        let header = self.record.header(OLD_KEY)?;
        let mut message = self.keys.blocks.open(self.record.topic, header).ok()?;
        if message.payload.peek() != b'{' {
            return None;
        }
        // The lacking columns are the row's, not the key's.
        let lacking = std::mem::take(&mut notes.lacking);
        // Connect's own header converter writes decimals as digits, in whatever form the record has them.
        let mut readers = [like, &self.table.bare_key].into_iter();
        let former = readers.find_map(|reader| rows.read_former_key(reader, &mut message.payload.clone(), notes));
        notes.forget_lacking();
        notes.lacking = lacking;
        former
    }

    /// Fills the row of a delete.
    pub(super) fn delete(
        &mut self,
        before: Option<&dyn Image>,
        like: &ObjectReader,
        rows: &mut Rows,
        notes: &mut Notes,
    ) -> Fallible<()> {
        let has_key = match self.open()? {
            None => HasKey::No,
            // Its fields are named, if not to be read.
            Some(Key::Foreign(key)) if self.table.key_names().all(|name| struct_names(key, name)) => HasKey::Named,
            Some(_) => HasKey::Yes,
        };
        let vouched = self.options.delete_image == DeleteImage::Before;
        // Without a key a delete can only name its row by the whole of it, and the source sends the whole then.
        let whole = vouched || self.options.mode == Mode::Append && has_key == HasKey::No;
        if whole && let Some(before) = before {
            before.read(rows, Take::All, notes)?;
        }
        let mut is_named = whole || !self.table.keys.is_empty();
        if !rows.has_keys() || !is_named {
            is_named |= self.read(Some(like), rows, notes)?;
        }
        // Columns that are not of the source's key may be fillers in `before`: null, 0, an empty text, the DEFAULT.
        if !rows.has_keys()
            && (vouched || has_key != HasKey::Yes)
            && let Some(before) = before
        {
            before.read(rows, Take::MissingKeys, notes)?;
        }
        if !is_named || !rows.has_keys() && (self.options.mode == Mode::Upsert || has_key != HasKey::No) {
            let how = match has_key {
                HasKey::No => "the delete names no key: its before lacks the key columns; set REPLICA IDENTITY FULL",
                _ => {
                    "the delete's record key does not name the table's key columns, and its before need not have their values: \
                     take key columns of the record key, or set REPLICA IDENTITY FULL and delete_image = \"before\""
                }
            };
            return Err(reject(reason::NO_KEY, how));
        }
        if self.options.mode == Mode::Upsert
            && let Some(before) = before
            && let Some(column) =
                rows.other_key(|probe| before.read(probe, Take::MissingKeys, &mut Notes::default()))?
        {
            return Err(self.mismatch(column, "before"));
        }
        Ok(())
    }
}
