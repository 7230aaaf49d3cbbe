//! `lockgate nft`: prints rules of nftables that lead connections to `[listen] transparent`.
//!
//! ```sh
//! lockgate nft | nft -f -
//! ```
//!
//! The rules are one table, `inet lockgate`, which they replace as a whole. They leave the gateway's
//! own connections alone, and those to this machine. UDP to port 443 is rejected, so that browsers
//! that speak QUIC fall back to TCP.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use rustix::process::geteuid;

use super::load_settings;

/// Ports that are led to the gateway by default: those of HTTP and HTTPS.
const DEFAULT_PORTS: &str = "80, 443";
/// Mark of packets that TPROXY leads to this machine, and number of their routing table: the letters
/// "lg", so that they hardly meet another program's.
const MARK: u32 = 0x6c67;
/// Priority of the chains that change destinations (`dstnat`, which nft knows by name in one hook only).
const NAT: &str = "-100";
/// Priority of the chains that mark packets (`mangle`).
const MANGLE: &str = "-150";

/// Arguments of `lockgate nft`.
#[derive(Args, Debug)]
pub(super) struct NftArgs {
    /// TCP ports that are led to the gateway [default: 80,443]
    #[arg(long, value_name = "PORT", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..))]
    ports: Vec<u16>,
    /// All TCP ports instead
    #[arg(long, conflicts_with = "ports")]
    all_ports: bool,
    /// User that the gateway runs as, whose connections are left alone [default: the user of this command]
    #[arg(long, value_name = "USER", value_parser = word)]
    gateway_user: Option<String>,
    /// Control group of the gateway in its place, such as system.slice/lockgate.service
    #[arg(long, value_name = "PATH", value_parser = cgroup, conflicts_with = "gateway_user")]
    gateway_cgroup: Option<String>,
    /// Lead connections of this user's programs alone
    #[arg(long, value_name = "USER", value_parser = word)]
    of_user: Option<String>,
    /// Lead connections of this control group's programs alone
    #[arg(long, value_name = "PATH", value_parser = cgroup, conflicts_with = "of_user")]
    of_cgroup: Option<String>,
    /// Use TPROXY, which changes no packet and needs CAP_NET_ADMIN for the gateway, instead of REDIRECT
    #[arg(long)]
    tproxy: bool,
}

/// Prints the rules. Returns 2 for an invalid configuration, and 1 if it names no listener for them.
pub(super) fn nft(arguments: &NftArgs, config_arg: Option<&Path>) -> ExitCode {
    let Some((_, settings)) = load_settings(config_arg) else { return ExitCode::from(2) };
    match rules(arguments, &settings.transparent) {
        Ok(text) => {
            // A closed stdout (`| head`) is no error.
            std::io::stdout().lock().write_all(text.as_bytes()).ok();
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("lockgate: {why}");
            ExitCode::FAILURE
        }
    }
}

/// A name or number of a user, which may stand in a rule.
fn word(text: &str) -> Result<String, String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if !text.is_empty() && text.bytes().all(is_plain) {
        return Ok(text.to_owned());
    }
    Err("a user is a name or a number".to_owned())
}

/// A path of a control group, without slashes at its ends.
fn cgroup(text: &str) -> Result<String, String> {
    let path = text.trim_matches('/');
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-@:/\\".contains(&byte);
    if !path.is_empty() && path.bytes().all(is_plain) {
        return Ok(path.to_owned());
    }
    Err("a control group is a path below /sys/fs/cgroup, such as system.slice/lockgate.service".to_owned())
}

/// Expression that is true for packets of a user's programs.
fn user_is(user: &str) -> String {
    let is_number = user.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { format!("meta skuid {user}") } else { format!("meta skuid \"{user}\"") }
}

/// Expression that is true for packets of a control group's programs (version 2).
fn cgroup_is(path: &str) -> String {
    format!("socket cgroupv2 level {} \"{path}\"", path.split('/').count())
}

/// Listeners that the rules lead to, one for each family.
struct RuleTargets {
    four: Option<SocketAddr>,
    six: Option<SocketAddr>,
}

