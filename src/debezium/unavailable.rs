//! What Debezium writes for a value that did not change and was not sent (TOAST), in columns of each type
//! (`UnchangedToastedPlaceholder` in Debezium's PostgreSQL connector).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

pub(super) const UNAVAILABLE: &str = "__debezium_unavailable_value";
/// bytea; base64 for URLs is the same.
const BASE64: &str = "X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ==";
const HEX: &str = "5f5f646562657a69756d5f756e617661696c61626c655f76616c7565";
/// An hstore that is written as a text: as the text, and as that stands in JSON.
const HSTORE: &str = r#"{"__debezium_unavailable_value":"__debezium_unavailable_value"}"#;
const HSTORE_IN_JSON: &str = r#"{\"__debezium_unavailable_value\":\"__debezium_unavailable_value\"}"#;
/// The element of an array of uuid: `UUID.nameUUIDFromBytes` of the text.
const UUID: &str = "b68a35a7-17ad-35b3-af2a-ae46edb4545a";
/// The point (-99999999 -99999999) of a geometry, and (179.999999 89.999999) of a geography.
const WKB: [&str; 2] = ["AQEAACDmEAAAAAAA/IPXl8EAAAD8g9eXwQ==", "AQEAACDmEAAADCHn/f9/ZkAYQs77/39WQA=="];
/// Bytes of such a point.
const WKB_BYTES: usize = 25;

/// Whether a text, as it stands in Avro or between JSON's quotes, says so.
#[inline]
pub(super) fn is_unavailable(raw: &str) -> bool {
    match raw.len() {
        28 => raw == UNAVAILABLE,
        40 => raw == BASE64,
        36 => raw == UUID || WKB.contains(&raw),
        56 => raw.eq_ignore_ascii_case(HEX),
        _ => raw.len() == HSTORE.len() && raw == HSTORE || raw.len() == HSTORE_IN_JSON.len() && raw == HSTORE_IN_JSON,
    }
}

/// Whether bytes say so.
#[inline]
pub(super) fn is_unavailable_bytes(bytes: &[u8]) -> bool {
    match bytes.len() {
        28 => bytes == UNAVAILABLE.as_bytes(),
        WKB_BYTES => WKB.contains(&STANDARD.encode(bytes).as_str()),
        _ => false,
    }
}

/// Whether it is an array of the one placeholder or of its bytes, or a map of it, as Connect's converter writes them.
pub(super) fn is_unavailable_json(raw: &str) -> bool {
    let inside = |open, close| raw.strip_prefix(open)?.strip_suffix(close);
    match (inside("[", "]"), inside("{\"", "\"}")) {
        (Some(elements), _) => {
            elements.strip_prefix('"').and_then(|e| e.strip_suffix('"')).is_some_and(is_unavailable)
                || elements.starts_with("95,")
                    && elements.split(',').map(|e| e.parse().ok()).eq(UNAVAILABLE.bytes().map(Some))
        }
        (_, Some(member)) => member.split_once("\":\"") == Some((UNAVAILABLE, UNAVAILABLE)),
        _ => false,
    }
}
