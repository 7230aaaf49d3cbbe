//! Start-up: what fails leaves the state folder as it was, and says which key and how to mend it.

use std::net::TcpListener;
use std::process::{Command, Output};
use std::sync::Arc;

use rustix::process::Signal;

use crate::support::gateway::{Dir, PROGRAM};
use crate::support::*;

/// A limit whose windows would be full for nine seconds after a crash.
fn short() -> String {
    limit(1, "9s", "when_full = \"refuse\"")
}

/// Runs the gateway with this configuration, which keeps it from starting.
#[track_caller]
fn fails(dir: &Dir, toml: &str) -> String {
    dir.write("failing.toml", toml);
    let Output { status, stderr, stdout } =
        Command::new(PROGRAM).args(["run", "-c", "failing.toml"]).current_dir(dir.path()).output().unwrap();
    let told = String::from_utf8_lossy(&stderr).into_owned();
    assert_eq!(status.code(), Some(1), "{told}");
    assert!(stdout.is_empty(), "it has announced nothing: {}", String::from_utf8_lossy(&stdout));
    told
}

/// A port that is in use, and the configurations that want it; with a word of what the start says of it.
fn failing(taken: &TcpListener) -> Vec<(String, &'static str)> {
    let port = taken.local_addr().unwrap().port();
    let any = "[listen]\nproxy = \"127.0.0.1:0\"\n";
    let short = short();
    vec![
        (format!("[listen]\nproxy = \"127.0.0.1:{port}\"\n{short}"), "[listen] proxy"),
        (format!("{any}{short}[admin]\nlisten = \"127.0.0.1:{port}\"\n"), "[admin] listen"),
        (format!("{any}{short}[locks]\nlisten = \"127.0.0.1:{port}\"\n"), "[locks] listen"),
        // Nobody can make a folder there, not even root.
        (format!("{any}{short}[tls]\nintercept = [\"a.example\"]\nca_dir = \"/proc/ca\"\n"), "[tls] ca_dir"),
    ]
}

/// A folder in which a gateway ran, was asked nothing, and stopped in order.
#[track_caller]
fn stopped() -> Arc<Dir> {
    let mut gateway = Gateway::start(&short());
    gateway.signal(Signal::TERM);
    assert!(gateway.ended().success());
    Arc::clone(&gateway.dir)
}

/// Starts with the limit of `short`, and sees that its slot is free and that nothing is said of a crash.
#[track_caller]
fn starts_whole(dir: &Arc<Dir>, origin: &Origin) {
    dir.write("proxy.toml", &format!("[listen]\nproxy = \"127.0.0.1:0\"\n{}", short()));
    let mut gateway = Gateway::start_by(Command::new(PROGRAM).args(["run", "-c", "proxy.toml"]), Arc::clone(dir));
    let answer = gateway.get(&origin.url("/"));
    assert_eq!(answer.status, 200, "{}\n{}", answer.raw, gateway.stderr());
    assert!(!gateway.stderr().contains("did not shut down cleanly"), "{}", gateway.stderr());
    gateway.signal(Signal::TERM);
    assert!(gateway.ended().success());
}

#[test]
fn a_start_that_fails_makes_no_later_start_believe_in_a_crash() {
    let (origin, taken) = (Origin::start(), TcpListener::bind("127.0.0.1:0").unwrap());
    for (toml, _) in failing(&taken) {
        let dir = Arc::new(Dir::new());
        let told = fails(&dir, &toml);
        assert!(!told.contains("did not shut down cleanly"), "{told}");
        starts_whole(&dir, &origin);
    }
}

#[test]
fn what_a_start_makes_beside_a_file_of_this_repository_is_ignored_by_git() {
    let top = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    if !top.join(".git").exists() {
        return;
    }
    // The seed of keys and the key of the authority are secrets.
    for made in ["state/journal.redb", "state/lock", "certs/lockgate-ca.key"] {
        for beside in ["", "config/", "config/examples/"] {
            let path = format!("{beside}{made}");
            let ignored = Command::new("git").args(["check-ignore", "-q", &path]).current_dir(top).status().unwrap();
            assert!(ignored.success(), "{path} would be published by `git add .`");
        }
    }
}

#[test]
fn a_start_that_fails_undoes_no_clean_stop_before_it() {
    let (origin, taken) = (Origin::start(), TcpListener::bind("127.0.0.1:0").unwrap());
    for (toml, _) in failing(&taken) {
        let dir = stopped();
        fails(&dir, &toml);
        fails(&dir, &toml);
        starts_whole(&dir, &origin);
    }
}

