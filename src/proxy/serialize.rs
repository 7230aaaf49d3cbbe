//! Serializer of message heads: HTTP/1.1 bytes, or the fields of HTTP/2.

use std::io::{self, Write as _};

use http::{Request, Response};

use super::header_rules::{Outgoing, Returned, asks_for_trailers, for_caller, for_origin, is_named, switches, via};
use super::parent::ParentProxy;
use super::problem::{PutField, date};
use super::refusal::Refusal;
use super::target::Target;
use crate::wire::http2::{FieldMap, carried_path};
use crate::wire::{Conn, Length, Name, RequestHead, ResponseHead, Version};

/// Writes the head of the request, as the origin receives it, to the connection's buffer; in absolute form if `forward` is
/// the parent proxy at its other end.
///
/// # Errors
/// 400 if HTTP/2 cannot carry the target.
pub(super) fn buffer_request(
    head: &RequestHead,
    target: &Target,
    outgoing: Outgoing,
    forward: Option<&ParentProxy>,
    to: &mut Conn,
) -> Result<(), Refusal> {
    if to.stream.is_http2() {
        let request = request(head, target, outgoing)?;
        to.stream.set_request(request);
    } else {
        match forward {
            None => write_request(head, target, outgoing, to.out()),
            Some(parent) => write_forward(head, target, outgoing, parent, to.out()),
        }
    }
    Ok(())
}

/// Appends the head in HTTP/1.1: origin-form, the origin's own `Host`, no hop-by-hop fields.
fn write_request(head: &RequestHead, target: &Target, outgoing: Outgoing, out: &mut Vec<u8>) {
    out.extend_from_slice(head.method().as_bytes());
    out.push(b' ');
    target.write_path(head, out);
    write_behind_target(head, target, outgoing, out);
    out.extend_from_slice(b"\r\n");
}

