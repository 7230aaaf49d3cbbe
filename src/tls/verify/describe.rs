//! Error texts of failed TLS connections, in words that a user can act on; rustls' own text for the rest.
//!
//! Texts continue a sentence that the error begins: "the certificate is not accepted: it expired on
//! 2026-03-01T00:00:00Z". Names and dates of the certificate are in them, and settings of
//! `proxy.toml` that may help (`[tls] trust`, `[[tls.client]]`).

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage};

use super::reject_reason::{RejectReason, timestamp};

/// Object identifiers of signature algorithms with broken hashes, as encoded in a certificate (RFC 3279 §2.2).
const BROKEN_HASHES: [(&[u8], &str); 4] = [
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x04], "MD5"),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x05], "SHA-1"),
    (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01], "SHA-1"),
    (&[0x2a, 0x86, 0x48, 0xce, 0x38, 0x04, 0x03], "SHA-1"),
];

/// Describes a rejected certificate.
pub(super) fn certificate_error(error: &Error) -> String {
    let Error::InvalidCertificate(reason) = error else {
        return error.to_string();
    };
    #[allow(
        clippy::wildcard_enum_match_arm,
        reason = "the enum is open; what it does not name here has words of its own"
    )]
    match reason {
        CertificateError::ExpiredContext { not_after, .. } => format!("it expired on {}", timestamp(*not_after)),
        CertificateError::Expired => "it has expired".to_owned(),
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("it is not valid before {}", timestamp(*not_before))
        }
        CertificateError::NotValidYet => "it is not valid yet".to_owned(),
        CertificateError::UnknownIssuer => {
            "its issuer is not trusted (roots beside the system's are named in [tls] trust)".to_owned()
        }
        CertificateError::NotValidForName => "it is for another name".to_owned(),
        CertificateError::NotValidForNameContext { expected, presented } => {
            format!("it is not for {} but for {}", expected.to_str(), list_names(presented))
        }
        CertificateError::BadSignature => "the issuer that it names did not sign it".to_owned(),
        CertificateError::UnsupportedSignatureAlgorithmContext { signature_algorithm_id, .. } => {
            match broken_hash(signature_algorithm_id) {
                Some(hash) => format!("it, or one in its chain, is signed with {hash}, which can be forged"),
                None => "it, or one in its chain, is signed in a way that is not accepted".to_owned(),
            }
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "it is not meant for servers (its extended key usage lacks serverAuth)".to_owned()
        }
        CertificateError::BadEncoding => "it is broken".to_owned(),
        CertificateError::Revoked => "it was revoked".to_owned(),
        CertificateError::Other(other) => match other.0.downcast_ref::<RejectReason>() {
            Some(reason) => reason.to_string(),
            None if format!("{:?}", other.0) == "NameConstraintViolation" => {
                "its authority may not vouch for the names that it bears (name constraints)".to_owned()
            }
            None => format!("it breaks a rule: {}", other.0),
        },
        other => other.to_string(),
    }
}

/// Describes a failed handshake.
pub(super) fn handshake_error(error: &Error) -> String {
    #[allow(
        clippy::wildcard_enum_match_arm,
        reason = "the enum is open; what it does not name here has words of its own"
    )]
    match error {
        Error::AlertReceived(alert) => alert_error(*alert),
        // The first byte is none of the five record types of TLS; a response of HTTP begins so.
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "the origin's answer is not TLS (does the port speak plain http?)".to_owned()
        }
        Error::PeerIncompatible(why) => format!("TLS 1.2 or 1.3 cannot be agreed on with the origin: {why:?}"),
        other => other.to_string(),
    }
}

/// True if the origin rejected our client certificate.
///
/// By the alert that it sent (RFC 8446 §6.2).
pub(super) fn rejects_client_cert(error: &Error) -> bool {
    matches!(
        error,
        Error::AlertReceived(
            AlertDescription::CertificateRequired
                | AlertDescription::NoCertificate
                | AlertDescription::BadCertificate
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::CertificateRevoked
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateUnknown
                | AlertDescription::UnknownCA
                | AlertDescription::AccessDenied
        )
    )
}

/// Describes an alert by its cause as a user can mend it, or by its name.
fn alert_error(alert: AlertDescription) -> String {
    #[allow(clippy::wildcard_enum_match_arm, reason = "the enum is open; what it does not name here is told by its name")]
    match alert {
        AlertDescription::CertificateRequired | AlertDescription::NoCertificate => {
            "the origin demands a client certificate, and was shown none; [[tls.client]] names one".to_owned()
        }
        AlertDescription::HandshakeFailure => {
            "the origin broke the handshake off: it has no cipher in common with us (one with RSA key exchange alone has \
             none: leave its host out of [tls] intercept), or demands a client certificate ([[tls.client]] names one)"
                .to_owned()
        }
        AlertDescription::ProtocolVersion | AlertDescription::InsufficientSecurity => {
            "the origin speaks neither TLS 1.2 nor TLS 1.3 as we do".to_owned()
        }
        AlertDescription::NoApplicationProtocol => "the origin speaks none of the protocols that were offered".to_owned(),
        AlertDescription::UnrecognisedName => "the origin knows no host of this name".to_owned(),
        alert if rejects_client_cert(&Error::AlertReceived(alert)) => format!(
            "the origin does not accept our client certificate ({alert:?}); [[tls.client]] names the one that it is shown"
        ),
        alert => format!("the origin broke TLS off: {alert:?}"),
    }
}

/// Hash of a signature algorithm, if it is one that can be forged; `algorithm`: DER.
fn broken_hash(algorithm: &[u8]) -> Option<&'static str> {
    let has = |oid: &[u8]| memchr::memmem::find(algorithm, oid).is_some();
    BROKEN_HASHES.iter().find(|(oid, _)| has(oid)).map(|(_, hash)| *hash)
}

/// The first names of a certificate, which may bear hundreds.
fn list_names(presented: &[String]) -> String {
    const MOST: usize = 3;
    let first = presented.iter().take(MOST).map(|name| bare_name(name)).collect::<Vec<_>>().join(", ");
    match presented.len() {
        0 => "no name at all".to_owned(),
        1..=MOST => first,
        more => format!("{first} and {} more", more - MOST),
    }
}

/// Name without rustls' wrapper: `DnsName("a.example")` becomes `a.example`.
fn bare_name(name: &str) -> String {
    let bare = name.split_once('(').and_then(|(_kind, rest)| rest.strip_suffix(')')).unwrap_or(name);
    bare.trim_matches('"').escape_default().to_string()
}
