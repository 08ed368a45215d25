//! One thread, one consumer, its own partitions: records become rows of staged files on the thread that polled them.

mod memory;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::committer::Ack;
use super::feed::{Feed, Reading};
use super::meter;
use super::tables::Tables;
use crate::position::TopicPartition;
use crate::record::Record;
use crate::source::kafka::{Assigned, Event, KafkaSource, Misplaced, SourceError};

/// How long a poll waits while nothing comes; bounds how late an interval trigger fires.
const POLL: Duration = Duration::from_millis(100);
/// How often held partitions and suspended tables are looked at again.
const RETRY: Duration = Duration::from_secs(2);
/// How long a shutdown waits for the last commits before it gives them up (they are read again at the next start).
const LAST_COMMITS: Duration = Duration::from_secs(60);

pub(super) struct Worker {
    id: usize,
    source: KafkaSource,
    tables: Arc<Tables>,
    acks: mpsc::Receiver<Ack>,
    topics: watch::Receiver<Vec<String>>,
    shutdown: watch::Receiver<bool>,
    feeds: HashMap<String, Feed>,
    /// Assigned but not to be read yet: the sink's position is not known, or older partitions come first.
    held: BTreeSet<TopicPartition>,
    next_look: Instant,
    next_retry: Instant,
    /// No partition is to be read: there is no memory for more.
    full: bool,
    next_early: Instant,
}

impl Worker {
    pub fn new(
        id: usize,
        source: KafkaSource,
        tables: Arc<Tables>,
        acks: mpsc::Receiver<Ack>,
        mut topics: watch::Receiver<Vec<String>>,
        shutdown: watch::Receiver<bool>,
    ) -> Self {
        let now = Instant::now();
        topics.mark_changed();
        Self {
            id,
            source,
            tables,
            acks,
            topics,
            shutdown,
            feeds: HashMap::new(),
            held: BTreeSet::new(),
            next_look: now,
            next_retry: now,
            full: false,
            next_early: now,
        }
    }

    /// Polls until the shutdown signal, then commits what it has.
    pub fn run(mut self) -> Result<(), SourceError> {
        while !*self.shutdown.borrow() {
            self.step(POLL)?;
            self.keep_to_budget()?;
            self.look_if_due();
        }
        self.finish()
    }

    fn look_if_due(&mut self) {
        let now = Instant::now();
        if now >= self.next_look {
            self.next_look = now + POLL;
            self.look(now);
        }
    }

    fn step(&mut self, timeout: Duration) -> Result<(), SourceError> {
        // Borrowed apart: the record lives in the consumer while the feed takes it.
        let Self { source, feeds, tables, .. } = self;
        match source.poll(timeout)? {
            Event::Record(polled) => {
                if tables.is_kafka_lost() {
                    tables.kafka_answered();
                }
                let record: Record<'_> = polled.record();
                if let Some(feed) = feeds.get_mut(record.topic) {
                    feed.push(&record);
                }
                return Ok(());
            }
            Event::Idle => return Ok(()),
            Event::Trouble(detail) => {
                tracing::warn!("kafka: {detail}");
                tables.kafka_trouble(&detail);
                return Ok(());
            }
            Event::UnknownTopic(detail) => {
                tracing::warn!("a configured topic is not there yet, waiting for it: {detail}");
                return Ok(());
            }
            Event::OutOfRange => {}
            Event::Assigned(assigned) => {
                self.assigned(assigned);
                return Ok(());
            }
            Event::Revoked(revoked) => {
                self.revoked(&revoked);
                return Ok(());
            }
        }
        self.verify_positions();
        Ok(())
    }

    fn assigned(&mut self, assigned: Vec<Assigned>) {
        meter::rebalanced();
        self.tables.assigned(assigned.len());
        for a in assigned {
            let Ok(Some(handle)) = self.tables.handle(&a.at.topic) else {
                self.held.insert(a.at);
                continue;
            };
            let feed = self
                .feeds
                .entry(a.at.topic.clone())
                .or_insert_with(|| Feed::new(Arc::clone(&handle), self.tables.runtime().clone(), self.id));
            handle.own(&a.at);
            match (&a.misplaced, a.position) {
                (Some(Misplaced::Unknown { detail }), _) => {
                    tracing::warn!(partition = %a.at, "held: {detail}");
                    self.held.insert(a.at);
                }
                (Some(m), _) => {
                    feed.stop(&explain(&handle.name, &a.at, m));
                    self.held.insert(a.at);
                }
                (None, None) => {
                    self.held.insert(a.at);
                }
                (None, Some(position)) => {
                    self.held.remove(&a.at);
                    tracing::info!(partition = %a.at, position, high = a.high, "reading");
                    if let Err(reason) = feed.begin(&a, position) {
                        feed.stop(&reason);
                        self.held.insert(a.at);
                    }
                }
            }
            if self.full || feed.holds() {
                self.source.pause(&feed.partitions());
            }
        }
    }

