//! Host and path patterns of `match`.

use std::borrow::Cow;

use smallvec::SmallVec;

use super::host::{Authority, Fault};
use crate::tls::ca::Subtree;
use crate::wire::cross_site::may_be_rebound;

/// Which hosts: `api.example`, `*.example` (any depth below it, not itself), `*`; each may end in `:port`.
#[derive(Clone, PartialEq, Debug)]
pub struct HostPattern {
    shape: HostShape,
    port: Option<u16>,
}

#[derive(Clone, PartialEq, Debug)]
enum HostShape {
    Any,
    /// In the one spelling of [`Authority::host`].
    Exact(Box<str>),
    /// `.example`: what the host must end with, and be longer than.
    Below(Box<str>),
}

impl HostPattern {
    /// Reads a pattern; letter case and a final dot do not matter.
    ///
    /// # Errors
    /// What is wrong with it, in words for the user.
    pub fn parse(text: &str) -> Result<HostPattern, String> {
        // An IPv6 address may be written without brackets, as in `allow_from`.
        if let Ok(address) = text.parse::<std::net::Ipv6Addr>() {
            return Ok(HostPattern { shape: HostShape::Exact(address.to_canonical().to_string().into()), port: None });
        }
        let (rest, is_below) = match text.strip_prefix("*.") {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        if rest == "*" || rest.starts_with("*:") {
            // The port is read with a name in the star's place.
            let port = read(&rest.replacen('*', "any", 1), text)?.port;
            return if is_below { Err(star_error(text)) } else { Ok(HostPattern { shape: HostShape::Any, port }) };
        }
        if rest.contains('*') {
            return Err(star_error(text));
        }
        let authority = read(rest, text)?;
        let host = authority.host();
        let shape = if is_below { HostShape::Below(format!(".{host}").into()) } else { HostShape::Exact(host.into()) };
        Ok(HostPattern { shape, port: authority.port })
    }

    /// Whether it matches a host in its one spelling (lower case, no final dot, IPv6 without brackets).
    pub fn matches(&self, host: &str, port: u16) -> bool {
        let host_fits = match &self.shape {
            HostShape::Any => true,
            HostShape::Exact(exact) => **exact == *host,
            HostShape::Below(suffix) => host.len() > suffix.len() && host.ends_with(&**suffix),
        };
        host_fits && self.port.is_none_or(|only| only == port)
    }

    /// The names that an authority must be able to vouch for, so that tunnels to these hosts can be opened.
    pub fn subtree(&self) -> Subtree {
        match &self.shape {
            HostShape::Any => Subtree::Any,
            HostShape::Exact(host) => host.parse().map_or_else(|_| Subtree::Name(host.to_string()), Subtree::Address),
            HostShape::Below(suffix) => Subtree::Name(suffix.trim_start_matches('.').to_owned()),
        }
    }

    /// Whether it names a port.
    pub fn has_port(&self) -> bool {
        self.port.is_some()
    }

    /// Whether it names one host, and not all below a name.
    pub fn is_exact(&self) -> bool {
        matches!(self.shape, HostShape::Exact(_))
    }

    /// Whether it names hosts that lead here by the operator's DNS alone: not all hosts, no address, not `localhost`.
    pub fn is_own_name(&self) -> bool {
        match &self.shape {
            HostShape::Any => false,
            HostShape::Exact(name) | HostShape::Below(name) => may_be_rebound(name),
        }
    }

    /// Whether it singles hosts out; `*` does not.
    pub fn is_specific(&self) -> bool {
        !matches!(self.shape, HostShape::Any)
    }
}

fn read<'a>(authority: &'a str, whole: &str) -> Result<Authority<'a>, String> {
    if whole.contains('/') {
        return Err(format!(
            "{whole:?} is no host pattern: write the host alone, such as \"api.example\", without scheme and path"
        ));
    }
    Authority::read(authority).map_err(|fault| match fault {
        Fault::Malformed(why) | Fault::Disguised(why) => format!("{whole:?} is no host pattern: {why}"),
    })
}

fn star_error(text: &str) -> String {
    format!("{text:?} is no host pattern: a star stands alone (\"*\") or for all that is below a name (\"*.example\")")
}

/// Which paths: `/v2/**` (`/v2` and all below), `/v1/*/items`, `/v*/items`, `/exact`. `*` stands for any characters
/// of one segment, also none; `**` for any number of segments, also none. Letter case matters; the query does not.
#[derive(Clone, PartialEq, Debug)]
pub struct PathPattern {
    shape: PathShape,
}

