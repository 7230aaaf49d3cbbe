//! The variables that make programs use the gateway, and believe it.

mod exceptions;
mod java;
#[cfg(test)]
mod tests;

use std::ffi::{OsStr, OsString};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use rustls::pki_types::ServerName;
use rustls::server::ParsedCertificate;

use self::exceptions::Counted;
use crate::config::Settings;
use crate::gate::clock::Clock;
use crate::tls::bundle::{Before, Bundle};
use crate::tls::ca::{self, Authority};
use crate::tls::identity::Identity;

/// Where the name and the password for the gateway are taken from.
pub(super) const CREDENTIALS: &str = "LOCKGATE_CREDENTIALS";
/// Requests to this machine itself do not need a proxy.
const LOOPBACK: &str = "localhost,127.0.0.1,::1";
/// What names the proxy. Both spellings, because curl knows `http_proxy` only in lower case and other programs look
/// for upper case first; gRPC's own name goes before the others with it.
const PROXIES: [&str; 7] =
    ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy", "grpc_proxy"];
/// Variables whose file takes the place of what a program believes by itself.
const INSTEAD: [&str; 10] = [
    "SSL_CERT_FILE",                      // OpenSSL, Go, Ruby, httpx, uv, rustls
    "CURL_CA_BUNDLE",                     // curl
    "AWS_CA_BUNDLE",                      // AWS command line and SDKs
    "GIT_SSL_CAINFO",                     // git
    "PIP_CERT",                           // pip
    "CARGO_HTTP_CAINFO",                  // cargo
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",   // gRPC's C core: Python, Ruby, PHP, C++
    "HTTPLIB2_CA_CERTS",                  // Python httplib2: Google's API library
    "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE", // Google's Cloud SDK
    "NIX_SSL_CERT_FILE",                  // programs of Nix, which look here before SSL_CERT_FILE
];
/// The variable whose file or folder takes the place of what Python requests believes by itself: a folder, because it is
/// read for each `requests.get` anew.
const REQUESTS: &str = "REQUESTS_CA_BUNDLE";
/// Variables whose file is added to what a program believes by itself.
const ADDED: [&str; 2] = ["NODE_EXTRA_CA_CERTS", "DENO_CERT"];

/// The bytes that are percent-encoded in a URL's user part: all but the unreserved ones (RFC 3986 §2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What is to be set, and what the user should know about it.
#[derive(Debug, Default)]
pub(super) struct Variables {
    /// Names and values.
    pub(super) set: Vec<(&'static str, OsString)>,
    /// Sentences for stderr.
    pub(super) notes: Vec<String>,
}

/// What is set already.
pub(super) type Held<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// The address is not known before the gateway runs.
#[derive(Debug, thiserror::Error)]
#[error("[listen] names port 0, so the address is known only to the gateway that runs; it prints what to export")]
pub(super) struct AnyPort;

/// Why the variables cannot be told.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    AnyPort(#[from] AnyPort),
    #[error(transparent)]
    Authority(#[from] ca::Error),
    #[error("programs cannot be told to believe our authority: {0}")]
    Bundle(io::Error),
}

/// What is set for programs that use the gateway of these settings. Makes the authority and its files if need be.
///
/// # Errors
/// If the settings leave the port open, or the files cannot be made.
pub(super) fn variables(settings: &Settings, held: Held<'_>) -> Result<Variables, Error> {
    let address = address(settings)?;
    let bundle = match &settings.proxy.authority {
        Some(authority) => Some(bundle(authority, held)?),
        None => None,
    };
    Ok(list(settings, address, bundle.as_ref(), held))
}

/// The URL of the gateway for programs on this machine.
///
/// # Errors
/// If the configuration leaves the port open.
pub(super) fn url(settings: &Settings) -> Result<String, AnyPort> {
    Ok(url_at(settings, address(settings)?, None))
}

/// Where programs on this machine reach the gateway.
///
/// # Errors
/// If the configuration leaves the port open.
pub(super) fn address(settings: &Settings) -> Result<SocketAddr, AnyPort> {
    let address = settings.listen.first().filter(|address| address.port() != 0);
    address.copied().map(nearest).ok_or(AnyPort)
}

/// Every address includes the one that is nearest.
pub(super) fn nearest(address: SocketAddr) -> SocketAddr {
    let ip = match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        SocketAddr::V4(_) | SocketAddr::V6(_) => address.ip(),
    };
    SocketAddr::new(ip, address.port())
}

fn url_at(settings: &Settings, address: SocketAddr, credentials: Option<&OsStr>) -> String {
    let credentials = credentials.map(|text| user_part(text.as_bytes())).unwrap_or_default();
    match &settings.proxy.identity {
        None => format!("http://{credentials}{address}"),
        Some(identity) => format!("https://{credentials}{}:{}", name(identity, address.ip()), address.port()),
    }
}

/// A name of this machine that the gateway's certificate is for; the address if it is for none that we know.
fn name(identity: &Identity, ip: IpAddr) -> String {
    let plain = if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() };
    let Some(Ok(certificate)) = identity.chain.first().map(ParsedCertificate::try_from) else {
        return plain;
    };
    let bears = |name: &str| {
        ServerName::try_from(name).is_ok_and(|name| rustls::client::verify_server_name(&certificate, &name).is_ok())
    };
    if bears(&ip.to_string()) {
        return plain;
    }
    let machine = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let names = [Some("localhost").filter(|_| ip.is_loopback()), Some(machine.as_str())];
    names.into_iter().flatten().find(|name| bears(name)).map_or(plain, str::to_owned)
}