    /// What was collected for the tables that lose a partition is handed over; the new owner's check decides who is first.
    fn revoked(&mut self, revoked: &[TopicPartition]) {
        for at in revoked {
            tracing::info!(partition = %at, "given up");
            self.held.remove(at);
            if let Some(feed) = self.feeds.get_mut(&at.topic) {
                feed.close(&self.source);
                report_passed(feed, &self.source);
                feed.end(at);
                feed.handle().disown(at);
            }
        }
    }

    /// Triggers, acknowledgements, new topics, held partitions.
    fn look(&mut self, now: Instant) {
        if self.topics.has_changed().unwrap_or(false) {
            let topics = self.topics.borrow_and_update().clone();
            tracing::info!(worker = self.id, topics = topics.len(), "subscribing");
            if let Err(e) = self.source.subscribe(&topics) {
                tracing::error!("subscription refused: {e}");
            }
        }
        while let Ok(ack) = self.acks.try_recv() {
            self.acknowledged(ack);
        }
        let now_ms = self.tables.now_ms();
        for feed in self.feeds.values_mut() {
            feed.tell();
            if feed.due(now_ms) {
                feed.close(&self.source);
                report_passed(feed, &self.source);
            }
            match feed.take_change() {
                Some(Reading::Hold) => self.source.pause(&feed.partitions()),
                Some(Reading::Resume) if self.full => {}
                Some(Reading::Resume) => self.source.resume(&feed.partitions()),
                Some(Reading::Restart) => {
                    restart(feed, &self.source, &mut self.held);
                    if self.full {
                        self.source.pause(&feed.partitions());
                    }
                }
                None => {}
            }
        }
        if self.id == 0 {
            self.tables.tell_memory();
        }
        if now >= self.next_retry {
            self.next_retry = now + RETRY;
            self.retry_held();
            // An idle topic brings no record that would show it.
            if self.tables.is_kafka_lost() && self.source.answers() {
                self.tables.kafka_answered();
            }
            for feed in self.feeds.values() {
                feed.report(&self.source);
            }
        }
    }

    fn acknowledged(&mut self, ack: Ack) {
        match ack {
            Ack::Committed { topic, incarnation, next } => {
                if let Some(feed) = self.feeds.get_mut(&topic) {
                    feed.committed(incarnation, &next);
                    self.source.report(&next.into_iter().filter(|(at, _)| feed.reads(at)).collect::<Vec<_>>());
                }
            }
            Ack::Reset { topic, incarnation, reason } => {
                if let Some(feed) = self.feeds.get_mut(&topic)
                    && feed.incarnation() == incarnation
                {
                    feed.suspend(&reason);
                }
            }
        }
    }

    fn retry_held(&mut self) {
        // A table that needs a person is not asked again before one has rewound it.
        let waits = |at: &TopicPartition| self.feeds.get(&at.topic).is_some_and(|feed| feed.handle().is_stopped());
        let held: Vec<TopicPartition> = self.held.iter().filter(|at| !waits(at)).cloned().collect();
        if held.is_empty() {
            return;
        }
        let placed = self.source.place(&held);
        let go: Vec<(TopicPartition, i64)> = placed.iter().filter_map(|a| Some((a.at.clone(), a.position?))).collect();
        if !go.is_empty()
            && let Err(e) = self.source.seek(&go)
        {
            tracing::warn!("held partitions can't be read yet: {e}");
            return;
        }
        self.assigned(placed.into_iter().filter(|a| a.position.is_some() || a.misplaced.is_some()).collect());
    }

    /// The client met an offset that the log doesn't hold, and has given up that partition until it is told a position anew. It
    /// doesn't say which.
    fn verify_positions(&mut self) {
        for feed in self.feeds.values_mut().filter(|f| !f.handle().is_stopped()) {
            let positions = feed.positions();
            match given_up(&feed.handle().name, self.source.check_positions(&positions)) {
                GivenUp::Stop(reason) => feed.stop(&reason),
                GivenUp::Suspend(reason) => feed.suspend(&reason),
                GivenUp::Seek => {
                    if let Err(e) = self.source.seek(&positions) {
                        feed.suspend(&format!("seek: {e}"));
                    }
                }
            }
            // A seek lets go of a pause; what waits is read on from its table's position.
            if self.full || feed.holds() {
                self.source.pause(&feed.partitions());
            }
        }
    }

