//! Edits `proxy.toml` in place: replaces the values of a limit's keys and keeps all other bytes.
//!
//! Comments, blank lines, the order of keys and the ends of lines stay: the file belongs to an
//! operator, and a program that rewrites it must be hard to notice. `PATCH /v1/limits/{name}` uses
//! this; `config::read_text` checks the result before it is put in force.
//!
//! ```text
//! requests = 5   # per contract     Edit::Number(50) ->  requests = 50   # per contract
//! ```

use std::fmt;
use std::ops::Range;

use toml::de::{DeTable, DeValue};

/// New value of a key.
#[derive(Clone, PartialEq, Debug)]
pub enum Edit {
    /// None: the key is removed, and its default holds.
    Default,
    /// An integer.
    ///
    /// Of any size here; the range of the key is checked with the whole file.
    Number(i64),
    /// A boolean.
    ///
    /// For `dry_run` and `shared`.
    Flag(bool),
    /// A string: a word, a duration, a time zone.
    Text(String),
    /// A list of strings.
    List(Vec<String>),
}

impl fmt::Display for Edit {
    /// Formats the value as the file writes it, for logs.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Edit::Default => out.write_str("default"),
            Edit::Number(number) => write!(out, "{number}"),
            Edit::Flag(flag) => write!(out, "{flag}"),
            Edit::Text(text) => write!(out, "{text:?}"),
            Edit::List(list) => write!(out, "{list:?}"),
        }
    }
}

/// Reason why a limit cannot be edited.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No limit has this number.
    #[error("the file has no limit number {0}")]
    NoLimit(usize),
    /// The limit is not a `[[limit]]` section: it is an inline table, or has no lines.
    ///
    /// For instance `limit = [{ requests = 5, per = "1s" }]`.
    #[error("this limit is not a [[limit]] of its own: change it in the file")]
    NotASection,
    /// The key names the limit, or decides which requests it counts.
    ///
    /// Counts would mean something else after a change of such a key.
    #[error("`{0}` cannot be tuned: change it in the file")]
    NotTunable(String),
}

/// Keys that cannot be edited while the gateway runs: the limit's name, and what decides which requests it counts and
/// by which key.
const FIXED: [&str; 4] = ["name", "match", "key", "ignore_case"];

/// Returns the text with new values for keys of its `number`-th limit, counted from 0. The values are not checked here:
/// [`super::read_text`] checks them.
///
/// Edits are applied in order. Each one finds its key anew, because the one before may have moved
/// it.
///
/// - A key with a new value keeps its line and its comment.
/// - A key set to its default loses its line, comment included.
/// - A key that is new gets a line below the last key of the limit, with the same indentation.
///
/// # Errors
/// `NoLimit` or `NotASection` if the text has no such `[[limit]]`, `NotTunable` if a key cannot be edited, or is none.
pub fn edit_limit(text: &str, number: usize, edits: &[(String, Edit)]) -> Result<String, Error> {
    let mut text = text.to_owned();
    for (key, edit) in edits {
        // Any other text would be TOML of its own in the file: a dotted or quoted key, or further lines.
        let is_plain = key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        if FIXED.contains(&key.as_str()) || !is_plain {
            return Err(Error::NotTunable(key.clone()));
        }
        let found = KeyLocation::find(&text, number, key)?;
        match (found.span, value(edit)) {
            (Some((_, span)), Some(value)) => text.replace_range(span, &value),
            (Some((key, span)), None) => {
                let from = text[..key.start].rfind('\n').map_or(0, |end| end + 1);
                let to = text[span.end..].find('\n').map_or(text.len(), |end| span.end + end + 1);
                text.replace_range(from..to, "");
            }
            (None, Some(value)) => {
                let from = text[..found.last.start].rfind('\n').map_or(0, |end| end + 1);
                let indent: String = text[from..].chars().take_while(|char| [' ', '\t'].contains(char)).collect();
                let rest = &text[found.last.end..];
                let end = found.last.end
                    + rest.find('\n').map_or(rest.len(), |end| end - usize::from(rest[..end].ends_with('\r')));
                let line = if text.contains("\r\n") { "\r\n" } else { "\n" };
                text.insert_str(end, &format!("{line}{indent}{key} = {value}"));
            }
            (None, None) => {}
        }
    }
    Ok(text)
}

/// Location of a key in a limit, in bytes of the text.
///
/// Valid only for the text that it was found in.
struct KeyLocation {
    /// The key and its value, if the limit has it.
    span: Option<(Range<usize>, Range<usize>)>,
    /// The last key of the limit, up to the end of its value. A new key goes below it.
    last: Range<usize>,
}

