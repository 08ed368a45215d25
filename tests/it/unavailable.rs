//! Values that the source did not send: rows get them from their earlier version, wherever that is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray};
use firn::batch::{ChangeBatch, Unavailable};
use firn::change::{Column, ColumnType, Mode, Op, RowSchema, origin, unavailable_column};
use firn::position::{Span, TopicPartition};
use firn::sink::lake::{CommitFailure, Committed, LakeTable, Staged, TableSpec};
use firn::table_event::Truncate;
use firn_catalog::memory::MemoryCatalog;
use firn_catalog::storage::fault::{Effect, Fault, Op as Call};
use firn_catalog::{Catalog, ErrorKind, Patience};
use futures::TryStreamExt;
use iceberg::spec::{NestedField, Schema};
use iceberg::{TableRequirement, TableUpdate};
use rstest::rstest;
use tokio::runtime::Handle;

use crate::foreign;

const TOPIC: &str = "t";

/// One change of a table of `id`, `a` (always sent) and `body` (not sent unless it changed).
#[derive(Clone, Debug)]
struct Change {
    id: i64,
    op: Op,
    a: &'static str,
    /// `None` was not sent.
    body: Option<&'static str>,
    former: Option<i64>,
    rekeyed: bool,
    lsn: i64,
}

/// The row with its body.
fn full(id: i64, a: &'static str, body: &'static str) -> Change {
    Change { id, op: Op::Create, a, body: Some(body), former: None, rekeyed: false, lsn: 0 }
}

/// The row without its body.
fn lacks(id: i64, a: &'static str) -> Change {
    Change { op: Op::Update, body: None, ..full(id, a, "") }
}

fn delete(id: i64) -> Change {
    Change { op: Op::Delete, body: None, ..full(id, "", "") }
}

/// The tombstone behind the delete of a changed key: it says nothing of its place in the source's log.
fn tombstone(id: i64) -> Change {
    Change { rekeyed: true, lsn: -1, ..delete(id) }
}

/// The delete that stands for a changed key, and the row under its new one.
fn rekeyed(from: i64, to: i64, a: &'static str, lsn: i64) -> [Change; 2] {
    let delete = Change { rekeyed: true, lsn, ..delete(from) };
    [delete, Change { op: Op::Create, former: Some(from), lsn, ..lacks(to, a) }]
}

fn at(lsn: i64, change: Change) -> Change {
    Change { lsn, ..change }
}

fn batch(partition: i32, changes: &[Change]) -> ChangeBatch {
    let text = |of: &dyn Fn(&Change) -> Option<&'static str>| -> ArrayRef {
        Arc::new(StringArray::from(changes.iter().map(of).collect::<Vec<_>>()))
    };
    let row = |c: &Change| c.op != Op::Delete;
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from_iter_values(changes.iter().map(|c| c.id)))),
        ("a", text(&|c| row(c).then_some(c.a))),
        ("body", text(&|c| c.body.filter(|_| row(c)))),
        (origin::TOPIC, text(&|_| Some(TOPIC))),
        (origin::PARTITION, Arc::new(Int32Array::from(vec![partition; changes.len()]))),
        (origin::SOURCE_LSN, Arc::new(Int64Array::from_iter(changes.iter().map(|c| (c.lsn >= 0).then_some(c.lsn))))),
    ];
    let former: Vec<i64> = changes.iter().filter_map(|c| c.former).collect();
    let mut unavailable = vec![];
    for (row, change) in changes.iter().enumerate().filter(|(_, c)| c.body.is_none() && c.op != Op::Delete) {
        let keys = changes[..row].iter().filter(|c| c.former.is_some()).count() as u32;
        unavailable.push(Unavailable { row: row as u32, columns: vec![2], former_key: change.former.map(|_| keys) });
    }
    let keys: ArrayRef = Arc::new(Int64Array::from(former.clone()));
    ChangeBatch {
        before: None,
        unavailable,
        former_keys: (!former.is_empty()).then(|| RecordBatch::try_from_iter([("id", keys)]).unwrap()),
        rekeyed: (0..changes.len() as u32).filter(|i| changes[*i as usize].rekeyed).collect(),
        ..ChangeBatch::new(RecordBatch::try_from_iter(columns).unwrap(), changes.iter().map(|c| c.op).collect())
    }
}

