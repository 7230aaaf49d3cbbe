//! Conversion of HTTP/2 heads and trailers to and from the form common to all versions (RFC 9113
//! §8).
//!
//! The form common to all versions is that of [`RequestHead`] and [`ResponseHead`]: fields in
//! order, an absolute target, a numeric status. Example of a request:
//!
//! ```text
//! :method GET, :scheme https, :authority a.example, :path /b?c, cookie a=1, cookie b=2
//! GET https://a.example/b?c   cookie: a=1; b=2
//! ```
//!
//! Checks here are those that `h2` leaves out: white space around values, quotes in names, the
//! number of fields, `:authority` against `Host`, and the characters of the target.

use std::borrow::Cow;

use http::header::{CONTENT_LENGTH, COOKIE, HOST};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::wire::field::Fields;
use crate::wire::head::{EndStream, HeadError, MAX_FIELDS, RequestHead, Version, check_target};
use crate::wire::line_ends::LineEnds;
use crate::wire::request_target::encoded_target;
use crate::wire::response_head::{HeadLimits, ResponseHead};
use crate::wire::trailer_section::{self, MAX_TRAILER_FIELDS, is_dropped};

/// Fields of a message to be sent by HTTP/2.
///
/// Names become lower case, as HTTP/2 demands (RFC 9113 §8.2.1).
#[derive(Debug, Default)]
pub struct FieldMap(HeaderMap);

impl FieldMap {
    /// Appends a field. Drops a field that HTTP/2 cannot carry; the readers of heads let none of
    /// these pass.
    pub fn put(&mut self, name: &[u8], value: &[u8]) {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            // More than 24 576 fields would not fit; a head has at most `MAX_FIELDS`.
            let _ = self.0.try_append(name, value);
        }
    }

    /// Response head with these fields.
    ///
    /// A status that is none becomes 502; heads that were read have none such.
    pub fn response(self, status: u16) -> Response<()> {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
        *response.headers_mut() = self.0;
        response
    }

    /// Request head with these fields.
    ///
    /// `CONNECT` is not made here: a URI without a scheme would be needed.
    ///
    /// # Errors
    /// If the authority or the path is not valid in a URI.
    pub fn request(self, method: &str, scheme: &str, authority: &[u8], path: &[u8]) -> Result<Request<()>, HeadError> {
        let wrong = |_| HeadError::Malformed("the target cannot be passed on by HTTP/2");
        let uri = Uri::builder().scheme(scheme).authority(authority).path_and_query(path).build().map_err(wrong)?;
        let method = Method::from_bytes(method.as_bytes())
            .map_err(|_| HeadError::Malformed("the method cannot be passed on by HTTP/2"))?;
        let mut request = Request::new(());
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = self.0;
        Ok(request)
    }
}

/// True if a path and query can be sent by HTTP/2. HTTP/1.1 carries some bytes that a URI must not
/// have (RFC 3986 §2), and many origins take them; the `http` crate does not.
///
/// `/a?q=<b>` cannot be sent, and `/a?q=%3Cb%3E` can. A request with such a path goes to its origin
/// by HTTP/1.1, or as [`carried_path`] has it.
pub fn can_carry_path(path: &str) -> bool {
    let is_unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~%?=&+,:;@!$*()".contains(&byte);
    path.bytes().all(is_unreserved) || PathAndQuery::try_from(path).is_ok()
}

/// A path and query as HTTP/2 can carry it, for an origin that speaks nothing else: the bytes that it
/// cannot carry are percent-encoded.
pub fn carried_path(path: &str) -> Cow<'_, str> {
    // The visible characters that `http` refuses.
    const REFUSED: &AsciiSet = &CONTROLS.add(b'"').add(b'<').add(b'>').add(b'`');
    if can_carry_path(path) { path.into() } else { utf8_percent_encode(path, REFUSED).into() }
}

