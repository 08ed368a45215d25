//! The broker under librdkafka: the client that matters here.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    sync::atomic::AtomicBool,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer},
};

use super::Broker;
use crate::generate::{
    Generator, GeneratorOptions, SchemaName,
    produce::{GeneratorProducer, Pace, TopicCreation},
};

const TOPIC: &str = "bench.public.events";
/// Tells the child which broker to read from.
const SERVERS: &str = "FIRN_TEST_BROKER";

fn consumer(servers: &str, group: &str) -> BaseConsumer {
    ClientConfig::new()
        .set("bootstrap.servers", servers)
        .set("group.id", group)
        .set("session.timeout.ms", "3000")
        .set("heartbeat.interval.ms", "500")
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.commit", "false")
        .create()
        .unwrap()
}

/// Fills the topic of the bench; how many messages it then holds.
async fn fill(broker: &Broker, changes: u64) -> u64 {
    let mut generator =
        Generator::new(GeneratorOptions { changes: Some(changes), ..GeneratorOptions::new(1, [SchemaName::Bench]) });
    let producer = GeneratorProducer::new(&broker.bootstrap_servers(), &[]).unwrap();
    let creation = TopicCreation::Create { partitions: 4, replication: 1 };
    producer.prepare(&mut generator, creation).await.unwrap();
    tokio::task::spawn_blocking(move || {
        producer.send(&mut generator, Pace::default(), &AtomicBool::new(false), |_| {}).unwrap().records()
    })
    .await
    .unwrap()
}

/// Reads until `count` messages came or the time is up.
fn read(consumer: &BaseConsumer, count: u64, patience: Duration) -> BTreeSet<(i32, i64)> {
    let (begun, mut seen) = (Instant::now(), BTreeSet::new());
    while (seen.len() as u64) < count && begun.elapsed() < patience {
        if let Some(message) = consumer.poll(Duration::from_millis(100)) {
            let message = message.unwrap();
            assert!(message.payload().is_some());
            assert!(seen.insert((message.partition(), message.offset())), "{}", message.offset());
        }
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_produced_is_consumed_once_each() {
    let broker = Broker::start().await.unwrap();
    let sent = fill(&broker, 20_000).await;
    assert_eq!(broker.high_watermarks(TOPIC).iter().sum::<i64>() as u64, sent);
    assert_eq!(broker.high_watermarks(TOPIC).len(), 4);
    let servers = broker.bootstrap_servers();
    let seen = tokio::task::spawn_blocking(move || {
        let consumer = consumer(&servers, "all");
        consumer.subscribe(&["^bench\\..*"]).unwrap();
        read(&consumer, sent, Duration::from_secs(60))
    });
    assert_eq!(seen.await.unwrap().len() as u64, sent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reading_goes_on_at_any_offset_inside_a_batch_too() {
    let broker = Broker::start().await.unwrap();
    fill(&broker, 5000).await;
    let (servers, ends) = (broker.bootstrap_servers(), broker.high_watermarks(TOPIC));
    tokio::task::spawn_blocking(move || {
        for from in [0, 1, 17, 500, ends[2] - 1] {
            let consumer = consumer(&servers, "assigned");
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(TOPIC, 2, Offset::Offset(from)).unwrap();
            consumer.assign(&list).unwrap();
            let seen = read(&consumer, (ends[2] - from) as u64, Duration::from_secs(30));
            assert_eq!(seen, (from..ends[2]).map(|o| (2, o)).collect());
        }
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn committed_offsets_are_where_the_group_goes_on() {
    let broker = Broker::start().await.unwrap();
    let sent = fill(&broker, 4000).await;
    let servers = broker.bootstrap_servers();
    tokio::task::spawn_blocking(move || {
        let first = consumer(&servers, "committing");
        first.subscribe(&[TOPIC]).unwrap();
        assert_eq!(read(&first, sent, Duration::from_secs(30)).len() as u64, sent);
        let mut list = TopicPartitionList::new();
        (0..4).for_each(|p| list.add_partition_offset(TOPIC, p, Offset::Offset(100 + i64::from(p))).unwrap());
        first.commit(&list, CommitMode::Sync).unwrap();
        drop(first);
        let second = consumer(&servers, "committing");
        second.subscribe(&[TOPIC]).unwrap();
        let left = sent - (100 + 101 + 102 + 103);
        let seen = read(&second, left, Duration::from_secs(30));
        assert_eq!(seen.len() as u64, left);
        (0..4)
            .for_each(|p| assert!(seen.contains(&(p, 100 + i64::from(p))) && !seen.contains(&(p, 99 + i64::from(p)))));
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_members_share_the_partitions_and_one_takes_over_when_the_other_leaves() {
    let broker = Broker::start().await.unwrap();
    let sent = fill(&broker, 4000).await;
    let servers = broker.bootstrap_servers();
    tokio::task::spawn_blocking(move || {
        let (first, second) = (consumer(&servers, "shared"), consumer(&servers, "shared"));
        first.subscribe(&[TOPIC]).unwrap();
        second.subscribe(&[TOPIC]).unwrap();
        let owned = |c: &BaseConsumer| c.assignment().unwrap().count();
        let begun = Instant::now();
        while (owned(&first), owned(&second)) != (2, 2) {
            first.poll(Duration::from_millis(50));
            second.poll(Duration::from_millis(50));
            assert!(begun.elapsed() < Duration::from_secs(30), "{} {}", owned(&first), owned(&second));
        }
        drop(second);
        let begun = Instant::now();
        while owned(&first) != 4 {
            first.poll(Duration::from_millis(50));
            assert!(begun.elapsed() < Duration::from_secs(30));
        }
        assert!(sent > 0);
    })
    .await
    .unwrap();
}

/// Not a test of its own: the process that [`a_killed_members_partitions_go_to_the_next`] kills.
#[test]
#[ignore = "a child process of another test"]
fn child_that_reads_for_ever() {
    let Ok(servers) = std::env::var(SERVERS) else { return };
    let consumer = consumer(&servers, "killed");
    consumer.subscribe(&[TOPIC]).unwrap();
    let begun = Instant::now();
    let mut told = false;
    while begun.elapsed() < Duration::from_secs(120) {
        if consumer.poll(Duration::from_millis(100)).is_some_and(|m| m.is_ok()) && !told {
            told = true;
            println!("reading");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_members_partitions_go_to_the_next() {
    let broker = Broker::start().await.unwrap();
    let sent = fill(&broker, 20_000).await;
    let servers = broker.bootstrap_servers();
    tokio::task::spawn_blocking(move || {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["demo::broker::tests::child_that_reads_for_ever", "--exact", "--ignored", "--nocapture"])
            .env(SERVERS, &servers)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains("reading")), "the child never read");
        child.kill().unwrap();
        child.wait().unwrap();
        let begun = Instant::now();
        let next = consumer(&servers, "killed");
        next.subscribe(&[TOPIC]).unwrap();
        assert_eq!(read(&next, sent, Duration::from_secs(60)).len() as u64, sent);
        println!("took over in {:?}", begun.elapsed());
    })
    .await
    .unwrap();
}
