//! The metastore's calls in plain types: the only place that knows Thrift.
//!
//! Tables are only read by the `_req` calls: Hive 4.0.1 dropped `get_table` and `get_table_objects_by_name`, and every version since 2.3
//! has these. Nothing is retried here except a read whose connection broke.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::time::Duration;

use hive_metastore as thrift;
use pilota::thrift::ApplicationExceptionKind;
use pilota::{AHashMap, FastStr};
use volo_thrift::codec::default::DefaultMakeCodec;
use volo_thrift::transport::pool;
use volo_thrift::{ClientError, MaybeException};

use super::fault::{Exception, Fault};
use super::hosts::{Hosts, NO_CONNECTION};
use super::table::{Column, Format, TableEntry};
use super::{HmsConfig, ThriftTransport};
use crate::failpoint::{Step, around_async};
use crate::{Error, ErrorKind, Result};

/// Idle connections kept: one call of each table's commit and heartbeat at once; more are opened when needed.
const IDLE_CONNECTIONS: usize = 8;
const IDLE_LIMIT: Duration = Duration::from_secs(60);

type Answer<T> = Result<T, Fault>;

#[derive(Clone)]
pub(super) struct Client {
    thrift: thrift::ThriftHiveMetastoreClient,
    hosts: Hosts,
    /// For one call, connecting included.
    limit: Duration,
}

