//! `firn maintain expire`

use clap::Args;
use firn_catalog::Catalog;
use firn_catalog::maintain::Removed;
use firn_catalog::maintain::expire::{ExpireError, Expired};
use iceberg::TableIdent;
use serde::Serialize;

use super::super::Output;
use super::super::exit::{Failure, of_catalog};
use super::{Chosen, Sharing, answer};
use crate::config::period::Period;
use crate::maintain::expire::{Wish, expire, expire_by};
use crate::maintain::trino;

#[derive(Debug, Args)]
pub(in crate::cli) struct ExpireArgs {
    #[command(flatten)]
    of: Chosen,
    #[command(flatten)]
    sharing: Sharing,
    /// Snapshots that are older go: 12h, 5d [default: the table's history.expire.max-snapshot-age-ms, else 5d]
    #[arg(long, value_name = "AGE")]
    older_than: Option<Period>,
    /// Keep so many of each branch, however old [default: the table's history.expire.min-snapshots-to-keep, else 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    retain_last: Option<u64>,
    /// Only show what would go
    #[arg(long)]
    dry_run: bool,
}

/// What went, or would go.
#[derive(Debug, Serialize)]
struct Shown {
    dry_run: bool,
    expired_snapshots: usize,
    kept_snapshots: usize,
    /// Tags and branches.
    expired_references: Vec<String>,
    /// Trino doesn't say.
    removed: Option<Removed>,
}

pub(super) async fn run(args: &ExpireArgs, output: Output) -> Result<(), Failure> {
    let ground = args.of.open().await?;
    let wish =
        Wish { max_age_ms: args.older_than.map(|age| age.ms), min_kept: args.retain_last, dry_run: args.dry_run };
    let one = async |catalog: &dyn Catalog, table: &TableIdent| match ground.trino.as_ref().filter(|_| !args.dry_run) {
        Some(trino) => Ok(Shown::of_trinos(expire_by(trino, &ground.config, catalog, table, wish).await?)),
        None => Ok(Shown::of(expire(&ground.config, catalog, table, wish).await?, args.dry_run)),
    };
    answer(&ground.each(&args.sharing, one).await, output, Shown::text)
}

impl Shown {
    fn of(expired: Expired, dry_run: bool) -> Self {
        Self {
            dry_run,
            expired_snapshots: expired.snapshots.len(),
            kept_snapshots: expired.kept,
            expired_references: expired.references,
            removed: Some(expired.removed),
        }
    }

    fn of_trinos(expired: trino::Expired) -> Self {
        Self {
            dry_run: false,
            expired_snapshots: expired.snapshots,
            kept_snapshots: expired.kept,
            expired_references: expired.references,
            removed: None,
        }
    }

    fn text(&self) -> String {
        let (went, deleted) = match self.dry_run {
            true => ("would expire", "would be deleted"),
            false => ("expired", "deleted"),
        };
        let mut text = format!("{} snapshots {went}, {} stay", self.expired_snapshots, self.kept_snapshots);
        for name in &self.expired_references {
            text += &format!("; the reference {name} {went}");
        }
        let Some(removed) = &self.removed else { return text };
        let Removed { data_files, delete_files, manifests, manifest_lists, other_files, bytes, unread } = removed;
        if removed.files() > 0 {
            text += &format!(
                "; {data_files} data files, {delete_files} delete files, {manifests} manifests, {manifest_lists} manifest lists and \
                 {other_files} other files {deleted} ({bytes} bytes)"
            );
        }
        for path in unread {
            text += &format!("\n  not read, so what it names is left to `firn maintain orphans`: {path}");
        }
        text
    }
}

impl From<ExpireError> for Failure {
    fn from(e: ExpireError) -> Self {
        let (ExpireError::Catalog(cause) | ExpireError::Left { cause, .. }) = &e;
        Self::from_error(of_catalog(cause), &e)
    }
}
