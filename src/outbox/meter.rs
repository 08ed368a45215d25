//! The figures of one outbox. Names and units are declared in `serve::metrics`, how to read them in docs/metrics.md.

use std::time::{Duration, Instant};

use metrics::{Counter, Gauge, counter, gauge};

use crate::serve::metrics as names;

/// How often the rows that wait are counted.
const COUNT_EVERY: Duration = Duration::from_secs(10);

/// Whether the rows that wait are counted: a question to the database that only somebody who looks is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backlog {
    Counted,
    Ignored,
}

pub(super) struct Meter {
    backlog: Backlog,
    next_count: Instant,
    unsent: Gauge,
    sent: Counter,
    found: Counter,
    refused: Gauge,
    errors: Counter,
}

impl Meter {
    pub(super) fn new(outbox: &str, backlog: Backlog) -> Self {
        let outbox = || outbox.to_owned();
        let meter = Self {
            backlog,
            next_count: Instant::now(),
            unsent: gauge!(names::OUTBOX_UNSENT_ROWS, "outbox" => outbox()),
            sent: counter!(names::OUTBOX_SENT_TOTAL, "outbox" => outbox()),
            found: counter!(names::OUTBOX_FOUND_TOTAL, "outbox" => outbox()),
            refused: gauge!(names::OUTBOX_REFUSED_ROWS, "outbox" => outbox()),
            errors: counter!(names::OUTBOX_ERRORS_TOTAL, "outbox" => outbox()),
        };
        meter.refused(0);
        meter
    }

    /// Whether to count what waits.
    pub(super) fn counts(&mut self) -> bool {
        let is_due = self.backlog == Backlog::Counted && Instant::now() >= self.next_count;
        if is_due {
            self.next_count = Instant::now() + COUNT_EVERY;
        }
        is_due
    }

    pub(super) fn unsent(&self, rows: i64) {
        self.unsent.set(rows as f64);
    }

    pub(super) fn sent(&self, rows: usize) {
        self.sent.increment(rows as u64);
    }

    pub(super) fn found(&self, rows: u64) {
        self.found.increment(rows);
    }

    pub(super) fn refused(&self, rows: usize) {
        self.refused.set(rows as f64);
    }

    pub(super) fn failed(&self) {
        self.errors.increment(1);
    }
}
