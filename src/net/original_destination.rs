//! Original destination of a connection that the kernel has led to another listener.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use socket2::SockRef;

/// Address and port that the caller of an accepted connection has connected to; `None` if it has
/// connected to this very listener, which is bound to `listener`.
///
/// REDIRECT and DNAT of nftables: the destination before the change, which the kernel's connection
/// tracking holds (`SO_ORIGINAL_DST`). TPROXY changes no address: the destination is the local address
/// of the connection, and no such entry exists.
///
/// # Errors
/// If the connection has ended.
pub fn original_destination(stream: &impl AsFd, listener: SocketAddr) -> io::Result<Option<SocketAddr>> {
    let socket = SockRef::from(stream);
    let local = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::Unsupported)?;
    let before = if local.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
    let before = before.ok().and_then(|address| address.as_socket()).unwrap_or(local);
    let is_here = before.port() == listener.port() && (before.ip() == listener.ip() || before == local);
    Ok((!is_here).then_some(before))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_connection_that_nothing_has_led_here_has_no_other_destination() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let _caller = TcpStream::connect(address).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert_eq!(original_destination(&accepted, address).unwrap(), None);
        let any = SocketAddr::new([0, 0, 0, 0].into(), address.port());
        assert_eq!(original_destination(&accepted, any).unwrap(), None, "a listener on all addresses");
        // The port tells it from the other listeners: as TPROXY leaves it.
        let other = SocketAddr::new([0, 0, 0, 0].into(), address.port() ^ 1);
        assert_eq!(original_destination(&accepted, other).unwrap(), Some(address));
    }
}
