//! The HTTP/1.1 side of an origin that speaks both.

use std::sync::Arc;
use std::time::Instant;

use super::PATIENCE;
use super::origin2::{Seen, Shared, runtime};
use super::request::Request;
use super::stream::Stream;

/// Answers what comes on one connection, until it ends.
pub(super) fn serve(mut stream: Stream, number: usize, shared: &Arc<Shared>) {
    for place in 0.. {
        let Ok(head) = stream.take_until(b"\r\n\r\n", Instant::now() + 4 * PATIENCE) else { return };
        let mut request = Request::parse(&head, stream.stamp, number, place);
        let index = shared.record(seen(&request, number));
        if request.target == "/early" {
            stream.send(b"HTTP/1.1 413 Too Much\r\nContent-Length: 8\r\nConnection: close\r\n\r\ntoo much").ok();
            return stream.finish();
        }
        if request.field("upgrade").is_some() {
            return upgraded(&request, &mut stream);
        }
        if request.target == "/interim" {
            stream.send(b"HTTP/1.1 103 Hints\r\nLink: </a>; rel=preload\r\n\r\n").ok();
        }
        let whole = request.read_body(&mut stream).is_ok();
        let (body, trailers) = (request.body.clone(), request.trailers.clone());
        shared.change(index, |seen| {
            (seen.body, seen.trailers, seen.whole, seen.broken) = (body, trailers, whole, !whole)
        });
        if !whole || !answer(&request, &mut stream, shared) {
            return stream.reset();
        }
        // Some clients read to the end of the connection.
        if request.asks_to_close() {
            return stream.finish();
        }
    }
}

/// Switches to the protocol that was asked for, and sends back what comes.
fn upgraded(request: &Request, stream: &mut Stream) {
    let protocol = request.field("upgrade").unwrap_or_default();
    let head = format!("HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n");
    let mut sent = stream.send(head.as_bytes());
    while sent.is_ok() && stream.more(Instant::now() + PATIENCE).is_ok() {
        let came = std::mem::take(&mut stream.ahead);
        sent = stream.send(&came);
    }
    stream.finish();
}

fn seen(request: &Request, connection: usize) -> Seen {
    Seen {
        stamp: request.stamp,
        connection,
        version: 1,
        method: request.method.clone(),
        authority: request.field("host").unwrap_or_default().to_owned(),
        path: request.target.clone(),
        fields: request.fields.clone(),
        ..Seen::default()
    }
}

/// False if the connection is to break.
fn answer(request: &Request, stream: &mut Stream, shared: &Shared) -> bool {
    match request.target.as_str() {
        "/reset" => return false,
        "/half" => {
            stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha").ok();
            return false;
        }
        "/short" => {
            stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfour").ok();
            return false;
        }
        "/trailers" => {
            let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Checksum\r\n\r\n";
            return stream.send(format!("{head}4\r\nbody\r\n0\r\nX-Checksum: 7\r\n\r\n").as_bytes()).is_ok();
        }
        _ => {}
    }
    if request.target.starts_with("/hold") {
        runtime().block_on(shared.held.acquire()).expect("it is never closed").forget();
    }
    let content = match request.target.strip_prefix("/stream/") {
        Some(count) => vec![b's'; count.parse().expect("a number of bytes")],
        None if request.target == "/interim" => b"after".to_vec(),
        None if request.method == "GET" => request.target.clone().into_bytes(),
        None => request.body.clone(),
    };
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", content.len());
    stream.send(head.as_bytes()).is_ok() && (request.method == "HEAD" || stream.send(&content).is_ok())
}
