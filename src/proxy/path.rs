//! Path normalisation: every reading that a usual origin makes of a request's path.
//!
//! Origins disagree on which paths are the same. A path that they read in several ways has several
//! readings, and counts under each: a limit may count a request too many, but none bypasses it. The
//! path that the origin receives is never changed.

use std::borrow::Cow;

use percent_encoding::percent_encode_byte;
use smallvec::{SmallVec, smallvec};

use crate::wire::head::MAX_HEAD;

/// Most bytes that the readings of one path may have together: half a millisecond's work. A path
/// with a single reading always stays within it; one with an encoded slash and a dot has 12, and
/// may be 5 KiB long; one with every ambiguity there is has 216, and may be 300 bytes long. A byte
/// that is percent-encoded in a reading counts as three.
const MAX_READ: usize = MAX_HEAD;

/// All readings of a request's path.
///
/// A reading begins with a slash; one slash at its end is removed (except of the root, `/`), because
/// a final slash makes no difference. Each character has one spelling, whether it was
/// percent-encoded or not.
#[derive(Clone, PartialEq, Debug)]
pub struct Path<'a> {
    /// Readings, all different. The first is that of RFC 3986 §6.2.2; a tunnel has none.
    readings: SmallVec<[Cow<'a, str>; 1]>,
}

/// The readings of a path exceed [`MAX_HEAD`] bytes: it combines too many features that origins
/// read differently.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooManyReadings;

impl<'a> Path<'a> {
    /// Reads a path without its query; empty for a tunnel. `*` (of OPTIONS) stands for the whole
    /// origin and is read as `/`.
    ///
    /// # Errors
    /// If its readings exceed the longest head (64 KiB) together.
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

    /// Readings in lower case, for origins that ignore letter case.
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

/// Segment of a reading after its `index`-th slash, counted from 1, as in `key = ["path[1]"]`.
pub(super) fn segment(reading: &str, index: usize) -> Option<&str> {
    index.checked_sub(1).and_then(|index| reading.strip_prefix('/')?.split('/').nth(index))
}

/// Spells a segment that a caller states outside of a path as it would be spelt in a reading.
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

/// Strict reading of a path pattern, with its stars.
pub(super) fn of_pattern(pattern: &str) -> String {
    without_final_slash(&read_as(&spell(pattern), Reading::STRICT).path).to_owned()
}

/// True if some reading of the path has more `..` than names before them.
///
/// # Errors
/// As [`Path::read`].
pub(super) fn escapes_root(path: &str) -> Result<bool, TooManyReadings> {
    if is_plain(path) {
        return Ok(false);
    }
    let path = spell(path);
    // No reading makes a `..` where none was.
    Ok(path.contains("..") && ways(&path)?.into_iter().any(|way| read_as(&path, way).escapes_root))
}

/// True if the bytes of a path are its only reading, except for a final slash.
fn is_plain(path: &str) -> bool {
    let mut before = 0;
    path.bytes().all(|byte| {
        let odd = !byte.is_ascii()
            || matches!(byte, b'%' | b';' | b'\\' | b'*')
            || (before == b'/' && matches!(byte, b'/' | b'.'));
        before = byte;
        !odd
    })
}

/// Removes a final slash: Express, Flask, Django and Rails serve `/items/` as `/items`, or redirect
/// the caller there.
fn without_final_slash(path: &str) -> &str {
    path.strip_suffix('/').filter(|rest| !rest.is_empty()).unwrap_or(path)
}

/// Undoes every percent-encoding that makes no difference (RFC 3986 §6.2.2.2, and characters such
/// as `{` and `|` that callers send raw although §3.3 forbids that), and writes all others in upper
/// case. Bytes beyond ASCII are encoded; a `%` that encodes nothing becomes `%25`. The result is
/// ASCII.
fn spell(path: &str) -> String {
    let mut spelt = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        push_raw(&rest[..at], &mut spelt);
        rest = &rest[at + 1..];
        let hex = |digits: Option<&str>| {
            let digits = digits.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
            u32::from_str_radix(digits, 16).ok()
        };
        // IIS reads "%u0041" as "A" unless that is switched off (http.sys, `PercentUAllowed`).
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
    push_raw(rest, &mut spelt);
    spelt
}

/// Writes text that was not percent-encoded. Bytes beyond ASCII are the same raw and encoded.
fn push_raw(text: &str, spelt: &mut String) {
    if text.is_ascii() {
        return spelt.push_str(text);
    }
    for byte in text.bytes() {
        if byte.is_ascii() {
            spelt.push(char::from(byte));
        } else {
            spell_byte(byte, spelt);
        }
    }
}

/// Writes a byte that was percent-encoded. Visible characters stand for themselves, except those
/// that end a path (`?`, `#`), begin an encoding (`%`), split segments at some origins (`/`, `\`,
/// `;`), and the star, which only patterns use.
fn spell_byte(byte: u8, spelt: &mut String) {
    if byte.is_ascii_graphic() && !b"%/\\?#;*".contains(&byte) {
        spelt.push(char::from(byte));
    } else {
        spelt.push_str(percent_encode_byte(byte));
    }
}

/// One way to read a path; each origin uses one of them.
#[derive(Clone, Copy, Debug)]
struct Reading {
    /// Treatment of empty segments.
    empty: Empty,
    /// Treatment of parameters.
    parameters: Parameters,
    /// Bit set of the [`SEPARATORS`] that separate segments beside `/`.
    separators: usize,
    /// Treatment of dot segments.
    dots: Dots,
}

/// Separators of segments at some origins, each of them without the others: `%2F` for nginx and Go,
/// `\` for origins that read URLs as browsers do (WHATWG URL §4.4), all of them for IIS.
const SEPARATORS: [&str; 3] = ["%2F", "\\", "%5C"];

/// Treatment of empty segments.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Empty {
    /// They are names like any other: nginx with `merge_slashes off`, Express, Django.
    Kept,
    /// Those before the first name are removed if they were received as slashes: Apache with
    /// `MergeSlashes Off`.
    KeptBehindFirst,
    /// They are removed: nginx, Apache, Tomcat, Go's `path.Clean`.
    Merged,
}

