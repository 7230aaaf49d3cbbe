//! Plain HTTP in a tunnel (undici, Python's websockets, gRPC) is allowed, read and counted as if it had come without one.

use std::time::Duration;

use crate::support::caller2::Call;
use crate::support::stage::{connect, get};
use crate::support::*;

pub(crate) const FULL: &str = "when_full = \"refuse\"";

/// Settings under which this origin's port may carry TLS, too.
pub(crate) fn listed(origin: &Origin) -> String {
    format!("[access]\nconnect_ports = [443, {}]\n\n", origin.port())
}

/// An open tunnel; no byte has passed in it.
#[track_caller]
pub(crate) fn tunnel(gateway: &Gateway, to: &str) -> Caller {
    let mut caller = gateway.caller();
    assert_eq!(caller.send(connect(to, "")).answer_to("CONNECT").status, 200);
    caller
}

/// Runs a test at a port that may carry plain HTTP only, and at one that may carry TLS, too.
fn at_both_ports(toml: &str, check: impl Fn(&Gateway, &Origin)) {
    let origin = Origin::start();
    check(&Gateway::start(toml), &origin);
    let origin = Origin::start();
    check(&Gateway::start(&(toml.to_owned() + &listed(&origin))), &origin);
}

#[test]
fn requests_in_a_tunnel_are_forwarded_as_requests() {
    at_both_ports(UNLIMITED, |gateway, origin| {
        let to = origin.authority();
        let mut inside = tunnel(gateway, &to);
        for path in ["/a?b=%20", "/c"] {
            let answer = inside.send(get(&to, path)).answer();
            assert_eq!((answer.status, answer.text().as_str()), (200, path));
            assert_eq!(answer.field("via"), Some("1.1 lockgate"), "{}", answer.raw);
        }
        let post =
            format!("POST /post HTTP/1.1\r\nHost: {to}\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n");
        assert_eq!(inside.send(post).answer().status, 200);
        assert!(origin.requests().iter().all(|seen| seen.field("via") == Some("1.1 lockgate")));
        assert_eq!(origin.requests()[2].text(), "hi");
        assert_eq!(origin.connections(), 1, "the connection that was dialled for the tunnel serves its requests");
        let line = gateway.log_line(&format!("GET http://{to}/c"));
        assert!(line.contains(" 200 "), "{line}");
        gateway.log_line("note=plain_http");
    });
}

#[test]
fn each_request_in_a_tunnel_takes_a_slot_and_the_tunnel_none() {
    at_both_ports(&limit(2, "1h", FULL), |gateway, origin| {
        let to = origin.authority();
        let mut inside = tunnel(gateway, &to);
        for _ in 0..2 {
            assert_eq!(inside.send(get(&to, "/")).answer().status, 200);
        }
        check_ours(&inside.send(get(&to, "/")).answer(), 429, "http_request_error");
        check_ours(&gateway.get(&origin.url("/")), 429, "http_request_error");
        assert_eq!(origin.count(), 2);
        let line = gateway.log_line(&format!("CONNECT {to}"));
        assert!(!line.contains("the-limit"), "the tunnel itself was not counted: {line}");
    });
}

#[test]
fn a_limit_sees_path_method_and_fields_of_requests_in_a_tunnel() {
    let matching = |more: &str| limit(1, "1h", FULL).replace(" }", &format!(", {more} }}"));
    for (toml, counted, free) in [
        (matching("path = \"/v2/**\""), "GET /v2/x", "GET /v1/x"),
        (matching("method = [\"POST\"]"), "POST /", "GET /"),
        (limit(1, "1h", &format!("{FULL}\nkey = [\"path[1]\"]")), "GET /a", "GET /b"),
    ] {
        at_both_ports(&toml, |gateway, origin| {
            let to = origin.authority();
            let mut inside = tunnel(gateway, &to);
            let mut ask = |line: &str| {
                let head = format!("{line} HTTP/1.1\r\nHost: {to}\r\nContent-Length: 0\r\n\r\n");
                inside.send(head).answer().status
            };
            assert_eq!([counted, counted, free].map(&mut ask), [200, 429, 200], "{toml}");
        });
    }
}

