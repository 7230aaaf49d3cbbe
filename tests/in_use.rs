//! Programs and servers that break behind other proxies, as their users run them: real ones, and what they printed.

use std::collections::HashSet;
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::admin::{json, watched};
use crate::programs::{node, pinned_node};
use crate::support::certs::Fault;
use crate::support::gateway::{Dir, PROGRAM};
use crate::support::processes::{ENVIRONMENT, Server, finish, python, spawn, start};
use crate::support::program::{err, out};
use crate::support::stage::{Before, counted, opens};
use crate::support::yard::Yard;
use crate::support::*;

/// curl with a proxy, which prints the content of the answers and the status of the last.
fn curl(gateway: &Gateway, args: &[&str]) -> String {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "60", "--write-out", " %{http_code} "]);
    command.arg("--proxy").arg(format!("http://{}", gateway.addr)).args(args);
    finish(start(command))
}

/// A Python of the tests' with a program in an argument.
fn script(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(python("").get_program());
    command.args(["-c", program]).args(args);
    command
}

/// An origin whose connections log in by NTLM, and that tells who has: with valid messages, which curl reads.
fn ntlm() -> Origin {
    let logins: Mutex<(HashSet<usize>, HashSet<usize>)> = Mutex::default();
    // Message 2: its kind, no target name, flags (OEM, NTLM), a challenge, and the end of the head.
    let mut challenge = b"NTLMSSP\0\x02\0\0\0\0\0\0\0\x30\0\0\0\x02\x02\0\0CHALLENG".to_vec();
    challenge.resize(48, 0);
    let challenge = STANDARD.encode(challenge);
    Origin::scripted(move |request, link| {
        link.read_body();
        let (challenged, done) = &mut *logins.lock().unwrap();
        let token = request.field("authorization").and_then(|given| given.strip_prefix("NTLM ")).unwrap_or_default();
        let kind = STANDARD.decode(token).ok().and_then(|message| message.get(8).copied());
        match kind {
            Some(1) => _ = challenged.insert(request.connection),
            Some(3) if challenged.contains(&request.connection) => _ = done.insert(request.connection),
            _ => {}
        }
        if done.contains(&request.connection) {
            return link.answer(200, "alice");
        }
        let asked = if kind == Some(1) { format!("NTLM {challenge}") } else { "NTLM".to_owned() };
        link.send(format!("HTTP/1.1 401 Who\r\nWWW-Authenticate: {asked}\r\nContent-Length: 0\r\n\r\n"));
        Next::Keep
    })
}

#[test]
fn curl_logs_in_by_ntlm_and_the_next_caller_is_not_logged_in() {
    let origin = ntlm();
    // On one core, all callers share the connections that may be shared.
    let stage = Before::new().gateway_on_one_core(UNLIMITED, &[1]);
    let urls = [origin.url("/1"), origin.url("/2")];
    assert_eq!(curl(&stage.gateway, &["--ntlm", "--user", "alice:x", &urls[0], &urls[1]]), "alice 200 alice 200 ");
    assert_eq!(curl(&stage.gateway, &[&urls[0]]), " 401 ");
}

#[test]
fn requests_gets_the_answer_and_not_the_hint_before_it() {
    let yard = Yard::new();
    let program = "import requests, sys; s = requests.Session()\n\
        for path in sys.argv[2:]: r = s.get(sys.argv[1] + path); print(r.status_code, r.text)";
    let printed = yard.prints(&script(program, &[&yard.secure.url(""), "/interim", "/next", "/interim", "/last"]));
    assert_eq!(printed, "200 after\n200 /next\n200 after\n200 /last\n");
}

#[test]
fn curl_is_answered_for_targets_with_bytes_that_no_target_should_have() {
    let yard = Yard::new();
    let targets = ["/q?symbols=[\"A\",\"B\"]", "/q?a<b", "/`x`", "/caf\u{e9}"];
    let wanted = ["/q?symbols=[\"A\",\"B\"]", "/q?a<b", "/`x`", "/caf%C3%A9"];
    for base in [yard.plain_base(), yard.secure.url("")] {
        for (target, wanted) in targets.iter().zip(wanted) {
            let mut command = Command::new("curl");
            command.args(["--silent", "--show-error", "--globoff", "--fail", "--http1.1", &format!("{base}{target}")]);
            // In a tunnel curl encodes UTF-8 by itself, in lower case.
            assert_eq!(yard.prints(&command).replace("%c3%a9", "%C3%A9"), wanted, "{base}");
        }
    }
}

