//! `JAVA_TOOL_OPTIONS`: proxy and trust store as system properties, because Java ignores the usual
//! variables.
//!
//! Options of the user stay, in their order; ours from an earlier call are replaced. Java reads the
//! variable at its start, splits it at blanks, and removes quotes.
//!
//! ```text
//! -Dhttp.proxyHost=127.0.0.1 -Dhttp.proxyPort=8080 -Dhttps.proxyHost=127.0.0.1 ...
//! ```

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use super::no_proxy::CountedHosts;
use super::{Env, Variables};
use crate::tls::bundle::Bundle;

/// Variable that every JVM reads options from (JVM TI, "JAVA_TOOL_OPTIONS").
const VARIABLE: &str = "JAVA_TOOL_OPTIONS";
/// Property that names a trust store. A user's own stays.
const TRUST_STORE: &[u8] = b"-Djavax.net.ssl.trustStore=";
/// Options of ours, replaced each time.
const OWN_OPTIONS: [&[u8]; 5] = [
    b"-Dhttp.proxyHost=",
    b"-Dhttp.proxyPort=",
    b"-Dhttps.proxyHost=",
    b"-Dhttps.proxyPort=",
    b"-Dhttp.nonProxyHosts=",
];
/// Options of a trust store of ours.
const TRUST_STORE_OPTIONS: [&[u8]; 3] =
    [TRUST_STORE, b"-Djavax.net.ssl.trustStoreType=", b"-Djavax.net.ssl.trustStorePassword="];

/// Appends our options to the present ones. The gateway is at `host` and `port`; `no_proxy` is the value of `NO_PROXY`.
///
/// A trust store of the user's own stays, and a note says how to add our certificate to it.
pub(super) fn add(
    (host, port): (&str, u16),
    no_proxy: &str,
    counted: &CountedHosts,
    bundle: Option<&Bundle>,
    env: Env<'_>,
    variables: &mut Variables,
) {
    let current = env(VARIABLE).unwrap_or_default();
    let mut words = split(current.as_bytes());
    words.retain(|word| !starts_with_any(word, &OWN_OPTIONS));
    if let Some(bundle) = bundle {
        // A trust store of ours lies in the folder of our bundles.
        let folder = bundle.java.parent().unwrap_or(Path::new("/"));
        let foreign = words.iter().map(|word| unquote(word)).find(|word| {
            word.strip_prefix(TRUST_STORE).is_some_and(|path| !path.starts_with(folder.as_os_str().as_bytes()))
        });
        if foreign.is_some() {
            variables.notes.push(format!(
                "{VARIABLE} names a trust store already, which stays; add our certificate to it: keytool -importcert -file {}",
                bundle.ours.display()
            ));
        } else {
            words.retain(|word| !starts_with_any(word, &TRUST_STORE_OPTIONS));
            words.push(quote(&[TRUST_STORE, bundle.java.as_os_str().as_bytes()].concat()));
            words.push(b"-Djavax.net.ssl.trustStoreType=JKS".to_vec());
            words.push(b"-Djavax.net.ssl.trustStorePassword=changeit".to_vec());
        }
    }
    // Java bypasses the proxy for this machine if this is absent, and also if it has any value but the empty one.
    let past = if counted.loopback { String::new() } else { non_proxy_hosts(no_proxy) };
    for option in [
        format!("-Dhttp.proxyHost={host}"),
        format!("-Dhttp.proxyPort={port}"),
        format!("-Dhttps.proxyHost={host}"),
        format!("-Dhttps.proxyPort={port}"),
        format!("-Dhttp.nonProxyHosts={past}"),
    ] {
        words.push(option.into_bytes());
    }
    variables.set.push((VARIABLE, OsString::from_vec(words.join(&b' '))));
}

