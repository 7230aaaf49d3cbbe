//! SOCKS5, the server's side (RFC 1928, passwords by RFC 1929): messages of a client, and replies.
//!
//! ```text
//! client                                server
//! 05 n methods…                     ->
//!                                   <-  05 method
//! 01 n name… n password…            ->            (method 02 only)
//!                                   <-  01 status
//! 05 01 00 type address… port       ->
//!                                   <-  05 reply 00 01 00000000 0000
//! ```
//!
//! Commands other than CONNECT are recognised, to be refused.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// First byte of a client's greeting and of its request (RFC 1928 §3). No message of HTTP or TLS
/// begins with it.
pub const VERSION: u8 = 5;

/// Version of the message with name and password (RFC 1929 §2).
const PASSWORD_VERSION: u8 = 1;

/// Command that asks for a connection (RFC 1928 §4).
const CONNECT: u8 = 1;

/// Method that this server never chooses, of those for private use (RFC 1928 §3). A client that offers it
/// passes on connections of programs, and marks addresses in its requests as those that they have
/// connected to: which host they are for, their first bytes tell.
///
/// Of `exec --all`, to its gateway; other servers pass over it.
pub const PASSED_ON: u8 = 0x80;

/// Most bytes of a client's message: a name and a password of 255 bytes each.
#[cfg(any(test, fuzzing))]
pub const MAX_MESSAGE: usize = 3 + 2 * 255;

/// Methods of a greeting between which the gateway chooses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Greeting {
    /// Length in bytes.
    pub length: usize,
    /// True if the client would send neither name nor password.
    pub offers_none: bool,
    /// True if it would send them.
    pub offers_password: bool,
    /// True if it offers [`PASSED_ON`].
    pub passes_on: bool,
}

/// Way of telling the caller, chosen by the server (RFC 1928 §3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AuthMethod {
    /// The request follows at once.
    None,
    /// A message with name and password comes first.
    Password,
    /// None of those offered; the connection ends.
    Unacceptable,
}

/// Name and password of a client.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// Length of the message in bytes.
    pub length: usize,
    /// Name; at most 255 bytes of any encoding.
    pub name: Vec<u8>,
    /// Password, likewise.
    pub password: Vec<u8>,
}

/// A request to connect.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SocksRequest {
    /// Length in bytes; the next byte is the first for the origin.
    pub length: usize,
    /// Host, as in the target of a CONNECT of HTTP: a name, an IPv4 address, or an IPv6 address in
    /// brackets.
    ///
    /// Letters, digits, `.`, `-` and `_` only, but for the brackets and colons of an IPv6 address.
    pub host: String,
    /// Port; 0 is no port, but may be sent.
    pub port: u16,
}

/// Reason for which a message cannot be taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unusable {
    /// Reply that says so.
    pub reply: Reply,
    /// Explanation for logs.
    pub why: &'static str,
}

/// Reply to a request (RFC 1928 §6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reply {
    /// The connection is open: the next byte is the origin's.
    Succeeded = 0,
    /// A failure without a code of its own.
    GeneralFailure = 1,
    /// The rules of the server do not allow it.
    NotAllowed = 2,
    /// The host cannot be reached, or its name not resolved.
    HostUnreachable = 4,
    /// The host refused the connection.
    ConnectionRefused = 5,
    /// The command is another than CONNECT.
    CommandNotSupported = 7,
    /// The address is of an unknown type.
    AddressNotSupported = 8,
}

impl AuthMethod {
    /// Message of the server with the method.
    pub fn bytes(self) -> [u8; 2] {
        let code = match self {
            AuthMethod::None => 0,
            AuthMethod::Password => 2,
            AuthMethod::Unacceptable => 0xff,
        };
        [VERSION, code]
    }
}

impl Login {
    /// Answer to a right login.
    pub const ACCEPTED: [u8; 2] = [PASSWORD_VERSION, 0];
    /// Answer to a wrong one; the connection ends (RFC 1929 §2).
    pub const REFUSED: [u8; 2] = [PASSWORD_VERSION, 1];
}