/// Converts a request head: target in absolute form, `Host` kept, the crumbs of a cookie joined
/// (RFC 9113 §8.2.3).
///
/// # Errors
/// `Malformed` or `TooLarge`. Version, method and, if there is one, target are set nevertheless, so
/// that the refusal is written and logged as that of this request.
pub(super) fn read_request(
    head: &http::request::Parts,
    end_stream: EndStream,
    default_scheme: &str,
    into: &mut RequestHead,
) -> Result<(), HeadError> {
    into.version = Version::Http2;
    into.end_stream = end_stream;
    into.fields.clear();
    into.method_at = into.fields.append(head.method.as_str().as_bytes());
    into.target_at = 0..0;
    let authority = head.uri.authority().map(|authority| authority.as_str().as_bytes());
    let scheme = head.uri.scheme_str().unwrap_or(default_scheme);
    let host = single_host(head);
    if let Some(authority) = authority.or(host.unwrap_or_default()) {
        let start = into.fields.append(b"").start;
        if head.method != Method::CONNECT {
            into.fields.append(scheme.as_bytes());
            into.fields.append(b"://");
        }
        into.fields.append(authority);
        if head.method != Method::CONNECT && head.uri.path() != "*" {
            let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
            into.fields.append(path.as_bytes());
        }
        into.target_at = start..into.fields.append(b"").end;
    }
    match (authority, host?) {
        (None, None) => return Err(HeadError::Malformed("there is neither :authority nor Host")),
        (Some(authority), Some(host)) if !is_same_server(authority, host, scheme) => {
            return Err(HeadError::Malformed(":authority and Host name different servers"));
        }
        _ => {}
    }
    if head.uri.path() == "*" && head.method != Method::OPTIONS {
        return Err(HeadError::Malformed("only OPTIONS may ask for `*` (RFC 9113 §8.3.1)"));
    }
    check_target(into.target())?;
    if let Some(encoded) = encoded_target(into.target()) {
        into.target_at = into.fields.append(encoded.as_bytes());
    }
    read_fields(&head.headers, MAX_FIELDS, &mut into.fields)
}

/// True if two authorities name one server: letter case and the scheme's default port do not matter
/// (RFC 9110 §4.2.3).
fn is_same_server(one: &[u8], other: &[u8], scheme: &str) -> bool {
    let default: &[u8] = if scheme.eq_ignore_ascii_case("https") { b":443" } else { b":80" };
    let bare = |authority| <[u8]>::strip_suffix(authority, default).unwrap_or(authority);
    bare(one).eq_ignore_ascii_case(bare(other))
}

/// Value of the `Host` field, if there is one. Several are an error.
fn single_host(head: &http::request::Parts) -> Result<Option<&[u8]>, HeadError> {
    let mut hosts = head.headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (_, Some(_)) => Err(HeadError::Malformed("there are several Host fields")),
        (host, None) => Ok(host.map(HeaderValue::as_bytes)),
    }
}

/// Converts a response head, with the reason phrase that HTTP/1.1 wants.
///
/// 101 (Switching Protocols) is an error: HTTP/2 has none (RFC 9113 §8.6).
///
/// # Errors
/// `Malformed` for 101 or white space around a value; `TooLarge` for more fields than the limits
/// allow. The origin is at fault (502).
pub(super) fn read_response(
    head: &http::response::Parts,
    end_stream: EndStream,
    limits: HeadLimits,
    into: &mut ResponseHead,
) -> Result<(), HeadError> {
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(HeadError::Malformed("the status is none that HTTP/2 knows"));
    }
    into.version = Version::Http2;
    into.line_ends = LineEnds::Crlf;
    into.status = head.status.as_u16();
    into.end_stream = end_stream;
    into.fields.clear();
    into.reason_at = into.fields.append(head.status.canonical_reason().unwrap_or_default().as_bytes());
    read_fields(&head.headers, limits.fields, &mut into.fields)
}

/// Copies the fields. Crumbs of a cookie become one field in the place of the first, joined with `;
/// `. `most`: highest number of fields, see [`Fields::fits`].
fn read_fields(from: &HeaderMap, most: usize, into: &mut Fields) -> Result<(), HeadError> {
    let mut crumbs = from.get_all(COOKIE).iter().peekable();
    for (name, value) in from {
        let value = value.as_bytes();
        if !is_token(name) {
            return Err(HeadError::Malformed("a field name holds a byte that no name may hold"));
        }
        if value.trim_ascii().len() != value.len() {
            return Err(HeadError::Malformed("a field value begins or ends with white space"));
        }
        if *name == COOKIE {
            // All crumbs take the place of the first.
            if crumbs.peek().is_some() {
                let all: Vec<&[u8]> = crumbs.by_ref().map(HeaderValue::as_bytes).collect();
                let joined = all.join(&b"; "[..]);
                // No value ends with the space of a separator (RFC 9113 §8.2.1).
                into.push(name.as_str().as_bytes(), std::iter::once(joined.trim_ascii_end()));
            }
            continue;
        }
        into.push(name.as_str().as_bytes(), std::iter::once(value));
    }
    if into.fits(most) { Ok(()) } else { Err(HeadError::TooLarge) }
}

