//! The suite that every sink runs, against a real Kafka, where `FIRN_KAFKA_BOOTSTRAP` names one.
//!
//! Kafka sends its clients to the address that it advertises. So connections are cut at a listener of its own: the one on
//! `FIRN_KAFKA_GATED_PORT` sends to `FIRN_KAFKA_GATE_PORT`, where the suite's proxy listens.

use async_trait::async_trait;

use super::*;
use crate::pipeline::sidecar::ledger::GroupLedger;
use crate::sink::Sink;
use crate::sink::conformance::{self, Place};
use crate::sink::topic::{Deletes, KeyFormat, OnNullKey, TopicSink};
use crate::source::kafka;
use crate::source::kafka::testing::{self, Sent};

/// What a process of the suite has: answers are not waited for as long as by default.
fn settings(bootstrap: &str) -> ClientSettings {
    kafka::settings(bootstrap, [("transaction.timeout.ms", "3000"), ("socket.timeout.ms", "2000")], 1 << 20)
}

struct Topic {
    bootstrap: String,
    ports: (String, String),
    name: String,
    group: String,
    format: ValueFormat,
}

impl Topic {
    /// `None`, with a word about it, where no server is named.
    fn named(kind: &str, format: ValueFormat) -> Option<Self> {
        let var = |name: &str| std::env::var(name);
        let (Ok(bootstrap), Ok(gated), Ok(gate)) =
            (var("FIRN_KAFKA_BOOTSTRAP"), var("FIRN_KAFKA_GATED_PORT"), var("FIRN_KAFKA_GATE_PORT"))
        else {
            eprintln!("not tried: FIRN_KAFKA_BOOTSTRAP, FIRN_KAFKA_GATED_PORT and FIRN_KAFKA_GATE_PORT name no Kafka");
            return None;
        };
        let id = uuid::Uuid::new_v4().simple();
        let (name, group) = (format!("sink-{kind}-{id}"), format!("g-{kind}-{id}"));
        let local = |port: String| format!("127.0.0.1:{port}");
        Some(Self { bootstrap, ports: (local(gated), local(gate)), name, group, format })
    }

    fn kafka(&self) -> ClientSettings {
        settings(&self.bootstrap)
    }

    fn sink(&self, kafka: ClientSettings, deletes: Deletes) -> TopicSink {
        let settings = TopicSettings {
            topic: self.name.clone(),
            key: vec!["id".to_owned()],
            key_format: KeyFormat::Json,
            on_null_key: OnNullKey::Reject,
            format: self.format,
            deletes,
            origin_headers: true,
            partitions: Some(3),
            replication: Some(1),
        };
        let ledger = GroupLedger::new(kafka.clone(), &self.group);
        TopicSink::new(settings, Box::new(ledger), Box::new(Surroundings { kafka, registry: None }))
    }

    async fn sent(&self) -> Vec<Sent> {
        match kafka::partition_count(&self.kafka(), &self.name) {
            Ok(_) => testing::committed(&self.kafka(), &self.name),
            Err(_) => Vec::new(),
        }
    }
}

#[async_trait]
impl Place for Topic {
    fn server(&self) -> String {
        self.ports.0.clone()
    }

    fn gate(&self) -> Option<String> {
        Some(self.ports.1.clone())
    }

    async fn open(&self, server: &str) -> Box<dyn Sink> {
        // An offset is stored of topics that there are.
        ensure_topic(&self.kafka(), &conformance::at(0).topic, Some(2), Some(1)).await.unwrap();
        let past_the_gate = server == self.ports.0;
        let kafka = settings(if past_the_gate { &self.bootstrap } else { server });
        Box::new(self.sink(kafka, Deletes::Row))
    }

    async fn held(&self) -> Vec<i64> {
        let id = |m: &Sent| {
            let value: serde_json::Value = serde_json::from_slice(m.value.as_ref().unwrap()).unwrap();
            let key: serde_json::Value = serde_json::from_slice(m.key.as_ref().unwrap()).unwrap();
            assert_eq!(key["id"], value["id"]);
            value["id"].as_i64().unwrap()
        };
        self.sent().await.iter().map(id).collect()
    }

    /// The topic takes exactly what a row of the suite's has at most where its digits are a number.
    fn refuses_poison(&self) -> bool {
        true
    }

    fn poison_is(&self) -> &'static str {
        "max.message.bytes"
    }

    async fn remove(&self) {
        testing::delete(&self.kafka(), &self.name).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_conforms() {
    let Some(first) = Topic::named("conforms", ValueFormat::Json) else { return };
    // Of the rows that "poison" delivers; Kafka adds 61 bytes and at most 15 for headers' and other lengths.
    let key = r#"{"id":29}"#.len();
    let value = r#"{"id":29,"at":"2024-10-06T00:00:00.000029Z","digits":"29"}"#.len();
    let headers = "_firn_topicserver.public.events_firn_partition0_firn_offset29".len();
    let largest = (61 + 15 + key + value + headers).to_string();
    testing::make(&first.kafka(), &format!("{}-poison", first.name), 3, &[("max.message.bytes", &largest)]).await;
    conformance::all(|case| Topic {
        bootstrap: first.bootstrap.clone(),
        ports: first.ports.clone(),
        name: format!("{}-{case}", first.name),
        group: format!("{}-{case}", first.group),
        format: first.format,
    })
    .await;
}
