//! Parent proxies: other proxies through which the gateway reaches origins, and the requests that go through them.
//!
//! A request through a parent goes in absolute form if it is plain HTTP and the parent speaks HTTP; any other through a
//! tunnel (CONNECT, or SOCKS5). The names of origins are resolved by the parent, but for `socks5://`.

mod parent_answer;
mod parent_dialer;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ipnet::IpNet;
use smallvec::SmallVec;

pub(super) use self::parent_answer::check_answer;
pub(super) use self::parent_dialer::{ParentDialer, ParentRequest, ParentStream};
use super::metrics::Metrics;
use super::parent_status::ParentStatus;
use super::pattern::HostPattern;
use super::target::{Form, Origin};
use super::upstream::Way;
use crate::time::Time;
use crate::wire::socks5_client::SocksLogin;

/// One `[[parent]]` section.
#[derive(Clone, PartialEq, Debug)]
pub struct Settings {
    /// Hosts of the requests that go through it.
    pub hosts: Vec<HostPattern>,
    /// Hosts that do not.
    pub except_hosts: Vec<HostPattern>,
    /// Addresses that do not.
    pub except_addresses: Vec<IpNet>,
    /// Proxies, in the order in which they are used.
    pub proxies: Vec<ParentUrl>,
    /// Credentials for all of them.
    pub login: Option<ParentLogin>,
}

/// Protocol that a parent speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ParentKind {
    /// HTTP/1.1.
    Http,
    /// HTTP/1.1 over TLS.
    Https,
    /// SOCKS5, with names resolved by the gateway.
    Socks5,
    /// SOCKS5, with names resolved by the parent.
    Socks5h,
}

impl ParentKind {
    /// Scheme as written in a URL.
    pub fn scheme(self) -> &'static str {
        match self {
            ParentKind::Http => "http",
            ParentKind::Https => "https",
            ParentKind::Socks5 => "socks5",
            ParentKind::Socks5h => "socks5h",
        }
    }

    /// True if it is a proxy of HTTP.
    pub fn is_http(self) -> bool {
        matches!(self, ParentKind::Http | ParentKind::Https)
    }
}

/// URL of a parent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ParentUrl {
    /// Protocol.
    pub kind: ParentKind,
    /// Host in lower case; IPv6 without brackets.
    pub host: Arc<str>,
    /// Port, never 0.
    pub port: u16,
}

impl fmt::Display for ParentUrl {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (open, close) = if self.host.contains(':') { ("[", "]") } else { ("", "") };
        write!(out, "{}://{open}{}{close}:{}", self.kind.scheme(), self.host, self.port)
    }
}

/// Credentials of the gateway at its parents.
#[derive(Clone, PartialEq, Eq)]
pub struct ParentLogin {
    /// Name of the user.
    pub user: String,
    /// Its password.
    pub password: String,
}

impl fmt::Debug for ParentLogin {
    /// Leaves the password out.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("ParentLogin").field("user", &self.user).finish_non_exhaustive()
    }
}

/// All parents of a configuration.
#[derive(Default)]
pub(super) struct Parents {
    rules: Vec<ParentRule>,
}

/// Parents of one section, and the requests that go through them.
pub(super) struct ParentRule {
    settings: Settings,
    proxies: Vec<Arc<ParentProxy>>,
}

/// One parent.
pub(super) struct ParentProxy {
    url: ParentUrl,
    /// URL as text, without credentials.
    name: Arc<str>,
    login: Option<ParentLogin>,
    /// Value of Proxy-Authorization.
    authorization: Option<String>,
    /// Number among all parents of the configuration.
    pub(super) index: usize,
    pub(super) status: Arc<ParentStatus>,
}

impl Parents {
    /// Prepares the sections, in the order of the file.
    pub(super) fn new(settings: Vec<Settings>, metrics: &Metrics) -> Parents {
        let mut index = 0;
        let mut proxy = |url: &ParentUrl, login: &Option<ParentLogin>| {
            let name: Arc<str> = url.to_string().into();
            let basic = |login: &ParentLogin| STANDARD.encode(format!("{}:{}", login.user, login.password));
            let authorization = login.as_ref().map(|login| format!("Basic {}", basic(login)));
            index += 1;
            let status = metrics.of_parent(&name);
            let (url, login) = (url.clone(), login.clone());
            Arc::new(ParentProxy { url, name, login, authorization, index: index - 1, status })
        };
        let rule = |settings: Settings| ParentRule {
            proxies: settings.proxies.iter().map(|url| proxy(url, &settings.login)).collect(),
            settings,
        };
        Parents { rules: settings.into_iter().map(rule).collect() }
    }

    /// True without any section.
    pub(super) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Number of parents of all sections.
    pub(super) fn count(&self) -> usize {
        self.rules.iter().map(|rule| rule.proxies.len()).sum()
    }

    /// Section of a way that leads through parents.
    pub(super) fn rule(&self, way: Way) -> Option<&ParentRule> {
        match way {
            Way::Direct => None,
            Way::Tunnel(rule) | Way::Forward(rule) => self.rules.get(usize::from(rule)),
        }
    }

    /// Number of the first section that takes requests of this form to the origin.
    pub(super) fn find(&self, origin: &Origin, form: Form) -> Option<u16> {
        let found = self.rules.iter().position(|rule| rule.takes(origin, form));
        found.and_then(|at| u16::try_from(at).ok())
    }
}

