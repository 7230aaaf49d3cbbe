//! Origins that announce for how long they keep idle connections: no request is lost to their end.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::*;

/// Counts of an origin.
#[derive(Default)]
struct Counts {
    answered: AtomicUsize,
    connections: AtomicUsize,
    /// Requests that crossed with the end of their connection.
    crossed: AtomicUsize,
}

/// An origin that takes `work` for an answer, and ends connections after `idle`, as `Keep-Alive` announces with these parameters. The end takes a while to
/// reach its peer, as over a long line: requests that come meanwhile are lost.
fn origin(idle: Duration, work: Duration, announced: &'static str) -> (SocketAddr, Arc<Counts>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (addr, counts) = (listener.local_addr().unwrap(), Arc::<Counts>::default());
    let shared = Arc::clone(&counts);
    thread(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            shared.connections.fetch_add(1, Ordering::SeqCst);
            let counts = Arc::clone(&shared);
            thread(move || serve(stream, idle, work, announced, &counts));
        }
    });
    (addr, counts)
}

fn serve(mut stream: TcpStream, idle: Duration, work: Duration, announced: &str, counts: &Counts) {
    stream.set_nodelay(true).unwrap();
    let mut bytes = [0; 4096];
    // A new connection waits for its first request as long as it takes.
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return,
            Ok(count) => assert!(bytes[..count].ends_with(b"\r\n\r\n"), "a head comes in one piece"),
            Err(_) => {
                std::thread::sleep(Duration::from_millis(100));
                stream.set_nonblocking(true).unwrap();
                if matches!(stream.read(&mut bytes), Ok(1..)) {
                    counts.crossed.fetch_add(1, Ordering::SeqCst);
                }
                return;
            }
        }
        counts.answered.fetch_add(1, Ordering::SeqCst);
        // Long enough for other requests to need connections of their own.
        std::thread::sleep(work);
        stream.set_read_timeout(Some(idle)).unwrap();
        let head = format!("HTTP/1.1 200 OK\r\nKeep-Alive: {announced}\r\nContent-Length: 0\r\n\r\n");
        if stream.write_all(head.as_bytes()).is_err() {
            return;
        }
    }
}

fn post(addr: SocketAddr) -> String {
    format!("POST http://{addr}/ HTTP/1.1\r\nHost: {addr}\r\nContent-Length: 0\r\n\r\n")
}

#[test]
fn no_post_is_lost_to_the_end_that_an_origin_has_announced() {
    const CALLERS: u64 = 250;
    const EACH: u64 = 4;
    let (addr, counts) = origin(Duration::from_secs(2), Duration::from_millis(400), "timeout=2");
    let gateway = Gateway::start(UNLIMITED);
    let callers: Vec<_> = (0..CALLERS)
        .map(|n| {
            let gateway = gateway.addr;
            thread(move || {
                let mut caller = Caller::connect(gateway);
                let statuses = (0..EACH).map(|round| {
                    // Around the end: from 1.9 to 2.2 s after the request before.
                    if round > 0 {
                        std::thread::sleep(Duration::from_millis(1900 + (n * 7 + round * 101) % 300));
                    }
                    caller.send(post(addr)).answer().status
                });
                statuses.filter(|status| *status != 200).count()
            })
        })
        .collect();
    let lost: usize = callers.into_iter().map(|caller| caller.join().unwrap()).sum();
    assert_eq!((lost, counts.crossed.load(Ordering::SeqCst)), (0, 0));
    assert_eq!(counts.answered.load(Ordering::SeqCst) as u64, CALLERS * EACH, "each arrived, and once");
}

#[test]
fn a_connection_is_used_again_before_its_end_and_not_after_its_last_request() {
    for (announced, connections) in [("timeout=60, max=9", 1), ("max=0", 4), ("timeout=0", 4), ("timeout=x", 1)] {
        let (addr, counts) = origin(PATIENCE, Duration::ZERO, announced);
        let gateway = Gateway::start(UNLIMITED);
        let mut caller = gateway.caller();
        for _ in 0..4 {
            assert_eq!(caller.send(post(addr)).answer().status, 200);
        }
        assert_eq!(counts.connections.load(Ordering::SeqCst), connections, "{announced}");
    }
}
