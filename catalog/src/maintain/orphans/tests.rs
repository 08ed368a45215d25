//! Files that nobody knows, and those that somebody does: names, ages, places, refusals, and commits that come too late.

use std::time::Duration;

use iceberg::TableUpdate;
use iceberg::spec::{MAIN_BRANCH, SnapshotRetention};
use rstest::rstest;

use super::*;
use crate::RowDelta;
use crate::maintain::expire::{expire, preview};
use crate::maintain::ground::{catalog, change, data, history, path, reference, update, whole};
use crate::maintain::retention::Rules;
use crate::memory::MemoryCatalog;
use crate::storage::fault::{Effect, Fault, Op};
use crate::surroundings::now_ms;
use crate::testing::{self, Batch, HASTE, append, ident, stored};

const DAY: u64 = 86_400_000;

/// In a week: all that is there now is old.
fn next_week() -> i64 {
    now_ms() + 7 * DAY as i64
}

async fn found(catalog: &MemoryCatalog, now_ms: i64) -> Result<Found> {
    find(catalog.stores(), &catalog.load(&ident("t")).await.unwrap(), 3 * DAY, now_ms).await
}

async fn removed(catalog: &MemoryCatalog, now_ms: i64) -> Result<Found> {
    remove(catalog, catalog.stores(), &ident("t"), 3 * DAY, now_ms, HASTE).await
}

fn paths(found: &Found) -> Vec<&str> {
    found.orphans.iter().map(|o| o.path.strip_prefix("memory://warehouse/db/t/").unwrap()).collect()
}

#[tokio::test]
async fn what_any_snapshot_or_logged_version_names_is_no_orphan() {
    let catalog = catalog().await;
    let ids = history(&catalog).await;
    // A tag, a branch, and what a rollback set aside.
    update(&catalog, reference("first", ids[0], SnapshotRetention::Tag { max_ref_age_ms: None })).await;
    update(&catalog, reference(MAIN_BRANCH, ids[3], SnapshotRetention::branch(None, None, None))).await;
    let statistics = "memory://warehouse/db/t/metadata/stats";
    testing::touch(&catalog, statistics).await;
    let partition_statistics = iceberg::spec::PartitionStatisticsFile {
        snapshot_id: ids[2],
        statistics_path: statistics.to_owned(),
        file_size_in_bytes: 1,
    };
    update(&catalog, TableUpdate::SetPartitionStatistics { partition_statistics }).await;
    let remap = "memory://warehouse/db/t/metadata/remap";
    testing::touch(&catalog, remap).await;
    let mut batch = Batch::new("w", 5, RowDelta::default());
    batch.plan.summary.insert(crate::maintain::REMAP.to_owned(), remap.to_owned());
    batch.commit(&catalog, &ident("t")).await.unwrap();
    let found = found(&catalog, next_week()).await.unwrap();
    assert_eq!(paths(&found), [""; 0]);
    assert_eq!(found.listed as usize, stored(&catalog).await.len());
    whole(&catalog).await;
}

#[tokio::test]
async fn old_files_that_nobody_knows_go_and_young_ones_stay() {
    let catalog = catalog().await;
    history(&catalog).await;
    for name in
        ["data/lost", "metadata/lost.avro", "data/_temporary/other-tools", ".hidden", "metadata/version-hint.text"]
    {
        testing::touch(&catalog, &format!("memory://warehouse/db/t/{name}")).await;
    }
    testing::touch(&catalog, "memory://warehouse/db/t2/data/of-another").await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let between = now_ms();
    tokio::time::sleep(Duration::from_millis(20)).await;
    testing::touch(&catalog, &path("staged")).await;
    let at = between + 3 * DAY as i64;
    let seen = found(&catalog, at).await.unwrap();
    assert_eq!((paths(&seen), seen.young), (vec!["data/lost", "metadata/lost.avro"], 1));
    let before = stored(&catalog).await;
    let done = removed(&catalog, at).await.unwrap();
    assert_eq!(done.orphans, seen.orphans);
    let after: Vec<String> = stored(&catalog).await.into_iter().filter(|p| before.contains(p)).collect();
    let expected: Vec<String> = before.into_iter().filter(|p| !p.contains("lost")).collect();
    assert_eq!(after, expected);
    whole(&catalog).await;
    assert_eq!(removed(&catalog, at).await.unwrap().orphans, []);
}

