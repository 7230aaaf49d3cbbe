//! Start-up: what fails says which key of the file it is about, and how to mend it.

use std::net::TcpListener;
use std::process::{Command, Output};

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
