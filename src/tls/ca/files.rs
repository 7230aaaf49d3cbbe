//! The files of the authority: read with suspicion, made once, replaced as a whole.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose, PublicKeyData,
    SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::certificate::X509Certificate;

use super::super::pem;
use super::{CERTIFICATE, CaFault, CertAuthority, CertSummary, KEY, NameScope, OLD, Settings, name_scope};

/// How long an authority is valid: it is put into trust stores by hand, so not soon again.
const LIFETIME: Duration = Duration::from_secs(10 * 365 * 86_400);
/// Clocks of callers may be behind ours.
pub(super) const BACKDATE: Duration = Duration::from_secs(86_400);
/// When its end is near enough to speak of.
const EXPIRY_WARNING_SECS: i64 = 30 * 86_400;
/// How much of this machine's name stands in the name of its authority, which may have 64 characters (RFC 5280
/// appendix A.1, ub-common-name).
const MAX_HOST_NAME: usize = 30;

/// An authority as it is kept: checked, and ready to sign.
pub(super) struct LoadedCa {
    pub(super) certificate: CertificateDer<'static>,
    pub(super) key: KeyPair,
    pub(super) summary: CertSummary,
}

/// Reads the authority, or makes it if there is none.
pub(super) fn open(settings: &Settings, wall_unix_nanos: i128) -> Result<LoadedCa, CaFault> {
    if let Some(kept) = inspect(settings, wall_unix_nanos)? {
        return Ok(kept);
    }
    create_dir(&settings.dir)?;
    let _lock = lock_dir(&settings.dir)?;
    match read(settings, wall_unix_nanos)? {
        Some(kept) => Ok(kept),
        None => replace(settings, wall_unix_nanos),
    }
}

/// Reads the authority if there is one.
pub(super) fn inspect(settings: &Settings, wall_unix_nanos: i128) -> Result<Option<LoadedCa>, CaFault> {
    // Without the lock at first: where there is an authority, a folder that may only be read will do.
    match read(settings, wall_unix_nanos) {
        // Somebody may be at work there, and done when we have the lock.
        Err(CaFault::Incomplete { .. } | CaFault::Mismatch { .. }) => {
            let _lock = lock_dir(&settings.dir)?;
            read(settings, wall_unix_nanos)
        }
        settled => settled,
    }
}

/// Makes a new authority in the place of the old one.
pub(super) fn rotate(settings: &Settings, wall_unix_nanos: i128) -> Result<LoadedCa, CaFault> {
    create_dir(&settings.dir)?;
    let _lock = lock_dir(&settings.dir)?;
    let path = CertAuthority::path(&settings.dir);
    // What no program can have believed is not kept.
    if read_certificate(&path).is_ok() {
        let text = fs::read(&path).map_err(|source| pem::Error::Read { path: path.clone(), source })?;
        write_file(&settings.dir, OLD, &text, 0o644)?;
    }
    replace(settings, wall_unix_nanos)
}

/// Says so if the authority will not be valid much longer.
pub(super) fn warn_before_expiry(summary: &CertSummary, wall_unix_nanos: i128) {
    if summary.not_after - unix_seconds(wall_unix_nanos) < EXPIRY_WARNING_SECS {
        let until = date(summary.not_after);
        tracing::warn!(until, "our authority is near its end: `lockgate ca rotate` makes a new one");
    }
}

fn create_dir(dir: &Path) -> Result<(), CaFault> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|source| CaFault::Write { path: dir.to_owned(), source })
}

/// The folder, which is ours alone until the file is dropped.
fn lock_dir(dir: &Path) -> Result<File, CaFault> {
    let failed = |source| CaFault::Write { path: dir.to_owned(), source };
    let folder = File::open(dir).map_err(failed)?;
    folder.lock().map_err(failed)?;
    Ok(folder)
}