/// The promise to a writer that slept: its staged files are gone, and it is told instead of putting them into the table.
#[tokio::test]
async fn a_commit_whose_files_may_be_gone_is_refused() {
    let catalog = catalog().await;
    history(&catalog).await;
    let staged = now_ms();
    testing::touch(&catalog, &path("staged")).await;
    let mut batch = Batch::new("w", 5, append(&path("staged")));
    batch.plan.files_since_ms = Some(staged);
    // It is about to swap when everything stops for a week.
    let gate = crate::storage::fault::Gate::default();
    let slow = catalog.seen_with(crate::storage::fault::Faults::default());
    slow.faults().add(Fault::on([Op::Swap], Effect::Hold(gate.clone())));
    let sleeper = tokio::spawn(async move { batch.commit(&slow, &ident("t")).await.map(|_| ()) });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(
        removed(&catalog, next_week()).await.unwrap().orphans.iter().filter(|o| o.path == path("staged")).count(),
        1
    );
    gate.open();
    let refused = sleeper.await.unwrap().unwrap_err();
    assert!(matches!(&refused, CommitError::Stale { reason, .. } if reason.contains("orphans")), "{refused}");
    whole(&catalog).await;
    // One with younger files goes on.
    let mut next = Batch::new("w", 5, append(&path("next")));
    next.plan.files_since_ms = Some(next_week());
    testing::touch(&catalog, &path("next")).await;
    next.commit(&catalog, &ident("t")).await.unwrap();
}

