//! Target of a request: its origin and path, from absolute form, authority form or a route; detects loops.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use super::host::{Authority, HostError};
use super::location::LocationMap;
use super::refusal::Refusal;
pub use super::route::{CrossSite, Route};
use super::route::{RouteMatch, Routes};
use super::timeouts::{RequestTimeouts, TimeoutTable};
use super::uri_origin::write_port;
pub use super::uri_origin::{Origin, PlainVersion, Scheme};
use crate::wire::cross_site::{is_cross_site, may_be_rebound};
use crate::wire::{Name, RequestHead, Version, members};

/// Most gateways of our name that a request may have passed; more are a loop. A few in a row are a sensible set-up.
const MAX_HOPS: usize = 3;

/// Remedy for a request with a Host that a web page may have chosen.
const REBOUND: &str = "on loopback, a route without a host of its own takes requests for an address or localhost only, so that no \
    web page gets here by a name that leads here (DNS rebinding). Give the [[route]] this host, or cross_site = \"allow\"";
/// Reason and remedy for a request that a browser sent for another site's page.
const CROSS_SITE: &str =
    "a web page of another site asks for it. If that is meant, give the [[route]] cross_site = \"allow\"";
/// Reason and remedy for a request in a tunnel that names another host.
const OTHER_THAN_CONNECT: &str =
    "it differs from the host of the CONNECT that opened the tunnel. Open a tunnel to that host";

/// Way by which a request came in.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ingress<'a> {
    /// True if it came over TLS, on a listener with TLS.
    pub secure: bool,
    /// True if it came to a listener on loopback.
    pub loopback: bool,
    /// Origin of the intercepted tunnel in which it came.
    pub within: Option<&'a Origin>,
    /// True if the origin of the tunnel takes the place of each host that a request in it names.
    pub any_host: bool,
}

impl Ingress<'_> {
    /// Port of an authority that names none.
    fn default_port(&self) -> u16 {
        let scheme = if self.secure { Scheme::Https } else { Scheme::Http };
        scheme.default_port()
    }
}

/// Form in which a request named its target (RFC 9112 §3.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// `GET http://host/path`: a request to a forward proxy; also any request inside an intercepted tunnel.
    Absolute,
    /// `CONNECT host:port`.
    Authority,
    /// `GET /path`, which a route maps to an origin.
    Route,
}

/// Target of one request.
#[derive(Clone, Debug)]
pub struct Target {
    /// Server that the request is for.
    pub origin: Origin,
    /// Version of HTTP in which it is spoken to without TLS.
    pub plain: PlainVersion,
    /// Form in which the request named it; `Form::Authority` for a tunnel.
    pub form: Form,
    /// Start of the path for the origin, followed by the bytes `rest` of the request target; both are empty for a
    /// tunnel.
    pub prefix: Arc<str>,
    /// Byte range of the request target, see `prefix`.
    pub rest: Range<usize>,
    /// Rewrites the origin's references to itself; set for routes only.
    pub(super) locations: Option<Arc<LocationMap>>,
}

impl Target {
    /// Target of a tunnel.
    pub(super) fn tunnel_to(origin: Origin) -> Target {
        let (plain, form) = (PlainVersion::Http1, Form::Authority);
        Target { origin, plain, form, prefix: Arc::default(), rest: 0..0, locations: None }
    }

    /// Path and query as the origin receives them; empty for a tunnel.
    pub fn path<'a>(&'a self, head: &'a RequestHead) -> Cow<'a, str> {
        let rest = head.target().get(self.rest.clone()).unwrap_or_default();
        match (&*self.prefix, rest) {
            ("", rest) => rest.into(),
            (prefix, "") => prefix.into(),
            (prefix, rest) => [prefix, rest].concat().into(),
        }
    }

    /// Timeouts of a request for this target.
    pub(super) fn timeouts(&self, head: &RequestHead, timeouts: &TimeoutTable) -> Arc<RequestTimeouts> {
        timeouts.find(&self.origin.host, self.origin.port, || self.path(head))
    }

    /// Appends the result of [`Target::path`].
    pub fn write_path(&self, head: &RequestHead, out: &mut Vec<u8>) {
        out.extend_from_slice(self.prefix.as_bytes());
        out.extend_from_slice(head.target().as_bytes().get(self.rest.clone()).unwrap_or_default());
    }

