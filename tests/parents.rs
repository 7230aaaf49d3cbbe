//! Parent proxies: how the gateway speaks to them, and what becomes of their faults.

use crate::admin::{ask, watched};
use crate::support::certs::{self, Fault};
use crate::support::gateway::Dir;
use crate::support::parent::{Act, Parent};
use crate::support::stage::{Before, connect, counted, get};
use crate::support::*;

/// `[[parent]]` for these hosts; `more` is further lines of it.
pub(crate) fn parent(hosts: &[&str], proxies: &[String], more: &str) -> String {
    format!("[[parent]]\nmatch = {{ host = {hosts:?} }}\nproxy = {proxies:?}\n{more}\n\n")
}

/// Credentials for parents: the lines of `[[parent]]`, and a folder with the password.
pub(crate) fn login(dir: &Dir, password: &str) -> &'static str {
    certs::private(&dir.write("parent.password", password));
    "user = \"ana\"\npassword_file = \"parent.password\""
}

/// An answer of a parent to a request in absolute form.
pub(crate) fn fine(_head: &str) -> Act {
    Act::Hold(b"HTTP/1.1 200 Fine\r\nContent-Length: 2\r\n\r\nok".to_vec())
}

const TUNNELS: &str = "[access]\nconnect_ports = [443, 1]\n\n";

/// `[access]` that lets tunnels go to this port.
fn tunnels_to(port: u16) -> String {
    format!("[access]\nconnect_ports = [{port}]\n\n")
}

#[test]
fn plain_requests_go_in_absolute_form_with_the_gateways_own_credentials() {
    let (dir, proxy) = (Dir::new(), Parent::http(fine));
    let more = login(&dir, "secret\n");
    let gateway = Gateway::start_in(dir, &(UNLIMITED.to_owned() + &parent(&["*"], &[proxy.url("http")], more)));
    let mut caller = gateway.caller();
    for target in ["http://nowhere.example/a?b", "http://other.example:81/"] {
        let host = target.trim_start_matches("http://").split('/').next().unwrap();
        let own = basic("caller", "own");
        let answer = caller
            .send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nProxy-Authorization: {own}\r\nX-A: b\r\n\r\n"))
            .answer();
        assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
        assert_eq!(answer.field("via"), Some("1.1 lockgate"));
    }
    let heads = proxy.heads();
    assert_eq!(
        heads[0],
        format!(
            "GET http://nowhere.example/a?b HTTP/1.1\r\nHost: nowhere.example\r\nX-A: b\r\nVia: 1.1 lockgate\r\n\
             Proxy-Authorization: {}\r\n\r\n",
            basic("ana", "secret")
        )
    );
    gateway.exchange("OPTIONS http://nowhere.example HTTP/1.1\r\nHost: nowhere.example\r\n\r\n");
    assert!(
        proxy.heads()[2].starts_with("OPTIONS http://nowhere.example HTTP/1.1\r\n"),
        "it asks for the whole server"
    );
    assert!(heads[1].starts_with("GET http://other.example:81/ HTTP/1.1\r\nHost: other.example:81\r\n"), "{heads:?}");
}

#[test]
fn a_tunnel_is_asked_for_by_name_and_its_bytes_pass_both_ways() {
    let origin = Origin::scripted(echo);
    let (dir, proxy) = (Dir::new(), Parent::http(|_| Act::Relay));
    let more = login(&dir, "secret");
    let toml = UNLIMITED.to_owned() + &tunnels_to(origin.port()) + &parent(&["*"], &[proxy.url("http")], more);
    let gateway = Gateway::start_in(dir, &toml);
    let to = format!("nowhere.example:{}", origin.port());
    let mut caller = gateway.caller();
    let asked = format!("Proxy-Authorization: {}\r\nVia: 1.1 lockgate\r\n", basic("caller", "own"));
    assert_eq!(caller.send(connect(&to, &asked)).answer_to("CONNECT").status, 200);
    caller.send(format!("POST / HTTP/1.1\r\nHost: {to}\r\nContent-Length: 0\r\n\r\n"));
    let expected = format!(
        "CONNECT {to} HTTP/1.1\r\nHost: {to}\r\nProxy-Authorization: {}\r\nVia: 1.1 lockgate, 1.1 lockgate\r\n\r\n",
        basic("ana", "secret")
    );
    assert_eq!(proxy.heads(), [expected], "credentials of the caller stay here, and gateways before count");
    eventually("the origin has the request", || origin.count() == 1);
    assert_eq!(origin.only().field("proxy-authorization"), None);
}