/// The authority that is there, checked; `None` if there is none.
fn read(settings: &Settings, wall_unix_nanos: i128) -> Result<Option<LoadedCa>, CaFault> {
    let (path, key_path) = (CertAuthority::path(&settings.dir), CertAuthority::key_path(&settings.dir));
    let (certificate, summary, key) = match (read_certificate(&path), pem::private_key(&key_path)) {
        (Ok((certificate, summary)), Ok(key)) => (certificate, summary, key),
        (Err(CaFault::File(error)), Err(other)) if error.is_missing() && other.is_missing() => return Ok(None),
        (Err(CaFault::File(error)), Ok(_)) if error.is_missing() => {
            return Err(CaFault::Incomplete { there: key_path, missing: path });
        }
        (Ok(_), Err(error)) if error.is_missing() => {
            return Err(CaFault::Incomplete { there: path, missing: key_path });
        }
        (Err(fault), _) => return Err(fault),
        (_, Err(error)) => return Err(error.into()),
    };
    let key = key_pair(&key).map_err(|why| CaFault::Unusable { path: key_path.clone(), why })?;
    if !is_key_of(&key, &certificate) {
        return Err(CaFault::Mismatch { key: key_path, certificate: path });
    }
    check_time(&summary, &path, unix_seconds(wall_unix_nanos))?;
    match settings.covers.iter().find(|subtree| !summary.scope.covers(subtree)) {
        Some(host) => Err(CaFault::NotCovered { path, host: host.clone(), scope: Box::new(summary.scope) }),
        None => Ok(Some(LoadedCa { certificate, key, summary })),
    }
}

/// The certificate in a file, if it is an authority's.
pub(super) fn read_certificate(path: &Path) -> Result<(CertificateDer<'static>, CertSummary), CaFault> {
    let certificate = pem::certificates(path)?.swap_remove(0);
    match summary(&certificate) {
        Ok(summary) => Ok((certificate, summary)),
        Err(why) => Err(CaFault::Unusable { path: path.to_owned(), why }),
    }
}

fn check_time(summary: &CertSummary, path: &Path, now: i64) -> Result<(), CaFault> {
    if now > summary.not_after {
        return Err(CaFault::Expired { path: path.to_owned(), until: date(summary.not_after) });
    }
    if now < summary.not_before {
        return Err(CaFault::NotYetValid { path: path.to_owned(), from: date(summary.not_before) });
    }
    Ok(())
}

/// What a certificate says of itself, if it is an authority's.
fn summary(certificate: &CertificateDer<'_>) -> Result<CertSummary, String> {
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

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, String> {
    match x509_parser::parse_x509_certificate(certificate) {
        Ok((_rest, read)) => Ok(read),
        Err(error) => Err(format!("it is no certificate: {error}")),
    }
}

fn key_pair(key: &PrivateKeyDer<'static>) -> Result<KeyPair, String> {
    KeyPair::try_from(key).map_err(|error| format!("its key cannot be used (PKCS #8 is needed): {error}"))
}

fn is_key_of(key: &KeyPair, certificate: &CertificateDer<'_>) -> bool {
    parse(certificate).is_ok_and(|read| *read.public_key().subject_public_key.data == *key.der_bytes())
}

/// Makes an authority and puts it into the folder, which is locked. The key goes first: a crash in between leaves two
/// files that do not fit together, which is told, and never an authority that others believe with its key lost.
fn replace(settings: &Settings, wall_unix_nanos: i128) -> Result<LoadedCa, CaFault> {
    let (key, certificate) =
        create(settings, wall_unix_nanos).map_err(|error| CaFault::Generation(error.to_string()))?;
    write_file(&settings.dir, KEY, key.serialize_pem().as_bytes(), 0o600)?;
    write_file(&settings.dir, CERTIFICATE, certificate.pem().as_bytes(), 0o644)?;
    let path = CertAuthority::path(&settings.dir);
    let certificate = certificate.der().clone();
    let summary = summary(&certificate).map_err(|why| CaFault::Unusable { path, why })?;
    tracing::info!(subject = summary.subject, folder = %settings.dir.display(), "an authority was made");
    Ok(LoadedCa { certificate, key, summary })
}

fn create(settings: &Settings, wall_unix_nanos: i128) -> Result<(KeyPair, rcgen::Certificate), rcgen::Error> {
    let key = KeyPair::generate()?;
    let serial = serial()?;
    let mark: String = serial[13..].iter().map(|byte| format!("{byte:02x}")).collect();
    let today = date(unix_seconds(wall_unix_nanos));
    let day = today.split('T').next().unwrap_or_default();
    let mut params = CertificateParams::default();
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "lockgate");
    // No two authorities share a name, or a program that knows both would look for the issuer at the wrong one.
    params.distinguished_name.push(DnType::CommonName, format!("lockgate CA ({}, {day}, {mark})", host_name()));
    // It signs leaves, and no authority below it.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.name_constraints = name_scope::constraints(&settings.covers);
    let now = unix(wall_unix_nanos);
    set_validity(&mut params, now.saturating_sub(BACKDATE), now + LIFETIME);
    let certificate = params.self_signed(&key)?;
    Ok((key, certificate))
}

