//! Session: a caller's connection, or HTTP/2 stream, with the request that it carries at the moment.

use std::fmt;
use std::future::{Future, poll_fn};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::net::TcpStream;

use super::access::{Admitted, RequestSource};
use super::deadline::Deadline;
use super::first_admission::FirstAdmission;
use super::pinned::Pinned;
use super::refusal::Refusal;
use super::target::{Ingress, Origin};
use super::worker::Worker;
use crate::wire::{Conn, RequestHead, ResponseHead, Stream};

/// Time, and number of bytes, for which a connection is still read after we have closed it, so that no reset destroys
/// our last response (RFC 9112 §9.6). A second spans a round trip over any link; 256 KiB is more than is in transit by
/// then.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 256 * 1024;

/// A caller's connection, or HTTP/2 stream, with the buffers of one request and its response.
pub(super) struct Session {
    pub(super) worker: Worker,
    /// Address that the connection comes from: that of its PROXY header, else that of its socket.
    pub(super) peer: SocketAddr,
    /// Address of the caller: of the request that was read last, or of the tunnel that it came in.
    ///
    /// Equal to the address of the connection, unless a balancer tells another.
    pub(super) caller: IpAddr,
    pub(super) conn: Conn,
    /// The only timer of the connection: each step sets it to its own timeout.
    pub(super) deadline: Deadline,
    /// Head of the request that was read last.
    pub(super) head: RequestHead,
    /// Head of the origin's response to it.
    pub(super) response: ResponseHead,
    /// True if it was accepted with TLS.
    pub(super) secure: bool,
    /// True if it was accepted on a loopback address, and comes from this machine.
    pub(super) loopback: bool,
    /// Tunnel in which its requests arrive, if the gateway reads them there.
    pub(super) within: Option<Arc<InterceptedTunnel>>,
    /// Way by which the request that was read last asks for a tunnel.
    pub(super) entry: TunnelEntry,
    /// Treatment of hosts in the tunnel that is asked for.
    pub(super) hosts: HostRule,
    /// True after the first request since the connection was accepted. Until then the deadline is that of the first
    /// head, TLS handshake included, and stays: a connection that sends nothing is not idle but unwanted.
    pub(super) has_read_request: bool,
    /// Signals that a request was admitted; set for HTTP/2 only.
    pub(super) first_admission: Option<Rc<FirstAdmission>>,
    /// Connections to origins that belong to this caller's connection.
    pub(super) pinned: Pinned,
}

/// State of a CONNECT tunnel in which the gateway reads the requests, shared by all of them.
///
/// Its requests come in TLS that is intercepted, or in plain HTTP.
pub(super) struct InterceptedTunnel {
    /// Target of the CONNECT.
    pub(super) origin: Origin,
    /// Caller, as admitted for the CONNECT.
    pub(super) admitted: Admitted,
    /// Treatment of TLS inside.
    pub(super) tls: TlsInside,
    /// Treatment of hosts in requests.
    pub(super) hosts: HostRule,
}

/// Treatment of TLS, and of other protocols than HTTP, in a tunnel whose first bytes are read before
/// anything is dialled.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum TlsInside {
    /// The gateway ends TLS itself (`[tls] intercept`).
    Intercepted,
    /// The tunnel is opaque.
    ///
    /// At port 80 alone: tunnels to other ports are connected first.
    Opaque,
    /// The tunnel ends: its port is not in `connect_ports`, so it may carry plain HTTP only.
    Denied,
}

/// Way by which a tunnel is asked for, which decides the form of the answer.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum TunnelEntry {
    /// A CONNECT of HTTP.
    #[default]
    Http,
    /// SOCKS5: the head in the session is one that stands for its request.
    Socks5,
    /// None: the caller speaks to the origin, in this protocol. The head in the session is one that stands
    /// for its connection.
    Redirected(FirstProtocol),
}

/// Protocol of a redirected connection, by its first bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum FirstProtocol {
    Tls,
    Http,
    /// Another one, or not known: the server speaks first.
    Other,
}

/// Treatment of hosts that requests in a tunnel name.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum HostRule {
    /// Another one than that of the tunnel is refused.
    #[default]
    Checked,
    /// The host of the tunnel takes the place of those in requests.
    Ignored,
}

/// Protocol spoken on a connection from now on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// HTTP/1.1, or HTTP/2 if the connection begins with its preface.
    Http1,
    /// HTTP/2, as agreed in the TLS handshake.
    Http2,
}