impl ParentRule {
    /// True if requests of this form to the origin go through these parents.
    ///
    /// A star stands for what callers ask a proxy for: not for this machine, whose services a parent cannot reach, and not
    /// for origins of routes, which the operator has chosen. A section takes those if it names them.
    fn takes(&self, origin: &Origin, form: Form) -> bool {
        let (host, port) = (&*origin.host, origin.port);
        let is_named = |patterns: &[HostPattern], only_specific: bool| {
            patterns.iter().any(|one| (!only_specific || one.is_specific()) && one.matches(host, port))
        };
        let address = host.parse::<IpAddr>().ok().map(|address| address.to_canonical());
        let needs_name = form == Form::Route || is_this_machine(host, address);
        is_named(&self.settings.hosts, needs_name)
            && !is_named(&self.settings.except_hosts, false)
            && !address.is_some_and(|address| self.excepts(address))
    }

    /// True if an address is excepted.
    fn excepts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.settings.except_addresses.iter().any(|range| range.contains(&address))
    }

    /// Parents in the order in which a request tries them: those that are up, then the others, as a last resort. With the
    /// number of the former.
    fn candidates(&self, now: Time) -> (SmallVec<[&Arc<ParentProxy>; 4]>, usize) {
        let (mut order, mut down) = (SmallVec::new(), SmallVec::<[_; 4]>::new());
        for proxy in &self.proxies {
            if proxy.status.admits(now) { order.push(proxy) } else { down.push(proxy) }
        }
        let up = order.len();
        order.extend(down);
        (order, up)
    }

    /// Parent that requests in absolute form use now: the first that is up, or the first of all.
    pub(super) fn preferred(&self) -> Option<&Arc<ParentProxy>> {
        self.proxies.iter().find(|proxy| !proxy.status.is_down()).or(self.proxies.first())
    }
}

/// True for addresses and names of loopback (RFC 6761 §6.3).
fn is_this_machine(host: &str, address: Option<IpAddr>) -> bool {
    address.map_or_else(|| host == "localhost" || host.ends_with(".localhost"), |address| address.is_loopback())
}

impl ParentProxy {
    /// Value of Proxy-Authorization for it.
    pub(super) fn authorization(&self) -> Option<&str> {
        self.authorization.as_deref()
    }

    fn socks_login(&self) -> Option<SocksLogin<'_>> {
        self.login.as_ref().map(|login| SocksLogin { user: &login.user, password: &login.password })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::target::Scheme;

    fn parents(sections: &[(&[&str], &[&str], &[&str])]) -> Parents {
        let patterns = |list: &[&str]| list.iter().map(|text| HostPattern::parse(text).expect(text)).collect();
        let section = |(hosts, except, ranges): &(&[&str], &[&str], &[&str])| Settings {
            hosts: patterns(hosts),
            except_hosts: patterns(except),
            except_addresses: ranges.iter().map(|range| range.parse().expect(range)).collect(),
            proxies: vec![ParentUrl { kind: ParentKind::Http, host: "proxy.corp".into(), port: 3128 }],
            login: None,
        };
        Parents::new(sections.iter().map(section).collect(), &Metrics::default())
    }

    fn find(parents: &Parents, url: &str, form: Form) -> Option<u16> {
        let (scheme, authority) = url.split_once("://").expect(url);
        let scheme = if scheme == "https" { Scheme::Https } else { Scheme::Http };
        parents.find(&Origin::at(scheme, authority).expect(url), form)
    }

    #[test]
    fn the_first_section_that_takes_a_request_decides_its_way() {
        let parents = parents(&[
            (&["*"], &["*.corp.example", "direct.example:8080"], &["10.0.0.0/8", "2001:db8::/32"]),
            (&["inner.corp.example"], &[], &[]),
        ]);
        for (url, wanted) in [
            ("http://a.example", Some(0)),
            ("https://a.example", Some(0)),
            ("http://direct.example", Some(0)),
            ("http://direct.example:8080", None),
            ("https://x.corp.example", None),
            ("https://inner.corp.example", Some(1)),
            ("http://10.1.2.3", None),
            ("http://[::ffff:10.1.2.3]", None),
            ("http://[2001:db8::1]", None),
            ("http://11.1.2.3", Some(0)),
        ] {
            assert_eq!(find(&parents, url, Form::Absolute), wanted, "{url}");
        }
        assert_eq!(find(&parents, "http://a.example:443", Form::Authority), Some(0));
    }

    #[test]
    fn a_star_stands_neither_for_this_machine_nor_for_origins_of_routes() {
        let star = parents(&[(&["*"], &[], &[])]);
        for url in ["http://localhost:1", "http://a.localhost", "http://127.0.0.1:1", "http://[::1]"] {
            assert_eq!(find(&star, url, Form::Absolute), None, "{url}");
        }
        assert_eq!(find(&star, "http://a.example", Form::Route), None);
        let named = parents(&[(&["127.0.0.1", "*.example"], &[], &[])]);
        assert_eq!(find(&named, "http://127.0.0.1:1", Form::Absolute), Some(0));
        assert_eq!(find(&named, "http://a.example", Form::Route), Some(0));
    }

    #[test]
    fn no_text_about_a_parent_holds_its_password() {
        let login = ParentLogin { user: "ana".into(), password: "secret".into() };
        assert!(!format!("{login:?}").contains("secret"));
        let url = ParentUrl { kind: ParentKind::Https, host: "2001:db8::1".into(), port: 1 };
        assert_eq!(url.to_string(), "https://[2001:db8::1]:1");
    }
}
