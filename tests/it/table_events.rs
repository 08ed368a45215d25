//! What happens to the source table as a whole: a TRUNCATE, told to one partition, concerns the rows of all, in every process; a
//! snapshot over rows leaves ghosts, which are swept.

use std::sync::Arc;

use arrow_array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray};
use firn::batch::ChangeBatch;
use firn::change::{Column, ColumnType, Mode, Op, RowSchema, origin};
use firn::position::{Span, TopicPartition};
use firn::sink::lake::{CommitFailure, Committed, LakeError, LakeTable, Staged, Stager, Sweep, TableSpec};
use firn::table_event::{Fence, SourceSnapshot, Truncate};
use firn_catalog::memory::MemoryCatalog;
use firn_catalog::{Catalog, ManifestCache, live};
use rstest::rstest;
use tokio::runtime::Handle;

use crate::foreign;

const TOPIC: &str = "shop.public.t";

/// One message of a partition: its offset is its place in the span.
#[derive(Clone, Copy, Debug)]
enum Message {
    Row { op: Op, id: i64, lsn: Option<i64> },
    Truncate(Option<Fence>),
}

fn row(id: i64, lsn: i64) -> Message {
    Message::Row { op: Op::Create, id, lsn: Some(lsn) }
}

fn update(id: i64, lsn: i64) -> Message {
    Message::Row { op: Op::Update, id, lsn: Some(lsn) }
}

fn read(id: i64, lsn: i64) -> Message {
    Message::Row { op: Op::Read, id, lsn: Some(lsn) }
}

fn delete(id: i64, lsn: i64) -> Message {
    Message::Row { op: Op::Delete, id, lsn: Some(lsn) }
}

fn truncate(lsn: i64) -> Message {
    Message::Truncate(Some(Fence { lsn, last_commit: None }))
}

fn spec() -> TableSpec {
    TableSpec { mode: Mode::Upsert, ..TableSpec::new("db", "t") }
}

/// A process: all that it knows is in the table.
async fn process(catalog: &MemoryCatalog, spec: &TableSpec) -> Arc<LakeTable> {
    let table = LakeTable::open(Arc::new(catalog.clone()), spec.clone(), Handle::current()).await.unwrap();
    let columns = vec![Column::key("id", ColumnType::Long), Column::new("v", ColumnType::Long)];
    table.ensure_schema(&RowSchema { columns }).await.unwrap();
    table.checkpoint().await.unwrap();
    Arc::new(table)
}

fn batch(partition: i32, offset: i64, message: Message, origins: bool) -> Option<ChangeBatch> {
    let Message::Row { op, id, lsn } = message else { return None };
    let mut columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from(vec![id]))),
        ("v", Arc::new(Int64Array::from(vec![(op != Op::Delete).then_some(id * 10)]))),
    ];
    if origins {
        columns.extend::<Vec<(&str, ArrayRef)>>(vec![
            (origin::TOPIC, Arc::new(StringArray::from(vec![TOPIC]))),
            (origin::PARTITION, Arc::new(Int32Array::from(vec![partition]))),
            (origin::OFFSET, Arc::new(Int64Array::from(vec![offset]))),
            (origin::OP, Arc::new(StringArray::from(vec![op.letter()]))),
            (origin::SOURCE_LSN, Arc::new(Int64Array::from(vec![lsn]))),
        ]);
    }
    Some(ChangeBatch::new(RecordBatch::try_from_iter(columns).unwrap(), vec![op]))
}

fn write(
    stager: &mut Stager,
    only_partition: bool,
    partition: i32,
    from: i64,
    messages: &[Message],
    origins: bool,
) -> Result<(), LakeError> {
    for (message, offset) in messages.iter().zip(from..) {
        match (batch(partition, offset, *message, origins), message) {
            (Some(batch), _) => stager.write(batch)?,
            (None, Message::Truncate(fence)) => {
                let at = TopicPartition::new(TOPIC, partition);
                stager.truncate(Truncate { at, offset, fence: *fence, only_partition })?;
            }
            (None, Message::Row { .. }) => unreachable!(),
        }
    }
    Ok(())
}

async fn stage(table: &Arc<LakeTable>, partition: i32, from: i64, messages: &[Message]) -> Staged {
    let (messages, origins) = (messages.to_vec(), table.spec().origin_columns);
    let mut stager = table.stager().unwrap();
    let done = tokio::task::spawn_blocking(move || {
        write(&mut stager, false, partition, from, &messages, origins).unwrap();
        let at = TopicPartition::new(TOPIC, partition);
        stager.close(vec![Span::new(at, from, from + messages.len() as i64)]).unwrap()
    });
    done.await.unwrap()
}

async fn put(table: &Arc<LakeTable>, partition: i32, from: i64, messages: &[Message]) -> Committed {
    let staged = stage(table, partition, from, messages).await;
    table.commit(vec![staged]).await.unwrap()
}

