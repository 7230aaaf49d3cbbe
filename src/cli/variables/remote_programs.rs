//! Variables for programs that run elsewhere: in other containers, on other machines.
//!
//! Files of this machine are not there, so only what is no file is set: the URL of the proxy,
//! `NO_PROXY`, Java's options; and the path of a bundle of certificates, if the user says where it
//! is mounted.

use std::path::Path;
use std::str::FromStr;

use http::Uri;

use super::no_proxy::CountedHosts;
use super::{
    BUNDLE_DIR_VARIABLE, BUNDLE_VARIABLES, CREDENTIALS, EXTRA_CA_VARIABLES, Env, PROXY_VARIABLES, SOCKS_VARIABLE,
    SWITCHES, Variables, java_options, set_no_proxy, userinfo_of,
};
use crate::config::Settings;

/// The gateway as programs elsewhere reach it: scheme, host, port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::cli) struct RemoteProxy {
    /// `http` or `https`.
    scheme: String,
    /// Name or address; an IPv6 address is in brackets.
    host: String,
    port: u16,
}

impl FromStr for RemoteProxy {
    type Err = String;

    /// Reads `http://HOST:PORT`, with or without a slash at the end.
    ///
    /// # Errors
    /// The reason, for the user: another scheme, no host, a path, credentials.
    fn from_str(text: &str) -> Result<RemoteProxy, String> {
        let uri: Uri = text.parse().map_err(|error| format!("{error}; write http://HOST:PORT"))?;
        let (Some(scheme @ ("http" | "https")), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err("write http://HOST:PORT, or https:// if [listen] tls is set".to_owned());
        };
        if authority.as_str().contains('@') {
            return Err(format!("credentials come from {CREDENTIALS}, not from this URL"));
        }
        if uri.path_and_query().is_some_and(|path| path.as_str() != "/") {
            return Err("the URL of a proxy has no path".to_owned());
        }
        // As programs do without a port.
        let port = authority.port_u16().unwrap_or(if scheme == "http" { 80 } else { 443 });
        Ok(RemoteProxy { scheme: scheme.to_owned(), host: authority.host().to_owned(), port })
    }
}

/// Variables for programs that reach the gateway at `proxy`. `ca_bundle`: path, where they run, of a
/// PEM file with all roots and the gateway's.
pub(in crate::cli) fn remote_variables(
    settings: &Settings,
    proxy: &RemoteProxy,
    ca_bundle: Option<&Path>,
    env: Env<'_>,
) -> Variables {
    let mut variables = Variables::default();
    let credentials = env(CREDENTIALS).filter(|text| !text.is_empty());
    let userinfo = userinfo_of(credentials.as_deref());
    let RemoteProxy { scheme, host, port } = proxy;
    let url = format!("{scheme}://{userinfo}{host}:{port}");
    variables.set.extend(PROXY_VARIABLES.map(|name| (name, url.clone().into())));
    // No client speaks SOCKS5 over TLS.
    let socks = if scheme == "http" { format!("socks5h://{userinfo}{host}:{port}") } else { url };
    variables.set.push((SOCKS_VARIABLE, socks.into()));
    variables.set.extend(SWITCHES.map(|name| (name, "1".into())));
    let counted = CountedHosts::of(settings);
    // An IPv6 address has no brackets in NO_PROXY and in Java's options, and no port in the first.
    let bare = host.trim_matches(['[', ']']);
    let own = if bare == host { format!("{host}:{port}") } else { bare.to_owned() };
    let exceptions = set_no_proxy(&counted, &[own], env, &mut variables);
    if let Some(bundle) = ca_bundle {
        let names = BUNDLE_VARIABLES.iter().chain([&BUNDLE_DIR_VARIABLE]).chain(&EXTRA_CA_VARIABLES);
        variables.set.extend(names.map(|name| (*name, bundle.into())));
    } else if settings.proxy.authority.is_some() {
        variables.notes.push(
            "hosts are intercepted, and programs elsewhere must trust the gateway's authority: name the file by --ca-bundle"
                .to_owned(),
        );
    }
    java_options::add((bare, *port), &exceptions, &counted, None, env, &mut variables);
    variables
}