impl Session {
    /// A session of which nothing has been read yet.
    pub(super) fn new(worker: Worker, peer: SocketAddr, stream: Stream) -> Session {
        let deadline = Deadline::new(worker.snapshot.gate.clock(), worker.snapshot.timeouts.idle);
        Session {
            worker,
            peer,
            caller: peer.ip(),
            conn: Conn::new(stream),
            deadline,
            head: RequestHead::default(),
            response: ResponseHead::default(),
            secure: false,
            loopback: false,
            within: None,
            entry: TunnelEntry::Http,
            hosts: HostRule::Checked,
            has_read_request: true,
            first_admission: None,
            pinned: Pinned::default(),
        }
    }

    /// Starts over with a connection that was just accepted; reuses the buffers.
    pub(super) fn attach(&mut self, stream: TcpStream, peer: SocketAddr) {
        self.set_peer(peer);
        self.conn = Conn::new(Stream::accepted(stream));
        self.pinned.reset();
        (self.secure, self.within, self.has_read_request) = (false, None, false);
        (self.entry, self.hosts) = (TunnelEntry::Http, HostRule::Checked);
    }

    /// Sets the address that the connection comes from.
    pub(super) fn set_peer(&mut self, peer: SocketAddr) {
        (self.peer, self.caller) = (peer, peer.ip());
    }

    /// Finds the caller of the request whose head was just read. Returns a note for the access log if
    /// a balancer should have told it, and has not.
    ///
    /// In a tunnel the caller stays that of the tunnel.
    pub(super) fn find_caller(&mut self) -> Option<&'static str> {
        if self.within.is_some() {
            return None;
        }
        let found = self.worker.snapshot.balancers.caller(self.peer.ip(), &self.head);
        self.caller = found.address;
        found.note
    }

    /// Forgets the caller of an earlier request, before bytes are refused that are no request.
    pub(super) fn forget_caller(&mut self) {
        if self.within.is_none() {
            self.caller = self.peer.ip();
        }
    }

    /// Addresses by which the access rules judge the request.
    pub(super) fn source(&self) -> RequestSource {
        RequestSource { connection: self.peer.ip(), caller: self.caller }
    }

    /// Way by which its requests arrive.
    pub(super) fn ingress(&self) -> Ingress<'_> {
        let (secure, loopback) = (self.secure, self.loopback);
        let Some(within) = self.within.as_deref() else { return Ingress { secure, loopback, ..Ingress::default() } };
        Ingress { secure, loopback, within: Some(&within.origin), any_host: within.hosts == HostRule::Ignored }
    }

    /// Puts the head of a CONNECT into the session, for a caller that has asked for a tunnel in another
    /// way. `credentials`: a value of Proxy-Authorization.
    ///
    /// # Errors
    /// 400 if the host is none that can stand in a head.
    pub(super) fn put_connect(
        &mut self,
        authority: fmt::Arguments<'_>,
        credentials: Option<&str>,
        entry: TunnelEntry,
    ) -> Result<(), Refusal> {
        let mut head = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n");
        if let Some(credentials) = credentials {
            head.push_str(&format!("Proxy-Authorization: {credentials}\r\n"));
        }
        head.push_str("\r\n");
        match self.head.read(head.as_bytes()) {
            Ok(Some(length)) if length == head.len() => {
                (self.has_read_request, self.entry) = (true, entry);
                Ok(())
            }
            Ok(_) | Err(_) => Err(Refusal::BadTarget("the host cannot stand in the head of a request")),
        }
    }

    /// Runs `work` unless the caller hangs up first; returns `None` then.
    pub(super) async fn unless_gone<T>(&mut self, mut work: Pin<Box<dyn Future<Output = T> + Send + '_>>) -> Option<T> {
        poll_fn(|cx| {
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(Some(done));
            }
            self.conn.stream.poll_hangup(cx).map(|()| None)
        })
        .await
    }

    /// Closes the connection in such a way that the caller can still read our last response.
    pub(super) async fn linger(&mut self) {
        linger(&mut self.conn, &mut self.deadline).await;
    }
}

/// Closes a connection in such a way that its peer can still read the last bytes sent: shuts it down, then reads for a
/// while.
pub(super) async fn linger(conn: &mut Conn, deadline: &mut Deadline) {
    deadline.set(LINGER);
    // Drops buffered bytes too: a head that was too large has left no room.
    conn.input.consume(conn.input.bytes().len());
    let mut left = LINGER_BYTES;
    poll_fn(|cx| {
        if conn.poll_flush(cx)?.is_ready() && conn.stream.poll_shutdown(cx)?.is_ready() {
            while let Poll::Ready(count) = conn.poll_fill(cx)? {
                conn.input.consume(conn.input.bytes().len());
                left = left.saturating_sub(count);
                if count == 0 || left == 0 {
                    return Poll::Ready(std::io::Result::Ok(()));
                }
            }
        }
        deadline.poll_expired(cx).map(Ok)
    })
    .await
    // Errors do not matter here: the connection ends anyway.
    .unwrap_or_default();
}
