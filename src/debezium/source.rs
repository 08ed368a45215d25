//! The envelope's `source` object: when and where in the source's log the change was made.

use super::cursor::Cursor;
use super::fault::Fallible;

/// Constant members longer than this are read anew each time: comparing them costs as much.
const MAX_CONSTANT_BYTES: usize = 96;
/// After this many changes a member's value is taken for one that always changes, and no longer remembered.
const MAX_CHANGES: u8 = 4;

/// What firn keeps of `source`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Position {
    /// `source.ts_ms`
    pub ts_ms: Option<i64>,
    /// `source.lsn` (PostgreSQL)
    pub lsn: Option<i64>,
}

/// Remembers what `source` looked like last time: most of it (version, connector, database, table) never changes within a topic,
/// so one comparison steps over a member instead of reading it.
#[derive(Debug, Default)]
pub(super) struct SourceReader {
    members: Vec<SeenMember>,
}

#[derive(Debug)]
struct SeenMember {
    /// `"name":`
    pattern: Vec<u8>,
    wanted: Wanted,
    /// `"name":value` of the last record, empty if it is not worth a comparison. Always ends in a quote or a letter, so that what
    /// follows cannot belong to the value.
    constant: Vec<u8>,
    changes: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    TsMs,
    Lsn,
    Nothing,
}

impl SourceReader {
    /// Reads the object here.
    pub(super) fn read(&mut self, cursor: &mut Cursor<'_>) -> Fallible<Position> {
        let mut position = Position::default();
        if !cursor.open_object()? {
            return Ok(position);
        }
        let mut at = 0;
        loop {
            self.member(at, cursor, &mut position)?;
            at += 1;
            if !cursor.more(b'}')? {
                return Ok(position);
            }
        }
    }

    #[inline]
    fn member(&mut self, at: usize, cursor: &mut Cursor<'_>, position: &mut Position) -> Fallible<()> {
        let Some(seen) = self.members.get_mut(at) else { return self.learn(at, cursor, position) };
        if !seen.constant.is_empty() && cursor.eat(&seen.constant) {
            return Ok(());
        }
        let from = cursor.position();
        if !cursor.eat(&seen.pattern) {
            return self.learn(at, cursor, position);
        }
        seen.value(from, cursor, position)
    }

    /// Reads a member that does not stand where it stood last time.
    #[cold]
    fn learn(&mut self, at: usize, cursor: &mut Cursor<'_>, position: &mut Position) -> Fallible<()> {
        cursor.peek();
        let from = cursor.position();
        let mut scratch = Vec::new();
        let name = cursor.name()?;
        let wanted = match name.decoded(&mut scratch)? {
            "ts_ms" => Wanted::TsMs,
            "lsn" => Wanted::Lsn,
            _ => Wanted::Nothing,
        };
        let pattern = cursor.since(from).as_bytes().to_vec();
        let mut seen = SeenMember { pattern, wanted, constant: Vec::new(), changes: 0 };
        seen.value(from, cursor, position)?;
        self.members.truncate(at);
        self.members.push(seen);
        Ok(())
    }
}

impl SeenMember {
    fn value(&mut self, from: usize, cursor: &mut Cursor<'_>, position: &mut Position) -> Fallible<()> {
        let first = cursor.peek();
        let number = matches!(first, b'-' | b'0'..=b'9');
        match self.wanted {
            Wanted::TsMs if number => position.ts_ms = Some(cursor.integer()?),
            Wanted::Lsn if number => position.lsn = Some(cursor.integer()?),
            _ => cursor.skip()?,
        }
        if self.changes < MAX_CHANGES && matches!(first, b'"' | b'n' | b't' | b'f') {
            let member = cursor.since(from).as_bytes();
            if member.len() <= MAX_CONSTANT_BYTES {
                self.changes += u8::from(!self.constant.is_empty());
                self.constant.clear();
                if self.changes < MAX_CHANGES {
                    self.constant.extend_from_slice(member);
                }
            }
        }
        Ok(())
    }
}
