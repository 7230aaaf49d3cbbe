//! Host and path patterns of `match`.

mod sets;

use std::fmt;

use smallvec::SmallVec;

use super::host::{Authority, HostError};
use super::path::{self, Path};
use crate::tls::ca::Subtree;
use crate::wire::cross_site::may_be_rebound;

/// Pattern for hosts: `api.example`, `*.example` (any depth below it, not itself), `*`; each may
/// end in `:port`.
#[derive(Clone, PartialEq, Debug)]
pub struct HostPattern {
    shape: HostShape,
    /// `None`: every port.
    port: Option<u16>,
}

/// The part of a host pattern before the port.
#[derive(Clone, PartialEq, Debug)]
enum HostShape {
    Any,
    /// In the canonical spelling of [`Authority::host`].
    Exact(Box<str>),
    /// `.example`: suffix of the host, which must be longer.
    Below(Box<str>),
}

impl HostPattern {
    /// The pattern for all hosts.
    pub fn any() -> HostPattern {
        HostPattern { shape: HostShape::Any, port: None }
    }

    /// Parses a pattern; letter case and a final dot do not matter.
    ///
    /// # Errors
    /// A description of the mistake, for the user.
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
            // Reads the port with a name in place of the star.
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

    /// True if the pattern matches a canonical host (lower case, no final dot, IPv6 without
    /// brackets) at this port.
    pub fn matches(&self, host: &str, port: u16) -> bool {
        let host_fits = match &self.shape {
            HostShape::Any => true,
            HostShape::Exact(exact) => **exact == *host,
            HostShape::Below(suffix) => host.len() > suffix.len() && host.ends_with(&**suffix),
        };
        host_fits && self.port.is_none_or(|only| only == port)
    }

    /// Names that an authority must be able to certify, so that tunnels to these hosts can be
    /// intercepted.
    pub fn subtree(&self) -> Subtree {
        match &self.shape {
            HostShape::Any => Subtree::Any,
            HostShape::Exact(host) => host.parse().map_or_else(|_| Subtree::Name(host.to_string()), Subtree::Address),
            HostShape::Below(suffix) => Subtree::Name(suffix.trim_start_matches('.').to_owned()),
        }
    }

    /// True if the pattern names a port.
    pub fn has_port(&self) -> bool {
        self.port.is_some()
    }

    /// The host, if the pattern matches only one.
    pub fn exact(&self) -> Option<&str> {
        match &self.shape {
            HostShape::Exact(host) => Some(host),
            HostShape::Any | HostShape::Below(_) => None,
        }
    }

    /// Suffix of the hosts below a name, with its leading dot, if the pattern is for such.
    pub(super) fn suffix(&self) -> Option<&str> {
        match &self.shape {
            HostShape::Below(suffix) => Some(suffix),
            HostShape::Any | HostShape::Exact(_) => None,
        }
    }

    /// True if the pattern names one host, not all below a name.
    pub fn is_exact(&self) -> bool {
        matches!(self.shape, HostShape::Exact(_))
    }

    /// True if only the operator's DNS leads these hosts here: not all hosts, no address, not
    /// `localhost`.
    pub fn is_own_name(&self) -> bool {
        match &self.shape {
            HostShape::Any => false,
            HostShape::Exact(name) | HostShape::Below(name) => may_be_rebound(name),
        }
    }

    /// True if the pattern singles hosts out; `*` does not.
    pub fn is_specific(&self) -> bool {
        !matches!(self.shape, HostShape::Any)
    }
}

impl fmt::Display for HostPattern {
    /// Writes the pattern as [`HostPattern::parse`] reads it.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.shape {
            HostShape::Any => out.write_str("*")?,
            HostShape::Exact(host) if host.contains(':') => write!(out, "[{host}]")?,
            HostShape::Exact(host) => out.write_str(host)?,
            HostShape::Below(suffix) => write!(out, "*{suffix}")?,
        }
        self.port.map_or(Ok(()), |port| write!(out, ":{port}"))
    }
}

