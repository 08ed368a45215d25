//! SQL over a batch of changes: one SELECT, planned once, run for each micro-batch.
//!
//! The sources' changes and the views' rows are tables of the SELECT, by their names. Knows DataFusion; knows nothing of Kafka, Debezium
//! or sinks.
//!
//! # Layout
//! - [`Transform`]: the planned SELECT. [`changes`]: what a table of changes looks like. [`trace`]: which change a row comes from.
//!   [`table`]: tables whose rows change between runs. [`named`]: columns that a SELECT can read. [`lookup`]: views of which it needs few rows.

pub mod changes;
mod lookup;
pub mod named;
mod table;
#[cfg(test)]
mod tests;
mod trace;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, BooleanArray, RecordBatch, RecordBatchOptions, StringArray, UInt64Array};
use arrow_schema::{DataType, Schema, SchemaRef};
use arrow_select::concat::concat_batches;
use arrow_select::filter::filter_record_batch;
use arrow_select::take::take_record_batch;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::{DataFrame, SessionConfig, SessionContext};

use crate::batch::RowOrigin;
use crate::change::Op;
use lookup::Lookup;
use table::LiveTable;

/// A SELECT that can't be planned or run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransformError {
    /// Names the column or the place in the text.
    #[error("the SQL does not fit its tables: {0}")]
    Plan(String),
    #[error("the SQL failed: {0}")]
    Run(String),
}

/// Of each row the partition and the change; none where a row may come from several.
pub type Origins = Option<Vec<(i32, RowOrigin)>>;

/// What the SELECT made of a batch.
#[derive(Clone, Debug)]
pub struct Output {
    /// In the order of their changes, where they are known.
    pub rows: RecordBatch,
    /// The change that each row comes from, and its partition; `None` where the SELECT puts several into one row.
    pub origins: Origins,
    /// Changes that the SELECT fails on, by their row in the input: they are not in `rows`.
    pub failed: Vec<FailedRow>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedRow {
    pub row: usize,
    pub detail: String,
}

/// Rows of one batch that may fail before the SELECT itself counts as wrong.
const MOST_FAILING: usize = 1_000;

/// One SELECT over tables of these columns.
pub struct Transform {
    context: SessionContext,
    plan: LogicalPlan,
    tables: HashMap<String, Arc<LiveTable>>,
    /// Columns of the SELECT, without those that trace rows.
    columns: SchemaRef,
    traced: bool,
    lookups: Vec<Lookup>,
}

impl std::fmt::Debug for Transform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transform").field("plan", &self.plan).finish_non_exhaustive()
    }
}

impl Transform {
    /// Plans `sql` over `sources` (tables of changes) and `views`, each a name and its columns.
    ///
    /// # Errors
    /// `Plan`: the text is no SELECT, or names what isn't there, or types don't fit.
    pub async fn plan(
        sql: &str,
        sources: &[(String, SchemaRef)],
        views: &[(String, SchemaRef)],
    ) -> Result<Self, TransformError> {
        // One task: a batch is small, and its rows stay in order but for joins.
        let config = SessionConfig::new().with_target_partitions(1).with_information_schema(false);
        // It spares reading what files have; and plans with it fail where a join compares `after.id + 1`.
        let config = config.set_bool("datafusion.optimizer.enable_leaf_expression_pushdown", false);
        let context = SessionContext::new_with_config(config);
        let mut tables = HashMap::new();
        for (name, columns) in sources.iter().chain(views) {
            let table = Arc::new(LiveTable::new(Arc::clone(columns)));
            context.register_table(quoted(name), Arc::clone(&table) as _).map_err(|e| not_planned(&e))?;
            tables.insert(name.clone(), table);
        }
        let names: Vec<&str> = sources.iter().map(|(name, _)| name.as_str()).collect();
        let statement = trace::parse(sql).map_err(TransformError::Plan)?;
        let plain = plan_of(&context, statement.clone()).await?;
        let columns = Arc::new(plain.schema().as_arrow().clone());
        check_columns(&columns)?;
        let traced = match trace::traced(statement, &names) {
            Some(traced) => plan_of(&context, traced).await.ok(),
            None => None,
        };
        let is_traced = traced.is_some();
        let plan = traced.unwrap_or(plain);
        let views: Vec<&str> = views.iter().map(|(name, _)| name.as_str()).collect();
        // Without them it is slower.
        let optimized = context.state().optimize(&plan);
        let lookups = optimized.and_then(|optimized| lookup::lookups(&plan, &optimized, &views));
        Ok(Self { context, plan, tables, columns, traced: is_traced, lookups: lookups.unwrap_or_default() })
    }

