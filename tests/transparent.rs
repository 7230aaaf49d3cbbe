//! Redirected callers, who know of no gateway: counted by the host that they name, if it has the address they call.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use crate::support::certs::{self, Authority};
use crate::support::gateway::{Dir, PROGRAM};
use crate::support::network::{Machine, Row, succeed};
use crate::support::stage::{ca_of, get};
use crate::support::*;

const FULL: &str = "when_full = \"refuse\"";

/// Port of the listener for redirected connections.
const PORT: u16 = 8079;

/// A limit on the hosts of these tests.
fn named(requests: u32, more: &str) -> String {
    format!(
        "[[limit]]\nname = \"the-limit\"\nmatch = {{ host = [\"api.test\", \"six.test\", \"10.77.2.2\"] }}\nrequests = {requests}\nper = \"1h\"\n{more}\n\n"
    )
}

/// Addresses of names, as the gateway finds them.
const HOSTS: &str =
    "127.0.0.1 localhost\n10.77.2.2 api.test other.test\nfd77:2::2 six.test\n10.77.2.9 elsewhere.test\n";

/// Machines in a row, with a gateway that takes redirected connections of the callers.
struct Stage {
    row: Row,
    gateway: Gateway,
}

impl Stage {
    #[track_caller]
    fn new(toml: &str) -> Stage {
        Stage::in_dir(Dir::new(), toml)
    }

    #[track_caller]
    fn in_dir(dir: Dir, toml: &str) -> Stage {
        let listen = format!("transparent = [\"0.0.0.0:{PORT}\", \"[::]:{PORT}\"]");
        let stage = Stage::listening(dir, &listen, toml);
        stage.row.gateway.nft(&stage.rules(&["--all-ports"]));
        stage
    }

    /// Without rules yet.
    #[track_caller]
    fn listening(dir: Dir, listen: &str, toml: &str) -> Stage {
        let row = Row::new();
        let hosts = dir.write("hosts", HOSTS);
        let access = if toml.contains("[access]") { "" } else { "[access]\nconnect_ports = [443, 3306, 9000]\n" };
        let from = "allow_from = [\"127.0.0.1\", \"::1\", \"10.77.1.0/24\", \"fd77:1::/64\"]\nallow_addresses = [\"10.77.2.0/24\"]\n";
        let toml = format!("{toml}{access}").replace("[access]\n", &format!("[access]\n{from}"));
        dir.write("proxy.toml", &format!("[listen]\nproxy = \"127.0.0.1:8080\"\n{listen}\n\n{toml}"));
        let mut command = row.gateway.command_with_hosts(&hosts, PROGRAM);
        let gateway = Gateway::start_by(command.args(["run", "-c", "proxy.toml"]), Arc::new(dir));
        Stage { row, gateway }
    }

    /// Rules that `lockgate nft` prints; the gateway runs as root.
    #[track_caller]
    fn rules(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(PROGRAM);
        command.current_dir(self.gateway.dir.path()).args(["nft", "-c", "proxy.toml"]).args(arguments);
        String::from_utf8(succeed(&mut command).stdout).unwrap()
    }

    /// An origin on its machine, at this port.
    #[track_caller]
    fn origin(&self, port: u16) -> Origin {
        self.row.origin.run(|| Origin::at(SocketAddr::from(([0, 0, 0, 0], port)), None, echo))
    }

    /// A caller that has connected to this address.
    #[track_caller]
    fn caller(&self, address: impl Into<SocketAddr>) -> Caller {
        let address = address.into();
        self.row.callers.run(|| Caller::connect(address))
    }

    /// A caller that has connected to the origin's machine.
    #[track_caller]
    fn caller_to(&self, port: u16) -> Caller {
        self.caller(Row::at(port))
    }
}

#[test]
fn plain_http_is_counted_request_by_request_under_the_host_that_it_names() {
    let stage = Stage::new(&named(2, FULL));
    let origin = stage.origin(80);
    let mut caller = stage.caller_to(80);
    for path in ["/1", "/2"] {
        let answer = caller.send(get("api.test", path)).answer();
        assert_eq!((answer.status, answer.text()), (200, path.to_owned()));
    }
    check_ours(&caller.send(get("api.test", "/3")).answer(), 429, "http_request_error");
    let seen = origin.requests();
    assert_eq!(seen.len(), 2);
    assert!(
        seen.iter().all(|seen| seen.field("via") == Some("1.1 lockgate") && seen.field("host") == Some("api.test"))
    );
    stage.gateway.log_line(&format!(" {} GET http://api.test/3 429", Row::CALLERS));
    stage.gateway.log_line("CONNECT api.test:80 200");
    // Another name of the same machine is another host, and this connection is not for it.
    check_ours(&caller.send(get("other.test", "/")).answer(), 421, "http_request_error");
    assert_eq!(stage.caller_to(80).send(get("other.test", "/4")).answer().status, 200);
}

