//! A gateway process: started with a `proxy.toml` of the test's, watched, and ended with the test.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};

use super::output::Output;
use super::{Answer, Caller, PATIENCE, eventually};

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_lockgate");

/// A directory of the test's own; removed when dropped.
pub(crate) struct Dir(PathBuf);

impl Dir {
    pub(crate) fn new() -> Dir {
        Dir::within(Path::new(env!("CARGO_TARGET_TMPDIR")))
    }

    /// One that other users can enter, wherever the checkout is.
    pub(crate) fn public() -> Dir {
        let dir = Dir::within(&std::env::temp_dir());
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(dir.path(), open).expect("it is ours");
        dir
    }

    fn within(folder: &Path) -> Dir {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::SeqCst));
        let path = folder.join(name);
        std::fs::create_dir_all(&path).expect("the folder can be written");
        Dir(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).expect("the test's directory can be written");
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

/// A running gateway; killed when dropped, and checked for panics.
pub(crate) struct Gateway {
    child: Child,
    /// The processes that took its place, one after the other.
    successors: Mutex<Vec<Pid>>,
    pub(crate) addr: SocketAddr,
    /// Another gateway may go on in it.
    pub(crate) dir: Arc<Dir>,
    out: Output,
    err: Output,
}

impl Gateway {
    /// Starts with this `proxy.toml`; without a `[listen]` of its own it listens on a free loopback port.
    #[track_caller]
    pub(crate) fn start(toml: &str) -> Gateway {
        Gateway::start_in(Dir::new(), toml)
    }

    /// Starts with `dir` as its working directory, where the test may have put files.
    #[track_caller]
    pub(crate) fn start_in(dir: Dir, toml: &str) -> Gateway {
        let listen = if toml.contains("[listen]") { "" } else { "[listen]\nproxy = \"127.0.0.1:0\"\n\n" };
        dir.write("proxy.toml", &format!("{listen}{toml}"));
        Gateway::start_as_it_is(Arc::new(dir))
    }

    /// Starts another one where this one was, with its files; it has ended.
    #[track_caller]
    pub(crate) fn again(self) -> Gateway {
        Gateway::start_as_it_is(Arc::clone(&self.dir))
    }

    #[track_caller]
    fn start_as_it_is(dir: Arc<Dir>) -> Gateway {
        Gateway::start_by(Command::new(PROGRAM).args(["run", "-c", "proxy.toml"]), dir)
    }

    /// Starts by another command than its own name, which runs it in this directory with its `proxy.toml`.
    #[track_caller]
    pub(crate) fn start_by(command: &mut Command, dir: Arc<Dir>) -> Gateway {
        let mut child = command
            .current_dir(dir.path())
            .env_remove("LOCKGATE_CONFIG")
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the gateway was built and can be started");
        let out = Output::of(child.stdout.take().expect("stdout is a pipe").into());
        let err = Output::of(child.stderr.take().expect("stderr is a pipe").into());
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut gateway = Gateway { child, successors: Mutex::default(), addr, dir, out, err };
        gateway.addr = gateway.read_address();
        gateway
    }

    #[track_caller]
    fn read_address(&mut self) -> SocketAddr {
        let end = Instant::now() + PATIENCE;
        loop {
            let found = self.lines().iter().find_map(|line| {
                let (_, rest) = line.split_once("listening on ")?;
                rest.split([' ', ',']).next()?.trim_start_matches("http://").parse::<SocketAddr>().ok()
            });
            if let Some(addr) = found {
                // A listener on every address is reached by loopback.
                let ip = if addr.ip().is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { addr.ip() };
                return SocketAddr::new(ip, addr.port());
            }
            let ended = self.child.try_wait().expect("a child can be asked");
            let late = Instant::now() > end;
            assert!(
                ended.is_none() && !late,
                "the gateway did not start ({ended:?}); stdout {:?}, stderr {}",
                self.lines(),
                self.stderr()
            );
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }

    /// A new connection to it.
    #[track_caller]
    pub(crate) fn caller(&self) -> Caller {
        Caller::connect(self.addr)
    }

    /// Sends one whole request on a connection of its own and reads the answer to it.
    #[track_caller]
    pub(crate) fn exchange(&self, request: impl AsRef<[u8]>) -> Answer {
        let request = request.as_ref();
        let method = request.split(|b| *b == b' ').next().unwrap_or_default();
        let mut caller = self.caller();
        caller.send(request).answer_to(&String::from_utf8_lossy(method))
    }

    /// A GET for an absolute URI, as a forward proxy's caller sends it.
    #[track_caller]
    pub(crate) fn get(&self, url: &str) -> Answer {
        self.exchange(get(url))
    }

    /// The lines of its access log and its start. Another thread of the gateway writes them, some time after the answer.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.out.lines()
    }

