//! Debezium's envelope as Avro: what each field of the record is stands in the writer's schema, and is looked up once.

use super::super::connect::Block;
use super::super::envelope::{Envelope, Seen, flattened, kind_of};
use super::super::fault::Fallible;
use super::super::flat::{self, Added, Format, Meta};
use super::super::source::{Position, Snapshot, first_number};
use super::cursor::Cursor;
use super::plan::Text;
use super::schema::{Kind, NodeId, Optional, Schema};
use crate::record::Record;

/// How the envelopes of a writer are read.
#[derive(Clone, Debug)]
pub(in super::super) struct EnvelopePlan {
    /// Where the message as a whole may be null.
    optional: Option<Optional>,
    members: Vec<Member>,
    /// What the names of the members alone say.
    seen: Seen,
    /// What `after` is: a record, or the text of a document (MongoDB).
    pub(super) after: Option<NodeId>,
    pub(super) before: Option<NodeId>,
}

#[derive(Clone, Debug)]
enum Member {
    Before { optional: Option<Optional>, record: NodeId },
    After { optional: Option<Optional>, image: NodeId },
    Source { optional: Option<Optional>, fields: Vec<SourceField> },
    Word { optional: Option<Optional>, text: Text, word: Word },
    Added { optional: Option<Optional>, field: Added, value: AddedValue },
    Other(NodeId),
}

/// Members whose text says what a message is.
#[derive(Clone, Copy, Debug)]
enum Word {
    Op,
    Status,
    Type,
}

/// How the value of a field is written that was added to a flattened row.
#[derive(Clone, Debug)]
enum AddedValue {
    Text(Text),
    Number,
    Boolean,
}

/// A field of `source`.
#[derive(Clone, Debug)]
enum SourceField {
    Number { optional: Option<Optional>, of: Number },
    Word { optional: Option<Optional>, text: Text, word: SourceWord },
    Other(NodeId),
}

#[derive(Clone, Copy, Debug)]
enum Number {
    TsMs,
    Lsn,
}

#[derive(Clone, Copy, Debug)]
enum SourceWord {
    Sequence,
    Snapshot,
}

impl EnvelopePlan {
    pub(super) fn new(schema: &Schema, block: &Block) -> Self {
        let (optional, root) = schema.optional(schema.root);
        let fields = schema.fields(root).unwrap_or_default();
        let mut plan = Self { optional, members: Vec::new(), seen: Seen::default(), after: None, before: None };
        for field in fields {
            let (optional, node) = schema.optional(field.node);
            let record = schema.fields(node);
            let text = text_of(schema, node);
            plan.seen.members += 1;
            let word = |word, text| Member::Word { optional, text, word };
            let value = match (schema.kind(node), &text) {
                (_, Some(text)) => Some(AddedValue::Text(text.clone())),
                (Kind::Int | Kind::Long, _) => Some(AddedValue::Number),
                (Kind::Boolean, _) => Some(AddedValue::Boolean),
                _ => None,
            };
            if let (Some(field), Some(value)) = (flat::added(&field.name), value) {
                plan.members.push(Member::Added { optional, field, value });
                continue;
            }
            plan.members.push(match (field.name.as_str(), record, text) {
                ("before", Some(_), _) => {
                    plan.before = Some(node);
                    Member::Before { optional, record: node }
                }
                ("after", Some(_), _) => {
                    plan.after = Some(node);
                    Member::After { optional, image: node }
                }
                // Elsewhere it is a column of this name.
                ("after", None, Some(_)) if matches!(block, Block::Row(_)) => {
                    plan.after = Some(node);
                    Member::After { optional, image: node }
                }
                ("source", Some(fields), _) => {
                    plan.seen.source = true;
                    Member::Source { optional, fields: fields.iter().map(|f| source_field(schema, f)).collect() }
                }
                ("op", _, Some(text)) => word(Word::Op, text),
                ("status", _, Some(text)) => word(Word::Status, text),
                ("type", _, Some(text)) => word(Word::Type, text),
                (name, _, _) => {
                    plan.seen.member(name);
                    Member::Other(field.node)
                }
            });
        }
        plan
    }

    /// Whether a message follows; there is none where the writer wrote a null.
    pub(super) fn open(&self, cursor: &mut Cursor<'_>) -> Fallible<bool> {
        self.optional.map_or(Ok(true), |optional| optional.has_value(cursor))
    }

