//! The key alone of a record, whatever its value is: read as a tombstone's.

use std::sync::Arc;

use crate::change::{Mode, Op, RowSchema};
use crate::debezium::{DecodeOptions, Decoder, Pushed, Registered};
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

    /// One row with the key's columns; `None` where the key can't be read, and in append mode. `schema` tells writer schemas by id.
    pub fn read(
        &mut self,
        table: &RowSchema,
        record: &Record<'_>,
        schema: &dyn Fn(i32) -> Option<Arc<Registered>>,
    ) -> Option<arrow_array::RecordBatch> {
        if !self.upsert {
            return None;
        }
        if self.table.as_ref() != Some(table) {
            self.decoder.set_schema(table).ok()?;
            self.table = Some(table.clone());
        }
        let tombstone = Record { value: None, ..*record };
        let mut pushed = self.decoder.push(&tombstone);
        if let Pushed::NeedsWriterSchema(id) = pushed {
            self.decoder.learn(id, &*schema(id)?);
            pushed = self.decoder.push(&tombstone);
        }
        let rows = (self.decoder.rows() > 0).then(|| self.decoder.finish().rows)?;
        (pushed == Pushed::Row(Op::Delete) && rows.num_rows() == 1).then_some(rows)
    }
}
