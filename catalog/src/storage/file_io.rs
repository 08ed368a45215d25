//! Iceberg's `Storage` over [`Stores`].

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use iceberg::io::{FileMetadata, FileRead, FileWrite, InputFile, OutputFile, Storage, StorageConfig, StorageFactory};
use object_store::buffered::BufWriter;
use object_store::path::Path;
use object_store::{Error as StoreError, ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;

use super::location::{Location, Scheme};
use super::{Stores, explain};
use crate::{Error, ErrorKind};

/// Above it a file goes up in parts of this size. S3 wants 5 MiB at least and 10,000 parts at most, so 80 GiB a file; larger
/// parts only cost memory.
const PART_BYTES: usize = 8 << 20;
/// Parts of one file in flight: with [`PART_BYTES`] it bounds the memory of an upload.
const PARTS_IN_FLIGHT: usize = 4;
/// What S3 takes in one bulk delete.
const DELETES_AT_ONCE: usize = 1000;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ObjectStoreFactory(Stores);

impl ObjectStoreFactory {
    pub fn new(stores: Stores) -> Self {
        Self(stores)
    }
}

#[typetag::serde(name = "firn-object-store-factory")]
impl StorageFactory for ObjectStoreFactory {
    fn build(&self, _: &StorageConfig) -> iceberg::Result<Arc<dyn Storage>> {
        Ok(Arc::new(ObjectStorage(self.0.clone())))
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ObjectStorage(Stores);

impl ObjectStorage {
    fn open(&self, location: &str) -> Result<File, Error> {
        let (store, path) = self.0.object_store(location)?;
        if path.as_ref().is_empty() {
            return Err(super::bad_location(location, "it names no file"));
        }
        Ok(File { store, path, location: location.to_owned(), endpoint: self.0.endpoint().map(str::to_owned) })
    }
}

/// One file of a store, with what its errors need.
#[derive(Clone, Debug)]
struct File {
    store: Arc<dyn ObjectStore>,
    path: Path,
    location: String,
    endpoint: Option<String>,
}

impl File {
    fn explain(&self, doing: &'static str) -> impl Fn(StoreError) -> Error + '_ {
        move |e| explain(e, doing, &self.location, self.endpoint.as_deref())
    }

    /// A local file is durable only when it is on the disk: `object_store` renames into place but does not sync.
    async fn make_durable(&self) -> Result<(), Error> {
        let Ok(Location { scheme: Scheme::File, path, .. }) = Location::parse(&self.location) else { return Ok(()) };
        let file = std::path::PathBuf::from(format!("/{path}"));
        let sync = move || -> std::io::Result<()> {
            std::fs::File::open(&file)?.sync_all()?;
            match file.parent() {
                Some(directory) => std::fs::File::open(directory)?.sync_all(),
                None => Ok(()),
            }
        };
        let synced = tokio::task::spawn_blocking(sync).await.map_err(std::io::Error::other).and_then(|r| r);
        synced.map_err(|e| self.explain("write")(StoreError::Generic { store: "LocalFileSystem", source: Box::new(e) }))
    }
}

#[async_trait]
#[typetag::serde(name = "firn-object-store")]
impl Storage for ObjectStorage {
    async fn exists(&self, path: &str) -> iceberg::Result<bool> {
        let file = self.open(path)?;
        match file.store.head(&file.path).await {
            Ok(_) => Ok(true),
            Err(StoreError::NotFound { .. }) => Ok(false),
            Err(e) => Err(file.explain("look for")(e).into()),
        }
    }

    async fn metadata(&self, path: &str) -> iceberg::Result<FileMetadata> {
        let file = self.open(path)?;
        let meta = file.store.head(&file.path).await.map_err(file.explain("look for"))?;
        Ok(FileMetadata { size: meta.size })
    }

    async fn read(&self, path: &str) -> iceberg::Result<Bytes> {
        let file = self.open(path)?;
        let got = file.store.get(&file.path).await.map_err(file.explain("read"))?;
        Ok(got.bytes().await.map_err(file.explain("read"))?)
    }

    async fn reader(&self, path: &str) -> iceberg::Result<Box<dyn FileRead>> {
        Ok(Box::new(self.open(path)?))
    }

    async fn write(&self, path: &str, bytes: Bytes) -> iceberg::Result<()> {
        let mut writer = self.writer(path).await?;
        writer.write(bytes).await?;
        writer.close().await
    }

    async fn writer(&self, path: &str) -> iceberg::Result<Box<dyn FileWrite>> {
        let file = self.open(path)?;
        let upload = BufWriter::with_capacity(file.store.clone(), file.path.clone(), PART_BYTES)
            .with_max_concurrency(PARTS_IN_FLIGHT);
        Ok(Box::new(Upload { file, writer: Some(upload) }))
    }

    /// Deleting what is not there is done.
    async fn delete(&self, path: &str) -> iceberg::Result<()> {
        let file = self.open(path)?;
        match file.store.delete(&file.path).await {
            Ok(()) | Err(StoreError::NotFound { .. }) => Ok(()),
            Err(e) => Err(file.explain("delete")(e).into()),
        }
    }

    async fn delete_prefix(&self, path: &str) -> iceberg::Result<()> {
        let directory = self.open(path)?;
        let found = directory.store.list(Some(&directory.path)).map_ok(|meta| meta.location).boxed();
        delete_all(&directory, found).await
    }

    async fn delete_stream(&self, paths: BoxStream<'static, String>) -> iceberg::Result<()> {
        let mut chunks = paths.chunks(DELETES_AT_ONCE);
        while let Some(chunk) = chunks.next().await {
            // by store: one stream may name several buckets
            let mut files: Vec<(String, File)> = Vec::with_capacity(chunk.len());
            for location in chunk {
                let key = Location::parse(&location)?.store_key();
                files.push((key, self.open(&location)?));
            }
            files.sort_by(|a, b| a.0.cmp(&b.0));
            for group in files.chunk_by(|a, b| a.0 == b.0) {
                let Some((_, first)) = group.first() else { continue };
                let paths: Vec<_> = group.iter().map(|(_, file)| Ok(file.path.clone())).collect();
                delete_all(first, futures::stream::iter(paths).boxed()).await?;
            }
        }
        Ok(())
    }

    fn new_input(&self, path: &str) -> iceberg::Result<InputFile> {
        Ok(InputFile::new(Arc::new(self.clone()), path.to_owned()))
    }

    fn new_output(&self, path: &str) -> iceberg::Result<OutputFile> {
        Ok(OutputFile::new(Arc::new(self.clone()), path.to_owned()))
    }
}

/// Goes on after a failure, so that one refused file doesn't keep the others; answers the first.
///
/// A bulk delete is a POST, which the client doesn't repeat when the server has cut the connection. A delete may be repeated: what a
/// bulk delete failed for is deleted again, file by file.
async fn delete_all(of: &File, paths: BoxStream<'static, object_store::Result<Path>>) -> iceberg::Result<()> {
    let mut failed = None;
    let mut chunks = paths.try_chunks(DELETES_AT_ONCE);
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|e| of.explain("list")(e.1))?;
        let all: Vec<_> = chunk.iter().cloned().map(Ok).collect();
        let answers = of.store.delete_stream(futures::stream::iter(all).boxed()).collect::<Vec<_>>().await;
        if answers.iter().all(|answer| matches!(answer, Ok(_) | Err(StoreError::NotFound { .. }))) {
            continue;
        }
        for path in chunk {
            match of.store.delete(&path).await {
                Ok(()) | Err(StoreError::NotFound { .. }) => {}
                Err(e) => failed = failed.or(Some(e)),
            }
        }
    }
    failed.map_or(Ok(()), |e| Err(of.explain("delete")(e).into()))
}

#[async_trait]
impl FileRead for File {
    async fn read(&self, range: Range<u64>) -> iceberg::Result<Bytes> {
        if range.is_empty() {
            return Ok(Bytes::new()); // stores refuse an empty range
        }
        Ok(self.store.get_range(&self.path, range).await.map_err(self.explain("read"))?)
    }
}

/// A file going up: seen by nobody until `close`.
struct Upload {
    file: File,
    /// None once closed or failed.
    writer: Option<BufWriter>,
}

#[async_trait]
impl FileWrite for Upload {
    async fn write(&mut self, bytes: Bytes) -> iceberg::Result<()> {
        let writer = self.writer.as_mut().ok_or_else(|| closed(&self.file.location))?;
        if let Err(e) = writer.put(bytes).await {
            self.writer = None;
            return Err(self.file.explain("write")(e).into());
        }
        Ok(())
    }

    async fn close(&mut self) -> iceberg::Result<()> {
        let mut writer = self.writer.take().ok_or_else(|| closed(&self.file.location))?;
        if let Err(e) = writer.shutdown().await {
            return Err(self.file.explain("write")(store_error(e)).into());
        }
        Ok(self.file.make_durable().await?)
    }
}

impl Drop for Upload {
    /// S3 keeps (and bills) the parts of an upload that is neither completed nor aborted.
    fn drop(&mut self) {
        if let (Some(mut writer), Ok(runtime)) = (self.writer.take(), tokio::runtime::Handle::try_current()) {
            let location = std::mem::take(&mut self.file.location);
            runtime.spawn(async move {
                if let Err(e) = writer.abort().await {
                    tracing::debug!(%location, error = %e, "an abandoned upload could not be aborted");
                }
            });
        }
    }
}

/// `BufWriter` wraps the store's error into an `io::Error`: take it out again.
fn store_error(e: std::io::Error) -> StoreError {
    match e.downcast::<StoreError>() {
        Ok(inner) => inner,
        Err(e) => StoreError::Generic { store: "upload", source: Box::new(e) },
    }
}

fn closed(location: &str) -> Error {
    Error::new(ErrorKind::Invalid, format!("{location}: written to after it was closed"))
}
