//! What a table lacks for a record: the columns that are asked for, and the records for which none are.

use super::blocks::Message;
use super::connect::{Block, SourceField};
use super::cursor::Cursor;
use super::decoder::{Decoder, Pushed};
use super::envelope::Envelope;
use super::fault::{Fallible, reason, reject};
use super::infer;
use super::key::{Key, no_key, open_key, other_key};
use crate::change::Mode;
use crate::lineage::same_name;
use crate::record::Record;

impl Decoder {
    /// What to answer to a row that no reader fits.
    #[cold]
    pub(super) fn ask(
        &mut self,
        record: &Record<'_>,
        message: &Message<'_>,
        envelope: &Envelope<Cursor<'_>>,
    ) -> Fallible<Pushed> {
        self.asking_lsn = envelope.position.lsn.filter(|_| message.has_block);
        let key = self.key_fields(record)?;
        if !message.has_block {
            if self.options.infers() || self.options.source.is_asked() {
                let fields = self.bare_fields(envelope)?;
                self.check_key(&fields, &key)?;
                let table = self.table.as_ref();
                let schema = self.inference.schema(&self.options, &fields, &key, table, self.tables_set)?;
                return Ok(Pushed::NeedsSchema(schema));
            }
            if self.options.declared.is_empty() {
                let how = "the record has no schema block and the table does not exist: declare the columns, set infer_types = true, or set schemas.enable=true";
                return Err(reject(reason::NO_SCHEMA, how));
            }
            let is_declared = |k: &SourceField| self.options.declared.iter().any(|c| c.name == k.name);
            if self.options.goes_by_record_key() && !key.iter().all(is_declared) {
                return Err(other_key());
            }
            let names: Vec<String> = key.into_iter().map(|k| k.name).collect();
            return Ok(Pushed::NeedsSchema(self.options.declared_schema(&names)));
        }
        let Some(known) = self.values.latest() else { return Err(reject(reason::NO_SCHEMA, "no schema block")) };
        let fields: Vec<_> = match &known.block {
            Block::Row(fields) if !envelope.flat => fields.clone(),
            Block::Plain(fields) if envelope.flat => {
                fields.iter().filter(|f| self.options.is_rows_own(&f.name)).cloned().collect()
            }
            _ => return Err(reject(reason::NOT_DEBEZIUM, "the schema block is of another format than the payload")),
        };
        self.check_key(&fields, &key)?;
        if let Some(known) = self.values.latest() {
            known.fitted.ask(self.tables_set)?;
        }
        Ok(Pushed::NeedsSchema(self.options.row_schema(&fields, &key, self.table.as_ref())))
    }

    /// Refuses a record of another key than the table's before its columns are asked for: no columns make it fit, and a table that is to
    /// get another key stops.
    pub(super) fn check_key(&self, fields: &[SourceField], key: &[SourceField]) -> Fallible<()> {
        if self.options.mode != Mode::Upsert {
            return Ok(());
        }
        let only_in_key = key.iter().filter(|k| fields.iter().all(|f| !same_name(&f.name, &k.name)));
        let names = only_in_key.chain(fields).map(|f| f.name.as_str());
        let mut keys = names.filter(|name| self.options.is_key(name, key));
        let is_whole = match (&self.table, &self.options.key_columns) {
            (Some(table), _) => table.is_whole_key(keys),
            (None, None) => keys.next().is_some(),
            (None, Some(declared)) => {
                let keys: Vec<&str> = keys.collect();
                declared.iter().all(|name| keys.contains(&name.as_str()))
            }
        };
        if is_whole { Ok(()) } else { Err(other_key()) }
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
            Some(Key::Value(_) | Key::Foreign(_)) => return Ok(Vec::new()),
            None if self.options.goes_by_record_key() => return Err(no_key()),
            None => return Ok(Vec::new()),
        };
        if key.has_block {
            return Ok(match self.keys.blocks.latest().map(|known| &known.block) {
                Some(Block::Plain(fields) | Block::Row(fields)) => fields.clone(),
                None => Vec::new(),
            });
        }
        infer::fields(&key.payload)
    }
}
