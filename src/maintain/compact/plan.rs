//! Which files are rewritten, and which of them together. Pure.
//!
//! Follows Iceberg's bin-packing (`BinPackRewriteFilePlanner`) but for the size of a group: it is what makes one new file, so that a group
//! is little work to lose, and groups run beside each other.

use std::collections::BTreeMap;

use iceberg::spec::{DataFileFormat, Struct, TableProperties};

use super::contents::{Contents, OldFile};

/// When a file is left alone, and when files are worth to be rewritten together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Size of a new file.
    pub target_bytes: u64,
    /// Files below it are rewritten.
    pub min_bytes: u64,
    /// Files above it are split.
    pub max_bytes: u64,
    /// Small files of one partition that are rewritten at least.
    pub min_files: usize,
    /// Share of deleted rows from which a file is rewritten whatever its size.
    pub delete_ratio: f64,
}

impl Limits {
    /// Iceberg's own shares of the target size.
    pub fn for_target(target_bytes: u64) -> Self {
        let share = |tenths: u64, of: u64| (u128::from(target_bytes) * u128::from(tenths) / u128::from(of)) as u64;
        Self { target_bytes, min_bytes: share(75, 100), max_bytes: share(18, 10), min_files: 5, delete_ratio: 0.3 }
    }
}

/// Files that are rewritten together: of one partition, or of any of an older spec.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub(super) spec_id: i32,
    /// `None` where files are of several.
    pub(super) partition: Option<Struct>,
    /// By data sequence number, then path.
    pub(super) files: Vec<OldFile>,
}

impl Group {
    pub(super) fn live_bytes(&self) -> u64 {
        self.files.iter().map(OldFile::live_bytes).sum()
    }

    /// New files that its rows make.
    pub(super) fn new_files(&self, limits: &Limits) -> u64 {
        match self.live_bytes() {
            0 => 0,
            bytes if bytes <= limits.max_bytes => 1,
            bytes => bytes.div_ceil(limits.target_bytes.max(1)),
        }
    }
}

/// Why a file can't stay as it is.
fn must_go(file: &OldFile, limits: &Limits, spec_id: i32) -> bool {
    file.deleted_ratio() >= limits.delete_ratio
        || !file.equality.is_empty()
        || file.entry.spec_id != spec_id
        || file.bytes() > limits.max_bytes
}

/// The groups of a snapshot, in the order of their partitions. `spec_id` is the table's current one: files of an older one are rewritten
/// into it. `wanted` says which files are looked at.
pub(super) fn groups(
    contents: &Contents,
    limits: &Limits,
    spec_id: i32,
    wanted: impl Fn(&OldFile) -> bool,
) -> Vec<Group> {
    let mut partitions: BTreeMap<(i32, String), Vec<&OldFile>> = BTreeMap::new();
    let parquet = |f: &&OldFile| f.entry.file.file_format() == DataFileFormat::Parquet;
    for file in contents.files.values().filter(parquet).filter(|f| wanted(f)) {
        if must_go(file, limits, spec_id) || file.bytes() < limits.min_bytes {
            // A struct has no order of its own. Where a file was does not matter if its rows go elsewhere.
            let partition = match file.entry.spec_id == spec_id {
                true => format!("{:?}", file.entry.file.partition()),
                false => String::new(),
            };
            partitions.entry((file.entry.spec_id, partition)).or_default().push(file);
        }
    }
    let mut groups = vec![];
    for (_, mut files) in partitions {
        files.sort_by(|a, b| (a.entry.sequence_number, a.path()).cmp(&(b.entry.sequence_number, b.path())));
        groups.extend(packed(files, limits).into_iter().filter(|bin| is_worth(bin, limits, spec_id)).filter_map(group));
    }
    groups
}

fn group(bin: Bin<'_>) -> Option<Group> {
    let first = bin.files.first()?;
    Some(Group {
        spec_id: first.entry.spec_id,
        partition: Some(first.entry.file.partition().clone())
            .filter(|partition| bin.files.iter().all(|file| file.entry.file.partition() == partition)),
        files: bin.files.into_iter().cloned().collect(),
    })
}

#[derive(Default)]
struct Bin<'a> {
    files: Vec<&'a OldFile>,
    live_bytes: u64,
}

/// Neighbours go together, as many as make a file of the target size: rows that came at one time stay together, and bounds narrow.
fn packed<'a>(files: Vec<&'a OldFile>, limits: &Limits) -> Vec<Bin<'a>> {
    let mut bins: Vec<Bin<'a>> = vec![];
    for file in files {
        let bytes = file.live_bytes();
        let fits = |bin: &&mut Bin<'_>| bin.live_bytes + bytes <= limits.target_bytes;
        match bins.last_mut().filter(fits) {
            Some(bin) => {
                bin.files.push(file);
                bin.live_bytes += bytes;
            }
            None => bins.push(Bin { files: vec![file], live_bytes: bytes }),
        }
    }
    bins
}

fn is_worth(bin: &Bin<'_>, limits: &Limits, spec_id: i32) -> bool {
    let enough = bin.files.len() >= limits.min_files || bin.live_bytes >= limits.min_bytes;
    enough && bin.files.len() > 1 || bin.files.iter().any(|file| must_go(file, limits, spec_id))
}

/// The target size that the table's own properties state, else Iceberg's default.
pub(super) fn target_of(properties: &std::collections::HashMap<String, String>) -> u64 {
    let stated = properties.get(TableProperties::PROPERTY_WRITE_TARGET_FILE_SIZE_BYTES);
    stated
        .and_then(|bytes| bytes.parse().ok())
        .unwrap_or(TableProperties::PROPERTY_WRITE_TARGET_FILE_SIZE_BYTES_DEFAULT as u64)
}
