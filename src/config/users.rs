//! Users file: one `name:hash` per line, in the format of htpasswd with bcrypt.
//!
//! The same format serves `[access]`, `[admin]` and `[locks]`. Empty lines and lines that begin
//! with `#` are skipped, blanks around a line do not count:
//!
//! ```text
//! # team
//! ana:$2y$10$...
//! ```
//!
//! Passwords are not checked here but in `auth`; `lockgate user add` writes such lines.

use std::collections::HashSet;

use super::report::{Report, SourceText};

/// Prefixes of bcrypt hashes: `htpasswd -B` writes `$2y$`, others `$2b$` or `$2a$`. `$2x$` marks hashes of
/// an algorithm with a mistake in it (crypt_blowfish 1.1), which no password matches here.
const PREFIXES: [&str; 3] = ["$2y$", "$2b$", "$2a$"];
/// Byte order mark: editors on Windows begin a UTF-8 file with it. It is no part of the first name.
const BYTE_ORDER_MARK: char = '\u{feff}';
/// Length of salt and digest, after the cost: 22 and 31 characters.
///
/// Both are in bcrypt's own base 64.
const DIGEST_LEN: usize = 53;

/// A user's name and the bcrypt hash of the password.
pub(super) type User = (String, String);

/// Parses the file: all users, or a report of every bad line. `file`: its name, for reports.
///
/// All bad lines are reported at once, in order.
///
/// # Errors
/// Lines that are not a name and a bcrypt hash, names that come twice, or a file without users.
pub(super) fn parse(file: String, text: &str) -> Result<Vec<User>, Vec<Report>> {
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    let source = SourceText::new(file, masked(text));
    let (mut users, mut reports, mut names) = (Vec::new(), Vec::new(), HashSet::new());
    let mut at = 0;
    for (line, shown) in text.lines().zip(source.text().split_inclusive('\n')) {
        let span = at..at + shown.trim_end().len();
        at += shown.len();
        if line.trim().is_empty() || line.trim_start().starts_with('#') {
            continue;
        }
        match user(line.trim()) {
            Ok((name, _)) if !names.insert(name) => {
                let message = format!("a user named {name:?} exists already");
                reports.push(source.error(&span, message, "one line for each user".to_owned()));
            }
            Ok((name, hash)) => users.push((name.to_owned(), hash.to_owned())),
            Err((message, advice)) => reports.push(source.error(&span, message.to_owned(), advice.to_owned())),
        }
    }
    if users.is_empty() && reports.is_empty() {
        let advice = "add one with `lockgate user add NAME`".to_owned();
        reports.push(source.error(&(0..0), "the file names no user, so no request would pass".to_owned(), advice));
    }
    if reports.is_empty() { Ok(users) } else { Err(reports) }
}

/// The text for reports, without passwords: a bad line may have one in the place of the hash.
///
/// Keeps the number of lines, so that a report has the line of the file.
fn masked(text: &str) -> String {
    let mask = |line: &str| match line.split_once(':') {
        Some((name, _)) => format!("{name}:***\n"),
        None => format!("{line}\n"),
    };
    text.lines().map(mask).collect()
}

/// The user's name on a line of the file, if it has one.
///
/// The rest of the line is not checked: `lockgate user add` also replaces a broken hash.
pub(crate) fn name_on(line: &str) -> Option<&str> {
    let line = line.trim();
    if line.starts_with('#') { None } else { line.split_once(':').map(|(name, _)| name) }
}

/// True if this can be a user's name: Basic credentials end it with a colon (RFC 7617 §2), and the
/// file begins a comment with `#`.
///
/// At most 255 bytes, without blanks at its ends, and without a byte order mark before it, which
/// would not be read back.
pub(crate) fn is_name(name: &str) -> bool {
    let first = name.chars().next();
    let plain = !name.contains(|c: char| c == ':' || c.is_control());
    plain && name.len() <= 255 && name.trim() == name && first.is_some_and(|c| c != '#' && c != BYTE_ORDER_MARK)
}

/// Splits a line into name and hash. The error is a message and advice.
///
/// Hashes of other kinds, such as `$apr1$`, are refused.
fn user(line: &str) -> Result<(&str, &str), (&'static str, &'static str)> {
    let advice = "NAME:HASH, as `lockgate user add NAME` writes it";
    let (name, hash) = line.split_once(':').ok_or(("this line has no colon", advice))?;
    if !is_name(name) {
        return Err(("the name before the colon is empty or not printable", advice));
    }
    if !is_bcrypt(hash) {
        return Err(("the password is not hashed with bcrypt", "set it anew with `lockgate user add --replace NAME`"));
    }
    Ok((name, hash))
}

/// True for a hash with a cost of 4 to 31 (bcrypt's own range).
///
/// Only the form is checked: a wrong digest matches no password.
fn is_bcrypt(hash: &str) -> bool {
    let Some(rest) = PREFIXES.iter().find_map(|prefix| hash.strip_prefix(prefix)) else {
        return false;
    };
    let Some((cost, digest)) = rest.split_once('$') else {
        return false;
    };
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'/');
    let cost_fits = cost.len() == 2 && cost.parse().is_ok_and(|cost: u32| (4..=31).contains(&cost));
    cost_fits && digest.len() == DIGEST_LEN && digest.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "$2y$05$abcdefghijklmnopqrstuuABCDEFGHIJKLMNOPQRSTUVWXYZ01234";

    fn parse(text: &str) -> Result<Vec<User>, Vec<Report>> {
        super::parse("users".to_owned(), text)
    }

    #[test]
    fn comments_and_empty_lines_are_passed_over() {
        let users = parse(&format!("# team\n\nana:{HASH}\r\n  bo:{HASH}\n")).unwrap();
        let names: Vec<_> = users.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["ana", "bo"]);
        assert!(users.iter().all(|(_, hash)| hash == HASH));
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_first_name() {
        assert_eq!(parse(&format!("\u{feff}ana:{HASH}\n")).unwrap()[0].0, "ana");
        let reports = parse(&format!("bo:{HASH}\n\u{feff}ana:{HASH}\n")).unwrap_err();
        assert_eq!(reports[0].message, "the name before the colon is empty or not printable");
    }

    #[test]
    fn a_hash_of_the_algorithm_with_a_mistake_is_refused() {
        let reports = parse(&format!("ana:{}\n", HASH.replace("$2y$", "$2x$"))).unwrap_err();
        assert_eq!(reports[0].message, "the password is not hashed with bcrypt");
    }

    #[test]
    fn every_bad_line_is_reported_with_its_number() {
        let short = &HASH[..59];
        let text = format!(
            "ana\n:{HASH}\nbo:secret\ncy:{short}\ndi:{HASH}\ndi:{HASH}\ned:$apr1$x$y\nflo:$2y$99${}\n",
            &HASH[7..]
        );
        let reports = parse(&text).unwrap_err();
        let places: Vec<_> = reports.iter().map(|r| (r.line, r.column)).collect();
        assert_eq!(places, [(1, 1), (2, 1), (3, 1), (4, 1), (6, 1), (7, 1), (8, 1)]);
        assert_eq!(reports[0].message, "this line has no colon");
        assert_eq!(reports[2].message, "the password is not hashed with bcrypt");
        assert!(reports[2].to_string().contains("\n 3 | bo:***\n"), "a password is never shown");
        assert_eq!(reports[4].message, "a user named \"di\" exists already");
    }

    #[test]
    fn a_file_without_users_is_an_error() {
        assert_eq!(parse("# nobody\n").unwrap_err()[0].message, "the file names no user, so no request would pass");
    }
}
