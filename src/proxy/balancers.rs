//! Balancers in front of the gateway: the addresses that are trusted to tell the caller's, by the
//! PROXY protocol or in a field of the request.
//!
//! ```text
//! [listen]
//! proxy_protocol_from = ["10.0.0.0/24"]
//! forwarded_from      = ["10.0.1.0/24"]
//! forwarded_field     = "x-forwarded-for"
//! ```
//!
//! A PROXY header is about a connection, and known before its first request: the address in it
//! counts everywhere, as if the connection had come from there. A field is content of one request:
//! its address is the caller of limits, turns and logs, and decides neither whether a connection is
//! served nor how many there may be.

use std::net::IpAddr;

use ipnet::IpNet;

use super::forwarded::{self, ForwardedGrammar};
use super::refusal::Refusal;
use crate::wire::proxy_header::begins_proxy_header;
use crate::wire::{Name, RequestHead};

/// Field with addresses that nearly all balancers write.
const X_FORWARDED_FOR: &str = "x-forwarded-for";
/// Field of RFC 7239.
const FORWARDED: &str = "forwarded";

/// The keys of `[listen]` about balancers.
#[derive(Clone, PartialEq, Debug)]
pub struct Settings {
    /// Peers whose connections begin with a PROXY header.
    pub proxy_protocol_from: Vec<IpNet>,
    /// Proxies that write `forwarded_field`.
    pub forwarded_from: Vec<IpNet>,
    /// Field that they write, in lower case.
    ///
    /// One alone: a balancer passes on what its clients have sent in other fields.
    pub forwarded_field: String,
}

impl Default for Settings {
    /// No balancers.
    fn default() -> Settings {
        Settings {
            proxy_protocol_from: Vec::new(),
            forwarded_from: Vec::new(),
            forwarded_field: X_FORWARDED_FOR.to_owned(),
        }
    }
}

/// Caller of one request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct RequestCaller {
    /// Its address.
    pub(super) address: IpAddr,
    /// Reason for which it is that of the connection although a balancer is listed; a note for the
    /// access log.
    pub(super) note: Option<&'static str>,
}

impl Settings {
    /// True if connections from this address begin with a PROXY header.
    pub(super) fn sends_proxy_header(&self, peer: IpAddr) -> bool {
        contains(&self.proxy_protocol_from, peer)
    }

    /// Caller of a request on a connection from `peer`.
    pub(super) fn caller(&self, peer: IpAddr, head: &RequestHead) -> RequestCaller {
        if !contains(&self.forwarded_from, peer) {
            return RequestCaller { address: peer, note: None };
        }
        let is_it = |field: &[u8]| field.eq_ignore_ascii_case(self.forwarded_field.as_bytes());
        let lines = head.fields().rev().filter(|(_, field, _)| is_it(field)).map(|(_, _, value)| value);
        let is_standard = self.forwarded_field == FORWARDED;
        let grammar = if is_standard { ForwardedGrammar::Forwarded } else { ForwardedGrammar::Addresses };
        match forwarded::caller(grammar, lines, peer, |address| contains(&self.forwarded_from, address)) {
            Ok(address) => RequestCaller { address, note: self.missing(head) },
            Err(_) => RequestCaller { address: peer, note: Some("forwarded_malformed") },
        }
    }

    /// Note on a request that lacks the field, and has the other one that balancers write.
    fn missing(&self, head: &RequestHead) -> Option<&'static str> {
        let has = |field: &str| match field {
            FORWARDED => head.get(Name::Forwarded).is_some(),
            _ => head.find(field).is_some(),
        };
        let has_other = || [FORWARDED, X_FORWARDED_FOR].into_iter().any(has);
        (!has(&self.forwarded_field) && has_other()).then_some("forwarded_in_other_field")
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

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(field: &str) -> Settings {
        let ranges = ["10.0.0.0/8", "2001:db8::/32"].map(|range| range.parse().unwrap());
        Settings { forwarded_from: ranges.to_vec(), forwarded_field: field.to_owned(), ..Settings::default() }
    }

    fn caller(settings: &Settings, peer: &str, fields: &str) -> (String, Option<&'static str>) {
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let head = RequestHead::parse_for_test(head.as_bytes());
        let found = settings.caller(peer.parse().unwrap(), &head);
        (found.address.to_string(), found.note)
    }

    #[test]
    fn the_field_of_a_listed_address_tells_the_caller_and_no_other_does() {
        let both = "X-Forwarded-For: 192.0.2.1\r\nForwarded: for=192.0.2.2\r\nCF-Connecting-IP: 192.0.2.3\r\n";
        for (field, wanted) in
            [("x-forwarded-for", "192.0.2.1"), ("forwarded", "192.0.2.2"), ("cf-connecting-ip", "192.0.2.3")]
        {
            for peer in ["10.1.2.3", "::ffff:10.1.2.3", "2001:db8::1"] {
                assert_eq!(caller(&settings(field), peer, both), (wanted.to_owned(), None), "{field} {peer}");
            }
            assert_eq!(caller(&settings(field), "11.0.0.1", both), ("11.0.0.1".to_owned(), None));
            assert_eq!(caller(&Settings::default(), "10.1.2.3", both), ("10.1.2.3".to_owned(), None));
        }
    }

    #[test]
    fn lines_of_one_field_are_one_list_in_any_letter_case() {
        let lines = "x-forwarded-FOR: 192.0.2.1\r\nX-Other: 1\r\nX-Forwarded-For: 10.0.0.9\r\n";
        assert_eq!(caller(&settings("x-forwarded-for"), "10.1.2.3", lines).0, "192.0.2.1");
    }

    #[test]
    fn a_field_that_cannot_be_used_leaves_the_address_of_the_connection_with_a_note() {
        let with = |fields: &str| caller(&settings("x-forwarded-for"), "10.1.2.3", fields);
        let own = |note| ("10.1.2.3".to_owned(), note);
        assert_eq!(with("X-Forwarded-For: 192.0.2.1, x\r\n"), own(Some("forwarded_malformed")));
        assert_eq!(with("Forwarded: for=192.0.2.1\r\n"), own(Some("forwarded_in_other_field")));
        assert_eq!(with(""), own(None));
        let standard = caller(&settings("forwarded"), "10.1.2.3", "X-Forwarded-For: 192.0.2.1\r\n");
        assert_eq!(standard, own(Some("forwarded_in_other_field")));
    }
}
