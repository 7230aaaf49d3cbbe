//! TLS with callers: on a listener that has it, and in a tunnel that we open because its host is named.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;

use rustls::ServerConfig;

use super::access::Admitted;
use super::connection::Caller;
use super::refusal::Refusal;
use super::request_log::Story;
use super::target::{Origin, Scheme};
use super::{Proxy, local_response};
use crate::tls::accept::{FIRST_BYTE, IncomingHandshake};
use crate::tls::ca;
use crate::wire::{Conn, Stream};

/// A tunnel that is to be opened.
pub(super) struct Opening {
    within: Within,
    /// What the access log will tell of it.
    pub(super) story: Option<Story>,
}

/// What holds for everything that comes through an opened tunnel.
pub(super) struct Within {
    /// What it was asked for.
    pub(super) origin: Origin,
    /// Who asked for it.
    pub(super) admitted: Admitted,
}

impl Opening {
    pub(super) fn new(origin: Origin, admitted: Admitted) -> Opening {
        Opening { within: Within { origin, admitted }, story: None }
    }
}

/// What is spoken on a connection from here on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Spoken {
    /// HTTP/1.1, or HTTP/2 if it begins like that.
    Http1,
    /// HTTP/2, as was agreed in the handshake.
    Http2,
}

impl Proxy {
    /// Whether tunnels to this host are opened.
    pub(super) fn intercepts(&self, origin: &Origin) -> bool {
        self.intercept.iter().any(|host| host.matches(&origin.host, origin.port))
    }
}

/// Opens a tunnel: the caller gets its 200, and then sees us in the origin's place. `None`: it ended before.
///
/// Bytes that are no TLS are looked at as they are: nothing passes unseen through a tunnel to a host that is named.
pub(super) async fn open(caller: &mut Caller, opening: Opening) -> Option<Spoken> {
    let Opening { mut within, story } = opening;
    let spoken = begin(caller, &mut within).await;
    if let Some(mut story) = story {
        match &spoken {
            Ok(_) => story.opened(),
            Err(why) => story.unopened(why.to_string()),
        }
        story.end(caller);
    }
    caller.within = Some(Arc::new(within));
    spoken.ok()
}

/// Why a tunnel was not opened.
#[derive(Debug, thiserror::Error)]
enum Unopened {
    #[error("the caller hung up")]
    Left,
    #[error("the caller did not begin TLS in time")]
    Late,
    #[error("the TLS handshake failed: {0}")]
    Handshake(io::Error),
    #[error("the caller asked for {0:?} in TLS, which is not the host of its CONNECT")]
    OtherName(String),
    #[error("there is no certificate for this host: {0}")]
    Leaf(ca::Error),
}

async fn begin(caller: &mut Caller, within: &mut Within) -> Result<Spoken, Unopened> {
    caller.alarm.set(caller.worker.proxy.timeouts.head);
    let Caller { conn, alarm, .. } = caller;
    let told = async {
        conn.flush().await.map_err(|_| Unopened::Left)?;
        first_byte(conn).await.ok_or(Unopened::Left)
    };
    let first = alarm.during(told).await.unwrap_or(Err(Unopened::Late))?;
    if first != FIRST_BYTE {
        within.origin.scheme = Scheme::Http;
        return Ok(Spoken::Http1);
    }
    within.origin.scheme = Scheme::Https;
    let proxy = Arc::clone(&caller.worker.proxy);
    let shake = shake(&proxy, caller.conn.take_stream(), &within.origin.host);
    let (stream, spoken) = caller.alarm.during(shake).await.unwrap_or(Err(Unopened::Late))?;
    caller.conn = Conn::new(stream);
    Ok(spoken)
}

async fn shake(proxy: &Proxy, stream: Stream, host: &str) -> Result<(Stream, Spoken), Unopened> {
    let hello = IncomingHandshake::read(stream).await.map_err(Unopened::Handshake)?;
    // A name for another host than the one that was asked for, and admitted, is domain fronting. No name is none.
    if let Some(name) = hello.server_name()
        && !name.trim_end_matches('.').eq_ignore_ascii_case(host)
    {
        return Err(Unopened::OtherName(name));
    }
    let Some(authority) = &proxy.authority else { return Err(Unopened::Left) };
    let wall = proxy.gate.clock().wall_unix_nanos();
    let leaf = authority.leaf(host, wall).await.map_err(Unopened::Leaf)?;
    accept(hello, leaf).await.map_err(Unopened::Handshake)
}

/// TLS on a listener that has it, within the time of the first head. `None`: there is nobody to serve.
pub(super) async fn greet(caller: &mut Caller, identity: Arc<ServerConfig>) -> Option<Spoken> {
    let first = caller.alarm.during(first_byte(&mut caller.conn)).await??;
    if first != FIRST_BYTE {
        local_response::refuse_bytes(caller, &Refusal::NotTls).await;
        caller.linger().await;
        return None;
    }
    let stream = caller.conn.take_stream();
    let shake = async {
        let hello = IncomingHandshake::read(stream).await?;
        accept(hello, identity).await
    };
    match caller.alarm.during(shake).await? {
        Ok((stream, spoken)) => {
            caller.conn = Conn::new(stream);
            caller.secure = true;
            Some(spoken)
        }
        Err(error) => {
            tracing::debug!(peer = %caller.peer, %error, "a TLS handshake with a caller failed");
            None
        }
    }
}

async fn accept(hello: IncomingHandshake<Stream>, config: Arc<ServerConfig>) -> io::Result<(Stream, Spoken)> {
    let tls = hello.accept(config).await?;
    let spoken = if tls.get_ref().1.alpn_protocol() == Some(b"h2") { Spoken::Http2 } else { Spoken::Http1 };
    Ok((Stream::tls(tls), spoken))
}

/// The first byte that is said, left where it is. `None`: nothing was said.
async fn first_byte(conn: &mut Conn) -> Option<u8> {
    if conn.input.is_empty() {
        poll_fn(|cx| conn.stream.poll_readable(cx)).await.ok()?;
        poll_fn(|cx| conn.poll_fill(cx)).await.ok()?;
    }
    conn.input.bytes().first().copied()
}
