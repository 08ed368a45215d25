//! Kafka Connect's schema block: which columns a row has, what each is in Iceberg, and how its values are written.
//!
//! The names of Connect's and Debezium's logical types live here and nowhere else.

use std::collections::HashMap;

use serde::Deserialize;

use super::fault::{Fallible, reason, reject};
use super::flat::{self, Added};
use super::time::Unit;
use crate::change::{Column, ColumnType};

/// Types nested deeper than this are kept as the text of their JSON: reading follows the type, so this bounds its stack.
const MAX_TYPE_DEPTH: usize = 16;

/// The column of a MongoDB document.
pub(super) const DOCUMENT: &str = "document";

/// How a value is written in JSON, whatever column it goes to.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Encoding {
    Boolean,
    /// A whole number; whether 32 bits are sure to hold it.
    Integer {
        short: bool,
    },
    Float,
    Double,
    Text,
    Uuid,
    /// Base64.
    Bytes,
    /// Base64 of the big-endian unscaled value; no precision where it is unknown or beyond 38.
    Decimal {
        precision: Option<u8>,
        scale: i32,
    },
    /// `{"scale":2,"value":"base64"}`
    VariableDecimal,
    Days,
    DateText,
    TimeOfDay(Unit),
    TimeText,
    Timestamp(Unit),
    TimestampText,
    ZonedTimestampText,
    List(Box<Encoding>),
    Struct(Vec<(String, Encoding)>),
    Map(Box<Encoding>),
    /// Anything else: the text of its JSON.
    Json,
}

/// A column as the source declares it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct SourceField {
    pub name: String,
    /// The type that holds all of the column's values.
    pub natural: ColumnType,
    pub encoding: Encoding,
}

/// What a schema block describes.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Block {
    /// An envelope: the columns of its `after` (or `before`).
    Row(Vec<SourceField>),
    /// Some other struct: its own fields (a key, a heartbeat, a flattened row).
    Plain(Vec<SourceField>),
}

/// A schema in Connect's words.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct ConnectSchema {
    #[serde(rename = "type")]
    pub kind: String,
    pub name: Option<String>,
    pub field: Option<String>,
    pub fields: Option<Vec<ConnectSchema>>,
    pub parameters: Option<HashMap<String, String>>,
    pub items: Option<Box<ConnectSchema>>,
    pub keys: Option<Box<ConnectSchema>>,
    pub values: Option<Box<ConnectSchema>>,
}

/// Reads a schema block.
///
/// # Errors
/// `bad_schema` when it is no Connect schema.
pub(super) fn parse_block(text: &str) -> Fallible<Block> {
    let schema: ConnectSchema = serde_json::from_str(text)
        .map_err(|e| reject(reason::BAD_SCHEMA, format!("the schema block is no Connect schema: {e}")))?;
    Ok(block_of(&schema))
}

/// What a message's schema describes.
pub(super) fn block_of(schema: &ConnectSchema) -> Block {
    let member = |name: &str| {
        schema.fields.iter().flatten().find(|f| f.field.as_deref() == Some(name)).filter(|f| f.kind == "struct")
    };
    let names = || schema.fields.iter().flatten().filter_map(|f| f.field.as_deref());
    // No envelope has a field that flattening adds: there `after` is a column like any other.
    let flattened = names().any(|name| matches!(flat::added(name), Some(Added::Op | Added::Deleted)));
    let text = |f: &ConnectSchema| f.field.as_deref() == Some("after") && f.kind == "string";
    let unsigned = member("source").is_some_and(ConnectSchema::is_of_mysql);
    match member("after").or_else(|| member("before")) {
        Some(row) if !flattened => Block::Row(source_fields(row, unsigned)),
        None if names().any(|n| n == "op") && schema.fields.iter().flatten().any(text) => Block::Row(vec![document()]),
        _ => Block::Plain(source_fields(schema, false)),
    }
}

/// What a schema without fields describes: one plain value. Its name is empty.
pub(super) fn value_of(schema: &ConnectSchema) -> Option<SourceField> {
    let is_plain = !matches!(schema.kind.as_str(), "struct" | "array" | "map") && !schema.kind.is_empty();
    let (natural, encoding) = column_of(schema, 0);
    (is_plain && encoding != Encoding::Json).then(|| SourceField { name: String::new(), natural, encoding })
}

/// MongoDB's `after` is a text: the document in Extended JSON. It is kept as it is.
pub(super) fn document() -> SourceField {
    SourceField { name: DOCUMENT.to_owned(), natural: ColumnType::String, encoding: Encoding::Text }
}

/// `unsigned`: a decimal of scale 0 without a precision is MySQL's unsigned bigint, of at most 20 digits.
fn source_fields(schema: &ConnectSchema, unsigned: bool) -> Vec<SourceField> {
    let fields = schema.fields.iter().flatten();
    fields
        .map(|field| {
            let (mut natural, encoding) = column_of(field, 0);
            if encoding == (Encoding::Decimal { precision: None, scale: 0 }) && (unsigned || field.is_unsigned_bigint())
            {
                natural = ColumnType::Decimal { precision: 20, scale: 0 };
            }
            SourceField { name: field.field.clone().unwrap_or_default(), natural, encoding }
        })
        .collect()
}

