//! Programs that know nothing of the gateway, unchanged, under `lockgate exec`: each of their requests is counted.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Child, Command};

use crate::support::certs::Fault;
use crate::support::gateway::PROGRAM;
use crate::support::processes::{Server, finish, need, python, start, top};
use crate::support::stage::{Before, Stage, counted, opens};
use crate::support::*;

/// A gateway at an address that others can find, and an https origin behind it.
struct Desk {
    stage: Stage,
    origin: Origin2,
}

impl Desk {
    #[track_caller]
    fn new() -> Desk {
        Desk::beside(|_| Vec::new()).0
    }

    /// The same with servers of the test's own, made with a certificate for `localhost`.
    #[track_caller]
    fn beside(servers: impl FnOnce(&Before) -> Vec<Server>) -> (Desk, Vec<Server>) {
        let before = Before::new();
        let origin = Origin2::start(before.authority.both_config(Fault::None));
        let servers = servers(&before);
        let ports: Vec<u16> = servers.iter().map(|s| s.port).chain([origin.port()]).collect();
        let toml = settings(&before, &ports);
        (Desk { stage: before.gateway_with(&toml), origin }, servers)
    }

    fn dir(&self) -> &Path {
        self.stage.gateway.dir.path()
    }

    /// Runs to a good end under `lockgate exec`; what it printed.
    #[track_caller]
    fn run(&self, program: &Command) -> String {
        finish(exec(self.dir(), program))
    }

    #[track_caller]
    fn goes_well(&self, program: &Command) {
        assert_eq!(self.run(program).trim(), "well");
    }

    /// How many requests to `target` the gateway has carried.
    fn carried(&self, target: &str) -> usize {
        self.stage.gateway.lines().iter().filter(|line| line.contains(target) && line.contains("the-limit")).count()
    }

    /// Fails unless everything that arrived went through an opened tunnel, in the version that the caller speaks.
    #[track_caller]
    fn all_were_opened(&self, count: usize, version: &str) {
        let seen = self.origin.seen();
        assert_eq!(seen.len(), count);
        let via = format!("{version} lockgate");
        assert!(seen.iter().all(|one| one.all("via") == [via.as_str()]), "{seen:#?}");
    }
}

/// A configuration with an address of its own.
fn settings(before: &Before, ports: &[u16]) -> String {
    let listen = format!("[listen]\nproxy = \"127.0.0.1:{}\"\n\n", free_port());
    listen + &counted(1000, "1s", "") + &opens(&["localhost"], ports, &before.trust)
}

/// Starts `program` under `lockgate exec` with the configuration in `dir`.
#[track_caller]
fn exec(dir: &Path, program: &Command) -> Child {
    let mut command = Command::new(PROGRAM);
    command.args(["exec", "-c"]).arg(dir.join("proxy.toml")).arg("--").arg(program.get_program());
    command.args(program.get_args()).current_dir(dir);
    command.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
    start(command)
}

fn unchanged(library: &str, base: &str, count: usize) -> Command {
    let mut command = python("unchanged.py");
    command.args([library, base]).arg(count.to_string());
    command
}

fn program(name: &str, args: &[impl AsRef<OsStr>]) -> Command {
    let mut command = Command::new(name);
    command.args(args);
    command
}

/// 4 GETs and 3 POSTs with a library that speaks `version`.
#[track_caller]
fn calls_well(library: &str, version: &str, rounds: usize) {
    let desk = Desk::new();
    desk.goes_well(&unchanged(library, &desk.origin.url(""), 4));
    desk.all_were_opened(rounds * 7, version);
    assert_eq!(desk.carried(&format!("/{library}/3")), rounds);
}

#[test]
fn requests_is_counted_request_by_request() {
    calls_well("requests", "1.1", 2);
}

#[test]
fn httpx_is_counted_request_by_request() {
    calls_well("httpx", "1.1", 1);
}

#[test]
fn httpx_with_http2_is_counted_request_by_request() {
    calls_well("httpx2", "2.0", 1);
}

#[test]
fn urllib3_is_counted_request_by_request() {
    calls_well("urllib3", "1.1", 1);
}

#[test]
fn pythons_own_urllib_is_counted_request_by_request() {
    calls_well("urllib", "1.1", 1);
}

#[test]
fn aiohttp_is_counted_request_by_request() {
    calls_well("aiohttp", "1.1", 1);
}

#[test]
fn curl_is_counted_request_by_request_in_both_versions() {
    let desk = Desk::new();
    let urls = [desk.origin.url("/a"), desk.origin.url("/b")];
    for (option, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let args =
            ["--silent", "--show-error", "--fail", "--write-out", " %{http_version} ", option, &urls[0], &urls[1]];
        let text = desk.run(&program("curl", &args));
        assert_eq!(text, format!("/a {version} /b {version} "));
    }
    let large = desk.stage.gateway.dir.write("large", &"z".repeat(3_000_000));
    let upload = format!("@{}", large.display());
    let text = desk.run(&program("curl", &["--silent", "--show-error", "--fail", "--data-binary", &upload, &urls[0]]));
    assert_eq!(text.len(), 3_000_000);
    let versions: Vec<String> = desk.origin.seen().iter().map(|one| one.all("via").join(",")).collect();
    assert_eq!(versions[..4], ["1.1 lockgate", "1.1 lockgate", "2.0 lockgate", "2.0 lockgate"]);
}

