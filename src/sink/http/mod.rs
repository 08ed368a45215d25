//! Rows as POST requests to a receiver that keeps nothing for firn: exactly once for one that tells requests apart by their `Idempotency-Key`.
//!
//! A delivery is cut into pieces ([`piece`]). The range of each is stored in the ledger before anything of it is sent, and sent again with the
//! same bounds, so with the same keys and rows, until the receiver has acknowledged all of it; only then the next piece is begun. Who
//! was taken over from can't begin one. A receiver that refuses a request of several rows gets them one by one, under keys of their own, which
//! is stored first too: so exactly the rows that it does not take are refused.
//!
//! Knows nothing of Kafka's client, of Debezium, or of other sinks.
//!
//! # Layout
//! - [`settings`]: what the sink is told. [`piece`]: what is sent together. [`request`]: keys, bodies, signatures. [`client`]: sending, and what answers mean.
//! - [`probe`]: whether there is a receiver.

mod client;
mod piece;
mod probe;
mod request;
mod settings;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

use arrow_array::ArrayRef;
use arrow_schema::SchemaRef;
use async_trait::async_trait;
use futures::future::join_all;

use self::client::{Answer, Client};
use self::piece::{Limits, Piece, again, cut};
pub use self::probe::probe;
use self::request::{Request, prefix, requests};
pub use self::settings::{Body, HttpSettings};
use super::keeping::{Keeping, Kept};
use super::ledger::{Entry, Ledger};
use super::note::{self, Begun, Note};
use super::{Delivery, RefusedRow, Sink, SinkError, Standing};
use crate::position::{Span, TopicPartition};

/// How long one call sends: the consumer has to be asked for something from time to time, and a shutdown waits for the call.
const SLICE: Duration = Duration::from_secs(5);
/// Rows of a piece whose rows go one by one. More are fewer transactions of the ledger, and more to send again after a crash.
const ROWS_ONE_BY_ONE: usize = 200;

/// One receiver.
pub struct HttpSink {
    settings: HttpSettings,
    /// In keys: `<group>.<pipeline>.<sink>`.
    id: String,
    ledger: Box<dyn Ledger>,
    client: Option<Client>,
    /// Where the key columns stand in the SELECT.
    keys: Vec<usize>,
    /// Bytes of one request: less than the setting once the receiver has found one too large.
    most_bytes: usize,
    /// The receiver asked to be left alone until then.
    not_before: Option<Instant>,
    held: BTreeMap<TopicPartition, Held>,
}

impl fmt::Debug for HttpSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpSink").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A partition that was taken over.
#[derive(Debug)]
struct Held {
    /// `None` where nothing was ever delivered.
    next: Option<i64>,
    note: Note,
    /// Whether the ledger has both.
    is_stored: bool,
    /// What changes before it made the pipeline keep is stored.
    kept_to: Option<i64>,
    /// The span of the delivery that is being done.
    span: Option<(i64, i64)>,
    /// Requests of the begun piece that are answered for good.
    answered: BTreeSet<String>,
    /// Rows of the begun piece that the receiver does not take.
    refused: Vec<RefusedRow>,
    /// The refusals were told: what is left of the piece is done.
    is_settled: bool,
}

impl Held {
    fn new(entry: Option<Entry>, note: Note) -> Self {
        let next = entry.map(|entry| entry.next);
        Self {
            next,
            kept_to: next,
            note,
            is_stored: true,
            span: None,
            answered: BTreeSet::new(),
            refused: Vec::new(),
            is_settled: false,
        }
    }

    /// Where the delivery of `span` goes on.
    fn place(&mut self, span: &Span) -> Result<i64, SinkError> {
        let next = self.next.unwrap_or(span.from);
        if self.span == Some((span.from, span.next)) {
            return Ok(next);
        }
        let until = self.note.begun.as_ref().map(|begun| begun.until);
        if next != span.from || until.is_some_and(|until| until != span.next) {
            let begun = until.map_or_else(String::new, |until| format!(", and has to finish {next}..{until} first"));
            return Err(SinkError::Moved(format!(
                "{}: the sink stands at offset {next}{begun}; the delivery is {}..{}",
                span.at, span.from, span.next
            )));
        }
        self.span = Some((span.from, span.next));
        Ok(next)
    }

    /// The sink has everything below `next`.
    fn finish(&mut self, next: i64) {
        self.next = Some(next);
        self.note.begun = None;
        self.is_stored = false;
        self.answered.clear();
        self.refused.clear();
        self.is_settled = false;
    }
}

/// What became of one lane's requests.
#[derive(Debug, Default)]
struct Ran {
    answered: Vec<String>,
    refused: Vec<RefusedRow>,
    /// A request of several rows was refused: its bytes where they were too many.
    unfit: Option<Option<usize>>,
    error: Option<SinkError>,
    wait: Option<Duration>,
}

