//! Header fields of a message, with an enum of those that a proxy must understand.
//!
//! Fields are stored as they were received: one buffer with the bytes of the whole head, and ranges
//! into it. Names keep their letter case and order, so that a forwarded message differs from the
//! received one only where a proxy must change it. Lookups by [`Name`] compare one byte; lookups by
//! text ([`Fields::find`]) compare the names of all fields.

use std::ops::Range;

use super::line_ends::LineEnds;

/// Kind of a field, determined once when the head is read.
///
/// Hop-by-hop fields, the fields of framing, and those that a proxy reads or
/// writes have a variant. All other fields share `Other`, which costs no comparison later.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "each is the field of that name")]
pub enum Name {
    Host,
    Connection,
    ContentLength,
    TransferEncoding,
    Te,
    Trailer,
    Upgrade,
    Expect,
    KeepAlive,
    ProxyConnection,
    ProxyAuthorization,
    ProxyAuthenticate,
    Via,
    MaxForwards,
    Date,
    RetryAfter,
    Prefer,
    Priority,
    Authorization,
    WwwAuthenticate,
    PersistentAuth,
    Forwarded,
    Http2Settings,
    /// Any other field, passed on unchanged.
    Other,
}

/// Most fields of a head that do not count towards its bound, because gateways on its way add them
/// or write them anew: some for each of a chain of gateways.
pub(super) const MAX_ADDED: usize = 32;

impl Name {
    /// Kind of a field name; letter case does not matter.
    ///
    /// Compares only with the names of the same length, one or two of them.
    pub fn of(name: &[u8]) -> Name {
        let known: &[(&str, Name)] = match name.len() {
            2 => &[("te", Name::Te)],
            3 => &[("via", Name::Via)],
            4 => &[("host", Name::Host), ("date", Name::Date)],
            6 => &[("expect", Name::Expect), ("prefer", Name::Prefer)],
            7 => &[("upgrade", Name::Upgrade), ("trailer", Name::Trailer)],
            8 => &[("priority", Name::Priority)],
            9 => &[("forwarded", Name::Forwarded)],
            10 => &[("connection", Name::Connection), ("keep-alive", Name::KeepAlive)],
            11 => &[("retry-after", Name::RetryAfter)],
            12 => &[("max-forwards", Name::MaxForwards)],
            13 => &[("authorization", Name::Authorization)],
            14 => &[("content-length", Name::ContentLength), ("http2-settings", Name::Http2Settings)],
            15 => &[("persistent-auth", Name::PersistentAuth)],
            16 => &[("proxy-connection", Name::ProxyConnection), ("www-authenticate", Name::WwwAuthenticate)],
            17 => &[("transfer-encoding", Name::TransferEncoding)],
            18 => &[("proxy-authenticate", Name::ProxyAuthenticate)],
            19 => &[("proxy-authorization", Name::ProxyAuthorization)],
            _ => &[],
        };
        known.iter().find(|(text, _)| name.eq_ignore_ascii_case(text.as_bytes())).map_or(Name::Other, |(_, name)| *name)
    }
}

/// One field: its kind, and the ranges of its bytes.
#[derive(Clone, Debug)]
struct Field {
    /// Kind of the field, by its name.
    name: Name,
    /// Range of the name in [`Fields::bytes`], in the letter case of the sender.
    name_at: Range<u32>,
    /// Range of the value in [`Fields::bytes`], without white space around it; `0..0` if it is
    /// empty.
    value_at: Range<u32>,
}

/// Fields of a head in their order, with the bytes that they lie in.
///
/// Reused from message to message: parsing a head of usual size allocates nothing after the first.
/// Unusually large buffers are freed by [`Fields::shrink`].
#[derive(Debug, Default)]
pub struct Fields {
    /// Bytes of the head, as received (HTTP/1), or appended piece by piece (HTTP/2).
    pub(super) bytes: Vec<u8>,
    /// Fields in the order of the message; their number is bounded by [`Fields::fits`].
    fields: Vec<Field>,
}