impl KeyLocation {
    /// Parses the whole text, and looks up `key` in limit `number`.
    ///
    /// # Errors
    /// `NoLimit` if the text is no TOML or has fewer limits, `NotASection` if the limit has no
    /// `[[limit]]` header or no key on a line of its own.
    fn find(text: &str, number: usize, key: &str) -> Result<KeyLocation, Error> {
        let document = DeTable::parse(text).map_err(|_| Error::NoLimit(number))?;
        let limits = document.get_ref().get("limit").map(|limits| limits.get_ref());
        let limit = match limits {
            Some(DeValue::Array(limits)) => limits.get(number).ok_or(Error::NoLimit(number))?,
            Some(_) | None => return Err(Error::NoLimit(number)),
        };
        let Some(table) = limit.get_ref().as_table() else { return Err(Error::NotASection) };
        // A limit in braces has no lines of its own.
        if !text[limit.span().start..].starts_with("[[") {
            return Err(Error::NotASection);
        }
        let span =
            table.iter().find(|(name, _)| name.get_ref() == key).map(|(name, value)| (name.span(), value.span()));
        // A key below a heading of its own, or with dots, is no line of the limit.
        let lines = table.iter().filter(|(_, value)| value.get_ref().as_table().is_none());
        let last = lines.map(|(name, value)| name.span().start..value.span().end).max_by_key(|span| span.end);
        Ok(KeyLocation { span, last: last.ok_or(Error::NotASection)? })
    }
}

/// Formats a value as TOML; `None` if the key is removed.
///
/// Numbers in decimal, strings quoted, a list in one line: `["a", "b"]`.
fn value(edit: &Edit) -> Option<String> {
    Some(match edit {
        Edit::Default => return None,
        Edit::Number(number) => number.to_string(),
        Edit::Flag(flag) => flag.to_string(),
        Edit::Text(text) => quoted(text),
        Edit::List(list) => format!("[{}]", list.iter().map(|text| quoted(text)).collect::<Vec<_>>().join(", ")),
    })
}

/// Formats a basic string (TOML 1.0).
///
/// Escapes quotes and backslashes by a backslash, control characters as `\uXXXX`.
pub fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for char in text.chars() {
        match char {
            '"' | '\\' => quoted.extend(['\\', char]),
            char if char.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(char))),
            char => quoted.push(char),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# ours\n\n[[limit]]\nname     = \"a\"\nrequests = 5   # per contract\nper      = \"1s\"\n\n[[limit]]\n\
                        name = \"b\"\nrequests = 7\nper = \"1m\"\n# agreed with Bob\nguard = \"1ms\" # jitter\n\n[log]\naccess = \"off\"";

    fn edit(key: &str, edit: Edit) -> (String, Edit) {
        (key.to_owned(), edit)
    }

    #[test]
    fn only_what_is_tuned_changes_whatever_the_ends_of_lines() {
        for file in [FILE.to_owned(), FILE.replace('\n', "\r\n"), format!("{FILE}\n")] {
            let line = if file.contains("\r\n") { "\r\n" } else { "\n" };
            let edited = edit_limit(&file, 0, &[edit("requests", Edit::Number(50))]).unwrap();
            assert_eq!(edited, file.replace("requests = 5 ", "requests = 50 "));
            let edited =
                edit_limit(&file, 1, &[edit("per", Edit::Text("2m".into())), edit("guard", Edit::Default)]).unwrap();
            let wanted =
                file.replace("per = \"1m\"", "per = \"2m\"").replace(&format!("guard = \"1ms\" # jitter{line}"), "");
            assert_eq!(edited, wanted);
            let edited = edit_limit(&file, 1, &[edit("dry_run", Edit::Flag(true))]).unwrap();
            assert_eq!(edited, file.replace("# jitter", &format!("# jitter{line}dry_run = true")));
            assert_eq!(edit_limit(&file, 1, &[edit("retry", Edit::Default)]).unwrap(), file);
        }
    }

    #[test]
    fn what_stands_under_a_heading_of_its_own_or_is_written_with_dots_stays_there() {
        let file = "[[limit]]\nmatch.host = \"a\" # n\n  requests = 5\n# path\nmatch.path = \"/x\"\nper = \"1s\"\n[[limit]]\nrequests = 1\nper = \"1s\"\n[limit.match]\nhost = \"b\"\n";
        let edited = edit_limit(file, 0, &[edit("max_wait", Edit::Text("1s".into()))]).unwrap();
        assert_eq!(edited, file.replace("per = \"1s\"\n[[", "per = \"1s\"\nmax_wait = \"1s\"\n[["));
        let edited = edit_limit(file, 1, &[edit("in_flight", Edit::Number(3))]).unwrap();
        assert_eq!(edited, file.replace("per = \"1s\"\n[limit.", "per = \"1s\"\nin_flight = 3\n[limit."));
    }

    #[test]
    fn what_is_written_is_what_was_wished_whatever_it_holds() {
        let odd = "a\"b\\c\n\u{1}é";
        let edited = edit_limit(FILE, 0, &[edit("zone", Edit::Text(odd.into()))]).unwrap();
        let document = DeTable::parse(&edited).unwrap();
        let limits = document.get_ref().get("limit").unwrap().get_ref().as_array().unwrap();
        assert_eq!(limits[0].get_ref().as_table().unwrap().get("zone").unwrap().get_ref().as_str(), Some(odd));
    }

    #[test]
    fn a_limit_stays_the_one_that_it_is() {
        assert!(matches!(edit_limit(FILE, 2, &[edit("per", Edit::Default)]), Err(Error::NoLimit(2))));
        for key in FIXED {
            assert!(matches!(edit_limit(FILE, 0, &[edit(key, Edit::Default)]), Err(Error::NotTunable(_))), "{key}");
        }
        let inline = "limit = [{ requests = 5, per = \"1s\" }]\n";
        assert!(matches!(edit_limit(inline, 0, &[edit("requests", Edit::Number(6))]), Err(Error::NotASection)));
    }
}
