//! Debezium's envelope: what kind of message a payload is, and where its parts stand.

use super::cursor::Cursor;
use super::fault::{Fallible, excerpt, reason, reject};
use super::source::{Position, SourceReader};
use crate::change::Op;

/// A message that is no row, by kind. Counted, never an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Skip {
    /// A null value (in append mode, or without a key that could be deleted).
    Tombstone,
    /// `op` t: the source table was truncated.
    Truncate,
    /// `op` m: a logical message.
    Message,
    Heartbeat,
    /// BEGIN or END of a transaction.
    Transaction,
    /// DDL on a schema-change topic.
    SchemaChange,
    /// A command on a signal topic.
    Signal,
    /// Progress of a snapshot.
    Notification,
}

impl Skip {
    /// The word for counters.
    pub fn as_str(self) -> &'static str {
        match self {
            Skip::Tombstone => "tombstone",
            Skip::Truncate => "truncate",
            Skip::Message => "message",
            Skip::Heartbeat => "heartbeat",
            Skip::Transaction => "transaction",
            Skip::SchemaChange => "schema_change",
            Skip::Signal => "signal",
            Skip::Notification => "notification",
        }
    }
}

/// What a payload turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Row(Op),
    Skip(Skip),
}

/// The parts of an envelope.
#[derive(Debug)]
pub(super) struct Envelope<C> {
    pub kind: Kind,
    /// Whether `after` was an object (and was given to the caller's reader).
    pub has_after: bool,
    /// Stands at the `before` image, if there is one.
    pub before: Option<C>,
    pub position: Position,
}

/// Goes once over the payload here. `after` is called where the new image's object begins and must read or skip it.
///
/// # Errors
/// `not_json`, `not_debezium`, `flattened`, or what `after` says.
pub(super) fn scan<'a>(
    cursor: &mut Cursor<'a>,
    source: &mut SourceReader,
    mut after: impl FnMut(&mut Cursor<'a>) -> Fallible<()>,
) -> Fallible<Envelope<Cursor<'a>>> {
    let mut seen = Seen::default();
    let mut op = None;
    let (mut has_after, mut before, mut position) = (false, None, Position::default());
    let mut more = cursor.peek() == b'{' && cursor.open_object()?;
    if !more && cursor.since(0).is_empty() {
        cursor.skip()?;
        return Err(reject(reason::NOT_DEBEZIUM, "the payload is no object"));
    }
    let mut scratch = Vec::new();
    while more {
        let name = cursor.name()?;
        let name = if name.escaped { name.decoded(&mut scratch)? } else { name.raw };
        match name {
            "before" => {
                before = (cursor.peek() == b'{').then(|| cursor.clone());
                cursor.skip()?;
            }
            "after" => match cursor.peek() {
                b'{' => {
                    after(cursor)?;
                    has_after = true;
                }
                _ => cursor.skip()?,
            },
            "source" if cursor.peek() == b'{' => {
                seen.source = true;
                position = source.read(cursor)?;
            }
            "op" if cursor.peek() == b'"' => op = Some(cursor.string()?.raw),
            other => seen.note(other, cursor)?,
        }
        seen.members += 1;
        more = cursor.more(b'}')?;
    }
    let kind = kind_of(op, has_after, &seen)?;
    Ok(Envelope { kind, has_after, before, position })
}

/// What a payload with this `op`, and with these members, is.
///
/// # Errors
/// `not_debezium`, `flattened`.
pub(super) fn kind_of(op: Option<&str>, has_after: bool, seen: &Seen) -> Fallible<Kind> {
    let kind = match op {
        Some("c") => Kind::Row(Op::Create),
        Some("u") => Kind::Row(Op::Update),
        Some("r") => Kind::Row(Op::Read),
        Some("d") => Kind::Row(Op::Delete),
        Some("t") => Kind::Skip(Skip::Truncate),
        Some("m") => Kind::Skip(Skip::Message),
        Some(other) => {
            return Err(reject(reason::NOT_DEBEZIUM, format!("op is {:?}, known are c u d r t m", excerpt(other))));
        }
        None => Kind::Skip(seen.kind()?),
    };
    if matches!(kind, Kind::Row(op) if op != Op::Delete) && !has_after {
        return Err(reject(reason::NOT_DEBEZIUM, format!("op {} without an object in after", op.unwrap_or_default())));
    }
    Ok(kind)
}

/// What is known of a payload without an `op`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    pub members: u32,
    pub source: bool,
    id: bool,
    ts_ms: bool,
    transaction_status: bool,
    signal_type: bool,
    aggregate_type: bool,
    ddl: bool,
    flattened: bool,
}

impl Seen {
    fn note(&mut self, name: &str, cursor: &mut Cursor<'_>) -> Fallible<()> {
        match name {
            "status" => self.status(cursor.raw()?.trim_matches('"')),
            "type" => self.signal(cursor.raw()?.trim_matches('"')),
            _ => {
                self.member(name);
                cursor.skip()?;
            }
        }
        Ok(())
    }

    /// A member whose name alone tells something.
    pub(super) fn member(&mut self, name: &str) {
        match name {
            "id" => self.id = true,
            "ts_ms" => self.ts_ms = true,
            "aggregate_type" => self.aggregate_type = true,
            "ddl" | "tableChanges" => self.ddl = true,
            "__op" | "__deleted" => self.flattened = true,
            _ => {}
        }
    }

    /// The member `status`.
    pub(super) fn status(&mut self, text: &str) {
        self.transaction_status = matches!(text, "BEGIN" | "END");
    }

    /// The member `type`.
    pub(super) fn signal(&mut self, text: &str) {
        self.signal_type = text.ends_with("-snapshot") || matches!(text, "log" | "schema-changes");
    }

    fn kind(&self) -> Fallible<Skip> {
        if self.flattened {
            let how =
                "a flattened record (ExtractNewRecordState): take the transform out of the connector's configuration";
            return Err(reject(reason::FLATTENED, how));
        }
        Ok(if self.ddl {
            Skip::SchemaChange
        } else if self.aggregate_type && self.id {
            Skip::Notification
        } else if self.transaction_status && self.id {
            Skip::Transaction
        } else if self.signal_type && self.members <= 3 {
            Skip::Signal
        } else if self.ts_ms && self.members == 1 {
            Skip::Heartbeat
        } else {
            return Err(reject(reason::NOT_DEBEZIUM, "no op in the payload: not a Debezium change"));
        })
    }
}
