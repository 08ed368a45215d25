//! Errors by what the caller can do about them.

use std::fmt;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the caller can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// No such namespace or table.
    NotFound,
    /// A table of that name exists.
    AlreadyExists,
    /// The name belongs to something that is not an Iceberg table.
    NotIceberg,
    /// The swap was refused because the table moved: load again, look for the own snapshot, apply again.
    Conflict,
    /// The answer was lost: it may have happened or not. Load again and look.
    OutcomeUnknown,
    /// The server or store can't be reached now: wait and try again.
    Unavailable,
    /// Credentials or permissions are wrong.
    Denied,
    /// The catalog refuses this change for good (an incompatible column type, a bad name).
    Refused,
    /// The stored metadata or a file can't be read.
    Invalid,
    /// This catalog or format version can't do it.
    Unsupported,
}

/// What failed, on what, and why.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
    leftover: Option<String>,
}

impl Error {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None, leftover: None }
    }

    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Puts what was being done in front: `context: message`.
    #[must_use]
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.message = format!("{context}: {}", self.message);
        self
    }

    /// Names a file that the failed call wrote and that nobody reaches unless the call did happen after all: the metadata file
    /// of a swap. [`commit()`](crate::commit()) deletes it once the outcome is known.
    #[must_use]
    pub fn with_leftover(mut self, path: impl Into<String>) -> Self {
        self.leftover = Some(path.into());
        self
    }

    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// See [`Self::with_leftover`].
    pub fn leftover(&self) -> Option<&str> {
        self.leftover.as_deref()
    }

    /// Whether waiting and trying again, on a fresh base, may help.
    pub fn is_transient(&self) -> bool {
        matches!(self.kind, ErrorKind::Conflict | ErrorKind::OutcomeUnknown | ErrorKind::Unavailable)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|s| s.as_ref() as _)
    }
}

/// Iceberg's own kinds, folded into what a caller can do. An unexpected error is taken as "can't be reached": it is retried and
/// its outcome looked up, never assumed.
impl From<iceberg::Error> for Error {
    fn from(e: iceberg::Error) -> Self {
        use iceberg::ErrorKind as K;
        let ours = std::error::Error::source(&e).and_then(|s| s.downcast_ref::<Error>()).map(Error::kind);
        let kind = ours.unwrap_or(match e.kind() {
            K::TableNotFound | K::NamespaceNotFound => ErrorKind::NotFound,
            K::TableAlreadyExists | K::NamespaceAlreadyExists => ErrorKind::AlreadyExists,
            K::CatalogCommitConflicts => ErrorKind::Conflict,
            K::DataInvalid | K::PreconditionFailed => ErrorKind::Invalid,
            K::FeatureUnsupported => ErrorKind::Unsupported,
            _ => ErrorKind::Unavailable,
        });
        Error::new(kind, e.message().to_owned()).with_source(e)
    }
}

/// For the implementations of Iceberg's traits; [`Error::from`] gets the kind back out of it.
impl From<Error> for iceberg::Error {
    fn from(e: Error) -> Self {
        use iceberg::ErrorKind as K;
        let kind = match e.kind {
            ErrorKind::NotFound => K::TableNotFound,
            ErrorKind::AlreadyExists => K::TableAlreadyExists,
            ErrorKind::Conflict => K::CatalogCommitConflicts,
            ErrorKind::Invalid | ErrorKind::NotIceberg => K::DataInvalid,
            ErrorKind::Unsupported => K::FeatureUnsupported,
            ErrorKind::OutcomeUnknown | ErrorKind::Unavailable | ErrorKind::Denied | ErrorKind::Refused => {
                K::Unexpected
            }
        };
        iceberg::Error::new(kind, e.message.clone()).with_retryable(e.is_transient()).with_source(e)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_survives_the_way_through_iceberg() {
        for kind in [ErrorKind::Denied, ErrorKind::Unavailable, ErrorKind::Invalid, ErrorKind::Refused] {
            let through: Error = iceberg::Error::from(Error::new(kind, "no")).into();
            assert_eq!((through.kind(), through.to_string()), (kind, "no".to_owned()));
        }
    }
}
