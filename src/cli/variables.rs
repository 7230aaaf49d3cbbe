//! Environment variables that make programs use the gateway, and trust its certificate authority.
//!
//! `lockgate env` prints them, `lockgate exec` sets them. In order: the URL of the proxy,
//! `NO_PROXY` without hosts that a limit counts, files that Python and Node load at their start, and,
//! if hosts are intercepted, files of root certificates that include the gateway's authority, with
//! configurations of the programs that no variable tells of them. The environment is read by a
//! function, so that tests have none.

mod config_files;
mod ini;
mod java_options;
mod no_proxy;
mod npm;
mod preload;
mod private_folder;
mod remote_programs;
#[cfg(test)]
mod tests;

use std::ffi::{OsStr, OsString};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

use self::no_proxy::CountedHosts;
pub(super) use self::remote_programs::{RemoteProxy, remote_variables};
use super::certified_name::certified_name;
use crate::auth::to_utf8;
use crate::config::Settings;
use crate::gate::clock::Clock;
use crate::tls::bundle::{Bundle, Inherited};
use crate::tls::ca;

/// Variable that holds the program's credentials for the gateway, `NAME:PASSWORD`.
///
/// Read from the environment, and put into the URL of the proxy.
pub(super) const CREDENTIALS: &str = "LOCKGATE_CREDENTIALS";
/// Default of `NO_PROXY`: this machine.
///
/// Not used if a limit counts requests to this machine.
const LOOPBACK_HOSTS: &str = "localhost,127.0.0.1,::1";
/// Variables that hold the proxy's URL. Both spellings, because curl knows `http_proxy` only in
/// lower case and other programs look for upper case first; gRPC prefers its own name to the
/// others.
const PROXY_VARIABLES: [&str; 8] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "grpc_proxy",
    "ws_proxy", // aiohttp's WebSockets
    "wss_proxy",
];
/// Variable for programs that read no other. Most of them speak SOCKS5 alone (Go's
/// `golang.org/x/net/proxy`), so it holds a URL of that scheme.
///
/// In lower case it is one of [`PROXY_VARIABLES`]. Programs that read it beside the others look for
/// lower case first, and some of them fail at a scheme that they cannot speak: httpx without socksio.
const SOCKS_VARIABLE: &str = "ALL_PROXY";
/// Variables that make a program read those of the proxy: Node from 22.21 on, and Perl's LWP.
const SWITCHES: [&str; 2] = ["NODE_USE_ENV_PROXY", "PERL_LWP_ENV_PROXY"];
/// Variable of ours that names the PEM file of all roots.
///
/// Read by our `sitecustomize.py`, and at hand for programs that take such a file as an argument.
const CA_BUNDLE: &str = "LOCKGATE_CA_BUNDLE";
/// Variables that name a PEM file in place of a program's own root certificates.
const BUNDLE_VARIABLES: [&str; 16] = [
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
    npm::VARIABLE,                        // npm, also if it has a `cafile` in a file
    "YARN_HTTPS_CA_FILE_PATH",            // Yarn from 2 on, also if it has an `httpsCaFilePath` in a file
    "PERL_LWP_SSL_CA_FILE",               // Perl's LWP
    "HTTPS_CA_FILE",                      // Perl's Crypt::SSLeay, and LWP before 6
    "SYSTEM_CERTIFICATE_PATH",            // Haskell: pandoc, stack
    CA_BUNDLE,                            // Python's certifi, by our `sitecustomize.py`
];
/// Variable that names a file or folder in place of the root certificates of Python requests. A
/// folder is given, because a file would be parsed again for each `requests.get`.
const BUNDLE_DIR_VARIABLE: &str = "REQUESTS_CA_BUNDLE";
/// Variables that name a PEM file beside a program's own root certificates.
const EXTRA_CA_VARIABLES: [&str; 2] = ["NODE_EXTRA_CA_CERTS", "DENO_CERT"];