impl ConnectSchema {
    /// As `column.propagate.source.type` tells it.
    fn is_unsigned_bigint(&self) -> bool {
        let source_type = self.parameters.as_ref().and_then(|p| p.get("__debezium.source.column.type"));
        source_type.is_some_and(|t| t.to_uppercase().starts_with("BIGINT UNSIGNED"))
    }

    fn is_of_mysql(&self) -> bool {
        self.name.as_deref().is_some_and(|name| name.contains(".mysql.") || name.contains(".mariadb."))
    }
}

fn column_of(schema: &ConnectSchema, depth: usize) -> (ColumnType, Encoding) {
    let json = (ColumnType::String, Encoding::Json);
    if depth > MAX_TYPE_DEPTH {
        return json;
    }
    if let Some(name) = &schema.name
        && let Some(found) = logical_type(name, schema)
    {
        return found;
    }
    match schema.kind.as_str() {
        "boolean" => (ColumnType::Boolean, Encoding::Boolean),
        "int8" | "int16" | "int32" => (ColumnType::Int, Encoding::Integer { short: true }),
        "int64" => (ColumnType::Long, Encoding::Integer { short: false }),
        "float" | "float32" => (ColumnType::Float, Encoding::Float),
        "double" | "float64" => (ColumnType::Double, Encoding::Double),
        "string" => (ColumnType::String, Encoding::Text),
        "bytes" => (ColumnType::Binary, Encoding::Bytes),
        "array" => match &schema.items {
            Some(items) => {
                let (element, encoding) = column_of(items, depth + 1);
                (ColumnType::List(Box::new(element)), Encoding::List(Box::new(encoding)))
            }
            None => json,
        },
        // A map with other keys is written as an array of pairs.
        "map" => match (&schema.keys, &schema.values) {
            (Some(keys), Some(values)) if keys.kind == "string" => {
                let (value, encoding) = column_of(values, depth + 1);
                (ColumnType::Map(Box::new(value)), Encoding::Map(Box::new(encoding)))
            }
            _ => json,
        },
        "struct" => {
            let mut columns: Vec<Column> = Vec::new();
            let mut encodings = Vec::new();
            for field in schema.fields.iter().flatten() {
                let Some(name) = field.field.clone().filter(|name| columns.iter().all(|c| c.name != *name)) else {
                    return json;
                };
                let (column_type, encoding) = column_of(field, depth + 1);
                columns.push(Column::new(name.clone(), column_type));
                encodings.push((name, encoding));
            }
            // Parquet has no struct without fields.
            if columns.is_empty() { json } else { (ColumnType::Struct(columns), Encoding::Struct(encodings)) }
        }
        _ => json,
    }
}

/// Logical types whose values mean more than their kind says; the others (enum, xml, json ...) are what their kind is.
fn logical_type(name: &str, schema: &ConnectSchema) -> Option<(ColumnType, Encoding)> {
    use ColumnType as T;
    use Encoding as E;
    let integer = matches!(schema.kind.as_str(), "int32" | "int64");
    let text = schema.kind == "string";
    Some(match name {
        "org.apache.kafka.connect.data.Decimal" if schema.kind == "bytes" => {
            let parameter = |name: &str| schema.parameters.as_ref()?.get(name)?.parse::<i32>().ok();
            let scale = parameter("scale").unwrap_or(0);
            let precision = parameter("connect.decimal.precision").filter(|p| (1..=38).contains(p));
            match precision {
                Some(p) if (0..=p).contains(&scale) => (
                    T::Decimal { precision: p as u8, scale: scale as u8 },
                    E::Decimal { precision: Some(p as u8), scale },
                ),
                _ => (T::String, E::Decimal { precision: None, scale }),
            }
        }
        "io.debezium.data.VariableScaleDecimal" if schema.kind == "struct" => (T::String, E::VariableDecimal),
        "org.apache.kafka.connect.data.Date" | "io.debezium.time.Date" if integer => (T::Date, E::Days),
        "io.debezium.time.IsoDate" if text => (T::Date, E::DateText),
        "org.apache.kafka.connect.data.Time" | "io.debezium.time.Time" if integer => {
            (T::Time, E::TimeOfDay(Unit::Millis))
        }
        "io.debezium.time.MicroTime" if integer => (T::Time, E::TimeOfDay(Unit::Micros)),
        "io.debezium.time.NanoTime" if integer => (T::Time, E::TimeOfDay(Unit::Nanos)),
        "io.debezium.time.IsoTime" if text => (T::Time, E::TimeText),
        "org.apache.kafka.connect.data.Timestamp" | "io.debezium.time.Timestamp" if integer => {
            (T::Timestamp, E::Timestamp(Unit::Millis))
        }
        "io.debezium.time.MicroTimestamp" if integer => (T::Timestamp, E::Timestamp(Unit::Micros)),
        "io.debezium.time.NanoTimestamp" if integer => (T::Timestamp, E::Timestamp(Unit::Nanos)),
        "io.debezium.time.IsoTimestamp" if text => (T::Timestamp, E::TimestampText),
        "io.debezium.time.ZonedTimestamp" if text => (T::TimestampTz, E::ZonedTimestampText),
        "io.debezium.data.Uuid" if text => (T::Uuid, E::Uuid),
        _ => return None,
    })
}
