//! Programs of languages whose libraries read the environment by themselves, unchanged under `lockgate exec`: each of
//! their requests comes through the gateway, and they trust it.

use std::process::{Command, Output};

use crate::support::processes::{python, top};
use crate::support::program::{self, err, out};
use crate::support::yard::Yard;

/// Runs a script under exec, with `http://` and `https://` URLs of a host that does not exist as `$1` and `$2`.
///
/// For programs that send no request for this machine to a proxy. The gateway intercepts the host and answers 502. Returns
/// what was printed, and the access log.
#[track_caller]
fn run_far(script: &str) -> (Output, String) {
    let stage = program::Stage::new(
        "[[limit]]\nname = \"the-limit\"\nmatch = { host = \"far.invalid\" }\nrequests = 100\nper = \"1s\"\n\n\
         [tls]\nintercept = \"far.invalid\"\n",
    );
    let mut command = stage.exec(&["sh", "-c", script, "sh", "http://far.invalid/a", "https://far.invalid/a"]);
    let output = command.env("LOCKGATE_EXEC_LOG", "exec.log").output().unwrap();
    stage.no_gateway_is_left();
    let log = std::fs::read_to_string(stage.dir.path().join("exec.log")).unwrap();
    (output, log)
}

/// Fails unless the log has `count` counted requests for the path, by each scheme.
#[track_caller]
fn came(log: &str, path: &str, count: usize) {
    for scheme in ["http", "https"] {
        let line = format!("GET {scheme}://far.invalid{path} 502 limits=the-limit");
        assert_eq!(log.matches(&line).count(), count, "{scheme}: {log}");
    }
}

#[test]
fn ruby_goes_through_the_gateway() {
    let path = top().join("tests/clients/unchanged.rb");
    let (output, log) = run_far(&format!("ruby '{}' $1 $2", path.display()));
    assert_eq!(out(&output), "502\n502\n502\n502\n", "{}", err(&output));
    came(&log, "/a", 2);
}

#[test]
fn rubys_gem_goes_through_the_gateway() {
    let (output, log) = run_far("for source; do gem list --remote --clear-sources --source $source/; done");
    assert!(output.status.success(), "{}", err(&output));
    came(&log, "/a/latest_specs.4.8.gz", 1);
}

#[test]
fn go_goes_through_the_gateway() {
    // direnv downloads with Go's own `http.Get`.
    let (output, log) = run_far("for url; do direnv fetchurl $url; done");
    assert_eq!(err(&output).matches("expected status code 200 but got 502").count(), 2, "{}", err(&output));
    came(&log, "/a", 1);
}

#[test]
fn dotnet_goes_through_the_gateway() {
    Yard::new().all_go_well(5, |base| {
        let mut command = python("unchanged_dotnet.py");
        command.args([base, "3"]);
        command
    });
}

#[test]
fn guzzle_goes_through_the_gateway() {
    let path = top().join("tests/clients/unchanged_guzzle.php");
    Yard::new().all_go_well(7, |base| {
        let mut command = Command::new("php");
        command.arg(&path).args([base, "3"]);
        command
    });
}

#[test]
fn haskell_goes_through_the_gateway() {
    // Stack asks for its snapshot first.
    Yard::new().all_are_asked(|base| {
        let mut command = Command::new("stack");
        command.args(["unpack", "--system-ghc", "--no-install-ghc", "--resolver", &format!("{base}/a.yaml"), "none-1"]);
        command
    });
}
