//! Session: a caller's connection with the request that it carries at the moment; of HTTP/2, one stream.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::net::TcpStream;

use super::access::Admitted;
use super::deadline::Deadline;
use super::first_admission::FirstAdmission;
use super::pinned::Pinned;
use super::target::{Ingress, Origin};
use super::worker::Worker;
use crate::wire::{Conn, RequestHead, ResponseHead, Stream};

/// Time, and number of bytes, for which a connection that we close is still read, so that our last response is not destroyed
/// by a reset (RFC 9112 §9.6). A second spans a round trip over any link; 256 KiB is more than is on its way by then.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 256 * 1024;

/// A caller's connection, or stream of HTTP/2, with the buffers of one request and its response.
pub(super) struct Session {
    pub(super) worker: Worker,
    /// The caller's address.
    pub(super) peer: SocketAddr,
    pub(super) conn: Conn,
    pub(super) deadline: Deadline,
    /// Head of the request that was read last.
    pub(super) head: RequestHead,
    /// Head of the origin's response to it.
    pub(super) response: ResponseHead,
    /// True if it came through TLS to a listener that has it.
    pub(super) secure: bool,
    /// True if it came to a listener on loopback.
    pub(super) loopback: bool,
    /// The intercepted tunnel through which its requests come.
    pub(super) within: Option<Arc<InterceptedTunnel>>,
    /// True after the first request since the connection was accepted. Until then the deadline is that of the first head, TLS
    /// handshake included, and is left alone: a connection that sends nothing is not idle but unwanted.
    pub(super) has_read_request: bool,
    /// Signals that a request was admitted; of HTTP/2 alone.
    pub(super) first_admission: Option<Rc<FirstAdmission>>,
    /// Connections to origins that are this caller connection's own.
    pub(super) pinned: Pinned,
}

/// A CONNECT tunnel whose content is read as requests: what holds for all of them.
pub(super) struct InterceptedTunnel {
    /// Target of the CONNECT.
    pub(super) origin: Origin,
    /// The caller, as it was admitted for the CONNECT.
    pub(super) admitted: Admitted,
}

impl Session {
    /// A session on which nothing has been read yet.
    pub(super) fn new(worker: Worker, peer: SocketAddr, stream: Stream) -> Session {
        let deadline = Deadline::new(worker.snapshot.gate.clock(), worker.snapshot.timeouts.idle);
        Session {
            worker,
            peer,
            conn: Conn::new(stream),
            deadline,
            head: RequestHead::default(),
            response: ResponseHead::default(),
            secure: false,
            loopback: false,
            within: None,
            has_read_request: true,
            first_admission: None,
            pinned: Pinned::default(),
        }
    }

    /// Begins anew with a connection that was just accepted, and keeps the buffers of the one before.
    pub(super) fn attach(&mut self, stream: TcpStream, peer: SocketAddr) {
        self.peer = peer;
        self.conn = Conn::new(Stream::accepted(stream));
        self.pinned.begin_anew();
        (self.secure, self.within, self.has_read_request) = (false, None, false);
    }

    /// The way its requests come to us.
    pub(super) fn ingress(&self) -> Ingress<'_> {
        let within = self.within.as_deref().map(|within| &within.origin);
        Ingress { secure: self.secure, loopback: self.loopback, within }
    }

    /// Runs `work` unless the caller hangs up first: `None`.
    pub(super) async fn unless_gone<T>(&mut self, mut work: Pin<Box<dyn Future<Output = T> + Send + '_>>) -> Option<T> {
        poll_fn(|cx| {
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(Some(done));
            }
            self.conn.stream.poll_hangup(cx).map(|()| None)
        })
        .await
    }

    /// Closes the connection so that the caller can still read our last response.
    pub(super) async fn linger(&mut self) {
        linger(&mut self.conn, &mut self.deadline).await;
    }
}

/// Closes a connection so that its peer can still read what was sent last: sends the end, then reads for a while.
pub(super) async fn linger(conn: &mut Conn, deadline: &mut Deadline) {
    deadline.set(LINGER);
    // Bytes that were read already are dropped too: a head that was too large has left no room.
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
    // An error here is of a connection that ends anyway.
    .unwrap_or_default();
}
