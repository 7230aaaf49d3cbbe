//! Limits that several gateways count together in one store.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::admin::metrics;
use crate::support::held_answers::HeldAnswers;
use crate::support::judge::most_in;
use crate::support::store::Store;
use crate::support::*;

/// A limit that is counted in the store at `port`; `more` is further lines of it.
pub(crate) fn shared(port: u16, requests: u32, per: &str, more: &str) -> String {
    shared_at(&format!("redis://127.0.0.1:{port}"), "", requests, per, more)
}

/// As `shared`, with further lines of `[store]`.
pub(crate) fn shared_at(url: &str, store: &str, requests: u32, per: &str, more: &str) -> String {
    let limit = limit(requests, per, &format!("shared = true\n{more}"));
    format!("{limit}[store]\nurl = \"{url}\"\n{store}\n")
}

/// Callers at several gateways, who ask again as soon as they are answered.
pub(crate) struct Fleet {
    pub(crate) origin: Origin,
    pub(crate) gateways: Vec<Gateway>,
    answers: Arc<HeldAnswers>,
    over: AtomicBool,
}

impl Fleet {
    #[track_caller]
    pub(crate) fn start(tomls: impl IntoIterator<Item = String>) -> Fleet {
        let gateways = tomls.into_iter().map(|toml| Gateway::start(&toml)).collect();
        let answers = Arc::<HeldAnswers>::default();
        let held = Arc::clone(&answers);
        let origin = Origin::scripted(move |request, link| {
            link.read_body();
            held.wait(&request.target);
            link.answer(200, &request.target)
        });
        Fleet { origin, gateways, answers, over: AtomicBool::new(false) }
    }

    /// So many callers at each gateway ask while `story` is told. Returns how many were answered with 200, by gateway.
    pub(crate) fn during(&self, callers: usize, story: impl FnOnce()) -> Vec<usize> {
        self.over.store(false, Ordering::SeqCst);
        let answered: Vec<AtomicUsize> = self.gateways.iter().map(|_| AtomicUsize::new(0)).collect();
        std::thread::scope(|scope| {
            for (number, gateway) in self.gateways.iter().enumerate() {
                for _ in 0..callers {
                    let (answered, addr) = (&answered[number], gateway.addr);
                    let small = std::thread::Builder::new().stack_size(512 << 10);
                    let ask = move || self.ask(number, addr, answered);
                    small.spawn_scoped(scope, ask).expect("a thread can be started");
                }
            }
            // Also if the story fails, or its callers would go on for ever.
            let _over = Over(&self.over);
            story();
        });
        answered.into_iter().map(AtomicUsize::into_inner).collect()
    }

    fn ask(&self, number: usize, addr: std::net::SocketAddr, answered: &AtomicUsize) {
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\n\r\n",
            self.origin.url(&format!("/{number}")),
            self.origin.authority()
        );
        while !self.over.load(Ordering::SeqCst) {
            let Ok(tcp) = std::net::TcpStream::connect(addr) else {
                std::thread::sleep(Duration::from_millis(5));
                continue;
            };
            let mut stream = stream::Stream::plain(tcp);
            while !self.over.load(Ordering::SeqCst) && stream.send(request.as_bytes()).is_ok() {
                match Answer::read(&mut stream, "GET", Instant::now() + PATIENCE) {
                    Ok(answer) if answer.status == 200 => drop(answered.fetch_add(1, Ordering::SeqCst)),
                    // Refused for now: that would be a busy loop.
                    Ok(_) => std::thread::sleep(Duration::from_millis(2)),
                    Err(_) => break,
                }
            }
        }
    }

    /// Waits until so many more have come to the origin by each of these gateways, however long a busy machine takes.
    #[track_caller]
    pub(crate) fn each_sends(&self, gateways: &[usize], more: usize) {
        let before = self.by_gateway();
        eventually(&format!("{more} more come by each of the gateways {gateways:?}"), || {
            let now = self.by_gateway();
            gateways.iter().all(|&number| now[number] >= before[number] + more)
        });
    }

    /// Waits until so many requests of these gateways are with the origin at one time. All answers are held back meanwhile, so
    /// that no slow machine answers some before others come. The gateways need more callers than that.
    #[track_caller]
    pub(crate) fn have_under_way(&self, gateways: &[usize], count: usize) {
        let paths: Vec<String> = gateways.iter().map(|number| format!("/{number}")).collect();
        let _until_dropped = self.answers.hold();
        eventually(&format!("{count} by the gateways {gateways:?} are under way"), || {
            self.answers.under_way(&paths) >= count
        });
    }

    /// How many came to the origin by each gateway.
    pub(crate) fn by_gateway(&self) -> Vec<usize> {
        (0..self.gateways.len()).map(|number| self.stamps_by(&[number]).len()).collect()
    }

    /// When each arrived at the origin that came by one of these gateways.
    pub(crate) fn stamps_by(&self, gateways: &[usize]) -> Vec<u64> {
        let paths: Vec<String> = gateways.iter().map(|number| format!("/{number}")).collect();
        self.origin.stamps_of(|target| paths.iter().any(|path| path == target))
    }

    /// Waits until one of its gateways has said so, from the start or `after` so many bytes.
    #[track_caller]
    pub(crate) fn said(&self, gateway: usize, text: &str) {
        eventually(&format!("gateway {gateway} says {text:?}"), || self.gateways[gateway].stderr().contains(text));
    }
}

