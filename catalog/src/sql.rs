//! A catalog in two tables of an SQL database: SQLite (the embedded default) or PostgreSQL.
//!
//! The tables are those of Java's JDBC catalog in its V1 schema and of `PyIceberg`'s SQL catalog, which both read what is made here. A
//! database with the older schema (without `iceberg_type`) is used as it is.

mod database;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use iceberg::io::FileIO;
use iceberg::table::Table;
use iceberg::{NamespaceIdent, TableCreation, TableIdent, TableRequirement, TableUpdate};
use tokio::sync::OnceCell;

use crate::failpoint::{Failure, Step, around_async};
use crate::{Catalog, Error, ErrorKind, Result, metadata};
use database::{Database, explain, explain_swap};

const MAKE_TABLES: &str = "CREATE TABLE IF NOT EXISTS iceberg_tables (\
    catalog_name VARCHAR(255) NOT NULL, table_namespace VARCHAR(255) NOT NULL, table_name VARCHAR(255) NOT NULL, \
    metadata_location VARCHAR(1000), previous_metadata_location VARCHAR(1000), iceberg_type VARCHAR(5), \
    PRIMARY KEY (catalog_name, table_namespace, table_name))";
const MAKE_NAMESPACES: &str = "CREATE TABLE IF NOT EXISTS iceberg_namespace_properties (\
    catalog_name VARCHAR(255) NOT NULL, namespace VARCHAR(255) NOT NULL, property_key VARCHAR(255) NOT NULL, \
    property_value VARCHAR(1000) NOT NULL, PRIMARY KEY (catalog_name, namespace, property_key))";
const TABLES_ALONE: &str = " AND (iceberg_type = 'TABLE' OR iceberg_type IS NULL)";

/// Where the catalog is and what it is called there.
#[derive(Clone, PartialEq, Eq)]
pub struct SqlConfig {
    /// One database may hold several catalogs: `catalog_name` in its rows.
    pub name: String,
    /// `sqlite:///path/cat.db` or `postgresql://user:password@host/database`.
    pub uri: String,
    /// New tables go to `<warehouse>/<namespace>/<table>`, unless the namespace has a `location`.
    pub warehouse: String,
}

/// Without the password.
impl fmt::Debug for SqlConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, warehouse) = (&self.name, &self.warehouse);
        f.debug_struct("SqlConfig")
            .field("name", name)
            .field("uri", &describe(&self.uri))
            .field("warehouse", warehouse)
            .finish()
    }
}

/// See the module's documentation. Clones share the connections.
#[derive(Clone, Debug)]
pub struct SqlCatalog {
    config: SqlConfig,
    described: String,
    file_io: FileIO,
    opened: Arc<OnceCell<Opened>>,
}

#[derive(Debug)]
struct Opened {
    database: Database,
    schema: Schema,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Schema {
    /// Without `iceberg_type`.
    V0,
    V1,
}

impl SqlCatalog {
    /// Asks nothing yet: the first call connects, and makes the two tables unless they are there.
    pub fn new(mut config: SqlConfig, file_io: FileIO) -> Self {
        config.warehouse.truncate(config.warehouse.trim_end_matches('/').len());
        Self { described: describe(&config.uri), config, file_io, opened: Arc::default() }
    }

    async fn opened(&self) -> Result<&Opened> {
        let open = async {
            let database = Database::open(&self.config.uri).await?;
            let schema = prepare(&database).await?;
            Ok(Opened { database, schema })
        };
        self.opened.get_or_try_init(|| open).await.map_err(|e: Error| e.context(&self.described))
    }

    async fn rows(&self, sql: &str, values: &[&str]) -> Result<Vec<Vec<Option<String>>>> {
        let rows = self.opened().await?.database.rows(sql, values).await;
        rows.map_err(|e| explain(e).context(&self.described))
    }

    async fn execute(&self, sql: &str, values: &[&str]) -> Result<u64> {
        let done = self.opened().await?.database.execute(sql, values).await;
        done.map_err(|e| explain(e).context(&self.described))
    }

    async fn metadata_location(&self, table: &TableIdent) -> Result<String> {
        let kind = if self.opened().await?.schema == Schema::V1 { "iceberg_type" } else { "NULL" };
        let sql = format!(
            "SELECT metadata_location, {kind} FROM iceberg_tables \
             WHERE catalog_name = $1 AND table_namespace = $2 AND table_name = $3"
        );
        let namespace = joined(table.namespace());
        let rows = self.rows(&sql, &[&self.config.name, &namespace, table.name()]).await?;
        let not_found =
            || Error::new(ErrorKind::NotFound, format!("table {table} does not exist in {}", self.described));
        let mut row = rows.into_iter().next().ok_or_else(not_found)?.into_iter();
        let location = row.next().flatten();
        if let Some(kind) = row.next().flatten().filter(|kind| kind != "TABLE") {
            return Err(Error::new(
                ErrorKind::NotIceberg,
                format!("{table} is not a table but a {}", kind.to_lowercase()),
            ));
        }
        location.ok_or_else(|| {
            Error::new(ErrorKind::Invalid, format!("table {table} has no metadata location in the catalog"))
        })
    }

