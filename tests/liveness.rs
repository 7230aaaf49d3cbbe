//! Connections to origins that are dead or dying: no new request is sent on them, and none is lost by them.

use std::io::Read;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use rustls::{ServerConfig, ServerConnection};

use crate::support::answer2::send;
use crate::support::caller2::{self, Call};
use crate::support::certs::Fault;
use crate::support::frames::{ACK, DATA, END_STREAM, Frame, Frames, GOAWAY, HEADERS, PING, WINDOW_UPDATE};
use crate::support::origin2::runtime;
use crate::support::stage::{self, Before, by_hand, counted};
use crate::support::store::Store;
use crate::support::*;

/// An origin's side that has room for any content, but little in the kernel, so that it is soon full.
fn roomy(frames: &mut Frames<'_>) {
    socket2::SockRef::from(frames.tcp()).set_recv_buffer_size(64 << 10).unwrap();
    frames.send(&Frame::setting(4, 0x7fff_ffff));
    frames.send(&Frame::new(WINDOW_UPDATE, 0, 0, 0x7fff_0000_u32.to_be_bytes()));
}

/// A POST whose content fills everything that lies between, because its origin reads nothing of it.
fn stuck_upload(caller: &Caller2, url: &str) -> Call {
    let port = url.split([':', '/']).nth(4).and_then(|port| port.parse().ok()).expect("a URL with a port");
    let mut upload = caller.start(Request::post(url).body(()).unwrap(), More::Follows);
    let part = Bytes::from(vec![0; 256 << 10]);
    let mut queued = None;
    eventually("nothing goes on any more", || {
        let more = send(&mut upload.send, part.clone());
        let more = runtime().block_on(async { tokio::time::timeout(Duration::from_millis(250), more).await });
        if more.is_ok_and(|sent| sent.map_err(|error| panic!("the upload ended: {error}")).is_ok()) {
            return false;
        }
        // A slow machine stands still for as long as that, too: so the kernel must say twice that as much waits to be sent.
        let before = std::mem::replace(&mut queued, stuck_bytes(port));
        queued.is_some() && queued == before
    });
    upload
}

/// Number of bytes that were written for a port of this machine, and for which it has no room. (What it has room for arrives at
/// once, however slow the processes are.)
fn stuck_bytes(port: u16) -> Option<u64> {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux tells its connections");
    table.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let is_one = words.len() > 9 && words[2].ends_with(&format!(":{port:04X}"));
        let queued = if is_one { u64::from_str_radix(words[4].split(':').next()?, 16).ok()? } else { 0 };
        (queued > 0).then_some(queued)
    })
}

/// What a script waits for.
fn signal() -> (mpsc::Sender<()>, Arc<Mutex<mpsc::Receiver<()>>>) {
    let (give, take) = mpsc::channel();
    (give, Arc::new(Mutex::new(take)))
}

#[test]
fn a_connection_that_cannot_even_say_goodbye_takes_no_more_requests_and_no_thread() {
    let (break_it, broken) = signal();
    let (over, ended) = signal();
    let (stage, origin) = by_hand(UNLIMITED, move |connection, mut frames| {
        roomy(&mut frames);
        while let Ok(head) = frames.next_of(HEADERS) {
            if connection > 0 || head.stream == 1 {
                frames.send(&Frame::fine(head.stream));
                continue;
            }
            broken.lock().unwrap().recv().ok();
            // No room at all for the connection: an error (RFC 9113 §6.9) that the gateway cannot tell, because nothing is
            // read here.
            frames.send(&Frame::new(WINDOW_UPDATE, 0, 0, 0_u32.to_be_bytes()));
            ended.lock().unwrap().recv().ok();
            return;
        }
    });
    let to = format!("localhost:{}", origin.port());
    let url = |path: &str| format!("https://{to}{path}");
    let caller = stage.opened2(&to);
    assert_eq!(caller.get(&url("/first")).status, 200);
    let upload = stuck_upload(&caller, &url("/upload"));
    break_it.send(()).unwrap();
    assert!(upload.try_answer().is_ok_and(|answer| answer.status == 502));
    for n in 0..4 {
        assert_eq!(stage.opened2(&to).get(&url(&format!("/{n}"))).status, 200);
        assert_eq!(caller.get(&url(&format!("/{n}"))).status, 200);
    }
    eventually("the gateway lets go of the broken one", || sockets_to(origin.port()) == origin.connections() - 1);
    drop(over);
}

