//! A writer's schema: the shape of its data and what Connect noted beside it. Steps over data that nothing takes.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::super::fault::{Fallible, reason, reject};
use super::cursor::{Cursor, not_avro};

/// How deep data may nest: a schema that names itself puts no bound to it.
pub(super) const MAX_DEPTH: u32 = 64;
/// Bytes of a `fixed`; nobody has longer ones, and a row's length is bounded by its bytes anyway.
const MAX_FIXED: u64 = 1 << 30;

/// A type in a [`Schema`].
pub(super) type NodeId = usize;

/// A schema; types refer to each other by number, since they may refer to themselves.
#[derive(Clone, Debug, Default)]
pub(super) struct Schema {
    nodes: Vec<Node>,
    pub root: NodeId,
}

/// A type, and what stands beside it.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub kind: Kind,
    pub notes: Notes,
}

/// The attributes of a type that say what its values mean.
#[derive(Clone, Debug, Default)]
pub(super) struct Notes {
    /// `connect.name`
    pub connect_name: Option<String>,
    /// `connect.parameters`
    pub connect_parameters: HashMap<String, String>,
    /// An entry of a map that is written as an array.
    pub map_entry: bool,
    pub logical_type: Option<String>,
    pub precision: Option<u64>,
    pub scale: Option<i64>,
}

#[derive(Clone, Debug)]
pub(super) enum Kind {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    Text,
    Fixed(usize),
    Enum(Vec<String>),
    Array(NodeId),
    /// An array of Connect's `MapEntry`: a map whose keys are no strings. The record of key and value.
    Pairs(NodeId),
    Map(NodeId),
    Union(Vec<NodeId>),
    Record(Vec<Field>),
}

#[derive(Clone, Debug)]
pub(super) struct Field {
    pub name: String,
    pub node: NodeId,
}

/// A union of one type and perhaps null.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Optional {
    branches: usize,
    null: Option<usize>,
}

impl Optional {
    /// Reads the branch: whether a value follows.
    #[inline]
    pub(super) fn has_value(self, cursor: &mut Cursor<'_>) -> Fallible<bool> {
        Ok(Some(cursor.index(self.branches)?) != self.null)
    }
}

impl Schema {
    /// Reads a schema; `references` are the schemas whose names it uses, each after those that it uses itself.
    ///
    /// # Errors
    /// `bad_schema` with what is wrong.
    pub(super) fn parse(text: &str, references: &[String]) -> Fallible<Self> {
        let mut parser = Parser::default();
        for reference in references {
            parser.document(reference)?;
        }
        parser.schema.root = parser.document(text)?;
        parser.schema.join_pairs();
        Ok(parser.schema)
    }

