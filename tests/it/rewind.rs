//! A table set back on purpose: what becomes of its rows, its position, its letters, and of writers of before.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray};
use firn::batch::ChangeBatch;
use firn::change::{Column, ColumnType, Mode, Op, RowSchema, origin};
use firn::position::{Checkpoint, PartitionPosition, Span, TopicPartition, TopicPosition};
use firn::sink::lake::{
    CatchUp, CommitFailure, Committed, How, LakeError, LakeTable, REPLAYING, REWIND, Rewind, RewindError, Rewound,
    Staged, TableSpec, lost_ranges,
};
use firn::table_event::{Fence, Truncate};
use firn_catalog::memory::MemoryCatalog;
use firn_catalog::{Catalog, ManifestCache, live};
use iceberg::TableUpdate;
use iceberg::table::Table;
use rstest::rstest;
use tokio::runtime::Handle;

use crate::foreign::{self, Row};

pub const TOPIC: &str = "shop.public.t";

/// One record of a partition.
#[derive(Clone, Copy, Debug)]
pub enum Message {
    Put { id: i64, v: i64 },
    Delete(i64),
    Truncate(i64),
}

pub fn put(id: i64, v: i64) -> Message {
    Message::Put { id, v }
}

pub fn spec(mode: Mode) -> TableSpec {
    TableSpec { mode, ..TableSpec::new("db", "t") }
}

/// A process: all that it knows is in the table.
pub async fn process(catalog: &MemoryCatalog, spec: &TableSpec) -> LakeTable {
    let table = LakeTable::open(Arc::new(catalog.clone()), spec.clone(), Handle::current()).await.unwrap();
    let columns = vec![Column::key("id", ColumnType::Long), Column::new("v", ColumnType::Long)];
    table.ensure_schema(&RowSchema { columns }).await.unwrap();
    table.checkpoint().await.unwrap();
    table
}

fn batch(partition: i32, offset: i64, message: Message) -> Option<ChangeBatch> {
    let (id, v, op) = match message {
        Message::Put { id, v } => (id, Some(v), Op::Create),
        Message::Delete(id) => (id, None, Op::Delete),
        Message::Truncate(_) => return None,
    };
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from(vec![id]))),
        ("v", Arc::new(Int64Array::from(vec![v]))),
        (origin::TOPIC, Arc::new(StringArray::from(vec![TOPIC]))),
        (origin::PARTITION, Arc::new(Int32Array::from(vec![partition]))),
        (origin::OFFSET, Arc::new(Int64Array::from(vec![offset]))),
        (origin::OP, Arc::new(StringArray::from(vec![op.letter()]))),
        (origin::SOURCE_LSN, Arc::new(Int64Array::from(vec![offset * 10]))),
    ];
    Some(ChangeBatch::new(RecordBatch::try_from_iter(columns).unwrap(), vec![op]))
}

/// A log of two partitions; the same record is always the same.
pub type Log = [Vec<Message>; 2];

pub async fn stage(table: &LakeTable, log: &Log, partition: i32, from: i64, to: i64) -> Staged {
    stage_of(table, log, 2, partition, from, to).await
}

/// `count`: how many partitions the topic has.
pub async fn stage_of(table: &LakeTable, log: &Log, count: i32, partition: i32, from: i64, to: i64) -> Staged {
    let mut stager = table.stager().unwrap();
    let messages = log[partition as usize][from as usize..to as usize].to_vec();
    let work = move || {
        let at = TopicPartition::new(TOPIC, partition);
        for (message, offset) in messages.into_iter().zip(from..) {
            match (batch(partition, offset, message), message) {
                (Some(batch), _) => stager.write(batch).unwrap(),
                (None, Message::Truncate(lsn)) => {
                    let fence = Some(Fence { lsn, last_commit: None });
                    stager.truncate(Truncate { at: at.clone(), offset, fence, only_partition: false }).unwrap();
                }
                (None, _) => unreachable!(),
            }
        }
        let span = Span { partition_count: Some(count), topic_id: Some("one".to_owned()), ..Span::new(at, from, to) };
        stager.close(vec![span]).unwrap()
    };
    tokio::task::spawn_blocking(work).await.unwrap()
}

