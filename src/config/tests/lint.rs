//! Tests of the lint: settings with less effect than they seem to have, and settings without a warning.

use super::*;

/// The warnings, each with the text under its carets.
fn reported(text: &str) -> Vec<(String, String)> {
    let settings = good(text);
    let lines: Vec<&str> = text.lines().collect();
    let about = |report: &Report| {
        let line: Vec<char> = lines[report.line - 1].chars().collect();
        let begin = report.column - 1;
        line[begin..begin + report.width()].iter().collect::<String>()
    };
    settings.warnings.iter().map(|report| (about(report), report.message.clone())).collect()
}

/// A limit with this `match`, and more below it.
fn limit(matching: &str, more: &str) -> String {
    format!("[[limit]]\nrequests = 1\nper = \"1s\"\nmatch = {{ {matching} }}\n{more}")
}

#[track_caller]
fn warns(text: &str, expected: &[(&str, &str)]) {
    let reported = reported(text);
    let reported: Vec<(&str, &str)> =
        reported.iter().map(|(about, message)| (about.as_str(), message.as_str())).collect();
    assert_eq!(reported, expected, "{text}");
}

#[test]
fn a_limit_with_path_or_method_counts_nothing_of_https_in_closed_tunnels() {
    let unseen = |host: &str, sees: &str| {
        format!("this limit counts no https requests to {host}: in an opaque tunnel it sees {sees}")
    };
    warns(&limit("host = \"api.a\", path = \"/v2/**\"", ""), &[("\"api.a\"", &unseen("api.a", "no path"))]);
    warns(
        &limit("host = \"api.a\", method = [\"GET\", \"POST\"]", ""),
        &[("\"api.a\"", &unseen("api.a", "no method but CONNECT"))],
    );
    warns(
        &limit("host = [\"*.a\", \"b:443\"], path = \"/x\", method = \"GET\"", ""),
        &[
            ("\"*.a\"", &unseen("*.a", "neither path nor method")),
            ("\"b:443\"", &unseen("b:443", "neither path nor method")),
        ],
    );
    warns(&limit("path = \"/v2/**\"", ""), &[("\"/v2/**\"", &unseen("any host", "no path"))]);
    warns(&limit("method = \"GET\"", ""), &[("\"GET\"", &unseen("any host", "no method but CONNECT"))]);
    let mends = &good(&limit("host = \"api.a\", path = \"/v2/**\"", "")).warnings[0].advice;
    assert!(mends.contains("intercept = [\"api.a\"]") && mends.contains("opaque_tunnels = \"deny\""), "{mends}");
}

#[test]
fn hosts_of_whose_https_requests_only_tunnels_are_counted_are_told() {
    let two = "host = [\"api.a\", \"*.b\"]";
    let told = |text: &str| good(text).counted_tunnels;
    let sentence = |hosts: &str, remedy: &str| {
        Some(format!("https requests to {hosts}: only their tunnels are counted; to count each request {remedy}"))
    };
    assert_eq!(told(&limit(two, "")), sentence("api.a, *.b", "add intercept = [\"api.a\", \"*.b\"] to [tls]"));
    assert_eq!(
        told(&limit(two, "[tls]\nintercept = [\"*.b\"]")),
        sentence("api.a", "add intercept = [\"api.a\"] to [tls]")
    );
    let again = "[[limit]]\nmatch = { host = \"api.a\" }\nrequests = 5\nper = \"1m\"";
    assert_eq!(
        told(&limit("host = \"api.a\"", again)),
        sentence("api.a", "add intercept = [\"api.a\"] to [tls]"),
        "once for two limits"
    );
    let name_them = "name their hosts in intercept in [tls]";
    assert_eq!(told("[[limit]]\nrequests = 5\nper = \"1s\""), sentence("any host", name_them));
    assert_eq!(told(&limit("host = \"*:443\"", "")), sentence("*:443", name_them));
    for (host, more) in [
        ("host = \"api.a\"", "[tls]\nintercept = [\"api.a\"]"),
        ("host = \"api.a\"", "[access]\nopaque_tunnels = \"deny\""),
        ("host = \"api.a:80\"", ""),
        ("host = \"api.a\"", "[[route]]\npath = \"/\"\nto = \"https://api.a/\""),
        // Meant for tunnels, or warned of.
        ("host = \"api.a\", method = \"CONNECT\"", ""),
        ("host = \"api.a\", path = \"/v2/**\"", ""),
    ] {
        assert_eq!(told(&limit(host, more)), None, "{host} {more}");
    }
}

