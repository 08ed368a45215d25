//! Where rejected records go: an Iceberg table or a Kafka topic. Written before the rows of the same part are committed.

use std::sync::Arc;

use firn_catalog::Catalog;
use tokio::runtime::Handle;

use crate::record::Rejected;
use crate::sink::lake::dead_letters::DeadLetterTable;
use crate::sink::lake::{LakeError, TableSpec};
use crate::source::kafka::Producer;

pub enum DeadLetters {
    Table(Box<DeadLetterTable>),
    Topic { producer: Producer, topic: String },
}

impl std::fmt::Debug for DeadLetters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            DeadLetters::Table(_) => "DeadLetters::Table",
            DeadLetters::Topic { .. } => "DeadLetters::Topic",
        })
    }
}

impl DeadLetters {
    /// # Errors
    /// When the table's settings are wrong.
    pub fn table(catalog: Arc<dyn Catalog>, spec: TableSpec, io: Handle) -> Result<Self, LakeError> {
        Ok(DeadLetters::Table(Box::new(DeadLetterTable::new(catalog, spec, io)?)))
    }

    /// Returns once the letters are durable. Writing the same record twice leaves one letter in a table; in a topic both carry
    /// the same origin headers.
    ///
    /// # Errors
    /// When they are not durable; nothing that follows them may be committed then.
    pub async fn write(&self, target: &str, rejected: &[Rejected]) -> Result<(), String> {
        if rejected.is_empty() {
            return Ok(());
        }
        match self {
            DeadLetters::Table(table) => table.write(target, rejected).await.map_err(|e| e.to_string()),
            DeadLetters::Topic { producer, topic } => {
                let sent = rejected.iter().map(|r| send(producer, topic, target, r));
                futures::future::try_join_all(sent).await.map(|_| ())
            }
        }
    }
}

async fn send(producer: &Producer, topic: &str, target: &str, r: &Rejected) -> Result<(), String> {
    let (partition, offset) = (r.origin.at.partition.to_string(), r.origin.offset.to_string());
    let headers = [
        ("firn.target", target),
        ("firn.topic", &r.origin.at.topic),
        ("firn.topic-id", r.topic_id.as_deref().unwrap_or_default()),
        ("firn.partition", &partition),
        ("firn.offset", &offset),
        ("firn.reason", r.reason),
        ("firn.detail", &r.detail),
    ];
    producer.send(topic, r.key.as_deref(), r.value.as_deref(), &headers).await
}
