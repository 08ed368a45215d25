//! `firn maintain compact`

use std::fmt::Write;
use std::sync::Arc;

use clap::Args;
use iceberg::TableIdent;
use serde::Serialize;
use tokio::runtime::Handle;

use super::super::exit::{Code, of_catalog};
use super::super::print::Grid;
use super::super::{Failure, Output, print};
use super::size::ByteSize;
use super::{Engine, Named, optimize};
use crate::maintain::budget::{Budget, Limiter, Pool};
use crate::maintain::compact::{CompactError, CompactReport, Compaction, GroupState, PartitionFilter};
use crate::memory::Memory;
use crate::sink::lake::LakeError;

#[derive(Clone, Debug, Args)]
pub(in crate::cli) struct CompactArgs {
    #[command(flatten)]
    named: Named,
    /// Only partitions with this value, as it stands in paths, as in day=2026-01-01; may be repeated
    #[arg(long, value_name = "FIELD=VALUE")]
    partition: Vec<PartitionFilter>,
    /// Only partitions of which this holds, as in "day >= 2026-01-01 and country = 'DE'"
    #[arg(long = "where", value_name = "FILTER")]
    filter: Option<PartitionFilter>,
    /// Size of a new file [default: the table's write.target-file-size-bytes, else 512MiB]
    #[arg(long, value_name = "SIZE")]
    target_size: Option<ByteSize>,
    /// Small files of one partition that are worth a rewrite [default: 5]
    #[arg(long, value_name = "N")]
    min_files: Option<usize>,
    /// Share of deleted rows from which a file is rewritten whatever its size [default: 0.3]
    #[arg(long, value_name = "SHARE", value_parser = share)]
    delete_ratio: Option<f64>,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Groups of files rewritten at once
    #[arg(long, value_name = "N", default_value_t = 2)]
    parallel: usize,
    /// Who does the work; Trino takes sizes and partitions, the rest is for this process
    #[arg(long, value_enum, default_value_t)]
    engine: Engine,
    /// What it may hold
    #[arg(long, value_name = "SIZE", default_value = "256MiB")]
    memory: ByteSize,
    /// Cores that it may use, on average over a second, as 0.5 [default: no bound]
    #[arg(long, value_name = "CORES", value_parser = cores)]
    cpu: Option<f64>,
    /// What it may read and write in a second [default: no bound]
    #[arg(long, value_name = "SIZE")]
    bytes_per_second: Option<ByteSize>,
}

fn cores(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(cores) if (0.01..=1024.0).contains(&cores) => Ok(cores),
        _ => Err(format!("`{text}` is no number of cores between 0.01 and 1024")),
    }
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err(format!("`{text}` is not a share between 0 and 1")),
    }
}

/// A table's answer: its report, or why there is none.
#[derive(Debug, Serialize)]
struct Answer {
    #[serde(flatten)]
    report: CompactReport,
    error: Option<String>,
}

pub(super) async fn run(args: &CompactArgs, output: Output) -> Result<(), Failure> {
    output.not_csv()?;
    let budget = Budget { cpu: args.cpu, bytes_per_second: args.bytes_per_second.map(|size| size.0) };
    if !budget.is_bounded() {
        return work(args, output, Limiter::unbounded()).await;
    }
    // What is to be counted runs on threads of its own.
    let pool = Pool::new(budget, args.parallel)?;
    let (args, limiter) = (args.clone(), pool.limiter());
    let work = pool.spawn(async move { work(&args, output, limiter).await });
    work.await.unwrap_or_else(|e| Err(Failure::failed(format!("the compaction broke off: {e}"))))
}

