//! Writer schemas by id. Which are needed is said, not asked: the decoder's caller knows a registry.

use std::sync::Arc;

use super::super::connect::{Block, SourceField, block_of, value_of};
use super::super::fault::{Fallible, Reject, reason, reject};
use super::cursor::not_avro;
use super::envelope::EnvelopePlan;
use super::fields::connect_schema;
use super::schema::Schema;
use crate::record::Record;

/// Schemas kept by one decoder; those of one topic are few. More of them are asked for again.
const MAX_KNOWN: usize = 256;

/// Byte 0, four bytes of id.
const HEADER: usize = 5;

/// What a registry says of a schema id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Registered {
    /// An Avro schema, and those that it refers to: each after those that it refers to itself.
    Avro { schema: String, references: Vec<String> },
    /// A schema of another kind, under the registry's word for it (`JSON`, `PROTOBUF`).
    Other(String),
    /// There is none of this id; the registry's own words.
    Unknown(String),
}

/// A writer's schema, read.
#[derive(Debug)]
pub(in super::super) struct Writer {
    pub schema: Schema,
    pub block: Block,
    /// What the datum is where it has no fields; its name is empty.
    pub value: Option<SourceField>,
    pub envelope: EnvelopePlan,
}

/// What one decoder knows of a registry.
#[derive(Debug, Default)]
pub(in super::super) struct Writers {
    known: Vec<(i32, Result<Arc<Writer>, Reject>)>,
    /// The ids of the record in hand (its value's, its key's) that the registry does not have. Not kept for longer: it may get them
    /// yet.
    missing: Vec<(i32, String)>,
}

/// Whether bytes are in a registry's wire format: no JSON begins with this byte.
#[inline]
pub(in super::super) fn is_avro(bytes: &[u8]) -> bool {
    bytes.first() == Some(&0)
}

/// The id of the schema that a message was written with, where it is in a registry's wire format.
#[inline]
fn id_of(message: &[u8]) -> Option<i32> {
    split(message).ok().filter(|_| is_avro(message)).map(|(id, _)| id)
}

/// The id and the datum.
#[inline]
pub(super) fn split(bytes: &[u8]) -> Fallible<(i32, &[u8])> {
    match (bytes.get(1..HEADER), bytes.get(HEADER..)) {
        (Some(&[a, b, c, d]), Some(datum)) => Ok((i32::from_be_bytes([a, b, c, d]), datum)),
        _ => Err(not_avro("it begins with byte 0, and no schema id follows")),
    }
}

/// The id of the registered schema that a record's value was written with, else its key; `None` where neither names one.
pub fn schema_id(record: &Record<'_>) -> Option<i32> {
    value_schema_id(record).or_else(|| record.key.and_then(id_of))
}

/// The id of the registered schema that a record's value was written with.
pub fn value_schema_id(record: &Record<'_>) -> Option<i32> {
    record.value.and_then(id_of)
}

impl Writers {
    /// The id of the schema that is needed to read this and has not been asked for yet.
    #[inline]
    pub(in super::super) fn lacks(&self, bytes: Option<&[u8]>) -> Option<i32> {
        let id = id_of(bytes?)?;
        let known = self.known.iter().any(|(known, _)| *known == id);
        (!known && self.missing.iter().all(|(missing, _)| *missing != id)).then_some(id)
    }

    pub(in super::super) fn learn(&mut self, id: i32, registered: &Registered) {
        let read = match registered {
            Registered::Avro { schema, references } => Writer::read(schema, references)
                .map_err(|fault| Reject { detail: format!("schema {id}: {}", fault.detail), ..*fault }),
            Registered::Other(kind) => Err(Reject {
                reason: reason::BAD_SCHEMA,
                detail: format!("schema {id} is of type {kind}; firn reads AVRO from a registry, and JSON without one"),
            }),
            Registered::Unknown(told) => {
                self.missing.push((id, told.clone()));
                return;
            }
        };
        self.known.retain(|(known, _)| *known != id);
        self.known.truncate(MAX_KNOWN - 1);
        self.known.insert(0, (id, read.map(Arc::new)));
    }

    pub(in super::super) fn forget_missing(&mut self) {
        self.missing.clear();
    }

    /// # Errors
    /// `unknown_schema_id`, `bad_schema`.
    #[inline]
    pub(super) fn get(&self, id: i32) -> Fallible<&Arc<Writer>> {
        match self.known.iter().find(|(known, _)| *known == id) {
            Some((_, Ok(writer))) => Ok(writer),
            Some((_, Err(fault))) => Err(Box::new(fault.clone())),
            None => Err(self.unknown(id)),
        }
    }

    #[cold]
    fn unknown(&self, id: i32) -> Box<Reject> {
        let told = self.missing.iter().find(|(missing, _)| *missing == id).map_or("", |(_, told)| told.as_str());
        reject(reason::UNKNOWN_SCHEMA_ID, format!("no schema of id {id}: {told}"))
    }
}

impl Writer {
    fn read(text: &str, references: &[String]) -> Fallible<Self> {
        let schema = Schema::parse(text, references)?;
        let connect = connect_schema(&schema)?;
        let (block, value) = (block_of(&connect), value_of(&connect));
        let envelope = EnvelopePlan::new(&schema, &block);
        Ok(Self { schema, block, value, envelope })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_names_its_schema_by_its_value_or_else_its_key() {
        let id = |key: Option<&[u8]>, value: Option<&[u8]>| schema_id(&Record { key, value, ..Record::default() });
        assert_eq!(id(Some(&[0, 0, 0, 0, 7, 2]), Some(&[0, 0, 0, 1, 2])), Some(258));
        assert_eq!(id(Some(&[0, 0, 0, 0, 7, 2]), Some(b"{}")), Some(7));
        assert_eq!((id(None, Some(&[0, 0, 0])), id(None, Some(b"{}..."))), (None, None));
    }
}
