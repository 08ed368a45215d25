//! What must hold after every step: the promises of `docs/design.md`, held against the log and against what other writers did.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use firn::change::Mode;
use firn::position::Checkpoint;
use firn::sink::lake::CHECKPOINT;
use firn_catalog::commit::LAST_SNAPSHOT_ID;
use firn_catalog::storage::Stores;
use futures::TryStreamExt;
use iceberg::spec::TableMetadata;
use iceberg::table::Table;
use object_store::ObjectStore;

use super::source::{Change, Kafka, PARTITIONS, RowChange, TOPIC, at};
use crate::foreign::{self, Rereader, Row};

/// Every snapshot that was ever seen, expired ones too.
#[derive(Debug, Default)]
pub struct History {
    parents: BTreeMap<i64, Option<i64>>,
    checkpoints: BTreeMap<i64, Checkpoint>,
}

impl History {
    pub fn saw(&mut self, metadata: &TableMetadata) {
        for snapshot in metadata.snapshots() {
            self.parents.insert(snapshot.snapshot_id(), snapshot.parent_snapshot_id());
            if let Some(json) = snapshot.summary().additional_properties.get(CHECKPOINT) {
                self.checkpoints.insert(snapshot.snapshot_id(), Checkpoint::from_json(json).unwrap());
            }
        }
    }

    /// The current snapshot and its ancestors, newest first.
    fn chain(&self, table: &Table) -> Vec<i64> {
        self.chain_of(table.metadata().current_snapshot_id())
    }

    fn chain_of(&self, head: Option<i64>) -> Vec<i64> {
        let mut chain = vec![];
        let mut at = head;
        while let Some(id) = at {
            chain.push(id);
            at = self.parents.get(&id).copied().flatten();
        }
        chain
    }

    /// What the rows of the current snapshot cover. The properties tell more after a rollback: they still name what was set aside.
    pub fn covered(&self, table: &Table) -> Checkpoint {
        self.covered_by(table.metadata().current_snapshot_id())
    }

    fn covered_by(&self, snapshot_id: Option<i64>) -> Checkpoint {
        let checkpoints = self.chain_of(snapshot_id).into_iter().find_map(|id| self.checkpoints.get(&id).cloned());
        checkpoints.unwrap_or_default()
    }

    /// What each snapshot covers that the table may be set back to.
    pub fn covered_by_each(&self, table: &Table) -> Vec<Checkpoint> {
        table.metadata().snapshots().map(|s| self.covered_by(Some(s.snapshot_id()))).collect()
    }
}

/// What is known beside the log.
#[derive(Debug, Default)]
pub struct Others {
    pub history: History,
    /// Keys deleted by others: the snapshot that did, the key, and what the table had covered.
    pub deletes: Vec<(i64, i64, Checkpoint)>,
    /// Rows of others, each with its snapshot.
    pub rows: Vec<(i64, Row)>,
    /// Keys ever deleted by others.
    pub ever_deleted: BTreeSet<i64>,
    /// Whether another writer ever set about expiring snapshots.
    pub expires: bool,
    pub reader: Rereader,
}

/// Holds the table against all that is known. `thoroughly`: the files of all snapshots are looked for, and Iceberg's own scan is asked.
pub async fn check(table: &Table, stores: &Stores, kafka: &Kafka, others: &mut Others, mode: Mode, thoroughly: bool) {
    let chain = others.history.chain(table);
    let checkpoint = others.history.covered(table);
    let properties = table.metadata().properties();
    let last = properties.get(LAST_SNAPSHOT_ID).and_then(|id| id.parse::<i64>().ok());
    if let Some(summary) = last.filter(|id| chain.contains(id)).and_then(|id| others.history.checkpoints.get(&id)) {
        assert_eq!(&foreign::checkpoint(table), summary, "the checkpoint of the properties, and of the last snapshot");
    }
    let fence = checkpoint.topics.get(TOPIC).and_then(|t| t.truncated).map(|fence| fence.lsn);
    assert_eq!(fence, last_truncate(kafka, &checkpoint), "the fence");

    let (rows, mut needed) = others.reader.rows(table).await;
    if thoroughly {
        assert_eq!(rows, foreign::rows(table).await, "the table as read here, and by Iceberg's own scan");
        let snapshots: Vec<i64> = table.metadata().snapshots().map(|s| s.snapshot_id()).collect();
        needed.extend(foreign::reachable(table, &snapshots).await.unwrap_or_else(|e| panic!("a file is missing: {e}")));
    }
    check_files(table, stores, &needed).await;
    let live: HashSet<i64> = chain.into_iter().collect();
    let expected = fold(kafka, &checkpoint, others, mode, &live);
    let expected = expected.into_iter().enumerate().map(|(i, (row, may_lack))| match rows.get(i) {
        Some(Row { body: None, .. }) if may_lack => Row { body: None, ..row },
        _ => row,
    });
    assert_eq!(rows, expected.collect::<Vec<_>>(), "the table, and the fold of the log up to {checkpoint:?}");
    let ours: Vec<(i32, i64)> = rows.iter().filter(|r| r.partition >= 0).map(|r| (r.partition, r.offset)).collect();
    assert_eq!(ours.iter().collect::<HashSet<_>>().len(), ours.len(), "count(distinct partition, offset) and count(*)");
}

