//! A catalog in memory that fails on command: for tests and simulations.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use iceberg::io::FileIO;
use iceberg::table::Table;
use iceberg::{NamespaceIdent, TableCreation, TableIdent, TableRequirement, TableUpdate};

use crate::metadata;
use crate::storage::Stores;
use crate::storage::fault::{Effect, Faults, Moment, Op};
use crate::{Catalog, Error, ErrorKind, Result};

/// Clones share namespaces, tables, stores and faults: each may play another process.
#[derive(Clone, Debug)]
pub struct MemoryCatalog {
    warehouse: String,
    stores: Stores,
    file_io: FileIO,
    faults: Faults,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    namespaces: BTreeMap<NamespaceIdent, HashMap<String, String>>,
    tables: BTreeMap<TableIdent, Registered>,
}

#[derive(Clone, Debug)]
struct Registered {
    /// All that there ever were, the current one last.
    metadata_locations: Vec<String>,
}

impl Registered {
    fn current(&self) -> &str {
        self.metadata_locations.last().map_or("", String::as_str)
    }

    /// What a stale read answers.
    fn previous(&self) -> &str {
        let before_the_last = self.metadata_locations.len().saturating_sub(2);
        self.metadata_locations.get(before_the_last).map_or("", String::as_str)
    }
}

impl Default for MemoryCatalog {
    fn default() -> Self {
        Self::new(Faults::default())
    }
}

impl MemoryCatalog {
    /// Empty, on a memory store of its own; store and catalog fail as `faults` says.
    pub fn new(faults: Faults) -> Self {
        Self::on(Stores::default().with_faults(faults.clone()), "memory://warehouse", faults)
    }

    /// Empty, on these stores.
    pub fn on(stores: Stores, warehouse: &str, faults: Faults) -> Self {
        let warehouse = warehouse.trim_end_matches('/').to_owned();
        Self { warehouse, file_io: stores.file_io(), stores, faults, state: Arc::default() }
    }

    /// The same catalog and stores as another process sees them: they fail for it as `faults` says.
    #[must_use]
    pub fn seen_with(&self, faults: Faults) -> Self {
        let stores = self.stores.clone().with_faults(faults.clone());
        Self { file_io: stores.file_io(), stores, faults, warehouse: self.warehouse.clone(), state: self.state.clone() }
    }

    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    pub fn stores(&self) -> &Stores {
        &self.stores
    }

    /// The pointer itself, without a load.
    pub fn metadata_location(&self, table: &TableIdent) -> Option<String> {
        self.state().tables.get(table).map(|r| r.current().to_owned())
    }

    /// Of every version that the table ever had.
    pub fn metadata_locations(&self, table: &TableIdent) -> Vec<String> {
        self.state().tables.get(table).map(|r| r.metadata_locations.clone()).unwrap_or_default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn registered(&self, table: &TableIdent) -> Result<Registered> {
        self.state().tables.get(table).cloned().ok_or_else(|| no_table(table))
    }

    /// The compare-and-set, and nothing else.
    fn compare_and_set(&self, table: &TableIdent, expected: &str, location: &str) -> Result<()> {
        let mut state = self.state();
        let registered = state.tables.get_mut(table).ok_or_else(|| no_table(table))?;
        if registered.current() != expected {
            return Err(Error::new(ErrorKind::Conflict, format!("table {table} moved")));
        }
        registered.metadata_locations.push(location.to_owned());
        Ok(())
    }
}

fn no_table(table: &TableIdent) -> Error {
    Error::new(ErrorKind::NotFound, format!("table {table} does not exist"))
}

#[async_trait]
impl Catalog for MemoryCatalog {
    fn describe(&self) -> String {
        format!("memory {}", self.warehouse)
    }

    fn file_io(&self) -> &FileIO {
        &self.file_io
    }

    async fn probe(&self) -> Result<()> {
        self.faults.around(Op::Catalog, "probe", Error::new, async { Ok(((), 0)) }).await
    }

    async fn list_namespaces(&self) -> Result<Vec<NamespaceIdent>> {
        let list = async { Ok((self.state().namespaces.keys().cloned().collect(), 0)) };
        self.faults.around(Op::Catalog, "namespaces", Error::new, list).await
    }