    pub(super) fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(id)
    }

    pub(super) fn kind(&self, id: NodeId) -> &Kind {
        // Numbers come from the parser alone.
        self.nodes.get(id).map_or(&Kind::Null, |node| &node.kind)
    }

    pub(super) fn fields(&self, id: NodeId) -> Option<&[Field]> {
        match self.kind(id) {
            Kind::Record(fields) => Some(fields),
            _ => None,
        }
    }

    /// Looks through a union of one type and null.
    pub(super) fn optional(&self, id: NodeId) -> (Option<Optional>, NodeId) {
        let Kind::Union(branches) = self.kind(id) else { return (None, id) };
        let is_null = |branch: &NodeId| matches!(self.kind(*branch), Kind::Null);
        let mut values = branches.iter().filter(|b| !is_null(b));
        match (values.next(), values.next()) {
            (Some(one), None) if branches.len() <= 2 => {
                let null = branches.iter().position(is_null);
                (Some(Optional { branches: branches.len(), null }), *one)
            }
            _ => (None, id),
        }
    }

    /// Arrays of `MapEntry` records are maps.
    fn join_pairs(&mut self) {
        for id in 0..self.nodes.len() {
            if let Kind::Array(items) = *self.kind(id)
                && let Some(Node { kind: Kind::Record(fields), notes }) = self.nodes.get(items)
                && notes.map_entry
                && matches!(fields.as_slice(), [key, value] if key.name == "key" && value.name == "value")
                && let Some(node) = self.nodes.get_mut(id)
            {
                node.kind = Kind::Pairs(items);
            }
        }
    }

    /// Steps over a value.
    ///
    /// # Errors
    /// `not_avro` where the bytes are none of this type.
    pub(super) fn skip(&self, id: NodeId, cursor: &mut Cursor<'_>, depth: u32) -> Fallible<()> {
        if depth > MAX_DEPTH {
            return Err(too_deep());
        }
        match self.kind(id) {
            Kind::Null => {}
            Kind::Boolean => drop_value(cursor.boolean())?,
            Kind::Int => drop_value(cursor.int())?,
            Kind::Long => drop_value(cursor.long())?,
            Kind::Float => drop_value(cursor.fixed(4))?,
            Kind::Double => drop_value(cursor.fixed(8))?,
            Kind::Bytes | Kind::Text => drop_value(cursor.bytes())?,
            Kind::Fixed(len) => drop_value(cursor.fixed(*len))?,
            Kind::Enum(symbols) => drop_value(cursor.index(symbols.len()))?,
            Kind::Array(items) | Kind::Pairs(items) => {
                self.skip_blocks(cursor, |cursor| self.skip(*items, cursor, depth + 1))?
            }
            Kind::Map(values) => self.skip_blocks(cursor, |cursor| {
                cursor.bytes()?;
                self.skip(*values, cursor, depth + 1)
            })?,
            Kind::Union(branches) => {
                let branch = cursor.index(branches.len())?;
                if let Some(branch) = branches.get(branch) {
                    self.skip(*branch, cursor, depth + 1)?;
                }
            }
            Kind::Record(fields) => {
                for field in fields {
                    self.skip(field.node, cursor, depth + 1)?;
                }
            }
        }
        Ok(())
    }

    fn skip_blocks<'a>(
        &self,
        cursor: &mut Cursor<'a>,
        mut item: impl FnMut(&mut Cursor<'a>) -> Fallible<()>,
    ) -> Fallible<()> {
        loop {
            let block = cursor.block()?;
            if block.items == 0 {
                return Ok(());
            }
            match block.bytes {
                Some(bytes) => drop_value(cursor.fixed(bytes))?,
                None => (0..block.items).try_for_each(|_| item(cursor))?,
            }
        }
    }
}

#[inline]
fn drop_value<T>(value: Fallible<T>) -> Fallible<()> {
    value.map(|_| ())
}

#[cold]
pub(super) fn too_deep() -> Box<super::super::fault::Reject> {
    not_avro(format!("data nested deeper than {MAX_DEPTH}"))
}

#[derive(Default)]
struct Parser {
    schema: Schema,
    names: HashMap<String, NodeId>,
}

fn bad(detail: impl std::fmt::Display) -> Box<super::super::fault::Reject> {
    reject(reason::BAD_SCHEMA, format!("the writer's schema is no Avro schema: {detail}"))
}

impl Parser {
    fn document(&mut self, text: &str) -> Fallible<NodeId> {
        let value: Value = match serde_json::from_str(text) {
            Ok(value) => value,
            // Some registries give a primitive's name without its quotes.
            Err(e) if e.line() == 1 && text.bytes().all(|b| b.is_ascii_lowercase()) => Value::String(text.to_owned()),
            Err(e) => return Err(bad(e)),
        };
        self.parse(&value, "")
    }

    fn add(&mut self, kind: Kind, notes: Notes) -> NodeId {
        self.schema.nodes.push(Node { kind, notes });
        self.schema.nodes.len() - 1
    }

    fn parse(&mut self, value: &Value, namespace: &str) -> Fallible<NodeId> {
        match value {
            Value::String(name) => match primitive(name) {
                Some(kind) => Ok(self.add(kind, Notes::default())),
                None => self.named(name, namespace),
            },
            Value::Array(branches) => {
                let branches =
                    branches.iter().map(|branch| self.parse(branch, namespace)).collect::<Fallible<Vec<_>>>()?;
                if branches.is_empty() {
                    return Err(bad("a union of nothing"));
                }
                Ok(self.add(Kind::Union(branches), Notes::default()))
            }
            Value::Object(object) => self.object(object, namespace),
            other => Err(bad(format!("{other} is no type"))),
        }
    }

    fn named(&self, name: &str, namespace: &str) -> Fallible<NodeId> {
        let full = full_name(name, namespace);
        self.names
            .get(&full)
            .or_else(|| self.names.get(name))
            .copied()
            .ok_or_else(|| bad(format!("no type is named {full}")))
    }

