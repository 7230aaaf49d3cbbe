//! Tests of verification: real handshakes over loopback, with certificates made for each test.

use rcgen::{BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::*;

const OPTIONS: HandshakeOptions = HandshakeOptions { offer: Offer::Http1, identity: None };

/// Authority of one test.
struct TestCa {
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl TestCa {
    fn new() -> TestCa {
        TestCa::named("Internal CA")
    }

    fn named(name: &str) -> TestCa {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.self_signed(&key).unwrap();
        TestCa { certificate, issuer: Issuer::new(params, key) }
    }

    fn connector(&self) -> Connector {
        self.connector_as(Vec::new())
    }

    fn connector_as(&self, identities: Vec<Identity>) -> Connector {
        Connector::new(Settings { trust: vec![self.certificate.der().clone()], identities }).unwrap()
    }

    /// Identity with a certificate signed by this authority.
    fn identity(&self, change: impl FnOnce(&mut CertificateParams)) -> Identity {
        let mut params = CertificateParams::new(vec!["gateway.example".to_owned()]).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Identity { chain: vec![certificate.der().clone()], key: PrivateKeyDer::Pkcs8(key.serialize_der().into()) }
    }

    fn origin(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> TlsAcceptor {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }
}

/// Origin with this certificate chain and key.
fn origin_with(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    TlsAcceptor::from(Arc::new(builder.with_no_client_auth().with_single_cert(chain, key).unwrap()))
}

/// Both ends of a TCP connection.
async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (near, listener.accept().await.unwrap().0)
}

async fn handshake(connector: &Connector, host: &str, origin: TlsAcceptor) -> Result<TlsStream<TcpStream>, Error> {
    let (near, far) = pair().await;
    tokio::spawn(async move {
        if let Ok(mut stream) = origin.accept(far).await {
            stream.write_all(b"x").await.ok();
            stream.read_u8().await.ok();
        }
    });
    connector.connect(host, near, OPTIONS).await
}

async fn refused(authority: &TestCa, host: &str, origin: TlsAcceptor) -> String {
    let error = handshake(&authority.connector(), host, origin).await.expect_err("it was accepted");
    assert!(matches!(error, Error::Certificate(_)), "{error:?}");
    error.to_string()
}

#[tokio::test]
async fn a_good_certificate_is_accepted_for_a_name_and_for_an_address() {
    let authority = TestCa::new();
    for host in ["api.partner.example", "127.0.0.1", "::1"] {
        let origin = authority.origin(&[host], |_| {});
        let mut stream = handshake(&authority.connector(), host, origin).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]), "{host}");
        assert_eq!(stream.read_u8().await.unwrap(), b'x', "{host}");
    }
}