#[test]
fn an_address_that_is_taken_is_told_with_its_key_and_what_to_do() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    for (toml, key) in failing(&taken) {
        let told = fails(&Dir::new(), &toml);
        assert!(told.contains(key), "{told}");
        let is_port = told.contains("cannot listen on");
        assert_eq!(
            is_port,
            told.contains(&format!("ss -ltnp sport = :{}", taken.local_addr().unwrap().port())),
            "{told}"
        );
        assert_eq!(told.matches("in use").count(), usize::from(is_port), "{told}");
    }
}

/// Runs a command with a listening socket of its own as descriptor 3, as systemd does.
const ACTIVATE: &str = "
import os, socket, sys
listener = socket.create_server(('127.0.0.1', 0))
os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[1], sys.argv[1:])
";

#[test]
fn a_start_with_a_socket_of_systemds_that_fails_leaves_the_state_as_it_was() {
    let (origin, taken) = (Origin::start(), TcpListener::bind("127.0.0.1:0").unwrap());
    let dir = stopped();
    let (toml, key) = failing(&taken).swap_remove(1);
    dir.write("failing.toml", &toml);
    let started = Command::new("python3")
        .args(["-c", ACTIVATE, PROGRAM, "run", "-c", "failing.toml"])
        .current_dir(dir.path())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&started.stderr).into_owned();
    assert!(!started.status.success() && told.contains(key), "{told}");
    starts_whole(&dir, &origin);
}

/// Has a process try to take over with this configuration, and waits until it has failed.
#[track_caller]
fn fails_to_take_over(gateway: &Gateway, toml: &str) {
    gateway.dir.write("proxy.toml", toml);
    gateway.signal(Signal::USR2);
    eventually("its failure", || gateway.stderr().contains("not handed over, nothing has changed"));
}

#[test]
fn a_process_that_fails_to_take_over_leaves_the_state_and_the_name_in_its_lock_as_they_were() {
    let (origin, taken) = (Origin::start(), TcpListener::bind("127.0.0.1:0").unwrap());
    let mut gateway = Gateway::start(&short());
    fails_to_take_over(&gateway, &failing(&taken).swap_remove(1).0);
    let holder = std::fs::read_to_string(gateway.dir.path().join("state/lock")).unwrap();
    assert_eq!(
        holder.trim(),
        gateway.pid().as_raw_nonzero().to_string(),
        "kill -USR2 \"$(cat state/lock)\" is documented"
    );
    assert!(gateway.stderr().contains("[admin] listen"), "{}", gateway.stderr());
    gateway.signal(Signal::TERM);
    assert!(gateway.ended().success());
    starts_whole(&gateway.dir, &origin);
}

#[test]
fn a_process_that_cannot_read_the_locks_does_not_take_over() {
    let origin = Origin::start();
    let locks = format!("[locks]\nlisten = \"127.0.0.1:{}\"\n", free_port());
    let gateway = Gateway::start(&format!("{}{locks}", limit(2, "1h", "when_full = \"refuse\"")));
    gateway.dir.write("state/locks.jsonl", "hello\nworld\n");
    let toml = std::fs::read_to_string(gateway.dir.path().join("proxy.toml")).unwrap();
    fails_to_take_over(&gateway, &toml);
    let told = gateway.stderr();
    let line = told.lines().find(|line| line.starts_with("lockgate: cannot start the lock service")).unwrap();
    assert_eq!(line.matches("not a line of a lock register").count(), 1, "the cause is said once: {told}");
    let statuses: Vec<u16> = (0..3).map(|n| gateway.get(&origin.url(&format!("/{n}"))).status).collect();
    assert_eq!(statuses, [200, 200, 429], "the old one goes on");
}

#[test]
fn a_state_folder_in_use_is_told_with_its_place_its_holder_and_how_a_gateway_of_exec_ends() {
    let gateway = Gateway::start(&short());
    let state = gateway.dir.path().join("state");
    let holder = std::fs::read_to_string(state.join("lock")).unwrap();
    let told = fails(&gateway.dir, &format!("[listen]\nproxy = \"127.0.0.1:0\"\n{}", short()));
    let used = format!("the state folder {} is in use by another gateway (process {})", state.display(), holder.trim());
    assert!(told.contains(&used), "{used}: {told}");
    assert!(told.contains("`lockgate exec` ends by itself within a minute"), "{told}");
}
