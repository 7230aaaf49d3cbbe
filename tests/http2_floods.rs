//! Floods of HTTP/2 frames end the connection that sends them; memory stays flat and others are not disturbed.

use std::time::{Duration, Instant};

use crate::admin::{listener, queued};
use crate::support::frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, Fate, Frame, Frames, GOAWAY, HEADERS, PING, PREFACE, SETTINGS,
};
use crate::support::stage::counted;
use crate::support::*;

/// Sends what `make` gives until the gateway ends the connection or `most` frames were sent; whether it ended it.
#[track_caller]
fn flood(gateway: &Gateway, most: usize, make: impl Fn(usize) -> Vec<Frame>) -> bool {
    let mut caller = gateway.caller();
    let tcp = caller.stream.tcp().try_clone().expect("a descriptor is free");
    // What it says is read by nobody else, or its full buffers would end the flood.
    let reader = thread(move || {
        let mut stream = stream::Stream::plain(tcp);
        loop {
            match stream.more(Instant::now() + PATIENCE) {
                Ok(_) => stream.ahead.clear(),
                Err(stop) => return stop != stream::Stop::Silence,
            }
        }
    });
    let mut frames = Frames::caller(&mut caller.stream);
    let mut sent = 0;
    while sent < most {
        let some = make(sent);
        sent += some.len();
        if !frames.send_all(&some) {
            return true;
        }
    }
    caller.finish();
    reader.join().expect("the reader did not panic")
}

/// Fails unless the gateway serves others as ever, and has not grown by more than `kib` since `before`.
#[track_caller]
fn unharmed(gateway: &Gateway, origin: &Origin, before: u64, kib: u64) {
    assert_eq!(gateway.get(&origin.url("/other")).status, 200);
    let grown = gateway.memory_kib().saturating_sub(before);
    assert!(grown < kib, "the gateway grew by {grown} KiB");
}

/// A gateway that has served both versions once, and its memory.
#[track_caller]
fn warm(toml: &str) -> (Gateway, Origin, u64) {
    let origin = Origin::start();
    let gateway = Gateway::start(toml);
    assert_eq!(gateway.get(&origin.url("/warm")).status, 200);
    assert_eq!(Caller2::plain(gateway.addr).get(&origin.url("/warm")).status, 200);
    let before = gateway.memory_kib();
    (gateway, origin, before)
}

#[test]
fn a_rapid_reset_ends_its_connection() {
    let (gateway, origin, before) = warm(UNLIMITED);
    let to = origin.authority();
    let ended = flood(&gateway, 100_000, |sent| {
        (0..50_u32)
            .flat_map(|n| {
                let stream = u32::try_from(sent).unwrap() + 2 * n + 1;
                [Frame::get(stream, &to, "/reset"), Frame::reset(stream, 8)]
            })
            .collect()
    });
    assert!(ended, "GOAWAY, or a hang-up");
    unharmed(&gateway, &origin, before, 16 << 10);
    assert!(origin.count() < 5_000, "{} requests went on to the origin", origin.count());
}

#[test]
fn waiters_that_are_made_and_reset_100_000_times_leave_nothing_behind() {
    let (admin, listen) = listener();
    let (gateway, origin, _) = warm(&(limit(3, "1h", "max_wait = \"48h\"\nmax_waiting = 50") + &listen));
    assert_eq!(gateway.get(&origin.url("/last")).status, 200);
    let to = origin.authority();
    let (mut before, mut made) = (0, 0);
    // Callers that change their mind: fifty stand in line, and then none of them wants to any more. Each connection
    // stays below what would be a flood.
    for connection in 0..125 {
        let mut caller = gateway.caller();
        let mut frames = Frames::caller(&mut caller.stream);
        for round in 0..16 {
            let streams = (0..50).map(|n| 2 * (50 * round + n) + 1);
            frames.send_all(&streams.clone().map(|one| Frame::get(one, &to, "/waits")).collect::<Vec<_>>());
            frames.send(&Frame::new(PING, 0, 0, *b"in line?"));
            frames.next_of(PING).expect("they were taken");
            frames.send_all(&streams.map(|one| Frame::reset(one, 8)).collect::<Vec<_>>());
            frames.send(&Frame::new(PING, 0, 0, *b"all out?"));
            frames.next_of(PING).expect("nobody minds");
            made += 50;
        }
        if connection == 12 {
            before = gateway.memory_kib();
        }
    }
    assert_eq!(made, 100_000);
    let grown = gateway.memory_kib().saturating_sub(before);
    assert!(grown < 8 << 10, "the gateway grew by {grown} KiB");
    assert_eq!(origin.count(), 3);
    // With 50 places, the next 50 find one each only if the queue is empty.
    let caller = Caller2::plain(gateway.addr);
    let waiting: Vec<_> = (0..50).map(|_| caller.start(caller2::get(&origin.url("/w")), More::None)).collect();
    queued(admin, "the-limit", 50);
    check_ours(&caller.get(&origin.url("/one-too-many")), 429, "http_request_error");
    drop(waiting);
}

