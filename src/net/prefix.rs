//! Address prefixes: the block of addresses that counts as one caller.

use std::net::IpAddr;

use ipnet::IpNet;

/// How many leading bits of IPv6 addresses tell callers apart, 1 to 128.
///
/// One holder of IPv6 addresses has 2^64 of them at least, and may send from any (RFC 4291 §2.5.1, RFC 6177). IPv4
/// addresses are told apart by all their bits, also those that are written as IPv6.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ipv6Prefix(pub u8);

impl Default for Ipv6Prefix {
    fn default() -> Ipv6Prefix {
        Ipv6Prefix(64)
    }
}

impl Ipv6Prefix {
    /// The block that an address belongs to; an IPv4 address is a block of its own, and so is `::1`.
    pub fn block(self, address: IpAddr) -> IpNet {
        let address = address.to_canonical();
        if address.is_ipv4() || address.is_loopback() {
            return address.into();
        }
        IpNet::new(address, self.0).unwrap_or_else(|_| address.into()).trunc()
    }
}

/// A block as people write it: a single address without its length.
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
