//! A store that is read no faster than somebody lets it, and that tells what moves.
//!
//! Reads wait for their turn. Writes don't: they are few beside what is read for them, a commit's among them, and who waits in a commit loses
//! it. They count all the same, so the next read waits for them too.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result as StoreResult, UploadPart,
};

/// Decides how fast a store is used.
pub trait Pace: fmt::Debug + Send + Sync {
    /// Answers when more may be read.
    fn turn(&self) -> BoxFuture<'_, ()>;

    /// So many bytes were read or written.
    fn moved(&self, bytes: u64);
}

#[derive(Debug)]
pub(super) struct PacedStore {
    inner: Arc<dyn ObjectStore>,
    pace: Arc<dyn Pace>,
}

impl PacedStore {
    pub(super) fn new(inner: Arc<dyn ObjectStore>, pace: Arc<dyn Pace>) -> Self {
        Self { inner, pace }
    }
}

impl fmt::Display for PacedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for PacedStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> StoreResult<PutResult> {
        self.pace.moved(payload.content_length() as u64);
        self.inner.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> StoreResult<Box<dyn MultipartUpload>> {
        let inner = self.inner.put_multipart_opts(location, opts).await?;
        Ok(Box::new(PacedUpload { inner, pace: Arc::clone(&self.pace) }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> StoreResult<GetResult> {
        if options.head {
            return self.inner.get_opts(location, options).await;
        }
        self.pace.turn().await;
        let got = self.inner.get_opts(location, options).await?;
        self.pace.moved(got.range.end - got.range.start);
        Ok(got)
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> StoreResult<Vec<Bytes>> {
        self.pace.turn().await;
        let got = self.inner.get_ranges(location, ranges).await?;
        self.pace.moved(got.iter().map(|bytes| bytes.len() as u64).sum());
        Ok(got)
    }

    fn delete_stream(&self, locations: BoxStream<'static, StoreResult<Path>>) -> BoxStream<'static, StoreResult<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        let (pace, listed) = (Arc::clone(&self.pace), self.inner.list(prefix));
        let turn = async move {
            pace.turn().await;
            listed
        };
        futures::stream::once(turn).flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> StoreResult<ListResult> {
        self.pace.turn().await;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> StoreResult<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[derive(Debug)]
struct PacedUpload {
    inner: Box<dyn MultipartUpload>,
    pace: Arc<dyn Pace>,
}

#[async_trait]
impl MultipartUpload for PacedUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.pace.moved(data.content_length() as u64);
        self.inner.put_part(data)
    }

    async fn complete(&mut self) -> StoreResult<PutResult> {
        self.inner.complete().await
    }

    async fn abort(&mut self) -> StoreResult<()> {
        self.inner.abort().await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::super::Stores;
    use super::*;

    #[derive(Debug, Default)]
    struct Counts {
        turns: AtomicU64,
        bytes: AtomicU64,
    }

    impl Pace for Counts {
        fn turn(&self) -> BoxFuture<'_, ()> {
            self.turns.fetch_add(1, Ordering::Relaxed);
            Box::pin(std::future::ready(()))
        }

        fn moved(&self, bytes: u64) {
            self.bytes.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn reads_wait_and_all_that_moves_is_told() {
        let counts = Arc::new(Counts::default());
        let told = || (counts.turns.load(Ordering::Relaxed), counts.bytes.load(Ordering::Relaxed));
        let io = Stores::default().with_pace(Arc::clone(&counts) as _).file_io();
        io.new_output("memory://a/small").unwrap().write(Bytes::from(vec![1; 1_000])).await.unwrap();
        assert_eq!(told(), (0, 1_000), "a write does not wait");
        // In parts.
        io.new_output("memory://a/large").unwrap().write(Bytes::from(vec![1; 20 << 20])).await.unwrap();
        assert_eq!(told(), (0, 1_000 + (20 << 20)));
        let before = told().1;
        let input = io.new_input("memory://a/large").unwrap();
        assert_eq!(input.reader().await.unwrap().read(5..25).await.unwrap().len(), 20);
        assert_eq!(told(), (1, before + 20));
        assert_eq!(io.new_input("memory://a/small").unwrap().read().await.unwrap().len(), 1_000);
        assert_eq!(told(), (2, before + 20 + 1_000));
    }
}
