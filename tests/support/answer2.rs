//! The HTTP/2 side of an origin that speaks both: what it answers, by the path.
//!
//! | path | answer |
//! |---|---|
//! | `/trailers` | 200, `body`, and a trailer `x-checksum: 7` |
//! | `/echo…`, `/grpc…` | 200 at once, then what comes as it comes, trailers included (`/grpc` with `grpc-status: 0`) |
//! | `/hold…` | 200 once `Origin2::release` lets it |
//! | `/stream/N` | 200 and N bytes |
//! | `/interim` | 103, then 200 |
//! | `/early` | 413 before the content has come |
//! | `/reset`, `/half` | RST_STREAM at once, or in the middle of the content |
//! | `/refused…` | REFUSED_STREAM the first time, then 200 |
//! | `/short` | content that ends before its length |
//! | any other | 200 with the path for a GET, else with the content |

use std::future::poll_fn;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response};

use super::origin2::{Shared, lines};

/// Answers one request.
pub(super) async fn answer(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    shared: &Shared,
    index: usize,
) -> Result<(), h2::Error> {
    let path = request.uri().path().to_owned();
    if path.starts_with("/echo") || path.starts_with("/grpc") {
        return echo(&path, &mut request.into_body(), respond, shared, index).await;
    }
    if let Some(count) = path.strip_prefix("/stream/") {
        return stream(count.parse().expect("a number of bytes"), respond).await;
    }
    match path.as_str() {
        "/reset" => respond.send_reset(Reason::INTERNAL_ERROR),
        "/half" => {
            let mut out = respond.send_response(fine(), false)?;
            send(&mut out, Bytes::from_static(b"ha")).await?;
            out.send_reset(Reason::INTERNAL_ERROR);
        }
        "/early" => {
            let large = Response::builder().status(413).body(()).expect("a good response");
            let mut out = respond.send_response(large, false)?;
            out.send_data(Bytes::from_static(b"too much"), true)?;
        }
        "/interim" => {
            let hint = Response::builder().status(103).header("link", "</a>; rel=preload").body(());
            respond.send_informational(hint.expect("a good response"))?;
            respond.send_response(fine(), false)?.send_data(Bytes::from_static(b"after"), true)?;
        }
        "/trailers" => {
            read(&mut request.into_body(), shared, index).await?;
            let mut out = respond.send_response(fine(), false)?;
            send(&mut out, Bytes::from_static(b"body")).await?;
            let pair = ("x-checksum".parse().expect("a name"), "7".parse().expect("a value"));
            out.send_trailers(HeaderMap::from_iter([pair]))?;
        }
        "/short" => {
            let short = Response::builder().header("content-length", "10").body(()).expect("a good response");
            respond.send_response(short, false)?.send_data(Bytes::from_static(b"four"), true)?;
        }
        _ if path.starts_with("/refused") => {
            let first = shared.refused.lock().expect("no reader panicked").insert(path);
            if first {
                shared.change(index, |seen| seen.refused = true);
                respond.send_reset(Reason::REFUSED_STREAM);
                return Ok(());
            }
            respond.send_response(fine(), false)?.send_data(Bytes::from_static(b"taken"), true)?;
        }
        _ => return content(request, respond, shared, index).await,
    }
    Ok(())
}

fn fine() -> Response<()> {
    Response::new(())
}

/// The path for a GET, what was sent for the others; `/hold` once it is released.
async fn content(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    shared: &Shared,
    index: usize,
) -> Result<(), h2::Error> {
    let path = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
    let get = request.method() == http::Method::GET;
    let content = read(&mut request.into_body(), shared, index).await?;
    if path.starts_with("/hold") {
        let reset = poll_fn(|cx| respond.poll_reset(cx));
        tokio::select! {
            permit = shared.held.acquire() => permit.expect("it is never closed").forget(),
            reason = reset => {
                shared.change(index, |seen| seen.broken = true);
                return reason.map(|_| ());
            }
        }
    }
    let content = if get { Bytes::from(path) } else { Bytes::from(content) };
    let mut out = respond.send_response(fine(), content.is_empty())?;
    if !content.is_empty() {
        send(&mut out, content).await?;
        out.send_data(Bytes::new(), true)?;
    }
    Ok(())
}

async fn stream(count: usize, mut respond: SendResponse<Bytes>) -> Result<(), h2::Error> {
    let mut out = respond.send_response(fine(), false)?;
    let part = Bytes::from(vec![b's'; 16 << 10]);
    let mut left = count;
    while left > 0 {
        let some = part.slice(..left.min(part.len()));
        left -= some.len();
        send(&mut out, some).await?;
    }
    out.send_data(Bytes::new(), true)
}

/// What comes, as it comes; and after it, its trailers.
async fn echo(
    path: &str,
    body: &mut RecvStream,
    mut respond: SendResponse<Bytes>,
    shared: &Shared,
    index: usize,
) -> Result<(), h2::Error> {
    let grpc = path.starts_with("/grpc");
    let mut head = Response::new(());
    if grpc {
        head.headers_mut().insert("content-type", "application/grpc".parse().expect("a value"));
    }
    let mut out = respond.send_response(head, false)?;
    while let Some(part) = body.data().await {
        let part = part?;
        body.flow_control().release_capacity(part.len())?;
        shared.change(index, |seen| seen.body.extend_from_slice(&part));
        send(&mut out, part).await?;
    }
    let mut trailers = body.trailers().await?.unwrap_or_default();
    shared.change(index, |seen| (seen.trailers, seen.whole) = (lines(&trailers), true));
    if grpc {
        trailers.insert("grpc-status", "0".parse().expect("a value"));
    }
    if trailers.is_empty() { out.send_data(Bytes::new(), true) } else { out.send_trailers(trailers) }
}

/// Reads all content and trailers into the record.
async fn read(body: &mut RecvStream, shared: &Shared, index: usize) -> Result<Vec<u8>, h2::Error> {
    let mut all = Vec::new();
    while let Some(part) = body.data().await {
        let part = part?;
        body.flow_control().release_capacity(part.len())?;
        all.extend_from_slice(&part);
    }
    let trailers = body.trailers().await?.unwrap_or_default();
    let copy = all.clone();
    shared.change(index, |seen| (seen.body, seen.trailers, seen.whole) = (copy, lines(&trailers), true));
    Ok(all)
}

/// Sends all of `data`, as fast as the other side lets.
pub(crate) async fn send(out: &mut SendStream<Bytes>, mut data: Bytes) -> Result<(), h2::Error> {
    while !data.is_empty() {
        out.reserve_capacity(data.len());
        let room = match poll_fn(|cx| out.poll_capacity(cx)).await {
            Some(room) => room?,
            None => return Err(Reason::CANCEL.into()),
        };
        let some = data.split_to(room.min(data.len()));
        out.send_data(some, false)?;
    }
    Ok(())
}
