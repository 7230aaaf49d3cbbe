//! Access rules: decides whether a caller may use the gateway, and which hosts and ports it may
//! call.
//!
//! Example of the settings, with their defaults but for the first:
//!
//! ```text
//! [access]
//! allow_from     = ["10.0.0.0/8"]
//! connect_ports  = [443]
//! allow_ports    = []
//! unlisted_hosts = "allow"
//! opaque_tunnels = "allow"
//! ipv6_prefix    = 64
//! upgrades       = ["websocket"]
//! ```
//!
//! Policies for the addresses that a host leads to are not applied here but at the dial, when they
//! are known.

use std::hash::Hasher;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use siphasher::sip::SipHasher13;

use super::account::Account;
use super::blocked_ports;
use super::metrics::Metrics;
use super::named_hosts::HostListing;
use super::refusal::Refusal;
use super::target::{Form, Target};
use crate::auth::{LoginError, Passwords};
use crate::gate::clock::Clock;
use crate::locker::Caller;
use crate::net::dial::Reach;
use crate::net::prefix::{self, Ipv6Prefix};
use crate::wire::{Name, RequestHead};

/// The `[access]` section of the configuration file.
#[derive(Clone, PartialEq, Debug)]
pub struct Settings {
    /// Addresses that may connect; empty: all. The configuration requires this list or `users` if
    /// the gateway can be reached from other machines.
    pub allow_from: Vec<IpNet>,
    /// User names and bcrypt hashes; `None`: no password is required.
    pub users: Option<Vec<(String, String)>>,
    /// Ports to which tunnels may carry TLS, and other protocols than HTTP.
    ///
    /// 443 by default. Plain HTTP in a tunnel, routes and other methods are not bound by it.
    pub connect_ports: Vec<u16>,
    /// Ports of blocked protocols that requests other than CONNECT may go to all the same.
    pub allow_ports: Vec<u16>,
    /// True if only hosts that a limit names may be called, besides the origins of routes.
    pub only_listed: bool,
    /// True if tunnels that are not intercepted are refused when a limit names their host.
    pub deny_opaque: bool,
    /// Length, in bits, of the IPv6 blocks that count as one caller.
    ///
    /// 64 by default.
    pub ipv6_prefix: Ipv6Prefix,
    /// Protocols that an HTTP/1.1 connection may change to, as `name/version`, or as `name` for
    /// every version.
    ///
    /// `websocket` by default.
    pub upgrades: Vec<String>,
}

/// Addresses that a request came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RequestSource {
    /// Address of its connection, which `allow_from` must contain.
    pub connection: IpAddr,
    /// Address of its caller: the same, unless a balancer tells another in a field of the request.
    pub caller: IpAddr,
}

/// A caller that was admitted, with the reach of its request.
#[derive(Clone, Debug)]
pub struct Admitted {
    /// Identity of the caller in queues and in windows counted per caller.
    ///
    /// 64 bits, which differ between gateways and stay the same over a restart of one.
    pub caller: Caller,
    /// Account of its user; `None` if no passwords are required.
    pub user: Option<Arc<Account>>,
    /// Address of the caller, or the block of IPv6 addresses that it belongs to.
    pub block: IpNet,
    /// Addresses that its request may be forwarded to.
    pub reach: Reach,
}

/// Access rules of one configuration.
#[derive(Debug)]
pub struct Access {
    /// This field and those without a doc are as in [`Settings`].
    allow_from: Vec<IpNet>,
    /// `None` if no passwords are required.
    passwords: Option<Passwords<Arc<Account>>>,
    connect_ports: Vec<u16>,
    allow_ports: Vec<u16>,
    only_listed: bool,
    deny_opaque: bool,
    ipv6_prefix: Ipv6Prefix,
    upgrades: Vec<String>,
    /// Seed of [`caller`].
    seed: [u8; 16],
}

impl Access {
    /// Takes settings that the configuration has checked. `seed`: seed of the hash of
    /// [`Admitted::caller`]. `before`: rules in force, whose accounts are kept for the names that stay.
    pub fn new(settings: Settings, seed: [u8; 16], before: Option<&Access>) -> Access {
        let before = before.and_then(|before| before.passwords.as_ref());
        let account = |name: &Arc<str>| {
            let kept = before.and_then(|before| before.account(name));
            kept.map_or_else(|| Account::new(name), Arc::clone)
        };
        let ipv6_prefix = settings.ipv6_prefix;
        let passwords = settings.users.map(|users| Passwords::with_accounts(users, ipv6_prefix, account));
        Access {
            allow_from: settings.allow_from,
            passwords,
            connect_ports: settings.connect_ports,
            allow_ports: settings.allow_ports,
            only_listed: settings.only_listed,
            deny_opaque: settings.deny_opaque,
            ipv6_prefix: settings.ipv6_prefix,
            upgrades: settings.upgrades,
            seed,
        }
    }

