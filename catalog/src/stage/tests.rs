//! What is staged, seen through commits.

use std::collections::HashSet;

use iceberg::spec::{DataFileFormat, ManifestContentType, ManifestFile};
use rstest::rstest;

use super::*;
use crate::live;
use crate::memory::MemoryCatalog;
use crate::storage::fault::{Call, Op};
use crate::testing::{self, Batch, append, ident, key, stored};
use crate::{Catalog, FileKey, Retention, RowDelta};

async fn catalog(version: FormatVersion) -> MemoryCatalog {
    let catalog = MemoryCatalog::default();
    testing::create(&catalog, "t", version).await;
    catalog
}

async fn manifests_of(table: &Table) -> Vec<ManifestFile> {
    manifests::list(table, table.metadata().current_snapshot().unwrap()).await.unwrap()
}

/// (path, first row id) of the live data files.
async fn row_ids(table: &Table) -> Vec<(String, Option<i64>)> {
    let live = live::files(table, table.metadata().current_snapshot_id(), &ManifestCache::new(0)).await.unwrap();
    let mut ids: Vec<_> = live.data.iter().map(|f| (f.file.file_path().to_owned(), f.first_row_id)).collect();
    ids.sort();
    ids
}

#[tokio::test]
async fn row_ids_survive_removal_and_merging() {
    let catalog = catalog(FormatVersion::V3).await;
    let mut expected = vec![];
    for n in 0..9u64 {
        let delta = RowDelta {
            data_files: vec![testing::data_file(&format!("d/{n}a"), 10), testing::data_file(&format!("d/{n}b"), 5)],
            ..RowDelta::default()
        };
        let mut batch = Batch::new("w", n, delta);
        batch.plan.retention.merge_manifests_above = 4;
        let done = batch.commit(&catalog, &ident("t")).await.unwrap();
        let added = [(format!("d/{n}a"), Some(n as i64 * 15)), (format!("d/{n}b"), Some(n as i64 * 15 + 10))];
        let told: HashMap<String, Option<i64>> = done.first_row_ids.into_iter().map(|(k, id)| (k, Some(id))).collect();
        assert_eq!(told, added.iter().cloned().collect());
        expected.extend(added);
    }
    let mut removal =
        Batch::new("w", 9, RowDelta { removed: HashSet::from([key("d/3a"), key("d/8b")]), ..RowDelta::default() });
    let table = removal.commit(&catalog, &ident("t")).await.unwrap().table;
    expected.retain(|(path, _)| path != "d/3a" && path != "d/8b");
    assert_eq!(row_ids(&table).await, expected);
    // nothing but new rows took new ids
    assert_eq!(table.metadata().next_row_id(), 9 * 15);
    // what was removed says which rows it had
    let mut gone = vec![];
    for manifest in manifests_of(&table).await {
        let manifest = manifest.load_manifest(table.file_io()).await.unwrap();
        let removed = manifest.entries().iter().filter(|e| !e.is_alive());
        gone.extend(removed.map(|e| (e.data_file().file_path().to_owned(), e.data_file().first_row_id())));
    }
    gone.sort();
    assert_eq!(gone, [("d/3a".to_owned(), Some(45)), ("d/8b".to_owned(), Some(130))]);
}

#[tokio::test]
async fn a_table_upgraded_to_v3_gets_row_ids_once() {
    let catalog = catalog(FormatVersion::V2).await;
    Batch::new("w", 0, append("d/0")).commit(&catalog, &ident("t")).await.unwrap();
    let mut upgrade = Batch::new("w", 1, append("d/1"));
    upgrade.plan.updates = vec![TableUpdate::UpgradeFormatVersion { format_version: FormatVersion::V3 }];
    let table = upgrade.commit(&catalog, &ident("t")).await.unwrap().table;
    let first = row_ids(&table).await;
    assert_eq!(first.iter().filter_map(|(_, id)| *id).collect::<HashSet<_>>(), HashSet::from([0, 10]));
    let mut more = Batch::new("w", 2, append("d/2"));
    more.plan.retention.merge_manifests_above = 1;
    let table = more.commit(&catalog, &ident("t")).await.unwrap().table;
    let second = row_ids(&table).await;
    assert_eq!(second[..2], first[..]);
    assert_eq!(second[2].1, Some(20));
}

