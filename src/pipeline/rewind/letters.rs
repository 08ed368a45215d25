//! Letters whose replayed rows go with the snapshots that a rewind undoes: they wait for their replay again. Those that are read again
//! become letters or rows by themselves.

use crate::letter::{Choice, Letter, LetterId, Status};
use crate::pipeline::letters::DeadLetters;
use crate::pipeline::tables::epoch_ms;
use crate::position::Checkpoint;
use crate::sink::lake::letters::Contents;

/// By how much the clocks of two machines may differ: letters replayed that little before a snapshot count as replayed after. One
/// that was not is found to be in the table when it is replayed again.
const CLOCKS_DIFFER_MS: i64 = 5 * 60 * 1000;

/// Reopens the letters of `table` that were replayed since `taken_ms` and are not read again by a table that stands at `after`.
///
/// # Errors
/// When letters can't be read or written.
pub(super) async fn reopen(
    letters: &DeadLetters,
    table: &str,
    taken_ms: i64,
    after: &Checkpoint,
) -> Result<(), String> {
    let choice = Choice { target: Some(table.to_owned()), status: Some(Status::Replayed), ..Choice::default() };
    let replayed = letters.read(&choice, Contents::Outside).await?;
    let undone: Vec<LetterId> = replayed
        .iter()
        .filter(|l| l.status_ms.is_none_or(|ms| ms >= taken_ms - CLOCKS_DIFFER_MS))
        .filter(|l| after.next(&l.origin.at).is_some_and(|next| l.origin.offset < next))
        .map(Letter::id)
        .collect();
    if undone.is_empty() {
        return Ok(());
    }
    let now_ms = epoch_ms();
    let detail = "the table was rewound to before its replay";
    let whole = letters.fetch(&undone).await?;
    let reopened: Vec<Letter> = whole.into_iter().map(|l| l.turned(Status::Pending, now_ms, detail)).collect();
    letters.put(&reopened).await.map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use firn_catalog::memory::MemoryCatalog;
    use tokio::runtime::Handle;

    use super::*;
    use crate::change::Mode;
    use crate::position::{Span, TopicPartition};
    use crate::record::{Record, Rejected};
    use crate::sink::lake::letters::DeadLetterTable;
    use crate::sink::lake::{Shared, TableSpec};

    #[tokio::test]
    async fn letters_replayed_since_the_snapshot_wait_again_and_no_others() {
        let spec = TableSpec { mode: Mode::Upsert, origin_columns: false, ..TableSpec::new("db", "dead") };
        let table =
            DeadLetterTable::new(Arc::new(MemoryCatalog::default()), spec, Handle::current(), Shared::default())
                .unwrap();
        let letters = DeadLetters::Table(Box::new(table));
        let taken_ms = 1_700_000_000_000;
        let later = taken_ms + 3_600_000;
        let letter = |target: &str, offset, status, at_ms| {
            let record = Record { topic: "t", offset, ..Record::default() };
            Letter::new(target, &Rejected::new(&record, "not_json", String::new(), 1)).turned(status, at_ms, "")
        };
        let mut after = Checkpoint::default();
        after.advance(&Span::new(TopicPartition::new("t", 0), 0, 10)).unwrap();
        let all = [
            letter("db.t", 1, Status::Replayed, later),
            letter("db.t", 2, Status::Replayed, taken_ms - 3_600_000),
            letter("db.t", 3, Status::Discarded, later),
            letter("db.t", 4, Status::Superseded, later),
            // Read again.
            letter("db.t", 10, Status::Replayed, later),
            letter("db.other", 5, Status::Replayed, later),
        ];
        letters.put(&all).await.unwrap();
        reopen(&letters, "db.t", taken_ms, &after).await.unwrap();
        let pending = Choice { status: Some(Status::Pending), ..Choice::default() };
        let open = letters.read(&pending, Contents::Outside).await.unwrap();
        assert_eq!(open.iter().map(|l| (l.target.as_str(), l.origin.offset)).collect::<Vec<_>>(), [("db.t", 1)]);
        assert_eq!(letters.read(&Choice::default(), Contents::Outside).await.unwrap().len(), all.len());
    }
}
