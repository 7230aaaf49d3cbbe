//! Ports of tunnels: TLS and other protocols at listed ports, plain HTTP alone at others, and port 80.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use crate::plain_tunnels::{FULL, listed, tunnel};
use crate::support::caller2;
use crate::support::certs::{Authority, Fault, client_hello as hello};
use crate::support::stage::{Before, connect, counted, get, opens};
use crate::support::*;

/// A fatal alert, access_denied.
const DENIED: [u8; 7] = [21, 3, 3, 0, 2, 2, 49];

#[test]
fn at_other_ports_a_tunnel_carries_nothing_but_plain_http() {
    let origin = Origin::start();
    let gateway = Gateway::start(&(limit(9, "1h", "") + "[timeouts]\nhead = \"2s\"\n"));
    let to = origin.authority();
    for _ in 0..2 {
        assert_eq!(tunnel(&gateway, &to).send(hello("127.0.0.1", None)).rest().0, DENIED);
    }
    let line = gateway.log_line("refused_by=access");
    assert!(line.contains("connect_ports") && line.contains(" 200 "), "{line}");
    gateway.complains("is not in [access] connect_ports");
    assert_eq!(gateway.stderr().matches("is not in [access] connect_ports").count(), 1, "{}", gateway.stderr());
    let other = tunnel(&gateway, &to).send("EHLO mail.example\r\n\r\n").answer();
    check_ours(&other, 400, "http_request_error");
    // A server that would speak first is not asked.
    tunnel(&gateway, &to).expect_end();
    assert_eq!(origin.connections(), 0);
}

#[test]
fn an_intercepted_host_speaks_tls_at_listed_ports_only() {
    let before = Before::new();
    let (secure, plain) = (Origin2::start(before.authority.both_config(Fault::None)), Origin::start());
    let toml = limit(9, "1h", "").replace("127.0.0.1", "localhost") + &opens(&["localhost"], &[443], &before.trust);
    let stage = before.gateway_with(&toml);
    assert_eq!(tunnel(&stage.gateway, &secure.name()).send(hello("localhost", None)).rest().0, DENIED);
    let to = format!("localhost:{}", plain.port());
    assert_eq!(tunnel(&stage.gateway, &to).send(get(&to, "/plain")).answer().text(), "/plain");
    assert_eq!(secure.connections(), 0);
}

/// A server that says `first`, and then repeats what it hears.
fn echo(first: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            thread(move || {
                stream.write_all(first).ok();
                let mut bytes = [0; 1024];
                while let Ok(count @ 1..) = stream.read(&mut bytes) {
                    stream.write_all(&bytes[..count]).ok();
                }
            });
        }
    });
    port
}

#[test]
fn other_protocols_pass_at_listed_ports_and_count_as_a_connection() {
    let ssh = "SSH-2.0-OpenSSH_9.6p1 Ubuntu-3ubuntu13\r\n";
    // The last two might become a request, and are held for as long as one takes to begin.
    for first in [ssh, "NICK somebody\r\n", "\0\u{1}\u{2}", "*1\r\n$4\r\nPING\r\n", "HELO", "one word more"] {
        let port = echo(b"");
        let toml = limit(1, "1h", FULL) + &format!("[access]\nconnect_ports = [{port}]\n");
        let gateway = Gateway::start(&toml);
        let to = format!("127.0.0.1:{port}");
        let mut inside = tunnel(&gateway, &to);
        assert_eq!(inside.send(first).bytes(first.len()), first.as_bytes());
        // From here on it may look like anything.
        let more = get(&to, "/");
        assert_eq!(inside.send(&more).bytes(more.len()), more.as_bytes());
        check_ours(&gateway.exchange(connect(&to, "")), 429, "http_request_error");
        inside.hang_up();
        check_ours(&gateway.exchange(connect(&to, "")), 429, "http_request_error");
    }
}

/// Waits until half a line passes as that of another protocol: so long was any half line held that came before.
fn until_half_lines_pass(gateway: &Gateway, echo: u16) {
    let word = "one word more";
    assert_eq!(tunnel(gateway, &format!("127.0.0.1:{echo}")).send(word).bytes(word.len()), word.as_bytes());
}

/// A limit on some paths, and these ports for tunnels.
fn on_paths(ports: &[u16]) -> String {
    let limit = limit(1, "1h", FULL).replace(" }", ", path = \"/v2/**\" }");
    format!("{limit}[access]\nconnect_ports = {ports:?}\n")
}