fn schema(extra: &[&str]) -> RowSchema {
    let mut columns = vec![Column::key("id", ColumnType::Long)];
    columns.extend(["a", "body"].iter().chain(extra).map(|name| Column::new(*name, ColumnType::String)));
    columns.push(unavailable_column());
    RowSchema { columns }
}

struct World {
    catalog: MemoryCatalog,
    spec: TableSpec,
    table: LakeTable,
    /// The next offset of each partition.
    next: BTreeMap<i32, i64>,
}

impl World {
    async fn new() -> Self {
        Self::with(TableSpec::new("db", "t")).await
    }

    async fn with(spec: TableSpec) -> Self {
        let spec = TableSpec { mode: Mode::Upsert, ..spec };
        let catalog = MemoryCatalog::default();
        let table = open(&catalog, &spec, &[]).await;
        Self { catalog, spec, table, next: BTreeMap::new() }
    }

    /// A process that knows nothing but what the table says.
    async fn restart(&mut self) {
        self.table = open(&self.catalog, &self.spec, &[]).await;
        self.table.checkpoint().await.unwrap();
    }

    /// Stages changes of one partition; each inner list is a batch of its own for the stager.
    async fn stage(&mut self, partition: i32, batches: &[&[Change]]) -> Staged {
        let rows: i64 = batches.iter().map(|b| b.len() as i64).sum();
        let next = self.next.entry(partition).or_insert(0);
        let span = Span::new(TopicPartition::new(TOPIC, partition), *next, *next + rows);
        *next += rows;
        let mut stager = self.table.stager().unwrap();
        let batches: Vec<ChangeBatch> = batches.iter().map(|b| self.batch(partition, b)).collect();
        let staged = tokio::task::spawn_blocking(move || {
            for batch in batches {
                stager.write(batch).unwrap();
            }
            stager.close(vec![span]).unwrap()
        });
        staged.await.unwrap()
    }

    /// Without the columns that the table doesn't have.
    fn batch(&self, partition: i32, changes: &[Change]) -> ChangeBatch {
        let batch = batch(partition, changes);
        match self.spec.origin_columns {
            true => batch,
            false => ChangeBatch { rows: batch.rows.project(&[0, 1, 2]).unwrap(), ..batch },
        }
    }

    async fn put(&mut self, batches: &[&[Change]]) -> Committed {
        self.put_into(0, batches).await
    }

    async fn put_into(&mut self, partition: i32, batches: &[&[Change]]) -> Committed {
        let staged = self.stage(partition, batches).await;
        self.table.commit(vec![staged]).await.unwrap()
    }

    async fn table(&self) -> iceberg::table::Table {
        self.catalog.load(&self.spec.ident().unwrap()).await.unwrap()
    }

    /// `id`, `a`, `body` and whether the body is named as unavailable, of all rows, by Iceberg's own reader.
    async fn rows(&self) -> Vec<(i64, String, Option<String>, bool)> {
        let table = self.table().await;
        foreign::check_delete_files(&table).await;
        let batches: Vec<RecordBatch> =
            table.scan().build().unwrap().to_arrow().await.unwrap().try_collect().await.unwrap();
        let mut rows = vec![];
        for batch in batches {
            let column = |name: &str| batch.column_by_name(name).unwrap();
            let (id, a) =
                (column("id").as_primitive::<arrow_array::types::Int64Type>(), column("a").as_string::<i32>());
            let (body, marks) = (column("body").as_string::<i32>(), column(origin::UNAVAILABLE).as_list::<i32>());
            for i in 0..batch.num_rows() {
                let body = body.is_valid(i).then(|| body.value(i).to_owned());
                let marked = marks.is_valid(i).then(|| marks.value(i));
                if let Some(names) = &marked {
                    assert_eq!(names.as_string::<i32>().iter().collect::<Vec<_>>(), [Some("body")]);
                }
                rows.push((id.value(i), a.value(i).to_owned(), body, marked.is_some()));
            }
        }
        rows.sort();
        rows
    }

    async fn assert(&self, expected: &[(i64, &str, &str)]) {
        let expected: Vec<_> =
            expected.iter().map(|(id, a, b)| (*id, (*a).to_owned(), Some((*b).to_owned()), false)).collect();
        assert_eq!(self.rows().await, expected);
    }

