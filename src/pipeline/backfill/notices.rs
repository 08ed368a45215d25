//! A connector's own topic of notifications, read from its beginning on. Blocking.

use std::time::{Duration, Instant};

use super::BackfillError;
use super::progress::Snapshots;
use crate::debezium::signalling::Notification;
use crate::source::kafka::{ClientSettings, Read, TopicReader};

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
        notices.look()?;
        let ends = notices.reader.ends().map_err(unread)?;
        let (mut heard, end) = (Instant::now(), |of: &Self| {
            ends.iter().all(|(partition, end)| of.reader.next().get(partition).is_some_and(|next| next >= end))
        });
        while !end(&notices) {
            if notices.poll(Duration::from_millis(200))? {
                heard = Instant::now();
            } else if heard.elapsed() > Duration::from_secs(2) {
                // The rest are offsets without a record.
                break;
            }
        }
        Ok(notices)
    }

    fn look(&mut self) -> Result<(), BackfillError> {
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
            Read::Idle => Ok(false),
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
