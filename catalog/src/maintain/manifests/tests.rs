//! Many manifests become few, and nothing that they say changes: entries, numbers, ids, beside a writer and a removal of orphans.

use iceberg::spec::{
    DataContentType, DataFileBuilder, DataFileFormat, FormatVersion, Literal, ManifestContentType, Struct, Transform,
    UnboundPartitionSpec,
};
use iceberg::{NamespaceIdent, TableUpdate};
use rstest::rstest;

use super::*;
use crate::live::{self, LiveFile};
use crate::memory::MemoryCatalog;
use crate::storage::fault::{Effect, Fault, Faults, Gate, Op};
use crate::testing::{self, Batch, HASTE, ident, key, stored};
use crate::{RowDelta, SpecFile};

/// Of what is not to change: path, spec, sequence number, snapshot, first row id.
type Entry = (String, i32, i64, i64, Option<i64>);

async fn entries(table: &Table) -> Vec<Entry> {
    let files = live::files(table, table.metadata().current_snapshot_id(), &ManifestCache::new(0)).await.unwrap();
    let entry =
        |f: &LiveFile| (f.file.file_path().to_owned(), f.spec_id, f.sequence_number, f.snapshot_id, f.first_row_id);
    let mut entries: Vec<_> = files.data.iter().chain(&files.position_deletes).map(entry).collect();
    entries.sort();
    entries
}

/// Ten commits of a data file and a delete file, and one that removes some.
async fn history(version: FormatVersion) -> MemoryCatalog {
    let catalog = MemoryCatalog::default();
    testing::create(&catalog, "t", version).await;
    for n in 0..10 {
        commit_one(&catalog, n).await;
    }
    let removed = [key("d/3"), key("x/3")].into();
    Batch::new("w", 10, RowDelta { removed, ..RowDelta::default() }).commit(&catalog, &ident("t")).await.unwrap();
    catalog
}

async fn commit_one(catalog: &MemoryCatalog, n: u64) {
    let data = format!("d/{n}");
    let deletes = testing::position_deletes(&format!("x/{n}"), 1, &data);
    let delta = RowDelta {
        data_files: vec![testing::data_file(&data, 10)],
        delete_files: vec![deletes],
        ..RowDelta::default()
    };
    Batch::new("w", n, delta).commit(catalog, &ident("t")).await.unwrap();
}

async fn load(catalog: &MemoryCatalog) -> Table {
    catalog.load(&ident("t")).await.unwrap()
}

#[rstest]
#[tokio::test]
async fn many_become_few_and_no_entry_changes(#[values(FormatVersion::V2, FormatVersion::V3)] version: FormatVersion) {
    let catalog = history(version).await;
    let before = load(&catalog).await;
    let seen = preview(&before).await.unwrap();
    let done = rewrite(&catalog, &ident("t"), HASTE).await.unwrap();
    assert_eq!((done.before, done.after, done.created, done.snapshots.len()), (20, 2, 2, 2));
    assert_eq!((seen.before, seen.after, seen.replaced, seen.created), (20, 2, 20, 2));
    let after = load(&catalog).await;
    assert_eq!(entries(&after).await, entries(&before).await);
    assert_eq!(after.metadata().next_row_id(), before.metadata().next_row_id());
    let summary = after.metadata().current_snapshot().unwrap().summary();
    assert_eq!(summary.operation, Operation::Replace);
    let was = before.metadata().current_snapshot().unwrap().summary();
    for (name, value) in was.additional_properties.iter().filter(|(name, _)| name.starts_with("total-")) {
        assert_eq!(summary.additional_properties.get(name), Some(value), "{name}");
    }
    // The rows' own positions stay, and the next commit goes on from here.
    assert_eq!(testing::position(&after, "w"), 11);
    commit_one(&catalog, 11).await;
    assert_eq!(entries(&load(&catalog).await).await.len(), entries(&before).await.len() + 2);
    let again = rewrite(&catalog, &ident("t"), HASTE).await.unwrap();
    assert_eq!((again.before, again.after), (4, 2), "what is new joins the rest");
    let idle = rewrite(&catalog, &ident("t"), HASTE).await.unwrap();
    assert_eq!((idle.before, idle.after, idle.snapshots.len()), (2, 2, 0));
}

