//! From the bytes of an old file to the rows that stay. On a thread that may block.

use std::sync::Arc;

use arrow_array::{BooleanArray, RecordBatch};
use arrow_select::filter::filter_record_batch;
use firn_catalog::live::LiveFile;
use parquet::arrow::arrow_reader::ParquetRecordBatchReader;
use roaring::RoaringBitmap;

use super::read::Part;
use super::shape::Shape;
use crate::sink::lake::LakeError;
use crate::sink::lake::stored::Columns;

/// One old file, as far as it was read.
pub(super) struct Decoder {
    pub(super) shape: Arc<Shape>,
    pub(super) columns: Columns,
    pub(super) entry: Arc<LiveFile>,
    /// Of rows decoded at once.
    pub(super) batch_bytes: u64,
    /// Rows that don't stay.
    pub(super) gone: RoaringBitmap,
    /// Of the next row.
    pub(super) position: u32,
    /// Of the next row that stays, among those.
    pub(super) rank: u32,
}

/// A part of it.
pub(super) struct Decoding {
    of: Decoder,
    part: Part,
    rows: ParquetRecordBatchReader,
}

impl Decoder {
    /// # Errors
    /// When the file is damaged, or does not say which column is which.
    pub(super) fn begin(self, part: Part) -> Result<Box<Decoding>, LakeError> {
        let rows = part.rows(&self.columns, self.batch_bytes)?;
        Ok(Box::new(Decoding { of: self, part, rows }))
    }
}

/// Some rows, and the rank of the first one.
type Ranked = (RecordBatch, u32);

impl Decoding {
    /// The next rows that stay; `None` at the end.
    ///
    /// # Errors
    /// When a value doesn't fit the table's type.
    pub(super) fn next(mut self: Box<Self>) -> Result<(Option<Ranked>, Box<Self>), LakeError> {
        while let Some(batch) = self.rows.next() {
            let of = &mut self.of;
            let batch = of.columns.of_today(&batch?, of.entry.file.file_path())?;
            let (first, rank) = (of.position, of.rank);
            of.position += batch.num_rows() as u32;
            let batch = of.shape.with_lineage(batch, &of.entry, first)?;
            let batch = without(&batch, &of.gone, first)?;
            of.rank += batch.num_rows() as u32;
            if batch.num_rows() > 0 {
                return Ok((Some((batch, rank)), self));
            }
        }
        Ok((None, self))
    }

    /// The file, to go on with its next part.
    pub(super) fn end(self: Box<Self>) -> Decoder {
        let Self { of, part, .. } = *self;
        drop(part);
        of
    }
}

/// The batch without the rows that are gone; `first` is the position of its first row.
fn without(batch: &RecordBatch, gone: &RoaringBitmap, first: u32) -> Result<RecordBatch, LakeError> {
    let rows = first..first + batch.num_rows() as u32;
    if gone.range_cardinality(rows.clone()) == 0 {
        return Ok(batch.clone());
    }
    let stays: BooleanArray = rows.map(|position| Some(!gone.contains(position))).collect();
    Ok(filter_record_batch(batch, &stays)?)
}
