//! A forward proxy carries requests and responses unchanged, as they come.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use crate::admin::{queued, watched};
use crate::support::*;
use crate::tuning::tune;

#[test]
fn an_absolute_target_reaches_the_origin_in_origin_form() {
    let origin = Origin::start();
    let gateway = Gateway::start(UNLIMITED);
    let answer = gateway.get(&origin.url("/a/b?c=d&e"));
    assert_eq!((answer.status, answer.text().as_str()), (200, "/a/b?c=d&e"));
    assert_eq!(answer.field("via"), Some("1.1 lockgate"));
    let seen = origin.only();
    assert_eq!((seen.method.as_str(), seen.target.as_str(), seen.version.as_str()), ("GET", "/a/b?c=d&e", "HTTP/1.1"));
    assert_eq!(seen.all("host").collect::<Vec<_>>(), [origin.authority()]);
    assert_eq!(seen.field("via"), Some("1.1 lockgate"));
    assert_eq!(seen.field("content-length"), None, "a GET without content stays one");
    for name in ["transfer-encoding", "forwarded", "x-forwarded-for", "user-agent", "accept", "proxy-connection"] {
        assert_eq!(seen.field(name), None, "{name} is not ours to add: {}", seen.raw);
    }
}

#[test]
fn the_target_and_not_the_host_field_says_where_a_request_goes() {
    let (right, wrong) = (Origin::start(), Origin::start());
    let gateway = Gateway::start(UNLIMITED);
    let request =
        format!("GET {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", right.url("/"), wrong.authority());
    assert_eq!(gateway.exchange(request).status, 200);
    assert_eq!(right.only().field("host"), Some(right.authority().as_str()));
    assert_eq!(wrong.count(), 0);
}

#[test]
fn fields_keep_their_order_case_and_values() {
    let origin = Origin::scripted(|_, link| {
        link.send(
            "HTTP/1.1 299 Odd  Reason!\r\nX-B: 2\r\nx-a:  spaced \r\nX-B: 1\r\nSET-cookie: a=1, b\r\nSet-Cookie: c\r\n\
             Content-Length: 0\r\nX-Empty:\r\n\r\n",
        );
        Next::Keep
    });
    let gateway = Gateway::start(UNLIMITED);
    let answer = gateway.exchange(head(&[
        &format!("GET {} HTTP/1.1", origin.url("/")),
        &format!("hOST: {}", origin.authority()),
        "X-Zeta: \"q;a\", b",
        "accept: */*",
        "X-ALPHA: 1",
        "Cookie: a=1; b=2",
        "x-zeta: second",
        "Empty:",
        "Authorization: Bearer abc",
        "Connection: close",
    ]));
    let seen = origin.only();
    let kept: Vec<(&str, &str)> = seen
        .fields
        .iter()
        .map(|(n, v)| (n.as_str(), v.as_str()))
        .filter(|(n, _)| !["host", "via", "connection"].contains(&n.to_ascii_lowercase().as_str()))
        .collect();
    let sent = [
        ("X-Zeta", "\"q;a\", b"),
        ("accept", "*/*"),
        ("X-ALPHA", "1"),
        ("Cookie", "a=1; b=2"),
        ("x-zeta", "second"),
        ("Empty", ""),
        ("Authorization", "Bearer abc"),
    ];
    assert_eq!(kept, sent);
    assert_eq!((answer.status, answer.reason.as_str()), (299, "Odd  Reason!"));
    let came: Vec<String> = answer.fields.iter().map(|(n, v)| format!("{n}={v}")).collect();
    let wanted = ["X-B=2", "x-a=spaced", "X-B=1", "SET-cookie=a=1, b", "Set-Cookie=c"];
    assert_eq!(came[..5], wanted);
    assert!(came.contains(&"X-Empty=".to_owned()));
}

#[test]
fn bytes_beyond_ascii_in_values_pass() {
    let origin = Origin::start();
    let gateway = Gateway::start(UNLIMITED);
    let mut request = format!("GET {} HTTP/1.1\r\nHost: a\r\nX-Name: ", origin.url("/")).into_bytes();
    request.extend([0xfc, 0xe4, b'\t', 0xff]);
    request.extend(b"\r\nConnection: close\r\n\r\n");
    assert_eq!(gateway.exchange(request).status, 200);
    assert_eq!(origin.only().field("x-name"), Some("\u{fc}\u{e4}\t\u{ff}"));
}

#[test]
fn unknown_methods_pass_with_their_content() {
    let origin = Origin::start();
    let gateway = Gateway::start(UNLIMITED);
    for method in ["PATCH", "PROPFIND", "M-SEARCH", "brew", "DELETE", "QUERY"] {
        let request = format!("{method} {} HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi", origin.url("/m"));
        assert_eq!(gateway.exchange(request).status, 200, "{method}");
        let seen = origin.requests().pop().unwrap();
        assert_eq!((seen.method.as_str(), seen.text().as_str()), (method, "hi"));
    }
}