impl Fields {
    /// All fields in order: kind, name as received, value without surrounding white space.
    pub fn fields(&self) -> impl DoubleEndedIterator<Item = (Name, &[u8], &[u8])> {
        self.fields.iter().map(|field| (field.name, self.slice(&field.name_at), self.slice(&field.value_at)))
    }

    /// First value of a known field.
    ///
    /// With `Name::Other` it would be the first field of unknown kind: [`Fields::find`] is meant
    /// for these.
    pub fn get(&self, name: Name) -> Option<&[u8]> {
        self.all(name).next()
    }

    /// All values of a known field, in order.
    ///
    /// A field that is given several times is one list for most names (RFC 9110 §5.3); the values
    /// are not split at commas here, see [`members`].
    pub fn all(&self, name: Name) -> impl Iterator<Item = &[u8]> {
        self.fields.iter().filter(move |field| field.name == name).map(|field| self.slice(&field.value_at))
    }

    /// First value of any field; letter case does not matter.
    pub fn find(&self, name: &str) -> Option<&[u8]> {
        let is_it = |(_, given, _): &(Name, &[u8], &[u8])| given.eq_ignore_ascii_case(name.as_bytes());
        self.fields().find(is_it).map(|(_, _, value)| value)
    }

    /// Forgets the fields, and frees the memory of an unusually large head.
    ///
    /// Keeps up to 1 KiB of bytes and 24 fields, which most requests fit into, for the next head of
    /// the connection.
    pub fn shrink(&mut self) {
        self.clear();
        self.bytes.shrink_to(1024);
        self.fields.shrink_to(24);
    }

    /// Bytes of a range that was returned for this head.
    ///
    /// # Panics
    /// If the range lies outside of the bytes, as one of an earlier, longer head may.
    pub(super) fn slice(&self, at: &Range<u32>) -> &[u8] {
        &self.bytes[at.start as usize..at.end as usize]
    }

