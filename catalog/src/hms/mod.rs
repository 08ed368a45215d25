//! Tables registered in a Hive Metastore, swapped by lock and compare-and-set (HIVE-26882).
//!
//! # Layout
//! - `config`: how it is reached; which guard a swap has.
//! - `hosts`: the list of metastores and a connection to one of them; `client`: its calls, the only place that knows Thrift;
//!   `fault`: what a failed call means.
//! - `table`: what the metastore is told about a table; `location`: where new ones go.
//! - `lock`: the table's lock, kept alive; `probe`: whether the metastore compares at all.

mod client;
mod config;
mod fault;
mod hosts;
mod location;
mod lock;
mod probe;
mod table;

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use iceberg::io::FileIO;
use iceberg::spec::TableMetadata;
use iceberg::table::Table;
use iceberg::{NamespaceIdent, TableCreation, TableIdent, TableRequirement, TableUpdate};
use tokio::sync::{Mutex, OnceCell};

pub use config::{CommitMode, HmsConfig, ThriftTransport};

use crate::metadata::{self, Written};
use crate::{Catalog, Error, ErrorKind, Result};
use client::{Client, Data, StoredTable};
use fault::Fault;
use lock::{LockPolicy, TableLock};
use probe::Compare;
use table::{METADATA_LOCATION, Previous, TABLE_TYPE};

/// Tables described per call while listing: some hundred kilobytes an answer.
const TABLES_PER_CALL: usize = 100;

pub struct HmsCatalog {
    client: Client,
    config: HmsConfig,
    file_io: FileIO,
    lock: LockPolicy,
    compare: OnceCell<Compare>,
    /// Held while a database is made: where two are made at once, the metastore takes back the one that comes too late, and with
    /// it the folder of both.
    making: Mutex<()>,
}

impl HmsCatalog {
    /// Doesn't connect yet. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// `Refused` when the configuration is wrong.
    pub fn new(config: HmsConfig, file_io: FileIO) -> Result<Self> {
        let client = Client::new(&config)?;
        let lock = LockPolicy {
            timeout: Duration::from_millis(config.lock_timeout_ms),
            heartbeat: Duration::from_millis(config.lock_heartbeat_ms),
            user: config.client_name.clone(),
            host: host_name(),
        };
        Ok(Self { client, config, file_io, lock, compare: OnceCell::new(), making: Mutex::default() })
    }

    /// Whether this metastore compares; asked once.
    async fn compares(&self) -> Result<&Compare> {
        let probe = || probe::compare(&self.client, self.config.probe_database.as_deref(), &self.config.client_name);
        self.compare.get_or_try_init(probe).await
    }

    async fn require_compare(&self) -> Result<()> {
        match self.compares().await? {
            Compare::Works => Ok(()),
            Compare::Fails(why) => {
                let hint = "use mode lock, or a metastore that has HIVE-26882 on PostgreSQL or MySQL";
                Err(Error::new(ErrorKind::Unsupported, format!("{self} can't swap by comparing: {why} ({hint})")))
            }
        }
    }

    /// How the table that `metadata` describes is guarded.
    async fn guard(&self, metadata: &TableMetadata) -> Result<Guard> {
        match self.config.mode {
            CommitMode::Lock => Ok(Guard { lock: true, compare: false }),
            CommitMode::LockAndCompare => Ok(Guard { lock: true, compare: true }),
            CommitMode::Auto if !table::lock_disabled(metadata) => {
                // Without a probe compare as well: at worst the metastore ignores it.
                Ok(Guard { lock: true, compare: !matches!(self.compare.get(), Some(Compare::Fails(_))) })
            }
            // Nothing but the comparison guards the table, so it must be known to work.
            CommitMode::Compare | CommitMode::Auto => {
                self.require_compare().await?;
                Ok(Guard { lock: false, compare: true })
            }
        }
    }

