//! Deleted positions of data files: position delete files (format v2) and deletion vectors (v3), read and written.
//!
//! Knows files; which rows to delete is decided elsewhere. No equality delete is ever written.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow_schema::DataType;
use firn_catalog::{SpecFile, surroundings};
use futures::{StreamExt, TryStreamExt, stream};
use iceberg::arrow::schema_to_arrow_schema;
use iceberg::io::FileIO;
use iceberg::metadata_columns::{RESERVED_FIELD_ID_DELETE_FILE_PATH, RESERVED_FIELD_ID_DELETE_FILE_POS};
use iceberg::puffin::{Blob, CompressionCodec, DELETION_VECTOR_V1, PuffinWriter};
use iceberg::spec::{
    DataContentType, DataFileBuilder, DataFileFormat, FormatVersion, NestedField, PrimitiveType, Schema, Struct, Type,
};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;
use roaring::{RoaringBitmap, RoaringTreemap};

use crate::sink::lake::LakeError;
use crate::sink::lake::metrics::Bounds;
use crate::sink::lake::parquet_file::encode_whole;
use crate::sink::lake::scan::{WantedColumn, read_columns};

/// Delete files read at once: each is a small request.
const AT_ONCE: usize = 16;
/// Delete files written at once: each is encoded on a thread of its own first, and held until it is stored.
const WRITTEN_AT_ONCE: usize = 4;
/// Rows of a delete file that are encoded at once.
const ENCODED_AT_ONCE: u64 = 8_192;
/// First bytes of a deletion vector (Iceberg spec, Puffin `deletion-vector-v1`).
const DV_MAGIC: [u8; 4] = [0xD1, 0xD3, 0x39, 0x64];
/// `_pos`, as the reference implementation writes it into a deletion vector's fields.
const POSITION_FIELD_ID: i32 = i32::MAX - 2;

/// The rows to be deleted from one data file: all of them, earlier ones too.
#[derive(Debug)]
pub(crate) struct Deleted {
    pub(crate) data_file: String,
    pub(crate) spec_id: i32,
    pub(crate) partition: Struct,
    pub(crate) positions: RoaringBitmap,
}

/// Writes the delete files of one commit: in v2 one per data file, in v3 one Puffin file with a vector per data file.
///
/// # Errors
/// When storage fails.
pub(crate) async fn write(
    file_io: &FileIO,
    data_location: &str,
    format: FormatVersion,
    deleted: Vec<Deleted>,
) -> Result<Vec<SpecFile>, LakeError> {
    if deleted.is_empty() {
        return Ok(vec![]);
    }
    let id = surroundings::new_id();
    if format >= FormatVersion::V3 {
        let path = format!("{data_location}/{}-deletes.puffin", id.simple());
        let written = write_vectors(file_io, path.clone(), deleted).await;
        return all_or_none(file_io, vec![path], written).await;
    }
    let paths: Vec<String> =
        (0..deleted.len()).map(|n| format!("{data_location}/{}-deletes-{n:05}.parquet", id.simple())).collect();
    // None is cut off when another fails: what is removed then must not come to be later.
    let written: Vec<Result<SpecFile, LakeError>> = stream::iter(paths.clone().into_iter().zip(deleted))
        .map(|(path, d)| write_position_file(file_io, path, d))
        .buffered(WRITTEN_AT_ONCE)
        .collect()
        .await;
    all_or_none(file_io, paths, written.into_iter().collect()).await
}

/// Removes all the files when one could not be written, or its answer was lost: they are this attempt's alone.
async fn all_or_none(
    file_io: &FileIO,
    paths: Vec<String>,
    written: Result<Vec<SpecFile>, LakeError>,
) -> Result<Vec<SpecFile>, LakeError> {
    if written.is_err() {
        let _ = file_io.delete_stream(stream::iter(paths)).await;
    }
    written
}

fn position_schema() -> Result<Schema, LakeError> {
    let field = |id, name: &str, t| Arc::new(NestedField::required(id, name, Type::Primitive(t)));
    Ok(Schema::builder()
        .with_fields([
            field(RESERVED_FIELD_ID_DELETE_FILE_PATH, "file_path", PrimitiveType::String),
            field(RESERVED_FIELD_ID_DELETE_FILE_POS, "pos", PrimitiveType::Long),
        ])
        .build()?)
}

