//! Who goes on. Every call to the store or the catalog waits for its turn, before it is made and before its answer is given. Once
//! nothing can go on without a call, the seed says whose is next, and which of them. So actors interleave at every call, one at a time,
//! and a seed gives the same order again, however fast the machine is.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use firn_catalog::storage::fault::{Moment, Op, Turns};
use firn_catalog::surroundings::Simulated;
use futures::future::{BoxFuture, LocalBoxFuture};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Far beyond what a step takes on a machine that has better things to do.
const STANDSTILL: Duration = Duration::from_secs(120);

/// Whoever makes calls: one life of a process, or another writer.
pub type ActorId = usize;

/// What an actor does.
pub type Job<T> = LocalBoxFuture<'static, T>;

/// How a job ended.
pub enum End<T> {
    Done(T),
    /// It was killed, and all that it had in memory is gone.
    Killed,
    /// It stands still in the midst of what it was doing, and may go on much later.
    Frozen(Job<T>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Alive,
    Dead,
    Frozen,
}

#[derive(Debug)]
struct Actor {
    life: Life,
    /// Calls until that happens.
    fate: Option<(u32, Life)>,
    /// Turns that it lets pass.
    slow: u32,
    clock_error_ms: i64,
}

/// A call that waits for its turn.
#[derive(Debug)]
struct Waiting {
    who: ActorId,
    moment: Moment,
    op: Op,
    path: String,
    waker: Waker,
    granted: bool,
}

/// Whose calls are granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Nobody's: the world looks at what there is.
    Still,
    /// Those of actors with something to do.
    Running,
    /// Whoever lives, until nobody waits any more.
    Resting,
}

#[derive(Debug)]
struct State {
    rng: StdRng,
    actors: Vec<Actor>,
    /// Those with something to do.
    running: BTreeSet<ActorId>,
    /// Whose call was the last.
    turn: Option<ActorId>,
    mode: Mode,
    /// By their number.
    waiting: BTreeMap<u64, Waiting>,
    next_number: u64,
    /// Who runs the actors, or waits for them to rest.
    runner: Option<Waker>,
    journal: DefaultHasher,
    calls: u64,
    surroundings: Arc<Simulated>,
    trace: bool,
}

#[derive(Clone, Debug)]
pub struct Scheduler {
    state: Arc<Mutex<State>>,
}

/// An actor's place in the queue.
#[derive(Debug)]
struct Place {
    scheduler: Scheduler,
    who: ActorId,
}

impl Turns for Place {
    fn turn(&self, moment: Moment, op: Op, path: &str) -> BoxFuture<'static, ()> {
        let (scheduler, who, path) = (self.scheduler.clone(), self.who, path.to_owned());
        Box::pin(Passage { scheduler, who, moment, op, path, number: None })
    }
}

/// Ends when the call is granted.
struct Passage {
    scheduler: Scheduler,
    who: ActorId,
    moment: Moment,
    op: Op,
    path: String,
    /// Its number among those that wait.
    number: Option<u64>,
}

impl Future for Passage {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let scheduler = self.scheduler.clone();
        let mut state = scheduler.state();
        let number = *self.number.get_or_insert_with(|| {
            state.next_number += 1;
            state.next_number
        });
        let (who, moment, op) = (self.who, self.moment, self.op);
        let call = state.waiting.entry(number).or_insert_with(|| Waiting {
            who,
            moment,
            op,
            path: self.path.clone(),
            waker: cx.waker().clone(),
            granted: false,
        });
        if call.granted {
            return Poll::Ready(());
        }
        call.waker.clone_from(cx.waker());
        Poll::Pending
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.scheduler.state().waiting.remove(&number);
        }
    }
}

