//! What the tests stand on: a gateway process, origins of our own, callers that speak raw bytes, a judge of arrivals.

pub(crate) mod answer;
mod answer1;
pub(crate) mod answer2;
pub(crate) mod caller;
pub(crate) mod caller2;
pub(crate) mod certs;
pub(crate) mod clock;
pub(crate) mod frames;
pub(crate) mod gateway;
pub(crate) mod held_answers;
pub(crate) mod judge;
pub(crate) mod middleman;
pub(crate) mod network;
pub(crate) mod origin;
pub(crate) mod origin2;
mod output;
pub(crate) mod parent;
pub(crate) mod processes;
pub(crate) mod program;
pub(crate) mod proxy_header;
pub(crate) mod relay;
pub(crate) mod request;
pub(crate) mod socks5;
pub(crate) mod stage;
pub(crate) mod store;
pub(crate) mod stream;
pub(crate) mod yard;
pub(crate) mod zmtp;

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub(crate) use answer::{Answer, End, check_ours};
pub(crate) use caller::Caller;
pub(crate) use caller2::{Caller2, More};
pub(crate) use gateway::Gateway;
pub(crate) use judge::one_window;
pub(crate) use origin::{Link, Next, Origin, echo};
pub(crate) use origin2::{Manners, Origin2};
pub(crate) use relay::Relay;
pub(crate) use request::Request;

/// Time that a test waits for what must happen; only a hang is slower than this, however busy the machine. It is below a
/// minute, after which the gateway's own time-outs end what hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(55);

/// Waits until `holds` is true, and fails with `what` if that does not happen.
#[track_caller]
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "this did not happen in {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A thread with a small stack, for tests that need hundreds.
pub(crate) fn thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> std::thread::JoinHandle<T> {
    std::thread::Builder::new().stack_size(512 << 10).spawn(work).expect("a thread can be started")
}

/// A loopback port that is taken, so that nobody else gets it, but on which nobody listens.
pub(crate) struct DeadPort(socket2::Socket);

impl DeadPort {
    pub(crate) fn new() -> DeadPort {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        let any: std::net::SocketAddr = ([127, 0, 0, 1], 0).into();
        socket.bind(&any.into()).expect("a loopback port is free");
        DeadPort(socket)
    }

    pub(crate) fn port(&self) -> u16 {
        let addr = self.0.local_addr().expect("a bound socket has an address");
        addr.as_socket().expect("it is an IP address").port()
    }
}

/// How often something is done whose every moment may be the wrong one: `often` where time is no matter.
pub(crate) fn times(seldom: usize, often: usize) -> usize {
    if std::env::var_os("LOCKGATE_SLOW").is_some() { often } else { seldom }
}

/// A loopback port that is not in use; from below the range that port 0 is given from, and kept from other test runs: a socket
/// that does not listen holds it, and lets one with SO_REUSEADDR listen beside it.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    static HELD: Mutex<Vec<socket2::Socket>> = Mutex::new(Vec::new());
    loop {
        let next = NEXT.fetch_add(1, Ordering::SeqCst);
        let port = u16::try_from(12_000 + (std::process::id() * 37 + next) % 18_000).expect("below 30 000");
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        // Without SO_REUSEADDR it fails if any other socket has the port, even one that does not listen.
        if socket.bind(&SocketAddr::from(([127, 0, 0, 1], port)).into()).is_ok() {
            socket.set_reuse_address(true).expect("SO_REUSEADDR can be set");
            HELD.lock().expect("no test panicked in it").push(socket);
            return port;
        }
    }
}

/// A loopback port that never answers a connection: its queue is full, so the kernel drops what comes.
pub(crate) struct BlackHole {
    socket: socket2::Socket,
    _fill: Vec<socket2::Socket>,
}

impl BlackHole {
    pub(crate) fn new() -> BlackHole {
        BlackHole::at(([127, 0, 0, 1], 0).into())
    }

    pub(crate) fn at(addr: std::net::SocketAddr) -> BlackHole {
        let make = || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        let socket = make();
        socket.bind(&addr.into()).expect("the port is free");
        socket.listen(0).expect("a bound socket can listen");
        let addr = socket.local_addr().expect("a bound socket has an address");
        let fill = (0..4).map(|_| {
            let one = make();
            one.set_nonblocking(true).expect("a socket can be non-blocking");
            // It is in progress for ever, which is what a full queue looks like.
            one.connect(&addr).ok();
            one
        });
        let fill = fill.collect();
        BlackHole { socket, _fill: fill }
    }

    pub(crate) fn port(&self) -> u16 {
        let addr = self.socket.local_addr().expect("a bound socket has an address");
        addr.as_socket().expect("it is an IP address").port()
    }
}

/// Base64, for `Proxy-Authorization`.
pub(crate) fn basic(name: &str, password: &str) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(format!("{name}:{password}"));
    format!("Basic {text}")
}

/// A `proxy.toml` whose only limit counts a host that no test calls.
pub(crate) const UNLIMITED: &str = "[[limit]]\nname = \"elsewhere\"\nmatch = { host = [\"elsewhere.example\"] }\n\
                                    requests = 1\nper = \"1s\"\n\n";

/// One limit on every request to 127.0.0.1; `more` is further lines of it.
pub(crate) fn limit(requests: u32, per: &str, more: &str) -> String {
    format!(
        "[[limit]]\nname = \"the-limit\"\nmatch = {{ host = [\"127.0.0.1\"] }}\nrequests = {requests}\nper = \"{per}\"\n{more}\n\n"
    )
}

/// A head from its lines.
pub(crate) fn head(lines: &[&str]) -> String {
    format!("{}\r\n\r\n", lines.join("\r\n"))
}
