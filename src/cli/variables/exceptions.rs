//! What programs may call past the gateway: nothing that a limit or an opened tunnel counts.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::config::Settings;
use crate::tls::ca::Subtree;

/// What is counted, as far as hosts tell.
pub(super) struct Counted {
    /// Whether requests to this machine itself may be.
    pub(super) loopback: bool,
    hosts: Vec<Subtree>,
}

/// What an entry of `NO_PROXY` stands for.
enum Entry {
    All,
    Net(IpNet),
    /// A name, and all that is below it.
    Name(String),
}

impl Counted {
    pub(super) fn of(settings: &Settings) -> Counted {
        let mut hosts: Vec<Subtree> = settings.proxy.intercept.iter().map(|pattern| pattern.subtree()).collect();
        for rule in &settings.proxy.rules {
            if rule.hosts.is_empty() {
                hosts.push(Subtree::Any);
            }
            hosts.extend(rule.hosts.iter().map(|pattern| pattern.subtree()));
        }
        let loopback = settings.counts_loopback || hosts.iter().any(is_loopback);
        Counted { loopback, hosts }
    }

    /// The list without what stands for something counted, which goes to `left_out`.
    pub(super) fn without(&self, list: &str, left_out: &mut Vec<String>) -> String {
        // Some programs separate by spaces, so entries never hold one.
        let entries = list.split([',', ' ', '\t']).filter(|entry| !entry.is_empty());
        let (counted, kept): (Vec<&str>, Vec<&str>) = entries.partition(|entry| self.meets(&Entry::read(entry)));
        if counted.is_empty() {
            return list.to_owned();
        }
        left_out.extend(counted.into_iter().map(str::to_owned));
        kept.join(",")
    }

    /// Whether anything that is counted may be called by what the entry stands for.
    fn meets(&self, entry: &Entry) -> bool {
        self.loopback && entry.is_loopback() || self.hosts.iter().any(|host| entry.overlaps(host))
    }
}

impl Entry {
    fn read(text: &str) -> Entry {
        if text == "*" {
            return Entry::All;
        }
        let text = text.to_ascii_lowercase();
        let bare = text.trim_start_matches('[').trim_end_matches(']');
        if let Ok(net) = bare.parse() {
            return Entry::Net(net);
        }
        if let Ok(ip) = bare.parse::<IpAddr>() {
            return Entry::Net(ip.to_canonical().into());
        }
        let (host, _port) = text.rsplit_once(':').unwrap_or((&text, ""));
        match host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            Ok(ip) => Entry::Net(ip.to_canonical().into()),
            Err(_) => Entry::Name(host.trim_start_matches('*').trim_matches('.').to_owned()),
        }
    }

    fn is_loopback(&self) -> bool {
        match self {
            Entry::All => true,
            Entry::Net(net) => {
                [net.network(), net.broadcast()].iter().any(IpAddr::is_loopback) || net.prefix_len() == 0
            }
            // `127.` and `127.*` are how some programs write the whole range.
            Entry::Name(name) => is_below(name, "localhost") || name == "127" || name.starts_with("127."),
        }
    }

    fn overlaps(&self, host: &Subtree) -> bool {
        match (self, host) {
            (_, Subtree::Any) | (Entry::All, _) => true,
            (Entry::Net(net), Subtree::Address(ip)) => net.contains(ip),
            (Entry::Name(name), Subtree::Name(counted)) => is_below(name, counted) || is_below(counted, name),
            (Entry::Net(_), Subtree::Name(_)) | (Entry::Name(_), Subtree::Address(_)) => false,
        }
    }
}

fn is_loopback(host: &Subtree) -> bool {
    match host {
        Subtree::Any => true,
        Subtree::Name(name) => is_below(name, "localhost"),
        Subtree::Address(ip) => ip.is_loopback(),
    }
}

/// Whether `name` is `top`, or a name below it.
fn is_below(name: &str, top: &str) -> bool {
    name.strip_suffix(top).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}