/// The bytes that are percent-encoded in a URL's userinfo: all but the unreserved ones (RFC 3986
/// §2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Variables for a program, with notes for its user.
///
/// Nothing is set by building it.
#[derive(Debug, Default)]
pub(super) struct Variables {
    /// Names and values, in the order in which they are printed.
    pub(super) set: Vec<(&'static str, OsString)>,
    /// Warnings for stderr, a sentence each.
    pub(super) notes: Vec<String>,
}

/// Lookup of a variable in the present environment.
pub(super) type Env<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// `[listen]` has port 0: the address is known only to the gateway that runs.
#[derive(Debug, thiserror::Error)]
#[error("[listen] names port 0, so the address is known only to the gateway that runs; it prints what to export")]
pub(super) struct AnyPort;

/// Reason why there are no variables.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    AnyPort(#[from] AnyPort),
    #[error(transparent)]
    Authority(#[from] ca::Error),
    #[error("cannot write the certificate bundles: {0}")]
    Bundle(io::Error),
}

/// Builds the variables for programs that use the gateway of these settings. Makes the authority
/// and its bundles if needed.
///
/// # Errors
/// If the settings leave the port open, or the files cannot be made.
pub(super) fn variables(settings: &Settings, env: Env<'_>) -> Result<Variables, Error> {
    let address = address(settings)?;
    let bundle = match &settings.proxy.authority {
        Some(authority) => Some(bundle(authority, env)?),
        None => None,
    };
    let mut variables = build(settings, address, bundle.as_ref(), env);
    if let Err(error) = add_program_files(settings, bundle.as_ref(), env, &mut variables) {
        variables.notes.push(format!(
            "aiohttp and Node before 22.21 go past the gateway, and wget and PHP do not trust it, without files for them: {error}"
        ));
    }
    Ok(variables)
}

/// Writes files that programs load at their start, and sets the variables that lead to them.
///
/// # Errors
/// If no folder can be used for them, or a file cannot be written.
fn add_program_files(
    settings: &Settings,
    bundle: Option<&Bundle>,
    env: Env<'_>,
    variables: &mut Variables,
) -> io::Result<()> {
    let cache = cache_root(env);
    let beside = settings.proxy.authority.as_ref().map(|authority| std::path::absolute(&authority.dir)).transpose()?;
    let folders: Vec<PathBuf> = cache.into_iter().chain(beside).map(|folder| folder.join("programs")).collect();
    let folder = private_folder::make_first(&folders)?;
    preload::add(&preload::write(&folder)?, env, variables);
    bundle.map_or(Ok(()), |bundle| config_files::add(&folder, &bundle.all, env, variables))
}

/// The URL of the gateway for programs on this machine.
///
/// Without credentials, for the banner.
///
/// # Errors
/// If the configuration leaves the port open.
pub(super) fn url(settings: &Settings) -> Result<String, AnyPort> {
    Ok(url_at(settings, address(settings)?, None))
}

/// The address of the gateway for programs on this machine.
///
/// The first address of `[listen] proxy`.
///
/// # Errors
/// If the configuration leaves the port open.
pub(super) fn address(settings: &Settings) -> Result<SocketAddr, AnyPort> {
    let address = settings.listen.first().filter(|address| address.port() != 0);
    address.copied().map(from_this_machine).ok_or(AnyPort)
}

/// The address itself, or loopback if it is the unspecified address.
///
/// `0.0.0.0:8080` becomes `127.0.0.1:8080`.
pub(super) fn from_this_machine(address: SocketAddr) -> SocketAddr {
    let ip = match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        SocketAddr::V4(_) | SocketAddr::V6(_) => address.ip(),
    };
    SocketAddr::new(ip, address.port())
}

/// URL for SOCKS5. Names go to the gateway (`h`), as limits count by them.
fn socks_url(address: SocketAddr, credentials: Option<&OsStr>) -> String {
    format!("socks5h://{}{address}", userinfo_of(credentials))
}

