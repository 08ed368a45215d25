//! A run: a file of entries in the order of their keys, written once.
//!
//! Pages of 4 KiB hold 170 entries each (127 with row ids) and a checksum over them, the run's id and the page's number, so that neither a torn write nor
//! a page of another file is taken for good. Behind the pages stand the fences: the first half of the first key of each page. They
//! are all that stays in memory of a run, 8 bytes for 170 keys. Pages are read when they are needed; what the system's cache
//! holds of them it can drop at any time, and it is no memory of the process.

use std::cmp::Ordering;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::marker::PhantomData;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::map::Entry;
use super::place::Place;
use super::{Location, broken};
use crate::sink::lake::LakeError;

const PAGE_BYTES: usize = 4096;
const CHECKSUM_BYTES: usize = 4;
/// Pages read at once where most of them are wanted.
const PAGES_AT_ONCE: usize = 64;

/// What the manifest keeps of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RunId {
    pub(super) id: u64,
    pub(super) entries: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Run<P> {
    pub(super) id: RunId,
    path: PathBuf,
    fences: Arc<[u64]>,
    entries: PhantomData<P>,
}

fn path_of(folder: &Path, id: u64) -> PathBuf {
    folder.join(format!("{id:012}.run"))
}

/// The id in the name of a run's file.
pub(super) fn id_of(name: &str) -> Option<u64> {
    name.strip_suffix(".run")?.parse().ok()
}

const fn page_entries<P: Place>() -> usize {
    (PAGE_BYTES - CHECKSUM_BYTES) / Entry::<P>::BYTES
}

fn checksum(run: u64, page: usize, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&run.to_le_bytes());
    hasher.update(&(page as u64).to_le_bytes());
    hasher.update(bytes);
    hasher.finalize()
}

impl<P: Place> Run<P> {
    /// Opens a run that the manifest names.
    pub(super) fn open(folder: &Path, id: RunId) -> Result<Self, LakeError> {
        let path = path_of(folder, id.id);
        let failed = |e: std::io::Error| broken(format!("{}: {e}", path.display()));
        let pages = (id.entries as usize).div_ceil(page_entries::<P>());
        let file = File::open(&path).map_err(failed)?;
        let mut bytes = vec![0; pages * 8 + CHECKSUM_BYTES];
        file.read_exact_at(&mut bytes, (pages * PAGE_BYTES) as u64).map_err(failed)?;
        let (fences, sum) = bytes.split_at(pages * 8);
        if sum != checksum(id.id, pages, fences).to_le_bytes() {
            return Err(broken(format!("{}: its fences are damaged", path.display())));
        }
        let fences = fences.chunks_exact(8).map(|f| u64::from_le_bytes(f.try_into().unwrap_or_default())).collect();
        Ok(Self { id, path, fences, entries: PhantomData })
    }

    pub(super) fn remove(&self) {
        // What stays behind is removed when the index is opened again.
        let _ = std::fs::remove_file(&self.path);
    }

    /// Memory held.
    pub(super) fn memory_bytes(&self) -> usize {
        self.fences.len() * 8
    }

    /// Tells `found` of those `wanted` (in order) that the run has, by their index; answers the others.
    pub(super) fn lookup(
        &self,
        wanted: Vec<(u128, u32)>,
        found: &mut impl FnMut(u32, Location),
    ) -> Result<Vec<(u128, u32)>, LakeError> {
        let mut reader = PageReader::open(self, wanted.len() * 2 >= self.fences.len())?;
        let mut missed = vec![];
        let mut from = 0;
        for (key, index) in wanted {
            let high = (key >> 64) as u64;
            // The last page that may hold it; keys come in order.
            let behind = self.fences.get(from..).unwrap_or_default().partition_point(|fence| *fence <= high);
            let mut hit = None;
            if from + behind > 0 {
                let mut page = from + behind - 1;
                from = page;
                hit = reader.find(page, key)?;
                // Keys of one high half may stand on several pages.
                while hit.is_none() && page > 0 && self.fences.get(page) == Some(&high) {
                    page -= 1;
                    from = page;
                    hit = reader.find(page, key)?;
                }
            }
            match hit {
                Some(at) => found(index, at),
                None => missed.push((key, index)),
            }
        }
        Ok(missed)
    }

    /// All entries, in order.
    pub(super) fn entries(&self) -> Result<Entries<P>, LakeError> {
        Ok(Entries { reader: PageReader::open(self, true)?, next: 0 })
    }
}

/// Reads pages, several at once or one.
#[derive(Debug)]
struct PageReader<P> {
    run: Run<P>,
    file: File,
    at_once: usize,
    /// What `bytes` begins with.
    first: usize,
    bytes: Vec<u8>,
    /// The page last checked.
    checked: usize,
}