#[test]
fn https_in_an_opened_tunnel_speaks_http_2_to_its_origin_through_the_parent() {
    let before = Before::new();
    let origin = Origin2::start(before.authority.both_config(Fault::None));
    let proxy = Parent::http(|_| Act::Relay);
    let toml = counted(1000, "1s", "") + &parent(&["localhost"], &[proxy.url("http")], "");
    let stage = before.gateway(&toml, &[origin.port()]);
    let to = format!("localhost:{}", origin.port());
    // One connection of the caller: threads have tunnels of their own.
    let mut caller = stage.opened(&to);
    for path in ["/1", "/2"] {
        assert_eq!(caller.send(get(&to, path)).answer().status, 200);
    }
    assert_eq!(proxy.heads().len(), 1, "one tunnel carries both requests");
}

#[test]
fn excepted_hosts_and_this_machine_are_reached_directly() {
    let (origin, proxy) = (Origin::start(), Parent::http(fine));
    let star = parent(&["*"], &[proxy.url("http")], "except = [\"*.direct.test\", \"203.0.113.0/24\"]");
    let gateway = Gateway::start(&(UNLIMITED.to_owned() + &star));
    assert_eq!(gateway.get(&origin.url("/here")).text(), "/here");
    assert_eq!(gateway.get("http://a.direct.test/").status, 502, "the gateway does not find the name");
    assert_eq!(proxy.heads().len(), 0);
    assert_eq!(gateway.get("http://a.other.test/").text(), "ok");
    let named = parent(&["127.0.0.1"], &[proxy.url("http")], "except = [\"127.0.0.1:1\"]");
    assert!(gateway.reload(&(UNLIMITED.to_owned() + &named)));
    assert_eq!(gateway.get(&origin.url("/there")).text(), "ok", "a section that names it takes it");
    let excepted = parent(&["127.0.0.1"], &[proxy.url("http")], "except = [\"127.0.0.0/8\"]");
    assert!(gateway.reload(&(UNLIMITED.to_owned() + &excepted)));
    assert_eq!(gateway.get(&origin.url("/here")).text(), "/here");
}

#[test]
fn the_origin_of_a_route_goes_through_a_parent_that_names_it() {
    let (origin, proxy) = (Origin::start(), Parent::http(fine));
    let route = format!("[[route]]\npath = \"/app/\"\nto = \"{}\"\n\n", origin.url("/"));
    let request = "GET /app/x HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let gateway = Gateway::start(&(UNLIMITED.to_owned() + &route + &parent(&["*"], &[proxy.url("http")], "")));
    assert_eq!(gateway.exchange(request).text(), "/x");
    assert!(gateway.reload(&(UNLIMITED.to_owned() + &route + &parent(&["127.0.0.1"], &[proxy.url("http")], ""))));
    assert_eq!(gateway.exchange(request).text(), "ok");
}

#[test]
fn an_address_that_must_not_be_called_is_not_asked_of_a_parent_either() {
    let proxy = Parent::http(fine);
    let toml = format!(
        "{UNLIMITED}[listen]\nproxy = \"0.0.0.0:0\"\n\n[access]\nallow_from = [\"127.0.0.0/8\"]\nconnect_ports = [443]\n\n{}",
        parent(&["*", "127.0.0.1"], &[proxy.url("http")], "")
    );
    let gateway = Gateway::start(&toml);
    for target in ["http://10.1.2.3/", "http://169.254.169.254/", "http://127.0.0.1:8099/", "http://[::ffff:10.0.0.1]/"]
    {
        check_ours(&gateway.get(target), 403, "destination_ip_prohibited");
    }
    let answer = gateway.exchange(connect("10.1.2.3:443", ""));
    check_ours(&answer, 403, "destination_ip_prohibited");
    assert_eq!(gateway.get("http://a.example/").status, 200);
    assert_eq!(proxy.heads().len(), 1);
}

#[test]
fn a_parent_that_wants_a_login_is_named_and_its_407_stays_here() {
    let denies = |_: &str| Act::say("HTTP/1.1 407 Who\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n");
    let proxy = Parent::http(denies);
    let gateway = Gateway::start(&(UNLIMITED.to_owned() + &parent(&["*"], &[proxy.url("http")], "")));
    for answer in [gateway.get("http://a.example/"), gateway.exchange(connect("a.example:443", ""))] {
        check_ours(&answer, 502, "proxy_configuration_error");
        assert!(
            answer.text().contains(&proxy.url("http")) && answer.text().contains("password_file"),
            "{}",
            answer.text()
        );
        assert_eq!(answer.field("proxy-authenticate"), None);
    }
}

