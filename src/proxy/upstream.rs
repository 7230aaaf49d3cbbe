//! Upstream: key of pooled connections, made of the origin, the reach of a request and its way.

use std::hash::{Hash, Hasher};
use std::ops::Deref;

use super::uri_origin::Origin;
use crate::net::dial::Reach;

/// Destination of connections, and the addresses that they may lead to. Requests with a different reach never share a
/// connection: addresses are checked when a name is dialled, not when a kept connection is reused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Upstream {
    /// Server.
    pub(super) origin: Origin,
    /// Addresses that may be dialled for it.
    pub(super) reach: Reach,
    /// Way of the request to its origin.
    pub(super) way: Way,
}

/// Way of a request to its origin. Numbers are those of `[[parent]]` sections, in the order of the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    /// The gateway connects to the origin itself.
    Direct,
    /// A parent proxy connects to it, and carries bytes.
    Tunnel(u16),
    /// A parent proxy carries the request, in absolute form if it speaks HTTP.
    Forward(u16),
}

impl Hash for Upstream {
    /// Leaves the way out: two ways to one origin are rare, and each request would pay for them.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.origin.hash(state);
        self.reach.hash(state);
    }
}

impl Deref for Upstream {
    type Target = Origin;

    fn deref(&self) -> &Origin {
        &self.origin
    }
}
