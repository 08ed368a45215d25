//! The rows of a group partition by partition and in the table's sort order, however many they are: sorted in pieces that fit the memory,
//! kept on disk, merged. DataFusion's sort does it.

use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::cast::AsArray;
use arrow_array::types::UInt32Type;
use arrow_array::{ArrayRef, RecordBatch, UInt32Array};
use arrow_schema::{DataType, Field, Schema as ArrowSchema, SchemaRef as ArrowSchemaRef, SortOptions};
use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use datafusion::prelude::SessionConfig;
use futures::{StreamExt, stream};
use tokio::sync::mpsc;

use super::writer::{Origin, Rows};
use crate::sink::lake::LakeError;
use crate::sink::lake::sorted_file::SortBy;
use crate::sink::lake::split::Splitter;

/// Pieces read and not yet sorted in.
const PIECES_AHEAD: usize = 2;

/// What rows are sorted by.
pub(super) struct Order {
    /// First of all by the partition that a row belongs to.
    pub(super) partitions: Option<Splitter>,
    pub(super) by: Vec<SortBy>,
    /// The first columns, which are the table's.
    pub(super) table_columns: usize,
}

impl Order {
    fn values(&self, rows: &RecordBatch) -> Result<Vec<ArrayRef>, LakeError> {
        let mut values = vec![];
        if let Some(splitter) = &self.partitions {
            let columns: Vec<usize> = (0..self.table_columns).collect();
            values.extend(splitter.keys(&rows.project(&columns)?)?);
        }
        for term in &self.by {
            values.push(term.values(rows)?);
        }
        Ok(values)
    }

    /// Of the terms, which stand last among the values.
    fn options(&self, values: usize) -> Vec<SortOptions> {
        let terms = self.by.iter().map(SortBy::options);
        std::iter::repeat_n(SortOptions::default(), values - self.by.len()).chain(terms).collect()
    }
}

/// Takes rows in any order.
pub(super) struct Unsorted {
    order: Order,
    schema: ArrowSchemaRef,
    to_sort: mpsc::Sender<RecordBatch>,
}

/// Gives them back in order.
pub(super) struct Sorted {
    rows: SendableRecordBatchStream,
    /// Of the rows themselves; what they were sorted by follows, then the old file and the rank there.
    columns: ArrowSchemaRef,
}

/// So many rows at once that the merge has room for some of its inputs, if they take so many bytes in their files: decoded it may be
/// some times as much.
pub(super) fn batch_rows(memory_bytes: usize, file_bytes: u64, rows: u64) -> usize {
    let row_bytes = (file_bytes / rows.max(1)).max(1) as usize;
    (memory_bytes / 16 / (row_bytes * 8)).clamp(64, 8192)
}

