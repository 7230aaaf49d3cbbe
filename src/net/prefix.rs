//! IPv6 prefixes: the block of addresses that counts as one caller.

use std::net::IpAddr;

use ipnet::IpNet;

/// Number of leading bits of an IPv6 address that identify a caller, 1 to 128; 64 by default.
///
/// A site has at least 2^64 IPv6 addresses, and may send from any of them (RFC 4291 §2.5.1, RFC 6177). IPv4 addresses
/// identify a caller by all their bits, also in IPv4-mapped form.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ipv6Prefix(pub u8);

impl Default for Ipv6Prefix {
    fn default() -> Ipv6Prefix {
        Ipv6Prefix(64)
    }
}

impl Ipv6Prefix {
    /// Block of an address; an IPv4 address and `::1` are blocks of their own.
    ///
    /// With 64 bits: `2001:db8::1` lies in `2001:db8::/64`, and `::ffff:192.0.2.1` is
    /// `192.0.2.1/32`. A prefix length above 128 makes each address a block of its own.
    pub fn block(self, address: IpAddr) -> IpNet {
        let address = address.to_canonical();
        if address.is_ipv4() || address.is_loopback() {
            return address.into();
        }
        IpNet::new(address, self.0).unwrap_or_else(|_| address.into()).trunc()
    }
}

/// Text of a block in CIDR notation; a single address is written without its prefix length.
///
/// `192.0.2.1` and `2001:db8::/64`.
pub fn display_block(block: IpNet) -> String {
    if block.prefix_len() == block.max_prefix_len() { block.addr().to_string() } else { block.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(address: &str, prefix: u8) -> String {
        display_block(Ipv6Prefix(prefix).block(address.parse().expect("an address")))
    }

    #[test]
    fn a_block_is_what_one_holder_of_addresses_has() {
        assert_eq!(block("2001:db8:1:2:3:4:5:6", 64), "2001:db8:1:2::/64");
        assert_eq!(block("2001:db8:1:2:3:4:5:6", 48), "2001:db8:1::/48");
        assert_eq!(block("2001:db8::1", 128), "2001:db8::1");
        assert_eq!(block("::1", 64), "::1");
        assert_eq!(block("fe80::1", 1), "8000::/1");
    }

    #[test]
    fn ipv4_addresses_are_blocks_of_their_own_however_they_are_written() {
        assert_eq!(block("192.0.2.1", 64), "192.0.2.1");
        assert_eq!(block("::ffff:192.0.2.1", 1), "192.0.2.1");
    }
}
