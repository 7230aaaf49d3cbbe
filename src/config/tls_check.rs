//! Checks of `[tls]` and of the key `tls` of listeners: trusted roots, certificates of the gateway, hosts to intercept.
//!
//! Files are read here, once, and the settings hold their content: a reload sees new certificates,
//! a running gateway keeps the old ones. Mistakes in a file are reported at the key that names it.

use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;

use super::cert_pair_schema::CertPair;
use super::folders;
use super::report::{Report, Reports};
use super::schema::{TlsClientSection, TlsSection};
use super::toml_value::{SourceSpan, Spanned};
use super::value_parsers::TextPattern;
use crate::gate::clock::Clock;
use crate::proxy::pattern::HostPattern;
use crate::tls::ca::{self, CaFault};
use crate::tls::identity::Identity;
use crate::tls::{pem, verify};

/// Default folder of the authority, beside the file.
const CA_DIR: &str = "certs";

/// The checked `[tls]`.
pub(super) struct CheckedTls {
    /// Roots beside the system's, and the client certificates.
    pub(super) verify: verify::Settings,
    /// Hosts with the index of the client certificate that they are shown.
    pub(super) identities: Vec<(HostPattern, usize)>,
    /// In the order of the file; empty: nothing is intercepted.
    pub(super) intercept: Vec<HostPattern>,
    /// The authority that signs for intercepted hosts; `None` if there are none.
    pub(super) authority: Option<ca::Settings>,
    /// Reason why this user cannot create the authority.
    pub(super) unusable: Option<Report>,
}

/// Checks `[tls]` and reads all files that it names. No authority is created.
///
/// Reports missing keys, unreadable files and keys that do not fit their certificate.
pub(super) fn check(written: &TlsSection, folder: &Path, reports: &Reports<'_>) -> CheckedTls {
    check_patterns(&written.intercept, reports);
    let authority = (!written.intercept.is_empty()).then(|| authority(written, folder));
    let unusable = authority.as_ref().and_then(|settings| check_authority(settings, written, reports));
    let (mut identities, mut hosts) = (Vec::new(), Vec::new());
    for client in &written.clients {
        check_host(client, reports);
        if let Some(identity) = read_pair(&client.pair, "client certificate", folder, reports) {
            let patterns = client.hosts.get().into_iter().flat_map(|list| &list.value);
            hosts.extend(patterns.map(|at| (at.value.pattern.clone(), identities.len())));
            identities.push(identity);
        }
    }
    CheckedTls {
        verify: verify::Settings { trust: trust(&written.trust, folder, reports), identities },
        identities: hosts,
        intercept: written.intercept.iter().map(|at| at.value.pattern.clone()).collect(),
        authority,
        unusable,
    }
}

/// Settings of the authority; it covers nothing if no host is intercepted.
///
/// `covers` has one subtree of names for each entry of `intercept`.
pub(super) fn authority(written: &TlsSection, folder: &Path) -> ca::Settings {
    let dir = written.ca_dir.get().map_or(Path::new(CA_DIR), |at| &at.value);
    let covers = written.intercept.iter().map(|at| at.value.pattern.subtree()).collect();
    ca::Settings { dir: folder.join(dir), covers }
}

/// Reads the certificate of a listener: `tls` in `[listen]`, `[admin]` or `[locks]`.
///
/// `None` without the table, or after a report.
pub(super) fn identity(written: &CertPair, folder: &Path, reports: &Reports<'_>) -> Option<Identity> {
    if written.is_present { read_pair(written, "certificate of the gateway", folder, reports) } else { None }
}

/// Reports double hosts and names below an address; warns of patterns for all hosts.
///
/// `*.127.0.0.1` is a name below an address, which no host has.
fn check_patterns(intercept: &[Spanned<TextPattern<HostPattern>>], reports: &Reports<'_>) {
    for (index, at) in intercept.iter().enumerate() {
        let text = &at.value.text;
        if intercept[..index].iter().any(|other| other.value.text == *text) {
            reports.error(&at.span, format_args!("{text:?} is listed already"), "leave it out");
        }
        if let (ca::Subtree::Name(name), true) = (at.value.pattern.subtree(), text.starts_with("*."))
            && name.parse::<std::net::IpAddr>().is_ok()
        {
            reports.error(&at.span, "nothing is below an address", format_args!("write \"{name}\""));
        }
        if !at.value.pattern.is_specific() {
            reports.warn(
                &at.span,
                "every tunnel is intercepted, and lockgate's authority may sign for any host",
                "name the hosts whose requests a limit counts",
            );
        }
    }
}

