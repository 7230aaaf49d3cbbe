//! Reasons to reject an origin's certificate for which rustls has no variant.

use jiff::Timestamp;
use rustls::pki_types::UnixTime;

/// Reason to reject a certificate, where rustls has no variant for it.
#[derive(Debug, thiserror::Error)]
pub(super) enum RejectReason {
    /// Issuer and subject are one, and no trusted root vouches for it.
    #[error("it is self-signed ([tls] trust may name it)")]
    SelfSigned,
    /// Self-signed, with the basic constraint CA:TRUE (RFC 5280 §4.2.1.9).
    #[error(
        "it is self-signed, and says that it is an authority's (CA:TRUE), which a server's own may not be even if it is trusted"
    )]
    OwnAuthority,
    /// Another authority's certificate in the place of a server's.
    #[error("it is an authority's (CA:TRUE), which is for signing others and not for a server")]
    Authority,
    /// RSA key of the leaf, with its length in bits.
    #[error("its RSA key has {0} bits, which can be broken; 2048 are the least")]
    ShortKey(usize),
    /// RSA key of an authority in the chain, with its length in bits.
    #[error("a certificate of its chain has an RSA key of {0} bits, which can be broken; 2048 are the least")]
    ShortKeyAbove(usize),
    /// Authority in the chain that has expired, with its last moment.
    #[error("the certificate of an authority in its chain expired on {}", timestamp(*.0))]
    ExpiredAbove(UnixTime),
}

/// RFC 3339 form of a point in time.
pub(super) fn timestamp(time: UnixTime) -> String {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds).map_or_else(|_| "an unknown day".to_owned(), |moment| moment.to_string())
}
