//! Leaf certificates: signed on demand, and cached while they are fresh.
//!
//! A leaf names one host, lasts seven days, and is replaced two days before its end. All leaves of
//! a process share one key pair; signing takes place on a thread for blocking work, since it would
//! hold up the event loop.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType, SerialNumber,
};
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{Ticketer, default_provider};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::sign::{CertifiedKey, SigningKey, SingleCertAndKey};
use tokio::sync::OnceCell;
use tokio::task::spawn_blocking;

use super::fault::CaFault;
use super::files::LoadedCa;
use super::validity::{BACKDATE, date, serial, set_validity, unix};

/// Validity of a leaf: seven days, since a leaf cannot be revoked.
const LIFETIME: Duration = Duration::from_secs(7 * 86_400);
/// Remaining validity below which a leaf is replaced, so that a caller with a fast clock never sees
/// an expired one.
const RENEW_BEFORE: Duration = Duration::from_secs(2 * 86_400);
/// Most leaves in the cache, at some KiB each. A pattern such as `*.example.com` covers any number
/// of hosts.
const MAX_LEAVES: usize = 1_024;

/// Issuer of the authority's leaves, with a cache.
///
/// Shared by all connections. The lock is held for a look-up in the cache, never while signing.
pub(super) struct LeafIssuer {
    signer: Arc<LeafSigner>,
    cache: Mutex<LeafCache>,
}

/// Signing keys and settings of leaves.
struct LeafSigner {
    issuer: Issuer<'static, KeyPair>,
    /// Last second of the authority itself, in Unix time.
    not_after: i64,
    /// Key of all leaves of a process. It exists in memory only, beside the key of the authority,
    /// so one key per leaf would protect nothing.
    key: KeyPair,
    /// The same key, in the form that TLS signs with.
    signing: Arc<dyn SigningKey>,
    provider: Arc<CryptoProvider>,
}

/// Cache of leaves by host. Evicts the least recently used.
#[derive(Default)]
struct LeafCache {
    /// Entries by host, at most [`MAX_LEAVES`].
    entries: HashMap<Box<str>, CacheEntry>,
    /// Number of look-ups so far: the clock of "least recently used".
    uses: u64,
}

/// Cache entry of one host: its leaf, perhaps still being made.
struct CacheEntry {
    leaf: Arc<OnceCell<Leaf>>,
    /// Value of [`LeafCache::uses`] at the last look-up.
    last_use: u64,
}

/// Leaf with the period in which it may be shown, in Unix time.
struct Leaf {
    /// TLS settings that show this leaf.
    config: Arc<ServerConfig>,
    /// First moment of validity: one day before it was made.
    not_before: Duration,
    /// Moment from which a new leaf is made.
    fresh_until: Duration,
}

impl Leaf {
    /// Checks both ends: a wall clock may have been set back.
    fn is_fresh(&self, now: Duration) -> bool {
        (self.not_before..self.fresh_until).contains(&now)
    }
}

impl LeafIssuer {
    /// # Errors
    /// `Generation` if no key can be made, or if the authority's cannot be used.
    pub(super) fn new(kept: LoadedCa) -> Result<LeafIssuer, CaFault> {
        let provider = Arc::new(default_provider());
        let key = KeyPair::generate().map_err(generation_error)?;
        let der = PrivatePkcs8KeyDer::from(key.serialize_der());
        let signing = provider.key_provider.load_private_key(der.into()).map_err(generation_error)?;
        // Subject and key identifier are copied from the certificate byte for byte, or chains would break.
        let issuer = Issuer::from_ca_cert_der(&kept.certificate, kept.key).map_err(generation_error)?;
        let signer = LeafSigner { issuer, not_after: kept.summary.not_after, key, signing, provider };
        Ok(LeafIssuer { signer: Arc::new(signer), cache: Mutex::default() })
    }

    /// Leaf for a host. Concurrent calls for one host make a single leaf.
    ///
    /// A failure is not cached: the next call tries again.
    ///
    /// # Errors
    /// `Name`, `ExpiredSinceStart` or `Generation`.
    pub(super) async fn leaf(&self, host: &str, wall_unix_nanos: i128) -> Result<Arc<ServerConfig>, CaFault> {
        let now = unix(wall_unix_nanos);
        let entry = self.cache.lock().unwrap_or_else(PoisonError::into_inner).entry(host, now);
        let make = || async {
            let (signer, host) = (Arc::clone(&self.signer), host.to_owned());
            spawn_blocking(move || signer.make(&host, now)).await.map_err(generation_error)?
        };
        Ok(Arc::clone(&entry.get_or_try_init(make).await?.config))
    }
}

