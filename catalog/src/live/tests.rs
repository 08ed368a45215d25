//! Which files are live, and what changed between two snapshots.

use iceberg::spec::FormatVersion;

use super::*;
use crate::memory::MemoryCatalog;
use crate::storage::fault::Op;
use crate::testing::{self, Batch, append, ident, key};
use crate::{Catalog, RowDelta};

fn paths(files: &[LiveFile]) -> Vec<&str> {
    let mut paths: Vec<_> = files.iter().map(|f| f.file.file_path()).collect();
    paths.sort();
    paths
}

#[tokio::test]
async fn a_diff_tells_what_changed_and_reads_what_is_new() {
    let catalog = MemoryCatalog::default();
    testing::create(&catalog, "t", FormatVersion::V2).await;
    let mut heads = vec![];
    for n in 0..8 {
        let mut delta = append(&format!("d/{n}"));
        delta.delete_files = vec![testing::position_deletes(&format!("x/{n}"), 1, "d/0")];
        if n > 0 {
            delta.removed.insert(key(&format!("x/{}", n - 1)));
        }
        let mut batch = Batch::new("w", n, delta);
        // merged on the way: the files stay the same
        batch.plan.retention.merge_manifests_above = 3;
        heads.push(batch.commit(&catalog, &ident("t")).await.unwrap().snapshot_id);
    }
    let table = catalog.load(&ident("t")).await.unwrap();
    let cache = ManifestCache::new(1 << 20);

    let all = files(&table, Some(heads[7]), &cache).await.unwrap();
    assert_eq!(paths(&all.data), (0..8).map(|n| format!("d/{n}")).collect::<Vec<_>>());
    assert_eq!(paths(&all.position_deletes), ["x/7"]);
    let third = all.data.iter().find(|f| f.file.file_path() == "d/3").unwrap();
    assert_eq!((third.sequence_number, third.snapshot_id, third.spec_id), (4, heads[3], 0));

    let change = diff(&table, Some(heads[2]), Some(heads[5]), &cache).await.unwrap();
    assert_eq!(paths(&change.added.data), ["d/3", "d/4", "d/5"]);
    assert_eq!(paths(&change.removed.data), Vec::<&str>::new());
    assert_eq!(
        (paths(&change.added.position_deletes), paths(&change.removed.position_deletes)),
        (vec!["x/5"], vec!["x/2"])
    );
    assert!(diff(&table, Some(heads[5]), Some(heads[5]), &cache).await.unwrap().is_empty());
    assert_eq!(diff(&table, None, Some(heads[0]), &cache).await.unwrap().added.data.len(), 1);

    catalog.faults().take_calls();
    files(&table, Some(heads[7]), &cache).await.unwrap();
    let reads = catalog.faults().take_calls().iter().filter(|c| c.op == Op::Get).count();
    assert_eq!(reads, 1, "only the manifest list is read again");
    assert_eq!(files(&table, Some(1), &cache).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_delete_file_is_found_by_its_data_file() {
    let catalog = MemoryCatalog::default();
    testing::create(&catalog, "t", FormatVersion::V3).await;
    let mut delta = RowDelta {
        data_files: vec![testing::data_file("d/1", 4), testing::data_file("d/2", 4)],
        ..RowDelta::default()
    };
    delta.delete_files =
        vec![testing::deletion_vector("x.puffin", 4, "d/1"), testing::deletion_vector("x.puffin", 90, "d/2")];
    let table = Batch::new("w", 0, delta).commit(&catalog, &ident("t")).await.unwrap().table;
    let live = files(&table, table.metadata().current_snapshot_id(), &ManifestCache::new(0)).await.unwrap();
    let deletes = live.deletes_by_file();
    let of = |path: &str| deletes.of_file[path].iter().map(|f| f.key().content_offset).collect::<Vec<_>>();
    assert_eq!((of("d/1"), of("d/2"), deletes.of_several.len()), (vec![Some(4)], vec![Some(90)], 0));
    assert!(live.position_deletes.iter().all(LiveFile::is_deletion_vector));
}

#[tokio::test]
async fn equal_bounds_name_the_data_file_and_others_do_not() {
    let delete = |lower: &str, upper: &str| {
        let bounds = |path: &str| HashMap::from([(DELETE_FILE_PATH_ID, Datum::string(path))]);
        let file = testing::delete_with_bounds("x", bounds(lower), bounds(upper));
        LiveFile { file, spec_id: 0, sequence_number: 1, snapshot_id: 1, first_row_id: None }
    };
    assert_eq!(delete("d/1", "d/1").deletes_from(), Some("d/1".to_owned()));
    assert_eq!(delete("d/1", "d/2").deletes_from(), None);
}
