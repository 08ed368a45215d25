//! A Kafka topic, exactly once: a delivery is one transaction of its messages and the sink's position.
//!
//! Where the sink stands, its [`Ledger`] knows. Who takes a partition over fences whoever had it, and those who read the topic committed see
//! a delivery whole or not at all.
//!
//! # Layout
//! - [`settings`]: what the sink is told. [`messages`]: rows as messages. [`avro`]: values in Avro.

mod avro;
mod messages;
mod settings;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use arrow_schema::SchemaRef;
use async_trait::async_trait;

use self::avro::AvroWriter;
use self::messages::{Values, messages, missing};
pub use self::settings::{Deletes, KeyFormat, OnNullKey, TopicSettings, ValueFormat};
use super::keeping::Kept;
use super::ledger::Ledger;
use super::note::{self, Note};
use super::{Delivery, Sink, SinkError, Standing};
use crate::position::TopicPartition;

/// What surrounds the topic.
#[async_trait]
pub trait Cluster: Send {
    /// Makes the topic where there is none of this name.
    async fn make(&self, topic: &str, partitions: Option<i32>, replication: Option<i32>) -> Result<(), SinkError>;

    /// The id of an Avro schema under this subject; it is registered where it is new.
    async fn register(&self, subject: &str, schema: &str) -> Result<i32, SinkError>;
}

/// One topic.
pub struct TopicSink {
    settings: TopicSettings,
    ledger: Box<dyn Ledger>,
    cluster: Box<dyn Cluster>,
    values: Values,
    /// Where it stands in what was taken over and not lost since.
    held: HashMap<TopicPartition, Held>,
}

#[derive(Clone, Debug)]
struct Held {
    note: Note,
    /// `None` where nothing was ever delivered.
    next: Option<i64>,
}

impl std::fmt::Debug for TopicSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TopicSink").field("settings", &self.settings).field("held", &self.held).finish_non_exhaustive()
    }
}

impl TopicSink {
    pub fn new(settings: TopicSettings, ledger: Box<dyn Ledger>, cluster: Box<dyn Cluster>) -> Self {
        Self { settings, ledger, cluster, values: Values::Json, held: HashMap::new() }
    }

    async fn take(&mut self, at: &TopicPartition) -> Result<Option<Standing>, SinkError> {
        self.held.remove(at);
        let stored = self.ledger.take_over(at).await?;
        let held = Held { note: Note::of(at, stored.as_ref())?, next: stored.map(|entry| entry.next) };
        let standing = held.next.map(|next| held.note.standing(next));
        self.held.insert(at.clone(), held);
        Ok(standing)
    }
}

#[async_trait]
impl Sink for TopicSink {
    async fn prepare(&mut self, columns: &SchemaRef) -> Result<(), SinkError> {
        let settings = &self.settings;
        if let Some(name) = settings.key.iter().find(|name| columns.field_with_name(name).is_err()) {
            return Err(missing(name));
        }
        self.cluster.make(&settings.topic, settings.partitions, settings.replication).await?;
        self.values = match settings.format {
            ValueFormat::Json => Values::Json,
            ValueFormat::Avro => {
                let writer = AvroWriter::new(&settings.topic, columns).map_err(SinkError::Stopped)?;
                let id = self.cluster.register(&format!("{}-value", settings.topic), writer.schema()).await?;
                Values::Avro(writer.with_id(id))
            }
        };
        Ok(())
    }

    async fn take_over(&mut self, partitions: &[TopicPartition]) -> Result<Vec<Option<Standing>>, SinkError> {
        let mut standings = Vec::with_capacity(partitions.len());
        for at in partitions {
            standings.push(self.take(at).await?);
        }
        Ok(standings)
    }

    async fn deliver(&mut self, delivery: &Delivery) -> Result<(), SinkError> {
        let span = &delivery.span;
        let Some(held) = self.held.get(&span.at) else {
            return Err(SinkError::Moved(format!("{}: not taken over", span.at)));
        };
        held.note.same_topic(span)?;
        if let Some(next) = held.next.filter(|next| *next != span.from) {
            let (at, from) = (&span.at, span.from);
            return Err(SinkError::Moved(format!("{at}: the sink stands at {next}, the delivery begins at {from}")));
        }
        let topic_id = span.topic_id.clone().or_else(|| held.note.topic_id.clone());
        let mut note = Note { topic_id, ..held.note.clone() };
        let mut messages = messages(&self.settings, &self.values, delivery)?;
        let rows = messages.len();
        messages.extend(note.keep(&delivery.keeping, span.from, span.next));
        let done = self.ledger.commit(&span.at, &note.entry(span.next), &messages).await;
        match &done {
            Ok(()) => {
                self.held.insert(span.at.clone(), Held { note, next: Some(span.next) });
            }
            Err(SinkError::Moved(_)) => {
                self.held.remove(&span.at);
            }
            // A message stands for the row at its place; what is kept beside the rows stands for none.
            Err(SinkError::Refused(refused)) => {
                if let Some(kept) = refused.iter().find(|r| r.row >= rows) {
                    let (at, detail) = (&span.at, &kept.detail);
                    return Err(SinkError::Stopped(format!("{at}: what the pipeline keeps is refused: {detail}")));
                }
            }
            Err(_) => {}
        }
        done
    }

    fn kept(&self, at: &TopicPartition) -> Option<Kept> {
        self.held.get(at).map(|held| held.note.kept())
    }

    async fn rewind(&mut self, to: &[(TopicPartition, i64)]) -> Result<(), SinkError> {
        to.iter().for_each(|(at, _)| drop(self.held.remove(at)));
        note::rewind(self.ledger.as_mut(), to).await
    }
}
