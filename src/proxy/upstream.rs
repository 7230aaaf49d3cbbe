//! An upstream: the origin of a request and how far the request may reach. Connections are shared by what both are.

use std::ops::Deref;

use super::uri_origin::Origin;
use crate::net::dial::Reach;

/// Where connections lead and on whose word they were opened. Requests that may reach different addresses never share
/// one: the addresses of a name are judged when it is dialled, and not when a kept connection is taken.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Upstream {
    /// The server.
    pub(super) origin: Origin,
    /// Which of its addresses may be dialled.
    pub(super) reach: Reach,
}

impl Deref for Upstream {
    type Target = Origin;

    fn deref(&self) -> &Origin {
        &self.origin
    }
}
