//! Records written to a topic: what dead letters need.

use std::time::Duration;

use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};

use super::{ClientSettings, SourceError};

/// How long the brokers may take to acknowledge one record.
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(30);

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
    ) -> Result<(), String> {
        let headers = headers
            .iter()
            .fold(OwnedHeaders::new(), |all, (key, value)| all.insert(Header { key, value: Some(*value) }));
        let record = FutureRecord::<[u8], [u8]> { key, payload: value, ..FutureRecord::to(topic) }.headers(headers);
        self.0.send(record, ACKNOWLEDGED_WITHIN).await.map(|_| ()).map_err(|(e, _)| format!("topic {topic}: {e}"))
    }
}
