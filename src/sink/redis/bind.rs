//! The settings held against the columns of the SELECT: names become numbers of columns, types are checked.

use std::collections::BTreeMap;

use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{DataType, SchemaRef};

use super::number;
use super::settings::{Increment, OnNullKey, RedisSettings, TopList, Trim, Write, WriteKind};
use super::template::{Part, Template};
use crate::sink::text;

/// What the script is to do, in columns.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) schema: SchemaRef,
    pub(super) on_null_key: OnNullKey,
    pub(super) writes: Vec<BoundWrite>,
    /// ms, how long what firn keeps for all top lists together stays when it stops.
    pub(super) longest_ms: u64,
}

#[derive(Debug)]
pub(super) struct BoundWrite {
    /// For messages: ``writes[1] (hash, `content:{id}`)``.
    pub(super) label: String,
    pub(super) key: BoundTemplate,
    pub(super) kind: BoundKind,
}

#[derive(Debug)]
pub(super) enum BoundKind {
    Stream { fields: Vec<Field>, trim: Option<Trim> },
    Hash { fields: Vec<Field>, increments: Vec<BoundIncrement>, ttl_ms: Option<u64> },
    SortedSet { member: BoundTemplate, score: usize },
    Text { value: BoundTemplate, ttl_ms: Option<u64> },
    Json { fields: Vec<Field>, ttl_ms: Option<u64> },
    Top { member: BoundTemplate, score: usize, time: usize, list: TopList },
}

#[derive(Debug)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) column: usize,
}

#[derive(Debug)]
pub(super) struct BoundIncrement {
    pub(super) field: String,
    pub(super) by: By,
}

#[derive(Debug)]
pub(super) enum By {
    Fixed(i64),
    Column { column: usize, scale: u8 },
}

#[derive(Debug)]
pub(super) struct BoundTemplate(Vec<BoundPart>);

#[derive(Debug)]
enum BoundPart {
    Literal(Vec<u8>),
    Column(usize),
}

impl BoundTemplate {
    /// Puts the row's text into `out`, which is emptied first; `false` where a value is NULL.
    pub(super) fn render(&self, columns: &[ArrayRef], row: usize, out: &mut Vec<u8>) -> bool {
        out.clear();
        self.0.iter().all(|part| match part {
            BoundPart::Literal(literal) => {
                out.extend_from_slice(literal);
                true
            }
            BoundPart::Column(column) => columns.get(*column).is_some_and(|array| {
                let there = !text::is_null(array, row);
                if there {
                    text::write(array, row, out);
                }
                there
            }),
        })
    }
}

/// How long what firn keeps for all top lists together stays when it stops: twice the longest, so that it outlives every list.
pub(super) fn longest_ms(settings: &RedisSettings) -> u64 {
    let lifetimes = settings.writes.iter().filter_map(|w| match &w.kind {
        WriteKind::Top(list) => Some(list.lifetime_ms()),
        _ => None,
    });
    lifetimes.max().unwrap_or_default() * 2
}

impl Bound {
    /// # Errors
    /// The sentence for a person: which write names which column that is not there or can't be used so.
    pub(super) fn new(settings: &RedisSettings, schema: &SchemaRef) -> Result<Self, String> {
        let mut writes = Vec::new();
        for (i, write) in settings.writes.iter().enumerate() {
            let label = format!("writes[{i}] ({}, `{}`)", write.kind.name(), write.key);
            let binder = Binder { schema, label: &label };
            let key = binder.template("key", &write.key)?;
            let kind = binder.kind(write)?;
            writes.push(BoundWrite { label, key, kind });
        }
        let longest_ms = longest_ms(settings);
        Ok(Self { schema: schema.clone(), on_null_key: settings.on_null_key, writes, longest_ms })
    }

    /// The batch's columns, spelled out.
    ///
    /// # Errors
    /// When they are not those that this was made for.
    pub(super) fn columns(&self, rows: &RecordBatch) -> Result<Vec<ArrayRef>, String> {
        if rows.schema_ref() != &self.schema {
            return Err("the rows have other columns than the sink was prepared for".to_owned());
        }
        rows.columns().iter().map(text::plain).collect::<Result<_, _>>().map_err(|e| e.to_string())
    }
}

