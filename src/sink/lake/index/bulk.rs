//! The first fill: entries come in the order of files, and leave in that of their keys.
//!
//! They are spread over partitions by the first bits of their keys, spilled to a file for each once they are too many for memory, and
//! sorted partition by partition: each entry is written twice, however many there are.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use super::map::Entry;
use super::place::Place;
use super::segment::{Merging, SEGMENT_ENTRIES, Segment, bases};
use super::{Location, broken};
use crate::sink::lake::LakeError;

const PARTITIONS: usize = 256;
const PARTITION_BITS: u32 = PARTITIONS.trailing_zeros();

/// Entries on their way into sorted runs.
#[derive(Debug)]
pub(super) struct Bulk<P> {
    folder: PathBuf,
    most_bytes: usize,
    /// In memory, by partition, in the order in which they came.
    buffers: Vec<Vec<Entry<P>>>,
    buffered: usize,
    /// Entries in each partition's file.
    spilled: Vec<u64>,
}

fn partition_of(key: u128) -> usize {
    (key >> (u128::BITS - PARTITION_BITS)) as usize
}

fn path_of(folder: &Path, partition: usize) -> PathBuf {
    folder.join(format!("{partition:03}.spill"))
}

pub(super) fn is_spill(name: &str) -> bool {
    name.ends_with(".spill")
}

impl<P: Place> Bulk<P> {
    pub(super) fn new(folder: &Path, most_bytes: usize) -> Self {
        Self {
            folder: folder.to_owned(),
            most_bytes,
            buffers: vec![vec![]; PARTITIONS],
            buffered: 0,
            spilled: vec![0; PARTITIONS],
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.buffers.iter().map(|b| b.capacity() * size_of::<Entry<P>>()).sum()
    }

    pub(super) fn len(&self) -> usize {
        self.buffered + self.spilled.iter().sum::<u64>() as usize
    }

    pub(super) fn put(&mut self, key: u128, at: Location) -> Result<(), LakeError> {
        if let Some(buffer) = self.buffers.get_mut(partition_of(key)) {
            buffer.push(Entry::new(key, at));
            self.buffered += 1;
        }
        if self.buffered * size_of::<Entry<P>>() >= self.most_bytes { self.spill() } else { Ok(()) }
    }

    fn spill(&mut self) -> Result<(), LakeError> {
        let mut bytes = vec![];
        for (partition, (buffer, spilled)) in self.buffers.iter_mut().zip(&mut self.spilled).enumerate() {
            bytes.clear();
            for entry in buffer.drain(..) {
                entry.push_to(&mut bytes);
            }
            let path = path_of(&self.folder, partition);
            // What an interrupted fill left is not this one's.
            let file = match *spilled {
                0 => File::create(&path),
                _ => OpenOptions::new().append(true).open(&path),
            };
            file.and_then(|mut file| file.write_all(&bytes)).map_err(|e| broken(format!("{}: {e}", path.display())))?;
            *spilled += (bytes.len() / Entry::<P>::BYTES) as u64;
        }
        self.buffered = 0;
        Ok(())
    }

    /// The entries as they came, where all of them are in memory.
    pub(super) fn in_memory(&mut self) -> Option<impl Iterator<Item = Entry<P>>> {
        let none_spilled = self.spilled.iter().all(|n| *n == 0);
        none_spilled.then(|| std::mem::take(&mut self.buffers).into_iter().flatten())
    }

    /// The entries as segments; of several of a key the last that came counts.
    pub(super) fn finish(self, merging: &Merging<'_>) -> Result<Vec<Segment<P>>, LakeError> {
        let mut groups: Vec<Vec<_>> = vec![];
        let mut in_group = u64::MAX;
        for (partition, (buffer, spilled)) in self.buffers.into_iter().zip(self.spilled).enumerate() {
            let entries = buffer.len() as u64 + spilled;
            if in_group.saturating_add(entries) > SEGMENT_ENTRIES || groups.is_empty() {
                groups.push(vec![]);
                in_group = 0;
            }
            in_group += entries;
            if let Some(group) = groups.last_mut() {
                group.push((partition, buffer, spilled));
            }
        }
        let folder = &self.folder;
        let segments = super::disk::in_parallel(groups, |group| {
            let first = group.first().map_or(0, |(partition, ..)| *partition as u128) << (u128::BITS - PARTITION_BITS);
            let mut most = 0;
            let mut sorted = vec![];
            for (partition, buffer, spilled) in group {
                most += buffer.len() as u64 + spilled;
                sorted.extend(partition_sorted(folder, partition, buffer, spilled)?);
            }
            bases(first, sorted.into_iter().map(Ok), most, merging)
        })?;
        Ok(segments.into_iter().flatten().collect())
    }
}

/// The entries of one partition in the order of their keys, each key once.
fn partition_sorted<P: Place>(
    folder: &Path,
    partition: usize,
    buffer: Vec<Entry<P>>,
    spilled: u64,
) -> Result<Vec<Entry<P>>, LakeError> {
    let mut entries = Vec::with_capacity(spilled as usize + buffer.len());
    if spilled > 0 {
        let path = path_of(folder, partition);
        let failed = |e: std::io::Error| broken(format!("{}: {e}", path.display()));
        let mut bytes = Vec::with_capacity(spilled as usize * Entry::<P>::BYTES);
        File::open(&path).and_then(|mut file| file.read_to_end(&mut bytes)).map_err(failed)?;
        if bytes.len() != spilled as usize * Entry::<P>::BYTES {
            return Err(broken(format!("{}: it has another length than was written", path.display())));
        }
        entries.extend(Entry::all_from(&bytes));
        let _ = std::fs::remove_file(&path);
    }
    entries.extend(buffer);
    // Stable: the last of a key stays the last.
    entries.sort_by_key(|e| e.key());
    entries.reverse();
    entries.dedup_by_key(|e| e.key());
    entries.reverse();
    Ok(entries.into_iter().filter(|e| e.at().kept().is_some()).collect())
}
