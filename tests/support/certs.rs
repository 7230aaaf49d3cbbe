//! A certificate authority for the tests' origins, and certificates good and bad.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rcgen::{KeyUsagePurpose, date_time_ymd};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig};

/// Both protocols, the newer one first.
pub(crate) const BOTH: &[&str] = &["h2", "http/1.1"];

/// An authority of our own.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    der: CertificateDer<'static>,
}

/// What is wrong with a certificate, if anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    None,
    Expired,
    NotYetValid,
    OtherName,
    SelfSigned,
}

/// A certificate and its key.
pub(crate) struct Issued {
    pub(crate) der: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    pem: String,
    key_pem: String,
}

impl Authority {
    pub(crate) fn new() -> Authority {
        Authority::named("lockgate tests")
    }

    pub(crate) fn named(name: &str) -> Authority {
        let mut params = CertificateParams::new(Vec::new()).expect("no names are good names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key can be made");
        let cert = params.self_signed(&key).expect("a certificate can be signed");
        Authority { pem: cert.pem(), der: cert.der().clone(), issuer: Issuer::new(params, key) }
    }

    /// Writes the authority's certificate, and says where.
    pub(crate) fn write(&self, dir: &Path) -> PathBuf {
        let path = dir.join("tests-ca.pem");
        std::fs::write(&path, &self.pem).expect("the test's directory can be written");
        path
    }

    /// A certificate for `localhost` and the loopback addresses, or with something wrong.
    pub(crate) fn issue(&self, fault: Fault) -> Issued {
        let names: &[&str] =
            if fault == Fault::OtherName { &["other.example"] } else { &["localhost", "127.0.0.1", "::1"] };
        self.issue_for(names, fault)
    }

    /// A certificate for these names, or with something else wrong.
    fn issue_for(&self, names: &[&str], fault: Fault) -> Issued {
        let mut params = CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>())
            .expect("these names are good names");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = fault != Fault::SelfSigned;
        match fault {
            Fault::Expired => {
                params.not_before = date_time_ymd(2020, 1, 1);
                params.not_after = date_time_ymd(2021, 1, 1);
            }
            Fault::NotYetValid => params.not_before = date_time_ymd(2095, 1, 1),
            Fault::None | Fault::OtherName | Fault::SelfSigned => {}
        }
        self.sign(&params, fault == Fault::SelfSigned)
    }

    /// A certificate with which a caller says who it is.
    pub(crate) fn issue_caller(&self, name: &str) -> Issued {
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a good name");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(&params, false)
    }

    fn sign(&self, params: &CertificateParams, by_itself: bool) -> Issued {
        let key = KeyPair::generate().expect("a key can be made");
        let cert = if by_itself { params.self_signed(&key) } else { params.signed_by(&key, &self.issuer) };
        let cert = cert.expect("a certificate can be signed");
        Issued {
            der: cert.der().clone(),
            key: PrivateKeyDer::try_from(key.serialize_der()).expect("a key that rustls reads"),
            pem: cert.pem(),
            key_pem: key.serialize_pem(),
        }
    }

    /// What an origin presents that speaks HTTP/1.1 and knows nothing of ALPN.
    pub(crate) fn server_config(&self, fault: Fault) -> Arc<ServerConfig> {
        self.issue(fault).server_config(&[])
    }

    /// The same for an origin that has these names.
    pub(crate) fn server_config_for(&self, names: &[&str]) -> Arc<ServerConfig> {
        self.issue_for(names, Fault::None).server_config(&[])
    }

    /// What an origin presents that speaks HTTP/2 and HTTP/1.1.
    pub(crate) fn both_config(&self, fault: Fault) -> Arc<ServerConfig> {
        self.issue(fault).server_config(BOTH)
    }

    /// What an origin presents that speaks these protocols.
    pub(crate) fn offering(&self, offer: &[&str]) -> Arc<ServerConfig> {
        self.issue(Fault::None).server_config(offer)
    }

    /// What an origin presents that demands a certificate of this authority from its callers.
    pub(crate) fn asking_config(&self, offer: &[&str]) -> Arc<ServerConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).expect("our root is a root");
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .expect("there is a root to verify with");
        let issued = self.issue(Fault::None);
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("ring has the default versions")
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![issued.der], issued.key)
            .expect("key and certificate belong together");
        config.alpn_protocols = offer.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }

    /// A caller that trusts this authority and nobody else.
    pub(crate) fn caller_config(&self) -> ClientConfig {
        trusting([self.der.clone()])
    }
}

impl Issued {
    /// Writes certificate and key as PEM, and says where.
    pub(crate) fn write(&self, dir: &Path, name: &str) -> (PathBuf, PathBuf) {
        let (cert, key) = (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")));
        std::fs::write(&cert, &self.pem).expect("the test's directory can be written");
        std::fs::write(&key, &self.key_pem).expect("the test's directory can be written");
        private(&key);
        (cert, key)
    }

    fn server_config(self, offer: &[&str]) -> Arc<ServerConfig> {
        server_config(vec![self.der], self.key, offer)
    }
}

/// Only the owner may read the file.
pub(crate) fn private(path: &Path) {
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(path, mode).expect("it is our file");
}

/// What an origin presents whose certificate and key lie in PEM files.
pub(crate) fn config_from(cert: &Path, key: &Path) -> Arc<ServerConfig> {
    let chain = certificates(cert);
    let key = PrivateKeyDer::from_pem_file(key).expect("a PEM file with a key");
    server_config(chain, key, &[])
}

/// A caller that trusts the certificates of a PEM file and nothing else.
pub(crate) fn trusting_file(path: &Path) -> ClientConfig {
    trusting(certificates(path))
}

/// The certificates of a PEM file.
pub(crate) fn certificates(path: &Path) -> Vec<CertificateDer<'static>> {
    let all = CertificateDer::pem_file_iter(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    all.map(|one| one.expect("a PEM certificate")).collect()
}

/// The same caller, offering these protocols by ALPN.
pub(crate) fn offering(mut config: ClientConfig, names: &[&str]) -> ClientConfig {
    config.alpn_protocols = names.iter().map(|name| name.as_bytes().to_vec()).collect();
    config
}

fn trusting(certificates: impl IntoIterator<Item = CertificateDer<'static>>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for one in certificates {
        roots.add(one).expect("a root is a certificate");
    }
    ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("ring has the default versions")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    offer: &[&str],
) -> Arc<ServerConfig> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("ring has the default versions")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("key and certificate belong together");
    config.alpn_protocols = offer.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The first bytes of a TLS client to a server of this name, in records of at most this size.
pub(crate) fn client_hello(name: &str, most: Option<usize>) -> Vec<u8> {
    let mut config = Authority::new().caller_config();
    config.max_fragment_size = most;
    let name = ServerName::try_from(name.to_owned()).expect("a name that TLS can ask for");
    let mut bytes = Vec::new();
    let mut session = ClientConnection::new(Arc::new(config), name).expect("a session can start");
    session.write_tls(&mut bytes).expect("a vector takes all");
    bytes
}
