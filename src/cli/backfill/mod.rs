//! `firn backfill`: a range of rows, read anew at the source or from the lake, to all sinks.

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use serde_json::json;

use super::exit::{Code, Failure, of_catalog};
use super::print::{self, Grid};
use super::{ConfigFile, Output};
use crate::pipeline::backfill::{
    self, Action, Affected, Backfill, BackfillError, Begun, Channel, Progress, State, Wish,
};

mod from_lake;
mod shown;

use shown::Shown;

const EXAMPLES: &str = "\
Examples:
  firn backfill --table public.events --column event_ts --from 2024-01-01 --to 2024-02-01
  firn backfill --table public.events --all --dry-run
  firn backfill --table public.events --all --from-lake
  firn backfill status
  firn backfill pause --table public.events

The same command again goes on with what it began.";

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true, after_help = EXAMPLES)]
pub(super) struct BackfillArgs {
    #[command(subcommand)]
    command: Option<BackfillCommand>,
    #[command(flatten)]
    begin: BeginArgs,
}

#[derive(Debug, Subcommand)]
enum BackfillCommand {
    /// How the last snapshots of the configuration's connectors stand, and the last backfills from the lake
    Status(StatusArgs),
    /// Have no more rows of a table read until told to; live changes flow on
    Pause(ControlArgs),
    /// Have them read on from there
    Resume(ControlArgs),
    /// Give up what is left of the range
    Stop(ControlArgs),
}

