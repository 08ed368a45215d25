//! The files of a table that is to be rewound: which rows go, where rows end, whether an old snapshot's files are there.

use std::collections::BTreeMap;

use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type};
use arrow_schema::DataType;
use firn_catalog::{FileKey, ManifestCache, RowDelta};
use futures::{StreamExt, TryStreamExt, stream};
use iceberg::table::Table;
use roaring::RoaringBitmap;

use crate::change::origin;
use crate::sink::lake::LakeError;
use crate::sink::lake::cut::Cuts;
use crate::sink::lake::deletes::{self, Deleted};
use crate::sink::lake::layout::Layout;
use crate::sink::lake::live::{self, LiveFile};
use crate::sink::lake::scan::{WantedColumn, read_columns};

/// Questions to storage at once.
const AT_ONCE: usize = 16;

/// How much leaves a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removal {
    pub rows: u64,
    /// Data files of which nothing is left.
    pub files: usize,
    /// Data files that get deletes.
    pub files_in_part: usize,
}

/// Rows that go from a version of a table.
#[derive(Debug, Default)]
pub(super) struct TakenOut {
    /// With all the rows that are deleted then, earlier ones too.
    files: Vec<(LiveFile, RoaringBitmap)>,
    pub(super) removal: Removal,
}

impl TakenOut {
    /// # Errors
    /// When files can't be read, or rows don't say where they came from.
    pub(super) async fn of(
        base: &Table,
        layout: &Layout,
        cuts: &Cuts,
        manifests: &ManifestCache,
    ) -> Result<Self, LakeError> {
        let ids = layout.origin_ids().filter(|ids| ids.offset.is_some());
        if ids.is_none() && base.metadata().current_snapshot_id().is_some() {
            return Err(LakeError::Settings {
                table: layout.table.clone(),
                message:
                    "its rows don't say where they came from (origin_columns = false), so those that would be read \
                          again can't be taken out: use --to snapshot=ID"
                        .to_owned(),
            });
        }
        let files = live::list(base, &layout.table, ids, manifests).await?;
        let candidates = files.iter().zip(0..).map(|(file, number)| file.candidate(number));
        let mut rows = cuts.of_table(base.file_io(), ids, candidates).await?;
        let hit: Vec<(LiveFile, RoaringBitmap)> =
            files.into_iter().zip(0..).filter_map(|(file, number)| Some((file, rows.remove(&number)?))).collect();
        let wanted: Vec<_> = hit.iter().map(|(file, _)| (file.path.as_str(), file.deletes.as_slice())).collect();
        let deleted = deletes::read(base.file_io(), &wanted).await?;
        let mut taken = Self::default();
        for (file, rows) in hit {
            let before = deleted.get(&file.path).cloned().unwrap_or_default();
            let after = &before | &rows;
            taken.removal.rows += after.len() - before.len();
            if after.len() > before.len() {
                match after.len() >= file.rows {
                    true => taken.removal.files += 1,
                    false => taken.removal.files_in_part += 1,
                }
                taken.files.push((file, after));
            }
        }
        Ok(taken)
    }

    /// As a commit does it.
    ///
    /// # Errors
    /// When delete files can't be written.
    pub(super) async fn into_delta(self, base: &Table, layout: &Layout) -> Result<RowDelta, LakeError> {
        let mut delta = RowDelta::default();
        let mut to_write = vec![];
        for (file, rows) in self.files {
            let own = file.deletes.iter().filter(|d| d.one_data_file);
            delta.removed.extend(
                own.map(|d| FileKey { path: d.path.clone(), content_offset: d.vector.map(|(offset, _)| offset) }),
            );
            if rows.len() >= file.rows {
                delta.removed.insert(FileKey { path: file.path, content_offset: None });
            } else {
                let LiveFile { path, spec_id, partition, .. } = file;
                to_write.push(Deleted { data_file: path, spec_id, partition, positions: rows });
            }
        }
        let format = base.metadata().format_version();
        delta.delete_files = deletes::write(base.file_io(), &layout.data_location, format, to_write).await?;
        Ok(delta)
    }
}

pub(super) async fn ends_of_rows(
    table: &Table,
    layout: &Layout,
    topic: &str,
    manifests: &ManifestCache,
) -> Result<BTreeMap<i32, i64>, LakeError> {
    let mut ends = BTreeMap::<i32, i64>::new();
    let Some(ids) = layout.origin_ids() else { return Ok(ends) };
    let Some(offset) = ids.offset else { return Ok(ends) };
    let column = |id, name: &str, data_type| WantedColumn { id, name: name.to_owned(), data_type };
    let columns = [
        column(ids.topic, origin::TOPIC, DataType::Utf8),
        column(ids.partition, origin::PARTITION, DataType::Int32),
        column(offset, origin::OFFSET, DataType::Int64),
    ];
    for file in live::list(table, &layout.table, Some(ids), manifests).await? {
        // Whole files are older than what is known of their partitions.
        if let (Some((first, last)), Some((_, high))) = (file.kafka, file.offsets)
            && (first..=last).all(|partition| ends.get(&partition).is_some_and(|end| high < *end))
        {
            continue;
        }
        let deleted = deletes::read(table.file_io(), &[(file.path.as_str(), file.deletes.as_slice())]).await?;
        let deleted = deleted.get(&file.path);
        let mut first = 0u32;
        read_columns(table.file_io(), &file.path, &columns, |arrays, rows| {
            let before = first;
            first += rows as u32;
            let [topics, partitions, offsets] = arrays else { return Ok(()) };
            let (names, partition_of) = (topics.as_string::<i32>(), partitions.as_primitive::<Int32Type>());
            let offset_of = offsets.as_primitive::<Int64Type>();
            for row in (0..rows).filter(|r| topics.is_valid(*r) && partitions.is_valid(*r) && offsets.is_valid(*r)) {
                let lives = deleted.is_none_or(|deleted| !deleted.contains(before + row as u32));
                if lives && names.value(row) == topic {
                    let end = ends.entry(partition_of.value(row)).or_default();
                    *end = (*end).max(offset_of.value(row) + 1);
                }
            }
            Ok(())
        })
        .await?;
    }
    Ok(ends)
}

pub(super) async fn missing(
    table: &Table,
    snapshot_id: i64,
    most: usize,
    manifests: &ManifestCache,
) -> Result<Vec<String>, LakeError> {
    let current = table.metadata().current_snapshot_id();
    let diff = firn_catalog::live::diff(table, current, Some(snapshot_id), manifests).await?.added;
    let files = diff.data.iter().chain(&diff.position_deletes).chain(&diff.equality_deletes);
    let mut paths: Vec<String> = files.map(|f| f.file.file_path().to_owned()).collect();
    paths.sort_unstable();
    paths.dedup();
    let mut asked = stream::iter(paths)
        .map(|path| async move {
            let there = table.file_io().exists(&path).await?;
            Ok::<_, LakeError>((!there).then_some(path))
        })
        .buffered(AT_ONCE);
    let mut missing = vec![];
    while let Some(path) = asked.try_next().await? {
        missing.extend(path);
        if missing.len() >= most {
            break;
        }
    }
    Ok(missing)
}
