//! A commit lands exactly once, whichever call fails and however; on the catalog in memory, no server.

use std::collections::HashSet;

use iceberg::spec::FormatVersion;
use rstest::rstest;

use super::*;
use crate::memory::MemoryCatalog;
use crate::storage::fault::{Effect, Fault, Faults, Gate, Op};
use crate::testing::{self, Batch, HASTE, append, ident, key, live, position};

const ONCE: Patience = Patience { attempts: 1, first_wait_ms: 0, max_wait_ms: 0 };

/// A table with two data files and a delete file; position of `w` is 2.
async fn table(version: FormatVersion) -> MemoryCatalog {
    let catalog = MemoryCatalog::default();
    testing::create(&catalog, "t", version).await;
    let first = RowDelta {
        data_files: vec![testing::data_file("d/1", 4), testing::data_file("d/2", 3)],
        ..RowDelta::default()
    };
    Batch::new("w", 0, first).commit(&catalog, &ident("t")).await.unwrap();
    let second = RowDelta { delete_files: vec![testing::position_deletes("x/1", 1, "d/1")], ..RowDelta::default() };
    Batch::new("w", 1, second).commit(&catalog, &ident("t")).await.unwrap();
    catalog.faults().take_calls();
    catalog
}

/// Replaces a delete file, removes a data file, adds one: every branch of staging.
fn upsert() -> Batch {
    let delta = RowDelta {
        data_files: vec![testing::data_file("d/3", 5)],
        delete_files: vec![testing::position_deletes("x/2", 2, "d/1")],
        removed: HashSet::from([key("x/1"), key("d/2")]),
        ..RowDelta::default()
    };
    Batch::new("w", 2, delta)
}

async fn assert_exactly_once(catalog: &MemoryCatalog, batch: &Batch, why: &str) {
    let table = catalog.load(&ident("t")).await.unwrap();
    assert_eq!(live(&table).await, ["d/1", "d/3", "x/2"], "{why}");
    assert_eq!(table.metadata().snapshots().len(), 3, "{why}");
    assert_eq!(table.metadata().current_snapshot_id(), Some(batch.snapshot_id), "{why}");
    assert_eq!(position(&table, "w"), 3, "{why}");
    let totals = &table.metadata().current_snapshot().unwrap().summary().additional_properties;
    assert_eq!((totals["total-data-files"].as_str(), totals["total-delete-files"].as_str()), ("2", "1"), "{why}");
    assert_eq!(totals["total-records"], "9", "{why}");
}

/// The one property that all depends on: whichever single call fails, and however, the batch is in the table exactly once after
/// the recovery.
#[rstest]
#[case::v2(FormatVersion::V2)]
#[case::v3(FormatVersion::V3)]
#[tokio::test]
async fn whatever_single_call_fails_the_delta_lands_exactly_once(#[case] version: FormatVersion) {
    let effects = [
        Effect::Fail(ErrorKind::Unavailable),
        Effect::Fail(ErrorKind::Denied),
        Effect::Fail(ErrorKind::Conflict),
        Effect::Fail(ErrorKind::Invalid),
        Effect::LoseAnswer,
        Effect::FailAfter(ErrorKind::Conflict),
        Effect::Stale,
    ];
    let mut hits = 0;
    for effect in effects {
        for patience in [ONCE, HASTE] {
            for call in 0.. {
                let catalog = table(version).await;
                let before = catalog.metadata_location(&ident("t"));
                catalog.faults().add(Fault::on([], effect.clone()).skip(call));
                let why = format!("{effect:?} at call {call}, {} attempts", patience.attempts);
                let mut batch = upsert();
                match batch.commit_with(&catalog, &ident("t"), patience).await {
                    Ok(committed) => assert_eq!(committed.snapshot_id, batch.snapshot_id),
                    Err(_) => {
                        let did_it = matches!(effect, Effect::LoseAnswer | Effect::FailAfter(_))
                            && catalog.metadata_location(&ident("t")) != before;
                        assert!(did_it || catalog.metadata_location(&ident("t")) == before, "{why}: the table moved");
                        catalog.faults().clear();
                        batch.commit(&catalog, &ident("t")).await.unwrap();
                    }
                }
                if catalog.faults().pending() > 0 {
                    break; // past the last call
                }
                hits += 1;
                catalog.faults().clear();
                assert_exactly_once(&catalog, &batch, &why).await;
                // and again, as a writer does that died before it heard: nothing happens
                let again = batch.commit(&catalog, &ident("t")).await.unwrap();
                assert_eq!(again.attempts, 0);
                assert_exactly_once(&catalog, &batch, &why).await;
            }
        }
    }
    assert!(hits > 100, "only {hits} faults were tried");
}

