//! Summary of the authority's certificate, read from its X.509 fields.

use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;

use super::name_scope::NameScope;

/// Main fields of the authority's certificate, as `lockgate ca show` prints them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CertSummary {
    /// Distinguished name of the subject.
    pub subject: String,
    /// First second of validity, in Unix time.
    pub not_before: i64,
    /// Last second of validity, in Unix time.
    pub not_after: i64,
    /// SHA-256 of the certificate (DER).
    pub fingerprint: [u8; 32],
    /// Hosts that it may vouch for.
    pub scope: NameScope,
}

/// Summary of a certificate.
///
/// # Errors
/// If it is malformed, or not an authority's; the text says why.
pub(super) fn summary(certificate: &CertificateDer<'_>) -> Result<CertSummary, String> {
    let read = parse(certificate)?;
    if !read.is_ca() {
        return Err("it is not the certificate of an authority".to_owned());
    }
    let usage = read.key_usage().map_err(|error| error.to_string())?;
    if usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
        return Err("it may not sign certificates".to_owned());
    }
    let mut fingerprint = [0; 32];
    fingerprint.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, certificate).as_ref());
    Ok(CertSummary {
        subject: read.subject().to_string(),
        not_before: read.validity().not_before.timestamp(),
        not_after: read.validity().not_after.timestamp(),
        fingerprint,
        scope: NameScope::of(&read)?,
    })
}

/// Parses a certificate (DER); bytes behind it are ignored.
///
/// # Errors
/// If it is no certificate; the text says why.
pub(super) fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, String> {
    match x509_parser::parse_x509_certificate(certificate) {
        Ok((_rest, read)) => Ok(read),
        Err(error) => Err(format!("it is no certificate: {error}")),
    }
}