pub async fn read(table: &LakeTable, log: &Log, partition: i32, from: i64, to: i64) -> Committed {
    let staged = stage(table, log, partition, from, to).await;
    table.commit(vec![staged]).await.unwrap()
}

/// Reads the log to its end, in commits of at most three records, from where the table stands.
pub async fn catch_up(catalog: &MemoryCatalog, spec: &TableSpec, log: &Log) -> Vec<CatchUp> {
    let table = process(catalog, spec).await;
    let mut seen = vec![];
    loop {
        let standing = table.checkpoint().await.unwrap().unwrap();
        let next = |p| standing.next(&TopicPartition::new(TOPIC, p)).unwrap_or(0);
        let Some(p) = (0..2).find(|p| next(*p) < log[*p as usize].len() as i64) else { return seen };
        let to = (next(p) + 3).min(log[p as usize].len() as i64);
        seen.push(read(&table, log, p, next(p), to).await.catch_up);
    }
}

async fn load(catalog: &MemoryCatalog) -> Table {
    catalog.load(&spec(Mode::Append).ident().unwrap()).await.unwrap()
}

async fn rows(catalog: &MemoryCatalog) -> Vec<Row> {
    let table = load(catalog).await;
    foreign::check_delete_files(&table).await;
    foreign::rows(&table).await
}

pub async fn values(catalog: &MemoryCatalog) -> Vec<(i64, Option<i64>)> {
    rows(catalog).await.into_iter().map(|row| (row.id, row.v)).collect()
}

/// What an append table has of a log: every record, once.
fn every_record(log: &Log) -> Vec<(i32, i64)> {
    (0..2).flat_map(|p| (0..log[p as usize].len() as i64).map(move |o| (p, o))).collect()
}

async fn origins(catalog: &MemoryCatalog) -> Vec<(i32, i64)> {
    let mut all: Vec<(i32, i64)> = rows(catalog).await.into_iter().map(|row| (row.partition, row.offset)).collect();
    all.sort_unstable();
    all
}

/// Of either format: Iceberg's own scan reads no deletion vectors yet.
async fn live_rows(catalog: &MemoryCatalog) -> u64 {
    let table = load(catalog).await;
    foreign::check_delete_files(&table).await;
    let files = live::files(&table, table.metadata().current_snapshot_id(), &ManifestCache::new(0)).await.unwrap();
    let count = |files: &[live::LiveFile]| files.iter().map(|f| f.file.record_count()).sum::<u64>();
    count(&files.data) - count(&files.position_deletes)
}

fn positions(checkpoint: &Checkpoint) -> Vec<(i32, i64)> {
    checkpoint.topics[TOPIC].partitions.iter().map(|(p, at)| (*p, at.next)).collect()
}

async fn rewind(catalog: &MemoryCatalog, spec: &TableSpec, how: How) -> Result<Rewound, RewindError> {
    let table = process(catalog, spec).await;
    let rewind = Rewind { how, generation: table.generation().await.unwrap() };
    let outlook = table.look_at_rewind(&rewind).await?;
    let done = table.rewind(&rewind, firn_catalog::new_snapshot_id()).await?;
    assert_eq!((&outlook.after, outlook.removal, outlook.snapshot_id), (&done.after, done.removal, None));
    Ok(done)
}

fn to<const N: usize>(offsets: [(i32, i64); N]) -> BTreeMap<i32, i64> {
    offsets.into()
}

fn take_out<const N: usize>(offsets: [(i32, i64); N]) -> How {
    How::TakeOut { topic: TOPIC.to_owned(), to: to(offsets) }
}

fn replay<const N: usize>(offsets: [(i32, i64); N]) -> How {
    How::Replay { topic: TOPIC.to_owned(), to: to(offsets) }
}

fn refused(outcome: Result<Rewound, RewindError>) -> String {
    match outcome {
        Err(RewindError::Refused(why)) => why,
        other => panic!("{other:?}"),
    }
}