#[test]
fn a_request_whose_line_takes_longer_than_other_protocols_is_counted_and_so_are_those_after_it() {
    let (origin, echo) = (Origin::start(), echo(b""));
    let gateway = Gateway::start(&on_paths(&[origin.port(), echo]));
    let to = origin.authority();
    let mut inside = tunnel(&gateway, &to);
    inside.send("GET /v2/x HTT");
    until_half_lines_pass(&gateway, echo);
    assert_eq!(inside.send(format!("P/1.1\r\nHost: {to}\r\n\r\n")).answer().text(), "/v2/x");
    check_ours(&inside.send(get(&to, "/v2/y")).answer(), 429, "http_request_error");
    assert_eq!(origin.targets(), ["/v2/x"]);
}

#[test]
fn a_request_whose_line_does_not_end_within_its_timeout_ends_its_tunnel() {
    let origin = Origin::start();
    let toml = on_paths(&[origin.port()]) + "[timeouts]\nhead = \"2s\"\n";
    let gateway = Gateway::start(&toml);
    tunnel(&gateway, &origin.authority()).send("GET /v2/x HTT").expect_end();
    let line = gateway.log_line("CONNECT");
    assert!(line.contains("timeout=timeouts.head=2s"), "{line}");
    assert_eq!(origin.count(), 0);
}

#[test]
fn half_a_line_that_has_passed_becomes_no_request() {
    for (start, rest) in [("G", "ET /v2/x HTTP/1.1"), ("\r\n", "GET /v2/x HTTP/1.1"), ("FETCH /v2/x ", "HTTP/1.1")] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (came, there) = std::sync::mpsc::channel();
        let origin = thread(move || {
            let mut stream = listener.accept().unwrap().0;
            let mut bytes = vec![0; start.len()];
            stream.read_exact(&mut bytes).unwrap();
            came.send(()).unwrap();
            // A reset is an end, too.
            stream.read_to_end(&mut bytes).ok();
            bytes
        });
        let gateway = Gateway::start(&on_paths(&[port]));
        let to = format!("127.0.0.1:{port}");
        let mut inside = tunnel(&gateway, &to);
        inside.send(start);
        there.recv_timeout(PATIENCE).expect("it passes as another protocol");
        inside.send(format!("{rest}\r\nHost: {to}\r\n\r\n")).expect_end();
        assert_eq!(origin.join().unwrap(), start.as_bytes(), "no more of it came");
        let line = gateway.log_line("CONNECT");
        assert!(line.contains("refused_by=access") && line.contains("first line of a request"), "{line}");
    }
}

#[test]
fn a_request_with_a_line_longer_than_any_head_does_not_pass_a_tunnel() {
    let origin = Origin::start();
    let gateway = Gateway::start(&on_paths(&[origin.port()]));
    let (to, long) = (origin.authority(), "a".repeat(70 << 10));
    for method in ["GET", "FETCH"] {
        tunnel(&gateway, &to).send(format!("{method} /v2/{long} HTTP/1.1\r\nHost: {to}\r\n\r\n")).rest();
    }
    assert_eq!(origin.count(), 0);
    let read = || gateway.lines().iter().filter(|line| line.contains("note=plain_http")).count();
    eventually("they are read as requests", || read() == 2);
}

#[test]
fn a_server_that_speaks_first_makes_its_tunnel_an_opaque_one() {
    let port = echo(b"220 ready\r\n");
    let gateway = Gateway::start(&(limit(1, "1h", FULL) + &format!("[access]\nconnect_ports = [{port}]\n")));
    let to = format!("127.0.0.1:{port}");
    let mut inside = tunnel(&gateway, &to);
    assert_eq!(inside.bytes(11), b"220 ready\r\n");
    let mail = "MAIL FROM:<a@b.example> HTTP/1.1\r\n";
    assert_eq!(inside.send(mail).bytes(mail.len()), mail.as_bytes());
    check_ours(&gateway.exchange(connect(&to, "")), 429, "http_request_error");
}

#[test]
fn http2_without_tls_is_counted_by_request_at_a_listed_port_though_its_server_speaks_first() {
    let origin = Origin2::plain(Manners::default());
    let toml = counted(2, "1h", FULL) + &format!("[access]\nconnect_ports = [{}]\n", origin.port());
    let gateway = Gateway::start(&toml);
    let caller = Caller2::over(caller2::tcp(tunnel(&gateway, &origin.name())), &h2::client::Builder::new());
    let inside = |path: &str| format!("http://{}{path}", origin.name());
    for path in ["/1", "/2"] {
        assert_eq!(caller.get(&inside(path)).text(), path);
    }
    check_ours(&caller.get(&inside("/3")), 429, "http_request_error");
    assert_eq!(origin.paths(), ["/1", "/2"]);
    gateway.log_line("note=plain_http");
}

