//! Named places where a process can be made to fail on command, for the crash matrix (docs/faults.md).
//!
//! In a build with debug assertions the variable [`VARIABLE`] names a file. Each of its lines, `STEP.before=ACTION[@N]` or
//! `STEP.after=ACTION[@N]`, strikes once, at the Nth pass, and is taken out of the file then: places can be armed one after another
//! while the process runs. A release build has none of this: a step is what it does, and nothing reads the variable.

#[cfg(debug_assertions)]
mod armed;

use std::fmt;

use crate::{Error, ErrorKind};

/// Names the file of armed failpoints. Without it nothing strikes.
pub const VARIABLE: &str = "FIRN_FAILPOINTS";

/// A step that touches the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// One call that brings a record from Kafka, or none.
    Poll,
    /// From a record's bytes to a row.
    Decode,
    /// Beginning a data file.
    OpenFile,
    /// One part of a data file's upload.
    WritePart,
    /// The moment a data file comes to be.
    CloseFile,
    /// Position deletes or deletion vectors.
    DeleteFile,
    Manifest,
    ManifestList,
    /// Table metadata, where firn writes it.
    Metadata,
    /// The metastore's lock.
    Lock,
    /// The catalog's compare-and-set.
    Swap,
    Unlock,
    /// What lag tools read in Kafka.
    OffsetCommit,
    /// The primary-key index, after the commit.
    IndexWrite,
    /// An outbox's rows, handed to Kafka within a transaction.
    OutboxSend,
    /// The end of that transaction.
    OutboxCommit,
    /// The rows' marks and the outbox's position, in its database.
    OutboxMark,
    /// Rows of the lake that go into their topic again, handed to Kafka within a transaction.
    BackfillSend,
    /// The end of that transaction.
    BackfillCommit,
}

impl Step {
    pub const ALL: [Step; 19] = [
        Step::Poll,
        Step::Decode,
        Step::OpenFile,
        Step::WritePart,
        Step::CloseFile,
        Step::DeleteFile,
        Step::Manifest,
        Step::ManifestList,
        Step::Metadata,
        Step::Lock,
        Step::Swap,
        Step::Unlock,
        Step::OffsetCommit,
        Step::IndexWrite,
        Step::OutboxSend,
        Step::OutboxCommit,
        Step::OutboxMark,
        Step::BackfillSend,
        Step::BackfillCommit,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Step::Poll => "poll",
            Step::Decode => "decode",
            Step::OpenFile => "open-file",
            Step::WritePart => "write-part",
            Step::CloseFile => "close-file",
            Step::DeleteFile => "delete-file",
            Step::Manifest => "manifest",
            Step::ManifestList => "manifest-list",
            Step::Metadata => "metadata",
            Step::Lock => "lock",
            Step::Swap => "swap",
            Step::Unlock => "unlock",
            Step::OffsetCommit => "offset-commit",
            Step::IndexWrite => "index-write",
            Step::OutboxSend => "outbox-send",
            Step::OutboxCommit => "outbox-commit",
            Step::OutboxMark => "outbox-mark",
            Step::BackfillSend => "backfill-send",
            Step::BackfillCommit => "backfill-commit",
        }
    }
}

/// How a step fails that was struck: before it was done, or after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The server says that it failed.
    Error,
    /// No answer came.
    LostAnswer,
}

impl Failure {
    /// As a catalog tells it of a swap: refused, or unknown.
    pub fn of_swap(self) -> Error {
        let kind = match self {
            Failure::Error => ErrorKind::Conflict,
            Failure::LostAnswer => ErrorKind::OutcomeUnknown,
        };
        Error::new(kind, self.to_string())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Failure::Error => "failpoint: the server failed",
            Failure::LostAnswer => "failpoint: the answer was lost",
        })
    }
}

/// Reads what is armed, so that a wrong word is told at the start.
///
/// # Errors
/// The line that is no failpoint, with the words that may stand there.
pub fn check() -> Result<(), String> {
    #[cfg(debug_assertions)]
    armed::check()?;
    Ok(())
}

/// To be passed right before a step on a thread that may block.
///
/// # Errors
/// How the step is to fail, not done.
#[inline]
pub fn before(step: Step) -> Result<(), Failure> {
    #[cfg(debug_assertions)]
    armed::blocking(step, armed::When::Before)?;
    let _ = step;
    Ok(())
}

/// To be passed right after it.
///
/// # Errors
/// How the step is to fail although it is done.
#[inline]
pub fn after(step: Step) -> Result<(), Failure> {
    #[cfg(debug_assertions)]
    armed::blocking(step, armed::When::After)?;
    let _ = step;
    Ok(())
}

/// The step `run` between its two failpoints, on a thread that may block. `failed` makes the step's own error.
///
/// # Errors
/// The step's, or the one made by `failed`.
#[inline]
pub fn around<T, E>(step: Step, run: impl FnOnce() -> Result<T, E>, failed: impl Fn(Failure) -> E) -> Result<T, E> {
    before(step).map_err(&failed)?;
    let done = run()?;
    after(step).map_err(failed)?;
    Ok(done)
}

/// [`around`] for a step that is awaited: a stall holds up nothing else.
///
/// # Errors
/// As [`around`].
#[inline]
pub async fn around_async<T, E>(
    step: Step,
    run: impl Future<Output = Result<T, E>>,
    failed: impl Fn(Failure) -> E,
) -> Result<T, E> {
    #[cfg(debug_assertions)]
    armed::waiting(step, armed::When::Before).await.map_err(&failed)?;
    let done = run.await?;
    #[cfg(debug_assertions)]
    armed::waiting(step, armed::When::After).await.map_err(&failed)?;
    let _ = (step, failed);
    Ok(done)
}
