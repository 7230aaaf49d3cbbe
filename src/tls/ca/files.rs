//! Files of the authority: checked on every read, created once, replaced atomically.
//!
//! | file | mode | holds |
//! |---|---|---|
//! | `lockgate-ca.key` | 600 | private key (PKCS #8) |
//! | `lockgate-ca.pem` | 644 | certificate |
//! | `lockgate-ca-old.pem` | 644 | certificate before the last rotation |
//!
//! Writers hold an advisory lock (flock(2)) on the folder; readers take it only if they find a
//! half-written pair. Times are nanoseconds of Unix time, from the wall clock.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose, PublicKeyData,
    SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::super::pem;
use super::cert_summary::{CertSummary, parse, summary};
use super::fault::CaFault;
use super::name_scope::{Subtree, constraints};
use super::validity::{BACKDATE, date, serial, set_validity, unix, unix_seconds};

/// Validity of an authority: ten years, since people install it in trust stores by hand.
const LIFETIME: Duration = Duration::from_secs(10 * 365 * 86_400);
/// Remaining validity below which a start logs a warning: 30 days, enough to plan a rotation.
const EXPIRY_WARNING_SECS: i64 = 30 * 86_400;
/// Longest part of this machine's name in the name of its authority, in characters. A common name
/// has at most 64 (RFC 5280 appendix A.1, ub-common-name).
const MAX_HOST_NAME: usize = 30;

/// File name of the key.
const KEY: &str = "lockgate-ca.key";
/// File name of the certificate.
const CERTIFICATE: &str = "lockgate-ca.pem";
/// File name of the certificate before the last rotation.
const OLD: &str = "lockgate-ca-old.pem";

/// Folder of the authority, and the hosts that it may vouch for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Folder of its key and certificate.
    pub dir: PathBuf,
    /// Hosts of intercepted tunnels.
    pub covers: Vec<Subtree>,
}

/// Authority as read from its files: checked, and ready to sign.
pub(super) struct LoadedCa {
    /// Certificate of the authority.
    pub(super) certificate: CertificateDer<'static>,
    /// Its private key.
    pub(super) key: KeyPair,
    /// Fields of the certificate that checks and logs need.
    pub(super) summary: CertSummary,
}

/// Path of the authority's certificate (PEM).
pub fn certificate_path(dir: &Path) -> PathBuf {
    dir.join(CERTIFICATE)
}

/// Path of the authority's key (PEM, PKCS #8).
pub fn key_path(dir: &Path) -> PathBuf {
    dir.join(KEY)
}

/// Path of the certificate before the last [`rotate`](super::rotate); the file may not exist.
pub fn old_certificate_path(dir: &Path) -> PathBuf {
    dir.join(OLD)
}

/// Reads the authority, or creates it if there is none.
///
/// Creates the folder (mode 700) and the files only if neither file exists.
///
/// # Errors
/// See [`CaFault`]: unreadable, incomplete, mismatched, expired, not yet valid, not covering the
/// settings, or not writable.
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

/// Reads the authority; `None` if there is none.
///
/// # Errors
/// As [`open`], without those of writing, but for the lock.
pub(super) fn inspect(settings: &Settings, wall_unix_nanos: i128) -> Result<Option<LoadedCa>, CaFault> {
    // The first read goes without the lock: an existing authority needs no writable folder.
    match read(settings, wall_unix_nanos) {
        // Another process may be writing, and is done once we hold the lock.
        Err(CaFault::Incomplete { .. } | CaFault::Mismatch { .. }) => {
            let _lock = lock_dir(&settings.dir)?;
            read(settings, wall_unix_nanos)
        }
        settled => settled,
    }
}

/// Creates a new authority in place of the old one.
///
/// Works also if the old files are broken. The order of the steps: lock, keep the old certificate,
/// write the key, write the certificate.
///
/// # Errors
/// If the folder cannot be locked, or a file cannot be read or written.
pub(super) fn rotate(settings: &Settings, wall_unix_nanos: i128) -> Result<LoadedCa, CaFault> {
    create_dir(&settings.dir)?;
    let _lock = lock_dir(&settings.dir)?;
    let path = certificate_path(&settings.dir);
    // A certificate that no program can have trusted is not kept.
    if read_certificate(&path).is_ok() {
        let text = fs::read(&path).map_err(|source| pem::Error::Read { path: path.clone(), source })?;
        write_file(&settings.dir, OLD, &text, 0o644)?;
    }
    replace(settings, wall_unix_nanos)
}

/// Logs a warning if the authority expires soon.
pub(super) fn warn_before_expiry(summary: &CertSummary, wall_unix_nanos: i128) {
    if summary.not_after - unix_seconds(wall_unix_nanos) < EXPIRY_WARNING_SECS {
        let until = date(summary.not_after);
        tracing::warn!(until, "the certificate authority expires soon; `lockgate ca rotate` makes a new one");
    }
}

/// Creates the folder for its owner only (mode 700); an existing folder keeps its mode.
fn create_dir(dir: &Path) -> Result<(), CaFault> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|source| CaFault::Write { path: dir.to_owned(), source })
}

