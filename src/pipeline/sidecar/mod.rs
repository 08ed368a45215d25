//! The sidecar: pipelines beside the lake. Each sink of a pipeline is a thread with a consumer group and a position of its own.
//!
//! ```text
//! one thread a sink                                               one thread a view, shared
//!   poll -> decode -> SELECT over the batch and the views -> sink    its topic, whole -> current rows
//! ```
//! A sink that is slow, full or away holds up nobody but itself.
//!
//! # Layout
//! - [`runner`], [`flush`], [`gather`]: the thread of a sink. [`placing`]: which partitions it reads, from where. [`slot`]: one of them. [`rejects`]: bad records. [`mount`]: the sink itself, also asked by the consumer.
//! - [`intake`]: records to rows. [`plan`]: rows through the SELECT. [`view`]: the tables that are joined.
//! - [`state`], [`rules`]: what a pipeline remembers from change to change: statistics, and alerts that were told.
//! - [`rewind`]: a sink set back. [`preview`]: a pipeline tried on what its topics hold. [`sinks`]: from the configuration to sinks.
//!   [`ledger`]: positions of sinks that have no store of their own. [`topic`]: what a topic needs around it.

mod flush;
mod gather;
mod intake;
mod latency;
mod ledger;
mod meter;
mod mount;
mod placing;
mod plan;
mod preview;
mod rejects;
mod rewind;
mod rules;
mod runner;
mod sinks;
mod slot;
mod state;
#[cfg(test)]
#[cfg(feature = "demo")]
mod tests;
mod topic;
mod view;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use firn_catalog::Catalog;
use metrics::gauge;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::letters::DeadLetters;
use super::share::Limits;
use super::source_tables::SourceTables;
use super::writer_schemas::WriterSchemas;
use crate::change::Mode;
use crate::config::{Config, PipelineConfig, Start as FromWhere};
use crate::memory::Kind;
use crate::serve::status::TableState;
use crate::serve::{Status, metrics as names};
use crate::sink::lake::Shared;
use crate::source::kafka::{ClientSettings, KafkaSource, SourceError, Start};
use intake::{Intake, options};
use mount::Mount;
use plan::Plan;
pub use preview::{Preview, last_columns, preview};
pub use rewind::{SinkRewind, prepare_sink_rewind, rewind_sink};
use runner::{Input, Parts, Runner};
use sinks::{Lake, Named};
pub use sinks::{delete_between, last_rows, probe as probe_sinks};
use state::{Rules, state_topic};
use view::{Tellers, View};

/// What the sidecar needs of the process.
pub(super) struct Servers {
    pub kafka: ClientSettings,
    pub schemas: Arc<WriterSchemas>,
    pub sources: Arc<SourceTables>,
    pub dead_letters: Arc<DeadLetters>,
    pub catalog: Arc<dyn Catalog>,
    pub shared: Shared,
    pub status: Arc<Status>,
    pub runtime: Handle,
    pub stop: watch::Receiver<bool>,
}

/// A sink's thread, and its name.
pub(super) type Running = (String, JoinHandle<Result<(), SourceError>>);

/// Starts all sinks of all pipelines, and the views that they need.
///
/// # Errors
/// The sentence for a person: a setting that contradicts another, a client that can't be made.
pub(super) fn start(config: &Config, servers: &Servers) -> Result<Vec<Running>, String> {
    let tellers = Tellers { schemas: Arc::clone(&servers.schemas), sources: Arc::clone(&servers.sources) };
    let (catalog, shared) = (Arc::clone(&servers.catalog), servers.shared.clone());
    let lake = Lake { catalog, shared, io: servers.runtime.clone() };
    let mut running = Vec::new();
    for pipeline in &config.pipelines {
        let at = |e: String| format!("pipeline {}: {e}", pipeline.name);
        let views = pipeline.views.iter().map(|topic| {
            let (memory, stop) = (&servers.shared.memory, servers.stop.clone());
            View::start(topic, &pipeline.sql, &servers.kafka, &tellers, memory, &servers.runtime, stop)
        });
        let views = views.collect::<Result<Vec<_>, _>>().map_err(at)?;
        for sink in sinks::of(config, pipeline, &lake).map_err(at)? {
            let id = format!("{}.{}", pipeline.name, sink.name);
            let runner = runner(config, pipeline, servers, &tellers, &views, sink).map_err(at)?;
            let thread = std::thread::Builder::new().name(format!("firn-{id}"));
            let (status, name) = (Arc::clone(&servers.status), id.clone());
            let run = move || {
                let ended = catch_unwind(AssertUnwindSafe(|| runner.run()));
                tell_end(&status, &name, &ended);
                ended.unwrap_or(Ok(()))
            };
            running.push((id, thread.spawn(run).map_err(|e| e.to_string())?));
        }
    }
    Ok(running)
}

/// A sink whose thread is over before its time is stopped for good, and the others go on.
fn tell_end(status: &Status, sink: &str, ended: &std::thread::Result<Result<(), SourceError>>) {
    let why = match ended {
        Ok(Ok(())) => return,
        Ok(Err(e)) => format!("its consumer ended, and comes back with the process alone: {e}"),
        Err(_) => {
            "it broke off, and comes back with the process alone; this is a bug in firn, the log tells where".to_owned()
        }
    };
    tracing::error!(sink, "stopped: {why}");
    gauge!(names::SINK_STOPPED, "sink" => sink.to_owned()).set(1.0);
    status.update_sink(sink, |s| {
        s.state = TableState::Stopped { reason: why };
        s.partitions.clear();
    });
}

fn runner(
    config: &Config,
    pipeline: &PipelineConfig,
    servers: &Servers,
    tellers: &Tellers,
    views: &[Arc<View>],
    sink: Named,
) -> Result<Runner, String> {
    let id = format!("{}.{}", pipeline.name, sink.name);
    let mut inputs = BTreeMap::new();
    for topic in &pipeline.sources {
        let intake = Intake::new(options(topic, Mode::Append, tellers.told()))?;
        inputs.insert(topic.topic.clone(), Input { name: topic.table_name(), intake });
    }
    let fresh = match config.kafka.start {
        FromWhere::Earliest => Start::Earliest,
        FromWhere::Latest => Start::Latest,
    };
    let rules = Arc::new(Rules::of(pipeline));
    let mount = Arc::new(Mount::new(sink.sink, fresh, servers.runtime.clone()));
    let group = format!("{}.{id}", config.kafka.group);
    let source = KafkaSource::join(&servers.kafka, &group, 0, Arc::clone(&mount) as _).map_err(|e| e.to_string())?;
    let parts = Parts {
        id,
        kafka: servers.kafka.clone(),
        mount,
        plan: Plan::new(pipeline, views.to_vec(), Arc::clone(&rules)),
        state_topic: (!rules.is_empty()).then(|| state_topic(config, &servers.kafka)),
        rules,
        inputs,
        tellers: tellers.clone(),
        dead_letters: Arc::clone(&servers.dead_letters),
        status: Arc::clone(&servers.status),
        offsets: sink.offsets,
        skipped: sink.skipped,
        limits: Limits { max_share: config.dead_letters.max_share, min_rows: config.dead_letters.min_rows },
        counted: servers.shared.memory.count(Kind::Open),
        batch_rows: pipeline.batch_rows_of(&sink.name),
        batch_wait: Duration::from_millis(pipeline.batch_wait_ms),
        view_wait: Duration::from_millis(pipeline.view_wait_ms),
        runtime: servers.runtime.clone(),
        stop: servers.stop.clone(),
    };
    Ok(Runner::new(source, parts))
}
