//! Offsets at the end of a log that hold no record: markers of transactions, what was aborted or compacted. No reader meets them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::position::TopicPartition;
use crate::source::kafka::{ClientSettings, TopicReader, has_record_soon};

/// How long a partition stands still before its log is asked whether there is more.
const STANDS_STILL: Duration = Duration::from_millis(150);

/// Of one topic.
pub(super) struct Gaps {
    next_look: Instant,
    /// Where each partition stood at the last look.
    stood: BTreeMap<i32, i64>,
}

impl Gaps {
    pub(super) fn new() -> Self {
        Self { next_look: Instant::now(), stood: BTreeMap::new() }
    }

    /// Passes those before `ends` in partitions that stand still.
    pub(super) fn pass(
        &mut self,
        kafka: &ClientSettings,
        topic: &str,
        reader: &mut TopicReader,
        ends: &BTreeMap<i32, i64>,
    ) {
        if Instant::now() < self.next_look {
            return;
        }
        let behind = reader.next().iter().filter(|(p, next)| ends.get(p).is_some_and(|end| *next < end));
        let behind: BTreeMap<i32, i64> = behind.map(|(p, next)| (*p, *next)).collect();
        for (partition, next) in behind.iter().filter(|(p, next)| self.stood.get(p) == Some(next)) {
            let at = TopicPartition::new(topic, *partition);
            if let Some(end) = ends.get(partition)
                && matches!(has_record_soon(kafka, &at, Some(*next), *end), Ok(false))
            {
                reader.passed(*partition, *end);
            }
        }
        self.stood = behind;
        self.next_look = Instant::now() + STANDS_STILL;
    }
}