#[test]
fn a_path_is_passed_on_byte_for_byte() {
    let origin = Origin::start();
    let gateway = Gateway::start(UNLIMITED);
    for path in ["/a/./b/../c//d;p=1?q=a%2Fb+%20&&=", "/%7Euser/%2e%2E/x", "/a?b?c=http://x/y", "/|[]{}\"'`^"] {
        assert_eq!(gateway.get(&origin.url(path)).text(), path);
    }
    assert_eq!(gateway.get(&origin.url("")).text(), "/", "an empty path is /");
    assert_eq!(gateway.get(&origin.url("?x=1")).text(), "/?x=1");
    let asterisk = format!("OPTIONS {} HTTP/1.1\r\nHost: a\r\n\r\n", origin.url(""));
    assert_eq!(gateway.exchange(asterisk).text(), "*", "OPTIONS without a path asks the server itself");
}

#[test]
fn hosts_and_schemes_are_read_without_regard_to_letter_case() {
    let origin = Origin::start();
    let gateway = Gateway::start(UNLIMITED);
    let answer = gateway.get(&format!("HTTP://LOCALHOST:{}/x", origin.port()));
    assert_eq!((answer.status, answer.text().as_str()), (200, "/x"));
}

#[test]
fn content_goes_out_while_it_comes_in() {
    let origin = Origin::scripted(|_, link| {
        let end = std::time::Instant::now() + PATIENCE;
        link.stream.take_until(b"first\r\n", end).unwrap();
        link.send("HTTP/1.1 100 Continue\r\n\r\n");
        link.stream.take_until(b"0\r\n\r\n", end).unwrap();
        link.answer(200, "both")
    });
    let gateway = Gateway::start(UNLIMITED);
    let mut caller = gateway.caller();
    caller.send(format!("POST {} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", origin.url("/")));
    caller.send("5\r\nfirst\r\n");
    assert!(caller.head().starts_with("HTTP/1.1 100 "), "the first chunk arrived before the second was sent");
    caller.send("6\r\nsecond\r\n0\r\n\r\n");
    assert_eq!(caller.answer().text(), "both");
}

#[test]
fn a_response_comes_back_while_it_is_made() {
    let (go, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let origin = Origin::scripted(move |_, link| {
        link.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n");
        wait.lock().unwrap().recv_timeout(PATIENCE).expect("the caller got the first chunk");
        link.send("6\r\nsecond\r\n0\r\n\r\n");
        Next::Keep
    });
    let gateway = Gateway::start(UNLIMITED);
    let mut caller = gateway.caller();
    caller.send(gateway::get(&origin.url("/"))).head();
    assert_eq!(caller.bytes(10), b"5\r\nfirst\r\n");
    go.send(()).unwrap();
    assert_eq!(caller.bytes(16), b"6\r\nsecond\r\n0\r\n\r\n");
}

#[test]
fn large_content_passes_both_ways_unchanged() {
    let origin = Origin::scripted(|request, link| {
        link.read_body();
        let body = link.body();
        let chunked = request.target == "/chunked";
        if chunked {
            link.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            for part in body.chunks(70_001) {
                link.send(format!("{:x}\r\n", part.len()));
                link.send(part);
                link.send("\r\n");
            }
            link.send("0\r\n\r\n");
        } else {
            link.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()));
            link.send(&body);
        }
        Next::Keep
    });
    let gateway = Gateway::start(UNLIMITED);
    let content: Vec<u8> = (0..8_000_003_u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    for path in ["/length", "/chunked"] {
        let mut caller = gateway.caller();
        let mut request =
            format!("PUT {} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", origin.url(path), content.len())
                .into_bytes();
        request.extend(&content);
        let answer = caller.send(request).answer();
        assert_eq!((answer.status, answer.body == content), (200, true), "{path}");
    }
}

#[test]
fn a_caller_that_does_not_read_stops_the_origin_and_costs_little_memory() {
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    let origin = Origin::scripted(move |_, link| {
        link.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
        let part = vec![b'x'; 1 << 20];
        while link.stream.send(&part).is_ok() {
            counted.fetch_add(1, Ordering::SeqCst);
        }
        Next::Close
    });
    let gateway = Gateway::start(UNLIMITED);
    let before = gateway.memory_kib();
    let mut caller = gateway.caller();
    caller.send(gateway::get(&origin.url("/"))).head();
    let mut last = (usize::MAX, 0);
    eventually("the origin is held back", || {
        std::thread::sleep(Duration::from_millis(50));
        let now = sent.load(Ordering::SeqCst);
        last = if now == last.0 { (now, last.1 + 1) } else { (now, 0) };
        last.1 >= 8
    });
    assert!(last.0 < 100, "{} MiB were taken from the origin for a caller that reads nothing", last.0);
    let grown = gateway.memory_kib().saturating_sub(before);
    assert!(grown < 16 << 10, "the gateway grew by {grown} KiB for one slow caller");
}

