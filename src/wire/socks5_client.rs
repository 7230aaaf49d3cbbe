//! SOCKS5, client side (RFC 1928, RFC 1929): asks a SOCKS proxy for a connection.
//!
//! Two steps, so that a fault before anything was asked for can be told from a later one: [`greet`] agrees on a login, and
//! [`connect`] asks for the connection. Reads no byte beyond its messages, each of which has a bound: bytes of the tunnel
//! stay in the stream. Has no timeout of its own.

use std::io;
use std::net::{IpAddr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Version of the protocol (RFC 1928 §3).
const VERSION: u8 = 5;
/// Version of the login by name and password (RFC 1929 §2).
const LOGIN_VERSION: u8 = 1;
/// Methods of login (RFC 1928 §3).
const NO_LOGIN: u8 = 0;
const BY_PASSWORD: u8 = 2;
/// Command CONNECT (RFC 1928 §4).
const CONNECT: u8 = 1;
/// Kinds of addresses (RFC 1928 §5).
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;
/// Most bytes of a name, a user or a password: their length is one byte.
pub const MAX_TEXT: usize = 255;

/// Destination of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SocksTarget<'a> {
    /// An address.
    Address(SocketAddr),
    /// A name that the proxy resolves, and a port.
    Name(&'a str, u16),
}

/// User and password, at most [`MAX_TEXT`] bytes each.
#[derive(Clone, Copy)]
pub struct SocksLogin<'a> {
    /// Name of the user.
    pub user: &'a str,
    /// Its password.
    pub password: &'a str,
}

/// Reason for which there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum SocksError {
    /// The connection to the proxy ended.
    #[error("it closed the connection before its answer was complete")]
    Io(#[source] io::Error),
    /// The proxy does not speak SOCKS5; or a text is too long for it.
    #[error("it does not speak SOCKS5: {0}")]
    Malformed(&'static str),
    /// The proxy demands another login, or refuses this one.
    #[error("it does not accept the login")]
    Login,
    /// The proxy refused the connection. Holds its reply (RFC 1928 §6).
    #[error("it replied {}", reply_text(*.0))]
    Refused(u8),
}

/// Text of a reply other than success.
pub fn reply_text(reply: u8) -> &'static str {
    match reply {
        1 => "general failure",
        2 => "connection not allowed",
        3 => "network unreachable",
        4 => "host unreachable",
        5 => "connection refused",
        6 => "TTL expired",
        7 => "command not supported",
        8 => "address type not supported",
        _ => "an unknown failure",
    }
}

/// Agrees on a login with a proxy, and logs in.
///
/// With a login, both that and none are offered, as the proxy may need none.
///
/// # Errors
/// See [`SocksError`]; never `Refused`.
pub async fn greet<S>(stream: &mut S, login: Option<SocksLogin<'_>>) -> Result<(), SocksError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let offered: &[u8] = if login.is_some() { &[VERSION, 2, NO_LOGIN, BY_PASSWORD] } else { &[VERSION, 1, NO_LOGIN] };
    send(stream, offered).await?;
    let [version, method] = receive(stream).await?;
    if version != VERSION {
        return Err(SocksError::Malformed("its greeting is of another version"));
    }
    match (method, login) {
        (NO_LOGIN, _) => Ok(()),
        (BY_PASSWORD, Some(login)) => log_in(stream, login).await,
        (_, _) => Err(SocksError::Login),
    }
}

/// Logs in by name and password (RFC 1929).
async fn log_in<S>(stream: &mut S, login: SocksLogin<'_>) -> Result<(), SocksError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut message = vec![LOGIN_VERSION];
    put_text(login.user, &mut message)?;
    put_text(login.password, &mut message)?;
    send(stream, &message).await?;
    let [_version, status] = receive(stream).await?;
    if status == 0 { Ok(()) } else { Err(SocksError::Login) }
}

/// Asks for a connection after [`greet`]; the stream leads to the target afterwards.
///
/// # Errors
/// See [`SocksError`]; never `Login`.
pub async fn connect<S>(stream: &mut S, target: SocksTarget<'_>) -> Result<(), SocksError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut message = vec![VERSION, CONNECT, 0];
    put_target(target, &mut message)?;
    send(stream, &message).await?;
    let [version, reply, _reserved, kind] = receive(stream).await?;
    if version != VERSION {
        return Err(SocksError::Malformed("its reply is of another version"));
    }
    if reply != 0 {
        return Err(SocksError::Refused(reply));
    }
    // The address that the proxy has bound is of no use, but the tunnel begins behind it.
    match kind {
        IPV4 => drop(receive::<_, 6>(stream).await?),
        IPV6 => drop(receive::<_, 18>(stream).await?),
        NAME => {
            let [length] = receive(stream).await?;
            for _ in 0..usize::from(length) + 2 {
                let [_] = receive(stream).await?;
            }
        }
        _ => return Err(SocksError::Malformed("its reply has an address of an unknown kind")),
    }
    Ok(())
}

/// Appends kind, address and port of a target.
fn put_target(target: SocksTarget<'_>, message: &mut Vec<u8>) -> Result<(), SocksError> {
    let port = match target {
        SocksTarget::Name(name, port) => {
            message.push(NAME);
            put_text(name, message)?;
            port
        }
        SocksTarget::Address(address) => {
            match address.ip() {
                IpAddr::V4(four) => {
                    message.push(IPV4);
                    message.extend_from_slice(&four.octets());
                }
                IpAddr::V6(six) => {
                    message.push(IPV6);
                    message.extend_from_slice(&six.octets());
                }
            }
            address.port()
        }
    };
    message.extend_from_slice(&port.to_be_bytes());
    Ok(())
}

