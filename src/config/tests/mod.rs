//! Tests of the configuration: settings, mistakes, warnings, and every document that shows a
//! `proxy.toml`.

mod documents;
mod lint;
mod mistakes;
mod parents;
mod settings;
mod tls;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::*;

/// Reads a text as `proxy.toml` of this folder.
fn parse_in(folder: &Path, text: &str) -> Result<Settings, Vec<Report>> {
    parse(&SourceText::new("proxy.toml".to_owned(), text.to_owned()), folder)
}

/// Reads a text that must be valid.
fn good(text: &str) -> Settings {
    match parse_in(Path::new(""), text) {
        Ok(settings) => settings,
        Err(reports) => panic!("{text}\n{}", join_reports(&reports)),
    }
}

/// Reads a text that must have mistakes, and returns them.
fn bad(text: &str) -> Vec<Report> {
    match parse_in(Path::new(""), text) {
        Ok(settings) => panic!("{text}\nis accepted as {settings:#?}"),
        Err(reports) => reports,
    }
}

/// Creates a folder with the files that examples name: `users` with one user, `internal-ca.pem`,
/// and the certificates with keys of `gateway`, `client` and `other`.
fn folder(test: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("lockgate-config-{}-{test}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let hash = "$2y$05$abcdefghijklmnopqrstuuABCDEFGHIJKLMNOPQRSTUVWXYZ01234";
    std::fs::write(folder.join("users"), format!("ana:{hash}\n")).unwrap();
    let password = folder.join("parent.password");
    std::fs::write(&password, "secret\n").unwrap();
    std::fs::set_permissions(&password, Permissions::from_mode(0o600)).unwrap();
    let certified = |name: &str| rcgen::generate_simple_self_signed(vec![format!("{name}.example")]).unwrap();
    std::fs::write(folder.join("internal-ca.pem"), certified("internal").cert.pem()).unwrap();
    for name in ["gateway", "client", "other"] {
        let made = certified(name);
        std::fs::write(folder.join(format!("{name}.pem")), made.cert.pem()).unwrap();
        let key = folder.join(format!("{name}.key"));
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        std::fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    }
    folder
}
