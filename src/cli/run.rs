//! `firn run`: the pipeline, until a signal.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::{Code, Failure};
use crate::config::Config;

pub(super) async fn run(config: Config) -> Result<(), Failure> {
    firn_catalog::failpoint::check().map_err(|wrong| Failure::new(Code::Usage, wrong))?;
    crate::open_files::raise_limit();
    let (stop, stopped) = watch::channel(false);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let pipeline = crate::pipeline::run(config, stopped);
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
