//! Real handshakes over loopback, with certificates made for the occasion.

use rcgen::{BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::*;

const WISH: Wish = Wish { offer: Offer::Http1, identity: None };

/// An authority of its own for each test.
struct Authority {
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Authority {
        Authority::named("Internal CA")
    }

    fn named(name: &str) -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.self_signed(&key).unwrap();
        Authority { certificate, issuer: Issuer::new(params, key) }
    }

    fn connector(&self) -> Connector {
        Connector::new(Settings { trust: vec![self.certificate.der().clone()], identities: Vec::new() }).unwrap()
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
    connector.connect(host, near, WISH).await
}

async fn refused(authority: &Authority, host: &str, origin: TlsAcceptor) -> String {
    let error = handshake(&authority.connector(), host, origin).await.expect_err("it was accepted");
    assert!(matches!(error, Error::Certificate(_)), "{error:?}");
    error.to_string()
}

#[tokio::test]
async fn a_good_certificate_is_accepted_for_a_name_and_for_an_address() {
    let authority = Authority::new();
    for host in ["api.partner.example", "127.0.0.1", "::1"] {
        let origin = authority.origin(&[host], |_| {});
        let mut stream = handshake(&authority.connector(), host, origin).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]), "{host}");
        assert_eq!(stream.read_u8().await.unwrap(), b'x', "{host}");
    }
}

#[tokio::test]
async fn a_wildcard_stands_for_one_label() {
    let authority = Authority::new();
    let origin = || authority.origin(&["*.partner.example"], |_| {});
    handshake(&authority.connector(), "api.partner.example", origin()).await.unwrap();
    refused(&authority, "a.b.partner.example", origin()).await;
    refused(&authority, "partner.example", origin()).await;
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused_and_both_names_are_told() {
    let authority = Authority::new();
    let names = ["a.example", "b.example", "c.example", "d.example"];
    let message = refused(&authority, "api.partner.example", authority.origin(&names, |_| {})).await;
    let expected = "the certificate is not accepted: it is not for api.partner.example but for a.example, b.example, c.example and 1 more";
    assert_eq!(message, expected);
    refused(&authority, "127.0.0.1", authority.origin(&["localhost"], |_| {})).await;
}

#[tokio::test]
async fn a_certificate_out_of_its_time_is_refused() {
    let authority = Authority::new();
    let expired = authority.origin(&["a.example"], |params| {
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    });
    assert!(refused(&authority, "a.example", expired).await.ends_with("it has expired"));
    let early = authority.origin(&["a.example"], |params| params.not_before = rcgen::date_time_ymd(3000, 1, 1));
    assert!(refused(&authority, "a.example", early).await.ends_with("it is not valid yet"));
}

#[tokio::test]
async fn a_certificate_of_an_authority_that_is_not_trusted_is_refused() {
    let (trusted, other) = (Authority::new(), Authority::named("Another CA"));
    let message = refused(&trusted, "a.example", other.origin(&["a.example"], |_| {})).await;
    assert!(message.contains("its issuer is not trusted"), "{message}");
    let namesake = Authority::new();
    let message = refused(&trusted, "a.example", namesake.origin(&["a.example"], |_| {})).await;
    assert!(message.contains("the issuer that it names did not sign it"), "{message}");
}

#[tokio::test]
async fn an_origin_that_speaks_no_tls_is_told_from_one_with_a_bad_certificate() {
    let connector = Authority::new().connector();
    let (near, mut far) = pair().await;
    far.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    let error = connector.connect("a.example", near, WISH).await.err().unwrap();
    assert!(matches!(error, Error::Tls(_)), "{error:?}");
    let (near, far) = pair().await;
    drop(far);
    let error = connector.connect("a.example", near, WISH).await.err().unwrap();
    assert!(matches!(error, Error::Io(_)), "{error:?}");
}

#[tokio::test]
async fn a_host_that_no_certificate_can_bear_is_named() {
    let (near, _far) = pair().await;
    let error = Authority::new().connector().connect("a b", near, WISH).await.err().unwrap();
    assert_eq!(error.to_string(), "\"a b\" is not a name that a certificate can bear");
}

#[test]
fn a_root_of_the_settings_that_is_none_is_an_error() {
    let broken = Settings { trust: vec![CertificateDer::from(vec![1, 2, 3])], identities: Vec::new() };
    let error = Connector::new(broken).err().unwrap();
    assert!(error.to_string().starts_with("certificate 1 of those to trust cannot be used"), "{error}");
}
