//! `lockgate env`: what lets programs use the gateway, for `eval "$(lockgate env)"`.

use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;

use super::{complain, settings};
use crate::config::Settings;

/// Requests to this machine itself do not need a proxy.
const LOOPBACK: &str = "localhost,127.0.0.1,::1";

/// The address is not known before the gateway runs.
#[derive(Debug, thiserror::Error)]
#[error("[listen] names port 0, so the address is known only to the gateway that runs; it prints what to export")]
pub(super) struct AnyPort;

pub(super) fn env(wish: Option<&Path>) -> ExitCode {
    let Some((_, settings)) = settings(wish) else {
        return ExitCode::FAILURE;
    };
    match lines(&settings) {
        Ok(text) => {
            if settings.proxy.access.users.is_some() {
                eprintln!(
                    "lockgate: callers need a name and a password: put them into the URLs, as http://NAME:PASSWORD@…"
                );
            }
            std::io::stdout().lock().write_all(text.as_bytes()).ok();
            ExitCode::SUCCESS
        }
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

/// The URL of the gateway for programs on this machine.
///
/// # Errors
/// If the configuration leaves the port open.
pub(super) fn url(settings: &Settings) -> Result<String, AnyPort> {
    let Some(address) = settings.listen.first().filter(|address| address.port() != 0) else {
        return Err(AnyPort);
    };
    // Every address includes the one that is nearest.
    let ip = match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        SocketAddr::V4(_) | SocketAddr::V6(_) => address.ip(),
    };
    Ok(format!("http://{}", SocketAddr::new(ip, address.port())))
}

/// Lines for a POSIX shell. Both spellings, because curl knows `http_proxy` only in lower case and
/// other programs look for upper case first.
fn lines(settings: &Settings) -> Result<String, AnyPort> {
    let url = url(settings)?;
    let mut text: String = ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"]
        .map(|name| format!("export {name}={url}\n"))
        .concat();
    // What is set stays, and nothing that a limit counts may go past us.
    if !settings.counts_loopback {
        text.push_str(&format!("export NO_PROXY=\"${{NO_PROXY-${{no_proxy-{LOOPBACK}}}}}\"\n"));
        text.push_str("export no_proxy=\"${no_proxy-$NO_PROXY}\"\n");
    }
    text.push_str("export NODE_USE_ENV_PROXY=1\n");
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn settings(listen: &str) -> Settings {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/proxy.toml");
        let mut settings = crate::config::read(&path).unwrap();
        settings.bound_to(&[listen.parse().unwrap()]);
        settings
    }

    /// What a shell has in its variables after `eval`.
    fn evaluated(text: &str, before: &[(&str, &str)]) -> String {
        let script = format!(
            "{text}\necho $HTTP_PROXY $HTTPS_PROXY $http_proxy $https_proxy $NO_PROXY $no_proxy $NODE_USE_ENV_PROXY"
        );
        let shell = Command::new("sh").env_clear().envs(before.iter().copied()).args(["-c", &script]).output().unwrap();
        String::from_utf8(shell.stdout).unwrap().trim().to_owned()
    }

    #[test]
    fn a_shell_has_both_spellings_afterwards() {
        let text = lines(&settings("127.0.0.1:8080")).unwrap();
        let url = "http://127.0.0.1:8080";
        let local = "localhost,127.0.0.1,::1";
        assert_eq!(evaluated(&text, &[]), format!("{url} {url} {url} {url} {local} {local} 1"));
    }

    #[test]
    fn exceptions_that_are_set_stay_as_they_are() {
        let text = lines(&settings("127.0.0.1:8080")).unwrap();
        let after = |before: &[(&str, &str)]| {
            evaluated(&text, before).split_once("8080 ").map(|(_, rest)| rest.replace("http://127.0.0.1:8080 ", ""))
        };
        assert_eq!(after(&[("NO_PROXY", "a")]), Some("a a 1".to_owned()));
        assert_eq!(after(&[("no_proxy", "b")]), Some("b b 1".to_owned()));
        assert_eq!(after(&[("NO_PROXY", "a"), ("no_proxy", "b")]), Some("a b 1".to_owned()));
        assert_eq!(after(&[("NO_PROXY", "")]), Some("1".to_owned()), "set to nothing is set");
    }

    #[test]
    fn nothing_that_a_limit_counts_goes_past_us() {
        let text = lines(&Settings { counts_loopback: true, ..settings("127.0.0.1:8080") }).unwrap();
        assert!(!text.contains("NO_PROXY") && !text.contains("no_proxy"), "{text}");
    }

    #[test]
    fn every_address_is_reached_by_the_nearest() {
        let url = |listen| url(&settings(listen)).ok();
        assert_eq!(url("0.0.0.0:80").as_deref(), Some("http://127.0.0.1:80"));
        assert_eq!(url("[::]:80").as_deref(), Some("http://[::1]:80"));
        assert_eq!(url("10.1.2.3:80").as_deref(), Some("http://10.1.2.3:80"));
        assert_eq!(url("127.0.0.1:0"), None);
    }
}