#[tokio::test]
async fn a_removed_deletion_vector_leaves_its_neighbours_in_the_same_file() {
    let catalog = catalog(FormatVersion::V3).await;
    let vectors = vec![testing::deletion_vector("x.puffin", 4, "d/1"), testing::deletion_vector("x.puffin", 90, "d/2")];
    let delta = RowDelta {
        data_files: vec![testing::data_file("d/1", 4), testing::data_file("d/2", 4)],
        delete_files: vectors,
        ..RowDelta::default()
    };
    Batch::new("w", 0, delta).commit(&catalog, &ident("t")).await.unwrap();
    let removed = HashSet::from([FileKey { path: "x.puffin".to_owned(), content_offset: Some(4) }]);
    let table = Batch::new("w", 1, RowDelta { removed, ..RowDelta::default() })
        .commit(&catalog, &ident("t"))
        .await
        .unwrap()
        .table;
    let live = live::files(&table, table.metadata().current_snapshot_id(), &ManifestCache::new(0)).await.unwrap();
    assert_eq!(live.position_deletes.iter().map(|f| f.key().content_offset).collect::<Vec<_>>(), [Some(90)]);
}

/// Rolled back and gone on from in one swap: what an older snapshot removed since is there again, under its own sequence number, so
/// that deletes of before apply to it and those of after don't.
#[rstest]
#[case::v2(FormatVersion::V2)]
#[case::v3(FormatVersion::V3)]
#[tokio::test]
async fn a_snapshot_onto_an_older_one_has_its_files_and_leaves_the_rest_aside(#[case] version: FormatVersion) {
    let catalog = catalog(version).await;
    let first = Batch::new("w", 0, append("d/0")).commit(&catalog, &ident("t")).await.unwrap().snapshot_id;
    let before = testing::live(&catalog.load(&ident("t")).await.unwrap()).await;
    let numbers = |table: &Table| {
        let (table, id) = (table.clone(), table.metadata().current_snapshot_id());
        async move { live::files(&table, id, &ManifestCache::new(0)).await.unwrap().data[0].sequence_number }
    };
    let number = numbers(&catalog.load(&ident("t")).await.unwrap()).await;
    Batch::new("w", 1, append("d/1")).commit(&catalog, &ident("t")).await.unwrap();
    let removal = RowDelta { removed: HashSet::from([key("d/0")]), ..RowDelta::default() };
    let aside = Batch::new("w", 2, removal).commit(&catalog, &ident("t")).await.unwrap().snapshot_id;

    let mut back = Batch::new("w", 3, RowDelta::default());
    back.plan.onto = Some(first);
    let done = back.commit(&catalog, &ident("t")).await.unwrap();
    assert_eq!(testing::live(&done.table).await, before);
    assert_eq!(numbers(&done.table).await, number);
    let snapshot = done.table.metadata().current_snapshot().unwrap();
    assert_eq!((snapshot.snapshot_id(), snapshot.parent_snapshot_id()), (back.snapshot_id, Some(first)));
    assert_eq!(snapshot.summary().additional_properties["total-records"], "10");
    assert!(done.table.metadata().snapshot_by_id(aside).is_some());
    // The head is compared all the same.
    let mut late = Batch::new("w", 4, append("d/2"));
    late.plan.onto = Some(77);
    let e = late.commit(&catalog, &ident("t")).await.unwrap_err().to_string();
    assert!(e.contains("no snapshot 77"), "{e}");
}

#[tokio::test]
async fn manifests_with_tombstones_alone_are_dropped_one_snapshot_later() {
    let catalog = catalog(FormatVersion::V2).await;
    Batch::new("w", 0, append("d/0")).commit(&catalog, &ident("t")).await.unwrap();
    let removal = RowDelta { removed: HashSet::from([key("d/0")]), ..RowDelta::default() };
    let table = Batch::new("w", 1, removal).commit(&catalog, &ident("t")).await.unwrap().table;
    let list = manifests_of(&table).await;
    assert_eq!((list.len(), list[0].deleted_files_count), (1, Some(1)), "this snapshot says what it removed");
    let table = Batch::new("w", 2, append("d/1")).commit(&catalog, &ident("t")).await.unwrap().table;
    assert_eq!(manifests_of(&table).await.len(), 1);
}

