//! The world of one run: the topic, the group's assignment, the processes, and everybody else who writes to the table.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use firn::change::Mode;
use firn::sink::lake::{CHECKPOINT, TableSpec};
use firn_catalog::commit::LAST_SNAPSHOT_ID;
use firn_catalog::memory::MemoryCatalog;
use firn_catalog::storage::fault::{Effect, Fault, Faults, Op};
use firn_catalog::surroundings::Simulated;
use firn_catalog::{Catalog, ErrorKind};
use iceberg::spec::TableMetadata;
use iceberg::table::Table;
use iceberg::{TableIdent, TableUpdate};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tokio::runtime::Runtime;

use super::checks::{Others, check};
use super::faults::{Counts, Place, inject, settle};
use super::indexes::Indexes;
use super::process::{Process, Reads, Setting, Work};
use super::scheduler::{ActorId, End, Job, Scheduler};
use super::source::{Kafka, PARTITIONS, TOPIC, at};
use super::writers::{Errand, Foreign};
use crate::foreign;

const STEPS: usize = 14;
/// Rounds in which all must be read to the end once nothing fails any more.
const LAST_ROUNDS: usize = 60;
/// As good as for ever: the tests' clock is not a simulated one.
const LONG: Duration = Duration::from_secs(3600);

/// What came of a job.
enum Done {
    Process(Box<Process>),
    Foreign(Foreign),
}

/// A process that the group knows, and what it was given.
struct Member {
    assigned: BTreeSet<i32>,
    /// `None` while it is down.
    process: Option<Box<Process>>,
}

pub struct World {
    rng: StdRng,
    scheduler: Scheduler,
    /// As it is, without faults.
    catalog: MemoryCatalog,
    spec: TableSpec,
    ident: TableIdent,
    kafka: Arc<Kafka>,
    members: Vec<Member>,
    /// Taken from a member that has not heard of it.
    revoked: Vec<(usize, i32)>,
    /// Stopped with work in hand, and replaced.
    zombies: Vec<Process>,
    frozen: Vec<(ActorId, Job<Done>)>,
    views: BTreeMap<ActorId, MemoryCatalog>,
    indexes: Indexes,
    others: Others,
    former_key_wait: Duration,
    clocks_are_right: bool,
    pub counts: Counts,
    trace: bool,
    /// Metadata files of the table that were looked into.
    versions: usize,
    /// Last, so that it goes when nobody waits for its threads any more.
    runtime: Runtime,
}

/// A moment of the machine's clock within whose millisecond nothing was done, and nothing will be: what lies before it and what comes
/// after it is so in every run.
fn next_tick_ms() -> i64 {
    let next = |after: i64| loop {
        let now = Utc::now().timestamp_millis();
        if now > after {
            break now;
        }
        std::thread::yield_now();
    };
    let tick = next(Utc::now().timestamp_millis());
    next(tick);
    tick
}

macro_rules! trace {
    ($world:expr, $($text:tt)*) => { if $world.trace { println!($($text)*); } };
}

