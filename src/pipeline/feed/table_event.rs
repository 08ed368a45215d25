//! What happens to the source table as a whole, on its way through a feed: to the stager in its turn between the rows.

use super::Feed;
use crate::record::Record;
use crate::table_event::{Fence, Truncate};

impl Feed {
    /// The source table was emptied. What came before goes to the stager before; where there is none yet, the table may not exist, and
    /// rows from before may still come through other partitions: it waits for the stager.
    pub(super) fn truncated(&mut self, record: &Record<'_>, fence: Option<Fence>) {
        tracing::info!(table = %self.handle.name, record = %record.origin(), ?fence, "the source table was truncated");
        self.flush();
        if self.idle() {
            return;
        }
        // The flush may have ended the part.
        self.epoch.get_or_insert_with(|| self.handle.epochs.join(self.handle.now_ms()));
        let only_partition = match self.is_only_partition() {
            Ok(only) => only,
            Err(why) => {
                return self.suspend(&format!("a TRUNCATE, and how many partitions there are is not known: {why}"));
            }
        };
        let origin = record.origin();
        self.truncates.push(Truncate { at: origin.at, offset: origin.offset, fence, only_partition });
    }

    /// Whether the topic has one partition only: now, for another process may have been given one that was added since this feed began.
    fn is_only_partition(&self) -> Result<bool, String> {
        match self.partition_count {
            Some(1) => Ok((self.handle.partition_count.0)(&self.handle.topic)? == 1),
            _ => Ok(false),
        }
    }

    /// Hands the stager what waits for it.
    ///
    /// # Errors
    /// When it can't be done: the table is stopped then, or storage is away.
    pub(super) fn pass_table_events(&mut self) -> Result<(), String> {
        let Some(stager) = self.stager.as_mut() else { return Ok(()) };
        for truncate in self.truncates.drain(..) {
            if let Err(e) = stager.truncate(truncate) {
                if !e.is_transient() {
                    self.handle.stop(e.to_string());
                }
                return Err(e.to_string());
            }
        }
        Ok(())
    }

    /// Whether a table is there that a truncate waits for: another process may have made it.
    pub(super) fn finds_table(&mut self) -> bool {
        if self.truncates.is_empty() {
            return false;
        }
        let found = self.runtime.block_on(self.handle.lake.find()).map_err(|e| e.to_string());
        if let Err(e) = found.and_then(|columns| columns.map_or(Ok(()), |columns| self.set_columns(columns))) {
            tracing::warn!(table = %self.handle.name, "{e}");
        }
        self.columns.is_some()
    }
}
