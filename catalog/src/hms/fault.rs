//! What can go wrong with one metastore call, and what that means for the caller. Pure: knows neither Thrift nor sockets.

use crate::failpoint::Failure;
use crate::{Error, ErrorKind};

/// The exception types that a metastore answers with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exception {
    Meta,
    NoSuchObject,
    UnknownDb,
    AlreadyExists,
    InvalidObject,
    InvalidOperation,
    NoSuchLock,
    /// Any of the transaction manager's.
    Transaction,
}

/// Why a call has no good answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// No connection: the server surely never saw the call.
    NotSent(String),
    /// Sent, perhaps in part, but no answer came.
    Lost(String),
    /// The server doesn't know the method.
    NoSuchMethod(String),
    /// The server's handler broke down; what it had done by then is open.
    Broken(String),
    /// The server's considered answer.
    Answer(Exception, String),
}

/// With this the metastore refuses an `expected_parameter_value` that is not the stored one (HIVE-26882); what follows differs.
const STALE: &str = "The table has been modified";

impl Fault {
    fn message(&self) -> &str {
        match self {
            Self::NotSent(m) | Self::Lost(m) | Self::NoSuchMethod(m) | Self::Broken(m) | Self::Answer(_, m) => m,
        }
    }

    /// What a failpoint makes of a call: the metastore's refusal of a swap, or no answer.
    pub(super) fn injected(failure: Failure) -> Self {
        match failure {
            Failure::Error => Self::Answer(Exception::Meta, format!("{STALE} ({failure})")),
            Failure::LostAnswer => Self::Lost(failure.to_string()),
        }
    }

    /// The metastore refused the swap because the expected value is not the stored one.
    pub(super) fn is_stale(&self) -> bool {
        matches!(self, Self::Answer(_, m) if m.contains(STALE))
    }

    /// For a call that changes nothing: whatever isn't a refusal may be asked again.
    pub(super) fn of_read(self) -> Error {
        let kind = match &self {
            _ if self.denied() => ErrorKind::Denied,
            Self::NotSent(_) | Self::Lost(_) | Self::Broken(_) => ErrorKind::Unavailable,
            Self::NoSuchMethod(_) => ErrorKind::Unsupported,
            Self::Answer(Exception::NoSuchObject | Exception::UnknownDb, _) => ErrorKind::NotFound,
            Self::Answer(..) => ErrorKind::Unavailable,
        };
        self.into_error(kind)
    }

    /// For creating and dropping.
    pub(super) fn of_change(self) -> Error {
        let kind = match &self {
            _ if self.denied() => ErrorKind::Denied,
            Self::NotSent(_) => ErrorKind::Unavailable,
            Self::Lost(_) | Self::Broken(_) => ErrorKind::OutcomeUnknown,
            Self::NoSuchMethod(_) => ErrorKind::Unsupported,
            Self::Answer(Exception::NoSuchObject | Exception::UnknownDb, _) => ErrorKind::NotFound,
            Self::Answer(Exception::AlreadyExists, _) => ErrorKind::AlreadyExists,
            // "Got exception: ... No FileSystem for scheme" will not go away; its database being away will.
            Self::Answer(Exception::Meta, m) if m.contains("JDO") || m.contains("onnection") => ErrorKind::Unavailable,
            // Another process made the database at the same time, and the metastore's way back took the folder from under the table.
            Self::Answer(Exception::Meta, m) if m.contains("No such file or directory") => ErrorKind::Unavailable,
            Self::Answer(..) => ErrorKind::Refused,
        };
        self.into_error(kind)
    }

    /// For the swap. Only what is known not to have happened is told as such.
    pub(super) fn of_swap(self) -> Error {
        if let Self::Answer(Exception::InvalidOperation, m) = &self
            && m.contains("types incompatible")
        {
            let hint = "the metastore compares column types by position: set \
                        metastore.disallow.incompatible.col.type.changes=false there";
            return Error::new(ErrorKind::Refused, format!("{m} ({hint})"));
        }
        let kind = match &self {
            _ if self.is_stale() => ErrorKind::Conflict,
            _ if self.denied() => ErrorKind::Denied,
            Self::NotSent(_) => ErrorKind::Unavailable,
            Self::Lost(_) | Self::Broken(_) => ErrorKind::OutcomeUnknown,
            Self::NoSuchMethod(_) => ErrorKind::Unsupported,
            Self::Answer(Exception::NoSuchObject | Exception::UnknownDb, _) => ErrorKind::NotFound,
            Self::Answer(Exception::InvalidOperation, m) if m.contains("not exist") || m.contains("n't exist") => {
                ErrorKind::NotFound
            }
            Self::Answer(Exception::InvalidOperation | Exception::InvalidObject, _) => ErrorKind::Refused,
            // The metastore retries inside: a failure told may follow a first try that landed.
            Self::Answer(..) => ErrorKind::OutcomeUnknown,
        };
        self.into_error(kind)
    }

