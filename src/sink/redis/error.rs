//! What becomes of Redis' errors.

use redis::{ErrorKind, RedisError};

use crate::sink::SinkError;

/// Words by which Redis says that it takes no commands, or no writes, at the moment. A script's error has them somewhere inside.
const LATER: [&str; 11] = [
    "LOADING",
    "BUSY",
    "OOM",
    "READONLY",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "MISCONF",
    "NOREPLICAS",
    "UNKILLABLE",
    "max number of clients",
];

const RIGHTS: &str = "the user lacks a right: firn needs the keys `firn:*` and those of the writes, and the commands \
                      +@read +@write +@scripting +time +info";

/// What a person has to do.
const HELP: [(&str, &str); 5] = [
    ("NOAUTH", "Redis wants a password: write url = \"redis://user:password@host:port\""),
    ("WRONGPASS", "user or password are wrong"),
    ("NOPERM", RIGHTS),
    // Redis 7 within a script.
    ("The user executing the script", RIGHTS),
    ("MOVED", "this is a node of a Redis Cluster, which firn can't write to: name a Redis of its own"),
];

/// `at`: host and port.
pub(super) fn explain(at: &str, error: &RedisError) -> SinkError {
    let text = match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        _ => error.to_string(),
    };
    by_words(at, &text).unwrap_or_else(|| match error.kind() {
        ErrorKind::AuthenticationFailed
        | ErrorKind::InvalidClientConfig
        | ErrorKind::Server(_)
        | ErrorKind::Extension => SinkError::Stopped(format!("Redis at {at}: {text}")),
        _ => SinkError::Unavailable(format!("Redis at {at}: {text}")),
    })
}

/// What a command was answered within a script.
pub(super) fn refusal(at: &str, text: &str) -> SinkError {
    by_words(at, text)
        .unwrap_or_else(|| SinkError::Stopped(format!("Redis at {at} does not take what firn needs: {text}")))
}

fn by_words(at: &str, text: &str) -> Option<SinkError> {
    let has = |word: &str| {
        let edge = |c: Option<char>| c.is_none_or(|c| !c.is_ascii_alphanumeric() && c != '_');
        let mut found = text.match_indices(word);
        found.any(|(i, _)| edge(text[..i].chars().next_back()) && edge(text[i + word.len()..].chars().next()))
    };
    if LATER.iter().any(|word| has(word)) {
        return Some(SinkError::Unavailable(format!("Redis at {at}: {text}")));
    }
    let (_, help) = HELP.iter().find(|(word, _)| has(word))?;
    Some(SinkError::Stopped(format!("Redis at {at}: {help} ({text})")))
}
