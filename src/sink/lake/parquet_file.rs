//! One Parquet file in the making: encoded on the caller's thread, uploaded on the runtime while it grows.
//!
//! Knows Parquet and storage; knows nothing of keys, tables or commits.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::{ArrowError, SchemaRef as ArrowSchemaRef};
use bytes::{Bytes, BytesMut};
use iceberg::io::{FileIO, OutputFile};
use iceberg::spec::{DataFileBuilder, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use crate::memory::{Counted, Kind, Memory};
use crate::sink::lake::LakeError;
use crate::sink::lake::metrics::{Bounds, NanCounts, describe};
use crate::sink::lake::row_ids::OpenEnd;

/// Bytes handed to the upload at once: above S3's 5 MiB minimum of a part. Larger holds more memory per open file.
const CHUNK_BYTES: usize = 8 << 20;
/// Chunks that may wait for the upload. One more is filled meanwhile, so a file holds at most three.
const CHUNKS_WAITING: usize = 1;
/// Rows of a row group: what the encoder holds in memory before a byte leaves.
const ROW_GROUP_ROWS: usize = 128 << 10;
/// Pieces that a storage's writer may have on their way after it has taken them: parts of a multipart upload, and one that is not full.
const PIECES_ON_THEIR_WAY: usize = 5;

/// How data files are encoded.
pub(crate) fn data_properties(zstd_level: i32) -> Result<WriterProperties, LakeError> {
    Ok(WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(zstd_level)?))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_created_by(concat!("firn ", env!("CARGO_PKG_VERSION")).to_owned())
        .build())
}

/// A Parquet file that is being written.
pub(crate) struct ParquetFile {
    path: String,
    schema: SchemaRef,
    writer: ArrowWriter<Chunks>,
    upload: Upload,
    nan: NanCounts,
    rows: u64,
}

/// A file's way to storage. Its bytes go up while it grows, but it comes to be only when it is released: a process killed meanwhile
/// leaves no file behind. Dropped before that, it never comes to be.
#[derive(Debug)]
pub(crate) struct Upload {
    /// `None` once released.
    release: Option<oneshot::Sender<()>>,
    /// `None` once told.
    done: Option<oneshot::Receiver<Result<(), LakeError>>>,
}

impl Upload {
    /// Lets the file come to be.
    pub(crate) fn release(&mut self) {
        if let Some(release) = self.release.take() {
            // An upload that failed waits for nothing; `finished` tells why.
            let _ = release.send(());
        }
    }

    pub(crate) fn is_released(&self) -> bool {
        self.release.is_none()
    }

    /// Releases the file and resolves once it is durable. To be asked once.
    ///
    /// # Errors
    /// When the file could not be stored: it does not exist then.
    pub(crate) async fn finished(&mut self) -> Result<(), LakeError> {
        self.release();
        let told = match self.done.as_mut() {
            Some(upload) => upload.await.ok(),
            None => None,
        };
        self.done = None;
        told.unwrap_or_else(|| Err(LakeError::Storage("the upload was cut off".to_owned())))
    }

    /// Why writing failed: the upload's own error where there is one. Bytes go nowhere but to the upload.
    pub(crate) fn reason(&mut self, e: ParquetError) -> LakeError {
        match (self.done.as_mut().and_then(|upload| upload.try_recv().ok()), e) {
            (Some(Err(reason)), _) => reason,
            (_, ParquetError::External(e)) => LakeError::Storage(e.to_string()),
            (_, e) => LakeError::Parquet(e),
        }
    }
}

/// A finished file on its way to storage.
pub(crate) struct FinishedFile {
    pub(crate) path: String,
    pub(crate) rows: u64,
    pub(crate) data_file: DataFileBuilder,
    pub(crate) upload: Upload,
}

