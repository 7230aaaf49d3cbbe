//! Path normalisation: a request's path as origins read it.

use std::borrow::Cow;

use smallvec::SmallVec;

/// A request's path as patterns see it. What goes to the origin is never changed.
///
/// Origins differ in what they take for the same path. A path that can be read in two ways has two readings, and a
/// pattern that fits either one fits: a limit may count a request too many, but none passes by it.
#[derive(Clone, PartialEq, Debug)]
pub struct Path<'a> {
    /// By RFC 3986 §6.2.2: needless percent-encoding undone, dot segments removed.
    strict: Cow<'a, str>,
    /// As lenient origins read it: encoded and back slashes are slashes, empty segments vanish, and so does what
    /// follows a `;` in a segment. `None`: the same.
    loose: Option<String>,
}

impl<'a> Path<'a> {
    /// Reads a path without its query; empty for a tunnel. `*` (of OPTIONS) stands for the whole origin and is read as `/`.
    pub fn read(path: &'a str) -> Path<'a> {
        let path = if path == "*" { "/" } else { path };
        let mut before = 0;
        let is_plain = path.bytes().all(|byte| {
            let odd = matches!(byte, b'%' | b';' | b'\\') || (before == b'/' && matches!(byte, b'/' | b'.'));
            before = byte;
            !odd
        });
        if is_plain || !path.starts_with('/') {
            return Path { strict: path.into(), loose: None };
        }
        let strict = normalise(path);
        let loose = loosen(&strict);
        Path { loose: (loose != strict).then_some(loose), strict: strict.into() }
    }

    /// Every reading, the strict one first.
    pub(super) fn readings(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&*self.strict).chain(self.loose.as_deref())
    }

    /// The segment after the `index`-th slash, from 1 on, as in `key = ["path[1]"]`.
    pub fn segment(&self, index: usize) -> Option<&str> {
        index.checked_sub(1).and_then(|index| self.strict.strip_prefix('/')?.split('/').nth(index))
    }
}

pub(super) fn normalise(path: &str) -> String {
    let mut plain = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        plain.push_str(&rest[..at]);
        let escape = rest.get(at..at + 3).filter(|escape| escape[1..].bytes().all(|byte| byte.is_ascii_hexdigit()));
        let Some(escape) = escape else {
            plain.push('%');
            rest = &rest[at + 1..];
            continue;
        };
        match u8::from_str_radix(&escape[1..], 16) {
            Ok(byte) if means_the_same(byte) => plain.push(char::from(byte)),
            _ => plain.push_str(&escape.to_ascii_uppercase()),
        }
        rest = &rest[at + 3..];
    }
    plain.push_str(rest);
    remove_dot_segments(plain.split('/').skip(1))
}

/// What may stand in a segment with or without its percent-encoding (RFC 3986 §3.3): all but `;`, which lenient
/// origins cut at, and `*`, which is a pattern's own.
fn means_the_same(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()+,=:@".contains(&byte)
}

fn loosen(strict: &str) -> String {
    let slashed = strict.replace("%2F", "/").replace("%5C", "/").replace('\\', "/").replace("%3B", ";");
    let last_is_empty = slashed.ends_with('/');
    let named = slashed
        .split('/')
        .map(|segment| segment.split(';').next().unwrap_or(segment))
        .filter(|segment| !segment.is_empty());
    let mut path = remove_dot_segments(named);
    if last_is_empty && !path.ends_with('/') {
        path.push('/');
    }
    path
}

/// RFC 3986 §5.2.4, over the segments of an absolute path.
fn remove_dot_segments<'a>(segments: impl Iterator<Item = &'a str>) -> String {
    let mut kept: SmallVec<[&str; 16]> = SmallVec::new();
    let mut ends_open = true;
    for segment in segments {
        ends_open = matches!(segment, "." | "..");
        match segment {
            "." => {}
            ".." => drop(kept.pop()),
            name => kept.push(name),
        }
    }
    // "/a/." and "/a/b/.." are "/a/", not "/a".
    if ends_open {
        kept.push("");
    }
    kept.iter().fold(String::new(), |path, segment| path + "/" + segment)
}

#[cfg(test)]
mod tests;
