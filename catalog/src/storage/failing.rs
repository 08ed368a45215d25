//! A store whose writes are steps with failpoints, by the kind of file.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error as StoreError, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result as StoreResult, UploadPart,
};

use crate::failpoint::{Failure, Step, around_async};

/// What writing the file at `path` is to a table.
fn step(path: &Path) -> Option<Step> {
    let name = path.filename()?;
    match name.rsplit_once('.')? {
        (stem, "avro") if stem.starts_with("snap-") => Some(Step::ManifestList),
        (_, "avro") => Some(Step::Manifest),
        (stem, "json") if stem.ends_with(".metadata") => Some(Step::Metadata),
        (stem, "parquet") if stem.contains("-deletes-") => Some(Step::DeleteFile),
        (_, "puffin") => Some(Step::DeleteFile),
        (_, "parquet") => Some(Step::CloseFile),
        _ => None,
    }
}

fn failed(failure: Failure) -> StoreError {
    StoreError::Generic { store: "failpoint", source: failure.to_string().into() }
}

/// `write` makes the file at `path` come to be.
async fn written<T>(path: &Path, write: impl Future<Output = StoreResult<T>>) -> StoreResult<T> {
    match step(path) {
        Some(step) => around_async(step, write, failed).await,
        None => write.await,
    }
}

#[derive(Debug)]
pub(super) struct FailingStore(pub Arc<dyn ObjectStore>);

impl fmt::Display for FailingStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for FailingStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> StoreResult<PutResult> {
        written(location, self.0.put_opts(location, payload, opts)).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> StoreResult<Box<dyn MultipartUpload>> {
        let inner = self.0.put_multipart_opts(location, opts).await?;
        Ok(Box::new(FailingUpload { inner, path: location.clone() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> StoreResult<GetResult> {
        self.0.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, StoreResult<Path>>) -> BoxStream<'static, StoreResult<Path>> {
        self.0.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        self.0.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> StoreResult<ListResult> {
        self.0.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> StoreResult<()> {
        self.0.copy_opts(from, to, options).await
    }
}

#[derive(Debug)]
struct FailingUpload {
    inner: Box<dyn MultipartUpload>,
    path: Path,
}

#[async_trait]
impl MultipartUpload for FailingUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        Box::pin(around_async(Step::WritePart, self.inner.put_part(data), failed))
    }

    async fn complete(&mut self) -> StoreResult<PutResult> {
        written(&self.path, self.inner.complete()).await
    }

    async fn abort(&mut self) -> StoreResult<()> {
        self.inner.abort().await
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("w/t/data/2f-00000.parquet", Some(Step::CloseFile))]
    #[case("w/t/data/2f-deletes-00000.parquet", Some(Step::DeleteFile))]
    #[case("w/t/data/2f-deletes.puffin", Some(Step::DeleteFile))]
    #[case("w/t/metadata/2f-m0.avro", Some(Step::Manifest))]
    #[case("w/t/metadata/snap-1-2f.avro", Some(Step::ManifestList))]
    #[case("w/t/metadata/00001-2f.metadata.json", Some(Step::Metadata))]
    #[case("w/t/data/x.json", None)]
    #[case("w", None)]
    fn a_file_says_which_step_it_is(#[case] path: &str, #[case] want: Option<Step>) {
        assert_eq!(step(&Path::from(path)), want);
    }
}