    async fn ensure_namespace(&self, namespace: &NamespaceIdent, properties: HashMap<String, String>) -> Result<()> {
        let name = namespace.join(".");
        let ensure = async {
            self.state().namespaces.entry(namespace.clone()).or_insert(properties);
            Ok(((), 0))
        };
        self.faults.around(Op::Catalog, &name, Error::new, ensure).await
    }

    async fn list_tables(&self, namespace: &NamespaceIdent) -> Result<Vec<TableIdent>> {
        let list = async {
            let state = self.state();
            if !state.namespaces.contains_key(namespace) {
                return Err(Error::new(
                    ErrorKind::NotFound,
                    format!("namespace {} does not exist", namespace.join(".")),
                ));
            }
            Ok((state.tables.keys().filter(|t| t.namespace() == namespace).cloned().collect(), 0))
        };
        self.faults.around(Op::Catalog, &namespace.join("."), Error::new, list).await
    }

    async fn load(&self, table: &TableIdent) -> Result<Table> {
        let name = table.to_string();
        self.faults.turn(Moment::Call, Op::Load, &name).await;
        let (_, effect) = self.faults.meet(Op::Load, &name);
        match effect {
            Some(Effect::Fail(kind)) => return Err(Error::new(kind, format!("injected failure of Load {table}"))),
            Some(Effect::Stale) => {
                let previous = self.registered(table)?.previous().to_owned();
                return metadata::read(table, &self.file_io, previous).await;
            }
            Some(Effect::LoseAnswer | Effect::FailAfter(_)) => {
                return Err(Error::new(ErrorKind::Unavailable, format!("injected loss of Load {table}")));
            }
            Some(Effect::Delay(time)) => tokio::time::sleep(time).await,
            Some(Effect::Hold(gate)) => gate.wait().await,
            None => {}
        }
        let location = self.registered(table)?.current().to_owned();
        metadata::read(table, &self.file_io, location).await
    }

    async fn load_unless_at(&self, table: &TableIdent, known: &str) -> Result<Option<Table>> {
        let location = self.registered(table)?.current().to_owned();
        metadata::read_unless_at(table, &self.file_io, location, known).await
    }

    async fn create(&self, namespace: &NamespaceIdent, creation: TableCreation) -> Result<Table> {
        let table = TableIdent::new(namespace.clone(), creation.name.clone());
        let create = async {
            if !self.state().namespaces.contains_key(namespace) {
                return Err(Error::new(
                    ErrorKind::NotFound,
                    format!("namespace {} does not exist", namespace.join(".")),
                ));
            }
            let exists = || Error::new(ErrorKind::AlreadyExists, format!("table {table} exists"));
            if self.state().tables.contains_key(&table) {
                return Err(exists());
            }
            let default = || format!("{}/{}/{}", self.warehouse, namespace.join("/"), creation.name);
            let location = creation.location.clone().unwrap_or_else(default);
            let written = metadata::write_first(&self.file_io, &location, creation).await?;
            let metadata_location = written.location.clone();
            {
                let mut state = self.state();
                if state.tables.contains_key(&table) {
                    return Err(exists().with_leftover(metadata_location));
                }
                state.tables.insert(table.clone(), Registered { metadata_locations: vec![metadata_location] });
            }
            Ok((metadata::table(&table, &self.file_io, written)?, 0))
        };
        self.faults.around(Op::Create, &table.to_string(), Error::new, create).await
    }

    async fn drop(&self, table: &TableIdent) -> Result<()> {
        let drop = async { self.state().tables.remove(table).map(|_| ((), 0)).ok_or_else(|| no_table(table)) };
        self.faults.around(Op::Drop, &table.to_string(), Error::new, drop).await
    }

    async fn swap(&self, base: &Table, requirements: &[TableRequirement], updates: &[TableUpdate]) -> Result<Table> {
        let table = base.identifier();
        let swap = async {
            let written = metadata::write_next(base, requirements, updates).await?;
            let expected = base.metadata_location_result()?;
            let set = self.compare_and_set(table, expected, &written.location);
            set.map_err(|e| e.with_leftover(written.location.clone()))?;
            Ok((metadata::table(table, &self.file_io, written)?, 0))
        };
        self.faults.around(Op::Swap, &table.to_string(), Error::new, swap).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_conforms() {
        let catalog = MemoryCatalog::default();
        crate::conformance::all(Arc::new(catalog.clone()), Arc::new(catalog), "suite").await;
    }
}
