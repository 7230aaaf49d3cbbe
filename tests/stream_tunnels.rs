//! Tunnels on streams of HTTP/2 end and pause like those on connections of their own.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::admin::{listener, queued};
use crate::support::caller2::{self, wait};
use crate::support::certs::{self, Fault};
use crate::support::stage::{Before, Stage, counted, get};
use crate::support::*;
use crate::tuning::tune;

/// A stream in a tunnel, in plain text or TLS.
trait Inside: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Inside for T {}

/// A tunnel on a stream of its own, in which HTTP/1.1 is spoken.
#[track_caller]
fn plain(caller: &Caller2, to: &str) -> Box<dyn Inside> {
    let mut call = caller.start(http::Request::connect(to).body(()).unwrap(), More::Follows);
    let (answer, body) = call.try_head().unwrap();
    assert_eq!(answer.status, 200, "{}", answer.raw);
    Box::new(caller2::tunnel_of(call, body))
}

/// The same in TLS.
#[track_caller]
fn secure(stage: &Stage, caller: &Caller2, to: &str) -> Box<dyn Inside> {
    let config = std::sync::Arc::new(certs::offering(stage.trusting(), &["http/1.1"]));
    let name = "localhost".try_into().unwrap();
    let handshake = tokio_rustls::TlsConnector::from(config).connect(name, plain(caller, to));
    Box::new(wait("a TLS handshake", handshake).unwrap())
}

fn say(inside: &mut Box<dyn Inside>, text: &str) {
    wait("it is taken", async {
        inside.write_all(text.as_bytes()).await.unwrap();
        inside.flush().await.unwrap();
    });
}

/// Reads until the text has come.
#[track_caller]
fn hear(inside: &mut Box<dyn Inside>, text: &str) {
    let mut heard = Vec::new();
    while !String::from_utf8_lossy(&heard).contains(text) {
        let count = wait(text, inside.read_buf(&mut heard)).unwrap();
        assert_ne!(count, 0, "it ended after {:?}", String::from_utf8_lossy(&heard));
    }
}

/// Runs a test in tunnels in plain text, and in TLS: with a gateway, a function that opens one, the name of the origin
/// and one that tells the paths that it has seen.
fn in_both_kinds(toml: &str, check: impl Fn(&Gateway, &dyn Fn() -> Box<dyn Inside>, &str, &dyn Fn() -> Vec<String>)) {
    {
        let origin = Origin::start();
        let gateway = Gateway::start(toml);
        let caller = Caller2::plain(gateway.addr);
        let to = origin.authority();
        check(&gateway, &|| plain(&caller, &to), &to, &|| origin.targets());
    }
    let before = Before::new();
    let origin = Origin2::start(before.authority.both_config(Fault::None));
    let stage = before.gateway(toml, &[origin.port()]);
    let caller = Caller2::plain(stage.gateway.addr);
    let to = origin.name();
    check(&stage.gateway, &|| secure(&stage, &caller, &to), &to, &|| origin.paths());
}

#[test]
fn a_waiter_whose_tunnel_ends_on_its_stream_gives_its_turn_to_the_next() {
    let (admin, listen) = listener();
    in_both_kinds(&(counted(1, "1h", "max_wait = \"12h\"\nshare_by = \"none\"") + &listen), |_, open, to, seen| {
        let mut first = open();
        say(&mut first, &get(to, "/fill"));
        hear(&mut first, "/fill");
        let line_up = |path: &str, place: usize| {
            let mut inside = open();
            say(&mut inside, &get(to, path));
            queued(admin, "the-limit", place);
            inside
        };
        let (mut closing, mut pipelining) = (line_up("/closed", 1), line_up("/more", 2));
        let mut staying = line_up("/stays", 3);
        wait("it ends", closing.shutdown()).unwrap();
        queued(admin, "the-limit", 2);
        say(&mut pipelining, &get(to, "/behind"));
        wait("it ends", pipelining.shutdown()).unwrap();
        queued(admin, "the-limit", 1);
        tune(admin, "the-limit", "\"per\": \"300ms\"");
        hear(&mut staying, "/stays");
        assert_eq!(seen(), ["/fill", "/stays"], "those that left did not go");
    });
}

#[test]
fn a_tunnel_that_pauses_between_requests_may_be_idle_for_longer_than_a_head_may_take() {
    in_both_kinds(&format!("{UNLIMITED}[timeouts]\nhead = \"2s\"\nidle = \"1h\"\n\n"), |gateway, open, to, _| {
        let mut inside = open();
        say(&mut inside, &get(to, "/before-the-pause"));
        hear(&mut inside, "/before-the-pause");
        // A connection that began later, and sends nothing, has the time of a head.
        gateway.caller().expect_end();
        say(&mut inside, &get(to, "/after-the-pause"));
        hear(&mut inside, "/after-the-pause");
    });
}