/// Rules for these arguments and listeners.
///
/// # Errors
/// Says what is missing in `[listen]`.
fn rules(arguments: &NftArgs, listeners: &[SocketAddr]) -> Result<String, String> {
    if listeners.is_empty() {
        return Err(
            "[listen] names no `transparent` address; add one, such as transparent = \"127.0.0.1:8079\"".to_owned()
        );
    }
    if listeners.iter().any(|listener| listener.port() == 0) {
        return Err("[listen] transparent has port 0, which is another one at each start; name a port".to_owned());
    }
    let first = |is_it: fn(&&SocketAddr) -> bool| listeners.iter().find(is_it).copied();
    let listeners = RuleTargets { four: first(|it| it.is_ipv4()), six: first(|it| it.is_ipv6()) };
    let gateway = match (&arguments.gateway_cgroup, &arguments.gateway_user) {
        (Some(path), _) => cgroup_is(path),
        (None, Some(user)) => user_is(user),
        (None, None) => user_is(&geteuid().as_raw().to_string()),
    };
    let of = arguments.of_user.as_deref().map(user_is).or(arguments.of_cgroup.as_deref().map(cgroup_is));
    if of.as_ref() == Some(&gateway) {
        return Err("these would be the gateway's own connections, which must not come back to it".to_owned());
    }
    let ports = match &*arguments.ports {
        _ if arguments.all_ports => "meta l4proto tcp".to_owned(),
        [] => format!("tcp dport {{ {DEFAULT_PORTS} }}"),
        ports => format!("tcp dport {{ {} }}", ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ")),
    };
    let set = RuleSet { gateway, of, ports, listeners };
    Ok(if arguments.tproxy { set.tproxy() } else { set.redirect() })
}

/// Origin of packets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum PacketSource {
    /// A program of this machine.
    ThisMachine,
    /// Another machine, or a container, for which this one forwards packets.
    OtherMachine,
}

/// Parts of the rules.
struct RuleSet {
    /// True for the gateway's packets.
    gateway: String,
    /// True for packets of programs that are meant; `None`: all of this machine, and forwarded ones.
    of: Option<String>,
    /// True for packets that are led to the gateway.
    ports: String,
    listeners: RuleTargets,
}

impl RuleSet {
    /// Rules by REDIRECT and DNAT.
    fn redirect(&self) -> String {
        let mut chains =
            vec![self.chain("output", "nat", "output", NAT, &self.own(&self.changes(PacketSource::ThisMachine)))];
        if self.of.is_none() && self.is_reachable() {
            let mut rules = vec![LOCAL.to_owned()];
            rules.extend(self.changes(PacketSource::OtherMachine));
            chains.push(self.chain("prerouting", "nat", "prerouting", NAT, &rules));
        }
        chains.extend(self.filters());
        self.table(&chains, "")
    }

    /// Rules by TPROXY.
    fn tproxy(&self) -> String {
        let mark = format!("meta mark set {MARK:#x}");
        let mut rules = vec![format!("meta l4proto tcp socket transparent 1 {mark} accept"), LOCAL.to_owned()];
        // Packets of this machine come by here once they are marked; others are forwarded.
        let only = if self.of.is_some() { format!("meta mark {MARK:#x} ") } else { String::new() };
        for (family, word, listener) in self.families() {
            let to =
                if listener.ip().is_unspecified() { format!(":{}", listener.port()) } else { listener.to_string() };
            rules.push(format!("{only}meta nfproto {family} {} tproxy {word} to {to} {mark} accept", self.ports));
        }
        let marks: Vec<String> =
            self.families().map(|(family, _, _)| format!("meta nfproto {family} {} {mark}", self.ports)).collect();
        let mut chains = vec![
            self.chain("prerouting", "filter", "prerouting", MANGLE, &rules),
            self.chain("output", "route", "output", MANGLE, &self.own(&marks)),
        ];
        chains.extend(self.filters());
        let routes = |six: &str, all: &str| {
            format!(
                "#   ip {six}rule add fwmark {MARK:#x} lookup {MARK}\n#   ip {six}route add local {all} dev lo table {MARK}\n"
            )
        };
        let mut text = "# Packets with the mark must come to this machine. Once after each boot:\n".to_owned();
        text.push_str(&self.listeners.four.map(|_| routes("", "0.0.0.0/0")).unwrap_or_default());
        text.push_str(&self.listeners.six.map(|_| routes("-6 ", "::/0")).unwrap_or_default());
        self.table(&chains, &text)
    }