    fn finish(&mut self) -> Result<(), SourceError> {
        let deadline = Instant::now() + LAST_COMMITS;
        for feed in self.feeds.values_mut() {
            feed.close(&self.source);
            report_passed(feed, &self.source);
            self.source.pause(&feed.partitions());
        }
        while self.feeds.values().any(|f| f.in_flight() > 0) {
            match self.acks.recv_timeout(POLL) {
                Ok(ack) => self.acknowledged(ack),
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => {}
            }
            // Heartbeats go on, so that the group doesn't hand the partitions over before the last commit.
            let _ = self.source.poll(Duration::ZERO)?;
            if Instant::now() >= deadline {
                tracing::warn!(
                    "the last commits did not finish in time; their rows will be read again at the next start"
                );
                break;
            }
        }
        Ok(())
    }
}

/// Topics without a table have no other place for their positions.
fn report_passed(feed: &mut Feed, source: &KafkaSource) {
    let passed = feed.take_passed();
    source.report_passed(&passed, &feed.handle().passed_mark());
}

/// Goes on from the table's checkpoint after a batch was given up.
fn restart(feed: &mut Feed, source: &KafkaSource, held: &mut BTreeSet<TopicPartition>) {
    match feed.restart() {
        Ok(given_up) => {
            source.pause(&given_up);
            held.extend(given_up);
            if let Err(e) = source.seek(&feed.positions()) {
                feed.suspend(&format!("seek: {e}"));
            }
        }
        Err(reason) => feed.suspend(&reason),
    }
}

/// What is to be done with a topic's partitions when the client has given one of them up.
#[derive(Debug, PartialEq, Eq)]
enum GivenUp {
    /// One stands outside the log.
    Stop(String),
    /// Nobody knows: to be tried again from the table's checkpoint.
    Suspend(String),
    /// All stand inside the log (by now): go on from there.
    Seek,
}

fn given_up(table: &str, looked: Vec<(TopicPartition, i64, Option<Misplaced>)>) -> GivenUp {
    let mut todo = GivenUp::Seek;
    for (at, _, misplaced) in looked {
        match misplaced {
            None => {}
            Some(m @ Misplaced::Unknown { .. }) => todo = GivenUp::Suspend(explain(table, &at, &m)),
            Some(m) => return GivenUp::Stop(explain(table, &at, &m)),
        }
    }
    todo
}

/// The named errors of a position outside the log, with the way out.
fn explain(table: &str, at: &TopicPartition, misplaced: &Misplaced) -> String {
    match misplaced {
        Misplaced::BehindLog { position, low } => format!(
            "{at}: offsets gone: the table stands at offset {position}, but Kafka's log begins only at {low}; retention removed \
             {} offset(s) that the table has not read. Restore them, or accept the loss: `firn rewind {table} --skip-lost` goes on \
             at {low} and notes the range; a new snapshot of the source (Debezium incremental snapshot) brings what was lost",
            low - position
        ),
        Misplaced::AheadOfLog { position, high } => format!(
            "{at}: the table's stored offset {position} is ahead of Kafka's log, which ends at {high}; the topic was deleted and made \
             again, or this is another cluster. Check kafka.bootstrap_servers; if the topic was made anew, `firn rewind {table} \
             --new-topic` goes on with it from its beginning"
        ),
        Misplaced::Unknown { detail } => {
            format!("{at}: the broker does not say where the log begins and ends: {detail}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_that_the_client_gave_up_is_read_again_unless_its_position_is_gone() {
        let at = |partition, misplaced| (TopicPartition::new("t", partition), 9, misplaced);
        let silent = || Misplaced::Unknown { detail: "NOT_LEADER".to_owned() };
        let gone = || Misplaced::BehindLog { position: 1, low: 3 };
        assert_eq!(given_up("db.t", vec![at(0, None), at(1, None)]), GivenUp::Seek);
        for looked in [vec![at(0, Some(silent())), at(1, None)], vec![at(0, None), at(1, Some(silent()))]] {
            assert!(matches!(given_up("db.t", looked), GivenUp::Suspend(why) if why.contains("NOT_LEADER")));
        }
        for looked in
            [vec![at(0, Some(silent())), at(1, Some(gone()))], vec![at(0, Some(gone())), at(1, Some(silent()))]]
        {
            assert!(matches!(given_up("db.t", looked), GivenUp::Stop(why) if why.contains("offsets gone")));
        }
    }
}