impl SocksRequest {
    /// Address and port, if the host is no name.
    pub fn address(&self) -> Option<SocketAddr> {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        host.parse().ok().map(|ip| SocketAddr::new(ip, self.port))
    }
}

impl Reply {
    /// The message. The bound address in it is left empty: the gateway's own address is of no use to a
    /// client, and clients ignore it after CONNECT.
    pub fn bytes(self) -> [u8; 10] {
        [VERSION, self as u8, 0, 1, 0, 0, 0, 0, 0, 0]
    }
}

/// Reads a greeting at the start of `bytes`, which may go on behind it; `None`: more bytes are
/// needed.
///
/// # Errors
/// If the first byte is not [`VERSION`].
pub fn read_greeting(bytes: &[u8]) -> Result<Option<Greeting>, Unusable> {
    check_version(bytes, VERSION, "the greeting has another version than 5")?;
    let Some((methods, length)) = counted(bytes, 1) else { return Ok(None) };
    let offers = |method| methods.contains(&method);
    Ok(Some(Greeting { length, offers_none: offers(0), offers_password: offers(2), passes_on: offers(PASSED_ON) }))
}

/// Reads name and password; `None`: more bytes are needed.
///
/// # Errors
/// If the message has another version than 1.
pub fn read_login(bytes: &[u8]) -> Result<Option<Login>, Unusable> {
    check_version(bytes, PASSWORD_VERSION, "the login has another version than 1")?;
    let Some((name, password_at)) = counted(bytes, 1) else { return Ok(None) };
    let Some((password, length)) = counted(bytes, password_at) else { return Ok(None) };
    Ok(Some(Login { length, name: name.to_vec(), password: password.to_vec() }))
}

/// Reads a request; `None`: more bytes are needed.
///
/// # Errors
/// For another version or command, an unknown type of address, and a name that is none.
pub fn read_request(bytes: &[u8]) -> Result<Option<SocksRequest>, Unusable> {
    check_version(bytes, VERSION, "the request has another version than 5")?;
    let [_, command, _, kind, ..] = *bytes else { return Ok(None) };
    if command != CONNECT {
        let why = "the command is not CONNECT: BIND and UDP are not carried";
        return Err(Unusable { reply: Reply::CommandNotSupported, why });
    }
    let (host, end) = match kind {
        1 => match bytes.get(4..8).and_then(array::<4>) {
            Some(address) => (IpAddr::from(address).to_string(), 8),
            None => return Ok(None),
        },
        4 => match bytes.get(4..20).and_then(array::<16>) {
            Some(address) => (bracketed(address.into()), 20),
            None => return Ok(None),
        },
        3 => match counted(bytes, 4) {
            Some((name, end)) => (host_of(name)?, end),
            None => return Ok(None),
        },
        _ => return Err(Unusable { reply: Reply::AddressNotSupported, why: "the address is of an unknown type" }),
    };
    let Some(port) = bytes.get(end..end + 2).and_then(array) else { return Ok(None) };
    Ok(Some(SocksRequest { length: end + 2, host, port: u16::from_be_bytes(port) }))
}

/// Checks the first byte, if there is one.
fn check_version(bytes: &[u8], wanted: u8, why: &'static str) -> Result<(), Unusable> {
    match bytes.first() {
        Some(version) if *version != wanted => Err(Unusable { reply: Reply::GeneralFailure, why }),
        Some(_) | None => Ok(()),
    }
}

/// Bytes behind their count, which stands at `at`, and the position behind them.
fn counted(bytes: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let end = at + 1 + usize::from(*bytes.get(at)?);
    Some((bytes.get(at + 1..end)?, end))
}

