//! Whose rows belong into this process's index.

use std::collections::{BTreeMap, BTreeSet};

use crate::position::TopicPartition;
use crate::sink::lake::live::LiveFile;
use crate::sink::lake::scan::Ownership;

/// Kafka partitions whose rows are wanted from a file.
#[derive(Clone, Debug)]
pub(crate) struct Owned {
    partitions: BTreeMap<String, BTreeSet<i32>>,
    /// Rows that don't say where they came from (written by others) belong to every process; they are read with a file's first
    /// scan.
    unsaid: bool,
}

impl Owned {
    /// For a file not seen before.
    pub(crate) fn all(owned: &BTreeSet<TopicPartition>) -> Self {
        Self { partitions: by_topic(owned), unsaid: true }
    }

    /// For a file whose other rows are in the index already.
    pub(crate) fn joined(joined: &BTreeSet<TopicPartition>) -> Self {
        Self { partitions: by_topic(joined), unsaid: false }
    }
}

fn by_topic(partitions: &BTreeSet<TopicPartition>) -> BTreeMap<String, BTreeSet<i32>> {
    let mut topics = BTreeMap::<String, BTreeSet<i32>>::new();
    for at in partitions {
        topics.entry(at.topic.clone()).or_default().insert(at.partition);
    }
    topics
}

impl Ownership for Owned {
    fn owns(&self, origin: Option<(&str, i32)>) -> bool {
        match origin {
            None => self.unsaid,
            Some((topic, partition)) => self.partitions.get(topic).is_some_and(|p| p.contains(&partition)),
        }
    }
}

/// Whether a wanted row may be in the file, as far as its bounds tell.
pub(crate) fn may_hold(file: &LiveFile, owned: &Owned) -> bool {
    match file.kafka {
        None => owned.unsaid || !owned.partitions.is_empty(),
        Some((low, high)) if low <= high => owned.partitions.values().any(|p| p.range(low..=high).next().is_some()),
        Some(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iceberg::spec::Struct;
    use rstest::rstest;

    fn owned(partitions: &[i32]) -> BTreeSet<TopicPartition> {
        partitions.iter().map(|p| TopicPartition::new("t", *p)).collect()
    }

    #[rstest]
    #[case::inside(&[3], Some((2, 4)), true)]
    #[case::between(&[1, 5], Some((2, 4)), false)]
    #[case::unknown(&[1], None, true)]
    fn a_file_is_scanned_only_if_its_bounds_may_hold_an_owned_partition(
        #[case] partitions: &[i32],
        #[case] kafka: Option<(i32, i32)>,
        #[case] scanned: bool,
    ) {
        let file = LiveFile {
            path: "f".into(),
            spec_id: 0,
            partition: Struct::empty(),
            rows: 1,
            kafka,
            lsn: None,
            offsets: None,
            deletes: vec![],
            first_row_id: None,
            added_by: None,
        };
        assert_eq!(may_hold(&file, &Owned::all(&owned(partitions))), scanned);
    }

    #[test]
    fn rows_that_do_not_say_belong_to_all_but_are_read_once() {
        assert!(Owned::all(&owned(&[1])).owns(None));
        assert!(!Owned::joined(&owned(&[1])).owns(None));
        assert!(Owned::joined(&owned(&[1])).owns(Some(("t", 1))));
        assert!(!Owned::joined(&owned(&[1])).owns(Some(("u", 1))));
    }
}
