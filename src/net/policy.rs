//! Which addresses may be dialled: judged on what a name resolved to, never on the name.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

use super::address::{Forms, is_special};

/// What must not be dialled.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Ranges that are never dialled.
    pub deny: Vec<IpNet>,
    /// Whether loopback, private, link-local, unspecified, multicast and other special addresses are denied to those
    /// whose reach is public.
    pub deny_private: bool,
    /// Our own listening addresses: dialling one is a loop. An unspecified listener (`0.0.0.0`, `[::]`) means every
    /// address of this machine on that port.
    pub own: Vec<SocketAddr>,
}

/// Which addresses a request may lead to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Reach {
    /// Those of public servers; all others too where the gateway serves its own machine only.
    Public,
    /// Those of private networks and of this machine too: the operator has named the host.
    Private,
}

/// What may be done with an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ruling {
    Allowed,
    Denied,
    /// It is one of our own listeners.
    Ours,
}

impl Settings {
    /// `is_local`: whether an address is one of this machine's.
    pub(super) fn rule_on(&self, address: SocketAddr, reach: Reach, is_local: impl Fn(IpAddr) -> bool) -> Ruling {
        if self.is_ours(address, is_local) {
            return Ruling::Ours;
        }
        let forms = Forms::of(address.ip());
        let denied =
            forms.iter().chain([reached(address.ip())]).any(|form| self.deny.iter().any(|range| range.contains(&form)));
        let private = self.deny_private && reach == Reach::Public && forms.iter().any(is_special);
        if denied || private { Ruling::Denied } else { Ruling::Allowed }
    }

    fn is_ours(&self, address: SocketAddr, is_local: impl Fn(IpAddr) -> bool) -> bool {
        let there = reached(address.ip());
        self.own.iter().filter(|own| own.port() == address.port()).any(|own| {
            let own = own.ip().to_canonical();
            own == there || (own.is_unspecified() && (there.is_loopback() || is_local(there)))
        })
    }
}

/// Where dialling an address leads: on Linux the unspecified address reaches loopback.
fn reached(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => IpAddr::V4(if ip.is_unspecified() { Ipv4Addr::LOCALHOST } else { ip }),
        IpAddr::V6(ip) => IpAddr::V6(if ip.is_unspecified() { Ipv6Addr::LOCALHOST } else { ip }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(deny: &[&str], own: &[&str]) -> Settings {
        Settings {
            deny: deny.iter().map(|range| range.parse().unwrap()).collect(),
            deny_private: true,
            own: own.iter().map(|addr| addr.parse().unwrap()).collect(),
        }
    }

    fn rule(settings: &Settings, address: &str, reach: Reach) -> Ruling {
        let address = SocketAddr::new(address.parse().unwrap(), 80);
        settings.rule_on(address, reach, |_| false)
    }

    const SPECIAL: &str = "0.0.0.0 0.1.2.3 10.0.0.1 100.64.0.1 100.127.255.255 127.0.0.1 127.9.9.9 169.254.169.254 172.16.0.1 \
        172.31.255.255 192.0.0.1 192.0.2.1 192.168.1.1 198.18.0.1 198.19.255.255 198.51.100.7 203.0.113.9 224.0.0.1 \
        239.255.255.255 240.0.0.1 255.255.255.255 :: ::1 fc00::1 fdff::1 fe80::1 febf::1 fec0::1 ff02::1 2001:db8::1 \
        3fff::1 100::1 2001::1 64:ff9b:1::1 \
        ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 64:ff9b::10.0.0.1 64:ff9b::127.0.0.1 2002:0a00:1::1 \
        2002:7f00:1::1 2002:c0a8:101::5 ::10.0.0.1 ::127.0.0.1";
    const PUBLIC: &str = "1.1.1.1 9.255.255.255 11.0.0.1 100.63.255.255 100.128.0.1 126.255.255.255 128.0.0.1 169.253.1.1 \
        172.15.255.255 172.32.0.1 192.0.1.1 192.167.1.1 192.169.1.1 198.17.255.255 198.20.0.1 223.255.255.255 \
        2606:4700::1111 2a00:1450::1 ::ffff:1.1.1.1 64:ff9b::1.1.1.1 2002:0101:0101::1";

    #[test]
    fn special_addresses_are_denied_to_hosts_that_nobody_named() {
        let settings = settings(&[], &[]);
        for address in SPECIAL.split_whitespace() {
            assert_eq!(rule(&settings, address, Reach::Public), Ruling::Denied, "{address}");
            assert_eq!(rule(&settings, address, Reach::Private), Ruling::Allowed, "{address}, though named");
        }
        for address in PUBLIC.split_whitespace() {
            assert_eq!(rule(&settings, address, Reach::Public), Ruling::Allowed, "{address}");
        }
    }

    #[test]
    fn special_addresses_are_allowed_where_the_gateway_serves_its_own_machine_only() {
        let settings = Settings { deny_private: false, ..settings(&[], &[]) };
        for address in SPECIAL.split_whitespace() {
            assert_eq!(rule(&settings, address, Reach::Public), Ruling::Allowed, "{address}");
        }
    }

    #[test]
    fn a_denied_range_holds_for_named_hosts_and_in_every_form_of_the_address() {
        let settings = settings(&["169.254.0.0/16", "fe80::/10", "8.8.8.0/24", "::ffff:9.9.9.0/120"], &[]);
        let denied = "169.254.169.254 ::ffff:169.254.169.254 64:ff9b::a9fe:a9fe 2002:a9fe:a9fe::1 ::169.254.169.254 fe80::1 8.8.8.8 \
            2002:0808:0808::1 9.9.9.9 ::ffff:9.9.9.9";
        for address in denied.split_whitespace() {
            assert_eq!(rule(&settings, address, Reach::Private), Ruling::Denied, "{address}");
        }
        for address in ["169.253.0.1", "8.8.4.4", "9.9.8.1", "10.0.0.1"] {
            assert_eq!(rule(&settings, address, Reach::Private), Ruling::Allowed, "{address}");
        }
    }

    #[test]
    fn our_own_listener_is_known_in_every_form_of_its_address() {
        let settings = settings(&[], &["127.0.0.1:8080", "192.0.2.1:80"]);
        let ruling = |address: &str| settings.rule_on(address.parse().unwrap(), Reach::Private, |_| false);
        for ours in ["127.0.0.1:8080", "[::ffff:127.0.0.1]:8080", "0.0.0.0:8080", "192.0.2.1:80"] {
            assert_eq!(ruling(ours), Ruling::Ours, "{ours}");
        }
        for other in ["127.0.0.1:8081", "127.0.0.2:8080", "[::1]:8080", "192.0.2.2:80", "192.0.2.1:8080"] {
            assert_eq!(ruling(other), Ruling::Allowed, "{other}");
        }
    }

    #[test]
    fn an_unspecified_listener_is_every_address_of_this_machine() {
        let settings = settings(&[], &["0.0.0.0:8080"]);
        let machine: IpAddr = "192.0.2.1".parse().unwrap();
        let ruling = |address: &str| settings.rule_on(address.parse().unwrap(), Reach::Private, |ip| ip == machine);
        for ours in [
            "192.0.2.1:8080",
            "127.0.0.1:8080",
            "127.1.2.3:8080",
            "0.0.0.0:8080",
            "[::1]:8080",
            "[::ffff:192.0.2.1]:8080",
        ] {
            assert_eq!(ruling(ours), Ruling::Ours, "{ours}");
        }
        for other in ["192.0.2.1:80", "192.0.2.2:8080"] {
            assert_eq!(ruling(other), Ruling::Allowed, "{other}");
        }
    }
}
