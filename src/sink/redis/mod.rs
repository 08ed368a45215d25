//! Keys in one Redis, moved together with the position by one script.
//!
//! Redis runs a script whole or not at all, and puts its effects into its log as one transaction. So a script that compares the stored
//! position, writes, and moves the position makes each delivery happen once. It is not undone when it fails in the middle;
//! therefore it looks at every key first.
//!
//! Knows Redis; knows nothing of Kafka's client, of Debezium, or of other sinks.
//!
//! # Layout
//! - [`RedisSettings`], [`Template`]: what a person chose. `bind`: the same in the columns of the SELECT.
//! - `plan`: what rows do to each key; `number`: their values; `encode`: the script's arguments; `parts`: how much goes into one script.
//! - `deliver.lua` writes, `take_over.lua` and `rewind.lua` move positions, `tick.lua` keeps the top lists of `top.lua` by the clock.
//! - `client` runs them; `error`: what becomes of Redis' errors; `server`, `trial.lua`: whether a server will do.
//!
//! # Keys of firn's own
//! `firn:<id>:positions` is a hash, `topic/partition` to `next epoch generation topic-id` (`-` for none).
//! `firn:<id>:server` is the Redis process that was met last. `firn:<id>:due`, `firn:<id>:lists` and what begins with `firn:<id>:top:` belong to the top
//! lists, all of them with a time to live.

mod bind;
mod client;
mod encode;
mod error;
mod number;
mod parts;
mod plan;
mod server;
mod settings;
mod template;

pub use settings::{Increment, OnNullKey, RedisSettings, TopList, Trim, Write, WriteKind};
pub use template::{Template, TemplateError};

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow_array::ArrayRef;
use arrow_schema::SchemaRef;
use async_trait::async_trait;
use redis::{FromRedisValue, Value};

use self::bind::Bound;
use self::client::{Call, Client};
use self::encode::{Args, encode};
use self::parts::parts;
use self::plan::Plan;
use crate::position::TopicPartition;
use crate::sink::{Delivery, RefusedRow, Sink, SinkError, Standing};

/// Members of a top list that one script run takes out of a bucket: some 10 ms of Redis.
const PRUNED_AT_ONCE: usize = 2_000;
/// Redis takes 1,048,576 arguments at once.
const MOST_ARGUMENTS: usize = 1_000_000;

/// A sink that writes into one Redis.
pub struct RedisSink {
    settings: RedisSettings,
    server: Client,
    keys: OwnKeys,
    bound: Option<Arc<Bound>>,
    /// Of the partitions that were taken over.
    epochs: HashMap<TopicPartition, String>,
    /// Of which something was delivered since they were taken over: Redis has a position of them, unless it lost it.
    begun: HashSet<TopicPartition>,
    /// Whether the append-only file is whole, as far as is known: a server that did not answer may have been started anew.
    mended: bool,
    skipped: Arc<AtomicU64>,
}

/// The names of what firn keeps for one sink.
struct OwnKeys {
    positions: String,
    server: String,
    due: String,
    lists: String,
    /// What the keys of one list begin with.
    list: String,
}

impl fmt::Debug for RedisSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisSink").field("positions", &self.keys.positions).finish_non_exhaustive()
    }
}

/// What the script answered.
enum Answer {
    Done,
    Again,
    Moved(String),
    Anew(String),
    /// Numbers of keys, and why.
    Refused(Vec<(usize, String)>),
}

impl RedisSink {
    /// `id` is `<group>.<pipeline>.<sink>`: another one has positions of its own.
    pub fn new(settings: RedisSettings, id: &str) -> Self {
        let keys = OwnKeys {
            positions: format!("firn:{id}:positions"),
            server: format!("firn:{id}:server"),
            due: format!("firn:{id}:due"),
            lists: format!("firn:{id}:lists"),
            list: format!("firn:{id}:top:"),
        };
        let server = Client::new(settings.url.clone());
        Self {
            settings,
            server,
            keys,
            bound: None,
            epochs: HashMap::new(),
            begun: HashSet::new(),
            mended: false,
            skipped: Arc::default(),
        }
    }