fn read<'a>(authority: &'a str, whole: &str) -> Result<Authority<'a>, String> {
    if whole.contains('/') {
        return Err(format!("{whole:?} is not a host: write the host alone, without scheme and path"));
    }
    Authority::read(authority).map_err(|fault| match fault {
        HostError::Malformed(why) | HostError::Disguised(why) => format!("{whole:?} is not a host: {why}"),
    })
}

fn star_error(text: &str) -> String {
    format!(
        "{text:?} is not a host pattern: a star stands alone (\"*\") or for all that is below a name (\"*.example\")"
    )
}

/// Pattern for paths: `/v2/**` (`/v2` and all below), `/v1/*/items`, `/v*/items`, `/exact`. `*`
/// stands for any number of characters within one segment, `**` for any number of segments; both
/// may be none. Letter case matters, unless the limit ignores it; a final slash and the query do
/// not.
#[derive(Clone, PartialEq, Debug)]
pub struct PathPattern {
    shape: PathShape,
}

/// Form of a path pattern; the usual ones are compared without splitting into segments.
#[derive(Clone, PartialEq, Debug)]
enum PathShape {
    Exact(Box<str>),
    /// This path, and every path below it.
    Below(Box<str>),
    Segments(Vec<Segment>),
}

/// One segment of a path pattern.
#[derive(Clone, PartialEq, Debug)]
enum Segment {
    Literal(Box<str>),
    /// Holds at least one `*`.
    Glob(Box<str>),
    /// `**`
    Any,
}

impl PathPattern {
    /// Parses a pattern.
    ///
    /// # Errors
    /// A description of the mistake, for the user.
    pub fn parse(text: &str) -> Result<PathPattern, String> {
        let wrong = |why: &str| Err(format!("{text:?} is not a path pattern: {why}"));
        if !text.starts_with('/') {
            return wrong("it must begin with \"/\", such as \"/v2/**\"");
        }
        if text.contains(['?', '#']) {
            return wrong("it is matched without the query, so it may hold no \"?\" and no \"#\"");
        }
        if let Some(odd) = text.chars().find(|char| char.is_whitespace() || char.is_control()) {
            return wrong(&format!("{odd:?} is never raw in a request's path; write it percent-encoded (%20)"));
        }
        let text = path::of_pattern(text);
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

    /// Pattern for paths in lower case, see [`Path::ignoring_case`].
    pub fn ignoring_case(self) -> PathPattern {
        let lower = |text: Box<str>| text.to_ascii_lowercase().into_boxed_str();
        let shape = match self.shape {
            PathShape::Exact(exact) => PathShape::Exact(lower(exact)),
            PathShape::Below(above) => PathShape::Below(lower(above)),
            PathShape::Segments(segments) => PathShape::Segments(segments.into_iter().map(Segment::lower).collect()),
        };
        PathPattern { shape }
    }

    /// True if the pattern matches any reading of the path.
    pub fn matches(&self, path: &Path<'_>) -> bool {
        path.readings().any(|reading| self.matches_reading(reading))
    }

    /// True if the pattern matches this reading.
    fn matches_reading(&self, reading: &str) -> bool {
        match &self.shape {
            PathShape::Exact(exact) => **exact == *reading,
            PathShape::Below(above) => {
                reading.strip_prefix(&**above).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            PathShape::Segments(pattern) => {
                let mut path: SmallVec<[&str; 16]> = reading[1..].split('/').collect();
                let fits =
                    |path: &[&str]| fits(pattern, path, |segment| matches!(segment, Segment::Any), Segment::fits);
                if fits(&path) {
                    return true;
                }
                // With the final slash that readings lack, "/v1" is the "/v1/" that "/v1/*" matches.
                path.push("");
                reading != "/" && fits(&path)
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

    fn lower(self) -> Segment {
        match self {
            Segment::Literal(text) => Segment::Literal(text.to_ascii_lowercase().into()),
            Segment::Glob(text) => Segment::Glob(text.to_ascii_lowercase().into()),
            Segment::Any => Segment::Any,
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

/// True if a pattern of which some items are stars (any number of items) matches the whole of
/// `text`. Only the last star is ever tried again, so the cost is at most the product of both
/// lengths, whatever a caller sends.
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

#[cfg(test)]
mod tests;
