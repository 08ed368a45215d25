//! Which snapshots and references a table lets go: Iceberg's rules (spec, "Snapshot Retention Policy"), and two of a writer's. Pure.

use std::collections::{BTreeMap, HashSet};
use std::str::FromStr;

use iceberg::spec::{MAIN_BRANCH, SnapshotRef, SnapshotReference, SnapshotRetention, TableMetadata};

use super::is_shared;
use crate::stage::{chain, references};
use crate::{Error, ErrorKind, Result};

const MAX_AGE: (&str, u64) = ("history.expire.max-snapshot-age-ms", 5 * 86_400_000);
const MIN_KEPT: (&str, u64) = ("history.expire.min-snapshots-to-keep", 1);
const MAX_REF_AGE: (&str, u64) = ("history.expire.max-ref-age-ms", u64::MAX);

/// What is asked for; what isn't stated here, the table's properties say. A branch's own settings go before both.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rules<'a> {
    /// Older snapshots go.
    pub max_age_ms: Option<u64>,
    /// Snapshots of a branch that stay, however old.
    pub min_kept: Option<u64>,
    /// Nothing younger goes, whatever a setting says.
    pub horizon_ms: u64,
    /// What the summary of a snapshot holds that tells where the table's writer stood. The oldest of main that stays is such a
    /// one, so that a table that is rolled back as far as it goes still tells it.
    pub tells: Option<&'a str>,
    /// The table property that names its writer's last snapshot. Where that was rolled back and the writer has not come since, it
    /// stays: by it the writer knows that it was.
    pub last: Option<&'a str>,
}

/// What goes.
#[derive(Clone, Debug, Default)]
pub struct Expiring {
    /// Oldest first.
    pub snapshots: Vec<SnapshotRef>,
    /// Of the snapshots that stay for their age or number: an age at which all of them do.
    pub oldest_kept_ms: Option<i64>,
    /// Branches with an age of their own by which some of theirs would go that stay.
    pub older_than_own_age: Vec<String>,
    /// Tags and branches that are older than they may be, or whose snapshot is gone.
    pub references: Vec<String>,
}

impl Expiring {
    pub fn is_empty(&self) -> bool {
        self.snapshots.is_empty() && self.references.is_empty()
    }
}

