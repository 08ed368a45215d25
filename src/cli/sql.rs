//! SQL over the catalog: `namespace.table`, each loaded when a statement names it. Reads only.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, SchemaProvider, TableProvider};
use datafusion::error::{DataFusionError, Result as DfResult};
use datafusion::execution::context::SQLOptions;
use datafusion::prelude::{SessionConfig, SessionContext};
use firn_catalog::{Catalog, ErrorKind};
use iceberg::{NamespaceIdent, TableIdent};
use iceberg_datafusion::IcebergStaticTableProvider;

use super::Failure;
use super::exit::of_catalog;

/// The name of the catalog in SQL; a statement may leave it out.
const CATALOG: &str = "firn";

/// What a statement answered. The schema is there also when no row is.
#[derive(Debug)]
pub(super) struct Answer {
    pub schema: SchemaRef,
    pub batches: Vec<RecordBatch>,
}

/// Runs one statement on the tables' current snapshots.
///
/// # Errors
/// When the statement can't be read, names what isn't there, would change something, or a table can't be read.
pub(super) async fn query(catalog: Arc<dyn Catalog>, sql: &str) -> Result<Answer, Failure> {
    let names = if lists_names(sql) { all_names(catalog.as_ref()).await? } else { BTreeMap::new() };
    let config = SessionConfig::new().with_default_catalog_and_schema(CATALOG, "default").with_information_schema(true);
    let context = SessionContext::new_with_config(config);
    context.register_catalog(CATALOG, Arc::new(Namespaces { catalog, names: Arc::new(names) }));
    let read_only = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    let frame = context.sql_with_options(sql, read_only).await.map_err(|e| failure(&e))?;
    let schema = Arc::new(frame.schema().as_arrow().clone());
    let batches = frame.collect().await.map_err(|e| failure(&e))?;
    Ok(Answer { schema, batches })
}

/// Whether the statement asks what there is: only then are all tables listed.
fn lists_names(sql: &str) -> bool {
    let sql = sql.trim_start().to_ascii_lowercase();
    sql.starts_with("show") || sql.contains("information_schema")
}

async fn all_names(catalog: &dyn Catalog) -> Result<BTreeMap<String, Vec<String>>, Failure> {
    let mut names = BTreeMap::new();
    for namespace in catalog.list_namespaces().await? {
        let tables = catalog.list_tables(&namespace).await?;
        names.insert(namespace.join("."), tables.into_iter().map(|t| t.name).collect());
    }
    Ok(names)
}

fn failure(error: &DataFusionError) -> Failure {
    let root = error.find_root();
    if let DataFusionError::External(inner) = root
        && let Some(e) = inner.downcast_ref::<firn_catalog::Error>()
    {
        return Failure::from_error(of_catalog(e), e);
    }
    let text = root.strip_backtrace();
    let hint = if text.contains("not found") && text.contains("table '") {
        "; `firn table list` shows what is there"
    } else {
        ""
    };
    Failure::failed(format!("{text}{hint}"))
}

#[derive(Debug)]
struct Namespaces {
    catalog: Arc<dyn Catalog>,
    names: Arc<BTreeMap<String, Vec<String>>>,
}

impl CatalogProvider for Namespaces {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn schema_names(&self) -> Vec<String> {
        self.names.keys().cloned().collect()
    }

    /// Any name: whether it is there shows when a table of it is asked for.
    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        let namespace = NamespaceIdent::from_strs(name.split('.')).ok()?;
        let tables = self.names.get(name).cloned().unwrap_or_default();
        Some(Arc::new(Tables { catalog: self.catalog.clone(), namespace, tables }))
    }
}

#[derive(Debug)]
struct Tables {
    catalog: Arc<dyn Catalog>,
    namespace: NamespaceIdent,
    tables: Vec<String>,
}

#[async_trait]
impl SchemaProvider for Tables {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn table_names(&self) -> Vec<String> {
        self.tables.clone()
    }

    async fn table(&self, name: &str) -> DfResult<Option<Arc<dyn TableProvider>>> {
        let ident = TableIdent::new(self.namespace.clone(), name.to_owned());
        let table = match self.catalog.load(&ident).await {
            Ok(table) => table,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(DataFusionError::External(Box::new(e))),
        };
        let provider = IcebergStaticTableProvider::try_new_from_table(table)
            .await
            .map_err(|e| DataFusionError::External(Box::new(firn_catalog::Error::from(e))))?;
        Ok(Some(Arc::new(provider)))
    }

    fn table_exist(&self, name: &str) -> bool {
        self.tables.iter().any(|t| t == name)
    }
}

#[cfg(test)]
mod tests;
