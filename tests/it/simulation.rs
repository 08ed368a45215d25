//! Two processes write one log into one table while everything goes wrong that may: swaps refused, done or not, answers lost, stores away,
//! stale reads, kills, paused writers that come back, partitions that move, and another writer that compacts, deletes and rolls back.
//! The source table is emptied now and then, which is told to one partition and concerns all. In the end the table must equal the fold
//! of the log: values that the source did not send included, which come from the row's earlier version, also where its key was changed
//! and the earlier version is another partition's.
//!
//! `FIRN_SIM_SEEDS=5000` runs more seeds, `FIRN_SIM_SEED=17` one, `FIRN_SIM_TRACE=1` tells what happens.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use arrow_array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray};
use firn::batch::{ChangeBatch, Unavailable};
use firn::change::Mode;
use firn::change::{Column, ColumnType, Op, RowSchema, origin};
use firn::position::{Span, TopicPartition};
use firn::sink::lake::{CommitFailure, LakeTable, Staged, Stager, TableSpec};
use firn::table_event::{Fence, Truncate};
use firn_catalog::memory::MemoryCatalog;
use firn_catalog::storage::fault::{Effect, Fault, Faults, Op as Call};
use firn_catalog::{Catalog, ErrorKind, Patience};
use iceberg::TableIdent;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tokio::runtime::Runtime;

use crate::foreign::{self, Row};

const TOPIC: &str = "shop.public.t";
const PARTITIONS: i32 = 4;
const KEYS: i64 = 14;
const STEPS: usize = 12;
const PATIENCE: Patience = Patience { attempts: 4, first_wait_ms: 0, max_wait_ms: 0 };

#[derive(Clone, Debug)]
enum Change {
    Row(RowChange),
    /// The source table is emptied.
    Truncate {
        lsn: i64,
    },
}

#[derive(Clone, Debug)]
struct RowChange {
    id: i64,
    /// `None` is a delete.
    v: Option<i64>,
    /// What the source has, whether it is sent or not.
    body: i64,
    sent: bool,
    former: Option<i64>,
    /// A delete that stands for a changed key.
    rekeyed: bool,
    lsn: i64,
    /// The keys under which the body has stood since it was sent.
    since: BTreeSet<i64>,
}

/// What the source does, one partition's log for each: inserts, updates of which most don't send the body, deletes, changed keys,
/// and a few truncates. LSNs of different keys interleave between two truncates: transactions come in the order in which they were
/// committed.
fn source(rng: &mut StdRng, truncates: i64) -> Log {
    let mut log: Log = (0..PARTITIONS).map(|p| (p, vec![])).collect();
    let mut rows = BTreeMap::<i64, RowChange>::new();
    let changes = rng.random_range(40..90);
    let emptied: BTreeSet<i64> = (0..truncates).map(|_| rng.random_range(1..changes)).collect();
    for lsn in 1..changes {
        if emptied.contains(&lsn) {
            rows.clear();
            log.get_mut(&rng.random_range(0..PARTITIONS)).unwrap().push(Change::Truncate { lsn });
            continue;
        }
        let id = rng.random_range(0..KEYS);
        let delete = |id: i64, rekeyed: bool| RowChange {
            id,
            v: None,
            body: 0,
            sent: true,
            former: None,
            rekeyed,
            lsn,
            since: BTreeSet::new(),
        };
        let mut changes = vec![];
        match (rows.remove(&id), rng.random_range(0..10)) {
            (Some(_), 0..2) => changes.push(delete(id, false)),
            (Some(row), 2..4) => {
                let to = rng.random_range(0..KEYS);
                changes.push(delete(id, true));
                if to != id && !rows.contains_key(&to) {
                    let since = row.since.into_iter().chain([to]).collect();
                    changes.push(RowChange { id: to, v: Some(lsn), sent: false, former: Some(id), lsn, since, ..row });
                }
            }
            (Some(row), 4..8) => changes.push(RowChange { v: Some(lsn), sent: false, former: None, lsn, ..row }),
            _ => changes.push(RowChange {
                id,
                v: Some(lsn),
                body: 1000 + lsn,
                sent: true,
                former: None,
                rekeyed: false,
                lsn,
                since: [id].into(),
            }),
        }
        for change in changes {
            if change.v.is_some() {
                rows.insert(change.id, change.clone());
            }
            let partition = (change.id % i64::from(PARTITIONS)) as i32;
            log.get_mut(&partition).unwrap().push(Change::Row(change));
        }
    }
    for changes in log.values_mut() {
        let mut at = 1;
        while at < changes.len() {
            let swap = match (&changes[at - 1], &changes[at]) {
                (Change::Row(a), Change::Row(b)) => {
                    let free = |c: &RowChange| !c.rekeyed && c.former.is_none();
                    a.id != b.id && free(a) && free(b) && rng.random_bool(0.3)
                }
                _ => false,
            };
            if swap {
                changes.swap(at - 1, at);
                at += 1;
            }
            at += 1;
        }
    }
    log
}

