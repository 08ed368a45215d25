//! A sink's positions in Kafka: the offsets of its consumer group, moved by transactions.

use async_trait::async_trait;

use crate::position::TopicPartition;
use crate::sink::ledger::{Entry, Ledger, Message};
use crate::sink::{RefusedRow, SinkError};
use crate::source::kafka::{ClientSettings, Noted, Outgoing, TransactionError, Transactions};

/// The positions of one group. Its clients are made when they are first needed.
pub(super) struct GroupLedger {
    settings: ClientSettings,
    group: String,
    transactions: Option<Transactions>,
}

impl GroupLedger {
    pub(super) fn new(settings: ClientSettings, group: &str) -> Self {
        Self { settings, group: group.to_owned(), transactions: None }
    }

    fn transactions(&mut self) -> Result<&mut Transactions, SinkError> {
        let transactions = match self.transactions.take() {
            Some(there) => there,
            None => Transactions::new(&self.settings, &self.group).map_err(|e| SinkError::Stopped(e.to_string()))?,
        };
        Ok(self.transactions.insert(transactions))
    }
}

#[async_trait]
impl Ledger for GroupLedger {
    async fn take_over(&mut self, at: &TopicPartition) -> Result<Option<Entry>, SinkError> {
        let noted = tokio::task::block_in_place(|| self.transactions()?.take_over(at).map_err(|e| told(at, &[], e)))?;
        Ok(noted.map(|noted| Entry { next: noted.next, note: noted.note }))
    }

    async fn commit(&mut self, at: &TopicPartition, entry: &Entry, messages: &[Message]) -> Result<(), SinkError> {
        let noted = Noted { next: entry.next, note: entry.note.clone() };
        let outgoing: Vec<Outgoing<'_>> = messages
            .iter()
            .map(|m| Outgoing {
                topic: &m.topic,
                partition: m.partition,
                key: m.key.as_deref(),
                value: m.value.as_deref(),
                headers: &m.headers,
            })
            .collect();
        tokio::task::block_in_place(|| {
            self.transactions()?.commit(at, &noted, &outgoing).map_err(|e| told(at, messages, e))
        })
    }
}

pub(super) fn told(at: &TopicPartition, messages: &[Message], e: TransactionError) -> SinkError {
    match e {
        TransactionError::Fenced(why) => {
            SinkError::Moved(format!("{at}: another process writes from here, or Kafka gave the transaction up: {why}"))
        }
        TransactionError::Unavailable(why) => SinkError::Unavailable(format!("{at}: {why}")),
        TransactionError::Refused(why) => SinkError::Stopped(format!(
            "{at}: {why}; the user needs WRITE and DESCRIBE on the transactional ids and the topic, and READ on the group"
        )),
        TransactionError::TooLarge(places) => {
            let detail = |place: usize| {
                let topic = messages.get(place).map_or("", |m| m.topic.as_str());
                format!("the message is larger than topic {topic} takes (max.message.bytes)")
            };
            SinkError::Refused(places.into_iter().map(|row| RefusedRow { row, detail: detail(row) }).collect())
        }
    }
}
