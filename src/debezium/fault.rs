//! Why a record could not become a row. Knows no record: the caller adds where it came from.

/// A record that could not become a row: a stable word for counters and a sentence for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject {
    /// One of the words in [`reason`].
    pub reason: &'static str,
    /// What was wrong and where in the record, e.g. `column n: 5000000000 does not fit int`.
    pub detail: String,
}

impl std::fmt::Display for Reject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.reason, self.detail)
    }
}

/// The words of [`Reject::reason`].
pub mod reason {
    /// Not one whole JSON value in valid UTF-8.
    pub const NOT_JSON: &str = "not_json";
    /// JSON, but no Debezium envelope.
    pub const NOT_DEBEZIUM: &str = "not_debezium";
    /// A flattened record (`ExtractNewRecordState`) where the configuration wants envelopes.
    pub const FLATTENED: &str = "flattened";
    /// Not one whole Avro datum of its writer's schema.
    pub const NOT_AVRO: &str = "not_avro";
    /// The registry has no schema of the record's id.
    pub const UNKNOWN_SCHEMA_ID: &str = "unknown_schema_id";
    /// A schema block that is no Connect schema, or a registered schema that is no Avro.
    pub const BAD_SCHEMA: &str = "bad_schema";
    /// A value that its column cannot hold.
    pub const BAD_VALUE: &str = "bad_value";
    /// A field that stands twice in one object.
    pub const DUPLICATE_FIELD: &str = "duplicate_field";
    /// A null where the table has a key column.
    pub const NULL_KEY: &str = "null_key";
    /// An upsert needs a key and the record has none.
    pub const NO_KEY: &str = "no_key";
    /// The record key names another row than the value.
    pub const KEY_MISMATCH: &str = "key_mismatch";
    /// Neither the record nor the table nor the configuration knows the types.
    pub const NO_SCHEMA: &str = "no_schema";
    /// The record's types do not fit the table's, and the table could not be evolved.
    pub const INCOMPATIBLE_SCHEMA: &str = "incompatible_schema";
}

/// The error of everything below the decoder, boxed so that the happy path carries one word.
pub(super) type Fallible<T> = Result<T, Box<Reject>>;

#[cold]
pub(super) fn reject(reason: &'static str, detail: impl Into<String>) -> Box<Reject> {
    Box::new(Reject { reason, detail: detail.into() })
}

#[cold]
pub(super) fn bad_value(detail: impl Into<String>) -> Box<Reject> {
    reject(reason::BAD_VALUE, detail)
}

#[cold]
pub(super) fn not_json(detail: impl Into<String>) -> Box<Reject> {
    reject(reason::NOT_JSON, detail)
}

/// Names the column (or the path inside one) that a bad value was meant for.
#[cold]
pub(super) fn in_column(mut fault: Box<Reject>, name: &str) -> Box<Reject> {
    if fault.reason == reason::BAD_VALUE || fault.reason == reason::DUPLICATE_FIELD {
        fault.detail = match fault.detail.strip_prefix("column ") {
            Some(inner) => format!("column {name}.{inner}"),
            None => format!("column {name}: {}", fault.detail),
        };
    }
    fault
}

/// At most 60 characters of a value, for a message.
pub(super) fn excerpt(text: &str) -> String {
    let mut out: String = text.chars().take(60).collect();
    if out.len() < text.len() {
        out.push('…');
    }
    out
}