#[test]
fn axios_is_sent_to_a_gateway_that_is_not_on_loopback_once() {
    let before = Before::new();
    let plain = Origin::scripted(echo);
    let [secure, closed] = [0; 2].map(|_| Origin2::start(before.authority.both_config(Fault::None)));
    // Another address than those that NO_PROXY has by default.
    let toml = format!("[listen]\nproxy = \"127.0.0.2:{}\"\n\n", free_port())
        + &counted(1000, "1s", "")
        + &opens(&[&secure.name()], &[secure.port(), closed.port()], &before.trust);
    let trust = before.trust.clone();
    let yard = Yard { stage: before.gateway_with(&toml), plain, secure, closed, trust, options: &[] };
    for base in [yard.plain_base(), yard.secure.url(""), yard.closed.url("")] {
        let command = node(pinned_node(), "library.mjs", &["axios", &format!("{base}/a")]);
        assert_eq!(yard.prints(&command).trim(), "200 /a", "{base}");
    }
    yard.all_came(1);
}

/// The tests' gRPC server without TLS, a gateway with a route to it, and a client of it that runs to a good end.
#[track_caller]
fn calls_grpc(toml: &str, client: &str) -> Gateway {
    let mut serve = python("grpc_plain.py");
    serve.arg("serve");
    let server = Server::start(serve);
    let route = format!("[[route]]\npath = \"/\"\nto = \"h2c://{}/\"\n\n", server.name());
    let gateway = Gateway::start(&(route + toml));
    let mut call = python("grpc_plain.py");
    call.args([client, &format!("127.0.0.1:{}", gateway.addr.port())]);
    assert_eq!(finish(start(call)), "well\n");
    gateway
}

#[test]
fn a_grpc_client_is_told_that_a_limit_is_exhausted_and_when_to_come_back() {
    calls_grpc(&counted(1, "1h", "when_full = \"refuse\""), "refused");
}

#[test]
fn a_grpc_client_that_retries_when_told_is_served_in_the_end() {
    let gateway = calls_grpc(&counted(2, "3s", "when_full = \"refuse\""), "retried");
    let refused = gateway.lines().iter().filter(|line| line.contains("full")).count();
    assert!(refused >= 2, "four calls at one time: {:?}", gateway.lines());
}

#[test]
fn a_stream_of_grpc_that_is_silent_for_longer_than_a_connection_may_be_idle_goes_on() {
    calls_grpc(&format!("{UNLIMITED}[timeouts]\nidle = \"200ms\"\n"), "quiet");
}

#[test]
fn the_log_says_that_httpx_and_requests_give_up_sooner_than_they_could_be_served() {
    let program = "import sys, httpx, requests, threading\n\
        def call(get):\n    \
            try: get(sys.argv[1], timeout=0.5)\n    \
            except (httpx.TimeoutException, requests.Timeout): pass\n\
        all = [threading.Thread(target=call, args=[get]) for get in [httpx.get, requests.get] * 4]\n\
        [one.start() for one in all]; [one.join() for one in all]";
    let origin = Origin::start();
    let (gateway, admin) = watched(&limit(1, "1h", "max_wait = \"12h\""), "");
    assert_eq!(gateway.get(&origin.url("/first")).status, 200);
    let shown = || !json(admin, "/v1/limits/the-limit")["hang_ups"].is_null();
    // A busy machine makes some of the waits longer, so that they show no pattern.
    for _ in 0..30 {
        if shown() {
            break;
        }
        let mut command = script(program, &[&origin.url("/")]);
        ENVIRONMENT.iter().for_each(|name| _ = command.env_remove(name));
        command.env("http_proxy", format!("http://{}", gateway.addr));
        finish(spawn(command));
    }
    assert!(shown());
    gateway.complains("hang up after");
    assert!(gateway.stderr().contains("while max_wait is 12h: give them a longer time-out"), "{}", gateway.stderr());
    assert_eq!(origin.count(), 1);
}

/// A server in a process of its own that prints no port; ended when dropped.
struct Daemon(Child);

