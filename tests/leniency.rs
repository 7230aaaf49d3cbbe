//! Responses of careless origins reach their callers well-formed; only a response whose end is in doubt is refused.

use crate::support::*;

/// The answer to a GET when the origin sends these bytes and closes.
#[track_caller]
fn through(bytes: impl Into<Vec<u8>>) -> Answer {
    through_with(UNLIMITED, bytes)
}

#[track_caller]
fn through_with(toml: &str, bytes: impl Into<Vec<u8>>) -> Answer {
    let origin = Origin::saying(bytes);
    Gateway::start(toml).get(&origin.url("/"))
}

/// A GET on a connection that goes on.
fn get(origin: &Origin) -> String {
    format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", origin.url("/"))
}

/// The content as the caller reads it, with a whole end.
#[track_caller]
fn content_of(bytes: impl Into<Vec<u8>>) -> String {
    let answer = through(bytes);
    assert!(answer.status == 200 && answer.end != End::Truncated, "{:?} {}", answer.end, answer.raw);
    answer.text()
}

#[test]
fn white_space_before_a_colon_is_removed() {
    let answer = through(
        "HTTP/1.1 200 OK\r\nX-XSS-Protection : 1; mode=block\r\nX-Tab\t: b\r\nX-Empty \t :\r\nContent-Length: 2\r\n\r\nok",
    );
    assert_eq!((answer.status, answer.text().as_str()), (200, "ok"), "{}", answer.raw);
    for line in ["\r\nX-XSS-Protection: 1; mode=block\r\n", "\r\nX-Tab: b\r\n", "\r\nX-Empty: \r\n"] {
        assert!(answer.raw.contains(line), "RFC 9112 §5.1: {}", answer.raw);
    }
}

#[test]
fn several_spaces_in_a_status_line_are_one() {
    let answer = through("HTTP/1.0  401   Unauthorized\r\nContent-Length: 2\r\n\r\nok");
    assert_eq!((answer.status, answer.text().as_str()), (401, "ok"), "{}", answer.raw);
    assert!(answer.raw.starts_with("HTTP/1.1 401 Unauthorized\r\n"), "{}", answer.raw);
}

#[test]
fn folded_lines_become_one() {
    let answer =
        through("HTTP/1.1 200 OK\r\nX-Fold: a\r\n b\r\n\t\tc \r\nX-Late:\r\n d\r\nContent-Length: 2\r\n\r\nok");
    let words =
        |name| answer.field(name).unwrap_or_default().split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>();
    assert_eq!((answer.status, answer.text().as_str()), (200, "ok"), "{}", answer.raw);
    assert_eq!((words("x-fold"), words("x-late")), (vec!["a", "b", "c"], vec!["d"]), "{}", answer.raw);
}

#[test]
fn a_head_whose_lines_end_in_lf_alone_is_read() {
    let origin = Origin::saying_and_keeping("HTTP/1.1 200 OK\nX-A: b\nContent-Length: 2\n\nok");
    let gateway = Gateway::start(UNLIMITED);
    let mut caller = gateway.caller();
    for _ in 0..3 {
        let answer = caller.send(get(&origin)).answer();
        assert_eq!(
            (answer.status, answer.text().as_str(), answer.field("x-a")),
            (200, "ok", Some("b")),
            "{}",
            answer.raw
        );
        assert!(answer.raw.matches('\n').count() == answer.raw.matches("\r\n").count(), "{:?}", answer.raw);
    }
    assert_eq!(content_of("HTTP/1.1 200 OK\n\nuntil the end"), "until the end");
    assert_eq!(content_of("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Of-A-Script: b\nX-C: d\r\n\r\nok"), "ok");
}

