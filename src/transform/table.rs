//! A table in memory whose rows are set anew between runs.

use std::any::Any;
use std::sync::{Arc, PoisonError, RwLock};

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;

#[derive(Debug)]
pub(super) struct LiveTable {
    columns: SchemaRef,
    /// They may lack columns that nobody asks for.
    rows: RwLock<Vec<RecordBatch>>,
}

impl LiveTable {
    pub(super) fn new(columns: SchemaRef) -> Self {
        Self { columns, rows: RwLock::default() }
    }

    pub(super) fn set(&self, rows: Vec<RecordBatch>) {
        *self.rows.write().unwrap_or_else(PoisonError::into_inner) = rows;
    }
}

#[async_trait]
impl TableProvider for LiveTable {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.columns)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _session: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let rows = self.rows.read().unwrap_or_else(PoisonError::into_inner).clone();
        let stored = rows.first().map_or_else(|| self.schema(), RecordBatch::schema);
        let place = |column: &usize| Ok(stored.index_of(self.columns.field(*column).name())?);
        let all = || (0..self.columns.fields().len()).collect();
        let projection: Vec<usize> = projection.cloned().unwrap_or_else(all);
        let projection = projection.iter().map(place).collect::<Result<_>>()?;
        Ok(MemorySourceConfig::try_new_exec(&[rows], stored, Some(projection))?)
    }
}