async fn write_position_file(file_io: &FileIO, path: String, deleted: Deleted) -> Result<SpecFile, LakeError> {
    let output = file_io.new_output(&path)?;
    let encode = move || -> Result<_, LakeError> {
        let schema = Arc::new(position_schema()?);
        let arrow = Arc::new(schema_to_arrow_schema(&schema)?);
        // In pieces: the path is repeated in every row.
        let most = deleted.positions.len().min(ENCODED_AT_ONCE) as usize;
        let paths: ArrayRef = Arc::new(StringArray::from_iter_values(std::iter::repeat_n(&deleted.data_file, most)));
        let mut left = deleted.positions.iter().map(i64::from).peekable();
        let batches = std::iter::from_fn(|| {
            left.peek()?;
            let positions = Int64Array::from_iter_values(left.by_ref().take(most));
            Some(RecordBatch::try_new(Arc::clone(&arrow), vec![paths.slice(0, positions.len()), Arc::new(positions)]))
        });
        // Readers match a delete file to its data file by exact bounds of the path.
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
            .set_statistics_truncate_length(None)
            .set_column_dictionary_enabled(ColumnPath::from("pos"), false)
            .build();
        let (bytes, mut file) = encode_whole(&schema, Arc::clone(&arrow), batches, &path, properties, Bounds::Exact)?;
        file.content(DataContentType::PositionDeletes)
            .partition(deleted.partition)
            .partition_spec_id(deleted.spec_id)
            .referenced_data_file(Some(deleted.data_file));
        let file = file.build().map_err(|e| LakeError::Storage(format!("describing {path}: {e}")))?;
        Ok((bytes, SpecFile { spec_id: deleted.spec_id, file }))
    };
    let (bytes, file) = surroundings::joined(tokio::task::spawn_blocking(encode))
        .await
        .map_err(|e| LakeError::Storage(format!("encoding a delete file: {e}")))??;
    let location = output.location().to_owned();
    output.write(bytes).await.map_err(|e| LakeError::Storage(format!("writing {location}: {e}")))?;
    Ok(file)
}

async fn write_vectors(file_io: &FileIO, path: String, deleted: Vec<Deleted>) -> Result<Vec<SpecFile>, LakeError> {
    let failed = |e: iceberg::Error| LakeError::Storage(format!("writing {path}: {e}"));
    let output = file_io.new_output(&path)?;
    let created_by = HashMap::from([("created-by".to_owned(), concat!("firn ", env!("CARGO_PKG_VERSION")).to_owned())]);
    let mut writer = PuffinWriter::new(&output, created_by, false).await.map_err(failed)?;
    // Blobs follow the magic number and one another without gaps, since they are not compressed.
    let mut offset = 4i64;
    let mut placed = vec![];
    for d in deleted {
        let data = encode_vector(&d.positions)?;
        let length = data.len() as i64;
        let blob = Blob::builder()
            .r#type(DELETION_VECTOR_V1.to_owned())
            .fields(vec![POSITION_FIELD_ID])
            .snapshot_id(-1)
            .sequence_number(-1)
            .data(data)
            .properties(HashMap::from([
                ("referenced-data-file".to_owned(), d.data_file.clone()),
                ("cardinality".to_owned(), d.positions.len().to_string()),
            ]))
            .build();
        writer.add(blob, CompressionCodec::None).await.map_err(failed)?;
        placed.push((d, offset, length));
        offset += length;
    }
    writer.close().await.map_err(failed)?;
    let size = output.to_input_file().metadata().await.map_err(failed)?.size;
    placed
        .into_iter()
        .map(|(d, offset, length)| {
            let file = DataFileBuilder::default()
                .content(DataContentType::PositionDeletes)
                .file_path(path.clone())
                .file_format(DataFileFormat::Puffin)
                .partition(d.partition)
                .partition_spec_id(d.spec_id)
                .record_count(d.positions.len())
                .file_size_in_bytes(size)
                .referenced_data_file(Some(d.data_file))
                .content_offset(Some(offset))
                .content_size_in_bytes(Some(length))
                .build()
                .map_err(|e| LakeError::Storage(format!("describing {path}: {e}")))?;
            Ok(SpecFile { spec_id: d.spec_id, file })
        })
        .collect()
}