#[test]
fn an_origin_that_uses_up_the_stream_identifiers_of_its_connection_is_dialled_again() {
    let (stage, origin) = by_hand(UNLIMITED, |_, mut frames| {
        while let Ok(head) = frames.next_of(HEADERS) {
            // A broken answer to what was never asked: the gateway resets that stream, and counts on behind it.
            let broken = Frame::headers(0x7fff_ffff, 0, &[(":status", "200"), ("connection", "close")]);
            frames.send_all(&[broken, Frame::fine(head.stream)]);
        }
    });
    let to = format!("localhost:{}", origin.port());
    let caller = stage.opened2(&to);
    for n in 0..3 {
        assert_eq!(caller.get(&format!("https://{to}/{n}")).status, 200);
    }
    assert_eq!(origin.connections(), 3);
}

/// How many sockets of a process are connected to a port of this machine. Those that have been closed and that the kernel
/// still sees to the end are of no process, and have no inode.
fn sockets_to(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux tells its connections");
    let is_one = |line: &&str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.len() > 9 && words[2].ends_with(&format!(":{port:04X}")) && words[9] != "0"
    };
    table.lines().filter(is_one).count()
}

/// An origin that has room for any content, reads nothing of the first upload until it is told to, and then answers all else.
/// Returns it, what lets it read on, and when its requests came.
fn stuck_origin(before: &Before) -> (Origin, mpsc::Sender<()>, Arc<Mutex<Vec<u64>>>) {
    let (go_on, goes_on) = signal();
    let arrived: Arc<Mutex<Vec<u64>>> = Arc::default();
    let told = Arc::clone(&arrived);
    let origin = before.origin_by_hand(move |_, mut frames| {
        roomy(&mut frames);
        while let Ok(head) = frames.next_of(HEADERS) {
            told.lock().unwrap().push(clock::now());
            if head.flags & END_STREAM == 0 {
                goes_on.lock().unwrap().recv().ok();
            } else {
                frames.send(&Frame::fine(head.stream));
            }
        }
    });
    (origin, go_on, arrived)
}

