//! Trailers of a body (RFC 9110 §6.5), kept in the form of their version of HTTP until they are written.

use http::HeaderMap;

use super::serialize::write_field;
use crate::wire::http2::{filter_trailers, read_trailers, write_trailers};
use crate::wire::trailer_section::for_each_field;
use crate::wire::{Conn, Length};

/// Trailers of a body, in the form in which they were read.
#[derive(Debug, Default)]
pub(super) enum Trailers<T> {
    #[default]
    /// None, or none to forward.
    None,
    /// Bytes of HTTP/1.1, the empty line behind them included.
    Http1(T),
    /// Fields as read by the h2 crate.
    Http2(HeaderMap),
}

impl Trailers<Vec<u8>> {
    /// Borrows the trailers, to write them once more.
    pub(super) fn borrowed(&self) -> Trailers<&[u8]> {
        match self {
            Trailers::None => Trailers::None,
            Trailers::Http1(text) => Trailers::Http1(text),
            Trailers::Http2(map) => Trailers::Http2(map.clone()),
        }
    }
}

impl Trailers<&[u8]> {
    /// Copies the trailers, for a body that is kept.
    pub(super) fn to_owned(&self) -> Trailers<Vec<u8>> {
        match self {
            Trailers::None => Trailers::None,
            Trailers::Http1(text) => Trailers::Http1(text.to_vec()),
            Trailers::Http2(map) => Trailers::Http2(map.clone()),
        }
    }

    /// Ends a body framed as `framing` with its trailers, if that has a place for them.
    pub(super) fn write(self, framing: Length, to: &mut Conn) {
        if framing == Length::Chunked {
            let out = to.out();
            out.extend_from_slice(b"0\r\n");
            match self {
                Trailers::None => out.extend_from_slice(b"\r\n"),
                Trailers::Http1(text) => {
                    for_each_field(text, |name, value| write_field(out, name, value));
                    out.extend_from_slice(b"\r\n");
                }
                Trailers::Http2(map) => write_trailers(&map, out),
            }
        } else if to.stream.is_http2() {
            let trailers = match self {
                Trailers::None => None,
                Trailers::Http1(text) => read_trailers(text),
                Trailers::Http2(map) => filter_trailers(map),
            };
            if let Some(trailers) = trailers {
                to.stream.set_trailers(trailers);
            }
        }
    }
}
