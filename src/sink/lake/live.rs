//! The data files of a table version, each with the delete files that apply to it, as the upsert writer needs them.

use std::collections::HashMap;

use firn_catalog::ManifestCache;
use firn_catalog::live::{DeletesByFile, LiveFile as Entry, LiveFiles};
use iceberg::spec::{DataFile, DataFileFormat, Datum, PrimitiveLiteral, Struct};
use iceberg::table::Table;

use crate::sink::lake::LakeError;
use crate::sink::lake::cut::Candidate;
use crate::sink::lake::deletes::DeleteFile;
use crate::sink::lake::layout::OriginIds;

/// One live data file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LiveFile {
    pub(crate) path: String,
    pub(crate) spec_id: i32,
    pub(crate) partition: Struct,
    pub(crate) rows: u64,
    /// Lowest and highest Kafka partition of its rows; `None` when a row may have come from anywhere.
    pub(crate) kafka: Option<(i32, i32)>,
    /// Lowest and highest LSN of its rows; `None` when one may have none, or any.
    pub(crate) lsn: Option<(i64, i64)>,
    /// Lowest and highest Kafka offset of its rows; `None` when one may have none, or any.
    pub(crate) offsets: Option<(i64, i64)>,
    pub(crate) deletes: Vec<DeleteFile>,
    /// Of its first row: in format v3, once it is in the table.
    pub(crate) first_row_id: Option<i64>,
    /// The snapshot that added it, where that was listed.
    pub(crate) added_by: Option<i64>,
}

impl LiveFile {
    pub(crate) fn of(file: &DataFile, spec_id: i32, origin: Option<OriginIds>) -> Self {
        Self {
            path: file.file_path().to_owned(),
            spec_id,
            partition: file.partition().clone(),
            rows: file.record_count(),
            kafka: origin.and_then(|ids| kafka_partitions(file, ids)),
            lsn: origin.and_then(|ids| longs(file, ids.lsn?)),
            offsets: origin.and_then(|ids| longs(file, ids.offset?)),
            deletes: vec![],
            first_row_id: None,
            added_by: None,
        }
    }

    /// As one of the files whose first rows have these ids.
    pub(crate) fn numbered(self, first_row_ids: &HashMap<String, i64>) -> Self {
        Self { first_row_id: first_row_ids.get(&self.path).copied(), ..self }
    }

    pub(crate) fn candidate(&self, number: u32) -> Candidate {
        let Self { rows, kafka, offsets, lsn, .. } = *self;
        Candidate { number, path: self.path.clone(), rows, kafka, offsets, lsn }
    }
}

/// From the bounds of the partition column; a file with a null there holds rows by others.
fn kafka_partitions(file: &DataFile, ids: OriginIds) -> Option<(i32, i32)> {
    let int = |d: &Datum| match d.literal() {
        PrimitiveLiteral::Int(i) => Some(*i),
        _ => None,
    };
    if *file.null_value_counts().get(&ids.partition)? > 0 {
        return None;
    }
    Some((int(file.lower_bounds().get(&ids.partition)?)?, int(file.upper_bounds().get(&ids.partition)?)?))
}

/// From the bounds of a column of longs.
fn longs(file: &DataFile, id: i32) -> Option<(i64, i64)> {
    let long = |d: &Datum| match d.literal() {
        PrimitiveLiteral::Long(l) => Some(*l),
        _ => None,
    };
    if *file.null_value_counts().get(&id)? > 0 {
        return None;
    }
    Some((long(file.lower_bounds().get(&id)?)?, long(file.upper_bounds().get(&id)?)?))
}

/// A delete file of exactly one data file, as it is listed.
pub(crate) fn delete_file(file: &DataFile) -> DeleteFile {
    DeleteFile {
        path: file.file_path().to_owned(),
        vector: file.content_offset().zip(file.content_size_in_bytes()),
        one_data_file: true,
    }
}