/// Waits for what may happen.
fn given_time(time: Duration, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + time;
    while Instant::now() < end && !holds() {
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_permit_whose_request_still_waits_in_a_connection_is_not_given_back_when_it_is_late() {
    let (store, before) = (Store::start(), Before::new());
    let (origin, go_on, arrived) = stuck_origin(&before);
    let limit = counted(3, "1h", "shared = true\nwhen_full = \"refuse\"");
    let store = format!("[store]\nurl = \"redis://127.0.0.1:{}\"\nif_store_is_empty = \"trust\"\n\n", store.port);
    // A timer that was set for a handshake rings while the request waits, and makes its task look.
    let toml = format!("{limit}{store}[timeouts]\nhead = \"2s\"\n\n");
    let stage = before.gateway_on_one_core(&toml, &[origin.port()]);
    let to = format!("localhost:{}", origin.port());
    let caller = stage.opened2(&to);
    let upload = stuck_upload(&caller, &format!("https://{to}/upload"));
    let mut second = stage.opened(&to);
    second.send(stage::get(&to, "/second"));
    given_time(Duration::from_secs(3), || origin.connections() > 1);
    go_on.send(()).unwrap();
    assert_eq!(second.answer().status, 200);
    let mut third = stage.opened(&to);
    let statuses = [0; 3].map(|_| third.send(stage::get(&to, "/third")).answer().status);
    assert_eq!(statuses, [200, 429, 429]);
    assert_eq!(arrived.lock().unwrap().len(), 3, "as many as the limit lets through");
    upload.cancel();
}

#[test]
fn a_request_that_was_given_up_counts_from_when_its_head_leaves() {
    let (before, other) = (Before::new(), Origin::start());
    let (origin, go_on, arrived) = stuck_origin(&before);
    let limit = "[[limit]]\nname = \"the-limit\"\nmatch = { host = [\"localhost\"], path = \"/counted\" }\n\
                 requests = 1\nper = \"2s\"\n\n[timeouts]\nanswer = \"2s\"\n\n";
    let stage = before.gateway_on_one_core(limit, &[origin.port()]);
    let to = format!("localhost:{}", origin.port());
    let caller = stage.opened2(&to);
    let upload = stuck_upload(&caller, &format!("https://{to}/upload"));
    check_ours(&caller.get(&format!("https://{to}/counted")), 504, "http_response_timeout");
    let mut second = stage.gateway.caller();
    second.send(format!("GET http://localhost:{}/counted HTTP/1.1\r\nHost: a\r\n\r\n", other.port()));
    given_time(Duration::from_secs(4), || other.count() > 0);
    let released = clock::now();
    go_on.send(()).unwrap();
    assert_eq!(second.answer().status, 200);
    given_time(Duration::from_secs(1), || arrived.lock().unwrap().len() == 2);
    // On a very busy machine the connection is given up before its origin reads on, and the first never arrives.
    if arrived.lock().unwrap().len() == 2 {
        let after = Duration::from_nanos(other.stamps()[0].saturating_sub(released));
        assert!(after >= Duration::from_secs(2), "{after:?} after the first could leave, where 2 s are between two");
    }
    upload.cancel();
}

/// An origin whose handshake takes longer than a shared permit is good for, and that hangs up with its last byte. Returns
/// its port.
fn slow_and_fickle(config: Arc<ServerConfig>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port is free");
    let port = listener.local_addr().expect("a bound socket has an address").port();
    let shake = move |mut tcp: TcpStream| {
        std::thread::sleep(Duration::from_millis(300));
        let mut session = ServerConnection::new(Arc::clone(&config)).expect("a session can start");
        while !session.wants_write() {
            session.read_tls(&mut tcp)?;
            session.process_new_packets().map_err(std::io::Error::other)?;
        }
        // The last byte and the end leave in one segment: the gateway sees both, or neither.
        socket2::SockRef::from(&tcp).set_tcp_cork(true)?;
        while session.wants_write() {
            session.write_tls(&mut tcp)?;
        }
        tcp.shutdown(Shutdown::Write)?;
        tcp.read_to_end(&mut Vec::new())
    };
    let shake = Arc::new(shake);
    thread(move || {
        for tcp in listener.incoming().map_while(Result::ok) {
            let shake = Arc::clone(&shake);
            thread(move || shake(tcp));
        }
    });
    port
}

#[test]
fn a_request_whose_permits_all_come_too_late_is_refused_in_the_end() {
    let store = Store::start();
    let before = Before::new();
    let port = slow_and_fickle(before.authority.server_config(Fault::None));
    let limit = counted(100, "1s", "shared = true");
    let stage = before.gateway(&format!("{limit}[store]\nurl = \"redis://127.0.0.1:{}\"\n\n", store.port), &[port]);
    check_ours(&stage.get(&format!("localhost:{port}"), "/"), 503, "proxy_internal_error");
}

#[test]
fn a_post_that_never_left_is_sent_again_with_its_content_and_its_trailers() {
    let (break_it, broken) = signal();
    let (tell, told) = mpsc::channel();
    let before = Before::new();
    let origin = before.origin_by_hand(move |connection, mut frames| {
        roomy(&mut frames);
        let head = frames.next_of(HEADERS).unwrap();
        if connection == 0 {
            broken.lock().unwrap().recv().ok();
            return;
        }
        let mut kinds = vec![head.kind];
        while let Ok(frame) = frames.next() {
            if frame.stream == head.stream && matches!(frame.kind, DATA | HEADERS) {
                kinds.push(frame.kind);
                if frame.flags & END_STREAM != 0 {
                    break;
                }
            }
        }
        tell.send(kinds).ok();
        frames.send(&Frame::fine(head.stream));
        frames.next_of(GOAWAY).ok();
    });
    let stage = before.gateway_on_one_core(UNLIMITED, &[origin.port()]);
    let to = format!("localhost:{}", origin.port());
    let caller = stage.opened2(&to);
    let _upload = stuck_upload(&caller, &format!("https://{to}/upload"));
    // All of it at once, so that all of it is with the connection.
    let mut post = stage.opened(&to);
    post.send(format!(
        "POST /post HTTP/1.1\r\nHost: {to}\r\nTransfer-Encoding: chunked\r\n\r\n7\r\ncontent\r\n0\r\nX-Sum: 7\r\n\r\n"
    ));
    // Its head is with the connection when that breaks. If not, it is sent for the first time, and the test shows nothing.
    std::thread::sleep(Duration::from_millis(300));
    break_it.send(()).unwrap();
    assert_eq!(post.answer().status, 200);
    assert_eq!(told.recv_timeout(PATIENCE).unwrap(), [HEADERS, DATA, HEADERS]);
}

/// An origin whose first connection answers one request and then nothing any more, not even a PING. Returns what its
/// connections were sent after that: which connection, and the kind of frame.
fn dead_after_one(frames: &mut Frames<'_>, connection: usize, sent: &Mutex<Vec<(usize, u8)>>) {
    let mut is_dead = false;
    while let Ok(frame) = frames.next() {
        if is_dead {
            sent.lock().unwrap().push((connection, frame.kind));
        } else if frame.kind == HEADERS {
            frames.send(&Frame::fine(frame.stream));
            is_dead = connection == 0;
        }
    }
}

#[test]
fn a_connection_that_lets_a_request_wait_in_vain_takes_no_more_until_it_answers_a_ping() {
    let sent: Arc<Mutex<Vec<(usize, u8)>>> = Arc::default();
    let told = Arc::clone(&sent);
    let before = Before::new();
    let origin = before.origin_by_hand(move |connection, mut frames| dead_after_one(&mut frames, connection, &told));
    let stage = before.gateway_on_one_core("[timeouts]\nanswer = \"2s\"\n\n", &[origin.port()]);
    let to = format!("localhost:{}", origin.port());
    let caller = stage.opened2(&to);
    let get = |path: &str| caller.get(&format!("https://{to}{path}"));
    assert_eq!(get("/first").status, 200);
    check_ours(&get("/vain"), 504, "http_response_timeout");
    for n in 0..3 {
        assert_eq!(get(&format!("/{n}")).status, 200);
    }
    assert_eq!(origin.connections(), 2);
    eventually("the dead one is closed", || sockets_to(origin.port()) == 1);
    let of = |kind: u8| sent.lock().unwrap().iter().filter(|(_, sent)| *sent == kind).count();
    assert_eq!((of(HEADERS), of(PING)), (1, 1), "no other request went there");
}

#[test]
fn a_connection_on_which_nothing_comes_any_more_is_found_dead_and_costs_no_get() {
    let sent: Arc<Mutex<Vec<(usize, u8)>>> = Arc::default();
    let told = Arc::clone(&sent);
    let (stage, origin) = by_hand(UNLIMITED, move |connection, mut frames| {
        dead_after_one(&mut frames, connection, &told);
    });
    let to = format!("localhost:{}", origin.port());
    let caller = stage.opened2(&to);
    let get = |path: &str| caller.get(&format!("https://{to}{path}"));
    assert_eq!(get("/first").status, 200);
    let second = caller.start(caller2::get(&format!("https://{to}/second")), More::None);
    eventually("the origin is asked whether it lives", || sent.lock().unwrap().contains(&(0, PING)));
    assert_eq!(second.answer().status, 200, "sent again when the first connection has been given up");
    assert_eq!(origin.connections(), 2);
}

#[test]
fn an_origin_that_takes_its_time_and_answers_pings_keeps_its_connection() {
    let (stage, origin) = by_hand("[timeouts]\nanswer = \"2s\"\n\n", |connection, mut frames| {
        let mut count = 0;
        while let Ok(frame) = frames.next() {
            if frame.kind == PING {
                frames.send(&Frame::new(PING, ACK, 0, frame.payload));
            } else if frame.kind == HEADERS {
                count += 1;
                if connection > 0 || count != 2 {
                    frames.send(&Frame::fine(frame.stream));
                }
            }
        }
    });
    let to = format!("localhost:{}", origin.port());
    let caller = stage.opened2(&to);
    let get = |path: &str| caller.get(&format!("https://{to}{path}"));
    assert_eq!(get("/first").status, 200);
    check_ours(&get("/vain"), 504, "http_response_timeout");
    for n in 0..3 {
        assert_eq!(get(&format!("/{n}")).status, 200);
    }
    assert_eq!(origin.connections(), 1);
}

#[test]
fn one_that_waits_for_the_connection_of_another_waits_for_no_second_one_after_it() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let (accepted, met) = mpsc::channel();
    std::thread::spawn(move || {
        let _kept: Vec<_> = silent.incoming().inspect(|_| _ = accepted.send(())).collect();
    });
    let marker = Origin::scripted(|_, link| {
        // Half as long as a connection may take.
        std::thread::sleep(Duration::from_secs(1));
        link.answer(200, "marker")
    });
    let toml = format!(
        "{UNLIMITED}[timeouts]\nconnect = \"2s\"\n\n[[route]]\npath = \"/silent/\"\nto = \"https://localhost:{port}/\"\n\n\
         [[route]]\npath = \"/marker/\"\nto = \"{}\"\n\n",
        marker.url("/")
    );
    let stage = Before::new().gateway_on_one_core(&toml, &[port]);
    let ask = |path: &str| {
        let mut caller = stage.gateway.caller();
        caller.send(format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", stage.gateway.addr));
        caller
    };
    let mut first = ask("/silent/1");
    met.recv().unwrap();
    let mut second = ask("/silent/2");
    assert_eq!(first.answer().status, 504);
    let mut mark = ask("/marker/");
    let (told, hear) = mpsc::channel();
    let tell = told.clone();
    let second = std::thread::spawn(move || (second.answer().status, tell.send("the second").unwrap()).0);
    let mark = std::thread::spawn(move || (mark.answer().status, told.send("the marker").unwrap()).0);
    assert_eq!(hear.recv().unwrap(), "the second", "it has waited for another connection of its own");
    assert_eq!((second.join().unwrap(), mark.join().unwrap()), (504, 200));
}