#[test]
fn a_flood_of_continuation_ends_its_connection() {
    let (gateway, origin, before) = warm(UNLIMITED);
    let part = frames::block(&[("x-filler", &"y".repeat(1000))]);
    let ended = flood(&gateway, 100_000, |sent| {
        let mut all = Vec::new();
        if sent == 0 {
            all.push(Frame::new(HEADERS, END_STREAM, 1, frames::block(&frames::request("GET", "a.example", "/"))));
        }
        all.extend((0..50).map(|_| Frame::new(CONTINUATION, 0, 1, part.clone())));
        all
    });
    assert!(ended);
    unharmed(&gateway, &origin, before, 8 << 10);
    let ended = flood(&gateway, 200_000, |sent| {
        let head = Frame::new(HEADERS, END_STREAM, 1, frames::block(&frames::request("GET", "a.example", "/")));
        let empty = (0..100).map(|_| Frame::new(CONTINUATION, 0, 1, []));
        (sent == 0).then_some(head).into_iter().chain(empty).collect()
    });
    assert!(ended, "empty ones, too");
    unharmed(&gateway, &origin, before, 8 << 10);
}

#[test]
fn floods_of_settings_and_pings_cost_nothing() {
    let (gateway, origin, before) = warm(UNLIMITED);
    for make in [
        Frame::new(SETTINGS, 0, 0, []),
        Frame::setting(1, 4096),
        Frame::new(PING, 0, 0, *b"12345678"),
        Frame::new(PING, ACK, 0, *b"12345678"),
        Frame::new(frames::WINDOW_UPDATE, 0, 0, 1_u32.to_be_bytes()),
        Frame::new(0x42, 0, 0, *b"unknown"),
    ] {
        flood(&gateway, 50_000, |_| vec![make.clone(); 200]);
        unharmed(&gateway, &origin, before, 8 << 10);
    }
}

#[test]
fn answers_to_pings_that_nobody_reads_do_not_pile_up() {
    let (gateway, origin, before) = warm(UNLIMITED);
    let mut caller = gateway.caller();
    caller.stream.tcp().set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut frames = Frames::caller(&mut caller.stream);
    let many = vec![Frame::new(PING, 0, 0, *b"12345678"); 1000];
    let mut sent = 0;
    // 17 bytes each: 50 MB if all of it were kept.
    while sent < 3_000 && frames.send_all(&many) {
        sent += 1;
    }
    unharmed(&gateway, &origin, before, 8 << 10);
}

#[test]
fn empty_data_frames_without_end_are_no_reason_to_spin() {
    let (gateway, origin, before) = warm(UNLIMITED);
    let to = origin.authority();
    flood(&gateway, 100_000, |sent| {
        let head = Frame::headers(1, 0, &frames::request("POST", &to, "/post"));
        let empty = (0..200).map(|_| Frame::new(DATA, 0, 1, []));
        (sent == 0).then_some(head).into_iter().chain(empty).collect()
    });
    unharmed(&gateway, &origin, before, 8 << 10);
}

#[test]
fn heads_that_are_too_large_are_refused() {
    let (gateway, origin, before) = warm(UNLIMITED);
    let to = origin.authority();
    let long = "v".repeat(1 << 20);
    let many: Vec<String> = (0..5_000).map(|n| format!("x-{n}")).collect();
    let mut sections = vec![frames::request("GET", &to, "/"), frames::request("GET", &to, "/")];
    sections[0].push(("x-long", &long));
    sections[1].extend(many.iter().map(|name| (name.as_str(), "a value that takes room")));
    for fields in sections {
        let block = frames::block(&fields);
        let mut caller = gateway.caller();
        let mut frames = Frames::caller(&mut caller.stream);
        let parts: Vec<&[u8]> = block.chunks(16_000).collect();
        for (n, part) in parts.iter().enumerate() {
            let last = if n + 1 == parts.len() { END_HEADERS } else { 0 };
            let (kind, flags) = if n == 0 { (HEADERS, END_STREAM | last) } else { (CONTINUATION, last) };
            frames.send(&Frame::new(kind, flags, 1, *part));
        }
        let fate = frames.fate(1);
        assert!(fate.is_refusal(), "{fate:?}");
    }
    unharmed(&gateway, &origin, before, 8 << 10);
}

#[test]
fn a_small_head_that_unpacks_to_a_large_one_is_refused() {
    let (gateway, origin, before) = warm(UNLIMITED);
    let mut block = frames::block(&frames::request("GET", &origin.authority(), "/bomb"));
    // Remembered once (RFC 7541 §6.2.1), and then named 4000 times with one byte each (index 62): 16 MB of fields.
    let field = [&[0x40, 6][..], b"x-bomb", &[0x7f, 0x81, 0x1e], &[b'v'; 4_000]].concat();
    block.extend(field);
    block.extend(vec![0x80 | 62; 4_000]);
    let mut caller = gateway.caller();
    let mut frames = Frames::caller(&mut caller.stream);
    frames.send(&Frame::new(HEADERS, END_HEADERS | END_STREAM, 1, block));
    let fate = frames.fate(1);
    assert!(fate.is_refusal(), "{fate:?}");
    unharmed(&gateway, &origin, before, 8 << 10);
    assert!(!origin.targets().contains(&"/bomb".to_owned()));
}

