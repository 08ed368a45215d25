//! Rows in Avro: the schema of the columns, and values by it in Confluent's wire format.
//!
//! Every field may be null and is null by default, so that a column more or less leaves the schema compatible in both directions.

use std::io::Write as _;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::*;
use arrow_array::{Array, ArrayRef};
use arrow_cast::{CastOptions, cast_with_options};
use arrow_schema::{DataType, Field, SchemaRef, TimeUnit};
use serde_json::{Value, json};

/// Begins every message; the schema's id follows in four bytes.
const MAGIC: u8 = 0;

/// The schema of a topic's values, and what writes them.
#[derive(Debug)]
pub(super) struct AvroWriter {
    schema: String,
    /// The columns by name, and the type that each is written from.
    fields: Vec<(String, DataType)>,
    id: i32,
}

impl AvroWriter {
    /// # Errors
    /// The sentence for a person: a column whose name or type Avro does not have.
    pub(super) fn new(topic: &str, columns: &SchemaRef) -> Result<Self, String> {
        let mut fields = Vec::new();
        for field in columns.fields() {
            fields.push((field.name().clone(), written(field.name(), field.data_type())?));
        }
        let listed = fields.iter().map(|(name, kind)| (name.as_str(), kind));
        let mut schema = record("Value", listed)?;
        if let Value::Object(schema) = &mut schema {
            schema.insert("namespace".to_owned(), json!(namespace(topic)));
        }
        Ok(Self { schema: schema.to_string(), fields, id: 0 })
    }

    pub(super) fn schema(&self) -> &str {
        &self.schema
    }

    /// Under the id that the registry has the schema by.
    pub(super) fn with_id(self, id: i32) -> Self {
        Self { id, ..self }
    }

    /// The schema's columns, out of these, as they are written; null where one is missing.
    ///
    /// # Errors
    /// Names the column whose values don't fit.
    pub(super) fn fit(&self, columns: &[(String, ArrayRef)], rows: usize) -> Result<Vec<ArrayRef>, String> {
        let fit = |(name, kind): &(String, DataType)| match columns.iter().find(|(n, _)| n == name) {
            Some((_, column)) => cast_with_options(column, kind, &CastOptions { safe: false, ..Default::default() })
                .map_err(|e| format!("column {name}: {e}")),
            None => Ok(arrow_array::new_null_array(kind, rows)),
        };
        self.fields.iter().map(fit).collect()
    }

    /// One row of what [`fit`](Self::fit) made.
    pub(super) fn write(&self, fitted: &[ArrayRef], row: usize) -> Vec<u8> {
        let mut out = vec![MAGIC];
        out.extend_from_slice(&self.id.to_be_bytes());
        fitted.iter().for_each(|column| nullable(column, row, &mut out));
        out
    }
}

/// The Arrow type that a column's values are written from.
fn written(name: &str, kind: &DataType) -> Result<DataType, String> {
    use DataType as D;
    let of = |field: &Field| written(field.name(), field.data_type());
    let again = |field: &Field, kind| Arc::new(Field::new(field.name(), kind, true));
    Ok(match kind {
        D::Boolean | D::Int32 | D::Int64 | D::Float32 | D::Float64 | D::Utf8 | D::Binary | D::Date32 => kind.clone(),
        D::Int8 | D::Int16 | D::UInt8 | D::UInt16 => D::Int32,
        D::UInt32 => D::Int64,
        D::UInt64 => D::Decimal128(20, 0),
        D::Float16 => D::Float32,
        D::Null | D::LargeUtf8 | D::Utf8View => D::Utf8,
        D::LargeBinary | D::BinaryView => D::Binary,
        D::FixedSizeBinary(16) => kind.clone(),
        D::FixedSizeBinary(_) => D::Binary,
        D::Date64 => D::Date32,
        D::Time32(_) | D::Time64(_) => D::Time64(TimeUnit::Microsecond),
        D::Timestamp(_, zone) => D::Timestamp(TimeUnit::Microsecond, zone.clone()),
        D::Decimal32(precision, scale) | D::Decimal64(precision, scale) | D::Decimal128(precision, scale)
            if *scale >= 0 =>
        {
            D::Decimal128(*precision, *scale)
        }
        D::Dictionary(_, value) => written(name, value)?,
        D::List(element) | D::LargeList(element) | D::FixedSizeList(element, _) => {
            D::List(again(element, of(element)?))
        }
        D::Struct(fields) => {
            let fields = fields.iter().map(|field| Ok(again(field, of(field)?)));
            D::Struct(fields.collect::<Result<_, String>>()?)
        }
        D::Map(entries, sorted) => match entries.data_type() {
            D::Struct(pair) if pair.len() == 2 => {
                let key = Arc::new(Field::new(pair[0].name(), D::Utf8, false));
                let pair = D::Struct([key, again(&pair[1], of(&pair[1])?)].into_iter().collect());
                D::Map(Arc::new(Field::new(entries.name(), pair, false)), *sorted)
            }
            _ => return Err(format!("column {name}: {kind} is no map")),
        },
        _ => return Err(format!("column {name}: Avro has nothing for {kind}: cast it in the SELECT")),
    })
}

