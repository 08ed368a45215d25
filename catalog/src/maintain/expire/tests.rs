//! What goes and what stays when snapshots expire: files that are really there, or lost, refused, shared, in between two commits.

use std::time::Duration;

use iceberg::spec::{MAIN_BRANCH, PartitionStatisticsFile, SnapshotRetention};
use rstest::rstest;

use super::*;
use crate::maintain::ground::{catalog, change, data, history, path, reference, update, whole};
use crate::memory::MemoryCatalog;
use crate::storage::fault::{Effect, Fault, Faults, Op};
use crate::testing::{self, Batch, HASTE, ident, stored};
use crate::{ErrorKind, RowDelta};

/// All but the heads.
const ALL: Rules<'_> = Rules { max_age_ms: Some(0), min_kept: None, horizon_ms: 0, tells: None, last: None };

async fn run(catalog: &MemoryCatalog, rules: &Rules<'_>) -> Result<Expired, ExpireError> {
    expire(catalog, &ident("t"), rules, HASTE).await
}

#[tokio::test]
async fn what_only_expired_snapshots_held_is_deleted_and_nothing_else() {
    let catalog = catalog().await;
    let ids = history(&catalog).await;
    let before = stored(&catalog).await;
    let table = catalog.load(&ident("t")).await.unwrap();
    let seen = preview(&table, &ALL).await.unwrap();
    assert_eq!(stored(&catalog).await, before, "a preview changes nothing");
    let done = run(&catalog, &ALL).await.unwrap();
    assert_eq!(done.removed, seen.removed);
    assert_eq!(done.snapshots.iter().map(|s| s.snapshot_id()).collect::<Vec<_>>(), ids[..4]);
    assert_eq!((done.kept, done.removed.data_files, done.removed.manifest_lists), (1, 2, 4));
    assert_eq!(data(&catalog).await, ["c"]);
    let table = whole(&catalog).await;
    assert_eq!(testing::live(&table).await, [path("c")]);
    // Of metadata: this table's versions, one list, the manifests of one snapshot.
    let left: Vec<String> = stored(&catalog).await.into_iter().filter(|p| p.ends_with(".avro")).collect();
    assert_eq!(
        left.len(),
        1 + crate::manifests::list(&table, table.metadata().current_snapshot().unwrap()).await.unwrap().len()
    );
    let again = run(&catalog, &ALL).await.unwrap();
    assert_eq!((again.snapshots.len(), again.removed, again.kept), (0, Removed::default(), 1));
}

#[tokio::test]
async fn a_table_that_was_made_anew_loses_none_of_its_files_to_the_old_ones_plan() {
    let (old, new) = (catalog().await, catalog().await);
    history(&old).await;
    history(&new).await;
    let mut expiry = Expiry { rules: &ALL, planned: BTreeMap::new(), references: BTreeSet::new(), base: None };
    let plan = expiry.plan(&old.load(&ident("t")).await.unwrap(), Attempt(0)).await.unwrap();
    assert!(!plan.updates.is_empty());
    let anew = expiry.plan(&new.load(&ident("t")).await.unwrap(), Attempt(1)).await;
    assert!(matches!(anew, Err(CommitError::Stale { open: false, .. })));
}

#[tokio::test]
async fn what_a_tag_or_branch_holds_stays_with_its_files() {
    let catalog = catalog().await;
    let ids = history(&catalog).await;
    update(&catalog, reference("first", ids[0], SnapshotRetention::Tag { max_ref_age_ms: None })).await;
    update(&catalog, reference("side", ids[2], SnapshotRetention::branch(None, None, None))).await;
    let done = run(&catalog, &ALL).await.unwrap();
    assert_eq!(done.snapshots.iter().map(|s| s.snapshot_id()).collect::<Vec<_>>(), [ids[1], ids[3]]);
    assert_eq!(data(&catalog).await, ["a", "b", "c"]);
    whole(&catalog).await;
    // The tag goes, and takes what it alone held.
    update(&catalog, reference("first", ids[0], SnapshotRetention::Tag { max_ref_age_ms: Some(1) })).await;
    let done = run(&catalog, &ALL).await.unwrap();
    assert_eq!((done.references, done.snapshots.len()), (vec!["first".to_owned()], 1));
    assert_eq!(data(&catalog).await, ["b", "c"]);
    whole(&catalog).await;
}

/// The files of what came after a rollback are those of nobody else; what was removed there is back.
#[tokio::test]
async fn a_table_that_was_rolled_back_keeps_what_it_went_back_to() {
    let catalog = catalog().await;
    let ids = history(&catalog).await;
    update(&catalog, reference(MAIN_BRANCH, ids[1], SnapshotRetention::branch(None, None, None))).await;
    let done = run(&catalog, &ALL).await.unwrap();
    assert_eq!((done.snapshots.len(), done.kept), (4, 1));
    assert_eq!(data(&catalog).await, ["a", "b"], "the third removed a, the fifth b: neither happened here");
    whole(&catalog).await;
}

/// As `firn rewind` does it: a new snapshot onto an old one.
#[tokio::test]
async fn a_table_that_was_rewound_keeps_what_it_was_set_back_to() {
    let catalog = catalog().await;
    let ids = history(&catalog).await;
    let mut rewind = Batch::new("w", 5, RowDelta::default());
    rewind.plan.onto = Some(ids[1]);
    rewind.commit(&catalog, &ident("t")).await.unwrap();
    tokio::time::sleep(Duration::from_millis(2)).await;
    assert_eq!(run(&catalog, &ALL).await.unwrap().kept, 1);
    assert_eq!(data(&catalog).await, ["a", "b"]);
    whole(&catalog).await;
}

