//! Fuzz targets of forwarded heads: HTTP/1 and HTTP/2 in, HTTP/1 and HTTP/2 out, read back.

use std::time::Duration;

use crate::proxy::header_rules::{
    Outgoing, Returned, connection_names_end_to_end, has_too_many_options, has_unsupported_expect, switches,
    wants_upgrade,
};
use crate::proxy::serialize::{self, buffer_request, buffer_response};
use crate::proxy::target::{Form, Ingress, Target, Targets, too_many_hops};
#[cfg(test)]
use crate::wire::fuzzing::FramedRequest;
use crate::wire::fuzzing::check_with_hyper;
use crate::wire::head::{EndStream, MAX_FIELDS};
use crate::wire::http2::fuzzing::{arrived, arrived_response, request_of};
use crate::wire::{
    Conn, ConnectionOptions, Fields, HeadLimits, Length, Name, RequestHead, ResponseHead, Stream, Version, framing,
    http2,
};

/// Most fields of a message that is compared: the gateway adds some, and its own readers take [`MAX_FIELDS`].
const MAX_RECEIVED: usize = MAX_FIELDS - 5;

/// Requests of HTTP/1: what is sent to the origin for an accepted head, in either version, is exactly one request
/// with the same method, target, host and fields.
pub fn forward_request(input: &[u8]) {
    let mut head = RequestHead::default();
    if let Ok(Some(_)) = head.read(input) {
        check_forwarded(&head);
    }
}

/// Requests of HTTP/2: as [`forward_request`]. The first line is `end` if no content follows; each further line is a
/// field, `:method: GET`.
pub fn h2_request(input: &[u8]) {
    if let Some(head) = h2_head(input) {
        assert_eq!(head.version(), Version::Http2);
        check_forwarded(&head);
    }
}

/// Request of HTTP/2 in the text form of [`h2_request`].
pub fn h2_head(input: &[u8]) -> Option<RequestHead> {
    let mut lines = input.split(|byte| *byte == b'\n');
    let end_stream = EndStream::when(|| lines.next() == Some(b"end"));
    let fields: Vec<(&[u8], &[u8])> = lines.map(field).collect();
    request_of(&fields, end_stream)?.ok()
}

/// Splits a line into name and value at the first colon behind its first byte.
fn field(line: &[u8]) -> (&[u8], &[u8]) {
    let colon = line.iter().skip(1).position(|byte| *byte == b':').map(|at| at + 1);
    let Some(colon) = colon else { return (line, b"") };
    let value = &line[colon + 1..];
    (&line[..colon], value.strip_prefix(b" ").unwrap_or(value))
}

/// Admits a request as a forward proxy does: its target, the length of its body, and how it is forwarded.
fn admitted(head: &RequestHead) -> Option<(Target, Outgoing)> {
    let length = framing::of_request(head).ok()?;
    if head.fields().count() > MAX_RECEIVED {
        return None;
    }
    let refused = has_too_many_options(head)
        || connection_names_end_to_end(head).is_some()
        || has_unsupported_expect(head)
        || too_many_hops(head);
    let target = Targets::new(Vec::new()).find(head, &Ingress::default()).ok()?;
    if refused || target.form == Form::Authority {
        return None;
    }
    let options = ConnectionOptions::of(head.all(Name::Connection).chain(head.all(Name::ProxyConnection)));
    let upgrade = wants_upgrade(head, options, |protocol| protocol.eq_ignore_ascii_case(b"websocket"));
    Some((target, Outgoing { length, options, upgrade, via: true, trace: None }))
}

/// Bytes of HTTP/1 that are sent to the origin for a head, with what a second reader must find in them; `None` if the
/// request is not forwarded.
#[cfg(test)]
pub fn sent_for(head: &RequestHead) -> Option<FramedRequest> {
    let (target, outgoing) = admitted(head)?;
    let sent = sent(head, &target, outgoing);
    let mut read = RequestHead::default();
    assert_eq!(read.read(&sent), Ok(Some(sent.len())), "not one request: {}", sent.escape_ascii());
    Some(FramedRequest::of(&sent, &read, outgoing.length.written_to(Version::Http11)))
}

