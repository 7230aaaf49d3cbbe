//! What programs need to believe our authority: a bundle with the system's roots beside ours, and a trust store for Java.

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

use self::atomic_write::{write_atomically, write_error};
use super::ca;
use super::pem::{self, encode_certificates};

/// Where distributions keep all roots in one file. They are read beside those that `SSL_CERT_FILE` names, for programs
/// that never looked at that variable.
const SYSTEM_BUNDLES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt", // Debian, Arch, Alpine, Gentoo
    "/etc/pki/tls/certs/ca-bundle.crt",   // Fedora, RHEL
    "/etc/ssl/ca-bundle.pem",             // openSUSE
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/etc/ssl/certs/ca-bundle.crt", // NixOS
];

/// The files that programs are pointed at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bundle {
    /// Our certificate (PEM), for programs that add it to what they trust; with what they were told to add before.
    pub ours: PathBuf,
    /// The system's roots and ours (PEM), for programs whose variable replaces what they trust.
    pub all: PathBuf,
    /// The same as a folder, for programs that look for one root at a time.
    pub folder: PathBuf,
    /// The same for Java (JKS).
    pub java: PathBuf,
    /// What could not be read of what programs believed before; why, in words.
    pub unreadable: Vec<String>,
}

/// What programs were told to believe before they are told to believe us too.
#[derive(Clone, Default, Debug)]
pub struct Inherited {
    /// Files (PEM) and folders that took the place of the system's roots.
    pub replacing: Vec<PathBuf>,
    /// Files (PEM) that were added to what programs believe by themselves.
    pub additional: Vec<PathBuf>,
}

/// Certificates (DER), each once, in an order that does not depend on where they were found.
type Roots = BTreeSet<Vec<u8>>;

impl Bundle {
    /// Writes the files for the authority in `dir` into the folder `place`; one that is right already is not touched.
    /// The authority is there. Who believed other roots before gets files of their own, so that two programs that
    /// are started differently do not take the roots from each other.
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

/// Our certificate; after a rotation the one before it too, for gateways that still run show leaves of it.
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

/// The file for programs that add: the authority's own, unless there is more to add.
fn own_file(dir: &Path, place: &Path, authority: &[Vec<u8>], added: &Roots) -> io::Result<PathBuf> {
    if authority.len() == 1 && added.is_empty() {
        return Ok(ca::certificate_path(dir));
    }
    let path = place.join(format!("added{}.pem", digest_suffix(added)));
    let all: Vec<&[u8]> = authority.iter().chain(added).map(Vec::as_slice).collect();
    write_atomically(&path, encode_certificates(&all).as_bytes())?;
    Ok(path)
}

/// What the system believes.
fn system_roots() -> Roots {
    // The library looks at these two first, and then nowhere else.
    let told = ["SSL_CERT_FILE", "SSL_CERT_DIR"].iter().any(|name| std::env::var_os(name).is_some());
    let mut found = rustls_native_certs::load_native_certs().certs;
    if told && let Some(path) = SYSTEM_BUNDLES.iter().map(Path::new).find(|path| path.exists()) {
        found.extend(rustls_native_certs::load_certs_from_paths(Some(path), None).certs);
    }
    usable_roots(found)
}

/// The certificates in files and folders; what cannot be read is said in `unreadable`.
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

/// What can serve as a root; Java gives up on a store with anything else in it.
fn usable_roots(certificates: Vec<CertificateDer<'static>>) -> Roots {
    let is_root = |certificate: &CertificateDer<'static>| RootCertStore::empty().add(certificate.clone()).is_ok();
    certificates.into_iter().filter(is_root).map(|certificate| certificate.to_vec()).collect()
}

/// A part of a file's name that tells sets of roots apart; none for none.
fn digest_suffix(roots: &Roots) -> String {
    if roots.is_empty() {
        return String::new();
    }
    let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
    roots.iter().for_each(|root| digest.update(root));
    let hex = digest.finish().as_ref()[..6].iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    format!("-{hex}")
}

/// When a file was written; a date that stays the same makes a store that stays the same.
fn modified_unix_ms(path: &Path) -> u64 {
    let modified = fs::metadata(path).and_then(|metadata| metadata.modified());
    let since = modified.ok().and_then(|moment| moment.duration_since(SystemTime::UNIX_EPOCH).ok());
    since.and_then(|since| u64::try_from(since.as_millis()).ok()).unwrap_or(0)
}
