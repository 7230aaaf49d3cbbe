//! The dashboard, in a browser.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use crate::admin::{ask, json, watched};
use crate::support::*;
use crate::waiting::Closed;

const RULES: &str = "[listen]\nproxy = \"127.0.0.1:0\"\n\n# what we pay for\n[[limit]]\nname     = \"partner\"\n\
                     match    = { host = \"127.0.0.1\" }   # theirs\nrequests = 20     # per contract\n\
                     per      = \"1s\"\n\n[[limit]]\nname      = \"uploads\"\nmatch     = { method = \"POST\" }\nin_flight = 4\n\n\
                     [[limit]]\nname = \"strict\"\nmatch = { host = \"127.0.0.1\", path = \"/strict\" }\nrequests = 1\n\
                     per = \"1h\"\nwhen_full = \"refuse\"\n";

#[test]
fn a_person_sees_who_fills_the_queue_halves_the_limit_and_saves_it() {
    let origin = Origin::start();
    let admin = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let gateway = Gateway::start(&format!("{RULES}\n[admin]\nlisten = \"{admin}\"\n"));
    let file = gateway.dir.path().join("proxy.toml");
    let before = std::fs::read_to_string(&file).unwrap();
    let over = AtomicBool::new(false);
    let pictures = std::env::var_os("LOCKGATE_PICTURES").unwrap_or_else(|| gateway.dir.path().into());
    let seen = std::thread::scope(|scope| {
        for n in 0..16 {
            let (gateway, origin, over) = (&gateway, &origin, &over);
            scope.spawn(move || {
                let from = if n < 12 { "127.0.0.2" } else { "127.0.0.3" };
                let mut caller = Caller::connect_from(from, gateway.addr);
                while !over.load(Ordering::SeqCst) {
                    caller.send(format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", origin.url("/")));
                    assert_eq!(caller.answer().status, 200);
                }
            });
        }
        scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                gateway.get(&origin.url("/strict"));
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
        });
        let python = concat!(env!("CARGO_MANIFEST_DIR"), "/.venv/bin/python");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/page.py");
        let seen = Command::new(python).arg(script).arg(format!("http://{admin}/")).arg(pictures).output().unwrap();
        over.store(true, Ordering::SeqCst);
        seen
    });
    assert!(seen.status.success(), "{}", String::from_utf8_lossy(&seen.stderr));
    let after = std::fs::read_to_string(&file).unwrap();
    assert_eq!(after, before.replace("requests = 20 ", "requests = 10 "), "just that change");
}

/// Finds what the dashboard says of callers that hang up: `python -c LOOK URL FOLDER`.
const LOOK: &str = "
import sys
from playwright.sync_api import expect, sync_playwright
url, folder = sys.argv[1:]
expect.set_options(timeout=120_000)
with sync_playwright() as playwright:
    page = playwright.chromium.launch(executable_path='/usr/bin/chromium').new_page()
    page.goto(url)
    row = page.locator('#limits tr').filter(has_text='the-limit')
    expect(row).to_contain_text('hang up after')
    row.get_by_role('button').click()
    expect(page.locator('#hang-ups')).to_contain_text('give them a longer time-out')
    page.screenshot(path=folder + '/hang-ups.png', full_page=True)
";

#[test]
fn a_person_sees_that_callers_hang_up_sooner_than_they_may_wait() {
    let closed = Closed::left_again_and_again("127.0.0.8");
    let pictures = std::env::var_os("LOCKGATE_PICTURES").unwrap_or_else(|| closed.gateway.dir.path().into());
    let python = concat!(env!("CARGO_MANIFEST_DIR"), "/.venv/bin/python");
    let url = format!("http://{}/", closed.admin);
    let seen = Command::new(python).args(["-c", LOOK, &url]).arg(pictures).output().unwrap();
    assert!(seen.status.success(), "{}", String::from_utf8_lossy(&seen.stderr));
}

