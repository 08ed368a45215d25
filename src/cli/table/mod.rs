//! `firn table list|show|history|files|health|preview`: what is in the catalog, from metadata alone but for the preview. `sweep` writes.

mod files;
mod health;
mod history;
mod list;
mod show;
mod sweep;

use std::sync::Arc;

use clap::{Args, Subcommand};
use firn_catalog::{Catalog, ErrorKind};
use iceberg::table::Table;
use iceberg::{NamespaceIdent, TableIdent};

use super::{ConfigFile, Failure, Output, query, sql};
use crate::config::Config;
use crate::config::error::nearest;

#[derive(Debug, Subcommand)]
pub(super) enum TableCommand {
    /// All Iceberg tables of the catalog
    List(ConfigFile),
    /// Columns, layout, size, positions and properties of a table
    Show(OneTable),
    /// The snapshots of a table, newest first
    History(SomeOfTable),
    /// The data and delete files of the current snapshot
    Files(OneTable),
    /// How tables do: files, deletes, manifests, snapshots, what a scan costs, and what to do
    Health(health::HealthArgs),
    /// Some rows
    Preview(SomeOfTable),
    /// Remove the rows that a new snapshot of the source did not find again
    Sweep(sweep::SweepArgs),
}

#[derive(Debug, Args)]
pub(super) struct OneTable {
    #[command(flatten)]
    config: ConfigFile,
    /// namespace.table
    #[arg(value_name = "TABLE")]
    table: String,
}

#[derive(Debug, Args)]
pub(super) struct SomeOfTable {
    #[command(flatten)]
    of: OneTable,
    /// At most so many
    #[arg(short = 'n', long, default_value_t = 20, value_name = "N")]
    limit: usize,
}

pub(super) async fn run(command: &TableCommand, output: Output) -> Result<(), Failure> {
    match command {
        TableCommand::List(file) => list::run(open(file).await?.as_ref(), output).await,
        TableCommand::Show(args) => show::run(&args.load().await?, output),
        TableCommand::History(args) => history::run(&args.of.load().await?, args.limit, output),
        TableCommand::Files(args) => files::run(&args.load().await?, output).await,
        TableCommand::Health(args) => health::run(args, output).await,
        TableCommand::Sweep(args) => sweep::run(args, output).await,
        TableCommand::Preview(args) => {
            let catalog = open(&args.of.config).await?;
            let ident = load(catalog.as_ref(), &args.of.table).await?.identifier().clone();
            let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
            let from = format!("{}.{}", quoted(&ident.namespace.join(".")), quoted(&ident.name));
            let answer = sql::query(catalog, &format!("SELECT * FROM {from} LIMIT {}", args.limit)).await?;
            query::show(&answer, output)
        }
    }
}

async fn open(file: &ConfigFile) -> Result<Arc<dyn Catalog>, Failure> {
    Ok(crate::catalogs::open(&file.load()?.catalog).await?)
}

impl OneTable {
    pub(super) fn config(&self) -> Result<Config, Failure> {
        self.config.load()
    }

    pub(super) async fn load(&self) -> Result<Table, Failure> {
        load(open(&self.config).await?.as_ref(), &self.table).await
    }
}

/// Loads `namespace.table`; where there is none, names the nearest that is there.
pub(in crate::cli) async fn load(catalog: &dyn Catalog, name: &str) -> Result<Table, Failure> {
    let Some((namespace, table)) = name.rsplit_once('.') else {
        return Err(Failure::usage(format!("`{name}` is not namespace.table; `firn table list` shows what is there")));
    };
    let namespace = NamespaceIdent::from_strs(namespace.split('.')).map_err(|e| Failure::usage(e.to_string()))?;
    match catalog.load(&TableIdent::new(namespace, table.to_owned())).await {
        Err(e) if e.kind() == ErrorKind::NotFound => {
            let names: Vec<String> = names(catalog).await?.iter().map(ToString::to_string).collect();
            let hint = nearest(name, names.iter().map(String::as_str))
                .map_or_else(|| "`firn table list` shows what is there".to_owned(), |n| format!("did you mean {n}?"));
            Err(Failure::failed(format!("there is no table {name}; {hint}")))
        }
        other => Ok(other?),
    }
}

/// All tables, in order.
pub(in crate::cli) async fn names(catalog: &dyn Catalog) -> Result<Vec<TableIdent>, Failure> {
    let mut names = Vec::new();
    for namespace in catalog.list_namespaces().await? {
        names.extend(catalog.list_tables(&namespace).await?);
    }
    names.sort_by_key(ToString::to_string);
    Ok(names)
}

/// A time in UTC to the second.
fn utc(ms: i64) -> String {
    chrono::DateTime::from_timestamp_millis(ms)
        .map_or_else(|| ms.to_string(), |t| t.format("%Y-%m-%d %H:%M:%SZ").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_mistyped_table_is_answered_with_the_nearest() {
        let catalog = firn_catalog::memory::MemoryCatalog::default();
        let namespace = NamespaceIdent::new("inventory".to_owned());
        catalog.ensure_namespace(&namespace, Default::default()).await.unwrap();
        let schema = iceberg::spec::Schema::builder().build().unwrap();
        let creation = iceberg::TableCreation::builder().name("orders".to_owned()).schema(schema).build();
        catalog.create(&namespace, creation).await.unwrap();
        assert_eq!(load(&catalog, "inventory.orders").await.unwrap().identifier().name(), "orders");
        let wrong = load(&catalog, "inventory.ordrs").await.unwrap_err().to_string();
        assert!(wrong.contains("did you mean inventory.orders?"), "{wrong}");
        let bare = load(&catalog, "orders").await.unwrap_err();
        assert_eq!(bare.code(), crate::cli::Code::Usage);
    }
}
