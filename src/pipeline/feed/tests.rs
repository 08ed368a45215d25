//! Feeds of several processes on one table, on a catalog in memory; no Kafka.

use std::path::Path;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, mpsc};

use firn_catalog::memory::MemoryCatalog;
use rstest::rstest;
use tokio::runtime::Handle;

use super::Feed;
use crate::config::Config;
use crate::config::env::Lookup;
use crate::letter::{Choice, Letter};
use crate::pipeline::committer::Ack;
use crate::pipeline::growth::PartitionCount;
use crate::pipeline::letters::DeadLetters;
use crate::pipeline::source_tables::SourceTables;
use crate::pipeline::tables::{Servers, Tables};
use crate::pipeline::writer_schemas::WriterSchemas;
use crate::position::TopicPartition;
use crate::record::Record;
use crate::serve::Status;
use crate::sink::lake::Shared;
use crate::sink::lake::letters::Contents;
use crate::source::kafka::{self, Assigned, Positions, Start};

const TOPIC: &str = "s.db.items";

/// One process: its tables, and its feed of the topic.
struct Process {
    tables: Tables,
    feed: Feed,
    answers: Receiver<Ack>,
}

impl Process {
    fn new(catalog: &MemoryCatalog, rule: &str) -> Self {
        Self::beside(catalog, rule, |_| Ok(2))
    }

    /// Kafka says that there are so many partitions.
    fn beside(
        catalog: &MemoryCatalog,
        rule: &str,
        partition_count: impl Fn(&str) -> Result<i32, String> + Send + Sync + 'static,
    ) -> Self {
        let text = format!(
            "[kafka]\nbootstrap_servers = 'localhost:1'\n[catalog]\ntype = 'sql'\nuri = 'sqlite:c.db'\nwarehouse = 'w'\n\
             [lake]\ntopics = ['{TOPIC}']\n[[lake.tables]]\ntopic = '{TOPIC}'\n{rule}\n"
        );
        let config = Config::parse(&text, Path::new("firn.toml"), &Lookup::default()).unwrap();
        let (catalog, runtime) = (Arc::new(catalog.clone()), Handle::current());
        let kafka = kafka::settings("localhost:1", [("message.max.bytes", "1000")], 1 << 20);
        let dead_letters =
            DeadLetters::open(&config, Arc::clone(&catalog) as _, &kafka, runtime.clone(), Shared::default()).unwrap();
        let writer_schemas = Arc::new(WriterSchemas::new(None, runtime.clone()));
        let (dead_letters, partition_count) = (Arc::new(dead_letters), PartitionCount(Arc::new(partition_count)));
        let shared = Shared::default();
        let source_tables = Arc::new(SourceTables::new(None, runtime.clone()));
        let servers = Servers { shared, kafka, catalog, dead_letters, writer_schemas, source_tables, partition_count };
        let (acks, answers) = mpsc::channel();
        let tables = Tables::new(config, servers, runtime.clone(), vec![acks], Arc::new(Status::default()));
        let handle = tables.handle(TOPIC).unwrap().unwrap();
        Self { feed: Feed::new(handle, runtime, 0), tables, answers }
    }

    /// Is assigned a partition of so many.
    fn begin(&mut self, partition: i32, partition_count: i32) {
        let at = TopicPartition::new(TOPIC, partition);
        let position = match self.tables.starts(std::slice::from_ref(&at))[..] {
            [Start::At(next)] => next,
            [Start::Earliest | Start::Passed { .. }] => 0,
            ref other => panic!("{other:?}"),
        };
        self.feed.handle().own(&at);
        let assigned =
            Assigned { at, position: Some(position), high: 9, topic_id: None, partition_count, misplaced: None };
        self.feed.begin(&assigned, position).unwrap();
    }

    fn push(&mut self, partition: i32, offset: i64, key: &str, value: Option<&str>) {
        self.feed.push(&Record {
            topic: TOPIC,
            partition,
            offset,
            key: Some(key.as_bytes()),
            value: value.map(str::as_bytes),
            ..Record::default()
        });
    }

    fn commit(&mut self) {
        self.feed.close_part();
        match self.answers.recv().unwrap() {
            Ack::Committed { incarnation, next, .. } => self.feed.committed(incarnation, &next),
            Ack::Reset { reason, .. } => panic!("{reason}"),
        }
    }
}