/// Which delete files of a snapshot apply to which of its data files.
pub(crate) struct Applying<'a> {
    by_file: DeletesByFile<'a>,
    /// Position delete files for several data files, by partition.
    wide: HashMap<(i32, &'a Struct), Vec<&'a Entry>>,
    equality: &'a [Entry],
}

impl<'a> Applying<'a> {
    pub(crate) fn new(files: &'a LiveFiles) -> Self {
        let by_file = files.deletes_by_file();
        let mut wide = HashMap::<(i32, &Struct), Vec<&Entry>>::new();
        for entry in &by_file.of_several {
            wide.entry((entry.spec_id, entry.file.partition())).or_default().push(entry);
        }
        Self { by_file, wide, equality: &files.equality_deletes }
    }

    /// Position delete files and deletion vectors for this data file, in a fixed order. Those for several data files may have nothing of it.
    pub(crate) fn positions(&self, data: &Entry) -> Vec<DeleteFile> {
        let single = self.single(data).map(|e| delete_file(&e.file));
        let wide = self.wide.get(&(data.spec_id, data.file.partition()));
        let several = wide.into_iter().flatten().filter(|e| e.sequence_number >= data.sequence_number);
        let several = several.map(|e| DeleteFile { one_data_file: false, ..delete_file(&e.file) });
        let mut deletes: Vec<DeleteFile> = single.chain(several).collect();
        deletes.sort_unstable_by(|a, b| (&a.path, a.vector).cmp(&(&b.path, b.vector)));
        deletes
    }

    /// Rows of this data file that delete files of its own say are deleted.
    pub(crate) fn deleted_rows(&self, data: &Entry) -> u64 {
        self.single(data).map(|e| e.file.record_count()).sum()
    }

    /// Equality delete files for this data file: younger ones of its partition, or of no partition.
    pub(crate) fn equality(&self, data: &'a Entry) -> impl Iterator<Item = &'a Entry> {
        self.equality.iter().filter(|e| equality_applies(e, data))
    }

    fn single(&self, data: &Entry) -> impl Iterator<Item = &&'a Entry> {
        let of_file = self.by_file.of_file.get(data.file.file_path());
        of_file.into_iter().flatten().filter(|e| e.sequence_number >= data.sequence_number)
    }
}

/// Whether an equality delete file says anything of a data file.
pub(crate) fn equality_applies(deletes: &Entry, data: &Entry) -> bool {
    let same = deletes.spec_id == data.spec_id && deletes.file.partition() == data.file.partition();
    deletes.sequence_number > data.sequence_number && (same || deletes.file.partition().fields().is_empty())
}

/// All live data files of the current snapshot.
///
/// # Errors
/// When a manifest can't be read; `Foreign` when an equality delete applies to a live file, or a file is not Parquet: the rows
/// that they hold can't be told from here.
pub(crate) async fn list(
    base: &Table,
    table: &str,
    origin: Option<OriginIds>,
    cache: &ManifestCache,
) -> Result<Vec<LiveFile>, LakeError> {
    let files = firn_catalog::live::files(base, base.metadata().current_snapshot_id(), cache).await?;
    let applying = Applying::new(&files);
    let mut live = Vec::with_capacity(files.data.len());
    for entry in &files.data {
        let path = entry.file.file_path();
        if entry.file.file_format() != DataFileFormat::Parquet {
            return Err(foreign(
                table,
                format!("{path} is not Parquet: rewrite it as Parquet (set write.format.default)"),
            ));
        }
        if let Some(e) = applying.equality(entry).next() {
            return Err(foreign(
                table,
                format!(
                    "another writer made equality deletes ({}), which don't say which rows they delete: compact the table \
                     (`firn maintain compact {table}`), then start again",
                    e.file.file_path()
                ),
            ));
        }
        let mut file = LiveFile::of(&entry.file, entry.spec_id, origin);
        file.first_row_id = entry.first_row_id;
        file.added_by = Some(entry.snapshot_id);
        file.deletes = applying.positions(entry);
        live.push(file);
    }
    Ok(live)
}

fn foreign(table: &str, message: String) -> LakeError {
    LakeError::Foreign { table: table.to_owned(), message }
}
