//! What an answer of ClickHouse means to a sink.

use clickhouse::error::Error;

use crate::sink::SinkError;

/// A statement that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub kind: FaultKind,
    /// ClickHouse's own words, with the node.
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FaultKind {
    /// No answer, or no room now: the same again, later. Whether it was done is open.
    Away,
    /// A value that a column can't take.
    Value,
    /// Somebody has to change something.
    Person,
}

/// Codes (ClickHouse, `src/Common/ErrorCodes.cpp`) that an insert gives for a value: it can't be parsed, converted, is too
/// large, NULL, or breaks a constraint.
const VALUE: &[u16] = &[6, 26, 27, 38, 41, 69, 70, 72, 117, 131, 321, 349, 376, 407, 441, 467, 469, 675, 676, 691];

/// Codes that stay until somebody acts: unknown names (table, database, column, function, type, setting), types that don't convert,
/// statements that can't be understood, settings that are not allowed, users and rights.
const PERSON: &[u16] = &[
    8, 10, 15, 16, 20, 36, 42, 43, 44, 46, 47, 48, 50, 53, 56, 57, 60, 62, 80, 81, 115, 122, 170, 192, 193, 194, 291,
    344, 392, 452, 497, 516, 549, 630,
];

impl Fault {
    pub(super) fn away(node: &str, text: &str) -> Self {
        Self { kind: FaultKind::Away, text: format!("ClickHouse {node}: {text}") }
    }

    pub(super) fn new(node: &str, error: &Error) -> Self {
        let text = match error {
            Error::BadResponse(text) => first_line(text),
            Error::Network(cause) => chain(cause.as_ref()),
            other => other.to_string(),
        };
        let kind = match error {
            Error::BadResponse(answer) => match code(answer) {
                Some(code) if VALUE.contains(&code) => FaultKind::Value,
                Some(code) if PERSON.contains(&code) => FaultKind::Person,
                None if answer.starts_with("40") => FaultKind::Person,
                _ => FaultKind::Away,
            },
            Error::InvalidParams(_) | Error::Unsupported(_) | Error::SchemaMismatch(_) => FaultKind::Person,
            _ => FaultKind::Away,
        };
        Self { kind, text: format!("ClickHouse {node}: {text}") }
    }
}

impl From<Fault> for SinkError {
    fn from(fault: Fault) -> Self {
        match fault.kind {
            FaultKind::Away => SinkError::Unavailable(fault.text),
            FaultKind::Value | FaultKind::Person => SinkError::Stopped(fault.text),
        }
    }
}

/// `Code: 60. DB::Exception: ...`
fn code(answer: &str) -> Option<u16> {
    let (_, rest) = answer.split_once("Code: ")?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Without the stack and the version.
fn first_line(answer: &str) -> String {
    let line = answer.lines().next().unwrap_or_default();
    line.rsplit_once(" (version ").map_or(line, |(text, _)| text).to_owned()
}

/// hyper's own text names no cause.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("Code: 252. DB::Exception: Too many parts (300). (TOO_MANY_PARTS) (version 26.9.2.1)", FaultKind::Away)]
    #[case("Code: 241. DB::Exception: Memory limit (total) exceeded. (MEMORY_LIMIT_EXCEEDED)", FaultKind::Away)]
    #[case("Code: 164. DB::Exception: readonly: Cannot execute query in readonly mode. (READONLY)", FaultKind::Away)]
    #[case("502 Bad Gateway", FaultKind::Away)]
    #[case("Code: 376. DB::Exception: Cannot parse uuid a. (CANNOT_PARSE_UUID)", FaultKind::Value)]
    #[case("Code: 516. DB::Exception: default: Authentication failed. (AUTHENTICATION_FAILED)", FaultKind::Person)]
    #[case("Code: 497. DB::Exception: Not enough privileges. (ACCESS_DENIED)", FaultKind::Person)]
    #[case("404 Not Found", FaultKind::Person)]
    fn a_code_says_what_to_do(#[case] answer: &str, #[case] want: FaultKind) {
        assert_eq!(Fault::new("h:1", &Error::BadResponse(answer.to_owned())).kind, want);
    }

    #[test]
    fn the_text_has_no_stack() {
        let error =
            Error::BadResponse("Code: 1. DB::Exception: Bad. (X) (version 26.9.2.1)\nStack trace: ...".to_owned());
        assert_eq!(Fault::new("h:1", &error).text, "ClickHouse h:1: Code: 1. DB::Exception: Bad. (X)");
    }
}
