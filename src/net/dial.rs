//! Dialer: resolves a name, applies the dial policy to its addresses, and connects. The only file
//! that opens connections.

mod race;

use std::collections::VecDeque;
use std::io;
use std::net::{self, IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use self::race::{happy_eyeballs, interleave_families, sequential};
use super::keep_alive;
use super::policy::DialVerdict;
pub use super::policy::{Reach, Settings};
use super::resolve::{Lookup, Resolver, is_exhausted};

/// Delay before the next address is tried in parallel (Connection Attempt Delay; RFC 8305 §8
/// recommends 250 ms).
const CONNECTION_ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// Maximum time for one address when addresses are tried one at a time. An address that has not
/// answered by then has lost the first packet (TCP sends it again after 1 s, RFC 6298 §2.1), or is
/// dead.
const MAX_SEQUENTIAL_ATTEMPT: Duration = Duration::from_secs(1);
/// Maximum number of addresses tried for a name. The owner of the name chooses them, and each
/// attempt reaches another machine.
const MAX_TRIED: usize = 8;

/// Opens connections to origins.
pub struct Dialer {
    /// Dial policy.
    settings: Settings,
    /// Resolver of the process, shared by all dialers.
    resolver: Arc<Resolver>,
}

/// A server to connect to, with the policy and strategy to do so.
#[derive(Clone, Copy, Debug)]
pub struct Endpoint<'a> {
    /// A lower-case DNS name without a final dot, or an IP literal, IPv6 without brackets.
    pub host: &'a str,
    /// Never 0.
    pub port: u16,
    /// Addresses that may be dialled.
    pub reach: Reach,
    /// Number of the caller, by which lookups are shared fairly.
    pub caller: u64,
    /// Strategy for a name with several addresses.
    pub strategy: DialStrategy,
}

/// Strategy for trying the addresses of a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DialStrategy {
    /// In parallel after a delay (Happy Eyeballs, RFC 8305). Two connections may be made; one of
    /// them is closed at once.
    HappyEyeballs,
    /// One at a time, so that no two connections are made: for an origin that counts connections.
    Sequential,
}

