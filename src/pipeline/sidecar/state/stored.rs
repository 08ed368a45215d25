//! Where it is stored: a compacted topic, written by the transactions that move the sink's position.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use xxhash_rust::xxh3::xxh3_64;

use super::{Rules, State};
use crate::config::Config;
use crate::position::TopicPartition;
use crate::sink::keeping::{Keeping, Kept};
use crate::source::kafka::{ClientSettings, ensure_compacted, partition_count, read_log, watermarks};

/// Each is read whole at a take-over: more of them are read faster, and cost the brokers files.
const PARTITIONS: i32 = 16;
/// The segment that is written to is not compacted.
const SEGMENT_BYTES: &str = "33554432";

/// The topic of one process' pipelines.
#[derive(Clone, Debug)]
pub(in crate::pipeline::sidecar) struct StateTopic {
    kafka: ClientSettings,
    name: String,
    /// How many partitions it has, once that was asked.
    count: Arc<OnceLock<i32>>,
}

/// The topic's name: a group's own.
pub(in crate::pipeline::sidecar) fn state_topic(config: &Config, kafka: &ClientSettings) -> StateTopic {
    let fits = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    let group: String = config.kafka.group.chars().map(fits).collect();
    StateTopic { kafka: kafka.clone(), name: format!("_firn_state.{group}"), count: Arc::default() }
}

impl StateTopic {
    /// What is kept of a source partition at the position where the sink `id`, `pipeline.sink`, has stored `kept`. Blocks.
    ///
    /// # Errors
    /// When the brokers do not answer, or do not show all of it yet.
    pub(in crate::pipeline::sidecar) fn read(
        &self,
        rules: &Arc<Rules>,
        id: &str,
        at: &TopicPartition,
        kept: Kept,
        runtime: &tokio::runtime::Handle,
    ) -> Result<State, String> {
        let failed = |e: &dyn std::fmt::Display| format!("topic {}: {e}", self.name);
        let count = match self.count.get() {
            Some(count) => *count,
            None => {
                let made = ensure_compacted(&self.kafka, &self.name, PARTITIONS, SEGMENT_BYTES);
                runtime.block_on(made).map_err(|e| failed(&e))?;
                let count = partition_count(&self.kafka, &self.name).map_err(|e| failed(&e))?.max(1);
                *self.count.get_or_init(|| count)
            }
        };
        let partition = (xxh3_64(format!("{id}/{at}").as_bytes()) % count.unsigned_abs() as u64) as i32;
        let prefix = format!("{id}/{}/{at}/", kept.generation);
        let mut state = State::new(rules, &self.name, partition, prefix.clone());
        if kept.transactions == 0 {
            return Ok(state);
        }
        let place = TopicPartition::new(&self.name, partition);
        let logs = watermarks(&self.kafka, std::slice::from_ref(&place)).map_err(|e| failed(&e))?;
        let mut found: HashMap<String, Option<String>> = HashMap::new();
        for (at, low, high) in logs {
            read_log(&self.kafka, &at, low, high, |record| {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                if let Some(key) = record.key.filter(|key| key.starts_with(prefix.as_bytes())) {
                    found.insert(text(key), record.value.map(text));
                }
            })
            .map_err(|e| failed(&e))?;
        }
        let seen = found.remove(&Keeping::count_key(&prefix)).flatten().and_then(|count| count.parse().ok());
        if seen != Some(kept.transactions) {
            return Err(format!(
                "topic {}/{partition} shows transaction {} of {at}, and {} are stored: another's transaction is open there, or the \
                 topic was emptied; `firn rewind --sink {id}` begins without it",
                self.name,
                seen.unwrap_or(0),
                kept.transactions
            ));
        }
        for (key, value) in &found {
            state.load(key.strip_prefix(&prefix).unwrap_or(key), value.as_deref());
        }
        Ok(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::sidecar::ledger::GroupLedger;
    use crate::sink::keeping::Step;
    use crate::sink::ledger::{Entry, Ledger, Message};
    use crate::source::kafka;

    /// Against a real Kafka, where `FIRN_KAFKA_BOOTSTRAP` names one.
    #[tokio::test(flavor = "multi_thread")]
    async fn it_is_read_back_as_it_was_where_the_sink_stands_or_not_at_all() {
        let Ok(servers) = std::env::var("FIRN_KAFKA_BOOTSTRAP") else {
            return eprintln!("skipped: FIRN_KAFKA_BOOTSTRAP names no broker");
        };
        let group = format!("state-{}", uuid::Uuid::new_v4().simple());
        let settings = kafka::settings(&servers, std::iter::empty(), 1 << 20);
        let topic = StateTopic { kafka: settings.clone(), name: format!("_firn_state.{group}"), count: Arc::default() };
        let pipeline = "name = \"p\"\nsql = \"S\"\nalert = { key = [\"k\"], cool_down = \"1s\" }\nsources = []";
        let rules = Arc::new(Rules::of(&toml::from_str(pipeline).unwrap()));
        // Any topic that is there has positions.
        let (one, two) = (TopicPartition::new(&*topic.name, 0), TopicPartition::new(&*topic.name, 1));
        let read = |at: &TopicPartition, transactions: u64| {
            let kept = Kept { generation: 1, transactions };
            let (topic, rules, at) = (topic.clone(), Arc::clone(&rules), at.clone());
            let runtime = tokio::runtime::Handle::current();
            tokio::task::block_in_place(move || topic.read(&rules, "p.http", &at, kept, &runtime))
        };
        let mut state = read(&one, 0).unwrap();
        assert_eq!(state.len(), 0);
        state.alerts.put(5, "[\"a\"]", 500);
        state.alerts.put(6, "[\"b\"]", 600);

        let mut ledger = GroupLedger::new(settings, &group);
        let stored = |state: &State, number: u64| state.keeping().messages(0, 100, number);
        ledger.take_over(&one).await.unwrap();
        ledger.take_over(&two).await.unwrap();
        let entry = |next| Entry { next, note: String::new() };
        ledger.commit(&one, &entry(7), &stored(&state, 1)).await.unwrap();
        state.settle();
        state.alerts.put(8, "[\"a\"]", 800);
        ledger.commit(&one, &entry(9), &stored(&state, 2)).await.unwrap();
        // What another partition keeps, and another generation did, is not this one's.
        let mut other = read(&two, 0).unwrap();
        other.alerts.put(1, "[\"c\"]", 100);
        ledger.commit(&two, &entry(2), &stored(&other, 1)).await.unwrap();
        let foreign: Vec<Message> = stored(&state, 9)
            .into_iter()
            .map(|m| Message {
                key: m.key.map(|k| String::from_utf8(k).unwrap().replace("/1/", "/0/").into_bytes()),
                ..m
            })
            .collect();
        ledger.commit(&one, &entry(9), &foreign).await.unwrap();

        let back = read(&one, 2).unwrap();
        assert_eq!((back.alerts.get("[\"a\"]"), back.alerts.get("[\"b\"]"), back.len()), (Some(&800), Some(&600), 2));
        assert_eq!(read(&two, 1).unwrap().len(), 1);
        let unseen = read(&one, 3).unwrap_err();
        assert!(unseen.contains("shows transaction 2") && unseen.contains("3 are stored"), "{unseen}");
        let step = Step { offset: 8, key: "ALERT/[\"a\"]".to_owned(), value: Some("8 800".to_owned()) };
        assert_eq!(state.keeping().steps, [step]);
    }
}
