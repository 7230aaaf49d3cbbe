//! Balancers in front of the gateway: the addresses that are trusted to tell the caller's, by the
//! PROXY protocol.
//!
//! ```text
//! [listen]
//! proxy_protocol_from = ["10.0.0.0/24"]
//! ```
//!
//! A PROXY header is about a connection, and known before its first request: the address in it
//! counts everywhere, as if the connection had come from there.

use std::net::IpAddr;

use ipnet::IpNet;

use super::refusal::Refusal;
use crate::wire::proxy_header::begins_proxy_header;

/// The keys of `[listen]` about balancers.
#[derive(Clone, PartialEq, Default, Debug)]
pub struct Settings {
    /// Peers whose connections begin with a PROXY header.
    pub proxy_protocol_from: Vec<IpNet>,
}

impl Settings {
    /// True if connections from this address begin with a PROXY header.
    pub(super) fn sends_proxy_header(&self, peer: IpAddr) -> bool {
        contains(&self.proxy_protocol_from, peer)
    }
}

/// Refusal of bytes that are not what they should be: one that says why if they are a PROXY header of
/// an address that is not listed, else `otherwise`.
pub(super) fn refuse_bytes(bytes: &[u8], otherwise: Refusal) -> Refusal {
    let why = "it begins with a PROXY header, and [listen] proxy_protocol_from does not list your address";
    if begins_proxy_header(bytes) { Refusal::Malformed(why) } else { otherwise }
}

/// True if one of the ranges contains the address, in whichever family it is written.
fn contains(ranges: &[IpNet], address: IpAddr) -> bool {
    !ranges.is_empty() && {
        let address = address.to_canonical();
        ranges.iter().any(|range| range.contains(&address))
    }
}
