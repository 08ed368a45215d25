//! Where the processes keep their key indexes: a folder for each slot of the group, which outlives a process and is not always what it
//! was left.

use std::fs;
use std::path::Path;

use firn::memory::Memory;
use firn::sink::lake::Shared;
use rand::Rng;
use rand::rngs::StdRng;
use tempfile::TempDir;

use super::faults::Counts;

#[derive(Debug)]
pub struct Indexes {
    root: TempDir,
}

impl Indexes {
    pub fn new() -> Self {
        // In memory, where there is such a place: the simulation is not about the disk.
        let root = TempDir::new_in("/dev/shm").or_else(|_| TempDir::new());
        Self { root: root.unwrap() }
    }

    /// What a process finds that starts in this slot: the folder as the last one left it; sometimes nothing, or an older one. So a zombie
    /// may have lost the folder under its feet.
    pub fn for_a_start(&self, slot: usize, rng: &mut StdRng, counts: &mut Counts) -> Shared {
        let folder = self.root.path().join(slot.to_string());
        let copy = self.root.path().join(format!("{slot}-copy"));
        let what = rng.random_range(0..10);
        if folder.exists() {
            match what {
                0 => {
                    fs::remove_dir_all(&folder).unwrap();
                    counts.add("indexes lost", 1);
                }
                1..4 if copy.exists() => {
                    fs::remove_dir_all(&folder).unwrap();
                    copy_folder(&copy, &folder);
                    counts.add("indexes older than their table", 1);
                }
                _ => counts.add("indexes kept over a restart", 1),
            }
        }
        if folder.exists() && rng.random_bool(0.5) {
            let _ = fs::remove_dir_all(&copy);
            copy_folder(&folder, &copy);
        }
        // With next to none, the index is in runs and nothing is kept that can be read again.
        let budget_bytes = if rng.random_bool(0.2) { 8 } else { 64 << 20 };
        Shared::new(Memory::new(budget_bytes), Some(&folder))
    }
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        match entry.file_type().unwrap().is_dir() {
            true => copy_folder(&source, &target),
            false => _ = fs::copy(source, target).unwrap(),
        }
    }
}
