//! Redirected connections: callers that the kernel has led here (nftables), and that speak to an origin
//! and not to a proxy.
//!
//! Steps: the address that the caller has connected to, the host that its first bytes claim, the check
//! of that claim, and the head of a CONNECT to that host. From there on nothing differs from a CONNECT:
//! admission, limits, waiting, interception and plain HTTP are those of an
//! [`exchange`](super::exchange). Nothing is answered but what the caller expects of its origin
//! ([`TunnelEntry::Redirected`]).
//!
//! A claim counts only if the gateway's own resolver finds the address among those of the host: a
//! caller could else name one host and reach another. A host that is not claimed, as in protocols
//! other than TLS and HTTP, is the address itself.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::Poll;

use super::claimed_host::{ClaimReader, ClaimStage, FirstClaim};
use super::host::Authority;
use super::local_response::{refuse, refuse_bytes};
use super::outcome::Outcome;
use super::refusal::Refusal;
use super::request_log::RequestLog;
use super::session::{FirstProtocol, HostRule, Session, TunnelEntry};
use super::settings::HostMismatch;
use super::target::{Origin, Scheme, Target};
use super::tunnel::BEGIN_TIMEOUT;
use crate::net::dial::{DialStrategy, Endpoint};

/// Ports of protocols in which the server speaks first: FTP, SSH, telnet, mail, news, MySQL, VNC.
const SERVER_FIRST: [u16; 10] = [21, 22, 23, 25, 110, 119, 143, 587, 3306, 5900];

/// Refusal of a caller that has connected to the listener itself.
const NOT_REDIRECTED: &str =
    "this port takes connections that the kernel has redirected; [listen] proxy names the port for HTTP_PROXY";
/// Refusal of a claim that does not hold.
const OTHER_ADDRESS: &str =
    "the host that it names does not have the address that it was sent to, as this gateway resolves it";
/// Refusal of a claim that is no host.
const NO_HOST: &str = "the host that it names is none";

/// Prepares a connection that was redirected here from `destination`. True: the head of a CONNECT is in
/// the session, for the next exchange. False: the connection has ended.
///
/// Bytes that were read stay in the session. `destination`: `None` if the caller has connected to the
/// listener itself. `credentials`: a value of Proxy-Authorization.
pub(super) async fn receive(session: &mut Session, destination: Option<SocketAddr>, credentials: Option<&str>) -> bool {
    let Some(destination) = destination else {
        refuse_bytes(session, &Refusal::Malformed(NOT_REDIRECTED)).await;
        session.linger().await;
        return false;
    };
    let Some(claim) = read_claim(session, destination.port()).await else { return false };
    match begin(session, destination, &claim, credentials).await {
        Ok(()) => true,
        Err(refusal) => {
            refuse_claim(session, &refusal).await;
            false
        }
    }
}

/// Puts the head of the CONNECT into the session that the connection stands for.
///
/// # Errors
/// Those of [`check_claim`], unless a claim that does not hold makes it a connection to its address.
async fn begin(
    session: &mut Session,
    destination: SocketAddr,
    claim: &FirstClaim,
    credentials: Option<&str>,
) -> Result<(), Refusal> {
    let (address, port) = (destination.ip().to_canonical(), destination.port());
    let entry = TunnelEntry::Redirected(match claim {
        FirstClaim::Tls(_) => FirstProtocol::Tls,
        FirstClaim::Http(_) => FirstProtocol::Http,
        FirstClaim::Other => FirstProtocol::Other,
    });
    session.put_connect(format_args!("{}", SocketAddr::new(address, port)), credentials, entry)?;
    let goes_by_address = session.worker.snapshot.mismatch == HostMismatch::Address;
    match check_claim(session, claim, address, port).await {
        Ok(Some(host)) => {
            let bracketed = if host.contains(':') { format!("[{host}]") } else { host };
            session.put_connect(format_args!("{bracketed}:{port}"), credentials, entry)
        }
        Err(refusal) if !goes_by_address => Err(refusal),
        // A host that was not checked is told to no origin.
        Ok(None) | Err(_) if goes_by_address => {
            session.hosts = HostRule::Ignored;
            Ok(())
        }
        Ok(None) | Err(_) => Ok(()),
    }
}