/// Length, magic, 64-bit roaring bitmap, checksum (Iceberg spec, Puffin `deletion-vector-v1`).
fn encode_vector(positions: &RoaringBitmap) -> Result<Vec<u8>, LakeError> {
    let wide: RoaringTreemap = positions.iter().map(u64::from).collect();
    let mut body = DV_MAGIC.to_vec();
    wide.serialize_into(&mut body).map_err(|e| LakeError::Storage(format!("encoding a deletion vector: {e}")))?;
    let mut out = (body.len() as u32).to_be_bytes().to_vec();
    out.extend_from_slice(&body);
    out.extend_from_slice(&crc32fast::hash(&body).to_be_bytes());
    Ok(out)
}

fn decode_vector(path: &str, blob: &[u8]) -> Result<RoaringBitmap, LakeError> {
    let damaged = |why: &str| LakeError::Storage(format!("{path}: damaged deletion vector: {why}"));
    let (length, rest) = blob.split_first_chunk::<4>().ok_or_else(|| damaged("too short"))?;
    let (body, checksum) = rest.split_last_chunk::<4>().ok_or_else(|| damaged("too short"))?;
    if u32::from_be_bytes(*length) as usize != body.len() {
        return Err(damaged("its length is wrong"));
    }
    if crc32fast::hash(body).to_be_bytes() != *checksum {
        return Err(damaged("its checksum is wrong"));
    }
    let bitmap = body.strip_prefix(&DV_MAGIC).ok_or_else(|| damaged("its magic number is wrong"))?;
    let wide = RoaringTreemap::deserialize_from(bitmap).map_err(|e| damaged(&e.to_string()))?;
    wide.iter().map(|p| u32::try_from(p).map_err(|_| damaged("a position is beyond 2^32"))).collect()
}

/// A delete file as the table lists it: enough to read it and to take it out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeleteFile {
    pub(crate) path: String,
    /// Offset and length within a Puffin file.
    pub(crate) vector: Option<(i64, i64)>,
    /// `false` when it holds positions of other data files too: such a file stays when one data file gets a new delete file.
    pub(crate) one_data_file: bool,
}

/// The deleted positions of each of `wanted` (a data file and its delete files). Each delete file is read once.
///
/// # Errors
/// When one can't be read.
pub(crate) async fn read(
    file_io: &FileIO,
    wanted: &[(&str, &[DeleteFile])],
) -> Result<HashMap<String, RoaringBitmap>, LakeError> {
    let mut all: HashMap<String, RoaringBitmap> =
        wanted.iter().map(|(path, _)| ((*path).to_owned(), RoaringBitmap::new())).collect();
    let mut readers = BTreeMap::<(String, Option<(i64, i64)>), Vec<String>>::new();
    for (data_file, deletes) in wanted {
        for delete in *deletes {
            readers.entry((delete.path.clone(), delete.vector)).or_default().push((*data_file).to_owned());
        }
    }
    let parts: Vec<Vec<(String, RoaringBitmap)>> = stream::iter(readers)
        .map(|((path, vector), data_files)| read_one(file_io.clone(), path, vector, data_files))
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    for (data_file, positions) in parts.into_iter().flatten() {
        *all.entry(data_file).or_default() |= positions;
    }
    Ok(all)
}

async fn read_one(
    file_io: FileIO,
    path: String,
    vector: Option<(i64, i64)>,
    data_files: Vec<String>,
) -> Result<Vec<(String, RoaringBitmap)>, LakeError> {
    if let Some((offset, length)) = vector {
        let failed = |e: iceberg::Error| LakeError::Storage(format!("reading {path}: {e}"));
        let reader = file_io.new_input(&path)?.reader().await.map_err(failed)?;
        let range = offset.max(0) as u64..(offset + length).max(0) as u64;
        let positions = decode_vector(&path, &reader.read(range).await.map_err(failed)?)?;
        return Ok(data_files.into_iter().map(|f| (f, positions.clone())).collect());
    }
    let columns = [
        path_column(),
        WantedColumn { id: RESERVED_FIELD_ID_DELETE_FILE_POS, name: "pos".to_owned(), data_type: DataType::Int64 },
    ];
    let mut found: Vec<(String, RoaringBitmap)> = data_files.into_iter().map(|f| (f, RoaringBitmap::new())).collect();
    read_columns(&file_io, &path, &columns, |arrays, rows| {
        let [paths, positions] = arrays else { return Ok(()) };
        let (paths, positions) = (paths.as_string::<i32>(), positions.as_primitive::<Int64Type>());
        // The file is sorted by path: rows of one data file are neighbours.
        let mut at = usize::MAX;
        for row in 0..rows {
            let data_file = paths.value(row);
            if found.get(at).is_none_or(|(f, _)| f != data_file) {
                at = found.iter().position(|(f, _)| f == data_file).unwrap_or(usize::MAX);
            }
            if let Some((_, set)) = found.get_mut(at) {
                let position = u32::try_from(positions.value(row))
                    .map_err(|_| LakeError::Storage(format!("{path}: a position is beyond 2^32")))?;
                set.insert(position);
            }
        }
        Ok(())
    })
    .await?;
    Ok(found)
}

