//! Random damage to good requests and answers: whatever comes, nobody panics, nobody hangs, and no origin sees a bad message.

use std::time::Instant;

use crate::support::*;

/// A generator that gives the same damage in every run (SplitMix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((bits ^ (bits >> 31)) % sides as u64).unwrap()
    }

    /// One to four changes: a byte overwritten, put in, taken out, or a stretch repeated.
    fn damage(&mut self, good: &[u8]) -> Vec<u8> {
        const ODD: &[u8] = b"\r\n\t\0 :;,0aFx\x80\xff\x7f\x1b/\"";
        let mut bytes = good.to_vec();
        for _ in 0..=self.roll(4) {
            let at = self.roll(bytes.len());
            let odd = ODD[self.roll(ODD.len())];
            match self.roll(4) {
                0 => bytes[at] = odd,
                1 => bytes.insert(at, odd),
                2 => _ = bytes.remove(at),
                _ => {
                    let end = (at + self.roll(30)).min(bytes.len());
                    let stretch = bytes[at..end].to_vec();
                    bytes.splice(at..at, stretch);
                }
            }
        }
        bytes
    }
}

const QUICK: &str =
    "[timeouts]\nhead = \"100ms\"\nidle = \"100ms\"\nbody_idle = \"100ms\"\nanswer = \"300ms\"\nconnect = \"300ms\"\n";

#[test]
fn damaged_requests_harm_nobody() {
    let origin = Origin::start();
    let gateway = Gateway::start(&format!("{UNLIMITED}{QUICK}"));
    let url = origin.url("/x?y=1");
    let good = [
        format!("GET {url} HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n"),
        format!("POST {url} HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nX-A: b\r\n\r\nhello"),
        format!(
            "PUT {url} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n3\r\nabc\r\n0\r\nT: 1\r\n\r\n"
        ),
        format!("GET {url} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"),
        format!("OPTIONS {url} HTTP/1.1\r\nHost: a\r\nMax-Forwards: 3\r\nVia: 1.1 x\r\nExpect: 100-continue\r\n\r\n"),
        format!("GET {url} HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"),
    ];
    let threads: Vec<_> = (0..12_u64)
        .map(|seed| {
            let (addr, good, last) = (gateway.addr, good.clone(), gateway::get(&url));
            thread(move || {
                let mut dice = Dice(seed);
                for _ in 0..40 {
                    let which = dice.roll(good.len());
                    let bad = dice.damage(good[which].as_bytes());
                    let mut caller = Caller::connect(addr);
                    caller.send(&bad).send(&last);
                    let (_, stop) = caller.rest();
                    assert_ne!(stop, stream::Stop::Silence, "{:?} hangs", String::from_utf8_lossy(&bad));
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|one| one.join().unwrap());
    assert!(gateway.reload(UNLIMITED), "a slow machine is not too slow for the usual time-outs");
    assert_eq!(gateway.get(&origin.url("/last")).text(), "/last");
    for seen in origin.requests() {
        assert_eq!(seen.all("host").collect::<Vec<_>>(), [origin.authority()], "{}", seen.raw);
    }
}

#[test]
fn damaged_answers_harm_nobody() {
    const GOOD: [&str; 5] = [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: b\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n3\r\nabc\r\n0\r\nT: 1\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 No Content\r\nETag: \"x\"\r\n\r\n",
        "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\nuntil the end",
        "HTTP/1.1 429 No\r\nRetry-After: 0\r\nContent-Length: 2\r\nDate: Mon, 23 Nov 2026 21:03:42 GMT\r\n\r\nno",
    ];
    let dice = std::sync::Mutex::new(Dice(99));
    let origin = Origin::scripted(move |request, link| {
        if request.target == "/last" {
            return link.answer(200, "good");
        }
        let bad = {
            let mut dice = dice.lock().unwrap();
            let which = dice.roll(GOOD.len());
            dice.damage(GOOD[which].as_bytes())
        };
        link.send(bad);
        Next::Close
    });
    let gateway = Gateway::start(&format!("{UNLIMITED}{QUICK}"));
    let threads: Vec<_> = (0..12)
        .map(|_| {
            let (addr, request) = (gateway.addr, gateway::get(&origin.url("/")));
            thread(move || {
                for _ in 0..40 {
                    let mut caller = Caller::connect(addr);
                    let end = Instant::now() + PATIENCE;
                    // What the gateway says is read as strictly as an origin's message would be.
                    Answer::read(&mut caller.send(&request).stream, "GET", end).ok();
                    assert_ne!(caller.rest().1, stream::Stop::Silence);
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|one| one.join().unwrap());
    assert!(gateway.reload(UNLIMITED), "a slow machine is not too slow for the usual time-outs");
    assert_eq!(gateway.get(&origin.url("/last")).text(), "good");
}
