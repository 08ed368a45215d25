//! The parent's manifests in the new snapshot: carried over, rewritten where files are removed, merged where they are many.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use futures::StreamExt;
use iceberg::spec::{DataFile, Manifest, ManifestContentType, ManifestFile};

use super::write::{Fate, Writer};
use crate::maintain::manifests::ReplacedManifests;
use crate::manifests::{READS_IN_FLIGHT, Standing, standing};
use crate::{Error, ErrorKind, FileKey, Result};

/// A manifest of this size is left alone by merging, and none is made much larger: Iceberg's `commit.manifest.target-size-bytes`.
const TARGET_BYTES: u64 = 8 << 20;
/// Merged in one commit at most: it bounds the cost of the commit that merges. The smallest go first, so a manifest is rewritten
/// about once for every factor of this many that the table grows.
const MERGED_AT_ONCE: usize = 32;

type Loaded = (ManifestFile, Arc<Manifest>);
pub(crate) type KindAndSpec = (u8, i32);

/// `added` are this commit's own manifests: they count, but are not touched.
pub(super) async fn carry(
    writer: &mut Writer<'_>,
    list: Vec<ManifestFile>,
    added: &[ManifestFile],
) -> Result<Vec<ManifestFile>> {
    // without live entries it only says what an older snapshot removed
    let list: Vec<_> = list.into_iter().filter(|m| m.has_added_files() || m.has_existing_files()).collect();
    let hit = find_removed(writer, &list).await?;
    let hit_paths: HashSet<&str> = hit.iter().map(|(m, _)| m.manifest_path.as_str()).collect();
    let mut untouched: Vec<_> =
        list.iter().filter(|m| !hit_paths.contains(m.manifest_path.as_str())).cloned().collect();

    let mut made = rewrite(writer, &hit).await?;
    let above = writer.staging.plan.retention.merge_manifests_above.max(1);
    let mut counts: BTreeMap<KindAndSpec, usize> = BTreeMap::new();
    for manifest in added.iter().chain(&made).chain(&untouched) {
        *counts.entry(kind_and_spec(manifest)).or_default() += 1;
    }
    for (group, _) in counts.into_iter().filter(|(_, count)| *count > above) {
        let chosen = choose_to_merge(&untouched, group);
        if chosen.len() < 2 {
            continue;
        }
        let manifests = writer.manifests().load_all(writer.staging.base.file_io(), &chosen).await?;
        let loaded: Vec<Loaded> = chosen.into_iter().zip(manifests).collect();
        made.push(rewrite_group(writer, &loaded).await?);
        let gone: HashSet<&str> = loaded.iter().map(|(m, _)| m.manifest_path.as_str()).collect();
        untouched.retain(|m| !gone.contains(m.manifest_path.as_str()));
    }
    made.extend(untouched);
    Ok(made)
}

/// The list with what stands for some of it.
pub(super) fn replaced(mut list: Vec<ManifestFile>, replaced: Option<&ReplacedManifests>) -> Result<Vec<ManifestFile>> {
    let Some(replaced) = replaced else { return Ok(list) };
    let before = list.len();
    list.retain(|m| !replaced.gone.contains(&m.manifest_path));
    if before - list.len() != replaced.gone.len() {
        return Err(Error::new(ErrorKind::Invalid, "a manifest is to be replaced but is not in the base"));
    }
    list.extend(replaced.by.iter().cloned());
    Ok(list)
}

pub(super) fn not_live(path: &str) -> Error {
    Error::new(ErrorKind::Invalid, format!("{path} is to be removed but is not live in the base"))
}

