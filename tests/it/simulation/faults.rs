//! What goes wrong for a process in one step, and how often it did.

use std::collections::BTreeMap;

use firn_catalog::ErrorKind;
use firn_catalog::memory::MemoryCatalog;
use firn_catalog::storage::fault::{Effect, Fault, Op as Call};
use rand::Rng;
use rand::rngs::StdRng;

use super::scheduler::{ActorId, Scheduler};

/// What was done, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts(BTreeMap<&'static str, u64>);

impl Counts {
    pub fn add(&mut self, what: &'static str, times: u64) {
        *self.0.entry(what).or_default() += times;
    }

    pub fn join(&mut self, other: &Counts) {
        other.0.iter().for_each(|(what, times)| self.add(what, *times));
    }

    pub fn of(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or(0)
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|(what, times)| writeln!(f, "  {times:>10} {what}"))
    }
}

const HOUR_MS: i64 = 3_600_000;

/// Where something may go wrong.
pub struct Place<'a> {
    pub scheduler: &'a Scheduler,
    pub view: &'a MemoryCatalog,
    pub clocks_are_right: bool,
}

/// Something goes wrong for `who` from now on, mostly.
pub fn inject(rng: &mut StdRng, who: ActorId, place: &Place<'_>, counts: &mut Counts) {
    let unavailable = Effect::Fail(ErrorKind::Unavailable);
    let fault = match rng.random_range(0..17) {
        0 => Fault::on([Call::Swap], Effect::Fail(ErrorKind::Conflict)),
        1 | 2 => Fault::on([Call::Swap], Effect::LoseAnswer).times(rng.random_range(1..=5)),
        3 => Fault::on([Call::Swap], unavailable).times(rng.random_range(1..=5)),
        4 => Fault::on([Call::Load], unavailable).times(rng.random_range(1..=6)),
        5 => Fault::on([Call::Load], Effect::Stale).times(rng.random_range(1..=3)),
        6 => Fault::on([], unavailable).skip(rng.random_range(0..30)),
        7 => Fault::on([Call::Put], Effect::LoseAnswer).skip(rng.random_range(0..6)),
        8 => Fault::on([Call::Swap], Effect::FailAfter(ErrorKind::Conflict)),
        9 => Fault::on([Call::Get], Effect::LoseAnswer).skip(rng.random_range(0..12)),
        10 => Fault::on([Call::Delete], unavailable).times(3),
        11 => {
            place.scheduler.slow_down(who, rng.random_range(5..60));
            return counts.add("slow answers", 1);
        }
        12 if place.clocks_are_right => return,
        12 => {
            let error_ms = [-72 * HOUR_MS, -HOUR_MS, -90_000, 0, 90_000, HOUR_MS, 72 * HOUR_MS];
            place.scheduler.set_clock_error_ms(who, error_ms[rng.random_range(0..error_ms.len())]);
            return counts.add("clock jumps", 1);
        }
        _ => return,
    };
    place.view.faults().add(fault);
    if rng.random_bool(0.3) {
        inject(rng, who, place, counts);
    }
}

/// The faults that were met since the last time.
pub fn settle(world: &MemoryCatalog, counts: &mut Counts) {
    world.faults().clear();
    for call in world.faults().take_calls() {
        match call.hit {
            None => {}
            Some(Effect::Fail(ErrorKind::Conflict)) => counts.add("refused before", 1),
            Some(Effect::Fail(_)) => counts.add("failed before", 1),
            Some(Effect::Stale | Effect::LoseAnswer) if call.op == Call::List => counts.add("partial lists", 1),
            Some(Effect::LoseAnswer) if call.op == Call::Get => counts.add("lost answers of reads", 1),
            Some(Effect::LoseAnswer) => counts.add("done, answer lost", 1),
            Some(Effect::FailAfter(_)) => counts.add("done, answered as refused", 1),
            Some(Effect::Stale) => counts.add("stale loads", 1),
            Some(Effect::Delay(_) | Effect::Hold(_)) => counts.add("held", 1),
        }
    }
}

/// What every soak of some length must have met.
pub const KINDS: [&str; 36] = [
    "batches given up",
    "clock jumps",
    "commits",
    "compactions by firn maintain",
    "done, answer lost",
    "done, answered as refused",
    "expiries by firn maintain",
    "failed before",
    "foreign appends",
    "foreign compactions",
    "foreign deletes",
    "foreign expiries",
    "foreign removals of orphans",
    "foreign rollbacks",
    "frozen writers that went on",
    "histories that a person had to explain",
    "indexes kept over a restart",
    "indexes lost",
    "indexes older than their table",
    "kills",
    "log starts moved by retention",
    "lost answers of reads",
    "manifests rewritten by firn maintain",
    "partial lists",
    "partitions added",
    "rebalances",
    "refused before",
    "removals of orphans by firn maintain",
    "slow answers",
    "stale loads",
    "steps with a partition owned twice",
    "truncates",
    "undecided commits",
    "writers frozen in mid-commit",
    "zombies",
    "zombies woken",
];
