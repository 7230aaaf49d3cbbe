//! The kinds of stores: one server, a primary that Sentinels know, a Cluster; with TLS and passwords; and those that cannot
//! count.

use std::time::Duration;

use crate::shared::{Fleet, shared, shared_at};
use crate::support::certs::{Authority, Fault};
use crate::support::gateway::Dir;
use crate::support::middleman::Middleman;
use crate::support::store::{Sentinel, Store};
use crate::support::*;

const PER: Duration = Duration::from_millis(250);

#[test]
fn when_a_replica_takes_the_place_of_a_store_that_died_the_limit_holds() {
    let primary = Store::start();
    let replica = Store::with(&["--replicaof", "127.0.0.1", &primary.port.to_string()]);
    let sentinel = Sentinel::start(&primary);
    eventually("the Sentinel knows the replica", || {
        let known: Vec<String> = sentinel_says(&sentinel, &["SENTINEL", "MASTER", "main"]);
        known.windows(2).any(|pair| pair[0] == "num-slaves" && pair[1] == "1")
    });
    let url = format!("redis+sentinel://127.0.0.1:{}/main", sentinel.port);
    let rules = shared_at(&url, "", 20, "250ms", "counts = \"answered\"\nmax_wait = \"1s\"");
    let fleet = Fleet::start([rules.clone(), rules]);
    fleet.during(8, || {
        fleet.each_sends(&[0, 1], 10);
        primary.kill();
        let to = format!("connected to the store of shared limits store=\"127.0.0.1:{}\"", replica.port);
        fleet.said(0, &to);
        fleet.said(1, &to);
        fleet.each_sends(&[0, 1], 30);
    });
    one_window(20, PER, &fleet.origin.stamps());
}

fn sentinel_says(sentinel: &Sentinel, words: &[&str]) -> Vec<String> {
    let client = redis::Client::open(format!("redis://127.0.0.1:{}", sentinel.port)).unwrap();
    let mut order = redis::cmd(words[0]);
    order.arg(&words[1..]);
    client.get_connection().and_then(|mut connection| order.query(&mut connection)).unwrap_or_default()
}

#[test]
fn a_cluster_counts_where_the_keys_are() {
    // Nodes speak with each other at ports of their own.
    let ports = [free_port(), free_port(), free_port()].map(|port| port.to_string());
    let node = |port: &String| Store::with(&["--cluster-enabled", "yes", "--cluster-port", port]);
    let nodes: Vec<Store> = ports.iter().map(node).collect();
    for (number, node) in nodes.iter().enumerate() {
        let (from, to) = (number * 5461, if number == 2 { 16_383 } else { number * 5461 + 5460 });
        node.order::<String>(&["CLUSTER", "ADDSLOTSRANGE", &from.to_string(), &to.to_string()]);
        node.order::<String>(&["CLUSTER", "MEET", "127.0.0.1", &nodes[0].port.to_string(), &ports[0]]);
    }
    for node in &nodes {
        eventually("the cluster is whole", || node.order::<String>(&["CLUSTER", "INFO"]).contains("cluster_state:ok"));
    }
    // Whichever node a gateway knows, all come to the same.
    let rules = |node: usize| shared(nodes[node].port, 20, "250ms", "counts = \"answered\"");
    let fleet = Fleet::start((0..3).map(rules));
    fleet.during(5, || fleet.each_sends(&[0, 1, 2], 20));
    one_window(20, PER, &fleet.origin.stamps());
    let keys: Vec<usize> = nodes.iter().map(|node| node.order::<usize>(&["DBSIZE"])).collect();
    assert_eq!(keys.iter().filter(|count| **count > 0).count(), 1, "{keys:?}");
}

#[test]
fn a_store_with_a_password_is_asked_with_it_and_it_is_never_logged() {
    let store = Store::with(&["--requirepass", "open-sesame"]);
    let dir = Dir::new();
    dir.write("password", "open-sesame\n");
    let more = "password_file = \"password\"\nif_store_is_empty = \"trust\"";
    let url = format!("redis://127.0.0.1:{}", store.port);
    let rules = shared_at(&url, more, 5, "1s", "") + "[log]\nlevel = \"trace\"\n";
    let (gateway, origin) = (Gateway::start_in(dir, &rules), Origin::start());
    assert_eq!(gateway.get(&origin.url("/")).status, 200);
    assert!(!gateway.stderr().contains("open-sesame"));

    let dir = Dir::new();
    dir.write("password", "wrong-word");
    let wrong = Gateway::start_in(dir, &shared_at(&url, more, 5, "1s", "when_full = \"refuse\""));
    assert_eq!(wrong.get(&origin.url("/")).status, 503);
    let said = wrong.stderr();
    assert!(said.contains("the store denied access") && said.contains("password_file"), "{said}");
    assert!(said.contains(&format!("(at 127.0.0.1:{})", store.port)), "{said}");
    assert!(!said.contains("wrong-word"));
}

