//! Dialer through parents: connects to a parent, and asks it for the origin.
//!
//! Parents are tried in order. A parent that takes no connection, or whose handshake fails, is followed by the next; one
//! that answers decides. After a parent was asked for the origin of a counted tunnel no other is tried: the origin may see
//! a connection from the first already, and counts it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use smallvec::{SmallVec, smallvec};
use tokio::time::{Instant, timeout_at};

use super::parent_answer::fault_of_answer;
use super::{ParentKind, ParentProxy, ParentRule};
use crate::gate::clock::Clock;
use crate::net::dial::{self, DialStrategy, Dialer, Endpoint, Reach};
use crate::proxy::parent_fault::ParentFault;
use crate::proxy::refusal::Refusal;
use crate::time::Time;
use crate::tls::verify::{Connector, HandshakeOptions, Offer};
use crate::wire::Stream;
use crate::wire::connect_client::{ConnectError, ConnectRequest, open_tunnel};
use crate::wire::socks5_client::{self, SocksError, SocksTarget};

/// Entry of the gateway in the Via of a CONNECT.
const VIA: &str = "1.1 lockgate";

/// Means to connect to parents.
#[derive(Clone, Copy)]
pub(in crate::proxy) struct ParentDialer<'a> {
    pub(in crate::proxy) dialer: &'a Dialer,
    pub(in crate::proxy) tls: &'a Connector,
    pub(in crate::proxy) clock: Clock,
    /// TCP user timeout (RFC 5482) of connections.
    pub(in crate::proxy) user_timeout: Duration,
    /// Index of the client certificate that a host is shown, if any.
    pub(in crate::proxy) identity: &'a (dyn Fn(&str, u16) -> Option<usize> + Sync),
}

/// Connection that is asked for.
#[derive(Clone, Copy)]
pub(in crate::proxy) struct ParentRequest<'a> {
    /// Origin.
    pub(in crate::proxy) endpoint: Endpoint<'a>,
    /// True if the request goes in absolute form where the parent speaks HTTP.
    pub(in crate::proxy) is_forward: bool,
    /// Time by which there must be a connection.
    pub(in crate::proxy) until: Time,
    /// Number of gateways of our name that the request has passed.
    pub(in crate::proxy) hops: u8,
}

/// A connection through a parent.
pub(in crate::proxy) struct ParentStream {
    /// Stream to the origin, or to the parent.
    pub(in crate::proxy) stream: Stream,
    /// Parent that takes requests in absolute form on the stream; `None`: the stream leads to the origin.
    pub(in crate::proxy) forward: Option<Arc<ParentProxy>>,
}

/// Result of an attempt that failed.
enum AttemptFailure {
    /// The fault is the parent's: the next one may do better.
    Parent(String),
    /// No other parent is tried.
    Final(Refusal),
}

impl From<dial::Error> for AttemptFailure {
    /// Fault in connecting to a parent.
    fn from(error: dial::Error) -> AttemptFailure {
        match error {
            dial::Error::Exhausted(_) | dial::Error::Loop => AttemptFailure::Final(error.into()),
            dial::Error::Dns(_)
            | dial::Error::DnsTimeout
            | dial::Error::Denied
            | dial::Error::Refused(_)
            | dial::Error::Timeout
            | dial::Error::Unreachable(_) => AttemptFailure::Parent(error.to_string()),
        }
    }
}

impl From<ParentFault> for AttemptFailure {
    fn from(fault: ParentFault) -> AttemptFailure {
        AttemptFailure::Final(fault.into())
    }
}

