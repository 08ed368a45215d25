//! A record's key: whether an upsert may go by it, and the row of a delete.

use super::blocks::{Blocks, Message};
use super::connect::Block;
use super::cursor::Cursor;
use super::decoder::DecodeOptions;
use super::envelope::Envelope;
use super::fault::{Fallible, Reject, not_json, reason, reject};
use super::object::{ObjectReader, Take};
use super::plan::Table;
use super::rows::Rows;
use super::value::Notes;
use crate::change::{DeleteImage, Mode};
use crate::record::Record;

/// Header of the delete of a changed key: the row's new key.
pub(super) const NEW_KEY: &str = "__debezium.newkey";
/// Header of the row behind it: the row's former key.
const OLD_KEY: &str = "__debezium.oldkey";

/// Refuses what no JSON parser should see.
pub(super) fn no_avro(bytes: &[u8], what: &str) -> Fallible<()> {
    match bytes.first() {
        Some(0) => {
            let how = "begins with byte 0: Avro in the Confluent wire format, which needs a schema registry; use the JSON converter";
            Err(reject(reason::AVRO, format!("the {what} {how}")))
        }
        Some(_) => Ok(()),
        None => Err(not_json(format!("the {what} is empty"))),
    }
}

#[cold]
pub(super) fn no_key() -> Box<Reject> {
    reject(reason::NO_KEY, "upsert needs a record key and this record has none: declare key columns, or use append")
}

/// The key's object, `None` where there is none. Where the table does not go by the record key, a key of another kind (a plain text,
/// Avro) is none; where it does, that is an error.
pub(super) fn open_key<'k>(
    keys: &mut Blocks,
    options: &DecodeOptions,
    topic: &str,
    key: &'k [u8],
) -> Fallible<Option<Message<'k>>> {
    let opened = no_avro(key, "key").and_then(|()| {
        let mut message = keys.open(topic, key)?;
        match message.payload.peek() {
            b'{' => Ok(Some(message)),
            b'n' => Ok(None),
            _ => Err(reject(reason::NO_KEY, "the record key is no object: declare key columns, or use append")),
        }
    });
    let needed = options.mode == Mode::Upsert && options.key_columns.is_none();
    if needed { opened } else { Ok(opened.ok().flatten()) }
}

/// The names of an object's members.
pub(super) fn names(mut object: Cursor<'_>) -> Fallible<Vec<String>> {
    let (mut found, mut scratch) = (Vec::new(), Vec::new());
    let mut more = object.open_object()?;
    while more {
        found.push(object.name()?.decoded(&mut scratch)?.to_owned());
        object.skip()?;
        more = object.more(b'}')?;
    }
    Ok(found)
}

/// What a record's key says, for the table that is set.
pub(super) struct KeySide<'d, 'r> {
    pub options: &'d DecodeOptions,
    pub table: &'d Table,
    pub keys: &'d mut Blocks,
    /// The number of the table that is set.
    pub tables_set: u64,
    pub record: &'r Record<'r>,
}

impl<'r> KeySide<'_, 'r> {
    /// The key's object, if the record has one.
    fn open(&mut self) -> Fallible<Option<Message<'r>>> {
        match self.record.key {
            Some(key) => open_key(self.keys, self.options, self.record.topic, key),
            None => Ok(None),
        }
    }

    /// In upsert mode: the key must be there, and of the table's key columns.
    pub(super) fn check(&mut self) -> Fallible<()> {
        if self.options.mode != Mode::Upsert || self.options.key_columns.is_some() {
            return Ok(());
        }
        let Some(message) = self.open()? else { return Err(no_key()) };
        let whole = if message.has_block {
            self.fit_block();
            self.keys.latest().is_some_and(|known| known.reader.is_ok())
        } else {
            let mut object = message.payload;
            let mut known = 0;
            let mut more = object.open_object()?;
            let mut whole = true;
            while more {
                let name = object.name()?;
                whole &= self.table.is_key_column(name.raw);
                known += 1;
                object.skip()?;
                more = object.more(b'}')?;
            }
            whole && known == self.table.keys.len()
        };
        if whole { Ok(()) } else { Err(self.other_key()) }
    }

    #[cold]
    fn other_key(&mut self) -> Box<Reject> {
        let why = match self.keys.latest().map(|known| &known.reader) {
            Some(Err(why)) => why.clone(),
            _ => "the record key has other fields than the table's key".to_owned(),
        };
        reject(reason::INCOMPATIBLE_SCHEMA, why)
    }

    fn fit_block(&mut self) {
        let Some(known) = self.keys.latest() else { return };
        if known.built_for != Some(self.tables_set) {
            let (Block::Plain(fields) | Block::Row(fields)) = &known.block;
            known.reader = if self.options.key_columns.is_some()
                || self.options.mode == Mode::Append
                || self.table.is_whole_key(fields.iter().map(|f| f.name.as_str()))
            {
                self.table.key_reader(fields, self.options)
            } else {
                Err("the record key has other fields than the table's key".to_owned())
            };
            known.built_for = Some(self.tables_set);
        }
    }

    /// Reads the key columns that have no value yet from the record key; false if there is none.
    pub(super) fn read(&mut self, like: Option<&ObjectReader>, rows: &mut Rows, notes: &mut Notes) -> Fallible<bool> {
        let Some(message) = self.open()? else { return Ok(false) };
        let mut payload = message.payload.clone();
        if message.has_block {
            self.fit_block();
            match self.keys.latest().map(|known| &known.reader) {
                Some(Ok(object)) => rows.read(object, &mut payload, Take::MissingKeys, notes)?,
                Some(Err(why)) => return Err(reject(reason::INCOMPATIBLE_SCHEMA, why.clone())),
                None => return Ok(false),
            }
        } else {
            // A key without schema block beside a value with one is written as the value's own columns are.
            let object = like.filter(|_| !self.table.keys.is_empty()).unwrap_or(&self.table.bare_key);
            rows.read(object, &mut payload, Take::MissingKeys, notes)?;
        }
        message.end(payload)?;
        Ok(true)
    }

    /// The row's former key, where its key was changed: its place among the former keys. The header is JSON, whatever the record's
    /// own format.
    pub(super) fn former(&mut self, like: &ObjectReader, rows: &mut Rows, notes: &mut Notes) -> Option<u32> {
        let header = self.record.header(OLD_KEY)?;
        let mut message = self.keys.open(self.record.topic, header).ok()?;
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
        envelope: &Envelope<'_>,
        object: &ObjectReader,
        rows: &mut Rows,
        notes: &mut Notes,
    ) -> Fallible<()> {
        // Without a key a delete can only name its row by the whole of it, and the source sends the whole then.
        let keyless = self.options.mode == Mode::Append && self.open()?.is_none();
        let whole = self.options.delete_image == DeleteImage::Before || keyless;
        if whole && let Some(before) = &envelope.before {
            rows.read(object, &mut before.clone(), Take::All, notes)?;
        }
        if !rows.has_keys() || self.table.keys.is_empty() && !whole {
            self.read(Some(object), rows, notes)?;
        }
        if !rows.has_keys()
            && let Some(before) = &envelope.before
        {
            rows.read(object, &mut before.clone(), Take::MissingKeys, notes)?;
        }
        if !rows.has_keys() && self.options.mode == Mode::Upsert {
            let how = "the delete names no key: its before lacks the key columns; set REPLICA IDENTITY FULL";
            return Err(reject(reason::NO_KEY, how));
        }
        Ok(())
    }
}
