//! Where changes go.
//!
//! A sink remembers where it stands, and is asked for it at the start: Kafka's committed offsets count for nothing. The [`lake`]'s tables take
//! changes as they are, each at its own pace; every other sink takes what a pipeline's SELECT makes of them, by the contract of
//! this module.
//!
//! | kind | rows and position |
//! |---|---|
//! | atomic (a lake table, Redis) | change in one step |
//! | transactional (a Kafka topic) | in one Kafka transaction |
//! | intent (ClickHouse, HTTP) | the exact range is stored before it is sent, and sent again with the same bounds until it is acknowledged |
//!
//! # Layout
//! - [`Sink`], [`Standing`], [`Delivery`], [`Gathered`], [`SinkError`]: the contract.
//! - [`lake`], [`clickhouse`], [`redis`], [`topic`], [`http`], [`log`]: the sinks. None knows another.
//! - [`ledger`]: positions in Kafka, for sinks that have no store of their own; `note`: what they note beside them; [`keeping`]: what a
//!   pipeline stores with them.
//! - [`intent`]: what the sinks with an own store of intents have in common. `text`: values as text and JSON.
//!   `conformance`: what each has to prove.

pub mod clickhouse;
#[cfg(test)]
pub mod conformance;
pub mod http;
pub mod intent;
pub mod keeping;
pub mod lake;
pub mod ledger;
pub mod log;
mod note;
pub mod redis;
mod text;
pub mod topic;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use async_trait::async_trait;

use self::keeping::{Keeping, Kept};
pub use self::text::json_values;
pub use crate::batch::RowOrigin;
use crate::change::Op;
use crate::position::{Span, TopicPartition};

/// Where a sink stands in one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The next offset to deliver: the sink has everything below it. In a new generation.
    pub next: i64,
    /// A range that begins at `next` was begun and perhaps sent: the next delivery must end exactly here.
    pub until: Option<i64>,
    /// Kafka's topic id that the offsets belong to, where it was known.
    pub topic_id: Option<String>,
}

/// What a pipeline made of the changes in one partition's span. All rows in the order of their changes.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Begins where the sink stands. `topic_id` is set where the broker tells it.
    pub span: Span,
    /// The columns of the SELECT; no rows where the filter took them all: the position moves nevertheless.
    pub rows: RecordBatch,
    /// The changes that the rows come from, one each; `None` where the SELECT puts several into one row.
    pub origins: Option<Vec<RowOrigin>>,
    /// What is to be stored with the position; nothing where the sink has no ledger.
    pub keeping: Keeping,
}

impl Delivery {
    /// Whether a row comes from a delete.
    pub fn is_deleted(&self, row: usize) -> bool {
        self.origins.as_ref().and_then(|o| o.get(row)).is_some_and(|o| o.op == Op::Delete)
    }
}

/// A row that a sink can't take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedRow {
    /// Of [`Delivery::rows`].
    pub row: usize,
    /// Names the column and the value's trouble.
    pub detail: String,
}

/// What a sink has taken in that a [`Sink::commit`] is still to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gathered {
    /// Every delivery that was answered is done.
    Nothing,
    /// More may be added.
    Some,
    /// It is time.
    Due,
}

/// Why a sink did not do what it was asked to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SinkError {
    /// It can't be reached, is overloaded, full, or read-only: the same again, later. Whether it was done is open.
    #[error("{0}")]
    Unavailable(String),
    /// Another process goes on from here, or the sink lost its last second: nothing was done; ask it where it stands.
    #[error("{0}")]
    Moved(String),
    /// It can't take these rows, and would take the others: nothing was done, or nothing that the same delivery without them would do again.
    #[error("{} row(s) refused; the first: {}", .0.len(), .0.first().map_or("", |r| r.detail.as_str()))]
    Refused(Vec<RefusedRow>),
    /// It takes longer than one call may: the same again at once. What is done is not done again.
    #[error("not all of it is done yet")]
    Unfinished,
    /// A person has to do something first: a wrong password, a table of another shape.
    #[error("{0}")]
    Stopped(String),
}

/// A sink of one pipeline: its own position, its own pace.
///
/// What is not answered may have happened, so each call may come again with the same arguments. One thread calls.
#[async_trait]
pub trait Sink: Send {
    /// Makes what rows of these columns need: tables, columns, scripts. Called before the first delivery and whenever the columns change.
    async fn prepare(&mut self, columns: &SchemaRef) -> Result<(), SinkError>;

    /// Takes these partitions over, so that whoever had them can't write any more, and says where each stands; `None` where nothing
    /// of it was ever delivered. One answer for each, in their order.
    async fn take_over(&mut self, partitions: &[TopicPartition]) -> Result<Vec<Option<Standing>>, SinkError>;

    /// Delivers exactly once. The span of each delivery begins where its partition stands; where it does not, the answer is
    /// [`SinkError::Moved`]. Either all of a delivery is done with its position, or its `until` will say so. A sink that gathers
    /// deliveries has only taken it in: until [`Sink::commit`] it stands where it stood.
    async fn deliver(&mut self, delivery: &Delivery) -> Result<(), SinkError>;

    /// Delivers the first of these as [`Sink::deliver`] does, and as many of those that follow as it can at the same time: what became of
    /// each, in their order. All are of different partitions.
    async fn deliver_some(&mut self, deliveries: &[Delivery]) -> Vec<Result<(), SinkError>> {
        match deliveries.first() {
            Some(first) => vec![self.deliver(first).await],
            None => Vec::new(),
        }
    }

    /// What was delivered and is not done; always nothing in a sink that does each delivery at once.
    fn gathered(&self) -> Gathered {
        Gathered::Nothing
    }

    /// Does what was gathered, and moves its positions, in one step. [`SinkError::Moved`]: it never will be; to be [forgotten](Sink::forget),
    /// and read again from where the sink stands.
    async fn commit(&mut self) -> Result<(), SinkError> {
        Ok(())
    }

    /// Lets go of what was gathered: the sink stands where its last commit put it.
    async fn forget(&mut self) {}

    /// Remembers where a partition begins of which nothing was ever delivered, where it can without rows. It is to be taken over then.
    async fn begin(&mut self, at: &TopicPartition, next: i64) -> Result<(), SinkError> {
        self.rewind(&[(at.clone(), next)]).await
    }

    /// Sets the positions, by a person's will, in a new generation: what was delivered once is delivered again.
    async fn rewind(&mut self, to: &[(TopicPartition, i64)]) -> Result<(), SinkError>;

    /// What was stored of [`Delivery::keeping`] where the sink stands in a partition that it has taken over; `None` of a sink that stores none.
    fn kept(&self, _at: &TopicPartition) -> Option<Kept> {
        None
    }

    /// Called about once a second, deliveries or not: for what goes by the clock.
    async fn tick(&mut self, _now_ms: i64) -> Result<(), SinkError> {
        Ok(())
    }
}
