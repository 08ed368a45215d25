//! Records written to a topic: what dead letters need.

use std::time::Duration;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};

use super::client::set_unless;
use super::{ClientSettings, SourceError};

/// How long the brokers may take to acknowledge one record.
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(30);

/// What a record may have at most here, so that the brokers' own bound (`max.message.bytes`) decides: librdkafka's is 1 MB, and a record
/// that came through Kafka has to go back with its headers. As much as librdkafka takes.
pub(super) const MAX_RECORD_BYTES: &str = "1000000000";

/// Why a record is not in its topic, or not for sure.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The topic, or a setting of the client, takes no record of this size.
    #[error("{0}")]
    TooLarge(String),
    /// It would be refused again.
    #[error("{0}")]
    Refused(String),
    /// Not acknowledged in time, or not now.
    #[error("{0}")]
    Unacknowledged(String),
}

impl SendError {
    pub(super) fn of(topic: &str, e: &KafkaError) -> Self {
        Self::by_code(e.rdkafka_error_code(), format!("topic {topic}: {e}"))
    }

    pub(super) fn by_code(code: Option<RDKafkaErrorCode>, told: String) -> Self {
        use RDKafkaErrorCode as K;
        match code {
            Some(K::MessageSizeTooLarge) => SendError::TooLarge(told),
            Some(
                K::InvalidTopic
                | K::InvalidRecord
                | K::PolicyViolation
                | K::InvalidPartitions
                | K::InvalidReplicationFactor
                | K::TopicAuthorizationFailed
                | K::ClusterAuthorizationFailed,
            ) => SendError::Refused(told),
            _ => SendError::Unacknowledged(told),
        }
    }
}

/// Neither loses nor repeats a record within its session.
pub struct Producer(FutureProducer);

impl std::fmt::Debug for Producer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Producer")
    }
}

impl Producer {
    /// # Errors
    /// When a property is refused.
    pub fn new(settings: &ClientSettings) -> Result<Self, SourceError> {
        let mut c = settings.plain();
        c.set("enable.idempotence", "true");
        c.set("acks", "all");
        set_unless(&mut c, "message.max.bytes", MAX_RECORD_BYTES);
        c.create().map(Self).map_err(SourceError::Client)
    }

    /// Returns once all in-sync replicas have the record.
    ///
    /// # Errors
    /// When that is not so within 30 s; the record may be there all the same.
    pub async fn send(
        &self,
        topic: &str,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&str, &[u8])],
    ) -> Result<(), SendError> {
        let headers = headers
            .iter()
            .fold(OwnedHeaders::new(), |all, (key, value)| all.insert(Header { key, value: Some(*value) }));
        let record = FutureRecord::<[u8], [u8]> { key, payload: value, ..FutureRecord::to(topic) }.headers(headers);
        self.0.send(record, ACKNOWLEDGED_WITHIN).await.map(|_| ()).map_err(|(e, _)| SendError::of(topic, &e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::kafka::settings;

    #[test]
    fn what_is_tried_again_is_what_may_go_then() {
        let of = |code| SendError::of("t", &KafkaError::MessageProduction(code));
        assert!(
            matches!(of(RDKafkaErrorCode::MessageSizeTooLarge), SendError::TooLarge(why) if why.contains("topic t"))
        );
        assert!(matches!(of(RDKafkaErrorCode::TopicAuthorizationFailed), SendError::Refused(_)));
        for code in [RDKafkaErrorCode::MessageTimedOut, RDKafkaErrorCode::UnknownTopicOrPartition] {
            assert!(matches!(of(code), SendError::Unacknowledged(_)), "{code}");
        }
    }

    #[tokio::test]
    async fn the_client_itself_refuses_a_large_record_only_where_it_was_told_to() {
        let send = async |properties: Vec<(&str, &str)>| {
            let producer = Producer::new(&settings("127.0.0.1:1", properties, 1 << 20)).unwrap();
            let value = vec![0; 2_000_000];
            let sent = producer.send("t", None, Some(&value), &[]);
            tokio::time::timeout(Duration::from_millis(500), sent).await
        };
        assert!(send(vec![]).await.is_err(), "it waits for a broker");
        let refused = send(vec![("message.max.bytes", "1000000")]).await.unwrap();
        assert!(matches!(refused, Err(SendError::TooLarge(_))), "{refused:?}");
    }
}
