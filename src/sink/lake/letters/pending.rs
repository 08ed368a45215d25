//! The keys of letters that wait for their replay, kept in the table that the letters were meant for.
//!
//! A replay must not overwrite or revive what came after the record in its partition. Whether something came is not to be seen
//! from the rows: a later delete leaves none. So each commit that writes a change of such a key says so here, in a property and
//! therefore in the swap of its rows: true after any crash, for any number of processes.
//!
//! | a commit | the set |
//! |---|---|
//! | holds the record of a letter | has the letter, and whether a change of its key follows in the same commit |
//! | holds a change of the key of an earlier letter | `later` |
//! | holds a TRUNCATE of the letter's partition behind it | `later`; in other partitions the table's fence tells |
//! | holds a letter's record again, as a row this time | loses the letter |
//! | replays a letter | loses it; earlier letters of its key are `later` |
//!
//! It is bounded. A letter that finds no place, and one whose key nobody could read, is not in it: its replay enrols it once
//! the key can be read, and looks for what came before that in Kafka's log.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::position::TopicPartition;
use crate::record::Origin;
use crate::sink::lake::Staged;
use crate::sink::lake::keys::probe;
use crate::sink::lake::letters::replay::Replay;

/// Table property: the pending set as JSON.
pub const PENDING: &str = "firn.pending-letters";

/// Letters that a set holds. The property goes into every metadata file, at about 100 bytes a letter: more would make each commit
/// slower. Fewer would send more replays to Kafka's log.
const MOST: usize = 1_000;

/// A letter whose key is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingLetter {
    pub origin: Origin,
    /// The hash of its row's key.
    pub key: u128,
    /// From this offset on every change of the key is noted here; those before, down to the letter's own offset, are not.
    pub noted_from: i64,
    /// Whether a change of the key that comes after the letter is in the table.
    pub later: bool,
}

/// The letters of one table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PendingSet {
    letters: Vec<PendingLetter>,
}

/// As it is stored: topic, partition, offset, key, noted from, later.
type Entry = (String, i32, i64, String, i64, bool);

#[derive(Deserialize, Serialize)]
struct Stored {
    /// The hash of a known key: hashes of another kind than this process makes match nothing.
    probe: String,
    /// Field ids of the key columns.
    key_ids: Vec<i32>,
    letters: Vec<Entry>,
}

impl PendingSet {
    /// Reads the property. A set that this process can't compare with its own keys (another version's hashes, another key) is
    /// empty: its letters' replays look into Kafka's log.
    pub(crate) fn read(property: Option<&str>, key_ids: &[i32]) -> Self {
        let stored = property.and_then(|json| serde_json::from_str::<Stored>(json).ok());
        let Some(stored) = stored.filter(|s| s.probe == probe() && s.key_ids == key_ids) else {
            return Self::default();
        };
        let letters = stored.letters.into_iter().filter_map(|(topic, partition, offset, key, noted_from, later)| {
            let origin = Origin { at: TopicPartition::new(topic, partition), offset };
            Some(PendingLetter { origin, key: u128::from_str_radix(&key, 16).ok()?, noted_from, later })
        });
        Self { letters: letters.collect() }
    }

    pub(crate) fn to_json(&self, key_ids: &[i32]) -> String {
        let entry = |l: &PendingLetter| {
            let at = &l.origin.at;
            (at.topic.clone(), at.partition, l.origin.offset, format!("{:032x}", l.key), l.noted_from, l.later)
        };
        let stored =
            Stored { probe: probe(), key_ids: key_ids.to_vec(), letters: self.letters.iter().map(entry).collect() };
        serde_json::to_string(&stored).unwrap_or_default()
    }

    pub fn find(&self, origin: &Origin) -> Option<&PendingLetter> {
        self.letters.iter().find(|l| l.origin == *origin)
    }

    pub fn len(&self) -> usize {
        self.letters.len()
    }

    pub fn is_empty(&self) -> bool {
        self.letters.is_empty()
    }

    /// What a batch does to the set when it is committed.
    pub(crate) fn take(&mut self, batch: &Staged) {
        if !self.letters.is_empty() {
            let again = |o: &Origin| batch.spans.iter().any(|s| s.at == o.at && (s.from..s.next).contains(&o.offset));
            self.letters.retain(|l| !again(&l.origin));
            if batch.replay.is_none()
                && let Some(overlay) = &batch.overlay
            {
                for letter in self.letters.iter_mut().filter(|l| overlay.contains(l.key)) {
                    letter.later = true;
                }
            }
        }
        self.enrol(batch.letters.iter().cloned());
        for truncate in batch.events.truncates() {
            let before = |o: &Origin| o.at == truncate.at && o.offset < truncate.offset;
            self.letters.iter_mut().filter(|l| before(&l.origin)).for_each(|l| l.later = true);
        }
    }

    /// Only these stay.
    pub(crate) fn retain(&mut self, stays: impl Fn(&PendingLetter) -> bool) {
        self.letters.retain(stays);
    }