#[test]
fn a_tunnel_begins_however_soon_its_server_speaks() {
    let port = echo(b"\0\0\0\x04\0\0\0\0\0");
    let gateway = Gateway::start(&format!("{UNLIMITED}[access]\nconnect_ports = [{port}]\n"));
    let callers: Vec<Caller> = (0..100)
        .map(|_| {
            let mut caller = gateway.caller();
            caller.send(connect(&format!("127.0.0.1:{port}"), ""));
            caller
        })
        .collect();
    for mut caller in callers {
        let head = caller.head();
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    }
}

#[test]
fn a_caller_that_begins_http2_late_is_counted_by_request_too() {
    let origin = Origin2::plain(Manners::default());
    let ports = format!("[access]\nconnect_ports = [{}]\n", origin.port());
    let gateway = Gateway::start(&(counted(1, "300ms", "max_wait = \"60s\"") + &ports));
    let silent = tunnel(&gateway, &origin.name());
    let inside = |path: &str| format!("http://{}{path}", origin.name());
    assert_eq!(gateway.get(&inside("/")).status, 200, "the slot of the tunnel has settled");
    let caller = Caller2::over(caller2::tcp(silent), &h2::client::Builder::new());
    assert_eq!(caller.get(&inside("/late")).text(), "/late");
    let line = gateway.log_line("/late");
    assert!(line.contains("limits=the-limit"), "{line}");
}

#[test]
fn a_server_that_seems_to_begin_http2_is_heard_when_its_caller_speaks_another_protocol() {
    let settings = b"\0\0\0\x04\0\0\0\0\0";
    let port = echo(settings);
    let gateway = Gateway::start(&(limit(1, "1h", FULL) + &format!("[access]\nconnect_ports = [{port}]\n")));
    let mut inside = tunnel(&gateway, &format!("127.0.0.1:{port}"));
    assert_eq!(inside.send("\0\u{1}\u{2}").bytes(12), [&settings[..], b"\0\x01\x02"].concat());
}

#[test]
fn a_server_that_says_less_than_tells_its_protocol_is_heard() {
    let port = echo(b"\0\0");
    let gateway = Gateway::start(&format!("{UNLIMITED}[access]\nconnect_ports = [{port}]\n"));
    assert_eq!(tunnel(&gateway, &format!("127.0.0.1:{port}")).bytes(2), b"\0\0");
}

#[test]
fn a_tunnel_that_says_nothing_keeps_its_slot_for_its_time_only() {
    let origin = Origin::start();
    let toml = limit(1, "300ms", "max_wait = \"60s\"") + &listed(&origin);
    let gateway = Gateway::start(&toml);
    let to = origin.authority();
    let mut silent = tunnel(&gateway, &to);
    assert_eq!(gateway.get(&origin.url("/")).status, 200, "its slot opens again, though it is open");
    // It may still turn out to carry plain HTTP.
    assert_eq!(silent.send(get(&to, "/late")).answer().text(), "/late");
    assert_eq!(silent.send(get(&to, "/later")).answer().text(), "/later");
    one_window(1, Duration::from_millis(300), &origin.stamps());
}

#[test]
fn a_request_for_a_further_proxy_passes_at_a_listed_port() {
    let port = echo(b"");
    let gateway = Gateway::start(&format!("{UNLIMITED}[access]\nconnect_ports = [{port}]\n"));
    let mut inside = tunnel(&gateway, &format!("127.0.0.1:{port}"));
    let further = connect("origin.example:443", "");
    assert_eq!(inside.send(&further).bytes(further.len()), further.as_bytes());
}

/// Port 80 of a loopback address of this test's own; `None` if this user may not listen there.
fn port_80() -> Option<(TcpListener, IpAddr)> {
    let unique = free_port().to_be_bytes();
    let addr = IpAddr::from(Ipv4Addr::new(127, 80, unique[0], unique[1]));
    match TcpListener::bind(SocketAddr::new(addr, 80)) {
        Ok(listener) => Some((listener, addr)),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => None,
        Err(error) => panic!("port 80 of {addr}: {error}"),
    }
}

