//! The command tree as a person meets it: help, mistyped words, templates.

use std::path::Path;

use clap::{CommandFactory, Parser};
use rstest::rstest;

use super::config::{CatalogChoice, template};
use super::*;
use crate::config::env::Lookup;

fn help(arguments: &[&str]) -> String {
    let error = Cli::try_parse_from([&["firn"], arguments, &["--help"]].concat()).unwrap_err();
    assert_eq!(error.kind(), clap::error::ErrorKind::DisplayHelp);
    error.to_string()
}

#[test]
fn the_command_tree_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn the_help_names_every_command_the_examples_and_the_exit_codes() {
    let help = help(&[]);
    for part in [
        "Brings database changes",
        "run ",
        "check ",
        "table ",
        "query ",
        "config ",
        "generate ",
        "--output <FORMAT>",
        "Examples:",
        "Exit codes:",
        "  3  something can't be reached",
    ] {
        assert!(help.contains(part), "no {part:?} in\n{help}");
    }
}

#[rstest]
#[case(&["run"])]
#[case(&["check"])]
#[case(&["table", "list"])]
#[case(&["query"])]
#[case(&["config", "show"])]
fn every_command_takes_the_configuration_the_same_way(#[case] command: &[&str]) {
    let help = help(command);
    assert!(
        help.contains("-c, --config <FILE>") && help.contains("FIRN_CONFIG") && help.contains("firn.toml"),
        "{help}"
    );
}

#[rstest]
#[case(&["chekc"], "tip: a similar subcommand exists: 'check'")]
#[case(&["run", "--confg", "x"], "tip: a similar argument exists: '--config'")]
#[case(&["--output", "jsn", "check"], "tip: a similar value exists: 'json'")]
fn a_mistyped_word_is_answered_with_the_nearest(#[case] arguments: &[&str], #[case] want: &str) {
    let error = Cli::try_parse_from([&["firn"], arguments].concat()).unwrap_err();
    assert_eq!(error.exit_code(), Code::Usage as i32);
    assert!(error.to_string().contains(want), "{error}");
}

#[rstest]
fn a_written_template_is_a_valid_configuration(
    #[values(CatalogChoice::Sql, CatalogChoice::Hive, CatalogChoice::Rest)] catalog: CatalogChoice,
) {
    let text = template(catalog);
    Config::parse(&text, Path::new("firn.toml"), &Lookup::default()).unwrap();
    // The commented parts as well, once they are uncommented.
    let uncommented: String = text
        .lines()
        .map(|l| l.strip_prefix("# ").filter(|c| c.contains(" = ") || c.starts_with('[')).unwrap_or(l))
        .fold(String::new(), |all, l| all + l + "\n");
    let env = ["KAFKA_PASSWORD", "SOURCE_PASSWORD"].map(|name| (name.to_owned(), "x".to_owned()));
    let lookup = Lookup { env: env.into(), ..Lookup::default() };
    Config::parse(&uncommented, Path::new("firn.toml"), &lookup).unwrap();
}

#[test]
fn the_command_line_says_more_about_logs_than_the_configuration() {
    let base = LogConfig { format: LogFormat::Text, filter: "warn".to_owned() };
    let kept = Logs { format: None, verbose: 0 }.over(&base);
    assert_eq!((kept.format, kept.filter.as_str()), (LogFormat::Text, "warn"));
    let changed = Logs { format: Some(LogFormat::Json), verbose: 1 }.over(&base);
    assert_eq!((changed.format, changed.filter.contains("firn=debug")), (LogFormat::Json, true));
}