    /// Takes letters in as far as there is place; one that is in the set already is put right.
    fn enrol(&mut self, letters: impl IntoIterator<Item = PendingLetter>) {
        for letter in letters {
            let place = self.letters.len() < MOST;
            match self.letters.iter_mut().find(|l| l.origin == letter.origin) {
                Some(have) => *have = letter,
                None if place => self.letters.push(letter),
                None => {}
            }
        }
    }

    /// Takes in all of a few letters that are to be replayed at once, in place of others where it must be.
    pub(crate) fn make_place(&mut self, letters: impl Iterator<Item = PendingLetter>) {
        let letters: Vec<PendingLetter> = letters.collect();
        let coming: BTreeSet<&Origin> = letters.iter().map(|l| &l.origin).collect();
        self.letters.retain(|l| !coming.contains(&l.origin));
        self.letters.truncate(MOST.saturating_sub(letters.len()));
        self.letters.extend(letters);
    }

    /// Why these letters can't be settled now, if so: their rows may only go in while nothing later is in the table.
    pub(crate) fn refuses(&self, replay: &Replay) -> Option<String> {
        replay.applied.iter().find_map(|applied| match self.find(&applied.origin) {
            Some(have) if have.key == applied.key && !have.later => None,
            Some(_) => Some(format!("a later change of the key of {} was committed", applied.origin)),
            None => Some(format!("{} is not pending any more", applied.origin)),
        })
    }

    /// The letters that a replay settles leave; what it applied is a later change for earlier letters of the same key.
    pub(crate) fn settle(&mut self, replay: &Replay) {
        let settled: BTreeSet<&Origin> = replay.settled.iter().map(|(origin, _)| origin).collect();
        self.letters.retain(|l| !settled.contains(&l.origin));
        for applied in &replay.applied {
            for letter in self.letters.iter_mut().filter(|l| l.key == applied.key) {
                letter.later |= comes_after(&applied.origin, &letter.origin);
            }
        }
    }
}

/// A key leaves its partition only for a new one, which is read after it.
fn comes_after(change: &Origin, letter: &Origin) -> bool {
    change.at != letter.at || change.offset > letter.offset
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::letter::Status;

    fn letter(origin: &str, key: u128) -> PendingLetter {
        let origin: Origin = origin.parse().unwrap();
        PendingLetter { noted_from: origin.offset + 1, origin, key, later: false }
    }

    fn set(letters: &[PendingLetter]) -> PendingSet {
        PendingSet { letters: letters.to_vec() }
    }

    #[test]
    fn a_set_reads_as_it_was_written_and_only_by_its_own_kind() {
        let mut pending = set(&[letter("a.b/0@5", u128::MAX), letter("a.b/1@7", 3)]);
        pending.letters[1].later = true;
        let json = pending.to_json(&[1, 2]);
        assert_eq!(PendingSet::read(Some(&json), &[1, 2]), pending);
        assert!(PendingSet::read(Some(&json), &[1]).is_empty(), "another key");
        let other = json.replace(&probe(), "00");
        assert!(PendingSet::read(Some(&other), &[1, 2]).is_empty(), "hashes of another kind");
        assert!(PendingSet::read(Some("{"), &[1, 2]).is_empty());
    }

    #[test]
    fn a_replayed_letter_is_a_later_change_for_earlier_ones_of_its_key_only() {
        let mut pending = set(&[letter("t/0@1", 7), letter("t/0@5", 7), letter("t/0@9", 7), letter("t/0@2", 8)]);
        let applied = letter("t/0@5", 7);
        let replay =
            Replay { replays: 0, settled: vec![(applied.origin.clone(), Status::Replayed)], applied: vec![applied] };
        assert_eq!(pending.refuses(&replay), None);
        pending.settle(&replay);
        let left: Vec<(i64, bool)> = pending.letters.iter().map(|l| (l.origin.offset, l.later)).collect();
        assert_eq!(left, [(1, true), (9, false), (2, false)]);
        assert!(pending.refuses(&replay).unwrap().contains("not pending any more"));
        let first = letter("t/0@1", 7);
        let late = Replay { replays: 1, settled: vec![], applied: vec![first] };
        assert!(pending.refuses(&late).unwrap().contains("a later change"));
    }

    #[test]
    fn the_set_is_bounded_and_a_replay_makes_place_for_its_own() {
        let mut pending = PendingSet::default();
        let letters = |from: i64, n: i64| (from..from + n).map(|o| letter(&format!("t/0@{o}"), o as u128));
        pending.enrol(letters(0, MOST as i64 + 5));
        assert_eq!(pending.len(), MOST);
        assert!(pending.find(&"t/0@1000".parse().unwrap()).is_none(), "the oldest stay");
        pending.make_place(letters(5_000, 10));
        assert_eq!(pending.len(), MOST);
        assert!(pending.find(&"t/0@5009".parse().unwrap()).is_some());
    }
}
