//! When which table is due, and whether it is worth a look. Pure: time and what is known come as arguments.
//!
//! A job is due at fixed moments of the clock, every so often, which differ by table and kind. So nothing has to be remembered when a process
//! ends or another takes a table over: whoever keeps the table then does what comes next, and who takes it over in quiet hours what came due in
//! them; nothing is done twice, and the tables of a process are not all due at once.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use iceberg::spec::TableMetadata;
use serde::{Deserialize, Serialize};

use crate::config::PolicyConfig;
use crate::sink::lake::{Growth, Size};

/// After the first failure in a row; each further one doubles it.
const FIRST_BACKOFF_MS: i64 = 30_000;
/// A person may need hours to mend what is wrong: a try an hour shows when it is.
const LONGEST_BACKOFF_MS: i64 = 3_600_000;

/// What is done, in this order where several are due at a time: what one leaves, the next takes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Compact,
    Manifests,
    Expire,
    Orphans,
}

impl Kind {
    pub const ALL: [Self; 4] = [Self::Compact, Self::Manifests, Self::Expire, Self::Orphans];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Compact => "compact",
            Self::Manifests => "manifests",
            Self::Expire => "expire",
            Self::Orphans => "orphans",
        }
    }

    fn every_ms(self, policy: &PolicyConfig) -> Option<i64> {
        let every = match self {
            Self::Compact => policy.compact_every,
            Self::Manifests => policy.manifests_every,
            Self::Expire => policy.expire_every,
            Self::Orphans => policy.orphans_every,
        };
        every.0.filter(|_| policy.enabled).map(|period| i64::try_from(period.ms).unwrap_or(i64::MAX).max(1))
    }
}

/// Why what is due is not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    QuietHours,
    /// Its turn has not come for a whole interval: what else there is takes the budget.
    Budget,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::QuietHours => "quiet_hours",
            Self::Budget => "budget",
        }
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Well,
    Failed,
    /// Before it was through, without fault: it is due as before.
    Early,
}

/// What is due is not done now. Told once for each time it is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deferral {
    pub table: String,
    pub kind: Kind,
    pub reason: Reason,
}

/// What to do at a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    pub run: Option<(String, Kind)>,
    pub deferrals: Vec<Deferral>,
}

/// The tables that this process keeps.
#[derive(Debug, Default)]
pub struct Schedule {
    tables: BTreeMap<String, Kept>,
}

#[derive(Debug)]
struct Kept {
    policy: PolicyConfig,
    jobs: BTreeMap<Kind, Job>,
}

#[derive(Clone, Copy, Debug)]
struct Job {
    every_ms: i64,
    due_ms: i64,
    /// In a row.
    failures: u32,
    /// Whether it was told that it is deferred.
    told: bool,
}

