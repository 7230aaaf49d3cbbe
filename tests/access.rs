//! Who may call, and where: callers' addresses, users, ports, hosts, and the address that is dialled in the end.

use crate::support::gateway::Dir;
use crate::support::*;

fn from(ip: &str, gateway: &Gateway, origin: &Origin) -> Answer {
    Caller::connect_from(ip, gateway.addr).send(gateway::get(&origin.url("/"))).answer()
}

#[test]
fn only_callers_from_allowed_addresses_are_served() {
    let origin = Origin::start();
    let gateway = Gateway::start(&format!("{UNLIMITED}[access]\nallow_from = [\"127.0.0.2/31\"]\n"));
    assert_eq!(from("127.0.0.2", &gateway, &origin).status, 200);
    assert_eq!(from("127.0.0.3", &gateway, &origin).status, 200);
    // It hears nothing: it may be any scanner.
    Caller::connect_from("127.0.0.4", gateway.addr).send(gateway::get(&origin.url("/"))).expect_end();
    assert_eq!(origin.count(), 2);
}

/// A gateway whose users are `me` with `secret` and `you` with `other`.
pub(crate) fn with_users(toml: &str) -> Gateway {
    let dir = Dir::new();
    let line = |name: &str, password: &str| format!("{name}:{}\n", bcrypt::hash(password, 4).unwrap());
    let path = dir.write("users", &(line("me", "secret") + &line("you", "other")));
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&path, mode).unwrap();
    Gateway::start_in(dir, &format!("{toml}[access]\nusers = \"{}\"\n", path.display()))
}

fn as_user(origin: &Origin, path: &str, credentials: &str) -> String {
    let fields = if credentials.is_empty() { String::new() } else { format!("Proxy-Authorization: {credentials}\r\n") };
    format!("GET {} HTTP/1.1\r\nHost: a\r\n{fields}Connection: close\r\n\r\n", origin.url(path))
}

#[test]
fn callers_must_prove_who_they_are_if_there_are_users() {
    let origin = Origin::start();
    let gateway = with_users(UNLIMITED);
    for _ in 0..2 {
        assert_eq!(gateway.exchange(as_user(&origin, "/", &basic("me", "secret"))).status, 200);
    }
    assert_eq!(gateway.exchange(as_user(&origin, "/", &basic("you", "other"))).status, 200);
    let scheme = basic("me", "secret").replace("Basic", "basic");
    assert_eq!(gateway.exchange(as_user(&origin, "/", &scheme)).status, 200, "schemes have no letter case");
    for seen in origin.requests() {
        assert_eq!(seen.field("proxy-authorization"), None, "what is meant for us goes no further");
    }
}

#[test]
fn wrong_credentials_and_unknown_users_get_the_same_407() {
    let origin = Origin::start();
    let gateway = with_users(UNLIMITED);
    let mut texts = Vec::new();
    for credentials in [
        String::new(),
        basic("me", "wrong"),
        basic("nobody", "secret"),
        basic("me", ""),
        basic("", ""),
        "Basic".to_owned(),
        "Basic !!!".to_owned(),
        "Bearer abc".to_owned(),
        format!("{}x", basic("me", "secret")),
    ] {
        let answer = gateway.exchange(as_user(&origin, "/", &credentials));
        check_ours(&answer, 407, "http_request_denied");
        let challenge = answer.field("proxy-authenticate").unwrap();
        assert!(challenge.starts_with("Basic realm="), "{challenge}");
        texts.push(answer.text());
    }
    texts.dedup();
    assert_eq!(texts.len(), 1, "the answer does not tell which of name and password was wrong: {texts:#?}");
    assert_eq!(origin.count(), 0);
}

#[test]
fn tunnels_need_credentials_too() {
    let origin = Origin::start();
    let gateway = with_users(UNLIMITED);
    let answer = gateway.exchange(format!("CONNECT {} HTTP/1.1\r\nHost: a\r\n\r\n", origin.authority()));
    check_ours(&answer, 407, "http_request_denied");
}