#[tokio::test]
async fn statistics_and_remaps_go_with_their_snapshots() {
    let catalog = catalog().await;
    let ids = history(&catalog).await;
    for (n, id) in [(0, ids[0]), (1, ids[4])] {
        let statistics_path = format!("memory://warehouse/db/t/metadata/stats-{n}");
        testing::touch(&catalog, &statistics_path).await;
        let partition_statistics = PartitionStatisticsFile { snapshot_id: id, statistics_path, file_size_in_bytes: 1 };
        update(&catalog, TableUpdate::SetPartitionStatistics { partition_statistics }).await;
    }
    for n in 5..7 {
        let remap = format!("memory://warehouse/db/t/metadata/remap-{n}");
        testing::touch(&catalog, &remap).await;
        let mut batch = Batch::new("w", n, RowDelta::default());
        batch.plan.summary.insert(super::super::REMAP.to_owned(), remap);
        batch.commit(&catalog, &ident("t")).await.unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let done = run(&catalog, &Rules { min_kept: Some(3), ..ALL }).await.unwrap();
    assert_eq!(done.removed.other_files, 1);
    assert_eq!(run(&catalog, &ALL).await.unwrap().removed.other_files, 2);
    let stored = stored(&catalog).await;
    let left: Vec<_> = stored.iter().filter(|p| p.contains("stats-") || p.contains("remap-")).collect();
    assert_eq!(left, ["db/t/metadata/remap-6"]);
    assert_eq!(whole(&catalog).await.metadata().partition_statistics_iter().count(), 0);
}

#[tokio::test]
async fn files_that_may_be_anothers_stay() {
    let catalog = catalog().await;
    history(&catalog).await;
    let updates = std::collections::HashMap::from([("gc.enabled".to_owned(), "false".to_owned())]);
    update(&catalog, TableUpdate::SetProperties { updates }).await;
    let refused = run(&catalog, &ALL).await.unwrap_err();
    assert!(matches!(&refused, ExpireError::Catalog(e) if e.kind() == ErrorKind::Refused), "{refused}");
    assert_eq!(whole(&catalog).await.metadata().snapshots().len(), 5);
}

/// Whatever the catalog answers, what the table says in the end decides what is deleted.
#[rstest]
#[case::refused_once(Effect::Fail(ErrorKind::Conflict))]
#[case::done_and_the_answer_lost(Effect::LoseAnswer)]
#[case::done_and_refused(Effect::FailAfter(ErrorKind::Conflict))]
#[tokio::test]
async fn a_swap_that_goes_wrong_is_looked_up(#[case] effect: Effect) {
    let catalog = catalog().await;
    history(&catalog).await;
    catalog.faults().add(Fault::on([Op::Swap], effect));
    let done = run(&catalog, &ALL).await.unwrap();
    assert_eq!((done.snapshots.len(), done.kept, done.removed.data_files), (4, 1, 2));
    assert_eq!(data(&catalog).await, ["c"]);
    whole(&catalog).await;
}

/// The writer goes on between an attempt's plan and its swap.
#[tokio::test]
async fn the_writer_is_not_disturbed() {
    let catalog = catalog().await;
    history(&catalog).await;
    let other = catalog.seen_with(Faults::default());
    let gate = crate::storage::fault::Gate::default();
    catalog.faults().add(Fault::on([Op::Swap], Effect::Hold(gate.clone())));
    let expiry = tokio::spawn({
        let catalog = catalog.clone();
        async move { run(&catalog, &ALL).await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    change(&other, 5, &["d"], &["c"]).await;
    gate.open();
    assert_eq!(expiry.await.unwrap().unwrap().kept, 1);
    assert_eq!(data(&catalog).await, ["d"]);
    whole(&catalog).await;
}

#[tokio::test]
async fn a_refused_deletion_is_said_and_leaves_the_table_right() {
    let catalog = catalog().await;
    history(&catalog).await;
    catalog.faults().add(Fault::on([Op::Delete], Effect::Fail(ErrorKind::Denied)).times(100));
    let left = run(&catalog, &ALL).await.unwrap_err();
    assert!(matches!(&left, ExpireError::Left { snapshots: 4, cause } if cause.kind() == ErrorKind::Denied), "{left}");
    assert!(left.to_string().contains("orphans"), "{left}");
    assert_eq!(whole(&catalog).await.metadata().snapshots().len(), 1);
}

#[tokio::test]
async fn a_file_that_is_missing_is_named_and_the_rest_goes() {
    let catalog = catalog().await;
    history(&catalog).await;
    let table = catalog.load(&ident("t")).await.unwrap();
    let first = table.metadata().snapshots().min_by_key(|s| s.sequence_number()).unwrap().clone();
    let manifest = crate::manifests::list(&table, &first).await.unwrap().remove(0).manifest_path;
    catalog.file_io().delete(&manifest).await.unwrap();
    let done = run(&catalog, &ALL).await.unwrap();
    assert_eq!((done.removed.unread, done.kept), (vec![manifest], 1));
    whole(&catalog).await;
}

/// What a kept snapshot holds is not known then: nothing is safe to delete.
#[tokio::test]
async fn where_a_kept_manifest_is_missing_no_file_is_deleted() {
    let catalog = catalog().await;
    history(&catalog).await;
    let table = catalog.load(&ident("t")).await.unwrap();
    let head = table.metadata().current_snapshot().unwrap().clone();
    catalog.file_io().delete(head.manifest_list()).await.unwrap();
    let left = run(&catalog, &ALL).await.unwrap_err();
    assert!(left.to_string().contains("no file was deleted"), "{left}");
    assert_eq!(data(&catalog).await, ["a", "b", "c"]);
}
