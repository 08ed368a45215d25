//! Keeps the lake's tables fast beside their writers, as `[maintain.policy]` says: one task of the process, which does one thing at a time.
//!
//! It shares nothing with the writers that they could wait for: threads, memory, catalog and connections are its own, and its commits meet
//! theirs in the catalog, as those of `firn maintain` do. Of the processes of a group, the one that has partition 0 of a table's topic keeps the
//! table: nobody has to agree on it, and where two do for a moment, nothing is lost but work.
//!
//! `kept` knows the tables, `work` does it, `told` says it, [`crate::maintain::policy`] decides when.

mod kept;
mod told;
mod work;

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use firn_catalog::storage::Stores;
use firn_catalog::{Catalog, ManifestCache, surroundings};
use futures::FutureExt;
use tokio::sync::watch;

use super::tables::Tables;
use super::{CATALOG_WAIT, Error, stopped_within};
use crate::config::{BudgetConfig, Config};
use crate::maintain::budget::{Budget, Limiter, Pool};
use crate::maintain::policy::{Ended, Kind, Schedule};
use crate::memory::Memory;
use crate::serve::Status;
use kept::Kept;
use work::Outcome;

/// How often it looks which tables it keeps and what is due.
const LOOK: Duration = Duration::from_secs(1);

/// What the work is done with.
pub(super) struct Means {
    config: Config,
    catalog: Arc<dyn Catalog>,
    stores: Stores,
    memory: Arc<Memory>,
    manifests: ManifestCache,
    limiter: Arc<Limiter>,
}

/// Begins, where a policy of a table says that there is something to do. Ends when told, or when the pool is dropped.
///
/// # Errors
/// When the system refuses threads.
pub(super) fn start(
    config: &Config,
    tables: &Arc<Tables>,
    status: &Arc<Status>,
    stop: watch::Receiver<bool>,
) -> Result<Option<Pool>, Error> {
    let of_pipelines = Kept::of_pipelines(config, status);
    let mut of_tables = config.lake.tables.iter().filter_map(|rule| rule.maintain.as_ref()?.enabled);
    let by_lake = config.lake.is_used() && (config.maintain.policy.enabled || of_tables.any(|enabled| enabled));
    if !by_lake && !of_pipelines.iter().any(|table| table.policy.enabled) {
        return Ok(None);
    }
    let BudgetConfig { cpu, memory_bytes, bytes_per_second, parallel } = config.maintain.budget;
    let budget = Budget { cpu: Some(cpu), bytes_per_second: Some(bytes_per_second).filter(|bytes| *bytes > 0) };
    let pool = Pool::new(budget, parallel)?;
    tracing::info!(cpu, memory_bytes, bytes_per_second, parallel, "tables are kept fast as [maintain.policy] says");
    pool.spawn(run(config.clone(), pool.limiter(), Arc::clone(tables), Arc::clone(status), stop));
    Ok(Some(pool))
}

async fn run(
    config: Config,
    limiter: Arc<Limiter>,
    tables: Arc<Tables>,
    status: Arc<Status>,
    mut stop: watch::Receiver<bool>,
) {
    let stores = crate::catalogs::stores(&config.catalog).with_pace(Arc::clone(&limiter) as _);
    let catalog = loop {
        match crate::catalogs::open_on(&config.catalog, stores.clone()).await {
            Ok(catalog) => break catalog,
            Err(e) => tracing::warn!("tables are not kept fast, trying again: {e}"),
        }
        if stopped_within(&mut stop, CATALOG_WAIT).await {
            return;
        }
    };
    let memory = Memory::new(config.maintain.budget.memory_bytes as usize);
    let manifests = ManifestCache::new(memory.manifest_bytes() as u64);
    let means = Means { config, catalog, stores, memory, manifests, limiter };
    let mut upkeep =
        Upkeep { means, tables, status, schedule: Schedule::default(), kept: HashMap::new(), seen: HashMap::new() };
    while !stopped_within(&mut stop, LOOK).await {
        upkeep.look();
        while let Some((table, kind)) = upkeep.next() {
            told::began(&table, kind);
            let before = upkeep.means.limiter.spent();
            let seen = upkeep.seen.get(&(table.name.clone(), kind)).copied();
            let work = AssertUnwindSafe(work::run(&upkeep.means, &table, kind, seen)).catch_unwind();
            let outcome = tokio::select! {
                // What is under way is given up: its files are in no snapshot.
                _ = stop.wait_for(|stop| *stop) => return,
                outcome = work => outcome,
            };
            // What goes wrong with one table keeps no other from its turn.
            let outcome = outcome.unwrap_or_else(|_| Outcome::Failed("it broke off: the log tells where".to_owned()));
            told::spent(&table.name, kind, upkeep.means.limiter.spent().since(before));
            upkeep.ended(&table, kind, outcome);
            upkeep.look();
        }
    }
}

struct Upkeep {
    means: Means,
    tables: Arc<Tables>,
    status: Arc<Status>,
    schedule: Schedule,
    /// By name.
    kept: HashMap<String, Arc<Kept>>,
    /// The snapshot that a run left in order.
    seen: HashMap<(String, Kind), i64>,
}

impl Upkeep {
    /// Which tables this process keeps may have changed.
    fn look(&mut self) {
        let mut all = Kept::open(&self.means.config, &self.tables);
        all.extend(Kept::of_pipelines(&self.means.config, &self.status));
        let (keeps, leaves): (Vec<_>, Vec<_>) = all.into_iter().partition(Kept::is_ours);
        for table in leaves.iter().filter(|table| self.kept.contains_key(&table.name)) {
            told::given_up(table);
            self.seen.retain(|(name, _), _| *name != table.name);
        }
        let named = keeps.iter().map(|table| (table.name.as_str(), &table.policy));
        self.schedule.keep(named, surroundings::now_ms());
        for table in keeps.iter().filter(|table| !self.kept.contains_key(&table.name)) {
            told::schedule(table, &self.schedule);
        }
        self.kept = keeps.into_iter().map(|table| (table.name.clone(), Arc::new(table))).collect();
    }

    /// What to do now, if anything.
    fn next(&mut self) -> Option<(Arc<Kept>, Kind)> {
        let turn = self.schedule.turn(surroundings::now_ms());
        for deferral in &turn.deferrals {
            if let Some(table) = self.kept.get(&deferral.table) {
                told::deferred(table, deferral);
            }
        }
        let (name, kind) = turn.run?;
        Some((Arc::clone(self.kept.get(&name)?), kind))
    }

    fn ended(&mut self, table: &Kept, kind: Kind, outcome: Outcome) {
        let at = (table.name.clone(), kind);
        let ended = match &outcome {
            Outcome::Nothing { snapshot_id, .. } => {
                match snapshot_id {
                    Some(snapshot_id) => self.seen.insert(at, *snapshot_id),
                    None => self.seen.remove(&at),
                };
                Ended::Well
            }
            Outcome::Done(_) => Ended::Well,
            Outcome::Failed(_) => Ended::Failed,
            Outcome::Early(_) => Ended::Early,
        };
        self.schedule.ended(&table.name, kind, ended, surroundings::now_ms());
        told::ended(table, kind, &outcome);
        told::schedule(table, &self.schedule);
    }
}
