//! How a table does: what a reader of it pays, and what would make it less.
//!
//! From metadata alone: the current snapshot's manifests are read, no data file is.

use std::collections::{BTreeMap, HashMap};

use firn_catalog::live::{self, LiveFile, LiveFiles};
use firn_catalog::maintain::retention::Rules;
use firn_catalog::{ManifestCache, Result, surroundings};
use iceberg::spec::{ManifestFile, TableMetadata};
use iceberg::table::Table;
use serde::Serialize;

use crate::sink::lake::{CHECKPOINT, LAST_SNAPSHOT_ID};

const CACHE_BYTES: u64 = 32 << 20;
const TARGET_FILE_BYTES: (&str, u64) = ("write.target-file-size-bytes", 512 << 20);
const TARGET_MANIFEST_BYTES: (&str, u64) = ("commit.manifest.target-size-bytes", 8 << 20);
/// Small files of one partition from which a rewrite is worth it, as `firn maintain compact` has it.
const MANY_SMALL: u64 = 5;
/// Share of deleted rows from which it is.
const MANY_DELETED: f64 = 0.3;
/// Manifests beyond what the target size asks for: fewer cost a reader one round of requests.
const MANY_MANIFESTS: u64 = 32;
const MIB: u64 = 1 << 20;

/// What a table consists of.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Health {
    pub table: String,
    pub files: Files,
    pub deletes: Deletes,
    pub manifests: Manifests,
    pub snapshots: Snapshots,
    pub scan: Scan,
    pub advice: Vec<Advice>,
}

/// Data files.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Files {
    pub count: u64,
    pub bytes: u64,
    /// Deleted ones included.
    pub rows: u64,
    pub partitions: u64,
    /// Below three quarters of the target size.
    pub small: u64,
    pub target_bytes: u64,
    /// By size, smallest first.
    pub sizes: Vec<SizeClass>,
}

/// Files of less than `below_bytes`, and of no smaller class; the last has no bound.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SizeClass {
    pub below_bytes: Option<u64>,
    pub files: u64,
    pub bytes: u64,
}

/// What readers apply to data files.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Deletes {
    pub position_files: u64,
    pub vectors: u64,
    pub equality_files: u64,
    pub bytes: u64,
    /// By position.
    pub rows: u64,
    /// Of all rows of data files.
    pub ratio: f64,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct Manifests {
    pub data: u64,
    pub deletes: u64,
    pub bytes: u64,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct Snapshots {
    pub count: u64,
    /// What `firn maintain expire` would let go now.
    pub expirable: u64,
    pub oldest_ms: Option<i64>,
    /// Versions of the table's metadata that it names.
    pub metadata_files: u64,
}

/// What reading the whole table costs.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Scan {
    pub files: u64,
    pub bytes: u64,
    pub manifests: u64,
    /// At least: metadata, manifest list, manifests, a footer and one range of each data file, each delete file once.
    pub requests: u64,
}

/// What to do, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Advice {
    pub why: String,
    pub command: String,
}

/// Looks at the table.
///
/// # Errors
/// When a manifest can't be read.
pub async fn health(table: &Table, horizon_ms: u64) -> Result<Health> {
    let metadata = table.metadata();
    let list = live::manifests(table, metadata.current_snapshot_id()).await?;
    let live = live::files(table, metadata.current_snapshot_id(), &ManifestCache::new(CACHE_BYTES)).await?;
    let rules = Rules { horizon_ms, tells: Some(CHECKPOINT), last: Some(LAST_SNAPSHOT_ID), ..Rules::default() };
    // Where it is refused there is nothing to advise.
    let expirable = rules.expiring(metadata, surroundings::now_ms()).map_or(0, |e| e.snapshots.len());
    Ok(judge(&table.identifier().to_string(), metadata, &list, &live, expirable as u64))
}

fn judge(name: &str, metadata: &TableMetadata, list: &[ManifestFile], live: &LiveFiles, expirable: u64) -> Health {
    let target = number(metadata, TARGET_FILE_BYTES);
    let mut small_by_partition: HashMap<String, u64> = HashMap::new();
    let mut partitions: BTreeMap<String, u64> = BTreeMap::new();
    for file in &live.data {
        let partition = format!("{} {:?}", file.spec_id, file.file.partition());
        if file.file.file_size_in_bytes() < target / 4 * 3 {
            *small_by_partition.entry(partition.clone()).or_default() += 1;
        }
        *partitions.entry(partition).or_default() += 1;
    }
    let bytes = |files: &[LiveFile]| files.iter().map(|f| f.file.file_size_in_bytes()).sum::<u64>();
    let files = Files {
        count: live.data.len() as u64,
        bytes: bytes(&live.data),
        rows: live.data.iter().map(|f| f.file.record_count()).sum(),
        partitions: partitions.len() as u64,
        small: small_by_partition.values().sum(),
        target_bytes: target,
        sizes: sizes(&live.data),
    };
    let vectors = live.position_deletes.iter().filter(|f| f.is_deletion_vector()).count() as u64;
    let deleted: u64 = live.position_deletes.iter().map(|f| f.file.record_count()).sum();
    let deletes = Deletes {
        position_files: live.position_deletes.len() as u64 - vectors,
        vectors,
        equality_files: live.equality_deletes.len() as u64,
        bytes: bytes(&live.position_deletes) + bytes(&live.equality_deletes),
        rows: deleted,
        ratio: if files.rows == 0 { 0.0 } else { deleted as f64 / files.rows as f64 },
    };
    let of_data = list.iter().filter(|m| m.content == iceberg::spec::ManifestContentType::Data).count() as u64;
    let manifests = Manifests {
        data: of_data,
        deletes: list.len() as u64 - of_data,
        bytes: list.iter().map(|m| u64::try_from(m.manifest_length).unwrap_or(0)).sum(),
    };
    let snapshots = Snapshots {
        count: metadata.snapshots().len() as u64,
        expirable,
        oldest_ms: metadata.snapshots().map(|s| s.timestamp_ms()).min(),
        metadata_files: metadata.metadata_log().len() as u64 + 1,
    };
    let delete_files = deletes.position_files + deletes.vectors + deletes.equality_files;
    let scan = Scan {
        files: files.count + delete_files,
        bytes: files.bytes + deletes.bytes,
        manifests: list.len() as u64,
        requests: 2 + list.len() as u64 + 2 * files.count + delete_files,
    };
    let worst = small_by_partition.into_values().max().unwrap_or(0);
    let mut health = Health { table: name.to_owned(), files, deletes, manifests, snapshots, scan, advice: Vec::new() };
    health.advice = advice(&health, worst, number(metadata, TARGET_MANIFEST_BYTES));
    health
}

