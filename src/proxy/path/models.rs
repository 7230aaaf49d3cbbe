//! Models of servers: the resource that each serves for a path, as decoded segments, written from
//! the servers' documentation and checked against the servers themselves.

use super::{Path, spell_byte, without_final_slash};

/// Segments of a resource, decoded; `None`: the server answers 400, 404 or a redirect.
pub(in super::super) type Resource = Option<Vec<Vec<u8>>>;

/// Name of a server, and its mapping from path to resource.
pub(in super::super) type ServerModel = (&'static str, fn(&str) -> Resource);

pub(in super::super) const ALL: [ServerModel; 14] = [
    ("nginx", |path| nginx(path, Merge::Yes)),
    ("nginx, merge_slashes off", |path| nginx(path, Merge::No)),
    ("Apache", |path| apache(path, Merge::Yes, EncodedSlashes::Off)),
    ("Apache, MergeSlashes Off", |path| apache(path, Merge::No, EncodedSlashes::Off)),
    ("Apache, AllowEncodedSlashes On", |path| apache(path, Merge::Yes, EncodedSlashes::On)),
    ("Apache, AllowEncodedSlashes NoDecode", |path| apache(path, Merge::Yes, EncodedSlashes::NoDecode)),
    ("Tomcat", |path| tomcat(path, Solidus::Rejected)),
    ("Tomcat, both solidi decoded", |path| tomcat(path, Solidus::Decoded)),
    ("Go", go),
    ("Express", express),
    ("Rails", rails),
    ("Django", django),
    ("WHATWG URL", whatwg),
    ("IIS", iis),
];

/// Compares the readings of a path with what the servers serve.
///
/// # Errors
/// A server serves a resource for this path that none of its readings names, or the path has too many readings.
pub(in super::super) fn check(path: &str) -> Result<(), String> {
    let Ok(read) = Path::read(path) else { return Err(format!("{path} has too many readings")) };
    for (server, model) in ALL {
        let Some(resource) = model(path) else { continue };
        let served = reading_of(&resource);
        if !read.readings().any(|reading| reading == served) {
            let readings: Vec<&str> = read.readings().collect();
            return Err(format!("{server} serves {served} for {path}, read as {readings:?}"));
        }
    }
    Ok(())
}

/// Writes a resource in the form of a reading.
fn reading_of(resource: &[Vec<u8>]) -> String {
    let mut shown = String::new();
    for segment in resource {
        shown.push('/');
        segment.iter().for_each(|byte| spell_byte(*byte, &mut shown));
    }
    if shown.is_empty() { "/".to_owned() } else { without_final_slash(&shown).to_owned() }
}

#[derive(Clone, Copy, PartialEq)]
enum Merge {
    Yes,
    No,
}

#[derive(Clone, Copy, PartialEq)]
enum EncodedSlashes {
    Off,
    On,
    NoDecode,
}

#[derive(Clone, Copy, PartialEq)]
enum Solidus {
    Rejected,
    Decoded,
}

/// Every path of up to `most` tokens.
#[cfg(test)]
pub(in super::super) fn paths(tokens: &[&str], most: u32) -> Vec<String> {
    let mut paths = vec![String::from("/")];
    let mut from = 0;
    for _ in 0..most {
        let to = paths.len();
        for at in from..to {
            paths.extend(tokens.iter().map(|token| paths[at].clone() + token).collect::<Vec<_>>());
        }
        from = to;
    }
    paths
}

/// "Normalized URI, after decoding the text encoded in the "%XX" form, resolving references to
/// relative path components "." and "..", and possible compression of two or more adjacent slashes"
/// (nginx.org/en/docs/http/ngx_http_core_module.html, `location`, `merge_slashes`); the states are
/// those of `ngx_http_parse_complex_uri`.
fn nginx(path: &str, merge: Merge) -> Resource {
    let decoded = decode(path, &[])?;
    if decoded.contains(&0) {
        return None;
    }
    resolve(segments(&decoded), merge, Above::Refused)
}

/// `ap_parse_uri` drops all leading slashes but one; `ap_process_request_internal` (httpd 2.4.47
/// on) decodes unreserved characters, follows dots and merges slashes, then decodes the rest. There
/// `AllowEncodedSlashes Off` answers 404 to a "%2F", `NoDecode` leaves it, and `On` normalises once
/// more (httpd.apache.org/docs/2.4/mod/core.html, `AllowEncodedSlashes`, `MergeSlashes`).
fn apache(path: &str, merge: Merge, slashes: EncodedSlashes) -> Resource {
    let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let path = format!("/{}", decode_only(path, unreserved)?.trim_start_matches('/'));
    let first = resolve(segments(path.as_bytes()), merge, Above::Refused)?;
    let encoded = first.join(&b'/').to_ascii_uppercase();
    let holds = |token: &[u8]| encoded.windows(token.len()).any(|part| part == token);
    if holds(b"%2F") && slashes == EncodedSlashes::Off || holds(b"%00") {
        return None;
    }
    let decoded: Vec<Vec<u8>> =
        first.into_iter().map(|segment| decode(std::str::from_utf8(&segment).ok()?, &[])).collect::<Option<_>>()?;
    match slashes {
        // A slash that is left encoded is part of its segment.
        EncodedSlashes::Off | EncodedSlashes::NoDecode => Some(decoded),
        EncodedSlashes::On => {
            let whole: Vec<u8> = decoded.iter().flat_map(|segment| [b"/", &segment[..]].concat()).collect();
            resolve(segments(&whole), merge, Above::Root)
        }
    }
}

/// `CoyoteAdapter.postParseRequest`: path parameters are cut off the bytes as received
/// (`parsePathParameters`), the rest is decoded, then normalised (`normalize`), with "//" merged
/// (tomcat.apache.org/tomcat-10.1-doc/config/http.html, `encodedSolidusHandling`,
/// `encodedReverseSolidusHandling`).
fn tomcat(path: &str, solidus: Solidus) -> Resource {
    let cut: Vec<&str> = path.split('/').map(|segment| segment.split(';').next().unwrap_or_default()).collect();
    let cut = cut.join("/");
    let lower = cut.to_ascii_lowercase();
    if solidus == Solidus::Rejected && (lower.contains("%2f") || lower.contains('\\') || lower.contains("%5c")) {
        return None;
    }
    let mut decoded = decode(&cut, &[])?;
    if decoded.contains(&0) {
        return None;
    }
    decoded.iter_mut().filter(|byte| **byte == b'\\').for_each(|byte| *byte = b'/');
    resolve(segments(&decoded), Merge::Yes, Above::Refused)
}

/// `http.ServeMux`, `http.FileServer`: `path.Clean` of `URL.Path`, which is decoded
/// (pkg.go.dev/path#Clean, pkg.go.dev/net/url#URL). The model serves the clean path where ServeMux
/// would redirect to it.
fn go(path: &str) -> Resource {
    resolve(segments(&decode(path, &[])?), Merge::Yes, Above::Root)
}

/// `req.url` is matched as received, segment by segment; parameters are decoded
/// (expressjs.com/en/4x/api.html#router, `strict`: a final slash makes no difference).
fn express(path: &str) -> Resource {
    path.split('/').skip(1).map(|segment| decode(segment, &[])).collect()
}

/// `ActionDispatch::Journey::Router::Utils.normalize_path` squeezes slashes and drops the last;
/// parameters are decoded (api.rubyonrails.org, "normalize_path").
fn rails(path: &str) -> Resource {
    path.split('/').filter(|segment| !segment.is_empty()).map(|segment| decode(segment, &[])).collect()
}

/// `PATH_INFO` of WSGI is decoded (PEP 3333, "URL Reconstruction"); Django matches it as it is.
fn django(path: &str) -> Resource {
    Some(segments(&decode(path, &[])?).map(<[u8]>::to_vec).collect())
}

/// The path state of the URL standard (url.spec.whatwg.org/#path-state): "\" is a slash, and
/// encoded dots are resolved too. Deno, Bun, Hono and workers match the pathname of `new URL(…)`,
/// and decode parameters.
fn whatwg(path: &str) -> Resource {
    let path = path.replace('\\', "/");
    let path = decode_only(&path, |byte| byte == b'.')?;
    let kept = resolve(segments(path.as_bytes()), Merge::No, Above::Root)?;
    kept.into_iter().map(|segment| decode(std::str::from_utf8(&segment).ok()?, &[])).collect()
}

/// http.sys decodes "%XX" and "%uXXXX" and takes "\" for "/" (learn.microsoft.com, "Http.sys
/// registry settings for Windows": `PercentUAllowed`, "AllowRestrictedChars").
fn iis(path: &str) -> Resource {
    let mut decoded = decode(path, b"u")?;
    if decoded.contains(&0) {
        return None;
    }
    decoded.iter_mut().filter(|byte| **byte == b'\\').for_each(|byte| *byte = b'/');
    resolve(segments(&decoded), Merge::Yes, Above::Root)
}

/// Undoes percent-encoding; `None` where it is malformed, to which all of these answer 400. With
/// `b"u"` also "%uXXXX".
fn decode(text: &str, more: &[u8]) -> Option<Vec<u8>> {
    let bytes = text.as_bytes();
    let hex = |from: usize, to: usize| hex(text.get(from..to)?);
    let (mut plain, mut at) = (Vec::new(), 0);
    while let Some(byte) = bytes.get(at) {
        match (byte, bytes.get(at + 1)) {
            (b'%', Some(b'u' | b'U')) if more == b"u" => {
                let mut room = [0; 4];
                let char = char::from_u32(hex(at + 2, at + 6)?)?;
                plain.extend_from_slice(char.encode_utf8(&mut room).as_bytes());
                at += 6;
            }
            (b'%', _) => {
                plain.push(u8::try_from(hex(at + 1, at + 3)?).ok()?);
                at += 3;
            }
            _ => {
                plain.push(*byte);
                at += 1;
            }
        }
    }
    Some(plain)
}

/// Parses hexadecimal digits; `from_str_radix` alone would accept a plus sign.
fn hex(digits: &str) -> Option<u32> {
    digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| u32::from_str_radix(digits, 16).ok())?
}

