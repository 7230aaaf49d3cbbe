//! First bytes of tunnels that are not intercepted: recognises plain HTTP, and ends tunnels with TLS for another host
//! than that of the `CONNECT`.
//!
//! Results: plain HTTP, whose requests are then read and counted one by one; bytes that pass, and all
//! after them, unread; or a [`TunnelDenial`]. The check happens once.
//!
//! A first line that does not end is held for as long as the relay says. A part of it that passes then, as
//! that of another protocol, is still read with the rest: if that makes it a request, the tunnel ends before
//! the origin has the whole line.
//!
//! TLS: a tunnel is admitted and counted by the host of its `CONNECT`, but TLS in it can ask for another host at the
//! same address (SNI). That passes only if a tunnel to that host would have been admitted, and needs no slots beyond
//! those that this one took. A tunnel that fails the check is ended rather than counted late: its connection, which the
//! origin counts, has been made. TLS without a server name passes, as it names no other host.
//!
//! Example: `CONNECT a.example:443` with a ClientHello for `b.example` is ended if a limit names
//! `b.example` and did not count the tunnel, and passes if no limit, list or interception knows
//! that name.

use std::io;
use std::net::IpAddr;
use std::task::{Context, Poll, ready};

use super::access::Admitted;
use super::claims::Claims;
use super::plan::Plan;
use super::session::{HostRule, InterceptedTunnel, TlsInside};
use super::snapshot::ConfigSnapshot;
use super::target::{Origin, Scheme, Target};
use super::tunnel_warnings::TunnelDenial;
use super::upstream::{Upstream, Way};
use crate::locker::Claim;
use crate::tls::client_hello::{HelloReader, HelloState};
use crate::wire::request_line::{FirstLine, PartialLine, first_line, is_long_request, names_method};
use crate::wire::{Conn, RequestHead};

/// Guard of a tunnel: reads the caller's first bytes, and holds them back until they are checked.
pub(super) struct HelloGuard {
    /// Expectation by the bytes so far.
    reader: Reader,
    /// True if server names are compared: the configuration names hosts.
    checks_names: bool,
    /// True while the caller may begin HTTP.
    ///
    /// False at ports where requests without a tunnel may not go, and once the server has spoken first.
    /// True still after a part of a line has passed.
    may_be_http: bool,
    /// Host and port of the CONNECT.
    origin: Origin,
    /// Caller of the tunnel.
    admitted: Admitted,
    /// Slots that the tunnel took.
    claims: Claims,
    /// Way of the tunnel to its origin.
    way: Way,
}

/// Reader of the protocol that the bytes so far allow.
enum Reader {
    /// TLS, or any other: reads the ClientHello.
    Hello(HelloReader),
    /// Not TLS: reads a request line.
    Line,
    /// A line of which a part has passed.
    Part(PartialLine),
}

/// Result of the check.
pub(super) enum FirstBytes {
    /// They pass, and all after them.
    Pass,
    /// All bytes so far pass; those after them are checked.
    PassPart,
    /// Plain HTTP.
    Http,
    /// They must not pass.
    Denied(TunnelDenial),
}

/// The caller and its request, as input of the rules.
#[derive(Clone, Copy)]
pub(super) struct GuardContext<'a> {
    /// Configuration in force when the tunnel was opened.
    pub(super) snapshot: &'a ConfigSnapshot,
    /// Head of the `CONNECT`.
    pub(super) head: &'a RequestHead,
    /// Address of the caller, for logs.
    pub(super) peer: IpAddr,
}

impl HelloGuard {
    /// Guard of the tunnel that is planned.
    pub(super) fn new(snapshot: &ConfigSnapshot, plan: &Plan) -> Box<HelloGuard> {
        let (origin, admitted, claims) = (&plan.target.origin, &plan.admitted, &plan.claims);
        let named = snapshot.named_hosts.look_up(&plan.target);
        Box::new(HelloGuard {
            reader: Reader::Hello(HelloReader::default()),
            checks_names: !snapshot.intercept.is_empty()
                || snapshot.access.has_list()
                || snapshot.named_hosts.has_hosts(),
            may_be_http: snapshot.access.allows_http_to(origin.port, named),
            origin: origin.clone(),
            admitted: admitted.clone(),
            claims: claims.clone(),
            way: plan.upstream.way,
        })
    }

    /// Host of the CONNECT.
    pub(super) fn host(&self) -> &str {
        &self.origin.host
    }

    /// True if the bytes so far may be TLS.
    pub(super) fn may_be_tls(&self) -> bool {
        matches!(self.reader, Reader::Hello(_))
    }

    /// True while the caller may begin HTTP.
    pub(super) fn may_be_http(&self) -> bool {
        self.may_be_http
    }

    /// Expects no HTTP any more: the server has spoken first.
    pub(super) fn expect_no_http(&mut self) {
        self.may_be_http = false;
    }

    /// True if the bytes so far begin with a method of HTTP.
    pub(super) fn is_request(&self, bytes: &[u8]) -> bool {
        matches!(self.reader, Reader::Line) && names_method(bytes)
    }

    /// Lets the start of a line pass, and all after it up to the line's end, as those of another protocol.
    pub(super) fn pass_in_parts(&mut self) {
        self.reader = Reader::Part(PartialLine::default());
    }

