//! Dial policy: allows or denies an address. It judges the addresses that a name resolved to, never
//! the name.
//!
//! The verdict is made for each address at the time of dialling, so a name that resolves to another
//! address a moment later (DNS rebinding) gains nothing. Order of the rules: own listeners, `deny`,
//! an address or range that is written out, private ranges and metadata services, all the rest.
//!
//! | address | reach | verdict with `deny_private` |
//! |---|---|---|
//! | `127.0.0.1` | `Public` | denied, unless `allow` has it |
//! | `10.1.2.3` | `Private` | allowed |
//! | `169.254.169.254` | `Private` | denied, unless `allow` has this single address |
//! | `169.254.169.254` | `Address` | allowed |

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

use super::address::{AddressForms, is_metadata, is_special};

/// The dial policy, from `[access]` and the listeners.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Ranges that are never dialled.
    pub deny: Vec<IpNet>,
    /// Ranges that may be dialled whatever the reach is, unless `deny` contains them. A metadata
    /// service is allowed only by a range of a single address.
    pub allow: Vec<IpNet>,
    /// True if loopback, private, link-local, unspecified, multicast and other special-purpose
    /// addresses are denied to requests with [`Reach::Public`].
    pub deny_private: bool,
    /// Addresses of the gateway's own listeners: dialling one is a loop. An unspecified address
    /// (`0.0.0.0`, `[::]`) means every address of this machine with that port.
    pub own: Vec<SocketAddr>,
}

/// Addresses that a request may be sent to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Reach {
    /// Addresses of public servers; all addresses if the gateway serves its own machine only
    /// ([`Settings::deny_private`]).
    Public,
    /// Also addresses of private networks and of this machine, without metadata services: the
    /// configuration names the host.
    Private,
    /// Any address: the configuration contains the address itself.
    Address,
    /// Any address, `deny` or not: a server of the gateway's own choice, such as a parent proxy, which no caller names.
    Configured,
}

/// Verdict of the dial policy on an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum DialVerdict {
    /// The address may be dialled.
    Allowed,
    /// The address is in `deny`, special-purpose, or a metadata service.
    Denied,
    /// The address is one of the gateway's own listeners.
    OwnListener,
}

impl Settings {
    /// Judges an address. `is_local`: true for the addresses of this machine.
    pub(super) fn verdict(&self, address: SocketAddr, reach: Reach, is_local: impl Fn(IpAddr) -> bool) -> DialVerdict {
        if self.is_own_listener(address, is_local) {
            return DialVerdict::OwnListener;
        }
        if reach == Reach::Configured {
            return DialVerdict::Allowed;
        }
        let forms = AddressForms::of(address.ip());
        let denied = forms
            .iter()
            .chain([effective_ip(address.ip())])
            .any(|form| self.deny.iter().any(|range| range.contains(&form)));
        if denied {
            return DialVerdict::Denied;
        }
        let written =
            reach == Reach::Address || self.allows(address.ip(), |range| range.prefix_len() == range.max_prefix_len());
        if written {
            return DialVerdict::Allowed;
        }
        let private = self.deny_private && reach == Reach::Public && forms.iter().any(is_special);
        let metadata = forms.iter().any(is_metadata);
        if metadata || (private && !self.allows(address.ip(), |_| true)) {
            DialVerdict::Denied
        } else {
            DialVerdict::Allowed
        }
    }

    /// True if one of the ranges for which `counts` holds allows the address. An embedded IPv4
    /// address does not count, but for IPv4-mapped addresses, which are the same address.
    fn allows(&self, ip: IpAddr, counts: impl Fn(&IpNet) -> bool) -> bool {
        let ip = ip.to_canonical();
        self.allow.iter().any(|range| range.contains(&ip) && counts(range))
    }

    /// True if dialling the address would reach a listener of the gateway; a listener on all addresses counts for loopback
    /// addresses alone.
    pub fn is_own(&self, address: SocketAddr) -> bool {
        self.is_own_listener(address, |_| false)
    }

    /// True if dialling the address would reach a listener of the gateway.
    fn is_own_listener(&self, address: SocketAddr, is_local: impl Fn(IpAddr) -> bool) -> bool {
        let there = effective_ip(address.ip());
        self.own.iter().filter(|own| own.port() == address.port()).any(|own| {
            let own = own.ip().to_canonical();
            own == there || (own.is_unspecified() && (there.is_loopback() || is_local(there)))
        })
    }
}