#[test]
fn a_limit_whose_requests_it_sees_is_not_warned_about() {
    let path = |host: &str, more: &str| limit(&format!("host = {host}, path = \"/v2/**\""), more);
    for text in [
        // The host alone: tunnels are counted, and `lockgate check` says so.
        limit("host = \"api.a\"", ""),
        limit("host = \"api.a\", method = [\"GET\", \"CONNECT\"]", ""),
        limit("host = \"api.a\"", "key = [\"host\", \"caller\", \"method\"]"),
        // Plain HTTP.
        path("\"api.a:80\"", ""),
        path("\"api.a:8080\"", ""),
        path("\"api.a\"", "[access]\nconnect_ports = []"),
        // Intercepted.
        path("\"api.a\"", "[tls]\nintercept = [\"api.a\"]"),
        path("[\"x.a\", \"*.b.a\", \"a:443\"]", "[tls]\nintercept = [\"*.a\", \"a:443\"]"),
        path("\"api.a\"", "[tls]\nintercept = [\"api.a:443\"]"),
        // Refused.
        path("\"api.a\"", "[access]\nopaque_tunnels = \"deny\""),
        // Reached by a route.
        path("\"api.a\"", "[[route]]\npath = \"/\"\nto = \"https://api.a/\""),
        path(
            "\"api.a:8443\"",
            "[access]\nconnect_ports = [8443]\n[[route]]\npath = \"/\"\nto = \"https://api.a:8443/\"",
        ),
        limit("path = \"/v2/**\"", "[[route]]\npath = \"/\"\nto = \"https://api.a/\""),
    ] {
        warns(&text, &[]);
    }
}

#[test]
fn what_opens_or_routes_a_part_only_leaves_the_rest() {
    let counts_no = |more: &str| reported(&limit("host = \"*.a\", path = \"/v2/**\"", more)).len();
    assert_eq!(counts_no("[tls]\nintercept = [\"api.a\"]"), 1);
    assert_eq!(counts_no("[tls]\nintercept = [\"*.a:443\"]\n[access]\nconnect_ports = [443, 8443]"), 1);
    assert_eq!(counts_no("[[route]]\npath = \"/\"\nto = \"https://api.a/\""), 1);
    assert_eq!(counts_no("[tls]\nintercept = [\"*.a\"]"), 0);
}

#[test]
fn a_key_or_a_cost_that_closed_tunnels_do_not_have_is_warned_about() {
    let keyed = |more: &str| limit("host = \"api.a\"", more);
    let header = "opaque tunnels to api.a are keyed by the authorization of their CONNECT, which hardly ever has one: they \
                  share one window";
    warns(&keyed("key = \"header:authorization\""), &[("\"header:authorization\"", header)]);
    warns(
        &keyed("key = [\"caller\", \"path[1]\", \"query:q\"]"),
        &[
            ("\"path[1]\"", "opaque tunnels to api.a have no path: they share one window"),
            ("\"query:q\"", "opaque tunnels to api.a have no query: they share one window"),
        ],
    );
    warns(
        &keyed("cost = \"header:x-cost\""),
        &[("\"header:x-cost\"", "opaque tunnels to api.a cost 1 each: the header x-cost is read from their CONNECT")],
    );
    for more in ["[tls]\nintercept = [\"api.a\"]", "[access]\nopaque_tunnels = \"deny\""] {
        warns(&keyed(&format!("key = \"header:authorization\"\ncost = \"header:x-cost\"\n{more}")), &[]);
    }
    // A limit that counts no tunnels gets one warning: for that, and not for its key.
    assert_eq!(reported(&limit("host = \"api.a\", path = \"/x\"", "key = \"header:authorization\"")).len(), 1);
}