impl ParquetFile {
    /// Begins the file; nothing is stored before the first chunk is full. Wide rows make row groups of the share that `memory` has for
    /// a file, before they are [`ROW_GROUP_ROWS`].
    ///
    /// # Errors
    /// When the schema can't be written as Parquet or the path belongs to no known storage.
    pub(crate) fn create(
        file_io: &FileIO,
        io: &Handle,
        path: String,
        schema: SchemaRef,
        arrow_schema: ArrowSchemaRef,
        properties: WriterProperties,
        memory: &Arc<Memory>,
    ) -> Result<Self, LakeError> {
        let output = file_io.new_output(&path)?;
        let (chunks, upload) = Chunks::begin(output, io, memory);
        let properties = properties.into_builder().set_max_row_group_bytes(Some(memory.file_bytes())).build();
        // The Arrow schema would repeat what the field ids and Parquet's own types say.
        let options = ArrowWriterOptions::new().with_properties(properties).with_skip_arrow_metadata(true);
        let writer = ArrowWriter::try_new_with_options(chunks, arrow_schema, options)?;
        Ok(Self { path, schema, writer, upload, nan: NanCounts::default(), rows: 0 })
    }

    pub(crate) fn write(&mut self, batch: &RecordBatch) -> Result<(), LakeError> {
        self.nan.count(batch);
        if let Err(e) = self.writer.write(batch) {
            return Err(self.upload.reason(e));
        }
        self.rows += batch.num_rows() as u64;
        Ok(())
    }

    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }

    /// Size of the file as far as it is known: written and encoded bytes.
    pub(crate) fn size_bytes(&self) -> u64 {
        (self.writer.bytes_written() + self.writer.in_progress_size()) as u64
    }

    /// Memory held for this file, without what is on its way to storage.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.writer.memory_size() + self.writer.inner().buffered_bytes()
    }

    /// Writes all rows, and no footer: more is to stand behind them. The file is described as far as it goes.
    pub(crate) fn finish_open(mut self) -> Result<(FinishedFile, OpenEnd), LakeError> {
        let written = self.writer.flush().and_then(|()| Ok(self.writer.sync()?));
        if let Err(e) = written {
            return Err(self.upload.reason(e));
        }
        let chunks = self.writer.inner_mut().take();
        let footer = self.writer.finish()?;
        let size_bytes = chunks.bytes();
        let data_file = describe(&self.schema, &footer, &self.path, size_bytes, self.nan, Bounds::Short);
        let file = FinishedFile { path: self.path, rows: self.rows, data_file, upload: self.upload };
        Ok((file, OpenEnd::new(chunks, footer)))
    }

    /// Writes the footer; the rest of the upload goes on in the background, up to its last step.
    pub(crate) fn finish(mut self) -> Result<FinishedFile, LakeError> {
        let footer = match self.writer.finish() {
            Ok(footer) => footer,
            Err(e) => return Err(self.upload.reason(e)),
        };
        let size_bytes = match self.writer.inner_mut().end() {
            Ok(size_bytes) => size_bytes,
            Err(e) => return Err(self.upload.reason(e.into())),
        };
        let data_file = describe(&self.schema, &footer, &self.path, size_bytes, self.nan, Bounds::Short);
        Ok(FinishedFile { path: self.path, rows: self.rows, data_file, upload: self.upload })
    }
}

enum Piece {
    /// Counted until storage has them.
    Bytes(Bytes, Counted),
    /// The file is whole. Without it the upload gives up and removes what it stored.
    End,
}

/// Collects the encoder's bytes and hands them on in chunks; waits while the upload is behind.
pub(crate) struct Chunks {
    buffer: BytesMut,
    /// `None` once taken: what is written then goes nowhere.
    to_upload: Option<mpsc::Sender<Piece>>,
    memory: Arc<Memory>,
    sent_bytes: u64,
}

impl Chunks {
    fn begin(output: OutputFile, io: &Handle, memory: &Arc<Memory>) -> (Self, Upload) {
        let (to_upload, pieces) = mpsc::channel(CHUNKS_WAITING);
        let (done, finished) = oneshot::channel();
        let (release, released) = oneshot::channel();
        io.spawn(async move {
            // Nobody may be waiting any more: the batch was given up.
            let _ = done.send(upload(output, pieces, released).await);
        });
        let upload = Upload { release: Some(release), done: Some(finished) };
        (
            Self { buffer: BytesMut::new(), to_upload: Some(to_upload), memory: Arc::clone(memory), sent_bytes: 0 },
            upload,
        )
    }

