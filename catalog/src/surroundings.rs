//! What the work takes from the machine it runs on: random ids, and the time. A simulation puts its own in their place, thread by thread.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::Utc;
use tokio::task::{JoinError, JoinHandle};
use uuid::Uuid;

thread_local! {
    static HERE: RefCell<Option<Arc<Simulated>>> = const { RefCell::new(None) };
}

/// An id that nobody else has: random.
pub fn new_id() -> Uuid {
    match here() {
        Some(simulated) => simulated.next_id(),
        None => Uuid::new_v4(),
    }
}

/// The machine's clock, in ms since 1970. It may be wrong, and may go back.
pub fn now_ms() -> i64 {
    Utc::now().timestamp_millis() + here().map_or(0, |simulated| simulated.actor().clock_error_ms)
}

/// What a thread of its own works out. By this a simulation knows that something goes on by itself.
///
/// # Errors
/// As `JoinHandle`.
pub async fn joined<T>(work: JoinHandle<T>) -> Result<T, JoinError> {
    let _busy = here().map(Busy::new);
    work.await
}

/// Lets time pass; in a simulation none does.
pub async fn sleep(time: Duration) {
    match here() {
        Some(_) => tokio::task::yield_now().await,
        None => tokio::time::sleep(time).await,
    }
}

fn here() -> Option<Arc<Simulated>> {
    HERE.with_borrow(Clone::clone)
}

/// Ids that follow from a seed, and clocks that are wrong by as much as one likes: each actor has its own, so that it doesn't matter
/// who of two is faster.
#[derive(Debug)]
pub struct Simulated {
    seed: u64,
    actor: Mutex<Actor>,
    /// Threads that are waited for.
    busy: AtomicUsize,
    /// How many ids each actor drew.
    drawn: Mutex<HashMap<u64, u64>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Actor {
    who: u64,
    clock_error_ms: i64,
}

impl Simulated {
    pub fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self { seed, actor: Mutex::default(), busy: AtomicUsize::new(0), drawn: Mutex::default() })
    }

    /// For all that this thread does from now on.
    pub fn take_over_this_thread(self: &Arc<Self>) {
        HERE.set(Some(Arc::clone(self)));
    }

    /// What happens from now on is done by `who`.
    pub fn act_as(&self, who: u64, clock_error_ms: i64) {
        *self.actor.lock().unwrap_or_else(PoisonError::into_inner) = Actor { who, clock_error_ms };
    }

    /// Whether a thread is waited for.
    pub fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed) > 0
    }

    fn actor(&self) -> Actor {
        *self.actor.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_id(&self) -> Uuid {
        let who = self.actor().who;
        let n = {
            let mut drawn = self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
            let n = drawn.entry(who).or_default();
            *n += 2;
            *n
        };
        let of_actor = mixed(self.seed ^ mixed(who)).wrapping_add(n);
        let random = (u128::from(mixed(of_actor)) << 64) | u128::from(mixed(of_actor.wrapping_add(1)));
        uuid::Builder::from_random_bytes(random.to_be_bytes()).into_uuid()
    }
}

struct Busy(Arc<Simulated>);

impl Busy {
    fn new(simulated: Arc<Simulated>) -> Self {
        simulated.busy.fetch_add(1, Ordering::Relaxed);
        Self(simulated)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

/// `SplitMix64`'s output function: neighbours become strangers.
fn mixed(n: u64) -> u64 {
    let n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn ids(simulated: &Arc<Simulated>, n: usize) -> Vec<Uuid> {
        let simulated = Arc::clone(simulated);
        let drawn = std::thread::spawn(move || {
            simulated.take_over_this_thread();
            (0..n).map(|_| new_id()).collect()
        });
        drawn.join().unwrap()
    }

    #[test]
    fn a_seed_gives_the_same_ids_and_never_one_twice() {
        let first = ids(&Simulated::new(7), 1000);
        assert_eq!(first, ids(&Simulated::new(7), 1000));
        assert_eq!(first.iter().collect::<HashSet<_>>().len(), 1000);
        assert!(ids(&Simulated::new(8), 1000).iter().all(|id| !first.contains(id)));
    }

    #[test]
    fn threads_that_were_not_taken_over_ask_the_machine() {
        assert_ne!(new_id(), new_id());
        assert!((now_ms() - Utc::now().timestamp_millis()).abs() < 60_000);
    }
}
