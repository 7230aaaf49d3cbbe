//! PROXY protocol, versions 1 and 2: the header that a balancer sends before the first byte of a
//! connection, with the address of its client (HAProxy's `proxy-protocol.txt`).
//!
//! ```text
//! PROXY TCP4 192.0.2.7 10.0.0.1 56324 443\r\n
//! ```
//!
//! Version 2 says the same in binary, after a signature of 12 bytes. Fields behind its addresses
//! (TLVs) are skipped.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Longest header of version 1 in bytes, CRLF included (§2.1).
pub const MAX_V1: usize = 107;

/// Longest header of version 2 in bytes: 16, and up to 4096 of addresses and TLVs.
///
/// The field for the length allows 65 535. Balancers send less than 300 bytes, and some KiB with
/// the client's certificate; nginx has the same bound.
pub const MAX_V2: usize = V2_FIXED + 4096;

/// First bytes of version 1.
const V1_BEGIN: &[u8] = b"PROXY ";

/// First bytes of version 2 (§2.2).
const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Length of the part of version 2 that states the length of the rest.
const V2_FIXED: usize = 16;

/// Result of reading the first bytes of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProxyHeaderState {
    /// Begin of a header: more bytes are needed.
    Incomplete,
    /// A whole header.
    Complete(ProxyHeader),
    /// No header, or one that breaks the protocol; more bytes cannot mend it.
    Malformed(&'static str),
}

/// A header that was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProxyHeader {
    /// Length in bytes; the next byte is the client's first.
    pub length: usize,
    /// Address and port of the client.
    ///
    /// `None`: the connection is the balancer's own (`LOCAL`, as for its health checks), or it does
    /// not tell (`UNKNOWN`, `UNSPEC`, Unix sockets, datagrams). The connection's own address counts
    /// then.
    pub client: Option<SocketAddr>,
}

/// True if the bytes begin like a header of either version, also if empty lines before them were
/// skipped: version 2 begins with two.
pub fn begins_proxy_header(bytes: &[u8]) -> bool {
    bytes.starts_with(V1_BEGIN) || bytes.starts_with(V2_SIGNATURE) || bytes.starts_with(&V2_SIGNATURE[4..])
}

/// Reads the header at the start of `bytes`, which may go on behind it.
///
/// Needs never more than [`MAX_V1`] or [`MAX_V2`] bytes for an answer other than `Incomplete`.
pub fn read_proxy_header(bytes: &[u8]) -> ProxyHeaderState {
    let read = if could_begin(bytes, V2_SIGNATURE) {
        read_v2(bytes)
    } else if could_begin(bytes, V1_BEGIN) {
        read_v1(bytes)
    } else {
        Err("the first bytes are no PROXY header")
    };
    match read {
        Ok(Some(header)) => ProxyHeaderState::Complete(header),
        Ok(None) => ProxyHeaderState::Incomplete,
        Err(why) => ProxyHeaderState::Malformed(why),
    }
}

/// True if the bytes begin with `begin`, or may once more of them have arrived.
fn could_begin(bytes: &[u8], begin: &[u8]) -> bool {
    bytes.iter().zip(begin).all(|(byte, wanted)| byte == wanted)
}

/// Reads a line of version 1; `None` if its end has not arrived.
fn read_v1(bytes: &[u8]) -> Result<Option<ProxyHeader>, &'static str> {
    let bytes = &bytes[..bytes.len().min(MAX_V1)];
    let Some(end) = memchr::memchr2(b'\r', b'\n', bytes) else {
        return if bytes.len() < MAX_V1 { Ok(None) } else { Err("the PROXY line is too long") };
    };
    match bytes[end..] {
        [b'\r', b'\n', ..] => {}
        [b'\r'] if bytes.len() < MAX_V1 => return Ok(None),
        _ => return Err("the PROXY line does not end with CRLF"),
    }
    let line = std::str::from_utf8(&bytes[V1_BEGIN.len()..end]).map_err(|_| "the PROXY line is not text")?;
    Ok(Some(ProxyHeader { length: end + 2, client: client_in_line(line)? }))
}

