//! Sends generated records to a real Kafka. The one place of the generator that knows a Kafka client.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rdkafka::{
    ClientConfig, ClientContext, Message,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, OwnedHeaders},
    producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer},
};

use super::{Generator, SchemaName};

/// How long the first answer of a broker may take, and the last delivery.
const PATIENCE: Duration = Duration::from_secs(30);

/// What went wrong, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ProduceError {
    #[error(
        "no broker answers at {servers}: check that Kafka is running and that the address is the one it advertises"
    )]
    Unreachable { servers: String, source: KafkaError },
    #[error("the Kafka client refuses its configuration: check the -X properties")]
    Configuration(#[source] KafkaError),
    #[error("the topic {topic} does not exist: create it, or add --create-topics")]
    NoTopic { topic: String },
    #[error("topic {topic} cannot be created ({code}): check the replication factor and the right to create topics")]
    Create { topic: String, code: RDKafkaErrorCode },
    #[error("the broker did not answer the request to create topics: check its log")]
    Admin(#[source] KafkaError),
    #[error("{failed} of {sent} records were not delivered, first: {first}: run it again on fresh topics")]
    Undelivered { sent: u64, failed: u64, first: String },
    #[error("the producer cannot go on: check the broker's log and the right to write")]
    Send(#[source] KafkaError),
}

/// Topics that are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicCreation {
    Refuse,
    Create { partitions: i32, replication: i32 },
}

/// When a run is over, and how fast it goes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    /// Changes a second; `None`: as fast as the broker takes them.
    pub rate: Option<f64>,
    pub at_most: Option<Duration>,
}

/// What was sent so far.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Sent {
    /// Messages with a value.
    pub changes: u64,
    pub tombstones: u64,
    /// Keys and values.
    pub bytes: u64,
    pub seconds: f64,
    /// Messages per topic.
    pub topics: BTreeMap<String, u64>,
    /// Messages with a value per topic.
    pub changes_by_topic: BTreeMap<String, u64>,
}

impl Sent {
    pub fn records(&self) -> u64 {
        self.changes + self.tombstones
    }

    pub fn per_second(&self) -> f64 {
        if self.seconds > 0.0 { self.changes as f64 / self.seconds } else { 0.0 }
    }
}

/// Counts what the broker acknowledged and what it refused.
#[derive(Debug, Default)]
struct Deliveries {
    failed: AtomicU64,
    first_error: std::sync::OnceLock<String>,
}

#[derive(Clone, Debug)]
struct Context(Arc<Deliveries>);

impl ClientContext for Context {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(%error, reason, "kafka client");
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, message)) = result {
            self.0.failed.fetch_add(1, Ordering::Relaxed);
            self.0.first_error.get_or_init(|| format!("{}/{}: {error}", message.topic(), message.partition()));
        }
    }
}

/// An idempotent producer for generated records.
pub struct GeneratorProducer {
    config: ClientConfig,
    producer: ThreadedProducer<Context>,
    deliveries: Arc<Deliveries>,
    servers: String,
}

impl std::fmt::Debug for GeneratorProducer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GeneratorProducer").field("servers", &self.servers).finish_non_exhaustive()
    }
}

impl GeneratorProducer {
    /// `properties` are librdkafka's; they win over the defaults here.
    ///
    /// # Errors
    /// When the client refuses a property.
    pub fn new(servers: &str, properties: &[(String, String)]) -> Result<Self, ProduceError> {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", servers)
            .set("client.id", "firn-generate")
            .set("enable.idempotence", "true")
            .set("linger.ms", "20")
            .set("batch.size", "524288")
            .set("compression.type", "lz4")
            .set("queue.buffering.max.messages", "200000")
            .set("queue.buffering.max.kbytes", "131072");
        for (key, value) in properties {
            config.set(key, value);
        }
        let deliveries = Arc::new(Deliveries::default());
        let producer = config.create_with_context(Context(deliveries.clone())).map_err(ProduceError::Configuration)?;
        Ok(Self { config, producer, deliveries, servers: servers.to_owned() })
    }

    /// Makes sure that the generator's topics are there and tells it how many partitions each has.
    ///
    /// # Errors
    /// When no broker answers, or a topic is missing and must not or cannot be created.
    pub async fn prepare(&self, generator: &mut Generator, creation: TopicCreation) -> Result<(), ProduceError> {
        let topics: Vec<String> = generator.topics().map(str::to_owned).collect();
        let mut counts = self.partition_counts()?;
        let missing: Vec<&String> = topics.iter().filter(|t| !counts.contains_key(*t)).collect();
        if let Some(topic) = missing.first() {
            let TopicCreation::Create { partitions, replication } = creation else {
                return Err(ProduceError::NoTopic { topic: (*topic).clone() });
            };
            let admin: AdminClient<DefaultClientContext> = self.config.create().map_err(ProduceError::Configuration)?;
            let new: Vec<NewTopic<'_>> =
                missing.iter().map(|t| NewTopic::new(t, partitions, TopicReplication::Fixed(replication))).collect();
            let options = AdminOptions::new().request_timeout(Some(PATIENCE)).operation_timeout(Some(PATIENCE));
            for result in admin.create_topics(&new, &options).await.map_err(ProduceError::Admin)? {
                match result {
                    Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                    Err((topic, code)) => return Err(ProduceError::Create { topic, code }),
                }
            }
            for topic in missing {
                counts.insert(topic.clone(), partitions);
            }
        }
        for topic in &topics {
            if let Some(count) = counts.get(topic) {
                generator.set_partitions(topic, *count);
            }
        }
        Ok(())
    }