/// A key stays in its partition.
type Log = BTreeMap<i32, Vec<Change>>;

struct Process {
    table: Arc<LakeTable>,
    /// The next offset of each owned partition.
    next: BTreeMap<i32, i64>,
    /// A batch whose outcome is open: nothing else may be staged before it.
    undecided: Option<Vec<Staged>>,
    /// Whether its records have the later column.
    wide: bool,
}

struct World<'a> {
    runtime: &'a Runtime,
    rng: StdRng,
    catalog: MemoryCatalog,
    spec: TableSpec,
    ident: TableIdent,
    log: Log,
    processes: Vec<Process>,
    /// Writers that were paused with a batch in hand.
    paused: Vec<(Arc<LakeTable>, Vec<Staged>)>,
    /// Keys deleted by others: the snapshot that did, the key, and the offset below which its changes are gone.
    foreign_deletes: Vec<(i64, i64, i64)>,
    /// Keys ever deleted by others.
    ever_deleted: BTreeSet<i64>,
    former_key_wait: Duration,
    trace: bool,
}

macro_rules! trace {
    ($world:expr, $($text:tt)*) => { if $world.trace { println!($($text)*); } };
}

fn columns(wide: bool) -> RowSchema {
    let mut columns = vec![Column::key("id", ColumnType::Long)];
    columns.extend(["v", "body"].map(|name| Column::new(name, ColumnType::Long)));
    if wide {
        columns.push(Column::new("later", ColumnType::String));
    }
    RowSchema { columns }
}

/// Rows, each with its offset.
fn batch(partition: i32, rows: &[(i64, RowChange)], wide: bool) -> ChangeBatch {
    let n = rows.len();
    let ops: Vec<Op> = rows.iter().map(|(_, c)| if c.v.is_some() { Op::Update } else { Op::Delete }).collect();
    let body = |c: &RowChange| (c.sent && c.v.is_some()).then_some(c.body);
    let mut columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from_iter_values(rows.iter().map(|(_, c)| c.id)))),
        ("v", Arc::new(rows.iter().map(|(_, c)| c.v).collect::<Int64Array>())),
        ("body", Arc::new(rows.iter().map(|(_, c)| body(c)).collect::<Int64Array>())),
        (origin::TOPIC, Arc::new(StringArray::from(vec![TOPIC; n]))),
        (origin::PARTITION, Arc::new(Int32Array::from(vec![partition; n]))),
        (origin::OFFSET, Arc::new(Int64Array::from_iter_values(rows.iter().map(|(offset, _)| *offset)))),
        (origin::OP, Arc::new(StringArray::from_iter_values(ops.iter().map(|op| op.letter())))),
        (origin::SOURCE_LSN, Arc::new(Int64Array::from_iter_values(rows.iter().map(|(_, c)| c.lsn)))),
    ];
    if wide {
        columns.push(("later", Arc::new(StringArray::from(vec!["x"; n]))));
    }
    let mut batch = ChangeBatch::new(RecordBatch::try_from_iter(columns).unwrap(), ops);
    let mut former = vec![];
    for (row, (_, change)) in (0..).zip(rows) {
        if change.rekeyed {
            batch.rekeyed.push(row);
        }
        if !change.sent {
            let former_key = change.former.map(|_| former.len() as u32);
            former.extend(change.former);
            batch.unavailable.push(Unavailable { row, columns: vec![2], former_key });
        }
    }
    if !former.is_empty() {
        let former: ArrayRef = Arc::new(Int64Array::from(former));
        batch.former_keys = Some(RecordBatch::try_from_iter([("id", former)]).unwrap());
    }
    batch
}