#[test]
fn who_begins_and_does_not_go_on_is_not_waited_for() {
    let (gateway, origin, before) = warm("[timeouts]\nhead = \"2s\"\nidle = \"3s\"\nbody_idle = \"3s\"\n\n");
    let mut part = gateway.caller();
    part.send(&PREFACE[..10]).rest();
    let mut silent = gateway.caller();
    Frames::caller(&mut silent.stream);
    silent.rest();
    let mut half = gateway.caller();
    let mut frames = Frames::caller(&mut half.stream);
    let block = frames::block(&frames::request("GET", &origin.authority(), "/slow"));
    frames.send(&Frame::new(HEADERS, END_STREAM, 1, block));
    assert!(matches!(frames.fate(1), Fate::Closed | Fate::Goaway(_) | Fate::Reset(_) | Fate::Answered(408)));
    let began = Instant::now();
    let mut pinging = gateway.caller();
    let mut frames = Frames::caller(&mut pinging.stream);
    // Pings are no requests: they keep a connection alive for nobody.
    while frames.send(&Frame::new(PING, 0, 0, *b"12345678")) && began.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(began.elapsed() < PATIENCE, "a connection without requests was kept for its pings");
    unharmed(&gateway, &origin, before, 8 << 10);
}

#[test]
fn content_that_stands_still_is_given_up() {
    let (gateway, origin, before) = warm("[timeouts]\nidle = \"2s\"\nbody_idle = \"2s\"\n\n");
    let mut caller = gateway.caller();
    let mut frames = Frames::caller(&mut caller.stream);
    frames.send(&Frame::headers(1, 0, &frames::request("POST", &origin.authority(), "/post")));
    frames.send(&Frame::new(DATA, 0, 1, *b"begin"));
    let fate = frames.fate(1);
    assert!(fate.is_refusal(), "{fate:?}");
    unharmed(&gateway, &origin, before, 8 << 10);
}

#[test]
fn readers_without_a_window_hold_little_and_let_others_go() {
    let origin = Origin::scripted(|request, link| {
        link.read_body();
        let body = if request.target == "/large" { "z".repeat(4 << 20) } else { String::new() };
        link.answer(200, &body)
    });
    let gateway = Gateway::start("[timeouts]\nidle = \"3s\"\nbody_idle = \"3s\"\n\n");
    assert_eq!(gateway.get(&origin.url("/warm")).status, 200);
    let before = gateway.memory_kib();
    let mut callers: Vec<Caller> = (0..20).map(|_| gateway.caller()).collect();
    for caller in &mut callers {
        let mut frames = Frames::caller(&mut caller.stream);
        // SETTINGS_INITIAL_WINDOW_SIZE = 0: not one byte of content may come.
        frames.send(&Frame::setting(4, 0));
        for n in 0..10 {
            frames.send(&Frame::get(2 * n + 1, &origin.authority(), "/large"));
        }
    }
    eventually("all are with the origin", || origin.count() >= 201);
    unharmed(&gateway, &origin, before, 48 << 10);
    for caller in &mut callers {
        let (_, stop) = caller.rest();
        assert_ne!(stop, stream::Stop::Silence, "who takes nothing for [timeouts] body_idle is given up");
    }
}

#[test]
fn more_streams_than_allowed_are_refused_and_the_others_served() {
    let origin = Origin::start();
    let gateway = Gateway::start(&limit(1, "1h", "max_wait = \"360d\"\nmax_waiting = 10000"));
    assert_eq!(gateway.get(&origin.url("/fill")).status, 200);
    let mut caller = gateway.caller();
    let mut frames = Frames::caller(&mut caller.stream);
    let mut refused = None;
    for n in 0..3_000_u32 {
        frames.send(&Frame::get(2 * n + 1, &origin.authority(), "/waits"));
    }
    for _ in 0..200 {
        match frames.next() {
            Ok(frame) if frame.kind == frames::RST_STREAM || frame.kind == GOAWAY => {
                refused = Some(frame);
                break;
            }
            Ok(_) => {}
            Err(_) => break,
        }
    }
    let refused = refused.expect("three thousand at one time are too many for one connection");
    assert!(refused.kind == GOAWAY || refused.code() == 7, "REFUSED_STREAM, so that it may be sent again: {refused:?}");
    assert_eq!(origin.count(), 1);
}

#[test]
fn a_flood_takes_no_slots() {
    let (gateway, origin, _) = warm(&counted(1000, "1h", "when_full = \"refuse\""));
    let to = origin.authority();
    flood(&gateway, 20_000, |sent| {
        let stream = u32::try_from(sent).unwrap() + 1;
        let mut fields = frames::request("GET", &to, "/bad");
        fields.push(("Upper", "is refused"));
        vec![Frame::headers(stream, END_STREAM, &fields), Frame::reset(stream, 8)]
    });
    assert_eq!(origin.targets(), ["/warm", "/warm"]);
    assert_eq!(gateway.get(&origin.url("/other")).status, 200);
}
