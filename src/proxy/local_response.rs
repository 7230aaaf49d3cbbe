//! Answers of our own: refusals, the end of a TRACE's way, the 200 of a tunnel.

use std::borrow::Cow;
use std::future::poll_fn;
use std::task::Poll;

use super::connection::Caller;
use super::exchange::Outcome;
use super::intercept::Opening;
use super::refusal::Refusal;
use super::request_log::{BodyRead, Story};
use super::tunnel::Tunnel;
use super::{capabilities, header_rules, problem, serialize};
use crate::wire::{ConnectionOptions, Length, Name, RequestHead, Version, framing};

/// The largest body of a refused request that is read and dropped, so that its connection can be kept.
const DROPPED: u64 = 64 * 1024;

/// Answers a request that is not passed on.
pub(super) async fn refuse(caller: &mut Caller, story: &mut Story, refusal: &Refusal) -> Outcome {
    story.refused(refusal);
    if caller.conn.is_partly_sent() {
        return Outcome::Abort;
    }
    caller.conn.discard_unsent();
    let head = &caller.head;
    let version = head.version();
    let options = ConnectionOptions::of(head.all(Name::Connection).chain(head.all(Name::ProxyConnection)));
    let rest = match story.body {
        // What comes of it is for its own stream.
        _ if version == Version::Http2 => Some(0),
        BodyRead::Nothing => droppable(head),
        BodyRead::Partly => None,
        BodyRead::All => Some(0),
    };
    let close =
        refusal.closes() || rest.is_none() || !options.keeps_open(version) || caller.worker.proxy.drain.is_draining();
    let head_only = head.method() == "HEAD";
    let wall = caller.worker.proxy.gate.clock().wall_unix_nanos();
    let mut message = Vec::new();
    refusal.write(&mut message, close, head_only, version == Version::Http10, wall);
    story.bytes_out += message.len() as u64;
    serialize::send_own(&message, version, &mut caller.conn);
    if flush(caller).await && !close && drop_body(caller, rest.unwrap_or(0)).await {
        Outcome::Keep
    } else {
        Outcome::Close
    }
}

/// Answers bytes that are no request; the connection ends after it.
pub(super) async fn refuse_bytes(caller: &mut Caller, refusal: &Refusal) {
    let mut story = Story::begin(caller);
    story.refused(refusal);
    // What was read last was another request.
    caller.head.shrink();
    let wall = caller.worker.proxy.gate.clock().wall_unix_nanos();
    refusal.write(caller.conn.out(), true, false, false, wall);
    story.bytes_out = caller.conn.pending() as u64;
    flush(caller).await;
    story.end(caller);
}

/// How much of the body is to be dropped before the next request can be read; `None` if that cannot be told.
fn droppable(head: &RequestHead) -> Option<u64> {
    match framing::of_request(head) {
        Ok(Length::Empty) => Some(0),
        // Whoever waits for a 100 may or may not send the body after another answer.
        Ok(Length::Exact(length)) if length <= DROPPED && head.get(Name::Expect).is_none() => Some(length),
        Ok(Length::Exact(_) | Length::Chunked | Length::UntilClose) | Err(_) => None,
    }
}

/// Writes what waits, within the time that an idle connection has.
pub(super) async fn flush(caller: &mut Caller) -> bool {
    caller.alarm.set(caller.worker.proxy.timeouts.idle);
    let Caller { conn, alarm, .. } = caller;
    // Our own answers are whole.
    conn.finish();
    poll_fn(|cx| match conn.poll_flush(cx) {
        Poll::Ready(flushed) => Poll::Ready(flushed.is_ok()),
        Poll::Pending => alarm.poll_expired(cx).map(|()| false),
    })
    .await
}