#[test]
fn a_websocket_passes_and_is_counted_once() {
    let (desk, servers) = Desk::beside(|before| {
        let (cert, key) = before.authority.issue(Fault::None).write(before.dir.path(), "socket");
        let mut command = python("websocket_server.py");
        command.arg(cert).arg(key);
        vec![Server::start(command)]
    });
    let base = format!("https://{}", servers[0].name());
    desk.goes_well(&unchanged("websockets", &base, 20));
    eventually("it is one line of the log", || desk.carried(&servers[0].name()) == 1);
}

#[test]
fn grpc_calls_are_counted_one_by_one() {
    let desk = Desk::new();
    desk.goes_well(&unchanged("grpc", &desk.origin.url(""), 5));
    desk.all_were_opened(6, "2.0");
    assert_eq!(desk.carried("/grpc.Echo/Unary"), 5);
}

#[test]
fn node_is_counted_request_by_request() {
    let node = top().join("tests/clients/node/node_modules/.bin/node");
    need(&node, "a Node that knows NODE_USE_ENV_PROXY, and its libraries,");
    let desk = Desk::new();
    let mut command = Command::new(node);
    command.arg(top().join("tests/clients/node/unchanged.mjs")).args([&desk.origin.url(""), "10"]);
    desk.goes_well(&command);
    // fetch: 10 + 2; requests of the module https: 4 kinds of 10, and 2.
    desk.all_were_opened(54, "1.1");
}

#[test]
fn java_is_counted_request_by_request_in_both_versions() {
    let desk = Desk::new();
    let mut command = Command::new("java");
    command.args(["-XX:TieredStopAtLevel=1", "-Xshare:auto"]).arg(top().join("tests/clients/Unchanged.java"));
    command.args([&desk.origin.url(""), "5"]);
    desk.goes_well(&command);
    let seen = desk.origin.seen();
    let of = |via: &str| seen.iter().filter(|one| one.all("via") == [via]).count();
    assert_eq!((of("1.1 lockgate"), of("2.0 lockgate")), (7, 7));
}

#[test]
fn git_clones_and_pushes_over_https() {
    let (desk, servers) = Desk::beside(|before| {
        let (cert, key) = before.authority.issue(Fault::None).write(before.dir.path(), "git");
        let root = before.dir.path().join("repositories");
        finish(start(program(
            "git",
            &["init", "--quiet", "--bare", "-b", "main", &root.join("a.git").display().to_string()],
        )));
        let mut command = python("git_server.py");
        command.arg(cert).arg(key).arg(root);
        vec![Server::start(command)]
    });
    let url = format!("https://{}/a.git", servers[0].name());
    let (first, second) = (desk.dir().join("first"), desk.dir().join("second"));
    let git = |dir: &Path, args: &[&str]| {
        let mut command = Command::new("git");
        command.arg("-C").arg(dir).args(["-c", "user.name=a", "-c", "user.email=a@b.example"]).args(args);
        command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_TERMINAL_PROMPT", "0");
        desk.run(&command)
    };
    git(desk.dir(), &["clone", "--quiet", &url, "first"]);
    // Large enough that git sends it in chunks.
    let noise: String = (0..400_000_u64).map(|n| format!("{:x}\n", n.wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect();
    std::fs::write(first.join("noise"), &noise).unwrap();
    git(&first, &["add", "noise"]);
    git(&first, &["commit", "--quiet", "-m", "noise"]);
    // By HTTP/1.1: libcurl before 8.2 (Debian 12 has 7.88) reads the end of a chunked upload from git and now and then does not
    // send it by HTTP/2, where the window ran out shortly before (curl/curl#11342). The clones are by HTTP/2.
    git(&first, &["-c", "http.version=HTTP/1.1", "push", "--quiet", "origin", "HEAD:main"]);
    git(desk.dir(), &["clone", "--quiet", "--branch", "main", &url, "second"]);
    assert!(std::fs::read_to_string(second.join("noise")).unwrap() == noise);
    assert!(desk.carried("/a.git/git-receive-pack") >= 1 && desk.carried("/a.git/git-upload-pack") >= 1);
}

#[test]
fn a_gateway_that_is_started_for_the_program_counts_request_by_request() {
    let before = Before::new();
    let origin = Origin2::start(before.authority.both_config(Fault::None));
    let toml = settings(&before, &[origin.port()]);
    before.dir.write("proxy.toml", &toml);
    let text = finish(exec(before.dir.path(), &unchanged("requests", &origin.url(""), 2)));
    assert!(text.ends_with("well\n"), "{text}");
    assert_eq!(text.trim(), "well", "what the gateway says does not mix with what the program says");
    assert!(origin.seen().iter().all(|one| one.all("via") == ["1.1 lockgate"]) && origin.count() == 10);
}