    /// Appends the value of `Host` for the origin; for a tunnel always with the port.
    pub fn write_host(&self, out: &mut Vec<u8>) {
        self.origin.write_authority(out);
        if self.form == Form::Authority && self.origin.port == self.origin.scheme.default_port() {
            write_port(self.origin.port, out);
        }
    }
}

/// Finds the targets of requests.
#[derive(Debug)]
pub struct Targets {
    routes: Routes,
}

impl Targets {
    /// Prepares the routes for lookups; their order matters only between equals.
    pub fn new(routes: Vec<Route>) -> Targets {
        Targets { routes: Routes::new(routes) }
    }

    /// Finds the target of a request. `ingress`: the way by which it came in.
    ///
    /// # Errors
    /// 400 if its target or its `Host` is invalid, 403 for a disguised address, 404 if no route takes it, 421 if it is
    /// for another origin than the tunnel in which it came.
    pub fn find(&self, head: &RequestHead, ingress: &Ingress<'_>) -> Result<Target, Refusal> {
        let target = head.target();
        if target.contains('#') {
            return Err(Refusal::BadTarget(
                "a fragment (\"#…\") is for the program that asks, never for a server: leave it out",
            ));
        }
        if let Some(origin) = ingress.within {
            return inside(head, origin, ingress);
        }
        if head.method() == "CONNECT" {
            return tunnel(head);
        }
        if target.starts_with('/') {
            let host = check_host(head, None)?;
            return self.routed(head, 0, host, ingress)?.ok_or(Refusal::NoRoute);
        }
        if target == "*" {
            return self.whole_origin(head, ingress);
        }
        match self.routed_by_http2(head, ingress)? {
            Some(target) => Ok(target),
            None => absolute(head),
        }
    }

    /// Finds a route for a request of HTTP/2, which has no origin-form: a request for a route looks like one for an
    /// origin (RFC 9113 §8.3.1). It is for a route if one takes it, and if it names the scheme that it came by.
    fn routed_by_http2(&self, head: &RequestHead, ingress: &Ingress<'_>) -> Result<Option<Target>, Refusal> {
        if head.version() != Version::Http2 || self.routes.is_empty() {
            return Ok(None);
        }
        let (scheme, start) = read_scheme(head.target())?;
        if (scheme == Scheme::Https) != ingress.secure {
            return Ok(None);
        }
        let target = head.target();
        let at = target[start..].find(['/', '?']).map_or(target.len(), |at| start + at);
        // An invalid authority is reported by the code that needs it.
        let Ok(authority) = Authority::read(&target[start..at]) else { return Ok(None) };
        if at == target.len() && head.method() == "OPTIONS" {
            return Ok(self.whole_route(at..at, Some(authority), ingress));
        }
        if !target[at..].starts_with('/') {
            return Ok(None);
        }
        self.routed(head, at, Some(authority), ingress)
    }

    /// Finds the route for the path that begins at `at` in the request's target.
    fn routed(
        &self,
        head: &RequestHead,
        at: usize,
        host: Option<Authority<'_>>,
        ingress: &Ingress<'_>,
    ) -> Result<Option<Target>, Refusal> {
        let Some(found) = self.routes.find(&head.target()[at..], host, ingress.default_port())? else {
            return Ok(None);
        };
        if found.cross_site == CrossSite::Refuse {
            if is_rebound(&found, host, ingress) {
                // In HTTP/2 this may be a request to a forward proxy, which has the same form.
                let is_proxys = head.version() == Version::Http2;
                return if is_proxys { Ok(None) } else { Err(Refusal::Misdirected(REBOUND)) };
            }
            if is_cross_site(head.find("sec-fetch-site"), head.find("origin"), authority_field(head, at)) {
                return Err(Refusal::Denied(CROSS_SITE));
            }
        }
        let rest = at + found.taken..head.target().len();
        Ok(Some(Target {
            origin: found.to.clone(),
            plain: found.plain,
            form: Form::Route,
            prefix: Arc::clone(found.prefix),
            rest,
            locations: Some(Arc::clone(found.locations)),
        }))
    }

    /// `OPTIONS *` speaks of a whole server (RFC 9110 §9.3.7), so only a route for all paths takes it.
    fn whole_origin(&self, head: &RequestHead, ingress: &Ingress<'_>) -> Result<Target, Refusal> {
        only_options(head)?;
        let host = check_host(head, None)?;
        self.whole_route(0..1, host, ingress).ok_or(Refusal::NoRoute)
    }

