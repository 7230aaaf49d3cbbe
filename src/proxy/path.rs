//! Path normalisation: every reading that a usual origin makes of a request's path.
//!
//! OriginPool disagree on which paths are the same. A path that they read in several ways has several readings, and counts
//! under each: a limit may count a request too many, but none passes by it. What goes to the origin is never changed.

use std::borrow::Cow;

use percent_encoding::percent_encode_byte;
use smallvec::{SmallVec, smallvec};

use crate::wire::head::MAX_HEAD;

/// The most bytes that the readings of one path may have together: half a millisecond's work. A path with a single reading
/// always stays within it; one with an encoded slash and a dot has 12, and may be 5 KiB long; one with every oddity
/// there is has 216, and may be 300 bytes long.
const MAX_READ: usize = MAX_HEAD;

/// A request's path, read in every way.
///
/// A reading begins with a slash and ends with none (but the root, `/`), because a final slash makes no difference.
/// Each character has one spelling, whether it arrived escaped or not.
#[derive(Clone, PartialEq, Debug)]
pub struct Path<'a> {
    /// All of them differ. The first is that of RFC 3986 §6.2.2; a tunnel has none.
    readings: SmallVec<[Cow<'a, str>; 1]>,
}

/// The path mixes so many things which origins read differently that its readings are not worth their time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooManyReadings;

impl<'a> Path<'a> {
    /// Reads a path without its query; empty for a tunnel. `*` (of OPTIONS) stands for the whole origin and is read as `/`.
    ///
    /// # Errors
    /// If its readings would have more bytes than the longest head (64 KiB).
    pub fn read(path: &'a str) -> Result<Path<'a>, TooManyReadings> {
        if path == "*" {
            return Ok(Path { readings: smallvec!["/".into()] });
        }
        if !path.starts_with('/') {
            return Ok(Path { readings: SmallVec::new() });
        }
        if is_plain(path) {
            return Ok(Path { readings: smallvec![without_final_slash(path).into()] });
        }
        let path = spell(path).replace('*', "%2A");
        let mut readings = SmallVec::new();
        for way in ways(&path)? {
            let read = read_as(&path, way).path;
            let reading = Cow::Owned(without_final_slash(&read).to_owned());
            if !readings.contains(&reading) {
                readings.push(reading);
            }
        }
        Ok(Path { readings })
    }

    /// The path as an origin reads it to which `A` is `a`.
    pub fn ignoring_case(&self) -> Path<'a> {
        let mut readings = SmallVec::new();
        for reading in &self.readings {
            let folded = Cow::Owned(reading.to_ascii_lowercase());
            if !readings.contains(&folded) {
                readings.push(folded);
            }
        }
        Path { readings }
    }

    /// Every reading, that of RFC 3986 first.
    pub fn readings(&self) -> impl Iterator<Item = &str> {
        self.readings.iter().map(|reading| &**reading)
    }
}

/// The segment of a reading after its `index`-th slash, from 1 on, as in `key = ["path[1]"]`.
pub(super) fn segment(reading: &str, index: usize) -> Option<&str> {
    index.checked_sub(1).and_then(|index| reading.strip_prefix('/')?.split('/').nth(index))
}

/// A segment that a caller states outside of a path, spelt as in a reading.
pub(super) fn spell_segment(segment: &[u8]) -> String {
    let mut encoded = String::with_capacity(segment.len());
    for &byte in segment {
        if byte.is_ascii_graphic() && !b"/\\?#;*".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            spell_byte(byte, &mut encoded);
        }
    }
    spell(&encoded)
}

/// The strict reading of a path pattern, whose stars are kept.
pub(super) fn of_pattern(pattern: &str) -> String {
    without_final_slash(&read_as(&spell(pattern), Reading::STRICT).path).to_owned()
}

/// Tells whether a path has more `..` than names before them, as some origin reads it.
///
/// # Errors
/// As [`Path::read`].
pub(super) fn climbs(path: &str) -> Result<bool, TooManyReadings> {
    if is_plain(path) {
        return Ok(false);
    }
    let path = spell(path);
    // No reading makes a `..` where none was.
    Ok(path.contains("..") && ways(&path)?.into_iter().any(|way| read_as(&path, way).climbs))
}