#[rstest]
#[case::not_live(RowDelta { removed: HashSet::from([key("d/9")]), ..RowDelta::default() }, "d/9")]
#[case::unknown_spec(RowDelta { data_files: vec![SpecFileOf::spec(7)], ..RowDelta::default() }, "spec 7")]
#[tokio::test]
async fn a_delta_that_does_not_fit_is_refused_by_name(#[case] delta: RowDelta, #[case] word: &str) {
    let catalog = catalog(FormatVersion::V2).await;
    Batch::new("w", 0, append("d/0")).commit(&catalog, &ident("t")).await.unwrap();
    let e = Batch::new("w", 1, delta).commit(&catalog, &ident("t")).await.unwrap_err().to_string();
    assert!(e.contains(word), "{e}");
}

struct SpecFileOf;

impl SpecFileOf {
    fn spec(spec_id: i32) -> crate::SpecFile {
        crate::SpecFile { spec_id, ..testing::data_file("d/1", 1) }
    }
}

/// An upsert commit: one data file more, the delete file of an old one replaced; files really there.
async fn upsert(catalog: &MemoryCatalog, n: u64, retention: Retention) -> Table {
    let path = |kind: &str, n: u64| format!("memory://warehouse/{kind}-{n:05}");
    for kind in ["d", "x"] {
        testing::touch(catalog, &path(kind, n)).await;
    }
    let mut delta = append(&path("d", n));
    delta.delete_files = vec![testing::position_deletes(&path("x", n), 1, &path("d", 0))];
    if n > 0 {
        delta.removed.insert(key(&path("x", n - 1)));
    }
    let mut batch = Batch::new("w", n, delta);
    batch.plan.retention = retention;
    catalog.faults().take_calls();
    let committed = batch.commit(catalog, &ident("t")).await.unwrap();
    committed.cleanup.run().await.unwrap();
    committed.table
}

#[tokio::test]
async fn manifests_snapshots_metadata_and_files_stay_bounded() {
    let catalog = catalog(FormatVersion::V2).await;
    let retention =
        Retention { max_snapshots: 6, merge_manifests_above: 5, max_metadata_files: 7, ..Retention::default() };
    let owner = [TableUpdate::SetProperties {
        updates: HashMap::from([("write.metadata.delete-after-commit.enabled".to_owned(), "true".to_owned())]),
    }];
    let base = catalog.load(&ident("t")).await.unwrap();
    catalog.swap(&base, &[], &owner).await.unwrap();
    let mut sizes = vec![];
    for n in 0..60 {
        let table = upsert(&catalog, n, retention).await;
        assert!(table.metadata().snapshots().len() <= 6 && table.metadata().metadata_log().len() <= 7);
        let list = manifests_of(&table).await;
        let count = |content| list.iter().filter(|m| m.content == content).count();
        assert!(count(ManifestContentType::Data) <= 6 && count(ManifestContentType::Deletes) <= 6, "{}", list.len());
        assert_eq!(testing::live(&table).await.len() as u64, n + 2);
        // every snapshot that is left can be read, down to its files
        for snapshot in table.metadata().snapshots() {
            let live = live::files(&table, Some(snapshot.snapshot_id()), &ManifestCache::new(0)).await.unwrap();
            for file in live.data.iter().chain(&live.position_deletes) {
                assert!(
                    table.file_io().exists(file.file.file_path()).await.unwrap(),
                    "{} is gone",
                    file.file.file_path()
                );
            }
        }
        sizes.push(stored(&catalog).await);
    }
    let deletes = sizes[59].iter().filter(|p| p.starts_with("x-")).count();
    assert_eq!(deletes, 6, "one delete file for each snapshot left");
    let metadata = |n: usize| sizes[n].iter().filter(|p| p.contains("/metadata/")).count();
    assert!(metadata(59) <= metadata(30) + 6, "{} files after 30 commits, {} after 60", metadata(30), metadata(59));
}

