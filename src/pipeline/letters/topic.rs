//! Letters as messages: key and value as they came, the rest as headers.
//!
//! A topic can't be overwritten: a letter is what its newest message says. So a status is one more message with the same identity,
//! key and value; and a letter that was written twice is one letter. A value that the topic does not take is left out, and the letter
//! says so: it can't be replayed.

use std::collections::BTreeMap;

use crate::letter::{Letter, LetterId, Status};
use crate::position::TopicPartition;
use crate::record::{Origin, Record};
use crate::source::kafka::{ClientSettings, Producer, SendError, SourceError, list_topics, read_log, watermarks};

/// What the headers of a letter begin with; the record's own headers follow them under their own names.
const PREFIX: &str = "firn.";

#[derive(Debug)]
pub struct LetterTopic {
    producer: Producer,
    settings: ClientSettings,
    topic: String,
}

impl LetterTopic {
    /// # Errors
    /// When a property of the client is refused.
    pub fn new(settings: &ClientSettings, topic: String) -> Result<Self, SourceError> {
        Ok(Self { producer: Producer::new(settings)?, settings: settings.clone(), topic })
    }

    /// # Errors
    /// When the brokers don't acknowledge all of them.
    pub async fn send(&self, letters: &[Letter]) -> Result<(), SendError> {
        let sent = letters.iter().map(|letter| async move {
            match self.send_one(letter).await {
                Err(SendError::TooLarge(why)) if letter.value.is_some() => {
                    tracing::warn!(record = %letter.origin, "a dead letter is kept without its value: {why}");
                    self.send_one(&letter.clone().without_value()).await
                }
                sent => sent,
            }
        });
        futures::future::try_join_all(sent).await.map(|_| ())
    }

    async fn send_one(&self, letter: &Letter) -> Result<(), SendError> {
        let headers = headers(letter);
        let headers: Vec<(&str, &[u8])> = headers.iter().map(|(k, v)| (k.as_str(), v.as_slice())).collect();
        self.producer.send(&self.topic, letter.key.as_deref(), letter.value.as_deref(), &headers).await
    }

    /// The letters that are taken as they stand now, by target and origin.
    ///
    /// # Errors
    /// When the topic can't be read.
    pub async fn read(&self, takes: impl Fn(&Letter) -> bool) -> Result<Vec<Letter>, String> {
        let (settings, topic) = (self.settings.clone(), self.topic.clone());
        let read = tokio::task::spawn_blocking(move || read_all(&settings, &topic)).await;
        let letters = read.map_err(|e| e.to_string())??;
        Ok(letters.into_values().filter(takes).collect())
    }
}

/// The newest message of each letter.
fn read_all(settings: &ClientSettings, topic: &str) -> Result<BTreeMap<LetterId, Letter>, String> {
    let listed = list_topics(settings).map_err(|e| e.to_string())?;
    let partitions = listed.iter().find(|t| t.name == topic).map_or(0, |t| t.partition_count);
    let partitions: Vec<TopicPartition> = (0..partitions).map(|p| TopicPartition::new(topic, p)).collect();
    let mut letters = BTreeMap::new();
    for (at, low, high) in watermarks(settings, &partitions).map_err(|e| e.to_string())? {
        let read = read_log(settings, &at, low, high, |record| {
            if let Some(letter) = letter_of(record) {
                newest(&mut letters, letter);
            }
        });
        read.map_err(|e| e.to_string())?;
    }
    Ok(letters)
}

/// Messages without a key may lie in any partition: their times tell which is newer.
fn newest(letters: &mut BTreeMap<LetterId, Letter>, letter: Letter) {
    let at = |l: &Letter| l.status_ms.max(l.rejected_ms);
    match letters.entry(letter.id()) {
        std::collections::btree_map::Entry::Vacant(free) => {
            free.insert(letter);
        }
        std::collections::btree_map::Entry::Occupied(mut have) => {
            if at(&letter) >= at(have.get()) {
                have.insert(letter);
            }
        }
    }
}

fn headers(letter: &Letter) -> Vec<(String, Vec<u8>)> {
    let mut all = vec![];
    let mut put = |name: &str, value: String| all.push((format!("{PREFIX}{name}"), value.into_bytes()));
    put("target", letter.target.clone());
    put("topic", letter.origin.at.topic.clone());
    put("topic-id", letter.topic_id.clone().unwrap_or_default());
    put("partition", letter.origin.at.partition.to_string());
    put("offset", letter.origin.offset.to_string());
    put("reason", letter.reason.clone());
    put("detail", letter.detail.clone());
    put("status", letter.status.as_str().to_owned());
    for (name, ms) in [
        ("record-ts", letter.timestamp_ms),
        ("rejected-ts", letter.rejected_ms),
        ("schema-id", letter.schema_id.map(i64::from)),
        ("status-ts", letter.status_ms),
    ] {
        if let Some(ms) = ms {
            put(name, ms.to_string());
        }
    }
    if !letter.status_detail.is_empty() {
        put("status-detail", letter.status_detail.clone());
    }
    all.extend(letter.headers.iter().cloned());
    all
}

