//! What happened to the index since its runs were written: entries, and stamps that say up to where they are whole.
//!
//! A process that is killed loses nothing that was stamped: the log is in the system's hands then. After a power cut the log may
//! end earlier, or in the middle: it is read up to the last stamp that is whole, which makes an older, consistent index.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::map::Entry;
use super::place::Place;
use super::{Stamp, broken};
use crate::sink::lake::LakeError;

const ENTRIES: u8 = 1;
const STAMP: u8 = 2;
/// Kind, length, checksum.
const HEADER_BYTES: usize = 1 + 4 + 4;
/// Written at once, what is larger by itself: a process has a log for each table.
const WRITE_BYTES: usize = 16 << 10;
/// Entries of one record: as many as are held until they are checked.
const RECORD_ENTRIES: usize = 8 << 10;

/// Everything before it is true for the stamp.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Stamped {
    pub(super) stamp: Stamp,
    /// Data files that came, with their numbers.
    pub(super) named: BTreeMap<String, u32>,
    /// Data files that went.
    pub(super) forgotten: Vec<String>,
    pub(super) next_number: u32,
}

#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    file: BufWriter<File>,
    bytes: u64,
}

fn path_of(folder: &Path, id: u64) -> PathBuf {
    folder.join(format!("{id:012}.log"))
}

/// The id in the name of a log.
pub(super) fn id_of(name: &str) -> Option<u64> {
    name.strip_suffix(".log")?.parse().ok()
}

impl Log {
    pub(super) fn create(folder: &Path, id: u64) -> Result<Self, LakeError> {
        let path = path_of(folder, id);
        let file = File::create(&path).map_err(|e| broken(format!("{}: {e}", path.display())))?;
        Ok(Self { path, file: BufWriter::with_capacity(WRITE_BYTES, file), bytes: 0 })
    }

    /// Reads a log: `stamped` gets the entries before each stamp, and the stamp. The log goes on behind the last of them.
    pub(super) fn replay<P: Place>(
        folder: &Path,
        id: u64,
        mut stamped: impl FnMut(Vec<Entry<P>>, Stamped),
    ) -> Result<Self, LakeError> {
        let path = path_of(folder, id);
        let failed = |e: std::io::Error| broken(format!("{}: {e}", path.display()));
        let file = File::options().read(true).write(true).open(&path).map_err(failed)?;
        let mut records = Records(BufReader::with_capacity(256 << 10, &file));
        let (mut at, mut whole) = (0, 0);
        let mut entries = vec![];
        while let Some((kind, body)) = records.next() {
            at += (HEADER_BYTES + body.len()) as u64;
            match kind {
                ENTRIES => entries.extend(Entry::all_from(&body)),
                STAMP => {
                    let Ok(stamp) = serde_json::from_slice(&body) else { break };
                    stamped(std::mem::take(&mut entries), stamp);
                    whole = at;
                }
                _ => break,
            }
        }
        file.set_len(whole).map_err(failed)?;
        let file = File::options().append(true).open(&path).map_err(failed)?;
        Ok(Self { path, file: BufWriter::with_capacity(WRITE_BYTES, file), bytes: whole })
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn entries<P: Place>(&mut self, entries: impl Iterator<Item = Entry<P>>) -> Result<(), LakeError> {
        let mut body = vec![];
        for entry in entries {
            entry.push_to(&mut body);
            if body.len() == RECORD_ENTRIES * Entry::<P>::BYTES {
                self.record(ENTRIES, &body)?;
                body.clear();
            }
        }
        if body.is_empty() { Ok(()) } else { self.record(ENTRIES, &body) }
    }

    pub(super) fn stamp(&mut self, stamped: &Stamped) -> Result<(), LakeError> {
        let body = serde_json::to_vec(stamped).map_err(broken)?;
        self.record(STAMP, &body)?;
        self.file.flush().map_err(|e| broken(format!("{}: {e}", self.path.display())))
    }

    fn record(&mut self, kind: u8, body: &[u8]) -> Result<(), LakeError> {
        let mut header = [kind, 0, 0, 0, 0, 0, 0, 0, 0];
        header[1..5].copy_from_slice(&(body.len() as u32).to_le_bytes());
        header[5..].copy_from_slice(&checksum(kind, body).to_le_bytes());
        self.bytes += (HEADER_BYTES + body.len()) as u64;
        let written = self.file.write_all(&header).and_then(|()| self.file.write_all(body));
        written.map_err(|e| broken(format!("{}: {e}", self.path.display())))
    }

    pub(super) fn remove(self) {
        // What stays behind is removed when the index is opened again.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn checksum(kind: u8, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[kind]);
    hasher.update(body);
    hasher.finalize()
}

/// The whole records of a log, up to the first that is not.
struct Records<'a>(BufReader<&'a File>);

impl Records<'_> {
    fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut header = [0; HEADER_BYTES];
        self.0.read_exact(&mut header).ok()?;
        let word = |from: usize| u32::from_le_bytes(std::array::from_fn(|i| header[from + i]));
        let (kind, length, sum) = (header[0], word(1), word(5));
        // A damaged length costs no memory: what is read is what is there.
        let mut body = vec![];
        (&mut self.0).take(u64::from(length)).read_to_end(&mut body).ok()?;
        (body.len() == length as usize && checksum(kind, &body) == sum).then_some((kind, body))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Location;
    use super::super::place::Numbered;
    use super::*;
    use tempfile::TempDir;

