//! Trust bundles for programs behind the gateway: the system's roots and our authority, as PEM,
//! hashed folder and JKS.
//!
//! A program behind the gateway must trust the authority, and go on trusting all that it did: many
//! variables (`SSL_CERT_FILE` and its like) replace the roots, so the bundle repeats them. Files
//! are written only if they changed, by any number of processes at once.

mod atomic_write;
mod hashed_dir;
mod jks;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;

pub use self::atomic_write::write_atomically;
use self::atomic_write::write_error;
use super::ca;
use super::pem::{self, encode_certificates};

/// Files in which distributions keep all roots. They are read beside those of `SSL_CERT_FILE`, for
/// programs that ignore this variable.
const SYSTEM_BUNDLES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt", // Debian, Arch, Alpine, Gentoo
    "/etc/pki/tls/certs/ca-bundle.crt",   // Fedora, RHEL
    "/etc/ssl/ca-bundle.pem",             // openSUSE
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/etc/ssl/certs/ca-bundle.crt", // NixOS
];

/// Trust files that environment variables of programs point to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bundle {
    /// Our certificate (PEM), with the certificates that were added before: for variables that
    /// extend the trusted roots.
    pub ours: PathBuf,
    /// The system's roots and ours (PEM): for variables that replace the trusted roots.
    pub all: PathBuf,
    /// The same as an OpenSSL hashed folder, for programs that look up one root at a time.
    pub folder: PathBuf,
    /// The same for Java (JKS).
    pub java: PathBuf,
    /// Errors of inherited files that could not be read.
    pub unreadable: Vec<String>,
}

/// Trust settings that a program inherits from its environment, to be kept beside ours.
#[derive(Clone, Default, Debug)]
pub struct Inherited {
    /// Files (PEM) and folders in place of the system's roots.
    pub replacing: Vec<PathBuf>,
    /// Files (PEM) in addition to the roots that programs trust by themselves.
    pub additional: Vec<PathBuf>,
}

/// Certificates (DER), each once, in an order that does not depend on where they were found.
type Roots = BTreeSet<Vec<u8>>;

impl Bundle {
    /// Writes the trust files for the authority in `dir` into the folder `place`; unchanged files
    /// are not touched. The authority must exist. Other inherited roots lead to other file names,
    /// so that two programs that are started differently do not take each other's roots away.
    ///
    /// # Errors
    /// If the authority cannot be read, or a file cannot be written; the text names it.
    pub fn write(dir: &Path, place: &Path, before: &Inherited) -> io::Result<Bundle> {
        let authority = ca_certificates(dir)?;
        let mut unreadable = Vec::new();
        let mut roots = system_roots();
        let mut added = read_all(&before.additional, &mut unreadable);
        let mut further: Roots = &read_all(&before.replacing, &mut unreadable) | &added;
        further.retain(|root| !roots.contains(root) && !authority.contains(root));
        added.retain(|root| !authority.contains(root));
        let suffix = digest_suffix(&further);
        roots.append(&mut further);
        roots.retain(|root| !authority.contains(root));
        let all: Vec<&[u8]> = authority.iter().chain(&roots).map(Vec::as_slice).collect();

        DirBuilder::new().recursive(true).mode(0o700).create(place).map_err(|error| write_error(place, &error))?;
        let bundle = Bundle {
            ours: own_file(dir, place, &authority, &added)?,
            all: place.join(format!("bundle{suffix}.pem")),
            folder: place.join(format!("bundle{suffix}.d")),
            java: place.join(format!("bundle{suffix}.jks")),
            unreadable,
        };
        write_atomically(&bundle.all, encode_certificates(&all).as_bytes())?;
        hashed_dir::write(&bundle.folder, &all)?;
        write_atomically(&bundle.java, &jks::trust_store(&all, modified_unix_ms(&ca::certificate_path(dir))))?;
        Ok(bundle)
    }
}

/// Our certificate; after a rotation also the one before it, since gateways that still run show
/// leaves of it.
fn ca_certificates(dir: &Path) -> io::Result<Vec<Vec<u8>>> {
    let read = |path: PathBuf| pem::certificates(&path);
    let mut found = read(ca::certificate_path(dir)).map_err(io::Error::other)?;
    match read(ca::old_certificate_path(dir)) {
        Ok(old) => found.extend(old),
        Err(error) if error.is_missing() => {}
        Err(error) => return Err(io::Error::other(error)),
    }
    Ok(found.into_iter().map(|certificate| certificate.to_vec()).collect())
}

/// File for variables that extend the trusted roots: the authority's own, unless there is more to
/// add.
fn own_file(dir: &Path, place: &Path, authority: &[Vec<u8>], added: &Roots) -> io::Result<PathBuf> {
    if authority.len() == 1 && added.is_empty() {
        return Ok(ca::certificate_path(dir));
    }
    let path = place.join(format!("added{}.pem", digest_suffix(added)));
    let all: Vec<&[u8]> = authority.iter().chain(added).map(Vec::as_slice).collect();
    write_atomically(&path, encode_certificates(&all).as_bytes())?;
    Ok(path)
}

/// Roots that the system trusts.
fn system_roots() -> Roots {
    // The library reads these two first, and then nothing else.
    let told = ["SSL_CERT_FILE", "SSL_CERT_DIR"].iter().any(|name| std::env::var_os(name).is_some());
    let mut found = rustls_native_certs::load_native_certs().certs;
    if told && let Some(path) = SYSTEM_BUNDLES.iter().map(Path::new).find(|path| path.exists()) {
        found.extend(rustls_native_certs::load_certs_from_paths(Some(path), None).certs);
    }
    usable_roots(found)
}

/// Certificates of files and folders; errors go to `unreadable`.
fn read_all(paths: &[PathBuf], unreadable: &mut Vec<String>) -> Roots {
    let mut roots = Roots::new();
    for path in paths {
        let found = match path.is_dir() {
            true => rustls_native_certs::load_certs_from_paths(None, Some(path)),
            false => rustls_native_certs::load_certs_from_paths(Some(path), None),
        };
        unreadable.extend(found.errors.iter().map(ToString::to_string));
        roots.append(&mut usable_roots(found.certs));
    }
    roots
}

/// Certificates that can serve as roots; Java rejects a store with any other in it.
fn usable_roots(certificates: Vec<CertificateDer<'static>>) -> Roots {
    let is_root = |certificate: &CertificateDer<'static>| RootCertStore::empty().add(certificate.clone()).is_ok();
    certificates.into_iter().filter(is_root).map(|certificate| certificate.to_vec()).collect()
}

/// Suffix of file names that tells sets of roots apart; empty for an empty set.
fn digest_suffix(roots: &Roots) -> String {
    if roots.is_empty() {
        return String::new();
    }
    let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
    roots.iter().for_each(|root| digest.update(root));
    let hex = digest.finish().as_ref()[..6].iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    format!("-{hex}")
}

/// Modification time of a file: a constant date, so that the store's bytes stay the same.
fn modified_unix_ms(path: &Path) -> u64 {
    let modified = fs::metadata(path).and_then(|metadata| metadata.modified());
    let since = modified.ok().and_then(|moment| moment.duration_since(SystemTime::UNIX_EPOCH).ok());
    since.and_then(|since| u64::try_from(since.as_millis()).ok()).unwrap_or(0)
}