impl<P: Place> PageReader<P> {
    fn open(run: &Run<P>, dense: bool) -> Result<Self, LakeError> {
        let file = File::open(&run.path).map_err(|e| broken(format!("{}: {e}", run.path.display())))?;
        let at_once = if dense { PAGES_AT_ONCE } else { 1 };
        Ok(Self { run: run.clone(), file, at_once, first: 0, bytes: vec![], checked: usize::MAX })
    }

    /// The entries of a page, one behind the other.
    fn page(&mut self, page: usize) -> Result<&[u8], LakeError> {
        let have = self.first..self.first + self.bytes.len() / PAGE_BYTES;
        if !have.contains(&page) {
            let pages = self.at_once.min(self.run.fences.len().saturating_sub(page)).max(1);
            self.bytes.resize(pages * PAGE_BYTES, 0);
            self.file.read_exact_at(&mut self.bytes, (page * PAGE_BYTES) as u64).map_err(|e| {
                self.first = usize::MAX;
                broken(format!("{}: {e}", self.run.path.display()))
            })?;
            self.first = page;
            self.checked = usize::MAX;
        }
        let start = (page - self.first) * PAGE_BYTES;
        let bytes = self.bytes.get(start..start + PAGE_BYTES).unwrap_or_default();
        let (body, sum) = bytes.split_at(PAGE_BYTES - CHECKSUM_BYTES);
        if self.checked != page {
            if sum != checksum(self.run.id.id, page, body).to_le_bytes() {
                return Err(broken(format!("{}: page {page} is damaged", self.run.path.display())));
            }
            self.checked = page;
        }
        let left = self.run.id.entries as usize - page * page_entries::<P>();
        Ok(body.get(..left.min(page_entries::<P>()) * Entry::<P>::BYTES).unwrap_or_default())
    }

    fn find(&mut self, page: usize, key: u128) -> Result<Option<Location>, LakeError> {
        let entries = self.page(page)?;
        let (mut low, mut high) = (0, entries.len() / Entry::<P>::BYTES);
        while low < high {
            let middle = (low + high) / 2;
            let entry = entry_at::<P>(entries, middle);
            match entry.key().cmp(&key) {
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
                Ordering::Equal => return Ok(Some(entry.at())),
            }
        }
        Ok(None)
    }
}

fn entry_at<P: Place>(entries: &[u8], at: usize) -> Entry<P> {
    Entry::from_bytes(entries.get(at * Entry::<P>::BYTES..).unwrap_or_default())
}

/// The entries of a run, in order.
#[derive(Debug)]
pub(super) struct Entries<P> {
    reader: PageReader<P>,
    next: u64,
}

impl<P: Place> Iterator for Entries<P> {
    type Item = Result<Entry<P>, LakeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.reader.run.id.entries {
            return None;
        }
        let at = self.next as usize;
        self.next += 1;
        let page = self.reader.page(at / page_entries::<P>());
        Some(page.map(|page| entry_at(page, at % page_entries::<P>())))
    }
}

/// Writes a run; entries come in the order of their keys, each key once.
///
/// Nothing is forced to the disk: a file that a power cut took back or tore fails its checksums, and the index is built anew.
#[derive(Debug)]
pub(super) struct RunWriter<P> {
    folder: PathBuf,
    id: RunId,
    file: BufWriter<File>,
    page: Vec<u8>,
    fences: Vec<u64>,
    entries: PhantomData<P>,
}

impl<P: Place> RunWriter<P> {
    pub(super) fn create(folder: &Path, id: u64) -> Result<Self, LakeError> {
        let path = path_of(folder, id);
        let file = File::create(&path).map_err(|e| broken(format!("{}: {e}", path.display())))?;
        Ok(Self {
            folder: folder.to_owned(),
            id: RunId { id, entries: 0 },
            file: BufWriter::with_capacity(PAGES_AT_ONCE * PAGE_BYTES, file),
            page: Vec::with_capacity(PAGE_BYTES),
            fences: vec![],
            entries: PhantomData,
        })
    }

    pub(super) fn len(&self) -> u64 {
        self.id.entries
    }

    pub(super) fn push(&mut self, entry: Entry<P>) -> Result<(), LakeError> {
        if self.page.is_empty() {
            self.fences.push((entry.key() >> 64) as u64);
        }
        entry.push_to(&mut self.page);
        self.id.entries += 1;
        if self.page.len() == page_entries::<P>() * Entry::<P>::BYTES { self.end_page() } else { Ok(()) }
    }

