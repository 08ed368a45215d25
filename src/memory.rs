//! The memory that a process may hold, as one budget: counted by kind while it is held, given back on drop.
//!
//! Pure bookkeeping. Whoever holds bytes has a [`Counted`] that says how many; whoever reads records asks whether there is room. The
//! shares of the budget are stated in docs/configuration.md.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What bytes are held for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Batches in the making: decoded rows, files being encoded, keys, rejected records.
    Open,
    /// Batches that wait for their commit, or are committed now: keys, held rows, letters.
    Staged,
    /// Pieces of files on their way to storage.
    Uploads,
    /// What the primary-key indexes have in memory.
    Index,
    /// Deleted rows of live files, kept so that they need not be read again.
    Deletes,
    /// Rows of the views of pipelines.
    Views,
}

impl Kind {
    pub const ALL: [Kind; 6] = [Kind::Open, Kind::Staged, Kind::Uploads, Kind::Index, Kind::Deletes, Kind::Views];

    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Open => "open",
            Kind::Staged => "staged",
            Kind::Uploads => "uploads",
            Kind::Index => "index",
            Kind::Deletes => "deletes",
            Kind::Views => "views",
        }
    }
}

/// The budget of a process, and what is held of it.
#[derive(Debug)]
pub struct Memory {
    budget_bytes: usize,
    used: [AtomicUsize; Kind::ALL.len()],
}

impl Memory {
    pub fn new(budget_bytes: usize) -> Arc<Self> {
        Arc::new(Self { budget_bytes, used: Default::default() })
    }

    /// For commands that do one thing.
    pub fn unbounded() -> Arc<Self> {
        Self::new(usize::MAX)
    }

    /// What Kafka's clients may fetch ahead.
    pub fn fetch_bytes(&self) -> usize {
        self.budget_bytes / 8
    }

    /// What batches in the making may hold; beyond it the largest are committed early.
    pub fn open_bytes(&self) -> usize {
        self.budget_bytes / 2
    }

    /// What batches may hold from their first record to their commit; beyond it nothing is read.
    pub fn batch_bytes(&self) -> usize {
        self.budget_bytes / 8 * 5
    }

    /// What one open file may collect before it is written on: a row group, or rows to be sorted. The larger, the better files are
    /// packed; a worker has several open.
    pub fn file_bytes(&self) -> usize {
        (self.budget_bytes / 16).clamp(4 << 20, 64 << 20)
    }

    /// What the indexes may have in memory; beyond it they write to disk.
    pub fn index_bytes(&self) -> usize {
        self.budget_bytes / 8
    }

    /// What is kept of manifests.
    pub fn manifest_bytes(&self) -> usize {
        (self.budget_bytes / 16).min(64 << 20)
    }

    /// What is kept of deleted rows.
    pub fn delete_bytes(&self) -> usize {
        (self.budget_bytes / 16).min(64 << 20)
    }

    pub fn used(&self, kind: Kind) -> usize {
        // As many as there are kinds.
        self.used.get(kind as usize).map_or(0, |used| used.load(Ordering::Relaxed))
    }

    /// Holds nothing yet.
    pub fn count(self: &Arc<Self>, kind: Kind) -> Counted {
        Counted { memory: Arc::clone(self), kind, bytes: 0 }
    }

    /// Whether batches in the making hold more than their share.
    pub fn is_open_over(&self) -> bool {
        self.used(Kind::Open) > self.open_bytes()
    }

    /// Whether nothing more is to be read now.
    pub fn is_full(&self) -> bool {
        self.used(Kind::Open) + self.used(Kind::Staged) + self.used(Kind::Uploads) > self.batch_bytes()
    }

    fn change(&self, kind: Kind, before: usize, after: usize) {
        if let Some(used) = self.used.get(kind as usize) {
            // In this order: it never falls below what is held.
            used.fetch_add(after, Ordering::Relaxed);
            used.fetch_sub(before, Ordering::Relaxed);
        }
    }
}

/// Bytes that are counted until it is dropped.
#[derive(Debug)]
pub struct Counted {
    memory: Arc<Memory>,
    kind: Kind,
    bytes: usize,
}

impl Counted {
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// That many now.
    pub fn set(&mut self, bytes: usize) {
        if bytes != self.bytes {
            self.memory.change(self.kind, self.bytes, bytes);
            self.bytes = bytes;
        }
    }

    /// That many now, and of another kind.
    #[must_use]
    pub fn turned(mut self, kind: Kind, bytes: usize) -> Self {
        self.set(0);
        self.kind = kind;
        self.set(bytes);
        self
    }

    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_counted_until_it_is_dropped() {
        let memory = Memory::new(800);
        let (mut a, mut b) = (memory.count(Kind::Open), memory.count(Kind::Open));
        a.set(300);
        b.set(200);
        assert!(memory.is_open_over() && !memory.is_full());
        let b = b.turned(Kind::Staged, 250);
        assert_eq!((memory.used(Kind::Open), memory.used(Kind::Staged)), (300, 250));
        assert!(!memory.is_open_over() && memory.is_full());
        drop(b);
        assert!(!memory.is_full());
        drop(a);
        assert!(Kind::ALL.iter().all(|kind| memory.used(*kind) == 0));
    }

    #[test]
    fn the_shares_are_the_budget() {
        for mib in [64, 384, 4096] {
            let budget_bytes = mib << 20;
            let memory = Memory::new(budget_bytes);
            let caches = memory.manifest_bytes() + memory.delete_bytes();
            let shares = memory.fetch_bytes() + memory.batch_bytes() + memory.index_bytes() + caches;
            assert!(shares <= budget_bytes, "{mib} MiB");
            assert!(memory.open_bytes() < memory.batch_bytes(), "else all wait for what nobody hands over");
        }
    }
}