/// Client in a line of version 1, without `PROXY` and CRLF.
fn client_in_line(line: &str) -> Result<Option<SocketAddr>, &'static str> {
    let mut words = line.split(' ');
    let family = words.next();
    // Anything may stand behind it (§2.1).
    if family == Some("UNKNOWN") {
        return Ok(None);
    }
    let [Some(source), Some(destination), Some(source_port), Some(destination_port), None] =
        std::array::from_fn(|_| words.next())
    else {
        return Err("the PROXY line does not have two addresses and two ports");
    };
    let address = match family {
        Some("TCP4") => four(source).zip(four(destination)).map(|(source, _)| IpAddr::V4(source)),
        Some("TCP6") => six(source).zip(six(destination)).map(|(source, _)| IpAddr::V6(source)),
        Some(_) | None => return Err("the PROXY line names neither TCP4, TCP6 nor UNKNOWN"),
    };
    let address = address.ok_or("the PROXY line has an address that is none of its family")?;
    let ports = port(source_port).zip(port(destination_port));
    let (port, _) = ports.ok_or("the PROXY line has a port that is no number from 0 to 65535")?;
    Ok(Some(SocketAddr::new(address, port)))
}

fn four(text: &str) -> Option<Ipv4Addr> {
    text.parse().ok()
}

fn six(text: &str) -> Option<Ipv6Addr> {
    text.parse().ok()
}

/// A port in decimal digits, without zeros in front.
fn port(text: &str) -> Option<u16> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if is_plain { text.parse().ok() } else { None }
}

/// Reads a header of version 2; `None` if its end has not arrived.
///
/// The 13th and 14th byte are checked as soon as they are there, the length before its bytes.
fn read_v2(bytes: &[u8]) -> Result<Option<ProxyHeader>, &'static str> {
    let is_local = match bytes.get(12) {
        None => return Ok(None),
        Some(0x20) => true,
        Some(0x21) => false,
        Some(0x22..=0x2f) => return Err("the PROXY header has an unknown command"),
        Some(_) => return Err("the PROXY header has another version than 2"),
    };
    let Some((family, [high, low])) = bytes.get(13).copied().zip(bytes.get(14..V2_FIXED).and_then(array)) else {
        return Ok(None);
    };
    let length = V2_FIXED + usize::from(u16::from_be_bytes([high, low]));
    if length > MAX_V2 {
        return Err("the PROXY header is longer than 4096 bytes");
    }
    // The family of the balancer's own connection is ignored.
    if !is_local && (family >> 4 > 3 || family & 0x0f > 2) {
        return Err("the PROXY header has an unknown family");
    }
    let Some(block) = bytes.get(V2_FIXED..length) else { return Ok(None) };
    let client = if is_local { None } else { client_in_block(family, block)? };
    Ok(Some(ProxyHeader { length, client }))
}

/// Client in the addresses of version 2. Only TCP has an address that can be told from others'.
fn client_in_block(family: u8, block: &[u8]) -> Result<Option<SocketAddr>, &'static str> {
    let (address, port) = match family {
        0x11 => (block.get(..4).and_then(array::<4>).map(IpAddr::from), block.get(8..10)),
        0x21 => (block.get(..16).and_then(array::<16>).map(IpAddr::from), block.get(32..34)),
        _ => return Ok(None),
    };
    // The port of the destination is the last part.
    let whole = if family == 0x11 { 12 } else { 36 };
    match (address, port.and_then(array)) {
        (Some(address), Some(port)) if block.len() >= whole => {
            Ok(Some(SocketAddr::new(address, u16::from_be_bytes(port))))
        }
        _ => Err("the PROXY header is too short for the addresses of its family"),
    }
}

/// The bytes as an array of this length.
fn array<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.try_into().ok()
}

#[cfg(test)]
mod tests;
