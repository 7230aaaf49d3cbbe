//! Real callers, unchanged, in processes of their own: through the forward proxy, through tunnels, and many at once.

use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

use crate::support::certs::{Authority, Fault};
use crate::support::gateway::Dir;
use crate::support::processes::{ENVIRONMENT, Server, finish, need, python, spawn, start, top};
use crate::support::*;

/// Where programs call: the gateway, and an origin plain and with TLS.
pub(crate) struct Stage {
    pub(crate) gateway: Gateway,
    pub(crate) plain: Origin,
    pub(crate) secure: Origin,
    pub(crate) ca: PathBuf,
}

impl Stage {
    pub(crate) fn new(toml: &str) -> Stage {
        let authority = Authority::new();
        let dir = Dir::new();
        let ca = authority.write(dir.path());
        let plain = Origin::scripted(echo);
        let secure = Origin::scripted_tls(authority.server_config(Fault::None), echo);
        let access = format!("[access]\nconnect_ports = [{}]\n", secure.port());
        Stage { gateway: Gateway::start_in(dir, &format!("{toml}{access}")), plain, secure, ca }
    }

    fn proxy(&self) -> String {
        format!("http://{}", self.gateway.addr)
    }

    /// Base URLs: plain, secure (or `-` for plain calls alone).
    pub(crate) fn urls(&self, secure: &str) -> [String; 2] {
        let secure = if secure == "-" { "-".to_owned() } else { format!("https://localhost:{}", self.secure.port()) };
        [self.plain.url(""), secure]
    }

    fn python(&self, library: &str, secure: &str, count: usize) -> Command {
        self.python_by(&self.proxy(), library, secure, count)
    }

    /// Calls through the proxy of this URL.
    pub(crate) fn python_by(&self, proxy: &str, library: &str, secure: &str, count: usize) -> Command {
        let python = top().join(".venv/bin/python");
        need(&python, "the Python libraries of the tests");
        let mut command = Command::new(python);
        command.arg(top().join("tests/clients/caller.py")).args([library, proxy]);
        command.args(self.urls(secure)).arg(&self.ca).arg(count.to_string());
        command
    }

    fn node(&self, kind: &str, secure: &str, count: usize) -> Command {
        need(&top().join("tests/clients/node/node_modules/undici"), "the Node libraries of the tests");
        let mut command = Command::new("node");
        command.arg(top().join("tests/clients/node/caller.mjs")).args([kind, &self.proxy()]);
        command.args(self.urls(secure)).arg(&self.ca).arg(count.to_string());
        command
    }

    fn java(&self, secure: &str, count: usize) -> Command {
        let mut command = Command::new("java");
        command.args(["-XX:TieredStopAtLevel=1", "-Xshare:auto"]).arg(top().join("tests/clients/Caller.java"));
        command.arg(self.gateway.addr.ip().to_string()).arg(self.gateway.addr.port().to_string());
        command.args(self.urls(secure)).arg(&self.ca).arg(count.to_string());
        command
    }

    fn curl(&self, args: &[&str]) -> Command {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--fail", "--max-time", "60", "--proxy", &self.proxy()]);
        command.arg("--cacert").arg(&self.ca).args(args);
        command
    }
}

#[track_caller]
pub(crate) fn goes_well(command: Command) {
    let text = finish(start(command));
    assert_eq!(text.trim(), "well");
}

#[test]
fn curl_calls_in_plain_and_through_tunnels() {
    let stage = Stage::new(UNLIMITED);
    let [plain, secure] = stage.urls("both");
    for base in [plain, secure] {
        let text = finish(start(stage.curl(&[&format!("{base}/a?b"), &format!("{base}/c")])));
        assert_eq!(text, "/a?b/c");
        let text = finish(start(stage.curl(&["--data-binary", "hello", &format!("{base}/post")])));
        assert_eq!(text, "hello");
    }
    let large = stage.gateway.dir.write("large", &"z".repeat(3_000_000));
    let upload = format!("@{}", large.display());
    let url = stage.plain.url("/post");
    // curl asks with Expect: 100-continue before it sends this much.
    let text = finish(start(stage.curl(&["--data-binary", &upload, "-H", "Transfer-Encoding: chunked", &url])));
    assert_eq!(text.len(), 3_000_000);
}

#[test]
fn curl_speaks_http_1_0_and_asks_for_heads() {
    let stage = Stage::new(UNLIMITED);
    let url = stage.plain.url("/old");
    assert_eq!(finish(start(stage.curl(&["--http1.0", &url]))), "/old");
    let head = finish(start(stage.curl(&["--head", &url])));
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
}

#[test]
fn programs_that_know_nothing_of_the_gateway_follow_their_environment() {
    let stage = Stage::new(UNLIMITED);
    let url = stage.plain.url("/unchanged");
    let mut python = Command::new(top().join(".venv/bin/python"));
    python.args(["-c", "import requests, sys; print(requests.get(sys.argv[1]).text)", &url]);
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--fail", &url]);
    for mut command in [python, curl] {
        ENVIRONMENT.iter().for_each(|name| _ = command.env_remove(name));
        command.env("http_proxy", stage.proxy()).env("https_proxy", stage.proxy());
        assert_eq!(finish(spawn(command)).trim(), "/unchanged");
    }
    assert_eq!(stage.plain.requests().iter().filter(|r| r.field("via") == Some("1.1 lockgate")).count(), 2);
}