impl Fleet {
    /// Waits until a gateway has said that it is granted nothing because its file says something else. That is the later one,
    /// unless the machine is so busy that the store takes the earlier one for gone.
    #[track_caller]
    fn one_is_shut_out_for(&self, cause: &str) {
        let said = |gateway: &Gateway| {
            let said = gateway.stderr();
            said.lines().any(|line| {
                line.contains("incompatible configuration of a shared limit")
                    && line.contains(&format!("of=\"{cause}\""))
            })
        };
        eventually("one is granted nothing, and says so", || {
            for gateway in &self.gateways {
                gateway.get(&self.origin.url("/"));
            }
            self.gateways.iter().any(said)
        });
    }
}

/// Ends the asking when it is dropped.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

pub(crate) fn rest(millis: u64) {
    std::thread::sleep(Duration::from_millis(millis));
}

#[test]
fn three_gateways_and_150_callers_keep_one_limit_use_it_up_and_share_it_fairly() {
    let store = Store::start();
    let rules = shared(store.port, 40, "250ms", "counts = \"answered\"");
    let fleet = Fleet::start((0..3).map(|_| rules.clone()));
    // Some twenty spans; how fast they follow each other on this machine is for the benches to say.
    let answered = fleet.during(50, || {
        fleet.each_sends(&[0, 1, 2], 270);
        // The whole limit is there to be used.
        fleet.have_under_way(&[0, 1, 2], 40);
    });
    one_window(40, Duration::from_millis(250), &fleet.origin.stamps());
    let fair = answered.iter().sum::<usize>() / 3;
    assert!(answered.iter().all(|part| part * 10 >= fair * 6), "{answered:?}: not fair");
}

#[test]
fn a_lone_request_after_nine_tenths_of_the_time_does_not_let_twice_as_many_go() {
    let store = Store::start();
    let rules = shared(store.port, 10, "500ms", "counts = \"answered\"");
    let fleet = Fleet::start([rules.clone(), rules]);
    eventually("the windows are open", || fleet.gateways[0].get(&fleet.origin.url("/lone")).status == 200);
    rest(450);
    fleet.during(20, || fleet.each_sends(&[0, 1], 15));
    one_window(10, Duration::from_millis(500), &fleet.origin.stamps());
}

#[test]
fn each_key_has_one_window_whichever_gateway_is_asked() {
    let store = Store::start();
    let rules = shared(store.port, 2, "1h", "key = [\"header:x-key\", \"caller\"]\nwhen_full = \"refuse\"")
        + "if_store_is_empty = \"trust\"\n";
    let fleet = Fleet::start([rules.clone(), rules]);
    let ask = |gateway: usize, key: &str| {
        let (url, host) = (fleet.origin.url("/"), fleet.origin.authority());
        let request = format!("GET {url} HTTP/1.1\r\nHost: {host}\r\nX-Key: {key}\r\nConnection: close\r\n\r\n");
        fleet.gateways[gateway].exchange(request).status
    };
    assert_eq!([ask(0, "a"), ask(1, "a"), ask(0, "a"), ask(1, "a")], [200, 200, 429, 429]);
    assert_eq!([ask(1, "b"), ask(1, "b"), ask(0, "b")], [200, 200, 429]);
}

