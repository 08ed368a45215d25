//! Against a real Redis, where `FIRN_REDIS_URL` names one. Each test has keys of its own.

mod conformance;
mod own_server;
mod positions;
mod refusals;
mod top;
mod writes;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use redis::aio::MultiplexedConnection;

use super::*;
use crate::change::Op;
use crate::position::Span;
use crate::sink::RowOrigin;
use crate::sink::keeping::Keeping;

/// One row of the tests' SELECT.
#[derive(Clone, Debug)]
struct Row {
    id: Option<String>,
    title: Option<String>,
    n: Option<i64>,
    percent: Option<f64>,
    at_ms: Option<i64>,
    op: Op,
}

fn row(id: &str) -> Row {
    Row {
        id: Some(id.to_owned()),
        title: Some(format!("title of {id}")),
        n: Some(1),
        percent: Some(12.34),
        at_ms: Some(1_700_000_000_000),
        op: Op::Create,
    }
}

fn batch(rows: &[Row]) -> RecordBatch {
    let at = rows.iter().map(|r| r.at_ms.map(|ms| ms * 1000)).collect::<TimestampMicrosecondArray>();
    let columns: [(&str, ArrayRef); 5] = [
        ("id", Arc::new(rows.iter().map(|r| r.id.clone()).collect::<StringArray>())),
        ("title", Arc::new(rows.iter().map(|r| r.title.clone()).collect::<StringArray>())),
        ("n", Arc::new(rows.iter().map(|r| r.n).collect::<Int64Array>())),
        ("percent", Arc::new(rows.iter().map(|r| r.percent).collect::<Float64Array>())),
        ("at", Arc::new(at.with_timezone("+00:00"))),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap()
}

fn at() -> TopicPartition {
    TopicPartition::new("t", 0)
}

/// The rows at offsets from `from` on.
fn delivery(from: i64, rows: &[Row]) -> Delivery {
    let origins = rows.iter().zip(from..).map(|(r, offset)| RowOrigin::new(offset, r.op)).collect();
    let span = Span::new(at(), from, from + rows.len() as i64);
    Delivery { span, rows: batch(rows), origins: Some(origins), keeping: Keeping::default() }
}

fn write(key: String, kind: WriteKind) -> Write {
    Write { key: key.parse().unwrap(), kind }
}

/// A Redis, and a place in it that no other test has.
struct Place {
    url: String,
    prefix: String,
    connection: MultiplexedConnection,
}

impl Place {
    /// `None`, with a word about it, where no server is named.
    async fn named() -> Option<Self> {
        match std::env::var("FIRN_REDIS_URL") {
            Ok(url) => Some(Self::at(&url).await),
            Err(_) => {
                eprintln!("skipped: FIRN_REDIS_URL names no Redis");
                None
            }
        }
    }

    async fn at(url: &str) -> Self {
        let client = redis::Client::open(url).unwrap();
        let connection = client.get_multiplexed_async_connection().await.unwrap();
        Self { url: url.to_owned(), prefix: format!("test-{}", uuid::Uuid::new_v4().simple()), connection }
    }

    fn key(&self, name: &str) -> String {
        format!("{}:{name}", self.prefix)
    }

    fn settings(&self, writes: Vec<Write>) -> RedisSettings {
        RedisSettings { url: self.url.clone(), on_null_key: OnNullKey::Skip, writes }
    }

    /// A sink that was prepared for the tests' columns.
    async fn sink(&self, writes: Vec<Write>) -> RedisSink {
        let mut sink = RedisSink::new(self.settings(writes), &self.prefix);
        sink.prepare(&batch(&[]).schema()).await.unwrap();
        sink
    }

    /// As above, with the partition taken over.
    async fn owner(&self, writes: Vec<Write>) -> RedisSink {
        let mut sink = self.sink(writes).await;
        sink.take_over(&[at()]).await.unwrap();
        sink
    }

    async fn ask<T: FromRedisValue>(&mut self, command: &[&str]) -> T {
        let mut cmd = redis::cmd(command[0]);
        for arg in &command[1..] {
            cmd.arg(*arg);
        }
        cmd.query_async(&mut self.connection).await.unwrap()
    }

    async fn hash(&mut self, name: &str) -> BTreeMap<String, String> {
        let key = self.key(name);
        self.ask(&["HGETALL", &key]).await
    }

    async fn entries(&mut self, name: &str) -> Vec<BTreeMap<String, String>> {
        let key = self.key(name);
        let entries: Vec<(String, BTreeMap<String, String>)> = self.ask(&["XRANGE", &key, "-", "+"]).await;
        entries.into_iter().map(|(_, fields)| fields).collect()
    }

    async fn now_ms(&mut self) -> i64 {
        let (s, us): (i64, i64) = self.ask(&["TIME"]).await;
        s * 1000 + us / 1000
    }

    /// One stream of all rows.
    fn stream(&self) -> Write {
        write(self.key("stream"), WriteKind::Stream { fields: Some(vec!["id".into()]), trim: None })
    }

    async fn ids(&mut self) -> Vec<String> {
        self.entries("stream").await.into_iter().map(|mut e| e.remove("id").unwrap()).collect()
    }
}

fn rows(numbers: std::ops::Range<usize>) -> Vec<Row> {
    numbers.map(|i| row(&i.to_string())).collect()
}

fn names(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|i| i.to_string()).collect()
}

fn fields<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}