#[derive(Debug, Args)]
struct BeginArgs {
    #[command(flatten)]
    config: ConfigFile,
    /// A topic, schema.table at the source, or a lake table
    // None with a subcommand alone.
    #[arg(long, required = true, value_name = "TABLE")]
    table: Option<String>,
    /// The rows' column of a time or date that the range is of
    #[arg(long, value_name = "COLUMN")]
    column: Option<String>,
    /// The first moment: 2024-01-31, or 2024-01-31T12:00:00Z
    #[arg(long, value_name = "DATE", value_parser = day_or_moment, conflicts_with = "all")]
    from: Option<i64>,
    /// The first moment after the range
    #[arg(long, value_name = "DATE", value_parser = day_or_moment, conflicts_with = "all")]
    to: Option<i64>,
    /// All rows
    #[arg(long)]
    all: bool,
    /// Delete the range first in ClickHouse tables that otherwise get only what they lack; not with --from-lake
    #[arg(long)]
    replace: bool,
    /// Begin although rows that this sink has will be there twice; also where its SELECT leaves snapshots out (WHERE op <> 'r')
    #[arg(long, value_name = "SINK", value_delimiter = ',')]
    accept_doubles: Vec<String>,
    /// Take the rows from the lake table, which needs neither the source database nor its connector
    #[arg(long, conflicts_with_all = ["channel", "detach"])]
    from_lake: bool,
    /// Begin whatever else is said to be under way
    #[arg(long)]
    anew: bool,
    /// How the connector is told: by its signal topic, or by its signal table
    #[arg(long, value_enum, default_value_t)]
    channel: ChannelArg,
    /// Send the signal and end, without waiting for the rows
    #[arg(long)]
    detach: bool,
    /// End when the range is read, without waiting for the sinks
    #[arg(long)]
    no_wait: bool,
    /// Show what would be done
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
struct StatusArgs {
    #[command(flatten)]
    config: ConfigFile,
    /// How many of each connector
    #[arg(short, long, default_value_t = 5)]
    number: usize,
}

#[derive(Debug, Args)]
struct ControlArgs {
    #[command(flatten)]
    config: ConfigFile,
    /// A topic, schema.table at the source, or a lake table
    #[arg(long, value_name = "TABLE")]
    table: String,
    /// How the connector is told: by its signal topic, or by its signal table
    #[arg(long, value_enum, default_value_t)]
    channel: ChannelArg,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum ChannelArg {
    #[default]
    Auto,
    Topic,
    Table,
}

impl From<ChannelArg> for Channel {
    fn from(arg: ChannelArg) -> Self {
        match arg {
            ChannelArg::Auto => Channel::Auto,
            ChannelArg::Topic => Channel::Topic,
            ChannelArg::Table => Channel::Table,
        }
    }
}

pub(super) async fn run(args: BackfillArgs, output: Output) -> Result<(), Failure> {
    output.not_csv()?;
    match args.command {
        None => Box::pin(begin(args.begin, output)).await,
        Some(BackfillCommand::Status(args)) => status(&args, output).await,
        Some(BackfillCommand::Pause(args)) => control(&args, Action::Pause, output).await,
        Some(BackfillCommand::Resume(args)) => control(&args, Action::Resume, output).await,
        Some(BackfillCommand::Stop(args)) => control(&args, Action::Stop, output).await,
    }
}

/// What is to be done, or was.
#[derive(Serialize)]
struct Answer<'a> {
    topic: &'a str,
    table: String,
    /// Which Debezium connector reads, where one does.
    #[serde(skip_serializing_if = "Option::is_none")]
    connector: Option<&'a str>,
    range: &'a backfill::Range,
    sinks: &'a [Affected],
    objection: Option<String>,
    begun: Option<&'a Begun>,
    progress: Option<&'a Progress>,
}

impl<'a> Answer<'a> {
    fn of(backfill: &'a Backfill, begun: Option<&'a Begun>, progress: Option<&'a Progress>) -> Self {
        Self {
            topic: backfill.topic(),
            table: backfill.table().to_owned(),
            connector: Some(backfill.connector()),
            range: backfill.range(),
            sinks: &backfill.affected,
            objection: backfill.objection().filter(|_| begun.is_none()),
            begun,
            progress,
        }
    }
}

async fn begin(args: BeginArgs, output: Output) -> Result<(), Failure> {
    if !args.all && args.from.is_none() && args.to.is_none() {
        return Err(Failure::usage("say which rows: --from and --to, one of them, or --all"));
    }
    if let (Some(from), Some(to)) = (args.from, args.to)
        && from >= to
    {
        return Err(Failure::usage("--from has to be before --to"));
    }
    if args.from_lake && args.replace {
        return Err(Failure::usage(
            "--replace deletes what only the topic has since the lake's last commit: with --from-lake it isn't offered; backfill from the \
             source (without --from-lake), or fill in what is missing (without --replace)",
        ));
    }
    let config = args.config.load()?;
    let wish = Wish {
        table: args.table.unwrap_or_default(),
        column: args.column,
        from_ms: args.from,
        to_ms: args.to,
        channel: args.channel.into(),
        replace: args.replace,
        accept_doubles: args.accept_doubles.clone(),
        anew: args.anew,
    };
    if args.from_lake {
        return Box::pin(from_lake::begin(&config, wish, args.dry_run, args.no_wait, output)).await;
    }
    let backfill = backfill::prepare(&config, wish).await?;
    if output != Output::Json {
        print::text(&plan(&backfill))?;
    }
    if args.dry_run {
        return match output {
            Output::Json => print::json(&Answer::of(&backfill, None, None)),
            _ => print::text(&backfill.objection().map_or_else(String::new, |why| format!("not so: {why}\n"))),
        };
    }
    let begun = backfill.begin(&config).await?;
    if output != Output::Json {
        for (sink, rows) in &begun.deleted {
            print::text(&format!("{sink}: {rows} rows deleted\n"))?;
        }
        let how = if begun.already { "is under way" } else { "asked for" };
        print::text(&format!("{how}: {}\n", begun.id))?;
    }
    if args.detach {
        return match output {
            Output::Json => print::json(&Answer::of(&backfill, Some(&begun), None)),
            _ => print::text("`firn backfill status` shows how far it is\n"),
        };
    }
    let mut shown = Shown::new(output);
    let tell = shown.teller();
    let progress = backfill.watch(&begun.id, tell).await?;
    match &progress.state {
        State::Done => {}
        State::Failed { why } => return Err(Failure::failed(format!("{}: {why}", begun.id))),
        _ => return Err(Failure::failed(format!("{} was stopped before its end", begun.id))),
    }
    if !args.no_wait {
        backfill.wait_for_sinks(&config, &progress, shown.teller()).await?;
    }
    shown.finish();
    match output {
        Output::Json => print::json(&Answer::of(&backfill, Some(&begun), Some(&progress))),
        _ => print::text(&read(&progress)),
    }
}

/// The last line.
fn read(progress: &Progress) -> String {
    let rows = progress.rows.map_or_else(String::new, |rows| format!(", {rows} rows"));
    let left_out = progress.left_out.filter(|left_out| *left_out > 0);
    let left_out = left_out.map_or_else(String::new, |rows| format!(", {rows} left out that have changed since"));
    format!("100 %: {} is read{rows}{left_out}\n", progress.id)
}

fn plan(backfill: &Backfill) -> String {
    let from = format!("topic {}, connector {}", backfill.topic(), backfill.connector());
    planned(backfill.table(), &from, backfill.range(), &backfill.affected)
}

fn planned(table: &str, from: &str, range: &backfill::Range, affected: &[Affected]) -> String {
    let condition = if range.condition.is_empty() { "all rows" } else { &range.condition };
    let mut text = format!("{table} ({from}): {condition}\n");
    let mut grid = Grid::new(["sink", "rows that it has"]);
    for affected in affected {
        grid.row([affected.sink.clone(), affected.effect.to_string()]);
    }
    text += &grid.to_text();
    text
}

async fn status(args: &StatusArgs, output: Output) -> Result<(), Failure> {
    let standings = backfill::standings(&args.config.load()?, args.number).await?;
    let mut grid = Grid::new(["connector", "id", "table", "state", "read", "rows", "began", "last told"]);
    for standing in &standings {
        let p = &standing.progress;
        grid.row([
            standing.connector.clone(),
            p.id.clone(),
            p.table.clone(),
            shown::state(&p.state),
            p.percent().map_or_else(String::new, |percent| format!("{percent} %")),
            p.rows.map_or_else(String::new, |rows| rows.to_string()),
            moment(p.began_ms),
            moment(p.told_ms),
        ]);
    }
    grid.print(output, &standings)
}

async fn control(args: &ControlArgs, action: Action, output: Output) -> Result<(), Failure> {
    let progress = backfill::control(&args.config.load()?, &args.table, action, args.channel.into()).await?;
    match output {
        Output::Json => print::json(&json!(progress)),
        _ => {
            let percent = progress.percent().map_or_else(String::new, |percent| format!(" at {percent} %"));
            print::text(&format!("{} of {}: {}{percent}\n", progress.id, progress.table, shown::state(&progress.state)))
        }
    }
}

fn moment(ms: i64) -> String {
    chrono::DateTime::from_timestamp_millis(ms)
        .map_or_else(String::new, |at| at.format("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// A day's beginning in UTC, or a moment; ms since the epoch.
fn day_or_moment(text: &str) -> Result<i64, String> {
    if let Ok(day) = text.parse::<chrono::NaiveDate>() {
        return Ok(day.and_time(chrono::NaiveTime::MIN).and_utc().timestamp_millis());
    }
    match chrono::DateTime::parse_from_rfc3339(text) {
        Ok(at) => Ok(at.timestamp_millis()),
        Err(_) => Err("neither a day (2024-01-31, in UTC) nor a moment (2024-01-31T12:00:00Z)".to_owned()),
    }
}

impl From<BackfillError> for Failure {
    fn from(e: BackfillError) -> Self {
        use crate::source::kafka::SourceError;
        let code = match &e {
            BackfillError::Connect(_)
            | BackfillError::Unreachable(_)
            | BackfillError::Database(_)
            | BackfillError::Send(_)
            | BackfillError::Transaction(_)
            | BackfillError::Source(SourceError::Unreachable { .. }) => Code::Unreachable,
            BackfillError::Catalog(c) => of_catalog(c),
            _ => Code::Failed,
        };
        Self::from_error(code, &e)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("1970-01-02", Some(86_400_000))]
    #[case("1970-01-01T00:00:01Z", Some(1_000))]
    #[case("1970-01-01T01:00:00+01:00", Some(0))]
    #[case("yesterday", None)]
    #[case("2024-02-30", None)]
    fn a_bound_is_a_day_or_a_moment(#[case] text: &str, #[case] want: Option<i64>) {
        assert_eq!(day_or_moment(text).ok(), want);
    }
}
