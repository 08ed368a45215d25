//! The source's changes, and the Kafka topic that has them: partitions with gaps between their offsets, of which some may be added
//! later, and whose oldest records are removed.

use std::collections::{BTreeMap, BTreeSet};

use firn::position::{Checkpoint, TopicPartition};
use rand::Rng;
use rand::rngs::StdRng;

pub const TOPIC: &str = "shop.public.t";
pub const PARTITIONS: i32 = 4;
pub const KEYS: i64 = 14;

#[derive(Clone, Debug)]
pub enum Change {
    Row(RowChange),
    /// The source table is emptied: told to one partition, it concerns all.
    Truncate {
        lsn: i64,
    },
}

#[derive(Clone, Debug)]
pub struct RowChange {
    pub id: i64,
    /// `None` is a delete.
    pub v: Option<i64>,
    /// What the source has, whether it is sent or not.
    pub body: i64,
    pub sent: bool,
    pub former: Option<i64>,
    /// A delete that stands for a changed key.
    pub rekeyed: bool,
    pub lsn: i64,
    /// The keys under which the body has stood since it was sent, each with its partition.
    pub since: BTreeSet<(i64, i32)>,
}

#[derive(Clone, Debug)]
pub struct Record {
    pub offset: i64,
    pub change: Change,
}

#[derive(Clone, Debug, Default)]
pub struct Log {
    pub records: Vec<Record>,
    /// Older records are gone.
    pub start: i64,
    /// Where it ended when partitions were added.
    end_at_growth: i64,
}

impl Log {
    /// Whether there are records from `next` on.
    pub fn has_more(&self, next: i64) -> bool {
        self.records.last().is_some_and(|last| last.offset >= next)
    }

    /// Up to `most` records from `from` on, below `end`, and the consumer's position behind them.
    fn read(&self, from: i64, end: i64, most: usize) -> (Vec<Record>, i64) {
        let records: Vec<Record> =
            self.records.iter().filter(|r| r.offset >= from && r.offset < end).take(most).cloned().collect();
        let next = match records.last() {
            // A consumer's position may be that of the next record, beyond the gap; even offsets stand for that.
            Some(last) if last.offset % 2 == 0 => {
                let following = self.records.iter().map(|r| r.offset).find(|offset| *offset > last.offset);
                following.filter(|offset| *offset <= end).unwrap_or(last.offset + 1)
            }
            Some(last) => last.offset + 1,
            None => from,
        };
        (records, next)
    }
}

/// The topic.
#[derive(Clone, Debug)]
pub struct Kafka {
    pub logs: BTreeMap<i32, Log>,
    /// Partitions before more were added.
    pub first_count: i32,
    pub grown: bool,
}

pub fn at(partition: i32) -> TopicPartition {
    TopicPartition::new(TOPIC, partition)
}

impl Kafka {
    /// What the source does: inserts, updates of which most don't send the body, deletes, changed keys, and a few truncates. LSNs of
    /// different keys interleave within a partition between two truncates: transactions come in the order in which they were
    /// committed.
    pub fn new(rng: &mut StdRng, truncates: i64, grows: bool) -> Self {
        let first_count = if grows { PARTITIONS / 2 } else { PARTITIONS };
        let mut changes: BTreeMap<i32, Vec<Change>> = (0..PARTITIONS).map(|p| (p, vec![])).collect();
        let mut rows = BTreeMap::<i64, RowChange>::new();
        let last = rng.random_range(40..90);
        let growth = if grows { rng.random_range(10..last) } else { 0 };
        let emptied: BTreeSet<i64> = (0..truncates).map(|_| rng.random_range(1..last)).collect();
        let mut ends = BTreeMap::new();
        for lsn in 1..last {
            if lsn == growth {
                ends = changes.iter().map(|(p, log)| (*p, log.len())).collect();
            }
            let count = if lsn < growth { first_count } else { PARTITIONS };
            if emptied.contains(&lsn) {
                rows.clear();
                let partition = rng.random_range(0..count);
                changes.get_mut(&partition).unwrap().push(Change::Truncate { lsn });
                continue;
            }
            let of = |id: i64| (id % i64::from(count)) as i32;
            for change in transaction(rng, &mut rows, lsn, of) {
                changes.get_mut(&of(change.id)).unwrap().push(Change::Row(change));
            }
        }
        let logs = changes.into_iter().map(|(partition, mut changes)| {
            let grown_at = ends.get(&partition).copied().unwrap_or(0);
            interleave(rng, &mut changes[..grown_at]);
            interleave(rng, &mut changes[grown_at..]);
            let mut log = Log::default();
            let mut offset = 0;
            for (n, change) in changes.into_iter().enumerate() {
                if n == grown_at {
                    log.end_at_growth = offset;
                }
                log.records.push(Record { offset, change });
                // Compaction and transaction markers leave gaps.
                offset += if rng.random_bool(0.15) { rng.random_range(2..5) } else { 1 };
            }
            if log.records.len() == grown_at {
                log.end_at_growth = offset;
            }
            (partition, log)
        });
        Self { logs: logs.collect(), first_count, grown: !grows }
    }

