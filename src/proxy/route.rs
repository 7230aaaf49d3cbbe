//! Reverse routes: which path of which host leads where.

use std::sync::Arc;

use super::host::Authority;
use super::location::LocationMap;
use super::path;
use super::pattern::HostPattern;
use super::refusal::Refusal;
use super::uri_origin::Origin;

/// A reverse route: which requests it takes, and where to.
#[derive(Clone, PartialEq, Debug)]
pub struct Route {
    /// Compared with the `Host` field; without a port there, 80 counts.
    pub host: Option<HostPattern>,
    /// The path itself and all below it; a slash at its end makes no difference.
    pub path: Option<String>,
    /// The origin.
    pub to: Origin,
    /// What takes the place of `path`.
    pub to_path: String,
    /// Whether it takes requests of other sites' pages.
    pub cross_site: CrossSite,
}

/// Whether pages of other sites may have browsers send requests to a route.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CrossSite {
    /// They may: something else keeps strangers out, or they are meant to.
    Allow,
    /// They may not. On loopback the route has no other hosts than those of loopback either, unless it names some.
    Refuse,
}

/// All routes.
#[derive(Debug)]
pub(super) struct Routes {
    /// The longest path first; of equal ones, those with a host first.
    all: Vec<PreparedRoute>,
}

#[derive(Debug)]
struct PreparedRoute {
    host: Option<HostPattern>,
    /// Without a slash at its end; empty: every path.
    base: Box<str>,
    to: Origin,
    /// What the origin gets for `base` itself.
    instead: Arc<str>,
    /// What the origin gets for `base` when more follows: without a slash at its end.
    below: Arc<str>,
    /// Rewrites the origin's references to itself.
    locations: Arc<LocationMap>,
    cross_site: CrossSite,
}

/// Where a route leads.
pub(super) struct Found<'r> {
    pub(super) to: &'r Origin,
    /// What the origin gets in place of what the route took.
    pub(super) prefix: &'r Arc<str>,
    /// How much of the path the route took.
    pub(super) taken: usize,
    /// Rewrites the origin's references to itself.
    pub(super) locations: &'r Arc<LocationMap>,
    /// Whether the route takes requests of other sites' pages.
    pub(super) cross_site: CrossSite,
    /// Whether it takes requests for any host.
    pub(super) any_host: bool,
}

impl Routes {
    /// Prepares the routes; their order does not matter but between equals.
    pub(super) fn new(routes: Vec<Route>) -> Routes {
        let mut routes: Vec<_> = routes.into_iter().map(PreparedRoute::of).collect();
        routes.sort_by_key(|route| (std::cmp::Reverse(route.base.len()), route.host.is_none()));
        Routes { all: routes }
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The route for a path with its query.
    ///
    /// # Errors
    /// 400 if the path leaves its route, as some origin reads it, or has too many readings.
    pub(super) fn find(
        &self,
        target: &str,
        host: Option<Authority<'_>>,
        default_port: u16,
    ) -> Result<Option<Found<'_>>, Refusal> {
        let whole = &target[..path_end(target)];
        let takes = |route: &&PreparedRoute| route.takes_host(host, default_port) && route.takes_path(whole);
        let Some(route) = self.all.iter().find(takes) else { return Ok(None) };
        let after_base = &target[route.base.len()..];
        if !(route.base.is_empty() && route.below.is_empty()) && path::climbs(&after_base[..path_end(after_base)])? {
            return Err(Refusal::BadTarget("the path leaves its route by \"..\" segments"));
        }
        let prefix = if after_base.starts_with('/') { &route.below } else { &route.instead };
        Ok(Some(Found {
            to: &route.to,
            prefix,
            taken: route.base.len(),
            locations: &route.locations,
            cross_site: route.cross_site,
            any_host: route.host.as_ref().is_none_or(|host| !host.is_specific()),
        }))
    }

    /// Where the route for all paths of a host leads.
    pub(super) fn whole(&self, host: Option<Authority<'_>>, default_port: u16) -> Option<&Origin> {
        let takes = |route: &&PreparedRoute| route.base.is_empty() && route.takes_host(host, default_port);
        self.all.iter().find(takes).map(|route| &route.to)
    }
}

impl PreparedRoute {
    fn of(route: Route) -> PreparedRoute {
        let path = route.path.unwrap_or_default();
        let base = path.strip_suffix('/').unwrap_or(&path);
        let above = route.to_path.strip_suffix('/').unwrap_or(&route.to_path);
        let instead = if route.to_path.is_empty() { "/" } else { &*route.to_path };
        let locations = LocationMap { origin: route.to.clone(), there: above.into(), here: base.into() };
        PreparedRoute {
            host: route.host,
            base: base.into(),
            to: route.to,
            instead: instead.into(),
            below: above.into(),
            locations: Arc::new(locations),
            cross_site: route.cross_site,
        }
    }

    fn takes_host(&self, given: Option<Authority<'_>>, default_port: u16) -> bool {
        let Some(pattern) = &self.host else { return true };
        given.is_some_and(|given| pattern.matches(&given.host(), given.port.unwrap_or(default_port)))
    }

    fn takes_path(&self, path: &str) -> bool {
        path.strip_prefix(&*self.base).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

fn path_end(target: &str) -> usize {
    target.find('?').unwrap_or(target.len())
}
