//! Keys of limits: the parts that a limit counts by, and the hash that identifies a window.
//!
//! Example: `key = ["host", "path[1]", "caller"]` gives requests of `anna` for
//! `https://api.example/v2/x` the hash of `api.example`, `v2` and the number of that caller. A key
//! has 128 bits, from which no part can be read, so the journal may hold it.

use std::fmt;
use std::hash::Hasher;

use siphasher::sip128::{Hasher128, SipHasher13};

use super::access::Admitted;
use crate::locker::Key;
use crate::net::prefix;

/// A part of a key. A missing value counts as a value of its own: leaving it out gives one window, not none. Displayed
/// as written in `proxy.toml`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KeyPart {
    /// Host of the origin, without the port.
    /// `"host"`, such as `api.example`; in canonical spelling.
    Host,
    /// User name of the caller, else its address or its block of IPv6 addresses.
    /// `"caller"`.
    Caller,
    /// Segment of the path, in each of its readings; 1 is the first.
    /// `"path[N]"`. A path with fewer segments has no value there.
    Path(usize),
    /// Only value of the header field of that name.
    /// `"header:NAME"`. Letter case of the name does not matter; Authorization is compared in
    /// canonical form.
    Header(String),
    /// Each decoded value of the query parameter of that name.
    /// `"query:NAME"`, decoded from the encoding of forms.
    Query(String),
    /// Method of the request.
    /// `"method"`, in the letter case received.
    Method,
}

impl KeyPart {
    /// True if servers may read this part in several ways.
    ///
    /// A request can then have several keys under one limit, and takes slots in the window of each.
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

/// Keyed hash, 128 bits, over the parts of a key. The seed is random, so that no caller can provoke a collision. It is
/// the gate's seed, so that windows keep their keys over reloads and restarts. A limit shared between gateways has a
/// seed that can be known, because all of them need it.
///
/// SipHash-1-3 is a keyed hash made for short inputs. 128 bits make collisions between the keys of
/// one limit (at most ten million) less likely than 1 in 10^24.
#[derive(Clone)]
pub(super) struct KeyHasher {
    hasher: SipHasher13,
    /// True if other gateways compute the same key.
    is_shared: bool,
}

impl KeyHasher {
    /// `shared`: seed that other gateways use too, if keys must be the same there; without it `own` is used.
    pub(super) fn new(shared: Option<&[u8; 16]>, own: &[u8; 16]) -> KeyHasher {
        KeyHasher { hasher: SipHasher13::new_with_key(shared.unwrap_or(own)), is_shared: shared.is_some() }
    }

    /// Adds the caller. Its number is this gateway's own; other gateways know it by name or address.
    ///
    /// The words `user` and `address` keep a user named like an address apart from that address.
    pub(super) fn add_caller(&mut self, admitted: &Admitted) {
        match (self.is_shared, &admitted.user) {
            (false, _) => self.add(Some(&admitted.caller.0.to_le_bytes())),
            (true, Some(user)) => self.add(Some(format!("user {}", user.name()).as_bytes())),
            (true, None) => self.add(Some(format!("address {}", prefix::display_block(admitted.block)).as_bytes())),
        }
    }

    /// Adds a part with its length, so that ("ab", "c") and ("a", "bc") differ, and so do a missing part and an empty
    /// one.
    ///
    /// A missing part has the length 2^64 - 1, which no part reaches.
    pub(super) fn add(&mut self, part: Option<&[u8]>) {
        self.hasher.write(&part.map_or(u64::MAX, |part| part.len() as u64).to_le_bytes());
        self.hasher.write(part.unwrap_or_default());
    }

    /// Returns the key with one more part.
    ///
    /// Used to branch: one key so far becomes one for each value of a query parameter.
    pub(super) fn with(&self, part: Option<&[u8]>) -> KeyHasher {
        let mut key = self.clone();
        key.add(part);
        key
    }

    /// Hash of all parts added so far.
    pub(super) fn finish(&self) -> Key {
        Key(self.hasher.finish128().as_u128())
    }
}
