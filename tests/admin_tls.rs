//! TLS on the admin listener and on that of the lock service: whoever trusts the certificate reaches all that is there.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::certs::{self, Authority, Fault};
use crate::support::gateway::{Dir, PROGRAM};
use crate::support::*;

/// A gateway whose admin listener has TLS, its address, and the authority that vouches for it.
struct Secured {
    gateway: Gateway,
    admin: SocketAddr,
    authority: Authority,
    /// File of the authority's certificate.
    trusted: PathBuf,
    toml: String,
}

impl Secured {
    #[track_caller]
    fn start(rules: &str, more: &str) -> Secured {
        let (authority, dir) = (Authority::new(), Dir::new());
        let trusted = authority.write(dir.path());
        authority.issue(Fault::None).write(dir.path(), "admin");
        let admin = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let tls = "tls = { cert = \"admin.pem\", key = \"admin.key\" }";
        let toml = format!("{rules}\n[admin]\nlisten = \"{admin}\"\n{tls}\n{more}");
        let gateway = Gateway::start_in(dir, &toml);
        Secured { gateway, admin, authority, trusted, toml }
    }

    fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.admin.port())
    }

    /// Asks by curl with these arguments; the content, and `VERSION STATUS` of the response.
    #[track_caller]
    fn curl(&self, path: &str, arguments: &[&str]) -> (String, String) {
        let output = curl(&self.trusted, &self.url(path), arguments).output().unwrap();
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{path} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        let (content, last) = told.rsplit_once('\n').unwrap();
        (content.to_owned(), last.to_owned())
    }

    /// A connection with TLS that trusts `authority` alone.
    #[track_caller]
    fn connect(&self, authority: &Authority) -> Caller {
        Caller::connect(self.admin).into_tls("localhost", authority)
    }

    /// Runs `lockgate top --once`: whether it has shown a table, that, and what it complains of.
    fn top(&self, arguments: &[&str]) -> (bool, String, String) {
        let mut command = Command::new(PROGRAM);
        command.args(["top", "--once"]).args(arguments).current_dir(self.gateway.dir.path());
        let output = command.env_remove("LOCKGATE_ADMIN_CREDENTIALS").output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stdout), text(&output.stderr))
    }
}

/// curl that trusts the certificates of this file alone, and prints version and status behind the content.
fn curl(trusted: &Path, url: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "60", "--noproxy", "*", "--cacert"]).arg(trusted);
    command.args(["--write-out", "\n%{http_version} %{http_code}"]).args(arguments).arg(url);
    command
}

#[test]
fn all_that_the_admin_listener_serves_is_served_over_tls_by_both_versions_of_http() {
    let secured = Secured::start(&limit(3, "1s", ""), "");
    for (flag, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
        for (path, holds) in [
            ("/", "<title>"),
            ("/page.js", "EventSource"),
            ("/page.css", "{"),
            ("/metrics", "lockgate_permits_total{limit=\"the-limit\"} 0"),
            ("/healthz", "\"status\":\"ok\""),
            ("/readyz", "\"ready\""),
            ("/v1/limits", "the-limit"),
            ("/v1/history", "interval_ms"),
            ("/v1/warnings", "warnings"),
            ("/v1/openapi.json", "\"openapi\""),
        ] {
            let (content, last) = secured.curl(path, &[flag]);
            assert_eq!(last, format!("{version} 200"), "{path}");
            assert!(content.contains(holds), "{path}: {content}");
        }
        let json = ["-X", "PATCH", "-H", "Content-Type: application/json", "-d", "{\"requests\": 7}"];
        let (content, last) = secured.curl("/v1/limits/the-limit", &[&[flag], &json[..]].concat());
        assert_eq!((last, content.contains("\"requests\":7")), (format!("{version} 200"), true), "{content}");
        // A page of the dashboard may do that, and one of another site may not.
        let origin = format!("Origin: {}", secured.url("").trim_end_matches('/'));
        let reload = |origin: &str| secured.curl("/v1/config/reload", &[flag, "-X", "POST", "-H", origin]).1;
        assert_eq!(reload(&origin), format!("{version} 200"));
        assert_eq!(reload("Origin: https://evil.example"), format!("{version} 403"));
    }
}

