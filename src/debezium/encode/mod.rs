//! Rows of a table become records of its topic again: the inverse of the [decoder](super::decoder), for rows that are told anew.
//!
//! What a record looks like is taken from the topic's own: its schema block byte for byte, its envelope, the order of the key's fields.
//! How a value is written follows from how it would be read. Nothing is taken on trust: every record is decoded before it is given away,
//! and must say what the row says.

mod text;
mod writer;

use arrow_array::{Array, RecordBatch};
use arrow_cast::display::array_value_to_string;
use serde_json::{Map, Value};

use super::avro::is_avro;
use super::blocks::wrapped;
use super::connect::{Block, SourceField, parse_block};
use super::cursor::Cursor;
use super::decoder::{Decoder, Pushed};
use super::fault::{Fallible, excerpt};
use super::plan::Table;
use crate::change::{Op, origin};
use crate::lineage::same_name;
use crate::record::Record;
use writer::{Writer, between, string, write, writer};

/// A record of the topic, as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    pub key: Vec<u8>,
    pub value: Vec<u8>,
}

/// When and where in the source's log a row was changed last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    pub source_ms: i64,
    pub lsn: Option<i64>,
}

/// A record to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    pub key: Vec<u8>,
    pub value: Vec<u8>,
}

/// Writes rows of one table as changes of the op `r` of an incremental snapshot.
#[derive(Debug)]
pub struct Encoder {
    decoder: Decoder,
    topic: String,
    value: Frame,
    key: Frame,
    envelope: Vec<(String, Part)>,
    source: Map<String, Value>,
    /// Columns that the topic's records tell.
    told: Vec<usize>,
}

/// An object and what stands around it.
#[derive(Debug)]
struct Frame {
    open: String,
    close: &'static str,
    fields: Vec<Field>,
}

#[derive(Debug)]
struct Field {
    name: String,
    column: usize,
    writer: Writer,
}

/// A member of the envelope.
#[derive(Debug)]
enum Part {
    After,
    Source,
    Op,
    /// When the record is written, in this many parts of a millisecond.
    Now(i64),
    As(String),
}

/// A message's schema block, if it has one, and its payload.
fn apart(bytes: &[u8]) -> Result<(Option<&str>, &str), String> {
    if is_avro(bytes) {
        return Err("its records are Avro; only JSON can be written from the lake".to_owned());
    }
    let text = std::str::from_utf8(bytes).map_err(|_| "its newest record is no text".to_owned())?;
    Ok(wrapped(text).map_err(|e| e.to_string())?.unwrap_or((None, text)))
}

fn names(object: &str) -> Fallible<Vec<String>> {
    let (mut cursor, mut names, mut scratch) = (Cursor::new(object), Vec::new(), Vec::new());
    let mut more = cursor.open_object()?;
    while more {
        names.push(cursor.name()?.decoded(&mut scratch)?.to_owned());
        cursor.skip()?;
        more = cursor.more(b'}')?;
    }
    Ok(names)
}

/// The values of a field in all samples that have it.
fn values<'v>(samples: &'v [Value], name: &str) -> Vec<&'v Value> {
    samples.iter().filter_map(|sample| sample.get(name)).collect()
}