/// Undoes the encoding of the bytes that `which` selects.
fn decode_only(text: &str, which: impl Fn(u8) -> bool) -> Option<String> {
    let mut plain = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        let escape = rest.get(at..at + 3)?;
        let byte = u8::try_from(hex(&escape[1..])?).ok()?;
        plain.push_str(&rest[..at]);
        if which(byte) {
            plain.push(char::from(byte));
        } else {
            plain.push_str(escape);
        }
        rest = &rest[at + 3..];
    }
    Some(plain + rest)
}

fn segments(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').skip(1)
}

/// Treatment of a `..` that would leave the root.
#[derive(Clone, Copy, PartialEq)]
enum Above {
    Refused,
    Root,
}

/// Resolves dot segments; a path that ends in one ends with a slash.
fn resolve<'a>(path: impl IntoIterator<Item = &'a [u8]>, merge: Merge, above: Above) -> Resource {
    let mut kept: Vec<Vec<u8>> = Vec::new();
    let mut is_open = false;
    for segment in path {
        is_open = true;
        match segment {
            b"." => {}
            b"" if merge == Merge::Yes => {}
            b".." => {
                let left = kept.pop();
                if left.is_none() && above == Above::Refused {
                    return None;
                }
            }
            name => {
                kept.push(name.to_vec());
                is_open = false;
            }
        }
    }
    if is_open {
        kept.push(Vec::new());
    }
    Some(kept)
}
