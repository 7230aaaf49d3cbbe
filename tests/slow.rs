//! Who is slow, silent or still talking holds up nobody else, fills no memory, and is not left in the dark.

use std::time::{Duration, Instant};

use crate::support::*;

#[test]
fn content_that_stands_still_ends_the_exchange() {
    let origin = Origin::scripted(|_, link| {
        link.read_body();
        Next::Close
    });
    let toml = "[[limit]]\nname = \"one\"\nmatch = { host = [\"127.0.0.1\"] }\nin_flight = 1\n\n[timeouts]\nidle = \"300ms\"\nbody_idle = \"300ms\"\n";
    let gateway = Gateway::start(toml);
    let mut caller = gateway.caller();
    caller.send(format!("POST {} HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc", origin.url("/")));
    check_ours(&caller.try_answer("POST").expect("an answer"), 408, "http_request_error");
    assert_ne!(caller.rest().1, stream::Stop::Silence);
    eventually("the origin is let go", || origin.open() == 0);
}

#[test]
fn content_that_comes_byte_by_byte_ends_when_a_request_has_had_its_time() {
    let origin = Origin::scripted(|_, link| {
        link.read_body();
        Next::Close
    });
    let gateway = Gateway::start(&format!("{UNLIMITED}[timeouts]\nrequest = \"600ms\"\n"));
    let mut caller = gateway.caller();
    caller.send(format!("POST {} HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n", origin.url("/")));
    let answer = loop {
        // Its content never stands still.
        if caller.stream.send(b"x").is_err() {
            break caller.try_answer("POST").expect("an answer");
        }
        if caller.stream.more(Instant::now() + Duration::from_millis(50)).is_ok() {
            break caller.answer();
        }
    };
    check_ours(&answer, 408, "http_request_error");
    assert!(answer.text().contains("[timeouts] request = 600ms"), "{}", answer.text());
    eventually("the origin is let go", || origin.open() == 0);
}

#[test]
fn an_answer_that_nobody_reads_ends_the_exchange() {
    let origin = Origin::scripted(|_, link| {
        link.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
        let part = vec![b'x'; 1 << 20];
        while link.stream.send(&part).is_ok() {}
        Next::Close
    });
    let gateway = Gateway::start(&format!("{UNLIMITED}[timeouts]\nidle = \"300ms\"\nbody_idle = \"300ms\"\n"));
    let mut caller = gateway.caller();
    caller.send(gateway::get(&origin.url("/"))).head();
    eventually("the origin is let go", || origin.count() == 1 && origin.open() == 0);
    drop(caller);
}

#[test]
fn a_caller_that_talks_on_while_it_waits_fills_no_memory() {
    let origin = Origin::start();
    let gateway = Gateway::start(&limit(1, "1h", "max_wait = \"2h\""));
    assert_eq!(gateway.get(&origin.url("/")).status, 200);
    let before = gateway.memory_kib();
    let request = format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", origin.url("/"));
    let upload = format!("POST {} HTTP/1.1\r\nHost: a\r\nContent-Length: 900000000\r\n\r\n", origin.url("/"));
    let talkers: Vec<_> = [request.clone(), upload]
        .into_iter()
        .flat_map(|first| (0..4).map(move |_| first.clone()))
        .map(|first| {
            let (addr, more) = (gateway.addr, request.repeat(1000));
            thread(move || {
                let mut caller = Caller::connect(addr);
                caller.send(first);
                caller.stream.tcp().set_write_timeout(Some(Duration::from_millis(400))).unwrap();
                while caller.stream.send(more.as_bytes()).is_ok() {}
                caller
            })
        })
        .collect();
    let callers: Vec<Caller> = talkers.into_iter().map(|one| one.join().unwrap()).collect();
    let grown = gateway.memory_kib().saturating_sub(before);
    assert!(grown < 12 << 10, "grown by {grown} KiB for eight callers");
    assert_eq!(origin.count(), 1);
    drop(callers);
}

