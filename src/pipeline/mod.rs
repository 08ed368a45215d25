//! The only place that wires the parts: source, decoder, sink, metrics.
//!
//! ```text
//! worker thread (one consumer each)              one task a table
//!   poll -> decode -> stage (Parquet)  -- part -->  dead letters, then commit  -- ack --> worker
//! ```
//! A worker stages on the thread that polled; only commits cross threads. Each table's position is its own: a table that stops
//! or waits holds up no other.

pub mod adopt;
pub mod backfill;
mod committer;
mod declared;
mod epoch;
mod feed;
mod growth;
mod idle;
mod keys;
mod letters;
mod lookout;
mod meter;
mod places;
mod rejects;
pub mod replay;
pub mod rewind;
mod share;
mod sidecar;
mod source_tables;
mod stored_index;
mod sweep;
mod tables;
mod told;
mod upkeep;
mod wiring;
mod worker;
mod writer_schemas;

use std::sync::{Arc, mpsc};
use std::time::Duration;

use tokio::sync::watch;

use crate::config::Config;
use crate::database::{Database, DatabaseError};
use crate::open_files;
use crate::registry::{Registry, RegistryError};
use crate::serve::{self, Server, Status};
use crate::source::kafka::{self, ClientSettings, KafkaSource, SourceError};
use growth::PartitionCount;
use letters::DeadLetters;
pub use sidecar::{Preview, SinkRewind, last_rows, prepare_sink_rewind, preview, probe_sinks, rewind_sink};
use source_tables::SourceTables;
pub use stored_index::verify_indexes;
pub use sweep::{SweepError, Swept, sweep};
use tables::{Servers, Tables};
pub use wiring::configured;
use worker::Worker;
use writer_schemas::WriterSchemas;

