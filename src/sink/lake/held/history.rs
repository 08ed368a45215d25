//! The last row of a key that is no longer in the table: it stays in its data file as long as a snapshot keeps that file.
//!
//! Asked rarely: where a changed key's delete was committed before the row of the new key, and by another process or before this one
//! began. It scans key columns of the files of earlier snapshots, and answers by source position, which every version of a row
//! carries: the newest version older than the row of the new key. A changed key's delete leaves its mark in a data file (a deleted row
//! with the delete's own position), which proves that nothing of the former key is still on its way.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_schema::{DataType, Schema as ArrowSchema};
use firn_catalog::{ErrorKind, ManifestCache};
use futures::{StreamExt, TryStreamExt, stream};
use iceberg::spec::NestedFieldRef;
use iceberg::table::Table;
use roaring::RoaringBitmap;

use super::Awaited;
use super::resolve::{Delete, End, Recipe, Site};
use crate::change::origin;
use crate::sink::lake::LakeError;
use crate::sink::lake::layout::Layout;
use crate::sink::lake::scan::{KeyScan, Ownership, ScannedRow};
use crate::sink::lake::stored::read_rows;

/// Snapshots looked back through. A changed key's delete and its new row are neighbours in the log; further back lies what nobody
/// waits for.
const SNAPSHOTS: usize = 100;
/// Files scanned at once.
const AT_ONCE: usize = 4;

struct Everybody;

impl Ownership for Everybody {
    fn owns(&self, _: Option<(&str, i32)>) -> bool {
        true
    }
}

/// Asks the table's history where nothing else knew. Answers the former keys that are still to be waited for; their rows stay
/// without values if nobody does. `others`: whether this process has partitions beside the batch's one.
///
/// # Errors
/// When the table's files can't be read.
pub(crate) async fn look_back(
    base: &Table,
    layout: &Layout,
    manifests: &ManifestCache,
    recipes: &mut [Recipe],
    others: bool,
) -> Result<Vec<Awaited>, LakeError> {
    let (mut awaited, mut keys) = (vec![], HashSet::new());
    let lsns = lsns_of_last(base, layout, recipes).await?;
    for recipe in recipes.iter_mut() {
        let End::Before { former, last, delete } = &recipe.end else { continue };
        match last.as_ref().map(|site| (site, lsns.get(site), former.lsn)) {
            None => _ = keys.insert(former.key),
            // A row that came to be after the key was changed is another: the one that is meant lies before it.
            Some((_, Some(at), Some(until))) if *at > until => _ = keys.insert(former.key),
            Some((site, ..)) if *delete == Delete::Proven => recipe.end = End::At(site.clone()),
            Some(_) => {
                awaited.push(Awaited { former: *former, own: true });
                recipe.end = End::Nowhere;
            }
        }
    }
    let versions = versions(base, layout, manifests, &keys).await?;
    for recipe in recipes {
        let End::Before { former, delete, .. } = recipe.end else { continue };
        let (known, until) = match (versions.get(&former.key), former.lsn) {
            (Some(known), Some(until)) => (known.as_slice(), until),
            // Never there; or which of several versions is meant can't be told.
            _ => (&[][..], 0),
        };
        let marked = known.iter().any(|(lsn, _)| *lsn == until);
        // Without the delete or its mark, newer versions may be on their way.
        let waits = match delete {
            Delete::Proven => false,
            Delete::Some => !marked && !known.is_empty(),
            Delete::Missing => !marked,
        };
        let newest = known.iter().filter(|(lsn, _)| *lsn < until).max_by_key(|(lsn, _)| *lsn);
        recipe.end = match newest {
            Some((_, site)) if !waits => End::At(site.clone()),
            _ => End::Nowhere,
        };
        if waits {
            awaited.push(Awaited { former, own: others });
        }
    }
    Ok(awaited)
}

/// All versions of the rows of `keys`, with their source positions, as far as files of the table and its earlier snapshots have them.
/// The mark of a changed key's delete is one too.
async fn versions(
    base: &Table,
    layout: &Layout,
    manifests: &ManifestCache,
    keys: &HashSet<u128>,
) -> Result<HashMap<u128, Vec<(i64, Site)>>, LakeError> {
    let Some(lsn) = lsn_field(layout).filter(|_| !keys.is_empty()) else { return Ok(HashMap::new()) };
    let mut versions: HashMap<u128, Vec<(i64, Site)>> = HashMap::new();
    let mut found = stream::iter(data_files(base, manifests).await?)
        .map(|path| versions_in(base, layout, &lsn, path, keys))
        .buffer_unordered(AT_ONCE);
    while let Some(in_file) = found.try_next().await? {
        for (key, lsn, site) in in_file {
            versions.entry(key).or_default().push((lsn, site));
        }
    }
    Ok(versions)
}

