//! `firn maintain ...`: keeps tables fast. One run over the tables that are named, for a person or a scheduler.

mod compact;
mod expire;
mod manifests;
mod optimize;
mod orphans;
mod size;

use std::sync::Arc;

use clap::{Args, Subcommand, ValueEnum};
use firn_catalog::Catalog;
use firn_catalog::maintain::is_shared;
use iceberg::TableIdent;
use serde::Serialize;

use super::exit::{Code, Failure, of_catalog};
use super::{ConfigFile, Output, print, table};
use crate::config::Config;
use crate::maintain::trino::{Trino, TrinoError, WorkError};

#[derive(Debug, Subcommand)]
pub(super) enum MaintainCommand {
    /// Rewrite small files into large ones and apply their deletes, beside a writer that goes on
    Compact(compact::CompactArgs),
    /// Let old snapshots go, and delete what only they reached
    Expire(expire::ExpireArgs),
    /// Rewrite many small manifests into few, sorted by partition
    Manifests(manifests::ManifestsArgs),
    /// Find files under the tables' locations that the tables don't know, and delete them
    Orphans(orphans::OrphansArgs),
}

pub(super) async fn run(command: &MaintainCommand, output: Output) -> Result<(), Failure> {
    output.not_csv()?;
    match command {
        MaintainCommand::Compact(args) => compact::run(args, output).await,
        MaintainCommand::Expire(args) => expire::run(args, output).await,
        MaintainCommand::Manifests(args) => manifests::run(args, output).await,
        MaintainCommand::Orphans(args) => orphans::run(args, output).await,
    }
}

/// Who does the work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Engine {
    /// This process
    #[default]
    Embedded,
    /// The Trino of [maintain.trino]
    Trino,
}

impl Engine {
    /// `None` where this process does it.
    fn trino(self, config: &Config) -> Result<Option<Trino>, Failure> {
        if self == Engine::Embedded {
            return Ok(None);
        }
        let Some(trino) = &config.maintain.trino else {
            return Err(Failure::usage("--engine trino needs [maintain.trino] in the configuration: url and catalog"));
        };
        let settings = trino.settings().map_err(Failure::usage)?;
        Trino::new(settings).map(Some).map_err(|e| Failure::from_error(Code::Usage, &e))
    }
}

impl From<WorkError> for Failure {
    fn from(e: WorkError) -> Self {
        let code = match &e {
            WorkError::Trino(TrinoError::Unreachable { .. } | TrinoError::Denied { .. }) => Code::Unreachable,
            WorkError::Trino(TrinoError::Settings(_)) => Code::Usage,
            WorkError::Trino(TrinoError::Failed { .. }) => Code::Failed,
            WorkError::Catalog(e) => of_catalog(e),
        };
        Self::from_error(code, &e)
    }
}

/// Which tables.
#[derive(Clone, Debug, Args)]
#[group(skip)]
struct Named {
    #[command(flatten)]
    config: ConfigFile,
    /// namespace.table
    #[arg(value_name = "TABLE", required_unless_present = "all")]
    tables: Vec<String>,
    /// All Iceberg tables of the catalog
    #[arg(long, conflicts_with = "tables")]
    all: bool,
}

impl Named {
    async fn tables(&self, catalog: &dyn Catalog) -> Result<Vec<TableIdent>, Failure> {
        if self.all {
            return table::names(catalog).await;
        }
        let mut tables = Vec::new();
        for name in &self.tables {
            tables.push(table::load(catalog, name).await?.identifier().clone());
        }
        Ok(tables)
    }
}

/// Which tables, and how.
#[derive(Debug, Args)]
#[group(skip)]
struct Chosen {
    #[command(flatten)]
    named: Named,
    /// Who does the work
    #[arg(long, value_enum, default_value_t)]
    engine: Engine,
}

/// What becomes of tables none of whose files may go.
#[derive(Debug, Args)]
#[group(skip)]
struct Sharing {
    /// Leave tables alone whose files are shared (gc.enabled=false), as --all does, instead of refusing them
    #[arg(long)]
    leave_shared: bool,
}

/// The configuration, its catalog, and the chosen tables of it.
struct Ground {
    config: Config,
    catalog: Arc<dyn Catalog>,
    tables: Vec<TableIdent>,
    all: bool,
    trino: Option<Trino>,
}