/// How often the topics are listed anew, for those that match and were not there before.
const DISCOVERY: Duration = Duration::from_secs(10);
/// Wait before a catalog that can't be reached is tried again.
const CATALOG_WAIT: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("catalog: {0}")]
    Catalog(#[from] firn_catalog::Error),
    #[error(transparent)]
    Listen(#[from] serve::ListenError),
    #[error("metrics: {0}")]
    Metrics(String),
    #[error("registry: {0}")]
    Registry(#[from] RegistryError),
    #[error("table {0}: no topic of the configuration was ever committed to it")]
    NoTopic(String),
    #[error(transparent)]
    Lake(crate::sink::lake::LakeError),
    #[error(transparent)]
    SourceDatabase(#[from] DatabaseError),
    #[error("dead letters: {0}")]
    DeadLetters(#[from] crate::sink::lake::LakeError),
    /// Letters could not be read, replayed or settled; the sentence says which.
    #[error("dead letters: {0}")]
    Letters(String),
    /// A pipeline that can't be started; the sentence says which.
    #[error("{0}")]
    Pipeline(String),
    /// The operating system refused a thread.
    #[error("a worker thread can't be started: {0}")]
    Thread(#[from] std::io::Error),
    #[error("worker {0} panicked; this is a bug in firn")]
    WorkerPanicked(usize),
}

/// Reads and commits until `shutdown` turns true, or (where that is given) nothing came for so long; then commits what it has and returns.
///
/// # Errors
/// When nothing can be read or written at all: wrong properties, a catalog that refuses. What concerns one table stops that table
/// alone and shows in log, metrics and /readyz.
pub async fn run(
    config: Config,
    idle_exit: Option<Duration>,
    mut shutdown: watch::Receiver<bool>,
) -> Result<(), Error> {
    let status = Arc::new(Status::default());
    if let Some(address) = config.serve.address() {
        let metrics = serve::metrics::install().map_err(|e| Error::Metrics(e.to_string()))?;
        let server = Server::bind(address).await?;
        tracing::info!("status page, metrics and health at http://{}/", server.address());
        tokio::spawn(server.run(Arc::clone(&status), metrics, shutdown.clone()));
    }
    let workers = config.kafka.workers;
    let shared = wiring::shared(&config);
    let kafka = kafka::settings(
        &config.kafka.bootstrap_servers,
        config.kafka.properties.iter(),
        shared.memory.fetch_bytes() / workers,
    );
    let writer_schemas = writer_schemas(&config)?;
    let source_tables = source_tables(&config)?;
    let catalog = crate::catalogs::open(&config.catalog).await?;
    tracing::info!(catalog = %catalog.describe(), kafka = kafka.bootstrap(), workers, "starting");
    while let Err(e) = catalog.probe().await {
        use firn_catalog::ErrorKind as K;
        // A metastore that is going down or coming up cuts answers short: that is no verdict on anything.
        if !matches!(e.kind(), K::Unavailable | K::OutcomeUnknown | K::Conflict) {
            return Err(e.into());
        }
        tracing::warn!("the catalog can't be reached, trying again: {e}");
        if stopped_within(&mut shutdown, CATALOG_WAIT).await {
            return Ok(());
        }
    }

    let runtime = tokio::runtime::Handle::current();
    let dead_letters = DeadLetters::open(&config, Arc::clone(&catalog), &kafka, runtime.clone(), shared.clone())?;
    let (senders, mut receivers): (Vec<_>, Vec<_>) = (0..workers).map(|_| mpsc::channel()).unzip();
    let (found, topics) = watch::channel(config.lake.exact_topics().into_iter().map(str::to_owned).collect());
    let discovery = tokio::spawn(discover(config.clone(), kafka.clone(), found, shutdown.clone()));
    let group = format!("{}.lake", config.kafka.group);
    let dead_letters = Arc::new(dead_letters);
    let (writer_schemas, source_tables) = (Arc::new(writer_schemas), Arc::new(source_tables));
    let (of_sinks, shared_with_sinks) = (Arc::clone(&catalog), shared.clone());
    let servers = Servers {
        shared,
        kafka: kafka.clone(),
        catalog,
        dead_letters: Arc::clone(&dead_letters),
        writer_schemas: Arc::clone(&writer_schemas),
        partition_count: PartitionCount(Arc::new({
            let kafka = kafka.clone();
            move |topic| kafka::partition_count(&kafka, topic).map_err(|e| e.to_string())
        })),
        source_tables: Arc::clone(&source_tables),
    };

    // One that ends by itself takes the others along: its partitions would go unread, or unseen by whoever restarts processes.
    let (stop, stopping) = watch::channel(false);
    let stop = Arc::new(stop);
    let told = tokio::spawn({
        let (stop, mut shutdown, status) = (Arc::clone(&stop), shutdown.clone(), Arc::clone(&status));
        async move {
            let idle = async {
                match idle_exit {
                    Some(idle) => idle::wait(&status, idle).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = shutdown.wait_for(|stop| *stop) => {}
                () = idle => tracing::info!("nothing more came: stopping"),
            }
            stop.send_replace(true);
        }
    });
    let sidecar = sidecar::Servers {
        kafka: kafka.clone(),
        schemas: writer_schemas,
        sources: source_tables,
        dead_letters,
        catalog: of_sinks,
        shared: shared_with_sinks,
        status: Arc::clone(&status),
        runtime: runtime.clone(),
        stop: stopping.clone(),
    };
    let sinks = sidecar::start(&config, &sidecar).map_err(Error::Pipeline)?;
    if !config.lake.is_used() {
        // Nobody waits for a consumer of the lake.
        status.set_consumer(serve::status::ConsumerState::Assigned { partitions: 0 });
        receivers.clear();
    }
    let tables = Arc::new(Tables::new(config.clone(), servers, runtime, senders, Arc::clone(&status)));
    let upkeep = upkeep::start(&config, &tables, &status, stopping.clone())?;
    let mut threads = Vec::new();
    for (id, acks) in receivers.into_iter().enumerate() {
        let positions: Arc<dyn kafka::Positions> = Arc::clone(&tables) as _;
        let source = KafkaSource::join(&kafka, &group, id, positions)?;
        let worker = Worker::new(id, source, Arc::clone(&tables), acks, topics.clone(), stopping.clone());
        let stop = StopAll(Arc::clone(&stop));
        let run = move || {
            let _stop = stop;
            worker.run()
        };
        let thread = std::thread::Builder::new().name(format!("firn-worker-{id}")).spawn(run)?;
        threads.push((id, thread));
    }
    let lookout = tokio::spawn(lookout::run(Arc::clone(&tables)));
    let ended = tokio::task::spawn_blocking(move || {
        let joined = threads.into_iter().map(|(id, thread)| match thread.join() {
            Ok(outcome) => outcome.map_err(Error::Source),
            Err(_) => Err(Error::WorkerPanicked(id)),
        });
        // All of them: the others commit what they have.
        let joined: Vec<_> = joined.collect();
        for (sink, thread) in sinks {
            // What went wrong was told when it did; the others went on without it.
            if !matches!(thread.join(), Ok(Ok(()))) {
                tracing::error!(sink, "had ended before");
            }
        }
        joined.into_iter().collect()
    });
    let outcome = ended.await.unwrap_or(Err(Error::WorkerPanicked(0)));
    drop(upkeep);
    discovery.abort();
    lookout.abort();
    told.abort();
    outcome
}

/// Held by each worker's thread: the first that ends, in whatever way, stops all.
struct StopAll(Arc<watch::Sender<bool>>);

impl Drop for StopAll {
    fn drop(&mut self) {
        self.0.send_replace(true);
    }
}

/// Of the configured registry, if there is one; nothing is asked of it yet.
fn writer_schemas(config: &Config) -> Result<WriterSchemas, Error> {
    let settings = config.registry.settings().map_err(RegistryError::Settings)?;
    let registry = settings.map(|settings| Registry::new(&settings)).transpose()?;
    Ok(WriterSchemas::new(registry, tokio::runtime::Handle::current()))
}

/// Of the configured source database, if there is one; nothing is asked of it yet.
fn source_tables(config: &Config) -> Result<SourceTables, DatabaseError> {
    let database = config.source.url.as_ref().map(|url| Database::new(url.as_str())).transpose()?;
    Ok(SourceTables::new(database, tokio::runtime::Handle::current()))
}

/// Keeps the list of topics to read up to date.
async fn discover(
    config: Config,
    kafka: ClientSettings,
    found: watch::Sender<Vec<String>>,
    mut shutdown: watch::Receiver<bool>,
) {
    loop {
        let asked = kafka.clone();
        let listed = tokio::task::spawn_blocking(move || kafka::list_topics(&asked)).await;
        match listed.map(|listed| wiring::selected(&config, listed)) {
            Ok(Ok(topics)) => {
                let count = topics.len();
                let changed = found.send_if_modified(|current| {
                    let changed = *current != topics;
                    *current = topics;
                    changed
                });
                if let Some(shortage) = open_files::shortage(count).filter(|_| changed) {
                    tracing::error!("{shortage}");
                }
            }
            Ok(Err(e)) => tracing::error!("topics can't be listed, trying again: {e}"),
            Err(_) => return,
        }
        if stopped_within(&mut shutdown, DISCOVERY).await {
            return;
        }
    }
}

/// Waits; answers whether the shutdown came meanwhile.
async fn stopped_within(shutdown: &mut watch::Receiver<bool>, wait: Duration) -> bool {
    // A sender that is gone means the end as well.
    tokio::time::timeout(wait, shutdown.wait_for(|stop| *stop)).await.is_ok()
}

#[cfg(test)]
mod endings {
    use super::*;

    #[test]
    fn a_worker_that_breaks_stops_the_others() {
        let (stop, stopping) = watch::channel(false);
        let held = StopAll(Arc::new(stop));
        let worker = std::thread::spawn(move || {
            let _held = held;
            panic!("a bug");
        });
        assert!(worker.join().is_err());
        assert!(*stopping.borrow());
    }
}
