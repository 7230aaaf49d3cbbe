//! Between HTTP/1.1 and HTTP/2 nothing is lost, nothing is added, and nothing is smuggled (RFC 9113 §8).

use http::Request;

use crate::support::certs::Fault;
use crate::support::frames::{CONTINUATION, DATA, END_HEADERS, END_STREAM, Fate, Frame, Frames, HEADERS};
use crate::support::stage::{Before, Stage};
use crate::support::*;

#[track_caller]
fn stage() -> (Stage, Origin2) {
    let before = Before::new();
    let origin = Origin2::start(before.authority.both_config(Fault::None));
    let stage = before.gateway(UNLIMITED, &[origin.port()]);
    (stage, origin)
}

/// What becomes of one request, written frame by frame in plain HTTP/2; `make` is given its first stream's number.
#[track_caller]
fn fate_of(gateway: &Gateway, make: &[Frame]) -> Fate {
    let mut caller = gateway.caller();
    let mut frames = Frames::caller(&mut caller.stream);
    frames.send_all(make);
    frames.fate(1)
}

#[test]
fn what_http2_carries_arrives_as_http1() {
    let origin = Origin::start();
    let gateway = Gateway::start(UNLIMITED);
    let request = Request::get(origin.url("/a%20b?q=%2F&q"))
        .header("x-kept", "As It Was")
        .header("accept", "a/b")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .header("cookie", "c=3")
        .header("te", "trailers")
        .body(())
        .unwrap();
    let answer = Caller2::plain(gateway.addr).start(request, More::None).answer();
    assert_eq!(answer.text(), "/a%20b?q=%2F&q");
    let seen = origin.only();
    assert_eq!((seen.method.as_str(), seen.target.as_str()), ("GET", "/a%20b?q=%2F&q"));
    assert_eq!(seen.field("x-kept"), Some("As It Was"));
    assert_eq!(seen.all("cookie").collect::<Vec<_>>(), ["a=1; b=2; c=3"], "crumbs are joined (RFC 9113 §8.2.3)");
    assert_eq!(seen.all("host").collect::<Vec<_>>(), [origin.authority()]);
    assert!(!seen.raw.contains("\r\n:"), "pseudo-fields stay behind: {}", seen.raw);
    assert!(seen.field("content-length").is_none() && seen.field("transfer-encoding").is_none(), "{}", seen.raw);
}

#[test]
fn what_http1_carries_arrives_as_http2() {
    let (stage, origin) = stage();
    let mut inside = stage.opened(&origin.name());
    let host = origin.name();
    let answer = inside
        .send(format!(
            "POST /p?q HTTP/1.1\r\nHost: {host}\r\nX-Kept: As It Was\r\nConnection: X-Hop, keep-alive\r\nX-Hop: 1\r\n\
             Keep-Alive: timeout=5\r\nTransfer-Encoding: chunked\r\nTE: trailers, deflate\r\nCookie: a=1; b=2\r\n\r\n\
             3\r\nabc\r\n2\r\nde\r\n0\r\nX-Sum: 9\r\n\r\n"
        ))
        .answer();
    assert_eq!((answer.status, answer.text()), (200, "abcde".to_owned()));
    for name in ["connection", "keep-alive"] {
        assert!(answer.field(name).is_none_or(|v| v == "keep-alive" || v == "close"), "{}", answer.raw);
    }
    let seen = origin.only();
    assert_eq!((seen.version, seen.method.as_str(), seen.path.as_str()), (2, "POST", "/p?q"));
    assert_eq!((seen.scheme.as_str(), seen.authority.as_str()), ("https", host.as_str()));
    assert_eq!(seen.all("x-kept"), ["As It Was"]);
    for gone in ["connection", "keep-alive", "transfer-encoding", "x-hop", "host", "proxy-connection", "upgrade"] {
        assert!(seen.all(gone).is_empty(), "{gone} has no place in HTTP/2: {seen:#?}");
    }
    assert!(seen.all("te").iter().all(|te| *te == "trailers"), "{seen:#?}");
    assert_eq!(seen.all("cookie").join("; "), "a=1; b=2");
    assert_eq!((seen.body.as_slice(), seen.whole), (&b"abcde"[..], true));
    assert_eq!(seen.trailers, [("x-sum".to_owned(), "9".to_owned())]);
}

