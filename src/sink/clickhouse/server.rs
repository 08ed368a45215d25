//! One node of ClickHouse, by HTTP. The client's own types stop here.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use clickhouse::insert_formatted::InsertFormatted;
use clickhouse::{Client, RowOwned, RowRead};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use reqwest::Url;

use super::fault::Fault;
use super::settings::ClickHouseSettings;
use crate::sink::SinkError;

/// What exactly once depends on, whatever a user's profile says.
///
/// - Asynchronous inserts are put together with others' and know no token.
/// - One insert is one block: nothing of it is written before its end, however many rows it has, and nothing of it is told apart.
/// - A NULL stands for a column's declared default; where there is neither room for it nor a default, firn refuses it before.
/// - A token counts also where an insert selects, and in the views behind the table.
const SETTINGS: &[(&str, &str)] = &[
    ("async_insert", "0"),
    ("insert_deduplicate", "1"),
    ("deduplicate_blocks_in_dependent_materialized_views", "1"),
    ("max_insert_block_size", "100000000"),
    ("min_insert_block_size_rows", "100000000"),
    ("min_insert_block_size_bytes", "100000000000"),
    ("max_insert_threads", "1"),
    ("input_format_null_as_default", "1"),
    ("insert_null_as_default", "0"),
    ("wait_end_of_query", "1"),
];

/// Connections that nobody uses are closed before ClickHouse closes them (`keep_alive_timeout`, 3 s unless told otherwise).
const IDLE: Duration = Duration::from_secs(2);
const KEEPALIVE: Duration = Duration::from_secs(60);
/// How much of an insert is compressed at a time.
const CHUNK_BYTES: usize = 1 << 20;
/// What an open insert holds back: less than any record batch is long, so that the server can't have a whole one.
const TAIL_BYTES: usize = 64;

/// As the library's own, but that it sends at once what it is given: the few bytes that end an insert would wait until the server has
/// acknowledged those before them, which takes it 40 ms (Nagle's algorithm and delayed acknowledgements).
fn client() -> Result<Client, rustls::Error> {
    let mut http = HttpConnector::new();
    http.set_keepalive(Some(KEEPALIVE));
    http.set_nodelay(true);
    http.enforce_http(false);
    let tls = HttpsConnectorBuilder::new().with_provider_and_webpki_roots(rustls::crypto::ring::default_provider())?;
    let connector = tls.https_or_http().enable_http1().wrap_connector(http);
    Ok(Client::with_http_client(HttpClient::builder(TokioExecutor::new()).pool_idle_timeout(IDLE).build(connector)))
}

#[derive(Clone)]
pub(super) struct Server {
    client: Client,
    /// `host:port`
    pub node: String,
    /// Inserts have to go one by one: ClickHouse refuses one that comes before the quorum has the last (code 286).
    pub has_quorum: bool,
    timeout: Duration,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("node", &self.node).finish_non_exhaustive()
    }
}

impl Server {
    /// # Errors
    /// [`SinkError::Stopped`] where the address is none.
    pub(super) fn new(address: &str, settings: &ClickHouseSettings) -> Result<Self, SinkError> {
        let no_address = |e: &str| SinkError::Stopped(format!("the address of a ClickHouse node can't be used: {e}"));
        let mut url = Url::parse(address).map_err(|e| no_address(&e.to_string()))?;
        let host = url.host_str().ok_or_else(|| no_address("it has no host"))?.to_owned();
        let port = url.port().unwrap_or(if url.scheme() == "https" { 8443 } else { 8123 });
        let (user, password) = (plain(url.username()), url.password().map(plain));
        if url.set_username("").is_err() || url.set_password(None).is_err() || url.set_port(Some(port)).is_err() {
            return Err(no_address("it is no address of a server"));
        }
        let mut client =
            client().map_err(|e| SinkError::Stopped(format!("TLS can't be set up: {e}")))?.with_url(url.as_str());
        if !user.is_empty() {
            client = client.with_user(user);
        }
        if let Some(password) = password {
            client = client.with_password(password);
        }
        for (key, value) in &settings.properties {
            client = client.with_setting(key, value);
        }
        for (key, value) in SETTINGS {
            client = client.with_setting(*key, *value);
        }
        Ok(Self { client, node: format!("{host}:{port}"), has_quorum: false, timeout: settings.timeout })
    }