impl Scheduler {
    pub fn new(seed: u64, surroundings: Arc<Simulated>, trace: bool) -> Self {
        let state = State {
            rng: StdRng::seed_from_u64(seed ^ 0x5ced),
            actors: vec![],
            running: BTreeSet::new(),
            turn: None,
            mode: Mode::Still,
            waiting: BTreeMap::new(),
            next_number: 0,
            runner: None,
            journal: DefaultHasher::new(),
            calls: 0,
            surroundings,
            trace,
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// A new actor, and how its calls wait.
    pub fn enter(&self) -> (ActorId, Arc<dyn Turns>) {
        let mut state = self.state();
        state.actors.push(Actor { life: Life::Alive, fate: None, slow: 0, clock_error_ms: 0 });
        let who = state.actors.len() - 1;
        (who, Arc::new(Place { scheduler: self.clone(), who }))
    }

    pub fn kill_in(&self, who: ActorId, calls: u32) {
        self.state().actors[who].fate = Some((calls, Life::Dead));
    }

    pub fn freeze_in(&self, who: ActorId, calls: u32) {
        self.state().actors[who].fate = Some((calls, Life::Frozen));
    }

    pub fn slow_down(&self, who: ActorId, turns: u32) {
        self.state().actors[who].slow = turns;
    }

    pub fn set_clock_error_ms(&self, who: ActorId, error_ms: i64) {
        self.state().actors[who].clock_error_ms = error_ms;
    }

    /// Nothing more happens to it.
    pub fn spare(&self, who: ActorId) {
        let actor = &mut self.state().actors[who];
        (actor.fate, actor.slow) = (None, 0);
    }

    /// All calls in their order, as a number; and how many they were.
    pub fn journal(&self) -> (u64, u64) {
        let state = self.state();
        (state.journal.finish(), state.calls)
    }

    /// To be told before the runtime's thread sleeps: nothing can go on then but what waits for a call, or for a thread.
    pub fn idle(&self) {
        let mut state = self.state();
        if !state.surroundings.is_busy() {
            match state.mode {
                Mode::Still => {}
                Mode::Running => state.grant_to_running(),
                Mode::Resting => state.grant_to_anyone(),
            }
        }
    }

    /// Runs the jobs until each has come to an end.
    ///
    /// # Panics
    /// When for so long nothing goes on: somebody waits for what never comes.
    pub async fn run<T>(&self, jobs: Vec<(ActorId, Job<T>)>) -> Vec<(ActorId, End<T>)> {
        {
            let mut state = self.state();
            for (who, _) in &jobs {
                state.actors[*who].life = Life::Alive;
                state.running.insert(*who);
            }
            (state.mode, state.turn) = (Mode::Running, None);
        }
        let mut jobs: Vec<(ActorId, Option<Job<T>>)> = jobs.into_iter().map(|(who, job)| (who, Some(job))).collect();
        let mut ended = vec![];
        let all = std::future::poll_fn(|cx| {
            for (who, slot) in &mut jobs {
                let Some(mut job) = slot.take() else { continue };
                self.state().act_as(*who);
                let polled = Pin::new(&mut job).poll(cx);
                let life = self.state().actors[*who].life;
                let end = match (polled, life) {
                    (Poll::Ready(done), _) => End::Done(done),
                    (_, Life::Dead) => End::Killed,
                    (_, Life::Frozen) => End::Frozen(job),
                    (_, Life::Alive) => {
                        *slot = Some(job);
                        continue;
                    }
                };
                ended.push((*who, end));
                self.state().running.remove(who);
            }
            let mut state = self.state();
            if let Some(who) = state.turn {
                // What it started goes on.
                state.act_as(who);
            }
            state.runner = Some(cx.waker().clone());
            match jobs.iter().all(|(_, job)| job.is_none()) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        });
        self.in_time(all).await;
        self.state().mode = Mode::Still;
        ended
    }

    /// What goes on in the background comes to its end, as far as it can.
    pub async fn rest(&self) {
        self.state().mode = Mode::Resting;
        let rested = std::future::poll_fn(|cx| {
            let mut state = self.state();
            state.runner = Some(cx.waker().clone());
            match state.mode {
                Mode::Still => Poll::Ready(()),
                _ => Poll::Pending,
            }
        });
        self.in_time(rested).await;
    }

    async fn in_time(&self, what: impl Future<Output = ()>) {
        if tokio::time::timeout(STANDSTILL, what).await.is_err() {
            let state = self.state();
            let busy = state.surroundings.is_busy();
            panic!(
                "nothing goes on: busy: {busy}, {:?}, running: {:?}, {:?}",
                state.mode, state.running, state.waiting
            );
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn grant_to_running(&mut self) {
        let all: BTreeSet<ActorId> =
            self.waiting.values().filter(|c| !c.granted && self.running.contains(&c.who)).map(|c| c.who).collect();
        // Mostly whoever has it; a slow one only when nobody else can go on.
        let stays = self.turn.filter(|who| all.contains(who) && self.rng.random_bool(0.6));
        let who = match stays {
            Some(who) => who,
            None => {
                let mut able = vec![];
                for who in &all {
                    let slow = &mut self.actors[*who].slow;
                    match *slow {
                        0 => able.push(*who),
                        _ => *slow -= 1,
                    }
                }
                if able.is_empty() {
                    able.extend(&all);
                }
                match able.len() {
                    0 => return,
                    n => able[self.rng.random_range(0..n)],
                }
            }
        };
        let Some((number, path)) = self.next_of(|call| call.who == who) else { return };
        let fate = &mut self.actors[who].fate;
        match fate {
            None => self.grant(number),
            Some((calls, _)) if *calls > 0 => {
                *calls -= 1;
                self.grant(number);
            }
            Some((_, life)) => {
                let life = *life;
                (self.actors[who].life, self.actors[who].fate) = (life, None);
                self.running.remove(&who);
                if self.trace {
                    println!("    {who} is {life:?} at {path}");
                }
                self.runner.take().into_iter().for_each(Waker::wake);
            }
        }
    }

    fn grant_to_anyone(&mut self) {
        let alive: Vec<bool> = self.actors.iter().map(|actor| actor.life == Life::Alive).collect();
        match self.next_of(|call| alive[call.who]) {
            Some((number, _)) => self.grant(number),
            None => {
                self.mode = Mode::Still;
                self.runner.take().into_iter().for_each(Waker::wake);
            }
        }
    }

    /// One of these calls; in which order they came doesn't matter.
    fn next_of(&mut self, of: impl Fn(&Waiting) -> bool) -> Option<(u64, String)> {
        let mut calls: Vec<(&Waiting, u64)> =
            self.waiting.iter().filter(|(_, call)| !call.granted && of(call)).map(|(n, call)| (call, *n)).collect();
        calls.sort_by_key(|(call, n)| (call.who, call.op as u8, &call.path, call.moment as u8, *n));
        let chosen = match calls.len() {
            0 => return None,
            n => self.rng.random_range(0..n),
        };
        calls.get(chosen).map(|(call, number)| (*number, format!("{:?} {:?} {}", call.moment, call.op, call.path)))
    }

    fn grant(&mut self, number: u64) {
        let Some(call) = self.waiting.get_mut(&number) else { return };
        call.granted = true;
        let (who, waker) = (call.who, call.waker.clone());
        (who, call.moment, call.op, &call.path).hash(&mut self.journal);
        if self.trace {
            println!("    {who} {:?} {:?} {}", call.moment, call.op, call.path);
        }
        self.calls += 1;
        self.turn = Some(who);
        self.act_as(who);
        waker.wake();
    }

    fn act_as(&self, who: ActorId) {
        self.surroundings.act_as(who as u64, self.actors[who].clock_error_ms);
    }
}
