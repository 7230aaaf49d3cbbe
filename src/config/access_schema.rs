//! The shape of `[access]` and `[timeouts]`: every key, how its value is written, and its default.

use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::item::{At, Written};
use super::value::{path, port, range, upgrade};
use super::walk::Table;
use crate::net::prefix::Ipv6Prefix;
use crate::proxy::Timeouts;

const NONE: Duration = Duration::ZERO;
const MS: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// `[access]`
#[derive(Debug)]
pub(super) struct Access {
    pub(super) allow_from: Written<Vec<At<IpNet>>>,
    pub(super) users: Written<PathBuf>,
    pub(super) connect_ports: Vec<u16>,
    pub(super) allow_ports: Vec<u16>,
    pub(super) only_listed: Written<bool>,
    pub(super) deny_opaque: Written<bool>,
    pub(super) deny_addresses: Vec<At<IpNet>>,
    pub(super) allow_addresses: Vec<At<IpNet>>,
    pub(super) ipv6_prefix: Ipv6Prefix,
    pub(super) upgrades: Vec<String>,
}

impl Access {
    /// The line that denies unlisted hosts.
    pub(super) fn only_listed(&self) -> Option<&At<bool>> {
        self.only_listed.get().filter(|at| at.value)
    }

    /// The line that denies tunnels that are not opened.
    pub(super) fn deny_opaque(&self) -> Option<&At<bool>> {
        self.deny_opaque.get().filter(|at| at.value)
    }

    pub(super) fn read(table: &mut Table<'_>) -> Access {
        Access {
            allow_from: table.get("allow_from", |v| v.some(range)),
            users: table.get("users", path),
            connect_ports: table.get("connect_ports", |v| v.each(port)).map_all().unwrap_or_else(|| vec![443]),
            allow_ports: table.get("allow_ports", |v| v.each(port)).map_all().unwrap_or_default(),
            only_listed: table.get("unlisted_hosts", |v| v.word(&[("allow", false), ("deny", true)])),
            deny_opaque: table.get("opaque_tunnels", |v| v.word(&[("allow", false), ("deny", true)])),
            deny_addresses: table.get("deny_addresses", |v| v.each(range)).or(Vec::new()),
            allow_addresses: table.get("allow_addresses", |v| v.each(range)).or(Vec::new()),
            ipv6_prefix: table
                .get("ipv6_prefix", |v| v.number(1..=128).and_then(|bits| u8::try_from(bits).ok()).map(Ipv6Prefix))
                .or(Ipv6Prefix::default()),
            upgrades: table
                .get("upgrades", |v| v.each(upgrade))
                .map_all()
                .unwrap_or_else(|| vec!["websocket".to_owned()]),
        }
    }
}

/// `[timeouts]`
pub(super) fn timeouts(table: &mut Table<'_>) -> Timeouts {
    let request = table.get("request", |v| v.duration(MS..=DAY)).get().map(|at| at.value);
    let mut wait = |key, default| table.get(key, |v| v.duration(MS..=DAY)).or(default);
    Timeouts {
        head: wait("head", secs(10)),
        connect: wait("connect", secs(5)),
        answer: wait("answer", secs(60)),
        request,
        idle: wait("idle", secs(90)),
        tunnel_idle: wait("tunnel_idle", secs(600)),
        drain: table.get("drain", |v| v.duration(NONE..=HOUR)).or(secs(30)),
    }
}

impl<T> Written<Vec<At<T>>> {
    /// The values without their places.
    fn map_all(self) -> Option<Vec<T>> {
        match self {
            Written::Value(list) => Some(list.value.into_iter().map(|at| at.value).collect()),
            Written::Absent | Written::Wrong => None,
        }
    }
}

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}