#[test]
fn a_user_is_one_caller_wherever_it_calls_from() {
    let origin = Origin::start();
    let gateway = with_users(&limit(1, "1h", "key = [\"caller\"]\nwhen_full = \"refuse\""));
    let ask = |ip: &str, name: &str, password: &str| {
        let mut caller = Caller::connect_from(ip, gateway.addr);
        caller.send(as_user(&origin, "/", &basic(name, password))).answer().status
    };
    assert_eq!(ask("127.0.0.2", "me", "secret"), 200);
    assert_eq!(ask("127.0.0.3", "me", "secret"), 429);
    assert_eq!(ask("127.0.0.2", "you", "other"), 200);
}

#[test]
fn credentials_that_fail_spend_no_slot() {
    let origin = Origin::start();
    let gateway = with_users(&limit(1, "1h", "when_full = \"refuse\""));
    for _ in 0..3 {
        assert_eq!(gateway.exchange(as_user(&origin, "/", &basic("me", "wrong"))).status, 407);
    }
    assert_eq!(gateway.exchange(as_user(&origin, "/", &basic("me", "secret"))).status, 200);
}

#[test]
fn tunnels_carry_more_than_plain_http_to_allowed_ports_only() {
    let (allowed, other) = (Origin::start(), Origin::start());
    let gateway = Gateway::start(&format!("{UNLIMITED}[access]\nconnect_ports = [{}]\n", allowed.port()));
    let connect = |to: &str| format!("CONNECT {to} HTTP/1.1\r\nHost: a\r\n\r\n");
    let hello = certs::client_hello("a.example", None);
    let mut caller = gateway.caller();
    assert_eq!(caller.send(connect(&other.authority())).answer_to("CONNECT").status, 200);
    assert_eq!(caller.send(&hello).rest().0[5..], [2, 49], "the alert access_denied");
    gateway.complains(&format!("its port {} is not in [access] connect_ports", other.port()));
    assert_eq!((allowed.connections(), other.connections()), (0, 0));
    assert_eq!(gateway.exchange(connect(&allowed.authority())).status, 200);
    // Where not even plain HTTP may go, nothing is left that could be inside.
    check_ours(&gateway.exchange(connect("127.0.0.1:25")), 403, "http_request_denied");
}

#[test]
fn only_listed_hosts_are_called_if_the_others_are_denied() {
    let (listed, routed, other) = (Origin::start(), Origin::start(), Origin::start());
    let toml = format!(
        "[[limit]]\nname = \"l\"\nmatch = {{ host = [\"127.0.0.1:{}\"] }}\nrequests = 100\nper = \"1s\"\n\n\
         [[route]]\npath = \"/r/\"\nto = \"http://127.0.0.1:{}/\"\n\n[access]\nunlisted_hosts = \"deny\"\n",
        listed.port(),
        routed.port()
    );
    let gateway = Gateway::start(&toml);
    assert_eq!(gateway.get(&listed.url("/")).status, 200);
    assert_eq!(gateway.exchange("GET /r/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").status, 200);
    check_ours(&gateway.get(&format!("http://localhost:{}/", other.port())), 403, "http_request_denied");
    assert_eq!(other.count(), 0);
}

#[test]
fn denied_addresses_are_not_dialled_in_any_spelling() {
    let origin = Origin::start();
    let gateway = Gateway::start(&format!("{UNLIMITED}[access]\ndeny_addresses = [\"127.0.0.0/8\", \"::1/128\"]\n"));
    let port = origin.port();
    for host in [
        "127.0.0.1",
        "127.1",
        "0x7f.1",
        "0x7f000001",
        "2130706433",
        "0177.0.0.1",
        "127.0.0.1.",
        "localhost",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "127.255.255.254",
    ] {
        let answer = gateway.get(&format!("http://{host}:{port}/"));
        let refused = matches!(answer.status, 400 | 403 | 502);
        assert!(refused, "{host}: {}", answer.raw);
        if matches!(host, "127.0.0.1" | "localhost" | "[::1]" | "[::ffff:127.0.0.1]") {
            check_ours(&answer, 403, "destination_ip_prohibited");
        }
    }
    assert_eq!(origin.connections(), 0);
}

