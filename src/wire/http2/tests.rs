//! Tests of HTTP/2: both connections talk to each other, and to peers of raw frames.

use std::future::poll_fn;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::time::Time;
use crate::wire::{Conn, HeadLimits, Name, RequestHead, ResponseHead, Stream};

const NOW: Time = Time::from_nanos(1 << 60);

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (near, listener.accept().await.unwrap().0)
}

async fn link(near: TcpStream) -> H2Conn {
    let (link, driving) = H2Conn::handshake(Stream::plain(near), HeadLimits::default(), NOW).await.unwrap();
    tokio::spawn(driving);
    settle(&link).await;
    link
}

/// Waits for the settings of the far end.
async fn settle(link: &H2Conn) {
    link.open_stream(NOW).expect("there is room for one stream at least").settings().wait().await;
}

/// Connection to an origin, and the requests that arrive at its far end.
async fn world() -> (H2Conn, tokio::sync::mpsc::UnboundedReceiver<IncomingRequest>) {
    let (near, far) = pair().await;
    let (give, calls) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut session = H2CallerConn::handshake(Stream::plain(far)).await.unwrap();
        while let Some(Ok(call)) = poll_fn(|cx| session.poll_request(cx)).await {
            give.send(call).ok();
        }
    });
    (link(near).await, calls)
}

fn asking(link: &H2Conn, method: &str) -> Conn {
    let mut conn = Conn::new(Stream::origin(link.open_stream(NOW).expect("a link with room")));
    let mut fields = FieldMap::default();
    fields.put(b"X-One", b"1");
    conn.stream.set_request(fields.request(method, "https", b"api.example", b"/a?b").unwrap());
    conn
}

async fn reply(conn: &mut Conn) -> Result<ResponseHead, StreamFailure> {
    let mut head = ResponseHead::default();
    loop {
        let stream = conn.stream.as_origin().unwrap();
        match poll_fn(|cx| stream.poll_response(cx, HeadLimits::default(), &mut head)).await? {
            ResponseKind::Final => return Ok(head),
            ResponseKind::Interim => assert_eq!(head.status(), 103),
        }
    }
}

async fn all(conn: &mut Conn) -> Vec<u8> {
    let mut content = Vec::new();
    while poll_fn(|cx| conn.poll_fill(cx)).await.unwrap() > 0 {
        content.extend_from_slice(conn.input.bytes());
        conn.input.consume(conn.input.bytes().len());
    }
    content
}

/// Encodes a frame (RFC 9113 §4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

#[tokio::test]
async fn a_request_and_its_response_go_through_with_content_and_trailers() {
    let (link, mut calls) = world().await;
    let mut origin = asking(&link, "POST");
    origin.out().extend_from_slice(b"content");
    origin.stream.set_trailers(read_trailers(b"x-sum: 7\r\n\r\n").unwrap());
    origin.finish();
    poll_fn(|cx| origin.poll_flush_head(cx)).await.unwrap();

    let call = calls.recv().await.unwrap();
    let mut head = RequestHead::default();
    call.read_head("https", &mut head).unwrap();
    assert_eq!((head.method(), head.target()), ("POST", "https://api.example/a?b"));
    assert_eq!(head.find("x-one"), Some(&b"1"[..]));
    let mut caller = Conn::new(Stream::caller(call.stream));
    assert_eq!(all(&mut caller).await, b"content");
    let mut trailers = Vec::new();
    write_trailers(&caller.stream.take_trailers().unwrap(), &mut trailers);
    assert_eq!(trailers, b"x-sum: 7\r\n\r\n");

    caller.stream.send_interim(FieldMap::default().response(103)).unwrap();
    let mut fields = FieldMap::default();
    fields.put(b"Date", b"now");
    caller.stream.set_response(fields.response(201));
    caller.out().extend_from_slice(b"answer");
    caller.finish();
    caller.flush().await.unwrap();

    let head = reply(&mut origin).await.unwrap();
    assert_eq!((head.status(), head.reason(), head.get(Name::Date)), (201, &b"Created"[..], Some(&b"now"[..])));
    assert_eq!(all(&mut origin).await, b"answer");
}

