//! A record goes to the decoder, and comes back when the table and the writer's schema are what it needs.

use firn_catalog::failpoint::{self, Failure, Step};

use super::Feed;
use crate::change::RowSchema;
use crate::debezium::{Pushed, Reject, reason, value_schema_id};
use crate::lineage::{Asker, TypeChange};
use crate::pipeline::writer_schemas::NotNow;
use crate::record::Record;
use crate::sink::lake::{LakeError, TableColumns};

/// A record can ask for the schemas of its value and its key; for the source database's columns at first, for fields that these lack, and
/// for a value that doesn't fit; for columns of the table, wider ones, and the one that names columns which were not sent. Then it is
/// decoded or rejected.
const MAX_ASKED: usize = 8;

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
                Pushed::NeedsSource { database } => {
                    if !self.ask_source(database, record) {
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
        let schemas = &self.handle.writer_schemas;
        // Where rows do not go by the key, it may be another converter's bytes that only look like an id.
        let is_needed = self.goes_by_record_key || value_schema_id(record) == Some(id);
        let answer = match is_needed {
            true => self.runtime.block_on(schemas.settled(id)),
            false => self.runtime.block_on(schemas.get(id)),
        };
        match answer {
            Ok(registered) => {
                self.decoder.learn(id, &registered);
                true
            }
            Err(NotNow(why)) => {
                self.wait_before(&format!("record {}: {why}", record.origin()));
                false
            }
        }
    }

    /// Hands over what was collected, and goes on from the next record when that is committed and a while has passed: what stands
    /// before it need not wait.
    pub(super) fn wait_before(&mut self, reason: &str) {
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
