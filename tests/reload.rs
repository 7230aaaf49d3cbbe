//! The file is read again: all of it is in force then, or nothing has changed; nobody in line or under way is lost.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::admin::{listener, metrics, queued, watched};
use crate::parents::{fine, parent};
use crate::support::gateway::Dir;
use crate::support::parent::{Act, Parent};
use crate::support::stage::connect;
use crate::support::zmtp::{Peer, greeting, ready};
use crate::support::*;

const SECOND: u64 = 1_000_000_000;

fn get(origin: &Origin, path: &str) -> String {
    format!("GET {} HTTP/1.1\r\nHost: {}\r\n\r\n", origin.url(path), origin.authority())
}

#[test]
fn what_a_limit_has_counted_counts_on_under_its_new_rule() {
    let origin = Origin::start();
    let gateway = Gateway::start(&limit(3, "1h", "when_full = \"refuse\""));
    for path in ["/1", "/2"] {
        assert_eq!(gateway.get(&origin.url(path)).status, 200);
    }
    assert!(gateway.reload(&limit(4, "1h", "when_full = \"refuse\"")));
    let statuses: Vec<u16> = (3..7).map(|n| gateway.get(&origin.url(&format!("/{n}"))).status).collect();
    assert_eq!(statuses, [200, 200, 429, 429], "two of four were used before");
    assert!(gateway.reload(&limit(1, "1h", "when_full = \"refuse\"")));
    assert_eq!(gateway.get(&origin.url("/7")).status, 429);
    let told = gateway.stderr();
    assert!(told.contains("is changed; its counts are kept"), "{told}");
}

#[test]
fn those_in_line_stay_in_line_and_in_their_order() {
    let origin = Origin::start();
    let (gateway, admin) = watched(&limit(1, "1h", "max_wait = \"12h\"\nshare_by = \"none\""), "");
    assert_eq!(gateway.get(&origin.url("/first")).status, 200);
    let mut waiters: Vec<Caller> = Vec::new();
    for n in 0..5 {
        let mut caller = gateway.caller();
        caller.send(get(&origin, &format!("/{n}")));
        waiters.push(caller);
        queued(admin, "the-limit", waiters.len());
    }
    assert!(gateway.reload(&limit(2, "1h", "max_wait = \"12h\"\nshare_by = \"none\"")));
    assert_eq!(waiters[0].answer().status, 200, "the first of them has a slot now");
    waiters[1].expect_silence(Duration::from_millis(100));
    assert!(gateway.reload(&limit(6, "1h", "max_wait = \"12h\"\nshare_by = \"none\"")));
    for waiter in &mut waiters[1..] {
        assert_eq!(waiter.answer().status, 200);
    }
    let paths = origin.targets();
    assert_eq!(paths[..2], ["/first", "/0"], "the others go at one moment");
    assert_eq!(paths.len(), 6);
}

#[test]
fn a_limit_that_is_new_holds_those_back_who_are_in_line_already() {
    let origin = Origin::start();
    let named = |name: &str| limit(1, "1h", "max_wait = \"2h\"").replace("the-limit", name);
    let (old, new) = (named("old"), named("new"));
    let (gateway, admin) = watched(&old, "");
    assert_eq!(gateway.get(&origin.url("/first")).status, 200);
    let mut waiter = gateway.caller();
    waiter.send(get(&origin, "/waits"));
    queued(admin, "old", 1);
    assert!(gateway.reload(&new), "the old one is gone, so one can go");
    assert_eq!(waiter.answer().status, 200);
    let mut next = gateway.caller();
    next.send(get(&origin, "/next"));
    queued(admin, "new", 1);
    assert!(gateway.reload(&format!("{old}{new}")));
    next.expect_silence(Duration::from_millis(100));
    assert!(gateway.reload(UNLIMITED));
    assert_eq!(next.answer().status, 200);
    let told = gateway.stderr();
    for line in ["limit \"old\" is removed", "limit \"new\" is new", "limit \"old\" is back"] {
        assert!(told.contains(line), "{line}: {told}");
    }
}

