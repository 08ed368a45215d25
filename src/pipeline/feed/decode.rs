//! A record goes to the decoder, and comes back when the table and the writer's schema are what it needs.

use super::Feed;
use crate::debezium::Pushed;
use crate::pipeline::writer_schemas::Lack;
use crate::record::Record;

/// A record can ask for the schemas of its value and its key, for columns of the table, and for the one that names columns which were
/// not sent; then it is decoded or rejected.
const MAX_ASKED: usize = 4;

impl Feed {
    /// What became of the record; `None` where it was not taken: the table waits or is stopped.
    pub(super) fn decode(&mut self, record: &Record<'_>) -> Option<Pushed> {
        for _ in 0..MAX_ASKED {
            match self.decoder.push(record) {
                Pushed::NeedsWriterSchema(id) => {
                    if !self.learn(id, record) {
                        return None;
                    }
                }
                Pushed::NeedsSchema(schema) => {
                    if !self.adopt(&schema) {
                        return None;
                    }
                }
                pushed => return Some(pushed),
            }
        }
        Some(self.decoder.push(record))
    }

    fn learn(&mut self, id: i32, record: &Record<'_>) -> bool {
        match self.runtime.block_on(self.handle.writer_schemas.get(id)) {
            Ok(registered) => {
                self.decoder.learn(id, &registered);
                true
            }
            Err(Lack::NoRegistry) => {
                self.stop(&format!(
                    "record {} is Avro, written with the registered schema {id}, and no registry is configured: set registry.url",
                    record.origin()
                ));
                false
            }
            Err(Lack::NotNow(why)) => {
                self.wait_before(&format!("record {}: {why}", record.origin()));
                false
            }
        }
    }

    /// Hands over what was collected, and goes on from the next record when that is committed and a while has passed: what stands
    /// before it need not wait.
    fn wait_before(&mut self, reason: &str) {
        if let Some(epoch) = self.epoch
            && !self.spans().is_empty()
        {
            self.handle.epochs.end(epoch);
        }
        self.close_part();
        self.handle.trouble(reason.to_owned());
        self.waiting = Some(reason.to_owned());
    }
}
