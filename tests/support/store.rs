//! Stores of the test's own: redis-servers, and a line to one that can be cut, held and slowed down.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use redis::{FromRedisValue, cmd};
use rustix::process::{Pid, Signal, kill_process};

use super::gateway::Dir;
use super::{PATIENCE, eventually, free_port, thread};

/// A redis-server that holds nothing but what it is told; killed when dropped.
pub(crate) struct Store {
    child: Mutex<Child>,
    pub(crate) port: u16,
    args: Vec<String>,
    dir: Dir,
}

impl Store {
    #[track_caller]
    pub(crate) fn start() -> Store {
        Store::with(&[])
    }

    /// With these words of configuration, such as `["--requirepass", "secret"]`.
    #[track_caller]
    pub(crate) fn with(args: &[&str]) -> Store {
        Store::on(free_port(), args)
    }

    #[track_caller]
    pub(crate) fn on(port: u16, args: &[&str]) -> Store {
        let dir = Dir::new();
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let child = Mutex::new(Store::run(port, &args, &dir));
        let store = Store { child, port, args, dir };
        store.answers();
        store
    }

    fn run(port: u16, args: &[String], dir: &Dir) -> Child {
        Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(args)
            .arg("--dir")
            .arg(dir.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed: tests/run does that")
    }

    #[track_caller]
    fn answers(&self) {
        eventually("the store answers", || TcpStream::connect(("127.0.0.1", self.port)).is_ok());
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child.lock().expect("no test panicked in it"));
        kill_process(pid, signal).expect("our own child can be signalled");
    }

    /// What it knows is gone.
    pub(crate) fn kill(&self) {
        let mut child = self.child.lock().expect("no test panicked in it");
        child.kill().ok();
        child.wait().ok();
    }

    #[track_caller]
    pub(crate) fn again(&self) {
        *self.child.lock().expect("no test panicked in it") = Store::run(self.port, &self.args, &self.dir);
        self.answers();
    }

    /// One command, on a connection of its own.
    #[track_caller]
    pub(crate) fn order<T: FromRedisValue>(&self, words: &[&str]) -> T {
        let password = self.args.iter().position(|arg| arg == "--requirepass").map(|at| self.args[at + 1].clone());
        let secret = password.map_or_else(String::new, |password| format!(":{password}@"));
        let client = redis::Client::open(format!("redis://{secret}127.0.0.1:{}", self.port)).unwrap();
        let end = Instant::now() + PATIENCE;
        loop {
            let mut order = cmd(words[0]);
            order.arg(&words[1..]);
            match client.get_connection().and_then(|mut connection| order.query(&mut connection)) {
                Ok(answer) => return answer,
                // It may be loading, or forming its cluster.
                Err(error) => assert!(Instant::now() < end, "{words:?}: {error}"),
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A redis-sentinel that watches one store under the name "main".
pub(crate) struct Sentinel {
    child: Child,
    pub(crate) port: u16,
    _dir: Dir,
}

impl Sentinel {
    #[track_caller]
    pub(crate) fn start(store: &Store) -> Sentinel {
        let (port, dir) = (free_port(), Dir::new());
        let text = format!(
            "port {port}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {} 1\nsentinel down-after-milliseconds main 500\n\
             sentinel failover-timeout main 3000\n",
            store.port
        );
        let file: PathBuf = dir.write("sentinel.conf", &text);
        let child = Command::new("redis-sentinel").arg(file).stdout(Stdio::null()).spawn();
        let child = child.expect("redis-sentinel is installed: tests/run does that");
        eventually("the Sentinel answers", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        Sentinel { child, port, _dir: dir }
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A line to a store.
pub(crate) struct Line {
    pub(crate) port: u16,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Nothing gets through, and whoever connects is let in by nobody.
    is_cut: AtomicBool,
    /// What is said is held back until this is over.
    is_held: AtomicBool,
    /// How long each part takes, in milliseconds.
    delay: AtomicU64,
    open: Mutex<Vec<TcpStream>>,
}

impl Line {
    pub(crate) fn to(addr: SocketAddr) -> Line {
        let port = free_port();
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("the port is free");
        let shared = Arc::<Shared>::default();
        let lines = Arc::clone(&shared);
        thread(move || {
            for caller in listener.incoming().map_while(Result::ok) {
                if lines.is_cut.load(Ordering::SeqCst) {
                    continue;
                }
                let Ok(store) = TcpStream::connect(addr) else { continue };
                let mut open = lines.open.lock().expect("no test panicked in it");
                for (from, into) in [(&caller, &store), (&store, &caller)] {
                    let (from, into) = (from.try_clone(), into.try_clone());
                    let (from, into) = (from.expect("a descriptor is free"), into.expect("a descriptor is free"));
                    open.push(from.try_clone().expect("a descriptor is free"));
                    let lines = Arc::clone(&lines);
                    thread(move || lines.pass(from, into));
                }
            }
        });
        Line { port, shared }
    }

    pub(crate) fn cut(&self) {
        self.shared.is_cut.store(true, Ordering::SeqCst);
        for line in self.shared.open.lock().expect("no test panicked in it").drain(..) {
            line.shutdown(Shutdown::Both).ok();
        }
    }

    /// Packets are lost from here on: nobody is told.
    pub(crate) fn hold(&self) {
        self.shared.is_held.store(true, Ordering::SeqCst);
    }

    pub(crate) fn slow(&self, delay: Duration) {
        let millis = u64::try_from(delay.as_millis()).expect("a short time");
        self.shared.delay.store(millis, Ordering::SeqCst);
    }

    pub(crate) fn mend(&self) {
        self.shared.is_cut.store(false, Ordering::SeqCst);
        self.shared.is_held.store(false, Ordering::SeqCst);
    }
}

impl Shared {
    fn pass(&self, mut from: TcpStream, mut into: TcpStream) {
        into.set_nodelay(true).ok();
        let mut bytes = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from.read(&mut bytes) {
            std::thread::sleep(Duration::from_millis(self.delay.load(Ordering::SeqCst)));
            while self.is_held.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(1));
            }
            if into.write_all(&bytes[..count]).is_err() {
                break;
            }
        }
        into.shutdown(Shutdown::Both).ok();
    }
}