    /// None when there is no such namespace. A namespace is there if it has properties or tables, as in Java and `PyIceberg`.
    async fn namespace(&self, namespace: &NamespaceIdent) -> Result<Option<BTreeMap<String, String>>> {
        let name = joined(namespace);
        let sql = "SELECT property_key, property_value FROM iceberg_namespace_properties WHERE catalog_name = $1 AND namespace = $2";
        let rows = self.rows(sql, &[&self.config.name, &name]).await?;
        if rows.is_empty() {
            let sql = "SELECT table_name FROM iceberg_tables WHERE catalog_name = $1 AND table_namespace = $2 LIMIT 1";
            let tables = self.rows(sql, &[&self.config.name, &name]).await?;
            return Ok((!tables.is_empty()).then(BTreeMap::new));
        }
        let pair = |row: Vec<Option<String>>| {
            let mut row = row.into_iter().flatten();
            Some((row.next()?, row.next()?))
        };
        Ok(Some(rows.into_iter().filter_map(pair).collect()))
    }

    async fn existing(&self, namespace: &NamespaceIdent) -> Result<BTreeMap<String, String>> {
        let none = || Error::new(ErrorKind::NotFound, format!("namespace {} does not exist", joined(namespace)));
        self.namespace(namespace).await?.ok_or_else(none)
    }
}

impl Opened {
    fn tables_alone(&self) -> &'static str {
        if self.schema == Schema::V1 { TABLES_ALONE } else { "" }
    }
}

/// As both tables store a namespace.
fn joined(namespace: &NamespaceIdent) -> String {
    namespace.join(".")
}

