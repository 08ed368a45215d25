//! What a table remembers of the keys of its letters, from commit to commit.

use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use firn::batch::ChangeBatch;
use firn::change::{Column, ColumnType, Mode, Op, RowSchema};
use firn::letter::Status;
use firn::position::{Span, TopicPartition};
use firn::record::Origin;
use firn::sink::lake::letters::{MetLetter, PENDING, PendingLetter, Replay, Standing};
use firn::sink::lake::{CommitFailure, How, LakeTable, Rewind, Staged, TableSpec};
use firn_catalog::Catalog;
use firn_catalog::memory::MemoryCatalog;
use iceberg::{TableRequirement, TableUpdate};
use tokio::runtime::Handle;

const TOPIC: &str = "t";

async fn open(catalog: &MemoryCatalog) -> LakeTable {
    let spec = TableSpec { mode: Mode::Upsert, ..TableSpec::new("db", "t") };
    let table = LakeTable::open(Arc::new(catalog.clone()), spec, Handle::current()).await.unwrap();
    let columns = vec![Column::key("id", ColumnType::Long), Column::new("v", ColumnType::String)];
    table.ensure_schema(&RowSchema { columns }).await.unwrap();
    table.checkpoint().await.unwrap();
    table
}

fn origin(offset: i64) -> Origin {
    Origin { at: TopicPartition::new(TOPIC, 0), offset }
}

fn key(id: i64) -> RecordBatch {
    let id: ArrayRef = Arc::new(Int64Array::from(vec![id]));
    RecordBatch::try_from_iter([("id", id)]).unwrap()
}

fn row(id: i64, v: Option<&str>) -> ChangeBatch {
    let columns: [(&str, ArrayRef); 2] =
        [("id", Arc::new(Int64Array::from(vec![id]))), ("v", Arc::new(StringArray::from(vec![v])))];
    let op = if v.is_some() { Op::Update } else { Op::Delete };
    ChangeBatch::new(RecordBatch::try_from_iter(columns).unwrap(), vec![op])
}

