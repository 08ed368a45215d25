//! `firn mirror tail`

use clap::{Args, Subcommand};
use serde_json::{Map, Value};

use super::print::Grid;
use super::{ConfigFile, Failure, Output};
use crate::pipeline::last_rows;

#[derive(Debug, Subcommand)]
pub(super) enum MirrorCommand {
    /// The last rows of a pipeline's ClickHouse table: those with the highest offsets, or values of a column
    Tail(TailArgs),
}

#[derive(Debug, Args)]
pub(super) struct TailArgs {
    #[command(flatten)]
    config: ConfigFile,
    /// The pipeline, or one of its sinks as PIPELINE.SINK
    #[arg(value_name = "PIPELINE")]
    name: String,
    /// Rows with the highest values in this column, instead of the highest offsets
    #[arg(long, value_name = "COLUMN")]
    by: Option<String>,
    /// How many rows
    #[arg(short, long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    number: u32,
}

pub(super) async fn run(command: &MirrorCommand, output: Output) -> Result<(), Failure> {
    let MirrorCommand::Tail(args) = command;
    let (config, count) = (args.config.load()?, args.number as usize);
    let last = last_rows(&config, &args.name, args.by.as_deref(), count).await.map_err(Failure::failed)?;
    let mut grid = Grid::new(last.columns.clone());
    for row in &last.rows {
        grid.row(row.iter().map(plain));
    }
    let object =
        |row: &Vec<Value>| -> Map<String, Value> { last.columns.iter().cloned().zip(row.iter().cloned()).collect() };
    grid.print(output, &last.rows.iter().map(object).collect::<Vec<_>>())
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
