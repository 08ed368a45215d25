//! A lake table as the sink of a pipeline: rows and position in one commit.
//!
//! A commit for each small batch would leave as many files and snapshots: deliveries are gathered, staged and uploaded as they come, and
//! committed when it is time. Until then the sink stands where it stood, and what was gathered is read again after a crash.
//! Nobody is fenced at a take-over: on every fresh base the commit checks that the table stands where each of its spans begins, so of
//! two writers one lands and the other is told to go on from there.
//!
//! # Layout
//! - [`LakeSink`]: the contract, over [`LakeTable`]. `columns`: the SELECT's columns as the table's. `rows`: a delivery's rows as changes.

mod columns;
mod rows;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_schema::SchemaRef;
use async_trait::async_trait;
use firn_catalog::{Catalog, Patience};
use tokio::runtime::Handle;

use self::columns::columns_of;
use self::rows::changes;
use super::layout::TableColumns;
use super::upsert::blocking;
use super::{CommitFailure, How, LakeError, LakeTable, Rewind, RewindError, Shared, Staged, Stager, TableSpec};
use crate::batch::ChangeBatch;
use crate::change::RowSchema;
use crate::position::{Span, TopicPartition};
use crate::sink::{Delivery, Gathered, Sink, SinkError, Standing};

/// How long positions may go on without a row before they are committed nevertheless: each such commit is a snapshot that holds nothing.
const EMPTY: Duration = Duration::from_secs(60);
/// How often a rewind of unknown outcome is tried again.
const REWIND_TRIES: usize = 5;

/// When what was gathered is committed: at the first of these.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Since the first row.
    pub interval: Duration,
    pub rows: u64,
    /// In memory and staged files.
    pub bytes: u64,
}

/// One table.
pub struct LakeSink {
    spec: TableSpec,
    pace: Pace,
    catalog: Arc<dyn Catalog>,
    shared: Shared,
    patience: Patience,
    io: Handle,
    /// Opened when it is first needed.
    table: Option<LakeTable>,
    /// Of the SELECT.
    columns: Option<RowSchema>,
    /// The table's, as last agreed upon for those.
    agreed: Option<TableColumns>,
    /// What was taken over.
    held: HashMap<TopicPartition, Held>,
    /// Where partitions begin of which the table says nothing yet.
    begun: HashMap<TopicPartition, i64>,
    batch: Batch,
}

/// Where it stands in a partition.
#[derive(Clone, Debug)]
struct Held {
    /// With the last commit; `None` where nothing was ever committed.
    done: Option<i64>,
    /// With what is gathered.
    next: Option<i64>,
    topic_id: Option<String>,
}

/// What is gathered.
enum Batch {
    Nothing,
    Open(Box<Open>),
    /// Its commit was tried, and may have landed.
    Sent(Vec<Staged>),
    /// It never will be committed.
    GivenUp(String),
}

struct Open {
    stager: Stager,
    spans: BTreeMap<TopicPartition, Span>,
    rows: u64,
    since: Instant,
}

impl std::fmt::Debug for LakeSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LakeSink")
            .field("table", &self.spec.to_string())
            .field("held", &self.held)
            .finish_non_exhaustive()
    }
}

impl LakeSink {
    /// Uploads run on `io`.
    pub fn new(spec: TableSpec, pace: Pace, catalog: Arc<dyn Catalog>, shared: Shared, io: Handle) -> Self {
        Self {
            spec,
            pace,
            catalog,
            shared,
            patience: Patience::default(),
            io,
            table: None,
            columns: None,
            agreed: None,
            held: HashMap::new(),
            begun: HashMap::new(),
            batch: Batch::Nothing,
        }
    }

    /// How long a commit goes on trying before its outcome counts as open.
    #[must_use]
    pub fn with_patience(self, patience: Patience) -> Self {
        Self { patience, ..self }
    }

    async fn table(&mut self) -> Result<&LakeTable, SinkError> {
        let table = match self.table.take() {
            Some(there) => there,
            None => {
                let opened = LakeTable::open(Arc::clone(&self.catalog), self.spec.clone(), self.io.clone()).await;
                opened.map_err(told)?.sharing(self.shared.clone()).with_patience(self.patience)
            }
        };
        Ok(self.table.insert(table))
    }

