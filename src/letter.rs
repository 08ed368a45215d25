//! A dead letter: a record that could not become a row, and what became of it since.

use crate::record::{Origin, Record, Rejected};

/// Where a letter stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Status {
    /// Its row is in no table.
    #[default]
    Pending,
    /// Its row is in the table.
    Replayed,
    /// A later change of its key was in the table when it was to be replayed: its row would have overwritten it.
    Superseded,
    /// A person closed it, or it turned out to be no row.
    Discarded,
}

impl Status {
    pub const ALL: [Status; 4] = [Status::Pending, Status::Replayed, Status::Superseded, Status::Discarded];

    /// The word in tables, headers and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Pending => "pending",
            Status::Replayed => "replayed",
            Status::Superseded => "superseded",
            Status::Discarded => "discarded",
        }
    }

    /// The status of this word.
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == word)
    }
}

/// Header of a letter whose value was too large for where it is kept: the value's length in bytes.
const VALUE_OMITTED: &str = "firn.value-omitted";

/// One letter. `target`, `topic_id` and `origin` are its identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// The table that the record was meant for, `namespace.table`.
    pub target: String,
    /// Kafka's topic id, where the broker told it.
    pub topic_id: Option<String>,
    pub origin: Origin,
    /// Kafka's record timestamp.
    pub timestamp_ms: Option<i64>,
    /// `None` in letters of firn's first version.
    pub rejected_ms: Option<i64>,
    pub reason: String,
    pub detail: String,
    pub schema_id: Option<i32>,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Vec<u8>)>,
    pub status: Status,
    /// When it came to its status, unless it has it from the beginning.
    pub status_ms: Option<i64>,
    /// Why it has its status; empty for most.
    pub status_detail: String,
}

impl Letter {
    pub fn new(target: &str, rejected: &Rejected) -> Self {
        let r = rejected.clone();
        Self {
            target: target.to_owned(),
            topic_id: r.topic_id.filter(|id| !id.is_empty()),
            origin: r.origin,
            timestamp_ms: r.timestamp_ms,
            rejected_ms: Some(r.rejected_ms),
            reason: r.reason.to_owned(),
            detail: r.detail,
            schema_id: r.schema_id,
            key: r.key,
            value: r.value,
            headers: r.headers,
            status: Status::Pending,
            status_ms: None,
            status_detail: String::new(),
        }
    }

    /// Which letter it is.
    pub fn id(&self) -> LetterId {
        LetterId { target: self.target.clone(), topic_id: self.topic_id.clone(), origin: self.origin.clone() }
    }

    /// The record as it came from Kafka.
    pub fn record(&self) -> Record<'_> {
        Record {
            topic: &self.origin.at.topic,
            partition: self.origin.at.partition,
            offset: self.origin.offset,
            timestamp_ms: self.timestamp_ms,
            key: self.key.as_deref(),
            value: self.value.as_deref(),
            headers: Some(&self.headers),
        }
    }

    /// Without its value, and with a word on that.
    #[must_use]
    pub fn without_value(mut self) -> Self {
        if let Some(value) = self.value.take() {
            self.headers.push((VALUE_OMITTED.to_owned(), value.len().to_string().into_bytes()));
        }
        self
    }

    /// The header by which it says that its record had a value which is not kept.
    pub fn value_omitted(&self) -> Option<&(String, Vec<u8>)> {
        self.headers.iter().find(|(name, _)| name == VALUE_OMITTED)
    }

    /// Whether a header of this name is the letter's own, none of its record's.
    pub fn is_own_header(name: &str) -> bool {
        name == VALUE_OMITTED
    }

    /// With another status.
    #[must_use]
    pub fn turned(self, status: Status, at_ms: i64, detail: impl Into<String>) -> Self {
        Self { status, status_ms: Some(at_ms), status_detail: detail.into(), ..self }
    }
}

/// Which letter.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LetterId {
    pub target: String,
    pub origin: Origin,
    pub topic_id: Option<String>,
}

/// Which letters, as a person chooses them; what is not said takes all.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    pub target: Option<String>,
    pub reason: Option<String>,
    /// Rejected at this time or later, ms since the epoch.
    pub since_ms: Option<i64>,
    pub origins: Vec<Origin>,
    pub status: Option<Status>,
}

impl Choice {
    /// A letter without the time of its rejection is taken for as old as its record.
    pub fn takes(&self, letter: &Letter) -> bool {
        let at_ms = letter.rejected_ms.or(letter.timestamp_ms);
        self.target.as_ref().is_none_or(|t| *t == letter.target)
            && self.reason.as_ref().is_none_or(|r| *r == letter.reason)
            && self.since_ms.is_none_or(|since| at_ms.is_some_and(|at| at >= since))
            && (self.origins.is_empty() || self.origins.contains(&letter.origin))
            && self.status.is_none_or(|s| s == letter.status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::TopicPartition;

    fn letter() -> Letter {
        Letter::new(
            "db.t",
            &Rejected {
                origin: Origin { at: TopicPartition::new("t", 0), offset: 5 },
                topic_id: Some(String::new()),
                timestamp_ms: Some(7),
                rejected_ms: 100,
                reason: "not_json",
                detail: "d".to_owned(),
                schema_id: None,
                key: Some(b"k".to_vec()),
                value: None,
                headers: vec![("h".to_owned(), b"1".to_vec()), ("h".to_owned(), b"2".to_vec())],
            },
        )
    }

    #[test]
    fn a_letter_gives_back_the_record_that_it_came_from() {
        let letter = letter();
        let record = letter.record();
        assert_eq!((record.topic, record.partition, record.offset), ("t", 0, 5));
        assert_eq!(
            (record.key, record.value, record.header("h")),
            (Some(b"k".as_slice()), None, Some(b"2".as_slice()))
        );
        assert_eq!(letter.topic_id, None, "an id that nobody told is none");
    }

    #[test]
    fn a_choice_takes_what_fits_all_that_was_said() {
        let all = Choice::default();
        let choices = [
            (all.clone(), true),
            (Choice { target: Some("db.u".to_owned()), ..all.clone() }, false),
            (Choice { reason: Some("not_json".to_owned()), ..all.clone() }, true),
            (Choice { since_ms: Some(100), ..all.clone() }, true),
            (Choice { since_ms: Some(101), ..all.clone() }, false),
            (Choice { origins: vec!["t/0@5".parse().unwrap()], ..all.clone() }, true),
            (Choice { origins: vec!["t/0@6".parse().unwrap()], ..all.clone() }, false),
            (Choice { status: Some(Status::Replayed), ..all }, false),
        ];
        for (choice, want) in choices {
            assert_eq!(choice.takes(&letter()), want, "{choice:?}");
        }
    }

    #[test]
    fn a_status_reads_as_it_is_written() {
        for status in Status::ALL {
            assert_eq!(Status::of(status.as_str()), Some(status));
        }
        assert_eq!(Status::of("open"), None);
    }
}