#[test]
fn addresses_that_mean_this_machine_without_saying_so_are_not_dialled() {
    let origin = Origin::start();
    let gateway = Gateway::start(&format!("{UNLIMITED}[access]\ndeny_addresses = [\"127.0.0.0/8\", \"::1/128\"]\n"));
    for host in ["0", "0.0.0.0", "[::]", "[::ffff:0.0.0.0]"] {
        let answer = gateway.get(&format!("http://{host}:{}/", origin.port()));
        assert!(matches!(answer.status, 400 | 403 | 502), "{host}: {}", answer.raw);
    }
    assert_eq!(origin.connections(), 0, "the unspecified address is loopback to the kernel");
}

/// Where instances of clouds find their credentials, and other ways to write the most common one.
const METADATA: [&str; 20] = [
    "169.254.169.254",
    "169.254.170.2",
    "168.63.129.16",
    "100.100.100.200",
    "192.0.0.192",
    "[fe80::a9fe:a9fe]",
    "[fd00:ec2::254]",
    "[fd00:ec2::23]",
    "[fd20:ce::254]",
    "[fd00:c1::a9fe:a9fe]",
    "[fd00:42::42]",
    "[fd00:a9fe:a9fe::1]",
    "[fd00:100::100:200]",
    "[::ffff:169.254.169.254]",
    "[::ffff:0:169.254.169.254]",
    "[64:ff9b::169.254.169.254]",
    "[64:ff9b:1:a9fe:a9:fe00::]",
    "[2002:a9fe:a9fe::1]",
    "[2001:db8::5efe:169.254.169.254]",
    "[2001:db8::200:5efe:168.63.129.16]",
];

#[test]
fn metadata_services_are_out_of_reach() {
    // The file's own list is denied beside them, not in their place.
    for access in
        ["", "[access]\ndeny_addresses = [\"198.51.100.0/24\"]\nallow_addresses = [\"0.0.0.0/0\", \"::/0\"]\n"]
    {
        let gateway = Gateway::start(&format!("{UNLIMITED}[timeouts]\nconnect = \"300ms\"\n{access}"));
        for host in METADATA {
            check_ours(&gateway.get(&format!("http://{host}/")), 403, "destination_ip_prohibited");
        }
        let tunnel = gateway.exchange("CONNECT 168.63.129.16:443 HTTP/1.1\r\nHost: a\r\n\r\n");
        check_ours(&tunnel, 403, "destination_ip_prohibited");
    }
    let answer = Gateway::start(UNLIMITED).get("http://[fe80::1%25eth0]/");
    assert!(matches!(answer.status, 400 | 403), "{}", answer.raw);
}

/// Whether the gateway refused to dial an address; an answer of the network's own is none of its.
fn is_prohibited(answer: &Answer) -> bool {
    answer.field("proxy-status").is_some_and(|status| status.contains("error=destination_ip_prohibited"))
}

#[test]
fn a_metadata_service_is_opened_by_its_own_address_alone() {
    let gateway = |more: &str| Gateway::start(&format!("[timeouts]\nconnect = \"300ms\"\n{more}"));
    let prohibits = |gateway: &Gateway, host: &str| is_prohibited(&gateway.get(&format!("http://{host}/")));
    let limit = gateway("[[limit]]\nmatch = { host = \"169.254.1.2\" }\nin_flight = 1\n");
    let access = gateway("[access]\nallow_addresses = [\"169.254.1.2\", \"169.254.2.0/24\"]\n");
    for gateway in [limit, access] {
        assert!(!prohibits(&gateway, "169.254.1.2"));
        for other in ["169.254.1.3", "169.254.2.7", "[64:ff9b::169.254.1.2]"] {
            assert!(prohibits(&gateway, other), "{other}");
        }
    }
    let denied = gateway("[access]\nallow_addresses = [\"169.254.1.2\"]\ndeny_addresses = [\"169.254.1.0/24\"]\n");
    assert!(prohibits(&denied, "169.254.1.2"), "what is denied is denied");
    let route = "[[route]]\nhost = \"app.example\"\nto = \"http://169.254.1.2/\"\n";
    assert!(!is_prohibited(&gateway(route).exchange(BY_ROUTE)));
}