#[test]
fn a_store_with_tls_must_prove_who_it_is() {
    let authority = Authority::new();
    let dir = Dir::new();
    let trust = authority.write(dir.path());
    let files = authority.issue(Fault::None).write(dir.path(), "store");
    let port = free_port();
    let (cert, key) = (files.0.display().to_string(), files.1.display().to_string());
    let args =
        ["--tls-port", &port.to_string(), "--tls-cert-file", &cert, "--tls-key-file", &key, "--tls-auth-clients", "no"];
    let _store = Store::with(&[&args[..], &["--tls-ca-cert-file", &trust.display().to_string()]].concat());
    let origin = Origin::start();
    let rules = shared_at(
        &format!("rediss://localhost:{port}"),
        "if_store_is_empty = \"trust\"",
        5,
        "1s",
        "when_full = \"refuse\"",
    );
    let trusting = Gateway::start(&format!("{rules}[tls]\ntrust = [\"{}\"]\n", trust.display()));
    eventually("it is let through", || trusting.get(&origin.url("/")).status == 200);
    let doubting = Gateway::start(&rules);
    assert_eq!(doubting.get(&origin.url("/")).status, 503);
    doubting.complains("certificate");
}

#[test]
fn a_store_that_cannot_count_is_not_believed() {
    let origin = Origin::start();
    let refused = |port: u16, more: &str, why: &str| {
        let url = format!("redis://127.0.0.1:{port}");
        let gateway = Gateway::start(&shared_at(&url, more, 5, "1s", "when_full = \"refuse\""));
        assert_eq!(gateway.get(&origin.url("/")).status, 503);
        eventually(why, || gateway.stderr().contains(why));
    };
    let evicting = Store::with(&["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]);
    refused(evicting.port, "", "set it to \"noeviction\"");
    let primary = Store::start();
    let replica = Store::with(&["--replicaof", "127.0.0.1", &primary.port.to_string()]);
    refused(replica.port, "", "is a replica, which cannot be written");
    refused(primary.port, "confirm = 2", "of 2 replicas");
    refused(DeadPort::new().port(), "", "cannot be reached");
    for hidden in ["run_id", "master_replid"] {
        let nameless = Middleman::to(primary.port, &[hidden]);
        refused(nameless.port, "", "does not identify itself");
    }
    let other = Origin::saying("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    refused(other.port(), "", "the store");
}

#[test]
fn a_store_that_a_middleman_puts_in_anothers_place_is_not_taken_for_it() {
    let primary = Store::start();
    let replica = Store::with(&["--replicaof", "127.0.0.1", &primary.port.to_string()]);
    let middleman = Middleman::to(primary.port, &[]);
    let rules = shared(middleman.port, 5, "1h", "when_full = \"refuse\"") + "if_store_is_empty = \"trust\"\n";
    let (gateway, origin) = (Gateway::start(&rules), Origin::start());
    eventually("it is let through", || gateway.get(&origin.url("/")).status == 200);
    let meta = "{lockgate}:meta";
    eventually("the replica knows the store that it follows", || {
        primary.order::<usize>(&["EXISTS", meta]) == 1 && replica.order::<usize>(&["EXISTS", meta]) == 1
    });
    // From here on it is behind.
    replica.order::<String>(&["REPLICAOF", "NO", "ONE"]);
    let went = |gateway: &Gateway| (0..5).filter(|_| gateway.get(&origin.url("/")).status == 200).count();
    // A store on a slow machine grants some too late: these are not used.
    assert!(went(&gateway) <= 4);
    let connections = || gateway.stderr().matches("connected to the store of shared limits").count();
    let before = connections();
    middleman.turn_to(replica.port);
    eventually("that is noticed, or the connection is lost by another cause", || {
        went(&gateway);
        let is_noticed = gateway.stderr().contains("the store was replaced by another one");
        is_noticed || connections() > before || origin.count() > 5
    });
    went(&gateway);
    assert!(origin.count() <= 5, "{}", origin.count());
}

#[test]
fn what_is_confirmed_by_a_replica_is_used() {
    let primary = Store::start();
    let _replica = Store::with(&["--replicaof", "127.0.0.1", &primary.port.to_string()]);
    eventually("the replica follows", || {
        primary.order::<String>(&["INFO", "replication"]).contains("connected_slaves:1")
    });
    let url = format!("redis://127.0.0.1:{}", primary.port);
    let (gateway, origin) = (Gateway::start(&shared_at(&url, "confirm = 1", 50, "1s", "")), Origin::start());
    for _ in 0..20 {
        assert_eq!(gateway.get(&origin.url("/")).status, 200);
    }
}

#[test]
fn more_gateways_than_the_file_says_are_refused() {
    let store = Store::start();
    let origin = Origin::start();
    let rules = |name: &str| {
        let more =
            format!("if_store_is_lost = \"share\"\ngateways = 2\nname = \"{name}\"\nif_store_is_empty = \"trust\"");
        shared_at(&format!("redis://127.0.0.1:{}", store.port), &more, 50, "1s", "when_full = \"refuse\"")
    };
    let known = [Gateway::start(&rules("one")), Gateway::start(&rules("two"))];
    for gateway in &known {
        eventually("it is let through", || gateway.get(&origin.url("/")).status == 200);
    }
    let third = Gateway::start(&rules("three"));
    assert_eq!(third.get(&origin.url("/")).status, 503);
    third.complains("already knows as many gateways");
}