/// Recognises a path whose bytes are its only reading, but for a final slash.
fn is_plain(path: &str) -> bool {
    let mut before = 0;
    path.bytes().all(|byte| {
        let odd = matches!(byte, b'%' | b';' | b'\\' | b'*') || (before == b'/' && matches!(byte, b'/' | b'.'));
        before = byte;
        !odd
    })
}

/// Express, Flask, Django and Rails serve `/items/` as `/items`, or send the caller there.
fn without_final_slash(path: &str) -> &str {
    path.strip_suffix('/').filter(|rest| !rest.is_empty()).unwrap_or(path)
}

/// Undoes every percent-encoding that makes no difference (RFC 3986 §6.2.2.2, and what callers send raw although §3.3
/// would have it encoded, such as `{` or `|`), and writes all others in upper case. A `%` that encodes nothing is `%25`.
fn spell(path: &str) -> String {
    let mut spelt = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        spelt.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let hex = |digits: Option<&str>| {
            let digits = digits.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
            u32::from_str_radix(digits, 16).ok()
        };
        // IIS takes "%u0041" for "A" unless it is told otherwise (http.sys, `PercentUAllowed`).
        let unicode = || hex(rest.strip_prefix(['u', 'U'])?.get(..4)).and_then(char::from_u32);
        if let Some(byte) = hex(rest.get(..2)).and_then(|code| u8::try_from(code).ok()) {
            spell_byte(byte, &mut spelt);
            rest = &rest[2..];
        } else if let Some(char) = unicode() {
            char.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| spell_byte(byte, &mut spelt));
            rest = &rest[5..];
        } else {
            spelt.push_str("%25");
        }
    }
    spelt.push_str(rest);
    spelt
}

/// A byte that was percent-encoded. All that is visible may stand for itself, but what ends a path (`?`, `#`), an
/// encoding (`%`), what some origins split at (`/`, `\`, `;`), and the star, which is a pattern's own.
fn spell_byte(byte: u8, spelt: &mut String) {
    if byte.is_ascii_graphic() && !b"%/\\?#;*".contains(&byte) {
        spelt.push(char::from(byte));
    } else {
        spelt.push_str(percent_encode_byte(byte));
    }
}

/// One way to read a path: each origin goes by one of them.
#[derive(Clone, Copy, Debug)]
struct Reading {
    empty: Empty,
    parameters: Parameters,
    /// Which of [`SEPARATORS`] separate segments beside `/`, one bit for each.
    separators: usize,
    dots: Dots,
}

/// Separators of segments for some origins, each of them without the others: `%2F` for nginx and Go, `\` for what reads
/// URLs as browsers do (WHATWG URL §4.4), all of them for IIS.
const SEPARATORS: [&str; 3] = ["%2F", "\\", "%5C"];

/// Treatment of empty segments.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Empty {
    /// They are names as any other: nginx with `merge_slashes off`, Express, Django.
    Kept,
    /// Those before the first name vanish, as far as they were received as slashes: Apache with `MergeSlashes Off`.
    KeptBehindFirst,
    /// They vanish: nginx, Apache, Tomcat, Go's `path.Clean`.
    Merged,
}

/// Treatment of a segment's parameters, `;` and all behind it (RFC 3986 §3.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Parameters {
    /// They are part of its name: nginx, Apache, Go, Express.
    Kept,
    /// They are cut off what was received, up to the next `/`: Tomcat, Jetty, Spring.
    CutBeforeDecoding,
    /// They are cut off what was decoded, where `%3B` is a `;` and an encoded slash ends them.
    CutAfterDecoding,
}

/// Treatment of `.` and `..` (RFC 3986 §5.2.4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Dots {
    /// They are followed.
    Removed,
    /// They are followed before separators are decoded, and again afterwards: Apache with `AllowEncodedSlashes On`.
    RemovedTwice,
    /// They are names as any other: Express, Rails, Django.
    Kept,
}

impl Reading {
    /// That of RFC 3986 §6.2.2.
    const STRICT: Reading =
        Reading { empty: Empty::Kept, parameters: Parameters::Kept, separators: 0, dots: Dots::Removed };
}

