//! Location rewriting for routes, as nginx's `proxy_redirect default`: references of an origin to itself become
//! references to the route.
//!
//! A caller with a base URL has no proxy set. It would follow a redirect to the origin's own address directly: past the
//! limits, and without the gateway's client certificate.

use std::borrow::Cow;

use super::host::Authority;
use super::uri_origin::Origin;

/// Mapping of references to a route's origin into references to the route.
#[derive(Debug)]
pub(super) struct LocationMap {
    /// Origin of the route.
    pub(super) origin: Origin,
    /// Path at the origin, without a slash at its end; empty: all paths.
    pub(super) origin_path: Box<str>,
    /// Path of the route, without a slash at its end; empty: every path.
    pub(super) route_path: Box<str>,
}

impl LocationMap {
    /// Maps the value of a field of the origin's response for the caller; `None`: the field is dropped.
    pub(super) fn field<'v>(&self, name: &[u8], value: &'v [u8]) -> Option<Cow<'v, [u8]>> {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        // Alt-Svc invites the caller to reach the origin by another address or protocol (RFC 7838).
        if is("alt-svc") {
            return None;
        }
        let text = std::str::from_utf8(value).unwrap_or_default();
        let mapped = if is("location") || is("content-location") {
            self.map(text)
        } else if is("refresh") {
            self.map_refresh(text)
        } else {
            None
        };
        Some(mapped.map_or(value.into(), |mapped| mapped.into_bytes().into()))
    }

    /// Maps a reference (RFC 3986 §4.1) to a resource below the route's origin into a path below the route, which the
    /// caller resolves against the URL of its request (RFC 9110 §10.2.2). Unlike a whole URL it stays correct behind a
    /// front end that terminates TLS or has another name, and repeats nothing that the caller wrote. `None`: the
    /// reference leads elsewhere, or is relative to the path and correct unchanged.
    fn map(&self, reference: &str) -> Option<String> {
        let path = self.path_at_origin(reference)?;
        let rest = path.strip_prefix(&*self.origin_path)?;
        if !(rest.is_empty() || rest.starts_with(['/', '?', '#'])) || has_dot_segments(rest) {
            return None;
        }
        let mapped = format!("{}{rest}", self.route_path);
        Some(match mapped.as_bytes() {
            // Two slashes begin an authority, and so do backslashes in a browser (RFC 3986 §4.2; WHATWG URL, "special
            // authority slashes state").
            [b'/' | b'\\', b'/' | b'\\', ..] => format!("/.{mapped}"),
            [b'/', ..] => mapped,
            _ => format!("/{mapped}"),
        })
    }

    /// Path, query and fragment of a reference with an absolute path, if it leads to the origin.
    fn path_at_origin<'r>(&self, reference: &'r str) -> Option<&'r str> {
        let origin = &self.origin;
        let after_scheme = match reference.split_once(':') {
            Some((given, rest)) if given.eq_ignore_ascii_case(origin.scheme.name()) => rest,
            _ if reference.starts_with('/') => reference,
            _ => return None,
        };
        let Some(after_slashes) = after_scheme.strip_prefix("//") else {
            return after_scheme.starts_with('/').then_some(after_scheme);
        };
        let (authority, path) =
            after_slashes.split_at(after_slashes.find(['/', '?', '#']).unwrap_or(after_slashes.len()));
        let authority = Authority::read(authority).ok()?;
        let port = authority.port.unwrap_or(origin.scheme.default_port());
        (*authority.host() == *origin.host && port == origin.port).then_some(path)
    }

    /// Maps the value of Refresh, `5; url=REFERENCE`, as browsers read it (WHATWG HTML, "shared declarative refresh
    /// steps").
    fn map_refresh(&self, value: &str) -> Option<String> {
        let at = value.to_ascii_lowercase().find("url=")? + "url=".len();
        let (before, after) = value.split_at(at);
        let spaces = after.len() - after.trim_start().len();
        let quote = after[spaces..].chars().next().filter(|char| matches!(char, '"' | '\''));
        let begin = spaces + quote.map_or(0, char::len_utf8);
        let length = quote.and_then(|quote| after[begin..].find(quote)).unwrap_or(after.len() - begin);
        let (reference, end) = after[begin..].split_at(length);
        Some(format!("{before}{}{}{end}", &after[..begin], self.map(reference)?))
    }
}

