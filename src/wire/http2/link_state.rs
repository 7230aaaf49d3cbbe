//! State of a connection to an origin that its streams share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::client::SendRequest;

use super::seen::{Ending, Seen};

/// What is known of a connection by the handles to it and by its streams.
pub(super) struct LinkState {
    pub(super) seen: Arc<Seen>,
    /// How many streams are open or promised to somebody.
    streams: AtomicUsize,
    /// It has carried a request.
    used: AtomicBool,
    /// It takes no more requests, though those that it has may still end well.
    retired: AtomicBool,
}

impl LinkState {
    /// The state of a new connection.
    pub(super) fn new(seen: Arc<Seen>) -> Arc<LinkState> {
        Arc::new(LinkState {
            seen,
            streams: AtomicUsize::new(0),
            used: AtomicBool::new(false),
            retired: AtomicBool::new(false),
        })
    }

    /// One of at most `most` streams.
    pub(super) fn place(self: &Arc<Self>, most: usize) -> Option<Place> {
        if self.streams.fetch_add(1, Ordering::Relaxed) >= most {
            self.streams.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Place(Arc::clone(self)))
    }

    /// Whether new requests can be sent on it.
    pub(super) fn is_open(&self) -> bool {
        !self.retired.load(Ordering::Relaxed) && self.seen.is_open()
    }

    /// Ends the connection at once.
    pub(super) fn end(&self) {
        self.retire();
        self.seen.end(Ending::AtOnce);
    }

    /// No new request can be sent on it.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    /// Whether `h2` would take a request. It would not after an error of the connection, which may long be known before the
    /// connection has ended, nor when there is no stream identifier left (RFC 9113 §5.1.1). That never changes: the
    /// connection is retired.
    pub(super) fn is_ready(&self, send: &mut SendRequest<Bytes>) -> bool {
        // It is never pending: no handle has a stream that waits to be opened.
        let is_ready = matches!(send.poll_ready(&mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(())));
        if !is_ready {
            self.retire();
        }
        is_ready && self.is_open()
    }

    /// Whether nobody uses it.
    pub(super) fn is_idle(&self) -> bool {
        self.streams.load(Ordering::Relaxed) == 0
    }

    /// Whether it has carried a request.
    pub(super) fn was_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }

    /// It carries a request.
    pub(super) fn set_used(&self) {
        self.used.store(true, Ordering::Relaxed);
    }
}

/// Without handles and streams nobody can use the connection.
impl Drop for LinkState {
    fn drop(&mut self) {
        self.seen.end(Ending::InOrder);
    }
}

/// One of the streams that a link may have; free again when dropped.
pub(super) struct Place(pub(super) Arc<LinkState>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}
