//! The key alone of a record, whatever its value is: read as a tombstone's.

use crate::change::{Mode, Op, RowSchema};
use crate::debezium::{DecodeOptions, Decoder, Pushed};
use crate::record::Record;

/// Reads keys into rows of the table's key columns.
#[derive(Debug)]
pub struct KeyReader {
    upsert: bool,
    decoder: Decoder,
    table: Option<RowSchema>,
}

impl KeyReader {
    pub fn new(options: DecodeOptions) -> Self {
        Self { upsert: options.mode == Mode::Upsert, decoder: Decoder::new(options), table: None }
    }

    /// One row with the key's columns; `None` where the key can't be read, and in append mode.
    pub fn read(&mut self, table: &RowSchema, record: &Record<'_>) -> Option<arrow_array::RecordBatch> {
        if !self.upsert {
            return None;
        }
        if self.table.as_ref() != Some(table) {
            self.decoder.set_schema(table).ok()?;
            self.table = Some(table.clone());
        }
        let pushed = self.decoder.push(&Record { value: None, ..*record });
        let rows = (self.decoder.rows() > 0).then(|| self.decoder.finish().rows)?;
        (pushed == Pushed::Row(Op::Delete) && rows.num_rows() == 1).then_some(rows)
    }
}
