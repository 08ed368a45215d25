//! A connection that is cut on command.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What the last turn loses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The request does not arrive.
    Request,
    /// The request arrives, its answer does not.
    Answer,
}

/// Hands bytes through to a server. A *turn* is a request and its answer: bytes to the server after bytes from it.
pub struct Proxy {
    address: String,
    plan: Arc<Mutex<Plan>>,
    listening: JoinHandle<()>,
}

#[derive(Default)]
struct Plan {
    /// What is cut, and after how many turns.
    cut: Option<(Cut, usize)>,
    has_cut: bool,
}

impl Plan {
    /// At the begin of a turn: whether it is the last, or comes after it.
    fn turn(&mut self) -> Option<Cut> {
        let (cut, left) = self.cut.as_mut()?;
        if self.has_cut {
            return Some(Cut::Request);
        }
        if *left == 0 {
            self.has_cut = true;
            return Some(*cut);
        }
        *left -= 1;
        None
    }
}

impl Proxy {
    /// `gate`: where to listen; anywhere, if there is none.
    pub async fn start(server: &str, gate: Option<&str>) -> Self {
        let listener = listener(gate.unwrap_or("127.0.0.1:0")).await;
        let address = listener.local_addr().unwrap().to_string();
        let plan = Arc::new(Mutex::new(Plan::default()));
        let (server, shared) = (server.to_owned(), plan.clone());
        let listening = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, server.clone(), shared.clone()));
            }
        });
        Self { address, plan, listening }
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// From now on: so many turns, then the cut, then nothing.
    pub fn cut_at(&self, cut: Cut, turn: usize) {
        *self.plan.lock().unwrap() = Plan { cut: Some((cut, turn)), has_cut: false };
    }

    pub fn has_cut(&self) -> bool {
        self.plan.lock().unwrap().has_cut
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

/// Waits its turn where another test listens there.
async fn listener(at: &str) -> TcpListener {
    let mut tries = 0;
    loop {
        match TcpListener::bind(at).await {
            Ok(listener) => return listener,
            Err(e) if e.kind() == std::io::ErrorKind::AddrInUse && tries < 600 => tries += 1,
            Err(e) => panic!("{at}: {e}"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

async fn pass(mut client: TcpStream, server: String, plan: Arc<Mutex<Plan>>) {
    let Ok(mut server) = TcpStream::connect(server).await else { return };
    let (mut up, mut down) = ([0; 65_536], [0; 65_536]);
    let mut answered = true;
    let mut mute = false;
    loop {
        tokio::select! {
            n = client.read(&mut up) => {
                let Ok(n @ 1..) = n else { break };
                if std::mem::take(&mut answered) {
                    match plan.lock().unwrap().turn() {
                        None => {}
                        Some(Cut::Request) => return,
                        Some(Cut::Answer) => mute = true,
                    }
                }
                if server.write_all(&up[..n]).await.is_err() { break }
            }
            n = server.read(&mut down) => {
                let Ok(n @ 1..) = n else { break };
                answered = true;
                if mute || client.write_all(&down[..n]).await.is_err() { break }
            }
        }
    }
}
