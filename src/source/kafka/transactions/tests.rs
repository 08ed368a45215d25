//! Against a real Kafka, where `FIRN_KAFKA_BOOTSTRAP` names one. Each test has topics and groups of its own.

use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::message::Message as _;

use super::*;
use crate::source::kafka::settings;

struct Place {
    settings: ClientSettings,
    source: TopicPartition,
    target: String,
    group: String,
}

impl Place {
    /// `None`, with a word about it, where no server is named.
    async fn named(name: &str, partitions: i32, config: &[(&str, &str)]) -> Option<Self> {
        let Ok(bootstrap) = std::env::var("FIRN_KAFKA_BOOTSTRAP") else {
            eprintln!("not tried: FIRN_KAFKA_BOOTSTRAP names no Kafka");
            return None;
        };
        let id = uuid::Uuid::new_v4().simple().to_string();
        let settings = settings(&bootstrap, [], 4 << 20);
        let (source, target) = (format!("ledger-{name}-in-{id}"), format!("ledger-{name}-out-{id}"));
        let mut out = NewTopic::new(&target, partitions, TopicReplication::Fixed(1));
        for (key, value) in config {
            out = out.set(key, value);
        }
        let new = [NewTopic::new(&source, 1, TopicReplication::Fixed(1)), out];
        for made in settings.admin().create_topics(&new, &AdminOptions::new()).await.unwrap() {
            made.unwrap();
        }
        Some(Self { settings, source: TopicPartition::new(source, 0), target, group: format!("g-{id}") })
    }

    fn transactions(&self) -> Transactions {
        Transactions::new(&self.settings, &self.group).unwrap()
    }

    fn message<'a>(&'a self, key: Option<&'a str>, value: &'a [u8]) -> Outgoing<'a> {
        Outgoing { topic: &self.target, partition: None, key: key.map(str::as_bytes), value: Some(value), headers: &[] }
    }

    /// What who reads committed messages sees: partition, key, value.
    fn seen(&self) -> Vec<(i32, String, String)> {
        let mut c = self.settings.consumer("seen", 0);
        c.set("enable.partition.eof", "true");
        let consumer: BaseConsumer = c.create().unwrap();
        let metadata = consumer.fetch_metadata(Some(&self.target), BROKER_ANSWER).unwrap();
        let count = metadata.topics()[0].partitions().len() as i32;
        let at: Vec<_> = (0..count).map(|p| TopicPartition::new(self.target.as_str(), p)).collect();
        consumer.assign(&list(at.iter().map(|at| (at, Offset::Beginning)))).unwrap();
        let text = |bytes: Option<&[u8]>| String::from_utf8(bytes.unwrap_or_default().to_vec()).unwrap();
        let (mut seen, mut ended, until) = (Vec::new(), 0, Instant::now() + Duration::from_secs(30));
        while ended < count {
            assert!(Instant::now() < until, "the topic can't be read to its end");
            match consumer.poll(Duration::from_millis(100)) {
                Some(Ok(m)) => seen.push((m.partition(), text(m.key()), text(m.payload()))),
                Some(Err(rdkafka::error::KafkaError::PartitionEOF(_))) => ended += 1,
                Some(Err(e)) => panic!("{e}"),
                None => {}
            }
        }
        seen
    }

    fn values(&self) -> Vec<String> {
        self.seen().into_iter().map(|(_, _, value)| value).collect()
    }

    async fn remove(self) {
        let topics = [self.source.topic.as_str(), self.target.as_str()];
        self.settings.admin().delete_topics(&topics, &AdminOptions::new()).await.unwrap();
    }
}

impl ClientSettings {
    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.plain().create().unwrap()
    }
}