async fn ids(catalog: &MemoryCatalog) -> Vec<i64> {
    let table = catalog.load(&spec().ident().unwrap()).await.unwrap();
    foreign::check_delete_files(&table).await;
    foreign::rows(&table).await.into_iter().map(|row| row.id).collect()
}

async fn data_files(catalog: &MemoryCatalog) -> usize {
    let table = catalog.load(&spec().ident().unwrap()).await.unwrap();
    let id = table.metadata().current_snapshot_id();
    live::files(&table, id, &ManifestCache::new(1 << 20)).await.unwrap().data.len()
}

#[tokio::test]
async fn a_truncate_takes_whole_files_and_parts_of_files_of_every_partition() {
    let catalog = MemoryCatalog::default();
    let table = process(&catalog, &spec()).await;
    put(&table, 0, 0, &[row(1, 10), row(2, 20)]).await;
    put(&table, 1, 0, &[row(3, 30), row(4, 140), row(5, 40)]).await;
    put(&table, 2, 0, &[row(6, 150)]).await;
    let done = put(&table, 0, 2, &[truncate(100), row(7, 160)]).await;
    assert_eq!(ids(&catalog).await, [4, 6, 7]);
    assert_eq!((done.truncates, done.cut_rows, done.late_rows), (1, 4, 0));
    assert_eq!(data_files(&catalog).await, 3, "a file without a row left is taken out");
    assert_eq!(done.checkpoint.topics[TOPIC].truncated, Some(Fence { lsn: 100, last_commit: None }));
}

#[tokio::test]
async fn of_the_batch_itself_only_what_came_after_stays() {
    let catalog = MemoryCatalog::default();
    let table = process(&catalog, &spec()).await;
    let here = stage(&table, 0, 0, &[row(1, 10), row(2, 20), truncate(100), row(1, 110)]).await;
    let there = stage(&table, 1, 0, &[row(3, 30), row(4, 140)]).await;
    // Another worker of the process, in the same commit; its part comes first.
    let done = table.commit(vec![there, here]).await.unwrap();
    assert_eq!(ids(&catalog).await, [1, 4]);
    assert_eq!((done.cut_rows, done.late_rows), (0, 2), "the first row of key 1 was superseded before");
}

#[tokio::test]
async fn a_process_that_does_not_know_the_fence_brings_nothing_from_before_it() {
    let catalog = MemoryCatalog::default();
    let (table, other) = (process(&catalog, &spec()).await, process(&catalog, &spec()).await);
    // Staged before the truncate is committed, committed after.
    let stale = stage(&other, 1, 0, &[row(3, 30), row(4, 140), row(5, 50)]).await;
    put(&table, 0, 0, &[row(1, 10), truncate(100)]).await;
    let done = other.commit(vec![stale]).await.unwrap();
    assert_eq!(ids(&catalog).await, [4]);
    assert_eq!((done.truncates, done.late_rows), (0, 2));
    // Late records, later, also by a process that begins anew, and whole files of them.
    put(&other, 1, 3, &[row(6, 60)]).await;
    put(&process(&catalog, &spec()).await, 1, 4, &[row(7, 99), row(8, 170)]).await;
    assert_eq!(ids(&catalog).await, [4, 8]);
}

#[tokio::test]
async fn a_key_from_before_the_fence_comes_back_once_and_can_be_changed_and_deleted() {
    let catalog = MemoryCatalog::default();
    let table = process(&catalog, &spec()).await;
    put(&table, 0, 0, &[row(1, 10), row(2, 20), row(3, 130)]).await;
    put(&table, 0, 3, &[truncate(100)]).await;
    assert_eq!(ids(&catalog).await, [3]);
    // The index still knows where these keys were.
    put(&table, 0, 4, &[row(1, 140), delete(2, 150), update(3, 160)]).await;
    assert_eq!(ids(&catalog).await, [1, 3]);
    put(&table, 0, 7, &[update(1, 170), delete(3, 180)]).await;
    assert_eq!(ids(&catalog).await, [1]);
    // Also one whose row was late, in a file of which others live.
    put(&table, 1, 0, &[row(5, 50), row(6, 190)]).await;
    put(&table, 1, 2, &[row(5, 200)]).await;
    put(&table, 1, 3, &[update(5, 210), delete(6, 220)]).await;
    assert_eq!(ids(&catalog).await, [1, 5]);
}