#[derive(Clone, PartialEq, Debug)]
enum PathShape {
    Exact(Box<str>),
    /// The path itself, or what begins with it and a slash.
    Below(Box<str>),
    Segments(Vec<Segment>),
}

#[derive(Clone, PartialEq, Debug)]
enum Segment {
    Literal(Box<str>),
    /// Holds at least one `*`.
    Glob(Box<str>),
    /// `**`
    Any,
}

impl PathPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// What is wrong with it, in words for the user.
    pub fn parse(text: &str) -> Result<PathPattern, String> {
        let wrong = |why: &str| Err(format!("{text:?} is no path pattern: {why}"));
        if !text.starts_with('/') {
            return wrong("it must begin with \"/\", such as \"/v2/**\"");
        }
        if text.contains(['?', '#']) {
            return wrong("it is matched without the query, so it may hold no \"?\" and no \"#\"");
        }
        if let Some(odd) = text.chars().find(|char| !char.is_ascii_graphic()) {
            return wrong(&format!("{odd:?} never stands in a request's path as such; write it percent-encoded (%20)"));
        }
        let text = normalise(text);
        let is_mixed = |segment: &str| segment.contains("**") && segment != "**";
        if text.split('/').any(is_mixed) {
            return wrong("\"**\" stands for whole segments: write \"/v2/**\" or \"/v2*\"");
        }
        let shape = match text.strip_suffix("/**") {
            Some(below) if !below.contains('*') => PathShape::Below(below.into()),
            _ if !text.contains('*') => PathShape::Exact(text.into()),
            _ => PathShape::Segments(text[1..].split('/').map(Segment::of).collect()),
        };
        Ok(PathPattern { shape })
    }

    /// Whether it matches a path (without its query). See [`Path`] for what counts as the same path.
    pub fn matches(&self, path: &str) -> bool {
        self.matches_path(&Path::read(path))
    }

    /// As [`PathPattern::matches`], for many patterns and one path.
    pub fn matches_path(&self, path: &Path<'_>) -> bool {
        self.matches_reading(&path.strict) || path.loose.as_deref().is_some_and(|loose| self.matches_reading(loose))
    }

    fn matches_reading(&self, path: &str) -> bool {
        // What has no path (a tunnel) matches no pattern, not even "/**".
        if !path.starts_with('/') {
            return false;
        }
        match &self.shape {
            PathShape::Exact(exact) => **exact == *path,
            PathShape::Below(above) => {
                path.strip_prefix(&**above).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            PathShape::Segments(pattern) => {
                let path: SmallVec<[&str; 16]> = path[1..].split('/').collect();
                fits(pattern, &path, |segment| matches!(segment, Segment::Any), Segment::fits)
            }
        }
    }
}

impl Segment {
    fn of(text: &str) -> Segment {
        match text {
            "**" => Segment::Any,
            text if text.contains('*') => Segment::Glob(text.into()),
            text => Segment::Literal(text.into()),
        }
    }

    fn fits(&self, text: &&str) -> bool {
        match self {
            Segment::Literal(literal) => **literal == **text,
            Segment::Glob(glob) => {
                fits(glob.as_bytes(), text.as_bytes(), |byte| *byte == b'*', |wanted, byte| wanted == byte)
            }
            Segment::Any => true,
        }
    }
}

/// Whether a pattern in which some items are stars (any number of items) fits the whole of `text`. Only the last
/// star is ever tried again, so the cost is at most the product of both lengths, whatever a caller sends.
fn fits<P, T>(pattern: &[P], text: &[T], is_star: impl Fn(&P) -> bool, fits_one: impl Fn(&P, &T) -> bool) -> bool {
    let (mut at, mut reached) = (0, 0);
    let mut last_star = None;
    while reached < text.len() {
        match pattern.get(at) {
            Some(star) if is_star(star) => {
                last_star = Some((at, reached));
                at += 1;
            }
            Some(one) if fits_one(one, &text[reached]) => {
                at += 1;
                reached += 1;
            }
            _ => {
                let Some((star, from)) = last_star else { return false };
                last_star = Some((star, from + 1));
                at = star + 1;
                reached = from + 1;
            }
        }
    }
    pattern[at..].iter().all(is_star)
}

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

    /// The segment after the `index`-th slash, from 1 on, as in `key = ["path[1]"]`.
    pub fn segment(&self, index: usize) -> Option<&str> {
        index.checked_sub(1).and_then(|index| self.strict.strip_prefix('/')?.split('/').nth(index))
    }
}

fn normalise(path: &str) -> String {
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