    async fn has_database(&self, database: &str) -> Result<bool> {
        match self.client.database_location(database).await.map_err(Fault::of_read) {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e.context(format_args!("database {database}"))),
        }
    }

    async fn iceberg_table(&self, name: &Name) -> Result<(StoredTable, String)> {
        let stored = self.client.table(&name.database, &name.table).await.map_err(|e| e.of_read().context(name))?;
        match metadata_location(&stored) {
            Some(location) => Ok((stored, location)),
            None => Err(Error::new(ErrorKind::NotIceberg, format!("{name} is not an Iceberg table in {self}"))),
        }
    }

    /// The lock if wanted, and the stored table, which still has `base`'s metadata.
    async fn hold(&self, name: &Name, previous: &str, guard: Guard) -> Result<(Option<TableLock>, StoredTable)> {
        let lock = match guard.lock {
            true => Some(TableLock::acquire(&self.client, &self.lock, &name.database, &name.table).await?),
            false => None,
        };
        let held = match self.iceberg_table(name).await {
            Ok((stored, location)) if location == previous => Ok(stored),
            Ok((_, location)) => Err(Error::new(ErrorKind::Conflict, format!("{name} moved to {location}"))),
            Err(e) => Err(e),
        };
        match held {
            Ok(stored) => Ok((lock, stored)),
            Err(e) => {
                release(lock).await;
                Err(e)
            }
        }
    }

    /// Replaces the stored table under the guard.
    async fn alter(
        &self,
        name: &Name,
        stored: StoredTable,
        previous: &str,
        guard: Guard,
        lock: Option<&TableLock>,
    ) -> Result<(), Fault> {
        if !guard.compare
            && let Some(lock) = lock
            && let Err(e) = lock.ensure_held()
        {
            return Err(Fault::NotSent(e.to_string()));
        }
        let expected = guard.compare.then_some((METADATA_LOCATION, previous));
        self.client.alter_table(&name.database, &name.table, stored, expected).await
    }

    /// Best effort: what stays is an orphan that maintenance removes.
    async fn discard(&self, location: &str) {
        if let Err(e) = self.file_io.delete(location).await {
            tracing::warn!("unused metadata file {location} not deleted: {e}");
        }
    }
}

/// What a swap is guarded by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Guard {
    lock: bool,
    compare: bool,
}

#[async_trait]
impl Catalog for HmsCatalog {
    fn describe(&self) -> String {
        self.to_string()
    }

    fn file_io(&self) -> &FileIO {
        &self.file_io
    }

