//! A caller that speaks HTTP/2: with prior knowledge, by ALPN over TLS, or inside a tunnel.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use super::answer::{Answer, End};
use super::answer2::send;
use super::origin2::{lines, runtime};
use super::{Caller, PATIENCE, clock};

/// Waits for what must happen, but not for ever.
#[track_caller]
pub(crate) fn wait<T>(what: &str, future: impl Future<Output = T>) -> T {
    let result = runtime().block_on(async { tokio::time::timeout(PATIENCE, future).await });
    result.unwrap_or_else(|_late| panic!("this did not happen in {PATIENCE:?}: {what}"))
}

/// One connection that carries many requests.
pub(crate) struct Caller2 {
    send: SendRequest<Bytes>,
    driver: JoinHandle<Result<(), h2::Error>>,
}

impl Caller2 {
    /// With prior knowledge on plain TCP.
    #[track_caller]
    pub(crate) fn plain(addr: SocketAddr) -> Caller2 {
        Caller2::plain_with(addr, &roomy())
    }

    /// The same, with settings of the test's.
    #[track_caller]
    pub(crate) fn plain_with(addr: SocketAddr, builder: &Builder) -> Caller2 {
        Caller2::over(tcp(Caller::connect(addr)), builder)
    }

    /// With prior knowledge on a connection of which the caller has used the beginning.
    #[track_caller]
    pub(crate) fn on(caller: Caller) -> Caller2 {
        Caller2::over(tcp(caller), &roomy())
    }

    /// By ALPN over TLS, to a gateway that listens with TLS.
    #[track_caller]
    pub(crate) fn tls(addr: SocketAddr, name: &str, config: ClientConfig) -> Caller2 {
        Caller2::inside(Caller::connect(addr), name, config)
    }

    /// By ALPN over TLS that begins now on what `caller` has opened.
    #[track_caller]
    pub(crate) fn inside(caller: Caller, name: &str, config: ClientConfig) -> Caller2 {
        Caller2::secure(tcp(caller), name, config)
    }

    /// The same over any stream.
    #[track_caller]
    pub(crate) fn secure(
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        name: &str,
        config: ClientConfig,
    ) -> Caller2 {
        let config = super::certs::offering(config, &["h2"]);
        let name = ServerName::try_from(name.to_owned()).expect("a name that a certificate can bear");
        let handshake = TlsConnector::from(Arc::new(config)).connect(name, stream);
        let stream = wait("a TLS handshake", handshake).expect("the handshake succeeds");
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]), "HTTP/2 is chosen");
        Caller2::over(stream, &roomy())
    }

    /// Over any stream.
    #[track_caller]
    pub(crate) fn over(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, builder: &Builder) -> Caller2 {
        let (send, connection) = wait("the HTTP/2 preface", builder.handshake(stream)).expect("HTTP/2 begins");
        Caller2 { send, driver: runtime().spawn(connection) }
    }

    /// Begins a request; without `more` it has no content.
    #[track_caller]
    pub(crate) fn start(&self, request: Request<()>, more: More) -> Call {
        self.try_start(request, more).unwrap_or_else(|e| panic!("the request could not be sent: {e}"))
    }

    pub(crate) fn try_start(&self, request: Request<()>, more: More) -> Result<Call, h2::Error> {
        let method = request.method().to_string();
        let mut ready = wait("room for a stream", self.send.clone().ready())?;
        let (response, send) = ready.send_request(request, more == More::None)?;
        Ok(Call { response, send, method })
    }

    /// A GET for an absolute URI.
    #[track_caller]
    pub(crate) fn get(&self, uri: &str) -> Answer {
        self.start(get(uri), More::None).answer()
    }

    /// A POST with content.
    #[track_caller]
    pub(crate) fn post(&self, uri: &str, body: impl Into<Bytes>) -> Answer {
        let request = Request::post(uri).body(()).expect("a good request");
        let mut call = self.start(request, More::Follows);
        // A refusal may come before all of the content is taken; then the answer tells.
        wait("content is taken", async {
            if send(&mut call.send, body.into()).await.is_ok() {
                call.send.send_data(Bytes::new(), true).ok();
            }
        });
        call.answer()
    }

    /// Waits for the end of the connection, and how it ended.
    #[track_caller]
    pub(crate) fn ended(self) -> Result<(), h2::Error> {
        drop(self.send);
        wait("the connection's end", self.driver).expect("the driver did not panic")
    }

    /// Hangs up without a word.
    pub(crate) fn hang_up(self) {
        self.driver.abort();
    }
}

/// A connection whose window is larger than that of a stream, so that one that is not read blocks no other.
fn roomy() -> Builder {
    let mut builder = Builder::new();
    builder.initial_connection_window_size(8 << 20);
    builder
}

/// Whether content follows a head.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum More {
    None,
    Follows,
}

/// A GET for an absolute URI.
pub(crate) fn get(uri: &str) -> Request<()> {
    Request::get(uri).body(()).expect("a good request")
}

/// One request on its way.
pub(crate) struct Call {
    pub(crate) response: ResponseFuture,
    pub(crate) send: SendStream<Bytes>,
    method: String,
}

