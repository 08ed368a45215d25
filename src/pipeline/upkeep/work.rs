//! One thing done to one table: the same code as `firn maintain` runs.

use std::sync::Arc;

use firn_catalog::maintain::{is_shared, manifests};
use firn_catalog::{ErrorKind, Patience, live, surroundings};
use iceberg::TableIdent;
use iceberg::table::Table;
use tokio::runtime::Handle;

use super::Means;
use super::kept::Kept;
use crate::config::{PolicyConfig, QuietHours};
use crate::maintain::compact::{Choice, CompactReport, Compaction, GroupState, Leave};
use crate::maintain::health::many_manifests;
use crate::maintain::policy::{Kind, Known};
use crate::maintain::{expire, orphans};

/// What came of it, in words for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Done(String),
    /// There was nothing to do, as of this snapshot where that is known.
    Nothing {
        why: String,
        snapshot_id: Option<i64>,
    },
    /// It ended before it was through, and no fault of it.
    Early(String),
    Failed(String),
}

impl Outcome {
    fn nothing(why: &str) -> Self {
        Self::Nothing { why: why.to_owned(), snapshot_id: None }
    }
}

/// Does it. `seen` is the snapshot as of which there was nothing to do the last time.
pub(super) async fn run(means: &Means, kept: &Arc<Kept>, kind: Kind, seen: Option<i64>) -> Outcome {
    let Kept { ident, policy, .. } = kept.as_ref();
    let table = match means.catalog.load(ident).await {
        Ok(table) => table,
        Err(e) if e.kind() == ErrorKind::NotFound => return Outcome::nothing("the table is not made yet"),
        Err(e) => return Outcome::Failed(e.to_string()),
    };
    let known = Known::of(table.metadata());
    if !known.is_worth_a_look(kind, policy, seen) {
        return Outcome::Nothing { why: "nothing to do".to_owned(), snapshot_id: seen };
    }
    if matches!(kind, Kind::Expire | Kind::Orphans) && is_shared(table.metadata()) {
        return Outcome::nothing("left alone: gc.enabled is false");
    }
    let outcome = match kind {
        Kind::Compact => compact(means, kept).await.map(|outcome| match outcome {
            Outcome::Nothing { why, .. } => Outcome::Nothing { why, snapshot_id: known.snapshot_id },
            outcome => outcome,
        }),
        Kind::Manifests => rewrite_manifests(means, &table, policy).await,
        Kind::Expire => let_go(means, ident, policy).await,
        Kind::Orphans => remove_orphans(means, ident, policy).await,
    };
    outcome.unwrap_or_else(Outcome::Failed)
}

async fn compact(means: &Means, table: &Arc<Kept>) -> Result<Outcome, String> {
    let policy = &table.policy;
    let compaction = Compaction {
        parallel: means.config.maintain.budget.parallel,
        min_files: Some(policy.small_files),
        delete_ratio: Some(policy.delete_ratio),
        choice: Choice::WorthIt,
        limiter: Arc::clone(&means.limiter),
        manifests: means.manifests.clone(),
        leave: Some(Arc::new(Until { table: Arc::clone(table), quiet: policy.quiet_hours.clone() })),
        ..Compaction::new(Arc::clone(&means.catalog), Handle::current(), Arc::clone(&means.memory))
    };
    compaction.run(&table.ident).await.map(|report| judged(&report)).map_err(|e| e.to_string())
}

/// What became of a compaction as a whole: what is wrong goes before what ended early, and both before what was done.
fn judged(report: &CompactReport) -> Outcome {
    let groups = &report.groups;
    let of = |is: fn(&GroupState) -> bool| groups.iter().filter(|g| is(&g.state)).count();
    let done = of(|state| matches!(state, GroupState::Committed { .. }));
    let became = format!(
        "{} files ({} bytes) became {} ({} bytes)",
        report.files_before, report.bytes_before, report.files_after, report.bytes_after
    );
    let reason = |is_asked: fn(&GroupState) -> bool| {
        let state = groups.iter().map(|g| &g.state).find(|state| is_asked(state))?;
        Some(match state {
            GroupState::Missing { path, .. } => format!("{path} is not in storage"),
            GroupState::Failed { reason } | GroupState::Open { reason } | GroupState::Deferred { reason } => {
                reason.clone()
            }
            _ => String::new(),
        })
    };
    if let Some(reason) = reason(GroupState::is_bad) {
        let bad = of(GroupState::is_bad);
        return Outcome::Failed(format!("{bad} of {} groups were not rewritten: {reason}", groups.len()));
    }
    if let Some(reason) = reason(|state| matches!(state, GroupState::Deferred { .. })) {
        return Outcome::Early(match done {
            0 => reason,
            _ => format!("{became}, then {reason}"),
        });
    }
    match done {
        0 => Outcome::nothing("nothing that is worth it"),
        _ => Outcome::Done(became),
    }
}

