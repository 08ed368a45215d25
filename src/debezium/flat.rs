//! Flattened records (Debezium's `ExtractNewRecordState`): which fields the transform has added and what they say of the row.
//! Knows neither JSON nor Avro.

use super::envelope::Kind;
use super::fault::{Fallible, reason, reject};
use super::source::{Position, Snapshot, first_number};
use crate::change::Op;
use crate::record::Record;

/// What the messages of a table look like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Each record by itself: flattened is what has `__op` or `__deleted`, everything else must be an envelope.
    #[default]
    Auto,
    Envelope,
    /// Every object is a row, and a null value a delete.
    Flattened,
}

/// A field that the transform has added to the row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Added {
    Op,
    Deleted,
    SourceTsMs,
    Lsn,
    Sequence,
    Snapshot,
    /// Of no use to firn.
    Other,
}

/// Fields of the envelope, its `source` and its `transaction` that may be added under their own name, with `__` before it.
const OTHERS: [&str; 45] = [
    "ts_ms",
    "ts_us",
    "ts_ns",
    "version",
    "connector",
    "name",
    "snapshot",
    "db",
    "sequence",
    "schema",
    "table",
    "collection",
    "txId",
    "xmin",
    "origin",
    "origin_lsn",
    "server_id",
    "gtid",
    "file",
    "pos",
    "row",
    "thread",
    "query",
    "change_lsn",
    "commit_lsn",
    "event_serial_no",
    "ord",
    "h",
    "tord",
    "stxnid",
    "lsid",
    "txnNumber",
    "wallTime",
    "scn",
    "commit_scn",
    "rs_id",
    "ssn",
    "redo_thread",
    "user_name",
    "redo_sql",
    "row_id",
    "id",
    "total_order",
    "data_collection_order",
    "transaction",
];

/// What the transform's field `name` is; `None` for a field of the row.
pub(super) fn added(name: &str) -> Option<Added> {
    let plain = name.strip_prefix("__")?;
    Some(match plain {
        "op" => Added::Op,
        "deleted" => Added::Deleted,
        "source_ts_ms" => Added::SourceTsMs,
        "lsn" | "source_lsn" => Added::Lsn,
        "sequence" | "source_sequence" => Added::Sequence,
        "snapshot" | "source_snapshot" => Added::Snapshot,
        _ if plain.starts_with("source_") || plain.starts_with("transaction_") || OTHERS.contains(&plain) => {
            Added::Other
        }
        _ => return None,
    })
}

/// All names of [`added`] that have no part of their own.
pub(super) fn usual_names() -> impl Iterator<Item = String> {
    ["op", "deleted", "source_ts_ms", "lsn", "source_lsn"].into_iter().chain(OTHERS).map(|name| format!("__{name}"))
}

/// The text of an op; `None` where it is none.
type Letter = Option<Kind>;

/// What the added fields of one record say.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Meta {
    pub op: Option<Letter>,
    pub deleted: Option<bool>,
    pub position: Position,
}

impl Meta {
    /// Takes the text of an added field's value: of a string, of `true` or `false`, of a number.
    pub(super) fn note(&mut self, field: Added, text: &str) {
        match field {
            Added::Op => self.op = Some(Kind::of_letter(text)),
            // Anything but these words is none of the transform's.
            Added::Deleted => self.deleted = matches!(text, "true" | "false").then_some(text == "true"),
            Added::SourceTsMs => self.position.ts_ms = text.parse().ok(),
            Added::Lsn => self.position.lsn = text.parse().ok(),
            Added::Sequence => self.position.last_commit = first_number(text),
            Added::Snapshot => self.position.snapshot = Snapshot::named(text),
            Added::Other => {}
        }
    }

    /// Whether the record tells of itself that it is flattened.
    pub(super) fn is_sign(&self, record: &Record<'_>) -> bool {
        self.op.is_some() || self.deleted.is_some() || header_op(record).is_some()
    }

    /// What happened to the row. Where nothing tells, it is the row's new state.
    ///
    /// # Errors
    /// `not_debezium` when the fields contradict each other or the op is none.
    pub(super) fn kind(&self, record: &Record<'_>) -> Fallible<Kind> {
        let kind = match self.op.or_else(|| header_op(record).map(Kind::of_letter)) {
            Some(letter) => {
                letter.ok_or_else(|| reject(reason::NOT_DEBEZIUM, "__op is no op, known are c u d r t m"))?
            }
            None if self.deleted == Some(true) => Kind::Row(Op::Delete),
            None => Kind::Row(Op::Update),
        };
        match (self.deleted, kind) {
            (Some(deleted), Kind::Row(op)) if deleted != (op == Op::Delete) => Err(reject(
                reason::NOT_DEBEZIUM,
                format!("__deleted is {deleted} and __op is {:?}: one of them must be wrong", op.letter()),
            )),
            _ => Ok(kind),
        }
    }
}

/// `add.headers=op`
fn header_op<'r>(record: &Record<'r>) -> Option<&'r str> {
    record.header("__op").and_then(|op| std::str::from_utf8(op).ok()).map(|op| op.trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("__op", Some(Added::Op))]
    #[case("__deleted", Some(Added::Deleted))]
    #[case("__source_ts_ms", Some(Added::SourceTsMs))]
    #[case("__lsn", Some(Added::Lsn))]
    #[case("__source_lsn", Some(Added::Lsn))]
    #[case("__txId", Some(Added::Other))]
    #[case("__source_gtid", Some(Added::Other))]
    #[case("__transaction_id", Some(Added::Other))]
    #[case::connectors_own_clock("__ts_ms", Some(Added::Other))]
    #[case::a_column_of_the_source("__note", None)]
    #[case("op", None)]
    fn the_transforms_fields_are_known_by_name(#[case] name: &str, #[case] want: Option<Added>) {
        assert_eq!(added(name), want);
        assert!(want.is_none() || name.contains("_gtid") || name.contains("_id") || usual_names().any(|n| n == name));
    }

    #[rstest]
    #[case(Some("c"), Some(false), Some(Kind::Row(Op::Create)))]
    #[case(Some("d"), None, Some(Kind::Row(Op::Delete)))]
    #[case(Some("t"), None, Some(Kind::Truncate))]
    #[case(None, Some(true), Some(Kind::Row(Op::Delete)))]
    #[case(None, Some(false), Some(Kind::Row(Op::Update)))]
    #[case(None, None, Some(Kind::Row(Op::Update)))]
    #[case::contradiction(Some("c"), Some(true), None)]
    #[case::contradiction(Some("d"), Some(false), None)]
    #[case::no_op(Some("x"), None, None)]
    fn op_and_deleted_make_the_operation(
        #[case] op: Option<&str>,
        #[case] deleted: Option<bool>,
        #[case] want: Option<Kind>,
    ) {
        let meta = Meta { op: op.map(Kind::of_letter), deleted, position: Position::default() };
        assert_eq!(meta.kind(&Record::default()).ok(), want);
    }
}
