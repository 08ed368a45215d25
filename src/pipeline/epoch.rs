//! When a table's rows are committed: pure bookkeeping, shared by the workers that feed one table.
//!
//! A *part* is what one worker has collected for one table. All open parts of a table form an *epoch*; when a trigger fires the
//! epoch ends for every worker, so that one commit takes them all and an interval costs one snapshot, not one a worker.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// What ends an epoch, whichever comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Triggers {
    pub interval_ms: u64,
    pub rows: u64,
    pub bytes: u64,
}

#[derive(Debug, Default)]
struct State {
    epoch: u64,
    rows: u64,
    bytes: u64,
    opened_ms: Option<u64>,
    /// Workers with an open part of the current epoch.
    open: u32,
    /// Workers whose part belongs to an ended epoch and has not been handed over yet.
    closing: u32,
}

#[derive(Debug)]
pub struct Epochs {
    triggers: Triggers,
    /// Of the first epoch, in place of `interval_ms`.
    first_interval_ms: u64,
    state: Mutex<State>,
}

impl Epochs {
    /// Of the table that a process opened as its `number`th. Tables that all begin at once are spread over the interval: each but the
    /// first ends its first epoch early, at another moment, and keeps its distance from there on.
    pub fn new(triggers: Triggers, number: u32) -> Self {
        // The bits in reverse order: 0, 1/2, 1/4, 3/4, 1/8 ... are spread evenly wherever they end.
        let early_ms = (u128::from(triggers.interval_ms) * u128::from(number.reverse_bits())) >> u32::BITS;
        Self { triggers, first_interval_ms: triggers.interval_ms - early_ms as u64, state: Mutex::default() }
    }

    /// Rows that end an epoch.
    pub fn commit_rows(&self) -> u64 {
        self.triggers.rows
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker opens a part; answers the epoch it belongs to.
    pub fn join(&self, now_ms: u64) -> u64 {
        let mut s = self.state();
        s.open += 1;
        s.opened_ms.get_or_insert(now_ms);
        s.epoch
    }

    /// Counts what a worker staged in `epoch` and says whether its part is to be closed now.
    pub fn add(&self, epoch: u64, rows: u64, bytes: u64, now_ms: u64) -> bool {
        let mut s = self.state();
        if s.epoch == epoch {
            s.rows += rows;
            s.bytes += bytes;
        }
        self.ended(&mut s, epoch, now_ms)
    }

    /// Whether a part of `epoch` is to be closed now.
    pub fn due(&self, epoch: u64, now_ms: u64) -> bool {
        self.ended(&mut self.state(), epoch, now_ms)
    }

    /// A worker closes its part before a trigger (schema change, partitions revoked): the others follow.
    pub fn end(&self, epoch: u64) {
        let mut s = self.state();
        if s.epoch == epoch {
            Self::next(&mut s);
        }
    }

    /// The worker's part of `epoch` was handed over or given up.
    pub fn leave(&self, epoch: u64) {
        let mut s = self.state();
        if s.epoch == epoch {
            s.open = s.open.saturating_sub(1);
            if s.open == 0 {
                Self::next(&mut s);
            }
        } else {
            s.closing = s.closing.saturating_sub(1);
        }
    }

    /// Parts of ended epochs that are still to come.
    pub fn closing(&self) -> u32 {
        self.state().closing
    }

    fn ended(&self, s: &mut State, epoch: u64, now_ms: u64) -> bool {
        if s.epoch != epoch {
            return true;
        }
        let t = &self.triggers;
        let interval_ms = if s.epoch == 0 { self.first_interval_ms } else { t.interval_ms };
        let old = s.opened_ms.is_some_and(|opened| now_ms.saturating_sub(opened) >= interval_ms);
        if old || s.rows >= t.rows || s.bytes >= t.bytes {
            Self::next(s);
            return true;
        }
        false
    }

    fn next(s: &mut State) {
        *s = State { epoch: s.epoch + 1, closing: s.closing + s.open, ..State::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epochs() -> Epochs {
        Epochs::new(Triggers { interval_ms: 1_000, rows: 100, bytes: 1_000 }, 0)
    }

    #[test]
    fn tables_that_begin_at_once_commit_one_after_the_other() {
        let triggers = Triggers { interval_ms: 1_000, rows: 100, bytes: 1_000 };
        let mut ends: Vec<u64> = (0..100)
            .map(|number| {
                let e = Epochs::new(triggers, number);
                let epoch = e.join(0);
                (0..).find(|ms| e.due(epoch, *ms)).unwrap()
            })
            .collect();
        assert_eq!(ends[0], 1_000, "a table alone waits for its whole interval");
        ends.sort_unstable();
        assert!(ends.windows(2).all(|w| (7..=16).contains(&(w[1] - w[0]))), "{ends:?}");
    }

    #[test]
    fn only_the_first_epoch_is_shorter() {
        let e = Epochs::new(Triggers { interval_ms: 1_000, rows: 100, bytes: 1_000 }, 1);
        let first = e.join(0);
        assert!(!e.due(first, 499) && e.due(first, 500));
        e.leave(first);
        let second = e.join(500);
        assert!(!e.due(second, 1_499) && e.due(second, 1_500));
    }

    #[test]
    fn each_trigger_ends_the_epoch() {
        for (rows, bytes, now, due) in
            [(99, 999, 999, false), (100, 0, 0, true), (0, 1_000, 0, true), (0, 0, 1_000, true)]
        {
            let e = epochs();
            let epoch = e.join(0);
            assert_eq!(e.add(epoch, rows, bytes, now), due, "{rows} rows, {bytes} bytes, {now} ms");
        }
    }

    #[test]
    fn one_workers_trigger_closes_the_parts_of_all() {
        let e = epochs();
        let (a, b) = (e.join(0), e.join(10));
        assert!(!e.add(a, 60, 0, 20));
        assert!(e.add(b, 60, 0, 30), "the rows of both count together");
        assert!(e.due(a, 31));
        assert_eq!(e.closing(), 2);
        e.leave(a);
        e.leave(b);
        assert_eq!(e.closing(), 0);
    }

    #[test]
    fn a_part_opened_after_the_end_belongs_to_the_next_epoch() {
        let e = epochs();
        let a = e.join(0);
        e.end(a);
        let b = e.join(500);
        assert_ne!(a, b);
        assert!(!e.due(b, 1_400), "its interval counts from its own first row");
        assert!(e.due(b, 1_500));
    }

    #[test]
    fn a_part_given_up_alone_leaves_no_clock_running() {
        let e = epochs();
        let a = e.join(0);
        e.leave(a);
        let b = e.join(5_000);
        assert!(!e.due(b, 5_500));
        assert_eq!(e.closing(), 0);
    }
}