    /// Goes once over the message here. `after` is called where the new image begins and must read or skip it.
    ///
    /// # Errors
    /// `not_avro`, `not_debezium`, `flattened`, or what `after` says.
    pub(super) fn scan<'a>(
        &self,
        schema: &Schema,
        cursor: &mut Cursor<'a>,
        format: Format,
        record: &Record<'_>,
        mut after: impl FnMut(&mut Cursor<'a>) -> Fallible<()>,
    ) -> Fallible<Envelope<Cursor<'a>>> {
        let (start, mut meta) = (cursor.clone(), Meta::default());
        let mut seen = self.seen;
        let mut op = None;
        let (mut new, mut before, mut position) = (None, None, Position::default());
        for member in &self.members {
            match member {
                Member::Before { optional, record } => {
                    if has_value(*optional, cursor)? {
                        before = Some(cursor.clone());
                        schema.skip(*record, cursor, 0)?;
                    }
                }
                Member::After { optional, image } => {
                    if has_value(*optional, cursor)? {
                        new = Some(cursor.clone());
                        match format {
                            Format::Flattened => schema.skip(*image, cursor, 0)?,
                            _ => after(cursor)?,
                        }
                    }
                }
                Member::Added { optional, field, value } => {
                    if has_value(*optional, cursor)? {
                        match value {
                            AddedValue::Text(text) => meta.note(*field, text.read(cursor)?),
                            AddedValue::Number => meta.note(*field, &cursor.long()?.to_string()),
                            AddedValue::Boolean => meta.note(*field, if cursor.boolean()? { "true" } else { "false" }),
                        }
                    }
                }
                Member::Source { optional, fields } => {
                    if has_value(*optional, cursor)? {
                        for field in fields {
                            field.read(schema, cursor, &mut position)?;
                        }
                    }
                }
                Member::Word { optional, text, word } => {
                    if has_value(*optional, cursor)? {
                        let text = text.read(cursor)?;
                        match word {
                            Word::Op => op = Some(text),
                            Word::Status => seen.status(text),
                            Word::Type => seen.signal(text),
                        }
                    }
                }
                Member::Other(node) => schema.skip(*node, cursor, 0)?,
            }
        }
        // As in JSON: an envelope has images or a source beside its op, and no field is added to one.
        let is_envelope = op.is_some() && (self.after.is_some() || self.before.is_some() || seen.source);
        if format == Format::Flattened || !is_envelope && meta.is_sign(record) {
            return flattened(start, &meta, format, record);
        }
        let kind = kind_of(op, new.is_some(), &seen)?;
        Ok(Envelope { kind, flat: false, after: new, before, position })
    }
}

#[inline]
fn has_value(optional: Option<Optional>, cursor: &mut Cursor<'_>) -> Fallible<bool> {
    optional.map_or(Ok(true), |optional| optional.has_value(cursor))
}

fn text_of(schema: &Schema, node: NodeId) -> Option<Text> {
    match schema.kind(node) {
        Kind::Text => Some(Text::Written),
        Kind::Enum(symbols) => Some(Text::Symbols(symbols.clone())),
        _ => None,
    }
}

fn source_field(schema: &Schema, field: &super::schema::Field) -> SourceField {
    let (optional, node) = schema.optional(field.node);
    let of = match field.name.as_str() {
        "ts_ms" => Some(Number::TsMs),
        "lsn" => Some(Number::Lsn),
        _ => None,
    };
    let word = match field.name.as_str() {
        "sequence" => Some(SourceWord::Sequence),
        "snapshot" => Some(SourceWord::Snapshot),
        _ => None,
    };
    if let (Some(word), Some(text)) = (word, text_of(schema, node)) {
        return SourceField::Word { optional, text, word };
    }
    match (of, schema.kind(node)) {
        (Some(of), Kind::Long | Kind::Int) => SourceField::Number { optional, of },
        _ => SourceField::Other(field.node),
    }
}

impl SourceField {
    #[inline]
    fn read(&self, schema: &Schema, cursor: &mut Cursor<'_>, position: &mut Position) -> Fallible<()> {
        match self {
            SourceField::Number { optional, of } => {
                let value = if has_value(*optional, cursor)? { Some(cursor.long()?) } else { None };
                match of {
                    Number::TsMs => position.ts_ms = value,
                    Number::Lsn => position.lsn = value,
                }
            }
            SourceField::Word { optional, text, word } => {
                if has_value(*optional, cursor)? {
                    let text = text.read(cursor)?;
                    match word {
                        SourceWord::Sequence => position.last_commit = first_number(text),
                        SourceWord::Snapshot => position.snapshot = Snapshot::named(text),
                    }
                }
            }
            SourceField::Other(node) => schema.skip(*node, cursor, 0)?,
        }
        Ok(())
    }
}
