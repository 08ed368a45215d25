//! What other writers come for, in between.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use firn::change::Mode;
use firn::maintain::compact::Compaction;
use firn::memory::Memory;
use firn::sink::lake::{CHECKPOINT, LAST_SNAPSHOT_ID};
use firn_catalog::maintain::expire::ExpireError;
use firn_catalog::maintain::retention::Rules;
use firn_catalog::memory::MemoryCatalog;
use firn_catalog::{Patience, maintain};
use iceberg::TableIdent;
use iceberg::table::Table;
use rand::Rng;
use rand::rngs::StdRng;
use tokio::runtime::Handle;

use super::scheduler::ActorId;
use super::source::KEYS;
use crate::foreign::{self, Job, Row};

/// One gives up where others are always faster.
const PATIENCE: Patience = Patience { attempts: 5, first_wait_ms: 0, max_wait_ms: 0 };

/// What another writer is to do.
#[derive(Clone, Debug)]
pub enum Errand {
    Compact,
    /// `firn maintain compact`: files of this size.
    Maintain {
        target_bytes: u64,
    },
    /// `firn maintain expire`: all but so many, however young.
    MaintainSnapshots {
        keep: u64,
    },
    /// `firn maintain manifests`.
    MaintainManifests,
    /// `firn maintain orphans`: everything older than this moment, whoever may be about to commit it.
    MaintainOrphans {
        before_ms: i64,
    },
    Delete {
        id: i64,
    },
    Append {
        id: i64,
        v: i64,
    },
    Expire {
        keep: usize,
    },
    RollBack {
        steps: usize,
    },
    RemoveOrphans {
        old: BTreeSet<String>,
    },
}

/// What another writer did.
pub enum Foreign {
    Nothing,
    Compacted,
    Maintained,
    SnapshotsMaintained,
    ManifestsMaintained,
    OrphansMaintained,
    RolledBack,
    OrphansRemoved,
    Deleted { snapshot_id: i64, base: Box<Table>, id: i64 },
    Appended { snapshot_id: i64, row: Row },
    Expired,
}

impl fmt::Display for Errand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RemoveOrphans { .. } => f.write_str("RemoveOrphans"),
            // The clock is the machine's.
            Self::MaintainOrphans { .. } => f.write_str("MaintainOrphans"),
            _ => fmt::Debug::fmt(self, f),
        }
    }
}

impl Errand {
    pub fn draw(rng: &mut StdRng, mode: Mode, who: ActorId) -> Self {
        match rng.random_range(0..19) {
            0..3 if mode == Mode::Upsert => Self::Delete { id: rng.random_range(0..KEYS) },
            // A key that the source never uses.
            3..5 => Self::Append { id: 1000 + who as i64, v: rng.random_range(0..KEYS) },
            5..7 => Self::Expire { keep: rng.random_range(1..5) },
            7..9 => Self::RollBack { steps: rng.random_range(1..3) },
            9..12 => Self::Compact,
            12..14 => Self::MaintainSnapshots { keep: rng.random_range(1..5) },
            14..16 => Self::MaintainManifests,
            _ => Self::Maintain { target_bytes: [4 << 10, 1 << 20][rng.random_range(0..2)] },
        }
    }

    pub async fn run(self, catalog: &MemoryCatalog, table: &TableIdent) -> Foreign {
        let attempt = async |job| foreign::attempt(catalog, table, job, PATIENCE).await.ok().flatten();
        let done = match self {
            Self::Maintain { target_bytes } => maintained(catalog, table, target_bytes).await,
            Self::MaintainSnapshots { keep } => snapshots_maintained(catalog, table, keep).await,
            Self::MaintainManifests => {
                let rewritten = maintain::manifests::rewrite(catalog, table, PATIENCE).await.ok();
                rewritten.filter(|r| !r.snapshots.is_empty()).map(|_| Foreign::ManifestsMaintained)
            }
            Self::MaintainOrphans { before_ms } => {
                let removed =
                    maintain::orphans::remove(catalog, catalog.stores(), table, 0, before_ms, PATIENCE).await.ok();
                removed.filter(|r| !r.orphans.is_empty()).map(|_| Foreign::OrphansMaintained)
            }
            Self::Compact => attempt(Job::Compact).await.map(|_| Foreign::Compacted),
            Self::Delete { id } => {
                let deleted = attempt(Job::Delete(id)).await;
                deleted.map(|(snapshot_id, base)| Foreign::Deleted { snapshot_id, base: Box::new(base), id })
            }
            Self::Append { id, v } => {
                let row = Row { id, v: Some(v), body: Some(v), partition: -1, offset: -1 };
                attempt(Job::Append(id, v)).await.map(|(snapshot_id, _)| Foreign::Appended { snapshot_id, row })
            }
            Self::Expire { keep } => foreign::expire(catalog, table, keep).await.map(|()| Foreign::Expired),
            Self::RollBack { steps } => foreign::roll_back(catalog, table, steps).await.map(|_| Foreign::RolledBack),
            Self::RemoveOrphans { old } => {
                foreign::remove_orphans(catalog, table, &old).await.map(|()| Foreign::OrphansRemoved)
            }
        };
        done.unwrap_or(Foreign::Nothing)
    }
}

async fn snapshots_maintained(catalog: &MemoryCatalog, table: &TableIdent, keep: u64) -> Option<Foreign> {
    let rules = Rules {
        max_age_ms: Some(0),
        min_kept: Some(keep),
        horizon_ms: 0,
        tells: Some(CHECKPOINT),
        last: Some(LAST_SNAPSHOT_ID),
    };
    match maintain::expire::expire(catalog, table, &rules, PATIENCE).await {
        Ok(expired) => (!expired.snapshots.is_empty()).then_some(Foreign::SnapshotsMaintained),
        Err(ExpireError::Left { .. }) => Some(Foreign::SnapshotsMaintained),
        Err(ExpireError::Catalog(_)) => None,
    }
}

async fn maintained(catalog: &MemoryCatalog, table: &TableIdent, target_bytes: u64) -> Option<Foreign> {
    let compaction = Compaction {
        target_bytes: Some(target_bytes),
        min_files: Some(2),
        patience: PATIENCE,
        ..Compaction::new(Arc::new(catalog.clone()), Handle::current(), Memory::new(64 << 20))
    };
    let report = compaction.run(table).await.ok()?;
    (!report.snapshots.is_empty()).then_some(Foreign::Maintained)
}
