//! Which files of the folder are the index. Written beside and put in place at once.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::map::Entry;
use super::place::{Bare, Place};
use super::{Stamp, broken};
use crate::sink::lake::LakeError;

/// A checksum, and JSON.
const NAME: &str = "manifest";
/// Another form of the files is another index: it is built anew.
const FORMAT: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Manifest {
    format: u32,
    /// Of an entry; those without row ids have 24.
    #[serde(default = "without_row_ids")]
    entry_bytes: usize,
    /// The hash of a known key: an index of hashes of another kind is of no use.
    probe: String,
    /// `None`: the runs are ahead of what they were last true for.
    pub(super) stamp: Option<Stamp>,
    pub(super) files: BTreeMap<String, u32>,
    pub(super) next_number: u32,
    pub(super) next_id: u64,
    /// The log of what came after.
    pub(super) log: u64,
    pub(super) segments: Vec<SegmentRuns>,
}

fn without_row_ids() -> usize {
    Entry::<Bare>::BYTES
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SegmentRuns {
    /// Its first key, in hexadecimal digits.
    pub(super) first: String,
    /// Id and entries of each run, the newest first.
    pub(super) runs: Vec<(u64, u64)>,
}

impl Manifest {
    pub(super) fn new<P: Place>(probe: String) -> Self {
        Self {
            format: FORMAT,
            entry_bytes: Entry::<P>::BYTES,
            probe,
            stamp: None,
            files: BTreeMap::new(),
            next_number: 0,
            next_id: 0,
            log: 0,
            segments: vec![],
        }
    }

    /// `None` where there is none that can be used.
    pub(super) fn read<P: Place>(folder: &Path, probe: &str) -> Result<Option<Self>, LakeError> {
        let bytes = match std::fs::read(folder.join(NAME)) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(broken(format!("{}: {e}", folder.join(NAME).display()))),
        };
        let read = bytes.split_first_chunk().filter(|(sum, json)| crc32fast::hash(json).to_le_bytes() == **sum);
        let read: Option<Self> = read.and_then(|(_, json)| serde_json::from_slice(json).ok());
        Ok(read.filter(|m| m.format == FORMAT && m.entry_bytes == Entry::<P>::BYTES && m.probe == probe))
    }

    pub(super) fn write(&self, folder: &Path) -> Result<(), LakeError> {
        let beside = folder.join("manifest.new");
        let json = serde_json::to_vec(self).map_err(broken)?;
        let sum = crc32fast::hash(&json).to_le_bytes();
        std::fs::write(&beside, [&sum, json.as_slice()].concat())
            .and_then(|()| std::fs::rename(&beside, folder.join(NAME)))
            .map_err(|e| broken(format!("{}: {e}", beside.display())))
    }
}
