//! One process: what it believes to own, where it reads, what it has staged; and what it does when it is its turn.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use firn::position::{Checkpoint, Span};
use firn::sink::lake::{CommitFailure, LakeError, LakeTable, Shared, Staged, TableColumns, TableSpec};
use firn_catalog::memory::MemoryCatalog;
use firn_catalog::{Catalog, Patience, surroundings};
use tokio::runtime::Handle;

use super::rows::{columns, write};
use super::scheduler::ActorId;
use super::source::{Kafka, at};

const PATIENCE: Patience = Patience { attempts: 4, first_wait_ms: 0, max_wait_ms: 0 };
/// Tries of what a process does until it works, beyond all faults that one step brings.
const INSISTENCE: usize = 60;

/// What it reads next: of each partition so many records, in pieces of these sizes.
pub type Reads = BTreeMap<i32, Vec<usize>>;

/// One life of a process.
pub struct Process {
    pub who: ActorId,
    /// Its place in the group.
    pub slot: usize,
    /// Whether the group knows it still.
    pub is_member: bool,
    table: Arc<LakeTable>,
    /// Where it reads each partition that it believes to own.
    pub next: BTreeMap<i32, i64>,
    /// Partitions it was given and has not asked the table about.
    gained: BTreeSet<i32>,
    /// Handed over and not committed, oldest first.
    pub in_hand: VecDeque<Vec<Staged>>,
    /// Whether its records have the later column.
    pub wide: bool,
    /// That its rows are made for.
    columns: TableColumns,
    /// As it last saw the table's.
    standing: Checkpoint,
    pub commits: u64,
    pub given_up: u64,
    pub undecided: u64,
    /// The table's history does not tell where to go on: a person must say.
    pub at_a_loss: bool,
}

/// What a process begins with.
pub struct Setting {
    pub spec: TableSpec,
    pub shared: Shared,
    /// Whether its records have the later column.
    pub wide: bool,
    pub former_key_wait: Duration,
}

/// One turn of work.
pub struct Work {
    /// Staged one after the other before the first is committed.
    pub batches: Vec<Reads>,
    /// A worker for each partition, or one for all.
    pub apart: bool,
    pub kafka: Arc<Kafka>,
}

impl Process {
    /// A process begins: nothing is known but what the table says.
    pub async fn start(
        who: ActorId,
        slot: usize,
        world: MemoryCatalog,
        setting: Setting,
        owned: BTreeSet<i32>,
    ) -> Self {
        let Setting { spec, shared, wide, former_key_wait } = setting;
        let catalog: Arc<dyn Catalog> = Arc::new(world);
        let table = insist(async || LakeTable::open(Arc::clone(&catalog), spec.clone(), Handle::current()).await).await;
        let table = table.with_patience(PATIENCE).sharing(shared);
        let columns = agreed(&table, wide).await;
        table.wait_for_former_keys(former_key_wait).await;
        let mut process = Self {
            who,
            slot,
            is_member: true,
            table: Arc::new(table),
            next: owned.iter().map(|p| (*p, 0)).collect(),
            gained: BTreeSet::new(),
            in_hand: VecDeque::new(),
            wide,
            columns,
            standing: Checkpoint::default(),
            commits: 0,
            given_up: 0,
            undecided: 0,
            at_a_loss: false,
        };
        process.resume().await;
        process
    }

    pub fn owned(&self) -> BTreeSet<i32> {
        self.next.keys().copied().collect()
    }

    /// The group gave it a partition.
    pub fn gain(&mut self, partition: i32) {
        self.next.entry(partition).or_insert(0);
        self.gained.insert(partition);
    }

    /// The group took a partition, and it has heard of that.
    pub fn lose(&mut self, partition: i32) {
        self.next.remove(&partition);
        self.gained.remove(&partition);
        self.own();
    }

    fn own(&self) {
        self.table.own(self.next.keys().map(|p| at(*p)));
    }

    /// Does not wait for deletes of former keys any more.
    pub async fn stop_waiting(&self) {
        self.table.wait_for_former_keys(Duration::ZERO).await;
    }

    /// Goes on where the table stands.
    pub async fn resume(&mut self) {
        self.gained = self.owned();
        while let Some(parts) = self.in_hand.pop_front() {
            self.table.discard(parts).await;
        }
        self.take_positions().await;
        // It reads anew: its records ask for their columns again.
        self.columns = agreed(&self.table, self.wide).await;
    }

