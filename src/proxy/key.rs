//! Keys: what a limit is counted per, and the hash that names its window.

use std::fmt;
use std::hash::Hasher;

use siphasher::sip128::{Hasher128, SipHasher13};

use super::access::Admitted;
use crate::locker::Key;
use crate::net::prefix;

/// A part of a key. What a request does not have counts as a value of its own, so that leaving it out gives one
/// window, not none. Shown as it is written in `proxy.toml`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KeyPart {
    /// The origin's host, without the port.
    Host,
    /// The caller's user name, else its address, or the block of IPv6 addresses that it is of.
    Caller,
    /// A segment of the path, in each of its readings; 1 is the first.
    Path(usize),
    /// The one value of the field of that name.
    Header(String),
    /// Each value of the query parameter of that name, decoded.
    Query(String),
    /// The method.
    Method,
}

impl KeyPart {
    /// True if servers may read it in several ways.
    pub(super) fn has_readings(&self) -> bool {
        matches!(self, KeyPart::Path(_) | KeyPart::Query(_))
    }
}

impl fmt::Display for KeyPart {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyPart::Host => formatter.write_str("host"),
            KeyPart::Caller => formatter.write_str("caller"),
            KeyPart::Path(index) => write!(formatter, "path[{index}]"),
            KeyPart::Header(name) => write!(formatter, "header:{name}"),
            KeyPart::Query(name) => write!(formatter, "query:{name}"),
            KeyPart::Method => formatter.write_str("method"),
        }
    }
}

/// 128 bits of keyed hash over a key's parts. The seed is random, so that no caller can make two keys meet; and the gate's,
/// so that windows keep their keys when the rules are read again, and when the gateway is started again. Only what several
/// gateways count together has a seed that can be known, because they must all have it.
#[derive(Clone)]
pub(super) struct KeyHasher {
    hasher: SipHasher13,
    /// Other gateways must come to the same key.
    is_shared: bool,
}

impl KeyHasher {
    /// `shared`: the seed that other gateways hash with too, if they must come to the same; else `own` is taken.
    pub(super) fn new(shared: Option<&[u8; 16]>, own: &[u8; 16]) -> KeyHasher {
        KeyHasher { hasher: SipHasher13::new_with_key(shared.unwrap_or(own)), is_shared: shared.is_some() }
    }

    /// The number of a caller is this gateway's own; others know it by its name or address.
    pub(super) fn add_caller(&mut self, admitted: &Admitted) {
        match (self.is_shared, &admitted.user) {
            (false, _) => self.add(Some(&admitted.caller.0.to_le_bytes())),
            (true, Some(user)) => self.add(Some(format!("user {user}").as_bytes())),
            (true, None) => self.add(Some(format!("address {}", prefix::display_block(admitted.block)).as_bytes())),
        }
    }

    /// Each part goes in with its length, so that ("ab", "c") and ("a", "bc") differ; so do no part and an empty one.
    pub(super) fn add(&mut self, part: Option<&[u8]>) {
        self.hasher.write(&part.map_or(u64::MAX, |part| part.len() as u64).to_le_bytes());
        self.hasher.write(part.unwrap_or_default());
    }

    /// The key with one more part.
    pub(super) fn with(&self, part: Option<&[u8]>) -> KeyHasher {
        let mut key = self.clone();
        key.add(part);
        key
    }

    pub(super) fn finish(&self) -> Key {
        Key(self.hasher.finish128().as_u128())
    }
}