/// Nine changes of five keys.
fn changes() -> Log {
    [
        vec![put(1, 10), put(2, 20), put(3, 30), put(1, 11), Message::Delete(2), put(3, 31)],
        vec![put(14, 40), put(15, 50), put(14, 41)],
    ]
}

/// The changes, in three commits of partition 0 and one of partition 1.
async fn four_commits(catalog: &MemoryCatalog, spec: &TableSpec) -> Vec<Committed> {
    let (table, log) = (process(catalog, spec).await, changes());
    let mut done = vec![];
    for (p, from, to) in [(0, 0, 2), (0, 2, 4), (1, 0, 3), (0, 4, 6)] {
        done.push(read(&table, &log, p, from, to).await);
    }
    done
}

#[rstest]
#[case::position_delete_files(2)]
#[case::deletion_vectors(3)]
#[tokio::test]
async fn append_takes_the_rows_out_that_are_read_again_in_one_snapshot_and_nothing_doubles(#[case] format_version: u8) {
    let catalog = MemoryCatalog::default();
    let spec = TableSpec { format_version, ..spec(Mode::Append) };
    four_commits(&catalog, &spec).await;
    let snapshots = load(&catalog).await.metadata().snapshots().len();

    let done = rewind(&catalog, &spec, take_out([(0, 3), (1, 1)])).await.unwrap();
    assert_eq!((done.removal.rows, done.removal.files, done.removal.files_in_part), (5, 1, 2));
    assert_eq!(live_rows(&catalog).await, 4);
    // Rows that were taken out say nothing of where the table stands.
    assert_eq!(process(&catalog, &spec).await.ends_of_rows(TOPIC).await.unwrap(), to([(0, 3), (1, 1)]));
    if format_version == 2 {
        assert_eq!(origins(&catalog).await, [(0, 0), (0, 1), (0, 2), (1, 0)]);
    }
    let table = load(&catalog).await;
    assert_eq!(table.metadata().snapshots().len(), snapshots + 1);
    let snapshot = table.metadata().current_snapshot().unwrap();
    assert_eq!(Some(snapshot.snapshot_id()), done.snapshot_id);
    let summary = &snapshot.summary().additional_properties;
    assert_eq!(Checkpoint::from_json(&summary["firn.checkpoint"]).unwrap(), done.after);
    let note: serde_json::Value = serde_json::from_str(&summary[REWIND]).unwrap();
    assert_eq!(note["positions"][TOPIC]["0"], serde_json::json!([6, 3]));
    assert_eq!((done.after.generation, positions(&done.after)), (1, vec![(0, 3), (1, 1)]));

    catch_up(&catalog, &spec, &changes()).await;
    assert_eq!(live_rows(&catalog).await, 9);
    // And once more, all of it.
    let done = rewind(&catalog, &spec, take_out([(0, 0), (1, 0)])).await.unwrap();
    assert_eq!((done.removal.rows, done.after.generation), (9, 2));
    assert_eq!(origins(&catalog).await, []);
    catch_up(&catalog, &spec, &changes()).await;
    assert_eq!(origins(&catalog).await, every_record(&changes()));
}

#[tokio::test]
async fn append_finds_the_rows_wherever_another_writer_has_put_them() {
    let (catalog, spec) = (MemoryCatalog::default(), spec(Mode::Append));
    four_commits(&catalog, &spec).await;
    let ident = spec.ident().unwrap();
    foreign::delete(&catalog, &ident, 15).await.unwrap();
    foreign::compact(&catalog, &ident).await;
    foreign::delete(&catalog, &ident, 3).await.unwrap();
    // One file with rows of both partitions; what was deleted from it stays deleted.
    rewind(&catalog, &spec, take_out([(0, 4)])).await.unwrap();
    assert_eq!(origins(&catalog).await, [(0, 0), (0, 1), (0, 3), (1, 0), (1, 2)]);
    catch_up(&catalog, &spec, &changes()).await;
    assert_eq!(origins(&catalog).await, [(0, 0), (0, 1), (0, 3), (0, 4), (0, 5), (1, 0), (1, 2)]);
}

