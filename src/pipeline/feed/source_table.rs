//! What the source database says of the table's columns, on its way to the decoder.

use std::time::Instant;

use super::Feed;
use crate::database::{DatabaseError, Found};
use crate::pipeline::source_tables::{Asked, LOOK_AGAIN, columns};
use crate::record::Record;

/// The questions of one feed.
#[derive(Debug, Default)]
pub(super) struct SourceTable {
    /// For the record that the table waits before.
    asked: Option<Asked>,
    asked_again: Option<Asked>,
    /// When the last answer came, and the database that it had to be of.
    known: Option<(Instant, Option<String>)>,
}

impl Feed {
    /// Tells the decoder what the source database says now; false where the table waits for it, or is stopped.
    pub(super) fn ask_source(&mut self, database: Option<String>, record: &Record<'_>) -> bool {
        let sources = &self.handle.source_tables;
        // The answer may have come while the table waited for it.
        let mut asked = self.source.asked.take().unwrap_or_else(|| sources.ask(&self.handle.topic, database.clone()));
        match self.runtime.block_on(asked.answer()) {
            Some(Ok(found)) => {
                self.source.known = Some((Instant::now(), database));
                self.describe(found)
            }
            Some(Err(e @ DatabaseError::Unavailable(_))) => {
                self.wait_before(&format!("record {}: {e}", record.origin()));
                false
            }
            Some(Err(e)) => {
                self.stop(&format!("record {} has no schema: {e}", record.origin()));
                false
            }
            None => {
                self.source.asked = Some(asked);
                self.wait_before(&format!("record {}: the source database has not answered yet", record.origin()));
                false
            }
        }
    }

    /// Looks after a while whether the source has altered the table. A database that is away then is no trouble.
    pub(super) fn look_again_at_source(&mut self) {
        let Some((since, database)) = &self.source.known else { return };
        match self.source.asked_again.take() {
            Some(asked) if !asked.is_answered() => self.source.asked_again = Some(asked),
            Some(mut asked) => {
                let database = database.clone();
                self.source.known = Some((Instant::now(), database));
                if let Some(Ok(found)) = self.runtime.block_on(asked.answer()) {
                    self.decoder.seek_again();
                    self.describe(found);
                }
            }
            None if since.elapsed() >= LOOK_AGAIN => {
                self.source.asked_again = Some(self.handle.source_tables.ask(&self.handle.topic, database.clone()));
            }
            None => {}
        }
    }

    fn describe(&mut self, found: Found) -> bool {
        let columns = match &found {
            Found::Table(table) => {
                tracing::debug!(table = %self.handle.name, source = table.name, columns = table.columns.len(), "described");
                columns(table)
            }
            Found::Nothing(why) => {
                self.handle.has_no_source(why);
                Vec::new()
            }
        };
        self.rejects.forget_keys();
        self.decoder.describe(columns).map_err(|reason| self.stop(&reason)).is_ok()
    }
}
