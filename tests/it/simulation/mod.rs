//! Several processes write one log into one table while everything goes wrong that may, under a scheduler that a seed rules. After each
//! step the promises of `docs/design.md` are checked; in the end the table must equal the fold of the log. See `docs/simulation.md`.
//!
//! `FIRN_SIM_SEEDS=5000` runs more seeds, `FIRN_SIM_SEED=17` one, `FIRN_SIM_TRACE=1` tells what happens.

mod checks;
mod faults;
mod indexes;
mod process;
mod rows;
mod scheduler;
mod soak;
mod source;
mod world;
mod writers;

use firn::change::Mode;

use faults::Counts;
use world::World;

/// One run: what was done in it, and the number that its journal comes to.
fn run(seed: u64, mode: Mode) -> (Counts, u64) {
    let mut world = World::new(seed, mode, std::env::var("FIRN_SIM_TRACE").is_ok());
    world.run();
    (world.counts.clone(), world.journal())
}

/// As [`run`], and where it fails it says how it is run again.
fn run_or_tell(seed: u64, mode: Mode) -> (Counts, u64) {
    std::panic::catch_unwind(|| run(seed, mode)).unwrap_or_else(|panic| {
        eprintln!(
            "seed {seed} fails in mode {mode:?}. Again: FIRN_SIM_SEED={seed} FIRN_SIM_TRACE=1 cargo test --workspace --features \
             demo --test it -- --nocapture {}",
            match mode {
                Mode::Upsert => "an_upsert_table_equals",
                Mode::Append => "an_append_table_has",
            }
        );
        std::panic::resume_unwind(panic)
    })
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|n| n.parse().ok())
}

fn seeds(mode: Mode, default: u64) {
    let seeds = match number("FIRN_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("FIRN_SIM_SEEDS").unwrap_or(default),
    };
    for seed in seeds {
        run_or_tell(seed, mode);
    }
}

#[test]
fn an_upsert_table_equals_the_fold_of_the_log_whatever_goes_wrong() {
    seeds(Mode::Upsert, 5);
}

#[test]
fn an_append_table_has_every_change_once_whatever_goes_wrong() {
    seeds(Mode::Append, 3);
}

#[test]
fn a_seed_gives_the_same_run_again() {
    for seed in 0..number("FIRN_SIM_AGAIN").unwrap_or(1) {
        for mode in [Mode::Upsert, Mode::Append] {
            assert!(run_or_tell(seed, mode) == run_or_tell(seed, mode), "seed {seed} in mode {mode:?} ran in two ways");
        }
    }
}
