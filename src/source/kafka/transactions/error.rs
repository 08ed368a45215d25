//! Why a transaction was not done.

use rdkafka::error::{KafkaError, RDKafkaErrorCode as K};

/// Why a transaction was not done, or not for sure.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransactionError {
    /// Another one uses the id now, or the brokers gave the transaction up: ask for the group's offset again.
    #[error("{0}")]
    Fenced(String),
    /// Not now.
    #[error("{0}")]
    Unavailable(String),
    /// The topic takes no messages of this size: their places in the list. Nothing was done.
    #[error("{} message(s) are larger than the topic takes", .0.len())]
    TooLarge(Vec<usize>),
    /// It would be refused again. Nothing was done.
    #[error("{0}")]
    Refused(String),
}

impl TransactionError {
    pub(super) fn of(e: &KafkaError) -> Self {
        match e {
            KafkaError::ClientConfig(..) | KafkaError::ClientCreation(_) => Self::Refused(e.to_string()),
            // The client's own words say more than the code.
            KafkaError::Transaction(told) => Self::by_code(told.code(), format!("{}: {}", told.name(), told.string())),
            _ => match e.rdkafka_error_code() {
                Some(code) => Self::by_code(code, e.to_string()),
                None => Self::Unavailable(e.to_string()),
            },
        }
    }

    pub(super) fn by_code(code: K, told: String) -> Self {
        match code {
            K::Fenced
            | K::ProducerFenced
            | K::InvalidProducerEpoch
            | K::InvalidProducerIdMapping
            | K::UnknownProducerId
            | K::InvalidTransactionalState
            | K::Fatal => Self::Fenced(told),
            K::TopicAuthorizationFailed
            | K::GroupAuthorizationFailed
            | K::ClusterAuthorizationFailed
            | K::TransactionalIdAuthorizationFailed
            | K::InvalidTopic
            | K::PolicyViolation
            | K::InvalidRecord
            | K::InvalidTransactionTimeout
            | K::UnsupportedForMessageFormat
            | K::OffsetMetadataTooLarge => Self::Refused(told),
            _ => Self::Unavailable(told),
        }
    }
}
