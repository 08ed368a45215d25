//! The ids of rows that replace others (row lineage, format v3): a column that is written behind all others.
//!
//! A row's id is known when it is known which row it replaces: when its batch is committed, long after its bytes went to storage. But
//! a Parquet footer says where each column chunk stands, so a column may stand behind the last row group. A file whose rows may
//! have ids is left open: its last bytes, the ids' chunks and the footer, follow at the commit. A row without an id there gets
//! one from its place: it is new.

use std::io::Write;
use std::sync::Arc;

use parquet::basic::{Compression, Repetition, Type as PhysicalType, ZstdLevel};
use parquet::data_type::Int64Type;
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::{FileMetaData, ParquetMetaData, ParquetMetaDataWriter, RowGroupMetaData};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, TrackedWrite};
use parquet::schema::types::{SchemaDescriptor, Type};

use crate::sink::lake::parquet_file::Chunks;

/// Of the column in data files (Iceberg spec, reserved field ids).
pub(crate) const ROW_ID: &str = "_row_id";
pub(crate) const ROW_ID_FIELD: i32 = i32::MAX - 107;

/// The ids of some rows of a file, by position.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RowIds(Vec<(u32, i64)>);

impl RowIds {
    pub(crate) fn get(&self, position: u32) -> Option<i64> {
        let at = self.0.binary_search_by_key(&position, |(position, _)| *position).ok()?;
        self.0.get(at).map(|(_, id)| *id)
    }
}

impl FromIterator<(u32, i64)> for RowIds {
    fn from_iter<I: IntoIterator<Item = (u32, i64)>>(ids: I) -> Self {
        let mut ids: Vec<_> = ids.into_iter().collect();
        ids.sort_unstable();
        Self(ids)
    }
}

/// A file that lacks its last bytes.
pub(crate) struct OpenEnd {
    chunks: Chunks,
    /// Of the file without ids; it was not written.
    footer: ParquetMetaData,
}

impl std::fmt::Debug for OpenEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenEnd").field("bytes", &self.chunks.bytes()).finish_non_exhaustive()
    }
}

impl OpenEnd {
    pub(crate) fn new(chunks: Chunks, footer: ParquetMetaData) -> Self {
        Self { chunks, footer }
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.chunks.buffered_bytes() + self.footer.memory_size()
    }

    /// Writes the rows' ids and the footer; answers the file's size in bytes. Blocks while the upload is behind.
    ///
    /// # Errors
    /// When the upload failed; it tells why.
    pub(crate) fn close(mut self, ids: &RowIds) -> ParquetResult<u64> {
        let footer = match ids.0.is_empty() {
            true => self.footer,
            false => with_row_ids(&mut self.chunks, &self.footer, &ids.0)?,
        };
        let written = self.chunks.bytes();
        let mut end = TrackedWrite::new(Behind { skip: written, to: &mut self.chunks });
        advance(written, |zeros| end.write_all(zeros))?;
        ParquetMetaDataWriter::new_with_tracked(end, &footer).finish()?;
        Ok(self.chunks.end()?)
    }
}

/// Passes on what comes after the first bytes: writers count their bytes from the beginning of the file.
struct Behind<'a> {
    skip: u64,
    to: &'a mut Chunks,
}

impl Write for Behind<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let skipped = self.skip.min(bytes.len() as u64);
        self.skip -= skipped;
        self.to.write_all(bytes.get(skipped as usize..).unwrap_or_default())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn advance(mut bytes: u64, mut write: impl FnMut(&[u8]) -> std::io::Result<()>) -> std::io::Result<()> {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    while let Some(zeros) = ZEROS.get(..bytes.min(ZEROS.len() as u64) as usize).filter(|zeros| !zeros.is_empty()) {
        write(zeros)?;
        bytes -= zeros.len() as u64;
    }
    Ok(())
}