#[test]
fn a_limit_on_tunnels_that_are_none_counts_nothing() {
    warns(
        &limit("host = \"api.a\", path = \"/x\", method = \"CONNECT\"", ""),
        &[("\"/x\"", "this limit counts nothing: a CONNECT has no path")],
    );
    warns(
        &limit("host = \"api.a\", method = \"CONNECT\"", "[tls]\nintercept = [\"api.a\"]"),
        &[("\"CONNECT\"", "this limit counts nothing: there are no opaque tunnels to its hosts")],
    );
    warns(&limit("host = \"api.a\", method = \"CONNECT\"", ""), &[]);
    warns(
        &limit("method = \"CONNECT\"", "[tls]\nintercept = [\"api.a\"]\n[[limit]]\nname = \"all\"\nin_flight = 9"),
        &[],
    );
}

#[test]
fn a_host_to_which_nothing_leads_is_warned_about() {
    let no_port = "no tunnel leads to api.a:443: [access] connect_ports has no 443";
    warns(&limit("host = \"api.a:443\"", "[access]\nconnect_ports = [8443]"), &[("\"api.a:443\"", no_port)]);
    let routed = "[access]\nconnect_ports = [8443]\n[[route]]\npath = \"/\"\nto = \"https://api.a/\"";
    warns(&limit("host = \"api.a:443\"", routed), &[]);
    let denied = "no request gets to 192.0.2.1: [access] deny_addresses forbids it";
    let range = "[access]\ndeny_addresses = [\"192.0.2.0/24\"]\n";
    warns(&limit("host = \"192.0.2.1\"", range), &[("\"192.0.2.1\"", denied)]);
    let to = format!("{range}[[route]]\npath = \"/\"\nto = \"http://192.0.2.1/\"");
    warns(&limit("host = \"a\"", &to), &[("\"http://192.0.2.1/\"", denied)]);
    let nobody = "every request is refused: no limit and no route names a host";
    warns(&limit("host = \"*\"", "[access]\nunlisted_hosts = \"deny\""), &[("\"deny\"", nobody)]);
    warns(&limit("host = \"a\"", "[access]\nunlisted_hosts = \"deny\""), &[]);
    let no_host = "no tunnel is refused: no limit names a host";
    warns(&limit("host = \"*\"", "[access]\nopaque_tunnels = \"deny\""), &[("\"deny\"", no_host)]);
}

#[test]
fn a_host_that_is_opened_for_no_limit_is_probably_misspelt() {
    let text = limit("host = \"api.example.com\"", "[tls]\nintercept = [\"api.exmaple.com\"]");
    warns(&text, &[("\"api.exmaple.com\"", "no limit counts the requests to api.exmaple.com")]);
    assert_eq!(good(&text).warnings[0].advice, "did you mean \"api.example.com\"?");
    let opened = |hosts: &str, host: &str| reported(&limit(hosts, &format!("[tls]\nintercept = [{host:?}]"))).len();
    assert_eq!(opened("host = \"*.a\"", "x.a"), 0);
    assert_eq!(opened("host = \"x.a\"", "*.a"), 0);
    assert_eq!(opened("host = \"x.a:443\"", "x.a"), 0);
    assert_eq!(opened("host = \"*\"", "x.a"), 0);
    assert_eq!(opened("method = \"CONNECT\"", "x.a"), 0, "a limit without host counts all");
    assert_eq!(opened("host = \"*.b\"", "x.a"), 1);
    // A client certificate is shown in intercepted tunnels.
    let folder = folder("lint");
    let shown = "[[tls.client]]\nhost = \"x.a\"\ncert = \"client.pem\"\nkey = \"client.key\"";
    let text = limit("host = \"b\"", &format!("[tls]\nintercept = [\"x.a\"]\n{shown}"));
    assert_eq!(parse_in(&folder, &text).unwrap().warnings, []);
    std::fs::remove_dir_all(folder).unwrap();
    let no_port = "no tunnel leads to x.a:8443: [access] connect_ports has no 8443";
    let text = limit("host = \"x.a\"", "[tls]\nintercept = [\"x.a:8443\"]");
    warns(&text, &[("\"x.a:8443\"", no_port)]);
    let text = limit("host = \"x.a\"", "[access]\nconnect_ports = []\n[tls]\nintercept = [\"x.a\"]");
    warns(&text, &[("\"x.a\"", "no tunnel leads anywhere: [access] connect_ports is empty")]);
}

