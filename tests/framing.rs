//! Messages keep their shape: what has content and what has none, 1xx, trailers, versions, hop-by-hop fields, upgrades.

use std::time::Duration;

use crate::support::*;

fn ask(origin: &Origin, method: &str, version: &str, fields: &[&str]) -> String {
    let mut lines =
        vec![format!("{method} {} HTTP/{version}", origin.url("/")), format!("Host: {}", origin.authority())];
    lines.extend(fields.iter().map(|f| (*f).to_owned()));
    head(&lines.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn answers_without_content_end_with_their_head() {
    let origin = Origin::scripted(|request, link| {
        let head = match request.method.as_str() {
            "HEAD" => "HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n",
            "GET" => "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 777\r\n\r\n",
            _ => "HTTP/1.1 204 No Content\r\n\r\n",
        };
        link.send(head);
        Next::Keep
    });
    let gateway = Gateway::start(UNLIMITED);
    let mut caller = gateway.caller();
    for (method, status, length) in [("HEAD", 200, Some("12345")), ("GET", 304, Some("777")), ("DELETE", 204, None)] {
        for _ in 0..2 {
            let answer = caller.send(ask(&origin, method, "1.1", &[])).answer_to(method);
            assert_eq!((answer.status, answer.field("content-length")), (status, length), "{method}");
            assert_eq!(answer.field("transfer-encoding"), None);
        }
    }
    caller.expect_silence(Duration::from_millis(30));
    assert_eq!(origin.connections(), 1, "the connection's state stayed right");
}

#[test]
fn a_refusal_of_a_head_request_has_no_content() {
    let dead = DeadPort::new();
    let gateway = Gateway::start(UNLIMITED);
    let mut caller = gateway.caller();
    caller.send(format!("HEAD http://127.0.0.1:{}/ HTTP/1.1\r\nHost: a\r\n\r\n", dead.port()));
    check_ours(&caller.answer_to("HEAD"), 502, "connection_refused");
    caller.expect_silence(Duration::from_millis(30));
}

#[test]
fn an_answer_that_ends_with_its_connection_is_passed_on_whole() {
    let origin = Origin::saying("HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nall of it");
    let gateway = Gateway::start(UNLIMITED);
    let mut caller = gateway.caller();
    let answer = caller.send(ask(&origin, "GET", "1.1", &[])).answer();
    assert_eq!((answer.status, answer.text().as_str(), answer.version.as_str()), (200, "all of it", "HTTP/1.1"));
    assert_ne!(answer.end, End::Truncated);
    let old = gateway.exchange(ask(&origin, "GET", "1.0", &[]));
    assert_eq!((old.text().as_str(), old.end), ("all of it", End::Closed));
}

#[test]
fn interim_answers_are_passed_on_but_not_to_http_1_0() {
    let origin = Origin::saying_and_keeping(
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 199 Odd\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    );
    let gateway = Gateway::start(UNLIMITED);
    let answer = gateway.exchange(ask(&origin, "GET", "1.1", &["Connection: close"]));
    assert_eq!(answer.interim.iter().map(|i| i.status).collect::<Vec<_>>(), [103, 199]);
    assert_eq!((answer.interim[0].field("link"), answer.text().as_str()), (Some("</a>"), "ok"));
    let old = gateway.exchange(ask(&origin, "GET", "1.0", &[]));
    assert_eq!((old.interim.len(), old.text().as_str()), (0, "ok"));
}

#[test]
fn an_expectation_is_the_origins_to_meet() {
    let origin = Origin::scripted(|request, link| {
        assert_eq!(request.field("expect"), Some("100-continue"));
        link.send("HTTP/1.1 100 Continue\r\n\r\n");
        link.read_body();
        link.answer(200, "got it")
    });
    let gateway = Gateway::start(UNLIMITED);
    let mut caller = gateway.caller();
    caller.send(ask(&origin, "POST", "1.1", &["Expect: 100-continue", "Content-Length: 4"]));
    assert!(caller.head().starts_with("HTTP/1.1 100 "));
    assert_eq!(caller.send("body").answer().text(), "got it");
    assert_eq!(origin.only().text(), "body");
}

#[test]
fn an_origin_that_refuses_before_the_content_is_heard_at_once() {
    let origin = Origin::scripted(|_, link| {
        link.send("HTTP/1.1 417 No\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno");
        Next::Close
    });
    let gateway = Gateway::start(UNLIMITED);
    let mut caller = gateway.caller();
    caller.send(ask(&origin, "POST", "1.1", &["Expect: 100-continue", "Content-Length: 4"]));
    let answer = caller.answer();
    assert_eq!((answer.status, answer.text().as_str(), answer.interim.len()), (417, "no", 0));
    // Whether the caller still sends its content is its own choice: the next request is told apart from it, or the connection ends.
    if answer.says_close() {
        caller.expect_end();
    } else {
        caller.send("body");
        assert_eq!(caller.send(ask(&origin, "GET", "1.1", &[])).answer().status, 417);
        assert_eq!(origin.requests().pop().unwrap().method, "GET");
    }
}

#[test]
fn the_content_is_not_asked_for_before_the_permit() {
    let origin = Origin::scripted(|_, link| {
        link.send("HTTP/1.1 100 Continue\r\n\r\n");
        link.read_body();
        link.answer(200, "")
    });
    let gateway = Gateway::start(&limit(1, "700ms", "max_wait = \"60s\""));
    let post = ask(&origin, "POST", "1.1", &["Expect: 100-continue", "Content-Length: 4"]);
    let before = clock::now();
    let mut first = gateway.caller();
    first.send(&post).head();
    first.send("body").answer();
    let mut second = gateway.caller();
    second.send(&post);
    assert!(second.head().starts_with("HTTP/1.1 100 "));
    assert!(clock::now() - before >= 700_000_000, "the second waited for its permit before it was asked for content");
    assert_eq!(second.send("body").answer().status, 200);
}

#[test]
fn an_early_answer_is_passed_on_before_the_content_has_ended() {
    let origin = Origin::scripted(|_, link| {
        link.send("HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig");
        Next::Close
    });
    let gateway = Gateway::start(UNLIMITED);
    let mut caller = gateway.caller();
    caller.send(ask(&origin, "POST", "1.1", &["Content-Length: 1000000"])).send("x".repeat(1000));
    let answer = caller.answer();
    assert_eq!((answer.status, answer.text().as_str()), (413, "big"));
    assert_ne!(caller.rest().1, stream::Stop::Silence, "and the connection ends, for its content never came");
}

#[test]
fn trailers_pass_both_ways() {
    let origin = Origin::scripted(|_, link| {
        link.read_body();
        link.send(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 42\r\n\r\n",
        );
        Next::Keep
    });
    let gateway = Gateway::start(UNLIMITED);
    let mut caller = gateway.caller();
    caller.send(ask(&origin, "POST", "1.1", &["Transfer-Encoding: chunked", "Trailer: X-Check", "TE: trailers"]));
    caller.send("3\r\nabc\r\n0\r\nX-Check: 7\r\n\r\n");
    let answer = caller.answer();
    assert_eq!(answer.trailers, [("X-Sum".to_owned(), "42".to_owned())]);
    let seen = origin.only();
    assert_eq!(
        (seen.text().as_str(), seen.trailers.as_slice()),
        ("abc", [("X-Check".to_owned(), "7".to_owned())].as_slice())
    );
}

#[test]
fn http_1_0_callers_get_no_chunks_and_a_closed_connection() {
    let origin = Origin::saying_and_keeping(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
    );
    let gateway = Gateway::start(UNLIMITED);
    let answer = gateway.exchange(format!("GET {} HTTP/1.0\r\n\r\n", origin.url("/")));
    assert_eq!((answer.text().as_str(), answer.end), ("abcde", End::Closed));
    assert_eq!(answer.field("transfer-encoding"), None);
    let seen = origin.only();
    assert_eq!((seen.version.as_str(), seen.field("host")), ("HTTP/1.1", Some(origin.authority().as_str())));
    assert_eq!(seen.field("via"), Some("1.0 lockgate"), "Via tells what the caller spoke");
}

#[test]
fn http_1_0_keep_alive_works_when_asked_for() {
    let origin = Origin::start();
    let gateway = Gateway::start(UNLIMITED);
    let mut caller = gateway.caller();
    caller.send(ask(&origin, "GET", "1.0", &["Connection: keep-alive"]));
    let answer = caller.answer();
    assert_eq!(answer.status, 200);
    if answer.field("connection").is_some_and(|c| c.eq_ignore_ascii_case("keep-alive")) {
        assert_eq!(caller.send(ask(&origin, "GET", "1.0", &[])).answer().status, 200);
    }
    caller.expect_end();
}

#[test]
fn close_is_heeded_and_said() {
    let origin = Origin::start();
    let gateway = Gateway::start(UNLIMITED);
    let mut caller = gateway.caller();
    let answer = caller.send(ask(&origin, "GET", "1.1", &["Connection: close"])).answer();
    assert!(answer.says_close(), "{}", answer.raw);
    caller.expect_end();
}

#[test]
fn hop_by_hop_fields_stay_on_their_hop() {
    let origin = Origin::saying_and_keeping(
        "HTTP/1.1 200 OK\r\nConnection: X-Hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nProxy-Connection: x\r\n\
         X-End: 2\r\nProxy-Authentication-Info: n\r\nContent-Length: 0\r\n\r\n",
    );
    let gateway = Gateway::start(UNLIMITED);
    let credentials = format!("Proxy-Authorization: {}", basic("me", "secret"));
    let answer = gateway.exchange(ask(
        &origin,
        "GET",
        "1.1",
        &[
            "Connection: X-Mine, close, TE",
            "X-Mine: 1",
            "Connection: x-other",
            "X-Other: 2",
            "Keep-Alive: 300",
            "Proxy-Connection: keep-alive",
            "TE: deflate",
            &credentials,
            "X-End: 3",
        ],
    ));
    let seen = origin.only();
    for name in ["x-mine", "x-other", "keep-alive", "proxy-connection", "proxy-authorization", "upgrade", "te"] {
        assert_eq!(seen.field(name), None, "{name} reached the origin: {}", seen.raw);
    }
    assert_eq!(seen.field("x-end"), Some("3"));
    for name in ["x-hop", "keep-alive", "proxy-connection"] {
        assert_eq!(answer.field(name), None, "{name} reached the caller: {}", answer.raw);
    }
    assert_eq!(answer.field("x-end"), Some("2"));
}

#[test]
fn a_connection_field_with_members_without_end_is_refused() {
    let named = |members: usize| format!("Connection: {}", vec!["x-a"; members].join(","));
    let origin = Origin::start();
    let gateway = Gateway::start(UNLIMITED);
    let two = [&*named(16), &named(16)];
    assert_eq!(gateway.exchange(ask(&origin, "GET", "1.1", &two)).status, 200);
    for fields in
        [&[&*named(33)][..], &[&*named(16), &named(17)], &[&named(10_000)], &["Connection: x-a,,,x-a", &named(31)]]
    {
        check_ours(&gateway.exchange(ask(&origin, "GET", "1.1", fields)), 400, "http_request_error");
    }
    assert_eq!(origin.count(), 1);
    let said = |status: &str, members| {
        let end = "Content-Length: 0\r\n\r\n";
        let origin = Origin::saying_and_keeping(format!("HTTP/1.1 {status}\r\n{}\r\n{end}", named(members)));
        gateway.get(&origin.url("/"))
    };
    assert_eq!(said("200 OK", 32).status, 200);
    check_ours(&said("200 OK", 33), 502, "http_protocol_error");
    check_ours(&said("103 Early Hints", 33), 502, "http_protocol_error");
}

#[test]
fn via_is_added_to_what_others_wrote() {
    let origin = Origin::saying_and_keeping("HTTP/1.1 200 OK\r\nVia: 1.1 cache\r\nContent-Length: 0\r\n\r\n");
    let gateway = Gateway::start(UNLIMITED);
    let answer = gateway.exchange(ask(&origin, "GET", "1.1", &["Via: 1.0 first", "Connection: close"]));
    let joined = |all: Vec<&str>| all.join(", ");
    assert_eq!(joined(answer.all("via").collect()), "1.1 cache, 1.1 lockgate");
    assert_eq!(joined(origin.only().all("via").collect()), "1.0 first, 1.1 lockgate");
}

#[test]
fn an_upgrade_is_carried_through_both_ways() {
    let origin = Origin::scripted(|request, link| {
        assert_eq!(request.field("upgrade"), Some("websocket"));
        assert!(request.field("connection").is_some_and(|c| c.eq_ignore_ascii_case("upgrade")));
        link.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello");
        link.echo();
        Next::Close
    });
    let gateway = Gateway::start(UNLIMITED);
    let mut caller = gateway.caller();
    caller.send(ask(&origin, "GET", "1.1", &["Connection: Upgrade", "Upgrade: websocket"]) + "early");
    let answer = caller.answer();
    assert_eq!((answer.status, answer.field("upgrade")), (101, Some("websocket")));
    assert_eq!(caller.bytes(10), b"helloearly", "nothing after either head was lost");
    assert_eq!(caller.send("\x00\x01GET / HTTP/1.1\r\n\r\n").bytes(20), b"\x00\x01GET / HTTP/1.1\r\n\r\n");
    caller.finish();
    caller.expect_end();
}

#[test]
fn only_listed_protocols_are_upgraded_to() {
    let origin = Origin::start();
    let listed = format!("{UNLIMITED}[access]\nupgrades = [\"Example\", \"spdy/3.1\"]\n");
    for (toml, passed, dropped) in [
        (
            UNLIMITED,
            &["websocket", "WebSocket", "websocket/13"][..],
            &["TLS/1.2", "h2c", "websocket, TLS/1.2", "x"][..],
        ),
        (&listed, &["example", "example/2", "SPDY/3.1", "example, spdy/3.1"], &["websocket", "spdy/3", "spdy", "h2c"]),
    ] {
        let gateway = Gateway::start(toml);
        let seen = |protocol: &str| {
            let fields = [
                &format!("Upgrade: {protocol}"),
                "Connection: keep-alive, Upgrade, HTTP2-Settings",
                "HTTP2-Settings: AA",
            ];
            assert_eq!(gateway.caller().send(ask(&origin, "GET", "1.1", &fields)).answer().status, 200, "{protocol}");
            let seen = origin.requests().pop().unwrap();
            assert_eq!(seen.field("upgrade").is_some(), seen.field("connection").is_some(), "{}", seen.raw);
            seen.field("upgrade").map(str::to_owned)
        };
        for protocol in passed {
            assert_eq!(seen(protocol).as_deref(), Some(*protocol));
        }
        for protocol in dropped {
            assert_eq!(seen(protocol), None, "{protocol}");
        }
    }
}

#[test]
fn an_upgrade_that_the_origin_declines_is_an_ordinary_exchange() {
    let origin = Origin::start();
    let gateway = Gateway::start(UNLIMITED);
    let mut caller = gateway.caller();
    caller.send(ask(&origin, "GET", "1.1", &["Connection: Upgrade", "Upgrade: websocket"]));
    assert_eq!(caller.answer().status, 200);
    assert_eq!(caller.send(ask(&origin, "GET", "1.1", &[])).answer().status, 200);
}

#[test]
fn max_forwards_counts_down_and_ends_at_the_gateway() {
    let origin = Origin::start();
    let gateway = Gateway::start(UNLIMITED);
    for method in ["OPTIONS", "TRACE"] {
        let before = origin.count();
        let ours = gateway.exchange(ask(&origin, method, "1.1", &["Max-Forwards: 0", "Connection: close"]));
        assert_eq!((ours.status, origin.count()), (200, before), "{method}: {}", ours.raw);
        gateway.exchange(ask(&origin, method, "1.1", &["Max-Forwards: 7", "Connection: close"]));
        assert_eq!(origin.requests().pop().unwrap().field("max-forwards"), Some("6"), "{method}");
    }
    gateway.exchange(ask(&origin, "GET", "1.1", &["Max-Forwards: 0", "Connection: close"]));
    assert_eq!(origin.requests().pop().unwrap().field("max-forwards"), Some("0"), "other methods are left alone");
}

#[test]
fn a_trace_that_ends_at_the_gateway_shows_no_secrets() {
    let origin = Origin::start();
    let gateway = Gateway::start(UNLIMITED);
    let credentials = format!("Proxy-Authorization: {}", basic("me", "hush"));
    let fields = ["Max-Forwards: 0", "Cookie: c=hush", "Authorization: Bearer hush", &credentials, "X-Seen: yes"];
    let answer = gateway.exchange(ask(&origin, "TRACE", "1.1", &fields));
    assert_eq!(answer.field("content-type"), Some("message/http"));
    let text = answer.text();
    assert!(text.contains("X-Seen: yes") && !text.contains("hush") && !text.contains(&basic("me", "hush")), "{text}");
}

#[test]
fn content_that_breaks_off_is_not_made_whole() {
    let (tell, told) = std::sync::mpsc::channel();
    let origin = Origin::scripted(move |_, link| {
        tell.send(link.read_body()).ok();
        Next::Close
    });
    let gateway = Gateway::start(UNLIMITED);
    let broken = ["Content-Length: 10\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"];
    for (before, framing) in broken.into_iter().enumerate() {
        let mut caller = gateway.caller();
        caller.send(format!("POST {} HTTP/1.1\r\nHost: a\r\n{framing}", origin.url("/")));
        // It hangs up only once its request is there, or nothing would be sent at all.
        eventually("the request arrives", || origin.count() > before);
        caller.hang_up();
        assert!(!told.recv_timeout(PATIENCE).unwrap(), "{framing:?} ended well at the origin");
    }
}
