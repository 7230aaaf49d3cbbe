//! Another process takes the place of the one that runs: no request fails, no slot counts twice.

use std::io::{Read, Write};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use rustix::process::{Signal, kill_process, test_kill_process};

use crate::admin::{queued, watched};
use crate::support::gateway::{Dir, PROGRAM};
use crate::support::*;
use crate::tuning::tune;

fn get(origin: &Origin, path: &str) -> String {
    format!("GET {} HTTP/1.1\r\nHost: {}\r\n\r\n", origin.url(path), origin.authority())
}

/// It says this, or will.
#[track_caller]
fn says(gateway: &Gateway, text: &str) {
    gateway.complains(text);
}

/// One caller that asks as fast as it is answered, on kept connections as long as they are kept; how often it was served.
#[track_caller]
fn ask_until(over: &AtomicBool, gateway: &Gateway, origin: &Origin) -> usize {
    let request = get(origin, "/");
    let mut served = 0;
    while !over.load(Ordering::SeqCst) {
        let mut caller = gateway.caller();
        while !over.load(Ordering::SeqCst) {
            let answer = caller.send(&request).answer();
            assert_eq!(answer.status, 200, "{}", answer.raw);
            served += 1;
            if answer.says_close() {
                break;
            }
        }
    }
    served
}

#[test]
fn under_load_no_request_fails_and_the_limit_holds_through_every_hand_over() {
    let origin = Origin::start();
    let gateway = Gateway::start(&limit(20, "200ms", "max_wait = \"30s\"\ncounts = \"answered\""));
    let (over, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| served.fetch_add(ask_until(&over, &gateway, &origin), Ordering::SeqCst));
        }
        let goes_on = || {
            let before = origin.count();
            eventually("ten more arrive", || origin.count() >= before + 10);
        };
        for _ in 0..times(5, 20) {
            goes_on();
            gateway.hand_over();
        }
        goes_on();
        over.store(true, Ordering::SeqCst);
    });
    let (served, stamps) = (served.load(Ordering::SeqCst), origin.stamps());
    assert_eq!(stamps.len(), served);
    judge::one_window(20, Duration::from_millis(200), &stamps);
}

#[test]
fn keys_that_are_used_while_they_move_keep_their_counts_through_every_hand_over() {
    let origin = Origin::start();
    let (keys, slots) = (times(150, 400), 3);
    let rules = "when_full = \"refuse\"\nkey = [\"header:x-key\"]";
    let gateway = Gateway::start(&limit(slots, "1h", rules));
    let get = |key: usize| {
        format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nX-Key: {key}\r\n\r\n",
            origin.url(&format!("/{key}")),
            origin.authority()
        )
    };
    let over = AtomicBool::new(false);
    let served = std::thread::scope(|scope| {
        // Each caller begins at another key, so that all through the hand-overs some key is new, some is known and some full.
        let callers: Vec<_> = (0..4)
            .map(|number| {
                let (get, gateway, over) = (&get, &gateway, &over);
                scope.spawn(move || {
                    let (mut caller, mut served) = (gateway.caller(), 0);
                    for key in (0..keys).cycle().skip(number * keys / 4) {
                        let answer = caller.send(get(key)).answer();
                        assert!(matches!(answer.status, 200 | 429), "{}", answer.raw);
                        served += usize::from(answer.status == 200);
                        if answer.says_close() {
                            caller = gateway.caller();
                        }
                        if over.load(Ordering::SeqCst) {
                            break;
                        }
                    }
                    served
                })
            })
            .collect();
        for part in 1..4 {
            eventually("more keys are used", || origin.count() >= part * keys / 2);
            gateway.hand_over();
        }
        over.store(true, Ordering::SeqCst);
        callers.into_iter().map(|caller| caller.join().expect("each answer was as it should be")).sum::<usize>()
    });
    let mut counts = vec![0; keys];
    let mut count =
        |targets: &[String]| targets.iter().for_each(|target| counts[target[1..].parse::<usize>().unwrap()] += 1);
    let before = origin.targets();
    assert_eq!(before.len(), served);
    let mut caller = gateway.caller();
    for key in (0..keys).flat_map(|key| [key; 4]) {
        caller.send(get(key)).answer();
    }
    count(&origin.targets());
    assert_eq!(counts, vec![slots; keys], "no slot was lost, and none counted twice");
}