    /// Route for `OPTIONS *`. `star`: bytes of the request's target that hold the star; empty in HTTP/2, where the
    /// target is an authority alone.
    fn whole_route(&self, star: Range<usize>, host: Option<Authority<'_>>, ingress: &Ingress<'_>) -> Option<Target> {
        let found = self.routes.whole(host, ingress.default_port())?;
        let prefix = if star.is_empty() { Arc::from("*") } else { Arc::default() };
        if star.is_empty() && found.cross_site == CrossSite::Refuse && is_rebound(&found, host, ingress) {
            // A request to a forward proxy.
            return None;
        }
        let (origin, plain, form) = (found.to.clone(), found.plain, Form::Route);
        Some(Target { origin, plain, form, prefix, rest: star, locations: None })
    }
}

/// True for a request with a Host that a web page may have chosen, to a route on loopback without a host of its own.
fn is_rebound(found: &RouteMatch<'_>, host: Option<Authority<'_>>, ingress: &Ingress<'_>) -> bool {
    ingress.loopback && found.any_host && host.is_some_and(|host| may_be_rebound(&host.host()))
}

/// Authority that a request names, as received: before the path that begins at `at` in its target (HTTP/2), or in its
/// Host.
fn authority_field(head: &RequestHead, at: usize) -> Option<&[u8]> {
    match head.target()[..at].split_once("://") {
        Some((_, authority)) => Some(authority.as_bytes()),
        None => head.get(Name::Host),
    }
}

/// Refuses methods other than OPTIONS.
fn only_options(head: &RequestHead) -> Result<(), Refusal> {
    if head.method() == "OPTIONS" {
        return Ok(());
    }
    Err(Refusal::BadTarget("the target \"*\" goes with OPTIONS only"))
}

/// Target of a request in an intercepted tunnel: every host that it names must be the tunnel's, or one host could be
/// reached in the name of another (RFC 9110 §7.4).
fn inside(head: &RequestHead, origin: &Origin, ingress: &Ingress<'_>) -> Result<Target, Refusal> {
    let target = head.target();
    if head.method() == "CONNECT" {
        return Err(Refusal::BadTarget("a tunnel in which requests are read cannot contain another tunnel"));
    }
    if !target.starts_with('/') && target != "*" {
        let found = absolute(head)?;
        if found.origin != *origin && !ingress.any_host {
            return Err(Refusal::Misdirected(OTHER_THAN_CONNECT));
        }
        // A caller with prior knowledge of HTTP/2 has it of the origin: it knows of no gateway here.
        let knows_h2c = head.version() == Version::Http2 && origin.scheme == Scheme::Http;
        let plain = if knows_h2c { PlainVersion::H2c } else { PlainVersion::Http1 };
        return Ok(Target { origin: origin.clone(), plain, ..found });
    }
    if target == "*" {
        only_options(head)?;
    }
    if let Some(host) = check_host(head, None)?
        && !(ingress.any_host
            || host.host() == *origin.host && host.port.unwrap_or(origin.scheme.default_port()) == origin.port)
    {
        return Err(Refusal::Misdirected(OTHER_THAN_CONNECT));
    }
    Ok(Target { form: Form::Absolute, rest: 0..target.len(), ..Target::tunnel_to(origin.clone()) })
}

/// Target of a CONNECT.
fn tunnel(head: &RequestHead) -> Result<Target, Refusal> {
    let target = head.target();
    if target.contains(['/', '?']) || target == "*" {
        return Err(Refusal::BadTarget("CONNECT takes only a host and a port: CONNECT api.example:443"));
    }
    check_host(head, Some(target))?;
    let authority = Authority::read(target).map_err(refused)?;
    let port = authority.port.ok_or(Refusal::BadTarget("CONNECT needs a port: CONNECT api.example:443"))?;
    // The protocol inside a tunnel is unknown; the gateway dials a plain TCP connection.
    Ok(Target::tunnel_to(Origin { scheme: Scheme::Http, host: authority.shared_host(), port }))
}

