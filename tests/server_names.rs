//! Server names (SNI) in closed tunnels: no host that a limit names is reached in another one's name.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::certs::{Fault, client_hello as hello};
use crate::support::stage::{Before, connect, get, opens};
use crate::support::*;

/// A fatal alert, access_denied.
const DENIED: [u8; 7] = [21, 3, 3, 0, 2, 2, 49];

/// A server that sends every byte back.
struct Echo {
    port: u16,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl Echo {
    fn start() -> Echo {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let echo = Echo { port: listener.local_addr().unwrap().port(), heard: Arc::default() };
        let heard = Arc::clone(&echo.heard);
        thread(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let heard = Arc::clone(&heard);
                thread(move || back(stream, &heard));
            }
        });
        echo
    }

    fn heard(&self) -> Vec<u8> {
        self.heard.lock().unwrap().clone()
    }
}

fn back(mut stream: TcpStream, heard: &Mutex<Vec<u8>>) {
    let mut bytes = [0; 16 << 10];
    while let Ok(count @ 1..) = stream.read(&mut bytes) {
        heard.lock().unwrap().extend_from_slice(&bytes[..count]);
        if stream.write_all(&bytes[..count]).is_err() {
            return;
        }
    }
}

/// A limit on these hosts.
fn on(hosts: &[&str], more: &str) -> String {
    format!("[[limit]]\nname = \"api\"\nmatch = {{ host = {hosts:?} }}\nrequests = 100\nper = \"1h\"\n{more}\n\n")
}

/// An open tunnel by address; no byte has passed in it.
fn tunnel(gateway: &Gateway, echo: &Echo) -> Caller {
    let mut caller = gateway.caller();
    let to = format!("127.0.0.1:{}", echo.port);
    assert_eq!(caller.send(connect(&to, "")).answer_to("CONNECT").status, 200);
    caller
}

fn start(toml: &str, echo: &Echo) -> Gateway {
    let access = format!("connect_ports = [{}]\n", echo.port);
    Gateway::start(&match toml.contains("[access]\n") {
        true => toml.replace("[access]\n", &format!("[access]\n{access}")),
        false => format!("{toml}[access]\n{access}"),
    })
}

/// Fails unless a hello for this name passes as it is.
#[track_caller]
fn passes(gateway: &Gateway, echo: &Echo, name: &str) {
    let hello = hello(name, None);
    let mut caller = tunnel(gateway, echo);
    assert!(caller.send(&hello).bytes(hello.len()) == hello, "{name}: not a byte is other");
}

/// Fails unless a hello for this name is answered by the gateway, in words that TLS clients know.
#[track_caller]
fn is_refused(gateway: &Gateway, echo: &Echo, hello: &[u8]) {
    let before = echo.heard().len();
    let mut caller = tunnel(gateway, echo);
    let (said, _) = caller.send(hello).rest();
    assert_eq!(said, DENIED);
    assert_eq!(echo.heard().len(), before, "not a byte went on");
}

#[test]
fn a_host_that_a_limit_names_is_not_reached_in_another_ones_tunnel() {
    let echo = Echo::start();
    let gateway = start(&on(&["api.example", "*.partner.example"], ""), &echo);
    is_refused(&gateway, &echo, &hello("api.example", None));
    is_refused(&gateway, &echo, &hello("API.Example", None));
    is_refused(&gateway, &echo, &hello("a.b.partner.example", None));
    // The version of a record means nothing, and some servers take any.
    let mut old = hello("api.example", None);
    old[1] = 2;
    is_refused(&gateway, &echo, &old);
    for name in ["other.example", "partner.example", "xapi.example", "127.0.0.1"] {
        passes(&gateway, &echo, name);
    }
    let line = gateway.log_line("refused_by=access");
    assert!(line.contains("api.example") && line.contains("CONNECT 127.0.0.1:"), "{line}");
    let told = || gateway.stderr().matches("tunnel ended because of its first bytes").count();
    eventually("each name is told of", || told() >= 2);
    assert_eq!(told(), 2, "and once: {}", gateway.stderr());
}

#[test]
fn a_hello_in_pieces_is_read_as_one() {
    let echo = Echo::start();
    let gateway = start(&on(&["api.example"], ""), &echo);
    is_refused(&gateway, &echo, &hello("api.example", Some(32)));
    for (name, most) in [("api.example", Some(64)), ("other.example", Some(64)), ("other.example", None)] {
        let hello = hello(name, most);
        let mut caller = tunnel(&gateway, &echo);
        for byte in &hello {
            caller.send([*byte]);
        }
        match name {
            "api.example" => assert_eq!(caller.rest().0, DENIED),
            _ => assert!(caller.bytes(hello.len()) == hello),
        }
    }
    // With the head of the CONNECT, before there is a tunnel.
    let mut early = connect(&format!("127.0.0.1:{}", echo.port), "").into_bytes();
    early.extend(hello("api.example", None));
    let mut caller = gateway.caller();
    assert_eq!(caller.send(early).answer_to("CONNECT").status, 200);
    assert_eq!(caller.rest().0, DENIED);
}