impl ParentDialer<'_> {
    /// Connects through the first parent of the section that can.
    ///
    /// # Errors
    /// 403 or 508 for an address that the gateway must not call, whoever dials it; else that of [`ParentFault`]; 503 if
    /// descriptors have run out.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection. A parent that was asked for the origin may reach it all the same.
    pub(in crate::proxy) async fn connect(
        &self,
        rule: &ParentRule,
        request: ParentRequest<'_>,
    ) -> Result<ParentStream, Refusal> {
        self.dialer.check_unresolved(request.endpoint)?;
        let (candidates, up) = rule.candidates(self.clock.now());
        let mut faults = Vec::new();
        for (at, proxy) in candidates.iter().enumerate() {
            // A parent that does not answer leaves time for the others.
            let left = if at < up { up - at } else { candidates.len() - at };
            let now = self.clock.now();
            if now >= request.until {
                // Too late to judge this one.
                break;
            }
            let within = request.until.since(now) / u32::try_from(left).unwrap_or(u32::MAX);
            match self.attempt(rule, proxy, request, now + within).await {
                Ok(connected) => {
                    proxy.status.connected.add_one();
                    // In absolute form nothing was asked of it yet: its first answer shows that it works.
                    if connected.forward.is_none() {
                        proxy.status.succeeded();
                    }
                    return Ok(connected);
                }
                Err(AttemptFailure::Final(refusal)) => return Err(refusal),
                Err(AttemptFailure::Parent(why)) => {
                    proxy.status.failed(&why, self.clock.now());
                    faults.push(format!("{}: {why}", proxy.name));
                }
            }
        }
        if faults.is_empty() {
            return Err(Refusal::ConnectTimeout);
        }
        Err(ParentFault::Unavailable { faults: faults.join("; ") }.into())
    }

    /// Connects through one parent, which must take the connection until `by`.
    async fn attempt(
        &self,
        rule: &ParentRule,
        proxy: &Arc<ParentProxy>,
        request: ParentRequest<'_>,
        by: Time,
    ) -> Result<ParentStream, AttemptFailure> {
        if !proxy.url.kind.is_http() {
            return self.through_socks(rule, proxy, request, by).await;
        }
        let stream = self.open(proxy, request, by).await?;
        if request.is_forward {
            return Ok(ParentStream { stream, forward: Some(Arc::clone(proxy)) });
        }
        self.through_connect(proxy, stream, request).await
    }

    /// Connects to a parent, TLS included.
    async fn open(&self, proxy: &ParentProxy, request: ParentRequest<'_>, by: Time) -> Result<Stream, AttemptFailure> {
        let (host, port) = (&*proxy.url.host, proxy.url.port);
        let (caller, strategy) = (request.endpoint.caller, DialStrategy::HappyEyeballs);
        let endpoint = Endpoint { host, port, reach: Reach::Configured, caller, strategy };
        let within = by.since(self.clock.now());
        let mut stream = Stream::plain(self.dialer.connect(endpoint, within).await?);
        stream.set_user_timeout(Some(self.user_timeout));
        if proxy.url.kind != ParentKind::Https {
            return Ok(stream);
        }
        let options = HandshakeOptions { offer: Offer::Http1, identity: (self.identity)(host, port) };
        let handshake = timeout_at(self.instant(by), self.tls.connect(host, stream, options)).await;
        let tls = handshake.map_err(|_elapsed| AttemptFailure::Parent("TLS with it took too long".to_owned()))?;
        tls.map(Stream::tls).map_err(|error| AttemptFailure::Parent(error.to_string()))
    }

    /// Asks an HTTP proxy for a tunnel.
    async fn through_connect(
        &self,
        proxy: &ParentProxy,
        stream: Stream,
        request: ParentRequest<'_>,
    ) -> Result<ParentStream, AttemptFailure> {
        let Endpoint { host, port, .. } = request.endpoint;
        let authority = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let via = vec![VIA; usize::from(request.hops) + 1].join(", ");
        let asked = ConnectRequest { authority: &authority, authorization: proxy.authorization(), via: &via };
        match timeout_at(self.instant(request.until), open_tunnel(stream, asked)).await {
            Err(_elapsed) => Err(ParentFault::Late { proxy: proxy.name.clone() }.into()),
            Ok(Ok(stream)) => Ok(ParentStream { stream, forward: None }),
            Ok(Err(ConnectError::Refused(head))) => Err(self.refused(proxy, fault_of_answer(&head, proxy))),
            Ok(Err(error @ (ConnectError::Io(_) | ConnectError::Malformed(_)))) => {
                Err(self.broken(proxy, request, error.to_string()))
            }
        }
    }

    /// Asks a SOCKS proxy for a connection.
    ///
    /// With names resolved here, the addresses of a name are tried one after the other; a name with an excepted address is
    /// dialled directly.
    async fn through_socks(
        &self,
        rule: &ParentRule,
        proxy: &ParentProxy,
        request: ParentRequest<'_>,
        by: Time,
    ) -> Result<ParentStream, AttemptFailure> {
        let targets = match self.socks_targets(proxy, request).await {
            Ok(targets) => targets,
            Err(error) => return Err(AttemptFailure::Final(error.into())),
        };
        let is_excepted = |target: &SocksTarget<'_>| match target {
            SocksTarget::Address(address) => rule.excepts(address.ip()),
            SocksTarget::Name(..) => false,
        };
        if targets.iter().any(is_excepted) {
            let within = request.until.since(self.clock.now());
            let direct = self.dialer.connect(request.endpoint, within).await;
            let mut stream = Stream::plain(direct.map_err(|error| AttemptFailure::Final(error.into()))?);
            stream.set_user_timeout(Some(self.user_timeout));
            return Ok(ParentStream { stream, forward: None });
        }
        let mut refusal = None;
        for (at, target) in targets.into_iter().enumerate() {
            // Not silent: the proxy has answered for the first address.
            let mut stream = self.greet(proxy, request, if at == 0 { by } else { request.until }).await?;
            match timeout_at(self.instant(request.until), socks5_client::connect(&mut stream, target)).await {
                Err(_elapsed) => return Err(ParentFault::Late { proxy: proxy.name.clone() }.into()),
                Ok(Ok(())) => return Ok(ParentStream { stream, forward: None }),
                Ok(Err(SocksError::Refused(reply))) => refusal = Some(reply),
                Ok(Err(error @ (SocksError::Io(_) | SocksError::Malformed(_) | SocksError::Login))) => {
                    return Err(self.broken(proxy, request, error.to_string()));
                }
            }
        }
        let answer = refusal.map_or("no address", socks5_client::reply_text).to_owned();
        Err(self.refused(proxy, ParentFault::Refused { proxy: proxy.name.clone(), answer, is_timeout: false }))
    }

    /// Connects to a SOCKS proxy, and logs in there.
    async fn greet(&self, proxy: &ParentProxy, request: ParentRequest<'_>, by: Time) -> Result<Stream, AttemptFailure> {
        let mut stream = self.open(proxy, request, by).await?;
        match timeout_at(self.instant(by), socks5_client::greet(&mut stream, proxy.socks_login())).await {
            Ok(Ok(())) => Ok(stream),
            Ok(Err(SocksError::Login)) => Err(self.refused(proxy, ParentFault::Login { proxy: proxy.name.clone() })),
            Ok(Err(error)) => Err(AttemptFailure::Parent(error.to_string())),
            Err(_elapsed) => Err(AttemptFailure::Parent("its greeting took too long".to_owned())),
        }
    }

    /// Targets to ask a SOCKS proxy for: the name, or each address that it resolves to and that may be called.
    async fn socks_targets<'r>(
        &self,
        proxy: &ParentProxy,
        request: ParentRequest<'r>,
    ) -> Result<SmallVec<[SocksTarget<'r>; 2]>, dial::Error> {
        let Endpoint { host, port, .. } = request.endpoint;
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(smallvec![SocksTarget::Address(SocketAddr::new(address, port))]);
        }
        if proxy.url.kind == ParentKind::Socks5h {
            return Ok(smallvec![SocksTarget::Name(host, port)]);
        }
        let within = request.until.since(self.clock.now());
        let found = self.dialer.lookup(request.endpoint, within).await?;
        Ok(found.into_iter().map(SocksTarget::Address).collect())
    }

    /// Failure for a parent that works, and refused.
    fn refused(&self, proxy: &ParentProxy, fault: ParentFault) -> AttemptFailure {
        proxy.status.refused.add_one();
        proxy.status.succeeded();
        fault.into()
    }

    /// Failure for a connection that broke after the parent was asked for the origin.
    fn broken(&self, proxy: &ParentProxy, request: ParentRequest<'_>, why: String) -> AttemptFailure {
        if request.endpoint.strategy == DialStrategy::HappyEyeballs {
            return AttemptFailure::Parent(why);
        }
        proxy.status.failed(&why, self.clock.now());
        ParentFault::Broken { proxy: proxy.name.clone(), why }.into()
    }

    fn instant(&self, at: Time) -> Instant {
        Instant::from_std(self.clock.instant(at))
    }
}