#[test]
fn http2_passes_to_http2_with_trailers_both_ways() {
    let (stage, origin) = stage();
    let caller = stage.opened2(&origin.name());
    let request = Request::post(origin.url("/echo")).header("te", "trailers").body(()).unwrap();
    let mut call = caller.start(request, More::Follows);
    call.push("one ");
    call.push("two");
    call.finish_with_trailers(&[("x-sum", "7")]);
    let answer = call.answer();
    assert_eq!((answer.status, answer.text()), (200, "one two".to_owned()));
    assert_eq!(answer.trailers, [("x-sum".to_owned(), "7".to_owned())]);
    let seen = origin.only();
    assert_eq!((seen.version, &seen.trailers), (2, &answer.trailers));
    assert_eq!(seen.all("te"), ["trailers"]);
}

#[test]
fn the_authority_and_the_host_must_agree() {
    let origin = Origin::start();
    let gateway = Gateway::start(UNLIMITED);
    let to = origin.authority();
    let with = |extra: &[(&str, &str)], authority: Option<&str>| {
        let mut fields = vec![(":method", "GET"), (":scheme", "http"), (":path", "/x")];
        fields.extend(authority.map(|a| (":authority", a)));
        fields.extend(extra);
        fate_of(&gateway, &[Frame::headers(1, END_STREAM, &fields)])
    };
    assert_eq!(with(&[("host", &to)], Some(&to)), Fate::Answered(200));
    assert_eq!(with(&[("host", &to)], None), Fate::Answered(200), "Host alone will do (RFC 9113 §8.3.1)");
    for refused in [
        with(&[("host", "other.example")], Some(&to)),
        with(&[("host", &to), ("host", "other.example")], Some(&to)),
        with(&[], None),
    ] {
        assert_eq!(refused, Fate::Answered(400));
    }
    for refused in [with(&[], Some("")), with(&[], Some("user@127.0.0.1"))] {
        assert!(refused.is_refusal(), "{refused:?}");
    }
    assert_eq!(origin.count(), 2);
}

#[test]
fn the_default_port_may_be_named_in_one_of_authority_and_host() {
    let gateway = Gateway::start(UNLIMITED);
    let with = |authority: &str, host: &str, scheme: &str| {
        let fields =
            [(":method", "GET"), (":scheme", scheme), (":path", "/x"), (":authority", authority), ("host", host)];
        fate_of(&gateway, &[Frame::headers(1, END_STREAM, &fields)])
    };
    // The name cannot be found: that is said by 502, after both were read as one server.
    assert_eq!(with("no-such.invalid", "no-such.invalid:80", "http"), Fate::Answered(502));
    assert_eq!(with("no-such.invalid:80", "no-such.invalid", "http"), Fate::Answered(502));
    assert_eq!(with("no-such.invalid:80", "no-such.invalid:81", "http"), Fate::Answered(400));
    assert_eq!(with("no-such.invalid:443", "no-such.invalid", "http"), Fate::Answered(400));
}