/// The uri without user and password.
fn describe(uri: &str) -> String {
    match url::Url::parse(uri) {
        Ok(url) if url.has_host() => {
            let port = url.port().map(|p| format!(":{p}")).unwrap_or_default();
            format!("sql {}://{}{port}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path())
        }
        _ => format!("sql {}", uri.split('?').next().unwrap_or_default()),
    }
}

async fn prepare(database: &Database) -> Result<Schema> {
    for make in [MAKE_TABLES, MAKE_NAMESPACES] {
        if let Err(e) = database.execute(make, &[]).await {
            // two processes that start at once: PostgreSQL's IF NOT EXISTS is not atomic
            if !e.as_database_error().is_some_and(|d| d.is_unique_violation()) {
                return Err(explain(e));
            }
        }
    }
    let v1 = "SELECT metadata_location, iceberg_type FROM iceberg_tables LIMIT 0";
    if database.rows(v1, &[]).await.is_ok() {
        return Ok(Schema::V1);
    }
    database.rows("SELECT metadata_location FROM iceberg_tables LIMIT 0", &[]).await.map_err(explain)?;
    Ok(Schema::V0)
}

#[async_trait]
impl Catalog for SqlCatalog {
    fn describe(&self) -> String {
        self.described.clone()
    }

    fn file_io(&self) -> &FileIO {
        &self.file_io
    }

    async fn probe(&self) -> Result<()> {
        self.rows("SELECT table_name FROM iceberg_tables LIMIT 0", &[]).await.map(|_| ())
    }

    async fn list_namespaces(&self) -> Result<Vec<NamespaceIdent>> {
        let sql = "SELECT namespace FROM iceberg_namespace_properties WHERE catalog_name = $1 \
                   UNION SELECT table_namespace FROM iceberg_tables WHERE catalog_name = $1";
        let rows = self.rows(sql, &[&self.config.name]).await?;
        let names: BTreeSet<String> = rows.into_iter().flatten().flatten().collect();
        let ident = |name: String| NamespaceIdent::from_vec(name.split('.').map(str::to_owned).collect());
        names.into_iter().map(|name| Ok(ident(name)?)).collect()
    }

    async fn ensure_namespace(&self, namespace: &NamespaceIdent, properties: HashMap<String, String>) -> Result<()> {
        if self.namespace(namespace).await?.is_some() {
            return Ok(());
        }
        let name = joined(namespace);
        let sql = "INSERT INTO iceberg_namespace_properties (catalog_name, namespace, property_key, property_value) \
                   VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING";
        // without a property there would be no row
        let exists = [("exists".to_owned(), "true".to_owned())];
        for (key, value) in exists.into_iter().chain(properties) {
            self.execute(sql, &[&self.config.name, &name, &key, &value]).await?;
        }
        Ok(())
    }

    async fn list_tables(&self, namespace: &NamespaceIdent) -> Result<Vec<TableIdent>> {
        self.existing(namespace).await?;
        let sql = format!(
            "SELECT table_name FROM iceberg_tables WHERE catalog_name = $1 AND table_namespace = $2{} ORDER BY table_name",
            self.opened().await?.tables_alone()
        );
        let rows = self.rows(&sql, &[&self.config.name, &joined(namespace)]).await?;
        Ok(rows.into_iter().flatten().flatten().map(|name| TableIdent::new(namespace.clone(), name)).collect())
    }

    async fn load(&self, table: &TableIdent) -> Result<Table> {
        let location = self.metadata_location(table).await?;
        metadata::read(table, &self.file_io, location).await
    }

    async fn load_unless_at(&self, table: &TableIdent, known: &str) -> Result<Option<Table>> {
        let location = self.metadata_location(table).await?;
        metadata::read_unless_at(table, &self.file_io, location, known).await
    }

    async fn create(&self, namespace: &NamespaceIdent, creation: TableCreation) -> Result<Table> {
        let table = TableIdent::new(namespace.clone(), creation.name.clone());
        let properties = self.existing(namespace).await?;
        let exists = || Error::new(ErrorKind::AlreadyExists, format!("table {table} exists in {}", self.described));
        match self.metadata_location(&table).await {
            Ok(_) => return Err(exists()),
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        let home = properties.get("location").map(|l| l.trim_end_matches('/').to_owned());
        let home = home.unwrap_or_else(|| format!("{}/{}", self.config.warehouse, namespace.join("/")));
        let location = creation.location.clone().unwrap_or_else(|| format!("{home}/{}", creation.name));
        let written = metadata::write_first(&self.file_io, &location, creation).await?;
        let opened = self.opened().await?;
        let (column, value) = if opened.schema == Schema::V1 { (", iceberg_type", ", 'TABLE'") } else { ("", "") };
        let sql = format!(
            "INSERT INTO iceberg_tables (catalog_name, table_namespace, table_name, metadata_location{column}) \
             VALUES ($1, $2, $3, $4{value})"
        );
        let values = [self.config.name.as_str(), &joined(namespace), table.name(), &written.location];
        match opened.database.execute(&sql, &values).await {
            Ok(_) => metadata::table(&table, &self.file_io, written),
            Err(e) if e.as_database_error().is_some_and(|d| d.is_unique_violation()) => {
                // refused for sure: nobody will ever name this file
                let _ = self.file_io.delete(&written.location).await;
                Err(exists())
            }
            Err(e) => Err(explain_swap(e).context(&self.described).with_leftover(written.location)),
        }
    }

    async fn drop(&self, table: &TableIdent) -> Result<()> {
        let sql = format!(
            "DELETE FROM iceberg_tables WHERE catalog_name = $1 AND table_namespace = $2 AND table_name = $3{}",
            self.opened().await?.tables_alone()
        );
        let values = [self.config.name.as_str(), &joined(table.namespace()), table.name()];
        match self.execute(&sql, &values).await? {
            0 => Err(Error::new(ErrorKind::NotFound, format!("table {table} does not exist in {}", self.described))),
            _ => Ok(()),
        }
    }

    async fn swap(&self, base: &Table, requirements: &[TableRequirement], updates: &[TableUpdate]) -> Result<Table> {
        let table = base.identifier();
        let opened = self.opened().await?;
        let previous = base.metadata_location_result()?;
        let written = metadata::write_next(base, requirements, updates).await?;
        let sql = format!(
            "UPDATE iceberg_tables SET metadata_location = $1, previous_metadata_location = $2 \
             WHERE catalog_name = $3 AND table_namespace = $4 AND table_name = $5 AND metadata_location = $2{}",
            opened.tables_alone()
        );
        let namespace = joined(table.namespace());
        let values = [written.location.as_str(), previous, &self.config.name, &namespace, table.name()];
        let swapped = around_async(
            Step::Swap,
            async {
                match opened.database.execute(&sql, &values).await {
                    Ok(0) => Err(Error::new(ErrorKind::Conflict, format!("table {table} moved"))),
                    Ok(_) => Ok(()),
                    Err(e) => Err(explain_swap(e)),
                }
            },
            Failure::of_swap,
        );
        match swapped.await {
            Ok(()) => metadata::table(table, &self.file_io, written),
            Err(e) => Err(e.context(&self.described).with_leftover(written.location)),
        }
    }
}

#[cfg(test)]
mod tests;