#[rstest]
#[case::append(Mode::Append)]
#[case::upsert(Mode::Upsert)]
#[tokio::test]
async fn a_snapshot_is_restored_with_its_position_and_the_history_keeps_both(#[case] mode: Mode) {
    let (catalog, spec) = (MemoryCatalog::default(), spec(mode));
    let commits = four_commits(&catalog, &spec).await;
    let whole = rows(&catalog).await;
    let done = rewind(&catalog, &spec, How::Restore { snapshot_id: commits[1].snapshot_id }).await.unwrap();
    assert_eq!(positions(&done.after), [(0, 4)], "the other partition was not read then");
    assert_eq!((done.after.generation, done.replaying.is_none()), (1, true));
    let want = match mode {
        Mode::Append => vec![(1, Some(10)), (1, Some(11)), (2, Some(20)), (3, Some(30))],
        Mode::Upsert => vec![(1, Some(11)), (2, Some(20)), (3, Some(30))],
    };
    assert_eq!(values(&catalog).await, want);
    let table = load(&catalog).await;
    let snapshot = table.metadata().current_snapshot().unwrap();
    assert_eq!(snapshot.parent_snapshot_id(), Some(commits[1].snapshot_id));
    assert!(commits.iter().all(|c| table.metadata().snapshot_by_id(c.snapshot_id).is_some()));

    catch_up(&catalog, &spec, &changes()).await;
    assert_eq!(rows(&catalog).await, whole);
    // What was set aside can be had back, too.
    let last = commits[3].snapshot_id;
    let back = rewind(&catalog, &spec, How::Restore { snapshot_id: last }).await.unwrap();
    assert_eq!((positions(&back.after), back.after.generation), (vec![(0, 6), (1, 3)], 2));
    assert_eq!(rows(&catalog).await, whole);
}

#[rstest]
#[case::append(Mode::Append)]
#[case::upsert(Mode::Upsert)]
#[tokio::test]
async fn a_writer_of_before_is_refused_and_its_own_view_is_not_trusted(#[case] mode: Mode) {
    let (catalog, spec) = (MemoryCatalog::default(), spec(mode));
    let log = changes();
    let table = process(&catalog, &spec).await;
    let first = read(&table, &log, 0, 0, 2).await;
    read(&table, &log, 0, 2, 4).await;
    read(&table, &log, 1, 0, 2).await;
    // Staged before the rewind at the very position that the rewind goes back to, too.
    let (ahead, elsewhere) = (stage(&table, &log, 0, 4, 6).await, stage(&table, &log, 1, 2, 3).await);
    let at_target = process(&catalog, &spec).await;
    let at_target = (stage(&at_target, &log, 0, 2, 4).await, at_target);
    let how = match mode {
        Mode::Append => take_out([(0, 2), (1, 0)]),
        Mode::Upsert => How::Restore { snapshot_id: first.snapshot_id },
    };
    rewind(&catalog, &spec, how).await.unwrap();
    for (table, staged) in [(&table, ahead), (&table, elsewhere), (&at_target.1, at_target.0)] {
        let failure = table.commit(vec![staged]).await.unwrap_err();
        assert!(
            matches!(&failure, CommitFailure::Stale(why) if why.contains("rewound or rolled back (generation 1)")),
            "{failure}"
        );
    }
    // The same process goes on from the table; its index must not know rows by their old places.
    let standing = table.checkpoint().await.unwrap().unwrap();
    assert_eq!(standing.next(&TopicPartition::new(TOPIC, 0)), Some(2));
    read(&table, &log, 0, 2, 6).await;
    read(&table, &log, 1, 0, 3).await;
    match mode {
        Mode::Append => assert_eq!(origins(&catalog).await, every_record(&log)),
        Mode::Upsert => {
            assert_eq!(values(&catalog).await, [(1, Some(11)), (3, Some(31)), (14, Some(41)), (15, Some(50))])
        }
    }
}