impl Chosen {
    async fn open(&self) -> Result<Ground, Failure> {
        let config = self.named.config.load()?;
        let trino = self.engine.trino(&config)?;
        let catalog = crate::catalogs::open(&config.catalog).await?;
        let tables = self.named.tables(catalog.as_ref()).await?;
        Ok(Ground { config, catalog, tables, all: self.named.all, trino })
    }
}

impl Ground {
    /// Does it to each table whose files may go; what becomes of one keeps no other from its turn. A table whose files are shared is
    /// refused where it is named; among all it is left alone.
    async fn each<T: Serialize>(
        &self,
        sharing: &Sharing,
        work: impl AsyncFn(&dyn Catalog, &TableIdent) -> Result<T, Failure>,
    ) -> Vec<Outcome<T>> {
        let mut outcomes = Vec::new();
        for table in &self.tables {
            outcomes.push(match (self.all || sharing.leave_shared) && self.is_shared(table).await {
                true => Outcome::left_alone(table),
                false => Outcome::new(table, work(self.catalog.as_ref(), table).await),
            });
        }
        outcomes
    }

    async fn is_shared(&self, table: &TableIdent) -> bool {
        self.catalog.load(table).await.is_ok_and(|t| is_shared(t.metadata()))
    }
}

/// What became of one table.
#[derive(Debug, Serialize)]
struct Outcome<T> {
    table: String,
    #[serde(flatten)]
    done: Option<T>,
    /// Why `--all` left it alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    skipped: Option<&'static str>,
    error: Option<String>,
    #[serde(skip)]
    code: Option<Code>,
}

impl<T: Serialize> Outcome<T> {
    fn left_alone(table: &TableIdent) -> Self {
        Self { table: table.to_string(), done: None, skipped: Some("gc.enabled is false"), error: None, code: None }
    }

    fn new(table: &TableIdent, result: Result<T, Failure>) -> Self {
        let table = table.to_string();
        match result {
            Ok(done) => Self { table, done: Some(done), skipped: None, error: None, code: None },
            Err(e) => Self { table, done: None, skipped: None, error: Some(e.to_string()), code: Some(e.code()) },
        }
    }
}

/// Prints what became of the tables, a line or more for each; fails when one of them did.
fn answer<T: Serialize>(outcomes: &[Outcome<T>], output: Output, line: impl Fn(&T) -> String) -> Result<(), Failure> {
    match output {
        Output::Json => print::json(&outcomes)?,
        _ => {
            let told = outcomes.iter().filter_map(|o| {
                let what = o.done.as_ref().map(&line).or_else(|| Some(format!("left alone: {}", o.skipped?)))?;
                Some(format!("{}: {what}\n", o.table))
            });
            print::text(&told.collect::<String>())?;
        }
    }
    let failed: Vec<&Outcome<T>> = outcomes.iter().filter(|o| o.code.is_some()).collect();
    let worst = failed.iter().filter_map(|o| o.code).max_by_key(|code| *code as u8);
    let Some(worst) = worst else { return Ok(()) };
    let why = failed.iter().map(|o| format!("{}: {}", o.table, o.error.as_deref().unwrap_or_default()));
    Err(Failure::new(worst, why.collect::<Vec<_>>().join("\n")))
}

#[cfg(test)]
mod tests {
    use iceberg::NamespaceIdent;

    use super::*;

    #[test]
    fn one_table_that_fails_does_not_hide_the_others_and_decides_the_exit_code() {
        let ident = |name: &str| TableIdent::new(NamespaceIdent::new("a".to_owned()), name.to_owned());
        let outcomes = [
            Outcome::new(&ident("good"), Ok(1)),
            Outcome::new(&ident("bad"), Err(Failure::failed("refused"))),
            Outcome::new(&ident("away"), Err(Failure::new(Code::Unreachable, "no store"))),
        ];
        let failure = answer(&outcomes, Output::Text, |n: &i32| format!("{n} done")).unwrap_err();
        assert_eq!(failure.code(), Code::Unreachable);
        assert_eq!(failure.to_string(), "a.bad: refused\na.away: no store");
        answer(&outcomes[..1], Output::Text, |n: &i32| format!("{n} done")).unwrap();
    }
}
