//! A writer's schema in Connect's words, so that one set of rules says which column a field becomes.

use std::collections::HashMap;

use super::super::connect::ConnectSchema;
use super::super::fault::{Fallible, reason, reject};
use super::schema::{Kind, Node, NodeId, Schema};

/// A named type stands once in an Avro schema and is meant wherever its name stands. Spelled out, a few lines can become more types than
/// memory holds; no table needs so many.
const MAX_TYPES: usize = 50_000;
/// Deeper types are kept as text: see `connect`.
const MAX_DEPTH: usize = 24;

/// The kind of what Connect has no word for, or what is nested too deep: its values become the text of their JSON.
const OTHER: &str = "other";

/// # Errors
/// `bad_schema` where the schema spells out to too many types.
pub(super) fn connect_schema(schema: &Schema) -> Fallible<ConnectSchema> {
    let mut left = MAX_TYPES;
    of_node(schema, schema.root, 0, &mut left)
}

fn of_node(schema: &Schema, id: NodeId, depth: usize, left: &mut usize) -> Fallible<ConnectSchema> {
    *left = left.checked_sub(1).ok_or_else(|| {
        reject(reason::BAD_SCHEMA, format!("the writer's schema spells out to more than {MAX_TYPES} types"))
    })?;
    let (_, id) = schema.optional(id);
    let Some(node) = schema.node(id).filter(|_| depth <= MAX_DEPTH) else { return Ok(of_kind(OTHER)) };
    let mut inner = |id: NodeId| of_node(schema, id, depth + 1, left);
    let mut connect = match &node.kind {
        Kind::Null | Kind::Union(_) => of_kind(OTHER),
        Kind::Boolean => of_kind("boolean"),
        Kind::Int => of_kind("int32"),
        Kind::Long => of_kind("int64"),
        Kind::Float => of_kind("float32"),
        Kind::Double => of_kind("float64"),
        Kind::Bytes | Kind::Fixed(_) => of_kind("bytes"),
        Kind::Text | Kind::Enum(_) => of_kind("string"),
        Kind::Array(items) => ConnectSchema { items: Some(Box::new(inner(*items)?)), ..of_kind("array") },
        Kind::Map(values) => ConnectSchema {
            keys: Some(Box::new(of_kind("string"))),
            values: Some(Box::new(inner(*values)?)),
            ..of_kind("map")
        },
        Kind::Pairs(entry) => {
            let mut member = |name: &str| -> Fallible<_> {
                let field = schema.fields(*entry).into_iter().flatten().find(|f| f.name == name);
                field.map(|f| inner(f.node).map(Box::new)).transpose()
            };
            ConnectSchema { keys: member("key")?, values: member("value")?, ..of_kind("map") }
        }
        Kind::Record(fields) => {
            let field = |f: &super::schema::Field| {
                inner(f.node).map(|connect| ConnectSchema { field: Some(f.name.clone()), ..connect })
            };
            ConnectSchema { fields: Some(fields.iter().map(field).collect::<Fallible<_>>()?), ..of_kind("struct") }
        }
    };
    (connect.name, connect.parameters) = match &node.notes.connect_name {
        Some(name) => (Some(name.clone()), Some(node.notes.connect_parameters.clone())),
        None => logical(node),
    };
    Ok(connect)
}

fn of_kind(kind: &str) -> ConnectSchema {
    ConnectSchema { kind: kind.to_owned(), ..ConnectSchema::default() }
}

/// What a logical type of Avro's own is in Connect, for writers that note nothing beside it.
fn logical(node: &Node) -> (Option<String>, Option<HashMap<String, String>>) {
    let name = match (node.notes.logical_type.as_deref(), &node.kind) {
        (Some("decimal"), Kind::Bytes | Kind::Fixed(_)) => {
            let mut parameters =
                HashMap::from([("scale".to_owned(), node.notes.scale.unwrap_or_default().to_string())]);
            parameters.extend(node.notes.precision.map(|p| ("connect.decimal.precision".to_owned(), p.to_string())));
            return (Some("org.apache.kafka.connect.data.Decimal".to_owned()), Some(parameters));
        }
        (Some("date"), Kind::Int) => "org.apache.kafka.connect.data.Date",
        (Some("time-millis"), Kind::Int) => "org.apache.kafka.connect.data.Time",
        (Some("time-micros"), Kind::Long) => "io.debezium.time.MicroTime",
        (Some("timestamp-millis" | "local-timestamp-millis"), Kind::Long) => "org.apache.kafka.connect.data.Timestamp",
        (Some("timestamp-micros" | "local-timestamp-micros"), Kind::Long) => "io.debezium.time.MicroTimestamp",
        (Some("timestamp-nanos" | "local-timestamp-nanos"), Kind::Long) => "io.debezium.time.NanoTimestamp",
        (Some("uuid"), Kind::Text) => "io.debezium.data.Uuid",
        _ => return (None, None),
    };
    (Some(name.to_owned()), None)
}