    /// True once a part of a line may pass.
    pub(super) fn passes_in_parts(&self) -> bool {
        matches!(self.reader, Reader::Part(_))
    }

    /// Warns of limits that see less of this tunnel than of requests.
    pub(super) fn warn(&self, snapshot: &ConfigSnapshot) {
        snapshot.warned_hosts.warn_of_tunnel(&self.origin, &snapshot.rules, &self.claims);
    }

    /// Tunnel with requests in plain HTTP, and the key of connections for them.
    pub(super) fn into_http(self) -> (InterceptedTunnel, Upstream) {
        let HelloGuard { origin, admitted, way, .. } = self;
        let origin = Origin { scheme: Scheme::Http, ..origin };
        // Requests may use the tunnel that is there, although others to this origin go in absolute form.
        let way = if let Way::Tunnel(rule) = way { Way::Forward(rule) } else { way };
        let upstream = Upstream { origin: origin.clone(), reach: admitted.reach, way };
        (InterceptedTunnel { origin, admitted, tls: TlsInside::Opaque, hosts: HostRule::Checked }, upstream)
    }

    /// Ready when the first bytes have been checked, or a part of them passes; until then they stay in `conn`.
    ///
    /// # Errors
    /// Errors of the caller's connection.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        conn: &mut Conn,
        context: GuardContext<'_>,
    ) -> Poll<io::Result<FirstBytes>> {
        loop {
            if let Some(checked) = self.check(conn.input.bytes(), context) {
                return Poll::Ready(Ok(checked));
            }
            match ready!(conn.poll_fill(cx)) {
                // The connection has ended within the hello or the line, so it never becomes complete.
                Ok(0) => return Poll::Ready(Ok(FirstBytes::Pass)),
                Ok(_) => {}
                // The buffer is full. A hello is longer than any server accepts; a request is refused for its length.
                Err(error) if error.kind() == io::ErrorKind::OutOfMemory => match self.reader {
                    Reader::Hello(_) => return Poll::Ready(Ok(FirstBytes::Denied(TunnelDenial::Unreadable))),
                    Reader::Line if is_long_request(conn.input.bytes()) => return Poll::Ready(Ok(FirstBytes::Http)),
                    Reader::Line | Reader::Part(_) => self.pass_in_parts(),
                },
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Checks all bytes so far; `None` if there are too few.
    fn check(&mut self, bytes: &[u8], context: GuardContext<'_>) -> Option<FirstBytes> {
        if let Reader::Hello(reader) = &mut self.reader {
            match reader.read(bytes) {
                HelloState::Incomplete => return None,
                HelloState::Hello(_) | HelloState::Unreadable if !self.checks_names => return Some(FirstBytes::Pass),
                HelloState::Hello(names) => {
                    let denial = names.into_iter().find_map(|name| self.check_name(name, context));
                    return Some(denial.map_or(FirstBytes::Pass, FirstBytes::Denied));
                }
                HelloState::Unreadable => return Some(FirstBytes::Denied(TunnelDenial::Unreadable)),
                HelloState::NotTls => self.reader = Reader::Line,
            }
        }
        if !self.may_be_http {
            return Some(FirstBytes::Pass);
        }
        let line = match &mut self.reader {
            Reader::Part(_) if bytes.is_empty() => return None,
            Reader::Part(line) => line.add(bytes),
            Reader::Hello(_) | Reader::Line => first_line(bytes),
        };
        match line {
            FirstLine::Incomplete => self.passes_in_parts().then_some(FirstBytes::PassPart),
            FirstLine::Http if self.passes_in_parts() => Some(FirstBytes::Denied(TunnelDenial::LateRequest)),
            FirstLine::Http => Some(FirstBytes::Http),
            // A further proxy, which opens the tunnel to the origin.
            FirstLine::Connect | FirstLine::Other => Some(FirstBytes::Pass),
        }
    }

    /// Checks a server name; `None` if the tunnel may ask for it.
    ///
    /// Interception, the list of hosts, opaque tunnels, and last the claims: the first rule that
    /// the name breaks is the reason.
    fn check_name(&self, name: String, context: GuardContext<'_>) -> Option<TunnelDenial> {
        if *name == *self.origin.host {
            return None;
        }
        let GuardContext { snapshot, head, peer } = context;
        let origin = Origin { host: name.as_str().into(), ..self.origin.clone() };
        let target = Target::tunnel_to(origin);
        let named = snapshot.named_hosts.look_up(&target);
        let why = if snapshot.intercepts(&target.origin) {
            "[tls] intercept intercepts its tunnels"
        } else if !snapshot.access.lists(named) {
            "no limit names it, and [access] unlisted_hosts is \"deny\""
        } else if snapshot.access.admit_opaque(named).is_err() {
            "a limit names it, and [access] opaque_tunnels is \"deny\""
        } else {
            let found = snapshot.rules.find(&target, head, &self.admitted, peer);
            let is_held = |claim: &Claim| {
                self.claims.claims.iter().any(|held| held.limit == claim.limit && held.key == claim.key)
            };
            let is_its = |claim: &Claim| snapshot.rules.rule(claim.limit).names(&name, target.origin.port);
            let may = found.is_ok_and(|found| found.claims.iter().all(|claim| is_held(claim) || !is_its(claim)));
            if may {
                return None;
            }
            "a limit that names it did not count this tunnel"
        };
        Some(TunnelDenial::Name { name, why })
    }
}
