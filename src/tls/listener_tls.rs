//! TLS of a listener that outlives reloads: its certificate is replaced while connections are accepted.
//!
//! [`ListenerTls::prepare`] does everything that can fail, before a reload changes anything; [`ListenerTls::replace`]
//! cannot fail. A handshake that has begun goes on with the certificate that it began with.

use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;

use super::identity::{Error, Identity};

/// TLS settings of a listener, made from its certificate. `None` inside: the listener speaks plain HTTP.
pub struct PreparedTls(Option<(Identity, Arc<ServerConfig>)>);

/// TLS settings in force on a listener.
pub struct ListenerTls(RwLock<PreparedTls>);

impl ListenerTls {
    /// TLS with this certificate; `None`: plain HTTP.
    ///
    /// # Errors
    /// If key and certificate do not match, or the system has no random numbers.
    pub fn new(identity: Option<Identity>) -> Result<ListenerTls, Error> {
        Ok(ListenerTls(RwLock::new(PreparedTls(identity.map(with_config).transpose()?))))
    }

    /// Prepares another certificate, or none. The settings in force are kept for an equal one, so that sessions are
    /// resumed over a reload that concerns other things.
    ///
    /// # Errors
    /// As [`ListenerTls::new`].
    pub fn prepare(&self, identity: Option<Identity>) -> Result<PreparedTls, Error> {
        let Some(identity) = identity else { return Ok(PreparedTls(None)) };
        let in_force = self.0.read().unwrap_or_else(PoisonError::into_inner);
        match &in_force.0 {
            Some((known, config)) if *known == identity => Ok(PreparedTls(Some((identity, Arc::clone(config))))),
            Some(_) | None => Ok(PreparedTls(Some(with_config(identity)?))),
        }
    }

    /// Puts prepared settings in force for the connections that are accepted from now on.
    pub fn replace(&self, prepared: PreparedTls) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = prepared;
    }

    /// Settings for a connection that was just accepted; `None`: plain HTTP.
    pub fn config(&self) -> Option<Arc<ServerConfig>> {
        let in_force = self.0.read().unwrap_or_else(PoisonError::into_inner);
        in_force.0.as_ref().map(|(_, config)| Arc::clone(config))
    }
}

fn with_config(identity: Identity) -> Result<(Identity, Arc<ServerConfig>), Error> {
    let config = identity.server_config()?;
    Ok((identity, config))
}

#[cfg(test)]
mod tests {
    use rcgen::generate_simple_self_signed;
    use rustls::pki_types::PrivateKeyDer;

    use super::*;

    fn identity() -> Identity {
        let made = generate_simple_self_signed(vec!["gw.example".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        Identity { chain: vec![made.cert.der().clone()], key }
    }

    #[test]
    fn settings_change_with_the_certificate_and_not_otherwise() {
        let (first, second) = (identity(), identity());
        let tls = ListenerTls::new(Some(first.clone())).unwrap();
        let before = tls.config().unwrap();
        tls.replace(tls.prepare(Some(first)).unwrap());
        assert!(Arc::ptr_eq(&before, &tls.config().unwrap()), "sessions of an equal certificate are resumed");
        let prepared = tls.prepare(Some(second)).unwrap();
        assert!(Arc::ptr_eq(&before, &tls.config().unwrap()), "prepared settings are not in force");
        tls.replace(prepared);
        assert!(!Arc::ptr_eq(&before, &tls.config().unwrap()));
        tls.replace(tls.prepare(None).unwrap());
        assert!(tls.config().is_none());
    }

    #[test]
    fn a_key_of_another_certificate_is_refused_before_anything_changes() {
        let tls = ListenerTls::new(None).unwrap();
        let wrong = Identity { key: identity().key, ..identity() };
        assert!(tls.prepare(Some(wrong)).is_err() && tls.config().is_none());
    }
}