#[tokio::test]
async fn a_replay_keeps_the_rows_and_says_so_until_it_is_where_it_stood() {
    let (catalog, spec) = (MemoryCatalog::default(), spec(Mode::Upsert));
    four_commits(&catalog, &spec).await;
    let whole = rows(&catalog).await;
    let done = rewind(&catalog, &spec, replay([(0, 0), (1, 1)])).await.unwrap();
    assert_eq!(rows(&catalog).await, whole);
    let ends = &done.replaying.as_ref().unwrap().ends[TOPIC];
    assert_eq!(ends, &to([(0, 6), (1, 3)]));
    // Set back once more on the way: the ends of before still count.
    let table = process(&catalog, &spec).await;
    assert_eq!(read(&table, &changes(), 0, 0, 2).await.catch_up, CatchUp::Behind);
    assert_eq!(values(&catalog).await[0], (1, Some(10)), "an older version, as it was said");
    let done = rewind(&catalog, &spec, replay([(0, 1)])).await.unwrap();
    assert_eq!(done.replaying.unwrap().ends[TOPIC], to([(0, 6), (1, 3)]));
    let seen = catch_up(&catalog, &spec, &changes()).await;
    assert_eq!(seen.last(), Some(&CatchUp::Reached));
    assert!(seen[..seen.len() - 1].iter().all(|s| *s == CatchUp::Behind), "{seen:?}");
    assert!(!load(&catalog).await.metadata().properties().contains_key(REPLAYING));
    assert_eq!(rows(&catalog).await, whole);
    let mut longer = changes();
    longer[1].push(put(15, 51));
    assert_eq!(catch_up(&catalog, &spec, &longer).await, [CatchUp::None]);
}

#[tokio::test]
async fn a_restore_ends_a_replay() {
    let (catalog, spec) = (MemoryCatalog::default(), spec(Mode::Upsert));
    let commits = four_commits(&catalog, &spec).await;
    rewind(&catalog, &spec, replay([(0, 0)])).await.unwrap();
    rewind(&catalog, &spec, How::Restore { snapshot_id: commits[3].snapshot_id }).await.unwrap();
    assert!(!load(&catalog).await.metadata().properties().contains_key(REPLAYING));
}

#[rstest]
#[case::restored(true)]
#[case::replayed(false)]
#[tokio::test]
async fn a_truncate_in_the_range_happens_again(#[case] restored: bool) {
    let (catalog, spec) = (MemoryCatalog::default(), spec(Mode::Upsert));
    // By LSN (ten times the offset) the truncate comes after the first three records of either partition.
    let log: Log = [
        vec![put(1, 1), put(2, 2), put(3, 3), Message::Truncate(25), put(1, 4)],
        vec![put(14, 1), put(15, 2), put(16, 3), put(17, 4)],
    ];
    let table = process(&catalog, &spec).await;
    let first = read(&table, &log, 0, 0, 2).await;
    read(&table, &log, 1, 0, 4).await;
    read(&table, &log, 0, 2, 5).await;
    let whole = rows(&catalog).await;
    assert_eq!(whole.iter().map(|r| r.id).collect::<Vec<_>>(), [1, 17]);
    let how = match restored {
        true => How::Restore { snapshot_id: first.snapshot_id },
        false => replay([(0, 0), (1, 0)]),
    };
    let done = rewind(&catalog, &spec, how).await.unwrap();
    assert_eq!(done.after.topics[TOPIC].truncated.is_none(), restored, "the fence is that of the rows");
    catch_up(&catalog, &spec, &log).await;
    assert_eq!(rows(&catalog).await, whole);
}

