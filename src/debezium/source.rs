//! The envelope's `source` object: when and where in the source's log the change was made.

use super::cursor::Cursor;
use super::fault::Fallible;
use crate::table_event::Fence;

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
    /// `source.sequence`, its first element (PostgreSQL): where the last transaction ended that was sent before this change's.
    pub last_commit: Option<i64>,
    /// `source.snapshot`
    pub snapshot: Snapshot,
}

/// Whether a snapshot read the row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Snapshot {
    /// It came through the stream, or by an incremental snapshot, which runs beside the stream.
    #[default]
    No,
    /// By a snapshot that reads the whole table.
    Whole,
    /// The same, and it was the table's last row.
    Last,
}

impl Snapshot {
    /// By Debezium's word: true, first, first_in_data_collection, last_in_data_collection, last, false, incremental.
    pub(super) fn named(word: &str) -> Self {
        match word {
            "last" | "last_in_data_collection" => Snapshot::Last,
            "true" | "first" | "first_in_data_collection" => Snapshot::Whole,
            _ => Snapshot::No,
        }
    }
}

impl Position {
    /// What is kept as the row's LSN. A row of an incremental snapshot has none of its own: it says up to where the log was sent.
    pub(super) fn row_lsn(&self) -> Option<i64> {
        self.lsn.or(self.last_commit)
    }

    /// Where a TRUNCATE stands.
    pub(super) fn fence(&self) -> Option<Fence> {
        self.lsn.map(|lsn| Fence { lsn, last_commit: self.last_commit })
    }
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
    /// What `constant` says, where the member is `snapshot`.
    snapshot: Snapshot,
    changes: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    TsMs,
    Lsn,
    Sequence,
    Snapshot,
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
            if seen.wanted == Wanted::Snapshot {
                position.snapshot = seen.snapshot;
            }
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
            "sequence" => Wanted::Sequence,
            "snapshot" => Wanted::Snapshot,
            _ => Wanted::Nothing,
        };
        let pattern = cursor.since(from).as_bytes().to_vec();
        let mut seen = SeenMember { pattern, wanted, constant: Vec::new(), snapshot: Snapshot::No, changes: 0 };
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
            Wanted::Sequence => {
                position.last_commit = first_number(cursor.raw()?);
                return Ok(());
            }
            Wanted::Snapshot => {
                self.snapshot = Snapshot::named(cursor.raw()?.trim_matches('"'));
                position.snapshot = self.snapshot;
            }
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

/// Of `"[\"27802808\",\"27806264\"]"`, an array in a string, or of the array itself.
pub(super) fn first_number(sequence: &str) -> Option<i64> {
    let first = sequence.trim_start_matches('"').strip_prefix('[')?.trim_start_matches(['\\', '"']);
    let end = first.find(|c: char| !c.is_ascii_digit()).unwrap_or(first.len());
    first.get(..end)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::both(r#""[\"27802808\",\"27806264\"]""#, Some(27_802_808))]
    #[case::first_transaction(r#""[null,\"27691112\"]""#, None)]
    #[case::none("null", None)]
    #[case::of_another_kind(r#""0000002b:00000e08""#, None)]
    #[case::huge(r#""[\"99999999999999999999\"]""#, None)]
    fn the_last_commit_stands_first_in_the_sequence(#[case] sequence: &str, #[case] want: Option<i64>) {
        assert_eq!(first_number(sequence), want);
    }

    #[test]
    fn a_member_that_stays_the_same_still_says_what_it_said() {
        let mut reader = SourceReader::default();
        let mut read = |text: &str| reader.read(&mut Cursor::new(text)).unwrap();
        for (word, want) in [
            ("first", Snapshot::Whole),
            ("true", Snapshot::Whole),
            ("true", Snapshot::Whole),
            ("last_in_data_collection", Snapshot::Last),
            ("false", Snapshot::No),
            ("false", Snapshot::No),
            ("incremental", Snapshot::No),
            ("last", Snapshot::Last),
        ] {
            let position = read(&format!(r#"{{"snapshot":"{word}","sequence":"[\"7\",null]","lsn":9}}"#));
            assert_eq!(
                position,
                Position { lsn: Some(9), last_commit: Some(7), snapshot: want, ts_ms: None },
                "{word}"
            );
        }
    }
}
