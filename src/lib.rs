//! lockgate: a forward and reverse HTTP proxy that keeps a whole fleet of callers under a hard limit, exactly.
//!
//! This page is the map of the house: rooms, floors, the way of a request, and what always holds.
//!
//! # Rooms and floors
//! Rooms are verbs; they stand on floors, and a room uses only rooms on lower floors, never a neighbour. The test
//! `tests/architecture.rs` holds this.
//!
//! | floor | rooms | what they do | what they may not know |
//! |---|---|---|---|
//! | 8 | `main` | arguments in, exit code out | |
//! | 7 | [`cli`] | STARTS: run, check, exec, env, top, ca, user | |
//! | 6 | [`app`] | builds every room from settings, and drains | |
//! | 5 | [`admin`], [`locks`], [`log`] | SHOWS what the gateway does · LOCKS what is no limit of requests · what is logged, and what never is | TOML |
//! | 4 | [`config`], [`http_admin`] | READS `proxy.toml`, and reports every mistake with its place · HTTP server of admin and locks: connection cap, password and cross-site checks | how anything runs (`config`) |
//! | 3 | [`proxy`] | CARRIES one request, one response | TOML |
//! | 2 | [`gate`], [`tls`], [`wire`], [`auth`] | WAITS: the locker, awake · PROVES who they are · SPEAKS HTTP · passwords of callers | limits (`tls`, `wire`, `auth`), HTTP (`gate`, `tls`) |
//! | 1 | [`locker`], [`net`] | DECIDES: may it go, and if not, when · CONNECTS: sockets | tokio, HTTP, clocks (`locker`); HTTP, limits (`net`) |
//! | 0 | [`time`] | a point on the gateway's own line | everything |
//!
//! # The way of a request
//! [`net::listen`] accepts it, the connection reads its head ([`wire::head`]), and the exchange carries it in a straight
//! line: [`proxy::target`] (where to), [`proxy::access`] (may this caller), [`proxy::claims`] (which windows), [`gate::Gate::ask`]
//! (a permit, at once or in line), the origin's connection (the only door out; it takes the permit by value), and back. Any
//! failure leaves as a [`proxy::refusal`].
//!
//! A `CONNECT` to a host whose tunnels are opened turns off after [`proxy::access`]: the caller sees a certificate of our
//! authority ([`tls::ca`]), and what it says then is served like any other connection. An HTTP/2 connection
//! ([`wire::http2`]) is many such connections: each of its streams carries one exchange, and who carries it need not know.
//!
//! # When it stops
//! What must outlive a crash the locker names before it is used, and [`gate::journal`] writes it down. A file that is read
//! again changes the limits under those who wait ([`gate::Gate::reload`]); another process takes over between one grant and
//! the next ([`gate::takeover`]), and the old one stays for who is connected until they part ([`net::drain`]).
//!
//! # What always holds
//! - In no span of time T, wherever it starts, are more than N requests counted, whatever callers, origins and the network do
//!   ([`locker`] says for which window kinds, and how it is proved).
//!   This holds over kill -9, restarts, reloads and hand-overs: never two processes grant from one window.
//! - No permit, no bytes: whatever leaves for an origin has been handed a [`gate::Permit`], and gives its slots back or settles
//!   them exactly once.
//! - A request takes all its windows at one moment, or changes none.
//! - Only `gate/clock.rs` reads a clock. Everything below is handed the time, so it can be tested in any.
//! - A connection to an origin on which a caller has logged in (NTLM, Negotiate) is never lent to another caller.
//! - A tunnel to a host that is not named is never opened: of its bytes only the server name in a ClientHello is read. One to
//!   a host that is named never passes anything unseen.
//! - Nothing is collected whole that a stranger can make large; every buffer, queue and table has a bound.

pub mod admin;
pub mod app;
pub mod auth;
pub mod cli;
pub mod config;
pub mod gate;
pub mod http_admin;
pub mod locker;
pub mod locks;
pub mod log;
pub mod net;
pub mod proxy;
pub mod time;
pub mod tls;
pub mod wire;
