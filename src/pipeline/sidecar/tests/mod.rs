//! Sinks' threads against a Kafka in memory, with a sink that tests look into.

mod gathering;
mod reading;
mod views;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_schema::SchemaRef;
use async_trait::async_trait;
use firn_catalog::memory::MemoryCatalog;

use super::sinks::GroupOffsets;
use super::*;
use crate::config::env::Lookup;
use crate::demo::broker::Broker;
use crate::pipeline::wiring;
use crate::position::TopicPartition;
use crate::sink::{Delivery, Sink, SinkError, Standing};
use crate::source::kafka;
use crate::source::kafka::testing::{self, Writer};

/// How long anything may take.
pub(super) const LONGEST: Duration = Duration::from_secs(30);

/// One pipeline over a Kafka in memory.
pub(super) struct Trial {
    _broker: Option<Broker>,
    pub config: Config,
    pub servers: Servers,
    pub stop: watch::Sender<bool>,
    pub writer: Writer,
}

impl Trial {
    /// `pipeline` is what stands below `[[pipelines]]`, but its name and sinks; `topics` have that many partitions.
    pub(super) async fn new(pipeline: &str, topics: &[(&str, i32)]) -> Self {
        let broker = Broker::start().await.unwrap();
        let servers = broker.bootstrap_servers();
        Self::on(&servers, Some(broker), pipeline, topics).await
    }

    /// With a Kafka that is there.
    pub(super) async fn on(bootstrap: &str, broker: Option<Broker>, pipeline: &str, topics: &[(&str, i32)]) -> Self {
        let text = format!(
            "[kafka]\nbootstrap_servers = \"{bootstrap}\"\ngroup = \"g\"\n[[pipelines]]\nname = \"p\"\n{pipeline}\n[[pipelines.log]]\n"
        );
        let config = Config::parse(&text, Path::new("firn.toml"), &Lookup::default()).unwrap();
        let kafka = kafka::settings(&config.kafka.bootstrap_servers, [("session.timeout.ms", "6000")], 4 << 20);
        for (name, partitions) in topics {
            testing::make(&kafka, name, *partitions, &[]).await;
        }
        let (stop, stopping) = watch::channel(false);
        let (runtime, shared) = (Handle::current(), wiring::shared(&config));
        let catalog = Arc::new(MemoryCatalog::default());
        let dead_letters =
            DeadLetters::open(&config, Arc::clone(&catalog) as _, &kafka, runtime.clone(), shared.clone()).unwrap();
        let servers = Servers {
            schemas: Arc::new(WriterSchemas::new(None, runtime.clone())),
            sources: Arc::new(SourceTables::new(None, runtime.clone())),
            dead_letters: Arc::new(dead_letters),
            catalog,
            shared,
            status: Arc::default(),
            runtime,
            stop: stopping,
            kafka,
        };
        let writer = Writer::new(&servers.kafka);
        Self { _broker: broker, config, servers, stop, writer }
    }

    pub(super) fn tellers(&self) -> Tellers {
        Tellers { schemas: Arc::clone(&self.servers.schemas), sources: Arc::clone(&self.servers.sources) }
    }

    /// The thread's work, as a process that starts has it.
    pub(super) fn runner(&self, store: &Store, views: &[Arc<View>]) -> Runner {
        self.runner_of(Box::new(store.clone()), views)
    }

    pub(super) fn runner_of(&self, sink: Box<dyn Sink>, views: &[Arc<View>]) -> Runner {
        let named = Named { name: "trial".to_owned(), sink, offsets: GroupOffsets::Reported, skipped: None };
        runner(&self.config, &self.config.pipelines[0], &self.servers, &self.tellers(), views, named).unwrap()
    }

    /// A change that makes a row of `id`; `more` are further members of its image.
    pub(super) async fn change(&self, topic: &str, partition: i32, id: i64, more: &str) {
        let at = TopicPartition::new(topic, partition);
        self.writer.send(&at, Some(&format!("{{\"id\":{id}}}")), &change(id, more)).await;
    }
}

