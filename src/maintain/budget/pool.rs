//! Threads of low priority whose CPU time is known.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::ThreadId;
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinHandle;

use super::{Budget, Limiter};

/// Beside those that encode: a few for files of the local disk.
const SPARE_BLOCKING: usize = 4;
/// As `nice -n 10`: a tenth of what a thread of the writer gets where both want the same core.
const NICE: libc::c_int = 10;

/// A runtime of its own. Everything that is to be counted runs on it, with clients that were made on it.
#[derive(Debug)]
pub struct Pool {
    /// `None` once dropped.
    runtime: Option<Runtime>,
    handle: Handle,
    limiter: Arc<Limiter>,
}

impl Pool {
    /// For `parallel` groups of files at once.
    ///
    /// # Errors
    /// When the system refuses threads.
    pub fn new(budget: Budget, parallel: usize) -> std::io::Result<Self> {
        let clocks = Arc::new(Clocks::default());
        let (begins, ends) = (Arc::clone(&clocks), Arc::clone(&clocks));
        let runtime = Builder::new_multi_thread()
            .worker_threads(parallel.max(1))
            .max_blocking_threads(parallel.max(1) + SPARE_BLOCKING)
            .thread_name("firn-maintain")
            .on_thread_start(move || {
                sys::step_back();
                begins.begin();
            })
            .on_thread_stop(move || ends.end())
            .enable_all()
            .build()?;
        let limiter = Arc::new(Limiter::new(budget, Some(clocks)));
        Ok(Self { handle: runtime.handle().clone(), runtime: Some(runtime), limiter })
    }

    pub fn limiter(&self) -> Arc<Limiter> {
        Arc::clone(&self.limiter)
    }

    /// Runs it on the pool.
    pub fn spawn<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        self.handle.spawn(work)
    }
}

impl Drop for Pool {
    /// What is under way ends where it is: nobody waits for it.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// The CPU clocks of a pool's threads.
#[derive(Debug, Default)]
pub(super) struct Clocks(Mutex<Threads>);

#[derive(Debug, Default)]
struct Threads {
    running: HashMap<ThreadId, sys::Clock>,
    /// Of threads that ended.
    ended: Duration,
}

impl Clocks {
    /// Of the calling thread, which has just begun.
    fn begin(&self) {
        if let Some(clock) = sys::own_clock() {
            self.threads().running.insert(std::thread::current().id(), clock);
        }
    }

    /// The calling thread ends.
    fn end(&self) {
        let mut threads = self.threads();
        if let Some(clock) = threads.running.remove(&std::thread::current().id()) {
            threads.ended += sys::read(clock);
        }
    }

    /// What all of them took so far.
    pub(super) fn cpu(&self) -> Duration {
        let threads = self.threads();
        threads.running.values().map(|clock| sys::read(*clock)).sum::<Duration>() + threads.ended
    }

    fn threads(&self) -> std::sync::MutexGuard<'_, Threads> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(target_os = "linux")]
#[allow(unsafe_code)] // the standard library has no calls for clocks and priorities of threads
mod sys {
    use std::time::Duration;

    pub(super) type Clock = libc::clockid_t;

    /// The clock of the calling thread's CPU time, for any thread to read as long as this one runs.
    pub(super) fn own_clock() -> Option<Clock> {
        let mut clock: Clock = 0;
        // SAFETY: the thread that asks is alive; the clock's number is written to a plain integer that outlives the call.
        let answered = unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &raw mut clock) } == 0;
        answered.then_some(clock)
    }

    /// Zero where the thread is gone.
    pub(super) fn read(clock: Clock) -> Duration {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the kernel fills a plain struct that outlives the call; a clock that is gone is an error.
        let answered = unsafe { libc::clock_gettime(clock, &raw mut time) } == 0;
        match answered {
            true => Duration::new(time.tv_sec.max(0) as u64, time.tv_nsec.clamp(0, 999_999_999) as u32),
            false => Duration::ZERO,
        }
    }

    /// Where the system refuses, the thread goes on as it is.
    pub(super) fn step_back() {
        let batch = libc::sched_param { sched_priority: 0 };
        // SAFETY: both concern the calling thread alone (0) and read plain values.
        let refused = unsafe {
            libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const batch) != 0
                || libc::setpriority(libc::PRIO_PROCESS, 0, super::NICE) != 0
        };
        if refused {
            tracing::debug!("a maintenance thread keeps its priority: {}", std::io::Error::last_os_error());
        }
    }
}

/// Other systems have no such clock that another thread can read: there CPU is not bounded.
#[cfg(not(target_os = "linux"))]
mod sys {
    use std::time::Duration;

    pub(super) type Clock = ();

    pub(super) fn own_clock() -> Option<Clock> {
        None
    }

    pub(super) fn read(_: Clock) -> Duration {
        Duration::ZERO
    }

    pub(super) fn step_back() {
        tracing::debug!(nice = super::NICE, "priorities of threads are not set on this system");
    }
}

#[cfg(all(test, target_os = "linux"))]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// Keeps a core busy until this thread has taken so much of it.
    fn burn(cpu: Duration) {
        let clock = sys::own_clock().unwrap();
        let until = sys::read(clock) + cpu;
        while sys::read(clock) < until {
            std::hint::spin_loop();
        }
    }

    #[tokio::test]
    async fn what_runs_on_the_pool_is_counted_wherever_it_runs() {
        let pool = Pool::new(Budget::default(), 2).unwrap();
        let limiter = pool.limiter();
        let task = pool.spawn(async {
            burn(Duration::from_millis(30));
            tokio::task::spawn_blocking(|| burn(Duration::from_millis(30))).await.unwrap();
        });
        task.await.unwrap();
        let counted = limiter.spent().cpu;
        assert!(counted >= Duration::from_millis(60), "{counted:?}");
        burn(Duration::from_millis(40));
        assert!(limiter.spent().cpu < counted + Duration::from_millis(30), "this thread is none of the pool's");
    }

    #[tokio::test]
    async fn the_pool_stays_below_its_share() {
        let pool = Pool::new(Budget { cpu: Some(0.25), ..Budget::default() }, 2).unwrap();
        let limiter = pool.limiter();
        let began = Instant::now();
        let lane = || {
            let limiter = Arc::clone(&limiter);
            async move {
                for _ in 0..10 {
                    limiter.turn().await;
                    tokio::task::spawn_blocking(|| burn(Duration::from_millis(10))).await.unwrap();
                }
                limiter.turn().await;
            }
        };
        let lanes = [pool.spawn(lane()), pool.spawn(lane())];
        for lane in lanes {
            lane.await.unwrap();
        }
        // 200 ms of CPU: on a slow machine they take longer, never shorter.
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(740), "{took:?}");
    }

    #[tokio::test]
    async fn its_threads_give_way() {
        let pool = Pool::new(Budget::default(), 1).unwrap();
        #[allow(unsafe_code)]
        let nice = || {
            // SAFETY: reads a number of the calling thread.
            unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }
        };
        let before = nice();
        assert_eq!(pool.spawn(async move { nice() }).await.unwrap(), before.max(NICE));
        assert_eq!(nice(), before, "no other thread does");
    }
}