    /// The batch that is open, or a new one; `None` where there is no table yet, and no columns to make it of.
    async fn open(&mut self) -> Result<Option<&mut Open>, SinkError> {
        if matches!(self.batch, Batch::Nothing) {
            let Some(stager) = self.stager().await? else { return Ok(None) };
            let (spans, since) = (BTreeMap::new(), Instant::now());
            self.batch = Batch::Open(Box::new(Open { stager, spans, rows: 0, since }));
        }
        match &mut self.batch {
            Batch::Open(open) => Ok(Some(open)),
            Batch::Sent(_) => Err(SinkError::Unavailable("a commit is still under way".to_owned())),
            Batch::GivenUp(why) => Err(SinkError::Moved(why.clone())),
            Batch::Nothing => Ok(None),
        }
    }

    async fn stager(&mut self) -> Result<Option<Stager>, SinkError> {
        let columns = match (self.agreed.take(), self.columns.clone()) {
            (Some(agreed), _) => Some(agreed),
            (None, Some(columns)) => Some(self.table().await?.agree(&columns, None).await.map_err(told)?),
            (None, None) => self.table().await?.columns(),
        };
        let Some(columns) = columns else { return Ok(None) };
        let stager = self.table().await?.stager_for(&columns).map_err(told)?;
        self.agreed = Some(columns);
        Ok(Some(stager))
    }

    /// What was gathered is lost, where there is any: it is to be read again.
    async fn give_up(&mut self, why: &str) {
        let gave = std::mem::replace(&mut self.batch, Batch::GivenUp(why.to_owned()));
        match gave {
            Batch::Nothing => self.batch = Batch::Nothing,
            Batch::Open(open) => open.stager.abandon(),
            Batch::Sent(parts) => discard(self.table.as_ref(), parts).await,
            Batch::GivenUp(first) => self.batch = Batch::GivenUp(first),
        }
    }

    /// Writes a delivery's rows into the open batch, and takes its span in.
    async fn gather(&mut self, batch: Option<ChangeBatch>, span: &Span) -> Result<(), SinkError> {
        let Some(open) = self.open().await? else { return Ok(()) };
        let rows = batch.as_ref().map_or(0, ChangeBatch::num_rows) as u64;
        if let Some(batch) = batch
            && let Err(e) = blocking(|| open.stager.write(batch))
        {
            let was_alone = open.spans.is_empty();
            self.give_up(&format!("what was gathered could not be staged: {e}")).await;
            if was_alone {
                // Nothing else is lost: the same again begins anew.
                self.batch = Batch::Nothing;
            }
            return Err(told(e));
        }
        open.rows += rows;
        match open.spans.get_mut(&span.at) {
            None => drop(open.spans.insert(span.at.clone(), span.clone())),
            Some(before) => before.extend(span.clone()).map_err(|e| SinkError::Moved(e.to_string()))?,
        }
        Ok(())
    }

    async fn send(&mut self, parts: Vec<Staged>) -> Result<(), SinkError> {
        match self.table().await?.commit(parts).await {
            Ok(done) => {
                tracing::info!(
                    table = %self.spec,
                    snapshot = done.snapshot_id,
                    rows = done.rows,
                    files = done.data_files,
                    bytes = done.file_bytes,
                    attempts = done.attempts,
                    ms = done.took.as_millis() as u64,
                    "committed"
                );
                self.held.values_mut().for_each(|held| held.done = held.next);
                Ok(())
            }
            Err(CommitFailure::Undecided(parts, e)) => {
                self.batch = Batch::Sent(parts);
                Err(SinkError::Unavailable(format!("not committed yet: {e}")))
            }
            Err(CommitFailure::Stale(why)) => {
                self.batch = Batch::GivenUp(why.clone());
                Err(SinkError::Moved(why))
            }
            Err(CommitFailure::SchemaMoved(parts)) => {
                discard(self.table.as_ref(), parts).await;
                self.agreed = None;
                let why = "the table's columns changed while rows were gathered".to_owned();
                self.batch = Batch::GivenUp(why.clone());
                Err(SinkError::Moved(why))
            }
            Err(CommitFailure::Failed(e)) => {
                self.batch = Batch::GivenUp(e.to_string());
                Err(told(e))
            }
        }
    }
}