#[test]
fn a_refusal_to_connect_names_the_parent_and_its_status_and_takes_no_slot() {
    let proxy = Parent::http(|head| match head {
        _ if head.contains("late.example") => Act::say("HTTP/1.1 504 Late\r\n\r\n"),
        _ if head.contains("full.example") => Act::say(
            "HTTP/1.1 429 Full\r\nRetry-After: 7\r\nProxy-Status: lockgate; error=http_request_error; details=\"full\"\r\n\r\n",
        ),
        _ => Act::say("HTTP/1.1 403 No\r\n\r\n"),
    });
    let limit = "[[limit]]\nname = \"one\"\nrequests = 1\nper = \"1h\"\nwhen_full = \"refuse\"\n\n";
    let gateway = Gateway::start(&(limit.to_owned() + &parent(&["*"], &[proxy.url("http")], "")));
    for _ in 0..3 {
        let answer = gateway.exchange(connect("a.example:443", ""));
        check_ours(&answer, 502, "connection_refused");
        assert!(answer.text().contains(&proxy.url("http")) && answer.text().contains("403"), "{}", answer.text());
        check_ours(&gateway.exchange(connect("late.example:443", "")), 504, "connection_timeout");
        let answer = gateway.exchange(connect("full.example:443", ""));
        // Policies of the parent are not known here, so it is no quota of this gateway.
        assert_eq!((answer.status, answer.field("retry-after")), (429, Some("7")), "{}", answer.text());
        assert!(answer.text().contains(&proxy.url("http")), "{}", answer.text());
    }
    gateway.log_line("refused_by=parent");
}

#[test]
fn answers_that_are_no_http_end_the_attempt_within_bounds() {
    let garbage: [&'static [u8]; 5] = [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\n\r\n",
        b"HTTP/1.1 200 OK\r\nA",
        b"",
        b"HTTP/1.1 101 Switching\r\n\r\n",
    ];
    for bytes in garbage {
        let proxy = Parent::http(move |_| Act::Say(bytes.to_vec()));
        let toml = UNLIMITED.to_owned() + TUNNELS + &parent(&["*"], &[proxy.url("http")], "");
        let gateway = Gateway::start(&toml);
        let answer = gateway.exchange(connect("a.example:443", ""));
        check_ours(&answer, 503, "destination_unavailable");
        assert!(answer.text().contains(&proxy.url("http")), "{}", answer.text());
    }
    let endless = Parent::http(|_| Act::Hold([b"HTTP/1.1 200 OK\r\nA: ".to_vec(), vec![b'x'; 1 << 20]].concat()));
    let gateway = Gateway::start(&(UNLIMITED.to_owned() + &parent(&["*"], &[endless.url("http")], "")));
    check_ours(&gateway.exchange(connect("a.example:443", "")), 503, "destination_unavailable");
}

#[test]
fn bytes_behind_the_parents_200_reach_the_caller() {
    let proxy = Parent::http(|_| Act::Hold(b"HTTP/1.1 200 OK\r\n\r\n220 ready\r\n".to_vec()));
    let gateway = Gateway::start(&(UNLIMITED.to_owned() + &parent(&["*"], &[proxy.url("http")], "")));
    let mut caller = gateway.caller();
    assert_eq!(caller.send(connect("a.example:443", "")).answer_to("CONNECT").status, 200);
    assert_eq!(caller.bytes(11), b"220 ready\r\n");
}

#[test]
fn a_counted_tunnel_whose_parent_fails_after_it_was_asked_keeps_its_slot() {
    let lost = Parent::http(|_| Act::Say(Vec::new()));
    let next = Parent::http(|_| Act::Hold(b"HTTP/1.1 200 OK\r\n\r\n".to_vec()));
    let limit = "[[limit]]\nname = \"one\"\nrequests = 1\nper = \"1h\"\nwhen_full = \"refuse\"\n\n";
    let toml = limit.to_owned() + &parent(&["*"], &[lost.url("http"), next.url("http")], "");
    let gateway = Gateway::start(&toml);
    // The first parent may have connected before it failed: a second connection would be one too many.
    check_ours(&gateway.exchange(connect("a.example:443", "")), 502, "connection_terminated");
    assert_eq!((lost.heads().len(), next.heads().len()), (1, 0));
    check_ours(&gateway.exchange(connect("a.example:443", "")), 429, "http_request_error");
}

