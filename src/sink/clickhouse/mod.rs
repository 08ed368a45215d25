//! A table in ClickHouse, exactly once, by stored intents.
//!
//! A delivery's range is stored before any of its rows can be in the table ([`intents`]). Its rows are split by the partitions of the
//! ClickHouse table ([`split`]), each an insert of one block whose token names the range, so that ClickHouse drops what comes
//! twice. An insert is opened and sent but for its end; then the intent is read: it must still be this process's. Only then
//! comes the end, without which the server inserts nothing. So a process that was paused and taken over from adds nothing, unless it is
//! paused between that read and the end; then the server's receive time-out breaks the insert off, and up to it the token is known.
//!
//! # Layout
//! - [`settings`]: what the sink is told. [`server`]: one node. [`nodes`]: which of several. [`fault`]: what its answers mean. [`sql`]: quoting.
//! - [`table`], [`types`]: the table as the SELECT needs it.
//! - [`intents`]: where the sink stands. [`rows`], [`cast`], [`split`], [`calendar`], [`refused`]: a delivery as it is sent.
//! - [`snapshot`]: rows of snapshots that the table is not to get. [`stated`]: rows within a statement.
//! - [`probe`]: whether it can work at all. [`tail`](mod@tail): the last rows, for people. [`range`](mod@range): rows deleted, for people.

mod calendar;
mod cast;
mod fault;
mod intents;
mod nodes;
mod probe;
mod range;
mod refused;
mod rows;
mod server;
mod settings;
mod snapshot;
mod split;
mod sql;
mod stated;
mod table;
mod tail;
#[cfg(test)]
mod tests;
mod types;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use arrow_schema::SchemaRef;
use async_trait::async_trait;
use bytes::Bytes;
use futures::future::join_all;

use self::fault::Fault;
use self::intents::Intents;
use self::nodes::Chosen;
pub use self::probe::probe;
pub use self::range::delete_between;
use self::server::{OpenInsert, Server};
pub use self::settings::{ClickHouseSettings, Engine, SnapshotRows};
use self::split::Part;
use self::table::Table;
pub use self::tail::{LastRows, tail};
use super::intent::{Begin, Intent};
use super::{Delivery, Sink, SinkError, Standing};
use crate::position::TopicPartition;

/// Inserts of one delivery that are open at a time.
const OPEN_INSERTS: usize = 8;
/// That a range was finished is stored once its partition rests for so long; before, the next range says it. What is not stored is sent
/// again by whoever comes next, and left out by its token.
const REST_MS: u64 = 5_000;
/// How often a partition is tried to be taken over from others that do the same.
const TAKE_OVER_ATTEMPTS: usize = 5;

/// One table.
#[derive(Debug)]
pub struct ClickHouseSink {
    settings: ClickHouseSettings,
    /// In tokens and in the intents: `<group>.<pipeline>.<sink>`.
    id: String,
    /// This life's name.
    writer: String,
    intents: Intents,
    node: Option<Chosen>,
    /// The place in the list of nodes to begin with.
    start: usize,
    table: Option<Table>,
    /// What was taken over and not lost since.
    held: BTreeMap<TopicPartition, Held>,
    /// Rows of snapshots that were left out.
    skipped: Arc<AtomicU64>,
}

#[derive(Clone, Debug)]
struct Held {
    /// The last change that was offered.
    last: Intent,
    /// It is known to be stored.
    stored: bool,
    /// Its range was finished since. Stored with the next range, or by [`Sink::tick`].
    finished: bool,
    /// When, in ms since the epoch.
    finished_ms: u64,
}

impl Held {
    fn offered(intent: Intent) -> Self {
        Self { stored: false, finished: intent.finished, finished_ms: 0, last: intent }
    }

    /// As it will be stored.
    fn intent(&self) -> Intent {
        Intent { finished: self.finished, ..self.last.clone() }
    }
}

impl ClickHouseSink {
    /// `id` tells the sink from all others that write to this database.
    pub fn new(settings: ClickHouseSettings, id: &str) -> Self {
        Self {
            intents: Intents::new(&settings.database, id),
            id: id.to_owned(),
            writer: uuid::Uuid::now_v7().to_string(),
            settings,
            node: None,
            start: 0,
            table: None,
            held: BTreeMap::new(),
            skipped: Arc::default(),
        }
    }

