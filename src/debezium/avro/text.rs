//! Values as the text of the JSON that Kafka Connect's JSON converter writes for them: for text columns that take anything.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::super::fault::Fallible;
use super::cursor::{Cursor, items};
use super::schema::{Kind, MAX_DEPTH, NodeId, Schema, too_deep};

/// Adds the value here to `out`: a string as it is, anything else as JSON. False, and nothing added, for a null.
pub(super) fn any_text(schema: &Schema, id: NodeId, cursor: &mut Cursor<'_>, out: &mut Vec<u8>) -> Fallible<bool> {
    let mut id = id;
    // A union in a union is no Avro, but a reference can make one.
    for _ in 0..MAX_DEPTH {
        let Kind::Union(branches) = schema.kind(id) else { break };
        let branch = cursor.index(branches.len())?;
        id = branches.get(branch).copied().unwrap_or(id);
    }
    match schema.kind(id) {
        Kind::Null => return Ok(false),
        Kind::Text => out.extend_from_slice(cursor.text()?.as_bytes()),
        Kind::Enum(symbols) => {
            let index = cursor.index(symbols.len())?;
            out.extend_from_slice(symbols.get(index).map_or(b"", String::as_bytes));
        }
        Kind::Bytes | Kind::Fixed(_) => base64(bytes(schema.kind(id), cursor)?, out),
        Kind::Float => number(cursor.float()?, out),
        Kind::Double => number(cursor.double()?, out),
        _ => json(schema, id, cursor, out, 0)?,
    }
    Ok(true)
}

fn json(schema: &Schema, id: NodeId, cursor: &mut Cursor<'_>, out: &mut Vec<u8>, depth: u32) -> Fallible<()> {
    if depth > MAX_DEPTH {
        return Err(too_deep());
    }
    match schema.kind(id) {
        Kind::Null => out.extend_from_slice(b"null"),
        Kind::Boolean => out.extend_from_slice(if cursor.boolean()? { b"true" } else { b"false" }),
        Kind::Int => out.extend_from_slice(cursor.int()?.to_string().as_bytes()),
        Kind::Long => out.extend_from_slice(cursor.long()?.to_string().as_bytes()),
        Kind::Float => quoted_unless_finite(cursor.float()?, out),
        Kind::Double => quoted_unless_finite(cursor.double()?, out),
        Kind::Bytes | Kind::Fixed(_) => {
            let bytes = bytes(schema.kind(id), cursor)?;
            out.push(b'"');
            base64(bytes, out);
            out.push(b'"');
        }
        Kind::Text => string(cursor.text()?, out),
        Kind::Enum(symbols) => {
            let index = cursor.index(symbols.len())?;
            string(symbols.get(index).map_or("", String::as_str), out);
        }
        Kind::Union(branches) => {
            let branch = cursor.index(branches.len())?;
            if let Some(branch) = branches.get(branch) {
                json(schema, *branch, cursor, out, depth + 1)?;
            }
        }
        Kind::Array(items) => {
            sequence(b"[]", cursor, out, |cursor, out| json(schema, *items, cursor, out, depth + 1))?;
        }
        // A map whose keys are no strings: pairs.
        Kind::Pairs(entry) => sequence(b"[]", cursor, out, |cursor, out| {
            out.push(b'[');
            for (at, field) in schema.fields(*entry).into_iter().flatten().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                json(schema, field.node, cursor, out, depth + 1)?;
            }
            out.push(b']');
            Ok(())
        })?,
        Kind::Map(values) => sequence(b"{}", cursor, out, |cursor, out| {
            string(cursor.text()?, out);
            out.push(b':');
            json(schema, *values, cursor, out, depth + 1)
        })?,
        Kind::Record(fields) => {
            out.push(b'{');
            for (at, field) in fields.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                string(&field.name, out);
                out.push(b':');
                json(schema, field.node, cursor, out, depth + 1)?;
            }
            out.push(b'}');
        }
    }
    Ok(())
}

/// The items of an array or a map, with commas between and `brackets` around them.
fn sequence<'a>(
    brackets: &[u8; 2],
    cursor: &mut Cursor<'a>,
    out: &mut Vec<u8>,
    mut item: impl FnMut(&mut Cursor<'a>, &mut Vec<u8>) -> Fallible<()>,
) -> Fallible<()> {
    let [open, close] = *brackets;
    out.push(open);
    let mut first = true;
    items(cursor, |cursor| {
        if !std::mem::take(&mut first) {
            out.push(b',');
        }
        item(cursor, out)
    })?;
    out.push(close);
    Ok(())
}

fn bytes<'a>(kind: &Kind, cursor: &mut Cursor<'a>) -> Fallible<&'a [u8]> {
    match kind {
        Kind::Fixed(len) => cursor.fixed(*len),
        _ => cursor.bytes(),
    }
}

fn base64(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(STANDARD.encode(bytes).as_bytes());
}

fn string(text: &str, out: &mut Vec<u8>) {
    // Writing to a vector does not fail, and a string is always JSON.
    let _ = serde_json::to_writer(out, text);
}

/// What a float writes of itself: as JSON its shortest digits, else a word.
trait Number: serde::Serialize + Copy + Into<f64> {}
impl Number for f32 {}
impl Number for f64 {}

fn number(value: impl Number, out: &mut Vec<u8>) {
    let wide: f64 = value.into();
    if wide.is_finite() {
        let _ = serde_json::to_writer(out, &value); // as above
    } else {
        let word: &[u8] = if wide.is_nan() {
            b"NaN"
        } else if wide > 0.0 {
            b"Infinity"
        } else {
            b"-Infinity"
        };
        out.extend_from_slice(word);
    }
}

fn quoted_unless_finite(value: impl Number, out: &mut Vec<u8>) {
    if value.into().is_finite() {
        return number(value, out);
    }
    out.push(b'"');
    number(value, out);
    out.push(b'"');
}
