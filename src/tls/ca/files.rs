//! The files of the authority: read with suspicion, made once, replaced as a whole.

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

/// How long an authority is valid: it is put into trust stores by hand, so not soon again.
const LIFETIME: Duration = Duration::from_secs(10 * 365 * 86_400);
/// When its end is near enough to speak of.
const EXPIRY_WARNING_SECS: i64 = 30 * 86_400;
/// How much of this machine's name stands in the name of its authority, which may have 64 characters (RFC 5280
/// appendix A.1, ub-common-name).
const MAX_HOST_NAME: usize = 30;

/// The key's file in the folder of the authority.
const KEY: &str = "lockgate-ca.key";
/// The certificate's file.
const CERTIFICATE: &str = "lockgate-ca.pem";
/// The certificate of the authority before this one.
const OLD: &str = "lockgate-ca-old.pem";

/// Where the authority is kept, and for whom it may vouch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// The folder of its key and certificate.
    pub dir: PathBuf,
    /// The hosts whose tunnels may be opened.
    pub covers: Vec<Subtree>,
}

/// An authority as it is kept: checked, and ready to sign.
pub(super) struct LoadedCa {
    pub(super) certificate: CertificateDer<'static>,
    pub(super) key: KeyPair,
    pub(super) summary: CertSummary,
}

/// The file with the certificate of the authority.
pub fn certificate_path(dir: &Path) -> PathBuf {
    dir.join(CERTIFICATE)
}

/// The file with its key.
pub fn key_path(dir: &Path) -> PathBuf {
    dir.join(KEY)
}

/// The file with the certificate of the authority before the last [`rotate`](super::rotate), if there was one.
pub fn old_certificate_path(dir: &Path) -> PathBuf {
    dir.join(OLD)
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
    let path = certificate_path(&settings.dir);
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
    let path = certificate_path(&settings.dir);
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
    params.name_constraints = constraints(&settings.covers);
    let now = unix(wall_unix_nanos);
    set_validity(&mut params, now.saturating_sub(BACKDATE), now + LIFETIME);
    let certificate = params.self_signed(&key)?;
    Ok((key, certificate))
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
