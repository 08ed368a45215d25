//! From a topic's records to batches of rows, without a table that would have to agree: the columns are the union of all that was seen.

use crate::batch::ChangeBatch;
use crate::change::{DeleteImage, Mode, RowSchema, origin, origin_columns};
use crate::config::{PipelineTopic, TableConfig};
use crate::debezium::{DecodeOptions, Decoder, Pushed, reason};
use crate::pipeline::told::{Told, push};
use crate::pipeline::wiring::decode_options;
use crate::record::Record;
use crate::table_event::Fence;

/// What became of a record.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Row,
    /// It is no row: the kind's word.
    Skipped(&'static str),
    /// Of a view: the source table was emptied; where, if the source tells.
    Emptied(Option<Fence>),
    Rejected {
        reason: &'static str,
        detail: String,
    },
    /// Nothing was consumed: rows of the former columns are to be [finished](Intake::finish) first, then the same record again.
    Full,
}

/// The decoder of one topic.
#[derive(Debug)]
pub(super) struct Intake {
    options: DecodeOptions,
    decoder: Decoder,
    columns: Option<RowSchema>,
}

/// The decoder's settings for a topic of a pipeline.
pub(super) fn options(topic: &PipelineTopic, mode: Mode, told: Told<'_>) -> DecodeOptions {
    let table = TableConfig { mode, ..topic.as_table() };
    // Of a delete the old row is the row, as far as the source tells it.
    let table = TableConfig { delete_image: DeleteImage::Before, ..table };
    DecodeOptions { before_images: mode == Mode::Append, ..decode_options(&table, told.sources.before()) }
}

impl Intake {
    /// Knows the declared columns, if there are any.
    ///
    /// # Errors
    /// When they contradict each other, or a view has no key.
    pub(super) fn new(options: DecodeOptions) -> Result<Self, String> {
        let mut intake = Self { decoder: Decoder::new(options.clone()), columns: None, options };
        if !intake.options.declared.is_empty() {
            let columns = intake.options.declared.iter().cloned().chain(origin_columns()).collect();
            intake.adopt(&RowSchema { columns })?;
        }
        Ok(intake)
    }

    /// The columns of the rows, origin columns included; `None` before the first row.
    pub(super) fn columns(&self) -> Option<&RowSchema> {
        self.columns.as_ref()
    }

    pub(super) fn rows(&self) -> usize {
        self.decoder.rows()
    }

    pub(super) fn bytes(&self) -> usize {
        self.decoder.bytes()
    }

    pub(super) fn finish(&mut self) -> ChangeBatch {
        drop((self.decoder.take_unknown_fields(), self.decoder.take_inferred(), self.decoder.take_snapshot()));
        self.decoder.finish()
    }

    /// Knows these columns, as those of rows that were seen elsewhere.
    ///
    /// # Errors
    /// When two columns have one name, or a view has no key.
    pub(super) fn adopt(&mut self, seen: &RowSchema) -> Result<(), String> {
        let merged = merge(self.columns.as_ref(), seen);
        self.decoder.set_schema(&merged)?;
        self.columns = Some(merged);
        Ok(())
    }

    /// # Errors
    /// When registry or source database do not answer: the same record again, later.
    pub(super) fn push(&mut self, record: &Record<'_>, told: Told<'_>) -> Result<Taken, String> {
        let rejected = |reason, detail| Ok(Taken::Rejected { reason, detail });
        // The second answer is final: a record asks for columns once.
        for _ in 0..2 {
            match push(&mut self.decoder, record, told)? {
                Pushed::Row(_) => return Ok(Taken::Row),
                Pushed::Skipped(kind) => return Ok(Taken::Skipped(kind.as_str())),
                Pushed::Truncate(fence) => return Ok(Taken::Emptied(fence)),
                Pushed::Rejected(reject) => return rejected(reject.reason, reject.detail),
                Pushed::NeedsSchema(_) if self.decoder.rows() > 0 => return Ok(Taken::Full),
                Pushed::NeedsSchema(columns) => {
                    if let Err(detail) = self.adopt(&columns) {
                        return rejected(reason::INCOMPATIBLE_SCHEMA, detail);
                    }
                }
                Pushed::NeedsWriterSchema(_) | Pushed::NeedsSource { .. } => break,
            }
        }
        rejected(
            reason::INCOMPATIBLE_SCHEMA,
            "the record's columns do not fit those of the records before it".to_owned(),
        )
    }
}

/// The columns of both; where both have one, the later type counts.
fn merge(known: Option<&RowSchema>, seen: &RowSchema) -> RowSchema {
    let Some(known) = known else { return seen.clone() };
    let mut merged = known.clone();
    // New columns go before firn's own.
    let own = merged.columns.iter().position(|c| origin::is_own(&c.name)).unwrap_or(merged.columns.len());
    let mut next = own;
    for column in &seen.columns {
        match merged.columns.iter_mut().find(|c| c.name == column.name) {
            Some(have) => *have = column.clone(),
            None if origin::is_own(&column.name) => merged.columns.push(column.clone()),
            None => {
                merged.columns.insert(next, column.clone());
                next += 1;
            }
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Column, ColumnType};

    #[test]
    fn later_columns_follow_the_earlier_ones_and_wider_types_count() {
        let schema = |columns: &[(&str, ColumnType)]| {
            let own = columns.iter().map(|(name, t)| Column::new(*name, t.clone()));
            RowSchema { columns: own.chain(origin_columns()).collect() }
        };
        let known = schema(&[("id", ColumnType::Int), ("name", ColumnType::String)]);
        let merged = merge(Some(&known), &schema(&[("id", ColumnType::Long), ("price", ColumnType::Double)]));
        assert_eq!(
            merged,
            schema(&[("id", ColumnType::Long), ("name", ColumnType::String), ("price", ColumnType::Double)])
        );
    }
}