#[test]
fn a_gateway_for_others_does_not_lead_into_its_own_network() {
    let (named, unnamed) = (Origin::start(), Origin::start());
    let toml = format!(
        "[listen]\nproxy = \"0.0.0.0:0\"\n\n[access]\nallow_from = [\"127.0.0.0/8\"]\n\n\
         [[limit]]\nname = \"l\"\nmatch = {{ host = [\"127.0.0.1:{}\"] }}\nrequests = 100\nper = \"1s\"\n",
        named.port()
    );
    let gateway = Gateway::start(&toml);
    assert_eq!(gateway.get(&named.url("/")).status, 200, "a limit names it");
    check_ours(&gateway.get(&unnamed.url("/")), 403, "destination_ip_prohibited");
    check_ours(&gateway.get(&format!("http://localhost:{}/", unnamed.port())), 403, "destination_ip_prohibited");
    assert_eq!(unnamed.connections(), 0);
}

/// A gateway that others can reach, with a route to a loopback origin.
fn with_a_route(origin: &Origin, access: &str) -> Gateway {
    Gateway::start(&format!(
        "{UNLIMITED}[listen]\nproxy = \"0.0.0.0:0\"\n\n[[route]]\nhost = \"app.example\"\nto = \"{}\"\n\n\
         [access]\nallow_from = [\"127.0.0.0/8\"]\n{access}",
        origin.url("/")
    ))
}

const BY_ROUTE: &str = "GET /x HTTP/1.1\r\nHost: app.example\r\n\r\n";

#[test]
fn a_route_opens_its_own_origin_and_for_route_requests_alone() {
    let (routed, beside) = (Origin::start(), Origin::start());
    let gateway = with_a_route(&routed, &format!("connect_ports = [{}]\n", routed.port()));
    // One connection, so that all of its requests find the same kept connections.
    let mut caller = gateway.caller();
    for _ in 0..2 {
        assert_eq!(caller.send(BY_ROUTE).answer().status, 200);
        for origin in [&beside, &routed] {
            let forward = format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", origin.url("/"));
            check_ours(&caller.send(forward).answer(), 403, "destination_ip_prohibited");
        }
    }
    let tunnel = gateway.exchange(format!("CONNECT {} HTTP/1.1\r\nHost: a\r\n\r\n", routed.authority()));
    check_ours(&tunnel, 403, "destination_ip_prohibited");
    assert_eq!((routed.count(), routed.connections(), beside.connections()), (2, 1, 0));
}

#[test]
fn a_route_lists_its_host_for_route_requests_alone() {
    let routed = Origin::start();
    let gateway = with_a_route(&routed, "unlisted_hosts = \"deny\"\n");
    assert_eq!(gateway.exchange(BY_ROUTE).status, 200);
    check_ours(&gateway.get(&routed.url("/")), 403, "http_request_denied");
    assert_eq!(routed.count(), 1);
}

#[test]
fn addresses_that_the_operator_allows_are_reached_under_any_name() {
    let origin = Origin::start();
    let toml = |access: &str| {
        format!("{UNLIMITED}[listen]\nproxy = \"0.0.0.0:0\"\n\n[access]\nallow_from = [\"127.0.0.0/8\"]\n{access}")
    };
    let gateway = Gateway::start(&toml("allow_addresses = [\"127.0.0.0/30\", \"::1\"]\n"));
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"] {
        assert_eq!(gateway.get(&format!("http://{host}:{}/", origin.port())).status, 200, "{host}");
    }
    check_ours(&gateway.get(&format!("http://127.0.0.4:{}/", origin.port())), 403, "destination_ip_prohibited");
    let gateway = Gateway::start(&toml("allow_addresses = [\"127.0.0.0/8\"]\ndeny_addresses = [\"127.0.0.1\"]\n"));
    check_ours(&gateway.get(&origin.url("/")), 403, "destination_ip_prohibited");
}