impl LeafCache {
    /// Entry of a host: with a fresh leaf, or an empty cell.
    fn entry(&mut self, host: &str, now: Duration) -> Arc<OnceCell<Leaf>> {
        self.uses += 1;
        if let Some(entry) = self.entries.get_mut(host) {
            entry.last_use = self.uses;
            if entry.leaf.get().is_some_and(|leaf| !leaf.is_fresh(now)) {
                entry.leaf = Arc::default();
            }
            return Arc::clone(&entry.leaf);
        }
        if self.entries.len() >= MAX_LEAVES {
            self.evict_least_recent();
        }
        let leaf = Arc::default();
        self.entries.insert(host.into(), CacheEntry { leaf: Arc::clone(&leaf), last_use: self.uses });
        leaf
    }

    /// Looks at all entries, which only a full cache does, and only for a host that is not in it.
    fn evict_least_recent(&mut self) {
        let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.last_use).map(|(host, _)| host.clone());
        if let Some(host) = oldest {
            self.entries.remove(&host);
        }
    }
}

impl LeafSigner {
    /// Signs a leaf, with a period that never exceeds the authority's own.
    fn make(&self, host: &str, now: Duration) -> Result<Leaf, CaFault> {
        let end = Duration::from_secs(u64::try_from(self.not_after).unwrap_or(0));
        let (not_before, not_after) = (now.saturating_sub(BACKDATE), (now + LIFETIME).min(end));
        if now > end {
            return Err(CaFault::ExpiredSinceStart { until: date(self.not_after) });
        }
        let certificate = self.sign(host, not_before, not_after)?;
        let config = self.config(certificate).map_err(generation_error)?;
        // Near the end of the authority every leaf is short-lived, so it is shown up to its last second.
        let fresh_until = if not_after == end { end } else { not_after - RENEW_BEFORE };
        Ok(Leaf { config: Arc::new(config), not_before, fresh_until })
    }

    /// Signs a server certificate (`serverAuth`, no authority) for a DNS name or an address.
    fn sign(&self, host: &str, not_before: Duration, not_after: Duration) -> Result<CertificateDer<'static>, CaFault> {
        let name = match host.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(host.try_into().map_err(|_| CaFault::Name(host.to_owned()))?),
        };
        let mut params = CertificateParams::default();
        params.serial_number = Some(SerialNumber::from_slice(&serial().map_err(generation_error)?));
        // The host stands in the alternative names only (RFC 9525 §6.3): a common name has at most 64 characters, and
        // clients would check that of an address against the name constraints as if it were a DNS name.
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "lockgate");
        params.subject_alt_names = vec![name];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, not_before, not_after);
        Ok(params.signed_by(&self.key, &self.issuer).map_err(generation_error)?.der().clone())
    }

    /// TLS server settings with this leaf. The authority's own certificate is not sent: clients
    /// that trust it have it.
    fn config(&self, certificate: CertificateDer<'static>) -> Result<ServerConfig, rustls::Error> {
        let certified = CertifiedKey::new(vec![certificate], Arc::clone(&self.signing));
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // Sessions are kept by callers, in tickets: a store of ours would hold some KiB for each caller, or be too small for
        // a fleet. Each leaf has its own ticket keys, so that no session outlives its leaf or its authority by more than its
        // connections, nor is resumed at another host.
        config.ticketer = Ticketer::new()?;
        Ok(config)
    }
}

fn generation_error(error: impl std::fmt::Display) -> CaFault {
    CaFault::Generation(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shelf_has_a_bound_and_what_is_not_used_longest_goes() {
        let mut cache = LeafCache::default();
        let now = Duration::from_secs(1);
        for host in 0..MAX_LEAVES {
            cache.entry(&host.to_string(), now);
        }
        let first = cache.entry("0", now);
        cache.entry("one more", now);
        assert_eq!(cache.entries.len(), MAX_LEAVES);
        assert!(!cache.entries.contains_key("1"), "it was not used since");
        assert!(Arc::ptr_eq(&cache.entry("0", now), &first), "it was used");
    }
}
