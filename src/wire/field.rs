//! The fields whose meaning a proxy must know.

use std::ops::Range;

/// What a field is; classified once, when its head is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "each is the field of that name")]
pub enum Name {
    Host,
    Connection,
    ContentLength,
    TransferEncoding,
    Te,
    Trailer,
    Upgrade,
    Expect,
    KeepAlive,
    ProxyConnection,
    ProxyAuthorization,
    ProxyAuthenticate,
    Via,
    MaxForwards,
    Date,
    RetryAfter,
    Prefer,
    Priority,
    Authorization,
    Forwarded,
    Http2Settings,
    /// Any other: passed on as it is.
    Other,
}

impl Name {
    /// Which field a name names; letter case does not matter.
    pub fn of(name: &[u8]) -> Name {
        let known: &[(&str, Name)] = match name.len() {
            2 => &[("te", Name::Te)],
            3 => &[("via", Name::Via)],
            4 => &[("host", Name::Host), ("date", Name::Date)],
            6 => &[("expect", Name::Expect), ("prefer", Name::Prefer)],
            7 => &[("upgrade", Name::Upgrade), ("trailer", Name::Trailer)],
            8 => &[("priority", Name::Priority)],
            9 => &[("forwarded", Name::Forwarded)],
            10 => &[("connection", Name::Connection), ("keep-alive", Name::KeepAlive)],
            11 => &[("retry-after", Name::RetryAfter)],
            12 => &[("max-forwards", Name::MaxForwards)],
            13 => &[("authorization", Name::Authorization)],
            14 => &[("content-length", Name::ContentLength), ("http2-settings", Name::Http2Settings)],
            16 => &[("proxy-connection", Name::ProxyConnection)],
            17 => &[("transfer-encoding", Name::TransferEncoding)],
            18 => &[("proxy-authenticate", Name::ProxyAuthenticate)],
            19 => &[("proxy-authorization", Name::ProxyAuthorization)],
            _ => &[],
        };
        known.iter().find(|(text, _)| name.eq_ignore_ascii_case(text.as_bytes())).map_or(Name::Other, |(_, name)| *name)
    }
}

/// One field of a head: what it is, and where its bytes are.
#[derive(Clone, Debug)]
pub(super) struct Field {
    pub(super) name: Name,
    pub(super) name_at: Range<u32>,
    pub(super) value_at: Range<u32>,
}

impl Field {
    pub(super) fn value<'a>(&self, head: &'a [u8]) -> &'a [u8] {
        &head[self.value_at.start as usize..self.value_at.end as usize]
    }

    pub(super) fn parts<'a>(&self, head: &'a [u8]) -> (Name, &'a [u8], &'a [u8]) {
        (self.name, &head[self.name_at.start as usize..self.name_at.end as usize], self.value(head))
    }
}

/// The members of a comma-separated list (RFC 9110 §5.6.1): trimmed, empty ones left out.
pub fn members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|member| !member.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_in_any_letter_case() {
        assert_eq!(Name::of(b"Content-LENGTH"), Name::ContentLength);
        assert_eq!(Name::of(b"TE"), Name::Te);
        assert_eq!(Name::of(b"Content-Lengths"), Name::Other);
        assert_eq!(Name::of(b""), Name::Other);
    }

    #[test]
    fn a_list_has_only_its_real_members() {
        let all: Vec<_> = members(b" close,,\tUpgrade ,").collect();
        assert_eq!(all, [&b"close"[..], b"Upgrade"]);
    }
}
