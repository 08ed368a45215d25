//! The table `_firn_intents`: of each partition the last [`Intent`], changed by compare-and-set.
//!
//! A change is an insert that is taken only if the partition's last change has the number before its own, as the server finds
//! when it comes to it, however long the statement was on its way. Of two that come at once, the deduplication by their token,
//! which is that number, keeps the first. What was kept is then read.

use std::collections::BTreeMap;

use clickhouse::Row;
use futures::future::try_join_all;
use serde::Deserialize;

use super::fault::Fault;
use super::server::Server;
use super::sql::{name, text};
use crate::position::TopicPartition;
use crate::sink::intent::Intent;

pub(super) const TABLE: &str = "_firn_intents";

/// Changes of different partitions that are under way at a time.
const AT_ONCE: usize = 8;

/// The intents of one sink.
#[derive(Clone, Debug)]
pub(super) struct Intents {
    database: String,
    sink: String,
}

/// A row of the table.
#[derive(Row, Deserialize)]
struct Stored {
    topic: String,
    partition: i32,
    number: u64,
    generation: u64,
    writer: String,
    topic_id: String,
    from: i64,
    next: i64,
    begun_ms: u64,
    finished: bool,
}

impl Stored {
    fn intent(self) -> (TopicPartition, Intent) {
        let intent = Intent {
            number: self.number,
            generation: self.generation,
            writer: self.writer,
            topic_id: (!self.topic_id.is_empty()).then_some(self.topic_id),
            from: self.from,
            next: self.next,
            begun_ms: self.begun_ms,
            finished: self.finished,
        };
        (TopicPartition::new(self.topic, self.partition), intent)
    }
}

impl Intents {
    pub(super) fn new(database: &str, sink: &str) -> Self {
        Self { database: database.to_owned(), sink: sink.to_owned() }
    }

    fn table(&self) -> String {
        format!("{}.{TABLE}", name(&self.database))
    }

    /// Makes the table, if it is missing. Forced to the disk: an intent that a power cut took away would be begun with other bounds.
    pub(super) async fn prepare(&self, server: &Server, replicated: bool) -> Result<(), Fault> {
        let exists =
            format!("SELECT count() FROM system.tables WHERE database = {} AND name = '{TABLE}'", text(&self.database));
        if server.rows::<u64>(&exists).await?.first() == Some(&1) {
            return Ok(());
        }
        let columns = "sink String, topic String, partition Int32, number UInt64, generation UInt64, writer String, \
                       topic_id String, `from` Int64, `next` Int64, begun_ms UInt64, finished Bool, \
                       stored_at DateTime64(3, 'UTC') DEFAULT now64(3)";
        let settings = "non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1";
        let engine = match replicated {
            false => "ReplacingMergeTree(number)".to_owned(),
            true => {
                let path = format!("/clickhouse/tables/{{shard}}/{}/{TABLE}", self.database);
                format!("ReplicatedReplacingMergeTree({}, '{{replica}}', number)", text(&path))
            }
        };
        let sql = format!(
            "CREATE TABLE IF NOT EXISTS {} ({columns}) ENGINE = {engine} \
             ORDER BY (sink, topic, partition) SETTINGS {settings}",
            self.table()
        );
        server.execute(&sql).await
    }

    /// The last intent of each of these partitions that has one.
    pub(super) async fn read<'a>(
        &self,
        server: &Server,
        partitions: impl IntoIterator<Item = &'a TopicPartition>,
    ) -> Result<BTreeMap<TopicPartition, Intent>, Fault> {
        let keys: Vec<String> =
            partitions.into_iter().map(|at| format!("({}, {})", text(&at.topic), at.partition)).collect();
        if keys.is_empty() {
            return Ok(BTreeMap::new());
        }
        let sql = format!(
            "SELECT topic, partition, number, generation, writer, topic_id, `from`, `next`, begun_ms, finished FROM {} \
             WHERE sink = {} AND (topic, partition) IN ({}) ORDER BY number DESC LIMIT 1 BY topic, partition",
            self.table(),
            text(&self.sink),
            keys.join(", ")
        );
        Ok(server.rows::<Stored>(&sql).await?.into_iter().map(Stored::intent).collect())
    }

    /// Offers a change. Whether it was taken, [`Intents::read`] tells.
    pub(super) async fn offer(&self, server: &Server, at: &TopicPartition, intent: &Intent) -> Result<(), Fault> {
        let (sink, topic, partition, number) = (text(&self.sink), text(&at.topic), at.partition, intent.number);
        let topic_id = intent.topic_id.as_deref().unwrap_or_default();
        let sql = format!(
            "INSERT INTO {table} (sink, topic, partition, number, generation, writer, topic_id, `from`, `next`, begun_ms, finished) \
             SELECT {sink}, {topic}, {partition}, {number}, {generation}, {writer}, {topic_id}, {from}, {next}, {begun_ms}, {finished} \
             WHERE (SELECT max(number) FROM {table} WHERE sink = {sink} AND topic = {topic} AND partition = {partition}) = {before}",
            table = self.table(),
            generation = intent.generation,
            writer = text(&intent.writer),
            topic_id = text(topic_id),
            from = intent.from,
            next = intent.next,
            begun_ms = intent.begun_ms,
            finished = intent.finished,
            before = number - 1,
        );
        let token = format!("{}/{at}/{number}", self.sink);
        server.execute_once(&sql, &token).await
    }

    /// Offers a change of each partition.
    pub(super) async fn offer_all(&self, server: &Server, changes: &[(TopicPartition, Intent)]) -> Result<(), Fault> {
        let at_once = if server.has_quorum { 1 } else { AT_ONCE };
        for changes in changes.chunks(at_once) {
            let mut offers = Vec::with_capacity(changes.len());
            for (at, intent) in changes {
                offers.push(self.offer(server, at, intent));
            }
            try_join_all(offers).await?;
        }
        Ok(())
    }
}
