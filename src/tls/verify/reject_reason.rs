//! Reasons to reject an origin's certificate for which rustls has no variant.

use jiff::Timestamp;
use rustls::pki_types::UnixTime;

/// Reason to reject a certificate, where rustls has no variant for it.
#[derive(Debug, thiserror::Error)]
pub(super) enum RejectReason {
    #[error("it is self-signed")]
    SelfSigned,
    #[error(
        "it is self-signed, and says that it is an authority's (CA:TRUE), which a server's own may not be even if it is trusted"
    )]
    OwnAuthority,
    #[error("it is an authority's (CA:TRUE), which is for signing others and not for a server")]
    Authority,
    #[error("its RSA key has {0} bits, which can be broken; 2048 are the least")]
    ShortKey(usize),
    #[error("a certificate of its chain has an RSA key of {0} bits, which can be broken; 2048 are the least")]
    ShortKeyAbove(usize),
    #[error("the certificate of an authority in its chain expired on {}", timestamp(*.0))]
    ExpiredAbove(UnixTime),
}

/// RFC 3339 form of a point in time.
pub(super) fn timestamp(time: UnixTime) -> String {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds).map_or_else(|_| "an unknown day".to_owned(), |moment| moment.to_string())
}
