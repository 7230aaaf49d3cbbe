//! `[zmq]`: schema and checks of the ZeroMQ listener.
//!
//! ```text
//! [zmq]
//! listen = "tcp://127.0.0.1:7777"
//! limit  = "partner-api"
//! wait   = "2s"
//! ```

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::access_schema::AccessSection;
use super::duration;
use super::limit_check::CheckedLimit;
use super::report::Reports;
use super::toml_table::TomlTable;
use super::toml_value::{Setting, SourceSpan, TomlValue, nearest};
use super::value_parsers::name;
use crate::locker::WhenFull;
use crate::proxy::AskDefaults;
use crate::proxy::key::KeyPart;

/// Longest `wait`: that of the longest `max_wait`.
const LONGEST_WAIT: Duration = Duration::from_secs(366 * 86_400);

/// `[zmq]`: the ZeroMQ listener.
#[derive(Debug)]
pub(super) struct ZmqSection {
    /// Place of the header, for a missing key.
    pub(super) span: SourceSpan,
    /// True if the file has the section: then `listen` and `limit` are needed.
    pub(super) is_present: bool,
    /// Endpoint; needed.
    pub(super) listen: Setting<SocketAddr>,
    /// Name of the limit that messages ask for; needed.
    pub(super) limit: Setting<String>,
    /// Longest wait of an ask that states none. Default: 0s.
    pub(super) wait: Setting<Duration>,
}

/// Checked `[zmq]`.
pub(super) struct CheckedZmq {
    /// Listening address.
    pub(super) listen: SocketAddr,
    /// Limit and wait of asks that state none.
    pub(super) asks: AskDefaults,
    /// The listener in a sentence.
    pub(super) explanation: String,
}

impl ZmqSection {
    /// Misspelt keys count as invalid, so that each slip is reported once.
    pub(super) fn read(table: &mut TomlTable<'_>) -> ZmqSection {
        let (span, is_present) = (table.span(), table.is_present());
        let mut zmq = ZmqSection {
            span,
            is_present,
            listen: table.get("listen", endpoint),
            limit: table.get("limit", name),
            wait: table.get("wait", |v| v.duration(Duration::ZERO..=LONGEST_WAIT)),
        };
        for key in table.misspelt_keys() {
            match key {
                "listen" => zmq.listen.mark_misspelt(),
                "limit" => zmq.limit.mark_misspelt(),
                _ => {}
            }
        }
        zmq
    }
}

/// An endpoint in libzmq's spelling: `tcp://ADDRESS:PORT`, with `*` for all addresses of IPv4 (zmq_tcp(7)).
fn endpoint(value: &TomlValue<'_>) -> Option<SocketAddr> {
    let read = |text: &str| {
        let address = text.strip_prefix("tcp://")?;
        match address.strip_prefix("*:") {
            Some(port) => Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port.parse().ok()?)),
            None => address.parse().ok(),
        }
    };
    value.parse("an endpoint with an IP address and a port, such as \"tcp://127.0.0.1:7777\"", read)
}

/// Checks the section. Beyond loopback peers need a password: NULL, the mechanism without one, says nothing of a peer.
///
/// `None` without a valid `listen` and `limit`.
pub(super) fn check(
    written: &ZmqSection,
    access: &AccessSection,
    limits: &[CheckedLimit],
    reports: &Reports<'_>,
) -> Option<CheckedZmq> {
    if written.is_present && written.listen.is_absent() {
        reports.error(&written.span, "`listen` is missing", "add listen = \"tcp://127.0.0.1:7777\"");
    }
    if written.is_present && written.limit.is_absent() {
        let example = limits.first().map_or("NAME", |first| &first.limit.name);
        reports.error(
            &written.span,
            "`limit` is missing",
            format_args!("add limit = \"{example}\", the name of a limit"),
        );
    }
    if let Some(at) = written.listen.get().filter(|at| !at.value.ip().is_loopback() && access.users.is_absent()) {
        let message = format!("{} can be reached by other machines, without `users`", at.value);
        let advice = "add [access] with users = \"users\", a file that `lockgate user add NAME` makes: peers log in by PLAIN then";
        reports.error(&at.span, message, advice);
    }
    let limit = check_limit(written, limits, reports)?;
    let wait = written.wait.get().map_or(Duration::ZERO, |at| at.value);
    let listen = written.listen.get()?.value;
    let asks = AskDefaults { limit: limit.limit.name.clone(), wait };
    let patience = if wait.is_zero() {
        "are answered sorry".to_owned()
    } else {
        format!("wait up to {}, and are answered sorry", duration::format(wait))
    };
    let explanation =
        format!("zmq: ZeroMQ peers at tcp://{listen} ask for slots of {}; asks beyond it {patience}", asks.limit);
    Some(CheckedZmq { listen, asks, explanation })
}

/// Finds the limit; reports an unknown one, one that needs a key that plain messages cannot state, and a wait without
/// effect.
fn check_limit<'l>(
    written: &ZmqSection,
    limits: &'l [CheckedLimit],
    reports: &Reports<'_>,
) -> Option<&'l CheckedLimit> {
    let at = written.limit.get()?;
    let Some(found) = limits.iter().find(|limit| *limit.limit.name == *at.value) else {
        let names = || limits.iter().map(|limit| &*limit.limit.name);
        let advice = match nearest(&at.value, names()) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => format!("one of {}", names().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ")),
        };
        return reports_none(reports, &at.span, &format!("there is no limit named {:?}", at.value), &advice);
    };
    if let Some(part) = found.rule.key.iter().find(|part| **part != KeyPart::Caller) {
        let message = format!("{:?} is counted per {part}, which a plain message cannot state", at.value);
        let advice = "name a limit without `key`, or with key = [\"caller\"]; asks in JSON may name any limit";
        return reports_none(reports, &at.span, &message, advice);
    }
    if let Some(wait) = written.wait.get().filter(|wait| !wait.value.is_zero()) {
        let max_wait = found.limit.max_wait;
        if found.limit.when_full == WhenFull::Refuse {
            let message = format!("asks do not wait: {:?} has when_full = \"refuse\"", at.value);
            reports.warn(&wait.span, message, "leave one of them out");
        } else if wait.value > max_wait {
            let message =
                format!("asks wait for {} at most: that is max_wait of {:?}", duration::format(max_wait), at.value);
            reports.warn(&wait.span, message, "a longer max_wait there, or a shorter wait here");
        }
    }
    Some(found)
}

/// Reports an error, and returns nothing.
fn reports_none<T>(reports: &Reports<'_>, span: &SourceSpan, message: &str, advice: &str) -> Option<T> {
    reports.error(span, message, advice);
    None
}