struct Binder<'a> {
    schema: &'a SchemaRef,
    label: &'a str,
}

impl Binder<'_> {
    fn kind(&self, write: &Write) -> Result<BoundKind, String> {
        Ok(match &write.kind {
            WriteKind::Stream { fields, trim } => {
                BoundKind::Stream { fields: self.fields(fields.as_deref(), &BTreeMap::new())?, trim: *trim }
            }
            WriteKind::Hash { fields, increments, ttl_ms } => BoundKind::Hash {
                fields: self.fields(fields.as_deref(), increments)?,
                increments: increments.iter().map(|(f, by)| self.increment(f, by)).collect::<Result<_, _>>()?,
                ttl_ms: *ttl_ms,
            },
            WriteKind::SortedSet { member, score } => {
                BoundKind::SortedSet { member: self.template("member", member)?, score: self.number("score", score)? }
            }
            WriteKind::Text { value, ttl_ms } => {
                BoundKind::Text { value: self.template("value", value)?, ttl_ms: *ttl_ms }
            }
            WriteKind::Json { fields, ttl_ms } => {
                BoundKind::Json { fields: self.fields(fields.as_deref(), &BTreeMap::new())?, ttl_ms: *ttl_ms }
            }
            WriteKind::Top(list) => BoundKind::Top {
                member: self.template("member", &list.member)?,
                score: self.number("score", &list.score)?,
                time: self.time("time", &list.time)?,
                list: list.clone(),
            },
        })
    }

    fn column(&self, what: &str, name: &str) -> Result<usize, String> {
        let names = || self.schema.fields().iter().map(|f| f.name().as_str()).collect::<Vec<_>>().join(", ");
        self.schema.index_of(name).map_err(|_| {
            format!(
                "{}: {what} names the column `{name}`, which the SELECT does not have; it has {}",
                self.label,
                names()
            )
        })
    }

    fn typed(&self, what: &str, name: &str, wanted: &str, fits: fn(&DataType) -> bool) -> Result<usize, String> {
        let column = self.column(what, name)?;
        let kind = match self.schema.field(column).data_type() {
            DataType::Dictionary(_, value) => value,
            kind => kind,
        };
        match fits(kind) {
            true => Ok(column),
            false => {
                Err(format!("{}: {what} is the column `{name}` of type {kind}, which is not {wanted}", self.label))
            }
        }
    }

    fn number(&self, what: &str, name: &str) -> Result<usize, String> {
        self.typed(what, name, "a number", number::is_number)
    }

    fn time(&self, what: &str, name: &str) -> Result<usize, String> {
        self.typed(what, name, "a timestamp", |kind| matches!(kind, DataType::Timestamp(_, _) | DataType::Null))
    }

    fn template(&self, what: &str, template: &Template) -> Result<BoundTemplate, String> {
        let part = |part: &Part| {
            Ok(match part {
                Part::Literal(literal) => BoundPart::Literal(literal.as_bytes().to_vec()),
                Part::Column(name) => {
                    BoundPart::Column(self.typed(what, name, "one plain value", |kind| !kind.is_nested())?)
                }
            })
        };
        template.parts().iter().map(part).collect::<Result<_, _>>().map(BoundTemplate)
    }

    /// The columns named, else all but those whose names are counted up.
    fn fields(&self, names: Option<&[String]>, counted: &BTreeMap<String, Increment>) -> Result<Vec<Field>, String> {
        let field = |column: usize, name: &str| Field { name: name.to_owned(), column };
        match names {
            Some(names) => names.iter().map(|name| Ok(field(self.column("fields", name)?, name))).collect(),
            None => {
                let all = self.schema.fields().iter().enumerate();
                Ok(all.filter(|(_, f)| !counted.contains_key(f.name())).map(|(i, f)| field(i, f.name())).collect())
            }
        }
    }

    fn increment(&self, field: &str, by: &Increment) -> Result<BoundIncrement, String> {
        let by = match by {
            Increment::By(amount) => By::Fixed(*amount),
            Increment::Column { column, scale } => {
                By::Column { column: self.number(&format!("increments.{field}"), column)?, scale: *scale }
            }
        };
        Ok(BoundIncrement { field: field.to_owned(), by })
    }
}
