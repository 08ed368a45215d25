//! Holds work back that takes more than it may.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use firn_catalog::storage::Pace;
use futures::future::BoxFuture;

use super::Budget;
use super::allowance::Allowance;
use super::pool::Clocks;

/// A wait is cut into pieces, so that what others take meanwhile counts.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// What was taken so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    pub cpu: Duration,
    pub bytes: u64,
    /// Time for which work was held back, each piece of work beside another counted.
    pub held: Duration,
}

impl Spent {
    /// Since `before`.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(before.cpu),
            bytes: self.bytes.saturating_sub(before.bytes),
            held: self.held.saturating_sub(before.held),
        }
    }
}

/// The allowances of all work that asks it for turns.
#[derive(Debug)]
pub struct Limiter {
    began: Instant,
    clocks: Option<Arc<Clocks>>,
    cpu: Option<Mutex<Cpu>>,
    bytes: Option<Mutex<Allowance>>,
    moved: AtomicU64,
    held_us: AtomicU64,
    unpaced: AtomicUsize,
}

#[derive(Debug)]
struct Cpu {
    allowance: Allowance,
    /// Of the pool's threads, when it was last looked at.
    seen: Duration,
}

impl Limiter {
    /// Holds nobody back.
    pub fn unbounded() -> Arc<Self> {
        Arc::new(Self::new(Budget::default(), None))
    }

    pub(super) fn new(budget: Budget, clocks: Option<Arc<Clocks>>) -> Self {
        let cpu = budget.cpu.filter(|_| clocks.is_some());
        let allowance = |rate: f64| Allowance::new(rate, Duration::ZERO);
        Self {
            began: Instant::now(),
            clocks,
            cpu: cpu.map(|cores| Mutex::new(Cpu { allowance: allowance(cores), seen: Duration::ZERO })),
            bytes: budget.bytes_per_second.map(|rate| Mutex::new(allowance(rate as f64))),
            moved: AtomicU64::new(0),
            held_us: AtomicU64::new(0),
            unpaced: AtomicUsize::new(0),
        }
    }

    /// Answers when the next piece of work may begin.
    pub async fn turn(&self) {
        self.hold(|| false).await;
    }

    async fn hold(&self, is_free: impl Fn() -> bool) {
        loop {
            let wait = self.wait();
            if wait.is_zero() || is_free() {
                return;
            }
            let wait = wait.min(LONGEST_WAIT);
            self.held_us.fetch_add(wait.as_micros() as u64, Ordering::Relaxed);
            tokio::time::sleep(wait).await;
        }
    }

    /// While it is held no call to storage waits: what is taken is owed, and waited for later. For a commit: who waits in one loses it.
    pub fn unpaced(&self) -> Unpaced<'_> {
        self.unpaced.fetch_add(1, Ordering::AcqRel);
        Unpaced(self)
    }

    pub fn spent(&self) -> Spent {
        Spent {
            cpu: self.clocks.as_ref().map_or(Duration::ZERO, |clocks| clocks.cpu()),
            bytes: self.moved.load(Ordering::Relaxed),
            held: Duration::from_micros(self.held_us.load(Ordering::Relaxed)),
        }
    }

    fn wait(&self) -> Duration {
        let now = self.began.elapsed();
        let cpu = self.cpu.as_ref().zip(self.clocks.as_ref()).map(|(cpu, clocks)| {
            let mut cpu = cpu.lock().unwrap_or_else(PoisonError::into_inner);
            let used = clocks.cpu();
            let more = used.saturating_sub(cpu.seen);
            cpu.seen = cpu.seen.max(used);
            cpu.allowance.take(more.as_secs_f64(), now);
            cpu.allowance.wait(now)
        });
        let bytes = self.bytes.as_ref().map(|bytes| bytes.lock().unwrap_or_else(PoisonError::into_inner).wait(now));
        cpu.max(bytes).unwrap_or_default()
    }
}

impl Pace for Limiter {
    fn turn(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.hold(|| self.unpaced.load(Ordering::Acquire) > 0))
    }

    fn moved(&self, bytes: u64) {
        self.moved.fetch_add(bytes, Ordering::Relaxed);
        if let Some(allowance) = &self.bytes {
            let mut allowance = allowance.lock().unwrap_or_else(PoisonError::into_inner);
            allowance.take(bytes as f64, self.began.elapsed());
        }
    }
}

/// See [`Limiter::unpaced`].
#[derive(Debug)]
pub struct Unpaced<'a>(&'a Limiter);

impl Drop for Unpaced<'_> {
    fn drop(&mut self) {
        self.0.unpaced.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_are_held_back_and_counted() {
        let limiter = Limiter::new(Budget { bytes_per_second: Some(100_000), ..Budget::default() }, None);
        for _ in 0..6 {
            limiter.turn().await;
            limiter.moved(10_000);
        }
        limiter.turn().await;
        // A slow machine only takes longer.
        let (spent, took) = (limiter.spent(), limiter.began.elapsed());
        assert_eq!(spent.bytes, 60_000);
        assert!(took >= Duration::from_millis(590), "{took:?}");
        assert!(spent.held > Duration::ZERO && spent.held <= took, "{spent:?}");
    }

    #[tokio::test]
    async fn a_commit_does_not_wait_and_what_it_took_is_owed() {
        let limiter = Limiter::new(Budget { bytes_per_second: Some(1_000), ..Budget::default() }, None);
        {
            let _commit = limiter.unpaced();
            limiter.moved(3_600_000);
            Pace::turn(&limiter).await;
            let other = std::pin::pin!(limiter.turn());
            assert!(futures::poll!(other).is_pending(), "the work beside it waits");
        }
        assert!(limiter.wait() > Duration::from_secs(3_500));
    }

    #[tokio::test]
    async fn without_a_bound_nobody_waits() {
        let limiter = Limiter::unbounded();
        limiter.moved(u64::MAX / 2);
        limiter.turn().await;
        assert_eq!(limiter.spent(), Spent { bytes: u64::MAX / 2, ..Spent::default() });
    }
}