#[test]
fn two_limits_are_taken_together_or_not_at_all() {
    let store = Store::start();
    let narrow = "[[limit]]\nname = \"narrow\"\nmatch = { path = \"/both\" }\nrequests = 1\nper = \"1h\"\n\
                  when_full = \"refuse\"\nshared = true\n\n";
    let rules =
        format!("{narrow}{}if_store_is_empty = \"trust\"\n", shared(store.port, 3, "1h", "when_full = \"refuse\""));
    let fleet = Fleet::start([rules.clone(), rules]);
    let ask = |gateway: usize, path: &str| fleet.gateways[gateway].get(&fleet.origin.url(path)).status;
    assert_eq!(ask(0, "/both"), 200);
    // Refused by the one, it takes nothing of the other.
    assert_eq!([ask(1, "/both"), ask(0, "/both"), ask(1, "/both")], [429, 429, 429]);
    assert_eq!([ask(1, "/"), ask(0, "/"), ask(1, "/")], [200, 200, 429]);
}

#[test]
fn a_cap_on_requests_under_way_holds_over_all_gateways_and_ends_with_who_dies() {
    let store = Store::start();
    let origin = Origin::scripted(|request, link| {
        if request.target.ends_with("/slow") {
            link.wait_for_close();
            return Next::Close;
        }
        link.answer(200, "quick")
    });
    let rules = format!(
        "[[limit]]\nname = \"cap\"\nmatch = {{ host = \"127.0.0.1\" }}\nin_flight = 2\nwhen_full = \"refuse\"\nshared = true\n\n\
         [store]\nurl = \"redis://127.0.0.1:{}\"\nif_store_is_empty = \"trust\"\n",
        store.port
    );
    let mut gateways = [Gateway::start(&rules), Gateway::start(&rules)];
    let mut slow: Vec<Caller> = Vec::new();
    for number in 0..2 {
        let mut caller = gateways[0].caller();
        caller.send(gateway::get(&origin.url("/slow")));
        slow.push(caller);
        eventually("it is under way", || origin.count() == number + 1);
    }
    assert_eq!(gateways[1].get(&origin.url("/")).status, 429);
    drop(slow.pop());
    eventually("its place is free", || gateways[1].get(&origin.url("/")).status == 200);
    gateways[0].signal(Signal::KILL);
    gateways[0].ended();
    let mut waiting = gateways[1].caller();
    waiting.send(gateway::get(&origin.url("/slow")));
    eventually("what the dead one held is free", || gateways[1].get(&origin.url("/")).status == 200);
}