    /// Data files in storage that no snapshot names.
    async fn orphans(&self) -> Vec<String> {
        let table = self.table().await;
        let metadata = table.metadata();
        let mut known = std::collections::HashSet::new();
        for snapshot in metadata.snapshots() {
            let cache = firn_catalog::ManifestCache::new(1 << 20);
            let files = firn_catalog::live::files(&table, Some(snapshot.snapshot_id()), &cache).await.unwrap();
            let all = files.data.iter().chain(&files.position_deletes);
            known.extend(all.map(|f| f.file.file_path().rsplit('/').next().unwrap().to_owned()));
        }
        let (store, path) = self.catalog.stores().object_store(&format!("{}/data", metadata.location())).unwrap();
        let stored = store.list(Some(&path)).try_collect::<Vec<_>>().await.unwrap();
        let names = stored.into_iter().map(|o| o.location.filename().unwrap().to_owned());
        names.filter(|name| !known.contains(name)).collect()
    }
}

async fn open(catalog: &MemoryCatalog, spec: &TableSpec, extra: &[&str]) -> LakeTable {
    let table = LakeTable::open(Arc::new(catalog.clone()), spec.clone(), Handle::current()).await.unwrap();
    table.ensure_schema(&schema(extra)).await.unwrap();
    table
}

#[tokio::test]
async fn a_row_gets_its_value_from_the_table() {
    let mut world = World::new().await;
    world.put(&[&[full(1, "a", "one"), full(2, "a", "two"), full(3, "a", "three")]]).await;
    let done = world.put(&[&[lacks(1, "b"), lacks(3, "c")]]).await;
    assert_eq!((done.unavailable.restored_rows, done.unavailable.lost_rows), (2, 0));
    world.assert(&[(1, "b", "one"), (2, "a", "two"), (3, "c", "three")]).await;
    // And again from the row that was completed, then by a process that knows nothing.
    world.put(&[&[lacks(1, "d")]]).await;
    world.restart().await;
    world.put(&[&[lacks(1, "e"), full(2, "b", "zwei")], &[lacks(2, "c")]]).await;
    world.assert(&[(1, "e", "one"), (2, "c", "zwei"), (3, "c", "three")]).await;
}

/// What comes in one commit: batches for the stager.
#[rstest]
#[case::rows_written_before(vec![vec![full(1, "a", "one")], vec![lacks(1, "b")]])]
#[case::rows_that_arrive_together(vec![vec![full(1, "a", "one"), lacks(1, "b")]])]
#[case::a_chain(vec![vec![full(1, "a", "one"), lacks(1, "x")], vec![lacks(1, "y"), lacks(1, "z")], vec![lacks(1, "b")]])]
#[case::a_chain_over_the_table(vec![vec![lacks(7, "x")], vec![lacks(7, "y"), full(1, "a", "one")], vec![lacks(1, "b"), lacks(7, "z")]])]
#[case::a_value_in_between(vec![vec![full(1, "a", "zero"), lacks(1, "x"), full(1, "y", "one"), lacks(1, "b")]])]
#[case::a_row_that_came_back(vec![vec![full(1, "a", "zero")], vec![delete(1), full(1, "a", "one"), lacks(1, "b")]])]
#[case::a_row_of_the_table_that_came_back(vec![vec![lacks(7, "x"), delete(7), full(7, "y", "one")], vec![lacks(7, "z"), full(1, "b", "one")]])]
#[case::a_row_that_went(vec![vec![full(1, "b", "one"), full(3, "a", "x"), lacks(3, "b")], vec![delete(3)]])]
#[tokio::test]
async fn a_row_gets_its_value_from_the_same_batch(#[case] batches: Vec<Vec<Change>>) {
    let mut world = World::new().await;
    world.put(&[&[full(7, "a", "one")]]).await;
    let batches: Vec<&[Change]> = batches.iter().map(Vec::as_slice).collect();
    world.put(&batches).await;
    let seven = world.rows().await.into_iter().find(|r| r.0 == 7).unwrap();
    assert_eq!((seven.2.as_deref(), seven.3), (Some("one"), false));
    let rest: Vec<_> = world.rows().await.into_iter().filter(|r| r.0 != 7).collect();
    assert_eq!(rest, [(1, "b".to_owned(), Some("one".to_owned()), false)]);
    // The index knows where they are.
    world.put(&[&[lacks(1, "c"), delete(7)]]).await;
    world.assert(&[(1, "c", "one")]).await;
}