#[test]
fn those_in_line_keep_their_places_before_those_who_come_to_the_new_process() {
    let origin = Origin::start();
    let rules = |per: &str| limit(1, per, "max_wait = \"12h\"\nshare_by = \"none\"");
    let (gateway, admin) = watched(&rules("1h"), "");
    assert_eq!(gateway.get(&origin.url("/first")).status, 200);
    let mut waiters = Vec::new();
    for n in 0..2 {
        let mut caller = gateway.caller();
        caller.send(get(&origin, &format!("/{n}")));
        queued(admin, "the-limit", n + 1);
        waiters.push(caller);
    }
    gateway.hand_over();
    let mut caller = gateway.caller();
    caller.send(get(&origin, "/2"));
    queued(admin, "the-limit", 3);
    waiters.push(caller);
    tune(admin, "the-limit", "\"per\": \"500ms\"");
    for waiter in &mut waiters {
        assert_eq!(waiter.answer().status, 200);
    }
    assert_eq!(origin.targets(), ["/first", "/0", "/1", "/2"]);
    judge::one_window(1, Duration::from_millis(500), &origin.stamps());
}

#[test]
fn a_kept_connection_is_answered_once_more_and_the_old_process_ends_with_the_last() {
    let origin = Origin::start();
    let mut gateway = Gateway::start(&limit(3, "1h", "when_full = \"refuse\""));
    let mut kept = gateway.caller();
    assert_eq!(kept.send(get(&origin, "/1")).answer().status, 200);
    gateway.hand_over();
    assert_eq!(gateway.get(&origin.url("/2")).status, 200);
    kept.expect_silence(Duration::from_millis(100));
    let answer = kept.send(get(&origin, "/3")).answer();
    assert_eq!(answer.status, 200);
    assert!(answer.says_close(), "{}", answer.raw);
    kept.expect_end();
    assert!(gateway.ended().success());
    assert_eq!(gateway.get(&origin.url("/4")).status, 429, "all three were counted together");
    says(&gateway, "the old process has exited");
}

#[test]
fn a_tunnel_goes_on_and_its_end_is_heard_of() {
    let origin = Origin::scripted(|_, link| {
        link.echo();
        Next::Close
    });
    let one = "[[limit]]\nname = \"one\"\nmatch = { host = \"127.0.0.1\" }\nin_flight = 1\nmax_wait = \"1m\"\n";
    let mut gateway = Gateway::start(&format!("{one}[access]\nconnect_ports = [{}]\n", origin.port()));
    let connect = format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", origin.authority());
    let mut tunnel = gateway.caller();
    assert_eq!(tunnel.send(&connect).answer_to("CONNECT").status, 200);
    gateway.hand_over();
    let mut waits = gateway.caller();
    waits.send(&connect).expect_silence(Duration::from_millis(100));
    tunnel.send("SAY / ECHO/1.1\r\n\r\n").send("more");
    let bytes = tunnel.bytes(4);
    assert_eq!(bytes, b"more", "it is still a tunnel");
    tunnel.hang_up();
    assert_eq!(waits.answer_to("CONNECT").status, 200);
    assert!(gateway.ended().success());
}

#[test]
fn http2_callers_are_told_to_come_again_and_lose_nothing() {
    let origin = Origin::start();
    let gateway = Gateway::start(&limit(1, "700ms", "max_wait = \"1m\""));
    let caller = Caller2::plain(gateway.addr);
    let calls: Vec<_> = (0..3).map(|n| caller.start(caller2::get(&origin.url(&format!("/{n}"))), More::None)).collect();
    eventually("the first", || origin.count() == 1);
    gateway.hand_over();
    for call in calls {
        assert_eq!(call.answer().status, 200);
    }
    assert!(caller.ended().is_ok(), "its connection has ended in order");
    judge::one_window(1, Duration::from_millis(700), &origin.stamps());
}