async fn drop_body(caller: &mut Caller, mut left: u64) -> bool {
    caller.alarm.set(caller.worker.proxy.timeouts.head);
    let Caller { conn, alarm, .. } = caller;
    poll_fn(|cx| {
        loop {
            let here = conn.input.bytes().len();
            let dropped = usize::try_from(left).map_or(here, |left| left.min(here));
            conn.input.consume(dropped);
            left -= dropped as u64;
            if left == 0 {
                return Poll::Ready(true);
            }
            match conn.poll_fill(cx) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(false),
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => return alarm.poll_expired(cx).map(|()| false),
            }
        }
    })
    .await
}

/// Answers TRACE and OPTIONS whose `Max-Forwards` is used up (RFC 9110 §7.6.2).
pub(super) async fn own(caller: &mut Caller, story: &mut Story) -> Option<Outcome> {
    let head = &caller.head;
    let traced = head.method() == "TRACE";
    if !(traced || head.method() == "OPTIONS")
        || head.get(Name::MaxForwards).is_none_or(|value| header_rules::max_forwards(value) > 0)
    {
        return None;
    }
    let echo = if traced { serialize::echo(head) } else { Vec::new() };
    let fields: Cow<'_, str> = if traced {
        "Via: 1.1 lockgate\r\nContent-Type: message/http\r\n".into()
    } else if capabilities::is_asked(head) {
        format!("{METHODS}{}", capabilities::fields(&caller.worker.proxy)).into()
    } else {
        METHODS.into()
    };
    Some(say(caller, story, &fields, &echo).await)
}

/// The fields of an answer to OPTIONS: a gateway, and the methods that pass it.
const METHODS: &str = "Via: 1.1 lockgate\r\nAllow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, TRACE, CONNECT\r\n";

/// Answers with a document of ours.
pub(super) async fn json(caller: &mut Caller, story: &mut Story, document: &str) -> Outcome {
    say(caller, story, "Content-Type: application/json\r\nCache-Control: no-store\r\n", document.as_bytes()).await
}

/// A 200 of ours.
async fn say(caller: &mut Caller, story: &mut Story, fields: &str, body: &[u8]) -> Outcome {
    let head = &caller.head;
    let options = ConnectionOptions::of(head.all(Name::Connection).chain(head.all(Name::ProxyConnection)));
    let draining = caller.worker.proxy.drain.is_draining();
    let stays = head.version() == Version::Http11 && options.keeps_open(Version::Http11) && !draining;
    let rest = droppable(head).filter(|_| stays);
    let end = if rest.is_some() { "\r\n" } else { "Connection: close\r\n\r\n" };
    let date = problem::date(caller.worker.proxy.gate.clock().wall_unix_nanos());
    let mut out =
        format!("HTTP/1.1 200 OK\r\nDate: {date}\r\n{fields}Content-Length: {}\r\n{end}", body.len()).into_bytes();
    out.extend_from_slice(body);
    serialize::send_own(&out, head.version(), &mut caller.conn);
    story.status = 200;
    story.bytes_out += out.len() as u64;
    match rest {
        Some(rest) if flush(caller).await && drop_body(caller, rest).await => Outcome::Keep,
        Some(_) => Outcome::Close,
        None => {
            flush(caller).await;
            Outcome::Close
        }
    }
}

/// Tells the caller that its tunnel is open (RFC 9110 §9.3.6: no length, no coding).
pub(super) fn tunnel(caller: &mut Caller, story: &mut Story, tunnel: Tunnel) -> Outcome {
    established(caller, story);
    Outcome::Tunnel(Box::new(tunnel))
}

/// Tells the caller that its tunnel is open, which we look into. Whether the origin can be reached is for the answers
/// inside to say, where there is room for words.
pub(super) fn opened(caller: &mut Caller, story: &mut Story, opening: Opening) -> Outcome {
    established(caller, story);
    Outcome::Opened(Box::new(opening))
}

fn established(caller: &mut Caller, story: &mut Story) {
    story.status = 200;
    let message = b"HTTP/1.1 200 Connection established\r\n\r\n";
    serialize::send_own(message, caller.head.version(), &mut caller.conn);
}