    async fn take_positions(&mut self) {
        self.own();
        for _ in 0..INSISTENCE {
            match self.table.checkpoint().await {
                Ok(standing) => {
                    let gained = self.gained.iter().map(|p| at(*p));
                    self.table.reads_from(gained, standing.as_ref());
                    self.standing = standing.unwrap_or_default();
                    for partition in std::mem::take(&mut self.gained) {
                        self.next.insert(partition, self.standing.next(&at(partition)).unwrap_or(0));
                    }
                    self.at_a_loss = false;
                    return;
                }
                Err(LakeError::Unclear { .. }) => {
                    self.at_a_loss = true;
                    return;
                }
                Err(e) if e.is_transient() => {}
                Err(e) => panic!("{} can't tell where the table stands: {e}", self.who),
            }
        }
        panic!("{} could not load the table", self.who);
    }

    /// Reads, stages, commits.
    pub async fn work(mut self, work: Work) -> Self {
        if self.at_a_loss || !self.gained.is_empty() {
            self.take_positions().await;
        }
        if self.at_a_loss {
            return self;
        }
        for reads in &work.batches {
            self.stage(&work.kafka, reads, work.apart).await;
        }
        while let Some(parts) = self.in_hand.pop_front() {
            if !self.commit(parts).await {
                break;
            }
        }
        self
    }

    /// On a thread of its own, as a worker does.
    async fn stage(&mut self, kafka: &Kafka, reads: &Reads, apart: bool) {
        let mut by_partition = vec![];
        for (partition, pieces) in reads {
            let Some(from) = self.next.get(partition).copied() else { continue };
            if from < kafka.logs[partition].start {
                // The broker has no such offset any more: another process went on, and the table knows.
                self.gained.insert(*partition);
                continue;
            }
            let mut next = from;
            let mut read = vec![];
            for most in pieces {
                let (records, then) = kafka.read(*partition, next, *most, &self.standing);
                next = then;
                read.push(records);
            }
            self.next.insert(*partition, next);
            let partition_count = Some(kafka.partitions().end);
            by_partition.push((Span { partition_count, ..Span::new(at(*partition), from, next) }, read));
        }
        if by_partition.is_empty() {
            return;
        }
        let workers: Vec<_> = match apart {
            true => by_partition.into_iter().map(|one| vec![one]).collect(),
            false => vec![by_partition],
        };
        // Each draws an id, in this order.
        let workers: Vec<_> =
            workers.into_iter().map(|worker| (self.table.stager_for(&self.columns).unwrap(), worker)).collect();
        let wide = self.wide;
        let staging = tokio::task::spawn_blocking(move || {
            let mut parts = vec![];
            for (mut stager, worker) in workers {
                let mut spans = vec![];
                for (span, pieces) in worker {
                    pieces.iter().for_each(|records| write(&mut stager, span.at.partition, records, wide));
                    spans.push(span);
                }
                parts.extend(stager.close(spans));
            }
            parts
        });
        let parts = surroundings::joined(staging).await.unwrap();
        if !parts.is_empty() {
            self.in_hand.push_back(parts);
        }
    }

    /// Whether the next may follow.
    async fn commit(&mut self, parts: Vec<Staged>) -> bool {
        let spans: Vec<Span> = parts.iter().flat_map(|p| p.spans().to_vec()).collect();
        match self.table.commit(parts).await {
            Ok(done) => {
                self.commits += 1;
                for span in spans {
                    let next = done.checkpoint.next(&span.at);
                    assert!(next >= Some(span.next), "committed {span:?}, and the checkpoint says {next:?}");
                }
                self.standing = done.checkpoint;
                true
            }
            Err(CommitFailure::Undecided(parts, _)) => {
                self.undecided += 1;
                self.in_hand.push_front(parts);
                false
            }
            Err(failure) => {
                self.given_up += 1;
                match failure {
                    CommitFailure::SchemaMoved(parts) => self.table.discard(parts).await,
                    CommitFailure::Failed(e) if !e.is_transient() && !matches!(e, LakeError::Unclear { .. }) => {
                        panic!("{} can't commit: {e}", self.who)
                    }
                    _ => {}
                }
                self.resume().await;
                false
            }
        }
    }
}

async fn agreed(table: &LakeTable, wide: bool) -> TableColumns {
    insist(async || table.agree(&columns(wide), None).await).await
}

async fn insist<T>(mut what: impl AsyncFnMut() -> Result<T, LakeError>) -> T {
    for _ in 0..INSISTENCE {
        match what().await {
            Ok(done) => return done,
            Err(e) if e.is_transient() => {}
            Err(e) => panic!("{e}"),
        }
    }
    panic!("{INSISTENCE} tries were not enough");
}