    async fn probe(&self) -> Result<()> {
        match self.client.database_location("default").await.map_err(Fault::of_read) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e.context(self)),
            _ => {}
        }
        match self.config.mode {
            CommitMode::Lock => Ok(()),
            CommitMode::LockAndCompare | CommitMode::Compare => self.require_compare().await,
            CommitMode::Auto => {
                if let Compare::Fails(why) = self.compares().await? {
                    tracing::warn!(
                        "{self} can't compare ({why}): swaps are guarded by its lock alone, which a long pause can break"
                    );
                }
                Ok(())
            }
        }
    }

    async fn list_namespaces(&self) -> Result<Vec<NamespaceIdent>> {
        let names = self.client.database_names().await.map_err(|e| e.of_read().context(self))?;
        Ok(names.into_iter().map(NamespaceIdent::new).collect())
    }

    async fn ensure_namespace(&self, namespace: &NamespaceIdent, properties: HashMap<String, String>) -> Result<()> {
        let database = database(namespace)?;
        if self.has_database(&database).await? {
            return Ok(());
        }
        let _making = self.making.lock().await;
        if self.has_database(&database).await? {
            return Ok(());
        }
        let location = properties
            .get("location")
            .cloned()
            .unwrap_or_else(|| location::database(&self.config.warehouse, &database));
        match self.client.create_database(&database, Some(&location), &properties).await.map_err(Fault::of_change) {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => {
                Err(e.context(format_args!("create database {database} at {location}")))
            }
            _ => Ok(()),
        }
    }

    async fn list_tables(&self, namespace: &NamespaceIdent) -> Result<Vec<TableIdent>> {
        let database = database(namespace)?;
        let told = |e: Fault| e.of_read().context(format_args!("database {database}"));
        let names = self.client.table_names(&database).await.map_err(told)?;
        if names.is_empty() {
            // A database that isn't there has no tables either, says the metastore.
            self.client.database_location(&database).await.map_err(told)?;
        }
        let mut tables = Vec::new();
        for some in names.chunks(TABLES_PER_CALL) {
            let stored = self.client.tables(&database, some).await.map_err(told)?;
            let iceberg = stored.iter().filter(|t| metadata_location(t).is_some());
            tables.extend(iceberg.map(|t| TableIdent::new(namespace.clone(), t.name().to_owned())));
        }
        Ok(tables)
    }

    async fn load(&self, table: &TableIdent) -> Result<Table> {
        let (_, location) = self.iceberg_table(&Name::of(table)?).await?;
        metadata::read(table, &self.file_io, location).await
    }

    async fn load_unless_at(&self, table: &TableIdent, known: &str) -> Result<Option<Table>> {
        let (_, location) = self.iceberg_table(&Name::of(table)?).await?;
        metadata::read_unless_at(table, &self.file_io, location, known).await
    }

    async fn create(&self, namespace: &NamespaceIdent, creation: TableCreation) -> Result<Table> {
        let ident = TableIdent::new(namespace.clone(), creation.name.clone());
        let name = Name::of(&ident)?;
        let of_database = self.client.database_location(&name.database).await;
        let of_database = of_database.map_err(|e| e.of_read().context(format_args!("database {}", name.database)))?;
        let place = || location::table(&self.config.warehouse, &name.database, of_database.as_deref(), &name.table);
        let place = creation.location.clone().unwrap_or_else(place);
        let written = metadata::write_first(&self.file_io, &place, creation).await?;

        let mut stored = StoredTable::new(&name.database, &name.table, &self.config.client_name);
        stored.apply(&table::entry(&written.metadata, &written.location, None));
        let refused = match self.client.create_table(stored).await.map_err(Fault::of_change) {
            Ok(()) => None,
            // The metastore retries inside: what exists, or what an answer was lost about, may be this very table.
            Err(e) if matches!(e.kind(), ErrorKind::AlreadyExists | ErrorKind::OutcomeUnknown) => {
                match self.iceberg_table(&name).await {
                    Ok((_, found)) if found == written.location => None,
                    Ok(_) => Some(Error::new(ErrorKind::AlreadyExists, format!("{name} exists in {self}"))),
                    Err(found) if found.kind() == ErrorKind::NotIceberg => Some(found),
                    Err(_) => return Err(e.context(format_args!("create {name}")).with_leftover(written.location)),
                }
            }
            Err(e) => Some(e.context(format_args!("create {name}"))),
        };
        match refused {
            None => metadata::table(&ident, &self.file_io, written),
            Some(e) => {
                self.discard(&written.location).await;
                Err(e)
            }
        }
    }

    async fn drop(&self, table: &TableIdent) -> Result<()> {
        let name = Name::of(table)?;
        self.iceberg_table(&name).await?;
        let dropped = self.client.drop_table(&name.database, &name.table, Data::Keep).await;
        dropped.map_err(|e| e.of_change().context(format_args!("drop {name}")))
    }

    async fn swap(&self, base: &Table, requirements: &[TableRequirement], updates: &[TableUpdate]) -> Result<Table> {
        let name = Name::of(base.identifier())?;
        let guard = self.guard(base.metadata()).await?;
        let previous = Previous { metadata: base.metadata(), location: base.metadata_location_result()? };
        let write = metadata::write_next(base, requirements, updates);
        let (written, held) = tokio::join!(write, self.hold(&name, previous.location, guard));
        let (written, (lock, mut stored)) = match (written, held) {
            (Ok(written), Ok(held)) => (written, held),
            (Ok(Written { location, .. }), Err(e)) => {
                self.discard(&location).await;
                return Err(e.context(format_args!("swap {name}")));
            }
            (Err(e), held) => {
                release(held.ok().and_then(|(lock, _)| lock)).await;
                return Err(e.context(format_args!("swap {name}")));
            }
        };
        stored.apply(&table::entry(&written.metadata, &written.location, Some(previous)));
        let swapped = self.alter(&name, stored, previous.location, guard, lock.as_ref()).await;
        release(lock).await;
        match swapped {
            Ok(()) => metadata::table(base.identifier(), &self.file_io, written),
            Err(fault) => {
                // What was sent may have landed, even when refused: then somebody reads the file.
                let sent = !matches!(fault, Fault::NotSent(_));
                let e = fault.of_swap().context(format_args!("swap {name}"));
                if sent {
                    return Err(e.with_leftover(written.location));
                }
                self.discard(&written.location).await;
                Err(e)
            }
        }
    }
}

impl fmt::Display for HmsCatalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hive {}", self.client)
    }
}

impl fmt::Debug for HmsCatalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HmsCatalog")
            .field("config", &self.config)
            .field("compare", &self.compare)
            .finish_non_exhaustive()
    }
}

/// A table's name as the metastore folds it: small letters.
#[derive(Clone, Debug)]
struct Name {
    database: String,
    table: String,
}

impl Name {
    fn of(table: &TableIdent) -> Result<Self> {
        Ok(Self { database: database(table.namespace())?, table: table.name().to_lowercase() })
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.database, self.table)
    }
}

fn database(namespace: &NamespaceIdent) -> Result<String> {
    match namespace.as_ref().as_slice() {
        [one] => Ok(one.to_lowercase()),
        _ => Err(Error::new(
            ErrorKind::Refused,
            format!("'{}': a metastore's namespaces have one level", namespace.to_url_string()),
        )),
    }
}

/// Where an Iceberg table's metadata lies; `None` for any other table.
fn metadata_location(table: &StoredTable) -> Option<String> {
    table.parameter(TABLE_TYPE).filter(|t| t.eq_ignore_ascii_case("iceberg"))?;
    table.parameter(METADATA_LOCATION).map(str::to_owned)
}

async fn release(lock: Option<TableLock>) {
    if let Some(lock) = lock {
        lock.release().await;
    }
}

/// For people who wait for a lock.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "unknown".to_owned() } else { name.trim().to_owned() }
}