#[test]
fn those_in_line_hold_no_connection_to_the_origin() {
    let origin = Origin::start();
    let gateway = Gateway::start(&limit(1, "1h", "max_wait = \"2000h\""));
    assert_eq!(gateway.get(&origin.url("/")).status, 200);
    let mut callers: Vec<Caller> = (0..50).map(|_| gateway.caller()).collect();
    for caller in &mut callers {
        caller.send(format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", origin.url("/")));
    }
    callers[49].expect_silence(Duration::from_millis(200));
    assert!(origin.connections() <= 3, "{} connections for fifty who wait an hour", origin.connections());
}

#[test]
fn a_connection_made_ready_that_dies_before_its_turn_is_replaced() {
    let origin = Origin::impatient(Duration::from_millis(40), |request, link| {
        link.read_body();
        link.answer(200, &request.target)
    });
    let gateway = Gateway::start(&limit(1, "400ms", "max_wait = \"60s\""));
    let post =
        |n: usize| format!("POST {} HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi", origin.url(&format!("/{n}")));
    let mut callers: Vec<Caller> = (0..6).map(|_| gateway.caller()).collect();
    callers.iter_mut().enumerate().for_each(|(n, caller)| _ = caller.send(post(n)));
    for (n, caller) in callers.iter_mut().enumerate() {
        let answer = caller.answer();
        if answer.status == 502 {
            // It crossed with the end of its connection on the way, and a POST is not sent twice.
            eventually("it crossed", || origin.crossed().contains(&format!("/{n}")));
            continue;
        }
        assert_eq!((answer.status, answer.text()), (200, format!("/{n}")), "{}", answer.raw);
    }
    assert_eq!(origin.count() + origin.crossed().len(), 6, "and none was sent twice");
}

#[test]
fn who_hangs_up_while_the_origin_is_being_reached_gives_the_slot_back() {
    let (hole, origin) = (BlackHole::new(), Origin::start());
    let toml = limit(1, "1h", "when_full = \"refuse\"") + "[timeouts]\nconnect = \"1h\"\n";
    let gateway = Gateway::start(&toml);
    let mut caller = gateway.caller();
    caller.send(format!("GET http://127.0.0.1:{}/ HTTP/1.1\r\nHost: a\r\n\r\n", hole.port()));
    eventually("the slot is taken", || gateway.get(&origin.url("/")).status == 429 || origin.count() > 0);
    if origin.count() == 0 {
        caller.hang_up();
        eventually("the slot is given back", || gateway.get(&origin.url("/")).status == 200);
    }
}

#[test]
fn a_refusal_is_heard_by_who_is_still_sending() {
    let origin = Origin::start();
    let gateway = Gateway::start(&limit(1, "1h", "when_full = \"refuse\""));
    assert_eq!(gateway.get(&origin.url("/")).status, 200);
    for length in [5_000_000_usize, 300_000] {
        let mut caller = gateway.caller();
        caller.send(format!("POST {} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n", origin.url("/")));
        caller.stream.tcp().set_write_timeout(Some(PATIENCE)).unwrap();
        caller.send("x".repeat(length));
        check_ours(&caller.answer(), 429, "http_request_error");
    }
}

#[test]
fn an_early_answer_is_heard_by_who_is_still_sending() {
    let origin = Origin::scripted(|_, link| {
        link.send("HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig");
        // An origin that knows its manners reads on for a while, so that its answer is not lost to a reset.
        link.wait_for_close();
        Next::Close
    });
    let gateway = Gateway::start(UNLIMITED);
    let mut caller = gateway.caller();
    caller.stream.tcp().set_write_timeout(Some(PATIENCE)).unwrap();
    caller.send(format!("POST {} HTTP/1.1\r\nHost: a\r\nContent-Length: 5000000\r\n\r\n", origin.url("/")));
    caller.send("x".repeat(5_000_000));
    let answer = caller.answer();
    assert_eq!((answer.status, answer.text().as_str()), (413, "big"));
}

#[test]
fn an_expectation_that_is_refused_leaves_the_connection_in_step() {
    let origin = Origin::start();
    let gateway = Gateway::start(&limit(1, "1h", "when_full = \"refuse\""));
    assert_eq!(gateway.get(&origin.url("/")).status, 200);
    let mut caller = gateway.caller();
    let url = origin.url("/");
    caller.send(format!("POST {url} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"));
    let answer = caller.answer();
    check_ours(&answer, 429, "http_request_error");
    assert!(answer.interim.is_empty(), "content was asked for in vain");
    if answer.says_close() {
        caller.expect_end();
    } else {
        let elsewhere = format!("http://localhost:{}/", origin.port());
        assert_eq!(caller.send(format!("GET {elsewhere} HTTP/1.1\r\nHost: a\r\n\r\n")).answer().status, 200);
    }
}

#[test]
fn tunnels_and_upgrades_are_in_flight_until_they_end() {
    let origin = Origin::scripted(|request, link| {
        if request.field("upgrade").is_some() {
            link.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
        }
        link.echo();
        Next::Close
    });
    let toml = format!(
        "[[limit]]\nname = \"one\"\nmatch = {{ host = [\"127.0.0.1\"] }}\nin_flight = 1\nwhen_full = \"refuse\"\n\n\
         [access]\nconnect_ports = [{}]\n",
        origin.port()
    );
    let gateway = Gateway::start(&toml);
    let tunnel = format!("CONNECT {} HTTP/1.1\r\nHost: a\r\n\r\n", origin.authority());
    let upgrade =
        format!("GET {} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", origin.url("/"));
    for (method, open) in [("CONNECT", &tunnel), ("GET", &upgrade)] {
        let mut holder = gateway.caller();
        eventually("the one before has ended", || {
            let answer = holder.send(open).answer_to(method);
            answer.status / 100 != 4
        });
        check_ours(&gateway.exchange(&tunnel), 429, "http_request_error");
        check_ours(&gateway.exchange(&upgrade), 429, "http_request_error");
        holder.hang_up();
    }
    let end = Instant::now() + PATIENCE;
    while gateway.exchange(&tunnel).status == 429 {
        assert!(Instant::now() < end, "the last one's place was never given back");
    }
}

#[test]
fn memory_of_half_sent_heads_goes_back_when_their_callers_leave() {
    const CALLERS: u64 = 500;
    let gateway = Gateway::start(UNLIMITED);
    let before = gateway.memory_kib();
    let head = format!("GET http://127.0.0.1:1/ HTTP/1.1\r\nX: {}", "a".repeat(15 << 10));
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let mut caller = gateway.caller();
            caller.send(head.as_str());
            caller
        })
        .collect();
    eventually("all heads are read", || gateway.memory_kib() >= before + CALLERS * 15);
    drop(callers);
    // Each thread keeps some of the blocks for its next callers, and what the connections needed besides may stay.
    let threads = u64::try_from(std::thread::available_parallelism().unwrap().get()).unwrap();
    let kept = threads * (1 << 10) + CALLERS * 8;
    eventually("their memory is given back", || gateway.memory_kib() < before + kept);
}