/// Reason of a failed connection.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The resolver found no address, or failed: 502.
    #[error("the name does not resolve")]
    Dns(#[source] io::Error),
    /// The resolver did not answer in time: 504.
    #[error("the name did not resolve in time")]
    DnsTimeout,
    /// The dial policy denies all of its addresses: 403.
    #[error("every address it resolves to is denied")]
    Denied,
    /// An address is one of the gateway's own listeners, and no other is allowed: 508.
    #[error("the address is this gateway's own")]
    Loop,
    /// The machine refused the connection: no process listens on the port: 502.
    #[error("connection refused")]
    Refused(#[source] io::Error),
    /// No address answered in time: 504.
    #[error("no address answered in time")]
    Timeout,
    /// No route to any address, or another error of the network: 502.
    #[error("no address could be reached")]
    Unreachable(#[source] io::Error),
    /// The gateway is out of file descriptors, memory or local ports: 503.
    #[error("out of file descriptors or ports")]
    Exhausted(#[source] io::Error),
}

impl Dialer {
    /// A dialer with this policy.
    pub fn new(settings: Settings, resolver: Arc<Resolver>) -> Dialer {
        Dialer { settings, resolver }
    }

    /// Opens a connection, with `TCP_NODELAY` and keep-alive, to the first allowed address that
    /// answers. `within`: the time for DNS and TCP together.
    ///
    /// # Errors
    /// By fault: of the name (`Dns`, `DnsTimeout`: 502 and 504), of the caller (`Denied`: 403,
    /// `Loop`: 508), of the origin (`Refused`, `Unreachable`: 502, `Timeout`: 504), of the gateway
    /// (`Exhausted`: 503).
    ///
    /// # Cancel safety
    /// Cancel safe: connections that were being opened are closed.
    pub async fn connect(&self, endpoint: Endpoint<'_>, within: Duration) -> Result<TcpStream, Error> {
        let mut resolved = false;
        let connecting = async {
            let addresses = self.resolve(endpoint).await?;
            resolved = true;
            let mut addresses = self.allowed(interleave_families(&addresses), endpoint.reach)?;
            match (&*addresses.make_contiguous(), endpoint.strategy) {
                // The common case needs no race and no box: most tunnels lead to a literal or to a name with one address.
                (&[only], _) => connect_tcp(only).await.map_err(classify),
                (_, DialStrategy::HappyEyeballs) => Box::pin(happy_eyeballs(addresses, CONNECTION_ATTEMPT_DELAY)).await,
                (several, DialStrategy::Sequential) => {
                    let each = MAX_SEQUENTIAL_ATTEMPT.min(within / u32::try_from(several.len()).unwrap_or(u32::MAX));
                    Box::pin(sequential(addresses, each)).await
                }
            }
        };
        match timeout(within, connecting).await {
            Ok(result) => result,
            Err(_elapsed) if resolved => Err(Error::Timeout),
            Err(_elapsed) => Err(Error::DnsTimeout),
        }
    }

    /// Applies the policy to a host that another machine dials: to addresses, and to names that stand for loopback in every
    /// network (RFC 6761 §6.3). Other names pass, as only that machine sees where they lead.
    ///
    /// # Errors
    /// `Denied` or `Loop`.
    pub fn check_unresolved(&self, endpoint: Endpoint<'_>) -> Result<(), Error> {
        let Endpoint { host, port, reach, .. } = endpoint;
        let is_loopback = host == "localhost" || host.ends_with(".localhost");
        let address = match is_loopback {
            true => Some(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)),
            false => parse_literal(host, port)?,
        };
        address.map_or(Ok(()), |address| self.allowed([address].into(), reach).map(drop))
    }

    /// Resolves a host to the addresses that may be dialled, for another machine to connect to. `within`: time for DNS.
    ///
    /// # Errors
    /// Those of [`Dialer::connect`] that concern the name and its addresses.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn lookup(&self, endpoint: Endpoint<'_>, within: Duration) -> Result<Vec<SocketAddr>, Error> {
        let found = timeout(within, self.resolve(endpoint)).await.map_err(|_elapsed| Error::DnsTimeout)??;
        Ok(self.allowed(interleave_families(&found), endpoint.reach)?.into())
    }

    /// True if `address` is among those of the endpoint's host, whether it may be dialled or not.
    ///
    /// # Errors
    /// `Dns`, `DnsTimeout` or `Exhausted`.
    pub async fn leads_to(&self, endpoint: Endpoint<'_>, address: IpAddr, within: Duration) -> Result<bool, Error> {
        let found = timeout(within, self.resolve(endpoint)).await.map_err(|_elapsed| Error::DnsTimeout)??;
        Ok(found.iter().any(|found| found.ip().to_canonical() == address))
    }

    /// True if dialling the endpoint would reach a listener of the gateway. False for a host that does not resolve
    /// within the time.
    pub async fn leads_here(&self, endpoint: Endpoint<'_>, within: Duration) -> bool {
        let Ok(Ok(found)) = timeout(within, self.resolve(endpoint)).await else { return false };
        let verdict = |address: &SocketAddr| self.settings.verdict(*address, endpoint.reach, is_local);
        found.iter().any(|address| verdict(address) == DialVerdict::OwnListener)
    }

    /// Resolves the host of an endpoint, unless it is an address.
    async fn resolve(&self, endpoint: Endpoint<'_>) -> Result<Vec<SocketAddr>, Error> {
        let Endpoint { host, port, reach, caller, .. } = endpoint;
        if let Some(address) = parse_literal(host, port)? {
            return Ok(vec![address]);
        }
        // A host that the configuration names may be completed by the search list. Any other short name could be a second
        // spelling of such a host.
        let lookup = match reach {
            Reach::Public => Lookup::Absolute,
            Reach::Private | Reach::Address | Reach::Configured => Lookup::Searched,
        };
        let answer = self.resolver.resolve(host, lookup, caller).await;
        let found = answer.map_err(|failure| match is_exhausted(failure.error()) {
            true => Error::Exhausted(io::Error::other(failure)),
            false => Error::Dns(io::Error::other(failure)),
        })?;
        Ok(found.iter().map(|found| with_port(*found, port)).collect())
    }

    /// The addresses that the policy allows, in their order, at most [`MAX_TRIED`].
    fn allowed(&self, addresses: VecDeque<SocketAddr>, reach: Reach) -> Result<VecDeque<SocketAddr>, Error> {
        let mut ours = false;
        let allowed = addresses.into_iter().filter(|address| {
            let verdict = self.settings.verdict(*address, reach, is_local);
            ours |= verdict == DialVerdict::OwnListener;
            verdict == DialVerdict::Allowed
        });
        let tried: VecDeque<SocketAddr> = allowed.take(MAX_TRIED).collect();
        match tried.is_empty() {
            false => Ok(tried),
            true if ours => Err(Error::Loop),
            true => Err(Error::Denied),
        }
    }
}

/// Opens a connection, with `TCP_NODELAY`, to a server that the configuration names, without the
/// dial policy. `within`: the time for DNS and TCP together.
///
/// # Errors
/// As [`Dialer::connect`], without `Denied` and `Loop`.
///
/// # Cancel safety
/// Cancel safe: connections that were being opened are closed.
pub async fn connect_unchecked(host: &str, port: u16, within: Duration) -> Result<TcpStream, Error> {
    let connecting = async {
        let found = addresses(host, port).await?;
        happy_eyeballs(interleave_families(&found), CONNECTION_ATTEMPT_DELAY).await
    };
    timeout(within, connecting).await.map_err(|_elapsed| Error::Timeout)?
}

/// Resolves a host of our own choice, which may be an IP literal, to all of its addresses in the
/// resolver's order.
///
/// # Errors
/// `Dns` or `Exhausted`.
pub async fn addresses(host: &str, port: u16) -> Result<Vec<SocketAddr>, Error> {
    // The configuration names the host, so the search list may complete it.
    match parse_literal(host, port)? {
        Some(address) => Ok(vec![address]),
        None => Ok(tokio::net::lookup_host((host, port)).await.map_err(dns_error)?.collect()),
    }
}

/// Opens a connection, with `TCP_NODELAY`, to an address of our own choice. It has no timeout of
/// its own.
///
/// # Errors
/// Those of connect(2): `ConnectionRefused` if nothing listens there.
///
/// # Cancel safety
/// Cancel safe: a connection that was being opened is closed.
pub async fn connect_address(address: SocketAddr) -> io::Result<TcpStream> {
    connect_tcp(address).await
}

/// True if a process accepts connections at an address. Blocks the thread for at most `within`.
pub fn is_listening(address: SocketAddr, within: Duration) -> bool {
    net::TcpStream::connect_timeout(&address, within).is_ok()
}

/// Connects to a Unix socket in the abstract namespace (unix(7)); the kernel drops the name with
/// its owner.
///
/// # Errors
/// `ConnectionRefused` if no process has bound the name.
pub fn connect_abstract(name: &[u8]) -> io::Result<UnixStream> {
    UnixStream::connect_addr(&std::os::unix::net::SocketAddr::from_abstract_name(name)?)
}

/// Parses a host that is an IP address; `None` if it is a name.
///
/// The system's resolver takes more spellings for addresses (`0x7f.1`, `0`). That is harmless: the
/// policy judges the resolved address.
fn parse_literal(host: &str, port: u16) -> Result<Option<SocketAddr>, Error> {
    // A zone (RFC 4007 §11) selects an interface of this machine; callers must not.
    if host.contains('%') {
        return Err(Error::Denied);
    }
    Ok(host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, port)))
}