#[tokio::test]
async fn a_changed_key_takes_its_values_along_within_one_batch() {
    for split in [false, true] {
        let mut world = World::new().await;
        world.put(&[&[at(1, full(1, "a", "one")), at(2, full(2, "a", "two")), at(3, full(3, "old", "old"))]]).await;
        // 1 becomes 11; 2 is changed first and becomes 12; 3 is deleted and 4, born here, takes its place.
        let [d1, c1] = rekeyed(1, 11, "b", 10);
        let [d2, c2] = rekeyed(2, 12, "b", 20);
        let [d4, c4] = rekeyed(4, 3, "b", 30);
        let changes = [
            d1,
            tombstone(1),
            c1,
            at(15, full(2, "a", "zwei")),
            at(16, lacks(2, "x")),
            d2,
            tombstone(2),
            c2,
            delete(3),
            at(25, full(4, "a", "four")),
            d4,
            tombstone(4),
            c4,
        ];
        let batches: Vec<&[Change]> = match split {
            true => changes.chunks(1).collect(),
            false => vec![&changes],
        };
        world.put(&batches).await;
        world.assert(&[(3, "b", "four"), (11, "b", "one"), (12, "b", "zwei")]).await;
    }
}

#[tokio::test]
async fn a_key_that_is_changed_twice_in_a_batch_takes_its_values_along() {
    let mut world = World::new().await;
    world.put(&[&[at(1, full(1, "a", "one"))]]).await;
    let [d1, c1] = rekeyed(1, 2, "b", 10);
    let [d2, c2] = rekeyed(2, 1, "c", 20);
    world.put(&[&[d1, c1], &[d2, c2]]).await;
    world.assert(&[(1, "c", "one")]).await;
}

#[rstest]
#[case::the_same_process(false)]
#[case::a_process_that_knows_nothing(true)]
#[tokio::test]
async fn a_changed_keys_delete_may_have_been_committed_before(#[case] restart: bool) {
    let mut world = World::new().await;
    world.put(&[&[at(1, full(1, "a", "one")), at(2, full(2, "a", "two")), at(3, full(3, "a", "three"))]]).await;
    let [d1, c1] = rekeyed(1, 11, "b", 10);
    let [d2, c2] = rekeyed(2, 12, "b", 20);
    let [d4, c4] = rekeyed(4, 14, "b", 30);
    let [d5, c5] = rekeyed(3, 15, "b", 40);
    // 2 gets another body first; 4 lives within this batch alone; 3 lacks its body then.
    world
        .put(&[&[d1, at(15, full(2, "a", "zwei")), d2, at(25, full(4, "a", "four")), d4, at(35, lacks(3, "x"))], &[d5]])
        .await;
    world.assert(&[]).await;
    // The former keys are in use again: those rows are not meant.
    world.put(&[&[at(50, full(1, "n", "neu")), at(51, full(2, "n", "neu"))]]).await;
    if restart {
        world.restart().await;
    }
    let done = world.put(&[&[c1, c2, c4, c5]]).await;
    assert_eq!((done.unavailable.restored_rows, done.unavailable.lost_rows), (4, 0));
    world
        .assert(&[
            (1, "n", "neu"),
            (2, "n", "neu"),
            (11, "b", "one"),
            (12, "b", "zwei"),
            (14, "b", "four"),
            (15, "b", "three"),
        ])
        .await;
}

#[tokio::test]
async fn a_changed_key_meets_its_delete_of_another_worker() {
    let mut world = World::new().await;
    world.put_into(0, &[&[at(1, full(1, "a", "one")), at(2, full(2, "a", "two"))]]).await;
    let [d1, c1] = rekeyed(1, 11, "b", 10);
    let [d2, c2] = rekeyed(2, 12, "b", 20);
    let first = world.stage(1, &[&[c1, c2]]).await;
    let second = world.stage(0, &[&[d1, at(15, full(2, "x", "zwei"))], &[d2]]).await;
    world.table.commit(vec![first, second]).await.unwrap();
    world.assert(&[(11, "b", "one"), (12, "b", "zwei")]).await;
}

