//! The old files of a group, on their way from storage: a small one by one request, a large one by its row groups, so much ahead.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use firn_catalog::live::LiveFile;
use futures::{StreamExt, TryStreamExt, stream};
use iceberg::arrow::ArrowFileReader;
use iceberg::io::{FileIO, FileMetadata, FileRead};
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::errors::ParquetError;
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::reader::{ChunkReader, Length};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, mpsc};

use crate::sink::lake::LakeError;
use crate::sink::lake::stored::{Columns, has_field_ids};

/// Larger files are read by their row groups. Larger: fewer requests, and more to hold.
const WHOLE_BYTES: u64 = 8 << 20;
/// Requests at once.
const AT_ONCE: usize = 8;
/// Bytes of small files that are read ahead. More of it is out of the processor's caches again when it is decoded.
const AHEAD_BYTES: u64 = 2 * WHOLE_BYTES;
/// Bytes between two ranges that are rather read than asked around.
const GAP_BYTES: u64 = 1 << 20;
/// What permits are counted in.
const PERMIT_BYTES: u64 = 1 << 10;

/// Rows of an old file that can be decoded by themselves: all, or a row group.
pub(super) struct Part {
    /// The file, by its number in the group.
    pub(super) old_file: usize,
    bytes: Held,
    /// Of a large file, and the row group of it.
    row_group: Option<(ArrowReaderMetadata, usize)>,
    /// Of its file, gone with the bytes of the last part; and of those of a large file at once.
    _room: Arc<OwnedSemaphorePermit>,
    _turn: Option<OwnedSemaphorePermit>,
}

impl Part {
    /// Its rows, `columns` of them, so many bytes at a time. To be asked on a thread that may block.
    ///
    /// # Errors
    /// When the file is damaged, or does not say which column is which.
    pub(super) fn rows(&self, columns: &Columns, batch_bytes: u64) -> Result<ParquetRecordBatchReader, LakeError> {
        let bytes = self.bytes.clone();
        let reader = match &self.row_group {
            None => ParquetRecordBatchReaderBuilder::try_new(bytes)?,
            Some((metadata, n)) => {
                ParquetRecordBatchReaderBuilder::new_with_metadata(bytes, metadata.clone()).with_row_groups(vec![*n])
            }
        };
        if !has_field_ids(reader.schema().fields()) {
            return Err(LakeError::Storage(
                "its columns have no field ids (it was imported), so which they are can't be told for sure: rewrite it with the \
                 engine that imported it"
                    .to_owned(),
            ));
        }
        Ok(columns.chosen(reader, batch_bytes).build()?)
    }
}

/// Reads files in order, with so many bytes in memory, unless a row group is larger.
pub(super) struct Fetch {
    pub(super) file_io: FileIO,
    pub(super) columns: Columns,
    pub(super) most_bytes: u64,
}

/// An old file, by its number in the group.
pub(super) type Numbered = (usize, Arc<LiveFile>);

