//! What a decoder makes of messages that concern a whole source table: a TRUNCATE, the rows of a snapshot.

use super::decoder::{DecodeOptions, Decoder, Pushed};
use super::envelope::Skip;
use super::source::{Position, Snapshot};
use crate::change::{Mode, Op};
use crate::record::Record;
use crate::table_event::SourceSnapshot;

impl DecodeOptions {
    pub(super) fn truncate(&self, position: &Position) -> Pushed {
        match self.skip_truncates || self.mode == Mode::Append {
            true => Pushed::Skipped(Skip::Truncate),
            false => Pushed::Truncate(position.fence()),
        }
    }
}

impl Decoder {
    /// Remembers what tells one snapshot from another, and its end.
    #[inline]
    pub(super) fn note_snapshot(&mut self, op: Op, record: &Record<'_>, position: &Position) {
        if op != Op::Read || position.snapshot == Snapshot::No || self.options.mode == Mode::Append {
            return;
        }
        let (Some(lsn), Some(since_ms)) = (position.lsn, record.timestamp_ms) else { return };
        let seen = SourceSnapshot { lsn, since_ms, ended: position.snapshot == Snapshot::Last, over_rows: false };
        self.snapshot = Some(self.snapshot.map_or(seen, |have| have.join(seen)));
    }

    /// The last snapshot of the whole source table that rows came from since this was last asked.
    pub fn take_snapshot(&mut self) -> Option<SourceSnapshot> {
        self.snapshot.take()
    }
}