/// The manifests that hold the files to remove. Delete files are what is mostly removed, and recent ones: their manifests are
/// searched first, and the search ends when all are found.
async fn find_removed(writer: &Writer<'_>, list: &[ManifestFile]) -> Result<Vec<Loaded>> {
    let removed = &writer.staging.plan.delta.removed;
    if removed.is_empty() {
        return Ok(Vec::new());
    }
    let mut order: Vec<&ManifestFile> = list.iter().collect();
    order.sort_by_key(|m| (m.content == ManifestContentType::Data, std::cmp::Reverse(m.sequence_number)));
    let file_io = writer.staging.base.file_io();
    let cache = writer.manifests();
    let reads = order.into_iter().cloned().map(|m| async move {
        let manifest = cache.load_owned(file_io.clone(), m.clone()).await?;
        Ok::<Loaded, Error>((m, manifest))
    });
    let mut reads = futures::stream::iter(reads).buffered(READS_IN_FLIGHT);
    let wanted = Wanted::new(removed);
    let mut missing: HashSet<&FileKey> = removed.iter().collect();
    let mut hit = Vec::new();
    while !missing.is_empty() {
        let Some(loaded) = reads.next().await.transpose()? else { break };
        let live = loaded.1.entries().iter().filter(|e| e.is_alive());
        let found: Vec<FileKey> = live.map(|e| e.data_file()).filter(|f| wanted.has(f)).map(FileKey::of).collect();
        if !found.is_empty() {
            for key in &found {
                missing.remove(key);
            }
            hit.push(loaded);
        }
    }
    match missing.into_iter().next() {
        Some(key) => Err(not_live(&key.path)),
        None => Ok(hit),
    }
}

/// The files to remove, looked up without making a key of every entry.
struct Wanted<'a>(HashMap<&'a str, Vec<Option<i64>>>);

impl<'a> Wanted<'a> {
    fn new(removed: &'a HashSet<FileKey>) -> Self {
        let mut by_path: HashMap<&str, Vec<Option<i64>>> = HashMap::new();
        for key in removed {
            by_path.entry(key.path.as_str()).or_default().push(key.content_offset);
        }
        Self(by_path)
    }

    fn has(&self, file: &DataFile) -> bool {
        self.0.get(file.file_path()).is_some_and(|offsets| offsets.contains(&file.content_offset()))
    }
}

/// Those of one kind and spec go together, up to the target size: a hundred manifests with one removed file each become one.
async fn rewrite(writer: &mut Writer<'_>, hit: &[Loaded]) -> Result<Vec<ManifestFile>> {
    let mut groups: BTreeMap<KindAndSpec, Vec<Vec<Loaded>>> = BTreeMap::new();
    for loaded in hit {
        let bins = groups.entry(kind_and_spec(&loaded.0)).or_default();
        let fits =
            |bin: &Vec<Loaded>| bin.iter().map(|(m, _)| length(m)).sum::<u64>() + length(&loaded.0) <= TARGET_BYTES;
        match bins.last_mut().filter(|bin| fits(bin)) {
            Some(bin) => bin.push(loaded.clone()),
            None => bins.push(vec![loaded.clone()]),
        }
    }
    let mut made = Vec::new();
    for bin in groups.into_values().flatten() {
        made.push(rewrite_group(writer, &bin).await?);
    }
    Ok(made)
}

/// All live entries of these manifests, of one kind and spec, in a new one.
async fn rewrite_group(writer: &mut Writer<'_>, group: &[Loaded]) -> Result<ManifestFile> {
    let Some((first, manifest)) = group.first() else {
        return Err(Error::new(ErrorKind::Invalid, "nothing to rewrite"));
    };
    let wanted = Wanted::new(&writer.staging.plan.delta.removed);
    let mut entries: Vec<(Standing, Fate)> = Vec::new();
    for (file, manifest) in group {
        for live in standing(file, manifest)? {
            let fate = if wanted.has(live.entry.data_file()) { Fate::Removed } else { Fate::Stays };
            entries.push((live, fate));
        }
    }
    writer.rewritten(first.content, first.partition_spec_id, manifest, &entries).await
}

/// The smallest first, as many as make one manifest of the target size.
fn choose_to_merge(manifests: &[ManifestFile], group: KindAndSpec) -> Vec<ManifestFile> {
    let mut small: Vec<&ManifestFile> =
        manifests.iter().filter(|m| kind_and_spec(m) == group && length(m) < TARGET_BYTES).collect();
    small.sort_by_key(|m| (length(m), m.sequence_number));
    let mut bytes = 0;
    let fits = |m: &&ManifestFile| {
        bytes += length(m);
        bytes <= TARGET_BYTES
    };
    small.into_iter().take(MERGED_AT_ONCE).take_while(fits).cloned().collect()
}

pub(crate) fn kind_and_spec(manifest: &ManifestFile) -> KindAndSpec {
    (manifest.content as u8, manifest.partition_spec_id)
}

pub(crate) fn length(manifest: &ManifestFile) -> u64 {
    u64::try_from(manifest.manifest_length).unwrap_or(0)
}