#[tokio::test]
async fn a_delete_that_is_behind_the_batch_is_waited_for_but_not_for_ever() {
    let mut world = World::new().await;
    world.put_into(0, &[&[at(1, full(1, "a", "one"))]]).await;
    let [d1, c1] = rekeyed(1, 11, "b", 10);
    let staged = world.stage(1, &[std::slice::from_ref(&c1)]).await;
    let Err(CommitFailure::Stale(why)) = world.table.commit(vec![staged]).await else { panic!("it did not wait") };
    assert!(why.contains("former key"), "{why}");
    // Read again it comes with its delete.
    world.next.insert(1, 0);
    let both = [
        world.stage(1, &[std::slice::from_ref(&c1)]).await,
        world.stage(0, &[&[at(5, full(1, "a", "eins")), d1]]).await,
    ];
    world.table.commit(both.into()).await.unwrap();
    world.assert(&[(11, "b", "eins")]).await;

    // Its delete never comes.
    world.put_into(0, &[&[at(30, full(2, "a", "two"))]]).await;
    world.table.wait_for_former_keys(Duration::ZERO).await;
    let [_, c2] = rekeyed(2, 12, "b", 40);
    let done = world.put_into(1, &[&[c2]]).await;
    assert_eq!((done.unavailable.restored_rows, done.unavailable.lost_rows), (0, 1));
    let lost = (12, "b".to_owned(), None, true);
    assert_eq!(world.rows().await.last(), Some(&lost));
    // A row that got it from there doesn't have it either.
    let done = world.put_into(1, &[&[lacks(12, "c")]]).await;
    assert_eq!(done.unavailable.lost_rows, 1);
    assert_eq!(world.rows().await.last(), Some(&(12, "c".to_owned(), None, true)));
    world.put_into(1, &[&[full(12, "d", "x")]]).await;
    assert_eq!(world.rows().await.last(), Some(&(12, "d".to_owned(), Some("x".to_owned()), false)));
}

#[rstest]
#[case::of_a_row_of_the_table(true)]
#[case::of_a_row_that_never_was_there(false)]
#[tokio::test]
async fn the_delete_of_another_process_is_waited_for(#[case] known: bool) {
    let mut world = World::new().await;
    if known {
        world.put_into(0, &[&[at(1, full(1, "a", "one"))]]).await;
    }
    let [d1, c1] = rekeyed(1, 11, "b", 10);
    // It owns partition 1 alone.
    let patience = Patience { attempts: 2, first_wait_ms: 0, max_wait_ms: 0 };
    let other = open(&world.catalog, &world.spec, &[]).await.with_patience(patience);
    other.checkpoint().await.unwrap();
    other.own([TopicPartition::new(TOPIC, 1)]);
    world.table = other;
    let staged = world.stage(1, &[&[c1]]).await;
    let Err(CommitFailure::Undecided(parts, _)) = world.table.commit(vec![staged]).await else { panic!() };
    let owner = open(&world.catalog, &world.spec, &[]).await;
    owner.checkpoint().await.unwrap();
    let waiting = std::mem::replace(&mut world.table, owner);
    world.put_into(0, &[&[at(5, full(1, "x", "eins")), d1]]).await;
    waiting.commit(parts).await.unwrap();
    world.assert(&[(11, "b", "eins")]).await;
}

#[tokio::test]
async fn a_former_key_that_the_table_never_had_may_be_in_an_own_partition_that_is_behind() {
    let mut world = World::new().await;
    world.table.own([TopicPartition::new(TOPIC, 0), TopicPartition::new(TOPIC, 1)]);
    let [d1, c1] = rekeyed(1, 11, "b", 10);
    let staged = world.stage(1, &[std::slice::from_ref(&c1)]).await;
    let failure = world.table.commit(vec![staged]).await.unwrap_err();
    assert!(matches!(failure, CommitFailure::Stale(_)), "{failure}");
    world.next.insert(1, 0);
    let both = [world.stage(1, &[&[c1]]).await, world.stage(0, &[&[at(5, full(1, "a", "one")), d1]]).await];
    world.table.commit(both.into()).await.unwrap();
    world.assert(&[(11, "b", "one")]).await;
}