/// Blocked connection, filled by the content of its first request; that request, and the far end,
/// which has read nothing.
async fn stuck() -> (H2Conn, Conn, TcpStream) {
    let (near, mut far) = pair().await;
    let mut greeting = frame(4, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]);
    greeting.extend(frame(8, 0, 0, &0x7f00_0000_u32.to_be_bytes()));
    far.write_all(&greeting).await.unwrap();
    let link = link(near).await;
    let mut first = asking(&link, "POST");
    poll_fn(|cx| first.poll_flush_head(cx)).await.unwrap();
    let (content, mut cx, mut still) = (vec![0_u8; 64 * 1024], Context::from_waker(Waker::noop()), 0);
    while still < 1000 {
        still = if first.poll_write_through(&mut cx, &content).is_ready() { 0 } else { still + 1 };
        tokio::task::yield_now().await;
    }
    (link, first, far)
}

/// Request with its head waiting in the connection.
async fn waiting(link: &H2Conn) -> Conn {
    let mut conn = asking(link, "GET");
    conn.finish();
    for _ in 0..1000 {
        assert!(conn.poll_flush_head(&mut Context::from_waker(Waker::noop())).is_pending());
        tokio::task::yield_now().await;
    }
    conn
}

#[tokio::test]
async fn a_head_that_is_stuck_in_the_connection_is_not_out_and_cannot_be_taken_back() {
    let (link, _first, mut far) = stuck().await;
    let mut second = waiting(&link).await;
    assert!(second.stream.is_head_sent(), "the origin has seen nothing of it, but will");
    let departure = second.stream.as_origin().unwrap().head_flush().unwrap();
    let reading = tokio::spawn(async move { tokio::io::copy(&mut far, &mut tokio::io::sink()).await });
    poll_fn(|cx| second.poll_flush_head(cx)).await.unwrap();
    assert!(departure.wait().await);
    reading.abort();
}

#[tokio::test]
async fn a_head_that_is_stuck_takes_the_place_of_a_stream_after_its_request_was_given_up() {
    let (link, first, mut far) = stuck().await;
    let mut second = waiting(&link).await;
    let is_out = second.stream.as_origin().unwrap().head_flush().unwrap().wait();
    drop((first, second));
    assert!(!link.is_idle(), "it will leave yet");
    let reading = tokio::spawn(async move { tokio::io::copy(&mut far, &mut tokio::io::sink()).await });
    assert!(is_out.await);
    assert!(link.is_idle());
    reading.abort();
}

#[tokio::test]
async fn a_head_that_is_stuck_when_its_connection_breaks_has_shown_nothing() {
    let (link, _first, far) = stuck().await;
    let mut second = waiting(&link).await;
    let departure = second.stream.as_origin().unwrap().head_flush().unwrap();
    drop(far);
    assert!(poll_fn(|cx| second.poll_flush_head(cx)).await.is_err());
    assert!(!second.stream.is_head_sent());
    assert!(!departure.wait().await);
}

#[tokio::test]
async fn a_head_that_is_stuck_when_the_origin_says_goodbye_is_not_waited_for() {
    let (link, _first, mut far) = stuck().await;
    let mut second = waiting(&link).await;
    far.write_all(&frame(7, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0])).await.unwrap();
    poll_fn(|cx| second.poll_flush_head(cx)).await.unwrap();
    assert!(matches!(reply(&mut second).await, Err(StreamFailure::Refused)), "and can be sent again");
}

#[tokio::test]
async fn a_farewell_leaves_later_requests_undone_and_the_link_closed() {
    let (near, mut far) = pair().await;
    far.write_all(&frame(4, 0, 0, &[])).await.unwrap();
    let link = link(near).await;
    let (mut first, mut second) = (asking(&link, "GET"), asking(&link, "GET"));
    for conn in [&mut first, &mut second] {
        conn.finish();
        poll_fn(|cx| conn.poll_flush_head(cx)).await.unwrap();
    }
    // Stream 1 is still served; 0x88 is ":status: 200" (RFC 7541 appendix A).
    far.write_all(&frame(7, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0])).await.unwrap();
    far.write_all(&frame(1, 5, 1, &[0x88])).await.unwrap();
    assert!(matches!(reply(&mut second).await, Err(StreamFailure::Refused)));
    assert_eq!(reply(&mut first).await.unwrap().status(), 200);
    assert!(link.open_stream(NOW).is_none(), "nothing new is sent after a farewell");
}