    /// The columns of its rows.
    pub fn columns(&self) -> &SchemaRef {
        &self.columns
    }

    /// Whether each row comes from one change.
    pub fn is_traced(&self) -> bool {
        self.traced
    }

    /// How it is run, for people.
    pub fn explain(&self) -> String {
        self.plan.display_indent().to_string()
    }

    /// Sets the rows of a view for the runs to come. They may lack columns that are not [named](named::Named) in the SELECT.
    pub fn set_view(&self, name: &str, rows: Vec<RecordBatch>) {
        if let Some(table) = self.tables.get(name) {
            table.set(rows);
        }
    }

    /// The values that columns of a view have to have, to be joined with these changes of one source: columns that are called as the
    /// view's. Rows with others need not be [set](Self::set_view). `None` where all may be needed.
    pub async fn sought(&self, view: &str, source: &str, changes: &RecordBatch) -> Option<RecordBatch> {
        let lookup = self.lookups.iter().find(|lookup| lookup.view == view)?;
        self.rows_of(&lookup.values, source, changes).await.ok()
    }

    /// Runs it over these changes of one source; the other sources are empty. Changes that it fails on are left out and named.
    ///
    /// # Errors
    /// `Run`: it fails though no single change makes it fail.
    pub async fn run(&self, source: &str, changes: &RecordBatch) -> Result<Output, TransformError> {
        let mut failed = Vec::new();
        let rows = match self.run_all(source, changes).await {
            Ok(rows) => rows,
            Err(_) => {
                self.find_failing(source, changes, &mut failed).await?;
                let rows: BTreeSet<usize> = failed.iter().map(|f| f.row).collect();
                let keep: BooleanArray = (0..changes.num_rows()).map(|row| Some(!rows.contains(&row))).collect();
                let left = filter_record_batch(changes, &keep).map_err(|e| TransformError::Run(e.to_string()))?;
                self.run_all(source, &left).await?
            }
        };
        let (rows, origins) = self.untraced(rows)?;
        Ok(Output { rows, origins, failed })
    }

    async fn run_all(&self, source: &str, changes: &RecordBatch) -> Result<RecordBatch, TransformError> {
        self.rows_of(&self.plan, source, changes).await
    }

    async fn rows_of(
        &self,
        plan: &LogicalPlan,
        source: &str,
        changes: &RecordBatch,
    ) -> Result<RecordBatch, TransformError> {
        let Some(table) = self.tables.get(source) else {
            return Err(TransformError::Run(format!("there is no source {source}")));
        };
        table.set(vec![changes.clone()]);
        let frame = DataFrame::new(self.context.state(), plan.clone());
        let columns: SchemaRef = Arc::new(frame.schema().as_arrow().clone());
        let batches = frame.collect().await;
        table.set(Vec::new());
        let batches = batches.map_err(|e| TransformError::Run(sentence(&e)))?;
        // Plan and result may differ in what can be null.
        let columns = batches.first().map_or(columns, RecordBatch::schema);
        concat_batches(&columns, &batches).map_err(|e| TransformError::Run(e.to_string()))
    }

