//! `firn backfill --from-lake`: this process reads, so it stays until all is done.

use super::shown::Shown;
use super::{Answer, Output, planned, read};
use crate::cli::exit::Failure;
use crate::cli::print;
use crate::config::Config;
use crate::pipeline::backfill::from_lake::{FromLake, prepare};
use crate::pipeline::backfill::{Begun, Progress, State, Wish};

impl<'a> Answer<'a> {
    fn of_lake(backfill: &'a FromLake, begun: Option<&'a Begun>, progress: Option<&'a Progress>) -> Self {
        Self {
            topic: backfill.topic(),
            table: backfill.table(),
            connector: None,
            range: backfill.range(),
            sinks: &backfill.affected,
            objection: backfill.objection().filter(|_| begun.is_none()),
            begun,
            progress,
        }
    }
}

pub(super) async fn begin(
    config: &Config,
    wish: Wish,
    dry_run: bool,
    no_wait: bool,
    output: Output,
) -> Result<(), Failure> {
    let backfill = prepare(config, wish).await?;
    if output != Output::Json {
        let from = format!("from the lake, to topic {}", backfill.topic());
        print::text(&planned(&backfill.table(), &from, backfill.range(), &backfill.affected))?;
    }
    if dry_run {
        return match output {
            Output::Json => print::json(&Answer::of_lake(&backfill, None, None)),
            _ => print::text(&backfill.objection().map_or_else(String::new, |why| format!("not so: {why}\n"))),
        };
    }
    let (begun, session) = backfill.begin().await?;
    if output != Output::Json {
        let how = if begun.already { "goes on" } else { "begun" };
        print::text(&format!("{how}: {}\n", begun.id))?;
    }
    let mut shown = Shown::new(output);
    let progress = Box::pin(backfill.run(session, shown.teller())).await?;
    if progress.state.is_over() {
        return Err(Failure::failed(match &progress.state {
            State::Failed { why } => format!("{}: {why}", begun.id),
            _ => format!("{} was stopped before its end", begun.id),
        }));
    }
    if !no_wait {
        backfill.wait_for_sinks(shown.teller()).await?;
    }
    let progress = backfill.finish().await?;
    shown.finish();
    match output {
        Output::Json => print::json(&Answer::of_lake(&backfill, Some(&begun), Some(&progress))),
        _ => print::text(&read(&progress)),
    }
}