/// Appends a text with its length before it.
fn put_text(text: &str, message: &mut Vec<u8>) -> Result<(), SocksError> {
    let length = u8::try_from(text.len()).map_err(|_| SocksError::Malformed("a text is longer than 255 bytes"))?;
    message.push(length);
    message.extend_from_slice(text.as_bytes());
    Ok(())
}

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, message: &[u8]) -> Result<(), SocksError> {
    stream.write_all(message).await.map_err(SocksError::Io)?;
    stream.flush().await.map_err(SocksError::Io)
}

async fn receive<S: AsyncRead + Unpin, const N: usize>(stream: &mut S) -> Result<[u8; N], SocksError> {
    let mut message = [0; N];
    stream.read_exact(&mut message).await.map_err(SocksError::Io)?;
    Ok(message)
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    const LOGIN: SocksLogin<'_> = SocksLogin { user: "ana", password: "pw" };

    /// Bytes that a proxy receives, and result of a client, with a proxy that sends these bytes at once.
    async fn with(
        proxy: &[u8],
        login: Option<SocksLogin<'_>>,
        target: SocksTarget<'_>,
    ) -> (Vec<u8>, Result<Vec<u8>, SocksError>) {
        let (mut near, mut far) = duplex(4096);
        far.write_all(proxy).await.unwrap();
        far.shutdown().await.unwrap();
        let client = async {
            greet(&mut near, login).await?;
            connect(&mut near, target).await?;
            let mut rest = Vec::new();
            near.read_to_end(&mut rest).await.map_err(SocksError::Io)?;
            Ok(rest)
        };
        let result = client.await;
        drop(near);
        let mut received = Vec::new();
        far.read_to_end(&mut received).await.unwrap();
        (received, result)
    }

    #[tokio::test]
    async fn a_connection_is_asked_for_by_name_or_address() {
        let name = SocksTarget::Name("a.example", 443);
        let (received, rest) = with(b"\x05\x00\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50early", None, name).await;
        assert_eq!(rest.unwrap(), b"early", "bytes of the tunnel stay in it");
        assert_eq!(received, b"\x05\x01\x00\x05\x01\x00\x03\x09a.example\x01\xbb");
        let four = SocksTarget::Address("192.0.2.1:80".parse().unwrap());
        let (received, rest) = with(b"\x05\x00\x05\x00\x00\x03\x02ab\x00\x50", None, four).await;
        assert_eq!(rest.unwrap(), b"");
        assert_eq!(received, b"\x05\x01\x00\x05\x01\x00\x01\xc0\x00\x02\x01\x00\x50");
        let six = SocksTarget::Address("[2001:db8::1]:80".parse().unwrap());
        let reply = [&b"\x05\x00\x05\x00\x00\x04"[..], &[0; 18]].concat();
        let (received, rest) = with(&reply, None, six).await;
        assert_eq!(rest.unwrap(), b"");
        assert_eq!(received[..7], *b"\x05\x01\x00\x05\x01\x00\x04");
    }

    #[tokio::test]
    async fn a_login_is_sent_only_to_a_proxy_that_asks_for_it() {
        let target = SocksTarget::Name("a", 1);
        let success = b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00";
        let (received, result) = with(&[b"\x05\x02\x01\x00", &success[..]].concat(), Some(LOGIN), target).await;
        assert!(result.is_ok());
        assert_eq!(received, b"\x05\x02\x00\x02\x01\x03ana\x02pw\x05\x01\x00\x03\x01a\x00\x01");
        let (received, result) = with(&[b"\x05\x00", &success[..]].concat(), Some(LOGIN), target).await;
        assert!(result.is_ok());
        assert!(!received.windows(3).any(|three| three == b"ana"));
    }

    #[tokio::test]
    async fn every_refusal_has_its_kind() {
        let target = SocksTarget::Name("a", 1);
        for (proxy, login, wanted) in [
            (&b"\x05\xff"[..], None, "it does not accept the login"),
            (b"\x05\x02", None, "it does not accept the login"),
            (b"\x05\x02\x01\x01", Some(LOGIN), "it does not accept the login"),
            (b"\x05\x00\x05\x05\x00\x01", None, "it replied connection refused"),
            (b"\x05\x00\x05\x02\x00\x01", None, "it replied connection not allowed"),
            (b"\x05\x00\x05\x63\x00\x01", None, "it replied an unknown failure"),
            (b"HTTP/1.1 400", None, "it does not speak SOCKS5: its greeting is of another version"),
            (b"\x05\x00\x04\x00\x00\x01", None, "it does not speak SOCKS5: its reply is of another version"),
            (
                b"\x05\x00\x05\x00\x00\x07",
                None,
                "it does not speak SOCKS5: its reply has an address of an unknown kind",
            ),
            (b"\x05\x00\x05\x00\x00\x01\x7f", None, "it closed the connection before its answer was complete"),
            (b"", None, "it closed the connection before its answer was complete"),
        ] {
            let (_, result) = with(proxy, login, target).await;
            assert_eq!(result.unwrap_err().to_string(), wanted);
        }
        let long = "a".repeat(256);
        let (_, result) = with(b"\x05\x00", None, SocksTarget::Name(&long, 1)).await;
        assert!(matches!(result, Err(SocksError::Malformed(_))));
    }
}
