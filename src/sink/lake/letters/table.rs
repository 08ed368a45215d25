//! Records that could not become rows, in a table of their own.
//!
//! They can't share a swap with the table that they were meant for. So they are keyed by that table and their place in Kafka, and
//! committed before its rows: reading a record again writes the same key again and changes nothing.

use std::collections::HashSet;
use std::sync::Arc;

use arrow_array::RecordBatch;
use firn_catalog::{Catalog, ErrorKind};
use futures::TryStreamExt;
use iceberg::expr::{Predicate, Reference};
use iceberg::spec::Datum;
use tokio::runtime::Handle;
use tokio::sync::OnceCell;

use crate::batch::ChangeBatch;
use crate::change::{Mode, Op};
use crate::letter::{Choice, Letter, LetterId};
use crate::sink::lake::letters::columns::{CONTENTS, from_arrow, schema, to_arrow};
use crate::sink::lake::{CommitFailure, LakeError, LakeTable, Shared, Staged, TableSpec};

/// Calls of `commit` before a write is given back as failed; each of them tries for a while itself.
const ROUNDS: usize = 3;

/// The table of rejected records of all tables of this process.
#[derive(Debug)]
pub struct DeadLetterTable {
    catalog: Arc<dyn Catalog>,
    spec: TableSpec,
    io: Handle,
    shared: Shared,
    /// Opened with the first letter: most processes never write one.
    table: OnceCell<LakeTable>,
}

impl DeadLetterTable {
    /// # Errors
    /// When the settings are wrong, or not of an upsert table.
    pub fn new(catalog: Arc<dyn Catalog>, spec: TableSpec, io: Handle, shared: Shared) -> Result<Self, LakeError> {
        spec.ident()?;
        spec.format()?;
        if spec.mode != Mode::Upsert {
            return Err(spec.settings("dead letters are upserted, so that a replay doesn't double them"));
        }
        Ok(Self { catalog, spec, io, shared, table: OnceCell::new() })
    }

    /// Returns once the letters are in the table. Writing one again overwrites it.
    ///
    /// # Errors
    /// When they are not in the table for sure: the same letters are to be written again before anything that follows them is
    /// committed.
    pub async fn write(&self, letters: &[Letter]) -> Result<(), LakeError> {
        if letters.is_empty() {
            return Ok(());
        }
        let table = self
            .table
            .get_or_try_init(|| async {
                let table = LakeTable::open(Arc::clone(&self.catalog), self.spec.clone(), self.io.clone()).await?;
                Ok::<_, LakeError>(table.sharing(self.shared.clone()))
            })
            .await?;
        let batch = to_arrow(letters)?;
        let mut last = None;
        for _ in 0..ROUNDS {
            table.ensure_schema(&schema()).await?;
            match self.write_once(table, batch.clone()).await {
                Ok(()) => return Ok(()),
                Err(e) if e.is_transient() => last = Some(e),
                Err(e) => return Err(e),
            }
        }
        Err(last.unwrap_or_else(|| self.spec.settings("the columns of the dead letters keep changing: try again")))
    }

    /// The letters that `choice` takes, in the order of their origins. None where there is no table yet.
    ///
    /// # Errors
    /// When the table can't be read.
    pub async fn read(&self, choice: &Choice, contents: Contents) -> Result<Vec<Letter>, LakeError> {
        self.scan(contents, None, |letter| choice.takes(letter)).await
    }

    /// These letters, whole, in the order of their origins.
    ///
    /// # Errors
    /// When the table can't be read.
    pub async fn fetch(&self, ids: &[LetterId]) -> Result<Vec<Letter>, LakeError> {
        let offsets = || ids.iter().map(|id| id.origin.offset);
        let (Some(low), Some(high)) = (offsets().min(), offsets().max()) else { return Ok(vec![]) };
        let offset = || Reference::new("offset");
        let near =
            offset().greater_than_or_equal_to(Datum::long(low)).and(offset().less_than_or_equal_to(Datum::long(high)));
        let wanted: HashSet<&LetterId> = ids.iter().collect();
        self.scan(Contents::Whole, Some(near), |letter| wanted.contains(&letter.id())).await
    }

    async fn scan(
        &self,
        contents: Contents,
        filter: Option<Predicate>,
        takes: impl Fn(&Letter) -> bool,
    ) -> Result<Vec<Letter>, LakeError> {
        let table = match self.catalog.load(&self.spec.ident()?).await {
            Ok(table) => table,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(vec![]),
            Err(e) => return Err(e.into()),
        };
        let there = table.metadata().current_schema();
        let columns = schema().columns.into_iter().map(|c| c.name).filter(|name| {
            there.field_by_name(name).is_some() && (contents == Contents::Whole || !CONTENTS.contains(&name.as_str()))
        });
        let mut scan = table.scan().select(columns.collect::<Vec<_>>());
        if let Some(filter) = filter {
            scan = scan.with_filter(filter);
        }
        let mut batches = scan.build()?.to_arrow().await?;
        let mut letters = vec![];
        while let Some(batch) = batches.try_next().await? {
            letters.extend(from_arrow(&batch)?.into_iter().filter(|letter| takes(letter)));
        }
        letters.sort_by(|a, b| (&a.target, &a.origin, &a.topic_id).cmp(&(&b.target, &b.origin, &b.topic_id)));
        Ok(letters)
    }

