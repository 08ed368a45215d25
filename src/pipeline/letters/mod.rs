//! Where rejected records go: an Iceberg table or a Kafka topic. Written before the rows of the same part are committed.

mod topic;

use std::sync::Arc;

use firn_catalog::Catalog;
use tokio::runtime::Handle;

use crate::config::{Config, DeadLetterTarget};
use crate::letter::{Choice, Letter, LetterId};
use crate::record::Rejected;
use crate::sink::lake::letters::{Contents, DeadLetterTable};
use crate::sink::lake::{LakeError, Shared};
use crate::source::kafka::{ClientSettings, SendError};
use topic::LetterTopic;

use super::Error;
use super::wiring::dead_letter_spec;

#[derive(Debug)]
pub enum DeadLetters {
    Table(Box<DeadLetterTable>),
    Topic(Box<LetterTopic>),
}

/// Why letters are not durable.
#[derive(Debug, thiserror::Error)]
pub enum Unwritten {
    #[error(transparent)]
    Table(#[from] LakeError),
    #[error(transparent)]
    Topic(#[from] SendError),
}

impl Unwritten {
    /// Whether the same letters may go later.
    pub fn is_transient(&self) -> bool {
        match self {
            Unwritten::Table(e) => e.is_transient(),
            Unwritten::Topic(e) => matches!(e, SendError::Unacknowledged(_)),
        }
    }
}

impl DeadLetters {
    /// As configured. Nothing is asked of table or topic yet.
    ///
    /// # Errors
    /// When the table's settings are wrong, or the client's properties are refused.
    pub fn open(
        config: &Config,
        catalog: Arc<dyn Catalog>,
        kafka: &ClientSettings,
        io: Handle,
        shared: Shared,
    ) -> Result<Self, Error> {
        Ok(match config.dead_letters.to {
            DeadLetterTarget::Table => {
                DeadLetters::Table(Box::new(DeadLetterTable::new(catalog, dead_letter_spec(config), io, shared)?))
            }
            DeadLetterTarget::Topic => {
                let topic = config.dead_letters.topic.clone().unwrap_or_default();
                DeadLetters::Topic(Box::new(LetterTopic::new(kafka, topic)?))
            }
        })
    }

    /// Returns once the letters of `target` are durable. Writing the same record twice leaves one letter in a table; in a topic
    /// both carry the same origin headers.
    ///
    /// # Errors
    /// When they are not durable; nothing that follows them may be committed then.
    pub async fn write(&self, target: &str, rejected: &[Rejected]) -> Result<(), Unwritten> {
        let letters: Vec<Letter> = rejected.iter().map(|r| Letter::new(target, r)).collect();
        self.put(&letters).await
    }

    /// Writes letters over what is there of them.
    ///
    /// # Errors
    /// When they are not durable.
    pub async fn put(&self, letters: &[Letter]) -> Result<(), Unwritten> {
        match self {
            DeadLetters::Table(table) => Ok(table.write(letters).await?),
            DeadLetters::Topic(topic) => Ok(topic.send(letters).await?),
        }
    }

    /// The letters that `choice` takes, by target and origin.
    ///
    /// # Errors
    /// When they can't be read.
    pub async fn read(&self, choice: &Choice, contents: Contents) -> Result<Vec<Letter>, String> {
        match self {
            DeadLetters::Table(table) => table.read(choice, contents).await.map_err(|e| e.to_string()),
            DeadLetters::Topic(topic) => topic.read(|letter| choice.takes(letter)).await,
        }
    }

    /// These letters, whole.
    ///
    /// # Errors
    /// When they can't be read.
    pub async fn fetch(&self, ids: &[LetterId]) -> Result<Vec<Letter>, String> {
        match self {
            DeadLetters::Table(table) => table.fetch(ids).await.map_err(|e| e.to_string()),
            DeadLetters::Topic(topic) => topic.read(|letter| ids.contains(&letter.id())).await,
        }
    }
}