#[test]
fn a_file_that_is_wrong_changes_nothing_and_is_told_with_its_place() {
    let origin = Origin::start();
    let gateway = Gateway::start(&limit(2, "1h", "when_full = \"refuse\""));
    let taken = Gateway::start(UNLIMITED);
    let broken = [
        ("[[limit]]\nrequests = 5\n".to_owned(), "proxy.toml:5:12"),
        (format!("[listen]\nproxy = \"{}\"\n{UNLIMITED}", taken.addr), "cannot listen on"),
        (format!("{UNLIMITED}[tls]\nintercept = [\"a.example\"]\nca_dir = \"proxy.toml\"\n"), "proxy.toml"),
    ];
    for (toml, why) in broken {
        assert!(!gateway.reload(&toml), "{toml}");
        let told = gateway.stderr();
        let last = told.rsplit("not reloaded, nothing has changed").next().unwrap();
        assert!(last.contains(why), "{why}: {last}");
    }
    let statuses: Vec<u16> = (0..3).map(|_| gateway.get(&origin.url("/")).status).collect();
    assert_eq!(statuses, [200, 200, 429]);
}

#[test]
fn listeners_come_and_go_and_no_connection_is_lost() {
    let origin = Origin::start();
    let gateway = Gateway::start(UNLIMITED);
    let mut kept = gateway.caller();
    assert_eq!(kept.send(get(&origin, "/1")).answer().status, 200);
    let (one, two) = (free_port(), free_port());
    let listen = |ports: &[u16]| {
        let list: Vec<String> = ports.iter().map(|port| format!("\"127.0.0.1:{port}\"")).collect();
        format!("[listen]\nproxy = [{}]\n{UNLIMITED}", list.join(", "))
    };
    assert!(gateway.reload(&listen(&[one, two])));
    for port in [one, two] {
        assert_eq!(Caller::connect(([127, 0, 0, 1], port).into()).send(get(&origin, "/new")).answer().status, 200);
    }
    assert_eq!(kept.send(get(&origin, "/2")).answer().status, 200, "its listener is closed, it is not");
    assert!(gateway.reload(&listen(&[two])));
    let gone = [gateway.addr, ([127, 0, 0, 1], one).into()];
    assert!(
        gone.iter().all(|addr| std::net::TcpStream::connect(addr).is_err()),
        "they are closed when the reload ends"
    );
    assert_eq!(Caller::connect(([127, 0, 0, 1], two).into()).send(get(&origin, "/3")).answer().status, 200);
    assert_eq!(kept.send(get(&origin, "/4")).answer().status, 200);
    // The same port, on every address of this machine.
    let wide = format!(
        "[listen]\nproxy = \"0.0.0.0:{two}\"\n[access]\nallow_from = [\"127.0.0.0/8\"]\n{}",
        limit(1000, "1s", "")
    );
    assert!(gateway.reload(&wide), "{}", gateway.stderr());
    assert_eq!(Caller::connect(([127, 0, 0, 1], two).into()).send(get(&origin, "/5")).answer().status, 200);
}

#[test]
fn a_zmq_listener_that_other_machines_reach_wants_passwords_though_a_reload_drops_them() {
    let dir = Dir::new();
    dir.write("users", &format!("anna:{}\n", bcrypt::hash("secret", 4).unwrap()));
    let (port, rules) = (free_port(), limit(9, "1h", ""));
    let zmq = |listen: String| format!("{rules}[zmq]\nlisten = \"tcp://{listen}\"\nlimit = \"the-limit\"\n");
    let gateway = Gateway::start_in(dir, &format!("{}[access]\nusers = \"users\"\n", zmq(format!("*:{port}"))));
    assert!(gateway.reload(&zmq(format!("127.0.0.1:{}", free_port()))));
    gateway.complains("[zmq] listen stays as it was");
    let mut null = Peer::connect(([127, 0, 0, 1], port).into());
    null.pour(&[greeting(3, "NULL"), ready("REQ")].concat());
    null.expect_end();
    gateway.complains("requires PLAIN");
}