/// What the later of two parts of a worker, committed together, looks for in the table is in the earlier one.
#[rstest]
#[case::a_row(vec![full(1, "b", "two")], vec![lacks(1, "c")], vec![(1, "c", "two")])]
#[case::a_row_that_was_held_back(vec![full(1, "b", "two"), lacks(1, "x")], vec![lacks(1, "c")], vec![(1, "c", "two")])]
#[case::a_chain_over_the_table(vec![lacks(1, "x")], vec![lacks(1, "c")], vec![(1, "c", "one")])]
#[case::a_row_born_there(vec![full(2, "b", "two")], vec![lacks(2, "c")], vec![(1, "a", "one"), (2, "c", "two")])]
#[case::a_former_key(
    vec![at(5, full(1, "b", "two"))],
    [rekeyed(1, 11, "c", 10).to_vec(), vec![tombstone(1)]].concat(),
    vec![(11, "c", "two")]
)]
#[case::a_former_key_that_was_held_back(
    vec![at(5, full(1, "b", "two")), at(6, lacks(1, "x"))],
    rekeyed(1, 11, "c", 10).to_vec(),
    vec![(11, "c", "two")]
)]
#[case::a_former_key_of_the_table(
    rekeyed(1, 11, "c", 10)[..1].to_vec(),
    vec![tombstone(1), rekeyed(1, 11, "c", 10)[1].clone()],
    vec![(11, "c", "one")]
)]
#[tokio::test]
async fn a_part_finds_its_values_in_the_part_before_it(
    #[case] first: Vec<Change>,
    #[case] second: Vec<Change>,
    #[case] expected: Vec<(i64, &str, &str)>,
) {
    let mut world = World::new().await;
    world.put(&[&[at(1, full(1, "a", "one"))]]).await;
    let parts = vec![world.stage(0, &[&first]).await, world.stage(0, &[&second]).await];
    let done = world.table.commit(parts).await.unwrap();
    assert_eq!(done.unavailable.lost_rows, 0);
    world.assert(&expected).await;
}

#[rstest]
#[case::the_same_process(false)]
#[case::a_process_that_knows_nothing(true)]
#[tokio::test]
async fn a_row_that_a_later_part_ended_is_found_when_its_new_key_comes(#[case] restart: bool) {
    let mut world = World::new().await;
    world.put(&[&[at(1, full(1, "a", "one")), at(2, full(2, "a", "two"))]]).await;
    let ([d1, c1], [d2, c2]) = (rekeyed(1, 11, "c", 10), rekeyed(2, 12, "c", 20));
    let first =
        world.stage(0, &[&[at(5, full(1, "b", "eins")), at(6, full(2, "b", "zwei")), at(7, lacks(2, "x"))]]).await;
    let second = world.stage(0, &[&[d1, tombstone(1), d2, tombstone(2)]]).await;
    world.table.commit(vec![first, second]).await.unwrap();
    world.assert(&[]).await;
    if restart {
        world.restart().await;
    }
    world.put_into(1, &[&[c1, c2]]).await;
    world.assert(&[(11, "c", "eins"), (12, "c", "zwei")]).await;
}

#[rstest]
#[case::the_same_process(false)]
#[case::a_process_that_knows_nothing(true)]
#[tokio::test]
async fn a_commit_may_end_between_a_delete_and_its_tombstone(#[case] restart: bool) {
    let mut world = World::new().await;
    world.put(&[&[at(1, full(1, "a", "one")), at(2, full(2, "a", "two"))]]).await;
    let ([d1, c1], [d2, c2]) = (rekeyed(1, 11, "b", 10), rekeyed(2, 12, "b", 20));
    world.put(&[&[d1]]).await;
    if restart {
        world.restart().await;
    }
    world.put(&[&[tombstone(1), c1, d2]]).await;
    if restart {
        world.restart().await;
    }
    world.put(&[&[tombstone(2)], &[c2]]).await;
    world.assert(&[(11, "b", "one"), (12, "b", "two")]).await;
}

#[tokio::test]
async fn a_tombstone_is_not_taken_for_the_delete_of_a_later_change() {
    let mut world = World::new().await;
    world.put(&[&[at(1, full(1, "a", "one"))]]).await;
    let [d1, c1] = rekeyed(1, 11, "b", 10);
    world.put(&[&[d1]]).await;
    // The key came back and was changed again: the row and its delete are behind.
    let [d2, c2] = rekeyed(1, 12, "c", 30);
    let parts =
        vec![world.stage(0, &[&[tombstone(1), c1.clone()]]).await, world.stage(1, &[std::slice::from_ref(&c2)]).await];
    let failure = world.table.commit(parts).await.unwrap_err();
    assert!(matches!(failure, CommitFailure::Stale(_)), "{failure}");
    world.next = [(0, 2), (1, 0)].into();
    let changes = [tombstone(1), c1, at(20, full(1, "a", "eins")), d2, tombstone(1)];
    let parts = vec![world.stage(0, &[&changes]).await, world.stage(1, &[&[c2]]).await];
    world.table.commit(parts).await.unwrap();
    world.assert(&[(11, "b", "one"), (12, "c", "eins")]).await;
}

