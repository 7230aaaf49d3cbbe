//! CONNECT, client side (RFC 9110 §9.3.6): asks an HTTP proxy for a tunnel.
//!
//! Writes the request, and reads the head of the answer, which is bounded and read strictly: the bytes behind a 2xx belong
//! to the tunnel already, so its end must not be in doubt. Has no timeout of its own, and connects nothing itself.

use std::future::poll_fn;
use std::io;

use super::conn::Conn;
use super::head::HeadError;
use super::response_head::{HeadLimits, ResponseHead, may_be_complete};
use super::stream::Stream;

/// Bounds of an answer's head. Proxies send some hundred bytes; a challenge of Negotiate has some thousand.
const LIMITS: HeadLimits = HeadLimits { bytes: 16 << 10, fields: 64 };
/// Most interim responses before the answer. Proxies send none; a few do no harm.
const MAX_INTERIM: u32 = 8;

/// A request for a tunnel.
#[derive(Clone, Copy, Debug)]
pub struct ConnectRequest<'a> {
    /// Host and port, as in a URL, with the port also where it is the usual one.
    pub authority: &'a str,
    /// Value of Proxy-Authorization; `None`: without credentials.
    pub authorization: Option<&'a str>,
    /// Value of Via.
    pub via: &'a str,
}