impl Encoder {
    /// `decoder` has the table, and has read the first of the samples, which is the newest; the others show what values look like
    /// that are null there.
    ///
    /// # Errors
    /// The sentence for a person: records that can't be written from rows of this table.
    pub fn new(decoder: Decoder, topic: &str, samples: &[Sample]) -> Result<Self, String> {
        let Some(newest) = samples.first() else { return Err("it has no record to take the form from".to_owned()) };
        let Some(table) = &decoder.table else { return Err("the table's columns are not known".to_owned()) };
        let (block, payload) = apart(&newest.value)?;
        let whole: Value = serde_json::from_str(payload).map_err(|e| format!("its newest record is no JSON: {e}"))?;
        let (Some(Value::Object(source)), Some(Value::Object(_))) = (whole.get("source"), whole.get("after")) else {
            return Err(
                "its newest record is no envelope with `after` and `source` (flattened, or a document)".to_owned()
            );
        };
        let payloads =
            samples.iter().filter_map(|sample| serde_json::from_str::<Value>(apart(&sample.value).ok()?.1).ok());
        let images: Vec<Value> = payloads.filter_map(|mut whole| Some(whole.get_mut("after")?.take())).collect();
        let after = Cursor::new(payload);
        let after = member(after, "after").map_err(|e| e.to_string())?.unwrap_or_default();
        let fields = match block.map(parse_block).transpose().map_err(|e| e.to_string())? {
            Some(Block::Row(fields)) => described(&decoder, table, &fields, &images)?,
            Some(Block::Plain(_)) => return Err("its newest record has a schema without a row".to_owned()),
            None => bare(table, &names(after).map_err(|e| e.to_string())?, &images)?,
        };
        let key = key_frame(&decoder, table, samples, &fields)?;
        let told = told(table, &fields);
        let frame = Frame::new(block, fields);
        let envelope = names(payload).map_err(|e| e.to_string())?.into_iter();
        let envelope = envelope.map(|name| (name.clone(), part(&name, &whole))).collect();
        let topic = topic.to_owned();
        let mut encoder = Self { value: frame, key, envelope, source: source.clone(), told, topic, decoder };
        encoder.check_key(newest)?;
        Ok(encoder)
    }

    /// The source's own key has to come out byte by byte: by it producers choose the partition, and compaction what to keep.
    fn check_key(&mut self, sample: &Sample) -> Result<(), String> {
        let record =
            Record { topic: &self.topic, key: Some(&sample.key), value: Some(&sample.value), ..Record::default() };
        let pushed = self.decoder.push(&record);
        let rows = self.decoder.finish().rows;
        if !matches!(pushed, Pushed::Row(_)) {
            return Err(format!("its newest record is not read as a row: {pushed:?}"));
        }
        let key = self.key.bytes(&rows, 0)?;
        match key == sample.key {
            true => Ok(()),
            false => Err(format!(
                "its keys are written in another way than firn would: {} instead of {}",
                excerpt(&String::from_utf8_lossy(&sample.key)),
                excerpt(&String::from_utf8_lossy(&key)),
            )),
        }
    }

    /// The rows, of the table's columns and types, as records; one stamp for each.
    ///
    /// # Errors
    /// The sentence that names the column and the row which no record of this topic would say.
    pub fn encode(&mut self, rows: &RecordBatch, stamps: &[Stamp], now_ms: i64) -> Result<Vec<Encoded>, String> {
        let mut encoded = Vec::with_capacity(rows.num_rows());
        for (row, stamp) in stamps.iter().enumerate().take(rows.num_rows()) {
            encoded.push(Encoded { key: self.key.bytes(rows, row)?, value: self.record(rows, row, *stamp, now_ms)? });
        }
        self.verify(rows, &encoded)?;
        Ok(encoded)
    }

