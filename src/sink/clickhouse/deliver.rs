//! Deliveries of several Kafka partitions, each statement's waits shared: all intents, then all inserts but for their ends, one look at the
//! intents, all ends.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use arrow_array::RecordBatch;
use bytes::Bytes;
use futures::future::join_all;

use super::fault::Fault;
use super::server::{OpenInsert, Server};
use super::split::Part;
use super::{ClickHouseSink, Held, now_ms, refused, rows, snapshot, sql};
use crate::position::TopicPartition;
use crate::sink::intent::{Begin, Intent};
use crate::sink::{Delivery, SinkError};

/// Inserts that are open at a time.
const OPEN_INSERTS: usize = 8;

/// A delivery on its way.
struct Going<'a> {
    delivery: &'a Delivery,
    /// None where there is nothing left to do.
    range: Option<Range>,
    result: Result<(), SinkError>,
}

/// A range, and its rows as they are sent.
struct Range {
    intent: Intent,
    /// Whether the intent is to be stored first.
    is_new: bool,
    rows: Option<RecordBatch>,
    /// By the partition of the ClickHouse table.
    parts: Vec<Part>,
    left_out: usize,
    /// What an insert failed with.
    fault: Option<Fault>,
}

impl Going<'_> {
    fn at(&self) -> &TopicPartition {
        &self.delivery.span.at
    }

    fn fails(&mut self, e: impl Into<SinkError>) {
        self.range = None;
        self.result = Err(e.into());
    }
}

impl ClickHouseSink {
    /// Delivers the first of these, and those after it: what became of each. All are of different Kafka partitions.
    pub(super) async fn deliver_together(&mut self, deliveries: &[Delivery]) -> Vec<Result<(), SinkError>> {
        let server = match self.server().await {
            Ok(server) => server,
            Err(e) => return vec![Err(e)],
        };
        let at_once = if server.has_quorum { 1 } else { OPEN_INSERTS };
        let mut going = Vec::with_capacity(at_once.min(deliveries.len()));
        for delivery in deliveries.iter().take(at_once) {
            // What the table lacks is known once the deliveries before are in it.
            if !going.is_empty() && snapshot::is_asked_for(&self.settings, delivery) {
                break;
            }
            let (range, result) = match self.begin(&server, delivery).await {
                Ok(range) => (range, Ok(())),
                Err(e) => (None, Err(e)),
            };
            // A node that hangs is waited for once.
            let is_away = matches!(result, Err(SinkError::Unavailable(_)));
            going.push(Going { delivery, range, result });
            if is_away {
                break;
            }
        }
        self.offer_new(&server, &mut going).await;
        self.send(&server, &mut going).await;
        for going in &mut going {
            self.finish(&server, going).await;
        }
        going.into_iter().map(|going| going.result).collect()
    }

    /// The range of a delivery with its rows, unless it is done already.
    async fn begin(&mut self, server: &Server, delivery: &Delivery) -> Result<Option<Range>, SinkError> {
        let at = &delivery.span.at;
        let Some(table) = self.table.clone() else {
            return Err(SinkError::Stopped("the sink was not prepared".to_owned()));
        };
        if delivery.span.is_empty() {
            return Ok(None);
        }
        if self.held.get(at).is_some_and(|held| !held.stored) {
            self.store(server, at).await?;
        }
        let begin_ms = self.begin_ms();
        let Some(held) = self.held.get(at) else {
            return Err(SinkError::Moved(format!("{at}: not taken over, or lost to another process")));
        };
        let empty = delivery.rows.num_rows() == 0;
        let (intent, is_new) = match held.intent().begin(&delivery.span, empty, begin_ms)? {
            Begin::Done => return Ok(None),
            Begin::Again if empty => (held.last.finish(), true),
            Begin::Again => (held.last.clone(), false),
            Begin::New(intent) => (intent, true),
        };
        if empty {
            return Ok(Some(Range { intent, is_new, rows: None, parts: Vec::new(), left_out: 0, fault: None }));
        }
        let rows = rows::encode(delivery, &intent, &table)?;
        let left_out = snapshot::left_out(server, &self.settings, &table, delivery, &rows).await?;
        let parts = match table.partition_key.split(server, &rows, &left_out).await {
            Ok(parts) => parts,
            Err(fault) => return Err(refused::find(server, &rows, &table.columns, fault).await),
        };
        Ok(Some(Range { intent, is_new, rows: Some(rows), parts, left_out: left_out.len(), fault: None }))
    }