#[test]
fn a_listener_that_comes_back_is_one_in_the_metrics_with_all_its_connections() {
    let origin = Origin::start();
    let (admin, section) = listener();
    let toml = |listen: &str| format!("[listen]\n{listen}\n{UNLIMITED}{section}");
    // The port of the first is the system's choice.
    let gateway = Gateway::start(&toml("proxy = \"127.0.0.1:0\""));
    let (one, two) = (gateway.addr, SocketAddr::from(([127, 0, 0, 1], free_port())));
    let connections = || metrics(admin).get(&format!("lockgate_listener_connections{{listener=\"{one}\"}}")).copied();
    let mut callers = Vec::new();
    for there in [two, one] {
        let mut caller = gateway.caller();
        assert_eq!(caller.send(get(&origin, "/")).answer().status, 200);
        callers.push(caller);
        for listen in [
            format!("proxy = \"{there}\""),
            format!("proxy = \"{two}\"\ntransparent = [\"{one}\"]"),
            format!("proxy = \"{one}\""),
        ] {
            assert!(gateway.reload(&toml(&listen)), "{listen}");
            assert_eq!(connections(), Some(callers.len() as f64), "{listen}");
        }
    }
    callers.clear();
    eventually("all connections have ended", || connections() == Some(0.0));
    let mut caller = gateway.caller();
    assert_eq!(caller.send(get(&origin, "/")).answer().status, 200);
    assert_eq!(connections(), Some(1.0));
}

#[test]
fn routes_access_and_what_is_opened_change_for_requests_on_connections_that_are_open() {
    let (one, two) = (Origin::start(), Origin::start());
    let route = |origin: &Origin, more: &str| {
        format!("{UNLIMITED}[[route]]\npath = \"/\"\nto = \"http://{}/\"\n{more}", origin.authority())
    };
    let gateway = Gateway::start(&route(&one, ""));
    let mut caller = gateway.caller();
    let ask = "GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n";
    assert_eq!(caller.send(ask).answer().status, 200);
    assert!(gateway.reload(&route(&two, "")));
    assert_eq!(caller.send(ask).answer().status, 200);
    assert_eq!((one.count(), two.count()), (1, 1));
    assert!(gateway.reload(&route(&two, "[access]\nallow_from = [\"192.0.2.1\"]\n")));
    check_ours(&caller.send(ask).answer(), 403, "http_request_denied");
    gateway.dir.write("users", "ana:$2b$04$WfZQTVRVGGXYnSvnUEXVSe7FBGvr3yQIYiqvFkVvGq4HdmvHuwYLm\n");
    assert!(gateway.reload(&route(&two, "[access]\nusers = \"users\"\n")), "{}", gateway.stderr());
    check_ours(&gateway.exchange(ask), 407, "http_request_denied");
}

#[test]
fn the_file_is_read_when_it_changes_if_it_asks_for_that() {
    let origin = Origin::start();
    let watched = |requests| format!("{}[config]\nwatch = true\n", limit(requests, "1h", "when_full = \"refuse\""));
    let gateway = Gateway::start(&watched(1));
    assert_eq!(gateway.get(&origin.url("/1")).status, 200);
    assert_eq!(gateway.get(&origin.url("/2")).status, 429);
    let listen = "[listen]\nproxy = \"127.0.0.1:0\"\n";
    gateway.dir.write("proxy.toml", &format!("{listen}{}", watched(2)));
    eventually("the file is read", || gateway.stderr().contains(" reloaded"));
    assert_eq!(gateway.get(&origin.url("/3")).status, 200);
    // A file that takes its place, as editors and config maps do it; it asks no more.
    let new = gateway.dir.write("new", &format!("{listen}{}", limit(3, "1h", "when_full = \"refuse\"")));
    std::fs::rename(new, gateway.dir.path().join("proxy.toml")).unwrap();
    eventually("the file is read again", || gateway.stderr().matches(" reloaded").count() == 2);
    assert_eq!(gateway.get(&origin.url("/4")).status, 200);
    gateway.dir.write("proxy.toml", &format!("{listen}{}", watched(9)));
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(gateway.get(&origin.url("/5")).status, 429);
}

