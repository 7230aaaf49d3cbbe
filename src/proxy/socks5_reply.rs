//! Reply of SOCKS5 for each refusal.

use super::refusal::Refusal;
use crate::wire::socks5_server::Reply;

impl From<&Refusal> for Reply {
    /// SOCKS5 has five codes for all: rules, unreachable, refused, and one for the rest, limits included.
    fn from(refusal: &Refusal) -> Reply {
        match refusal.error() {
            "http_request_denied" | "destination_ip_prohibited" => Reply::NotAllowed,
            "connection_refused" => Reply::ConnectionRefused,
            "destination_ip_unroutable" | "dns_error" | "dns_timeout" | "connection_timeout" => Reply::HostUnreachable,
            _ => Reply::GeneralFailure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_has_the_reply_that_clients_understand() {
        for (refusal, wanted) in [
            (Refusal::Denied("why"), Reply::NotAllowed),
            (Refusal::Unauthorized, Reply::NotAllowed),
            (Refusal::AddressDenied, Reply::NotAllowed),
            (Refusal::ConnectionRefused, Reply::ConnectionRefused),
            (Refusal::Unreachable, Reply::HostUnreachable),
            (Refusal::DnsError, Reply::HostUnreachable),
            (Refusal::ConnectTimeout, Reply::HostUnreachable),
            (Refusal::Exhausted, Reply::GeneralFailure),
            (Refusal::Loop, Reply::GeneralFailure),
        ] {
            assert_eq!(Reply::from(&refusal), wanted, "{refusal:?}");
        }
    }
}
