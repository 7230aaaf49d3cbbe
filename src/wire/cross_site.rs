//! Checks against cross-site requests (CSRF) and DNS rebinding, by request fields that only
//! browsers send.
//!
//! Other programs do not send them. A web page can neither suppress nor forge them: they are
//! forbidden request-headers of the Fetch standard.
//!
//! Two checks belong together. [`is_cross_site`] refuses requests that a foreign page makes through
//! the user's browser to a gateway on the same machine. [`may_be_rebound`] refuses hosts under a
//! foreign name that resolves to this machine: for the browser such a request is same-site, so the
//! first check does not see it.

use std::net::IpAddr;

/// True if a browser sent the request for a page of another site. `site`: value of
/// `Sec-Fetch-Site`; `origin`: of `Origin`, which older browsers send alone; `authority`: host and
/// port that the request is for, as in `Host`.
///
/// `Sec-Fetch-Site: same-origin` and `none` (a typed address, a bookmark) pass; `same-site` and
/// `cross-site` do not. A request with neither field passes, as from curl. An `Origin` is compared
/// with the authority as text, letter case aside: `Origin: http://127.0.0.1:8080` passes with
/// `Host: 127.0.0.1:8080`, and `Origin: null` never passes.
pub fn is_cross_site(site: Option<&[u8]>, origin: Option<&[u8]>, authority: Option<&[u8]>) -> bool {
    if site.is_some_and(|site| site != b"same-origin" && site != b"none") {
        return true;
    }
    let Some(origin) = origin else { return false };
    // Pages without an origin of their own send "null".
    let host = memchr::memmem::find(origin, b"://").map(|at| &origin[at + 3..]);
    !host.zip(authority).is_some_and(|(host, authority)| host.eq_ignore_ascii_case(authority))
}

/// True if the owner of the host's name (without port and brackets) can make it resolve to this
/// machine, so that a browser takes the owner's pages and the gateway for one site. Addresses do
/// not resolve, and `localhost` with all names below it is always this machine (RFC 6761 §6.3).
///
/// | host | result |
/// |---|---|
/// | `127.0.0.1`, `::1`, `localhost`, `app.localhost.` | false |
/// | `localhost.example`, `gateway.corp` | true |
pub fn may_be_rebound(host: &str) -> bool {
    let name = host.strip_suffix('.').unwrap_or(host);
    let last = name.rsplit('.').next().unwrap_or(name);
    !(last.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_browsers_say_is_believed_and_what_they_do_not_say_is_not_guessed() {
        let check = |site: &str, origin: &str, authority: &str| {
            let given = |text: &'static str| (!text.is_empty()).then_some(text.as_bytes());
            let [site, origin, authority] =
                [site, origin, authority].map(|text| text.to_owned().leak() as &'static str);
            is_cross_site(given(site), given(origin), given(authority))
        };
        for (site, origin, authority) in [
            ("", "", ""),
            ("", "", "a.example"),
            ("none", "", "a.example"),
            ("same-origin", "", "a.example"),
            ("same-origin", "http://a.example:8080", "a.example:8080"),
            ("", "https://a.example", "A.example"),
        ] {
            assert!(!check(site, origin, authority), "{site} {origin} {authority}");
        }
        for (site, origin, authority) in [
            ("cross-site", "", "a.example"),
            ("same-site", "http://a.example", "a.example"),
            ("Same-Origin", "", "a.example"),
            ("", "null", "a.example"),
            ("", "null", ""),
            ("", "https://a.example", ""),
            ("same-origin", "https://b.example", "a.example"),
            ("", "https://a.example", "a.example:8080"),
            ("", "a.example", "a.example"),
        ] {
            assert!(check(site, origin, authority), "{site} {origin} {authority}");
        }
    }

    #[test]
    fn addresses_and_localhost_cannot_be_rebound() {
        for host in ["127.0.0.1", "192.0.2.1", "::1", "localhost", "LocalHost.", "app.localhost"] {
            assert!(!may_be_rebound(host), "{host}");
        }
        for host in ["evil.example", "127.0.0.1.nip.io", "localhost.evil.example", "notlocalhost", "", "gateway"] {
            assert!(may_be_rebound(host), "{host}");
        }
    }
}