fn dns_error(error: io::Error) -> Error {
    if is_exhausted(&error) { Error::Exhausted(error) } else { Error::Dns(error) }
}

fn with_port(mut address: SocketAddr, port: u16) -> SocketAddr {
    address.set_port(port);
    address
}

/// True if an address is one of this machine: then the kernel's choice of a source address is the
/// address itself. Nothing is sent. (A trial `bind` would not do: with `ip_nonlocal_bind` it
/// succeeds everywhere.)
pub fn is_local(ip: IpAddr) -> bool {
    let any: IpAddr = if ip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let source = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect((ip, 1))?;
        socket.local_addr()
    });
    source.is_ok_and(|source| source.ip() == ip)
}

/// Connects to one address.
async fn connect_tcp(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_nodelay(true)?;
    keep_alive::enable(&SockRef::from(&socket))?;
    socket.connect(address).await
}

/// The error of this module for an error of connect(2).
fn classify(error: io::Error) -> Error {
    if is_exhausted(&error) {
        return Error::Exhausted(error);
    }
    match Errno::from_io_error(&error) {
        Some(Errno::CONNREFUSED) => Error::Refused(error),
        Some(Errno::TIMEDOUT) => Error::Timeout,
        _ => Error::Unreachable(error),
    }
}

#[cfg(test)]
mod tests;