/// `NAME:PASSWORD@` as it stands in a URL (RFC 3986 §3.2.1).
fn user_part(credentials: &[u8]) -> String {
    let (name, password) = match credentials.iter().position(|byte| *byte == b':') {
        Some(colon) => (&credentials[..colon], Some(&credentials[colon + 1..])),
        None => (credentials, None),
    };
    let encode = |part| percent_encode(part, RESERVED);
    let password = password.map(|password| format!(":{}", encode(password))).unwrap_or_default();
    format!("{}{password}@", encode(name))
}

/// The files that programs are pointed at; made if need be.
fn bundle(settings: &ca::Settings, held: Held<'_>) -> Result<Bundle, Error> {
    let dir = std::path::absolute(&settings.dir).map_err(Error::Bundle)?;
    // Who may not read its key can still believe an authority that is there.
    if !Authority::path(&dir).exists() {
        ca::make(settings, Clock::start().wall_unix_nanos())?;
    }
    let path = |name: &&str| held(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let mut instead: Vec<_> = INSTEAD.iter().chain([&REQUESTS]).filter_map(path).collect();
    instead.extend(held("SSL_CERT_DIR").iter().flat_map(std::env::split_paths).filter(|dir| dir.is_dir()));
    let before = Before { instead, added: ADDED.iter().filter_map(path).collect() };
    match Bundle::write(&dir, &dir, &before) {
        Err(error) if is_forbidden(&error) => {
            let Some(place) = place_of_our_own(&dir, held) else { return Err(Error::Bundle(error)) };
            // What went wrong at first is what the user can mend.
            Bundle::write(&dir, &place, &before).map_err(|_second| Error::Bundle(error))
        }
        written => written.map_err(Error::Bundle),
    }
}

fn is_forbidden(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

/// A folder of the user's for files that cannot be written beside the authority, which may be somebody else's.
fn place_of_our_own(dir: &Path, held: Held<'_>) -> Option<PathBuf> {
    let absolute = |path: OsString| Some(PathBuf::from(path)).filter(|path| path.is_absolute());
    let cache = held("XDG_CACHE_HOME").and_then(absolute);
    let cache = cache.or_else(|| Some(held("HOME").and_then(absolute)?.join(".cache")))?;
    // One folder for each authority.
    let name = dir.to_string_lossy().trim_start_matches('/').replace('/', "-");
    Some(cache.join("lockgate").join(name))
}

fn list(settings: &Settings, address: SocketAddr, bundle: Option<&Bundle>, held: Held<'_>) -> Variables {
    let mut variables = Variables::default();
    let credentials = held(CREDENTIALS).filter(|text| !text.is_empty());
    if settings.proxy.access.users.is_some() && credentials.is_none() {
        variables.notes.push(format!(
            "callers need a name and a password: set {CREDENTIALS}=NAME:PASSWORD, or put them into the URLs, as http://NAME:PASSWORD@…"
        ));
    }
    let url = OsString::from(url_at(settings, address, credentials.as_deref()));
    variables.set.extend(PROXIES.map(|name| (name, url.clone())));
    variables.set.push(("NODE_USE_ENV_PROXY", "1".into()));
    let counted = Counted::of(settings);
    let exceptions = exceptions(&counted, held, &mut variables);
    if let Some(bundle) = bundle {
        variables.set.extend(INSTEAD.map(|name| (name, bundle.all.clone().into())));
        variables.set.push((REQUESTS, bundle.folder.clone().into()));
        variables.set.extend(ADDED.map(|name| (name, bundle.ours.clone().into())));
        variables.notes.extend(bundle.unread.iter().cloned());
    }
    java::add(address, &exceptions, counted.loopback, bundle, held, &mut variables);
    variables
}

/// Sets what programs call past the gateway: what is set stays, and nothing that is counted may go past us.
/// Returns the list that holds.
fn exceptions(counted: &Counted, held: Held<'_>, variables: &mut Variables) -> String {
    let text = |name| held(name).map(|list| list.to_string_lossy().into_owned());
    let (upper, lower) = (text("NO_PROXY"), text("no_proxy"));
    let default = Some(LOOPBACK.to_owned()).filter(|_| !counted.loopback);
    let lists = [
        ("NO_PROXY", upper.clone().or_else(|| lower.clone()).or_else(|| default.clone())),
        ("no_proxy", lower.or(upper).or(default)),
        // gRPC looks here first.
        ("no_grpc_proxy", text("no_grpc_proxy")),
    ];
    let (mut holds, mut left_out) = (String::new(), Vec::new());
    for (name, list) in lists.into_iter().filter_map(|(name, list)| Some((name, list?))) {
        let kept = counted.without(&list, &mut left_out);
        if name == "NO_PROXY" {
            holds.clone_from(&kept);
        }
        variables.set.push((name, kept.into()));
    }
    left_out.sort();
    left_out.dedup();
    if !left_out.is_empty() {
        let left_out = left_out.join(", ");
        variables.notes.push(format!("NO_PROXY is set without {left_out}: what is counted goes through the gateway"));
    }
    holds
}
