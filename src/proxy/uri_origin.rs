//! A URI origin (RFC 9110 §4.3.1): scheme, host and port, by which servers are told apart.

use std::sync::Arc;

use super::host::{Authority, Fault};

/// What is spoken to an origin.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Scheme {
    /// HTTP over plain TCP.
    Http,
    /// HTTP over TLS.
    Https,
}

impl Scheme {
    /// As it is written in a URL.
    pub fn name(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }

    /// The port that need not be written.
    pub fn default_port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }
}

/// A server, as callers name it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Origin {
    /// How it is spoken to.
    pub scheme: Scheme,
    /// Lower case, without a final dot; IPv6 short and without brackets.
    pub host: Arc<str>,
    /// Never 0.
    pub port: u16,
}

impl Origin {
    /// The origin at an authority as people write it in a URL: `api.example`, `[::1]:8080`.
    ///
    /// # Errors
    /// What is wrong with the authority, in words for the user.
    pub fn at(scheme: Scheme, authority: &str) -> Result<Origin, &'static str> {
        let authority = Authority::read(authority).map_err(|fault| match fault {
            Fault::Malformed(why) | Fault::Disguised(why) => why,
        })?;
        Ok(Origin { scheme, host: authority.shared_host(), port: authority.port.unwrap_or(scheme.default_port()) })
    }

    /// As in a URL: brackets around IPv6, a port only if it is not the scheme's own.
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

/// Appends a port as it stands behind a host.
pub(super) fn write_port(port: u16, out: &mut Vec<u8>) {
    out.push(b':');
    out.extend_from_slice(port.to_string().as_bytes());
}
