//! Whatever the order of commits and replays: in the end the table is the fold of the log.

use std::collections::BTreeMap;

use super::*;
use crate::generate::random::Random;

const KEYS: u64 = 4;
const COMMITS: u64 = 7;

/// What a letter's record was to say; its value was damaged on the way.
fn mended(offset: i64, key: i64) -> Option<Vec<u8>> {
    put(key, 1_000 + offset).1.map(String::into_bytes)
}

/// The last change of each key, letters included.
fn fold(log: &[Message], letters: &BTreeMap<i64, i64>) -> Vec<(i64, Option<i64>, i64)> {
    let mut rows = BTreeMap::new();
    for (offset, message) in log.iter().enumerate() {
        let offset = offset as i64;
        let (key, n) = match letters.get(&offset) {
            Some(key) => (*key, Some(1_000 + offset)),
            None => {
                let key = (0..KEYS as i64).find(|k| message.0 == key(*k)).unwrap();
                // Good records are updates to their own offset, and deletes.
                (key, (*message == put(key, offset)).then_some(offset))
            }
        };
        match n {
            Some(n) => rows.insert(key, (key, Some(n), offset)),
            None => rows.remove(&key),
        };
    }
    rows.into_values().collect()
}

async fn trial(seed: u64) {
    let mut random = Random::new(seed);
    let mut world = World::upsert();
    // Offset and key of the damaged records.
    let mut damaged = BTreeMap::new();
    let mut offset = 0;
    for commit in 0..COMMITS {
        let mut messages = vec![];
        for _ in 0..=random.below(7) {
            let id = random.below(KEYS) as i64;
            messages.push(match random.below(10) {
                // The table must be there before there are letters of it.
                0..3 if commit > 0 => {
                    damaged.insert(offset, id);
                    (key(id), Some("{".to_owned()))
                }
                3..5 => delete(id),
                _ => put(id, offset),
            });
            offset += 1;
        }
        world.feed(vec![messages]).await;
        if random.percent(20) {
            world.forget_pending().await;
        }
        if random.percent(60) {
            mend_and_replay(&mut world, &mut random, &damaged).await;
        }
    }
    for _ in 0..2 {
        mend(&world, &damaged, |_| true).await;
        let outcomes = world.replay().await;
        assert!(outcomes.iter().all(|(_, status, _)| *status != Pending), "seed {seed}: {outcomes:?}");
    }
    let log = world.log.lock().unwrap().clone();
    assert_eq!(world.rows().await, fold(&log, &damaged), "seed {seed}: letters {damaged:?}, log {log:#?}");
    assert!(world.standing().await.pending.is_empty(), "seed {seed}");
}

/// Some letters get their values back, some letters are replayed, killed anywhere or not.
async fn mend_and_replay(world: &mut World, random: &mut Random, damaged: &BTreeMap<i64, i64>) {
    let some: Vec<i64> = damaged.keys().copied().filter(|_| random.percent(50)).collect();
    mend(world, damaged, |offset| some.contains(&offset)).await;
    let some: Vec<i64> = damaged.keys().copied().filter(|_| random.percent(60)).collect();
    let faults = world.catalog.faults().clone();
    if random.percent(40) {
        faults.add(Fault::on([], Effect::Hold(Gate::default())).skip(random.below(60) as usize));
    } else {
        faults.add(Fault::on([], Effect::Hold(Gate::default())).skip(usize::MAX));
    }
    let held = async {
        while faults.pending() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        _ = world.replay_only(some) => {}
        () = held => {}
    }
    faults.clear();
}

async fn mend(world: &World, damaged: &BTreeMap<i64, i64>, which: impl Fn(i64) -> bool) {
    let letters = world.letters().read(&Choice::default(), Contents::Whole).await.unwrap();
    let mended = letters.into_iter().filter(|l| l.status == Pending && which(l.origin.offset)).map(|l| {
        let value = mended(l.origin.offset, damaged[&l.origin.offset]);
        Letter { value, ..l }
    });
    world.letters().put(&mended.collect::<Vec<_>>()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_is_the_fold_of_the_log_whenever_letters_were_replayed() {
    for seed in 0..12 {
        trial(seed).await;
    }
}
