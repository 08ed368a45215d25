//! A TCP proxy that spoils one kind of call on command.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoil {
    Nothing,
    /// The call reaches the server, its answer is thrown away with the connection.
    Answer,
    /// The connection breaks before the call reaches the server.
    Call,
    /// The call is kept back for ever.
    Hold,
    /// The call's key is misspelt, so that the server doesn't know it.
    Misspell,
}

pub struct Proxy {
    pub port: u16,
    state: Arc<Mutex<(Spoil, &'static str)>>,
}

impl Proxy {
    /// In front of `target` (`host:port`).
    pub async fn start(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(Mutex::new((Spoil::Nothing, "")));
        let (target, shared) = (target.to_owned(), Arc::clone(&state));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pipe(client, target.clone(), Arc::clone(&shared)));
            }
        });
        Self { port, state }
    }

    /// From now on spoils what contains `words`.
    pub fn spoil(&self, spoil: Spoil, words: &'static str) {
        *self.state.lock().unwrap() = (spoil, words);
    }
}

async fn pipe(mut client: TcpStream, target: String, state: Arc<Mutex<(Spoil, &'static str)>>) {
    let Ok(mut server) = TcpStream::connect(&target).await else { return };
    let (mut up, mut down) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    let mut answer_lost = false;
    loop {
        tokio::select! {
            n = client.read(&mut up) => {
                let Ok(n @ 1..) = n else { return };
                let (spoil, words) = *state.lock().unwrap();
                let at = up[..n].windows(words.len().max(1)).position(|w| w == words.as_bytes());
                match (at, spoil) {
                    (Some(_), Spoil::Call) => return,
                    (Some(_), Spoil::Hold) => std::future::pending().await,
                    (Some(_), Spoil::Answer) => answer_lost = true,
                    (Some(at), Spoil::Misspell) => up[at] = b'_',
                    _ => {}
                }
                if server.write_all(&up[..n]).await.is_err() { return }
            }
            n = server.read(&mut down) => {
                let Ok(n @ 1..) = n else { return };
                if answer_lost || client.write_all(&down[..n]).await.is_err() { return }
            }
        }
    }
}