/// True if a field name is a token (RFC 9110 §5.1). `http` accepts one byte more in the names that
/// HTTP/2 carries: the double quote, for which readers of HTTP/1.1 refuse the message.
fn is_token(name: &HeaderName) -> bool {
    !name.as_str().contains('"')
}

/// Appends trailers in HTTP/1.1 form, with the empty line behind them.
///
/// Leaves out fields that would change framing, routing or authentication, and those whose name is
/// none in HTTP/1.1.
pub fn write_trailers(trailers: &HeaderMap, out: &mut Vec<u8>) {
    for (name, value) in trailers {
        if !is_dropped(name.as_str()) && is_token(name) {
            out.extend_from_slice(name.as_str().as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(value.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Trailers as they are passed on from one HTTP/2 connection to another, without fields that mean
/// something to the framing or the routing (RFC 9110 §6.5.1); `None` if none are left, or too many.
pub fn filter_trailers(mut trailers: HeaderMap) -> Option<HeaderMap> {
    let is_dropped = |name: &&HeaderName| is_dropped(name.as_str()) || !is_token(name);
    let forbidden: Vec<HeaderName> = trailers.keys().filter(is_dropped).cloned().collect();
    for name in forbidden {
        trailers.remove(name);
    }
    trailers.remove(CONTENT_LENGTH);
    (1..=MAX_TRAILER_FIELDS).contains(&trailers.len()).then_some(trailers)
}

/// Trailers from their HTTP/1.1 form, which was checked before; `None` if there are none.
///
/// `Content-Length` is left out, as in [`filter_trailers`].
pub fn read_trailers(written: &[u8]) -> Option<HeaderMap> {
    let mut map = FieldMap::default();
    trailer_section::for_each_field(written, |name, value| map.put(name, value));
    map.0.remove(CONTENT_LENGTH);
    (!map.0.is_empty()).then_some(map.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Name;

    fn parts(request: http::request::Builder) -> http::request::Parts {
        request.body(()).unwrap().into_parts().0
    }

    fn read(request: http::request::Builder) -> Result<RequestHead, HeadError> {
        let mut head = RequestHead::default();
        read_request(&parts(request), EndStream::Yes, "http", &mut head).map(|()| head)
    }

    #[test]
    fn a_request_has_its_target_in_absolute_form_and_its_crumbs_in_one_cookie() {
        let request = Request::get("https://api.example:8443/a?b")
            .header("x-a", "1")
            .header("cookie", "a=1")
            .header("x-b", "2")
            .header("cookie", "b=2");
        let head = read(request).unwrap();
        assert_eq!((head.method(), head.target()), ("GET", "https://api.example:8443/a?b"));
        let fields: Vec<_> = head.fields().map(|(_, name, value)| (name, value)).collect();
        let expected: [(&[u8], &[u8]); 3] = [(b"x-a", b"1"), (b"cookie", b"a=1; b=2"), (b"x-b", b"2")];
        assert_eq!(fields, expected);
    }

    #[test]
    fn a_cookie_whose_last_crumb_is_empty_ends_without_a_space() {
        for (crumbs, joined) in [(["", ""], &b";"[..]), (["a=1", ""], b"a=1;"), (["", "a=1"], b"; a=1")] {
            let head = read(Request::get("http://a/").header("cookie", crumbs[0]).header("cookie", crumbs[1])).unwrap();
            assert_eq!(head.all(Name::Other).collect::<Vec<_>>(), [joined], "{crumbs:?}");
        }
    }

    #[test]
    fn what_is_carried_is_what_a_request_can_be_made_of() {
        for byte in (0x21..0x7f_u8).chain([b' ', 0x7f]) {
            for path in [format!("/{}", char::from(byte)), format!("/a?{}", char::from(byte))] {
                let request = FieldMap::default().request("GET", "https", b"a", path.as_bytes());
                assert_eq!(can_carry_path(&path), request.is_ok(), "{path:?}");
            }
        }
        assert!(!can_carry_path("/a?q=<b>") && can_carry_path("/a?q=%3Cb%3E"));
        let visible: String = (0x21..0x7f_u8).map(char::from).collect();
        let carried = carried_path(&visible);
        assert!(can_carry_path(&format!("/{carried}")) && can_carry_path(&format!("/?{carried}")), "{carried}");
        assert_eq!(carried.len() - visible.len(), 2 * 4, "{carried}");
        assert_eq!(carried_path("/{a|b}^[]\\"), "/{a|b}^[]\\");
    }

    #[test]
    fn connect_names_an_authority_alone_and_options_may_mean_the_whole_server() {
        assert_eq!(read(Request::connect("api.example:443")).unwrap().target(), "api.example:443");
        let all = Uri::builder().scheme("http").authority("api.example").path_and_query("*").build().unwrap();
        assert_eq!(read(Request::options(all)).unwrap().target(), "http://api.example");
    }

    #[test]
    fn a_host_alone_stands_for_the_authority_and_beside_it_must_say_the_same() {
        let head = read(Request::get("/a").header("host", "api.example")).unwrap();
        assert_eq!((head.target(), head.get(Name::Host)), ("http://api.example/a", Some(&b"api.example"[..])));
        assert!(read(Request::get("http://api.example/").header("host", "API.example")).is_ok());
        assert!(read(Request::get("http://api.example/").header("host", "other.example")).is_err());
        assert!(read(Request::get("http://a/").header("host", "a").header("host", "a")).is_err());
        assert!(read(Request::get("/a")).is_err());
    }

    #[test]
    fn white_space_around_a_value_and_too_many_fields_are_refused() {
        assert!(read(Request::get("http://a/").header("x", " y")).is_err());
        let mut many = Request::get("http://a/");
        for number in 0..=MAX_FIELDS {
            many = many.header(format!("x-{number}"), "y");
        }
        assert_eq!(read(many).err(), Some(HeadError::TooLarge));
    }

    #[test]
    fn a_field_name_that_http_1_1_cannot_carry_is_refused_in_a_head_and_dropped_in_trailers() {
        let mut carried = 0;
        for byte in 0..=u8::MAX {
            let Ok(name) = HeaderName::from_lowercase(&[b'x', byte]) else { continue };
            let mut request = parts(Request::get("http://a/"));
            request.headers.insert(name.clone(), HeaderValue::from_static("y"));
            let trailers = request.headers.clone();
            let read = read_request(&request, EndStream::Yes, "http", &mut RequestHead::default());
            let line = [b"GET / HTTP/1.1\r\n", name.as_str().as_bytes(), b": y\r\n\r\n"].concat();
            let is_carried = RequestHead::default().read(&line).is_ok();
            assert_eq!(read.is_ok(), is_carried, "{name}");
            assert_eq!(filter_trailers(trailers.clone()).is_some(), is_carried, "{name}");
            let mut out = Vec::new();
            write_trailers(&trailers, &mut out);
            assert_eq!(out.len() > 2, is_carried, "{name}");
            carried += u32::from(is_carried);
        }
        assert_eq!(carried, 26 + 10 + 15, "letters, digits and the marks of a token");
    }

    #[test]
    fn trailers_go_both_ways_without_what_would_change_the_framing() {
        let mut out = Vec::new();
        let map = read_trailers(b"grpc-status: 0\r\nX-Sum:  abc \r\n\r\n").unwrap();
        write_trailers(&map, &mut out);
        assert_eq!(out, b"grpc-status: 0\r\nx-sum: abc\r\n\r\n");
        assert!(read_trailers(b"\r\n").is_none());
        let mut bad = HeaderMap::new();
        bad.insert("content-length", HeaderValue::from_static("5"));
        out.clear();
        write_trailers(&bad, &mut out);
        assert_eq!(out, b"\r\n");
    }
}