    /// Halves what fails until the rows are found.
    ///
    /// # Errors
    /// When there are so many that it is the SELECT's fault.
    async fn find_failing(
        &self,
        source: &str,
        changes: &RecordBatch,
        failed: &mut Vec<FailedRow>,
    ) -> Result<(), TransformError> {
        let mut parts = vec![(0, changes.num_rows())];
        while let Some((from, to)) = parts.pop() {
            let Err(e) = self.run_all(source, &changes.slice(from, to - from)).await else { continue };
            if to - from == 1 {
                failed.push(FailedRow { row: from, detail: e.to_string() });
            } else {
                let middle = from + (to - from) / 2;
                parts.extend([(middle, to), (from, middle)]);
            }
            if failed.len() > MOST_FAILING {
                let why = format!("more than {MOST_FAILING} rows of one batch fail, the last of them: {e}");
                return Err(TransformError::Run(why));
            }
        }
        Ok(())
    }

    /// Takes off the columns that trace rows, and puts the rows into the order of their changes.
    fn untraced(&self, rows: RecordBatch) -> Result<(RecordBatch, Origins), TransformError> {
        let failed = |e: arrow_schema::ArrowError| TransformError::Run(e.to_string());
        if !self.traced {
            return Ok((self.planned(&rows)?, None));
        }
        let width = self.columns.fields().len();
        let place = |rows: &RecordBatch, row: usize| {
            let partition = rows.column(width).as_primitive::<Int32Type>().value(row);
            (partition, rows.column(width + 1).as_primitive::<Int64Type>().value(row))
        };
        let rows = match (0..rows.num_rows()).is_sorted_by_key(|row| place(&rows, row)) {
            true => rows,
            false => {
                let mut order: Vec<u64> = (0..rows.num_rows() as u64).collect();
                order.sort_by_key(|row| place(&rows, *row as usize));
                take_record_batch(&rows, &UInt64Array::from(order)).map_err(failed)?
            }
        };
        let ops = arrow_cast::cast(rows.column(width + 2), &DataType::Utf8).map_err(failed)?;
        let ops = ops.as_string::<i32>();
        let times = rows.column(width + 3).as_primitive::<TimestampMicrosecondType>();
        let lsns = rows.column(width + 4).as_primitive::<Int64Type>();
        let origin = |row: usize| {
            let (partition, offset) = place(&rows, row);
            let source_us = (!times.is_null(row)).then(|| times.value(row));
            let source_lsn = (!lsns.is_null(row)).then(|| lsns.value(row));
            (partition, RowOrigin { offset, op: op_of(ops, row), source_us, source_lsn })
        };
        let origins = (0..rows.num_rows()).map(origin).collect();
        Ok((self.planned(&rows)?, Some(origins)))
    }

    /// The planned columns alone.
    fn planned(&self, rows: &RecordBatch) -> Result<RecordBatch, TransformError> {
        let columns = rows.columns().iter().take(self.columns.fields().len()).cloned().collect();
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        RecordBatch::try_new_with_options(Arc::clone(&self.columns), columns, &options)
            .map_err(|e| TransformError::Run(e.to_string()))
    }
}

fn op_of(ops: &StringArray, row: usize) -> Op {
    match if ops.is_valid(row) { ops.value(row) } else { "" } {
        "d" => Op::Delete,
        "u" => Op::Update,
        "r" => Op::Read,
        _ => Op::Create,
    }
}

async fn plan_of(
    context: &SessionContext,
    statement: datafusion::sql::parser::Statement,
) -> Result<LogicalPlan, TransformError> {
    context.state().statement_to_plan(statement).await.map_err(|e| not_planned(&e))
}

fn check_columns(columns: &Schema) -> Result<(), TransformError> {
    let mut seen = std::collections::HashSet::new();
    match columns.fields().iter().find(|f| !seen.insert(f.name())) {
        Some(field) => {
            Err(TransformError::Plan(format!("two columns are called {}: give one another name", field.name())))
        }
        None => Ok(()),
    }
}

/// For names that SQL would fold.
fn quoted(name: &str) -> datafusion::sql::TableReference {
    datafusion::sql::TableReference::bare(name.to_owned())
}

fn not_planned(e: &DataFusionError) -> TransformError {
    TransformError::Plan(sentence(e))
}

fn sentence(e: &DataFusionError) -> String {
    e.find_root().strip_backtrace().lines().collect::<Vec<_>>().join(" ")
}