    /// Takes what was written so far, and the way on, away from the encoder.
    fn take(&mut self) -> Self {
        let gone = Self { buffer: BytesMut::new(), to_upload: None, memory: Arc::clone(&self.memory), sent_bytes: 0 };
        std::mem::replace(self, gone)
    }

    /// Memory held, without what is on its way to storage.
    pub(crate) fn buffered_bytes(&self) -> usize {
        self.buffer.capacity()
    }

    /// Written so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.sent_bytes + self.buffer.len() as u64
    }

    fn send(&self, piece: Piece) -> std::io::Result<()> {
        // The reason of a broken upload is told by `Upload::finished`; writing on would only fill memory.
        let sent = self.to_upload.as_ref().map_or(Ok(()), |upload| upload.blocking_send(piece));
        sent.map_err(|_| std::io::Error::other("the upload of this file failed"))
    }

    fn hand_on(&mut self) -> std::io::Result<()> {
        if !self.buffer.is_empty() {
            self.sent_bytes += self.buffer.len() as u64;
            let chunk = self.buffer.split().freeze();
            let mut counted = self.memory.count(Kind::Uploads);
            counted.set(chunk.len());
            self.send(Piece::Bytes(chunk, counted))?;
        }
        Ok(())
    }

    /// The file is whole; answers its size in bytes.
    pub(crate) fn end(&mut self) -> std::io::Result<u64> {
        self.hand_on()?;
        self.send(Piece::End)?;
        Ok(self.sent_bytes)
    }
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.to_upload.is_none() {
            return Ok(bytes.len());
        }
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK_BYTES {
            self.hand_on()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

async fn upload(
    output: OutputFile,
    mut pieces: mpsc::Receiver<Piece>,
    released: oneshot::Receiver<()>,
) -> Result<(), LakeError> {
    let location = output.location().to_owned();
    let stored = |e: iceberg::Error| LakeError::Storage(format!("writing {location}: {e}"));
    let given_up = || LakeError::Storage(format!("{location} was given up"));
    // A file that fits one chunk is one request.
    let Some(Piece::Bytes(first, counted)) = pieces.recv().await else { return Err(given_up()) };
    let mut next = pieces.recv().await;
    if matches!(next, Some(Piece::End)) {
        released.await.map_err(|_| given_up())?;
        return output.write(first).await.map_err(stored);
    }
    // Dropped before its close, the writer takes back what it stored.
    let mut writer = output.writer().await.map_err(stored)?;
    writer.write(first).await.map_err(stored)?;
    let mut on_their_way = VecDeque::from([counted]);
    loop {
        match next {
            Some(Piece::Bytes(bytes, counted)) => {
                writer.write(bytes).await.map_err(stored)?;
                on_their_way.push_back(counted);
                if on_their_way.len() > PIECES_ON_THEIR_WAY {
                    on_their_way.pop_front();
                }
            }
            Some(Piece::End) => {
                released.await.map_err(|_| given_up())?;
                return writer.close().await.map_err(stored);
            }
            None => return Err(given_up()),
        }
        next = pieces.recv().await;
    }
}

impl std::fmt::Debug for ParquetFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ParquetFile").field("path", &self.path).field("rows", &self.rows).finish_non_exhaustive()
    }
}

/// A whole small Parquet file in memory, e.g. a position delete file, with what a manifest says about it.
pub(crate) fn encode_whole(
    schema: &SchemaRef,
    arrow_schema: ArrowSchemaRef,
    batches: impl Iterator<Item = Result<RecordBatch, ArrowError>>,
    path: &str,
    properties: WriterProperties,
    bounds: Bounds,
) -> Result<(Bytes, DataFileBuilder), LakeError> {
    let options = ArrowWriterOptions::new().with_properties(properties).with_skip_arrow_metadata(true);
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new_with_options(&mut bytes, Arc::clone(&arrow_schema), options)?;
    for batch in batches {
        writer.write(&batch?)?;
    }
    let footer = writer.close()?;
    let described = describe(schema, &footer, path, bytes.len() as u64, NanCounts::default(), bounds);
    Ok((Bytes::from(bytes), described))
}
