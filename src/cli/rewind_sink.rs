//! `firn rewind --sink`: shows where the sink will go on, asks, does it.

use serde::Serialize;

use super::Output;
use super::exit::Failure;
use super::print::{self, Grid};
use super::rewind::confirm;
use crate::config::Config;
use crate::pipeline::rewind::Target;
use crate::pipeline::{prepare_sink_rewind, rewind_sink};

#[derive(Serialize)]
struct Shown<'a> {
    sink: &'a str,
    positions: Vec<Position<'a>>,
    /// Whether it was done.
    done: bool,
}

#[derive(Serialize)]
struct Position<'a> {
    topic: &'a str,
    partition: i32,
    to: i64,
}

/// How it is to be done.
pub(super) struct Manner {
    pub dry_run: bool,
    pub yes: bool,
}

pub(super) async fn run(
    config: &Config,
    sink: &str,
    topic: Option<&str>,
    target: &Target,
    manner: &Manner,
    output: Output,
) -> Result<(), Failure> {
    let rewind = prepare_sink_rewind(config, sink, topic, target).await.map_err(Failure::failed)?;
    let positions = || rewind.to.iter().map(|(at, to)| Position { topic: &at.topic, partition: at.partition, to: *to });
    if output != Output::Json {
        let mut grid = Grid::new(["topic", "partition", "next offset to deliver"]);
        positions().for_each(|p| grid.row([p.topic.to_owned(), p.partition.to_string(), p.to.to_string()]));
        print::text(&format!(
            "{}what was delivered from there on is delivered again: see the sink's section in docs/configuration.md for what \
             that does to its table or keys\n",
            grid.to_text()
        ))?;
    }
    let shown = |done| Shown { sink, positions: positions().collect(), done };
    if manner.dry_run {
        return if output == Output::Json { print::json(&shown(false)) } else { Ok(()) };
    }
    if !manner.yes {
        confirm(&format!("rewind {sink}"))?;
    }
    rewind_sink(config, &rewind).await.map_err(Failure::failed)?;
    match output {
        Output::Json => print::json(&shown(true)),
        _ => print::text(&format!("rewound {sink}\n")),
    }
}
