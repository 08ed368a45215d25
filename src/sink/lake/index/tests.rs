//! What every index must do, held against a plain map; on disk also across restarts, kills and damage.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rstest::rstest;
use tempfile::TempDir;
use uuid::Uuid;

use super::*;
use crate::memory::Memory;

const TABLE: Uuid = Uuid::nil();

fn at(file: u32, position: u32) -> Location {
    Location { file, position, row_id: None }
}

/// Spread as hashes are.
fn key(n: u64) -> u128 {
    xxhash_rust::xxh3::xxh3_128(&n.to_le_bytes())
}

fn home(folder: &TempDir, limit: usize) -> IndexHome {
    IndexHome::on_disk(folder.path(), Memory::new(8 * limit))
}

fn stamp(snapshot_id: i64) -> Stamp {
    Stamp { snapshot_id: Some(snapshot_id), ..Stamp::default() }
}

/// The index and what it must hold.
struct Pair {
    index: Box<dyn KeyIndex>,
    holds: Holds,
    model: HashMap<u128, Location>,
    random: StdRng,
    keys: u64,
    files: Vec<u32>,
}

impl Pair {
    fn new(home: &IndexHome, holds: Holds, seed: u64, keys: u64) -> Self {
        let (index, random) = (home.open(TABLE, holds).unwrap(), StdRng::seed_from_u64(seed));
        let mut pair = Self { index, holds, model: HashMap::new(), random, keys, files: vec![] };
        pair.new_file();
        pair
    }

    fn new_file(&mut self) {
        let path = format!("f{}", self.files.len());
        self.files.push(self.index.number(&path).unwrap());
    }

    fn change(&mut self, changes: usize) {
        let mut all = vec![];
        for _ in 0..changes {
            let key = key(self.random.random_range(0..self.keys));
            let file = self.files[self.random.random_range(0..self.files.len())];
            let row_id = (self.holds == Holds::RowIds && self.random.random_bool(0.5))
                .then(|| self.random.random_range(0..i64::MAX));
            let place = self.random.random_bool(0.8).then(|| Location { row_id, ..at(file, self.random.random()) });
            all.push((key, place));
            match place {
                Some(at) => self.model.insert(key, at),
                None => self.model.remove(&key),
            };
        }
        self.index.apply(&all).unwrap();
    }

    fn check(&mut self) {
        let keys: Vec<u128> = (0..self.keys + 10).map(key).collect();
        let expected: Vec<_> = keys.iter().map(|key| self.model.get(key).copied()).collect();
        let found = self.index.lookup(&keys).unwrap();
        let wrong: Vec<_> = (0..keys.len()).filter(|i| found[*i] != expected[*i]).collect();
        let first = wrong.first().map(|i| (i, found[*i], expected[*i]));
        assert!(wrong.is_empty(), "{} of {} answers are not what was put last: {first:?}", wrong.len(), keys.len());
    }
}

#[rstest]
#[case::in_memory(None)]
#[case::on_disk(Some(64 << 20))]
#[case::on_disk_with_little_memory(Some(64 << 10))]
fn what_was_put_last_is_found(#[case] limit: Option<usize>, #[values(Holds::Nothing, Holds::RowIds)] holds: Holds) {
    for seed in 0..2 {
        let folder = TempDir::new().unwrap();
        let home = limit.map_or_else(IndexHome::in_memory, |limit| home(&folder, limit));
        let mut pair = Pair::new(&home, holds, seed, 8_000);
        for round in 0..30 {
            let changes = pair.random.random_range(1..3_000);
            pair.change(changes);
            if round % 7 == 3 {
                pair.check();
            }
            if pair.random.random_bool(0.7) {
                pair.index.set_stamp(stamp(round), &|_| true).unwrap();
            }
            if pair.random.random_bool(0.3) {
                pair.new_file();
            }
        }
        pair.check();
        assert!(pair.index.len() >= pair.model.len());
    }
}

#[rstest]
#[case::in_the_log(64 << 20)]
#[case::in_runs(64 << 10)]
fn a_new_process_finds_what_was_stamped(#[case] limit: usize, #[values(Holds::Nothing, Holds::RowIds)] holds: Holds) {
    let folder = TempDir::new().unwrap();
    let mut pair = Pair::new(&home(&folder, limit), holds, 1, 5_000);
    for round in 1..12 {
        pair.change(2_000);
        pair.index.set_stamp(stamp(round), &|_| true).unwrap();
        // A kill: what follows the stamp is lost.
        let stamped = pair.model.clone();
        pair.change(50);
        let number = pair.index.number("not stamped").unwrap();
        pair.index = Box::new(MemoryIndex::default());
        pair.index = home(&folder, limit).open(TABLE, holds).unwrap();
        pair.model = stamped;
        assert_eq!(pair.index.stamp(), Some(&stamp(round)));
        assert_eq!(pair.index.files(), pair.files.iter().copied().collect::<BTreeSet<_>>());
        pair.check();
        assert_eq!(pair.index.number("f0").unwrap(), pair.files[0]);
        assert!(number >= *pair.files.last().unwrap());
    }
}