#[tokio::test]
async fn an_origin_says_what_it_did_not_take() {
    for (code, expected) in [(7, "Refused"), (13, "Http11Required"), (2, "Reset")] {
        let (near, mut far) = pair().await;
        far.write_all(&frame(4, 0, 0, &[])).await.unwrap();
        let mut conn = asking(&link(near).await, "GET");
        conn.finish();
        poll_fn(|cx| conn.poll_flush_head(cx)).await.unwrap();
        far.write_all(&frame(3, 0, 1, &[0, 0, 0, code])).await.unwrap();
        let failure = reply(&mut conn).await.err().unwrap();
        assert!(format!("{failure:?}").starts_with(expected), "{code}: {failure:?}");
    }
}

#[tokio::test]
async fn a_connection_that_dies_before_a_head_is_out_has_shown_nothing_of_it() {
    let (near, mut far) = pair().await;
    far.write_all(&frame(4, 0, 0, &[])).await.unwrap();
    let link = link(near).await;
    let mut conn = asking(&link, "GET");
    conn.finish();
    drop(far);
    while link.is_open() {
        tokio::task::yield_now().await;
    }
    assert!(poll_fn(|cx| conn.poll_flush_head(cx)).await.is_err());
    assert!(!conn.stream.is_head_sent());
}

#[tokio::test]
async fn a_caller_that_gives_up_is_noticed_before_and_after_the_response_has_begun() {
    let (link, mut calls) = world().await;
    for answered in [false, true] {
        let mut origin = asking(&link, "GET");
        origin.finish();
        poll_fn(|cx| origin.poll_flush_head(cx)).await.unwrap();
        let call = calls.recv().await.unwrap();
        let mut caller = Conn::new(Stream::caller(call.stream));
        assert!(caller.stream.poll_hangup(&mut Context::from_waker(Waker::noop())).is_pending());
        if answered {
            caller.stream.set_response(FieldMap::default().response(200));
            caller.flush().await.unwrap();
            reply(&mut origin).await.unwrap();
        }
        drop(origin);
        poll_fn(|cx| caller.stream.poll_hangup(cx)).await;
    }
}

#[tokio::test]
async fn a_link_has_no_more_streams_than_the_origin_allows_and_each_is_free_again() {
    let (near, mut far) = pair().await;
    let (link, driving) = H2Conn::handshake(Stream::plain(near), HeadLimits::default(), NOW).await.unwrap();
    tokio::spawn(driving);
    let first = link.open_stream(NOW).unwrap();
    assert!(link.open_stream(NOW).is_none(), "the origin has not said how many it takes");
    far.write_all(&frame(4, 0, 0, &[0, 3, 0, 0, 0, 2])).await.unwrap();
    first.settings().wait().await;
    let second = link.open_stream(NOW).unwrap();
    assert!(link.open_stream(NOW).is_none());
    drop(second);
    assert!(link.open_stream(NOW).is_some() && link.accepts_streams());
    far.write_all(&frame(4, 0, 0, &[0, 3, 0, 0, 0, 0])).await.unwrap();
    while link.accepts_streams() {
        tokio::task::yield_now().await;
    }
    drop(first);
    assert!(link.open_stream(NOW).is_none());
}