    fn entries(n: u128) -> impl Iterator<Item = Entry<Numbered>> {
        (0..n).map(|key| Entry::new(key, Location { file: 1, position: key as u32, row_id: Some(key as i64) }))
    }

    fn stamped(snapshot_id: i64) -> Stamped {
        Stamped { stamp: Stamp { snapshot_id: Some(snapshot_id), ..Stamp::default() }, ..Stamped::default() }
    }

    /// Snapshots found, each with the entries before it.
    fn replayed(folder: &TempDir) -> Vec<(Option<i64>, usize)> {
        let mut found = vec![];
        let stamped = |entries: Vec<Entry<Numbered>>, stamped: Stamped| {
            found.push((stamped.stamp.snapshot_id, entries.len()));
        };
        Log::replay(folder.path(), 1, stamped).unwrap();
        found
    }

    #[test]
    fn what_was_stamped_is_read_again_and_what_follows_is_dropped() {
        let folder = TempDir::new().unwrap();
        let mut log = Log::create(folder.path(), 1).unwrap();
        log.entries(entries(20_000)).unwrap();
        log.stamp(&stamped(7)).unwrap();
        log.entries(entries(30_000)).unwrap();
        drop(log);
        assert_eq!(replayed(&folder), [(Some(7), 20_000)]);
        let mut log = Log::replay::<Numbered>(folder.path(), 1, |_, _| {}).unwrap();
        log.entries(entries(3)).unwrap();
        log.stamp(&stamped(8)).unwrap();
        assert_eq!(log.bytes(), std::fs::metadata(&log.path).unwrap().len());
        assert_eq!(replayed(&folder), [(Some(7), 20_000), (Some(8), 3)]);
    }

    #[test]
    fn a_log_that_is_cut_or_damaged_anywhere_ends_at_a_whole_stamp() {
        let folder = TempDir::new().unwrap();
        let mut log = Log::create(folder.path(), 1).unwrap();
        for snapshot in 1..4 {
            log.entries(entries(5)).unwrap();
            log.stamp(&stamped(snapshot)).unwrap();
        }
        let path = log.path.clone();
        drop(log);
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            std::fs::write(&path, &whole[..at]).unwrap();
            let after_cut = replayed(&folder);
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            std::fs::write(&path, &damaged).unwrap();
            for found in [after_cut, replayed(&folder)] {
                let expected: Vec<_> = (1..=found.len() as i64).map(|n| (Some(n), 5)).collect();
                assert_eq!(found, expected, "byte {at}");
                assert!(found.len() < 3, "byte {at}");
            }
        }
    }
}