/// Converts `NO_PROXY` to `http.nonProxyHosts`. Entries that Java cannot express (ports, ranges)
/// are left out: their hosts go through the gateway.
///
/// `example.com,10.0.0.1` becomes `example.com|*.example.com|10.0.0.1`.
fn non_proxy_hosts(no_proxy: &str) -> String {
    let mut patterns: Vec<String> = Vec::new();
    for entry in no_proxy.split([',', ' ', '\t']).filter(|entry| !entry.is_empty()) {
        if entry.parse::<std::net::Ipv6Addr>().is_ok() {
            patterns.push(format!("[{entry}]"));
        } else if entry == "*" || entry.parse::<std::net::Ipv4Addr>().is_ok() || entry == "localhost" {
            patterns.push(entry.to_owned());
        } else if entry.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_*".contains(&byte)) {
            let name = entry.trim_start_matches('*').trim_start_matches('.');
            // In `NO_PROXY` a name includes its subdomains.
            patterns.push(format!("{name}|*.{name}"));
        }
    }
    patterns.join("|")
}

/// Splits the variable into words at blanks outside of quotes; the quotes stay.
///
/// An unclosed quote extends to the end.
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

/// Appends a byte to the last word.
fn push(words: &mut [Vec<u8>], byte: u8) {
    if let Some(word) = words.last_mut() {
        word.push(byte);
    }
}

/// Removes the quotes of a word, as Java does.
fn unquote(word: &[u8]) -> Vec<u8> {
    let mut quote = None;
    let mut unquoted = Vec::new();
    for &byte in word {
        match quote {
            None if matches!(byte, b'"' | b'\'') => quote = Some(byte),
            Some(open) if open == byte => quote = None,
            None | Some(_) => unquoted.push(byte),
        }
    }
    unquoted
}

/// Quotes a word for the variable, if it needs that.
///
/// A double quote within becomes `"'"'"`: closed, quoted by single quotes, opened again.
fn quote(word: &[u8]) -> Vec<u8> {
    if !word.iter().any(|byte| byte.is_ascii_whitespace() || matches!(byte, b'"' | b'\'')) {
        return word.to_vec();
    }
    let mut quoted = vec![b'"'];
    for &byte in word {
        match byte {
            // There is no escape: a double quote stands in single quotes.
            b'"' => quoted.extend_from_slice(b"\"'\"'\""),
            other => quoted.push(other),
        }
    }
    quoted.push(b'"');
    quoted
}

/// Compares the word without its quotes.
fn starts_with_any(word: &[u8], any: &[&[u8]]) -> bool {
    let unquoted = unquote(word);
    any.iter().any(|start| unquoted.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        split(text.as_bytes()).iter().map(|word| String::from_utf8(unquote(word)).unwrap()).collect()
    }

    #[test]
    fn words_are_held_together_by_quotes() {
        assert_eq!(words("  -Da=1\t-Db=\"x y\" '-Dc=\"'  "), ["-Da=1", "-Db=x y", "-Dc=\""]);
        assert!(words(" ").is_empty());
    }

    #[test]
    fn a_path_with_blanks_and_quotes_comes_through() {
        for path in ["-Da=/plain", "-Da=/with a blank", "-Da=/it's", "-Da=/say \"hi\" y'all"] {
            let text = quote(path.as_bytes());
            let back = split(&text);
            assert_eq!(back.len(), 1, "{path}");
            assert_eq!(unquote(&back[0]), path.as_bytes(), "{path}");
        }
    }

    #[test]
    fn exceptions_are_written_as_java_reads_them() {
        assert_eq!(non_proxy_hosts("localhost,127.0.0.1,::1"), "localhost|127.0.0.1|[::1]");
        assert_eq!(non_proxy_hosts(".corp.example, a.example"), "corp.example|*.corp.example|a.example|*.a.example");
        assert_eq!(non_proxy_hosts("*"), "*");
        assert_eq!(non_proxy_hosts("10.0.0.0/8,a.example:8443"), "", "it goes through the gateway");
    }
}
