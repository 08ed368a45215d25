//! Which metastores there are, and a connection to the first of them that answers. Knows nothing of what is said over it.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::lookup_host;
use volo::net::Address;
use volo::net::dial::{DefaultMakeTransport, MakeTransport};

use crate::{Error, ErrorKind, Result};

const DEFAULT_PORT: u16 = 9083;

/// How a failed connection is told apart from a broken one: no read or write of a socket fails with this kind.
pub(super) const NO_CONNECTION: io::ErrorKind = io::ErrorKind::AddrNotAvailable;

/// The metastores of one installation. They share a database, so any of them will do.
#[derive(Clone)]
pub(super) struct Hosts {
    hosts: Arc<[(String, u16)]>,
    /// The one that answered last: asked first.
    last_good: Arc<AtomicUsize>,
    connect: DefaultMakeTransport,
    /// For each address tried.
    timeout: Duration,
}

impl Hosts {
    /// `thrift://host:port[,thrift://host:port]`; the scheme may be left out, the port is 9083 then.
    ///
    /// # Errors
    /// `Refused` when the list is empty or an entry is not a host with a port.
    pub(super) fn parse(uri: &str, timeout: Duration) -> Result<Self> {
        let hosts =
            uri.split(',').map(str::trim).filter(|h| !h.is_empty()).map(parse_host).collect::<Result<Vec<_>>>()?;
        if hosts.is_empty() {
            return Err(Error::new(ErrorKind::Refused, "no metastore given, want thrift://host:port"));
        }
        let connect = DefaultMakeTransport::new();
        Ok(Self { hosts: hosts.into(), last_good: Arc::default(), connect, timeout })
    }

    pub(super) fn len(&self) -> u32 {
        u32::try_from(self.hosts.len()).unwrap_or(u32::MAX)
    }

    async fn connect(&self, host: &str, port: u16) -> io::Result<<Self as Connection>::Halves> {
        let mut last = None;
        for address in lookup_host((host, port)).await? {
            match tokio::time::timeout(self.timeout, self.connect.make_transport(Address::Ip(address))).await {
                Ok(Ok(halves)) => return Ok(halves),
                Ok(Err(e)) => last = Some(e),
                Err(_) => {
                    last = Some(io::Error::new(
                        io::ErrorKind::TimedOut,
                        format!("no connection within {} ms", self.timeout.as_millis()),
                    ))
                }
            }
        }
        Err(last.unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address")))
    }
}

/// Names the type of a connection.
trait Connection {
    type Halves;
}
impl Connection for Hosts {
    type Halves =
        (<DefaultMakeTransport as MakeTransport>::ReadHalf, <DefaultMakeTransport as MakeTransport>::WriteHalf);
}

impl MakeTransport for Hosts {
    type ReadHalf = <DefaultMakeTransport as MakeTransport>::ReadHalf;
    type WriteHalf = <DefaultMakeTransport as MakeTransport>::WriteHalf;

    /// Ignores the address it is called with: the list is its own.
    async fn make_transport(&self, _: Address) -> io::Result<(Self::ReadHalf, Self::WriteHalf)> {
        let first = self.last_good.load(Ordering::Relaxed);
        let mut tried = Vec::with_capacity(self.hosts.len());
        for (i, (host, port)) in self.hosts.iter().enumerate().cycle().skip(first).take(self.hosts.len()) {
            match self.connect(host, *port).await {
                Ok(halves) => {
                    self.last_good.store(i, Ordering::Relaxed);
                    return Ok(halves);
                }
                Err(e) => tried.push(format!("{host}:{port}: {e}")),
            }
        }
        Err(io::Error::new(NO_CONNECTION, tried.join("; ")))
    }

    // The time limits are this module's and its caller's own.
    fn set_connect_timeout(&mut self, _: Option<Duration>) {}
    fn set_read_timeout(&mut self, _: Option<Duration>) {}
    fn set_write_timeout(&mut self, _: Option<Duration>) {}
}

impl fmt::Display for Hosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (host, port)) in self.hosts.iter().enumerate() {
            write!(f, "{}thrift://{host}:{port}", if i == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

fn parse_host(entry: &str) -> Result<(String, u16)> {
    let bad =
        |why: &str| Error::new(ErrorKind::Refused, format!("metastore '{entry}': {why}, want thrift://host:port"));
    let rest = match entry.split_once("://") {
        Some(("thrift", rest)) => rest,
        Some((scheme, _)) => return Err(bad(&format!("unknown scheme '{scheme}'"))),
        None => entry,
    };
    let rest = rest.trim_end_matches('/');
    let (host, port) = match rest.rsplit_once(':') {
        // A bare IPv6 address in brackets ends with one.
        Some((_, after)) if after.ends_with(']') => (rest, None),
        Some((host, port)) => (host, Some(port)),
        None => (rest, None),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() || host.contains('/') {
        return Err(bad("no host"));
    }
    match port.map(str::parse) {
        None => Ok((host.to_owned(), DEFAULT_PORT)),
        Some(Ok(port)) => Ok((host.to_owned(), port)),
        Some(Err(_)) => Err(bad("the port is not a number")),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("thrift://a:1", "thrift://a:1")]
    #[case("a", "thrift://a:9083")]
    #[case("thrift://a:1, thrift://b", "thrift://a:1,thrift://b:9083")]
    #[case("thrift://[::1]:2/", "thrift://::1:2")]
    #[case("thrift://[::1]", "thrift://::1:9083")]
    fn hosts_are_read_with_or_without_scheme_and_port(#[case] uri: &str, #[case] told: &str) {
        assert_eq!(Hosts::parse(uri, Duration::ZERO).unwrap().to_string(), told);
    }

    #[rstest]
    #[case("")]
    #[case("http://a:1")]
    #[case("thrift://:1")]
    #[case("thrift://a:x")]
    #[case("thrift://a:1/db")]
    fn a_bad_list_is_refused(#[case] uri: &str) {
        assert_eq!(Hosts::parse(uri, Duration::ZERO).err().unwrap().kind(), ErrorKind::Refused);
    }

    #[tokio::test]
    async fn the_next_host_is_taken_when_one_is_down_and_remembered() {
        let up = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let down = {
            let l = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            l.local_addr().unwrap().port()
        };
        let uri = format!("thrift://127.0.0.1:{down},thrift://127.0.0.1:{}", up.local_addr().unwrap().port());
        let hosts = Hosts::parse(&uri, Duration::from_secs(5)).unwrap();
        let nowhere = Address::Ip(([0, 0, 0, 0], 0).into());
        hosts.make_transport(nowhere.clone()).await.unwrap();
        assert_eq!(hosts.last_good.load(Ordering::Relaxed), 1);
        drop(up);
        let e = hosts.make_transport(nowhere).await.err().unwrap();
        assert_eq!(e.kind(), NO_CONNECTION);
        assert!(e.to_string().contains(&down.to_string()), "{e}");
    }
}
