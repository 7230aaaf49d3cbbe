//! Real parent proxies under load: limits hold at the origin, and a parent that is killed is replaced.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::certs::{self, Fault};
use crate::support::parent::Squid;
use crate::support::stage::{Before, Stage, counted, get};
use crate::support::*;

const LIMIT: usize = 20;
const PER: Duration = Duration::from_millis(250);
/// Callers, half of them with https.
const CALLERS: usize = 8;
/// Requests of each.
const EACH: usize = 20;

/// The limit that is judged: exact at the origin's own door, whatever a parent's delay does.
fn judged() -> String {
    counted(u32::try_from(LIMIT).unwrap(), "250ms", "counts = \"answered\"\nmax_wait = \"1m\"")
}

/// `[[parent]]` for this machine.
fn parents(proxies: &[String], more: &str) -> String {
    format!("[[parent]]\nmatch = {{ host = [\"localhost\", \"127.0.0.1\"] }}\nproxy = {proxies:?}\n{more}\n\n")
}

/// Origins of http and https, and a gateway in front of both whose parents are these.
struct Scene {
    plain: Origin,
    secure: Origin,
    stage: Stage,
}

impl Scene {
    #[track_caller]
    fn new(proxies: &[String], password: bool) -> Scene {
        let before = Before::new();
        let secure = Origin::scripted_tls(before.authority.server_config(Fault::None), |request, link| {
            link.read_body();
            link.answer(200, &request.target)
        });
        let more = if password {
            certs::private(&before.dir.write("parent.password", "secret"));
            "user = \"ana\"\npassword_file = \"parent.password\""
        } else {
            ""
        };
        let plain = Origin::start();
        let stage = before.gateway(&(judged() + &parents(proxies, more)), &[secure.port()]);
        Scene { plain, secure, stage }
    }

    /// Status of one request; 0 if the caller's connection broke.
    fn ask(&self, secure: bool, path: &str) -> u16 {
        let answer = if secure {
            let to = format!("localhost:{}", self.secure.port());
            self.stage.opened(&to).send(get(&to, path)).try_answer("GET")
        } else {
            self.stage.gateway.caller().send(gateway::get(&self.plain.url(path))).try_answer("GET")
        };
        answer.map_or(0, |answer| answer.status)
    }

    /// Sends all requests of all callers; the number of answers with 200. `meanwhile` is told how many have come.
    fn load(self: &Arc<Scene>, meanwhile: impl FnOnce(&AtomicUsize)) -> usize {
        let (done, good) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let callers = (0..CALLERS).map(|caller| {
            let (scene, done, good) = (Arc::clone(self), Arc::clone(&done), Arc::clone(&good));
            thread(move || {
                for number in 0..EACH {
                    if scene.ask(caller % 2 == 0, &format!("/{caller}/{number}")) == 200 {
                        good.fetch_add(1, Ordering::SeqCst);
                    }
                    done.fetch_add(1, Ordering::SeqCst);
                }
            })
        });
        let callers: Vec<_> = callers.collect();
        meanwhile(&done);
        callers.into_iter().for_each(|caller| caller.join().expect("no caller panics"));
        good.load(Ordering::SeqCst)
    }

    /// Arrivals at both origins, which one window counts.
    fn stamps(&self) -> Vec<u64> {
        [self.plain.stamps(), self.secure.stamps()].concat()
    }
}

#[test]
fn limits_are_exact_at_the_origin_behind_a_squid_with_a_password() {
    let squid = Squid::start();
    let scene = Arc::new(Scene::new(&[squid.url()], true));
    assert_eq!(scene.load(|_| {}), CALLERS * EACH, "{}", scene.stage.gateway.stderr());
    assert_eq!((scene.plain.count(), scene.secure.count()), (CALLERS * EACH / 2, CALLERS * EACH / 2));
    one_window(LIMIT, PER, &scene.stamps());
    let seen = scene.plain.requests();
    assert!(seen.iter().all(|request| request.field("via").is_some_and(|via| via.contains("squid"))), "squid forwards");
    assert!(seen.iter().all(|request| request.field("proxy-authorization").is_none()));
}

#[test]
fn a_squid_that_gets_the_wrong_password_is_named() {
    let squid = Squid::start();
    let toml = UNLIMITED.to_owned() + &parents(&[squid.url()], "");
    let gateway = Gateway::start(&toml);
    let origin = Origin::start();
    let answer = gateway.get(&origin.url("/"));
    check_ours(&answer, 502, "proxy_configuration_error");
    assert!(answer.text().contains(&squid.url()), "{}", answer.text());
    assert_eq!(origin.count(), 0);
}

#[test]
fn limits_are_exact_at_the_origin_behind_another_gateway() {
    let before = Before::new();
    let secure = Origin::scripted_tls(before.authority.server_config(Fault::None), |request, link| {
        link.read_body();
        link.answer(200, &request.target)
    });
    let upper = Gateway::start(&format!("{UNLIMITED}[access]\nconnect_ports = [{}]\n\n", secure.port()));
    let plain = Origin::start();
    let toml = judged() + &parents(&[format!("http://{}", upper.addr)], "");
    let stage = before.gateway(&toml, &[secure.port()]);
    let scene = Arc::new(Scene { plain, secure, stage });
    assert_eq!(scene.load(|_| {}), CALLERS * EACH, "{}", scene.stage.gateway.stderr());
    assert_eq!((scene.plain.count(), scene.secure.count()), (CALLERS * EACH / 2, CALLERS * EACH / 2));
    one_window(LIMIT, PER, &scene.stamps());
    assert!(scene.plain.requests().iter().all(|request| request.all("via").count() == 2), "both gateways forward");
}

#[test]
fn a_parent_that_is_killed_under_load_is_replaced_and_the_limit_holds() {
    let (mut first, second) = (Squid::start(), Squid::start());
    let scene = Arc::new(Scene::new(&[first.url(), second.url()], true));
    let is_killed = AtomicBool::new(false);
    let good = scene.load(|done| {
        eventually("a part of the requests has been answered", || done.load(Ordering::SeqCst) >= CALLERS * EACH / 4);
        first.kill();
        is_killed.store(true, Ordering::SeqCst);
    });
    assert!(is_killed.load(Ordering::SeqCst));
    one_window(LIMIT, PER, &scene.stamps());
    let all = CALLERS * EACH;
    // Requests that the first had taken are lost with it, at most one of each caller.
    assert!(good >= all - CALLERS, "{good} of {all}");
    scene.stage.gateway.complains("a parent proxy fails");
    for secure in [false, true] {
        assert_eq!(scene.ask(secure, "/after"), 200);
    }
}