/// The changes of `log` from offset `from` on, as a worker hands them to its stager; in append mode a truncate is no row.
fn write(stager: &mut Stager, partition: i32, from: i64, changes: &[Change], wide: bool) {
    let mut rows = vec![];
    let flush = |stager: &mut Stager, rows: &mut Vec<_>| {
        if !rows.is_empty() {
            stager.write(batch(partition, &std::mem::take(rows), wide)).unwrap();
        }
    };
    for (change, offset) in changes.iter().zip(from..) {
        match change.clone() {
            Change::Row(change) => rows.push((offset, change)),
            Change::Truncate { lsn } => {
                flush(stager, &mut rows);
                let fence = Some(Fence { lsn, last_commit: Some(lsn - 1) });
                stager.truncate(Truncate { at: at(partition), offset, fence, only_partition: false }).unwrap();
            }
        }
    }
    flush(stager, &mut rows);
}

fn at(partition: i32) -> TopicPartition {
    TopicPartition::new(TOPIC, partition)
}

fn span(partition: i32, from: i64, next: i64) -> Span {
    Span::new(at(partition), from, next)
}

impl<'a> World<'a> {
    fn new(runtime: &'a Runtime, seed: u64, mode: Mode) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let truncates = if mode == Mode::Upsert { rng.random_range(0..4) } else { 0 };
        let log = source(&mut rng, truncates);
        let mut spec = TableSpec::new("sim", "t");
        spec.mode = mode;
        spec.partition_by = match rng.random_range(0..3) {
            0 => vec!["bucket(3, id)".to_owned()],
            _ => vec![],
        };
        spec.sort_by = match rng.random_range(0..3) {
            0 => vec!["body".to_owned(), "v desc nulls last".to_owned()],
            _ => vec![],
        };
        spec.target_file_bytes = if rng.random_bool(0.3) { 1 } else { 1 << 20 };
        let catalog = MemoryCatalog::new(Faults::default());
        let ident = spec.ident().unwrap();
        let trace = std::env::var("FIRN_SIM_TRACE").is_ok();
        let former_key_wait = Duration::from_millis(if rng.random_bool(0.5) { 0 } else { 5 });
        let mut world = Self {
            runtime,
            rng,
            catalog,
            spec,
            ident,
            log,
            processes: vec![],
            paused: vec![],
            foreign_deletes: vec![],
            ever_deleted: BTreeSet::new(),
            former_key_wait,
            trace,
        };
        for owned in [[0, 1], [2, 3]] {
            let process = world.start(&owned, false);
            world.processes.push(process);
        }
        world
    }

    /// A process begins: nothing is known but what the table says.
    fn start(&mut self, owned: &[i32], wide: bool) -> Process {
        let handle = self.runtime.handle().clone();
        let catalog: Arc<dyn Catalog> = Arc::new(self.catalog.clone());
        let table = self.runtime.block_on(async {
            let table = LakeTable::open(catalog, self.spec.clone(), handle).await.unwrap().with_patience(PATIENCE);
            table.ensure_schema(&columns(wide)).await.unwrap();
            table.wait_for_former_keys(self.former_key_wait).await;
            table
        });
        let mut process = Process { table: Arc::new(table), next: BTreeMap::new(), undecided: None, wide };
        self.resume(&mut process, owned);
        process
    }

    /// Goes on where the table stands.
    fn resume(&mut self, process: &mut Process, owned: &[i32]) {
        let checkpoint = self.runtime.block_on(process.table.checkpoint()).unwrap().unwrap_or_default();
        process.table.own(owned.iter().map(|p| at(*p)));
        process.next = owned.iter().map(|p| (*p, checkpoint.next(&at(*p)).unwrap_or(0))).collect();
    }

