//! `firn maintain manifests`

use clap::Args;
use firn_catalog::maintain::manifests::{Rewritten, preview, rewrite};
use firn_catalog::{Catalog, Patience};
use iceberg::TableIdent;
use serde::Serialize;

use super::super::{Failure, Output};
use super::{Chosen, Outcome, answer};
use crate::maintain::trino;

#[derive(Debug, Args)]
pub(in crate::cli) struct ManifestsArgs {
    #[command(flatten)]
    of: Chosen,
    /// Only show what would be done
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Serialize)]
struct Shown {
    dry_run: bool,
    manifests_before: usize,
    manifests_after: usize,
    replaced: usize,
    created: usize,
    snapshots: Vec<i64>,
}

pub(super) async fn run(args: &ManifestsArgs, output: Output) -> Result<(), Failure> {
    let ground = args.of.open().await?;
    let mut outcomes = Vec::new();
    for table in &ground.tables {
        let catalog = ground.catalog.as_ref();
        let shown = match ground.trino.as_ref().filter(|_| !args.dry_run) {
            Some(trino) => {
                let counts = trino::manifests(trino, catalog, table).await;
                let of = |(before, after)| Shown::of(Rewritten { before, after, ..Rewritten::default() }, false);
                counts.map(of).map_err(Failure::from)
            }
            None => {
                let done = one(catalog, table, args.dry_run).await;
                done.map(|done| Shown::of(done, args.dry_run)).map_err(Failure::from)
            }
        };
        outcomes.push(Outcome::new(table, shown));
    }
    answer(&outcomes, output, Shown::text)
}

async fn one(catalog: &dyn Catalog, table: &TableIdent, dry_run: bool) -> firn_catalog::Result<Rewritten> {
    match dry_run {
        true => preview(&catalog.load(table).await?).await,
        false => rewrite(catalog, table, Patience::default()).await,
    }
}

impl Shown {
    fn of(done: Rewritten, dry_run: bool) -> Self {
        let Rewritten { before, after, replaced, created, snapshots } = done;
        Self { dry_run, manifests_before: before, manifests_after: after, replaced, created, snapshots }
    }

    fn text(&self) -> String {
        let Self { manifests_before: before, manifests_after: after, replaced, created, .. } = self;
        match (self.replaced, self.dry_run) {
            (0, false) if before != after => format!("{before} manifests became {after}"),
            (0, _) => format!("{before} manifests: nothing to gain"),
            (_, true) => format!("{before} manifests would become about {after}: {replaced} replaced by {created}"),
            (_, false) => format!("{before} manifests became {after}: {replaced} replaced by {created}"),
        }
    }
}
