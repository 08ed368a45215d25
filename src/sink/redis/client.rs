//! The connection, and the scripts on it.

use std::sync::LazyLock;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Cmd, ErrorKind, IntoConnectionInfo, RedisConnectionInfo, RedisError, ServerErrorKind, Value,
    io::tcp::TcpSettings,
};

use super::error::explain;
use crate::sink::SinkError;

/// A server that does not take a connection for so long is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A script takes some ms. Redis may stand still for seconds while it forks or its disk is slow; a minute is an outage.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// A script of firn's, known to Redis by its hash.
pub(super) struct Script {
    text: &'static str,
    hash: String,
}

macro_rules! script {
    ($name:ident, $($part:literal),+) => {
        pub(super) static $name: LazyLock<Script> = LazyLock::new(|| {
            let text = concat!($(include_str!($part), "\n"),+);
            Script { text, hash: redis::Script::new(text).get_hash().to_owned() }
        });
    };
}

script!(DELIVER, "top.lua", "deliver.lua");
script!(TICK, "top.lua", "tick.lua");
script!(TAKE_OVER, "take_over.lua");
script!(REWIND, "rewind.lua");
script!(TRIAL, "trial.lua");

/// One run of a script.
pub(super) struct Call {
    script: &'static Script,
    command: Cmd,
}

impl Call {
    pub(super) fn new<'a>(script: &'static Script, keys: impl ExactSizeIterator<Item = &'a [u8]>) -> Self {
        let mut command = redis::cmd("EVALSHA");
        command.arg(&script.hash).arg(keys.len());
        for key in keys {
            command.arg(key);
        }
        Self { script, command }
    }

    pub(super) fn arg(&mut self, arg: impl AsRef<[u8]>) -> &mut Self {
        self.command.arg(arg.as_ref());
        self
    }

    /// How many arguments it has.
    pub(super) fn len(&self) -> usize {
        self.command.args_iter().len()
    }
}

/// One Redis. Connects when it is needed, and anew after whatever broke the connection.
pub(super) struct Client {
    url: String,
    /// Host and port, for messages.
    at: String,
    connection: Option<MultiplexedConnection>,
}

impl Client {
    pub(super) fn new(url: String) -> Self {
        Self { url, at: "its url".to_owned(), connection: None }
    }

    /// Host and port, for messages.
    pub(super) fn at(&self) -> &str {
        &self.at
    }

    /// Runs a script, which Redis may have forgotten.
    pub(super) async fn run(&mut self, call: &Call) -> Result<Value, SinkError> {
        match self.ask(&call.command).await {
            Err(e) if e.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                let mut load = redis::cmd("SCRIPT");
                load.arg("LOAD").arg(call.script.text);
                self.query(&load).await?;
                self.query(&call.command).await
            }
            answer => answer.map_err(|e| self.failed(&e)),
        }
    }

    pub(super) async fn query(&mut self, command: &Cmd) -> Result<Value, SinkError> {
        self.ask(command).await.map_err(|e| self.failed(&e))
    }

    async fn ask(&mut self, command: &Cmd) -> Result<Value, RedisError> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        command.query_async(self.connection.insert(connection)).await
    }

    /// Logs in by itself: the client crate tells nothing of why a login failed.
    async fn connect(&mut self) -> Result<MultiplexedConnection, RedisError> {
        let info = self.url.as_str().into_connection_info()?;
        self.at = info.addr().to_string();
        let login = info.redis_settings().clone();
        // A script's last packet does not wait for the answer to the one before.
        let tcp = TcpSettings::default().set_nodelay(true);
        let bare = info.set_redis_settings(RedisConnectionInfo::default()).set_tcp_settings(tcp);
        let client = redis::Client::open(bare)?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(ANSWER_TIMEOUT));
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        if let Some(password) = login.password() {
            redis::cmd("AUTH").arg(login.username()).arg(password).exec_async(&mut connection).await?;
        }
        if login.db() != 0 {
            redis::cmd("SELECT").arg(login.db()).exec_async(&mut connection).await?;
        }
        Ok(connection)
    }

    /// After a failure that another server, or this one later, may not have, the next try begins with a new connection: behind the
    /// name there may be another server by then.
    fn failed(&mut self, error: &RedisError) -> SinkError {
        let error = explain(&self.at, error);
        if matches!(error, SinkError::Unavailable(_)) {
            self.connection = None;
        }
        error
    }
}
