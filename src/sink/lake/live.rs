//! The data files of a table version, each with the delete files that apply to it, as the upsert writer needs them.

use std::collections::HashMap;

use firn_catalog::ManifestCache;
use firn_catalog::live::LiveFile as Entry;
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
    let deletes = files.deletes_by_file();
    let mut wide = HashMap::<(i32, &Struct), Vec<&Entry>>::new();
    for entry in deletes.of_several {
        wide.entry((entry.spec_id, entry.file.partition())).or_default().push(entry);
    }
    let mut live = Vec::with_capacity(files.data.len());
    for entry in &files.data {
        let path = entry.file.file_path();
        if entry.file.file_format() != DataFileFormat::Parquet {
            return Err(foreign(
                table,
                format!("{path} is not Parquet: rewrite it as Parquet (set write.format.default)"),
            ));
        }
        let applies = |e: &&Entry| {
            e.spec_id == entry.spec_id && e.file.partition() == entry.file.partition()
                || e.file.partition().fields().is_empty()
        };
        if let Some(e) = files.equality_deletes.iter().find(|e| e.sequence_number > entry.sequence_number && applies(e))
        {
            return Err(foreign(
                table,
                format!(
                    "another writer made equality deletes ({}), which don't say which rows they delete: compact the table \
                     (in Trino: ALTER TABLE ... EXECUTE optimize), then start again",
                    e.file.file_path()
                ),
            ));
        }
        let mut file = LiveFile::of(&entry.file, entry.spec_id, origin);
        file.first_row_id = entry.first_row_id;
        let since = |e: &&&Entry| e.sequence_number >= entry.sequence_number;
        let single = deletes.of_file.get(path).into_iter().flatten();
        file.deletes.extend(single.filter(since).map(|e| delete_file(&e.file)));
        let partition = (entry.spec_id, entry.file.partition());
        file.deletes.extend(
            wide.get(&partition)
                .into_iter()
                .flatten()
                .filter(since)
                .map(|e| DeleteFile { one_data_file: false, ..delete_file(&e.file) }),
        );
        file.deletes.sort_unstable_by(|a, b| (&a.path, a.vector).cmp(&(&b.path, b.vector)));
        live.push(file);
    }
    Ok(live)
}

fn foreign(table: &str, message: String) -> LakeError {
    LakeError::Foreign { table: table.to_owned(), message }
}