/// Treatment of a segment's parameters: `;` and everything behind it (RFC 3986 §3.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Parameters {
    /// They are part of its name: nginx, Apache, Go, Express.
    Kept,
    /// They are removed before decoding, up to the next `/`: Tomcat, Jetty, Spring.
    CutBeforeDecoding,
    /// They are removed after decoding, where `%3B` is a `;` and an encoded slash ends them.
    CutAfterDecoding,
}

/// Treatment of `.` and `..` (RFC 3986 §5.2.4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Dots {
    /// They are resolved.
    Removed,
    /// They are resolved before separators are decoded, and again afterwards: Apache with
    /// `AllowEncodedSlashes On`.
    RemovedTwice,
    /// They are names like any other: Express, Rails, Django.
    Kept,
}

impl Reading {
    /// The reading of RFC 3986 §6.2.2.
    const STRICT: Reading =
        Reading { empty: Empty::Kept, parameters: Parameters::Kept, separators: 0, dots: Dots::Removed };
}

/// Every reading that can make a difference to a path after [`spell`], the strict one first.
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

/// Computes one reading of a path after [`spell`].
fn read_as(path: &str, how: Reading) -> Resolved {
    let slashes = path.bytes().take_while(|byte| *byte == b'/').count();
    let path = if how.empty == Empty::KeptBehindFirst { &path[slashes - 1..] } else { path };
    let path = match how.parameters {
        Parameters::CutBeforeDecoding => cut(path, |segment| segment.split(';').next()),
        Parameters::Kept | Parameters::CutAfterDecoding => path.to_owned(),
    };
    let mut read = Resolved { path, escapes_root: false };
    if how.dots == Dots::RemovedTwice {
        read = resolve(&read.path, how);
    }
    for (bit, token) in SEPARATORS.iter().enumerate() {
        if how.separators & 1 << bit != 0 {
            read.path = read.path.replace(token, "/");
        }
    }
    // In this reading these are no separators but ordinary characters, each with one spelling.
    read.path = read.path.replace('\\', "%5C").replace(';', "%3B");
    if how.parameters == Parameters::CutAfterDecoding {
        read.path = cut(&read.path, |segment| segment.split("%3B").next());
    }
    let resolved = resolve(&read.path, how);
    Resolved { escapes_root: read.escapes_root || resolved.escapes_root, ..resolved }
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

/// A path after its dot segments were resolved.
struct Resolved {
    path: String,
    /// A `..` occurred at the root.
    escapes_root: bool,
}

/// Resolves dot segments and merges slashes, as this reading requires.
fn resolve(path: &str, how: Reading) -> Resolved {
    let mut resolved = Resolved { path: String::with_capacity(path.len() + 1), escapes_root: false };
    let mut ends_open = false;
    for segment in path.split('/').skip(1) {
        ends_open = true;
        match segment {
            "" if how.empty == Empty::Merged => {}
            "." if how.dots != Dots::Kept => {}
            ".." if how.dots != Dots::Kept => match resolved.path.rfind('/') {
                Some(above) => resolved.path.truncate(above),
                None => resolved.escapes_root = true,
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

#[cfg(any(test, fuzzing))]
pub(super) mod models;
#[cfg(test)]
mod tests;
