//! How a metastore is reached and how tables are swapped in it.

use serde::Deserialize;

/// What guards a swap against other writers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CommitMode {
    /// Lock and compare; compare alone for a table whose property `engine.hive.lock-enabled` is `false`; lock alone where the probe
    /// found that the metastore can't compare.
    #[default]
    Auto,
    /// Both: safe beside every writer. Java's with locks on send no expected value, so comparing alone would lose commits beside them.
    LockAndCompare,
    /// Only the compare-and-set (HIVE-26882). Safe when every other writer of the tables compares, too.
    Compare,
    /// Only the lock. Not safe against a pause longer than the metastore's `metastore.txn.timeout` between the last look at the lock
    /// and the swap, nor when the answer to a swap is lost: for metastores that can't compare.
    Lock,
}

/// As the metastore's `metastore.thrift.framed.transport.enabled` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ThriftTransport {
    #[default]
    Buffered,
    Framed,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct HmsConfig {
    /// `thrift://host:port[,thrift://host:port]`: metastores on one database; the first that answers is used.
    pub uri: String,
    /// Where databases and tables are put that have no location of their own, e.g. `s3://bucket/warehouse`.
    pub warehouse: String,
    #[serde(default)]
    pub mode: CommitMode,
    #[serde(default)]
    pub transport: ThriftTransport,
    /// For each address of each host.
    #[serde(default = "connect_timeout_ms")]
    pub connect_timeout_ms: u64,
    /// For one call. Too short, and a busy metastore's swaps end as unknown.
    #[serde(default = "call_timeout_ms")]
    pub call_timeout_ms: u64,
    /// Longest wait for a table's lock.
    #[serde(default = "lock_timeout_ms")]
    pub lock_timeout_ms: u64,
    /// Between two signs of life for a held lock: well below the metastore's `metastore.txn.timeout` (300 s by default; a shorter one
    /// frees the lock of a killed writer sooner).
    #[serde(default = "lock_heartbeat_ms")]
    pub lock_heartbeat_ms: u64,
    /// The owner of tables and locks, shown to whoever waits for one.
    #[serde(default = "client_name")]
    pub client_name: String,
    /// An existing database for the probe's scratch table; without it the probe makes a database and drops it again.
    #[serde(default)]
    pub probe_database: Option<String>,
}

impl HmsConfig {
    pub fn new(uri: impl Into<String>, warehouse: impl Into<String>) -> Self {
        Self {
            uri: uri.into(),
            warehouse: warehouse.into(),
            mode: CommitMode::Auto,
            transport: ThriftTransport::Buffered,
            connect_timeout_ms: connect_timeout_ms(),
            call_timeout_ms: call_timeout_ms(),
            lock_timeout_ms: lock_timeout_ms(),
            lock_heartbeat_ms: lock_heartbeat_ms(),
            client_name: client_name(),
            probe_database: None,
        }
    }
}

fn connect_timeout_ms() -> u64 {
    5_000
}
fn call_timeout_ms() -> u64 {
    60_000
}
fn lock_timeout_ms() -> u64 {
    180_000
}
fn lock_heartbeat_ms() -> u64 {
    5_000
}
fn client_name() -> String {
    "firn".to_owned()
}
