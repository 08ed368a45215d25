//! `firn config init|show|validate`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use serde_json::json;

use super::{ConfigFile, Failure, Output, print};
use crate::config::Config;
use crate::config::env::Origin;

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Write a commented configuration to start from
    Init(InitArgs),
    /// Print every value in effect, defaults filled in, secrets as ***, and which came from the environment or files
    Show(ConfigFile),
    /// Check the file without connecting to anything
    Validate(ConfigFile),
}

#[derive(Debug, Args)]
pub(super) struct InitArgs {
    /// Where to write it; - is standard output
    #[arg(default_value = "firn.toml", value_name = "FILE")]
    file: PathBuf,
    /// Which catalog it is for; sql is SQLite and needs no server
    #[arg(long, value_enum, default_value_t)]
    catalog: CatalogChoice,
    /// Write over a file that is there
    #[arg(long)]
    force: bool,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(super) enum CatalogChoice {
    #[default]
    Sql,
    Hive,
    Rest,
}

pub(super) fn run(command: &ConfigCommand, output: Output) -> Result<(), Failure> {
    output.not_csv()?;
    match command {
        ConfigCommand::Init(args) => init(args, output),
        ConfigCommand::Show(file) => show(&file.load()?, output),
        ConfigCommand::Validate(file) => validate(file, output),
    }
}

/// The commented template for a catalog.
pub(super) fn template(catalog: CatalogChoice) -> String {
    let chosen = match catalog {
        CatalogChoice::Sql => include_str!("templates/catalog-sql.toml"),
        CatalogChoice::Hive => include_str!("templates/catalog-hive.toml"),
        CatalogChoice::Rest => include_str!("templates/catalog-rest.toml"),
    };
    include_str!("templates/firn.toml").replace("# {catalog}\n", chosen)
}

fn init(args: &InitArgs, output: Output) -> Result<(), Failure> {
    let text = template(args.catalog);
    if args.file.as_os_str() == "-" {
        return print::text(&text);
    }
    let file = args.file.display();
    if args.file.exists() && !args.force {
        return Err(Failure::usage(format!("{file} is there already; --force writes over it")));
    }
    std::fs::write(&args.file, text).map_err(|e| Failure::failed(format!("can't write {file}: {e}")))?;
    match output {
        Output::Json => print::json(&json!({ "written": file.to_string() })),
        _ => print::text(&format!("wrote {file}; next: edit it, then `firn check --config {file}`\n")),
    }
}

fn show(config: &Config, output: Output) -> Result<(), Failure> {
    let origins: BTreeMap<&str, &[Origin]> = config.origins().collect();
    if output == Output::Json {
        return print::json(&Shown { config, origins });
    }
    let mut text = config.to_toml().map_err(|e| Failure::failed(e.to_string()))?;
    if !origins.is_empty() {
        text += "\n# From elsewhere:\n";
    }
    for (key, origins) in origins {
        let origins: Vec<String> = origins.iter().map(ToString::to_string).collect();
        text += &format!("# {key}: {}\n", origins.join(", "));
    }
    print::text(&text)
}

/// Every value in effect, and where those came from that the file does not hold itself.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    config: &'a Config,
    origins: BTreeMap<&'a str, &'a [Origin]>,
}

fn validate(file: &ConfigFile, output: Output) -> Result<(), Failure> {
    let config = file.load()?;
    let tables: Vec<_> = config
        .lake
        .exact_topics()
        .into_iter()
        .filter_map(|topic| config.table_for(topic))
        .map(|t| json!({ "topic": t.topic, "table": t.ident().to_string(), "mode": t.mode }))
        .collect();
    let file = file.config.display();
    if output == Output::Json {
        return print::json(&json!({ "valid": true, "file": file.to_string(), "tables": tables }));
    }
    let mut text = format!("{file} is valid; `firn check` connects to what it names\n");
    for t in &tables {
        // Strings by construction a few lines up.
        let field = |name: &str| t.get(name).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
        text += &format!("  {} -> {} ({})\n", field("topic"), field("table"), field("mode"));
    }
    print::text(&text)
}