    /// Families that have a listener, with nft's words for them.
    fn families(&self) -> impl Iterator<Item = (&'static str, &'static str, SocketAddr)> {
        let four = self.listeners.four.map(|listener| ("ipv4", "ip", listener));
        four.into_iter().chain(self.listeners.six.map(|listener| ("ipv6", "ip6", listener)))
    }

    /// True if a listener can be reached by forwarded packets: a packet from outside cannot be sent to loopback.
    fn is_reachable(&self) -> bool {
        self.families().any(|(_, _, listener)| !listener.ip().is_loopback())
    }

    /// Rules that change destinations.
    fn changes(&self, source: PacketSource) -> Vec<String> {
        let rule = |(family, word, listener): (&str, &str, SocketAddr)| {
            let to = match listener.ip() {
                ip if ip.is_loopback() && source == PacketSource::OtherMachine => return None,
                // REDIRECT leads packets of this machine to these addresses.
                ip if ip.is_unspecified() || is_first_loopback(ip) => format!("redirect to :{}", listener.port()),
                _ => format!("dnat {word} to {listener}"),
            };
            Some(format!("meta nfproto {family} {} {to}", self.ports))
        };
        self.families().filter_map(rule).collect()
    }

    /// Rules for packets of this machine's programs.
    fn own(&self, rules: &[String]) -> Vec<String> {
        let mut all = vec![format!("{} return", self.gateway), LOCAL.to_owned()];
        let of = self.of.as_ref().map(|of| format!("{of} ")).unwrap_or_default();
        all.extend(rules.iter().map(|rule| format!("{of}{rule}")));
        all
    }

    /// Chains that reject QUIC, and the family that has no listener: programs then try the other.
    fn filters(&self) -> Vec<String> {
        let mut rules = vec!["udp dport 443 reject".to_owned()];
        for (family, listener) in [("ipv4", self.listeners.four), ("ipv6", self.listeners.six)] {
            if listener.is_none() {
                rules.push(format!("meta nfproto {family} {} reject with tcp reset", self.ports));
            }
        }
        let mut chains = vec![self.chain("output_filter", "filter", "output", "0", &self.own(&rules))];
        if self.of.is_none() && self.is_reachable() {
            chains.push(self.chain("forward_filter", "filter", "forward", "0", &rules));
        }
        chains
    }

    fn chain(&self, name: &str, kind: &str, hook: &str, priority: &str, rules: &[String]) -> String {
        let rules: String = rules.iter().map(|rule| format!("\t\t{rule}\n")).collect();
        format!("\tchain {name} {{\n\t\ttype {kind} hook {hook} priority {priority}; policy accept;\n{rules}\t}}\n")
    }

    fn table(&self, chains: &[String], comment: &str) -> String {
        let note = if self.of.is_none() && !self.is_reachable() {
            "# Forwarded packets are not led to the gateway: [listen] transparent is a loopback address.\n"
        } else {
            ""
        };
        format!(
            "#!/usr/sbin/nft -f\n# Made by `lockgate nft`. To undo: nft delete table inet lockgate\n{note}{comment}\
             table inet lockgate\ndelete table inet lockgate\ntable inet lockgate {{\n{}}}\n",
            chains.concat()
        )
    }
}

/// Rule that leaves packets to this machine alone.
const LOCAL: &str = "fib daddr type local return";

