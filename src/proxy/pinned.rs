//! Pinned connections to origins: each belongs to one caller's connection, because a login applies
//! to everything sent on it.
//!
//! With NTLM and Negotiate (RFC 4559) the connection is logged in, not the request: later requests
//! on it are served as the same user, whichever caller sent them (RFC 9110 §3.3). Besides, a login
//! takes several requests, all of them on one connection.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use super::send::OriginConn;
use super::upstream::Upstream;
use crate::locker::Caller;
use crate::time::Time;

/// Most connections kept for one caller's connection, which can log in at any number of origins.
const MAX_PINNED: usize = 8;

/// Pinned connections of one caller's connection; if it speaks HTTP/2, its streams share them.
#[derive(Clone, Default)]
pub(super) struct Pinned(Rc<RefCell<Vec<Pin>>>);

/// Key by which a request finds its pinned connection.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct PinKey {
    pub(super) upstream: Upstream,
    /// Caller, because several users may use one connection to the gateway.
    pub(super) caller: Caller,
    /// Version of the configuration: a later one may trust other certificates.
    pub(super) version: u64,
}

/// An idle pinned connection.
struct Pin {
    key: PinKey,
    ready: Box<OriginConn>,
    /// Time from which it is idle.
    since: Time,
}

impl Pinned {
    /// True if there are none, as for nearly all callers.
    pub(super) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// True if there is a connection for this key.
    pub(super) fn has(&self, key: &PinKey) -> bool {
        self.0.borrow().iter().any(|pin| pin.key == *key)
    }

    /// Takes the connection for a request, if it is still usable. Closes connections of earlier
    /// configurations, and those idle for longer than `idle`.
    pub(super) fn take(&self, key: &PinKey, idle: Duration, now: Time) -> Option<Box<OriginConn>> {
        let mut pins = self.0.borrow_mut();
        pins.retain(|pin| pin.key.version == key.version && now.since(pin.since) < idle);
        while let Some(at) = pins.iter().rposition(|pin| pin.key == *key) {
            let mut ready = pins.remove(at).ready;
            if ready.is_good(now) {
                (ready.reused, ready.pinned) = (true, true);
                return Some(ready);
            }
        }
        None
    }

    /// Keeps a connection for the next request. Its last message has ended.
    pub(super) fn keep(&self, key: PinKey, mut ready: Box<OriginConn>, now: Time) {
        if !ready.conn.is_between_messages() {
            return;
        }
        ready.conn.release_buffers();
        let mut pins = self.0.borrow_mut();
        if pins.len() >= MAX_PINNED {
            pins.remove(0);
        }
        pins.push(Pin { key, ready, since: now });
    }

    /// Closes all connections before the caller's connection is replaced. Streams of the old one
    /// may still run; connections that they return are not for the new one.
    pub(super) fn reset(&mut self) {
        self.0.borrow_mut().clear();
        if Rc::strong_count(&self.0) > 1 {
            self.0 = Rc::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::net::dial::Reach;
    use crate::proxy::target::Scheme;
    use crate::proxy::upstream::Way;
    use crate::proxy::uri_origin::Origin;
    use crate::wire::Stream;

    const NOW: Time = Time::from_nanos(1 << 60);
    const IDLE: Duration = Duration::from_secs(90);

    fn key(version: u64) -> PinKey {
        let origin = Origin { scheme: Scheme::Http, host: "a.example".into(), port: 80 };
        PinKey { upstream: Upstream { origin, reach: Reach::Public, way: Way::Direct }, caller: Caller(1), version }
    }

    async fn dialled(listener: &TcpListener) -> Box<OriginConn> {
        OriginConn::new(Stream::plain(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap()))
    }

    #[tokio::test]
    async fn a_stream_that_outlives_its_connection_keeps_nothing_for_the_next_one() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut connection = Pinned::default();
        let stream = connection.clone();
        stream.keep(key(0), dialled(&listener).await, NOW);
        assert!(connection.has(&key(0)), "streams share what is their connection's");
        connection.reset();
        assert!(connection.is_empty() && stream.is_empty());
        stream.keep(key(0), dialled(&listener).await, NOW);
        assert!(connection.is_empty());
    }

    #[tokio::test]
    async fn a_login_ends_with_the_reading_of_the_file_and_with_its_idle_time() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        for (version, after, is_there) in
            [(0, IDLE - Duration::from_secs(1), true), (1, Duration::ZERO, false), (0, IDLE, false)]
        {
            let pinned = Pinned::default();
            pinned.keep(key(0), dialled(&listener).await, NOW);
            assert_eq!(pinned.take(&key(version), IDLE, NOW + after).is_some(), is_there);
            assert!(pinned.is_empty());
        }
    }
}
