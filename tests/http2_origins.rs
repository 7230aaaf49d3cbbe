//! HTTP/2 towards origins: one connection multiplexed, its rules kept, re-dialled, and nothing lost.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use http::Request;

use crate::support::caller2::{get, wait};
use crate::support::certs::{BOTH, Fault};
use crate::support::frames::{ACK, DATA, END_STREAM, Frame, GOAWAY, HEADERS, PING, SETTINGS};
use crate::support::stage::{Before, Stage, by_hand, counted};
use crate::support::*;

#[track_caller]
fn stage_with(toml: &str, manners: Manners) -> (Stage, Origin2) {
    let before = Before::new();
    let origin = Origin2::with(before.authority.both_config(Fault::None), manners);
    let stage = before.gateway(toml, &[origin.port()]);
    (stage, origin)
}

#[test]
fn the_callers_of_a_core_share_one_connection() {
    let (stage, origin) = stage_with(UNLIMITED, Manners::default());
    let warm = stage.opened2(&origin.name());
    assert_eq!(warm.get(&origin.url("/warm")).status, 200);
    let mut callers: Vec<Caller> = (0..10).map(|_| stage.opened(&origin.name())).collect();
    callers.iter_mut().for_each(|one| _ = one.send(stage::get(&origin.name(), "/hold")));
    let calls: Vec<_> = (0..10).map(|_| warm.start(get(&origin.url("/hold")), More::None)).collect();
    eventually("all are with the origin at one time", || origin.count() == 21);
    origin.release(20);
    callers.iter_mut().for_each(|one| assert_eq!(one.answer().text(), "/hold"));
    calls.into_iter().for_each(|one| assert_eq!(one.answer().text(), "/hold"));
    let cores = std::thread::available_parallelism().unwrap().get();
    assert!(origin.connections() <= cores, "{} connections, where each core needs one", origin.connections());
}

#[test]
fn the_origins_most_streams_are_kept_and_a_second_connection_serves_the_rest() {
    let (stage, origin) = stage_with(UNLIMITED, Manners { max_streams: Some(3), ..Manners::default() });
    let caller = stage.opened2(&origin.name());
    assert_eq!(caller.get(&origin.url("/warm")).status, 200);
    let calls: Vec<_> = (0..8).map(|_| caller.start(get(&origin.url("/hold")), More::None)).collect();
    eventually("all are with the origin", || origin.count() == 9);
    assert!(origin.most_streams() <= 3, "{} on one connection", origin.most_streams());
    assert!(origin.connections() >= 3, "eight streams need three connections of three");
    origin.release(8);
    calls.into_iter().for_each(|one| assert_eq!(one.answer().status, 200));
}

#[test]
fn after_goaway_the_origin_is_dialled_again_and_nothing_is_lost() {
    let (stage, origin) = stage_with(UNLIMITED, Manners { goaway_after: Some(10), ..Manners::default() });
    let caller = stage.opened2(&origin.name());
    for n in 0..45 {
        let path = format!("/{n}");
        let answer = caller.get(&origin.url(&path));
        assert_eq!((answer.status, answer.text()), (200, path), "{}", answer.raw);
    }
    let calls: Vec<_> = (45..105).map(|n| caller.start(get(&origin.url(&format!("/{n}"))), More::None)).collect();
    calls.into_iter().for_each(|one| assert_eq!(one.answer().status, 200));
    assert_eq!(origin.count(), 105, "each arrived, and once");
    assert!(origin.connections() >= 5, "{}", origin.connections());
}

#[test]
fn streams_that_a_goaway_says_were_not_processed_are_sent_again() {
    let arrived = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&arrived);
    let (stage, origin) = by_hand(&counted(4, "1h", "when_full = \"refuse\""), move |connection, mut frames| {
        let first = frames.next_of(HEADERS).unwrap();
        count.fetch_add(1, Ordering::SeqCst);
        if connection > 0 {
            frames.send(&Frame::fine(first.stream));
            let Ok(more) = frames.next_of(HEADERS) else { return };
            count.fetch_add(1, Ordering::SeqCst);
            frames.send(&Frame::fine(more.stream));
            frames.next_of(GOAWAY).ok();
            return;
        }
        // The first is answered; the second came too late for this connection.
        let second = frames.next_of(HEADERS).unwrap();
        let mut last = first.stream.to_be_bytes().to_vec();
        last.extend(0_u32.to_be_bytes());
        frames.send(&Frame::new(GOAWAY, 0, 0, last));
        frames.send(&Frame::fine(first.stream));
        assert!(second.stream > first.stream);
        while frames.next().is_ok() {}
    });
    let to = format!("localhost:{}", origin.port());
    let caller = stage.opened2(&to);
    let calls: Vec<_> = (0..2).map(|n| caller.start(get(&format!("https://{to}/{n}")), More::None)).collect();
    for call in calls {
        let answer = call.answer();
        assert_eq!(answer.status, 200, "{}{}", answer.raw, answer.text());
    }
    assert_eq!(arrived.load(Ordering::SeqCst), 2);
}