/// True for the loopback addresses that REDIRECT leads to.
fn is_first_loopback(ip: IpAddr) -> bool {
    ip == IpAddr::from([127, 0, 0, 1]) || ip == IpAddr::from(std::net::Ipv6Addr::LOCALHOST)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::{CliArgs, CliCommand};
    use super::*;

    fn printed(line: &str, listeners: &[&str]) -> Result<String, String> {
        let words = ["lockgate", "nft"].into_iter().chain(line.split_whitespace());
        let Some(CliCommand::Nft(arguments)) = CliArgs::try_parse_from(words).unwrap().command else {
            panic!("{line}")
        };
        let listeners: Vec<SocketAddr> = listeners.iter().map(|it| it.parse().unwrap()).collect();
        rules(&arguments, &listeners)
    }

    #[test]
    fn connections_of_this_machine_but_the_gateways_are_led_to_a_loopback_listener() {
        let text = printed("--gateway-user lockgate", &["127.0.0.1:8079"]).unwrap();
        for line in [
            "meta skuid \"lockgate\" return",
            "fib daddr type local return",
            "meta nfproto ipv4 tcp dport { 80, 443 } redirect to :8079",
            "udp dport 443 reject",
            "meta nfproto ipv6 tcp dport { 80, 443 } reject with tcp reset",
        ] {
            assert!(text.contains(&format!("\t\t{line}\n")), "{line} is not in {text}");
        }
        assert!(!text.contains("prerouting") && !text.contains("forward"), "{text}");
    }

    #[test]
    fn forwarded_connections_are_led_to_a_listener_that_other_machines_reach() {
        let text = printed("--gateway-user 0 --all-ports", &["0.0.0.0:1", "[2001:db8::1]:2"]).unwrap();
        assert!(text.contains("hook prerouting priority -100"), "{text}");
        assert!(text.contains("meta nfproto ipv4 meta l4proto tcp redirect to :1\n"), "{text}");
        assert!(text.contains("meta nfproto ipv6 meta l4proto tcp dnat ip6 to [2001:db8::1]:2\n"), "{text}");
        assert!(text.contains("chain forward_filter") && !text.contains("tcp reset"), "{text}");
    }

    #[test]
    fn connections_of_one_user_or_group_are_led_alone() {
        let text = printed("--gateway-user 0 --of-user build --ports 8080", &["0.0.0.0:1"]).unwrap();
        assert!(text.contains("meta skuid \"build\" meta nfproto ipv4 tcp dport { 8080 } redirect to :1\n"), "{text}");
        assert!(text.contains("meta skuid \"build\" udp dport 443 reject\n") && !text.contains("prerouting"), "{text}");
        let text = printed("--gateway-cgroup /a/b.service --of-cgroup c", &["0.0.0.0:1"]).unwrap();
        assert!(text.contains("socket cgroupv2 level 2 \"a/b.service\" return\n"), "{text}");
        assert!(text.contains("socket cgroupv2 level 1 \"c\" meta nfproto ipv4"), "{text}");
        assert!(printed("--gateway-user a --of-user a", &["0.0.0.0:1"]).is_err());
    }

    #[test]
    fn tproxy_marks_packets_and_says_which_routes_they_need() {
        let text = printed("--tproxy --gateway-user 0", &["127.0.0.1:8079", "[::]:8079"]).unwrap();
        assert!(text.contains("tproxy ip to 127.0.0.1:8079 meta mark set 0x6c67 accept\n"), "{text}");
        assert!(text.contains("tproxy ip6 to :8079 meta mark set 0x6c67 accept\n"), "{text}");
        assert!(text.contains("type route hook output"), "{text}");
        assert!(text.contains("#   ip -6 route add local ::/0 dev lo table 27751\n"), "{text}");
    }

    #[test]
    fn what_cannot_be_a_rule_is_refused() {
        assert!(printed("", &[]).unwrap_err().contains("transparent"));
        assert!(printed("", &["127.0.0.1:0"]).unwrap_err().contains("port 0"));
        for line in ["--ports 0", "--ports x", "--gateway-user a;b", "--of-cgroup a\"b", "--ports 1 --all-ports"] {
            let words = ["lockgate", "nft"].into_iter().chain(line.split_whitespace());
            assert!(CliArgs::try_parse_from(words).is_err(), "{line}");
        }
    }
}