impl Rules<'_> {
    /// What goes from a table at a time.
    ///
    /// # Errors
    /// `Refused` for a table whose files are shared (`gc.enabled=false`) and for a property that is no number.
    pub fn expiring(&self, metadata: &TableMetadata, now_ms: i64) -> Result<Expiring> {
        if is_shared(metadata) {
            let text = "gc.enabled is false: its files may belong to another table too, so nothing is expired; set it to true if they \
                        don't";
            return Err(Error::new(ErrorKind::Refused, text));
        }
        let max_age = self.max_age_ms.map_or_else(|| property(metadata, MAX_AGE), Ok)?;
        let min_kept = self.min_kept.map_or_else(|| property(metadata, MIN_KEPT), Ok)?;
        let max_ref_age = property(metadata, MAX_REF_AGE)?;
        // The moment before which a snapshot may go.
        let before = |age: u64| now_ms.saturating_sub_unsigned(age.max(self.horizon_ms));

        let all: BTreeMap<String, SnapshotReference> = references(metadata)?.into_iter().collect();
        let (kept, gone): (Vec<_>, Vec<_>) = all.into_iter().partition(|(name, reference)| {
            let Some(snapshot) = metadata.snapshot_by_id(reference.snapshot_id) else { return false };
            let (SnapshotRetention::Branch { max_ref_age_ms, .. } | SnapshotRetention::Tag { max_ref_age_ms }) =
                &reference.retention;
            let age = max_ref_age_ms.map_or(max_ref_age, |ms| u64::try_from(ms).unwrap_or(0));
            name == MAIN_BRANCH || snapshot.timestamp_ms() >= now_ms.saturating_sub_unsigned(age)
        });

        let last = self.last.and_then(|key| metadata.properties().get(key)?.parse::<i64>().ok());
        let of_main = chain(metadata, metadata.current_snapshot());
        let is_aside =
            |id: &i64| metadata.snapshot_by_id(*id).is_some() && !of_main.iter().any(|s| s.snapshot_id() == *id);
        let set_aside = last.filter(is_aside);
        let (mut stays, mut referenced) = (HashSet::new(), HashSet::new());
        let mut oldest_kept_ms: Option<i64> = None;
        let mut older_than_own_age = Vec::new();
        for (name, reference) in &kept {
            stays.insert(reference.snapshot_id);
            let chain = chain(metadata, metadata.snapshot_by_id(reference.snapshot_id));
            referenced.extend(chain.iter().map(|s| s.snapshot_id()));
            let SnapshotRetention::Branch { min_snapshots_to_keep, max_snapshot_age_ms, .. } = &reference.retention
            else {
                continue;
            };
            let age = max_snapshot_age_ms.map_or(max_age, |ms| u64::try_from(ms).unwrap_or(0));
            let min = min_snapshots_to_keep.map_or(min_kept, |n| u64::try_from(n).unwrap_or(0)).max(1);
            let young = |(n, s): (usize, &SnapshotRef)| (n as u64) < min || s.timestamp_ms() >= before(age);
            let mut count = chain.iter().enumerate().take_while(|(n, s)| young((*n, s))).count();
            if name == MAIN_BRANCH {
                count = self.until_one_tells(&chain, count, set_aside.is_some());
            }
            let oldest = chain.iter().take(count).map(|s| s.timestamp_ms()).min();
            oldest_kept_ms = oldest_kept_ms.into_iter().chain(oldest).min();
            let own_age = max_snapshot_age_ms.and_then(|ms| u64::try_from(ms).ok());
            if own_age.zip(oldest).is_some_and(|(age, oldest)| oldest < now_ms.saturating_sub_unsigned(age)) {
                older_than_own_age.push(name.clone());
            }
            stays.extend(chain.iter().take(count).map(|s| s.snapshot_id()));
        }
        // Rolled back, or of a branch that is gone.
        let is_young = |s: &SnapshotRef| !referenced.contains(&s.snapshot_id()) && s.timestamp_ms() >= before(max_age);
        for kept in metadata.snapshots().filter(|s| is_young(s) || set_aside == Some(s.snapshot_id())) {
            stays.insert(kept.snapshot_id());
            oldest_kept_ms = oldest_kept_ms.into_iter().chain([kept.timestamp_ms()]).min();
        }

        let mut snapshots: Vec<_> =
            metadata.snapshots().filter(|s| !stays.contains(&s.snapshot_id())).cloned().collect();
        snapshots.sort_by_key(|s| (s.sequence_number(), s.timestamp_ms(), s.snapshot_id()));
        Ok(Expiring {
            snapshots,
            oldest_kept_ms,
            older_than_own_age,
            references: gone.into_iter().map(|(name, _)| name).collect(),
        })
    }

    /// So many of the chain stay that the last of them tells; all where none of the older ones does. Where none at all does, the
    /// table has no such writer, unless it was rolled back to before its first snapshot.
    fn until_one_tells(&self, chain: &[SnapshotRef], count: usize, rolled_back: bool) -> usize {
        let Some(key) = self.tells else { return count };
        let tells = |s: &SnapshotRef| s.summary().additional_properties.contains_key(key);
        if count == chain.len() || !(rolled_back || chain.iter().any(tells)) {
            return count;
        }
        let first = count.saturating_sub(1);
        chain.iter().skip(first).position(tells).map_or(chain.len(), |further| first + further + 1)
    }
}

fn property(metadata: &TableMetadata, (name, default): (&str, u64)) -> Result<u64> {
    let Some(value) = metadata.properties().get(name) else { return Ok(default) };
    u64::from_str(value.trim()).map_err(|_| {
        let text = format!("the table property {name} is {value:?}, which is no number: correct or remove it");
        Error::new(ErrorKind::Refused, text)
    })
}

#[cfg(test)]
mod tests;