    /// For replicated tables: what one node acknowledges, most have, and a node that lags behind does not answer.
    #[must_use]
    pub(super) fn with_quorum(mut self) -> Self {
        for (key, value) in
            [("insert_quorum", "auto"), ("insert_quorum_parallel", "0"), ("select_sequential_consistency", "1")]
        {
            self.client = self.client.with_setting(key, value);
        }
        self.has_quorum = true;
        self
    }

    fn fault(&self, error: clickhouse::error::Error) -> Fault {
        Fault::new(&self.node, &error)
    }

    async fn in_time<T>(&self, work: impl Future<Output = clickhouse::error::Result<T>>) -> Result<T, Fault> {
        match tokio::time::timeout(self.timeout, work).await {
            Ok(result) => result.map_err(|e| self.fault(e)),
            Err(_) => Err(Fault::away(&self.node, &format!("no answer within {} ms", self.timeout.as_millis()))),
        }
    }

    pub(super) async fn execute(&self, statement: &str) -> Result<(), Fault> {
        self.in_time(self.client.query_raw(statement).execute()).await
    }

    /// Inserts by a statement alone: of two with one token the first counts.
    pub(super) async fn execute_once(&self, statement: &str, token: &str) -> Result<(), Fault> {
        let query = self.client.query_raw(statement).with_setting("insert_deduplication_token", token);
        self.in_time(query.execute()).await
    }

    pub(super) async fn rows<T: RowOwned + RowRead>(&self, query: &str) -> Result<Vec<T>, Fault> {
        // Values may stand in the statement.
        let length = (query.len() + 262_144).to_string();
        self.in_time(self.client.query_raw(query).with_setting("max_query_size", length).fetch_all()).await
    }

    /// An answer in one of ClickHouse's own formats.
    pub(super) async fn text(&self, query: &str, format: &str) -> Result<String, Fault> {
        let answer = async {
            let mut cursor = self.client.query_raw(query).fetch_bytes(format)?;
            cursor.collect().await
        };
        Ok(String::from_utf8_lossy(&self.in_time(answer).await?).into_owned())
    }

    /// Sends an Arrow stream but for its end.
    pub(super) async fn open_insert(&self, statement: &str, token: &str, stream: Bytes) -> Result<OpenInsert, Fault> {
        let mut insert = self
            .client
            .insert_formatted_with(statement)
            .with_setting("insert_deduplication_token", token)
            .with_timeouts(Some(self.timeout), Some(self.timeout));
        let mut rest = stream;
        let tail = rest.split_off(rest.len().saturating_sub(TAIL_BYTES));
        while !rest.is_empty() {
            let chunk = rest.split_to(rest.len().min(CHUNK_BYTES));
            insert.send(chunk).await.map_err(|e| self.fault(e))?;
        }
        Ok(OpenInsert { insert, tail })
    }

    /// What is sent goes nowhere unless this is called.
    pub(super) async fn end_insert(&self, open: OpenInsert) -> Result<(), Fault> {
        let OpenInsert { mut insert, tail } = open;
        insert.send(tail).await.map_err(|e| self.fault(e))?;
        insert.end().await.map_err(|e| self.fault(e))
    }
}

/// An insert that the server has begun to read. Dropped, it inserts nothing.
pub(super) struct OpenInsert {
    insert: InsertFormatted,
    tail: Bytes,
}

/// Without percent signs.
fn plain(part: &str) -> String {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok());
        match (first, hex) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
