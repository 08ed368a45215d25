//! Reading manifests: in parallel, with what entries inherit, and kept by path.
//!
//! A manifest never changes under its path, so a copy is good for ever.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use futures::{StreamExt, TryStreamExt};
use iceberg::io::FileIO;
use iceberg::spec::{Manifest, ManifestContentType, ManifestEntryRef, ManifestFile, SnapshotRef};
use iceberg::table::Table;

use crate::{Error, ErrorKind, Result};

/// Reads in flight: enough to hide an object store's latency, few enough to leave it to others.
pub(crate) const READS_IN_FLIGHT: usize = 16;
/// A parsed manifest takes about this many times its file's length.
const PARSED_FACTOR: u64 = 3;

/// Parsed manifests by path, bounded; the ones not used for longest go first. Clones share it.
#[derive(Clone)]
pub struct ManifestCache(Arc<Mutex<Cached>>);

struct Cached {
    max_bytes: u64,
    bytes: u64,
    tick: u64,
    manifests: HashMap<String, Slot>,
}

struct Slot {
    manifest: Arc<Manifest>,
    bytes: u64,
    used: u64,
}

impl fmt::Debug for ManifestCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        f.debug_struct("ManifestCache")
            .field("manifests", &cached.manifests.len())
            .field("bytes", &cached.bytes)
            .finish()
    }
}

impl ManifestCache {
    /// `max_bytes` of memory, roughly.
    pub fn new(max_bytes: u64) -> Self {
        Self(Arc::new(Mutex::new(Cached { max_bytes, bytes: 0, tick: 0, manifests: HashMap::new() })))
    }

    /// Memory held, roughly.
    pub fn bytes(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).bytes
    }

    /// The manifest with the sequence numbers and snapshot ids that its entries inherit.
    pub(crate) async fn load(&self, file_io: &FileIO, file: &ManifestFile) -> Result<Arc<Manifest>> {
        if let Some(manifest) = self.get(&file.manifest_path) {
            return Ok(manifest);
        }
        let manifest = Arc::new(file.load_manifest(file_io).await?);
        self.put(file, manifest.clone());
        Ok(manifest)
    }

    /// All of `files`, in their order, read in parallel.
    pub(crate) async fn load_all(&self, file_io: &FileIO, files: &[ManifestFile]) -> Result<Vec<Arc<Manifest>>> {
        let reads = files.iter().cloned().map(|file| self.load_owned(file_io.clone(), file));
        futures::stream::iter(reads).buffered(READS_IN_FLIGHT).try_collect().await
    }

    pub(crate) async fn load_owned(&self, file_io: FileIO, file: ManifestFile) -> Result<Arc<Manifest>> {
        self.load(&file_io, &file).await
    }

    fn get(&self, path: &str) -> Option<Arc<Manifest>> {
        let mut cached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        cached.tick += 1;
        let tick = cached.tick;
        let slot = cached.manifests.get_mut(path)?;
        slot.used = tick;
        Some(slot.manifest.clone())
    }

    fn put(&self, file: &ManifestFile, manifest: Arc<Manifest>) {
        let bytes = u64::try_from(file.manifest_length).unwrap_or(0) * PARSED_FACTOR;
        let mut cached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if bytes > cached.max_bytes {
            return;
        }
        cached.tick += 1;
        let slot = Slot { manifest, bytes, used: cached.tick };
        if let Some(before) = cached.manifests.insert(file.manifest_path.clone(), slot) {
            cached.bytes -= before.bytes;
        }
        cached.bytes += bytes;
        while cached.bytes > cached.max_bytes {
            let oldest = cached.manifests.iter().min_by_key(|(_, slot)| slot.used).map(|(path, _)| path.clone());
            let Some(slot) = oldest.and_then(|path| cached.manifests.remove(&path)) else { break };
            cached.bytes -= slot.bytes;
        }
    }
}

/// The manifests of a snapshot.
///
/// # Errors
/// `Invalid` when the list isn't there or can't be read, the storage's otherwise.
pub(crate) async fn list(table: &Table, snapshot: &SnapshotRef) -> Result<Vec<ManifestFile>> {
    let list = table.manifest_list_reader(snapshot).load().await.map_err(|e| {
        Error::from(e).context(format!("table {}, snapshot {}", table.identifier(), snapshot.snapshot_id()))
    })?;
    Ok(list.entries().to_vec())
}

/// Where a live entry stands; the explicit form of what a manifest may leave to inheritance.
#[derive(Clone, Debug)]
pub(crate) struct Standing {
    pub entry: ManifestEntryRef,
    /// That added it.
    pub snapshot_id: i64,
    pub sequence_number: i64,
    pub file_sequence_number: Option<i64>,
    /// Of its first row (v3 data files). Iceberg's reader leaves this to us.
    pub first_row_id: Option<i64>,
}

/// The live entries of a manifest.
///
/// # Errors
/// `Invalid` for an entry without snapshot or sequence number.
pub(crate) fn standing(file: &ManifestFile, manifest: &Manifest) -> Result<Vec<Standing>> {
    let mut next_row_id = match file.content {
        ManifestContentType::Data => file.first_row_id.and_then(|id| i64::try_from(id).ok()),
        ManifestContentType::Deletes => None,
    };
    let mut live = Vec::with_capacity(manifest.entries().len());
    for entry in manifest.entries().iter().filter(|e| e.is_alive()) {
        let data_file = entry.data_file();
        let first_row_id = data_file.first_row_id().or_else(|| {
            let inherited = next_row_id?;
            next_row_id = i64::try_from(data_file.record_count()).ok().and_then(|rows| inherited.checked_add(rows));
            Some(inherited)
        });
        let (Some(snapshot_id), Some(sequence_number)) = (entry.snapshot_id(), entry.sequence_number()) else {
            let text = format!("manifest {}: {} has no sequence number", file.manifest_path, data_file.file_path());
            return Err(Error::new(ErrorKind::Invalid, text));
        };
        live.push(Standing {
            entry: entry.clone(),
            snapshot_id,
            sequence_number,
            file_sequence_number: entry.file_sequence_number,
            first_row_id,
        });
    }
    Ok(live)
}
