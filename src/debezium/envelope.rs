//! Debezium's envelope: what kind of message a payload is, and where its parts stand.

use super::cursor::Cursor;
use super::fault::{Fallible, excerpt, reason, reject};
use super::flat::{self, Format, Meta};
use super::source::{Position, SourceReader};
use crate::change::Op;
use crate::record::Record;

/// A message that is no row, by kind. Counted, never an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Skip {
    /// A null value (in append mode, or without a key that could be deleted).
    Tombstone,
    /// `op` t: the source table was emptied, and the table is one that keeps its rows.
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
    Truncate,
    Skip(Skip),
}

impl Kind {
    /// `None` for a letter that is no op.
    pub(super) fn of_letter(letter: &str) -> Option<Self> {
        Some(match letter {
            "c" => Kind::Row(Op::Create),
            "u" => Kind::Row(Op::Update),
            "r" => Kind::Row(Op::Read),
            "d" => Kind::Row(Op::Delete),
            "t" => Kind::Truncate,
            "m" => Kind::Skip(Skip::Message),
            _ => return None,
        })
    }
}

/// The parts of an envelope, or of a flattened record: its one image is `after`, of a delete `before`.
#[derive(Debug)]
pub(super) struct Envelope<C> {
    pub kind: Kind,
    pub flat: bool,
    /// Stands at the new image, if there is one.
    pub after: Option<C>,
    /// Stands at the `before` image, if there is one.
    pub before: Option<C>,
    pub position: Position,
}

impl Envelope<Cursor<'_>> {
    /// Whether the new image is a text: a document of MongoDB.
    pub(super) fn is_document(&self) -> bool {
        self.after.as_ref().is_some_and(|after| after.clone().peek() == b'"')
    }
}

/// Goes once over the payload here. `after` is called where an envelope's new image begins and must read or skip it. A flattened row
/// is not read here: what it is stands behind it.
///
/// # Errors
/// `not_json`, `not_debezium`, `flattened`, or what `after` says.
pub(super) fn scan<'a>(
    cursor: &mut Cursor<'a>,
    source: &mut SourceReader,
    format: Format,
    record: &Record<'_>,
    mut after: impl FnMut(&mut Cursor<'a>) -> Fallible<()>,
) -> Fallible<Envelope<Cursor<'a>>> {
    let start = cursor.clone();
    if format == Format::Flattened {
        return scan_flat(cursor, record);
    }
    let (mut seen, mut meta) = (Seen::default(), Meta::default());
    let mut op = None;
    // Whether `before`, `after` and `op` were there, whatever stands in them.
    let mut there = [false; 3];
    let (mut new, mut before, mut position) = (None, None, Position::default());
    if cursor.peek() != b'{' {
        cursor.skip()?;
        return Err(reject(reason::NOT_DEBEZIUM, "the payload is no object"));
    }
    let mut more = cursor.open_object()?;
    let mut scratch = Vec::new();
    while more {
        let name = cursor.name()?;
        let name = if name.escaped { name.decoded(&mut scratch)? } else { name.raw };
        match name {
            "before" => {
                once(&mut there[0], name)?;
                before = (cursor.peek() == b'{').then(|| cursor.clone());
                cursor.skip()?;
            }
            "after" => {
                once(&mut there[1], name)?;
                match cursor.peek() {
                    // MongoDB's document is a text.
                    b'{' | b'"' => {
                        new = Some(cursor.clone());
                        after(cursor)?;
                    }
                    _ => cursor.skip()?,
                }
            }
            "source" if cursor.peek() == b'{' => {
                seen.source = true;
                position = source.read(cursor)?;
            }
            "op" => {
                once(&mut there[2], name)?;
                if cursor.peek() == b'"' {
                    op = Some(cursor.string()?.raw);
                } else {
                    cursor.skip()?;
                }
            }
            other if other.starts_with("__") => note(&mut meta, other, cursor)?,
            other => seen.note(other, cursor)?,
        }
        seen.members += 1;
        more = cursor.more(b'}')?;
    }
    // An envelope has images or a source beside its op; the added fields stand in no envelope.
    let is_envelope = op.is_some() && (there[0] || there[1] || seen.source);
    if !is_envelope && meta.is_sign(record) {
        return flattened(start, &meta, format, record);
    }
    let kind = kind_of(op, new.is_some(), &seen)?;
    Ok(Envelope { kind, flat: false, after: new, before, position })
}

/// A member that would mean something else if it stood twice.
#[inline]
fn once(there: &mut bool, name: &str) -> Fallible<()> {
    if std::mem::replace(there, true) {
        return Err(reject(reason::DUPLICATE_FIELD, format!("{name} stands twice in the record")));
    }
    Ok(())
}

/// The payload is the row: only the added fields are looked at.
fn scan_flat<'a>(cursor: &mut Cursor<'a>, record: &Record<'_>) -> Fallible<Envelope<Cursor<'a>>> {
    let start = cursor.clone();
    if cursor.peek() != b'{' {
        cursor.skip()?;
        return Err(reject(reason::NOT_DEBEZIUM, "the payload is no object"));
    }
    let (mut meta, mut scratch) = (Meta::default(), Vec::new());
    let mut more = cursor.open_object()?;
    while more {
        let name = cursor.name()?;
        let name = if name.escaped { name.decoded(&mut scratch)? } else { name.raw };
        note(&mut meta, name, cursor)?;
        more = cursor.more(b'}')?;
    }
    flattened(start, &meta, Format::Flattened, record)
}

/// A flattened record: what stands at `start` is the row.
///
/// # Errors
/// `flattened` where the table takes envelopes only; `not_debezium`.
pub(super) fn flattened<C>(start: C, meta: &Meta, format: Format, record: &Record<'_>) -> Fallible<Envelope<C>> {
    if format == Format::Envelope {
        let how = "a flattened record (ExtractNewRecordState), and the table's format is \"envelope\"";
        return Err(reject(reason::FLATTENED, how));
    }
    let kind = meta.kind(record)?;
    let (after, before) = if kind == Kind::Row(Op::Delete) { (None, Some(start)) } else { (Some(start), None) };
    Ok(Envelope { kind, flat: true, after, before, position: meta.position })
}

/// Reads over one member, keeping what it says if it is an added field.
fn note(meta: &mut Meta, name: &str, cursor: &mut Cursor<'_>) -> Fallible<()> {
    match flat::added(name) {
        Some(field) if !cursor.null()? => {
            meta.note(field, cursor.raw()?.trim_matches('"'));
            Ok(())
        }
        Some(_) => Ok(()),
        None => cursor.skip(),
    }
}

/// What a payload with this `op`, and with these members, is.
///
/// # Errors
/// `not_debezium`, `flattened`.
pub(super) fn kind_of(op: Option<&str>, has_after: bool, seen: &Seen) -> Fallible<Kind> {
    let kind = match op {
        Some(op) => Kind::of_letter(op)
            .ok_or_else(|| reject(reason::NOT_DEBEZIUM, format!("op is {:?}, known are c u d r t m", excerpt(op))))?,
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
            return Err(reject(
                reason::NOT_DEBEZIUM,
                "no op in the payload: not a Debezium change, or flattened without added fields (then set format = \"flattened\")",
            ));
        })
    }
}
