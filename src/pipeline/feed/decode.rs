//! A record goes to the decoder, and comes back when the table and the writer's schema are what it needs.

use firn_catalog::failpoint::{self, Failure, Step};

use super::Feed;
use crate::change::RowSchema;
use crate::debezium::{Pushed, Reject, reason};
use crate::lineage::{Asker, TypeChange};
use crate::pipeline::writer_schemas::Lack;
use crate::record::Record;
use crate::sink::lake::{LakeError, TableColumns};

/// A record can ask for the schemas of its value and its key, for columns of the table, and for the one that names columns which were
/// not sent; then it is decoded or rejected.
const MAX_ASKED: usize = 4;

impl Feed {
    /// What became of the record; `None` where it was not taken: the table waits or is stopped.
    pub(super) fn decode(&mut self, record: &Record<'_>) -> Option<Pushed> {
        match failpoint::before(Step::Decode) {
            Ok(()) => {}
            Err(failure @ Failure::Error) => {
                return Some(Pushed::Rejected(Reject { reason: reason::BAD_VALUE, detail: failure.to_string() }));
            }
            // As a registry that does not answer.
            Err(failure @ Failure::LostAnswer) => {
                self.wait_before(&format!("record {}: {failure}", record.origin()));
                return None;
            }
        }
        let pushed = self.decode_now(record);
        if let Err(failure) = failpoint::after(Step::Decode) {
            self.suspend(&failure.to_string());
            return None;
        }
        pushed
    }

    fn decode_now(&mut self, record: &Record<'_>) -> Option<Pushed> {
        for _ in 0..MAX_ASKED {
            match self.decoder.push(record) {
                Pushed::NeedsWriterSchema(id) => {
                    if !self.learn(id, record) {
                        return None;
                    }
                }
                Pushed::NeedsSchema(schema) => {
                    if !self.adopt(record, &schema) {
                        return None;
                    }
                }
                pushed => return Some(pushed),
            }
        }
        Some(self.decoder.push(record))
    }

    /// Makes the table fit the record's schema; what was collected under the old one is handed over first.
    fn adopt(&mut self, record: &Record<'_>, schema: &RowSchema) -> bool {
        if self.decoder.rows() > 0 || self.stager.is_some() {
            if let Some(epoch) = self.epoch {
                self.handle.epochs.end(epoch);
            }
            self.close_part();
            self.epoch = Some(self.handle.epochs.join(self.handle.now_ms()));
        }
        let asker = Asker { origin: record.origin(), lsn: self.decoder.asking_lsn() };
        let columns = match self.runtime.block_on(self.handle.lake.agree(schema, Some(&asker))) {
            Ok(columns) => Some(columns),
            // As they are: asked once, the decoder rejects what does not fit them.
            Err(LakeError::Incompatible { .. }) if self.handle.type_change() == TypeChange::DeadLetters => {
                self.handle.lake.columns()
            }
            Err(e) if e.is_transient() => {
                self.suspend(&e.to_string());
                return false;
            }
            Err(e) => {
                self.stop(&format!("{e} (asked for by {})", asker.origin));
                return false;
            }
        };
        let set = columns.map_or(Ok(()), |columns| self.set_columns(columns));
        self.warn_of_inferred();
        set.map_err(|reason| self.stop(&reason)).is_ok()
    }

    pub(super) fn set_columns(&mut self, columns: TableColumns) -> Result<(), String> {
        self.decoder.set_table(columns.rows(), columns.lineage())?;
        self.columns = Some(columns);
        Ok(())
    }

    fn warn_of_inferred(&mut self) {
        let columns = self.decoder.take_inferred();
        if !columns.is_empty() {
            tracing::warn!(
                table = %self.handle.name,
                columns = columns.join(", "),
                "no schema tells these columns' types: taken from the first values. Dates, times and decimals look like numbers and \
                 texts then; declare them with `columns` under [[lake.tables]] before the table is made"
            );
        }
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