    /// How many writes were left out so far, because a column of their key was NULL.
    pub fn skipped(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.skipped)
    }

    fn note_skipped(&self, skipped: u64) {
        if skipped > 0 && self.skipped.fetch_add(skipped, Ordering::Relaxed) == 0 {
            tracing::warn!(
                positions = %self.keys.positions,
                "writes are left out because a column of their key is NULL; they are counted from here on"
            );
        }
    }
}

/// Sends one part, again while old members of top lists are taken out first.
async fn send(server: &mut Client, call: &Call) -> Result<Answer, SinkError> {
    loop {
        match answer(server.run(call).await?)? {
            Answer::Again => {}
            answer => return Ok(answer),
        }
    }
}

/// The run of the script for one plan.
fn call(keys: &OwnKeys, bound: &Bound, columns: &[ArrayRef], plan: &Plan, header: [&str; 6]) -> Call {
    let own = [&keys.positions, &keys.due, &keys.lists].map(|key| key.as_bytes());
    let all: Vec<&[u8]> = own.into_iter().chain(plan.keys.iter().map(|k| k.key.as_slice())).collect();
    let mut call = Call::new(&client::DELIVER, all.into_iter());
    for arg in header {
        call.arg(arg);
    }
    call.arg(&keys.list).arg(bound.longest_ms.to_string()).arg(PRUNED_AT_ONCE.to_string());
    let mut args = Args::default();
    for key in &plan.keys {
        let tag = encode(bound, columns, key, &mut args);
        call.arg(tag).arg(args.len().to_string());
        for arg in args.iter() {
            call.arg(arg);
        }
    }
    call
}

fn unread(error: impl std::fmt::Display) -> SinkError {
    SinkError::Unavailable(format!("Redis gave an answer that can't be read: {error}"))
}

fn answer(value: Value) -> Result<Answer, SinkError> {
    let words = Vec::<String>::from_redis_value(value).map_err(unread)?;
    let second = || words.get(1).cloned().unwrap_or_default();
    match words.first().map(String::as_str) {
        Some("done") => Ok(Answer::Done),
        Some("again") => Ok(Answer::Again),
        Some("moved") => Ok(Answer::Moved(second())),
        Some("anew") => Ok(Answer::Anew(second())),
        Some("refused") => {
            let pairs = words.get(1..).unwrap_or_default().chunks_exact(2);
            let pair =
                |pair: &[String]| Some((pair.first()?.parse::<usize>().ok()?.checked_sub(1)?, pair.get(1)?.clone()));
            Ok(Answer::Refused(pairs.filter_map(pair).collect()))
        }
        _ => Err(unread(format!("{words:?}"))),
    }
}

/// The rows that have a part in the refused keys.
fn rows_of(plan: &Plan, keys: Vec<(usize, String)>) -> Vec<RefusedRow> {
    let mut refused = Vec::new();
    for (number, why) in keys {
        let Some(key) = plan.keys.get(number) else { continue };
        let detail = format!("the key `{}`: {why}", String::from_utf8_lossy(&key.key));
        refused.extend(key.rows.iter().map(|row| RefusedRow { row: *row as usize, detail: detail.clone() }));
    }
    refused
}

/// Each row once.
fn refused(mut rows: Vec<RefusedRow>) -> SinkError {
    rows.sort_by_key(|refused| refused.row);
    rows.dedup_by_key(|refused| refused.row);
    SinkError::Refused(rows)
}

#[async_trait]
impl Sink for RedisSink {
    async fn prepare(&mut self, columns: &SchemaRef) -> Result<(), SinkError> {
        let bound = Bound::new(&self.settings, columns).map_err(SinkError::Stopped)?;
        examine(&mut self.server).await?;
        self.bound = Some(Arc::new(bound));
        Ok(())
    }