/// Head of HTTP/1 that is sent to the origin.
fn sent(head: &RequestHead, target: &Target, outgoing: Outgoing) -> Vec<u8> {
    let mut to = Conn::new(Stream::closed());
    assert!(buffer_request(head, target, outgoing, None, &mut to).is_ok());
    to.out().clone()
}

fn check_forwarded(head: &RequestHead) {
    let Some((target, outgoing)) = admitted(head) else { return };
    let sent = sent(head, &target, outgoing);
    let mut read = RequestHead::default();
    assert_eq!(read.read(&sent), Ok(Some(sent.len())), "not one request: {}", sent.escape_ascii());
    let length = outgoing.length.written_to(Version::Http11);
    assert_eq!(framing::of_request(&read), Ok(length), "{}", sent.escape_ascii());
    check_request(head, &read, &target, outgoing);
    check_with_hyper(&sent, &read, length);
    if outgoing.upgrade || !http2::can_carry_path(&target.path(head)) {
        return;
    }
    let Ok(request) = serialize::request(head, &target, outgoing) else {
        panic!("HTTP/2 cannot carry {}", sent.escape_ascii());
    };
    let end = EndStream::when(|| outgoing.length == Length::Empty);
    let Ok(read) = arrived(request, end) else { panic!("HTTP/2 carries, but does not read {}", sent.escape_ascii()) };
    assert_eq!(framing::of_request(&read), Ok(outgoing.length.written_to(Version::Http2)));
    check_request(head, &read, &target, outgoing);
}

/// Compares a request that has arrived at the origin with the one that was received.
fn check_request(head: &RequestHead, read: &RequestHead, target: &Target, outgoing: Outgoing) {
    let mut host = Vec::new();
    target.write_host(&mut host);
    let path = target.path(head);
    assert_eq!(read.method(), head.method());
    if read.version() == Version::Http2 {
        let path = if path == "*" { "" } else { &path };
        let expected = format!("{}://{}{path}", target.origin.scheme.name(), String::from_utf8_lossy(&host));
        assert_eq!(read.target(), expected);
    } else {
        assert_eq!(read.target(), path);
        assert_eq!(read.all(Name::Host).collect::<Vec<_>>(), [&host[..]]);
    }
    let (received, arrived) = (forwarded(head, outgoing.options), forwarded(read, ConnectionOptions::default()));
    assert_eq!(arrived, received);
    assert_eq!(read.get(Name::ProxyAuthorization), None);
    let vias = read.all(Name::Via).count();
    assert_eq!(vias, head.all(Name::Via).filter(|_| !names(head, b"via")).count() + 1);
}

/// Fields that pass unchanged: all but those of one hop, of framing and of routing. In HTTP/2 the fields of one name
/// stand together, and names are in lower case.
fn forwarded(fields: &Fields, options: ConnectionOptions) -> Vec<(Vec<u8>, Vec<u8>)> {
    let passes = |name: Name| matches!(name, Name::Other | Name::Authorization | Name::Prefer | Name::Date);
    let dropped = |name: &[u8]| options.names_fields && names(fields, name);
    let mut passed: Vec<_> = fields
        .fields()
        .filter(|(kind, name, _)| passes(*kind) && !dropped(name))
        .map(|(_, name, value)| (name.to_ascii_lowercase(), value.to_vec()))
        .collect();
    passed.sort_by(|(one, _), (other, _)| one.cmp(other));
    join_crumbs(passed)
}

/// Joins cookies, which HTTP/2 may split (RFC 9113 §8.2.3). No space stands behind an empty last one.
fn join_crumbs(fields: Vec<(Vec<u8>, Vec<u8>)>) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut joined: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    for (name, value) in fields {
        match joined.last_mut() {
            Some((last, crumbs)) if *last == b"cookie" && name == b"cookie" => {
                crumbs.extend_from_slice(b"; ");
                crumbs.extend_from_slice(&value);
            }
            _ => joined.push((name, value)),
        }
    }
    joined
        .iter_mut()
        .filter(|(name, _)| name == b"cookie")
        .for_each(|(_, crumbs)| *crumbs = crumbs.trim_ascii().into());
    joined
}