impl Client {
    /// Doesn't connect yet.
    ///
    /// # Errors
    /// `Refused` when the host list is malformed or when called outside a tokio runtime, which the connections live in.
    pub(super) fn new(config: &HmsConfig) -> Result<Self> {
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(Error::new(ErrorKind::Refused, "a metastore client needs a tokio runtime"));
        }
        let connect = Duration::from_millis(config.connect_timeout_ms);
        let hosts = Hosts::parse(&config.uri, connect)?;
        let limit = Duration::from_millis(config.call_timeout_ms) + connect * hosts.len();
        let builder = thrift::ThriftHiveMetastoreClientBuilder::new("metastore")
            .address(volo::net::Address::Ip(([0, 0, 0, 0], 0).into()))
            .make_transport(hosts.clone())
            // volo's own limits are 1 s for a call; ours are around the whole call.
            .disable_timeout_layer()
            .pool_config(pool::Config::new(IDLE_CONNECTIONS, IDLE_LIMIT));
        let thrift = match config.transport {
            ThriftTransport::Buffered => builder.make_codec(DefaultMakeCodec::buffered()).build(),
            ThriftTransport::Framed => builder.make_codec(DefaultMakeCodec::framed()).build(),
        };
        Ok(Self { thrift, hosts, limit })
    }

    /// The name and the location of the database's tables.
    pub(super) async fn database_location(&self, name: &str) -> Answer<Option<String>> {
        let database = self.read(|| self.thrift.get_database(fast(name))).await?;
        Ok(database.location_uri.map(Into::into))
    }

    pub(super) async fn database_names(&self) -> Answer<Vec<String>> {
        let names = self.read(|| self.thrift.get_all_databases()).await?;
        Ok(names.into_iter().map(Into::into).collect())
    }

    pub(super) async fn create_database(
        &self,
        name: &str,
        location: Option<&str>,
        properties: &HashMap<String, String>,
    ) -> Answer<()> {
        let parameters = properties.iter().filter(|(k, _)| !matches!(k.as_str(), "location" | "comment" | "owner"));
        self.write(self.thrift.create_database(thrift::Database {
            name: Some(fast(name)),
            description: properties.get("comment").map(|c| fast(c)),
            location_uri: location.map(fast),
            owner_name: properties.get("owner").map(|o| fast(o)),
            owner_type: properties.get("owner").map(|_| thrift::PrincipalType::USER),
            parameters: Some(parameters.map(|(k, v)| (fast(k), fast(v))).collect()),
            ..Default::default()
        }))
        .await
    }

    /// Drops an empty database with its folder.
    pub(super) async fn drop_database(&self, name: &str) -> Answer<()> {
        self.write(self.thrift.drop_database(fast(name), true, false)).await
    }

    pub(super) async fn table_names(&self, database: &str) -> Answer<Vec<String>> {
        let names = self.read(|| self.thrift.get_all_tables(fast(database))).await?;
        Ok(names.into_iter().map(Into::into).collect())
    }

    /// Those of the named tables that (still) exist.
    pub(super) async fn tables(&self, database: &str, names: &[String]) -> Answer<Vec<StoredTable>> {
        let request = thrift::GetTablesRequest {
            db_name: fast(database),
            tbl_names: Some(names.iter().map(|n| fast(n)).collect()),
            capabilities: None,
        };
        let result = self.read(|| self.thrift.get_table_objects_by_name_req(request.clone())).await?;
        Ok(result.tables.into_iter().map(StoredTable).collect())
    }

    pub(super) async fn table(&self, database: &str, name: &str) -> Answer<StoredTable> {
        let request = thrift::GetTableRequest { db_name: fast(database), tbl_name: fast(name), capabilities: None };
        let result = self.read(|| self.thrift.get_table_req(request.clone())).await?;
        Ok(StoredTable(result.table))
    }

    pub(super) async fn create_table(&self, table: StoredTable) -> Answer<()> {
        self.write(self.thrift.create_table(table.0)).await
    }

    /// Replaces the stored table, if `expected` is given only while its parameter still has that value (HIVE-26882; a server without it
    /// replaces it anyway). Sent once.
    pub(super) async fn alter_table(
        &self,
        database: &str,
        name: &str,
        table: StoredTable,
        expected: Option<(&str, &str)>,
    ) -> Answer<()> {
        let mut properties = AHashMap::from_iter([(FastStr::from("DO_NOT_UPDATE_STATS"), FastStr::from("true"))]);
        if let Some((key, value)) = expected {
            properties.insert("expected_parameter_key".into(), fast(key));
            properties.insert("expected_parameter_value".into(), fast(value));
        }
        let context = thrift::EnvironmentContext { properties: Some(properties) };
        let call = self.thrift.alter_table_with_environment_context(fast(database), fast(name), table.0, context);
        around_async(Step::Swap, self.write(call), Fault::injected).await
    }

    pub(super) async fn drop_table(&self, database: &str, name: &str, data: Data) -> Answer<()> {
        self.write(self.thrift.drop_table(fast(database), fast(name), data == Data::Delete)).await
    }

    /// Asks for the exclusive lock of one table; it is queued if it can't be had now.
    pub(super) async fn lock(&self, database: &str, table: &str, owner: &LockOwner) -> Answer<(i64, LockState)> {
        let component = thrift::LockComponent {
            r#type: thrift::LockType::EXCLUSIVE,
            level: thrift::LockLevel::TABLE,
            dbname: fast(database),
            tablename: Some(fast(table)),
            ..Default::default()
        };
        let call = self.thrift.lock(thrift::LockRequest {
            component: vec![component],
            txnid: None,
            user: fast(&owner.user),
            hostname: fast(&owner.host),
            agent_info: Some(fast(&owner.agent)),
        });
        let answer = around_async(Step::Lock, self.write(call), Fault::injected).await?;
        Ok((answer.lockid, answer.state.into()))
    }

    pub(super) async fn check_lock(&self, id: i64) -> Answer<LockState> {
        let request = thrift::CheckLockRequest { lockid: id, txnid: None, elapsed_ms: None };
        Ok(self.read(|| self.thrift.check_lock(request.clone())).await?.state.into())
    }

    pub(super) async fn heartbeat(&self, id: i64) -> Answer<()> {
        let request = thrift::HeartbeatRequest { lockid: Some(id), txnid: None };
        self.read(|| self.thrift.heartbeat(request.clone())).await
    }

    pub(super) async fn unlock(&self, id: i64) -> Answer<()> {
        let call = || self.write(self.thrift.unlock(thrift::UnlockRequest { lockid: id }));
        self.again(|| around_async(Step::Unlock, call(), Fault::injected)).await
    }

    /// The table's locks, held or waited for.
    pub(super) async fn locks(&self, database: &str, table: &str) -> Answer<Vec<Lock>> {
        let request = thrift::ShowLocksRequest {
            dbname: Some(fast(database)),
            tablename: Some(fast(table)),
            partname: None,
            is_extended: Some(false),
        };
        let call = async { self.thrift.show_locks(request).await.map(MaybeException::<_, NoException>::Ok) };
        let locks = self.write(call).await?.locks.unwrap_or_default();
        let lock = |l: thrift::ShowLocksResponseElement| Lock {
            id: l.lockid,
            state: l.state.into(),
            user: l.user.into(),
            host: l.hostname.into(),
            agent: l.agent_info.map(Into::into),
        };
        Ok(locks.into_iter().map(lock).collect())
    }

    /// One call, sent once.
    async fn write<T, E: Into<Answered>>(
        &self,
        call: impl Future<Output = Result<MaybeException<T, E>, ClientError>>,
    ) -> Answer<T> {
        match tokio::time::timeout(self.limit, Box::pin(call)).await {
            Err(_) => Err(Fault::Lost(format!("{}: no answer within {} ms", self.hosts, self.limit.as_millis()))),
            Ok(Err(e)) => Err(self.fault(&e)),
            Ok(Ok(MaybeException::Ok(value))) => Ok(value),
            Ok(Ok(MaybeException::Exception(e))) => {
                let Answered(kind, message) = e.into();
                Err(Fault::Answer(kind, message))
            }
        }
    }

    /// One call that may be sent again: a pooled connection can turn out to be dead, of a server that was started anew.
    async fn read<T, E: Into<Answered>, F: Future<Output = Result<MaybeException<T, E>, ClientError>>>(
        &self,
        call: impl Fn() -> F,
    ) -> Answer<T> {
        self.again(|| self.write(call())).await
    }

    async fn again<T, F: Future<Output = Answer<T>>>(&self, call: impl Fn() -> F) -> Answer<T> {
        match call().await {
            Err(Fault::Lost(_)) => call().await,
            answer => answer,
        }
    }

    fn fault(&self, e: &ClientError) -> Fault {
        match e {
            ClientError::Transport(e) if e.kind() == NO_CONNECTION => {
                Fault::NotSent(format!("no metastore answers ({})", short(e.message())))
            }
            ClientError::Transport(e) => Fault::Lost(format!("{}: {}", self.hosts, short(e.message()))),
            ClientError::Protocol(e) => Fault::Lost(format!("{}: not understood: {}", self.hosts, short(e.message()))),
            ClientError::Application(e) if e.kind() == ApplicationExceptionKind::UNKNOWN_METHOD => {
                Fault::NoSuchMethod(short(e.message()))
            }
            ClientError::Application(e) => Fault::Broken(format!("{}: {}", self.hosts, short(e.message()))),
            ClientError::Biz(e) => Fault::Broken(short(&e.to_string())),
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({})", self.hosts)
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.hosts.fmt(f)
    }
}