async fn work(args: &CompactArgs, output: Output, limiter: Arc<Limiter>) -> Result<(), Failure> {
    let config = args.named.config.load()?;
    let stores = crate::catalogs::stores(&config.catalog).with_pace(Arc::clone(&limiter) as _);
    let catalog = crate::catalogs::open_on(&config.catalog, stores).await?;
    let tables = args.named.tables(catalog.as_ref()).await?;
    let compaction = Compaction {
        parallel: args.parallel,
        target_bytes: args.target_size.map(|size| size.0),
        min_files: args.min_files,
        delete_ratio: args.delete_ratio,
        partitions: args
            .partition
            .iter()
            .chain(&args.filter)
            .cloned()
            .fold(PartitionFilter::default(), PartitionFilter::and),
        dry_run: args.dry_run,
        limiter,
        ..Compaction::new(Arc::clone(&catalog), Handle::current(), Memory::new(args.memory.0 as usize))
    };
    if let Some(trino) = args.engine.trino(&config)?.filter(|_| !args.dry_run) {
        let plans = Compaction { dry_run: true, ..compaction };
        return optimize::run(&trino, catalog.as_ref(), &plans, &tables, output).await;
    }
    let mut answers = vec![];
    let mut worst: Option<Failure> = None;
    for table in &tables {
        let (answer, failure) = one(&compaction, table).await;
        if output != Output::Json {
            print::text(&shown(&answer))?;
        }
        answers.push(answer);
        // What can't be reached comes before what is wrong with one table.
        worst = match (worst, failure) {
            (Some(worst), Some(failure))
                if failure.code() == Code::Unreachable && worst.code() != Code::Unreachable =>
            {
                Some(failure)
            }
            (worst, failure) => worst.or(failure),
        };
    }
    if output == Output::Json {
        print::json(&answers)?;
    }
    worst.map_or(Ok(()), Err)
}

async fn one(compaction: &Compaction, table: &TableIdent) -> (Answer, Option<Failure>) {
    match compaction.run(table).await {
        Ok(report) => {
            let bad = report.groups.iter().filter(|group| group.state.is_bad()).count();
            let failure = (bad > 0).then(|| {
                let code = match report.groups.iter().any(|g| matches!(g.state, GroupState::Open { .. })) {
                    true => Code::Unreachable,
                    false => Code::Failed,
                };
                let of = report.groups.len();
                Failure::new(code, format!("{bad} of {of} groups of {table} were not rewritten; run it again to go on"))
            });
            (Answer { report, error: None }, failure)
        }
        Err(e) => {
            let failure = Failure::from(e);
            let report = CompactReport { table: table.to_string(), ..CompactReport::default() };
            (Answer { report, error: Some(failure.to_string()) }, Some(failure))
        }
    }
}

impl From<CompactError> for Failure {
    fn from(e: CompactError) -> Self {
        let code = match &e {
            CompactError::Catalog(e) | CompactError::Lake(LakeError::Catalog(e)) => of_catalog(e),
            CompactError::Lake(_) | CompactError::Refused(_) => Code::Failed,
        };
        Self::from_error(code, &e)
    }
}

fn shown(answer: &Answer) -> String {
    let report = &answer.report;
    let table = &report.table;
    if let Some(e) = &answer.error {
        return format!("{table}: {e}\n");
    }
    if report.groups.is_empty() {
        return format!("{table}: nothing to rewrite\n");
    }
    let mut text = String::new();
    let (before, after) = (ByteSize(report.bytes_before), ByteSize(report.bytes_after));
    let verb = if report.dry_run { "would become" } else { "became" };
    let _ = write!(
        text,
        "{table}: {} files ({before}) {verb} {} ({after}), {} deleted rows gone",
        report.files_before, report.files_after, report.deleted_rows
    );
    if !report.dry_run {
        let _ = write!(
            text,
            ", {} delete files gone, {} rows deleted meanwhile moved along, {} commits, {} ms",
            report.delete_files_removed,
            report.moved_deletes,
            report.snapshots.len(),
            report.took_ms
        );
    }
    text.push('\n');
    let mut grid = Grid::new(["partition", "files", "bytes", "rows", "deleted", "delete files", "new files", "state"]);
    for group in &report.groups {
        grid.row([
            group.partition.clone(),
            group.files.to_string(),
            group.bytes.to_string(),
            group.rows.to_string(),
            group.deleted_rows.to_string(),
            group.delete_files.to_string(),
            group.new_files.to_string(),
            state(&group.state),
        ]);
    }
    text + &grid.to_text()
}

fn state(state: &GroupState) -> String {
    match state {
        GroupState::Planned => "planned".to_owned(),
        GroupState::Committed { snapshot_id } => format!("in snapshot {snapshot_id}"),
        GroupState::Deferred { reason } => format!("not begun: {reason}"),
        GroupState::Lost { reason } => format!("left: {reason}"),
        GroupState::Missing { path, .. } => format!("skipped: {path} is not in storage"),
        GroupState::Failed { reason } => format!("failed: {reason}"),
        GroupState::Open { reason } => format!("not known whether it is in the table: {reason}"),
    }
}