    /// Stages the next changes of a process, in one or two workers.
    fn stage(&mut self, who: usize, most: usize) -> Vec<Staged> {
        let process = &self.processes[who];
        let two_workers = self.rng.random_bool(0.4);
        let partitions: Vec<i32> = process.next.keys().copied().collect();
        let workers: Vec<Vec<i32>> =
            if two_workers { partitions.iter().map(|p| vec![*p]).collect() } else { vec![partitions] };
        let mut parts = vec![];
        for partitions in workers {
            let mut stager = process.table.stager().unwrap();
            let mut spans = vec![];
            for partition in partitions {
                let from = process.next[&partition];
                let log = &self.log[&partition];
                let left = log.len().saturating_sub(from as usize);
                let take = left.min(self.rng.random_range(0..=most));
                let changes = &log[from as usize..from as usize + take];
                let mut done = 0;
                while done < take {
                    let n = self.rng.random_range(1..=take - done);
                    write(&mut stager, partition, from + done as i64, &changes[done..done + n], process.wide);
                    done += n;
                }
                spans.push(span(partition, from, from + take as i64));
            }
            if let Ok(part) = stager.close(spans) {
                parts.push(part);
            }
        }
        parts
    }

    fn settle(&mut self, who: usize, result: Result<firn::sink::lake::Committed, CommitFailure>) {
        let owned: Vec<i32> = self.processes[who].next.keys().copied().collect();
        match result {
            Ok(done) => {
                trace!(self, "  {who} committed {} after {} attempts", done.snapshot_id, done.attempts);
                for (partition, next) in &mut self.processes[who].next {
                    if let Some(committed) = done.checkpoint.next(&at(*partition)) {
                        *next = committed;
                    }
                }
            }
            Err(CommitFailure::Undecided(parts, e)) => {
                trace!(self, "  {who} undecided: {e}");
                self.processes[who].undecided = Some(parts);
            }
            Err(e) => {
                trace!(self, "  {who} gives the batch up: {e}");
                self.catalog.faults().clear();
                let mut process = self.processes.remove(who);
                if matches!(e, CommitFailure::SchemaMoved(_)) {
                    self.runtime.block_on(process.table.ensure_schema(&columns(process.wide))).unwrap();
                }
                self.resume(&mut process, &owned);
                self.processes.insert(who, process);
            }
        }
    }

    fn commit(&mut self, who: usize) {
        let parts = match self.processes[who].undecided.take() {
            Some(parts) => parts,
            None => self.stage(who, 6),
        };
        if !parts.is_empty() {
            self.inject();
            let table = Arc::clone(&self.processes[who].table);
            let result = self.runtime.block_on(table.commit(parts));
            self.catalog.faults().clear();
            self.settle(who, result);
        }
    }

    fn commit_both(&mut self) {
        let mut parts = vec![];
        for who in 0..2 {
            parts.push(match self.processes[who].undecided.take() {
                Some(parts) => parts,
                None => self.stage(who, 6),
            });
        }
        self.inject();
        let (b, a) = (parts.pop().unwrap(), parts.pop().unwrap());
        let (p, q) = (Arc::clone(&self.processes[0].table), Arc::clone(&self.processes[1].table));
        let (first, second) = self.runtime.block_on(async { tokio::join!(p.commit(a), q.commit(b)) });
        self.catalog.faults().clear();
        self.settle(0, first);
        self.settle(1, second);
    }

    /// Something goes wrong in the next commit, mostly.
    fn inject(&mut self) {
        let unavailable = Effect::Fail(ErrorKind::Unavailable);
        let fault = match self.rng.random_range(0..10) {
            0 => Fault::on([Call::Swap], Effect::Fail(ErrorKind::Conflict)),
            1 | 2 => Fault::on([Call::Swap], Effect::LoseAnswer).times(self.rng.random_range(1..=5)),
            3 => Fault::on([Call::Swap], unavailable).times(self.rng.random_range(1..=5)),
            4 => Fault::on([Call::Load], unavailable).times(self.rng.random_range(1..=6)),
            5 => Fault::on([Call::Load], Effect::Stale).times(self.rng.random_range(1..=3)),
            6 => Fault::on([], unavailable).skip(self.rng.random_range(0..20)),
            7 => Fault::on([Call::Put], Effect::LoseAnswer).skip(self.rng.random_range(0..6)),
            8 => Fault::on([Call::Swap], Effect::FailAfter(ErrorKind::Conflict)),
            _ => return,
        };
        trace!(self, "  {fault:?}");
        self.catalog.faults().add(fault);
        if self.rng.random_bool(0.3) {
            self.inject();
        }
    }

