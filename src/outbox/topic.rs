//! The outbox's topic: rows are sent to it in transactions, and found in it again. Blocks.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::Error;
use super::position::Topic;
use super::rows::Row;
use crate::position::TopicPartition;
use crate::source::kafka::{self, ClientSettings, MessageTransactions, Outgoing, Reach};

/// The headers that a row is known by: of which outbox it is, and its key.
const OUTBOX: &str = "firn.outbox";
const KEY: &str = "firn.outbox-key";

/// How long other producers' open transactions are waited for: above their usual time-out of a minute.
const OTHERS_WITHIN: Duration = Duration::from_secs(90);
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// The topic as it is now.
pub(super) fn look(settings: &ClientSettings, name: &str) -> Result<Topic, Error> {
    let reach = kafka::reach(settings, name)?;
    match reach.is_empty() {
        true => Err(Error::NoTopic(name.to_owned())),
        false => Ok(Topic { id: kafka::topic_id(settings, name)?, reach }),
    }
}

/// Whether there is such a topic.
pub(super) fn is_there(settings: &ClientSettings, name: &str) -> Result<bool, Error> {
    Ok(kafka::list_topics(settings)?.iter().any(|topic| topic.name == name))
}

/// The keys of the rows that `outbox` has in these parts of the topic.
pub(super) fn keys(
    settings: &ClientSettings,
    outbox: &str,
    topic: &str,
    parts: &BTreeMap<i32, (i64, i64)>,
) -> Result<Vec<String>, Error> {
    let mut found = Vec::new();
    if parts.values().all(|(from, to)| from >= to) {
        return Ok(found);
    }
    wait_for_others(settings, topic, parts)?;
    for (partition, (from, to)) in parts {
        let at = TopicPartition::new(topic, *partition);
        kafka::read_log(settings, &at, *from, *to, |record| {
            if record.header(OUTBOX) == Some(outbox.as_bytes())
                && let Some(key) = record.header(KEY)
            {
                found.push(String::from_utf8_lossy(key).into_owned());
            }
        })?;
    }
    Ok(found)
}

/// A transaction of somebody else's that is open hides what was committed behind its beginning.
fn wait_for_others(settings: &ClientSettings, topic: &str, parts: &BTreeMap<i32, (i64, i64)>) -> Result<(), Error> {
    let begun = Instant::now();
    loop {
        let reach = kafka::reach(settings, topic)?;
        let hidden = |(p, (from, to)): (&i32, &(i64, i64))| from < to && reach.get(p).is_none_or(|r| r.committed < *to);
        match parts.iter().find(|part| hidden(*part)) {
            None => return Ok(()),
            Some((partition, _)) if begun.elapsed() > OTHERS_WITHIN => {
                return Err(Error::Hidden(TopicPartition::new(topic, *partition)));
            }
            Some(_) => std::thread::sleep(LOOK_AGAIN),
        }
    }
}

/// All of these rows, not visible yet.
pub(super) fn send(
    transactions: &mut MessageTransactions,
    outbox: &str,
    topic: &str,
    rows: &[Row],
) -> Result<(), Error> {
    let header = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
    let headers: Vec<_> = rows.iter().map(|row| [header(OUTBOX, outbox), header(KEY, &row.key)]).collect();
    let messages: Vec<Outgoing<'_>> = rows
        .iter()
        .zip(&headers)
        .map(|(row, headers)| Outgoing {
            topic,
            partition: None,
            key: row.message_key.as_deref().map(str::as_bytes),
            value: Some(row.value.as_bytes()),
            headers,
        })
        .collect();
    Ok(transactions.send(&messages)?)
}

/// Where the log of each partition ends.
pub(super) fn ends(reach: &BTreeMap<i32, Reach>) -> BTreeMap<i32, i64> {
    reach.iter().map(|(partition, reach)| (*partition, reach.high)).collect()
}
