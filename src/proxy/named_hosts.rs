//! Hosts named by limits and routes: the allow-list, and the hosts that may lead into private networks.

use std::net::IpAddr;

use super::pattern::HostPattern;
use super::target::{Form, Target};
use crate::net::dial::Reach;

/// Hosts that limits name by a pattern that singles hosts or a port out.
#[derive(Debug)]
pub(super) struct NamedHosts {
    patterns: Vec<HostPattern>,
}

/// Result of a lookup: entries of limits and routes for a request's host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HostListing {
    /// True if it may be called although only listed hosts may.
    pub listed: bool,
    /// Addresses that it may lead to.
    pub reach: Reach,
    /// True if an entry names its port too.
    pub with_port: bool,
}

impl NamedHosts {
    /// Collects the hosts of all limits.
    pub(super) fn new<'p>(hosts: impl Iterator<Item = &'p HostPattern>) -> NamedHosts {
        NamedHosts { patterns: hosts.filter(|pattern| pattern.is_specific() || pattern.has_port()).cloned().collect() }
    }

    /// True if a host is named by more than its port.
    pub(super) fn has_hosts(&self) -> bool {
        self.patterns.iter().any(HostPattern::is_specific)
    }

    /// Looks the host of a request up.
    ///
    /// A route applies to the requests that it takes, and its origin is the operator's choice. Requests of another form
    /// gain nothing from it; else a route to one port of a machine would open all its other ports. A wildcard lists
    /// hosts, but does not let them lead to private networks: the owner of any name below it decides where that leads.
    pub(super) fn look_up(&self, target: &Target) -> HostListing {
        let origin = &target.origin;
        let routed = target.form == Form::Route;
        let (mut listed, mut exact, mut with_port) = (routed, routed, routed);
        for pattern in self.patterns.iter().filter(|pattern| pattern.matches(&origin.host, origin.port)) {
            listed |= pattern.is_specific();
            exact |= pattern.is_exact();
            with_port |= pattern.has_port();
        }
        let reach = match exact {
            false => Reach::Public,
            true if origin.host.parse::<IpAddr>().is_ok() => Reach::Address,
            true => Reach::Private,
        };
        HostListing { listed, reach, with_port }
    }
}

#[cfg(test)]
mod tests {
    use super::super::target::{CrossSite, Ingress, Origin, PlainVersion, Route, Scheme, Targets};
    use super::*;
    use crate::wire::RequestHead;

    /// Looks the target of a request line up; a limit names `hosts`, and `/app/` is a route to `http://127.0.0.1:8000`.
    fn look_up(hosts: &[&str], line: &str) -> HostListing {
        let to = Origin::at(Scheme::Http, "127.0.0.1:8000").expect("an origin");
        let path = Some("/app/".to_owned());
        let (plain, to_path, cross_site) = (PlainVersion::Http1, String::new(), CrossSite::Refuse);
        let route = Route { host: None, path, to, plain, to_path, cross_site };
        let head = RequestHead::parse_for_test(format!("{line} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
        let target = Targets::new(vec![route]).find(&head, &Ingress::default()).expect("a target");
        let hosts: Vec<_> = hosts.iter().map(|host| HostPattern::parse(host).expect(host)).collect();
        NamedHosts::new(hosts.iter()).look_up(&target)
    }

    const NAMED: HostListing = HostListing { listed: true, reach: Reach::Private, with_port: true };
    const ADDRESS: HostListing = HostListing { reach: Reach::Address, ..NAMED };
    const LISTED: HostListing = HostListing { listed: true, ..UNNAMED };
    const UNNAMED: HostListing = HostListing { listed: false, reach: Reach::Public, with_port: false };

    #[test]
    fn hosts_are_named_by_limits_but_not_by_a_star() {
        let hosts = ["*", "api.example:443", "*.below.example", "*:25"];
        assert_eq!(look_up(&hosts, "GET https://api.example/"), NAMED);
        assert_eq!(look_up(&hosts, "CONNECT api.example:443"), NAMED);
        assert_eq!(look_up(&hosts, "GET http://x.below.example:1/"), LISTED, "its names may be anybody's");
        let with_port = HostListing { with_port: true, ..UNNAMED };
        assert_eq!(look_up(&hosts, "GET http://other.example:25/"), with_port, "a port alone is no host");
        assert_eq!(look_up(&hosts, "GET http://api.example/"), UNNAMED);
        assert_eq!(look_up(&hosts, "GET https://other.example/"), UNNAMED);
    }

    #[test]
    fn a_route_speaks_for_the_requests_that_it_takes() {
        assert_eq!(look_up(&[], "GET /app/x"), ADDRESS);
        for line in ["GET http://127.0.0.1:8000/app/", "GET http://127.0.0.1:2375/", "CONNECT 127.0.0.1:8000"] {
            assert_eq!(look_up(&[], line), UNNAMED, "{line}");
        }
        assert_eq!(look_up(&["127.0.0.1:8000"], "GET http://127.0.0.1:8000/"), ADDRESS, "unless a limit names it too");
    }
}
