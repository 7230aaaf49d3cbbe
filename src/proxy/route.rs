//! Reverse routes: map a host and a path of the gateway to an origin.

use std::sync::Arc;

use super::host::Authority;
use super::location::LocationMap;
use super::path;
use super::pattern::HostPattern;
use super::refusal::Refusal;
use super::uri_origin::{Origin, PlainVersion};

/// A reverse route: conditions on requests, and the origin that they are forwarded to.
#[derive(Clone, PartialEq, Debug)]
pub struct Route {
    /// Pattern for the `Host` field; a field without a port means 80.
    pub host: Option<HostPattern>,
    /// This path and all paths below it; a slash at its end makes no difference.
    pub path: Option<String>,
    /// Origin.
    pub to: Origin,
    /// Version of HTTP that the origin speaks without TLS.
    pub plain: PlainVersion,
    /// Path that replaces `path`.
    pub to_path: String,
    /// Treatment of requests that pages of other sites send.
    pub cross_site: CrossSite,
}

/// Treatment of requests that browsers send for pages of other sites.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CrossSite {
    /// Forward them: access is restricted by other means, or meant to be public.
    Allow,
    /// Refuse them. On loopback the route then takes requests for loopback hosts only, unless it names a host.
    Refuse,
}

/// All routes.
#[derive(Debug)]
pub(super) struct Routes {
    /// The longest path first; among equal ones, those with a host first.
    all: Vec<PreparedRoute>,
}

/// A route in the form that lookups need.
#[derive(Debug)]
struct PreparedRoute {
    host: Option<HostPattern>,
    /// Path without a slash at its end; empty: every path.
    base: Box<str>,
    to: Origin,
    plain: PlainVersion,
    /// Path that the origin receives for `base` itself.
    whole_path: Arc<str>,
    /// Path that the origin receives in place of `base` when more follows: without a slash at its end.
    below: Arc<str>,
    /// Rewrites the origin's references to itself.
    locations: Arc<LocationMap>,
    cross_site: CrossSite,
}

/// Result of a lookup: the route for a request.
pub(super) struct RouteMatch<'r> {
    pub(super) to: &'r Origin,
    /// Version of HTTP that the origin speaks without TLS.
    pub(super) plain: PlainVersion,
    /// Path that the origin receives in place of the matched part.
    pub(super) prefix: &'r Arc<str>,
    /// Length of the matched part of the path, in bytes.
    pub(super) taken: usize,
    /// Rewrites the origin's references to itself.
    pub(super) locations: &'r Arc<LocationMap>,
    /// Treatment of requests that pages of other sites send.
    pub(super) cross_site: CrossSite,
    /// True if the route takes requests for any host.
    pub(super) any_host: bool,
}

impl Routes {
    /// Prepares the routes for lookups; their order matters only between equals.
    pub(super) fn new(routes: Vec<Route>) -> Routes {
        let mut routes: Vec<_> = routes.into_iter().map(PreparedRoute::of).collect();
        routes.sort_by_key(|route| (std::cmp::Reverse(route.base.len()), route.host.is_none()));
        Routes { all: routes }
    }

    /// True if there are no routes.
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Finds the route for a path with its query.
    ///
    /// # Errors
    /// 400 if some reading of the path leaves its route, or there are too many readings.
    pub(super) fn find(
        &self,
        target: &str,
        host: Option<Authority<'_>>,
        default_port: u16,
    ) -> Result<Option<RouteMatch<'_>>, Refusal> {
        let whole = &target[..path_end(target)];
        let takes = |route: &&PreparedRoute| route.takes_host(host, default_port) && route.takes_path(whole);
        let Some(route) = self.all.iter().find(takes) else { return Ok(None) };
        let after_base = &target[route.base.len()..];
        if !(route.base.is_empty() && route.below.is_empty())
            && path::escapes_root(&after_base[..path_end(after_base)])?
        {
            return Err(Refusal::BadTarget("the path leaves its route by \"..\" segments"));
        }
        let prefix = if after_base.starts_with('/') { &route.below } else { &route.whole_path };
        Ok(Some(route.found(prefix)))
    }

    /// Finds the route for all paths of a host.
    pub(super) fn whole(&self, host: Option<Authority<'_>>, default_port: u16) -> Option<RouteMatch<'_>> {
        let takes = |route: &&PreparedRoute| route.base.is_empty() && route.takes_host(host, default_port);
        self.all.iter().find(takes).map(|route| route.found(&route.whole_path))
    }
}

impl PreparedRoute {
    fn of(route: Route) -> PreparedRoute {
        let path = route.path.unwrap_or_default();
        let base = path.strip_suffix('/').unwrap_or(&path);
        let above = route.to_path.strip_suffix('/').unwrap_or(&route.to_path);
        let whole_path = if route.to_path.is_empty() { "/" } else { &*route.to_path };
        let locations = LocationMap { origin: route.to.clone(), origin_path: above.into(), route_path: base.into() };
        PreparedRoute {
            host: route.host,
            base: base.into(),
            to: route.to,
            plain: route.plain,
            whole_path: whole_path.into(),
            below: above.into(),
            locations: Arc::new(locations),
            cross_site: route.cross_site,
        }
    }

    /// Result of a lookup that has found this route.
    fn found<'r>(&'r self, prefix: &'r Arc<str>) -> RouteMatch<'r> {
        RouteMatch {
            to: &self.to,
            plain: self.plain,
            prefix,
            taken: self.base.len(),
            locations: &self.locations,
            cross_site: self.cross_site,
            any_host: self.host.as_ref().is_none_or(|host| !host.is_specific()),
        }
    }

    /// True if the route takes requests for this host.
    fn takes_host(&self, given: Option<Authority<'_>>, default_port: u16) -> bool {
        let Some(pattern) = &self.host else { return true };
        given.is_some_and(|given| pattern.matches(&given.host(), given.port.unwrap_or(default_port)))
    }

    /// True if the route's path is this path, or above it.
    fn takes_path(&self, path: &str) -> bool {
        path.strip_prefix(&*self.base).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// Length of a target without its query.
fn path_end(target: &str) -> usize {
    target.find('?').unwrap_or(target.len())
}