    /// How many rows of snapshots the settings left out.
    pub fn skipped(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.skipped)
    }

    /// The node that is worked with.
    async fn server(&mut self) -> Result<Server, SinkError> {
        if let Some(chosen) = &self.node {
            return Ok(chosen.server.clone());
        }
        let chosen = nodes::choose(&self.settings, &self.intents, self.start).await?;
        self.start = chosen.index;
        Ok(self.node.insert(chosen).server.clone())
    }

    /// After a failure: another node, if one may stand in for it.
    fn pass_over(&mut self, result: &Result<impl Sized, SinkError>) {
        if matches!(result, Err(SinkError::Unavailable(_)))
            && self.node.as_ref().is_some_and(|chosen| chosen.replaceable)
        {
            self.node = None;
            self.start += 1;
        }
    }

    /// Stores the last change, unless another process went on from the one before.
    async fn store(&mut self, server: &Server, at: &TopicPartition) -> Result<(), SinkError> {
        if let Some(held) = self.held.get(at) {
            self.intents.offer(server, at, &held.last).await?;
        }
        self.still_held(server, at).await
    }

    /// Whether the stored intent is the one that this process offered last.
    async fn still_held(&mut self, server: &Server, at: &TopicPartition) -> Result<(), SinkError> {
        let stored = self.intents.read(server, [at]).await?.remove(at);
        if let Some(held) = self.held.get_mut(at)
            && Some(&held.last) == stored.as_ref()
        {
            held.stored = true;
            return Ok(());
        }
        self.held.remove(at);
        Err(SinkError::Moved(match stored {
            Some(other) => {
                format!("{at}: another process has taken it over, and stands at {}..{}", other.from, other.next)
            }
            None => format!("{at}: its intent is gone from ClickHouse"),
        }))
    }

    /// Sends the rows of a range whose intent is offered. What an insert failed with, if one did.
    async fn send(
        &mut self,
        server: &Server,
        at: &TopicPartition,
        intent: &Intent,
        parts: &[Part],
    ) -> Result<Option<Fault>, SinkError> {
        for parts in parts.chunks(OPEN_INSERTS) {
            let mut opening = Vec::with_capacity(parts.len());
            for part in parts {
                opening.push(self.open(server, at, intent, part));
            }
            let open = join_all(opening).await;
            self.still_held(server, at).await?;
            for open in open {
                let ended = match open {
                    Ok(open) => server.end_insert(open).await,
                    Err(fault) => Err(fault),
                };
                if let Err(fault) = ended {
                    return Ok(Some(fault));
                }
            }
        }
        Ok(None)
    }

    async fn open(
        &self,
        server: &Server,
        at: &TopicPartition,
        intent: &Intent,
        part: &Part,
    ) -> Result<OpenInsert, Fault> {
        let columns: Vec<String> = part.rows.schema_ref().fields().iter().map(|f| sql::name(f.name())).collect();
        let insert = format!("INSERT INTO {} ({}) FORMAT ArrowStream", self.settings.table_name(), columns.join(", "));
        let stream = rows::arrow_stream(&part.rows)
            .map_err(|e| Fault::away(&server.node, &format!("rows can't be written as Arrow: {e}")))?;
        server.open_insert(&insert, &self.token(at, intent, &part.value), Bytes::from(stream)).await
    }

    async fn deliver_once(&mut self, delivery: &Delivery) -> Result<(), SinkError> {
        let at = &delivery.span.at;
        let server = self.server().await?;
        let Some(table) = self.table.clone() else {
            return Err(SinkError::Stopped("the sink was not prepared".to_owned()));
        };
        if delivery.span.is_empty() {
            return Ok(());
        }
        if self.held.get(at).is_some_and(|held| !held.stored) {
            self.store(&server, at).await?;
        }
        let Some(held) = self.held.get(at) else {
            return Err(SinkError::Moved(format!("{at}: not taken over, or lost to another process")));
        };
        let empty = delivery.rows.num_rows() == 0;
        let begin = held.intent().begin(&delivery.span, empty, now_ms())?;
        let intent = match &begin {
            Begin::Done => return Ok(()),
            Begin::Again if empty => held.last.finish(),
            Begin::Again => held.last.clone(),
            Begin::New(intent) => intent.clone(),
        };
        if empty {
            self.held.insert(at.clone(), Held::offered(intent));
            return self.store(&server, at).await;
        }
        let rows = rows::encode(delivery, &intent, &table)?;
        let left_out = snapshot::left_out(&server, &self.settings, &table, delivery, &rows).await?;
        let parts = match table.partition_key.split(&server, &rows, &left_out).await {
            Ok(parts) => parts,
            Err(fault) => return Err(refused::find(&server, &rows, &table.columns, fault).await),
        };
        if let Begin::New(_) = begin {
            self.held.insert(at.clone(), Held::offered(intent.clone()));
            self.intents.offer(&server, at, &intent).await?;
        }
        if let Some(fault) = self.send(&server, at, &intent, &parts).await? {
            return Err(refused::find(&server, &rows, &table.columns, fault).await);
        }
        if let Some(held) = self.held.get_mut(at) {
            (held.finished, held.finished_ms) = (true, now_ms());
        }
        self.skipped.fetch_add(left_out.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Of two inserts with one token ClickHouse takes the first.
    fn token(&self, at: &TopicPartition, intent: &Intent, part: &str) -> String {
        let topic_id = intent.topic_id.as_deref().unwrap_or_default();
        format!("{}/{}/{at}/{topic_id}/{}-{}/{part}", self.id, intent.generation, intent.from, intent.next)
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

#[async_trait]
impl Sink for ClickHouseSink {
    async fn prepare(&mut self, columns: &SchemaRef) -> Result<(), SinkError> {
        let server = self.server().await?;
        self.table = Some(Table::prepare(&server, &self.settings, columns).await?);
        Ok(())
    }

    async fn take_over(&mut self, partitions: &[TopicPartition]) -> Result<Vec<Option<Standing>>, SinkError> {
        let server = self.server().await?;
        let mut open: Vec<TopicPartition> = partitions.to_vec();
        // What this process finished and did not yet store is not to be sent again.
        let finished: BTreeMap<_, _> = open.iter().filter_map(|at| Some((at.clone(), self.held.remove(at)?))).collect();
        for _ in 0..TAKE_OVER_ATTEMPTS {
            let mut last = self.intents.read(&server, &open).await?;
            for (at, held) in &finished {
                if let Some(last) = last.get_mut(at).filter(|last| **last == held.last) {
                    last.finished = held.finished;
                }
            }
            let changes: Vec<_> =
                open.iter().map(|at| (at.clone(), Intent::taken_over(last.get(at), &self.writer))).collect();
            self.intents.offer_all(&server, &changes).await?;
            let stored = self.intents.read(&server, &open).await?;
            for (at, offered) in changes {
                if stored.get(&at) == Some(&offered) {
                    open.retain(|still| *still != at);
                    self.held.insert(at, Held { stored: true, ..Held::offered(offered) });
                }
            }
            if open.is_empty() {
                return Ok(partitions.iter().map(|at| self.held.get(at)?.last.standing()).collect());
            }
        }
        let names: Vec<String> = open.iter().map(ToString::to_string).collect();
        Err(SinkError::Unavailable(format!("other processes take over {} at the same time", names.join(", "))))
    }

    async fn deliver(&mut self, delivery: &Delivery) -> Result<(), SinkError> {
        let delivered = self.deliver_once(delivery).await;
        self.pass_over(&delivered);
        delivered
    }

    async fn rewind(&mut self, to: &[(TopicPartition, i64)]) -> Result<(), SinkError> {
        let server = self.server().await?;
        let last = self.intents.read(&server, to.iter().map(|(at, _)| at)).await?;
        let changes: Vec<_> =
            to.iter().map(|(at, next)| (at.clone(), Intent::rewound(last.get(at), &self.writer, *next))).collect();
        self.intents.offer_all(&server, &changes).await?;
        let stored = self.intents.read(&server, to.iter().map(|(at, _)| at)).await?;
        for (at, offered) in changes {
            self.held.remove(&at);
            if stored.get(&at) != Some(&offered) {
                return Err(SinkError::Moved(format!("{at}: another process went on meanwhile; rewind again")));
            }
        }
        Ok(())
    }

    async fn tick(&mut self, now_ms: i64) -> Result<(), SinkError> {
        let open: Vec<TopicPartition> = self
            .held
            .iter()
            .filter(|(_, held)| {
                let rests = now_ms.cast_unsigned() >= held.finished_ms.saturating_add(REST_MS);
                !held.stored || held.finished != held.last.finished && rests
            })
            .map(|(at, _)| at.clone())
            .collect();
        for at in open {
            let server = self.server().await?;
            if let Some(held) = self.held.get_mut(&at).filter(|held| held.stored) {
                *held = Held::offered(held.last.finish());
            }
            match self.store(&server, &at).await {
                // Whoever has it now has finished it, or will.
                Ok(()) | Err(SinkError::Moved(_)) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}
