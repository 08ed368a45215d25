//! A sink in the hands of its thread and of the consumer's callback, which asks it where partitions begin.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use arrow_schema::SchemaRef;
use tokio::runtime::Handle;

use crate::position::TopicPartition;
use crate::sink::keeping::Kept;
use crate::sink::{Delivery, Gathered, Sink, SinkError, Standing};
use crate::source::kafka::{Positions, Start};

/// Both are on one thread: neither waits for the other.
pub(super) struct Mount {
    sink: Mutex<Box<dyn Sink>>,
    /// Where the sink stands in each partition that was taken over.
    standings: Mutex<HashMap<TopicPartition, Standing>>,
    /// Why partitions could not be taken over last.
    troubles: Mutex<HashMap<TopicPartition, SinkError>>,
    /// Who is asked for first where partitions are taken over one by one.
    turn: AtomicUsize,
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
        let (standings, troubles) = (Mutex::default(), Mutex::default());
        Self { sink: Mutex::new(sink), standings, troubles, turn: AtomicUsize::new(0), fresh, runtime }
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

    pub(super) fn deliver_some(&self, deliveries: &[Delivery]) -> Vec<Result<(), SinkError>> {
        self.runtime.block_on(self.sink().deliver_some(deliveries))
    }

    pub(super) fn gathered(&self) -> Gathered {
        self.sink().gathered()
    }

    pub(super) fn commit(&self) -> Result<(), SinkError> {
        self.runtime.block_on(self.sink().commit())
    }

    pub(super) fn forget(&self) {
        self.runtime.block_on(self.sink().forget());
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

    /// Why a partition could not be taken over.
    pub(super) fn take_trouble(&self, at: &TopicPartition) -> Option<SinkError> {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner).remove(at)
    }

    pub(super) fn not_taken_over(&self, at: &TopicPartition, e: SinkError) {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner).insert(at.clone(), e);
    }

    /// Whether a partition that the sink has nothing of begins where its log ends.
    pub(super) fn begins_late(&self) -> bool {
        self.fresh == Start::Latest
    }

    /// Has the sink remember where a partition begins before anything of it is read: where its log ends is another place at each start.
    pub(super) fn begin(&self, at: &TopicPartition, next: i64) -> Result<Option<Standing>, SinkError> {
        let mut sink = self.sink();
        let standing = self.runtime.block_on(async {
            sink.begin(at, next).await?;
            sink.take_over(std::slice::from_ref(at)).await
        })?;
        drop(sink);
        let standing = standing.into_iter().next().flatten();
        if let Some(standing) = &standing {
            self.standings.lock().unwrap_or_else(PoisonError::into_inner).insert(at.clone(), standing.clone());
        }
        Ok(standing)
    }

    fn take_over(&self, partitions: &[TopicPartition]) -> Result<Vec<Option<Standing>>, SinkError> {
        self.runtime.block_on(self.sink().take_over(partitions))
    }

    /// One by one: what keeps one from being taken over need not keep the others. Where two in a row find the sink away, it is.
    fn take_over_singly(&self, partitions: &[TopicPartition]) -> Vec<Result<Option<Standing>, SinkError>> {
        let first = self.turn.fetch_add(1, Ordering::Relaxed) % partitions.len().max(1);
        let (before, after) = partitions.split_at(first);
        let mut away = Vec::new();
        let mut taken: Vec<_> = after
            .iter()
            .chain(before)
            .map(|at| {
                if let [_, .., e] = &away[..] {
                    return Err(SinkError::clone(e));
                }
                let taken = self.take_over(std::slice::from_ref(at)).map(|taken| taken.into_iter().next().flatten());
                match &taken {
                    Err(e @ SinkError::Unavailable(_)) => away.push(e.clone()),
                    _ => away.clear(),
                }
                taken
            })
            .collect();
        taken.rotate_right(first);
        taken
    }
}

impl Positions for Mount {
    fn starts(&self, assigned: &[TopicPartition]) -> Vec<Start> {
        let taken = match self.take_over(assigned) {
            Ok(standings) => standings.into_iter().map(Ok).collect(),
            Err(e) if assigned.len() == 1 => vec![Err(e)],
            Err(_) => self.take_over_singly(assigned),
        };
        let mut known = self.standings.lock().unwrap_or_else(PoisonError::into_inner);
        let stood = assigned.iter().zip(&taken).filter(|(_, taken)| matches!(taken, Ok(Some(_)))).map(|(at, _)| at);
        let stood: HashSet<String> = stood.chain(known.keys()).map(|at| at.topic.clone()).collect();
        let start = |(at, taken): (&TopicPartition, Result<Option<Standing>, SinkError>)| match taken {
            Ok(Some(standing)) => {
                let start = Start::At(standing.next);
                known.insert(at.clone(), standing);
                start
            }
            Ok(None) => {
                known.remove(at);
                // One that was added to a topic that is read has nothing that is older than the sink.
                if stood.contains(&at.topic) { Start::Earliest } else { self.fresh.clone() }
            }
            Err(e) => {
                self.not_taken_over(at, e);
                Start::Hold
            }
        };
        assigned.iter().zip(taken).map(start).collect()
    }
}