#[test]
fn a_refused_stream_is_sent_again_with_a_permit_of_its_own() {
    let (stage, origin) = stage_with(&counted(3, "1h", "when_full = \"refuse\""), Manners::default());
    let caller = stage.opened2(&origin.name());
    let answer = caller.get(&origin.url("/refused/1"));
    assert_eq!((answer.status, answer.text()), (200, "taken".to_owned()), "{}", answer.raw);
    assert_eq!(origin.count(), 1);
    let sent = caller.get(&origin.url("/more")).status == 200;
    assert!(sent, "three slots: two at most were needed so far");
    assert_eq!(origin.connections(), 1, "a refused stream says nothing about its connection");
}

#[test]
fn a_reset_answer_is_a_502_and_a_post_is_not_sent_twice() {
    let (stage, origin) = stage_with(UNLIMITED, Manners::default());
    let caller = stage.opened2(&origin.name());
    check_ours(
        &caller.post(&origin.url("/reset"), "x"),
        502,
        "connection_terminated|http_protocol_error|http_response_incomplete",
    );
    assert_eq!(origin.count(), 1);
    assert_eq!(caller.get(&origin.url("/fine")).text(), "/fine");
    assert_eq!(origin.connections(), 1, "the other streams go on");
}

#[test]
fn an_origin_that_says_nothing_after_the_head_is_a_504_and_its_stream_is_reset() {
    let (stage, origin) = stage_with("[timeouts]\nanswer = \"2s\"\n\n", Manners::default());
    let caller = stage.opened2(&origin.name());
    check_ours(&caller.get(&origin.url("/hold")), 504, "http_response_timeout");
    eventually("the origin was told", || origin.seen().first().is_some_and(|seen| seen.broken));
    assert_eq!(caller.get(&origin.url("/fine")).text(), "/fine");
    assert_eq!(origin.connections(), 1);
}

#[test]
fn idle_connections_to_origins_end() {
    let (stage, origin) = stage_with("[timeouts]\nidle = \"2s\"\nbody_idle = \"2s\"\n\n", Manners::default());
    assert_eq!(stage.get(&origin.name(), "/").status, 200);
    eventually("nobody keeps it for ever", || origin.open() == 0);
    assert_eq!(stage.get(&origin.name(), "/again").status, 200);
}

#[test]
fn a_connection_that_died_unseen_costs_no_get() {
    let (stage, origin) = by_hand(UNLIMITED, |_, mut frames| {
        if let Ok(head) = frames.next_of(HEADERS) {
            frames.send(&Frame::fine(head.stream));
        }
    });
    let to = format!("localhost:{}", origin.port());
    let caller = stage.opened2(&to);
    for n in 0..5 {
        let answer = caller.get(&format!("https://{to}/{n}"));
        assert_eq!(answer.status, 200, "{n}: {}{}", answer.raw, answer.text());
    }
    assert_eq!(origin.connections(), 5);
}

#[test]
fn what_origins_say_wrongly_is_a_502_and_no_crash() {
    let bad: Vec<Frame> = vec![
        Frame::headers(1, END_STREAM, &[("x", "no status")]),
        Frame::headers(1, END_STREAM, &[(":status", "abc")]),
        Frame::headers(1, END_STREAM, &[(":status", "200"), ("x-lf", "a\r\nb: c")]),
        Frame::headers(1, END_STREAM, &[(":status", "200"), ("X-Upper", "a")]),
        Frame::headers(1, END_STREAM, &[(":status", "200"), ("connection", "close")]),
        Frame::headers(1, END_STREAM, &[(":status", "101")]),
        Frame::headers(1, END_STREAM, &[(":status", "200"), ("content-length", "5")]),
        Frame::new(DATA, END_STREAM, 1, *b"no head"),
        Frame::new(HEADERS, frames::END_HEADERS, 1, [0xff; 30]),
        Frame::new(PING, 0, 0, *b"short"),
    ];
    for frame in bad {
        let told = frame.clone();
        let (stage, origin) = by_hand(UNLIMITED, move |_, mut frames| {
            if let Ok(head) = frames.next_of(HEADERS) {
                frames.send(&Frame { stream: if told.stream == 0 { 0 } else { head.stream }, ..told.clone() });
                while frames.next().is_ok() {}
            }
        });
        let to = format!("localhost:{}", origin.port());
        let mut inside = stage.opened(&to);
        let answer = inside.send(format!("POST / HTTP/1.1\r\nHost: {to}\r\nContent-Length: 1\r\n\r\nx")).answer();
        assert!(answer.status == 502 || answer.end == End::Truncated, "{frame:?}: {}", answer.raw);
        assert!(!answer.raw.contains("\r\nb: c"), "{}", answer.raw);
    }
}

