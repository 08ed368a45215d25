//! Which files a snapshot holds, and what changed between two.
//!
//! Reads manifests alone, in parallel, and not again what the cache has; opens no data or delete file.

use std::collections::{HashMap, HashSet};

use iceberg::spec::{DataContentType, DataFile, DataFileFormat, Datum, ManifestFile, PrimitiveLiteral};
use iceberg::table::Table;

use crate::manifests::{ManifestCache, Standing, list, standing};
use crate::{Error, ErrorKind, FileKey, Result, SpecFile};

/// `file_path` of a position delete file (spec, reserved field ids): its bounds tell which data file it is for.
const DELETE_FILE_PATH_ID: i32 = i32::MAX - 101;

/// A data or delete file of a snapshot.
#[derive(Clone, Debug)]
pub struct LiveFile {
    /// With its partition, bounds and counts.
    pub file: DataFile,
    pub spec_id: i32,
    /// A delete file applies to data files of this number or lower (equality deletes: of lower ones).
    pub sequence_number: i64,
    /// The snapshot that added it.
    pub snapshot_id: i64,
    /// Of its first row: v3 data files.
    pub first_row_id: Option<i64>,
}

impl LiveFile {
    pub fn key(&self) -> FileKey {
        FileKey::of(&self.file)
    }

    /// As a row delta takes it.
    pub fn spec_file(&self) -> SpecFile {
        SpecFile { spec_id: self.spec_id, file: self.file.clone() }
    }

    /// The one data file that a position delete file or deletion vector is for, if it is for one: said so, or by bounds that are
    /// equal and not cut off.
    pub fn deletes_from(&self) -> Option<String> {
        if let Some(path) = self.file.referenced_data_file() {
            return Some(path);
        }
        let bound = |bounds: &HashMap<i32, Datum>| match bounds.get(&DELETE_FILE_PATH_ID)?.literal() {
            PrimitiveLiteral::String(path) => Some(path.clone()),
            _ => None,
        };
        let (lower, upper) = (bound(self.file.lower_bounds())?, bound(self.file.upper_bounds())?);
        // a bound that was cut off is rounded up: equal bounds are whole
        (lower == upper).then_some(lower)
    }

    pub fn is_deletion_vector(&self) -> bool {
        self.file.file_format() == DataFileFormat::Puffin
    }
}

/// The files of one snapshot.
#[derive(Clone, Debug, Default)]
pub struct LiveFiles {
    pub data: Vec<LiveFile>,
    /// Position delete files and deletion vectors.
    pub position_deletes: Vec<LiveFile>,
    pub equality_deletes: Vec<LiveFile>,
}

/// The position deletes of a snapshot by the data file they are for.
#[derive(Clone, Debug, Default)]
pub struct DeletesByFile<'a> {
    pub of_file: HashMap<String, Vec<&'a LiveFile>>,
    /// Position delete files for several data files: they have to be read to know which.
    pub of_several: Vec<&'a LiveFile>,
}

/// From one snapshot to another.
#[derive(Clone, Debug, Default)]
pub struct Diff {
    pub added: LiveFiles,
    pub removed: LiveFiles,
}

impl Diff {
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty()
    }
}

impl LiveFiles {
    pub fn is_empty(&self) -> bool {
        self.data.is_empty() && self.position_deletes.is_empty() && self.equality_deletes.is_empty()
    }

    pub fn deletes_by_file(&self) -> DeletesByFile<'_> {
        let mut by_file = DeletesByFile::default();
        for delete in &self.position_deletes {
            match delete.deletes_from() {
                Some(path) => by_file.of_file.entry(path).or_default().push(delete),
                None => by_file.of_several.push(delete),
            }
        }
        by_file
    }

    fn push(&mut self, standing: Standing, spec_id: i32) {
        let file = LiveFile {
            file: standing.entry.data_file().clone(),
            spec_id,
            sequence_number: standing.sequence_number,
            snapshot_id: standing.snapshot_id,
            first_row_id: standing.first_row_id,
        };
        match file.file.content_type() {
            DataContentType::Data => self.data.push(file),
            DataContentType::PositionDeletes => self.position_deletes.push(file),
            DataContentType::EqualityDeletes => self.equality_deletes.push(file),
        }
    }

    fn retain(&mut self, keep: impl Fn(&LiveFile) -> bool) {
        for files in [&mut self.data, &mut self.position_deletes, &mut self.equality_deletes] {
            files.retain(&keep);
        }
    }

    fn all(&self) -> impl Iterator<Item = &LiveFile> {
        self.data.iter().chain(&self.position_deletes).chain(&self.equality_deletes)
    }
}

/// The live files of a snapshot of `table`; of none when it is `None` (a table without snapshots).
///
/// # Errors
/// `NotFound` when the table has no such snapshot, the storage's otherwise.
pub async fn files(table: &Table, snapshot_id: Option<i64>, cache: &ManifestCache) -> Result<LiveFiles> {
    read(table, cache, manifests(table, snapshot_id).await?).await
}

/// What was added and removed between two snapshots of `table`, whatever lies between them. Manifests that both list are not read.
///
/// # Errors
/// As [`files`].
pub async fn diff(table: &Table, from: Option<i64>, to: Option<i64>, cache: &ManifestCache) -> Result<Diff> {
    let (mut before, mut after) = (manifests(table, from).await?, manifests(table, to).await?);
    let paths = |list: &[ManifestFile]| list.iter().map(|m| m.manifest_path.clone()).collect::<HashSet<_>>();
    let (in_before, in_after) = (paths(&before), paths(&after));
    before.retain(|m| !in_after.contains(&m.manifest_path));
    after.retain(|m| !in_before.contains(&m.manifest_path));
    let (mut removed, mut added) = (read(table, cache, before).await?, read(table, cache, after).await?);
    // a manifest written anew lists files that were there before
    let keys = |files: &LiveFiles| files.all().map(LiveFile::key).collect::<HashSet<_>>();
    let (were, are) = (keys(&removed), keys(&added));
    removed.retain(|f| !are.contains(&f.key()));
    added.retain(|f| !were.contains(&f.key()));
    Ok(Diff { added, removed })
}

/// The manifests of a snapshot of `table` that hold live files.
///
/// # Errors
/// As [`files`].
pub async fn manifests(table: &Table, snapshot_id: Option<i64>) -> Result<Vec<ManifestFile>> {
    let Some(id) = snapshot_id else { return Ok(Vec::new()) };
    let snapshot = table.metadata().snapshot_by_id(id).ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("table {} has no snapshot {id}: it was expired", table.identifier()))
    })?;
    let mut list = list(table, snapshot).await?;
    list.retain(|m| m.has_added_files() || m.has_existing_files());
    Ok(list)
}

async fn read(table: &Table, cache: &ManifestCache, list: Vec<ManifestFile>) -> Result<LiveFiles> {
    let manifests = cache.load_all(table.file_io(), &list).await?;
    let mut files = LiveFiles::default();
    for (file, manifest) in list.iter().zip(manifests) {
        for standing in standing(file, &manifest)? {
            files.push(standing, file.partition_spec_id);
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests;
