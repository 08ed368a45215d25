//! Store errors by what the reader can do about them.

use std::error::Error as StdError;
use std::io;

use object_store::Error as StoreError;

use crate::{Error, ErrorKind};

/// What failed, where, and the way out.
///
/// `doing` reads on: `read`, `write`, `delete`, `list`.
pub(crate) fn explain(e: StoreError, doing: &str, path: &str, endpoint: Option<&str>) -> Error {
    let text = chain(&e);
    let on_s3 = path.starts_with("s3");
    let (kind, message) = match (&e, io_kind(&e)) {
        _ if text.contains("NoSuchBucket") => (
            ErrorKind::Refused,
            format!("can't {doing} {path}: the bucket does not exist; create it or correct the location"),
        ),
        (StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. }, _) => {
            let out = if on_s3 {
                "check s3.access-key-id, s3.secret-access-key and the bucket's policy"
            } else {
                "check the owner and the mode of the directory"
            };
            (ErrorKind::Denied, format!("can't {doing} {path}: access denied; {out}"))
        }
        (_, Some(io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)) => (
            ErrorKind::Denied,
            format!("can't {doing} {path}: permission denied; check the owner and the mode of the directory"),
        ),
        (_, Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)) => {
            (ErrorKind::Unavailable, format!("can't {doing} {path}: no space left; free space and it goes on"))
        }
        (StoreError::NotFound { .. }, _) => (ErrorKind::Invalid, format!("can't {doing} {path}: no such file")),
        (StoreError::AlreadyExists { .. }, _) => {
            (ErrorKind::AlreadyExists, format!("can't {doing} {path}: it exists already"))
        }
        (StoreError::Precondition { .. } | StoreError::NotModified { .. }, _) => {
            (ErrorKind::Conflict, format!("can't {doing} {path}: somebody else changed it"))
        }
        (StoreError::NotSupported { .. } | StoreError::NotImplemented { .. }, _) => {
            (ErrorKind::Unsupported, format!("can't {doing} {path}: {text}"))
        }
        _ if text.contains("PermanentRedirect") || text.contains("AuthorizationHeaderMalformed") => {
            (ErrorKind::Refused, format!("can't {doing} {path}: the bucket is in another region; set s3.region"))
        }
        _ if unreachable_store(&text) => {
            let at = endpoint.map(|e| format!(" at {e}")).unwrap_or_default();
            (
                ErrorKind::Unavailable,
                format!("can't {doing} {path}: the store{at} can't be reached; is it running, is s3.endpoint right"),
            )
        }
        _ => (ErrorKind::Unavailable, format!("can't {doing} {path}: {text}")),
    };
    Error::new(kind, message).with_source(e)
}

fn unreachable_store(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    ["connection refused", "error sending request", "dns error", "tcp connect", "failed to lookup"]
        .iter()
        .any(|t| text.contains(t))
}

/// The error and its causes, each said once.
fn chain(e: &dyn StdError) -> String {
    let mut text = e.to_string();
    let mut next = e.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        next = cause.source();
    }
    text
}

fn io_kind(e: &(dyn StdError + 'static)) -> Option<io::ErrorKind> {
    let mut next = Some(e);
    while let Some(cause) = next {
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            return Some(io.kind());
        }
        next = cause.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn generic(text: &str) -> StoreError {
        StoreError::Generic { store: "S3", source: text.to_owned().into() }
    }

    fn denied() -> StoreError {
        StoreError::PermissionDenied { path: "k".into(), source: "403".into() }
    }

    fn not_found(text: &str) -> StoreError {
        StoreError::NotFound { path: "k".into(), source: text.to_owned().into() }
    }

    fn io(kind: io::ErrorKind) -> StoreError {
        StoreError::Generic { store: "LocalFileSystem", source: Box::new(io::Error::from(kind)) }
    }

    #[rstest]
    #[case::access(denied(), ErrorKind::Denied, "s3.access-key-id")]
    #[case::bucket(not_found("<Code>NoSuchBucket</Code>"), ErrorKind::Refused, "bucket does not exist")]
    #[case::object(not_found("404"), ErrorKind::Invalid, "no such file")]
    #[case::down(generic("tcp connect error: Connection refused"), ErrorKind::Unavailable, "http://h:9000")]
    #[case::region(generic("PermanentRedirect"), ErrorKind::Refused, "s3.region")]
    #[case::full(io(io::ErrorKind::StorageFull), ErrorKind::Unavailable, "free space")]
    #[case::mode(io(io::ErrorKind::PermissionDenied), ErrorKind::Denied, "mode")]
    fn an_error_names_the_path_and_the_way_out(#[case] e: StoreError, #[case] kind: ErrorKind, #[case] word: &str) {
        let e = explain(e, "read", "s3://b/k", Some("http://h:9000"));
        assert_eq!(e.kind(), kind);
        assert!(e.to_string().contains(word) && e.to_string().contains("s3://b/k"), "{e}");
    }
}
