//! Upstream: key of pooled connections, made of the origin and the reach of a request.

use std::ops::Deref;

use super::uri_origin::Origin;
use crate::net::dial::Reach;

/// Destination of connections, and the addresses that they may lead to. Requests with a different reach never share a
/// connection: addresses are checked when a name is dialled, not when a kept connection is reused.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Upstream {
    /// Server.
    pub(super) origin: Origin,
    /// Addresses that may be dialled for it.
    pub(super) reach: Reach,
}

impl Deref for Upstream {
    type Target = Origin;

    fn deref(&self) -> &Origin {
        &self.origin
    }
}