    /// Accounts of the users, by their names.
    pub fn accounts(&self) -> Vec<Arc<Account>> {
        let mut accounts: Vec<_> = self.passwords.iter().flat_map(Passwords::accounts).map(Arc::clone).collect();
        accounts.sort_by(|one, other| one.name().cmp(other.name()));
        accounts
    }

    /// True if callers need a password.
    pub fn asks_for_passwords(&self) -> bool {
        self.passwords.is_some()
    }

    /// True if a connection may change to this protocol (`name/version`, or `name`), in any letter
    /// case (RFC 9110 §7.8).
    pub(super) fn may_upgrade_to(&self, protocol: &[u8]) -> bool {
        let name = protocol.split(|byte| *byte == b'/').next().unwrap_or_default();
        let is_it = |listed: &String| {
            let asked = if listed.contains('/') { protocol } else { name };
            asked.eq_ignore_ascii_case(listed.as_bytes())
        };
        self.upgrades.iter().any(is_it)
    }

    /// True if connections from this address are served.
    pub fn may_connect_from(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.allow_from.is_empty() || self.allow_from.iter().any(|range| range.contains(&peer))
    }

    /// Decides on one request of a caller that [`Access::identify`] has let pass. `named`: entries of
    /// limits and routes for its host.
    ///
    /// # Errors
    /// 403 for a port or a host that is not allowed.
    pub fn admit(&self, identified: Admitted, target: &Target, named: HostListing) -> Result<Admitted, Refusal> {
        let port = target.origin.port;
        match target.form {
            Form::Authority if self.allows_tls_to(port) => {}
            Form::Absolute | Form::Authority | Form::Route if self.allows_http_to(port, named) => {}
            // Plain HTTP may not go there, and nothing else may be inside.
            Form::Authority => return Err(Refusal::Denied("the port is not in [access] connect_ports")),
            Form::Absolute | Form::Route => {
                return Err(Refusal::Denied(
                    "the port belongs to another protocol, and browsers block it too; allow it by a limit on \"host:port\" or in [access] allow_ports",
                ));
            }
        }
        if !self.lists(named) {
            return Err(Refusal::Denied("no limit names the host, and [access] unlisted_hosts is \"deny\""));
        }
        Ok(Admitted { reach: named.reach, ..identified })
    }

    /// True if a tunnel to this port may carry TLS, and other protocols than HTTP.
    pub fn allows_tls_to(&self, port: u16) -> bool {
        self.connect_ports.contains(&port)
    }

    /// True if plain HTTP may be spoken to this port, in a tunnel or without one. `named`: entries of limits and routes
    /// for its host.
    pub fn allows_http_to(&self, port: u16, named: HostListing) -> bool {
        named.with_port || self.allow_ports.contains(&port) || !blocked_ports::is_bad(port)
    }

    /// True if unlisted hosts may be called, or this one is listed.
    pub fn lists(&self, named: HostListing) -> bool {
        named.listed || !self.only_listed
    }

    /// True if only listed hosts may be called.
    pub fn has_list(&self) -> bool {
        self.only_listed
    }

    /// Decides on a tunnel that is not intercepted. `named`: entries of limits and routes for its
    /// host.
    ///
    /// # Errors
    /// 403 if a limit names the host and such tunnels are denied.
    pub fn admit_opaque(&self, named: HostListing) -> Result<(), Refusal> {
        if named.listed && self.deny_opaque {
            return Err(Refusal::Denied(
                "a limit names the host, [tls] intercept does not, and [access] opaque_tunnels is \"deny\"",
            ));
        }
        Ok(())
    }

    /// Identifies the caller, whatever host its request is for.
    ///
    /// The password is checked before any response reveals which hosts may be called. Routes need
    /// it too: requests through a route use up the same limits.
    ///
    /// # Errors
    /// 403 for an address that is not allowed; 407 without valid credentials; 429 after too many wrong
    /// ones; 503 if too many passwords wait for verification.
    ///
    /// # Cancel safety
    /// A verification that has begun runs to its end, and its result is cached.
    pub async fn identify(&self, source: RequestSource, head: &RequestHead, clock: Clock) -> Result<Admitted, Refusal> {
        if !self.may_connect_from(source.connection) {
            return Err(Refusal::Denied("your address is not in [access] allow_from"));
        }
        let user = match &self.passwords {
            // Boxed, so that callers without a password have no memory of its verification to move.
            Some(passwords) => {
                let check = passwords.check(source.caller, credentials(head)?, move || clock.now());
                Some(Box::pin(check).await?)
            }
            None => None,
        };
        Ok(self.admitted(source.caller, user))
    }