    fn end_page(&mut self) -> Result<(), LakeError> {
        self.page.resize(PAGE_BYTES - CHECKSUM_BYTES, 0);
        let sum = checksum(self.id.id, self.fences.len() - 1, &self.page);
        self.page.extend_from_slice(&sum.to_le_bytes());
        let written = self.file.write_all(&self.page);
        self.page.clear();
        written.map_err(|e| self.failed(e))
    }

    /// `None` where nothing was pushed.
    pub(super) fn finish(mut self) -> Result<Option<Run<P>>, LakeError> {
        let path = path_of(&self.folder, self.id.id);
        if !self.page.is_empty() {
            self.end_page()?;
        }
        let fences: Vec<u8> = self.fences.iter().flat_map(|f| f.to_le_bytes()).collect();
        let sum = checksum(self.id.id, self.fences.len(), &fences).to_le_bytes();
        let written =
            self.file.write_all(&fences).and_then(|()| self.file.write_all(&sum)).and_then(|()| self.file.flush());
        written.map_err(|e| self.failed(e))?;
        if self.id.entries == 0 {
            let _ = std::fs::remove_file(&path);
            return Ok(None);
        }
        Ok(Some(Run { id: self.id, path, fences: self.fences.into(), entries: PhantomData }))
    }

    fn failed(&self, e: std::io::Error) -> LakeError {
        broken(format!("{}: {e}", path_of(&self.folder, self.id.id).display()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::place::{Bare, Numbered};
    use super::*;
    use tempfile::TempDir;

    fn at(position: u32) -> Location {
        Location { file: 7, position, row_id: None }
    }

    fn written<P: Place>(folder: &TempDir, keys: &[u128]) -> Run<P> {
        let mut writer = RunWriter::create(folder.path(), 3).unwrap();
        for (n, key) in (0..).zip(keys) {
            writer.push(Entry::new(*key, at(n))).unwrap();
        }
        writer.finish().unwrap().unwrap()
    }

    fn lookup<P: Place>(run: &Run<P>, keys: &[u128]) -> Vec<Option<u32>> {
        let mut out = vec![None; keys.len()];
        let wanted = keys.iter().copied().zip(0..).collect();
        run.lookup(wanted, &mut |i, at| out[i as usize] = Some(at.position)).unwrap();
        out
    }

    #[test]
    fn every_key_is_found_where_it_was_put_and_no_other() {
        every_key_is_found::<Bare>();
        every_key_is_found::<Numbered>();
    }

    fn every_key_is_found<P: Place>() {
        let folder = TempDir::new().unwrap();
        // Few high halves, so that many pages begin with the same one.
        let keys: Vec<u128> = (0..5_000u128).map(|n| ((n / 1_000) << 64) | (n * 2 + 2)).collect();
        let run = Run::<P>::open(folder.path(), written::<P>(&folder, &keys).id).unwrap();
        let expected: Vec<_> = (0..5_000).map(Some).collect();
        assert_eq!(lookup(&run, &keys), expected);
        for (n, key) in (0..).zip(&keys).step_by(97) {
            assert_eq!(lookup(&run, &[*key - 1, *key, *key + 1]), [None, Some(n), None]);
        }
        assert_eq!(lookup(&run, &[0, u128::MAX]), [None, None]);
        let all: Vec<u128> = run.entries().unwrap().map(|e| e.unwrap().key()).collect();
        assert_eq!(all, keys);
    }

    #[test]
    fn damage_is_noticed_wherever_it_is() {
        let folder = TempDir::new().unwrap();
        let keys: Vec<u128> = (0..400u128).map(|n| n << 100).collect();
        let run = written::<Bare>(&folder, &keys);
        let whole = std::fs::read(&run.path).unwrap();
        for at in (0..whole.len()).step_by(131).chain([whole.len() - 1]) {
            let mut bytes = whole.clone();
            bytes[at] ^= 4;
            std::fs::write(&run.path, &bytes).unwrap();
            let read =
                Run::<Bare>::open(folder.path(), run.id).and_then(|run| run.entries()?.collect::<Result<Vec<_>, _>>());
            assert!(matches!(read, Err(LakeError::Index(_))), "byte {at}");
        }
        std::fs::write(&run.path, &whole[..whole.len() / 2]).unwrap();
        assert!(Run::<Bare>::open(folder.path(), run.id).is_err());
    }

    #[test]
    fn an_empty_run_is_none() {
        let folder = TempDir::new().unwrap();
        assert!(RunWriter::<Bare>::create(folder.path(), 1).unwrap().finish().unwrap().is_none());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
