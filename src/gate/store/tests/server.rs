//! A redis-server process for one test.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use redis::{Connection, cmd};

/// A running redis-server; killed on drop.
///
/// It listens on a Unix socket in a folder of its own. A TCP port that was found free can be taken by another test before
/// the server binds it.
pub(super) struct Server {
    child: Child,
    dir: PathBuf,
}

impl Server {
    pub(super) fn start() -> Server {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("lockgate-redis-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        let child = Command::new("redis-server")
            .args(["--port", "0", "--unixsocket", "socket", "--save", "", "--appendonly", "no"])
            .arg("--dir")
            .arg(&dir)
            .current_dir(&dir)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed: tests/run does that");
        Server { child, dir }
    }

    pub(super) fn connect(&self) -> Connection {
        let client = redis::Client::open(format!("redis+unix://{}", self.dir.join("socket").display())).unwrap();
        // A minute, which only a server that has failed takes.
        for _ in 0..12_000 {
            if let Ok(mut connection) = client.get_connection() {
                let answer: String = cmd("PING").query(&mut connection).unwrap();
                assert_eq!(answer, "PONG");
                return connection;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("redis-server does not answer");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        std::fs::remove_dir_all(&self.dir).ok();
    }
}