    /// Offers the intents of the ranges that are not stored yet, each by a statement of its own: of two for one partition its token keeps
    /// the first.
    async fn offer_new(&mut self, server: &Server, going: &mut [Going<'_>]) {
        for going in &*going {
            if let Some(range) = going.range.as_ref().filter(|range| range.is_new) {
                self.held.insert(going.at().clone(), Held::offered(range.intent.clone()));
            }
        }
        let mut offers = Vec::with_capacity(going.len());
        for (number, going) in going.iter().enumerate() {
            if let Some(range) = going.range.as_ref().filter(|range| range.is_new) {
                let offer = self.intents.offer(server, going.at(), &range.intent);
                offers.push(async move { (number, offer.await) });
            }
        }
        for (number, offered) in join_all(offers).await {
            if let (Err(fault), Some(going)) = (offered, going.get_mut(number)) {
                going.fails(fault);
            }
        }
    }

    /// Sends the rows of all ranges: some inserts at a time are opened, and ended once every intent is seen to be this process's.
    async fn send(&mut self, server: &Server, going: &mut [Going<'_>]) {
        let ranges = going.iter().enumerate().filter_map(|(number, going)| Some((number, going.range.as_ref()?)));
        let (with, without): (Vec<_>, Vec<_>) = ranges.partition(|(_, range)| !range.parts.is_empty());
        let without: Vec<usize> = without.into_iter().map(|(number, _)| number).collect();
        let parts = with.into_iter().flat_map(|(number, range)| (0..range.parts.len()).map(move |part| (number, part)));
        let parts: Vec<(usize, usize)> = parts.collect();
        // A position alone is looked at with the first inserts.
        let mut looked_at = without;
        let mut rest = parts.as_slice();
        while !(rest.is_empty() && looked_at.is_empty()) {
            let (some, after) = rest.split_at(rest.len().min(OPEN_INSERTS));
            rest = after;
            let mut opening = Vec::with_capacity(some.len());
            for (number, part) in some {
                let Some(going) = going.get(*number) else { continue };
                let Some(range) = going.range.as_ref().filter(|range| range.fault.is_none()) else { continue };
                let Some(part) = range.parts.get(*part) else { continue };
                let open = self.open(server, going.at(), &range.intent, part);
                opening.push(async move { (*number, open.await) });
            }
            let opened = join_all(opening).await;
            looked_at.extend(some.iter().map(|(number, _)| *number));
            looked_at.dedup();
            self.look(server, going, std::mem::take(&mut looked_at)).await;
            // Of one range one after the other: where a row is refused, little else is done.
            let mut of_range: BTreeMap<usize, Vec<Result<OpenInsert, Fault>>> = BTreeMap::new();
            for (number, open) in opened {
                if going.get(number).is_some_and(|going| going.range.is_some()) {
                    of_range.entry(number).or_default().push(open);
                }
            }
            let mut ending = Vec::with_capacity(of_range.len());
            for (number, open) in of_range {
                ending.push(async move { (number, end_all(server, open).await.err()) });
            }
            for (number, fault) in join_all(ending).await {
                if let Some(range) = going.get_mut(number).and_then(|going| going.range.as_mut())
                    && range.fault.is_none()
                {
                    range.fault = fault;
                }
            }
        }
    }

    pub(super) async fn open(
        &self,
        server: &Server,
        at: &TopicPartition,
        intent: &Intent,
        part: &Part,
    ) -> Result<OpenInsert, Fault> {
        let columns: Vec<String> = part.rows.schema_ref().fields().iter().map(|f| sql::name(f.name())).collect();
        let insert = format!("INSERT INTO {} ({}) FORMAT ArrowStream", self.settings.table_name(), columns.join(", "));
        let stream = rows::arrow_stream(&part.rows)
            .map_err(|e| Fault::away(&server.node, &format!("rows can't be written as Arrow: {e}")))?;
        server.open_insert(&insert, &self.token(at, intent, &part.value), Bytes::from(stream)).await
    }

    /// Looks whether these ranges are still this process's: those that are not go no further.
    async fn look(&mut self, server: &Server, going: &mut [Going<'_>], numbers: Vec<usize>) {
        let on: Vec<usize> = numbers
            .into_iter()
            .filter(|number| going.get(*number).is_some_and(|going| going.range.is_some()))
            .collect();
        let at: Vec<TopicPartition> = on.iter().filter_map(|n| Some(going.get(*n)?.at().clone())).collect();
        let mut held = self.still_held(server, &at).await;
        for number in on {
            let Some(going) = going.get_mut(number) else { continue };
            match &mut held {
                Ok(lost) => {
                    if let Some(e) = lost.remove(going.at()) {
                        going.fails(e);
                    }
                }
                Err(fault) => going.fails(fault.clone()),
            }
        }
    }

    /// Which of these partitions are not this process's any more: their stored intent is not the one that it offered last.
    pub(super) async fn still_held(
        &mut self,
        server: &Server,
        partitions: &[TopicPartition],
    ) -> Result<BTreeMap<TopicPartition, SinkError>, Fault> {
        let mut stored = self.intents.read(server, partitions).await?;
        let mut lost = BTreeMap::new();
        for at in partitions {
            let stored = stored.remove(at);
            if let Some(held) = self.held.get_mut(at)
                && Some(&held.last) == stored.as_ref()
            {
                held.stored = true;
                continue;
            }
            self.held.remove(at);
            let why = match stored {
                Some(other) => {
                    format!("{at}: another process has taken it over, and stands at {}..{}", other.from, other.next)
                }
                None => format!("{at}: its intent is gone from ClickHouse"),
            };
            lost.insert(at.clone(), SinkError::Moved(why));
        }
        Ok(lost)
    }

    /// What is left once a range was sent.
    async fn finish(&mut self, server: &Server, going: &mut Going<'_>) {
        let Some(range) = going.range.take() else { return };
        if let Some(fault) = range.fault {
            let error = match (&range.rows, &self.table) {
                (Some(rows), Some(table)) => refused::find(server, rows, &table.columns, fault).await,
                _ => fault.into(),
            };
            return going.fails(error);
        }
        if let Some(held) = self.held.get_mut(going.at()) {
            (held.finished, held.finished_ms) = (true, now_ms());
        }
        self.skipped.fetch_add(range.left_out as u64, Ordering::Relaxed);
    }

    /// Of two inserts with one token ClickHouse takes the first.
    fn token(&self, at: &TopicPartition, intent: &Intent, part: &str) -> String {
        let topic_id = intent.topic_id.as_deref().unwrap_or_default();
        format!("{}/{}/{at}/{topic_id}/{}-{}/{part}", self.id, intent.generation, intent.from, intent.next)
    }
}

/// Ends these inserts, up to the first that fails. The others insert nothing.
async fn end_all(server: &Server, opened: Vec<Result<OpenInsert, Fault>>) -> Result<(), Fault> {
    for open in opened {
        server.end_insert(open?).await?;
    }
    Ok(())
}
