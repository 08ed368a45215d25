//! `firn mirror tail`

use clap::{Args, Subcommand};
use serde_json::{Map, Value};

use super::print::Grid;
use super::{ConfigFile, Failure, Output};
use crate::pipeline::last_rows;

#[derive(Debug, Subcommand)]
pub(super) enum MirrorCommand {
    /// The rows of a pipeline's ClickHouse table with the highest offsets, the newest last
    Tail(TailArgs),
}

#[derive(Debug, Args)]
pub(super) struct TailArgs {
    #[command(flatten)]
    config: ConfigFile,
    /// The pipeline, or one of its sinks as PIPELINE.SINK
    #[arg(value_name = "PIPELINE")]
    name: String,
    /// How many rows
    #[arg(short, long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    number: u32,
}

pub(super) async fn run(command: &MirrorCommand, output: Output) -> Result<(), Failure> {
    let MirrorCommand::Tail(args) = command;
    let last = last_rows(&args.config.load()?, &args.name, args.number as usize).await.map_err(Failure::failed)?;
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
