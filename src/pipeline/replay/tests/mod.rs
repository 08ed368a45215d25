//! Records through the pipeline's own feed and committer, letters through the replay, on a catalog in memory.

mod random;

use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use async_trait::async_trait;
use firn_catalog::memory::MemoryCatalog;
use firn_catalog::storage::fault::{Effect, Fault, Gate};
use iceberg::TableIdent;
use rstest::rstest;
use tokio::runtime::Handle;

use super::log::Log;
use super::table::TableReplay;
use super::*;
use crate::config::env::Lookup;
use crate::pipeline::committer::Ack;
use crate::pipeline::feed::Feed;
use crate::pipeline::growth::PartitionCount;
use crate::pipeline::source_tables::SourceTables;
use crate::pipeline::tables::{Servers, TableHandle, Tables};
use crate::pipeline::writer_schemas::WriterSchemas;
use crate::position::TopicPartition;
use crate::record::{Origin, Record};
use crate::serve::Status as ServeStatus;
use crate::sink::lake::Shared;
use crate::sink::lake::letters::{PENDING, Standing};
use crate::source::kafka::Assigned;

const TOPIC: &str = "s.db.items";
const TABLE: &str = "db.items";

/// A message: key and value.
type Message = (Option<String>, Option<String>);

fn key(id: i64) -> Option<String> {
    Some(format!(r#"{{"id":{id}}}"#))
}

fn envelope(op: &str, id: i64, n: &str) -> Message {
    let row = format!(r#"{{"id":{id},"n":{n}}}"#);
    let (before, after) = if op == "d" { (row.as_str(), "null") } else { ("null", row.as_str()) };
    (key(id), Some(format!(r#"{{"before":{before},"after":{after},"op":"{op}","source":{{"ts_ms":1,"lsn":1}}}}"#)))
}

fn put(id: i64, n: i64) -> Message {
    envelope("u", id, &n.to_string())
}

/// Can't be a row while `n` is an int.
fn too_large(id: i64) -> Message {
    envelope("u", id, "5000000000")
}

fn delete(id: i64) -> Message {
    envelope("d", id, "null")
}

fn truncate(lsn: &str) -> Message {
    (None, Some(format!(r#"{{"before":null,"after":null,"op":"t","source":{{"ts_ms":1{lsn}}}}}"#)))
}

/// A one-partition topic, its table, and the letters.
struct World {
    catalog: MemoryCatalog,
    log: Arc<Mutex<Vec<Message>>>,
    /// Of the partition that the topic got later.
    added: Vec<Message>,
    /// What the table's rule says beside its topic.
    rule: &'static str,
    /// Where Kafka's log begins.
    low: i64,
}

impl World {
    fn new(rule: &'static str) -> Self {
        Self { catalog: MemoryCatalog::default(), log: Arc::default(), added: vec![], rule, low: 0 }
    }

    fn upsert() -> Self {
        Self::new("mode = 'upsert'\ncolumns = { id = 'long', n = 'int' }")
    }

    /// The cause is mended: `n` may be long.
    fn widen(&mut self) {
        self.rule = match self.rule.contains("upsert") {
            true => "mode = 'upsert'\ncolumns = { id = 'long', n = 'long' }",
            false => "columns = { id = 'long', n = 'long' }",
        };
    }

    fn config(&self) -> Config {
        let text = format!(
            "[kafka]\nbootstrap_servers = 'localhost:1'\n[catalog]\ntype = 'sql'\nuri = 'sqlite:c.db'\nwarehouse = 'w'\n\
             [lake]\ntopics = ['{TOPIC}']\n[[lake.tables]]\ntopic = '{TOPIC}'\n{}\n\
             [dead_letters]\nmax_share = 1.0\n",
            self.rule
        );
        Config::parse(&text, Path::new("firn.toml"), &Lookup::default()).unwrap()
    }

    fn kafka() -> ClientSettings {
        kafka::settings("localhost:1", [], 1 << 20)
    }

    fn letters(&self) -> DeadLetters {
        let config = self.config();
        DeadLetters::open(&config, Arc::new(self.catalog.clone()), &Self::kafka(), Handle::current(), Shared::default())
            .unwrap()
    }

    /// A process of its own reads these messages behind those that were read before, each inner list one commit.
    async fn feed(&self, commits: Vec<Vec<Message>>) {
        let (acks, answers) = mpsc::channel();
        let tables = self.tables(acks);
        let (log, runtime) = (Arc::clone(&self.log), Handle::current());
        tokio::task::spawn_blocking(move || {
            let (mut feed, mut offset) = begin(&tables, &runtime);
            for messages in commits {
                for (key, value) in messages {
                    push(&mut feed, offset, &(key.clone(), value.clone()));
                    offset += 1;
                    let mut log = log.lock().unwrap();
                    log.truncate(offset as usize - 1);
                    log.push((key, value));
                }
                feed.close_part();
                match answers.recv().unwrap() {
                    Ack::Committed { incarnation, next, .. } => feed.committed(incarnation, &next),
                    Ack::Reset { reason, .. } => panic!("{reason}"),
                }
            }
        })
        .await
        .unwrap();
    }

    /// Of a process of its own.
    fn tables(&self, acks: mpsc::Sender<Ack>) -> Tables {
        let servers = Servers {
            shared: Shared::default(),
            kafka: Self::kafka(),
            catalog: Arc::new(self.catalog.clone()),
            dead_letters: Arc::new(self.letters()),
            writer_schemas: Arc::new(WriterSchemas::new(None, Handle::current())),
            partition_count: PartitionCount(Arc::new(|_| Ok(1))),
            source_tables: Arc::new(SourceTables::new(None, Handle::current())),
        };
        Tables::new(self.config(), servers, Handle::current(), vec![acks], Arc::new(ServeStatus::default()))
    }

    async fn open(&self) -> LakeTable {
        let config = self.config().table_for(TOPIC).unwrap();
        LakeTable::open(Arc::new(self.catalog.clone()), table_spec(&config), Handle::current()).await.unwrap()
    }

    /// The commands' way: all pending letters.
    async fn replay(&self) -> Vec<(i64, Status, String)> {
        let choice = Choice { status: Some(Status::Pending), ..Choice::default() };
        let ids = self.letters().read(&choice, Contents::Outside).await.unwrap();
        self.replay_only(ids.into_iter().map(|l| l.origin.offset).collect()).await
    }

    async fn replay_only(&self, offsets: Vec<i64>) -> Vec<(i64, Status, String)> {
        self.try_replay(offsets).await.unwrap()
    }

    async fn try_replay(&self, offsets: Vec<i64>) -> Result<Vec<(i64, Status, String)>, String> {
        let (lake, letters) = (self.open().await, self.letters());
        let sources = SourceTables::new(None, Handle::current());
        let options = decode_options(&self.config().table_for(TOPIC).unwrap(), sources.before());
        let (letters, schemas) = (&letters, &WriterSchemas::new(None, Handle::current()));
        let replay = TableReplay { name: TABLE, lake: &lake, options, letters, schemas, sources: &sources, log: self };
        let id = |offset| LetterId { target: TABLE.to_owned(), origin: origin(offset), topic_id: None };
        let outcomes = replay.run(offsets.into_iter().map(id).collect()).await?;
        Ok(outcomes.into_iter().map(|o| (o.id.origin.offset, o.status, o.detail)).collect())
    }

    async fn status(&self) -> Vec<(i64, Status)> {
        let letters = self.letters().read(&Choice::default(), Contents::Whole).await.unwrap();
        letters.into_iter().map(|l| (l.origin.offset, l.status)).collect()
    }

    async fn standing(&self) -> Standing {
        self.open().await.letters().await.unwrap().unwrap()
    }

    /// `id`, `n` and the offset that the row came from.
    async fn rows(&self) -> Vec<(i64, Option<i64>, i64)> {
        use arrow_array::cast::AsArray;
        use arrow_array::types::Int64Type;
        use futures::TryStreamExt;
        let table = self.catalog.load(&ident()).await.unwrap();
        let scan = table.scan().select(["id", "n", "_firn_offset"]).build().unwrap();
        let batches: Vec<_> = scan.to_arrow().await.unwrap().try_collect().await.unwrap();
        let mut rows = vec![];
        for batch in batches {
            let long = |i: usize| arrow_cast::cast(batch.column(i), &arrow_schema::DataType::Int64).unwrap();
            let (id, n, offset) = (long(0), long(1), long(2));
            let at = |a: &arrow_array::ArrayRef, row: usize| {
                (!a.is_null(row)).then(|| a.as_primitive::<Int64Type>().value(row))
            };
            rows.extend((0..batch.num_rows()).map(|r| (at(&id, r).unwrap(), at(&n, r), at(&offset, r).unwrap())));
        }
        rows.sort_unstable();
        rows
    }

    /// The topic gets a partition, with these messages, which are read and committed.
    async fn add_partition(&mut self, messages: Vec<Message>) {
        self.added = messages.clone();
        let (acks, answers) = mpsc::channel();
        let (tables, runtime) = (self.tables(acks), Handle::current());
        tokio::task::spawn_blocking(move || {
            let (mut feed, _) = begin(&tables, &runtime);
            let at = TopicPartition::new(TOPIC, 1);
            feed.handle().own(&at);
            let (position, topic_id, misplaced) = (Some(0), None, None);
            feed.begin(&Assigned { at, position, high: 0, topic_id, partition_count: 2, misplaced }, 0).unwrap();
            for (offset, (key, value)) in messages.iter().enumerate() {
                let (key, value) = (key.as_deref().map(str::as_bytes), value.as_deref().map(str::as_bytes));
                let offset = offset as i64;
                feed.push(&Record { topic: TOPIC, partition: 1, offset, key, value, ..Record::default() });
            }
            feed.close_part();
            assert!(matches!(answers.recv().unwrap(), Ack::Committed { .. }));
        })
        .await
        .unwrap();
    }

    /// Takes the pending set away, as if these letters had found no place in it.
    async fn forget_pending(&self) {
        let table = self.catalog.load(&ident()).await.unwrap();
        let requirement = iceberg::TableRequirement::UuidMatch { uuid: table.metadata().uuid() };
        let update = iceberg::TableUpdate::RemoveProperties { removals: vec![PENDING.to_owned()] };
        self.catalog.swap(&table, &[requirement], &[update]).await.unwrap();
    }
}

#[async_trait]
impl Log for World {
    async fn lossy(&self, _: &str) -> Option<String> {
        None
    }

    fn since(&self, _: &TopicPartition, _: i64) -> Result<i64, String> {
        Ok(0)
    }

    fn read(&self, at: &TopicPartition, from: i64, to: i64, take: &mut dyn FnMut(&Record<'_>)) -> Result<(), String> {
        if from < self.low {
            return Err(format!("{at}: Kafka's log begins only at offset {}", self.low));
        }
        let log = if at.partition == 0 { self.log.lock().unwrap().clone() } else { self.added.clone() };
        for (offset, (key, value)) in log.iter().enumerate() {
            let offset = offset as i64;
            if (from..to).contains(&offset) {
                take(&Record {
                    topic: TOPIC,
                    partition: at.partition,
                    offset,
                    key: key.as_deref().map(str::as_bytes),
                    value: value.as_deref().map(str::as_bytes),
                    ..Record::default()
                });
            }
        }
        Ok(())
    }
}

/// Reads on from where the table stands.
fn begin(tables: &Tables, runtime: &Handle) -> (Feed, i64) {
    let handle: Arc<TableHandle> = tables.handle(TOPIC).unwrap().unwrap();
    let mut feed = Feed::new(Arc::clone(&handle), runtime.clone(), 0);
    let checkpoint = runtime.block_on(handle.lake.checkpoint()).unwrap().unwrap_or_default();
    let at = TopicPartition::new(TOPIC, 0);
    handle.own(&at);
    let offset = checkpoint.next(&at).unwrap_or(0);
    let (position, topic_id, misplaced) = (Some(offset), None, None);
    feed.begin(&Assigned { at, position, high: offset, topic_id, partition_count: 1, misplaced }, offset).unwrap();
    (feed, offset)
}

fn push(feed: &mut Feed, offset: i64, (key, value): &Message) {
    feed.push(&Record {
        topic: TOPIC,
        offset,
        timestamp_ms: Some(1),
        key: key.as_deref().map(str::as_bytes),
        value: value.as_deref().map(str::as_bytes),
        ..Record::default()
    });
}

fn ident() -> TableIdent {
    TableIdent::from_strs(["db", "items"]).unwrap()
}

fn origin(offset: i64) -> Origin {
    Origin { at: TopicPartition::new(TOPIC, 0), offset }
}

fn statuses(outcomes: &[(i64, Status, String)]) -> Vec<(i64, Status)> {
    outcomes.iter().map(|(offset, status, _)| (*offset, *status)).collect()
}

use Status::{Discarded, Pending, Replayed, Superseded};

/// What came behind the letter at offset 1, of key 7, and how the replay must end. `in_one` commit with the letter or in a later one.
#[rstest]
#[case::nothing(vec![put(8, 1)], Replayed, vec![(7, Some(5_000_000_000), 1), (8, Some(1), 2)])]
#[case::an_update(vec![put(7, 2)], Superseded, vec![(7, Some(2), 2)])]
#[case::a_delete(vec![delete(7)], Superseded, vec![])]
#[case::a_tombstone(vec![(key(7), None)], Superseded, vec![])]
#[case::a_truncate(vec![truncate("")], Superseded, vec![])]
#[case::a_truncate_with_an_lsn(vec![truncate(r#","lsn":9"#)], Superseded, vec![])]
#[case::a_delete_and_a_new_row(vec![delete(7), put(7, 3)], Superseded, vec![(7, Some(3), 3)])]
#[tokio::test(flavor = "multi_thread")]
async fn a_replay_overwrites_and_revives_nothing_that_came_later(
    #[case] later: Vec<Message>,
    #[case] status: Status,
    #[case] rows: Vec<(i64, Option<i64>, i64)>,
    #[values(true, false)] in_one: bool,
    #[values(true, false)] noted: bool,
) {
    let mut world = World::upsert();
    let letter = vec![put(7, 1), too_large(7)];
    let commits = if in_one { vec![[letter, later].concat()] } else { vec![letter, later] };
    world.feed(commits).await;
    assert_eq!(world.status().await, [(1, Pending)]);
    if noted {
        // What the set says is enough: the log may be gone.
        world.low = 1_000;
    } else {
        world.forget_pending().await;
    }
    let [(_, unmended, detail)] = world.replay().await.try_into().unwrap();
    assert_eq!(unmended, Pending, "{detail}");
    assert!(detail.contains("does not fit int"), "{detail}");

    world.widen();
    let outcomes = world.replay().await;
    assert_eq!(statuses(&outcomes), [(1, status)], "{outcomes:?}");
    assert_eq!(world.rows().await, rows);
    assert_eq!(world.status().await, [(1, status)]);
    assert!(world.standing().await.pending.is_empty());
    // Once more changes nothing, whether the letter is chosen or not.
    assert_eq!(world.replay().await, []);
    assert_eq!(world.replay_only(vec![1]).await, []);
    assert_eq!(world.rows().await, rows);
}

#[rstest]
#[case::a_delete(vec![delete(7)], Superseded, vec![])]
#[case::an_update(vec![put(8, 1), put(7, 2)], Superseded, vec![(7, Some(2), 1), (8, Some(1), 0)])]
#[case::of_another_key(vec![put(8, 1)], Replayed, vec![(7, Some(5_000_000_000), 1), (8, Some(1), 0)])]
#[tokio::test(flavor = "multi_thread")]
async fn a_later_change_may_be_in_a_partition_that_was_added(
    #[case] added: Vec<Message>,
    #[case] status: Status,
    #[case] rows: Vec<(i64, Option<i64>, i64)>,
) {
    let mut world = World::upsert();
    world.feed(vec![vec![put(7, 1), too_large(7)]]).await;
    world.forget_pending().await;
    world.add_partition(added).await;
    world.widen();
    let outcomes = world.replay().await;
    assert_eq!(statuses(&outcomes), [(1, status)], "{outcomes:?}");
    assert_eq!(world.rows().await, rows);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_after_a_replay_goes_on_as_ever() {
    let mut world = World::upsert();
    world.feed(vec![vec![put(7, 1), too_large(7)]]).await;
    world.widen();
    world.replay().await;
    world.feed(vec![vec![put(8, 1), put(7, 2)], vec![delete(8)]]).await;
    assert_eq!(world.rows().await, [(7, Some(2), 3)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_letters_of_one_key_go_in_in_their_order() {
    let mut world = World::upsert();
    world.feed(vec![vec![too_large(7), put(8, 1)], vec![envelope("u", 7, "6000000000")]]).await;
    world.widen();
    assert_eq!(statuses(&world.replay().await), [(0, Replayed), (2, Replayed)]);
    assert_eq!(world.rows().await, [(7, Some(6_000_000_000), 2), (8, Some(1), 1)]);
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn an_earlier_letter_does_not_overwrite_a_later_one_that_was_replayed_before_it(
    #[values(true, false)] noted: bool,
) {
    let mut world = World::upsert();
    world.feed(vec![vec![too_large(7), put(8, 1)], vec![envelope("u", 7, "6000000000")]]).await;
    world.widen();
    assert_eq!(statuses(&world.replay_only(vec![2]).await), [(2, Replayed)]);
    if !noted {
        world.forget_pending().await;
    }
    assert_eq!(statuses(&world.replay_only(vec![0]).await), [(0, Superseded)]);
    assert_eq!(world.rows().await, [(7, Some(6_000_000_000), 2), (8, Some(1), 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_letter_that_still_waits_holds_up_no_earlier_one() {
    let mut world = World::upsert();
    world.feed(vec![vec![too_large(7), put(8, 1), (key(7), Some("{".to_owned()))]]).await;
    world.forget_pending().await;
    world.widen();
    assert_eq!(statuses(&world.replay().await), [(0, Replayed), (2, Pending)]);
    assert_eq!(world.rows().await, [(7, Some(5_000_000_000), 0), (8, Some(1), 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_died_before_it_told_the_letters_is_finished_by_the_next() {
    for rule in ["mode = 'upsert'\ncolumns = { id = 'long', n = 'int' }", "columns = { id = 'long', n = 'int' }"] {
        let mut world = World::new(rule);
        world.feed(vec![vec![put(7, 1), too_large(8)]]).await;
        world.widen();
        let letters = world.letters().read(&Choice::default(), Contents::Whole).await.unwrap();
        assert_eq!(statuses(&world.replay().await), [(1, Replayed)]);
        let rows = world.rows().await;
        // Its last step is undone: the letter says pending again.
        world.letters().put(&letters).await.unwrap();
        assert_eq!(world.status().await, [(1, Pending)]);
        assert_eq!(world.replay().await, [], "settled before it was looked at");
        assert_eq!(world.status().await, [(1, Replayed)]);
        assert_eq!(world.rows().await, rows, "{rule}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_table_gets_each_letters_row_once() {
    let mut world = World::new("columns = { id = 'long', n = 'int' }");
    world.feed(vec![vec![put(7, 1), too_large(7), delete(7)]]).await;
    world.widen();
    let letters = world.letters().read(&Choice::default(), Contents::Whole).await.unwrap();
    assert_eq!(statuses(&world.replay().await), [(1, Replayed)]);
    let rows = [(7, None, 2), (7, Some(1), 0), (7, Some(5_000_000_000), 1)];
    assert_eq!(world.rows().await, rows);
    // Even where nothing but the rows remember it: another replay came since, and the letter is back.
    world.feed(vec![vec![(None, Some("{".to_owned()))]]).await;
    assert_eq!(statuses(&world.replay().await), [(3, Pending)]);
    world.letters().put(&letters).await.unwrap();
    let table = world.catalog.load(&ident()).await.unwrap();
    let update = iceberg::TableUpdate::RemoveProperties { removals: vec!["firn.replayed-letters".to_owned()] };
    world.catalog.swap(&table, &[], &[update]).await.unwrap();
    assert_eq!(statuses(&world.replay_only(vec![1]).await), [(1, Replayed)]);
    assert_eq!(world.rows().await, rows);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replays_at_once_put_one_row_in() {
    for rule in ["mode = 'upsert'\ncolumns = { id = 'long', n = 'int' }", "columns = { id = 'long', n = 'int' }"] {
        let mut world = World::new(rule);
        world.feed(vec![vec![put(7, 1), too_large(8), too_large(9)]]).await;
        world.widen();
        let (a, b) = tokio::join!(world.replay_only(vec![1, 2]), world.replay_only(vec![1, 2]));
        assert!(!a.is_empty() || !b.is_empty());
        let rows = world.rows().await;
        assert_eq!(rows.len(), 3, "{rule}: {rows:?}");
        assert_eq!(world.status().await, [(1, Replayed), (2, Replayed)]);
    }
}

/// Its value is whole, its key was not: nothing says what to watch, until the table's key is declared.
#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_keys_letter_goes_by_the_log() {
    let unreadable = |id: i64| (Some("no json".to_owned()), put(id, 50).1);
    let declared = "mode = 'upsert'\nkey = ['id']\ncolumns = { id = 'long', n = 'int' }";
    for (later, low, status, rows) in [
        (put(9, 1), 0, Replayed, vec![(7, Some(50), 1), (9, Some(1), 2)]),
        (put(7, 2), 0, Superseded, vec![(7, Some(2), 2)]),
        (delete(7), 0, Superseded, vec![]),
        (put(9, 1), 3, Pending, vec![(7, Some(1), 0), (9, Some(1), 2)]),
    ] {
        let mut world = World::upsert();
        world.feed(vec![vec![put(7, 1), unreadable(7), later]]).await;
        assert!(world.standing().await.pending.is_empty(), "the key could not be read");
        (world.rule, world.low) = (declared, low);
        let outcomes = world.replay().await;
        assert_eq!(statuses(&outcomes), [(1, status)], "{outcomes:?}");
        assert_eq!(world.rows().await, rows);
        if status == Pending {
            let (_, _, detail) = &outcomes[0];
            assert!(detail.contains("begins only at offset 3"), "{detail}");
        }
    }
}

/// Two processes read one record; the slower one is refused, and must not open the letter again.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_slept_writes_over_no_letter_that_was_settled_since() {
    let mut world = World::upsert();
    world.feed(vec![vec![put(7, 1)]]).await;
    let (acks, answers) = mpsc::channel();
    let (wake, sleep) = mpsc::channel::<()>();
    let (read, has_read) = tokio::sync::oneshot::channel();
    let (tables, runtime) = (world.tables(acks), Handle::current());
    let slow = tokio::task::spawn_blocking(move || {
        let (mut feed, offset) = begin(&tables, &runtime);
        push(&mut feed, offset, &too_large(8));
        read.send(offset).unwrap();
        sleep.recv().unwrap();
        feed.close_part();
        matches!(answers.recv().unwrap(), Ack::Reset { .. })
    });
    assert_eq!(has_read.await.unwrap(), 1);
    world.feed(vec![vec![too_large(8)]]).await;
    world.widen();
    assert_eq!(statuses(&world.replay().await), [(1, Replayed)]);
    wake.send(()).unwrap();
    assert!(slow.await.unwrap(), "the table went on without it");
    assert_eq!(world.status().await, [(1, Replayed)]);
}

/// A letter is written before its rows: until they are committed the table has not come to it.
#[tokio::test(flavor = "multi_thread")]
async fn a_letter_whose_offset_the_table_has_not_come_to_waits() {
    let mut world = World::upsert();
    world.feed(vec![vec![put(7, 1), too_large(7)]]).await;
    let ahead: Vec<Letter> = world.letters().read(&Choice::default(), Contents::Whole).await.unwrap();
    let ahead: Vec<Letter> = ahead.into_iter().map(|l| Letter { origin: origin(2), ..l }).collect();
    world.letters().put(&ahead).await.unwrap();
    world.widen();
    let [(_, status, detail)] = world.replay_only(vec![2]).await.try_into().unwrap();
    assert!(status == Pending && detail.contains("not come to its offset"), "{detail}");
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_read_again_after_a_rollback_wait_again() {
    for rule in ["mode = 'upsert'\ncolumns = { id = 'long', n = 'int' }", "columns = { id = 'long', n = 'int' }"] {
        let mut world = World::new(rule);
        world.feed(vec![vec![put(7, 1)], vec![too_large(8)]]).await;
        let first = world.catalog.load(&ident()).await.unwrap().metadata().history()[0].snapshot_id;
        world.widen();
        assert_eq!(statuses(&world.replay().await), [(1, Replayed)]);
        let table = world.catalog.load(&ident()).await.unwrap();
        let back = iceberg::TableUpdate::SetSnapshotRef {
            ref_name: "main".to_owned(),
            reference: iceberg::spec::SnapshotReference {
                snapshot_id: first,
                retention: iceberg::spec::SnapshotRetention::branch(None, None, None),
            },
        };
        world.catalog.swap(&table, &[], &[back]).await.unwrap();
        // Read again, by a process that still can't read it.
        world.rule = rule;
        world.feed(vec![vec![(key(8), Some("{".to_owned()))]]).await;
        assert_eq!(world.status().await, [(1, Pending)], "{rule}");
        assert_eq!(statuses(&world.replay().await), [(1, Pending)]);
        assert_eq!(world.rows().await, [(7, Some(1), 0)]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_turns_out_to_be_no_row_is_closed() {
    let world = World::upsert();
    world.feed(vec![vec![put(7, 1), too_large(7)]]).await;
    let letters = world.letters().read(&Choice::default(), Contents::Whole).await.unwrap();
    let message = Some(br#"{"op":"m","source":{"ts_ms":1},"message":{"prefix":"p","content":""}}"#.to_vec());
    let letters: Vec<Letter> = letters.into_iter().map(|l| Letter { value: message.clone(), ..l }).collect();
    world.letters().put(&letters).await.unwrap();
    let outcomes = world.replay().await;
    assert_eq!(statuses(&outcomes), [(1, Discarded)], "{outcomes:?}");
    assert_eq!(world.rows().await, [(7, Some(1), 0)]);
}

/// Killed before its nth call to catalog or storage, for every n.
#[rstest]
#[case::upsert("mode = 'upsert'\ncolumns = { id = 'long', n = 'int' }")]
#[case::append("columns = { id = 'long', n = 'int' }")]
#[tokio::test(flavor = "multi_thread")]
async fn a_replay_killed_at_any_step_loses_and_doubles_nothing(#[case] rule: &'static str) {
    let mut killed = 0;
    for step in 0.. {
        let mut world = World::new(rule);
        world.feed(vec![vec![put(7, 1), too_large(8)], vec![delete(7)]]).await;
        if step % 2 == 0 {
            // Also by way of the log.
            world.forget_pending().await;
        }
        world.widen();
        let faults = world.catalog.faults().clone();
        faults.add(Fault::on([], Effect::Hold(Gate::default())).skip(step));
        let held = async {
            while faults.pending() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            _ = world.replay_only(vec![1]) => {}
            () = held => killed += 1,
        }
        let last = faults.pending() > 0;
        faults.clear();
        world.replay().await;
        assert_eq!(world.status().await, [(1, Replayed)], "step {step}");
        let mut rows = world.rows().await;
        rows.retain(|(id, _, _)| *id == 8);
        assert_eq!(rows, [(8, Some(5_000_000_000), 1)], "step {step}");
        if last {
            break;
        }
    }
    assert!(killed > 10, "{killed}");
}
