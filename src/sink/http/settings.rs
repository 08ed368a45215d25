//! What the sink is told about its receiver.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

/// How rows stand in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// A JSON array of objects.
    Array,
    /// A JSON object a line.
    Lines,
    /// One JSON object: every row is a request of its own.
    Object,
}

impl Body {
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Lines => "application/x-ndjson",
            Self::Array | Self::Object => "application/json",
        }
    }
}

/// One receiver.
#[derive(Clone)]
pub struct HttpSettings {
    pub url: String,
    pub body: Body,
    /// Rows of one request, at most.
    pub max_rows: usize,
    /// Bytes of one request, at most, unless a single change has more.
    pub max_bytes: usize,
    /// Requests of one partition that are under way at a time.
    pub parallel: u32,
    /// Rows with the same values in these columns go one after another.
    pub key: Vec<String>,
    pub headers: BTreeMap<String, String>,
    /// What requests are signed with.
    pub secret: Option<String>,
    /// Longest wait for one answer.
    pub timeout: Duration,
    /// Answers that mean that the receiver has it, beside 200 to 299.
    pub accept: BTreeSet<u16>,
}

impl fmt::Debug for HttpSettings {
    /// Without what may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpSettings")
            .field("body", &self.body)
            .field("max_rows", &self.max_rows)
            .field("max_bytes", &self.max_bytes)
            .field("parallel", &self.parallel)
            .finish_non_exhaustive()
    }
}
