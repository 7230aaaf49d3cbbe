//! Connections to origins that are pinned to a caller's connection, because a login holds for all that is said on them.
//!
//! NTLM and Negotiate (RFC 4559) let the connection log in, not the request: what comes next on it is served as the same
//! user, whoever sent it (RFC 9110 §3.3). And a login takes several requests, all of them on one connection.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use super::send::OriginConn;
use super::upstream::Upstream;
use crate::locker::Caller;
use crate::time::Time;
use crate::wire::Conn;

/// How many are kept for one caller's connection: it can log in at any number of origins.
const MOST: usize = 8;

/// The connections of one caller's connection; its streams, if it speaks HTTP/2, share them.
#[derive(Clone, Default)]
pub(super) struct Pinned(Rc<RefCell<Vec<Pin>>>);

/// Which connection is for a request.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct PinKey {
    pub(super) upstream: Upstream,
    /// Different users may speak on a caller's connection.
    pub(super) caller: Caller,
    /// The reading of the file: whom to trust may be other in the next.
    pub(super) version: u64,
}

struct Pin {
    key: PinKey,
    conn: Conn,
    since: Time,
}

impl Pinned {
    /// Whether there are none, as there are for nearly all callers.
    pub(super) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// Whether there is one for these requests.
    pub(super) fn has(&self, key: &PinKey) -> bool {
        self.0.borrow().iter().any(|pin| pin.key == *key)
    }

    /// The one for a request, if it is still good. Those of earlier readings of the file are closed, and those that have
    /// been idle for so long.
    pub(super) fn take(&self, key: &PinKey, idle: Duration, now: Time) -> Option<OriginConn> {
        let mut pins = self.0.borrow_mut();
        pins.retain(|pin| pin.key.version == key.version && now.since(pin.since) < idle);
        while let Some(at) = pins.iter().rposition(|pin| pin.key == *key) {
            let mut ready = OriginConn { conn: pins.remove(at).conn, reused: true, pinned: true };
            if ready.is_good() {
                return Some(ready);
            }
        }
        None
    }

    /// Keeps one for the next request. Its last message has ended.
    pub(super) fn keep(&self, key: PinKey, mut conn: Conn, now: Time) {
        if !conn.is_between_messages() {
            return;
        }
        conn.release_buffers();
        let mut pins = self.0.borrow_mut();
        if pins.len() >= MOST {
            pins.remove(0);
        }
        pins.push(Pin { key, conn, since: now });
    }

    /// Closes all of them, for the caller's next connection. Streams of the last one may still run: what they keep is not for
    /// the next.
    pub(super) fn begin_anew(&mut self) {
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
    use crate::proxy::uri_origin::Origin;
    use crate::wire::Stream;

    const NOW: Time = Time::from_nanos(1 << 60);
    const IDLE: Duration = Duration::from_secs(90);

    fn key(version: u64) -> PinKey {
        let origin = Origin { scheme: Scheme::Http, host: "a.example".into(), port: 80 };
        PinKey { upstream: Upstream { origin, reach: Reach::Public }, caller: Caller(1), version }
    }

    async fn dialled(listener: &TcpListener) -> Conn {
        Conn::new(Stream::plain(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap()))
    }

    #[tokio::test]
    async fn a_stream_that_outlives_its_connection_keeps_nothing_for_the_next_one() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut connection = Pinned::default();
        let stream = connection.clone();
        stream.keep(key(0), dialled(&listener).await, NOW);
        assert!(connection.has(&key(0)), "streams share what is their connection's");
        connection.begin_anew();
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