#[tokio::test]
async fn what_another_writer_does_at_the_same_time_is_met_on_a_fresh_base() {
    let (catalog, spec) = (MemoryCatalog::default(), spec(Mode::Append));
    let commits = four_commits(&catalog, &spec).await;
    let table = process(&catalog, &spec).await;
    let looked = Rewind { how: take_out([(0, 2)]), generation: 0 };
    table.look_at_rewind(&looked).await.unwrap();
    // A running firn commits, Trino deletes and compacts: the rewind is worked out anew.
    let mut longer = changes();
    longer[0].push(put(4, 60));
    read(&process(&catalog, &spec).await, &longer, 0, 6, 7).await;
    foreign::compact(&catalog, &spec.ident().unwrap()).await;
    let id = firn_catalog::new_snapshot_id();
    let done = table.rewind(&looked, id).await.unwrap();
    assert_eq!(done.removal.rows, 5);
    // The same again is the same commit; another one was looked at in another generation.
    assert_eq!(table.rewind(&looked, id).await.unwrap().snapshot_id, Some(id));
    let why = refused(table.rewind(&looked, firn_catalog::new_snapshot_id()).await);
    assert!(why.contains("rewound by somebody else"), "{why}");
    assert_eq!(load(&catalog).await.metadata().current_snapshot_id(), Some(id));
    let why = refused(rewind(&catalog, &spec, take_out([(0, 3)])).await);
    assert!(why.contains("stands at offset 2, before 3"), "{why}");
    // Rolled back behind the rewind: a generation never comes again, so that nobody of before is let in.
    let to = commits[2].snapshot_id;
    let reference =
        iceberg::spec::SnapshotReference::new(to, iceberg::spec::SnapshotRetention::branch(None, None, None));
    let update = TableUpdate::SetSnapshotRef { ref_name: "main".to_owned(), reference };
    catalog.swap(&load(&catalog).await, &[], &[update]).await.unwrap();
    let standing = process(&catalog, &spec).await.checkpoint().await.unwrap().unwrap();
    assert_eq!((standing.generation, positions(&standing)), (2, vec![(0, 4), (1, 3)]));
}

#[tokio::test]
async fn an_expired_snapshot_and_lost_files_are_named() {
    let (catalog, spec) = (MemoryCatalog::default(), spec(Mode::Upsert));
    let commits = four_commits(&catalog, &spec).await;
    let table = process(&catalog, &spec).await;
    let old = commits[1].snapshot_id;
    foreign::compact(&catalog, &spec.ident().unwrap()).await;
    assert_eq!(table.missing_files(old, 9).await.unwrap(), [""; 0]);
    // Another writer's orphan removal took what only the old snapshot has.
    let loaded = load(&catalog).await;
    let then = live::files(&loaded, Some(old), &ManifestCache::new(0)).await.unwrap();
    let gone = then.data[0].file.file_path().to_owned();
    loaded.file_io().delete(&gone).await.unwrap();
    assert_eq!(table.missing_files(old, 9).await.unwrap(), [gone]);
    catalog.swap(&loaded, &[], &[TableUpdate::RemoveSnapshots { snapshot_ids: vec![old] }]).await.unwrap();
    let why = refused(rewind(&catalog, &spec, How::Restore { snapshot_id: old }).await);
    assert!(why.contains("was expired"), "{why}");
    assert!(table.missing_files(old, 9).await.is_err());
}

#[tokio::test]
async fn rows_without_an_origin_are_not_taken_out_blindly() {
    let catalog = MemoryCatalog::default();
    let spec = TableSpec { origin_columns: false, ..spec(Mode::Append) };
    let table = process(&catalog, &spec).await;
    let mut stager = table.stager().unwrap();
    let work = move || {
        let columns: Vec<(&str, ArrayRef)> =
            vec![("id", Arc::new(Int64Array::from(vec![1]))), ("v", Arc::new(Int64Array::from(vec![1])))];
        stager.write(ChangeBatch::new(RecordBatch::try_from_iter(columns).unwrap(), vec![Op::Create])).unwrap();
        stager.close(vec![Span::new(TopicPartition::new(TOPIC, 0), 0, 1)]).unwrap()
    };
    let staged = tokio::task::spawn_blocking(work).await.unwrap();
    table.commit(vec![staged]).await.unwrap();
    let e = rewind(&catalog, &spec, take_out([(0, 0)])).await.unwrap_err();
    assert!(matches!(&e, RewindError::Lake(LakeError::Settings { .. })), "{e}");
    assert!(e.to_string().contains("--to snapshot=ID"), "{e}");
}