#[tokio::test]
async fn the_fence_holds_through_a_compaction_by_others_and_a_restart() {
    let (catalog, ident) = (MemoryCatalog::default(), spec().ident().unwrap());
    let table = process(&catalog, &spec()).await;
    put(&table, 0, 0, &[row(1, 10), row(2, 120)]).await;
    put(&table, 1, 0, &[row(3, 30)]).await;
    foreign::compact(&catalog, &ident).await;
    put(&table, 0, 2, &[truncate(100)]).await;
    assert_eq!(ids(&catalog).await, [2]);
    foreign::compact(&catalog, &ident).await;
    let anew = process(&catalog, &spec()).await;
    put(&anew, 1, 1, &[row(4, 40), row(2, 130)]).await;
    assert_eq!(ids(&catalog).await.len(), 2, "key 2 of another partition is not the other's to replace");
    put(&anew, 0, 3, &[truncate(200), row(9, 210)]).await;
    assert_eq!(ids(&catalog).await, [9]);
}

#[tokio::test]
async fn after_a_roll_back_behind_the_truncate_it_comes_again() {
    let (catalog, ident) = (MemoryCatalog::default(), spec().ident().unwrap());
    let table = process(&catalog, &spec()).await;
    put(&table, 0, 0, &[row(1, 10)]).await;
    put(&table, 1, 0, &[row(2, 20)]).await;
    put(&table, 0, 1, &[truncate(100)]).await;
    assert!(ids(&catalog).await.is_empty());
    foreign::roll_back(&catalog, &ident, 1).await.unwrap();
    assert_eq!(ids(&catalog).await, [1, 2]);
    let anew = process(&catalog, &spec()).await;
    let done = put(&anew, 0, 1, &[truncate(100), row(3, 110)]).await;
    assert_eq!(ids(&catalog).await, [3]);
    assert_eq!(done.cut_rows, 2);
}

#[tokio::test]
async fn what_an_incremental_snapshot_read_while_the_truncate_waited_goes_too() {
    let catalog = MemoryCatalog::default();
    let table = process(&catalog, &spec()).await;
    put(&table, 1, 0, &[read(1, 120), row(2, 120), read(3, 121)]).await;
    put(&table, 0, 0, &[Message::Truncate(Some(Fence { lsn: 100, last_commit: Some(120) }))]).await;
    assert_eq!(ids(&catalog).await, [2, 3]);
    put(&table, 1, 3, &[read(4, 119), read(5, 130)]).await;
    assert_eq!(ids(&catalog).await, [2, 3, 5]);
}

#[rstest]
#[case::origin_columns(true)]
#[case::bare(false)]
#[tokio::test]
async fn without_an_lsn_one_partition_goes_by_its_order(#[case] origin_columns: bool) {
    let (catalog, spec) = (MemoryCatalog::default(), TableSpec { origin_columns, ..spec() });
    let table = process(&catalog, &spec).await;
    let bare = |id| Message::Row { op: Op::Create, id, lsn: None };
    let mut from = 0;
    // The truncate between two parts of one commit, and in the middle of one.
    for parts in [
        vec![vec![bare(1), bare(2)]],
        vec![vec![bare(3)], vec![bare(4), Message::Truncate(None), bare(5)], vec![bare(2)]],
    ] {
        let mut staged = vec![];
        for messages in parts {
            let mut stager = table.stager().unwrap();
            let end = from + messages.len() as i64;
            let at = TopicPartition::new(TOPIC, 0);
            let part = tokio::task::spawn_blocking(move || {
                write(&mut stager, true, 0, from, &messages, origin_columns).unwrap();
                stager.close(vec![Span::new(at, from, end)]).unwrap()
            });
            staged.push(part.await.unwrap());
            from = end;
        }
        table.commit(staged).await.unwrap();
    }
    let loaded = catalog.load(&spec.ident().unwrap()).await.unwrap();
    assert_eq!(foreign::ids(&loaded).await, [2, 5]);
}

#[rstest]
#[case::no_lsn(true, None, "no LSN")]
#[case::no_columns(false, Some(Fence { lsn: 9, last_commit: None }), "origin_columns = false")]
#[tokio::test]
async fn where_nothing_tells_the_order_of_several_partitions_it_says_so(
    #[case] origin_columns: bool,
    #[case] fence: Option<Fence>,
    #[case] says: &str,
) {
    let catalog = MemoryCatalog::default();
    let table = process(&catalog, &TableSpec { origin_columns, ..spec() }).await;
    let at = TopicPartition::new(TOPIC, 2);
    let e = table.stager().unwrap().truncate(Truncate { at, offset: 7, fence, only_partition: false }).unwrap_err();
    let text = e.to_string();
    assert!(!e.is_transient() && text.contains(says) && text.contains("t/2@7") && text.contains("skip"), "{text}");
}

