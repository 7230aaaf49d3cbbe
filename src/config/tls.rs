//! Whose certificates are believed, which are shown, and which tunnels are opened.

use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;

use super::file::{Pair, Shown, Tls};
use super::folders;
use super::item::{At, Place};
use super::report::{Reader, Report};
use super::value::Pattern;
use crate::gate::clock::Clock;
use crate::proxy::pattern::HostPattern;
use crate::tls::ca::{self, CaFault};
use crate::tls::identity::Identity;
use crate::tls::{pem, verify};

/// Where our authority is kept, unless the file says otherwise.
const CA_DIR: &str = "certs";

/// What `[tls]` means.
pub(super) struct Checked {
    pub(super) verify: verify::Settings,
    pub(super) identities: Vec<(HostPattern, usize)>,
    pub(super) intercept: Vec<HostPattern>,
    pub(super) authority: Option<ca::Settings>,
    /// What keeps this user from making the authority.
    pub(super) unusable: Option<Report>,
}

/// Checks `[tls]` with all files that it names. No authority is made.
pub(super) fn check(written: &Tls, folder: &Path, reader: &Reader<'_>) -> Checked {
    check_patterns(&written.intercept, reader);
    let authority = (!written.intercept.is_empty()).then(|| authority(written, folder));
    let unusable = authority.as_ref().and_then(|settings| check_authority(settings, written, reader));
    let (mut identities, mut hosts) = (Vec::new(), Vec::new());
    for shown in &written.clients {
        check_host(shown, reader);
        if let Some(identity) = read_pair(&shown.pair, "client certificate", folder, reader) {
            let patterns = shown.hosts.get().into_iter().flat_map(|list| &list.value);
            hosts.extend(patterns.map(|at| (at.value.pattern.clone(), identities.len())));
            identities.push(identity);
        }
    }
    Checked {
        verify: verify::Settings { trust: trust(&written.trust, folder, reader), identities },
        identities: hosts,
        intercept: written.intercept.iter().map(|at| at.value.pattern.clone()).collect(),
        authority,
        unusable,
    }
}

/// The authority that `[tls]` names; it covers nothing if no host is intercepted.
pub(super) fn authority(written: &Tls, folder: &Path) -> ca::Settings {
    let dir = written.ca_dir.get().map_or(Path::new(CA_DIR), |at| &at.value);
    let covers = written.intercept.iter().map(|at| at.value.pattern.subtree()).collect();
    ca::Settings { dir: folder.join(dir), covers }
}

/// What `[listen] tls` names.
pub(super) fn identity(written: &Pair, folder: &Path, reader: &Reader<'_>) -> Option<Identity> {
    if written.is_there { read_pair(written, "certificate of the gateway", folder, reader) } else { None }
}

fn check_patterns(intercept: &[At<Pattern<HostPattern>>], reader: &Reader<'_>) {
    for (index, at) in intercept.iter().enumerate() {
        let text = &at.value.text;
        if intercept[..index].iter().any(|other| other.value.text == *text) {
            reader.error(&at.place, format_args!("{text:?} is listed already"), "leave it out");
        }
        if let (ca::Subtree::Name(name), true) = (at.value.pattern.subtree(), text.starts_with("*."))
            && name.parse::<std::net::IpAddr>().is_ok()
        {
            reader.error(&at.place, "nothing is below an address", format_args!("write \"{name}\""));
        }
        if !at.value.pattern.is_specific() {
            reader.warn(
                &at.place,
                "every tunnel is opened, and our authority may vouch for any host",
                "name the hosts whose requests a limit counts",
            );
        }
    }
}

/// An authority that is there must be fit for use; one that is not is made when it is needed. Returns what keeps this user
/// from making it.
fn check_authority(settings: &ca::Settings, written: &Tls, reader: &Reader<'_>) -> Option<Report> {
    let first = written.intercept.first()?;
    let fault = match ca::inspect(settings, Clock::start().wall_unix_nanos()) {
        Ok(Some(_)) => return None,
        Ok(None) => {
            let place = written.ca_dir.get().map_or(&first.place, |at| &at.place);
            return folders::check_authority(&settings.dir, place, reader);
        }
        Err(error) => error.fault,
    };
    // Whoever runs the gateway may be somebody else, who can read it.
    if fault.is_denied() {
        reader.warn(&first.place, &fault, "the gateway must run as the user whose file this is");
        return None;
    }
    let dir = written.ca_dir.get().map_or(&first.place, |at| &at.place);
    let place = match &fault {
        CaFault::NotCovered { host, .. } => {
            let meant = written.intercept.iter().find(|at| at.value.pattern.subtree() == *host);
            meant.map_or(dir, |at| &at.place)
        }
        CaFault::File(_)
        | CaFault::Write { .. }
        | CaFault::Incomplete { .. }
        | CaFault::Unusable { .. }
        | CaFault::Mismatch { .. }
        | CaFault::Expired { .. }
        | CaFault::ExpiredSinceStart { .. }
        | CaFault::NotYetValid { .. }
        | CaFault::Name(_)
        | CaFault::Generation(_) => dir,
    };
    reader.error(place, &fault, fault.remedy());
    None
}

fn check_host(shown: &Shown, reader: &Reader<'_>) {
    if shown.hosts.is_absent() {
        let right = "add host = \"api.example.com\"";
        reader.error(&shown.pair.place, "this client certificate is shown to no origin", right);
    }
    let patterns = shown.hosts.get().into_iter().flat_map(|list| &list.value);
    for at in patterns.filter(|at| !at.value.pattern.is_specific()) {
        reader.warn(&at.place, "every origin that asks is told who we are", "name the hosts that need to know");
    }
}

/// Reads a certificate and its key; `what` says whose they are.
fn read_pair(pair: &Pair, what: &str, folder: &Path, reader: &Reader<'_>) -> Option<Identity> {
    for (written, key, example) in [(&pair.cert, "cert", "gateway.pem"), (&pair.key, "key", "gateway.key")] {
        if written.is_absent() {
            let message = format!("the {what} lacks `{key}`");
            reader.error(&pair.place, message, format_args!("add {key} = \"{example}\", the path of a PEM file"));
        }
    }
    let (cert, key) = (pair.cert.get()?, pair.key.get()?);
    let (cert_path, key_path) = (folder.join(&cert.value), folder.join(&key.value));
    match Identity::read(&cert_path, &key_path) {
        Ok(identity) => Some(identity),
        Err(error) => {
            let is_key = error.path() == Some(&key_path);
            reader.error(if is_key { &key.place } else { &cert.place }, &error, error.remedy());
            None
        }
    }
}

fn trust(written: &[At<PathBuf>], folder: &Path, reader: &Reader<'_>) -> Vec<CertificateDer<'static>> {
    let mut certificates = Vec::new();
    for at in written {
        match roots(&folder.join(&at.value)) {
            Ok(found) => certificates.extend(found),
            Err(message) => wrong_pem(&at.place, &message, reader),
        }
    }
    certificates
}

fn wrong_pem(place: &Place, message: &str, reader: &Reader<'_>) {
    reader.error(place, message, "a PEM file with one certificate or more");
}

/// The certificates of a PEM file, each one readable as a root.
fn roots(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let found = pem::certificates(path).map_err(|error| error.to_string())?;
    let mut roots = rustls::RootCertStore::empty();
    for certificate in &found {
        roots
            .add(certificate.clone())
            .map_err(|error| format!("{} holds no certificate that can be trusted: {error}", path.display()))?;
    }
    Ok(found)
}
