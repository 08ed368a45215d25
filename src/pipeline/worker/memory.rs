//! How a worker keeps to the memory budget: it commits early, then it waits.

use std::time::{Duration, Instant};

use super::Worker;
use crate::pipeline::meter;
use crate::source::kafka::SourceError;

/// How often a worker that waits for memory looks whether there is some.
const FULL: Duration = Duration::from_millis(10);
/// How long it waits before it pauses its partitions, and commits early once more. Shorter, what was fetched ahead would be thrown away
/// for a commit that is through in a moment; longer, the group would wait for its poll.
const FULL_FOR_LONG: Duration = Duration::from_secs(1);

impl Worker {
    /// To be called after each record.
    ///
    /// # Errors
    /// When the client is of no more use.
    pub(super) fn keep_to_budget(&mut self) -> Result<(), SourceError> {
        // Another worker's parts may be those that are too large: they are not weighed for each record until it has seen to them.
        if self.tables.memory().is_open_over() && Instant::now() >= self.next_early {
            self.commit_early();
            self.next_early = Instant::now() + FULL;
        }
        match self.tables.memory().is_full() {
            true => self.wait_for_memory(),
            false => Ok(()),
        }
    }

    /// Hands over the largest open parts until this worker's keep to their share.
    fn commit_early(&mut self) {
        let mut held = self.open_parts();
        let mut over = held.iter().map(|(bytes, _)| bytes).sum::<usize>().saturating_sub(self.tables.worker_bytes());
        while over > 0
            && let Some((bytes, topic)) = held.pop()
        {
            over = over.saturating_sub(bytes.max(1));
            self.close_early(&topic, bytes);
        }
    }

    /// What the open parts hold, the largest last.
    fn open_parts(&self) -> Vec<(usize, String)> {
        let mut held: Vec<_> = self.feeds.iter().map(|(topic, feed)| (feed.memory_bytes(), topic.clone())).collect();
        held.sort_unstable();
        held
    }

    fn close_early(&mut self, topic: &str, bytes: usize) {
        if let Some(feed) = self.feeds.get_mut(topic) {
            tracing::debug!(table = %feed.handle().name, bytes, "committed early: the memory budget is used up");
            meter::early();
            feed.close(&self.source);
        }
    }

    /// Reads nothing until commits and uploads have given memory back.
    fn wait_for_memory(&mut self) -> Result<(), SourceError> {
        let began = Instant::now();
        let (mut patience, mut told) = (began + FULL_FOR_LONG, began);
        while self.tables.memory().is_full() && !*self.shutdown.borrow() {
            self.look_if_due();
            meter::paused(told.elapsed());
            told = Instant::now();
            // Without a part under way nothing of this worker's is given back: files of open parts hold the rest.
            if Instant::now() >= patience || self.feeds.values().all(|feed| feed.in_flight() == 0) {
                patience = Instant::now() + FULL_FOR_LONG;
                if let Some((bytes, topic)) = self.open_parts().pop().filter(|(bytes, _)| *bytes > 0) {
                    self.close_early(&topic, bytes);
                }
                if began.elapsed() >= FULL_FOR_LONG && !self.full {
                    tracing::warn!(
                        worker = self.id,
                        "nothing is read: the memory budget is used up by what is not committed yet"
                    );
                    self.full = true;
                    self.feeds.values().for_each(|feed| self.source.pause(&feed.partitions()));
                }
            }
            if self.full {
                // The group wants to be answered.
                self.step(FULL)?;
            } else {
                std::thread::sleep(FULL);
            }
        }
        if std::mem::take(&mut self.full) {
            for feed in self.feeds.values().filter(|feed| !feed.holds()) {
                self.source.resume(&feed.partitions());
            }
        }
        meter::paused(told.elapsed());
        Ok(())
    }
}