/// A table whose source was read anew at LSN 100: keys 2 and 4 were deleted meanwhile, 5 was changed while it was read.
async fn read_anew(catalog: &MemoryCatalog) -> (Arc<LakeTable>, Vec<Committed>) {
    let table = process(catalog, &spec()).await;
    put(&table, 0, 0, &[row(1, 10), row(2, 20)]).await;
    put(&table, 1, 0, &[row(3, 30), row(4, 40), row(5, 50)]).await;
    let seen = |ended| SourceSnapshot { lsn: 100, since_ms: 1_000, ended, over_rows: false };
    let mut done = vec![];
    for (partition, from, messages, seen) in [
        (0, 2, vec![read(1, 100)], seen(false)),
        // Under way when the snapshot was taken: its change is older, and comes after.
        (1, 3, vec![read(3, 100), read(5, 100), update(5, 90)], seen(true)),
    ] {
        let mut stager = table.stager().unwrap();
        let part = tokio::task::spawn_blocking(move || {
            write(&mut stager, false, partition, from, &messages, true).unwrap();
            stager.saw_snapshot(TOPIC, seen);
            stager.close(vec![Span::new(TopicPartition::new(TOPIC, partition), from, from + messages.len() as i64)])
        });
        done.push(table.commit(vec![part.await.unwrap().unwrap()]).await.unwrap());
    }
    (table, done)
}

fn sweep(committed: &Committed, ends: [i64; 2]) -> Sweep {
    Sweep {
        topic: TOPIC.to_owned(),
        snapshot: committed.checkpoint.topics[TOPIC].snapshot.unwrap(),
        before: [(0, 2), (1, 3)].into(),
        ends: [(0, ends[0]), (1, ends[1])].into(),
    }
}

#[tokio::test]
async fn a_snapshot_over_rows_is_told_once_and_its_ghosts_are_swept() {
    let catalog = MemoryCatalog::default();
    let (table, done) = read_anew(&catalog).await;
    let told: Vec<usize> = done.iter().map(|d| d.resnapshots.len()).collect();
    assert_eq!(told, [1, 0]);
    let sweep = sweep(&done[1], [3, 6]);
    assert!(sweep.snapshot.over_rows && sweep.snapshot.ended);
    assert_eq!(ids(&catalog).await, [1, 2, 3, 4, 5]);
    let mut ghosts = table.ghosts(&sweep, 5).await.unwrap();
    ghosts.keys.sort();
    assert_eq!((ghosts.rows, ghosts.keys), (2, vec!["id=2".to_owned(), "id=4".to_owned()]));
    assert_eq!(table.ghosts(&sweep, 1).await.unwrap().keys.len(), 1);

    // By a command, while the running process goes on.
    let other = process(&catalog, &spec()).await;
    let swept = other.sweep(sweep.clone()).await.unwrap();
    assert_eq!(swept.cut_rows, 2);
    assert_eq!(swept.checkpoint.topics[TOPIC].partitions, done[1].checkpoint.topics[TOPIC].partitions);
    assert_eq!(ids(&catalog).await, [1, 3, 5]);
    assert_eq!(other.sweep(sweep).await.unwrap().cut_rows, 0);
    put(&table, 0, 3, &[row(2, 200), update(1, 210)]).await;
    assert_eq!(ids(&catalog).await, [1, 2, 3, 5]);
}

#[tokio::test]
async fn a_first_snapshot_over_no_rows_is_no_new_one() {
    let catalog = MemoryCatalog::default();
    let table = process(&catalog, &spec()).await;
    for (from, id) in [(0, 1), (1, 2)] {
        let mut stager = table.stager().unwrap();
        let part = tokio::task::spawn_blocking(move || {
            write(&mut stager, false, 0, from, &[read(id, 100)], true).unwrap();
            stager.saw_snapshot(TOPIC, SourceSnapshot { lsn: 100, since_ms: 5, ended: false, over_rows: false });
            stager.close(vec![Span::new(TopicPartition::new(TOPIC, 0), from, from + 1)]).unwrap()
        });
        assert!(table.commit(vec![part.await.unwrap()]).await.unwrap().resnapshots.is_empty());
    }
}

#[tokio::test]
async fn a_sweep_waits_for_the_snapshots_end_and_for_the_topics() {
    let catalog = MemoryCatalog::default();
    let (table, done) = read_anew(&catalog).await;
    let refused = |outcome: Result<Committed, CommitFailure>| match outcome {
        Err(CommitFailure::Stale(reason)) => reason,
        other => panic!("{other:?}"),
    };
    let behind = sweep(&done[1], [3, 7]);
    let reason = refused(table.sweep(behind).await);
    assert!(reason.contains("offset 6 of shop.public.t/1, before 7"), "{reason}");
    let not_over = sweep(&done[0], [3, 6]);
    let other = SourceSnapshot { lsn: 99, ..not_over.snapshot };
    let reason = refused(table.sweep(Sweep { snapshot: other, ..not_over }).await);
    assert!(reason.contains("end of the snapshot at LSN 99"), "{reason}");
    assert_eq!(ids(&catalog).await, [1, 2, 3, 4, 5]);
}
