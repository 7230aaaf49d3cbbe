//! A caller that speaks raw bytes: sends what it is told, reads with a deadline.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection};

use super::answer::Answer;
use super::stream::{Stop, Stream};
use super::{PATIENCE, certs};

/// One connection to the gateway (or to an origin).
pub(crate) struct Caller {
    pub(crate) stream: Stream,
}

impl Caller {
    #[track_caller]
    pub(crate) fn connect(addr: SocketAddr) -> Caller {
        let tcp = TcpStream::connect_timeout(&addr, PATIENCE).expect("the address accepts connections");
        Caller::over(tcp)
    }

    /// Connects from another loopback address, as another caller would.
    #[track_caller]
    pub(crate) fn connect_from(from: &str, addr: SocketAddr) -> Caller {
        let from: IpAddr = from.parse().expect("an IP address");
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::new(from, 0).into()).expect("a loopback address can be bound");
        socket.connect_timeout(&addr.into(), PATIENCE).expect("the address accepts connections");
        Caller::over(socket.into())
    }

    fn over(tcp: TcpStream) -> Caller {
        tcp.set_nodelay(true).expect("TCP_NODELAY can be set");
        Caller { stream: Stream::plain(tcp) }
    }

    /// Opens a tunnel, and speaks TLS to the origin inside it, as strictly as a browser.
    #[track_caller]
    pub(crate) fn into_tls(self, name: &str, authority: &certs::Authority) -> Caller {
        self.into_tls_with(name, authority.caller_config())
    }

    /// The same, trusting and offering as `config` says.
    #[track_caller]
    pub(crate) fn into_tls_with(self, name: &str, config: ClientConfig) -> Caller {
        assert!(self.stream.ahead.is_empty(), "bytes came before TLS began");
        let tcp = self.stream.into_tcp();
        tcp.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        let name = ServerName::try_from(name.to_owned()).expect("a name that a certificate can bear");
        let session = ClientConnection::new(Arc::new(config), name).expect("a session can start");
        Caller { stream: Stream::caller(session, tcp) }
    }

    /// Fails unless TLS can be spoken now; the certificates that the other side showed.
    #[track_caller]
    pub(crate) fn shown(&mut self) -> Vec<CertificateDer<'static>> {
        self.try_handshake().unwrap_or_else(|e| panic!("the TLS handshake failed: {e}"))
    }

    /// The TLS handshake: the certificates that the other side showed, or why it failed.
    pub(crate) fn try_handshake(&mut self) -> std::io::Result<Vec<CertificateDer<'static>>> {
        self.stream.handshake()
    }

    /// Sends all. A peer that has already closed is found out when its answer is read.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Caller {
        self.stream.send(bytes.as_ref()).ok();
        self
    }

    /// The answer to a request that was not HEAD or CONNECT.
    #[track_caller]
    pub(crate) fn answer(&mut self) -> Answer {
        self.answer_to("GET")
    }

    #[track_caller]
    pub(crate) fn answer_to(&mut self, method: &str) -> Answer {
        match self.try_answer(method) {
            Ok(answer) => answer,
            Err(stop) => panic!("no answer but {stop:?}, after {:?}", String::from_utf8_lossy(&self.stream.ahead)),
        }
    }

    pub(crate) fn try_answer(&mut self, method: &str) -> Result<Answer, Stop> {
        Answer::read(&mut self.stream, method, Instant::now() + PATIENCE)
    }

    /// Reads one response head alone, 1xx or final.
    #[track_caller]
    pub(crate) fn head(&mut self) -> String {
        match self.stream.take_until(b"\r\n\r\n", Instant::now() + PATIENCE) {
            Ok(head) => head.iter().map(|b| char::from(*b)).collect(),
            Err(stop) => panic!("no head but {stop:?}, after {:?}", String::from_utf8_lossy(&self.stream.ahead)),
        }
    }

    /// Exactly `count` bytes.
    #[track_caller]
    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        match self.stream.take(count, Instant::now() + PATIENCE) {
            Ok(bytes) => bytes,
            Err(stop) => panic!("{stop:?} after {} of {count} bytes", self.stream.ahead.len()),
        }
    }

    /// All that still comes, and how it ended.
    pub(crate) fn rest(&mut self) -> (Vec<u8>, Stop) {
        self.stream.take_rest(Instant::now() + PATIENCE)
    }

    /// Fails unless the peer now closes without another byte.
    #[track_caller]
    pub(crate) fn expect_end(&mut self) {
        let (rest, stop) = self.rest();
        assert!(rest.is_empty(), "bytes where the end should be: {:?}", String::from_utf8_lossy(&rest));
        assert_ne!(stop, Stop::Silence, "the connection stayed open");
    }

    /// Fails if anything comes, the end included, within `time`.
    #[track_caller]
    pub(crate) fn expect_silence(&mut self, time: Duration) {
        assert!(self.stream.ahead.is_empty(), "{:?}", String::from_utf8_lossy(&self.stream.ahead));
        let stop = self.stream.more(Instant::now() + time);
        assert_eq!(stop, Err(Stop::Silence), "{:?}", String::from_utf8_lossy(&self.stream.ahead));
    }

    /// No more bytes from us, but reading goes on.
    pub(crate) fn finish(&mut self) {
        self.stream.finish();
    }

    /// Hangs up in order.
    pub(crate) fn hang_up(self) {}

    /// Hangs up with a reset.
    pub(crate) fn reset(self) {
        self.stream.reset();
    }
}
