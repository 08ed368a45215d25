//! The trait that every catalog implements.

use std::collections::HashMap;
use std::fmt::Debug;

use async_trait::async_trait;
use iceberg::io::FileIO;
use iceberg::table::Table;
use iceberg::{NamespaceIdent, TableCreation, TableIdent, TableRequirement, TableUpdate};

use crate::Result;

/// Where tables are registered, and how their metadata is swapped.
#[async_trait]
pub trait Catalog: Debug + Send + Sync {
    /// For logs and errors, e.g. `hive thrift://localhost:9083`. No secrets.
    fn describe(&self) -> String;

    /// Through which the tables' files are read and written.
    fn file_io(&self) -> &FileIO;

    /// One round trip that proves the catalog answers and, where it matters, that it refuses a stale swap.
    ///
    /// # Errors
    /// When the catalog can't be reached, denies access, or would accept a stale swap in the configured mode.
    async fn probe(&self) -> Result<()>;

    async fn list_namespaces(&self) -> Result<Vec<NamespaceIdent>>;

    /// Makes the namespace unless it is there.
    async fn ensure_namespace(&self, namespace: &NamespaceIdent, properties: HashMap<String, String>) -> Result<()>;

    /// Iceberg tables only.
    async fn list_tables(&self, namespace: &NamespaceIdent) -> Result<Vec<TableIdent>>;

    /// # Errors
    /// `NotFound`; `NotIceberg` when the name belongs to another kind of table.
    async fn load(&self, table: &TableIdent) -> Result<Table>;

    /// As [`Catalog::load`]; `None` where the table's metadata still lies at `known`, which no catalog reads storage to see.
    ///
    /// # Errors
    /// As there.
    async fn load_unless_at(&self, table: &TableIdent, known: &str) -> Result<Option<Table>>;

    /// Creates the table (format version, spec, order and properties as in `creation`; the location is the catalog's choice
    /// unless given) and answers it as loaded.
    ///
    /// # Errors
    /// `AlreadyExists`, also when somebody else created it in between.
    async fn create(&self, namespace: &NamespaceIdent, creation: TableCreation) -> Result<Table>;

    /// Unregisters the table; its files stay.
    async fn drop(&self, table: &TableIdent) -> Result<()>;

    /// Replaces `base`'s metadata by `base` + `updates`, only if `base` is still current and `requirements` hold.
    ///
    /// Sent once: no retry inside, because a repeated swap could be refused although its first try landed.
    ///
    /// # Errors
    /// `Conflict` when the table moved (which does not prove that *this* swap did not land before: the caller looks for its
    /// snapshot id on the fresh base); `OutcomeUnknown` when the answer was lost.
    async fn swap(&self, base: &Table, requirements: &[TableRequirement], updates: &[TableUpdate]) -> Result<Table>;
}