/// True if the path of a reference has `..`, which may lead out of the route.
fn has_dot_segments(reference: &str) -> bool {
    let path = &reference[..reference.find(['?', '#']).unwrap_or(reference.len())];
    path.to_ascii_lowercase().replace("%2e", ".").split(['/', '\\']).any(|segment| segment == "..")
}

#[cfg(test)]
mod tests {
    use super::super::uri_origin::Scheme;
    use super::*;

    fn map(route_path: &str, origin_path: &str) -> LocationMap {
        let origin = Origin::at(Scheme::Https, "api.example").expect("an origin");
        LocationMap { origin, origin_path: origin_path.into(), route_path: route_path.into() }
    }

    fn field(map: &LocationMap, name: &str, value: &str) -> Option<String> {
        map.field(name.as_bytes(), value.as_bytes()).map(|value| String::from_utf8(value.into_owned()).unwrap())
    }

    #[track_caller]
    fn check(map: &LocationMap, name: &str, cases: &[(&str, &str)]) {
        for (value, wanted) in cases {
            assert_eq!(field(map, name, value).as_deref(), Some(*wanted), "{name}: {value}");
        }
    }

    #[test]
    fn what_leads_below_the_routes_origin_leads_below_the_route() {
        let cases = [
            ("https://api.example/v2/items/", "/partner/items/"),
            ("HTTPS://API.Example.:443/v2/items?a=b#c", "/partner/items?a=b#c"),
            ("//api.example/v2/x", "/partner/x"),
            ("/v2/items/", "/partner/items/"),
            ("https://api.example/v2", "/partner"),
            ("https://api.example/v2?next=https://api.example/v2/", "/partner?next=https://api.example/v2/"),
            ("https:/v2/x", "/partner/x"),
            ("https://api.example/v2//x", "/partner//x"),
        ];
        check(&map("/partner", "/v2"), "Location", &cases);
        check(&map("/partner", "/v2"), "content-location", &cases);
    }

    #[test]
    fn what_leads_elsewhere_passes_as_it_is() {
        for value in [
            "https://other.example/v2/items",
            "http://api.example/v2/items",
            "https://api.example:8443/v2/items",
            "https://api.example/v20/items",
            "https://api.example/login",
            "https://api.example/v2/../login",
            "https://api.example/v2/%2E%2e/login",
            "https://api.example@evil.example/v2/",
            "https://api.example.evil.example/v2/",
            "/login",
            "items/",
            "?page=2",
            "../x",
            "",
            "mailto:a@b.example",
            "\u{e4}",
        ] {
            check(&map("/partner", "/v2"), "Location", &[(value, value)]);
        }
        check(&map("/partner", "/v2"), "Link", &[("https://api.example/v2/x", "https://api.example/v2/x")]);
    }

    #[test]
    fn a_route_for_all_paths_and_an_origin_without_one_are_at_the_top() {
        check(&map("", "/v2"), "Location", &[("https://api.example/v2", "/"), ("https://api.example/v2?a", "/?a")]);
        check(
            &map("/p", ""),
            "Location",
            &[("https://api.example", "/p"), ("https://api.example/x", "/p/x"), ("/x", "/p/x")],
        );
        check(&map("", ""), "Location", &[("https://api.example", "/"), ("https://api.example/x", "/x")]);
    }

    #[test]
    fn a_path_never_becomes_an_authority() {
        let cases = [
            ("https://api.example//evil.example/", "/.//evil.example/"),
            ("https://api.example/\\evil.example/", "/./\\evil.example/"),
        ];
        check(&map("", ""), "Location", &cases);
    }

    #[test]
    fn a_refresh_is_rewritten_where_it_names_a_url() {
        let cases = [
            ("5; url=https://api.example/v2/a", "5; url=/partner/a"),
            ("0;URL='https://api.example/v2/a'", "0;URL='/partner/a'"),
            ("0, url= \"/v2/a\" ", "0, url= \"/partner/a\" "),
            ("5; url=https://other.example/", "5; url=https://other.example/"),
            ("5", "5"),
            ("5; url=", "5; url="),
        ];
        check(&map("/partner", "/v2"), "Refresh", &cases);
    }

    #[test]
    fn another_way_to_the_origin_is_not_told() {
        assert_eq!(field(&map("/partner", "/v2"), "Alt-Svc", "h3=\":443\""), None);
    }
}