/// Host in the field for names, in which some clients write addresses.
///
/// The characters are those of host names: the host becomes part of a line of HTTP.
fn host_of(name: &[u8]) -> Result<String, Unusable> {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if let Some(address) = std::str::from_utf8(name).ok().and_then(|text| text.parse::<Ipv6Addr>().ok()) {
        return Ok(bracketed(address));
    }
    if name.is_empty() || !name.iter().all(is_plain) {
        let why = "the name is empty, or has a character that host names cannot have";
        return Err(Unusable { reply: Reply::GeneralFailure, why });
    }
    Ok(String::from_utf8_lossy(name).into_owned())
}

fn bracketed(address: Ipv6Addr) -> String {
    format!("[{address}]")
}

/// The bytes as an array of this length.
fn array<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(kind: u8, address: &[u8]) -> Result<Option<SocksRequest>, Unusable> {
        read_request(&[&[5, 1, 0, kind], address, &[0x1f, 0x90], b"GET"].concat())
    }

    fn host(kind: u8, address: &[u8]) -> String {
        let request = request(kind, address).unwrap().unwrap();
        assert_eq!((request.port, request.length), (8080, 4 + address.len() + 2));
        request.host
    }

    #[test]
    fn a_greeting_tells_the_methods_that_the_gateway_has() {
        let greeting = |bytes: &[u8]| read_greeting(bytes).unwrap().map(|it| (it.offers_none, it.offers_password));
        assert_eq!(greeting(&[5, 1, 0]), Some((true, false)));
        assert_eq!(greeting(&[5, 3, 1, 0, 2]), Some((true, true)));
        assert_eq!(greeting(&[5, 1, 1]), Some((false, false)));
        assert_eq!(greeting(&[5, 0]), Some((false, false)));
        assert_eq!(greeting(&[5, 2, 0]), None);
        assert!(read_greeting(&[4]).is_err());
    }

    #[test]
    fn a_login_has_a_name_and_a_password_of_any_bytes() {
        let login = read_login(b"\x01\x02me\x06se:ret\x05").unwrap().unwrap();
        assert_eq!((&*login.name, &*login.password, login.length), (&b"me"[..], &b"se:ret"[..], 11));
        assert!(read_login(b"\x01\x02me\x06se:re").unwrap().is_none());
        assert!(read_login(b"\x05").is_err());
        let longest = [&[1, 255][..], &[b'n'; 255], &[255], &[b'p'; 255]].concat();
        assert_eq!(read_login(&longest).unwrap().unwrap().length, MAX_MESSAGE);
    }

    #[test]
    fn each_type_of_address_becomes_a_host() {
        assert_eq!(host(1, &[192, 0, 2, 1]), "192.0.2.1");
        assert_eq!(host(4, &"2001:db8::1".parse::<Ipv6Addr>().unwrap().octets()), "[2001:db8::1]");
        assert_eq!(host(3, b"\x0bApi_1.a-b.c"), "Api_1.a-b.c");
        assert_eq!(host(3, b"\x03::1"), "[::1]");
    }

    #[test]
    fn a_name_cannot_end_the_line_that_it_is_written_into() {
        for name in [
            &b"\0"[..],
            b"\x03a\0b",
            b"\x03a\rb",
            b"\x03a\nb",
            b"\x03a b",
            b"\x03a/b",
            b"\x03a@b",
            b"\x03a:b",
            b"\x01\xc3",
        ] {
            let refused = request(3, name).unwrap_err();
            assert_eq!(refused.reply, Reply::GeneralFailure, "{name:?}");
        }
    }

    #[test]
    fn commands_and_addresses_that_are_not_carried_have_replies_of_their_own() {
        for command in [0, 2, 3] {
            let refused = read_request(&[5, command, 0, 1]).unwrap_err();
            assert_eq!(refused.reply, Reply::CommandNotSupported);
        }
        assert_eq!(request(2, &[0; 4]).unwrap_err().reply, Reply::AddressNotSupported);
        assert_eq!(read_request(&[4]).unwrap_err().reply, Reply::GeneralFailure);
    }
}
