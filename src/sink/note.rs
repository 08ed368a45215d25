//! What sinks that keep their positions in a ledger note beside each: the generation, the topic, and the range that was begun.
//!
//! Knows nothing of what is sent, and where to.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::keeping::{Keeping, Kept};
use super::ledger::{Entry, Ledger, Message};
use super::{SinkError, Standing};
use crate::position::{Span, TopicPartition};

/// The note of an entry, as JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    /// A higher one after each rewind, and one never used where nothing is stored: what is delivered again is not taken for a repetition,
    /// and what another life of the sink kept not for this one's.
    #[serde(default)]
    pub generation: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begun: Option<Begun>,
    /// Counts the transactions that stored what the pipeline keeps.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub kept: u64,
}

/// A range that begins at the entry's `next`, and is sent again with the same bounds until it is finished.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Begun {
    pub until: i64,
    /// Among how many lanes its rows are divided.
    pub lanes: u32,
    /// A hash of what else decides which request a row stands in, and how.
    #[serde(default)]
    pub form: String,
    /// The lanes whose rows go one by one.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub alone: BTreeSet<u32>,
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Note {
    /// What the note of a stored entry says. An entry without one is of a person's hand: `kafka-consumer-groups --reset-offsets`. There, and
    /// where there is no entry (any more), a generation begins that is stored with the next one.
    pub(super) fn of(at: &TopicPartition, entry: Option<&Entry>) -> Result<Self, SinkError> {
        match entry.map(|entry| entry.note.as_str()) {
            None | Some("") => Ok(Self { generation: now_ms(), ..Self::default() }),
            Some(note) => serde_json::from_str(note).map_err(|e| {
                SinkError::Stopped(format!(
                    "{at}: the note beside the stored offset is none of this version of firn ({e}); \
                     `firn rewind --sink` sets the position anew"
                ))
            }),
        }
    }

    /// What is stored of a delivery once the sink has `[from, next)`; the note then counts it.
    pub(super) fn keep(&mut self, keeping: &Keeping, from: i64, next: i64) -> Vec<Message> {
        let messages = keeping.messages(from, next, self.kept + 1);
        self.kept += u64::from(!messages.is_empty());
        messages
    }

    pub(super) fn kept(&self) -> Kept {
        Kept { generation: self.generation, transactions: self.kept }
    }

    pub(super) fn entry(&self, next: i64) -> Entry {
        // Numbers, texts and lists of them: JSON can say that.
        Entry { next, note: serde_json::to_string(self).unwrap_or_default() }
    }

    pub(super) fn standing(&self, next: i64) -> Standing {
        Standing { next, until: self.begun.as_ref().map(|begun| begun.until), topic_id: self.topic_id.clone() }
    }

    /// Whether the offsets of `span` are of the topic that the stored ones belong to.
    ///
    /// # Errors
    /// [`SinkError::Stopped`] where it was made anew.
    pub(super) fn same_topic(&self, span: &Span) -> Result<(), SinkError> {
        match (&self.topic_id, &span.topic_id) {
            (Some(stored), Some(read)) if stored != read => Err(SinkError::Stopped(format!(
                "topic {} was made anew: the stored offsets belong to topic id {stored}, Kafka now has {read}; \
                 `firn rewind --sink` sets the sink to an offset of the new topic",
                span.at.topic
            ))),
            _ => Ok(()),
        }
    }
}

/// Sets positions by a person's will, in a new generation.
pub(super) async fn rewind(ledger: &mut dyn Ledger, to: &[(TopicPartition, i64)]) -> Result<(), SinkError> {
    for (at, next) in to {
        let stored = ledger.take_over(at).await?;
        // What can't be read is what a person wants to be rid of.
        let generation = Note::of(at, stored.as_ref()).map_or(0, |note| note.generation);
        let note = Note { generation: now_ms().max(generation + 1), ..Note::default() };
        ledger.commit(at, &note.entry(*next), &[]).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::conformance::ledger::Books;

    #[test]
    fn a_note_is_short_and_reads_back() {
        let begun = Begun { until: i64::MAX, lanes: 64, form: "0".repeat(16), alone: (0..64).collect() };
        let note = Note {
            generation: 3,
            topic_id: Some("b3hYtWuPTCGt2xjXNg1qXg".to_owned()),
            begun: Some(begun.clone()),
            kept: u64::MAX,
        };
        let entry = note.entry(7);
        assert!(entry.note.len() < 512, "{}", entry.note.len());
        let at = TopicPartition::new("t", 0);
        assert_eq!(Note::of(&at, Some(&entry)), Ok(note.clone()));
        assert_eq!(note.standing(7).until, Some(i64::MAX));
        let by_hand = Note::of(&at, Some(&Entry { next: 7, note: String::new() })).unwrap();
        assert_eq!(by_hand, Note { generation: by_hand.generation, ..Note::default() });
        let foreign = Note::of(&at, Some(&Entry { next: 7, note: "somebody's".to_owned() }));
        assert!(matches!(foreign, Err(SinkError::Stopped(why)) if why.contains("firn rewind")));
    }

    /// So that nothing happens in the millisecond of another.
    async fn later() {
        tokio::time::sleep(std::time::Duration::from_millis(3)).await;
    }

    #[tokio::test]
    async fn a_sink_whose_offsets_are_gone_begins_another_life() {
        let (books, at) = (Books::default(), TopicPartition::new("t", 0));
        let life = async || {
            later().await;
            let mut ledger = books.open();
            let stored = ledger.take_over(&at).await.unwrap();
            let note = Note::of(&at, stored.as_ref()).unwrap();
            ledger.commit(&at, &note.entry(stored.map_or(0, |entry| entry.next) + 1), &[]).await.unwrap();
            note.generation
        };
        let first = life().await;
        assert_eq!(life().await, first, "it goes on from what is stored");
        books.set(&at, None);
        let second = life().await;
        assert!(second > first, "{second} after {first}: the group's offsets were gone");
        books.set(&at, Some(Entry { next: 0, note: String::new() }));
        let third = life().await;
        assert!(third > second, "{third} after {second}: they were set by hand");
        assert_eq!(life().await, third);
        later().await;
        rewind(books.open().as_mut(), &[(at.clone(), 0)]).await.unwrap();
        let rewound = life().await;
        assert!(rewound > third, "{rewound} after {third}");
        // Of a clock that went ahead.
        let far = u64::MAX / 2;
        books.set(&at, Some(Note { generation: far, ..Note::default() }.entry(9)));
        rewind(books.open().as_mut(), &[(at.clone(), 0)]).await.unwrap();
        assert_eq!(life().await, far + 1);
    }
}
