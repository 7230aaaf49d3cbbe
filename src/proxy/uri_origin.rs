//! URI origin (RFC 9110 §4.3.1): scheme, host and port, which identify a server.
//!
//! Two URLs with the same origin share connections. Paths, queries and user names are no part of
//! it.

use std::sync::Arc;

use super::host::{Authority, HostError};

/// Protocol spoken to an origin.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Scheme {
    /// HTTP over plain TCP.
    /// `http://`, port 80. A CONNECT has this scheme too: the gateway dials plain TCP for it.
    Http,
    /// HTTP over TLS.
    /// `https://`, port 443.
    Https,
}

impl Scheme {
    /// Scheme as written in a URL.
    ///
    /// `http` or `https`, without colon and slashes.
    pub fn name(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }

    /// Port of a URL that names none.
    pub fn default_port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }
}

/// Version of HTTP in which an origin without TLS is spoken to. With TLS, both sides agree on one by
/// ALPN.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum PlainVersion {
    /// HTTP/1.1, but for calls of gRPC.
    /// `http://`.
    #[default]
    Http1,
    /// HTTP/2 with prior knowledge (RFC 9113 §3.3).
    /// `h2c://` in a route.
    H2c,
}

/// A server, as callers name it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Origin {
    /// Protocol.
    pub scheme: Scheme,
    /// Host in lower case, without a final dot; IPv6 short and without brackets.
    pub host: Arc<str>,
    /// Port, never 0.
    pub port: u16,
}

impl Origin {
    /// Parses an authority as people write it in a URL: `api.example`, `[::1]:8080`.
    ///
    /// # Errors
    /// A description of the mistake, for the user.
    pub fn at(scheme: Scheme, authority: &str) -> Result<Origin, &'static str> {
        let authority = Authority::read(authority).map_err(|fault| match fault {
            HostError::Malformed(why) | HostError::Disguised(why) => why,
        })?;
        Ok(Origin { scheme, host: authority.shared_host(), port: authority.port.unwrap_or(scheme.default_port()) })
    }

    /// Appends the authority as in a URL: brackets around IPv6, a port only if it is not the scheme's default.
    ///
    /// Examples: `api.example`, `api.example:8443`, `[2001:db8::1]:8080`.
    pub fn write_authority(&self, out: &mut Vec<u8>) {
        let is_v6 = self.host.contains(':');
        if is_v6 {
            out.push(b'[');
        }
        out.extend_from_slice(self.host.as_bytes());
        if is_v6 {
            out.push(b']');
        }
        if self.port != self.scheme.default_port() {
            write_port(self.port, out);
        }
    }
}

/// Appends a port with the colon before it.
pub(super) fn write_port(port: u16, out: &mut Vec<u8>) {
    out.push(b':');
    out.extend_from_slice(port.to_string().as_bytes());
}
