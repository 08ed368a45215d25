//! The new files of a group that are whole: on their way to storage, or there. Few are on their way at once.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use firn_catalog::SpecFile;
use iceberg::io::FileIO;

use super::rewrite::remove;
use crate::sink::lake::LakeError;
use crate::sink::lake::parquet_file::Upload;

/// Files that go to storage at once. More: many small files are faster, and more is held.
const AT_ONCE: usize = 8;

/// Files begin to be as they are finished, before any snapshot has them.
#[derive(Debug, Default)]
pub(super) struct Finished(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    files: Vec<(u32, SpecFile)>,
    /// Oldest first.
    on_their_way: VecDeque<Upload>,
}

impl Finished {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A file by its number.
    pub(super) fn add(&self, number: u32, file: SpecFile, mut upload: Upload) {
        upload.release();
        let mut state = self.state();
        state.files.push((number, file));
        state.on_their_way.push_back(upload);
    }

    /// Whether others should wait.
    pub(super) fn is_full(&self) -> bool {
        self.state().on_their_way.len() > AT_ONCE
    }

    /// Waits until few are on their way.
    ///
    /// # Errors
    /// When one could not be stored.
    pub(super) async fn settle(&self) -> Result<(), LakeError> {
        self.wait(AT_ONCE).await
    }

    async fn wait(&self, at_most: usize) -> Result<(), LakeError> {
        loop {
            let mut oldest = {
                let mut state = self.state();
                if state.on_their_way.len() <= at_most {
                    return Ok(());
                }
                let Some(oldest) = state.on_their_way.pop_front() else { return Ok(()) };
                oldest
            };
            oldest.finished().await?;
        }
    }

    /// All of them, durable, by their numbers.
    ///
    /// # Errors
    /// When one could not be stored.
    pub(super) async fn all(&self) -> Result<Vec<SpecFile>, LakeError> {
        self.wait(0).await?;
        let mut files = std::mem::take(&mut self.state().files);
        files.sort_unstable_by_key(|(number, _)| *number);
        Ok(files.into_iter().map(|(_, file)| file).collect())
    }

    /// Removes them: the group came to nothing.
    pub(super) async fn remove(&self, file_io: &FileIO) {
        // What is still on its way would come to be later.
        while self.wait(0).await.is_err() {}
        let files = std::mem::take(&mut self.state().files);
        remove(file_io, files.into_iter().map(|(_, file)| file.file.file_path().to_owned()).collect()).await;
    }
}
