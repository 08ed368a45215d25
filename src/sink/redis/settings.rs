//! What a Redis sink is told: plain values.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::template::Template;

/// One sink: the server and what is written for each row.
#[derive(Clone)]
pub struct RedisSettings {
    /// `redis://user:password@host:6379/0`, or `rediss://` for TLS.
    pub url: String,
    pub on_null_key: OnNullKey,
    pub writes: Vec<Write>,
}

/// Without the URL: it may hold a password.
impl fmt::Debug for RedisSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisSettings")
            .field("on_null_key", &self.on_null_key)
            .field("writes", &self.writes)
            .finish_non_exhaustive()
    }
}

/// What becomes of a write whose key has a NULL in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnNullKey {
    /// It is left out, and counted.
    #[default]
    Skip,
    /// The row is refused.
    Reject,
}

/// One thing that is written for each row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    pub key: Template,
    pub kind: WriteKind,
}

/// `fields`: columns by name, `None` for all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteKind {
    /// An entry in a stream.
    Stream { fields: Option<Vec<String>>, trim: Option<Trim> },
    /// Fields of a hash, set or counted up. `increments`: by the field's name.
    Hash { fields: Option<Vec<String>>, increments: BTreeMap<String, Increment>, ttl_ms: Option<u64> },
    /// A member of a sorted set; `score` is a column.
    SortedSet { member: Template, score: String },
    /// A string.
    Text { value: Template, ttl_ms: Option<u64> },
    /// A string with a JSON object of the columns.
    Json { fields: Option<Vec<String>>, ttl_ms: Option<u64> },
    /// The members with the largest sum of a column over the last `window_ms` of event time.
    Top(TopList),
}

/// How much of a stream is kept, roughly: Redis drops whole nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trim {
    Entries(u64),
    AgeMs(u64),
}

/// What a field of a hash is counted up by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Increment {
    By(i64),
    /// By a column's value in units of 10^-`scale`.
    Column {
        column: String,
        scale: u8,
    },
}

/// A sliding top list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopList {
    pub member: Template,
    /// A column, summed up in units of 10^-`scale`.
    pub score: String,
    pub scale: u8,
    /// The column of the event time.
    pub time: String,
    pub window_ms: u64,
    /// How long the list stays after firn last touched it.
    pub ttl_ms: u64,
}

impl TopList {
    /// How much event time is summed up into one bucket: a tenth of the window, at most a minute. Larger ones let a member stay
    /// longer than the window; smaller ones cost a key each.
    pub fn bucket_ms(&self) -> u64 {
        (self.window_ms / 10).clamp(100, 60_000)
    }

    /// How long what belongs to the list stays when nobody touches it, and a little more: as `lifetime` in `top.lua`.
    pub fn lifetime_ms(&self) -> u64 {
        self.ttl_ms.max(self.window_ms + self.bucket_ms()) + self.bucket_ms()
    }
}

impl WriteKind {
    /// The word in the configuration and in messages.
    pub fn name(&self) -> &'static str {
        match self {
            WriteKind::Stream { .. } => "stream",
            WriteKind::Hash { .. } => "hash",
            WriteKind::SortedSet { .. } => "sorted_set",
            WriteKind::Text { .. } => "string",
            WriteKind::Json { .. } => "json",
            WriteKind::Top(_) => "top",
        }
    }
}