#[tokio::test]
async fn a_link_whose_stream_identifiers_have_run_out_serves_its_last_request_and_takes_no_more() {
    let (near, mut far) = pair().await;
    far.write_all(&frame(4, 0, 0, &[])).await.unwrap();
    let link = link(near).await;
    let (mut last, mut waiting) = (asking(&link, "GET"), asking(&link, "GET"));
    last.finish();
    poll_fn(|cx| last.poll_flush_head(cx)).await.unwrap();
    // A broken response on the last identifier of a client (RFC 9113 §5.1.1): h2 resets that stream, and counts on behind
    // it. A thousand million requests do the same.
    let broken = [b"\x88\0\x0aconnection\x05", &b"close"[..]].concat();
    far.write_all(&frame(1, 4, 0x7fff_ffff, &broken)).await.unwrap();
    while link.open_stream(NOW).is_some() {
        tokio::task::yield_now().await;
    }
    assert!(!link.is_open(), "another connection must be opened");
    assert!(!waiting.stream.as_origin().unwrap().is_usable(), "it was promised a place, and there is none");
    assert!(poll_fn(|cx| waiting.poll_flush_head(cx)).await.is_err() && !waiting.stream.is_head_sent());
    far.write_all(&frame(1, 5, 1, &[0x88])).await.unwrap();
    assert_eq!(reply(&mut last).await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_link_that_was_idle_for_long_is_offered_once_its_origin_has_answered_a_ping() {
    let (near, mut far) = pair().await;
    far.write_all(&frame(4, 0, 0, &[])).await.unwrap();
    let link = link(near).await;
    let later = NOW + Duration::from_secs(60);
    let mut waiting = asking(&link, "GET");
    assert!(waiting.stream.as_origin().unwrap().is_usable());
    drop(waiting);
    assert!(link.open_stream(later).is_none());
    let pong = link.awaited_pong(later).expect("the origin is asked, and may answer soon");
    let mut seen = Vec::new();
    let ping = |wire: &[u8]| wire.windows(9).position(|frame| frame == [0, 0, 8, 6, 0, 0, 0, 0, 0]);
    while ping(&seen).is_none_or(|at| seen.len() < at + 17) {
        far.read_buf(&mut seen).await.unwrap();
    }
    let at = ping(&seen).unwrap();
    far.write_all(&frame(6, 1, 0, &seen[at + 9..at + 17])).await.unwrap();
    pong.wait().await;
    assert!(link.open_stream(later).is_some());
}

#[tokio::test]
async fn a_link_whose_origin_answers_no_ping_ends_with_all_of_its_streams() {
    let (near, mut far) = pair().await;
    far.write_all(&frame(4, 0, 0, &[])).await.unwrap();
    let link = link(near).await;
    let (mut first, mut second) = (asking(&link, "GET"), asking(&link, "GET"));
    first.finish();
    poll_fn(|cx| first.poll_flush_head(cx)).await.unwrap();
    first.stream.as_origin().unwrap().mark_suspect(NOW);
    assert!(
        !second.stream.as_origin().unwrap().is_usable() && link.open_stream(NOW).is_none(),
        "nothing new goes there"
    );
    for passed in 1..=5 {
        assert!(link.is_open());
        link.check_liveness(NOW + Duration::from_secs(passed));
    }
    assert!(!link.is_open());
    assert!(matches!(reply(&mut first).await, Err(StreamFailure::ConnectionLost(_))));
    let mut rest = Vec::new();
    let end = far.read_to_end(&mut rest).await;
    assert!(end.is_err(), "what was under way is of no use to the origin: {end:?}");
}

#[tokio::test]
async fn noise_is_counted_and_messages_are_none() {
    let (mut near, far) = pair().await;
    let mut bytes = PREFACE.to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    for _ in 0..10 {
        bytes.extend(frame(6, 1, 0, &[0; 8]));
    }
    near.write_all(&bytes).await.unwrap();
    let mut session = H2CallerConn::handshake(Stream::plain(far)).await.unwrap();
    near.shutdown().await.unwrap();
    let end = poll_fn(|cx| session.poll_request(cx)).await;
    assert!(end.is_none_or(|end| end.is_err()));
    assert_eq!(session.abuse_score(), 20, "settings make more of it than pings");
    assert!(matches!(session.poll_request(&mut Context::from_waker(Waker::noop())), Poll::Ready(_)));
}