/// Locks the folder until the returned file is dropped.
fn lock_dir(dir: &Path) -> Result<File, CaFault> {
    let failed = |source| CaFault::Write { path: dir.to_owned(), source };
    let folder = File::open(dir).map_err(failed)?;
    folder.lock().map_err(failed)?;
    Ok(folder)
}

/// Reads and checks the authority; `None` if there is none.
fn read(settings: &Settings, wall_unix_nanos: i128) -> Result<Option<LoadedCa>, CaFault> {
    let (path, key_path) = (certificate_path(&settings.dir), key_path(&settings.dir));
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

/// Reads a certificate file and checks that the certificate is an authority's.
///
/// # Errors
/// `File` if it cannot be read or holds none, `Unusable` if it is not an authority's.
pub(super) fn read_certificate(path: &Path) -> Result<(CertificateDer<'static>, CertSummary), CaFault> {
    let certificate = pem::certificates(path)?.swap_remove(0);
    match summary(&certificate) {
        Ok(summary) => Ok((certificate, summary)),
        Err(why) => Err(CaFault::Unusable { path: path.to_owned(), why }),
    }
}

/// Checks the validity period against the wall clock. `now`: seconds of Unix time; both ends belong
/// to the period.
fn check_time(summary: &CertSummary, path: &Path, now: i64) -> Result<(), CaFault> {
    if now > summary.not_after {
        return Err(CaFault::Expired { path: path.to_owned(), until: date(summary.not_after) });
    }
    if now < summary.not_before {
        return Err(CaFault::NotYetValid { path: path.to_owned(), from: date(summary.not_before) });
    }
    Ok(())
}

fn key_pair(key: &PrivateKeyDer<'static>) -> Result<KeyPair, String> {
    KeyPair::try_from(key).map_err(|error| format!("its key cannot be used (PKCS #8 is needed): {error}"))
}

/// True if the certificate holds the public key of this pair.
fn is_key_of(key: &KeyPair, certificate: &CertificateDer<'_>) -> bool {
    parse(certificate).is_ok_and(|read| *read.public_key().subject_public_key.data == *key.der_bytes())
}

/// Creates an authority and puts it into the locked folder. The key is written first: a crash in
/// between leaves two files that do not match, which is reported, and never a trusted authority
/// with its key lost.
fn replace(settings: &Settings, wall_unix_nanos: i128) -> Result<LoadedCa, CaFault> {
    let (key, certificate) =
        create(settings, wall_unix_nanos).map_err(|error| CaFault::Generation(error.to_string()))?;
    write_file(&settings.dir, KEY, key.serialize_pem().as_bytes(), 0o600)?;
    write_file(&settings.dir, CERTIFICATE, certificate.pem().as_bytes(), 0o644)?;
    let path = certificate_path(&settings.dir);
    let certificate = certificate.der().clone();
    let summary = summary(&certificate).map_err(|why| CaFault::Unusable { path, why })?;
    tracing::info!(subject = summary.subject, folder = %settings.dir.display(), "certificate authority created");
    Ok(LoadedCa { certificate, key, summary })
}

/// Makes a self-signed certificate with a new key. Its name tells machine, day and the last bytes
/// of its serial number: `lockgate CA (host, 2026-03-01, 1f2e3d)`.
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
    // Each authority has a name of its own, or a program that knows two would look for the issuer at the wrong one.
    params.distinguished_name.push(DnType::CommonName, format!("lockgate CA ({}, {day}, {mark})", host_name()));
    // It signs leaves, and no authority below it.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.name_constraints = constraints(&settings.covers);
    let now = unix(wall_unix_nanos);
    set_validity(&mut params, now.saturating_sub(BACKDATE), now + LIFETIME);
    let certificate = params.self_signed(&key)?;
    Ok((key, certificate))
}

/// Name of this machine, reduced to characters that are safe in a certificate and a terminal.
fn host_name() -> String {
    let name = rustix::system::uname();
    let name = name.nodename().to_string_lossy().into_owned();
    name.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')).take(MAX_HOST_NAME).collect()
}

/// Writes a file atomically and durably (rename and fsync). The folder is locked.
fn write_file(dir: &Path, name: &str, text: &[u8], mode: u32) -> Result<(), CaFault> {
    let (path, new) = (dir.join(name), dir.join(format!(".{name}.new")));
    let failed = |source: io::Error| CaFault::Write { path: path.clone(), source };
    write_new(&new, text, mode).map_err(failed)?;
    fs::rename(&new, &path).map_err(failed)?;
    File::open(dir).and_then(|folder| folder.sync_all()).map_err(failed)
}

/// Writes a temporary file with this mode from its creation on: a key is never readable by others,
/// not even for a moment.
fn write_new(new: &PathBuf, text: &[u8], mode: u32) -> io::Result<()> {
    // Removes a leftover of a crash.
    match fs::remove_file(new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(new)?;
    file.write_all(text)?;
    file.sync_all()
}
