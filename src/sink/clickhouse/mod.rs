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
//! - [`intents`]: where the sink stands. [`deliver`]: the steps of a delivery. [`rows`], [`cast`], [`split`], [`calendar`], [`refused`]: its rows.
//! - [`snapshot`]: rows of snapshots that the table is not to get. [`stated`]: rows within a statement.
//! - [`probe`]: whether it can work at all. [`tail`](mod@tail): the last rows, for people. [`range`](mod@range): rows deleted, for people.

mod calendar;
mod cast;
mod deliver;
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
use std::sync::atomic::AtomicU64;
use std::time::{SystemTime, UNIX_EPOCH};

use arrow_schema::SchemaRef;
use async_trait::async_trait;

use self::intents::Intents;
use self::nodes::Chosen;
pub use self::probe::probe;
pub use self::range::delete_between;
use self::server::Server;
pub use self::settings::{ClickHouseSettings, Engine, SnapshotRows};
use self::table::Table;
pub use self::tail::{LastRows, tail};
use super::intent::Intent;
use super::{Delivery, Sink, SinkError, Standing};
use crate::position::TopicPartition;

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
    /// When the last delivery was begun, in ms since the epoch.
    begun_ms: u64,
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
            begun_ms: 0,
            skipped: Arc::default(),
        }
    }

    /// How many rows of snapshots the settings left out.
    pub fn skipped(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.skipped)
    }

    /// The time, but always later than that of the delivery before: versions of rows follow it.
    fn begin_ms(&mut self) -> u64 {
        self.begun_ms = now_ms().max(self.begun_ms + 1);
        self.begun_ms
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
        match self.still_held(server, std::slice::from_ref(at)).await?.remove(at) {
            Some(lost) => Err(lost),
            None => Ok(()),
        }
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
        let delivered = self.deliver_some(std::slice::from_ref(delivery)).await;
        delivered.into_iter().next().unwrap_or(Ok(()))
    }

    async fn deliver_some(&mut self, deliveries: &[Delivery]) -> Vec<Result<(), SinkError>> {
        let delivered = self.deliver_together(deliveries).await;
        delivered.iter().for_each(|result| self.pass_over(result));
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
