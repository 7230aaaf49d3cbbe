//! Validity period and serial number of certificates, and Unix time in their terms.

use std::time::Duration;

use jiff::Timestamp;
use rcgen::CertificateParams;

/// Age of new certificates: one day, since clocks of callers may be behind ours.
pub(super) const BACKDATE: Duration = Duration::from_secs(86_400);

/// Serial number of 127 random bits, never 0 (RFC 5280 §4.1.2.2).
///
/// Its first byte is 64 to 127, so that it is positive and has its full length in DER.
///
/// # Errors
/// If the system has no random numbers.
pub(super) fn serial() -> Result<[u8; 16], rcgen::Error> {
    let mut serial = [0; 16];
    let random = ring::rand::SystemRandom::new();
    ring::rand::SecureRandom::fill(&random, &mut serial).map_err(|_| rcgen::Error::RingUnspecified)?;
    serial[0] = (serial[0] & 0x7f) | 0x40;
    Ok(serial)
}

/// Unix time in whole seconds; 0 before 1970.
pub(super) fn unix(wall_unix_nanos: i128) -> Duration {
    Duration::from_secs(u64::try_from(wall_unix_nanos / 1_000_000_000).unwrap_or(0))
}

/// The same as a signed number, for comparison with certificates.
pub(super) fn unix_seconds(wall_unix_nanos: i128) -> i64 {
    i64::try_from(unix(wall_unix_nanos).as_secs()).unwrap_or(i64::MAX)
}

/// Sets the validity period, in Unix time, capped at the last second that a certificate can express.
pub(super) fn set_validity(params: &mut CertificateParams, from: Duration, until: Duration) {
    /// The last second of the year 9999, where the time of certificates ends (RFC 5280 §4.1.2.5).
    const LAST: Duration = Duration::from_secs(253_402_300_799);
    let start = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = start + from.min(LAST);
    params.not_after = start + until.min(LAST);
}

/// RFC 3339 form of a Unix time.
///
/// `2026-03-01T00:00:00Z`, for error texts and logs.
pub(super) fn date(unix_seconds: i64) -> String {
    Timestamp::from_second(unix_seconds).map_or_else(|_| "the end of time".to_owned(), |moment| moment.to_string())
}