#[tokio::test]
async fn of_one_key_that_is_changed_twice_each_new_row_finds_its_own() {
    let mut world = World::new().await;
    world.put(&[&[at(1, full(1, "a", "one"))]]).await;
    let ([d1, c1], [d2, c2]) = (rekeyed(1, 11, "b", 10), rekeyed(1, 12, "c", 30));
    // Both new rows come through another worker.
    let parts = vec![
        world.stage(0, &[&[d1, tombstone(1), at(20, full(1, "a", "eins")), d2, tombstone(1)]]).await,
        world.stage(1, &[&[c1, c2]]).await,
    ];
    let done = world.table.commit(parts).await.unwrap();
    assert_eq!(done.unavailable.lost_rows, 0);
    world.assert(&[(11, "b", "one"), (12, "c", "eins")]).await;
}

/// A connector that was killed sends what it had sent last once more.
#[rstest]
#[case::the_same_process(false)]
#[case::a_process_that_knows_nothing(true)]
#[tokio::test]
async fn a_changed_key_that_is_sent_again_keeps_its_values(#[case] restart: bool) {
    let mut world = World::new().await;
    world.put(&[&[at(1, full(1, "a", "one")), at(2, full(2, "a", "two"))]]).await;
    let ([d1, c1], [d2, c2]) = (rekeyed(1, 11, "b", 10), rekeyed(2, 12, "b", 20));
    // Key 2 comes back after it was changed.
    let changes = [d1, tombstone(1), c1, d2, tombstone(2), c2, at(30, full(2, "n", "neu"))];
    for _ in 0..3 {
        world.put(&[&changes]).await;
        world.assert(&[(2, "n", "neu"), (11, "b", "one"), (12, "b", "two")]).await;
        if restart {
            world.restart().await;
        }
    }
}

#[tokio::test]
async fn a_truncate_takes_what_an_earlier_part_holds_back() {
    let mut world = World::with(TableSpec { origin_columns: false, ..TableSpec::new("db", "t") }).await;
    world.put(&[&[full(1, "a", "one"), full(2, "a", "two")]]).await;
    let first = world.stage(0, &[&[lacks(1, "b"), full(3, "a", "three")]]).await;
    let at = TopicPartition::new(TOPIC, 0);
    let (mut stager, behind) = (world.table.stager().unwrap(), world.batch(0, &[full(4, "a", "four")]));
    let second = tokio::task::spawn_blocking(move || {
        stager.truncate(Truncate { at: at.clone(), offset: 4, fence: None, only_partition: true }).unwrap();
        stager.write(behind).unwrap();
        stager.close(vec![Span::new(at, 4, 6)]).unwrap()
    });
    world.table.commit(vec![first, second.await.unwrap()]).await.unwrap();
    world.assert(&[(4, "a", "four")]).await;
}

#[tokio::test]
async fn rows_that_were_never_there_are_null_and_named() {
    let mut world = World::new().await;
    world.table.wait_for_former_keys(Duration::ZERO).await;
    let [_, c] = rekeyed(8, 9, "b", 5);
    let done = world.put(&[&[lacks(1, "a"), c, full(2, "a", "two")]]).await;
    assert_eq!((done.unavailable.restored_rows, done.unavailable.lost_rows), (0, 2));
    let lost = |id: i64, a: &str| (id, a.to_owned(), None, true);
    let two = (2, "a".to_owned(), Some("two".to_owned()), false);
    assert_eq!(world.rows().await, [lost(1, "a"), two, lost(9, "b")]);
}

#[rstest]
#[case::unpartitioned(&[], &[])]
#[case::partitioned(&["bucket(3, id)"], &[])]
#[case::by_a_column_that_changes(&["a"], &["a desc"])]
#[case::by_the_value_itself(&["truncate(1, body)"], &["body", "id desc"])]
#[tokio::test]
async fn completed_rows_go_where_their_values_belong(#[case] partition_by: &[&str], #[case] sort_by: &[&str]) {
    let spec = TableSpec {
        partition_by: partition_by.iter().map(|t| (*t).to_owned()).collect(),
        sort_by: sort_by.iter().map(|t| (*t).to_owned()).collect(),
        ..TableSpec::new("db", "t")
    };
    let mut world = World::with(spec).await;
    let body = |id: i64| ["one", "two", "three"][id as usize % 3];
    let name = |id: i64| ["x", "y", "z"][id as usize % 3];
    let rows: Vec<Change> = (0..30).map(|id| full(id, "a", body(id))).collect();
    world.put(&[&rows[..20], &rows[20..]]).await;
    let [d, c] = rekeyed(29, 100, "k", 9);
    let again: Vec<Change> = (0..29).rev().step_by(2).map(|id| lacks(id, name(id))).chain([d, c]).collect();
    world.put(&[&again]).await;
    world.restart().await;
    world.put(&[&[lacks(0, "last"), lacks(1, "last"), lacks(100, "last")]]).await;
    let mut expected: Vec<(i64, &str, &str)> =
        (0..29).map(|id| (id, if id % 2 == 0 { name(id) } else { "a" }, body(id))).collect();
    expected[0].1 = "last";
    expected[1].1 = "last";
    expected.push((100, "last", body(29)));
    world.assert(&expected).await;
}