#[test]
fn who_cannot_take_over_leaves_everything_as_it_was_and_says_why() {
    let origin = Origin::start();
    let gateway = Gateway::start(&limit(2, "1h", "when_full = \"refuse\""));
    assert_eq!(gateway.get(&origin.url("/1")).status, 200);
    let whole = std::fs::read_to_string(gateway.dir.path().join("proxy.toml")).unwrap();
    gateway.dir.write("proxy.toml", "[[limit]]\nrequests = 5\n");
    gateway.signal(Signal::USR2);
    says(&gateway, "not handed over, nothing has changed: the file cannot be read");
    gateway.complains("proxy.toml:2:12");
    // What only a new process takes up, and this one cannot.
    gateway.dir.write("proxy.toml", &format!("{whole}\n[state]\ndir = \"/proc/state\"\n"));
    gateway.signal(Signal::USR2);
    says(&gateway, "not handed over, nothing has changed: the other process ended or did not answer");
    says(&gateway, "the state folder /proc/state cannot be used");
    gateway.dir.write("proxy.toml", &whole);
    assert_eq!(gateway.get(&origin.url("/2")).status, 200);
    gateway.hand_over();
    assert_eq!(gateway.get(&origin.url("/3")).status, 429);
    let taken = Command::new(PROGRAM).args(["run", "--take-over"]).current_dir(gateway.dir.path()).output().unwrap();
    let told = String::from_utf8_lossy(&taken.stderr).into_owned();
    assert!(!taken.status.success() && told.contains("there is no process to take over from"), "{told}");
}

#[test]
fn when_the_new_process_dies_the_old_one_refuses_and_the_next_start_knows_what_was_counted() {
    let origin = Origin::start();
    let (mut gateway, admin) = watched(&limit(2, "1h", "max_wait = \"2h\""), "");
    assert_eq!(gateway.get(&origin.url("/1")).status, 200);
    let mut kept = gateway.caller();
    kept.send(get(&origin, "/2")).answer();
    gateway.hand_over();
    let mut waits = gateway.caller();
    waits.send(get(&origin, "/4"));
    queued(admin, "the-limit", 1);
    kept.send(get(&origin, "/3"));
    queued(admin, "the-limit", 2);
    kill_process(gateway.serving(), Signal::KILL).unwrap();
    assert_eq!(kept.answer().status, 503);
    assert!(gateway.ended().success(), "{}", gateway.stderr());
    let again = gateway.again();
    let mut waits = again.caller();
    waits.send(get(&origin, "/5")).expect_silence(Duration::from_millis(100));
}

#[test]
fn a_successor_that_is_stopped_and_started_counts_on() {
    let origin = Origin::start();
    let mut gateway = Gateway::start(&limit(3, "1h", "when_full = \"refuse\""));
    assert_eq!(gateway.get(&origin.url("/1")).status, 200);
    gateway.hand_over();
    assert_eq!(gateway.get(&origin.url("/2")).status, 200);
    assert!(gateway.ended().success());
    let successor = gateway.serving();
    kill_process(successor, Signal::TERM).unwrap();
    eventually("the end of it", || test_kill_process(successor).is_err());
    let again = gateway.again();
    let statuses: Vec<u16> = (3..5).map(|n| again.get(&origin.url(&format!("/{n}"))).status).collect();
    assert_eq!(statuses, [200, 429]);
}

/// Runs a command with a listening socket of its own as descriptor 3, as systemd does.
const ACTIVATE: &str = "
import os, socket, sys
listener = socket.create_server(('127.0.0.1', int(sys.argv[1])))
os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
";

#[test]
fn a_socket_of_systemds_is_used_and_handed_on() {
    let origin = Origin::start();
    let (dir, port) = (Dir::new(), free_port());
    dir.write("proxy.toml", &format!("[listen]\nproxy = \"127.0.0.1:{port}\"\n\n{UNLIMITED}"));
    let mut python = Command::new("python3");
    python.args(["-c", ACTIVATE, &port.to_string(), PROGRAM, "run", "-c", "proxy.toml"]);
    let gateway = Gateway::start_by(&mut python, Arc::new(dir));
    assert_eq!(gateway.addr.port(), port);
    assert_eq!(gateway.get(&origin.url("/1")).status, 200);
    let sockets = || std::fs::read_dir(format!("/proc/{}/fd", gateway.serving().as_raw_nonzero())).unwrap().count();
    let before = sockets();
    gateway.hand_over();
    assert_eq!(gateway.get(&origin.url("/2")).status, 200);
    eventually("no more descriptors than before", || sockets() <= before + 2);
}