/// Userinfo for these credentials; empty without.
fn userinfo_of(credentials: Option<&OsStr>) -> String {
    credentials.map(|text| userinfo(&to_utf8(text.as_bytes()))).unwrap_or_default()
}

/// The scheme is `https` if `[listen] tls` is configured.
fn url_at(settings: &Settings, address: SocketAddr, credentials: Option<&OsStr>) -> String {
    let credentials = userinfo_of(credentials);
    match &settings.proxy.identity {
        None => format!("http://{credentials}{address}"),
        Some(identity) => {
            let name = certified_name(identity, address.ip()).unwrap_or_else(|| address.ip().to_string());
            // An IPv6 address stands in brackets (RFC 3986 §3.2.2).
            let host = if name.contains(':') { format!("[{name}]") } else { name };
            format!("https://{credentials}{host}:{}", address.port())
        }
    }
}

/// Userinfo of a URL, `NAME:PASSWORD@` (RFC 3986 §3.2.1).
///
/// `ana:p@ss` becomes `ana:p%40ss@`. The text is UTF-8 (RFC 3986 §2.5), whatever the environment's
/// encoding is.
fn userinfo(credentials: &[u8]) -> String {
    let (name, password) = match credentials.iter().position(|byte| *byte == b':') {
        Some(colon) => (&credentials[..colon], Some(&credentials[colon + 1..])),
        None => (credentials, None),
    };
    let encode = |part| percent_encode(part, RESERVED);
    let password = password.map(|password| format!(":{}", encode(password))).unwrap_or_default();
    format!("{}{password}@", encode(name))
}

/// Writes the certificate bundles that the variables name.
///
/// Bundles include the files that the environment names already: a program keeps the roots it had.
///
/// # Errors
/// `Authority` if there is none and it cannot be made, `Bundle` if the files cannot be written.
fn bundle(settings: &ca::Settings, env: Env<'_>) -> Result<Bundle, Error> {
    let dir = std::path::absolute(&settings.dir).map_err(Error::Bundle)?;
    // Users that may not read its key can still trust an existing authority.
    if !ca::certificate_path(&dir).exists() {
        ca::open_or_create(settings, Clock::start().wall_unix_nanos())?;
    }
    let path = |name: &&str| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let mut instead: Vec<_> = BUNDLE_VARIABLES.iter().chain([&BUNDLE_DIR_VARIABLE]).filter_map(path).collect();
    instead.extend(npm::inherited(env));
    instead.extend(config_files::inherited(env));
    instead.extend(env("SSL_CERT_DIR").iter().flat_map(std::env::split_paths).filter(|dir| dir.is_dir()));
    let before = Inherited { replacing: instead, additional: EXTRA_CA_VARIABLES.iter().filter_map(path).collect() };
    match Bundle::write(&dir, &dir, &before) {
        Err(error) if is_not_writable(&error) => {
            let Some(cache) = cache_dir(&dir, env) else { return Err(Error::Bundle(error)) };
            // The first error is the one that the user can correct.
            Bundle::write(&dir, &cache, &before).map_err(|_second| Error::Bundle(error))
        }
        written => written.map_err(Error::Bundle),
    }
}