/// Two things go wrong in one commit.
#[tokio::test]
async fn whatever_two_calls_fail_the_delta_lands_exactly_once() {
    for first in 0..14 {
        for second in 0..14 {
            let catalog = table(FormatVersion::V2).await;
            catalog.faults().add(Fault::on([], Effect::LoseAnswer).skip(first));
            catalog.faults().add(Fault::on([], Effect::Fail(ErrorKind::Unavailable)).skip(second));
            let mut batch = upsert();
            batch.commit(&catalog, &ident("t")).await.unwrap();
            catalog.faults().clear();
            assert_exactly_once(&catalog, &batch, &format!("{first} {second}")).await;
        }
    }
}

#[tokio::test]
async fn four_writers_lose_nothing_and_keep_one_snapshot_a_batch() {
    let catalog = MemoryCatalog::default();
    testing::create(&catalog, "t", FormatVersion::V2).await;
    let writers = (0..4).map(|w| {
        let catalog = catalog.clone();
        tokio::spawn(async move {
            for n in 0..10 {
                let mut batch = Batch::new(&format!("w{w}"), n, append(&format!("d/{w}-{n}")));
                let patience = Patience { attempts: 200, ..HASTE };
                batch.commit_with(&catalog, &ident("t"), patience).await.unwrap().cleanup.run().await.unwrap();
            }
        })
    });
    futures::future::try_join_all(writers).await.unwrap();
    let table = catalog.load(&ident("t")).await.unwrap();
    assert_eq!(live(&table).await.iter().collect::<HashSet<_>>().len(), 40);
    assert_eq!(live(&table).await.len(), 40);
    assert_eq!(table.metadata().snapshots().len(), 40);
    // the losing attempts left nothing: 41 metadata files, and a list and a manifest a snapshot
    assert_eq!(testing::stored(&catalog).await.len(), 41 + 40 + 40);
}

#[tokio::test]
async fn a_late_answer_after_another_writer_went_on_is_still_found() {
    let catalog = table(FormatVersion::V2).await;
    catalog.faults().add(Fault::on([Op::Swap], Effect::LoseAnswer));
    let mut batch = upsert();
    let e = batch.commit_with(&catalog, &ident("t"), Patience { attempts: 1, ..HASTE }).await;
    // the one more look after the last attempt finds it
    assert_eq!(e.unwrap().attempts, 1);
    Batch::new("other", 0, append("d/9")).commit(&catalog, &ident("t")).await.unwrap();
    let again = batch.commit(&catalog, &ident("t")).await.unwrap();
    assert_eq!((again.snapshot_id, again.attempts, batch.planned), (batch.snapshot_id, 0, 1));
}

#[tokio::test]
async fn a_stale_writer_is_told_and_changes_nothing() {
    let catalog = table(FormatVersion::V2).await;
    let before = catalog.metadata_location(&ident("t"));
    let mut zombie = Batch::new("w", 1, append("d/7"));
    assert!(matches!(zombie.commit(&catalog, &ident("t")).await, Err(CommitError::Stale { .. })));
    assert_eq!(catalog.metadata_location(&ident("t")), before);
}

#[rstest]
#[case::refused(ErrorKind::Refused)]
#[case::denied(ErrorKind::Denied)]
#[tokio::test]
async fn a_refusal_for_good_is_not_tried_again_and_leaves_no_files(#[case] kind: ErrorKind) {
    let catalog = table(FormatVersion::V2).await;
    let before = testing::stored(&catalog).await;
    catalog.faults().add(Fault::on([Op::Swap], Effect::Fail(kind)));
    let mut batch = upsert();
    let e = batch.commit(&catalog, &ident("t")).await.unwrap_err();
    assert!(matches!(&e, CommitError::Failed(e) if e.kind() == kind), "{e}");
    assert_eq!(batch.planned, 1);
    assert_eq!(testing::stored(&catalog).await, before);
}

