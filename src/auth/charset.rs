//! Character encoding of `Basic` credentials (RFC 7617 §2.1): UTF-8, which we ask for, or ISO-8859-1 of older programs.

use std::borrow::Cow;

/// Converts credentials to UTF-8: bytes that are not UTF-8 are taken for ISO-8859-1.
///
/// Such text is never UTF-8 by chance unless each letter beyond ASCII has another behind it that fits, as in `Ã©`.
/// `p\xE4ss` becomes `päss`, and `päss` in UTF-8 stays.
pub fn to_utf8(credentials: &[u8]) -> Cow<'_, [u8]> {
    match std::str::from_utf8(credentials) {
        Ok(_) => Cow::Borrowed(credentials),
        // A byte of ISO-8859-1 is the number of its character in Unicode.
        Err(_) => Cow::Owned(credentials.iter().map(|byte| char::from(*byte)).collect::<String>().into_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_utf_8_is_taken_for_latin_1() {
        for (given, converted) in [
            (&b"ana:secret"[..], "ana:secret"),
            ("ana:p\u{e4}ss".as_bytes(), "ana:p\u{e4}ss"),
            (b"ana:p\xe4ss", "ana:p\u{e4}ss"),
            (b"\xf6:\xff", "\u{f6}:\u{ff}"),
        ] {
            assert_eq!(&*to_utf8(given), converted.as_bytes(), "{}", given.escape_ascii());
        }
    }
}