    async fn write_once(&self, table: &LakeTable, batch: RecordBatch) -> Result<(), LakeError> {
        let mut stager = table.stager()?;
        let staged: Staged = tokio::task::spawn_blocking(move || {
            let ops = vec![Op::Create; batch.num_rows()];
            stager.write(ChangeBatch::new(batch, ops))?;
            stager.close(vec![])
        })
        .await
        .map_err(|e| LakeError::Storage(format!("staging dead letters: {e}")))??;
        let mut parts = vec![staged];
        for _ in 0..ROUNDS {
            match table.commit(parts).await {
                Ok(_) => return Ok(()),
                Err(CommitFailure::Undecided(same, _)) => parts = same,
                Err(CommitFailure::SchemaMoved(parts)) => {
                    table.discard(parts).await;
                    return Err(LakeError::Storage("the columns of the dead letters changed".to_owned()));
                }
                Err(CommitFailure::Stale(reason)) => return Err(LakeError::Storage(reason)),
                Err(CommitFailure::Failed(e)) => return Err(e),
            }
        }
        Err(LakeError::Storage("the dead letters are not committed yet".to_owned()))
    }
}

/// How much of each letter is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contents {
    /// All but key, value and headers, which may be large.
    Outside,
    Whole,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::letter::Status;
    use crate::record::Rejected;
    use firn_catalog::memory::MemoryCatalog;

    fn spec() -> TableSpec {
        TableSpec { origin_columns: false, ..TableSpec { mode: Mode::Upsert, ..TableSpec::new("db", "dead") } }
    }

    fn open(catalog: &MemoryCatalog) -> DeadLetterTable {
        DeadLetterTable::new(Arc::new(catalog.clone()), spec(), Handle::current(), Shared::default()).unwrap()
    }

    fn letter(offset: i64) -> Letter {
        let rejected = Rejected {
            origin: format!("t/0@{offset}").parse().unwrap(),
            topic_id: None,
            timestamp_ms: Some(1),
            rejected_ms: 2,
            reason: "not_json",
            detail: "expected value at byte 0".to_owned(),
            schema_id: None,
            key: None,
            value: Some(b"{".to_vec()),
            headers: vec![("h".to_owned(), b"1".to_vec())],
        };
        Letter::new("db.t", &rejected)
    }

    #[tokio::test]
    async fn a_letter_written_again_is_there_once_and_says_what_was_written_last() {
        let catalog = MemoryCatalog::default();
        assert_eq!(open(&catalog).read(&Choice::default(), Contents::Whole).await.unwrap(), [], "no table yet");
        // A process of its own each time.
        open(&catalog).write(&[letter(1), letter(2)]).await.unwrap();
        let turned = letter(2).turned(Status::Replayed, 9, "d");
        open(&catalog).write(&[turned.clone(), letter(3)]).await.unwrap();
        let dead = open(&catalog);
        let all = [letter(1), turned.clone(), letter(3)];
        assert_eq!(dead.read(&Choice::default(), Contents::Whole).await.unwrap(), all);
        assert_eq!(dead.fetch(&[letter(3).id(), turned.id()]).await.unwrap(), [turned, letter(3)]);
        let first = Choice { origins: vec![letter(1).origin], ..Choice::default() };
        let light = dead.read(&first, Contents::Outside).await.unwrap();
        assert_eq!(light, [Letter { key: None, value: None, headers: vec![], ..letter(1) }]);
    }

    #[tokio::test]
    async fn letters_of_the_first_version_get_the_new_columns() {
        let catalog = MemoryCatalog::default();
        // The first version had the first ten columns.
        let old = crate::change::RowSchema { columns: schema().columns[..10].to_vec() };
        let table = LakeTable::open(Arc::new(catalog.clone()), spec(), Handle::current()).await.unwrap();
        table.ensure_schema(&old).await.unwrap();
        let batch = to_arrow(&[letter(1)]).unwrap().project(&(0..10).collect::<Vec<_>>()).unwrap();
        open(&catalog).write_once(&table, batch).await.unwrap();
        let dead = open(&catalog);
        let [first] = dead.read(&Choice::default(), Contents::Whole).await.unwrap().try_into().unwrap();
        assert_eq!((first.status, first.rejected_ms, &first.value), (Status::Pending, None, &letter(1).value));
        dead.write(&[first.turned(Status::Discarded, 5, "old"), letter(2)]).await.unwrap();
        let [first, second] = dead.read(&Choice::default(), Contents::Whole).await.unwrap().try_into().unwrap();
        assert_eq!((first.status, first.status_ms, second), (Status::Discarded, Some(5), letter(2)));
    }
}