async fn live_rows(catalog: &MemoryCatalog) -> usize {
    use firn_catalog::Catalog;
    use futures::TryStreamExt;
    let table = catalog.load(&iceberg::TableIdent::from_strs(["db", "items"]).unwrap()).await.unwrap();
    let rows: Vec<_> = table.scan().build().unwrap().to_arrow().await.unwrap().try_collect().await.unwrap();
    rows.iter().map(arrow_array::RecordBatch::num_rows).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tombstone_alone_deletes_at_a_partitions_new_owner_too() {
    let catalog = MemoryCatalog::default();
    let on_threads = catalog.clone();
    tokio::task::spawn_blocking(move || {
        let rule = "mode = 'upsert'";
        let (mut a, mut b) = (Process::new(&on_threads, rule), Process::new(&on_threads, rule));
        // The table is not there yet when the second process begins.
        b.begin(1, 2);
        a.begin(0, 2);
        a.push(0, 0, r#"{"id":7}"#, Some(r#"{"before":null,"after":{"id":7,"n":1},"op":"c"}"#));
        a.commit();
        b.begin(0, 2);
        b.push(0, 1, r#"{"id":7}"#, None);
        b.commit();
    })
    .await
    .unwrap();
    assert_eq!(live_rows(&catalog).await, 0);
}

/// The topic had one partition when it was assigned.
#[rstest]
#[case::still(Ok(1), "committed")]
#[case::another_process_has_one_more(Ok(2), "stopped")]
#[case::kafka_is_away(Err("away".to_owned()), "waits")]
#[tokio::test(flavor = "multi_thread")]
async fn a_truncate_empties_a_table_by_its_place_only_where_no_other_partition_is(
    #[case] now: Result<i32, String>,
    #[case] want: &'static str,
) {
    let catalog = MemoryCatalog::default();
    let on_threads = catalog.clone();
    let became = tokio::task::spawn_blocking(move || {
        let mut process = Process::beside(&on_threads, "mode = 'upsert'", move |_| now.clone());
        process.begin(0, 1);
        process.push(0, 0, r#"{"id":7}"#, Some(r#"{"before":null,"after":{"id":7,"n":1},"op":"c"}"#));
        process.commit();
        process.push(0, 1, "null", Some(r#"{"before":null,"after":null,"op":"t","source":{"ts_ms":1}}"#));
        process.feed.close_part();
        if process.feed.handle().is_stopped() {
            "stopped"
        } else if process.feed.holds() || process.feed.take_change().is_some() {
            "waits"
        } else {
            process.answers.recv().map(|_| "committed").unwrap()
        }
    });
    assert_eq!(became.await.unwrap(), want);
    assert_eq!(live_rows(&catalog).await, usize::from(want != "committed"));
}

#[rstest]
#[case::append("")]
#[case::declared_key("mode = 'upsert'\nkey = ['id']")]
#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_only_look_like_a_schema_id_stop_nothing(#[case] rule: &'static str) {
    let catalog = MemoryCatalog::default();
    let on_threads = catalog.clone();
    tokio::task::spawn_blocking(move || {
        let mut process = Process::new(&on_threads, rule);
        process.begin(0, 2);
        // A long's eight bytes; there is no registry.
        let key = "\0\0\0\0\0\0\0\x07";
        process.push(0, 0, key, Some(r#"{"before":null,"after":{"id":7,"n":1},"op":"c"}"#));
        process.push(0, 1, key, Some("\0\0\0\0\x07{"));
        process.push(0, 2, key, Some(r#"{"before":null,"after":{"id":8,"n":1},"op":"c"}"#));
        process.commit();
        assert!(!process.feed.handle().is_stopped());
        let letters =
            Handle::current().block_on(process.feed.handle().dead_letters.read(&Choice::default(), Contents::Whole));
        let [letter] = <[Letter; 1]>::try_from(letters.unwrap()).unwrap();
        assert_eq!((letter.origin.offset, letter.reason.as_str()), (1, "unknown_schema_id"));
        assert!(letter.detail.contains("registry.url"), "{}", letter.detail);
    })
    .await
    .unwrap();
    assert_eq!(live_rows(&catalog).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_that_can_never_be_written_stop_their_table() {
    let catalog = MemoryCatalog::default();
    let on_threads = catalog.clone();
    tokio::task::spawn_blocking(move || {
        let rule = "[dead_letters]\nto = 'topic'\ntopic = 'letters'";
        let mut process = Process::new(&on_threads, rule);
        process.begin(0, 1);
        process.push(0, 0, "null", Some(r#"{"before":null,"after":{"id":7,"n":1},"op":"c"}"#));
        // Too large for the topic without its value too.
        process.push(0, 1, &"k".repeat(2_000), Some("no JSON"));
        process.feed.close_part();
        let begun = std::time::Instant::now();
        while !process.feed.handle().is_stopped() {
            assert!(begun.elapsed().as_secs() < 20, "it tries for ever");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    })
    .await
    .unwrap();
    assert_eq!(live_rows(&catalog).await, 0);
}

const HEARTBEAT: &str = r#"{"ts_ms":1}"#;
const TRANSACTION: &str = r#"{"status":"BEGIN","id":"890:1","ts_ms":1}"#;

#[rstest]
#[case::other_messages_alone(&[HEARTBEAT, TRANSACTION], true)]
#[case::a_bad_record_between(&[HEARTBEAT, "no JSON", HEARTBEAT], false)]
#[case::a_row_between(&[HEARTBEAT, r#"{"before":null,"after":{"id":7},"op":"c"}"#], false)]
#[tokio::test(flavor = "multi_thread")]
async fn only_what_no_table_could_use_is_passed_without_a_table(
    #[case] values: &'static [&'static str],
    #[case] passed: bool,
) {
    tokio::task::spawn_blocking(move || {
        let mut process = Process::new(&MemoryCatalog::default(), "mode = 'append'");
        let at = TopicPartition::new(TOPIC, 0);
        let starts = process.tables.starts(std::slice::from_ref(&at));
        assert!(matches!(&starts[..], [Start::Passed { otherwise, .. }] if **otherwise == Start::Earliest));
        process.begin(0, 2);
        for (offset, value) in values.iter().enumerate() {
            process.push(0, offset as i64, "null", Some(value));
        }
        process.feed.close_part();
        let want = if passed { vec![(at, values.len() as i64)] } else { vec![] };
        assert_eq!(process.feed.take_passed(), want);
        assert_eq!(process.feed.take_passed(), vec![], "each is told once");
    })
    .await
    .unwrap();
}