    /// Killed and started again; what it had in hand is lost, or comes back late as a writer that was only paused.
    fn restart(&mut self, who: usize) {
        let owned: Vec<i32> = self.processes[who].next.keys().copied().collect();
        let in_hand = match self.processes[who].undecided.take() {
            Some(parts) => parts,
            None => self.stage(who, 5),
        };
        if self.rng.random_bool(0.6) {
            self.paused.push((Arc::clone(&self.processes[who].table), in_hand));
        }
        let wide = self.processes[who].wide || self.rng.random_bool(0.15);
        self.processes[who] = self.start(&owned, wide);
    }

    /// One partition moves to the other process; both go on where the table stands.
    fn rebalance(&mut self) {
        let from = usize::from(self.rng.random_bool(0.5));
        let mut owned: Vec<BTreeSet<i32>> = self.processes.iter().map(|p| p.next.keys().copied().collect()).collect();
        let Some(moved) = owned[from].iter().copied().collect::<Vec<_>>().choose(&mut self.rng).copied() else {
            return;
        };
        owned[from].remove(&moved);
        owned[1 - from].insert(moved);
        for (who, owned) in owned.into_iter().enumerate() {
            let owned: Vec<i32> = owned.into_iter().collect();
            let mut process = self.processes.remove(who);
            if let Some(parts) = process.undecided.take() {
                self.paused.push((Arc::clone(&process.table), parts));
                // A table whose batch is in other hands is not shared with them.
                process = self.start(&owned, process.wide);
            } else {
                self.resume(&mut process, &owned);
            }
            self.processes.insert(who, process);
        }
    }

    fn wake_a_paused_writer(&mut self) {
        if let Some((table, parts)) = self.paused.pop()
            && !parts.is_empty()
        {
            self.inject();
            let result = self.runtime.block_on(table.commit(parts));
            trace!(self, "  the paused writer: {result:?}");
            self.catalog.faults().clear();
            if let Err(CommitFailure::Undecided(parts, _)) = result {
                self.paused.push((table, parts));
            }
        }
    }

    fn foreign_delete(&mut self) {
        let id = self.rng.random_range(0..KEYS);
        let deleted = self.runtime.block_on(foreign::delete(&self.catalog, &self.ident, id));
        if let Some((snapshot_id, checkpoint)) = deleted {
            let below = checkpoint.next(&at((id % i64::from(PARTITIONS)) as i32)).unwrap_or(0);
            trace!(self, "  key {id} deleted below {below}");
            self.foreign_deletes.push((snapshot_id, id, below));
            self.ever_deleted.insert(id);
        }
    }

    fn roll_back(&mut self) {
        let steps = self.rng.random_range(1..3);
        let kept: Option<HashSet<i64>> = self.runtime.block_on(foreign::roll_back(&self.catalog, &self.ident, steps));
        if let Some(kept) = kept {
            self.foreign_deletes.retain(|(snapshot_id, _, _)| kept.contains(snapshot_id));
        }
    }

    fn step(&mut self) {
        let who = self.rng.random_range(0..2);
        let choice = self.rng.random_range(0..100);
        trace!(self, "step {choice} process {who}");
        match choice {
            0..45 => self.commit(who),
            45..60 => self.commit_both(),
            60..70 => self.restart(who),
            70..78 => self.wake_a_paused_writer(),
            78..85 => self.runtime.block_on(foreign::compact(&self.catalog, &self.ident)),
            85..91 if self.spec.mode == Mode::Upsert => self.foreign_delete(),
            91..95 => self.roll_back(),
            95..100 => self.rebalance(),
            _ => self.commit(who),
        }
    }

    /// Nothing fails any more: everything is read to the end.
    fn finish(&mut self) {
        self.catalog.faults().clear();
        self.wake_a_paused_writer();
        self.catalog.faults().clear();
        for who in 0..2 {
            let owned: Vec<i32> = self.processes[who].next.keys().copied().collect();
            if self.rng.random_bool(0.5) {
                let wide = self.processes[who].wide;
                self.processes[who] = self.start(&owned, wide);
            }
            for _ in 0..100 {
                let behind = self.processes[who].next.iter().any(|(p, next)| *next < self.log[p].len() as i64);
                if !behind && self.processes[who].undecided.is_none() {
                    // As the table has it, not as the process thinks.
                    let mut process = self.processes.remove(who);
                    self.resume(&mut process, &owned);
                    let done = process.next.iter().all(|(p, next)| *next == self.log[p].len() as i64);
                    self.processes.insert(who, process);
                    if done {
                        break;
                    }
                }
                let parts = match self.processes[who].undecided.take() {
                    Some(parts) => parts,
                    None => self.stage(who, 12),
                };
                let table = Arc::clone(&self.processes[who].table);
                let result = self.runtime.block_on(table.commit(parts));
                self.settle(who, result);
            }
        }
    }

