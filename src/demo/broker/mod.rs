//! A Kafka broker for one process's lifetime: what `firn demo` and tests need, in memory, on loopback, without security.
//!
//! It speaks the part of Kafka's protocol that librdkafka uses to create topics, to write idempotently, to read from any offset and to
//! share a consumer group; one version of each call ([`api`]). A log is kept as the batches that the producer compressed. It must
//! know nothing of firn. Not there: replication, transactions, retention, compaction, access control.
//!
//! - [`wire`]: numbers and strings of the protocol; [`log`]: what is stored; [`group`]: who reads what
//! - [`api`]: one function a call

mod api;
mod group;
mod log;
#[cfg(test)]
mod tests;
mod wire;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinSet,
};

/// The largest request that is read: larger ones come from something that doesn't speak Kafka, or would fill the memory.
const MAX_REQUEST_BYTES: usize = 64 << 20;
/// How often silent group members are looked for: well below the shortest session time-out (1 s).
const GROUP_TICK: Duration = Duration::from_millis(100);

/// A running broker; it ends when this is dropped, with everything in it.
#[derive(Debug)]
pub struct Broker {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    address: SocketAddr,
    log: Mutex<log::Log>,
    groups: Mutex<group::Groups>,
    /// Told whenever something was appended.
    appended: Notify,
}

impl Shared {
    fn log(&self) -> MutexGuard<'_, log::Log> {
        // Nothing under the lock leaves the log half changed.
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn groups(&self) -> MutexGuard<'_, group::Groups> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Broker {
    /// Listens on a free port of the loopback address.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let shared =
            Arc::new(Shared { address, log: Mutex::default(), groups: Mutex::default(), appended: Notify::new() });
        let task = tokio::spawn(serve(listener, shared.clone()));
        Ok(Self { address, shared, task })
    }

    /// For `bootstrap.servers`.
    pub fn bootstrap_servers(&self) -> String {
        self.address.to_string()
    }

    /// The next offset of each partition of a topic, in order; empty where there is no such topic.
    pub fn high_watermarks(&self, topic: &str) -> Vec<i64> {
        self.shared.log().high_watermarks(topic)
    }

    /// What the logs take in memory, in bytes.
    pub fn stored_bytes(&self) -> usize {
        self.shared.log().stored_bytes()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    // Dropped with this future: the connections end with the broker.
    let mut connections = JoinSet::new();
    let mut tick = tokio::time::interval(GROUP_TICK);
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    let shared = shared.clone();
                    connections.spawn(async move {
                        if let Err(error) = connection(stream, &shared).await {
                            tracing::debug!(%peer, %error, "connection ended");
                        }
                    });
                }
                Err(error) => tracing::warn!(%error, "cannot accept a connection"),
            },
            _ = tick.tick() => shared.groups().tick(std::time::Instant::now()),
            _ = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

async fn connection(mut stream: TcpStream, shared: &Shared) -> Result<(), ConnectionError> {
    stream.set_nodelay(true)?;
    loop {
        let length = match stream.read_i32().await {
            Ok(length) => length,
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        let length = usize::try_from(length).ok().filter(|l| *l <= MAX_REQUEST_BYTES);
        let mut request = vec![0; length.ok_or(ConnectionError::Length)?];
        stream.read_exact(&mut request).await?;
        // `acks=0` wants no answer.
        if let Some(response) = api::answer(&request, shared, &stream).await? {
            stream.write_all(&response).await?;
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum ConnectionError {
    #[error("i/o")]
    Io(#[from] std::io::Error),
    #[error("a request longer than {MAX_REQUEST_BYTES} bytes")]
    Length,
    #[error("{0}")]
    Malformed(#[from] wire::Malformed),
}
