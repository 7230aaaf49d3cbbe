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
use super::{Authority, CERTIFICATE, Fault, KEY, OLD, Portrait, Scope, Settings, constraints};

/// How long an authority is valid: it is put into trust stores by hand, so not soon again.
const LIFETIME: Duration = Duration::from_secs(10 * 365 * 86_400);
/// Clocks of callers may be behind ours.
pub(super) const BACKDATED: Duration = Duration::from_secs(86_400);
/// When its end is near enough to speak of.
const END_IS_NEAR_SECS: i64 = 30 * 86_400;
/// How much of this machine's name stands in the name of its authority, which may have 64 characters (RFC 5280
/// appendix A.1, ub-common-name).
const LONGEST_MACHINE: usize = 30;

/// An authority as it is kept: checked, and ready to sign.
pub(super) struct Kept {
    pub(super) certificate: CertificateDer<'static>,
    pub(super) key: KeyPair,
    pub(super) portrait: Portrait,
}

/// Reads the authority, or makes it if there is none.
pub(super) fn open(settings: &Settings, wall_unix_nanos: i128) -> Result<Kept, Fault> {
    if let Some(kept) = look(settings, wall_unix_nanos)? {
        return Ok(kept);
    }
    make_folder(&settings.dir)?;
    let _lock = lock(&settings.dir)?;
    match read(settings, wall_unix_nanos)? {
        Some(kept) => Ok(kept),
        None => replace(settings, wall_unix_nanos),
    }
}

/// Reads the authority if there is one.
pub(super) fn look(settings: &Settings, wall_unix_nanos: i128) -> Result<Option<Kept>, Fault> {
    // Without the lock at first: where there is an authority, a folder that may only be read will do.
    match read(settings, wall_unix_nanos) {
        // Somebody may be at work there, and done when we have the lock.
        Err(Fault::Half { .. } | Fault::Mismatch { .. }) => {
            let _lock = lock(&settings.dir)?;
            read(settings, wall_unix_nanos)
        }
        settled => settled,
    }
}

/// Makes a new authority in the place of the old one.
pub(super) fn rotate(settings: &Settings, wall_unix_nanos: i128) -> Result<Kept, Fault> {
    make_folder(&settings.dir)?;
    let _lock = lock(&settings.dir)?;
    let path = Authority::path(&settings.dir);
    // What no program can have believed is not kept.
    if read_certificate(&path).is_ok() {
        let text = fs::read(&path).map_err(|source| pem::Error::Read { path: path.clone(), source })?;
        put(&settings.dir, OLD, &text, 0o644)?;
    }
    replace(settings, wall_unix_nanos)
}

/// Says so if the authority will not be valid much longer.
pub(super) fn warn_of_end(portrait: &Portrait, wall_unix_nanos: i128) {
    if portrait.not_after - unix_seconds(wall_unix_nanos) < END_IS_NEAR_SECS {
        let until = date(portrait.not_after);
        tracing::warn!(until, "our authority is near its end: `lockgate ca rotate` makes a new one");
    }
}

fn make_folder(dir: &Path) -> Result<(), Fault> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|source| Fault::Write { path: dir.to_owned(), source })
}

/// The folder, which is ours alone until the file is dropped.
fn lock(dir: &Path) -> Result<File, Fault> {
    let failed = |source| Fault::Write { path: dir.to_owned(), source };
    let folder = File::open(dir).map_err(failed)?;
    folder.lock().map_err(failed)?;
    Ok(folder)
}