/// The address that dialling `ip` reaches: on Linux the unspecified address leads to loopback.
fn effective_ip(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => IpAddr::V4(if ip.is_unspecified() { Ipv4Addr::LOCALHOST } else { ip }),
        IpAddr::V6(ip) => IpAddr::V6(if ip.is_unspecified() { Ipv6Addr::LOCALHOST } else { ip }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(list: &[&str]) -> Vec<IpNet> {
        let read = |text: &&str| text.parse().unwrap_or_else(|_| text.parse::<IpAddr>().unwrap().into());
        list.iter().map(read).collect()
    }

    fn settings(deny: &[&str], own: &[&str]) -> Settings {
        Settings {
            deny: ranges(deny),
            allow: Vec::new(),
            deny_private: true,
            own: own.iter().map(|addr| addr.parse().unwrap()).collect(),
        }
    }

    fn rule(settings: &Settings, address: &str, reach: Reach) -> DialVerdict {
        let address = SocketAddr::new(address.parse().unwrap(), 80);
        settings.verdict(address, reach, |_| false)
    }

    const SPECIAL: &str = "0.0.0.0 0.1.2.3 10.0.0.1 100.64.0.1 100.127.255.255 127.0.0.1 127.9.9.9 172.16.0.1 \
        172.31.255.255 192.0.0.1 192.0.2.1 192.168.1.1 198.18.0.1 198.19.255.255 198.51.100.7 203.0.113.9 224.0.0.1 \
        239.255.255.255 240.0.0.1 255.255.255.255 :: ::1 fc00::1 fdff::1 fec0::1 ff02::1 2001:db8::1 \
        3fff::1 100::1 2001::1 64:ff9b:1::1 \
        ::ffff:127.0.0.1 ::ffff:10.0.0.1 64:ff9b::10.0.0.1 64:ff9b::127.0.0.1 2002:0a00:1::1 \
        2002:7f00:1::1 2002:c0a8:101::5 ::10.0.0.1 ::127.0.0.1 ::ffff:0:10.0.0.1 2606:4700::5efe:10.0.0.1 2606:4700::200:5efe:127.0.0.1";
    const METADATA: &str = "169.254.169.254 169.254.170.2 169.254.0.1 fe80::1 febf::1 168.63.129.16 100.100.100.200 192.0.0.192 \
        fd00:ec2::254 fd00:ec2::23 fd20:ce::254 fd00:c1::a9fe:a9fe fd00:42::42 fd00:a9fe:a9fe::1 fd00:100::100:200 \
        ::ffff:169.254.169.254 ::ffff:0:169.254.169.254 64:ff9b::168.63.129.16 64:ff9b:1::169.254.169.254 \
        64:ff9b:1:a9fe:a9:fe00:: 64:ff9b:1:a8:3f:8110:: 64:ff9b:1:7:64:6464:c800:: 2002:a9fe:a9fe::1 2001::5601:5601 \
        ::169.254.169.254 2606:4700::5efe:169.254.169.254 fd00::200:5efe:100.100.100.200";
    const PUBLIC: &str = "1.1.1.1 9.255.255.255 11.0.0.1 100.63.255.255 100.128.0.1 126.255.255.255 128.0.0.1 169.253.1.1 \
        172.15.255.255 172.32.0.1 192.0.1.1 192.167.1.1 192.169.1.1 198.17.255.255 198.20.0.1 223.255.255.255 168.63.129.17 \
        2606:4700::1111 2a00:1450::1 ::ffff:1.1.1.1 64:ff9b::1.1.1.1 2002:0101:0101::1 2606:4700::5efe:1.1.1.1 \
        2606:4700::1:5efe:10.0.0.1";

    #[test]
    fn special_addresses_are_denied_to_hosts_that_nobody_named() {
        let settings = settings(&[], &[]);
        for address in SPECIAL.split_whitespace() {
            assert_eq!(rule(&settings, address, Reach::Public), DialVerdict::Denied, "{address}");
            assert_eq!(rule(&settings, address, Reach::Private), DialVerdict::Allowed, "{address}, though named");
        }
        for address in PUBLIC.split_whitespace() {
            assert_eq!(rule(&settings, address, Reach::Public), DialVerdict::Allowed, "{address}");
        }
    }

    #[test]
    fn special_addresses_are_allowed_where_the_gateway_serves_its_own_machine_only() {
        let settings = Settings { deny_private: false, ..settings(&[], &[]) };
        for address in SPECIAL.split_whitespace() {
            assert_eq!(rule(&settings, address, Reach::Public), DialVerdict::Allowed, "{address}");
        }
    }

    #[test]
    fn a_metadata_service_is_denied_unless_its_own_address_is_written() {
        for deny_private in [true, false] {
            let settings = Settings { deny_private, allow: ranges(&["0.0.0.0/0", "::/0"]), ..settings(&[], &[]) };
            for address in METADATA.split_whitespace() {
                assert_eq!(rule(&settings, address, Reach::Public), DialVerdict::Denied, "{address}");
                assert_eq!(rule(&settings, address, Reach::Private), DialVerdict::Denied, "{address}, though named");
                assert_eq!(rule(&settings, address, Reach::Address), DialVerdict::Allowed, "{address}");
            }
        }
        let settings = Settings { allow: ranges(&["169.254.169.254", "fd00:ec2::254"]), ..settings(&[], &[]) };
        for address in ["169.254.169.254", "::ffff:169.254.169.254", "fd00:ec2::254"] {
            assert_eq!(rule(&settings, address, Reach::Public), DialVerdict::Allowed, "{address}");
        }
        for address in ["169.254.169.253", "64:ff9b::169.254.169.254", "fd00:ec2::23"] {
            assert_eq!(rule(&settings, address, Reach::Private), DialVerdict::Denied, "{address}");
        }
    }

    #[test]
    fn an_allowed_range_opens_private_addresses_to_every_host() {
        let settings =
            Settings { allow: ranges(&["10.0.0.0/8", "fd00::/8", "64:ff9b::/96"]), ..settings(&["10.9.0.0/16"], &[]) };
        for address in ["10.0.0.1", "::ffff:10.0.0.1", "fd00::1", "64:ff9b::192.168.0.1"] {
            assert_eq!(rule(&settings, address, Reach::Public), DialVerdict::Allowed, "{address}");
        }
        for address in ["192.168.0.1", "::10.0.0.1", "2002:0a00:1::1", "10.9.0.1", "64:ff9b::10.9.0.1"] {
            assert_eq!(rule(&settings, address, Reach::Public), DialVerdict::Denied, "{address}");
        }
    }

    #[test]
    fn a_denied_range_holds_for_named_hosts_and_in_every_form_of_the_address() {
        let settings = settings(&["10.1.0.0/16", "8.8.8.0/24", "::ffff:9.9.9.0/120"], &[]);
        let denied = "10.1.0.1 ::ffff:10.1.0.1 64:ff9b::10.1.0.1 2002:a01:1::1 ::10.1.0.1 ::ffff:0:10.1.0.1 8.8.8.8 \
            2002:0808:0808::1 9.9.9.9 ::ffff:9.9.9.9";
        for address in denied.split_whitespace() {
            assert_eq!(rule(&settings, address, Reach::Private), DialVerdict::Denied, "{address}");
            assert_eq!(rule(&settings, address, Reach::Address), DialVerdict::Denied, "{address}");
        }
        for address in ["8.8.4.4", "9.9.8.1", "10.0.0.1"] {
            assert_eq!(rule(&settings, address, Reach::Private), DialVerdict::Allowed, "{address}");
        }
    }

    #[test]
    fn a_server_of_our_own_choice_may_have_any_address_but_ours() {
        let settings = settings(&["10.0.0.0/8"], &["127.0.0.1:8080"]);
        for address in ["10.0.0.1", "127.0.0.1", "169.254.169.254"] {
            assert_eq!(rule(&settings, address, Reach::Configured), DialVerdict::Allowed, "{address}");
        }
        let ours = settings.verdict("127.0.0.1:8080".parse().unwrap(), Reach::Configured, |_| false);
        assert_eq!(ours, DialVerdict::OwnListener);
    }

    #[test]
    fn our_own_listener_is_known_in_every_form_of_its_address() {
        let settings = settings(&[], &["127.0.0.1:8080", "192.0.2.1:80"]);
        let ruling = |address: &str| settings.verdict(address.parse().unwrap(), Reach::Private, |_| false);
        for ours in ["127.0.0.1:8080", "[::ffff:127.0.0.1]:8080", "0.0.0.0:8080", "192.0.2.1:80"] {
            assert_eq!(ruling(ours), DialVerdict::OwnListener, "{ours}");
        }
        for other in ["127.0.0.1:8081", "127.0.0.2:8080", "[::1]:8080", "192.0.2.2:80", "192.0.2.1:8080"] {
            assert_eq!(ruling(other), DialVerdict::Allowed, "{other}");
        }
    }

    #[test]
    fn an_unspecified_listener_is_every_address_of_this_machine() {
        let settings = settings(&[], &["0.0.0.0:8080"]);
        let machine: IpAddr = "192.0.2.1".parse().unwrap();
        let ruling = |address: &str| settings.verdict(address.parse().unwrap(), Reach::Private, |ip| ip == machine);
        for ours in [
            "192.0.2.1:8080",
            "127.0.0.1:8080",
            "127.1.2.3:8080",
            "0.0.0.0:8080",
            "[::1]:8080",
            "[::ffff:192.0.2.1]:8080",
        ] {
            assert_eq!(ruling(ours), DialVerdict::OwnListener, "{ours}");
        }
        for other in ["192.0.2.1:80", "192.0.2.2:8080"] {
            assert_eq!(ruling(other), DialVerdict::Allowed, "{other}");
        }
    }
}