    /// Its log: all that it wrote before anything that the test has seen of it.
    pub(crate) fn stderr(&self) -> String {
        self.err.text()
    }

    /// Waits until it has complained of that.
    #[track_caller]
    pub(crate) fn complains(&self, text: &str) {
        eventually(&format!("it complains of {text:?}"), || self.stderr().contains(text));
    }

    /// Waits for the line of its log that holds `text`.
    #[track_caller]
    pub(crate) fn log_line(&self, text: &str) -> String {
        let mut found = None;
        eventually(&format!("a log line with {text:?}"), || {
            found = self.lines().into_iter().find(|line| line.contains(text));
            found.is_some()
        });
        found.expect("it was found")
    }

    /// Writes another `proxy.toml`, with the same listener unless it names one, and has it read; whether it is in force
    /// then.
    #[track_caller]
    pub(crate) fn reload(&self, toml: &str) -> bool {
        let listen = if toml.contains("[listen]") { "" } else { "[listen]\nproxy = \"127.0.0.1:0\"\n\n" };
        self.dir.write("proxy.toml", &format!("{listen}{toml}"));
        let told = || (self.stderr().matches(" reloaded").count(), self.stderr().matches("not reloaded").count());
        let (before, refused) = told();
        self.signal(Signal::HUP);
        eventually("the file is read again", || told() != (before, refused));
        told().1 == refused
    }

    /// Has another process take the place of the one that serves now.
    #[track_caller]
    pub(crate) fn hand_over(&self) {
        let mut successors = self.successors.lock().expect("no test panicked in it");
        let before = successors.len();
        let serves = successors.last().copied().unwrap_or(self.pid());
        kill_process(serves, Signal::USR2).expect("it runs");
        let mut next = None;
        eventually("a successor", || {
            let told = self.stderr();
            let pids = told.lines().filter_map(|line| line.split_once("INFO handed over process=")?.1.parse().ok());
            next = pids.skip(before).find_map(Pid::from_raw);
            next.is_some()
        });
        successors.extend(next);
    }

    /// The process that serves now.
    pub(crate) fn serving(&self) -> Pid {
        self.successors.lock().expect("no test panicked in it").last().copied().unwrap_or(self.pid())
    }

    /// After its next line, its standard output is closed.
    pub(crate) fn close_stdout(&mut self) {
        self.out.close();
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("our own child can be signalled");
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be asked") {
                return status;
            }
            assert!(Instant::now() < end, "the gateway did not end; stderr {}", self.stderr());
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }

    /// Resident memory in KiB.
    pub(crate) fn memory_kib(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).expect("a running process has a status");
        let line = status.lines().find(|l| l.starts_with("VmRSS:")).expect("its memory is known");
        line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number of KiB")
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        // Also those of which a test that failed never heard that they had taken over.
        let told = self.stderr();
        let pids = told.lines().filter_map(|line| line.split_once("INFO handing over process=")?.1.parse().ok());
        for successor in pids.filter_map(Pid::from_raw) {
            // It is no child of ours, and may have ended.
            kill_process(successor, Signal::KILL).ok();
        }
        if !std::thread::panicking() {
            let err = self.stderr();
            assert!(!err.contains(" panic thread="), "the gateway panicked: {err}");
        } else {
            eprintln!("--- the gateway's stderr:\n{}--- its stdout: {:#?}", self.stderr(), self.lines());
        }
    }
}

/// A GET for an absolute URI, closing the connection.
pub(crate) fn get(url: &str) -> String {
    let host = url.trim_start_matches("http://").split(['/', '?']).next().unwrap_or_default();
    format!("GET {url} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
}