/// Every reading that can make a difference to a path that is spelt, the strict one first.
fn ways(path: &str) -> Result<Vec<Reading>, TooManyReadings> {
    let present =
        (0..SEPARATORS.len()).filter(|bit| path.contains(SEPARATORS[*bit])).fold(0, |set, bit| set | 1 << bit);
    let (has_raw, has_encoded) = (path.contains(';'), path.contains("%3B"));
    let mut parameters: SmallVec<[Parameters; 3]> = smallvec![Parameters::Kept];
    parameters.extend(has_raw.then_some(Parameters::CutBeforeDecoding));
    parameters.extend((has_encoded || has_raw && present != 0).then_some(Parameters::CutAfterDecoding));
    let splits_anew = present != 0 || parameters.len() > 1;
    let empty = match (path.starts_with("//"), splits_anew || path.contains("//")) {
        (true, _) => &[Empty::Kept, Empty::KeptBehindFirst, Empty::Merged][..],
        (false, true) => &[Empty::Kept, Empty::Merged],
        (false, false) => &[Empty::Kept],
    };
    let has_dots = path.split('/').any(|segment| matches!(segment, "." | ".."));
    let dots = match (has_dots || splits_anew && path.contains('.'), present) {
        (false, _) => &[Dots::Removed][..],
        (true, 0) => &[Dots::Removed, Dots::Kept],
        (true, _) => &[Dots::Removed, Dots::RemovedTwice, Dots::Kept],
    };
    let mut ways = Vec::new();
    for separators in (0..1 << SEPARATORS.len()).filter(|set| set & !present == 0) {
        for &parameters in &parameters {
            for &dots in dots {
                ways.extend(empty.iter().map(|&empty| Reading { empty, parameters, separators, dots }));
            }
        }
    }
    if ways.len() > 1 && ways.len() * path.len() > MAX_READ { Err(TooManyReadings) } else { Ok(ways) }
}

/// One reading of a path that is spelt.
fn read_as(path: &str, how: Reading) -> Resolved {
    let slashes = path.bytes().take_while(|byte| *byte == b'/').count();
    let path = if how.empty == Empty::KeptBehindFirst { &path[slashes - 1..] } else { path };
    let path = match how.parameters {
        Parameters::CutBeforeDecoding => cut(path, |segment| segment.split(';').next()),
        Parameters::Kept | Parameters::CutAfterDecoding => path.to_owned(),
    };
    let mut read = Resolved { path, climbs: false };
    if how.dots == Dots::RemovedTwice {
        read = resolve(&read.path, how);
    }
    for (bit, token) in SEPARATORS.iter().enumerate() {
        if how.separators & 1 << bit != 0 {
            read.path = read.path.replace(token, "/");
        }
    }
    // A separator that this reading does not know is a character as any other, with one spelling.
    read.path = read.path.replace('\\', "%5C").replace(';', "%3B");
    if how.parameters == Parameters::CutAfterDecoding {
        read.path = cut(&read.path, |segment| segment.split("%3B").next());
    }
    let resolved = resolve(&read.path, how);
    Resolved { climbs: read.climbs || resolved.climbs, ..resolved }
}

/// Replaces each segment by a part of it.
fn cut<'a>(path: &'a str, part: impl Fn(&'a str) -> Option<&'a str>) -> String {
    let mut left = String::with_capacity(path.len());
    for segment in path.split('/').skip(1) {
        left.push('/');
        left.push_str(part(segment).unwrap_or_default());
    }
    left
}

/// A path whose dot segments were followed.
struct Resolved {
    path: String,
    /// A `..` was met at the root.
    climbs: bool,
}

/// Follows dot segments and merges slashes, as far as this reading does.
fn resolve(path: &str, how: Reading) -> Resolved {
    let mut resolved = Resolved { path: String::with_capacity(path.len() + 1), climbs: false };
    let mut ends_open = false;
    for segment in path.split('/').skip(1) {
        ends_open = true;
        match segment {
            "" if how.empty == Empty::Merged => {}
            "." if how.dots != Dots::Kept => {}
            ".." if how.dots != Dots::Kept => match resolved.path.rfind('/') {
                Some(above) => resolved.path.truncate(above),
                None => resolved.climbs = true,
            },
            name => {
                resolved.path.push('/');
                resolved.path.push_str(name);
                ends_open = false;
            }
        }
    }
    // "/a/." and "/a/b/.." are "/a/", not "/a".
    if ends_open {
        resolved.path.push('/');
    }
    resolved
}

#[cfg(test)]
pub(super) mod models;
#[cfg(test)]
mod tests;