/// Target in absolute form.
fn absolute(head: &RequestHead) -> Result<Target, Refusal> {
    let target = head.target();
    let (scheme, start) = read_scheme(target)?;
    let end = target[start..].find(['/', '?']).map_or(target.len(), |at| start + at);
    let authority = &target[start..end];
    // The target overrides Host, which must be valid all the same (RFC 9112 §3.2).
    check_host(head, Some(authority))?;
    let authority = Authority::read(authority).map_err(refused)?;
    let origin =
        Origin { scheme, host: authority.shared_host(), port: authority.port.unwrap_or(scheme.default_port()) };
    let prefix = match target.as_bytes().get(end) {
        Some(b'/') => Arc::default(),
        Some(_) => Arc::from("/"),
        // Without path and query, OPTIONS is about the whole server (RFC 9112 §3.2.4).
        None if head.method() == "OPTIONS" => Arc::from("*"),
        None => Arc::from("/"),
    };
    let (plain, form) = (PlainVersion::Http1, Form::Absolute);
    Ok(Target { origin, plain, form, prefix, rest: end..target.len(), locations: None })
}

/// Parses the scheme; returns it with the start of the authority.
fn read_scheme(target: &str) -> Result<(Scheme, usize), Refusal> {
    let Some((scheme, _)) = target.split_once("://") else {
        return Err(Refusal::BadTarget("the target is neither a whole URL (http://host/path) nor a path (/path)"));
    };
    let start = scheme.len() + 3;
    if scheme.eq_ignore_ascii_case("http") {
        Ok((Scheme::Http, start))
    } else if scheme.eq_ignore_ascii_case("https") {
        Ok((Scheme::Https, start))
    } else if scheme.eq_ignore_ascii_case("ws") || scheme.eq_ignore_ascii_case("wss") {
        Err(Refusal::BadTarget(
            "WebSocket goes through a proxy by CONNECT, or as an http:// request with Upgrade, not as ws:// or wss://",
        ))
    } else if scheme.eq_ignore_ascii_case("ftp") {
        Err(Refusal::BadTarget("the gateway speaks HTTP only, not FTP"))
    } else {
        Err(Refusal::BadTarget("the gateway speaks http:// and https:// only"))
    }
}

/// Checks `Host` by the rules of RFC 9112 §3.2. `authority`: that of the target, if it has one.
fn check_host<'a>(head: &'a RequestHead, authority: Option<&str>) -> Result<Option<Authority<'a>>, Refusal> {
    let mut hosts = head.all(Name::Host);
    let Some(host) = hosts.next() else {
        return match head.version() {
            // HTTP/2 has an authority in its place.
            Version::Http10 | Version::Http2 => Ok(None),
            Version::Http11 => Err(Refusal::BadTarget("HTTP/1.1 requires a Host field")),
        };
    };
    if hosts.next().is_some() {
        // Two servers may pick different ones, so nothing after this head is trusted either.
        return Err(Refusal::Malformed("there are several Host fields"));
    }
    // An empty Host means that the target has no authority (RFC 9110 §7.2).
    if host.is_empty() || authority.is_some_and(|authority| authority.as_bytes() == host) {
        return Ok(None);
    }
    let host = std::str::from_utf8(host).map_err(|_| Refusal::BadTarget("the Host field is not ASCII"))?;
    match Authority::read(host) {
        Ok(host) => Ok(Some(host)),
        // The target overrides this host, so it is never resolved.
        Err(HostError::Disguised(_)) if authority.is_some() => Ok(None),
        Err(HostError::Malformed(_) | HostError::Disguised(_)) => {
            Err(Refusal::BadTarget("the Host field is not a host and a port"))
        }
    }
}

fn refused(fault: HostError) -> Refusal {
    match fault {
        HostError::Malformed(why) => Refusal::BadTarget(why),
        HostError::Disguised(why) => Refusal::Denied(why),
    }
}

/// True if the `Via` of a request names so many gateways of our name that it must be in a loop (508).
pub fn too_many_hops(head: &RequestHead) -> bool {
    hops(head) > MAX_HOPS
}

/// Number of gateways of our name in the `Via` of a request.
pub(super) fn hops(head: &RequestHead) -> usize {
    let hops = head.all(Name::Via).flat_map(members).filter(|hop| {
        let mut words = hop.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        words.nth(1).is_some_and(|by| by.eq_ignore_ascii_case(b"lockgate"))
    });
    hops.count()
}

#[cfg(test)]
mod tests;