/// A table that was upgraded to format v3 needs the ids of its rows, and those are in no index of before.
#[test]
fn an_index_that_holds_something_else_is_empty() {
    let folder = TempDir::new().unwrap();
    for (n, holds) in (1..).zip([Holds::Nothing, Holds::RowIds, Holds::Nothing]) {
        let mut index = home(&folder, 1).open(TABLE, holds).unwrap();
        assert_eq!((index.stamp(), index.len()), (None, 0));
        let file = index.number("f").unwrap();
        index.apply(&[(key(n), Some(at(file, 7)))]).unwrap();
        index.set_stamp(stamp(1), &|_| true).unwrap();
        drop(index);
        let mut again = home(&folder, 1).open(TABLE, holds).unwrap();
        assert_eq!(again.stamp(), Some(&stamp(1)));
        assert_eq!(again.lookup(&[key(n)]).unwrap(), [Some(at(file, 7))]);
    }
}

#[rstest]
#[case::places(Holds::Nothing, 26)]
#[case::row_ids(Holds::RowIds, 34)]
fn a_key_takes_few_bytes_of_disk(#[case] holds: Holds, #[case] most: u64) {
    let folder = TempDir::new().unwrap();
    let mut index = home(&folder, 1 << 20).open(TABLE, holds).unwrap();
    let file = index.number("f").unwrap();
    for from in (0..400_000).step_by(50_000) {
        let puts =
            (from..from + 50_000).map(|n| (key(n), Some(Location { row_id: Some(n as i64), ..at(file, n as u32) })));
        index.apply(&puts.collect::<Vec<_>>()).unwrap();
    }
    index.set_stamp(stamp(1), &|_| true).unwrap();
    let bytes = bytes_in(&folder.path().join(TABLE.to_string()).join("0"));
    assert!(bytes <= most * 400_000, "{bytes} bytes");
}

#[test]
fn files_that_do_not_live_are_forgotten_and_their_entries_go_with_a_merge() {
    let folder = TempDir::new().unwrap();
    let mut index = home(&folder, 1).open(TABLE, Holds::Nothing).unwrap();
    let (a, b) = (index.number("a").unwrap(), index.number("b").unwrap());
    let puts: Vec<_> = (0..1_000).map(|n| (key(n), Some(at(if n % 2 == 0 { a } else { b }, 0)))).collect();
    index.apply(&puts).unwrap();
    index.set_stamp(stamp(1), &|_| true).unwrap();
    index.apply(&[(key(5_000), Some(at(b, 7)))]).unwrap();
    index.set_stamp(stamp(2), &|number| number == b).unwrap();
    assert_eq!(index.files(), [b].into());
    drop(index);
    let mut index = home(&folder, 1).open(TABLE, Holds::Nothing).unwrap();
    assert_eq!(index.files(), [b].into());
    assert!(index.number("a").unwrap() > b, "a number is never used again");
    assert_eq!(index.lookup(&[key(1), key(5_000)]).unwrap(), [Some(at(b, 0)), Some(at(b, 7))]);
}

#[test]
fn an_index_that_was_interrupted_has_no_stamp() {
    let folder = TempDir::new().unwrap();
    let mut index = home(&folder, 4 << 10).open(TABLE, Holds::Nothing).unwrap();
    let puts = |from: u64| (from..from + 5_000).map(|n| (key(n), Some(at(0, 0)))).collect::<Vec<_>>();
    index.apply(&puts(0)).unwrap();
    drop(index);
    let mut index = home(&folder, 4 << 10).open(TABLE, Holds::Nothing).unwrap();
    assert_eq!((index.stamp(), index.len()), (None, 0), "it was never stamped");
    index.set_stamp(stamp(1), &|_| true).unwrap();
    // More than memory holds: it goes to disk before it is stamped.
    (0..10).for_each(|n| index.apply(&puts(n * 5_000)).unwrap());
    drop(index);
    let index = home(&folder, 4 << 10).open(TABLE, Holds::Nothing).unwrap();
    assert_eq!((index.stamp(), index.len()), (None, 0), "it is ahead of its stamp");
}

#[test]
fn two_processes_have_one_each_and_the_next_takes_what_is_free() {
    let folder = TempDir::new().unwrap();
    let home = home(&folder, 1 << 20);
    let mut first = home.open(TABLE, Holds::Nothing).unwrap();
    let mut second = home.open(TABLE, Holds::Nothing).unwrap();
    first.set_stamp(stamp(1), &|_| true).unwrap();
    second.set_stamp(stamp(2), &|_| true).unwrap();
    drop(first);
    assert_eq!(home.open(TABLE, Holds::Nothing).unwrap().stamp(), Some(&stamp(1)));
    assert_eq!(home.open(Uuid::max(), Holds::Nothing).unwrap().stamp(), None, "another table");
}