#[test]
fn reloads_under_load_lose_no_request_and_keep_the_limit_of_each_moment() {
    const LIMITS: [usize; 2] = [10, 40];
    const PER: &str = "100ms";
    let origin = Origin::start();
    // Between two readings of one limit the stricter holds, so a span that touches both may hold what the wider allows.
    let rule = |requests: usize| limit(u32::try_from(requests).unwrap(), PER, "max_wait = \"1m\"");
    let gateway = Gateway::start(&rule(LIMITS[0]));
    let (over, failed) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut changes: Vec<(u64, usize)> = vec![(0, LIMITS[0])];
    std::thread::scope(|scope| {
        for n in 0..30 {
            let (gateway, origin, over, failed) = (&gateway, &origin, &over, &failed);
            scope.spawn(move || {
                let mut caller = gateway.caller();
                while !over.load(Ordering::SeqCst) {
                    let status = caller.send(get(origin, &format!("/{n}"))).answer().status;
                    failed.fetch_add(usize::from(status != 200), Ordering::SeqCst);
                }
            });
        }
        for turn in 1..=times(20, 200) {
            let before = clock::now();
            assert!(gateway.reload(&rule(LIMITS[turn % 2])));
            // It came into force somewhere between the two.
            changes.push((if LIMITS[turn % 2] > LIMITS[0] { before } else { clock::now() }, LIMITS[turn % 2]));
            std::thread::sleep(Duration::from_millis(300));
        }
        over.store(true, Ordering::SeqCst);
    });
    assert_eq!(failed.load(Ordering::SeqCst), 0, "{}", gateway.stderr());
    let mut stamps = origin.stamps();
    stamps.sort_unstable();
    one_window(LIMITS[1], Duration::from_millis(100), &stamps);
    for strict in changes.windows(2).filter(|pair| pair[0].1 == LIMITS[0]) {
        // What left under the wider limit fills the window for one span more.
        let within = (strict[0].0 + SECOND / 10)..strict[1].0;
        let inside: Vec<u64> = stamps.iter().copied().filter(|at| within.contains(at)).collect();
        one_window(LIMITS[0], Duration::from_millis(100), &inside);
    }
}

#[test]
fn whatever_is_in_force_by_a_reload_is_named_in_the_log() {
    let plain = |limit: &str, more: &str| format!("{limit}\n{more}\n");
    let base = limit(3, "1h", "");
    let gateway = Gateway::start(&plain(&base, ""));
    let changes = || {
        let told = gateway.stderr();
        let last = told.lines().rfind(|line| line.contains(" reloaded ")).unwrap_or_default().to_owned();
        last.rsplit_once("changes=").map(|(_, count)| count.to_owned()).unwrap_or_default()
    };
    let reload = |toml: &str, expected: &[&str]| {
        let before = gateway.stderr().len();
        assert!(gateway.reload(toml));
        let told = gateway.stderr()[before..].to_owned();
        assert_eq!(changes(), expected.len().to_string(), "{told}");
        for line in expected {
            assert!(told.contains(line), "{line}: {told}");
        }
    };
    let is_changed = "limit \"the-limit\" is changed; its counts are kept";
    reload(&plain(&base, ""), &[]);
    for other in ["], path = \"/v1/**\" }", "], method = \"GET\" }", "] }\npushback = \"ignore\"", "] }\nretry = 1"] {
        reload(&plain(&base.replace("] }", other), ""), &[is_changed]);
    }
    reload(&plain(&base.replace("] }", "] }\ncost = 2"), ""), &[is_changed]);
    // Once, whatever of it is other.
    reload(&plain(&base.replace("] }", "], path = \"/v2/**\" }").replace("= 3", "= 4"), ""), &[is_changed]);
    reload(&plain(&base, "[timeouts]\nanswer = \"61s\""), &[is_changed, "[timeouts] is changed"]);
    let route = "[[route]]\npath = \"/x/\"\nto = \"http://127.0.0.1:1/\"";
    reload(&plain(&base, route), &["[timeouts] is changed", "[[route]] is changed"]);
    reload(&plain(&base, "[access]\nconnect_ports = [1]"), &["[[route]] is changed", "[access] is changed"]);
    reload(&plain(&base, "[access]\nallow_addresses = [\"10.0.0.0/8\"]"), &["[access] is changed"]);
    reload(&plain(&base, "[log]\naccess = \"json\""), &["[access] is changed", "[log] is changed"]);
    let opened = "[tls]\nintercept = [\"127.0.0.1\"]";
    reload(&plain(&base, opened), &["[log] is changed", "[tls] is changed"]);
    reload(&plain(&base, &format!("{opened}\n[config]\nwatch = true")), &["[config] is changed"]);
    let parent = "[[parent]]\nproxy = \"http://127.0.0.1:1\"";
    reload(&plain(&base, &format!("{opened}\n[config]\nwatch = true\n{parent}")), &["[[parent]] is changed"]);
}