/// Then the user's cache is tried.
fn is_not_writable(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

/// Folder in the user's cache (XDG Base Directory), for bundles that cannot be written beside
/// another user's authority.
///
/// `None` without an absolute path in `XDG_CACHE_HOME` or `HOME`.
fn cache_dir(dir: &Path, env: Env<'_>) -> Option<PathBuf> {
    // One folder per authority.
    let name = dir.to_string_lossy().trim_start_matches('/').replace('/', "-");
    Some(cache_root(env)?.join(name))
}

/// Our folder in the user's cache.
fn cache_root(env: Env<'_>) -> Option<PathBuf> {
    let absolute = |path: OsString| Some(PathBuf::from(path)).filter(|path| path.is_absolute());
    let cache = env("XDG_CACHE_HOME").and_then(absolute);
    let cache = cache.or_else(|| Some(env("HOME").and_then(absolute)?.join(".cache")))?;
    Some(cache.join("lockgate"))
}

/// Writes no files; `bundle` has the paths of those written before.
fn build(settings: &Settings, address: SocketAddr, bundle: Option<&Bundle>, env: Env<'_>) -> Variables {
    let mut variables = Variables::default();
    let credentials = env(CREDENTIALS).filter(|text| !text.is_empty());
    if settings.proxy.access.users.is_some() && credentials.is_none() {
        variables.notes.push(format!(
            "callers need a name and a password: set {CREDENTIALS}=NAME:PASSWORD, or put them into the URLs, as http://NAME:PASSWORD@…"
        ));
    }
    let url = OsString::from(url_at(settings, address, credentials.as_deref()));
    variables.set.extend(PROXY_VARIABLES.map(|name| (name, url.clone())));
    // No client speaks SOCKS5 over TLS.
    let socks = if settings.proxy.identity.is_none() { socks_url(address, credentials.as_deref()).into() } else { url };
    variables.set.push((SOCKS_VARIABLE, socks));
    variables.set.extend(SWITCHES.map(|name| (name, "1".into())));
    let counted = CountedHosts::of(settings);
    let own = no_proxy::own_entries(&counted, address, &url_at(settings, address, None));
    let exceptions = set_no_proxy(&counted, &own, env, &mut variables);
    if let Some(bundle) = bundle {
        variables.set.extend(BUNDLE_VARIABLES.map(|name| (name, bundle.all.clone().into())));
        // npm takes the last of two that differ in case.
        variables.set.extend(env(npm::UPPER_CASE).map(|_| (npm::UPPER_CASE, bundle.all.clone().into())));
        variables.set.push((BUNDLE_DIR_VARIABLE, bundle.folder.clone().into()));
        variables.set.extend(EXTRA_CA_VARIABLES.map(|name| (name, bundle.ours.clone().into())));
        variables.notes.extend(bundle.unreadable.iter().cloned());
    }
    let host = address.ip().to_string();
    java_options::add((&host, address.port()), &exceptions, &counted, bundle, env, &mut variables);
    variables
}

/// Sets `NO_PROXY` and its variants: entries of the user but those for hosts that a limit counts,
/// and `own`, the gateway's addresses. Returns the value of `NO_PROXY`.
///
/// A variable that is set in one spelling gives its value to the other. Entries that were left out
/// are named in one note. Without the gateway's address, a program that calls the proxy by itself
/// (axios) would be sent to the proxy through the proxy by a library below it (Node).
fn set_no_proxy(counted: &CountedHosts, own: &[String], env: Env<'_>, variables: &mut Variables) -> String {
    let text = |name| env(name).map(|list| list.to_string_lossy().into_owned());
    let (upper, lower) = (text("NO_PROXY"), text("no_proxy"));
    let default = Some(if counted.loopback { String::new() } else { LOOPBACK_HOSTS.to_owned() });
    let lists = [
        ("NO_PROXY", upper.clone().or_else(|| lower.clone()).or_else(|| default.clone())),
        ("no_proxy", lower.or(upper).or(default)),
        // gRPC prefers this one.
        ("no_grpc_proxy", text("no_grpc_proxy")),
    ];
    let (mut holds, mut left_out) = (String::new(), Vec::new());
    for (name, list) in lists.into_iter().filter_map(|(name, list)| Some((name, list?))) {
        let value = no_proxy::with_own(counted.without(&no_proxy::without_own(list, own), &mut left_out), own);
        if name == "NO_PROXY" {
            holds.clone_from(&value);
        }
        variables.set.push((name, value.into()));
    }
    left_out.sort();
    left_out.dedup();
    if !left_out.is_empty() {
        let left_out = left_out.join(", ");
        variables
            .notes
            .push(format!("NO_PROXY is set without {left_out}: requests that a limit counts go through the gateway"));
    }
    holds
}