impl World {
    pub fn new(seed: u64, mode: Mode, trace: bool) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let surroundings = Simulated::new(seed);
        surroundings.take_over_this_thread();
        let scheduler = Scheduler::new(seed, Arc::clone(&surroundings), trace);
        let idle = scheduler.clone();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .on_thread_start(move || surroundings.take_over_this_thread())
            .on_thread_park(move || idle.idle())
            .build()
            .unwrap();
        let truncates = if mode == Mode::Upsert { rng.random_range(0..4) } else { 0 };
        let grows = rng.random_bool(0.3);
        let kafka = Kafka::new(&mut rng, truncates, grows);
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
        if rng.random_bool(0.3) {
            spec.retention.max_snapshots = rng.random_range(3..8);
        }
        if rng.random_bool(0.3) {
            spec.retention.merge_manifests_above = rng.random_range(2..5);
        }
        let former_key_wait = if rng.random_bool(0.5) { Duration::ZERO } else { LONG };
        let members: usize = rng.random_range(2..=4);
        let mut world = Self {
            runtime,
            scheduler,
            catalog: MemoryCatalog::new(Faults::default()),
            ident: spec.ident().unwrap(),
            spec,
            members: (0..members).map(|_| Member { assigned: BTreeSet::new(), process: None }).collect(),
            kafka: Arc::new(kafka),
            revoked: vec![],
            zombies: vec![],
            frozen: vec![],
            views: BTreeMap::new(),
            indexes: Indexes::new(),
            others: Others::default(),
            former_key_wait,
            clocks_are_right: rng.random_bool(0.4),
            counts: Counts::default(),
            trace,
            rng,
            versions: 0,
        };
        for partition in world.kafka.partitions() {
            world.members[partition as usize % members].assigned.insert(partition);
        }
        world
    }

    /// A run from beginning to end.
    pub fn run(&mut self) {
        for n in 0..STEPS {
            trace!(self, "step {n}");
            self.step();
        }
        self.finish();
        self.counts.add("runs", 1);
        self.counts.add("truncates", self.kafka.truncates());
        self.counts.add("calls to store and catalog", self.scheduler.journal().1);
    }

    /// What happened, as a number.
    pub fn journal(&self) -> u64 {
        self.scheduler.journal().0
    }

    /// A new sight of catalog and store.
    fn enter(&mut self) -> (ActorId, MemoryCatalog) {
        let (who, turns) = self.scheduler.enter();
        let view = self.catalog.seen_with(Faults::in_turns(turns));
        self.views.insert(who, view.clone());
        (who, view)
    }

    fn chance(&mut self, p: f64) -> bool {
        self.rng.random_bool(p)
    }

    fn step(&mut self) {
        self.counts.add("steps", 1);
        let nothing_is_in_hand = self.nothing_is_in_hand();
        self.rebalance();
        self.stop_some();
        let mut jobs = vec![];
        for slot in 0..self.members.len() {
            if self.members[slot].process.is_none() || self.chance(0.6) {
                jobs.push(self.job_of(slot, 6));
            }
        }
        if !self.zombies.is_empty() && self.chance(0.3) {
            let n = self.rng.random_range(0..self.zombies.len());
            let zombie = Box::new(self.zombies.swap_remove(n));
            trace!(self, "  the zombie {} wakes", zombie.who);
            self.counts.add("zombies woken", 1);
            jobs.push(self.work(zombie, 4));
        }
        if !self.frozen.is_empty() && self.chance(0.3) {
            let n = self.rng.random_range(0..self.frozen.len());
            let (who, job) = self.frozen.swap_remove(n);
            trace!(self, "  {who} goes on in the midst of its work");
            self.counts.add("frozen writers that went on", 1);
            jobs.push((who, job));
        }
        for (who, _) in &jobs {
            self.inject(*who);
        }
        while self.chance(0.35) {
            jobs.push(self.foreign_job(nothing_is_in_hand));
        }
        self.play(jobs);
        if self.chance(0.6) {
            self.runtime.block_on(self.scheduler.rest());
        }
        self.check(false);
    }

    fn inject(&mut self, who: ActorId) {
        let view = self.views[&who].clone();
        let place = Place { scheduler: &self.scheduler, view: &view, clocks_are_right: self.clocks_are_right };
        inject(&mut self.rng, who, &place, &mut self.counts);
        if self.chance(0.08) {
            self.scheduler.kill_in(who, self.rng.random_range(0..80));
        } else if self.chance(0.08) {
            self.scheduler.freeze_in(who, self.rng.random_range(0..80));
        }
    }

    /// Runs the jobs and takes in what came of them.
    fn play(&mut self, jobs: Vec<(ActorId, Job<Done>)>) {
        for (who, end) in self.runtime.block_on(self.scheduler.run(jobs)) {
            settle(&self.views[&who], &mut self.counts);
            self.scheduler.spare(who);
            match end {
                End::Done(Done::Process(process)) => self.back(process),
                End::Done(Done::Foreign(done)) => self.take_in(done),
                End::Killed => self.counts.add("kills", 1),
                End::Frozen(job) => {
                    self.counts.add("writers frozen in mid-commit", 1);
                    self.frozen.push((who, job));
                }
            }
        }
    }

    /// A process has done its work: it is its slot's, if nobody took its place.
    fn back(&mut self, mut process: Box<Process>) {
        self.counts.add("commits", std::mem::take(&mut process.commits));
        self.counts.add("batches given up", std::mem::take(&mut process.given_up));
        self.counts.add("undecided commits", std::mem::take(&mut process.undecided));
        if process.at_a_loss {
            self.repair();
        }
        let slot = process.slot;
        if process.is_member && self.members[slot].process.is_none() {
            let (has, assigned) = (process.owned(), &self.members[slot].assigned);
            assigned.difference(&has).for_each(|p| process.gain(*p));
            self.revoked.retain(|(of, _)| *of != slot);
            self.revoked.extend(has.difference(assigned).map(|p| (slot, *p)));
            self.members[slot].process = Some(process);
        } else if !process.in_hand.is_empty() {
            process.is_member = false;
            self.zombies.push(*process);
        }
    }

    /// The work of the process in this slot, which is started if there is none.
    fn job_of(&mut self, slot: usize, most: usize) -> (ActorId, Job<Done>) {
        if let Some(process) = self.members[slot].process.take() {
            return self.work(process, most);
        }
        let (who, view) = self.enter();
        let wide = self.chance(0.1);
        let assigned = self.members[slot].assigned.clone();
        let shared = self.indexes.for_a_start(slot, &mut self.rng, &mut self.counts);
        let setting = Setting { spec: self.spec.clone(), shared, wide, former_key_wait: self.former_key_wait };
        self.revoked.retain(|(of, _)| *of != slot);
        trace!(self, "  {who} starts with {assigned:?}");
        let work = self.plan(assigned.iter().copied(), most);
        let job = async move {
            let process = Process::start(who, slot, view, setting, assigned).await;
            Done::Process(Box::new(process.work(work).await))
        };
        (who, Box::pin(job))
    }

    fn work(&mut self, process: Box<Process>, most: usize) -> (ActorId, Job<Done>) {
        let work = match process.is_member {
            true => self.plan(process.next.keys().copied(), most),
            // It wakes with what it has, and then hears that its time is over.
            false => Work { batches: vec![], apart: false, kafka: Arc::clone(&self.kafka) },
        };
        (process.who, Box::pin(async move { Done::Process(Box::new(process.work(work).await)) }))
    }

    fn plan(&mut self, partitions: impl Iterator<Item = i32>, most: usize) -> Work {
        let partitions: Vec<i32> = partitions.collect();
        let batches = if self.chance(0.25) { 2 } else { 1 };
        let rng = &mut self.rng;
        let mut pieces = |_| (0..rng.random_range(1..=2)).map(|_| rng.random_range(0..=most)).collect();
        let mut reads = || partitions.iter().map(|p| (*p, pieces(*p))).collect::<Reads>();
        let batches = (0..batches).map(|_| reads()).collect();
        Work { batches, apart: self.chance(0.4), kafka: Arc::clone(&self.kafka) }
    }

    /// The group gives partitions to others: who gets one reads at once, who loses one hears of it now or later.
    fn rebalance(&mut self) {
        if !self.kafka.grown && self.chance(0.15) && self.may_grow() {
            let before = self.kafka.partitions().end;
            Arc::make_mut(&mut self.kafka).grown = true;
            self.counts.add("partitions added", (PARTITIONS - before) as u64);
            for partition in before..PARTITIONS {
                let slot = self.rng.random_range(0..self.members.len());
                self.assign(slot, partition);
            }
        }
        if self.chance(0.2) {
            self.counts.add("rebalances", 1);
            for _ in 0..self.rng.random_range(1..=2) {
                let partition = *self.kafka.partitions().collect::<Vec<_>>().choose(&mut self.rng).unwrap();
                let from = self.members.iter().position(|m| m.assigned.contains(&partition)).unwrap();
                let to = self.rng.random_range(0..self.members.len());
                if from != to {
                    trace!(self, "  partition {partition} moves from member {from} to {to}");
                    self.members[from].assigned.remove(&partition);
                    self.revoked.push((from, partition));
                    self.assign(to, partition);
                }
            }
        }
        for (slot, partition) in std::mem::take(&mut self.revoked) {
            if self.chance(0.4) {
                if let Some(process) = &mut self.members[slot].process {
                    process.lose(partition);
                }
            } else {
                self.counts.add("steps with a partition owned twice", 1);
                self.revoked.push((slot, partition));
            }
        }
    }

    /// What was added before the first commit nobody can tell from what was always there.
    fn may_grow(&mut self) -> bool {
        self.load().is_some_and(|table| self.others.history.covered(&table).topics.contains_key(TOPIC))
    }

    fn assign(&mut self, slot: usize, partition: i32) {
        self.revoked.retain(|revoked| *revoked != (slot, partition));
        self.members[slot].assigned.insert(partition);
        if let Some(process) = &mut self.members[slot].process {
            process.gain(partition);
        }
    }

    /// Some are killed between two steps, or stopped with work in hand; another takes the place.
    fn stop_some(&mut self) {
        for slot in 0..self.members.len() {
            if self.chance(0.06)
                && let Some(mut process) = self.members[slot].process.take()
            {
                if self.chance(0.4) || process.in_hand.is_empty() {
                    trace!(self, "  {} is killed", process.who);
                    self.counts.add("kills", 1);
                } else {
                    trace!(self, "  {} is stopped", process.who);
                    self.counts.add("zombies", 1);
                    process.is_member = false;
                    self.zombies.push(*process);
                }
            }
        }
    }

    fn foreign_job(&mut self, nothing_is_in_hand: bool) -> (ActorId, Job<Done>) {
        let (who, view) = self.enter();
        let ident = self.ident.clone();
        let errand = match nothing_is_in_hand && self.chance(0.2) {
            // Files that come later may be in nobody's table yet.
            true => Errand::RemoveOrphans { old: self.runtime.block_on(foreign::stored(&self.catalog, &ident)) },
            // firn's own may know nothing of what others have in hand, but of clocks that are days off it doesn't hold.
            false if self.clocks_are_right && self.chance(0.2) => Errand::MaintainOrphans { before_ms: next_tick_ms() },
            false => Errand::draw(&mut self.rng, self.spec.mode, who),
        };
        self.others.expires |= matches!(errand, Errand::Expire { .. });
        if matches!(errand, Errand::RemoveOrphans { .. }) && self.chance(0.4) {
            let effect = if self.chance(0.5) { Effect::LoseAnswer } else { Effect::Stale };
            view.faults().add(Fault::on([Op::List], effect));
        }
        trace!(self, "  {who} is another writer: {errand}");
        (who, Box::pin(async move { Done::Foreign(errand.run(&view, &ident).await) }))
    }

    /// Whether no file is on its way into the table.
    fn nothing_is_in_hand(&self) -> bool {
        let idle = self.members.iter().all(|m| m.process.as_ref().is_none_or(|p| p.in_hand.is_empty()));
        idle && self.zombies.is_empty() && self.frozen.is_empty()
    }

    fn take_in(&mut self, done: Foreign) {
        let kind = match done {
            Foreign::Nothing => "foreign commits that came to nothing",
            Foreign::Compacted => "foreign compactions",
            Foreign::Maintained => "compactions by firn maintain",
            Foreign::ManifestsMaintained => "manifests rewritten by firn maintain",
            Foreign::OrphansMaintained => "removals of orphans by firn maintain",
            Foreign::SnapshotsMaintained => {
                self.retain();
                "expiries by firn maintain"
            }
            Foreign::RolledBack => "foreign rollbacks",
            Foreign::OrphansRemoved => "foreign removals of orphans",
            Foreign::Deleted { snapshot_id, base, id } => {
                self.look();
                let covered = self.others.history.covered(&base);
                self.others.deletes.push((snapshot_id, id, covered));
                self.others.ever_deleted.insert(id);
                "foreign deletes"
            }
            Foreign::Appended { snapshot_id, row } => {
                self.others.rows.push((snapshot_id, row));
                "foreign appends"
            }
            Foreign::Expired => {
                self.retain();
                "foreign expiries"
            }
        };
        self.counts.add(kind, 1);
    }

    /// What no snapshot leads back to may go from the topic.
    fn retain(&mut self) {
        let Some(table) = self.load() else { return };
        let covered = self.others.history.covered_by_each(&table);
        if Arc::make_mut(&mut self.kafka).retain_from(&covered) {
            self.counts.add("log starts moved by retention", 1);
        }
    }

    /// A person reads the error, knows whether the table was rolled back, and sets the two properties that it names.
    fn repair(&mut self) {
        assert!(self.others.expires, "a history that nobody expired must tell where to go on");
        self.counts.add("histories that a person had to explain", 1);
        let table = self.load().unwrap();
        let covered = self.others.history.covered(&table);
        let current = table.metadata().current_snapshot_id().unwrap();
        let properties = [(CHECKPOINT, covered.to_json()), (LAST_SNAPSHOT_ID, current.to_string())];
        let updates = properties.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let set = TableUpdate::SetProperties { updates };
        self.runtime.block_on(self.catalog.swap(&table, &[], &[set])).unwrap();
    }

    /// Into every version of the table that is new.
    fn look(&mut self) {
        let locations = self.catalog.metadata_locations(&self.ident);
        for location in &locations[self.versions..] {
            let read = TableMetadata::read_from(self.catalog.file_io(), location);
            let metadata = self.runtime.block_on(read).unwrap_or_else(|e| panic!("{location} can't be read: {e}"));
            self.others.history.saw(&metadata);
        }
        self.versions = locations.len();
    }

    fn load(&mut self) -> Option<Table> {
        self.look();
        match self.runtime.block_on(self.catalog.load(&self.ident)) {
            Ok(table) => Some(table),
            Err(e) if e.kind() == ErrorKind::NotFound => None,
            Err(e) => panic!("the table can't be read: {e}"),
        }
    }

    fn check(&mut self, thoroughly: bool) {
        let Some(table) = self.load() else { return };
        let checked = check(&table, self.catalog.stores(), &self.kafka, &mut self.others, self.spec.mode, thoroughly);
        self.runtime.block_on(checked);
    }

    /// Nothing fails any more: everything is read to the end.
    fn finish(&mut self) {
        let mut jobs: Vec<(ActorId, Job<Done>)> = self.frozen.drain(..).collect();
        for zombie in std::mem::take(&mut self.zombies) {
            jobs.push(self.work(Box::new(zombie), 0));
        }
        self.play(jobs);
        self.check(false);
        self.zombies.clear();
        for (slot, partition) in std::mem::take(&mut self.revoked) {
            if let Some(process) = &mut self.members[slot].process {
                process.lose(partition);
            }
        }
        for round in 0..LAST_ROUNDS {
            trace!(self, "last round {round}");
            if !self.kafka.grown && self.may_grow() {
                Arc::make_mut(&mut self.kafka).grown = true;
                (self.kafka.first_count..PARTITIONS).for_each(|partition| self.assign(0, partition));
            }
            if round == LAST_ROUNDS / 2 {
                self.former_key_wait = Duration::ZERO;
                let processes = self.members.iter().filter_map(|m| m.process.as_ref());
                processes.for_each(|process| self.runtime.block_on(process.stop_waiting()));
            }
            let jobs = (0..self.members.len()).map(|slot| self.job_of(slot, 12)).collect();
            self.play(jobs);
            self.runtime.block_on(self.scheduler.rest());
            self.check(false);
            if self.all_is_read() {
                self.check(true);
                return;
            }
            // As the table has it, not as the processes think.
            for process in self.members.iter_mut().filter_map(|m| m.process.as_mut()) {
                if process.in_hand.is_empty() {
                    process.owned().into_iter().for_each(|p| process.gain(p));
                }
            }
        }
        panic!("after {LAST_ROUNDS} rounds without a fault the log is not read to its end:\n{}", self.standing());
    }

    /// Where table, log and processes stand.
    fn standing(&mut self) -> String {
        let table = self.load();
        let covered = table.map(|table| self.others.history.covered(&table)).unwrap_or_default();
        let logs = self.kafka.logs.iter().map(|(partition, log)| {
            let (from, to) = (log.start, log.records.last().map_or(0, |last| last.offset + 1));
            format!("partition {partition}: {from}..{to}, the table at {:?}\n", covered.next(&at(*partition)))
        });
        let members = self.members.iter().enumerate().map(|(slot, member)| match &member.process {
            Some(p) => format!("member {slot} {:?}: {} reads {:?}\n", member.assigned, p.who, p.next),
            None => format!("member {slot} {:?}: down\n", member.assigned),
        });
        logs.chain(members).collect()
    }

    fn all_is_read(&mut self) -> bool {
        let Some(table) = self.load() else { return false };
        let covered = self.others.history.covered(&table);
        let idle = self.members.iter().all(|m| m.process.as_ref().is_some_and(|p| p.in_hand.is_empty()));
        idle && self.kafka.grown
            && self.kafka.logs.iter().all(|(p, log)| !log.has_more(covered.next(&at(*p)).unwrap_or(0)))
    }
}