/// No file that a live snapshot needs is missing.
async fn check_files(table: &Table, stores: &Stores, needed: &BTreeSet<String>) {
    let location = table.metadata().location();
    let (store, directory) = stores.object_store(location).unwrap();
    let root = location.strip_suffix(directory.as_ref()).unwrap().to_owned();
    let there: HashSet<String> =
        store.list(Some(&directory)).map_ok(|file| format!("{root}{}", file.location)).try_collect().await.unwrap();
    let missing: Vec<&String> = needed.iter().filter(|path| !there.contains(*path)).collect();
    assert!(missing.is_empty(), "live snapshots need {missing:?}");
}

/// Where the source table was last emptied, as far as the checkpoint goes.
fn last_truncate(kafka: &Kafka, checkpoint: &Checkpoint) -> Option<i64> {
    let below = kafka.logs.iter().flat_map(|(partition, log)| {
        let next = checkpoint.next(&at(*partition)).unwrap_or(0);
        log.records.iter().filter(move |r| r.offset < next)
    });
    let lsns = below.filter_map(|r| match r.change {
        Change::Truncate { lsn } => Some(lsn),
        Change::Row(_) => None,
    });
    lsns.max()
}

/// What the table must be, each row with whether its body may be missing: where another writer deleted an earlier version, or where
/// the earlier version came from a partition that was not read as far when it was needed.
fn fold(kafka: &Kafka, upto: &Checkpoint, others: &Others, mode: Mode, live: &HashSet<i64>) -> Vec<(Row, bool)> {
    let fence = last_truncate(kafka, upto).unwrap_or(0);
    let mut rows: Vec<(Row, bool)> = others
        .rows
        .iter()
        .filter(|(snapshot_id, _)| live.contains(snapshot_id))
        .map(|(_, r)| (r.clone(), false))
        .collect();
    let mut last = BTreeMap::<i64, (i32, i64, &RowChange)>::new();
    // A key that moved to an added partition has its newer changes there, and that has the higher number.
    for partition in 0..PARTITIONS {
        let next = upto.next(&at(partition)).unwrap_or(0);
        for record in kafka.logs[&partition].records.iter().filter(|r| r.offset < next) {
            let (offset, change) = match &record.change {
                Change::Row(change) => (record.offset, change),
                Change::Truncate { .. } => continue,
            };
            match mode {
                Mode::Append => {
                    let body = (change.sent && change.v.is_some()).then_some(change.body);
                    rows.push((Row { id: change.id, v: change.v, body, partition, offset }, false));
                }
                Mode::Upsert => _ = last.insert(change.id, (partition, offset, change)),
            }
        }
    }
    for (id, (partition, offset, change)) in last {
        let gone = others.deletes.iter().any(|(snapshot_id, key, covered)| {
            *key == id && live.contains(snapshot_id) && offset < covered.next(&at(partition)).unwrap_or(0)
        });
        if change.v.is_some() && !gone && change.lsn > fence {
            let elsewhere = change.since.iter().any(|(_, of)| *of != partition);
            let may_lack = elsewhere || change.since.iter().any(|(key, _)| others.ever_deleted.contains(key));
            rows.push((Row { id, v: change.v, body: Some(change.body), partition, offset }, may_lack));
        }
    }
    rows.sort();
    rows
}
