//! Escapes of the text format: no value can forge a line, or the word that follows it.

use std::fmt::{self, Display, Formatter, Write};

/// Escapes text so that it is one word of a line: without spaces, quotes, and control or invisible characters.
///
/// For words that are known by their position, such as the caller's name and the target.
pub(super) struct EscapedWord<'a>(pub(super) &'a str);

impl Display for EscapedWord<'_> {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return out.write_char('-');
        }
        if is_plain(self.0) {
            return out.write_str(self.0);
        }
        self.0.chars().try_for_each(|char| match char {
            ' ' => out.write_str("\\u{20}"),
            char => write_escaped(out, char),
        })
    }
}

/// Writes the value of a `name=value` word: as it is if it is a plain word, else in double quotes.
///
/// Spaces stay; quotes, backslashes, and control or invisible characters in it are escaped.
pub(super) struct QuotedValue<'a>(pub(super) &'a str);

impl Display for QuotedValue<'_> {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        if !self.0.is_empty() && is_plain(self.0) {
            return out.write_str(self.0);
        }
        out.write_char('"')?;
        self.0.chars().try_for_each(|char| write_escaped(out, char))?;
        out.write_char('"')
    }
}

/// True for text that needs neither escapes nor quotes.
fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\'' | b'\\'))
}

/// Writes a character as it is if it is visible or a space, else as a Rust escape. An apostrophe ends no value.
fn write_escaped(out: &mut Formatter<'_>, char: char) -> fmt::Result {
    match char {
        '\'' => out.write_char(char),
        char => write!(out, "{}", char.escape_debug()),
    }
}
