//! A receiver that tells requests apart by their key, and misbehaves on command.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A request as it came.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub key: String,
    pub headers: BTreeMap<String, String>,
    pub body: String,
    /// Whether the key had come, and was taken, before.
    pub again: bool,
}

impl Seen {
    /// The `id` of each row.
    pub(super) fn ids(&self) -> Vec<i64> {
        let lines = self.body.trim();
        let rows: Vec<serde_json::Value> = match lines.starts_with('[') {
            true => serde_json::from_str(lines).unwrap(),
            false => lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect(),
        };
        rows.iter().map(|row| row["id"].as_i64().unwrap()).collect()
    }
}

/// What a request is answered.
#[derive(Clone, Debug)]
pub(super) enum Reply {
    /// The rows are taken.
    Taken(u16),
    /// They are not; with these headers.
    Not(u16, &'static str),
    /// They are taken, and the answer breaks off in its middle.
    Half,
    /// They are taken, and the answer takes so long.
    Slow(Duration),
}

type Rule = Box<dyn FnMut(&Seen) -> Reply + Send>;

struct Inner {
    seen: Vec<Seen>,
    taken: HashSet<String>,
    rule: Rule,
}

#[derive(Clone)]
pub(super) struct Receiver {
    pub address: String,
    inner: Arc<Mutex<Inner>>,
    _listening: Arc<Listening>,
}

struct Listening(JoinHandle<()>);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Receiver {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let inner = Inner { seen: Vec::new(), taken: HashSet::new(), rule: Box::new(|_| Reply::Taken(200)) };
        let inner = Arc::new(Mutex::new(inner));
        let shared = inner.clone();
        let listening = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serve(client, shared.clone()));
            }
        });
        Self { address, inner, _listening: Arc::new(Listening(listening)) }
    }

    /// From now on requests are answered by this.
    pub(super) fn answers(&self, rule: impl FnMut(&Seen) -> Reply + Send + 'static) {
        self.inner.lock().unwrap().rule = Box::new(rule);
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.inner.lock().unwrap().seen.clone()
    }

    /// The rows that it has: of each key the first request that it took.
    pub(super) fn held(&self) -> Vec<i64> {
        let inner = self.inner.lock().unwrap();
        let mut keys = HashSet::new();
        let mut first = Vec::new();
        for seen in inner.seen.iter().filter(|seen| inner.taken.contains(&seen.key)) {
            if keys.insert(&seen.key) {
                first.extend(seen.ids());
            }
        }
        first
    }
}

async fn serve(mut client: TcpStream, inner: Arc<Mutex<Inner>>) {
    let (read, mut write) = client.split();
    let mut read = BufReader::new(read);
    loop {
        let mut headers = BTreeMap::new();
        let mut line = String::new();
        if read.read_line(&mut line).await.unwrap_or(0) == 0 {
            return;
        }
        loop {
            let mut line = String::new();
            if read.read_line(&mut line).await.unwrap_or(0) == 0 {
                return;
            }
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            headers.insert(name.to_ascii_lowercase(), value.to_owned());
        }
        let length = headers.get("content-length").map_or(0, |l| l.parse().unwrap());
        let mut body = vec![0; length];
        if read.read_exact(&mut body).await.is_err() {
            return;
        }
        let reply = {
            let mut inner = inner.lock().unwrap();
            let key = headers["idempotency-key"].clone();
            let again = inner.taken.contains(&key);
            let seen = Seen { key, headers, body: String::from_utf8(body).unwrap(), again };
            let reply = (inner.rule)(&seen);
            if !matches!(reply, Reply::Not(..)) {
                inner.taken.insert(seen.key.clone());
            }
            inner.seen.push(seen);
            reply
        };
        let (status, more) = match reply {
            Reply::Taken(status) => (status, ""),
            Reply::Not(status, more) => (status, more),
            Reply::Half => {
                let _ = write.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhal").await;
                return;
            }
            Reply::Slow(wait) => {
                tokio::time::sleep(wait).await;
                (200, "")
            }
        };
        let head = format!("HTTP/1.1 {status} X\r\n{more}content-length: 2\r\n\r\nok");
        if write.write_all(head.as_bytes()).await.is_err() {
            return;
        }
    }
}