/// The source positions of the last rows known, where the rows tell them.
async fn lsns_of_last(base: &Table, layout: &Layout, recipes: &[Recipe]) -> Result<HashMap<Site, i64>, LakeError> {
    let Some(field) = lsn_field(layout) else { return Ok(HashMap::new()) };
    let mut files: BTreeMap<Arc<str>, RoaringBitmap> = BTreeMap::new();
    for recipe in recipes {
        if let End::Before { last: Some(site), .. } = &recipe.end {
            files.entry(Arc::clone(&site.path)).or_default().insert(site.position);
        }
    }
    let mut found = HashMap::new();
    for (path, rows) in files {
        if !base.file_io().exists(&path).await? {
            continue;
        }
        let lsns = lsns(base, &field, &path, &rows).await?;
        let sites = rows.iter().map(|position| Site { path: Arc::clone(&path), position });
        found.extend(sites.zip(lsns).filter_map(|(site, lsn)| Some((site, lsn?))));
    }
    Ok(found)
}

fn lsn_field(layout: &Layout) -> Option<NestedFieldRef> {
    layout.schema.as_struct().fields().iter().find(|f| f.name == origin::SOURCE_LSN).cloned()
}

async fn lsns(
    base: &Table,
    field: &NestedFieldRef,
    path: &str,
    rows: &RoaringBitmap,
) -> Result<Vec<Option<i64>>, LakeError> {
    let types = ArrowSchema::new(vec![arrow_schema::Field::new(&field.name, DataType::Int64, true)]);
    let read = read_rows(base.file_io(), path, rows, std::slice::from_ref(field), &Arc::new(types)).await?;
    Ok(read.iter().flat_map(|b| b.column(0).as_primitive::<Int64Type>().iter().collect::<Vec<_>>()).collect())
}

/// The data files of the table and of the snapshots before it.
async fn data_files(base: &Table, manifests: &ManifestCache) -> Result<BTreeSet<String>, LakeError> {
    let metadata = base.metadata();
    let (mut seen, mut at) = (BTreeSet::new(), metadata.current_snapshot_id());
    for _ in 0..SNAPSHOTS {
        let Some(snapshot) = at.and_then(|id| metadata.snapshot_by_id(id)) else { break };
        match firn_catalog::live::files(base, Some(snapshot.snapshot_id()), manifests).await {
            Ok(files) => seen.extend(files.data.iter().map(|f| f.file.file_path().to_owned())),
            // Expired meanwhile.
            Err(e) if e.kind() == ErrorKind::NotFound => break,
            Err(e) => return Err(e.into()),
        }
        at = snapshot.parent_snapshot_id();
    }
    Ok(seen)
}

async fn versions_in(
    base: &Table,
    layout: &Layout,
    lsn: &NestedFieldRef,
    path: String,
    wanted: &HashSet<u128>,
) -> Result<Vec<(u128, i64, Site)>, LakeError> {
    if !base.file_io().exists(&path).await? {
        return Ok(vec![]);
    }
    let nothing = RoaringBitmap::new();
    let mut scan = KeyScan::open(layout, base.file_io(), &path, &nothing, &Everybody).await?;
    let mut keys = vec![];
    while let Some(rows) = scan.next().await? {
        keys.extend(rows);
    }
    keys.retain(|row| wanted.contains(&row.key));
    if keys.is_empty() {
        return Ok(vec![]);
    }
    keys.sort_unstable_by_key(|row| row.position);
    let rows: RoaringBitmap = keys.iter().map(|row| row.position).collect();
    let lsns = lsns(base, lsn, &path, &rows).await?;
    let path: Arc<str> = path.into();
    let version = |(row, lsn): (ScannedRow, Option<i64>)| {
        Some((row.key, lsn?, Site { path: Arc::clone(&path), position: row.position }))
    };
    Ok(keys.into_iter().zip(lsns).filter_map(version).collect())
}
