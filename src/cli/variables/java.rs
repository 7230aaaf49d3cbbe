//! What Java reads instead of the usual variables: system properties, by `JAVA_TOOL_OPTIONS`.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use super::{Held, Variables};
use crate::tls::bundle::Bundle;

const NAME: &str = "JAVA_TOOL_OPTIONS";
/// The property that names a trust store; what was set with it is the user's own.
const TRUST_STORE: &[u8] = b"-Djavax.net.ssl.trustStore=";
/// What we set each time anew.
const OURS: [&[u8]; 5] = [
    b"-Dhttp.proxyHost=",
    b"-Dhttp.proxyPort=",
    b"-Dhttps.proxyHost=",
    b"-Dhttps.proxyPort=",
    b"-Dhttp.nonProxyHosts=",
];
/// What goes with a trust store of ours.
const STORE: [&[u8]; 3] = [TRUST_STORE, b"-Djavax.net.ssl.trustStoreType=", b"-Djavax.net.ssl.trustStorePassword="];

/// Appends our options to those that are set. `exceptions`: what `NO_PROXY` holds now.
pub(super) fn add(
    address: SocketAddr,
    exceptions: &str,
    counts_loopback: bool,
    bundle: Option<&Bundle>,
    held: Held<'_>,
    variables: &mut Variables,
) {
    let before = held(NAME).unwrap_or_default();
    let mut words = split(before.as_bytes());
    words.retain(|word| !begins_with(word, &OURS));
    if let Some(bundle) = bundle {
        // Ours it is if it was made where we make it.
        let folder = bundle.java.parent().unwrap_or(Path::new("/"));
        let foreign = words.iter().map(|word| plain(word)).find(|word| {
            word.strip_prefix(TRUST_STORE).is_some_and(|path| !path.starts_with(folder.as_os_str().as_bytes()))
        });
        if foreign.is_some() {
            variables.notes.push(format!(
                "{NAME} names a trust store already, which stays; add our certificate to it: keytool -importcert -file {}",
                bundle.ours.display()
            ));
        } else {
            words.retain(|word| !begins_with(word, &STORE));
            words.push(quoted(&[TRUST_STORE, bundle.java.as_os_str().as_bytes()].concat()));
            words.push(b"-Djavax.net.ssl.trustStoreType=JKS".to_vec());
            words.push(b"-Djavax.net.ssl.trustStorePassword=changeit".to_vec());
        }
    }
    let (host, port) = (address.ip(), address.port());
    // Java calls itself past any proxy if this is not set, and also if it is set to anything at all.
    let past = if counts_loopback { String::new() } else { patterns(exceptions) };
    for option in [
        format!("-Dhttp.proxyHost={host}"),
        format!("-Dhttp.proxyPort={port}"),
        format!("-Dhttps.proxyHost={host}"),
        format!("-Dhttps.proxyPort={port}"),
        format!("-Dhttp.nonProxyHosts={past}"),
    ] {
        words.push(option.into_bytes());
    }
    variables.set.push((NAME, OsString::from_vec(words.join(&b' '))));
}

/// The exceptions as Java writes them. What it cannot express (ports, odd ranges) goes through the gateway.
fn patterns(exceptions: &str) -> String {
    let mut patterns: Vec<String> = Vec::new();
    for entry in exceptions.split([',', ' ', '\t']).filter(|entry| !entry.is_empty()) {
        if entry.parse::<std::net::Ipv6Addr>().is_ok() {
            patterns.push(format!("[{entry}]"));
        } else if entry == "*" || entry.parse::<std::net::Ipv4Addr>().is_ok() || entry == "localhost" {
            patterns.push(entry.to_owned());
        } else if entry.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_*".contains(&byte)) {
            let name = entry.trim_start_matches('*').trim_start_matches('.');
            // Others take a name for itself and all below it.
            patterns.push(format!("{name}|*.{name}"));
        }
    }
    patterns.join("|")
}

/// The words of the variable, as they are written: blanks separate, and quotes of either kind hold together.
fn split(text: &[u8]) -> Vec<Vec<u8>> {
    let mut words = vec![Vec::new()];
    let mut quote = None;
    for &byte in text {
        match quote {
            None if byte.is_ascii_whitespace() => words.push(Vec::new()),
            None if matches!(byte, b'"' | b'\'') => {
                quote = Some(byte);
                push(&mut words, byte);
            }
            None | Some(_) => {
                if quote == Some(byte) {
                    quote = None;
                }
                push(&mut words, byte);
            }
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

fn push(words: &mut [Vec<u8>], byte: u8) {
    if let Some(word) = words.last_mut() {
        word.push(byte);
    }
}

/// A word as Java takes it: without quotes.
fn plain(word: &[u8]) -> Vec<u8> {
    let mut quote = None;
    let mut plain = Vec::new();
    for &byte in word {
        match quote {
            None if matches!(byte, b'"' | b'\'') => quote = Some(byte),
            Some(open) if open == byte => quote = None,
            None | Some(_) => plain.push(byte),
        }
    }
    plain
}

/// A word that Java takes as it is here.
fn quoted(word: &[u8]) -> Vec<u8> {
    if !word.iter().any(|byte| byte.is_ascii_whitespace() || matches!(byte, b'"' | b'\'')) {
        return word.to_vec();
    }
    let mut quoted = vec![b'"'];
    for &byte in word {
        match byte {
            // It cannot stand between its like, so it stands between others.
            b'"' => quoted.extend_from_slice(b"\"'\"'\""),
            other => quoted.push(other),
        }
    }
    quoted.push(b'"');
    quoted
}

fn begins_with(word: &[u8], any: &[&[u8]]) -> bool {
    let plain = plain(word);
    any.iter().any(|start| plain.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        split(text.as_bytes()).iter().map(|word| String::from_utf8(plain(word)).unwrap()).collect()
    }

    #[test]
    fn words_are_held_together_by_quotes() {
        assert_eq!(words("  -Da=1\t-Db=\"x y\" '-Dc=\"'  "), ["-Da=1", "-Db=x y", "-Dc=\""]);
        assert!(words(" ").is_empty());
    }

    #[test]
    fn a_path_with_blanks_and_quotes_comes_through() {
        for path in ["-Da=/plain", "-Da=/with a blank", "-Da=/it's", "-Da=/say \"hi\" y'all"] {
            let text = quoted(path.as_bytes());
            let back = split(&text);
            assert_eq!(back.len(), 1, "{path}");
            assert_eq!(plain(&back[0]), path.as_bytes(), "{path}");
        }
    }

    #[test]
    fn exceptions_are_written_as_java_reads_them() {
        assert_eq!(patterns("localhost,127.0.0.1,::1"), "localhost|127.0.0.1|[::1]");
        assert_eq!(patterns(".corp.example, a.example"), "corp.example|*.corp.example|a.example|*.a.example");
        assert_eq!(patterns("*"), "*");
        assert_eq!(patterns("10.0.0.0/8,a.example:8443"), "", "it goes through the gateway");
    }
}
