//! Percent-encoding of request targets with characters outside of ASCII.
//!
//! Programs on libcurl send a URL as they are given it, and most servers take it. Encoded as browsers do it (WHATWG URL
//! §1.3), it is one and the same for limits and origins in all versions of HTTP.

use percent_encoding::{AsciiSet, utf8_percent_encode};

/// Target with its characters outside of ASCII percent-encoded, and all others kept. `None`: it has none.
pub(super) fn encoded_target(target: &str) -> Option<String> {
    (!target.is_ascii()).then(|| utf8_percent_encode(target, &AsciiSet::EMPTY).to_string())
}

/// Length of that target in bytes.
pub(super) fn encoded_len(target: &str) -> usize {
    target.len() + 2 * target.bytes().filter(|byte| !byte.is_ascii()).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::head::{HeadError, MAX_HEAD, RequestHead};
    use crate::wire::{Name, Version};

    #[test]
    fn characters_outside_of_ascii_are_percent_encoded_and_all_others_kept() {
        let head = "GET /caf\u{e9}%C3%A9?q=\"{\u{20ac}}\" HTTP/1.1\r\nHost: a\r\n\r\n";
        let head = RequestHead::parse_for_test(head.as_bytes());
        assert_eq!(head.target(), "/caf%C3%A9%C3%A9?q=\"{%E2%82%AC}\"");
        assert_eq!((head.method(), head.version(), head.get(Name::Host)), ("GET", Version::Http11, Some(&b"a"[..])));
        let visible: String = ('!'..='~').collect();
        assert_eq!(encoded_target(&visible), None);
        let wide = visible + "\u{80}\u{7ff}\u{800}\u{10ffff}";
        assert_eq!(encoded_target(&wide).map(|encoded| encoded.len()), Some(encoded_len(&wide)));
    }

    #[test]
    fn a_target_that_is_too_long_once_it_is_encoded_is_refused() {
        let read = |count| {
            let head = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "\u{e9}".repeat(count));
            RequestHead::default().read(head.as_bytes()).map(|length| length.is_some())
        };
        assert_eq!(read(MAX_HEAD / 6 - 1), Ok(true));
        assert_eq!(read(MAX_HEAD / 6 + 1), Err(HeadError::LineTooLong));
    }
}
