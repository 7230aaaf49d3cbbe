//! TCP keep-alive: a peer that vanished without a word is noticed on an idle connection too.
//!
//! Linux would begin to ask after two hours (tcp(7)), and most NAT and load balancers have forgotten a connection by then.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

/// How long a connection is idle before the kernel asks, how long it waits for each answer, and how often it asks in vain:
/// a peer that is gone is noticed after a minute, a tunnel through a NAT with the usual two minutes or more is kept open.
const IDLE: Duration = Duration::from_secs(30);
const INTERVAL: Duration = Duration::from_secs(10);
const RETRIES: u32 = 3;

/// Switches it on. Sockets that a listening one accepts inherit it.
pub(super) fn enable(socket: &SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(IDLE).with_interval(INTERVAL).with_retries(RETRIES))
}

#[cfg(test)]
pub(super) fn is_enabled(socket: &SockRef<'_>) -> bool {
    socket.keepalive().unwrap()
        && socket.tcp_keepalive_time().unwrap() == IDLE
        && socket.tcp_keepalive_interval().unwrap() == INTERVAL
        && socket.tcp_keepalive_retries().unwrap() == RETRIES
}
