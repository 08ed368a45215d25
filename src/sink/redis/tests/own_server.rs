//! A Redis of the test itself, to be killed, filled and locked. Where no `redis-server` is on the PATH there is no such test.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::*;

struct Server {
    child: Child,
    port: u16,
    directory: tempfile::TempDir,
    args: Vec<String>,
}

impl Server {
    async fn start(args: &[&str]) -> Option<Self> {
        // Free a moment ago; another test may take it first, then the next one is tried.
        for _ in 0..5 {
            let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let directory = tempfile::tempdir().unwrap();
            let args: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
            let Some(child) = spawn(port, directory.path(), &args) else {
                eprintln!("skipped: no redis-server on the PATH");
                return None;
            };
            let mut server = Self { child, port, directory, args };
            if server.is_up().await {
                return Some(server);
            }
        }
        panic!("redis-server does not come up");
    }

    async fn is_up(&mut self) -> bool {
        for _ in 0..200 {
            if std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return true;
            }
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        false
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// As the system does it: without a word.
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    async fn start_again(&mut self) {
        self.child = spawn(self.port, self.directory.path(), &self.args).unwrap();
        assert!(self.is_up().await);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(port: u16, directory: &Path, args: &[String]) -> Option<Child> {
    Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--daemonize", "no"])
        .args(["--dir", &directory.display().to_string()])
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .ok()
}

fn unavailable(result: Result<(), SinkError>) -> String {
    match result {
        Err(SinkError::Unavailable(why)) => why,
        other => panic!("not unavailable: {other:?}"),
    }
}

/// Cuts what was written last off the append-only file, as a power cut does with the last second.
fn lose(directory: &Path, bytes: u64) {
    let files = std::fs::read_dir(directory.join("appendonlydir")).unwrap().map(|f| f.unwrap().path());
    let file = files.into_iter().find(|f| f.to_string_lossy().ends_with(".incr.aof")).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(file).unwrap();
    let length = file.metadata().unwrap().len();
    file.set_len(length.saturating_sub(bytes)).unwrap();
}

#[tokio::test]
async fn what_redis_loses_with_its_last_second_is_delivered_again() {
    let Some(mut server) = Server::start(&["--appendonly", "yes", "--appendfsync", "everysec"]).await else { return };
    let mut place = Place::at(&server.url()).await;
    let counter = write(
        place.key("sums"),
        WriteKind::Hash {
            fields: Some(Vec::new()),
            increments: BTreeMap::from([("rows".to_owned(), Increment::By(1))]),
            ttl_ms: None,
        },
    );
    let mut sink = place.owner(vec![place.stream(), counter]).await;
    let mut next = 0_usize;
    // Whole deliveries, parts of one, and so much that nothing of the partition is left.
    for lost in [1, 400, 1_000, 2_500, 90, 100_000] {
        for _ in 0..6 {
            sink.deliver(&delivery(next as i64, &rows(next..next + 10))).await.unwrap();
            next += 10;
        }
        server.kill();
        unavailable(sink.deliver(&delivery(next as i64, &rows(next..next + 1))).await);
        lose(server.directory.path(), lost);
        server.start_again().await;
        let prefix = place.prefix.clone();
        place = Place { prefix, ..Place::at(&server.url()).await };

        let stands = match sink.take_over(&[at()]).await.unwrap().remove(0) {
            Some(standing) => standing.next as usize,
            None => 0,
        };
        // The torn transaction leaves the file before the next kill: firn asked for it.
        while place.ask::<String>(&["INFO", "persistence"]).await.contains("aof_rewrite_in_progress:1") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(stands < next, "{lost} bytes were lost, and Redis still stands at {stands}");
        // Position and rows were lost together.
        assert_eq!(place.ids().await, names(0..stands), "{lost} bytes lost");
        let ahead = sink.deliver(&delivery(next as i64, &rows(next..next + 1))).await;
        if stands > 0 {
            assert!(matches!(ahead, Err(SinkError::Moved(_))), "{ahead:?}");
        } else {
            // The first delivery ever may begin anywhere: this one does too late, and is undone by a rewind.
            assert_eq!(ahead, Ok(()));
            let key = place.key("stream");
            let sums = place.key("sums");
            place.ask::<i64>(&["DEL", &key, &sums]).await;
            sink.rewind(&[(at(), 0)]).await.unwrap();
        }
        sink.deliver(&delivery(stands as i64, &rows(stands..next))).await.unwrap();
        assert_eq!(place.ids().await, names(0..next));
        assert_eq!(place.hash("sums").await, fields([("rows", next.to_string().as_str())]));
    }
}

#[tokio::test]
async fn a_full_redis_takes_nothing_and_goes_on_when_there_is_room() {
    let Some(server) = Server::start(&["--maxmemory-policy", "noeviction"]).await else { return };
    let mut place = Place::at(&server.url()).await;
    let mut sink = place.owner(vec![place.stream()]).await;
    sink.deliver(&delivery(0, &rows(0..5))).await.unwrap();
    place.ask::<String>(&["CONFIG", "SET", "maxmemory", "1"]).await;
    assert!(unavailable(sink.deliver(&delivery(5, &rows(5..9))).await).contains("OOM"));
    unavailable(sink.take_over(&[at()]).await.map(|_| ()));
    assert_eq!(place.ids().await, names(0..5));
    place.ask::<String>(&["CONFIG", "SET", "maxmemory", "0"]).await;
    sink.deliver(&delivery(5, &rows(5..9))).await.unwrap();
    assert_eq!(place.ids().await, names(0..9));
}

#[tokio::test]
async fn a_replica_takes_nothing() {
    let Some(server) = Server::start(&[]).await else { return };
    let mut place = Place::at(&server.url()).await;
    let mut sink = place.owner(vec![place.stream()]).await;
    place.ask::<String>(&["REPLICAOF", "127.0.0.1", "1"]).await;
    assert!(unavailable(sink.deliver(&delivery(0, &rows(0..1))).await).contains("READONLY"));
    let Err(SinkError::Stopped(why)) = probe(&place.settings(Vec::new())).await else { panic!("a replica will do") };
    assert!(why.contains("replica of 127.0.0.1:1"), "{why}");
    place.ask::<String>(&["REPLICAOF", "NO", "ONE"]).await;
    sink.deliver(&delivery(0, &rows(0..1))).await.unwrap();
}

#[tokio::test]
async fn servers_that_will_not_do_are_named_with_the_way_out() {
    let Some(server) = Server::start(&[]).await else { return };
    let mut place = Place::at(&server.url()).await;
    let good = probe(&place.settings(Vec::new())).await.unwrap();
    assert!(good.starts_with("Redis ") && good.contains("noeviction"), "{good}");
    let keys: Vec<String> = place.ask(&["KEYS", "*"]).await;
    assert_eq!(keys, Vec::<String>::new(), "the probe leaves keys behind");

    let stopped = |result: Result<String, SinkError>| match result {
        Err(SinkError::Stopped(why)) => why,
        other => panic!("not stopped: {other:?}"),
    };
    place.ask::<String>(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]).await;
    assert!(stopped(probe(&place.settings(Vec::new())).await).contains("CONFIG SET maxmemory-policy noeviction"));
    place.ask::<String>(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]).await;

    // A user who lacks one command, and one who lacks firn's own keys.
    place.ask::<String>(&["ACL", "SETUSER", "half", "on", ">secret-word", "~*", "+@all", "-xadd"]).await;
    place.ask::<String>(&["ACL", "SETUSER", "keyless", "on", ">secret-word", "~other:*", "+@all"]).await;
    let as_user = |who: &str| {
        let url = format!("redis://{who}@127.0.0.1:{}", server.port);
        RedisSettings { url, ..place.settings(Vec::new()) }
    };
    for (who, want) in [
        ("half:secret-word", "lacks a right"),
        ("keyless:secret-word", "firn:*"),
        ("half:wrong-word", "user or password are wrong"),
    ] {
        let why = stopped(probe(&as_user(who)).await);
        assert!(why.contains(want) && why.contains(&server.port.to_string()), "{who}: {why}");
        assert!(!why.contains("-word"), "the password is in the message: {why}");
    }
    // Another database of the same server, by name and password.
    let url = format!("redis://default:secret-word@127.0.0.1:{}/3", server.port);
    place.ask::<String>(&["CONFIG", "SET", "requirepass", "secret-word"]).await;
    let mut sink = RedisSink::new(RedisSettings { url, ..place.settings(vec![place.stream()]) }, "elsewhere");
    sink.prepare(&batch(&[]).schema()).await.unwrap();
    sink.take_over(&[at()]).await.unwrap();
    sink.deliver(&delivery(0, &rows(0..1))).await.unwrap();
    place.ask::<String>(&["SELECT", "3"]).await;
    assert_eq!(place.ids().await, names(0..1));
    assert!(stopped(probe(&place.settings(Vec::new())).await).contains("Redis wants a password"));
}

#[tokio::test]
async fn a_redis_that_is_not_there_is_waited_for() {
    let Some(mut server) = Server::start(&["--appendonly", "yes"]).await else { return };
    let mut place = Place::at(&server.url()).await;
    let mut sink = place.owner(vec![place.stream()]).await;
    sink.deliver(&delivery(0, &rows(0..2))).await.unwrap();
    server.kill();
    for _ in 0..2 {
        let why = unavailable(sink.deliver(&delivery(2, &rows(2..3))).await);
        assert!(why.contains(&server.port.to_string()), "{why}");
    }
    unavailable(sink.take_over(&[at()]).await.map(|_| ()));
    server.start_again().await;
    let prefix = place.prefix.clone();
    place = Place { prefix, ..Place::at(&server.url()).await };
    // The same again: scripts that a new process does not know are told it.
    sink.deliver(&delivery(2, &rows(2..3))).await.unwrap();
    assert_eq!(place.ids().await, names(0..3));
}