/// Reason for which there is no tunnel.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The connection ended, before the request was written or before the answer was complete.
    #[error("it closed the connection before its answer to CONNECT was complete")]
    Io(#[source] io::Error),
    /// The proxy sent no response of HTTP.
    #[error("its answer to CONNECT is not HTTP: {0}")]
    Malformed(&'static str),
    /// The proxy refused. Holds the head of its response.
    #[error("it answered CONNECT with {}", .0.status())]
    Refused(Box<ResponseHead>),
}

impl From<HeadError> for ConnectError {
    fn from(error: HeadError) -> ConnectError {
        ConnectError::Malformed(match error {
            HeadError::Malformed(why) => why,
            HeadError::TooLarge => "its head is too large",
            HeadError::LineTooLong => "its status line is too long",
            HeadError::Version => "its version is neither 1.0 nor 1.1",
        })
    }
}

/// Asks for a tunnel on a connection to a proxy, on which nothing was exchanged yet. Returns the tunnel; bytes that came
/// with the answer are its first.
///
/// # Errors
/// See [`ConnectError`].
///
/// # Cancel safety
/// Dropping the future closes the connection.
pub async fn open_tunnel(stream: Stream, request: ConnectRequest<'_>) -> Result<Stream, ConnectError> {
    let mut conn = Conn::new(stream);
    let ConnectRequest { authority, authorization, via } = request;
    let out = conn.out();
    for part in ["CONNECT ", authority, " HTTP/1.1\r\nHost: ", authority, "\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    if let Some(credentials) = authorization {
        for part in ["Proxy-Authorization: ", credentials, "\r\n"] {
            out.extend_from_slice(part.as_bytes());
        }
    }
    for part in ["Via: ", via, "\r\n\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    conn.flush().await.map_err(ConnectError::Io)?;
    let head = read_answer(&mut conn).await?;
    // Length and coding of a 2xx have no meaning (RFC 9110 §9.3.6).
    if (200..300).contains(&head.status()) { Ok(conn.take_stream()) } else { Err(ConnectError::Refused(head)) }
}

/// Reads the head of the final response.
async fn read_answer(conn: &mut Conn) -> Result<Box<ResponseHead>, ConnectError> {
    conn.input.allow(LIMITS.bytes);
    let mut head = Box::<ResponseHead>::default();
    let (mut seen, mut interim) = (0, 0);
    loop {
        let input = conn.input.bytes();
        let is_worth_reading = !input.is_empty() && may_be_complete(input, seen, LIMITS);
        let length = if is_worth_reading { head.read(input, LIMITS)? } else { None };
        let Some(length) = length else {
            seen = input.len();
            match poll_fn(|cx| conn.poll_fill(cx)).await {
                Ok(0) => return Err(ConnectError::Io(io::ErrorKind::UnexpectedEof.into())),
                Ok(_) => continue,
                Err(error) if error.kind() == io::ErrorKind::OutOfMemory => return Err(HeadError::TooLarge.into()),
                Err(error) => return Err(ConnectError::Io(error)),
            }
        };
        if head.has_doubtful_end() {
            return Err(ConnectError::Malformed("its lines end in different ways"));
        }
        conn.input.consume(length);
        match head.status() {
            101 => return Err(ConnectError::Malformed("it switches protocols unasked")),
            100..=199 if interim < MAX_INTERIM => (seen, interim) = (0, interim + 1),
            100..=199 => return Err(ConnectError::Malformed("it has too many interim responses")),
            _ => return Ok(head),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// Request that a proxy receives, and result with a proxy that answers with these bytes and closes.
    async fn answered(with: &[u8]) -> (String, Result<Vec<u8>, ConnectError>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut far, _) = listener.accept().await.unwrap();
        let request = ConnectRequest { authority: "a.example:443", authorization: Some("Basic eA=="), via: "1.1 x" };
        let peer = async {
            let mut read = vec![0; 4096];
            let length = far.read(&mut read).await.unwrap();
            // It fails if the client has given up by then.
            far.write_all(with).await.ok();
            drop(far);
            String::from_utf8(read[..length].to_vec()).unwrap()
        };
        let client = async {
            let mut tunnel = open_tunnel(Stream::plain(near), request).await?;
            let mut rest = Vec::new();
            tunnel.read_to_end(&mut rest).await.map_err(ConnectError::Io)?;
            Ok(rest)
        };
        tokio::join!(peer, client)
    }

    #[tokio::test]
    async fn bytes_behind_the_answer_are_the_tunnels_first() {
        for answer in [
            "HTTP/1.1 200 Connection established\r\n\r\nearly",
            "HTTP/1.0 200\r\n\r\nearly",
            "HTTP/1.1 299 x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nearly",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nA: b\r\n\r\nHTTP/1.1 200 OK\nA: b\n\nearly",
        ] {
            let (request, rest) = answered(answer.as_bytes()).await;
            assert_eq!(rest.unwrap(), b"early", "{answer}");
            let wanted = "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\nProxy-Authorization: Basic eA==\r\n\
                          Via: 1.1 x\r\n\r\n";
            assert_eq!(request, wanted);
        }
    }

    #[tokio::test]
    async fn a_refusal_is_returned_with_its_fields() {
        let (_, refused) = answered(b"HTTP/1.1 407 No\r\nProxy-Authenticate: Basic\r\n\r\nbody").await;
        let Err(ConnectError::Refused(head)) = refused else { panic!("not refused") };
        assert_eq!((head.status(), head.find("proxy-authenticate")), (407, Some(&b"Basic"[..])));
    }

    #[tokio::test]
    async fn an_answer_that_is_broken_off_or_in_doubt_opens_nothing() {
        for cut in [&b""[..], b"HTTP/1.1 2", b"HTTP/1.1 200 OK\r\nA: b\r\n"] {
            assert!(matches!(answered(cut).await.1, Err(ConnectError::Io(_))), "{}", cut.escape_ascii());
        }
        let huge = [b"HTTP/1.1 200 OK\r\nA: ".to_vec(), vec![b'x'; 20_000], b"\r\n\r\n".to_vec()].concat();
        let many = [b"HTTP/1.1 200 OK\r\n".to_vec(), b"A: b\r\n".repeat(200), b"\r\n".to_vec()].concat();
        let interim = [b"HTTP/1.1 103 x\r\n\r\n".repeat(9), b"HTTP/1.1 200 OK\r\n\r\n".to_vec()].concat();
        for wrong in [
            &b"SSH-2.0-OpenSSH\r\n"[..],
            b"\x05\x00",
            b"HTTP/1.1 200 OK\r\nA: b\n\r\n",
            b"HTTP/1.1 101 Switching\r\n\r\n",
            b"HTTP/2.0 200 OK\r\n\r\n",
            &huge,
            &many,
            &interim,
        ] {
            let result = answered(wrong).await.1;
            assert!(matches!(result, Err(ConnectError::Malformed(_))), "{result:?}");
        }
    }
}
