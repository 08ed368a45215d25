//! Rows of one file kept until they can be written in the table's sort order.

use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch};
use arrow_ord::sort::{SortColumn, SortOptions, lexsort_to_indices};
use arrow_schema::SchemaRef;
use arrow_select::concat::concat_batches;
use arrow_select::take::take_record_batch;
use iceberg::spec::{NullOrder, SortDirection, SortField, Transform};
use iceberg::transform::create_transform_function;

use crate::sink::lake::LakeError;
use crate::sink::lake::layout::Layout;
use crate::sink::lake::parquet_file::ParquetFile;

/// Rows encoded at once, so that the encoder's pages stay within the processor's cache.
const WRITE_ROWS: usize = 8 << 10;

/// A file to be sorted.
#[derive(Debug)]
pub(crate) struct SortedFile {
    schema: SchemaRef,
    order: Vec<SortBy>,
    batches: Vec<RecordBatch>,
    rows: u64,
    bytes: usize,
    /// Kept in memory before the file is written, in Arrow bytes. Larger files are better sorted.
    most_bytes: usize,
}

/// A term of a table's sort order.
#[derive(Clone, Debug)]
pub(crate) struct SortBy {
    column: usize,
    transform: Transform,
    options: SortOptions,
}

impl SortBy {
    /// `None` when the table has no sort order, or one over nested fields, which is not honoured.
    pub(crate) fn all_of(layout: &Layout) -> Option<Vec<Self>> {
        let fields = layout.schema.as_struct().fields();
        let term = |sort: &SortField| {
            Some(Self {
                column: fields.iter().position(|f| f.id == sort.source_id)?,
                transform: sort.transform,
                options: SortOptions {
                    descending: sort.direction == SortDirection::Descending,
                    nulls_first: sort.null_order == NullOrder::First,
                },
            })
        };
        let order = layout.sort_order.fields.iter().map(term).collect::<Option<Vec<_>>>()?;
        (!order.is_empty()).then_some(order)
    }

    /// What rows, whose first columns are the table's, are sorted by.
    pub(crate) fn values(&self, rows: &RecordBatch) -> Result<ArrayRef, LakeError> {
        Ok(create_transform_function(&self.transform)?.transform(Arc::clone(rows.column(self.column)))?)
    }

    pub(crate) fn options(&self) -> SortOptions {
        self.options
    }
}

impl SortedFile {
    /// `None` when the table has no sort order, or one over nested fields, which is not honoured.
    pub(crate) fn new(layout: &Layout, most_bytes: usize) -> Option<Self> {
        let order = SortBy::all_of(layout)?;
        Some(Self { schema: Arc::clone(&layout.arrow), order, batches: vec![], rows: 0, bytes: 0, most_bytes })
    }

    pub(crate) fn write(&mut self, batch: RecordBatch) {
        self.rows += batch.num_rows() as u64;
        self.bytes += batch.get_array_memory_size();
        self.batches.push(batch);
    }

    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }

    /// Of its rows.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Twice its rows: they are copied while they are sorted.
    pub(crate) fn memory_bytes(&self) -> usize {
        2 * self.bytes
    }

    pub(crate) fn is_full(&self) -> bool {
        self.bytes >= self.most_bytes
    }

    /// Writes the rows in order; answers for each row as it arrived its place in the file.
    pub(crate) fn write_sorted(self, file: &mut ParquetFile) -> Result<Vec<u32>, LakeError> {
        let rows = concat_batches(&self.schema, &self.batches)?;
        drop(self.batches);
        let columns = self
            .order
            .iter()
            .map(|by| Ok(SortColumn { values: by.values(&rows)?, options: Some(by.options) }))
            .collect::<Result<Vec<_>, LakeError>>()?;
        let indices = lexsort_to_indices(&columns, None)?;
        let mut places = vec![0; rows.num_rows()];
        for (place, arrived) in indices.values().iter().enumerate() {
            if let Some(p) = places.get_mut(*arrived as usize) {
                *p = place as u32;
            }
        }
        let sorted = take_record_batch(&rows, &indices)?;
        for from in (0..sorted.num_rows()).step_by(WRITE_ROWS) {
            file.write(&sorted.slice(from, WRITE_ROWS.min(sorted.num_rows() - from)))?;
        }
        Ok(places)
    }
}