impl Schedule {
    /// From now on it keeps these tables. Those that are new to it get what comes due next.
    pub fn keep<'a>(&mut self, tables: impl IntoIterator<Item = (&'a str, &'a PolicyConfig)>, now_ms: i64) {
        let mut before = std::mem::take(&mut self.tables);
        for (name, policy) in tables {
            let kept = before.remove(name).unwrap_or_else(|| {
                // Nobody has done what came due since then.
                let since_ms = policy.quiet_hours.since(now_ms).unwrap_or(now_ms);
                let job = |kind: Kind| {
                    let every_ms = kind.every_ms(policy)?;
                    let due_ms = next_moment(name, kind, every_ms, since_ms);
                    Some((kind, Job { every_ms, due_ms, failures: 0, told: false }))
                };
                Kept { policy: policy.clone(), jobs: Kind::ALL.into_iter().filter_map(job).collect() }
            });
            self.tables.insert(name.to_owned(), kept);
        }
    }

    /// What has been due for longest, outside of quiet hours.
    pub fn turn(&mut self, now_ms: i64) -> Turn {
        let mut turn = Turn::default();
        let mut first: Option<(i64, Kind, &String)> = None;
        for (name, kept) in &mut self.tables {
            let quiet = kept.policy.quiet_hours.until(now_ms).is_some();
            for (kind, job) in kept.jobs.iter_mut().filter(|(_, job)| job.due_ms <= now_ms) {
                let late = job.failures == 0 && now_ms - job.due_ms >= job.every_ms;
                let reason = if quiet { Some(Reason::QuietHours) } else { late.then_some(Reason::Budget) };
                if let Some(reason) = reason.filter(|_| !job.told) {
                    job.told = true;
                    turn.deferrals.push(Deferral { table: name.clone(), kind: *kind, reason });
                }
                let at = (job.due_ms, *kind, name);
                if !quiet && first.is_none_or(|first| at < first) {
                    first = Some(at);
                }
            }
        }
        turn.run = first.map(|(_, kind, name)| (name.clone(), kind));
        turn
    }

    /// A run has ended.
    pub fn ended(&mut self, table: &str, kind: Kind, ended: Ended, now_ms: i64) {
        let Some(job) = self.tables.get_mut(table).and_then(|kept| kept.jobs.get_mut(&kind)) else { return };
        let next_ms = next_moment(table, kind, job.every_ms, now_ms);
        *job = match ended {
            Ended::Well => Job { due_ms: next_ms, failures: 0, told: false, ..*job },
            Ended::Failed => {
                let failures = job.failures.saturating_add(1);
                Job { due_ms: now_ms + backoff_ms(failures), failures, told: false, ..*job }
            }
            Ended::Early => *job,
        };
    }

    /// What the table gets, when it is due, and how often it has failed in a row.
    pub fn jobs(&self, table: &str) -> impl Iterator<Item = (Kind, i64, u32)> {
        let jobs = self.tables.get(table).into_iter().flat_map(|kept| &kept.jobs);
        jobs.map(|(kind, job)| (*kind, job.due_ms, job.failures))
    }
}

fn backoff_ms(failures: u32) -> i64 {
    let doubled = FIRST_BACKOFF_MS.checked_shl(failures.saturating_sub(1).min(30));
    doubled.map_or(LONGEST_BACKOFF_MS, |ms| ms.min(LONGEST_BACKOFF_MS))
}

/// The first moment of a job after `after_ms`.
fn next_moment(table: &str, kind: Kind, every_ms: i64, after_ms: i64) -> i64 {
    let mut hasher = DefaultHasher::new();
    (table, kind).hash(&mut hasher);
    let offset = (hasher.finish() % every_ms.unsigned_abs()) as i64;
    ((after_ms - offset).div_euclid(every_ms) + 1).saturating_mul(every_ms).saturating_add(offset)
}

/// What a table's metadata tells, without a look into its manifests.
#[derive(Clone, Debug, Default)]
pub struct Known {
    pub snapshot_id: Option<i64>,
    pub size: Size,
    pub growth: Growth,
    /// Whether files may be of another partition spec than today's.
    pub respecified: bool,
}

impl Known {
    pub fn of(metadata: &TableMetadata) -> Self {
        Self {
            snapshot_id: metadata.current_snapshot_id(),
            size: Size::of(metadata),
            growth: Growth::of(metadata),
            respecified: metadata.partition_specs_iter().len() > 1,
        }
    }

    /// Whether it may be worth reading manifests; what is not known may be. `seen` is the snapshot as of which there was nothing to do.
    pub fn is_worth_a_look(&self, kind: Kind, policy: &PolicyConfig, seen: Option<i64>) -> bool {
        let none = |n: Option<u64>| n == Some(0);
        match kind {
            Kind::Compact => {
                let few = self.size.data_files.is_some_and(|files| files < policy.small_files as u64);
                let whole = none(self.growth.deleted_rows) && none(self.size.equality_deletes) && !self.respecified;
                !(few && whole) && (seen.is_none() || seen != self.snapshot_id)
            }
            Kind::Manifests => self.growth.manifests.is_none_or(|n| n > policy.many_manifests),
            Kind::Expire => self.growth.snapshots > 1,
            Kind::Orphans => true,
        }
    }
}

#[cfg(test)]
mod tests;