/// Reads the first bytes until they tell what they are. `None`: the connection has ended without.
///
/// Time: [`BEGIN_TIMEOUT`] for the method of a request line, and for the first byte to one of [`SERVER_FIRST`],
/// after which another protocol is assumed; `[timeouts] head` for the rest. A client of TLS may connect long
/// before it begins, as it reads its roots in between: taken for another protocol, it would be counted by its
/// address.
async fn read_claim(session: &mut Session, port: u16) -> Option<FirstClaim> {
    let head_timeout = session.worker.snapshot.timeouts.head;
    let Session { conn, deadline, head, .. } = session;
    let (mut reader, mut before) = (ClaimReader::default(), None);
    poll_fn(|cx| {
        loop {
            if let Some(claim) = reader.read(conn.input.bytes(), head) {
                return Poll::Ready(Some(claim));
            }
            let stage = reader.stage();
            if before.replace(stage) != Some(stage) {
                deadline.set(match stage {
                    ClaimStage::Silent if SERVER_FIRST.contains(&port) => BEGIN_TIMEOUT,
                    ClaimStage::Line => BEGIN_TIMEOUT,
                    ClaimStage::Silent | ClaimStage::Message => head_timeout,
                });
            }
            let is_word = stage == ClaimStage::Line;
            match conn.poll_fill(cx) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(Ok(0)) => return Poll::Ready(is_word.then_some(FirstClaim::Other)),
                // The head is longer than any that is taken; the server that reads it says so.
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::OutOfMemory => {
                    return Poll::Ready(Some(FirstClaim::Http(None)));
                }
                Poll::Ready(Err(_)) => return Poll::Ready(None),
                Poll::Pending => {
                    std::task::ready!(deadline.poll_expired(cx));
                    return Poll::Ready((stage != ClaimStage::Message).then_some(FirstClaim::Other));
                }
            }
        }
    })
    .await
}

/// Host of the connection, if it claims one; `None`: it is that of the address.
///
/// # Errors
/// If the claim does not hold, or cannot be checked.
async fn check_claim(
    session: &Session,
    claim: &FirstClaim,
    address: IpAddr,
    port: u16,
) -> Result<Option<String>, Refusal> {
    let (FirstClaim::Tls(Some(name)) | FirstClaim::Http(Some(name))) = claim else { return Ok(None) };
    let authority = Authority::read(name).map_err(|_| Refusal::BadTarget(NO_HOST))?;
    let host = authority.host().into_owned();
    if authority.port.is_some_and(|claimed| claimed != port) {
        return Err(Refusal::Misdirected(OTHER_ADDRESS));
    }
    let is_there = match host.parse::<IpAddr>() {
        Ok(claimed) => claimed == address,
        Err(_) => leads_to(session, &host, address, port).await?,
    };
    if is_there { Ok(Some(host)) } else { Err(Refusal::Misdirected(OTHER_ADDRESS)) }
}

/// True if the address is among those of the host, as the gateway would resolve it for a request.
async fn leads_to(session: &Session, host: &str, address: IpAddr, port: u16) -> Result<bool, Refusal> {
    let snapshot = &session.worker.snapshot;
    let admitted = snapshot.access.identify(session.source(), &session.head, snapshot.gate.clock()).await?;
    let target = Target::tunnel_to(Origin { scheme: Scheme::Http, host: Arc::from(host), port });
    let reach = snapshot.named_hosts.look_up(&target).reach;
    let within = target.timeouts(&session.head, &snapshot.timeouts).connect.value;
    let endpoint = Endpoint { host, port, reach, caller: admitted.caller.0, strategy: DialStrategy::Sequential };
    snapshot.dialer.leads_to(endpoint, address, within).await.map_err(Refusal::from)
}

/// Refuses a connection because of its claim.
async fn refuse_claim(session: &mut Session, refusal: &Refusal) {
    let mut log = RequestLog::begin(session);
    let outcome = refuse(session, &mut log, refusal).await;
    log.finish(session);
    if matches!(outcome, Outcome::Abort) {
        return session.conn.stream.abort();
    }
    session.linger().await;
}