/// `None` where the headers are not a letter's.
fn letter_of(record: &Record<'_>) -> Option<Letter> {
    let headers = record.headers?.all();
    let text = |name: &str| -> Option<String> {
        // Its own headers come first: the record's may begin with the same word.
        let (_, value) = headers.iter().find(|(n, _)| n.strip_prefix(PREFIX) == Some(name))?;
        String::from_utf8(value.clone()).ok()
    };
    let number = |name: &str| text(name).and_then(|t| t.parse::<i64>().ok());
    let at = TopicPartition::new(text("topic")?, text("partition")?.parse().ok()?);
    Some(Letter {
        target: text("target")?,
        topic_id: text("topic-id").filter(|id| !id.is_empty()),
        origin: Origin { at, offset: number("offset")? },
        timestamp_ms: number("record-ts"),
        rejected_ms: number("rejected-ts"),
        reason: text("reason")?,
        detail: text("detail").unwrap_or_default(),
        schema_id: number("schema-id").and_then(|id| i32::try_from(id).ok()),
        key: record.key.map(<[u8]>::to_vec),
        value: record.value.map(<[u8]>::to_vec),
        status: text("status").and_then(|s| Status::of(&s)).unwrap_or_default(),
        status_ms: number("status-ts"),
        status_detail: text("status-detail").unwrap_or_default(),
        headers: headers.iter().filter(|(n, _)| !n.starts_with(PREFIX) || Letter::is_own_header(n)).cloned().collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter() -> Letter {
        Letter {
            target: "db.t".to_owned(),
            topic_id: Some("id".to_owned()),
            origin: "a.b/3@9".parse().unwrap(),
            timestamp_ms: Some(5),
            rejected_ms: Some(6),
            reason: "bad_value".to_owned(),
            detail: "column n".to_owned(),
            schema_id: Some(41),
            key: Some(vec![0, 1]),
            value: None,
            headers: vec![("__debezium.newkey".to_owned(), b"{}".to_vec())],
            status: Status::Discarded,
            status_ms: Some(7),
            status_detail: "by hand".to_owned(),
        }
    }

    fn back(letter: &Letter) -> Letter {
        let headers = headers(letter);
        let (key, value) = (letter.key.as_deref(), letter.value.as_deref());
        let record = Record { topic: "letters", key, value, headers: Some(&headers), ..Record::default() };
        letter_of(&record).unwrap()
    }

    #[test]
    fn a_letter_comes_back_from_its_message() {
        assert_eq!(back(&letter()), letter());
        let bare =
            Letter { topic_id: None, schema_id: None, status_ms: None, status_detail: String::new(), ..letter() };
        assert_eq!(back(&bare), bare);
        let omitted = Letter { value: Some(vec![0; 7]), ..letter() }.without_value();
        assert_eq!(back(&omitted), omitted);
        assert_eq!(
            (omitted.value.as_ref(), omitted.value_omitted().map(|(_, bytes)| bytes.as_slice())),
            (None, Some(&b"7"[..]))
        );
        assert_eq!(
            (omitted.clone().without_value(), letter().without_value()),
            (omitted, letter()),
            "a tombstone had none"
        );
        assert_eq!(letter_of(&Record::default()), None, "a message of others");
    }

    #[test]
    fn the_newest_message_of_a_letter_counts_wherever_it_is_read() {
        let pending = Letter { status: Status::Pending, status_ms: None, ..letter() };
        for order in [[pending.clone(), letter()], [letter(), pending.clone()]] {
            let mut letters = BTreeMap::new();
            order.into_iter().for_each(|l| newest(&mut letters, l));
            assert_eq!(letters.into_values().collect::<Vec<_>>(), [letter()]);
        }
        let again = Letter { rejected_ms: Some(8), ..pending };
        let mut letters = BTreeMap::new();
        [letter(), again.clone()].into_iter().for_each(|l| newest(&mut letters, l));
        assert_eq!(letters.into_values().collect::<Vec<_>>(), [again], "rejected anew after the table was rolled back");
    }
}
