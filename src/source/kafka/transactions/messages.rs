//! Transactions of messages alone.

use std::collections::BTreeMap;

use super::writer::{Batches, Writer};
use super::{Outgoing, Span, TransactionError};
use crate::source::kafka::ClientSettings;

const BATCHES: Batches = Batches::USUAL;

/// One transaction after another under one transactional id, each of messages to one topic, and of a few to another. All calls block.
pub struct MessageTransactions(Writer);

impl std::fmt::Debug for MessageTransactions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MessageTransactions")
    }
}

impl MessageTransactions {
    /// Takes the id over: whoever had it can't commit any more, and its last transaction is over, one way or the other.
    ///
    /// # Errors
    /// When the brokers do not answer or refuse it.
    pub fn begin(settings: &ClientSettings, transactional_id: &str) -> Result<Self, TransactionError> {
        Writer::begin(settings, transactional_id, BATCHES).map(Self)
    }

    /// Sends these messages and returns once the brokers have all of them, to be committed.
    ///
    /// # Errors
    /// Then none of them is ever visible, and this is of no more use. [`TransactionError::TooLarge`] names the messages that are too large
    /// by themselves: none where only a transaction of fewer can tell.
    pub fn send(&mut self, messages: &[Outgoing<'_>]) -> Result<(), TransactionError> {
        let has_own_batch =
            |place: &usize| messages.len() == 1 || messages.get(*place).is_some_and(|m| m.bytes() > BATCHES.0);
        self.0.open(messages).map_err(|e| match e {
            TransactionError::TooLarge(failed) => {
                TransactionError::TooLarge(failed.into_iter().filter(has_own_batch).collect())
            }
            other => other,
        })
    }

    /// Makes visible what was sent. Answers the offset after the last message of each partition.
    ///
    /// # Errors
    /// Then it may be visible all the same, and this is of no more use: the next to [`begin`](Self::begin) with the id ends it.
    pub fn commit(&mut self) -> Result<BTreeMap<i32, i64>, TransactionError> {
        self.0.close()?;
        Ok(self.0.arrived().into_iter().map(|(partition, span)| (partition, span.next)).collect())
    }

    /// Where what was [sent](Self::send) stands in each partition.
    ///
    /// # Errors
    /// When a broker did not tell: then this is of no more use.
    pub fn spans(&self) -> Result<BTreeMap<i32, Span>, TransactionError> {
        let spans = self.0.arrived();
        match spans.iter().find(|(_, span)| span.first < 0) {
            None => Ok(spans),
            Some((partition, _)) => Err(TransactionError::Unavailable(format!(
                "the broker of partition {partition} did not tell at what offset messages arrived"
            ))),
        }
    }

    /// Sends more, to another topic, in the transaction that is open.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn send_with(&mut self, messages: &[Outgoing<'_>]) -> Result<(), TransactionError> {
        self.0.go_on(messages)
    }

    /// Nothing of what was sent will be visible; another transaction may follow.
    ///
    /// # Errors
    /// When the brokers do not answer: then this is of no more use.
    pub fn give_up(&mut self) -> Result<(), TransactionError> {
        self.0.give_up()
    }
}
