//! A sink in the hands of its thread and of the consumer's callback, which asks it where partitions begin.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use arrow_schema::SchemaRef;
use tokio::runtime::Handle;

use crate::position::TopicPartition;
use crate::sink::keeping::Kept;
use crate::sink::{Delivery, Sink, SinkError, Standing};
use crate::source::kafka::{Positions, Start};

/// Both are on one thread: neither waits for the other.
pub(super) struct Mount {
    sink: Mutex<Box<dyn Sink>>,
    /// Where the sink stands in each partition that was taken over.
    standings: Mutex<HashMap<TopicPartition, Standing>>,
    trouble: Mutex<Option<SinkError>>,
    /// Where a partition begins that the sink has nothing of.
    fresh: Start,
    runtime: Handle,
}

impl std::fmt::Debug for Mount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mount").field("fresh", &self.fresh).finish_non_exhaustive()
    }
}

impl Mount {
    pub(super) fn new(sink: Box<dyn Sink>, fresh: Start, runtime: Handle) -> Self {
        Self { sink: Mutex::new(sink), standings: Mutex::default(), trouble: Mutex::default(), fresh, runtime }
    }

    fn sink(&self) -> MutexGuard<'_, Box<dyn Sink>> {
        self.sink.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn prepare(&self, columns: &SchemaRef) -> Result<(), SinkError> {
        self.runtime.block_on(self.sink().prepare(columns))
    }

    pub(super) fn deliver(&self, delivery: &Delivery) -> Result<(), SinkError> {
        self.runtime.block_on(self.sink().deliver(delivery))
    }

    pub(super) fn tick(&self, now_ms: i64) -> Result<(), SinkError> {
        self.runtime.block_on(self.sink().tick(now_ms))
    }

    /// Where the sink stood when the partition was taken over.
    pub(super) fn standing(&self, at: &TopicPartition) -> Option<Standing> {
        self.standings.lock().unwrap_or_else(PoisonError::into_inner).get(at).cloned()
    }

    /// What the sink has stored of what its pipeline keeps.
    pub(super) fn kept(&self, at: &TopicPartition) -> Option<Kept> {
        self.sink().kept(at)
    }

    /// What was wrong when partitions were to be taken over last.
    pub(super) fn take_trouble(&self) -> Option<SinkError> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Positions for Mount {
    fn starts(&self, assigned: &[TopicPartition]) -> Vec<Start> {
        let taken = self.runtime.block_on(self.sink().take_over(assigned));
        match taken {
            Ok(standings) => {
                let mut known = self.standings.lock().unwrap_or_else(PoisonError::into_inner);
                let start = |(at, standing): (&TopicPartition, Option<Standing>)| match standing {
                    Some(standing) => {
                        let start = Start::At(standing.next);
                        known.insert(at.clone(), standing);
                        start
                    }
                    None => {
                        known.remove(at);
                        self.fresh.clone()
                    }
                };
                assigned.iter().zip(standings).map(start).collect()
            }
            Err(e) => {
                *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(e);
                vec![Start::Hold; assigned.len()]
            }
        }
    }
}
