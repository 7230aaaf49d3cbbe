//! Trailer sections of chunked bodies (RFC 9112 §7.1.2): their end, and the fields that pass on.

use super::field::replace_folds;
use super::head;
use super::response_head::{has_empty_line, leniently};

/// Longest trailer section, in bytes. A quarter of what a whole head may have.
pub const MAX_TRAILERS: usize = 16 * 1024;

/// Most trailer fields. Half of what a head may have.
pub const MAX_TRAILER_FIELDS: usize = 64;

/// Status line that makes a response head of a section: httparse reads white space before colons and
/// folds in responses alone.
const STATUS_LINE: &[u8] = b"HTTP/1.1 200 OK\r\n";

/// Grammar by which a message is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Grammar {
    /// Of requests: two servers that differ in what they repair can be led apart.
    #[default]
    Strict,
    /// Of responses: what RFC 9112 lets a proxy repair is repaired.
    Lenient,
}

/// Progress in reading a section.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Section {
    /// More input is needed.
    More,
    /// It is complete, with this number of bytes, the empty last line included.
    Complete(usize),
}

/// Finds the end of the section at the start of `input`, and checks its fields. `seen`: number of
/// bytes at the last attempt.
///
/// # Errors
/// A section that is malformed or too long, or has a field that would change how the message is
/// read.
pub(super) fn read(input: &[u8], seen: usize, grammar: Grammar) -> Result<Section, &'static str> {
    if input.starts_with(b"\r\n") {
        return Ok(Section::Complete(2));
    }
    // A section that drips in byte by byte is not parsed again for each byte.
    let may_be_complete = match grammar {
        Grammar::Strict => head::may_be_complete(input, seen),
        Grammar::Lenient => has_empty_line(input, seen),
    };
    if !may_be_complete && input.len() <= MAX_TRAILERS {
        return Ok(Section::More);
    }
    #[cfg(test)]
    tests::READ.with(|read| read.set(read.get() + input.len()));
    let mut forbidden = false;
    let outcome = parse(input, grammar, |name, _| forbidden |= is_forbidden(name));
    match outcome.map_err(|_| "the trailers are malformed")? {
        httparse::Status::Complete(length) if length > MAX_TRAILERS => Err("the trailers are too long"),
        httparse::Status::Complete(length) => {
            if memchr::memchr_iter(b'\n', &input[..length]).any(|at| at == 0 || input[at - 1] != b'\r') {
                return Err("a trailer line ends with LF alone");
            }
            if forbidden {
                return Err("a trailer field would change how the message is read");
            }
            Ok(Section::Complete(length))
        }
        httparse::Status::Partial if input.len() > MAX_TRAILERS => Err("the trailers are too long"),
        httparse::Status::Partial => Ok(Section::More),
    }
}

/// Calls `put` with each field of a section that was read before and may pass on, its folds replaced
/// by spaces.
pub fn for_each_field(section: &[u8], mut put: impl FnMut(&[u8], &[u8])) {
    if section == b"\r\n" {
        return;
    }
    // A section that was read before is complete and well-formed.
    let _ = parse(section, Grammar::Lenient, |name, value| {
        if !is_dropped(name) {
            let mut value = value.trim_ascii().to_vec();
            replace_folds(&mut value);
            put(name.as_bytes(), &value);
        }
    });
}

/// Parses a section; calls `put` with each field if it is complete. Returns its length.
fn parse(
    section: &[u8],
    grammar: Grammar,
    mut put: impl FnMut(&str, &[u8]),
) -> Result<httparse::Status<usize>, httparse::Error> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_TRAILER_FIELDS];
    if grammar == Grammar::Strict {
        return Ok(match httparse::parse_headers(section, &mut fields)? {
            httparse::Status::Complete((length, fields)) => {
                fields.iter().for_each(|field| put(field.name, field.value));
                httparse::Status::Complete(length)
            }
            httparse::Status::Partial => httparse::Status::Partial,
        });
    }
    let head = [STATUS_LINE, section].concat();
    let mut parsed = httparse::Response::new(&mut fields);
    Ok(match leniently().parse_response(&mut parsed, &head)? {
        httparse::Status::Complete(length) => {
            parsed.headers.iter().for_each(|field| put(field.name, field.value));
            httparse::Status::Complete(length - STATUS_LINE.len())
        }
        httparse::Status::Partial => httparse::Status::Partial,
    })
}

/// True for fields that must not follow the body (RFC 9110 §6.5.1): framing, routing, and
/// authentication.
pub(super) fn is_forbidden(name: &str) -> bool {
    const FORBIDDEN: [&str; 10] = [
        "transfer-encoding",
        "content-length",
        "host",
        "connection",
        "te",
        "upgrade",
        "authorization",
        "proxy-authorization",
        "proxy-connection",
        "content-encoding",
    ];
    FORBIDDEN.iter().any(|forbidden| name.eq_ignore_ascii_case(forbidden))
}

/// True for fields that are not forwarded behind a body: those of [`is_forbidden`], and those of one
/// hop or of the head (RFC 9110 §6.6.2, §7.6.1).
pub(super) fn is_dropped(name: &str) -> bool {
    is_forbidden(name) || ["keep-alive", "trailer"].iter().any(|dropped| name.eq_ignore_ascii_case(dropped))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    thread_local! {
        /// Number of bytes of trailer sections parsed, repetitions included.
        pub(in super::super) static READ: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
    }

    fn fields(section: &[u8]) -> Vec<(String, String)> {
        let mut all = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        for_each_field(section, |name, value| all.push((text(name), text(value))));
        all
    }

    #[test]
    fn fields_of_one_hop_are_dropped_and_folds_become_spaces() {
        let section = b"A : b\r\n\tc\r\nKeep-Alive: 5\r\nTRAILER: x\r\nD:\r\n\r\n";
        assert_eq!(read(section, 0, Grammar::Lenient), Ok(Section::Complete(section.len())));
        assert!(read(section, 0, Grammar::Strict).is_err());
        assert_eq!(fields(section), [("A".to_owned(), "b   c".to_owned()), ("D".to_owned(), String::new())]);
        assert_eq!(fields(b"\r\n"), []);
    }

    #[test]
    fn framing_in_trailers_is_refused_in_every_spelling() {
        for section in
            [&b"Content-Length: 5\r\n\r\n"[..], b"A: b\r\nTransfer-Encoding : x\r\n\r\n", b"A: b\n\r\n", b"A b\r\n\r\n"]
        {
            assert!(read(section, 0, Grammar::Lenient).is_err(), "{}", section.escape_ascii());
            assert!(read(section, 0, Grammar::Strict).is_err(), "{}", section.escape_ascii());
        }
    }

    #[test]
    fn a_folded_section_is_parsed_once_however_it_arrives() {
        let section = [&b"A: b\r\n"[..], &b" c\r\n".repeat(3000), b"\r\n"].concat();
        READ.set(0);
        for end in 1..section.len() {
            assert_eq!(read(&section[..end], end - 1, Grammar::Lenient), Ok(Section::More), "{end}");
        }
        assert_eq!(read(&section, section.len() - 1, Grammar::Lenient), Ok(Section::Complete(section.len())));
        assert_eq!(READ.get(), section.len());
    }
}