#[test]
fn the_page_shows_its_state_before_a_script_has_run() {
    let origin = Origin::start();
    let (gateway, admin) = watched(&limit(1, "1h", "when_full = \"refuse\""), "");
    assert_eq!(gateway.get(&origin.url("/1")).status, 200);
    assert_eq!(gateway.get(&origin.url("/2")).status, 429);
    let words = ["1 of 1", "1 per 1h", "Refusing", "Serving", env!("CARGO_PKG_VERSION"), "1 limit<", ">the-limit<"];
    let page = || ask(admin, "GET", "/", "");
    // It tells of the last seconds once the sampler has counted them.
    eventually("all of it is in the page", || words.iter().all(|word| page().text().contains(word)));
    let page = page();
    assert_eq!(page.field("content-type"), Some("text/html; charset=utf-8"));
    let policy = page.field("content-security-policy").unwrap();
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    let text = page.text();
    for file in text.split(['"', '\'']).filter(|word| word.ends_with(".js") || word.ends_with(".css")) {
        assert_eq!(ask(admin, "GET", &format!("/{file}"), "").status, 200, "{file}");
    }
    assert!(!text.contains("{{") && !text.contains("http://") && !text.contains("https://"), "{text}");
}

#[test]
fn the_page_says_that_the_gateway_drains() {
    let (origin, go) = Origin::on_order();
    let (mut gateway, admin) = watched(UNLIMITED, "");
    let mut caller = gateway.caller();
    caller.send(format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", origin.url("/slow")));
    eventually("it is under way", || origin.count() == 1);
    let page = || ask(admin, "GET", "/", "").text();
    assert!(page().contains("<dd id=\"drain\">off</dd>") && !page().contains("Draining"));
    gateway.signal(rustix::process::Signal::TERM);
    eventually("it drains", || page().contains("data-status=\"draining\">Draining</p>"));
    assert!(page().contains("<dd id=\"drain\">draining</dd>") && page().contains("No new connections are accepted."));
    go.send(()).unwrap();
    assert_eq!(caller.answer().status, 200);
    assert!(gateway.ended().success());
}

#[test]
fn every_request_of_the_history_has_one_end() {
    let origin = Origin::start();
    let (gateway, admin) = watched(&limit(1, "1h", "max_wait = \"12h\"\nmax_waiting = 2"), "");
    assert_eq!(gateway.get(&origin.url("/")).status, 200);
    let asked = |from: &str| {
        let mut caller = Caller::connect_from(from, gateway.addr);
        caller.send(format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", origin.url("/")));
        caller
    };
    let waiting = |count: usize| {
        eventually(&format!("{count} wait"), || json(admin, "/v1/limits/the-limit")["waiting"] == count);
    };
    let _stays = asked("127.0.0.2");
    waiting(1);
    let leaves = asked("127.0.0.3");
    waiting(2);
    assert_eq!(asked("127.0.0.4").answer().status, 429, "the queue is full");
    drop(leaves);
    waiting(1);
    let limit = |key: &str| {
        let lists = json(admin, "/v1/history")["limits"]["the-limit"].clone();
        lists[key].as_array().cloned().unwrap_or_default().iter().filter_map(Value::as_u64).collect::<Vec<_>>()
    };
    let ends = || {
        (
            ["permits", "refused", "cancelled"].map(|key| limit(key).iter().sum::<u64>()),
            limit("waiting").last().copied(),
        )
    };
    eventually("four requests with one end each", || ends() == ([1, 1, 1], Some(1)));
    let history = json(admin, "/v1/history");
    let gateway =
        |key: &str| history["gateway"][key].as_array().unwrap().iter().filter_map(Value::as_u64).collect::<Vec<_>>();
    assert_eq!((gateway("refused").iter().sum::<u64>(), gateway("waiting").last()), (1, Some(&1)));
    assert!(gateway("requests").iter().sum::<u64>() >= 2 && gateway("errors").iter().sum::<u64>() == 0);
    assert!(history["at"].as_u64() > Some(1_700_000_000_000), "{}", history["at"]);
}

#[test]
fn what_if_numbers_add_up_for_any_history_and_any_rule() {
    let top = concat!(env!("CARGO_MANIFEST_DIR"), "/");
    let output = Command::new("node")
        .args([format!("{top}tests/clients/what_if.mjs"), format!("{top}src/admin/dashboard/what_if.js")])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
