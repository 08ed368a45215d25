//! Several processes at one table: what one has in hand while the others, or another writer, change what it builds on.

use firn::change::Mode;
use firn::position::TopicPartition;
use firn::sink::lake::CommitFailure;
use firn_catalog::memory::MemoryCatalog;
use firn_catalog::storage::fault::{Effect, Fault, Op};
use firn_catalog::{ErrorKind, Patience};
use rstest::rstest;

use crate::foreign;
use crate::rewind::{Log, Message, TOPIC, catch_up, process, put, read, spec, stage, stage_of, values};

fn log() -> Log {
    [
        vec![put(1, 10), put(2, 20), put(1, 11), Message::Delete(2), put(3, 30), put(3, 31)],
        vec![put(14, 40), put(15, 50), put(14, 41)],
    ]
}

fn stale(failure: CommitFailure) -> String {
    match failure {
        CommitFailure::Stale(why) => why,
        other => panic!("{other}"),
    }
}

/// It landed and its answer was lost; the table was rolled back, the snapshot expired, its files removed. Nothing in the table tells
/// of it then, and its offsets are where the table stands again.
#[rstest]
#[case::append(Mode::Append)]
#[case::upsert(Mode::Upsert)]
#[tokio::test]
async fn a_batch_whose_commit_was_set_aside_unseen_does_not_land_again(#[case] mode: Mode) {
    let (catalog, spec, log) = (MemoryCatalog::default(), spec(mode), log());
    let ident = spec.ident().unwrap();
    let one = process(&catalog, &spec).await.with_patience(Patience { attempts: 2, first_wait_ms: 0, max_wait_ms: 0 });
    let other = process(&catalog, &spec).await;
    read(&one, &log, 0, 0, 2).await;
    let staged = stage(&one, &log, 0, 2, 4).await;
    catalog.faults().add(Fault::on([Op::Swap], Effect::LoseAnswer));
    catalog.faults().add(Fault::on([Op::Load], Effect::Fail(ErrorKind::Unavailable)).skip(1).times(10));
    let Err(CommitFailure::Undecided(parts, _)) = one.commit(vec![staged]).await else { panic!("no answer came") };
    catalog.faults().clear();
    assert!(foreign::roll_back(&catalog, &ident, 1).await.is_some());
    assert!(foreign::expire(&catalog, &ident, 1).await.is_some());
    other.checkpoint().await.unwrap();
    read(&other, &log, 1, 0, 3).await;

    let why = stale(one.commit(parts).await.unwrap_err());
    assert!(why.contains("rolled back (generation 1)"), "{why}");
    catch_up(&catalog, &spec, &log).await;
    let want = match mode {
        Mode::Append => 9,
        Mode::Upsert => 4,
    };
    assert_eq!(values(&catalog).await.len(), want);
}

/// An added partition waits until the older ones have passed the end that they had. That they have is a thing of the past when the
/// table is rolled back.
#[tokio::test]
async fn what_was_read_on_the_strength_of_a_position_falls_with_it() {
    let (catalog, spec, log) = (MemoryCatalog::default(), spec(Mode::Upsert), log());
    let ident = spec.ident().unwrap();
    let one = process(&catalog, &spec).await;
    for (from, to) in [(0, 2), (2, 4), (4, 6)] {
        read(&one, &log, 0, from, to).await;
    }
    foreign::roll_back(&catalog, &ident, 1).await.unwrap();
    let other = process(&catalog, &spec).await;
    let staged = stage(&other, &log, 1, 0, 3).await;
    foreign::roll_back(&catalog, &ident, 1).await.unwrap();
    let why = stale(other.commit(vec![staged]).await.unwrap_err());
    assert!(why.contains("position 2 where it had 4"), "{why}");
}

#[tokio::test]
async fn a_key_that_moves_to_an_added_partition_leaves_no_row_behind_whoever_reads_it() {
    let (catalog, spec) = (MemoryCatalog::default(), spec(Mode::Upsert));
    let log: Log = [vec![put(1, 10), put(2, 20)], vec![put(1, 11), put(2, 21)]];
    let at = |partition| TopicPartition::new(TOPIC, partition);
    let (one, other) = (process(&catalog, &spec).await, process(&catalog, &spec).await);
    one.own([at(0)]);
    other.own([at(1)]);
    let staged = stage_of(&one, &log, 1, 0, 0, 2).await;
    one.commit(vec![staged]).await.unwrap();
    let staged = stage_of(&other, &log, 2, 1, 0, 1).await;
    other.commit(vec![staged]).await.unwrap();
    assert_eq!(values(&catalog).await, [(1, Some(11)), (2, Some(20))]);
    // Rolled back behind everything, it still knows which partition was added.
    let standing = one.checkpoint().await.unwrap().unwrap();
    assert_eq!(standing.from_the_start().topics[TOPIC].partition_count, 1);
    let staged = stage_of(&other, &log, 2, 1, 1, 2).await;
    other.commit(vec![staged]).await.unwrap();
    assert_eq!(values(&catalog).await, [(1, Some(11)), (2, Some(21))]);
}

/// A process is given another partition after a rollback: it asks where that one stands, and has not heard yet that the others were set
/// back behind their first row. Nothing but their generation tells then that rows between would be missing.
#[tokio::test]
async fn a_partition_is_not_read_on_because_another_one_was_asked_for_after_a_rollback() {
    let (catalog, spec, log) = (MemoryCatalog::default(), spec(Mode::Append), log());
    let at = |partition| TopicPartition::new(TOPIC, partition);
    let (one, other) = (process(&catalog, &spec).await, process(&catalog, &spec).await);
    read(&other, &log, 1, 0, 2).await;
    one.reads_from([at(0)], one.checkpoint().await.unwrap().as_ref());
    read(&one, &log, 0, 0, 4).await;
    foreign::roll_back(&catalog, &spec.ident().unwrap(), 1).await.unwrap();
    let standing = one.checkpoint().await.unwrap();
    one.reads_from([at(1)], standing.as_ref());

    let staged = stage(&one, &log, 0, 4, 6).await;
    let why = stale(one.commit(vec![staged]).await.unwrap_err());
    assert!(why.contains("rolled back (generation 1)"), "{why}");
    let staged = stage(&one, &log, 1, 2, 3).await;
    one.commit(vec![staged]).await.unwrap();
    catch_up(&catalog, &spec, &log).await;
    assert_eq!(values(&catalog).await.len(), 9);
}
