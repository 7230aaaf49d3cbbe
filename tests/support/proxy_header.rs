//! PROXY headers of both versions, as a balancer sends them before the first byte of a connection.

use std::net::{IpAddr, SocketAddr};

use super::{Caller, Gateway};

/// First bytes of version 2.
pub(crate) const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A line of version 1 for a client at this address.
pub(crate) fn v1(client: &str) -> Vec<u8> {
    let client: SocketAddr = client.parse().expect("an address and a port");
    let (family, to) = if client.is_ipv4() { ("TCP4", "127.0.0.1") } else { ("TCP6", "::1") };
    format!("PROXY {family} {} {to} {} 443\r\n", client.ip(), client.port()).into_bytes()
}

/// A header of version 2 with these values.
pub(crate) fn v2_of(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).expect("a short block");
    [SIGNATURE, &[command, family], &length.to_be_bytes(), block].concat()
}

/// A header of version 2 for a client at this address, with two fields (TLVs) behind the addresses: ALPN, and one of AWS.
pub(crate) fn v2(client: &str) -> Vec<u8> {
    let client: SocketAddr = client.parse().expect("an address and a port");
    let (family, mut block) = match client.ip() {
        IpAddr::V4(ip) => (0x11, [&ip.octets()[..], &[127, 0, 0, 1]].concat()),
        IpAddr::V6(ip) => (0x21, [ip.octets(), ip.octets()].concat()),
    };
    block.extend(client.port().to_be_bytes());
    block.extend(443_u16.to_be_bytes());
    block.extend(b"\x01\x00\x02h2\xea\x00\x05\x01vpce");
    v2_of(0x21, family, &block)
}

/// A connection of a balancer at `from`, for which it has sent this header.
#[track_caller]
pub(crate) fn through(gateway: &Gateway, from: &str, header: impl AsRef<[u8]>) -> Caller {
    let mut caller = Caller::connect_from(from, gateway.addr);
    caller.send(header);
    caller
}
