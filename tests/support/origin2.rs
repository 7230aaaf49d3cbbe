//! An origin that speaks HTTP/2 to who asks for it and HTTP/1.1 to the others, with TLS or without, and answers by the
//! path: see `answer2`.

use std::collections::{HashMap, HashSet};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use h2::RecvStream;
use http::{HeaderMap, Request};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::{Handle, Runtime};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use super::clock;
use super::stream::Stream;
use super::{answer1, answer2};

/// Where the asynchronous part of the tests runs.
pub(crate) fn runtime() -> &'static Handle {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let make = || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    RUNTIME.get_or_init(|| make().expect("a runtime can be made")).handle()
}

/// One request that arrived.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// When it had been decrypted and decoded, on the tests' clock.
    pub(crate) stamp: u64,
    /// Which connection brought it, from 0.
    pub(crate) connection: usize,
    /// 2 or 1.
    pub(crate) version: u8,
    pub(crate) method: String,
    /// `:scheme`; empty in HTTP/1.1.
    pub(crate) scheme: String,
    /// `:authority`, or Host in HTTP/1.1.
    pub(crate) authority: String,
    /// `:path`, or the request target.
    pub(crate) path: String,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, String)>,
    /// Its content came to its end.
    pub(crate) whole: bool,
    /// It was reset, or its connection broke.
    pub(crate) broken: bool,
    /// It was answered with REFUSED_STREAM, so it was not processed.
    pub(crate) refused: bool,
}

impl Seen {
    /// All values of a field, in order.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str()).collect()
    }
}

/// How the origin behaves towards whole connections.
#[derive(Clone, Default, Debug)]
pub(crate) struct Manners {
    /// SETTINGS_MAX_CONCURRENT_STREAMS.
    pub(crate) max_streams: Option<u32>,
    /// GOAWAY after this many requests of a connection; those that came are still answered.
    pub(crate) goaway_after: Option<usize>,
}

pub(super) struct Shared {
    manners: Manners,
    seen: Mutex<Vec<Seen>>,
    connections: AtomicUsize,
    open: AtomicUsize,
    /// How many streams are open, by connection, and the most there ever were on one.
    streams: Mutex<(HashMap<usize, usize>, usize)>,
    pub(super) refused: Mutex<HashSet<String>>,
    pub(super) held: Semaphore,
}

/// A listening origin; stops when dropped.
pub(crate) struct Origin2 {
    pub(crate) addr: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

impl Origin2 {
    pub(crate) fn start(tls: Arc<ServerConfig>) -> Origin2 {
        Origin2::with(tls, Manners::default())
    }

    pub(crate) fn with(tls: Arc<ServerConfig>, manners: Manners) -> Origin2 {
        Origin2::at("127.0.0.1:0", tls, manners)
    }

    pub(crate) fn at(address: &str, tls: Arc<ServerConfig>, manners: Manners) -> Origin2 {
        Origin2::listen(address, Some(TlsAcceptor::from(tls)), manners)
    }

    /// Without TLS: HTTP/2 by prior knowledge.
    pub(crate) fn plain(manners: Manners) -> Origin2 {
        Origin2::listen("127.0.0.1:0", None, manners)
    }

    fn listen(address: &str, tls: Option<TlsAcceptor>, manners: Manners) -> Origin2 {
        let listener = TcpListener::bind(address).expect("a loopback port is free");
        let addr = listener.local_addr().expect("a bound socket has an address");
        listener.set_nonblocking(true).expect("a socket can be non-blocking");
        let shared = Arc::new(Shared {
            manners,
            seen: Mutex::default(),
            connections: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            streams: Mutex::default(),
            refused: Mutex::default(),
            held: Semaphore::new(0),
        });
        let accepting = runtime().spawn(accept(listener, tls, Arc::clone(&shared)));
        Origin2 { addr, shared, accepting }
    }

    pub(crate) fn port(&self) -> u16 {
        self.addr.port()
    }

    /// `localhost:port`.
    pub(crate) fn name(&self) -> String {
        format!("localhost:{}", self.port())
    }

    /// An https URI for `path` on `localhost`.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.name())
    }

    /// Everything that arrived so far, in the order of its stamps; what was refused is not counted.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        let mut all = self.shared.seen.lock().expect("no reader panicked").clone();
        all.retain(|one| !one.refused);
        all.sort_by_key(|one| one.stamp);
        all
    }

    /// The one request that arrived.
    #[track_caller]
    pub(crate) fn only(&self) -> Seen {
        let mut all = self.seen();
        assert_eq!(all.len(), 1, "one request arrived, and no more: {all:#?}");
        all.remove(0)
    }

    pub(crate) fn count(&self) -> usize {
        self.shared.seen.lock().expect("no reader panicked").iter().filter(|one| !one.refused).count()
    }

    pub(crate) fn paths(&self) -> Vec<String> {
        self.seen().into_iter().map(|one| one.path).collect()
    }

    pub(crate) fn stamps(&self) -> Vec<u64> {
        self.seen().into_iter().map(|one| one.stamp).collect()
    }

    /// How many connections were made, ever.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// How many connections are open now.
    pub(crate) fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// The most streams that were ever open at one time on one connection.
    pub(crate) fn most_streams(&self) -> usize {
        self.shared.streams.lock().expect("no reader panicked").1
    }

    /// Lets so many requests for `/hold` go on.
    pub(crate) fn release(&self, count: usize) {
        self.shared.held.add_permits(count);
    }
}