    /// Every topic of the cluster with its partitions: a request by name could create the topic.
    fn partition_counts(&self) -> Result<BTreeMap<String, i32>, ProduceError> {
        let metadata = self
            .producer
            .client()
            .fetch_metadata(None, PATIENCE)
            .map_err(|source| ProduceError::Unreachable { servers: self.servers.clone(), source })?;
        Ok(metadata
            .topics()
            .iter()
            .filter(|t| t.error().is_none())
            .map(|t| (t.name().to_owned(), t.partitions().len() as i32))
            .collect())
    }

    /// Sends until the generator ends, the time is up, or `stop` is set; always whole transactions, so that the generator's
    /// model is what the topics add up to. Blocks; `progress` is called about four times a second and at the end.
    ///
    /// # Errors
    /// When a record could not be handed over or was not acknowledged.
    pub fn send(
        &self,
        generator: &mut Generator,
        pace: Pace,
        stop: &AtomicBool,
        mut progress: impl FnMut(&Sent),
    ) -> Result<Sent, ProduceError> {
        let begun = Instant::now();
        let mut sent = Sent::default();
        // Messages and those of them that have a value.
        let mut counts: BTreeMap<super::Table, (u64, u64)> = BTreeMap::new();
        let mut shown = begun;
        let mut ending = false;
        let context: BTreeMap<super::Table, OwnedHeaders> =
            generator.model().tables().map(|t| (t, context_headers(generator, t))).collect();
        // Looking at the clock for each message would cost more than making it.
        let stride = pace.rate.map_or(256, |rate| ((rate / 100.0) as u64).clamp(1, 256));
        loop {
            if sent.records().is_multiple_of(stride) && !ending {
                if pace.rate.is_some() {
                    generator.set_now_us(now_us());
                }
                let elapsed = begun.elapsed();
                if shown.elapsed() >= Duration::from_millis(250) {
                    shown = Instant::now();
                    sent.seconds = elapsed.as_secs_f64();
                    progress(&sent);
                }
                if stop.load(Ordering::Relaxed) || pace.at_most.is_some_and(|most| elapsed >= most) {
                    generator.finish();
                    ending = true;
                } else if let Some(rate) = pace.rate {
                    let due = Duration::from_secs_f64(sent.changes as f64 / rate.max(0.001));
                    // In short naps, so that a stop is seen soon.
                    std::thread::sleep(due.saturating_sub(elapsed).min(Duration::from_millis(200)));
                    if due > begun.elapsed() {
                        continue;
                    }
                }
            }
            let Some(record) = generator.advance() else { break };
            let count = counts.entry(record.table).or_default();
            count.0 += 1;
            count.1 += u64::from(record.value.is_some());
            sent.bytes += (record.key.len() + record.value.map_or(0, <[u8]>::len)) as u64;
            match record.value {
                Some(_) => sent.changes += 1,
                None => sent.tombstones += 1,
            }
            let mut message: BaseRecord<'_, [u8], [u8]> =
                BaseRecord::to(record.topic).partition(record.partition).key(record.key);
            if let Some(value) = record.value {
                message = message.payload(value);
            }
            // The bench measures the envelope alone.
            if record.table.schema() != SchemaName::Bench {
                let headers = context.get(&record.table).cloned().unwrap_or_default();
                message = message.headers(match record.key_change {
                    Some((key, value)) => headers.insert(Header { key, value: Some(value) }),
                    None => headers,
                });
            }
            self.enqueue(message)?;
        }
        self.producer.flush(PATIENCE).map_err(ProduceError::Send)?;
        sent.seconds = begun.elapsed().as_secs_f64();
        sent.topics = counts.iter().map(|(table, (messages, _))| (table.topic(), *messages)).collect();
        sent.changes_by_topic = counts.iter().map(|(table, (_, changes))| (table.topic(), *changes)).collect();
        let failed = self.deliveries.failed.load(Ordering::Relaxed);
        if failed > 0 {
            let first = self.deliveries.first_error.get().cloned().unwrap_or_default();
            return Err(ProduceError::Undelivered { sent: sent.records(), failed, first });
        }
        progress(&sent);
        Ok(sent)
    }

    fn enqueue(&self, message: BaseRecord<'_, [u8], [u8]>) -> Result<(), ProduceError> {
        let mut message = message;
        loop {
            match self.producer.send(message) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    message = back;
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err((error, _)) => return Err(ProduceError::Send(error)),
            }
        }
    }
}

fn context_headers(generator: &Generator, table: super::Table) -> OwnedHeaders {
    generator.context_headers(table).into_iter().fold(OwnedHeaders::new_with_capacity(5), |headers, (key, value)| {
        headers.insert(Header { key, value: Some(value) })
    })
}

fn now_us() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as i64)
}
