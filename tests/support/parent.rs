//! Parent proxies of the tests' own: raw ones with every fault, and squid.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::gateway::Dir;
use super::{eventually, free_port, thread};

/// Behaviour of a raw parent after a request head.
pub(crate) enum Act {
    /// Says 200, and joins the caller with the port of the request's target on this machine.
    Relay,
    /// Says this, and closes.
    Say(Vec<u8>),
    /// Says this, and holds the connection.
    Hold(Vec<u8>),
}

impl Act {
    pub(crate) fn say(text: &str) -> Act {
        Act::Say(text.as_bytes().to_vec())
    }
}

#[derive(Default)]
struct Shared {
    /// Heads of requests; with SOCKS, logins and targets in words.
    heads: Mutex<Vec<String>>,
    streams: Mutex<Vec<TcpStream>>,
    dead: AtomicBool,
}

impl Shared {
    fn note(&self, text: impl Into<String>) {
        self.heads.lock().expect("no script panicked").push(text.into());
    }
}

/// A raw parent.
pub(crate) struct Parent {
    pub(crate) addr: SocketAddr,
    shared: Arc<Shared>,
    /// Thread that has the listener; `None` once it is closed.
    accepting: Mutex<Option<JoinHandle<()>>>,
}

impl Parent {
    /// A proxy of HTTP; `act` decides by the head of each request.
    pub(crate) fn http(act: impl Fn(&str) -> Act + Send + Sync + 'static) -> Parent {
        Parent::http_at(0, act)
    }

    /// The same, on this port.
    pub(crate) fn http_at(port: u16, act: impl Fn(&str) -> Act + Send + Sync + 'static) -> Parent {
        Parent::serve(port, move |stream, shared| {
            // Several requests in absolute form may come on one connection.
            while let Some(head) = read_head(stream) {
                let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
                shared.note(&*head);
                match act(&head) {
                    Act::Relay => {
                        let port = target.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(0);
                        match TcpStream::connect(("127.0.0.1", port)) {
                            Ok(origin) => {
                                stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").ok();
                                join(stream, origin, shared);
                            }
                            Err(_) => _ = stream.write_all(b"HTTP/1.1 502 Refused\r\n\r\n"),
                        }
                        return;
                    }
                    Act::Say(bytes) => {
                        stream.write_all(&bytes).ok();
                        return;
                    }
                    Act::Hold(bytes) => {
                        stream.write_all(&bytes).ok();
                    }
                }
            }
        })
    }

    /// A proxy of SOCKS5, which may require a login; it joins its callers with a port of this machine, if `reply` is 0.
    pub(crate) fn socks(login: Option<(&'static str, &'static str)>, reply: u8) -> Parent {
        Parent::serve(0, move |stream, shared| {
            socks(stream, shared, login, reply);
        })
    }

    fn serve(port: u16, script: impl Fn(&mut TcpStream, &Shared) + Send + Sync + 'static) -> Parent {
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("the port is free");
        let addr = listener.local_addr().expect("a listener has an address");
        let (shared, script) = (Arc::<Shared>::default(), Arc::new(script));
        let accepting = Arc::clone(&shared);
        let accepting = thread(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                if accepting.dead.load(Ordering::SeqCst) {
                    return;
                }
                accepting.streams.lock().expect("no script panicked").extend(stream.try_clone());
                let (script, shared) = (Arc::clone(&script), Arc::clone(&accepting));
                thread(move || {
                    script(&mut stream, &shared);
                    // The list has a copy of the socket, which would stay open.
                    stream.shutdown(Shutdown::Both).ok();
                });
            }
        });
        Parent { addr, shared, accepting: Mutex::new(Some(accepting)) }
    }

    pub(crate) fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}", self.addr)
    }

    pub(crate) fn heads(&self) -> Vec<String> {
        self.shared.heads.lock().expect("no script panicked").clone()
    }

    /// Closes its listener and all its connections, as a killed process does: when this returns, none can be opened.
    pub(crate) fn kill(&self) {
        let Some(accepting) = self.accepting.lock().expect("no kill panicked").take() else { return };
        self.shared.dead.store(true, Ordering::SeqCst);
        TcpStream::connect(self.addr).ok();
        accepting.join().ok();
        for stream in self.shared.streams.lock().expect("no script panicked").drain(..) {
            stream.shutdown(Shutdown::Both).ok();
        }
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Reads to the end of a head; `None` at the end of the connection.
fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    String::from_utf8(head).ok()
}

