//! Tables registered in a catalog that speaks Iceberg's REST protocol: it writes the metadata files and compares by requirements.
//!
//! # Layout
//! - `config`: how it is reached; `auth`: its token; `client`: requests, the only place that knows HTTP.
//! - `wire`: the protocol's messages, the requirements of a swap; `fault`: what a status means.

mod auth;
mod client;
mod config;
mod fault;
mod wire;

use std::collections::HashMap;
use std::fmt;

use async_trait::async_trait;
use iceberg::io::FileIO;
use iceberg::spec::TableMetadata;
use iceberg::table::Table;
use iceberg::{NamespaceIdent, Runtime, TableCreation, TableIdent, TableRequirement, TableUpdate};

pub use config::RestConfig;

use crate::failpoint::{Failure, Step, around_async};
use crate::{Catalog, Error, ErrorKind, Result, storage};
use client::{Client, Nothing, namespace_path};
use fault::Doing;
use wire::{CommitTable, CommittedTable, CreateNamespace, CreateTable, LoadedTable, Namespaces, Tables};

pub struct RestCatalog {
    client: Client,
    file_io: FileIO,
}

impl RestCatalog {
    /// Asks nothing yet. A table is read through `file_io`, unless the server gives it credentials of its own.
    ///
    /// # Errors
    /// `Refused` when the configuration is wrong.
    pub fn new(config: RestConfig, file_io: FileIO) -> Result<Self> {
        Ok(Self { client: Client::new(config)?, file_io })
    }

    /// Some servers (Nessie 0.99) let "the branch has no snapshot" pass whatever is there: for a table's first snapshot look
    /// ourselves. It narrows the gap between two first writers, no more.
    async fn ensure_empty(&self, table: &TableIdent) -> Result<()> {
        match self.load(table).await?.metadata().current_snapshot_id() {
            None => Ok(()),
            Some(id) => Err(Error::new(ErrorKind::Conflict, format!("swap {table}: it has snapshot {id} meanwhile"))),
        }
    }

    async fn table(&self, ident: &TableIdent, loaded: LoadedTable) -> Result<Table> {
        let file_io = match vended(&loaded) {
            Some(vended) => {
                let mut properties = self.client.session().await?.properties.clone();
                properties.extend(vended);
                storage::file_io(loaded.metadata.location(), &properties)?
            }
            None => self.file_io.clone(),
        };
        build(ident, file_io, loaded.metadata, loaded.metadata_location)
    }
}

/// Storage properties that the server gives for one table, if there are credentials among them: else ours are the better.
fn vended(loaded: &LoadedTable) -> Option<HashMap<String, String>> {
    let mut properties = loaded.config.clone();
    // The longest prefix is the most precise one.
    let mut credentials: Vec<_> =
        loaded.storage_credentials.iter().filter(|c| loaded.metadata.location().starts_with(&c.prefix)).collect();
    credentials.sort_by_key(|c| c.prefix.len());
    properties.extend(credentials.into_iter().flat_map(|c| c.config.clone()));
    properties.contains_key("s3.access-key-id").then_some(properties)
}

fn build(ident: &TableIdent, file_io: FileIO, metadata: TableMetadata, location: Option<String>) -> Result<Table> {
    let mut builder = Table::builder().identifier(ident.clone()).file_io(file_io).metadata(metadata);
    if let Some(location) = location {
        builder = builder.metadata_location(location);
    }
    Ok(builder.runtime(Runtime::try_current()?).build()?)
}

/// Follows the pages of a list.
macro_rules! pages {
    ($self:ident, $path:expr, $page:ty, $items:ident) => {{
        let mut all = Vec::new();
        // An empty token asks for pages; a server that has none ignores it.
        let mut token = String::new();
        loop {
            let page: $page = $self.client.get($path, &[("pageToken", &token)]).await?;
            all.extend(page.$items);
            match page.next_page_token.filter(|t| !t.is_empty()) {
                Some(next) => token = next,
                None => break Ok::<_, Error>(all),
            }
        }
    }};
}

#[async_trait]
impl Catalog for RestCatalog {
    fn describe(&self) -> String {
        self.to_string()
    }

    fn file_io(&self) -> &FileIO {
        &self.file_io
    }

    /// The protocol itself promises that requirements are checked.
    async fn probe(&self) -> Result<()> {
        let session = self.client.ask_config().await.map_err(|e| e.context(self))?;
        if session.properties.get("nessie.is-nessie-catalog").is_some_and(|v| v == "true") {
            // Seen on 0.99: see `ensure_empty`.
            tracing::warn!(
                "{self} is Nessie, which lists only a table's current snapshot and doesn't check that a table has none: \
                 let one process write a table"
            );
        }
        Ok(())
    }

    /// Those of the first level.
    async fn list_namespaces(&self) -> Result<Vec<NamespaceIdent>> {
        pages!(self, &["namespaces"], Namespaces, namespaces).map_err(|e: Error| e.context(self))
    }