/// Writes a column of `ids` behind what was written; answers the footer of the file with it.
fn with_row_ids(chunks: &mut Chunks, footer: &ParquetMetaData, ids: &[(u32, i64)]) -> ParquetResult<ParquetMetaData> {
    let column = Type::primitive_type_builder(ROW_ID, PhysicalType::INT64)
        .with_repetition(Repetition::OPTIONAL)
        .with_id(Some(ROW_ID_FIELD))
        .build()?;
    let column = Arc::new(column);
    let alone = Type::group_type_builder(ROW_ID).with_fields(vec![Arc::clone(&column)]).build()?;
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
        // Hardly two rows have one id.
        .set_dictionary_enabled(false)
        .build();
    let written = chunks.bytes();
    let behind = Behind { skip: written, to: chunks };
    let mut writer = SerializedFileWriter::new(behind, Arc::new(alone), Arc::new(properties))?;
    advance(written.saturating_sub(writer.bytes_written() as u64), |zeros| writer.write_all(zeros))?;
    let mut ids = ids.iter().peekable();
    let mut first = 0u32;
    for group in footer.row_groups() {
        let rows = group.num_rows().max(0) as u32;
        let mut levels = vec![0i16; rows as usize];
        let mut values = vec![];
        while let Some((position, id)) = ids.next_if(|(position, _)| *position < first + rows) {
            if let Some(level) = levels.get_mut((position - first) as usize) {
                *level = 1;
                values.push(*id);
            }
        }
        let mut group = writer.next_row_group()?;
        if let Some(mut column) = group.next_column()? {
            column.typed::<Int64Type>().write_batch(&values, Some(&levels), None)?;
            column.close()?;
        }
        group.close()?;
        first += rows;
    }
    writer.flush()?;
    // Its own footer goes nowhere.
    writer.inner_mut().skip = u64::MAX;
    joined(footer, &writer.finish()?, column)
}

/// The footer of a file whose row groups have one column more.
fn joined(of_file: &ParquetMetaData, of_ids: &ParquetMetaData, column: Arc<Type>) -> ParquetResult<ParquetMetaData> {
    let file = of_file.file_metadata();
    let mut fields = file.schema().get_fields().to_vec();
    fields.push(column);
    let schema = Type::group_type_builder(file.schema().name()).with_fields(fields).build()?;
    let schema = Arc::new(SchemaDescriptor::new(Arc::new(schema)));
    let groups = of_file.row_groups().iter().zip(of_ids.row_groups()).map(|(group, ids)| {
        let columns = group.columns().iter().chain(ids.columns()).cloned().collect();
        let mut joined = RowGroupMetaData::builder(Arc::clone(&schema))
            .set_num_rows(group.num_rows())
            .set_total_byte_size(group.total_byte_size() + ids.total_byte_size())
            .set_sorting_columns(group.sorting_columns().cloned())
            .set_column_metadata(columns);
        if let Some(ordinal) = group.ordinal() {
            joined = joined.set_ordinal(ordinal);
        }
        if let Some(offset) = group.file_offset() {
            joined = joined.set_file_offset(offset);
        }
        joined.build()
    });
    let groups = groups.collect::<Result<Vec<_>, ParquetError>>()?;
    let keys = file.key_value_metadata().cloned();
    let created_by = file.created_by().map(str::to_owned);
    let file = FileMetaData::new(file.version(), file.num_rows(), created_by, keys, schema, None);
    // An index of pages is of all columns.
    let columns = of_file.column_index().zip(of_ids.column_index()).map(|(file, ids)| side_by_side(file, ids));
    let offsets = of_file.offset_index().zip(of_ids.offset_index()).map(|(file, ids)| side_by_side(file, ids));
    let joined = ParquetMetaData::new(file, groups).into_builder();
    Ok(joined.set_column_index(columns).set_offset_index(offsets).build())
}

/// Of each row group.
fn side_by_side<T: Clone>(of_file: &[Vec<T>], of_ids: &[Vec<T>]) -> Vec<Vec<T>> {
    of_file.iter().zip(of_ids).map(|(file, ids)| file.iter().chain(ids).cloned().collect()).collect()
}
