//! TCP keep-alive (SO_KEEPALIVE): detects a vanished peer on an idle connection.
//!
//! By default Linux sends the first probe after two hours (tcp(7)). Most NATs and load balancers
//! forget a connection much earlier.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

/// Idle time before the first probe. Shorter than the usual NAT timeout of two minutes or more, so
/// that probes keep a tunnel open.
const IDLE: Duration = Duration::from_secs(30);
/// Time between two probes; with [`RETRIES`] a vanished peer is detected one minute after its last
/// byte.
const INTERVAL: Duration = Duration::from_secs(10);
/// Number of unanswered probes after which the kernel closes the connection.
const RETRIES: u32 = 3;

/// Enables keep-alive. Accepted sockets inherit it from their listener.
///
/// # Errors
/// If the socket is broken.
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