/// Copies both ways until both ends are done.
fn join(caller: &TcpStream, origin: TcpStream, shared: &Shared) {
    let copy = |mut from: TcpStream, mut to: TcpStream| {
        std::io::copy(&mut from, &mut to).ok();
        to.shutdown(Shutdown::Write).ok();
    };
    let (caller, there) = (caller.try_clone().expect("a socket"), origin.try_clone().expect("a socket"));
    shared.streams.lock().expect("no script panicked").extend(origin.try_clone());
    let out = (caller.try_clone().expect("a socket"), there);
    let back = thread(move || copy(origin, caller));
    copy(out.0, out.1);
    back.join().ok();
}

/// Serves one caller of SOCKS5; `None` if it breaks the protocol or is refused.
fn socks(stream: &mut TcpStream, shared: &Shared, login: Option<(&str, &str)>, reply: u8) -> Option<()> {
    let [version, count] = take(stream)?;
    assert_eq!(version, 5, "SOCKS5 is spoken");
    let mut methods = vec![0; usize::from(count)];
    stream.read_exact(&mut methods).ok()?;
    let wanted = if login.is_some() { 2 } else { 0 };
    if !methods.contains(&wanted) {
        stream.write_all(&[5, 0xff]).ok()?;
        return None;
    }
    stream.write_all(&[5, wanted]).ok()?;
    if let Some((user, password)) = login {
        let [1] = take(stream)? else { return None };
        let given = (text(stream)?, text(stream)?);
        shared.note(format!("login {} {}", given.0, given.1));
        let is_right = given.0 == user && given.1 == password;
        stream.write_all(&[1, u8::from(!is_right)]).ok()?;
        is_right.then_some(())?;
    }
    let [5, 1, 0, kind] = take(stream)? else { return None };
    let host = match kind {
        1 => std::net::Ipv4Addr::from(take::<4>(stream)?).to_string(),
        4 => std::net::Ipv6Addr::from(take::<16>(stream)?).to_string(),
        _ => text(stream)?,
    };
    let port = u16::from_be_bytes(take(stream)?);
    shared.note(format!("{} {host} {port}", if kind == 3 { "name" } else { "address" }));
    let origin = if reply == 0 { TcpStream::connect(("127.0.0.1", port)).ok() } else { None };
    let reply = if reply == 0 && origin.is_none() { 5 } else { reply };
    stream.write_all(&[5, reply, 0, 1, 127, 0, 0, 1, 0, 0]).ok()?;
    join(stream, origin?, shared);
    Some(())
}

fn take<const N: usize>(stream: &mut TcpStream) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).ok()?;
    Some(bytes)
}

fn text(stream: &mut TcpStream) -> Option<String> {
    let [length] = take(stream)?;
    let mut bytes = vec![0; usize::from(length)];
    stream.read_exact(&mut bytes).ok()?;
    String::from_utf8(bytes).ok()
}

/// A real squid, which requires the user `ana` with the password `secret`.
pub(crate) struct Squid {
    child: Child,
    pub(crate) port: u16,
    _dir: Dir,
}

impl Squid {
    #[track_caller]
    pub(crate) fn start() -> Squid {
        let (dir, port) = (Dir::public(), free_port());
        let hash = Command::new("openssl").args(["passwd", "-apr1", "secret"]).output().expect("openssl is installed");
        let users = dir.write("users", &format!("ana:{}", String::from_utf8_lossy(&hash.stdout)));
        let conf = dir.write(
            "squid.conf",
            &format!(
                "http_port 127.0.0.1:{port}\nauth_param basic program /usr/lib/squid/basic_ncsa_auth {}\n\
                 auth_param basic children 5 startup=2 idle=1\nacl known proxy_auth REQUIRED\nhttp_access allow known\n\
                 http_access deny all\ncache deny all\ncache_mem 8 MB\naccess_log none\ncache_log /dev/null\n\
                 cache_store_log none\npid_filename none\nshutdown_lifetime 0 seconds\nvisible_hostname squid.test\n\
                 coredump_dir {}\nnetdb_filename none\nclient_lifetime 1 hour\n",
                users.display(),
                dir.path().display(),
            ),
        );
        // Debian keeps it where only root looks.
        let program = if std::path::Path::new("/usr/sbin/squid").exists() { "/usr/sbin/squid" } else { "squid" };
        let child = Command::new(program)
            .args(["-N", "-f"])
            .arg(conf)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("squid: {e}: run tests/run, which installs it"));
        let squid = Squid { child, port, _dir: dir };
        eventually("squid listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        squid
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Kills it, as by `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Drop for Squid {
    fn drop(&mut self) {
        self.kill();
    }
}