#[test]
fn requests_calls_in_plain_and_through_tunnels() {
    let stage = Stage::new(UNLIMITED);
    goes_well(stage.python("requests", "both", 5));
}

#[test]
fn httpx_calls_in_plain_and_through_tunnels() {
    let stage = Stage::new(UNLIMITED);
    goes_well(stage.python("httpx", "both", 5));
}

#[test]
fn urllib3_calls_in_plain_and_through_tunnels() {
    let stage = Stage::new(UNLIMITED);
    goes_well(stage.python("urllib3", "both", 5));
}

#[test]
fn pythons_own_urllib_calls_in_plain_and_through_tunnels() {
    let stage = Stage::new(UNLIMITED);
    goes_well(stage.python("urllib", "both", 5));
}

#[test]
fn aiohttp_calls_in_plain_and_through_tunnels() {
    let stage = Stage::new(UNLIMITED);
    goes_well(stage.python("aiohttp", "both", 20));
}

#[test]
fn nodes_fetch_calls_through_tunnels() {
    let stage = Stage::new(UNLIMITED);
    goes_well(stage.node("fetch", "both", 10));
}

#[test]
fn plain_requests_that_nodes_fetch_tunnels_are_counted_one_by_one() {
    let stage = Stage::new(&limit(3, "1h", "when_full = \"refuse\""));
    let text = finish(start(stage.node("statuses", "-", 5)));
    assert_eq!(text.trim(), "200 200 200 429 429");
    assert!(stage.gateway.lines().iter().any(|line| line.contains("CONNECT")), "it tunnels them");
}

#[test]
fn curl_tunnels_plain_requests_and_each_is_counted() {
    let stage = Stage::new(&limit(3, "1h", "when_full = \"refuse\""));
    let urls: Vec<String> = (0..3).map(|n| stage.plain.url(&format!("/{n}"))).collect();
    let args: Vec<&str> = ["--proxytunnel"].into_iter().chain(urls.iter().map(String::as_str)).collect();
    assert_eq!(finish(start(stage.curl(&args))), "/0/1/2");
    let status = finish(start(stage.curl(&[
        "--proxytunnel",
        "--no-fail",
        "--output",
        "/dev/null",
        "--write-out",
        "%{http_connect} %{http_code}",
        &urls[0],
    ])));
    assert_eq!(status, "200 429");
}

#[test]
fn a_plain_websocket_in_a_tunnel_is_counted_once() {
    let server = Server::start(python("websocket_server.py"));
    let stage = Stage::new(&limit(1, "1h", "when_full = \"refuse\"").replace("127.0.0.1", "localhost"));
    let call = || {
        let mut command = python("unchanged.py");
        command.args(["websockets", &format!("http://{}", server.name()), "5"]);
        ENVIRONMENT.iter().for_each(|name| _ = command.env_remove(name));
        command.env("ws_proxy", stage.proxy()).env("http_proxy", stage.proxy()).env("no_proxy", "");
        spawn(command).wait_with_output().unwrap()
    };
    let first = call();
    assert_eq!(String::from_utf8_lossy(&first.stdout).trim(), "well", "{}", String::from_utf8_lossy(&first.stderr));
    let second = call();
    assert!(String::from_utf8_lossy(&second.stderr).contains("429"), "{}", String::from_utf8_lossy(&second.stderr));
    stage.gateway.log_line("CONNECT");
}

#[test]
fn nodes_fetch_calls_with_absolute_targets() {
    let stage = Stage::new(UNLIMITED);
    goes_well(stage.node("forward", "both", 10));
}

#[test]
fn nodes_http_module_calls_in_plain_and_through_tunnels() {
    let stage = Stage::new(UNLIMITED);
    goes_well(stage.node("http", "both", 10));
}

#[test]
fn java_calls_in_plain_and_through_tunnels() {
    let stage = Stage::new(UNLIMITED);
    goes_well(stage.java("both", 5));
}

#[test]
fn a_mixed_fleet_of_processes_stays_within_the_limit() {
    const EACH: usize = 8;
    let per = Duration::from_millis(500);
    let stage = Stage::new(&limit(12, "500ms", "max_wait = \"60s\""));
    let mut fleet: Vec<Child> = Vec::new();
    for library in ["requests", "httpx", "urllib3", "urllib", "aiohttp"] {
        fleet.push(start(stage.python(library, "-", EACH)));
    }
    for kind in ["forward", "http"] {
        fleet.push(start(stage.node(kind, "-", EACH)));
    }
    fleet.push(start(stage.java("-", EACH)));
    let urls: Vec<String> = (0..EACH).map(|n| stage.plain.url(&format!("/curl/{n}"))).collect();
    for _ in 0..2 {
        fleet.push(start(stage.curl(&urls.iter().map(String::as_str).collect::<Vec<_>>())));
    }
    let programs = fleet.len();
    for child in fleet {
        finish(child);
    }
    assert_eq!(stage.plain.count(), programs * EACH, "everything arrived, and once");
    one_window(12, per, &stage.plain.stamps());
}
