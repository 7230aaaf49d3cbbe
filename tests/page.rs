//! The dashboard, in a browser.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use crate::admin::{json, watched};
use crate::support::*;
use crate::waiting::Closed;

const RULES: &str = "[listen]\nproxy = \"127.0.0.1:0\"\n\n# what we pay for\n[[limit]]\nname     = \"partner\"\n\
                     match    = { host = \"127.0.0.1\" }   # theirs\nrequests = 20     # per contract\n\
                     per      = \"1s\"\n\n[[limit]]\nname      = \"uploads\"\nmatch     = { method = \"POST\" }\nin_flight = 4\n";

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