impl Fetch {
    /// Hands on the parts of the files, as many as there is room for: it waits for room before it asks storage, never with an answer
    /// under way, which storage would cut off.
    ///
    /// # Errors
    /// When a file can't be read: it is named.
    pub(super) async fn run(
        self: Arc<Self>,
        files: Vec<Numbered>,
        parts: mpsc::UnboundedSender<Part>,
    ) -> Result<(), LakeError> {
        let permits = (self.most_bytes.min(AHEAD_BYTES) / PERMIT_BYTES).max(1) as u32;
        let room = Arc::new(Semaphore::new(permits as usize));
        let whole_bytes = WHOLE_BYTES.min(self.most_bytes / 2);
        let fetch = Arc::clone(&self);
        let mut opened = stream::iter(files)
            // One after the other: none gets room that an earlier one waits for. A large file takes all of it.
            .then(move |file: Numbered| {
                let bytes = file.1.file.file_size_in_bytes();
                let is_small = bytes <= whole_bytes;
                let needed = if is_small { bytes.div_ceil(PERMIT_BYTES).max(1) as u32 } else { permits };
                let taken = Arc::clone(&room).acquire_many_owned(needed.min(permits));
                async move { Ok::<_, LakeError>((file, is_small, taken.await.map_err(closed)?)) }
            })
            .map_ok(move |(file, is_small, room)| {
                let fetch = Arc::clone(&fetch);
                async move {
                    let path = file.1.file.file_path().to_owned();
                    match is_small {
                        true => fetch.whole(file, room).await.map(Opened::Whole),
                        false => fetch.open(file, room).await.map(Opened::Large),
                    }
                    .map_err(|e| named(e, &path))
                }
            })
            .try_buffered(AT_ONCE)
            .boxed();
        while let Some(file) = opened.try_next().await? {
            let sent = match file {
                Opened::Whole(part) => parts.send(part).is_ok(),
                Opened::Large(large) => self.row_groups(large, &parts).await?,
            };
            if !sent {
                // Whoever takes them has failed, and tells why.
                break;
            }
        }
        Ok(())
    }

    async fn whole(&self, (old_file, file): Numbered, room: OwnedSemaphorePermit) -> Result<Part, LakeError> {
        let reader = self.file_io.new_input(file.file.file_path())?.reader().await?;
        let bytes = reader.read(0..file.file.file_size_in_bytes()).await?;
        let bytes = Held { file_bytes: bytes.len() as u64, ranges: vec![(0, bytes)] };
        Ok(Part { old_file, bytes, row_group: None, _room: Arc::new(room), _turn: None })
    }

    async fn open(&self, (old_file, file): Numbered, room: OwnedSemaphorePermit) -> Result<Large, LakeError> {
        let path = file.file.file_path().to_owned();
        let size = file.file.file_size_in_bytes();
        let input = self.file_io.new_input(&path)?;
        let mut footer = ArrowFileReader::new(FileMetadata { size }, input.reader().await?);
        let metadata = ArrowReaderMetadata::load_async(&mut footer, ArrowReaderOptions::default()).await?;
        let reader: Arc<dyn FileRead> = input.reader().await?.into();
        Ok(Large { old_file, path, size, metadata, reader, room })
    }

