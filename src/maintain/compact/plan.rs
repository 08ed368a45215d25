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
    pub choice: Choice,
}

/// Which of the groups that can be rewritten are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    #[default]
    All,
    /// What pays: for who does this again and again, so that a large file is not written anew for each few small ones that came.
    WorthIt,
}

/// What opening one more file costs a reader, as bytes read in the same time (Iceberg's `read.split.open-file-cost`).
const OPEN_FILE_BYTES: u64 = 4 << 20;
/// Scans of the whole after which a rewrite has to have paid. With fewer, small files stay longer; with more, rows are written more often.
const SCANS: u64 = 4;

impl Limits {
    /// Iceberg's own shares of the target size.
    pub fn for_target(target_bytes: u64) -> Self {
        let share = |tenths: u64, of: u64| (u128::from(target_bytes) * u128::from(tenths) / u128::from(of)) as u64;
        Self {
            target_bytes,
            min_bytes: share(75, 100),
            max_bytes: share(18, 10),
            min_files: 5,
            delete_ratio: 0.3,
            choice: Choice::All,
        }
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
            // A struct has no order of its own. Where a file was does not matter if its rows go elsewhere, but to equality deletes, which
            // are those of its partition alone.
            let partition = match file.entry.spec_id == spec_id || !file.equality.is_empty() {
                true => format!("{:?}", file.entry.file.partition()),
                false => String::new(),
            };
            partitions.entry((file.entry.spec_id, partition)).or_default().push(file);
        }
    }
    let mut groups = vec![];
    for (_, mut files) in partitions {
        files.sort_by(|a, b| (a.entry.sequence_number, a.path()).cmp(&(b.entry.sequence_number, b.path())));
        groups
            .extend(packed(files, limits).into_iter().filter_map(|bin| chosen(bin, limits, spec_id)).filter_map(group));
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

/// The bin, or what of it pays. A file that is large beside the others waits until more have come, and they go together without it.
fn chosen<'a>(mut bin: Bin<'a>, limits: &Limits, spec_id: i32) -> Option<Bin<'a>> {
    loop {
        if !is_worth(&bin, limits, spec_id) {
            return None;
        }
        if limits.choice == Choice::All || pays(&bin, limits) {
            return Some(bin);
        }
        let may_stay = bin.files.iter().enumerate().filter(|(_, file)| !must_go(file, limits, spec_id));
        let Some((at, _)) = may_stay.max_by_key(|(_, file)| file.live_bytes()) else { return Some(bin) };
        let file = bin.files.remove(at);
        bin.live_bytes -= file.live_bytes();
    }
}

/// Whether what readers save in some scans is as much as is written. What fills a file is written for the last time.
fn pays(bin: &Bin<'_>, limits: &Limits) -> bool {
    let gone: u64 = bin.files.iter().map(|file| file.bytes().saturating_sub(file.live_bytes())).sum();
    let fewer = (bin.files.len() as u64).saturating_sub(1);
    bin.live_bytes >= limits.min_bytes || (fewer * OPEN_FILE_BYTES + gone) * SCANS >= bin.live_bytes
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use firn_catalog::live::LiveFile;
    use iceberg::spec::{DataContentType, DataFileBuilder};

    use super::*;

    const MIB: u64 = 1 << 20;

    /// One file: its MiB and the share of its rows that are deleted, in percent.
    fn contents(files: &[(u64, u64)]) -> Contents {
        let old = |(n, (mib, deleted)): (usize, &(u64, u64))| {
            let path = format!("f{n:03}");
            let file = DataFileBuilder::default()
                .content(DataContentType::Data)
                .file_path(path.clone())
                .file_format(DataFileFormat::Parquet)
                .partition(Struct::empty())
                .partition_spec_id(0)
                .record_count(100)
                .file_size_in_bytes(mib * MIB)
                .build()
                .unwrap();
            let entry = LiveFile { file, spec_id: 0, sequence_number: n as i64, snapshot_id: 1, first_row_id: None };
            let old = OldFile { entry: Arc::new(entry), deletes: vec![], deleted_rows: *deleted, equality: vec![] };
            (path, old)
        };
        Contents { files: files.iter().enumerate().map(old).collect(), ..Contents::default() }
    }

    /// The sizes of the files that are rewritten together.
    fn sizes(files: &[(u64, u64)], choice: Choice) -> Vec<Vec<u64>> {
        let limits = Limits { choice, ..Limits::for_target(512 * MIB) };
        let groups = groups(&contents(files), &limits, 0, |_| true);
        groups.iter().map(|g| g.files.iter().map(|f| f.bytes() / MIB).collect()).collect()
    }

    #[test]
    fn a_large_file_is_not_written_anew_for_each_few_small_ones() {
        let files = [(300, 0), (1, 0), (1, 0), (1, 0), (1, 0), (1, 0)];
        assert_eq!(sizes(&files, Choice::All), [[300, 1, 1, 1, 1, 1]]);
        assert_eq!(sizes(&files, Choice::WorthIt), [[1, 1, 1, 1, 1]]);
        assert!(sizes(&[(300, 0), (60, 0), (1, 0), (1, 0), (1, 0)], Choice::WorthIt).is_empty(), "three are too few");
    }

    #[test]
    fn it_is_when_that_fills_a_file_or_many_are_saved_or_much_is_deleted() {
        let fills = [(300, 0), (50, 0), (40, 0), (3, 0), (3, 0)];
        assert_eq!(sizes(&fills, Choice::WorthIt), [[300, 50, 40, 3, 3]]);
        let many: Vec<(u64, u64)> = [(300, 0)].into_iter().chain([(1, 0); 24]).collect();
        assert_eq!(sizes(&many, Choice::WorthIt)[0].len(), 25);
        let deleted = [(150, 0), (100, 40), (1, 0), (1, 0), (1, 0), (1, 0)];
        assert_eq!(
            sizes(&deleted, Choice::WorthIt),
            [[150, 100, 1, 1, 1, 1]],
            "what is gone is not read any more either"
        );
        let a_little = [(370, 0), (10, 40)];
        assert_eq!(sizes(&a_little, Choice::WorthIt), [[10]], "the file with deleted rows goes all the same, alone");
    }

    /// Files of 1 MiB come, five at a time, for a long time: how often is a row written, and how many small files are there at most?
    fn in_the_long_run(choice: Choice) -> (f64, usize) {
        let (mut files, mut written, mut most) = (vec![], 0, 0);
        for _ in 0..400 {
            files.extend([(1, 0); 5]);
            for group in sizes(&files, choice) {
                for size in &group {
                    let at = files.iter().position(|(mib, _)| mib == size).unwrap();
                    files.remove(at);
                }
                let size: u64 = group.iter().sum();
                files.push((size, 0));
                written += size;
            }
            most = most.max(files.iter().filter(|(mib, _)| *mib < 384).count());
        }
        (written as f64 / 2_000.0, most)
    }

    #[test]
    fn rows_are_written_a_few_times_and_files_stay_few() {
        let (times, most) = in_the_long_run(Choice::WorthIt);
        assert!(times < 10.0, "each row is written {times} times");
        assert!(most <= 30, "{most} small files");
        let (times, _) = in_the_long_run(Choice::All);
        assert!(times > 30.0, "and without that choice {times} times");
    }
}