impl Drop for Origin2 {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Shared {
    pub(super) fn record(&self, seen: Seen) -> usize {
        let mut all = self.seen.lock().expect("no reader panicked");
        all.push(seen);
        all.len() - 1
    }

    pub(super) fn change(&self, index: usize, change: impl FnOnce(&mut Seen)) {
        change(&mut self.seen.lock().expect("no reader panicked")[index]);
    }

    fn begin(self: &Arc<Shared>, connection: usize) -> Busy {
        let mut streams = self.streams.lock().expect("no reader panicked");
        let now = streams.0.entry(connection).or_default();
        *now += 1;
        streams.1 = (*now).max(streams.1);
        Busy(Arc::clone(self), connection)
    }
}

/// A stream that is open.
struct Busy(Arc<Shared>, usize);

impl Drop for Busy {
    fn drop(&mut self) {
        let mut streams = self.0.streams.lock().expect("no reader panicked");
        *streams.0.get_mut(&self.1).expect("it was counted") -= 1;
    }
}

/// A connection that is open.
struct Open(Arc<Shared>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("a socket of ours");
    // Dropped with this task, and all connections with it.
    let mut running = JoinSet::new();
    while let Ok((tcp, _)) = listener.accept().await {
        tcp.set_nodelay(true).ok();
        let number = shared.connections.fetch_add(1, Ordering::SeqCst);
        let (tls, shared) = (tls.clone(), Arc::clone(&shared));
        shared.open.fetch_add(1, Ordering::SeqCst);
        let open = Open(Arc::clone(&shared));
        running.spawn(async move {
            let Some(tls) = tls else {
                serve_plain(tcp, number, &shared, open).await;
                return;
            };
            let Ok(stream) = tls.accept(tcp).await else { return drop(open) };
            if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                serve(stream, number, &shared).await;
                return drop(open);
            }
            let (tcp, session) = stream.into_inner();
            serve1(|tcp| Stream::server(session, tcp), tcp, number, shared, open);
        });
    }
}

/// Serves one connection without TLS: HTTP/2 if it begins with the preface.
async fn serve_plain(tcp: tokio::net::TcpStream, number: usize, shared: &Arc<Shared>, open: Open) {
    let mut first = [0; 3];
    match tcp.peek(&mut first).await {
        Ok(3) if first == *b"PRI" => serve(tcp, number, shared).await,
        _ => serve1(Stream::plain, tcp, number, Arc::clone(shared), open),
    }
}

/// Serves HTTP/1.1 in a thread of its own.
fn serve1(
    stream: impl FnOnce(std::net::TcpStream) -> Stream + Send + 'static,
    tcp: tokio::net::TcpStream,
    number: usize,
    shared: Arc<Shared>,
    open: Open,
) {
    let tcp = tcp.into_std().expect("a socket of ours");
    tcp.set_nonblocking(false).expect("a socket can be blocking");
    super::thread(move || {
        answer1::serve(stream(tcp), number, &shared);
        drop(open);
    });
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, number: usize, shared: &Arc<Shared>) {
    let mut builder = h2::server::Builder::new();
    if let Some(max) = shared.manners.max_streams {
        builder.max_concurrent_streams(max);
    }
    let Ok(mut connection) = builder.handshake(stream).await else { return };
    let mut running = JoinSet::new();
    let mut served = 0;
    while let Some(Ok((request, respond))) = connection.accept().await {
        served += 1;
        if shared.manners.goaway_after == Some(served) {
            connection.graceful_shutdown();
        }
        let index = shared.record(seen(&request, number));
        let (shared, busy) = (Arc::clone(shared), shared.begin(number));
        running.spawn(async move {
            if let Err(error) = answer2::answer(request, respond, &shared, index).await {
                shared.change(index, |seen| seen.broken = true);
                drop(error);
            }
            drop(busy);
        });
    }
    running.join_all().await;
}

fn seen(request: &Request<RecvStream>, connection: usize) -> Seen {
    let uri = request.uri();
    Seen {
        stamp: clock::now(),
        connection,
        version: 2,
        method: request.method().to_string(),
        scheme: uri.scheme_str().unwrap_or_default().to_owned(),
        authority: uri.authority().map(ToString::to_string).unwrap_or_default(),
        path: uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
        fields: lines(request.headers()),
        ..Seen::default()
    }
}

/// A field section as pairs.
pub(super) fn lines(fields: &HeaderMap) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| bytes.iter().map(|b| char::from(*b)).collect();
    fields.iter().map(|(name, value)| (name.to_string(), text(value.as_bytes()))).collect()
}
