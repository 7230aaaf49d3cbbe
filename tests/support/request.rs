//! A request as an origin of ours received it: bytes kept, parts read strictly.

use std::time::Instant;

use super::PATIENCE;
use super::stream::{Stop, Stream};

/// One request that arrived.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// When the kernel received its head, on the tests' clock.
    pub(crate) stamp: u64,
    /// Which connection of this origin brought it, from 0.
    pub(crate) connection: usize,
    /// Its place on that connection, from 0.
    pub(crate) place: usize,
    /// The head as it came, with its empty line.
    pub(crate) raw: String,
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) version: String,
    pub(crate) fields: Vec<(String, String)>,
    /// The content, once it has been read.
    pub(crate) body: Vec<u8>,
    /// The trailers, once they have been read.
    pub(crate) trailers: Vec<(String, String)>,
}

impl Request {
    /// Reads a head as strictly as a careful origin would.
    pub(crate) fn parse(head: &[u8], stamp: u64, connection: usize, place: usize) -> Request {
        let raw: String = head.iter().map(|b| char::from(*b)).collect();
        let mut lines = raw.trim_end_matches("\r\n").split("\r\n");
        let first = lines.next().expect("a head has a first line");
        let mut parts = first.split(' ');
        let mut part =
            || parts.next().unwrap_or_else(|| panic!("bad request line at the origin: {first:?}")).to_owned();
        let (method, target, version) = (part(), part(), part());
        assert!(parts.next().is_none(), "too many parts in the request line at the origin: {first:?}");
        let fields = lines.map(field).collect();
        let (body, trailers) = (Vec::new(), Vec::new());
        Request { stamp, connection, place, method, target, version, fields, body, trailers, raw }
    }

    /// The first value of a field, whatever its letter case.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// True if the connection is to end with the answer.
    pub(crate) fn asks_to_close(&self) -> bool {
        self.field("connection").is_some_and(|text| text.eq_ignore_ascii_case("close"))
    }

    /// All values of a field, in order.
    pub(crate) fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        let name = name.to_owned();
        self.fields.iter().filter(move |(n, _)| n.eq_ignore_ascii_case(&name)).map(|(_, v)| v.as_str())
    }

    /// The content as text.
    pub(crate) fn text(&self) -> String {
        self.body.iter().map(|b| char::from(*b)).collect()
    }

    /// Reads the content by its framing; `Err` when the sender broke off.
    pub(crate) fn read_body(&mut self, stream: &mut Stream) -> Result<(), Stop> {
        let end = Instant::now() + PATIENCE;
        let chunked = self.field("transfer-encoding").map(str::to_ascii_lowercase);
        let length = self.field("content-length").map(str::to_owned);
        assert!(chunked.is_none() || length.is_none(), "an ambiguous message reached the origin: {}", self.raw);
        match (chunked.as_deref(), length) {
            (Some("chunked"), _) => {
                let (body, trailers) = chunks(stream, end)?;
                self.body = body;
                self.trailers = trailers;
            }
            (Some(other), _) => panic!("an unknown coding reached the origin: {other:?}"),
            (None, Some(length)) => {
                let count = length.parse().unwrap_or_else(|_| panic!("a bad length reached the origin: {length:?}"));
                self.body = stream.take(count, end)?;
            }
            (None, None) => {}
        }
        Ok(())
    }
}

/// One `name: value` line, strictly.
pub(crate) fn field(line: &str) -> (String, String) {
    let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("a field line without a colon: {line:?}"));
    let good = !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?={}".contains(&b));
    assert!(good, "a field name that is none: {line:?}");
    assert!(!value.bytes().any(|b| matches!(b, b'\r' | b'\n' | 0)), "control characters in a field: {line:?}");
    (name.to_owned(), value.trim_matches([' ', '\t']).to_owned())
}

/// A chunked body, strictly: content and trailers.
pub(crate) type Chunks = (Vec<u8>, Vec<(String, String)>);

/// Reads a chunked body; `Err` when the sender broke off.
pub(crate) fn chunks(stream: &mut Stream, end: Instant) -> Result<Chunks, Stop> {
    let mut body = Vec::new();
    loop {
        let line = stream.take_until(b"\r\n", end)?;
        let text = std::str::from_utf8(&line).expect("a chunk size is ASCII").trim_end_matches("\r\n");
        let digits = text.split(';').next().expect("a split has a first part");
        let size = usize::from_str_radix(digits, 16).unwrap_or_else(|_| panic!("bad chunk size {text:?}"));
        if size == 0 {
            break;
        }
        body.extend(stream.take(size, end)?);
        assert_eq!(stream.take(2, end)?, b"\r\n", "a chunk ends with CRLF");
    }
    let mut trailers = Vec::new();
    loop {
        let line = stream.take_until(b"\r\n", end)?;
        if line == b"\r\n" {
            return Ok((body, trailers));
        }
        let text: String = line[..line.len() - 2].iter().map(|b| char::from(*b)).collect();
        trailers.push(field(&text));
    }
}