#[tokio::test]
async fn a_failure_after_an_open_outcome_is_undecided_and_deletes_nothing() {
    let catalog = table(FormatVersion::V2).await;
    catalog.faults().add(Fault::on([Op::Swap], Effect::LoseAnswer));
    catalog.faults().add(Fault::on([Op::Load], Effect::Fail(ErrorKind::Denied)).skip(1).times(9));
    let mut batch = upsert();
    let e = batch.commit(&catalog, &ident("t")).await.unwrap_err();
    assert!(matches!(&e, CommitError::Undecided(e) if e.kind() == ErrorKind::Denied), "{e}");
    catalog.faults().clear();
    assert_exactly_once(&catalog, &batch, "the files of the landed attempt are there").await;
}

/// The swap is on its way while the writer gives up, is asked again and lands under another attempt: it must not land twice.
#[tokio::test]
async fn a_swap_that_arrives_late_does_not_land_twice() {
    let catalog = table(FormatVersion::V2).await;
    let gate = Gate::default();
    catalog.faults().add(Fault::on([Op::Swap], Effect::Hold(gate.clone())));
    let mut batch = upsert();
    let mut late = batch.clone();
    let held = tokio::spawn({
        let catalog = catalog.clone();
        async move { late.commit_with(&catalog, &ident("t"), ONCE).await }
    });
    while catalog.faults().pending() > 0 {
        tokio::task::yield_now().await;
    }
    batch.commit(&catalog, &ident("t")).await.unwrap().cleanup.run().await.unwrap();
    gate.open();
    // refused, looked, found: the same snapshot
    assert_eq!(held.await.unwrap().unwrap().snapshot_id, batch.snapshot_id);
    assert_exactly_once(&catalog, &batch, "late").await;
}

#[tokio::test]
async fn a_plan_without_files_moves_properties_alone_and_is_known_again() {
    let catalog = table(FormatVersion::V2).await;
    let mut batch = upsert();
    batch.plan = Plan { properties: batch.plan.properties, ..Plan::default() };
    catalog.faults().add(Fault::on([Op::Swap], Effect::LoseAnswer));
    batch.commit(&catalog, &ident("t")).await.unwrap();
    let table = catalog.load(&ident("t")).await.unwrap();
    assert_eq!((position(&table, "w"), table.metadata().snapshots().len()), (3, 2));
    assert_eq!(table.metadata().properties()[LAST_COMMIT_ID], batch.snapshot_id.to_string());
    assert_eq!(batch.planned, 1);
}

#[tokio::test]
async fn a_checkpoint_without_files_makes_an_empty_snapshot() {
    let catalog = table(FormatVersion::V3).await;
    let mut batch = upsert();
    batch.plan.delta = RowDelta::default();
    let table = batch.commit(&catalog, &ident("t")).await.unwrap().table;
    let snapshot = table.metadata().current_snapshot().unwrap();
    assert_eq!(snapshot.snapshot_id(), batch.snapshot_id);
    assert_eq!(snapshot.summary().additional_properties["position.w"], "3");
    assert_eq!(live(&table).await, ["d/1", "d/2", "x/1"]);
}

#[tokio::test]
async fn an_empty_plan_is_committed_without_a_swap() {
    let catalog = table(FormatVersion::V2).await;
    let before = catalog.metadata_location(&ident("t"));
    let mut batch = upsert();
    batch.plan = Plan::default();
    batch.commit(&catalog, &ident("t")).await.unwrap();
    assert_eq!(catalog.metadata_location(&ident("t")), before);
}

#[tokio::test]
async fn delete_files_of_losing_attempts_are_cleaned_up_with_them() {
    /// Writes another delete file on each base, as an upsert does.
    struct Rebasing(Batch);
    #[async_trait]
    impl Planner for Rebasing {
        async fn plan(&mut self, base: &Table, attempt: Attempt) -> Result<Plan, CommitError> {
            let mut plan = self.0.plan(base, attempt).await?;
            let path = format!("memory://warehouse/x-{}", attempt.0);
            base.file_io().new_output(&path).map_err(Error::from)?.write("x".into()).await.map_err(Error::from)?;
            plan.delta.delete_files = vec![testing::position_deletes(&path, 1, "d/1")];
            Ok(plan)
        }
    }
    let catalog = table(FormatVersion::V2).await;
    catalog.faults().add(Fault::on([Op::Swap], Effect::Fail(ErrorKind::Conflict)).times(2));
    let mut planner = Rebasing(Batch::new("w", 2, append("d/3")));
    let committed = commit(&catalog, &ident("t"), 77, &mut planner, HASTE).await.unwrap();
    assert_eq!((committed.attempts, committed.landed), (3, Some(Attempt(2))));
    committed.cleanup.run().await.unwrap();
    let stored = testing::stored(&catalog).await;
    assert_eq!(stored.iter().filter(|p| p.starts_with("x-")).collect::<Vec<_>>(), ["x-2"]);
    assert_eq!(live(&committed.table).await, ["d/1", "d/2", "d/3", "memory://warehouse/x-2", "x/1"]);
}