#[rstest]
#[case::append(Mode::Append)]
#[case::upsert(Mode::Upsert)]
#[tokio::test]
async fn lost_offsets_are_stepped_over_and_written_down(#[case] mode: Mode) {
    let (catalog, spec) = (MemoryCatalog::default(), spec(mode));
    four_commits(&catalog, &spec).await;
    let before = rows(&catalog).await;
    let how = How::SkipLost { topic: TOPIC.to_owned(), to: to([(1, 8)]) };
    let done = rewind(&catalog, &spec, how).await.unwrap();
    assert_eq!((positions(&done.after), done.after.generation), (vec![(0, 6), (1, 8)], 1));
    assert_eq!(rows(&catalog).await, before);
    let noted = lost_ranges(load(&catalog).await.metadata().properties());
    assert_eq!(noted.iter().map(|l| (l.partition, l.from, l.to)).collect::<Vec<_>>(), [(1, 3, 8)]);
    let back = How::SkipLost { topic: TOPIC.to_owned(), to: to([(1, 7)]) };
    assert!(refused(rewind(&catalog, &spec, back).await).contains("stands at offset 8 by now"));
    let further = How::SkipLost { topic: TOPIC.to_owned(), to: to([(0, 9)]) };
    rewind(&catalog, &spec, further).await.unwrap();
    assert_eq!(lost_ranges(load(&catalog).await.metadata().properties()).len(), 2);
}

#[rstest]
#[case::append(Mode::Append)]
#[case::upsert(Mode::Upsert)]
#[tokio::test]
async fn a_topic_made_anew_begins_with_its_own_offsets_and_id(#[case] mode: Mode) {
    let (catalog, spec) = (MemoryCatalog::default(), spec(mode));
    four_commits(&catalog, &spec).await;
    let before = rows(&catalog).await;
    let at = |next| PartitionPosition { next, leader_epoch: None, timestamp_ms: None };
    let begins = TopicPosition {
        topic_id: Some("two".to_owned()),
        partition_count: 2,
        partitions: [(0, at(0)), (1, at(0))].into(),
        grew_from: None,
        truncated: None,
        snapshot: None,
    };
    let old = process(&catalog, &spec).await;
    let done =
        rewind(&catalog, &spec, How::NewTopic { topic: TOPIC.to_owned(), begins: begins.clone() }).await.unwrap();
    assert_eq!(done.after.topics[TOPIC], begins);
    match mode {
        Mode::Append => assert_eq!(rows(&catalog).await, [], "the same origins come again, for other records"),
        Mode::Upsert => assert_eq!(rows(&catalog).await, before),
    }
    // One who still reads the old topic is refused, also at the same offsets.
    let staged = stage(&old, &changes(), 0, 0, 2).await;
    assert!(matches!(old.commit(vec![staged]).await, Err(CommitFailure::Stale(_))));
    let table = process(&catalog, &spec).await;
    let staged = stage(&table, &changes(), 0, 0, 2).await;
    let failure = table.commit(vec![staged]).await.unwrap_err();
    assert!(failure.to_string().contains("made anew"), "{failure}");
}