/// 127 random bits, and not 0 (RFC 5280 §4.1.2.2).
pub(super) fn serial() -> Result<[u8; 16], rcgen::Error> {
    let mut serial = [0; 16];
    let random = ring::rand::SystemRandom::new();
    ring::rand::SecureRandom::fill(&random, &mut serial).map_err(|_| rcgen::Error::RingUnspecified)?;
    serial[0] = (serial[0] & 0x7f) | 0x40;
    Ok(serial)
}

/// The name of this machine, as far as it can stand in a certificate and a terminal.
fn host_name() -> String {
    let name = rustix::system::uname();
    let name = name.nodename().to_string_lossy().into_owned();
    name.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')).take(MAX_HOST_NAME).collect()
}

/// Writes a file so that it is there as a whole or not at all, whatever happens meanwhile. The folder is locked.
fn write_file(dir: &Path, name: &str, text: &[u8], mode: u32) -> Result<(), CaFault> {
    let (path, new) = (dir.join(name), dir.join(format!(".{name}.new")));
    let failed = |source: io::Error| CaFault::Write { path: path.clone(), source };
    write_new(&new, text, mode).map_err(failed)?;
    fs::rename(&new, &path).map_err(failed)?;
    File::open(dir).and_then(|folder| folder.sync_all()).map_err(failed)
}

fn write_new(new: &PathBuf, text: &[u8], mode: u32) -> io::Result<()> {
    // One that was left behind by a crash.
    match fs::remove_file(new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(new)?;
    file.write_all(text)?;
    file.sync_all()
}

/// Unix time; what lies before its beginning is its beginning.
pub(super) fn unix(wall_unix_nanos: i128) -> Duration {
    Duration::from_secs(u64::try_from(wall_unix_nanos / 1_000_000_000).unwrap_or(0))
}

fn unix_seconds(wall_unix_nanos: i128) -> i64 {
    i64::try_from(unix(wall_unix_nanos).as_secs()).unwrap_or(i64::MAX)
}

/// Puts the first and the last moment into a certificate, in Unix time. What is beyond all calendars is their end.
pub(super) fn set_validity(params: &mut CertificateParams, from: Duration, until: Duration) {
    /// The last second of the year 9999, where the time of certificates ends (RFC 5280 §4.1.2.5).
    const LAST: Duration = Duration::from_secs(253_402_300_799);
    let start = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = start + from.min(LAST);
    params.not_after = start + until.min(LAST);
}

/// A moment as people write it.
pub(super) fn date(unix_seconds: i64) -> String {
    Timestamp::from_second(unix_seconds).map_or_else(|_| "the end of time".to_owned(), |moment| moment.to_string())
}
