//! Dead letters: the table that keeps them, and what their targets remember of them.
//!
//! Letters and rows can't share a swap, being of two tables. So:
//! - [`DeadLetterTable`] has the letters, keyed by target and place in Kafka, committed before the rows of the same part: reading a
//!   record again writes the same letter again.
//! - A target table has, in a property of its own and therefore in the swap of its rows, the [`pending`] set: which letters' keys
//!   are to be watched, and for which of them a later change came. A replay goes by it.
//! - A replay leaves in its own swap which letters it settled ([`replay`]); a letter's status is written afterwards, and by the next
//!   replay if that was lost.

mod columns;
mod enrol;
mod met;
pub(crate) mod pending;
mod present;
pub(crate) mod replay;
mod table;

pub(crate) use met::LetterWatch;
pub use met::MetLetter;
pub use pending::{PENDING, PendingLetter, PendingSet};
pub use replay::{REPLAYED, Replay, Standing};
pub use table::{Contents, DeadLetterTable};