/// Debezium's envelope of a row that was created.
pub(super) fn change(id: i64, more: &str) -> String {
    format!(
        "{{\"before\":null,\"after\":{{\"id\":{id}{more}}},\"source\":{{\"ts_ms\":{id},\"lsn\":{id}}},\"op\":\"c\",\"ts_ms\":{id}}}"
    )
}

/// Works on a thread of its own, as runners do.
pub(super) async fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let runtime = Handle::current();
    let work = move || {
        let _runtime = runtime.enter();
        work()
    };
    let (done, told) = tokio::sync::oneshot::channel();
    let thread = std::thread::spawn(move || drop(done.send(work())));
    let worked = told.await;
    thread.join().unwrap();
    worked.unwrap()
}

/// Steps until it holds.
pub(super) fn step_until(runner: &mut Runner, what: &str, holds: impl Fn(&Runner) -> bool) {
    let until = Instant::now() + LONGEST;
    while !holds(runner) {
        assert!(Instant::now() < until, "{what}: {:?}", runner.slots);
        assert_eq!(runner.step().unwrap(), runner::Flow::On);
    }
}

/// What was delivered, whoever asks.
#[derive(Clone, Debug, Default)]
pub(super) struct Store(Arc<Mutex<Stored>>);

#[derive(Debug, Default)]
pub(super) struct Stored {
    pub standings: BTreeMap<TopicPartition, Standing>,
    /// The `id` of each row, in the order of their deliveries.
    pub ids: HashMap<TopicPartition, Vec<Option<i64>>>,
    /// Where deliveries ended.
    pub ends: HashMap<TopicPartition, Vec<i64>>,
    /// A delivery with rows is answered that the sink is away.
    pub is_full: bool,
    /// So often one with rows was offered.
    pub offered: usize,
    /// What is said of a partition that is to be taken over.
    pub unfit: HashMap<TopicPartition, SinkError>,
    pub generation: u64,
}

impl Store {
    pub(super) fn look(&self) -> MutexGuard<'_, Stored> {
        self.0.lock().unwrap()
    }

    pub(super) fn next(&self, at: &TopicPartition) -> Option<i64> {
        self.look().standings.get(at).map(|standing| standing.next)
    }

    pub(super) fn ids(&self, at: &TopicPartition) -> Vec<Option<i64>> {
        self.look().ids.get(at).cloned().unwrap_or_default()
    }
}

#[async_trait]
impl Sink for Store {
    async fn prepare(&mut self, _columns: &SchemaRef) -> Result<(), SinkError> {
        Ok(())
    }

    async fn take_over(&mut self, partitions: &[TopicPartition]) -> Result<Vec<Option<Standing>>, SinkError> {
        let stored = self.look();
        match partitions.iter().find_map(|at| stored.unfit.get(at)) {
            Some(e) => Err(e.clone()),
            None => Ok(partitions.iter().map(|at| stored.standings.get(at).cloned()).collect()),
        }
    }

    async fn deliver(&mut self, delivery: &Delivery) -> Result<(), SinkError> {
        let (span, mut stored) = (&delivery.span, self.look());
        if delivery.rows.num_rows() > 0 {
            stored.offered += 1;
            if stored.is_full {
                return Err(SinkError::Unavailable("full".to_owned()));
            }
            let ids = delivery.rows.column_by_name("id").unwrap().as_primitive::<Int64Type>();
            stored.ids.entry(span.at.clone()).or_default().extend(ids);
        }
        let stands = stored.standings.get(&span.at).map_or(span.from, |standing| standing.next);
        assert_eq!(stands, span.from, "{}: a delivery begins where the sink stands", span.at);
        stored.standings.insert(span.at.clone(), Standing { next: span.next, ..Standing::default() });
        stored.ends.entry(span.at.clone()).or_default().push(span.next);
        Ok(())
    }

    async fn rewind(&mut self, to: &[(TopicPartition, i64)]) -> Result<(), SinkError> {
        let mut stored = self.look();
        stored.generation += 1;
        let standing = |next: i64| Standing { next, ..Standing::default() };
        stored.standings.extend(to.iter().map(|(at, next)| (at.clone(), standing(*next))));
        Ok(())
    }
}
