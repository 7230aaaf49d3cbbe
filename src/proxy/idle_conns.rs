//! Idle connections of HTTP/1.1 to one peer, for the next requests.
//!
//! The last used comes first because it is the least likely to be closed by its peer; the others can then grow old and be
//! closed.

use std::time::Duration;

use super::send::OriginConn;
use crate::time::Time;

/// Time after its last read for which a kept connection is reused without asking the kernel for events. A busy gateway
/// reuses each within some 100 µs: one system call in six would be such a question, 7 % of its requests per second.
/// Bytes or a close that arrive later than this after a response are always seen.
const JUST_READ: Duration = Duration::from_millis(1);

/// Idle connections of one peer, the last one used at the end.
#[derive(Default)]
pub(super) struct IdleConns(Vec<IdleConn>);

/// An idle connection of HTTP/1.1.
pub(super) struct IdleConn {
    ready: Box<OriginConn>,
    /// Time from which it is idle.
    since: Time,
}

impl IdleConn {
    /// A connection that is idle from now on, without its buffers. Its last message has ended, and no byte of another was
    /// read; `None` in the middle of a message.
    pub(super) fn new(mut ready: Box<OriginConn>, now: Time) -> Option<IdleConn> {
        if !ready.conn.is_between_messages() {
            return None;
        }
        ready.conn.release_buffers();
        Some(IdleConn { ready, since: now })
    }

    /// The connection, if it can carry another request.
    ///
    /// `None` if it was closed by its peer, has unread bytes, or is near the end that its peer has announced.
    pub(super) fn into_usable(self, now: Time) -> Option<Box<OriginConn>> {
        let IdleConn { mut ready, since } = self;
        let stream = &mut ready.conn.stream;
        let is_open = if now.since(since) < JUST_READ { stream.seems_reusable() } else { stream.is_reusable() };
        (ready.reused, ready.pinned) = (true, false);
        (is_open && now < ready.usable_until).then_some(ready)
    }
}

impl IdleConns {
    /// Takes the connection that was used last.
    pub(super) fn pop(&mut self) -> Option<IdleConn> {
        self.0.pop()
    }

    /// Keeps a connection; drops it, which closes it, if there are `most` already.
    pub(super) fn push(&mut self, idle: IdleConn, most: usize) {
        if self.0.len() < most {
            self.0.push(idle);
        }
    }

    /// Closes connections that were idle for `idle`, were closed by their peer or near their announced end; returns true if
    /// any are left.
    pub(super) fn reap(&mut self, idle: Duration, now: Time) -> bool {
        self.0.retain_mut(|kept| now.since(kept.since) < idle && kept.ready.is_good(now));
        !self.0.is_empty()
    }

    /// Number of connections.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
