//! [`Generator`]: plan, write, partition.

use super::{
    envelope::{EnvelopeWriter, SchemaBlock},
    model::Model,
    partition::partition,
    plan::{Mix, Planner, What},
    random,
    schema::{SchemaName, Table},
};

/// What to generate. The same options give the same bytes.
#[derive(Clone, Debug)]
pub struct GeneratorOptions {
    pub seed: u64,
    /// Played side by side; a snapshot of each first.
    pub schemas: Vec<SchemaName>,
    pub schema_block: SchemaBlock,
    /// Partitions of every topic, at least 1; see [`Generator::set_partitions`].
    pub partitions: i32,
    /// Size of the snapshot: customers, rows of the bench; the other tables in proportion. 0: no snapshot.
    pub keys: u64,
    pub mix: Mix,
    /// End at the first transaction's end at or after so many changes, snapshot included, tombstones not; `None`: never.
    pub changes: Option<u64>,
    /// The source's clock at the snapshot, µs since the epoch.
    pub start_us: i64,
    /// Mean time between two transactions, µs.
    pub step_us: u64,
}

impl GeneratorOptions {
    /// The usual: three partitions, everything a source can do, a thousand keys, no end. The bench: four partitions, inserts alone.
    pub fn new(seed: u64, schemas: impl Into<Vec<SchemaName>>) -> Self {
        let schemas = schemas.into();
        let bench = schemas == [SchemaName::Bench];
        Self {
            seed,
            schemas,
            schema_block: SchemaBlock::Inline,
            partitions: if bench { 4 } else { 3 },
            keys: if bench { 0 } else { 1000 },
            mix: if bench { Mix::APPEND } else { Mix::LIVELY },
            changes: None,
            // 2026-01-01T00:00:00Z
            start_us: 1_767_225_600_000_000,
            step_us: 1000,
        }
    }
}

/// One Kafka message, borrowed from the generator's buffers.
#[derive(Clone, Copy, Debug)]
pub struct RecordRef<'a> {
    pub table: Table,
    pub topic: &'a str,
    pub partition: i32,
    pub key: &'a [u8],
    /// `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// `__debezium.newkey` or `__debezium.oldkey` of a changed primary key.
    pub key_change: Option<(&'static str, &'a [u8])>,
    /// When the source committed it, ms since the epoch.
    pub source_ts_ms: i64,
}

/// One Kafka message of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GeneratedRecord {
    pub topic: String,
    pub partition: i32,
    pub key: Vec<u8>,
    /// `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Vec<u8>)>,
}

#[derive(Debug)]
struct Topic {
    table: Table,
    name: String,
    partitions: i32,
    writer: EnvelopeWriter,
}

/// An endless (or bounded) stream of Debezium messages, and the truth they add up to.
#[derive(Debug)]
pub struct Generator {
    planner: Planner,
    topics: Vec<Topic>,
    run_id: String,
    changes_left: Option<u64>,
    key: Vec<u8>,
    value: Vec<u8>,
    other_key: Vec<u8>,
}

impl Generator {
    pub fn new(options: GeneratorOptions) -> Self {
        let GeneratorOptions { seed, schemas, schema_block, partitions, keys, mix, changes, start_us, step_us } =
            options;
        let topics = schemas
            .iter()
            .flat_map(|s| s.tables())
            .map(|table| Topic {
                table: *table,
                name: table.topic(),
                partitions: partitions.max(1),
                writer: EnvelopeWriter::new(seed, *table, schema_block),
            })
            .collect();
        let mut run_id = Vec::new();
        super::json::uuid(&mut run_id, super::content::uuid(seed, random::mix(0x0c0f)));
        Self {
            planner: Planner::new(seed, &schemas, mix, keys, start_us, step_us),
            topics,
            run_id: String::from_utf8_lossy(&run_id).into_owned(),
            changes_left: changes,
            key: Vec::new(),
            value: Vec::new(),
            other_key: Vec::new(),
        }
    }

    pub fn topics(&self) -> impl Iterator<Item = &str> {
        self.topics.iter().map(|t| t.name.as_str())
    }

    /// Tells how many partitions a topic really has.
    pub fn set_partitions(&mut self, topic: &str, partitions: i32) {
        if let Some(topic) = self.topics.iter_mut().find(|t| t.name == topic) {
            topic.partitions = partitions.max(1);
        }
    }

    /// Moves the source's clock on, never back: so a caller with a real clock gets real commit times.
    pub fn set_now_us(&mut self, now_us: i64) {
        self.planner.now_us = self.planner.now_us.max(now_us);
    }

    /// Plans no further transaction: the stream ends where the model stands.
    pub fn finish(&mut self) {
        self.changes_left = Some(0);
    }

    /// The truth after the last planned transaction: what the records until the stream's end add up to.
    pub fn model(&self) -> &Model {
        &self.planner.model
    }

    /// The headers that every message of a connector carries.
    pub fn context_headers(&self, table: Table) -> [(&'static str, &str); 4] {
        [
            ("__debezium.context.connectorLogicalName", table.schema().prefix()),
            ("__debezium.context.taskId", "0"),
            ("__debezium.context.connectorName", "postgresql"),
            ("__debezium.context.runId", &self.run_id),
        ]
    }

    /// The next message; `None` at the end.
    pub fn advance(&mut self) -> Option<RecordRef<'_>> {
        if self.planner.queue.is_empty() {
            if self.changes_left == Some(0) {
                return None;
            }
            self.planner.transaction();
        }
        let change = self.planner.queue.pop_front()?;
        let topic = self.topics.iter_mut().find(|t| t.table == change.table)?;
        self.key.clear();
        topic.writer.key(change.key, &mut self.key);
        self.value.clear();
        let tombstone = change.what == What::Tombstone;
        if !tombstone {
            topic.writer.value(&change, &mut self.value);
            self.changes_left = self.changes_left.map(|n| n.saturating_sub(1));
        }
        let key_change = change.other_key.map(|other| {
            self.other_key.clear();
            topic.writer.bare_key(other, &mut self.other_key);
            let name = if change.what == What::Create { "__debezium.oldkey" } else { "__debezium.newkey" };
            (name, self.other_key.as_slice())
        });
        Some(RecordRef {
            table: change.table,
            topic: &topic.name,
            partition: partition(&self.key, topic.partitions),
            key: &self.key,
            value: (!tombstone).then_some(self.value.as_slice()),
            key_change,
            source_ts_ms: change.ts_us / 1000,
        })
    }
}

impl Iterator for Generator {
    type Item = GeneratedRecord;

    fn next(&mut self) -> Option<GeneratedRecord> {
        let record = self.advance()?;
        let table = record.table;
        let mut out = GeneratedRecord {
            topic: record.topic.to_owned(),
            partition: record.partition,
            key: record.key.to_vec(),
            value: record.value.map(<[u8]>::to_vec),
            headers: record.key_change.map(|(name, key)| (name.to_owned(), key.to_vec())).into_iter().collect(),
        };
        let context = self.context_headers(table);
        out.headers.extend(context.map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec())));
        Some(out)
    }
}