/// Rows of these columns, sorted, with so much memory, so many rows at once.
///
/// # Errors
/// When columns of the order can't be sorted by.
pub(super) fn sorted(
    columns: &ArrowSchemaRef,
    order: Order,
    memory_bytes: usize,
    batch_rows: usize,
) -> Result<(Unsorted, Sorted), LakeError> {
    let empty = RecordBatch::new_empty(Arc::clone(columns));
    let mut fields: Vec<Arc<Field>> = columns.fields().iter().cloned().collect();
    let mut by = vec![];
    let values = order.values(&empty)?;
    for (n, (values, options)) in values.iter().zip(order.options(values.len())).enumerate() {
        by.push((format!("_by_{n}"), fields.len(), options));
        fields.push(Arc::new(Field::new(format!("_by_{n}"), values.data_type().clone(), true)));
    }
    // Last of all by where they came from: rows that are equal keep their order.
    for name in ["_old_file", "_rank"] {
        by.push((name.to_owned(), fields.len(), SortOptions::default()));
        fields.push(Arc::new(Field::new(name, DataType::UInt32, false)));
    }
    let schema = Arc::new(ArrowSchema::new(fields));
    let (to_sort, pieces) = mpsc::channel(PIECES_AHEAD);
    let pieces = stream::unfold(pieces, |mut pieces| async move { Some((Ok(pieces.recv().await?), pieces)) });
    let input = Input {
        schema: Arc::clone(&schema),
        rows: Mutex::new(Some(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&schema), pieces)))),
    };
    let by = by.into_iter().map(|(name, at, options)| PhysicalSortExpr::new(Arc::new(Column::new(&name, at)), options));
    let by = LexOrdering::new(by).ok_or_else(|| LakeError::Storage("sorting: by nothing".to_owned()))?;
    let input = StreamingTableExec::try_new(Arc::clone(&schema), vec![Arc::new(input)], None, [], false, None);
    let plan = SortExec::new(by, Arc::new(input.map_err(failed)?));
    let runtime = RuntimeEnvBuilder::new().with_memory_pool(Arc::new(FairSpillPool::new(memory_bytes)));
    let config = SessionConfig::new().with_target_partitions(1).with_sort_spill_reservation_bytes(memory_bytes / 8);
    let config = config.with_batch_size(batch_rows);
    let context = TaskContext::default().with_session_config(config);
    let context = context.with_runtime(runtime.build_arc().map_err(failed)?);
    let rows = plan.execute(0, Arc::new(context)).map_err(failed)?;
    Ok((Unsorted { order, schema, to_sort }, Sorted { rows, columns: Arc::clone(columns) }))
}

impl Unsorted {
    /// Rows of one old file, the first of this rank there.
    ///
    /// # Errors
    /// When the other side has failed; it tells why.
    pub(super) async fn send(&self, batch: RecordBatch, old_file: usize, rank: u32) -> Result<(), LakeError> {
        let rows = batch.num_rows() as u32;
        let mut columns = batch.columns().to_vec();
        columns.extend(self.order.values(&batch)?);
        let old_file: ArrayRef = Arc::new(UInt32Array::from_value(old_file as u32, rows as usize));
        let ranks: ArrayRef = Arc::new(UInt32Array::from_iter_values(rank..rank + rows));
        columns.extend([old_file, ranks]);
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns)?;
        self.to_sort.send(batch).await.map_err(|_| LakeError::Storage("sorting broke off".to_owned()))
    }
}

impl Sorted {
    /// The next rows; `None` once all were given that were sent before the other side was dropped.
    ///
    /// # Errors
    /// When the disk is full, or rows don't fit the memory.
    pub(super) async fn next(&mut self) -> Result<Option<Rows>, LakeError> {
        let Some(batch) = self.rows.next().await else { return Ok(None) };
        let batch = batch.map_err(failed)?;
        let own = self.columns.fields().len();
        let last = batch.num_columns();
        let numbers = |at: usize| batch.columns().get(at).map(|column| column.as_primitive::<UInt32Type>().clone());
        let (Some(old_files), Some(ranks)) = (numbers(last.wrapping_sub(2)), numbers(last.wrapping_sub(1))) else {
            return Err(LakeError::Storage("sorting: rows without their origin".to_owned()));
        };
        let columns = batch.columns().iter().take(own).cloned().collect();
        let batch = RecordBatch::try_new(Arc::clone(&self.columns), columns)?;
        Ok(Some(Rows { batch, origin: Origin::Each { old_files, ranks } }))
    }
}

fn failed(e: DataFusionError) -> LakeError {
    LakeError::Storage(format!("sorting: {e}"))
}

/// What was sent, as DataFusion takes it.
struct Input {
    schema: ArrowSchemaRef,
    /// Until it is asked for, once.
    rows: Mutex<Option<SendableRecordBatchStream>>,
}

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Input").finish_non_exhaustive()
    }
}

impl PartitionStream for Input {
    fn schema(&self) -> &ArrowSchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner).take();
        let twice = || DataFusionError::Internal("rows to be sorted were asked for twice".to_owned());
        rows.unwrap_or_else(|| {
            Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), stream::iter([Err(twice())])))
        })
    }
}
