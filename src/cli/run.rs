//! `firn run`: the pipeline, until a signal.

use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::{Code, ConfigFile, Failure};
use crate::config::Config;
use crate::config::period::Period;

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    config: ConfigFile,
    /// Run the tables alone (`lake`), or these pipelines or sinks (`NAME`, `NAME.SINK`); may be given several times
    #[arg(long, value_name = "lake|NAME")]
    only: Vec<String>,
    /// End by itself once nothing has come for so long, as in 20s
    #[arg(long, value_name = "TIME")]
    idle_exit: Option<Period>,
}

impl RunArgs {
    /// What this process is to run of the configuration.
    pub(super) fn load(&self) -> Result<Config, Failure> {
        let config = self.config.load()?;
        if !config.lake.is_used() && config.pipelines.is_empty() {
            return Err(Failure::usage(
                "there are no tables and no pipelines to run; outboxes are run by `firn outbox`",
            ));
        }
        match self.only.is_empty() {
            true => Ok(config),
            false => config.only(&self.only).map_err(Failure::usage),
        }
    }
}

pub(super) async fn run(config: Config, args: &RunArgs) -> Result<(), Failure> {
    firn_catalog::failpoint::check().map_err(|wrong| Failure::new(Code::Usage, wrong))?;
    crate::open_files::raise_limit();
    let (stop, stopped) = watch::channel(false);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let pipeline = crate::pipeline::run(config, args.idle_exit.map(|idle| Duration::from_millis(idle.ms)), stopped);
    tokio::pin!(pipeline);
    loop {
        tokio::select! {
            ended = &mut pipeline => return Ok(ended?),
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        if stop.send_replace(true) {
            // What is staged and not committed will be read again: leaving at once loses nothing.
            return Err(Failure::new(
                Code::Stopped,
                "told to stop twice: left without the last commit, nothing is lost",
            ));
        }
        tracing::info!("stopping: committing what is staged; a second signal leaves at once");
    }
}