fn record<'a>(name: &str, fields: impl Iterator<Item = (&'a str, &'a DataType)>) -> Result<Value, String> {
    let mut listed = Vec::new();
    for (field, kind) in fields {
        if !is_name(field) {
            return Err(format!(
                "column {field}: Avro's names are letters, digits and _: call it otherwise in the SELECT"
            ));
        }
        let kind = schema_of(&format!("{name}_{field}"), kind)?;
        listed.push(json!({"name": field, "type": ["null", kind], "default": null}));
    }
    Ok(json!({"type": "record", "name": name, "fields": listed}))
}

/// `path` is the name of a record, if it is one.
fn schema_of(path: &str, kind: &DataType) -> Result<Value, String> {
    use DataType as D;
    let logical = |base: &str, logical: &str| json!({"type": base, "logicalType": logical});
    Ok(match kind {
        D::Boolean => json!("boolean"),
        D::Int32 => json!("int"),
        D::Int64 => json!("long"),
        D::Float32 => json!("float"),
        D::Float64 => json!("double"),
        D::Binary => json!("bytes"),
        D::Date32 => logical("int", "date"),
        D::Time64(_) => logical("long", "time-micros"),
        D::Timestamp(_, Some(_)) => logical("long", "timestamp-micros"),
        D::Timestamp(_, None) => logical("long", "local-timestamp-micros"),
        D::FixedSizeBinary(_) => logical("string", "uuid"),
        D::Decimal128(precision, scale) => {
            json!({"type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale})
        }
        D::List(element) => json!({"type": "array", "items": ["null", schema_of(path, element.data_type())?]}),
        D::Struct(fields) => record(path, fields.iter().map(|f| (f.name().as_str(), f.data_type())))?,
        D::Map(entries, _) => match entries.data_type() {
            D::Struct(pair) if pair.len() == 2 => {
                json!({"type": "map", "values": ["null", schema_of(path, pair[1].data_type())?]})
            }
            _ => json!("null"),
        },
        _ => json!("string"),
    })
}

fn is_name(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
    !text.is_empty() && text.chars().all(fits) && !text.starts_with(|c: char| c.is_ascii_digit())
}

fn namespace(topic: &str) -> String {
    let part = |part: &str| {
        let fits: String = part.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        if is_name(&fits) { fits } else { format!("_{fits}") }
    };
    topic.split('.').map(part).collect::<Vec<_>>().join(".")
}

/// A union of null and the value. Writing to a `Vec` can't fail.
fn nullable(column: &ArrayRef, row: usize, out: &mut Vec<u8>) {
    match column.is_null(row) {
        true => long(0, out),
        false => {
            long(1, out);
            value(column, row, out);
        }
    }
}

fn value(column: &ArrayRef, row: usize, out: &mut Vec<u8>) {
    use DataType as D;
    match column.data_type() {
        D::Boolean => out.push(u8::from(column.as_boolean().value(row))),
        D::Int32 => long(i64::from(column.as_primitive::<Int32Type>().value(row)), out),
        D::Int64 => long(column.as_primitive::<Int64Type>().value(row), out),
        D::Float32 => out.extend_from_slice(&column.as_primitive::<Float32Type>().value(row).to_le_bytes()),
        D::Float64 => out.extend_from_slice(&column.as_primitive::<Float64Type>().value(row).to_le_bytes()),
        D::Binary => bytes(column.as_binary::<i32>().value(row), out),
        D::Date32 => long(i64::from(column.as_primitive::<Date32Type>().value(row)), out),
        D::Time64(_) => long(column.as_primitive::<Time64MicrosecondType>().value(row), out),
        D::Timestamp(_, _) => long(column.as_primitive::<TimestampMicrosecondType>().value(row), out),
        D::FixedSizeBinary(_) => {
            let mut text = Vec::with_capacity(36);
            if let Ok(id) = uuid::Uuid::from_slice(column.as_fixed_size_binary().value(row)) {
                let _ = write!(text, "{id}");
            }
            bytes(&text, out);
        }
        D::Decimal128(_, _) => unscaled(column.as_primitive::<Decimal128Type>().value(row), out),
        D::List(_) => {
            let list = column.as_list::<i32>().value(row);
            block(list.len(), out, |i, out| nullable(&list, i, out));
        }
        D::Struct(_) => column.as_struct().columns().iter().for_each(|field| nullable(field, row, out)),
        D::Map(_, _) => {
            let entries = column.as_map().value(row);
            let (keys, values) = (entries.column(0).as_string::<i32>(), entries.column(1));
            block(entries.len(), out, |i, out| {
                bytes(keys.value(i).as_bytes(), out);
                nullable(values, i, out);
            });
        }
        _ => bytes(column.as_string::<i32>().value(row).as_bytes(), out),
    }
}

fn block(len: usize, out: &mut Vec<u8>, mut item: impl FnMut(usize, &mut Vec<u8>)) {
    if len > 0 {
        long(len as i64, out);
        (0..len).for_each(|i| item(i, out));
    }
    long(0, out);
}

fn long(value: i64, out: &mut Vec<u8>) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn bytes(value: &[u8], out: &mut Vec<u8>) {
    long(value.len() as i64, out);
    out.extend_from_slice(value);
}

/// Two's complement, the first byte first, as few as hold the sign.
fn unscaled(value: i128, out: &mut Vec<u8>) {
    let all = value.to_be_bytes();
    let sign = if value < 0 { 0xff } else { 0 };
    let redundant = all.windows(2).take_while(|pair| pair[0] == sign && (pair[1] ^ sign) & 0x80 == 0).count();
    bytes(&all[redundant..], out);
}