    async fn take_over(&mut self, partitions: &[TopicPartition]) -> Result<Vec<Option<Standing>>, SinkError> {
        let mut call = Call::new(&client::TAKE_OVER, [self.keys.positions.as_bytes()].into_iter());
        for at in partitions {
            call.arg(at.to_string());
        }
        let words = Vec::<String>::from_redis_value(self.server.run(&call).await?).map_err(unread)?;
        let mut standings = Vec::with_capacity(partitions.len());
        for (at, words) in partitions.iter().zip(words.chunks_exact(3)) {
            let [next, epoch, topic_id] = words else { continue };
            self.epochs.insert(at.clone(), epoch.clone());
            self.begun.remove(at);
            let topic_id = Some(topic_id.clone()).filter(|id| id != "-");
            standings.push(match next.as_str() {
                "-" => None,
                next => Some(Standing { next: next.parse().map_err(unread)?, until: None, topic_id }),
            });
        }
        if standings.len() != partitions.len() {
            return Err(unread("fewer positions than asked for"));
        }
        self.mend_log().await?;
        Ok(standings)
    }

    async fn deliver(&mut self, delivery: &Delivery) -> Result<(), SinkError> {
        let at = &delivery.span.at;
        let Some(bound) = self.bound.clone() else {
            return Err(SinkError::Stopped("the Redis sink was not prepared".to_owned()));
        };
        let Some(epoch) = self.epochs.get(at).cloned() else {
            return Err(SinkError::Moved(format!("{at}: it was not taken over")));
        };
        if !self.mended {
            self.mend_log().await?;
        }
        let delivered = self.deliver_by(&bound, delivery, &epoch).await;
        self.mended = !matches!(delivered, Err(SinkError::Unavailable(_)));
        delivered
    }

    async fn rewind(&mut self, to: &[(TopicPartition, i64)]) -> Result<(), SinkError> {
        let mut call = Call::new(&client::REWIND, [self.keys.positions.as_bytes()].into_iter());
        for (at, next) in to {
            call.arg(at.to_string()).arg(next.to_string());
        }
        let epochs = Vec::<String>::from_redis_value(self.server.run(&call).await?).map_err(unread)?;
        self.epochs.extend(to.iter().map(|(at, _)| at.clone()).zip(epochs));
        Ok(())
    }

    async fn tick(&mut self, _now_ms: i64) -> Result<(), SinkError> {
        // Lists of an earlier process are to be pruned before the first delivery.
        let longest_ms = bind::longest_ms(&self.settings);
        if longest_ms == 0 {
            return Ok(());
        }
        let keys = [self.keys.due.as_bytes(), self.keys.lists.as_bytes()];
        let mut call = Call::new(&client::TICK, keys.into_iter());
        call.arg(&self.keys.list).arg(longest_ms.to_string()).arg(PRUNED_AT_ONCE.to_string());
        while i64::from_redis_value(self.server.run(&call).await?).map_err(unread)? > 0 {}
        Ok(())
    }
}

impl RedisSink {
    /// Has the append-only file written anew once Redis was started anew.
    ///
    /// Of a file that a power cut tore within a transaction Redis loads what is before it, but may leave the torn transaction in
    /// the file (valkey-io/valkey#4342): it would be done at the next start, beside the delivery that replaced it.
    async fn mend_log(&mut self) -> Result<(), SinkError> {
        let info = String::from_redis_value(self.server.query(&redis::cmd("INFO")).await?).map_err(unread)?;
        let (process, has_log) = server::process(&info);
        let stored = self.server.query(redis::cmd("GET").arg(&self.keys.server)).await?;
        let stored = Option::<String>::from_redis_value(stored).map_err(unread)?;
        if stored.as_deref() == Some(process) {
            self.mended = true;
            return Ok(());
        }
        if has_log && stored.is_some() {
            let asked = self.server.query(&redis::cmd("BGREWRITEAOF")).await;
            tracing::info!(
                at = self.server.at(),
                ?asked,
                "Redis was started anew: asked it to write its append-only file anew"
            );
        }
        self.server.query(redis::cmd("SET").arg(&self.keys.server).arg(process)).await?;
        self.mended = true;
        Ok(())
    }

