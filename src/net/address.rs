//! IP address ranges: IPv4 addresses embedded in IPv6 ones, special-purpose ranges, metadata
//! services of clouds.
//!
//! A deny list that looks only at the address as written is easily passed by: `::ffff:127.0.0.1`
//! and `64:ff9b::7f00:1` both lead to 127.0.0.1 in some network. So each address is judged in all
//! of its forms ([`AddressForms`]).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use smallvec::SmallVec;

/// An address in all its forms: an IPv6 address may embed an IPv4 address to which the network
/// delivers.
pub(super) struct AddressForms {
    /// The address as given.
    plain: IpAddr,
    /// Every IPv4 address that the network may deliver to; an IPv4 address itself.
    embedded: SmallVec<[Ipv4Addr; 4]>,
}

impl AddressForms {
    /// All forms of `ip`.
    pub(super) fn of(ip: IpAddr) -> AddressForms {
        match ip {
            IpAddr::V4(four) => AddressForms { plain: ip, embedded: [four].into_iter().collect() },
            IpAddr::V6(six) => AddressForms { plain: ip, embedded: embedded_ipv4(six) },
        }
    }

    /// The address itself, each embedded IPv4 address, and these as IPv4-mapped addresses (a range
    /// may be written so).
    pub(super) fn iter(&self) -> impl Iterator<Item = IpAddr> {
        let embedded = self.embedded.iter().flat_map(|four| [IpAddr::V4(*four), IpAddr::V6(four.to_ipv6_mapped())]);
        std::iter::once(self.plain).chain(embedded)
    }
}

/// Every IPv4 address that the network may deliver to for an IPv6 address. More than one only if
/// the address does not tell the length of its prefix.
fn embedded_ipv4(six: Ipv6Addr) -> SmallVec<[Ipv4Addr; 4]> {
    let mut found = SmallVec::new();
    match six.segments() {
        // IPv4-mapped (RFC 4291 §2.5.5.2), IPv4-translated (SIIT, RFC 2765 §2.1) and NAT64's well-known prefix (RFC 6052
        // §2.1).
        [0, 0, 0, 0, 0, 0xffff, g, h] | [0, 0, 0, 0, 0xffff, 0, g, h] | [0x64, 0xff9b, 0, 0, 0, 0, g, h] => {
            found.push(joined(g, h));
        }
        // IPv4-compatible (RFC 4291 §2.5.5.1), of which `::` and `::1` are not part.
        [0, 0, 0, 0, 0, 0, g, h] if g != 0 => found.push(joined(g, h)),
        // 6to4 (RFC 3056 §2).
        [0x2002, b, c, ..] => found.push(joined(b, c)),
        // Teredo: the client's address, inverted (RFC 4380 §4).
        [0x2001, 0, _, _, _, _, g, h] => found.push(joined(!g, !h)),
        // NAT64 within one network (RFC 8215), with a prefix of 48, 56, 64 or 96 bits. The shorter ones leave out the
        // octet in the middle (RFC 6052 §2.2).
        [0x64, 0xff9b, 1, d, e, f, g, h] => {
            let in_the_middle = u64::from(d) << 40 | u64::from(e & 0xff) << 32 | u64::from(f) << 16 | u64::from(g);
            found.extend([24, 16, 8].map(|below| Ipv4Addr::from_bits((in_the_middle >> below) as u32)));
            found.push(joined(g, h));
        }
        // ISATAP, under any prefix (RFC 5214 §6.1).
        [_, _, _, _, 0 | 0x200, 0x5efe, g, h] => found.push(joined(g, h)),
        _ => {}
    }
    found
}

/// The IPv4 address in two 16-bit groups of an IPv6 address.
fn joined(high: u16, low: u16) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low))
}

/// True for addresses at which a cloud hands out credentials to its instances and their containers.
/// Link-local addresses are among them as a whole: AWS (also for ECS and EKS), Google, Azure,
/// Oracle, Alibaba, Tencent, DigitalOcean, Hetzner, Akamai, Scaleway and OpenStack have services in
/// 169.254.0.0/16, some of them in fe80::/10 too.
pub(super) fn is_metadata(ip: IpAddr) -> bool {
    METADATA.iter().any(|range| range.contains(&ip))
}

/// True for addresses that no public server has: IANA's special-purpose address registries (RFC
/// 6890), and multicast.
pub(super) fn is_special(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(four) => SPECIAL_4.iter().any(|range| range.contains(&four)),
        // An IPv4-mapped address is judged by its IPv4 form.
        IpAddr::V6(six) => six.to_ipv4_mapped().is_none() && SPECIAL_6.iter().any(|range| range.contains(&six)),
    }
}

/// IPv4 range of a prefix whose last octet is 0; a compile error if bits are set behind it.
const fn four(a: u8, b: u8, c: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, 0), prefix)
}

/// IPv6 range of a prefix within the first 48 bits, or with zeros behind them.
const fn six(a: u16, b: u16, c: u16, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0), prefix)
}

/// IPv4 special-purpose ranges (IANA IPv4 Special-Purpose Address Registry, RFC 6890), and
/// multicast (RFC 5771).
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

/// IPv6 special-purpose ranges (IANA IPv6 Special-Purpose Address Registry, RFC 6890), and
/// multicast (RFC 4291 §2.7).
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

const fn only_four(a: u8, b: u8, c: u8, d: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), 32))
}

const fn only_six(segments: [u16; 8]) -> IpNet {
    let [a, b, c, d, e, f, g, h] = segments;
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), 128))
}

/// Metadata services of clouds, each with the vendor's documentation.
const METADATA: [IpNet; 11] = [
    IpNet::V4(four(169, 254, 0, 16)),
    IpNet::V6(six(0xfe80, 0, 0, 10)),
    // Azure: WireServer, on a public address (learn.microsoft.com/azure/virtual-network/what-is-ip-address-168-63-129-16).
    only_four(168, 63, 129, 16),
    // Alibaba (alibabacloud.com/help/ecs/user-guide/view-instance-metadata), in either family.
    only_four(100, 100, 100, 200),
    only_six([0xfd00, 0x100, 0, 0, 0, 0, 0x100, 0x200]),
    // Oracle: Compute Classic, and Infrastructure over IPv6
    // (docs.oracle.com/iaas/Content/Compute/Tasks/gettingmetadata.htm).
    only_four(192, 0, 0, 192),
    only_six([0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe]),
    // AWS: instance metadata at ::254, EKS Pod Identity at ::23
    // (docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html).
    IpNet::V6(six(0xfd00, 0xec2, 0, 32)),
    // Google (cloud.google.com/compute/docs/metadata/querying-metadata).
    only_six([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254]),
    // Scaleway (cloud-init's datasource of that name).
    only_six([0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42]),
    // Akamai (techdocs.akamai.com/cloud-computing/docs/metadata-service-api).
    only_six([0xfd00, 0xa9fe, 0xa9fe, 0, 0, 0, 0, 1]),
];
