//! Snapshots that are old enough go, with what only they reached.

use firn_catalog::maintain::expire::{ExpireError, Expired, expire as expire_snapshots, preview};
use firn_catalog::maintain::retention::Rules;
use firn_catalog::{Catalog, Patience};
use iceberg::TableIdent;
use iceberg::table::Table;

use crate::config::Config;
use crate::maintain::horizon_ms;
use crate::maintain::trino::{self, Trino, WorkError};
use crate::sink::lake::{CHECKPOINT, LAST_SNAPSHOT_ID};

/// What a person or a policy asks for; what isn't stated, the table's properties say.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wish {
    pub max_age_ms: Option<u64>,
    pub min_kept: Option<u64>,
    pub dry_run: bool,
}

impl Wish {
    fn rules(&self, config: &Config, table: &Table) -> Rules<'static> {
        Rules {
            max_age_ms: self.max_age_ms,
            min_kept: self.min_kept,
            horizon_ms: horizon_ms(config, table),
            tells: Some(CHECKPOINT),
            last: Some(LAST_SNAPSHOT_ID),
        }
    }
}

/// The same, and Trino does it.
///
/// # Errors
/// See [`WorkError`].
pub async fn expire_by(
    trino: &Trino,
    config: &Config,
    catalog: &dyn Catalog,
    table: &TableIdent,
    wish: Wish,
) -> Result<trino::Expired, WorkError> {
    let rules = wish.rules(config, &catalog.load(table).await?);
    trino::expire(trino, catalog, table, &rules).await
}

/// Lets snapshots of the table go, never one within its rewind horizon. The oldest of main that stays tells where firn stood.
///
/// # Errors
/// See [`ExpireError`].
pub async fn expire(
    config: &Config,
    catalog: &dyn Catalog,
    table: &TableIdent,
    wish: Wish,
) -> Result<Expired, ExpireError> {
    let loaded = catalog.load(table).await?;
    let rules = wish.rules(config, &loaded);
    match wish.dry_run {
        true => Ok(preview(&loaded, &rules).await?),
        false => expire_snapshots(catalog, table, &rules, Patience::default()).await,
    }
}
