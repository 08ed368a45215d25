//! `firn adopt`: shows where it would go on with another writer's table, asks, does it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{ArgGroup, Args};
use serde::Serialize;

use super::exit::{Code, Failure, of_catalog};
use super::moment::moment;
use super::print::{self, Grid};
use super::rewind::{confirm, offsets};
use super::{ConfigFile, Output, table};
use crate::pipeline::adopt::{AdoptError, From as Where, PreparedAdoption, prepare};
use crate::sink::lake::LakeError;
use crate::source::kafka::SourceError;

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("from").required(true))]
pub(super) struct AdoptArgs {
    #[command(flatten)]
    config: ConfigFile,
    /// namespace.table
    #[arg(value_name = "TABLE")]
    table: String,
    /// The next offset to read of each partition, as in 0:123,1:456
    #[arg(long, value_name = "PARTITION:OFFSET,...", value_parser = offsets, group = "from")]
    offsets: Option<BTreeMap<i32, i64>>,
    /// The first records that are not older: 2026-01-31T12:00:00Z, or a time ago such as 90s, 12h, 7d
    #[arg(long, value_name = "TIME", value_parser = moment, group = "from", allow_hyphen_values = true)]
    timestamp: Option<i64>,
    /// The checkpoint folder of the Spark Structured Streaming query that filled it, on this machine
    #[arg(long, value_name = "FOLDER", group = "from")]
    spark_checkpoint: Option<PathBuf>,
    /// The topic, where several feed the table
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,
    /// Only show what would be done
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// Do it without asking
    #[arg(short, long)]
    yes: bool,
}

impl AdoptArgs {
    /// clap wants one of them.
    fn from(&self) -> Where {
        match (&self.spark_checkpoint, self.timestamp) {
            (Some(folder), _) => Where::Spark(folder.clone()),
            (None, Some(ms)) => Where::Timestamp(ms),
            (None, None) => Where::Offsets(self.offsets.clone().unwrap_or_default()),
        }
    }
}

/// What was done, or would be.
#[derive(Debug, Serialize)]
struct Shown {
    table: String,
    topic: String,
    mode: &'static str,
    /// By partition.
    next_offsets: BTreeMap<i32, i64>,
    rows: u64,
    /// What changes in the columns.
    columns: Vec<String>,
    warnings: Vec<String>,
    /// The commit; `null` where nothing was done.
    snapshot_id: Option<i64>,
}

pub(super) async fn run(args: &AdoptArgs, output: Output) -> Result<(), Failure> {
    output.not_csv()?;
    let config = args.config.load()?;
    let catalog = crate::catalogs::open(&config.catalog).await?;
    let ident = table::load(catalog.as_ref(), &args.table).await?.identifier().clone();
    let prepared = prepare(&config, catalog, &ident, args.topic.as_deref(), &args.from()).await?;
    let outlook = shown(&prepared, None);
    if args.dry_run {
        return match output {
            Output::Json => print::json(&outlook),
            _ => print::text(&text(&outlook)),
        };
    }
    if output != Output::Json {
        print::text(&text(&outlook))?;
    }
    if !args.yes {
        confirm(&format!("go on with {}", outlook.table))?;
    }
    let snapshot_id = prepared.commit().await?;
    match output {
        Output::Json => print::json(&shown(&prepared, Some(snapshot_id))),
        _ => {
            print::text(&format!("{} has its position in snapshot {snapshot_id}; `firn run` goes on\n", outlook.table))
        }
    }
}

fn shown(prepared: &PreparedAdoption, snapshot_id: Option<i64>) -> Shown {
    Shown {
        table: prepared.table.clone(),
        topic: prepared.topic.clone(),
        mode: prepared.mode.as_str(),
        next_offsets: prepared.position.positions().map(|(at, next)| (at.partition, next)).collect(),
        rows: prepared.rows,
        columns: prepared.columns.clone(),
        warnings: prepared.warnings.clone(),
        snapshot_id,
    }
}

fn text(shown: &Shown) -> String {
    let mut out = format!("{} ({}): its {} rows stay\n", shown.table, shown.mode, shown.rows);
    let mut grid = Grid::new(["partition", "goes on at"]);
    for (partition, next) in &shown.next_offsets {
        grid.row([format!("{}/{partition}", shown.topic), next.to_string()]);
    }
    out += &grid.to_text();
    if !shown.columns.is_empty() {
        out += &format!("its columns change: {}\n", shown.columns.join(", "));
    }
    for warning in &shown.warnings {
        out += &format!("warning: {warning}\n");
    }
    out
}

impl From<AdoptError> for Failure {
    fn from(e: AdoptError) -> Self {
        let code = match &e {
            AdoptError::Lake(LakeError::Catalog(c)) | AdoptError::Undecided(c) => of_catalog(c),
            AdoptError::Source(SourceError::Unreachable { .. }) => Code::Unreachable,
            _ => Code::Failed,
        };
        Self::from_error(code, &e)
    }
}