/// Appends the head in HTTP/1.1 for a parent proxy: absolute-form (RFC 9112 §3.2.2), and the gateway's own credentials.
///
/// `Via` is always there: by it gateways that are each other's parents find the loop.
fn write_forward(head: &RequestHead, target: &Target, outgoing: Outgoing, parent: &ParentProxy, out: &mut Vec<u8>) {
    out.extend_from_slice(head.method().as_bytes());
    out.extend_from_slice(b" http://");
    target.origin.write_authority(out);
    // `OPTIONS *` has a URL without a path (RFC 9112 §3.2.4).
    if target.path(head) != "*" {
        target.write_path(head, out);
    }
    write_behind_target(head, target, Outgoing { via: true, ..outgoing }, out);
    if let Some(credentials) = parent.authorization() {
        write_field(out, b"Proxy-Authorization", credentials.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends the rest of the request line and all fields.
fn write_behind_target(head: &RequestHead, target: &Target, outgoing: Outgoing, out: &mut Vec<u8>) {
    out.extend_from_slice(b" HTTP/1.1\r\nHost: ");
    target.write_host(out);
    out.extend_from_slice(b"\r\n");
    for_origin(head, outgoing, |field, value| write_field(out, field, value));
    write_length(out, outgoing.length.written_to(Version::Http11));
    if is_silently_empty(head, outgoing) {
        write_length(out, Length::Exact(0));
    }
    out.extend_from_slice(match (outgoing.upgrade, asks_for_trailers(head)) {
        (true, _) => &b"Connection: upgrade\r\n"[..],
        (false, true) => b"TE: trailers\r\nConnection: TE\r\n",
        (false, false) => b"",
    });
    outgoing.put_via(head, |field, value| write_field(out, field, value));
}

/// True for a request of HTTP/2 that ends with its head and states no length, although its method
/// usually has content. In HTTP/1.1 origins require a length for these, or answer 411 (RFC 9110
/// §8.6).
fn is_silently_empty(head: &RequestHead, outgoing: Outgoing) -> bool {
    head.version() == Version::Http2
        && outgoing.length == Length::Empty
        && matches!(head.method(), "POST" | "PUT" | "PATCH")
        && head.get(Name::ContentLength).is_none()
}

/// Head in HTTP/2 (RFC 9113 §8.3.1).
pub(super) fn request(head: &RequestHead, target: &Target, outgoing: Outgoing) -> Result<Request<()>, Refusal> {
    let mut fields = FieldMap::default();
    for_origin(head, outgoing, |field, value| fields.put(field, value));
    if let Length::Exact(length) = outgoing.length {
        fields.put(b"content-length", length.to_string().as_bytes());
    }
    if asks_for_trailers(head) {
        fields.put(b"te", b"trailers");
    }
    outgoing.put_via(head, |field, value| fields.put(field, value));
    let mut authority = Vec::new();
    target.write_host(&mut authority);
    let path = target.path(head);
    Ok(fields.request(head.method(), target.origin.scheme.name(), &authority, carried_path(&path).as_bytes())?)
}

/// Writes the head of the response, as the caller receives it, to the connection's buffer.
pub(super) fn buffer_response(head: &ResponseHead, returned: Returned<'_>, to: &mut Conn) {
    if returned.version == Version::Http2 {
        to.stream.set_response(response(head, returned));
    } else {
        write_response(head, returned, to.out());
    }
}

/// Appends the head in HTTP/1.1.
fn write_response(head: &ResponseHead, returned: Returned<'_>, out: &mut Vec<u8>) {
    write_status_line(head, out);
    for_caller(head, returned, |field, value| write_field(out, field, value));
    write_length(out, returned.length);
    if let Some(date) = returned.received_unix_nanos.map(date) {
        write_field(out, b"Date", date.to_string().as_bytes());
    }
    write_field(out, b"Via", via(head.version()));
    if let Some(timing) = timing(returned) {
        write_field(out, b"Server-Timing", timing.as_bytes());
    }
    out.extend_from_slice(match (switches(head), returned.keep, returned.version) {
        (true, false, _) => &b"Connection: upgrade, close\r\n"[..],
        (true, true, _) => b"Connection: upgrade\r\n",
        // Without this field a caller must not log in through a proxy (RFC 4559 §6). It applies to the next hop only.
        (false, true, Version::Http11) if returned.pinned && head.status() == 401 => {
            b"Proxy-Support: Session-Based-Authentication\r\nConnection: Proxy-Support\r\n"
        }
        (false, false, _) => b"Connection: close\r\n",
        (false, true, Version::Http10) => b"Connection: keep-alive\r\n",
        (false, true, Version::Http11 | Version::Http2) => b"",
    });
    out.extend_from_slice(b"\r\n");
}

/// Head in HTTP/2.
pub(super) fn response(head: &ResponseHead, returned: Returned<'_>) -> Response<()> {
    let mut fields = FieldMap::default();
    for_caller(head, returned, |field, value| fields.put(field, value));
    if let Length::Exact(length) = returned.length {
        fields.put(b"content-length", length.to_string().as_bytes());
    }
    if let Some(date) = returned.received_unix_nanos.map(date) {
        fields.put(b"date", date.to_string().as_bytes());
    }
    fields.put(b"via", via(head.version()));
    if let Some(timing) = timing(returned) {
        fields.put(b"server-timing", timing.as_bytes());
    }
    fields.response(head.status())
}

/// Value of Server-Timing: the wait for the permit in milliseconds, if there was one.
fn timing(returned: Returned<'_>) -> Option<String> {
    let waited = returned.waited;
    (!waited.is_zero()).then(|| format!("lockgate;dur={:.1}", waited.as_secs_f64() * 1000.0))
}

/// Forwards a 1xx response other than 101.
///
/// # Errors
/// Those of the caller's stream.
pub(super) fn send_interim(head: &ResponseHead, version: Version, to: &mut Conn) -> io::Result<()> {
    let pass = |put: &mut dyn FnMut(&[u8], &[u8])| {
        for (name, field, value) in head.fields() {
            if matches!(name, Name::Other | Name::Date | Name::Via) && !is_named(head.all(Name::Connection), field) {
                put(field, value);
            }
        }
        put(b"Via", via(head.version()));
    };
    if version == Version::Http2 {
        let mut fields = FieldMap::default();
        pass(&mut |field, value| fields.put(field, value));
        return to.stream.send_interim(fields.response(head.status()));
    }
    let out = to.out();
    write_status_line(head, out);
    pass(&mut |field, value| write_field(out, field, value));
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// A response of the gateway's own.
pub(super) struct LocalResponse<'r> {
    pub(super) status: u16,
    pub(super) reason: &'static str,
    /// Calls its argument with each header field but Connection.
    pub(super) fields: &'r dyn Fn(&mut PutField<'_>),
    /// Value of Connection, which HTTP/2 does not have (RFC 9113 §8.2.2).
    pub(super) connection: Option<&'static str>,
    pub(super) body: &'r [u8],
}

/// Buffers a response of the gateway's own in the caller's version. Returns its length in bytes; for
/// HTTP/2, the length in HTTP/1.1 without Connection.
pub(super) fn buffer_local(response: &LocalResponse<'_>, version: Version, to: &mut Conn) -> u64 {
    if version == Version::Http2 {
        let (mut fields, mut length) = (FieldMap::default(), 0);
        (response.fields)(&mut |name, value| {
            let value = value.to_string();
            length += name.len() + value.len() + b": \r\n".len();
            fields.put(name.as_bytes(), value.as_bytes());
        });
        to.stream.set_response(fields.response(response.status));
        to.out().extend_from_slice(response.body);
        return (b"HTTP/1.1 200 \r\n\r\n".len() + response.reason.len() + length + response.body.len()) as u64;
    }
    let out = to.out();
    let before = out.len();
    write_local(response, out);
    (out.len() - before) as u64
}

/// Appends a response of the gateway's own in HTTP/1.1.
pub(super) fn write_local(response: &LocalResponse<'_>, out: &mut Vec<u8>) {
    // Writing to a vector cannot fail.
    drop(write!(out, "HTTP/1.1 {} {}\r\n", response.status, response.reason));
    (response.fields)(&mut |name, value| drop(write!(out, "{name}: {value}\r\n")));
    if let Some(connection) = response.connection {
        write_field(out, b"Connection", connection.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(response.body);
}

fn write_status_line(head: &ResponseHead, out: &mut Vec<u8>) {
    let status = head.status();
    // Three digits: the status was read as 100 to 999.
    let digits = [status / 100, status / 10 % 10, status % 10].map(|digit| b'0' + u8::try_from(digit).unwrap_or(0));
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(&digits);
    out.push(b' ');
    out.extend_from_slice(head.reason());
    out.extend_from_slice(b"\r\n");
}

/// Appends a header field in HTTP/1.1.
pub(super) fn write_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Appends the field that frames the body.
fn write_length(out: &mut Vec<u8>, length: Length) {
    match length {
        Length::Empty | Length::UntilClose => {}
        // Writing to a vector cannot fail.
        Length::Exact(length) => drop(write!(out, "Content-Length: {length}\r\n")),
        Length::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
    }
}

#[cfg(test)]
mod tests;