/// Whoever rolls the table back to the oldest snapshot must not meet one that can't tell where the writer stood.
#[tokio::test]
async fn the_oldest_snapshot_that_stays_is_one_of_the_writers_own() {
    let catalog = catalog(FormatVersion::V2).await;
    let retention =
        Retention { max_snapshots: 3, merge_manifests_above: 100, max_metadata_files: 100, ..Retention::default() };
    let mut own = vec![];
    for (n, others) in [4, 4, 0].into_iter().enumerate() {
        let table = upsert(&catalog, n as u64, retention).await;
        own.push(table.metadata().current_snapshot_id().unwrap());
        for other in 0..others {
            let mut batch = Batch::new("other", 0, append(&format!("memory://warehouse/other-{n}-{other}")));
            (batch.plan.summary, batch.plan.properties) = Default::default();
            batch.commit(&catalog, &ident("t")).await.unwrap();
        }
    }
    let kept = async || -> HashSet<i64> {
        catalog.load(&ident("t")).await.unwrap().metadata().snapshots().map(|s| s.snapshot_id()).collect()
    };
    assert_eq!(kept().await.len(), 6, "the last, four of another's, and the own one before them");
    assert!(!kept().await.contains(&own[0]) && kept().await.contains(&own[1]));
    for n in 3..5 {
        upsert(&catalog, n, retention).await;
    }
    assert_eq!(kept().await.len(), 3, "the bound holds where all are the writer's");
}

#[tokio::test]
async fn what_a_tag_or_branch_holds_is_kept_with_its_files() {
    let catalog = catalog(FormatVersion::V2).await;
    let retention =
        Retention { max_snapshots: 3, merge_manifests_above: 3, max_metadata_files: 100, ..Retention::default() };
    let mut tagged = 0;
    for n in 0..12 {
        let table = upsert(&catalog, n, retention).await;
        if n == 2 {
            tagged = table.metadata().current_snapshot_id().unwrap();
            let retention = iceberg::spec::SnapshotRetention::Tag { max_ref_age_ms: None };
            let reference = SnapshotReference::new(tagged, retention);
            catalog
                .swap(&table, &[], &[TableUpdate::SetSnapshotRef { ref_name: "keep".to_owned(), reference }])
                .await
                .unwrap();
        }
    }
    let table = catalog.load(&ident("t")).await.unwrap();
    assert_eq!(table.metadata().snapshots().len(), 4);
    assert_eq!(table.metadata().snapshot_for_ref("keep").map(|s| s.snapshot_id()), Some(tagged));
    let live = live::files(&table, Some(tagged), &ManifestCache::new(0)).await.unwrap();
    for file in live.data.iter().chain(&live.position_deletes) {
        assert!(table.file_io().exists(file.file.file_path()).await.unwrap(), "{} is gone", file.file.file_path());
    }
}

/// Where several snapshots go in one commit, what is tagged may be the parent of the oldest that stays.
#[tokio::test]
async fn what_is_tagged_right_behind_the_oldest_that_stays_is_kept_with_its_files() {
    let catalog = catalog(FormatVersion::V2).await;
    let retention =
        Retention { max_snapshots: 5, merge_manifests_above: 3, max_metadata_files: 100, ..Retention::default() };
    let mut tagged = 0;
    for n in 0..5 {
        let table = upsert(&catalog, n, retention).await;
        if n == 1 {
            tagged = table.metadata().current_snapshot_id().unwrap();
            let retention = iceberg::spec::SnapshotRetention::Tag { max_ref_age_ms: None };
            let reference = SnapshotReference::new(tagged, retention);
            let tag = TableUpdate::SetSnapshotRef { ref_name: "keep".to_owned(), reference };
            catalog.swap(&table, &[], &[tag]).await.unwrap();
        }
    }
    // One that lets nothing go, as a compaction's.
    upsert(&catalog, 5, Retention { max_snapshots: usize::MAX, ..retention }).await;
    let table = upsert(&catalog, 6, retention).await;
    let there: HashSet<i64> = table.metadata().snapshots().map(|s| s.snapshot_id()).collect();
    assert!(there.len() == 6 && there.contains(&tagged), "the first one went: {there:?}");
    let snapshot = table.metadata().snapshot_by_id(tagged).unwrap();
    for manifest in crate::manifests::list(&table, snapshot).await.unwrap() {
        assert!(table.file_io().exists(&manifest.manifest_path).await.unwrap(), "{} is gone", manifest.manifest_path);
    }
    let live = live::files(&table, Some(tagged), &ManifestCache::new(0)).await.unwrap();
    assert!(!live.position_deletes.is_empty());
    for file in live.data.iter().chain(&live.position_deletes) {
        assert!(table.file_io().exists(file.file.file_path()).await.unwrap(), "{} is gone", file.file.file_path());
    }
}