#[tokio::test]
async fn a_table_whose_history_does_not_tell_is_settled_by_its_rows_or_by_what_is_stored() {
    for (mode, rolled_back) in
        [(Mode::Append, true), (Mode::Append, false), (Mode::Upsert, true), (Mode::Upsert, false)]
    {
        let (catalog, spec) = (MemoryCatalog::default(), spec(mode));
        let commits = four_commits(&catalog, &spec).await;
        let ident = spec.ident().unwrap();
        let whole = rows(&catalog).await;
        if rolled_back {
            foreign::roll_back(&catalog, &ident, 1).await.unwrap();
        }
        foreign::compact(&catalog, &ident).await;
        foreign::compact(&catalog, &ident).await;
        let base = load(&catalog).await;
        let current = base.metadata().current_snapshot_id();
        let others = base.metadata().snapshots().map(|s| s.snapshot_id()).filter(|id| Some(*id) != current).collect();
        // The snapshot log is cut by the expiry, as Java cuts it.
        catalog.swap(&base, &[], &[TableUpdate::RemoveSnapshots { snapshot_ids: others }]).await.unwrap();

        let table = LakeTable::open(Arc::new(catalog.clone()), spec.clone(), Handle::current()).await.unwrap();
        let e = table.checkpoint().await.unwrap_err();
        assert!(matches!(&e, LakeError::Unclear { .. }), "{e}");
        assert!(e.to_string().contains("firn rewind db.t --to rows"), "{e}");
        let ends = table.ends_of_rows(TOPIC).await.unwrap();
        let want = match (mode, rolled_back) {
            (_, true) => to([(0, 4), (1, 3)]),
            (_, false) => to([(0, 6), (1, 3)]),
        };
        assert_eq!(ends, want, "{mode:?} {rolled_back}");
        let how = match mode {
            Mode::Append => How::TakeOut { topic: TOPIC.to_owned(), to: ends },
            Mode::Upsert => How::Replay { topic: TOPIC.to_owned(), to: ends },
        };
        let settle = Rewind { how, generation: 0 };
        let done = table.rewind(&settle, firn_catalog::new_snapshot_id()).await.unwrap();
        assert_eq!(done.removal.rows, 0);
        catch_up(&catalog, &spec, &changes()).await;
        assert_eq!(rows(&catalog).await, whole, "{mode:?} {rolled_back}");
        drop(commits);
    }
}

#[tokio::test]
async fn what_is_stored_can_be_said_to_be_true() {
    let (catalog, spec) = (MemoryCatalog::default(), spec(Mode::Append));
    four_commits(&catalog, &spec).await;
    let ident = spec.ident().unwrap();
    foreign::compact(&catalog, &ident).await;
    foreign::compact(&catalog, &ident).await;
    let base = load(&catalog).await;
    let current = base.metadata().current_snapshot_id();
    let others = base.metadata().snapshots().map(|s| s.snapshot_id()).filter(|id| Some(*id) != current).collect();
    catalog.swap(&base, &[], &[TableUpdate::RemoveSnapshots { snapshot_ids: others }]).await.unwrap();
    let table = LakeTable::open(Arc::new(catalog.clone()), spec.clone(), Handle::current()).await.unwrap();
    assert!(table.checkpoint().await.is_err());
    let stored = Rewind { how: take_out([]), generation: 0 };
    let done = table.rewind(&stored, firn_catalog::new_snapshot_id()).await.unwrap();
    assert_eq!(positions(&done.after), [(0, 6), (1, 3)]);
    let standing = table.checkpoint().await.unwrap().unwrap();
    assert_eq!((positions(&standing), standing.generation), (vec![(0, 6), (1, 3)], 1));
    assert_eq!(origins(&catalog).await, every_record(&changes()));
}

/// What a thousand quiet tables cost: a look asks the catalog, and storage only after somebody committed.
#[tokio::test]
async fn a_look_for_rewinds_reads_nothing_while_nobody_commits() {
    let (catalog, spec) = (MemoryCatalog::default(), spec(Mode::Upsert));
    four_commits(&catalog, &spec).await;
    let table = process(&catalog, &spec).await;
    let calls_of_a_look = async |generation| {
        catalog.faults().take_calls();
        assert_eq!(table.generation().await.unwrap(), generation);
        catalog.faults().take_calls().len()
    };
    assert_eq!(calls_of_a_look(0).await, 0);
    let standing = table.checkpoint().await.unwrap().unwrap();
    let next = standing.next(&TopicPartition::new(TOPIC, 0)).unwrap();
    read(&table, &[vec![put(1, 1); next as usize + 1], vec![]], 0, next, next + 1).await;
    assert_eq!(calls_of_a_look(0).await, 0, "after an own commit");
    rewind(&catalog, &spec, replay([(0, 1)])).await.unwrap();
    assert!(calls_of_a_look(1).await > 0, "the metadata is another one");
    assert_eq!(calls_of_a_look(1).await, 0);
}