/// Between the listing and the removal.
#[tokio::test]
async fn what_was_committed_meanwhile_is_spared() {
    let catalog = catalog().await;
    history(&catalog).await;
    testing::touch(&catalog, &path("late")).await;
    testing::touch(&catalog, &path("lost")).await;
    let gate = crate::storage::fault::Gate::default();
    let other = catalog.seen_with(crate::storage::fault::Faults::default());
    catalog.faults().add(Fault::on([Op::Swap], Effect::Hold(gate.clone())));
    let removal = tokio::spawn({
        let catalog = catalog.clone();
        async move { removed(&catalog, next_week()).await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    // Another writer's, which knows no fence.
    Batch::new("w", 5, append(&path("late"))).commit(&other, &ident("t")).await.unwrap();
    gate.open();
    assert_eq!(paths(&removal.await.unwrap().unwrap()), ["data/lost"]);
    whole(&catalog).await;
}

/// Killed between the commit and the deletion of its files, an expiry leaves orphans.
#[tokio::test]
async fn what_an_expiry_left_behind_goes() {
    let catalog = catalog().await;
    history(&catalog).await;
    let all = Rules { max_age_ms: Some(0), ..Rules::default() };
    let would = preview(&catalog.load(&ident("t")).await.unwrap(), &all).await.unwrap().removed;
    catalog.faults().add(Fault::on([Op::Delete], Effect::Fail(ErrorKind::Unavailable)).times(1000));
    expire(&catalog, &ident("t"), &all, HASTE).await.unwrap_err();
    catalog.faults().clear();
    assert_eq!(data(&catalog).await, ["a", "b", "c"]);
    let done = removed(&catalog, next_week()).await.unwrap();
    assert_eq!(done.orphans.len() as u64, would.files());
    assert_eq!(data(&catalog).await, ["c"]);
    whole(&catalog).await;
}

#[rstest]
#[case::a_manifest("-m0.avro")]
#[case::a_manifest_list("/snap-")]
#[tokio::test]
async fn where_not_all_can_be_read_nothing_is_removed(#[case] missing: &str) {
    let catalog = catalog().await;
    history(&catalog).await;
    testing::touch(&catalog, &path("lost")).await;
    let file = stored(&catalog).await.into_iter().find(|p| p.contains(missing)).unwrap();
    catalog.file_io().delete(format!("memory://warehouse/{file}")).await.unwrap();
    let refused = removed(&catalog, next_week()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    assert!(refused.to_string().contains("no file was removed") && refused.to_string().contains(missing), "{refused}");
    assert!(data(&catalog).await.contains(&"lost".to_owned()));
}

#[tokio::test]
async fn a_refused_deletion_is_said() {
    let catalog = catalog().await;
    history(&catalog).await;
    testing::touch(&catalog, &path("lost")).await;
    catalog.faults().add(Fault::on([Op::Delete], Effect::Fail(ErrorKind::Denied)).times(100));
    let refused = removed(&catalog, next_week()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Denied);
    whole(&catalog).await;
}

#[tokio::test]
async fn files_that_may_be_anothers_stay() {
    let catalog = catalog().await;
    change(&catalog, 0, &["a"], &[]).await;
    testing::touch(&catalog, &path("lost")).await;
    testing::touch(&catalog, "memory://warehouse/db/t/inner/metadata/00000-x.metadata.json").await;
    let refused = removed(&catalog, next_week()).await.unwrap_err();
    assert!(refused.kind() == ErrorKind::Refused && refused.to_string().contains("another table"), "{refused}");
    catalog.file_io().delete("memory://warehouse/db/t/inner/metadata/00000-x.metadata.json").await.unwrap();
    let updates = HashMap::from([("gc.enabled".to_owned(), "false".to_owned())]);
    update(&catalog, TableUpdate::SetProperties { updates }).await;
    let refused = removed(&catalog, next_week()).await.unwrap_err();
    assert!(refused.kind() == ErrorKind::Refused && refused.to_string().contains("gc.enabled"), "{refused}");
    assert_eq!(data(&catalog).await, ["a", "lost"]);
}

/// Escaped partition values, blanks, letters beyond ASCII: a name that came back otherwise from a listing would be an orphan.
#[rstest]
#[case::memory("memory://warehouse")]
#[case::local("file:///")]
#[tokio::test]
async fn names_come_back_from_a_listing_as_they_were_written(#[case] warehouse: &str) {
    let folder = tempfile::tempdir().unwrap();
    let warehouse = match warehouse {
        "file:///" => format!("file://{}", folder.path().display()),
        memory => memory.to_owned(),
    };
    let catalog = MemoryCatalog::on(Stores::default(), &warehouse, crate::storage::fault::Faults::default());
    let table = testing::create(&catalog, "t", iceberg::spec::FormatVersion::V2).await;
    let names = ["p=a%2Fb/x y.parquet", "p=%C3%BC/ü+~.parquet", "p=1%3A2/a=b&c,d.parquet"];
    let paths: Vec<String> = names.iter().map(|name| format!("{}/data/{name}", table.metadata().location())).collect();
    for path in &paths {
        testing::touch(&catalog, path).await;
    }
    let delta =
        RowDelta { data_files: paths.iter().map(|p| testing::data_file(p, 1)).collect(), ..RowDelta::default() };
    Batch::new("w", 0, delta).commit(&catalog, &ident("t")).await.unwrap();
    let lost = format!("{}/data/p=a%2Fb/lost one", table.metadata().location());
    testing::touch(&catalog, &lost).await;
    let done = remove(&catalog, catalog.stores(), &ident("t"), 3 * DAY, next_week(), HASTE).await.unwrap();
    assert_eq!(done.orphans.iter().map(|o| o.path.as_str()).collect::<Vec<_>>(), [lost.as_str()]);
    for path in &paths {
        assert!(catalog.file_io().exists(path).await.unwrap(), "{path}");
    }
    assert!(!catalog.file_io().exists(&lost).await.unwrap());
}