/// Checks an existing authority. One that does not exist is created at the first use: returns the reason why this user
/// cannot create it.
///
/// A missing permission is a warning. A host that the authority does not cover is reported at the
/// line that names it, any other fault at `ca_dir`, if the file has that key.
fn check_authority(settings: &ca::Settings, written: &TlsSection, reports: &Reports<'_>) -> Option<Report> {
    let first = written.intercept.first()?;
    let fault = match ca::inspect(settings, Clock::start().wall_unix_nanos()) {
        Ok(Some(_)) => return None,
        Ok(None) => {
            let span = written.ca_dir.get().map_or(&first.span, |at| &at.span);
            return folders::check_authority(&settings.dir, span, reports);
        }
        Err(error) => error.fault,
    };
    // The gateway may run as another user, which can read the file.
    if fault.is_denied() {
        reports.warn(&first.span, &fault, "the gateway must run as the user whose file this is");
        return None;
    }
    let dir = written.ca_dir.get().map_or(&first.span, |at| &at.span);
    let span = match &fault {
        CaFault::NotCovered { host, .. } => {
            let named = written.intercept.iter().find(|at| at.value.pattern.subtree() == *host);
            named.map_or(dir, |at| &at.span)
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
    reports.error(span, &fault, fault.remedy());
    None
}

/// Reports a client certificate for no origin; warns of one for all.
fn check_host(client: &TlsClientSection, reports: &Reports<'_>) {
    if client.hosts.is_absent() {
        let advice = "add host = \"api.example.com\"";
        reports.error(&client.pair.span, "this client certificate is shown to no origin", advice);
    }
    let patterns = client.hosts.get().into_iter().flat_map(|list| &list.value);
    for at in patterns.filter(|at| !at.value.pattern.is_specific()) {
        reports.warn(&at.span, "every origin that asks is shown this certificate", "name the hosts that need it");
    }
}

/// Reads a certificate and its key; `what` names them in messages.
///
/// `None` after a report. An unreadable file is reported at its own key.
fn read_pair(pair: &CertPair, what: &str, folder: &Path, reports: &Reports<'_>) -> Option<Identity> {
    for (written, key, example) in [(&pair.cert, "cert", "gateway.pem"), (&pair.key, "key", "gateway.key")] {
        if written.is_absent() {
            let message = format!("the {what} lacks `{key}`");
            reports.error(&pair.span, message, format_args!("add {key} = \"{example}\", the path of a PEM file"));
        }
    }
    let (cert, key) = (pair.cert.get()?, pair.key.get()?);
    let (cert_path, key_path) = (folder.join(&cert.value), folder.join(&key.value));
    match Identity::read(&cert_path, &key_path) {
        Ok(identity) => Some(identity),
        Err(error) => {
            let is_key = error.path() == Some(&key_path);
            reports.error(if is_key { &key.span } else { &cert.span }, &error, error.remedy());
            None
        }
    }
}

/// Reads all files of further roots.
///
/// A file with a mistake adds none; the others are read all the same.
fn trust(written: &[Spanned<PathBuf>], folder: &Path, reports: &Reports<'_>) -> Vec<CertificateDer<'static>> {
    let mut certificates = Vec::new();
    for at in written {
        match roots(&folder.join(&at.value)) {
            Ok(found) => certificates.extend(found),
            Err(message) => wrong_pem(&at.span, &message, reports),
        }
    }
    certificates
}

/// Reports a file that holds no certificate.
fn wrong_pem(span: &SourceSpan, message: &str, reports: &Reports<'_>) {
    reports.error(span, message, "a PEM file with one certificate or more");
}

/// Reads the certificates of a PEM file, and checks that each can be a root.
///
/// # Errors
/// A sentence for the report: the file cannot be read, or a certificate in it is not fit to be a
/// root.
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