#[test]
fn a_head_that_is_refused_is_answered_and_logged_as_itself() {
    let (gateway, origin) = (Gateway::start(UNLIMITED), Origin::start());
    let to = origin.authority();
    let mut caller = gateway.caller();
    let mut frames = Frames::caller(&mut caller.stream);
    let head = |method, path| [(":method", method), (":scheme", "http"), (":authority", &*to), (":path", path)];
    frames.send(&Frame::headers(1, END_STREAM, &head("HEAD", "/innocent")));
    assert_eq!(frames.fate(1), Fate::Answered(200));
    let guilty = [&head("GET", "/guilty")[..], &[("host", "other.example")]].concat();
    frames.send(&Frame::headers(3, END_STREAM, &guilty));
    assert_eq!(frames.fate(3), Fate::Answered(400));
    assert!(gateway.log_line(" 400 ").contains(" GET "), "{:?}", gateway.lines());
    assert!(gateway.log_line("/innocent").contains(" HEAD "));
    let lines = gateway.lines();
    assert_eq!(lines.iter().filter(|line| line.contains("/innocent")).count(), 1, "{lines:?}");
    assert!(lines.iter().any(|line| line.contains("/guilty")), "{lines:?}");
}

#[test]
fn only_options_asks_for_no_path_in_particular() {
    let (gateway, origin) = (Gateway::start(UNLIMITED), Origin::start());
    let to = origin.authority();
    let with = |method: &str| {
        let fields = [(":method", method), (":scheme", "http"), (":authority", &*to), (":path", "*")];
        fate_of(&gateway, &[Frame::headers(1, END_STREAM, &fields)])
    };
    assert_eq!(with("GET"), Fate::Answered(400), "RFC 9113 §8.3.1");
    assert_eq!(with("OPTIONS"), Fate::Answered(200));
    assert_eq!(origin.targets(), ["*"]);
}

