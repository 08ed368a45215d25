//! Seeds that nobody has tried: for a few seconds with the other tests, or until stopped.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use firn::change::Mode;
use firn_catalog::surroundings;

use super::faults::{Counts, KINDS};
use super::{number, run_or_tell};

/// Of the fresh set that runs with the other tests.
const FRESH_SECONDS: u64 = 5;
/// So many meet everything that there is to meet.
const TELLING_RUNS: u64 = 150;
const TOLD_EVERY: Duration = Duration::from_secs(10);

#[test]
fn fresh_seeds_keep_the_promises() {
    let seconds = number("FIRN_SIM_FRESH_SECONDS").unwrap_or(FRESH_SECONDS);
    soak_for(Some(Duration::from_secs(seconds)), 1, &[]);
}

#[test]
#[ignore = "`make soak` runs it, until it is stopped"]
fn soak() {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    soak_for(number("FIRN_SOAK_SECONDS").map(Duration::from_secs), threads, &KINDS);
}

/// `kinds`: what must have happened, or it was no test.
fn soak_for(time: Option<Duration>, threads: usize, kinds: &[&str]) {
    // Few digits: a seed is something to be typed.
    let base = number("FIRN_SIM_BASE").unwrap_or_else(|| surroundings::new_id().as_u64_pair().0 >> 33);
    println!("seeds from {base} on (FIRN_SIM_BASE={base} runs these again)");
    let began = Instant::now();
    let (next, failed) = (AtomicU64::new(base), AtomicBool::new(false));
    let total = Mutex::new((Counts::default(), began));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !failed.load(Ordering::Relaxed) && time.is_none_or(|time| began.elapsed() < time) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    // An append table has less to go wrong.
                    let mode = if seed % 3 == 0 { Mode::Append } else { Mode::Upsert };
                    match std::panic::catch_unwind(|| run_or_tell(seed, mode)) {
                        Ok((counts, _)) => {
                            let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
                            total.0.join(&counts);
                            if total.1.elapsed() > TOLD_EVERY {
                                total.1 = Instant::now();
                                println!("{:?}: {} runs, no violation", began.elapsed(), total.0.of("runs"));
                            }
                        }
                        Err(_) => failed.store(true, Ordering::Relaxed),
                    }
                }
            });
        }
    });
    let (counts, _) = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("after {:?}:\n{counts}", began.elapsed());
    assert!(!failed.into_inner(), "a promise was broken: see above");
    let never: Vec<&&str> = kinds.iter().filter(|kind| counts.of(kind) == 0).collect();
    assert!(counts.of("runs") < TELLING_RUNS || never.is_empty(), "never met: {never:?}");
    println!("  {:>10} violations", 0);
}