    async fn deliver_by(&mut self, bound: &Bound, delivery: &Delivery, epoch: &str) -> Result<(), SinkError> {
        let span = &delivery.span;
        let columns = bound.columns(&delivery.rows).map_err(SinkError::Stopped)?;
        let topic_id = span.topic_id.as_deref().unwrap_or("-");
        let field = span.at.to_string();
        let parts = parts(delivery);
        let mut plans: Vec<Plan> =
            parts.iter().map(|part| Plan::of(bound, delivery, &columns, part.rows.clone())).collect();
        let bad: Vec<RefusedRow> = plans.iter_mut().flat_map(|p| std::mem::take(&mut p.refused)).collect();
        if !bad.is_empty() {
            return Err(refused(bad));
        }
        let begins = |number: usize| match number.checked_sub(1).and_then(|before| parts.get(before)) {
            Some(before) => before.next,
            None => span.from,
        };
        let build = |number: usize, mode: &str| {
            let (part, plan) = (parts.get(number)?, plans.get(number)?);
            let (from, next) = (begins(number).to_string(), part.next.to_string());
            Some(call(&self.keys, bound, &columns, plan, [&field, epoch, &from, &next, topic_id, mode]))
        };
        let mut following = build(0, if self.begun.contains(&span.at) { "write" } else { "first" });
        for (number, (part, plan)) in parts.iter().zip(&plans).enumerate() {
            let Some(run) = following.take() else { break };
            if run.len() > MOST_ARGUMENTS {
                return Err(SinkError::Stopped(format!(
                    "{}: {} rows are too many for one script of Redis: set a smaller batch_rows",
                    span.at,
                    part.rows.len()
                )));
            }
            // The next part is made while Redis is busy with this one.
            let (answer, next) = tokio::join!(send(&mut self.server, &run), async { build(number + 1, "write") });
            following = next;
            match answer? {
                Answer::Refused(keys) if number == 0 => {
                    let mut bad = rows_of(plan, keys);
                    for (number, plan) in plans.iter().enumerate().skip(1) {
                        let Some(check) = build(number, "check") else { break };
                        if let Answer::Refused(keys) = send(&mut self.server, &check).await? {
                            bad.extend(rows_of(plan, keys));
                        }
                    }
                    return Err(refused(bad));
                }
                // The parts before it are done, so the next delivery begins here and is refused as a whole.
                Answer::Refused(_) => {
                    let done = begins(number);
                    return Err(SinkError::Moved(format!(
                        "{}: done up to offset {done}, where a row is refused",
                        span.at
                    )));
                }
                Answer::Moved(why) => return Err(SinkError::Moved(format!("{}: {why}", span.at))),
                Answer::Anew(stored) => {
                    return Err(SinkError::Stopped(format!(
                        "{}: the topic was made anew: Redis' position belongs to topic id {stored}, Kafka now has {topic_id}; \
                         set the position with `firn rewind`",
                        span.at
                    )));
                }
                Answer::Done | Answer::Again => _ = self.begun.insert(span.at.clone()),
            }
            self.note_skipped(plan.skipped);
        }
        Ok(())
    }
}

/// Asks a server whether it will do: a line about it for a person.
///
/// # Errors
/// Why not.
pub async fn probe(settings: &RedisSettings) -> Result<String, SinkError> {
    examine(&mut Client::new(settings.url.clone())).await
}

async fn examine(server: &mut Client) -> Result<String, SinkError> {
    let info = String::from_redis_value(server.query(&redis::cmd("INFO")).await?).map_err(unread)?;
    let line = server::judge(server.at(), &info)?;
    let key = format!("firn:trial:{}", uuid::Uuid::new_v4().simple());
    let call = Call::new(&client::TRIAL, [key.as_bytes()].into_iter());
    let refused = Vec::<String>::from_redis_value(server.run(&call).await?).map_err(unread)?;
    match refused.first() {
        None => Ok(line),
        Some(first) => Err(error::refusal(server.at(), first)),
    }
}

#[cfg(test)]
mod tests;
