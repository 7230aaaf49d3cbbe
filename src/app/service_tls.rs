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

/// TLS of both listeners that a reload is about to put in force; `None`: the file no longer names the listener, which
/// stays as it is.
pub(super) struct PreparedServiceTls {
    admin: Option<PreparedTls>,
    locks: Option<PreparedTls>,
}

impl ServiceTls {
    /// # Errors
    /// If a key and its certificate do not match, or the system has no random numbers.
    pub(super) fn new(settings: &Settings) -> Result<ServiceTls, identity::Error> {
        let tls = |identity: Option<&Identity>| ListenerTls::new(identity.cloned()).map(Arc::new);
        let admin = settings.admin.as_ref().and_then(|admin| admin.tls.as_ref());
        let locks = settings.locks.as_ref().and_then(|locks| locks.tls.as_ref());
        Ok(ServiceTls { admin: tls(admin)?, locks: tls(locks)? })
    }

    /// Prepares the certificates of new settings; changes nothing. `before`: the settings in force, which name the
    /// listeners that are open.
    ///
    /// # Errors
    /// As [`ServiceTls::new`].
    pub(super) fn prepare(
        &self,
        settings: &Settings,
        before: &Settings,
    ) -> Result<PreparedServiceTls, identity::Error> {
        let (admin, locks) = (settings.renewed_admin_tls(before), settings.renewed_locks_tls(before));
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
