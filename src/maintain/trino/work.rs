//! The maintenance that Trino does, by its procedures. What may go is decided here, as for firn's own work.

use std::collections::HashSet;

use firn_catalog::maintain::orphans::announce;
use firn_catalog::maintain::retention::Rules;
use firn_catalog::{Catalog, Patience, surroundings};
use iceberg::TableIdent;
use iceberg::table::Table;

use super::{Trino, TrinoError};

/// Of one statement that meets other writers' commits.
const TRIES: usize = 5;

#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    #[error(transparent)]
    Trino(#[from] TrinoError),
    #[error(transparent)]
    Catalog(#[from] firn_catalog::Error),
}

/// What an expiry did.
#[derive(Clone, Debug, Default)]
pub struct Expired {
    pub snapshots: usize,
    pub kept: usize,
    pub references: Vec<String>,
}

/// Lets go what the rules say. Trino takes an age alone: it is told one at which everything stays that has to.
///
/// # Errors
/// See [`WorkError`].
pub async fn expire(
    trino: &Trino,
    catalog: &dyn Catalog,
    ident: &TableIdent,
    rules: &Rules<'_>,
) -> Result<Expired, WorkError> {
    let table = catalog.load(ident).await?;
    let now_ms = surroundings::now_ms();
    let expiring = rules.expiring(table.metadata(), now_ms)?;
    if expiring.is_empty() {
        return Ok(Expired { kept: table.metadata().snapshots().len(), ..Expired::default() });
    }
    if let Some(branch) = expiring.older_than_own_age.first() {
        let why = format!(
            "{ident}: Trino goes by the branch {branch}'s own max-snapshot-age-ms, and would let go snapshots that have to stay \
             (their number, the rewind horizon, firn's position): run it without --engine trino"
        );
        return Err(firn_catalog::Error::new(firn_catalog::ErrorKind::Unsupported, why).into());
    }
    let statement = || {
        // Trino counts from when it begins: an age that is told late would reach further.
        let age_ms = surroundings::now_ms().saturating_sub(expiring.oldest_kept_ms.unwrap_or(0)).max(0) + CLOCKS_MS;
        format!("ALTER TABLE {} EXECUTE expire_snapshots(retention_threshold => '{age_ms}ms')", trino.table(ident))
    };
    again(trino, statement, &[trino.session("expire_snapshots_min_retention", "0s")]).await?;
    let after = catalog.load(ident).await?;
    let gone = table.metadata().snapshots().filter(|s| after.metadata().snapshot_by_id(s.snapshot_id()).is_none());
    let gone_references = |name: &String| after.metadata().snapshot_for_ref(name).is_none();
    Ok(Expired {
        snapshots: gone.count(),
        kept: after.metadata().snapshots().len(),
        references: expiring.references.into_iter().filter(gone_references).collect(),
    })
}

/// Trino's clock may be behind by so much.
const CLOCKS_MS: i64 = 1_000;

/// Removes files of that age that the table doesn't know. The table is told before, as when firn removes them: its writer is safe at any age.
///
/// # Errors
/// See [`WorkError`].
pub async fn orphans(trino: &Trino, catalog: &dyn Catalog, ident: &TableIdent, age_ms: u64) -> Result<(), WorkError> {
    announce(catalog, ident, age_ms, surroundings::now_ms(), Patience::default()).await?;
    let table = trino.table(ident);
    let statement = format!("ALTER TABLE {table} EXECUTE remove_orphan_files(retention_threshold => '{age_ms}ms')");
    again(trino, || statement.clone(), &[trino.session("remove_orphan_files_min_retention", "0s")]).await?;
    Ok(())
}

/// Few manifests, sorted by partition. Answers how many there were, and are.
///
/// # Errors
/// See [`WorkError`].
pub async fn manifests(trino: &Trino, catalog: &dyn Catalog, ident: &TableIdent) -> Result<(usize, usize), WorkError> {
    let before = count_manifests(&catalog.load(ident).await?).await?;
    again(trino, || format!("ALTER TABLE {} EXECUTE optimize_manifests", trino.table(ident)), &[]).await?;
    Ok((before, count_manifests(&catalog.load(ident).await?).await?))
}

async fn count_manifests(table: &Table) -> Result<usize, firn_catalog::Error> {
    Ok(firn_catalog::live::manifests(table, table.metadata().current_snapshot_id()).await?.len())
}

/// What a compaction did.
#[derive(Clone, Debug, Default)]
pub struct Optimized {
    pub statements: usize,
    /// Conditions of statements that lost to other writers each time.
    pub lost: Vec<String>,
}

/// Rewrites files below `threshold_bytes`; `conditions` are those of the partitions that are worth it. Where a rewrite of all of it loses to another
/// writer, each partition is rewritten by itself: the shorter it takes, the less comes in between.
///
/// # Errors
/// See [`WorkError`]; a conflict is none.
pub async fn optimize(
    trino: &Trino,
    ident: &TableIdent,
    threshold_bytes: u64,
    conditions: &[String],
) -> Result<Optimized, WorkError> {
    let conditions: Vec<&String> = {
        let mut seen = HashSet::new();
        conditions.iter().filter(|c| seen.insert(*c)).collect()
    };
    let table = trino.table(ident);
    let statement = |condition: &str| {
        let condition = if condition.is_empty() { String::new() } else { format!(" WHERE {condition}") };
        format!("ALTER TABLE {table} EXECUTE optimize(file_size_threshold => '{threshold_bytes}B'){condition}")
    };
    let mut done = Optimized { statements: 1, lost: Vec::new() };
    let whole = conditions.iter().map(|c| c.as_str()).filter(|c| !c.is_empty()).map(|c| format!("({c})"));
    let whole =
        if conditions.iter().any(|c| c.is_empty()) { String::new() } else { whole.collect::<Vec<_>>().join(" OR ") };
    match trino.run(&statement(&whole), &[]).await {
        Ok(_) => return Ok(done),
        Err(e) if e.is_conflict() => tracing::info!(table = %ident, "another writer was first: partition by partition"),
        Err(e) => return Err(e.into()),
    }
    for condition in conditions {
        done.statements += 1;
        match again(trino, || statement(condition), &[]).await {
            Err(e) if e.is_conflict() => done.lost.push(condition.clone()),
            other => other?,
        }
    }
    Ok(done)
}

/// Until it meets no other writer's commit.
async fn again(trino: &Trino, statement: impl Fn() -> String, session: &[(String, String)]) -> Result<(), TrinoError> {
    let mut n = 1;
    loop {
        match trino.run(&statement(), session).await {
            Err(e) if e.is_conflict() && n < TRIES => n += 1,
            other => return other.map(|_| ()),
        }
    }
}
