//! Tests of the access rules: admitted callers, hosts and ports.

use super::*;
use crate::proxy::target::{Ingress, Targets};

const SEED: [u8; 16] = [7; 16];
const NAMED: HostListing = HostListing { listed: true, reach: Reach::Private, with_port: false };
const UNNAMED: HostListing = HostListing { listed: false, reach: Reach::Public, with_port: false };

fn open() -> Settings {
    Settings {
        allow_from: Vec::new(),
        users: None,
        connect_ports: vec![443],
        allow_ports: vec![6566],
        only_listed: false,
        deny_opaque: false,
        ipv6_prefix: Ipv6Prefix(64),
        upgrades: Vec::new(),
    }
}

/// A request without a balancer.
fn source(address: &str) -> RequestSource {
    let address = address.parse().expect("an address");
    RequestSource { connection: address, caller: address }
}

async fn admit(
    settings: Settings,
    peer: &str,
    line: &str,
    fields: &str,
    named: HostListing,
) -> Result<Admitted, Refusal> {
    let head = RequestHead::parse_for_test(format!("{line} HTTP/1.1\r\nHost: a\r\n{fields}\r\n").as_bytes());
    let target = Targets::new(Vec::new()).find(&head, &Ingress::default()).expect("a target");
    let access = Access::new(settings, SEED, None);
    access.admit(access.identify(source(peer), &head, Clock::start()).await?, &target, named)
}

#[test]
fn addresses_are_compared_whatever_family_they_came_in() {
    let ranges = ["127.0.0.0/8", "2001:db8::/32"].map(|range| range.parse().expect("a range"));
    let access = Access::new(Settings { allow_from: ranges.to_vec(), ..open() }, SEED, None);
    let may = |address: &str| access.may_connect_from(address.parse().expect("an address"));
    assert!(may("127.9.9.9") && may("::ffff:127.0.0.1") && may("2001:db8::7"));
    assert!(!may("128.0.0.1") && !may("::1") && !may("::ffff:10.0.0.1"));
    assert!(Access::new(open(), SEED, None).may_connect_from(IpAddr::from([1, 2, 3, 4])));
}

#[tokio::test]
async fn a_tunnel_leads_to_the_ports_that_are_named() {
    assert!(admit(open(), "::1", "CONNECT a:443", "", UNNAMED).await.is_ok());
    assert!(matches!(admit(open(), "::1", "CONNECT a:25", "", NAMED).await, Err(Refusal::Denied(_))));
    let access = Access::new(open(), SEED, None);
    assert!(access.allows_tls_to(443) && !access.allows_tls_to(80));
}

#[tokio::test]
async fn a_tunnel_for_plain_http_leads_wherever_requests_without_one_do() {
    for (port, named, may) in [
        (80, UNNAMED, true),
        (8080, UNNAMED, true),
        (6566, UNNAMED, true),
        (6665, NAMED, false),
        (6665, HostListing { with_port: true, ..NAMED }, true),
    ] {
        for line in [format!("CONNECT a:{port}"), format!("GET http://a:{port}/")] {
            assert_eq!(admit(open(), "::1", &line, "", named).await.is_ok(), may, "{line}");
        }
    }
}

#[tokio::test]
async fn other_requests_keep_away_from_ports_of_other_protocols() {
    assert!(matches!(admit(open(), "::1", "GET http://a:25/", "", NAMED).await, Err(Refusal::Denied(_))));
    assert!(admit(open(), "::1", "GET http://a:25/", "", HostListing { with_port: true, ..NAMED }).await.is_ok());
    assert!(admit(open(), "::1", "GET http://a:6566/", "", UNNAMED).await.is_ok());
    assert!(admit(open(), "::1", "GET http://a:8025/", "", UNNAMED).await.is_ok());
    let smtp = Settings { connect_ports: vec![25], ..open() };
    assert!(admit(smtp, "::1", "CONNECT a:25", "", UNNAMED).await.is_ok(), "tunnels have a list of their own");
}

#[tokio::test]
async fn only_listed_hosts_may_be_all_there_are() {
    let listed = || Settings { only_listed: true, ..open() };
    assert!(matches!(admit(listed(), "::1", "GET http://a/", "", UNNAMED).await, Err(Refusal::Denied(_))));
    assert!(
        admit(listed(), "::1", "GET http://a/", "", NAMED).await.is_ok_and(|admitted| admitted.reach == Reach::Private)
    );
}

#[tokio::test]
async fn an_address_that_may_not_come_gets_nothing() {
    let near = Settings { allow_from: vec!["10.0.0.0/8".parse().expect("a range")], ..open() };
    assert!(matches!(admit(near, "11.0.0.1", "GET http://a/", "", NAMED).await, Err(Refusal::Denied(_))));
}