#[test]
fn framing_with_a_doubt_is_refused() {
    for (what, bytes) in [
        ("a space before the colon", "Content-Length : 2\r\n\r\nok"),
        ("a tab before the colon", "Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n"),
        ("a folded length", "Content-Length:\r\n 2\r\n\r\nok"),
        ("a length that goes on", "Content-Length: 2\r\n 2\r\n\r\nok"),
        ("a length that is followed by a fold of nothing", "Content-Length: 2\r\n \r\n\r\nok"),
        ("a folded coding", "Transfer-Encoding: chunked\r\n ,gzip\r\n\r\n0\r\n\r\n"),
        ("a length behind a bare LF", "X-A: b\nContent-Length: 2\r\n\r\nok"),
        ("a length before a bare LF", "Content-Length: 2\nX-A: b\r\n\r\nok"),
        ("a head that may end twice", "Content-Length: 9\r\nX-A: b\n\nok\r\n\r\nabc"),
        ("a head that may end at a bare LF", "Content-Length: 9\r\n\nok\r\n\r\nabc"),
        ("a coding beside a length", "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("two lengths", "Content-Length: 2\r\nContent-Length: 3\r\n\r\nokk"),
        ("a list of equal lengths", "Content-Length: 2, 2\r\n\r\nok"),
        ("a length without end", &format!("Content-Length: {}2\r\n\r\nok", "0".repeat(100))),
        ("a length beyond 64 bits", "Content-Length: 18446744073709551617\r\n\r\nok"),
        ("a name with a space inside", "Content Length: 2\r\n\r\nok"),
        ("a first field that is folded", " Content-Length: 2\r\n\r\nok"),
    ] {
        let answer = through(format!("HTTP/1.1 200 OK\r\n{bytes}"));
        assert_eq!(answer.status, 502, "{what}: {}", answer.raw);
        check_ours(&answer, 502, "http_protocol_error");
    }
}

#[test]
fn a_response_with_mixed_line_ends_is_the_last_of_its_connection() {
    let origin = Origin::scripted(|_, link| {
        link.send("HTTP/1.1 304 Not Modified\r\nETag: \"x\"\n\r\n");
        Next::Keep
    });
    let gateway = Gateway::start(UNLIMITED);
    let mut caller = gateway.caller();
    for _ in 0..3 {
        assert_eq!(caller.send(get(&origin)).answer().status, 304);
    }
    assert_eq!(origin.connections(), 3, "another reader may see its end elsewhere");
}

#[test]
fn statuses_beyond_599_pass_in_both_versions() {
    for status in [600, 799, 999] {
        let origin = Origin::saying(format!("HTTP/1.1 {status} Denied\r\nContent-Length: 2\r\n\r\nno"));
        let gateway = Gateway::start(UNLIMITED);
        let answer = gateway.get(&origin.url("/"));
        assert_eq!((answer.status, answer.reason.as_str(), answer.text().as_str()), (status, "Denied", "no"));
        let answer = Caller2::plain(gateway.addr).get(&origin.url("/"));
        assert_eq!((answer.status, answer.text().as_str()), (status, "no"));
    }
}

#[test]
fn careless_chunk_sizes_are_read_and_written_anew() {
    let origin_says = |chunks: &str| format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
    for chunks in [
        "5  \r\nhello\r\n0 \r\n\r\n",
        "5\t\r\nhello\r\n0\r\n\r\n",
        "5 ;a=b\r\nhello\r\n0\r\n\r\n",
        "5 ; a = \"b\" ; c\r\nhello\r\n0 ;d\r\n\r\n",
        "0000000000000005\r\nhello\r\n0000000000000000\r\n\r\n",
        "00000000000000000000000000000005\r\nhello\r\n0\r\n\r\n",
    ] {
        assert_eq!(content_of(origin_says(chunks)), "hello", "{chunks:?}");
    }
    for chunks in [
        " 5\r\nhello\r\n0\r\n\r\n",
        "5 5\r\nhello\r\n0\r\n\r\n",
        "5 x\r\nhello\r\n0\r\n\r\n",
        " \r\nhello\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "f0000000000000005\r\nhello\r\n0\r\n\r\n",
        &format!("{}5\r\nhello\r\n0\r\n\r\n", "0".repeat(100)),
    ] {
        let answer = through(origin_says(chunks));
        let is_refused = answer.status == 502 || answer.end == End::Truncated;
        assert!(is_refused && !answer.text().contains("hello"), "{chunks:?}: {} {}", answer.raw, answer.text());
    }
}

#[test]
fn a_length_with_leading_zeros_is_a_length() {
    for length in ["02", "00000000000000000002", "000000000000000000000000000002"] {
        let answer = through(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\nok"));
        assert_eq!((answer.text().as_str(), answer.field("content-length")), ("ok", Some("2")), "{}", answer.raw);
    }
}

#[test]
fn trailers_are_read_as_fields_are() {
    let origin = Origin::saying_and_keeping(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum : 7\r\nX-Fold: a\r\n b\r\nKeep-Alive: 5\r\n\r\n",
    );
    let gateway = Gateway::start(UNLIMITED);
    let mut caller = gateway.caller();
    for _ in 0..2 {
        let request = format!("GET {} HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n", origin.url("/"));
        let answer = caller.send(request).answer();
        assert_eq!((answer.status, answer.text().as_str(), answer.end), (200, "ok", End::Chunked), "{}", answer.raw);
        let [(sum, seven), (fold, words)] = &answer.trailers[..] else { panic!("{:?}", answer.trailers) };
        assert_eq!((sum.as_str(), seven.as_str(), fold.as_str()), ("X-Sum", "7", "X-Fold"));
        assert!(words.starts_with('a') && words.ends_with('b') && !words.contains(['\r', '\n', '\t']), "{words:?}");
    }
    assert_eq!(origin.connections(), 1);
}

#[test]
fn many_fields_pass() {
    let fields = |count: usize| (0..count).map(|n| format!("X-Field-{n}: {n}\r\n")).collect::<String>();
    let says = |count: usize| format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n{}\r\nok", fields(count));
    let answer = through(says(256));
    assert_eq!((answer.status, answer.field("x-field-255")), (200, Some("255")), "{}", answer.raw);
    check_ours(&through(says(257)), 502, "http_protocol_error");
    let toml = format!("{UNLIMITED}[http]\nmax_response_headers_count = 300\n");
    assert_eq!(through_with(&toml, says(300)).field("x-field-299"), Some("299"));
    check_ours(&through_with(&toml, says(301)), 502, "http_protocol_error");
    let few = format!("{UNLIMITED}[http]\nmax_response_headers_count = 20\n");
    check_ours(&through_with(&few, says(21)), 502, "http_protocol_error");
}

#[test]
fn a_head_may_be_as_large_as_the_file_says() {
    let says = |kib: usize| {
        let cookies = format!("Set-Cookie: {}\r\n", "c".repeat(1024 - 14)).repeat(kib);
        format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n{cookies}\r\nok")
    };
    assert_eq!(through(says(60)).text(), "ok");
    check_ours(&through(says(66)), 502, "http_protocol_error");
    let origin = Origin::saying_and_keeping(says(250));
    let gateway = Gateway::start(&format!("{UNLIMITED}[http]\nmax_response_headers_kb = 256\n"));
    let mut caller = gateway.caller();
    for _ in 0..2 {
        let answer = caller.send(get(&origin)).answer();
        assert_eq!((answer.text().as_str(), answer.all("set-cookie").count()), ("ok", 250));
    }
    assert!(gateway.reload(UNLIMITED));
    check_ours(&gateway.get(&origin.url("/")), 502, "http_protocol_error");
}

#[test]
fn a_length_of_content_that_is_not_sent_is_one_number_or_left_out() {
    for (lengths, kept) in [
        ("Content-Length: 5\r\n", Some("5")),
        ("Content-Length: 005\r\n", Some("5")),
        ("Content-Length: 5\r\nContent-Length: 5\r\n", Some("5")),
        ("Content-Length: 0\r\nContent-Length: 00\r\n", Some("0")),
        ("Content-Length: 5\r\nContent-Length: 6\r\n", None),
        ("Content-Length: 5, 5\r\n", None),
        ("Content-Length: 5x\r\n", None),
        ("Content-Length: -1\r\n", None),
        ("Content-Length:\r\n", None),
        ("Content-Length: 99999999999999999999999\r\n", None),
    ] {
        let lines = lengths.to_owned();
        let origin = Origin::scripted(move |request, link| {
            let status = if request.method == "HEAD" { "200 OK" } else { "304 Not Modified" };
            link.send(format!("HTTP/1.1 {status}\r\nETag: \"x\"\r\n{lines}\r\n"));
            Next::Keep
        });
        let gateway = Gateway::start(UNLIMITED);
        let mut caller = gateway.caller();
        for method in ["HEAD", "GET", "HEAD"] {
            let request = format!("{method} {} HTTP/1.1\r\nHost: a\r\n\r\n", origin.url("/"));
            let answer = caller.send(request).answer_to(method);
            assert_eq!(
                answer.all("content-length").collect::<Vec<_>>(),
                kept.as_slice(),
                "{lengths:?}: {}",
                answer.raw
            );
        }
        assert_eq!(origin.connections(), 1);
    }
    let empty = through("HTTP/1.1 200 OK\r\nContent-Length: 00\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(empty.all("content-length").collect::<Vec<_>>(), ["0"], "{}", empty.raw);
}

#[test]
fn a_status_line_that_is_none_is_called_one() {
    for line in ["RTSP/1.1 200 OK", "ICY 200 OK", "HTTP/1.1 2x0 OK", "HTTP/1.1 1000 OK", "200 OK"] {
        let answer = through(format!("{line}\r\nContent-Length: 0\r\n\r\n"));
        check_ours(&answer, 502, "http_protocol_error");
        assert!(
            answer.text().contains("status") && !answer.text().contains("request line"),
            "{line}: {}",
            answer.text()
        );
    }
}
