//! Checks of `[[parent]]`: builds the settings of parent proxies, and reads their passwords.

use std::fs::File;
use std::io::Read;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::parent_schema::{ParentExcept, ParentSection};
use super::report::Reports;
use super::toml_value::Spanned;
use crate::net::dial;
use crate::proxy::parent::{self, ParentLogin, ParentUrl};
use crate::proxy::pattern::HostPattern;
use crate::wire::socks5_client::MAX_TEXT;

/// Checks the sections, in the order of the file. `dial`: the rules for addresses, with the gateway's own listeners.
pub(super) fn check(
    written: &[ParentSection],
    dial: &dial::Settings,
    folder: &Path,
    reports: &Reports<'_>,
) -> Vec<parent::Settings> {
    let mut settings = Vec::new();
    for (index, section) in written.iter().enumerate() {
        warn_of_no_effect(section, &written[..index], reports);
        if section.proxies.is_absent() {
            reports.error(&section.span, "`proxy` is missing", "add proxy = \"http://proxy.example:3128\"");
        }
        let login = login(section, folder, reports);
        let Some(proxies) = section.proxies.get() else { continue };
        for (index, at) in proxies.value.iter().enumerate() {
            if is_own(&at.value, dial) {
                let advice = "name the proxy behind this gateway";
                reports.error(&at.span, format_args!("{} is this gateway itself", at.value), advice);
            }
            if proxies.value[..index].iter().any(|other| other.value == at.value) {
                reports.error(&at.span, format_args!("{} is listed already", at.value), "leave it out");
            }
        }
        settings.push(parent::Settings {
            hosts: hosts(section),
            except_hosts: section.except.iter().filter_map(|at| excepted_host(&at.value)).collect(),
            except_addresses: section.except.iter().filter_map(|at| excepted_range(&at.value)).collect(),
            proxies: proxies.value.iter().map(|at| at.value.clone()).collect(),
            login,
        });
    }
    settings
}

/// Hosts of a section; all hosts without any.
fn hosts(section: &ParentSection) -> Vec<HostPattern> {
    if section.hosts.is_empty() {
        return vec![HostPattern::any()];
    }
    section.hosts.iter().map(|at| at.value.pattern.clone()).collect()
}

fn excepted_host(except: &ParentExcept) -> Option<HostPattern> {
    match except {
        ParentExcept::Host(host) => Some(host.pattern.clone()),
        ParentExcept::Addresses(_) => None,
    }
}

fn excepted_range(except: &ParentExcept) -> Option<ipnet::IpNet> {
    match except {
        ParentExcept::Addresses(range) => Some(*range),
        ParentExcept::Host(_) => None,
    }
}

/// Warns of a section that takes no request, because an earlier one takes them all.
fn warn_of_no_effect(section: &ParentSection, earlier: &[ParentSection], reports: &Reports<'_>) {
    let own = hosts(section);
    let hides = |other: &ParentSection| {
        let others = hosts(other);
        let covers = |host: &HostPattern| {
            let fits = |other: &&HostPattern| other.port().is_none() || other.port() == host.port();
            // A star takes neither this machine nor routes, which a host by name does.
            let is_as_wide = |other: &HostPattern| other.is_specific() || !host.is_specific();
            others.iter().filter(fits).any(|other| is_as_wide(other) && other.covers(host, host.port().unwrap_or(443)))
        };
        other.except.is_empty() && own.iter().all(covers)
    };
    if earlier.iter().any(hides) {
        let message = "this [[parent]] takes no request: an earlier one takes them all";
        reports.warn(&section.span, message, "move it before that one, or list several proxies in one section");
    }
}

/// True for a URL that leads to a listener of the gateway, as far as its text shows.
fn is_own(url: &ParentUrl, dial: &dial::Settings) -> bool {
    let addresses = match (&*url.host, url.host.parse()) {
        (_, Ok(ip)) => vec![ip],
        ("localhost", Err(_)) => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
        (_, Err(_)) => Vec::new(),
    };
    addresses.into_iter().any(|ip| dial.is_own(SocketAddr::new(ip, url.port)))
}

/// Credentials of a section; reports one without the other.
fn login(section: &ParentSection, folder: &Path, reports: &Reports<'_>) -> Option<ParentLogin> {
    if let (Some(at), true) = (section.user.get(), section.password_file.is_absent()) {
        reports.error(&at.span, "`user` has no password", "add password_file = \"parent.password\"");
    }
    let file = section.password_file.get()?;
    if section.user.is_absent() {
        reports.error(&file.span, "`password_file` has no effect without `user`", "add user = \"…\"");
    }
    let password = password(file, folder, reports)?;
    Some(ParentLogin { user: section.user.get()?.value.clone(), password })
}

/// Reads a password file, without the end of its line. Only its owner may read it.
fn password(at: &Spanned<PathBuf>, folder: &Path, reports: &Reports<'_>) -> Option<String> {
    let path = folder.join(&at.value);
    let (text, mode) = match read(&path) {
        Ok(read) => read,
        Err(error) => {
            let message = format!("cannot read {}: {}", path.display(), error.kind());
            reports.error(&at.span, message, "a file that holds the password and nothing else");
            return None;
        }
    };
    if mode & 0o077 != 0 {
        let message =
            format!("the password file {} may be read or written by others (its mode is {mode:03o})", path.display());
        reports.error(&at.span, message, format_args!("run `chmod 600 {}`", path.display()));
        return None;
    }
    let password = text.trim_end_matches(['\r', '\n']);
    if password.is_empty() || password.len() > MAX_TEXT || password.contains(char::is_control) {
        let message = format!("{} holds no password of one line", path.display());
        reports.error(&at.span, message, format_args!("write the password into it, at most {MAX_TEXT} bytes"));
        return None;
    }
    Some(password.to_owned())
}

/// Reads a small file, with its permission bits. Bytes behind the longest password do not matter.
fn read(path: &Path) -> std::io::Result<(String, u32)> {
    // Checks the open file, not its path, which may lead elsewhere a moment later.
    let file = File::open(path)?;
    let mode = file.metadata()?.permissions().mode() & 0o777;
    let mut text = String::new();
    file.take(4 * MAX_TEXT as u64).read_to_string(&mut text)?;
    Ok((text, mode))
}

/// A section in a sentence, for `lockgate check`.
pub(super) fn explain(section: &ParentSection) -> Option<String> {
    let proxies: Vec<_> = section.proxies.get()?.value.iter().map(|at| at.value.to_string()).collect();
    let hosts: Vec<_> = section.hosts.iter().map(|at| at.value.text.as_str()).collect();
    let is_star = section.hosts.iter().all(|at| !at.value.pattern.is_specific());
    let to = match hosts.is_empty() || hosts == ["*"] {
        true => "all hosts".to_owned(),
        false => hosts.join(" or "),
    };
    let except = section.except.iter().map(|at| match &at.value {
        ParentExcept::Host(host) => host.text.clone(),
        ParentExcept::Addresses(range) => range.to_string(),
    });
    let mut except: Vec<_> = except.collect();
    if is_star {
        except.push("this machine".to_owned());
        except.push("origins of routes".to_owned());
    }
    let except = if except.is_empty() { String::new() } else { format!(" except {}", except.join(", ")) };
    Some(format!("requests to {to}{except} go through the parent proxy {}", proxies.join(", or if it fails ")))
}