#[test]
fn bytes_that_are_under_way_arrive_whole_through_a_hand_over() {
    let origin = Origin::scripted(|_, link| {
        link.send("HTTP/1.1 200 OK\r\nContent-Length: 400000\r\n\r\n");
        for _ in 0..40 {
            link.send([b'x'; 10_000]);
            std::thread::sleep(Duration::from_millis(10));
        }
        Next::Keep
    });
    let gateway = Gateway::start(UNLIMITED);
    let mut stream = std::net::TcpStream::connect(gateway.addr).unwrap();
    stream.write_all(get(&origin, "/").replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n").as_bytes()).unwrap();
    eventually("its beginning", || origin.count() == 1);
    gateway.hand_over();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    assert_eq!(all.iter().filter(|byte| **byte == b'x').count(), 400_000);
}

#[test]
fn a_request_that_was_sent_ahead_is_answered_by_the_old_process() {
    let (go, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let origin = Origin::scripted(move |request, link| {
        if request.target != "/slow" {
            return link.answer(200, "second");
        }
        link.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345");
        wait.lock().unwrap().recv_timeout(PATIENCE).ok();
        link.send("67890");
        Next::Keep
    });
    let gateway = Gateway::start(UNLIMITED);
    let mut kept = gateway.caller();
    kept.send(format!("{}{}", get(&origin, "/slow"), get(&origin, "/second")));
    assert!(kept.head().starts_with("HTTP/1.1 200"), "its head has left, and says that the connection is kept");
    gateway.hand_over();
    go.send(()).unwrap();
    assert_eq!(kept.bytes(10), b"1234567890");
    let answer = kept.answer();
    assert_eq!((answer.status, answer.says_close()), (200, true), "{}", answer.raw);
}

#[test]
fn a_limit_that_is_new_holds_for_those_of_the_old_process_too() {
    let origin = Origin::start();
    let gateway = Gateway::start(UNLIMITED);
    let mut kept = gateway.caller();
    assert_eq!(kept.send(get(&origin, "/0")).answer().status, 200);
    let listen = "[listen]\nproxy = \"127.0.0.1:0\"\n\n";
    gateway.dir.write("proxy.toml", &format!("{listen}{}", limit(1, "1h", "when_full = \"refuse\"")));
    gateway.hand_over();
    assert_eq!(gateway.get(&origin.url("/1")).status, 200);
    assert_eq!(kept.send(get(&origin, "/2")).answer().status, 429);
}

#[test]
fn when_the_new_process_dies_the_old_one_does_not_stay_for_long() {
    let origin = Origin::start();
    let mut gateway = Gateway::start(UNLIMITED);
    let mut kept = gateway.caller();
    assert_eq!(kept.send(get(&origin, "/1")).answer().status, 200);
    gateway.hand_over();
    kill_process(gateway.serving(), Signal::KILL).unwrap();
    assert!(gateway.ended().success(), "whoever watches over it can start anew");
    kept.expect_end();
}

#[test]
fn a_gateway_without_a_state_folder_is_handed_over_without_one() {
    let origin = Origin::start();
    let dir = Dir::new();
    dir.write("file", "");
    let state = "[state]\ndir = \"file/state\"\nafter_crash = \"forget\"\n";
    let gateway = Gateway::start_in(dir, &format!("{state}{}", limit(2, "1h", "when_full = \"refuse\"")));
    assert_eq!(gateway.get(&origin.url("/1")).status, 200);
    gateway.hand_over();
    let statuses: Vec<u16> = (2..4).map(|n| gateway.get(&origin.url(&format!("/{n}"))).status).collect();
    assert_eq!(statuses, [200, 429]);
}

#[test]
fn an_end_that_is_asked_for_during_a_hand_over_is_the_end_of_both() {
    let origin = Origin::scripted(|_, link| {
        std::thread::sleep(Duration::from_millis(1000));
        link.answer(200, "late")
    });
    let mut gateway = Gateway::start(UNLIMITED);
    let mut running = gateway.caller();
    running.send(get(&origin, "/"));
    eventually("it is under way", || origin.count() == 1);
    gateway.signal(Signal::USR2);
    says(&gateway, "handing over process=");
    gateway.signal(Signal::TERM);
    assert_eq!(running.answer().status, 200);
    assert!(gateway.ended().success());
    eventually("the end of the new process", || std::net::TcpStream::connect(gateway.addr).is_err());
}
