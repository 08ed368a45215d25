//! What is kept of each key from one change to the next: bounded, and the same whenever it is made again from the same changes.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// A value that is stored as text.
pub(super) trait Value: Clone {
    fn text(&self) -> String;

    /// What [`text`](Self::text) made; `None` of anything else.
    fn of_text(text: &str) -> Option<Self>;
}

/// Values by their keys. Where there are too many, the one that was written longest ago goes.
#[derive(Debug)]
pub(super) struct Shelf<V> {
    entries: HashMap<Arc<str>, Entry<V>>,
    oldest: BTreeSet<(i64, Arc<str>)>,
    most: usize,
    /// What was done since the sink stood at the position that the shelf was read for.
    journal: Vec<Step<V>>,
}

#[derive(Clone, Debug)]
struct Entry<V> {
    /// Of the change that wrote it.
    offset: i64,
    value: V,
}

#[derive(Debug)]
struct Step<V> {
    /// Of the change that did it.
    offset: i64,
    key: Arc<str>,
    before: Option<Entry<V>>,
    after: Option<Entry<V>>,
}

impl<V: Value> Shelf<V> {
    pub(super) fn new(most: usize) -> Self {
        Self { entries: HashMap::new(), oldest: BTreeSet::new(), most, journal: Vec::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn get(&self, key: &str) -> Option<&V> {
        self.entries.get(key).map(|entry| &entry.value)
    }

    /// By the change at `offset`. How many keys had to go for it.
    pub(super) fn put(&mut self, offset: i64, key: &str, value: V) -> u64 {
        let key: Arc<str> = self.entries.get_key_value(key).map_or_else(|| key.into(), |(key, _)| Arc::clone(key));
        self.step(offset, key, Some(Entry { offset, value }));
        let mut gone = 0;
        while self.entries.len() > self.most
            && let Some((_, key)) = self.oldest.first().cloned()
        {
            self.step(offset, key, None);
            gone += 1;
        }
        gone
    }

    fn step(&mut self, offset: i64, key: Arc<str>, after: Option<Entry<V>>) {
        let before = self.place(&key, after.clone());
        self.journal.push(Step { offset, key, before, after });
    }

    /// What was there before.
    fn place(&mut self, key: &Arc<str>, entry: Option<Entry<V>>) -> Option<Entry<V>> {
        let before = self.entries.remove(key);
        if let Some(before) = &before {
            self.oldest.remove(&(before.offset, Arc::clone(key)));
        }
        if let Some(entry) = entry {
            self.oldest.insert((entry.offset, Arc::clone(key)));
            self.entries.insert(Arc::clone(key), entry);
        }
        before
    }

    /// As it was when the sink was told last.
    pub(super) fn undo(&mut self) {
        for step in std::mem::take(&mut self.journal).into_iter().rev() {
            self.place(&step.key, step.before);
        }
    }

    /// The sink has all that was done.
    pub(super) fn settle(&mut self) {
        self.journal.clear();
    }

    /// What was done since, in order: by which change, the key, and what is to be stored of it; `None` where it went.
    pub(super) fn done(&self) -> impl Iterator<Item = (i64, &str, Option<String>)> {
        let text = |entry: &Entry<V>| format!("{} {}", entry.offset, entry.value.text());
        self.journal.iter().map(move |step| (step.offset, &*step.key, step.after.as_ref().map(text)))
    }

    /// Takes what was stored of a key; whether it could be read.
    pub(super) fn load(&mut self, key: &str, stored: Option<&str>) -> bool {
        let entry = stored.map(|stored| {
            let (offset, value) = stored.split_once(' ')?;
            Some(Entry { offset: offset.parse().ok()?, value: V::of_text(value)? })
        });
        match entry {
            Some(None) => false,
            Some(entry @ Some(_)) => {
                self.place(&key.into(), entry);
                true
            }
            None => {
                self.place(&key.into(), None);
                true
            }
        }
    }
}

impl Value for i64 {
    fn text(&self) -> String {
        self.to_string()
    }

    fn of_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(shelf: &Shelf<i64>) -> Vec<(String, i64)> {
        let mut all: Vec<_> = shelf.entries.iter().map(|(k, e)| (k.to_string(), e.value)).collect();
        all.sort();
        all
    }

    fn pairs(pairs: &[(&str, i64)]) -> Vec<(String, i64)> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect()
    }

    #[test]
    fn the_key_that_was_written_longest_ago_goes() {
        let mut shelf = Shelf::new(2);
        assert_eq!((shelf.put(1, "a", 10), shelf.put(2, "b", 20), shelf.put(3, "a", 11)), (0, 0, 0));
        assert_eq!(shelf.put(4, "c", 30), 1);
        assert_eq!(all(&shelf), pairs(&[("a", 11), ("c", 30)]));
        assert_eq!((shelf.get("a"), shelf.get("b"), shelf.len()), (Some(&11), None, 2));
        let done: Vec<_> = shelf.done().map(|(o, k, v)| (o, k.to_owned(), v)).collect();
        let step = |o: i64, k: &str, v: Option<&str>| (o, k.to_owned(), v.map(str::to_owned));
        let want = [
            step(1, "a", Some("1 10")),
            step(2, "b", Some("2 20")),
            step(3, "a", Some("3 11")),
            step(4, "c", Some("4 30")),
            step(4, "b", None),
        ];
        assert_eq!(done, want);
    }

    #[test]
    fn what_was_done_is_undone_and_read_back() {
        let mut shelf = Shelf::new(2);
        shelf.put(1, "a", 10);
        shelf.put(2, "b", 20);
        let stored: Vec<_> = shelf.done().map(|(_, k, v)| (k.to_owned(), v)).collect();
        shelf.settle();
        shelf.put(3, "a", 11);
        shelf.put(4, "c", 30);
        shelf.put(4, "c", 31);
        shelf.undo();
        assert_eq!((all(&shelf), shelf.done().count()), (pairs(&[("a", 10), ("b", 20)]), 0));

        let mut read = Shelf::<i64>::new(2);
        assert!(stored.iter().all(|(key, value)| read.load(key, value.as_deref())));
        assert_eq!((all(&read), read.done().count()), (all(&shelf), 0));
        assert!(!read.load("a", Some("no number")) && !read.load("a", Some("1 x")));
        // Both go on alike: the order of writing came back too.
        assert_eq!((read.put(5, "d", 1), shelf.put(5, "d", 1)), (1, 1));
        assert_eq!(all(&read), all(&shelf));
        assert!(read.load("d", None));
        assert_eq!(all(&read), pairs(&[("b", 20)]));
    }
}