    /// Forgets the fields and keeps their memory.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.fields.clear();
    }

    /// Stores a head and its parsed fields.
    pub(super) fn store(&mut self, head: &[u8], parsed: &[httparse::Header<'_>]) {
        self.clear();
        self.bytes.extend_from_slice(head);
        self.fields.extend(parsed.iter().map(|header| Field {
            name: Name::of(header.name.as_bytes()),
            name_at: range_in(head, header.name.as_bytes()),
            value_at: range_in(head, header.value.trim_ascii()),
        }));
    }

    /// Checks that no two readers can differ on the fields of framing.
    ///
    /// # Errors
    /// White space between the name of such a field and its colon, a fold in it, or, in a head of
    /// [`LineEnds::Mixed`], an end of its line or of the head that is no CR LF.
    pub(super) fn check_framing(&self, line_ends: LineEnds) -> Result<(), &'static str> {
        let is_crlf = |at: usize| at > 0 && self.bytes[at - 1] == b'\r';
        let is_framing = |field: &&Field| matches!(field.name, Name::ContentLength | Name::TransferEncoding);
        for field in self.fields.iter().filter(is_framing) {
            let (begin, colon) = (field.name_at.start as usize, field.name_at.end as usize);
            if self.bytes.get(colon) != Some(&b':') {
                return Err("white space stands before the colon of Content-Length or Transfer-Encoding");
            }
            // Each line of a complete head has an end, and a line before it.
            let end = memchr::memchr(b'\n', &self.bytes[colon..]).map_or(self.bytes.len() - 1, |at| colon + at);
            if matches!(self.bytes.get(end + 1), Some(b' ' | b'\t')) {
                return Err("Content-Length or Transfer-Encoding is folded");
            }
            let is_between_crlf = is_crlf(begin - 1) && is_crlf(end) && self.bytes.ends_with(b"\r\n\r\n");
            if line_ends == LineEnds::Mixed && !is_between_crlf {
                return Err("a line at Content-Length or Transfer-Encoding ends with LF alone");
            }
        }
        Ok(())
    }

    /// Replaces each fold in a value, with the white space around it, by as many spaces (RFC 9112
    /// §5.2).
    pub(super) fn unfold(&mut self) {
        for field in &self.fields {
            let value = &mut self.bytes[field.value_at.start as usize..field.value_at.end as usize];
            if memchr::memchr2(b'\n', b'\r', value).is_some() {
                replace_folds(value);
            }
        }
    }

    /// Appends bytes of a head that is put together; returns their range.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Range<u32> {
        let start = self.position();
        self.bytes.extend_from_slice(bytes);
        start..self.position()
    }

    /// Appends a field; the parts of its value are joined.
    pub(super) fn push<'a>(&mut self, name: &[u8], value: impl Iterator<Item = &'a [u8]>) {
        let name_at = self.append(name);
        let start = self.position();
        value.for_each(|part| self.bytes.extend_from_slice(part));
        self.fields.push(Field { name: Name::of(name), name_at, value_at: start..self.position() });
    }

    /// True if the head has at most `most` fields. Those that gateways add, up to [`MAX_ADDED`] of
    /// them, do not count: a head that this gateway passes on must fit at the next one, too.
    pub(super) fn fits(&self, most: usize) -> bool {
        let all = self.fields.len();
        all <= most || all - self.fields.iter().filter(|field| self.is_added(field)).count().min(MAX_ADDED) <= most
    }

    /// True for a field that a gateway adds or writes anew, as this one does.
    fn is_added(&self, field: &Field) -> bool {
        use Name::{Connection, ContentLength, Date, Host, Te, TransferEncoding, Via};
        let is_named = |name: &str| self.slice(&field.name_at).eq_ignore_ascii_case(name.as_bytes());
        matches!(field.name, Via | Host | Date | Connection | ContentLength | TransferEncoding | Te)
            || field.name == Name::Other && ["server-timing", "traceparent"].into_iter().any(is_named)
    }

    /// Length of the stored bytes: the start of the next range.
    fn position(&self) -> u32 {
        // Heads are bounded far below 4 GiB, see `MAX_HEAD`.
        u32::try_from(self.bytes.len()).unwrap_or(u32::MAX)
    }
}

/// Range of `part`, a slice of `whole`. The range of an empty part is `0..0`.
///
/// Empty parts are special, because httparse returns literals for some of them, which lie outside
/// of `whole`.
pub(super) fn range_in(whole: &[u8], part: &[u8]) -> Range<u32> {
    let start = (part.as_ptr() as usize).wrapping_sub(whole.as_ptr() as usize);
    if part.is_empty() || start > whole.len() {
        return 0..0;
    }
    // Heads are at most MAX_HEAD long, and httparse returns slices of its input: both ends fit.
    let start = u32::try_from(start).unwrap_or(0);
    start..start + u32::try_from(part.len()).unwrap_or(0)
}

/// Replaces folds by spaces: line ends, and the tabs around them.
pub(super) fn replace_folds(value: &mut [u8]) {
    let is_white = |byte: u8| matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
    for run in value.chunk_by_mut(|one, next| is_white(*one) == is_white(*next)) {
        if run.contains(&b'\n') {
            run.fill(b' ');
        }
    }
}

/// Members of a comma-separated list (RFC 9110 §5.6.1): trimmed, without empty ones.
///
/// `close, , Keep-Alive ` has the members `close` and `Keep-Alive`. Commas in quoted strings
/// split, too.
pub fn members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|member| !member.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_in_any_letter_case() {
        assert_eq!(Name::of(b"Content-LENGTH"), Name::ContentLength);
        assert_eq!(Name::of(b"TE"), Name::Te);
        assert_eq!(Name::of(b"Content-Lengths"), Name::Other);
        assert_eq!(Name::of(b""), Name::Other);
    }

    #[test]
    fn a_list_has_only_its_real_members() {
        let all: Vec<_> = members(b" close,,\tUpgrade ,").collect();
        assert_eq!(all, [&b"close"[..], b"Upgrade"]);
    }
}