#[test]
fn a_parent_that_does_not_answer_is_followed_by_the_next_and_passed_over() {
    let (dead, hole, last) = (DeadPort::new(), BlackHole::new(), Parent::http(fine));
    let proxies =
        [format!("http://127.0.0.1:{}", dead.port()), format!("http://127.0.0.1:{}", hole.port()), last.url("http")];
    let toml = UNLIMITED.to_owned() + "[timeouts]\nconnect = \"3s\"\n\n" + &parent(&["*"], &proxies, "");
    let gateway = Gateway::start(&toml);
    for _ in 0..20 {
        assert_eq!(gateway.get("http://a.example/").text(), "ok");
    }
    assert_eq!(last.heads().len(), 20);
    let warnings = gateway.stderr().matches("a parent proxy fails").count();
    assert_eq!(warnings, 2, "one for each parent, not for each request: {}", gateway.stderr());
}

#[test]
fn a_parent_that_breaks_every_request_is_passed_over_too() {
    let (first, last) = (Parent::http(|_| Act::say("")), Parent::http(fine));
    let toml = UNLIMITED.to_owned() + &parent(&["*"], &[first.url("http"), last.url("http")], "");
    let gateway = Gateway::start(&toml);
    let post = "POST http://a.example/ HTTP/1.1\r\nHost: a.example\r\nContent-Length: 2\r\n\r\nhi";
    assert_eq!(gateway.exchange(post).status, 502, "it may have reached the origin");
    // Should a second pass meanwhile, a request tries the first one again, and goes on to the last.
    for _ in 0..9 {
        assert_eq!(gateway.get("http://a.example/").status, 200);
    }
    assert_eq!(last.heads().len(), 9, "{:?}", first.heads());
    assert_eq!(gateway.stderr().matches("a parent proxy fails").count(), 1, "{}", gateway.stderr());
    assert!(!gateway.stderr().contains("works again"), "a connection alone shows nothing: {}", gateway.stderr());
    // A request that may be sent twice is sent through the next one, with a slot of its own.
    let (first, last) = (Parent::http(|_| Act::say("")), Parent::http(fine));
    let limit = "[[limit]]\nname = \"all\"\nrequests = 2\nper = \"1h\"\nwhen_full = \"refuse\"\n\n";
    let toml = limit.to_owned() + &parent(&["*"], &[first.url("http"), last.url("http")], "");
    let gateway = Gateway::start(&toml);
    let answers = [(); 2].map(|()| gateway.get("http://a.example/").status);
    assert_eq!((answers, first.heads().len(), last.heads().len()), ([200, 429], 1, 1));
    // Without another one it is not sent twice.
    let only = Parent::http(|_| Act::say(""));
    let gateway = Gateway::start(&(UNLIMITED.to_owned() + &parent(&["*"], &[only.url("http")], "")));
    assert_eq!((gateway.get("http://a.example/").status, only.heads().len()), (502, 1));
}

#[test]
fn without_any_parent_all_are_named_and_one_that_comes_back_is_used() {
    let (first, second) = (free_port(), DeadPort::new());
    let proxies = [format!("http://127.0.0.1:{first}"), format!("http://127.0.0.1:{}", second.port())];
    let gateway = Gateway::start(&(UNLIMITED.to_owned() + &parent(&["*"], &proxies, "")));
    let answer = gateway.get("http://a.example/");
    check_ours(&answer, 503, "destination_unavailable");
    assert!(proxies.iter().all(|proxy| answer.text().contains(proxy)), "{}", answer.text());
    let _back = Parent::http_at(first, fine);
    assert_eq!(gateway.get("http://a.example/").status, 200, "with none up, each is tried");
    gateway.complains("a parent proxy works again");
}

