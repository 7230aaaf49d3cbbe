//! Content has one length, and its end is seen, whichever version it came by and goes by.

use std::time::{Duration, Instant};

use http::Request;

use crate::support::caller2::get;
use crate::support::certs::Fault;
use crate::support::frames::{DATA, END_HEADERS, END_STREAM, Fate, Frame, Frames, HEADERS};
use crate::support::stage::{Before, Stage};
use crate::support::*;

#[track_caller]
fn stage() -> (Stage, Origin2) {
    let before = Before::new();
    let origin = Origin2::start(before.authority.both_config(Fault::None));
    let stage = before.gateway(UNLIMITED, &[origin.port()]);
    (stage, origin)
}

#[test]
fn lengths_stay_what_they_were() {
    let (stage, origin) = stage();
    let caller = stage.opened2(&origin.name());
    let answer = caller.start(Request::head(origin.url("/x")).body(()).unwrap(), More::None).answer();
    assert_eq!((answer.status, answer.body.len()), (200, 0));
    let request = Request::post(origin.url("/x")).header("content-length", "4").body(()).unwrap();
    let mut call = caller.start(request, More::Follows);
    call.finish_with("four");
    assert_eq!(call.answer().text(), "four");
    assert_eq!(origin.seen()[1].all("content-length"), ["4"]);
    let mut inside = stage.opened(&origin.name());
    let post = format!("POST /y HTTP/1.1\r\nHost: {}\r\nContent-Length: 4\r\n\r\nfour", origin.name());
    assert_eq!(inside.send(post).answer().text(), "four");
    assert_eq!(origin.seen()[2].all("content-length"), ["4"]);
    let empty = format!("POST /z HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\n\r\n", origin.name());
    let answer = inside.send(empty).answer();
    assert_eq!((answer.status, answer.end), (200, End::Length), "no content, and it says so: {}", answer.raw);
    assert_eq!(answer.field("content-length"), Some("0"), "{}", answer.raw);
    assert_eq!(origin.seen()[3].all("content-length"), ["0"], "an empty content is not the same as none");
}

#[test]
fn a_truncated_answer_is_visibly_truncated_in_both_versions() {
    let (stage, origin) = stage();
    for path in ["/half", "/short"] {
        let answer = stage.get(&origin.name(), path);
        assert!(answer.end == End::Truncated || answer.status == 502, "{path}: {:?} {}", answer.end, answer.raw);
        let answer = stage.opened2(&origin.name()).start(get(&origin.url(path)), More::None).try_answer();
        let cut = answer.as_ref().map_or(true, |a| a.end == End::Truncated || a.status == 502);
        assert!(cut, "{path}: {answer:?}");
    }
    let cut = Origin::scripted(|_, link| {
        link.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n");
        Next::Die
    });
    let answer = Caller2::plain(stage.gateway.addr).start(get(&cut.url("/")), More::None).try_answer();
    assert!(answer.as_ref().map_or(true, |a| a.end == End::Truncated || a.status == 502), "{answer:?}");
}

#[test]
fn interim_answers_and_early_ones_pass_in_both_versions() {
    let (stage, origin) = stage();
    let caller = stage.opened2(&origin.name());
    let answer = caller.get(&origin.url("/interim"));
    assert_eq!(answer.interim.iter().map(|one| one.status).collect::<Vec<_>>(), [103], "{}", answer.raw);
    assert_eq!(answer.text(), "after");
    let mut call = caller.start(Request::post(origin.url("/early")).body(()).unwrap(), More::Follows);
    call.send.send_data(vec![b'x'; 1000].into(), false).unwrap();
    let answer = call.answer();
    assert_eq!((answer.status, answer.text()), (413, "too much".to_owned()));
    assert_eq!(caller.get(&origin.url("/still")).text(), "/still", "the connection lives on");
}

#[test]
fn answers_that_have_no_content_by_rule_end_at_once_in_http1() {
    // 204 and 304 from the static table (RFC 7541, appendix A); 205 and 200 end with their head.
    for (status, block) in [(204, vec![0x89]), (304, vec![0x8b]), (200, vec![0x88]), (205, b"\x08\x03205".to_vec())] {
        let before = Before::new();
        let origin = Origin::scripted_tls(before.authority.both_config(Fault::None), move |_, link| {
            let mut frames = Frames::origin(link.stream);
            while let Ok(head) = frames.next_of(HEADERS) {
                frames.send(&Frame::new(HEADERS, END_HEADERS | END_STREAM, head.stream, block.clone()));
            }
            Next::Close
        });
        let stage = before.gateway(UNLIMITED, &[origin.port()]);
        let to = format!("localhost:{}", origin.port());
        let mut inside = stage.opened(&to);
        for _ in 0..3 {
            let answer = inside.send(stage::get(&to, "/")).answer();
            assert_eq!(answer.status, status, "{}", answer.raw);
            assert!(matches!(answer.end, End::Empty | End::Length), "{:?}: {}", answer.end, answer.raw);
            assert!(!answer.says_close(), "{}", answer.raw);
        }
        let head = inside.send(format!("HEAD / HTTP/1.1\r\nHost: {to}\r\n\r\n")).answer_to("HEAD");
        assert_eq!(head.status, status);
    }
}