    fn record(&self, rows: &RecordBatch, row: usize, stamp: Stamp, now_ms: i64) -> Result<Vec<u8>, String> {
        let mut out = self.value.open.clone().into_bytes();
        between(&mut out, b'{', &self.envelope, b'}', |out, (name, part)| {
            string(out, name)?;
            out.push(b':');
            match part {
                Part::After => self.value.object(rows, row, out)?,
                Part::Source => serde_json::to_writer(out, &self.source_of(stamp)).map_err(|e| e.to_string())?,
                Part::Op => out.extend_from_slice(br#""r""#),
                Part::Now(parts) => out.extend_from_slice((now_ms * parts).to_string().as_bytes()),
                Part::As(text) => out.extend_from_slice(text.as_bytes()),
            }
            Ok(())
        })?;
        out.extend_from_slice(self.value.close.as_bytes());
        Ok(out)
    }

    fn source_of(&self, stamp: Stamp) -> Map<String, Value> {
        let mut source = self.source.clone();
        for (name, value) in &mut source {
            *value = match name.as_str() {
                "snapshot" => Value::from("incremental"),
                "ts_ms" => Value::from(stamp.source_ms),
                "ts_us" => Value::from(stamp.source_ms * 1_000),
                "ts_ns" => Value::from(stamp.source_ms.saturating_mul(1_000_000)),
                "lsn" => Value::from(stamp.lsn),
                "sequence" => stamp.lsn.map_or(Value::Null, |lsn| Value::from(format!("[null,\"{lsn}\"]"))),
                "txId" | "xmin" => Value::Null,
                _ => continue,
            };
        }
        source
    }

    /// Reads the records again.
    fn verify(&mut self, rows: &RecordBatch, encoded: &[Encoded]) -> Result<(), String> {
        for (row, one) in encoded.iter().enumerate() {
            let record =
                Record { topic: &self.topic, key: Some(&one.key), value: Some(&one.value), ..Record::default() };
            match self.decoder.push(&record) {
                Pushed::Row(Op::Read) => {}
                other => {
                    self.decoder.finish();
                    let why = match other {
                        Pushed::Rejected(reject) => reject.to_string(),
                        other => format!("{other:?}"),
                    };
                    return Err(format!("the row {} can't be a record of this topic: {why}", self.row_name(rows, row)));
                }
            }
        }
        let batch = self.decoder.finish();
        let lacking = batch.unavailable.first().and_then(|u| Some((u.row as usize, *u.columns.first()? as usize)));
        let other = self.told.iter().find_map(|column| {
            let (have, said) = (rows.column(*column), batch.rows.column(*column));
            let differs = |row: &usize| have.slice(*row, 1).as_ref() != said.slice(*row, 1).as_ref();
            (have.as_ref() != said.as_ref())
                .then(|| (0..rows.num_rows()).find(differs))
                .flatten()
                .map(|row| (row, *column))
        });
        let Some((row, column)) = other.or(lacking) else { return Ok(()) };
        let show = |rows: &RecordBatch| array_value_to_string(rows.column(column), row).unwrap_or_default();
        Err(format!(
            "column {}: of the row {} the lake has {:?}, which a record of the topic would say as {:?}: the column was another one when \
             the row was written, or its value never reached the lake; let Debezium read these rows anew (without --from-lake)",
            rows.schema_ref().field(column).name(),
            self.row_name(rows, row),
            excerpt(&show(rows)),
            excerpt(&show(&batch.rows)),
        ))
    }

    fn row_name(&self, rows: &RecordBatch, row: usize) -> String {
        let value = |field: &Field| {
            let value = rows.columns().get(field.column).map(|column| array_value_to_string(column, row));
            format!("{}={}", field.name, value.and_then(Result::ok).unwrap_or_default())
        };
        self.key.fields.iter().map(value).collect::<Vec<_>>().join(" ")
    }
}

impl Frame {
    fn new(block: Option<&str>, fields: Vec<Field>) -> Self {
        match block {
            Some(block) => Self { open: format!("{{\"schema\":{block},\"payload\":"), close: "}", fields },
            None => Self { open: String::new(), close: "", fields },
        }
    }

    fn bytes(&self, rows: &RecordBatch, row: usize) -> Result<Vec<u8>, String> {
        let mut out = self.open.clone().into_bytes();
        self.object(rows, row, &mut out)?;
        out.extend_from_slice(self.close.as_bytes());
        Ok(out)
    }

    fn object(&self, rows: &RecordBatch, row: usize, out: &mut Vec<u8>) -> Result<(), String> {
        between(out, b'{', &self.fields, b'}', |out, field| {
            string(out, &field.name)?;
            out.push(b':');
            let column =
                rows.columns().get(field.column).ok_or_else(|| format!("column {}: is missing", field.name))?;
            write(&field.writer, column, row, out).map_err(|why| format!("column {}: {why}", field.name))
        })
    }
}

/// What stands under this name in the object here.
fn member<'a>(mut cursor: Cursor<'a>, wanted: &str) -> Fallible<Option<&'a str>> {
    let mut scratch = Vec::new();
    let mut more = cursor.open_object()?;
    while more {
        let is_wanted = cursor.name()?.decoded(&mut scratch)? == wanted;
        let value = cursor.raw()?;
        if is_wanted {
            return Ok(Some(value));
        }
        more = cursor.more(b'}')?;
    }
    Ok(None)
}