    /// Answers whether somebody takes them.
    async fn row_groups(&self, large: Large, parts: &mpsc::UnboundedSender<Part>) -> Result<bool, LakeError> {
        let Large { old_file, path, size, metadata, reader, room } = large;
        let room = Arc::new(room);
        let groups = self.row_group_ranges(&metadata, size);
        let largest = groups.iter().map(|of| of.iter().map(|range| range.end - range.start).sum::<u64>()).max();
        // As many at once as fit; the next is read while one is decoded, if two fit.
        let at_once = (self.most_bytes / largest.unwrap_or(0).max(1)).clamp(1, 4) as usize;
        let turns = Arc::new(Semaphore::new(at_once));
        for (n, ranges) in groups.into_iter().enumerate() {
            let turn = Arc::clone(&turns).acquire_owned().await.map_err(closed)?;
            let mut bytes = vec![];
            for range in ranges {
                let start = range.start;
                let read = reader.read(range).await.map_err(|e| named(e.into(), &path))?;
                bytes.push((start, read));
            }
            let part = Part {
                old_file,
                bytes: Held { file_bytes: size, ranges: bytes },
                row_group: Some((metadata.clone(), n)),
                _room: Arc::clone(&room),
                _turn: Some(turn),
            };
            if parts.send(part).is_err() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Of each row group what is to be read.
    fn row_group_ranges(&self, metadata: &ArrowReaderMetadata, file_bytes: u64) -> Vec<Vec<Range<u64>>> {
        let nothing = Held { file_bytes, ranges: vec![] };
        let mask = self.columns.mask(&ParquetRecordBatchReaderBuilder::new_with_metadata(nothing, metadata.clone()));
        let of = |group: &RowGroupMetaData| {
            let chunks = group.columns().iter().enumerate().filter(|(leaf, _)| mask.leaf_included(*leaf));
            together(chunks.map(|(_, chunk)| {
                let (first, bytes) = chunk.byte_range();
                first..first + bytes
            }))
        };
        metadata.metadata().row_groups().iter().map(of).collect()
    }
}

fn closed(e: AcquireError) -> LakeError {
    LakeError::Storage(e.to_string())
}

enum Opened {
    Whole(Part),
    Large(Large),
}

/// A file whose footer was read.
struct Large {
    old_file: usize,
    path: String,
    size: u64,
    metadata: ArrowReaderMetadata,
    reader: Arc<dyn FileRead>,
    room: OwnedSemaphorePermit,
}

/// Ranges in the order of a file, those near each other as one.
fn together(ranges: impl Iterator<Item = Range<u64>>) -> Vec<Range<u64>> {
    let mut sorted: Vec<Range<u64>> = ranges.collect();
    sorted.sort_unstable_by_key(|range| range.start);
    let mut together: Vec<Range<u64>> = vec![];
    for range in sorted {
        match together.last_mut() {
            Some(last) if range.start <= last.end.saturating_add(GAP_BYTES) => last.end = last.end.max(range.end),
            _ => together.push(range),
        }
    }
    together
}

/// Errors of storage and decoders don't always say of which file.
pub(super) fn named(e: LakeError, path: &str) -> LakeError {
    let reason = match e {
        LakeError::Storage(reason) => reason,
        e => e.to_string(),
    };
    LakeError::Storage(format!("reading {path}: {reason}"))
}

/// Ranges of a file in memory.
#[derive(Clone)]
struct Held {
    file_bytes: u64,
    /// By where they begin.
    ranges: Vec<(u64, Bytes)>,
}

impl Held {
    /// From here to the end of what was read in one.
    fn from(&self, start: u64) -> Result<Bytes, ParquetError> {
        let at = self.ranges.partition_point(|(first, _)| *first <= start).checked_sub(1);
        let range = at.and_then(|at| self.ranges.get(at));
        let held = range.and_then(|(first, bytes)| Some((bytes, usize::try_from(start - first).ok()?)));
        match held.filter(|(bytes, skip)| *skip <= bytes.len()) {
            Some((bytes, skip)) => Ok(bytes.slice(skip..)),
            None => Err(ParquetError::EOF(format!("no bytes at {start}"))),
        }
    }
}

impl Length for Held {
    fn len(&self) -> u64 {
        self.file_bytes
    }
}

impl ChunkReader for Held {
    type T = bytes::buf::Reader<Bytes>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        Ok(self.from(start)?.reader())
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let bytes = self.from(start)?;
        match length <= bytes.len() {
            true => Ok(bytes.slice(..length)),
            false => Err(ParquetError::EOF(format!("{length} bytes at {start}, of which {} are there", bytes.len()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_are_near_are_read_in_one() {
        let mib = 1 << 20;
        let ranges = [5 * mib..6 * mib, 0..10, 20..30, 30..mib];
        assert_eq!(together(ranges.into_iter()), [0..mib, 5 * mib..6 * mib]);
    }

    #[test]
    fn bytes_are_found_where_they_stand_in_the_file() {
        let ranges = vec![(4, Bytes::from_static(b"abcdef")), (100, Bytes::from_static(b"xyz"))];
        let held = Held { file_bytes: 200, ranges };
        assert_eq!(held.get_bytes(6, 3).unwrap(), "cde");
        assert_eq!(held.get_bytes(100, 3).unwrap(), "xyz");
        let mut rest = String::new();
        std::io::Read::read_to_string(&mut held.get_read(8).unwrap(), &mut rest).unwrap();
        assert_eq!(rest, "ef");
        assert!(held.get_bytes(9, 2).is_err() && held.get_bytes(0, 1).is_err() && held.get_bytes(50, 1).is_err());
    }
}
