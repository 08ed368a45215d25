//! One transactional producer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext, PurgeConfig};
use rdkafka::{ClientContext, Message, Offset, TopicPartitionList};

use super::super::client::set_unless;
use super::super::context::log;
use super::super::producer::MAX_RECORD_BYTES;
use super::super::{BROKER_ANSWER, ClientSettings};
use super::{Noted, Outgoing, Span, TransactionError};
use crate::position::TopicPartition;

/// After this the brokers give a transaction up, and those who read the topic committed go on. Until then they wait for a process that died, or
/// until its successor begins. A delivery has to get through within this time.
const TRANSACTION_TIMEOUT_MS: &str = "10000";
/// How long an end may take to be told; what is not aborted then is aborted by the next one to begin.
const ABORTED_WITHIN: Duration = Duration::from_secs(2);
/// How much longer than it was told to a call may take before it is left to itself.
const OUTLASTED_BY: Duration = Duration::from_secs(2);
/// A turn of waiting: messages are sent and answered by the client's own threads.
const TURN: Duration = Duration::from_millis(1);

/// How many bytes a batch may have: a message that is larger has one of its own. Below what most topics take, and enough to be fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Batches(pub usize);

impl Default for Batches {
    fn default() -> Self {
        Self::USUAL
    }
}

impl Batches {
    pub(super) const USUAL: Self = Self(256 << 10);

    /// `None` where each message has a batch of its own.
    pub(super) fn smaller(self) -> Option<Self> {
        (self.0 > 1).then_some(Self(if self.0 > 4_096 { self.0 / 4 } else { 1 }))
    }
}

/// What became of the messages.
#[derive(Default)]
struct Deliveries {
    /// Those that did not arrive, by their places.
    failed: Mutex<Vec<(usize, RDKafkaErrorCode)>>,
    arrived: Mutex<BTreeMap<i32, Span>>,
}