    async fn ensure_namespace(&self, namespace: &NamespaceIdent, properties: HashMap<String, String>) -> Result<()> {
        let told = |e: Error| e.context(format_args!("namespace {}", namespace.join(".")));
        match self.client.get::<Nothing>(&["namespaces", &namespace_path(namespace)], &[]).await {
            Ok(_) => return Ok(()),
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(told(e)),
        }
        let request = CreateNamespace { namespace, properties };
        match self.client.post::<Nothing>(&["namespaces"], &request, Doing::Change).await {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => Err(told(e)),
            _ => Ok(()),
        }
    }

    async fn list_tables(&self, namespace: &NamespaceIdent) -> Result<Vec<TableIdent>> {
        let path = ["namespaces", &namespace_path(namespace), "tables"];
        let tables: Vec<TableIdent> = pages!(self, &path, Tables, identifiers)
            .map_err(|e: Error| e.context(format_args!("tables of {}", namespace.join("."))))?;
        if tables.is_empty() {
            // Some servers list an unknown namespace as empty.
            let known = self.client.get::<Nothing>(&["namespaces", &namespace_path(namespace)], &[]).await;
            known.map_err(|e| e.context(format_args!("namespace {}", namespace.join("."))))?;
        }
        Ok(tables)
    }

    async fn load(&self, table: &TableIdent) -> Result<Table> {
        let path = ["namespaces", &namespace_path(table.namespace()), "tables", table.name()];
        let loaded: LoadedTable =
            self.client.get(&path, &[]).await.map_err(|e| e.context(format_args!("load {table}")))?;
        self.table(table, loaded).await
    }

    /// The protocol answers the whole metadata whatever is asked.
    async fn load_unless_at(&self, table: &TableIdent, known: &str) -> Result<Option<Table>> {
        let loaded = self.load(table).await?;
        Ok((loaded.metadata_location() != Some(known)).then_some(loaded))
    }

    async fn create(&self, namespace: &NamespaceIdent, creation: TableCreation) -> Result<Table> {
        let ident = TableIdent::new(namespace.clone(), creation.name.clone());
        let path = ["namespaces", &namespace_path(namespace), "tables"];
        let created = self.client.post::<LoadedTable>(&path, &CreateTable::from(creation), Doing::Change).await;
        self.table(&ident, created.map_err(|e| e.context(format_args!("create {ident}")))?).await
    }

    async fn drop(&self, table: &TableIdent) -> Result<()> {
        let path = ["namespaces", &namespace_path(table.namespace()), "tables", table.name()];
        let dropped = self.client.delete(&path, &[("purgeRequested", "false")]).await;
        dropped.map_err(|e| e.context(format_args!("drop {table}")))
    }

    async fn swap(&self, base: &Table, requirements: &[TableRequirement], updates: &[TableUpdate]) -> Result<Table> {
        let table = base.identifier();
        for requirement in requirements {
            requirement.check(Some(base.metadata()))?;
        }
        if base.metadata().current_snapshot_id().is_none() {
            self.ensure_empty(table).await?;
        }
        // As the reference client does: what the updates come to, with the ids of new schemas and specs.
        let metadata = base.metadata();
        let mut builder = metadata.clone().into_builder(base.metadata_location().map(str::to_owned));
        for update in updates {
            builder = update.clone().apply(builder)?;
        }
        let changes = builder.build()?.changes;
        let told = |e: serde_json::Error| {
            Error::new(ErrorKind::Invalid, format!("swap {table}: the updates can't be sent")).with_source(e)
        };
        let request = CommitTable {
            identifier: table,
            requirements: wire::requirements(metadata, requirements),
            updates: wire::updates(metadata, &changes).map_err(told)?,
        };
        let path = ["namespaces", &namespace_path(table.namespace()), "tables", table.name()];
        let sent = self.client.post(&path, &request, Doing::Swap);
        let committed: Result<CommittedTable> = around_async(Step::Swap, sent, Failure::of_swap).await;
        let CommittedTable { metadata, metadata_location } =
            committed.map_err(|e| e.context(format_args!("swap {table}")))?;
        // Nessie answers with its own address of the metadata; where the file is, it tells a reader. It has landed either way.
        if metadata_location.starts_with("http")
            && let Ok(seen) = self.load(table).await
        {
            return Ok(seen);
        }
        build(table, base.file_io().clone(), metadata, Some(metadata_location))
    }
}

impl fmt::Display for RestCatalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let config = self.client.config();
        write!(f, "rest {}", without_user(&config.uri))?;
        config.warehouse.as_ref().map_or(Ok(()), |w| write!(f, " warehouse {w}"))
    }
}

impl fmt::Debug for RestCatalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RestCatalog").field("config", self.client.config()).finish_non_exhaustive()
    }
}

/// An address may carry a name and a password.
fn without_user(uri: &str) -> String {
    match (uri.split_once("://"), uri.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
        _ => uri.to_owned(),
    }
}