async fn rewrite_manifests(means: &Means, table: &Table, policy: &PolicyConfig) -> Result<Outcome, String> {
    let list = live::manifests(table, table.metadata().current_snapshot_id()).await.map_err(|e| e.to_string())?;
    if !many_manifests(table.metadata(), &list, policy.many_manifests) {
        return Ok(Outcome::nothing("nothing that is worth it"));
    }
    let done = manifests::rewrite(means.catalog.as_ref(), table.identifier(), Patience::default()).await;
    let done = done.map_err(|e| e.to_string())?;
    Ok(match done.replaced {
        0 => Outcome::nothing("nothing to gain"),
        _ => Outcome::Done(format!("{} manifests became {}", done.before, done.after)),
    })
}

async fn let_go(means: &Means, ident: &TableIdent, policy: &PolicyConfig) -> Result<Outcome, String> {
    let wish = expire::Wish {
        max_age_ms: policy.expire_older_than.map(|age| age.ms),
        min_kept: policy.retain_last,
        dry_run: false,
    };
    let expired =
        expire::expire(&means.config, means.catalog.as_ref(), ident, wish).await.map_err(|e| e.to_string())?;
    Ok(match expired.snapshots.len() {
        0 => Outcome::nothing("no snapshot is old enough"),
        n => Outcome::Done(format!("{n} snapshots expired, {} files deleted", expired.removed.files())),
    })
}

async fn remove_orphans(means: &Means, ident: &TableIdent, policy: &PolicyConfig) -> Result<Outcome, String> {
    let wish = orphans::Wish { age_ms: policy.orphans_older_than.ms, delete: true };
    let found =
        orphans::orphans(means.catalog.as_ref(), &means.stores, ident, wish).await.map_err(|e| e.to_string())?;
    Ok(match found.orphans.len() {
        0 => Outcome::nothing("no orphans"),
        n => Outcome::Done(format!("{n} orphans deleted, {} bytes", found.bytes())),
    })
}

/// How long a compaction may go on.
#[derive(Debug)]
struct Until {
    table: Arc<Kept>,
    quiet: QuietHours,
}

impl Leave for Until {
    fn reason(&self) -> Option<String> {
        if self.quiet.until(surroundings::now_ms()).is_some() {
            return Some("quiet hours began".to_owned());
        }
        (!self.table.is_ours()).then(|| "another process keeps the table from now on, or it was stopped".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::maintain::compact::GroupReport;

    fn report(states: impl IntoIterator<Item = GroupState>) -> CompactReport {
        let group = |state| GroupReport {
            partition: String::new(),
            files: 3,
            bytes: 30,
            rows: 3,
            deleted_rows: 0,
            delete_files: 0,
            new_files: 1,
            new_bytes: 20,
            state,
        };
        let groups = states.into_iter().map(group).collect();
        CompactReport { groups, files_before: 3, files_after: 1, ..CompactReport::default() }
    }

    #[test]
    fn a_run_is_judged_by_the_worst_of_its_groups() {
        let committed = || GroupState::Committed { snapshot_id: 1 };
        let lost = || GroupState::Lost { reason: "another rewrite".to_owned() };
        let deferred = || GroupState::Deferred { reason: "quiet hours began".to_owned() };
        let failed = || GroupState::Failed { reason: "no space".to_owned() };
        assert_eq!(judged(&report([])), Outcome::nothing("nothing that is worth it"));
        assert_eq!(judged(&report([lost()])), Outcome::nothing("nothing that is worth it"));
        assert!(matches!(judged(&report([committed(), lost()])), Outcome::Done(_)));
        assert!(
            matches!(judged(&report([committed(), deferred()])), Outcome::Early(why) if why.ends_with("quiet hours began"))
        );
        let wrong = judged(&report([committed(), deferred(), failed()]));
        assert_eq!(wrong, Outcome::Failed("1 of 3 groups were not rewritten: no space".to_owned()));
    }
}