#[test]
fn a_dry_run_is_warned_about() {
    let dry = "this limit holds nothing back: it is a dry run";
    warns(&limit("host = \"a\"", "dry_run = true"), &[("true", dry)]);
    warns(&limit("host = \"a\"", "dry_run = false"), &[]);
}

#[test]
fn timeouts_that_never_hold_are_told() {
    let section = |keys: &str| format!("{}\n[[timeouts.for]]\n{keys}\n", limit("host = \"api.a\"", ""));
    let opened = "[tls]\nintercept = [\"api.a\", \"*.b\"]\n";
    let no_path = "these timeouts hold for no https request to api.a: an opaque tunnel shows no path";
    warns(&section("host = \"api.a\"\npath = \"/v1/**\"\nanswer = \"10m\""), &[("\"/v1/**\"", no_path)]);
    let unseen = |key: &str| format!("`{key}` holds for no https request to api.a: they are in opaque tunnels");
    warns(
        &section("host = \"api.a\"\nanswer = \"10m\"\nbody_idle = \"1h\"\ntunnel_idle = \"1h\"\nconnect = \"9s\""),
        &[("\"10m\"", &unseen("answer")), ("\"1h\"", &unseen("body_idle"))],
    );
    warns(
        &section(&format!("host = \"api.a\"\npath = \"/v1/**\"\nanswer = \"10m\"\n{opened}")),
        &[("\"*.b\"", "no limit counts the requests to *.b")],
    );
    let opened = "[tls]\nintercept = \"api.a\"\n";
    let earlier = "[[timeouts.for]]\nhost = [\"*.a\", \"b:80\"]\nanswer = \"5m\"\n";
    let hidden = "`answer` never holds: an earlier section sets it for *.a,b:80";
    let later = |keys: &str| {
        format!(
            "{}\n{opened}{earlier}[[timeouts.for]]\n{keys}\n[access]\nconnect_ports = []\n",
            limit("host = \"api.a\"", "")
        )
    };
    let ports = ("\"api.a\"", "no tunnel leads anywhere: [access] connect_ports is empty");
    warns(&later("host = \"api.a\"\npath = \"/x\"\nanswer = \"9m\""), &[ports, ("\"9m\"", hidden)]);
    warns(&later("host = [\"api.a\", \"c\"]\nanswer = \"9m\""), &[ports]);
    warns(&later("host = \"api.a\"\nbody_idle = \"9m\""), &[ports]);
    warns(&later("host = \"b\"\nanswer = \"9m\""), &[ports]);
    let capped = section(&format!("host = \"api.a\"\nanswer = \"10m\"\n{opened}[timeouts]\nrequest = \"5m\""));
    let capped = capped.replace("[[timeouts.for]]\nhost = \"api.a\"\nanswer = \"10m\"\n", "")
        + "[[timeouts.for]]\nhost = \"api.a\"\nanswer = \"10m\"\n";
    warns(&capped, &[("\"10m\"", "`answer` never ends: [timeouts] request = 5m comes first")]);
}

#[test]
fn a_balancer_that_may_be_anyone_is_told() {
    let access = "[access]\nallow_from = [\"192.0.2.0/24\"]\n[[limit]]\nin_flight = 1\n";
    let listen = |keys: &str| format!("[listen]\n{keys}\n{access}");
    warns(
        &listen("proxy_protocol_from = [\"10.0.0.1\", \"0.0.0.0/0\"]"),
        &[("\"0.0.0.0/0\"", "every connection must begin with a PROXY header, which may name any address")],
    );
    warns(
        &listen("forwarded_from = [\"::/0\"]"),
        &[("\"::/0\"", "every caller may say that its requests come from any address")],
    );
    warns(
        &listen("forwarded_field = \"forwarded\""),
        &[("\"forwarded\"", "no field is read: there is no `forwarded_from`")],
    );
    warns(&listen("forwarded_from = [\"10.0.0.1\"]\nforwarded_field = \"forwarded\""), &[]);
}
