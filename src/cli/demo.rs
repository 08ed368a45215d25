//! `firn demo`: see it all work on this machine, without any server.

use std::{io::IsTerminal, path::PathBuf};

use super::{
    Code, Failure, Output,
    print::{self, Grid},
};
use crate::demo::{self, DemoError, DemoOptions, Outcome, show::Voice};

/// See it all work on this machine, without any server.
///
/// Starts a Kafka in this process, fills it with changes of two made-up databases, runs the writer as a process of its own, kills it in
/// the middle (kill -9), starts it again, and then compares every table with what must be in it. Ends 0 only if all are equal. The
/// tables stay in --dir until the next demo.
#[derive(Clone, Debug, clap::Args)]
pub struct DemoArgs {
    /// Changes to generate
    #[arg(long, value_name = "N", default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1000..))]
    pub events: u64,
    /// The same seed generates the same rows
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Where configuration, catalog and tables go; what an earlier demo left there is replaced
    #[arg(long, value_name = "DIR", default_value = "./firn-demo")]
    pub dir: PathBuf,
    /// Keep the broker running after the proof, until Ctrl-C, to try other commands against it
    #[arg(long)]
    pub keep: bool,
}

/// # Errors
/// When the tables are not equal, or the demo does not get so far.
pub async fn run(args: DemoArgs, output: Output) -> Result<(), Failure> {
    output.not_csv()?;
    let voice = match output {
        Output::Json => Voice::Silent,
        _ if std::io::stderr().is_terminal() => Voice::Bars,
        _ => Voice::Lines,
    };
    let options = DemoOptions { events: args.events, seed: args.seed, dir: args.dir, voice };
    let (outcome, broker) = demo::run(options).await.map_err(failure)?;
    match output {
        Output::Json => print::json(&json(&outcome, args.seed))?,
        Output::Text | Output::Csv => print::text(&text(&outcome, args.seed))?,
    }
    if !outcome.equal() {
        return Err(Failure::failed(format!(
            "the tables are not equal to the model; run it again with --seed {} and see {}",
            args.seed,
            outcome.workspace.log_file().display()
        )));
    }
    if args.keep {
        eprintln!("the broker stays at {} until Ctrl-C", broker.bootstrap_servers());
        tokio::signal::ctrl_c().await?;
    }
    Ok(())
}

fn failure(error: DemoError) -> Failure {
    let code = match error {
        DemoError::ForeignDirectory { .. } => Code::Usage,
        _ => Code::Failed,
    };
    Failure::from_error(code, &error)
}

fn json(outcome: &Outcome, seed: u64) -> serde_json::Value {
    serde_json::json!({
        "equal": outcome.equal(),
        "seed": seed,
        "tables": outcome.tables,
        "changes": outcome.sent.changes,
        "tombstones": outcome.sent.tombstones,
        "kills": outcome.kills,
        "commits": outcome.commits(),
        "seconds": outcome.seconds,
        "changes_per_second": outcome.changes_per_second().round(),
        "config": outcome.workspace.config_file(),
    })
}

fn text(outcome: &Outcome, seed: u64) -> String {
    let mut grid =
        Grid::new(["table", "mode", "rows expected", "rows found", "duplicates", "different", "commits", ""]);
    for t in &outcome.tables {
        grid.row([
            t.table.clone(),
            t.mode.to_owned(),
            t.rows_expected.to_string(),
            t.rows_found.to_string(),
            t.duplicates.to_string(),
            t.different.to_string(),
            t.commits.to_string(),
            if t.equal() { "equal" } else { "NOT EQUAL" }.to_owned(),
        ]);
    }
    let mut text = format!("\n{}\n", grid.to_text());
    for table in &outcome.tables {
        for difference in &table.differences {
            text += &format!("{}: {difference}\n", table.table);
        }
    }
    text += &format!(
        "{} changes and {} tombstones (seed {seed}) in {:.1} s: {:.0} changes/s, {} kill -9, {} commits\n",
        outcome.sent.changes,
        outcome.sent.tombstones,
        outcome.seconds,
        outcome.changes_per_second(),
        outcome.kills,
        outcome.commits(),
    );
    if outcome.equal() {
        text +=
            "Every table equals the generator's model, row by row and value by value; no record is in a table twice.\n";
        text += &how_to_look(outcome);
    }
    text
}

fn how_to_look(outcome: &Outcome) -> String {
    let space = &outcome.workspace;
    format!(
        r#"
Look at it with firn:
  firn query -c {config} "SELECT status, count(*) FROM demo.orders GROUP BY status"

with PyIceberg (pip install 'pyiceberg[sql-sqlite,pyarrow]'):
  from pyiceberg.catalog import load_catalog
  catalog = load_catalog("demo", type="sql", uri="sqlite:///{catalog}", warehouse="file://{warehouse}")
  print(catalog.load_table("demo.orders").scan().to_arrow().num_rows)

and from there with DuckDB (pip install duckdb):
  duck = catalog.load_table("demo.orders").scan().to_duckdb("orders")
  print(duck.sql("SELECT status, count(*) FROM orders GROUP BY status"))
"#,
        config = space.config_file().display(),
        catalog = space.catalog_file().display(),
        warehouse = space.warehouse().display(),
    )
}
