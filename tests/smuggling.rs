//! An ambiguous or malformed message is refused and its connection closed; it never reaches an origin, whole or in part.

use crate::support::stream::Stop;
use crate::support::*;

/// Raw bytes after the request line and Host, each of which makes the message one to refuse.
const BAD_REQUESTS: [(&str, &str); 53] = [
    ("CL.TE", "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG"),
    ("TE.CL", "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5c\r\nGPOST / HTTP/1.1\r\n\r\n0\r\n\r\n"),
    ("TE and equal CL", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("differing lengths", "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"),
    ("differing lengths in one field", "Content-Length: 3, 4\r\n\r\nabcd"),
    ("a length with a sign", "Content-Length: +3\r\n\r\nabc"),
    ("a negative length", "Content-Length: -3\r\n\r\nabc"),
    ("a length in hex", "Content-Length: 0x3\r\n\r\nabc"),
    ("an empty length", "Content-Length:\r\n\r\nabc"),
    ("a length with a space inside", "Content-Length: 1 2\r\n\r\nabc"),
    ("a length beyond 64 bits", "Content-Length: 18446744073709551617\r\n\r\nabc"),
    ("a length with a tail", "Content-Length: 3abc\r\n\r\nabc"),
    ("chunked not last", "Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n"),
    ("chunked twice", "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
    ("chunked twice in two fields", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("chunked and identity", "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("a coding nobody knows below chunked", "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    ("identity alone", "Transfer-Encoding: identity\r\n\r\nabc"),
    ("an odd spelling", "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    ("a quoted coding", "Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n"),
    ("a coding with a parameter", "Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n"),
    ("a vertical tab before the coding", "Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n"),
    ("an empty coding", "Transfer-Encoding:\r\n\r\n0\r\n\r\n"),
    ("a space before the colon", "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
    ("a tab before the colon", "X-A\t: b\r\n\r\n"),
    ("a folded line", "X-A: b\r\n c\r\n\r\n"),
    ("a folded coding", "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n"),
    ("a first field that begins with a space", " X-A: b\r\n\r\n"),
    ("a bare CR in a value", "X-A: b\rTransfer-Encoding: chunked\r\n\r\n"),
    ("a bare LF ends a field", "X-A: b\nX-B: c\r\n\r\n"),
    ("bare LFs end the head", "X-A: b\n\n"),
    ("a NUL in a value", "X-A: b\0c\r\n\r\n"),
    ("a NUL in a name", "X-\0A: b\r\n\r\n"),
    ("a control in a value", "X-A: b\x01c\r\n\r\n"),
    ("DEL in a value", "X-A: b\x7fc\r\n\r\n"),
    ("no colon", "X-A\r\n\r\n"),
    ("no name", ": b\r\n\r\n"),
    ("a space in a name", "X A: b\r\n\r\n"),
    ("a bracket in a name", "X(A): b\r\n\r\n"),
    ("two Hosts", "Host: b\r\n\r\n"),
    ("Connection names Host", "Connection: Host\r\n\r\n"),
    ("Connection names Content-Length", "Content-Length: 3\r\nConnection: content-length\r\n\r\nabc"),
    ("Connection names Transfer-Encoding and more", "Connection: close, Authorization\r\nAuthorization: x\r\n\r\n"),
    ("Connection names Cookie", "Cookie: a\r\nConnection: Cookie\r\n\r\n"),
    ("Connection names X-Forwarded-For", "X-Forwarded-For: 203.0.113.9\r\nConnection: close, x-forwarded-for\r\n\r\n"),
    ("Connection names Forwarded", "Forwarded: for=a\r\nConnection: Forwarded\r\n\r\n"),
    ("Connection names X-Real-IP", "X-Real-IP: a\r\nConnection: X-Real-IP\r\n\r\n"),
    ("Connection names Origin", "Origin: null\r\nConnection: ORIGIN\r\n\r\n"),
    ("Connection names Range", "Range: bytes=0-1\r\nConnection: keep-alive\r\nConnection: range\r\n\r\n"),
    ("Connection names traceparent", "traceparent: a\r\nConnection: traceparent\r\n\r\n"),
    ("Connection names If-Match", "If-Match: a\r\nConnection: if-match\r\n\r\n"),
    ("a non-ASCII name", "X-\u{fc}: b\r\n\r\n"),
    ("an Expect nobody knows", "Expect: 200-maybe\r\n\r\n"),
];

/// Sends bad bytes, and a whole good request behind them that must never be believed.
#[track_caller]
fn refuse(gateway: &Gateway, origin: &Origin, what: &str, bytes: &[u8], statuses: &[u16]) {
    let mut caller = gateway.caller();
    let mut all = bytes.to_vec();
    all.extend(gateway::get(&origin.url("/smuggled")).bytes());
    let answer = caller.send(all).try_answer("POST").unwrap_or_else(|stop| panic!("{what}: {stop:?} and no answer"));
    assert!(statuses.contains(&answer.status), "{what}: {}", answer.raw);
    check_ours(&answer, answer.status, "http_request_error");
    assert!(answer.says_close(), "{what}: where the next message begins is in doubt: {}", answer.raw);
    let (rest, stop) = caller.rest();
    assert!(rest.is_empty(), "{what}: a second answer: {}", String::from_utf8_lossy(&rest));
    assert_ne!(stop, Stop::Silence, "{what}: the connection stayed open");
    assert_eq!(origin.targets(), [""; 0], "{what}: reached the origin");
}

#[test]
fn ambiguous_heads_are_refused() {
    let origin = Origin::start();
    let gateway = Gateway::start(UNLIMITED);
    for (what, bytes) in BAD_REQUESTS {
        let status = match what {
            "an Expect nobody knows" => 417,
            "chunked and identity" | "a coding nobody knows below chunked" => 501,
            _ => 400,
        };
        let bytes: Vec<u8> = bytes.chars().map(|c| u8::try_from(c).unwrap()).collect();
        let mut all = format!("POST {} HTTP/1.1\r\nHost: {}\r\n", origin.url("/bad"), origin.authority()).into_bytes();
        all.extend(bytes);
        refuse(&gateway, &origin, what, &all, &[status]);
    }
    assert_eq!(gateway.get(&origin.url("/")).status, 200, "others are not affected");
}

#[test]
fn request_lines_that_are_none_are_refused() {
    let origin = Origin::start();
    let gateway = Gateway::start(UNLIMITED);
    let url = origin.url("/");
    for line in [
        format!("GET\t{url} HTTP/1.1"),
        format!("GET  {url} HTTP/1.1"),
        format!("GET {url}  HTTP/1.1"),
        format!("GET {url} HTTP/1.1 "),
        format!("GET {url}"),
        format!("GET {url} http/1.1"),
        format!("GET {url} HTTP/1"),
        format!("GET {url} HTTP/11.1"),
        format!("GET {url} HTTP/1.x"),
        format!(" GET {url} HTTP/1.1"),
        format!("GE T {url} HTTP/1.1"),
        format!("G@T {url} HTTP/1.1"),
        format!("GET {url}\x01 HTTP/1.1"),
        format!("GET {url}\u{fc} HTTP/1.1"),
        format!("GET {url}\\\x7f HTTP/1.1"),
        "GET HTTP/1.1".to_owned(),
        "HTTP/1.1 200 OK".to_owned(),
        "\x16\x03\x01\x02".to_owned(),
    ] {
        let bytes: Vec<u8> = format!("{line}\r\nHost: a\r\n\r\n").chars().map(|c| u8::try_from(c).unwrap()).collect();
        // A line whose last part is no version we know may be told so.
        refuse(&gateway, &origin, &format!("{line:?}"), &bytes, &[400, 501, 505]);
    }
    for version in ["HTTP/2.0", "HTTP/3.0", "HTTP/0.9"] {
        let answer = gateway.exchange(format!("GET {url} {version}\r\nHost: a\r\n\r\n"));
        assert!(matches!(answer.status, 400 | 501 | 505), "{version}: {}", answer.raw);
    }
    assert_eq!(origin.count(), 0);
}

#[test]
fn a_request_whose_lines_end_in_lf_alone_is_refused() {
    let origin = Origin::start();
    let gateway = Gateway::start(UNLIMITED);
    let bytes = format!("GET {} HTTP/1.1\nHost: a\n\n", origin.url("/"));
    refuse(&gateway, &origin, "LF line ends", bytes.as_bytes(), &[400]);
    let bytes = format!("GET {} HTTP/1.1\r\nHost: a\r\n\n", origin.url("/"));
    refuse(&gateway, &origin, "LF ends the head", bytes.as_bytes(), &[400]);
}

#[test]
fn bad_chunks_never_become_another_request() {
    let bad = [
        ("no size", "\r\nabc\r\n0\r\n\r\n"),
        ("a size with a sign", "+3\r\nabc\r\n0\r\n\r\n"),
        ("a negative size", "-3\r\nabc\r\n0\r\n\r\n"),
        ("a size with 0x", "0x3\r\nabc\r\n0\r\n\r\n"),
        ("a size that is none", "g\r\nabc\r\n0\r\n\r\n"),
        ("a size beyond 64 bits", "10000000000000003\r\nabc\r\n0\r\n\r\n"),
        ("a space before the size", " 3\r\nabc\r\n0\r\n\r\n"),
        ("a space inside the size", "3 3\r\nabc\r\n0\r\n\r\n"),
        ("LF after the size", "3\nabc\r\n0\r\n\r\n"),
        ("CR after the size", "3\rabc\r\n0\r\n\r\n"),
        ("data longer than its size", "3\r\nabcd\r\n0\r\n\r\n"),
        ("LF after the data", "3\r\nabc\n0\r\n\r\n"),
        ("a control in an extension", "3;a\x01\r\nabc\r\n0\r\n\r\n"),
        ("a bare LF in an extension", "3;a\nxx\r\nabc\r\n0\r\n\r\n"),
        ("a bare CR in an extension", "3;a\rxx\r\nabc\r\n0\r\n\r\n"),
        ("a trailer without a colon", "3\r\nabc\r\n0\r\nTrailer\r\n\r\n"),
        ("a folded trailer", "3\r\nabc\r\n0\r\nA: b\r\n c\r\n\r\n"),
        ("a trailer with LF", "3\r\nabc\r\n0\r\nA: b\n\r\n"),
    ];
    for (what, bytes) in bad {
        // One origin each: a head may have gone out before the content turns out to be bad.
        let origin = Origin::start();
        let gateway = Gateway::start(UNLIMITED);
        let mut caller = gateway.caller();
        caller.send(format!(
            "POST {} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{bytes}{}",
            origin.url("/bad"),
            gateway::get(&origin.url("/smuggled"))
        ));
        if let Ok(answer) = caller.try_answer("POST") {
            assert_eq!(answer.status, 400, "{what}: {}", answer.raw);
            assert!(answer.says_close(), "{what}: {}", answer.raw);
        }
        let (rest, stop) = caller.rest();
        assert!(rest.is_empty() && stop != Stop::Silence, "{what}: {stop:?} {}", String::from_utf8_lossy(&rest));
        let targets = origin.targets();
        assert!(targets.is_empty() || targets == ["/bad"], "{what}: {targets:?}");
        assert!(
            origin.requests().iter().all(|r| r.trailers.is_empty()),
            "{what}: content came to an end at the origin"
        );
    }
}

#[test]
fn chunk_extensions_and_trailers_cannot_grow_without_end() {
    let origin = Origin::start();
    let gateway = Gateway::start(UNLIMITED);
    for (what, part) in [("extension", format!("3;{}\r\nabc\r\n", "x".repeat(1 << 20))), ("trailer", trailers())] {
        let mut caller = gateway.caller();
        caller.send(format!("POST {} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", origin.url("/bad")));
        caller.send(part);
        if let Ok(answer) = caller.try_answer("POST") {
            assert!(matches!(answer.status, 400 | 431), "{what}: {}", answer.raw);
        }
        assert_ne!(caller.rest().1, Stop::Silence, "{what}");
    }
    assert!(origin.requests().iter().all(|r| r.trailers.is_empty()));
}

fn trailers() -> String {
    format!("0\r\n{}\r\n", "X-T: y\r\n".repeat(100_000))
}

#[test]
fn trailers_cannot_set_framing_or_routing() {
    let origin = Origin::start();
    let gateway = Gateway::start(UNLIMITED);
    let answer = gateway.exchange(format!(
        "POST {} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n\
         3\r\nabc\r\n0\r\nX-T: 1\r\nContent-Length: 99\r\nTransfer-Encoding: gzip\r\nHost: evil\r\nConnection: close\r\n\r\n",
        origin.url("/")
    ));
    assert!(matches!(answer.status, 200 | 400), "{}", answer.raw);
    for (name, _) in origin.requests().into_iter().flat_map(|r| r.trailers) {
        assert!(name.eq_ignore_ascii_case("x-t"), "{name} reached the origin as a trailer");
    }
}

#[test]
fn trailers_of_one_hop_stay_on_it() {
    let origin = Origin::start();
    let gateway = Gateway::start(UNLIMITED);
    let answer = gateway.exchange(format!(
        "POST {} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
         3\r\nabc\r\n0\r\nX-T: 1\r\nKeep-Alive: timeout=5\r\nTrailer: X-U\r\n\r\n",
        origin.url("/")
    ));
    assert_eq!(answer.status, 200, "{}", answer.raw);
    assert_eq!(origin.only().trailers, [("X-T".to_owned(), "1".to_owned())]);
}

#[test]
fn equal_lengths_said_twice_are_one_or_refused() {
    let origin = Origin::start();
    let gateway = Gateway::start(UNLIMITED);
    let answer = gateway.exchange(format!(
        "POST {} HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
        origin.url("/")
    ));
    assert!(matches!(answer.status, 200 | 400), "{}", answer.raw);
    for seen in origin.requests() {
        assert_eq!(seen.all("content-length").collect::<Vec<_>>(), ["3"], "RFC 9112 §6.3: one, or refused");
    }
    for zeros in [["0", "0"], ["0", "00"], ["000", "0"]] {
        let lines: String = zeros.map(|zero| format!("Content-Length: {zero}\r\nX-Between: a\r\n")).concat();
        gateway.exchange(format!("POST {} HTTP/1.1\r\nHost: a\r\n{lines}\r\n", origin.url("/none")));
        let seen = origin.requests().pop().unwrap();
        assert_eq!(seen.all("content-length").collect::<Vec<_>>(), ["0"], "{zeros:?}");
    }
    assert_eq!(origin.count(), 4);
}

#[test]
fn a_head_too_large_is_refused_and_costs_little_memory() {
    let origin = Origin::start();
    let gateway = Gateway::start(UNLIMITED);
    let before = gateway.memory_kib();
    let start = format!("GET {} HTTP/1.1\r\nHost: a\r\n", origin.url("/"));
    for (what, bytes) in [
        ("a hundred thousand fields", format!("{start}{}\r\n", "X-A: b\r\n".repeat(100_000))),
        ("two hundred fields", format!("{start}{}\r\n", "X-A: b\r\n".repeat(200))),
        ("a line of a MiB", format!("{start}X-A: {}\r\n\r\n", "b".repeat(1 << 20))),
        ("a name of a MiB", format!("{start}{}: a\r\n\r\n", "b".repeat(1 << 20))),
    ] {
        let mut caller = gateway.caller();
        match caller.send(bytes).try_answer("GET") {
            Ok(answer) => check_ours(&answer, 431, "http_request_error"),
            Err(stop) => panic!("{what}: {stop:?}, and no answer"),
        }
        assert_ne!(caller.rest().1, Stop::Silence, "{what}");
    }
    let long = gateway.exchange(format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", origin.url(&"/a".repeat(1 << 19))));
    check_ours(&long, 414, "http_request_error");
    assert_eq!(origin.count(), 0);
    let grown = gateway.memory_kib().saturating_sub(before);
    assert!(grown < 16 << 10, "grown by {grown} KiB");
}

#[test]
fn a_head_of_usual_size_passes() {
    let origin = Origin::start();
    let gateway = Gateway::start(UNLIMITED);
    let cookies = format!("Cookie: {}\r\n", "c".repeat(8000));
    let fields: String = (0..60).map(|n| format!("X-{n}: {n}\r\n")).collect();
    let path = format!("/{}", "p".repeat(4000));
    let request =
        format!("GET {} HTTP/1.1\r\nHost: a\r\n{cookies}{fields}Connection: close\r\n\r\n", origin.url(&path));
    assert_eq!(gateway.exchange(request).text(), path);
    assert_eq!(origin.only().field("x-59"), Some("59"));
}

#[test]
fn an_origins_ambiguous_answer_is_not_passed_on() {
    for (what, bytes) in [
        ("length and chunked", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("differing lengths", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"),
        ("a bad length", "HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\nabc"),
        ("an unknown coding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n"),
        ("a NUL", "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n"),
        ("a bare CR", "HTTP/1.1 200 OK\r\nX: a\rSet-Cookie: b\r\nContent-Length: 0\r\n\r\n"),
        ("a bad status", "HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n"),
        ("a status beyond 599", "HTTP/1.1 1000 OK\r\nContent-Length: 0\r\n\r\n"),
        ("no HTTP", "SSH-2.0-OpenSSH_9.2\r\n\r\n"),
        ("another version", "HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ] {
        let origin = Origin::saying(bytes);
        let gateway = Gateway::start(UNLIMITED);
        let answer = gateway.get(&origin.url("/"));
        assert_eq!(answer.status, 502, "{what}: {}", answer.raw);
        check_ours(&answer, 502, "http_protocol_error");
    }
}
