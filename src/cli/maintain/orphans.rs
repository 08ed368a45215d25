//! `firn maintain orphans`

use clap::Args;
use firn_catalog::Catalog;
use firn_catalog::maintain::orphans::Found;
use firn_catalog::storage::Stores;
use iceberg::TableIdent;
use serde::Serialize;

use super::super::{Failure, Output};
use super::{Chosen, Sharing, answer};
use crate::config::period::Period;
use crate::maintain::orphans::{Wish, orphans};
use crate::maintain::trino::{self, Trino};

/// Files shown as text; JSON has all.
const SHOWN: usize = 20;
/// What is younger may belong to a commit under way, of another writer or of a backfill that takes hours.
const LEAST: Period = Period { ms: 86_400_000 };

#[derive(Debug, Args)]
pub(in crate::cli) struct OrphansArgs {
    #[command(flatten)]
    of: Chosen,
    #[command(flatten)]
    sharing: Sharing,
    /// Only files that are older: 12h, 3d
    #[arg(long, value_name = "AGE", default_value = "3d")]
    older_than: Period,
    /// Delete them; without it they are only shown
    #[arg(long)]
    delete: bool,
    /// Accept an age below one day, at which files of a commit under way may go
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Shown {
    Ours(Ours),
    /// It doesn't say what it removed.
    Trinos {
        deleted: bool,
    },
}

impl Shown {
    fn text(&self) -> String {
        match self {
            Self::Ours(ours) => ours.text(),
            Self::Trinos { .. } => "Trino has removed the orphans".to_owned(),
        }
    }
}

#[derive(Debug, Serialize)]
struct Ours {
    deleted: bool,
    orphans: usize,
    bytes: u64,
    /// Beyond what one run takes.
    more: u64,
    /// Unknown to the table, too, but not old enough.
    young: u64,
    listed: u64,
    files: Vec<String>,
}

pub(super) async fn run(args: &OrphansArgs, output: Output) -> Result<(), Failure> {
    if args.older_than < LEAST && !args.force {
        let text = format!(
            "--older-than {} is below {LEAST}: files of a commit that is under way would go; --force accepts that",
            args.older_than
        );
        return Err(Failure::usage(text));
    }
    let ground = args.of.open().await?;
    let stores = crate::catalogs::stores(&ground.config.catalog);
    let wish = Wish { age_ms: args.older_than.ms, delete: args.delete };
    // Trino shows none: what would go is looked for here.
    let one = async |catalog: &dyn Catalog, table: &TableIdent| match ground.trino.as_ref().filter(|_| args.delete) {
        Some(trino) => by_trino(trino, catalog, &stores, table, wish).await,
        None => Ok(Shown::Ours(Ours::of(orphans(catalog, &stores, table, wish).await?, args.delete))),
    };
    answer(&ground.each(&args.sharing, one).await, output, Shown::text)
}

/// What keeps firn from removing keeps Trino from it, too: Trino would not ask.
async fn by_trino(
    trino: &Trino,
    catalog: &dyn Catalog,
    stores: &Stores,
    table: &TableIdent,
    wish: Wish,
) -> Result<Shown, Failure> {
    let looked = orphans(catalog, stores, table, Wish { delete: false, ..wish }).await?;
    if looked.orphans.is_empty() {
        return Ok(Shown::Ours(Ours::of(looked, true)));
    }
    trino::orphans(trino, catalog, table, wish.age_ms).await?;
    Ok(Shown::Trinos { deleted: true })
}

impl Ours {
    fn of(found: Found, deleted: bool) -> Self {
        Self {
            deleted,
            orphans: found.orphans.len(),
            bytes: found.bytes(),
            more: found.more,
            young: found.young,
            listed: found.listed,
            files: found.orphans.into_iter().map(|o| o.path).collect(),
        }
    }

    fn text(&self) -> String {
        let Self { orphans, bytes, more, young, listed, files, .. } = self;
        let what = if self.deleted { "orphans deleted" } else { "orphans" };
        let mut text =
            format!("{orphans} {what} ({bytes} bytes) among {listed} files; {young} are too young to be judged");
        for path in files.iter().take(SHOWN) {
            text += &format!("\n  {path}");
        }
        if files.len() > SHOWN {
            text += &format!("\n  and {} more", files.len() - SHOWN);
        }
        if *more > 0 {
            text += &format!("\n  {more} further ones are left to another run");
        }
        if !self.deleted && *orphans > 0 {
            text += "\n  --delete removes them";
        }
        text
    }
}