#[tokio::test]
async fn the_index_follows_a_foreign_compaction() {
    let mut world = World::new().await;
    world.put(&[&[full(1, "a", "one"), full(2, "a", "two")]]).await;
    foreign::compact(&world.catalog, &world.spec.ident().unwrap()).await;
    world.put(&[&[lacks(1, "b")]]).await;
    foreign::compact(&world.catalog, &world.spec.ident().unwrap()).await;
    let [d, c] = rekeyed(2, 3, "c", 7);
    world.put(&[&[d]]).await;
    foreign::compact(&world.catalog, &world.spec.ident().unwrap()).await;
    world.restart().await;
    world.put(&[&[lacks(1, "d"), c]]).await;
    world.assert(&[(1, "d", "one"), (3, "c", "two")]).await;
}

#[tokio::test]
async fn a_row_that_another_writer_deleted_comes_back_whole() {
    let mut world = World::new().await;
    world.put(&[&[at(1, full(1, "a", "one")), at(2, full(2, "a", "two"))]]).await;
    foreign::delete(&world.catalog, &world.spec.ident().unwrap(), 1).await.unwrap();
    world.assert(&[(2, "a", "two")]).await;
    world.put(&[&[at(3, lacks(1, "b"))]]).await;
    world.assert(&[(1, "b", "one"), (2, "a", "two")]).await;
}

#[tokio::test]
async fn columns_that_were_renamed_or_came_later_read_right() {
    let mut world = World::new().await;
    world.put(&[&[full(1, "a", "one")]]).await;
    // Another engine swaps the names of two columns, so that a reader by name would be wrong.
    let base = world.table().await;
    let fields = base.metadata().current_schema().as_struct().fields().iter().map(|f| {
        let name = match f.name.as_str() {
            "a" => "body",
            "body" => "a",
            other => other,
        };
        Arc::new(NestedField { name: name.to_owned(), ..NestedField::clone(f) })
    });
    let ids: Vec<i32> = base.metadata().current_schema().identifier_field_ids().collect();
    let swapped = Schema::builder().with_fields(fields).with_identifier_field_ids(ids).build().unwrap();
    let updates = [TableUpdate::AddSchema { schema: swapped }, TableUpdate::SetCurrentSchema { schema_id: -1 }];
    let uuid = TableRequirement::UuidMatch { uuid: base.metadata().uuid() };
    world.catalog.swap(&base, &[uuid], &updates).await.unwrap();
    world.restart().await;
    world.put(&[&[lacks(1, "b")]]).await;
    world.assert(&[(1, "b", "a")]).await;
    // A worker that knows a later column, joined with one that doesn't.
    let first = world.stage(0, &[&[lacks(1, "c")]]).await;
    world.table.ensure_schema(&schema(&["later"])).await.unwrap();
    let second = world.stage(1, &[&[full(2, "a", "two")], &[lacks(2, "b")]]).await;
    world.table.commit(vec![first, second]).await.unwrap();
    world.assert(&[(1, "c", "a"), (2, "b", "two")]).await;
}

#[tokio::test]
async fn a_refused_attempt_leaves_no_file_of_completed_rows() {
    let mut world = World::new().await;
    world.put(&[&[full(1, "a", "one"), full(2, "a", "two")]]).await;
    world.catalog.faults().add(Fault::on([Call::Swap], Effect::Fail(ErrorKind::Conflict)).times(3));
    let done = world.put(&[&[lacks(1, "b")]]).await;
    assert_eq!(done.attempts, 4);
    world.assert(&[(1, "b", "one"), (2, "a", "two")]).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(world.orphans().await, Vec::<String>::new());
}
