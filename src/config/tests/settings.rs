//! Tests of settings: the value that each key becomes, and the explanation of limits.

use std::time::Duration;

use tracing::level_filters::LevelFilter;

use super::*;
use crate::locker::{Counts, Kind, Priority, ShareBy, Unit, WhenFull};
use crate::net::prefix::Ipv6Prefix;
use crate::proxy::claims::{Cost, Pushback};
use crate::proxy::key::KeyPart;
use crate::proxy::path;
use crate::proxy::target::{PlainVersion, Scheme};

/// The explanation of one limit.
fn meaning(limit: &str) -> String {
    good(&format!("[[limit]]\n{limit}")).explanations.remove(0)
}

#[test]
fn one_limit_is_a_whole_file_and_the_rest_has_defaults() {
    let settings = good("[[limit]]\nrequests = 5\nper = \"800ms\"\n");
    assert_eq!(settings.listen, ["127.0.0.1:8080".parse().unwrap()]);
    assert_eq!(settings.log, LevelFilter::INFO);
    let limit = &settings.gate.limits[0];
    assert_eq!(&*limit.name, "limit-1");
    assert_eq!((limit.max_wait, limit.max_waiting), (Duration::from_secs(30), 1_000));
    assert_eq!((limit.in_flight, limit.max_keys, limit.dry_run), (None, 1_000_000, false));
    assert_eq!((limit.when_full, limit.share_by), (WhenFull::Wait, ShareBy::Caller));
    assert_eq!(limit.priority, Priority::WithinCaller);
    let rate = limit.rate.as_ref().unwrap();
    assert_eq!((rate.requests, rate.per, rate.guard), (5, Duration::from_millis(800), Duration::ZERO));
    assert!(matches!((&rate.kind, rate.counts), (Kind::Sliding, Counts::Sent)));
    let rule = &settings.proxy.rules[0];
    assert!(matches!((&rule.cost, rule.max_cost), (Cost::Fixed(1), 5)));
    assert_eq!((rule.pushback, rule.retry, rule.key.len(), rule.ignore_case), (Pushback::Pause, 0, 0, false));
    assert_eq!(rule.pushback_key, [KeyPart::Header("authorization".to_owned())]);
    assert_eq!((&rule.pushback_on[..], rule.max_backoff), (&[][..], Duration::from_secs(60)));
    assert!(rule.obey_prefer && rule.deadline.is_empty());
    let timeouts = &settings.proxy.timeouts;
    let seconds =
        [timeouts.head, timeouts.connect, timeouts.answer, timeouts.idle, timeouts.tunnel_idle, timeouts.drain];
    assert_eq!(seconds.map(|t| t.as_secs()), [10, 5, 60, 90, 600, 30]);
    assert_eq!((timeouts.body_idle.as_secs(), timeouts.request, timeouts.overrides.len()), (300, None, 0));
    let access = &settings.proxy.access;
    assert_eq!(access.allow_from, ["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()]);
    assert_eq!((access.connect_ports.as_slice(), access.only_listed, access.deny_opaque), (&[443][..], false, false));
    assert!(access.users.is_none());
    assert_eq!((access.ipv6_prefix, &access.upgrades[..]), (Ipv6Prefix(64), &["websocket".to_owned()][..]));
    assert!(settings.proxy.dial.deny.is_empty() && settings.proxy.dial.allow.is_empty());
    assert!(!settings.proxy.dial.deny_private, "on loopback only, private addresses may be dialled");
}

#[test]
fn balancers_reach_their_room_and_their_clients_are_no_programs_of_this_machine() {
    let access = "[access]\nallow_from = [\"192.0.2.0/24\"]\n";
    let settings = good(&format!(
        "[listen]\nproxy_protocol_from = [\"10.0.0.0/24\", \"::1\"]\nforwarded_from = \"10.0.1.7\"\nforwarded_field = \"CF-Connecting-IP\"\n{access}"
    ));
    let balancers = settings.proxy.balancers;
    assert_eq!(balancers.proxy_protocol_from, ["10.0.0.0/24", "::1/128"].map(|range| range.parse().unwrap()));
    assert_eq!(balancers.forwarded_from, ["10.0.1.7/32".parse().unwrap()]);
    assert_eq!(balancers.forwarded_field, "cf-connecting-ip");
    assert!(settings.proxy.dial.deny_private, "also on loopback");
    assert!(good("[listen]\nforwarded_from = [\"127.0.0.1\"]\n").proxy.dial.deny_private);
    let none = good("[listen]\nproxy_protocol_from = []\nforwarded_from = []\n").proxy;
    assert!(none.balancers == Default::default() && !none.dial.deny_private);
    assert_eq!(none.balancers.forwarded_field, "x-forwarded-for");
}

#[test]
fn every_key_of_a_limit_reaches_its_room() {
    let settings = good(
        "[[limit]]\nname = \"a\"\nmatch = { host = \"A.example\", path = \"/v2/**\", method = [\"GET\", \"PURGE\"] }\nrequests = 1_000\nper = \"1h\"\n\
         key = [\"host\", \"caller\", \"path[2]\", \"header:X-Id\", \"query:Key\", \"method\"]\nwindow = \"calendar\"\nzone = \"Europe/Berlin\"\ncounts = \"answered\"\n\
         guard = \"20ms\"\ncost = \"header:X-Cost\"\nin_flight = 20\nwhen_full = \"refuse\"\nmax_wait = \"5s\"\nobey_prefer = false\ndeadline = [\"X-Read-Timeout\"]\nmax_waiting = 7\nshare_by = \"none\"\npriority = \"strict\"\n\
         pushback = \"ignore\"\npushback_on = [403, 429]\npushback_key = [\"header:X-Api-Key\", \"caller\"]\nmax_backoff = \"2s\"\nretry = 2\ndry_run = true\nmax_keys = 9\nignore_case = true\n",
    );
    let limit = &settings.gate.limits[0];
    assert_eq!((&*limit.name, limit.in_flight, limit.dry_run, limit.max_keys), ("a", Some(20), true, 9));
    assert_eq!((limit.when_full, limit.share_by), (WhenFull::Refuse, ShareBy::Nobody));
    assert_eq!(limit.priority, Priority::Strict);
    assert_eq!((limit.max_wait, limit.max_waiting), (Duration::from_secs(5), 7));
    let rate = limit.rate.as_ref().unwrap();
    assert_eq!((rate.requests, rate.guard, rate.counts), (1_000, Duration::from_millis(20), Counts::Answered));
    let Kind::Calendar { unit: Unit::Hour, zone } = &rate.kind else { panic!("{:?}", rate.kind) };
    assert_eq!(zone.iana_name(), Some("Europe/Berlin"));
    let rule = &settings.proxy.rules[0];
    assert!(matches!(&rule.cost, Cost::Header(name) if name == "x-cost"));
    assert_eq!((rule.max_cost, rule.pushback, rule.retry), (1_000, Pushback::Ignore, 2));
    assert_eq!((rule.obey_prefer, &rule.deadline[..]), (false, &["x-read-timeout".to_owned()][..]));
    assert_eq!((&rule.pushback_on[..], rule.max_backoff), (&[403, 429][..], Duration::from_secs(2)));
    assert_eq!(rule.pushback_key, [KeyPart::Header("x-api-key".to_owned()), KeyPart::Caller]);
    assert_eq!((&rule.methods[..], rule.ignore_case), (&["GET".to_owned(), "PURGE".to_owned()][..], true));
    assert!(
        rule.hosts[0].matches("a.example", 443)
            && rule.paths[0].matches(&path::Path::read("/V2/x").unwrap().ignoring_case())
    );
    let key = rule.key.as_slice();
    assert!(matches!(
        key,
        [KeyPart::Host, KeyPart::Caller, KeyPart::Path(2), KeyPart::Header(_), KeyPart::Query(_), KeyPart::Method]
    ));
    assert!(matches!(&key[3], KeyPart::Header(name) if name == "x-id"), "field names have no case");
    assert!(matches!(&key[4], KeyPart::Query(name) if name == "Key"), "query names have");
}

#[test]
fn pauses_belong_to_credentials_unless_windows_or_gateways_tell_them_apart() {
    let parts = |more: &str| {
        let store = if more.contains("shared") { "[store]\nurl = \"redis://127.0.0.1\"\n" } else { "" };
        let limit = format!("[[limit]]\nname = \"a\"\nrequests = 1\nper = \"1s\"\n{more}\n{store}");
        good(&limit).proxy.rules[0].pushback_key.len()
    };
    assert_eq!(parts(""), 1);
    assert_eq!(parts("pushback_key = []"), 0);
    assert_eq!(parts("key = [\"header:Authorization\", \"caller\"]"), 0, "each window is of one credential");
    assert_eq!(parts("shared = true"), 0);
    assert_eq!(parts("shared = true\npushback_key = [\"caller\"]"), 1);
}

#[test]
fn whatever_changes_a_key_changes_what_windows_are_told_apart_by() {
    let keyed_by = |more: &str, access: &str| {
        let limit = "[[limit]]\nrequests = 1\nper = \"1s\"\nmatch = { path = \"/a\" }\n";
        good(&format!("{limit}{more}\n{access}")).gate.limits[0].keyed_by.to_string()
    };
    assert_eq!(keyed_by("key = [\"caller\", \"path[1]\"]", ""), "caller/64, path[1]");
    assert_eq!(keyed_by("key = [\"caller\"]", "[access]\nipv6_prefix = 56\n"), "caller/56");
    assert_eq!(keyed_by("key = [\"host\", \"query:a\"]\nignore_case = true", ""), "host, query:a in any case");
    assert_eq!(keyed_by("key = [\"host\"]\nignore_case = true", "[access]\nipv6_prefix = 56\n"), "host");
    assert_eq!(keyed_by("", ""), "");
}

#[test]
fn a_limit_without_a_name_is_named_after_its_host_wherever_it_stands() {
    let section = |matching: &str| format!("[[limit]]\nin_flight = 1\nmatch = {{ {matching} }}\n");
    let (long, longest) = ("a".repeat(61), "a".repeat(60));
    let cases = [
        ("host = \"*.a.example:8080\", path = \"/v1/**\"", "a.example-8080"),
        ("path = \"/v1/**\"", "limit-1"),
        ("host = [\"a.example\", \"b.example\"]", "limit-1"),
        ("host = \"[::1]\"", "limit-1"),
        (&format!("host = \"{long}\""), "limit-1"),
        (&format!("host = \"{longest}\""), &*longest),
    ];
    for (matching, name) in cases {
        let named = "[[limit]]\nname = \"first\"\nin_flight = 1\n";
        for settings in [good(&section(matching)), good(&format!("{named}{}", section(matching)))] {
            assert_eq!(settings.gate.limits.last().map(|limit| &*limit.name), Some(name), "{matching}");
            assert!(!settings.warnings.iter().any(|warning| warning.message.contains("by its place")));
        }
    }
}

#[test]
fn limits_without_a_name_of_one_host_are_told_apart_by_their_place_and_warned_of() {
    let settings = good(
        "[[limit]]\nin_flight = 1\nmatch = { host = \"*.a.example:8080\" }\n[[limit]]\nin_flight = 1\nmatch = { host = \"b.example\" }\n\
         [[limit]]\nin_flight = 1\nmatch = { host = \"b.example\" }\n[[limit]]\nin_flight = 1\n[[limit]]\nname = \"limit-1\"\nin_flight = 1\n",
    );
    let names: Vec<_> = settings.gate.limits.iter().map(|limit| &*limit.name).collect();
    assert_eq!(names, ["a.example-8080", "b.example", "b.example-2", "limit-2", "limit-1"]);
    let told: Vec<_> = settings.warnings.iter().filter(|warning| warning.message.contains("by its place")).collect();
    assert_eq!(told.iter().map(|warning| warning.line).collect::<Vec<_>>(), [7, 10], "{told:?}");
    let same = settings.proxy.rules.iter().zip(names).all(|(rule, name)| &*rule.name == name);
    assert!(same, "both rooms know a limit by the same name");
}

#[test]
fn a_route_becomes_an_origin_and_the_path_as_written() {
    let settings = good(
        "[[route]]\npath = \"/a/\"\nto = \"https://API.example/v2\"\n[[route]]\npath = \"/b\"\nto = \"http://[::FFFF:1.2.3.4]:8080/v2/\"\n\
         [[route]]\nhost = \"c.example\"\nto = \"http://C.internal.:81\"\n\
         [[route]]\nhost = \"d.example\"\nto = \"H2C://d.internal:50051/\"\n",
    );
    let routes: Vec<_> = settings
        .proxy
        .routes
        .iter()
        .map(|r| (r.path.as_deref(), r.to.scheme, &*r.to.host, r.to.port, r.plain, r.to_path.as_str()))
        .collect();
    assert_eq!(
        routes,
        [
            (Some("/a/"), Scheme::Https, "api.example", 443, PlainVersion::Http1, "/v2"),
            (Some("/b"), Scheme::Http, "1.2.3.4", 8080, PlainVersion::Http1, "/v2/"),
            (None, Scheme::Http, "c.internal", 81, PlainVersion::Http1, ""),
            (None, Scheme::Http, "d.internal", 50051, PlainVersion::H2c, "/"),
        ]
    );
    assert!(settings.proxy.routes[2].host.as_ref().unwrap().matches("c.example", 80));
}

#[test]
fn who_may_come_depends_on_where_lockgate_listens_and_on_passwords() {
    let folder = folder("who");
    let read = |text: &str| parse_in(&folder, text).unwrap();
    let everywhere = "[listen]\nproxy = \"0.0.0.0:8080\"\n";
    let with_users = read(&format!("{everywhere}[access]\nusers = \"users\"\n"));
    assert!(with_users.proxy.access.allow_from.is_empty(), "a password lets in from anywhere");
    assert_eq!(with_users.proxy.access.users.as_ref().unwrap()[0].0, "ana");
    assert!(with_users.proxy.dial.deny_private);
    let ranged = read(&format!("{everywhere}[access]\nallow_from = \"10.0.0.0/8\"\n"));
    assert_eq!(ranged.proxy.access.allow_from, ["10.0.0.0/8".parse().unwrap()]);
    let local = read("[access]\nusers = \"users\"\n");
    assert_eq!(local.proxy.access.allow_from.len(), 2, "loopback only, and with a password");
    let trusting = read("[tls]\ntrust = [\"internal-ca.pem\"]\n");
    assert_eq!(trusting.proxy.tls.trust.len(), 1);
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn the_users_file_is_found_before_it_is_there() {
    let folder = folder("find-users");
    let path = folder.join("proxy.toml");
    std::fs::write(&path, "[access]\nusers = \"later/users\"\n").unwrap();
    assert_eq!(users_file(&path).unwrap(), Some(folder.join("later/users")));
    std::fs::write(&path, "[access]\n").unwrap();
    assert_eq!(users_file(&path).unwrap(), None);
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn bound_addresses_take_the_place_of_those_asked_for() {
    let mut settings = good("[listen]\nproxy = \"127.0.0.1:0\"\n");
    let bound = ["127.0.0.1:41234".parse().unwrap()];
    settings.bound_to(&bound);
    assert_eq!(
        (settings.listen.as_slice(), settings.proxy.own.as_slice(), settings.proxy.dial.own.as_slice()),
        (&bound[..], &bound[..], &bound[..])
    );
}

#[test]
fn requests_to_this_machine_go_past_us_only_if_no_limit_counts_them() {
    let counts =
        |hosts: &str| good(&format!("[[limit]]\nin_flight = 1\nmatch = {{ host = {hosts} }}\n")).counts_loopback;
    for hosts in ["\"*\"", "\"localhost\"", "\"localhost:3000\"", "\"127.0.0.1\"", "[\"a.example\", \"127.0.0.1:80\"]"]
    {
        assert!(counts(hosts), "{hosts}");
    }
    assert!(!counts("[\"a.example\", \"*.b.example\"]"));
    assert!(good("[[limit]]\nin_flight = 1\n").counts_loopback, "without a host it counts everything");
}

#[test]
fn a_limit_is_said_in_a_sentence() {
    let cases = [
        (
            "requests = 5\nper = \"800ms\"",
            "limit-1: all requests: at most 5 in any 800 ms; requests beyond that wait up to 30 s",
        ),
        (
            "name = \"api\"\nrequests = 1\nper = \"1s\"\nmatch = { host = [\"a.example\", \"*.a.example\"], method = \"GET\", path = \"/v2/**\" }\nkey = [\"host\", \"caller\"]\nmax_wait = \"1m\"",
            "api: GET requests to a.example or *.a.example for /v2/**: at most 1 in any second, for each host and each caller; requests beyond that wait up to 1 minute",
        ),
        (
            "requests = 9\nper = \"1d\"\nwindow = \"calendar\"\nzone = \"Europe/Berlin\"\nwhen_full = \"refuse\"\ncost = 3",
            "limit-1: all requests: at most 9 in each day of the calendar, by the clock of Europe/Berlin, each counting as 3; requests beyond that are refused",
        ),
        (
            "requests = 9\nper = \"1d\"\nwindow = \"calendar\"\nguard = \"20ms\"",
            "limit-1: all requests: at most 9 in each day of the calendar, by the clock of UTC, where what is sent within 20 ms of its ends counts on both sides; requests beyond that wait up to 30 s",
        ),
        (
            "requests = 9\nper = \"1m\"\nwindow = \"smooth\"\nburst = 3\nguard = \"20ms\"\ncounts = \"answered\"\ndry_run = true\nin_flight = 4",
            "limit-1: all requests: at most 9 in any minute, evenly spaced after the first 3 and a guard of 20 ms, counted from the response, at most 4 at one time; dry run: requests beyond that go all the same, and are logged",
        ),
        (
            "requests = 9\nper = \"1m\"\nwindow = \"fixed\"\nmax_wait = \"0ms\"\nkey = \"header:X-Id\"",
            "limit-1: all requests: at most 9 in a window of 1 minute, which opens with its first request, for each value of the header x-id; requests beyond that are refused",
        ),
        (
            "in_flight = 3\nmatch = { path = \"/A/**\" }\nkey = \"path[1]\"\nignore_case = true",
            "limit-1: requests for /A/** in any letter case: at most 3 at one time, for each path segment 1; requests beyond that wait up to 30 s",
        ),
        (
            "in_flight = 3\nkey = \"query:Id\"\nignore_case = true",
            "limit-1: all requests: at most 3 at one time, for each value of Id in the query in any letter case; requests beyond that wait up to 30 s",
        ),
        (
            "requests = 9\nper = \"1s\"\npriority = \"strict\"",
            "limit-1: all requests: at most 9 in any second; requests beyond that wait up to 30 s, the most urgent first, from whichever caller",
        ),
        ("in_flight = 3", "limit-1: all requests: at most 3 at one time; requests beyond that wait up to 30 s"),
    ];
    for (limit, sentence) in cases {
        assert_eq!(meaning(limit), sentence);
    }
}

#[test]
fn a_zeromq_listener_asks_for_its_limit_and_is_explained() {
    let limit = "[[limit]]\nname = \"device\"\nrequests = 5\nper = \"1s\"\n";
    let settings = good(&format!("{limit}[zmq]\nlisten = \"tcp://[::1]:7777\"\nlimit = \"device\"\nwait = \"2s\"\n"));
    assert_eq!(settings.zmq, Some("[::1]:7777".parse().unwrap()));
    let asks = settings.proxy.asks.unwrap();
    assert_eq!((&*asks.limit, asks.wait), ("device", Duration::from_secs(2)));
    let told = "zmq: ZeroMQ peers at tcp://[::1]:7777 ask for slots of device; asks beyond it wait up to 2s, and are answered sorry";
    assert_eq!(settings.explanations.last().map(String::as_str), Some(told));
    for (more, wait, why) in
        [("when_full = \"refuse\"\n", "2s", "asks do not wait"), ("", "1h", "asks wait for 30s at most")]
    {
        let zmq = format!("[zmq]\nlisten = \"tcp://127.0.0.1:7777\"\nlimit = \"device\"\nwait = \"{wait}\"\n");
        let warnings = good(&format!("{limit}{more}{zmq}")).warnings;
        assert!(warnings.iter().any(|warning| warning.message.starts_with(why)), "{warnings:?}");
    }
}

#[test]
fn a_collector_receives_the_signals_that_the_file_turns_on() {
    let read = |more: &str| good(&format!("[trace]\notlp = \"https://collector.example/base/\"\n{more}"));
    let plain = read("");
    let traces = plain.proxy.trace.unwrap();
    assert_eq!(
        (&*traces.collector.host, traces.collector.port, &*traces.collector.path),
        ("collector.example", 443, "/base")
    );
    assert!(traces.collector.tls.is_some() && plain.metrics_export.is_none());
    let both = read("metrics = true\n");
    let metrics = both.metrics_export.unwrap();
    assert_eq!(
        (metrics.interval, Some(metrics.collector)),
        (Duration::from_secs(60), both.proxy.trace.map(|t| t.collector))
    );
    let metrics = read("traces = false\nmetrics = true\nmetrics_interval = \"5s\"\n");
    assert_eq!(metrics.metrics_export.map(|export| export.interval), Some(Duration::from_secs(5)));
    assert!(metrics.proxy.trace.is_none());
    let warned = read("metrics_interval = \"5s\"\n").warnings;
    assert!(
        warned.iter().any(|warning| warning.line == 3 && warning.message == "no metrics are exported"),
        "{warned:?}"
    );
    let told = bad("[trace]\notlp = \"http://127.0.0.1:4318\"\ntraces = false\nmetrics_interval = \"1ms\"\n");
    let told: Vec<_> = told.iter().map(|report| (report.line, report.message.as_str())).collect();
    assert_eq!(told[0].0, 1, "{told:?}");
    assert!(told[0].1.contains("exports nothing") && told[1].0 == 4, "{told:?}");
}