    fn object(&mut self, object: &Map<String, Value>, namespace: &str) -> Fallible<NodeId> {
        let notes = Notes::of(object);
        let kind = match object.get("type") {
            Some(Value::String(kind)) => kind.as_str(),
            Some(nested) => return self.parse(nested, namespace),
            None => return Err(bad("a type without \"type\"")),
        };
        let kind = match kind {
            "array" => {
                let items = object.get("items").ok_or_else(|| bad("an array without \"items\""))?;
                Kind::Array(self.parse(items, namespace)?)
            }
            "map" => {
                let values = object.get("values").ok_or_else(|| bad("a map without \"values\""))?;
                Kind::Map(self.parse(values, namespace)?)
            }
            "record" | "error" | "enum" | "fixed" => return self.definition(kind, object, notes, namespace),
            other => match primitive(other) {
                Some(kind) => kind,
                None => return self.named(other, namespace),
            },
        };
        Ok(self.add(kind, notes))
    }

    /// A type with a name. It is known before its fields are read: they may use it.
    fn definition(&mut self, kind: &str, object: &Map<String, Value>, notes: Notes, outer: &str) -> Fallible<NodeId> {
        let text = |key: &str| object.get(key).and_then(Value::as_str);
        let name = text("name").ok_or_else(|| bad(format!("a type {kind} without a name")))?;
        let full = full_name(name, text("namespace").unwrap_or(outer));
        let id = self.add(Kind::Null, notes);
        if self.names.insert(full.clone(), id).is_some() {
            return Err(bad(format!("two types are named {full}")));
        }
        let namespace = full.rsplit_once('.').map_or("", |(namespace, _)| namespace);
        let kind = match kind {
            "enum" => {
                let symbols = object.get("symbols").and_then(Value::as_array);
                let symbols = symbols.and_then(|all| all.iter().map(|s| s.as_str().map(str::to_owned)).collect());
                Kind::Enum(symbols.ok_or_else(|| bad(format!("enum {full} without symbols")))?)
            }
            "fixed" => {
                let size = object.get("size").and_then(Value::as_u64).filter(|size| *size <= MAX_FIXED);
                Kind::Fixed(size.ok_or_else(|| bad(format!("fixed {full} without a size")))? as usize)
            }
            _ => {
                let fields = object.get("fields").and_then(Value::as_array);
                let fields = fields.ok_or_else(|| bad(format!("record {full} without fields")))?;
                let field = |field: &Value| {
                    let name = field.get("name").and_then(Value::as_str);
                    let (Some(name), Some(kind)) = (name, field.get("type")) else {
                        return Err(bad(format!("record {full} has a field without name or type")));
                    };
                    Ok(Field { name: name.to_owned(), node: self.parse(kind, namespace)? })
                };
                Kind::Record(fields.iter().map(field).collect::<Fallible<Vec<_>>>()?)
            }
        };
        if let Some(node) = self.schema.nodes.get_mut(id) {
            node.kind = kind;
        }
        Ok(id)
    }
}

impl Notes {
    fn of(object: &Map<String, Value>) -> Self {
        let text = |key: &str| object.get(key).and_then(Value::as_str).map(str::to_owned);
        let parameters = object.get("connect.parameters").and_then(Value::as_object).into_iter().flatten();
        let is_entry = |key: &str| object.get(key).and_then(Value::as_str) == Some("MapEntry");
        Self {
            connect_name: text("connect.name"),
            connect_parameters: parameters.filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect(),
            // The entries of a map with a name of its own carry that.
            map_entry: is_entry("name") || is_entry("connect.internal.type"),
            logical_type: text("logicalType"),
            precision: object.get("precision").and_then(Value::as_u64),
            scale: object.get("scale").and_then(Value::as_i64),
        }
    }
}

fn primitive(name: &str) -> Option<Kind> {
    Some(match name {
        "null" => Kind::Null,
        "boolean" => Kind::Boolean,
        "int" => Kind::Int,
        "long" => Kind::Long,
        "float" => Kind::Float,
        "double" => Kind::Double,
        "bytes" => Kind::Bytes,
        "string" => Kind::Text,
        _ => return None,
    })
}

fn full_name(name: &str, namespace: &str) -> String {
    if name.contains('.') || namespace.is_empty() { name.to_owned() } else { format!("{namespace}.{name}") }
}
