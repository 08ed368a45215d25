//! The primary-key index on disk: how fast it fills, answers and changes, what it takes of memory and disk.
//!
//! `cargo bench --bench index -- [KEYS [BATCHES]]`, by default 100 million keys and 200 batches of 50,000 lookups and changes of
//! random keys each, nine of ten known ones. Nothing but the index is measured: no table, no storage.

#![expect(clippy::expect_used, reason = "a bench that cannot go on may stop")]

use std::path::Path;
use std::time::Instant;

use firn::memory::Memory;
use firn::sink::lake::index::{Holds, IndexHome, Location, Stamp};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use uuid::Uuid;

/// The share of the default memory budget.
const MEMORY_BYTES: usize = 48 << 20;
const BATCH: usize = 50_000;
/// Keys that a scan of a data file brings at once.
const SCANNED: u64 = 500_000;

fn key(n: u64) -> u128 {
    xxhash_rust::xxh3::xxh3_128(&n.to_le_bytes())
}

fn stamp(snapshot_id: u64) -> Stamp {
    Stamp { snapshot_id: Some(snapshot_id as i64), ..Stamp::default() }
}

fn bytes_in(folder: &Path) -> u64 {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    files
        .map(|file| match file.metadata() {
            Ok(of) if of.is_dir() => bytes_in(&file.path()),
            Ok(of) => of.len(),
            Err(_) => 0,
        })
        .sum()
}

/// The most memory that the process ever held.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}

fn main() {
    let mut numbers = std::env::args().filter_map(|a| a.parse::<u64>().ok());
    let keys = numbers.next().unwrap_or(100_000_000);
    let batches = numbers.next().unwrap_or(200);
    // Of a table of format v3.
    let holds = if std::env::args().any(|a| a == "row-ids") { Holds::RowIds } else { Holds::Nothing };
    let at = |file, position| Location { file, position, row_id: (holds == Holds::RowIds).then_some(position.into()) };
    let folder = std::env::temp_dir().join("firn-bench-index");
    let _ = std::fs::remove_dir_all(&folder);
    let home = || IndexHome::on_disk(&folder, Memory::new(8 * MEMORY_BYTES));
    let per_key = |keys: u64| bytes_in(&folder) as f64 / keys as f64;

    let mut index = home().open(Uuid::nil(), holds).expect("the folder can be written");
    let began = Instant::now();
    let mut puts = Vec::with_capacity(SCANNED as usize);
    for from in (0..keys).step_by(SCANNED as usize) {
        let file = index.number(&format!("file-{from}")).expect("few files");
        puts.clear();
        puts.extend((from..keys.min(from + SCANNED)).map(|n| (key(n), Some(at(file, (n - from) as u32)))));
        index.apply(&puts).expect("the index can be written");
    }
    index.set_stamp(stamp(0), &|_| true).expect("the index can be written");
    drop(puts);
    let took = began.elapsed().as_secs_f64();
    println!("fill: {keys} keys, {:.2} M keys/s, {:.1} bytes of disk a key", keys as f64 / took / 1e6, per_key(keys));

    drop(index);
    let began = Instant::now();
    let mut index = home().open(Uuid::nil(), holds).expect("the folder can be read");
    assert_eq!(index.stamp(), Some(&stamp(0)));
    println!("open: {:.0} ms", began.elapsed().as_secs_f64() * 1e3);

    let mut random = StdRng::seed_from_u64(1);
    let (mut hits, mut total, mut next) = (0, 0, keys);
    let (mut looking, mut changing, mut slowest) = (0.0, 0.0, 0.0f64);
    for batch in 1..=batches {
        let file = index.number(&format!("batch-{batch}")).expect("few files");
        let mut changed: Vec<u128> = (0..BATCH)
            .map(|_| {
                let known = random.random_bool(0.9);
                next += u64::from(!known);
                key(if known { random.random_range(0..keys) } else { next })
            })
            .collect();
        changed.sort_unstable();
        let began = Instant::now();
        let found = index.lookup(&changed).expect("the index can be read");
        let looked = began.elapsed().as_secs_f64();
        hits += found.iter().flatten().count();
        let changes: Vec<_> = (0..).zip(&changed).map(|(position, key)| (*key, Some(at(file, position)))).collect();
        index.apply(&changes).expect("the index can be written");
        index.set_stamp(stamp(batch), &|_| true).expect("the index can be written");
        let all = began.elapsed().as_secs_f64();
        total += BATCH;
        looking += looked;
        changing += all - looked;
        slowest = slowest.max(all);
    }
    println!(
        "batches of {BATCH}: {:.0} lookups and changes/s ({:.0} % of the time for lookups), slowest batch {:.2} s, {:.0} % known keys",
        total as f64 / (looking + changing),
        100.0 * looking / (looking + changing),
        slowest,
        100.0 * hits as f64 / total as f64,
    );
    println!("disk: {:.1} bytes a key", per_key(next));
    println!("memory: {} MiB at most", peak_mib());
    drop(index);
    let _ = std::fs::remove_dir_all(&folder);
}