#[test]
fn events_are_streamed_over_tls_by_both_versions_of_http() {
    let secured = Secured::start(&limit(3, "1s", ""), "");
    for flag in ["--http1.1", "--http2"] {
        let mut command = curl(&secured.trusted, &secured.url("/v1/events"), &[flag, "--no-buffer"]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let told: Vec<String> = lines.take_while(|line| !line.contains("the-limit")).collect();
        assert_eq!(told.last().map(String::as_str), Some("event: limits"), "{flag}: {told:?}");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

#[test]
fn a_client_that_trusts_another_authority_is_refused_by_its_own_check() {
    let secured = Secured::start(UNLIMITED, "");
    let dir = Dir::new();
    let other = Authority::named("another").write(dir.path());
    let output = curl(&other, &secured.url("/metrics"), &[]).output().unwrap();
    // CURLE_PEER_FAILED_VERIFICATION.
    assert_eq!(output.status.code(), Some(60), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(Caller::connect(secured.admin).into_tls("other.example", &secured.authority).try_handshake().is_err());
}

#[test]
fn a_client_that_speaks_plain_http_is_told_to_write_https() {
    let secured = Secured::start(UNLIMITED, "");
    let mut plain = Caller::connect(secured.admin);
    plain.send(format!("GET /metrics HTTP/1.1\r\nHost: {}\r\n\r\n", secured.admin));
    let answer = plain.answer();
    assert_eq!((answer.status, answer.field("connection")), (400, Some("close")));
    assert!(answer.text().contains("this address speaks TLS: write https://"), "{}", answer.raw);
    plain.expect_end();
    let (shown, _, why) = secured.top(&["--address", &secured.admin.to_string()]);
    assert!(!shown && why.contains("write https:// in the URL"), "{why}");
}

#[test]
fn a_renewed_certificate_is_shown_after_a_reload_and_open_connections_go_on() {
    let secured = Secured::start(&limit(3, "1s", ""), "");
    let get = format!("GET /healthz HTTP/1.1\r\nHost: {}\r\n\r\n", secured.admin);
    let mut kept = secured.connect(&secured.authority);
    assert_eq!(kept.send(&get).answer().status, 200);
    let mut events = secured.connect(&secured.authority);
    events.send(format!("GET /v1/events HTTP/1.1\r\nHost: {}\r\n\r\n", secured.admin));
    assert!(events.head().contains("text/event-stream"));
    // A key that is another certificate's changes nothing.
    let (folder, next) = (secured.gateway.dir.path(), Authority::named("the next one"));
    let renewed = next.issue(Fault::None);
    let key = std::fs::read(folder.join("admin.key")).unwrap();
    renewed.write(folder, "admin");
    std::fs::write(folder.join("admin.key"), &key).unwrap();
    assert!(!secured.gateway.reload(&secured.toml));
    assert!(secured.gateway.stderr().contains("admin.key is not the key of"), "{}", secured.gateway.stderr());
    secured.connect(&secured.authority).shown();
    // The pair together does.
    renewed.write(folder, "admin");
    assert!(secured.gateway.reload(&secured.toml));
    assert!(secured.gateway.stderr().contains("[admin] tls is changed"), "{}", secured.gateway.stderr());
    assert!(!secured.gateway.stderr().contains("[admin] stays as it was"), "{}", secured.gateway.stderr());
    assert_eq!(secured.connect(&next).shown(), [renewed.der]);
    assert!(secured.connect(&secured.authority).try_handshake().is_err());
    assert_eq!(kept.send(&get).answer().status, 200);
    let mut told = String::new();
    while told.matches("event: limits").count() < 2 {
        told.push_str(&String::from_utf8_lossy(&events.bytes(1)));
    }
    // Without the key the listener speaks plain HTTP, as [listen] does.
    let tls = secured.toml.lines().find(|line| line.starts_with("tls = ")).unwrap();
    assert!(secured.gateway.reload(&secured.toml.replace(tls, "")));
    assert_eq!(crate::admin::json(secured.admin, "/healthz")["status"], "ok");
}

#[test]
fn a_listener_that_a_reload_does_not_move_keeps_its_tls_and_one_without_gets_none() {
    let locks = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let pair = "tls = { cert = \"admin.pem\", key = \"admin.key\" }\n";
    let secured = Secured::start(UNLIMITED, &format!("[locks]\nlisten = \"{locks}\"\n{pair}"));
    let (gateway, plain) = (&secured.gateway, secured.toml.replace(pair, ""));
    let elsewhere = |toml: &str| {
        let moved = |toml: String, at: SocketAddr| toml.replace(&at.to_string(), &format!("127.0.0.1:{}", free_port()));
        [secured.admin, locks].into_iter().fold(toml.to_owned(), moved)
    };
    let speak_tls = || {
        secured.connect(&secured.authority).shown();
        Caller::connect(locks).into_tls("localhost", &secured.authority).shown();
    };
    assert!(gateway.reload(&elsewhere(&plain)));
    for section in ["[admin]", "[locks]"] {
        assert!(gateway.stderr().contains(&format!("{section} stays as it was")), "{}", gateway.stderr());
    }
    speak_tls();
    // The next reload compares the file with what is in force.
    assert!(gateway.reload(&secured.toml));
    speak_tls();
    assert!(!gateway.stderr().contains("tls is changed"), "{}", gateway.stderr());
    assert!(gateway.reload(&plain));
    assert!(gateway.reload(&elsewhere(&secured.toml)));
    assert_eq!(crate::admin::json(secured.admin, "/healthz")["status"], "ok");
    assert_eq!(crate::admin::ask(locks, "GET", "/locks/r/none", "").status, 404);
}

#[test]
fn a_process_that_takes_over_serves_tls_at_the_same_address() {
    let secured = Secured::start(UNLIMITED, "");
    let get = format!("GET /readyz HTTP/1.1\r\nHost: {}\r\n\r\n", secured.admin);
    let mut kept = secured.connect(&secured.authority);
    assert_eq!(kept.send(&get).answer().status, 200);
    // Holds the old process.
    let (mut caller, origin) = (secured.gateway.caller(), Origin::start());
    caller.send(format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", origin.url("/"))).answer();
    secured.gateway.hand_over();
    for flag in ["--http1.1", "--http2"] {
        assert!(secured.curl("/readyz", &[flag]).0.contains("ready"));
    }
}

#[test]
fn a_browser_on_http2_is_told_to_leave_when_another_process_takes_over() {
    let secured = Secured::start(UNLIMITED, "");
    let browser = Caller2::tls(secured.admin, "localhost", secured.authority.caller_config());
    let mut events = browser.start(caller2::get(&secured.url("/v1/events")), More::None);
    let (answer, body) = events.try_head().unwrap();
    assert_eq!(answer.status, 200);
    secured.gateway.hand_over();
    assert!(browser.ended().is_ok(), "its connection has ended in order");
    drop(body);
}

#[test]
fn top_reads_the_limits_over_tls_and_says_why_it_does_not() {
    let secured = Secured::start(&limit(4, "1h", ""), "");
    let (url, trusted) = (secured.url(""), secured.trusted.display().to_string());
    // The certificate's authority is named on the command line,
    for arguments in [vec!["--address", &*url, "--cacert", &*trusted], vec!["-c", "proxy.toml", "--cacert", &*trusted]]
    {
        let (shown, table, why) = secured.top(&arguments);
        assert!(shown && table.contains("4 per 1h"), "{arguments:?}: {table}{why}");
    }
    // or nowhere.
    for arguments in [vec!["--address", &*url], vec!["-c", "proxy.toml"]] {
        let (shown, _, why) = secured.top(&arguments);
        assert!(
            !shown && why.contains("its issuer is not trusted") && why.contains("--cacert"),
            "{arguments:?}: {why}"
        );
    }
    let other = format!("https://127.0.0.2:{}", secured.admin.port());
    let (shown, _, why) = secured.top(&["--address", &other, "--cacert", &trusted]);
    assert!(!shown && why.contains("no answer from https://127.0.0.2"), "{why}");
    let (shown, _, why) = secured.top(&["--address", &url, "--cacert", "admin.key"]);
    assert!(!shown && why.contains("--cacert cannot be used: admin.key holds no certificate"), "{why}");
    let plain = format!("https://{}", secured.gateway.addr);
    let (shown, _, why) = secured.top(&["--address", &plain, "--cacert", &trusted]);
    assert!(!shown && why.contains("does the port speak plain http?"), "{why}");
}

#[test]
fn top_trusts_the_certificate_that_the_file_names_whatever_name_it_bears() {
    let dir = Dir::new();
    Authority::new().issue(Fault::SelfSigned).write(dir.path(), "self");
    let made = rcgen::generate_simple_self_signed(vec!["gateway.example".to_owned()]).unwrap();
    dir.write("named.pem", &made.cert.pem());
    certs::private(&dir.write("named.key", &made.signing_key.serialize_pem()));
    let admin = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let toml = |name: &str| {
        let pair = format!("tls = {{ cert = \"{name}.pem\", key = \"{name}.key\" }}");
        format!("{UNLIMITED}\n[admin]\nlisten = \"{admin}\"\n{pair}\n")
    };
    let gateway = Gateway::start_in(dir, &toml("self"));
    for name in ["self", "named"] {
        assert!(gateway.reload(&toml(name)));
        let output = Command::new(PROGRAM).args(["top", "--once"]).current_dir(gateway.dir.path()).output().unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn locks_are_taken_over_tls_and_their_location_says_so() {
    let locks = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let pair = "tls = { cert = \"admin.pem\", key = \"admin.key\" }";
    let secured = Secured::start(UNLIMITED, &format!("[locks]\nlisten = \"{locks}\"\n{pair}\n"));
    let url = format!("https://localhost:{}/locks/db", locks.port());
    let wish = "{\"title\": \"a test\", \"wait\": 0, \"lifetime\": 60}";
    for flag in ["--http1.1", "--http2"] {
        let ask = |url: &str, arguments: &[&str]| {
            let output = curl(&secured.trusted, url, &[&[flag, "--include"], arguments].concat()).output().unwrap();
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        let told = ask(&url, &["-d", wish]);
        let location =
            told.lines().find_map(|line| line.strip_prefix("location: ")).unwrap_or_else(|| panic!("{told}"));
        assert!(location.starts_with(&format!("{url}/")), "{location}");
        assert!(ask(location, &[]).contains("a test"));
        assert!(ask(location, &["-X", "DELETE"]).contains(" 204"));
    }
    let dir = secured.gateway.dir.path();
    let next = Authority::named("the next one");
    next.issue(Fault::None).write(dir, "admin");
    assert!(secured.gateway.reload(&secured.toml));
    assert!(secured.gateway.stderr().contains("[locks] tls is changed"), "{}", secured.gateway.stderr());
    Caller::connect(locks).into_tls("localhost", &next).shown();
}

#[test]
fn the_log_says_on_start_whether_the_admin_listener_has_tls() {
    let secured = Secured::start(UNLIMITED, "[log]\nlevel = \"info\"\n");
    secured.gateway.complains("tls=true");
    let parsed: Value = serde_json::from_str(&secured.curl("/healthz", &[]).0).unwrap();
    assert_eq!(parsed["status"], "ok");
}