#[tokio::test]
async fn a_password_comes_before_all_else() {
    let settings = || Settings {
        users: Some(vec![("anna".into(), bcrypt::hash("pw", 4).expect("a valid cost"))]),
        only_listed: true,
        ..open()
    };
    let right = "Proxy-Authorization: Basic YW5uYTpwdw==\r\n";
    assert!(matches!(admit(settings(), "::1", "CONNECT a:25", "", UNNAMED).await, Err(Refusal::Unauthorized)));
    assert!(matches!(admit(settings(), "::1", "CONNECT a:25", right, UNNAMED).await, Err(Refusal::Denied(_))));
    let twice = right.repeat(2);
    assert!(matches!(admit(settings(), "::1", "GET http://a/", &twice, NAMED).await, Err(Refusal::Unauthorized)));
    let end_to_end = right.replace("Proxy-", "");
    assert!(matches!(admit(settings(), "::1", "GET http://a/", &end_to_end, NAMED).await, Err(Refusal::Unauthorized)));
    let admitted = admit(settings(), "::1", "GET http://a/", right, NAMED).await.expect("right");
    assert_eq!(admitted.user.as_ref().map(|user| &**user.name()), Some("anna"));
}

#[tokio::test]
async fn a_name_that_nobody_proved_is_no_name() {
    let claimed = "Proxy-Authorization: Basic YW5uYTpwdw==\r\n";
    let admitted = admit(open(), "192.0.2.1", "GET http://a/", claimed, UNNAMED).await.expect("open");
    assert!(admitted.user.is_none());
    let same = admit(open(), "::ffff:192.0.2.1", "GET http://b/", "", UNNAMED).await.expect("open");
    assert_eq!(admitted.caller, same.caller);
    let other = admit(open(), "192.0.2.2", "GET http://a/", "", UNNAMED).await.expect("open");
    assert_ne!(admitted.caller, other.caller);
}

#[test]
fn a_user_is_one_caller_wherever_it_comes_from() {
    let (here, there) = ([192, 0, 2, 1], [192, 0, 2, 2]);
    let (here, there) = (IpAddr::from(here).into(), IpAddr::from(there).into());
    assert_eq!(caller(&SEED, Some("anna"), here), caller(&SEED, Some("anna"), there));
    assert_ne!(caller(&SEED, Some("anna"), here), caller(&SEED, Some("bo"), here));
    assert_ne!(caller(&SEED, Some("anna"), here), caller(&SEED, None, here));
}

#[tokio::test]
async fn the_addresses_of_one_ipv6_network_are_one_caller() {
    let of = async |prefix: u8, peer: &str| {
        let settings = Settings { ipv6_prefix: Ipv6Prefix(prefix), ..open() };
        admit(settings, peer, "GET http://a/", "", UNNAMED).await.expect("open").caller
    };
    assert_eq!(of(64, "2001:db8::1").await, of(64, "2001:db8::ffff:2").await);
    assert_ne!(of(64, "2001:db8::1").await, of(64, "2001:db8:0:1::1").await);
    assert_eq!(of(48, "2001:db8::1").await, of(48, "2001:db8:0:1::1").await);
    assert_ne!(of(128, "2001:db8::1").await, of(128, "2001:db8::2").await);
    assert_ne!(of(1, "::ffff:192.0.2.1").await, of(1, "192.0.2.2").await, "IPv4 stays IPv4");
}

#[tokio::test]
async fn a_caller_that_was_let_in_before_counts_by_the_new_settings() {
    let before = admit(open(), "2001:db8::1", "GET http://a/", "", NAMED).await.expect("open");
    let narrow = Access::new(Settings { ipv6_prefix: Ipv6Prefix(128), ..open() }, SEED, None);
    let peer = "2001:db8::1".parse().expect("an address");
    let now = narrow.readmit(peer, &before);
    assert!(now.reach == Reach::Private && now.caller != before.caller);
    assert_eq!(now.block, peer.into());
}

#[test]
fn a_name_that_stays_keeps_its_account_and_one_that_comes_back_has_a_new_one() {
    let with = |names: &[&str], before: Option<&Access>| {
        let users = names.iter().map(|name| ((*name).to_owned(), String::new()));
        Access::new(Settings { users: Some(users.collect()), ..open() }, SEED, before)
    };
    let first = with(&["bo", "anna"], None);
    let second = with(&["anna", "cy"], Some(&first));
    let third = with(&["bo", "anna"], Some(&second));
    let names: Vec<_> = second.accounts().iter().map(|account| account.name().to_string()).collect();
    assert_eq!(names, ["anna", "cy"]);
    let of = |access: &Access, at: usize| Arc::clone(&access.accounts()[at]);
    assert!(Arc::ptr_eq(&of(&first, 0), &of(&second, 0)) && Arc::ptr_eq(&of(&first, 0), &of(&third, 0)));
    assert!(!Arc::ptr_eq(&of(&first, 1), &of(&third, 1)));
    assert!(Access::new(open(), SEED, Some(&third)).accounts().is_empty());
}
