//! Schema of the keys of `[listen]` about balancers in front of the gateway, with their checks.
//!
//! ```text
//! [listen]
//! proxy_protocol_from = ["10.0.0.0/24"]
//! forwarded_from      = ["10.0.1.7"]
//! forwarded_field     = "Forwarded"
//! ```

use ipnet::IpNet;

use super::access_schema::AccessSection;
use super::report::Reports;
use super::toml_table::TomlTable;
use super::toml_value::{Setting, Spanned};
use super::value_parsers::{field_name, range};
use crate::proxy::balancers;

/// The keys as written.
#[derive(Debug)]
pub(super) struct BalancerKeys {
    /// Peers whose connections begin with a PROXY header. Default: none.
    pub(super) proxy_protocol_from: Setting<Vec<Spanned<IpNet>>>,
    /// Proxies that tell the caller of a request in a field. Default: none.
    pub(super) forwarded_from: Setting<Vec<Spanned<IpNet>>>,
    /// Name of the field, in lower case. Default: x-forwarded-for.
    pub(super) forwarded_field: Setting<String>,
}

impl BalancerKeys {
    /// Reads the keys from `[listen]`.
    pub(super) fn read(table: &mut TomlTable<'_>) -> BalancerKeys {
        BalancerKeys {
            proxy_protocol_from: table.get("proxy_protocol_from", |v| v.list(range)),
            forwarded_from: table.get("forwarded_from", |v| v.list(range)),
            forwarded_field: table.get("forwarded_field", field_name),
        }
    }

    /// True if there is a balancer, whose clients may be on other machines wherever the gateway
    /// listens.
    pub(super) fn name_any(&self) -> bool {
        [&self.proxy_protocol_from, &self.forwarded_from].into_iter().any(|list| !ranges(list).is_empty())
    }

    /// Builds the settings of the proxy.
    fn settings(&self) -> balancers::Settings {
        let plain = |list| ranges(list).iter().map(|at| at.value).collect();
        let default = balancers::Settings::default();
        balancers::Settings {
            proxy_protocol_from: plain(&self.proxy_protocol_from),
            forwarded_from: plain(&self.forwarded_from),
            forwarded_field: self.forwarded_field.get().map_or(default.forwarded_field, |at| at.value.clone()),
        }
    }
}

/// Ranges of a list; none if it is absent or invalid.
fn ranges(list: &Setting<Vec<Spanned<IpNet>>>) -> &[Spanned<IpNet>] {
    list.get().map(|list| list.value.as_slice()).unwrap_or_default()
}

/// Builds the settings; reports balancers for whose clients `[access]` has no rule, and warns of
/// ranges that let every caller choose its address.
pub(super) fn check(keys: &BalancerKeys, access: &AccessSection, reports: &Reports<'_>) -> balancers::Settings {
    let is_open = access.allow_from.is_absent() && access.users.is_absent();
    if let (Some(list), true) = (keys.proxy_protocol_from.get().filter(|list| !list.value.is_empty()), is_open) {
        let message = "callers come from other machines through these balancers, without `allow_from` or `users`";
        let advice = "add [access] with allow_from = [\"10.0.0.0/8\"] (your callers' addresses), or users = \"users\"";
        reports.error(&list.span, message, advice);
    }
    for at in ranges(&keys.proxy_protocol_from).iter().filter(|at| at.value.prefix_len() == 0) {
        let message = "every connection must begin with a PROXY header, which may name any address";
        reports.warn(&at.span, message, "name your balancers' addresses, unless a firewall lets them alone in");
    }
    for at in ranges(&keys.forwarded_from).iter().filter(|at| at.value.prefix_len() == 0) {
        let message = "every caller may say that its requests come from any address";
        reports.warn(&at.span, message, "name your balancers' addresses");
    }
    if let (Some(at), true) = (keys.forwarded_field.get(), keys.forwarded_from.is_absent()) {
        reports.warn(
            &at.span,
            "no field is read: there is no `forwarded_from`",
            "name your balancers' addresses there",
        );
    }
    keys.settings()
}