fn path_column() -> WantedColumn {
    WantedColumn { id: RESERVED_FIELD_ID_DELETE_FILE_PATH, name: "file_path".to_owned(), data_type: DataType::Utf8 }
}

/// The data files that a position delete file has rows of.
///
/// # Errors
/// When it can't be read.
pub(crate) async fn data_files(file_io: &FileIO, path: &str) -> Result<BTreeSet<String>, LakeError> {
    let mut files = BTreeSet::new();
    read_columns(file_io, path, &[path_column()], |arrays, rows| {
        let [paths] = arrays else { return Ok(()) };
        let paths = paths.as_string::<i32>();
        let mut last = "";
        for row in 0..rows {
            let path = paths.value(row);
            if path != last {
                files.insert(path.to_owned());
                last = path;
            }
        }
        Ok(())
    })
    .await?;
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn deleted(data_file: &str, positions: &[u32]) -> Deleted {
        Deleted {
            data_file: data_file.to_owned(),
            spec_id: 0,
            partition: Struct::empty(),
            positions: positions.iter().copied().collect(),
        }
    }

    fn listed(file: &SpecFile) -> DeleteFile {
        DeleteFile {
            path: file.file.file_path().to_owned(),
            vector: file.file.content_offset().zip(file.file.content_size_in_bytes()),
            one_data_file: true,
        }
    }

    #[rstest]
    #[case::position_delete_files(FormatVersion::V2)]
    #[case::deletion_vectors(FormatVersion::V3)]
    #[tokio::test]
    async fn what_was_deleted_reads_back_per_data_file(#[case] format: FormatVersion) {
        let io = FileIO::new_with_memory();
        let long = format!("memory://t/data/{}.parquet", "x".repeat(100));
        let files =
            write(&io, "memory://t/data", format, vec![deleted(&long, &[1, 5, 70_000]), deleted("memory://t/b", &[0])])
                .await
                .unwrap();
        assert_eq!(files[0].file.record_count(), 3);
        assert_eq!(files[0].file.referenced_data_file().as_deref(), Some(long.as_str()));
        let (a, b) = ([listed(&files[0])], [listed(&files[1])]);
        let read = read(&io, &[(&long, &a), ("memory://t/b", &b), ("memory://t/c", &[])]).await.unwrap();
        assert_eq!(read[&long].iter().collect::<Vec<_>>(), [1, 5, 70_000]);
        assert_eq!(read["memory://t/b"].iter().collect::<Vec<_>>(), [0]);
        assert!(read["memory://t/c"].is_empty());
    }

    #[tokio::test]
    async fn a_position_delete_file_names_its_data_file_by_exact_bounds() {
        let io = FileIO::new_with_memory();
        let long = format!("memory://t/data/{}.parquet", "x".repeat(100));
        let files = write(&io, "memory://t", FormatVersion::V2, vec![deleted(&long, &[3])]).await.unwrap();
        let file = &files[0].file;
        let exact = iceberg::spec::Datum::string(&long);
        assert_eq!(file.lower_bounds().get(&RESERVED_FIELD_ID_DELETE_FILE_PATH), Some(&exact));
        assert_eq!(file.upper_bounds().get(&RESERVED_FIELD_ID_DELETE_FILE_PATH), Some(&exact));
    }

    #[test]
    fn a_damaged_vector_is_refused() {
        let whole = encode_vector(&[1, 2, 3].into_iter().collect()).unwrap();
        for at in [0, 5, 20, whole.len() - 1] {
            let mut broken = whole.clone();
            broken[at] ^= 1;
            assert!(decode_vector("p", &broken).is_err(), "byte {at}");
        }
        assert!(decode_vector("p", &whole[..6]).is_err());
    }
}
