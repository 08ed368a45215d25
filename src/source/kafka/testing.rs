//! Topics as tests see them from outside.

use std::time::{Duration, Instant};

use rdkafka::Offset;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::producer::{FutureProducer, FutureRecord};

use super::{ClientSettings, list, partition_count};
use crate::position::TopicPartition;

/// A message that a transaction has brought.
#[derive(Clone, Debug)]
pub struct Sent {
    pub partition: i32,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Vec<u8>)>,
}

fn admin(settings: &ClientSettings) -> AdminClient<DefaultClientContext> {
    settings.plain().create().unwrap()
}

pub async fn make(settings: &ClientSettings, name: &str, partitions: i32, config: &[(&str, &str)]) {
    let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
    for (key, value) in config {
        topic = topic.set(key, value);
    }
    for made in admin(settings).create_topics(&[topic], &AdminOptions::new()).await.unwrap() {
        made.unwrap();
    }
}

pub async fn delete(settings: &ClientSettings, name: &str) {
    // It may never have been made.
    let _ = admin(settings).delete_topics(&[name], &AdminOptions::new()).await.unwrap();
}

/// Writes messages to partitions that the test names.
#[allow(missing_debug_implementations)] // a client has nothing to show
pub struct Writer(FutureProducer);

impl Writer {
    pub fn new(settings: &ClientSettings) -> Self {
        Self(settings.plain().create().unwrap())
    }

    pub async fn send(&self, at: &TopicPartition, key: Option<&str>, value: &str) {
        let record = FutureRecord { key, ..FutureRecord::to(&at.topic).partition(at.partition).payload(value) };
        self.0.send(record, Duration::from_secs(30)).await.unwrap();
    }
}

/// Every message that who reads the topic committed sees.
pub fn committed(settings: &ClientSettings, topic: &str) -> Vec<Sent> {
    let mut c = settings.consumer("seen", 0);
    c.set("enable.partition.eof", "true");
    let consumer: BaseConsumer = c.create().unwrap();
    let count = partition_count(settings, topic).unwrap();
    let at: Vec<_> = (0..count).map(|p| TopicPartition::new(topic, p)).collect();
    consumer.assign(&list(at.iter().map(|at| (at, Offset::Beginning)))).unwrap();
    let (mut seen, mut ended, until) = (Vec::new(), 0, Instant::now() + Duration::from_secs(30));
    while ended < count {
        assert!(Instant::now() < until, "{topic} can't be read to its end");
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(m)) => {
                let headers = m.headers().into_iter().flat_map(|headers| headers.iter());
                seen.push(Sent {
                    partition: m.partition(),
                    key: m.key().map(<[u8]>::to_vec),
                    value: m.payload().map(<[u8]>::to_vec),
                    headers: headers.map(|h| (h.key.to_owned(), h.value.unwrap_or_default().to_vec())).collect(),
                });
            }
            Some(Err(KafkaError::PartitionEOF(_))) => ended += 1,
            Some(Err(e)) => panic!("{e}"),
            None => {}
        }
    }
    seen
}