/// What becomes of a dropped table's folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Data {
    Keep,
    Delete,
}

/// A table as the metastore has it: what this crate doesn't know of it goes back unchanged.
#[derive(Clone, Debug)]
pub(super) struct StoredTable(thrift::Table);

impl StoredTable {
    /// An external table without any content yet.
    pub(super) fn new(database: &str, name: &str, owner: &str) -> Self {
        Self(thrift::Table {
            table_name: Some(fast(name)),
            db_name: Some(fast(database)),
            owner: Some(fast(owner)),
            table_type: Some("EXTERNAL_TABLE".into()),
            partition_keys: Some(vec![]),
            parameters: Some(AHashMap::new()),
            ..Default::default()
        })
    }

    pub(super) fn name(&self) -> &str {
        self.0.table_name.as_deref().unwrap_or_default()
    }

    pub(super) fn parameter(&self, key: &str) -> Option<&str> {
        self.0.parameters.as_ref()?.get(key).map(FastStr::as_str)
    }

    pub(super) fn set_parameter(&mut self, key: &str, value: &str) {
        self.0.parameters.get_or_insert_default().insert(fast(key), fast(value));
    }

    /// Writes `entry` over what is there; parameters that `entry` doesn't name stay.
    pub(super) fn apply(&mut self, entry: &TableEntry) {
        let parameters = self.0.parameters.get_or_insert_default();
        for (key, value) in &entry.parameters {
            match value {
                Some(value) => parameters.insert(fast(key), fast(value)),
                None => parameters.remove(key.as_str()),
            };
        }
        let sd = self.0.sd.get_or_insert_default();
        sd.location = Some(fast(&entry.location));
        sd.cols = Some(entry.columns.iter().map(field_schema).collect());
        let Format { input, output, serde } = entry.format;
        sd.input_format = Some(input.into());
        sd.output_format = Some(output.into());
        sd.serde_info.get_or_insert_default().serialization_lib = Some(serde.into());
    }

