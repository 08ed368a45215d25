//! Where the indexes of a process live: a folder for each table.

use std::fs::{File, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use super::place::{Bare, Numbered};
use super::{DiskIndex, KeyIndex, MemoryIndex, broken};
use crate::memory::Memory;
use crate::sink::lake::LakeError;

/// Processes that may have an index of one table in one folder.
const MOST_PROCESSES: usize = 1000;

/// What an index holds of a row beside its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    Nothing,
    /// The row's id, in tables that have them (format v3).
    RowIds,
}

/// Where indexes are kept.
#[derive(Clone, Debug, Default)]
pub struct IndexHome {
    disk: Option<(PathBuf, Arc<Memory>)>,
}

impl IndexHome {
    /// In memory, whatever they take.
    pub fn in_memory() -> Self {
        Self::default()
    }

    /// In folders of `dir`, which is made when it is needed. What they have in memory is counted in `memory`, and kept to its share.
    pub fn on_disk(dir: impl Into<PathBuf>, memory: Arc<Memory>) -> Self {
        Self { disk: Some((dir.into(), memory)) }
    }

    /// The index of the table with this id, as a process before left it; one that holds something else is empty. Processes that share a
    /// folder get different ones.
    ///
    /// # Errors
    /// When the folder can't be written.
    pub fn open(&self, table: Uuid, holds: Holds) -> Result<Box<dyn KeyIndex>, LakeError> {
        let Some((dir, memory)) = &self.disk else { return Ok(Box::new(MemoryIndex::default())) };
        let of_table = dir.join(table.to_string());
        for slot in 0..MOST_PROCESSES {
            let folder = of_table.join(slot.to_string());
            if let Some(lock) = locked(&folder)? {
                return open(holds, folder, lock, memory);
            }
        }
        Err(broken(format!(
            "{}: {MOST_PROCESSES} processes have an index there: set index.dir apart",
            of_table.display()
        )))
    }

    /// All indexes of the table, each with its folder.
    ///
    /// # Errors
    /// When a folder can't be read.
    pub fn stored(&self, table: Uuid, holds: Holds) -> Result<Vec<(PathBuf, Stored)>, LakeError> {
        let Some((dir, memory)) = &self.disk else { return Ok(vec![]) };
        let mut found = vec![];
        for slot in 0..MOST_PROCESSES {
            let folder = dir.join(table.to_string()).join(slot.to_string());
            if !folder.exists() {
                break;
            }
            let stored = match locked(&folder)? {
                Some(lock) => Stored::Free(open(holds, folder.clone(), lock, memory)?),
                None => Stored::InUse,
            };
            found.push((folder, stored));
        }
        Ok(found)
    }
}

fn open(holds: Holds, folder: PathBuf, lock: File, memory: &Arc<Memory>) -> Result<Box<dyn KeyIndex>, LakeError> {
    Ok(match holds {
        Holds::Nothing => Box::new(DiskIndex::<Bare>::open(folder, lock, memory)?),
        Holds::RowIds => Box::new(DiskIndex::<Numbered>::open(folder, lock, memory)?),
    })
}

/// An index that a process left, or has.
#[derive(Debug)]
pub enum Stored {
    InUse,
    Free(Box<dyn KeyIndex>),
}

/// Bytes of the files of a folder.
pub fn bytes_in(folder: &Path) -> u64 {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    files.filter_map(|file| file.metadata().ok()).filter(|of| of.is_file()).map(|of| of.len()).sum()
}

/// Whether the folder's lock is this one: a folder that was deleted and made anew is another process's.
pub(super) fn is_lock_of(lock: &File, folder: &Path) -> bool {
    let id = |of: std::io::Result<std::fs::Metadata>| of.ok().map(|of| (of.dev(), of.ino()));
    let own = id(lock.metadata());
    own.is_some() && own == id(std::fs::metadata(folder.join("lock")))
}

/// The folder's lock; `None` where another process has it. The system gives it back when a process ends, however it does.
fn locked(folder: &Path) -> Result<Option<File>, LakeError> {
    let failed = |e: std::io::Error| {
        broken(format!("{}: {e}: set index.dir to a folder that firn may write to", folder.display()))
    };
    std::fs::create_dir_all(folder).map_err(failed)?;
    let file = File::options().create(true).truncate(false).write(true).open(folder.join("lock")).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(e)) => Err(failed(e)),
    }
}