#[test]
fn an_index_that_could_not_be_written_is_true_for_nothing() {
    for (limit, is_flushed) in [(1, true), (4 << 20, true), (64 << 20, false)] {
        let folder = TempDir::new().unwrap();
        let mut index = home(&folder, limit).open(TABLE, Holds::Nothing).unwrap();
        index.set_stamp(stamp(1), &|_| true).unwrap();
        std::fs::remove_dir_all(folder.path()).unwrap();
        // As a full disk: the entries are in memory no more, and not in a run.
        let file = index.number("f").unwrap();
        let puts: Vec<_> = (0..200_000).map(|n| (key(n), Some(at(file, 0)))).collect();
        let applied = index.apply(&puts);
        assert_eq!(applied.is_err(), limit == 1, "more than twice its memory is written at once");
        let written = index.set_stamp(stamp(2), &|_| true);
        assert_eq!(written.is_err(), is_flushed);
        assert_eq!(index.stamp(), (!is_flushed).then(|| stamp(2)).as_ref());
    }
}

#[test]
fn a_folder_that_was_deleted_and_made_anew_by_another_process_is_left_to_it() {
    let folder = TempDir::new().unwrap();
    let home = home(&folder, 1);
    let mut first = home.open(TABLE, Holds::Nothing).unwrap();
    first.set_stamp(stamp(1), &|_| true).unwrap();
    std::fs::remove_dir_all(folder.path()).unwrap();
    assert!(first.clear().is_err());
    let mut second = home.open(TABLE, Holds::Nothing).unwrap();
    second.set_stamp(stamp(2), &|_| true).unwrap();
    assert!(first.clear().is_err());
    drop((first, second));
    assert_eq!(home.open(TABLE, Holds::Nothing).unwrap().stamp(), Some(&stamp(2)));
}

/// The files of the folder of the first process.
fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let own = folder.join(TABLE.to_string()).join("0");
    let mut files: Vec<_> = std::fs::read_dir(own).unwrap().map(|f| f.unwrap().path()).collect();
    files.retain(|path| !path.ends_with("lock"));
    files.sort();
    files
}

#[test]
fn damage_is_an_error_or_an_empty_index_never_a_wrong_answer() {
    let folder = TempDir::new().unwrap();
    let mut pair = Pair::new(&home(&folder, 64 << 10), Holds::Nothing, 3, 3_000);
    let mut models = vec![];
    for round in 0..4 {
        pair.change(2_000);
        pair.index.set_stamp(stamp(round), &|_| true).unwrap();
        models.push(pair.model.clone());
    }
    pair.index = Box::new(MemoryIndex::default());
    let whole: Vec<_> =
        files(folder.path()).into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect();
    assert!(whole.len() > 2, "{whole:?}");
    let keys: Vec<u128> = (0..3_000).map(key).collect();
    for round in 0..45 {
        for (path, bytes) in &whole {
            std::fs::write(path, bytes).unwrap();
        }
        let (path, bytes) = &whole[pair.random.random_range(0..whole.len())];
        match round % 3 {
            0 => std::fs::remove_file(path).unwrap(),
            1 => std::fs::write(path, &bytes[..pair.random.random_range(0..=bytes.len())]).unwrap(),
            _ if bytes.is_empty() => continue,
            _ => {
                let mut bytes = bytes.clone();
                let at = pair.random.random_range(0..bytes.len());
                bytes[at] ^= 1 << pair.random.random_range(0..7);
                std::fs::write(path, bytes).unwrap();
            }
        }
        let mut index = home(&folder, 64 << 10).open(TABLE, Holds::Nothing).unwrap();
        if let Some(Stamp { snapshot_id: Some(stamped), .. }) = index.stamp() {
            let model = &models[*stamped as usize];
            let expected: Vec<_> = keys.iter().map(|key| model.get(key).copied()).collect();
            match index.lookup(&keys) {
                Ok(found) => assert!(found == expected, "{}", path.display()),
                Err(e) => assert!(matches!(e, LakeError::Index(_)), "{e}"),
            }
        }
        index.clear().unwrap();
        let file = index.number("after").unwrap();
        index.apply(&[(keys[0], Some(at(file, 1)))]).unwrap();
        index.set_stamp(stamp(9), &|_| true).unwrap();
        assert_eq!(index.lookup(&keys[..2]).unwrap(), [Some(at(file, 1)), None]);
    }
}

#[test]
fn runs_stay_few_and_files_that_do_not_count_are_removed() {
    let folder = TempDir::new().unwrap();
    let mut pair = Pair::new(&home(&folder, 16 << 10), Holds::Nothing, 9, 20_000);
    for round in 0..50 {
        pair.change(1_000);
        pair.index.set_stamp(stamp(round), &|_| true).unwrap();
        assert!(files(folder.path()).len() <= 12, "{:?}", files(folder.path()));
    }
    pair.check();
    assert!(pair.index.len() < 3 * pair.model.len(), "{} for {}", pair.index.len(), pair.model.len());
}