#[test]
fn requests_in_tunnels_wait_their_turn() {
    at_both_ports(&limit(2, "300ms", "max_wait = \"60s\""), |gateway, origin| {
        let to = origin.authority();
        let callers: Vec<_> = (0..4)
            .map(|_| {
                let (addr, to) = (gateway.addr, to.clone());
                thread(move || {
                    let mut caller = Caller::connect(addr);
                    assert_eq!(caller.send(connect(&to, "")).answer_to("CONNECT").status, 200);
                    for _ in 0..3 {
                        assert_eq!(caller.send(get(&to, "/")).answer().status, 200);
                    }
                })
            })
            .collect();
        callers.into_iter().for_each(|caller| caller.join().unwrap());
        assert_eq!(origin.count(), 12);
        one_window(2, Duration::from_millis(300), &origin.stamps());
    });
}

#[test]
fn requests_sent_with_the_connect_are_not_lost() {
    at_both_ports(UNLIMITED, |gateway, origin| {
        let to = origin.authority();
        let mut caller = gateway.caller();
        caller.send(connect(&to, "") + &get(&to, "/1") + &get(&to, "/2"));
        assert_eq!(caller.answer_to("CONNECT").status, 200);
        assert_eq!([caller.answer().text(), caller.answer().text()], ["/1", "/2"]);
        // A line in pieces, after empty ones.
        let mut inside = tunnel(gateway, &to);
        for byte in format!("\r\n{}", get(&to, "/slow")).into_bytes() {
            inside.send([byte]);
        }
        assert_eq!(inside.answer().text(), "/slow");
    });
}

#[test]
fn a_refusal_of_a_request_sent_with_the_connect_comes_after_its_200() {
    at_both_ports(&limit(1, "1h", FULL), |gateway, origin| {
        let to = origin.authority();
        for statuses in [[200, 429], [429, 429]] {
            let mut caller = gateway.caller();
            caller.send(connect(&to, "") + &get(&to, "/1") + &get(&to, "/2"));
            let opened = caller.answer_to("CONNECT").status;
            // Where the tunnel is connected first, it needs a slot for a moment.
            if opened == 200 {
                assert_eq!([caller.answer().status, caller.answer().status], statuses);
            } else {
                assert_eq!((opened, statuses[0]), (429, 429));
            }
        }
    });
}