#[test]
fn a_refusal_of_a_lockgate_parent_pauses_nothing_here() {
    let proxy = Parent::http(|head| {
        match head {
        _ if head.contains("/parents") => Act::Hold(
            b"HTTP/1.1 429 Full\r\nRetry-After: 3600\r\nProxy-Status: lockgate; error=http_request_error\r\nContent-Length: 0\r\n\r\n"
                .to_vec(),
        ),
        _ if head.contains("/origins") => Act::Hold(
            b"HTTP/1.1 429 Full\r\nRetry-After: 3600\r\nVia: 1.1 lockgate\r\nContent-Length: 0\r\n\r\n".to_vec(),
        ),
        _ => fine(head),
    }
    });
    let limit = "[[limit]]\nname = \"many\"\nrequests = 1000\nper = \"1s\"\nmax_wait = \"1s\"\nretry = 1\n\n";
    let gateway = Gateway::start(&(limit.to_owned() + &parent(&["*"], &[proxy.url("http")], "")));
    let answer = gateway.get("http://a.example/parents");
    assert_eq!((answer.status, answer.field("retry-after")), (429, Some("3600")));
    assert!(gateway.log_line("/parents").contains("refused_by=parent"), "{:?}", gateway.lines());
    assert_eq!(gateway.get("http://a.example/").status, 200);
    assert_eq!(gateway.get("http://a.example/origins").status, 429);
    check_ours(&gateway.get("http://a.example/"), 429, "http_request_error");
}

#[test]
fn a_pooled_connection_that_a_parent_has_closed_costs_no_request() {
    let (first, second) = (Parent::http(fine), Parent::http(fine));
    let toml = UNLIMITED.to_owned() + &parent(&["*"], &[first.url("http"), second.url("http")], "");
    let gateway = Gateway::start(&toml);
    for _ in 0..8 {
        assert_eq!(gateway.get("http://a.example/").status, 200);
    }
    first.kill();
    for _ in 0..8 {
        assert_eq!(gateway.get("http://a.example/").status, 200);
    }
    assert_eq!((first.heads().len(), second.heads().len()), (8, 8));
}

#[test]
fn gateways_that_are_each_others_parents_notice_the_loop() {
    let (one, two) = (free_port(), free_port());
    let start = |own: u16, other: u16| {
        let toml = format!(
            "{UNLIMITED}[listen]\nproxy = \"127.0.0.1:{own}\"\n\n[http]\nvia_to_origins = false\n\n{}",
            parent(&["*"], &[format!("http://127.0.0.1:{other}")], "")
        );
        Gateway::start(&toml)
    };
    let (first, _second) = (start(one, two), start(two, one));
    assert_eq!(first.get("http://a.example/").status, 508);
    let answer = first.exchange(connect("a.example:443", ""));
    assert_eq!(answer.status, 502, "{}", answer.text());
    let counted = |gateway: &Gateway| gateway.lines().iter().filter(|line| line.contains("a.example")).count();
    // Each passes it with 0, 2 and 4 gateways behind it.
    eventually("all requests are logged", || counted(&first) == 6);
}

#[test]
fn metrics_tell_which_parents_work() {
    let (dead, works) = (DeadPort::new(), Parent::http(fine));
    let dead = format!("http://127.0.0.1:{}", dead.port());
    let toml = UNLIMITED.to_owned() + &parent(&["*"], &[dead.clone(), works.url("http")], "");
    let (gateway, admin) = watched(&toml, "");
    assert_eq!(gateway.get("http://a.example/").status, 200);
    let text = ask(admin, "GET", "/metrics", "").text();
    for line in [
        format!("lockgate_parent_up{{parent=\"{dead}\"}} 0"),
        format!("lockgate_parent_up{{parent=\"{}\"}} 1", works.url("http")),
        format!("lockgate_parent_connections_total{{parent=\"{dead}\",result=\"failed\"}} 1"),
        format!("lockgate_parent_connections_total{{parent=\"{}\",result=\"connected\"}} 1", works.url("http")),
    ] {
        assert!(text.contains(&line), "{line} is missing in {text}");
    }
}

#[test]
fn a_caller_that_hangs_up_before_the_parents_answer_may_have_been_counted() {
    let silent = Parent::http(|_| Act::Hold(Vec::new()));
    let limit = "[[limit]]\nname = \"one\"\nrequests = 1\nper = \"1h\"\nwhen_full = \"refuse\"\n\n";
    let gateway = Gateway::start(&(limit.to_owned() + &parent(&["*"], &[silent.url("http")], "")));
    let mut caller = gateway.caller();
    caller.send(connect("a.example:443", ""));
    eventually("the parent is asked", || silent.heads().len() == 1);
    caller.hang_up();
    gateway.log_line("a.example:443 499");
    check_ours(&gateway.exchange(connect("a.example:443", "")), 429, "http_request_error");
}
