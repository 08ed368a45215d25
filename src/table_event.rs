//! What happens to a source table as a whole: it is emptied, or read anew. Pure types.
//!
//! Both are told to one Kafka partition and concern the rows of all. The source's log orders them: PostgreSQL empties a table under an
//! exclusive lock, so a row is from before exactly if its LSN is smaller.

use serde::{Deserialize, Serialize};

use crate::position::TopicPartition;

/// Where in the source's log a table was emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    /// Of the TRUNCATE itself.
    pub lsn: i64,
    /// Where the last transaction ended that was sent before the TRUNCATE's. Beyond `lsn` when others were committed while it was
    /// under way: none of them touched the table, but an incremental snapshot may have read it until the TRUNCATE took its lock, and
    /// its rows say up to where the log was sent, not where they were changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_commit: Option<i64>,
}

impl Fence {
    /// Whether a row is from before; `read` says that a snapshot read it.
    pub fn is_after(self, lsn: i64, read: bool) -> bool {
        if read { lsn < self.clear_from() } else { lsn < self.lsn }
    }

    /// From this LSN on no row is from before, however it came.
    pub fn clear_from(self) -> i64 {
        self.lsn.max(self.last_commit.map_or(i64::MIN, |end| end.saturating_add(1)))
    }
}

/// A TRUNCATE as it came through Kafka.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Truncate {
    pub at: TopicPartition,
    pub offset: i64,
    /// `None` where the source's messages tell no LSN: then only the order of the partition does.
    pub fence: Option<Fence>,
    /// Whether the topic has no other partition.
    pub only_partition: bool,
}

/// A snapshot that reads a whole source table (not an incremental one, which runs beside the stream and misses no delete).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceSnapshot {
    /// Of the state that it reads: each of its rows says so.
    pub lsn: i64,
    /// Kafka's timestamp of its first record, ms.
    pub since_ms: i64,
    /// Whether its last record was seen.
    pub ended: bool,
    /// Whether the table had older rows when it began. Those that it does not find again were deleted unseen.
    #[serde(default)]
    pub over_rows: bool,
}

impl SourceSnapshot {
    /// Of two views the later snapshot; of one snapshot all that is known.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        match self.lsn.cmp(&other.lsn) {
            std::cmp::Ordering::Less => other,
            std::cmp::Ordering::Greater => self,
            std::cmp::Ordering::Equal => Self {
                lsn: self.lsn,
                since_ms: self.since_ms.min(other.since_ms),
                ended: self.ended || other.ended,
                over_rows: self.over_rows || other.over_rows,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::before(Fence { lsn: 100, last_commit: Some(90) }, 99, false, true)]
    #[case::itself(Fence { lsn: 100, last_commit: Some(90) }, 100, false, false)]
    #[case::a_snapshot_before(Fence { lsn: 100, last_commit: None }, 99, true, true)]
    #[case::a_snapshot_after(Fence { lsn: 100, last_commit: Some(90) }, 130, true, false)]
    #[case::read_while_it_waited_to_commit(Fence { lsn: 100, last_commit: Some(120) }, 120, true, true)]
    #[case::its_own_insert_meanwhile(Fence { lsn: 100, last_commit: Some(120) }, 110, false, false)]
    #[case::read_after_it_was_sent(Fence { lsn: 100, last_commit: Some(120) }, 121, true, false)]
    fn the_fence_takes_what_was_there_before(
        #[case] fence: Fence,
        #[case] lsn: i64,
        #[case] read: bool,
        #[case] gone: bool,
    ) {
        assert_eq!(fence.is_after(lsn, read), gone);
        assert!(lsn < fence.clear_from() || !gone);
    }

    #[test]
    fn the_later_snapshot_counts_and_its_parts_add_up() {
        let first = SourceSnapshot { lsn: 5, since_ms: 50, ended: false, over_rows: true };
        let last = SourceSnapshot { lsn: 5, since_ms: 60, ended: true, over_rows: false };
        let whole = SourceSnapshot { lsn: 5, since_ms: 50, ended: true, over_rows: true };
        assert_eq!((first.join(last), last.join(first)), (whole, whole));
        let later = SourceSnapshot { lsn: 6, since_ms: 70, ended: false, over_rows: false };
        assert_eq!((whole.join(later), later.join(whole)), (later, later));
    }
}
