//! A caller's connection: plain, or TLS, or TLS inside a CONNECT tunnel.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustix::fd::{AsFd, BorrowedFd};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

/// How long the far side has for what comes before the first request.
const PATIENCE: Duration = Duration::from_secs(10);

/// How a caller reaches the origin.
#[derive(Clone)]
pub(crate) struct Path {
    /// The gateway, or the origin itself.
    pub(crate) to: SocketAddr,
    /// `HOST:PORT` that a tunnel is asked for first.
    pub(crate) tunnel: Option<Arc<str>>,
    /// The name that a certificate must bear, and who may vouch for it.
    pub(crate) tls: Option<(ServerName<'static>, Arc<ClientConfig>)>,
}

impl Path {
    /// Everything that comes before the first request; the connection does not block from then on.
    pub(crate) fn open(&self) -> io::Result<Line> {
        let mut tcp = TcpStream::connect(self.to)?;
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(PATIENCE))?;
        if let Some(target) = &self.tunnel {
            ask_for_tunnel(&mut tcp, target)?;
        }
        let tls = match &self.tls {
            Some((name, config)) => {
                let mut session = ClientConnection::new(config.clone(), name.clone()).map_err(io::Error::other)?;
                while session.is_handshaking() {
                    session.complete_io(&mut tcp)?;
                }
                Some(Box::new(session))
            }
            None => None,
        };
        tcp.set_nonblocking(true)?;
        Ok(Line { tcp, tls })
    }
}

/// What `--trust` and `--tls` ask for.
pub(crate) fn trusting(file: &str, name: &str) -> Result<(ServerName<'static>, Arc<ClientConfig>), String> {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(file).map_err(|error| format!("{file}: {error}"))? {
        let root = root.map_err(|error| format!("{file}: {error}"))?;
        roots.add(root).map_err(|error| format!("{file}: {error}"))?;
    }
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).map_err(|error| format!("{name}: {error}"))?;
    Ok((name, Arc::new(config)))
}

/// Reads byte by byte: what follows the head belongs to the tunnel.
pub(crate) fn ask_for_tunnel(tcp: &mut TcpStream, target: &str) -> io::Result<()> {
    tcp.write_all(connect_head(target).as_bytes())?;
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        tcp.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    if head.get(9..12) == Some(b"200") {
        return Ok(());
    }
    Err(io::Error::other(format!("no tunnel: {}", String::from_utf8_lossy(&head).trim())))
}

/// The words that ask for a tunnel.
pub(crate) fn connect_head(target: &str) -> String {
    format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n")
}

/// An open connection that does not block.
pub(crate) struct Line {
    tcp: TcpStream,
    tls: Option<Box<ClientConnection>>,
}

impl Line {
    /// Sends some of `bytes`.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.tcp.write(bytes) };
        tls.writer().write_all(bytes)?;
        while tls.wants_write() {
            tls.write_tls(&mut self.tcp)?;
        }
        Ok(bytes.len())
    }

    /// Reads what one call brings; 0 at the end.
    pub(crate) fn receive(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.tcp.read(into) };
        if tls.read_tls(&mut self.tcp)? == 0 {
            return Ok(0);
        }
        tls.process_new_packets().map_err(io::Error::other)?;
        tls.reader().read(into)
    }
}

impl AsFd for Line {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tcp.as_fd()
    }
}