/// Writers that go on between plan and swap: one that only adds, and one that rewrites a manifest that was to be replaced.
#[rstest]
#[case::adds(false)]
#[case::removes(true)]
#[tokio::test]
async fn it_does_not_lose_to_a_writer(#[case] removes: bool) {
    let catalog = history(FormatVersion::V2).await;
    let other = catalog.seen_with(Faults::default());
    let gate = Gate::default();
    catalog.faults().add(Fault::on([Op::Swap], Effect::Hold(gate.clone())));
    let rewriting = tokio::spawn({
        let catalog = catalog.clone();
        async move { rewrite(&catalog, &ident("t"), HASTE).await }
    });
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    commit_one(&other, 11).await;
    if removes {
        let removed = [key("d/5"), key("x/5")].into();
        Batch::new("w", 12, RowDelta { removed, ..RowDelta::default() }).commit(&other, &ident("t")).await.unwrap();
    }
    let expected = entries(&load(&other).await).await;
    gate.open();
    let done = rewriting.await.unwrap().unwrap();
    assert_eq!(done.after, 2);
    let after = load(&catalog).await;
    assert_eq!(entries(&after).await, expected);
    // What lost attempts wrote is gone: every manifest in storage is in some snapshot's list.
    let mut named = HashSet::new();
    for snapshot in after.metadata().snapshots() {
        named.extend(list(&after, snapshot).await.unwrap().into_iter().map(|m| m.manifest_path));
    }
    let stray = stored(&catalog).await.into_iter().map(|p| format!("memory://{p}"));
    let stray: Vec<_> = stray.filter(|p| p.contains("-m") && p.ends_with(".avro")).collect();
    assert!(!stray.is_empty());
    let stray: Vec<_> =
        stray.iter().filter(|p| !named.iter().any(|n| n.ends_with(p.trim_start_matches("memory://")))).collect();
    assert!(stray.is_empty(), "{stray:?}");
}

#[rstest]
#[case::refused(Effect::FailAfter(ErrorKind::Conflict))]
#[case::answer_lost(Effect::LoseAnswer)]
#[tokio::test]
async fn a_swap_that_landed_unseen_is_found(#[case] effect: Effect) {
    let catalog = history(FormatVersion::V3).await;
    let expected = entries(&load(&catalog).await).await;
    catalog.faults().add(Fault::on([Op::Swap], effect));
    let done = rewrite(&catalog, &ident("t"), HASTE).await.unwrap();
    assert_eq!((done.after, done.snapshots.len()), (2, 2));
    assert_eq!(entries(&load(&catalog).await).await, expected);
}

#[tokio::test]
async fn files_of_one_partition_come_together() {
    let catalog = MemoryCatalog::default();
    let namespace = NamespaceIdent::new("db".to_owned());
    catalog.ensure_namespace(&namespace, Default::default()).await.unwrap();
    let mut creation = testing::creation("t", FormatVersion::V2);
    creation.partition_spec =
        Some(UnboundPartitionSpec::builder().add_partition_field(2, "v", Transform::Identity).unwrap().build());
    catalog.create(&namespace, creation).await.unwrap();
    for n in 0..20u64 {
        let mut file = DataFileBuilder::default();
        file.content(DataContentType::Data)
            .file_path(format!("d/{n}"))
            .file_format(DataFileFormat::Parquet)
            .partition(Struct::from_iter([Some(Literal::string(format!("p{}", n % 2)))]))
            .partition_spec_id(0)
            .record_count(1)
            .file_size_in_bytes(1);
        let file = SpecFile { spec_id: 0, file: file.build().unwrap() };
        let delta = RowDelta { data_files: vec![file], ..RowDelta::default() };
        Batch::new("w", n, delta).commit(&catalog, &ident("t")).await.unwrap();
    }
    let bytes: u64 = current(&load(&catalog).await).await.unwrap().iter().map(length).sum();
    let updates = [(TARGET.0.to_owned(), (bytes.div_ceil(2)).to_string())].into();
    catalog.swap(&load(&catalog).await, &[], &[TableUpdate::SetProperties { updates }]).await.unwrap();
    let set = worth_it(&current(&load(&catalog).await).await.unwrap(), bytes.div_ceil(2));
    assert_eq!((set.len(), set[0].len()), (1, 20));
    rewrite(&catalog, &ident("t"), Patience { attempts: 1, ..HASTE }).await.unwrap();
    let table = load(&catalog).await;
    // The first rewrite made two, one a partition; they are so small that they were joined again: look at the first's snapshot.
    let first = table.metadata().snapshots().filter(|s| s.summary().operation == Operation::Replace);
    let first = first.min_by_key(|s| s.sequence_number()).unwrap();
    let lists = list(&table, first).await.unwrap();
    assert_eq!(lists.len(), 2);
    for manifest in lists {
        assert_eq!(manifest.content, ManifestContentType::Data);
        let summary = &manifest.partitions.as_ref().unwrap()[0];
        assert_eq!(summary.lower_bound, summary.upper_bound, "one partition only");
    }
}

#[tokio::test]
async fn manifests_that_would_become_no_fewer_are_left_alone() {
    let catalog = history(FormatVersion::V2).await;
    let set: Vec<_> = current(&load(&catalog).await).await.unwrap().into_iter().take(2).collect();
    let bytes: u64 = set.iter().map(length).sum();
    assert!(chunks(&set, bytes * 10 / 14).is_empty(), "two of 0.7 of the target");
    assert_eq!(chunks(&set, bytes).len(), 1);
}

#[tokio::test]
async fn a_target_that_is_no_number_is_refused() {
    let catalog = history(FormatVersion::V2).await;
    let updates = [(TARGET.0.to_owned(), "8MB".to_owned())].into();
    catalog.swap(&load(&catalog).await, &[], &[TableUpdate::SetProperties { updates }]).await.unwrap();
    let refused = rewrite(&catalog, &ident("t"), HASTE).await.unwrap_err();
    assert!(refused.to_string().contains(TARGET.0), "{refused}");
}