/// True if the members of Connection name the field.
fn names(fields: &Fields, name: &[u8]) -> bool {
    crate::proxy::header_rules::is_named(fields.all(Name::Connection), name)
}

/// Responses of HTTP/1 to callers of all versions: exactly one response with the same status and fields, whose body
/// ends where it is meant to. The first byte selects the version and the method.
pub fn response_translation(input: &[u8]) {
    let [choice, input @ ..] = input else { return };
    let mut head = ResponseHead::default();
    let Ok(Some(_)) = head.read(input, HeadLimits::default()) else { return };
    let method = ["GET", "HEAD", "POST"][usize::from(choice % 3)];
    let version = [Version::Http10, Version::Http11, Version::Http2][usize::from(choice / 3 % 3)];
    let Ok(from) = framing::of_response(&head, method) else { return };
    let is_interim = head.status() < 200 && head.status() != 101;
    if is_interim || has_too_many_options(&head) || head.fields().count() > MAX_RECEIVED {
        return;
    }
    let length = from.written_to(version);
    let returned = Returned {
        length,
        keep: length != Length::UntilClose && choice & 0x80 == 0,
        version,
        waited: Duration::from_micros(u64::from(*choice) * 100),
        received_unix_nanos: head.get(Name::Date).is_none().then_some(0),
        locations: None,
        pinned: choice & 0x40 != 0,
    };
    let (read, framed) = if version == Version::Http2 {
        if head.status() == 101 {
            return;
        }
        let end = EndStream::when(|| length == Length::Empty);
        let Ok(read) = arrived_response(serialize::response(&head, returned), end) else {
            panic!("HTTP/2 does not read {}", input.escape_ascii());
        };
        let framed = framing::of_response(&read, method);
        (read, framed)
    } else {
        let mut to = Conn::new(Stream::closed());
        buffer_response(&head, returned, &mut to);
        let sent = to.out().clone();
        let mut read = ResponseHead::default();
        assert_eq!(
            read.read(&sent, HeadLimits::default()),
            Ok(Some(sent.len())),
            "not one response: {}",
            sent.escape_ascii()
        );
        let framed = framing::of_response(&read, method);
        let options = ConnectionOptions::of(read.all(Name::Connection));
        if !switches(&head) {
            assert_eq!(options.keeps_open(version), returned.keep, "{}", sent.escape_ascii());
        }
        (read, framed)
    };
    let ends_by_rule = method == "HEAD" || matches!(head.status(), 100..=199 | 204 | 304);
    if !ends_by_rule && from != Length::Empty {
        assert_eq!(framed, Ok(length));
    }
    assert_eq!(read.status(), head.status());
    let options = ConnectionOptions::of(head.all(Name::Connection));
    assert_eq!(forwarded(&read, ConnectionOptions::default()), without_added(forwarded(&head, options), &read));
}

/// Fields of the response with those that the gateway adds: Date, Server-Timing and Proxy-Support.
fn without_added(mut fields: Vec<(Vec<u8>, Vec<u8>)>, read: &ResponseHead) -> Vec<(Vec<u8>, Vec<u8>)> {
    let added = |name: &str| {
        let kept = fields.iter().filter(|(field, _)| field == name.as_bytes()).count();
        let values = read.fields().filter(|(_, field, _)| field.eq_ignore_ascii_case(name.as_bytes()));
        values.skip(kept).map(|(_, _, value)| (name.as_bytes().to_vec(), value.to_vec())).collect::<Vec<_>>()
    };
    let more: Vec<_> = ["date", "server-timing", "proxy-support"].into_iter().flat_map(added).collect();
    assert!(more.len() <= 3, "{more:?}");
    fields.extend(more);
    fields.sort_by(|(one, _), (other, _)| one.cmp(other));
    fields
}
