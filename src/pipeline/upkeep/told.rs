//! What is told of it: log, metrics, status.

use firn_catalog::surroundings;
use metrics::{counter, gauge};

use super::kept::Kept;
use super::work::Outcome;
use crate::maintain::budget::Spent;
use crate::maintain::policy::{Deferral, Kind, Reason, Schedule};
use crate::serve::metrics as names;
use crate::serve::status::{LastError, Upkeep, UpkeepState};

/// Changes what is told of one kind; nothing, where the table does not get it.
fn change(table: &Kept, kind: Kind, change: impl FnOnce(&mut Upkeep)) {
    table.tell(|told| {
        if let Some(upkeep) = told.iter_mut().find(|upkeep| upkeep.kind == kind) {
            change(upkeep);
        }
    });
}

/// When what is due.
pub(super) fn schedule(table: &Kept, schedule: &Schedule) {
    table.tell(|told| {
        for (kind, due_ms, failures) in schedule.jobs(&table.name) {
            if !told.iter().any(|upkeep| upkeep.kind == kind) {
                told.push(Upkeep::new(kind));
            }
            for upkeep in told.iter_mut().filter(|upkeep| upkeep.kind == kind) {
                (upkeep.due_ms, upkeep.failures) = (due_ms, failures);
            }
        }
    });
}

/// Another process keeps the table, or it was stopped.
pub(super) fn given_up(table: &Kept) {
    table.tell(Vec::clear);
}

pub(super) fn began(table: &Kept, kind: Kind) {
    change(table, kind, |upkeep| upkeep.state = UpkeepState::Running);
}

pub(super) fn deferred(table: &Kept, deferral: &Deferral) {
    let Deferral { kind, reason, .. } = deferral;
    counter!(names::MAINTAIN_DEFERRED_TOTAL, "table" => table.name.clone(), "kind" => kind.as_str(), "reason" => reason.as_str())
        .increment(1);
    tracing::info!(table = %table.name, kind = kind.as_str(), reason = reason.as_str(), "maintenance is due and has to wait");
    if *reason == Reason::QuietHours {
        change(table, *kind, |upkeep| upkeep.state = UpkeepState::Quiet);
    }
}

pub(super) fn ended(table: &Kept, kind: Kind, outcome: &Outcome) {
    let now_ms = surroundings::now_ms();
    let (name, kind_name) = (&table.name, kind.as_str());
    counter!(names::MAINTAIN_RUNS_TOTAL, "table" => name.clone(), "kind" => kind_name).increment(1);
    let failures = counter!(names::MAINTAIN_FAILURES_TOTAL, "table" => name.clone(), "kind" => kind_name);
    match outcome {
        Outcome::Failed(why) => {
            failures.increment(1);
            tracing::warn!(table = %name, kind = kind_name, "maintenance failed, to be tried again: {why}");
        }
        Outcome::Done(what) => tracing::info!(table = %name, kind = kind_name, "maintained: {what}"),
        Outcome::Early(why) => tracing::info!(table = %name, kind = kind_name, "maintenance ended early: {why}"),
        Outcome::Nothing { why, .. } => tracing::debug!(table = %name, kind = kind_name, "maintained: {why}"),
    }
    if matches!(outcome, Outcome::Done(_) | Outcome::Nothing { .. }) {
        // Alerts go by it from the first run on.
        failures.increment(0);
        let now = now_ms as f64 / 1_000.0;
        gauge!(names::MAINTAIN_LAST_SUCCESS_SECONDS, "table" => name.clone(), "kind" => kind_name).set(now);
    }
    change(table, kind, |upkeep| {
        upkeep.state = UpkeepState::Waiting;
        upkeep.last_run_ms = Some(now_ms);
        match outcome {
            Outcome::Failed(why) => upkeep.last_error = Some(LastError { at_ms: now_ms, message: why.clone() }),
            Outcome::Done(what) | Outcome::Early(what) | Outcome::Nothing { why: what, .. } => {
                upkeep.last_result = Some(what.clone());
            }
        }
    });
}

pub(super) fn spent(table: &str, kind: Kind, spent: Spent) {
    let figures = [
        (names::MAINTAIN_BYTES_TOTAL, spent.bytes),
        (names::MAINTAIN_CPU_MS_TOTAL, spent.cpu.as_millis() as u64),
        (names::MAINTAIN_HELD_MS_TOTAL, spent.held.as_millis() as u64),
    ];
    for (name, figure) in figures {
        counter!(name, "table" => table.to_owned(), "kind" => kind.as_str()).increment(figure);
    }
}
