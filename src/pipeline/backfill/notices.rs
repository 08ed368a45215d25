//! A connector's own topic of notifications, read from its beginning on. Blocking.

use std::time::{Duration, Instant};

use super::BackfillError;
use super::progress::Snapshots;
use crate::debezium::signalling::Notification;
use crate::position::TopicPartition;
use crate::source::kafka::{ClientSettings, Looked, Read, TopicReader, has_record};

/// How often partitions and topics are looked for that were not there before.
const LOOK: Duration = Duration::from_secs(5);

pub(super) struct Notices {
    reader: TopicReader,
    prefix: String,
    pub snapshots: Snapshots,
    looked: Instant,
}

impl Notices {
    /// Knows what was said so far by the connector of this prefix.
    pub(super) fn open(settings: &ClientSettings, topic: &str, prefix: &str) -> Result<Self, BackfillError> {
        let reader = TopicReader::new(settings, topic)?;
        let mut notices =
            Self { reader, prefix: prefix.to_owned(), snapshots: Snapshots::default(), looked: Instant::now() };
        let ends = notices.look()?.ends;
        for (partition, end) in ends {
            let at = TopicPartition::new(topic, partition);
            let mut heard = Instant::now();
            while let Some(next) = notices.reader.next().get(&partition).copied().filter(|next| *next < end) {
                if notices.poll(Duration::from_millis(200))? {
                    heard = Instant::now();
                } else if heard.elapsed() > Duration::from_secs(2) {
                    // Offsets without a record, or a broker that does not answer: then this is the error.
                    if !has_record(settings, &at, Some(next), end)? {
                        notices.reader.passed(partition, end);
                    }
                    heard = Instant::now();
                }
            }
        }
        Ok(notices)
    }

    fn look(&mut self) -> Result<Looked, BackfillError> {
        self.looked = Instant::now();
        self.reader.look().map_err(unread)
    }

    /// Hears the next notification; whether a record came.
    pub(super) fn poll(&mut self, timeout: Duration) -> Result<bool, BackfillError> {
        if self.looked.elapsed() > LOOK {
            self.look()?;
        }
        match self.reader.poll(timeout)? {
            Read::Record(polled) => {
                let notification = polled.record().value.and_then(Notification::parse);
                if let Some(notification) = notification.filter(|n| n.prefix == self.prefix) {
                    self.snapshots.hear(&notification);
                }
                Ok(true)
            }
            // The next look begins anew.
            Read::Idle | Read::OutOfRange => Ok(false),
            Read::Trouble(why) => {
                tracing::warn!("notifications: {why}");
                Ok(false)
            }
        }
    }
}

fn unread(e: impl std::fmt::Display) -> BackfillError {
    BackfillError::Unreachable(format!("the connector's notifications can't be read: {e}"))
}