/// The authority that is there, checked; `None` if there is none.
fn read(settings: &Settings, wall_unix_nanos: i128) -> Result<Option<Kept>, Fault> {
    let (path, key_path) = (Authority::path(&settings.dir), Authority::key_path(&settings.dir));
    let (certificate, portrait, key) = match (read_certificate(&path), pem::private_key(&key_path)) {
        (Ok((certificate, portrait)), Ok(key)) => (certificate, portrait, key),
        (Err(Fault::File(error)), Err(other)) if error.is_missing() && other.is_missing() => return Ok(None),
        (Err(Fault::File(error)), Ok(_)) if error.is_missing() => {
            return Err(Fault::Half { there: key_path, missing: path });
        }
        (Ok(_), Err(error)) if error.is_missing() => return Err(Fault::Half { there: path, missing: key_path }),
        (Err(fault), _) => return Err(fault),
        (_, Err(error)) => return Err(error.into()),
    };
    let key = key_pair(&key).map_err(|why| Fault::Unfit { path: key_path.clone(), why })?;
    if !belongs(&key, &certificate) {
        return Err(Fault::Mismatch { key: key_path, certificate: path });
    }
    check_time(&portrait, &path, unix_seconds(wall_unix_nanos))?;
    match settings.covers.iter().find(|subtree| !portrait.scope.covers(subtree)) {
        Some(host) => Err(Fault::Uncovered { path, host: host.clone(), scope: Box::new(portrait.scope) }),
        None => Ok(Some(Kept { certificate, key, portrait })),
    }
}

/// The certificate in a file, if it is an authority's.
pub(super) fn read_certificate(path: &Path) -> Result<(CertificateDer<'static>, Portrait), Fault> {
    let certificate = pem::certificates(path)?.swap_remove(0);
    match portrait(&certificate) {
        Ok(portrait) => Ok((certificate, portrait)),
        Err(why) => Err(Fault::Unfit { path: path.to_owned(), why }),
    }
}

fn check_time(portrait: &Portrait, path: &Path, now: i64) -> Result<(), Fault> {
    if now > portrait.not_after {
        return Err(Fault::Expired { path: path.to_owned(), until: date(portrait.not_after) });
    }
    if now < portrait.not_before {
        return Err(Fault::Early { path: path.to_owned(), from: date(portrait.not_before) });
    }
    Ok(())
}

/// What a certificate says of itself, if it is an authority's.
fn portrait(certificate: &CertificateDer<'_>) -> Result<Portrait, String> {
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
    Ok(Portrait {
        subject: read.subject().to_string(),
        not_before: read.validity().not_before.timestamp(),
        not_after: read.validity().not_after.timestamp(),
        fingerprint,
        scope: Scope::of(&read)?,
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

fn belongs(key: &KeyPair, certificate: &CertificateDer<'_>) -> bool {
    parse(certificate).is_ok_and(|read| *read.public_key().subject_public_key.data == *key.der_bytes())
}

/// Makes an authority and puts it into the folder, which is locked. The key goes first: a crash in between leaves two
/// files that do not fit together, which is told, and never an authority that others believe with its key lost.
fn replace(settings: &Settings, wall_unix_nanos: i128) -> Result<Kept, Fault> {
    let (key, certificate) = create(settings, wall_unix_nanos).map_err(|error| Fault::Making(error.to_string()))?;
    put(&settings.dir, KEY, key.serialize_pem().as_bytes(), 0o600)?;
    put(&settings.dir, CERTIFICATE, certificate.pem().as_bytes(), 0o644)?;
    let path = Authority::path(&settings.dir);
    let certificate = certificate.der().clone();
    let portrait = portrait(&certificate).map_err(|why| Fault::Unfit { path, why })?;
    tracing::info!(subject = portrait.subject, folder = %settings.dir.display(), "an authority was made");
    Ok(Kept { certificate, key, portrait })
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
    params.distinguished_name.push(DnType::CommonName, format!("lockgate CA ({}, {day}, {mark})", machine()));
    // It signs leaves, and no authority below it.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.name_constraints = constraints::constraints(&settings.covers);
    let now = unix(wall_unix_nanos);
    set_validity(&mut params, now.saturating_sub(BACKDATED), now + LIFETIME);
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
fn machine() -> String {
    let name = rustix::system::uname();
    let name = name.nodename().to_string_lossy().into_owned();
    name.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')).take(LONGEST_MACHINE).collect()
}

/// Writes a file so that it is there as a whole or not at all, whatever happens meanwhile. The folder is locked.
fn put(dir: &Path, name: &str, text: &[u8], mode: u32) -> Result<(), Fault> {
    let (path, new) = (dir.join(name), dir.join(format!(".{name}.new")));
    let failed = |source: io::Error| Fault::Write { path: path.clone(), source };
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