fn part(name: &str, whole: &Value) -> Part {
    match name {
        "after" => Part::After,
        "source" => Part::Source,
        "op" => Part::Op,
        "ts_ms" => Part::Now(1),
        "ts_us" => Part::Now(1_000),
        "ts_ns" => Part::Now(1_000_000),
        "before" | "transaction" => Part::As("null".to_owned()),
        other => Part::As(whole.get(other).unwrap_or(&Value::Null).to_string()),
    }
}

/// Fields that a schema block describes.
fn described(
    decoder: &Decoder,
    table: &Table,
    fields: &[SourceField],
    samples: &[Value],
) -> Result<Vec<Field>, String> {
    let members = table.row_members(fields, &decoder.options).map_err(|why| {
        format!("{why}; the lake gets it with the first record that has it: wait until the table has caught up")
    })?;
    let field = |(member, field): (super::object::Member, &SourceField)| {
        made(&field.name, member.column, writer(&member.reader, Some(&field.encoding), &values(samples, &field.name)))
    };
    members.into_iter().zip(fields).map(field).collect()
}

/// Fields of records without one.
fn bare(table: &Table, names: &[String], samples: &[Value]) -> Result<Vec<Field>, String> {
    let mut fields = Vec::with_capacity(names.len());
    for name in names {
        let values = values(samples, name);
        match table.bare.member(name) {
            Some((column, reader)) => fields.push(made(name, column, writer(reader, None, &values))?),
            None if values.iter().all(|value| value.is_null()) => {}
            None => return Err(format!("column {name}: the topic's records have it, the table does not")),
        }
    }
    Ok(fields)
}

fn made(name: &str, column: usize, writer: Result<Writer, String>) -> Result<Field, String> {
    let writer = writer.map_err(|why| format!("column {name}: {why}"))?;
    Ok(Field { name: name.to_owned(), column, writer })
}

/// Keys are written as the newest is; without a schema block of their own as the row's fields are.
fn key_frame(decoder: &Decoder, table: &Table, samples: &[Sample], row: &[Field]) -> Result<Frame, String> {
    let newest = samples.first().map(|sample| sample.key.as_slice()).unwrap_or_default();
    let (block, payload) = apart(newest)?;
    if !payload.trim_start().starts_with('{') {
        return Err(format!("its keys are no JSON objects: {}", excerpt(payload)));
    }
    let payloads = samples.iter().filter_map(|sample| serde_json::from_str::<Value>(apart(&sample.key).ok()?.1).ok());
    let payloads: Vec<Value> = payloads.collect();
    let fields = match block.map(parse_block).transpose().map_err(|e| e.to_string())? {
        Some(Block::Plain(fields) | Block::Row(fields)) => described(decoder, table, &fields, &payloads)?,
        None => {
            let names = names(payload).map_err(|e| e.to_string())?;
            let of_row = |name: &String| {
                let field = row.iter().find(|field| field.name == *name)?;
                Some(Field { name: name.clone(), column: field.column, writer: field.writer.clone() })
            };
            let fields: Option<Vec<Field>> = names.iter().map(of_row).collect();
            fields.ok_or_else(|| format!("its keys have fields that its rows lack: {}", excerpt(payload)))?
        }
    };
    Ok(Frame::new(block, fields))
}

/// The columns that records with these fields tell: their own, and the versions from before a change of type.
fn told(table: &Table, fields: &[Field]) -> Vec<usize> {
    let is_told = |name: &str| fields.iter().any(|f| same_name(&f.name, table.lineage.source_of(name)));
    let columns = table.schema.columns.iter().enumerate();
    columns.filter(|(_, c)| !origin::is_own(&c.name) && is_told(&c.name)).map(|(at, _)| at).collect()
}

#[cfg(test)]
mod tests;
