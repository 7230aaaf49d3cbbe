//! JSON strings of access-log lines, written into the batch: no allocation for each, and more
//! characters escaped than by serde_json.

use std::fmt::Write;

/// Appends `text` in quotes. Control characters and line separators (U+2028, U+2029) are escaped,
/// so that no reader sees a line break.
pub(super) fn push_string(out: &mut String, text: &str) {
    out.push('"');
    let mut plain = 0;
    for (at, char) in text.char_indices() {
        if !(char == '"' || char == '\\' || char.is_control() || matches!(char, '\u{2028}' | '\u{2029}')) {
            continue;
        }
        out.push_str(&text[plain..at]);
        plain = at + char.len_utf8();
        match char {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            // All escaped characters lie below U+10000: no surrogate pairs.
            other => write!(out, "\\u{:04x}", u32::from(other)).expect("writing to a String cannot fail"),
        }
    }
    out.push_str(&text[plain..]);
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_end_a_string_or_a_line_is_escaped() {
        let mut out = String::new();
        push_string(&mut out, "a\"b\\c\nd\re\0f\u{7f}\u{85}\u{2028}ü");
        assert_eq!(out, "\"a\\\"b\\\\c\\nd\\u000de\\u0000f\\u007f\\u0085\\u2028ü\"");
    }
}
