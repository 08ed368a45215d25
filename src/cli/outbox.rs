//! `firn outbox`: rows of tables to topics, until a signal, or until there is no more to do.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::print::Grid;
use super::{Code, ConfigFile, Failure, Output};
use crate::config::period::Period;
use crate::config::{Config, OutboxConfig};
use crate::outbox::{self, Backlog, Done, Error, Lost, Until};
use crate::serve::{Server, metrics};
use crate::source::kafka::{LogError, SourceError};

#[derive(Debug, Args)]
pub(super) struct OutboxArgs {
    #[command(flatten)]
    config: ConfigFile,
    /// One outbox of the configuration; all of them, if none is named
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Send what waits, then end
    #[arg(long, conflicts_with = "idle_exit")]
    once: bool,
    /// End by itself once nothing has come for so long, as in 20s
    #[arg(long, value_name = "TIME")]
    idle_exit: Option<Period>,
    /// Go on although retention has removed a part of the topic that may have held rows that are not marked: these are sent again
    #[arg(long, requires = "name")]
    skip_lost: bool,
    /// Answer GET /metrics and /healthz there, as at 127.0.0.1:9465
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
}

impl OutboxArgs {
    pub(super) fn load(&self) -> Result<Config, Failure> {
        let mut config = self.config.load()?;
        let known: Vec<String> = config.outbox.iter().map(|o| o.name.clone()).collect();
        if known.is_empty() {
            return Err(Failure::usage(format!("{} has no [[outbox]]", self.config.config.display())));
        }
        if let Some(name) = &self.name {
            config.outbox.retain(|o| o.name == *name);
            if config.outbox.is_empty() {
                return Err(Failure::usage(format!("there is no outbox {name}; there are: {}", known.join(", "))));
            }
        }
        Ok(config)
    }

    fn until(&self) -> Until {
        match (self.once, self.idle_exit) {
            (true, _) => Until::Sent,
            (false, Some(idle)) => Until::Idle(Duration::from_millis(idle.ms)),
            (false, None) => Until::Stopped,
        }
    }
}

pub(super) async fn run(config: Config, args: &OutboxArgs, output: Output) -> Result<(), Failure> {
    firn_catalog::failpoint::check().map_err(|wrong| Failure::new(Code::Usage, wrong))?;
    let (stop, stopped) = watch::channel(false);
    let lost = if args.skip_lost { Lost::Skip } else { Lost::Refuse };
    let (backlog, serving) = match args.listen {
        Some(address) => (Backlog::Counted, Some(serve(address, stopped.clone()).await?)),
        None => (Backlog::Ignored, None),
    };
    let run = async |one| (one, outbox::run(&config, one, args.until(), lost, backlog, stopped.clone()).await);
    let mut running: FuturesUnordered<_> = config.outbox.iter().map(run).collect();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (mut done, mut failed) = (Vec::new(), None);
    loop {
        tokio::select! {
            ended = running.next() => match ended {
                None => break,
                Some((_, Ok(one))) => done.push(one),
                Some((one, Err(e))) => {
                    // The others end with what they have under way: a process that goes on would hide it.
                    stop.send_replace(true);
                    failed.get_or_insert_with(|| failure(one, &e));
                }
            },
            _ = terminate.recv() => leave(&stop)?,
            _ = interrupt.recv() => leave(&stop)?,
        }
    }
    stop.send_replace(true);
    if let Some(serving) = serving {
        serving.await.map_err(|e| Failure::failed(e.to_string()))??;
    }
    print(&done, output)?;
    let refused: usize = done.iter().map(|d| d.refused.len()).sum();
    match failed {
        Some(failed) => Err(failed),
        None if refused > 0 => Err(Failure::failed(format!("rows that their topic does not take: {refused}"))),
        None => Ok(()),
    }
}

/// Shows the metrics until the end.
async fn serve(
    address: SocketAddr,
    stopped: watch::Receiver<bool>,
) -> Result<JoinHandle<std::io::Result<()>>, Failure> {
    let metrics = metrics::install().map_err(|e| Failure::failed(e.to_string()))?;
    let server = Server::bind(address).await.map_err(|e| {
        Failure::new(Code::Usage, format!("can't listen on {address}: {}; name a free one with --listen", e.reason()))
    })?;
    tracing::info!("metrics on http://{}/metrics", server.address());
    Ok(tokio::spawn(server.run_metrics(metrics, stopped)))
}

fn leave(stop: &watch::Sender<bool>) -> Result<(), Failure> {
    match stop.send_replace(true) {
        true => Err(Failure::new(Code::Stopped, "told to stop twice: left at once, nothing is lost")),
        false => Ok(()),
    }
}

fn print(done: &[Done], output: Output) -> Result<(), Failure> {
    let mut grid = Grid::new(["outbox", "sent", "found sent", "refused"]);
    for d in done {
        grid.row([d.outbox.clone(), d.sent.to_string(), d.found.to_string(), d.refused.join(" ")]);
    }
    grid.print(output, &done)
}

fn failure(outbox: &OutboxConfig, e: &Error) -> Failure {
    let code = match e {
        Error::Settings(_) | Error::Source(SourceError::Client(_)) => Code::Usage,
        Error::Table(_) | Error::NoTopic(_) | Error::Panicked => Code::Failed,
        Error::Taken(_) | Error::Unmarked(_) | Error::LostOffsets { .. } | Error::Log(LogError::Gone { .. }) => {
            Code::Stopped
        }
        _ => Code::Unreachable,
    };
    Failure::new(code, format!("outbox {}: {}", outbox.name, super::with_causes(e)))
}