impl Daemon {
    /// Starts it, and returns when it listens at `port`.
    #[track_caller]
    fn start(command: &mut Command, port: u16) -> Daemon {
        let daemon = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        let daemon = Daemon(daemon.unwrap_or_else(|e| panic!("{command:?}: {e}: run tests/run, which installs it")));
        eventually("it listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        daemon
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// nginx with a compressible document.
#[track_caller]
fn nginx(dir: &Dir, port: u16) -> Daemon {
    dir.write("data.json", &"{\"a\": 1}".repeat(1000));
    let root = dir.path().display();
    let file = format!(
        "daemon off; master_process off; pid {root}/nginx.pid; error_log stderr crit; events {{}}\n\
         http {{ access_log off; types {{ application/json json; }} gzip on; gzip_types application/json;\n\
         client_body_temp_path {root}; proxy_temp_path {root}; fastcgi_temp_path {root}; uwsgi_temp_path {root};\n\
         scgi_temp_path {root}; server {{ listen 127.0.0.1:{port}; root {root}; }} }}\n"
    );
    let file = dir.write("nginx.conf", &file);
    Daemon::start(Command::new("nginx").arg("-e").arg("stderr").arg("-c").arg(file), port)
}

#[test]
fn nginx_compresses_as_it_does_without_a_gateway_if_no_via_tells_it_of_one() {
    let (dir, port) = (Dir::new(), free_port());
    let _nginx = nginx(&dir, port);
    let url = format!("http://127.0.0.1:{port}/data.json");
    let coded = |gateway: &Gateway| {
        let head = curl(gateway, &["--head", "--header", "Accept-Encoding: gzip", &url]);
        head.to_lowercase().contains("content-encoding: gzip")
    };
    let gateway = Gateway::start(&format!("{UNLIMITED}[http]\nvia_to_origins = false\n"));
    assert!(coded(&gateway), "without Via");
    assert!(gateway.reload(UNLIMITED));
    assert!(!coded(&gateway), "RFC 9110 section 7.6.3 asks for Via, at which nginx compresses nothing by default");
}

#[test]
fn callers_behind_haproxy_are_told_apart() {
    let origin = Origin::start();
    let listen = "[listen]\nproxy = \"127.0.0.1:0\"\nproxy_protocol_from = [\"127.0.0.2\"]\n\n\
        [access]\nallow_from = [\"127.0.0.0/8\"]\n\n";
    let each = limit(1, "1h", "key = [\"caller\"]\nwhen_full = \"refuse\"");
    for version in ["send-proxy", "send-proxy-v2"] {
        let gateway = Gateway::start(&format!("{listen}{each}"));
        let (dir, port) = (Dir::new(), free_port());
        let file = format!(
            "defaults\n mode tcp\n timeout connect 30s\n timeout client 1m\n timeout server 1m\n\n\
             listen in\n bind 127.0.0.1:{port}\n source 127.0.0.2\n server gw {} {version}\n",
            gateway.addr
        );
        let file = dir.write("haproxy.cfg", &file);
        let _haproxy = Daemon::start(Command::new("haproxy").arg("-q").arg("-f").arg(file), port);
        let from = |address: &str| {
            let mut command = Command::new("curl");
            command.args(["--silent", "--max-time", "60", "--output", "/dev/null", "--write-out", "%{http_code}"]);
            command.args(["--interface", address, "--proxy", &format!("http://127.0.0.1:{port}"), &origin.url("/")]);
            finish(start(command))
        };
        let statuses = ["127.0.0.7", "127.0.0.7", "127.0.0.8"].map(from);
        assert_eq!(statuses, ["200", "429", "200"], "{version}");
        gateway.log_line(" 127.0.0.7 GET");
    }
}

/// Runs the program in a folder that is mounted read-only, as a ConfigMap of Kubernetes is.
fn read_only(dir: &Dir, program: &str) -> Command {
    let mut command = Command::new("unshare");
    let mount = "mount --bind . . && mount -o remount,bind,ro . && cd \"$PWD\" && exec \"$@\"";
    command.args(["--map-root-user", "--mount", "sh", "-c", mount, "sh", program, "run", "-c", "proxy.toml"]);
    command.current_dir(dir.path()).env_remove("LOCKGATE_CONFIG").stdin(Stdio::null());
    command
}

#[test]
fn a_gateway_in_a_read_only_folder_says_which_key_it_needs_and_starts_with_it() {
    let (dir, state) = (Dir::new(), Dir::new());
    let listen = format!("[listen]\nproxy = \"127.0.0.1:0\"\n\n{UNLIMITED}");
    dir.write("proxy.toml", &listen);
    let output = read_only(&dir, PROGRAM).output().unwrap();
    let told = format!("{}{}", out(&output), err(&output));
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("the state folder") && told.contains("Read-only"), "{told}");
    assert!(told.contains("name another folder in [state] dir"), "{told}");
    let elsewhere = state.path().join("state");
    dir.write("proxy.toml", &format!("{listen}[state]\ndir = {elsewhere:?}\n"));
    let origin = Origin::start();
    let gateway = Gateway::start_by(&mut read_only(&dir, PROGRAM), Arc::new(dir));
    assert_eq!(gateway.get(&origin.url("/")).status, 200);
    assert!(elsewhere.join("lock").exists());
}