#[test]
fn plain_requests_do_not_go_to_ports_of_other_protocols() {
    let gateway = Gateway::start(UNLIMITED);
    for port in [1, 22, 25, 110, 587, 6000, 6667, 10080] {
        let mail = format!(
            "POST http://127.0.0.1:{port}/ HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nConnection: close\r\n\r\nDATA\r\n"
        );
        check_ours(&gateway.exchange(mail), 403, "http_request_denied");
        check_ours(&gateway.get(&format!("https://127.0.0.1:{port}/")), 403, "http_request_denied");
    }
}

#[test]
fn a_port_of_another_protocol_is_opened_by_name() {
    // No server need listen there: a connection that is refused was tried.
    let status = |gateway: &Gateway, port: u16| gateway.get(&format!("http://127.0.0.1:{port}/")).status;
    let limit = |host: &str| format!("[[limit]]\nmatch = {{ host = \"{host}\" }}\nin_flight = 1\n");
    for host in ["127.0.0.1:6566", "*:6566"] {
        let gateway = Gateway::start(&limit(host));
        assert_ne!(status(&gateway, 6566), 403, "{host}");
        assert_eq!(status(&gateway, 6665), 403, "{host}");
    }
    assert_eq!(status(&Gateway::start(&limit("127.0.0.1")), 6566), 403, "a host is not a port");
    let gateway = Gateway::start(&format!("{UNLIMITED}[access]\nallow_ports = [6566]\n"));
    assert_ne!(status(&gateway, 6566), 403);
    assert_eq!(status(&gateway, 6665), 403);
    let gateway = Gateway::start("[[route]]\npath = \"/\"\nto = \"http://127.0.0.1:6566/\"\n");
    let answer = gateway.exchange("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    assert_ne!(answer.status, 403, "a route names its port");
}

#[test]
fn closed_tunnels_to_hosts_that_a_limit_names_are_refused_where_they_are_denied() {
    let (limited, other) = (Origin::start(), Origin::start());
    let toml = format!(
        "{}[[limit]]\nmatch = {{ host = \"*\" }}\nrequests = 100\nper = \"1s\"\n\n\
         [access]\nopaque_tunnels = \"deny\"\nconnect_ports = [{}, {}]\n",
        limit(100, "1s", "").replace("\"127.0.0.1\"", &format!("\"127.0.0.1:{}\", \"*.api.example\"", limited.port())),
        limited.port(),
        other.port(),
    );
    let gateway = Gateway::start(&toml);
    let connect = |to: &str| gateway.exchange(format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n"));
    let refused = connect(&limited.authority());
    check_ours(&refused, 403, "http_request_denied");
    assert!(refused.text().contains("opaque_tunnels"), "{}", refused.text());
    check_ours(&connect(&format!("x.api.example:{}", other.port())), 403, "http_request_denied");
    assert_eq!(limited.connections(), 0);
    // Hosts that no limit names but by a star are as free as ever, and so are requests that are no tunnels.
    assert_eq!(connect(&other.authority()).status, 200);
    assert_eq!(gateway.get(&limited.url("/")).status, 200);
    // By TLS in another one's tunnel it is no other than by a tunnel of its own.
    let hello = certs::client_hello("x.api.example", None);
    let mut caller = gateway.caller();
    let head = format!("CONNECT {} HTTP/1.1\r\nHost: a\r\n\r\n", other.authority());
    assert_eq!(caller.send(head).answer_to("CONNECT").status, 200);
    assert_eq!(caller.send(hello).rest().0[5..], [2, 49], "the alert access_denied");
}
