//! Schema of `[access]`: every key, its form and its default.
//!
//! Example of the section as a file has it:
//!
//! ```text
//! [access]
//! allow_from    = ["10.0.0.0/8", "::1"]
//! users         = "users"
//! connect_ports = [443, 8443]
//! ```
//!
//! Constraints with other sections are not checked here: an open gateway without `allow_from` and
//! `users` is found by `validate`, ranges without effect by `address_rules`.

use std::path::PathBuf;

use ipnet::IpNet;

use super::toml_table::TomlTable;
use super::toml_value::{Setting, Spanned};
use super::value_parsers::{path, port, range, upgrade};
use crate::net::prefix::Ipv6Prefix;

/// `[access]`: callers that may use the gateway, and hosts, ports and addresses that they may reach.
#[derive(Debug)]
pub(super) struct AccessSection {
    /// Addresses of allowed callers. Default: depends on the listeners and on `users`.
    ///
    /// Without the key: loopback alone; with `users` and a listener that other machines reach, all
    /// addresses. Connections from other addresses are closed without an answer.
    pub(super) allow_from: Setting<Vec<Spanned<IpNet>>>,
    /// Path of the users file. Default: callers need no password.
    ///
    /// Lines of the file: see `users`. The path is relative to the folder of `proxy.toml`.
    pub(super) users: Setting<PathBuf>,
    /// Ports to which `CONNECT` may lead. Default: 443.
    ///
    /// An empty list denies every `CONNECT`. Default of 443: a proxy that tunnels to any port can
    /// be used to reach other protocols, such as SMTP (RFC 9110 §9.3.6).
    pub(super) connect_ports: Vec<u16>,
    /// Ports that are reached in spite of being those of other protocols. Default: none.
    ///
    /// They are those that the Fetch standard blocks (`proxy::blocked_ports`), such as 25 of SMTP.
    pub(super) allow_ports: Vec<u16>,
    /// `unlisted_hosts`; true: hosts of no limit and no route are denied. Default: they are allowed.
    ///
    /// The span is kept, because a warning about a file without limits and routes points at it.
    pub(super) only_listed: Setting<bool>,
    /// `opaque_tunnels`; true: tunnels to hosts of limits are denied unless intercepted. Default: they are allowed.
    pub(super) deny_opaque: Setting<bool>,
    /// Ranges of origins' addresses that are never dialled.
    ///
    /// Go before `allow_addresses`. Default: none.
    pub(super) deny_addresses: Vec<Spanned<IpNet>>,
    /// Private ranges that are dialled for any host.
    ///
    /// Needed for hosts with private addresses that no limit and no route names. Default: none.
    pub(super) allow_addresses: Vec<Spanned<IpNet>>,
    /// Leading bits of an IPv6 address that make one caller. Default: 64.
    ///
    /// In bits, 1 to 128. Callers with a user name are told apart by that instead.
    pub(super) ipv6_prefix: Ipv6Prefix,
    /// Protocols that a connection may change to. Default: websocket.
    ///
    /// Tokens of `Upgrade` (RFC 9110 §7.8) in lower case. An empty list allows no upgrade.
    pub(super) upgrades: Vec<String>,
}

impl AccessSection {
    /// The setting that denies hosts of no limit and no route, if it is set.
    pub(super) fn only_listed(&self) -> Option<&Spanned<bool>> {
        self.only_listed.get().filter(|at| at.value)
    }

    /// The setting that denies tunnels that are not intercepted, if it is set.
    pub(super) fn deny_opaque(&self) -> Option<&Spanned<bool>> {
        self.deny_opaque.get().filter(|at| at.value)
    }

    /// Reads the section, and applies the defaults that depend on no other section. Invalid values
    /// are reported; their defaults stand in for them, and reach no gateway.
    pub(super) fn read(table: &mut TomlTable<'_>) -> AccessSection {
        AccessSection {
            allow_from: table.get("allow_from", |v| v.non_empty_list(range)),
            users: table.get("users", path),
            connect_ports: table.get("connect_ports", |v| v.list(port)).map_all().unwrap_or_else(|| vec![443]),
            allow_ports: table.get("allow_ports", |v| v.list(port)).map_all().unwrap_or_default(),
            only_listed: table.get("unlisted_hosts", |v| v.keyword(&[("allow", false), ("deny", true)])),
            deny_opaque: table.get("opaque_tunnels", |v| v.keyword(&[("allow", false), ("deny", true)])),
            deny_addresses: table.get("deny_addresses", |v| v.list(range)).or(Vec::new()),
            allow_addresses: table.get("allow_addresses", |v| v.list(range)).or(Vec::new()),
            ipv6_prefix: table
                .get("ipv6_prefix", |v| v.number(1..=128).and_then(|bits| u8::try_from(bits).ok()).map(Ipv6Prefix))
                .or(Ipv6Prefix::default()),
            upgrades: table
                .get("upgrades", |v| v.list(upgrade))
                .map_all()
                .unwrap_or_else(|| vec!["websocket".to_owned()]),
        }
    }
}

impl<T> Setting<Vec<Spanned<T>>> {
    /// The values without their spans; `None` unless the list is valid.
    fn map_all(self) -> Option<Vec<T>> {
        match self {
            Setting::Value(list) => Some(list.value.into_iter().map(|at| at.value).collect()),
            Setting::Absent | Setting::Invalid => None,
        }
    }
}