#[async_trait]
impl Sink for LakeSink {
    async fn prepare(&mut self, columns: &SchemaRef) -> Result<(), SinkError> {
        let columns = columns_of(columns, &self.spec.key).map_err(SinkError::Stopped)?;
        if self.columns.as_ref() != Some(&columns) {
            self.give_up("the SELECT has other columns now").await;
        }
        self.agreed = Some(self.table().await?.agree(&columns, None).await.map_err(told)?);
        self.columns = Some(columns);
        Ok(())
    }

    async fn take_over(&mut self, partitions: &[TopicPartition]) -> Result<Vec<Option<Standing>>, SinkError> {
        let gathered = |at: &TopicPartition| self.held.get(at).is_some_and(|held| held.done != held.next);
        if partitions.iter().any(gathered) {
            self.give_up("a partition of it was taken over anew").await;
        }
        let table = self.table().await?;
        let checkpoint = table.checkpoint().await.map_err(told)?;
        table.reads_from(partitions.iter().cloned(), checkpoint.as_ref());
        let stored = |at: &TopicPartition| {
            let next = checkpoint.as_ref()?.next(at)?;
            let topic_id = checkpoint.as_ref()?.topics.get(&at.topic)?.topic_id.clone();
            Some(Standing { next, until: None, topic_id })
        };
        let begun = |at: &TopicPartition| Some(Standing { next: *self.begun.get(at)?, until: None, topic_id: None });
        let standing = |at: &TopicPartition| stored(at).or_else(|| begun(at));
        let standings: Vec<_> = partitions.iter().map(standing).collect();
        for (at, standing) in partitions.iter().zip(&standings) {
            let next = standing.as_ref().map(|s| s.next);
            // The table knows the topic, if not this partition of it.
            let of_topic = || checkpoint.as_ref()?.topics.get(&at.topic)?.topic_id.clone();
            let topic_id = standing.as_ref().and_then(|s| s.topic_id.clone()).or_else(of_topic);
            self.held.insert(at.clone(), Held { done: next, next, topic_id });
        }
        Ok(standings)
    }

    async fn deliver(&mut self, delivery: &Delivery) -> Result<(), SinkError> {
        let span = &delivery.span;
        let Some(held) = self.held.get(&span.at) else {
            return Err(SinkError::Moved(format!("{}: not taken over", span.at)));
        };
        if let (Some(stored), Some(read)) = (&held.topic_id, &span.topic_id)
            && stored != read
        {
            return Err(SinkError::Stopped(format!(
                "topic {} was made anew: the table's offsets belong to topic id {stored}, Kafka now has {read}; \
                 `firn rewind --sink` sets the sink to an offset of the new topic",
                span.at.topic
            )));
        }
        if let Some(next) = held.next.filter(|next| *next != span.from) {
            let (at, from) = (&span.at, span.from);
            return Err(SinkError::Moved(format!("{at}: the table stands at {next}, the delivery begins at {from}")));
        }
        let batch = match (delivery.rows.num_rows(), &self.columns) {
            (0, _) => None,
            (_, Some(columns)) => Some(changes(delivery, columns)?),
            (_, None) => return Err(SinkError::Stopped("rows came before their columns".to_owned())),
        };
        self.gather(batch, span).await?;
        if let Some(held) = self.held.get_mut(&span.at) {
            held.next = Some(span.next);
            held.topic_id = span.topic_id.clone().or(held.topic_id.take());
        }
        Ok(())
    }

    fn gathered(&self) -> Gathered {
        let open = match &self.batch {
            Batch::Nothing => return Gathered::Nothing,
            Batch::Sent(_) | Batch::GivenUp(_) => return Gathered::Due,
            Batch::Open(open) => open,
        };
        let wait = if open.rows == 0 { EMPTY.max(self.pace.interval) } else { self.pace.interval };
        let (held, memory) = (open.stager.bytes(), &self.shared.memory);
        let is_large = open.rows >= self.pace.rows
            || open.stager.file_bytes() >= self.pace.bytes
            // Of several sinks and the lake's workers none may have it all.
            || held >= memory.open_bytes() / 4
            || memory.is_open_over() && held >= memory.file_bytes();
        match is_large || open.since.elapsed() >= wait {
            true => Gathered::Due,
            false => Gathered::Some,
        }
    }