#[test]
fn a_host_that_is_opened_is_not_reached_in_a_closed_tunnel() {
    let before = Before::new();
    let origin = Origin2::start(before.authority.both_config(Fault::None));
    let access = opens(&["localhost"], &[origin.port()], &before.trust);
    let stage = before.gateway_with(&(on(&["elsewhere.example"], "") + &access));
    let by_address = origin.addr.to_string();
    let mut inside = stage.tunnel(&by_address).into_tls_with("localhost", stage.authority.caller_config());
    let refused = inside.try_handshake().unwrap_err();
    assert!(refused.to_string().contains("AccessDenied"), "{refused}");
    assert_eq!(origin.count(), 0);
    // A host that is an address has no name to send, and its own certificate.
    let mut inside = stage.tunnel(&by_address).into_tls_with("127.0.0.1", stage.authority.caller_config());
    assert_eq!(inside.send(get(&by_address, "/")).answer().status, 200);
}

#[test]
fn what_the_tunnel_is_counted_for_already_may_be_asked_for_in_it() {
    let echo = Echo::start();
    let both = ["127.0.0.1", "api.example"];
    let gateway = start(&on(&both, ""), &echo);
    passes(&gateway, &echo, "api.example");
    // Another window of the same limit is not the same.
    let gateway = start(&on(&both, "key = [\"host\"]"), &echo);
    is_refused(&gateway, &echo, &hello("api.example", None));
    passes(&gateway, &echo, "other.example");
    // A limit that cannot count a tunnel to the host itself is not passed by in another one's.
    let gateway = start(&on(&both, "").replace(" }", ", path = \"/v2/**\" }"), &echo);
    passes(&gateway, &echo, "api.example");
}

#[test]
fn only_listed_hosts_may_be_asked_for_where_others_are_denied() {
    let echo = Echo::start();
    let toml = on(&["127.0.0.1"], "") + "[access]\nunlisted_hosts = \"deny\"\n";
    let gateway = start(&toml, &echo);
    is_refused(&gateway, &echo, &hello("other.example", None));
    passes(&gateway, &echo, "127.0.0.1");
}

#[test]
fn what_is_neither_tls_nor_http_passes_and_tls_that_cannot_be_read_does_not() {
    let echo = Echo::start();
    let gateway = start(&on(&["api.example"], ""), &echo);
    for said in ["S", "\u{16}\u{10}", "\u{16}\u{1}words", "\u{17}A", "SAY / ECHO/1.1\r\nHost: api.example\r\n\r\n"] {
        let mut caller = tunnel(&gateway, &echo);
        assert_eq!(caller.send(said).bytes(said.len()), said.as_bytes());
        // From here on it may look like anything.
        let more = hello("api.example", None);
        assert!(caller.send(&more).bytes(more.len()) == more);
    }
    // Some servers pass over an alert that stands before the hello.
    let alert = [&[21, 3, 1, 0, 2, 1, 0][..], &hello("api.example", None)].concat();
    is_refused(&gateway, &echo, &alert);
    // A hello without end, in more bytes than are held.
    let endless = [&[22, 3, 1, 0x40, 0, 1, 1, 0, 0][..], &[0; (16 << 10) - 4]].concat();
    let endless = [&endless[..], &[&[22, 3, 1, 0x40, 0][..], &[0; 16 << 10]].concat().repeat(5)].concat();
    is_refused(&gateway, &echo, &endless);
}

#[test]
fn a_hello_that_does_not_end_in_time_ends_the_tunnel_and_one_that_is_broken_off_passes() {
    let echo = Echo::start();
    let gateway = start(&(on(&["api.example"], "") + "[timeouts]\nhead = \"2s\"\n"), &echo);
    let hello = hello("api.example", None);
    let mut caller = tunnel(&gateway, &echo);
    caller.send(&hello[..hello.len() - 1]).expect_end();
    assert_eq!(echo.heard(), b"");
    // A tunnel without a byte may be silent for longer.
    let mut caller = tunnel(&gateway, &echo);
    caller.expect_silence(Duration::from_millis(2500));
    // Without its end it is no hello, and nothing follows it.
    let gateway = start(&on(&["api.example"], ""), &echo);
    let mut caller = tunnel(&gateway, &echo);
    caller.send(&hello[..20]).finish();
    assert_eq!(caller.bytes(20), hello[..20]);
}

#[test]
fn a_server_that_speaks_first_is_heard_before_its_caller_says_anything() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let echo = Echo { port: listener.local_addr().unwrap().port(), heard: Arc::default() };
    let heard = Arc::clone(&echo.heard);
    thread(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"220 ready\r\n").unwrap();
        back(stream, &heard);
    });
    let gateway = start(&on(&["api.example"], ""), &echo);
    let mut caller = tunnel(&gateway, &echo);
    assert_eq!(caller.bytes(11), b"220 ready\r\n");
    assert_eq!(caller.send("EHLO x\r\n").bytes(8), b"EHLO x\r\n");
}
