//! Deletes of former keys that have not come yet: waited for, but not for ever.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::FormerKey;
use crate::sink::lake::LakeError;

/// Debezium sends the delete before the row of the new key, so it is in the log already, if in another partition. Longer holds the
/// table up while that partition is far behind; shorter loses values then.
const WAIT: Duration = Duration::from_secs(20);

/// A former key whose delete has not come yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Awaited {
    pub(crate) former: FormerKey,
    /// Whether its rows may be this process's own: then its delete may be behind the batch.
    pub(crate) own: bool,
}

/// Since when they are waited for.
#[derive(Debug)]
pub(crate) struct Awaiting {
    pub(crate) at_most: Duration,
    since: HashMap<FormerKey, Instant>,
}

impl Default for Awaiting {
    fn default() -> Self {
        Self { at_most: WAIT, since: HashMap::new() }
    }
}

impl Awaiting {
    /// # Errors
    /// [`LakeError::Awaited`] while one of them is worth waiting for.
    pub(crate) fn check(&mut self, awaited: &[Awaited], table: &str) -> Result<(), LakeError> {
        let mut waits = None;
        for Awaited { former, own } in awaited {
            if self.since.entry(*former).or_insert_with(Instant::now).elapsed() < self.at_most {
                waits = Some(waits.unwrap_or(false) || *own);
            }
        }
        match waits {
            Some(own) => Err(LakeError::Awaited { table: table.to_owned(), own }),
            None => Ok(()),
        }
    }

    /// A batch with rows of these former keys is in the table. Others wait on: the table is committed to meanwhile.
    pub(crate) fn forget(&mut self, landed: impl Iterator<Item = FormerKey>) {
        if !self.since.is_empty() {
            landed.for_each(|former| _ = self.since.remove(&former));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_former_key_is_waited_for_since_it_was_asked_for_first_whatever_is_committed_meanwhile() {
        let former = |key| FormerKey { key, lsn: Some(9) };
        let asked = |key| [Awaited { former: former(key), own: false }];
        let mut awaiting = Awaiting { at_most: Duration::from_millis(40), ..Awaiting::default() };
        assert!(awaiting.check(&asked(1), "t").is_err());
        assert!(awaiting.check(&asked(2), "t").is_err());
        std::thread::sleep(Duration::from_millis(60));
        awaiting.forget([former(2)].into_iter());
        assert!(awaiting.check(&asked(1), "t").is_ok());
        assert!(awaiting.check(&asked(2), "t").is_err(), "the next row that needs it waits again");
    }
}
