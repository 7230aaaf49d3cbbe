//! Certificate verifier: rustls' own checks, a minimum key strength, and better reasons for a rejection.
//!
//! A certificate rejected by rustls stays rejected: it is parsed again only for a better reason.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore, SignatureScheme,
};
use x509_parser::certificate::X509Certificate;
use x509_parser::public_key::PublicKey;

use super::reject_reason::RejectReason;

/// Shortest RSA key that browsers accept, in bits (CA/Browser Forum Baseline Requirements §6.1.5).
const SHORTEST_RSA: usize = 2_048;

/// rustls' verifier with additional checks.
#[derive(Debug)]
pub(super) struct StrictVerifier {
    /// Verifier of the chain, the name and the handshake's signature.
    rustls: Arc<WebPkiServerVerifier>,
}

impl StrictVerifier {
    /// # Errors
    /// If there is no root.
    pub(super) fn new(roots: Arc<RootCertStore>) -> Result<StrictVerifier, rustls::client::VerifierBuilderError> {
        let rustls = WebPkiServerVerifier::builder_with_provider(roots, Arc::new(default_provider())).build()?;
        Ok(StrictVerifier { rustls })
    }
}

impl ServerCertVerifier for StrictVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.rustls.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // Keys of authorities are checked with the signatures they made. The leaf's key is used only in the handshake,
            // where a failure would not name the reason.
            Ok(verified) => match short_key(end_entity) {
                Some(bits) => Err(refused(RejectReason::ShortKey(bits))),
                None => Ok(verified),
            },
            Err(Error::InvalidCertificate(error)) => Err(match reason(&error, end_entity, intermediates) {
                Some(reason) => refused(reason),
                None => Error::InvalidCertificate(error),
            }),
            Err(error) => Err(error),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.rustls.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.rustls.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.rustls.supported_verify_schemes()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        self.rustls.root_hint_subjects()
    }
}

/// Wraps a reason in rustls' error for a certificate, from which `describe` takes it out again.
fn refused(reason: RejectReason) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(reason))))
}

/// A more precise reason than that of rustls, if the certificate shows one.
fn reason(
    error: &CertificateError,
    end_entity: &CertificateDer<'_>,
    above: &[CertificateDer<'_>],
) -> Option<RejectReason> {
    let leaf = parse(end_entity)?;
    let is_own_issuer = leaf.subject().as_raw() == leaf.issuer().as_raw();
    #[allow(
        clippy::wildcard_enum_match_arm,
        reason = "the enum is open; for what it does not name here rustls has words"
    )]
    match error {
        // rustls has no variant for an authority's certificate in the place of a server's.
        CertificateError::Other(_) if leaf.is_ca() && is_own_issuer => Some(RejectReason::OwnAuthority),
        CertificateError::Other(_) if leaf.is_ca() => Some(RejectReason::Authority),
        CertificateError::UnknownIssuer | CertificateError::BadSignature if is_own_issuer => {
            Some(RejectReason::SelfSigned)
        }
        CertificateError::BadSignature => above.iter().find_map(short_key).map(RejectReason::ShortKeyAbove),
        CertificateError::ExpiredContext { not_after, .. } => {
            let own = u64::try_from(leaf.validity().not_after.timestamp()).unwrap_or(0);
            (own != not_after.as_secs()).then_some(RejectReason::ExpiredAbove(*not_after))
        }
        _ => None,
    }
}

/// Length in bits of an RSA key that is too short.
///
/// `None` for longer keys, for other kinds of keys, and for bytes that are no certificate.
fn short_key(certificate: &CertificateDer<'_>) -> Option<usize> {
    match parse(certificate)?.public_key().parsed() {
        Ok(PublicKey::RSA(key)) => Some(key.key_size()).filter(|bits| *bits < SHORTEST_RSA),
        Ok(
            PublicKey::EC(_)
            | PublicKey::DSA(_)
            | PublicKey::GostR3410(_)
            | PublicKey::GostR3410_2012(_)
            | PublicKey::Unknown(_),
        )
        | Err(_) => None,
    }
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Option<X509Certificate<'a>> {
    x509_parser::parse_x509_certificate(certificate).ok().map(|(_rest, certificate)| certificate)
}