#[test]
fn pings_and_settings_of_an_origin_are_answered() {
    let (stage, origin) = by_hand(UNLIMITED, |_, mut frames| {
        let head = frames.next_of(HEADERS).unwrap();
        frames.send(&Frame::new(PING, 0, 0, *b"12345678"));
        loop {
            let frame = frames.next().unwrap();
            if frame.kind == PING && frame.flags == ACK {
                assert_eq!(frame.payload, b"12345678");
                break;
            }
        }
        frames.send(&Frame::setting(1, 0));
        loop {
            let frame = frames.next().unwrap();
            if frame.kind == SETTINGS && frame.flags == ACK {
                break;
            }
        }
        frames.send(&Frame::fine(head.stream));
        while frames.next().is_ok() {}
    });
    assert_eq!(stage.get(&format!("localhost:{}", origin.port()), "/").status, 200);
}

#[test]
fn grpc_calls_pass_unary_and_streaming_in_both_directions_at_once() {
    let (stage, origin) = stage_with(&counted(2, "1h", "when_full = \"refuse\""), Manners::default());
    let caller = stage.opened2(&origin.name());
    let ask = || {
        let request = Request::post(origin.url("/grpc.Echo/Chat")).header("te", "trailers");
        request.header("content-type", "application/grpc").header("grpc-timeout", "20S").body(()).unwrap()
    };
    let message = |text: &str| [&[0, 0, 0, 0, u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    let mut unary = caller.start(ask(), More::Follows);
    unary.finish_with(message("hello"));
    let answer = unary.answer();
    assert_eq!((answer.status, answer.body.as_slice()), (200, message("hello").as_slice()), "{}", answer.raw);
    assert_eq!(answer.field("content-type"), Some("application/grpc"));
    assert!(answer.trailers.contains(&("grpc-status".to_owned(), "0".to_owned())), "{:?}", answer.trailers);
    let mut chat = caller.start(ask(), More::Follows);
    let (head, mut body) = chat.try_head().unwrap();
    assert_eq!(head.status, 200, "the head comes before the first message");
    for n in 0..20 {
        let sent = message(&format!("message {n}"));
        chat.push(sent.clone());
        let mut back = Vec::new();
        while back.len() < sent.len() {
            let part = wait("the message comes back", body.data()).expect("more comes").unwrap();
            body.flow_control().release_capacity(part.len()).unwrap();
            back.extend_from_slice(&part);
        }
        assert_eq!(back, sent, "each message is passed on at once");
    }
    chat.send.send_data(bytes::Bytes::new(), true).unwrap();
    while wait("the end", body.data()).is_some() {}
    let trailers = wait("trailers", body.trailers()).unwrap().expect("trailers");
    assert_eq!(trailers["grpc-status"], "0");
    let refused = caller.start(ask(), More::None).answer();
    assert_eq!((refused.status, refused.text().as_str()), (200, ""), "{}", refused.raw);
    assert_eq!((refused.field("content-type"), refused.field("grpc-status")), (Some("application/grpc"), Some("8")));
    let pushback: u64 = refused.field("grpc-retry-pushback-ms").expect("a time").parse().unwrap();
    assert!((3_000_000..=3_600_000).contains(&pushback), "{pushback}");
    assert!(refused.field("grpc-message").is_some_and(|text| text.starts_with("full: ")), "{}", refused.raw);
    assert!(origin.seen().iter().all(|seen| seen.all("te") == ["trailers"]), "gRPC needs it end to end");
}

/// A POST whose trailers follow no content, in one piece.
fn empty_post_with_trailers(to: &str) -> String {
    format!(
        "POST /post HTTP/1.1\r\nHost: {to}\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Sum: 1\r\n\r\n"
    )
}

#[test]
fn trailers_behind_no_content_reach_the_origin() {
    let (stage, origin) = stage_with(UNLIMITED, Manners::default());
    assert_eq!(stage.opened(&origin.name()).send(empty_post_with_trailers(&origin.name())).answer().status, 200);
    assert_eq!(origin.only().trailers, [("x-sum".to_owned(), "1".to_owned())]);
}

#[test]
fn trailers_behind_no_content_are_sent_again_with_their_request() {
    let (tell, told) = mpsc::channel();
    let (stage, origin) = by_hand(UNLIMITED, move |_, mut frames| {
        let mut is_first = true;
        while let Ok(head) = frames.next_of(HEADERS) {
            let mut kinds = vec![head.kind];
            let mut flags = head.flags;
            while flags & END_STREAM == 0 {
                let Ok(frame) = frames.next() else { return };
                if frame.stream == head.stream {
                    kinds.push(frame.kind);
                    flags = frame.flags;
                }
            }
            tell.send(kinds).ok();
            let refused = Frame::reset(head.stream, 7);
            frames.send(&if std::mem::take(&mut is_first) { refused } else { Frame::fine(head.stream) });
        }
    });
    let to = format!("localhost:{}", origin.port());
    assert_eq!(stage.opened(&to).send(empty_post_with_trailers(&to)).answer().status, 200);
    for _ in 0..2 {
        assert_eq!(told.recv_timeout(PATIENCE).unwrap(), [HEADERS, HEADERS], "of the head and of the trailers");
    }
}

#[test]
fn an_origin_that_chooses_http1_is_spoken_to_in_http1() {
    for offer in [&[][..], &["http/1.1"]] {
        let before = Before::new();
        let origin = Origin2::start(before.authority.offering(offer));
        let stage = before.gateway(UNLIMITED, &[origin.port()]);
        let caller = stage.opened2(&origin.name());
        assert_eq!(caller.post(&origin.url("/p"), "content").text(), "content");
        assert_eq!(origin.only().version, 1);
    }
    assert_eq!(BOTH[0], "h2");
}

#[test]
fn a_target_that_http2_cannot_carry_goes_by_http1_byte_for_byte() {
    let (stage, origin) = stage_with(UNLIMITED, Manners::default());
    let odd = ["/a?q=<b>", "/<a>", "/`", "/\"quoted\"", "/a?q=\"b\"", "/|[]{}\"'`^"];
    let all = ["/first"].iter().chain(&odd).chain(&["/last"]);
    let mut caller = stage.opened(&origin.name());
    for path in all {
        let answer = caller.send(stage::get(&origin.name(), path)).answer();
        assert_eq!((answer.status, answer.text().as_str()), (200, *path), "{}", answer.raw);
    }
    let version = |path: &str| origin.seen().iter().find(|seen| seen.path == path).unwrap().version;
    assert_eq!(["/first", "/<a>", "/last"].map(version), [2, 1, 2], "the others go by HTTP/2");
    assert_eq!(origin.connections(), 2, "one of each version");
}

#[test]
fn slots_are_counted_when_the_stream_goes_out_however_many_share_the_connection() {
    let (stage, origin) = stage_with(
        &counted(10, "500ms", "counts = \"answered\""),
        Manners { max_streams: Some(4), ..Manners::default() },
    );
    let caller = stage.opened2(&origin.name());
    let calls: Vec<_> = (0..40).map(|n| caller.start(get(&origin.url(&format!("/{n}"))), More::None)).collect();
    calls.into_iter().for_each(|one| assert_eq!(one.answer().status, 200));
    one_window(10, Duration::from_millis(500), &origin.stamps());
    assert_eq!(origin.count(), 40);
}

#[test]
fn connections_that_a_burst_has_opened_are_closed_though_the_origin_is_still_called() {
    let before = Before::new();
    let manners = Manners { max_streams: Some(1), ..Manners::default() };
    let origin = Origin2::with(before.authority.both_config(Fault::None), manners);
    let stage = before.gateway_on_one_core(UNLIMITED, &[origin.port()]);
    let caller = stage.opened2(&origin.name());
    assert_eq!(caller.get(&origin.url("/warm")).status, 200);
    let calls: Vec<_> = (0..12).map(|_| caller.start(get(&origin.url("/hold")), More::None)).collect();
    eventually("all are with the origin", || origin.count() == 13);
    assert!(origin.open() >= 12, "one stream each");
    origin.release(12);
    calls.into_iter().for_each(|one| assert_eq!(one.answer().status, 200));
    eventually("few are left", || caller.get(&origin.url("/again")).status == 200 && origin.open() <= 4);
}

#[test]
fn an_origin_that_takes_no_more_streams_costs_no_descriptor_for_each_request() {
    let (stage, origin) = by_hand(UNLIMITED, |_, mut frames| {
        let Ok(head) = frames.next_of(HEADERS) else { return };
        // SETTINGS_MAX_CONCURRENT_STREAMS.
        frames.send_all(&[Frame::setting(3, 0), Frame::fine(head.stream)]);
        while frames.next_of(HEADERS).is_ok() {}
    });
    let to = format!("localhost:{}", origin.port());
    let caller = stage.opened2(&to);
    for n in 0..10 {
        assert_eq!(caller.get(&format!("https://{to}/{n}")).status, 200);
    }
    assert_eq!(origin.connections(), 10);
    eventually("none is kept", || origin.open() == 0);
}