#[test]
fn waits_grow_to_a_bound_with_jitter() {
    let patience = Patience { attempts: 99, first_wait_ms: 50, max_wait_ms: 5_000 };
    for (attempt, full) in [(1, 50), (2, 100), (4, 400), (9, 5_000), (98, 5_000)] {
        let wait = patience.wait_before(attempt).as_millis() as u64;
        assert!((full / 2..=full).contains(&wait), "{attempt}: {wait}");
    }
}

#[test]
fn snapshot_ids_are_positive_and_differ() {
    let ids: HashSet<i64> = (0..1000).map(|_| new_snapshot_id()).collect();
    assert!(ids.len() == 1000 && ids.iter().all(|id| *id > 0));
}

/// The script of one test must not leak into another.
#[test]
fn faults_are_shared_by_clones_alone() {
    let (one, other) = (Faults::default(), Faults::default());
    one.clone().add(Fault::on([], Effect::LoseAnswer));
    assert_eq!((one.pending(), other.pending()), (1, 0));
}

/// Finds a file of its first base gone.
struct Overtaken {
    batch: Batch,
    /// Whether it is gone because another writer moved the table on and cleaned up.
    by: Option<MemoryCatalog>,
    first: bool,
}

#[async_trait]
impl Planner for Overtaken {
    async fn plan(&mut self, base: &Table, attempt: Attempt) -> Result<Plan, CommitError> {
        if !std::mem::take(&mut self.first) {
            return self.batch.plan(base, attempt).await;
        }
        if let Some(catalog) = &self.by {
            Batch::new("other", 0, append("d/9")).commit(catalog, &ident("t")).await.unwrap();
        }
        Err(CommitError::Failed(Error::new(ErrorKind::NotFound, "d/1 is gone")))
    }
}

#[rstest]
#[case::by_another_writer(true)]
#[case::for_no_reason(false)]
#[tokio::test]
async fn a_file_that_is_gone_while_a_commit_is_planned_is_no_failure_if_the_table_moved_on(#[case] moves: bool) {
    let catalog = table(FormatVersion::V2).await;
    if moves {
        // A stale answer still shows the base.
        catalog.faults().add(Fault::on([Op::Load], Effect::Stale).skip(2));
    }
    let mut planner = Overtaken { batch: upsert(), by: moves.then(|| catalog.clone()), first: true };
    let id = planner.batch.snapshot_id;
    let done = commit(&catalog, &ident("t"), id, &mut planner, HASTE).await;
    match moves {
        true => assert_eq!(live(&done.unwrap().table).await, ["d/1", "d/3", "d/9", "x/2"]),
        false => assert!(matches!(done, Err(CommitError::Failed(_))), "{done:?}"),
    }
}

/// A metastore that tries again inside refuses what it has just done; a load that is as late then shows the table as it was.
#[tokio::test]
async fn a_refusal_counts_only_once_the_table_was_seen_to_move() {
    let catalog = table(FormatVersion::V2).await;
    catalog.faults().add(Fault::on([Op::Swap], Effect::FailAfter(ErrorKind::Conflict)));
    catalog.faults().add(Fault::on([Op::Load], Effect::Stale).skip(1));
    let mut batch = upsert();
    let e = batch.commit_with(&catalog, &ident("t"), ONCE).await.unwrap_err();
    assert!(matches!(e, CommitError::Undecided(_)), "{e:?}");
    assert_exactly_once(&catalog, &batch, "its files are there").await;
    assert_eq!(batch.commit(&catalog, &ident("t")).await.unwrap().attempts, 0);
}