    /// What the table must be, each row with whether its body may be missing: where another writer deleted an earlier version, or where
    /// the earlier version came from a partition that was not read as far when it was needed.
    fn fold(&self) -> Vec<(Row, bool)> {
        let mut rows = vec![];
        let fence = self.fence().unwrap_or(0);
        for (partition, log) in &self.log {
            let mut last = BTreeMap::<i64, (i64, &RowChange)>::new();
            for (change, offset) in log.iter().zip(0..) {
                match (change, self.spec.mode) {
                    (Change::Row(change), Mode::Append) => {
                        let body = (change.sent && change.v.is_some()).then_some(change.body);
                        rows.push((Row { id: change.id, v: change.v, body, partition: *partition, offset }, false));
                    }
                    (Change::Row(change), Mode::Upsert) => {
                        last.insert(change.id, (offset, change));
                    }
                    (Change::Truncate { .. }, _) => {}
                }
            }
            for (id, (offset, change)) in last {
                let gone = self.foreign_deletes.iter().any(|(_, key, below)| *key == id && offset < *below);
                if change.v.is_some() && !gone && change.lsn > fence {
                    let elsewhere = change.since.iter().any(|key| key % i64::from(PARTITIONS) != i64::from(*partition));
                    let may_lack = elsewhere || change.since.iter().any(|key| self.ever_deleted.contains(key));
                    let (v, body) = (change.v, Some(change.body));
                    rows.push((Row { id, v, body, partition: *partition, offset }, may_lack));
                }
            }
        }
        rows.sort();
        rows
    }

    /// Where the source table was last emptied.
    fn fence(&self) -> Option<i64> {
        let truncates = self.log.values().flatten().filter_map(|c| match c {
            Change::Truncate { lsn } => Some(*lsn),
            Change::Row(_) => None,
        });
        truncates.max()
    }

    fn check(&self) {
        let table = self.runtime.block_on(self.catalog.load(&self.ident)).unwrap();
        let checkpoint = foreign::checkpoint(&table);
        for (partition, log) in &self.log {
            assert_eq!(checkpoint.next(&at(*partition)), Some(log.len() as i64), "the position of {partition}");
        }
        let fence = checkpoint.topics[TOPIC].truncated.map(|fence| fence.lsn);
        assert_eq!(fence, self.fence(), "the fence");
        let rows = self.runtime.block_on(foreign::rows(&table));
        let expected = self.fold().into_iter().enumerate().map(|(i, (row, may_lack))| match rows.get(i) {
            Some(Row { body: None, .. }) if may_lack => Row { body: None, ..row },
            _ => row,
        });
        assert_eq!(rows, expected.collect::<Vec<_>>(), "the table, and the fold of the log");
        let distinct: HashSet<(i32, i64)> = rows.iter().map(|r| (r.partition, r.offset)).collect();
        assert_eq!(distinct.len(), rows.len(), "count(distinct partition, offset) and count(*)");
        self.runtime.block_on(foreign::check_delete_files(&table));
    }
}

fn run(runtime: &Runtime, seed: u64, mode: Mode) {
    let mut world = World::new(runtime, seed, mode);
    for _ in 0..STEPS {
        world.step();
    }
    world.finish();
    world.check();
}

fn seeds(mode: Mode, default: u64) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let seeds = match number("FIRN_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("FIRN_SIM_SEEDS").unwrap_or(default),
    };
    for seed in seeds {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(&runtime, seed, mode)));
        if let Err(panic) = result {
            eprintln!("seed {seed} fails in mode {mode:?}: FIRN_SIM_SEED={seed} FIRN_SIM_TRACE=1 runs it again");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn an_upsert_table_equals_the_fold_of_the_log_whatever_goes_wrong() {
    seeds(Mode::Upsert, 150);
}

#[test]
fn an_append_table_has_every_change_once_whatever_goes_wrong() {
    seeds(Mode::Append, 50);
}