#[tokio::test]
async fn a_wildcard_stands_for_one_label() {
    let authority = TestCa::new();
    let origin = || authority.origin(&["*.partner.example"], |_| {});
    handshake(&authority.connector(), "api.partner.example", origin()).await.unwrap();
    refused(&authority, "a.b.partner.example", origin()).await;
    refused(&authority, "partner.example", origin()).await;
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused_and_both_names_are_told() {
    let authority = TestCa::new();
    let names = ["a.example", "b.example", "c.example", "d.example"];
    let message = refused(&authority, "api.partner.example", authority.origin(&names, |_| {})).await;
    let expected = "the certificate is not accepted: it is not for api.partner.example but for a.example, b.example, c.example and 1 more";
    assert_eq!(message, expected);
    refused(&authority, "127.0.0.1", authority.origin(&["localhost"], |_| {})).await;
}

#[tokio::test]
async fn a_certificate_out_of_its_time_is_refused() {
    let authority = TestCa::new();
    let expired = authority.origin(&["a.example"], |params| {
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    });
    assert!(refused(&authority, "a.example", expired).await.ends_with("it expired on 2002-01-01T00:00:00Z"));
    let early = authority.origin(&["a.example"], |params| params.not_before = rcgen::date_time_ymd(3000, 1, 1));
    assert!(refused(&authority, "a.example", early).await.ends_with("it is not valid before 3000-01-01T00:00:00Z"));
}

#[tokio::test]
async fn a_certificate_of_an_authority_that_is_not_trusted_is_refused() {
    let (trusted, other) = (TestCa::new(), TestCa::named("Another CA"));
    let message = refused(&trusted, "a.example", other.origin(&["a.example"], |_| {})).await;
    assert!(message.contains("its issuer is not trusted"), "{message}");
    let namesake = TestCa::new();
    let message = refused(&trusted, "a.example", namesake.origin(&["a.example"], |_| {})).await;
    assert!(message.contains("the issuer that it names did not sign it"), "{message}");
}

#[tokio::test]
async fn a_self_signed_certificate_is_refused_unless_it_is_trusted_itself() {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
    let plain = params.self_signed(&key).unwrap();
    let origin = || origin_with(vec![plain.der().clone()], &key);
    let message = refused(&TestCa::new(), "a.example", origin()).await;
    assert!(message.ends_with("it is self-signed ([tls] trust may name it)"), "{message}");
    let trusting = Connector::new(Settings { trust: vec![plain.der().clone()], identities: Vec::new() }).unwrap();
    handshake(&trusting, "a.example", origin()).await.unwrap();
    // Certificate as made by `openssl req -x509`.
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.self_signed(&key).unwrap();
    let origin = origin_with(vec![authority.der().clone()], &key);
    let message = refused(&TestCa::new(), "a.example", origin).await;
    assert!(message.contains("it is self-signed, and says that it is an authority's (CA:TRUE)"), "{message}");
}

#[tokio::test]
async fn an_authoritys_certificate_is_not_a_servers() {
    let authority = TestCa::new();
    let origin = authority.origin(&["a.example"], |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    let message = refused(&authority, "a.example", origin).await;
    assert!(message.contains("it is an authority's (CA:TRUE)"), "{message}");
    let origin = authority.origin(&["a.example"], |params| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    });
    let message = refused(&authority, "a.example", origin).await;
    assert!(message.contains("it is not meant for servers"), "{message}");
}

#[tokio::test]
async fn an_authority_that_expired_is_told_from_a_leaf_that_did() {
    let root = TestCa::new();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "Old Intermediate");
    params.not_after = rcgen::date_time_ymd(2003, 1, 1);
    let above = params.signed_by(&key, &root.issuer).unwrap();
    let issuer = Issuer::new(params, key);
    let leaf_key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["a.example".to_owned()]).unwrap().signed_by(&leaf_key, &issuer).unwrap();
    let origin = origin_with(vec![leaf.der().clone(), above.der().clone()], &leaf_key);
    let message = refused(&root, "a.example", origin).await;
    let words = "the certificate of an authority in its chain expired on 2003-01-01T00:00:00Z";
    assert!(message.ends_with(words), "{message}");
}

#[tokio::test]
async fn an_authority_may_vouch_only_for_what_its_constraints_say() {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.name_constraints = Some(rcgen::NameConstraints {
        permitted_subtrees: vec![rcgen::GeneralSubtree::DnsName("internal.example".to_owned())],
        excluded_subtrees: Vec::new(),
    });
    let certificate = params.self_signed(&key).unwrap();
    let authority = TestCa { certificate, issuer: Issuer::new(params, key) };
    let good = authority.origin(&["a.internal.example"], |_| {});
    handshake(&authority.connector(), "a.internal.example", good).await.unwrap();
    let message = refused(&authority, "a.example", authority.origin(&["a.example"], |_| {})).await;
    assert!(message.contains("its authority may not vouch for the names that it bears"), "{message}");
}

/// Verdict on a chain of `weak.pem`, whose certificates OpenSSL made: rustls' server would not even send them.
fn told_of_weak(root: usize, chain: &[usize]) -> Result<(), String> {
    use rustls::client::danger::ServerCertVerifier;
    use rustls::pki_types::{UnixTime, pem::PemObject};
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(include_bytes!("weak.pem")).collect();
    let all = all.unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(all[root].clone()).unwrap();
    let chain: Vec<_> = chain.iter().map(|index| all[*index].clone()).collect();
    let name = ServerName::try_from("a.example").unwrap();
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(1_800_000_000));
    let strict = StrictVerifier::new(Arc::new(roots)).unwrap();
    match strict.verify_server_cert(&chain[0], &chain[1..], &name, &[], now) {
        Ok(_verified) => Ok(()),
        Err(error) => Err(Error::Certificate(error).to_string()),
    }
}

#[test]
fn weak_keys_and_signatures_are_refused_by_their_names() {
    let (root, rsa_root, short, sha1, intermediate, below) = (0, 1, 2, 3, 4, 5);
    let told = told_of_weak(root, &[short]).unwrap_err();
    assert!(told.ends_with("its RSA key has 1024 bits, which can be broken; 2048 are the least"), "{told}");
    let told = told_of_weak(rsa_root, &[sha1]).unwrap_err();
    assert!(told.ends_with("it, or one in its chain, is signed with SHA-1, which can be forged"), "{told}");
    let told = told_of_weak(root, &[below, intermediate]).unwrap_err();
    assert!(told.contains("a certificate of its chain has an RSA key of 1024 bits"), "{told}");
    let told = told_of_weak(rsa_root, &[short]).unwrap_err();
    assert!(told.contains("its issuer is not trusted"), "the first reason is told: {told}");
}