/// One record each: a change, or a letter of a key.
enum Met {
    Change(i64, Option<&'static str>),
    Letter(i64),
}

use Met::{Change, Letter};

async fn stage(table: &LakeTable, from: i64, records: Vec<Met>) -> Staged {
    let mut stager = table.stager().unwrap();
    tokio::task::spawn_blocking(move || {
        let mut next = from;
        for record in records {
            match record {
                Change(id, v) => stager.write(row(id, v)).unwrap(),
                Letter(id) => {
                    stager.met(vec![MetLetter { origin: origin(next), before_row: 0, key: key(id) }]);
                }
            }
            next += 1;
        }
        stager.close(vec![Span::new(TopicPartition::new(TOPIC, 0), from, next)]).unwrap()
    })
    .await
    .unwrap()
}

async fn standing(table: &LakeTable) -> Standing {
    table.letters().await.unwrap().unwrap()
}

async fn pending(table: &LakeTable, offset: i64) -> Option<PendingLetter> {
    standing(table).await.pending.find(&origin(offset)).cloned()
}

async fn later(table: &LakeTable, offset: i64) -> Option<bool> {
    pending(table, offset).await.map(|p| p.later)
}

#[tokio::test]
async fn a_table_without_letters_has_no_property_for_them() {
    let catalog = MemoryCatalog::default();
    let table = open(&catalog).await;
    let staged = stage(&table, 0, vec![Change(1, Some("a"))]).await;
    table.commit(vec![staged]).await.unwrap();
    let loaded = catalog.load(&table.spec().ident().unwrap()).await.unwrap();
    assert!(!loaded.metadata().properties().contains_key(PENDING));
}

#[tokio::test]
async fn parts_of_one_worker_that_are_committed_together_see_each_other() {
    let table = open(&MemoryCatalog::default()).await;
    let first = stage(&table, 0, vec![Change(2, Some("a")), Letter(1), Letter(2)]).await;
    let second = stage(&table, 3, vec![Change(1, None), Letter(3)]).await;
    let third = stage(&table, 5, vec![Change(3, Some("b"))]).await;
    // As the committer takes what waited: one span goes on where the other ends.
    table.commit(vec![first, second, third]).await.unwrap();
    assert_eq!(
        (later(&table, 1).await, later(&table, 2).await, later(&table, 4).await),
        (Some(true), Some(false), Some(true))
    );
}

#[tokio::test]
async fn a_process_that_knows_nothing_of_a_letter_notes_its_key_all_the_same() {
    let catalog = MemoryCatalog::default();
    let (a, b) = (open(&catalog).await, open(&catalog).await);
    let letters = stage(&a, 0, vec![Letter(1), Letter(2), Change(9, Some("x"))]).await;
    a.commit(vec![letters]).await.unwrap();
    // Staged by another process, which never read the set.
    let staged = stage(&b, 3, vec![Change(1, None)]).await;
    b.commit(vec![staged]).await.unwrap();
    assert_eq!((later(&a, 0).await, later(&a, 1).await), (Some(true), Some(false)));
}

#[tokio::test]
async fn a_letter_that_was_enrolled_is_noted_by_a_batch_staged_before() {
    let table = open(&MemoryCatalog::default()).await;
    let first = stage(&table, 0, vec![Change(1, Some("a")), Letter(1)]).await;
    table.commit(vec![first]).await.unwrap();
    let under_way = stage(&table, 2, vec![Change(1, Some("b"))]).await;
    let hash = pending(&table, 1).await.unwrap().key;
    table.enrol(&[(origin(0), hash)]).await.unwrap();
    assert_eq!(pending(&table, 0).await.map(|p| (p.noted_from, p.later)), Some((2, false)));
    table.commit(vec![under_way]).await.unwrap();
    assert_eq!((later(&table, 0).await, later(&table, 1).await), (Some(true), Some(true)));
}

#[tokio::test]
async fn a_replay_worked_out_before_a_later_change_is_stale() {
    let table = open(&MemoryCatalog::default()).await;
    let first = stage(&table, 0, vec![Letter(1), Change(2, Some("a"))]).await;
    table.commit(vec![first]).await.unwrap();
    let before = standing(&table).await;
    let replay = Replay {
        replays: before.replays,
        applied: vec![before.pending.find(&origin(0)).unwrap().clone()],
        settled: vec![(origin(0), Status::Replayed)],
    };
    let stage_replay = async |replay: Replay| {
        let mut stager = table.stager().unwrap();
        let staged = tokio::task::spawn_blocking(move || {
            stager.write(row(1, Some("late"))).unwrap();
            stager.close(vec![]).unwrap()
        });
        staged.await.unwrap().replaying(replay)
    };
    let worked_out = stage_replay(replay.clone()).await;
    let again = stage_replay(replay).await;
    let change = stage(&table, 2, vec![Change(1, None)]).await;
    table.commit(vec![change]).await.unwrap();
    let failure = table.commit(vec![worked_out]).await.unwrap_err();
    assert!(matches!(&failure, CommitFailure::Stale(text) if text.contains("later change")), "{failure}");
    assert_eq!(standing(&table).await.replays, 0);

    // Closed by another replay, this one finds that it is not the next any more.
    let closed = Replay { replays: 0, applied: vec![], settled: vec![(origin(0), Status::Superseded)] };
    let stager = table.stager().unwrap();
    let staged = tokio::task::spawn_blocking(move || stager.close(vec![]).unwrap()).await.unwrap();
    table.commit(vec![staged.replaying(closed)]).await.unwrap();
    assert_eq!((standing(&table).await.replays, standing(&table).await.pending.len()), (1, 0));
    assert!(matches!(table.commit(vec![again]).await.unwrap_err(), CommitFailure::Stale(_)));
}

#[tokio::test]
async fn enrolling_moves_the_head_so_that_nobody_lands_who_planned_before() {
    let catalog = MemoryCatalog::default();
    let table = open(&catalog).await;
    let first = stage(&table, 0, vec![Letter(1), Change(2, Some("a"))]).await;
    table.commit(vec![first]).await.unwrap();
    let before = (catalog.load(&table.spec().ident().unwrap()).await.unwrap(), table.checkpoint().await.unwrap());
    table.enrol(&[(origin(0), 7)]).await.unwrap();
    let after = (catalog.load(&table.spec().ident().unwrap()).await.unwrap(), table.checkpoint().await.unwrap());
    assert_ne!(after.0.metadata().current_snapshot_id(), before.0.metadata().current_snapshot_id());
    assert_eq!(after.1, before.1);
    assert_eq!(pending(&table, 0).await.map(|p| (p.key, p.noted_from)), Some((7, 2)));
    let on = stage(&table, 2, vec![Change(2, Some("b"))]).await;
    assert_eq!(table.commit(vec![on]).await.unwrap().foreign_snapshots, 0);
}

#[tokio::test]
async fn a_set_of_another_kind_is_not_believed_after_changes_that_it_missed() {
    let catalog = MemoryCatalog::default();
    let table = open(&catalog).await;
    let first = stage(&table, 0, vec![Letter(1), Change(2, Some("a"))]).await;
    table.commit(vec![first]).await.unwrap();
    let stored = async || {
        let loaded = catalog.load(&table.spec().ident().unwrap()).await.unwrap();
        let set = loaded.metadata().properties()[PENDING].clone();
        (loaded, set)
    };
    let (base, own) = stored().await;
    let mut other: serde_json::Value = serde_json::from_str(&own).unwrap();
    other["probe"] = "of another version".into();
    let updates = [TableUpdate::SetProperties { updates: [(PENDING.to_owned(), other.to_string())].into() }];
    let uuid = TableRequirement::UuidMatch { uuid: base.metadata().uuid() };
    catalog.swap(&base, &[uuid], &updates).await.unwrap();
    let change = stage(&table, 2, vec![Change(1, None)]).await;
    table.commit(vec![change]).await.unwrap();
    let set: serde_json::Value = serde_json::from_str(&stored().await.1).unwrap();
    assert_eq!(
        (&set["letters"], &set["probe"]),
        (&serde_json::json!([]), &serde_json::from_str::<serde_json::Value>(&own).unwrap()["probe"])
    );
}

async fn rewind(table: &LakeTable, how: How) {
    let rewind = Rewind { how, generation: table.generation().await.unwrap() };
    table.rewind(&rewind, firn_catalog::new_snapshot_id()).await.unwrap();
    table.checkpoint().await.unwrap();
}

#[tokio::test]
async fn letters_that_are_read_again_after_a_rewind_leave_the_set_and_come_back_by_themselves() {
    let table = open(&MemoryCatalog::default()).await;
    let records = || vec![Letter(1), Change(1, Some("a")), Letter(2), Change(3, Some("b"))];
    let staged = stage(&table, 0, records()).await;
    table.commit(vec![staged]).await.unwrap();
    assert_eq!((later(&table, 0).await, later(&table, 2).await), (Some(true), Some(false)));
    rewind(&table, How::Replay { topic: TOPIC.to_owned(), to: [(0, 2)].into() }).await;
    assert_eq!((later(&table, 0).await, later(&table, 2).await), (Some(true), None));
    // This time the record fits.
    let staged = stage(&table, 2, vec![Change(2, Some("c")), Change(3, Some("b"))]).await;
    table.commit(vec![staged]).await.unwrap();
    assert_eq!((later(&table, 0).await, later(&table, 2).await), (Some(true), None));
}

#[tokio::test]
async fn a_restored_snapshot_forgets_what_it_undoes_of_letters() {
    let table = open(&MemoryCatalog::default()).await;
    let first = stage(&table, 0, vec![Letter(1), Letter(2), Letter(3), Change(9, Some("a"))]).await;
    let then = table.commit(vec![first]).await.unwrap().snapshot_id;
    // A later change of the first key; the second letter is replayed.
    let change = stage(&table, 4, vec![Change(1, Some("x"))]).await;
    table.commit(vec![change]).await.unwrap();
    let applied = standing(&table).await.pending.find(&origin(1)).unwrap().clone();
    let replay = Replay { replays: 0, applied: vec![applied], settled: vec![(origin(1), Status::Replayed)] };
    let stage_replay = async |replay: Replay| {
        let mut stager = table.stager().unwrap();
        let staged = tokio::task::spawn_blocking(move || {
            stager.write(row(2, Some("late"))).unwrap();
            stager.close(vec![]).unwrap()
        });
        staged.await.unwrap().replaying(replay)
    };
    let staged = stage_replay(replay).await;
    table.commit(vec![staged]).await.unwrap();
    let third = standing(&table).await.pending.find(&origin(2)).unwrap().clone();
    let replay = Replay { replays: 1, applied: vec![third], settled: vec![(origin(2), Status::Replayed)] };
    let under_way = stage_replay(replay).await;

    rewind(&table, How::Restore { snapshot_id: then }).await;
    let now = standing(&table).await;
    // Nothing is said of the change that was undone, nor of the replay: no letter is settled by what is not there.
    assert_eq!((later(&table, 0).await, later(&table, 1).await, later(&table, 2).await), (None, None, Some(false)));
    assert_eq!((now.settled.len(), now.replays), (0, 2));
    let failure = table.commit(vec![under_way]).await.unwrap_err();
    assert!(matches!(&failure, CommitFailure::Stale(text) if text.contains("rewound")), "{failure}");
}
