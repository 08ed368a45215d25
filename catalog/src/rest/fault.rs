//! What a failed request means for the caller, by the protocol's status codes. Pure: knows no HTTP client.

use serde::Deserialize;

use crate::{Error, ErrorKind};

/// What a request was to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doing {
    Read,
    /// Creating, dropping.
    Change,
    Swap,
}

/// Why a request has no good answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// No connection: the server surely never saw the request.
    NotSent(String),
    /// Sent, perhaps in part, but no (readable) answer came.
    Lost(String),
    Status(u16, String),
}

impl Fault {
    pub(super) fn into_error(self, doing: Doing) -> Error {
        let unknown = if doing == Doing::Read { ErrorKind::Unavailable } else { ErrorKind::OutcomeUnknown };
        match self {
            Self::NotSent(m) => Error::new(ErrorKind::Unavailable, m),
            Self::Lost(m) => Error::new(unknown, m),
            Self::Status(status, m) => {
                let kind = match status {
                    401 | 403 | 419 => ErrorKind::Denied,
                    404 => ErrorKind::NotFound,
                    409 if doing == Doing::Change => ErrorKind::AlreadyExists,
                    409 => ErrorKind::Conflict,
                    406 | 501 => ErrorKind::Unsupported,
                    // Both say that the request was not taken on.
                    429 | 503 => ErrorKind::Unavailable,
                    500.. => unknown,
                    _ => ErrorKind::Refused,
                };
                Error::new(kind, m)
            }
        }
    }
}

#[derive(Deserialize)]
struct ErrorResponse {
    error: ErrorModel,
}

#[derive(Deserialize)]
struct ErrorModel {
    #[serde(default)]
    message: String,
    #[serde(default, rename = "type")]
    kind: String,
}

/// An answer's own words, or what there is of a body that isn't the protocol's.
pub(super) fn told(status: u16, body: &str) -> Fault {
    let message = match serde_json::from_str::<ErrorResponse>(body) {
        Ok(ErrorResponse { error }) => format!("{} ({status} {})", error.message, error.kind),
        Err(_) => format!("status {status}: {}", body.chars().take(200).collect::<String>()),
    };
    Fault::Status(status, message)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(409, ErrorKind::Conflict)]
    #[case(500, ErrorKind::OutcomeUnknown)]
    #[case(502, ErrorKind::OutcomeUnknown)]
    #[case(504, ErrorKind::OutcomeUnknown)]
    #[case(503, ErrorKind::Unavailable)]
    #[case(429, ErrorKind::Unavailable)]
    #[case(401, ErrorKind::Denied)]
    #[case(403, ErrorKind::Denied)]
    #[case(404, ErrorKind::NotFound)]
    #[case(400, ErrorKind::Refused)]
    #[case(501, ErrorKind::Unsupported)]
    fn a_swaps_status_says_whether_it_may_have_happened(#[case] status: u16, #[case] kind: ErrorKind) {
        assert_eq!(told(status, "").into_error(Doing::Swap).kind(), kind);
    }

    #[rstest]
    #[case(Doing::Read, 409, ErrorKind::Conflict)]
    #[case(Doing::Read, 500, ErrorKind::Unavailable)]
    #[case(Doing::Change, 409, ErrorKind::AlreadyExists)]
    #[case(Doing::Change, 500, ErrorKind::OutcomeUnknown)]
    fn other_requests_differ(#[case] doing: Doing, #[case] status: u16, #[case] kind: ErrorKind) {
        assert_eq!(told(status, "").into_error(doing).kind(), kind);
    }

    #[test]
    fn the_servers_own_words_are_kept() {
        let body = r#"{"error": {"message": "moved", "type": "CommitFailedException", "code": 409}}"#;
        assert_eq!(told(409, body).into_error(Doing::Swap).to_string(), "moved (409 CommitFailedException)");
        assert_eq!(told(502, "<html>").into_error(Doing::Swap).to_string(), "status 502: <html>");
    }

    #[test]
    fn only_what_was_sent_is_unknown() {
        assert_eq!(Fault::NotSent(String::new()).into_error(Doing::Swap).kind(), ErrorKind::Unavailable);
        assert_eq!(Fault::Lost(String::new()).into_error(Doing::Swap).kind(), ErrorKind::OutcomeUnknown);
        assert_eq!(Fault::Lost(String::new()).into_error(Doing::Read).kind(), ErrorKind::Unavailable);
    }
}