#[test]
fn a_websocket_in_a_tunnel_takes_one_slot() {
    let origin = Origin::scripted(|request, link| {
        assert_eq!(request.field("upgrade"), Some("websocket"));
        link.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello");
        link.echo();
        Next::Close
    });
    let gateway = Gateway::start(&limit(1, "1h", FULL));
    let to = origin.authority();
    let upgrade = format!("GET /chat HTTP/1.1\r\nHost: {to}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    let mut inside = tunnel(&gateway, &to);
    assert_eq!(inside.send(&upgrade).answer().status, 101);
    assert_eq!(inside.bytes(5), b"hello");
    // After the switch nothing is read, whatever it looks like.
    assert_eq!(inside.send(get(&to, "/")).bytes(get(&to, "/").len()), get(&to, "/").as_bytes());
    check_ours(&tunnel(&gateway, &to).send(&upgrade).answer(), 429, "http_request_error");
}

#[test]
fn a_tunnel_on_a_stream_of_http2_carries_requests_too() {
    let origin = Origin::start();
    let gateway = Gateway::start(&limit(1, "1h", FULL));
    let caller = Caller2::plain(gateway.addr);
    let to = origin.authority();
    let mut call = caller.start(http::Request::connect(&to).body(()).unwrap(), More::Follows);
    let (answer, mut body) = call.try_head().unwrap();
    assert_eq!(answer.status, 200, "{}", answer.raw);
    call.push(get(&to, "/first") + &get(&to, "/second"));
    let mut said = String::new();
    while !said.contains("429 ") {
        let part = caller2::wait("an answer", body.data()).expect("more comes").unwrap();
        body.flow_control().release_capacity(part.len()).unwrap();
        said += &String::from_utf8_lossy(&part);
    }
    assert!(said.starts_with("HTTP/1.1 200 ") && said.contains("/first"), "{said}");
    assert_eq!(origin.targets(), ["/first"]);
}

#[test]
fn http2_with_prior_knowledge_is_read_in_a_tunnel_for_plain_http() {
    at_both_ports(UNLIMITED, |gateway, origin| {
        let mut inside = tunnel(gateway, &origin.authority());
        inside.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\u{4}\0\0\0\0\0");
        assert_eq!(inside.bytes(4)[3], 4, "it begins with its SETTINGS");
    });
}

#[test]
fn a_request_in_a_tunnel_is_for_the_host_of_its_connect() {
    let (origin, other) = (Origin::start(), Origin::start());
    let gateway = Gateway::start(UNLIMITED);
    let (to, port) = (origin.authority(), origin.port());
    let ask = |target: &str, host: &str| {
        tunnel(&gateway, &to).send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n")).answer()
    };
    for host in [&other.authority(), "127.0.0.1", &format!("localhost:{port}"), "elsewhere.example"] {
        check_ours(&ask("/", host), 421, "http_request_error|http_request_denied");
    }
    check_ours(&ask(&other.url("/"), &other.authority()), 421, "http_request_error|http_request_denied");
    check_ours(&ask(&format!("https://{to}/"), &to), 421, "http_request_error|http_request_denied");
    assert_eq!((origin.count(), other.count()), (0, 0));
    assert_eq!(ask(&origin.url("/own"), &to).text(), "/own");
    let nested = tunnel(&gateway, &to).send(connect(&to, "")).answer_to("CONNECT");
    check_ours(&nested, 400, "http_request_error");
}

#[test]
fn an_origin_that_is_not_there_is_told_of_inside() {
    let dead = DeadPort::new();
    let to = format!("127.0.0.1:{}", dead.port());
    let gateway = Gateway::start(&limit(1, "1h", FULL));
    let mut inside = tunnel(&gateway, &to);
    for _ in 0..2 {
        check_ours(&inside.send(get(&to, "/")).answer(), 502, "connection_refused");
    }
}

#[test]
fn access_rules_are_those_of_requests_without_a_tunnel() {
    let origin = Origin::start();
    let access = |more: &str| format!("{UNLIMITED}[access]\n{more}\n");
    let asked = |gateway: &Gateway, to: &str| gateway.exchange(connect(to, ""));
    let gateway = Gateway::start(&access("unlisted_hosts = \"deny\""));
    check_ours(&asked(&gateway, &origin.authority()), 403, "http_request_denied");
    let gateway = Gateway::start(&access(""));
    check_ours(&asked(&gateway, "127.0.0.1:6566"), 403, "http_request_denied");
    let gateway = Gateway::start(&access("allow_ports = [6566]"));
    assert_eq!(asked(&gateway, "127.0.0.1:6566").status, 200);
    // Opaque tunnels are denied to the host, but this one is read.
    let gateway = Gateway::start(&(limit(1, "1h", FULL) + "[access]\nopaque_tunnels = \"deny\"\n"));
    let mut inside = tunnel(&gateway, &origin.authority());
    assert_eq!(inside.send(get(&origin.authority(), "/")).answer().status, 200);
    let gateway = Gateway::start(&access("deny_addresses = [\"127.0.0.0/8\"]"));
    let refused = tunnel(&gateway, &origin.authority()).send(get(&origin.authority(), "/")).answer();
    check_ours(&refused, 403, "destination_ip_prohibited");
    // A gateway that is asked to call itself.
    let gateway = Gateway::start(UNLIMITED);
    let own = gateway.addr.to_string();
    check_ours(&tunnel(&gateway, &own).send(get(&own, "/")).answer(), 508, "proxy_loop_detected");
}

#[test]
fn the_credentials_of_the_connect_hold_for_its_requests() {
    let origin = Origin::start();
    let dir = gateway::Dir::new();
    let line = |name: &str| format!("{name}:{}\n", bcrypt::hash(name, 4).unwrap());
    let users = dir.write("users", &(line("me") + &line("you")));
    certs::private(&users);
    let toml = limit(1, "1h", &format!("key = [\"caller\"]\n{FULL}"));
    let gateway = Gateway::start_in(dir, &format!("{toml}[access]\nusers = {:?}\n", users.display().to_string()));
    let to = origin.authority();
    check_ours(&gateway.exchange(connect(&to, "")), 407, "http_request_denied");
    for name in ["me", "you"] {
        let credentials = format!("Proxy-Authorization: {}\r\n", basic(name, name));
        let mut inside = gateway.caller();
        assert_eq!(inside.send(connect(&to, &credentials)).answer_to("CONNECT").status, 200);
        assert_eq!(inside.send(get(&to, "/")).answer().status, 200, "each has a window of its own");
        check_ours(&inside.send(get(&to, "/")).answer(), 429, "http_request_error");
    }
    assert!(origin.requests().iter().all(|seen| seen.field("proxy-authorization").is_none()));
}

#[test]
fn a_tunnel_that_ends_before_its_first_byte_holds_for_no_later_stream_of_its_connection() {
    let (inside, other) = (Origin::start(), Origin::start());
    let ends: [fn(Call); 2] = [Call::cancel, |mut call| call.finish_with("")];
    for end in ends {
        let gateway = Gateway::start(UNLIMITED);
        let caller = Caller2::plain(gateway.addr);
        end_tunnel(&gateway, &caller, connect2(&inside, None), end);
        assert_eq!(caller.get(&other.url("/other")).status, 200, "another host may be called");
        let mut call = caller.start(connect2(&inside, None), More::Follows);
        assert_eq!(call.try_head().unwrap().0.status, 200, "another tunnel may be opened");
    }
}

#[test]
fn the_credentials_of_a_tunnel_that_has_ended_hold_for_no_later_stream_of_its_connection() {
    let origin = Origin::start();
    let dir = gateway::Dir::new();
    let users = dir.write("users", &format!("me:{}\n", bcrypt::hash("me", 4).unwrap()));
    certs::private(&users);
    let gateway = Gateway::start_in(dir, &format!("{UNLIMITED}[access]\nusers = {:?}\n", users.display().to_string()));
    let caller = Caller2::plain(gateway.addr);
    end_tunnel(&gateway, &caller, connect2(&origin, Some(&basic("me", "me"))), Call::cancel);
    check_ours(&caller.get(&origin.url("/")), 407, "http_request_denied");
    assert_eq!(origin.count(), 0);
}

/// A CONNECT of HTTP/2, with credentials if there are any.
fn connect2(origin: &Origin, credentials: Option<&str>) -> http::Request<()> {
    let ask = http::Request::connect(origin.authority());
    let ask = credentials.into_iter().fold(ask, |ask, text| ask.header("proxy-authorization", text));
    ask.body(()).unwrap()
}

/// Opens a tunnel and ends it without a byte in it; returns once its task is ready for the next stream.
#[track_caller]
fn end_tunnel(gateway: &Gateway, caller: &Caller2, ask: http::Request<()>, end: fn(Call)) {
    let mut call = caller.start(ask, More::Follows);
    let (answer, _body) = call.try_head().unwrap();
    assert_eq!(answer.status, 200, "{}", answer.raw);
    end(call);
    gateway.log_line("CONNECT");
}
