//! IP addresses: the IPv4 address inside an IPv6 one, and the special-purpose ranges.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

/// An address and what it stands for: an IPv6 address may carry an IPv4 address to which the network delivers.
pub(super) struct Forms {
    plain: IpAddr,
    carried: Option<Ipv4Addr>,
}

impl Forms {
    pub(super) fn of(ip: IpAddr) -> Forms {
        match ip {
            IpAddr::V4(four) => Forms { plain: ip, carried: Some(four) },
            IpAddr::V6(six) => Forms { plain: ip, carried: carried_by(six) },
        }
    }

    /// The address as it is, the IPv4 address in it, and that one as IPv4-mapped (a range may be written so).
    pub(super) fn iter(&self) -> impl Iterator<Item = IpAddr> {
        let mapped = self.carried.map(|four| IpAddr::V6(four.to_ipv6_mapped()));
        [Some(self.plain), self.carried.map(IpAddr::V4), mapped].into_iter().flatten()
    }
}

fn carried_by(six: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, g, h] = six.segments();
    match [a, b, c, d, e, f] {
        // IPv4-mapped (RFC 4291 §2.5.5.2), NAT64's well-known prefix (RFC 6052 §2.1), and IPv4-compatible
        // (RFC 4291 §2.5.5.1), of which `::` and `::1` are not part.
        [0, 0, 0, 0, 0, 0xffff] | [0x64, 0xff9b, 0, 0, 0, 0] => Some(joined(g, h)),
        [0, 0, 0, 0, 0, 0] if g != 0 => Some(joined(g, h)),
        // 6to4 (RFC 3056 §2).
        [0x2002, high, low, ..] => Some(joined(high, low)),
        _ => None,
    }
}

fn joined(high: u16, low: u16) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low))
}

/// Whether an address is none of a public server's (IANA's special-purpose address registries, and multicast).
pub(super) fn is_special(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(four) => SPECIAL_4.iter().any(|range| range.contains(&four)),
        // What an IPv4-mapped address stands for is judged as IPv4.
        IpAddr::V6(six) => six.to_ipv4_mapped().is_none() && SPECIAL_6.iter().any(|range| range.contains(&six)),
    }
}

const fn four(a: u8, b: u8, c: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, 0), prefix)
}

const fn six(a: u16, b: u16, c: u16, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0), prefix)
}

const SPECIAL_4: [Ipv4Net; 15] = [
    four(0, 0, 0, 8),       // "this network", unspecified
    four(10, 0, 0, 8),      // private
    four(100, 64, 0, 10),   // carrier-grade NAT
    four(127, 0, 0, 8),     // loopback
    four(169, 254, 0, 16),  // link-local, where clouds keep their metadata
    four(172, 16, 0, 12),   // private
    four(192, 0, 0, 24),    // protocol assignments
    four(192, 0, 2, 24),    // documentation
    four(192, 88, 99, 24),  // 6to4 relays, withdrawn
    four(192, 168, 0, 16),  // private
    four(198, 18, 0, 15),   // benchmarks
    four(198, 51, 100, 24), // documentation
    four(203, 0, 113, 24),  // documentation
    four(224, 0, 0, 4),     // multicast
    four(240, 0, 0, 4),     // reserved, broadcast
];

const SPECIAL_6: [Ipv6Net; 11] = [
    six(0, 0, 0, 96),          // unspecified, loopback, IPv4-compatible
    six(0x64, 0xff9b, 1, 48),  // NAT64 within one network
    six(0x100, 0, 0, 64),      // discarded
    six(0x2001, 0, 0, 32),     // Teredo, which hides an IPv4 address
    six(0x2001, 0xdb8, 0, 32), // documentation
    six(0x3fff, 0, 0, 20),     // documentation
    six(0x5f00, 0, 0, 16),     // segment identifiers
    six(0xfc00, 0, 0, 7),      // unique local
    six(0xfe80, 0, 0, 10),     // link-local
    six(0xfec0, 0, 0, 10),     // site-local, withdrawn
    six(0xff00, 0, 0, 8),      // multicast
];