impl Call {
    /// Sends a part of the content.
    #[track_caller]
    pub(crate) fn push(&mut self, part: impl Into<Bytes>) {
        wait("content is taken", send(&mut self.send, part.into())).expect("the content is taken");
    }

    /// Sends the last part of the content.
    #[track_caller]
    pub(crate) fn finish_with(&mut self, part: impl Into<Bytes>) {
        self.push(part);
        self.send.send_data(Bytes::new(), true).expect("the stream is open");
    }

    /// Ends the content with trailers.
    #[track_caller]
    pub(crate) fn finish_with_trailers(&mut self, fields: &[(&'static str, &'static str)]) {
        let pairs = fields.iter().map(|(n, v)| (n.parse().expect("a name"), v.parse().expect("a value")));
        self.send.send_trailers(HeaderMap::from_iter(pairs)).expect("the stream is open");
    }

    /// The whole answer.
    #[track_caller]
    pub(crate) fn answer(self) -> Answer {
        self.try_answer().unwrap_or_else(|e| panic!("no answer but {e}"))
    }

    /// The whole answer, or how the stream ended instead.
    #[track_caller]
    pub(crate) fn try_answer(mut self) -> Result<Answer, h2::Error> {
        let (mut answer, mut body) = self.try_head()?;
        wait("the content's end", rest(&mut answer, &mut body, &self.method));
        Ok(answer)
    }

    /// The head with its 1xx, and the content still to be read.
    #[track_caller]
    pub(crate) fn try_head(&mut self) -> Result<(Answer, RecvStream), h2::Error> {
        wait("an answer", async {
            let mut interim = Vec::new();
            while let Some(one) = poll_fn(|cx| self.response.poll_informational(cx)).await {
                let one = one?;
                interim.push(answer_of(one.status(), one.headers()));
            }
            let response = (&mut self.response).await?;
            let mut answer = answer_of(response.status(), response.headers());
            answer.interim = interim;
            Ok((answer, response.into_body()))
        })
    }

    /// RST_STREAM, as a caller sends it that has lost interest.
    pub(crate) fn cancel(mut self) {
        self.send.send_reset(Reason::CANCEL);
    }
}

/// The bytes of a tunnel that was opened on a stream.
pub(crate) fn tunnel_of(call: Call, mut body: RecvStream) -> DuplexStream {
    let (near, far) = tokio::io::duplex(64 << 10);
    let (mut from, mut into) = tokio::io::split(far);
    let mut out = call.send;
    runtime().spawn(async move {
        let mut part = vec![0; 16 << 10];
        while let Ok(count @ 1..) = from.read(&mut part).await {
            if send(&mut out, Bytes::copy_from_slice(&part[..count])).await.is_err() {
                return;
            }
        }
        out.send_data(Bytes::new(), true).ok();
    });
    runtime().spawn(async move {
        while let Some(Ok(part)) = body.data().await {
            body.flow_control().release_capacity(part.len()).ok();
            if into.write_all(&part).await.is_err() {
                return;
            }
        }
        into.shutdown().await.ok();
    });
    near
}

/// Reads the rest of a body into the answer.
pub(crate) async fn rest(answer: &mut Answer, body: &mut RecvStream, method: &str) {
    let announced = answer.field("content-length").map(str::to_owned);
    answer.end = if announced.is_some() { End::Length } else { End::Chunked };
    if body.is_end_stream() && announced.is_none() {
        answer.end = End::Empty;
    }
    while let Some(part) = body.data().await {
        let Ok(part) = part else {
            answer.end = End::Truncated;
            return;
        };
        body.flow_control().release_capacity(part.len()).ok();
        answer.body.extend_from_slice(&part);
    }
    match body.trailers().await {
        Ok(trailers) => answer.trailers = trailers.as_ref().map(lines).unwrap_or_default(),
        Err(_) => answer.end = End::Truncated,
    }
    let length = answer.body.len().to_string();
    if method != "HEAD" && answer.end == End::Length && announced.is_some_and(|a| a != length) {
        answer.end = End::Truncated;
    }
}

/// An answer without its content; HTTP/2 has no reason phrases, so what stands there says so.
fn answer_of(status: http::StatusCode, fields: &HeaderMap) -> Answer {
    let fields = lines(fields);
    let raw = fields.iter().map(|(n, v)| format!("{n}: {v}\r\n")).collect::<String>();
    Answer {
        raw: format!("HTTP/2 {}\r\n{raw}\r\n", status.as_u16()),
        version: "HTTP/2".to_owned(),
        status: status.as_u16(),
        reason: "HTTP/2 has none".to_owned(),
        fields,
        body: Vec::new(),
        trailers: Vec::new(),
        end: End::Empty,
        interim: Vec::new(),
        stamp: clock::now(),
    }
}

/// The socket of a caller that has spoken plain bytes so far, for the runtime.
pub(crate) fn tcp(caller: Caller) -> TcpStream {
    assert!(caller.stream.ahead.is_empty(), "bytes came that nobody read");
    let tcp = caller.stream.into_tcp();
    tcp.set_nonblocking(true).expect("a socket can be non-blocking");
    let _inside = runtime().enter();
    TcpStream::from_std(tcp).expect("a socket of ours")
}