#[test]
fn one_connection_serves_many_requests_on_both_sides() {
    let origin = Origin::start();
    let gateway = Gateway::start(UNLIMITED);
    let mut caller = gateway.caller();
    for n in 0..20 {
        let request = format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", origin.url(&format!("/{n}")));
        let answer = caller.send(request).answer();
        assert_eq!(answer.text(), format!("/{n}"));
        assert!(!answer.says_close());
    }
    assert_eq!(origin.connections(), 1, "the origin's connection was kept and used again");
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let origin = Origin::start();
    let gateway = Gateway::start(UNLIMITED);
    let mut caller = gateway.caller();
    let all: String = (0..10)
        .map(|n| {
            let url = origin.url(&format!("/{n}"));
            match n % 3 {
                0 => format!("GET {url} HTTP/1.1\r\nHost: a\r\n\r\n"),
                1 => format!("POST {url} HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nGET "),
                _ => format!("PUT {url} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"),
            }
        })
        .collect();
    caller.send(all);
    for n in 0..10 {
        assert_eq!(caller.answer().text(), format!("/{n}"));
    }
    assert_eq!(origin.count(), 10);
}

#[test]
fn empty_lines_before_a_request_are_forgiven() {
    let origin = Origin::start();
    let gateway = Gateway::start(UNLIMITED);
    let mut caller = gateway.caller();
    caller.send(format!("\r\n\r\n{}", gateway::get(&origin.url("/"))));
    assert_eq!(caller.answer().status, 200, "RFC 9112 §2.2");
}

#[test]
fn a_request_that_waited_is_told_how_long() {
    let origin = Origin::start();
    let rules = limit(1, "1h", "max_wait = \"12h\"").replace("] }", "], path = \"/counted\" }");
    let (gateway, admin) = watched(&rules, "");
    // A request that is counted may have waited until its slot was written down.
    assert_eq!(gateway.get(&origin.url("/free")).field("server-timing"), None, "it did not wait");
    assert_eq!(gateway.get(&origin.url("/counted")).status, 200);
    let mut second = gateway.caller();
    second.send(gateway::get(&origin.url("/counted")));
    queued(admin, "the-limit", 1);
    tune(admin, "the-limit", "\"per\": \"100ms\"");
    let timing = second.answer().field("server-timing").unwrap().to_owned();
    let waited = timing.strip_prefix("lockgate;dur=").unwrap_or_else(|| panic!("{timing}"));
    let waited: f64 = waited.parse().unwrap_or_else(|_| panic!("{timing}"));
    assert!((1.0..60_000.0).contains(&waited), "{timing}");
}

#[test]
fn an_ipv6_address_is_called_where_there_is_ipv6() {
    let gateway = Gateway::start(UNLIMITED);
    let Ok(listener) = std::net::TcpListener::bind("[::1]:0") else {
        let answer = gateway.get("http://[::1]:9/");
        assert_eq!(answer.status, 502, "a machine without IPv6 says so: {}", answer.raw);
        return;
    };
    let port = listener.local_addr().unwrap().port();
    let heard = thread(move || {
        let mut origin = stream::Stream::plain(listener.accept().unwrap().0);
        let end = std::time::Instant::now() + PATIENCE;
        let head = origin.take_until(b"\r\n\r\n", end).unwrap();
        origin.send(b"HTTP/1.1 204 Fine\r\n\r\n").unwrap();
        Request::parse(&head, 0, 0, 0)
    });
    assert_eq!(gateway.get(&format!("http://[::1]:{port}/six")).status, 204);
    let seen = heard.join().unwrap();
    assert_eq!((seen.target.as_str(), seen.field("host")), ("/six", Some(format!("[::1]:{port}").as_str())));
}

#[test]
fn a_response_without_a_date_gets_one_and_others_keep_theirs() {
    let origin = Origin::scripted(|request, link| {
        let date = if request.target == "/dated" { "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n" } else { "" };
        link.send(format!("HTTP/1.1 200 OK\r\n{date}Content-Length: 0\r\n\r\n"));
        Next::Keep
    });
    let gateway = Gateway::start(UNLIMITED);
    let dated = gateway.get(&origin.url("/dated"));
    assert_eq!(dated.all("date").collect::<Vec<_>>(), ["Sun, 06 Nov 1994 08:49:37 GMT"]);
    for answer in [
        gateway.get(&origin.url("/undated")),
        gateway.exchange(
            "OPTIONS http://a.invalid/ HTTP/1.1\r\nHost: a.invalid\r\nMax-Forwards: 0\r\nConnection: close\r\n\r\n",
        ),
    ] {
        assert_eq!(answer.all("date").filter(|date| date.ends_with(" GMT")).count(), 1, "{}", answer.raw);
    }
}
