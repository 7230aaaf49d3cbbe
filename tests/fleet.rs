//! A fleet of processes under `lockgate exec`, unchanged, against an https origin: never more than the limit, and no error.

use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use crate::support::certs::Fault;
use crate::support::gateway::PROGRAM;
use crate::support::processes::{finish, python, start};
use crate::support::stage::{Before, Stage, counted, opens};
use crate::support::*;

const PER: Duration = Duration::from_secs(1);

/// 100 requests in any second, judged at the origin's own door.
#[track_caller]
fn hundred_per_second() -> (Stage, Origin2) {
    let before = Before::new();
    let origin = Origin2::start(before.authority.both_config(Fault::None));
    let listen = format!("[listen]\nproxy = \"127.0.0.1:{}\"\n\n", free_port());
    let limit = counted(100, "1s", "counts = \"answered\"\nmax_wait = \"60s\"");
    let toml = listen + &limit + &opens(&["localhost"], &[origin.port()], &before.trust);
    (before.gateway_with(&toml), origin)
}

#[track_caller]
fn under_exec(dir: &Path, program: &Command) -> Child {
    let mut command = Command::new(PROGRAM);
    command.args(["exec", "-c"]).arg(dir.join("proxy.toml")).arg("--").arg(program.get_program());
    command.args(program.get_args());
    start(command)
}

#[test]
fn ten_processes_with_requests_stay_within_the_limit() {
    const EACH: usize = 30;
    let (stage, origin) = hundred_per_second();
    let fleet: Vec<Child> = (0..10)
        .map(|n| {
            let mut program = python("fleet.py");
            program.arg(origin.url(&format!("/{n}"))).arg(EACH.to_string());
            under_exec(stage.gateway.dir.path(), &program)
        })
        .collect();
    for child in fleet {
        assert_eq!(finish(child).trim(), "well");
    }
    assert_eq!(origin.count(), 10 * EACH, "everything arrived, and once");
    one_window(100, PER, &origin.stamps());
}

#[test]
fn httpx_with_300_requests_on_one_connection_stays_within_the_limit() {
    let (stage, origin) = hundred_per_second();
    let mut program = python("unchanged.py");
    program.args(["httpx-many", &origin.url(""), "300"]);
    assert_eq!(finish(under_exec(stage.gateway.dir.path(), &program)).trim(), "well");
    assert_eq!(origin.count(), 300);
    one_window(100, PER, &origin.stamps());
    eventually("a line of the log for each", || {
        stage.gateway.lines().iter().filter(|line| line.contains("/many/")).count() == 300
    });
}

#[test]
fn h2load_with_100_streams_on_one_connection_stays_within_the_limit() {
    let (stage, origin) = hundred_per_second();
    let mut program = Command::new("h2load");
    program.args(["-n", "300", "-c", "1", "-m", "100", "--connect-to"]);
    program.arg(stage.gateway.addr.to_string());
    let plain = Origin::start();
    // h2load knows no proxies, but a proxy with prior knowledge is called like any other.
    program.arg(format!("http://localhost:{}/h2load", plain.port()));
    let text = finish(start(program));
    assert!(text.contains("300 succeeded, 0 failed, 0 errored, 0 timeout"), "{text}");
    assert!(text.contains("300 2xx, 0 3xx, 0 4xx, 0 5xx"), "{text}");
    assert_eq!((plain.count(), origin.count()), (300, 0));
    one_window(100, PER, &plain.stamps());
}