    pub fn truncates(&self) -> u64 {
        let records = self.logs.values().flat_map(|log| &log.records);
        records.filter(|r| matches!(r.change, Change::Truncate { .. })).count() as u64
    }

    pub fn partitions(&self) -> std::ops::Range<i32> {
        0..if self.grown { PARTITIONS } else { self.first_count }
    }

    /// What a consumer gets. A partition that was added is read once nothing is left of the others before the end that they had then.
    pub fn read(&self, partition: i32, from: i64, most: usize, standing: &Checkpoint) -> (Vec<Record>, i64) {
        let log = &self.logs[&partition];
        let passed = |old: i32| {
            let (next, log) = (standing.next(&at(old)).unwrap_or(0), &self.logs[&old]);
            !log.records.iter().any(|record| (next..log.end_at_growth).contains(&record.offset))
        };
        if partition >= self.first_count && !(0..self.first_count).all(passed) {
            return (vec![], from);
        }
        let end = if self.grown { i64::MAX } else { log.end_at_growth };
        log.read(from, end, most)
    }

    /// Retention removes what lies before the lowest of these positions: the table may be set back to each of them.
    pub fn retain_from(&mut self, standing: &[Checkpoint]) -> bool {
        let mut moved = false;
        for (partition, log) in &mut self.logs {
            let positions = standing.iter().map(|checkpoint| checkpoint.next(&at(*partition)).unwrap_or(0));
            let start = positions.min().unwrap_or(0);
            moved |= start > log.start;
            log.start = log.start.max(start);
        }
        moved
    }
}

fn transaction(
    rng: &mut StdRng,
    rows: &mut BTreeMap<i64, RowChange>,
    lsn: i64,
    of: impl Fn(i64) -> i32,
) -> Vec<RowChange> {
    let id = rng.random_range(0..KEYS);
    let delete =
        |rekeyed| RowChange { id, v: None, body: 0, sent: true, former: None, rekeyed, lsn, since: BTreeSet::new() };
    let mut changes = vec![];
    match (rows.remove(&id), rng.random_range(0..10)) {
        (Some(_), 0..2) => changes.push(delete(false)),
        (Some(row), 2..4) => {
            let to = rng.random_range(0..KEYS);
            changes.push(delete(true));
            if to != id && !rows.contains_key(&to) {
                let since = row.since.into_iter().chain([(id, of(id)), (to, of(to))]).collect();
                changes.push(RowChange { id: to, v: Some(lsn), sent: false, former: Some(id), lsn, since, ..row });
            }
        }
        (Some(row), 4..8) => {
            let since = row.since.into_iter().chain([(id, of(id))]).collect();
            changes.push(RowChange { v: Some(lsn), sent: false, former: None, lsn, since, ..row });
        }
        _ => changes.push(RowChange {
            id,
            v: Some(lsn),
            body: 1000 + lsn,
            sent: true,
            former: None,
            rekeyed: false,
            lsn,
            since: [(id, of(id))].into(),
        }),
    }
    for change in changes.iter().filter(|c| c.v.is_some()) {
        rows.insert(change.id, change.clone());
    }
    changes
}

fn interleave(rng: &mut StdRng, changes: &mut [Change]) {
    let mut at = 1;
    while at < changes.len() {
        let free = |c: &RowChange| !c.rekeyed && c.former.is_none();
        let may = match (&changes[at - 1], &changes[at]) {
            (Change::Row(a), Change::Row(b)) => a.id != b.id && free(a) && free(b),
            _ => false,
        };
        if may && rng.random_bool(0.3) {
            changes.swap(at - 1, at);
            at += 1;
        }
        at += 1;
    }
}