#[test]
fn a_tunnel_that_is_not_connected_after_its_200_names_the_timeout_in_its_line() {
    let Some((listener, addr)) = port_80() else {
        return eprintln!("not tested: this user may not listen at port 80");
    };
    drop(listener);
    let hole = BlackHole::at(SocketAddr::new(addr, 80));
    let toml = format!("{UNLIMITED}[timeouts]\nconnect = \"200ms\"\n[access]\nconnect_ports = [{}]\n", hole.port());
    let gateway = Gateway::start(&toml);
    let (rest, stop) = tunnel(&gateway, &format!("{addr}:80")).send(hello("a.example", None)).rest();
    assert!(rest.is_empty() && stop != stream::Stop::Silence, "{rest:?} {stop:?}");
    let line = gateway.log_line("CONNECT");
    assert!(line.contains(" 200 ") && line.contains("note=connect_timeout timeout=timeouts.connect=200ms"), "{line}");
}

#[test]
fn a_request_whose_line_takes_long_is_counted_at_port_80_too() {
    let Some((listener, addr)) = port_80() else {
        return eprintln!("not tested: this user may not listen at port 80");
    };
    thread(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            stream.read_exact(&mut [0]).ok();
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhttp").ok();
        }
    });
    let echo = echo(b"");
    let gateway = Gateway::start(&on_paths(&[80, echo]).replace("\"127.0.0.1\"", &format!("{:?}", addr.to_string())));
    let mut inside = tunnel(&gateway, &format!("{addr}:80"));
    inside.send("GET /v2/x HTT");
    // Half a line was held once more when its tunnel was connected.
    until_half_lines_pass(&gateway, echo);
    until_half_lines_pass(&gateway, echo);
    assert_eq!(inside.send(format!("P/1.1\r\nHost: {addr}\r\n\r\n")).answer().text(), "http");
    let more = format!("GET /v2/y HTTP/1.1\r\nHost: {addr}\r\n\r\n");
    check_ours(&inside.send(more).answer(), 429, "http_request_error");
}

#[test]
fn port_80_is_read_as_plain_http_whether_it_is_listed_or_not() {
    let Some((listener, addr)) = port_80() else {
        return eprintln!("not tested: this user may not listen at port 80");
    };
    thread(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            thread(move || {
                let mut bytes = [0; 1024];
                while let Ok(count @ 1..) = stream.read(&mut bytes) {
                    let http = bytes.starts_with(b"GET / HTTP/1.1\r\n");
                    let said =
                        if http { &b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhttp"[..] } else { &bytes[..count] };
                    stream.write_all(said).ok();
                }
            });
        }
    });
    let to = format!("{addr}:80");
    let toml = limit(2, "1h", FULL).replace("127.0.0.1", &addr.to_string());
    for (access, is_listed) in [("", false), ("[access]\nconnect_ports = [80, 443]\n", true)] {
        let gateway = Gateway::start(&(toml.clone() + access));
        let mut inside = tunnel(&gateway, &to);
        let ask = format!("GET / HTTP/1.1\r\nHost: {addr}\r\n\r\n");
        assert_eq!(inside.send(&ask).answer().text(), "http");
        let hello = hello(&addr.to_string(), None);
        let mut secure = tunnel(&gateway, &to);
        if !is_listed {
            assert_eq!(secure.send(&hello).rest().0, DENIED);
            continue;
        }
        assert_eq!(secure.send(&hello).bytes(hello.len()), hello, "it takes the second slot");
        // The third is refused inside: the tunnels were there before.
        check_ours(&inside.send(&ask).answer(), 429, "http_request_error");
        let (rest, stop) = tunnel(&gateway, &to).send(&hello).rest();
        assert!(rest.is_empty() && stop != stream::Stop::Silence, "{rest:?} {stop:?}");
        let lines = || gateway.lines().into_iter().filter(|line| line.contains("refused_by=limit"));
        eventually("it is logged", || lines().any(|line| line.contains(&format!("CONNECT {to} 200"))));
    }
}

#[test]
fn tls_at_a_listed_port_is_the_callers_own_affair_still() {
    let authority = Authority::new();
    let origin =
        Origin::scripted_tls(authority.server_config(Fault::None), |request, link| link.answer(200, &request.target));
    let gateway = Gateway::start(&(limit(1, "1h", FULL) + &listed(&origin)));
    let mut inside = tunnel(&gateway, &origin.authority()).into_tls("127.0.0.1", &authority);
    for path in ["/1", "/2"] {
        assert_eq!(inside.send(get("127.0.0.1", path)).answer().text(), path);
    }
    check_ours(&gateway.exchange(connect(&origin.authority(), "")), 429, "http_request_error");
}