impl HttpSink {
    /// `id` tells the sink from all others whose requests the receiver gets; `ledger` keeps its positions.
    pub fn new(settings: HttpSettings, id: &str, ledger: Box<dyn Ledger>) -> Self {
        Self {
            most_bytes: settings.max_bytes,
            settings,
            id: id.to_owned(),
            ledger,
            client: None,
            keys: Vec::new(),
            not_before: None,
            held: BTreeMap::new(),
        }
    }

    fn limits(&self) -> Limits {
        let rows = if self.is_one_by_one() { ROWS_ONE_BY_ONE } else { self.settings.max_rows };
        Limits { rows, bytes: self.most_bytes, lanes: self.settings.parallel }
    }

    fn is_one_by_one(&self) -> bool {
        self.settings.body == Body::Object || self.settings.max_rows == 1
    }

    /// A hash of what decides which request a row stands in, and how.
    fn form(&self) -> String {
        let said = format!("{:?}{:?}", self.settings.body, self.settings.key);
        format!("{:016x}", xxhash_rust::xxh3::xxh3_64(said.as_bytes()))
    }

    /// Stores where the partition stands, unless another process has it.
    async fn store(&mut self, at: &TopicPartition, keeping: &Keeping) -> Result<(), SinkError> {
        let Some(held) = self.held.get_mut(at) else { return Err(lost(at)) };
        let next = held.next.unwrap_or_default();
        let mut note = held.note.clone();
        let messages = note.keep(keeping, held.kept_to.unwrap_or(i64::MIN), next);
        let stored = self.ledger.commit(at, &note.entry(next), &messages).await;
        match &stored {
            Ok(()) => {
                (held.note, held.kept_to, held.is_stored) = (note, Some(next), true);
            }
            Err(SinkError::Moved(_)) => drop(self.held.remove(at)),
            Err(_) => {}
        }
        stored
    }

    async fn deliver_from(&mut self, delivery: &Delivery, from: i64, keys: &[ArrayRef]) -> Result<(), SinkError> {
        let (span, at) = (&delivery.span, &delivery.span.at);
        let deadline = Instant::now() + SLICE;
        let mut from = from;
        while from < span.next {
            let limits = self.limits();
            let one_by_one = self.is_one_by_one();
            let form = self.form();
            let Some(held) = self.held.get_mut(at) else { return Err(lost(at)) };
            if let Some(begun) = held.note.begun.as_ref().filter(|begun| begun.form != form) {
                return Err(SinkError::Stopped(format!(
                    "{at}: the range {from}..{} was begun with another body or key, and the receiver may have some of its requests: put \
                     `body` and `key` back until it is through, or set the sink back (firn rewind --sink)",
                    begun.until
                )));
            }
            let piece = match &held.note.begun {
                Some(begun) => again(delivery, from, begun.until, keys, begun.lanes),
                None => cut(delivery, from, keys, &limits),
            };
            if piece.is_empty() || held.is_settled {
                held.finish(piece.next);
                from = piece.next;
                continue;
            }
            if held.note.begun.is_none() {
                let alone = if one_by_one { (0..limits.lanes).collect() } else { BTreeSet::new() };
                held.next = Some(from);
                held.note.begun = Some(Begun { until: piece.next, lanes: limits.lanes, form, alone });
                held.is_stored = false;
            }
            if !held.is_stored {
                self.store(at, &delivery.keeping).await?;
            }
            if self.send(delivery, &piece, deadline).await? {
                from = piece.next;
            }
        }
        match self.held.get(at) {
            Some(held) if held.is_stored => Ok(()),
            _ => self.store(at, &delivery.keeping).await,
        }
    }

    /// Sends what is left of a piece; whether it is finished.
    async fn send(&mut self, delivery: &Delivery, piece: &Piece, deadline: Instant) -> Result<bool, SinkError> {
        let at = &delivery.span.at;
        if self.client.is_none() {
            self.client = Some(Client::new(&self.settings)?);
        }
        let (Some(client), Some(held)) = (&self.client, self.held.get_mut(at)) else { return Err(lost(at)) };
        let Some(begun) = held.note.begun.clone() else { return Err(lost(at)) };
        let prefix = prefix(&self.id, &held.note, at);
        let lanes = (0..piece.lanes.len()).map(|lane| {
            let alone = begun.alone.contains(&(lane as u32));
            let requests = requests(&prefix, piece, lane, alone, self.settings.body);
            run(client, requests, &held.answered, deadline)
        });
        let ran = join_all(lanes.collect::<Vec<_>>()).await;
        let is_traced = delivery.origins.is_some();
        let mut error = None;
        let mut unfit = BTreeSet::new();
        for (lane, ran) in ran.into_iter().enumerate() {
            held.answered.extend(ran.answered);
            held.refused.extend(ran.refused);
            if let Some(wait) = ran.wait {
                self.not_before = Some(Instant::now() + wait);
            }
            if let Some(bytes) = ran.unfit {
                unfit.insert(lane as u32);
                if let Some(bytes) = bytes {
                    self.most_bytes = self.most_bytes.min(bytes / 2);
                    tracing::warn!(
                        sink = self.id,
                        "the receiver finds {bytes} bytes too large: requests get half of it from now on; set `max_bytes`"
                    );
                }
            }
            error = error.or(ran.error);
        }
        if let Some(e) = error {
            return Err(e);
        }
        if !unfit.is_empty() {
            if let Some(begun) = &mut held.note.begun {
                begun.alone.extend(unfit);
            }
            held.is_stored = false;
            return Ok(false);
        }
        if held.refused.is_empty() {
            held.finish(piece.next);
            return Ok(true);
        }
        let mut refused = std::mem::take(&mut held.refused);
        refused.sort_by_key(|refused| refused.row);
        // Without origins nobody can leave them out: they are tried again.
        held.is_settled = is_traced;
        if !is_traced {
            held.answered.clear();
        }
        Err(SinkError::Refused(refused))
    }
}