/// `small` is the number of small files of the partition that has the most.
fn advice(health: &Health, small: u64, target_manifest_bytes: u64) -> Vec<Advice> {
    let table = &health.table;
    let mut advice = Vec::new();
    let mut say = |why: String, command: &str| {
        advice.push(Advice { why, command: format!("firn maintain {command} {table}") });
    };
    let (files, deletes) = (&health.files, &health.deletes);
    if small >= MANY_SMALL {
        let why = format!("{} of {} files are small, up to {small} in one partition", files.small, files.count);
        say(why, "compact");
    } else if deletes.ratio >= MANY_DELETED {
        say(format!("{:.0} % of the rows in data files are deleted", deletes.ratio * 100.0), "compact");
    } else if deletes.equality_files > 0 {
        say(format!("readers pay for {} equality delete files row by row", deletes.equality_files), "compact");
    }
    let manifests = health.manifests.data + health.manifests.deletes;
    if manifests > health.manifests.bytes.div_ceil(target_manifest_bytes) + MANY_MANIFESTS {
        say(format!("{manifests} manifests hold what few could"), "manifests");
    }
    if health.snapshots.expirable > 0 {
        let Snapshots { count, expirable, .. } = health.snapshots;
        say(format!("{expirable} of {count} snapshots are older than they need to be kept"), "expire");
    }
    advice
}

/// Whether a snapshot has so many manifests beyond what the table's target size asks for.
pub fn many_manifests(metadata: &TableMetadata, list: &[ManifestFile], many: u64) -> bool {
    let bytes: u64 = list.iter().map(|m| u64::try_from(m.manifest_length).unwrap_or(0)).sum();
    list.len() as u64 > bytes.div_ceil(number(metadata, TARGET_MANIFEST_BYTES)) + many
}

fn sizes(files: &[LiveFile]) -> Vec<SizeClass> {
    let bounds = [1, 8, 32, 128, 512].map(|n| Some(n * MIB));
    let mut classes: Vec<SizeClass> =
        bounds.into_iter().chain([None]).map(|below_bytes| SizeClass { below_bytes, files: 0, bytes: 0 }).collect();
    for bytes in files.iter().map(|f| f.file.file_size_in_bytes()) {
        if let Some(class) = classes.iter_mut().find(|c| c.below_bytes.is_none_or(|below| bytes < below)) {
            class.files += 1;
            class.bytes += bytes;
        }
    }
    classes
}

fn number(metadata: &TableMetadata, (name, default): (&str, u64)) -> u64 {
    metadata.properties().get(name).and_then(|v| v.trim().parse().ok()).filter(|n| *n > 0).unwrap_or(default)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health() -> Health {
        Health {
            table: "a.t".to_owned(),
            files: Files { count: 100, rows: 1000, ..Files::default() },
            manifests: Manifests { data: 3, deletes: 2, bytes: 4 * 8 * MIB },
            ..Health::default()
        }
    }

    fn commands(health: &Health, small: u64) -> Vec<String> {
        advice(health, small, 8 * MIB).into_iter().map(|a| a.command).collect()
    }

    #[test]
    fn a_table_in_order_gets_no_advice() {
        assert!(commands(&health(), MANY_SMALL - 1).is_empty());
    }

    #[test]
    fn what_is_wrong_is_told_with_the_command_that_mends_it() {
        assert_eq!(commands(&health(), MANY_SMALL), ["firn maintain compact a.t"]);
        let deletes = Deletes { ratio: MANY_DELETED, ..Deletes::default() };
        assert_eq!(commands(&Health { deletes, ..health() }, 0), ["firn maintain compact a.t"]);
        let deletes = Deletes { equality_files: 1, ..Deletes::default() };
        assert_eq!(commands(&Health { deletes, ..health() }, 0), ["firn maintain compact a.t"]);
        let manifests = Manifests { data: 35, deletes: 2, bytes: 4 * 8 * MIB };
        assert_eq!(commands(&Health { manifests, ..health() }, 0), ["firn maintain manifests a.t"]);
        let snapshots = Snapshots { count: 9, expirable: 2, ..Snapshots::default() };
        assert_eq!(commands(&Health { snapshots, ..health() }, 0), ["firn maintain expire a.t"]);
    }
}
