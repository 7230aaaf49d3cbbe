//! An origin of our own: stamps every arrival, keeps every request, and does what its script says.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt::ReceiveTimestampns};
use rustls::{ServerConfig, ServerConnection};

use super::request::Request;
use super::stream::{Stop, Stream};
use super::{PATIENCE, thread};

/// What becomes of the connection after a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Next {
    Keep,
    Close,
    /// Ends it with a reset.
    Die,
}

/// The script's side of one request on a connection.
pub(crate) struct Link<'a> {
    pub(crate) stream: &'a mut Stream,
    shared: &'a Shared,
    index: usize,
}

impl Link<'_> {
    /// Sends raw bytes; a gateway that has gone is no failure of the origin.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.send(bytes.as_ref()).ok();
    }

    /// Reads the content into the record; false if the sender broke off.
    pub(crate) fn read_body(&mut self) -> bool {
        let mut request = self.shared.requests.lock().expect("no script panicked")[self.index].clone();
        let whole = request.read_body(self.stream).is_ok();
        self.shared.requests.lock().expect("no script panicked")[self.index] = request;
        whole
    }

    /// The content that `read_body` read.
    pub(crate) fn body(&self) -> Vec<u8> {
        self.shared.requests.lock().expect("no script panicked")[self.index].body.clone()
    }

    /// A plain answer with a length.
    pub(crate) fn answer(&mut self, status: u16, body: &str) -> Next {
        self.send(format!("HTTP/1.1 {status} Fine\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
        Next::Keep
    }

    /// Waits until the gateway closes the connection; true if it did.
    pub(crate) fn wait_for_close(&mut self) -> bool {
        self.stream.take_rest(Instant::now() + PATIENCE).1 != Stop::Silence
    }

    /// Sends back all that comes, until the other side is done.
    pub(crate) fn echo(&mut self) {
        loop {
            let bytes = std::mem::take(&mut self.stream.ahead);
            self.send(bytes);
            if self.stream.more(Instant::now() + PATIENCE).is_err() {
                return;
            }
        }
    }
}

type Script = dyn Fn(&Request, &mut Link<'_>) -> Next + Send + Sync;

struct Shared {
    script: Box<Script>,
    tls: Option<Arc<ServerConfig>>,
    /// Callback with the number of each connection, before its first byte is read.
    before_reading: Box<dyn Fn(usize) + Send + Sync>,
    /// How long a connection may be idle.
    idle: Duration,
    requests: Mutex<Vec<Request>>,
    /// Targets of requests that came after the end of their connection.
    crossed: Mutex<Vec<String>>,
    connections: AtomicUsize,
    open: AtomicUsize,
    stop: AtomicBool,
    kernel_stamps: AtomicBool,
    /// Something reached it that no gateway may send.
    offended: AtomicBool,
}

/// A listening origin; stops when dropped.
pub(crate) struct Origin {
    pub(crate) addr: SocketAddr,
    shared: Arc<Shared>,
}

impl Origin {
    /// Answers 200 with the target as content.
    pub(crate) fn start() -> Origin {
        Origin::scripted(|request, link| {
            link.read_body();
            link.answer(200, &request.target)
        })
    }

    pub(crate) fn scripted(script: impl Fn(&Request, &mut Link<'_>) -> Next + Send + Sync + 'static) -> Origin {
        // Idle connections outlive any test; the gateway's end closes them.
        Origin::listen(None, Box::new(|_| {}), 4 * PATIENCE, Box::new(script))
    }

    pub(crate) fn scripted_tls(
        config: Arc<ServerConfig>,
        script: impl Fn(&Request, &mut Link<'_>) -> Next + Send + Sync + 'static,
    ) -> Origin {
        Origin::late_tls(config, |_| {}, script)
    }

    /// Begins the handshake of each connection, by its number, after `before_reading` has returned.
    pub(crate) fn late_tls(
        config: Arc<ServerConfig>,
        before_reading: impl Fn(usize) + Send + Sync + 'static,
        script: impl Fn(&Request, &mut Link<'_>) -> Next + Send + Sync + 'static,
    ) -> Origin {
        Origin::listen(Some(config), Box::new(before_reading), 4 * PATIENCE, Box::new(script))
    }

    /// Answers 200, each time that the test says so.
    pub(crate) fn on_order() -> (Origin, mpsc::Sender<()>) {
        let (go, wait) = mpsc::channel::<()>();
        let wait = Mutex::new(wait);
        let origin = Origin::scripted(move |_, link| {
            wait.lock().expect("no script panicked").recv_timeout(PATIENCE).ok();
            link.answer(200, "late")
        });
        (origin, go)
    }

    /// Ends connections on which nothing comes for `idle`. Requests that cross with that end are not answered, and are found
    /// in [`Origin::crossed`].
    pub(crate) fn impatient(
        idle: Duration,
        script: impl Fn(&Request, &mut Link<'_>) -> Next + Send + Sync + 'static,
    ) -> Origin {
        Origin::listen(None, Box::new(|_| {}), idle, Box::new(script))
    }

    /// The same raw bytes to every request, then the connection closes.
    pub(crate) fn saying(bytes: impl Into<Vec<u8>>) -> Origin {
        let bytes = bytes.into();
        Origin::scripted(move |_, link| {
            link.read_body();
            link.send(&bytes);
            Next::Close
        })
    }

    /// The same raw bytes to every request; the connection stays open.
    pub(crate) fn saying_and_keeping(bytes: impl Into<Vec<u8>>) -> Origin {
        let bytes = bytes.into();
        Origin::scripted(move |_, link| {
            link.read_body();
            link.send(&bytes);
            Next::Keep
        })
    }

    /// At this address, in the namespace of this thread.
    pub(crate) fn at(
        address: SocketAddr,
        tls: Option<Arc<ServerConfig>>,
        script: impl Fn(&Request, &mut Link<'_>) -> Next + Send + Sync + 'static,
    ) -> Origin {
        Origin::listen_at(address, tls, Box::new(|_| {}), 4 * PATIENCE, Box::new(script))
    }

    fn listen(
        tls: Option<Arc<ServerConfig>>,
        before_reading: Box<dyn Fn(usize) + Send + Sync>,
        idle: Duration,
        script: Box<Script>,
    ) -> Origin {
        Origin::listen_at(SocketAddr::from(([127, 0, 0, 1], 0)), tls, before_reading, idle, script)
    }

    fn listen_at(
        address: SocketAddr,
        tls: Option<Arc<ServerConfig>>,
        before_reading: Box<dyn Fn(usize) + Send + Sync>,
        idle: Duration,
        script: Box<Script>,
    ) -> Origin {
        let listener = TcpListener::bind(address).expect("the port is free");
        // Accepted sockets inherit it, so that even the first segment bears the kernel's stamp.
        setsockopt(&listener, ReceiveTimestampns, &true).expect("this kernel stamps what it receives");
        let addr = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared {
            script,
            tls,
            before_reading,
            idle,
            requests: Mutex::new(Vec::new()),
            crossed: Mutex::default(),
            connections: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            kernel_stamps: AtomicBool::new(true),
            offended: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&shared);
        thread(move || accept(&listener, &accepting));
        Origin { addr, shared }
    }

    /// `127.0.0.1:port`.
    pub(crate) fn authority(&self) -> String {
        self.addr.to_string()
    }

    /// An absolute http URI for `path`.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    pub(crate) fn port(&self) -> u16 {
        self.addr.port()
    }

    /// Everything that arrived so far, in the order of its stamps.
    pub(crate) fn requests(&self) -> Vec<Request> {
        let mut all = self.shared.requests.lock().expect("no script panicked").clone();
        all.sort_by_key(|r| r.stamp);
        all
    }

    /// The targets of what arrived, in order.
    pub(crate) fn targets(&self) -> Vec<String> {
        self.requests().into_iter().map(|r| r.target).collect()
    }

    /// When each arrived.
    pub(crate) fn stamps(&self) -> Vec<u64> {
        self.requests().into_iter().map(|r| r.stamp).collect()
    }

    /// When those arrived whose targets fit.
    pub(crate) fn stamps_of(&self, fits: impl Fn(&str) -> bool) -> Vec<u64> {
        let all = self.shared.requests.lock().expect("no script panicked");
        let mut stamps: Vec<u64> = all.iter().filter(|r| fits(&r.target)).map(|r| r.stamp).collect();
        stamps.sort_unstable();
        stamps
    }

    /// The one request that arrived.
    #[track_caller]
    pub(crate) fn only(&self) -> Request {
        let mut all = self.requests();
        assert_eq!(all.len(), 1, "one request arrived, and no more: {all:#?}");
        all.remove(0)
    }

    /// The targets of requests that came after the end of their connection.
    pub(crate) fn crossed(&self) -> Vec<String> {
        self.shared.crossed.lock().expect("no script panicked").clone()
    }

    pub(crate) fn count(&self) -> usize {
        self.shared.requests.lock().expect("no script panicked").len()
    }

    /// How many connections were made, ever.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// How many connections are open now.
    pub(crate) fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// Whether every stamp was the kernel's.
    pub(crate) fn kernel_stamps(&self) -> bool {
        self.shared.kernel_stamps.load(Ordering::SeqCst)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        // Wakes the accepting thread, so that the port is free again.
        TcpStream::connect_timeout(&self.addr, Duration::from_secs(1)).ok();
        let offended = self.shared.offended.load(Ordering::SeqCst);
        assert!(!offended || std::thread::panicking(), "the origin was sent what it must never see, as told above");
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for tcp in listener.incoming() {
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        let Ok(tcp) = tcp else { continue };
        tcp.set_nodelay(true).ok();
        let number = shared.connections.fetch_add(1, Ordering::SeqCst);
        let shared = Arc::clone(shared);
        shared.open.fetch_add(1, Ordering::SeqCst);
        thread(move || {
            // A script that fails, or a message that it cannot read, fails the test and not just its connection.
            if catch_unwind(AssertUnwindSafe(|| serve(tcp, number, &shared))).is_err() {
                shared.offended.store(true, Ordering::SeqCst);
            }
            shared.open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

/// Ends a connection on which nothing came; what is under way nevertheless is recorded.
fn end_idle(mut stream: Stream, stop: Stop, shared: &Shared) {
    stream.finish();
    if stop != Stop::Silence {
        return;
    }
    if let Ok(head) = stream.take_until(b"\r\n\r\n", Instant::now() + PATIENCE) {
        let target = Request::parse(&head, 0, 0, 0).target;
        shared.crossed.lock().expect("no script panicked").push(target);
    }
}

fn serve(tcp: TcpStream, number: usize, shared: &Shared) {
    (shared.before_reading)(number);
    let mut stream = match &shared.tls {
        None => Stream::plain(tcp),
        Some(config) => {
            let session = ServerConnection::new(Arc::clone(config)).expect("a session can start");
            Stream::server(session, tcp)
        }
    };
    for place in 0.. {
        let head = match stream.take_until(b"\r\n\r\n", Instant::now() + shared.idle) {
            Ok(head) => head,
            Err(stop) => return end_idle(stream, stop, shared),
        };
        if !stream.stamped_by_kernel {
            shared.kernel_stamps.store(false, Ordering::SeqCst);
        }
        let request = Request::parse(&head, stream.stamp, number, place);
        let index = {
            let mut all = shared.requests.lock().expect("no script panicked");
            all.push(request.clone());
            all.len() - 1
        };
        match (shared.script)(&request, &mut Link { stream: &mut stream, shared, index }) {
            // Some clients read to the end of the connection.
            Next::Keep if request.asks_to_close() => return stream.finish(),
            Next::Keep => {}
            Next::Close => return stream.finish(),
            Next::Die => return stream.reset(),
        }
    }
}

/// A GET is answered with its target, anything else with its content.
pub(crate) fn echo(request: &Request, link: &mut Link<'_>) -> Next {
    link.read_body();
    let content = if request.method == "GET" { request.target.clone().into_bytes() } else { link.body() };
    let mut all = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", content.len()).into_bytes();
    all.extend(content);
    link.send(all);
    Next::Keep
}