impl Deliveries {
    fn take(&self) -> Vec<(usize, RDKafkaErrorCode)> {
        std::mem::take(&mut *self.failed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn take_arrived(&self) -> BTreeMap<i32, Span> {
        std::mem::take(&mut *self.arrived.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        // `[kafka.properties]` are for consumers too.
        let level = if fac == "CONFWARN" { RDKafkaLogLevel::Debug } else { level };
        log(level, fac, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // What it means for a transaction, its calls say.
        tracing::debug!(target: "kafka", "{error}: {reason}");
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, place: usize) {
        match result {
            Ok(arrived) => {
                let mut all = self.arrived.lock().unwrap_or_else(PoisonError::into_inner);
                all.entry(arrived.partition()).or_default().add(arrived.offset());
            }
            Err((e, _)) => {
                let code = e.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
                self.failed.lock().unwrap_or_else(PoisonError::into_inner).push((place, code));
            }
        }
    }
}

pub(super) struct Writer {
    producer: Arc<BaseProducer<Deliveries>>,
    /// For a transaction, by the client's and the brokers' clocks.
    within: Duration,
    state: State,
    /// What the group has, as far as this producer knows.
    noted: Option<Noted>,
}

enum State {
    Ready,
    /// The brokers were told to commit, and did not answer.
    Open(Noted),
    /// The producer is of no more use. What it left open is aborted when the next one begins.
    Spent,
}

impl Writer {
    /// Fences whoever had the id; its transaction is over.
    pub(super) fn begin(settings: &ClientSettings, id: &str, batches: Batches) -> Result<Self, TransactionError> {
        let mut c = settings.plain();
        c.set("transactional.id", id);
        c.set("enable.idempotence", "true");
        c.set("acks", "all");
        set_unless(&mut c, "transaction.timeout.ms", TRANSACTION_TIMEOUT_MS);
        set_unless(&mut c, "message.max.bytes", MAX_RECORD_BYTES);
        c.set("batch.size", batches.0.to_string());
        // A key lands where Kafka's Java clients put it.
        set_unless(&mut c, "partitioner", "murmur2_random");
        // All is there when sending begins: to wait for more is of no use.
        set_unless(&mut c, "linger.ms", "1");
        // Of what a delivery has the client keeps a copy, but no more than this.
        set_unless(&mut c, "queue.buffering.max.kbytes", "65536");
        let within = c.get("transaction.timeout.ms").and_then(|ms| ms.parse().ok()).map(Duration::from_millis);
        let producer: BaseProducer<Deliveries> =
            c.create_with_context(Deliveries::default()).map_err(|e| TransactionError::of(&e))?;
        producer.init_transactions(BROKER_ANSWER).map_err(|e| TransactionError::of(&e))?;
        let producer = Arc::new(producer);
        Ok(Self { producer, within: within.unwrap_or(BROKER_ANSWER), state: State::Ready, noted: None })
    }

    /// Whether only a new producer can go on.
    pub(super) fn is_spent(&self) -> bool {
        matches!(self.state, State::Spent)
    }

    pub(super) fn knows(&mut self, noted: Option<Noted>) {
        self.noted = noted;
    }

    pub(super) fn noted(&self) -> Option<&Noted> {
        self.noted.as_ref()
    }

    pub(super) fn commit(
        &mut self,
        at: &TopicPartition,
        noted: &Noted,
        group: ConsumerGroupMetadata,
        messages: &[Outgoing<'_>],
    ) -> Result<(), TransactionError> {
        match std::mem::replace(&mut self.state, State::Ready) {
            State::Ready => {}
            State::Open(open) => match self.end(&open) {
                Ok(()) if open == *noted => return Ok(()),
                Ok(()) => {
                    let done = open.next;
                    return Err(TransactionError::Fenced(format!("{at}: was set to offset {done} after all")));
                }
                // It was aborted.
                Err(_) if matches!(self.state, State::Ready) => {}
                Err(e) => return Err(e),
            },
            State::Spent => {
                self.state = State::Spent;
                return Err(TransactionError::Unavailable(format!("{at}: the producer is of no more use")));
            }
        }
        self.producer.begin_transaction().map_err(|e| TransactionError::of(&e))?;
        match self.fill(at, noted, group, messages) {
            Ok(()) => self.end(noted),
            Err(e) => Err(self.abort(e)),
        }
    }

    /// All but the end.
    #[cfg(test)]
    pub(super) fn leave_open(
        &mut self,
        at: &TopicPartition,
        noted: &Noted,
        group: ConsumerGroupMetadata,
        messages: &[Outgoing<'_>],
    ) {
        self.producer.begin_transaction().unwrap();
        self.fill(at, noted, group, messages).unwrap();
    }

    /// All that belongs to the transaction, delivered.
    fn fill(
        &self,
        at: &TopicPartition,
        noted: &Noted,
        group: ConsumerGroupMetadata,
        messages: &[Outgoing<'_>],
    ) -> Result<(), TransactionError> {
        let until = Instant::now() + self.within;
        self.deliver(messages, until)?;
        let mut offsets = TopicPartitionList::new();
        let mut entry = offsets.add_partition(&at.topic, at.partition);
        entry.set_metadata(&noted.note);
        entry.set_offset(Offset::Offset(noted.next)).map_err(|e| TransactionError::of(&e))?;
        self.send_offsets(offsets, group)
    }

    /// The call may outlast its time where no broker answers, for as long as that is so: then it is left to itself.
    fn send_offsets(&self, offsets: TopicPartitionList, group: ConsumerGroupMetadata) -> Result<(), TransactionError> {
        let (producer, within) = (Arc::clone(&self.producer), self.within);
        let (tell, told) = mpsc::channel();
        let call = std::thread::Builder::new().name("firn-offsets".to_owned()).spawn(move || {
            // Who asked may not listen any more.
            let _ = tell.send(producer.send_offsets_to_transaction(&offsets, &group, within));
        });
        call.map_err(|e| TransactionError::Unavailable(format!("no thread for the offsets: {e}")))?;
        match told.recv_timeout(within + OUTLASTED_BY) {
            Ok(done) => done.map_err(|e| TransactionError::of(&e)),
            Err(_) => Err(TransactionError::Unavailable("no broker took the offsets".to_owned())),
        }
    }

    fn deliver(&self, messages: &[Outgoing<'_>], until: Instant) -> Result<(), TransactionError> {
        self.producer.context().take();
        self.producer.context().take_arrived();
        for (place, message) in messages.iter().enumerate() {
            self.send(place, message, until)?;
        }
        self.drain(until);
        self.judge()
    }

    /// A transaction of messages alone, but for its end.
    pub(super) fn open(&mut self, messages: &[Outgoing<'_>]) -> Result<(), TransactionError> {
        self.producer.begin_transaction().map_err(|e| TransactionError::of(&e))?;
        match self.deliver(messages, Instant::now() + self.within) {
            Ok(()) => Ok(()),
            Err(e) => Err(self.abort(e)),
        }
    }

    /// More of it, behind what was delivered.
    pub(super) fn go_on(&mut self, messages: &[Outgoing<'_>]) -> Result<(), TransactionError> {
        self.deliver(messages, Instant::now() + self.within).map_err(|e| self.abort(e))
    }

    /// Where what was delivered last stands in each partition.
    pub(super) fn arrived(&self) -> BTreeMap<i32, Span> {
        self.producer.context().arrived.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Its end.
    pub(super) fn close(&mut self) -> Result<(), TransactionError> {
        self.producer.commit_transaction(self.within).map_err(|e| TransactionError::of(&e))
    }

    /// Its end without a trace.
    pub(super) fn give_up(&mut self) -> Result<(), TransactionError> {
        let why = self.abort(TransactionError::Unavailable("a transaction was not aborted in time".to_owned()));
        if self.is_spent() { Err(why) } else { Ok(()) }
    }

    fn send(&self, place: usize, message: &Outgoing<'_>, until: Instant) -> Result<(), TransactionError> {
        let mut headers = OwnedHeaders::new_with_capacity(message.headers.len());
        for (key, value) in message.headers {
            headers = headers.insert(Header { key, value: Some(value) });
        }
        let mut record = BaseRecord::<[u8], [u8], usize> {
            topic: message.topic,
            partition: message.partition,
            payload: message.value,
            key: message.key,
            timestamp: None,
            headers: Some(headers),
            delivery_opaque: place,
        };
        loop {
            let Err((e, again)) = self.producer.send(record) else { return Ok(()) };
            match e.rdkafka_error_code() {
                Some(RDKafkaErrorCode::QueueFull) if Instant::now() < until => {
                    self.producer.poll(TURN);
                    record = again;
                }
                Some(RDKafkaErrorCode::MessageSizeTooLarge) => return Err(TransactionError::TooLarge(vec![place])),
                _ => {
                    // An earlier message may tell why the transaction takes no more.
                    self.judge()?;
                    return Err(TransactionError::of(&e));
                }
            }
        }
    }

    /// Waits until every message has arrived or failed.
    fn drain(&self, until: Instant) {
        while self.producer.in_flight_count() > 0 && Instant::now() < until {
            self.producer.poll(TURN);
        }
    }

    /// Whether all messages arrived, as far as is known.
    fn judge(&self) -> Result<(), TransactionError> {
        let failed = self.producer.context().take();
        let large = |(place, code): &(usize, RDKafkaErrorCode)| {
            (*code == RDKafkaErrorCode::MessageSizeTooLarge).then_some(*place)
        };
        let mut too_large: Vec<usize> = failed.iter().filter_map(large).collect();
        if !too_large.is_empty() {
            too_large.sort_unstable();
            return Err(TransactionError::TooLarge(too_large));
        }
        match failed.first() {
            Some((_, code)) => Err(TransactionError::by_code(*code, format!("a message did not arrive: {code}"))),
            None if self.producer.in_flight_count() > 0 => {
                Err(TransactionError::Unavailable(format!("messages did not arrive within {:?}", self.within)))
            }
            None => Ok(()),
        }
    }

    /// Commits what was filled in.
    pub(super) fn end(&mut self, noted: &Noted) -> Result<(), TransactionError> {
        let Err(e) = self.producer.commit_transaction(self.within) else {
            self.noted = Some(noted.clone());
            return Ok(());
        };
        let told = TransactionError::of(&e);
        match &e {
            KafkaError::Transaction(t) if t.is_fatal() => {
                self.state = State::Spent;
                Err(told)
            }
            KafkaError::Transaction(t) if t.txn_requires_abort() => Err(self.abort(told)),
            // The same call goes on with it.
            KafkaError::Transaction(t) if t.is_retriable() => {
                self.state = State::Open(noted.clone());
                Err(TransactionError::Unavailable(format!("no answer whether a transaction is committed: {told}")))
            }
            _ => {
                self.state = State::Spent;
                Err(TransactionError::Fenced(told.to_string()))
            }
        }
    }

    /// Gives the transaction up, which was never told to commit. What to say of it.
    fn abort(&mut self, why: TransactionError) -> TransactionError {
        self.producer.purge(PurgeConfig::default().queue());
        self.drain(Instant::now() + ABORTED_WITHIN);
        self.state = State::Ready;
        let Err(e) = self.producer.abort_transaction(ABORTED_WITHIN) else { return why };
        self.state = State::Spent;
        match TransactionError::of(&e) {
            fenced @ TransactionError::Fenced(_) => fenced,
            _ => why,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_become_smaller_until_each_message_has_its_own() {
        let sizes: Vec<usize> = std::iter::successors(Some(Batches::default()), |b| b.smaller()).map(|b| b.0).collect();
        assert_eq!(sizes, [262_144, 65_536, 16_384, 4_096, 1]);
    }
}