/// Origin that asks for a client certificate.
fn curious(authority: &TestCa, version: &'static rustls::SupportedProtocolVersion) -> TlsAcceptor {
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build();
    let identity = authority
        .identity(|params| params.subject_alt_names = vec![rcgen::SanType::DnsName("a.example".try_into().unwrap())]);
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_client_cert_verifier(verifier.unwrap())
        .with_single_cert(identity.chain, identity.key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

/// First byte from the origin, or the error, with this client certificate.
async fn shown(connector: &Connector, identity: Option<usize>, origin: TlsAcceptor) -> Result<u8, String> {
    let (near, far) = pair().await;
    tokio::spawn(async move {
        if let Ok(mut stream) = origin.accept(far).await {
            stream.write_all(b"x").await.ok();
            stream.read_u8().await.ok();
        }
    });
    let options = HandshakeOptions { offer: Offer::Http2, identity };
    let mut stream = connector.connect("a.example", near, options).await.map_err(|error| error.to_string())?;
    stream.read_u8().await.map_err(|error| late_rejection(&error).unwrap().to_string())
}

#[tokio::test]
async fn an_origin_that_asks_is_shown_who_we_are() {
    let (authority, other) = (TestCa::new(), TestCa::named("Another CA"));
    let connector = authority.connector_as(vec![other.identity(|_| {}), authority.identity(|_| {})]);
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let origin = || curious(&authority, version);
        assert_eq!(shown(&connector, Some(1), origin()).await, Ok(b'x'), "{version:?}");
        let told = shown(&connector, Some(0), origin()).await.unwrap_err();
        assert!(
            told.starts_with("the origin does not accept our client certificate (UnknownCA); "),
            "{version:?}: {told}"
        );
        let told = shown(&connector, None, origin()).await.unwrap_err();
        assert!(
            told.contains("demands a client certificate") && told.contains("[[tls.client]]"),
            "{version:?}: {told}"
        );
    }
}

#[tokio::test]
async fn the_origin_chooses_from_what_is_offered() {
    let authority = TestCa::new();
    let connector = authority.connector_as(vec![authority.identity(|_| {})]);
    for identity in [None, Some(0)] {
        for (offer, spoken) in [(Offer::Http1, &b"http/1.1"[..]), (Offer::Http2, b"h2")] {
            let (near, far) = pair().await;
            let origin = authority.origin(&["a.example"], |_| {});
            tokio::spawn(async move { origin.accept(far).await.unwrap().read_u8().await });
            let stream = connector.connect("a.example", near, HandshakeOptions { offer, identity }).await.unwrap();
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(spoken), "{offer:?} {identity:?}");
        }
    }
}

#[test]
fn an_identity_with_another_key_is_an_error() {
    let authority = TestCa::new();
    let broken = Identity { key: authority.identity(|_| {}).key, ..authority.identity(|_| {}) };
    let settings = Settings { trust: vec![authority.certificate.der().clone()], identities: vec![broken] };
    assert!(Connector::new(settings).is_err());
}

#[tokio::test]
async fn an_origin_that_speaks_no_tls_is_told_from_one_with_a_bad_certificate() {
    let connector = TestCa::new().connector();
    let (near, mut far) = pair().await;
    far.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    let error = connector.connect("a.example", near, OPTIONS).await.err().unwrap();
    assert!(matches!(error, Error::Tls(_)), "{error:?}");
    assert_eq!(error.to_string(), "the origin's answer is not TLS (does the port speak plain http?)");
    let (near, far) = pair().await;
    drop(far);
    let error = connector.connect("a.example", near, OPTIONS).await.err().unwrap();
    assert!(matches!(error, Error::Io(_)), "{error:?}");
}

#[tokio::test]
async fn a_host_that_no_certificate_can_bear_is_named() {
    let (near, _far) = pair().await;
    let error = TestCa::new().connector().connect("a b", near, OPTIONS).await.err().unwrap();
    assert_eq!(error.to_string(), "\"a b\" is not a name that a certificate can bear");
}

#[test]
fn a_root_of_the_settings_that_is_none_is_an_error() {
    let broken = Settings { trust: vec![CertificateDer::from(vec![1, 2, 3])], identities: Vec::new() };
    let error = Connector::new(broken).err().unwrap();
    assert!(error.to_string().starts_with("certificate 1 of those to trust cannot be used"), "{error}");
}