#[test]
fn a_head_that_arrives_byte_by_byte_is_waited_for() {
    let stage = Stage::new(&named(2, FULL));
    let _origin = stage.origin(80);
    let mut caller = stage.caller_to(80);
    for byte in get("api.test", "/slow").bytes() {
        caller.send([byte]);
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(caller.answer().text(), "/slow");
}

#[test]
fn tls_that_stays_closed_is_counted_by_its_server_name() {
    let authority = Authority::new();
    let stage = Stage::new(&named(1, FULL));
    let config = authority.server_config_for(&["api.test", "other.test"]);
    let origin = stage.row.origin.run(|| Origin::at(SocketAddr::from(([0, 0, 0, 0], 443)), Some(config), echo));
    let mut inside = stage.caller_to(443).into_tls("api.test", &authority);
    assert_eq!(inside.send(get("api.test", "/1")).answer().text(), "/1");
    assert_eq!(origin.only().field("via"), None, "no byte of it is changed");
    let mut second = stage.caller_to(443);
    second.send(certs::client_hello("api.test", None));
    assert_eq!(second.bytes(7), [21, 3, 3, 0, 2, 2, 49], "access_denied");
    second.expect_end();
    stage.gateway.log_line("CONNECT api.test:443 429");
    let mut other = stage.caller_to(443).into_tls("other.test", &authority);
    assert_eq!(other.send(get("other.test", "/2")).answer().status, 200, "no limit names it");
}

#[test]
fn tls_to_an_intercepted_host_is_opened_and_its_requests_are_counted() {
    let (authority, dir) = (Authority::new(), Dir::new());
    let trust = authority.write(dir.path());
    let toml = format!("{}[tls]\nintercept = \"api.test\"\nca_dir = \"ca\"\ntrust = [{trust:?}]\n", named(1, FULL));
    let stage = Stage::in_dir(dir, &toml);
    let config = authority.server_config_for(&["api.test"]);
    let origin = stage.row.origin.run(|| Origin::at(SocketAddr::from(([0, 0, 0, 0], 443)), Some(config), echo));
    let trusting = certs::trusting_file(&ca_of(stage.gateway.dir.path()));
    let opened = stage.caller_to(443);
    let mut inside = opened.into_tls_with("api.test", certs::offering(trusting, &["http/1.1"]));
    assert_eq!(inside.send(get("api.test", "/1")).answer().text(), "/1");
    check_ours(&inside.send(get("api.test", "/2")).answer(), 429, "http_request_error");
    assert_eq!(origin.only().field("via"), Some("1.1 lockgate"));
}

#[test]
fn a_host_that_does_not_have_the_address_is_refused() {
    let stage = Stage::new(&named(9, FULL));
    let origin = stage.origin(80);
    for host in ["elsewhere.test", "no-such.test", "10.77.2.9", "api.test:81", "0x7f.1", "a b"] {
        let answer = stage.caller_to(80).send(get(host, "/")).answer();
        assert!([400, 421, 502].contains(&answer.status), "{host}: {}", answer.raw);
    }
    check_ours(&stage.caller_to(80).send(get("elsewhere.test", "/")).answer(), 421, "http_request_error");
    let mut tls = stage.caller_to(443);
    tls.send(certs::client_hello("elsewhere.test", None));
    assert_eq!(tls.bytes(7), [21, 3, 3, 0, 2, 2, 49], "access_denied");
    stage.gateway.log_line("CONNECT 10.77.2.2:443 421");
    assert_eq!(origin.count(), 0);
}

#[test]
fn a_host_that_does_not_have_the_address_may_be_counted_as_the_address() {
    let dir = Dir::new();
    let listen = format!("transparent = [\"0.0.0.0:{PORT}\", \"[::]:{PORT}\"]\ntransparent_mismatch = \"address\"");
    let stage = Stage::listening(dir, &listen, &named(2, FULL));
    stage.row.gateway.nft(&stage.rules(&[]));
    let origin = stage.origin(80);
    let mut caller = stage.caller_to(80);
    for (host, path) in [("elsewhere.test", "/1"), ("api.test", "/2")] {
        assert_eq!(caller.send(get(host, path)).answer().text(), path);
    }
    check_ours(&caller.send(get("elsewhere.test", "/3")).answer(), 429, "http_request_error");
    let seen = origin.requests();
    assert!(seen.iter().all(|seen| seen.field("host") == Some("10.77.2.2")), "a name that is not proved goes nowhere");
    stage.gateway.log_line("GET http://10.77.2.2/1 200");
    // TLS for a host that a limit names is not counted as another.
    let mut tls = stage.caller_to(443);
    tls.send(certs::client_hello("elsewhere.test", None));
    stage.gateway.log_line("CONNECT 10.77.2.2:443");
}

#[test]
fn other_protocols_are_counted_by_the_address_and_their_server_may_speak_first() {
    let stage = Stage::new(&named(2, FULL));
    let listener = stage.row.origin.run(|| TcpListener::bind("0.0.0.0:3306").unwrap());
    let greeting = thread(move || {
        for _ in 0..2 {
            let mut link = listener.accept().unwrap().0;
            std::io::Write::write_all(&mut link, b"220 hello\r\n").unwrap();
            std::io::Read::read(&mut link, &mut [0; 16]).unwrap();
        }
    });
    for _ in 0..2 {
        let mut caller = stage.caller_to(3306);
        assert_eq!(caller.bytes(11), b"220 hello\r\n");
        caller.send("QUIT\r\n");
    }
    greeting.join().unwrap();
    stage.gateway.log_line("CONNECT 10.77.2.2:3306 200");
    stage.caller_to(3306).expect_end();
    stage.gateway.log_line("CONNECT 10.77.2.2:3306 429");
}

#[test]
fn an_origin_that_refuses_breaks_the_connection_as_it_would_without_a_gateway() {
    let stage = Stage::new(UNLIMITED);
    let mut caller = stage.caller_to(9000);
    caller.send("neither\r\n");
    caller.expect_end();
    stage.gateway.log_line("connection_refused");
    let mut web = stage.caller_to(80);
    check_ours(&web.send(get("api.test", "/")).answer(), 502, "connection_refused");
}

#[test]
fn a_caller_that_connects_to_the_listener_itself_is_told_so() {
    let stage = Stage::new(UNLIMITED);
    let mut caller = stage.caller(SocketAddr::new(Row::GATEWAY.parse().unwrap(), PORT));
    let answer = caller.send(get("api.test", "/")).answer();
    check_ours(&answer, 400, "http_request_error");
    assert!(answer.text().contains("redirected"), "{}", answer.text());
    caller.expect_end();
}

#[test]
fn ipv6_is_redirected_too() {
    let stage = Stage::new(&named(1, FULL));
    let there: SocketAddr = format!("[{}]:80", Row::ORIGIN_V6).parse().unwrap();
    let origin = stage.row.origin.run(|| Origin::at("[::]:80".parse().unwrap(), None, echo));
    let mut caller = stage.caller(there);
    assert_eq!(caller.send(get("six.test", "/1")).answer().text(), "/1");
    check_ours(&caller.send(get("six.test", "/2")).answer(), 429, "http_request_error");
    assert_eq!(origin.count(), 1);
}

#[test]
fn quic_is_rejected_at_once_so_that_it_falls_back() {
    let stage = Stage::new(UNLIMITED);
    let server = stage.row.origin.run(|| UdpSocket::bind("0.0.0.0:443").unwrap());
    server.set_nonblocking(true).unwrap();
    for machine in [&stage.row.callers, &stage.row.gateway] {
        // Of the gateway's own user nothing is rejected.
        let is_callers = std::ptr::eq(machine, &raw const stage.row.callers);
        let error = machine.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.connect(Row::at(443)).unwrap();
            socket.send(b"hello").unwrap();
            socket.set_read_timeout(Some(if is_callers { PATIENCE } else { Duration::from_millis(100) })).unwrap();
            socket.recv(&mut [0]).unwrap_err()
        });
        assert_eq!(error.kind() == std::io::ErrorKind::ConnectionRefused, is_callers, "{error}");
    }
}