#[test]
fn an_origin_that_pushes_back_pauses_all_gateways() {
    let store = Store::start();
    let origin = Origin::scripted(|request, link| {
        let status = if request.target.ends_with("/first") { "429 No\r\nRetry-After: 30" } else { "200 Yes" };
        link.send(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n"));
        Next::Keep
    });
    let rules = shared(store.port, 100, "1s", "when_full = \"refuse\"");
    let gateways = [Gateway::start(&rules), Gateway::start(&rules)];
    eventually("it is open", || gateways[1].get(&origin.url("/")).status == 200);
    assert_eq!(gateways[0].get(&origin.url("/first")).status, 429);
    eventually("the other one refuses too", || {
        let answer = gateways[1].get(&origin.url("/"));
        answer.status == 429 && answer.field("retry-after").is_some_and(|after| after.parse::<u64>().unwrap() > 20)
    });
}

#[test]
fn where_gateways_say_different_things_the_strictest_holds() {
    let store = Store::start();
    let admin = free_port();
    let rules = shared(store.port, 50, "200ms", "counts = \"answered\"");
    let fleet = Fleet::start([
        format!("{rules}[admin]\nlisten = \"127.0.0.1:{admin}\"\n"),
        shared(store.port, 5, "400ms", "counts = \"answered\""),
    ]);
    let mut known = 0;
    fleet.during(10, || {
        fleet.said(0, "different configurations of a shared limit");
        known = clock::now();
        fleet.each_sends(&[0, 1], 10);
    });
    let said = fleet.gateways[0].stderr();
    assert_eq!(said.matches("different configurations of a shared limit").count(), 1, "{said}");
    assert!(said.contains("of=\"requests, per or guard\""), "{said}");
    let counted = "lockgate_limit_config_mismatches_total{limit=\"the-limit\"}";
    assert!(metrics(([127, 0, 0, 1], admin).into())[counted] > 0.0);
    let stamps = fleet.origin.stamps();
    // Before both were heard of, the one of 50 may have been alone; what it was granted then leaves in less than a second.
    let both = stamps.iter().copied().filter(|at| *at > known + 700_000_000).collect::<Vec<u64>>();
    assert!(both.len() > 5, "{}", both.len());
    one_window(5, Duration::from_millis(400), &both);
}

#[test]
fn of_gateways_whose_zones_differ_the_later_one_is_granted_nothing_and_says_so() {
    let store = Store::start();
    let rules = |zone: &str| {
        let more = format!("window = \"calendar\"\nzone = \"{zone}\"\nwhen_full = \"refuse\"");
        shared(store.port, 3, "1d", &more) + "if_store_is_empty = \"trust\"\n"
    };
    let fleet = Fleet::start([rules("Asia/Kolkata"), rules("UTC")]);
    let went =
        |gateway: usize| (0..4).filter(|_| fleet.gateways[gateway].get(&fleet.origin.url("/")).status == 200).count();
    assert_eq!([went(0), went(1), went(0)], [3, 0, 0]);
    fleet.one_is_shut_out_for("zone or per");
}

#[test]
fn of_gateways_that_tell_keys_apart_otherwise_the_later_one_is_granted_nothing_and_says_so() {
    let store = Store::start();
    let rules = |key: &str| {
        shared(store.port, 3, "1h", &format!("key = [\"{key}\"]\nwhen_full = \"refuse\""))
            + "if_store_is_empty = \"trust\"\n"
    };
    let fleet = Fleet::start([rules("host"), rules("caller")]);
    let went =
        |gateway: usize| (0..4).filter(|_| fleet.gateways[gateway].get(&fleet.origin.url("/")).status == 200).count();
    assert_eq!([went(0), went(1)], [3, 0]);
    fleet.one_is_shut_out_for("key");
}

#[test]
fn a_process_that_takes_over_goes_on_in_the_same_windows() {
    let store = Store::start();
    let rules = shared(store.port, 20, "200ms", "counts = \"answered\"");
    let fleet = Fleet::start([rules.clone(), rules]);
    fleet.during(15, || {
        for _ in 0..times(3, 10) {
            fleet.each_sends(&[0, 1], 10);
            fleet.gateways[0].hand_over();
        }
        fleet.each_sends(&[0, 1], 10);
    });
    one_window(20, Duration::from_millis(200), &fleet.origin.stamps());
}

#[test]
fn other_kinds_of_windows_are_shared_too() {
    let store = Store::start();
    for (name, window, requests, per) in [
        ("smooth", "smooth\"\nburst = \"2", 20, "400ms"),
        ("fixed", "fixed", 20, "400ms"),
        ("calendar", "calendar", 60, "1m"),
    ] {
        let burst = window.replace("\"2", "2");
        let window =
            burst.strip_suffix("= 2").map_or(format!("window = \"{burst}\""), |_| format!("window = \"{burst}"));
        let limit =
            limit(requests, per, &format!("{window}\nshared = true\nmax_wait = \"5s\"")).replace("the-limit", name);
        let rules =
            format!("{limit}[store]\nurl = \"redis://127.0.0.1:{}\"\nif_store_is_empty = \"trust\"\n", store.port);
        let fleet = Fleet::start([rules.clone(), rules]);
        fleet.during(10, || eventually("60 have gone", || fleet.origin.count() >= 60));
        let stamps = fleet.origin.stamps();
        let most = match name {
            // What was granted may leave a little late, so that the next is nearer: never more than N in T plus that.
            "smooth" => 21,
            "fixed" => 40,
            // Across the minute's end there may be twice as many.
            _ => 120,
        };
        let span = if name == "calendar" { Duration::from_secs(60) } else { Duration::from_millis(400) };
        assert!(most_in(span, &stamps) <= most, "{name}: {} in one span", most_in(span, &stamps));
    }
}
