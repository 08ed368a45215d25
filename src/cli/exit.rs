//! How a command fails: the sentence for a person, and the exit code for a script.

use std::error::Error;
use std::fmt;
use std::process::ExitCode;

use firn_catalog::ErrorKind;

/// What an exit code means. 0 is success; docs/cli.md has the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// The command did its work and the answer is bad: a failed check, a table that isn't there, SQL that doesn't run.
    Failed = 1,
    /// Wrong arguments or configuration: nothing was tried.
    Usage = 2,
    /// Something that the configuration names can't be reached, or refuses the credentials.
    Unreachable = 3,
    /// `firn run` ended because a person is needed.
    Stopped = 4,
}

/// A command's failure.
#[derive(Debug)]
pub struct Failure {
    code: Code,
    message: String,
}

impl Failure {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Code::Failed, message)
    }

    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Code::Usage, message)
    }

    /// With the error's causes.
    pub fn from_error(code: Code, error: &(dyn Error + 'static)) -> Self {
        Self::new(code, with_causes(error))
    }

    pub fn code(&self) -> Code {
        self.code
    }

    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code as u8)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Failure {}

/// The error and its causes in one line, without what a cause only says again.
pub fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        let more = e.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = e.source();
    }
    text
}

impl From<crate::config::ConfigError> for Failure {
    fn from(e: crate::config::ConfigError) -> Self {
        Self::from_error(Code::Usage, &e)
    }
}

impl From<firn_catalog::Error> for Failure {
    fn from(e: firn_catalog::Error) -> Self {
        Self::from_error(of_catalog(&e), &e)
    }
}

/// Whether the catalog could not be asked, or answered something bad.
pub(super) fn of_catalog(e: &firn_catalog::Error) -> Code {
    match e.kind() {
        ErrorKind::Unavailable | ErrorKind::Denied | ErrorKind::OutcomeUnknown => Code::Unreachable,
        _ => Code::Failed,
    }
}

impl From<crate::pipeline::Error> for Failure {
    fn from(e: crate::pipeline::Error) -> Self {
        use crate::pipeline::Error;
        use crate::source::kafka::SourceError;
        let code = match &e {
            Error::Catalog(c) if of_catalog(c) == Code::Unreachable => Code::Unreachable,
            Error::Source(SourceError::Unreachable { .. }) => Code::Unreachable,
            Error::Source(SourceError::Client(_)) | Error::Listen(_) => Code::Usage,
            Error::NoTopic(_) | Error::Lake(_) => Code::Failed,
            _ => Code::Stopped,
        };
        Self::from_error(code, &e)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(e: anyhow::Error) -> Self {
        Self::from_error(Code::Failed, e.as_ref())
    }
}

impl From<std::io::Error> for Failure {
    fn from(e: std::io::Error) -> Self {
        Self::from_error(Code::Failed, &e)
    }
}

impl From<serde_json::Error> for Failure {
    fn from(e: serde_json::Error) -> Self {
        Self::from_error(Code::Failed, &e)
    }
}
