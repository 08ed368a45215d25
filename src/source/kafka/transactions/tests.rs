//! Against a real Kafka, where `FIRN_KAFKA_BOOTSTRAP` names one. Each test has topics and groups of its own.

use std::time::{Duration, Instant};

use super::*;
use crate::source::kafka::testing::{self, Sent};
use crate::source::kafka::{SendError, ensure_topic, partition_count, settings};

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
        testing::make(&settings, &source, 1, &[]).await;
        testing::make(&settings, &target, partitions, config).await;
        Some(Self { settings, source: TopicPartition::new(source, 0), target, group: format!("g-{id}") })
    }

    fn transactions(&self) -> Transactions {
        Transactions::new(&self.settings, &self.group).unwrap()
    }

    fn message<'a>(&'a self, key: Option<&'a str>, value: &'a [u8]) -> Outgoing<'a> {
        Outgoing { topic: &self.target, partition: None, key: key.map(str::as_bytes), value: Some(value), headers: &[] }
    }

    fn seen(&self) -> Vec<Sent> {
        testing::committed(&self.settings, &self.target)
    }

    fn values(&self) -> Vec<String> {
        self.seen().into_iter().map(|m| String::from_utf8(m.value.unwrap()).unwrap()).collect()
    }

    async fn remove(self) {
        testing::delete(&self.settings, &self.source.topic).await;
        testing::delete(&self.settings, &self.target).await;
    }
}

#[test]
fn a_span_knows_whether_others_stand_in_it() {
    let span = |offsets: &[i64]| {
        let mut span = Span::default();
        offsets.iter().for_each(|offset| span.add(*offset));
        (span.first, span.next, span.is_mixed())
    };
    assert_eq!(span(&[7]), (7, 8, false));
    assert_eq!(span(&[9, 7, 8]), (7, 10, false));
    assert_eq!(span(&[7, 8, 10]), (7, 11, true));
    assert_eq!(span(&[0, 3]), (0, 4, true));
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
    old.writers.get_mut(at).unwrap().leave_open(at, &noted(2, ""), metadata, &messages);
    let mut new = place.transactions();
    assert_eq!(new.take_over(at), Ok(Some(noted(1, ""))));
    new.commit(at, &noted(2, ""), &[place.message(None, b"two")]).unwrap();
    assert_eq!(place.values(), ["one", "two"]);
    let late = old.writers.get_mut(at).unwrap().end(&noted(2, ""));
    assert!(matches!(late, Err(TransactionError::Fenced(_))), "{late:?}");
    place.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_deleted_takes_its_offsets_with_it() {
    let Some(place) = Place::named("anew", 1, &[]).await else { return };
    let at = &place.source;
    let mut transactions = place.transactions();
    transactions.take_over(at).unwrap();
    transactions.commit(at, &noted(3, "old"), &[]).unwrap();
    testing::delete(&place.settings, &at.topic).await;
    // The name is free a moment later.
    let until = Instant::now() + Duration::from_secs(30);
    while partition_count(&place.settings, &at.topic).is_ok() && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    testing::make(&place.settings, &at.topic, 1, &[]).await;
    let mut noticed = place.transactions().take_over(at);
    while noticed != Ok(None) && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(100)).await;
        noticed = place.transactions().take_over(at);
    }
    assert_eq!(noticed, Ok(None));
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
    let told = transactions.commit(at, &noted(100, ""), &messages);
    assert_eq!(told, Err(TransactionError::TooLarge(vec![7, 99])));
    assert_eq!(place.values().len(), 0);
    messages.retain(|m| m.bytes() < 4_000);
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
        assert!(
            seen.iter().any(|m| m.key.as_deref() == Some(key.as_bytes()) && m.partition == want),
            "{key} in {want}: {seen:?}"
        );
    }
    place.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_is_made_once() {
    let Some(place) = Place::named("make", 1, &[]).await else { return };
    let name = format!("{}-made", place.target);
    for _ in 0..2 {
        ensure_topic(&place.settings, &name, Some(3), Some(1)).await.unwrap();
    }
    assert_eq!(partition_count(&place.settings, &name).unwrap(), 3);
    let too_many = ensure_topic(&place.settings, &format!("{name}-2"), None, Some(99)).await;
    assert!(matches!(too_many, Err(SendError::Refused(_))), "{too_many:?}");
    testing::delete(&place.settings, &name).await;
    place.remove().await;
}