/// Runs curl on the gateway's machine as a user other than the gateway's; what it printed, and if it went well.
fn curl_as_nobody(stage: &Stage, hosts: &Path, url: &str) -> (String, bool) {
    let mut command = stage.row.gateway.command_with_hosts(hosts, "setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "curl", "--silent", "--max-time", "60"]);
    let output = command.args(["--noproxy", "*", "--fail", url]).output().unwrap();
    (String::from_utf8_lossy(&output.stdout).into_owned(), output.status.success())
}

/// Programs of the gateway's own machine are led to it by these rules, and the gateway's user is not.
fn programs_of_the_machine_are_led(arguments: &[&str], routes: &[&str]) {
    let stage = Stage::listening(
        Dir::public(),
        &format!("transparent = [\"127.0.0.1:{PORT}\", \"[::1]:{PORT}\"]"),
        &named(1, FULL),
    );
    routes.iter().for_each(|route| stage.row.gateway.ip(route));
    stage.row.gateway.nft(&stage.rules(arguments));
    let origin = stage.origin(80);
    let hosts = stage.gateway.dir.path().join("hosts");
    assert_eq!(curl_as_nobody(&stage, &hosts, "http://api.test/1"), ("/1".to_owned(), true));
    assert!(!curl_as_nobody(&stage, &hosts, "http://api.test/2").1, "the limit is used up");
    assert_eq!(origin.only().field("via"), Some("1.1 lockgate"));
    // Root runs this program, as it does the gateway.
    let mut own = stage.row.gateway.run(|| Caller::connect(Row::at(80)));
    assert_eq!(own.send(get("api.test", "/3")).answer().text(), "/3");
    assert_eq!(origin.requests()[1].field("via"), None);
    stage.gateway.log_line(" 127.0.0.1 GET http://api.test/1 200");
}

#[test]
fn programs_of_the_machine_are_led_by_redirect() {
    programs_of_the_machine_are_led(&["--gateway-user", "0"], &[]);
}

#[test]
fn programs_of_one_user_are_led_alone() {
    programs_of_the_machine_are_led(&["--gateway-user", "0", "--of-user", "65534"], &[]);
}

#[test]
fn programs_of_the_machine_are_led_by_tproxy() {
    let routes = ["rule add fwmark 0x6c67 lookup 27751", "route add local 0.0.0.0/0 dev lo table 27751"];
    programs_of_the_machine_are_led(&["--tproxy", "--gateway-user", "0"], &routes);
}

#[test]
fn forwarded_connections_are_led_by_tproxy() {
    let listen = format!("transparent = [\"0.0.0.0:{PORT}\", \"[::]:{PORT}\"]");
    let stage = Stage::listening(Dir::new(), &listen, &named(2, FULL));
    for (six, all) in [("", "0.0.0.0/0"), ("-6 ", "::/0")] {
        stage.row.gateway.ip(&format!("{six}rule add fwmark 0x6c67 lookup 27751"));
        stage.row.gateway.ip(&format!("{six}route add local {all} dev lo table 27751"));
    }
    stage.row.gateway.nft(&stage.rules(&["--tproxy", "--all-ports"]));
    let origin = stage.row.origin.run(|| Origin::at("[::]:80".parse().unwrap(), None, echo));
    let mut caller = stage.caller(format!("[{}]:80", Row::ORIGIN_V6).parse::<SocketAddr>().unwrap());
    assert_eq!(caller.send(get("six.test", "/1")).answer().text(), "/1");
    let four = stage.origin(8081);
    let mut caller = stage.caller_to(8081);
    assert_eq!(caller.send(get("api.test:8081", "/2")).answer().text(), "/2");
    check_ours(&caller.send(get("api.test:8081", "/3")).answer(), 429, "http_request_error");
    assert_eq!((origin.count(), four.count()), (1, 1));
}

#[test]
fn the_listener_is_moved_by_a_reload_and_kept_over_an_upgrade() {
    let stage = Stage::new(&named(9, FULL));
    let _origin = stage.origin(80);
    let ask = |path: &str| stage.caller_to(80).send(get("api.test", path)).answer().text();
    assert_eq!(ask("/1"), "/1");
    let text = std::fs::read_to_string(stage.gateway.dir.path().join("proxy.toml")).unwrap();
    assert!(stage.gateway.reload(&text.replace(&PORT.to_string(), "8078")));
    stage.row.gateway.nft(&stage.rules(&[]));
    assert_eq!(ask("/2"), "/2");
    let before = Row::GATEWAY.parse().unwrap();
    let gone = stage.row.callers.run(|| std::net::TcpStream::connect(SocketAddr::new(before, PORT)));
    assert!(gone.is_err(), "the old one is closed");
    stage.gateway.hand_over();
    assert_eq!(ask("/3"), "/3");
}

#[test]
fn each_set_of_rules_is_one_that_nft_takes() {
    let machine = Machine::new();
    let dir = Dir::new();
    for listen in
        ["\"127.0.0.1:8079\"", "[\"0.0.0.0:8079\", \"[::]:8079\"]", "[\"127.0.0.2:8079\", \"[fd00::1]:8079\"]"]
    {
        dir.write(
            "proxy.toml",
            &format!("[listen]\ntransparent = {listen}\n[access]\nallow_from = \"127.0.0.1\"\n{UNLIMITED}"),
        );
        for arguments in [
            &["--gateway-user", "0"][..],
            &["--gateway-user", "root", "--of-user", "65534", "--ports", "80,443,8080"],
            &["--gateway-user", "0", "--all-ports"],
            &["--gateway-user", "0", "--tproxy"],
            &["--gateway-user", "0", "--tproxy", "--all-ports", "--of-user", "65534"],
        ] {
            let mut command = Command::new(PROGRAM);
            command.current_dir(dir.path()).args(["nft", "-c", "proxy.toml"]).args(arguments);
            let rules = dir.write("rules", &String::from_utf8(succeed(&mut command).stdout).unwrap());
            let mut check = machine.command("nft");
            succeed(check.arg("--check").arg("-f").arg(&rules));
            // Loading replaces the rules before.
            let mut load = machine.command("nft");
            succeed(load.arg("-f").arg(&rules));
        }
    }
}