#[test]
fn fields_that_http1_could_misread_are_refused() {
    let origin = Origin::start();
    let gateway = Gateway::start(UNLIMITED);
    let to = origin.authority();
    let bad: &[(&str, &str)] = &[
        ("X-Upper", "a"),
        ("x-crlf", "a\r\nsmuggled: b"),
        ("x-cr", "a\rb"),
        ("x-lf", "a\nb"),
        ("x-nul", "a\0b"),
        ("x-space-before", " a"),
        ("x-tab-after", "a\t"),
        ("x name", "a"),
        ("x:colon", "a"),
        ("x\r\nsmuggled", "a"),
        ("", "a"),
        (":late", "a"),
        ("connection", "x-hop"),
        ("connection", "close"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("upgrade", "websocket"),
        ("transfer-encoding", "chunked"),
        ("te", "gzip"),
        ("content-length", "x"),
        ("content-length", "-1"),
        ("content-length", "1, 2"),
    ];
    for one in bad {
        let mut fields = frames::request("GET", &to, "/bad");
        fields.push(*one);
        let fate = fate_of(&gateway, &[Frame::headers(1, END_STREAM, &fields)]);
        assert!(fate.is_refusal(), "{one:?}: {fate:?}");
    }
    assert_eq!(origin.targets(), Vec::<String>::new());
}

#[test]
fn pseudo_fields_that_are_wrong_are_refused() {
    let origin = Origin::start();
    let gateway = Gateway::start(UNLIMITED);
    let to = origin.authority();
    let (method, scheme, authority, path) =
        ((":method", "GET"), (":scheme", "http"), (":authority", to.as_str()), (":path", "/bad"));
    let sections: &[&[(&str, &str)]] = &[
        &[scheme, authority, path],
        &[method, scheme, authority],
        &[method, authority, path],
        &[method, method, scheme, authority, path],
        &[method, scheme, authority, path, (":path", "/two")],
        &[method, scheme, authority, (":path", "")],
        &[method, scheme, authority, ("x-first", "a"), path],
        &[method, scheme, authority, path, (":status", "200")],
        &[(":method", "GET /smuggled HTTP/1.1\r\nx:"), scheme, authority, path],
        &[(":method", "G T"), scheme, authority, path],
        &[(":method", ""), scheme, authority, path],
        &[method, scheme, authority, (":path", "/bad HTTP/1.1\r\nhost: x\r\n\r\n")],
        &[method, scheme, authority, (":path", "/a b")],
        &[method, scheme, authority, (":path", "no-slash")],
        &[method, scheme, (":authority", "127.0.0.1 x"), path],
        &[method, scheme, (":authority", "127.0.0.1\r\nx: y"), path],
        &[method, (":scheme", "ftp"), authority, path],
    ];
    for fields in sections {
        let fate = fate_of(&gateway, &[Frame::headers(1, END_STREAM, fields)]);
        assert!(fate.is_refusal(), "{fields:?}: {fate:?}");
    }
    assert_eq!(origin.targets(), Vec::<String>::new());
}

#[test]
fn lines_that_look_like_a_request_stay_content() {
    let (stage, origin) = stage();
    let plain = Origin::start();
    let smuggled = "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n";
    let caller = Caller2::plain(stage.gateway.addr);
    for _ in 0..3 {
        assert_eq!(caller.post(&plain.url("/post"), smuggled).text(), "/post");
    }
    assert_eq!(plain.targets(), ["/post", "/post", "/post"]);
    assert!(plain.requests().iter().all(|r| r.text() == smuggled));
    assert_eq!(stage.opened2(&origin.name()).post(&origin.url("/p"), smuggled).text(), smuggled);
}

#[test]
fn trailers_that_would_change_the_message_are_refused_or_left_out() {
    let origin = Origin::scripted(|_, link| {
        link.read_body();
        link.answer(200, "taken")
    });
    let gateway = Gateway::start(UNLIMITED);
    for bad in [
        (":path", "/other"),
        ("X-Upper", "a"),
        ("x-lf", "a\nb"),
        ("transfer-encoding", "chunked"),
        ("connection", "close"),
    ] {
        let head = Frame::headers(1, 0, &frames::request("POST", &origin.authority(), "/post"));
        let data = Frame::new(DATA, 0, 1, *b"hello");
        let fate = fate_of(&gateway, &[head, data, Frame::headers(1, END_STREAM, &[bad])]);
        assert!(fate.is_refusal() || matches!(fate, Fate::Answered(200 | 502)), "{bad:?}: {fate:?}");
    }
    assert!(origin.requests().iter().all(|r| r.trailers.is_empty() && r.target == "/post"));
}

#[test]
fn frames_out_of_place_end_the_connection() {
    let origin = Origin::start();
    let gateway = Gateway::start(UNLIMITED);
    let to = origin.authority();
    let block = frames::block(&frames::request("GET", &to, "/bad"));
    let cases: &[&[Frame]] = &[
        &[Frame::new(DATA, 0, 1, *b"before any head")],
        &[Frame::new(HEADERS, END_HEADERS | END_STREAM, 0, block.clone())],
        &[Frame::new(HEADERS, END_HEADERS | END_STREAM, 2, block.clone())],
        &[Frame::new(HEADERS, 0, 1, block.clone()), Frame::new(DATA, 0, 1, *b"between")],
        &[Frame::new(HEADERS, 0, 1, block.clone()), Frame::new(CONTINUATION, END_HEADERS, 3, Vec::new())],
        &[Frame::new(CONTINUATION, END_HEADERS, 1, block.clone())],
        &[Frame::new(HEADERS, END_HEADERS | END_STREAM, 1, vec![0xff; 40])],
        &[Frame::setting(4, 0x8000_0000)],
        &[Frame::new(frames::WINDOW_UPDATE, 0, 0, 0_u32.to_be_bytes())],
        &[Frame::new(frames::PING, 0, 0, *b"short")],
    ];
    for bad in cases {
        let mut caller = gateway.caller();
        let mut frames = Frames::caller(&mut caller.stream);
        frames.send_all(bad);
        let fate = frames.fate(1);
        assert!(matches!(fate, Fate::Goaway(_) | Fate::Closed | Fate::Reset(_)), "{bad:?}: {fate:?}");
    }
    assert_eq!(origin.count(), 0);
    assert_eq!(gateway.get(&origin.url("/fine")).status, 200);
}