/// Sends the requests of one lane that are not answered yet, until one can't be done now.
async fn run(client: &Client, requests: Vec<Request>, answered: &BTreeSet<String>, deadline: Instant) -> Ran {
    let mut ran = Ran::default();
    for request in requests {
        if answered.contains(&request.key) {
            continue;
        }
        if Instant::now() >= deadline {
            ran.error = Some(SinkError::Unfinished);
            return ran;
        }
        match client.post(&request).await {
            Answer::Taken => ran.answered.push(request.key),
            Answer::Refused(status) => match request.rows[..] {
                [row] => {
                    ran.refused.push(RefusedRow { row, detail: format!("{} answers {status}", client.place()) });
                    ran.answered.push(request.key);
                }
                _ => {
                    let is_too_large = status == reqwest::StatusCode::PAYLOAD_TOO_LARGE;
                    ran.unfit = Some(is_too_large.then_some(request.body.len()));
                    return ran;
                }
            },
            Answer::Later(why, wait) => {
                ran.wait = wait;
                ran.error = Some(SinkError::Unavailable(why));
                return ran;
            }
            Answer::Stopped(why) => {
                ran.error = Some(SinkError::Stopped(why));
                return ran;
            }
        }
    }
    ran
}

fn lost(at: &TopicPartition) -> SinkError {
    SinkError::Moved(format!("{at}: not taken over, or lost to another process"))
}

#[async_trait]
impl Sink for HttpSink {
    async fn prepare(&mut self, columns: &SchemaRef) -> Result<(), SinkError> {
        let place = |name: &String| {
            columns.index_of(name).map_err(|_| {
                let there: Vec<&str> = columns.fields().iter().map(|f| f.name().as_str()).collect();
                SinkError::Stopped(format!("key: the SELECT gives no column `{name}`; it gives {}", there.join(", ")))
            })
        };
        self.keys = self.settings.key.iter().map(place).collect::<Result<_, _>>()?;
        self.client = Some(Client::new(&self.settings)?);
        Ok(())
    }

    async fn take_over(&mut self, partitions: &[TopicPartition]) -> Result<Vec<Option<Standing>>, SinkError> {
        let mut standings = Vec::with_capacity(partitions.len());
        for at in partitions {
            self.held.remove(at);
            let entry = self.ledger.take_over(at).await?;
            let note = Note::of(at, entry.as_ref())?;
            standings.push(entry.as_ref().map(|entry| note.standing(entry.next)));
            self.held.insert(at.clone(), Held::new(entry, note));
        }
        Ok(standings)
    }

    async fn deliver(&mut self, delivery: &Delivery) -> Result<(), SinkError> {
        let span = &delivery.span;
        if span.is_empty() {
            return Ok(());
        }
        if let Some(wait) = self.not_before.and_then(|at| at.checked_duration_since(Instant::now())) {
            return Err(SinkError::Unavailable(format!("the receiver asked for {} s more", wait.as_secs() + 1)));
        }
        let Some(held) = self.held.get_mut(&span.at) else { return Err(lost(&span.at)) };
        held.note.same_topic(span)?;
        // The keys of a range that was begun have the one that was known then.
        if span.topic_id.is_some() && held.note.begun.is_none() {
            held.note.topic_id.clone_from(&span.topic_id);
        }
        let from = held.place(span)?;
        let columns = delivery.rows.columns();
        let keys: Vec<ArrayRef> = self.keys.iter().filter_map(|at| columns.get(*at).cloned()).collect();
        self.deliver_from(delivery, from, &keys).await
    }

    fn kept(&self, at: &TopicPartition) -> Option<Kept> {
        self.held.get(at).map(|held| held.note.kept())
    }

    async fn rewind(&mut self, to: &[(TopicPartition, i64)]) -> Result<(), SinkError> {
        to.iter().for_each(|(at, _)| drop(self.held.remove(at)));
        note::rewind(self.ledger.as_mut(), to).await
    }
}