    /// Verifies the password of a user, in another form than that of a request's field.
    ///
    /// # Errors
    /// See [`LoginError`]; `InvalidCredentials` also if no passwords are required.
    ///
    /// # Cancel safety
    /// As [`Passwords::check`].
    pub async fn login(
        &self,
        peer: IpAddr,
        name: Vec<u8>,
        password: Vec<u8>,
        clock: Clock,
    ) -> Result<Arc<Account>, LoginError> {
        let passwords = self.passwords.as_ref().ok_or(LoginError::InvalidCredentials)?;
        passwords.check_login(peer, name, password, move || clock.now()).await
    }

    /// Admits a program on a connection of which the login, if it has one, was verified before.
    ///
    /// # Errors
    /// 403 if these settings do not allow its address; 407 if they require a login that it has not, or have its user no
    /// more.
    pub(super) fn admit_program(&self, address: IpAddr, user: Option<&str>) -> Result<Admitted, Refusal> {
        if !self.may_connect_from(address) {
            return Err(Refusal::Denied("your address is not in [access] allow_from"));
        }
        let Some(passwords) = &self.passwords else { return Ok(self.admitted(address, None)) };
        let account = user.and_then(|user| passwords.account(user)).ok_or(Refusal::Unauthorized)?;
        Ok(self.admitted(address, Some(Arc::clone(account))))
    }

    /// Identity that takes turns for a program's connection from this port: that of its user, else one of its own.
    pub(super) fn turn_of(&self, admitted: &Admitted, port: u16) -> Caller {
        if admitted.user.is_some() {
            return admitted.caller;
        }
        let mut hasher = SipHasher13::new_with_key(&self.seed);
        hasher.write_u64(admitted.caller.0);
        hasher.write_u16(port);
        Caller(hasher.finish())
    }

    /// Applies these settings to a caller that was admitted under earlier ones.
    ///
    /// Checks nothing again: neither the password nor the address. Only the identity is computed
    /// anew, as the prefix of IPv6 blocks may have changed.
    pub(super) fn readmit(&self, caller: IpAddr, before: &Admitted) -> Admitted {
        Admitted { reach: before.reach, ..self.admitted(caller, before.user.clone()) }
    }

    /// Makes the identity of a caller that has passed all checks, with the least reach.
    fn admitted(&self, address: IpAddr, user: Option<Arc<Account>>) -> Admitted {
        let block = self.ipv6_prefix.block(address);
        let name = user.as_ref().map(|user| &**user.name());
        Admitted { caller: caller(&self.seed, name, block), user, block, reach: Reach::Public }
    }
}

impl Admitted {
    /// Remembers the caller's name for the dashboard's view of the queue, before it waits.
    pub(super) fn remember_name(&self, metrics: &Metrics) {
        let user = self.user.as_ref();
        let name = || user.map_or_else(|| prefix::display_block(self.block), |user| user.name().to_string());
        metrics.remember_name(self.caller, name);
    }
}

/// Returns the only Proxy-Authorization field; several are an error, because none has precedence.
///
/// # Errors
/// 407 without the field, or with more than one.
fn credentials(head: &RequestHead) -> Result<&[u8], Refusal> {
    let mut all = head.all(Name::ProxyAuthorization);
    match (all.next(), all.next()) {
        (Some(one), None) => Ok(one),
        _ => Err(Refusal::Unauthorized),
    }
}

/// Computes the identity that takes turns in queues and has a window of its own where a limit
/// counts per caller. The seed is random, so that no caller can choose an address or a name that
/// collides with another's. It is the gate's seed, so that identities outlive a reload and a
/// restart.
///
/// A user has one identity at all addresses; without users it is that of the block.
fn caller(seed: &[u8; 16], user: Option<&str>, block: IpNet) -> Caller {
    let mut hasher = SipHasher13::new_with_key(seed);
    match (user, block.addr()) {
        (Some(user), _) => {
            hasher.write_u8(0);
            hasher.write(user.as_bytes());
        }
        (None, IpAddr::V4(address)) => hasher.write(&address.octets()),
        (None, IpAddr::V6(address)) => hasher.write(&address.octets()),
    }
    Caller(hasher.finish())
}

impl From<LoginError> for Refusal {
    fn from(error: LoginError) -> Refusal {
        match error {
            LoginError::InvalidCredentials => Refusal::Unauthorized,
            LoginError::TooManyFailures { retry_after } => Refusal::TooManyTries { retry_after },
            LoginError::Overloaded => Refusal::Exhausted,
        }
    }
}

#[cfg(test)]
mod tests;