#[test]
fn a_request_that_is_sent_again_after_a_reload_must_pass_the_limits_that_are_new() {
    let (asked, go) = (AtomicUsize::new(0), std::sync::Arc::new(AtomicBool::new(false)));
    let may_go = std::sync::Arc::clone(&go);
    let origin = Origin::scripted(move |_, link| {
        if asked.fetch_add(1, Ordering::SeqCst) > 0 {
            return link.answer(200, "");
        }
        eventually("the limits were read again", || may_go.load(Ordering::SeqCst));
        link.send("HTTP/1.1 429 Slow Down\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n");
        Next::Keep
    });
    let old = limit(100, "100ms", "retry = 1").replace("the-limit", "old");
    let gateway = Gateway::start(&old);
    let mut caller = gateway.caller();
    caller.send(get(&origin, "/first"));
    eventually("it is under way", || origin.count() == 1);
    let new = limit(1, "1h", "when_full = \"refuse\"").replace("the-limit", "new");
    assert!(gateway.reload(&format!("{old}{new}")), "{}", gateway.stderr());
    assert_eq!(gateway.get(&origin.url("/second")).status, 200, "it takes the only slot of the new limit");
    go.store(true, Ordering::SeqCst);
    let answer = caller.answer();
    check_ours(&answer, 429, "http_request_error");
    assert_eq!(answer.problem()["violated-policies"], serde_json::json!(["new"]));
    assert_eq!(origin.targets(), ["/first", "/second"]);
}

#[test]
fn a_waiter_goes_through_the_parent_that_names_its_host_now() {
    let named =
        |name: &str| limit(1, "1h", "max_wait = \"12h\"").replace("the-limit", name).replace("127.0.0.1", "b.example");
    for (is_first_before, is_first_after) in [(false, true), (true, false)] {
        let (a, b) = (Parent::http(fine), Parent::http(fine));
        let (to_a, to_b) = (parent(&["a.example"], &[a.url("http")], ""), parent(&["b.example"], &[b.url("http")], ""));
        let parents = |is_first: bool| if is_first { to_b.clone() } else { format!("{to_a}{to_b}") };
        let (gateway, admin) = watched(&(named("old") + &parents(is_first_before)), "");
        assert_eq!(gateway.get("http://b.example/first").text(), "ok");
        let mut waiter = gateway.caller();
        waiter.send(gateway::get("http://b.example/waits"));
        queued(admin, "old", 1);
        assert!(gateway.reload(&(named("new") + &parents(is_first_after))));
        assert_eq!(waiter.answer().text(), "ok");
        assert_eq!((a.heads().len(), b.heads().len()), (0, 2), "the parent of b.example has carried both");
    }
}

#[test]
fn a_tunnel_that_waits_goes_through_a_parent_that_is_new_and_tells_it_the_gateways_before() {
    let (origin, proxy) = (Origin::start(), Parent::http(|_| Act::Relay));
    let tunnels = format!("[access]\nconnect_ports = [{}]\n\n", origin.port());
    let named = |name: &str| limit(1, "1h", "max_wait = \"12h\"").replace("the-limit", name) + &tunnels;
    let (gateway, admin) = watched(&named("old"), "");
    assert_eq!(gateway.get(&origin.url("/first")).status, 200);
    let mut waiter = gateway.caller();
    waiter.send(connect(&origin.authority(), "Via: 1.1 lockgate\r\n"));
    queued(admin, "old", 1);
    assert!(gateway.reload(&(named("new") + &parent(&["127.0.0.1"], &[proxy.url("http")], ""))));
    assert_eq!(waiter.answer_to("CONNECT").status, 200);
    let to = origin.authority();
    let expected = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\nVia: 1.1 lockgate, 1.1 lockgate\r\n\r\n");
    assert_eq!(proxy.heads(), [expected]);
}
