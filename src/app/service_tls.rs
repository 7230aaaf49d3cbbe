//! TLS of the listeners beside the proxy's, `[admin] tls` and `[locks] tls`, which follows a reload.

use std::sync::Arc;

use crate::config::Settings;
use crate::tls::identity::{self, Identity};
use crate::tls::listener_tls::{ListenerTls, PreparedTls};

/// TLS in force on the admin listener and on that of the lock service.
#[derive(Clone)]
pub(super) struct ServiceTls {
    pub(super) admin: Arc<ListenerTls>,
    pub(super) locks: Arc<ListenerTls>,
}

/// TLS of both listeners that a reload is about to put in force; `None`: the file has no such section any more, and its
/// listener stays as it is.
pub(super) struct PreparedServiceTls {
    admin: Option<PreparedTls>,
    locks: Option<PreparedTls>,
}

impl ServiceTls {
    /// # Errors
    /// If a key and its certificate do not match, or the system has no random numbers.
    pub(super) fn new(settings: &Settings) -> Result<ServiceTls, identity::Error> {
        let (admin, locks) = identities(settings);
        let tls = |identity: Option<Option<Identity>>| ListenerTls::new(identity.flatten()).map(Arc::new);
        Ok(ServiceTls { admin: tls(admin)?, locks: tls(locks)? })
    }

    /// Prepares the certificates of new settings; changes nothing.
    ///
    /// # Errors
    /// As [`ServiceTls::new`].
    pub(super) fn prepare(&self, settings: &Settings) -> Result<PreparedServiceTls, identity::Error> {
        let (admin, locks) = identities(settings);
        Ok(PreparedServiceTls {
            admin: admin.map(|identity| self.admin.prepare(identity)).transpose()?,
            locks: locks.map(|identity| self.locks.prepare(identity)).transpose()?,
        })
    }

    /// Puts prepared certificates in force.
    pub(super) fn replace(&self, prepared: PreparedServiceTls) {
        for (tls, prepared) in [(&self.admin, prepared.admin), (&self.locks, prepared.locks)] {
            prepared.into_iter().for_each(|prepared| tls.replace(prepared));
        }
    }
}

/// Certificates of the two sections, if the file has these.
fn identities(settings: &Settings) -> (Option<Option<Identity>>, Option<Option<Identity>>) {
    let admin = settings.admin.as_ref().map(|admin| admin.tls.clone());
    (admin, settings.locks.as_ref().map(|locks| locks.tls.clone()))
}
