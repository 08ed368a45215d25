//! What a person types. One module a command; each answers on standard output, as text or as JSON.
//!
//! Knows clap, terminals and exit codes; the work itself is done by the library's other parts.

mod adopt;
mod backfill;
mod check;
mod config;
mod dead_letters;
#[cfg(feature = "demo")]
mod demo;
mod exit;
mod generate;
mod index;
mod maintain;
mod mirror;
mod moment;
mod outbox;
mod pipeline;
mod print;
mod query;
mod rewind;
mod rewind_sink;
mod run;
mod sql;
mod status;
mod table;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use exit::{Code, Failure, with_causes};

use crate::config::{Config, LogConfig, LogFormat};

const EXAMPLES: &str = "\
Examples:
  firn config init                         write a commented firn.toml
  firn check                               see whether everything in it can be reached
  firn run                                 bring changes into the tables until stopped
  firn table list                          what is in the catalog
  firn query \"SELECT * FROM inventory.orders LIMIT 10\"

Exit codes:
  0  done
  1  the answer is bad: a check failed, no such table, SQL that does not run
  2  wrong arguments or configuration; nothing was tried
  3  something can't be reached or refuses the credentials
  4  run or outbox stopped because a person is needed";

/// Brings database changes from Kafka into Apache Iceberg, exactly once.
#[derive(Debug, Parser)]
#[command(name = "firn", version, after_help = EXAMPLES, disable_help_subcommand = true, max_term_width = 100)]
pub struct Cli {
    /// How answers are printed; csv is for query, table and dead-letters
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    output: Output,
    /// How logs are printed [default: the configuration's log.format]
    #[arg(long, global = true, value_enum, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
    /// More logs; twice for all of them
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

/// How a command prints its answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    #[default]
    Text,
    Json,
    Csv,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Bring changes from Kafka into the tables until stopped
    Run(run::RunArgs),
    /// Connect to everything the configuration names; say what is wrong and what to do
    Check(check::CheckArgs),
    /// Ask a firn that runs how its tables and sinks do; ends with 1 when something is stopped
    Status(status::StatusArgs),
    /// Look at the catalog's tables
    #[command(subcommand)]
    Table(table::TableCommand),
    /// Compare the stored primary-key indexes with their tables
    #[command(subcommand)]
    Index(index::IndexCommand),
    /// Look at rejected records, put them into their tables once the cause is mended
    #[command(subcommand)]
    DeadLetters(dead_letters::DeadLetterCommand),
    /// Set a table back in Kafka, or over what Kafka has lost, in one commit; or a pipeline's sink
    Rewind(rewind::RewindArgs),
    /// Go on with a table that Spark or another writer filled, from where that stood in Kafka
    Adopt(adopt::AdoptArgs),
    /// Have rows of a range read anew at the source, to all sinks, while live changes flow
    Backfill(backfill::BackfillArgs),
    /// Keep tables fast: rewrite what a streaming writer leaves behind, let go what nobody needs
    #[command(subcommand)]
    Maintain(maintain::MaintainCommand),
    /// Look at what pipelines would deliver
    #[command(subcommand)]
    Pipeline(pipeline::PipelineCommand),
    /// Look at what pipelines have delivered to ClickHouse
    #[command(subcommand)]
    Mirror(mirror::MirrorCommand),
    /// Send rows of PostgreSQL tables to topics, each once, and mark them
    Outbox(outbox::OutboxArgs),
    /// Ask the tables in SQL
    Query(query::QueryArgs),
    /// Write, print or check the configuration
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Produce Debezium changes to a Kafka, at a chosen rate and seed
    Generate(generate::GenerateArgs),
    /// See it all work on this machine, without any server
    #[cfg(feature = "demo")]
    Demo(demo::DemoArgs),
}

/// Which configuration.
#[derive(Clone, Debug, Args)]
struct ConfigFile {
    /// The configuration file
    #[arg(short, long, env = "FIRN_CONFIG", default_value = "firn.toml", value_name = "FILE")]
    config: PathBuf,
}

impl ConfigFile {
    fn load(&self) -> Result<Config, Failure> {
        Ok(Config::load(&self.config)?)
    }
}

/// Runs the command.
///
/// # Errors
/// See [`Failure`].
pub async fn run(cli: Cli) -> Result<(), Failure> {
    let Cli { output, log_format, verbose, command } = cli;
    let logs = Logs { format: log_format, verbose };
    match command {
        Command::Run(args) => {
            let config = args.load()?;
            logs.init(&config.log)?;
            run::run(config, &args).await
        }
        Command::Outbox(args) => {
            let config = args.load()?;
            logs.init(&config.log)?;
            outbox::run(config, &args, output).await
        }
        other => {
            // The answer is what counts: logs only when something is wrong, or asked for.
            logs.init(&LogConfig { filter: "warn".to_owned(), ..LogConfig::default() })?;
            match other {
                Command::Run(_) | Command::Outbox(_) => Ok(()),
                Command::Check(args) => check::run(&args, output).await,
                Command::Status(args) => status::run(&args, output).await,
                Command::Table(command) => table::run(&command, output).await,
                Command::Index(command) => index::run(&command, output).await,
                Command::DeadLetters(command) => Box::pin(dead_letters::run(&command, output)).await,
                Command::Adopt(args) => Box::pin(adopt::run(&args, output)).await,
                Command::Rewind(args) => Box::pin(rewind::run(&args, output)).await,
                Command::Backfill(args) => Box::pin(backfill::run(args, output)).await,
                Command::Pipeline(command) => Box::pin(pipeline::run(&command, output)).await,
                Command::Maintain(command) => Box::pin(maintain::run(&command, output)).await,
                Command::Mirror(command) => mirror::run(&command, output).await,
                Command::Query(args) => query::run(&args, output).await,
                Command::Config(command) => config::run(&command, output),
                Command::Generate(args) => Ok(generate::run(args, output).await?),
                #[cfg(feature = "demo")]
                Command::Demo(args) => demo::run(args, output).await,
            }
        }
    }
}

/// What the command line says about logs; goes before the configuration.
struct Logs {
    format: Option<LogFormat>,
    verbose: u8,
}

impl Logs {
    fn init(&self, base: &LogConfig) -> Result<(), Failure> {
        crate::logging::init(&self.over(base)).map_err(|e| Failure::from_error(Code::Failed, &e))
    }

    fn over(&self, base: &LogConfig) -> LogConfig {
        let filter = match self.verbose {
            0 => base.filter.clone(),
            1 => "info,firn=debug,firn_catalog=debug".to_owned(),
            _ => "debug,firn=trace,firn_catalog=trace".to_owned(),
        };
        LogConfig { format: self.format.unwrap_or(base.format), filter }
    }
}

#[cfg(test)]
mod tests;