#[test]
fn large_content_passes_both_ways_in_both_versions() {
    let (stage, origin) = stage();
    let content = vec![b'x'; 8 << 20];
    let caller = stage.opened2(&origin.name());
    let request = Request::post(origin.url("/echo")).body(()).unwrap();
    let mut call = caller.start(request, More::Follows);
    let (mut answer, mut body) = call.try_head().unwrap();
    let sent = content.clone();
    let sender = thread(move || call.finish_with(sent));
    caller2::wait("all comes back", caller2::rest(&mut answer, &mut body, "POST"));
    sender.join().unwrap();
    assert!(answer.body == content && answer.end == End::Chunked);
    assert!(caller.post(&origin.url("/back"), content.clone()).body == content);
    let plain = Origin::scripted(|_, link| {
        link.read_body();
        let body = link.body();
        link.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()));
        link.send(body);
        Next::Keep
    });
    let answer = Caller2::plain(stage.gateway.addr).post(&plain.url("/back"), content.clone());
    assert!(answer.body == content && answer.end == End::Length);
}

#[test]
fn who_asks_whether_to_go_on_is_told_by_the_origin_in_either_version() {
    let (stage, origin) = stage();
    let mut inside = stage.opened(&origin.name());
    let ask =
        format!("POST /p HTTP/1.1\r\nHost: {}\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n", origin.name());
    inside.send(ask);
    inside.stream.more(Instant::now() + Duration::from_secs(3)).ok();
    let answer = inside.send("four").answer();
    assert_eq!((answer.status, answer.text()), (200, "four".to_owned()), "{}", answer.raw);
    let mut inside = stage.opened(&origin.name());
    let ask =
        format!("POST /early HTTP/1.1\r\nHost: {}\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n", origin.name());
    let answer = inside.send(ask).answer();
    assert_eq!(answer.status, 413, "{}", answer.raw);
}

#[test]
fn a_head_keeps_its_length_and_an_empty_post_says_that_it_is_empty() {
    let origin = Origin::scripted(|request, link| {
        link.read_body();
        if request.method == "HEAD" {
            link.send("HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n");
            return Next::Keep;
        }
        link.answer(200, "")
    });
    let gateway = Gateway::start(UNLIMITED);
    let caller = Caller2::plain(gateway.addr);
    let head = caller.start(Request::head(origin.url("/")).body(()).unwrap(), More::None).answer();
    assert_eq!((head.field("content-length"), head.body.len()), (Some("1234"), 0));
    let post = caller.start(Request::post(origin.url("/")).body(()).unwrap(), More::None).answer();
    assert_eq!((post.status, post.field("content-length")), (200, Some("0")));
    assert_eq!(origin.requests()[1].field("content-length"), Some("0"), "or an origin may ask for one (RFC 9110 §8.6)");
}

#[test]
fn a_caller_that_hangs_up_on_an_answer_resets_its_stream_and_no_other() {
    let (stage, origin) = stage();
    let mut staying = stage.opened(&origin.name());
    for n in 0..3 {
        let mut inside = stage.opened(&origin.name());
        inside.send(stage::get(&origin.name(), "/stream/60000000")).head();
        inside.reset();
        eventually("the origin was told", || origin.seen().iter().filter(|one| one.broken).count() == n + 1);
        assert_eq!(staying.send(stage::get(&origin.name(), "/fine")).answer().text(), "/fine");
    }
    let cores = std::thread::available_parallelism().unwrap().get();
    assert!(origin.connections() <= cores, "{}", origin.connections());
}

#[test]
fn a_length_that_the_content_belies_never_ends_well() {
    let origin = Origin::scripted(|request, link| {
        let whole = link.read_body();
        if !whole {
            return Next::Die;
        }
        link.answer(200, &request.target)
    });
    let gateway = Gateway::start(UNLIMITED);
    let post = |length: &str, parts: &[&str]| {
        let to = origin.authority();
        let mut fields = frames::request("POST", &to, "/post");
        fields.push(("content-length", length));
        let mut all = vec![Frame::headers(1, 0, &fields)];
        for (n, part) in parts.iter().enumerate() {
            let flags = if n + 1 == parts.len() { END_STREAM } else { 0 };
            all.push(Frame::new(DATA, flags, 1, part.as_bytes()));
        }
        {
            let mut caller = gateway.caller();
            let mut frames = Frames::caller(&mut caller.stream);
            frames.send_all(&all);
            frames.fate(1)
        }
    };
    assert_eq!(post("5", &["hello"]), Fate::Answered(200));
    for (length, parts) in [
        ("5", &["hell", ""][..]),
        ("5", &["hello!"]),
        ("0", &["GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"]),
        ("4", &["four", "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"]),
    ] {
        let fate = post(length, parts);
        assert!(fate.is_refusal() || fate == Fate::Answered(502), "{length} {parts:?}: {fate:?}");
    }
    assert!(origin.targets().iter().all(|t| t == "/post"), "nothing was smuggled: {:?}", origin.targets());
    let whole = origin.requests().iter().filter(|r| r.body == b"hello").count();
    assert_eq!(whole, 1, "only the honest one came whole");
}