#[tokio::test]
async fn a_puffin_file_goes_with_its_last_vector() {
    let catalog = catalog(FormatVersion::V3).await;
    let puffin = "memory://warehouse/x.puffin";
    testing::touch(&catalog, puffin).await;
    let retention =
        Retention { max_snapshots: 2, merge_manifests_above: 9, max_metadata_files: 100, ..Retention::default() };
    let vector = |offset: i64, of: &str| testing::deletion_vector(puffin, offset, of);
    let gone = |offset: i64| HashSet::from([FileKey { path: puffin.to_owned(), content_offset: Some(offset) }]);
    let first = RowDelta {
        data_files: vec![testing::data_file("d/1", 4), testing::data_file("d/2", 4)],
        delete_files: vec![vector(4, "d/1"), vector(90, "d/2")],
        ..RowDelta::default()
    };
    let deltas = [first, RowDelta { removed: gone(4), ..RowDelta::default() }, append("d/3"), append("d/4")];
    let after = [RowDelta { removed: gone(90), ..RowDelta::default() }, append("d/5"), append("d/6")];
    for (n, delta) in deltas.into_iter().chain(after).enumerate() {
        let mut batch = Batch::new("w", n as u64, delta);
        batch.plan.retention = retention;
        batch.commit(&catalog, &ident("t")).await.unwrap().cleanup.run().await.unwrap();
        assert_eq!(catalog.file_io().exists(puffin).await.unwrap(), n < 5, "after commit {n}");
    }
    assert_eq!(DataFileFormat::Puffin.to_string(), "puffin");
}

#[tokio::test]
async fn a_branch_keeps_its_own_retention() {
    let catalog = catalog(FormatVersion::V2).await;
    let table = upsert(&catalog, 0, Retention::default()).await;
    let reference = SnapshotReference::new(
        table.metadata().current_snapshot_id().unwrap(),
        SnapshotRetention::branch(Some(77), None, None),
    );
    catalog
        .swap(&table, &[], &[TableUpdate::SetSnapshotRef { ref_name: MAIN_BRANCH.to_owned(), reference }])
        .await
        .unwrap();
    let table = upsert(&catalog, 1, Retention::default()).await;
    assert!(serde_json::to_string(table.metadata()).unwrap().contains(r#""min-snapshots-to-keep":77"#));
}

/// Calls and bytes, over as many commits as one round of merging takes.
async fn cost(catalog: &MemoryCatalog, from: u64, commits: u64, retention: Retention) -> (usize, u64) {
    let mut calls: Vec<Call> = vec![];
    for n in from..from + commits {
        upsert(catalog, n, retention).await;
        calls.extend(catalog.faults().take_calls().into_iter().filter(|c| c.op != Op::Load && c.op != Op::Swap));
    }
    (calls.len(), calls.iter().map(|c| c.bytes).sum())
}

/// The number of storage calls and the bytes they carry, cleaning up included. 600 commits are past every bound and several
/// rounds of merging.
#[tokio::test]
async fn the_cost_of_a_commit_does_not_grow_with_their_number() {
    let catalog = catalog(FormatVersion::V2).await;
    let retention =
        Retention { max_snapshots: 20, merge_manifests_above: 16, max_metadata_files: 10, ..Retention::default() };
    cost(&catalog, 0, 20, retention).await;
    let early = cost(&catalog, 20, 32, retention).await;
    let last = std::env::var("FIRN_TEST_COMMITS").map_or(600, |n| n.parse().unwrap());
    cost(&catalog, 52, last - 52, retention).await;
    let late = cost(&catalog, last, 32, retention).await;
    println!("calls and bytes of 32 commits: {early:?} after 20, {late:?} after {last}");
    assert!(late.0 as f64 <= 1.5 * early.0 as f64, "calls: {early:?} {late:?}");
    assert!(late.1 as f64 <= 1.5 * early.1 as f64, "bytes: {early:?} {late:?}");
}