    /// Gives it columns and no data: for the probe.
    pub(super) fn with_columns(mut self, columns: &[Column]) -> Self {
        let Format { input, output, serde } = super::table::FILES;
        self.0.sd = Some(thrift::StorageDescriptor {
            cols: Some(columns.iter().map(field_schema).collect()),
            input_format: Some(input.into()),
            output_format: Some(output.into()),
            serde_info: Some(thrift::SerDeInfo { serialization_lib: Some(serde.into()), ..Default::default() }),
            ..Default::default()
        });
        self
    }
}

fn field_schema(column: &Column) -> thrift::FieldSchema {
    thrift::FieldSchema {
        name: Some(fast(&column.name)),
        r#type: Some(fast(&column.hive_type)),
        comment: column.comment.as_deref().map(fast),
    }
}

/// Who asks for a lock; `agent` is unique, so that a lock whose answer was lost can be found again.
#[derive(Clone, Debug)]
pub(super) struct LockOwner {
    pub(super) user: String,
    pub(super) host: String,
    pub(super) agent: String,
}

#[derive(Clone, Debug)]
pub(super) struct Lock {
    pub(super) id: i64,
    pub(super) state: LockState,
    pub(super) user: String,
    pub(super) host: String,
    pub(super) agent: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LockState {
    Acquired,
    Waiting,
    /// It will never be had.
    Gone,
}

impl From<thrift::LockState> for LockState {
    fn from(state: thrift::LockState) -> Self {
        match state {
            thrift::LockState::ACQUIRED => Self::Acquired,
            thrift::LockState::WAITING => Self::Waiting,
            _ => Self::Gone,
        }
    }
}

/// An exception's type and text.
struct Answered(Exception, String);

/// Of calls that declare none.
enum NoException {}
impl From<NoException> for Answered {
    fn from(never: NoException) -> Self {
        match never {}
    }
}

macro_rules! answered {
    ($($exception:ident { $($variant:ident => $kind:ident),+ })+) => {$(
        impl From<thrift::$exception> for Answered {
            fn from(e: thrift::$exception) -> Self {
                match e {
                    $(thrift::$exception::$variant(e) => Self(Exception::$kind, e.message.map(Into::into).unwrap_or_default()),)+
                }
            }
        }
    )+};
}

answered! {
    ThriftHiveMetastoreGetDatabaseException { O1 => NoSuchObject, O2 => Meta }
    ThriftHiveMetastoreGetAllDatabasesException { O1 => Meta }
    ThriftHiveMetastoreCreateDatabaseException { O1 => AlreadyExists, O2 => InvalidObject, O3 => Meta }
    ThriftHiveMetastoreDropDatabaseException { O1 => NoSuchObject, O2 => InvalidOperation, O3 => Meta }
    ThriftHiveMetastoreGetAllTablesException { O1 => Meta }
    ThriftHiveMetastoreGetTableObjectsByNameReqException { O1 => Meta, O2 => InvalidOperation, O3 => UnknownDb }
    ThriftHiveMetastoreGetTableReqException { O1 => Meta, O2 => NoSuchObject }
    ThriftHiveMetastoreCreateTableException { O1 => AlreadyExists, O2 => InvalidObject, O3 => Meta, O4 => NoSuchObject }
    ThriftHiveMetastoreAlterTableWithEnvironmentContextException { O1 => InvalidOperation, O2 => Meta }
    ThriftHiveMetastoreDropTableException { O1 => NoSuchObject, O3 => Meta }
    ThriftHiveMetastoreLockException { O1 => Transaction, O2 => Transaction }
    ThriftHiveMetastoreCheckLockException { O1 => Transaction, O2 => Transaction, O3 => NoSuchLock }
    ThriftHiveMetastoreHeartbeatException { O1 => NoSuchLock, O2 => Transaction, O3 => Transaction }
    ThriftHiveMetastoreUnlockException { O1 => NoSuchLock, O2 => Transaction }
}

fn fast(s: &str) -> FastStr {
    FastStr::new(s)
}

/// The client appends its whole call context to a message: not for people.
fn short(message: &str) -> String {
    let end = [", cx:", ", rpcinfo:", ", rpc_info:"].iter().filter_map(|cut| message.find(cut)).min();
    message.get(..end.unwrap_or(message.len())).unwrap_or(message).to_owned()
}