    /// Authorization plug-ins answer with a MetaException whose text alone tells.
    fn denied(&self) -> bool {
        let words = [
            "ermission denied",
            "AccessControlException",
            "not authorized",
            "Not authorized",
            "does not have privileges",
        ];
        matches!(self, Self::Answer(_, m) if words.iter().any(|w| m.contains(w)))
    }

    fn into_error(self, kind: ErrorKind) -> Error {
        let told = match (&self, self.message()) {
            (Self::NoSuchMethod(_), m) => format!("this metastore is too old or too new: {m}"),
            (_, "") => "the metastore gave no reason".to_owned(),
            (_, m) => m.to_owned(),
        };
        Error::new(kind, told)
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::Exception::*;
    use super::Fault::*;
    use super::*;

    fn text(m: &str) -> String {
        m.to_owned()
    }

    #[rstest]
    #[case(NotSent(text("refused")), ErrorKind::Unavailable)]
    #[case(Lost(text("reset")), ErrorKind::OutcomeUnknown)]
    #[case(Broken(text("Internal error processing")), ErrorKind::OutcomeUnknown)]
    #[case(NoSuchMethod(text("Invalid method name")), ErrorKind::Unsupported)]
    #[case(
        Answer(Meta, text("The table has been modified. The parameter value for key 'metadata_location' is x")),
        ErrorKind::Conflict
    )]
    #[case(
        Answer(Meta, text("The table has been modified. The parameter value ... is different")),
        ErrorKind::Conflict
    )]
    #[case(Answer(Meta, text("Could not commit")), ErrorKind::OutcomeUnknown)]
    #[case(Answer(Meta, text("User bob does not have privileges for ALTERTABLE")), ErrorKind::Denied)]
    #[case(
        Answer(InvalidOperation, text("Unable to alter table. The following columns have types incompatible")),
        ErrorKind::Refused
    )]
    #[case(Answer(InvalidOperation, text("table d.t doesn't exist")), ErrorKind::NotFound)]
    #[case(Answer(InvalidObject, text("bad column name")), ErrorKind::Refused)]
    #[case(Answer(NoSuchObject, text("d.t table not found")), ErrorKind::NotFound)]
    fn a_swap_is_told_as_refused_only_when_it_surely_was(#[case] fault: Fault, #[case] kind: ErrorKind) {
        assert_eq!(fault.of_swap().kind(), kind);
    }

    #[rstest]
    #[case(Lost(text("reset")), ErrorKind::OutcomeUnknown)]
    #[case(Answer(AlreadyExists, text("t")), ErrorKind::AlreadyExists)]
    #[case(Answer(Meta, text("Got exception: No FileSystem for scheme s3")), ErrorKind::Refused)]
    #[case(Answer(Meta, text("javax.jdo.JDODataStoreException: JDO")), ErrorKind::Unavailable)]
    #[case(
        Answer(Meta, text("Got exception: chmod: cannot access '/w/d.db/t': No such file or directory")),
        ErrorKind::Unavailable
    )]
    fn a_change_tells_what_will_not_go_away(#[case] fault: Fault, #[case] kind: ErrorKind) {
        assert_eq!(fault.of_change().kind(), kind);
    }

    #[rstest]
    #[case(Lost(text("reset")), ErrorKind::Unavailable)]
    #[case(Answer(NoSuchObject, text("d.t table not found")), ErrorKind::NotFound)]
    #[case(Answer(Meta, text("database is starting")), ErrorKind::Unavailable)]
    fn a_read_may_be_asked_again(#[case] fault: Fault, #[case] kind: ErrorKind) {
        assert_eq!(fault.of_read().kind(), kind);
    }

    #[test]
    fn an_incompatible_type_says_the_way_out() {
        let e =
            Answer(InvalidOperation, text("The following columns have types incompatible with the existing columns"))
                .of_swap();
        assert!(e.to_string().contains("metastore.disallow.incompatible.col.type.changes=false"), "{e}");
    }
}