fn noted(next: i64, note: &str) -> Noted {
    Noted { next, note: note.to_owned() }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_over_goes_on_and_nobody_else() {
    let Some(place) = Place::named("fence", 1, &[]).await else { return };
    let at = &place.source;
    let mut old = place.transactions();
    assert_eq!(old.take_over(at), Ok(None), "nothing was ever noted");
    old.commit(at, &noted(5, "a \"note\", é"), &[place.message(None, b"one"), place.message(None, b"two")]).unwrap();
    assert_eq!(place.values(), ["one", "two"]);

    let mut new = place.transactions();
    assert_eq!(new.take_over(at), Ok(Some(noted(5, "a \"note\", é"))));
    let late = old.commit(at, &noted(6, ""), &[place.message(None, b"late")]);
    assert!(matches!(late, Err(TransactionError::Fenced(_))), "{late:?}");
    let late = old.commit(at, &noted(7, ""), &[]);
    assert!(matches!(late, Err(TransactionError::Fenced(_))), "an offset alone: {late:?}");
    new.commit(at, &noted(6, ""), &[place.message(None, b"three")]).unwrap();
    new.commit(at, &noted(9, "alone"), &[]).unwrap();
    assert_eq!(place.values(), ["one", "two", "three"]);
    assert_eq!(old.take_over(at), Ok(Some(noted(9, "alone"))), "who was fenced may take over again");
    old.commit(at, &noted(10, ""), &[place.message(None, b"four")]).unwrap();
    assert_eq!(place.values().len(), 4);
    place.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_was_left_open_is_over_once_another_begins() {
    let Some(place) = Place::named("open", 1, &[]).await else { return };
    let at = &place.source;
    let mut old = place.transactions();
    old.take_over(at).unwrap();
    old.commit(at, &noted(1, ""), &[place.message(None, b"one")]).unwrap();
    // As a process that dies before it commits.
    let metadata = old.consumer.group_metadata().unwrap();
    let messages = [place.message(None, b"never")];
    old.writers.get_mut(at).unwrap().leave_open(at, &noted(2, ""), &metadata, &messages);
    let mut new = place.transactions();
    assert_eq!(new.take_over(at), Ok(Some(noted(1, ""))));
    new.commit(at, &noted(2, ""), &[place.message(None, b"two")]).unwrap();
    assert_eq!(place.values(), ["one", "two"]);
    let late = old.writers.get_mut(at).unwrap().end(&noted(2, ""));
    assert!(matches!(late, Err(TransactionError::Fenced(_))), "{late:?}");
    place.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_of_the_group_are_nothing_to_a_transaction() {
    let Some(place) = Place::named("members", 1, &[]).await else { return };
    let member: BaseConsumer = place.settings.consumer(&place.group, 0).create().unwrap();
    member.subscribe(&[&place.source.topic]).unwrap();
    let until = Instant::now() + Duration::from_secs(30);
    while member.assignment().unwrap().count() == 0 {
        assert!(Instant::now() < until, "no assignment");
        let _ = member.poll(Duration::from_millis(100));
    }
    let mut transactions = place.transactions();
    assert_eq!(transactions.take_over(&place.source), Ok(None));
    for next in 1..20 {
        transactions.commit(&place.source, &noted(next, "n"), &[place.message(None, b"x")]).unwrap();
    }
    assert_eq!(place.transactions().take_over(&place.source), Ok(Some(noted(19, "n"))));
    assert_eq!(place.values().len(), 19);
    drop(member);
    place.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exactly_the_messages_that_are_too_large_are_named() {
    let Some(place) = Place::named("large", 1, &[("max.message.bytes", "20000")]).await else { return };
    let at = &place.source;
    let mut transactions = place.transactions();
    transactions.take_over(at).unwrap();
    let (small, large, larger) = (vec![b's'; 3_000], vec![b'l'; 21_000], vec![b'l'; 21_100]);
    let mut messages: Vec<_> = (0..100).map(|_| place.message(None, &small)).collect();
    messages[7] = place.message(None, &large);
    messages[99] = place.message(None, &larger);
    let told = loop {
        match transactions.commit(at, &noted(100, ""), &messages) {
            Err(TransactionError::Fenced(why)) => {
                assert!(why.contains("batches of"), "{why}");
                assert_eq!(transactions.take_over(at), Ok(None), "nothing was done");
            }
            told => break told,
        }
    };
    assert_eq!(told, Err(TransactionError::TooLarge(vec![7, 99])));
    assert_eq!(place.values().len(), 0);
    messages.retain(|m| m.bytes() == 3_000);
    transactions.commit(at, &noted(100, ""), &messages).unwrap();
    assert_eq!(place.values().len(), 98);
    place.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_lands_where_javas_clients_put_it() {
    let Some(place) = Place::named("keys", 7, &[]).await else { return };
    let mut transactions = place.transactions();
    transactions.take_over(&place.source).unwrap();
    // Of org.apache.kafka.common.utils.UtilsTest.
    let hashes = [
        ("21", -973_932_308_i32),
        ("foobar", -790_332_482),
        ("a-little-bit-long-string", -985_981_536),
        ("a-little-bit-longer-string", -1_486_304_829),
        ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
        ("abc", 479_470_107),
    ];
    let messages: Vec<_> = hashes.iter().map(|(key, _)| place.message(Some(key), b"x")).collect();
    transactions.commit(&place.source, &noted(1, ""), &messages).unwrap();
    let seen = place.seen();
    assert_eq!(seen.len(), hashes.len());
    for (key, hash) in hashes {
        let want = (hash & 0x7fff_ffff) % 7;
        assert!(seen.iter().any(|(partition, k, _)| k == key && *partition == want), "{key} in {want}: {seen:?}");
    }
    place.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_is_made_once() {
    let Some(place) = Place::named("make", 1, &[]).await else { return };
    let name = format!("{}-made", place.target);
    for _ in 0..2 {
        crate::source::kafka::ensure_topic(&place.settings, &name, Some(3), Some(1)).await.unwrap();
    }
    assert_eq!(crate::source::kafka::partition_count(&place.settings, &name).unwrap(), 3);
    let too_many = crate::source::kafka::ensure_topic(&place.settings, &format!("{name}-2"), None, Some(99)).await;
    assert!(matches!(too_many, Err(crate::source::kafka::SendError::Refused(_))), "{too_many:?}");
    place.settings.admin().delete_topics(&[&name], &AdminOptions::new()).await.unwrap();
    place.remove().await;
}
