//! Partitions come and go; the topic must stay the one that the table's offsets belong to.

use super::super::{declared, growth};
use super::Feed;
use crate::position::TopicPartition;
use crate::source::kafka::Assigned;

impl Feed {
    /// A partition was assigned and will be read from `position`.
    ///
    /// # Errors
    /// When the topic is not the one that the table's offsets belong to, or that this feed began with; when the table has no key that
    /// rows could go by.
    pub fn begin(&mut self, assigned: &Assigned, position: i64) -> Result<(), String> {
        let known = self.handle.standing();
        if self.partition_count != Some(assigned.partition_count) {
            self.partition_count = Some(assigned.partition_count);
            growth::warn_of_moving_keys(
                &self.handle,
                known.as_ref().map_or(0, |k| k.partition_count),
                assigned.partition_count,
            );
        }
        let had = known.as_ref().is_some_and(|k| k.partitions.contains_key(&assigned.at.partition));
        self.topic_id = known.and_then(|k| k.topic_id).or(self.topic_id.take());
        self.check_topic_id(assigned.topic_id.as_deref())?;
        self.topic_id = assigned.topic_id.clone().or(self.topic_id.take());
        // Another process may have made the table since, and the partition's tombstones are of its rows.
        if self.columns.is_none() {
            let options = self.handle.decode_options();
            if let Some(columns) = self.runtime.block_on(declared::agree(&self.handle.lake, &options.declared)) {
                self.set_columns(columns)?;
            }
        }
        self.places.begin(assigned.at.partition, position, (!had).then_some(position));
        Ok(())
    }

    /// A partition was taken away.
    pub fn end(&mut self, at: &TopicPartition) {
        self.places.end(at.partition);
    }

    pub(super) fn check_topic_id(&self, now: Option<&str>) -> Result<(), String> {
        match (self.topic_id.as_deref(), now) {
            (Some(have), Some(now)) if have != now => Err(format!(
                "topic {} was deleted and made again (its id was {have}, now {now}); the table's offsets belong to the old one. \
                 `firn rewind {} --new-topic` goes on with the new one from its beginning; or feed it into a new table",
                self.handle.topic, self.handle.name
            )),
            _ => Ok(()),
        }
    }
}
