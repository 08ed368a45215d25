//! Against a receiver in the same process, and a ledger in memory.

mod answers;
mod receiver;
mod rows;

use std::sync::Arc;

use arrow_array::{Int64Array, RecordBatch, StringArray};
use async_trait::async_trait;

use self::receiver::{Receiver, Reply};
use super::*;
use crate::change::Op;
use crate::sink::RowOrigin;
use crate::sink::conformance::{self, ledger::Books};
use crate::sink::keeping::{Keeping, Step};

fn settings(address: &str) -> HttpSettings {
    HttpSettings {
        url: format!("http://{address}/in?token=secret"),
        body: Body::Array,
        max_rows: 4,
        max_bytes: 1 << 20,
        parallel: 1,
        key: Vec::new(),
        headers: BTreeMap::new(),
        secret: None,
        timeout: Duration::from_millis(500),
        accept: BTreeSet::new(),
    }
}

/// A receiver, a ledger, and processes on them.
struct Ground {
    receiver: Receiver,
    books: Books,
    settings: HttpSettings,
}

impl Ground {
    async fn new() -> Self {
        let receiver = Receiver::start().await;
        let settings = settings(&receiver.address);
        Self { receiver, books: Books::default(), settings }
    }

    /// A process that starts, with where it stands.
    async fn start(&self) -> (HttpSink, Option<Standing>) {
        let mut sink = HttpSink::new(self.settings.clone(), "firn.p.http", self.books.open());
        sink.prepare(&delivery(0, 0).rows.schema()).await.unwrap();
        let standing = sink.take_over(&[at()]).await.unwrap().remove(0);
        (sink, standing)
    }

    /// With `G` for the generation that is stored.
    fn keys(&self) -> Vec<String> {
        let generation = format!("http-{}-", self.generation());
        self.receiver.seen().into_iter().map(|seen| seen.key.replace(&generation, "http-G-")).collect()
    }

    fn generation(&self) -> u64 {
        Note::of(&at(), self.books.entry(&at()).as_ref()).unwrap().generation
    }
}

fn at() -> TopicPartition {
    TopicPartition::new("t", 0)
}

/// A row for each offset; of three keys.
fn delivery(from: i64, next: i64) -> Delivery {
    let ids = Int64Array::from_iter_values(from..next);
    let keys = StringArray::from_iter_values((from..next).map(|id| format!("k{}", id % 3)));
    Delivery {
        span: Span { topic_id: Some("id".to_owned()), ..Span::new(at(), from, next) },
        rows: RecordBatch::try_from_iter([("id", Arc::new(ids) as ArrayRef), ("k", Arc::new(keys))]).unwrap(),
        keeping: Keeping::default(),
        origins: Some((from..next).map(|offset| RowOrigin::new(offset, Op::Create)).collect()),
    }
}

/// Without the rows of these ids, as the runner takes refused ones out.
fn without(mut delivery: Delivery, ids: &[i64]) -> Delivery {
    let origins = delivery.origins.take().unwrap();
    let keep: arrow_array::BooleanArray = origins.iter().map(|o| Some(!ids.contains(&o.offset))).collect();
    delivery.rows = arrow_select::filter::filter_record_batch(&delivery.rows, &keep).unwrap();
    delivery.origins = Some(origins.into_iter().filter(|o| !ids.contains(&o.offset)).collect());
    delivery
}

/// The suite's place: its rows are what the receiver took under different keys.
struct Hook {
    receiver: Receiver,
    books: Books,
    parallel: u32,
}

#[async_trait]
impl conformance::Place for Hook {
    fn server(&self) -> String {
        self.receiver.address.clone()
    }

    async fn open(&self, server: &str) -> Box<dyn Sink> {
        let key = if self.parallel > 1 { vec!["digits".to_owned()] } else { Vec::new() };
        // One piece: the suite's deliveries are done whole or not at all.
        let settings = HttpSettings { max_rows: 100, parallel: self.parallel, key, ..settings(server) };
        Box::new(HttpSink::new(settings, "firn.p.http", self.books.open()))
    }

    async fn held(&self) -> Vec<i64> {
        self.receiver.held()
    }

    /// A receiver is asked about rows one by one, and has the good ones then.
    fn refuses_poison(&self) -> bool {
        false
    }

    async fn remove(&self) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn http_conforms() {
    for parallel in [1, 3] {
        let mut receivers = Vec::new();
        for _ in 0..64 {
            receivers.push(Receiver::start().await);
        }
        let receivers = std::cell::RefCell::new(receivers);
        let fresh =
            |_: &str| Hook { receiver: receivers.borrow_mut().pop().unwrap(), books: Books::default(), parallel };
        conformance::all(fresh).await;
    }
}