    async fn commit(&mut self) -> Result<(), SinkError> {
        let parts = match std::mem::replace(&mut self.batch, Batch::Nothing) {
            Batch::Nothing => return Ok(()),
            Batch::GivenUp(why) => {
                self.batch = Batch::GivenUp(why.clone());
                return Err(SinkError::Moved(why));
            }
            Batch::Sent(parts) => parts,
            Batch::Open(open) => {
                let Open { stager, spans, .. } = *open;
                match blocking(|| stager.close(spans.into_values().collect())) {
                    Ok(staged) => vec![staged],
                    Err(e) => {
                        self.batch = Batch::GivenUp(e.to_string());
                        return Err(told(e));
                    }
                }
            }
        };
        self.send(parts).await
    }

    async fn forget(&mut self) {
        self.give_up("").await;
        self.batch = Batch::Nothing;
        self.held.values_mut().for_each(|held| held.next = held.done);
    }

    /// The table says it with its first commit: before, there may be no table.
    async fn begin(&mut self, at: &TopicPartition, next: i64) -> Result<(), SinkError> {
        self.begun.insert(at.clone(), next);
        Ok(())
    }

    /// In a snapshot of its own for each topic. Rows from the position on leave an append table; those of an upsert table stay until
    /// their keys come again.
    async fn rewind(&mut self, to: &[(TopicPartition, i64)]) -> Result<(), SinkError> {
        self.give_up("the sink was rewound").await;
        let mut topics = BTreeMap::<&str, BTreeMap<i32, i64>>::new();
        for (at, next) in to {
            self.held.remove(at);
            topics.entry(&at.topic).or_default().insert(at.partition, *next);
        }
        let name = self.spec.to_string();
        for (topic, to) in topics {
            let table = self.table().await?;
            if table.checkpoint().await.map_err(told)?.is_none() {
                let why = "nothing was ever committed to it: there is nothing to be set back";
                return Err(SinkError::Stopped(format!("table {name}: {why}")));
            }
            let how = How::Deliver { topic: topic.to_owned(), to };
            let rewind = Rewind { how, generation: table.seen_generation() };
            set(table, &rewind).await?;
        }
        Ok(())
    }
}

async fn discard(table: Option<&LakeTable>, parts: Vec<Staged>) {
    if let Some(table) = table {
        table.discard(parts).await;
    }
}

async fn set(table: &LakeTable, rewind: &Rewind) -> Result<(), SinkError> {
    let snapshot_id = firn_catalog::new_snapshot_id();
    let mut tries = 0;
    loop {
        tries += 1;
        return match table.rewind(rewind, snapshot_id).await {
            Ok(_) => Ok(()),
            Err(RewindError::Undecided(_)) if tries < REWIND_TRIES => continue,
            Err(RewindError::Undecided(e)) => Err(SinkError::Unavailable(e.to_string())),
            Err(RewindError::Refused(why)) => Err(SinkError::Moved(why)),
            Err(RewindError::Lake(e)) => Err(told(e)),
        };
    }
}

/// Asks the catalog about the table: a line about it for a person.
///
/// # Errors
/// Why rows can't be written to it.
pub async fn probe(spec: TableSpec, catalog: Arc<dyn Catalog>) -> Result<String, SinkError> {
    catalog.probe().await.map_err(|e| told(e.into()))?;
    let name = spec.to_string();
    let table = LakeTable::open(catalog, spec, Handle::current()).await.map_err(told)?;
    // Refuses a table whose position can't be told.
    table.checkpoint().await.map_err(told)?;
    Ok(match table.columns() {
        Some(columns) => format!("table {name} is there, with {} columns", columns.rows().columns.len()),
        None => format!("table {name} will be made with the first rows"),
    })
}

fn told(e: LakeError) -> SinkError {
    match &e {
        e if e.is_transient() => SinkError::Unavailable(e.to_string()),
        LakeError::Incompatible { table, column, record_type, table_type } => SinkError::Stopped(format!(
            "table {table}, column {column}: the SELECT has {record_type}, the table has {table_type}, and no promotion leads there: \
             CAST it in the SELECT, call it otherwise, or write to another table"
        )),
        e => SinkError::Stopped(e.to_string()),
    }
}
